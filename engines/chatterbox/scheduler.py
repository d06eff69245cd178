"""Which work a device does next, for all streams that it has. No torch, no device and no clock in here.

A stream goes round: steps of T3 until there are tokens for a hop, the flow over them, the vocoder over its frames; what
comes out is delivered, and will have been heard at a moment that is known: the stream's deadline. The stream whose
deadline comes first says what is done next, and all others that want the same are done along with it, as far as a batch
goes. Whoever has heard nothing yet comes before all who have something to hear.

    >>> scheduler = Scheduler()
    >>> scheduler.open(1, now=0.0, due=0.0)
    >>> scheduler.next(0.0)
    Task(work=<Work.STEP: 'step'>, keys=(1,), counts=())
    >>> scheduler.tokens(1, ready=4)
    >>> scheduler.next(0.1)
    Task(work=<Work.FLOW: 'flow'>, keys=(1,), counts=(4,))
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from engines.chatterbox.hops import HopSchedule

__all__ = ["Scheduler", "Task", "Work"]


class Work(enum.Enum):
    """What a device does."""

    STEP = "step"
    FLOW = "flow"
    WAVE = "wave"


@dataclass(frozen=True, slots=True)
class Task:
    """One piece of work for some streams, the most urgent one first; `counts` are tokens of each, in hops."""

    work: Work
    keys: tuple[int, ...]
    counts: tuple[int, ...] = ()


@dataclass(slots=True, kw_only=True, eq=False)
class _Stream:
    """`due`: when all that was delivered has been heard. `framed`: tokens whose frames wait for the vocoder."""

    key: int
    order: int
    due: float
    steady: bool
    ready: int = 0
    ended: bool = False
    hops: int = 0
    framed: int = 0
    delivered: bool = False

    @property
    def done(self) -> bool:
        return self.ended and not self.ready and not self.framed

    def urgency(self, now: float) -> tuple[int, float, int]:
        """The smaller, the sooner."""
        waiting = not self.delivered and self.due <= now
        return (0 if waiting else 1, self.due, self.order)


@dataclass(slots=True)
class _Cost:
    """Seconds that work on so many tokens takes, smoothed over what was measured."""

    seconds: dict[int, float] = field(default_factory=dict)

    def add(self, tokens: int, seconds: float) -> None:
        known = self.seconds.get(tokens, seconds)
        self.seconds[tokens] = known + (seconds - known) / 4

    def of(self, tokens: int) -> float:
        """What is not known costs as much as the next shorter, or else the shortest that is."""
        if not self.seconds:
            return 0.0
        known = max((size for size in self.seconds if size <= tokens), default=min(self.seconds))
        return self.seconds[known]


class Scheduler:
    """Streams by key.

    batch  streams of a hop at a time, at the most
    rows   how many rows a hop over so many tokens of a stream computes: what is padded to the longest in a batch
    room   rows of a batch altogether, at the most, padding included; a single stream may have more

    late    streams that had nothing left to hear before more came, each time it happened
    late_s  how long they waited in all
    """

    def __init__(
        self,
        *,
        hops: HopSchedule | None = None,
        batch: int = 32,
        room: int = 1 << 16,
        rows: Callable[[int, int], int] = lambda key, count: count,
    ) -> None:
        self._hops = hops or HopSchedule()
        self.batch, self._room, self._rows = batch, room, rows
        self._streams: dict[int, _Stream] = {}
        self._orders = 0
        self._flow, self._wave = _Cost(), _Cost()
        self.late = 0
        self.late_s = 0.0

    def __len__(self) -> int:
        return len(self._streams)

    def __contains__(self, key: int) -> bool:
        return key in self._streams

    def open(self, key: int, *, now: float, due: float, steady: bool = False) -> None:
        """A stream whose first sound is wanted at `due`. `steady`: its hops depend on nothing but what it says."""
        self._orders += 1
        self._streams[key] = _Stream(key=key, order=self._orders, due=max(due, now), steady=steady)

    def tokens(self, key: int, *, ready: int, ended: bool = False) -> None:
        """A hop could have so many tokens of the stream now; `ended` if there will be no others."""
        stream = self._streams[key]
        stream.ready, stream.ended = ready, ended

    def delivered(self, key: int, ms: float, now: float) -> None:
        """So much more sound has gone out."""
        stream = self._streams[key]
        if stream.delivered and now > stream.due:
            self.late += 1
            self.late_s += now - stream.due
        stream.due = max(stream.due, now) + ms / 1000
        stream.delivered = True

    def backlog(self, key: int, ms: float, now: float) -> None:
        """Whoever listens has so much left untaken: it will last at least so long."""
        stream = self._streams.get(key)
        if stream:
            stream.due = max(stream.due, now + ms / 1000)

    def close(self, key: int) -> None:
        """Forget a stream; works at every stage, and twice."""
        self._streams.pop(key, None)

    def done(self, key: int) -> bool:
        """Whether all of the stream is out."""
        return self._streams[key].done

    def next(self, now: float) -> Task | None:
        """What to do now; None when there is nothing to do. It is to be reported by `took`."""
        wishes = [
            (stream.urgency(now), stream, *self._wish(stream, now))
            for stream in self._streams.values()
            if not stream.done
        ]
        if not wishes:
            return None
        work = min(wishes)[2]
        if work is Work.STEP:
            # A step takes all streams along: it costs the same.
            return Task(work, tuple(stream.key for _, stream, _, _ in sorted(wishes) if not stream.ended))
        chosen: list[tuple[int, int]] = []
        longest = 0
        for _, stream, _, count in sorted(wish for wish in wishes if wish[2] is work):
            rows = self._rows(stream.key, count)
            if chosen and (len(chosen) >= self.batch or max(longest, rows) * (len(chosen) + 1) > self._room):
                break
            chosen.append((stream.key, count))
            longest = max(longest, rows)
        return Task(work, tuple(key for key, _ in chosen), tuple(count for _, count in chosen))

    def took(self, task: Task, seconds: float) -> None:
        """The task is done; so long it took."""
        for key, count in zip(task.keys, task.counts, strict=False):
            stream = self._streams.get(key)
            if stream is None:
                continue
            if task.work is Work.FLOW:
                stream.ready -= count
                stream.hops += 1
                stream.framed = count
            else:
                stream.framed = 0
        if task.counts:
            (self._flow if task.work is Work.FLOW else self._wave).add(max(task.counts), seconds)

    def takes_ms(self, tokens: int) -> float:
        """How long a hop takes, by what was measured; 0 before anything was."""
        return 1000 * (self._flow.of(tokens) + self._wave.of(tokens))

    def _wish(self, stream: _Stream, now: float) -> tuple[Work, int]:
        if stream.framed:
            return Work.WAVE, stream.framed
        hop = self._hops.next_hop(
            hops=stream.hops,
            ready=stream.ready,
            ended=stream.ended,
            buffered_ms=math.inf if stream.steady else max(stream.due - now, 0.0) * 1000,
            takes_ms=self.takes_ms,
        )
        return (Work.FLOW, hop) if hop else (Work.STEP, 0)


def halves(task: Task) -> Sequence[Task]:
    """The task as two smaller ones; one that is for a single stream cannot be less."""
    middle = len(task.keys) // 2
    if not middle:
        return (task,)
    return (
        Task(task.work, task.keys[:middle], task.counts[:middle]),
        Task(task.work, task.keys[middle:], task.counts[middle:]),
    )
