"""RTCP against wire bytes, an independent parser, the examples of RFC 3550, and whatever hypothesis thinks of."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import replace

import pytest
from aiortc.rtp import RtcpByePacket, RtcpReceiverInfo, RtcpRrPacket, RtcpSdesPacket, RtcpSrPacket
from aiortc.rtp import RtcpPacket as JudgePacket
from hypothesis import given
from hypothesis import strategies as st

from rtp import rtcp
from rtp.packet import LocalProtocolError, RemoteProtocolError
from rtp.rtcp import (
    Goodbye,
    ReceiverReport,
    Report,
    RtcpPacket,
    SenderReport,
    Source,
    SourceDescription,
    Unknown,
    parse,
    serialise,
)

REPORT = Report(
    ssrc=0xAABBCCDD,
    fraction_lost=64,
    lost=-2,
    highest_sequence=0x00010203,
    jitter=24,
    last_sr=0xB7052000,
    delay=0x00054000,
)
REPORT_WIRE = "aabbccdd 40fffffe 00010203 00000018 b7052000 00054000"
SENDER = SenderReport(
    ssrc=0x11223344, ntp=0xB44DB705_20000000, rtp_timestamp=0x55667788, packets=250, octets=40000, reports=(REPORT,)
)
SENDER_WIRE = "81 c8 000c 11223344 b44db705 20000000 55667788 000000fa 00009c40" + REPORT_WIRE
RECEIVER = ReceiverReport(ssrc=0x11223344, reports=(REPORT,))
RECEIVER_WIRE = "81 c9 0007 11223344" + REPORT_WIRE
DESCRIPTION = SourceDescription(sources=(Source(ssrc=0x11223344, items=((rtcp.CNAME, b"a1b2c3"),)),))
DESCRIPTION_WIRE = "81 ca 0004 11223344 01 06 613162326333 00 000000"
GOODBYE = Goodbye(ssrcs=(0x11223344,), reason="done")
GOODBYE_WIRE = "81 cb 0003 11223344 04 646f6e65 000000"

U8 = st.integers(0, 0xFF)
U32 = st.integers(0, 0xFFFFFFFF)
REPORTS = st.lists(
    st.builds(
        Report,
        ssrc=U32,
        fraction_lost=U8,
        lost=st.integers(-(2**23), 2**23 - 1),
        highest_sequence=U32,
        jitter=U32,
        last_sr=U32,
        delay=U32,
    ),
    max_size=31,
).map(tuple)
WORDS = st.binary(max_size=40).map(lambda data: data[: len(data) // 4 * 4])
SENDERS = st.builds(
    SenderReport,
    ssrc=U32,
    ntp=st.integers(0, 2**64 - 1),
    rtp_timestamp=U32,
    packets=U32,
    octets=U32,
    reports=REPORTS,
    extension=WORDS,
)
RECEIVERS = st.builds(ReceiverReport, ssrc=U32, reports=REPORTS, extension=WORDS)
ITEMS = st.lists(st.tuples(st.integers(1, 255), st.binary(max_size=255)), max_size=4)
DESCRIPTIONS = st.builds(
    SourceDescription,
    sources=st.lists(st.builds(Source, ssrc=U32, items=ITEMS.map(tuple)), max_size=31).map(tuple),
)
GOODBYES = st.builds(
    Goodbye,
    ssrcs=st.lists(U32, max_size=31).map(tuple),
    reason=st.text(max_size=60).filter(lambda text: len(text.encode()) < 256),
)
UNKNOWNS = st.builds(
    Unknown,
    packet_type=st.integers(192, 223).filter(lambda n: n not in range(200, 204)),
    count=st.integers(0, 31),
    body=WORDS,
)
COMPOUNDS = st.tuples(
    SENDERS | RECEIVERS, st.just(DESCRIPTION), st.lists(DESCRIPTIONS | GOODBYES | UNKNOWNS, max_size=3)
).map(lambda parts: (parts[0], parts[1], *parts[2]))


@pytest.mark.conformance(
    "RFC 3550", "6.4.1", "a sender report has NTP and RTP timestamps, packets, octets, and a block on the source"
)
@pytest.mark.conformance("RFC 3550", "6.4.2", "a receiver report may be empty")
@pytest.mark.conformance("RFC 3550", "6.5", "a source description has items for each source")
@pytest.mark.conformance("RFC 3550", "6.6", "BYE names its sources, and may say why")
@pytest.mark.parametrize(
    ("packets", "wire"),
    [
        ((SENDER, DESCRIPTION), SENDER_WIRE + DESCRIPTION_WIRE),
        ((RECEIVER, DESCRIPTION), RECEIVER_WIRE + DESCRIPTION_WIRE),
        ((RECEIVER, DESCRIPTION, GOODBYE), RECEIVER_WIRE + DESCRIPTION_WIRE + GOODBYE_WIRE),
        ((ReceiverReport(ssrc=5), DESCRIPTION), "80 c9 0001 00000005" + DESCRIPTION_WIRE),
    ],
    ids=["sender", "receiver", "goodbye", "empty"],
)
def test_wire_bytes(packets: tuple[RtcpPacket, ...], wire: str) -> None:
    assert serialise(packets) == bytes.fromhex(wire)
    assert parse(bytes.fromhex(wire)) == packets


@given(COMPOUNDS)
def test_parse_undoes_serialise(packets: tuple[RtcpPacket, ...]) -> None:
    assert parse(serialise(packets)) == packets


def test_an_independent_parser_reads_the_same() -> None:
    sender, description, goodbye = JudgePacket.parse(serialise((SENDER, DESCRIPTION, GOODBYE)))
    assert isinstance(sender, RtcpSrPacket)
    assert (sender.ssrc, sender.sender_info.ntp_timestamp) == (SENDER.ssrc, SENDER.ntp)
    assert sender.sender_info.rtp_timestamp == SENDER.rtp_timestamp
    assert (sender.sender_info.packet_count, sender.sender_info.octet_count) == (250, 40000)
    assert sender.reports == [
        RtcpReceiverInfo(
            ssrc=REPORT.ssrc,
            fraction_lost=64,
            packets_lost=-2,
            highest_sequence=REPORT.highest_sequence,
            jitter=24,
            lsr=REPORT.last_sr,
            dlsr=REPORT.delay,
        )
    ]
    assert isinstance(description, RtcpSdesPacket)
    assert [(chunk.ssrc, chunk.items) for chunk in description.chunks] == [(0x11223344, [(1, b"a1b2c3")])]
    assert isinstance(goodbye, RtcpByePacket)
    assert goodbye.sources == [0x11223344]


@given(RECEIVERS.map(lambda packet: replace(packet, extension=b"")))
def test_an_independent_parser_reads_the_same_reports(packet: ReceiverReport) -> None:
    judged = JudgePacket.parse(serialise((packet, DESCRIPTION)))[0]
    assert isinstance(judged, RtcpRrPacket)
    assert [(r.ssrc, r.fraction_lost, r.packets_lost, r.highest_sequence) for r in judged.reports] == [
        (r.ssrc, r.fraction_lost, r.lost, r.highest_sequence) for r in packet.reports
    ]


def test_what_an_independent_serialiser_writes_is_read() -> None:
    theirs = RtcpRrPacket(ssrc=5, reports=[RtcpReceiverInfo(7, 1, -1, 2, 3, 4, 5)])
    assert parse(bytes(theirs)) == (
        ReceiverReport(
            ssrc=5,
            reports=(Report(ssrc=7, fraction_lost=1, lost=-1, highest_sequence=2, jitter=3, last_sr=4, delay=5),),
        ),
    )


def test_unknown_types_are_handed_through() -> None:
    extended = Unknown(packet_type=207, count=0, body=bytes.fromhex("11223344 04000002 0000000000000000"))
    feedback = Unknown(packet_type=205, count=15, body=bytes(8))
    wire = serialise((RECEIVER, DESCRIPTION, extended, feedback))
    assert parse(wire)[2:] == (extended, feedback)


@pytest.mark.conformance("RFC 3550", "6.4.1", "only the last packet of a compound may have padding")
def test_padding_of_the_last_packet_is_taken_off() -> None:
    padded = bytes.fromhex(RECEIVER_WIRE + "a0 cc 0003 11111111 22222222 00000004")
    assert parse(padded) == (RECEIVER, Unknown(packet_type=204, count=0, body=bytes.fromhex("1111111122222222")))


def test_an_item_list_may_end_with_its_packet() -> None:
    wire = bytes.fromhex(RECEIVER_WIRE + "81 ca 0003 11223344 01 06 613162326333")
    assert parse(wire) == (RECEIVER, DESCRIPTION)


def test_item_lists_fill_their_last_word() -> None:
    for length in range(8):
        sources = (Source(ssrc=1, items=((1, b"x" * length),)), Source(ssrc=2, items=((1, b"y"), (2, b""))))
        wire = serialise((RECEIVER, SourceDescription(sources=sources)))
        assert parse(wire)[1] == SourceDescription(sources=sources)
        assert wire.index(bytes.fromhex("00000002 0101")) % 4 == 0


@pytest.mark.conformance("RFC 3550", "6.1", "a compound begins with a report")
@pytest.mark.conformance("RFC 3550", "6.4.1", "only the last packet of a compound may have padding")
@pytest.mark.conformance("RFC 3550", "A.2", "version and lengths of a compound are checked")
@pytest.mark.parametrize(
    ("wire", "message"),
    [
        ("", "RTCP packet of 0 octets"),
        ("80c900", "RTCP packet of 3 octets: its header alone takes 4"),
        ("00c90001 00000001", "RTCP version 0 instead of 2"),
        (DESCRIPTION_WIRE, "opens with type 202 instead of a report"),
        (GOODBYE_WIRE, "opens with type 203 instead of a report"),
        ("80cc0001 00000001", "opens with type 204 instead of a report"),
        ("80c90002 00000001", "announces 12 octets where 8 are left"),
        ("80c90000", "report of 0 octets announces 0 report blocks"),
        ("81c90001 00000001", "report of 4 octets announces 1 report blocks"),
        ("80c80005 00000001" + 16 * "00", "report of 20 octets announces 0 report blocks"),
        ("80c90001 00000001 00c90001 00000001", "RTCP version 0"),
        ("80c90001 00000001 80", "RTCP packet of 1 octets"),
        ("a0c90002 00000001 00000004 80c90001 00000001", "padding before the last packet"),
        ("a0c90002 00000001 00000000", "padding does not fit a body of 8 octets"),
        ("a0c90002 00000001 00000003", "padding does not fit"),
        ("a0c90002 00000001 0000000c", "padding does not fit"),
        ("a0c90002 00000001 00000008", "report of 0 octets"),
        (RECEIVER_WIRE + "81ca0000", "source description of 0 octets announces 1 sources"),
        (RECEIVER_WIRE + "81ca0002 00000001 01060000", "ends inside an item"),
        (RECEIVER_WIRE + "81ca0002 00000001 01000101", "ends inside an item"),
        (RECEIVER_WIRE + "82ca0002 00000001 01000000", "announces 2 sources"),
        (RECEIVER_WIRE + "82cb0001 00000001", "goodbye of 4 octets announces 2 sources"),
        (RECEIVER_WIRE + "81cb0002 00000001 04414243", "goodbye ends inside its reason"),
    ],
)
def test_malformed_compounds_are_refused(wire: str, message: str) -> None:
    with pytest.raises(RemoteProtocolError, match=message):
        parse(bytes.fromhex(wire))


@given(st.binary(max_size=120))
def test_arbitrary_bytes_raise_only_the_error_of_the_peer(data: bytes) -> None:
    try:
        packets = parse(b"\x80\xc9" + data)
    except RemoteProtocolError:
        return
    assert isinstance(packets[0], ReceiverReport)


@given(COMPOUNDS, st.data())
def test_mutated_compounds_raise_only_the_error_of_the_peer(
    packets: tuple[RtcpPacket, ...], data: st.DataObject
) -> None:
    wire = bytearray(serialise(packets))
    for _ in range(data.draw(st.integers(1, 4))):
        wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    try:
        mutants = parse(bytes(wire))
    except RemoteProtocolError:
        return
    assert isinstance(mutants[0], SenderReport | ReceiverReport)


def described(*items: tuple[int, bytes]) -> SourceDescription:
    return SourceDescription(sources=(Source(ssrc=1, items=items),))


@pytest.mark.parametrize(
    ("packets", "message"),
    [
        ((), "opens with a sender or receiver report"),
        ((DESCRIPTION, RECEIVER), "opens with a sender or receiver report"),
        ((RECEIVER,), "carries a source description with a CNAME"),
        ((RECEIVER, described((2, b"name"))), "with a CNAME"),
        ((replace(RECEIVER, ssrc=2**32), DESCRIPTION), "does not fit"),
        ((replace(RECEIVER, reports=(REPORT,) * 32), DESCRIPTION), "32 entries"),
        ((replace(RECEIVER, reports=(replace(REPORT, lost=2**23),)), DESCRIPTION), "loss 64/256 or 8388608"),
        ((replace(RECEIVER, reports=(replace(REPORT, fraction_lost=256),)), DESCRIPTION), "loss 256/256"),
        ((replace(RECEIVER, extension=b"abc"), DESCRIPTION), "no whole number of words"),
        ((RECEIVER, described((1, b"x" * 256))), "does not fit"),
        ((RECEIVER, described((1, b"x"), (0, b""))), "ends a list"),
        ((RECEIVER, DESCRIPTION, Goodbye(ssrcs=(1,), reason="x" * 256)), "does not fit"),
        ((RECEIVER, DESCRIPTION, Goodbye(ssrcs=(1,) * 32)), "32 entries"),
    ],
)
def test_what_is_no_compound_is_not_serialised(packets: Sequence[RtcpPacket], message: str) -> None:
    with pytest.raises(LocalProtocolError, match=message):
        serialise(packets)


@pytest.mark.conformance("RFC 3550", "A.3", "the fraction lost is in 1/256, and never negative")
@pytest.mark.parametrize(
    ("expected", "received", "fraction"),
    [(100, 100, 0), (100, 75, 64), (100, 101, 0), (0, 0, 0), (4, 3, 64), (256, 255, 1), (257, 256, 0), (50, 0, 255)],
)
def test_fraction_lost(expected: int, received: int, fraction: int) -> None:
    assert rtcp.fraction_lost(expected=expected, received=received) == fraction


@pytest.mark.conformance("RFC 3550", "6.4.1", "packets lost are clamped to 24 bits and not wrapped")
@pytest.mark.parametrize(
    ("lost", "clamped"),
    [(0, 0), (2**23 - 1, 2**23 - 1), (2**23, 2**23 - 1), (-(2**23), -(2**23)), (-(2**23) - 1, -(2**23))],
)
def test_lost_is_clamped_to_24_bits(lost: int, clamped: int) -> None:
    assert rtcp.clamp_lost(lost) == clamped


@pytest.mark.conformance("RFC 3550", "6.4.1", "the round trip follows from the report that came back")
def test_round_trip_as_in_the_example_of_the_standard() -> None:
    """RFC 3550 figure 2: sent at b44db705:20000000, reported with a delay of 5.25 s, arrived at b44db710:8000."""
    report = replace(REPORT, last_sr=0xB7052000, delay=0x00054000)
    arrival = 0xB44DB710_80000000
    assert rtcp.round_trip_ns(report, arrival_ntp=arrival) == 6_125_000_000


@pytest.mark.parametrize(
    ("last_sr", "delay", "round_trip_ns"),
    [
        (0, 0x1000, None),  # no sender report of ours was heard yet
        (0xB7108000, 0, 0),
        (0xB7108000, 65, 0),  # a delay rounded up
        (0xB7108000, 0x10000, None),  # a delay of more than the whole time
        (0xFFFF8000 - 0, 0xB7110000, 0),  # across the wrap of the middle 32 bits
    ],
)
def test_round_trip_that_cannot_be_told(last_sr: int, delay: int, round_trip_ns: int | None) -> None:
    report = replace(REPORT, last_sr=last_sr, delay=delay)
    assert rtcp.round_trip_ns(report, arrival_ntp=0xB44DB710_80000000) == round_trip_ns


@pytest.mark.conformance("RFC 3550", "4", "NTP timestamps count seconds since 1900 in 32.32 bits")
@pytest.mark.parametrize(
    ("unix_ns", "ntp"),
    [
        (0, 2_208_988_800 << 32),
        (1_500_000_000, (2_208_988_801 << 32) | 1 << 31),
        (2_085_978_496 * 10**9, 0),  # 2036-02-07 06:28:16 UTC: the seconds begin anew
        (2_085_978_497 * 10**9 + 250_000_000, (1 << 32) | 1 << 30),
    ],
)
def test_ntp_timestamps(unix_ns: int, ntp: int) -> None:
    assert rtcp.ntp_from_unix_ns(unix_ns) == ntp
    assert rtcp.unix_ns_from_ntp(ntp) == unix_ns


@given(st.integers(0, 4_000_000_000 * 10**9))
def test_ntp_timestamps_keep_the_nanosecond(unix_ns: int) -> None:
    assert rtcp.unix_ns_from_ntp(rtcp.ntp_from_unix_ns(unix_ns)) == unix_ns


@pytest.mark.conformance("RFC 3550", "4", "the middle 32 bits stand for an NTP timestamp where that is enough")
def test_middle_of_an_ntp_timestamp() -> None:
    assert rtcp.middle_32(0xB44DB705_20000000) == 0xB7052000


@pytest.mark.conformance(
    "RFC 3550", "6.3.1", "a report goes out every 5 s, give or take half, and the first after half of that"
)
@pytest.mark.parametrize(
    ("random", "first", "interval_ms"),
    [(0.0, False, 2500), (0.5, False, 5000), (0.75, False, 6250), (0.0, True, 1250), (0.5, True, 2500)],
)
def test_interval_is_five_seconds_give_or_take_half(random: float, first: bool, interval_ms: int) -> None:
    assert rtcp.interval_ns(lambda: random, first=first) == interval_ms * 1_000_000


def test_words_are_counted_without_the_header() -> None:
    wire = serialise((SENDER, DESCRIPTION))
    assert struct.unpack_from("!H", wire, 2)[0] == (len(bytes.fromhex(SENDER_WIRE)) - 4) // 4
