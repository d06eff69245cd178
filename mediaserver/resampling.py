"""Resampling of speech that is live: by two or by three, up or down, 2 ms late.

libsoxr holds back 20 to 60 ms of a stream, which a file does not mind and a conversation does.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["Resampler"]

Wave = npt.NDArray[np.float32]

# Telephone speech ends at 3.4 kHz. What would be folded into it from above 4.6 kHz is 60 dB down (Kaiser's window).
CUTOFF_HZ: Final = 4000.0
TRANSITION_HZ: Final = 1200.0
BETA: Final = 5.65
TAPS_OF_RATIO: Final = 3.62
"""Taps are so many times the rate divided by the transition: (60 - 8) / (2.285 * 2 * pi)."""


def _low_pass(rate_hz: int) -> Wave:
    """An odd number of taps, the sum of which is 1."""
    half = round(TAPS_OF_RATIO * rate_hz / TRANSITION_HZ / 2)
    at = np.arange(-half, half + 1)
    taps = np.sinc(2 * CUTOFF_HZ / rate_hz * at) * np.kaiser(2 * half + 1, BETA)
    return np.asarray(taps / np.sum(taps), np.float32)


TAPS: Final[dict[int, Wave]] = {rate_hz: _low_pass(rate_hz) for rate_hz in (16_000, 24_000)}


class Resampler:
    """One stream of signed 16-bit samples in native byte order, from one rate to another; one of the two is 8000.

    Raises ValueError for any other pair of rates.
    """

    def __init__(self, from_hz: int, to_hz: int) -> None:
        rate_hz = max(from_hz, to_hz)
        if min(from_hz, to_hz) != 8000 or rate_hz not in TAPS:
            raise ValueError(f"from {from_hz} Hz to {to_hz} Hz is neither twice nor three times 8000 Hz")
        self._up, self._down = to_hz // 8000, from_hz // 8000
        self._taps = TAPS[rate_hz] * self._up
        self._fed = False
        self._restart()

    def feed(self, samples: bytes) -> bytes:
        """What is ready of the samples so far."""
        self._fed |= bool(samples)
        return self._filtered(np.frombuffer(samples, np.int16).astype(np.float32))

    def finish(self) -> bytes:
        """The rest; the stream begins anew."""
        if not self._fed:
            return b""
        rest = self._filtered(np.zeros(-(-(len(self._taps) // 2) // self._up), np.float32))
        self._restart()
        return rest

    def _restart(self) -> None:
        # Half of the filter is before the first sample, so that the output is not late but for what is not known yet.
        self._before = np.zeros(len(self._taps) // 2, np.float32)
        self._skip = 0
        self._fed = False

    def _filtered(self, wave: Wave) -> bytes:
        if self._up > 1:
            wide = np.zeros(len(wave) * self._up, np.float32)
            wide[:: self._up] = wave
            wave = wide
        wave = np.concatenate((self._before, wave))
        ready = len(wave) - len(self._taps) + 1
        if ready <= 0:
            self._before = wave
            return b""
        self._before = wave[ready:]
        made = np.convolve(wave, self._taps, "valid")[self._skip :: self._down]
        self._skip = (self._skip - ready) % self._down
        return bytes(np.clip(np.rint(made), -32768, 32767).astype(np.int16).tobytes())
