"""TLS for signalling (RFC 3261 section 26.3.1, RFC 5922): which files it takes, and what they are made into."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from .errors import SipError

__all__ = ["Contexts", "Tls", "TlsError"]


class TlsError(SipError):
    """A certificate, a key or a CA cannot be used; the message names the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contexts:
    """`server` for connections that are made to us, None without a certificate; `client` for those that we make."""

    server: ssl.SSLContext | None
    client: ssl.SSLContext


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """What TLS takes. Of the versions, 1.2 is the oldest. What we connect to always has to prove its name.

    certificate    PEM file: our certificate, and those between it and the root; for servers and clients alike
    key            PEM file with its private key, without a password; None if it is in the same file
    ca             PEM file of the authorities that peers' certificates have to come from; None for the system's
    verify_client  whether whoever connects to us has to have such a certificate
    alpn           protocol names, such as "sip/2"; most peers know none, and some refuse those that they do not know
    """

    certificate: Path | None = None
    key: Path | None = None
    ca: Path | None = None
    verify_client: bool = False
    alpn: tuple[str, ...] = ()

    def load(self) -> Contexts:
        """Read the files. Raises TlsError."""
        server = None
        if self.certificate is not None:
            server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            # A renegotiation costs the peer little, and us much.
            server.options |= ssl.OP_NO_RENEGOTIATION
            if self.verify_client:
                server.verify_mode = ssl.CERT_REQUIRED
                self._trust(server)
            self._finish(server)
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._trust(client)
        self._finish(client)
        return Contexts(server=server, client=client)

    def _trust(self, context: ssl.SSLContext) -> None:
        if self.ca is None:
            context.load_default_certs(
                ssl.Purpose.CLIENT_AUTH if context.protocol is ssl.PROTOCOL_TLS_SERVER else ssl.Purpose.SERVER_AUTH
            )
            return
        try:
            context.load_verify_locations(self.ca)
        except OSError as error:
            raise _unusable("CA", self.ca, error) from error

    def _finish(self, context: ssl.SSLContext) -> None:
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.alpn:
            context.set_alpn_protocols(list(self.alpn))
        if self.certificate is None:
            return
        try:
            # With a password that is wrong OpenSSL refuses; without any it would ask for one at the terminal.
            context.load_cert_chain(self.certificate, self.key, password="")
        except OSError as error:
            missing = isinstance(error, FileNotFoundError | PermissionError)
            path = self.key if missing and self.key is not None and _readable(self.certificate) else self.certificate
            raise _unusable("certificate or key", path, error) from error


def _readable(path: Path) -> bool:
    try:
        path.read_bytes()
    except OSError:
        return False
    return True


def _unusable(what: str, path: Path, error: OSError) -> TlsError:
    why = error.strerror or str(error)
    if isinstance(error, ssl.SSLError):
        known = {"KEY_VALUES_MISMATCH": "the key is not that of the certificate"}
        # Whatever else OpenSSL says of a file comes down to that.
        why = known.get(error.reason or "", f"not a PEM file without a password that holds it ({error})")
    return TlsError(f"{what} {path}: {why}")
