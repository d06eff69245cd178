"""What happens to calls, for whoever follows it: a bounded log with numbers, from which one who was away catches up."""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

__all__ = ["EventLog", "Happening"]

KEPT = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    """Something that happened to the call of that id, "" if it is about the log itself; `kind` says what."""

    id: str
    kind: str
    call: str
    at: datetime
    facts: Mapping[str, object]


class EventLog:
    """The latest `count` happenings. Nobody who publishes waits for anybody who follows."""

    def __init__(self, *, count: int = KEPT) -> None:
        # Numbers begin anew with every server, and whoever has one of another is to be told so.
        self._epoch = secrets.token_hex(4)
        self._next = 1
        self._kept: deque[Happening] = deque(maxlen=count)
        self._followers: set[asyncio.Event] = set()
        self._tells: list[Callable[[Happening], None]] = []

    def tell(self, told: Callable[[Happening], None]) -> None:
        """Have `told` called with whatever happens from now on; it is quick, and raises nothing."""
        self._tells.append(told)

    def publish(self, kind: str, call: str, facts: Mapping[str, object]) -> None:
        """It has happened now."""
        happening = self._happening(self._next, kind, call, facts)
        self._kept.append(happening)
        self._next += 1
        for told in self._tells:
            told(happening)
        for follower in self._followers:
            follower.set()

    @property
    def beginning(self) -> str:
        """The id that everything which is kept comes after."""
        return f"{self._epoch}-{self._next - 1 - len(self._kept)}"

    async def follow(self, after: str | None, *, idle_s: float) -> AsyncGenerator[Happening | None, None]:
        """What happens from now on, or what has happened after the happening of that id; None where nothing does.

        The first one is of the kind "gap" if some of it is not known any more.
        """
        stirred = asyncio.Event()
        self._followers.add(stirred)
        try:
            number = self._next - 1 if after is None else self._number(after)
            oldest = self._next - len(self._kept)
            if number is None or number < oldest - 1:
                number = oldest - 1
                yield self._happening(number, "gap", "", {})
            while True:
                stirred.clear()
                while number < self._next - 1:
                    # A slow follower may have been overtaken: it is told so.
                    oldest = self._next - len(self._kept)
                    if number < oldest - 1:
                        number = oldest - 1
                        yield self._happening(number, "gap", "", {})
                    number += 1
                    yield self._kept[number - (self._next - len(self._kept))]
                with suppress(TimeoutError):
                    async with asyncio.timeout(idle_s):
                        await stirred.wait()
                        continue
                yield None
        finally:
            self._followers.discard(stirred)

    def _happening(self, number: int, kind: str, call: str, facts: Mapping[str, object]) -> Happening:
        return Happening(id=f"{self._epoch}-{number}", kind=kind, call=call, at=datetime.now(UTC), facts=facts)

    def _number(self, id: str) -> int | None:
        epoch, _, number = id.partition("-")
        if epoch != self._epoch or not (number.isascii() and number.isdigit() and len(number) < 16):
            return None
        return int(number) if int(number) < self._next else None
