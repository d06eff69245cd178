"""The calls by the ids that the API knows them by: those that are alive, and those that were until lately."""

from __future__ import annotations

from mediaserver.call import Call
from mediaserver.detail import Facts

__all__ = ["Ledger"]

# How long an ended call is remembered, and how many are.
REMEMBERED_S = 600.0
REMEMBERED = 1000


class Ledger:
    """What is known of all calls. Times are seconds of one clock that never goes back."""

    def __init__(self, *, seconds: float = REMEMBERED_S, count: int = REMEMBERED) -> None:
        self._seconds = seconds
        self._count = count
        self._alive: dict[str, Call] = {}
        self._ended: dict[str, tuple[float, Facts]] = {}  # until when, in the order in which they ended

    def begin(self, call: Call) -> None:
        self._alive[call.detail.id] = call

    def end(self, call: Call, now: float) -> Facts:
        """It has ended; gives what is known of it."""
        id = call.detail.id
        del self._alive[id]
        facts = call.facts()
        self._ended[id] = (now + self._seconds, facts)
        self._forget(now)
        return facts

    def alive(self, id: str) -> Call | None:
        """A call that has not ended."""
        return self._alive.get(id)

    def find(self, id: str, now: float) -> Facts | None:
        """What is known of a call; None when nothing is, or no more."""
        self._forget(now)
        if (call := self._alive.get(id)) is not None:
            return call.facts()
        return self._ended[id][1] if id in self._ended else None

    def all(self, now: float) -> list[Facts]:
        """What is known of all calls: first those that have ended."""
        self._forget(now)
        return [*(facts for _, facts in self._ended.values()), *(call.facts() for call in self._alive.values())]

    def _forget(self, now: float) -> None:
        while self._ended:
            first = next(iter(self._ended))
            if len(self._ended) <= self._count and self._ended[first][0] > now:
                return
            del self._ended[first]
