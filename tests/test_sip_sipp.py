"""sipp, a peer that we did not write, against our agent on real sockets, in both directions: tests/sipp/*.xml."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sip import (
    Account,
    Agent,
    Answered,
    Cause,
    Ended,
    Event,
    FlowFailed,
    Guard,
    Keyring,
    Login,
    NameAddr,
    Offered,
    Progressed,
    Realm,
    Registered,
    Registration,
    RegistrationFailed,
    Reoffered,
    Responded,
    Timers,
    Transport,
    Unregistered,
    Uri,
)
from sip.registration import RegistrationEvent

SIPP = shutil.which("sipp")
SCENARIOS = Path(__file__).parent / "sipp"
SDP = b"v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 40000 RTP/AVP 0\r\n"

pytestmark = pytest.mark.skipif(SIPP is None, reason="sipp is not installed (Debian package sip-tester)")


class Desk:
    """A host that does with a call what the user part of the called URI says."""

    def __init__(self) -> None:
        self.transport: Transport
        self.events: list[Event] = []
        self.changed = asyncio.Event()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        self.changed.set()
        if isinstance(event, Offered):
            self._serve(event.call, event.request.uri.user)
        elif isinstance(event, Reoffered):
            if "X-Refuse" in event.request.headers:
                self.transport.reject(event.call, status=488)
            else:
                self.transport.answer(event.call, body=SDP)

    def _serve(self, call: str, wish: str) -> None:
        if wish == "busy":
            self.transport.reject(call, status=486)
            return
        if wish != "mute":
            self.transport.ring(call)
        if wish == "slow":
            asyncio.get_running_loop().call_later(0.2, lambda: self.transport.answer(call, body=SDP))
        elif wish != "ring":
            self.transport.answer(call, body=SDP)

    def kinds(self) -> list[str]:
        return [type(event).__name__ for event in self.events]

    async def ended(self, count: int) -> list[Ended]:
        async with asyncio.timeout(20):
            while len(over := [event for event in self.events if isinstance(event, Ended)]) < count:
                self.changed.clear()
                await self.changed.wait()
        return over


@contextlib.asynccontextmanager
async def desk(timers: Timers | None = None, host: Desk | None = None, **arguments: Any) -> AsyncIterator[Desk]:
    host = host or Desk()
    agent = Agent(random=random.SystemRandom(), timers=timers, **arguments)
    async with Transport.open(agent, [("127.0.0.1", 0)], deliver=host) as host.transport:
        yield host


@dataclass(frozen=True, slots=True)
class Sipp:
    process: asyncio.subprocess.Process

    async def finished(self, within_s: float = 40) -> None:
        output, _ = await asyncio.wait_for(self.process.communicate(), within_s)
        assert self.process.returncode == 0, output.decode(errors="replace")[-6000:]


async def sipp(scenario: str, *arguments: str, cwd: Path) -> Sipp:
    """Start sipp with one of our scenarios; every call has to succeed."""
    assert SIPP is not None
    command = [SIPP, "-sf", str(SCENARIOS / f"{scenario}.xml"), "-i", "127.0.0.1", "-nostdin"]
    command += ["-timeout", "30s", "-timeout_error", "-trace_err", "-error_file", "errors", *arguments]
    process = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    return Sipp(process)


async def call_us(desk: Desk, scenario: str, service: str, cwd: Path, *arguments: str, within_s: float = 40) -> None:
    host, port = desk.transport.addresses[0]
    run = await sipp(scenario, f"{host}:{port}", "-s", service, "-m", "1", *arguments, cwd=cwd)
    await run.finished(within_s)


def assert_nothing_live(desk: Desk) -> None:
    counters = desk.transport.agent.counters()
    assert (counters.calls, counters.dialogs) == (0, 0)
    assert counters.malformed == 0


# One socket for all calls: t1 is one connection, tn a connection for each call.
@pytest.mark.parametrize("transport", ["u1", "t1", "tn"])
async def test_fifty_calls_at_ten_a_second(transport: str, tmp_path: Path) -> None:
    async with desk() as host:
        await call_us(host, "uac_call", "any", tmp_path, "-m", "50", "-r", "10", "-t", transport, "-max_socket", "100")
        over = await host.ended(50)
        assert {event.cause for event in over} == {Cause.REMOTE_BYE}
        counters = host.transport.agent.counters()
        assert (counters.calls_received, counters.requests_received["BYE"]) == (50, 50)
        assert host.transport.connections().accepted == {"u1": 0, "t1": 1, "tn": 50}[transport]
        assert_nothing_live(host)


ONE_CALL = {
    "uac_delayed_offer": ("any", ["Offered", "Confirmed", "Ended"], Cause.REMOTE_BYE),
    "uac_cancel": ("ring", ["Offered", "Ended"], Cause.REMOTE_CANCEL),
    "uac_refused": ("busy", ["Offered", "Ended"], Cause.LOCAL_REJECT),
    "uac_retransmit": ("slow", ["Offered", "Confirmed", "Ended"], Cause.REMOTE_BYE),
    "uac_no_ack": ("mute", ["Offered", "Ended"], Cause.NO_ACK),
    "uac_reoffer": (
        "any",
        ["Offered", "Confirmed", "Reoffered", "Confirmed", "Reoffered", "Ended"],
        Cause.REMOTE_BYE,
    ),
}


# Over TCP sipp sends nothing again, and takes it amiss that a 2xx is (RFC 3261 section 13.3.1.4 wants it so).
ONE_CALL_OVER = [
    (scenario, transport)
    for scenario in ONE_CALL
    for transport in ("u1", "t1")
    if transport == "u1" or scenario not in ("uac_retransmit", "uac_no_ack")
]


@pytest.mark.parametrize(("scenario", "transport"), ONE_CALL_OVER)
async def test_sipp_calls_us(scenario: str, transport: str, tmp_path: Path) -> None:
    service, kinds, cause = ONE_CALL[scenario]
    timers = Timers(t1=0.02, t2=0.16, t4=0.2) if scenario == "uac_no_ack" else None
    async with desk(timers) as host:
        await call_us(host, scenario, service, tmp_path, "-t", transport)
        (over,) = await host.ended(1)
        assert over.cause is cause
        assert host.kinds() == kinds
        assert_nothing_live(host)


@pytest.mark.parametrize("scenario", ["uac_unknown_method", "uac_stray_bye", "uac_options", "uac_required_extension"])
async def test_sipp_is_answered_without_a_call(scenario: str, tmp_path: Path) -> None:
    async with desk() as host:
        await call_us(host, scenario, "any", tmp_path)
        assert host.events == []
        assert host.transport.agent.counters().transactions == 0


@contextlib.asynccontextmanager
async def sipp_serves(scenario: str, count: int, cwd: Path, transport: str = "u1") -> AsyncIterator[tuple[str, int]]:
    """sipp waits for `count` calls, and all of them must succeed."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        address = probe.getsockname()
    run = await sipp(scenario, "-p", str(address[1]), "-m", str(count), "-t", transport, cwd=cwd)
    yield address
    await run.finished()


async def listening_at(address: tuple[str, int]) -> None:
    """Wait until somebody takes connections there; over UDP a retransmission does the waiting."""
    async with asyncio.timeout(10):
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection(*address)
                writer.close()
                return
            await asyncio.sleep(0.05)


def place(host: Desk, address: tuple[str, int], transport: str = "UDP", keyring: Keyring | None = None) -> str:
    return host.transport.invite(
        Uri(user="sipp", host=address[0], port=address[1]),
        host.transport.flow_to(*address, transport),
        from_=NameAddr(uri=Uri(user="us", host="127.0.0.1")),
        body=SDP,
        keyring=keyring,
    )


@pytest.mark.parametrize(("transport", "option"), [("UDP", "u1"), ("TCP", "t1")])
async def test_we_call_sipp_and_hang_up(transport: str, option: str, tmp_path: Path) -> None:
    async with desk() as host, sipp_serves("uas_answer", 20, tmp_path, option) as address:
        if option == "t1":
            await listening_at(address)
        calls = {place(host, address, transport) for _ in range(20)}
        async with asyncio.timeout(20):
            while len([event for event in host.events if isinstance(event, Answered)]) < 20:
                host.changed.clear()
                await host.changed.wait()
        for call in calls:
            host.transport.bye(call)
        over = await host.ended(20)
        assert {event.call for event in over} == calls
        assert {event.cause for event in over} == {Cause.LOCAL_BYE}
        assert host.kinds().count("Progressed") == 20


async def test_we_call_sipp_and_it_hangs_up(tmp_path: Path) -> None:
    async with desk() as host, sipp_serves("uas_hang_up", 1, tmp_path) as address:
        call = place(host, address)
        (over,) = await host.ended(1)
        assert over == Ended(call=call, cause=Cause.REMOTE_BYE, status=None, reason="")
        assert host.kinds() == ["Answered", "Ended"]
        assert_nothing_live(host)


async def test_we_call_sipp_and_it_is_busy(tmp_path: Path) -> None:
    async with desk() as host, sipp_serves("uas_busy", 1, tmp_path) as address:
        call = place(host, address)
        (over,) = await host.ended(1)
        assert over == Ended(call=call, cause=Cause.REMOTE_REJECT, status=486, reason="Busy Here")
        assert_nothing_live(host)


async def test_we_call_sipp_and_give_up(tmp_path: Path) -> None:
    async with desk() as host, sipp_serves("uas_cancelled", 1, tmp_path) as address:
        call = place(host, address)
        async with asyncio.timeout(10):
            while not any(isinstance(event, Progressed) for event in host.events):
                host.changed.clear()
                await host.changed.wait()
        host.transport.cancel(call)
        (over,) = await host.ended(1)
        assert over == Ended(call=call, cause=Cause.LOCAL_CANCEL, status=487, reason="Request Terminated")
        assert_nothing_live(host)


# --- Proof, in both directions


class Registrant:
    """A host that keeps one registration going."""

    def __init__(self, account: Account, address: tuple[str, int]) -> None:
        self.transport: Transport
        self.told: list[RegistrationEvent] = []
        self.events: list[Event] = []
        self._account = account
        self._address = address
        self._changed = asyncio.Event()
        self.registration: Registration

    def __call__(self, event: Event) -> None:
        assert isinstance(event, Responded | FlowFailed)
        self.registration.receive(event, self.transport.now())
        self._changed.set()

    def begin(self) -> None:
        self.registration = Registration(
            self.transport.agent,
            self._account,
            [self.transport.flow_to(*self._address)],
            random=random.SystemRandom(),
            now=self.transport.now(),
        )
        self.transport.flush()

    async def told_next(self) -> RegistrationEvent:
        """Keep it going until something is to be told."""
        while (event := self.registration.next_event()) is None:
            wake_at = self.registration.wake_at()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if wake_at is None else max(0.0, wake_at - self.transport.now())):
                    await self._changed.wait()
            self._changed.clear()
            self.registration.handle_timer(self.transport.now())
            self.transport.flush()
        return event

    async def end(self) -> None:
        self.registration.unregister(self.transport.now())
        self.transport.flush()
        async with asyncio.timeout(10):
            assert await self.told_next() == Unregistered(confirmed=True)


@contextlib.asynccontextmanager
async def registrant(address: tuple[str, int], login: Login | None = None) -> AsyncIterator[Registrant]:
    account = Account(
        registrar=Uri(host=address[0], port=address[1]),
        address=NameAddr(uri=Uri(user="1000", host=address[0])),
        login=login,
    )
    host = Registrant(account, address)
    agent = Agent(random=random.SystemRandom())
    async with Transport.open(agent, [("127.0.0.1", 0)], deliver=host) as host.transport:
        host.begin()
        yield host


LOGIN = Login(username="1000", password="wonderland")


async def test_we_register_at_sipp_with_proof_renew_with_the_same_nonce_and_leave(tmp_path: Path) -> None:
    async with sipp_serves("uas_registrar", 1, tmp_path) as address, registrant(address, LOGIN) as host:
        first = await host.told_next()
        assert isinstance(first, Registered)
        assert first.expires_s == 2
        second = await host.told_next()
        assert isinstance(second, Registered)
        assert second.expires_s == 600
        await host.end()


async def test_we_ask_sipp_for_longer_after_423(tmp_path: Path) -> None:
    async with sipp_serves("uas_registrar_too_brief", 1, tmp_path) as address, registrant(address) as host:
        registered = await host.told_next()
        assert isinstance(registered, Registered)
        assert registered.expires_s == 7200
        await host.end()


async def test_we_come_back_to_sipp_when_retry_after_has_passed(tmp_path: Path) -> None:
    async with sipp_serves("uas_registrar_unavailable", 1, tmp_path) as address, registrant(address) as host:
        failed = await host.told_next()
        assert isinstance(failed, RegistrationFailed)
        assert (failed.status, 2.0 <= failed.retry_in_s <= 2.2) == (503, True)
        begin = host.transport.now()
        assert isinstance(await host.told_next(), Registered)
        assert host.transport.now() - begin >= 2.0
        await host.end()


async def test_we_call_through_sipp_that_wants_proof_of_every_request(tmp_path: Path) -> None:
    async with desk() as host, sipp_serves("uas_challenge", 1, tmp_path) as address:
        call = place(host, address, keyring=Keyring(LOGIN))
        async with asyncio.timeout(10):
            while not any(isinstance(event, Answered) for event in host.events):
                host.changed.clear()
                await host.changed.wait()
        host.transport.bye(call)
        (over,) = await host.ended(1)
        assert over.cause is Cause.LOCAL_BYE
        assert host.kinds() == ["Answered", "Ended"]


async def test_sipp_proves_who_it_is(tmp_path: Path) -> None:
    guard = Guard(
        realm=Realm("us", secret=random.randbytes(16), algorithms=("MD5",)), password_of={"alice": "wonderland"}.get
    )
    async with desk(guard_of=lambda request, flow: guard) as host:
        await call_us(host, "uac_challenged", "any", tmp_path)
        await host.ended(1)
        offered = host.events[0]
        assert isinstance(offered, Offered)
        assert offered.user == "alice"
        assert_nothing_live(host)
