"""Resampling of live speech: right in level, band and length, and hardly late."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediaserver.resampling import Resampler

PAIRS = [(8000, 16000), (8000, 24000), (16000, 8000), (24000, 8000)]


def tone(hz: float, rate_hz: int, *, seconds: float = 0.5) -> bytes:
    at = np.arange(round(seconds * rate_hz)) / rate_hz
    return bytes(np.rint(10_000 * np.sin(2 * np.pi * hz * at)).astype(np.int16).tobytes())


def resampled(samples: bytes, from_hz: int, to_hz: int, *, step: int = 0) -> bytes:
    stream = Resampler(from_hz, to_hz)
    step = step or len(samples)
    pieces = [stream.feed(samples[start : start + step]) for start in range(0, len(samples), step)]
    return b"".join(pieces) + stream.finish()


def level_db(samples: bytes) -> float:
    """Relative to the tone, its borders left out."""
    wave = np.frombuffer(samples, np.int16).astype(float)[500:-500]
    return float(20 * np.log10(max(np.sqrt(np.mean(wave**2)), 0.1) / (10_000 / np.sqrt(2))))


@pytest.mark.parametrize(("from_hz", "to_hz"), PAIRS)
@pytest.mark.parametrize("hz", [100.0, 1000.0, 3300.0])
def test_a_tone_of_the_telephone_band_is_the_same_tone(hz: float, from_hz: int, to_hz: int) -> None:
    made, wanted = resampled(tone(hz, from_hz), from_hz, to_hz), tone(hz, to_hz)
    assert abs(len(made) - len(wanted)) <= 4
    difference = np.frombuffer(made[: len(wanted)], np.int16).astype(float)[500:-500]
    difference -= np.frombuffer(wanted[: len(made)], np.int16).astype(float)[500:-500]
    assert np.max(np.abs(difference)) < 25  # of 10,000: 52 dB down, with nothing late


@pytest.mark.parametrize(("from_hz", "hz"), [(16000, 4700.0), (16000, 7000.0), (24000, 5500.0), (24000, 11000.0)])
def test_what_a_telephone_cannot_carry_is_not_folded_into_its_band(from_hz: int, hz: float) -> None:
    assert level_db(resampled(tone(hz, from_hz), from_hz, 8000)) < -55


@pytest.mark.parametrize(("to_hz", "hz"), [(16000, 3300.0), (24000, 3300.0)])
def test_no_image_of_the_band_is_above_it(to_hz: int, hz: float) -> None:
    made = np.frombuffer(resampled(tone(hz, 8000), 8000, to_hz), np.int16).astype(float)[500:-500]
    spectrum = np.abs(np.fft.rfft(made * np.hanning(len(made))))
    above = round(4700 / to_hz * len(made))
    assert 20 * np.log10(np.max(spectrum[above:]) / np.max(spectrum)) < -55


@given(pair=st.sampled_from(PAIRS), step=st.integers(1, 200))
def test_borders_of_pieces_leave_no_trace(pair: tuple[int, int], step: int) -> None:
    samples = tone(1000, pair[0], seconds=0.05)
    assert resampled(samples, *pair, step=2 * step) == resampled(samples, *pair)


@pytest.mark.parametrize(("from_hz", "to_hz"), PAIRS)
def test_2_ms_are_held_back_and_given_at_the_end(from_hz: int, to_hz: int) -> None:
    stream = Resampler(from_hz, to_hz)
    made = stream.feed(bytes(2 * from_hz // 50))
    assert to_hz * 0.018 <= len(made) // 2 <= to_hz * 0.02
    assert len(made + stream.finish()) // 2 == pytest.approx(to_hz // 50, abs=2)
    assert stream.finish() == b""


def test_full_scale_is_clipped_and_not_wrapped() -> None:
    square = np.repeat(np.array([32767, -32768] * 50, np.int16), 16).tobytes()
    wave = np.frombuffer(resampled(square, 8000, 16000), np.int16).astype(int)
    assert (wave.max(), wave.min()) == (32767, -32768)
    assert np.max(np.abs(np.diff(wave))) < 50_000


def test_other_rates_are_refused() -> None:
    for pair in ((8000, 8000), (16000, 24000), (8000, 32000)):
        with pytest.raises(ValueError, match="neither twice nor three times"):
            Resampler(*pair)
