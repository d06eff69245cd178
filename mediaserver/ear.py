"""The caller's audio within the server, for any number of listeners at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

import rtp

__all__ = ["Ear", "Frames", "Listening"]

MOST_WAITING: Final = 50
"""Frames that wait for who iterates: a second of audio."""


class Ear:
    """What is heard on one stream. The stream is listened to, which costs something, only while somebody listens here.

    Frames are `rtp.Frame`: 20 ms each, one after the other without gaps, silence where nothing came. They carry the
    time, so that they can be put beside what was said or beside another listener's.
    """

    def __init__(self, stream: rtp.Stream) -> None:
        self._stream = stream
        self._listening: list[Listening] = []
        self._tapped = False

    def listen(
        self,
        take: Callable[[rtp.Frame], None],
        *,
        said: Callable[[rtp.Frame], None] | None = None,
        over: Callable[[], None] | None = None,
    ) -> Listening:
        """Have every frame from now on given to `take`, until what is returned is closed, or the call is over.

        Each is given in a turn of the event loop, which `take` is not to hold up; one that raises disturbs no other
        listener. `said` gets what is said to the caller meanwhile, as rtp.Stream.tap tells it, and `over` is told when
        the call is over.

        Raises rtp.StreamClosed when it is over already.
        """
        if not self._listening:
            self._stream.listen(self._spread)
        listening = Listening(self, take, said, over)
        self._listening.append(listening)
        self._tap()
        return listening

    def frames(self, *, most: int = MOST_WAITING) -> Frames:
        """Every frame from now on, to iterate over; when `most` wait, the oldest is dropped and counted.

        Raises rtp.StreamClosed when the call is over already.
        """
        return Frames(self, most)

    def close(self) -> None:
        """The call is over; before its stream is closed. Idempotent."""
        for listening in self._listening.copy():
            over = listening.over
            listening.close()
            if over is not None:
                over()

    def _spread(self, frame: rtp.Frame) -> None:
        loop = asyncio.get_running_loop()
        for listening in self._listening:
            loop.call_soon(listening.give, frame)

    def _spread_said(self, frame: rtp.Frame) -> None:
        loop = asyncio.get_running_loop()
        for listening in self._listening:
            loop.call_soon(listening.give_said, frame)

    def _forget(self, listening: Listening) -> None:
        if listening in self._listening:
            self._listening.remove(listening)
            self._tap()
            if not self._listening:
                self._stream.listen(None)

    def _tap(self) -> None:
        """Have the stream say what is said while, and only while, somebody wants to know."""
        wanted = any(listening.said is not None for listening in self._listening)
        if wanted is not self._tapped:
            self._tapped = wanted
            self._stream.tap(self._spread_said if wanted else None)


class Listening:
    """One listener at an ear. A context manager; once it is closed no frame is given any more."""

    __slots__ = ("_ear", "over", "said", "take")

    def __init__(
        self,
        ear: Ear,
        take: Callable[[rtp.Frame], None],
        said: Callable[[rtp.Frame], None] | None,
        over: Callable[[], None] | None,
    ) -> None:
        self._ear = ear
        self.take: Callable[[rtp.Frame], None] | None = take
        self.said = said
        self.over = over

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def give(self, frame: rtp.Frame) -> None:
        if self.take is not None:
            self.take(frame)

    def give_said(self, frame: rtp.Frame) -> None:
        if self.said is not None:
            self.said(frame)

    def close(self) -> None:
        """Listen no longer. Idempotent."""
        self.take = self.said = self.over = None  # which may lead back to here
        self._ear._forget(self)


class Frames:
    """Frames in a bounded queue, to iterate over asynchronously until the call is over. A context manager.

    lost  how many were dropped because they were not taken in time
    """

    def __init__(self, ear: Ear, most: int) -> None:
        self.lost = 0
        self._waiting: deque[rtp.Frame] = deque(maxlen=most)
        self._more = asyncio.Event()
        self._over = False
        self._listening = ear.listen(self._take, over=self._end)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> rtp.Frame:
        while not self._waiting:
            if self._over:
                raise StopAsyncIteration
            self._more.clear()
            await self._more.wait()
        return self._waiting.popleft()

    def close(self) -> None:
        """Listen no longer; what waits may still be taken. Idempotent."""
        self._listening.close()
        self._end()

    def _take(self, frame: rtp.Frame) -> None:
        self.lost += len(self._waiting) == self._waiting.maxlen
        self._waiting.append(frame)
        self._more.set()

    def _end(self) -> None:
        self._over = True
        self._more.set()
