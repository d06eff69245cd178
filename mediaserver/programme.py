"""What a call says, one thing after another: its script first, then what is handed in while it lasts."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

import engines
import rtp
from mediaserver.speech import Speech

__all__ = ["Item", "Programme", "ProgrammeFull"]

# So much can wait to be said. Who hands in more does not listen.
MOST = 32


class ProgrammeFull(Exception):
    """Too much waits to be said already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One thing to be said.

    repeat       how often, None for ever; delay_ms: silence between two repetitions
    duration_ms  end of it, counted from the start of the media; None: no limit
    """

    content: engines.Utterance | rtp.Clip
    repeat: int | None = 1
    delay_ms: int = 0
    duration_ms: int | None = None


class Programme:
    """The queue of what one call says, and its one speaker: `run`.

    turn      how much has been handed in so far; it tells one end of the queue from another
    began_at  time.monotonic() of the first sound, None before it
    """

    def __init__(self, speech: Speech, *, log: structlog.stdlib.BoundLogger) -> None:
        self.turn = 0
        self.began_at: float | None = None
        self._speech = speech
        self._log = log
        # Mostly empty, and there is one for each call: an empty deque is ten times as large.
        self._items: list[Item] = []
        self._waiting = asyncio.Event()
        self._confirmed = asyncio.Event()
        self._draining = asyncio.Event()
        self._item: Item | None = None
        self._limit = asyncio.timeout(None)

    @property
    def draining(self) -> bool:
        """Whether nothing new is to be said."""
        return self._draining.is_set()

    @property
    def idle(self) -> bool:
        """Whether all is said."""
        return self._item is None and not self._items

    def add(self, item: Item) -> None:
        """Say it after all else. Raises ProgrammeFull."""
        if len(self._items) >= MOST:
            raise ProgrammeFull(f"{MOST} things wait to be said")
        self._items.append(item)
        self.turn += 1
        self._waiting.set()

    def interrupt(self, item: Item) -> None:
        """Say it at once, and nothing else: what is being said stops, what waits is dropped."""
        self._items.clear()
        self.add(item)
        if self._item is not None and not self._limit.expired():
            self._limit.reschedule(asyncio.get_running_loop().time())

    def confirm(self) -> None:
        """The media have started: from now on what is said is heard."""
        self._confirmed.set()
        if self._item is not None and self._item.duration_ms is not None and not self._limit.expired():
            self._limit.reschedule(asyncio.get_running_loop().time() + self._item.duration_ms / 1000)

    def drain(self) -> None:
        """Finish what is being said, and repeat nothing."""
        self._draining.set()

    async def run(self, stream: rtp.Stream, *, finished: Callable[[int], None]) -> None:
        """Say it all, until cancelled. `stream` holds it back until the media start.

        finished  gets the turn whenever all is said and sent
        """
        try:
            while True:
                await self._waiting.wait()
                while self._items:
                    self._item = self._items.pop(0)
                    await self._say(self._item, stream)
                    self._item = None
                self._waiting.clear()
                finished(self.turn)
        finally:
            self._limit = asyncio.timeout(None)  # the one that was used holds on to the task, and that to all of this

    async def _say(self, item: Item, stream: rtp.Stream) -> None:
        """Have the stream say an item, and wait until it is sent."""
        try:
            async with asyncio.timeout(None) as self._limit:
                if self._confirmed.is_set():
                    self.confirm()
                try:
                    await self._repeat(item, stream)
                except engines.EngineError as error:
                    self._log.error("speech failed", error=str(error))
                await self._confirmed.wait()
                await stream.drained()
        except TimeoutError:
            stream.flush()
            self._log.info("speech was cut short")

    async def _repeat(self, item: Item, stream: rtp.Stream) -> None:
        for turn in itertools.count() if item.repeat is None else range(item.repeat):
            if turn and item.delay_ms:
                await self._confirmed.wait()
                await stream.drained()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._draining.wait(), item.delay_ms / 1000)
            if turn and self._draining.is_set():
                break
            said = await self._speech.say(item.content, stream, begin=self._begin)
            if not said:  # markup without words, say, makes no sound however often it is repeated
                break

    def _begin(self) -> None:
        if self.began_at is None:
            self.began_at = time.monotonic()
