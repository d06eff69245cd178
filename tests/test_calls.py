"""Calls to a real server, heard by our own softphone: what is said, what is refused, and what happens then."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import resource
import signal
import socket
from pathlib import Path
from urllib.parse import quote

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

import rtp
import sip
from mediaserver import audio, server, softphone
from sip import sdp
from sip.body import Part, compose
from tests.live import (
    OFFER,
    Ear,
    anext_of,
    dialled,
    heard,
    invited,
    likeness,
    occurrences,
    rtp_ports,
    serving,
    spoken,
    until_calls,
)

TEXT = "The quick brown fox jumps over the lazy dog."


def annc(uri: str, **parameters: object) -> str:
    """The user part and parameters of an RFC 4240 announcement, without the host that follows the @."""
    return "".join(f";{name}={value}" for name, value in ({"play": quote(uri, safe=":/")} | parameters).items())


async def announced(running: server.Server, parameters: str) -> softphone.Outcome:
    return await heard(running, "annc", parameters=parameters)


def workers() -> list[int]:
    """Process ids of the engine's workers: the children of this process that run them."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((directory / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and b"engines.worker" in (directory / "cmdline").read_bytes():
                found.append(int(directory.name))
    return found


async def test_the_text_of_the_header_is_heard_and_the_server_hangs_up() -> None:
    async with serving() as running:
        outcome = await heard(running, text=TEXT)
        assert outcome.answered
        assert outcome.ended_by == "the peer hung up"
        assert likeness(outcome.heard, await spoken(running.engine, TEXT)) > 0.98
        assert outcome.counters is not None
        assert outcome.counters.lost == 0
        assert not len(running.switchboard)


async def test_voice_and_language_of_the_headers_are_used() -> None:
    async with serving() as running:
        outcome = await heard(running, text="Guten Tag.", voice="de")
        assert likeness(outcome.heard, await spoken(running.engine, "Guten Tag.", voice="de")) > 0.98
        assert likeness(outcome.heard, await spoken(running.engine, "Guten Tag.")) < 0.9
        outcome = await heard(running, text="Guten Tag.", language="de")
        assert likeness(outcome.heard, await spoken(running.engine, "Guten Tag.", language="de")) > 0.98


@pytest.mark.parametrize("codec", ["PCMU", "PCMA"])
async def test_both_laws_are_spoken(codec: str) -> None:
    async with serving() as running:
        outcome = await heard(running, text=TEXT, codec=codec)
        assert likeness(outcome.heard, await spoken(running.engine, TEXT)) > 0.98


async def test_a_route_speaks_its_template_and_stays() -> None:
    route = {"user": "100", "say": "You dialled {to}, dear {from}.", "then": "stay", "stay_s": 1.0}
    async with serving(route=[route]) as running:
        outcome = await heard(running, "100")
        speech = await spoken(running.engine, "You dialled 100, dear softphone.")
        assert likeness(outcome.heard, speech) > 0.98
        assert outcome.seconds > len(speech) / 16000 + 0.9


async def test_a_route_plays_a_file(tmp_path: Path) -> None:
    path = tmp_path / "prompt.wav"
    async with serving() as running:
        speech = await spoken(running.engine, TEXT)
    audio.write_wav(path, speech, rate_hz=8000)
    async with serving(route=[{"play": str(path)}]) as running:
        outcome = await heard(running)
        assert likeness(outcome.heard, speech) > 0.98


async def test_without_a_route_the_server_greets() -> None:
    async with serving() as running:
        outcome = await heard(running, seconds=3)
        assert outcome.ended_by == "we hung up"
        assert len(outcome.heard) > audio.RATE_HZ * 2 * 2.5
        assert likeness(outcome.heard, (await spoken(running.engine, "Hello!"))[:4000]) > 0.8


@pytest.mark.conformance(
    "RFC 4240", "3", "repeat and delay say how often an announcement is played, and with what pause"
)
async def test_an_announcement_repeats_with_its_delay_and_hangs_up() -> None:
    async with serving() as running:
        speech = await spoken(running.engine, "Hello.")
        uri = annc("data:text/plain,Hello.", repeat=2, delay=500)
        outcome = await announced(running, uri)
        assert outcome.ended_by == "the peer hung up"
        first, second = occurrences(outcome.heard, speech)
        assert 0.5 <= second - first - len(speech) / 16000 < 0.6


@pytest.mark.conformance("RFC 4240", "3", "duration says how long an announcement may be")
async def test_an_announcement_ends_at_its_duration() -> None:
    async with serving() as running:
        outcome = await announced(running, annc(f"data:text/plain,{TEXT}", repeat="forever", duration=1500))
        assert outcome.ended_by == "the peer hung up"
        assert 1.4 < outcome.seconds < 2.4


@pytest.mark.conformance("RFC 4240", "3", "locale says in what language an announcement is")
async def test_an_announcement_speaks_markup_in_its_locale() -> None:
    document = "<speak>Guten <emphasis>Tag</emphasis>.</speak>"
    async with serving() as running:
        outcome = await announced(running, annc(f"data:application/ssml+xml,{document}", locale="de_DE"))
        speech = await spoken(running.engine, document, ssml=True, language="de-DE")
        assert likeness(outcome.heard, speech) > 0.98


async def test_an_announcement_is_fetched_from_a_listed_host_only(tmp_path: Path) -> None:
    async def words(request: web.Request) -> web.Response:
        return web.Response(text=TEXT)

    async def sound(request: web.Request) -> web.Response:
        return web.Response(body=(tmp_path / "sound.wav").read_bytes(), content_type="audio/wav")

    async def away(request: web.Request) -> web.Response:
        raise web.HTTPFound("http://localhost:1/")

    site = web.Application()
    site.add_routes([web.get("/words", words), web.get("/sound", sound), web.get("/away", away)])
    async with TestServer(site) as prompts, serving(fetch={"allow_hosts": ["127.0.0.1"]}) as running:
        speech = await spoken(running.engine, TEXT)
        audio.write_wav(tmp_path / "sound.wav", speech, rate_hz=8000)
        for path in ("words", "sound"):
            outcome = await announced(running, annc(str(prompts.make_url(path))))
            assert likeness(outcome.heard, speech) > 0.97, path
        for path, status in (("missing", 404), ("away", 403)):
            assert (await announced(running, annc(str(prompts.make_url(path))))).status == status
        assert (await announced(running, annc(f"http://localhost:{prompts.port}/words"))).status == 403
    async with TestServer(site) as prompts, serving() as running:
        assert (await announced(running, annc(str(prompts.make_url("words"))))).status == 403


@pytest.mark.parametrize(
    ("uri", "status"),
    [
        ("", 400),
        (annc("data:text/plain"), 400),
        (annc("data:text/plain,"), 400),
        (annc("data:text/plain,%20%20"), 400),
        (annc("data:text/plain;base64,!!"), 400),
        (annc("data:text/plain,a", repeat="often"), 400),
        (annc("data:text/plain,a", duration="0"), 400),
        (annc("data:image/png,a"), 415),
        (";play=data:te%0D%0AX-Injected:%20x/x,a", 415),
        (";play=data:text%2Fplain;charset=nonsense,a", 400),
        (annc("data:text/plain;charset=idna,xn--a..b"), 400),
        (annc("data:text/plain;charset=undefined,a"), 400),
        (annc("data:text/plain;charset=%00,a"), 400),
        (annc("data:text/plain;charset=\0,a"), 400),
        (annc("data:text/plain;charset=zlib,a"), 400),
        (annc("data:application/ssml+xml,<speak>"), 400),
        (annc("file:///etc/passwd"), 404),
        (annc("gopher://x"), 404),
    ],
)
async def test_an_announcement_that_cannot_be_made_is_refused(uri: str, status: int) -> None:
    async with serving(engine={"name": "tone"}) as running:
        assert (await announced(running, uri)).status == status


async def test_an_unknown_speaker_is_not_found() -> None:
    async with serving() as running:
        outcome = await heard(running, text=TEXT, voice="nobody")
        assert (outcome.answered, outcome.status) == (False, 404)
        assert "nobody" in outcome.reason


async def test_too_long_a_text_is_refused() -> None:
    async with serving(sip={"max_text_chars": 100}) as running:
        assert (await heard(running, text="word " * 30)).status == 400


async def test_beyond_the_maximum_of_calls_an_invite_is_turned_away() -> None:
    async with serving(sip={"max_calls": 1}, route=[{"say": TEXT, "then": "stay", "stay_s": 5}]) as running:
        first = asyncio.create_task(heard(running, seconds=1))
        await until_calls(running, 1)
        assert (await heard(running)).status == 503
        assert (await first).answered
        assert (await heard(running, seconds=0.5)).answered


async def test_a_worker_killed_in_mid_sentence_is_not_heard() -> None:
    text = " ".join(f"Sentence number {n} is here to be heard." for n in range(1, 9))
    async with serving(engine={"workers": 1}) as running:
        speech = await spoken(running.engine, text)
        call = asyncio.create_task(heard(running, text=text))
        await until_calls(running, 1)
        await asyncio.sleep(0.5)
        (worker,) = workers()
        os.kill(worker, signal.SIGKILL)
        outcome = await call
        assert likeness(outcome.heard, speech) > 0.98
        assert running.engine.health().restarts == 1


async def test_garbage_harms_no_call() -> None:
    async with serving() as running:
        call = asyncio.create_task(heard(running, text=TEXT))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as vandal:
            for data in (b"", b"\0" * 1400, os.urandom(1200), b"INVITE sip:x SIP/2.0\r\n", b"\r\n\r\n", b"BYE" * 400):
                for _ in range(50):
                    vandal.sendto(data, ("127.0.0.1", running.sip_address.port))
                await asyncio.sleep(0.01)
        assert likeness((await call).heard, await spoken(running.engine, TEXT)) > 0.98


async def test_the_end_of_the_server_is_a_bye_to_every_call() -> None:
    async with serving(route=[{"say": TEXT, "then": "stay"}]) as running:
        calls = [asyncio.create_task(heard(running)) for _ in range(3)]
        await until_calls(running, 3)
        await asyncio.sleep(0.3)
    assert [(await call).ended_by for call in calls] == ["the peer hung up"] * 3


async def test_a_pause_of_weeks_takes_no_memory() -> None:
    async with serving(engine={"name": "tone"}) as running:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        outcome = await announced(running, annc("data:text/plain,a", repeat=2, delay=999_999_999, duration=1000))
        assert outcome.ended_by == "the peer hung up"
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


async def test_an_offer_that_is_refused_takes_no_port() -> None:
    ports = rtp_ports().partition("-")[0]
    few = {"ports": f"{ports}-{int(ports) + 3}"}
    async with serving(engine={"name": "tone"}, rtp=few, route=[{"say": "a"}]) as running:
        for _ in range(6):
            refused = await dialled(running, OFFER.replace(b"RTP/AVP 0", b"RTP/AVP 18"))
            assert refused.status == 488
            await until_calls(running, 0)
        assert (await dialled(running, OFFER)).cause is sip.Cause.REMOTE_BYE


@pytest.mark.parametrize("kind", ["text/plain", "application/ssml+xml"])
async def test_a_multipart_body_brings_its_words(kind: str) -> None:
    words = "Guten Tag." if kind == "text/plain" else "<speak>Guten Tag.</speak>"
    text = Part.of(kind, words.encode(), ("Content-Language", "de"))
    content_type, body = compose((Part.of("application/sdp", OFFER), text))
    with Ear() as ear:
        async with serving() as running:
            offer = body.replace(b"4000", str(ear.port).encode())
            ended = await dialled(running, offer, content_type=content_type)
            speech = await spoken(running.engine, words, language="de", ssml=kind != "text/plain")
        assert ended.cause is sip.Cause.REMOTE_BYE
        assert likeness(ear.heard(), speech) > 0.98


async def test_a_cancel_that_crosses_the_answer_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    async with serving(engine={"name": "tone"}) as running:
        for delay_s in (0.0, 0.001, 0.002, 0.003, 0.004, 0.005, 0.006, 0.008, 0.01) * 3:
            ended = await dialled(running, OFFER, cancel_after_s=delay_s)
            assert ended.cause in (sip.Cause.LOCAL_CANCEL, sip.Cause.LOCAL_BYE, sip.Cause.REMOTE_BYE)
        await until_calls(running, 0)
    assert "[error" not in capsys.readouterr().out


async def test_a_call_ends_when_it_has_lasted_too_long() -> None:
    async with serving(engine={"name": "tone"}, sip={"max_call_s": 1}) as running:
        outcome = await announced(running, annc("data:text/plain,Hello", repeat="forever"))
        assert outcome.ended_by == "the peer hung up"
        assert 0.9 < outcome.seconds < 2


@pytest.mark.parametrize(
    ("route", "matches"),
    [
        ({"from": "softphone"}, True),
        ({"from": "/soft.*/"}, True),
        ({"from": "/soft/"}, False),
        ({"user": "/[a-z]+/"}, True),
        ({"network": "127.0.0.0/8"}, True),
        ({"network": "10.0.0.0/8"}, False),
    ],
)
async def test_a_route_is_chosen_by_its_conditions(route: dict[str, str], matches: bool) -> None:
    chosen = {"say": "a", "voice": "tone-880"} | route
    async with serving(engine={"name": "tone"}, route=[chosen, {"say": "a", "voice": "tone-440"}]) as running:
        outcome = await heard(running)
        voice = "tone-880" if matches else "tone-440"
        assert likeness(outcome.heard, await spoken(running.engine, "a", voice=voice)) > 0.95


async def test_the_speaker_of_the_header_holds_for_a_route_too() -> None:
    async with serving(engine={"name": "tone"}, route=[{"say": "a"}]) as running:
        outcome = await heard(running, voice="tone-880")
        assert likeness(outcome.heard, await spoken(running.engine, "a", voice="tone-880")) > 0.95


async def test_digits_are_nobody_elses_business(capsys: pytest.CaptureFixture[str]) -> None:
    events: asyncio.Queue[sip.Event] = asyncio.Queue()
    agent = sip.Agent(random=random.Random(1))
    async with (
        serving(engine={"name": "tone"}, route=[{"say": "a", "then": "stay", "stay_s": 1}]) as running,
        sip.Transport.open(agent, [("127.0.0.1", 0)], deliver=events.put_nowait) as transport,
        rtp.Endpoint(host="127.0.0.1", ports=range(0), realtime=False) as endpoint,
    ):
        stream = endpoint.open(port=0)
        ours = sdp.Capabilities(host="127.0.0.1", port=stream.port, session_id=1)
        offer = sdp.offer(ours)
        invited(running, transport, events, offer.serialise())
        answer = await anext_of(events, sip.Answered)
        audio = sdp.settle(offer, sdp.SessionDescription.parse(answer.response.body), ours)
        stream.connect(
            host=audio.remote_host,
            port=audio.remote_port,
            codec="PCMU",
            payload_type=0,
            telephone_event=audio.telephone_event,
        )
        stream.start()
        stream.send_digits("7")
        await anext_of(events, sip.Ended)
        stream.close()
    log = capsys.readouterr().out
    assert "digits=1" in log
    assert "Digit" not in log
