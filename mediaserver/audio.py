"""Audio files: any of them into what the telephone carries (8 kHz mono, signed 16 bit), and that into WAV."""

from __future__ import annotations

import io
import wave
from pathlib import Path
from typing import cast

import av
import av.error
import numpy as np
import soxr

__all__ = ["RATE_HZ", "AudioError", "decode", "write_wav"]

RATE_HZ = 8000


class AudioError(Exception):
    """The bytes are not audio that can be used; the message says why."""


def decode(source: bytes | Path, *, max_s: float) -> bytes:
    """The first audio track of any common container, as samples at 8 kHz.

    Blocks for as long as decoding takes; call it off the event loop. Raises AudioError when there is no audio track,
    when it does not decode, or when it is longer than `max_s` seconds.
    """
    file = io.BytesIO(source) if isinstance(source, bytes) else str(source)
    chunks: list[np.ndarray[tuple[int], np.dtype[np.int16]]] = []
    samples = 0
    try:
        with av.open(file, mode="r", metadata_errors="ignore") as container:
            if not container.streams.audio:
                raise AudioError("there is no audio track in it")
            track = container.streams.audio[0]
            rate_hz = track.codec_context.sample_rate
            mono = av.AudioResampler(format="s16", layout="mono", rate=rate_hz)
            for frame in container.decode(track):
                for piece in mono.resample(frame):
                    chunks.append(cast("np.ndarray[tuple[int], np.dtype[np.int16]]", piece.to_ndarray().reshape(-1)))
                    samples += piece.samples
                if samples > max_s * rate_hz:
                    raise AudioError(f"it is longer than {max_s:g} s")
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise AudioError(f"it does not decode as audio: {error}") from error
    if not samples:
        raise AudioError("it holds no sound")
    return cast(bytes, soxr.resample(np.concatenate(chunks), rate_hz, RATE_HZ).astype(np.int16).tobytes())


def write_wav(path: Path, samples: bytes, *, rate_hz: int) -> None:
    """Write signed 16-bit mono samples as a WAV file."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(samples)
