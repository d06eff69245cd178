"""REFER to a real server: "call this number and say this", within a call and outside, heard at the other end."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

import sip
from mediaserver import server
from mediaserver.call import TABLE, CallState
from mediaserver.config import Sip
from sip.parser import parse_datagram
from tests.live import OFFER, Ear, invited, likeness, serving, spoken, until_calls

TEXT = "The quick brown fox jumps over the lazy dog."
WORDS = "Pack my box with five dozen liquor jugs."
TRUSTED = {"refer": "trusted", "refer_networks": ["127.0.0.0/8"]}
LONG = [{"say": TEXT, "then": "stay", "stay_s": 60}]


class Phone:
    """A telephone with an ear: it rings, and answers, or refuses with `status`, unless that is 180.

    early  its description comes in a reliable 183, and not again
    """

    def __init__(self, *, status: int = 200, early: bool = False) -> None:
        self.status = status
        self.early = early
        self.ear = Ear()
        self.transport: sip.Transport
        self.events: list[sip.Event] = []
        self.transfer: sip.Transfer | None = None
        self.outcome: sip.Transferred | None = None
        self.notified: list[str] = []
        self._changed = asyncio.Event()

    @property
    def offer(self) -> bytes:
        return OFFER.replace(b"4000", str(self.ear.port).encode())

    @property
    def uri(self) -> str:
        host, port = self.transport.addresses[0]
        return f"sip:phone@{host}:{port}"

    def deliver(self, event: sip.Event) -> None:
        self.events.append(event)
        if isinstance(event, sip.Requested) and event.message.method == "NOTIFY":
            self.notified.append(event.message.body.decode().strip())
        now = self.transport.now()
        if isinstance(event, sip.Offered):
            if self.early:
                self.transport.ring(event.call, status=183, body=self.offer, reliable=True)
            else:
                self.transport.ring(event.call)
            if self.status == 200:
                self.transport.answer(event.call, body=self.offer)
            elif self.status > 200:
                self.transport.reject(event.call, status=self.status)
        elif self.transfer is not None and self.transfer.receive(event, now):
            self.outcome = self.transfer.next_event() or self.outcome
        elif isinstance(event, sip.Requested):
            self.transport.respond(event.request, 200)
        self._changed.set()

    async def until(self, kind: type[sip.Event]) -> sip.Event:
        """The first event of that kind, come already or to come."""
        async with asyncio.timeout(20):
            while not (found := [event for event in self.events if isinstance(event, kind)]):
                self._changed.clear()
                await self._changed.wait()
        return found[0]

    async def dial(self, running: server.Server) -> str:
        queue: asyncio.Queue[sip.Event] = asyncio.Queue()
        call = invited(running, self.transport, queue, self.offer)
        await self.until(sip.Answered)
        return call

    def refer(self, call: str, target: str | sip.NameAddr) -> None:
        to = sip.NameAddr.parse(f"<{target}>") if isinstance(target, str) else target
        self.transfer = sip.Transfer(self.transport.agent, call, to, now=self.transport.now())
        self.transport.flush()

    async def told(self) -> sip.Transferred:
        async with asyncio.timeout(20):
            while self.outcome is None:
                self._changed.clear()
                await self._changed.wait()
        return self.outcome


@asynccontextmanager
async def phone(*, status: int = 200, early: bool = False) -> AsyncIterator[Phone]:
    made = Phone(status=status, early=early)
    agent = sip.Agent(
        random=random.Random(), serve_within={"NOTIFY": ("message/sipfrag",)}, serve_outside={"NOTIFY": ()}
    )
    with made.ear:
        async with sip.Transport.open(agent, [("127.0.0.1", 0)], deliver=made.deliver) as made.transport:
            yield made


async def ordered(running: server.Server, caller: Phone, target: str, *fields: tuple[str, str]) -> sip.Response:
    """A REFER outside of calls; its response."""
    caller.transport.request(
        "REFER",
        sip.Uri.parse(f"sip:server@{running.sip_address}"),
        caller.transport.flow_to("127.0.0.1", running.sip_address.port),
        from_=sip.NameAddr.parse("<sip:boss@127.0.0.1>"),
        headers=(("Refer-To", f"<{target}>"), ("Contact", f"<{caller.uri}>"), *fields),
    )
    responded = await caller.until(sip.Responded)
    assert isinstance(responded, sip.Responded)
    assert responded.response is not None
    return responded.response


def said(words: str) -> str:
    return "X-Speak=" + words.replace(" ", "%20")


def test_every_state_of_a_call_reaches_the_end() -> None:
    for state in CallState:
        reached = {state}
        while grown := {to for (at, _), (to, _) in TABLE.items() if at in reached} - reached:
            reached |= grown
        assert CallState.ENDED in reached, state


def test_whoever_is_to_be_trusted_is_named() -> None:
    with pytest.raises(ValueError, match="needs refer_networks"):
        Sip(refer="trusted")


async def test_a_transferred_call_is_spoken_to_and_the_old_one_ends_when_that_is_known() -> None:
    async with serving(route=LONG, sip=TRUSTED) as running, phone() as caller, phone() as callee:
        call = await caller.dial(running)
        caller.refer(call, f"{callee.uri}?{said(WORDS)}&X-Speaker=de&X-Id=7&Subject=s")
        outcome = await caller.told()
        assert (outcome.outcome, outcome.status) == (sip.Outcome.SUCCEEDED, 200)
        assert caller.notified[0] == "SIP/2.0 100 Trying"
        assert caller.notified[-1] == "SIP/2.0 200 OK"
        offered = await callee.until(sip.Offered)
        assert isinstance(offered, sip.Offered)
        fields = offered.request.headers
        assert fields.get("Referred-By") == "<sip:tester@127.0.0.1>"
        assert (fields.get("X-Id"), fields.get("Subject"), fields.get("X-Speak")) == ("7", "s", None)
        assert offered.request.from_.uri.user == "x"
        ended = await caller.until(sip.Ended)
        assert isinstance(ended, sip.Ended)
        assert ended.cause is sip.Cause.REMOTE_BYE
        assert caller.events.index(ended) > max(
            index for index, event in enumerate(caller.events) if isinstance(event, sip.Requested)
        )
        await callee.until(sip.Ended)
        speech = await spoken(running.engine, WORDS, voice="de")
        assert likeness(callee.ear.heard(), speech) > 0.98
        await until_calls(running, 0)
        assert running.transport.agent.counters().calls == 0


async def test_without_words_the_target_hears_what_the_transferred_call_said() -> None:
    route = [{"say": TEXT, "voice": "de"}]
    async with serving(route=route, sip=TRUSTED) as running, phone() as caller, phone() as callee:
        caller.refer(await caller.dial(running), callee.uri)
        await callee.until(sip.Ended)
        assert likeness(callee.ear.heard(), await spoken(running.engine, TEXT, voice="de")) > 0.98


@pytest.mark.conformance("RFC 3262", "5", "the answer may come in a reliable provisional response")
async def test_a_target_whose_answer_comes_early_is_spoken_to() -> None:
    async with serving(route=LONG, sip=TRUSTED) as running, phone() as caller, phone(early=True) as callee:
        caller.refer(await caller.dial(running), f"{callee.uri}?{said(WORDS)}")
        await callee.until(sip.Ended)
        assert "SIP/2.0 183 Session Progress" in caller.notified
        assert likeness(callee.ear.heard(), await spoken(running.engine, WORDS)) > 0.98


@pytest.mark.conformance("RFC 5589", "7.1", "an attended transfer has the transferee call the target with a Replaces")
async def test_an_attended_transfer_takes_the_place_of_the_transferors_call() -> None:
    async with serving(route=LONG, sip=TRUSTED) as running, phone() as caller, phone() as callee:
        call = await caller.dial(running)
        asked = caller.transport.invite(
            sip.Uri.parse(callee.uri),
            caller.transport.flow_to(*callee.transport.addresses[0]),
            from_=sip.NameAddr.parse("<sip:caller@127.0.0.1>"),
            body=caller.offer,
        )
        await callee.until(sip.Confirmed)
        caller.refer(call, sip.refer_to_peer_of(caller.transport.agent, asked))
        assert (await caller.told()).outcome is sip.Outcome.SUCCEEDED
        first, second = (event for event in callee.events if isinstance(event, sip.Offered))
        assert (first.replaces, second.replaces) == (None, first.call)
        ended = await caller.until(sip.Ended)
        assert isinstance(ended, sip.Ended)
        assert (ended.call, ended.cause) == (asked, sip.Cause.REMOTE_BYE)
        await until_calls(running, 1)
        callee.transport.bye(second.call)
        await until_calls(running, 0)


async def test_a_target_that_is_busy_leaves_the_call_as_it_was() -> None:
    async with serving(route=LONG, sip=TRUSTED) as running, phone() as caller, phone(status=486) as callee:
        call = await caller.dial(running)
        caller.refer(call, f"{callee.uri}?{said(WORDS)}")
        outcome = await caller.told()
        assert (outcome.outcome, outcome.status, outcome.reason) == (sip.Outcome.FAILED, 486, "Busy Here")
        await asyncio.sleep(0.3)
        assert not any(isinstance(event, sip.Ended) for event in caller.events)
        caller.transport.bye(call)
        await until_calls(running, 0)
        assert likeness(caller.ear.heard(), (await spoken(running.engine, TEXT))[:3200]) > 0.9


async def test_a_call_that_has_said_all_meanwhile_ends_after_the_outcome() -> None:
    async with serving(route=[{"say": "a"}], sip=TRUSTED) as running, phone() as caller, phone(status=603) as callee:
        call = await caller.dial(running)
        caller.refer(call, callee.uri)
        await caller.told()
        ended = await caller.until(sip.Ended)
        assert isinstance(ended, sip.Ended)
        assert ended.cause is sip.Cause.REMOTE_BYE


async def test_a_transferor_that_hangs_up_at_once_leaves_the_other_leg_alive() -> None:
    async with serving(route=LONG, sip=TRUSTED) as running, phone() as caller, phone() as callee:
        call = await caller.dial(running)
        caller.refer(call, f"{callee.uri}?{said(WORDS)}")
        await caller.until(sip.Requested)
        caller.transport.bye(call)
        await callee.until(sip.Ended)
        assert likeness(callee.ear.heard(), await spoken(running.engine, WORDS)) > 0.98
        await until_calls(running, 0)


async def test_a_target_that_is_nowhere_is_not_found() -> None:
    async with serving(route=LONG, sip=TRUSTED) as running, phone() as caller:
        caller.refer(await caller.dial(running), "sip:nobody@nowhere.invalid")
        outcome = await caller.told()
        assert (outcome.outcome, outcome.status) == (sip.Outcome.FAILED, 404)


async def test_words_that_cannot_be_said_fail_the_transfer_before_anybody_is_called() -> None:
    async with serving(route=LONG, sip=TRUSTED) as running, phone() as caller, phone() as callee:
        caller.refer(await caller.dial(running), f"{callee.uri}?{said(WORDS)}&X-Speaker=nobody")
        outcome = await caller.told()
        assert (outcome.outcome, outcome.status) == (sip.Outcome.FAILED, 404)
        assert callee.events == []


@pytest.mark.conformance("RFC 3515", "2.4.2", "a REFER that policy refuses gets 603")
async def test_refer_is_for_those_who_are_trusted() -> None:
    async with serving(route=LONG) as running, phone() as caller:
        caller.refer(await caller.dial(running), "sip:a@127.0.0.1")
        assert (await caller.told()).status == 405
    others = {"refer": "trusted", "refer_networks": ["192.0.2.0/24"]}
    async with serving(route=LONG, sip=others) as running, phone() as caller:
        caller.refer(await caller.dial(running), "sip:a@127.0.0.1")
        assert (await caller.told()).status == 603
        assert (await ordered_anew(running, "sip:a@127.0.0.1")).status == 603


async def ordered_anew(running: server.Server, target: str) -> sip.Response:
    async with phone() as other:
        return await ordered(running, other, target)


class Boss(asyncio.DatagramProtocol):
    """Refers a server to somebody from outside of any call, and answers each NOTIFY with 200, on the bare wire.

    status  of the response to the REFER, 0 before that
    told    the Subscription-State and the status line of each NOTIFY, in the order of their CSeq
    """

    def __init__(self) -> None:
        self.status = 0
        self.told: list[tuple[str, str]] = []
        self._key = secrets.token_hex(8)
        self._sequence = 0
        self._over = asyncio.Event()
        self.wire: asyncio.DatagramTransport

    def refer(self, running: server.Server, target: str) -> None:
        host, port = self.wire.get_extra_info("sockname")
        self.wire.sendto(
            (
                f"REFER sip:server@{running.sip_address} SIP/2.0\r\n"
                f"Via: SIP/2.0/UDP {host}:{port};branch=z9hG4bK{self._key}\r\nMax-Forwards: 70\r\n"
                f"From: <sip:boss@{host}>;tag=1\r\nTo: <sip:server@{host}>\r\nCall-ID: {self._key}\r\nCSeq: 1 REFER\r\n"
                f"Contact: <sip:boss@{host}:{port}>\r\nRefer-To: <{target}>\r\nReferred-By: <sip:boss@{host}>\r\n\r\n"
            ).encode()
        )

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        message = parse_datagram(data)
        if isinstance(message, sip.Response):
            self.status = message.status
            return
        assert (message.method, message.to.tag, message.call_id) == ("NOTIFY", "1", self._key)
        assert message.headers.get("Event") == "refer"
        if message.cseq.number > self._sequence:
            self._sequence = message.cseq.number
            state = message.headers.get("Subscription-State") or ""
            self.told.append((state, message.body.decode().strip()))
        self.wire.sendto(message.response(200).serialise())
        if self.told[-1][0].startswith("terminated"):
            self._over.set()

    async def told_all(self) -> list[str]:
        """The status lines of the NOTIFYs, once the last has come; only that one ends the subscription."""
        async with asyncio.timeout(20):
            await self._over.wait()
        states = [state for state, _ in self.told]
        assert states == ["active;expires=60"] * (len(states) - 1) + ["terminated;reason=noresource"]
        return [line for _, line in self.told]


@asynccontextmanager
async def boss_of(running: server.Server, target: str) -> AsyncIterator[Boss]:
    """Somebody who has just referred the server to `target`."""
    loop = asyncio.get_running_loop()
    wire, boss = await loop.create_datagram_endpoint(Boss, remote_addr=("127.0.0.1", running.sip_address.port))
    boss.wire = wire
    try:
        boss.refer(running, target)
        yield boss
    finally:
        wire.close()


async def until_forgotten(running: server.Server) -> None:
    """Wait until no call, and no dialog of a REFER, is left."""
    async with asyncio.timeout(10):
        while running.transport.agent.counters().dialogs or len(running.switchboard):  # noqa: ASYNC110
            await asyncio.sleep(0.005)


@pytest.mark.conformance("RFC 3515", "2.4.4", "an accepted REFER gets 202 and then a NOTIFY at once")
@pytest.mark.conformance("RFC 3515", "2.4.7", "the last NOTIFY has the final status: terminated;reason=noresource")
async def test_outside_of_calls_a_number_is_called_and_told_something() -> None:
    async with serving(sip=TRUSTED) as running, phone() as callee:
        async with boss_of(running, f"{callee.uri}?{said(WORDS)}") as boss:
            offered = await callee.until(sip.Offered)
            assert isinstance(offered, sip.Offered)
            assert offered.request.headers.get("Referred-By") == "<sip:boss@127.0.0.1>"
            assert offered.request.from_.uri.user == "server"
            first, *between, last = await boss.told_all()
            assert (boss.status, first, last) == (202, "SIP/2.0 100 Trying", "SIP/2.0 200 OK")
            # It rings and is answered in one breath, so that the ringing may be old news.
            assert between in ([], ["SIP/2.0 180 Ringing"])
            await callee.until(sip.Ended)
        assert likeness(callee.ear.heard(), await spoken(running.engine, WORDS)) > 0.98
        await until_forgotten(running)


@pytest.mark.parametrize(("status", "line"), [(486, "486 Busy Here"), (603, "603 Decline")])
async def test_outside_of_calls_a_refusal_is_told_to_the_end(status: int, line: str) -> None:
    async with serving(engine={"name": "tone"}, sip=TRUSTED) as running, phone(status=status) as callee:
        async with boss_of(running, f"{callee.uri}?{said(WORDS)}") as boss:
            told = await boss.told_all()
            assert (told[0], told[-1]) == ("SIP/2.0 100 Trying", f"SIP/2.0 {line}")
        await until_forgotten(running)


async def test_limits_of_a_trunk_bind_the_calls_that_we_place_there() -> None:
    async with phone(status=180) as callee, phone() as boss:
        host = callee.uri.partition("@")[2]
        trunk = {"name": "carrier", "targets": [host], "max_calls": 1, "probe_s": 0}
        async with serving(sip=TRUSTED, trunk=[trunk]) as running:
            for status in (202, 202):
                assert (await ordered(running, boss, f"{callee.uri}?{said(WORDS)}")).status == status
            await callee.until(sip.Offered)
            await asyncio.sleep(0.3)
            assert sum(isinstance(event, sip.Responded) for event in boss.events) == 2
            assert len(running.switchboard) == 1


async def test_what_is_ordered_when_the_server_drains_is_given_up_and_the_call_goes_on() -> None:
    async with phone(status=180) as callee, phone() as caller, serving(route=LONG, sip=TRUSTED) as running:
        call = await caller.dial(running)
        caller.refer(call, f"{callee.uri}?{said(WORDS)}")
        await callee.until(sip.Offered)
        draining = asyncio.create_task(running.switchboard.drain(5))
        outcome = await caller.told()
        assert (outcome.outcome, outcome.status) == (sip.Outcome.FAILED, 487)
        ended = await caller.until(sip.Ended)
        assert isinstance(ended, sip.Ended)
        assert likeness(caller.ear.heard(), await spoken(running.engine, TEXT)) > 0.98
        await draining


async def test_what_is_ordered_when_the_server_stops_is_given_up() -> None:
    async with phone(status=180) as callee, phone() as caller:
        async with serving(route=LONG, sip=TRUSTED) as running:
            caller.refer(await caller.dial(running), f"{callee.uri}?{said(WORDS)}")
            await callee.until(sip.Offered)
            stopped = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - stopped < 3
        for side, cause in ((caller, sip.Cause.REMOTE_BYE), (callee, sip.Cause.REMOTE_CANCEL)):
            ended = await side.until(sip.Ended)
            assert isinstance(ended, sip.Ended)
            assert ended.cause is cause
