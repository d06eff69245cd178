"""Speech while it is being made, and the forms in which it leaves."""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

from .control import Encoder, Kept
from .schema import SpeechFigures

__all__ = ["AudioFormat", "Encoding", "Rendition", "audio_formats"]

SAMPLE_BYTES = 2
WAVE_FORMAT_PCM = 1
# What a RIFF chunk says of its length when nobody knows it yet; players read on to the end.
UNKNOWN_LENGTH = 0xFFFFFFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioFormat:
    """How samples are written.

    encoder       makes the encoder of one file, by its sampling rate
    costly        it takes so long that the event loop should not wait for it
    tells_length  its head tells the length, if that is known when the head leaves
    """

    content_type: str
    encoder: Callable[[int], Encoder]
    costly: bool = False
    tells_length: bool = False


def audio_formats(
    companders: Mapping[str, Callable[[bytes], bytes]], encoders: Mapping[str, Callable[[int], Encoder]]
) -> Mapping[str, AudioFormat]:
    """Every format by its name in a request.

    companders  for "mulaw" and "alaw": signed 16-bit little-endian samples to G.711 octets
    encoders    for "opus", "flac" and "mp3"

    RFC 2046 section 4.3: audio/basic is 8-bit mu-law at 8 kHz, one channel. Neither A-law nor bare PCM with its rate
    agreed beforehand has a registered type of its own. audio/ogg is of RFC 5334, audio/flac of RFC 9639, audio/mpeg of
    RFC 3003.
    """
    return {
        "wav": AudioFormat(content_type="audio/wav", encoder=_Wav, tells_length=True),
        "pcm": AudioFormat(content_type="audio/x-pcm", encoder=lambda _: _Bare(bytes)),
        "mulaw": AudioFormat(content_type="audio/basic", encoder=lambda _: _Bare(companders["mulaw"])),
        "alaw": AudioFormat(content_type="audio/x-alaw-basic", encoder=lambda _: _Bare(companders["alaw"])),
        "opus": AudioFormat(content_type="audio/ogg", encoder=encoders["opus"], costly=True),
        "flac": AudioFormat(content_type="audio/flac", encoder=encoders["flac"], costly=True, tells_length=True),
        "mp3": AudioFormat(content_type="audio/mpeg", encoder=encoders["mp3"], costly=True, tells_length=True),
    }


class Encoding:
    """One file in one format, being written where it delays nobody."""

    def __init__(self, audio: AudioFormat, rate_hz: int) -> None:
        self._costly = audio.costly
        self._encoder = audio.encoder(rate_hz)

    async def feed(self, samples: bytes) -> None:
        """Encode signed 16-bit little-endian samples."""
        if self._costly:
            await asyncio.to_thread(self._encoder.feed, samples)
        else:
            self._encoder.feed(samples)

    async def finish(self) -> None:
        """No more samples will come."""
        if self._costly:
            await asyncio.to_thread(self._encoder.finish)
        else:
            self._encoder.finish()

    def take(self) -> bytes:
        """What is ready; often nothing, where a format writes in pages."""
        return self._encoder.take()


class _Bare:
    """Octets without a head: one or two for each sample."""

    def __init__(self, encode: Callable[[bytes], bytes]) -> None:
        self._encode = encode
        self._octets = bytearray()

    def feed(self, samples: bytes) -> None:
        self._octets += self._encode(samples)

    def finish(self) -> None:
        """There is no end to write."""

    def take(self) -> bytes:
        taken = bytes(self._octets)
        self._octets.clear()
        return taken


class _Wav:
    """A RIFF/WAVE file. Its head tells the length when that is known by the time the head leaves."""

    def __init__(self, rate_hz: int) -> None:
        self._rate_hz = rate_hz
        self._samples = bytearray()
        self._begun = False
        self._finished = False

    def feed(self, samples: bytes) -> None:
        self._samples += samples

    def finish(self) -> None:
        self._finished = True

    def take(self) -> bytes:
        taken = bytes(self._samples)
        self._samples.clear()
        if not self._begun:
            self._begun = True
            return wav_head(len(taken) if self._finished else None, self._rate_hz) + taken
        return taken


def wav_head(size: int | None, rate_hz: int) -> bytes:
    """What stands before `size` bytes of signed 16-bit little-endian mono samples; None when nobody knows how many."""
    layout = struct.pack("<HHIIHH", WAVE_FORMAT_PCM, 1, rate_hz, rate_hz * SAMPLE_BYTES, SAMPLE_BYTES, SAMPLE_BYTES * 8)
    chunks = b"WAVEfmt " + struct.pack("<I", len(layout)) + layout + b"data"
    length = UNKNOWN_LENGTH if size is None else len(chunks) + 4 + size
    return b"RIFF" + struct.pack("<I", length) + chunks + struct.pack("<I", UNKNOWN_LENGTH if size is None else size)


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
        self._made = False
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
        self._made = self._made or not (chunk is None or isinstance(chunk, Kept))
        return chunk

    @property
    def cache(self) -> Literal["hit", "miss"]:
        """Whether an earlier or simultaneous request had the work; known from the first chunk on."""
        return "miss" if self._made or not self._samples else "hit"

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
