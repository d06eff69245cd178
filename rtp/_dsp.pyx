# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Signal work on buffers: G.711 both ways by table, and resampling with state.

Buffers come in, `bytes` go out. The tables are those of g711.py, which says how they come about.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int16_t, uint8_t, uint16_t

import numpy
import soxr

from rtp import g711
from rtp.packet import LocalProtocolError

__all__ = ["Resampler", "decode", "encode"]

# The range of rates that any audio source has; beyond it a rate is a mistake, not a wish.
_LOWEST_HZ = 4000
_HIGHEST_HZ = 192000

cdef struct law:
    const uint8_t *compress      # 65,536 codes by the sample's bits
    const int16_t *expand        # 256 samples by code

cdef law _mulaw = law(
    <const uint8_t *>PyBytes_AS_STRING(g711.MULAW_FROM_LINEAR),
    <const int16_t *>PyBytes_AS_STRING(g711.LINEAR_FROM_MULAW),
)
cdef law _alaw = law(
    <const uint8_t *>PyBytes_AS_STRING(g711.ALAW_FROM_LINEAR),
    <const int16_t *>PyBytes_AS_STRING(g711.LINEAR_FROM_ALAW),
)


cdef const law *_law_of(str codec) except NULL:
    if codec == "PCMU":
        return &_mulaw
    if codec == "PCMA":
        return &_alaw
    raise LocalProtocolError(f"codec {codec!r} is neither PCMU nor PCMA")


def encode(const uint8_t[::1] samples, str codec):
    cdef const law *tables = _law_of(codec)
    cdef Py_ssize_t octets = samples.shape[0], count = octets // 2, at
    if octets % 2:
        raise LocalProtocolError(f"{octets} octets are no whole number of 16-bit samples")
    cdef bytes codes = PyBytes_FromStringAndSize(NULL, count)
    if count == 0:
        return codes
    cdef uint8_t *out = <uint8_t *>PyBytes_AS_STRING(codes)
    cdef const uint16_t *linear = <const uint16_t *>&samples[0]
    with nogil:
        for at in range(count):
            out[at] = tables.compress[linear[at]]
    return codes


def decode(const uint8_t[::1] codes, str codec):
    cdef const law *tables = _law_of(codec)
    cdef Py_ssize_t count = codes.shape[0], at
    cdef bytes samples = PyBytes_FromStringAndSize(NULL, 2 * count)
    cdef int16_t *out = <int16_t *>PyBytes_AS_STRING(samples)
    if count:
        with nogil:
            for at in range(count):
                out[at] = tables.expand[codes[at]]
    return samples


class Resampler:
    __slots__ = ("_from_hz", "_stream", "_to_hz")

    def __init__(self, from_hz, to_hz):
        for rate_hz in (from_hz, to_hz):
            if not _LOWEST_HZ <= rate_hz <= _HIGHEST_HZ:
                raise LocalProtocolError(f"a rate of {rate_hz} Hz is not in {_LOWEST_HZ}..{_HIGHEST_HZ}")
        self._from_hz = from_hz
        self._to_hz = to_hz
        # In floating point, because libsoxr dithers integers: silence would come out as noise of the last bit.
        self._stream = soxr.ResampleStream(from_hz, to_hz, 1, dtype="float32", quality="HQ")

    @property
    def from_hz(self):
        return self._from_hz

    def feed(self, samples):
        if len(samples) % 2:
            raise LocalProtocolError(f"{len(samples)} octets are no whole number of 16-bit samples")
        return self._resample(numpy.frombuffer(samples, numpy.int16).astype(numpy.float32), False)

    def finish(self):
        return self._resample(numpy.empty(0, numpy.float32), True)

    def _resample(self, samples, last):
        resampled = numpy.rint(self._stream.resample_chunk(samples, last=last))
        return numpy.clip(resampled, -32768, 32767).astype(numpy.int16).tobytes()
