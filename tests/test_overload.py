"""A full server under a flood of calls: each is refused in well under 5 ms, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import random
import socket
import statistics
import time

import pytest

import sip
from mediaserver import server
from sip.parser import parse_datagram

from .live import OFFER, anext_of, invited, serving, until_calls
from .test_leaks import memory, silent_log

__all__ = ["silent_log"]

ROUND = 2000
LATEST_S = 0.005


def invite(number: int, port: int) -> bytes:
    head = (
        f"INVITE sip:x@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:{port};branch=z9hG4bK{number};rport\r\n"
        f"Max-Forwards: 70\r\nFrom: <sip:a@127.0.0.1>;tag={number}\r\nTo: <sip:x@127.0.0.1>\r\n"
        f"Call-ID: {number}\r\nCSeq: 1 INVITE\r\nContact: <sip:a@127.0.0.1:{port}>\r\n"
        f"Content-Type: application/sdp\r\nContent-Length: {len(OFFER)}\r\n\r\n"
    )
    return head.encode() + OFFER


async def refused(running: server.Server, numbers: range) -> list[float]:
    """How long each of so many calls, one after another, waits to be turned away, in seconds."""
    loop = asyncio.get_running_loop()
    address = ("127.0.0.1", running.sip_address.port)
    waited = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as caller:
        caller.bind(("127.0.0.1", 0))
        caller.setblocking(False)
        for number in numbers:
            datagram = invite(number, caller.getsockname()[1])
            begun = time.perf_counter()
            caller.sendto(datagram, address)
            answer = await asyncio.wait_for(loop.sock_recv(caller, 4096), 5)
            waited.append(time.perf_counter() - begun)
            response = parse_datagram(answer)
            assert isinstance(response, sip.Response)
            assert (response.status, response.call_id) == (503, str(number))
            assert int(response.headers.get("Retry-After") or 0) > 0
    return waited


@pytest.mark.alone
@pytest.mark.usefixtures("silent_log")
@pytest.mark.conformance(
    "RFC 3261", "21.5.4", "who cannot be served now gets 503 with Retry-After, and leaves no state"
)
async def test_a_full_server_refuses_in_well_under_5_ms_and_keeps_nothing() -> None:
    events: asyncio.Queue[sip.Event] = asyncio.Queue()
    ours = sip.Agent(random=random.Random(1))
    route = [{"say": "a", "then": "stay", "stay_s": 60}]
    async with (
        serving(engine={"name": "tone"}, route=route, sip={"max_calls": 1}) as running,
        sip.Transport.open(ours, [("127.0.0.1", 0)], deliver=events.put_nowait) as transport,
    ):
        call = invited(running, transport, events, OFFER)
        await anext_of(events, sip.Answered)
        signalling = running.transport.agent
        await refused(running, range(ROUND))
        before, kept = signalling.counters(), memory()
        waited = await refused(running, range(ROUND, 2 * ROUND))
        after, still_kept = signalling.counters(), memory()
        assert statistics.median(waited) < LATEST_S
        assert after.turned_away == before.turned_away + ROUND
        assert after.calls_received == before.calls_received == 1
        # The transaction of the call that is up may end meanwhile.
        assert (after.dialogs, after.calls, len(running.switchboard)) == (before.dialogs, before.calls, 1)
        assert after.transactions <= before.transactions
        assert abs(still_kept[0] - kept[0]) < 100
        assert still_kept[1] - kept[1] < 200
        transport.bye(call)
        await until_calls(running, 0)
