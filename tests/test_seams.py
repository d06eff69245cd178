"""Where the parts of a call meet: what one of them does while another is at work, on a real server."""

from __future__ import annotations

import asyncio
import wave
from pathlib import Path

import numpy as np

import sip
from rtp.g711 import mulaw_decode
from tests.live import likeness, serving, spoken
from tests.test_attendant import QUIET, caller, conducted, gather, said, say, verbs
from tests.test_call_audio import attached
from tests.test_calls_api import api, states
from tests.test_calls_verbs import act, friend
from tests.test_webrtc import called
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


async def test_a_browser_breaks_in_while_it_is_recorded_and_an_agent_hears_it_and_speaks(
    tmp_path: Path,
) -> None:
    async with serving() as other:
        voice = await spoken(other.engine, "One, two, three, four, five, six, seven, eight, nine, ten.")
    route = [{"say": "a", "then": "stay", "stay_s": 60}]
    recordings = {"enabled": True, "path": str(tmp_path), "min_free_mb": 0}
    async with (
        called(sound=bytes(16_000) + voice, route=route, recordings=recordings) as (running, _, id),
        api(running) as client,
        attached(running, id, "format=mulaw") as agent,
    ):
        await agent.hears("start")
        recording = await act(client, id, "record", {}, status=201)
        await act(client, id, "say", {"text": 9 * LONG, "barge_in": ["speech"]}, status=202)
        await agent.line.send_bytes(b"\x01" * 8000)
        await agent.says(type="mark", name="all")
        await agent.hears("mark")
        await agent.until(lambda: alike(mulaw_decode(agent.heard), voice) > 0.99)
        await client.until(id, lambda told: states(told)[-1] == "spoken")
        await client.ask("DELETE", f"/v1/calls/{id}")
        await agent.hears("stop")
        told = await client.ended(id)
        with wave.open(str(tmp_path / f"{recording['id']}.wav")) as file:
            sides = np.frombuffer(file.readframes(file.getnframes()), np.int16).reshape(-1, 2)
    assert [(one["state"], one["barged_in_by"]) for one in told["speech"]] == [
        ("spoken", None),
        ("interrupted", "speech"),
        ("spoken", None),
    ]
    assert alike(sides[:, 0].tobytes(), voice) > 0.99
    assert np.count_nonzero(sides[:, 1] == np.frombuffer(mulaw_decode(b"\x01"), np.int16)) == 8000


def alike(heard: bytes, voice: bytes) -> float:
    """Of the best quarter of a second: a packet of the phone's that is late shifts what follows."""
    return max(likeness(heard, voice[at : at + 4000]) for at in range(0, 20_000, 4000))
