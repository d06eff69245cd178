"""Thousands of calls in a row, in and out, ended by either side, leave everything where it was before."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import functools
import gc
import logging
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import structlog

import rtp
import sip
from mediaserver import server, switchboard
from mediaserver.events import EventLog
from mediaserver.ledger import Ledger
from mediaserver.media import Media
from sip import uri
from tests.live import rtp_ports, serving
from tests.test_referrals import TRUSTED, boss_of

# Each port rests for 5 s after a call, and so many ports are to suffice.
AT_ONCE = 16
# What a transaction over UDP lingers for after its end is 64*T1 (timers D, J, L, M); the rest is what a call lasts.
TIMERS = sip.Timers(t1=0.05, t2=0.2, t4=0.1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alive:
    """What there is of everything that a call needs."""

    descriptors: int
    tasks: int
    dialogs: int
    transactions: int
    streams: int
    ports_free: int
    calls: int


class Exchange:
    """Our own agent and media as the caller of a server: both ends of each call are the code under test."""

    def __init__(self, running: server.Server, transport: sip.Transport, endpoint: rtp.Endpoint) -> None:
        self.running = running
        self.transport = transport
        self.endpoint = endpoint
        self.waiting: dict[str, asyncio.Queue[sip.Event]] = {}
        self.expected: dict[str, asyncio.Future[sip.Offered]] = {}
        self.ports = self._ports()

    def deliver(self, event: sip.Event) -> None:
        assert event.call is not None
        if isinstance(event, sip.Offered):
            self.waiting[event.call] = asyncio.Queue()
            self.expected.pop(event.request.uri.user).set_result(event)
        else:
            self.waiting[event.call].put_nowait(event)

    async def call(self, user: str, *, hang_up: bool = False, refer_to: str = "") -> sip.Ended:
        """One call from its INVITE to its end; `hang_up` says whether we end it, `refer_to` whom the server calls."""
        media = Media(self.endpoint, host="127.0.0.1")
        key = self.transport.invite(
            sip.Uri.parse(f"sip:{user}@{self.running.sip_address}"),
            self.transport.flow_to("127.0.0.1", self.running.sip_address.port),
            from_=sip.NameAddr.parse("<sip:tester@127.0.0.1>"),
            body=media.offer(),
        )
        events = self.waiting[key] = asyncio.Queue()
        transfer: sip.Transfer | None = None
        while True:
            event = await events.get()
            if transfer is not None and transfer.receive(event, self.transport.now()):
                transfer.next_event()
                self.transport.flush()
                continue
            match event:
                case sip.Answered(response=response):
                    media.accept(response.body)
                    media.start()
                    if hang_up:
                        self.transport.bye(key)
                    elif refer_to:
                        transfer = self.refer(key, refer_to)
                case sip.Ended() as ended:
                    break
        media.close()
        await media.wait_closed()
        del self.waiting[key]
        return ended

    def refer(self, call: str, target: str) -> sip.Transfer:
        to = sip.NameAddr.parse(f"<{target}>")
        transfer = sip.Transfer(self.transport.agent, call, to, now=self.transport.now())
        self.transport.flush()
        return transfer

    async def be_called(self, user: str, *, hang_up: bool) -> sip.Ended:
        """One call of the server's from its INVITE to its end."""
        offered = await self.expected[user]
        media = Media(self.endpoint, host="127.0.0.1")
        self.transport.answer(offered.call, body=media.answer(offered.request.body))
        events = self.waiting[offered.call]
        while not isinstance(event := await events.get(), sip.Ended):
            if isinstance(event, sip.Confirmed):
                media.start()
                if hang_up:
                    self.transport.bye(offered.call)
        media.close()
        await media.wait_closed()
        del self.waiting[offered.call]
        return event

    async def errand(self, turn: int) -> sip.Ended:
        """Have the server call us, from within a call and from outside in turns, and hang up at every second pair."""
        user = f"errand{turn}"
        host, port = self.transport.addresses[0]
        target = f"sip:{user}@{host}:{port}?X-Speak=a"
        self.expected[user] = asyncio.get_running_loop().create_future()
        called = asyncio.create_task(self.be_called(user, hang_up=turn % 4 < 2))
        if turn % 2:
            ended = await self.call("long", refer_to=target)
            assert ended.cause is sip.Cause.REMOTE_BYE
        else:
            async with boss_of(self.running, target) as boss:
                assert (await boss.told_all())[-1] == "SIP/2.0 200 OK"
        return await called

    async def calls(self, count: int) -> dict[sip.Cause, int]:
        """So many calls, every second one ended by us; how they ended."""
        return await self._in_turn(
            count, lambda turn: self.call("short" if turn % 2 else "long", hang_up=turn % 2 == 0)
        )

    async def errands(self, count: int) -> dict[sip.Cause, int]:
        """So many errands; how the calls that the server placed ended."""
        return await self._in_turn(count, self.errand)

    async def _in_turn(self, count: int, live: Callable[[int], Awaitable[sip.Ended]]) -> dict[sip.Cause, int]:
        causes: dict[sip.Cause, int] = {}
        turns = iter(range(count))

        async def line() -> None:
            for turn in turns:
                ended = await live(turn)
                causes[ended.cause] = causes.get(ended.cause, 0) + 1

        async with asyncio.TaskGroup() as lines:
            for _ in range(AT_ONCE):
                lines.create_task(line())
        return causes

    async def alive(self) -> Alive:
        """What there is once all that lingers by the RFC's timers is over, and ports have rested."""
        agents = (self.transport.agent, self.running.switchboard._means.signalling.agent)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(30):
                while any(agent.counters().transactions for agent in agents) or self._ports() < self.ports:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
        gc.collect()
        counters = [agent.counters() for agent in agents]
        return Alive(
            descriptors=len(os.listdir("/proc/self/fd")),
            tasks=len(asyncio.all_tasks()),
            dialogs=sum(seen.dialogs for seen in counters),
            transactions=sum(seen.transactions for seen in counters),
            streams=self.endpoint.counters().streams + self.running.endpoint.counters().streams,
            ports_free=self._ports(),
            calls=len(self.running.switchboard),
        )

    def _ports(self) -> int:
        return self.endpoint.counters().ports_free + self.running.endpoint.counters().ports_free


Lives = Callable[[Exchange, int], Awaitable[dict[sip.Cause, int]]]


@asynccontextmanager
async def exchanging(*, recordings: Path | None = None) -> AsyncIterator[Exchange]:
    """A server, and what calls it, in this process. It records all calls into `recordings`, or none."""
    records = recordings is not None
    routes = [
        {"user": "short", "say": "a", "record": records},
        {"user": "long", "say": "a", "then": "stay", "stay_s": 30, "record": records},
    ]
    kept = {"enabled": records, "path": recordings, "min_free_mb": 0}
    exchanges: list[Exchange] = []
    agent = sip.Agent(random=random.Random(1), serve_within={"NOTIFY": ("message/sipfrag",)})
    first, last = (int(port) for port in rtp_ports().split("-"))
    async with (
        serving(
            engine={"name": "tone"},
            recordings=kept,
            route=routes,
            rtp={"ports": f"{first}-{first + 1499}"},
            sip=TRUSTED,
        ) as running,
        sip.Transport.open(agent, [("127.0.0.1", 0)], deliver=lambda event: exchanges[0].deliver(event)) as transport,
        rtp.Endpoint(host="127.0.0.1", ports=range(first + 1500, last), realtime=False, quarantine_s=0.1) as endpoint,
    ):
        exchanges.append(Exchange(running, transport, endpoint))
        yield exchanges[0]


class _MallocState(ctypes.Structure):
    """struct mallinfo2 of malloc.h."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()  # noqa: SIM905
    ]


def memory() -> tuple[int, int]:
    """Objects that the garbage collector knows, and KiB that malloc has given out: neither counts what is kept free."""
    gc.collect()
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = _MallocState
    state = mallinfo2()
    return len(gc.get_objects()), (state.uordblks + state.hblkhd) // 1024


@pytest.fixture
def silent_log() -> Iterator[None]:
    """What is logged of a call would be kept by pytest, and look like a leak."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


@pytest.mark.usefixtures("silent_log")
@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("lives", [Exchange.calls, Exchange.errands])
async def test_a_call_leaves_no_cycle_for_the_garbage_collector(
    lives: Lives, recorded: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sip, "Agent", functools.partial(sip.Agent, timers=TIMERS))
    async with exchanging(recordings=tmp_path if recorded else None) as exchange:
        await lives(exchange, AT_ONCE)
        await exchange.alive()
        gc.collect()
        gc.disable()
        try:
            await lives(exchange, 2 * AT_ONCE)
            await asyncio.sleep(64 * TIMERS.t1 + 1)
            assert gc.collect() < AT_ONCE
        finally:
            gc.enable()


@pytest.mark.usefixtures("silent_log")
@pytest.mark.parametrize("lives", [Exchange.calls, Exchange.errands])
@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.slow)])
async def test_calls_in_a_row_leave_nothing_behind(lives: Lives, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sip, "Agent", functools.partial(sip.Agent, timers=TIMERS))
    # What is remembered of calls that have ended, and of URIs, is bounded, and full before the first count.
    monkeypatch.setattr(switchboard, "Ledger", functools.partial(Ledger, count=AT_ONCE))
    monkeypatch.setattr(uri, "_parse_again", functools.lru_cache(maxsize=AT_ONCE)(uri._parse))
    monkeypatch.setattr(server, "EventLog", functools.partial(EventLog, count=AT_ONCE))
    async with exchanging() as exchange:
        await lives(exchange, 2 * AT_ONCE)  # what is made once and kept: caches, workers, threads' memory
        before = await exchange.alive()
        assert (before.dialogs, before.transactions, before.streams, before.calls) == (0, 0, 0, 0)
        assert before.ports_free == exchange.ports
        after = []
        for _ in range(2):
            causes = await lives(exchange, count)
            assert causes == {sip.Cause.LOCAL_BYE: count // 2, sip.Cause.REMOTE_BYE: count // 2}
            assert await exchange.alive() == before
            after.append(memory())
        (objects, kib), (objects_then, kib_then) = after
        assert abs(objects_then - objects) < 100
        assert abs(kib_then - kib) < 500
