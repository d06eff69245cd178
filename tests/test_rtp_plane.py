"""The compiled plane: the rules that it shares with session.py, ticked by hand, and those of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtp import dtmf
from rtp._plane import Plane
from rtp.session import PCMA, PCMU, Sender
from tests.rtp_rules import PAYLOAD_TYPES, RULES, TELEPHONE_EVENT, Datagrams, Options, Rule, speech

SSRC, SEQUENCE, TIMESTAMP = 0xDECAFBAD, 65530, 2**32 - 500
MS = 1_000_000


class PlaneRig:
    """tests.rtp_rules.Rig over a plane without a thread."""

    def __init__(self, options: Options) -> None:
        self.plane = Plane(threads=0, epoch_ns=0)
        self.line = self.plane.open(
            ssrc=SSRC, sequence=SEQUENCE, timestamp=TIMESTAMP, start_ms=options.start_ms, ring_ms=1000
        )
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

    def hold(self) -> None:
        self.line.hold()

    def resume(self) -> None:
        self.line.resume()

    def write(self, codes: bytes) -> None:
        assert self.line.write(codes, 0, self.alaw) == len(codes)

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
            taken = reference.write(codes)
            assert rig.line.write(codes, 0, rig.alaw) == taken
            over = (over + taken) % (8 * ptime_ms)
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
