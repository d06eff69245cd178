"""Hundreds of transfers over a bad wire in virtual time: each has one outcome, no false one, and nothing is left."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from sip import (
    Agent,
    Answered,
    Ended,
    Event,
    Flow,
    LocalProtocolError,
    NameAddr,
    Offered,
    Outcome,
    Referral,
    ReferralDone,
    Requested,
    Transfer,
    Transferred,
    Uri,
)
from tests.test_sip_wire import ADDRESSES, BODY, Quality, Wire

SERVED = {"REFER": ("message/sipfrag",), "NOTIFY": ("message/sipfrag",)}
# What the transferee is told, by whom it is to call.
STATUSES = {"answers": 200, "busy": 486}


class Whole:
    """An agent and the transfers and referrals above it, as one core."""

    def __init__(self, agent: Agent) -> None:
        self.core = agent
        self.parts: list[Transfer | Referral] = []
        self.receive = agent.receive
        self.next_event = agent.next_event
        self.data_to_send = agent.data_to_send

    def wake_at(self) -> float | None:
        times = (owner.wake_at() for owner in (self.core, *self.parts))
        return min((at for at in times if at is not None), default=None)

    def handle_timer(self, now: float) -> None:
        self.core.handle_timer(now)
        for part in self.parts:
            part.handle_timer(now)


class Party:
    """A host that transfers whoever answers it, and does what it is referred to; each hangs up when it likes."""

    def __init__(self, wire: Wire, address: tuple[str, int], seed: int) -> None:
        self.wire, self.address = wire, address
        self.whole = Whole(Agent(random=Random(seed), serve_within=SERVED))
        self.agent: Any = self.whole
        self.wishes: dict[str, str] = {}
        self.outcomes: dict[str, list[Transferred]] = {}
        self.left_early: set[str] = set()
        self.done: list[ReferralDone] = []
        self.accepted = 0
        self.ended: Counter[str] = Counter()
        wire.hosts[address] = self  # type: ignore[assignment]

    def call(self, remote: tuple[str, int], wish: str) -> None:
        target = Uri(user="callee", host=remote[0], port=remote[1])
        from_ = NameAddr(uri=Uri(user="caller", host=self.address[0]))
        key = self.whole.core.invite(self.wire.now, target, Flow("UDP", self.address, remote), from_=from_, body=BODY)
        self.wishes[key] = wish
        self.settle()

    def deliver(self, event: Event) -> None:
        agent, now, random = self.whole.core, self.wire.now, self.wire.random
        taken = [part.receive(event, now) for part in self.whole.parts]
        self.settle_parts()
        if isinstance(event, Offered):
            agent.answer(now, event.call, body=BODY)
        elif isinstance(event, Answered):
            self.later(random.uniform(0, 2), self.transfer, event.call)
        elif isinstance(event, Requested) and not any(taken):
            if event.message.method == "REFER":
                self.serve(event)
            else:
                agent.respond(now, event.request, 481)
        elif isinstance(event, Ended):
            self.ended[event.call] += 1

    def transfer(self, call: str) -> None:
        target = NameAddr(uri=Uri(user=self.wishes[call], host="192.0.2.9"))
        self.whole.parts.append(Transfer(self.whole.core, call, target, now=self.wire.now, outcome_within_s=30))
        self.outcomes[call] = []
        if self.wire.random.random() < 0.3:
            self.left_early.add(call)
            self.later(self.wire.random.uniform(0, 3), self.whole.core.bye, self.wire, call)

    def serve(self, event: Requested) -> None:
        now, random = self.wire.now, self.wire.random
        referral = Referral.open(self.whole.core, event, now)
        assert referral is not None
        self.whole.parts.append(referral)
        if random.random() < 0.1:
            referral.decline(now)
            return
        referral.accept(now)
        self.accepted += 1
        ringing, over = sorted(random.uniform(0, 10) for _ in range(2))
        status = STATUSES[referral.order.target.user]
        self.later(ringing, referral.progress, self.wire, 180, "Ringing")
        self.later(over, referral.finish, self.wire, status, "Over")
        if random.random() < 0.3:
            self.later(random.uniform(0, 20), self.whole.core.bye, self.wire, referral.call)

    def later(self, seconds: float, verb: Callable[..., Any], *arguments: Any) -> None:
        """Use a verb after a while; the wire among its arguments stands for the time."""

        def use() -> None:
            # A call may have ended meanwhile, and with it what was asked in it.
            with contextlib.suppress(LocalProtocolError):
                verb(*(argument.now if argument is self.wire else argument for argument in arguments))
            self.settle()

        self.wire.after(seconds, use)

    def settle_parts(self) -> None:
        for part in self.whole.parts:
            while (event := part.next_event()) is not None:
                if isinstance(event, Transferred):
                    self.outcomes[event.call].append(event)
                    self.later(0.5, self.whole.core.bye, self.wire, event.call)
                else:
                    self.done.append(event)

    def settle(self) -> None:
        self.wire.settle(self)  # type: ignore[arg-type]
        self.settle_parts()


@pytest.mark.parametrize("loss", [0.0, 0.05, 0.2])
def test_transfers_over_a_bad_wire(loss: float) -> None:
    wire = Wire(Random(11), Quality(loss=loss))
    transferor, transferee = (Party(wire, address, seed) for seed, address in enumerate(ADDRESSES[:2]))
    for number in range(200):
        wire.after(number * 0.05, lambda wish=list(STATUSES)[number % 2]: transferor.call(ADDRESSES[1], wish))  # type: ignore[misc]
    wire.run()
    seen: Counter[tuple[Outcome, int | None]] = Counter()
    for call, outcomes in transferor.outcomes.items():
        (told,) = outcomes
        seen[told.outcome, told.status] += 1
        wish = transferor.wishes[call]
        if told.outcome is Outcome.SUCCEEDED:
            assert (wish, told.status) == ("answers", 200)
        elif told.status == 486:
            assert (wish, told.outcome) == ("busy", Outcome.FAILED)
        elif not loss and call not in transferor.left_early and told.status is None:
            # Then the transferee has hung up first.
            assert told.outcome is Outcome.UNKNOWN
    assert seen[Outcome.SUCCEEDED, 200] > 30
    assert seen[Outcome.FAILED, 486] > 30
    assert len(transferee.done) == transferee.accepted
    assert set(transferor.ended.values()) | set(transferee.ended.values()) == {1}
    for party in (transferor, transferee):
        counters = party.whole.core.counters()
        assert (counters.calls, counters.dialogs, counters.transactions) == (0, 0, 0)
        assert party.whole.wake_at() is None
