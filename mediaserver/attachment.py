"""Somebody outside who listens to a call and speaks into it, by the API: a recogniser, say, or an agent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from types import TracebackType
from typing import Final, Literal, Self

import http_api
import rtp
from mediaserver import encoding
from mediaserver.audio import RATE_HZ
from mediaserver.call import Call
from mediaserver.passage import Item, Passage
from mediaserver.programme import Attended, ProgrammeFull
from mediaserver.resampling import Resampler
from mediaserver.talkspurt import Talkspurt

__all__ = ["Attachment"]

FRAMES_PER_S: Final = 50

MOST_NOTICES: Final = 1000
"""Marks that are not reached yet, and notices that wait to be taken. Who has more of them does not read."""

# For something that waits to be said to be said.
RETRY_AFTER_S: Final = 5.0

LAWS: Final[dict[rtp.Codec, Callable[[bytes], bytes]]] = {"PCMU": encoding.mulaw, "PCMA": encoding.alaw}
CODECS: Final[dict[Literal["mulaw", "alaw"], rtp.Codec]] = {"mulaw": "PCMU", "alaw": "PCMA"}


class Attachment:
    """Implements http_api.CallLine. A context manager."""

    def __init__(self, call: Call, order: http_api.LineOrder) -> None:
        self._call = call
        self._order = order
        self._notices: asyncio.Queue[http_api.LineNotice | None] = asyncio.Queue()
        self._settled = asyncio.Event()
        self._resampler = None if order.rate_hz == RATE_HZ else Resampler(order.rate_hz, RATE_HZ)
        self._codec: rtp.Codec = "PCMU" if order.format == "pcm" else CODECS[order.format]
        self._spurt: Talkspurt | None = None
        self._passage: Passage | None = None
        self._clearing: set[Talkspurt] = set()
        self._played_ms = 0

    def __enter__(self) -> Self:
        """Raises http_api.Conflict."""
        if self._order.speaks:
            try:
                self._call.attend()
            except Attended as error:
                raise http_api.Conflict(str(error), field="id") from error
        self._call.digits.subscribe(self._key)
        self._call.follow(self._look)
        self._look()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call.unfollow(self._look)
        self._call.digits.unsubscribe(self._key)
        if self._spurt is not None:
            self._spurt.feed(self._tail())
            self._spurt.finish()
        if self._order.speaks:
            self._call.leave()

    async def opened(self) -> http_api.LineFacts | None:
        await self._settled.wait()
        media = self._call.media
        if media is None or media.audio is None:
            return None
        facts = self._call.facts()
        return http_api.LineFacts(
            call_id=facts.id,
            direction=facts.direction,
            caller=facts.caller,
            callee=facts.callee,
            codec="PCMA" if media.audio.codec == "PCMA" else "PCMU",
        )

    async def heard(self) -> AsyncGenerator[bytes, None]:
        order, media = self._order, self._call.media
        if media is None:
            return
        size = 2 * order.rate_hz // FRAMES_PER_S
        resampler = None if order.rate_hz == RATE_HZ else Resampler(RATE_HZ, order.rate_hz)
        ready = b""
        with media.ear.frames() as frames:
            async for frame in frames:
                if order.format != "pcm":
                    yield LAWS[CODECS[order.format]](frame.samples)
                elif resampler is None:
                    yield frame.samples
                else:
                    ready += resampler.feed(frame.samples)
                    while len(ready) >= size:
                        yield ready[:size]
                        ready = ready[size:]

    async def notices(self) -> AsyncGenerator[http_api.LineNotice, None]:
        while (notice := await self._notices.get()) is not None:
            yield notice

    async def play(self, audio: bytes) -> None:
        if audio and not self._call.over:
            spurt = self._spurt or self._begin()
            spurt.feed(self._codes(audio if self._resampler is None else self._resampler.feed(audio)))
            await spurt.room()

    def mark(self, name: str) -> None:
        self._check_patience()
        if self._spurt is None:
            self._notices.put_nowait(http_api.Marked(name))
        else:
            self._spurt.feed(self._tail())
            self._spurt.mark(name)

    def clear(self) -> None:
        self._check_patience()
        self._tail()
        if self._spurt is None or self._passage is None:
            self._notices.put_nowait(http_api.Cleared((), self._played_ms))
            return
        self._clearing.add(self._spurt)
        passage, self._spurt, self._passage = self._passage, None, None
        self._call.withdraw(passage)

    def _begin(self) -> Talkspurt:
        """What comes next is a talkspurt of its own."""
        media = self._call.media
        if self._order.format == "pcm" and media is not None and media.audio is not None:
            self._codec = "PCMA" if media.audio.codec == "PCMA" else "PCMU"
        spurt = Talkspurt(
            self._codec, delay_ms=self._order.delay_ms, reached=self._reach, ended=self._end, tail=self._tail
        )
        try:
            self._passage = self._call.utter(Item(content=spurt))
        except ProgrammeFull as error:
            raise http_api.Busy(str(error), retry_after_s=RETRY_AFTER_S) from error
        self._spurt = spurt
        return spurt

    def _codes(self, samples: bytes) -> bytes:
        return LAWS[self._codec](samples) if self._order.format == "pcm" else samples

    def _tail(self) -> bytes:
        """What the resampler still holds."""
        return b"" if self._resampler is None else self._codes(self._resampler.finish())

    def _check_patience(self) -> None:
        if self._notices.qsize() + (0 if self._spurt is None else len(self._spurt.marks)) >= MOST_NOTICES:
            raise http_api.Refused(f"{MOST_NOTICES} marks are not reached, or not read", field="type")

    # What the call tells.

    def _look(self) -> None:
        if self._call.over:
            self._settled.set()
            self._notices.put_nowait(None)
        elif self._call.media is not None:
            self._settled.set()

    def _key(self, digit: str) -> None:
        self._notices.put_nowait(http_api.Keyed(digit))

    def _reach(self, name: str) -> None:
        self._notices.put_nowait(http_api.Marked(name))

    def _end(self, spurt: Talkspurt) -> None:
        self._played_ms += spurt.played_ms
        if spurt.cut or spurt in self._clearing:
            self._notices.put_nowait(http_api.Cleared(spurt.marks, self._played_ms))
        self._clearing.discard(spurt)
        if spurt is self._spurt:
            self._spurt = self._passage = None
