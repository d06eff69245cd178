"""The session's rules over the reference, the figures of its reports, and what the shared rules leave out."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from rtp.session import PCMA, PCMU, Latched, MediaTimeout, Receiver, Sender
from tests.rtp_rules import RULES, Datagrams, Options, Rule

MS = 1_000_000
CODECS = {"PCMU": PCMU, "PCMA": PCMA}


class Reference:
    """tests.rtp_rules.Rig over rtp.session."""

    def __init__(self, options: Options) -> None:
        self._now_ms = 5_000
        self._timeout_ms = options.timeout_ms
        self._sender = Sender(ssrc=1, sequence=65534, timestamp=2**32 - 320, start_ms=options.start_ms)
        self._receiver = Receiver()
        self.connect(options)
        self._watch()

    @property
    def _now_ns(self) -> int:
        return self._now_ms * MS

    def _watch(self) -> None:
        self._receiver.watch(self._timeout_ms * MS or None, self._now_ns)

    def start(self) -> None:
        self._sender.start(self._now_ns)
        self._watch()

    def hold(self) -> None:
        self._sender.hold()
        self._receiver.watch(None, self._now_ns)

    def resume(self) -> None:
        self._sender.resume(self._now_ns)
        self._watch()

    def connect(self, options: Options) -> None:
        self._sender.connect(
            codec=CODECS[options.codec],
            payload_type={"PCMU": 0, "PCMA": 8}[options.codec],
            ptime_ms=options.ptime_ms,
            telephone_event=101,
        )
        self._receiver.connect(
            codecs=frozenset({0, 8}), now_ns=self._now_ns, signalled=options.signalled, telephone_event=101
        )

    def write(self, codes: bytes) -> None:
        assert self._sender.write(codes) == len(codes)

    def end(self) -> None:
        self._sender.end()

    def flush(self) -> float:
        return self._sender.flush() / 8

    def dial(self, digits: str) -> None:
        self._sender.dial(digits)

    def run(self, ms: int) -> Datagrams:
        sent = []
        for _ in range(ms):
            sent += self._tick()
            self._now_ms += 1
        return sent

    def stall(self, ms: int) -> Datagrams:
        self._now_ms += ms
        return self._tick()

    def _tick(self) -> Datagrams:
        self._receiver.handle_timer(self._now_ns)
        return [(self._now_ms, datagram) for datagram in self._sender.tick(self._now_ns)]

    def hear(self, datagram: bytes, address: tuple[str, int]) -> None:
        self._receiver.receive(datagram, address, self._now_ns)

    def events(self) -> list[tuple[object, ...]]:
        events: list[tuple[object, ...]] = []
        while (event := self._receiver.next_event()) is not None:
            match event:
                case Latched(host=host, port=port):
                    events.append(("latched", host, port))
                case MediaTimeout():
                    events.append(("timeout",))
                case _:
                    events.append(("digit", event.digit, event.duration_ms))
        return events

    def sent(self) -> dict[str, int]:
        return asdict(self._sender.counters())

    def received(self) -> dict[str, float]:
        return asdict(self._receiver.counters())


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule(rule: Rule) -> None:
    rule(Reference)
