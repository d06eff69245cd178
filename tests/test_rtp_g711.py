"""G.711 against the segment definition of ITU-T G.711, written down here a second time, and against FFmpeg's codecs."""

from __future__ import annotations

import bisect
import struct
import sys
from array import array

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtp import g711
from rtp.packet import LocalProtocolError

LINEAR = range(-32768, 32768)

# G.711 tables 1a (A-law, in units of 1/4096) and 2a (mu-law, in units of 1/8159): where each segment ends, and the
# width of its steps.
ALAW_SEGMENTS = [(64, 2), (128, 4), (256, 8), (512, 16), (1024, 32), (2048, 64), (4096, 128)]
MULAW_SEGMENTS = [(31, 2), (95, 4), (223, 8), (479, 16), (991, 32), (2015, 64), (4063, 128), (8159, 256)]


def decision_values(segments: list[tuple[int, int]], first: int) -> list[int]:
    values = [0, first]
    for end, step in segments:
        values += range(values[-1] + step, end + 1, step)
    return values


ALAW_DECISIONS = decision_values(ALAW_SEGMENTS, 2)
MULAW_DECISIONS = decision_values(MULAW_SEGMENTS, 1)


def alaw_code(sample: int) -> int:
    """13 bits, G.711 counts 12 of magnitude in units of 1/4096, so one unit of magnitude here is two of the table's."""
    magnitude = 2 * ((~sample if sample < 0 else sample) >> 4)
    number = bisect.bisect_right(ALAW_DECISIONS, magnitude) - 1
    return (number | (0x80 if sample >= 0 else 0)) ^ 0x55


def mulaw_code(sample: int) -> int:
    magnitude = (~sample if sample < 0 else sample) >> 2
    number = min(bisect.bisect_right(MULAW_DECISIONS, magnitude) - 1, 127)
    return ~(number | (0x80 if sample < 0 else 0)) & 0xFF


def test_the_tables_of_the_recommendation_have_their_129_decision_values() -> None:
    assert (len(ALAW_DECISIONS), ALAW_DECISIONS[-1]) == (129, 4096)
    assert (len(MULAW_DECISIONS), MULAW_DECISIONS[-1]) == (129, 8159)


@pytest.mark.conformance("ITU-T G.711", "3", "every sample is encoded by the decision values of tables 1 and 2")
def test_every_sample_is_encoded_as_the_recommendation_says() -> None:
    assert bytes(map(mulaw_code, LINEAR)) == g711.mulaw_encode(array("h", LINEAR).tobytes())
    assert bytes(map(alaw_code, LINEAR)) == g711.alaw_encode(array("h", LINEAR).tobytes())


@pytest.mark.conformance("ITU-T G.711", "3", "every code is decoded to the middle of its interval")
def test_every_code_is_decoded_to_the_middle_of_its_interval() -> None:
    codes = bytes(range(256))
    for decode, decisions, code_of, unit in (
        (g711.mulaw_decode, MULAW_DECISIONS, mulaw_code, 4),
        (g711.alaw_decode, ALAW_DECISIONS, alaw_code, 8),
    ):
        samples = array("h", decode(codes))
        for number in range(128):
            middle = (decisions[number] + decisions[number + 1]) * unit // 2
            if code_of is mulaw_code and number == 0:
                middle = 0  # G.711 table 2a: the first interval decodes to 0
            positive = code_of(decisions[number] * unit)
            assert (samples[positive], samples[positive ^ 0x80]) == (middle, -middle)


@pytest.mark.parametrize(
    ("sample", "mulaw", "alaw"),
    [
        (0, 0xFF, 0xD5),
        (-1, 0x7F, 0x55),
        (3, 0xFF, 0xD5),
        (4, 0xFE, 0xD5),
        (16, 0xFD, 0xD4),
        (32767, 0x80, 0xAA),
        (-32768, 0x00, 0x2A),
        (32635, 0x80, 0xAA),
        (-32635, 0x00, 0x2A),
        (1000, 0xCE, 0xFA),
        (-1000, 0x4E, 0x7A),
    ],
)
def test_codes_of_known_samples(sample: int, mulaw: int, alaw: int) -> None:
    linear = struct.pack("=h", sample)
    assert g711.mulaw_encode(linear) == bytes((mulaw,))
    assert g711.alaw_encode(linear) == bytes((alaw,))


@pytest.mark.conformance("ITU-T G.711", "5", "the sequence of tables 5 and 6 is a tone of 1 kHz at 0 dBm0")
def test_the_sequence_of_a_test_tone() -> None:
    """G.711 tables 5 and 6: 1 kHz at 0 dBm0, sampled at 8 kHz."""
    for decode, codes, peak in (
        (g711.mulaw_decode, "1e 0b 0b 1e 9e 8b 8b 9e", 21_000),
        (g711.alaw_decode, "34 21 21 34 b4 a1 a1 b4", 21_000),
    ):
        samples = array("h", decode(bytes.fromhex(codes)))
        assert list(samples[:4]) == [-sample for sample in samples[4:]]
        assert list(samples) == [samples[0], samples[1], samples[1], samples[0]] + [-s for s in samples[:4]]
        assert peak * 0.95 < abs(samples[1]) < peak * 1.05


def test_silence_is_the_code_of_zero_and_decodes_to_next_to_nothing() -> None:
    zeros = bytes(320)
    assert g711.mulaw_encode(zeros) == bytes((g711.MULAW_SILENCE,)) * 160 == b"\xff" * 160
    assert g711.alaw_encode(zeros) == bytes((g711.ALAW_SILENCE,)) * 160 == b"\xd5" * 160
    assert g711.mulaw_decode(b"\xff") == struct.pack("=h", 0)
    assert g711.alaw_decode(b"\xd5") == struct.pack("=h", 8)


@pytest.mark.parametrize("law", ["mulaw", "alaw"])
def test_ffmpeg_decodes_every_code_alike(law: str) -> None:
    decoder = av.CodecContext.create(f"pcm_{law}", "r")
    decoder.sample_rate = 8000
    decoder.layout = "mono"
    codes = bytes(range(256))
    samples = b"".join(frame.to_ndarray().tobytes() for frame in decoder.decode(av.Packet(codes)))
    ours = g711.mulaw_decode(codes) if law == "mulaw" else g711.alaw_decode(codes)
    assert ours == samples


@pytest.mark.parametrize("law", ["mulaw", "alaw"])
def test_ffmpeg_encodes_alike_what_lies_in_the_middle_of_an_interval(law: str) -> None:
    """FFmpeg rounds to the nearest output value, G.191 cuts at decision values: at an output value both must agree."""
    encoder = av.CodecContext.create(f"pcm_{law}", "w")
    encoder.sample_rate = 8000
    encoder.layout = "mono"
    encoder.format = "s16"
    codes = bytes(code for code in range(256) if law == "alaw" or code != 0x7F)  # the negative zero of mu-law
    samples = g711.mulaw_decode(codes) if law == "mulaw" else g711.alaw_decode(codes)
    frame = av.AudioFrame.from_ndarray(np.frombuffer(samples, dtype=np.int16)[None, :], format="s16", layout="mono")
    frame.sample_rate = 8000
    theirs = b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])
    assert theirs == codes
    assert (g711.mulaw_encode(samples) if law == "mulaw" else g711.alaw_encode(samples)) == codes


@given(st.binary(max_size=500))
def test_encoding_undoes_decoding(codes: bytes) -> None:
    assert g711.alaw_encode(g711.alaw_decode(codes)) == codes
    # Mu-law has two codes for 0, of which the positive one is sent.
    assert g711.mulaw_encode(g711.mulaw_decode(codes)) == codes.replace(b"\x7f", b"\xff")


def test_the_tables_are_laid_out_for_compiled_code() -> None:
    for table in (g711.MULAW_FROM_LINEAR, g711.ALAW_FROM_LINEAR):
        assert (type(table), len(table)) == (bytes, 65536)
    for table in (g711.LINEAR_FROM_MULAW, g711.LINEAR_FROM_ALAW):
        assert (type(table), len(table)) == (bytes, 512)
    assert g711.MULAW_FROM_LINEAR[-1000 & 0xFFFF] == mulaw_code(-1000)
    low, high = (0, 1) if sys.byteorder == "little" else (1, 0)
    assert (g711.LINEAR_FROM_ALAW[2 * 0xD5 + low], g711.LINEAR_FROM_ALAW[2 * 0xD5 + high]) == (8, 0)


@pytest.mark.parametrize("encode", [g711.mulaw_encode, g711.alaw_encode])
def test_half_a_sample_is_refused(encode: object) -> None:
    assert callable(encode)
    with pytest.raises(LocalProtocolError, match="3 octets are no whole number of 16-bit samples"):
        encode(b"abc")


@pytest.mark.parametrize("convert", [g711.mulaw_encode, g711.alaw_encode, g711.mulaw_decode, g711.alaw_decode])
def test_nothing_becomes_nothing(convert: object) -> None:
    assert callable(convert)
    assert convert(b"") == b""
