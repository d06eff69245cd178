"""Compressed files, made piece by piece: other people's decoders read them, and what was taken stays as it is."""

from __future__ import annotations

import io

import av
import numpy as np
import numpy.typing as npt
import pytest

from mediaserver import encoding
from mediaserver.encoding import FORMATS, FileEncoder, Format
from rtp import g711

Samples = npt.NDArray[np.int16]
CODECS = {"opus": "opus", "flac": "flac", "mp3": "mp3float"}
PIECE = 960
"""Bytes that are fed at a time: 60 ms at 8 kHz."""


def tone(rate_hz: int, *, seconds: float = 3.0) -> Samples:
    wave: Samples = np.rint(8000 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate_hz)) / rate_hz)).astype(
        np.int16
    )
    return wave


def encoded(format: Format, rate_hz: int, samples: bytes, *, streamed: bool) -> list[bytes]:
    """What was taken: after each piece when `streamed`, else at the end."""
    encoder = FileEncoder(format, rate_hz)
    taken = []
    for start in range(0, len(samples), PIECE):
        encoder.feed(samples[start : start + PIECE])
        if streamed:
            taken.append(encoder.take())
    encoder.finish()
    return [*taken, encoder.take()]


def decoded(file: bytes) -> tuple[str, int, npt.NDArray[np.float64]]:
    """Codec, rate and samples by FFmpeg; full scale is 32768."""
    with av.open(io.BytesIO(file), mode="r") as container:
        stream = container.streams.audio[0]
        frames = [frame.to_ndarray()[0] for frame in container.decode(stream)]
        samples = np.concatenate(frames).astype(float)
        scale = 1.0 if frames[0].dtype == np.int16 else 32768.0
        return stream.codec_context.name, stream.rate, samples * scale


def test_g711_is_that_of_the_reference_for_every_sample() -> None:
    samples = np.arange(-32768, 32768, dtype=np.int16).tobytes()
    assert encoding.mulaw(samples) == g711.mulaw_encode(samples)
    assert encoding.alaw(samples) == g711.alaw_encode(samples)
    assert encoding.mulaw(b"") == encoding.alaw(b"") == b""


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("rate_hz", [8000, 16000, 24000])
@pytest.mark.parametrize("format", FORMATS)
def test_ffmpeg_hears_the_tone_that_was_encoded(format: Format, rate_hz: int, streamed: bool) -> None:
    samples = tone(rate_hz)
    codec, rate, heard = decoded(b"".join(encoded(format, rate_hz, samples.tobytes(), streamed=streamed)))
    assert (codec, rate) == (CODECS[format], 48000 if format == "opus" else rate_hz)
    # MP3 begins with the encoder's delay and an empty frame, which only a head tells players to pass over.
    assert len(heard) / rate == pytest.approx(3.0, abs=0.25 if format == "mp3" and streamed else 0.11)
    middle = heard[rate : 2 * rate]
    spectrum = np.abs(np.fft.rfft(middle))
    assert np.argmax(spectrum) == 440
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(8000 / np.sqrt(2), rel=0.1)


@pytest.mark.parametrize("streamed", [False, True])
def test_flac_loses_nothing(streamed: bool) -> None:
    samples = tone(8000)
    _, _, heard = decoded(b"".join(encoded("flac", 8000, samples.tobytes(), streamed=streamed)))
    assert np.array_equal(heard, samples)


def test_a_head_that_was_not_taken_tells_the_length_and_one_that_was_leaves_it_open() -> None:
    # RFC 9639 section 8.2: the total is 36 bits that end 18 octets into STREAMINFO; 0 is "unknown".
    whole, streamed = (
        b"".join(encoded("flac", 8000, tone(8000).tobytes(), streamed=streamed)) for streamed in (False, True)
    )
    totals = [int.from_bytes(file[21:26], "big") & (2**36 - 1) for file in (whole, streamed)]
    assert totals == [24000, 0]
    assert whole[42:] == streamed[42:]


@pytest.mark.parametrize("format", FORMATS)
def test_pieces_come_while_the_file_is_being_written(format: Format) -> None:
    pieces = encoded(format, 8000, tone(8000, seconds=6).tobytes(), streamed=True)
    come = [number for number, piece in enumerate(pieces) if piece]
    assert come[0] == 0
    assert len(come) > 5
    assert sum(map(len, pieces[: len(pieces) // 2])) > sum(map(len, pieces)) / 4
