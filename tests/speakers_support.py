"""Recordings to enrol speakers with: espeak-ng itself, in a manner of its own, stands for somebody who speaks."""

from __future__ import annotations

import functools
import io
import wave

import aiohttp
import numpy as np
import numpy.typing as npt

from tests.engines_support import PRACTICE, piece, worker

RATE_HZ = 24000


@functools.cache
def somebody(voice: str = "en-us+f3") -> npt.NDArray[np.int16]:
    """Some 18 s of speech, at RATE_HZ, peaks at half of full scale."""
    with worker("espeak", pitch=60, words_per_minute=160) as (speaker, _):
        samples, _ = speaker.speak(piece(PRACTICE, voice=voice, rate_hz=RATE_HZ))
    return np.rint(samples * (16000 / np.abs(samples.astype(int)).max())).astype(np.int16)


def wav_of(samples: npt.NDArray[np.int16], rate_hz: int = RATE_HZ) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as opened:
        opened.setnchannels(1)
        opened.setsampwidth(2)
        opened.setframerate(rate_hz)
        opened.writeframes(samples.tobytes())
    return file.getvalue()


def form(file: bytes, **fields: str) -> aiohttp.FormData:
    """What a browser would send."""
    data = aiohttp.FormData()
    data.add_field("file", io.BytesIO(file), filename="voice.wav", content_type="audio/wav")
    for name, value in fields.items():
        data.add_field(name, value)
    return data
