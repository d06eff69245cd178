"""Requests and responses as values (RFC 3261 sections 7 and 8).

Headers stay text until somebody asks; every accessor parses its field at most once. Of a message that the parser let
through no accessor below raises.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from .errors import LocalProtocolError, RemoteProtocolError
from .headers import CSeq, Field, Headers, NameAddr, Parameterised, Via, is_token, split_list
from .uri import Uri

__all__ = ["REASONS", "Message", "Request", "Response"]

REASONS = {
    100: "Trying",
    180: "Ringing",
    181: "Call Is Being Forwarded",
    182: "Queued",
    183: "Session Progress",
    199: "Early Dialog Terminated",
    200: "OK",
    202: "Accepted",
    204: "No Notification",
    300: "Multiple Choices",
    301: "Moved Permanently",
    302: "Moved Temporarily",
    305: "Use Proxy",
    380: "Alternative Service",
    400: "Bad Request",
    401: "Unauthorized",
    402: "Payment Required",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    406: "Not Acceptable",
    407: "Proxy Authentication Required",
    408: "Request Timeout",
    410: "Gone",
    412: "Conditional Request Failed",
    413: "Request Entity Too Large",
    414: "Request-URI Too Long",
    415: "Unsupported Media Type",
    416: "Unsupported URI Scheme",
    417: "Unknown Resource-Priority",
    420: "Bad Extension",
    421: "Extension Required",
    422: "Session Interval Too Small",
    423: "Interval Too Brief",
    428: "Use Identity Header",
    429: "Provide Referrer Identity",
    430: "Flow Failed",
    433: "Anonymity Disallowed",
    436: "Bad Identity Info",
    437: "Unsupported Credential",
    438: "Invalid Identity Header",
    439: "First Hop Lacks Outbound Support",
    469: "Bad Info Package",
    470: "Consent Needed",
    480: "Temporarily Unavailable",
    481: "Call/Transaction Does Not Exist",
    482: "Loop Detected",
    483: "Too Many Hops",
    484: "Address Incomplete",
    485: "Ambiguous",
    486: "Busy Here",
    487: "Request Terminated",
    488: "Not Acceptable Here",
    489: "Bad Event",
    491: "Request Pending",
    493: "Undecipherable",
    494: "Security Agreement Required",
    500: "Server Internal Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Server Time-out",
    505: "Version Not Supported",
    513: "Message Too Large",
    555: "Push Notification Service Not Supported",
    580: "Precondition Failure",
    600: "Busy Everywhere",
    603: "Decline",
    604: "Does Not Exist Anywhere",
    606: "Not Acceptable",
    607: "Unwanted",
    608: "Rejected",
}

_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_HAS_TAG = re.compile(r";[ \t]*tag[ \t]*(?:=|;|$)", re.IGNORECASE)
_SECONDS_LIMIT = (1 << 32) - 1


def _only_text(headers: Headers, name: str) -> str:
    text = headers.get(name)
    if not text:
        raise RemoteProtocolError(f"Missing {name}")
    return text


def _party(name: str) -> Callable[[Headers], NameAddr]:
    def value(headers: Headers) -> NameAddr:
        party = NameAddr.parse(_only_text(headers, name), name)
        if "tag" in party.parameters and not party.tag:
            # RFC 3261 section 25.1. It would have to be taken for none, and a second one be added.
            raise RemoteProtocolError(f"Bad {name}: a tag without a value")
        return party

    return value


def _addresses(name: str) -> Callable[[Headers], tuple[NameAddr, ...]]:
    return lambda headers: tuple(NameAddr.parse(item, name) for item in headers.get_all(name))


def _tokens(name: str) -> Callable[[Headers], tuple[str, ...]]:
    return lambda headers: tuple(item.lower() for item in headers.get_all(name) if item)


def _number(name: str, limit: int) -> Callable[[Headers], int | None]:
    def value(headers: Headers) -> int | None:
        text = headers.get(name)
        if text is None:
            return None
        if not (text.isascii() and text.isdigit()):
            raise RemoteProtocolError(f"Bad {name}")
        return int(text) if len(text) < 11 else limit + 1

    return value


def _vias(headers: Headers) -> tuple[Via, ...]:
    vias = tuple(Via.parse(item) for item in headers.get_all("Via"))
    if not vias:
        raise RemoteProtocolError("Missing Via")
    return vias


def _contacts(headers: Headers) -> tuple[NameAddr, ...]:
    items = headers.get_all("Contact")
    return () if items == ("*",) else tuple(NameAddr.parse(item, "Contact") for item in items)


def _max_forwards(headers: Headers) -> int | None:
    hops = _number("Max-Forwards", 255)(headers)
    if hops is not None and hops > 255:
        raise RemoteProtocolError("Bad Max-Forwards: above 255")
    return hops


def _expires(headers: Headers) -> int | None:
    seconds = _number("Expires", _SECONDS_LIMIT)(headers)
    return None if seconds is None else min(seconds, _SECONDS_LIMIT)


def _parameterised(name: str) -> Callable[[Headers], Parameterised | None]:
    def value(headers: Headers) -> Parameterised | None:
        text = headers.get(name)
        return None if text is None else Parameterised.parse(text, name)

    return value


# The name of a Field is its key in Headers, so that changing the field forgets the value.
VIA = Field("via", _vias)
FROM = Field("from", _party("From"))
TO = Field("to", _party("To"))
CALL_ID = Field("call-id", lambda headers: _only_text(headers, "Call-ID"))
CSEQ = Field("cseq", lambda headers: CSeq.parse(_only_text(headers, "CSeq")))
CONTACT = Field("contact", _contacts)
ROUTE = Field("route", _addresses("Route"))
RECORD_ROUTE = Field("record-route", _addresses("Record-Route"))
MAX_FORWARDS = Field("max-forwards", _max_forwards)
EXPIRES = Field("expires", _expires)
REQUIRE = Field("require", _tokens("Require"))
SUPPORTED = Field("supported", _tokens("Supported"))
CONTENT_TYPE = Field("content-type", _parameterised("Content-Type"))
CONTENT_DISPOSITION = Field("content-disposition", _parameterised("Content-Disposition"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What requests and responses share.

    headers  without Content-Length, which says how long the body is and nothing else
    """

    headers: Headers
    body: bytes = b""

    @property
    def vias(self) -> tuple[Via, ...]:
        """Topmost (the latest hop) first; never empty."""
        return self.headers.read(VIA)

    @property
    def via(self) -> Via:
        """The topmost Via."""
        return self.headers.read(VIA)[0]

    @property
    def from_(self) -> NameAddr:
        return self.headers.read(FROM)

    @property
    def to(self) -> NameAddr:
        return self.headers.read(TO)

    @property
    def call_id(self) -> str:
        return self.headers.read(CALL_ID)

    @property
    def cseq(self) -> CSeq:
        return self.headers.read(CSEQ)

    @property
    def contacts(self) -> tuple[NameAddr, ...]:
        """Every Contact; none for the "*" of a REGISTER, which names no address."""
        return self.headers.read(CONTACT)

    @property
    def contact(self) -> NameAddr | None:
        """The first Contact."""
        contacts = self.headers.read(CONTACT)
        return contacts[0] if contacts else None

    @property
    def route(self) -> tuple[NameAddr, ...]:
        return self.headers.read(ROUTE)

    @property
    def record_route(self) -> tuple[NameAddr, ...]:
        return self.headers.read(RECORD_ROUTE)

    @property
    def max_forwards(self) -> int | None:
        """Hops left, 0 to 255; None if it is missing, as from RFC 2543 clients."""
        return self.headers.read(MAX_FORWARDS)

    @property
    def expires(self) -> int | None:
        """Seconds, at most 2**32 - 1; None if it is missing."""
        return self.headers.read(EXPIRES)

    @property
    def require(self) -> tuple[str, ...]:
        """Option tags in lower case."""
        return self.headers.read(REQUIRE)

    @property
    def supported(self) -> tuple[str, ...]:
        """Option tags in lower case."""
        return self.headers.read(SUPPORTED)

    @property
    def media_type(self) -> Parameterised | None:
        """Content-Type with its parameters."""
        return self.headers.read(CONTENT_TYPE)

    @property
    def content_type(self) -> str:
        """Content-Type in lower case without parameters, such as "application/sdp"; "" if there is none."""
        media_type = self.headers.read(CONTENT_TYPE)
        return "" if media_type is None else "".join(media_type.value.lower().split())

    def _serialised(self, start_line: str) -> bytes:
        lines = [start_line]
        lines += [f"{name}: {value}" for name, value in self.headers if name != "Content-Length"]
        lines.append(f"Content-Length: {len(self.body)}\r\n\r\n")
        return "\r\n".join(lines).encode() + self.body


@dataclass(frozen=True, slots=True, kw_only=True)
class Request(Message):
    """A request; the method compares with regard to case (RFC 3261 section 7.1)."""

    method: str
    uri: Uri

    def serialise(self) -> bytes:
        """The bytes on the wire. Raises LocalProtocolError if the method or the URI cannot be sent."""
        if not is_token(self.method):
            raise LocalProtocolError(f"not a method: {self.method!r}")
        return self._serialised(f"{self.method} {self.uri} SIP/2.0")

    def response(
        self,
        status: int,
        reason: str | None = None,
        *,
        to_tag: str | None = None,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes = b"",
        content_type: str | None = None,
    ) -> Response:
        """The response to this (RFC 3261 section 8.2.6), even to a request whose From or To is malformed.

        reason   the phrase of REASONS if it is None
        to_tag   put on the To if that has no tag yet
        headers  further fields, after the copied ones
        """
        to = self.headers.get("To") or ""
        if to_tag is not None and not _HAS_TAG.search(to.rpartition(">")[2]):
            to = f"{to};tag={to_tag}"
        fields = [field for field in self.headers if field[0] == "Via"]
        if 100 < status < 300:
            # Section 12.1.1: in the order of the request, whether or not we know them.
            fields += [field for field in self.headers if field[0] == "Record-Route"]
        fields += [
            ("From", self.headers.get("From") or ""),
            ("To", to),
            ("Call-ID", self.headers.get("Call-ID") or ""),
            ("CSeq", self.headers.get("CSeq") or ""),
        ]
        if status == 100 and (timestamp := self.headers.get("Timestamp")) is not None:
            fields.append(("Timestamp", timestamp))
        fields += headers
        if content_type is not None:
            fields.append(("Content-Type", content_type))
        if reason is None:
            reason = REASONS.get(status, "Unknown")
        return Response(status=status, reason=reason, headers=Headers(fields), body=body)

    def received_from(self, host: str, port: int) -> Request:
        """This, with the source noted in the topmost Via (RFC 3261 section 18.2.1, RFC 3581 section 4)."""
        first, *rest = self.vias
        via = first.received_from(host, port)
        if via is first:
            return self
        text = ", ".join((str(via), *split_list(self.headers.get("Via") or "")[1:]))
        headers = self.headers.with_first(VIA, text, (via, *rest))
        return Request(method=self.method, uri=self.uri, headers=headers, body=self.body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Response(Message):
    """A response; `status` is 100 to 699."""

    status: int
    reason: str

    def serialise(self) -> bytes:
        """The bytes on the wire. Raises LocalProtocolError if the status or the reason cannot be sent."""
        if not 100 <= self.status <= 699 or _CONTROL.search(self.reason):
            raise LocalProtocolError(f"not a status line: {self.status} {self.reason!r}")
        return self._serialised(f"SIP/2.0 {self.status} {self.reason}")
