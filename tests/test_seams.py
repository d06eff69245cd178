"""Where the parts of a call meet: what one of them does while another is at work, on a real server."""

from __future__ import annotations

import asyncio

import sip
from tests.live import serving
from tests.test_attendant import QUIET, caller, conducted, gather, said, say, verbs
from tests.test_call_audio import attached
from tests.test_calls_api import api, states
from tests.test_calls_verbs import act, friend
from tests.webhook_support import hook, never

LONG = "This takes a while to be said, so that there is time for something else."


async def test_a_key_for_a_question_that_waits_leaves_what_may_not_be_broken_in_on() -> None:
    async with hook() as ivr, caller() as peer, serving(**conducted(ivr), **QUIET) as running, api(running) as client:
        ivr.manners = [
            verbs({"verb": "pause", "duration_ms": 500}, gather(prompts=[say("Which?")], max_digits=1)),
            verbs({"verb": "hangup"}),
        ]
        peer.dial(running)
        await ivr.until(lambda ivr: len(ivr.told) == 1)
        id = ivr.told[0]["call"]["id"]
        await client.up(id)
        await act(client, id, "say", {"text": LONG}, status=202)
        await client.until(id, lambda told: len(told["speech"]) == 2)
        await peer.key("7")
        await ivr.until(lambda ivr: len(ivr.told) == 2)
        told = await client.ended(id)
    assert ivr.told[1]["result"]["digits"] == "7"
    assert said(told) == [(LONG, "spoken"), ("Which?", "interrupted")]


async def test_a_transfer_that_fails_while_the_server_drains_leaves_no_call_to_an_agent() -> None:
    async with serving(**QUIET) as running, api(running) as client, friend() as callee:
        id = await client.place(callee.uri, stay=60)
        await client.up(id)
        async with attached(running, id) as agent:
            await agent.hears("start")
            asking = asyncio.create_task(client.ask("POST", f"/v1/calls/{id}/transfer", {"to": "sip:bob@127.0.0.1"}))
            await client.until(id, lambda told: bool(callee.referred))
            draining = asyncio.create_task(running.switchboard.drain(20))
            await asyncio.sleep(0.1)
            callee.notify("SIP/2.0 486 Busy Here", last=True)
            assert (await asking)[1]["outcome"] == "failed"
            async with asyncio.timeout(3):
                await draining
            await agent.hears("stop")


async def test_an_agent_who_comes_while_the_server_drains_holds_no_call() -> None:
    async with serving(**QUIET) as running, api(running) as client, friend() as callee:
        id = await client.place(callee.uri, text=LONG, stay=60)
        await client.until(id, lambda told: states(told) == ["speaking"])
        draining = asyncio.create_task(running.switchboard.drain(20))
        await client.until(id, lambda told: states(told) == ["spoken"])
        async with attached(running, id) as agent:
            await agent.hears("stop")
            assert await agent.closed() == 1000
        await asyncio.wait_for(draining, 3)


async def test_a_transfer_by_the_api_that_fails_leaves_the_question_open_that_was_asked() -> None:
    async with hook() as ivr, caller() as peer, serving(**conducted(ivr), **QUIET) as running, api(running) as client:
        ivr.manners = [verbs(gather(max_digits=1, first_digit_timeout_ms=20_000)), verbs({"verb": "hangup"})]
        peer.dial(running)
        await ivr.until(lambda ivr: len(ivr.told) == 1)
        id = ivr.told[0]["call"]["id"]
        await client.up(id)
        told = await act(client, id, "transfer", {"to": "sip:bob@127.0.0.1"})
        assert (told["outcome"], told["sip_status"]) == ("failed", 603)
        await peer.key("7")
        await ivr.until(lambda ivr: len(ivr.told) == 2)
        assert (await client.ended(id))["end"]["reason"] == "completed"
    assert ivr.told[1]["result"]["digits"] == "7"


async def test_a_server_that_drains_waits_for_no_webhook() -> None:
    async with hook() as ivr, caller() as peer:
        async with serving(**conducted(ivr, webhook_timeout_ms=20_000), **QUIET) as running:
            ivr.manners = [verbs(say("a"), {"verb": "redirect", "url": "/next"}), never]
            peer.dial(running)
            await ivr.until(lambda ivr: ivr.requests == 2)
            await asyncio.wait_for(running.switchboard.drain(20), 3)
        assert (await peer.over()).cause is sip.Cause.REMOTE_BYE
