"""A telephone for the command line: places one call with our own SIP and RTP, listens, and tells what it heard."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import rtp
import sip
from mediaserver.media import Media

__all__ = ["GOODBYE_S", "LONGEST_FIELD_BYTES", "CallError", "Order", "Outcome", "call", "one_line"]

# Of UTF-8: with it the INVITE is far from the limits of a datagram and of a line of its header.
LONGEST_FIELD_BYTES = 8000

# The dynamic ports of RFC 6335: below them are those of servers.
PORTS = range(49152, 65536)
RING_S = 30.0
GOODBYE_S = 2.0
LISTEN_TAIL_S = 0.2
PROGRESS_S = 0.1
LEVELS = " ▁▂▃▄▅▆▇█"
CONTROL_CHARACTERS = dict.fromkeys((*range(0x20), *range(0x7F, 0xA0)), " ")
# What is called without a scheme: [user@]host[:port][;parameters]. "localhost:5060" has the form of another URI, but
# none that can be called has only a port behind its colon.
NO_SCHEME = re.compile(r"(?!(?:sips?|tel):)(?:[^:@]+@)?(?:[\w.-]+|\[[^]]*\])(?::\d{1,5})?(?:[;?].*)?", re.IGNORECASE)


class CallError(Exception):
    """The call cannot even be placed; the message says what to change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to call and how; see `mediaserver call --help`."""

    uri: str
    text: str | None = None
    voice: str | None = None
    language: str | None = None
    seconds: float = 60.0
    codec: str = "PCMU"
    ca: Path | None = None

    def headers(self) -> tuple[tuple[str, str], ...]:
        """The header fields that ask for speech."""
        wanted = (("X-Speak", self.text), ("X-Speaker", self.voice), ("X-Language", self.language))
        return tuple((name, one_line(value)) for name, value in wanted if value)


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

    def summary(self) -> str:
        """A few lines for a person."""
        if not self.answered or self.counters is None:
            hint = (
                "\nNo SIP server answers there. Is it running, and are port, transport and certificate right?"
                * self.unreachable
            )
            return f"Not answered: {self.status} {self.reason}{hint}"
        seen = self.counters
        return (
            f"Answered after {self.setup_ms:.0f} ms, {self.seconds:.1f} s long, {self.ended_by}.\n"
            f"Received {seen.packets_received} packets, {seen.lost} lost, jitter {seen.jitter_ms:.1f} ms, "
            f"level {level_dbfs(self.heard):.0f} dBFS."
        )


def one_line(text: str) -> str:
    """`text` as a header field holds it: line breaks, control characters and runs of space are one space each."""
    return " ".join(text.translate(CONTROL_CHARACTERS).split())


def level_dbfs(samples: bytes) -> float:
    """Root mean square of 16-bit samples relative to full scale, never below -96 dBFS."""
    values = np.frombuffer(samples, np.int16).astype(np.float64)
    mean = float(np.mean(values**2)) if values.size else 0.0
    return max(-96.0, 10 * math.log10(mean / 32768**2)) if mean else -96.0


async def call(
    order: Order, *, progress: Callable[[str], None] | None = None, hang_up: asyncio.Future[None] | None = None
) -> Outcome:
    """Place the call, listen until it ends or `order.seconds` are over, and say how it went.

    progress  takes a line for the terminal, ten times a second
    hang_up   once it is done the call is ended, or given up, and is over within GOODBYE_S whatever the peer does

    Raises CallError when the URI cannot be called, OSError when there is no socket to call from.
    """
    target, places = await _locate(order.uri)
    hang_up = hang_up or asyncio.get_running_loop().create_future()
    events: asyncio.Queue[sip.Event] = asyncio.Queue()
    agent = sip.Agent(random=random.SystemRandom(), product="mediaserver-call")
    # It has one line: who calls it meanwhile hears that it is busy.
    agent.admit = lambda request, flow, now: sip.Admission(status=486)
    # Media are of the family of the first place, and so is wherever else the call may go.
    sixth = ":" in places[0].host
    everywhere = "::" if sixth else "0.0.0.0"
    async with (
        _opened(agent, everywhere, events, order.ca) as transport,
        rtp.Endpoint(host=everywhere, ports=PORTS, realtime=False) as endpoint,
    ):
        flow, *others = (
            transport.flow_to(host, port, by, target.host) for by, host, port in places if (":" in host) is sixth
        )
        first = order.codec
        media = Media(endpoint, host=flow.local[0], codecs=(first, "PCMA" if first == "PCMU" else "PCMU"))
        try:
            line = _Line(order, transport, media, events)
            async with asyncio.TaskGroup() as tasks:
                watching = tasks.create_task(line.watch(progress)) if progress else None
                media.ear.listen(line.hear)
                await line.converse(target, flow, others, hang_up)
                await line.part()
                if watching is not None:
                    watching.cancel()
            return line.outcome()
        finally:
            media.close()


@contextlib.asynccontextmanager
async def _opened(
    agent: sip.Agent, host: str, events: asyncio.Queue[sip.Event], ca: Path | None
) -> AsyncIterator[sip.Transport]:
    try:
        async with sip.Transport.open(agent, [(host, 0)], deliver=events.put_nowait, tls=sip.Tls(ca=ca)) as transport:
            yield transport
    except sip.TlsError as error:
        raise CallError(str(error)) from error


async def _locate(text: str) -> tuple[sip.Uri, tuple[sip.Target, ...]]:
    try:
        uri = sip.Uri.parse(f"sip:{text}" if NO_SCHEME.fullmatch(text) else text)
    except sip.SipError as error:
        raise CallError(f"{text!r} is not a SIP URI such as sip:user@host:5060: {error}") from error
    try:
        return uri, await sip.Resolver(random=random.SystemRandom()).locate(uri)
    except sip.SipError as error:
        raise CallError(str(error)) from error


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
        self.leave_by: float | None = None
        self.placed_at = time.monotonic()
        self.answered_at: float | None = None
        self.ended_at = 0.0

    async def converse(
        self, target: sip.Uri, flow: sip.Flow, others: Sequence[sip.Flow], hang_up: asyncio.Future[None]
    ) -> None:
        """From the INVITE to the end; no INVITE if `hang_up` was quicker than finding the host."""
        if hang_up.done():
            self.ended = self._given_up("")
            return
        host = f"[{flow.local[0]}]" if ":" in flow.local[0] else flow.local[0]
        me = sip.NameAddr(uri=sip.Uri.parse(f"sip:softphone@{host}"))
        key = self.transport.invite(
            target,
            flow,
            others=others,
            from_=me,
            body=self.media.offer(),
            headers=self.order.headers(),
            ring_timeout_s=RING_S,
        )
        hang_up.add_done_callback(lambda _: self._hang_up(key))
        enough: asyncio.TimerHandle | None = None
        while self.ended is None:
            event = await self.events.get()
            # A 408, or 503, without any response before it is our own (RFC 3261 section 8.1.3.1).
            lost = isinstance(event, sip.Ended) and (event.cause is sip.Cause.LOST or event.status in (408, None))
            self.responded |= not lost
            match event:
                case sip.Progressed(response=response):
                    self.state = "ringing"
                    if response.body and self.media.audio is None:
                        self._take_up(response)
                case sip.Answered(response=response):
                    self.answered_at = time.monotonic()
                    self.state = "answered"
                    # RFC 3262 section 5: the answer may have come before, in a provisional response.
                    early = self.media.audio is not None and not response.body
                    if self.leave_by is not None or not (early or self._take_up(response)):
                        self._hang_up(key)
                    else:
                        enough = asyncio.get_running_loop().call_later(self.order.seconds, self._hang_up, key)
                case sip.Reoffered(request=request):
                    self._renegotiate(key, request)
                case sip.Ended() as ended:
                    self.ended = ended
        if enough is not None:
            enough.cancel()
        self.ended_at = time.monotonic()
        self.state = "ended"

    async def part(self) -> None:
        """Hear what is still on the way, and let a BYE that was lost be sent again."""
        await asyncio.sleep(LISTEN_TAIL_S)
        while self.transport.agent.counters().dialogs and time.monotonic() < (self.leave_by or 0.0):  # noqa: ASYNC110
            await asyncio.sleep(LISTEN_TAIL_S)

    def _hang_up(self, key: str) -> None:
        if self.ended is not None:
            return
        self.state = "leaving"
        self.leave_by = time.monotonic() + GOODBYE_S
        # A peer that does not respond to that cannot keep us.
        asyncio.get_running_loop().call_later(GOODBYE_S, self.events.put_nowait, self._given_up(key))
        # Where the call has gone on already, the event that says so is in the queue: the end, or the answer, after
        # which `converse` comes here again.
        with contextlib.suppress(sip.LocalProtocolError):
            if self.answered_at is None:
                self.transport.cancel(key)
            else:
                self.transport.bye(key)

    def _given_up(self, key: str) -> sip.Ended:
        cause = sip.Cause.LOCAL_CANCEL if self.answered_at is None else sip.Cause.LOCAL_BYE
        return sip.Ended(call=key, cause=cause, status=None, reason="")

    def _take_up(self, response: sip.Response) -> bool:
        try:
            self.media.accept(response.body)
        except sip.RemoteProtocolError as error:
            self.state = f"no usable media: {error.reason}"
            return False
        self.media.start()
        return True

    def _renegotiate(self, key: str, request: sip.Request) -> None:
        # If the call has gone on already, there is nothing to answer any more.
        with contextlib.suppress(sip.LocalProtocolError):
            try:
                answer = self.media.answer(request.body) if request.body else self.media.offer()
            except sip.RemoteProtocolError as error:
                self.transport.reject(key, status=error.status, reason=error.reason, headers=error.headers)
            else:
                self.transport.answer(key, body=answer)

    def hear(self, frame: rtp.Frame) -> None:
        self.frame = frame.samples
        self.heard += frame.samples

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
        # RFC 3261 section 21: what the peer would have said, had it responded.
        silent = 487 if self.ended.cause is sip.Cause.LOCAL_CANCEL else 408
        return Outcome(
            answered=answered_at is not None,
            unreachable=not self.responded,
            status=self.ended.status or (200 if answered_at is not None else silent),
            reason=self.ended.reason or self.ended.cause.value,
            ended_by=self.ended.cause.value,
            setup_ms=((answered_at or self.placed_at) - self.placed_at) * 1000,
            seconds=self.ended_at - (answered_at or self.ended_at),
            counters=self.media.stream.counters(),
            heard=bytes(self.heard),
        )
