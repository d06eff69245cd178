"""The outer half of a worker process: it stands between the host and the speaking half, and resamples what passes.

    host <── socket ──> relay <── socket ──> original (worker.py) and its copies
            8, 16, 24 kHz         22.05 kHz

Both sockets carry wire.py. Resampling happens here, so that the host's event loop pays nothing for it, and the speaking
half need not load numpy: every page that it uses makes forking it dearer. So is stretching, where a speed is
asked for at which the engine does not speak: it speaks at the nearest one, and the rest is done to its samples.

Each piece has one soxr stream of its own. A piece ends in silence longer than the filter remembers (8 ms), so that one
stream over a whole utterance would sound the same (the difference is more than 60 dB below full scale), and there is no
state to lose with a worker: any worker can continue any utterance.
"""

from __future__ import annotations

import dataclasses
import select
import socket
from dataclasses import dataclass

import numpy as np
import soxr

from engines.stretch import Stretcher
from engines.wire import (
    PACKET_SIZE,
    Chunk,
    Done,
    Failed,
    Hello,
    Joiner,
    Refused,
    Speak,
    Stopped,
    decode,
    encode,
    packets,
)

__all__ = ["relay"]


@dataclass(slots=True)
class _Passage:
    """The samples of one piece on their way; `unsent` bytes at the start were delivered by an earlier attempt."""

    stretcher: Stretcher | None
    stream: soxr.ResampleStream | None
    unsent: int

    def pass_on(self, samples: bytes, *, last: bool) -> bytes:
        if self.stretcher is not None or self.stream is not None:
            # In floating point: libsoxr dithers 16-bit output, and silence must stay silent.
            sound = np.frombuffer(samples, np.int16).astype(np.float32)
            if self.stretcher is not None:
                sound = self.stretcher.feed(sound, last=last)
            if self.stream is not None:
                sound = self.stream.resample_chunk(sound, last=last)
            samples = np.clip(np.rint(sound), -32768, 32767).astype(np.int16).tobytes()
        skipped = samples[: self.unsent]
        self.unsent -= len(skipped)
        return samples[len(skipped) :]


class _Relay:
    def __init__(self, host: socket.socket, inner: socket.socket) -> None:
        self._host = host
        self._inner = inner
        self._source_rate_hz = 0
        self._speeds = self._enrolled_speeds = (1.0, 1.0)
        self._passages: dict[int, _Passage] = {}
        self._joiner = Joiner()

    def to_inner(self, packet: bytes) -> None:
        whole = self._joiner.feed(packet)
        if whole is None:
            return
        message = decode(whole)
        if isinstance(message, Speak):
            source_hz = self._source_rate_hz or message.rate_hz
            stretcher = stream = None
            slowest, fastest = self._enrolled_speeds if message.embedding else self._speeds
            nearest = min(max(message.speed, slowest), fastest)
            if nearest != message.speed:
                stretcher = Stretcher(source_hz, nearest / message.speed)
                message = dataclasses.replace(message, speed=nearest)
            if source_hz != message.rate_hz:
                stream = soxr.ResampleStream(source_hz, message.rate_hz, 1, dtype="float32", quality="HQ")
            self._passages[message.id] = _Passage(stretcher, stream, message.skip_bytes)
        for part in packets(message):
            self._inner.send(part)

    def to_host(self, packet: bytes) -> None:
        message = decode(packet)
        match message:
            case Hello():
                self._source_rate_hz = message.source_rate_hz
                self._speeds, self._enrolled_speeds = message.speeds, message.enrolled_speeds
            case Chunk(id=piece, samples=samples):
                self._deliver(piece, samples, last=False)
                return
            case Done(id=piece):
                self._deliver(piece, b"", last=True)
        if isinstance(message, Done | Stopped | Failed | Refused):
            self._passages.pop(message.id, None)
        self._host.send(packet)

    def _deliver(self, piece: int, samples: bytes, *, last: bool) -> None:
        passed = self._passages[piece].pass_on(samples, last=last)
        if passed:
            self._host.send(encode(Chunk(id=piece, samples=passed)))


def relay(host: socket.socket, inner: socket.socket) -> None:
    """Pass packets both ways until one side is gone."""
    between = _Relay(host, inner)
    poll = select.poll()
    for side in (host, inner):
        poll.register(side, select.POLLIN)
    while True:
        for descriptor, _ in poll.poll():
            from_host = descriptor == host.fileno()
            packet = (host if from_host else inner).recv(PACKET_SIZE)
            if not packet:
                return
            if from_host:
                between.to_inner(packet)
            else:
                between.to_host(packet)
