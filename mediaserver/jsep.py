"""A browser's offer, and our answer to it (RFC 8829, the JavaScript Session Establishment Protocol), without I/O.

One stream of audio is taken, in PCMU (RFC 7874 section 3 has every browser know it) or Opus, with the digits that go
with it; everything else that is offered is refused within the answer, as section 5.3.1 has it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import sip
from mediaserver.gateway_wire import Codec
from sip import sdp

__all__ = ["BrowserOffer", "OfferError", "Side", "answer", "read"]

# RFC 7587 section 4.1: the clock of Opus has always this rate, and two channels are declared whatever is sent.
RTPMAPS = {"PCMU": "PCMU/8000", "opus": "opus/48000/2"}
CLOCKS_HZ = {"PCMU": 8000, "opus": 48_000}
# RFC 7587 section 6.1: the line is of 8 kHz, so more would be encoded, sent and decoded in vain.
OPUS = "maxplaybackrate=8000;sprop-maxcapturerate=8000;maxaveragebitrate=24000;stereo=0;useinbandfec=1"
PTIME_MS = 20
# Each one is checked, with several datagrams from each of our addresses.
MOST_CANDIDATES = 16
# RFC 8827 section 6.5; RFC 8122 section 5 has others, which are broken or used by nobody.
DIGESTS = {"sha-256": 32, "sha-384": 48, "sha-512": 64}

_PROFILES = ("UDP/TLS/RTP/SAVPF", "UDP/TLS/RTP/SAVP", "RTP/SAVPF", "RTP/SAVP")
_RTPMAP = re.compile(r"(\d{1,3}) ([A-Za-z0-9-]+/\d{1,6}(?:/\d)?)")
# RFC 8839 section 5.4.
_UFRAG = re.compile(r"[A-Za-z0-9+/]{4,256}")
_PASSWORD = re.compile(r"[A-Za-z0-9+/]{22,256}")
# RFC 8839 section 5.1.
_CANDIDATE = re.compile(
    r"(?P<foundation>[A-Za-z0-9+/]{1,32}) (?P<component>\d{1,3}) (?P<transport>\w+) (?P<priority>\d{1,10}) "
    r"(?P<host>\S{1,255}) (?P<port>\d{1,5}) typ (?P<kind>host|srflx|prflx|relay)(?: .*)?"
)


class OfferError(Exception):
    """The offer cannot be taken; the message says what it lacks, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BrowserOffer:
    """What a browser offers, as far as it is taken.

    audio            which of the `description.media` is taken
    telephone_event  payload type of digits with the codec's clock; None if the browser offers none
    fingerprints     (algorithm, value) of the browser's certificate
    active           we begin the DTLS handshake (RFC 8842 section 5.3)
    candidates       the browser's that can be tried, as they stand in the offer, without "candidate:"
    direction        as we say it
    """

    description: sdp.SessionDescription
    audio: int
    mid: str
    bundled: bool
    codec: Codec
    payload_type: int
    telephone_event: int | None
    ufrag: str
    password: str
    fingerprints: tuple[tuple[str, str], ...]
    active: bool
    candidates: tuple[str, ...]
    direction: sdp.Direction


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """Our side of the transport: what the gateway has opened for a browser.

    fingerprint  of our certificate, by SHA-256
    candidates   as they stand in an answer, the best first
    """

    ufrag: str
    password: str
    fingerprint: str
    candidates: tuple[str, ...]


def read(text: str, *, codecs: Sequence[Codec]) -> BrowserOffer:
    """What is offered; of `codecs` the first one that the browser knows is taken. Raises OfferError."""
    try:
        description = sdp.SessionDescription.parse(text.encode())
    except sip.RemoteProtocolError as error:
        raise OfferError(f"It is no session description: {error}") from error
    audio = _audio(description)
    media = description.media[audio]
    if "rtcp-mux" not in dict(media.attributes):
        raise OfferError("It lacks a=rtcp-mux: RTP and RTCP take one port here (RFC 8834 section 4.5)")
    codec, payload_type, telephone_event = _codec(media, codecs)
    groups = [value.split() for name, value in description.attributes if name == "group" and value]
    bundle = next((group[1:] for group in groups if group[0] == "BUNDLE"), [])
    mid = next(media.values("mid"), "")
    # RFC 9143 section 7.1.3: a bundled stream has the transport of the one that is named first.
    tagged = next((other for other in description.media if bundle[:1] == [*other.values("mid")][:1]), media)
    transport = _Transport(description, media, tagged if mid in bundle else media)
    return BrowserOffer(
        description=description,
        audio=audio,
        mid=mid,
        bundled=mid in bundle,
        codec=codec,
        payload_type=payload_type,
        telephone_event=telephone_event,
        ufrag=transport.ice("ice-ufrag", _UFRAG),
        password=transport.ice("ice-pwd", _PASSWORD),
        fingerprints=transport.fingerprints(),
        active=transport.active(),
        candidates=tuple(_candidates(transport.values("candidate"))),
        direction=sdp.Direction.SENDRECV.answering(description.direction_of(media)),
    )


def answer(offer: BrowserOffer, side: Side, *, session_id: int) -> str:
    """The answer to `offer`, with all the candidates that there will be."""
    media = [
        replace(
            other,
            port=0,
            port_count=1,
            host="0.0.0.0",
            lines=(),
            # RFC 8829 section 5.3.1; without its mid, Chromium takes a stream for another one.
            attributes=tuple(("mid", mid) for mid in other.values("mid")),
        )
        for other in offer.description.media
    ]
    media[offer.audio] = _answered(offer, side)
    described = sdp.SessionDescription(
        # RFC 8829 section 5.2.1: the address says nothing, so it need not say where we are.
        origin=sdp.Origin(session_id=session_id, version=1, host="127.0.0.1"),
        attributes=(("group", f"BUNDLE {offer.mid}"),) if offer.bundled else (),
        media=tuple(media),
    )
    return described.serialise().decode()


def _answered(offer: BrowserOffer, side: Side) -> sdp.Media:
    events: tuple[sdp.Attribute, ...] = ()
    formats = [offer.payload_type]
    if offer.telephone_event is not None:
        formats.append(offer.telephone_event)
        events = (
            ("rtpmap", f"{offer.telephone_event} telephone-event/{CLOCKS_HZ[offer.codec]}"),
            ("fmtp", f"{offer.telephone_event} 0-15"),
        )
    opus: tuple[sdp.Attribute, ...] = ()
    if offer.codec == "opus":
        opus = (("fmtp", f"{offer.payload_type} {OPUS}"),)
    host, port = _default(side.candidates)
    return sdp.Media(
        kind="audio",
        port=port,
        host=host,
        profile=offer.description.media[offer.audio].profile,
        formats=tuple(map(str, formats)),
        attributes=(
            *((("mid", offer.mid),) if offer.mid else ()),
            ("ice-ufrag", side.ufrag),
            ("ice-pwd", side.password),
            ("fingerprint", f"sha-256 {side.fingerprint}"),
            ("setup", "active" if offer.active else "passive"),
            (offer.direction.value, None),
            ("rtcp-mux", None),
            ("rtpmap", f"{offer.payload_type} {RTPMAPS[offer.codec]}"),
            *opus,
            *events,
            ("ptime", str(PTIME_MS)),
            *(("candidate", candidate) for candidate in side.candidates),
            ("end-of-candidates", None),
        ),
    )


def _default(candidates: Sequence[str]) -> tuple[str, int]:
    """The address of the c= and m= lines (RFC 8839 section 4.2.1.2), which nobody uses."""
    for line in candidates:
        match = _CANDIDATE.fullmatch(line)
        if match is not None:
            return match["host"], int(match["port"])
    return "0.0.0.0", 9


def _audio(description: sdp.SessionDescription) -> int:
    for number, media in enumerate(description.media):
        taken = media.port or "bundle-only" in dict(media.attributes)
        if media.kind == "audio" and media.profile in _PROFILES and taken:
            return number
    raise OfferError("It has no audio for a browser: m=audio with UDP/TLS/RTP/SAVPF (add a track or a transceiver)")


def _codec(media: sdp.Media, codecs: Sequence[Codec]) -> tuple[Codec, int, int | None]:
    """Codec, its payload type, and that of digits with the same clock (RFC 4733 section 2.1)."""
    names = {"0": "pcmu/8000"}
    for value in media.values("rtpmap"):
        match = _RTPMAP.fullmatch(value.strip())
        if match is not None:
            names[match[1]] = match[2].lower().removesuffix("/1")
    offered = {names[number]: int(number) for number in reversed(media.formats) if number in names}
    if any(number > 127 for number in offered.values()):
        raise OfferError("It has a payload type above 127")
    for codec in codecs:
        name = RTPMAPS[codec].lower()
        if name in offered:
            return codec, offered[name], offered.get(f"telephone-event/{CLOCKS_HZ[codec]}")
    raise OfferError(f"It offers none of {', '.join(codecs)}, which is what is spoken here")


class _Transport:
    """The attributes of a stream's transport: its own, the session's, or those of the stream whose transport it has."""

    def __init__(self, description: sdp.SessionDescription, media: sdp.Media, tagged: sdp.Media) -> None:
        self._places = (media.attributes, description.attributes, tagged.attributes)

    def values(self, name: str) -> list[str]:
        for attributes in self._places:
            if found := [value or "" for key, value in attributes if key == name]:
                return found
        return []

    def ice(self, name: str, pattern: re.Pattern[str]) -> str:
        for value in self.values(name):
            if pattern.fullmatch(value):
                return value
        raise OfferError(f"It lacks a valid a={name} (RFC 8839 section 5.4): send what createOffer() gave")

    def fingerprints(self) -> tuple[tuple[str, str], ...]:
        found = []
        for value in self.values("fingerprint"):
            algorithm, _, digits = value.strip().partition(" ")
            algorithm = algorithm.lower()
            size = DIGESTS.get(algorithm)
            if size is not None and re.fullmatch(rf"[0-9A-Fa-f]{{2}}(:[0-9A-Fa-f]{{2}}){{{size - 1}}}", digits):
                found.append((algorithm, digits.upper()))
        if not found:
            raise OfferError("It lacks a valid a=fingerprint of SHA-256, SHA-384 or SHA-512 (RFC 8122)")
        return tuple(found)

    def active(self) -> bool:
        setup = next(iter(self.values("setup")), "")
        if setup not in ("actpass", "passive", "active"):
            raise OfferError("It lacks a=setup:actpass (RFC 8842 section 5.2)")
        return setup != "active"


def _candidates(lines: Sequence[str]) -> Iterator[str]:
    """Those that can be tried. What is left out is not missed: whoever checks our addresses is found by that.

    Such as names out of multicast DNS, behind which browsers hide their addresses, and TCP.
    """
    for line in lines[:MOST_CANDIDATES]:
        match = _CANDIDATE.fullmatch(line.strip())
        if match is None or match["component"] != "1" or match["transport"].lower() != "udp":
            continue
        try:
            address = ipaddress.ip_address(match["host"])
        except ValueError:
            continue
        if 0 < int(match["port"]) < 65536 and not (address.is_multicast or address.is_unspecified):
            yield line.strip()
