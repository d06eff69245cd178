"""Session descriptions (RFC 8866), and offer and answer for one stream of telephone audio (RFC 3264).

`answer` takes an offer and gives the answer; `offer` makes an offer and `settle` reads the answer to it. Both ways the
outcome is an `Audio`: what the media plane must know, in plain values. Nothing here remembers anything: the description
sent before goes in as an argument, so that `o=` keeps its session id and counts its version up only on change.

A description that cannot be read is answered 400, one that we cannot take 488 with a Warning (RFC 3261 section 20.43).
"""

from __future__ import annotations

import enum
import ipaddress
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

from .errors import LocalProtocolError, RemoteProtocolError
from .uri import bracketed

__all__ = [
    "Attribute",
    "Audio",
    "Capabilities",
    "Direction",
    "Media",
    "Origin",
    "SessionDescription",
    "answer",
    "offer",
    "settle",
]

Attribute = tuple[str, str | None]

_CLOCK_HZ = 8000
_MEDIA_LIMIT = 32
# RFC 3551 section 6, those that we can name without an rtpmap.
_STATIC_CODECS = {"0": "PCMU/8000", "8": "PCMA/8000", "13": "CN/8000"}
_STATIC_TYPES = {"PCMU": 0, "PCMA": 8}
_EVENT = f"TELEPHONE-EVENT/{_CLOCK_HZ}"
_COMFORT_NOISE = f"CN/{_CLOCK_HZ}"
_OFFERED_TELEPHONE_EVENT = 101
# RFC 4733 section 2.4.1: the events taken; 0 to 15 are the digits, which is also what is meant without fmtp.
_DIGITS = "0-15"

_ORIGIN = re.compile(r"(\S+) ([0-9]{1,40}) ([0-9]{1,40}) IN IP[46] (\S+)")
_CONNECTION = re.compile(r"IN (IP[46]) ([^\s/]+)(/[0-9/]+)?")
_MEDIA = re.compile(r"([^\s/]+) ([0-9]{1,5})(?:/([0-9]{1,5}))? (\S+) (\S.*)")
_RTCP = re.compile(r"([0-9]{1,5})(?: IN IP[46] (\S+))?")
_RTPMAP = re.compile(r"([1-9]?[0-9]|1[01][0-9]|12[0-7])[ \t]+([^\s/]+/[0-9]{1,6})(?:/1)?[ \t]*")
# RFC 8866 section 5: the order of the lines; t and r belong together.
_SESSION_ORDER = {kind: rank for rank, kinds in enumerate(("i", "u", "e", "p", "b", "tr", "z", "k")) for kind in kinds}
_MEDIA_ORDER = {"i": 0, "b": 1, "k": 2}

_UNSPECIFIED = ("0.0.0.0", "::")
_BROADCAST = ipaddress.IPv4Address("255.255.255.255")
_LINE_END = re.compile(r"[\r\n]")

# Warn-code -> warn-text (RFC 3261 section 20.43).
_WARNINGS = {
    301: "Incompatible network address formats",
    302: "Incompatible transport protocol",
    304: "Media type not available",
    305: "Incompatible media format",
    330: "Multicast not available",
}


class Direction(enum.Enum):
    """Which way media flows, as the one who says it sees it (RFC 3264 section 5.1)."""

    SENDRECV = "sendrecv"
    SENDONLY = "sendonly"
    RECVONLY = "recvonly"
    INACTIVE = "inactive"

    @classmethod
    def of(cls, *, sends: bool, receives: bool) -> Direction:
        if sends:
            return cls.SENDRECV if receives else cls.SENDONLY
        return cls.RECVONLY if receives else cls.INACTIVE

    @property
    def sends(self) -> bool:
        return self in (Direction.SENDRECV, Direction.SENDONLY)

    @property
    def receives(self) -> bool:
        return self in (Direction.SENDRECV, Direction.RECVONLY)

    def answering(self, offered: Direction) -> Direction:
        """What we say, wanting this, to a peer that offers that (section 6.1)."""
        return Direction.of(sends=self.sends and offered.receives, receives=self.receives and offered.sends)


_DIRECTIONS = {direction.value: direction for direction in Direction}


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The o= line: whose session this is, and which version of its description."""

    session_id: int
    version: int
    host: str
    username: str = "-"

    @classmethod
    def parse(cls, text: str) -> Origin:
        match = _ORIGIN.fullmatch(text)
        if match is None:
            raise _malformed("o= line")
        username, session_id, version, host = match.groups()
        return cls(username=username, session_id=int(session_id), version=int(version), host=host)

    def __str__(self) -> str:
        return f"{self.username} {self.session_id} {self.version} {_network_address(self.host)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Media:
    """An m= line and what belongs to it.

    kind        "audio", "video", "image" ...
    port        0 refuses or ends the stream
    port_count  of hierarchical streams; 1 otherwise
    formats     for RTP, payload type numbers in order of preference
    host        of its own c= line, without a multicast scope; "" inherits the session's
    attributes  (name, value) pairs; None as value of a property attribute
    lines       (type letter, text) of the i=, b= and k= lines
    """

    kind: str
    port: int
    profile: str
    formats: tuple[str, ...]
    port_count: int = 1
    host: str = ""
    attributes: tuple[Attribute, ...] = ()
    lines: tuple[tuple[str, str], ...] = ()

    def values(self, name: str) -> Iterator[str]:
        """The value of each attribute of that name; "" of a property attribute."""
        return (value or "" for key, value in self.attributes if key == name)

    def codecs(self) -> dict[int, str]:
        """Of an RTP stream: payload type -> encoding name in upper case and clock rate, such as "PCMU/8000".

        In the order of preference; static payload types need no rtpmap (RFC 3551), and unknown ones are left out.
        """
        names = dict(_STATIC_CODECS)
        for value in self.values("rtpmap"):
            match = _RTPMAP.fullmatch(value)
            if match is not None:
                names[match[1]] = match[2].upper()
        return {int(number): names[number] for number in self.formats if number in names}


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionDescription:
    """A whole description.

    name        the s= line
    host        of the session's c= line, without a multicast scope; "" if there is none
    lines       (type letter, text) of the session's i=, u=, e=, p=, b=, t=, r=, z= and k= lines
    """

    origin: Origin
    name: str = "-"
    host: str = ""
    attributes: tuple[Attribute, ...] = ()
    media: tuple[Media, ...] = ()
    lines: tuple[tuple[str, str], ...] = (("t", "0 0"),)

    @classmethod
    def parse(cls, data: bytes) -> SessionDescription:
        """The description in `data`. Lines may end in LF alone (RFC 8866 section 5).

        Raises RemoteProtocolError (400).
        """
        try:
            text = data.decode()
        except UnicodeDecodeError:
            text = data.decode("latin-1")
        lines = _typed_lines(text)
        first_media = next((n for n, (kind, _) in enumerate(lines) if kind == "m"), len(lines))
        if lines[:1] != [("v", "0")] or len(lines) < 2 or lines[1][0] != "o":
            raise _malformed("opening other than v=0 and o=")
        head = _Section(lines[2:first_media], _SESSION_ORDER)
        return cls(
            origin=Origin.parse(lines[1][1]),
            name=head.name,
            host=head.host,
            attributes=tuple(head.attributes),
            media=tuple(_media(lines[first_media:])),
            lines=tuple(head.others),
        )

    def serialise(self) -> bytes:
        """The bytes on the wire. Raises LocalProtocolError if a value would break out of its line."""
        lines = [("v", "0"), ("o", str(self.origin)), ("s", self.name)]
        lines += [line for line in self.lines if line[0] in "iuep"]
        if self.host:
            lines.append(("c", _network_address(self.host)))
        lines += [line for line in self.lines if line[0] not in "iuep"]
        lines += _attribute_lines(self.attributes)
        for media in self.media:
            count = "" if media.port_count == 1 else f"/{media.port_count}"
            lines.append(("m", f"{media.kind} {media.port}{count} {media.profile} {' '.join(media.formats)}"))
            lines += [line for line in media.lines if line[0] == "i"]
            if media.host:
                lines.append(("c", _network_address(media.host)))
            lines += [line for line in media.lines if line[0] != "i"]
            lines += _attribute_lines(media.attributes)
        if any(_LINE_END.search(text) for _, text in lines):
            raise LocalProtocolError("a value of the session description has more than one line")
        return "".join(f"{kind}={text}\r\n" for kind, text in lines).encode()

    def host_of(self, media: Media) -> str:
        """Where the peer wants the packets of `media`; "" if it does not say."""
        return media.host or self.host

    def direction_of(self, media: Media) -> Direction:
        """Of `media`, else of the session, else sendrecv (RFC 3264 section 5.1)."""
        for name, _ in (*media.attributes, *self.attributes):
            if name in _DIRECTIONS:
                return _DIRECTIONS[name]
        return Direction.SENDRECV


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What we can do in one session, and where.

    host, port    where our side receives; `host` is an IP address
    session_id    of our o= line, unless a description has been sent before
    codecs        those we take: of an offer the first that the offerer lists is used, in our own offers this order
    ptimes_ms     packet durations that we can send; the peer's wish is met by the longest that does not exceed it
    direction     what we want: SENDONLY, for instance, puts the peer on hold
    """

    host: str
    port: int
    session_id: int
    codecs: tuple[str, ...] = ("PCMU", "PCMA")
    telephone_event: bool = True
    rtcp_mux: bool = True
    ptimes_ms: tuple[int, ...] = (10, 20, 30, 40, 60)
    default_ptime_ms: int = 20
    direction: Direction = Direction.SENDRECV

    def __post_init__(self) -> None:
        """Raises LocalProtocolError for a host, a codec or a set of packet durations that cannot be offered."""
        if _address(self.host) is None:
            raise LocalProtocolError(f"not an IP address: {self.host!r}")
        if not self.codecs or not set(self.codecs) <= _STATIC_TYPES.keys():
            raise LocalProtocolError(f"codecs must be some of {', '.join(_STATIC_TYPES)}: {self.codecs}")
        if self.default_ptime_ms not in self.ptimes_ms:
            raise LocalProtocolError(f"{self.default_ptime_ms} ms is not among {self.ptimes_ms}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Audio:
    """What was agreed about the audio stream, seen from our side.

    remote_host, remote_port  where our packets go
    rtcp_host, rtcp_port      where our reports go; the same as above with `rtcp_mux` (RFC 5761, RFC 3605)
    codec                     "PCMU" or "PCMA"
    payload_type              of the audio that we send
    telephone_event           payload type of the digits that we send (RFC 4733); None if the peer takes none
    telephone_event_received  payload type of the digits that the peer sends; it differs where the answer renumbers
    comfort_noise             payload type under which the peer may send comfort noise (RFC 3389), or None
    ptime_ms                  duration of the packets that we send
    direction                 as we said it in our description
    """

    remote_host: str
    remote_port: int
    rtcp_host: str
    rtcp_port: int
    rtcp_mux: bool
    codec: str
    payload_type: int
    telephone_event: int | None
    telephone_event_received: int | None
    comfort_noise: int | None
    ptime_ms: int
    direction: Direction

    @property
    def sends(self) -> bool:
        """Whether we may send. RFC 3264 section 8.4: an unspecified address is a hold of the old kind."""
        return self.direction.sends and self.remote_host not in _UNSPECIFIED

    @property
    def receives(self) -> bool:
        """Whether the peer may send."""
        return self.direction.receives


def answer(
    offered: SessionDescription, capabilities: Capabilities, previous: SessionDescription | None = None
) -> tuple[SessionDescription, Audio]:
    """Our answer to `offered`: the first audio stream that we can take is taken, every other stream refused.

    previous  the description that we sent last in this session

    Raises RemoteProtocolError: 488 with a Warning if there is no such stream, 400 if the offer contradicts itself.
    """
    codes: list[int] = []
    for index, media in enumerate(offered.media):
        code = _obstacle(offered, media, capabilities)
        if code:
            codes.append(code)
            continue
        own = _answering_media(offered, media, capabilities)
        answered = [replace(other, port=0, port_count=1, host="", attributes=(), lines=()) for other in offered.media]
        answered[index] = own
        audio = _audio(offered, media, own, capabilities)
        return _described(tuple(answered), capabilities, previous), audio
    # The most telling of the reasons: that of an audio stream rather than that of a video stream.
    raise _unacceptable(min((code for code in codes if code != 304), default=304), capabilities)


def offer(capabilities: Capabilities, previous: SessionDescription | None = None) -> SessionDescription:
    """Our offer: one audio stream. Streams of `previous` beyond it stay refused, since m= lines never go away."""
    # RFC 3264 section 8.3.2: a payload type keeps its meaning for as long as the session lasts.
    index, event = 0, _OFFERED_TELEPHONE_EVENT
    if previous is not None:
        index = next((n for n, old in enumerate(previous.media) if old.port), 0)
        event = _number_of(previous.media[index].codecs(), _EVENT) or event
    codecs = {_STATIC_TYPES[name]: f"{name}/{_CLOCK_HZ}" for name in capabilities.codecs}
    if capabilities.telephone_event:
        codecs[event] = _EVENT
    audio = _own_media(
        codecs, capabilities, ptime_ms=capabilities.default_ptime_ms, direction=capabilities.direction, mux=True
    )
    before, after = (previous.media[:index], previous.media[index + 1 :]) if previous is not None else ((), ())
    return _described((*before, audio, *after), capabilities, previous)


def settle(offered: SessionDescription, answered: SessionDescription, capabilities: Capabilities) -> Audio:
    """What the answer to our own offer agrees to.

    Raises RemoteProtocolError (488) if the answer refuses the stream or does not fit the offer (RFC 3264 section 6).
    """
    if len(offered.media) != len(answered.media):
        raise RemoteProtocolError("Answer has not as many streams as the offer", status=488)
    for own, media in zip(offered.media, answered.media, strict=True):
        if own.port:
            code = _obstacle(answered, media, capabilities)
            if code:
                raise _unacceptable(code, capabilities)
            return _audio(answered, media, own, capabilities)
    raise LocalProtocolError("the offer has no stream")


def _obstacle(description: SessionDescription, media: Media, capabilities: Capabilities) -> int:
    """The warn-code that says why we cannot take `media`, or 0."""
    if media.kind != "audio" or not media.port:
        return 304
    if media.profile != "RTP/AVP":
        return 302
    host = description.host_of(media)
    if not host:
        raise _malformed("stream without c= line")
    address = _address(host)
    # A name is legal, but a media server must not look up what strangers tell it to.
    if address is None:
        return 301
    if address.is_multicast or address == _BROADCAST:
        return 330
    if (":" in host) != (":" in capabilities.host) and not address.is_unspecified:
        return 301
    return 305 if _chosen(media.codecs(), capabilities) is None else 0


def _chosen(codecs: dict[int, str], capabilities: Capabilities) -> int | None:
    """The payload type that the peer prefers among those that we can take."""
    takeable = {f"{name}/{_CLOCK_HZ}" for name in capabilities.codecs}
    return next((number for number, codec in codecs.items() if codec in takeable), None)


def _number_of(codecs: dict[int, str], codec: str) -> int | None:
    return next((number for number, name in codecs.items() if name == codec), None)


def _answering_media(offered: SessionDescription, media: Media, capabilities: Capabilities) -> Media:
    codecs = media.codecs()
    taken = {_chosen(codecs, capabilities)}
    if capabilities.telephone_event:
        taken.add(_number_of(codecs, _EVENT))
    return _own_media(
        # RFC 3264 section 6.1: the payload types of the offer, in the order of the offer.
        {number: codec for number, codec in codecs.items() if number in taken},
        capabilities,
        ptime_ms=_ptime_ms(media, capabilities),
        direction=capabilities.direction.answering(offered.direction_of(media)),
        mux="rtcp-mux" in dict(media.attributes),
    )


def _own_media(
    codecs: dict[int, str], capabilities: Capabilities, *, ptime_ms: int, direction: Direction, mux: bool
) -> Media:
    names = {number: codec.lower() if codec == _EVENT else codec for number, codec in codecs.items()}
    attributes: list[Attribute] = [("rtpmap", f"{number} {name}") for number, name in names.items()]
    attributes += [("fmtp", f"{number} {_DIGITS}") for number, codec in codecs.items() if codec == _EVENT]
    attributes += [("ptime", str(ptime_ms)), (direction.value, None)]
    if mux and capabilities.rtcp_mux:
        attributes.append(("rtcp-mux", None))
    return Media(
        kind="audio",
        port=capabilities.port,
        profile="RTP/AVP",
        formats=tuple(map(str, codecs)),
        attributes=tuple(attributes),
    )


def _described(
    media: tuple[Media, ...], capabilities: Capabilities, previous: SessionDescription | None
) -> SessionDescription:
    origin = Origin(session_id=capabilities.session_id, version=1, host=capabilities.host)
    if previous is not None:
        origin = previous.origin
    description = SessionDescription(origin=origin, host=capabilities.host, media=media)
    if previous is None or description == previous:
        return description
    # RFC 3264 section 8: one more than before if, and only if, the description differs.
    return replace(description, origin=replace(origin, version=origin.version + 1))


def _audio(description: SessionDescription, media: Media, own: Media, capabilities: Capabilities) -> Audio:
    """What follows from the peer's `media` and our `own`, whichever of them is the answer."""
    codecs = media.codecs()
    payload_type = _chosen(codecs, capabilities)
    if payload_type is None:
        raise _unacceptable(305, capabilities)
    host = str(_address(description.host_of(media)))
    rtcp_host, rtcp_port = host, min(media.port + 1, 65535)
    for value in media.values("rtcp"):
        match = _RTCP.fullmatch(value)
        if match is not None and 0 < int(match[1]) < 65536:
            rtcp_host = match[2] if match[2] and _address(match[2]) else host
            rtcp_port = int(match[1])
    mux = all("rtcp-mux" in dict(side.attributes) for side in (media, own))
    if mux:
        rtcp_host, rtcp_port = host, media.port
    theirs, ours = _number_of(codecs, _EVENT), _number_of(own.codecs(), _EVENT)
    direction = next(_DIRECTIONS[name] for name, _ in own.attributes if name in _DIRECTIONS)
    return Audio(
        remote_host=host,
        remote_port=media.port,
        rtcp_host=rtcp_host,
        rtcp_port=rtcp_port,
        rtcp_mux=mux,
        codec=codecs[payload_type].partition("/")[0],
        payload_type=payload_type,
        telephone_event=theirs if ours is not None else None,
        telephone_event_received=ours if theirs is not None else None,
        comfort_noise=_number_of(codecs, _COMFORT_NOISE),
        ptime_ms=_ptime_ms(media, capabilities),
        direction=direction.answering(description.direction_of(media)),
    )


def _ptime_ms(media: Media, capabilities: Capabilities) -> int:
    wished = next((_milliseconds(value) for value in media.values("ptime")), 0) or capabilities.default_ptime_ms
    most = next((_milliseconds(value) for value in media.values("maxptime")), 0) or wished
    fitting = [ptime for ptime in capabilities.ptimes_ms if ptime <= min(wished, most)]
    return max(fitting, default=min(capabilities.ptimes_ms))


def _milliseconds(text: str) -> int:
    """0 for what is not a number: ptime is a wish, and no reason to lose a call."""
    whole = text.strip().partition(".")[0]
    return int(whole) if len(whole) <= 5 and whole.isascii() and whole.isdigit() else 0


class _Section:
    """The lines of a session or of one stream, sorted out."""

    def __init__(self, lines: Iterable[tuple[str, str]], order: dict[str, int]) -> None:
        self.name = "-"
        self.host = ""
        self.attributes: list[Attribute] = []
        self.others: list[tuple[str, str]] = []
        for kind, text in lines:
            if kind == "a":
                name, colon, value = text.partition(":")
                self.attributes.append((name, value if colon else None))
            elif kind == "c":
                self.host = self.host or _connection_host(text)
            elif kind in order:
                self.others.append((kind, text))
            elif kind == "s" and order is _SESSION_ORDER:
                self.name = text
            else:
                # RFC 8866 section 5: a description with a type letter that is not known must not be used.
                raise _malformed(f"{kind}= line")
        self.others.sort(key=lambda line: order[line[0]])


def _typed_lines(text: str) -> list[tuple[str, str]]:
    lines = []
    for line in text.rstrip("\r\n").split("\n"):
        kind, equals, value = line.removesuffix("\r").partition("=")
        if len(kind) != 1 or not equals or "\r" in value:
            raise _malformed("line other than type=value")
        lines.append((kind, value))
    return lines


def _media(lines: list[tuple[str, str]]) -> Iterator[Media]:
    starts = [n for n, (kind, _) in enumerate(lines) if kind == "m"]
    if len(starts) > _MEDIA_LIMIT:
        raise _malformed(f"more than {_MEDIA_LIMIT} streams")
    for start, end in pairwise((*starts, len(lines))):
        match = _MEDIA.fullmatch(lines[start][1])
        if match is None:
            raise _malformed("m= line")
        kind, port, port_count, profile, formats = match.groups()
        if int(port) > 65535:
            raise _malformed("port above 65535")
        section = _Section(lines[start + 1 : end], _MEDIA_ORDER)
        yield Media(
            kind=kind,
            port=int(port),
            port_count=int(port_count or 1),
            profile=profile,
            formats=tuple(formats.split()),
            host=section.host,
            attributes=tuple(section.attributes),
            lines=tuple(section.others),
        )


def _attribute_lines(attributes: Iterable[Attribute]) -> Iterator[tuple[str, str]]:
    return (("a", name if value is None else f"{name}:{value}") for name, value in attributes)


def _connection_host(text: str) -> str:
    match = _CONNECTION.fullmatch(text.strip())
    if match is None:
        raise _malformed("c= line")
    return match[2]


def _network_address(host: str) -> str:
    return f"IN IP{6 if ':' in host else 4} {host}"


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return None if "%" in host else ipaddress.ip_address(host)
    except ValueError:
        return None


def _malformed(what: str) -> RemoteProtocolError:
    return RemoteProtocolError(f"Bad session description: {what}")


def _unacceptable(code: int, capabilities: Capabilities) -> RemoteProtocolError:
    text = _WARNINGS[code]
    return RemoteProtocolError(
        text, status=488, headers=(("Warning", f'{code} {bracketed(capabilities.host)} "{text}"'),)
    )
