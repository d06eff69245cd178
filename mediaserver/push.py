"""Pushes: speech by RTP to an address that a request names, without SIP.

Nothing is sent but to the configuration's `rtp.push_networks`, for whoever may ask for a push could aim this server at
anybody otherwise. The stream does not latch either, so that no answer to it moves it elsewhere.
"""

from __future__ import annotations

import asyncio
import enum
import errno
import ipaddress
import secrets
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import TracebackType

import structlog

import engines
import rtp
from mediaserver.config import Network
from mediaserver.metrics import Metrics
from mediaserver.speech import Speech

__all__ = [
    "Destination",
    "Facts",
    "ForbiddenDestination",
    "LocalPortTaken",
    "Memory",
    "Push",
    "PushError",
    "PushState",
    "Pushes",
    "TooManyPushes",
    "UnreachableDestination",
    "check_destination",
]

log = structlog.get_logger("push")

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
LIMITED_BROADCAST = ipaddress.IPv4Address("255.255.255.255")

# How long an ended push is remembered, and how many are.
REMEMBERED_S = 600.0
REMEMBERED = 1000


class PushError(Exception):
    """Base of what refuses a push; the message is for whoever asked.

    PushError
    ├── ForbiddenDestination    the configuration does not allow the address
    ├── UnreachableDestination  this machine has no way to it
    ├── LocalPortTaken          the local port that was asked for cannot be had
    └── TooManyPushes           no capacity now
    """


class ForbiddenDestination(PushError):
    """The configuration does not allow the address."""


class UnreachableDestination(PushError):
    """This machine has no way to the address."""


class LocalPortTaken(PushError):
    """The local port that was asked for, or the one after it, cannot be had."""


class TooManyPushes(PushError):
    """As many as may be are alive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """Where packets go, and what they are: `host` is an IP address, `ptime_ms` 10, 20, 30, 40 or 60."""

    host: str
    port: int
    codec: rtp.Codec = "PCMU"
    payload_type: int = 0
    ptime_ms: int = 20


class PushState(enum.Enum):
    """STREAMING comes first; the others are ends."""

    STREAMING = "streaming"
    DONE = "done"
    STOPPED = "stopped"
    FAILED = "failed"


def check_destination(host: str, networks: Sequence[Network]) -> IpAddress:
    """The one host in one of `networks` that the IP address `host` leads to.

    Raises ForbiddenDestination when there is none, and ValueError when `host` is no IP address.
    """
    address = ipaddress.ip_address(host)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        # RFC 4291 section 2.5.5.2: the packets would be IPv4.
        address = address.ipv4_mapped
    if address.is_multicast or address.is_unspecified or address == LIMITED_BROADCAST:
        raise ForbiddenDestination(f"{address} is not the address of one host")
    homes = [network for network in networks if address in network]
    if not homes:
        raise ForbiddenDestination(f"{address} is in none of the networks that this server may send to")
    # RFC 3021: a network of two addresses has no broadcast address, and neither has IPv6.
    if any(address == home.broadcast_address for home in homes if home.version == 4 and home.prefixlen < 31):
        raise ForbiddenDestination(f"{address} is the broadcast address of a network")
    return address


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of a push; `failure` is a sentence for whoever asked for it."""

    id: str
    state: PushState
    failure: str | None
    created_at: datetime
    destination: Destination
    ssrc: int
    local_port: int
    counters: rtp.StreamCounters


class Push:
    """One stream of speech, alive from when it is made to the last word, or to `cancel`.

    task   does the work, and ends when the stream is gone from the wire
    begun  is done when the first sound is there, or when none is to come; its exception is that of speech that never
           began
    """

    def __init__(
        self, stream: rtp.Stream, destination: Destination, *, speech: Speech, utterance: engines.Utterance
    ) -> None:
        self.id = secrets.token_hex(12)
        self.begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._created_at = datetime.now(UTC)
        self._destination = destination
        self._stream = stream
        self._state = PushState.STREAMING
        self._failure: str | None = None
        self.task = asyncio.create_task(self._run(speech, utterance), name=f"push {self.id}")

    def facts(self) -> Facts:
        """Final once `task` is done."""
        return Facts(
            id=self.id,
            state=self._state,
            failure=self._failure,
            created_at=self._created_at,
            destination=self._destination,
            ssrc=self._stream.ssrc,
            local_port=self._stream.port,
            counters=self._stream.counters(),
        )

    def cancel(self) -> None:
        """Send nothing more from the plane's next tick on."""
        if self._state is PushState.STREAMING:
            # At once, and not when the engine has been told and the task has come round to it.
            self._stream.close()
            self.task.cancel()

    async def _run(self, speech: Speech, utterance: engines.Utterance) -> None:
        broken: Exception | None = None
        try:
            async with self._stream:
                self._connect()
                try:
                    await speech.say(utterance, self._stream, begin=self._begin)
                except engines.EngineError as error:
                    broken = error
                await self._stream.drained()  # what there is of speech that broke off is heard, too
            self._state = PushState.DONE if broken is None else PushState.FAILED
        except (asyncio.CancelledError, rtp.StreamClosed):
            self._state = PushState.STOPPED
        except Exception as error:
            broken = error
            self._state = PushState.FAILED
        if broken is not None and not self.begun.done():
            self.begun.set_exception(broken)
        elif self._state is PushState.FAILED:
            self._failure = "The speech broke off. The server's log knows this push by its id."
            log.error("push failed", push=self.id, exc_info=broken)
        elif not self.begun.done():
            self.begun.set_result(None)
        await self._stream.wait_closed()

    def _connect(self) -> None:
        to = self._destination
        self._stream.connect(
            host=to.host,
            port=to.port,
            codec=to.codec,
            payload_type=to.payload_type,
            ptime_ms=to.ptime_ms,
            latch=False,
            media_timeout_s=0,
        )

    def _begin(self) -> None:
        self._stream.start()
        if not self.begun.done():
            self.begun.set_result(None)


class Memory:
    """What is known of pushes that have ended: so many, the latest, and each for so long."""

    def __init__(self, *, seconds: float = REMEMBERED_S, count: int = REMEMBERED) -> None:
        self._seconds = seconds
        self._count = count
        self._ended: dict[str, tuple[float, Facts]] = {}  # until when, in the order in which they ended

    def keep(self, facts: Facts, now_s: float) -> None:
        self._ended[facts.id] = (now_s + self._seconds, facts)
        self._forget(now_s)

    def find(self, id: str, now_s: float) -> Facts | None:
        self._forget(now_s)
        return self._ended[id][1] if id in self._ended else None

    def all(self, now_s: float) -> list[Facts]:
        self._forget(now_s)
        return [facts for _, facts in self._ended.values()]

    def _forget(self, now_s: float) -> None:
        while self._ended:
            first = next(iter(self._ended))
            if len(self._ended) <= self._count and self._ended[first][0] > now_s:
                return
            del self._ended[first]


class Pushes:
    """The pushes that are alive, and those that were until lately. An async context manager; leaving it stops all.

    host        that the endpoint is bound to
    networks    that may be sent to
    max_pushes  that may be alive at a time
    """

    def __init__(
        self,
        endpoint: rtp.Endpoint,
        speech: Speech,
        metrics: Metrics,
        *,
        host: str,
        networks: Sequence[Network],
        max_pushes: int,
        memory: Memory | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._speech = speech
        self._metrics = metrics
        self._host = host
        self._networks = networks
        self._max_pushes = max_pushes
        self._draining = False
        self._memory = memory or Memory()
        self._alive: dict[str, Push] = {}

    async def __aenter__(self) -> Pushes:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._draining = True
        for push in self._alive.values():
            push.cancel()
        await asyncio.gather(*(push.task for push in self._alive.values()))

    def __len__(self) -> int:
        """How many are alive."""
        return len(self._alive)

    async def open(
        self,
        utterance: engines.Utterance,
        destination: Destination,
        *,
        ssrc: int | None = None,
        local_port: int | None = None,
    ) -> Facts:
        """Begin to send; returns when the first sound is there. Cancelling it leaves nothing behind.

        ssrc        at random when left out
        local_port  even, and the one after it is for RTCP; out of the endpoint's range when left out

        Raises PushError, rtp.PortsExhausted, and engines.EngineError when the speech does not begin.
        """
        utterance = await self._speech.prepare(utterance)
        address = check_destination(destination.host, self._networks)
        self._check_route(address, destination.port)
        if self._draining:
            raise TooManyPushes("the server is about to stop, and begins nothing new")
        if len(self._alive) >= self._max_pushes:
            raise TooManyPushes(f"{self._max_pushes} streams are being sent, and no more may be")
        try:
            stream = self._endpoint.open(port=local_port, ssrc=ssrc)
        except OSError as error:
            if local_port is None or error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            raise LocalPortTaken(f"port {local_port} or {local_port + 1} cannot be had: {error.strerror}") from error
        push = Push(stream, replace(destination, host=str(address)), speech=self._speech, utterance=utterance)
        self._alive[push.id] = push
        self._metrics.pushes_active.inc()
        push.task.add_done_callback(lambda _: self._retire(push))
        try:
            await push.begun
        except asyncio.CancelledError:
            push.cancel()
            raise
        log.info(
            "push began",
            push=push.id,
            to=f"{address} port {destination.port}",
            codec=destination.codec,
            ssrc=stream.ssrc,
            local_port=stream.port,
        )
        return push.facts()

    async def drain(self) -> None:
        """Begin no more, and return when all that there are have ended."""
        self._draining = True
        while self._alive:
            await asyncio.wait([push.task for push in self._alive.values()])

    def find(self, id: str) -> Facts | None:
        """What is known of a push; None when nothing is, or no more."""
        push = self._alive.get(id)
        return self._memory.find(id, time.monotonic()) if push is None else push.facts()

    def all(self) -> list[Facts]:
        """What is known of all pushes: first those that have ended."""
        return [*self._memory.all(time.monotonic()), *(push.facts() for push in self._alive.values())]

    async def stop(self, id: str) -> bool:
        """Stop a push, unless it has ended, and wait until it is gone from the wire; whether it was known."""
        push = self._alive.get(id)
        if push is None:
            return self.find(id) is not None
        push.cancel()
        await asyncio.wait([push.task])
        return True

    def _check_route(self, address: IpAddress, port: int) -> None:
        """Raise UnreachableDestination if the kernel knows that nothing would get there. Sends nothing."""
        family, target = (socket.AF_INET6 if ":" in self._host else socket.AF_INET), str(address)
        if family == socket.AF_INET and address.version == 6:
            raise UnreachableDestination(f"{address} is an IPv6 address, and this server sends from {self._host} only")
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
                target = target if address.version == 6 else f"::ffff:{target}"
            try:
                probe.bind((self._host, 0))
                probe.connect((target, port))
            except OSError as error:
                raise UnreachableDestination(f"nothing gets from here to {address}: {error.strerror}") from error

    def _retire(self, push: Push) -> None:
        del self._alive[push.id]
        self._metrics.pushes_active.dec()
        if push.begun.cancelled() or push.begun.exception():  # whoever asked has been told, or has gone
            return
        facts = push.facts()
        self._memory.keep(facts, time.monotonic())
        self._metrics.pushes.labels(facts.state.value).inc()
        log.info(
            "push ended",
            push=facts.id,
            state=facts.state.value,
            packets_sent=facts.counters.packets_sent,
            speech_frames=facts.counters.speech_frames,
            underruns=facts.counters.underruns,
        )
