"""What waits to be told to one webhook, and when it is tried: the rules, without I/O and without a clock.

Messages of one lane are delivered in order, one after the other; lanes do not wait for one another. An endpoint that is
away is left alone for ever longer, whatever there is to tell, and then asked with one message before all the others.
"""

from __future__ import annotations

import enum
import heapq
import itertools
import random
from collections import deque
from dataclasses import dataclass, field

__all__ = ["Attempt", "Counts", "Message", "Outbox", "attempt_of"]

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
# A message that an endpoint refuses while it takes others holds up its own lane: for about two minutes.
MOST_REFUSALS = 8
AT_ONCE = 8
# What a message takes beside its body.
OVERHEAD_BYTES = 500


class Attempt(enum.Enum):
    """What came of one attempt to deliver a message."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    AWAY = "away"
    GONE = "gone"


def attempt_of(status: int) -> Attempt:
    """What a status says (Standard Webhooks 1.0.0, "Deliverability and reliability")."""
    if 200 <= status < 300:
        return Attempt.ACCEPTED
    if status == 410:
        return Attempt.GONE
    return Attempt.AWAY if status in (408, 429) or status >= 500 else Attempt.REFUSED


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One thing to tell; `lane` is what it is about."""

    id: str
    lane: str
    body: bytes

    @property
    def size_bytes(self) -> int:
        return len(self.body) + OVERHEAD_BYTES


@dataclass(slots=True)
class Counts:
    """What has become of messages: `failed` were given up, `dropped` found no room or nobody to read them."""

    delivered: int = 0
    failed: int = 0
    dropped: int = 0
    attempts: int = 0


@dataclass(slots=True)
class _Waiting:
    message: Message
    since: float
    refusals: int = 0


@dataclass(slots=True)
class Outbox:
    """The messages for one endpoint. Times are seconds of one clock that never goes back.

    max_bytes  that may wait; what comes then is dropped
    keep_s     after which a message is given up
    gone       the endpoint wants nothing more, ever
    """

    random: random.Random
    max_bytes: int
    keep_s: float
    gone: bool = False
    counts: Counts = field(default_factory=Counts)
    waiting: int = 0
    _bytes: int = 0
    _in_flight: int = 0
    _failures: int = 0
    _rests_until: float = 0.0
    _lanes: dict[str, deque[_Waiting]] = field(default_factory=dict)
    # Of each lane of which nothing is in flight, when its first message is due.
    _due: list[tuple[float, int, str]] = field(default_factory=list)
    _order: itertools.count[int] = field(default_factory=itertools.count)

    def put(self, message: Message, now: float) -> bool:
        """Have it told; False if it is dropped."""
        if self.gone or self._bytes + message.size_bytes > self.max_bytes:
            self.counts.dropped += 1
            return False
        self.waiting += 1
        self._bytes += message.size_bytes
        if message.lane in self._lanes:
            self._lanes[message.lane].append(_Waiting(message, now))
        else:
            self._lanes[message.lane] = deque([_Waiting(message, now)])
            self._schedule(message.lane, now)
        return True

    def take(self, now: float) -> Message | None:
        """A message that is to be sent now; `settle` wants to hear of it."""
        while (wake_at := self.wake_at()) is not None and wake_at <= now:
            _, _, lane = heapq.heappop(self._due)
            first = self._lanes[lane][0]
            if now - first.since < self.keep_s:
                self._in_flight += 1
                self.counts.attempts += 1
                return first.message
            self.counts.failed += 1
            self._advance(lane, now)
        return None

    def settle(self, message: Message, attempt: Attempt, now: float, *, retry_after_s: float = 0) -> None:
        """It was tried; an endpoint may say when to come again."""
        self._in_flight -= 1
        if self.gone:
            return
        first = self._lanes[message.lane][0]
        match attempt:
            case Attempt.ACCEPTED:
                self._failures, self._rests_until = 0, now
                self.counts.delivered += 1
                self._advance(message.lane, now)
            case Attempt.REFUSED:
                self._failures, self._rests_until = 0, now
                first.refusals += 1
                if first.refusals >= MOST_REFUSALS:
                    self.counts.failed += 1
                    self._advance(message.lane, now)
                else:
                    self._schedule(message.lane, now + max(self._pause_s(first.refusals), retry_after_s))
            case Attempt.AWAY:
                if now >= self._rests_until:  # otherwise it was under way together with one that has told so already
                    self._failures += 1
                    self._rests_until = now + self._pause_s(self._failures)
                self._rests_until = max(self._rests_until, now + retry_after_s)
                self._schedule(message.lane, now)
            case Attempt.GONE:
                self.gone = True
                self.counts.dropped += self.waiting
                self.waiting = self._bytes = 0
                self._lanes.clear()
                self._due.clear()

    def wake_at(self) -> float | None:
        """When `take` has something to give, unless something changes before."""
        # One that was away is asked with one message.
        if not self._due or self._in_flight >= (1 if self._failures else AT_ONCE):
            return None
        return max(self._due[0][0], self._rests_until)

    @property
    def away(self) -> bool:
        """Whether the latest attempts found nobody there."""
        return self._failures > 0

    def _advance(self, lane: str, now: float) -> None:
        done = self._lanes[lane].popleft()
        self.waiting -= 1
        self._bytes -= done.message.size_bytes
        if self._lanes[lane]:
            self._schedule(lane, now)
        else:
            del self._lanes[lane]

    def _schedule(self, lane: str, at: float) -> None:
        heapq.heappush(self._due, (at, next(self._order), lane))

    def _pause_s(self, failures: int) -> float:
        """Twice as long each time; jitter keeps servers apart that were let down by one endpoint together."""
        longest = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(failures - 1, 20))
        return longest * self.random.uniform(0.5, 1.0)
