"""TCP: real sockets on the loopback, with bare streams or another transport at the far end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import resource
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from sip import (
    Agent,
    Answered,
    Cause,
    Confirmed,
    Ended,
    Event,
    Flow,
    NameAddr,
    Offered,
    Request,
    Response,
    StreamLimits,
    Transport,
    Uri,
)
from sip.parser import KeepAlive, StreamParser
from tests.test_sip_transport import LOCALHOSTS, QUICK, Ear, opened, plain_socket

Opened = tuple[Transport, Ear]


def listening(limits: StreamLimits | None = None, ear: Ear | None = None, host: str = "127.0.0.1") -> Any:
    """A transport and its ear."""

    @contextlib.asynccontextmanager
    async def open_it() -> AsyncIterator[Opened]:
        heard = ear or Ear()
        agent = Agent(random=random.SystemRandom(), timers=QUICK)
        async with Transport.open(agent, [(host, 0)], deliver=heard, limits=limits) as transport:
            yield transport, heard

    return open_it()


class Peer:
    """A bare connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.parser = StreamParser()

    def say(self, data: bytes) -> None:
        self.writer.write(data)

    async def hear(self) -> Request | Response | KeepAlive | None:
        """The next message or keep-alive; None once the connection is closed."""
        async with asyncio.timeout(5):
            while (item := self.parser.next_message()) is None:
                try:
                    data = await self.reader.read(65536)
                except ConnectionError:
                    return None
                if not data:
                    return None
                self.parser.feed(data)
        return item

    async def status(self) -> int:
        message = await self.hear()
        assert isinstance(message, Response), message
        return message.status

    async def closed(self) -> bool:
        return await self.hear() is None


@contextlib.asynccontextmanager
async def connected(address: tuple[str, int], **arguments: Any) -> AsyncIterator[Peer]:
    reader, writer = await asyncio.open_connection(*address, **arguments)
    try:
        yield Peer(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def peer_listening(host: str = "127.0.0.1") -> AsyncIterator[tuple[tuple[str, int], asyncio.Queue[Peer]]]:
    """Where to connect to, and who has."""
    peers: asyncio.Queue[Peer] = asyncio.Queue()
    writers = []

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        peers.put_nowait(Peer(reader, writer))

    server = await asyncio.start_server(meet, host, 0)
    try:
        yield server.sockets[0].getsockname()[:2], peers
    finally:
        server.close()
        for writer in writers:
            writer.close()


def message(method: str = "OPTIONS", call_id: str = "c1", *, via: str = "127.0.0.1:5071", extra: str = "") -> bytes:
    return (
        f"{method} sip:us@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/TCP {via};branch=z9hG4bK{call_id}{method}\r\n"
        f"From: <sip:a@b>;tag=f\r\nTo: <sip:us@127.0.0.1>\r\nCall-ID: {call_id}\r\nCSeq: 1 {method}\r\n"
        f"Contact: <sip:a@127.0.0.1:5071;transport=tcp>\r\n{extra}Content-Length: 0\r\n\r\n"
    ).encode()


def place(transport: Transport, flow: Flow, *, body: bytes = b"offer") -> str:
    host, port = flow.remote
    target = Uri(user="bob", host=host, port=port)
    return transport.invite(target, flow, from_=NameAddr(uri=Uri(user="alice", host="127.0.0.1")), body=body)


async def closings(transport: Transport, why: str, count: int = 1) -> None:
    """Wait until so many connections have been closed for that reason."""
    async with asyncio.timeout(5):
        while transport.connections().closed.get(why, 0) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


# --- Requests of the peer's


@pytest.mark.conformance("RFC 3261", "18.2.2", "a response goes along the connection of its request")
@pytest.mark.parametrize("host", LOCALHOSTS)
async def test_a_response_goes_along_the_connection_of_its_request(host: str) -> None:
    """RFC 3261 section 18.2.2."""
    async with listening(host=host) as (transport, _), connected(transport.addresses[0]) as peer:
        peer.say(message())
        ok = await peer.hear()
        assert isinstance(ok, Response)
        assert ok.status == 200
        assert ok.contact is not None
        assert (ok.contact.uri.host, ok.contact.uri.port) == transport.addresses[0]
        assert ok.contact.uri.transport == "tcp"


@pytest.mark.conformance("RFC 3261", "18.2.1", "a port that is listened on for UDP is listened on for TCP")
async def test_tcp_and_udp_share_the_port() -> None:
    """RFC 3261 section 18.2.1."""
    async with opened() as (transport, _):
        flows = [transport.flow_to("127.0.0.1", 5060, by) for by in ("UDP", "TCP")]
        assert {flow.local for flow in flows} == {transport.addresses[0]}


@pytest.mark.conformance("RFC 3261", "18.3", "on a stream the Content-Length says where a message ends")
async def test_a_message_may_come_byte_by_byte_and_two_may_come_at_once() -> None:
    async with listening() as (transport, _), connected(transport.addresses[0]) as peer:
        for byte in message("OPTIONS", "c1"):
            peer.say(bytes([byte]))
            await peer.writer.drain()
            await asyncio.sleep(0)
        assert await peer.status() == 200
        peer.say(message("OPTIONS", "c2") + message("BYE", "c3"))
        assert [await peer.status(), await peer.status()] == [200, 481]


async def test_half_a_message_and_the_end_do_no_harm() -> None:
    async with listening() as (transport, _):
        async with connected(transport.addresses[0]) as peer:
            peer.say(message()[:100])
            peer.writer.write_eof()
            assert await peer.closed()
        assert transport.agent.counters().requests_received == {}
        assert transport.connections().closed == {"peer": 1}
        async with connected(transport.addresses[0]) as peer:
            peer.say(message())
            assert await peer.status() == 200


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (message(extra="Content-Length: 0\r\n"), 400),
        (message().replace(b"Content-Length: 0", b"Content-Length: 70000"), 513),
        (message().replace(b"Content-Length: 0\r\n", b""), 400),
    ],
)
async def test_a_broken_stream_is_answered_and_closed(data: bytes, status: int) -> None:
    async with listening() as (transport, _), connected(transport.addresses[0]) as peer:
        peer.say(data)
        assert await peer.status() == status
        assert await peer.closed()
        peer.writer.close()
        await closings(transport, "malformed")


async def test_the_answer_to_a_broken_stream_is_not_lost_with_what_follows() -> None:
    """A connection that is closed with bytes unread is reset, and takes what was sent with it."""
    async with listening() as (transport, _), connected(transport.addresses[0]) as peer:
        peer.say(message().replace(b"Content-Length: 0\r\n", b"") + b"x" * 500_000)
        with contextlib.suppress(ConnectionError):
            await peer.writer.drain()
        assert await peer.status() == 400
        assert await peer.closed()


async def test_a_connection_that_is_being_closed_is_used_no_more() -> None:
    async with (
        listening() as (transport, ear),
        peer_listening() as (address, peers),
        connected(transport.addresses[0]) as peer,
    ):
        peer.say(message("INVITE", via=f"127.0.0.1:{address[1]}"))
        assert await peer.status() == 100
        offered = await ear.wait_for(Offered)
        peer.say(message(extra="Content-Length: 0\r\n"))
        assert await peer.status() == 400
        transport.reject(offered.call, status=486)
        assert await (await peers.get()).status() == 486


async def test_garbage_ends_its_connection_and_no_other() -> None:
    async with (
        listening() as (transport, _),
        connected(transport.addresses[0]) as good,
        connected(transport.addresses[0]) as bad,
    ):
        bad.say(b"\x16\x03\x01" + random.Random(1).randbytes(70_000))
        assert await bad.closed()
        good.say(message())
        assert await good.status() == 200


async def test_a_ping_is_answered_with_a_pong() -> None:
    async with listening() as (transport, _), connected(transport.addresses[0]) as peer:
        peer.say(b"\r\n\r\n")
        assert await peer.hear() is KeepAlive.PONG


async def test_a_slow_sender_is_dropped() -> None:
    async with listening(StreamLimits(message_s=0.05)) as (transport, _), connected(transport.addresses[0]) as peer:
        peer.say(message()[:-1])
        assert await peer.closed()
        assert transport.connections().closed == {"slow_sender": 1}


async def test_a_slow_reader_is_dropped() -> None:
    """Its answers are kept up to a limit, not for ever."""
    async with listening(StreamLimits(buffer_bytes=100_000)) as (transport, _):
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(sock, transport.addresses[0])
            with contextlib.suppress(ConnectionError):
                async with asyncio.timeout(10):
                    while not transport.connections().closed:
                        await loop.sock_sendall(sock, message("UNHEARD", extra=f"X: {'y' * 5000}\r\n") * 20)
        await closings(transport, "slow_reader")


async def test_an_idle_connection_is_closed_and_one_in_a_call_is_not() -> None:
    async with (
        listening(StreamLimits(idle_s=0.1)) as (transport, ear),
        connected(transport.addresses[0]) as idle,
        connected(transport.addresses[0]) as busy,
    ):
        busy.say(message("INVITE"))
        assert await busy.status() == 100
        idle.say(message())
        assert await idle.status() == 200
        assert await idle.closed()
        offered = await ear.wait_for(Offered)
        await asyncio.sleep(0.15)
        transport.reject(offered.call, status=486)
        assert await busy.status() == 486
        assert transport.connections().closed == {"idle": 1}


async def test_connections_are_bounded_for_an_address_and_in_all() -> None:
    for limits in (StreamLimits(connections=2), StreamLimits(connections_per_host=2)):
        async with listening(limits) as (transport, _), contextlib.AsyncExitStack() as stack:
            peers = [await stack.enter_async_context(connected(transport.addresses[0])) for _ in range(3)]
            for peer in peers:
                with contextlib.suppress(ConnectionError):
                    peer.say(message())
            assert [await peers[0].status(), await peers[1].status()] == [200, 200]
            assert await peers[2].closed()
            assert transport.connections().refused == 1
            peers[0].writer.close()
            await closings(transport, "peer")
            fourth = await stack.enter_async_context(connected(transport.addresses[0]))
            fourth.say(message())
            assert await fourth.status() == 200


async def test_a_connection_that_is_not_welcome_is_closed_at_once() -> None:
    async with listening() as (transport, _):
        asked: list[str] = []
        transport.welcome = lambda host: bool(asked.append(host))
        async with connected(transport.addresses[0]) as peer:
            assert await peer.closed()
        assert (asked, transport.connections().refused, transport.connections().accepted) == (["127.0.0.1"], 1, 0)


@pytest.mark.conformance(
    "RFC 3261", "18.2.2", "a response whose connection is lost goes to the source address and the port of the sent-by"
)
async def test_a_response_whose_connection_is_lost_goes_to_the_port_of_the_via() -> None:
    async with listening() as (transport, ear), peer_listening() as (address, peers):
        async with connected(transport.addresses[0]) as peer:
            peer.say(message("INVITE", via=f"127.0.0.1:{address[1]}"))
            assert await peer.status() == 100
            offered = await ear.wait_for(Offered)
        await closings(transport, "peer")
        transport.reject(offered.call, status=486)
        second = await peers.get()
        assert await second.status() == 486


@pytest.mark.conformance(
    "RFC 3261", "18.2.2", "a response whose connection is lost goes to the source address and the port of the sent-by"
)
@pytest.mark.parametrize(
    ("old", "new", "status"),
    [
        (b"Call-ID: c1", b"Record-Route: <sip:10.0.0.1;lr>\r\n" * 249 + b"Call-ID: c1", b"200"),
        (b"To: <sip:us@127.0.0.1>", b"To: <sip:us@127.0.0.1>;tag", b"400"),
        (b"To: <sip:us@127.0.0.1>", b'To: "<sip:us@127.0.0.1>', b"400"),
    ],
    ids=["as large as may be", "a tag without a value", "a To that cannot be read"],
)
async def test_what_a_response_copies_does_not_keep_it_from_another_connection(
    old: bytes, new: bytes, status: bytes
) -> None:
    answering = Ear(lambda event: transport.answer(event.call, body=b"v=0") if isinstance(event, Offered) else None)
    async with listening(ear=answering) as (transport, _), peer_listening() as (address, peers):
        lost = Flow("TCP", transport.addresses[0], ("127.0.0.1", 1), connection=1000)
        request = message("INVITE", via=f"127.0.0.1:{address[1]}").replace(old, new)
        transport.agent.receive(request, lost, transport.now())
        transport.flush()
        async with asyncio.timeout(5):
            second = await peers.get()
            while not (data := await second.reader.read(65536)).count(b"SIP/2.0 " + status):
                assert data
        assert transport.send_errors == 0


async def test_a_message_that_cannot_be_sent_costs_nobody_a_timer() -> None:
    """Whatever the fault: the next message goes out, and the deadlines of all calls are kept."""
    async with listening() as (transport, ear):
        told: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context))
        with plain_socket() as sock:
            unknown = Flow("UDP", ("192.0.2.1", 1), sock.getsockname())
            place(transport, unknown)
            place(transport, transport.flow_to(*sock.getsockname()))
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(5):
                first = await loop.sock_recv(sock, 65536)
                assert await loop.sock_recv(sock, 65536) == first
        await ear.wait_for(Ended)
        assert transport.send_errors == len(told) > 0


# --- Requests of ours


@pytest.mark.parametrize("host", LOCALHOSTS)
async def test_a_call_from_end_to_end_takes_one_connection(host: str) -> None:
    def pick_up(event: Event) -> None:
        if isinstance(event, Offered):
            callee.ring(event.call)
            callee.answer(event.call, body=b"answer")

    async with listening(host=host, ear=Ear(pick_up)) as (callee, callee_ear), listening(host=host) as (caller, ear):
        for number in range(2):
            call = place(caller, caller.flow_to(*callee.addresses[0], "TCP"))
            answered = await ear.wait_for(Answered)
            confirmed = await callee_ear.wait_for(Confirmed)
            if number:
                caller.bye(call)
            else:
                callee.bye(confirmed.call)
            await callee_ear.wait_for(Ended)
            await ear.wait_for(Ended)
            ear.events.clear()
            callee_ear.events.clear()
            assert answered.response.via.transport == "TCP"
            assert answered.response.contact.uri.transport == "tcp"
        assert (caller.connections().made, caller.connections().accepted) == (1, 0)
        assert (callee.connections().made, callee.connections().accepted) == (0, 1)
        assert callee.agent.counters().retransmissions_received == 0


@pytest.mark.conformance("RFC 3261", "18", "a request to where a connection comes from goes along that connection")
async def test_a_request_to_where_a_peer_has_connected_from_goes_along_that_connection() -> None:
    async with listening() as (transport, _), connected(transport.addresses[0]) as peer:
        peer.say(message())
        assert await peer.status() == 200
        place(transport, transport.flow_to(*peer.writer.get_extra_info("sockname"), "TCP"))
        invite = await peer.hear()
        assert isinstance(invite, Request)
        assert invite.method == "INVITE"
        assert invite.via.transport == "TCP"
        assert transport.connections().made == 0


@pytest.mark.conformance("RFC 3261", "8.1.3.1", "a transport error is taken for a 503")
async def test_a_refused_connection_fails_its_request_at_once() -> None:
    """As if 503 had come (RFC 3261 section 8.1.3.1), and not after 64*T1."""
    async with opened() as (transport, ear):
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            before = transport.now()
            place(transport, transport.flow_to(*closed.getsockname(), "TCP"))
            ended = await ear.wait_for(Ended)
        assert (ended.cause, ended.status) == (Cause.LOST, 503)
        assert transport.now() - before < QUICK.patience / 2
        assert transport.connections().closed == {"unreachable": 1}


async def test_a_connection_that_ends_fails_the_requests_along_it_at_once() -> None:
    async with listening() as (transport, ear), peer_listening() as (address, peers):
        place(transport, transport.flow_to(*address, "TCP"))
        peer = await peers.get()
        assert isinstance(await peer.hear(), Request)
        peer.writer.close()
        ended = await ear.wait_for(Ended)
        assert (ended.cause, ended.status) == (Cause.LOST, 503)


async def test_a_request_within_a_call_whose_connection_is_lost_goes_to_the_contact() -> None:
    async with listening() as (transport, ear), peer_listening() as (address, peers):
        async with connected(transport.addresses[0]) as peer:
            peer.say(message("INVITE").replace(b"a@127.0.0.1:5071", f"a@127.0.0.1:{address[1]}".encode()))
            assert await peer.status() == 100
            offered = await ear.wait_for(Offered)
            transport.answer(offered.call, body=b"answer")
            ok = await peer.hear()
            assert isinstance(ok, Response)
            ack = message("ACK").replace(b"To: <sip:us@127.0.0.1>", f"To: {ok.headers.get('To')}".encode())
            peer.say(ack)
            await ear.wait_for(Confirmed)
        await closings(transport, "peer")
        transport.bye(offered.call)
        second = await peers.get()
        bye = await second.hear()
        assert isinstance(bye, Request)
        assert bye.method == "BYE"


async def test_a_peer_that_does_not_take_the_connection_in_time_is_given_up() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        with socket.socket() as first, socket.socket() as second:
            for sock in (first, second):
                sock.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    sock.connect(full.getsockname())
            async with listening(StreamLimits(connect_s=0.1)) as (transport, ear):
                place(transport, transport.flow_to(*full.getsockname(), "TCP"))
                ended = await ear.wait_for(Ended)
                assert ended.status in (408, 503)


async def test_the_end_sends_what_has_been_written() -> None:
    async with peer_listening() as (address, peers):
        async with listening() as (transport, _):
            place(transport, transport.flow_to(*address, "TCP"))
            peer = await peers.get()
            assert isinstance(await peer.hear(), Request)
        assert await peer.closed()


async def test_what_listens_for_connections_is_named_when_its_port_is_taken() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        agent = Agent(random=random.SystemRandom())
        host, port = taken.getsockname()
        with pytest.raises(OSError, match=rf"cannot listen on {host} port {port} \(TCP\)"):
            async with Transport.open(agent, [(host, port)], deliver=Ear()):
                pass


async def test_datagrams_and_connections_do_not_mix() -> None:
    """A flow says which of the two it is: a response to a datagram never goes along a connection."""
    async with listening() as (transport, _), connected(transport.addresses[0]) as peer:
        peer.say(message())
        assert await peer.status() == 200
        with plain_socket() as sock:
            sock.sendto(message().replace(b"TCP", b"UDP").replace(b";branch", b";rport;branch"), transport.addresses[0])
            assert b"SIP/2.0 200" in await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, 65535), 5)


# --- Hardship


async def test_a_lack_of_descriptors_makes_peers_wait_and_harms_nobody() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with listening() as (transport, _), connected(transport.addresses[0]) as first:
        first.say(message())
        assert await first.status() == 200
        with socket.socket() as waiting:
            waiting.setblocking(False)
            taken: list[int] = []
            resource.setrlimit(resource.RLIMIT_NOFILE, (waiting.fileno() + 64, hard))
            try:
                with contextlib.suppress(OSError):
                    while True:
                        taken.append(os.dup(waiting.fileno()))
                await asyncio.get_running_loop().sock_connect(waiting, transport.addresses[0])
                waiting.send(message("OPTIONS", "c2"))
                first.say(message("OPTIONS", "c3"))
                assert await first.status() == 200
                assert transport.connections().accepted == 1
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                for descriptor in taken:
                    os.close(descriptor)
            answer = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(waiting, 65536), 5)
            assert answer.startswith(b"SIP/2.0 200")


async def test_a_peer_that_wants_tls_where_there_is_none_is_unreachable() -> None:
    async with listening() as (transport, ear):
        flow = Flow("TLS", transport.addresses[0], ("127.0.0.1", 9))
        place(transport, flow)
        ended = await ear.wait_for(Ended)
        assert (ended.cause, ended.status) == (Cause.LOST, 503)


async def test_random_streams_harm_nobody() -> None:
    """Mutilated messages in pieces of any size: each connection ends or goes on, and the next one is served."""
    dice = random.Random(5)
    seeds = [message(), message("INVITE"), message("BYE"), b"\r\n\r\n", b"SIP/2.0 200 OK\r\n" + message()[30:]]
    async with listening() as (transport, _):
        for _ in range(40):
            stream = bytearray(b"".join(dice.choices(seeds, k=5)))
            for _ in range(dice.randrange(1, 12)):
                stream[dice.randrange(len(stream))] = dice.randrange(256)
            async with connected(transport.addresses[0]) as peer:
                with contextlib.suppress(ConnectionError):
                    for at in range(0, len(stream), 97):
                        peer.say(bytes(stream[at : at + 97]))
                        await peer.writer.drain()
                peer.writer.write_eof()
                with contextlib.suppress(ConnectionError):
                    await asyncio.wait_for(peer.reader.read(), 5)
        async with connected(transport.addresses[0]) as peer:
            peer.say(message("OPTIONS", "last"))
            assert await peer.status() == 200
        assert transport.connections().accepted == 41
