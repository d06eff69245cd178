"""Longer and shorter at the same pitch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from engines.stretch import Stretcher

Samples = npt.NDArray[np.float32]
RATE_HZ = 22050


def sine(hz: float, seconds: float) -> Samples:
    return (8000 * np.sin(2 * np.pi * hz * np.arange(round(seconds * RATE_HZ)) / RATE_HZ)).astype(np.float32)


def stretched(samples: Samples, factor: float, *, piece: int = 1323) -> Samples:
    stretcher = Stretcher(RATE_HZ, factor)
    out = [stretcher.feed(samples[start : start + piece], last=False) for start in range(0, len(samples), piece)]
    return np.concatenate([*out, stretcher.feed(np.zeros(0, np.float32), last=True)])


@pytest.mark.parametrize("factor", [0.5, 0.64, 0.9, 1.0, 1.3, 1.83, 3.0])
@pytest.mark.parametrize("hz", [90, 220, 1000])
def test_a_sine_keeps_its_pitch_and_its_level_and_changes_its_length(factor: float, hz: float) -> None:
    out = stretched(sine(hz, 2.0), factor)
    assert len(out) == round(2 * RATE_HZ * factor)
    middle = out[len(out) // 4 : len(out) * 3 // 4]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle)), 8 * len(middle)))
    assert np.argmax(spectrum) * RATE_HZ / (8 * len(middle)) == pytest.approx(hz, abs=2)
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(8000 / np.sqrt(2), rel=0.03)


def test_a_factor_of_one_changes_nothing() -> None:
    noise = np.random.default_rng(1).normal(0, 3000, RATE_HZ).astype(np.float32)
    out = stretched(noise, 1.0)
    assert np.max(np.abs(out[:-700] - noise[:-700])) < 1


@pytest.mark.parametrize("factor", [0.64, 1.83])
@pytest.mark.parametrize("piece", [1, 100, 5000, 10**6])
def test_what_comes_out_does_not_depend_on_the_pieces(factor: float, piece: int) -> None:
    noise = np.random.default_rng(2).normal(0, 3000, 5000).astype(np.float32)
    assert np.array_equal(stretched(noise, factor, piece=piece), stretched(noise, factor))


@pytest.mark.parametrize("factor", [0.64, 1.83])
def test_silence_stays_silent_and_an_onset_stays_in_its_place(factor: float) -> None:
    samples = np.concatenate([np.zeros(RATE_HZ, np.float32), sine(200, 1.0), np.zeros(RATE_HZ, np.float32)])
    out = stretched(samples, factor)
    loud = np.flatnonzero(np.abs(out) > 100) / RATE_HZ
    assert loud[0] == pytest.approx(factor, abs=0.03)
    assert loud[-1] == pytest.approx(2 * factor, abs=0.03)
    assert not np.any(out[-int(0.9 * factor * RATE_HZ) :])


@pytest.mark.parametrize("factor", [0.64, 1.83])
@pytest.mark.parametrize("count", [0, 1, 50, 700])
def test_very_short_input_is_stretched_too(factor: float, count: int) -> None:
    assert len(stretched(sine(200, count / RATE_HZ), factor)) == round(count * factor)


def test_the_output_comes_as_the_input_does() -> None:
    stretcher = Stretcher(RATE_HZ, 1.5)
    given = 0
    for received in range(1323, RATE_HZ, 1323):
        given += len(stretcher.feed(sine(200, 0.06), last=False))
        assert given > 1.5 * received - 0.08 * RATE_HZ
