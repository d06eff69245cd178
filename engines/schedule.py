"""Which piece is spoken next, by which worker, and what becomes of it. No sockets, no processes, no clock.

    ask  ─► QUEUED ─► SPEAKING ─► SPOKEN                  take() empties the piece as its chunks are delivered
              ▲          │  │
              └─ again ──┘  └──► PAUSING ─► PAUSED ─► QUEUED       the piece makes more than anybody takes
    any of them ─ drop ─► STOPPING ─► DROPPED;  broken too often ─► FAILED

The order of service is the order of deadlines: the moment at which the audio before a piece will have been heard. So
the first clause of a new call goes before the twentieth sentence of another, and a crashed piece before both.
"""

from __future__ import annotations

import dataclasses
import enum
import heapq
import itertools
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from engines.engine import EngineBusy, EngineFailure, UnsuitableUtterance
from engines.wire import Backlog, Cancel, Chunk, Done, Failed, Hello, Load, Message, Ping, Pong, Refused, Speak, Stopped

__all__ = ["Advanced", "Event", "Limits", "Piece", "Schedule", "State", "Stuck"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the schedule allows.

    queue           pieces that may wait when a new utterance asks to be let in
    attempts        how often a piece is begun before it is given up
    stall_s         a worker that has work and shows nothing for so long is stuck
    ping_s          a worker is asked whether it is there so often
    most_ahead_s    audio of one piece that may lie here untaken; beyond it, the piece pauses ...
    least_ahead_s   ... until there is less than this
    """

    queue: int = 1024
    attempts: int = 2
    stall_s: float = 5.0
    ping_s: float = 1.0
    most_ahead_s: float = 60.0
    least_ahead_s: float = 5.0


class State(enum.Enum):
    """Of a piece."""

    QUEUED = "queued"
    SPEAKING = "speaking"
    PAUSING = "pausing"
    PAUSED = "paused"
    STOPPING = "stopping"
    SPOKEN = "spoken"
    FAILED = "failed"
    DROPPED = "dropped"


class _Input(enum.Enum):
    SENT = "sent"  # to a worker
    DONE = "done"  # the worker said everything
    STOPPED = "stopped"  # the worker obeyed our Cancel
    BROKEN = "broken"  # the piece broke, or its worker died
    GIVE_UP = "give up"  # ... once too often
    FULL = "full"  # more is made than taken
    DRAINED = "drained"  # enough was taken
    DROP = "drop"  # nobody wants it any more


_TRANSITIONS: Final[Mapping[tuple[State, _Input], State]] = {
    (State.QUEUED, _Input.SENT): State.SPEAKING,
    (State.QUEUED, _Input.GIVE_UP): State.FAILED,
    (State.QUEUED, _Input.DROP): State.DROPPED,
    (State.SPEAKING, _Input.DONE): State.SPOKEN,
    (State.SPEAKING, _Input.BROKEN): State.QUEUED,
    (State.SPEAKING, _Input.GIVE_UP): State.FAILED,
    (State.SPEAKING, _Input.FULL): State.PAUSING,
    (State.SPEAKING, _Input.DROP): State.STOPPING,
    (State.PAUSING, _Input.DONE): State.SPOKEN,  # it crossed our Cancel
    (State.PAUSING, _Input.STOPPED): State.PAUSED,
    (State.PAUSING, _Input.BROKEN): State.PAUSED,
    (State.PAUSING, _Input.GIVE_UP): State.FAILED,
    (State.PAUSING, _Input.DROP): State.STOPPING,
    (State.PAUSED, _Input.DRAINED): State.QUEUED,
    (State.PAUSED, _Input.GIVE_UP): State.FAILED,
    (State.PAUSED, _Input.DROP): State.DROPPED,
    (State.STOPPING, _Input.DONE): State.DROPPED,
    (State.STOPPING, _Input.STOPPED): State.DROPPED,
    (State.STOPPING, _Input.BROKEN): State.DROPPED,
    (State.STOPPING, _Input.GIVE_UP): State.DROPPED,
    (State.SPOKEN, _Input.DROP): State.DROPPED,
    (State.FAILED, _Input.DROP): State.DROPPED,
}

_ENDED: Final = frozenset({State.SPOKEN, State.FAILED, State.DROPPED})


@dataclass(slots=True, kw_only=True, eq=False)
class Piece:
    """A piece of an utterance on its way through the schedule; only the schedule changes it."""

    request: Speak
    deadline: float
    state: State = State.QUEUED
    failure: str = ""
    blame: type[EngineFailure | UnsuitableUtterance] = EngineFailure
    chunks: deque[bytes] = field(default_factory=deque)
    untaken_bytes: int = 0
    received_bytes: int = 0
    attempts: int = 0
    sent_at: float = 0.0
    heard_at: float = 0.0

    @property
    def ended(self) -> bool:
        """Nothing will be added to `chunks`."""
        return self.state in _ENDED

    @property
    def ahead_s(self) -> float:
        """Audio that lies here untaken."""
        return self.untaken_bytes / (2 * self.request.rate_hz)


@dataclass(slots=True, kw_only=True, eq=False)
class _Worker:
    """One worker process as the schedule sees it. `heard_at`: when it last said anything; `paces`: it wants to know
    how much of what it made has been taken."""

    slots: int
    paces: bool
    heard_at: float
    pinged_at: float
    pieces: dict[int, Piece] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Advanced:
    """A piece has new chunks, or has ended."""

    piece: Piece


@dataclass(frozen=True, slots=True)
class Stuck:
    """A worker is to be killed."""

    worker: int
    detail: str


Event = Advanced | Stuck


class Schedule:
    """Pieces and workers. Workers are known by a number that is never used again."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._ids = itertools.count(1)
        self._order = itertools.count()
        self._queue: list[tuple[float, int, Piece]] = []
        self._waiting = 0  # pieces of the queue that are still wanted
        self._workers: dict[int, _Worker] = {}
        self._events: deque[Event] = deque()
        self._outbox: deque[tuple[int, Message]] = deque()
        self._verdict = ""  # why nothing can be spoken, while that is so
        self._piece_s = 0.01  # how long a piece takes, smoothed

    @property
    def waiting(self) -> int:
        """Pieces in the queue."""
        return self._waiting

    def admit(self) -> None:
        """Raise EngineBusy when a new utterance would have to wait behind a full queue."""
        if self._waiting >= self._limits.queue:
            slots = sum(worker.slots for worker in self._workers.values()) or 1
            wait_s = self._waiting * self._piece_s / slots
            raise EngineBusy(f"{self._waiting} pieces of speech are waiting to be made", retry_after_s=max(1.0, wait_s))

    def ask(self, request: Speak, now: float, *, in_s: float = 0.0) -> Piece:
        """Queue a piece that will begin to be heard in `in_s` seconds; its id is given here."""
        piece = Piece(request=request, deadline=now + in_s)
        self._enqueue(piece)
        self._assign(now)
        return piece

    def take(self, piece: Piece, now: float) -> bytes | None:
        """The next chunk of a piece; None when there is none (yet)."""
        samples = piece.chunks.popleft() if piece.chunks else None
        piece.untaken_bytes -= len(samples or b"")
        if samples is not None and piece.state is State.SPEAKING:
            number = self._speaker_of(piece)
            if self._workers[number].paces:
                self._outbox.append((number, Backlog(id=piece.request.id, ms=round(1000 * piece.ahead_s))))
        if piece.state is State.PAUSED and piece.ahead_s < self._limits.least_ahead_s:
            piece.deadline = now + piece.ahead_s
            self._apply(piece, _Input.DRAINED)
            self._assign(now)
        return samples

    def hurry(self, piece: Piece, now: float) -> None:
        """The listener has heard everything before this piece: if it waits in the queue, it is urgent now."""
        if piece.state is State.QUEUED and piece.deadline > now:
            piece.deadline = now
            heapq.heappush(self._queue, (now, next(self._order), piece))

    def drop(self, piece: Piece, now: float) -> None:
        """Nobody wants the piece any more. Works in every state."""
        if piece.state in (State.DROPPED, State.STOPPING):
            return
        speaking = piece.state is State.SPEAKING
        self._apply(piece, _Input.DROP)
        if speaking:
            self._cancel(piece)
        piece.chunks.clear()
        piece.untaken_bytes = 0
        self._assign(now)

    def fail_all(self, reason: str) -> None:
        """Nothing can be spoken, now or until a worker is ready: every piece that is not complete fails."""
        self._verdict = reason
        doomed = {piece for worker in self._workers.values() for piece in worker.pieces.values()}
        doomed |= {piece for _, _, piece in self._queue if piece.state is State.QUEUED}
        self._workers.clear()
        for piece in doomed:
            self._fail(piece, reason)
        self._queue.clear()

    def worker_ready(self, worker: int, hello: Hello, now: float) -> None:
        """A worker said Hello."""
        self._verdict = ""
        self._workers[worker] = _Worker(slots=hello.concurrency, paces=not hello.queues, heard_at=now, pinged_at=now)
        self._assign(now)

    def worker_lost(self, worker: int, detail: str, now: float) -> None:
        """A worker is gone; what it was speaking is spoken again by another."""
        lost = self._workers.pop(worker, None)
        if lost is None:
            return
        for piece in lost.pieces.values():
            self._break(piece, f"the worker {detail}")
        self._assign(now)

    def receive(self, worker: int, message: Message, now: float) -> None:
        """A worker said something after its Hello."""
        speaker = self._workers.get(worker)
        if speaker is None:
            return
        speaker.heard_at = now
        piece = speaker.pieces.get(0 if isinstance(message, Hello | Load) else message.id)
        match message:
            case Pong():
                pass
            case Chunk() if piece:
                piece.heard_at = now
                self._keep(piece, message.samples)
            case Refused() if piece:
                del speaker.pieces[message.id]
                piece.blame = UnsuitableUtterance
                self._fail(piece, message.message)
                self._assign(now)
            case Done() | Stopped() | Failed() if piece:
                del speaker.pieces[message.id]
                self._end(piece, message, now)
                self._assign(now)
            case _:
                self._events.append(Stuck(worker, f"said {type(message).__name__} out of turn"))

    def handle_timer(self, now: float) -> None:
        """Find workers that are stuck; ask the quiet ones whether they are there."""
        for number, worker in self._workers.items():
            silent = [piece for piece in worker.pieces.values() if now - piece.heard_at >= self._limits.stall_s]
            if silent:
                self._events.append(Stuck(number, f"made nothing of a piece for {self._limits.stall_s:g} s"))
            elif worker.pinged_at > worker.heard_at and now - worker.pinged_at >= self._limits.stall_s:
                self._events.append(Stuck(number, f"did not answer for {self._limits.stall_s:g} s"))
            elif worker.pinged_at <= worker.heard_at and now - worker.heard_at >= self._limits.ping_s:
                worker.pinged_at = now
                self._outbox.append((number, Ping()))

    def next_event(self) -> Event | None:
        return self._events.popleft() if self._events else None

    def data_to_send(self) -> list[tuple[int, Message]]:
        """(worker, message) pairs in order."""
        sent = list(self._outbox)
        self._outbox.clear()
        return sent

    def _enqueue(self, piece: Piece) -> None:
        heapq.heappush(self._queue, (piece.deadline, next(self._order), piece))
        self._waiting += 1
        if self._verdict:
            self._fail(piece, self._verdict)

    def _apply(self, piece: Piece, given: _Input) -> None:
        was_queued = piece.state is State.QUEUED
        piece.state = _TRANSITIONS[piece.state, given]
        if was_queued:
            self._waiting -= 1
        if piece.state is State.QUEUED:
            self._enqueue(piece)
        elif piece.ended or piece.state is State.PAUSED:
            self._events.append(Advanced(piece))

    def _assign(self, now: float) -> None:
        """Give queued pieces to free workers, the most urgent first."""
        while self._queue:
            deadline, _, piece = self._queue[0]
            if piece.state is not State.QUEUED or piece.deadline != deadline:
                heapq.heappop(self._queue)  # dropped since, or hurried past this entry
                continue
            free = [(len(worker.pieces) - worker.slots, number) for number, worker in self._workers.items()]
            load, number = min(free, default=(0, 0))
            if load >= 0:
                return
            heapq.heappop(self._queue)
            piece.request = dataclasses.replace(
                piece.request,
                id=next(self._ids),
                attempt=piece.attempts,
                skip_bytes=piece.received_bytes,
                due_ms=max(0, round(1000 * (deadline - now))),
            )
            piece.sent_at = piece.heard_at = now
            self._workers[number].pieces[piece.request.id] = piece
            self._apply(piece, _Input.SENT)
            self._outbox.append((number, piece.request))

    def _keep(self, piece: Piece, samples: bytes) -> None:
        if piece.state is State.STOPPING:
            return
        piece.chunks.append(samples)
        piece.untaken_bytes += len(samples)
        piece.received_bytes += len(samples)
        self._events.append(Advanced(piece))
        if piece.state is State.SPEAKING and piece.ahead_s >= self._limits.most_ahead_s:
            self._apply(piece, _Input.FULL)
            self._cancel(piece)

    def _end(self, piece: Piece, message: Done | Stopped | Failed, now: float) -> None:
        match message:
            case Done():
                self._piece_s += (now - piece.sent_at - self._piece_s) / 16
                self._apply(piece, _Input.DONE)
            case Stopped() if piece.state is not State.SPEAKING:
                self._apply(piece, _Input.STOPPED)
            case Stopped():
                self._break(piece, "the engine was killed")
            case Failed():
                self._break(piece, message.message)

    def _break(self, piece: Piece, cause: str) -> None:
        piece.attempts += 1
        if piece.state is State.SPEAKING and piece.attempts >= self._limits.attempts:
            self._fail(piece, f"a piece of speech broke {piece.attempts} times; at last {cause}")
        else:
            self._apply(piece, _Input.BROKEN)

    def _fail(self, piece: Piece, reason: str) -> None:
        piece.failure = reason
        self._apply(piece, _Input.GIVE_UP)

    def _cancel(self, piece: Piece) -> None:
        self._outbox.append((self._speaker_of(piece), Cancel(id=piece.request.id)))

    def _speaker_of(self, piece: Piece) -> int:
        return next(number for number, worker in self._workers.items() if piece.request.id in worker.pieces)
