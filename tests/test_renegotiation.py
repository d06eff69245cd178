"""What a caller may do to the media of a call that is up, seen on the wire: hold, move, change, fall silent."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest

import rtp
import sip
from mediaserver import server
from mediaserver.media import Media
from rtp.packet import Packet, parse, serialise
from sip import sdp
from tests.live import OFFER, anext_of, dialled, invited, rtp_ports, serving, until_calls

SILENCE = 0xFF


class Telephone:
    """A call to a server whose media are the test's own datagrams."""

    def __init__(self, transport: sip.Transport, events: asyncio.Queue[sip.Event]) -> None:
        self.transport = transport
        self.events = events
        self.sockets = [self._bound(), self._bound()]
        self.server: tuple[str, int] = ("", 0)
        self.call = ""
        self.version = 1
        self.sequence = 0

    @staticmethod
    def _bound() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind(("127.0.0.1", 0))
        made.setblocking(False)
        return made

    def offer(self, *, at: int = 0, host: str = "127.0.0.1", codec: int = 0, extra: str = "") -> bytes:
        port = self.sockets[at].getsockname()[1]
        self.version += 1
        return (
            f"v=0\r\no=- 1 {self.version} IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 {host}\r\nt=0 0\r\n"
            f"m=audio {port} RTP/AVP {codec}\r\n{extra}"
        ).encode()

    async def dial(self, running: server.Server) -> None:
        self.call = invited(running, self.transport, self.events, self.offer())
        answered = await anext_of(self.events, sip.Answered)
        self.server = ("127.0.0.1", sdp.SessionDescription.parse(answered.response.body).media[0].port)

    async def reoffer(self, offer: bytes, *, by: str = "reoffer") -> sdp.SessionDescription:
        getattr(self.transport, by)(self.call, body=offer)
        answered = await anext_of(self.events, sip.Answered)
        return sdp.SessionDescription.parse(answered.response.body)

    def say(self, count: int = 1, *, at: int = 0, ssrc: int = 7) -> None:
        for _ in range(count):
            packet = Packet(
                payload_type=0,
                sequence=self.sequence,
                timestamp=160 * self.sequence,
                ssrc=ssrc,
                payload=bytes(160),
            )
            self.sockets[at].sendto(serialise(packet), self.server)
            self.sequence += 1

    async def heard(self, seconds: float, *, at: int = 0) -> list[Packet]:
        """What comes in the next seconds, all from before forgotten."""
        self._drain(at)
        await asyncio.sleep(seconds)
        return [parse(data) for data in self._drain(at)]

    def _drain(self, at: int) -> list[bytes]:
        found = []
        while True:
            try:
                found.append(self.sockets[at].recv(2048))
            except BlockingIOError:
                return found

    async def until_quiet(self, at: int = 0) -> None:
        while await self.heard(0.06, at=at):
            pass


@asynccontextmanager
async def talking(**sections: Any) -> AsyncIterator[tuple[server.Server, Telephone]]:
    """A server that stays on the line, and a telephone that has called it."""
    events: asyncio.Queue[sip.Event] = asyncio.Queue()
    agent = sip.Agent(random=random.Random(1))
    route = [{"say": "tone", "then": "stay", "stay_s": 20, "repeat": 40}]
    async with (
        serving(engine={"name": "tone"}, route=route, **sections) as running,
        sip.Transport.open(agent, [("127.0.0.1", 0)], deliver=events.put_nowait) as transport,
    ):
        telephone = Telephone(transport, events)
        try:
            await telephone.dial(running)
            while not await telephone.heard(0.05):
                pass
            yield running, telephone
        finally:
            for made in telephone.sockets:
                made.close()


@pytest.mark.parametrize("hold", [{"extra": "a=sendonly\r\n"}, {"extra": "a=inactive\r\n"}, {"host": "0.0.0.0"}])
async def test_hold_stops_the_packets_and_resume_goes_on_with_the_same_source(hold: dict[str, str]) -> None:
    async with talking(rtp={"silence_timeout_s": 0.3}) as (running, telephone):
        telephone.say(3)
        before = (await telephone.heard(0.05))[-1]
        answer = await telephone.reoffer(telephone.offer(**hold))
        if "extra" in hold:
            assert answer.direction_of(answer.media[0]).value in ("recvonly", "inactive")
        await telephone.until_quiet()
        assert await telephone.heard(0.5) == []
        assert len(running.switchboard) == 1  # silence on hold is no media timeout
        telephone.say(3)
        await telephone.reoffer(telephone.offer())
        telephone.say(3)
        after = (await telephone.heard(0.1))[0]
        assert after.ssrc == before.ssrc
        assert after.payload != bytes((SILENCE,)) * 160  # the queue was kept
        passed = (after.timestamp - before.timestamp) % 2**32
        assert passed >= 8 * 500
        assert passed % 160 == 0


async def test_first_packet_after_a_hold_has_the_marker() -> None:
    async with talking() as (_, telephone):
        await telephone.reoffer(telephone.offer(extra="a=inactive\r\n"))
        await telephone.until_quiet()
        telephone._drain(0)
        await telephone.reoffer(telephone.offer())
        await asyncio.sleep(0.1)
        first, *others = [parse(data) for data in telephone._drain(0)]
        assert first.marker
        assert not any(packet.marker for packet in others)


@pytest.mark.parametrize("by", ["reoffer", "update"])
async def test_reinvite_or_update_moves_the_stream_and_nothing_else(by: str) -> None:
    async with talking() as (_, telephone):
        before = (await telephone.heard(0.05))[-1]
        await telephone.reoffer(telephone.offer(at=1), by=by)
        moved = await telephone.heard(0.1, at=1)
        assert await telephone.heard(0.1, at=0) == []
        assert {packet.ssrc for packet in moved} == {before.ssrc}
        assert (moved[0].sequence - before.sequence) % 2**16 < 50


async def test_sessions_last_as_long_as_the_configuration_says() -> None:
    events: asyncio.Queue[sip.Event] = asyncio.Queue()
    agent = sip.Agent(random=random.Random(1), session_expires_s=90)
    async with (
        serving(engine={"name": "tone"}, sip={"session_expires_s": 600, "min_se_s": 120}) as running,
        sip.Transport.open(agent, [("127.0.0.1", 0)], deliver=events.put_nowait) as transport,
    ):
        offer = b"v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 40000 RTP/AVP 0\r\n"
        invited(running, transport, events, offer)
        answered = await anext_of(events, sip.Answered)
        # It asked for 90 s, was refused with 422, and asked again.
        assert answered.response.cseq.number == 2
        assert answered.response.headers.get("Session-Expires") == "120;refresher=uas"


async def test_reinvite_changes_codec_and_ptime() -> None:
    async with talking() as (_, telephone):
        before = (await telephone.heard(0.05))[-1]
        await telephone.reoffer(telephone.offer(codec=8, extra="a=ptime:40\r\n"))
        await telephone.heard(0.06)
        changed = await telephone.heard(0.3)
        assert {(packet.payload_type, len(packet.payload), packet.ssrc) for packet in changed} == {
            (8, 320, before.ssrc)
        }
        steps = {(after.timestamp - packet.timestamp) % 2**32 for packet, after in pairwise(changed)}
        assert steps == {320}


async def test_reinvite_that_cannot_be_taken_up_leaves_the_call_as_it_was() -> None:
    async with talking() as (_, telephone):
        telephone.transport.reoffer(telephone.call, body=telephone.offer(codec=18))
        refused = await anext_of(telephone.events, sip.Refused)
        assert refused.response.status == 488
        assert {packet.payload_type for packet in await telephone.heard(0.1)} == {0}


def written(method: str, number: int, port: int, *, to_tag: str = "", branch: str, body: bytes = b"") -> bytes:
    """A request of a caller at `port`, in the one dialog of its."""
    tag = f";tag={to_tag}" if to_tag else ""
    head = (
        f"{method} sip:x@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:{port};rport;branch=z9hG4bK{branch}\r\n"
        f"Max-Forwards: 70\r\nFrom: <sip:t@127.0.0.1>;tag=t\r\nTo: <sip:x@127.0.0.1>{tag}\r\nCall-ID: c\r\n"
        f"CSeq: {number} {method}\r\nContact: <sip:t@127.0.0.1:{port}>\r\n"
    )
    return f"{head}Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


async def test_reinvite_that_is_cancelled_at_once_leaves_the_call_and_its_media_as_they_were() -> None:
    loop = asyncio.get_running_loop()
    ears = [Telephone._bound() for _ in range(2)]
    offers = [OFFER.replace(b"4000", str(ear.getsockname()[1]).encode()) for ear in ears]
    with contextlib.ExitStack() as sockets:
        line, *_ = (sockets.enter_context(made) for made in (Telephone._bound(), *ears))
        port = line.getsockname()[1]

        async def response(method: str) -> tuple[int, str]:
            while True:
                parsed = sip.parse_datagram(await asyncio.wait_for(loop.sock_recv(line, 65535), 5))
                if isinstance(parsed, sip.Response) and parsed.status >= 200 and parsed.cseq.method == method:
                    return parsed.status, parsed.to.tag

        async with serving(engine={"name": "tone"}, route=[{"say": "a", "then": "stay"}]) as running:
            there = ("127.0.0.1", running.sip_address.port)
            line.sendto(written("INVITE", 1, port, branch="1", body=offers[0]), there)
            _, tag = await response("INVITE")
            line.sendto(written("ACK", 1, port, to_tag=tag, branch="2"), there)
            await loop.sock_recv(ears[0], 2048)
            # Both are there before the server reads the first.
            line.sendto(
                written("INVITE", 2, port, to_tag=tag, branch="3", body=offers[1].replace(b"1 1", b"1 2")), there
            )
            line.sendto(written("CANCEL", 2, port, to_tag=tag, branch="3"), there)
            assert [await response("CANCEL"), await response("INVITE")] == [(200, tag), (487, tag)]
            line.sendto(written("ACK", 2, port, to_tag=tag, branch="3"), there)
            for _ in range(30):
                await loop.sock_recv(ears[0], 2048)
            assert len(running.switchboard) == 1
            line.sendto(written("BYE", 3, port, to_tag=tag, branch="4"), there)
            assert await response("BYE") == (200, tag)


async def test_silent_caller_is_hung_up_on() -> None:
    async with talking(rtp={"silence_timeout_s": 0.4}) as (_, telephone):
        for _ in range(20):
            telephone.say()
            await asyncio.sleep(0.03)
        assert telephone.events.empty()
        ended = await asyncio.wait_for(anext_of(telephone.events, sip.Ended), 2)
        assert ended.cause is sip.Cause.REMOTE_BYE


async def test_session_refresh_does_not_open_the_latch() -> None:
    happened: list[object] = []
    caller, stranger = (Telephone._bound() for _ in range(2))
    offer = (
        "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
        f"m=audio {caller.getsockname()[1]} RTP/AVP 0\r\n"
    ).encode()
    ports = range(*(int(port) for port in rtp_ports().split("-")))
    async with rtp.Endpoint(host="127.0.0.1", ports=ports, realtime=False) as endpoint:
        media = Media(endpoint, host="127.0.0.1", deliver=happened.append)
        first = media.answer(offer)
        media.start()
        to = ("127.0.0.1", media.stream.port)
        for sequence in range(80):
            caller.sendto(serialise(_packet(sequence)), to)
            await asyncio.sleep(0.02)
        assert happened == [rtp.Latched(host="127.0.0.1", port=caller.getsockname()[1])]
        assert media.answer(offer) == first
        # Ours, sent once more and answered as it was.
        media.accept(offer)
        await asyncio.sleep(0.3)
        for sequence in range(10):
            stranger.sendto(serialise(_packet(sequence, ssrc=8)), to)
        await asyncio.sleep(0.2)
        assert len(happened) == 1
        media.close()
    caller.close()
    stranger.close()


def _packet(sequence: int, ssrc: int = 7) -> Packet:
    return Packet(payload_type=0, sequence=sequence, timestamp=160 * sequence, ssrc=ssrc, payload=bytes(160))


async def test_call_without_a_free_port_is_refused_and_harms_no_other() -> None:
    first = rtp_ports().partition("-")[0]
    async with talking(rtp={"ports": f"{first}-{int(first) + 1}"}) as (running, telephone):
        refused = await dialled(running, telephone.offer(at=1))
        assert (refused.cause, refused.status) == (sip.Cause.REMOTE_REJECT, 503)
        assert len(await telephone.heard(0.2)) >= 9
        await until_calls(running, 1)


async def test_garbage_on_the_media_ports_is_counted_and_not_logged(capsys: pytest.CaptureFixture[str]) -> None:
    chance = random.Random(2)
    async with talking() as (running, telephone):
        capsys.readouterr()
        host, port = telephone.server
        for _ in range(50):
            for n in range(20):
                telephone.sockets[n % 2].sendto(chance.randbytes(chance.randrange(300)), (host, port + n // 10))
            await asyncio.sleep(0.005)
        assert capsys.readouterr().out.count("\n") <= 1
        assert running.endpoint.counters().invalid > 100
        assert len(await telephone.heard(0.2)) >= 9


async def test_record_of_a_call_counts_its_last_packet(capsys: pytest.CaptureFixture[str]) -> None:
    async with talking() as (running, telephone):
        telephone._drain(0)
        sent = running.endpoint.counters().packets_sent
        telephone.transport.bye(telephone.call)
        await until_calls(running, 0)
        await asyncio.sleep(0.05)
        total = running.endpoint.counters().packets_sent
        assert sent <= total <= sent + len(telephone._drain(0)) + 1
    recorded = re.search(r"call ended.* packets_sent=(\d+)", capsys.readouterr().out)
    assert recorded is not None
    assert int(recorded[1]) == total
