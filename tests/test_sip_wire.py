"""Thousands of calls over a bad wire in virtual time: each ends once with a cause that fits, and nothing is left.

Agents talk to one another over a wire that loses, doubles, delays and reorders datagrams. Each has a host that rings,
reliably or not, answers, refuses, gives up, has the other side make the offer, changes the session, before the answer
too, asks within the dialog and hangs up at random moments, whatever the state of the call is then. All randomness is
seeded.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest

from sip import (
    Acknowledged,
    Agent,
    Answered,
    Cause,
    Confirmed,
    Ended,
    Event,
    Flow,
    Guard,
    LocalProtocolError,
    Login,
    NameAddr,
    Offered,
    Progressed,
    Realm,
    Reoffered,
    Requested,
    Responded,
    Uri,
)
from tests.sip_targets import held

ADDRESSES = [("192.0.2.1", 5060), ("192.0.2.2", 5060), ("192.0.2.3", 5060)]
BODY = b"v=0"
LOGIN = Login(username="wire", password="lossy")
# Longer than any call lasts here, with all that its transactions linger.
DOOMSDAY_S = 1000.0
# What the other side has done if a call ended here for this cause. BYE is also said by who gave up too late, by who got
# no ACK and by who lost the peer.
OTHER_SIDE = {
    Cause.REMOTE_BYE: {
        Cause.LOCAL_BYE,
        Cause.LOCAL_CANCEL,
        Cause.NO_ANSWER,
        Cause.NO_ACK,
        Cause.NO_SDP,
        Cause.EXPIRED,
        Cause.LOST,
    },
    Cause.REMOTE_CANCEL: {Cause.LOCAL_CANCEL, Cause.NO_ANSWER},
    Cause.REMOTE_REJECT: {Cause.LOCAL_REJECT, Cause.NO_ANSWER, Cause.NO_PRACK},
}
# Causes that need the wire to lose something.
BY_LOSS = {Cause.NO_ACK, Cause.LOST}
# Refreshes are tried so often that hardly any session expires. That a PRACK does not come has two reasons: loss, and an
# offer in the response that its host leaves unanswered.
RARE = {Cause.EXPIRED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """Of each datagram: the share that is lost, that comes twice, and that takes up to 4 s instead of up to 0.3 s."""

    loss: float
    doubling: float = 0.05
    straggling: float = 0.01

    def arrivals(self, random: Random) -> Iterator[float]:
        """After how many seconds a datagram that is sent arrives, each time that it does. T4 is its longest life."""
        for _ in range(2 if random.random() < self.doubling else 1):
            if random.random() >= self.loss:
                yield random.uniform(0.005, 4.0 if random.random() < self.straggling else 0.3)


class Wire:
    """Agents, their hosts, the datagrams under way between them, and the clock."""

    def __init__(self, random: Random, quality: Quality) -> None:
        self.random, self.quality = random, quality
        self.now = 0.0
        self.hosts: dict[tuple[str, int], Host] = {}
        self.glares = 0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def after(self, seconds: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (self.now + seconds, next(self._order), what))

    def settle(self, host: Host) -> None:
        """Deliver what has happened at one agent, and take what it sends."""
        while (event := host.agent.next_event()) is not None:
            host.deliver(event)
        for data, flow in host.agent.data_to_send():
            for seconds in self.quality.arrivals(self.random):
                self.after(seconds, self._arrival(data, flow))

    def _arrival(self, data: bytes, flow: Flow) -> Callable[[], None]:
        def arrive() -> None:
            host = self.hosts[flow.remote]
            self.glares += data.startswith(b"SIP/2.0 491")
            host.agent.receive(data, Flow("UDP", flow.remote, flow.local), self.now)
            self.settle(host)

        return arrive

    def run(self) -> None:
        """Until nothing is under way and nobody waits for anything."""
        while True:
            waking = [(at, host) for host in self.hosts.values() if (at := host.agent.wake_at()) is not None]
            times = [at for at, _ in waking] + [at for at, _, _ in self._queue[:1]]
            if not times:
                return
            self.now = max(self.now, min(times))
            assert self.now < DOOMSDAY_S, "something waits for ever"
            while self._queue and self._queue[0][0] <= self.now:
                heapq.heappop(self._queue)[2]()
            for at, host in waking:
                if at <= self.now:
                    host.agent.handle_timer(self.now)
                    self.settle(host)


@dataclass(slots=True)
class Sides:
    """What became of one call of the wire, by Call-ID: at each address the events and the verbs that were obeyed."""

    ended: dict[tuple[str, int], list[Ended]] = field(default_factory=lambda: defaultdict(list))
    offered: int = 0
    obeyed: Counter[tuple[tuple[str, int], str]] = field(default_factory=Counter)


class Host:
    """The application of one agent. `calls` says which call of the wire a call of the agent is."""

    def __init__(
        self, wire: Wire, address: tuple[str, int], seed: int, calls: dict[str, Sides], *, guarded: bool = False
    ) -> None:
        self.wire, self.address, self.sides = wire, address, calls
        realm = Realm(address[0], secret=bytes(16))
        guard = Guard(realm=realm, password_of={LOGIN.username: LOGIN.password}.get) if guarded else None
        self.agent = Agent(
            random=Random(seed),
            session_expires_s=90,
            serve_within={"INFO": ()},
            serve_outside={"MESSAGE": ()},
            guard_of=lambda request, flow: guard,
            login_for=lambda request, flow: LOGIN,
        )
        self.calls: dict[str, Sides] = {}
        self.ours: set[str] = set()
        self.up: set[str] = set()
        self.asked: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.served: Counter[str] = Counter()
        wire.hosts[address] = self

    def call(self, remote: tuple[str, int]) -> None:
        random = self.wire.random
        flow = Flow("UDP", self.address, remote)
        target = Uri(user="callee", host=remote[0], port=remote[1])
        patience_s = 4.0 if random.random() < 0.15 else 60.0
        call_id = f"{len(self.sides)}@wire"
        call = self.agent.invite(
            self.wire.now,
            target,
            flow,
            from_=NameAddr(uri=Uri(user="caller", host=self.address[0])),
            # Without a body the callee makes the offer.
            body=BODY if random.random() < 0.8 else b"",
            headers=[("X-Call", call_id), *([("Require", "100rel")] if random.random() < 0.3 else [])],
            ring_timeout_s=patience_s,
        )
        self.sides[call_id] = self.calls[call] = Sides()
        self.ours.add(call)
        if random.random() < 0.15:
            self.later(3, "cancel", call)
        self.wire.settle(self)

    def ask(self, remote: tuple[str, int]) -> None:
        """A request outside of any call."""
        flow = Flow("UDP", self.address, remote)
        target = Uri(user="callee", host=remote[0], port=remote[1])
        from_ = NameAddr(uri=Uri(user="caller", host=self.address[0]))
        key = self.agent.request(
            self.wire.now, "MESSAGE", target, flow, from_=from_, body=b"hello", content_type="text/plain"
        )
        self.asked[key] += 1
        self.wire.settle(self)

    def later(self, longest_s: float, verb: str, call: str, *arguments: str, **named: Any) -> None:
        """Use a verb on `call` at some time; the peer or the wire may have made it impossible by then."""

        def act() -> None:
            with contextlib.suppress(LocalProtocolError):
                key = getattr(self.agent, verb)(self.wire.now, call, *arguments, **named)
                if verb == "request_within":
                    self.asked[key] += 1
                elif verb != "respond":
                    self.calls[call].obeyed[self.address, verb] += 1
                self.wire.settle(self)

        self.wire.after(self.wire.random.uniform(0, longest_s), act)

    def deliver(self, event: Event) -> None:
        random = self.wire.random
        if isinstance(event, Offered):
            sides = self.calls[event.call] = self.sides[event.request.headers.get("X-Call") or ""]
            sides.offered += 1
            for _ in range(random.choice((0, 1, 1, 2))):
                body = BODY if random.random() < 0.4 else b""
                self.later(1, "ring", event.call, body=body, reliable=random.random() < 0.5)
            if random.random() < 0.7:
                self.later(5, "answer", event.call, body=BODY)
            elif random.random() < 0.8:
                self.later(5, "reject", event.call, status=random.choice((302, 404, 486, 503, 603)))
            # The others ring until the caller gives up.
        elif isinstance(event, Reoffered):
            verdict = random.random()
            if verdict < 0.65:
                self.later(2, "answer", event.call, body=BODY, to=event.request)
            elif verdict < 0.95:
                self.later(2, "reject", event.call, status=488, to=event.request)
        elif isinstance(event, Progressed):
            if event.offer and random.random() < 0.9:
                self.later(2, "acknowledge", event.call, body=BODY)
            if random.random() < 0.3:
                self.later(2, "update", event.call, body=BODY)
        elif isinstance(event, Acknowledged):
            if random.random() < 0.3:
                self.later(2, "update", event.call, body=BODY)
        elif isinstance(event, Confirmed | Answered):
            if isinstance(event, Answered) and event.offer and random.random() < 0.9:
                self.later(2, "acknowledge", event.call, body=BODY)
            if isinstance(event, Answered) and event.response.cseq.method == "UPDATE":
                return
            if event.call not in self.up:
                self.up.add(event.call)
                self.converse(event.call)
        elif isinstance(event, Requested):
            self.served[event.message.call_id + str(event.message.cseq)] += 1
            if random.random() < 0.9:
                self.later(3, "respond", event.request, random.choice((200, 200, 403)))
        elif isinstance(event, Responded):
            self.answered[event.request] += 1
        elif isinstance(event, Ended):
            self.calls[event.call].ended[self.address].append(event)
        assert isinstance(event, Ended | Requested | Responded) or not self.calls[event.call].ended[self.address]

    def converse(self, call: str) -> None:
        """The call is up: what this side does from now on."""
        random = self.wire.random
        if random.random() < 0.3:
            self.later(10, "reoffer", call, body=BODY if random.random() < 0.8 else b"")
        if random.random() < 0.3:
            self.later(10, "update", call, body=BODY if random.random() < 0.6 else b"")
        if random.random() < 0.3:
            # So may the other side, 4 s after it got to know the same, and the two may meet.
            self.wire.after(4, lambda: self.later(0.2, "reoffer", call, body=BODY))
        if random.random() < 0.2:
            self.later(15, "request_within", call, "INFO")
        # Some calls last long enough for their session to be refreshed, and more than once.
        self.later(200 if random.random() < 0.1 else 20, "bye", call)


def simulate(quality: Quality, *, calls: int, seed: int, guarded: bool = False) -> tuple[list[Host], list[Sides]]:
    random = Random(seed)
    wire = Wire(random, quality)
    sides: dict[str, Sides] = {}
    hosts = [Host(wire, address, seed + number, sides, guarded=guarded) for number, address in enumerate(ADDRESSES)]
    for number in range(calls):
        here, there = random.sample(hosts, 2)
        what = here.ask if number % 5 == 0 else here.call
        wire.after(number / 50, lambda what=what, there=there: what(there.address))  # type: ignore[misc]
    wire.run()
    return hosts, list(sides.values())


def check(quality: Quality, hosts: list[Host], calls: list[Sides]) -> None:
    """That all is as it has to be when nobody waits for anything any more."""
    fresh = held(Agent(random=Random(0), serve_within={"INFO": ()}, serve_outside={"MESSAGE": ()}))
    for host in hosts:
        counters = host.agent.counters()
        assert (counters.calls, counters.dialogs, counters.transactions) == (0, 0, 0)
        assert counters.malformed == 0
        assert host.agent.wake_at() is None
        assert held(host.agent) == fresh, "something is left in the agent's memory"
        assert host.answered == host.asked, "each request is told its outcome once"
        assert set(host.served.values()) <= {1}, "no request is served twice"
    for call in calls:
        assert call.offered <= 1, "a second call for one INVITE"
        ends = {address: ended for address, ended in call.ended.items() if ended}
        assert len(ends) == 1 + call.offered
        assert all(len(ended) == 1 for ended in ends.values()), "a call that ended twice"
        causes = {address: ended.cause for address, (ended,) in ends.items()}
        for address, cause in causes.items():
            check_cause(quality, call, address, cause, [other for at, other in causes.items() if at != address])


def check_cause(quality: Quality, call: Sides, address: tuple[str, int], cause: Cause, others: list[Cause]) -> None:
    verbs = {Cause.LOCAL_BYE: "bye", Cause.LOCAL_REJECT: "reject", Cause.LOCAL_CANCEL: "cancel"}
    assert cause not in verbs or call.obeyed[address, verbs[cause]], f"{cause} that nobody asked for"
    assert cause not in OTHER_SIDE or (others and others[0] in OTHER_SIDE[cause]), f"{cause} here and {others} there"
    # A re-INVITE that overtakes the peer's BYE gets 481 (RFC 5407 section 3.2.2): it need not be lost.
    overtaken = cause is Cause.LOST and others == [Cause.LOCAL_BYE]
    assert cause not in BY_LOSS or quality.loss or overtaken, f"{cause} on a wire that loses nothing"


QUALITIES = [Quality(loss=loss) for loss in (0.0, 0.01, 0.05, 0.2)]


@pytest.mark.conformance("RFC 3261", "17.2.1", "a retransmitted INVITE is no second call")
@pytest.mark.parametrize("quality", QUALITIES, ids=lambda quality: f"{quality.loss:.0%} loss")
def test_on_a_bad_wire_every_call_ends_once_with_a_cause_that_fits_and_nothing_is_left(quality: Quality) -> None:
    hosts, calls = simulate(quality, calls=2000, seed=1)
    check(quality, hosts, calls)
    causes = Counter(ended.cause for call in calls for ends in call.ended.values() for ended in ends)
    everyday = set(Cause) - BY_LOSS - RARE
    assert everyday <= set(causes), "the calls did not take every way"
    # Seven copies of an INVITE, and ten of a 2xx, outlast the loss: 0.36**7 of the calls at most are lost all the same.
    given_up = [end for call in calls for ends in call.ended.values() for end in ends if end.cause in BY_LOSS]
    assert sum(end.status != 481 for end in given_up) <= (4 if quality.loss > 0.1 else 0)
    assert hosts[0].wire.glares > 10


@pytest.mark.parametrize("quality", [QUALITIES[0], QUALITIES[3]], ids=lambda quality: f"{quality.loss:.0%} loss")
def test_on_a_bad_wire_it_is_the_same_where_everybody_asks_for_proof(quality: Quality) -> None:
    hosts, calls = simulate(quality, calls=500, seed=1, guarded=True)
    check(quality, hosts, calls)
    for host in hosts:
        counters = host.agent.counters()
        assert counters.responses_sent["4xx"] >= counters.calls_received
        assert (counters.wrong_proofs, counters.held) == (0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 7))
@pytest.mark.parametrize("quality", QUALITIES, ids=lambda quality: f"{quality.loss:.0%} loss")
def test_a_bad_wire_at_length(quality: Quality, seed: int) -> None:
    hosts, calls = simulate(quality, calls=3000, seed=seed)
    check(quality, hosts, calls)
