"""The compiled plane: the rules that it shares with session.py, ticked by hand, and those of its own."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from rtp import dtmf
from rtp._plane import Plane
from tests.rtp_rules import PAYLOAD_TYPES, RULES, TELEPHONE_EVENT, Datagrams, Options, Rule

MS = 1_000_000


class PlaneRig:
    """tests.rtp_rules.Rig over a plane without a thread."""

    def __init__(self, options: Options) -> None:
        self.plane = Plane(threads=0, epoch_ns=0)
        self.line = self.plane.open(
            ssrc=0xDECAFBAD, sequence=65530, timestamp=2**32 - 500, start_ms=options.start_ms, ring_ms=1000
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
