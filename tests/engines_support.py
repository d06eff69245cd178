"""What the tests of the engines share: a worker process to talk to, and measures of sound."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engines import Engine, Utterance, tone
from engines.sentences import split
from engines.wire import PACKET_SIZE, Chunk, Hello, Message, Speak, decode, encode

RAW_HZ = 22050
"""What espeak-ng makes; a worker that is asked for this rate does not resample."""

PRACTICE = (
    "Good morning, this is the practice of Dr. Smith. Your appointment is tomorrow at 10:30, isn't it? "
    "We look forward to seeing you; please bring the letter, your card and some time! Apples are nice… "
    "And so on: one, two, three.\n\nThe next paragraph begins here. It is the last one"
)


def piece(text: str, **fields: object) -> Speak:
    """A request with the usual values, but for those given."""
    usual = {"id": 1, "ssml": False, "voice": "en-us", "speed": 1.0, "rate_hz": 8000, "last": True}
    return Speak(**{**usual, "text": text, **fields})  # type: ignore[arg-type]


class Worker:
    """A worker process, spoken to over its socket as the pool would, with time-outs."""

    def __init__(self, engine: str, options: dict[str, object]) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(10)
        arguments = [engine, json.dumps(options), str(os.getpid()), str(theirs.fileno())]
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "engines.worker", *arguments],
                pass_fds=[theirs.fileno()],
                cwd=Path(__file__).parent.parent,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
                stderr=subprocess.DEVNULL,
            )

    def send(self, message: Message) -> None:
        self.socket.send(encode(message))

    def receive(self) -> Message:
        return decode(self.socket.recv(PACKET_SIZE))

    def speak(self, request: Speak) -> tuple[npt.NDArray[np.int16], Message]:
        """All samples, and how it ended."""
        self.send(request)
        samples = b""
        while isinstance(message := self.receive(), Chunk):
            samples += message.samples
        return np.frombuffer(samples, np.int16), message


@contextmanager
def started(engine: str, **options: object) -> Iterator[Worker]:
    """A worker process that is killed at the end, if it still lives."""
    one = Worker(engine, options)
    try:
        yield one
    finally:
        one.socket.close()
        one.process.kill()
        one.process.wait()


@contextmanager
def worker(engine: str = "espeak", **options: object) -> Iterator[tuple[Worker, Hello]]:
    """A worker that said Hello, and that ends of itself when its socket is closed."""
    with started(engine, **options) as one:
        hello = one.receive()
        assert isinstance(hello, Hello)
        yield one, hello
        one.socket.close()
        assert one.process.wait(5) == 0


async def say(engine: Engine, text: str, **fields: object) -> bytes:
    """All samples of an utterance."""
    utterance = Utterance(text=text, **fields)  # type: ignore[arg-type]
    return b"".join([pcm.samples async for pcm in engine.synthesize(utterance)])


def tone_of(text: str, **fields: object) -> bytes:
    """All samples that the tone engine makes of a text."""
    return b"".join(tone.samples(piece, **fields).tobytes() for piece in split(text))  # type: ignore[arg-type]


def pauses_ms(samples: npt.NDArray[np.int16], rate_hz: int, *, least_ms: int = 30) -> list[tuple[int, int]]:
    """(start, length) of every stretch of digital silence, in ms."""
    edges = np.diff(np.concatenate([[0], (samples == 0).astype(np.int8), [0]]))
    stretches = zip(np.nonzero(edges == 1)[0], np.nonzero(edges == -1)[0], strict=True)
    ms = [(int(a) * 1000 // rate_hz, int(b - a) * 1000 // rate_hz) for a, b in stretches]
    return [(start, length) for start, length in ms if length >= least_ms]


def level(samples: npt.NDArray[np.int16]) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(samples.astype(np.float64) ** 2)))


def share_at(samples: npt.NDArray[np.int16], rate_hz: int, low_hz: float, high_hz: float) -> float:
    """How much of the energy lies between two frequencies."""
    spectrum = np.abs(np.fft.rfft(samples.astype(np.float64))) ** 2
    frequencies = np.fft.rfftfreq(len(samples), 1 / rate_hz)
    return float(spectrum[(frequencies >= low_hz) & (frequencies < high_hz)].sum() / spectrum.sum())


def pitch_hz(samples: npt.NDArray[np.int16], rate_hz: int) -> float:
    """Of a monotonous voice: the strongest period between 70 and 350 Hz."""
    wave = samples.astype(np.float64)
    shortest, longest = rate_hz // 350, rate_hz // 70
    likeness = [float(wave[lag:] @ wave[:-lag]) for lag in range(shortest, longest)]
    return rate_hz / (shortest + int(np.argmax(likeness)))


def children(pid: int) -> list[int]:
    """Processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_gone(pid: int, *, within_s: float) -> bool:
    """Whether a process that may not be our child ends (or is a zombie of somebody else's) in time."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], within_s)[0])
    finally:
        os.close(descriptor)
