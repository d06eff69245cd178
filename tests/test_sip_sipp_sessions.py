"""sipp against our agent: PRACK, UPDATE, session timers and delayed offers, in both directions (tests/sipp/*.xml)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from sip import Agent, Answered, Cause, Ended, Event, NameAddr, Transport, Uri

from .test_sip_sipp import SDP, Desk, assert_nothing_live, call_us, pytestmark, sipp_serves

__all__ = ["pytestmark"]


class EarlyDesk(Desk):
    """Has media before it answers, and hangs up as soon as it has done what `wish` says."""

    def __init__(self, wish: str = "") -> None:
        super().__init__()
        self.wish = wish
        self.updates = [SDP, b""]

    def __call__(self, event: Event) -> None:
        super().__call__(event)
        if isinstance(event, Answered):
            if event.offer:
                self.transport.acknowledge(event.call, body=SDP)
            if self.wish == "update" and self.updates:
                self.transport.update(event.call, body=self.updates.pop(0))
            else:
                self.transport.bye(event.call)

    def _serve(self, call: str, wish: str) -> None:
        if wish == "early":
            self.transport.ring(call, status=183, body=SDP)
            self.transport.answer(call, body=SDP)
        else:
            super()._serve(call, wish)


@asynccontextmanager
async def desk(wish: str = "") -> AsyncIterator[EarlyDesk]:
    host = EarlyDesk(wish)
    agent = Agent(random=random.SystemRandom())
    async with Transport.open(agent, [("127.0.0.1", 0)], deliver=host) as host.transport:
        yield host


CALLED = {
    "uac_prack": ("early", ["Offered", "Acknowledged", "Confirmed", "Ended"]),
    "uac_update": ("any", ["Offered", "Confirmed", "Reoffered", "Reoffered", "Ended"]),
    "uac_session_timer": ("any", ["Offered", "Confirmed", "Ended"]),
}


@pytest.mark.parametrize("scenario", CALLED)
async def test_sipp_calls_us(scenario: str, tmp_path: Path) -> None:
    service, kinds = CALLED[scenario]
    async with desk() as host:
        await call_us(host, scenario, service, tmp_path)
        (over,) = await host.ended(1)
        assert over.cause is Cause.REMOTE_BYE
        assert host.kinds() == kinds
        assert_nothing_live(host)


@pytest.mark.slow
async def test_sipp_is_sent_a_refresh_at_half_the_interval(tmp_path: Path) -> None:
    async with desk() as host:
        await call_us(host, "uac_refreshed", "any", tmp_path, "-timeout", "60s", within_s=60)
        (over,) = await host.ended(1)
        assert over.cause is Cause.REMOTE_BYE
        assert host.transport.agent.counters().requests_sent == {"UPDATE": 1}
        assert_nothing_live(host)


CALLING = {
    "uas_prack": ("", SDP, ["Progressed", "Answered", "Ended"]),
    "uas_update": ("update", SDP, ["Answered", "Answered", "Answered", "Ended"]),
    "uas_session_timer": ("", SDP, ["Answered", "Ended"]),
    "uas_delayed_offer": ("", b"", ["Answered", "Ended"]),
}


@pytest.mark.parametrize("scenario", CALLING)
async def test_we_call_sipp(scenario: str, tmp_path: Path) -> None:
    wish, body, kinds = CALLING[scenario]
    async with desk(wish) as host:
        async with sipp_serves(scenario, 1, tmp_path) as address:
            host.transport.invite(
                Uri(user="sipp", host=address[0], port=address[1]),
                host.transport.flow_to(*address, "UDP"),
                from_=NameAddr(uri=Uri(user="us", host="127.0.0.1")),
                body=body,
            )
            (over,) = await host.ended(1)
        assert isinstance(over, Ended)
        assert over.cause is Cause.LOCAL_BYE
        assert host.kinds() == kinds
        async with asyncio.timeout(5):
            while host.transport.agent.counters().dialogs:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert_nothing_live(host)
