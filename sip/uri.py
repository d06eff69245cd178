"""SIP, SIPS and tel URIs (RFC 3261 section 19.1, RFC 3966), and the parameters that URIs and header fields share."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import ItemsView, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import quote, unquote_to_bytes

from .errors import LocalProtocolError, RemoteProtocolError

__all__ = ["Parameters", "Uri", "bracketed"]

# RFC 3261 section 25.1. The unreserved characters that urllib does not already know, then those of each component.
_MARK = "-_.!~*'()"
_USER_SAFE = _MARK + "&=+$,;?/"
_TEL_SAFE = _MARK + "+#"
_PASSWORD_SAFE = _MARK + "&=+$,"
_PARAMETER_SAFE = _MARK + "[]/:&+$"
_HEADER_SAFE = _MARK + "[]/?:+$"

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_HOST_PORT = re.compile(r"(?:([A-Za-z0-9_.-]+)|\[([0-9A-Fa-f:.]+)\])(?::([0-9]{1,5}))?")
_HOST = re.compile(r"[A-Za-z0-9_.-]+")
# Characters that no part of a URI may have: what is left is either legal or so common unescaped (such as "#" in a
# user) that refusing it would only lose calls.
_FORBIDDEN = re.compile(r'[\x00-\x20\x7f<>"]|%(?![0-9A-Fa-f]{2})')
# RFC 3261 section 19.1.4: parameters that, given in one URI only, make the two differ.
_DECISIVE = ("user", "ttl", "method", "maddr", "transport")


class Parameters(Mapping[str, str | None]):
    """Parameters in their order: lower-case name -> value, or None for a name alone. Immutable, and hashable."""

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[str, str | None] | Iterable[tuple[str, str | None]] = ()) -> None:
        pairs = items.items() if isinstance(items, Mapping) else items
        self._items: dict[str, str | None] = {name.lower(): value for name, value in pairs}

    @classmethod
    def owning(cls, items: dict[str, str | None]) -> Parameters:
        """Those in `items`, whose names are in lower case and which nobody else changes any more."""
        parameters = cls.__new__(cls)
        parameters._items = items
        return parameters

    def __getitem__(self, name: str) -> str | None:
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def items(self) -> ItemsView[str, str | None]:
        return self._items.items()

    def __contains__(self, name: object) -> bool:
        return name in self._items

    def __eq__(self, other: object) -> bool:
        return self._items == other._items if isinstance(other, Parameters) else NotImplemented

    def __hash__(self) -> int:
        return hash(frozenset(self._items.items()))

    def __repr__(self) -> str:
        return f"Parameters({self._items})"

    def value(self, name: str) -> str:
        """The value of `name`; "" when it has none or is absent."""
        return self._items.get(name) or ""

    def with_(self, name: str, value: str | None) -> Parameters:
        """These, with `name` set: in its place if it is there, else at the end."""
        return self.owning({**self._items, name.lower(): value})

    def without(self, name: str) -> Parameters:
        """These, less `name` if it is there."""
        return self.owning({key: value for key, value in self._items.items() if key != name})


NO_PARAMETERS = Parameters()


@dataclass(frozen=True, slots=True, kw_only=True)
class Uri:
    """A URI with its escapes resolved.

    scheme      lower-case: "sip", "sips" or "tel"; other schemes are kept whole, see `user`
    user        user part, "" if there is none; of a tel URI the number; of any other scheme all that follows the colon
    password    None if there is none
    host        name or address; an IPv6 address without its brackets; "" unless the scheme is sip or sips
    port        None if it is not given, which is not the same as 5060 (RFC 3261 section 19.1.4)
    parameters  of the URI itself (those of a header field stand in NameAddr)
    headers     (name, value) pairs after the question mark
    """

    scheme: str = "sip"
    user: str = ""
    password: str | None = field(default=None, repr=False)
    host: str = ""
    port: int | None = None
    parameters: Parameters = NO_PARAMETERS
    headers: tuple[tuple[str, str], ...] = ()
    # A URI of the peer's goes back to it byte for byte, with its own choice of escapes.
    _text: str = field(default="", init=False, repr=False, compare=False)

    @staticmethod
    def parse(text: str) -> Uri:
        """Raises RemoteProtocolError (400). A scheme that is none of sip, sips and tel is no error here."""
        return _parse_again(text) if len(text) <= _REMEMBERED_LENGTH else _parse(text)

    def __str__(self) -> str:
        """As it was parsed, or, of a URI made here, with everything escaped that must be.

        Raises LocalProtocolError if scheme, host or port cannot stand in a URI.
        """
        return self._text or self._compose()

    def _compose(self) -> str:
        parameters = "".join(
            f";{quote(name, safe=_PARAMETER_SAFE)}"
            if value is None
            else f";{quote(name, safe=_PARAMETER_SAFE)}={quote(value, safe=_PARAMETER_SAFE)}"
            for name, value in self.parameters.items()
        )
        if self.scheme == "tel":
            return f"tel:{quote(self.user, safe=_TEL_SAFE)}{parameters}"
        if self.scheme not in ("sip", "sips"):
            if not _SCHEME.fullmatch(self.scheme) or _FORBIDDEN.search(self.user):
                raise LocalProtocolError(f"not a URI: {self.scheme!r}, {self.user!r}")
            return f"{self.scheme}:{self.user}"
        if not _HOST.fullmatch(self.host) and not _is_ipv6(self.host):
            raise LocalProtocolError(f"not a host: {self.host!r}")
        if self.port is not None and not 0 <= self.port <= 65535:
            raise LocalProtocolError(f"not a port: {self.port}")
        userinfo = ""
        if self.user:
            secret = "" if self.password is None else ":" + quote(self.password, safe=_PASSWORD_SAFE)
            userinfo = f"{quote(self.user, safe=_USER_SAFE)}{secret}@"
        port = "" if self.port is None else f":{self.port}"
        headers = "&".join(
            f"{quote(name, safe=_HEADER_SAFE)}={quote(value, safe=_HEADER_SAFE)}" for name, value in self.headers
        )
        question = "?" if headers else ""
        return f"{self.scheme}:{userinfo}{bracketed(self.host)}{port}{parameters}{question}{headers}"

    @property
    def transport(self) -> str:
        """The transport parameter in lower case; "" if there is none."""
        return self.parameters.value("transport").lower()

    def equivalent(self, other: Uri) -> bool:
        """Whether both name the same resource, by the rules of RFC 3261 section 19.1.4 and RFC 5954 section 4.2."""
        if (self.scheme, self.user, self.password, self.port) != (other.scheme, other.user, other.password, other.port):
            return False
        if _comparable_host(self.host) != _comparable_host(other.host):
            return False
        ours, theirs = self.parameters, other.parameters
        if any((name in ours) != (name in theirs) for name in _DECISIVE):
            return False
        if any(ours.value(name).lower() != theirs.value(name).lower() for name in ours if name in theirs):
            return False
        return _comparable_headers(self.headers) == _comparable_headers(other.headers)


def bracketed(host: str) -> str:
    """`host` as it stands in front of a port: an IPv6 address in brackets, all else as it is."""
    return f"[{host}]" if ":" in host else host


def _parse(text: str) -> Uri:
    if _FORBIDDEN.search(text):
        raise _bad(text, "forbidden character")
    scheme, colon, rest = text.partition(":")
    scheme = scheme.lower()
    if scheme in ("sip", "sips"):
        uri = _parse_sip(scheme, rest, text)
    elif not colon or not rest or not _SCHEME.fullmatch(scheme):
        raise _bad(text, "no scheme")
    elif scheme == "tel":
        number, semicolon, parameters = rest.partition(";")
        if not number:
            raise _bad(text, "no number")
        uri = Uri(scheme=scheme, user=_unescape(number), parameters=_parameters(semicolon + parameters, text))
    else:
        uri = Uri(scheme=scheme, user=rest)
    object.__setattr__(uri, "_text", text)
    return uri


def _parse_sip(scheme: str, rest: str, text: str) -> Uri:
    # An "@" must be escaped everywhere but here, and the user may contain ";" and "?".
    userinfo, at, after = rest.partition("@")
    user, password = "", None
    if at:
        user, colon, secret = userinfo.partition(":")
        if not user:
            raise _bad(text, "empty user")
        user = _unescape(user)
        password = _unescape(secret) if colon else None
    else:
        after = rest
    match = _HOST_PORT.match(after)
    if match is None:
        raise _bad(text, "bad host")
    name, ipv6, port_text = match.groups()
    if ipv6 and not _is_ipv6(ipv6):
        raise _bad(text, "bad IPv6 address")
    port = int(port_text) if port_text else None
    if port is not None and port > 65535:
        raise _bad(text, "port above 65535")
    parameters = NO_PARAMETERS
    headers: tuple[tuple[str, str], ...] = ()
    end = match.end()
    if end < len(after):
        parameter_text, question, header_text = after[end:].partition("?")
        parameters = _parameters(parameter_text, text)
        if question:
            headers = _headers(header_text, text)
    return Uri(
        scheme=scheme,
        user=user,
        password=password,
        host=name or ipv6,
        port=port,
        parameters=parameters,
        headers=headers,
    )


# The messages of a call, and calls of the same parties, repeat a handful of URIs; parsing is pure, and so may be
# remembered. The bound is 1 MiB of text.
_REMEMBERED_LENGTH = 256
_parse_again = lru_cache(maxsize=4096)(_parse)


def _bad(text: str, why: str) -> RemoteProtocolError:
    return RemoteProtocolError(f"Bad URI {text[:60]!r}: {why}")


def _unescape(text: str) -> str:
    if "%" not in text:
        return text
    raw = unquote_to_bytes(text)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _parameters(text: str, uri: str) -> Parameters:
    if not text:
        return NO_PARAMETERS
    lead, *parts = text.split(";")
    if lead:
        raise _bad(uri, "garbage after the host")
    items: dict[str, str | None] = {}
    for part in parts:
        name, equals, value = part.partition("=")
        name = _unescape(name).lower()
        if not name or (equals and not value):
            raise _bad(uri, "empty parameter")
        if name in items:
            raise _bad(uri, "parameter given twice")
        items[name] = _unescape(value) if equals else None
    return Parameters.owning(items)


def _headers(text: str, uri: str) -> tuple[tuple[str, str], ...]:
    pairs = []
    for part in text.split("&"):
        name, equals, value = part.partition("=")
        if not name or not equals:
            raise _bad(uri, "bad header")
        pairs.append((_unescape(name), _unescape(value)))
    return tuple(pairs)


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return "%" not in text


def _comparable_host(host: str) -> str:
    return ipaddress.IPv6Address(host).compressed if _is_ipv6(host) else host.lower()


def _comparable_headers(headers: tuple[tuple[str, str], ...]) -> list[tuple[str, str]]:
    return sorted((name.lower(), value) for name, value in headers)
