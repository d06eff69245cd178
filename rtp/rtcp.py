"""RTCP (RFC 3550 section 6): the packets, the compound that carries them, and the arithmetic of reports.

A datagram of RTCP is a compound: a sender or receiver report first, then a source description with a CNAME, then
whatever else there is. `serialise` refuses to make anything else; `parse` insists on the report and on intact
lengths, and hands unknown packet types through as `Unknown`.

Times on the wire are NTP: 32 bits of seconds and 32 bits of fraction. Reports carry the middle 32 bits of that, which
count 1/65536 s.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .packet import VERSION, LocalProtocolError, RemoteProtocolError, distance

__all__ = [
    "CNAME",
    "Goodbye",
    "ReceiverReport",
    "Report",
    "RtcpPacket",
    "SenderReport",
    "Source",
    "SourceDescription",
    "Unknown",
    "clamp_lost",
    "fraction_lost",
    "interval_ns",
    "middle_32",
    "ntp_from_unix_ns",
    "parse",
    "round_trip_ns",
    "serialise",
    "unix_ns_from_ntp",
]

SR, RR, SDES, BYE = 200, 201, 202, 203
CNAME = 1  # SDES item type, RFC 3550 section 6.5.1

MINIMUM_INTERVAL_NS = 5_000_000_000  # RFC 3550 section 6.2

_HEAD = struct.Struct("!BBH")
_SENDER = struct.Struct("!IQIII")
_REPORT = struct.Struct("!IIIIII")
_SSRC = struct.Struct("!I")
_UNIX_EPOCH_S = 2_208_988_800  # from 1900-01-01 to 1970-01-01
_ERA_S = 1 << 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What one source heard of another (RFC 3550 section 6.4.1, a report block).

    ssrc              whose packets these figures are about
    fraction_lost     lost since the previous report, in 1/256
    lost              lost since the beginning, -2**23 .. 2**23 - 1; negative when duplicates outnumber losses
    highest_sequence  highest sequence number received, extended by the count of its cycles to 32 bits
    jitter            interarrival jitter in timestamp units
    last_sr           middle 32 bits of the NTP time in the last sender report heard; 0 for none yet
    delay             from hearing that report to sending this one, in 1/65536 s
    """

    ssrc: int
    fraction_lost: int
    lost: int
    highest_sequence: int
    jitter: int
    last_sr: int
    delay: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SenderReport:
    """SR: `ntp` (64 bits) and `rtp_timestamp` name the same instant; packets and octets (payload only) are totals."""

    ssrc: int
    ntp: int
    rtp_timestamp: int
    packets: int
    octets: int
    reports: tuple[Report, ...] = ()
    extension: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiverReport:
    """RR: what a source that sends no media reports; `extension` is the profile's own, a multiple of 4 octets."""

    ssrc: int
    reports: tuple[Report, ...] = ()
    extension: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One source and its items, each an SDES item type (1..255) and up to 255 octets of UTF-8."""

    ssrc: int
    items: tuple[tuple[int, bytes], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceDescription:
    """SDES."""

    sources: tuple[Source, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Goodbye:
    """BYE: these sources leave; `reason` is up to 255 octets of UTF-8."""

    ssrcs: tuple[int, ...]
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """A packet of a type that this module does not read (APP, feedback, extended reports): header fields and body."""

    packet_type: int
    count: int
    body: bytes


RtcpPacket = SenderReport | ReceiverReport | SourceDescription | Goodbye | Unknown


def parse(data: bytes) -> tuple[RtcpPacket, ...]:
    """The packets of a compound. Raises RemoteProtocolError (RFC 3550 section 6.1, appendix A.2)."""
    packets: list[RtcpPacket] = []
    start, size = 0, len(data)
    while start < size or not packets:
        if size - start < _HEAD.size:
            raise RemoteProtocolError(f"RTCP packet of {size - start} octets: its header alone takes {_HEAD.size}")
        flags, packet_type, words = _HEAD.unpack_from(data, start)
        if flags >> 6 != VERSION:
            raise RemoteProtocolError(f"RTCP version {flags >> 6} instead of {VERSION}")
        if not packets and packet_type not in (SR, RR):
            raise RemoteProtocolError(f"RTCP compound opens with type {packet_type} instead of a report")
        end = start + _HEAD.size + 4 * words
        if end > size:
            raise RemoteProtocolError(f"RTCP packet announces {end - start} octets where {size - start} are left")
        body = bytes(data[start + _HEAD.size : end])
        if flags & 0x20:
            body = _without_padding(body, last=end == size)
        packets.append(_parse_body(packet_type, flags & 0x1F, body))
        start = end
    return tuple(packets)


def serialise(packets: Sequence[RtcpPacket]) -> bytes:
    """The compound's octets.

    Raises LocalProtocolError when it is no compound as RFC 3550 section 6.1 wants it (a report first, a CNAME in it)
    or a value does not fit its field.
    """
    if not packets or not isinstance(packets[0], SenderReport | ReceiverReport):
        raise LocalProtocolError("an RTCP compound opens with a sender or receiver report")
    if not any(isinstance(packet, SourceDescription) and _names(packet) for packet in packets):
        raise LocalProtocolError("an RTCP compound carries a source description with a CNAME")
    try:
        return b"".join(map(_serialise_one, packets))
    except struct.error as error:
        raise LocalProtocolError(f"an RTCP field does not fit: {error}") from error


def fraction_lost(*, expected: int, received: int) -> int:
    """Loss over an interval in 1/256, 0..255 (RFC 3550 appendix A.3); duplicates never make it negative."""
    lost = expected - received
    if expected <= 0 or lost <= 0:
        return 0
    return min((lost << 8) // expected, 255)


def clamp_lost(lost: int) -> int:
    """Cumulative loss as its signed 24 bits can carry it (RFC 3550 appendix A.3)."""
    return max(-0x800000, min(lost, 0x7FFFFF))


def interval_ns(random: Callable[[], float], *, first: bool = False) -> int:
    """Time until the next compound: 5 s, 2.5 s for the first, times 0.5 to 1.5 at random (RFC 3550 section 6.3.1).

    `random` yields 0 <= x < 1. The bandwidth rule of section 6.2 does not come into play: two members who share
    5 % of a G.711 session's bandwidth could report every 0.7 s, so the minimum of 5 s always holds. Nor is the result
    divided by e - 3/2: that makes up for timer reconsideration, which slows reports down while a group grows, and a
    call of two members has nothing to reconsider.
    """
    deterministic_ns = MINIMUM_INTERVAL_NS // 2 if first else MINIMUM_INTERVAL_NS
    return int(deterministic_ns * (0.5 + random()))


def round_trip_ns(report: Report, *, arrival_ntp: int) -> int | None:
    """Round-trip time out of a report on us that arrived at `arrival_ntp` (64 bits); None when it cannot tell.

    RFC 3550 section 6.4.1: arrival - last SR - delay since it. A result below zero comes from the peer rounding its
    delay up, and counts as 0 within a millisecond's worth; beyond that the peer's figures are wrong.
    """
    if report.last_sr == 0:
        return None
    units = distance(report.last_sr + report.delay, middle_32(arrival_ntp), bits=32)
    if units < -66:
        return None
    return max(units, 0) * 1_000_000_000 >> 16


def ntp_from_unix_ns(unix_ns: int) -> int:
    """NTP timestamp, 64 bits, of nanoseconds since 1970 (RFC 5905 section 6)."""
    seconds, ns = divmod(unix_ns, 1_000_000_000)
    return ((seconds + _UNIX_EPOCH_S) % _ERA_S) << 32 | (ns << 32) // 1_000_000_000


def unix_ns_from_ntp(ntp: int) -> int:
    """Nanoseconds since 1970 of an NTP timestamp. Without its top bit it lies past 2036 (RFC 4330 section 3)."""
    seconds = (ntp >> 32) + (0 if ntp >> 63 else _ERA_S) - _UNIX_EPOCH_S
    return seconds * 1_000_000_000 + ((ntp & 0xFFFFFFFF) * 1_000_000_000 + (1 << 31) >> 32)


def middle_32(ntp: int) -> int:
    """The middle 32 bits of an NTP timestamp, in 1/65536 s, as reports carry it."""
    return ntp >> 16 & 0xFFFFFFFF


def _without_padding(body: bytes, *, last: bool) -> bytes:
    # RFC 3550 section 6.4.1: only the last packet of a compound is padded, by a multiple of four octets.
    if not last:
        raise RemoteProtocolError("RTCP padding before the last packet of a compound")
    if not body or not 4 <= body[-1] <= len(body) or body[-1] % 4:
        raise RemoteProtocolError(f"RTCP padding does not fit a body of {len(body)} octets")
    return body[: -body[-1]]


def _parse_body(packet_type: int, count: int, body: bytes) -> RtcpPacket:
    if packet_type == SR:
        reports, extension = _parse_reports(body, _SENDER.size, count)
        ssrc, ntp, rtp_timestamp, packets, octets = _SENDER.unpack_from(body)
        return SenderReport(
            ssrc=ssrc,
            ntp=ntp,
            rtp_timestamp=rtp_timestamp,
            packets=packets,
            octets=octets,
            reports=reports,
            extension=extension,
        )
    if packet_type == RR:
        reports, extension = _parse_reports(body, _SSRC.size, count)
        return ReceiverReport(ssrc=_SSRC.unpack_from(body)[0], reports=reports, extension=extension)
    if packet_type == SDES:
        return _parse_description(body, count)
    if packet_type == BYE:
        return _parse_goodbye(body, count)
    return Unknown(packet_type=packet_type, count=count, body=body)


def _parse_reports(body: bytes, start: int, count: int) -> tuple[tuple[Report, ...], bytes]:
    end = start + _REPORT.size * count
    if len(body) < end:
        raise RemoteProtocolError(f"RTCP report of {len(body)} octets announces {count} report blocks")
    reports = []
    for at in range(start, end, _REPORT.size):
        ssrc, loss, highest_sequence, jitter, last_sr, delay = _REPORT.unpack_from(body, at)
        reports.append(
            Report(
                ssrc=ssrc,
                fraction_lost=loss >> 24,
                lost=distance(0, loss & 0xFFFFFF, bits=24),
                highest_sequence=highest_sequence,
                jitter=jitter,
                last_sr=last_sr,
                delay=delay,
            )
        )
    return tuple(reports), body[end:]


def _parse_description(body: bytes, count: int) -> SourceDescription:
    sources = []
    at = 0
    for _ in range(count):
        if at + _SSRC.size > len(body):
            raise RemoteProtocolError(f"RTCP source description of {len(body)} octets announces {count} sources")
        (ssrc,) = _SSRC.unpack_from(body, at)
        at += _SSRC.size
        items = []
        # A list ends with a null octet; the end of the packet ends it too, since some senders forget it there.
        while at < len(body) and body[at]:
            if at + 2 > len(body) or at + 2 + body[at + 1] > len(body):
                raise RemoteProtocolError("RTCP source description ends inside an item")
            end = at + 2 + body[at + 1]
            items.append((body[at], body[at + 2 : end]))
            at = end
        at += 4 - at % 4  # the null octets that end the list fill its last word
        sources.append(Source(ssrc=ssrc, items=tuple(items)))
    return SourceDescription(sources=tuple(sources))


def _parse_goodbye(body: bytes, count: int) -> Goodbye:
    end = 4 * count
    if len(body) < end:
        raise RemoteProtocolError(f"RTCP goodbye of {len(body)} octets announces {count} sources")
    ssrcs = struct.unpack_from(f"!{count}I", body)
    reason = b""
    if len(body) > end:
        reason = body[end + 1 : end + 1 + body[end]]
        if len(reason) < body[end]:
            raise RemoteProtocolError("RTCP goodbye ends inside its reason")
    return Goodbye(ssrcs=ssrcs, reason=reason.decode("utf-8", "replace"))


def _names(description: SourceDescription) -> bool:
    return any(kind == CNAME for source in description.sources for kind, _ in source.items)


def _serialise_one(packet: RtcpPacket) -> bytes:
    match packet:
        case SenderReport():
            head = _SENDER.pack(packet.ssrc, packet.ntp, packet.rtp_timestamp, packet.packets, packet.octets)
            return _frame(SR, len(packet.reports), head + _serialise_reports(packet.reports) + packet.extension)
        case ReceiverReport():
            body = _SSRC.pack(packet.ssrc) + _serialise_reports(packet.reports) + packet.extension
            return _frame(RR, len(packet.reports), body)
        case SourceDescription():
            return _frame(SDES, len(packet.sources), b"".join(map(_serialise_source, packet.sources)))
        case Goodbye():
            body = struct.pack(f"!{len(packet.ssrcs)}I", *packet.ssrcs)
            if packet.reason:
                text = packet.reason.encode("utf-8", "replace")
                body += struct.pack("!B", len(text)) + text
                body += bytes(-len(body) % 4)
            return _frame(BYE, len(packet.ssrcs), body)
        case Unknown():
            return _frame(packet.packet_type, packet.count, packet.body)


def _serialise_reports(reports: tuple[Report, ...]) -> bytes:
    body = b""
    for report in reports:
        if not 0 <= report.fraction_lost <= 0xFF or clamp_lost(report.lost) != report.lost:
            raise LocalProtocolError(f"loss {report.fraction_lost}/256 or {report.lost} does not fit a report block")
        body += _REPORT.pack(
            report.ssrc,
            report.fraction_lost << 24 | report.lost & 0xFFFFFF,
            report.highest_sequence,
            report.jitter,
            report.last_sr,
            report.delay,
        )
    return body


def _serialise_source(source: Source) -> bytes:
    body = _SSRC.pack(source.ssrc)
    for kind, text in source.items:
        if kind == 0:
            raise LocalProtocolError("SDES item type 0 ends a list and is no item")
        body += struct.pack("!BB", kind, len(text)) + text
    return body + bytes(4 - len(body) % 4)


def _frame(packet_type: int, count: int, body: bytes) -> bytes:
    if count > 31:
        raise LocalProtocolError(f"{count} entries in an RTCP packet that holds 31")
    if len(body) % 4:
        raise LocalProtocolError(f"an RTCP body of {len(body)} octets is no whole number of words")
    return _HEAD.pack(VERSION << 6 | count, packet_type, len(body) // 4) + body
