"""Both sides of a call on one time line, to be written as a WAV file with two channels: the peer left, we right."""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

import numpy as np

import rtp

__all__ = ["HEAD_BYTES", "RATE_HZ", "SAMPLE_BYTES", "Sides", "Stereo", "wav_head"]

RATE_HZ: Final = 8000
SAMPLE_BYTES: Final = 4
"""Of both sides."""

NS_PER_SAMPLE: Final = 1_000_000_000 // RATE_HZ

SETTLED: Final = RATE_HZ * 3 // 2
"""Samples that the end is ahead of what nothing is added to any more: a peer's audio may be given out a second ahead of
its time, and what we say in that second follows."""

HEAD_BYTES: Final = 44


class Sides(NamedTuple):
    """The same stretch of both sides: signed 16-bit mono in native byte order."""

    peer: bytes
    ours: bytes

    def interleaved(self) -> bytes:
        """As they stand in a file: little-endian, the peer left."""
        sides = [np.frombuffer(side, np.int16) for side in self]
        return np.stack(sides, axis=1).astype("<i2").tobytes()


class Stereo:
    """Puts frames where their times say; where there is none, there is silence.

    It lasts as long as the peer has been heard, silence included, and `most` samples at most.
    """

    def __init__(self, *, began_ns: int, most: int) -> None:
        self._began_ns = began_ns
        self._most = most
        self._taken = 0
        self._heard = 0
        self._sides = (bytearray(), bytearray())

    @property
    def samples(self) -> int:
        """How long it is."""
        return min(self._heard, self._most)

    @property
    def full(self) -> bool:
        """Whether it lasts as long as it may, and nothing will be added."""
        return self._heard >= self._most + SETTLED

    @property
    def settled(self) -> int:
        """Samples that `take` has to give."""
        return max(0, min(self._heard - SETTLED, self._most) - self._taken)

    def hear(self, frame: rtp.Frame) -> None:
        """What came from the peer."""
        self._heard = max(self._heard, self._place(0, frame))

    def say(self, frame: rtp.Frame) -> None:
        """What was said to it."""
        self._place(1, frame)

    def take(self) -> Sides:
        """What nothing more can be added to."""
        return self._cut(self.settled)

    def finish(self) -> Sides:
        """The rest."""
        return self._cut(self.samples - self._taken)

    def _place(self, channel: int, frame: rtp.Frame) -> int:
        """Gives where the frame ends."""
        side = self._sides[channel]
        begin = (frame.at_ns - self._began_ns) // NS_PER_SAMPLE
        end = begin + len(frame.samples) // 2
        first, last = max(begin, self._taken), min(end, self._most)
        if first < last:
            at, until = 2 * (first - self._taken), 2 * (last - self._taken)
            if until > len(side):
                side.extend(bytes(until - len(side)))
            side[at:until] = frame.samples[2 * (first - begin) : 2 * (last - begin)]
        return end

    def _cut(self, samples: int) -> Sides:
        cut = []
        for side in self._sides:
            cut.append(bytes(side[: 2 * samples]).ljust(2 * samples, b"\0"))
            del side[: 2 * samples]
        self._taken += samples
        return Sides(*cut)


def wav_head(samples: int) -> bytes:
    """The head of the file, of HEAD_BYTES, when it has so many samples of both sides."""
    size = SAMPLE_BYTES * samples
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        b"RIFF",
        size + HEAD_BYTES - 8,
        b"WAVE",
        b"fmt ",
        16,
        1,  # PCM
        2,
        RATE_HZ,
        SAMPLE_BYTES * RATE_HZ,
        SAMPLE_BYTES,
        16,
        b"data",
        size,
    )
