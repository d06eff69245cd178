"""A real server on loopback, in the test's own event loop, and ways to call it and to judge what was heard."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

import engines
from mediaserver import config, server, softphone

Samples = npt.NDArray[np.float64]


def rtp_ports() -> str:
    """A range of its own for each of the test processes that run side by side."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = 20000 + 2000 * worker
    return f"{first}-{first + 1999}"


def settings(**sections: Any) -> config.Config:
    """A configuration on free loopback ports; keyword arguments are its sections, as in the TOML file."""
    sections["sip"] = {"listen": "127.0.0.1:0"} | sections.get("sip", {})
    sections["http"] = {"listen": "127.0.0.1:0"} | sections.get("http", {})
    sections["rtp"] = {"ports": rtp_ports()} | sections.get("rtp", {})
    return config.Config.model_validate(sections)


@asynccontextmanager
async def serving(**sections: Any) -> AsyncIterator[server.Server]:
    """A running server; see `settings`."""
    async with server.running(settings(**sections)) as running:
        yield running


async def heard(running: server.Server, user: str = "test", *, parameters: str = "", **order: Any) -> softphone.Outcome:
    """Call `user` of the server with our own softphone, and listen to the end. `parameters` follow the URI."""
    uri = f"sip:{user}@{running.sip_address}{parameters}"
    return await softphone.call(softphone.Order(uri=uri, **order))


async def until_calls(running: server.Server, count: int) -> None:
    """Wait until so many calls are alive."""
    while len(running.switchboard) != count:  # noqa: ASYNC110
        await asyncio.sleep(0.005)


async def spoken(engine: engines.Engine, text: str, **utterance: Any) -> bytes:
    """The engine's own output at 8 kHz."""
    wanted = engines.Utterance(text=text, rate_hz=8000, **utterance)
    return b"".join([chunk.samples async for chunk in engine.synthesize(wanted)])


def floats(samples: bytes) -> Samples:
    return np.frombuffer(samples, np.int16).astype(np.float64)


def likeness(recorded: bytes, original: bytes) -> float:
    """The best normalised correlation of `original` with any stretch of `recorded`: 1.0 is the same sound."""
    return float(np.max(_correlation(recorded, original)))


def occurrences(recorded: bytes, original: bytes) -> list[float]:
    """Where in `recorded`, in seconds from its start, `original` is heard."""
    found = _correlation(recorded, original)
    peaks = np.flatnonzero((found > 0.95) & (found >= np.roll(found, 1)) & (found >= np.roll(found, -1)))
    return [int(peak) / 8000 for peak in peaks]


def _correlation(recorded: bytes, original: bytes) -> Samples:
    pattern, signal = floats(original), floats(recorded)
    if len(signal) < len(pattern):
        signal = np.pad(signal, (0, len(pattern) - len(signal)))
    size = 1 << (len(signal) + len(pattern)).bit_length()
    spectrum = np.fft.rfft(signal, size) * np.conj(np.fft.rfft(pattern, size))
    correlation = np.fft.irfft(spectrum, size)[: len(signal) - len(pattern) + 1]
    energy = np.concatenate(([0.0], np.cumsum(signal**2)))
    windows = energy[len(pattern) :] - energy[: len(signal) - len(pattern) + 1]
    scale = np.sqrt(np.maximum(windows, 1e-9) * np.sum(pattern**2))
    return np.asarray(correlation / scale)
