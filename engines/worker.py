"""The worker process: `python -m engines.worker ENGINE OPTIONS HOST_PID SOCKET_FD`, started by pool.py.

It has two halves, two processes: the outer one resamples (relay.py); the inner one, here, loads an engine once, and
forks itself for every piece that it is asked to speak. Three things follow:

* The same piece always gives the same samples, whatever was spoken before. espeak-ng carries state from one text to the
  next; here each text meets the state that the library had when it was loaded. So a piece can be spoken again after a
  crash and be continued at the sample where it broke off.
* A text that crashes the engine takes only its own copy of the process with it.
* Cancelling is killing, and takes no cooperation.

A fork costs about 3 ms of processor time. An engine that cannot be forked (CUDA) takes the inner half over, and speaks
wire.py too: chatterbox/process.py.
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

from engines.wire import (
    PACKET_SIZE,
    Cancel,
    Chunk,
    Done,
    Failed,
    Hello,
    Joiner,
    Message,
    Ping,
    Pong,
    Speak,
    Stopped,
    WireError,
    decode,
    encode,
)

__all__ = ["Speaker", "main"]

FIRST_CHUNK_MS: Final = 120
LONGEST_CHUNK_MS: Final = 960
"""The first chunk of a piece is short, so that it arrives early; each later one is twice as long as the one before,
because each has its cost. The resampler keeps up to 85 ms of the first one back until more comes."""

_STDERR: Final = 2
_FAILURE_REPORTED: Final = 3
_PR_SET_PDEATHSIG: Final = 1
_LIBC: Final = ctypes.CDLL(None)


class Speaker(Protocol):
    """An engine inside its worker process."""

    def hello(self) -> Hello:
        """What the engine can do."""

    def rehearsal(self) -> Speak | None:
        """A piece that makes the engine fill its tables; None when it has none to fill."""

    def speak(self, piece: Speak, emit: Callable[[bytes], None]) -> None:
        """Speak, at the rate that the Hello named; every exception means that the piece failed."""


class _Gatherer:
    """In a copy: blocks of samples go in, fewer and longer ones come out."""

    def __init__(self, outside: socket.socket, piece: int, rate_hz: int) -> None:
        self._outside = outside
        self._piece = piece
        self._rate_hz = rate_hz
        self._held = bytearray()
        self._wanted_ms = FIRST_CHUNK_MS

    def write(self, samples: bytes) -> None:
        self._held += samples
        if len(self._held) * 1000 >= self._wanted_ms * self._rate_hz * 2:
            self._wanted_ms = min(2 * self._wanted_ms, LONGEST_CHUNK_MS)
            self.flush()

    def flush(self) -> None:
        self._outside.send(encode(Chunk(id=self._piece, samples=bytes(self._held))))
        self._held.clear()


class _Original:
    """The process that waits for requests, and of which copies speak. All of them write to the same socket."""

    def __init__(self, speaker: Speaker, outside: socket.socket) -> None:
        self._speaker = speaker
        self._outside = outside
        self._hello = speaker.hello()
        self._joiner = Joiner()
        self._copies: dict[int, tuple[int, int]] = {}  # pidfd: (pid, request id)
        self._nowhere = os.open(os.devnull, os.O_WRONLY)
        self._poll = select.poll()
        self._poll.register(outside, select.POLLIN)

    def run(self) -> None:
        """Serve until the other half is gone."""
        rehearsal = self._speaker.rehearsal()
        if rehearsal is not None:
            self._speaker.speak(rehearsal, lambda _samples: None)
        self._send(self._hello)
        gc.collect()
        gc.freeze()  # What exists now is shared by all copies; the collector would unshare it page by page.
        while True:
            for descriptor, _ in self._poll.poll():
                if descriptor in self._copies:
                    self._reap(descriptor)
                elif packet := self._outside.recv(PACKET_SIZE):
                    whole = self._joiner.feed(packet)
                    if whole is not None:
                        self._obey(decode(whole))
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

    def _fork(self, piece: Speak) -> None:
        original = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            self._send(Failed(id=piece.id, message=f"the worker cannot be copied: {error}"))
            return
        if pid == 0:
            status = 1
            try:
                _die_with(original)
                os.dup2(self._nowhere, _STDERR)  # A library's remarks on a caller's text are no log lines.
                status = self._speak(piece)
            finally:
                os._exit(status)
        descriptor = os.pidfd_open(pid)
        self._copies[descriptor] = (pid, piece.id)
        self._poll.register(descriptor, select.POLLIN)

    def _speak(self, piece: Speak) -> int:
        """In the copy: speak, and return the status to exit with."""
        gatherer = _Gatherer(self._outside, piece.id, self._hello.source_rate_hz or piece.rate_hz)
        try:
            self._speaker.speak(piece, gatherer.write)
            gatherer.flush()
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
        self._outside.send(encode(message))


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when `parent` is gone (prctl(2), PR_SET_PDEATHSIG; a fork forgets it)."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # It went before the kernel knew.
        os._exit(1)


def _load(engine: str, options: dict[str, int | str]) -> Speaker:
    # Imported by need: what one engine loads would make forking the other dearer.
    match engine:
        case "espeak":
            from engines.espeak import Espeak, Settings

            return Espeak(Settings(**options))  # type: ignore[arg-type]
        case "tone":
            from engines.tone import Faults, Tone

            return Tone(Faults(**options))  # type: ignore[arg-type]
        case _:
            raise ValueError(f"no engine is called {engine!r}")


def _speak_for(outside: socket.socket, engine: str, options: str) -> int:
    """Be the inner half; return the status to exit with."""
    try:
        if engine == "chatterbox":
            from engines.chatterbox.process import serve

            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                serve(outside, json.loads(options))
            return 0
        original = _Original(_load(engine, json.loads(options)), outside)
    except Exception as error:  # The boundary of the process: the host is to know why there is no worker.
        outside.send(encode(Failed(id=0, message=f"{type(error).__name__}: {error}")))
        return 1
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # The other half is gone.
        original.run()
    return 0


def main() -> NoReturn:
    engine, options, host, descriptor = sys.argv[1:]
    # A worker lives as long as its host holds the socket. Ctrl-C and a service manager's SIGTERM go to the whole
    # group, but the host may still have calls to speak into.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _die_with(int(host))
    to_host = socket.socket(fileno=int(descriptor))
    outer, inner = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    this = os.getpid()
    if os.fork() == 0:
        to_host.close()
        outer.close()
        _die_with(this)
        sys.exit(_speak_for(inner, engine, options))
    inner.close()
    from engines.relay import relay  # Only in this half: it loads numpy.

    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # One side is gone.
        relay(to_host, outer)
    outer.close()
    status = os.waitstatus_to_exitcode(os.wait()[1])
    sys.exit(status if status >= 0 else 128 - status)  # as a shell tells a signal


if __name__ == "__main__":
    main()
