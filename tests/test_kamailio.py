"""Kamailio, a proxy that we did not write, between a telephone and us."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

import sip
from mediaserver import softphone
from tests import kamailio
from tests.live import OFFER, anext_of, likeness, serving, spoken, until_calls
from tests.test_mediaserver_trunks import eventually

TEXT = "The quick brown fox jumps over the lazy dog."

pytestmark = pytest.mark.skipif(not kamailio.is_installed(), reason="Kamailio is not installed (Debian: kamailio)")


@pytest.mark.parametrize("parameters", ["", ";transport=tcp"])
async def test_call_through_a_record_routing_proxy_is_heard_and_ended_by_us(tmp_path: Path, parameters: str) -> None:
    async with (
        serving(route=[{"say": TEXT}]) as running,
        kamailio.kamailio(tmp_path, f"sip:{running.sip_address}{parameters}") as port,
    ):
        outcome = await softphone.call(softphone.Order(uri=f"sip:hello@127.0.0.1:{port}"))
        assert (outcome.answered, outcome.ended_by) == (True, "the peer hung up")
        assert likeness(outcome.heard, await spoken(running.engine, TEXT)) > 0.98
        await until_calls(running, 0)


async def test_requests_within_the_call_follow_the_route_in_both_directions(tmp_path: Path) -> None:
    events: asyncio.Queue[sip.Event] = asyncio.Queue()
    agent = sip.Agent(random=random.Random(1))
    async with (
        serving(engine={"name": "tone"}, route=[{"say": "a", "then": "stay", "stay_s": 30}]) as running,
        kamailio.kamailio(tmp_path, f"sip:{running.sip_address}") as port,
        sip.Transport.open(agent, [("127.0.0.1", 0)], deliver=events.put_nowait) as transport,
    ):
        call = transport.invite(
            sip.Uri.parse(f"sip:hello@127.0.0.1:{port}"),
            transport.flow_to("127.0.0.1", port),
            from_=sip.NameAddr.parse("<sip:tester@127.0.0.1>"),
            body=OFFER,
        )
        answered = await anext_of(events, sip.Answered)
        assert [str(route.uri.port) for route in answered.response.record_route] == [str(port)]
        transport.reoffer(call, body=OFFER.replace(b"1 1 IN", b"1 2 IN") + b"a=inactive\r\n")
        again = await anext_of(events, sip.Answered)
        assert b"a=inactive" in again.response.body
        transport.bye(call)
        await anext_of(events, sip.Ended)
        await until_calls(running, 0)
        requests = running.switchboard._means.signalling.agent.counters().requests_received
        assert (requests["INVITE"], requests["ACK"], requests["BYE"]) == (2, 2, 1)


async def test_cancel_through_the_proxy_ends_the_call_at_both_ends(tmp_path: Path) -> None:
    events: asyncio.Queue[sip.Event] = asyncio.Queue()
    heard: asyncio.Queue[sip.Event] = asyncio.Queue()
    caller, callee = sip.Agent(random=random.Random(1)), sip.Agent(random=random.Random(2))
    async with (
        sip.Transport.open(callee, [("127.0.0.1", 0)], deliver=heard.put_nowait) as there,
        kamailio.kamailio(tmp_path, f"sip:127.0.0.1:{there.addresses[0][1]}") as port,
        sip.Transport.open(caller, [("127.0.0.1", 0)], deliver=events.put_nowait) as here,
    ):
        call = here.invite(
            sip.Uri.parse(f"sip:hello@127.0.0.1:{port}"),
            here.flow_to("127.0.0.1", port),
            from_=sip.NameAddr.parse("<sip:tester@127.0.0.1>"),
            body=OFFER,
        )
        offered = await anext_of(heard, sip.Offered)
        there.ring(offered.call)
        await anext_of(events, sip.Progressed)
        here.cancel(call)
        ended, over = await anext_of(events, sip.Ended), await anext_of(heard, sip.Ended)
        assert (ended.cause, ended.status) == (sip.Cause.LOCAL_CANCEL, 487)
        assert over.cause is sip.Cause.REMOTE_CANCEL


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_we_register_with_proof_are_called_there_and_are_gone_afterwards(tmp_path: Path, transport: str) -> None:
    async with kamailio.kamailio(tmp_path, "sip:127.0.0.1:9") as port:
        order = softphone.Order(uri=f"sip:registered@127.0.0.1:{port}")
        trunk = {
            "name": "proxy",
            "targets": [f"127.0.0.1:{port};transport={transport}"],
            "username": "registered",
            "password": kamailio.PASSWORD,
            "register": True,
            "expires_s": 60,
            "probe_s": 0,
        }
        async with serving(trunk=[trunk], route=[{"say": TEXT}]) as running:
            await eventually(running, 'sip_registration_state{state="registered",trunk="proxy"}', 1)
            outcome = await softphone.call(order)
            assert (outcome.answered, outcome.ended_by) == (True, "the peer hung up")
            assert likeness(outcome.heard, await spoken(running.engine, TEXT)) > 0.98
        gone = await softphone.call(order)
        assert (gone.answered, gone.status) == (False, 480)


async def test_a_wrong_password_is_refused_by_the_registrar(tmp_path: Path) -> None:
    async with kamailio.kamailio(tmp_path, "sip:127.0.0.1:9") as port:
        trunk = {"name": "proxy", "targets": [f"127.0.0.1:{port}"], "username": "registered", "password": "guess"}
        async with serving(trunk=[trunk | {"register": True, "probe_s": 0}]) as running:
            await eventually(running, 'sip_registration_state{state="failed",trunk="proxy"}', 1)
