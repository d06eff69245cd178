"""From 24 kHz to the phone line on the device: filter, level and companding."""

from __future__ import annotations

import math
import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engines.chatterbox.telephony import Coding, PhoneEncoder, compand, low_pass, pcm16
from rtp import g711

FRAME = 480


def tone(hz: float, *, seconds: float = 1.0, amplitude: float = 0.05, rate: int = 24000) -> Tensor:
    return amplitude * torch.sin(2 * math.pi * hz * torch.arange(round(seconds * rate), dtype=torch.float64) / rate)


def heard(samples: Tensor, *, levels: bool = False) -> Tensor:
    encoder = PhoneEncoder(levels=levels)
    (octets,) = encoder.encode([encoder.open()], [samples], [Coding.LINEAR])
    assert octets is not None
    return torch.tensor(struct.unpack(f"={len(octets) // 2}h", octets), dtype=torch.float64) / 32768


def rms_db(samples: Tensor) -> float:
    return float(10 * torch.log10(samples.square().mean().clamp(min=1e-20)))


def gain_db(hz: float) -> float:
    """Of the filter's taps, at a frequency at 24 kHz."""
    taps = low_pass(torch.device("cpu"))
    angle = 2 * math.pi * hz / 24000 * torch.arange(taps.shape[0], dtype=torch.float64)
    return float(20 * torch.log10(torch.complex((taps * angle.cos()).sum(), -(taps * angle.sin()).sum()).abs()))


@pytest.mark.parametrize(
    ("coding", "table"), [(Coding.PCMU, g711.MULAW_FROM_LINEAR), (Coding.PCMA, g711.ALAW_FROM_LINEAR)]
)
def test_companding_is_that_of_g711_for_every_sample(coding: Coding, table: bytes) -> None:
    samples = torch.arange(-32768, 32768)
    found = bytes(compand(samples, coding).tolist())
    assert found == bytes(table[sample & 0xFFFF] for sample in range(-32768, 32768))


def test_what_a_phone_carries_passes_and_what_would_fold_back_does_not() -> None:
    assert all(abs(gain_db(hz)) < 0.02 for hz in range(0, 3200, 50))
    assert gain_db(3400) == pytest.approx(-1.2, abs=0.4)
    assert gain_db(3600) == pytest.approx(-6, abs=0.1)
    assert max(gain_db(hz) for hz in range(4000, 12001, 10)) < -59.5


def test_the_vocoders_tone_near_4900_hz_is_gone() -> None:
    """It would fold back to 3,100 Hz. What is left of it is the rounding to 16 bits."""
    before = tone(4900, amplitude=0.5)
    assert gain_db(4900) < -65
    assert rms_db(heard(before)[200:]) - rms_db(before) < -65


def test_a_tone_in_the_band_comes_out_as_it_went_in_but_for_2500_us() -> None:
    expected = tone(1000, seconds=0.5, rate=8000)
    found = heard(tone(1000, seconds=0.5))
    assert found.shape == (4000,)
    assert float((found[100:] - expected[80:-20]).abs().max()) < 2 / 32768


@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(0, 9), min_size=1, max_size=8), coding=st.sampled_from(Coding))
def test_octets_do_not_depend_on_how_speech_was_cut(cuts: list[int], coding: Coding) -> None:
    samples = speech(sum(cuts) / 50)
    encoder = PhoneEncoder()
    (whole,) = encoder.encode([encoder.open()], [samples], [coding])
    stream, pieces, start = encoder.open(), b"", 0
    for cut in cuts:
        (piece,) = encoder.encode([stream], [samples[start : start + cut * FRAME]], [coding])
        assert piece is not None
        assert len(piece) == cut * (320 if coding is Coding.LINEAR else 160)
        pieces += piece
        start += cut * FRAME
    assert pieces == whole


def speech(seconds: float, *, level_db: float = -27.0, seed: int = 1) -> Tensor:
    """Noise in bursts of 0.3 s with pauses of 0.1 s, in the band; bursts have that level."""
    count = round(seconds * 24000)
    if not count:
        return torch.zeros(0, dtype=torch.float64)
    noise = torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    smooth = torch.nn.functional.conv1d(noise[None, None], low_pass(torch.device("cpu"))[None, None], padding=60)[0, 0]
    voiced = ((torch.arange(count) // 2400) % 4 < 3).double()
    return smooth / smooth.square().mean().sqrt() * 10 ** (level_db / 20) * voiced


@pytest.mark.parametrize("level_db", [-37, -31, -27, -20])
def test_every_voice_comes_to_minus_19_dbm0(level_db: float) -> None:
    found = heard(speech(8, level_db=level_db), levels=True)
    voiced = found[32000:].view(-1, 800)
    voiced = voiced[[index for index in range(voiced.shape[0]) if index % 4 < 3]]
    # A sine at the coder's limit has 3.17 dBm0 and -3.01 dB of full scale.
    assert rms_db(voiced) + 3.01 + 3.17 == pytest.approx(-19, abs=0.9)


def test_a_voice_that_is_as_loud_as_expected_has_its_level_from_the_first_frame_on() -> None:
    found = heard(speech(0.3), levels=True)
    assert rms_db(found[200:]) + 3.01 + 3.17 == pytest.approx(-19, abs=1)


def test_silence_stays_silence_and_moves_no_level() -> None:
    quiet = torch.zeros(24000)
    told, after = speech(0.3, level_db=-35), speech(0.3, seed=2)
    found = heard(torch.cat((told, quiet, after)), levels=True)
    # The filter still rings for 2.5 ms.
    assert not found[2440:10400].any()
    longer = heard(torch.cat((told, quiet, quiet, after)), levels=True)
    assert torch.equal(found[10400:], longer[18400:])


def test_what_is_too_loud_is_rounded_off_and_not_clipped() -> None:
    found = heard(tone(500, amplitude=3.0, seconds=0.2), levels=False)
    assert float(found.abs().max()) == pytest.approx(1, abs=1e-4)
    loud = heard(tone(500, amplitude=0.99, seconds=0.04), levels=True)
    assert float(loud.abs().max()) < 1
    assert int((loud.abs() == loud.abs().max()).sum()) <= 2


def test_streams_of_other_lengths_and_laws_change_nothing() -> None:
    encoder = PhoneEncoder()
    pieces = [speech(0.2, seed=1), speech(0.06, seed=2), speech(0.0), speech(0.14, seed=4)]
    codings = [Coding.PCMU, Coding.PCMA, Coding.PCMU, Coding.LINEAR]
    streams = [encoder.open() for _ in pieces]
    twice = [encoder.encode(streams, pieces, codings) for _ in range(2)]
    for row, (piece, coding) in enumerate(zip(pieces, codings, strict=True)):
        alone = encoder.open()
        for batch in twice:
            assert encoder.encode([alone], [piece], [coding]) == [batch[row]]


def test_what_is_no_number_breaks_its_own_stream_alone() -> None:
    encoder = PhoneEncoder()
    broken, sound = speech(0.1), speech(0.1, seed=2)
    broken[700] = math.nan
    found = encoder.encode([encoder.open(), encoder.open()], [broken, sound], [Coding.PCMA, Coding.PCMA])
    assert found[0] is None
    assert found[1:] == encoder.encode([encoder.open()], [sound], [Coding.PCMA])


def test_half_a_frame_is_refused() -> None:
    encoder = PhoneEncoder()
    with pytest.raises(ValueError, match="481 samples are no whole number of frames of 480"):
        encoder.encode([encoder.open()], [torch.zeros(481)], [Coding.PCMU])


def test_sixteen_bits_are_rounded_and_held_in_range() -> None:
    samples = torch.tensor([0.0, 0.5 / 32768, 1.6 / 32768, -1.0, 1.0, -2.0])
    assert pcm16(samples).tolist() == [0, 0, 2, -32768, 32767, -32768]
