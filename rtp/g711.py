"""G.711 companding: 16-bit linear samples to 8-bit mu-law (PCMU) or A-law (PCMA), and back.

Bit-exact with the reference software of ITU-T G.191. Both laws are eight chords of sixteen steps on either side of
zero; each chord's steps are twice as wide as those of the chord before. A linear sample is cut to 14 bits for mu-law
and to 13 for A-law, and a negative one is taken as its ones' complement, so that the halves mirror each other.

The tables are `bytes`, for whoever else encodes (a compiled loop can take their address):

    MULAW_FROM_LINEAR, ALAW_FROM_LINEAR   65,536 code octets, indexed by the sample's bits read as unsigned
    LINEAR_FROM_MULAW, LINEAR_FROM_ALAW   256 signed 16-bit samples in native byte order, indexed by the code octet

Digital silence is the code of sample 0: 0xFF and 0xD5. (0x7F and 0x55 are the codes of sample -1; sent in the place of
silence they put an offset on the line.)
"""

from __future__ import annotations

import struct

from .packet import LocalProtocolError

__all__ = [
    "ALAW_FROM_LINEAR",
    "ALAW_SILENCE",
    "LINEAR_FROM_ALAW",
    "LINEAR_FROM_MULAW",
    "MULAW_FROM_LINEAR",
    "MULAW_SILENCE",
    "RATE_HZ",
    "alaw_decode",
    "alaw_encode",
    "mulaw_decode",
    "mulaw_encode",
]

RATE_HZ = 8000
MULAW_SILENCE = 0xFF
ALAW_SILENCE = 0xD5

# Steps of a half in ascending order, as widths in 16-bit units, (first chord's, second chord's, ...).
# G.711 table 2a: 1 unit of 14 bits, then fifteen of 2, then sixteen each of 4, 8, ... 256.
_MULAW_WIDTHS = [4] + 15 * [8] + [4 * (4 << chord) for chord in range(7) for _ in range(16)]
# G.711 table 1a: thirty-two of 1 unit of 12 bits, then sixteen each of 2, 4, ... 64.
_ALAW_WIDTHS = 32 * [16] + [16 * (2 << chord) for chord in range(6) for _ in range(16)]
# G.711 section 3.1: mu-law inverts every bit of the magnitude; A-law every even one. The top bit is set for positive.
_MULAW_TOGGLE = 0xFF
_ALAW_TOGGLE = 0xD5


def _compressor(widths: list[int], toggle: int) -> bytes:
    positive = b"".join(bytes((step ^ toggle,)) * width for step, width in enumerate(widths))
    # Above the last decision value everything gets the last code.
    positive = positive.ljust(32768, bytes((127 ^ toggle,)))
    negative = bytes(code ^ 0x80 for code in reversed(positive))  # from -32768 up to -1
    return positive + negative


def _expander(widths: list[int], toggle: int, first: int) -> bytes:
    """`first`: what the first step decodes to; every other one decodes to its middle."""
    samples = [0] * 256
    start = 0
    for step, width in enumerate(widths):
        level = start + width // 2 if step else first
        samples[step ^ toggle] = level
        samples[step ^ toggle ^ 0x80] = -level
        start += width
    return struct.pack("=256h", *samples)


MULAW_FROM_LINEAR = _compressor(_MULAW_WIDTHS, _MULAW_TOGGLE)
ALAW_FROM_LINEAR = _compressor(_ALAW_WIDTHS, _ALAW_TOGGLE)
LINEAR_FROM_MULAW = _expander(_MULAW_WIDTHS, _MULAW_TOGGLE, first=0)
LINEAR_FROM_ALAW = _expander(_ALAW_WIDTHS, _ALAW_TOGGLE, first=8)

_MULAW_OCTETS = (LINEAR_FROM_MULAW[0::2], LINEAR_FROM_MULAW[1::2])
_ALAW_OCTETS = (LINEAR_FROM_ALAW[0::2], LINEAR_FROM_ALAW[1::2])


def mulaw_encode(samples: bytes) -> bytes:
    """PCMU of signed 16-bit samples in native byte order. Raises LocalProtocolError for half a sample."""
    return _encode(samples, MULAW_FROM_LINEAR)


def alaw_encode(samples: bytes) -> bytes:
    """PCMA of signed 16-bit samples in native byte order. Raises LocalProtocolError for half a sample."""
    return _encode(samples, ALAW_FROM_LINEAR)


def mulaw_decode(codes: bytes) -> bytes:
    """Signed 16-bit samples in native byte order out of PCMU."""
    return _decode(codes, _MULAW_OCTETS)


def alaw_decode(codes: bytes) -> bytes:
    """Signed 16-bit samples in native byte order out of PCMA."""
    return _decode(codes, _ALAW_OCTETS)


def _encode(samples: bytes, table: bytes) -> bytes:
    if len(samples) % 2:
        raise LocalProtocolError(f"{len(samples)} octets are no whole number of 16-bit samples")
    return bytes(map(table.__getitem__, memoryview(samples).cast("H")))


def _decode(codes: bytes, octets: tuple[bytes, bytes]) -> bytes:
    samples = bytearray(2 * len(codes))
    samples[0::2] = codes.translate(octets[0])
    samples[1::2] = codes.translate(octets[1])
    return bytes(samples)
