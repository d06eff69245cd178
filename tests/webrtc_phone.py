"""An independent WebRTC telephone: aiortc's RTCPeerConnection, which plays a sound and keeps what it hears."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from fractions import Fraction
from typing import Any

import aiohttp
import aioice.ice
import av
import numpy as np
import pytest
from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCPeerConnection,
    RTCRtpSender,
    RTCSessionDescription,
)

from mediaserver import server

HOST = "127.0.0.1"
# Where aiortc's encoders take what they are given.
RATE_HZ = 8000
FRAME = 160


class Sound(MediaStreamTrack):
    """Samples at 8 kHz, in real time, and silence after them.

    layout  "stereo" is the same on both channels, for encoders that would make mono quieter by 3 dB
    """

    kind = "audio"

    def __init__(self, samples: bytes, layout: str) -> None:
        super().__init__()
        self._samples = samples
        self._layout = layout
        self._sent = 0
        self._begun_at = asyncio.get_running_loop().time()

    async def recv(self) -> av.AudioFrame:
        await asyncio.sleep(self._begun_at + self._sent / RATE_HZ - asyncio.get_running_loop().time())
        frame = av.AudioFrame(format="s16", layout=self._layout, samples=FRAME)
        piece = self._samples[2 * self._sent : 2 * (self._sent + FRAME)].ljust(2 * FRAME, b"\0")
        frame.planes[0].update(np.repeat(np.frombuffer(piece, np.int16), len(frame.layout.channels)).tobytes())
        frame.sample_rate, frame.pts, frame.time_base = RATE_HZ, self._sent, Fraction(1, RATE_HZ)
        self._sent += FRAME
        return frame


class WebRtcPhone:
    """One call of a browser that is none.

    answer  what the server said, as JSON; status, headers: of its response
    """

    def __init__(self, codec: str, sound: bytes) -> None:
        self.connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.codec = codec
        self.answer: dict[str, Any] = {}
        self.headers: dict[str, str] = {}
        self.status = 0
        self.rate_hz = 0
        self._frames: list[np.ndarray[Any, np.dtype[np.int16]]] = []
        self._listening: asyncio.Task[None] | None = None
        self.ended = asyncio.Event()
        transceiver = self.connection.addTransceiver(Sound(sound, "mono" if codec == "PCMU" else "stereo"), "sendrecv")
        known = RTCRtpSender.getCapabilities("audio").codecs
        transceiver.setCodecPreferences([one for one in known if one.name.lower() == codec.lower()])
        self.connection.on("track", self._listen)
        self.connection.on("connectionstatechange", self._changed)

    async def offer(self) -> str:
        await self.connection.setLocalDescription(await self.connection.createOffer())
        return str(self.connection.localDescription.sdp)

    async def dial(
        self, running: server.Server, to: str = "console", *, change: Callable[[str], str] = lambda sdp: sdp
    ) -> None:
        """Offer, and take the answer; with anything but 201 it stays at that. `change` is made to the offer."""
        body = {"type": "offer", "sdp": change(await self.offer()), "to": to}
        async with (
            aiohttp.ClientSession(f"http://{running.http_address}") as session,
            session.post("/v1/webrtc/offer", json=body) as response,
        ):
            self.status, self.headers, self.answer = response.status, dict(response.headers), await response.json()
        if self.status == 201:
            described = RTCSessionDescription(sdp=self.answer["sdp"], type=self.answer["type"])
            await self.connection.setRemoteDescription(described)

    @property
    def heard(self) -> bytes:
        """Mono samples at `rate_hz`."""
        return b"".join(frame.tobytes() for frame in self._frames)

    def _listen(self, track: MediaStreamTrack) -> None:
        self._listening = asyncio.create_task(self._hear(track))

    async def _hear(self, track: MediaStreamTrack) -> None:
        with contextlib.suppress(Exception):  # aiortc's way of saying that there is no more
            while True:
                frame = await track.recv()
                self.rate_hz = frame.sample_rate
                self._frames.append(frame.to_ndarray().reshape(-1, len(frame.layout.channels))[:, 0])

    def _changed(self) -> None:
        if self.connection.connectionState in ("closed", "failed"):
            self.ended.set()

    async def close(self) -> None:
        await self.connection.close()
        if self._listening is not None:
            self._listening.cancel()


@asynccontextmanager
async def webrtc_phone(codec: str = "PCMU", sound: bytes = b"") -> AsyncIterator[WebRtcPhone]:
    """On loopback, which aiortc leaves out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aioice.ice, "get_host_addresses", _loopback)
        phone = WebRtcPhone(codec, sound)
        try:
            yield phone
        finally:
            await phone.close()


def _loopback(use_ipv4: bool, use_ipv6: bool) -> Iterable[str]:
    return [HOST]
