"""What the HTTP API asks of this server: the engine, the health and the metrics, in the API's own values."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager

import engines
import http_api
import rtp
from mediaserver import audio, push
from mediaserver.faults import translated
from mediaserver.metrics import Metrics
from mediaserver.prompts import Kept
from mediaserver.push import Pushes
from mediaserver.recording import UnfitRecording
from mediaserver.speakers import Sharing, Speakers, TooManySpeakers, UnknownSpeaker
from mediaserver.speech import Speech
from mediaserver.store import Speaker

__all__ = ["Control"]

# For a push to end, or for a port to have rested.
RETRY_AFTER_S = 5.0

# Of one list of prompts: enough to keep an engine busy, and few enough that callers are not kept waiting by it.
PROMPTS_AT_ONCE = 2


class Control:
    """Implements http_api.Host. `calls` counts the calls that are alive, `accepting` says if new ones are."""

    def __init__(
        self,
        speech: Speech,
        pushes: Pushes,
        speakers: Speakers,
        metrics: Metrics,
        *,
        calls: Callable[[], int],
        accepting: Callable[[], bool],
    ) -> None:
        self._speech = speech
        self._pushes = pushes
        self._speakers = speakers
        self._metrics = metrics
        self._calls = calls
        self._accepting = accepting

    @property
    def engine(self) -> str:
        return self._speech.engine.name

    @property
    def model_version(self) -> str:
        return f"{self._speech.engine.name} {self._speech.engine.version}"

    async def synthesize(self, speech: http_api.Speech) -> AsyncGenerator[bytes, None]:
        utterance = _utterance(speech)
        with translated(utterance, self._speech):
            prepared = await self._speech.prepare(utterance)
            async with aclosing(self._speech.synthesize(prepared)) as chunks:
                async for chunk in chunks:
                    yield http_api.Kept(chunk.samples) if isinstance(chunk, Kept) else chunk.samples

    async def make_prompts(self, prompts: Sequence[http_api.Speech]) -> list[http_api.PromptFacts]:
        if not self._speech.keeping:
            raise http_api.Conflict("nothing is kept: cache.memory_mb and cache.disk_mb are 0", field="prompts")
        at_work = asyncio.Semaphore(PROMPTS_AT_ONCE)

        async def one(prompt: http_api.Speech) -> http_api.PromptFacts:
            async with at_work:
                try:
                    return await self._make_prompt(prompt)
                except http_api.Failed:
                    return http_api.PromptFacts(status="failed", duration_ms=0, error="the speech could not be made")
                except http_api.ControlError as error:
                    field = error.field if isinstance(error, http_api.FieldFault) else None
                    return http_api.PromptFacts(status="failed", duration_ms=0, field=field, error=str(error))

        return await asyncio.gather(*map(one, prompts))

    async def _make_prompt(self, prompt: http_api.Speech) -> http_api.PromptFacts:
        utterance = _utterance(prompt)
        size, kept = 0, True
        with translated(utterance, self._speech):
            prepared = await self._speech.prepare(utterance)
            async with aclosing(self._speech.synthesize(prepared)) as chunks:
                async for chunk in chunks:
                    size += len(chunk.samples)
                    kept = kept and isinstance(chunk, Kept)
        duration_ms = round(size * 500 / prompt.rate_hz, 3)
        if not size:
            return http_api.PromptFacts(status="failed", duration_ms=0, error="it makes no sound")
        if not self._speech.kept(prepared):
            return http_api.PromptFacts(
                status="failed", duration_ms=duration_ms, error="it is too long for what may be kept: cut it up"
            )
        return http_api.PromptFacts(status="kept" if kept else "made", duration_ms=duration_ms)

    def voices(self) -> list[http_api.VoiceFacts]:
        return [
            http_api.VoiceFacts(id=voice.id, name=voice.name, language=voice.language)
            for voice in self._speech.engine.voices()
        ]

    def describe_engine(self) -> Mapping[str, object]:
        return self._speech.engine.describe()

    async def embed(self, samples: bytes, rate_hz: int) -> http_api.Embedding:
        engine = self._speech.engine
        with _translated_speaker():
            try:
                embedding = await engine.enrol(samples, rate_hz)
            except engines.UnsuitableReference as error:
                raise http_api.Refused(str(error), field="recording") from error
        return http_api.Embedding(kind=engine.embedding_kind, data=embedding, figures=engine.figures(embedding))

    def clauses(self) -> engines.Arriving:
        return engines.Arriving()

    def socket_opened(self) -> None:
        self._metrics.sockets_open.inc()

    def socket_ended(self, how: http_api.SocketEnd) -> None:
        self._metrics.sockets_open.dec()
        self._metrics.sockets_ended.labels(how).inc()

    async def open_push(self, order: http_api.PushOrder) -> http_api.PushFacts:
        utterance = engines.Utterance(
            text=order.text, ssml=order.ssml, voice=order.speaker_id, language=order.language, rate_hz=audio.RATE_HZ
        )
        destination = push.Destination(
            host=order.host,
            port=order.port,
            codec=order.codec,
            payload_type=order.payload_type,
            ptime_ms=order.ptime_ms,
        )
        try:
            with translated(utterance, self._speech):
                facts = await self._pushes.open(utterance, destination, ssrc=order.ssrc, local_port=order.local_port)
        except push.ForbiddenDestination as error:
            raise http_api.Forbidden(str(error), field="host") from error
        except push.UnreachableDestination as error:
            raise http_api.Refused(str(error), field="host") from error
        except push.LocalPortTaken as error:
            raise http_api.Conflict(str(error), field="local_port") from error
        except (push.TooManyPushes, rtp.PortsExhausted) as error:
            raise http_api.Busy(str(error), retry_after_s=RETRY_AFTER_S) from error
        return _told(facts)

    def pushes(self) -> list[http_api.PushFacts]:
        return [_told(facts) for facts in self._pushes.all()]

    def push(self, id: str) -> http_api.PushFacts:
        facts = self._pushes.find(id)
        if facts is None:
            raise _unknown_push(id)
        return _told(facts)

    async def stop_push(self, id: str) -> None:
        if not await self._pushes.stop(id):
            raise _unknown_push(id)

    async def enrol_speaker(self, order: http_api.SpeakerOrder) -> http_api.SpeakerFacts:
        with _translated_speaker():
            try:
                speaker = await self._speakers.enrol(order.file, name=order.name, consent=order.consent)
            except (audio.AudioError, UnfitRecording) as error:
                raise http_api.Refused(f"the recording cannot be used: {error}", field="file") from error
            except TooManySpeakers as error:
                raise http_api.Conflict(str(error), field="file") from error
            return self._introduced(speaker)

    async def speakers(self) -> list[http_api.SpeakerFacts]:
        with _translated_speaker():
            return [self._introduced(speaker) for speaker in await self._speakers.all()]

    async def speaker(self, id: str) -> tuple[http_api.SpeakerFacts, http_api.Embedding]:
        engine = self._speech.engine
        with _translated_speaker():
            speaker = await self._speakers.find(id)
            embedding = await self._speakers.embedding(id)
            return self._introduced(speaker), http_api.Embedding(
                kind=engine.embedding_kind, data=embedding, figures=engine.figures(embedding)
            )

    async def rename_speaker(self, id: str, name: str) -> http_api.SpeakerFacts:
        with _translated_speaker():
            return self._introduced(await self._speakers.rename(id, name))

    async def delete_speaker(self, id: str) -> None:
        with _translated_speaker():
            await self._speakers.delete(id)

    def _introduced(self, speaker: Speaker) -> http_api.SpeakerFacts:
        engine = self._speech.engine
        return http_api.SpeakerFacts(
            id=speaker.id,
            name=speaker.name,
            consent=speaker.consent,
            created_at=speaker.created_at,
            engine=engine.name,
            cloning=engine.cloning,
            duration_s=speaker.duration_s,
            speech_s=speaker.speech_s,
            level_db=speaker.level_db,
        )

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
                "engine_broken": engine.broken,
                "active_utterances": engine.active,
                "active_calls": self._calls(),
                "active_pushes": len(self._pushes),
                "redis": self._speakers.sharing.value,
            },
        )

    def metrics(self) -> tuple[bytes, str]:
        self._metrics.redis_up.set(self._speakers.sharing is Sharing.UP)
        health = self._speech.engine.health()
        self._metrics.tts_gpu_memory.set(health.gpu_memory_bytes / 1e9)
        self._metrics.tts_queue.set(health.waiting)
        self._metrics.tts_late.set(health.late)
        return self._metrics.exposition()

    def observe_request(self, *, endpoint: str, status: int, latency_ms: float) -> None:
        self._metrics.tts_requests.labels(endpoint, str(status)).inc()
        self._metrics.tts_request_latency.labels(endpoint).observe(latency_ms)

    def observe_refusal(self, status: int) -> None:
        self._metrics.http_refused.labels(str(status)).inc()


def _utterance(speech: http_api.Speech) -> engines.Utterance:
    return engines.Utterance(
        text=speech.text,
        ssml=speech.ssml,
        voice=speech.speaker_id,
        language=speech.language,
        speed=speech.speed,
        seed=speech.seed,
        rate_hz=speech.rate_hz,
        continues=speech.continues,
        embedding=speech.embedding,
    )


@contextmanager
def _translated_speaker() -> Iterator[None]:
    """What goes wrong with speakers, in the API's words."""
    try:
        yield
    except UnknownSpeaker as error:
        raise http_api.NotFound(str(error), field="id") from error
    except engines.EngineBusy as error:
        raise http_api.Busy(str(error), retry_after_s=error.retry_after_s) from error
    except engines.EngineError as error:
        raise http_api.Failed(str(error)) from error


def _unknown_push(id: str) -> http_api.NotFound:
    return http_api.NotFound(f"There is no push {id!r}, or none that is remembered", field="id")


def _told(facts: push.Facts) -> http_api.PushFacts:
    to, counted = facts.destination, facts.counters
    return http_api.PushFacts(
        id=facts.id,
        state=facts.state.value,
        failure=facts.failure,
        created_at=facts.created_at,
        host=to.host,
        port=to.port,
        codec=to.codec,
        payload_type=to.payload_type,
        ptime_ms=to.ptime_ms,
        ssrc=facts.ssrc,
        local_port=facts.local_port,
        packets_sent=counted.packets_sent,
        packets_unsent=counted.send_blocked + counted.send_failed,
        packets_refused=counted.send_refused,
        speech_frames=counted.speech_frames,
        silence_frames=counted.silence_frames,
        underrun_frames=counted.underrun_frames,
        underruns=counted.underruns,
        played_ms=counted.played_ms,
    )
