"""A peer that breaks in on what it hears: by a key, whichever way it comes, or by speaking."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import numpy as np
import pytest

import sip
from mediaserver.server import Server
from tests.http_support import parse_events
from tests.live import likeness, serving, spoken
from tests.test_calls_api import TEXT, WORDS, Client, api, states
from tests.test_calls_verbs import Friend, act, friend
from tests.test_referrals import Phone, phone

BY_KEY = {"barge_in": ["dtmf"]}
SILENCE = bytes(320)


async def key(callee: Phone, digit: str) -> None:
    """Have the phone send a digit by INFO; returns when the server has taken it."""
    offered = await callee.until(sip.Offered)
    assert isinstance(offered, sip.Offered)
    callee.events = [event for event in callee.events if not isinstance(event, sip.Responded)]
    callee.transport.request_within(offered.call, "INFO", body=digit.encode(), content_type="application/dtmf")
    responded = await callee.until(sip.Responded)
    assert isinstance(responded, sip.Responded)
    assert responded.response is not None
    assert responded.response.status == 200


def frames_of_speech(heard: bytes) -> int:
    return sum(heard[at : at + 320] != SILENCE for at in range(0, len(heard), 320))


async def logged(running: Server, client: Client, id: str, *kinds: str) -> list[tuple[str, dict[str, Any]]]:
    """What the event log has of these kinds once the call is hung up."""
    await client.ask("DELETE", f"/v1/calls/{id}")
    url = f"http://{running.http_address}/v1/calls/{id}/events"
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        events = parse_events((await response.read()).replace(b"retry: 2000\n\n", b""))
    return [(event.kind, json.loads(event.data)["details"]) for event in events if event.kind in kinds]


async def speaking(client: Client, id: str) -> None:
    await client.until(id, lambda told: bool(told["speech"]) and told["speech"][0]["spoken_ms"] > 200)


async def test_a_key_stops_what_is_being_said_within_20_ms_and_the_log_says_so_but_not_which_key() -> None:
    async with serving() as running, api(running) as client, phone() as callee:
        id = await client.place(callee.uri, text=TEXT, then="stay", **BY_KEY)
        await speaking(client, id)
        before = len(callee.ear.heard()) // 320
        await key(callee, "5")
        callee.ear.heard()
        await asyncio.sleep(0.3)
        assert before > 5
        assert frames_of_speech(callee.ear.heard()) <= 1
        told = await client.call(id)
        (said,) = told["speech"]
        assert (said["state"], said["barged_in_by"], told["state"]) == ("interrupted", "dtmf", "up")
        assert 200 < said["spoken_ms"] <= 20 * told["media"]["speech_frames"]
        (ended,) = await logged(running, client, id, "speech.ended")
    assert ended == (
        "speech.ended",
        {"id": said["id"], "state": "interrupted", "spoken_ms": said["spoken_ms"], "barged_in_by": "dtmf"},
    )


async def test_a_telephone_event_breaks_in_too() -> None:
    async with serving() as running, api(running) as client, friend() as callee:
        id = await client.place(callee.uri, text=TEXT, then="stay", **BY_KEY)
        await speaking(client, id)
        callee.media.stream.send_digits("1")
        told = await client.until(id, lambda told: states(told) == ["interrupted"])
        assert told["speech"][0]["barged_in_by"] == "dtmf"


async def test_a_key_breaks_in_when_it_goes_down_and_not_again_when_it_is_up() -> None:
    async with serving() as running, api(running) as client, friend() as callee:
        id = await client.place(callee.uri, text=TEXT, then="stay", **BY_KEY)
        await speaking(client, id)
        callee.media.stream.send_digits("1", duration_ms=1500)
        told = await client.until(id, lambda told: states(told) == ["interrupted"])
        assert told["digits"] == 0
        await act(client, id, "say", {"text": TEXT, **BY_KEY}, status=202)
        told = await client.until(id, lambda told: told["digits"] == 1)
        assert states(told) == ["interrupted", "speaking"]
        told = await client.until(id, lambda told: states(told)[1] == "spoken")
        assert [said["barged_in_by"] for said in told["speech"]] == ["dtmf", None]


async def test_what_waits_goes_if_the_same_may_break_in_on_it_and_the_rest_is_said() -> None:
    async with serving() as running, api(running) as client, phone() as callee:
        id = await client.place(callee.uri, text=TEXT, then="stay", **BY_KEY)
        for words, more in (("Never said.", BY_KEY), (WORDS, {}), ("Nor this.", {"barge_in": ["speech", "dtmf"]})):
            await act(client, id, "say", {"text": words, **more}, status=202)
        await speaking(client, id)
        await key(callee, "#")
        told = await client.until(id, lambda told: states(told)[2] == "spoken")
        assert states(told) == ["interrupted", "interrupted", "spoken", "interrupted"]
        assert [said["barged_in_by"] for said in told["speech"]] == ["dtmf", "dtmf", None, "dtmf"]
        assert [said["spoken_ms"] for said in told["speech"]][1::2] == [0, 0]
        assert likeness(callee.ear.heard(), await spoken(running.engine, WORDS)) > 0.98


async def test_a_key_does_not_break_in_on_what_does_not_allow_it() -> None:
    async with serving() as running, api(running) as client, phone() as callee:
        id = await client.place(callee.uri, text=WORDS, then="stay")
        await act(client, id, "say", {"text": TEXT, **BY_KEY}, status=202)
        await speaking(client, id)
        await key(callee, "5")
        await client.until(id, lambda told: states(told) == ["spoken", "speaking"])
        told = await client.until(id, lambda told: told["speech"][1]["spoken_ms"] > 200)
        await key(callee, "5")
        told = await client.until(id, lambda told: states(told) == ["spoken", "interrupted"])
        assert [said["barged_in_by"] for said in told["speech"]] == [None, "dtmf"]
        assert told["digits"] == 2


async def test_a_call_that_was_to_hang_up_after_its_words_does_so_when_it_is_broken_in_on() -> None:
    async with serving() as running, api(running) as client, phone() as callee:
        id = await client.place(callee.uri, text=TEXT, **BY_KEY)
        await speaking(client, id)
        await key(callee, "5")
        told = await client.ended(id)
        assert (told["end"]["reason"], states(told)) == ("completed", ["interrupted"])


async def test_a_key_before_the_words_begin_breaks_nothing_off() -> None:
    async with serving() as running, api(running) as client, phone() as callee:
        id = await client.place(callee.uri)
        await client.up(id)
        await key(callee, "5")
        await act(client, id, "say", {"text": "One.", **BY_KEY}, status=202)
        await client.until(id, lambda told: states(told) == ["spoken"])


@pytest.mark.parametrize("wrong", [["voice"], "dtmf", ["dtmf", "dtmf"], [1], None])
async def test_what_nobody_can_break_in_with_is_422(wrong: object) -> None:
    async with serving() as running, api(running) as client:
        order = {"to": "sip:a@127.0.0.1", "text": "a", "barge_in": wrong}
        status, told = await client.ask("POST", "/v1/calls", order)
        assert status == 422
        assert told["errors"][0]["field"].partition(".")[0] == "barge_in"


async def said_to_it(running: Server, callee: Friend, words: str) -> None:
    """Have the phone's owner say something."""
    stream = callee.media.stream
    await stream.write(await spoken(running.engine, words), 8000)
    stream.end()


async def test_speech_breaks_in_and_is_nobodys_business_where_only_a_key_may() -> None:
    by_voice = {"barge_in": ["speech"]}
    async with serving() as running, api(running) as client, friend() as callee:
        id = await client.place(callee.uri, text=TEXT, then="stay", **BY_KEY)
        await act(client, id, "say", {"text": f"{TEXT} {WORDS}", **by_voice}, status=202)
        await speaking(client, id)
        await said_to_it(running, callee, "Stop.")
        await client.until(id, lambda told: states(told) == ["spoken", "speaking"])
        await client.until(id, lambda told: told["speech"][1]["spoken_ms"] > 500)
        await said_to_it(running, callee, "Please stop talking to me now.")
        told = await client.until(id, lambda told: states(told) == ["spoken", "interrupted"])
        said = told["speech"][1]
        assert (said["barged_in_by"], told["state"]) == ("speech", "up")
        # What is decided after 80 ms of speech, and has to be heard first.
        assert 500 < said["spoken_ms"] < 1500
        call = running.switchboard.ledger.alive(id)
        assert call is not None
        assert call.media is not None
        assert call.media.ear._listening == []
        (_, first), (_, second) = await logged(running, client, id, "speech.ended")
        assert ("barged_in_by" in first, second["barged_in_by"]) == (False, "speech")


async def test_noise_on_the_line_breaks_nothing_off_and_neither_does_what_is_too_quiet() -> None:
    async with serving(calls={"barge_in_dbfs": -15}) as running, api(running) as client, friend() as callee:
        id = await client.place(callee.uri, text=TEXT, then="stay", barge_in=["speech"])
        await client.up(id)
        noise = (1000 * np.random.default_rng(1).standard_normal(16000)).astype(np.int16).tobytes()
        await callee.media.stream.write(noise, 8000)
        callee.media.stream.end()
        assert states(await client.until(id, lambda told: states(told) != ["speaking"])) == ["spoken"]
        await act(client, id, "say", {"text": TEXT, "barge_in": ["speech"]}, status=202)
        await client.until(id, lambda told: told["speech"][1]["spoken_ms"] > 200)
        quiet = np.frombuffer(await spoken(running.engine, "Stop it."), np.int16) // 8
        await callee.media.stream.write(quiet.tobytes(), 8000)
        callee.media.stream.end()
        told = await client.until(id, lambda told: states(told)[1] != "speaking")
        assert [said["barged_in_by"] for said in told["speech"]] == [None, None]
