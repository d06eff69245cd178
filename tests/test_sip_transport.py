"""The UDP shell: real sockets on the loopback, with a socket or another transport at the far end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import random
import socket
from collections.abc import AsyncIterator, Callable

import pytest

from sip import (
    Agent,
    Answered,
    Cause,
    Confirmed,
    Ended,
    Event,
    LocalProtocolError,
    NameAddr,
    Offered,
    Response,
    Timers,
    Transport,
    Uri,
    parse_datagram,
)

QUICK = Timers(t1=0.02, t2=0.08, t4=0.1)
LOCALHOSTS = ["127.0.0.1", "::1"]


class Ear:
    """Where events are delivered: in order, and waited for by kind."""

    def __init__(self, then: Callable[[Event], None] = lambda event: None) -> None:
        self.events: list[Event] = []
        self.then = then
        self._heard = asyncio.Event()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        self._heard.set()
        self.then(event)

    async def wait_for(self, kind: type[Event]) -> Event:
        async with asyncio.timeout(5):
            while True:
                for event in self.events:
                    if isinstance(event, kind):
                        return event
                self._heard.clear()
                await self._heard.wait()


@contextlib.asynccontextmanager
async def opened(
    host: str = "127.0.0.1", *, ear: Ear | None = None, timers: Timers = QUICK
) -> AsyncIterator[tuple[Transport, Ear]]:
    ear = ear or Ear()
    agent = Agent(random=random.SystemRandom(), timers=timers)
    async with Transport.open(agent, [(host, 0)], deliver=ear) as transport:
        yield transport, ear


@contextlib.contextmanager
def plain_socket(host: str = "127.0.0.1") -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.bind((host, 0))
        yield sock


def options(sock: socket.socket, call_id: str = "c1") -> bytes:
    host, port = sock.getsockname()[:2]
    host = f"[{host}]" if ":" in host else host
    return (
        f"OPTIONS sip:us SIP/2.0\r\nVia: SIP/2.0/UDP {host}:{port};branch=z9hG4bK{call_id};rport\r\n"
        f"From: <sip:a@b>;tag=f\r\nTo: <sip:us>\r\nCall-ID: {call_id}\r\nCSeq: 1 OPTIONS\r\n\r\n"
    ).encode()


async def response_at(sock: socket.socket) -> Response:
    async with asyncio.timeout(5):
        data = await asyncio.get_running_loop().sock_recv(sock, 65535)
    message = parse_datagram(data)
    assert isinstance(message, Response)
    return message


def alice(transport: Transport) -> NameAddr:
    return NameAddr(uri=Uri(user="alice", host=transport.addresses[0][0]))


def place(transport: Transport, to: tuple[str, int], **arguments: float) -> str:
    host, port = to
    target = Uri(user="bob", host=host, port=port)
    return transport.invite(target, transport.flow_to(host, port), from_=alice(transport), body=b"offer", **arguments)


@pytest.mark.parametrize("host", LOCALHOSTS)
async def test_a_call_from_end_to_end(host: str) -> None:
    def pick_up(event: Event) -> None:
        if isinstance(event, Offered):
            callee.ring(event.call)
            callee.answer(event.call, body=b"answer")

    async with opened(host, ear=Ear(pick_up)) as (callee, callee_ear), opened(host) as (caller, caller_ear):
        call = place(caller, callee.addresses[0])
        answered = await caller_ear.wait_for(Answered)
        assert isinstance(answered, Answered)
        assert (answered.call, answered.response.body) == (call, b"answer")
        await callee_ear.wait_for(Confirmed)
        caller.bye(call)
        ended = await callee_ear.wait_for(Ended)
        assert isinstance(ended, Ended)
        assert ended.cause is Cause.REMOTE_BYE
        await caller_ear.wait_for(Ended)
        assert callee.agent.counters().calls == caller.agent.counters().calls == 0


async def test_events_come_in_order_even_when_the_host_acts_on_them() -> None:
    """A verb used by `deliver` brings about events of its own; they wait for their turn."""
    depth = 0

    def hang_up(event: Event) -> None:
        nonlocal depth
        depth += 1
        assert depth == 1
        if isinstance(event, Offered):
            callee.reject(event.call, status=486)
        depth -= 1

    async with opened(ear=Ear(hang_up)) as (callee, ear), opened() as (caller, caller_ear):
        place(caller, callee.addresses[0])
        ended = await caller_ear.wait_for(Ended)
        assert isinstance(ended, Ended)
        assert (ended.cause, ended.status) == (Cause.REMOTE_REJECT, 486)
        assert [type(event) for event in ear.events] == [Offered, Ended]


async def test_a_port_that_was_not_chosen_is_told() -> None:
    async with opened() as (transport, _):
        host, port = transport.addresses[0]
        assert host == "127.0.0.1"
        assert port > 0


async def test_both_families_on_one_agent() -> None:
    agent = Agent(random=random.SystemRandom())
    async with Transport.open(agent, [("127.0.0.1", 0), ("::1", 0)], deliver=Ear()) as transport:
        for (host, port), peer in zip(transport.addresses, LOCALHOSTS, strict=True):
            with plain_socket(peer) as sock:
                sock.sendto(options(sock), (host, port))
                ok = await response_at(sock)
            assert ok.status == 200
            assert ok.contact is not None
            assert (ok.contact.uri.host, ok.contact.uri.port) == (host, port)


@pytest.mark.parametrize(("wild", "host"), [("0.0.0.0", "127.0.0.1"), ("::", "::1")])
async def test_bound_to_every_address_we_name_the_one_that_the_peer_sees(wild: str, host: str) -> None:
    async with opened(wild) as (transport, _):
        with plain_socket(host) as sock:
            sock.sendto(options(sock), (host, transport.addresses[0][1]))
            ok = await response_at(sock)
        assert ok.contact is not None
        assert ok.contact.uri.host == host
        assert transport.flow_to(host, 5060).local == (host, transport.addresses[0][1])


async def test_an_address_that_is_taken_is_named_in_the_error() -> None:
    with plain_socket() as sock:
        host, port = sock.getsockname()
        agent = Agent(random=random.SystemRandom())
        with pytest.raises(OSError, match=rf"cannot listen on {host} port {port} \(UDP\)") as caught:
            async with Transport.open(agent, [(host, 0), (host, port)], deliver=Ear()):
                pass
        assert caught.value.errno == errno.EADDRINUSE


async def test_a_flow_needs_an_address_that_a_socket_of_ours_reaches() -> None:
    async with opened() as (transport, _):
        with pytest.raises(LocalProtocolError, match=r"not an address: 'bob\.example'"):
            transport.flow_to("bob.example", 5060)
        with pytest.raises(LocalProtocolError, match="no socket reaches ::1"):
            transport.flow_to("::1", 5060)


async def test_garbage_and_the_largest_datagram_do_no_harm() -> None:
    async with opened() as (transport, _):
        with plain_socket() as sock:
            for data in (b"", b"\x00", b"\xff" * 65507, b"INVITE sip:x SIP/2.0\r\n" + b"X: " * 20000, options(sock)):
                sock.sendto(data, transport.addresses[0])
            assert (await response_at(sock)).status == 200
        assert transport.agent.counters().malformed == 4


async def test_a_peer_whose_port_is_closed_does_no_harm() -> None:
    """The ICMP errors that come back end nothing; the call ends when its timers say so."""
    with plain_socket() as sock:
        closed = sock.getsockname()
    async with opened() as (transport, ear):
        place(transport, closed)
        ended = await ear.wait_for(Ended)
        assert isinstance(ended, Ended)
        assert (ended.cause, ended.status) == (Cause.LOST, 408)
        with plain_socket() as sock:
            sock.sendto(options(sock), transport.addresses[0])
            assert (await response_at(sock)).status == 200


async def test_what_cannot_be_sent_counts_as_lost() -> None:
    async with opened() as (transport, ear):
        host, port = transport.addresses[0]
        transport.invite(
            Uri.parse(f"sip:{host}:{port};transport=udp"),
            transport.flow_to(host, port),
            from_=alice(transport),
            body=b"x" * 70000,
        )
        assert isinstance(await ear.wait_for(Ended), Ended)
        assert transport.send_errors == 1 + transport.agent.counters().retransmissions_sent > 1


async def test_timers_run_without_traffic() -> None:
    with plain_socket() as silent:
        async with opened() as (transport, ear):
            place(transport, silent.getsockname(), ring_timeout_s=60.0)
            await ear.wait_for(Ended)
        received = 0
        with contextlib.suppress(BlockingIOError):
            while silent.recv(65535):
                received += 1
        assert received == 7


async def test_a_verb_that_is_misused_raises_where_it_is_used() -> None:
    async with opened() as (transport, _):
        with pytest.raises(LocalProtocolError, match="no such call"):
            transport.answer("nobody")


async def test_a_host_that_raises_is_reported_and_stops_nothing() -> None:
    def fail(event: Event) -> None:
        if isinstance(event, Offered):
            raise ZeroDivisionError

    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context["exception"]))
    async with opened(ear=Ear(fail)) as (callee, _), opened() as (caller, caller_ear):
        call = place(caller, callee.addresses[0])
        with plain_socket() as sock:
            sock.sendto(options(sock), callee.addresses[0])
            assert (await response_at(sock)).status == 200
        caller.cancel(call)
        ended = await caller_ear.wait_for(Ended)
        assert isinstance(ended, Ended)
        assert ended.status == 487
    assert [type(error) for error in reported] == [ZeroDivisionError]


async def test_closing_leaves_no_socket_and_no_timer() -> None:
    async with opened() as (transport, _):
        address = transport.addresses[0]
        place(transport, ("127.0.0.1", 9))
        handle = transport._timer
    assert handle is not None
    assert handle.cancelled()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(address)


async def test_a_burst_of_datagrams_is_read_whole() -> None:
    async with opened() as (transport, _):
        with plain_socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            for number in range(200):
                sock.sendto(options(sock, f"c{number}"), transport.addresses[0])
            answered = {(await response_at(sock)).call_id for _ in range(200)}
        assert answered == {f"c{number}" for number in range(200)}


async def test_the_receive_buffer_is_what_was_asked_for() -> None:
    agent = Agent(random=random.SystemRandom())
    async with Transport.open(agent, [("127.0.0.1", 0)], deliver=Ear(), receive_buffer_bytes=65536) as transport:
        listener = next(each for each in transport._listeners if each.transport == "UDP")
        # Linux counts its bookkeeping too, and so grants twice what it is asked for.
        assert listener.sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 2 * 65536
