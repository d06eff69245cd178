"""A real server on loopback, in the test's own event loop, and ways to call it and to judge what was heard."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import os
import random
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt

import engines
import sip
from mediaserver import config, server, softphone
from rtp import g711

Samples = npt.NDArray[np.float64]


def rtp_ports() -> str:
    """A range of its own for each of the test processes that run side by side."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = 20000 + 2000 * worker
    return f"{first}-{first + 1999}"


@functools.cache
def store() -> str:
    """A directory for what the servers of this process remember, which goes with the process."""
    directory = tempfile.TemporaryDirectory()
    atexit.register(directory.cleanup)
    return directory.name


def settings(**sections: Any) -> config.Config:
    """A configuration on free loopback ports; keyword arguments are its sections, as in the TOML file."""
    sections["sip"] = {"listen": "127.0.0.1:0"} | sections.get("sip", {})
    sections["http"] = {"listen": "127.0.0.1:0"} | sections.get("http", {})
    sections["rtp"] = {"ports": rtp_ports()} | sections.get("rtp", {})
    sections["store"] = {"path": store()} | sections.get("store", {})
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


OFFER = b"""v=0\r
o=- 1 1 IN IP4 127.0.0.1\r
s=-\r
c=IN IP4 127.0.0.1\r
t=0 0\r
m=audio 4000 RTP/AVP 0\r
"""
Event = TypeVar("Event", bound=sip.Event)


async def anext_of(events: asyncio.Queue[sip.Event], kind: type[Event]) -> Event:
    """The next event of that kind; those before it are passed over."""
    while not isinstance(event := await events.get(), kind):
        pass
    return event


def invited(
    running: server.Server,
    transport: sip.Transport,
    events: asyncio.Queue[sip.Event],
    body: bytes,
    *,
    content_type: str = "application/sdp",
) -> str:
    """Send an INVITE with that body; the key of the call."""
    return transport.invite(
        sip.Uri.parse(f"sip:x@{running.sip_address}"),
        transport.flow_to("127.0.0.1", running.sip_address.port),
        from_=sip.NameAddr.parse("<sip:tester@127.0.0.1>"),
        body=body,
        content_type=content_type,
    )


async def dialled(
    running: server.Server, body: bytes, *, content_type: str = "application/sdp", cancel_after_s: float | None = None
) -> sip.Ended:
    """A call without media of its own, to its end; cancelled, or ended with BYE, after so long if that is given."""
    events: asyncio.Queue[sip.Event] = asyncio.Queue()
    agent = sip.Agent(random=random.Random())
    async with sip.Transport.open(agent, [("127.0.0.1", 0)], deliver=events.put_nowait) as transport:
        call = invited(running, transport, events, body, content_type=content_type)
        if cancel_after_s is not None:
            await asyncio.sleep(cancel_after_s)
            try:
                transport.cancel(call)
            except sip.LocalProtocolError:
                transport.bye(call)
        return await anext_of(events, sip.Ended)


class Ear:
    """A bare UDP socket that keeps the PCMU packets it gets. A context manager."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.setblocking(False)
        self.port: int = self._socket.getsockname()[1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._socket.close()

    def heard(self) -> bytes:
        """The samples of all packets that have come, in order."""
        payloads = []
        with contextlib.suppress(BlockingIOError):
            while packet := self._socket.recv(2048):
                if packet[1] & 0x7F == 0:
                    payloads.append(packet[12:])
        return g711.mulaw_decode(b"".join(payloads))
