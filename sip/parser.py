"""Bytes into messages: whole datagrams, and streams cut at any byte.

Everything is checked here that an accessor of the message could stumble over, so that no malformed message gets
further. What a message asks for (method, extensions, body type) is the agent's to judge.
"""

from __future__ import annotations

import enum
import re
import sys
from dataclasses import dataclass
from typing import Any

from .errors import RemoteProtocolError
from .headers import Field, Headers, is_token
from .message import (
    CALL_ID,
    CONTACT,
    CONTENT_DISPOSITION,
    CONTENT_TYPE,
    CSEQ,
    EXPIRES,
    FROM,
    MAX_FORWARDS,
    RECORD_ROUTE,
    REQUIRE,
    ROUTE,
    SUPPORTED,
    TO,
    VIA,
    Request,
    Response,
)
from .uri import Uri

__all__ = [
    "DEFAULT_LIMITS",
    "UNREADABLE",
    "KeepAlive",
    "Limits",
    "MalformedMessage",
    "StreamParser",
    "parse_datagram",
    "reread",
]

_STATUS_LINE = re.compile(r"SIP/([0-9]+\.[0-9]+) ([1-6][0-9]{2})(?: ([^\x00-\x08\x0a-\x1f\x7f]*))?", re.IGNORECASE)
_VERSION = re.compile(r"SIP/[0-9]+\.[0-9]+", re.IGNORECASE)
_STRAY = re.compile(r"\r(?!\n)|(?<!\r)\n")
_FOLD = re.compile(r"\r\n[ \t]+")
_MANDATORY: tuple[Field[Any], ...] = (VIA, FROM, TO, CALL_ID, CSEQ)
_OPTIONAL: dict[str, Field[Any]] = {
    field.name: field
    for field in (
        CONTACT,
        CONTENT_DISPOSITION,
        CONTENT_TYPE,
        EXPIRES,
        MAX_FORWARDS,
        RECORD_ROUTE,
        REQUIRE,
        ROUTE,
        SUPPORTED,
    )
}
_SCHEMES = frozenset(("sip", "sips", "tel"))
# Stands for a Request-URI that cannot be read; nothing that can be parsed equals it.
UNREADABLE = Uri(scheme="")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a message may be at most; beyond it is answered 513."""

    message_bytes: int = 65536
    header_fields: int = 256
    line_bytes: int = 16384


DEFAULT_LIMITS = Limits()
_NO_LIMITS = Limits(message_bytes=sys.maxsize, header_fields=sys.maxsize, line_bytes=sys.maxsize)


class MalformedMessage(RemoteProtocolError):
    """A message that cannot be read.

    request  as much of a request as an answer to it is built from: Via, From, To, Call-ID, CSeq, method, and the URI or
             UNREADABLE in its stead; None if it has to be dropped: garbage, responses, requests without those fields
    """

    def __init__(self, reason: str, *, status: int = 400, request: Request | None = None) -> None:
        super().__init__(reason, status=status)
        self.request = request


class KeepAlive(enum.Enum):
    """What passes between messages on a stream (RFC 5626 section 3.5.1), as bytes on the wire.

    An empty line is a PONG, and a second one right behind it makes the two a PING as well.
    """

    PING = b"\r\n\r\n"
    PONG = b"\r\n"


def parse_datagram(data: bytes, limits: Limits = DEFAULT_LIMITS) -> Request | Response:
    """The message in one datagram.

    RFC 3261 section 18.3: the body ends where Content-Length says, else with the datagram; bytes after it are ignored,
    and a datagram that is too short is an error. Section 7.5: empty lines in front are ignored.

    Raises MalformedMessage.
    """
    head, blank, body = data.lstrip(b"\r\n").partition(b"\r\n\r\n")
    opening = _Opening(head, limits)
    if len(data) > limits.message_bytes:
        raise opening.malformed("Message Too Large", status=513)
    if not blank:
        raise opening.malformed("No empty line after the header")
    length = opening.content_length()
    if length is None:
        length = len(body)
    elif length > len(body):
        raise opening.malformed("Body shorter than Content-Length")
    return opening.message(body[:length])


def reread(data: bytes) -> Request | Response:
    """A message of ours without its body, from its bytes: of any size, and its fields are not looked at.

    For what a response copies may be malformed (RFC 3261 section 8.2.6.2), and what we add may go beyond the limits.
    What is malformed raises RemoteProtocolError when it is asked for.
    """
    return _Opening(data.partition(b"\r\n\r\n")[0], _NO_LIMITS).unchecked()


class StreamParser:
    """The messages of one connection, whatever pieces it comes in (RFC 3261 section 18.3).

    After MalformedMessage, `broken` says whether the boundary of the next message is lost too; such a connection can
    only be closed.
    """

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self._limits = limits
        self._buffer = bytearray()
        self._searched = 0
        self._opening: _Opening | None = None
        self._length = 0
        self._after_pong = False
        self.broken = False

    @property
    def partial(self) -> bool:
        """Whether a message has begun, and is not there as a whole."""
        return bool(self._buffer) or self._opening is not None

    def feed(self, data: bytes) -> None:
        """Take what was received; ask `next_message()` until it gives None."""
        if not self.broken:
            self._buffer += data

    def next_message(self) -> Request | Response | KeepAlive | None:
        """The next message, or keep-alive between messages, or None until more has been fed.

        Raises MalformedMessage, and goes on with the message after it unless `broken`.
        """
        if self.broken:
            return None
        if self._opening is None:
            if (keep_alive := self._take_keep_alive()) is not None:
                return keep_alive
            if self._buffer.startswith(b"\r") and len(self._buffer) < 2:
                return None
            self._opening = self._take_opening()
            if self._opening is None:
                return None
            self._after_pong = False
        if len(self._buffer) < self._length:
            return None
        opening, self._opening = self._opening, None
        return opening.message(self._take(self._length))

    def _take_keep_alive(self) -> KeepAlive | None:
        if not self._buffer.startswith(b"\r\n"):
            return None
        self._take(2)
        self._after_pong = not self._after_pong
        return KeepAlive.PONG if self._after_pong else KeepAlive.PING

    def _take_opening(self) -> _Opening | None:
        limit = self._limits.message_bytes
        end = self._buffer.find(b"\r\n\r\n", max(0, self._searched - 3), limit)
        if end < 0:
            self._searched = len(self._buffer)
            if self._searched >= limit:
                raise self._lost(_Opening(bytes(self._buffer[:limit]), self._limits), "Message Too Large", 513)
            return None
        self._searched = 0
        opening = _Opening(self._take(end + 4)[:end], self._limits)
        try:
            length = opening.content_length()
        except MalformedMessage as error:
            raise self._lost(opening, error.reason, error.status) from error
        # RFC 3261 section 20.14: over a stream, Content-Length must be there.
        if length is None:
            raise self._lost(opening, "Missing Content-Length", 400)
        if end + 4 + length > limit:
            raise self._lost(opening, "Message Too Large", 513)
        self._length = length
        return opening

    def _lost(self, opening: _Opening, reason: str, status: int) -> MalformedMessage:
        self.broken = True
        self._buffer.clear()
        return opening.malformed(reason, status=status)

    def _take(self, count: int) -> bytes:
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken


class _Opening:
    """Start line and header, read as far as they can be; what is wrong with them is remembered, not raised."""

    def __init__(self, head: bytes, limits: Limits) -> None:
        self._fault: tuple[str, int] | None = None
        try:
            text = head.decode()
        except UnicodeDecodeError:
            # Not legal, but widespread in display names.
            text = head.decode("latin-1")
        if not text.count("\r") == text.count("\n") == text.count("\r\n"):
            self._note("Line end other than CRLF")
            text = _STRAY.sub(" ", text)
        if "\r\n " in text or "\r\n\t" in text:
            text = _FOLD.sub(" ", text)
        self._start, *lines = text.split("\r\n")
        if len(lines) > limits.header_fields:
            self._note("Too many header fields", 513)
            del lines[limits.header_fields :]
        if len(text) > limits.line_bytes and max(map(len, (self._start, *lines))) > limits.line_bytes:
            self._note("Header field too long", 513)
        self._headers, self._lengths, fault = Headers.received(lines)
        if fault:
            self._note(fault)

    def _note(self, reason: str, status: int = 400) -> None:
        if self._fault is None:
            self._fault = (reason, status)

    def malformed(self, reason: str, *, status: int = 400) -> MalformedMessage:
        """The error, with the request if that can be answered."""
        return MalformedMessage(reason, status=status, request=self._answerable())

    def content_length(self) -> int | None:
        """Bytes of the body, None if it is not said. Raises MalformedMessage."""
        if not self._lengths:
            return None
        text = self._lengths[0]
        if len(self._lengths) > 1:
            raise self.malformed("More than one Content-Length")
        if not (text.isascii() and text.isdigit()):
            raise self.malformed("Bad Content-Length")
        return int(text) if len(text) < 20 else 1 << 64

    def message(self, body: bytes) -> Request | Response:
        """The message with this body. Raises MalformedMessage."""
        if self._fault is not None:
            raise self.malformed(self._fault[0], status=self._fault[1])
        try:
            return self._checked(self.unchecked(body))
        except RemoteProtocolError as error:
            raise self.malformed(error.reason, status=error.status) from error

    def unchecked(self, body: bytes = b"") -> Request | Response:
        """The message, whatever is in its header. Raises RemoteProtocolError without a start line."""
        return self._response(body) if self._start[:4].upper() == "SIP/" else self._request(body)

    def _response(self, body: bytes) -> Response:
        match = _STATUS_LINE.fullmatch(self._start)
        if match is None:
            raise RemoteProtocolError("Malformed status line")
        version, status, reason = match.groups()
        if version != "2.0":
            raise RemoteProtocolError("Version Not Supported", status=505)
        return Response(status=int(status), reason=reason or "", headers=self._headers, body=body)

    def _request(self, body: bytes) -> Request:
        method, uri_text, version = self._start_parts()
        if version.upper() != "SIP/2.0":
            raise RemoteProtocolError("Version Not Supported", status=505)
        uri = Uri.parse(uri_text)
        if uri.scheme not in _SCHEMES:
            raise RemoteProtocolError("Unsupported URI Scheme", status=416)
        if uri.headers:
            # RFC 3261 section 19.1.1, table 1.
            raise RemoteProtocolError("Headers in the Request-URI")
        return Request(method=method, uri=uri, headers=self._headers, body=body)

    def _start_parts(self) -> tuple[str, str, str]:
        parts = self._start.split(" ")
        if len(parts) != 3 or not is_token(parts[0]) or not _VERSION.fullmatch(parts[2]):
            raise RemoteProtocolError("Malformed request line")
        return parts[0], parts[1], parts[2]

    def _checked(self, message: Request | Response) -> Request | Response:
        headers = message.headers
        for field in _MANDATORY:
            headers.read(field)
        for key in headers.names():
            if key in _OPTIONAL:
                headers.read(_OPTIONAL[key])
        if isinstance(message, Request) and message.cseq.method != message.method:
            raise RemoteProtocolError("CSeq method is not the method of the request")
        return message

    def _answerable(self) -> Request | None:
        headers = self._headers
        parts = self._start.split()
        if len(parts) < 3 or not is_token(parts[0]) or not _VERSION.fullmatch(parts[-1]):
            return None
        if not all(headers.get(field.name) for field in (FROM, TO, CALL_ID, CSEQ)):
            return None
        try:
            headers.read(VIA)
        except RemoteProtocolError:
            return None
        try:
            uri = Uri.parse(parts[1])
        except RemoteProtocolError:
            uri = UNREADABLE
        return Request(method=parts[0], uri=uri, headers=headers)
