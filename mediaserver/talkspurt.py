"""Speech that comes into a call from elsewhere while it is being said: one talkspurt (RFC 3551 section 4.1)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

import rtp

__all__ = ["HANGOVER_MS", "HELD_MS", "Talkspurt"]

OCTETS_PER_MS: Final = 8
BLOCK_OCTETS: Final = 80
"""What the plane counts in: 10 ms."""

HELD_MS: Final = 60_000
"""So much may wait to be sent; then whoever brings it waits too."""

HANGOVER_MS: Final = 200
"""So long after all of it was sent, what comes still belongs to it."""

SLICE_MS: Final = 240
"""How much is handed to the plane at a time: whole packets of every ptime."""

MARGIN_MS: Final = 8
"""By how much the end of what is there is handed over before the packet that precedes it has gone."""

SHORTEST_MS: Final = 2


def _nothing() -> bytes:
    return b""


class Talkspurt:
    """G.711 that is sent as it comes, and marks in it.

    Arguments:

    codec     of what is fed
    delay_ms  so much is gathered before the first of it is sent, or for so long: the jitter that is made up for
    reached   gets the name of each mark when all before it has been sent
    ended     is called when no more of it will be sent
    tail      gives what whoever feeds still has, such as the end of what a resampler holds; called when that is due

    over  whether no more of it will be sent
    cut   once it is over: whether some of it was not sent
    """

    def __init__(
        self,
        codec: rtp.Codec,
        *,
        delay_ms: int,
        reached: Callable[[str], None],
        ended: Callable[[Talkspurt], None],
        tail: Callable[[], bytes] = _nothing,
    ) -> None:
        self.over = False
        self.cut = False
        self._codec = codec
        self._delay_ms = delay_ms
        self._reached: Callable[[str], None] | None = reached
        self._ended: Callable[[Talkspurt], None] | None = ended
        self._tail: Callable[[], bytes] = tail
        self._waiting = bytearray()
        self._fed = 0  # octets
        self._passed = 0  # of them, those that the plane has
        self._marks: deque[tuple[int, str]] = deque()  # by the octets before them
        self._due: deque[tuple[int, str]] = deque()  # by the time at which they are reached, of what was handed over
        self._handed_ms = 0
        self._stream: rtp.Stream | None = None
        self._began_ms = self._final_ms = 0
        self._complete = False
        self._more = asyncio.Event()
        self._room = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    # For whoever feeds it.

    def feed(self, codes: bytes) -> None:
        """This comes next. Nothing if it is over."""
        if not self.over:
            self._waiting += codes
            self._fed += len(codes)
            self._more.set()

    async def room(self) -> None:
        """Wait until there is room for more."""
        while not self.over and len(self._waiting) >= HELD_MS * OCTETS_PER_MS:
            self._room.clear()
            await self._room.wait()

    def mark(self, name: str) -> None:
        """Here is a mark of that name."""
        self._marks.append((self._fed, name))
        if self._fed == self._passed:
            self._note(self._handed_ms)
            self._report()

    def finish(self) -> None:
        """No more comes: it ends as soon as all of it is sent."""
        self._complete = True
        self._more.set()

    @property
    def marks(self) -> tuple[str, ...]:
        """The names of those that are not reached."""
        return tuple(name for _, name in (*self._due, *self._marks))

    @property
    def played_ms(self) -> int:
        """How much of it has been sent."""
        if self.over or self._stream is None:
            return self._final_ms
        return self._stream.counters().played_ms - self._began_ms

    # For the programme of a call.

    async def play(self, stream: rtp.Stream, *, begin: Callable[[], None]) -> bool:
        """Have `stream` send it as it comes; returns when all is sent and nothing has come for a while.

        begin  is called when the first of it is there. Raises rtp.StreamClosed.
        """
        self._stream, self._began_ms = stream, stream.counters().played_ms
        await self._gather()
        if self._waiting:
            begin()
        while True:
            packet = stream.ptime_ms * OCTETS_PER_MS
            if whole := min(len(self._waiting), SLICE_MS * OCTETS_PER_MS) // packet * packet:
                await self._hand_over(stream, whole)
                continue
            # What fills no packet waits for more as long as it can: it would be filled up with silence.
            spare_ms = self._ahead_ms - stream.ptime_ms - MARGIN_MS
            if spare_ms > 0:
                await self._stirred(spare_ms)
                continue
            self._waiting += (tail := self._tail())
            self._fed += len(tail)
            if self._waiting:
                await self._hand_over(stream, len(self._waiting))
            elif self._ahead_ms > 0:
                await self._stirred(self._ahead_ms)
            elif self._complete or not await self._stirred(HANGOVER_MS):
                return self._passed > 0
            else:
                await self._gather()

    def close(self) -> None:
        """No more of it will be sent, whether or not all was. Idempotent."""
        if self.over:
            return
        self._final_ms = self.played_ms
        self.cut = bool(self._waiting) or self._ahead_ms > 0
        self.over = True
        self._report()
        self._waiting.clear()
        self._room.set()
        if self._ended is not None:
            self._ended(self)
        self._reached = self._ended = None  # which lead to whoever holds on to this
        self._tail = _nothing

    @property
    def _ahead_ms(self) -> int:
        """How much of what was handed over has not been sent."""
        return self._handed_ms - self.played_ms

    async def _gather(self) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + self._delay_ms / 1000
        while len(self._waiting) < self._delay_ms * OCTETS_PER_MS and not self._complete:
            left_ms = (until - loop.time()) * 1000
            if left_ms <= 0 or not await self._stirred(left_ms):
                return

    async def _stirred(self, timeout_ms: float) -> bool:
        """Wait for more to come; whether it has."""
        self._more.clear()
        try:
            async with asyncio.timeout(max(timeout_ms, SHORTEST_MS) / 1000):
                await self._more.wait()
        except TimeoutError:
            return False
        return True

    async def _hand_over(self, stream: rtp.Stream, size: int) -> None:
        codes = bytes(self._waiting[:size])
        del self._waiting[:size]
        self._room.set()
        self._note(self._handed_ms, size)
        self._passed += size
        self._handed_ms += -(-size // BLOCK_OCTETS) * 10
        self._report()
        await stream.relay(codes, self._codec)
        # What follows may be late, and is to be heard at once then: it is an utterance of its own for the plane.
        stream.end()

    def _note(self, at_ms: int, size: int = 0) -> None:
        """When the marks are reached that lie in the next `size` octets, or right behind what was handed over."""
        while self._marks and self._marks[0][0] <= self._passed + size:
            position, name = self._marks.popleft()
            self._due.append((at_ms + -(-(position - self._passed) // BLOCK_OCTETS) * 10, name))

    def _report(self) -> None:
        """Tell which marks are reached, and look again when the next one is."""
        played_ms = self.played_ms
        while self._due and self._due[0][0] <= played_ms:
            _, name = self._due.popleft()
            if self._reached is not None:
                self._reached(name)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if self._due and not self.over:
            left_ms = max(self._due[0][0] - played_ms, SHORTEST_MS)
            self._timer = asyncio.get_running_loop().call_later(left_ms / 1000, self._report)
