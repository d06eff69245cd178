"""What a caller may ask for within a call: more to say, digits; and another call that takes its place."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import sip
from mediaserver import server
from mediaserver.script import AudioFile, More, Script, Text, more
from sip.replaces import Replaces
from tests.live import OFFER, Ear, anext_of, invited, likeness, occurrences, serving, spoken, until_calls

FIRST = "The quick brown fox jumps over the lazy dog."
SECOND = "Pack my box with five dozen liquor jugs."
STAY = {"route": [{"say": FIRST, "then": "stay", "stay_s": 1}]}
PLAIN = {"content_type": "text/plain"}


class Caller:
    """A call that is up, and its bare ear."""

    def __init__(self, running: server.Server, transport: sip.Transport, events: asyncio.Queue[sip.Event]) -> None:
        self.running = running
        self.transport = transport
        self.events = events
        self.ear = Ear()
        self.call = ""

    async def dial(self) -> None:
        body = OFFER.replace(b"4000", str(self.ear.port).encode())
        self.call = invited(self.running, self.transport, self.events, body)
        await anext_of(self.events, sip.Answered)

    async def ask(self, method: str, body: bytes = b"", content_type: str = "", **headers: str) -> sip.Response:
        fields = tuple((name.replace("_", "-"), value) for name, value in headers.items())
        self.transport.request_within(self.call, method, headers=fields, body=body, content_type=content_type)
        responded = await asyncio.wait_for(anext_of(self.events, sip.Responded), 10)
        assert responded.response is not None
        return responded.response

    async def hung_up_on(self) -> None:
        ended = await asyncio.wait_for(anext_of(self.events, sip.Ended), 30)
        assert ended.cause is sip.Cause.REMOTE_BYE


@asynccontextmanager
async def calling(running: server.Server) -> AsyncIterator[Caller]:
    events: asyncio.Queue[sip.Event] = asyncio.Queue()
    agent = sip.Agent(random=random.Random())
    async with sip.Transport.open(agent, [("127.0.0.1", 0)], deliver=events.put_nowait) as transport:
        caller = Caller(running, transport, events)
        with caller.ear:
            await caller.dial()
            yield caller


@pytest.mark.parametrize("method", ["MESSAGE", "INFO"])
async def test_words_within_a_call_are_spoken_after_what_is_queued(method: str) -> None:
    async with serving(**STAY) as running, calling(running) as caller:
        assert (await caller.ask(method, SECOND.encode(), "text/plain;charset=utf-8")).status == 200
        await caller.hung_up_on()
        heard = caller.ear.heard()
        first, second = await spoken(running.engine, FIRST), await spoken(running.engine, SECOND)
        assert likeness(heard, first) > 0.98
        (begun,), (then,) = occurrences(heard, first), occurrences(heard, second)
        assert then >= begun + len(first) / 16000


async def test_an_interruption_flushes_what_is_said_and_what_waits() -> None:
    async with serving(**STAY) as running, calling(running) as caller:
        assert (await caller.ask("MESSAGE", b"Never to be heard.", **PLAIN)).status == 200
        await asyncio.sleep(0.5)
        asked = await caller.ask("MESSAGE", SECOND.encode(), **PLAIN, X_Speak_Mode="interrupt")
        assert asked.status == 200
        await caller.hung_up_on()
        heard = caller.ear.heard()
        assert likeness(heard, await spoken(running.engine, FIRST)) < 0.9
        assert likeness(heard, await spoken(running.engine, "Never to be heard.")) < 0.9
        (at,) = occurrences(heard, await spoken(running.engine, SECOND))
        assert at < 1.5


async def test_words_while_the_server_stays_on_the_line_are_spoken_and_it_stays_anew() -> None:
    async with serving(**STAY) as running, calling(running) as caller:
        first = await spoken(running.engine, "One.")
        await asyncio.sleep(len(await spoken(running.engine, FIRST)) / 16000 + 0.6)
        document = b"<speak>One.</speak>"
        assert (await caller.ask("INFO", document, "application/ssml+xml")).status == 200
        asked = asyncio.get_running_loop().time()
        await caller.hung_up_on()
        assert asyncio.get_running_loop().time() - asked > len(first) / 16000 + 0.9
        assert likeness(caller.ear.heard(), await spoken(running.engine, "<speak>One.</speak>", ssml=True)) > 0.98


async def test_words_are_spoken_in_the_voice_that_their_header_names() -> None:
    async with serving(**STAY) as running, calling(running) as caller:
        assert (await caller.ask("MESSAGE", b"Guten Tag.", **PLAIN, X_Speaker="de")).status == 200
        await caller.hung_up_on()
        assert likeness(caller.ear.heard(), await spoken(running.engine, "Guten Tag.", voice="de")) > 0.98


async def test_what_cannot_be_said_is_refused_and_the_call_goes_on() -> None:
    async with serving(**STAY, sip={"max_text_chars": 100}) as running, calling(running) as caller:
        assert (await caller.ask("MESSAGE")).status == 400
        assert (await caller.ask("MESSAGE", b" \r\n", **PLAIN)).status == 400
        assert (await caller.ask("MESSAGE", b"word " * 30, **PLAIN)).status == 400
        assert (await caller.ask("MESSAGE", b"<speak>", "application/ssml+xml")).status == 400
        assert (await caller.ask("MESSAGE", b"\xff", **PLAIN)).status == 400
        assert (await caller.ask("MESSAGE", b"a", "text/plain;charset=klingon")).status == 415
        assert (await caller.ask("MESSAGE", b"a", **PLAIN, X_Speak_Mode="shout")).status == 400
        assert (await caller.ask("MESSAGE", b"a", **PLAIN, X_Speaker="nobody")).status == 404
        for method, types in (
            ("MESSAGE", "text/plain, application/ssml+xml"),
            ("INFO", "text/plain, application/ssml+xml, application/dtmf-relay, application/dtmf"),
        ):
            refused = await caller.ask(method, b"a", "text/html")
            assert (refused.status, refused.headers.get("Accept")) == (415, types)
        await caller.hung_up_on()
        assert likeness(caller.ear.heard(), await spoken(running.engine, FIRST)) > 0.98


async def test_no_more_than_so_much_waits_to_be_said() -> None:
    endless = {"engine": {"name": "tone"}, "route": [{"say": FIRST, "repeat": 100}]}
    async with serving(**endless) as running, calling(running) as caller:
        answers = [await caller.ask("MESSAGE", b"a", **PLAIN) for _ in range(33)]
        assert [answer.status for answer in answers] == [200] * 32 + [503]
        assert answers[-1].headers.get("Retry-After") == "5"
        caller.transport.bye(caller.call)


async def test_digits_by_info_are_counted_and_not_logged(capsys: pytest.CaptureFixture[str]) -> None:
    quiet = {"engine": {"name": "tone"}, "log": {"level": "debug"}}
    async with serving(**quiet, **STAY) as running, calling(running) as caller:
        assert (await caller.ask("INFO", b"Signal=7\r\nDuration=160\r\n", "application/dtmf-relay")).status == 200
        assert (await caller.ask("INFO", b"*", "application/dtmf")).status == 200
        assert (await caller.ask("INFO", b"Signal=77", "application/dtmf-relay")).status == 400
        # RFC 2976 section 2: an INFO may have no body.
        assert (await caller.ask("INFO")).status == 200
        caller.transport.bye(caller.call)
        await until_calls(running, 0)
    log = capsys.readouterr().out
    assert "digits=2" in log
    assert "Signal=" not in log


@pytest.mark.conformance("RFC 6086", "4.2.2", "an INFO of an unknown package gets 469 with Recv-Info")
async def test_an_info_package_is_refused() -> None:
    async with serving(engine={"name": "tone"}, **STAY) as running, calling(running) as caller:
        refused = await caller.ask("INFO", b"a", **PLAIN, Info_Package="conference")
        assert (refused.status, refused.headers.get("Recv-Info")) == (469, "")
        caller.transport.bye(caller.call)


async def test_a_server_that_drains_says_nothing_new() -> None:
    async with serving(engine={"name": "tone"}, **STAY) as running, calling(running) as caller:
        draining = asyncio.create_task(running.switchboard.drain(5))
        await asyncio.sleep(0.1)
        assert (await caller.ask("MESSAGE", b"a", **PLAIN)).status == 503
        await caller.hung_up_on()
        await draining


@pytest.mark.conformance("RFC 3891", "3", "an accepted INVITE with Replaces ends the dialog that it names with BYE")
async def test_a_call_that_takes_the_place_of_another_hears_the_rest() -> None:
    route = [{"say": FIRST, "repeat": 2, "delay_ms": 300}]
    async with serving(route=route) as running, calling(running) as caller, calling_soon(running) as other:
        await asyncio.sleep(0.3)
        with other.ear:
            replaces = Replaces.at_peer(caller.transport.agent.dialog(caller.call))
            body = OFFER.replace(b"4000", str(other.ear.port).encode())
            other.call = other.transport.invite(
                sip.Uri.parse(f"sip:x@{running.sip_address}"),
                other.transport.flow_to("127.0.0.1", running.sip_address.port),
                from_=sip.NameAddr.parse("<sip:other@127.0.0.1>"),
                body=body,
                headers=(("Replaces", str(replaces)), ("Require", "replaces")),
            )
            await anext_of(other.events, sip.Answered)
            await caller.hung_up_on()
            assert len(running.switchboard) == 1
            await other.hung_up_on()
            speech = await spoken(running.engine, FIRST)
            assert likeness(caller.ear.heard(), speech) < 0.9
            assert len(occurrences(other.ear.heard(), speech)) == 1
        await until_calls(running, 0)


@asynccontextmanager
async def calling_soon(running: server.Server) -> AsyncIterator[Caller]:
    """Somebody who has not dialled yet."""
    events: asyncio.Queue[sip.Event] = asyncio.Queue()
    agent = sip.Agent(random=random.Random())
    async with sip.Transport.open(agent, [("127.0.0.1", 0)], deliver=events.put_nowait) as transport:
        yield Caller(running, transport, events)


def message(body: bytes, *fields: tuple[str, str]) -> sip.Request:
    headers = sip.Headers([("Content-Type", "text/plain"), *fields])
    return sip.Request(method="MESSAGE", uri=sip.Uri.parse("sip:x@y"), headers=headers, body=body)


def test_more_is_said_in_the_voice_of_the_call_unless_it_says_otherwise() -> None:
    script = Script(content=Text(text="a", voice="de", language="de-DE"))
    assert more(message(b"b"), script) == More(text=Text(text="b", voice="de", language="de-DE"))
    other = message(b"b", ("X-Speaker", "fr"), ("Content-Language", "fr-FR"), ("X-Speak-Mode", "Interrupt"))
    assert more(other, script) == More(text=Text(text="b", voice="fr", language="fr-FR"), interrupts=True)
    assert more(message(b"b"), Script(content=AudioFile(path=Path("x")))) == More(text=Text(text="b"))
