"""The RTP packet (RFC 3550 section 5.1), the arithmetic of its counters, and the errors of this folder.

Errors, by who is to blame:

    RtpError
    ├── LocalProtocolError    ours: a value that does not fit its field, or a rule of the session broken by us
    └── RemoteProtocolError   the peer's: what arrived is not what the RFC describes; the message says where
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

__all__ = [
    "HEADER_SIZE",
    "SEQUENCE_BITS",
    "TIMESTAMP_BITS",
    "Extension",
    "LocalProtocolError",
    "Packet",
    "RemoteProtocolError",
    "RtpError",
    "distance",
    "is_rtcp",
    "parse",
    "serialise",
    "serialise_into",
]

VERSION = 2
HEADER_SIZE = 12  # octets, without contributing sources and extension
SEQUENCE_BITS = 16
TIMESTAMP_BITS = 32

_FIXED = struct.Struct("!BBHII")
_EXTENSION = struct.Struct("!HH")
_SSRCS = tuple(struct.Struct(f"!{count}I") for count in range(16))


class RtpError(Exception):
    """Base of everything that this folder raises on purpose."""


class LocalProtocolError(RtpError):
    """We asked for something that cannot be put on the wire."""


class RemoteProtocolError(RtpError):
    """What arrived is malformed; it is counted and dropped, never answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extension:
    """A header extension (RFC 3550 section 5.3.1): 16 bits that the profile defines, and a multiple of 4 octets."""

    profile: int
    data: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """One RTP packet.

    payload_type  0..127
    sequence      16 bits, one more for each packet
    timestamp     32 bits, in units of the codec's clock (8000 Hz for G.711)
    ssrc          32 bits, who speaks
    csrcs         up to 15 contributing sources, 32 bits each
    padding       octets of padding after the payload, 0..255; the last of them is this number
    """

    payload_type: int
    sequence: int
    timestamp: int
    ssrc: int
    payload: bytes = b""
    marker: bool = False
    csrcs: tuple[int, ...] = ()
    extension: Extension | None = None
    padding: int = 0

    @property
    def size(self) -> int:
        """Octets that it takes on the wire."""
        extension = 0 if self.extension is None else _EXTENSION.size + len(self.extension.data)
        return HEADER_SIZE + 4 * len(self.csrcs) + extension + len(self.payload) + self.padding


def distance(earlier: int, later: int, *, bits: int) -> int:
    """How far `later` lies after `earlier` on a counter of `bits` bits that wraps around.

    The shorter way round counts, so the result is in -2**(bits - 1) .. 2**(bits - 1) - 1; negative means before.
    """
    half = 1 << (bits - 1)
    return ((later - earlier + half) & ((1 << bits) - 1)) - half


def is_rtcp(data: bytes) -> bool:
    """Whether a datagram on a port shared by RTP and RTCP is RTCP (RFC 5761 section 4).

    RTCP packet types that can open a datagram lie in 192..223, which RTP would read as payload types 64..95 with the
    marker set; those payload types are therefore not used on such a port.
    """
    return len(data) >= 2 and data[0] >> 6 == VERSION and 192 <= data[1] <= 223


def parse(data: bytes) -> Packet:
    """The packet in a datagram. Raises RemoteProtocolError (RFC 3550 section 5.1, appendix A.1)."""
    size = len(data)
    if size < HEADER_SIZE:
        raise RemoteProtocolError(f"RTP packet of {size} octets: its header alone takes {HEADER_SIZE}")
    flags, marked_type, sequence, timestamp, ssrc = _FIXED.unpack_from(data)
    if flags >> 6 != VERSION:
        raise RemoteProtocolError(f"RTP version {flags >> 6} instead of {VERSION}")

    sources = _SSRCS[flags & 0x0F]
    start = HEADER_SIZE + sources.size
    if start > size:
        raise RemoteProtocolError(f"RTP packet of {size} octets announces {flags & 0x0F} contributing sources")
    csrcs = sources.unpack_from(data, HEADER_SIZE)

    extension = None
    if flags & 0x10:
        if start + _EXTENSION.size > size:
            raise RemoteProtocolError(f"RTP packet of {size} octets ends inside the head of its extension")
        profile, words = _EXTENSION.unpack_from(data, start)
        start += _EXTENSION.size
        if start + 4 * words > size:
            raise RemoteProtocolError(f"RTP packet of {size} octets announces an extension of {4 * words} octets")
        extension = Extension(profile=profile, data=bytes(data[start : start + 4 * words]))
        start += 4 * words

    padding = 0
    if flags & 0x20:
        padding = data[-1]
        if not 1 <= padding <= size - start:
            raise RemoteProtocolError(f"RTP padding of {padding} octets where {size - start} follow the header")

    return Packet(
        payload_type=marked_type & 0x7F,
        sequence=sequence,
        timestamp=timestamp,
        ssrc=ssrc,
        payload=bytes(data[start : size - padding]),
        marker=marked_type >= 0x80,
        csrcs=csrcs,
        extension=extension,
        padding=padding,
    )


def serialise(packet: Packet) -> bytes:
    """The packet's octets. Raises LocalProtocolError for a value that does not fit its field."""
    buffer = bytearray(packet.size)
    serialise_into(packet, buffer)
    return bytes(buffer)


def serialise_into(packet: Packet, buffer: bytearray | memoryview, offset: int = 0) -> int:
    """Write the packet at `offset` of the caller's buffer; returns how many octets it took.

    Raises LocalProtocolError, and leaves the buffer alone, when a value does not fit its field or the packet the
    buffer.
    """
    _check(packet)
    size = packet.size
    if offset < 0 or offset + size > len(buffer):
        raise LocalProtocolError(f"an RTP packet of {size} octets at {offset} in a buffer of {len(buffer)}")
    extension = packet.extension
    flags = VERSION << 6 | (packet.padding > 0) << 5 | (extension is not None) << 4 | len(packet.csrcs)
    marked_type = packet.marker << 7 | packet.payload_type
    _FIXED.pack_into(buffer, offset, flags, marked_type, packet.sequence, packet.timestamp, packet.ssrc)
    at = offset + HEADER_SIZE
    if packet.csrcs:
        _SSRCS[len(packet.csrcs)].pack_into(buffer, at, *packet.csrcs)
        at += 4 * len(packet.csrcs)
    if extension is not None:
        _EXTENSION.pack_into(buffer, at, extension.profile, len(extension.data) // 4)
        at += _EXTENSION.size
        buffer[at : at + len(extension.data)] = extension.data
        at += len(extension.data)
    buffer[at : at + len(packet.payload)] = packet.payload
    at += len(packet.payload)
    if packet.padding:
        buffer[at : at + packet.padding] = bytes(packet.padding - 1) + bytes((packet.padding,))
    return size


def _check(packet: Packet) -> None:
    for name, value, limit in (
        ("payload type", packet.payload_type, 0x7F),
        ("sequence number", packet.sequence, 0xFFFF),
        ("timestamp", packet.timestamp, 0xFFFFFFFF),
        ("SSRC", packet.ssrc, 0xFFFFFFFF),
        ("padding", packet.padding, 0xFF),
        ("number of contributing sources", len(packet.csrcs), 15),
    ):
        if not 0 <= value <= limit:
            raise LocalProtocolError(f"RTP {name} {value} is not in 0..{limit}")
    for csrc in packet.csrcs:
        if not 0 <= csrc <= 0xFFFFFFFF:
            raise LocalProtocolError(f"RTP contributing source {csrc} is not in 0..{0xFFFFFFFF}")
    if packet.extension is not None:
        if not 0 <= packet.extension.profile <= 0xFFFF:
            raise LocalProtocolError(f"RTP extension profile {packet.extension.profile} is not in 0..65535")
        words, rest = divmod(len(packet.extension.data), 4)
        if rest or words > 0xFFFF:
            raise LocalProtocolError(
                f"RTP extension of {len(packet.extension.data)} octets is not 0..65535 words of 4 octets"
            )
