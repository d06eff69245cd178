"""How a webhook knows that a message is ours: Standard Webhooks 1.0.0, HMAC-SHA256 over id, time and body."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Sequence

__all__ = ["headers_of", "key_of"]

PREFIX = "whsec_"
KEY_BYTES = range(24, 65)


def key_of(secret: str) -> bytes:
    """The key in a secret "whsec_...". Raises ValueError, whose message does not give it away."""
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except binascii.Error:
        key = b""
    if not secret.startswith(PREFIX) or len(key) not in KEY_BYTES:
        raise ValueError(
            f'write it as "{PREFIX}" and 24 to 64 octets in base64: echo "{PREFIX}$(openssl rand -base64 32)" makes one'
        )
    return key


def headers_of(id: str, body: bytes, *, keys: Sequence[bytes], time_s: int) -> dict[str, str]:
    """The headers of one attempt to deliver a message; `time_s` is the Unix time of it.

    keys  a signature for each, so that an old one and a new one are good together; none: it is not signed
    """
    headers = {"webhook-id": id, "webhook-timestamp": str(time_s)}
    if keys:
        signed = b"%s.%d.%s" % (id.encode(), time_s, body)
        headers["webhook-signature"] = " ".join(
            f"v1,{base64.b64encode(hmac.digest(key, signed, 'sha256')).decode()}" for key in keys
        )
    return headers
