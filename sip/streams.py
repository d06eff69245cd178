"""Connections (TCP, and TLS over it) on their sockets: accepted, made, kept within bounds, closed.

`Streams` is a part of the shell: each socket has a `Connection`, which decides, and hands on what that gives.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import socket
import ssl
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from .connection import Closing, Connection, Received, StreamLimits, return_flow
from .message import Request
from .parser import reread
from .tls import Contexts
from .transaction import Flow, Schedule

__all__ = ["StreamCounters", "StreamListener", "Streams"]

Address = tuple[str, int]

# How many connections are accepted before other tasks of the loop have their turn.
_BURST = 32
_BACKLOG = 512
# How long nothing is accepted once the system has no descriptor, or no memory, left.
_EXHAUSTED_S = 0.5
_EXHAUSTED = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
# What is still to be sent when we end may take so long.
_FAREWELL_S = 1.0
# The kernel looks after peers that vanish: an idle one is asked after a minute, an unacknowledged byte lives 64*T1.
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4))
_USER_TIMEOUT_MS = 32_000


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamCounters:
    """A snapshot.

    open      by transport
    accepted  since the beginning, and so are the others
    made      by us
    refused   because there were too many already
    closed    by why: the names of `Closing` in lower case
    """

    open: Mapping[str, int]
    accepted: int
    made: int
    refused: int
    closed: Mapping[str, int]


class _Stream(asyncio.Protocol):
    """A connection and its socket; `flows` are those that rely on it."""

    def __init__(self, streams: Streams, flow: Flow) -> None:
        self.flow = flow
        self.flows = {flow}
        self.connection: Connection | None = None
        self.closing: Closing | None = None
        self._streams = streams
        self._transport: asyncio.Transport | None = None
        self._queue: deque[bytes] = deque()
        self._queued = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.connection = self._streams.begin(self)
        while self._queue:
            self._write(self._queue.popleft())

    def data_received(self, data: bytes) -> None:
        assert self.connection is not None
        if self.closing is None:
            self.connection.receive(data, self._streams.now())
            self._streams.attend(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._streams.forget(self, Closing.PEER)

    def send(self, data: bytes) -> None:
        """Send a message, now or once the connection is made."""
        if self._transport is not None:
            self._write(data)
            return
        self._queue.append(data)
        self._queued += len(data)
        if self._queued > self._streams.limits.buffer_bytes:
            self.close(Closing.SLOW_READER)

    def _write(self, data: bytes) -> None:
        assert self._transport is not None
        assert self.connection is not None
        if self.closing is not None:
            return
        self.connection.sent(self._streams.now())
        self._transport.write(data)
        if self._transport.get_write_buffer_size() > self._streams.limits.buffer_bytes:
            self.close(Closing.SLOW_READER)

    def keep_alive(self, data: bytes) -> None:
        """Send what is no message."""
        if data and self.closing is None and self._transport is not None:
            self._transport.write(data)
            # A peer that pings and reads nothing.
            if self._transport.get_write_buffer_size() > self._streams.limits.buffer_bytes:
                self.close(Closing.SLOW_READER)

    def close(self, why: Closing) -> None:
        """End it: what has been written is still sent, unless the peer does not read, or is not there."""
        if self.closing is not None:
            return
        self.closing = why
        if self._transport is None:
            self._streams.forget(self, why)
            return
        if why in (Closing.SLOW_READER, Closing.SILENT):
            self._transport.abort()
        elif why is Closing.MALFORMED and self._transport.can_write_eof():
            # What is unread when a socket closes makes the kernel reset the connection, and the peer lose our answer.
            self._transport.write_eof()
            asyncio.get_running_loop().call_later(_FAREWELL_S, self._transport.close)
        else:
            self._transport.close()
        self._streams.retire(self)

    def abort(self) -> None:
        """End it at once."""
        if self._transport is not None:
            self._transport.abort()


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamListener:
    """A listening socket.

    local  our address as a peer sees it that connected to this one
    """

    sock: socket.socket
    transport: str
    local: Callable[[Address], Address]


class Streams:
    """All connections.

    Arguments:

    receive  gets every message, and the flow that it came along
    failed   gets every flow whose connection is lost or could not be made
    needed   says whether something relies on a flow
    follow   gets a request whose connection is lost, and the flow that it had
    tls      gives the contexts for new connections; None if there is no TLS
    welcome  says whether a connection from an address is taken; what is not is closed at once
    """

    def __init__(
        self,
        *,
        limits: StreamLimits,
        receive: Callable[[Received, Flow], None],
        failed: Callable[[Flow], None],
        needed: Callable[[Flow], bool],
        follow: Callable[[Request, Flow], Coroutine[Any, Any, Flow | None]],
        tls: Callable[[], Contexts | None],
        welcome: Callable[[str], bool],
    ) -> None:
        self.limits = limits
        self._loop = asyncio.get_running_loop()
        self._receive = receive
        self._failed = failed
        self._needed = needed
        self._follow = follow
        self._tls = tls
        self._welcome = welcome
        self._schedule = Schedule()
        self._timer: asyncio.TimerHandle | None = None
        self._listeners: list[StreamListener] = []
        self._numbers = itertools.count(1)
        # By the number, for those that were made to us, and by the peer, whoever made them.
        self._by_number: dict[int, _Stream] = {}
        self._by_peer: dict[tuple[str, Address, str], _Stream] = {}
        self._all: set[_Stream] = set()
        self._of_connection: dict[Connection, _Stream] = {}
        self._per_host: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._accepted = self._made = self._refused = 0
        self._closed: Counter[Closing] = Counter()
        self._ended = False
        self._empty = asyncio.Event()

    def now(self) -> float:
        return self._loop.time()

    def counters(self) -> StreamCounters:
        """How many have come and gone, and are."""
        return StreamCounters(
            open=dict(Counter(stream.flow.transport for stream in self._all)),
            accepted=self._accepted,
            made=self._made,
            refused=self._refused,
            closed={why.name.lower(): count for why, count in self._closed.items()},
        )

    # Listening, and connections that are made to us.

    def listen(self, listener: StreamListener) -> None:
        """Accept connections until `close`; the socket is its owner's to close."""
        listener.sock.listen(_BACKLOG)
        self._listeners.append(listener)
        self._loop.add_reader(listener.sock, self._acceptable, listener)

    def _acceptable(self, listener: StreamListener) -> None:
        for _ in range(_BURST):
            try:
                sock, name = listener.sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._loop.remove_reader(listener.sock)
                    self._loop.call_later(_EXHAUSTED_S, self._accept_again, listener)
                    return
                # The connection was given up meanwhile.
                continue
            sock.setblocking(False)
            remote = (name[0], name[1])
            if not (self._welcome(remote[0]) and self._room_for(remote[0])):
                self._refused += 1
                sock.close()
                continue
            self._accepted += 1
            local = listener.local(sock.getsockname())
            stream = self._new(Flow(listener.transport, local, remote, connection=next(self._numbers)))
            self._start(self._accept(stream, sock))

    def _accept_again(self, listener: StreamListener) -> None:
        if not self._ended:
            self._loop.add_reader(listener.sock, self._acceptable, listener)

    async def _accept(self, stream: _Stream, sock: socket.socket) -> None:
        context: ssl.SSLContext | None = None
        if stream.flow.transport == "TLS":
            contexts = self._tls()
            context = None if contexts is None else contexts.server
            assert context is not None, "we listen with a certificate only"
        try:
            await self._loop.connect_accepted_socket(
                lambda: stream,
                sock,
                ssl=context,
                ssl_handshake_timeout=self.limits.connect_s if context else None,
                ssl_shutdown_timeout=_FAREWELL_S if context else None,
            )
        except OSError:
            # No handshake, or one that failed.
            self.forget(stream, Closing.UNREACHABLE)

    # Sending, and connections that we make.

    def send(self, data: bytes, flow: Flow) -> None:
        """Send a message along the connection of `flow`, or another one where that is lost (section 18.2.2)."""
        if self._ended:
            return
        stream = self._find(flow)
        if stream is None and not flow.connection:
            stream = self._open(flow)
        if stream is not None:
            stream.flows.add(flow)
            stream.send(data)
        elif data.strip():
            message = reread(data)
            if isinstance(message, Request):
                self._start(self._send_on(data, message, flow))
            else:
                self.send(data, return_flow(message, flow))

    async def _send_on(self, data: bytes, request: Request, flow: Flow) -> None:
        """Send a request whose connection, made by the peer, is lost to where the peer says that it is."""
        onward = await self._follow(request, flow)
        if onward is None:
            self._failed(flow)
            return
        stream = self._find(onward) or self._open(onward)
        stream.flows.add(flow)
        stream.send(data)

    def _find(self, flow: Flow) -> _Stream | None:
        if flow.connection:
            return self._by_number.get(flow.connection)
        return self._by_peer.get((flow.transport, flow.remote, flow.name))

    def _open(self, flow: Flow) -> _Stream:
        stream = self._new(flow)
        if self._room_for(flow.remote[0], already=1):
            self._made += 1
            self._start(self._connect(stream))
        else:
            self._refused += 1
            self._loop.call_soon(stream.close, Closing.UNREACHABLE)
        return stream

    async def _connect(self, stream: _Stream) -> None:
        flow = stream.flow
        context: ssl.SSLContext | None = None
        if flow.transport == "TLS":
            contexts = self._tls()
            if contexts is None:
                # It was the peer's wish.
                self.forget(stream, Closing.UNREACHABLE)
                return
            context = contexts.client
        try:
            async with asyncio.timeout(self.limits.connect_s):
                await self._loop.create_connection(
                    lambda: stream,
                    *flow.remote,
                    ssl=context,
                    server_hostname=(flow.name or flow.remote[0]) if context else None,
                    ssl_shutdown_timeout=_FAREWELL_S if context else None,
                )
        except (OSError, ValueError):
            # ValueError: what the peer calls itself can be no name.
            self.forget(stream, Closing.UNREACHABLE)

    # What streams tell.

    def begin(self, stream: _Stream) -> Connection:
        """The connection of `stream` is made."""
        assert stream._transport is not None
        sock = stream._transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (*_KEEPALIVE, (socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MS)):
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, option, value)
        ours = not stream.flow.connection
        connection = Connection(ours=ours, schedule=self._schedule, now=self.now(), limits=self.limits)
        self._of_connection[connection] = stream
        self._set_timer()
        return connection

    def attend(self, stream: _Stream) -> None:
        """Hand on what the connection of `stream` has."""
        connection = stream.connection
        assert connection is not None
        while stream.closing is None and (message := connection.next_message()) is not None:
            self._receive(message, stream.flow)
        stream.keep_alive(connection.data_to_send())
        if connection.closing is not None:
            stream.close(connection.closing)
        self._set_timer()

    def forget(self, stream: _Stream, why: Closing) -> None:
        """The connection of `stream` is no more, or never was."""
        if stream not in self._all:
            return
        self._all.remove(stream)
        host = stream.flow.remote[0]
        self._per_host[host] -= 1
        if not self._per_host[host]:
            del self._per_host[host]
        stream.closing = stream.closing or why
        self._closed[stream.closing] += 1
        self.retire(stream)
        if self._ended and not self._all:
            self._empty.set()

    def retire(self, stream: _Stream) -> None:
        """Nothing goes along `stream` any more: what relied on it has failed, and what comes later has another one."""
        flow = stream.flow
        self._by_number.pop(flow.connection, None)
        key = (flow.transport, flow.remote, flow.name)
        if self._by_peer.get(key) is stream:
            del self._by_peer[key]
        if stream.connection is not None and self._of_connection.pop(stream.connection, None) is not None:
            stream.connection.deadlines = {}
        relying, stream.flows = stream.flows, set()
        if not self._ended:
            for failed in relying:
                self._failed(failed)

    def _new(self, flow: Flow) -> _Stream:
        stream = _Stream(self, flow)
        self._all.add(stream)
        self._per_host[flow.remote[0]] += 1
        if flow.connection:
            self._by_number[flow.connection] = stream
        # RFC 3261 section 18: what goes to the address and port that a connection comes from goes along it.
        self._by_peer[flow.transport, flow.remote, flow.name] = stream
        return stream

    def _room_for(self, host: str, already: int = 0) -> bool:
        return (
            len(self._all) - already < self.limits.connections
            and self._per_host[host] - already < self.limits.connections_per_host
        )

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _set_timer(self) -> None:
        at = self._schedule.wake_at()
        if at is not None and (self._timer is None or at < self._timer.when()):
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(at, self._tick)

    def _tick(self) -> None:
        self._timer = None
        now = self.now()
        try:
            for connection in self._schedule.due(now):
                assert isinstance(connection, Connection)
                stream = self._of_connection[connection]
                needed = {flow for flow in stream.flows if self._needed(flow)}
                stream.flows = {stream.flow, *needed}
                connection.handle_timer(now, needed=bool(needed))
                self.attend(stream)
        finally:
            self._set_timer()

    async def close(self) -> None:
        """Stop listening, send what has been written, and close every connection."""
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()
        for listener in self._listeners:
            self._loop.remove_reader(listener.sock)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for stream in tuple(self._all):
            stream.close(Closing.LOCAL)
        if self._all:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), _FAREWELL_S)
            for stream in self._all:
                stream.abort()
            await self._empty.wait()
