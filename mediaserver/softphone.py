"""A telephone for the command line: places one call with our own SIP and RTP, listens, and tells what it heard."""

from __future__ import annotations

import asyncio
import math
import random
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import rtp
import sip
from mediaserver import audio
from mediaserver.media import Media

__all__ = ["CallError", "Order", "Outcome", "call"]

# The dynamic ports of RFC 6335: below them are those of servers.
PORTS = range(49152, 65536)
RING_S = 30.0
LISTEN_TAIL_S = 0.2
PROGRESS_S = 0.1
LEVELS = " ▁▂▃▄▅▆▇█"


class CallError(Exception):
    """The call cannot even be placed; the message says what to change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to call and how; see `mediaserver call --help`."""

    uri: str
    text: str | None = None
    voice: str | None = None
    language: str | None = None
    record: Path | None = None
    seconds: float = 60.0
    codec: str = "PCMU"

    def headers(self) -> tuple[tuple[str, str], ...]:
        """The header fields that ask for speech. A field holds one line, so line breaks become spaces."""
        wanted = (("X-Speak", self.text), ("X-Speaker", self.voice), ("X-Language", self.language))
        return tuple((name, " ".join(value.split())) for name, value in wanted if value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How the call went. `unreachable`: nothing at all came back; `heard` are the samples at 8 kHz."""

    answered: bool
    unreachable: bool
    status: int
    reason: str
    ended_by: str
    setup_ms: float
    seconds: float
    counters: rtp.StreamCounters | None
    heard: bytes
    record: Path | None

    def summary(self) -> str:
        """A few lines for a person."""
        if not self.answered or self.counters is None:
            hint = "\nNo SIP server answers there by UDP. Is it running, and is the port right?" * self.unreachable
            return f"Not answered: {self.status} {self.reason}{hint}"
        seen = self.counters
        lines = [
            f"Answered after {self.setup_ms:.0f} ms, {self.seconds:.1f} s long, {self.ended_by}.",
            f"Received {seen.packets_received} packets, {seen.lost} lost, jitter {seen.jitter_ms:.1f} ms, "
            f"level {level_dbfs(self.heard):.0f} dBFS.",
        ]
        if self.record is not None:
            lines.append(f"Recorded {len(self.heard) / 2 / audio.RATE_HZ:.1f} s to {self.record}.")
        return "\n".join(lines)


def level_dbfs(samples: bytes) -> float:
    """Root mean square of 16-bit samples relative to full scale, never below -96 dBFS."""
    values = np.frombuffer(samples, np.int16).astype(np.float64)
    mean = float(np.mean(values**2)) if values.size else 0.0
    return max(-96.0, 10 * math.log10(mean / 32768**2)) if mean else -96.0


async def call(order: Order, *, progress: Callable[[str], None] | None = None) -> Outcome:
    """Place the call, listen until it ends or `order.seconds` are over, and say how it went.

    progress  takes a line for the terminal, ten times a second
    Raises CallError when the URI cannot be called.
    """
    target, (host, port) = await _resolve(order.uri)
    events: asyncio.Queue[sip.Event] = asyncio.Queue()
    agent = sip.Agent(random=random.SystemRandom(), product="mediaserver-call")
    everywhere = "::" if ":" in host else "0.0.0.0"
    async with (
        sip.Transport.open(agent, [(everywhere, 0)], deliver=events.put_nowait) as transport,
        rtp.Endpoint(host=everywhere, ports=PORTS, realtime=False) as endpoint,
    ):
        flow = transport.flow_to(host, port)
        first = order.codec
        media = Media(endpoint, host=flow.local[0], codecs=(first, "PCMA" if first == "PCMU" else "PCMU"))
        try:
            line = _Line(order, transport, media, events)
            async with asyncio.TaskGroup() as tasks:
                watching = tasks.create_task(line.watch(progress)) if progress else None
                listening = tasks.create_task(line.listen())
                await line.converse(target, flow)
                # What is on the way, or in the jitter buffer, still counts as heard.
                await asyncio.sleep(LISTEN_TAIL_S)
                listening.cancel()
                if watching is not None:
                    watching.cancel()
            outcome = line.outcome()
        finally:
            media.close()
    if order.record is not None and outcome.answered:
        audio.write_wav(order.record, outcome.heard, rate_hz=audio.RATE_HZ)
    return outcome


async def _resolve(text: str) -> tuple[sip.Uri, tuple[str, int]]:
    try:
        uri = sip.Uri.parse(text if ":" in text else f"sip:{text}")
    except sip.SipError as error:
        raise CallError(f"{text!r} is not a SIP URI such as sip:user@host:5060: {error}") from error
    if uri.scheme != "sip":
        raise CallError(f"only sip: URIs can be called, over UDP, not {uri.scheme}:")
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            uri.host.strip("[]"), uri.port or 5060, type=socket.SOCK_DGRAM
        )
    except OSError as error:
        raise CallError(f"the host {uri.host!r} cannot be resolved: {error.strerror}") from error
    host, port = found[0][4][:2]
    return uri, (str(host), int(port))


class _Line:
    """The one call of a softphone, while it lasts."""

    def __init__(self, order: Order, transport: sip.Transport, media: Media, events: asyncio.Queue[sip.Event]) -> None:
        self.order = order
        self.transport = transport
        self.media = media
        self.events = events
        self.state = "calling"
        self.heard = bytearray()
        self.frame = b""
        self.ended: sip.Ended | None = None
        self.responded = False
        self.placed_at = time.monotonic()
        self.answered_at: float | None = None
        self.ended_at = 0.0

    async def converse(self, target: sip.Uri, flow: sip.Flow) -> None:
        """From the INVITE to the end."""
        host = f"[{flow.local[0]}]" if ":" in flow.local[0] else flow.local[0]
        me = sip.NameAddr(uri=sip.Uri.parse(f"sip:softphone@{host}"))
        key = self.transport.invite(
            target,
            flow,
            from_=me,
            body=self.media.offer(),
            headers=self.order.headers(),
            ring_timeout_s=RING_S,
        )
        hang_up: asyncio.TimerHandle | None = None
        while self.ended is None:
            event = await self.events.get()
            # A 408 without any response before it is our own timer's (RFC 3261 section 8.1.3.1).
            self.responded |= not (isinstance(event, sip.Ended) and event.status == 408)
            match event:
                case sip.Progressed(response=response):
                    self.state = "ringing"
                    if response.body and self.media.audio is None:
                        self._take_up(response)
                case sip.Answered(response=response):
                    self.answered_at = time.monotonic()
                    self.state = "answered"
                    if not self._take_up(response):
                        self.transport.bye(key)
                        continue
                    loop = asyncio.get_running_loop()
                    hang_up = loop.call_later(self.order.seconds, self._bye, key)
                case sip.Reoffered(request=request):
                    self._renegotiate(key, request)
                case sip.Ended() as ended:
                    self.ended = ended
        if hang_up is not None:
            hang_up.cancel()
        self.ended_at = time.monotonic()
        self.state = "ended"

    def _bye(self, key: str) -> None:
        if self.ended is None:
            self.transport.bye(key)

    def _take_up(self, response: sip.Response) -> bool:
        try:
            self.media.accept(response.body)
        except sip.RemoteProtocolError as error:
            self.state = f"no usable media: {error.reason}"
            return False
        self.media.start()
        return True

    def _renegotiate(self, key: str, request: sip.Request) -> None:
        try:
            answer = self.media.answer(request.body) if request.body else self.media.offer()
        except sip.RemoteProtocolError as error:
            self.transport.reject(key, status=error.status, reason=error.reason, headers=error.headers)
        else:
            self.transport.answer(key, body=answer)

    async def listen(self) -> None:
        async for frame in self.media.stream.listen():
            self.frame = frame
            self.heard += frame

    async def watch(self, progress: Callable[[str], None]) -> None:
        while True:
            lasted_s = time.monotonic() - (self.answered_at or self.placed_at)
            seen = self.media.stream.counters()
            step = int((level_dbfs(self.frame) + 60) / 60 * len(LEVELS))
            progress(
                f"{self.state:9} {lasted_s:5.1f} s  {seen.packets_received:5} packets, {seen.lost} lost  "
                f"jitter {seen.jitter_ms:4.1f} ms  level {LEVELS[max(0, min(step, len(LEVELS) - 1))]}"
            )
            await asyncio.sleep(PROGRESS_S)

    def outcome(self) -> Outcome:
        assert self.ended is not None, "the call has ended"
        answered_at = self.answered_at
        return Outcome(
            answered=answered_at is not None,
            unreachable=not self.responded,
            status=self.ended.status or (200 if answered_at is not None else 408),
            reason=self.ended.reason or self.ended.cause.value,
            ended_by=self.ended.cause.value,
            setup_ms=((answered_at or self.placed_at) - self.placed_at) * 1000,
            seconds=self.ended_at - (answered_at or self.ended_at),
            counters=self.media.stream.counters(),
            heard=bytes(self.heard),
            record=self.order.record,
        )
