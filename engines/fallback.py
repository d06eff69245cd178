"""An engine with another one behind it, that speaks where the first one cannot."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import replace

from engines.engine import (
    DEFAULT_VOICE,
    Engine,
    EngineFailure,
    EngineState,
    Health,
    Pcm,
    Substitute,
    UnsuitableUtterance,
    Utterance,
    Voice,
)

__all__ = ["WithFallback", "open_with_fallback"]


class WithFallback:
    """An `Engine` that is the first one in all but this: what it cannot say is said by the second one.

    That is decided before the first sample; what breaks later is broken, since a voice does not change in mid-sentence.
    What both refuse is refused in the words of the first one.
    """

    def __init__(self, first: Engine, second: Engine) -> None:
        self._first = first
        self._second = second

    @property
    def name(self) -> str:
        return self._first.name

    @property
    def version(self) -> str:
        return self._first.version

    @property
    def cloning(self) -> bool:
        return self._first.cloning

    @property
    def embedding_kind(self) -> str:
        return self._first.embedding_kind

    def voices(self) -> Sequence[Voice]:
        return self._first.voices()

    def health(self) -> Health:
        """The first one's; where that has failed it is the second one's, which says so."""
        first = self._first.health()
        if first.state is EngineState.READY:
            return first
        second = self._second.health()
        detail = f"{self._second.name} speaks instead of {self._first.name}: {first.detail or first.state.value}"
        return replace(second, detail=detail)

    def describe(self) -> Mapping[str, object]:
        return self._first.describe()

    def check(self, utterance: Utterance) -> None:
        self._first.check(utterance)

    async def enrol(self, samples: bytes, rate_hz: int) -> bytes:
        return await self._first.enrol(samples, rate_hz)

    def figures(self, embedding: bytes) -> Mapping[str, float]:
        return self._first.figures(embedding)

    async def synthesize(self, utterance: Utterance) -> AsyncGenerator[Pcm, None]:
        begun = False
        try:
            async with contextlib.aclosing(self._first.synthesize(utterance)) as chunks:
                async for chunk in chunks:
                    begun = True
                    yield chunk
        except EngineFailure as failure:
            if begun:
                raise
            try:
                substitute = self._substitute(utterance)
            except UnsuitableUtterance:
                raise failure from None
        else:
            return
        async with contextlib.aclosing(self._second.synthesize(substitute)) as chunks:
            async for chunk in chunks:
                yield Substitute(chunk.samples, chunk.rate_hz)

    def _substitute(self, utterance: Utterance) -> Utterance:
        """The utterance as the second one can say it. Raises UnsuitableUtterance."""
        if self._second.embedding_kind != self._first.embedding_kind:
            utterance = replace(utterance, embedding=b"")
        utterance = replace(utterance, seed=None)
        try:
            self._second.check(utterance)
        except UnsuitableUtterance:
            utterance = replace(utterance, voice=DEFAULT_VOICE)
            self._second.check(utterance)
        return utterance


@contextlib.asynccontextmanager
async def open_with_fallback(
    first: contextlib.AbstractAsyncContextManager[Engine], second: contextlib.AbstractAsyncContextManager[Engine]
) -> AsyncIterator[WithFallback]:
    """Both, started and ended together."""
    async with second as behind, first as before:
        yield WithFallback(before, behind)
