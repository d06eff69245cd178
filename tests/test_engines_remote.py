"""An engine on other machines: what it says is what they say, and one that is away is nobody's silence."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import pytest
from aiohttp import web
from pydantic import ValidationError

import engines
from engines import EngineBusy, EngineFailure, EngineState, UnknownVoice, UnsuitableUtterance, Utterance, open_engine
from engines.fallback import WithFallback
from engines.in_process import open_in_process
from engines.remote import RemoteEngine, open_remote
from mediaserver import server
from mediaserver.config import Engine
from tests.live import heard, likeness, serving, spoken
from tests.speakers_support import somebody

TEXT = "Good morning to you all."
TONE = {"engine": {"name": "tone"}}


async def said(engine: engines.Engine, text: str = TEXT, **fields: object) -> bytes:
    utterance = Utterance(text=text, **fields)  # type: ignore[arg-type]
    return b"".join([chunk.samples async for chunk in engine.synthesize(utterance)])


def at(running: server.Server) -> str:
    return f"http://{running.http_address}"


async def test_it_is_the_engine_of_the_other_server() -> None:
    async with serving() as other, open_remote([at(other)]) as engine:
        local = other.engine
        assert (engine.name, engine.version) == (local.name, local.version)
        assert engine.embedding_kind == local.embedding_kind
        assert engine.voices() == local.voices()
        assert engine.health().state is EngineState.READY
        for fields in ({}, {"voice": "de", "rate_hz": 24000}, {"speed": 2.0}, {"language": "fr", "continues": True}):
            assert await said(engine, **fields) == await said(local, **fields), fields
        ssml = '<speak>One, <break time="200ms"/> two.</speak>'
        assert await said(engine, ssml, ssml=True) == await said(local, ssml, ssml=True)


async def test_a_speaker_sounds_the_same_there() -> None:
    async with serving() as other, open_remote([at(other)]) as engine:
        samples = somebody().tobytes()
        embedding = await engine.enrol(samples, 24000)
        assert embedding == await other.engine.enrol(samples, 24000)
        assert engine.figures(embedding) == other.engine.figures(embedding)
        assert await said(engine, embedding=embedding) == await said(other.engine, embedding=embedding)
        with pytest.raises(engines.UnsuitableReference, match="speech found"):
            await engine.enrol(bytes(16000), 8000)


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"voice": "nobody"}, UnknownVoice),
        ({"language": "xx-nowhere"}, UnsuitableUtterance),
        ({"text": "   "}, UnsuitableUtterance),
        ({"seed": 1}, engines.Unsupported),
        ({"text": "<speak>", "ssml": True}, UnsuitableUtterance),
    ],
)
async def test_what_the_engine_would_refuse_is_refused_at_once(
    fields: dict[str, object], kind: type[Exception]
) -> None:
    async with serving() as other, open_remote([at(other)]) as engine:
        with pytest.raises(kind):
            engine.check(Utterance(**{"text": TEXT} | fields))  # type: ignore[arg-type]


@dataclass
class Peer:
    """A server that answers /v1/engine/synthesize as it is told to."""

    act: Callable[[web.Request], object] = lambda request: None
    asked: list[dict[str, object]] = field(default_factory=list)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""

    async def describe(self, request: web.Request) -> web.Response:
        async with open_in_process({}, default_voice="tone-440") as tone:
            return web.json_response(dict(tone.describe()))

    async def speak(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(await request.json())
        try:
            return await self.act(request)  # type: ignore[misc, no-any-return]
        except asyncio.CancelledError:
            self.left.set()
            raise


@asynccontextmanager
async def peer(act: Callable[[web.Request], object]) -> AsyncIterator[Peer]:
    made = Peer(act)
    app = web.Application()
    app.router.add_get("/v1/engine", made.describe)
    app.router.add_post("/v1/engine/synthesize", made.speak)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        made.url = f"http://{host}:{port}"
        yield made
    finally:
        await runner.cleanup()


async def well(request: web.Request) -> web.StreamResponse:
    return web.Response(body=bytes(320))


async def broken(request: web.Request) -> web.StreamResponse:
    return web.Response(status=500)


async def full(request: web.Request) -> web.StreamResponse:
    return web.json_response({"detail": "full"}, status=503, headers={"Retry-After": "7"})


async def silent(request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(60)
    return web.Response()


async def torn(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(bytes(321))
    await asyncio.sleep(0.05)
    assert request.transport is not None
    request.transport.abort()
    return response


async def endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(bytes(320))
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("first", [broken, full, silent])
async def test_until_the_first_sample_another_replica_is_tried(first: Callable[[web.Request], object]) -> None:
    async with peer(first) as bad, peer(well) as good, open_remote([bad.url, good.url], first_s=0.3) as engine:
        assert await said(engine) == bytes(320)
        assert (len(bad.asked), len(good.asked)) == (1, 1)


async def test_one_that_failed_is_left_alone_and_comes_back() -> None:
    async with peer(broken) as bad, peer(well) as good, open_remote([bad.url, good.url]) as engine:
        for _ in range(3):
            await said(engine)
        assert (len(bad.asked), len(good.asked)) == (1, 3)
        assert engine.health().detail == f"not there: {bad.url}"
        assert (engine.health().workers, engine.health().restarts) == (1, 1)
        bad.act = well
        async with asyncio.timeout(5):
            while engine.health().workers < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        await said(engine)
        assert len(bad.asked) == 2


async def test_when_all_are_full_that_is_said_with_the_time_to_come_back() -> None:
    async with peer(full) as one, open_remote([one.url]) as engine:
        with pytest.raises(EngineBusy, match="full") as raised:
            await said(engine)
        assert raised.value.retry_after_s == 7
        assert engine.health().state is EngineState.READY, "full is not ill"


async def test_samples_that_stop_half_way_are_a_failure_and_are_not_said_again() -> None:
    async with peer(torn) as bad, peer(well) as good, open_remote([bad.url, good.url]) as engine:
        async with aclosing(engine.synthesize(Utterance(text=TEXT))) as chunks:
            assert (await anext(chunks)).samples == bytes(320), "half a sample is no sample"
            with pytest.raises(EngineFailure):
                await anext(chunks)
        assert good.asked == []


async def test_a_stall_half_way_is_a_failure() -> None:
    async def stalls(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(bytes(320))
        await asyncio.sleep(60)
        return response

    async with peer(stalls) as bad, open_remote([bad.url], stall_s=0.2) as engine:
        with pytest.raises(EngineFailure):
            await said(engine)


async def test_whoever_stops_listening_stops_the_work() -> None:
    async with peer(endless) as one, open_remote([one.url]) as engine:
        async with aclosing(engine.synthesize(Utterance(text=TEXT))) as chunks:
            await anext(chunks)
        async with asyncio.timeout(2):
            await one.left.wait()
        assert engine.health().active == 0


async def test_texts_go_to_whoever_has_least_to_do() -> None:
    async with peer(endless) as one, peer(endless) as two, open_remote([one.url, two.url]) as engine:
        speaking = [engine.synthesize(Utterance(text=TEXT)) for _ in range(6)]
        for chunks in speaking:
            await anext(chunks)
        assert (len(one.asked), len(two.asked)) == (3, 3)
        for chunks in speaking:
            await chunks.aclose()


async def test_a_token_is_shown() -> None:
    token = "0123456789abcdef0123456789abcdef"
    guard = {"name": "fleet", "sha256": hashlib.sha256(token.encode()).hexdigest(), "roles": ["speak"]}
    async with serving(token=[guard]) as other, open_remote([at(other)], token=token) as engine:
        assert await said(engine) == await said(other.engine)


# --- Behind a server: calls, and the fallback


async def test_a_call_hears_the_engine_of_another_machine() -> None:
    async with serving() as other, serving(engine={"name": "remote", "urls": [at(other)]}) as running:
        outcome = await heard(running, text=TEXT)
        assert likeness(outcome.heard, await spoken(other.engine, TEXT)) > 0.98
        assert running.engine.name == "espeak"


async def test_calls_go_on_in_the_embedded_voice_while_the_other_machine_is_away_and_nothing_of_it_is_kept() -> None:
    async with open_engine("espeak", workers=1) as espeak, AsyncExitStack() as stack:
        expected = await spoken(espeak, TEXT)
        other = await stack.enter_async_context(serving(**TONE))
        remote = {"name": "remote", "urls": [at(other)], "fallback": "espeak", "first_ms": 500}
        async with serving(engine=remote) as running:
            assert likeness((await heard(running, text="Before.")).heard, expected) < 0.9
            await stack.aclose()
            for _ in range(2):
                outcome = await heard(running, text=TEXT)
                assert likeness(outcome.heard, expected) > 0.98
            health = running.engine.health()
            assert health.state is EngineState.READY
            assert health.detail.startswith("espeak speaks instead of tone")
            async with aiohttp.ClientSession() as client, client.get(f"{at(running)}/metrics") as response:
                metrics = await response.text()
            # Each was made anew, so neither was kept as what the engine elsewhere says.
            assert "tts_substituted_total 2.0" in metrics


async def test_a_voice_that_the_fallback_does_not_have_becomes_its_default() -> None:
    async with (
        peer(broken) as bad,
        open_remote([bad.url]) as remote,
        open_engine("espeak", workers=1) as espeak,
    ):
        engine = WithFallback(remote, espeak)
        assert isinstance(remote, RemoteEngine)
        samples = b""
        async for chunk in engine.synthesize(Utterance(text=TEXT, voice="tone-880")):
            assert isinstance(chunk, engines.Substitute)
            samples += chunk.samples
        assert samples == await said(espeak)


@pytest.mark.parametrize(
    ("section", "why"),
    [
        ({"name": "remote"}, "urls go with the name"),
        ({"urls": ["http://127.0.0.1:1"]}, "urls go with the name"),
        ({"name": "remote", "urls": ["ftp://x"]}, "http://host:port"),
        ({"name": "remote", "urls": ["http://u:p@x"]}, "http://host:port"),
        ({"fallback": "espeak"}, "another engine"),
    ],
)
def test_what_makes_no_sense_is_named(section: dict[str, object], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        Engine.model_validate(section)
