"""Speech made longer or shorter at the same pitch, for speeds at which an engine itself does not speak.

WSOLA (W. Verhelst, M. Roelands, "An overlap-add technique based on waveform similarity for high quality time-scale
modification of speech", ICASSP 1993): frames of the input are laid out closer or further apart, each taken from where,
near its place, it continues the one before it best.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["Stretcher"]

Samples = npt.NDArray[np.float32]

HALF_FRAME_MS: Final = 15
"""Frames overlap by half: 30 ms hold two periods of the lowest voices."""

SEARCH_MS: Final = 8
"""So far from its place a frame may be taken: a period of the lowest voices."""


class Stretcher:
    """One stream. What comes out does not depend on the pieces in which the input came."""

    def __init__(self, rate_hz: int, factor: float) -> None:
        """`factor` is the length of the output over that of the input."""
        self._half = HALF_FRAME_MS * rate_hz // 1000
        self._search = SEARCH_MS * rate_hz // 1000
        self._factor = factor
        self._fade_in: Samples = (0.5 - 0.5 * np.cos(np.pi * (np.arange(self._half) + 0.5) / self._half)).astype(
            np.float32
        )
        self._input: Samples = np.zeros(0, np.float32)
        self._start = 0  # where `_input` begins, in samples of the whole input
        self._frame = 0  # the next frame's number
        self._follow = 0  # where the input goes on behind the frame before
        self._tail: Samples = np.zeros(self._half, np.float32)  # that frame's end, fading out
        self._received = 0
        self._given = 0

    def feed(self, samples: Samples, *, last: bool) -> Samples:
        """What is ready of the output; all of it, with the `last` of the input."""
        self._received += len(samples)
        beyond = 4 * self._half + 2 * self._search if last else 0
        self._input = np.concatenate([self._input, samples, np.zeros(beyond, np.float32)])
        ready = []
        while (half := self._next(last=last)) is not None:
            ready.append(half)
        out: Samples = np.concatenate(ready) if ready else np.zeros(0, np.float32)
        if last:
            out = out[: max(0, round(self._received * self._factor) - self._given)]
        self._given += len(out)
        return out

    def _next(self, *, last: bool) -> Samples | None:
        """Half a frame of output; None when the input does not reach so far."""
        place = round(self._frame * self._half / self._factor)
        if last and self._frame * self._half >= self._received * self._factor:
            return None
        lowest = max(self._start, place - self._search, 0)
        if self._start + len(self._input) < max(place + self._search, self._follow) + 2 * self._half:
            return None
        at = self._best(lowest, place + self._search) if self._frame else 0
        frame = self._input[at - self._start : at - self._start + 2 * self._half]
        half: Samples = self._tail + frame[: self._half] * self._fade_in if self._frame else frame[: self._half]
        self._tail = frame[self._half :] * self._fade_in[::-1]
        self._follow = at + self._half
        self._frame += 1
        # What neither the next search nor the next comparison looks at is done with.
        following = round(self._frame * self._half / self._factor) - self._search
        done = max(0, min(following, self._follow) - self._start)
        self._input = self._input[done:]
        self._start += done
        return half

    def _best(self, lowest: int, highest: int) -> int:
        """The place from `lowest` to `highest` where the input is most like what follows the frame before."""
        wanted = self._input[self._follow - self._start :][: self._half]
        region = self._input[lowest - self._start : highest - self._start + self._half]
        squares = np.concatenate([[0.0], np.cumsum(region.astype(np.float64) ** 2)])
        energy = np.sqrt(np.maximum(squares[self._half :] - squares[: -self._half], 1.0))
        return lowest + int(np.argmax(np.correlate(region, wanted, "valid") / energy))
