"""Streams on UDP ports: the shell around the compiled plane.

    async with Endpoint(ports=range(20000, 30000)) as endpoint:
        stream = endpoint.open(deliver=print)
        stream.connect(host="192.0.2.10", port=4000, codec="PCMU", payload_type=0)
        stream.start()
        await stream.write(samples, 8000)
        stream.end()
        await stream.drained()
        stream.close()

A stream sends a packet in every ptime from `start` on: speech while something written is there, silence otherwise.
`write` waits for room, so whoever writes is driven by the line. What the plane notices comes to the event loop in
batches, and RTCP is composed and read here (session.RtcpSchedule); pacing depends on neither.

Everything here belongs to one event loop and is not thread-safe.
"""

from __future__ import annotations

import asyncio
import errno
import random
import secrets
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, NamedTuple, Self

from . import dtmf, quality
from ._dsp import Resampler, encode
from ._plane import LATENESS_BOUNDS_US, Line, Plane
from .g711 import ALAW_SILENCE, MULAW_SILENCE, RATE_HZ
from .packet import LocalProtocolError, RemoteProtocolError, RtpError
from .session import Heard, Latched, MediaTimeout, RtcpSchedule, Sent

__all__ = [
    "Clip",
    "Codec",
    "Digit",
    "DigitBegun",
    "Endpoint",
    "EndpointCounters",
    "Frame",
    "Latched",
    "MediaTimeout",
    "PortsExhausted",
    "RemoteBye",
    "Stream",
    "StreamClosed",
    "StreamCounters",
    "StreamEvent",
    "Transform",
]

Codec = Literal["PCMU", "PCMA"]

_EXPEDITED = 46 << 2  # DSCP EF in the traffic class octet (RFC 3246), which telephony expects (RFC 4594 section 4.1)
_SLICE_MS = 1000  # how much audio is encoded before the ring is offered it
_BLOCK = RATE_HZ // 100  # octets of G.711 in 10 ms: the unit of the plane's rings
_SILENCES: dict[Codec, bytes] = {"PCMU": bytes((MULAW_SILENCE,)), "PCMA": bytes((ALAW_SILENCE,))}
_EPHEMERAL_ATTEMPTS = 64
_NS_PER_S = 1_000_000_000


class PortsExhausted(RtpError):
    """Every port pair is in use or in quarantine, or the process has no file descriptor left."""


class StreamClosed(RtpError):
    """The stream was closed."""


Digit = dtmf.Digit


class Clip:
    """Speech that is kept to be played, to any number of streams at a time: encoded once, in both laws.

    samples  signed 16-bit mono in native byte order, of `rate_hz`

    It is an utterance, filled up with silence to whole 10 ms. Raises LocalProtocolError for half a sample, and for a
    rate that is not in 4000..192000.
    """

    __slots__ = ("__weakref__", "_codes", "duration_ms")

    def __init__(self, samples: bytes | bytearray | memoryview, rate_hz: int) -> None:
        pcm: bytes | bytearray | memoryview = samples
        if rate_hz != RATE_HZ:
            resampler = Resampler(rate_hz, RATE_HZ)
            pcm = resampler.feed(samples) + resampler.finish()
        self._codes: dict[Codec, bytes] = {}
        for codec, silence in _SILENCES.items():
            codes = encode(pcm, codec)
            self._codes[codec] = codes + silence * (-len(codes) % _BLOCK)
        self.duration_ms = len(self._codes["PCMU"]) // (RATE_HZ // 1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteBye:
    """The peer said goodbye by RTCP (RFC 3550 section 6.6)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DigitBegun:
    """A key is being pressed; Digit tells which one it was when it is let go."""


StreamEvent = DigitBegun | Digit | Latched | MediaTimeout | RemoteBye


class Frame(NamedTuple):
    """Some ms of audio: signed 16-bit mono in native byte order, of 8000 Hz.

    at_ns  time.monotonic_ns() of its first sample, on one grid of 125 us for what is heard and what is said. What was
           heard began when it was sent, had it travelled in no time.
    """

    at_ns: int
    samples: bytes


def _unchanged(data: bytes) -> bytes:
    return data


@dataclass(frozen=True, slots=True, kw_only=True)
class Transform:
    """What packets go through on the wire's side, such as SRTP (RFC 3711): the plane's own threads call the first two.

    protect_rtp, unprotect_rtp    addresses of C functions `int (void *context, void *packet, int *length)`, which
                                  change a packet in place, 0 being success (libsrtp's signature); 0 for none. The
                                  first may append up to 144 octets
    context                       address of what they are given
    protect_rtcp, unprotect_rtcp  the same for RTCP; the latter raises RemoteProtocolError
    keep                          whatever must live as long as these addresses are used
    """

    protect_rtp: int = 0
    unprotect_rtp: int = 0
    context: int = 0
    protect_rtcp: Callable[[bytes], bytes] = _unchanged
    unprotect_rtcp: Callable[[bytes], bytes] = _unchanged
    keep: object = None


_PLAIN = Transform()


class _Signalled(NamedTuple):
    """The host of the SDP's media, and where it wants RTCP."""

    host: str
    rtcp: tuple[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What was done and seen, on a stream or on all that there were.

    packets_sent      all of them; octets_sent are of their payload (RFC 3550 section 6.4.1)
    speech_frames     slots of speech, sent or not (send_*); likewise silence (nothing was being said), underrun
                      (silence in the place of speech that was late) and event (RFC 4733)
    underruns         how often speech was late, however many frames it took each time
    skipped_frames    slots that passed without a packet because the plane itself was late
    played_ms         how much of what was written has had its slots
    send_blocked      packets that a full socket buffer refused
    send_refused      ICMP errors that came back
    send_failed       packets that could not be sent for any other reason
    packets_received  of the peer, accepted; octets_received are of their payload
    lost              of the peer's packets, by their sequence; negative when repeats outnumber losses
    reordered, duplicates, invalid, strangers, probation, sources   as in session.Received; once the source is certain
                      the kernel keeps strangers out, and they are not counted any more
    receive_errors    of the sockets, ICMP errors apart
    notices_dropped   telephone events and RTCP that came in too fast: more than 200 of either in a second
    audio_dropped     frames of the peer's audio that nobody took in time
    """

    packets_sent: int
    octets_sent: int
    speech_frames: int
    silence_frames: int
    underrun_frames: int
    event_frames: int
    underruns: int
    skipped_frames: int
    played_ms: int
    send_blocked: int
    send_refused: int
    send_failed: int
    packets_received: int
    octets_received: int
    lost: int
    reordered: int
    duplicates: int
    invalid: int
    strangers: int
    probation: int
    sources: int
    receive_errors: int
    notices_dropped: int
    audio_dropped: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamCounters(Counts):
    """A stream's counts and what follows from them.

    jitter_ms  interarrival jitter of the peer's packets (RFC 3550 appendix A.8)
    rtt_ms     round-trip time by RTCP; None while the peer has not told
    peer_lost  packets of ours that the peer says it missed; None while it has not told
    mos        of our speech at the peer, estimated (quality.py); None while the peer has not told
    """

    jitter_ms: float
    rtt_ms: float | None
    peer_lost: int | None
    mos: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointCounters(Counts):
    """The counts of all streams that there were, and how the plane does.

    realtime         SCHED_FIFO was granted
    streams          open now
    ports_free       port pairs that `open` may take now
    late_ticks       ticks of 1 ms that began late by 1 ms or more
    lateness_us      bounds of the histogram of how late slots were served, in microseconds
    lateness_counts  served within each bound but not within the one before; one more for those beyond the last
    lateness_sum_s   of all slots; lateness_max_s: the worst one
    """

    realtime: bool
    streams: int
    ports_free: int
    late_ticks: int
    lateness_us: tuple[int, ...]
    lateness_counts: tuple[int, ...]
    lateness_sum_s: float
    lateness_max_s: float


@contextmanager
def _saying_what_lacks() -> Iterator[None]:
    """Say what is lacking when the system has nothing left for another socket."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise PortsExhausted("no file descriptor is left for an RTP port: raise the limit (ulimit -n)") from error
        if error.errno in (errno.ENOBUFS, errno.ENOMEM):
            raise PortsExhausted("the kernel has no memory left for an RTP port") from error
        raise


class _Ports:
    """Pairs of an even port for RTP and the odd one after it for RTCP (RFC 3550 section 11), bound on one host."""

    def __init__(self, host: str, ports: range, quarantine_s: float) -> None:
        self._host = host
        self.family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._quarantine_s = quarantine_s
        # In random order, so that the next stream's port cannot be told from the last one's.
        free = [port for port in ports if port % 2 == 0 and port + 1 in ports]
        random.SystemRandom().shuffle(free)
        self._free = deque(free)
        self._taken: set[int] = set()
        self._resting: deque[tuple[float, int]] = deque()  # (until, port)

    def free(self, now_s: float) -> int:
        while self._resting and self._resting[0][0] <= now_s:
            self._free.append(self._resting.popleft()[1])
        return len(self._free)

    def take(self, now_s: float) -> tuple[int, socket.socket, socket.socket]:
        """The next pair that can be bound. Raises PortsExhausted."""
        for _ in range(self.free(now_s)):
            port = self._free.popleft()
            try:
                pair = self.bind(port)
            except OSError as error:
                self._free.append(port)
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                self._taken.add(port)
                return port, *pair
        raise PortsExhausted(f"no RTP port pair is free: all are in use, or rest for {self._quarantine_s:g} s after it")

    def take_any(self) -> tuple[int, socket.socket, socket.socket]:
        """A pair that the system chooses, outside of the range."""
        for _ in range(_EPHEMERAL_ATTEMPTS):
            with socket.socket(self.family, socket.SOCK_DGRAM) as probe:
                probe.bind((self._host, 0))
                port = probe.getsockname()[1] & ~1
            try:
                return port, *self.bind(port)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
        raise PortsExhausted("the system has no pair of neighbouring ports left")

    def bind(self, port: int) -> tuple[socket.socket, socket.socket]:
        rtp = self._socket(port)
        try:
            return rtp, self._socket(port + 1)
        except OSError:
            rtp.close()
            raise

    def second(self, first: socket.socket) -> socket.socket:
        """Another socket on the port of `first`."""
        port = first.getsockname()[1]
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            return self._socket(port, beside=True)
        finally:  # nobody else is to share the port
            first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)

    def give_back(self, port: int, now_s: float, *, used: bool) -> None:
        """Take a port back; one that a peer was told of rests first: packets for it may still be on their way."""
        if port in self._taken:
            self._taken.remove(port)
            if used:
                self._resting.append((now_s + self._quarantine_s, port))
            else:
                self._free.append(port)

    def _socket(self, port: int, *, beside: bool = False) -> socket.socket:
        """A socket on `port`, on which there may be another one if that allows it too."""
        made = socket.socket(self.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            if beside:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if self.family == socket.AF_INET6:
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, _EXPEDITED)
            made.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, _EXPEDITED)
            made.bind((self._host, port))
        except OSError:
            made.close()
            raise
        return made


class Endpoint:
    """The plane and the streams on it. An async context manager; leaving it closes every stream.

    host             address to bind, IPv4 or IPv6 ("::" serves both)
    ports            an RTP port is even, and the odd one after it, in the range too, is its RTCP port
    start_ms         how much of an utterance is buffered before it is heard: the jitter of the writer that is absorbed
    ring_ms          how much a stream buffers at most, 120 to 60000
    threads          of the plane at most: one more begins to serve with each 1,000 streams, and can serve some 2,000
    quarantine_s     how long a port rests between two streams
    media_timeout_s  without a packet of the peer, after which MediaTimeout is reported; 0 for never
    realtime         ask for SCHED_FIFO; EndpointCounters says whether it was granted
    """

    def __init__(
        self,
        *,
        host: str = "0.0.0.0",
        ports: range,
        start_ms: int = 300,
        ring_ms: int = 1000,
        threads: int = 1,
        quarantine_s: float = 5.0,
        media_timeout_s: float = 0.0,
        realtime: bool = True,
    ) -> None:
        if threads < 1:
            raise LocalProtocolError(f"{threads} threads cannot serve a stream")
        self._ports = _Ports(host, ports, quarantine_s)
        self._media_timeout_s = media_timeout_s
        self._plane = Plane(threads=threads, start_ms=start_ms, ring_ms=ring_ms, realtime=realtime)
        self._streams: dict[int, Stream] = {}

    async def __aenter__(self) -> Self:
        asyncio.get_running_loop().add_reader(self._plane.fileno(), self._take_notices)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for stream in self._streams.values():
            stream.close()
        asyncio.get_running_loop().remove_reader(self._plane.fileno())
        self._plane.close()
        for stream in self._streams.values():
            stream._release()
        self._streams.clear()

    def open(
        self,
        deliver: Callable[[StreamEvent], None] | None = None,
        *,
        port: int | None = None,
        ssrc: int | None = None,
    ) -> Stream:
        """A stream on a port pair of the range, or on `port` and the one after it (0: any pair that the system has).

        deliver  is called in the event loop with each event of the stream
        ssrc     at random when left out, as it should be (RFC 3550 section 8.1)

        Raises PortsExhausted, OSError when `port` cannot be bound, and LocalProtocolError when it is odd, `ssrc` has
        more than 32 bits, or the endpoint was left.
        """
        if ssrc is None:
            ssrc = secrets.randbits(32)
        elif not 0 <= ssrc < 1 << 32:
            raise LocalProtocolError(f"SSRC {ssrc} is not in 0..4294967295")
        if port is not None and port % 2:
            raise LocalProtocolError(f"RTP port {port} is odd: RTP takes the even port of a pair")
        now_s = time.monotonic()
        with _saying_what_lacks():
            if port is None:
                number, rtp, rtcp = self._ports.take(now_s)
            elif port == 0:
                number, rtp, rtcp = self._ports.take_any()
            else:
                number, (rtp, rtcp) = port, self._ports.bind(port)
        try:
            line = self._plane.open(
                fd=rtp.fileno(),
                rtcp_fd=rtcp.fileno(),
                ipv6=self._ports.family == socket.AF_INET6,
                ssrc=ssrc,
                # RFC 3550 section 5.1: sequence number and timestamp begin at random.
                sequence=secrets.randbits(16),
                timestamp=secrets.randbits(32),
            )
        except (OSError, MemoryError, LocalProtocolError):
            rtp.close()
            rtcp.close()
            self._ports.give_back(number, now_s, used=False)
            raise
        stream = Stream(
            line,
            ports=self._ports,
            rtp=rtp,
            rtcp=rtcp,
            port=number,
            ssrc=ssrc,
            deliver=deliver,
            media_timeout_s=self._media_timeout_s,
        )
        self._streams[line.id] = stream
        return stream

    def counters(self) -> EndpointCounters:
        lateness, sum_ns, max_ns, late_ticks = self._plane.lateness()
        return EndpointCounters(
            realtime=self._plane.realtime,
            streams=sum(not stream.closed for stream in self._streams.values()),
            ports_free=self._ports.free(time.monotonic()),
            late_ticks=late_ticks,
            lateness_us=LATENESS_BOUNDS_US,
            lateness_counts=tuple(lateness),
            lateness_sum_s=sum_ns / _NS_PER_S,
            lateness_max_s=max_ns / _NS_PER_S,
            **self._plane.counters(),
        )

    def _take_notices(self) -> None:
        for what, line, number, time_ns, address, data in self._plane.notices():
            stream = self._streams[line]
            match what:
                case "room":
                    stream._take_room()
                case "drained":
                    stream._find_end()
                case "audio":
                    stream._take_audio()
                case "latched":
                    stream._take_latched(*address)
                case "timed_out":
                    stream._deliver(MediaTimeout(silent_ms=number))
                case "telephone_event":
                    stream._take_telephone_event(data, number >> 32, number & 0xFFFFFFFF, time_ns)
                case "rtcp":
                    stream._take_rtcp(data, address, time_ns)
                case "transformed":
                    stream._transforms.popleft()
                case "removed":
                    stream._release()
                    self._ports.give_back(stream.port, time.monotonic(), used=stream.connected)
                    del self._streams[line]


class Stream:
    """One RTP stream and its RTCP, made by `Endpoint.open`. An async context manager; leaving it closes the stream.

    After `close` everything but `close`, `wait_closed` and `counters` raises StreamClosed.
    """

    __slots__ = (
        "_alaw",
        "_deliver_audio",
        "_deliver_event",
        "_deliver_said",
        "_detector",
        "_detector_timer",
        "_drain_waiters",
        "_flushes",
        "_gone",
        "_invalid_rtcp",
        "_line",
        "_loop",
        "_media_timeout_s",
        "_mux",
        "_ports",
        "_ptime_ms",
        "_report_timer",
        "_reports",
        "_resampler",
        "_room",
        "_rtcp",
        "_rtcp_target",
        "_rtp",
        "_signalled",
        "_sources",
        "_started",
        "_telephone_event",
        "_transforms",
        "_unwritten_ms",
        "closed",
        "port",
        "ssrc",
    )

    def __init__(
        self,
        line: Line,
        *,
        ports: _Ports,
        rtp: socket.socket,
        rtcp: socket.socket,
        port: int,
        ssrc: int,
        deliver: Callable[[StreamEvent], None] | None,
        media_timeout_s: float,
    ) -> None:
        now_ns = time.monotonic_ns()
        self.port = port
        self.ssrc = ssrc
        self.closed = False
        self._line = line
        self._ports = ports
        self._loop = asyncio.get_running_loop()
        self._rtp = rtp
        self._rtcp = rtcp
        self._deliver_event = deliver
        self._media_timeout_s = media_timeout_s
        self._alaw = False
        self._ptime_ms = 20
        self._telephone_event: int | None = None
        self._mux = False
        self._signalled: _Signalled | None = None
        self._rtcp_target: tuple[str, int] | None = None
        self._started = False
        self._resampler: Resampler | None = None
        self._room: asyncio.Future[None] | None = None
        self._deliver_audio: Callable[[Frame], None] | None = None
        self._deliver_said: Callable[[Frame], None] | None = None
        self._drain_waiters: list[asyncio.Future[None]] = []
        self._flushes = 0
        self._gone: asyncio.Future[None] = self._loop.create_future()
        self._unwritten_ms = 0.0
        self._sources = 0
        self._detector: dtmf.Detector | None = None
        self._detector_timer: asyncio.TimerHandle | None = None
        self._transforms: deque[Transform] = deque((_PLAIN,))
        self._invalid_rtcp = 0
        self._report_timer: asyncio.TimerHandle | None = None
        # RFC 7022: a CNAME that says nothing about whose it is.
        self._reports = RtcpSchedule(
            ssrc=ssrc, cname=secrets.token_urlsafe(12), now_ns=now_ns, unix_ns=time.time_ns(), random=random.random
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def connect(
        self,
        *,
        host: str,
        port: int,
        codec: Codec,
        payload_type: int,
        ptime_ms: int = 20,
        telephone_event: int | None = None,
        telephone_event_received: int | None = None,
        comfort_noise: int | None = None,
        rtcp_port: int | None = None,
        rtcp_host: str | None = None,
        rtcp_mux: bool = False,
        latch: bool = True,
        media_timeout_s: float | None = None,
    ) -> None:
        """Agree with the peer on addresses and payload types; anew by a re-INVITE.

        SSRC, sequence and timestamp go on then, what is in the ring is turned into the new codec, digits being sent are
        dropped if the ptime or the payload type of events changes, and the latch opens: the first source of three
        consecutive packets becomes where packets go.

        host, port       of the peer's SDP, an IP literal
        ptime_ms         10, 20, 30, 40 or 60
        telephone_event  payload type of RFC 4733 events that are sent; None for none
        telephone_event_received  of those that come, as `telephone_event` when left out (an answer may renumber it)
        comfort_noise    payload type of RFC 3389 beside the static 13; accepted, not sent
        rtcp_port        where the peer wants RTCP (RFC 3605); the port after `port` when left out
        rtcp_host        likewise, an IP literal; `host` when left out
        rtcp_mux         RTCP on the RTP port (RFC 5761)
        latch            false: send to host and port whatever comes, and accept packets from there alone
        media_timeout_s  as of the endpoint when left out; 0 for never

        Raises LocalProtocolError for values that make no sense, and PortsExhausted when no file descriptor is left;
        then nothing is changed.
        """
        self._check_open()
        if codec not in ("PCMU", "PCMA"):
            raise LocalProtocolError(f"codec {codec!r} is neither PCMU nor PCMA")
        if rtcp_port is not None and not 0 < rtcp_port < 65536:
            raise LocalProtocolError(f"RTCP port {rtcp_port} is not in 1..65535")
        timeout_s = self._media_timeout_s if media_timeout_s is None else media_timeout_s
        with ExitStack() as sockets:
            any_fd = -1
            if latch:
                with _saying_what_lacks():
                    second = sockets.enter_context(self._ports.second(self._rtp))
                any_fd = second.fileno()
            self._line.connect(
                host=host,
                port=port,
                alaw=codec == "PCMA",
                payload_type=payload_type,
                ptime_ms=ptime_ms,
                telephone_event=telephone_event,
                telephone_event_received=telephone_event_received,
                comfort_noise=comfort_noise,
                latch=latch,
                timeout_ms=round(timeout_s * 1000),
                any_fd=any_fd,
            )
            if latch:
                second.detach()  # the plane's now
        self._alaw = codec == "PCMA"
        self._ptime_ms = ptime_ms
        self._telephone_event = telephone_event
        self._mux = rtcp_mux
        if rtcp_mux:
            rtcp_host, rtcp_port = host, port
        elif rtcp_port is None:
            rtcp_port = min(port + 1, 65535)
        signalled = _Signalled(host=host, rtcp=(rtcp_host or host, rtcp_port))
        if self._signalled != signalled:
            self._signalled, self._rtcp_target = signalled, signalled.rtcp
        if self._report_timer is None:
            self._schedule_report()

    def transform(self, transform: Transform) -> None:
        """Have packets go through `transform` from the next tick on; the one before is kept until then (rekeying)."""
        self._check_open()
        self._line.transform(
            protect=transform.protect_rtp, unprotect=transform.unprotect_rtp, context=transform.context
        )
        self._transforms.append(transform)

    def start(self) -> None:
        """Send from now on, or once `resume` is called if it is on hold. Idempotent.

        Raises LocalProtocolError before `connect`.
        """
        self._check_open()
        if self._signalled is None:
            raise LocalProtocolError("a stream is started after it was connected")
        if not self._started:
            self._started = True
            self._line.start()

    @property
    def ptime_ms(self) -> int:
        """How much audio a packet carries, as agreed."""
        return self._ptime_ms

    @property
    def connected(self) -> bool:
        """Whether it was ever told where to send, and so may be known to a peer."""
        return self._signalled is not None

    def hold(self) -> None:
        """Send no RTP from now on. The ring and RTCP are kept; digits being sent are dropped; no MediaTimeout."""
        self._check_open()
        self._line.hold()

    def resume(self) -> None:
        """Send again, on the same grid: the timestamp has gone on, and the first packet has a marker."""
        self._check_open()
        self._line.resume()

    def mute(self) -> None:
        """Send silence from the next slot on, and count it as such. What was written waits; digits are sent."""
        self._check_open()
        self._line.mute()

    def unmute(self) -> None:
        """Go on with the very next sample of what was written."""
        self._check_open()
        self._line.unmute()

    async def write(self, samples: bytes | bytearray | memoryview, rate_hz: int) -> None:
        """Append speech to the utterance, or open one: signed 16-bit mono in native byte order. Waits for room.

        Returns early, with the rest dropped, when `flush` is called meanwhile. Raises StreamClosed, and
        LocalProtocolError for half a sample, a rate that is not in 4000..192000, or while another write waits.
        """
        self._check_open()
        if self._room is not None:
            raise LocalProtocolError("another write is under way")
        pcm = memoryview(samples).cast("B")
        if len(pcm) % 2:
            raise LocalProtocolError(f"{len(pcm)} octets are no whole number of 16-bit samples")
        flushes = self._flushes
        step = 2 * rate_hz * _SLICE_MS // 1000
        for start in range(0, len(pcm), max(step, 2)):
            codes = encode(self._at_line_rate(pcm[start : start + step], rate_hz), self._codec)
            await self._put(codes, self._alaw, later_ms=max(len(pcm) - start - step, 0) * 500 / rate_hz)
            if self._flushes != flushes:
                return

    async def relay(self, codes: bytes, codec: Codec) -> None:
        """Append G.711 to the utterance, or open one, octet for octet if `codec` is the one that is agreed on.

        Waits for room, and returns early, as `write` does. Raises StreamClosed, and LocalProtocolError while another
        write waits.
        """
        self._check_open()
        if self._room is not None:
            raise LocalProtocolError("another write is under way")
        flushes = self._flushes
        if self._resampler is not None:
            rest, self._resampler = self._resampler.finish(), None
            await self._put(encode(rest, self._codec), self._alaw, later_ms=len(codes) / 8)
        if self._flushes == flushes:
            await self._put(codes, codec == "PCMA", later_ms=0.0)

    async def play(self, clip: Clip) -> None:
        """Append a clip, an utterance of its own; an open one ends before it. Waits until what precedes is nearly sent.

        The plane reads the clip where it lies: once this has returned, playing it depends on no Python. Returns early,
        with the clip dropped, when `flush` is called meanwhile. Raises StreamClosed, and LocalProtocolError while a
        write or another clip waits.
        """
        self._check_open()
        if self._room is not None:
            raise LocalProtocolError("another write is under way")
        self.end()
        flushes = self._flushes
        while self._flushes == flushes and not self._line.play(clip._codes[self._codec], self._alaw):
            await self._wait_for_room(unwritten_ms=clip.duration_ms)

    def end(self) -> None:
        """The utterance is complete. Its last frame is filled up with silence, and silence after it is designed."""
        self._check_open()
        rest = b"" if self._resampler is None else self._resampler.finish()
        self._resampler = None
        self._line.end(encode(rest, self._codec), self._alaw)
        self._find_end()

    def flush(self) -> float:
        """Drop what has not been sent and close the utterance; returns how many ms were dropped.

        No frame of it leaves after this. A write that waits for room returns, and its rest is counted as dropped.
        """
        self._check_open()
        dropped_ms = self._line.flush() / 8 + self._unwritten_ms
        self._flushes += 1
        self._resampler = None
        _wake(self._room)
        self._find_end()
        return dropped_ms

    async def drained(self) -> None:
        """Wait until everything written has been sent and the utterance has ended. Raises StreamClosed."""
        self._check_open()
        if self._line.idle:
            return
        waiter = self._loop.create_future()
        self._drain_waiters.append(waiter)
        try:
            self._find_end()
            await waiter
        finally:
            self._drain_waiters.remove(waiter)

    def send_digits(self, digits: str, *, duration_ms: int = 100, gap_ms: int = 60, volume: int = 10) -> None:
        """Send digits (0-9 * # A-D) as RFC 4733 events, after those under way; speech waits meanwhile.

        volume  in -dBm0, 0..63

        Raises LocalProtocolError when telephone events were not negotiated, or as dtmf.dial does.
        """
        self._check_open()
        if self._telephone_event is None:
            raise LocalProtocolError("telephone events were not negotiated")
        frames = dtmf.dial(digits, ptime_ms=self._ptime_ms, duration_ms=duration_ms, gap_ms=gap_ms, volume=volume)
        self._line.dial([None if f is None else (f.marker, f.offset, f.payload) for f in frames])

    def listen(self, deliver: Callable[[Frame], None] | None) -> None:
        """Have the peer's audio delivered, frame by frame, until the stream is closed; None: no longer.

        Frames of 20 ms are placed by their timestamps; what was lost, and the time in which nothing comes, is silence.
        What is not taken within a second is dropped and counted. Raises LocalProtocolError when somebody listens
        already.
        """
        self._check_open()
        if deliver is not None and self._deliver_audio is not None:
            raise LocalProtocolError("somebody listens already")
        self._deliver_audio = deliver
        self._line.listen(deliver is not None)
        if deliver is not None:
            self._line.await_audio()

    def tap(self, deliver: Callable[[Frame], None] | None) -> None:
        """Have what is said to the peer delivered as well, in frames of the ptime, while somebody listens; None: no
        longer.

        It is what packets carried, at the time of their timestamps, before any transform. Silence, digits and what was
        not sent, as on hold, are not delivered. Raises LocalProtocolError when it is tapped already.
        """
        self._check_open()
        if deliver is not None and self._deliver_said is not None:
            raise LocalProtocolError("somebody listens already")
        self._deliver_said = deliver
        self._line.tap(deliver is not None)

    def counters(self) -> StreamCounters:
        counts = self._line.counters()
        counts["invalid"] += self._invalid_rtcp
        heard = self._line.heard()
        report = self._reports.heard_by_peer
        round_trip_ns = self._reports.round_trip_ns
        mos = None
        if report is not None:
            delay_ms = quality.mouth_to_ear_ms(
                round_trip_ms=(round_trip_ns or 0) / 1e6,
                jitter_ms=report.jitter * 1000 / RATE_HZ,
                ptime_ms=self._ptime_ms,
            )
            loss = max(report.lost, 0) / max(counts["packets_sent"], 1)
            mos = quality.mos(quality.rating(loss=loss, mouth_to_ear_ms=delay_ms))
        return StreamCounters(
            jitter_ms=0.0 if heard is None else heard[4] * 1000 / RATE_HZ,
            rtt_ms=None if round_trip_ns is None else round_trip_ns / 1e6,
            peer_lost=None if report is None else report.lost,
            mos=mos,
            **counts,
        )

    def close(self) -> None:
        """Stop, and say goodbye by RTCP. Idempotent; whoever waits for the stream gets StreamClosed."""
        if self.closed:
            return
        self.closed = True
        for timer in (self._report_timer, self._detector_timer):
            if timer is not None:
                timer.cancel()
        self._line.remove()
        self._deliver_audio = self._deliver_said = None
        for waiter in (self._room, *self._drain_waiters):
            if waiter is not None and not waiter.done():
                waiter.set_exception(StreamClosed("the stream was closed"))

    async def wait_closed(self) -> None:
        """Wait until the stream is closed and gone: nothing leaves after this, and the counters are final."""
        await asyncio.shield(self._gone)

    # What the endpoint calls.

    def _release(self) -> None:
        """The plane has let go of the sockets: no RTP follows the goodbye."""
        sent = self._sent()
        if sent.packets:  # RFC 3550 section 6.3.7: no goodbye from whom nothing was heard
            now_ns = time.monotonic_ns()
            self._send_rtcp(self._reports.goodbye(sent=sent, heard=self._heard(), now_ns=now_ns))
        self._rtp.close()
        self._rtcp.close()
        self._deliver_event = None
        _wake(self._gone)

    def _take_room(self) -> None:
        _wake(self._room)

    def _take_audio(self) -> None:
        # A listener that fails does so in a call of its own, and disturbs no other stream.
        while self._deliver_audio is not None:
            for at_ns, samples in self._line.hear():
                self._loop.call_soon(self._deliver_audio, Frame(at_ns, samples))
            if self._deliver_said is not None:
                for at_ns, samples in self._line.said():
                    self._loop.call_soon(self._deliver_said, Frame(at_ns, samples))
            if self._line.await_audio():
                break

    def _find_end(self) -> None:
        """Wake who waits for the end when everything has been sent; otherwise have the plane say so."""
        # While the utterance is open there is no end; `end` or `flush` will look again.
        if self._drain_waiters and not self._line.uttering and not self._line.await_end():
            for waiter in self._drain_waiters:
                _wake(waiter)

    def _deliver(self, event: StreamEvent) -> None:
        if self._deliver_event is not None and not self.closed:
            self._loop.call_soon(self._deliver_event, event)

    def _take_latched(self, host: str, port: int) -> None:
        if self._mux:
            self._rtcp_target = (host, port)
        elif self._signalled is not None and self._signalled.host == host:
            self._rtcp_target = self._signalled.rtcp
        elif self._rtcp_target is not None and self._rtcp_target[0] != host:
            self._rtcp_target = (host, min(port + 1, 65535))
        self._deliver(Latched(host=host, port=port))

    def _take_telephone_event(self, payload: bytes, source: int, timestamp: int, now_ns: int) -> None:
        if self._detector is None:
            self._detector = dtmf.Detector()
        if self._sources != source:
            self._detector.reset()
            self._sources = source
        begun = self._detector.begun
        try:
            digits = self._detector.receive(payload, timestamp=timestamp, now_ns=now_ns)
        except RemoteProtocolError:
            self._invalid_rtcp += 1
            return
        if self._detector.begun != begun:
            self._deliver(DigitBegun())
        self._take_digits(self._detector, digits)

    def _take_digits(self, detector: dtmf.Detector, digits: list[Digit]) -> None:
        for digit in digits:
            self._deliver(digit)
        if self._detector_timer is not None:
            self._detector_timer.cancel()
            self._detector_timer = None
        wake_at_ns = detector.wake_at_ns()
        if wake_at_ns is not None and not self.closed:
            delay_s = (wake_at_ns - time.monotonic_ns()) / _NS_PER_S
            self._detector_timer = self._loop.call_later(delay_s, self._look_for_lost_end, detector)

    def _look_for_lost_end(self, detector: dtmf.Detector) -> None:
        self._take_digits(detector, detector.handle_timer(time.monotonic_ns()))

    def _take_rtcp(self, data: bytes, address: tuple[str, int], now_ns: int) -> None:
        left = self._reports.left
        try:
            self._reports.receive(self._transforms[-1].unprotect_rtcp(data), now_ns)
        except RemoteProtocolError:
            self._invalid_rtcp += 1
            return
        if address[0] == self._line.target[0]:
            self._rtcp_target = address  # symmetric RTCP (RFC 4961)
        if self._reports.left and not left:
            self._deliver(RemoteBye())

    # What the above is made of.

    @property
    def _codec(self) -> Codec:
        return "PCMA" if self._alaw else "PCMU"

    def _check_open(self) -> None:
        if self.closed:
            raise StreamClosed("the stream was closed")

    def _at_line_rate(self, pcm: memoryview, rate_hz: int) -> bytes | memoryview:
        before = b""
        if self._resampler is not None and self._resampler.from_hz != rate_hz:
            before = self._resampler.finish()
            self._resampler = None
        if rate_hz == RATE_HZ:
            return before + pcm if before else pcm
        if self._resampler is None:
            self._resampler = Resampler(rate_hz, RATE_HZ)
        return before + self._resampler.feed(pcm)

    async def _put(self, codes: bytes, alaw: bool, *, later_ms: float) -> None:
        """Move codes into the ring, or stop at a flush; `later_ms` is what its write will bring after them."""
        flushes = self._flushes
        at = self._line.write(codes, 0, alaw)
        while at < len(codes) and self._flushes == flushes:
            await self._wait_for_room(unwritten_ms=(len(codes) - at) / 8 + later_ms)
            if self._flushes == flushes:
                at += self._line.write(codes, at, alaw)

    async def _wait_for_room(self, *, unwritten_ms: float) -> None:
        """Wait until the line has run down, or a flush; `unwritten_ms` is what waits to be written."""
        if not self._line.await_room():
            return
        self._unwritten_ms = unwritten_ms
        self._room = self._loop.create_future()
        try:
            await self._room
        finally:
            self._room = None
            self._unwritten_ms = 0.0

    def _schedule_report(self) -> None:
        delay_s = (self._reports.wake_at_ns() - time.monotonic_ns()) / _NS_PER_S
        self._report_timer = self._loop.call_later(delay_s, self._report)

    def _report(self) -> None:
        report = self._reports.report(sent=self._sent(), heard=self._heard(), now_ns=time.monotonic_ns())
        self._send_rtcp(report)
        self._schedule_report()

    def _send_rtcp(self, data: bytes) -> None:
        if self._rtcp_target is None:
            return
        host, port = self._rtcp_target
        if self._rtp.family == socket.AF_INET6 and ":" not in host:
            host = f"::ffff:{host}"
        try:
            protected = self._transforms[-1].protect_rtcp(data)
            (self._rtp if self._mux else self._rtcp).sendto(protected, (host, port))
        except OSError:
            # A full buffer, no route, a closed port: the next report tries again, and RTP counts the same errors.
            return

    def _sent(self) -> Sent:
        counts = self._line.counters()
        return Sent(
            packets=counts["packets_sent"],
            octets=counts["octets_sent"],
            timestamp=self._line.media_clock(time.monotonic_ns()),
        )

    def _heard(self) -> Heard | None:
        heard = self._line.heard()
        if heard is None:
            return None
        ssrc, expected, received, highest_sequence, jitter = heard
        return Heard(ssrc=ssrc, expected=expected, received=received, highest_sequence=highest_sequence, jitter=jitter)


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
