"""Header fields: the list of them, and the values that have a structure of their own.

`Headers` keeps every field as text, in order, and reads typed values out of it on demand, once:

    headers.get("Subject")           the text of the first field of that name
    headers.get_all("Supported")     every item of every field of that name
    headers.read(FROM)               a NameAddr

Names compare without regard to case, and a compact form (RFC 3261 section 7.3.3) is the name that it stands for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from .errors import LocalProtocolError, RemoteProtocolError
from .uri import NO_PARAMETERS, Parameters, Uri, bracketed

__all__ = [
    "CSeq",
    "Field",
    "Headers",
    "NameAddr",
    "Parameterised",
    "Via",
    "is_token",
    "parse_parameters",
    "quoted",
    "spelling",
    "split_list",
    "unquoted",
]

T = TypeVar("T")

_TOKEN_CHARACTERS = r"A-Za-z0-9\-.!%*_+`'~"
_QUOTED = r'"[^"\\]*(?:\\.[^"\\]*)*"'
_TOKEN = re.compile(f"[{_TOKEN_CHARACTERS}]+")
# A value is a token, a host or a quoted string. Tags with "/", "=" or "@" in them are about, and must go back as they
# came, so any visible character that does not end a parameter is taken.
_BARE = r'[^\x00-\x20\x7f",;<>\\]+'
_BARE_VALUE = re.compile(_BARE)
_PARAMETER = re.compile(
    rf"[ \t]*;[ \t]*([{_TOKEN_CHARACTERS}]+)[ \t]*(?:=[ \t]*(?:({_BARE})|({_QUOTED}))[ \t]*)?", re.DOTALL
)
_LIST_PIECE = re.compile(rf'[^",<]+|{_QUOTED}|<[^>]*>|,', re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_TO_ESCAPE = re.compile(r'(["\\])')
_NAME_ADDR = re.compile(rf'[ \t]*+(?:({_QUOTED})[ \t]*+|([^"<>,;]*+))<([^<>]*+)>', re.DOTALL)
_ADDR_SPEC = re.compile(r'[ \t]*([^ \t"<>,;?]+)')
_VIA = re.compile(
    rf"[ \t]*SIP[ \t]*/[ \t]*2\.0[ \t]*/[ \t]*([{_TOKEN_CHARACTERS}]+)"
    r"[ \t]+(?:([A-Za-z0-9_.-]+)|\[([0-9A-Fa-f:.]+)\])(?:[ \t]*:[ \t]*([0-9]{1,5}))?",
    re.IGNORECASE,
)
_CSEQ = re.compile(rf"([0-9]{{1,20}})[ \t]+([{_TOKEN_CHARACTERS}]+)")

_COMPACT = {
    "a": "accept-contact",
    "b": "referred-by",
    "c": "content-type",
    "d": "request-disposition",
    "e": "content-encoding",
    "f": "from",
    "i": "call-id",
    "j": "reject-contact",
    "k": "supported",
    "l": "content-length",
    "m": "contact",
    "n": "identity-info",
    "o": "event",
    "r": "refer-to",
    "s": "subject",
    "t": "to",
    "u": "allow-events",
    "v": "via",
    "x": "session-expires",
    "y": "identity",
}
_CANONICAL = """
    Accept Accept-Contact Accept-Encoding Accept-Language Alert-Info Allow Allow-Events Authentication-Info
    Authorization Call-ID Call-Info Contact Content-Disposition Content-Encoding Content-ID Content-Language
    Content-Length Content-Transfer-Encoding Content-Type CSeq Date Diversion Error-Info Event Expires Flow-Timer
    From Geolocation History-Info Identity Identity-Info In-Reply-To Join Max-Forwards MIME-Version Min-Expires
    Min-SE Organization P-Access-Network-Info P-Asserted-Identity P-Called-Party-ID P-Charging-Vector P-Early-Media
    P-Preferred-Identity Path Priority Privacy Proxy-Authenticate Proxy-Authorization Proxy-Require RAck Reason
    Record-Route Recv-Info Refer-Sub Refer-To Referred-By Reject-Contact Remote-Party-ID Replaces Reply-To
    Request-Disposition Require Retry-After Route RSeq Security-Client Security-Server Security-Verify Server
    Service-Route Session-Expires SIP-ETag SIP-If-Match Subject Subscription-State Supported Target-Dialog Timestamp
    To Unsupported User-Agent Via Warning WWW-Authenticate X-Language X-Speak X-Speaker X-Speak-Mode
"""
# Fields whose grammar is a comma-separated list. Authentication fields have commas too, but are no lists.
_LISTS = """
    accept accept-contact accept-encoding accept-language alert-info allow allow-events call-info contact
    content-encoding content-language diversion error-info history-info p-asserted-identity p-preferred-identity
    path proxy-require reason reject-contact record-route recv-info require route security-client security-server
    security-verify service-route supported unsupported via warning
"""
_LIST_KEYS = frozenset(_LISTS.split())
# Fields that a message has at most once (RFC 3261 section 7.3.1).
_SINGLE = """
    call-id content-disposition content-length content-type cseq event expires from max-forwards min-expires min-se
    rack refer-sub refer-to referred-by replaces rseq session-expires subscription-state to
"""
_SINGLE_KEYS = frozenset(_SINGLE.split())

# Name as received -> (key that the field is found by, name as sent), for the usual spellings of known names.
_SPELLINGS = {name.lower(): (name.lower(), name) for name in _CANONICAL.split()}
_SPELLINGS |= {compact: _SPELLINGS[name] for compact, name in _COMPACT.items()}
_SPELLINGS |= {compact.upper(): _SPELLINGS[name] for compact, name in _COMPACT.items()}
_SPELLINGS |= {name: _SPELLINGS[name.lower()] for name in _CANONICAL.split()}


@dataclass(frozen=True, slots=True, eq=False)
class Field(Generic[T]):
    """A header field that has a typed value; `value` makes it, raising RemoteProtocolError if it is malformed."""

    name: str
    value: Callable[[Headers], T]


class Headers:
    """Header fields in their order: (name, text) pairs. Immutable: what looks like a change returns a new value."""

    __slots__ = ("_fields", "_index", "_typed")

    def __init__(self, fields: Iterable[tuple[str, str]] = ()) -> None:
        """Raises LocalProtocolError for a name that is not a token and for a value of more than one line."""
        self._fields = tuple((_checked_name(name), _checked_value(name, value)) for name, value in fields)
        self._index: dict[str, list[str]] | None = None
        self._typed: dict[str, Any] = {}

    @classmethod
    def received(cls, lines: Iterable[str]) -> tuple[Headers, list[str], str]:
        """The fields in `lines`, which are unfolded, less Content-Length; every Content-Length; and what is wrong.

        Reads all that can be read; the last item names the first fault, and is "" if there is none.
        """
        fields: list[tuple[str, str]] = []
        index: dict[str, list[str]] = {}
        fault = ""
        for line in lines:
            name, colon, value = line.partition(":")
            known = _SPELLINGS.get(name)
            if known is None:
                known = spelling(name.rstrip(" \t"))
                if not is_token(known[0]):
                    colon = ""
            if not colon:
                fault = fault or "Malformed header field"
                continue
            key, name = known
            value = value.strip(" \t")
            fields.append((name, value))
            if key not in index:
                index[key] = [value]
            else:
                index[key].append(value)
                if key in _SINGLE_KEYS:
                    fault = fault or f"More than one {name}"
        lengths = index.pop("content-length", [])
        if lengths:
            fields = [field for field in fields if field[0] != "Content-Length"]
        return cls._made(tuple(fields), {}, index), lengths, fault

    def names(self) -> Collection[str]:
        """Every name once, in lower case and full length."""
        return self._indexed().keys()

    @classmethod
    def _made(
        cls, fields: tuple[tuple[str, str], ...], typed: dict[str, Any], index: dict[str, list[str]] | None = None
    ) -> Headers:
        headers = cls.__new__(cls)
        headers._fields = fields
        headers._index = index
        headers._typed = typed
        return headers

    def _indexed(self) -> dict[str, list[str]]:
        if self._index is None:
            self._index = {}
            for name, value in self._fields:
                self._index.setdefault(spelling(name)[0], []).append(value)
        return self._index

    def _texts(self, key: str) -> Sequence[str]:
        return self._indexed().get(key, ())

    def get(self, name: str) -> str | None:
        """Text of the first field of that name, or None."""
        texts = self._texts(spelling(name)[0])
        return texts[0] if texts else None

    def get_all(self, name: str) -> tuple[str, ...]:
        """Every value of that name in order; fields defined as lists are split at their commas.

        Raises RemoteProtocolError if a quoted string or an angle bracket is left open in such a list.
        """
        key = spelling(name)[0]
        texts = self._texts(key)
        if key not in _LIST_KEYS:
            return tuple(texts)
        return tuple(item for text in texts for item in split_list(text))

    def read(self, field: Field[T]) -> T:
        """The typed value of `field`, parsed at most once. Raises RemoteProtocolError if it is malformed."""
        typed = self._typed
        if field.name not in typed:
            typed[field.name] = field.value(self)
        value: T = typed[field.name]
        return value

    def with_(self, name: str, value: str) -> Headers:
        """These, with one field `name` alone of its kind: in the place of the first one, else at the end."""
        key, spelt = spelling(_checked_name(name))
        new = (spelt, _checked_value(name, value))
        fields: list[tuple[str, str]] = []
        placed = False
        for field in self._fields:
            if spelling(field[0])[0] != key:
                fields.append(field)
            elif not placed:
                fields.append(new)
                placed = True
        if not placed:
            fields.append(new)
        return self._made(tuple(fields), self._typed_but(key))

    def with_first(self, field: Field[T], text: str, value: T) -> Headers:
        """These, with the text of the first `field` changed, which must be there; `value` is what it now reads as."""
        key, spelt = spelling(field.name)
        fields = list(self._fields)
        first = next(i for i, (name, _) in enumerate(fields) if spelling(name)[0] == key)
        fields[first] = (spelt, _checked_value(spelt, text))
        return self._made(tuple(fields), {**self._typed, field.name: value})

    def added(self, name: str, value: str) -> Headers:
        """These, and one more field at the end."""
        key, spelt = spelling(_checked_name(name))
        return self._made((*self._fields, (spelt, _checked_value(name, value))), self._typed_but(key))

    def prepended(self, name: str, value: str) -> Headers:
        """One more field in front of these."""
        key, spelt = spelling(_checked_name(name))
        return self._made(((spelt, _checked_value(name, value)), *self._fields), self._typed_but(key))

    def without(self, name: str) -> Headers:
        """These, less every field of that name."""
        key = spelling(name)[0]
        fields = tuple(field for field in self._fields if spelling(field[0])[0] != key)
        return self._made(fields, self._typed_but(key))

    def _typed_but(self, key: str) -> dict[str, Any]:
        return {name: value for name, value in self._typed.items() if name != key}

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and bool(self._texts(spelling(name)[0]))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Headers):
            return NotImplemented
        return self._fields == other._fields or self._comparable() == other._comparable()

    def __hash__(self) -> int:
        return hash(self._comparable())

    def _comparable(self) -> tuple[tuple[str, str], ...]:
        return tuple((name.lower(), value) for name, value in self._fields)

    def __repr__(self) -> str:
        return f"Headers({list(self._fields)!r})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Via:
    """One hop that a request has made (RFC 3261 section 20.42).

    transport   upper-case: "UDP", "TCP", "TLS" ...
    host        as given, an IPv6 address without its brackets
    port        None if it is not given
    """

    transport: str
    host: str
    port: int | None = None
    parameters: Parameters = NO_PARAMETERS

    @classmethod
    def parse(cls, text: str) -> Via:
        match = _VIA.match(text)
        if match is None:
            raise RemoteProtocolError("Bad Via")
        transport, name, ipv6, port_text = match.groups()
        port = int(port_text) if port_text else None
        if port is not None and port > 65535:
            raise RemoteProtocolError("Bad Via: port above 65535")
        return cls(
            transport=transport.upper(),
            host=name or ipv6,
            port=port,
            parameters=parse_parameters(text, match.end(), "Via"),
        )

    def __str__(self) -> str:
        port = "" if self.port is None else f":{self.port}"
        return f"SIP/2.0/{self.transport} {bracketed(self.host)}{port}{_serialised(self.parameters)}"

    @property
    def branch(self) -> str:
        """The transaction's id; "" in a request of an RFC 2543 client."""
        return self.parameters.value("branch")

    @property
    def received(self) -> str:
        """The address that the request came from where that is not `host`; "" if it is not recorded."""
        return self.parameters.value("received")

    @property
    def rport(self) -> int | None:
        """The port that the request came from (RFC 3581); None if it is not recorded or not asked for."""
        value = self.parameters.value("rport")
        return int(value) if value.isascii() and value.isdigit() and len(value) <= 5 else None

    def with_(self, name: str, value: str | None) -> Via:
        return self._with(self.parameters.with_(name, value))

    def _with(self, parameters: Parameters) -> Via:
        return Via(transport=self.transport, host=self.host, port=self.port, parameters=parameters)

    def received_from(self, host: str, port: int) -> Via:
        """This, as the server that got it from `host`:`port` notes it.

        RFC 3261 section 18.2.1: `received` where the sent-by is not the source. RFC 3581 section 4: with `rport`,
        the port always, and `received` always. A `received` of the sender's own making is not believed.
        """
        if "rport" in self.parameters:
            return self.with_("received", host).with_("rport", str(port))
        if self.host != host:
            return self.with_("received", host)
        if "received" in self.parameters:
            return self._with(self.parameters.without("received"))
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class NameAddr:
    """An address with its display name, as in From, To, Contact, Route, Refer-To (RFC 3261 section 20.10).

    parameters  those of the header field, not of the URI
    """

    uri: Uri
    display_name: str = ""
    parameters: Parameters = NO_PARAMETERS

    @classmethod
    def parse(cls, text: str, what: str = "address") -> NameAddr:
        """`what` names the header field in the error. Raises RemoteProtocolError (400)."""
        match = _NAME_ADDR.match(text)
        if match is not None:
            quoted_name, name, uri = match.groups()
            return cls(
                uri=Uri.parse(uri.strip(" \t")),
                display_name=unquoted(quoted_name) if quoted_name else name.strip(" \t"),
                parameters=parse_parameters(text, match.end(), what),
            )
        # RFC 3261 section 20: without angle brackets a parameter belongs to the field, and "?" may not occur.
        match = _ADDR_SPEC.match(text)
        if match is None:
            raise RemoteProtocolError(f"Bad {what}")
        return cls(uri=Uri.parse(match[1]), parameters=parse_parameters(text, match.end(), what))

    def __str__(self) -> str:
        name = quoted(self.display_name) + " " if self.display_name else ""
        return f"{name}<{self.uri}>{_serialised(self.parameters)}"

    @property
    def tag(self) -> str:
        """The tag parameter; "" if there is none."""
        return self.parameters.value("tag")

    def with_tag(self, tag: str) -> NameAddr:
        return NameAddr(uri=self.uri, display_name=self.display_name, parameters=self.parameters.with_("tag", tag))


@dataclass(frozen=True, slots=True)
class CSeq:
    """Sequence number, below 2**31, and method of a request (RFC 3261 section 8.1.1.5)."""

    number: int
    method: str

    @classmethod
    def parse(cls, text: str) -> CSeq:
        match = _CSEQ.fullmatch(text)
        if match is None:
            raise RemoteProtocolError("Bad CSeq")
        number = int(match[1])
        if number >= 1 << 31:
            raise RemoteProtocolError("Bad CSeq: number not below 2**31")
        return cls(number, match[2])

    def __str__(self) -> str:
        return f"{self.number} {self.method}"


@dataclass(frozen=True, slots=True)
class Parameterised:
    """A value with parameters: Content-Type, Content-Disposition, Event, Replaces, Session-Expires, Reason ..."""

    value: str
    parameters: Parameters = NO_PARAMETERS

    @classmethod
    def parse(cls, text: str, what: str = "header field") -> Parameterised:
        """`what` names the header field in the error. Raises RemoteProtocolError (400)."""
        value, semicolon, _ = text.partition(";")
        parameters = parse_parameters(text, len(value), what) if semicolon else NO_PARAMETERS
        value = value.strip(" \t")
        if not value:
            raise RemoteProtocolError(f"Bad {what}: no value")
        return cls(value, parameters)

    def __str__(self) -> str:
        return f"{self.value}{_serialised(self.parameters)}"


def spelling(name: str) -> tuple[str, str]:
    """The key that a field is found by and the name that it is sent under: "f" -> ("from", "From")."""
    return _SPELLINGS.get(name) or _SPELLINGS.get(name.lower()) or (name.lower(), name)


def is_token(text: str) -> bool:
    """Whether `text` is a token (RFC 3261 section 25.1), as methods, header names and option tags are."""
    return _TOKEN.fullmatch(text) is not None


def quoted(text: str) -> str:
    """`text` as a quoted string."""
    return '"' + _TO_ESCAPE.sub(r"\\\1", text) + '"'


def unquoted(text: str) -> str:
    """What a quoted string, given with its quotes, says."""
    inner = text[1:-1]
    return _ESCAPED.sub(r"\1", inner) if "\\" in inner else inner


def parse_parameters(text: str, start: int, what: str) -> Parameters:
    """The parameters that fill `text` from `start` to its end. Raises RemoteProtocolError (400)."""
    end = len(text)
    if start == end:
        return NO_PARAMETERS
    items: dict[str, str | None] = {}
    while start < end:
        match = _PARAMETER.match(text, start)
        if match is None:
            if not text[start:].strip(" \t"):
                break
            raise RemoteProtocolError(f"Bad {what}: malformed parameter")
        name, bare, quoted_value = match.groups()
        name = name.lower()
        if name in items:
            raise RemoteProtocolError(f"Bad {what}: parameter {name} given twice")
        items[name] = bare if quoted_value is None else unquoted(quoted_value)
        start = match.end()
    return Parameters.owning(items)


def split_list(text: str) -> tuple[str, ...]:
    """The items of a comma-separated list, stripped; commas within quotes and angle brackets do not count.

    An empty text is an empty list. Raises RemoteProtocolError if a quote or a bracket is left open.
    """
    if '"' not in text and "<" not in text:
        if "," not in text:
            text = text.strip(" \t")
            return (text,) if text else ()
        return tuple(item.strip(" \t") for item in text.split(","))
    if "," not in text and '"' not in text and text.count("<") == 1 and text.find("<") < text.find(">"):
        return (text.strip(" \t"),)
    items: list[str] = []
    start = position = 0
    while position < len(text):
        match = _LIST_PIECE.match(text, position)
        if match is None:
            raise RemoteProtocolError("Unbalanced quotes or angle brackets")
        position = match.end()
        if match[0] == ",":
            items.append(text[start : position - 1].strip(" \t"))
            start = position
    items.append(text[start:].strip(" \t"))
    return tuple(items)


def _serialised(parameters: Parameters) -> str:
    if not parameters:
        return ""
    return "".join(
        f";{name}" if value is None else f";{name}={value if _BARE_VALUE.fullmatch(value) else quoted(value)}"
        for name, value in parameters.items()
    )


def _checked_name(name: str) -> str:
    known = _SPELLINGS.get(name)
    if known is not None:
        return known[1]
    if not is_token(name):
        raise LocalProtocolError(f"not a header name: {name!r}")
    return spelling(name)[1]


def _checked_value(name: str, value: str) -> str:
    if "\r" in value or "\n" in value:
        raise LocalProtocolError(f"{name} has more than one line: {value!r}")
    return value.strip(" \t")
