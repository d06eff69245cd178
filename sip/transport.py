"""Where signalling meets sockets and a clock: UDP here, TCP and TLS by `Streams`, around an `Agent`.

    async with Transport.open(agent, [("0.0.0.0", 5060)], deliver=on_event) as transport:
        transport.answer(call, body=sdp)

The verbs of the agent are here again without their `now`: they happen now, and are sent at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import ipaddress
import itertools
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from random import SystemRandom
from typing import Concatenate, NamedTuple, ParamSpec, TypeVar

from .agent import Agent
from .call import Event
from .connection import Received, StreamLimits, next_hop
from .errors import LocalProtocolError, SipError
from .locate import RecordType
from .message import Request
from .parser import MalformedMessage
from .resolver import Resolver
from .streams import StreamCounters, StreamListener, Streams
from .tls import Tls, TlsError
from .transaction import Flow
from .uri import Uri

__all__ = ["Transport"]

P = ParamSpec("P")
R = TypeVar("R")

Address = tuple[str, int]

# RFC 3261 section 18.1.1: up to the largest UDP datagram.
_LARGEST_DATAGRAM = 65535
# How many datagrams are read before other tasks of the loop have their turn.
_BURST = 32
# Peers whose route is remembered; forged sources must not fill the memory.
_HOSTS_KEPT = 4096
_RECEIVE_BUFFER_BYTES = 4 << 20
# How often a port that is free for both UDP and TCP is looked for.
_ATTEMPTS = 16
_RECORDS: Mapping[int, RecordType] = {socket.AF_INET: RecordType.A, socket.AF_INET6: RecordType.AAAA}


def _verb(verb: Callable[Concatenate[Agent, float, P], R]) -> Callable[Concatenate[Transport, P], R]:
    def perform(self: Transport, /, *args: P.args, **kwargs: P.kwargs) -> R:
        result = verb(self.agent, self.now(), *args, **kwargs)
        self.flush()
        return result

    perform.__name__, perform.__qualname__, perform.__doc__ = verb.__name__, f"Transport.{verb.__name__}", verb.__doc__
    return perform


class _Listener(NamedTuple):
    """A socket, what it is for, the address that it is bound to, and whether that is all addresses of its family."""

    transport: str
    sock: socket.socket
    bound: Address
    wild: bool


class Transport:
    """An agent on its sockets, open from the beginning to the end of `Transport.open`.

    agent          the core; whoever calls its verbs directly calls `flush` afterwards
    welcome        says whether a connection from an address is taken; the host may put its own here
    capture        gets each message, where it travels, and whether it was received; the host may put its own here, and
                   that must not raise. What came by a connection is told as it was understood, if it was
    addresses      where we listen by UDP and TCP, in the order of the request, with the ports that were really bound
    tls_addresses  where we listen by TLS, likewise
    send_errors    what could not be sent, such as datagrams that the kernel would not take; it counts as lost
    """

    def __init__(
        self,
        agent: Agent,
        sockets: Sequence[tuple[str, socket.socket]],
        deliver: Callable[[Event], None],
        limits: StreamLimits,
        tls: Tls | None,
        resolver: Resolver,
    ) -> None:
        """See `open`, which binds and closes the sockets. Raises TlsError."""
        self.agent = agent
        self.welcome: Callable[[str], bool] = lambda host: True
        self.capture: Callable[[bytes, Flow, bool], None] | None = None
        self.send_errors = 0
        self._loop = asyncio.get_running_loop()
        self._deliver = deliver
        self._listeners = tuple(_listener(transport, sock) for transport, sock in sockets)
        self.addresses: tuple[Address, ...] = tuple(
            listener.bound for listener in self._listeners if listener.transport == "UDP"
        )
        self.tls_addresses: tuple[Address, ...] = tuple(
            listener.bound for listener in self._listeners if listener.transport == "TLS"
        )
        self._tls = tls
        self._contexts = None if tls is None else tls.load()
        self._resolver = resolver
        self._datagram_sockets: dict[Address, socket.socket] = {
            listener.bound: listener.sock for listener in self._listeners if listener.transport == "UDP"
        }
        self._source_hosts: dict[str, str] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._busy = False
        self._streams = Streams(
            limits=limits,
            receive=self._take,
            failed=self._failed,
            needed=agent.uses,
            follow=self._follow,
            tls=lambda: self._contexts,
            welcome=lambda host: self.welcome(host),
        )
        for listener in self._listeners:
            if listener.transport == "UDP":
                self._loop.add_reader(listener.sock, self._readable, listener)
            else:
                self._streams.listen(
                    StreamListener(
                        sock=listener.sock,
                        transport=listener.transport,
                        local=functools.partial(_accepted_at, listener),
                    )
                )

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls,
        agent: Agent,
        listen: Sequence[Address],
        *,
        deliver: Callable[[Event], None],
        tls_listen: Sequence[Address] = (),
        tls: Tls | None = None,
        resolver: Resolver | None = None,
        limits: StreamLimits | None = None,
        receive_buffer_bytes: int = _RECEIVE_BUFFER_BYTES,
    ) -> AsyncIterator[Transport]:
        """Listen on `listen` by UDP and TCP: (host, port) pairs of numeric addresses, "0.0.0.0" being all of a family.

        deliver               gets every event, in order, between two steps of the agent: it returns soon, may use the
                              verbs, and must not raise
        tls_listen            where to listen by TLS, which takes a certificate in `tls`
        tls                   for TLS in both directions; None: there is none
        resolver              where names are looked up; by default as the machine is configured
        limits                of connections
        receive_buffer_bytes  what the kernel may hold for us; it grants at most net.core.rmem_max

        Raises OSError if an address cannot be bound, TlsError if a file of `tls` cannot be used. At the end nothing
        more is sent but what a connection has not taken yet; calls are not ended.
        """
        with contextlib.ExitStack() as stack:
            # RFC 3261 section 18.2.1: a port that is listened on for UDP is listened on for TCP.
            sockets = [
                (transport, stack.enter_context(sock))
                for address in listen
                for transport, sock in _bound_pair(address, receive_buffer_bytes)
            ]
            if tls_listen and (tls is None or tls.certificate is None):
                raise TlsError("to listen by TLS takes a certificate")
            sockets += [("TLS", stack.enter_context(_bound("TLS", address, 0))) for address in tls_listen]
            transport = cls(
                agent,
                sockets,
                deliver,
                limits or StreamLimits(),
                tls,
                resolver or Resolver(random=SystemRandom()),
            )
            try:
                yield transport
            finally:
                await transport._close()

    ring = _verb(Agent.ring)
    answer = _verb(Agent.answer)
    reject = _verb(Agent.reject)
    bye = _verb(Agent.bye)
    invite = _verb(Agent.invite)
    cancel = _verb(Agent.cancel)
    acknowledge = _verb(Agent.acknowledge)
    reoffer = _verb(Agent.reoffer)
    update = _verb(Agent.update)
    withdraw = _verb(Agent.withdraw)
    request = _verb(Agent.request)
    request_within = _verb(Agent.request_within)
    respond = _verb(Agent.respond)

    def now(self) -> float:
        """The clock of everything here, in seconds."""
        return self._loop.time()

    def connections(self) -> StreamCounters:
        """How many connections have come and gone, and are."""
        return self._streams.counters()

    def reload(self) -> None:
        """Read the files of TLS anew, for the connections from now on.

        Raises TlsError if one cannot be used, and goes on with what was read before.
        """
        if self._tls is not None:
            self._contexts = self._tls.load()

    def flow_to(self, host: str, port: int, transport: str = "UDP", name: str = "") -> Flow:
        """The flow on which `invite` reaches host:port, a numeric address, by "UDP", "TCP" or "TLS".

        name  what the certificate of a TLS peer has to be for; by default that is `host`

        Raises LocalProtocolError if it is none, or we do not listen on an address of its family.
        """
        try:
            family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
        except ValueError as error:
            raise LocalProtocolError(f"not an address: {host!r}") from error
        # Whoever listens by TLS is reached there; whoever does not is reached by the connection that is made.
        wanted = {"UDP": ("UDP",), "TCP": ("TCP",), "TLS": ("TLS", "TCP") if self._tls else ()}.get(transport, ())
        for listened in wanted:
            for listener in self._listeners:
                if listener.transport == listened and listener.sock.family == family:
                    secured = name if transport == "TLS" else ""
                    return Flow(transport, self._local(listener, host), (host, port), secured)
        raise LocalProtocolError(f"no socket reaches {host} by {transport}")

    async def flows(self, uri: Uri) -> tuple[Flow, ...]:
        """The flows on which `uri` is reached, the best one first (RFC 3263): the first for `invite`, and its `others`.

        Raises NotLocated if it has no address, LocalProtocolError if it is no SIP URI or no transport of ours fits.
        """
        families = {listener.sock.family for listener in self._listeners}
        targets = await self._resolver.locate(
            uri,
            transports=("UDP", "TCP", "TLS") if self._tls else ("UDP", "TCP"),
            families=[record for family, record in _RECORDS.items() if family in families],
        )
        # RFC 5922 section 4: the certificate is for the domain of the URI, wherever the DNS leads.
        return tuple(self.flow_to(host, port, transport, uri.host) for transport, host, port in targets)

    def flush(self) -> None:
        """Hand over the events, send what is to be sent, set the timer."""
        if self._busy:
            # Called by `deliver`: the loop below, which called that, goes on with what it has brought about.
            return
        self._busy = True
        try:
            while (event := self.agent.next_event()) is not None:
                self._deliver(event)
        finally:
            self._busy = False
            try:
                for data, flow in self.agent.data_to_send():
                    self._try_to_send(data, flow)
            finally:
                self._set_timer()

    def _set_timer(self) -> None:
        at = self.agent.wake_at()
        # A timer that goes off too early costs less than cancelling it each time that a deadline is put off.
        if at is not None and (self._timer is None or at < self._timer.when()):
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(at, self._tick)

    def _tick(self) -> None:
        self._timer = None
        try:
            self.agent.handle_timer(self.now())
        finally:
            self.flush()

    def _readable(self, listener: _Listener) -> None:
        for _ in range(_BURST):
            try:
                data, source = listener.sock.recvfrom(_LARGEST_DATAGRAM)
            except BlockingIOError:
                return
            except OSError:
                # An ICMP error that some earlier datagram met. Its transaction will retransmit or give up.
                continue
            remote = _address(source)
            flow = Flow("UDP", self._local(listener, remote[0]), remote)
            if self.capture is not None:
                self.capture(data, flow, True)
            self.agent.receive(data, flow, self.now())
            self.flush()

    def _take(self, message: Received, flow: Flow) -> None:
        if self.capture is not None and not isinstance(message, MalformedMessage):
            self.capture(message.serialise(), flow, True)
        self.agent.receive_message(message, flow, self.now())
        self.flush()

    def _failed(self, flow: Flow) -> None:
        self.agent.flow_failed(flow, self.now())
        self.flush()

    async def _follow(self, request: Request, flow: Flow) -> Flow | None:
        """Where `request`, whose connection is lost, goes instead: where its next hop says that it is."""
        try:
            hop = next_hop(request)
            if hop.scheme != "sips":
                # Its Via says already by which transport it goes.
                hop = replace(hop, parameters=hop.parameters.with_("transport", flow.transport.lower()))
            return (await self.flows(hop))[0]
        except SipError:
            return None

    def _try_to_send(self, data: bytes, flow: Flow) -> None:
        if self.capture is not None:
            self.capture(data, flow, False)
        try:
            self._send(data, flow)
        except Exception as error:
            # Whatever is wrong with one message, the others are sent, and the timers of all calls go on.
            self.send_errors += 1
            self._loop.call_exception_handler({"message": f"not sent along {flow}", "exception": error})

    def _send(self, data: bytes, flow: Flow) -> None:
        if flow.reliable:
            self._streams.send(data, flow)
            return
        try:
            self._datagram_sockets[flow.local].sendto(data, flow.remote)
        except OSError:
            # Full buffer, no route, too long: to the protocol it is a datagram lost on the way.
            self.send_errors += 1

    def _local(self, listener: _Listener, remote_host: str) -> Address:
        """Our address as `remote_host` sees it, before any NAT: the one bound, or what the routing table says."""
        if not listener.wild:
            return listener.bound
        host = self._source_hosts.get(remote_host)
        if host is None:
            if len(self._source_hosts) >= _HOSTS_KEPT:
                self._source_hosts.clear()
            host = self._source_hosts[remote_host] = _source_host(listener.sock.family, remote_host)
        if listener.transport == "UDP":
            self._datagram_sockets.setdefault((host, listener.bound[1]), listener.sock)
        return (host, listener.bound[1])

    async def _close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for listener in self._listeners:
            if listener.transport == "UDP":
                self._loop.remove_reader(listener.sock)
        await self._streams.close()


def _listener(transport: str, sock: socket.socket) -> _Listener:
    bound = _address(sock.getsockname())
    return _Listener(transport, sock, bound, ipaddress.ip_address(bound[0]).is_unspecified)


def _accepted_at(listener: _Listener, name: Address) -> Address:
    """Our address as the peer sees it whose connection has come to `name`."""
    return (name[0], listener.bound[1])


def _bound_pair(address: Address, receive_buffer_bytes: int) -> list[tuple[str, socket.socket]]:
    """A socket for datagrams and one for connections, on the same port."""
    for attempt in itertools.count(1):
        datagrams = _bound("UDP", address, receive_buffer_bytes)
        host, port = _address(datagrams.getsockname())
        try:
            return [("UDP", datagrams), ("TCP", _bound("TCP", (host, port), 0))]
        except OSError as error:
            datagrams.close()
            # A port of the system's choice may be in use for connections.
            if error.errno != errno.EADDRINUSE or address[1] or attempt == _ATTEMPTS:
                raise
    raise AssertionError


def _bound(transport: str, address: Address, receive_buffer_bytes: int) -> socket.socket:
    host, port = address
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM if transport == "UDP" else socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if transport == "UDP":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        else:
            # Connections of the server before us may linger.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # One family a socket, so that an address says which it was.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise OSError(error.errno, f"cannot listen on {host} port {port} ({transport}): {error.strerror}") from error
    return sock


def _source_host(family: int, remote_host: str) -> str:
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            # Connecting sends nothing; it only asks the routing table. Any port will do.
            probe.connect((remote_host, 9))
        except OSError:
            return "::1" if family == socket.AF_INET6 else "127.0.0.1"
        return _address(probe.getsockname())[0]


def _address(name: tuple[str, int] | tuple[str, int, int, int]) -> Address:
    return (name[0], name[1])
