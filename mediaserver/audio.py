"""Audio files: any of them into mono samples of 16 bit, at 8 kHz unless told otherwise, and those into WAV."""

from __future__ import annotations

import asyncio
import math
import os
import sys
import wave
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import BinaryIO, Final

__all__ = ["RATE_HZ", "AudioError", "decode", "write_wav"]

RATE_HZ: Final = 8000

START_LIMIT_S: Final = 10.0
LEAST_SPEED: Final = 60
"""Decoding may take START_LIMIT_S, and a second more for every LEAST_SPEED seconds of sound that are allowed. (An hour
of MP3 takes about 11 s.)"""

_LONGEST_REASON: Final = 4096


class AudioError(Exception):
    """The bytes are not audio that can be used; the message says why."""


async def decode(source: bytes | Path, *, max_s: float, rate_hz: int = RATE_HZ) -> bytes:
    """The first audio track of any common container, as samples at `rate_hz` in native byte order.

    Works in a process of its own (decoder.py), which ends with this call, however it ends. Raises AudioError when the
    file cannot be read, when there is no audio track in it, when that does not decode or takes too long to, or when it
    is longer than `max_s` seconds.
    """
    limit_s = START_LIMIT_S + max_s / LEAST_SPEED
    try:
        with _as_file(source) as file:
            process = await asyncio.create_subprocess_exec(
                *_command(rate_hz, max_s, limit_s),
                env=_environment(),
                stdin=file,
                stdout=PIPE,
                stderr=PIPE,
                start_new_session=True,  # Ctrl-C in the terminal is for the server alone.
            )
    except OSError as error:
        raise AudioError(f"no process can be started to decode it: {error.strerror}") from error
    assert process.stdout is not None, "it is a pipe"
    assert process.stderr is not None, "it is a pipe"
    most_bytes = round(max_s * rate_hz) * 2
    try:
        async with asyncio.timeout(limit_s):
            samples, reason = await asyncio.gather(
                _at_most(most_bytes, process.stdout), _at_most(_LONGEST_REASON, process.stderr)
            )
            status = await process.wait()
    except TimeoutError:
        raise AudioError(f"it takes longer than {limit_s:g} s to decode") from None
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
    if status:
        raise AudioError(_why(status, reason))
    return samples


def _as_file(source: bytes | Path) -> BinaryIO:
    """`source`, open at its beginning, for a decoder that has to seek in it."""
    if isinstance(source, Path):
        try:
            return source.open("rb")
        except OSError as error:
            raise AudioError(f"it cannot be read: {error.strerror}") from error
    file = open(os.memfd_create("audio"), "w+b")  # noqa: SIM115  The caller closes it.
    file.write(source)
    file.seek(0)
    return file


def _command(rate_hz: int, max_s: float, limit_s: float) -> list[str]:
    # -P: the working directory is not searched for modules.
    return [sys.executable, "-P", "-m", "mediaserver.decoder", str(rate_hz), str(max_s), str(math.ceil(limit_s))]


def _environment() -> dict[str, str]:
    """The server's, with this package on the path."""
    here = str(Path(__file__).resolve().parent.parent)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH", "")]))}


async def _at_most(size: int, stream: asyncio.StreamReader) -> bytes:
    """What comes until the end of the stream, or its first `size` bytes. Who writes more, waits for ever."""
    try:
        return await stream.readexactly(size)
    except asyncio.IncompleteReadError as error:
        return error.partial


def _why(status: int, reason: bytes) -> str:
    """The decoder's last words; they go into answers and logs, and it may have been taken over by its file."""
    if status < 0:
        return f"its decoder was killed by signal {-status}"
    lines = reason.decode(errors="replace").splitlines()
    words = "".join(filter(str.isprintable, lines[-1])) if lines else ""
    return words or f"its decoder exited with status {status}"


def write_wav(path: Path, samples: bytes, *, rate_hz: int) -> None:
    """Write signed 16-bit mono samples as a WAV file."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(samples)
