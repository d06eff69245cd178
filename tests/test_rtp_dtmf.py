"""Telephone events: every packet of a digit that is dialled, and every way in which packets of one get lost."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtp.dtmf import DIGITS, SILENCE_NS, Detector, Digit, Event, EventFrame, dial, parse, serialise
from rtp.packet import LocalProtocolError, RemoteProtocolError

FRAME_NS = 20_000_000
EVENTS = st.builds(
    Event, code=st.integers(0, 255), end=st.booleans(), volume=st.integers(0, 63), duration=st.integers(0, 65535)
)


def five(ms: int, *, end: bool = False, code: int = 5) -> bytes:
    return serialise(Event(code=code, end=end, volume=10, duration=8 * ms))


def digit(name: str, ms: int, volume_dbm0: int = -10) -> Digit:
    return Digit(digit=name, duration_ms=ms, volume_dbm0=volume_dbm0)


def timeline(digits: str, *, ptime_ms: int = 20, **options: int) -> list[tuple[int, EventFrame | None]]:
    """Frames of a dialling beside the media clock of their slot."""
    frames = dial(digits, ptime_ms=ptime_ms, **options)
    return [(8 * ptime_ms * slot, frame) for slot, frame in enumerate(frames)]


# The payload


@pytest.mark.conformance("RFC 4733", "2.3", "the payload is event, E bit, volume and duration")
@pytest.mark.parametrize(
    ("event", "wire"),
    [
        (Event(code=0, end=False, volume=0, duration=0), "00000000"),
        (Event(code=5, end=False, volume=10, duration=160), "050a00a0"),
        (Event(code=11, end=True, volume=63, duration=65535), "0bbfffff"),
    ],
)
def test_wire_bytes(event: Event, wire: str) -> None:
    assert serialise(event) == bytes.fromhex(wire)
    assert parse(bytes.fromhex(wire)) == (event,)


@given(st.lists(EVENTS, min_size=1, max_size=16))
def test_parse_undoes_serialise(events: list[Event]) -> None:
    assert parse(b"".join(map(serialise, events))) == tuple(events)


@pytest.mark.conformance("RFC 4733", "2.3.3", "the R bit is ignored")
def test_the_reserved_bit_is_ignored() -> None:
    assert parse(bytes.fromhex("05ca0320")) == (Event(code=5, end=True, volume=10, duration=800),)


@given(st.binary(max_size=80))
def test_arbitrary_bytes_raise_only_the_error_of_the_peer(payload: bytes) -> None:
    if len(payload) % 4 or not 4 <= len(payload) <= 64:
        with pytest.raises(RemoteProtocolError, match=f"payload of {len(payload)} octets"):
            parse(payload)
    else:
        assert len(parse(payload)) == len(payload) // 4


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (Event(code=256, end=False, volume=0, duration=0), "code 256 "),
        (Event(code=0, end=False, volume=64, duration=0), "volume 64 is not in 0..63"),
        (Event(code=0, end=False, volume=-1, duration=0), "volume -1 "),
        (Event(code=0, end=False, volume=0, duration=65536), "duration 65536 is not in 0..65535"),
    ],
)
def test_a_value_that_does_not_fit_is_ours(event: Event, message: str) -> None:
    with pytest.raises(LocalProtocolError, match=message):
        serialise(event)


# Dialling


@pytest.mark.conformance("RFC 4733", "2.2.2", "the marker is on the first packet of an event and on no other")
@pytest.mark.conformance(
    "RFC 4733", "2.5.1.4", "the last packet of an event is sent three times, with the same duration"
)
def test_the_packets_of_one_digit() -> None:
    assert [(f.marker, f.offset, f.payload.hex()) for f in dial("5", duration_ms=60, gap_ms=40) if f] == [
        (True, 0, "050a00a0"),
        (False, 0, "050a0140"),
        (False, 0, "058a01e0"),
        (False, 0, "058a01e0"),
        (False, 0, "058a01e0"),
    ]


@pytest.mark.conformance("RFC 4733", "3.2", "the digits are events 0 to 15")
def test_every_digit_has_its_code() -> None:
    first = [frame.payload[0] for frame in dial(DIGITS) if frame is not None and frame.marker]
    assert first == list(range(16))
    assert [frame.payload[0] for frame in dial("abcd") if frame is not None and frame.marker] == [12, 13, 14, 15]


@pytest.mark.conformance("RFC 4733", "2.2.1", "every packet of an event has the timestamp of its beginning")
@pytest.mark.conformance("RFC 4733", "2.5.1.2", "the duration of an event grows from packet to packet")
@pytest.mark.parametrize("ptime_ms", [10, 20, 30, 40, 60])
@pytest.mark.parametrize(("duration_ms", "gap_ms"), [(40, 40), (100, 60), (250, 100), (70, 45)])
def test_the_shape_of_a_dialling(ptime_ms: int, duration_ms: int, gap_ms: int) -> None:
    frame = 8 * ptime_ms
    runs: list[list[tuple[int, EventFrame]]] = []
    for clock, entry in timeline("1#9", ptime_ms=ptime_ms, duration_ms=duration_ms, gap_ms=gap_ms):
        if entry is not None:
            if entry.marker:
                runs.append([])
            runs[-1].append((clock, entry))
    assert len(runs) == 3
    ended = None
    for run, code in zip(runs, (1, 11, 9), strict=True):
        events = [parse(entry.payload)[0] for _, entry in run]
        assert {entry.offset for _, entry in run} == {run[0][0]}  # the time of its first packet
        assert [clock for clock, _ in run] == [run[0][0] + n * frame for n in range(len(run))]
        assert {(event.code, event.volume) for event in events} == {(code, 10)}
        assert [event.end for event in events] == [False] * (len(events) - 3) + [True] * 3
        lasting = [event.duration for event in events]
        assert lasting[:-2] == [(n + 1) * frame for n in range(len(events) - 2)]
        assert lasting[-3:] == [lasting[-1]] * 3
        assert 8 * duration_ms <= lasting[-1] < 8 * duration_ms + frame
        if ended is not None:
            assert run[0][0] - ended >= 8 * gap_ms
        ended = run[0][0] + lasting[-1]


@pytest.mark.conformance("RFC 4733", "2.5.1.3", "an event longer than its field is sent in segments of 65535")
def test_a_digit_longer_than_its_field_is_sent_in_segments() -> None:
    """RFC 4733 section 2.5.1.3: 9,000 ms are 72,000 units, 65,535 in the first segment and 6,465 in the second."""
    frames = [(clock, entry) for clock, entry in timeline("7", duration_ms=9000) if entry is not None]
    first = [(clock, f) for clock, f in frames if f.offset == 0]
    second = [(clock, f) for clock, f in frames if f.offset == 65535]
    assert len(first) + len(second) == len(frames)
    assert [f.marker for _, f in frames] == [True] + [False] * (len(frames) - 1)
    ends = [parse(f.payload)[0] for _, f in first[-3:]]
    assert ends == [Event(code=7, end=False, volume=10, duration=65535)] * 3
    assert parse(first[-4][1].payload)[0].duration == 65440
    for clock, f in second[:-3]:
        assert parse(f.payload)[0] == Event(code=7, end=False, volume=10, duration=clock + 160 - 65535)
    assert [parse(f.payload)[0] for _, f in second[-3:]] == [Event(code=7, end=True, volume=10, duration=6465)] * 3


@pytest.mark.conformance("RFC 4733", "2.3.4", "the volume is in -dBm0, from 0 to 63")
@pytest.mark.parametrize("volume", [0, 63])
def test_every_volume_is_sent_as_it_is(volume: int) -> None:
    assert {parse(frame.payload)[0].volume for frame in dial("1", volume=volume) if frame} == {volume}


@pytest.mark.parametrize(
    ("digits", "options", "message"),
    [
        ("", {}, "'' is not made of the digits"),
        ("12E", {}, "'12E' is not made of the digits"),
        ("1 2", {}, "is not made of the digits"),
        ("1", {"duration_ms": 39}, "39 ms and a gap of 60 ms: both must be at least 40 ms"),
        ("1", {"gap_ms": 20}, "gap of 20 ms"),
        ("1", {"volume": 64}, "volume 64 is not in 0..63"),
    ],
)
def test_what_cannot_be_dialled_is_refused_at_once(digits: str, options: dict[str, int], message: str) -> None:
    with pytest.raises(LocalProtocolError, match=message):
        dial(digits, **options)


# Detection


@pytest.mark.conformance(
    "RFC 4733", "2.3.2", "an event ends at the first packet with the E bit, and copies of that are ignored"
)
def test_a_digit_is_reported_at_its_first_end_packet_alone() -> None:
    detector = Detector()
    found = [
        detector.receive(payload, timestamp=4000, now_ns=n * FRAME_NS)
        for n, payload in enumerate([five(20), five(40), five(60, end=True), five(60, end=True), five(60, end=True)])
    ]
    assert found == [[], [], [digit("5", 60)], [], []]
    assert detector.wake_at_ns() is None


@pytest.mark.conformance("RFC 4733", "2.2.1", "another timestamp is another event")
def test_the_same_digit_again_has_another_timestamp() -> None:
    detector = Detector()
    for timestamp in (4000, 5600, 7200):
        for _ in range(3):
            found = detector.receive(five(60, end=True), timestamp=timestamp, now_ns=0)
            assert found == ([digit("5", 60)] if _ == 0 else [])


@pytest.mark.conformance("RFC 4733", "2.5.2.2", "an event whose last packets are all lost ends when the next begins")
def test_all_ends_lost_reported_with_the_next_event() -> None:
    detector = Detector()
    assert detector.receive(five(80), timestamp=0, now_ns=0) == []
    assert detector.receive(five(20, code=6), timestamp=1600, now_ns=FRAME_NS) == [digit("5", 80)]
    assert detector.receive(five(40, code=6, end=True), timestamp=1600, now_ns=2 * FRAME_NS) == [digit("6", 40)]


def test_all_ends_lost_and_the_next_known_by_its_end_alone() -> None:
    detector = Detector()
    detector.receive(five(80), timestamp=0, now_ns=0)
    found = detector.receive(five(40, code=6, end=True), timestamp=1600, now_ns=FRAME_NS)
    assert found == [digit("5", 80), digit("6", 40)]


@pytest.mark.conformance(
    "RFC 4733", "2.5.2.2", "an event whose last packets are all lost ends when nothing comes for some time"
)
def test_all_ends_lost_reported_when_nothing_more_comes() -> None:
    detector = Detector()
    detector.receive(five(20), timestamp=0, now_ns=0)
    detector.receive(five(40), timestamp=0, now_ns=FRAME_NS)
    assert detector.wake_at_ns() == FRAME_NS + SILENCE_NS
    assert detector.handle_timer(FRAME_NS + SILENCE_NS - 1) == []
    assert detector.handle_timer(FRAME_NS + SILENCE_NS) == [digit("5", 40)]
    assert detector.handle_timer(10 * SILENCE_NS) == []
    assert detector.receive(five(60, end=True), timestamp=0, now_ns=10 * SILENCE_NS) == []


def test_reordered_packets_neither_repeat_nor_shorten_a_digit() -> None:
    detector = Detector()
    detector.receive(five(60), timestamp=800, now_ns=0)
    detector.receive(five(20), timestamp=800, now_ns=0)
    assert detector.receive(five(80, end=True), timestamp=800, now_ns=0) == [digit("5", 80)]
    assert detector.receive(five(20, code=6), timestamp=2400, now_ns=0) == []
    assert detector.receive(five(80, end=True), timestamp=800, now_ns=0) == []
    assert detector.receive(five(40, code=6, end=True), timestamp=2400, now_ns=0) == [digit("6", 40)]


def test_timestamps_wrap_between_digits() -> None:
    detector = Detector()
    assert detector.receive(five(40, end=True), timestamp=2**32 - 400, now_ns=0) == [digit("5", 40)]
    assert detector.receive(five(40, end=True), timestamp=400, now_ns=0) == [digit("5", 40)]


def test_a_new_source_is_not_in_sequence_with_the_old() -> None:
    detector = Detector()
    detector.receive(five(40, end=True), timestamp=1_000_000, now_ns=0)
    assert detector.receive(five(40, end=True), timestamp=5, now_ns=0) == []
    detector.reset()
    assert detector.receive(five(40, end=True), timestamp=5, now_ns=0) == [digit("5", 40)]


def test_volume_is_reported() -> None:
    payload = serialise(Event(code=0, end=True, volume=36, duration=800))
    assert Detector().receive(payload, timestamp=0, now_ns=0) == [digit("0", 100, -36)]


def test_events_that_are_no_digits_are_not_reported() -> None:
    detector = Detector()
    flash = serialise(Event(code=16, end=True, volume=10, duration=800))
    assert detector.receive(flash, timestamp=0, now_ns=0) == []
    assert detector.handle_timer(10 * SILENCE_NS) == []


@pytest.mark.conformance("RFC 4733", "2.5.2.4", "several events in one packet follow each other")
def test_several_reports_in_one_payload_follow_each_other() -> None:
    payload = five(40, code=1, end=True) + five(50, code=2, end=True)
    detector = Detector()
    assert detector.receive(payload, timestamp=0, now_ns=0) == [digit("1", 40), digit("2", 50)]
    assert detector.receive(payload, timestamp=0, now_ns=0) == []


def test_another_clock_rate() -> None:
    payload = serialise(Event(code=3, end=True, volume=10, duration=1600))
    assert Detector(rate_hz=16000).receive(payload, timestamp=0, now_ns=0) == [digit("3", 100)]


def detected(frames: list[tuple[int, EventFrame | None]], start: int = 1000) -> list[Digit]:
    detector = Detector()
    found: list[Digit] = []
    now_ns = 0
    for now_ns, (_, frame) in zip(itertools.count(0, FRAME_NS), frames, strict=False):
        found += detector.handle_timer(now_ns)
        if frame is not None:
            found += detector.receive(frame.payload, timestamp=(start + frame.offset) % 2**32, now_ns=now_ns)
    return found + detector.handle_timer(now_ns + SILENCE_NS)


@pytest.mark.parametrize("start", [0, 2**32 - 1, 2**31])
def test_what_is_dialled_is_detected(start: int) -> None:
    assert detected(timeline("0123456789*#ABCD"), start) == [digit(name, 100) for name in DIGITS]


@pytest.mark.conformance("RFC 4733", "2.5.2.3", "the segments of an event are one event")
def test_a_digit_in_segments_is_one_digit() -> None:
    frames = timeline("77", duration_ms=20_000)
    assert detected(frames) == [digit("7", 20_000)] * 2
    # Two of the three packets that end each segment are lost, and a second on either side of the border.
    sparse = [(clock, f) for clock, f in frames if f is None or clock // 160 % 3 == 0]
    assert detected(sparse) == [digit("7", 20_000)] * 2


@given(st.text(alphabet=DIGITS, min_size=1, max_size=12), st.integers(0, 2**32), st.floats(0, 0.5))
def test_loss_never_repeats_or_invents_a_digit(digits: str, seed: int, loss: float) -> None:
    """A digit is lost only when all of its packets are."""
    chance = random.Random(seed)
    frames = [(clock, f if f is None or chance.random() >= loss else None) for clock, f in timeline(digits)]
    heard = {f.offset for _, f in frames if f is not None}
    starts = [f.offset for _, f in timeline(digits) if f is not None and f.marker]
    expected = [name for name, start in zip(digits, starts, strict=True) if start in heard]
    assert [found.digit for found in detected(frames)] == expected


@given(st.lists(st.tuples(st.binary(max_size=12), st.integers(0, 2**32 - 1)), max_size=20))
def test_the_detector_survives_anything(payloads: list[tuple[bytes, int]]) -> None:
    detector = Detector()
    events = 0
    found: list[Digit] = []
    for payload, timestamp in payloads:
        try:
            found += detector.receive(payload, timestamp=timestamp, now_ns=0)
        except RemoteProtocolError:
            continue
        events += len(payload) // 4
    assert len(found) <= events
    assert all(each.digit in DIGITS and each.duration_ms >= 0 and -63 <= each.volume_dbm0 <= 0 for each in found)


def test_a_digit_has_begun_with_the_first_packet_of_its_event_and_only_then() -> None:
    detector = Detector()
    begun = []
    for ms, end in ((20, False), (40, False), (60, True), (60, True), (60, True)):
        detector.receive(five(ms, end=end), timestamp=480, now_ns=0)
        begun.append(detector.begun)
    assert begun == [1] * 5
    # The end alone is a beginning too, and an event that is no digit is none.
    detector.receive(five(60, end=True), timestamp=2480, now_ns=0)
    detector.receive(five(60, code=16), timestamp=4480, now_ns=0)
    assert detector.begun == 2
