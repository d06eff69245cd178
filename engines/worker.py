"""The worker process: `python -m engines.worker ENGINE OPTIONS HOST_PID SOCKET_FD`, started by pool.py.

It loads an engine once, and forks itself for every piece that it is asked to speak. Three things follow:

* The same piece always gives the same samples, whatever was spoken before. espeak-ng carries state from one text to the
  next; here each text meets the state that the library had when it was loaded. So a piece can be spoken again after a
  crash and be continued at the sample where it broke off.
* A text that crashes the engine takes only its own copy of the process with it.
* Cancelling is killing, and takes no cooperation.

It costs about 5 ms of processor time per piece. An engine that cannot be forked (CUDA) brings its own worker, and
speaks wire.py too.

Each piece is resampled here, in one soxr stream of its own, so that the host's event loop pays nothing for it. A piece
ends in silence longer than the filter remembers (8 ms), so that one stream over a whole utterance would sound the same:
the difference is more than 60 dB below full scale, and there is no state to lose with a worker.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from typing import Final, NoReturn, Protocol

import numpy as np
import soxr

from engines import espeak, tone
from engines.wire import (
    PACKET_SIZE,
    Cancel,
    Chunk,
    Done,
    Failed,
    Hello,
    Message,
    Ping,
    Pong,
    Speak,
    Stopped,
    WireError,
    decode,
    encode,
)

__all__ = ["main"]

FIRST_CHUNK_MS: Final = 120
LONGEST_CHUNK_MS: Final = 960
"""The first chunk of a piece is short, so that it arrives early; each later one is twice as long as the one before,
because each has its cost. Of the first one the resampler keeps up to 85 ms back until more comes."""

_FAILURE_REPORTED: Final = 3
_PR_SET_PDEATHSIG: Final = 1
_LIBC: Final = ctypes.CDLL(None)


class Speaker(Protocol):
    """An engine inside its worker process."""

    def hello(self) -> Hello:
        """What the engine can do."""

    def rehearsal(self) -> Speak | None:
        """A piece that makes the engine fill its tables; None when it has none to fill."""

    def source_rate_hz(self, rate_hz: int) -> int:
        """The rate of the samples that `speak` will emit when `rate_hz` is asked for."""

    def speak(self, piece: Speak, emit: Callable[[bytes], None]) -> None:
        """Speak; every exception means that the piece failed."""


class _Outlet:
    """Samples at the engine's rate in; chunks at the rate asked for out, less those that were delivered before."""

    def __init__(self, wire: socket.socket, piece: Speak, source_rate_hz: int) -> None:
        self._wire = wire
        self._id = piece.id
        self._skip = piece.skip_bytes
        self._source_rate_hz = source_rate_hz
        self._resampler = (
            None
            if source_rate_hz == piece.rate_hz
            else soxr.ResampleStream(source_rate_hz, piece.rate_hz, 1, dtype="float32", quality="HQ")
        )
        self._held = bytearray()
        self._wanted_ms = FIRST_CHUNK_MS

    def write(self, samples: bytes) -> None:
        self._held += samples
        if len(self._held) * 1000 >= self._wanted_ms * self._source_rate_hz * 2:
            self._wanted_ms = min(2 * self._wanted_ms, LONGEST_CHUNK_MS)
            self._send(last=False)

    def finish(self) -> None:
        self._send(last=True)

    def _send(self, *, last: bool) -> None:
        samples, self._held = bytes(self._held), bytearray()
        if self._resampler is not None:
            # In floating point: libsoxr dithers 16-bit output, and silence must stay silent.
            loud = self._resampler.resample_chunk(np.frombuffer(samples, np.int16).astype(np.float32), last=last)
            samples = np.clip(np.rint(loud), -32768, 32767).astype(np.int16).tobytes()
        self._skip, samples = max(0, self._skip - len(samples)), samples[self._skip :]
        for start in range(0, len(samples), PACKET_SIZE // 2):
            self._wire.send(encode(Chunk(id=self._id, samples=samples[start : start + PACKET_SIZE // 2])))


class _Worker:
    """The process that waits for requests, and its copies that speak."""

    def __init__(self, speaker: Speaker, wire: socket.socket) -> None:
        self._speaker = speaker
        self._wire = wire
        self._poll = select.poll()
        self._poll.register(wire, select.POLLIN)
        self._copies: dict[int, tuple[int, int]] = {}  # pidfd: (pid, request id)

    def run(self) -> None:
        """Serve until the host is gone."""
        self._rehearse()
        self._send(self._speaker.hello())
        gc.collect()
        gc.freeze()  # What exists now is shared by all copies; the collector would unshare it page by page.
        while True:
            for descriptor, _ in self._poll.poll():
                if descriptor in self._copies:
                    self._reap(descriptor)
                elif packet := self._wire.recv(PACKET_SIZE):
                    self._obey(decode(packet))
                else:
                    return

    def _obey(self, message: Message) -> None:
        match message:
            case Speak():
                self._fork(message)
            case Cancel():
                for pid, request in self._copies.values():
                    if request == message.id:
                        os.kill(pid, signal.SIGKILL)
            case Ping():
                self._send(Pong())
            case _:
                raise WireError(f"a host does not say {type(message).__name__}")

    def _rehearse(self) -> None:
        """Speak into the void, so that the copies find every table filled."""
        piece = self._speaker.rehearsal()
        if piece is None:
            return
        void, wire = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with void, wire:
            outlet = _Outlet(wire, piece, self._speaker.source_rate_hz(piece.rate_hz))
            self._speaker.speak(piece, outlet.write)
            outlet.finish()

    def _fork(self, piece: Speak) -> None:
        worker = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            self._send(Failed(id=piece.id, message=f"the worker cannot be copied: {error}"))
            return
        if pid == 0:
            status = 1
            try:
                _die_with(worker)
                status = self._speak(piece)
            finally:
                os._exit(status)
        descriptor = os.pidfd_open(pid)
        self._copies[descriptor] = (pid, piece.id)
        self._poll.register(descriptor, select.POLLIN)

    def _speak(self, piece: Speak) -> int:
        """In the copy: speak, and return the status to exit with."""
        outlet = _Outlet(self._wire, piece, self._speaker.source_rate_hz(piece.rate_hz))
        try:
            self._speaker.speak(piece, outlet.write)
            outlet.finish()
        except Exception as error:  # The boundary of the task: whatever it is, the host is to know.
            self._send(Failed(id=piece.id, message=f"{type(error).__name__}: {error}"))
            return _FAILURE_REPORTED
        return 0

    def _reap(self, descriptor: int) -> None:
        self._poll.unregister(descriptor)
        os.close(descriptor)
        pid, request = self._copies.pop(descriptor)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if status == 0:
            self._send(Done(id=request))
        elif status == -signal.SIGKILL:
            self._send(Stopped(id=request))
        elif status != _FAILURE_REPORTED:
            cause = signal.Signals(-status).name if status < 0 else f"status {status}"
            self._send(Failed(id=request, message=f"the engine died of {cause}"))

    def _send(self, message: Message) -> None:
        self._wire.send(encode(message))


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when `parent` is gone (prctl(2), PR_SET_PDEATHSIG; a fork forgets it)."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # It went before the kernel knew.
        os._exit(1)


def _load(engine: str, options: dict[str, int | str]) -> Speaker:
    match engine:
        case "espeak":
            return espeak.Espeak(espeak.Settings(**options))  # type: ignore[arg-type]
        case "tone":
            return tone.Tone(tone.Faults(**options))  # type: ignore[arg-type]
        case _:
            raise ValueError(f"no engine is called {engine!r}")


def main() -> NoReturn:
    engine, options, host, descriptor = sys.argv[1:]
    # A worker lives as long as its host holds the socket. Ctrl-C and a service manager's SIGTERM go to the whole
    # group, but the host may still have calls to speak into.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _die_with(int(host))
    wire = socket.socket(fileno=int(descriptor))
    try:
        speaker = _load(engine, json.loads(options))
    except Exception as error:  # The boundary of the process: the host is to know why there is no worker.
        wire.send(encode(Failed(id=0, message=f"{type(error).__name__}: {error}")))
        sys.exit(1)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # The host is gone.
        _Worker(speaker, wire).run()
    sys.exit(0)


if __name__ == "__main__":
    main()
