"""What a call says, one thing after another: its script first, then what is handed in while it lasts."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import time
from collections.abc import Callable, Mapping
from functools import partial

import structlog

import engines
import rtp
from mediaserver.barge_in import Listen
from mediaserver.marks import Marks, segments
from mediaserver.passage import BargeIn, Item, Passage, PassageState, Said
from mediaserver.speech import Speech

__all__ = ["Attended", "Programme", "ProgrammeFull"]

# So much can wait to be said. Who hands in more does not listen.
MOST = 32
# Of what was said, the latest is remembered while the call lasts.
REMEMBERED = 50


class ProgrammeFull(Exception):
    """Too much waits to be said already."""


class Attended(Exception):
    """Somebody is there already who may speak at any time."""


class Programme:
    """The queue of what one call says, and its one speaker: `run`.

    turn      how much has been handed in so far; it tells one end of the queue from another
    began_at  time.monotonic() of the first sound, None before it

    Arguments:

    tell  gets what is known of each passage when it begins and when it ends; mark: when it has come to a mark
    """

    def __init__(
        self,
        speech: Speech,
        *,
        tell: Callable[[Said], None],
        mark: Callable[[Said], None],
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self._tell = tell
        self._mark = mark
        self._listen: Mapping[BargeIn, Listen] = {}
        self.turn = 0
        self.began_at: float | None = None
        self._speech = speech
        self._log = log
        # Mostly empty, and there is one for each call: an empty deque is ten times as large.
        self._queue: list[Passage] = []
        self._passages: list[Passage] = []
        self._waiting = asyncio.Event()
        self._confirmed = asyncio.Event()
        self._draining = asyncio.Event()
        self._passage: Passage | None = None
        self._stream: rtp.Stream | None = None
        self._began_ms = 0
        self._limit = asyncio.timeout(None)
        self._listening = contextlib.ExitStack()
        self._attended = False
        self._marks: Marks | None = None  # while something is being said

    @property
    def draining(self) -> bool:
        """Whether nothing new is to be said."""
        return self._draining.is_set()

    @property
    def idle(self) -> bool:
        """Whether all is said, and nobody is there who may say more."""
        return self._passage is None and not self._queue and not (self._attended and not self.draining)

    def add(self, item: Item) -> Passage:
        """Say it after all else. Raises ProgrammeFull."""
        if len(self._queue) >= MOST:
            raise ProgrammeFull(f"{MOST} things wait to be said")
        passage = Passage(item, self._tell)
        self._queue.append(passage)
        self._remember(passage)
        self.turn += 1
        self._waiting.set()
        return passage

    def rest(self) -> None:
        """There is nothing to say at first: all is said as soon as the media start."""
        self._waiting.set()

    def interrupt(self, item: Item) -> Passage:
        """Say it at once, and nothing else: what is being said stops, what waits is dropped."""
        self.stop()
        return self.add(item)

    def stop(self) -> None:
        """Say nothing more: what is being said stops, what waits is dropped."""
        for passage in self._queue:
            passage.end(PassageState.INTERRUPTED, spoken_ms=0)
        self._queue.clear()
        self._cut_short()

    def drop(self, passage: Passage) -> None:
        """Say no more of that one; what else waits is said."""
        if passage in self._queue:
            self._queue.remove(passage)
            passage.end(PassageState.INTERRUPTED, spoken_ms=0)
        elif passage is self._passage:
            self._cut_short()

    def attend(self) -> None:
        """Somebody is there who may say more at any time: all is not said before `leave`, or draining.

        Raises Attended.
        """
        if self._attended:
            raise Attended("somebody speaks in that call already")
        self._attended = True
        self.turn += 1  # what was reported before is not the end
        if self.draining:
            self._waiting.set()

    def leave(self) -> None:
        """Whoever was there has left: when all is said, it is the end."""
        self._attended = False
        self._waiting.set()

    async def silence(self) -> None:
        """As `stop`, and wait until nothing of what was being said is sent any more."""
        passage = self._passage
        self.stop()
        if passage is not None:
            await passage.wait_ended()

    def history(self) -> tuple[Said, ...]:
        """What was said, is being said and will be said, in this order."""
        return tuple(
            passage.facts(spoken_ms=self._heard_ms() if passage.state is PassageState.SPEAKING else passage.spoken_ms)
            for passage in self._passages
        )

    def confirm(self) -> None:
        """The media have started: from now on what is said is heard."""
        self._confirmed.set()
        if self._passage is not None:
            self._start(self._passage)

    async def wait_confirmed(self) -> None:
        """Return when the media have started."""
        await self._confirmed.wait()

    def drain(self) -> None:
        """Finish what is being said, repeat nothing, and wait for nobody to say more."""
        self._draining.set()
        if self._attended:
            self._waiting.set()

    async def run(
        self, stream: rtp.Stream, *, listen: Mapping[BargeIn, Listen], finished: Callable[[int], None]
    ) -> None:
        """Say it all, until cancelled. `stream` holds it back until the media start.

        listen    for each of what may break in; done while something is being said that allows it
        finished  gets the turn whenever all is said and sent
        """
        self._stream, self._listen = stream, listen
        try:
            while True:
                await self._waiting.wait()
                while self._queue:
                    self._passage = self._queue.pop(0)
                    await self._say(self._passage, stream)
                    self._passage = None
                self._waiting.clear()
                turn = self.turn
                await self._confirmed.wait()
                if not self._attended or self.draining:
                    finished(turn)
        finally:
            self._limit = asyncio.timeout(None)  # the one that was used holds on to the task, and that to all of this
            if self._passage is not None:
                self._passage.end(PassageState.INTERRUPTED, spoken_ms=self._heard_ms())
            for passage in self._queue:
                passage.end(PassageState.INTERRUPTED, spoken_ms=0)

    def _start(self, passage: Passage) -> None:
        """The passage is heard from now on."""
        passage.start()
        assert passage.item is not None, "it has not ended"
        if passage.item.duration_ms is not None and not self._limit.expired():
            self._limit.reschedule(asyncio.get_running_loop().time() + passage.item.duration_ms / 1000)
        if self._marks is not None:
            self._marks.start()
        for by in passage.item.barge_in:
            self._listening.callback(self._listen[by](partial(self._barge_in, passage, by)))

    def _barge_in(self, passage: Passage, by: BargeIn) -> None:
        """The other side breaks in: what it may break in on goes, this passage first; the rest is said as it was to be.

        VoiceXML 2.0 section 4.1.5 drops the rest as well, but there a queue is one question, and here it is whatever
        was handed in: what may not be broken in on must be heard.
        """
        if passage.barged_in_by is not None or self._limit.expired():
            return
        passage.barged_in_by = by
        self._cut_short()
        waiting, self._queue = self._queue, []
        for other in waiting:
            assert other.item is not None, "it has not ended"
            if by in other.item.barge_in:
                other.barged_in_by = by
                other.end(PassageState.INTERRUPTED, spoken_ms=0)
            else:
                self._queue.append(other)

    def _cut_short(self) -> None:
        """What is being said stops."""
        if self._passage is not None and not self._limit.expired():
            self._limit.reschedule(asyncio.get_running_loop().time())

    def _heard_ms(self) -> int:
        """How much of the passage that is being said has been sent."""
        return 0 if self._stream is None else self._stream.counters().played_ms - self._began_ms

    def _remember(self, passage: Passage) -> None:
        self._passages.append(passage)
        if len(self._passages) > REMEMBERED and self._passages[0].ended:
            del self._passages[0]

    async def _say(self, passage: Passage, stream: rtp.Stream) -> None:
        """Have the stream say a passage, and wait until it is sent."""
        assert passage.item is not None, "it has not ended"
        self._began_ms = stream.counters().played_ms
        marks = self._marks = Marks(self._heard_ms, partial(self._reach, passage))
        outcome = PassageState.INTERRUPTED
        try:
            async with asyncio.timeout(None) as self._limit:
                if self._confirmed.is_set():
                    self._start(passage)
                failed = False
                try:
                    await self._repeat(passage.item, stream, marks)
                except engines.EngineError as error:
                    self._log.error("speech failed", error=str(error))
                    failed = True
                await self._confirmed.wait()
                await stream.drained()
            outcome = PassageState.FAILED if failed else PassageState.SPOKEN
        except TimeoutError:
            stream.flush()
            self._log.info("speech was cut short")
        finally:
            self._listening.close()
            marks.close(complete=outcome is PassageState.SPOKEN)
            self._marks = None  # it leads back to here
        passage.end(outcome, spoken_ms=self._heard_ms())

    def _reach(self, passage: Passage, name: str) -> None:
        passage.last_mark = name
        self._mark(passage.facts(spoken_ms=self._heard_ms()))

    async def _repeat(self, item: Item, stream: rtp.Stream, marks: Marks) -> None:
        at_ms = 0
        for turn in itertools.count() if item.repeat is None else range(item.repeat):
            if turn and item.delay_ms:
                await self._confirmed.wait()
                await stream.drained()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._draining.wait(), item.delay_ms / 1000)
            if turn and self._draining.is_set():
                break
            before_ms = at_ms
            for segment in segments(item.content, item.marks):
                marks.expect(at_ms, segment.marks)
                if segment.content is not None:
                    # The line counts what was sent in blocks of 10 ms, and the end of an utterance fills its last one.
                    at_ms += 10 * math.ceil(await self._speech.say(segment.content, stream, begin=self._begin) / 10)
            if at_ms == before_ms:  # markup without words, say, makes no sound however often it is repeated
                break

    def _begin(self) -> None:
        if self.began_at is None:
            self.began_at = time.monotonic()
