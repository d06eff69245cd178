"""Calls that a webhook conducts: real calls and digits, and a real HTTP server of good manners and of bad ones."""

from __future__ import annotations

import asyncio
import gc
import json
import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

import rtp
import sip
from mediaserver import audio, config, server
from mediaserver.attendant import Attendant
from mediaserver.call import Call
from mediaserver.media import Media
from mediaserver.script import APOLOGY, Script, Text, referred
from tests.live import heard, likeness, occurrences, serving, spoken, until_calls
from tests.test_calls_api import api
from tests.test_calls_verbs import friend
from tests.test_referrals import phone
from tests.webhook_support import (
    SECRET,
    Hook,
    Manners,
    drip,
    flood,
    hook,
    never,
    slam,
    status,
)

QUIET: dict[str, Any] = {"engine": {"name": "tone"}}
SORRY = "Please try again in an hour."


def verbs(*items: dict[str, Any]) -> Manners:
    """Answer with these verbs."""

    async def answer(request: web.Request) -> web.StreamResponse:
        return web.json_response(list(items))

    return answer


def body(text: bytes) -> Manners:
    """Answer with this, whatever it is."""

    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(body=text, content_type="application/json")

    return answer


def say(text: str, **fields: Any) -> dict[str, Any]:
    return {"verb": "say", "text": text} | fields


def gather(**fields: Any) -> dict[str, Any]:
    return {"verb": "gather"} | fields


def conducted(ivr: Hook, **keys: Any) -> dict[str, Any]:
    """A configuration whose calls are conducted there."""
    return {
        "route": [{"webhook": ivr.url} | keys],
        "webhooks": {"secret": SECRET, "headers": ["X-*", "Subject"]},
    }


class Caller:
    """A telephone that calls, keys digits, and hears what it is told of its call."""

    def __init__(self, transport: sip.Transport, media: Media) -> None:
        self.transport = transport
        self.media = media
        self.statuses: list[int] = []
        self.ended: asyncio.Future[sip.Ended] = asyncio.get_running_loop().create_future()
        self.changed = asyncio.Event()
        self.call = ""

    def deliver(self, event: sip.Event) -> None:
        match event:
            case sip.Progressed():
                self.statuses.append(event.response.status)
            case sip.Answered():
                self.statuses.append(event.response.status)
                self.media.accept(event.response.body)
                self.media.start()
            case sip.Ended():
                self.statuses += [] if event.status is None else [event.status]
                self.ended.set_result(event)
            case sip.Requested() if event.message.method == "REFER":
                self.transport.respond(event.request, 603)
        self.changed.set()

    async def told(self, status: int) -> None:
        """Return when the INVITE has got this response."""
        async with asyncio.timeout(10):
            while status not in self.statuses:
                self.changed.clear()
                await self.changed.wait()

    def dial(self, running: server.Server, user: str = "100", **headers: str) -> None:
        self.call = self.transport.invite(
            sip.Uri.parse(f"sip:{user}@{running.sip_address}"),
            self.transport.flow_to("127.0.0.1", running.sip_address.port),
            from_=sip.NameAddr.parse("<sip:alice@127.0.0.1>"),
            body=self.media.offer(),
            headers=tuple((name.replace("_", "-"), value) for name, value in headers.items()),
        )

    async def key(self, digits: str) -> None:
        await self.told(200)
        self.media.stream.send_digits(digits, duration_ms=60)

    async def over(self) -> sip.Ended:
        return await asyncio.wait_for(self.ended, 20)


@asynccontextmanager
async def caller() -> AsyncIterator[Caller]:
    events: list[Caller] = []
    agent = sip.Agent(random=random.Random(), serve_within={"REFER": ()})
    async with (
        rtp.Endpoint(host="127.0.0.1", ports=range(41400, 41800)) as endpoint,
        sip.Transport.open(agent, [("127.0.0.1", 0)], deliver=lambda event: events[0].deliver(event)) as transport,
    ):
        media = Media(endpoint, host="127.0.0.1", deliver=lambda event: None)
        events.append(Caller(transport, media))
        try:
            yield events[0]
        finally:
            media.close()
            await media.wait_closed()


async def story(running: server.Server) -> dict[str, Any]:
    """What is known of the only call that there was."""
    async with api(running) as client:
        _, told = await client.ask("GET", "/v1/calls")
        (call,) = told["calls"]
        return await client.ended(call["id"])


def said(told: dict[str, Any]) -> list[tuple[str, str]]:
    return [(one["text"], one["state"]) for one in told["speech"]]


async def test_a_menu_from_the_invite_to_the_end() -> None:
    async with hook() as ivr, serving(**conducted(ivr), **QUIET) as running, caller() as peer:
        ivr.manners = [
            verbs(say("Welcome."), gather(prompts=[say("Choose.")], max_digits=4, next="/choice")),
            verbs(say("You chose."), gather(min_digits=2, inter_digit_timeout_ms=400)),
            verbs(say("Good bye.")),
        ]
        peer.dial(running, "200", X_Order="4711", Subject="a", Authorization="Digest x")
        await ivr.until(lambda ivr: len(ivr.told) == 1)
        async with api(running) as client:
            asked = [("Welcome.", "spoken"), ("Choose.", "spoken")]
            await client.until(ivr.told[0]["call"]["id"], lambda told: said(told) == asked)
        await peer.key("1234")
        await ivr.until(lambda ivr: len(ivr.told) == 2)
        await peer.key("56")
        await ivr.until(lambda ivr: len(ivr.told) == 3)
        ended = await peer.over()
        told = await story(running)
    assert ended.cause is sip.Cause.REMOTE_BYE
    assert peer.statuses == [180, 200]
    assert ivr.frauds == []
    assert ivr.paths == ["/hook", "/choice", "/choice"]
    first, second, third = ivr.told
    assert (first["type"], first["step"], first["result"]) == ("dialogue.started", 0, None)
    assert first["call"] == {
        "id": told["id"],
        "direction": "inbound",
        "from": "sip:alice@127.0.0.1",
        "to": f"sip:200@{running.sip_address}",
        "trunk": None,
        "headers": {"X-Order": "4711", "Subject": "a"},
    }
    assert second["type"] == "dialogue.continued"
    assert second["result"] == {
        "verb": "gather",
        "outcome": "complete",
        "digits": "1234",
        "ended_by": "max_digits",
        "attempts": 1,
    }
    assert (third["result"]["digits"], third["result"]["ended_by"]) == ("56", "inter_digit_timeout")
    assert ivr.ids == [f"{told['id']}-{step}" for step in range(3)]
    assert [text for text, _ in said(told)] == ["Welcome.", "Choose.", "You chose.", "Good bye."]
    assert told["end"]["reason"] == "completed"


async def test_what_is_said_is_heard_and_the_call_is_answered_after_the_webhook() -> None:
    text, document = "The quick brown fox jumps over the lazy dog.", "<speak>Pack my box.</speak>"
    async with hook() as ivr, serving(**conducted(ivr)) as running:
        ivr.manners = verbs(
            say(text, speaker_id="en-gb-x-rp"),
            {"verb": "pause", "duration_ms": 300},
            {"verb": "say", "ssml": document},
        )
        outcome = await heard(running)
        assert likeness(outcome.heard, await spoken(running.engine, text, voice="en-gb-x-rp")) > 0.97
        assert likeness(outcome.heard, await spoken(running.engine, document, ssml=True)) > 0.97


async def test_recordings_are_played_from_listed_hosts_and_from_what_is_kept(tmp_path: Path) -> None:
    words = "Pack my box with five dozen liquor jugs."
    fetch = {"allow_hosts": ["127.0.0.1"]}

    async def recording(request: web.Request) -> web.StreamResponse:
        return web.Response(body=(tmp_path / "words.wav").read_bytes(), content_type="audio/wav")

    app = web.Application()
    app.router.add_get("/words.wav", recording)
    async with hook() as ivr, TestServer(app) as site, serving(**conducted(ivr), fetch=fetch) as running:
        speech = await spoken(running.engine, words)
        audio.write_wav(tmp_path / "words.wav", speech, rate_hz=8000)
        async with aiohttp.ClientSession(f"http://{running.http_address}") as session:
            form = aiohttp.FormData()
            form.add_field("file", (tmp_path / "words.wav").read_bytes(), filename="words.wav")
            async with session.post("/v1/clips", data=form) as response:
                clip = (await response.json())["id"]
        ivr.manners = verbs(
            {"verb": "play", "url": str(site.make_url("/words.wav"))},
            {"verb": "pause", "duration_ms": 200},
            {"verb": "play", "clip_id": clip, "repeat": 2},
        )
        outcome = await heard(running)
    assert len(occurrences(outcome.heard, speech)) == 3


async def test_a_key_breaks_in_on_a_prompt_and_what_is_keyed_ahead_counts() -> None:
    long = "This prompt is so long that nobody would want to hear all of it before he presses a key. " * 3
    async with hook() as ivr, serving(**conducted(ivr), **QUIET) as running, caller() as peer:
        ivr.manners = [
            verbs(gather(prompts=[say(long), say("Never heard.")], max_digits=1)),
            verbs(say(long, barge_in=["dtmf"]), gather(prompts=[say("Never heard either.")], max_digits=1)),
            verbs({"verb": "hangup"}),
        ]
        peer.dial(running)
        await ivr.until(lambda ivr: len(ivr.told) == 1)
        await asyncio.sleep(0.5)
        await peer.key("7")
        await ivr.until(lambda ivr: len(ivr.told) == 2)
        await asyncio.sleep(0.5)
        await peer.key("8")
        await ivr.until(lambda ivr: len(ivr.told) == 3)
        await peer.over()
        told = await story(running)
    assert [one["result"]["digits"] for one in ivr.told[1:]] == ["7", "8"]
    assert [(one["state"], one["barged_in_by"]) for one in told["speech"]] == [("interrupted", "dtmf")] * 2
    assert told["digits"] == 2


async def test_a_gather_asks_again_and_says_that_nothing_came() -> None:
    async with hook() as ivr, serving(**conducted(ivr), **QUIET) as running, caller() as peer:
        ivr.manners = [
            verbs(gather(prompts=[say("a")], retry_prompts=[say("b")], attempts=3, first_digit_timeout_ms=100)),
            verbs(),
        ]
        peer.dial(running)
        await peer.over()
        told = await story(running)
    assert [text for text, _ in said(told)] == ["a", "b", "b"]
    result = ivr.told[1]["result"]
    assert (result["outcome"], result["digits"], result["attempts"]) == ("no_input", "", 3)


@pytest.mark.parametrize(("code", "reason"), [(486, "busy"), (603, "declined"), (404, "not_found")])
async def test_a_call_is_rejected_before_it_is_answered(code: int, reason: str) -> None:
    async with hook() as ivr, serving(**conducted(ivr), **QUIET) as running, caller() as peer:
        ivr.manners = [verbs({"verb": "redirect", "url": "/b"}), verbs({"verb": "reject", "status": code})]
        peer.dial(running)
        ended = await peer.over()
        told = await story(running)
    assert (ended.status, peer.statuses) == (code, [180, code])
    assert (told["end"]["reason"], told["end"]["by"], told["answered_at"]) == (reason, "server", None)


async def test_whoever_gives_up_while_the_webhook_is_asked_leaves_nothing_behind() -> None:
    async with hook() as ivr, serving(**conducted(ivr, webhook_timeout_ms=20_000), **QUIET) as running:
        ivr.manners = never
        async with caller() as peer:
            peer.dial(running)
            await ivr.until(lambda ivr: ivr.requests == 1)
            await peer.told(180)
            peer.transport.cancel(peer.call)
            assert (await peer.over()).status == 487
        await until_calls(running, 0)


FAULTS: list[tuple[Manners, str]] = [
    (never, "no answer within 0.5 s"),
    (drip, "no answer within 0.5 s"),
    (slam, "no answer within 0.5 s"),
    (flood, "larger than 65536 octets"),
    (status(500), "answers 500"),
    (status(404), "answers 404"),
    (status(302, Location="http://localhost:1/"), "answers 302"),
    (body(b'[{"verb": "say", "text": "Hel'), "not understood"),
    (body(b'[{"verb": "say", "text": 5}]'), "0.say.text: "),
    (body(b'[{"verb": "say", "words": "a"}]'), "0.say.words: "),
    (body(b"<html>"), "not understood"),
    (body(b"\xff\x00"), "not understood"),
    (verbs({"verb": "redirect", "url": "http://127.0.0.1:1/"}), "webhooks.allow_hosts"),
    (verbs({"verb": "redirect", "url": "http://169.254.169.254/latest/"}), "webhooks.allow_hosts"),
    (verbs({"verb": "redirect", "url": "https://[::1]/"}), "webhooks.allow_hosts"),
    (verbs({"verb": "redirect", "url": "/round"}), "in circles"),
    (verbs(say("a", speaker_id="nobody")), "say: "),
    (verbs({"verb": "play", "url": "http://127.0.0.1:1/a.wav"}), "fetch.allow_hosts"),
    (verbs({"verb": "play", "clip_id": "clip_nobody"}), "there is no clip"),
]


@pytest.mark.parametrize(("manners", "why"), FAULTS)
async def test_whatever_goes_wrong_the_caller_hears_what_was_meant_for_it(
    manners: Manners, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with hook() as ivr, hook() as crm:
        settings = conducted(ivr, say=SORRY, webhook_timeout_ms=500)
        settings["webhook"] = [{"name": "crm", "url": crm.url, "secret": SECRET, "events": ["dialogue.failed"]}]
        async with serving(**settings, **QUIET) as running, caller() as peer:
            ivr.manners = manners
            peer.dial(running)
            ended = await peer.over()
            told = await story(running)
            await crm.until(lambda crm: len(crm.told) == 1)
    assert ended.cause is sip.Cause.REMOTE_BYE
    assert said(told) == [(SORRY, "spoken")]
    assert (told["end"]["reason"], told["media"]["underruns"]) == ("completed", 0)
    assert why in crm.told[0]["details"]["reason"]
    log = "".join(capsys.readouterr())
    assert log.count("the dialogue is broken off") == 1
    assert ivr.url not in log


async def test_without_words_for_it_the_server_apologises_and_a_route_may_stay() -> None:
    async with hook() as ivr:
        ivr.manners = status(500)
        async with serving(**conducted(ivr, then="stay", stay_s=0.5), **QUIET) as running, caller() as peer:
            peer.dial(running)
            await peer.over()
            assert said(await story(running)) == [(APOLOGY, "spoken")]


async def test_a_fault_in_the_middle_ends_as_one_at_the_beginning() -> None:
    async with hook() as ivr, serving(**conducted(ivr, say=SORRY), **QUIET) as running, caller() as peer:
        ivr.manners = [verbs(say("a"), gather(max_digits=1)), status(500)]
        peer.dial(running)
        await ivr.until(lambda ivr: len(ivr.told) == 1)
        await peer.key("1")
        await peer.over()
        told = await story(running)
    assert said(told) == [("a", "spoken"), (SORRY, "spoken")]


async def test_the_line_is_never_still_while_a_webhook_thinks() -> None:
    """Packets go on every 20 ms, and speech that was handed in by others is said meanwhile."""
    async with (
        hook() as ivr,
        caller() as peer,
        serving(**conducted(ivr, webhook_timeout_ms=10_000), **QUIET) as running,
        api(running) as client,
    ):
        ivr.manners = [verbs(say("a"), {"verb": "redirect", "url": "/slow"}), never]
        peer.dial(running)
        await ivr.until(lambda ivr: ivr.requests == 2)
        _, told = await client.ask("GET", "/v1/calls")
        id = told["calls"][0]["id"]
        before = (await client.call(id))["media"]
        await asyncio.sleep(1)
        after = (await client.call(id))["media"]
        assert 45 <= after["packets_sent"] - before["packets_sent"] <= 55
        assert after["underruns"] == 0
        await client.ask("POST", f"/v1/calls/{id}/say", {"text": "One moment."})
        await client.until(id, lambda told: said(told)[-1] == ("One moment.", "spoken"))
        peer.transport.bye(peer.call)


async def test_a_webhook_that_is_started_anew_is_found_within_its_time() -> None:
    async with hook() as ivr, serving(**conducted(ivr), **QUIET) as running, caller() as peer:
        ivr.manners = [verbs(say("a"), gather(max_digits=1)), verbs(say("b"))]
        peer.dial(running)
        await ivr.until(lambda ivr: len(ivr.told) == 1)
        await ivr.stop()
        await peer.key("1")
        await asyncio.sleep(0.5)
        await ivr.start()
        await peer.over()
        assert said(await story(running)) == [("a", "spoken"), ("b", "spoken")]


async def test_a_caller_leaves_a_message(tmp_path: Path) -> None:
    async with hook() as ivr, caller() as peer, caller() as other:
        settings = conducted(ivr) | {"recordings": {"enabled": True, "path": tmp_path}}
        async with serving(**settings, **QUIET) as running, api(running) as client:
            record = verbs(say("a"), {"verb": "record", "max_s": 30, "next": "/message"})
            ivr.manners = [record, verbs(say("Thank you.")), record, status(204)]
            peer.dial(running)
            await ivr.until(lambda ivr: len(ivr.told) == 1)
            id = ivr.told[0]["call"]["id"]
            await client.until(id, lambda told: bool(told["recordings"]))
            await asyncio.sleep(0.5)
            await peer.key("#")
            await peer.over()
            told = await client.ended(id)
            other.dial(running)
            await ivr.until(lambda ivr: len(ivr.told) == 3)
            await client.until(ivr.told[2]["call"]["id"], lambda told: bool(told["recordings"]))
            await asyncio.sleep(0.3)
            other.transport.bye(other.call)
            await ivr.until(lambda ivr: len(ivr.told) == 4)
            kept = [told["recordings"][0]["id"], ivr.told[3]["result"]["recording_id"]]
            for recording in kept:
                status_code, _ = await client.ask("GET", f"/v1/recordings/{recording}")
                assert status_code == 200
    assert said(told) == [("a", "spoken"), ("Thank you.", "spoken")]
    assert [one["result"] and one["result"]["ended_by"] for one in ivr.told] == [None, "finish_key", None, "call_ended"]
    assert ivr.paths == ["/hook", "/message"] * 2
    assert 400 < ivr.told[1]["result"]["duration_ms"] < 5000


async def test_a_call_is_recorded_in_the_background_and_one_that_may_not_be_says_so(tmp_path: Path) -> None:
    async with hook() as ivr, caller() as peer, caller() as other:
        settings = conducted(ivr) | {"recordings": {"enabled": True, "path": tmp_path}}
        ivr.manners = verbs({"verb": "record", "background": True}, say("a"))
        async with serving(**settings, **QUIET) as running:
            peer.dial(running)
            await peer.over()
            (recording,) = (await story(running))["recordings"]
            assert recording["reason"] == "call_ended"
        ivr.manners = [verbs({"verb": "record"}), verbs(say("b"))]
        async with serving(**conducted(ivr), **QUIET) as running:
            other.dial(running)
            await other.over()
            assert said(await story(running)) == [("b", "spoken")]
    result = ivr.told[-1]["result"]
    assert (result["recording_id"], result["ended_by"]) == (None, "failed")
    assert "recordings.enabled" in result["error"]


async def test_a_stay_leaves_the_call_to_the_api() -> None:
    async with (
        hook() as ivr,
        caller() as peer,
        serving(**conducted(ivr), **QUIET) as running,
        api(running) as client,
    ):
        ivr.manners = verbs(say("a"), {"verb": "stay", "seconds": 1})
        peer.dial(running)
        await ivr.until(lambda ivr: len(ivr.told) == 1)
        id = ivr.told[0]["call"]["id"]
        await client.until(id, lambda told: said(told) == [("a", "spoken")])
        await client.ask("POST", f"/v1/calls/{id}/say", {"text": "b"})
        told = await client.ended(id)
    assert said(told) == [("a", "spoken"), ("b", "spoken")]
    assert told["end"]["reason"] == "completed"


async def test_a_call_that_is_placed_is_conducted_from_its_answer_on() -> None:
    async with (
        hook() as ivr,
        friend() as callee,
        serving(**conducted(ivr), **QUIET) as running,
        api(running) as client,
    ):
        ivr.manners = [
            verbs(gather(prompts=[say("code")], min_digits=4)),
            verbs({"verb": "transfer", "to": "sip:bob@example.com"}),
            verbs(say("Good bye.")),
        ]
        callee.notifies = ("SIP/2.0 486 Busy Here",)
        id = await client.place(callee.uri, webhook=ivr.url, text=SORRY)
        await ivr.until(lambda ivr: len(ivr.told) == 1)
        await client.until(id, lambda told: said(told) == [("code", "spoken")])
        callee.media.stream.send_digits("9876#", duration_ms=60)
        told = await client.ended(id)
    assert [one["result"] and one["result"]["verb"] for one in ivr.told] == [None, "gather", "transfer"]
    assert (ivr.told[0]["call"]["direction"], ivr.told[0]["call"]["to"]) == ("outbound", callee.uri)
    assert ivr.told[1]["result"]["digits"] == "9876"
    assert ivr.told[2]["result"] == {
        "verb": "transfer",
        "outcome": "failed",
        "sip_status": 486,
        "sip_reason": "Busy Here",
    }
    assert said(told) == [("code", "spoken"), ("Good bye.", "spoken")]


async def test_a_transfer_that_succeeds_is_told_although_the_call_is_over() -> None:
    async with (
        hook() as ivr,
        friend(notifies=("SIP/2.0 200 OK",)) as callee,
        serving(**conducted(ivr), **QUIET) as running,
        api(running) as client,
    ):
        ivr.manners = verbs({"verb": "transfer", "to": "sip:bob@example.com", "next": "/after"})
        told = await client.ended(await client.place(callee.uri, webhook=ivr.url))
        await ivr.until(lambda ivr: len(ivr.told) == 2)
    assert told["end"]["reason"] == "transferred"
    assert (ivr.told[1]["result"]["outcome"], ivr.paths[1]) == ("succeeded", "/after")


async def test_a_transfer_that_cannot_be_tried_is_told() -> None:
    async with (
        hook() as ivr,
        friend() as callee,
        serving(**conducted(ivr), **QUIET) as running,
        api(running) as client,
    ):
        ivr.manners = [verbs({"verb": "transfer", "to": "bob"}), verbs()]
        await client.ended(await client.place(callee.uri, webhook=ivr.url))
    result = ivr.told[1]["result"]
    assert (result["outcome"], result["sip_status"]) == ("failed", None)
    assert result["sip_reason"]


async def test_a_placed_call_without_an_answer_from_its_webhook_says_its_text() -> None:
    async with hook() as ivr, friend() as callee:
        ivr.manners = never
        async with (
            serving(webhooks={"allow_hosts": ["127.0.0.1"], "secret": SECRET}, **QUIET) as running,
            api(running) as client,
        ):
            fields = {"webhook": ivr.url, "webhook_timeout_ms": 300}
            first = await client.ended(await client.place(callee.uri, text=SORRY, **fields))
        async with (
            serving(webhooks={"allow_hosts": ["127.0.0.1"], "secret": SECRET}, **QUIET) as running,
            api(running) as client,
            phone() as other,
        ):
            second = await client.ended(await client.place(other.uri, **fields))
    assert said(first) == [(SORRY, "spoken")]
    assert said(second) == [(APOLOGY, "spoken")]
    assert second["end"]["reason"] == "completed"


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://127.0.0.1:1/", 403),
        ("http://ivr.example@127.0.0.1/", 422),
        ("/relative", 422),
        ("ftp://ivr.example/", 422),
        ("http://", 422),
        ("https://ivr.example:8443/calls", 403),
        ("https://ivr.example/other", 201),
        ("https://b.example/", 201),
    ],
)
async def test_a_placed_call_may_name_allowed_webhooks_only(url: str, code: int) -> None:
    settings: dict[str, Any] = {
        "route": [{"webhook": "https://ivr.example/calls"}],
        "webhooks": {"allow_hosts": ["b.example"]},
    }
    async with serving(**settings, **QUIET) as running, api(running) as client, phone(status=486) as callee:
        answered, told = await client.ask("POST", "/v1/calls", {"to": callee.uri, "webhook": url})
        assert answered == code, told
        if code != 201:
            assert told["errors"][0]["field"] == "webhook"


async def test_what_the_caller_brings_is_not_said_where_a_webhook_decides() -> None:
    async with hook() as ivr, serving(**conducted(ivr), **QUIET) as running, caller() as peer:
        ivr.manners = verbs(say("a"))
        peer.dial(running, X_Speak="Let me in.")
        await peer.over()
        assert said(await story(running)) == [("a", "spoken")]
    assert ivr.told[0]["call"]["headers"] == {"X-Speak": "Let me in."}


async def test_without_a_secret_requests_are_not_signed() -> None:
    async with hook(secret=None) as ivr, serving(route=[{"webhook": ivr.url}], **QUIET) as running, caller() as peer:
        ivr.manners = verbs()
        peer.dial(running, X_Order="1")
        await peer.over()
    assert ivr.told[0]["call"]["headers"] == {}


async def test_a_call_that_is_conducted_ends_with_the_server() -> None:
    async with hook() as ivr, caller() as peer:
        async with serving(**conducted(ivr), **QUIET) as running:
            ivr.manners = verbs(say("a"), gather(max_digits=1, first_digit_timeout_ms=60_000))
            peer.dial(running)
            await ivr.until(lambda ivr: len(ivr.told) == 1)
            await asyncio.sleep(1)
            await asyncio.wait_for(running.switchboard.drain(5), 5)
        assert (await peer.over()).cause is sip.Cause.REMOTE_BYE


async def test_a_call_that_was_conducted_is_left_to_no_garbage_collector() -> None:
    async with hook() as ivr, serving(**conducted(ivr), **QUIET) as running:
        ivr.manners = verbs(say("a"), gather(prompts=[say("b")], max_digits=1))
        gc.collect()
        gc.disable()
        try:
            for hangs_up in (False, True):
                async with caller() as peer:
                    peer.dial(running)
                    await peer.key("1")
                    await ivr.until(lambda ivr: ivr.requests >= 2)
                    if hangs_up:
                        peer.transport.bye(peer.call)
                    else:
                        ivr.manners = status(204)
                        await peer.key("1")
                    await peer.over()
                    await until_calls(running, 0)
            await asyncio.sleep(0.1)
            left = [one for one in gc.get_objects() if type(one) in (Call, Attendant)]
        finally:
            gc.enable()
        assert left == []


@pytest.mark.parametrize(
    ("route", "complaint"),
    [
        ({"webhook": "ftp://a.example/"}, 'write it as "https://host/path"'),
        ({"webhook": "https://a.example/", "say": "a", "play": "b.wav"}, "give exactly one of say, ssml and play"),
        ({"webhook": "https://a.example/", "webhook_timeout_ms": 10}, "webhook_timeout_ms"),
        ({}, "or webhook"),
    ],
)
def test_a_mistake_in_a_route_with_a_webhook_is_named(route: dict[str, Any], complaint: str) -> None:
    with pytest.raises(config.ConfigError) as caught:
        config._checked(config.Config, {"route": [route]}, "test.toml")
    assert complaint in str(caught.value)


def test_a_header_that_may_be_told_is_named_as_fields_are() -> None:
    with pytest.raises(config.ConfigError, match='such as "Subject", or "X-'):
        config._checked(config.Config, {"webhooks": {"headers": ["X Order"]}}, "test.toml")


@pytest.mark.alone
async def test_pjsip_keys_its_way_through_a_menu(tmp_path: Path) -> None:
    async with hook() as ivr, serving(**conducted(ivr)) as running:
        ivr.manners = [verbs(gather(prompts=[say("Your code, please.")])), verbs(say("Thank you."))]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.pjsua2_phone", f"sip:pjsip@{running.sip_address}"),
            *(str(tmp_path / "heard.wav"), "15", "--do", "2 dtmf 12#", "--do", "8 hangup"),
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()
        assert json.loads(output.splitlines()[-1])["answered"]
        assert (ivr.told[1]["result"]["digits"], ivr.told[1]["result"]["ended_by"]) == ("12", "finish_key")


def test_a_call_for_whom_a_conducted_one_is_transferred_says_what_is_meant_for_it() -> None:
    order = sip.ReferOrder(target=sip.Uri.parse("sip:bob@example.com"), headers=sip.Headers())
    settings = config.Config(route=(config.Route(user="bob", say="For Bob."),))
    conducted = Script(content=Text(text="For Alice."), silent=True)
    script = referred(order, caller="alice", source="127.0.0.1", config=settings, transferred=conducted)
    assert script.content == Text(text="For Bob.")
    spoken = Script(content=Text(text="For Alice."))
    assert referred(order, caller="alice", source="127.0.0.1", config=settings, transferred=spoken) == spoken
