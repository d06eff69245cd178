"""Speech while it is being made, and the forms in which it leaves."""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from .schema import SpeechFigures

__all__ = ["AudioFormat", "Rendition", "audio_formats", "wav"]

SAMPLE_BYTES = 2
WAVE_FORMAT_PCM = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioFormat:
    """How samples are written: `encode` takes signed 16-bit little-endian mono samples."""

    content_type: str
    encode: Callable[[bytes], bytes]


def audio_formats(encoders: Mapping[str, Callable[[bytes], bytes]]) -> Mapping[str, AudioFormat]:
    """Every format by its name in a request; `encoders` compands for "mulaw" and "alaw".

    RFC 2046 section 4.3: audio/basic is 8-bit mu-law at 8 kHz, one channel. Neither A-law nor bare PCM with its rate
    agreed beforehand has a registered type of its own.
    """
    return {
        "wav": AudioFormat(content_type="audio/wav", encode=bytes),
        "pcm": AudioFormat(content_type="audio/x-pcm", encode=bytes),
        "mulaw": AudioFormat(content_type="audio/basic", encode=encoders["mulaw"]),
        "alaw": AudioFormat(content_type="audio/x-alaw-basic", encode=encoders["alaw"]),
    }


def wav(samples: bytes, rate_hz: int) -> bytes:
    """A RIFF/WAVE file of signed 16-bit little-endian mono samples."""
    layout = struct.pack("<HHIIHH", WAVE_FORMAT_PCM, 1, rate_hz, rate_hz * SAMPLE_BYTES, SAMPLE_BYTES, SAMPLE_BYTES * 8)
    chunks = b"fmt " + struct.pack("<I", len(layout)) + layout + b"data" + struct.pack("<I", len(samples))
    return b"RIFF" + struct.pack("<I", len(b"WAVE") + len(chunks) + len(samples)) + b"WAVE" + chunks + samples


class Rendition:
    """One text being spoken: gives its chunks, and knows how long the engine took and how much came of it.

    Only time in which the engine was waited for counts as inference; time in which a client was waited for does not.
    Leaving the block stops the engine, wherever it is.
    """

    def __init__(self, chunks: AsyncGenerator[bytes, None], *, rate_hz: int, model_version: str) -> None:
        self._chunks = chunks
        self._rate_hz = rate_hz
        self._model_version = model_version
        self._pull: asyncio.Task[bytes | None] | None = None
        self._inference_s = 0.0
        self._samples = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pull is not None:
            self._pull.cancel()
            await asyncio.gather(self._pull, return_exceptions=True)
        await self._chunks.aclose()

    async def next(self, timeout_s: float | None = None) -> bytes | None:
        """The next chunk of samples; None at the end.

        Raises TimeoutError when it takes longer than `timeout_s`, and then nothing is lost: ask again. Raises what the
        engine raises.
        """
        if self._pull is None:
            self._pull = asyncio.create_task(self._advance())
        done, _ = await asyncio.wait([self._pull], timeout=timeout_s)
        if not done:
            raise TimeoutError
        pull, self._pull = self._pull, None
        return pull.result()

    async def _advance(self) -> bytes | None:
        asked = time.perf_counter()
        try:
            chunk = await anext(self._chunks, None)
        finally:
            self._inference_s += time.perf_counter() - asked
        self._samples += len(chunk or b"") // SAMPLE_BYTES
        return chunk

    def figures(self) -> SpeechFigures:
        """The figures so far; final once `next` has returned None."""
        inference_ms = round(self._inference_s * 1000, 3)
        audio_ms = round(self._samples * 1000 / self._rate_hz, 3)
        return SpeechFigures(
            inference_time_ms=inference_ms,
            audio_duration_ms=audio_ms,
            rtf=round(inference_ms / audio_ms, 6) if audio_ms else 0.0,
            model_version=self._model_version,
        )
