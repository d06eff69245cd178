"""The engine, with the server's limits and measurements around it; one for calls and HTTP alike."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace

import engines
import rtp
from mediaserver.metrics import Metrics
from mediaserver.prompts import Prompts
from mediaserver.speakers import Speakers, is_speaker
from mediaserver.talkspurt import Talkspurt

__all__ = ["Speech"]


class Speech:
    """What an engine says, once; counted and timed."""

    def __init__(self, engine: engines.Engine, metrics: Metrics, speakers: Speakers, prompts: Prompts) -> None:
        self.engine = engine
        self._metrics = metrics
        self._speakers = speakers
        self._prompts = prompts

    async def prepare(self, utterance: engines.Utterance) -> engines.Utterance:
        """The utterance as the engine wants it, its speaker looked up, and checked.

        Raises engines.UnsuitableUtterance and SpeakersUnavailable.
        """
        utterance = await self._speakers.voiced(utterance)
        self.engine.check(utterance)
        return utterance

    def kept(self, utterance: engines.Utterance) -> bool:
        """Whether what was just said in full, of a prepared utterance, will be found again."""
        return self._prompts.holds(self._prompts.key(utterance, self.engine))

    @property
    def keeping(self) -> bool:
        """Whether anything that is said is kept."""
        return self._prompts.keeping

    def check(self, utterance: engines.Utterance) -> None:
        """As `prepare` as far as nobody has to be looked up: there may be no such speaker."""
        self.engine.check(replace(utterance, voice="default") if is_speaker(utterance.voice) else utterance)

    async def synthesize(
        self, utterance: engines.Utterance, *, looked_up: bool = False
    ) -> AsyncGenerator[engines.Pcm, None]:
        """Chunks as they come: prompts.Kept if nobody had to make them, otherwise the engine's.

        looked_up  it is known not to be kept

        Raises what `prepare` raises and what the engine raises.
        """
        utterance = await self._speakers.voiced(utterance)
        key = self._prompts.key(utterance, self.engine)
        async with aclosing(
            self._prompts.said(key, utterance.rate_hz, lambda: self._make(utterance), looked_up=looked_up)
        ) as chunks:
            async for chunk in chunks:
                yield chunk

    async def _make(self, utterance: engines.Utterance) -> AsyncGenerator[engines.Pcm, None]:
        """The engine's chunks. Time spent by the consumer between chunks is not the engine's."""
        self._metrics.tts_active.inc()
        inference_s = audio_s = 0.0
        substituted = False
        try:
            async with aclosing(self.engine.synthesize(utterance)) as chunks:
                asked = time.perf_counter()
                async for chunk in chunks:
                    inference_s += time.perf_counter() - asked
                    audio_s += chunk.duration_ms / 1000
                    if isinstance(chunk, engines.Substitute):
                        substituted = True
                    yield chunk
                    asked = time.perf_counter()
        except engines.EngineFailure:
            self._metrics.tts_failures.inc()
            raise
        finally:
            self._metrics.tts_active.dec()
            self._metrics.tts_substituted.inc(substituted)
            if audio_s:
                self._metrics.tts_inference_latency.observe(inference_s * 1000)
                self._metrics.tts_rtf.observe(inference_s / audio_s)

    async def say(
        self, content: engines.Utterance | rtp.Clip | Talkspurt, stream: rtp.Stream, *, begin: Callable[[], None]
    ) -> float:
        """Have `stream` say `content` as an utterance, at the pace at which the line takes it; how many ms it has.

        begin  is called when the first sound is there, before it is written

        The utterance is ended whatever happens, so that what was written of it is heard. Of a talkspurt it is only told
        whether it has any sound. Raises what the engine raises, and rtp.StreamClosed.
        """
        if isinstance(content, Talkspurt):
            return float(await content.play(stream, begin=begin))
        if isinstance(content, engines.Utterance):
            content = await self._speakers.voiced(content)
            key = self._prompts.key(content, self.engine)
            # The plane reads a clip where it lies: to hear a prompt again costs a call nothing.
            content = await self._prompts.clip(key, content.rate_hz) or content
        if isinstance(content, rtp.Clip):
            if content.duration_ms:
                begin()
            await stream.play(content)
            return content.duration_ms
        said_ms = 0.0
        try:
            async with aclosing(self.synthesize(content, looked_up=True)) as chunks:
                async for chunk in chunks:
                    if not said_ms:
                        begin()
                    said_ms += chunk.duration_ms
                    await stream.write(chunk.samples, chunk.rate_hz)
        finally:
            if not stream.closed:
                stream.end()
        return said_ms
