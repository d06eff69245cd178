"""The engine, with the server's limits and measurements around it; one for calls and HTTP alike."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

import engines
from mediaserver.metrics import Metrics

__all__ = ["Speech"]


class Speech:
    """What an engine says, counted and timed."""

    def __init__(self, engine: engines.Engine, metrics: Metrics, *, max_text_chars: int) -> None:
        self.engine = engine
        self._metrics = metrics
        self._max_text_chars = max_text_chars

    def check(self, utterance: engines.Utterance) -> None:
        """Raise engines.UnsuitableUtterance at once if it cannot be said."""
        if len(utterance.text) > self._max_text_chars:
            raise engines.UnsuitableUtterance(
                f"the text has {len(utterance.text)} characters, more than the {self._max_text_chars} allowed"
            )
        self.engine.check(utterance)

    async def synthesize(self, utterance: engines.Utterance) -> AsyncGenerator[engines.Pcm, None]:
        """The engine's chunks as they come. Time spent by the consumer between chunks is not the engine's."""
        self._metrics.tts_active.inc()
        inference_s = audio_s = 0.0
        try:
            async with aclosing(self.engine.synthesize(utterance)) as chunks:
                asked = time.perf_counter()
                async for chunk in chunks:
                    inference_s += time.perf_counter() - asked
                    audio_s += chunk.duration_ms / 1000
                    yield chunk
                    asked = time.perf_counter()
        except engines.EngineFailure:
            self._metrics.tts_failures.inc()
            raise
        finally:
            self._metrics.tts_active.dec()
            if audio_s:
                self._metrics.tts_inference_latency.observe(inference_s * 1000)
                self._metrics.tts_rtf.observe(inference_s / audio_s)
