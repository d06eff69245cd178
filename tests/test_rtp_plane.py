"""The compiled plane: the rules that it shares with session.py, ticked by hand, and those of its own."""

from __future__ import annotations

import ctypes
import os
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from itertools import pairwise
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtp import dtmf
from rtp._plane import LATENESS_BOUNDS_US, Line, Plane
from rtp.g711 import alaw_decode, mulaw_decode
from rtp.packet import LocalProtocolError, Packet, serialise
from rtp.session import PCMA, PCMU, Sender
from tests.rtp_rules import (
    ELSEWHERE,
    OTHER,
    PAYLOAD_TYPES,
    RULES,
    SIGNALLED,
    TELEPHONE_EVENT,
    Datagrams,
    Options,
    Rule,
    media,
    speech,
    telephone_event,
)

SSRC, SEQUENCE, TIMESTAMP = 0xDECAFBAD, 65530, 2**32 - 500
MS = 1_000_000


class PlaneRig:
    """tests.rtp_rules.Rig over a plane without a thread."""

    def __init__(self, options: Options) -> None:
        self.plane = Plane(threads=0, epoch_ns=0, start_ms=options.start_ms)
        self.line = self.plane.open(ssrc=SSRC, sequence=SEQUENCE, timestamp=TIMESTAMP)
        self.now_ms = 0
        self.detector = dtmf.Detector()
        self.sources = 0
        self.happened: list[tuple[object, ...]] = []
        self.connect(options)
        self.plane.tick(0)

    def connect(self, options: Options) -> None:
        host, port = options.signalled
        self.alaw = options.codec == "PCMA"
        self.ptime_ms = options.ptime_ms
        self.line.connect(
            host=host,
            port=port,
            alaw=self.alaw,
            payload_type=PAYLOAD_TYPES[options.codec],
            ptime_ms=options.ptime_ms,
            telephone_event=TELEPHONE_EVENT,
            timeout_ms=options.timeout_ms,
        )

    def start(self) -> None:
        self.line.start()

    def mute(self) -> None:
        self.line.mute()

    def unmute(self) -> None:
        self.line.unmute()

    def hold(self) -> None:
        self.line.hold()

    def resume(self) -> None:
        self.line.resume()

    def write(self, codes: bytes) -> None:
        assert self.line.write(codes, 0, self.alaw) == len(codes)

    def play(self, codes: bytes) -> None:
        assert self.line.play(codes, self.alaw)

    def end(self) -> None:
        self.line.end()

    def flush(self) -> float:
        return self.line.flush() / 8

    def dial(self, digits: str) -> None:
        frames = dtmf.dial(digits, ptime_ms=self.ptime_ms)
        self.line.dial([None if f is None else (f.marker, f.offset, f.payload) for f in frames])

    def tick(self) -> Datagrams:
        sent = [(self.now_ms, packet) for _, packet in self.plane.tick(self.now_ms * MS)]
        for what, _, number, time_ns, address, data in self.plane.notices():
            if what == "latched":
                self.happened.append(("latched", *address))
            elif what == "timed_out":
                self.happened.append(("timeout",))
            elif what == "telephone_event":
                if number >> 32 != self.sources:
                    self.detector.reset()
                    self.sources = number >> 32
                self.report(self.detector.receive(data, timestamp=number & 0xFFFFFFFF, now_ns=time_ns))
        self.report(self.detector.handle_timer(self.now_ms * MS))
        return sent

    def report(self, digits: list[dtmf.Digit]) -> None:
        self.happened += [("digit", digit.digit, digit.duration_ms) for digit in digits]

    def run(self, ms: int) -> Datagrams:
        sent: Datagrams = []
        for _ in range(ms):
            sent += self.tick()
            self.now_ms += 1
        return sent

    def stall(self, ms: int) -> Datagrams:
        self.now_ms += ms
        sent = self.tick()
        self.now_ms += 1
        return sent

    def hear(self, datagram: bytes, address: tuple[str, int]) -> None:
        self.plane.tick(self.now_ms * MS)
        self.line.receive(datagram, *address, self.now_ms * MS)

    def events(self) -> list[tuple[object, ...]]:
        self.tick()
        happened, self.happened = self.happened, []
        return happened

    def sent(self) -> Mapping[str, int]:
        counts = self.line.counters()
        return {
            "packets": counts["packets_sent"],
            "octets": counts["octets_sent"],
            "speech": counts["speech_frames"],
            "silence": counts["silence_frames"],
            "underrun": counts["underrun_frames"],
            "event": counts["event_frames"],
            "underruns": counts["underruns"],
            "skipped": counts["skipped_frames"],
        }

    def received(self) -> Mapping[str, float]:
        counts: dict[str, float] = dict(self.line.counters())
        heard = self.line.heard()
        counts["packets"] = counts["packets_received"]
        counts["octets"] = counts["octets_received"]
        counts["jitter_ms"] = 0 if heard is None else heard[4] / 8
        return counts


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule(rule: Rule) -> None:
    rule(PlaneRig)


# The reference and the plane, side by side

OPERATIONS = st.one_of(
    st.tuples(st.just("write"), st.integers(1, 12)),  # in units of 10 ms
    st.tuples(st.just("play"), st.integers(1, 150)),
    st.tuples(st.just("end")),
    st.tuples(st.just("flush")),
    st.tuples(st.just("hold")),
    st.tuples(st.just("resume")),
    st.tuples(st.just("dial"), st.text("0123456789*#ABCD", min_size=1, max_size=2)),
    st.tuples(st.just("connect"), st.sampled_from(("PCMU", "PCMA"))),
    st.tuples(st.just("run"), st.integers(1, 90)),
    st.tuples(st.just("stall"), st.integers(1, 200)),
)


@given(ptime_ms=st.sampled_from((10, 20, 30, 40, 60)), start_ms=st.sampled_from((0, 20, 60)), do=st.lists(OPERATIONS))
@settings(max_examples=150, deadline=None)
def test_reference_and_plane_send_the_same(ptime_ms: int, start_ms: int, do: list[tuple[Any, ...]]) -> None:
    options = Options(ptime_ms=ptime_ms, start_ms=start_ms)
    rig = PlaneRig(options)
    rig.now_ms = 1  # the constructor has ticked millisecond 0
    reference = Sender(ssrc=SSRC, sequence=SEQUENCE, timestamp=TIMESTAMP, start_ms=start_ms)
    codec = PCMU
    reference.connect(codec=codec, payload_type=0, ptime_ms=ptime_ms, telephone_event=TELEPHONE_EVENT)
    rig.start()
    reference.start(MS)
    assert rig.run(1) == [(1, datagram) for datagram in reference.tick(MS)]
    written = over = 0
    for what, *arguments in [*do, ("end",), ("run", 300)]:
        if what == "write":
            codes = speech(6, first=written)[: 80 * arguments[0]]
            written += 1
            taken = rig.line.write(codes, 0, rig.alaw)
            assert reference.write(codes[:taken]) == taken
            assert taken == len(codes) or rig.line.await_room()
            over = (over + taken) % (8 * ptime_ms)
        elif what == "play":
            if over:  # in whole frames, as at an end
                continue
            codes = speech(75, first=written)[: 80 * arguments[0]]
            codes = codes[: len(codes) // (8 * ptime_ms) * 8 * ptime_ms]
            written += 1
            if rig.line.play(codes, rig.alaw):
                reference.play(codes)
            else:
                assert rig.line.await_room()
        elif what == "end":
            if over:  # in whole frames: where two short utterances share one, reference and plane differ
                continue
            rig.end()
            reference.end()
        elif what == "flush":
            assert rig.flush() == reference.flush() / 8
            over = 0
        elif what == "hold":
            rig.hold()
            reference.hold()
        elif what == "resume":
            rig.resume()
            reference.resume(rig.now_ms * MS)
        elif what == "dial":
            rig.dial(arguments[0])
            reference.dial(arguments[0])
        elif what == "connect":
            codec = {"PCMU": PCMU, "PCMA": PCMA}[arguments[0]]
            rig.connect(replace(options, codec=codec.name))
            reference.connect(
                codec=codec, payload_type=PAYLOAD_TYPES[codec.name], ptime_ms=ptime_ms, telephone_event=TELEPHONE_EVENT
            )
        elif what == "stall":
            at_ms = rig.now_ms + arguments[0]
            assert rig.stall(arguments[0]) == [(at_ms, datagram) for datagram in reference.tick(at_ms * MS)]
        elif what == "run":
            for _ in range(arguments[0]):
                at_ms = rig.now_ms
                assert rig.run(1) == [(at_ms, datagram) for datagram in reference.tick(at_ms * MS)]
    assert rig.sent() == asdict(reference.counters())


# The plane's own rules


def plane_with(count: int, *, start: bool = True, **options: Any) -> tuple[Plane, list[Line]]:
    """A plane without a thread and `count` lines on it, connected; its clock begins at 0."""
    plane = Plane(threads=0, epoch_ns=0, start_ms=0)
    lines = []
    for n in range(count):
        line = plane.open(ssrc=n, sequence=0, timestamp=0)
        line.connect(**({"host": "192.0.2.1", "port": 4000, "alaw": False, "payload_type": 0} | options))
        if start:
            line.start()
        lines.append(line)
    return plane, lines


def ticks(plane: Plane, first_ms: int, last_ms: int) -> list[tuple[int, int, bytes]]:
    """(ms, line id, packet) of every tick from first_ms to last_ms, both included."""
    return [(ms, *sent) for ms in range(first_ms, last_ms + 1) for sent in plane.tick(ms * MS)]


def kinds(plane: Plane) -> list[str]:
    return [notice[0] for notice in plane.notices()]


@pytest.mark.parametrize("ptime_ms", [10, 20, 30, 40, 60])
def test_streams_are_spread_evenly_over_the_milliseconds_of_a_ptime(ptime_ms: int) -> None:
    plane, lines = plane_with(5 * ptime_ms, ptime_ms=ptime_ms)
    sent = ticks(plane, 0, 2 * ptime_ms - 1)
    assert Counter(ms for ms, _, _ in sent) == dict.fromkeys(range(2 * ptime_ms), 5)
    assert {line for _, line, _ in sent} == {line.id for line in lines}


def test_streams_of_different_ptimes_share_the_milliseconds_evenly() -> None:
    plane, _ = plane_with(20, ptime_ms=20)
    for n, ptime_ms in enumerate((10, 30, 40, 60) * 5):
        line = plane.open(ssrc=n, sequence=0, timestamp=0)
        line.connect(host="192.0.2.1", port=4000, alaw=False, payload_type=0, ptime_ms=ptime_ms)
        line.start()
    ticks(plane, 0, 119)
    load = Counter(ms for ms, _, _ in ticks(plane, 120, 239))
    assert sum(load.values()) == 20 * 6 + 5 * (12 + 4 + 3 + 2)
    assert max(load.values()) <= 3


def test_phase_that_a_removed_stream_had_is_given_again() -> None:
    plane, lines = plane_with(20)
    ticks(plane, 0, 19)
    lines[7].remove()
    ticks(plane, 20, 39)
    line = plane.open(ssrc=99, sequence=0, timestamp=0)
    line.connect(host="192.0.2.1", port=4000, alaw=False, payload_type=0)
    line.start()
    assert [ms for ms, who, _ in ticks(plane, 40, 59) if who == line.id] == [47]


def test_ring_takes_what_there_is_room_for() -> None:
    plane, (line,) = plane_with(1, start=False)
    assert line.write(bytes(9000), 0, False) == 8000
    assert line.write(bytes(9000), 0, False) == 0
    line.start()
    plane.tick(0)
    assert line.write(bytes(9000), 0, False) == 160


def test_end_of_an_utterance_always_has_room() -> None:
    plane, (line,) = plane_with(1)
    assert line.write(b"\x01" * 8000, 0, False) == 8000
    line.end(b"\x02" * 1920, False)
    sent = b"".join(packet[12:] for _, _, packet in ticks(plane, 0, 1299))
    assert sent.rstrip(b"\xff") == b"\x01" * 8000 + b"\x02" * 1920
    assert line.idle


def test_end_that_is_too_long_is_refused() -> None:
    _, (line,) = plane_with(1)
    line.write(bytes(8000), 0, False)
    with pytest.raises(LocalProtocolError, match="1921 octets are too many"):
        line.end(bytes(1921), False)


def test_writer_is_woken_once_when_the_ring_has_run_down() -> None:
    plane, (line,) = plane_with(1)
    line.write(bytes(8000), 0, False)
    assert line.await_room()
    woken = []
    for ms in range(1000):
        plane.tick(ms * MS)
        woken += [ms for what in kinds(plane) if what == "room"]
    assert len(woken) == 1
    # 400 ms are left after the packet of 580 ms; the notice may wait for company for 10 ms.
    assert 580 <= woken[0] <= 590
    assert not line.await_room()


def test_clip_of_any_length_takes_no_room_in_the_ring() -> None:
    plane, (line,) = plane_with(1)
    clip = speech(3000)  # a minute
    assert line.play(clip, False)
    assert line.write(bytes(160), 0, False) == 0
    line.end(b"\x7f" * 1920, False)
    packets = b"".join(packet[12:] for _, _, packet in ticks(plane, 0, 60_239))
    assert packets == clip + b"\x7f" * 1920
    assert line.idle
    assert line.write(bytes(9000), 0, False) == 8000


def test_line_knows_at_any_time_what_of_its_clips_is_left() -> None:
    plane, (line,) = plane_with(1)
    line.write(b"\x01" * 100, 0, False)  # a clip begins on whole 10 ms
    line.play(b"\x02" * 1600, False)
    line.write(b"\x03" * 160, 0, False)
    line.end()
    assert line.play(b"\x04" * 800, False)
    sent = b"".join(packet[12:] for _, _, packet in ticks(plane, 0, 119))
    assert sent == b"\x01" * 100 + b"\xff" * 60 + b"\x02" * 800
    assert line.flush() == 800 + 160 + 800
    assert line.idle


def test_clip_waits_for_what_is_before_it_and_no_more_than_four_wait() -> None:
    plane, (line,) = plane_with(1)
    clip = bytes(4000)  # 500 ms
    assert line.play(clip, False)
    assert not line.play(clip, False)
    assert line.await_room()
    woken = [ms for ms in range(500) for _ in plane.tick(ms * MS) if "room" in kinds(plane)]
    assert 80 <= woken[0] <= 100, "400 ms are left"
    assert line.play(clip, False)
    line.flush()
    assert [line.play(bytes(80), False) for _ in range(6)] == [True] * 2 + [False] * 4, "the flushed ones are in use"
    assert line.await_room()
    ticks(plane, 500, 520)
    assert kinds(plane) == ["room"]
    assert line.play(bytes(80), False)


def test_clip_is_let_go_once_it_has_been_heard_or_flushed() -> None:
    plane, (line,) = plane_with(1)
    clip = bytes(1600)
    held = sys.getrefcount(clip)
    line.play(clip, False)
    line.play(clip, False)
    assert sys.getrefcount(clip) == held + 2
    ticks(plane, 0, 219)
    line.play(b"", False)
    assert sys.getrefcount(clip) == held + 1
    line.hold()
    line.flush()
    assert sys.getrefcount(clip) == held + 1, "the plane may be reading it"
    ticks(plane, 220, 240)
    line.play(b"", False)
    assert sys.getrefcount(clip) == held


def test_clip_of_less_than_a_block_is_refused() -> None:
    _, (line,) = plane_with(1)
    with pytest.raises(LocalProtocolError, match="81 octets is no whole number of 10 ms"):
        line.play(bytes(81), False)


def test_removal_is_the_last_notice_of_a_line() -> None:
    plane, (line,) = plane_with(1)
    line.write(bytes(160), 0, False)
    line.end()
    assert line.await_end()
    for ms in range(60):
        plane.tick(ms * MS)
    line.remove()
    plane.tick(60 * MS)
    assert kinds(plane) == ["drained", "removed"]


def test_end_is_noticed_once_when_all_has_been_sent() -> None:
    plane, (line,) = plane_with(1)
    line.write(bytes(480), 0, False)
    line.end()
    assert line.await_end()
    noticed = []
    for ms in range(200):
        plane.tick(ms * MS)
        noticed += [ms for what in kinds(plane) if what == "drained"]
    assert noticed == [40]
    assert not line.await_end()


def test_law_that_changes_within_a_block_changes_all_of_it() -> None:
    plane, (line,) = plane_with(1)
    line.write(b"\x10" * 40, 0, False)
    line.connect(host="192.0.2.1", port=4000, alaw=True, payload_type=8)
    line.write(b"\x20" * 120, 0, True)
    line.end()
    ((_, packet),) = plane.tick(0)
    assert packet[12:] == PCMA.from_other[0x10:0x11] * 40 + b"\x20" * 120


def test_frames_at_the_edge_of_the_wheel_are_sent_once() -> None:
    plane, (line,) = plane_with(1, ptime_ms=60)
    sent = ticks(plane, 0, 60) + ticks(plane, 400, 400) + ticks(plane, 401, 1000)
    times = [ms for ms, _, _ in sent]
    assert times == [0, 60, 400, 400, *range(420, 1001, 60)]
    stamps = [int.from_bytes(packet[4:8]) // 8 for _, _, packet in sent]
    assert stamps == [0, 60, 300, 360, *range(420, 1001, 60)]
    assert line.counters()["skipped_frames"] == 3


def test_lateness_is_counted_by_its_bounds() -> None:
    plane, _ = plane_with(2)
    plane.tick(0)
    plane.tick(4 * MS + 30_000)  # the second line was due at 1 ms
    counts, sum_ns, max_ns, late_ticks = plane.lateness()
    at = dict(zip((*LATENESS_BOUNDS_US, None), counts, strict=True))
    assert at[20] == 1
    assert at[5000] == 1
    assert sum(counts) == 2
    assert sum_ns == max_ns == 3_030_000
    assert late_ticks == 1


def test_removed_stream_sends_nothing_and_its_counts_stay() -> None:
    plane, lines = plane_with(2)
    ticks(plane, 0, 99)
    before = plane.counters()["packets_sent"]
    lines[0].remove()
    lines[0].remove()
    assert {line for _, line, _ in ticks(plane, 100, 139)} == {lines[1].id}
    assert [(what, line) for what, line, *_ in plane.notices()] == [("removed", lines[0].id)]
    assert plane.counters()["packets_sent"] == before + 2
    with pytest.raises(LocalProtocolError, match="removed"):
        lines[0].start()


def test_removal_frees_what_is_being_dialled_and_heard() -> None:
    plane, (line,) = plane_with(1, telephone_event=101)
    line.dial([None] * 50)
    line.dial([None] * 50)
    line.listen(True)
    line.tap(True)
    ticks(plane, 0, 100)
    line.remove()
    ticks(plane, 101, 101)
    assert kinds(plane) == ["removed"]


def test_closed_plane_refuses_orders_and_keeps_counts() -> None:
    plane, (line,) = plane_with(1)
    ticks(plane, 0, 99)
    plane.close()
    with pytest.raises(LocalProtocolError, match="removed"):
        line.hold()
    assert line.counters()["packets_sent"] == 5


def test_flood_of_notices_ends_at_its_limit() -> None:
    plane, (line,) = plane_with(1)
    plane.tick(0)
    report = bytes.fromhex("80c9000100000007")
    for n in range(1000):
        line.receive(report, "192.0.2.1", 4000, n * 1000)
    plane.tick(MS)
    assert Counter(kinds(plane)) == {"rtcp": 200}
    assert line.counters()["notices_dropped"] == 800
    line.receive(report, "192.0.2.1", 4000, 1000 * MS)
    plane.tick(1000 * MS)
    assert [(what, address, data) for what, _, _, _, address, data in plane.notices()] == [
        ("rtcp", ("192.0.2.1", 4000), report)
    ]


def test_notices_that_find_no_room_are_dropped_and_counted() -> None:
    plane, lines = plane_with(2000, start=False)
    plane.tick(0)
    report = b"\x80\xc9" + bytes(1400)
    for line in lines:
        line.receive(report, "192.0.2.1", 4000, 0)
    plane.tick(MS)
    told = kinds(plane)
    assert 150 < len(told) < 200
    assert len(told) + plane.counters()["notices_dropped"] == 2000
    lines[0].receive(report, "192.0.2.1", 4000, MS)
    plane.tick(2 * MS)
    assert kinds(plane) == ["rtcp"]


def test_flood_of_rtcp_drops_no_digit() -> None:
    plane, (line,) = plane_with(1, telephone_event=101)
    plane.tick(0)
    for _, datagram in media(range(3)):
        line.receive(datagram, *ELSEWHERE, 0)
    kinds(plane)
    for _ in range(500):
        line.receive(bytes.fromhex("80c9000100000007"), *ELSEWHERE, MS)
    line.receive(telephone_event(sequence=3, timestamp=480, code=5, duration=160), *ELSEWHERE, MS)
    plane.tick(MS)
    assert kinds(plane)[-1:] == ["telephone_event"]


def test_latch_that_could_not_be_told_is_told_later() -> None:
    plane, lines = plane_with(5)
    plane.tick(0)
    for line, size in zip(lines[1:], (1400, 1000, 10, 0), strict=True):
        for _ in range(200):
            line.receive(b"\x80\xc9" + bytes(size), "192.0.2.1", 4000, 0)
    for _, datagram in media(range(3)):
        lines[0].receive(datagram, *ELSEWHERE, 0)
    plane.tick(MS)
    full = kinds(plane)
    assert "latched" not in full
    plane.tick(21 * MS)
    assert kinds(plane).count("latched") == 1


def test_rtcp_is_heard_from_the_hosts_of_the_call_alone() -> None:
    plane, (line,) = plane_with(1)
    plane.tick(0)
    line.receive(bytes.fromhex("80c9000100000007"), "192.0.2.66", 4000, 0)
    plane.tick(MS)
    assert kinds(plane) == []
    assert line.counters()["strangers"] == 1


def test_nothing_is_believed_before_connect() -> None:
    plane = Plane(threads=0, epoch_ns=0, start_ms=0)
    line = plane.open(ssrc=1, sequence=0, timestamp=0)
    for _, datagram in media(range(5)):
        line.receive(datagram, *SIGNALLED, 0)
    assert (line.counters()["strangers"], line.counters()["packets_received"]) == (5, 0)


def test_datagram_longer_than_any_packet_is_invalid() -> None:
    plane, (line,) = plane_with(1)
    plane.tick(0)
    line.receive(b"\x80" + bytes(65506), "192.0.2.1", 4000, 0)
    assert line.counters()["invalid"] == 1


def test_without_latch_only_the_signalled_address_is_heard() -> None:
    plane, (line,) = plane_with(1, latch=False)
    plane.tick(0)
    for _, datagram in media(range(20)):
        line.receive(datagram, *ELSEWHERE, 0)
        line.receive(datagram, "192.0.2.1", 4000, 0)
    assert (line.counters()["strangers"], line.counters()["packets_received"]) == (20, 18)
    assert line.target == ("192.0.2.1", 4000)


def test_packets_follow_the_latched_source() -> None:
    plane, (line,) = plane_with(1)
    plane.tick(0)
    assert line.target == ("192.0.2.1", 4000)
    for _, datagram in media(range(3)):
        line.receive(datagram, *ELSEWHERE, 0)
    assert line.target == ELSEWHERE


def test_reinvite_with_the_same_address_goes_on_sending_to_the_latched_source() -> None:
    plane, (line,) = plane_with(1)
    plane.tick(0)
    for _, datagram in media(range(3)):
        line.receive(datagram, *ELSEWHERE, 0)
    line.connect(host="192.0.2.1", port=4000, alaw=False, payload_type=0)
    plane.tick(MS)
    assert line.target == ELSEWHERE
    line.connect(host="192.0.2.1", port=4002, alaw=False, payload_type=0)
    plane.tick(2 * MS)
    assert line.target == ("192.0.2.1", 4002)


def test_source_that_is_still_heard_long_after_connect_is_locked_again() -> None:
    plane, (line,) = plane_with(1)
    plane.tick(0)
    packets = [datagram for _, datagram in media(range(400))]
    for n in range(300):
        line.receive(packets[n], *ELSEWHERE, 20 * n * MS)
    for _, datagram in media(range(5), ssrc=8):
        line.receive(datagram, *OTHER, 6000 * MS)
    assert line.counters()["strangers"] == 5
    assert line.counters()["packets_received"] == 298


def test_source_that_signalling_has_left_is_never_sent_to_again() -> None:
    plane, (line,) = plane_with(1)
    plane.tick(0)
    packets = [datagram for _, datagram in media(range(400))]
    for n in range(3):
        line.receive(packets[n], "192.0.2.1", 4000, 20 * n * MS)
    line.connect(host=OTHER[0], port=OTHER[1], alaw=False, payload_type=0)
    for n in range(3, 400):
        plane.tick(20 * n * MS)
        line.receive(packets[n], "192.0.2.1", 4000, 20 * n * MS)
        assert line.target == OTHER
    assert line.counters()["packets_received"] == 398, "it is heard on"


def test_digits_come_under_the_number_that_the_answer_gave_them() -> None:
    plane, (line,) = plane_with(1, telephone_event=96, telephone_event_received=TELEPHONE_EVENT)
    plane.tick(0)
    for _, datagram in media(range(3)):
        line.receive(datagram, "192.0.2.1", 4000, 0)
    plane.notices()
    line.receive(telephone_event(sequence=3, timestamp=480, code=5, duration=800, end=True), "192.0.2.1", 4000, 0)
    plane.tick(20 * MS)
    assert kinds(plane) == ["telephone_event"]
    line.dial([(True, 0, b"\x05\x0a\x00\xa0")])
    sent = [packet for _, _, packet in ticks(plane, 21, 60)]
    assert sent[0][1] & 0x7F == 96


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ptime_ms": 25}, "ptime 25 ms is not one of"),
        ({"payload_type": 128}, "payload type 128 is not in 0..127"),
        ({"telephone_event": -1}, "payload type -1 is not in 0..127"),
        ({"host": "example.org"}, "example.org port 4000 is no address that an IPv4 socket can send to"),
        ({"host": "2001:db8::1"}, "no address that an IPv4 socket can send to"),
        ({"port": 0}, "192.0.2.1 port 0 is no address"),
        ({"port": 65536}, "192.0.2.1 port 65536 is no address"),
    ],
)
def test_connect_refuses_what_makes_no_sense(options: dict[str, Any], message: str) -> None:
    _, (line,) = plane_with(1)
    with pytest.raises(LocalProtocolError, match=message):
        line.connect(**({"host": "192.0.2.1", "port": 4000, "alaw": False, "payload_type": 0} | options))


@pytest.mark.parametrize(("start_ms", "ring_ms"), [(-1, 1000), (1010, 1000), (0, 110), (0, 60010)])
def test_ring_that_makes_no_sense_is_refused(start_ms: int, ring_ms: int) -> None:
    with pytest.raises(LocalProtocolError, match="start threshold"):
        Plane(threads=0, start_ms=start_ms, ring_ms=ring_ms)


def test_refused_plane_leaves_descriptors_alone() -> None:
    before = os.fstat(0)
    with pytest.raises(LocalProtocolError, match="-1 threads"):
        Plane(threads=-1)
    assert os.fstat(0) == before


def test_ends_never_overrun_the_ring() -> None:
    plane, (line,) = plane_with(1, start=False)
    for _ in range(62):  # two blocks each, of 125
        line.end(b"\x11" * 80, False)
    with pytest.raises(LocalProtocolError, match="80 octets are too many"):
        line.end(b"\x11" * 80, False)
    line.start()
    sent = b"".join(packet[12:] for _, _, packet in ticks(plane, 0, 2999))
    assert sent.count(b"\x11") == 62 * 80


def test_plane_with_threads_is_not_ticked_by_hand() -> None:
    plane = Plane(threads=1, realtime=False)
    line = plane.open(ssrc=1, sequence=0, timestamp=0)
    with pytest.raises(LocalProtocolError, match="ticks by itself"):
        plane.tick(0)
    with pytest.raises(LocalProtocolError, match="receives by itself"):
        line.receive(b"", "192.0.2.1", 4000, 0)
    plane.close()


def test_ipv6_line_reaches_ipv4_hosts_mapped() -> None:
    plane = Plane(threads=0, epoch_ns=0, start_ms=0)
    line = plane.open(ipv6=True, ssrc=1, sequence=0, timestamp=0)
    line.connect(host="192.0.2.1", port=4000, alaw=False, payload_type=0)
    plane.tick(0)
    assert line.target == ("192.0.2.1", 4000)
    line.connect(host="2001:db8::1", port=4000, alaw=False, payload_type=0)
    plane.tick(MS)
    assert line.target == ("2001:db8::1", 4000)


# The seam for SRTP

Transform = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_uint8), ctypes.POINTER(ctypes.c_int)
)


@Transform
def protect(context: int, packet: Any, length: Any) -> int:
    """Inverts the payload and appends the octet at `context`, as often as that says."""
    tag = ctypes.cast(context, ctypes.POINTER(ctypes.c_uint8))[0]
    for at in range(12, length[0]):
        packet[at] ^= 0xFF
    for at in range(length[0], length[0] + tag):
        packet[at] = tag
    length[0] += tag
    return 0


@Transform
def unprotect(context: int, packet: Any, length: Any) -> int:
    tag = ctypes.cast(context, ctypes.POINTER(ctypes.c_uint8))[0]
    if packet[length[0] - 1] != tag:
        return 7  # srtp_err_status_auth_fail
    length[0] -= tag
    for at in range(12, length[0]):
        packet[at] ^= 0xFF
    return 0


def address_of(function: Any) -> int:
    address = ctypes.cast(function, ctypes.c_void_p).value
    assert address is not None
    return address


def test_transform_changes_packets_in_place_both_ways() -> None:
    context = ctypes.c_uint8(10)
    plane = Plane(threads=0, epoch_ns=0, start_ms=0)
    line = plane.open(ssrc=1, sequence=0, timestamp=0)
    line.transform(protect=address_of(protect), unprotect=address_of(unprotect), context=ctypes.addressof(context))
    line.connect(host="192.0.2.1", port=4000, alaw=False, payload_type=0)
    line.write(b"\x0f" * 160, 0, False)
    line.end()
    line.start()
    ((_, packet),) = plane.tick(0)
    assert packet[12:] == b"\xf0" * 160 + b"\x0a" * 10
    assert (line.counters()["octets_sent"], line.counters()["send_failed"]) == (160, 0)
    line.listen(True)
    plane.tick(MS)
    for _, datagram in media(range(4)):
        protected = datagram[:12] + bytes(octet ^ 0xFF for octet in datagram[12:]) + b"\x0a" * 10
        line.receive(protected, *ELSEWHERE, MS)
        line.receive(datagram, *ELSEWHERE, MS)  # unauthentic
    assert (line.counters()["packets_received"], line.counters()["invalid"]) == (2, 4)
    assert [samples for _, samples in line.hear()] == [mulaw_decode(bytes(160))] * 2


def test_new_transform_takes_over_at_a_tick_and_the_old_context_comes_back() -> None:
    old, new = ctypes.c_uint8(10), ctypes.c_uint8(12)
    plane, (line,) = plane_with(1)
    for context in (old, new):
        line.transform(protect=address_of(protect), unprotect=address_of(unprotect), context=ctypes.addressof(context))
        line.start() if context is old else None
        ((_, packet),) = plane.tick((0 if context is old else 20) * MS)
        assert packet[-1] == context.value
    told = [(what, number) for what, _, number, _, _, _ in plane.notices()]
    assert told == [("transformed", 0), ("transformed", ctypes.addressof(old))]


def test_removed_is_the_last_word_of_a_line() -> None:
    plane, (line,) = plane_with(1)
    line.transform(protect=0, unprotect=0, context=0)
    line.remove()
    plane.tick(0)
    assert [what for what, *_ in plane.notices()] == ["transformed", "removed"]


def test_closed_plane_opens_no_line() -> None:
    plane = Plane(threads=0)
    plane.close()
    with pytest.raises(LocalProtocolError, match="closed"):
        plane.open(ssrc=1, sequence=0, timestamp=0)


# The peer's audio


def frame(code: int) -> bytes:
    return mulaw_decode(bytes((code,)) * 160)


QUIET = bytes(320)


@pytest.fixture
def listener() -> tuple[Plane, Line]:
    """A line whose source is latched, with packets 0 to 2, and that gathers audio from packet 3 on."""
    plane, (line,) = plane_with(1)
    plane.tick(0)
    for datagram in voice(range(3)):
        line.receive(datagram, *ELSEWHERE, 0)
    line.listen(True)
    plane.tick(MS)
    return plane, line


def voice(sequences: Iterable[int], *, units: int = 160, start: int = 0) -> list[bytes]:
    """Packets of `units` samples, the payload of packet n made of code n."""
    return [
        serialise(
            Packet(
                payload_type=0,
                sequence=n,
                timestamp=(start + units * n) % 2**32,
                ssrc=7,
                payload=bytes((n % 256,)) * units,
            )
        )
        for n in sequences
    ]


def heard(line: Line, datagrams: Iterable[bytes], *, now_ms: int = 1) -> list[bytes]:
    for datagram in datagrams:
        line.receive(datagram, *ELSEWHERE, now_ms * MS)
    return [samples for _, samples in line.hear()]


def test_audio_in_order_is_heard_at_once(listener: tuple[Plane, Line]) -> None:
    _, line = listener
    for n in range(3, 40):
        assert heard(line, voice([n])) == [frame(n)]


def test_audio_out_of_order_is_put_in_order(listener: tuple[Plane, Line]) -> None:
    _, line = listener
    assert heard(line, voice([3, 5, 6])) == [frame(3)]
    assert heard(line, voice([4])) == [frame(4), frame(5), frame(6)]


def test_lost_audio_is_silence_once_it_is_60_ms_late(listener: tuple[Plane, Line]) -> None:
    _, line = listener
    assert heard(line, voice([3, 5, 6])) == [frame(3)]
    assert heard(line, voice([7])) == [QUIET, frame(5), frame(6), frame(7)]
    assert heard(line, voice([4])) == []
    assert heard(line, voice([8])) == [frame(8)]


def test_repeated_audio_is_heard_once(listener: tuple[Plane, Line]) -> None:
    _, line = listener
    assert heard(line, voice([3, 3, 4, 3, 4])) == [frame(3), frame(4)]


@pytest.mark.parametrize("units", [80, 240, 320, 480])
def test_audio_of_any_ptime_comes_in_frames_of_20_ms(listener: tuple[Plane, Line], units: int) -> None:
    _, line = listener
    # The clock of this packetisation goes on from where the three packets of the fixture ended.
    audio = b"".join(heard(line, voice(range(3, 19), units=units, start=480 - 3 * units)))
    expected = b"".join(mulaw_decode(bytes((n,)) * units) for n in range(3, 19))
    assert len(audio) % 320 == 0
    assert len(expected) - len(audio) < 320
    assert expected.startswith(audio)


def test_audio_goes_on_over_the_end_of_the_timestamp() -> None:
    plane, (line,) = plane_with(1)
    plane.tick(0)
    datagrams = voice(range(20), start=2**32 - 10 * 160)
    heard(line, datagrams[:3])
    line.listen(True)
    plane.tick(MS)
    assert heard(line, datagrams[3:]) == [frame(n) for n in range(3, 20)]


def test_jump_of_the_peers_clock_is_a_new_beginning(listener: tuple[Plane, Line]) -> None:
    _, line = listener
    assert heard(line, voice([3, 5])) == [frame(3)]
    assert heard(line, voice([6], start=800_000)) == [QUIET, frame(5), frame(6)]
    assert heard(line, voice([7], start=800_000)) == [frame(7)]


def test_peer_that_falls_silent_is_heard_as_silence_in_real_time(listener: tuple[Plane, Line]) -> None:
    plane, line = listener
    assert heard(line, voice([3])) == [frame(3)]
    ticks(plane, 2, 99)
    assert line.hear() == []
    ticks(plane, 100, 600)
    # Of 600 ms, 20 are of the frame before, and 20 may be spoken by now.
    assert line.hear() == [((1 + 20 * n) * MS, QUIET) for n in range(28)]
    assert line.hear() == []
    assert heard(line, voice([4], start=5000), now_ms=600) == [QUIET, frame(4)]


def test_audio_that_nobody_takes_is_dropped_and_counted(listener: tuple[Plane, Line]) -> None:
    _, line = listener
    for n, datagram in enumerate(voice(range(3, 73))):
        line.receive(datagram, *ELSEWHERE, (20 * n + 1) * MS)
    assert heard(line, []) == [frame(n) for n in range(3, 53)]
    assert line.counters()["audio_dropped"] == 20
    line.receive(voice([73])[0], *ELSEWHERE, 1401 * MS)
    assert line.hear() == [(1381 * MS, frame(73))], "who comes back sees by the time what is missing"


def test_peer_whose_clock_jumps_again_and_again_is_not_heard_faster_than_time_goes(
    listener: tuple[Plane, Line],
) -> None:
    _, line = listener
    frames: list[tuple[int, bytes]] = []
    for n, datagram in enumerate(voice(range(3, 200))):
        jumped = datagram[:4] + (7000 * n).to_bytes(4, "big") + datagram[8:]
        line.receive(jumped, *ELSEWHERE, (20 * n + 1) * MS)
        frames += line.hear()
    assert frames[-1][0] <= (20 * 196 + 1001) * MS
    assert line.counters()["audio_dropped"] > 5000


def test_consumer_is_woken_by_the_next_frame(listener: tuple[Plane, Line]) -> None:
    plane, line = listener
    assert line.await_audio()
    heard(line, voice([3]))
    plane.tick(2 * MS)
    assert kinds(plane)[-1] == "audio"
    heard(line, [])
    line.receive(voice([4])[0], *ELSEWHERE, 2 * MS)
    assert not line.await_audio()


def test_audio_is_decoded_by_its_own_payload_type(listener: tuple[Plane, Line]) -> None:
    _, line = listener
    (datagram,) = voice([3])
    assert heard(line, [datagram[:1] + b"\x08" + datagram[2:]]) == [alaw_decode(b"\x03" * 160)]


def test_nobody_listens_any_more(listener: tuple[Plane, Line]) -> None:
    plane, line = listener
    line.listen(False)
    plane.tick(2 * MS)
    assert heard(line, voice([3])) == []
    assert line.counters()["packets_received"] == 2


def test_a_frame_began_when_its_packet_was_sent_less_its_length(listener: tuple[Plane, Line]) -> None:
    _, line = listener
    for at_ms, datagram in zip((100, 120, 165, 166), voice(range(3, 7)), strict=True):
        line.receive(datagram, *ELSEWHERE, at_ms * MS)
    # Jitter is no more than that: the frames are as far apart as they were spoken.
    assert line.hear() == [((80 + 20 * n) * MS, frame(3 + n)) for n in range(4)]


def talk(plane: Plane, line: Line, packets: Iterable[tuple[float, bytes]]) -> dict[bytes, int]:
    """Receive packets at their times in ms; what was heard, and when in ns. Each millisecond is a tick."""
    frames: list[tuple[int, bytes]] = []
    then_ms = 2
    for at_ms, datagram in packets:
        for now_ms in range(then_ms, int(at_ms) + 1):
            plane.tick(now_ms * MS)
        then_ms = max(then_ms, int(at_ms) + 1)
        line.receive(datagram, *ELSEWHERE, int(at_ms * MS))
        frames += line.hear()
    assert {then - now for (now, _), (then, _) in pairwise(frames)} == {20 * MS}, "silence or a voice in each"
    return {samples: at_ns for at_ns, samples in frames}


def spoken(count: int, *, every_ms: float) -> list[tuple[float, bytes]]:
    """Packets 3 to `count`, each of which says its number in samples of its own."""
    packets = []
    for n in range(3, count):
        payload = bytes((n % 200, n // 200)) * 80
        packet = Packet(payload_type=0, sequence=n, timestamp=160 * n, ssrc=7, payload=payload)
        packets.append((every_ms * n, serialise(packet)))
    return packets


def deviations_ms(packets: list[tuple[float, bytes]], heard_at: dict[bytes, int]) -> list[float]:
    """By how much frames are later than they were spoken, of those that were heard."""
    found = [(at_ms, heard_at.get(mulaw_decode(datagram[12:]))) for at_ms, datagram in packets]
    return [at_ns / MS - (at_ms - 20) for at_ms, at_ns in found if at_ns is not None]


def test_pauses_shift_what_is_heard_by_half_a_frame_and_do_not_add_up(listener: tuple[Plane, Line]) -> None:
    random = Random(1)
    at_ms, packets = 20.0, []
    for n, (_, datagram) in enumerate(spoken(3000, every_ms=20)):
        at_ms += 20 if n % 30 else random.uniform(120, 400)
        packets.append((at_ms, datagram[:4] + int(8 * at_ms).to_bytes(4, "big") + datagram[8:]))
    found = deviations_ms(packets, talk(*listener, packets))
    assert len(found) == len(packets)
    assert max(map(abs, found)) <= 10.2


@pytest.mark.parametrize("every_ms", [19.9, 20.1])
def test_a_clock_that_runs_away_is_followed_within_a_frame(listener: tuple[Plane, Line], every_ms: float) -> None:
    packets = spoken(5000, every_ms=every_ms)
    found = deviations_ms(packets, talk(*listener, packets))
    # Half a percent comes to 500 ms: 24 frames of silence, or 24 that are left out.
    assert len(packets) - len(found) == (24 if every_ms < 20 else 0)
    assert max(map(abs, found)) <= 31


def test_jitter_is_not_taken_for_a_clock_that_runs_away(listener: tuple[Plane, Line]) -> None:
    random = Random(1)
    sent = spoken(3000, every_ms=20)
    # The first one came as fast as any: what is heard is where it was spoken.
    delays = [0, *(random.choice((0, 10, 25, 50)) for _ in sent[1:])]
    packets = sorted((at_ms + delay, datagram) for (at_ms, datagram), delay in zip(sent, delays, strict=True))
    assert set(deviations_ms(sent, talk(*listener, packets))) == {0.0}


# ---------------------------------------------------------------------------------------------------------------------
# What we say, for whoever asks


@pytest.mark.parametrize("ptime_ms", [10, 20, 30, 60])
@pytest.mark.parametrize("alaw", [False, True])
def test_speech_is_tapped_as_it_was_sent_and_when(ptime_ms: int, alaw: bool) -> None:
    plane, (line,) = plane_with(1, ptime_ms=ptime_ms, alaw=alaw, payload_type=8 if alaw else 0)
    line.tap(True)
    sent: dict[int, bytes] = {}

    def send(first_ms: int, last_ms: int) -> None:
        for now_ms in range(first_ms, last_ms + 1):
            for _, packet in plane.tick(now_ms * MS):
                sent[now_ms * MS] = packet[12:]

    send(0, 5)
    line.write(bytes(range(240)) * 2, 0, False)
    line.end()
    assert line.play(bytes(range(100, 180)) * 5, True)
    send(6, 299)
    decode = alaw_decode if alaw else mulaw_decode
    silence = decode(bytes((0xD5 if alaw else 0xFF,)) * 8 * ptime_ms)
    speech = {at_ns: decode(codes) for at_ns, codes in sent.items() if decode(codes) != silence}
    assert len(speech) == -(-60 // ptime_ms) + -(-50 // ptime_ms)
    assert dict(line.said()) == speech
    assert line.said() == []


def test_silence_digits_and_what_is_not_sent_are_not_tapped() -> None:
    plane, (line,) = plane_with(1, telephone_event=101)
    line.tap(True)
    ticks(plane, 0, 39)
    line.dial([(True, 0, bytes(4)), (False, 160, bytes(4))])
    ticks(plane, 40, 99)
    line.hold()
    line.write(b"\x01" * 480, 0, False)
    line.end()
    ticks(plane, 100, 139)
    assert line.said() == []
    line.resume()
    ticks(plane, 140, 159)
    line.flush()
    ticks(plane, 160, 199)
    assert line.said() == [(140 * MS, mulaw_decode(b"\x01" * 160))]


def test_speech_that_nobody_takes_is_dropped_and_counted() -> None:
    plane, (line,) = plane_with(1)
    line.tap(True)
    line.write(b"\x01" * 160 * 50, 0, False)
    line.end()
    ticks(plane, 0, 999)
    line.write(b"\x02" * 160, 0, False)
    line.end()
    ticks(plane, 1000, 1019)
    assert line.said() == [(20 * n * MS, mulaw_decode(b"\x01" * 160)) for n in range(50)]
    assert line.counters()["audio_dropped"] == 1
    line.tap(False)
    line.write(b"\x02" * 160, 0, False)
    line.end()
    ticks(plane, 1020, 1059)
    assert line.said() == []
