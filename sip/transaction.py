"""Transactions (RFC 3261 section 17 as amended by RFC 6026): four tables, the timers of each state, and matching.

A `Machine` is two tables: what each (state, input) leads to, and which timers run in each state. `Transactions` is the
layer between the wire and the transaction user: it finds the transaction that a message belongs to, and its
transactions put what they send on the `wire` and their deadlines in the `Schedule` that they are given.

A pair that is not in a table is the peer's doing and is ignored when it came off the wire (a late 180, an ACK to a
BYE); when it is the transaction user's (a second final response) it raises LocalProtocolError.
"""

from __future__ import annotations

import enum
import heapq
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from .digest import Keyring, Space
from .errors import LocalProtocolError
from .headers import Headers
from .message import Request, Response

__all__ = [
    "COOKIE",
    "INVITE_CLIENT",
    "INVITE_SERVER",
    "MACHINES",
    "NON_INVITE_CLIENT",
    "NON_INVITE_SERVER",
    "TIMERS",
    "Action",
    "ClientTransaction",
    "Flow",
    "Input",
    "Machine",
    "Numbered",
    "Schedule",
    "ServerTransaction",
    "State",
    "Timed",
    "Timer",
    "Timers",
    "Transaction",
    "Transactions",
    "Wire",
    "ack_for",
    "cancel_for",
]

# RFC 3261 section 8.1.1.7: a branch that begins with this is unique, and alone identifies the transaction.
COOKIE = "z9hG4bK"


class Flow(NamedTuple):
    """Between which two addresses, and over what, a message travels.

    transport   "UDP", "TCP" or "TLS", as in a Via
    local       our (host, port), as the peer can reach it; an IPv6 host without brackets
    remote      the peer's (host, port)
    name        the domain that the peer's certificate has to be for (RFC 5922 section 7.1); "": that of the address
    connection  the number of the connection that the peer has made to us; 0: one of ours, made when it is needed
    """

    transport: str
    local: tuple[str, int]
    remote: tuple[str, int]
    name: str = ""
    connection: int = 0

    @property
    def reliable(self) -> bool:
        """Whether the transport itself retransmits, so that transactions must not."""
        return self.transport != "UDP"


Wire = list[tuple[bytes, Flow]]
Key = tuple[str | int | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timers:
    """The three times that all others follow from (RFC 3261 table 4), in seconds.

    t1  estimate of the round trip; the first retransmission comes after it
    t2  longest interval between retransmissions, but for those of an INVITE request
    t4  longest time that a message stays in the network

    Raises LocalProtocolError unless 0 < t1 <= t2 and 0 < t4.
    """

    t1: float = 0.5
    t2: float = 4.0
    t4: float = 5.0

    def __post_init__(self) -> None:
        if not (0 < self.t1 <= self.t2 and self.t4 > 0):
            raise LocalProtocolError(f"times that do not fit: T1 {self.t1}, T2 {self.t2}, T4 {self.t4}")

    @property
    def patience(self) -> float:
        """64*T1: how long to wait for anything at all."""
        return 64 * self.t1


class State(enum.Enum):
    """The states of all four machines, by the names of the standard."""

    CALLING = "calling"
    TRYING = "trying"
    PROCEEDING = "proceeding"
    ACCEPTED = "accepted"
    COMPLETED = "completed"
    CONFIRMED = "confirmed"
    TERMINATED = "terminated"


class Input(enum.Enum):
    """What a server transaction receives and a transaction user answers, or the other way about.

    Transport errors are those of client transactions. A response whose connection is lost goes along another one
    (RFC 3261 section 18.2.2), which is up to the transport.
    """

    REQUEST = "request"
    ACK = "ACK"
    PROVISIONAL = "1xx"
    SUCCESS = "2xx"
    FAILURE = "3xx-6xx"
    TRANSPORT_ERROR = "transport error"


class Timer(enum.Enum):
    """By the letters of the standard."""

    A = "A"
    B = "B"
    C = "C"
    D = "D"
    E = "E"
    F = "F"
    G = "G"
    H = "H"
    I = "I"  # noqa: E741  the standard's letter
    J = "J"
    K = "K"
    L = "L"
    M = "M"


class Action(enum.Enum):
    """What a row brings about."""

    SEND = "send the transaction user's message, and keep it"
    RESEND = "send what was sent last"
    ACK = "acknowledge the failure"
    PASS = "give it to the transaction user"
    SLACKEN = "from the next retransmission on wait T2"
    TIMEOUT = "tell the transaction user that no answer came, nor will"
    FORGET = "drop what was sent last; nobody will ask for it again"


class Tempo(enum.Enum):
    """What a timer is for, and so how it behaves over a reliable transport."""

    REPEAT = "retransmits, each interval twice the one before; never over a reliable transport"
    LIMIT = "ends the wait for the peer; the same over every transport"
    LINGER = "outlasts the peer's retransmissions; zero over a reliable transport"


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """How a timer runs; `span` and `ceiling` name an attribute of `Timers`, that of timer C one of the transaction."""

    tempo: Tempo
    span: str
    ceiling: str | None = None


# RFC 3261 table 4, RFC 6026 section 8.12.
TIMERS: Mapping[Timer, Beat] = {
    Timer.A: Beat(tempo=Tempo.REPEAT, span="t1"),
    Timer.B: Beat(tempo=Tempo.LIMIT, span="patience"),
    # Of proxies in the standard (RFC 3261 section 16.6): no client transaction waits for ever for a final response.
    Timer.C: Beat(tempo=Tempo.LIMIT, span="final_within_s"),
    # "At least 32 s", which is 64*T1 with the T1 of the standard, and scales with it where that is set otherwise.
    Timer.D: Beat(tempo=Tempo.LINGER, span="patience"),
    Timer.E: Beat(tempo=Tempo.REPEAT, span="t1", ceiling="t2"),
    Timer.F: Beat(tempo=Tempo.LIMIT, span="patience"),
    Timer.G: Beat(tempo=Tempo.REPEAT, span="t1", ceiling="t2"),
    Timer.H: Beat(tempo=Tempo.LIMIT, span="patience"),
    Timer.I: Beat(tempo=Tempo.LINGER, span="t4"),
    Timer.J: Beat(tempo=Tempo.LINGER, span="patience"),
    Timer.K: Beat(tempo=Tempo.LINGER, span="t4"),
    Timer.L: Beat(tempo=Tempo.LIMIT, span="patience"),
    Timer.M: Beat(tempo=Tempo.LIMIT, span="patience"),
}

Row = tuple[State, tuple[Action, ...]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Machine:
    """One of the four: where it starts, its transitions, and the timers that run in each state.

    A timer that is in the rows of two states runs on from the one to the other.
    """

    name: str
    start: State
    rows: Mapping[tuple[State, Input | Timer], Row]
    timers: Mapping[State, frozenset[Timer]] = field(default_factory=dict)


INVITE_CLIENT = Machine(
    name="INVITE client",
    start=State.CALLING,
    rows={
        # RFC 3261 section 17.1.1.2 and figure 5, RFC 6026 section 8.4.
        (State.CALLING, Timer.A): (State.CALLING, (Action.RESEND,)),
        (State.CALLING, Timer.B): (State.TERMINATED, (Action.TIMEOUT,)),
        (State.CALLING, Input.TRANSPORT_ERROR): (State.TERMINATED, (Action.TIMEOUT,)),
        (State.CALLING, Input.PROVISIONAL): (State.PROCEEDING, (Action.FORGET, Action.PASS)),
        (State.CALLING, Input.SUCCESS): (State.ACCEPTED, (Action.FORGET, Action.PASS)),
        (State.CALLING, Input.FAILURE): (State.COMPLETED, (Action.ACK, Action.PASS)),
        (State.PROCEEDING, Timer.C): (State.TERMINATED, (Action.TIMEOUT,)),
        (State.PROCEEDING, Input.PROVISIONAL): (State.PROCEEDING, (Action.PASS,)),
        (State.PROCEEDING, Input.SUCCESS): (State.ACCEPTED, (Action.PASS,)),
        (State.PROCEEDING, Input.FAILURE): (State.COMPLETED, (Action.ACK, Action.PASS)),
        # RFC 6026 section 7.2: every 2xx, of this or another fork, goes to the transaction user, which acknowledges.
        (State.ACCEPTED, Input.SUCCESS): (State.ACCEPTED, (Action.PASS,)),
        (State.ACCEPTED, Timer.M): (State.TERMINATED, ()),
        (State.COMPLETED, Input.FAILURE): (State.COMPLETED, (Action.RESEND,)),
        (State.COMPLETED, Timer.D): (State.TERMINATED, ()),
    },
    timers={
        State.CALLING: frozenset({Timer.A, Timer.B}),
        State.PROCEEDING: frozenset({Timer.C}),
        State.ACCEPTED: frozenset({Timer.M}),
        State.COMPLETED: frozenset({Timer.D}),
    },
)

NON_INVITE_CLIENT = Machine(
    name="non-INVITE client",
    start=State.TRYING,
    rows={
        # RFC 3261 section 17.1.2.2 and figure 6.
        (State.TRYING, Timer.E): (State.TRYING, (Action.RESEND,)),
        (State.TRYING, Timer.F): (State.TERMINATED, (Action.TIMEOUT,)),
        (State.TRYING, Input.TRANSPORT_ERROR): (State.TERMINATED, (Action.TIMEOUT,)),
        (State.TRYING, Input.PROVISIONAL): (State.PROCEEDING, (Action.SLACKEN, Action.PASS)),
        (State.TRYING, Input.SUCCESS): (State.COMPLETED, (Action.FORGET, Action.PASS)),
        (State.TRYING, Input.FAILURE): (State.COMPLETED, (Action.FORGET, Action.PASS)),
        (State.PROCEEDING, Timer.E): (State.PROCEEDING, (Action.RESEND,)),
        (State.PROCEEDING, Timer.F): (State.TERMINATED, (Action.TIMEOUT,)),
        (State.PROCEEDING, Input.TRANSPORT_ERROR): (State.TERMINATED, (Action.TIMEOUT,)),
        (State.PROCEEDING, Input.PROVISIONAL): (State.PROCEEDING, (Action.PASS,)),
        (State.PROCEEDING, Input.SUCCESS): (State.COMPLETED, (Action.FORGET, Action.PASS)),
        (State.PROCEEDING, Input.FAILURE): (State.COMPLETED, (Action.FORGET, Action.PASS)),
        (State.COMPLETED, Timer.K): (State.TERMINATED, ()),
    },
    timers={
        State.TRYING: frozenset({Timer.E, Timer.F}),
        State.PROCEEDING: frozenset({Timer.E, Timer.F}),
        State.COMPLETED: frozenset({Timer.K}),
    },
)

INVITE_SERVER = Machine(
    name="INVITE server",
    start=State.PROCEEDING,
    rows={
        # RFC 3261 section 17.2.1 and figure 7, RFC 6026 section 8.5.
        (State.PROCEEDING, Input.REQUEST): (State.PROCEEDING, (Action.RESEND,)),
        (State.PROCEEDING, Input.PROVISIONAL): (State.PROCEEDING, (Action.SEND,)),
        (State.PROCEEDING, Input.SUCCESS): (State.ACCEPTED, (Action.SEND,)),
        (State.PROCEEDING, Input.FAILURE): (State.COMPLETED, (Action.SEND,)),
        # RFC 6026 section 7.1: a retransmitted INVITE is absorbed, because the transaction user retransmits the 2xx.
        (State.ACCEPTED, Input.REQUEST): (State.ACCEPTED, ()),
        (State.ACCEPTED, Input.SUCCESS): (State.ACCEPTED, (Action.SEND,)),
        (State.ACCEPTED, Input.ACK): (State.ACCEPTED, (Action.PASS,)),
        (State.ACCEPTED, Timer.L): (State.TERMINATED, ()),
        (State.COMPLETED, Input.REQUEST): (State.COMPLETED, (Action.RESEND,)),
        (State.COMPLETED, Input.ACK): (State.CONFIRMED, (Action.FORGET,)),
        (State.COMPLETED, Timer.G): (State.COMPLETED, (Action.RESEND,)),
        (State.COMPLETED, Timer.H): (State.TERMINATED, (Action.TIMEOUT,)),
        (State.CONFIRMED, Input.ACK): (State.CONFIRMED, ()),
        (State.CONFIRMED, Timer.I): (State.TERMINATED, ()),
    },
    timers={
        State.ACCEPTED: frozenset({Timer.L}),
        State.COMPLETED: frozenset({Timer.G, Timer.H}),
        State.CONFIRMED: frozenset({Timer.I}),
    },
)

NON_INVITE_SERVER = Machine(
    name="non-INVITE server",
    start=State.TRYING,
    rows={
        # RFC 3261 section 17.2.2 and figure 8.
        (State.TRYING, Input.REQUEST): (State.TRYING, ()),
        (State.TRYING, Input.PROVISIONAL): (State.PROCEEDING, (Action.SEND,)),
        (State.TRYING, Input.SUCCESS): (State.COMPLETED, (Action.SEND,)),
        (State.TRYING, Input.FAILURE): (State.COMPLETED, (Action.SEND,)),
        (State.PROCEEDING, Input.REQUEST): (State.PROCEEDING, (Action.RESEND,)),
        (State.PROCEEDING, Input.PROVISIONAL): (State.PROCEEDING, (Action.SEND,)),
        (State.PROCEEDING, Input.SUCCESS): (State.COMPLETED, (Action.SEND,)),
        (State.PROCEEDING, Input.FAILURE): (State.COMPLETED, (Action.SEND,)),
        (State.COMPLETED, Input.REQUEST): (State.COMPLETED, (Action.RESEND,)),
        (State.COMPLETED, Timer.J): (State.TERMINATED, ()),
    },
    timers={State.COMPLETED: frozenset({Timer.J})},
)

MACHINES = (INVITE_CLIENT, NON_INVITE_CLIENT, INVITE_SERVER, NON_INVITE_SERVER)


K = TypeVar("K", bound=enum.Enum)
_SWEEP_FROM = 1024


class Timed(Generic[K]):
    """Something with deadlines, one of each kind `K`; `wake` is the earliest of them, None if there is none."""

    __slots__ = ("_deadlines", "_schedule", "wake")

    def __init__(self, schedule: Schedule) -> None:
        self.wake: float | None = None
        self._deadlines: Mapping[K, float] = {}
        self._schedule = schedule

    @property
    def deadlines(self) -> Mapping[K, float]:
        return self._deadlines

    @deadlines.setter
    def deadlines(self, deadlines: Mapping[K, float]) -> None:
        self._deadlines = deadlines
        wake = min(deadlines.values(), default=None)
        if wake != self.wake:
            self.wake = wake
            self._schedule.note(self)

    def next_due(self, now: float) -> K | None:
        """The kind of the earliest deadline if that has come."""
        if self.wake is None or self.wake > now:
            return None
        return min(self._deadlines, key=self._deadlines.__getitem__)


class Schedule:
    """The deadlines of many owners. Each owner counts once, with its `wake`, however often that changes."""

    __slots__ = ("_count", "_heap", "_sweep_at")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timed[Any]]] = []
        self._count = 0
        self._sweep_at = _SWEEP_FROM

    def note(self, owner: Timed[Any]) -> None:
        """`owner.wake` has changed."""
        if owner.wake is not None:
            self._count += 1
            heapq.heappush(self._heap, (owner.wake, self._count, owner))
            if len(self._heap) > self._sweep_at:
                self._sweep()

    def __len__(self) -> int:
        """How many entries are kept, at most about twice as many as there are owners that wait."""
        return len(self._heap)

    def _sweep(self) -> None:
        # A deadline far away must not keep its owner alive that has long ended.
        self._heap = [entry for entry in self._heap if entry[2].wake == entry[0]]
        heapq.heapify(self._heap)
        self._sweep_at = max(_SWEEP_FROM, 2 * len(self._heap))

    def wake_at(self) -> float | None:
        """When the first owner is due."""
        heap = self._heap
        # An entry is live as long as its time is its owner's; one whose owner has changed its mind is dropped here.
        while heap and heap[0][2].wake != heap[0][0]:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def due(self, now: float) -> Iterator[Timed[Any]]:
        """The owners whose time has come; each must have dealt with its deadlines before the next is asked for."""
        while (at := self.wake_at()) is not None and at <= now:
            owner = heapq.heappop(self._heap)[2]
            yield owner
            if owner.wake == at:
                self.note(owner)


class Transaction(Timed[Timer]):
    """What the four have in common: a state, its deadlines, and what was sent last.

    state  where it is in the table of its machine
    flow   where it sends
    """

    __slots__ = ("_interval", "_layer", "_sent", "flow", "key", "machine", "state")

    def __init__(self, layer: Transactions, machine: Machine, key: Key, flow: Flow, now: float) -> None:
        super().__init__(layer.schedule)
        self.machine = machine
        self.state = machine.start
        self.flow = flow
        self.key = key
        self._layer = layer
        self._sent = b""
        self._interval = 0.0
        self._arm(now)

    def fire(self, now: float) -> bool:
        """Run the timers that are due. True if the transaction has given up waiting for the peer."""
        gave_up = False
        while (timer := self.next_due(now)) is not None:
            gave_up |= Action.TIMEOUT in self._step(timer, now)
        return gave_up

    def _step(self, happening: Input | Timer, now: float, message: bytes = b"") -> tuple[Action, ...]:
        """Take the row for `happening`; do what it says, but for what is up to the caller. Ignore it without a row."""
        row = self.machine.rows.get((self.state, happening))
        if row is None:
            return ()
        entered, actions = row
        for action in actions:
            if action is Action.SEND or action is Action.ACK:
                self._sent = message
                self._layer.send(message, self.flow)
            elif action is Action.RESEND:
                self._layer.resend(self._sent, self.flow)
            elif action is Action.FORGET:
                self._sent = b""
            elif action is Action.SLACKEN:
                self._interval = self._layer.timers.t2
        if entered is not self.state:
            self.state = entered
            self._arm(now)
            if entered is State.TERMINATED:
                self._layer.remove(self)
        elif isinstance(happening, Timer):
            self._repeat(happening, now)
        return actions

    def _arm(self, now: float) -> None:
        """Start the timers of the state just entered, and stop all others."""
        deadlines = {}
        for timer in self.machine.timers.get(self.state, ()):
            tempo = TIMERS[timer].tempo
            if timer in self._deadlines:
                deadlines[timer] = self._deadlines[timer]
            elif tempo is Tempo.LIMIT or not self.flow.reliable:
                span = self._span(timer)
                deadlines[timer] = now + span
                if tempo is Tempo.REPEAT:
                    self._interval = span
            elif tempo is Tempo.LINGER:
                deadlines[timer] = now
        self.deadlines = deadlines

    def _span(self, timer: Timer) -> float:
        span: float = getattr(self._layer.timers, TIMERS[timer].span)
        return span

    def _repeat(self, timer: Timer, now: float) -> None:
        ceiling = TIMERS[timer].ceiling
        limit = math.inf if ceiling is None else getattr(self._layer.timers, ceiling)
        self._interval = min(2 * self._interval, limit)
        self.deadlines = {**self._deadlines, timer: now + self._interval}


def _input(response: Response) -> Input:
    if response.status < 200:
        return Input.PROVISIONAL
    return Input.SUCCESS if response.status < 300 else Input.FAILURE


class ServerTransaction(Transaction):
    """A request of the peer's.

    to_tag     of its responses
    merge_key  what a copy of the request that came by another way has in common with it, None if it can have none
    """

    __slots__ = ("merge_key", "to_tag")

    def __init__(self, layer: Transactions, request: Request, key: Key, flow: Flow, to_tag: str, now: float) -> None:
        machine = INVITE_SERVER if request.method == "INVITE" else NON_INVITE_SERVER
        super().__init__(layer, machine, key, flow, now)
        self.to_tag = to_tag
        self.merge_key = _merge_key(request)

    def receive(self, request: Request, now: float) -> bool:
        """A retransmission, or an ACK. True if it is for the transaction user: the ACK to a 2xx."""
        if request.method != "ACK":
            return Action.PASS in self._step(Input.REQUEST, now)
        # RFC 3261 section 17.2.3: without a unique branch, the To tag must be that of the response too.
        if not _is_unique(request) and request.to.tag != self.to_tag:
            return False
        return Action.PASS in self._step(Input.ACK, now)

    def respond(self, response: Response, now: float) -> None:
        """Send `response`. Raises LocalProtocolError if the state does not allow it."""
        kind = _input(response)
        if (self.state, kind) not in self.machine.rows:
            raise LocalProtocolError(f"{response.status} in state {self.state.value} of the {self.machine.name}")
        self._step(kind, now, response.serialise())

    def repeat(self, now: float) -> None:
        """Send the latest response to an INVITE again: a 1xx every minute, a 2xx until it is acknowledged."""
        self._layer.retransmissions += 1
        self._step(Input.PROVISIONAL if self.state is State.PROCEEDING else Input.SUCCESS, now, self._sent)

    def acknowledged(self) -> None:
        """The ACK to the 2xx has come, as the transaction user alone can tell: nothing will be repeated."""
        if self.state is State.ACCEPTED:
            self._sent = b""


class Numbered(Protocol):
    """What a request within a dialog needs of it in order to be sent once more."""

    local_seq: int
    keyring: Keyring | None


class ClientTransaction(Transaction):
    """A request of ours.

    request         as it was sent
    user            whose it is: a key of the transaction user's
    acks            what the transaction user answered to each 2xx, by To tag (RFC 3261 section 13.2.2.4)
    final_within_s  timer C: how long after the first provisional response to an INVITE the final one may take
    keyring         answers the challenges of this request, None if nothing does
    answered        how often it has answered each protection space in the tries of this request, None if never
    dialog          the dialog that the request is part of, None if it is outside of any
    others          along which it may be sent instead, as another transaction, if it fails
    """

    __slots__ = ("acks", "answered", "dialog", "final_within_s", "keyring", "others", "request", "user")

    def __init__(
        self,
        layer: Transactions,
        request: Request,
        key: Key,
        flow: Flow,
        user: str,
        now: float,
        final_within_s: float,
    ) -> None:
        machine = INVITE_CLIENT if request.method == "INVITE" else NON_INVITE_CLIENT
        super().__init__(layer, machine, key, flow, now)
        self.request = request
        self.user = user
        self.acks: dict[str, tuple[bytes, Flow]] = {}
        self.final_within_s = final_within_s
        self.keyring: Keyring | None = None
        self.answered: Counter[Space] | None = None
        self.dialog: Numbered | None = None
        self.others: tuple[Flow, ...] = ()
        self._sent = request.serialise()
        layer.send(self._sent, flow)

    def receive(self, response: Response, now: float) -> bool:
        """A response. True if it is for the transaction user."""
        kind = _input(response)
        row = self.machine.rows.get((self.state, kind))
        acknowledged = row is not None and Action.ACK in row[1]
        ack = ack_for(self.request, response).serialise() if acknowledged else b""
        return Action.PASS in self._step(kind, now, ack)

    def fail(self, now: float) -> bool:
        """The request could not be sent, or the connection that it was sent along is lost (section 17.1.4).

        True if the transaction has given up. Once an INVITE has a provisional response it goes on: the peer has it,
        and may respond along a connection that it makes (section 18.2.2).
        """
        return Action.TIMEOUT in self._step(Input.TRANSPORT_ERROR, now)

    def hurry(self, now: float) -> None:
        """Wait 64*T1 more for the final response and no longer, now that CANCEL is sent (RFC 3261 section 9.1)."""
        if Timer.C in self._deadlines:
            self.deadlines = {Timer.C: now + self._layer.timers.patience}

    def _span(self, timer: Timer) -> float:
        return self.final_within_s if timer is Timer.C else super()._span(timer)


class Transactions:
    """All transactions: finds the one that a message belongs to, begins new ones, forgets those that have ended.

    wire      what is to be sent: transactions append to it, its owner empties it
    schedule  their deadlines
    timers    T1, T2 and T4
    """

    def __init__(self, *, timers: Timers, schedule: Schedule, wire: Wire) -> None:
        self.timers = timers
        self.schedule = schedule
        self.retransmissions = 0
        self._wire = wire
        self._servers: dict[Key, ServerTransaction] = {}
        self._clients: dict[Key, ClientTransaction] = {}
        self._merges: dict[Key, ServerTransaction] = {}

    def __len__(self) -> int:
        return len(self._servers) + len(self._clients)

    def server(self, request: Request) -> ServerTransaction | None:
        """The transaction that `request` retransmits or, being an ACK, acknowledges (RFC 3261 section 17.2.3)."""
        method = "INVITE" if request.method == "ACK" else request.method
        return self._servers.get(_server_key(request, method))

    def cancelled_by(self, cancel: Request) -> ServerTransaction | None:
        """The INVITE transaction that `cancel` is for (RFC 3261 section 9.2)."""
        return self._servers.get(_server_key(cancel, "INVITE"))

    def merged(self, request: Request) -> bool:
        """Whether `request`, which has no transaction yet, came by another way before (RFC 3261 section 8.2.2.2)."""
        key = _merge_key(request)
        return key is not None and key in self._merges

    def serve(self, request: Request, flow: Flow, to_tag: str, now: float) -> ServerTransaction:
        """Begin the transaction of a request that has none; its responses go along `flow`."""
        key = _server_key(request, request.method)
        transaction = self._servers[key] = ServerTransaction(self, request, key, flow, to_tag, now)
        if transaction.merge_key is not None:
            self._merges[transaction.merge_key] = transaction
        return transaction

    def client(self, response: Response) -> ClientTransaction | None:
        """The transaction that `response` answers (RFC 3261 section 17.1.3)."""
        return self._clients.get((response.via.branch, response.cseq.method))

    def request(
        self, request: Request, flow: Flow, user: str, now: float, *, final_within_s: float | None = None
    ) -> ClientTransaction:
        """Send `request`, whose branch is unique, and wait for its responses. `final_within_s` is 64*T1 by default."""
        key = (request.via.branch, request.method)
        limit = self.timers.patience if final_within_s is None else final_within_s
        transaction = self._clients[key] = ClientTransaction(self, request, key, flow, user, now, limit)
        return transaction

    def sent_along(self, flow: Flow) -> tuple[ClientTransaction, ...]:
        """Our requests that went along `flow`."""
        return tuple(transaction for transaction in self._clients.values() if transaction.flow == flow)

    def use(self, flow: Flow) -> bool:
        """Whether a response is to be sent or received along `flow`."""
        return any(
            transaction.flow == flow
            for transactions in (self._servers, self._clients)
            for transaction in transactions.values()
        )

    def send(self, message: bytes, flow: Flow) -> None:
        self._wire.append((message, flow))

    def resend(self, message: bytes, flow: Flow) -> None:
        # A server transaction that has not answered yet has nothing to say again.
        if message:
            self.retransmissions += 1
            self._wire.append((message, flow))

    def remove(self, transaction: Transaction) -> None:
        if isinstance(transaction, ServerTransaction):
            self._servers.pop(transaction.key, None)
            if transaction.merge_key is not None and self._merges.get(transaction.merge_key) is transaction:
                del self._merges[transaction.merge_key]
        else:
            self._clients.pop(transaction.key, None)


def ack_for(request: Request, response: Response) -> Request:
    """The ACK to a 3xx-6xx: same branch, the response's To (RFC 3261 section 17.1.1.3)."""
    return _companion(request, "ACK", to=response.headers.get("To") or "")


def cancel_for(request: Request) -> Request:
    """The CANCEL of an INVITE: same branch, same To (RFC 3261 section 9.1)."""
    return _companion(request, "CANCEL", to=request.headers.get("To") or "")


def _companion(request: Request, method: str, *, to: str) -> Request:
    headers = request.headers
    return Request(
        method=method,
        uri=request.uri,
        headers=Headers(
            (
                ("Via", str(request.via)),
                *(("Route", str(route)) for route in request.route),
                ("Max-Forwards", "70"),
                ("From", headers.get("From") or ""),
                ("To", to),
                ("Call-ID", request.call_id),
                ("CSeq", f"{request.cseq.number} {method}"),
            )
        ),
    )


def _is_unique(request: Request) -> bool:
    branch = request.via.branch or ""
    return branch.startswith(COOKIE) and len(branch) > len(COOKIE)


def _server_key(request: Request, method: str) -> Key:
    via = request.via
    if _is_unique(request):
        return (via.branch, via.host, via.port, method)
    # RFC 2543 peers: their branch says nothing, so what identifies a request has to (RFC 3261 section 17.2.3).
    cseq = request.cseq
    return (str(request.uri), request.from_.tag, request.call_id, cseq.number, via.host, via.port, via.branch, method)


def _merge_key(request: Request) -> Key | None:
    if request.to.tag or request.method in ("ACK", "CANCEL"):
        return None
    return (request.from_.tag, request.call_id, request.cseq.number, request.method)
