"""Who is to blame, and what to answer.

SipError
├── LocalProtocolError          ours: the caller of this package misused it
├── RemoteProtocolError         theirs: `status`, `reason` and `headers` are what the answer to it carries
│   ├── digest.WrongProof           theirs: a wrong password, or an unknown user
│   └── parser.MalformedMessage     theirs: a message that cannot be read; `request` if it can still be answered
├── resolver.NotLocated         the network's: a name leads nowhere
└── tls.TlsError                the operator's: a certificate, a key or a CA cannot be used
"""

from __future__ import annotations

__all__ = ["LocalProtocolError", "RemoteProtocolError", "SipError"]


class SipError(Exception):
    """Base of everything that this package raises."""


class LocalProtocolError(SipError):
    """We asked for something that the protocol does not allow."""


class RemoteProtocolError(SipError):
    """The peer sent something that the protocol does not allow, or that we do not take.

    status   status code of the answer: 400, 413, 415, 416, 420, 488, 505, 513 ...
    reason   the answer's reason phrase. RFC 3261 section 21.4.1: it should say what is wrong.
    headers  header fields that the answer must carry besides (Unsupported, Accept, Warning ...)
    """

    def __init__(self, reason: str, *, status: int = 400, headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status
        self.headers = headers
