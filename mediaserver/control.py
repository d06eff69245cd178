"""What the HTTP API asks of this server: the engine, the health and the metrics, in the API's own values."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import engines
import http_api
from mediaserver.metrics import Metrics
from mediaserver.speech import Speech

__all__ = ["Control"]


class Control:
    """Implements http_api.SpeechControl. `calls` counts the calls that are alive, `accepting` says if new ones are."""

    def __init__(
        self, speech: Speech, metrics: Metrics, *, calls: Callable[[], int], accepting: Callable[[], bool]
    ) -> None:
        self._speech = speech
        self._metrics = metrics
        self._calls = calls
        self._accepting = accepting
        self._started = time.monotonic()

    @property
    def model_version(self) -> str:
        return f"{self._speech.engine.name} {self._speech.engine.version}"

    async def synthesize(self, speech: http_api.Speech) -> AsyncGenerator[bytes, None]:
        utterance = engines.Utterance(text=speech.text, voice=speech.speaker_id, rate_hz=speech.rate_hz)
        try:
            self._speech.check(utterance)
            async with aclosing(self._speech.synthesize(utterance)) as chunks:
                async for chunk in chunks:
                    yield chunk.samples
        except engines.UnknownVoice as error:
            raise http_api.NotFound(str(error), field="speaker_id") from error
        except engines.UnsuitableUtterance as error:
            raise http_api.Refused(str(error), field="text") from error
        except engines.EngineBusy as error:
            raise http_api.Busy(str(error), retry_after_s=error.retry_after_s) from error
        except engines.EngineError as error:
            raise http_api.Failed(str(error)) from error

    def health(self) -> http_api.Health:
        engine = self._speech.engine.health()
        healthy = engine.state is not engines.EngineState.FAILED
        loaded = engine.state is engines.EngineState.READY
        return http_api.Health(
            healthy=healthy,
            ready=loaded and self._accepting(),
            gpu_available=engine.gpu_available,
            model_loaded=loaded,
            details={
                "engine": self._speech.engine.name,
                "engine_version": self._speech.engine.version,
                "engine_state": engine.state.value,
                "engine_detail": engine.detail,
                "engine_workers": engine.workers,
                "engine_restarts": engine.restarts,
                "active_utterances": engine.active,
                "active_calls": self._calls(),
            },
        )

    def metrics(self) -> tuple[bytes, str]:
        self._metrics.tts_gpu_memory.set(self._speech.engine.health().gpu_memory_bytes / 1e9)
        return self._metrics.exposition()

    def observe_request(self, *, endpoint: str, status: int, latency_ms: float) -> None:
        self._metrics.tts_requests.labels(endpoint, str(status)).inc()
        self._metrics.tts_request_latency.labels(endpoint).observe(latency_ms)
