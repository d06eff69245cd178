"""A test engine: a sine tone per piece of text, as long as the text would take to say. It is not speech.

Its samples are a function of text, voice, speed and rate alone, so that a test can compute what must arrive. It can be
told to misbehave: to wait, to leave a gap, to crash.
"""

from __future__ import annotations

import base64
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engines.profile import KIND, VoiceProfile
from engines.wire import Hello, Speak

__all__ = ["Crash", "Faults", "Tone", "samples"]

CHARACTER_MS = 60
PAUSE_MS = 150
RAMP_MS = 10
BLOCK_MS = 60
AMPLITUDE = 8000

_VOICES = {"tone-440": 440.0, "tone-880": 880.0, "tone-1000": 1000.0}


class Crash(Exception):
    """The engine was told to die here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What the test engine does wrong.

    delay_ms    it waits so long before the first sample of a piece
    gap_ms      it pauses so long ...
    gap_at_ms   ... after so much audio of a piece
    crash_at_ms it dies after so much audio of a piece; negative: never
    crashes     how many attempts at a piece die in this way
    word        only pieces that contain this word are affected; "" affects all
    concurrency how many pieces one worker speaks at a time
    """

    delay_ms: int = 0
    gap_ms: int = 0
    gap_at_ms: int = 0
    crash_at_ms: int = -1
    crashes: int = 1
    word: str = ""
    concurrency: int = 4


def samples(
    text: str, *, voice: str = "tone-440", speed: float = 1.0, rate_hz: int = 8000, embedding: bytes = b""
) -> npt.NDArray[np.int16]:
    """The tone for one piece of text: CHARACTER_MS for each character, soft edges, and PAUSE_MS of silence.

    embedding  a voice profile, whose median pitch is that of the tone then
    """
    pitch_hz = VoiceProfile.parse(embedding).median_f0_hz if embedding else _VOICES[voice]
    count = int(len(text) * CHARACTER_MS * rate_hz / speed) // 1000
    ramp = np.minimum(1.0, np.arange(count) / (RAMP_MS * rate_hz / 1000))
    wave = AMPLITUDE * np.sin(2 * np.pi * pitch_hz * np.arange(count) / rate_hz) * ramp * ramp[::-1]
    return np.concatenate([np.rint(wave), np.zeros(PAUSE_MS * rate_hz // 1000)]).astype(np.int16)


class Tone:
    """The test engine itself: in a worker process, or in the host's (in_process.py)."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults

    def hello(self) -> Hello:
        return Hello(
            version="tone 1",
            concurrency=self._faults.concurrency,
            ssml=False,
            source_rate_hz=0,
            piece_characters=20,
            voices=tuple((name, f"Test tone, {hz:.0f} Hz (not speech)", "und") for name, hz in _VOICES.items()),
            embedding_kind=KIND,
        )

    def rehearsal(self) -> Speak | None:
        """A tone needs no tables."""
        return None

    def speak(self, piece: Speak, emit: Callable[[bytes], None]) -> None:
        try:
            for wait_s, block in self.script(piece):
                time.sleep(wait_s)
                emit(block)
        except Crash:
            os.kill(os.getpid(), signal.SIGKILL)

    def script(self, piece: Speak) -> Iterator[tuple[float, bytes]]:
        """(seconds to wait, samples) in order. Raises Crash where the engine is to die."""
        faults = self._faults if self._faults.word in piece.text else Faults()
        tone = samples(
            piece.text,
            voice=piece.voice,
            speed=piece.speed,
            rate_hz=piece.rate_hz,
            embedding=base64.b64decode(piece.embedding),
        )
        block = BLOCK_MS * piece.rate_hz // 1000
        for start in range(0, len(tone), block):
            made_ms = start * 1000 // piece.rate_hz
            if 0 <= faults.crash_at_ms <= made_ms and piece.attempt < faults.crashes:
                raise Crash
            wait_ms = faults.delay_ms if start == 0 else 0
            if made_ms <= faults.gap_at_ms < made_ms + BLOCK_MS:
                wait_ms += faults.gap_ms
            yield wait_ms / 1000, tone[start : start + block].tobytes()
