"""Opus (RFC 6716) from and to G.711, 20 ms at a time, by libopus in PyAV: for the WebRTC gateway's process only."""

from __future__ import annotations

from fractions import Fraction
from typing import Literal

import av
import numpy as np
from av.audio.codeccontext import AudioCodecContext
from av.audio.frame import AudioFrame

from rtp import g711

__all__ = ["Opus"]

RATE_HZ = 8000
DECODED_HZ = 48_000
STEP = DECODED_HZ // RATE_HZ
BIT_RATE = 24_000

# From 48 kHz down to 8: flat up to 3.4 kHz, and from 4.1 kHz on at least 60 dB down; 3 ms late.
TAPS = 288
_TIMES = (np.arange(TAPS) - (TAPS - 1) / 2) / DECODED_HZ
_CUTOFF_HZ = 3750
_FILTER = (np.sinc(2 * _CUTOFF_HZ * _TIMES) * np.kaiser(TAPS, 5.65)).astype(np.float32)
_FILTER /= _FILTER.sum()

_LINEAR = np.frombuffer(g711.LINEAR_FROM_MULAW, np.int16)
_CODES = np.frombuffer(g711.MULAW_FROM_LINEAR, np.uint8)


class Opus:
    """Encoder and decoder of one call: a translator.Transcoder."""

    def __init__(self) -> None:
        self._decoder = _context("r", DECODED_HZ)
        self._encoder = _context("w", RATE_HZ)
        self._encoder.bit_rate = BIT_RATE
        # A packet that is lost can be made of the next one, which says it once more, coarsely.
        self._encoder.options = {"application": "voip", "fec": "1", "packet_loss": "5", "compression_level": "5"}
        self._encoder.time_base = Fraction(1, RATE_HZ)
        self._sent = 0
        self._past = np.zeros(TAPS - STEP, np.float32)

    def decode(self, opus: bytes) -> bytes:
        """PCMU codes of a packet, 160 for 20 ms; none if it cannot be decoded."""
        if not opus:
            return b""  # To PyAV it would be the end.
        try:
            frames = self._decoder.decode(av.Packet(opus))
        except av.FFmpegError:
            return b""
        samples = [np.frombuffer(bytes(frame.planes[0])[: frame.samples * 2], np.int16) for frame in frames]
        return self._at_line_rate(np.concatenate(samples)) if samples else b""

    def encode(self, codes: bytes) -> bytes:
        """One packet of 20 ms of PCMU codes."""
        frame = AudioFrame(format="s16", layout="mono", samples=len(codes))
        frame.planes[0].update(_LINEAR[np.frombuffer(codes, np.uint8)].tobytes())
        frame.sample_rate = RATE_HZ
        frame.pts = self._sent
        self._sent += len(codes)
        return b"".join(bytes(packet) for packet in self._encoder.encode(frame))

    def _at_line_rate(self, samples: np.ndarray[tuple[int], np.dtype[np.int16]]) -> bytes:
        heard = np.concatenate((self._past, samples.astype(np.float32)))
        self._past = heard[len(heard) - (TAPS - STEP) :]
        windows = np.lib.stride_tricks.sliding_window_view(heard, TAPS)[::STEP]
        line = np.clip(np.rint(windows @ _FILTER), -32768, 32767).astype(np.int16)
        return bytes(_CODES[line.view(np.uint16)])


def _context(mode: Literal["r", "w"], rate_hz: int) -> AudioCodecContext:
    context = av.CodecContext.create("libopus", mode)
    context.format = "s16"
    context.layout = "mono"
    context.sample_rate = rate_hz
    return context
