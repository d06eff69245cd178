"""Companding and resampling in compiled code, held to the reference and to what a resampler must not do."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtp import g711
from rtp._dsp import Resampler, decode, encode
from rtp.packet import LocalProtocolError

EVERY_SAMPLE = struct.pack("=65536h", *range(-32768, 32768))


def tone(rate_hz: int, *, hz: float = 440, seconds: float = 1.0) -> bytes:
    count = int(rate_hz * seconds)
    return struct.pack(f"={count}h", *(round(12000 * math.sin(2 * math.pi * hz * n / rate_hz)) for n in range(count)))


def resample(samples: bytes, from_hz: int, *, cuts: list[int] | None = None) -> bytes:
    resampler = Resampler(from_hz, 8000)
    out, start = b"", 0
    for cut in [*sorted(cuts or []), len(samples)]:
        out += resampler.feed(samples[start:cut])
        start = cut
    return out + resampler.finish()


def test_every_sample_is_companded_as_the_reference_does() -> None:
    assert encode(EVERY_SAMPLE, "PCMU") == g711.mulaw_encode(EVERY_SAMPLE)
    assert encode(EVERY_SAMPLE, "PCMA") == g711.alaw_encode(EVERY_SAMPLE)


def test_every_code_is_expanded_as_the_reference_does() -> None:
    codes = bytes(range(256))
    assert decode(codes, "PCMU") == g711.mulaw_decode(codes)
    assert decode(codes, "PCMA") == g711.alaw_decode(codes)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_is_taken(kind: type) -> None:
    assert encode(kind(b"\x00\x00\xff\xff"), "PCMU") == b"\xff\x7f"
    assert encode(kind(b""), "PCMU") == b""
    assert decode(kind(b""), "PCMA") == b""


def test_half_a_sample_is_refused() -> None:
    with pytest.raises(LocalProtocolError, match="3 octets are no whole number of 16-bit samples"):
        encode(b"abc", "PCMU")
    with pytest.raises(LocalProtocolError, match="3 octets"):
        Resampler(16000, 8000).feed(b"abc")


@pytest.mark.parametrize("work", [encode, decode])
def test_unknown_codec_is_refused(work: Callable[[bytes, str], bytes]) -> None:
    with pytest.raises(LocalProtocolError, match="'G729' is neither PCMU nor PCMA"):
        work(b"", "G729")


@pytest.mark.parametrize("rate_hz", [0, -8000, 3999, 192001])
def test_rate_that_no_audio_has_is_refused(rate_hz: int) -> None:
    with pytest.raises(LocalProtocolError, match=f"a rate of {rate_hz} Hz is not in 4000..192000"):
        Resampler(rate_hz, 8000)


@given(cuts=st.lists(st.integers(0, 22050).map(lambda n: 2 * n), max_size=8))
@settings(deadline=None, max_examples=40)
def test_chunk_borders_leave_no_trace(cuts: list[int]) -> None:
    samples = tone(22050)
    assert resample(samples, 22050, cuts=cuts) == resample(samples, 22050)


def test_silence_stays_silence() -> None:
    assert set(resample(bytes(48000), 24000)) == {0}


@pytest.mark.parametrize("rate_hz", [11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000])
def test_tone_keeps_its_length_its_pitch_and_its_phase(rate_hz: int) -> None:
    found = numpy.frombuffer(resample(tone(rate_hz), rate_hz), numpy.int16).astype(float)
    wanted = numpy.frombuffer(tone(8000), numpy.int16).astype(float)
    assert abs(len(found) - 8000) <= 1
    middle = slice(400, 7600)
    assert numpy.corrcoef(found[middle], wanted[middle])[0, 1] > 0.9999


def test_loudest_sample_does_not_wrap_around() -> None:
    square = struct.pack("=h", 32767) * 24000 + struct.pack("=h", -32768) * 24000
    found = numpy.frombuffer(resample(square, 24000), numpy.int16)
    assert (found[200:7990] > 28000).all()
    assert (found[8010:] < -28000).all()
    assert found.max() == 32767


def test_what_8000_hz_cannot_carry_does_not_fold_back() -> None:
    found = numpy.frombuffer(resample(tone(24000, hz=6000), 24000), numpy.int16).astype(float)
    assert numpy.sqrt((found[400:-400] ** 2).mean()) < 12  # 57 dB below the tone


@pytest.mark.parametrize("rate_hz", [4000, 7350, 11025, 16000, 22050, 24000, 44100, 48000, 96000, 192000])
def test_rest_of_an_utterance_fits_the_reserve_of_a_ring(rate_hz: int) -> None:
    for samples in (1, 100, rate_hz):
        resampler = Resampler(rate_hz, 8000)
        resampler.feed(bytes(2 * samples))
        assert len(resampler.finish()) // 2 <= 1920
