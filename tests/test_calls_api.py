"""/v1/calls on a real server, with telephones at the other end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

import sip
from mediaserver import server
from mediaserver.detail import outcome_of
from tests.live import heard, likeness, serving, spoken, until_calls
from tests.test_referrals import phone

TEXT = "The quick brown fox jumps over the lazy dog."
WORDS = "Pack my box with five dozen liquor jugs."
Told = dict[str, Any]


class Client:
    """A client of the API of a running server."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        async with self._session.request(method, path, json=body) as response:
            return response.status, await response.json() if response.content_length else None

    async def place(self, to: str, **fields: Any) -> str:
        status, told = await self.ask("POST", "/v1/calls", {"to": to} | fields)
        assert status == 201, told
        return str(told["id"])

    async def call(self, id: str) -> Told:
        status, told = await self.ask("GET", f"/v1/calls/{id}")
        assert status == 200
        return dict(told)

    async def until(self, id: str, found: Callable[[Told], bool]) -> Told:
        """The call as soon as it is so."""
        async with asyncio.timeout(20):
            while not found(told := await self.call(id)):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        return told

    async def ended(self, id: str) -> Told:
        return await self.until(id, lambda told: told["state"] == "ended")

    async def up(self, id: str) -> Told:
        return await self.until(id, lambda told: told["state"] == "up")


@asynccontextmanager
async def api(running: server.Server) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession(f"http://{running.http_address}") as session:
        yield Client(session)


def states(told: Told) -> list[str]:
    return [said["state"] for said in told["speech"]]


async def test_whoever_is_called_hears_the_text_and_the_call_ends_when_it_is_said() -> None:
    async with serving() as running, api(running) as client, phone() as callee:
        id = await client.place(callee.uri, text=TEXT, headers={"X-Order": "4711"}, **{"from": "sip:desk@example.com"})
        told = await client.ended(id)
        offered = await callee.until(sip.Offered)
        assert isinstance(offered, sip.Offered)
        assert offered.request.headers.get("X-Order") == "4711"
        assert str(offered.request.from_.uri) == "sip:desk@example.com"
        assert likeness(callee.ear.heard(), await spoken(running.engine, TEXT)) > 0.98
    assert (told["direction"], told["from"], told["to"]) == ("outbound", "sip:desk@example.com", callee.uri)
    assert told["end"] == {"reason": "completed", "by": "server", "sip_status": None, "sip_reason": ""}
    assert told["created_at"] < told["ringing_at"] < told["answered_at"] < told["ended_at"]
    (said,) = told["speech"]
    assert (said["state"], said["text"], said["ssml"], said["speaker_id"]) == ("spoken", TEXT, False, "default")
    assert (told["media"]["codec"], told["media"]["underruns"]) == ("PCMU", 0)
    assert told["media"]["packets_sent"] >= told["media"]["speech_frames"] > 50
    assert abs(said["spoken_ms"] - told["media"]["speech_frames"] * 20) <= 40


async def test_a_call_that_came_is_seen_too() -> None:
    async with serving(route=[{"say": TEXT, "voice": "en-gb-x-rp"}]) as running, api(running) as client:
        await heard(running, "inbound")
        await until_calls(running, 0)
        _, told = await client.ask("GET", "/v1/calls")
        (call,) = told["calls"]
        details = await client.call(call["id"])
    assert (call["direction"], call["to"]) == ("inbound", f"sip:inbound@{running.sip_address}")
    assert (details["speech"][0]["text"], states(details)) == (TEXT, ["spoken"])
    assert call == {name: details[name] for name in call}


@pytest.mark.parametrize(
    ("status", "reason"),
    [(486, "busy"), (603, "declined"), (480, "unavailable"), (404, "not_found"), (500, "failed")],
)
async def test_why_a_call_was_not_answered_is_told(status: int, reason: str) -> None:
    async with serving() as running, api(running) as client, phone(status=status) as callee:
        told = await client.ended(await client.place(callee.uri, text=TEXT))
    assert (told["end"]["reason"], told["end"]["by"], told["end"]["sip_status"]) == (reason, "peer", status)
    assert (told["answered_at"], states(told)) == (None, ["interrupted"])


@pytest.mark.parametrize(
    ("status", "reason"),
    [(None, "unreachable"), (503, "unreachable"), (600, "busy"), (407, "forbidden"), (699, "failed")],
)
def test_every_final_status_has_a_reason(status: int | None, reason: str) -> None:
    assert outcome_of(status) == reason


async def test_a_call_that_nobody_answers_is_given_up_after_ring_timeout() -> None:
    async with serving() as running, api(running) as client, phone(status=180) as callee:
        id = await client.place(callee.uri, text=TEXT, ring_timeout=1)
        await client.until(id, lambda told: told["state"] == "ringing")
        told = await client.ended(id)
        ended = await callee.until(sip.Ended)
    assert isinstance(ended, sip.Ended)
    # Our Expires tells it as much as our CANCEL, which may be later.
    assert ended.cause in (sip.Cause.REMOTE_CANCEL, sip.Cause.NO_ANSWER)
    assert (told["end"]["reason"], told["end"]["by"]) == ("no_answer", "peer")


async def test_nobody_at_the_address_is_unreachable() -> None:
    async with serving() as running, api(running) as client:
        told = await client.ended(await client.place("sip:nobody@127.0.0.1:9;transport=tcp", text=TEXT))
    assert told["end"]["reason"] == "unreachable"


async def test_a_call_is_hung_up_once_and_again_in_every_state() -> None:
    async with serving() as running, api(running) as client, phone(status=180) as ringing, phone() as callee:
        id = await client.place(ringing.uri, text=TEXT)
        await client.until(id, lambda told: told["state"] == "ringing")
        for _ in range(2):
            assert await client.ask("DELETE", f"/v1/calls/{id}") == (204, None)
        assert (await client.ended(id))["end"]["reason"] == "cancelled"
        assert await client.ask("DELETE", f"/v1/calls/{id}") == (204, None)
        id = await client.place(callee.uri)
        await client.up(id)
        await client.ask("DELETE", f"/v1/calls/{id}")
        assert (await client.ended(id))["end"] == {
            "reason": "hung_up",
            "by": "server",
            "sip_status": None,
            "sip_reason": "",
        }
        await until_calls(running, 0)


async def test_a_peer_that_hangs_up_is_told() -> None:
    async with serving() as running, api(running) as client, phone() as callee:
        id = await client.place(callee.uri, text=TEXT)
        await client.until(id, lambda told: states(told) == ["speaking"])
        offered = await callee.until(sip.Offered)
        assert isinstance(offered, sip.Offered)
        callee.transport.bye(offered.call)
        told = await client.ended(id)
    assert (told["end"]["reason"], told["end"]["by"], states(told)) == ("hung_up", "peer", ["interrupted"])


@pytest.mark.parametrize(
    ("fields", "status", "field"),
    [
        ({"to": "sip:a@192.0.2.1"}, 403, "to"),
        ({"to": "sip:a@8.8.8.8;transport=tcp"}, 403, "to"),
        ({"to": "sip:a@224.0.0.1"}, 403, "to"),
        ({"to": "sip:a@0.0.0.0"}, 403, "to"),
        ({"to": "sip:a@127.0.0.1;maddr=192.0.2.1"}, 422, "to"),
        ({"to": "sip:a@127.0.0.1?X-A=b"}, 422, "to"),
        ({"to": "sip:a@nowhere.invalid"}, 422, "to"),
        ({"to": "+442079460123"}, 422, "to"),
        ({"to": "tel:+442079460123"}, 422, "to"),
        ({"to": "http://127.0.0.1/"}, 422, "to"),
        ({"to": "+4420", "trunk": "nobody"}, 404, "trunk"),
        ({"to": "sip:a@127.0.0.1", "from": "<sip:a@b>;tag=1\0"}, 422, "from"),
        ({"to": "sip:a@127.0.0.1", "from": "a b"}, 422, "from"),
        ({"to": "sip:a@127.0.0.1", "speaker_id": "nobody"}, 404, "speaker_id"),
        ({"to": "sip:a@127.0.0.1", "ssml": "<speak>"}, 422, "ssml"),
    ],
)
async def test_this_server_is_no_dialler_to_anywhere(fields: Told, status: int, field: str) -> None:
    async with serving() as running, api(running) as client:
        answered, told = await client.ask("POST", "/v1/calls", fields)
        assert (answered, told["errors"][0]["field"]) == (status, field), told
        assert await client.ask("GET", "/v1/calls") == (200, {"calls": []})


async def test_networks_say_where_calls_may_lead() -> None:
    async with serving(calls={"networks": []}) as running, api(running) as client, phone() as callee:
        assert (await client.ask("POST", "/v1/calls", {"to": callee.uri}))[0] == 403


async def test_a_number_is_called_by_a_trunk_whatever_the_networks() -> None:
    async with phone() as callee:
        host, port = callee.transport.addresses[0]
        trunk = {"name": "carrier", "targets": [f"{host}:{port}"], "username": "1000", "probe_s": 0}
        async with serving(trunk=[trunk], calls={"networks": []}) as running, api(running) as client:
            id = await client.place("+442079460123", trunk="carrier", text=TEXT)
            told = await client.ended(id)
        offered = await callee.until(sip.Offered)
    assert isinstance(offered, sip.Offered)
    assert str(offered.request.uri) == f"sip:+442079460123@{host}:{port}"
    assert str(offered.request.from_.uri) == f"sip:1000@{host}"
    assert (told["trunk"], told["end"]["reason"]) == ("carrier", "completed")


async def test_a_server_that_is_full_or_drains_places_no_call() -> None:
    async with serving(sip={"max_calls": 1}) as running, api(running) as client, phone() as callee:
        id = await client.place(callee.uri)
        assert (await client.ask("POST", "/v1/calls", {"to": callee.uri}))[0] == 503
        await client.ask("DELETE", f"/v1/calls/{id}")
        await until_calls(running, 0)
        await running.switchboard.drain(1)
        assert (await client.ask("POST", "/v1/calls", {"to": callee.uri}))[0] == 503


async def test_words_are_queued_and_said_one_after_the_other() -> None:
    async with serving() as running, api(running) as client, phone() as callee:
        id = await client.place(callee.uri, speaker_id="en-gb-x-rp")
        await client.up(id)
        for words in (TEXT, WORDS):
            status, told = await client.ask("POST", f"/v1/calls/{id}/say", {"text": words})
            assert (status, told["state"], told["speaker_id"]) == (202, "queued", "en-gb-x-rp")
        told = await client.until(id, lambda told: states(told) == ["spoken", "spoken"])
        assert told["state"] == "up"
        ear = callee.ear.heard()
        for words in (TEXT, WORDS):
            assert likeness(ear, await spoken(running.engine, words, voice="en-gb-x-rp")) > 0.98


async def test_words_that_interrupt_are_heard_and_what_they_cut_off_says_how_far_it_came() -> None:
    async with serving() as running, api(running) as client, phone() as callee:
        id = await client.place(callee.uri, text=TEXT, then="stay")
        await client.until(id, lambda told: bool(told["speech"]) and told["speech"][0]["spoken_ms"] > 300)
        await client.ask("POST", f"/v1/calls/{id}/say", {"text": "Never said.", "mode": "queue"})
        await client.ask("POST", f"/v1/calls/{id}/say", {"text": WORDS, "mode": "interrupt"})
        told = await client.until(id, lambda told: states(told)[-1] == "spoken")
        assert states(told) == ["interrupted", "interrupted", "spoken"]
        assert 300 < told["speech"][0]["spoken_ms"] < 1000
        assert told["speech"][1]["spoken_ms"] == 0
        assert likeness(callee.ear.heard(), await spoken(running.engine, WORDS)) > 0.98


async def test_speech_is_stopped_and_the_call_goes_on() -> None:
    async with serving() as running, api(running) as client, phone() as callee:
        id = await client.place(callee.uri, text=TEXT, then="stay")
        await client.until(id, lambda told: states(told) == ["speaking"])
        status, told = await client.ask("POST", f"/v1/calls/{id}/stop")
        assert (status, states(told), told["state"]) == (200, ["interrupted"], "up")
        assert (await client.ask("POST", f"/v1/calls/{id}/stop"))[0] == 200
        await client.ask("DELETE", f"/v1/calls/{id}")
        await client.ended(id)
        assert (await client.ask("POST", f"/v1/calls/{id}/stop"))[0] == 409
        assert (await client.ask("POST", f"/v1/calls/{id}/say", {"text": "a"}))[0] == 409


async def test_words_before_the_answer_are_said_after_it() -> None:
    async with serving() as running, api(running) as client, phone(status=180) as callee:
        id = await client.place(callee.uri, text=TEXT)
        await client.ask("POST", f"/v1/calls/{id}/say", {"text": WORDS, "mode": "interrupt"})
        offered = await callee.until(sip.Offered)
        assert isinstance(offered, sip.Offered)
        callee.transport.answer(offered.call, body=callee.offer)
        told = await client.ended(id)
        assert states(told) == ["interrupted", "spoken"]
        assert likeness(callee.ear.heard(), await spoken(running.engine, WORDS)) > 0.98


async def test_more_than_can_wait_is_503() -> None:
    async with serving() as running, api(running) as client, phone(status=180) as callee:
        id = await client.place(callee.uri)
        statuses = [(await client.ask("POST", f"/v1/calls/{id}/say", {"text": "a"}))[0] for _ in range(34)]
        assert statuses[:32] == [202] * 32
        assert statuses[-1] == 503
