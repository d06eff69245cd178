"""What a MESSAGE or an INFO within a call asks of it: more to say, or a digit."""

from __future__ import annotations

import sip
from mediaserver.script import TEXT_TYPES, More, Script, more
from sip.info import DTMF_TYPES, Tone, read_tone

__all__ = ["SERVED", "asked"]

# What is served within a call, and the bodies that it may have.
SERVED: dict[str, tuple[str, ...]] = {"MESSAGE": tuple(TEXT_TYPES), "INFO": (*TEXT_TYPES, *DTMF_TYPES)}


def asked(message: sip.Request, script: Script) -> More | Tone | None:
    """What it asks, in the voice of the script unless it says otherwise; None: nothing, an INFO may be empty.

    Raises sip.RemoteProtocolError.
    """
    if message.headers.get("Info-Package"):
        # RFC 6086 section 4.2.2; the INFO of old has none.
        raise sip.RemoteProtocolError("No Info Package is taken", status=469, headers=(("Recv-Info", ""),))
    if message.content_type in DTMF_TYPES:
        return read_tone(message.content_type, message.body)
    if message.body or message.content_type or message.method == "MESSAGE":
        return more(message, script)
    return None
