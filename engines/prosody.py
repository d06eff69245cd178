"""How somebody speaks, measured from a recording: pitch, its range, and the rate of syllables.

Pitch is estimated by YIN (de Cheveigné and Kawahara, "YIN, a fundamental frequency estimator for speech and music",
JASA 111(4), 2002), steps 1 to 5: the difference function, normalised by its running mean, a threshold, and parabolic
interpolation. A frame is voiced when a period is found in it, and it is not far below the loudest.

Syllables are counted as their nuclei (de Jong and Wempe, "Praat script to detect syllable nuclei and measure speech
rate automatically", Behavior Research Methods 41(2), 2009): maxima of intensity that are voiced, and that rise by 2 dB
at least above the dips on both sides.

Both are arithmetic, so the same recording always gives the same figures. What is voiced is not always speech: music is,
and a steady tone is, which a `Prosody.range_hz` near 0 gives away.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import soxr

__all__ = ["FRAME_MS", "Prosody", "measure"]

FRAME_MS: Final = 10
"""A frame begins every so often."""

LOWEST_HZ: Final = 50.0
HIGHEST_HZ: Final = 500.0

_RATE_HZ: Final = 8000
_HOP: Final = _RATE_HZ * FRAME_MS // 1000
_WINDOW: Final = 200
"""25 ms."""

_LONGEST_LAG: Final = round(_RATE_HZ / LOWEST_HZ)
_SHORTEST_LAG: Final = round(_RATE_HZ / HIGHEST_HZ)
_THRESHOLD: Final = 0.4
"""Of the normalised difference: below it, a lag is a period. YIN's own is lower; the filter makes this one safe."""

_MARGIN: Final = 0.1
"""A shorter lag whose dip is so much less deep is the period all the same: the deepest may be of two periods."""

_QUIETEST_DB: Final = 30.0
"""A frame so far below the loudest ones is not taken for speech."""

_GAP_FRAMES: Final = 30
"""Consonants and the pauses between words are part of the speech that they interrupt; longer gaps are pauses."""

_LEAST_RUN: Final = 3
"""A vowel lasts longer; a shorter run of voiced frames is chance."""

_FILTER: Final = np.sinc(np.arange(-32, 33) * 2 * 800 / _RATE_HZ) * np.hanning(65)
"""A low-pass of 800 Hz: breath and hiss above make speech look less periodic than it is."""

_DIP_DB: Final = 2.0
_SMOOTHING: Final = np.hanning(7)
_BLOCK: Final = 512

Floats: TypeAlias = npt.NDArray[np.float32]
Mask: TypeAlias = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prosody:
    """The measures of a recording.

    speech_s         seconds of speech: voiced frames, and the short gaps between them
    speech_level_db  root mean square of the voiced frames, in dB below full scale (so at most 0)
    median_f0_hz     pitch; 0 when nothing is voiced
    range_hz         from the 10th to the 90th percentile of pitch
    syllables_per_s  of speech; pauses do not count
    """

    speech_s: float
    speech_level_db: float
    median_f0_hz: float
    range_hz: float
    syllables_per_s: float


def measure(samples: bytes, rate_hz: int) -> Prosody:
    """Measure signed 16-bit mono samples in native byte order."""
    wave = np.frombuffer(samples, np.int16).astype(np.float32) / 32768
    if rate_hz != _RATE_HZ:
        wave = soxr.resample(wave, rate_hz, _RATE_HZ)
    count = 1 + (len(wave) - _WINDOW - _LONGEST_LAG) // _HOP
    if count < 1:
        return Prosody(speech_s=0, speech_level_db=-96.0, median_f0_hz=0, range_hz=0, syllables_per_s=0)
    frames = np.lib.stride_tricks.sliding_window_view(wave, _WINDOW + _LONGEST_LAG)[::_HOP]
    low = np.convolve(wave, (_FILTER / _FILTER.sum()).astype(np.float32), mode="same")
    smooth = np.lib.stride_tricks.sliding_window_view(low, _WINDOW + _LONGEST_LAG)[::_HOP]
    f0_hz = np.concatenate([_pitch(smooth[start : start + _BLOCK]) for start in range(0, len(smooth), _BLOCK)])
    power = np.mean(np.square(frames[:, :_WINDOW]), axis=1)
    level_db = 10 * np.log10(np.maximum(power, 1e-10))
    loudest_db = float(np.percentile(level_db, 99))
    voiced = _without_short_runs((f0_hz > 0) & (level_db > loudest_db - _QUIETEST_DB), _LEAST_RUN)
    if not voiced.any():
        return Prosody(speech_s=0, speech_level_db=-96.0, median_f0_hz=0, range_hz=0, syllables_per_s=0)
    spoken = ~_without_short_runs(~voiced, _GAP_FRAMES)
    first, last = (int(edge) for edge in np.flatnonzero(voiced)[[0, -1]])
    spoken[:first] = spoken[last + 1 :] = False
    speech_s = float(np.count_nonzero(spoken)) * FRAME_MS / 1000
    lowest, middle, highest = (float(hz) for hz in np.percentile(f0_hz[voiced], [10, 50, 90]))
    return Prosody(
        speech_s=round(speech_s, 2),
        speech_level_db=round(10 * float(np.log10(np.mean(power[voiced]))), 1),
        median_f0_hz=round(middle, 1),
        range_hz=round(highest - lowest, 1),
        syllables_per_s=round(_nuclei(level_db, voiced) / speech_s, 2),
    )


def _pitch(frames: Floats) -> Floats:
    """The fundamental frequency of each frame, 0 where there is none."""
    size = 1 << (frames.shape[1] + _WINDOW - 1).bit_length()
    # Equation 7: d(lag) = e(0) + e(lag) - 2 r(lag), e being the energy of the window that begins there.
    spectrum = np.fft.rfft(frames, size) * np.conj(np.fft.rfft(frames[:, :_WINDOW], size))
    likeness = np.fft.irfft(spectrum, size)[:, : _LONGEST_LAG + 1]
    energy = np.cumsum(np.square(frames, dtype=np.float64), axis=1)
    energy = np.concatenate([np.zeros((len(frames), 1)), energy], axis=1)
    windows = energy[:, _WINDOW : _WINDOW + _LONGEST_LAG + 1] - energy[:, : _LONGEST_LAG + 1]
    difference = np.maximum(windows[:, :1] + windows - 2 * likeness, 0)
    # Equation 8: the difference over its mean up to there.
    lags = np.arange(1, _LONGEST_LAG + 1)
    normal = np.ones_like(difference)
    sums = np.cumsum(difference[:, 1:], axis=1)
    normal[:, 1:] = difference[:, 1:] * lags / np.maximum(sums, 1e-12)
    # Step 4: the first dip that is nearly as deep as the deepest, if that is below the threshold.
    inside = normal[:, _SHORTEST_LAG:-1]
    dips = (inside <= normal[:, _SHORTEST_LAG - 1 : -2]) & (inside < normal[:, _SHORTEST_LAG + 1 :])
    depths = np.where(dips, inside, 2.0)
    deepest = depths.min(axis=1, keepdims=True)
    found = deepest[:, 0] < _THRESHOLD
    lag = (depths <= deepest + _MARGIN).argmax(axis=1) + _SHORTEST_LAG
    # Step 5: the bottom of the parabola through the dip and its neighbours.
    rows = np.arange(len(frames))
    before, at, after = (normal[rows, lag + offset] for offset in (-1, 0, 1))
    bend = before - 2 * at + after
    shift = np.where(np.abs(bend) > 1e-12, (before - after) / (2 * np.where(np.abs(bend) > 1e-12, bend, 1)), 0)
    return np.where(found, _RATE_HZ / (lag + np.clip(shift, -1, 1)), 0).astype(np.float32)


def _without_short_runs(mask: Mask, least: int) -> Mask:
    """`mask`, without runs of True that are shorter than `least`."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    kept = mask.copy()
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        if end - start < least:
            kept[start:end] = False
    return kept


def _nuclei(level_db: Floats, voiced: Mask) -> int:
    """How many peaks of intensity are voiced, and stand _DIP_DB above the dips before and after."""
    smooth = np.convolve(level_db, _SMOOTHING / _SMOOTHING.sum(), mode="same")
    count = 0
    dip = peak = float(smooth[0])
    peak_at, rising = 0, False
    for at, level in enumerate(smooth.tolist()):
        if rising:
            if level > peak:
                peak, peak_at = level, at
            elif level < peak - _DIP_DB:
                count += bool(voiced[peak_at])
                rising, dip = False, level
        elif level < dip:
            dip = level
        elif level > dip + _DIP_DB:
            rising, peak, peak_at = True, level, at
    return count + (rising and bool(voiced[peak_at]))
