"""The tone engine without worker processes: for tests that want an `Engine` and no more."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence

from engines import enrolment
from engines import pieces as cutting
from engines.engine import EngineFailure, EngineState, Health, Pcm, Utterance, Voice
from engines.profile import VoiceProfile
from engines.tone import Crash, Faults, Tone
from engines.voices import Catalogue

__all__ = ["InProcessTone", "open_in_process"]


class InProcessTone:
    """An `Engine` that makes the same samples as the tone engine in a worker, and no speech."""

    def __init__(self, faults: Faults, default_voice: str) -> None:
        self._tone = Tone(faults)
        self._hello = self._tone.hello()
        self._catalogue = Catalogue(self._hello, default=default_voice)
        self._active = 0

    @property
    def name(self) -> str:
        return "tone"

    @property
    def version(self) -> str:
        return self._hello.version

    @property
    def cloning(self) -> bool:
        return self._hello.cloning

    @property
    def embedding_kind(self) -> str:
        return self._hello.embedding_kind

    def voices(self) -> Sequence[Voice]:
        return self._catalogue.voices

    def health(self) -> Health:
        return Health(state=EngineState.READY, active=self._active)

    def describe(self) -> Mapping[str, object]:
        return self._catalogue.describe(self.name)

    def check(self, utterance: Utterance) -> None:
        cutting.check(utterance, self._hello, self._catalogue)

    async def enrol(self, samples: bytes, rate_hz: int) -> bytes:
        return await enrolment.enrol(samples, rate_hz)

    def figures(self, embedding: bytes) -> Mapping[str, float]:
        return VoiceProfile.parse(embedding).figures()

    async def synthesize(self, utterance: Utterance) -> AsyncGenerator[Pcm, None]:
        self.check(utterance)
        self._active += 1
        try:
            for request in cutting.pieces(utterance, self._hello, self._catalogue):
                for wait_s, samples in self._tone.script(request):
                    await asyncio.sleep(wait_s)
                    yield Pcm(samples, utterance.rate_hz)
        except Crash:
            raise EngineFailure("the tone engine was told to crash") from None
        finally:
            self._active -= 1


@contextlib.asynccontextmanager
async def open_in_process(
    options: Mapping[str, int | str | float], *, default_voice: str
) -> AsyncIterator[InProcessTone]:
    """The engine, ready. Raises UnknownVoice when there is no such default voice."""
    yield InProcessTone(Faults(**options), default_voice)  # type: ignore[arg-type]
