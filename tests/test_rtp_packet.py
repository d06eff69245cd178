"""RTP packets against wire bytes, an independent parser, and whatever hypothesis thinks of."""

from __future__ import annotations

from dataclasses import replace

import pytest
from aiortc.rtp import RtpPacket as JudgePacket
from hypothesis import example, given
from hypothesis import strategies as st

from rtp.packet import (
    SEQUENCE_BITS,
    TIMESTAMP_BITS,
    Extension,
    LocalProtocolError,
    Packet,
    RemoteProtocolError,
    distance,
    is_rtcp,
    parse,
    serialise,
    serialise_into,
)

PLAIN = Packet(payload_type=0, sequence=0x1234, timestamp=0x9ABCDEF0, ssrc=0xDEADBEEF, payload=b"\xff\x7f", marker=True)
PLAIN_WIRE = bytes.fromhex("80 80 1234 9abcdef0 deadbeef ff7f")
FULL = Packet(
    payload_type=101,
    sequence=65535,
    timestamp=0xFFFFFFFF,
    ssrc=1,
    payload=b"abc",
    csrcs=(2, 0xFFFFFFFF),
    extension=Extension(profile=0xBEDE, data=bytes.fromhex("10aa0000")),
    padding=5,
)
FULL_WIRE = bytes.fromhex("b2 65 ffff ffffffff 00000001 00000002 ffffffff bede 0001 10aa0000 616263 0000000005")

U16 = st.integers(0, 0xFFFF)
U32 = st.integers(0, 0xFFFFFFFF)
EXTENSIONS = st.builds(Extension, profile=U16, data=st.binary(max_size=40).map(lambda data: data[: len(data) // 4 * 4]))
PACKETS = st.builds(
    Packet,
    payload_type=st.integers(0, 127),
    sequence=U16,
    timestamp=U32,
    ssrc=U32,
    payload=st.binary(max_size=400),
    marker=st.booleans(),
    csrcs=st.lists(U32, max_size=15).map(tuple),
    extension=st.none() | EXTENSIONS,
    padding=st.integers(0, 255),
)


@pytest.mark.conformance(
    "RFC 3550", "5.1", "a packet begins with version, marker, payload type, sequence, timestamp and SSRC"
)
@pytest.mark.conformance("RFC 3550", "5.3.1", "a header extension has a profile and whole words")
@pytest.mark.parametrize(("packet", "wire"), [(PLAIN, PLAIN_WIRE), (FULL, FULL_WIRE)], ids=["plain", "full"])
def test_wire_bytes(packet: Packet, wire: bytes) -> None:
    assert serialise(packet) == wire
    assert parse(wire) == packet
    assert packet.size == len(wire)


@given(PACKETS)
def test_parse_undoes_serialise(packet: Packet) -> None:
    wire = serialise(packet)
    assert parse(wire) == packet
    assert len(wire) == packet.size


@pytest.mark.conformance(
    "RFC 3550", "5.1", "a packet begins with version, marker, payload type, sequence, timestamp and SSRC"
)
@given(PACKETS)
def test_an_independent_parser_reads_the_same(packet: Packet) -> None:
    # The judge unpacks what is inside extensions of the two profiles of RFC 8285, and may find it wanting.
    extension = packet.extension
    if extension is not None and extension.profile in (0xBEDE, 0x1000):
        packet = replace(packet, extension=replace(extension, profile=1))
    judged = JudgePacket.parse(serialise(packet))
    assert judged.version == 2
    assert (judged.marker, judged.payload_type) == (packet.marker, packet.payload_type)
    assert (judged.sequence_number, judged.timestamp, judged.ssrc) == (packet.sequence, packet.timestamp, packet.ssrc)
    assert (judged.csrc, judged.padding_size) == (list(packet.csrcs), packet.padding)
    assert judged.payload == packet.payload


@given(st.integers(0, 127), st.booleans(), U16, U32, U32, st.binary(max_size=200))
def test_what_an_independent_serialiser_writes_is_read(
    payload_type: int, marker: bool, sequence: int, timestamp: int, ssrc: int, payload: bytes
) -> None:
    wire = JudgePacket(payload_type, marker, sequence, timestamp, ssrc, payload).serialize()
    assert parse(wire) == Packet(
        payload_type=payload_type, sequence=sequence, timestamp=timestamp, ssrc=ssrc, payload=payload, marker=marker
    )
    assert serialise(parse(wire)) == wire


def test_serialise_into_the_callers_buffer() -> None:
    buffer = bytearray(b"\xee" * 20)
    assert serialise_into(PLAIN, buffer, 3) == 14
    assert buffer == b"\xee" * 3 + PLAIN_WIRE + b"\xee" * 3
    assert serialise_into(PLAIN, memoryview(buffer)[6:]) == 14
    assert buffer[6:] == PLAIN_WIRE


@pytest.mark.parametrize("offset", [-1, 7, 21])
def test_a_buffer_that_is_too_short_is_left_alone(offset: int) -> None:
    buffer = bytearray(20)
    with pytest.raises(LocalProtocolError, match=f"14 octets at {offset} in a buffer of 20"):
        serialise_into(PLAIN, buffer, offset)
    assert buffer == bytes(20)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"payload_type": 128}, "payload type 128 is not in 0..127"),
        ({"payload_type": -1}, "payload type -1 "),
        ({"sequence": 65536}, "sequence number 65536 "),
        ({"timestamp": 2**32}, "timestamp 4294967296 "),
        ({"ssrc": -1}, "SSRC -1 "),
        ({"padding": 256}, "padding 256 is not in 0..255"),
        ({"csrcs": (0,) * 16}, "contributing sources 16 is not in 0..15"),
        ({"csrcs": (2**32,)}, "contributing source 4294967296 "),
        ({"extension": Extension(profile=65536)}, "extension profile 65536 "),
        ({"extension": Extension(profile=0, data=b"abc")}, "extension of 3 octets "),
        ({"extension": Extension(profile=0, data=bytes(4 * 65536))}, "extension of 262144 octets "),
    ],
)
def test_a_value_that_does_not_fit_is_ours(changes: dict[str, int], message: str) -> None:
    with pytest.raises(LocalProtocolError, match=message):
        serialise(replace(PLAIN, **changes))


@pytest.mark.conformance("RFC 3550", "A.1", "version, payload type, padding and extension of a packet are checked")
@pytest.mark.parametrize(
    ("wire", "message"),
    [
        ("", "RTP packet of 0 octets"),
        ("80 00 0001 00000002 000000", "RTP packet of 11 octets: its header alone takes 12"),
        ("00 00 0001 00000002 00000003", "RTP version 0 instead of 2"),
        ("c0 00 0001 00000002 00000003", "RTP version 3 instead of 2"),
        ("82 00 0001 00000002 00000003 00000004", "announces 2 contributing sources"),
        ("90 00 0001 00000002 00000003 bede00", "ends inside the head of its extension"),
        ("90 00 0001 00000002 00000003 bede 0002 00000000", "announces an extension of 8 octets"),
        ("a0 00 0001 00000002 00000003", "padding of 3 octets where 0 follow the header"),
        ("a0 00 0001 00000002 00000003 aa00", "padding of 0 octets where 2 follow"),
        ("a0 00 0001 00000002 00000003 aa03", "padding of 3 octets where 2 follow"),
    ],
)
def test_malformed_packets_are_refused(wire: str, message: str) -> None:
    with pytest.raises(RemoteProtocolError, match=message):
        parse(bytes.fromhex(wire))


@pytest.mark.parametrize("size", range(len(FULL_WIRE)))
def test_no_prefix_of_a_packet_is_misread(size: int) -> None:
    """Cut anywhere in its head it is refused; cut in the payload its last octet is no padding that fits, or 0."""
    with pytest.raises(RemoteProtocolError):
        parse(FULL_WIRE[:size])


@given(st.binary(max_size=80))
@example(b"\xbf" + bytes(79))
def test_arbitrary_bytes_raise_only_the_error_of_the_peer(data: bytes) -> None:
    try:
        packet = parse(data)
    except RemoteProtocolError:
        return
    # The octets of padding are the sender's business, all but the last; everything else comes back as it was.
    assert serialise(packet)[: len(data) - packet.padding] == data[: len(data) - packet.padding]


@given(PACKETS, st.data())
def test_mutated_packets_raise_only_the_error_of_the_peer(packet: Packet, data: st.DataObject) -> None:
    wire = bytearray(serialise(packet))
    for _ in range(data.draw(st.integers(1, 4))):
        wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    try:
        mutant = parse(bytes(wire))
    except RemoteProtocolError:
        return
    assert mutant.size == len(wire)


@pytest.mark.parametrize(
    ("earlier", "later", "bits", "ahead"),
    [
        (0, 1, 16, 1),
        (1, 0, 16, -1),
        (65535, 0, 16, 1),
        (0, 65535, 16, -1),
        (0, 32767, 16, 32767),
        (0, 32768, 16, -32768),
        (65535, 65535, 16, 0),
        (2**32 - 160, 160, 32, 320),
        (160, 2**32 - 160, 32, -320),
        (0, 2**31, 32, -(2**31)),
    ],
)
def test_distance_goes_the_shorter_way_round(earlier: int, later: int, bits: int, ahead: int) -> None:
    assert distance(earlier, later, bits=bits) == ahead


@given(st.integers(), st.integers(), st.sampled_from([SEQUENCE_BITS, TIMESTAMP_BITS]))
def test_distance_leads_from_the_earlier_to_the_later(earlier: int, later: int, bits: int) -> None:
    ahead = distance(earlier, later, bits=bits)
    assert (earlier + ahead - later) % 2**bits == 0
    assert -(2 ** (bits - 1)) <= ahead < 2 ** (bits - 1)


@pytest.mark.conformance("RFC 5761", "4", "RTCP is told from RTP by its packet type")
def test_rtcp_is_told_from_rtp_by_its_packet_type() -> None:
    rtcp = [packet_type for packet_type in range(256) if is_rtcp(bytes((0x80, packet_type, 0, 0)))]
    assert rtcp == list(range(192, 224))


@pytest.mark.parametrize("data", [b"", b"\x80", b"\x00\xc8\x00\x00", b"\xc0\xc8\x00\x00"])
def test_what_is_not_of_version_2_is_no_rtcp(data: bytes) -> None:
    assert not is_rtcp(data)


@pytest.mark.conformance("RFC 5761", "4", "RTCP is told from RTP by its packet type")
@pytest.mark.parametrize("payload_type", [0, 8, 13, 96, 101, 127])
def test_no_rtp_packet_of_telephony_passes_for_rtcp(payload_type: int) -> None:
    for marker in (False, True):
        assert not is_rtcp(serialise(replace(PLAIN, payload_type=payload_type, marker=marker)))
