"""The worker's side of the conversation of wire.py: requests in, samples out, and the device kept at work between.

Time is an argument, and what works is given: the networks of a model, or what stands for them in a test.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from engines.chatterbox.scheduler import Scheduler, Task, Work, halves
from engines.engine import EngineBusy, EngineError, UnsuitableUtterance
from engines.wire import (
    Backlog,
    Cancel,
    Chunk,
    Done,
    Failed,
    Load,
    Message,
    Ping,
    Pong,
    Refused,
    Speak,
    Stopped,
    WireError,
)

__all__ = ["Device", "Progress", "Studio"]

CHUNK_BYTES = 96_000
"""Of samples in one message: it has to fit into a packet."""

SAMPLE_BYTES = 2


class Progress(Protocol):
    """What there is of a stream after a step; see networks.Known."""

    @property
    def key(self) -> int: ...
    @property
    def ready(self) -> int: ...
    @property
    def ended(self) -> bool: ...
    @property
    def failure(self) -> str: ...


class Device(Protocol):
    """What makes the sound: see networks.Networks."""

    def begin(self, piece: Speak) -> None:
        """Take a stream in. Raises UnsuitableUtterance, EngineBusy, MemoryError."""

    def close(self, key: int) -> None: ...

    def rows(self, key: int, count: int) -> int: ...

    def step(self) -> Sequence[Progress]: ...

    def flow(self, keys: Sequence[int], counts: Sequence[int]) -> None:
        """Raises MemoryError."""

    def wave(self, keys: Sequence[int]) -> Sequence[bytes | None]:
        """Raises MemoryError."""


class Studio:
    """All requests of one worker.

    clock   is read before and after each piece of work, to know what it takes
    broken  streams that failed by themselves
    """

    def __init__(self, device: Device, clock: Callable[[], float], *, batch: int = 32, room: int = 1 << 16) -> None:
        self._device = device
        self._clock = clock
        self.scheduler = Scheduler(batch=batch, room=room, rows=device.rows)
        self._rates: dict[int, int] = {}
        self._waiting: deque[Speak] = deque()
        self._outbox: list[Message] = []
        self.broken = 0

    @property
    def busy(self) -> bool:
        """Whether there is work."""
        return bool(self._waiting) or len(self.scheduler) > 0

    def receive(self, message: Message, now: float) -> None:
        """What the host says. Raises WireError for what a host does not say."""
        match message:
            case Speak():
                self._waiting.append(message)
            case Cancel(id=key):
                self._cancel(key)
            case Backlog(id=key, ms=ms):
                self.scheduler.backlog(key, ms, now)
            case Ping():
                self._outbox.append(Pong())
            case _:
                raise WireError(f"a host does not say {type(message).__name__}")

    def data_to_send(self) -> list[Message]:
        """What the host is to hear, in order."""
        sent, self._outbox = self._outbox, []
        return sent

    def load(self, memory_bytes: int) -> Load:
        """How much there is to do, for a device that has so much memory taken."""
        scheduler = self.scheduler
        streams = len(scheduler) + len(self._waiting)
        return Load(memory_bytes=memory_bytes, streams=streams, late=scheduler.late, broken=self.broken)

    def work(self) -> None:
        """Do one thing, if there is any to do: take a request in, or what the scheduler says."""
        now = self._clock()
        if self._waiting:
            self._begin(self._waiting.popleft(), now)
            return
        task = self.scheduler.next(now)
        if task:
            self._carry_out(task)

    def _cancel(self, key: int) -> None:
        waiting = [piece for piece in self._waiting if piece.id != key]
        if len(waiting) < len(self._waiting) or key in self.scheduler:
            self._waiting = deque(waiting)
            self._forget(key)
            self._outbox.append(Stopped(id=key))

    def _begin(self, piece: Speak, now: float) -> None:
        try:
            self._device.begin(piece)
        except UnsuitableUtterance as error:
            self._outbox.append(Refused(id=piece.id, message=str(error)))
        except (EngineError, EngineBusy, MemoryError) as error:
            self._outbox.append(Failed(id=piece.id, message=str(error) or "out of memory"))
        else:
            self._rates[piece.id] = piece.rate_hz
            due = now + piece.due_ms / 1000
            self.scheduler.open(piece.id, now=now, due=due, steady=piece.seed is not None)

    def _carry_out(self, task: Task) -> None:
        began = self._clock()
        try:
            if task.work is Work.STEP:
                self._heard(self._device.step())
                return
            if task.work is Work.FLOW:
                self._device.flow(task.keys, task.counts)
            else:
                self._deliver(task)
        except MemoryError:
            self._relieve(task)
            return
        self.scheduler.took(task, self._clock() - began)
        self._end(task.keys)

    def _heard(self, progress: Sequence[Progress]) -> None:
        for known in progress:
            if known.failure:
                self._fail(known.key, known.failure)
            else:
                self.scheduler.tokens(known.key, ready=known.ready, ended=known.ended)
        self._end([known.key for known in progress])

    def _deliver(self, task: Task) -> None:
        made = self._device.wave(task.keys)
        now = self._clock()
        for key, samples in zip(task.keys, made, strict=True):
            if samples is None:
                self._fail(key, "the model has made what is no number")
                continue
            self._send(key, samples)
            self.scheduler.delivered(key, 1000 * len(samples) / (SAMPLE_BYTES * self._rates[key]), now)

    def _send(self, key: int, samples: bytes) -> None:
        for start in range(0, len(samples), CHUNK_BYTES):
            self._outbox.append(Chunk(id=key, samples=samples[start : start + CHUNK_BYTES]))

    def _relieve(self, task: Task) -> None:
        """There is no memory for this: fewer at a time from now on; if it was for one alone, that one is given up."""
        if len(task.keys) > 1:
            self.scheduler.batch = max(len(halves(task)[0].keys), 1)
        else:
            self._fail(task.keys[0], "there is not enough memory on the device for this utterance")

    def _end(self, keys: Sequence[int]) -> None:
        for key in keys:
            if key in self.scheduler and self.scheduler.done(key):
                self._forget(key)
                self._outbox.append(Done(id=key))

    def _fail(self, key: int, message: str) -> None:
        self.broken += 1
        self._forget(key)
        self._outbox.append(Failed(id=key, message=message))

    def _forget(self, key: int) -> None:
        self._device.close(key)
        self.scheduler.close(key)
        self._rates.pop(key, None)
