"""POST /v1/synthesize/stream: speech as server-sent events."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator

import aiohttp
import pytest

from http_api import ApiLimits, Busy, Failed, Speech

from .http_support import MODEL, Event, Gated, breaks, mulaw_like, parse_events, ramp, running, says

PATH = "/v1/synthesize/stream"
SPEECH = ramp(2000)


def audio(events: list[Event]) -> bytes:
    return b"".join(base64.b64decode(event.data, validate=True) for event in events if event.kind == "audio")


async def test_events_are_audio_in_order_and_then_done() -> None:
    async with running(says(SPEECH[:100], SPEECH[100:3900], SPEECH[3900:])) as api:
        async with api.client.post(PATH, json={"text": "Hello"}) as response:
            assert (response.status, response.headers["Content-Type"]) == (200, "text/event-stream")
            assert (response.headers["Cache-Control"], response.headers["X-Model-Version"]) == ("no-store", MODEL)
            events = parse_events(await response.read())
        assert [event.kind for event in events] == ["audio", "audio", "audio", "done"]
        assert [event.id for event in events] == ["0", "1", "2", ""]
        assert [len(base64.b64decode(event.data)) for event in events[:3]] == [1600, 1600, 800]
        assert audio(events) == SPEECH
        done = json.loads(events[-1].data)
        assert done == {
            "inference_time_ms": pytest.approx(done["rtf"] * 250, abs=0.001),
            "audio_duration_ms": 250.0,
            "rtf": round(done["inference_time_ms"] / 250, 6),
            "model_version": MODEL,
        }
        assert api.control.requests == [("stream", 200)]


@pytest.mark.parametrize(
    ("chunk_size_ms", "rate_hz", "sizes"),
    [(20, 8000, [320] * 12 + [160]), (100, 16000, [3200, 800]), (1000, 24000, [4000]), (125, 8000, [2000, 2000])],
)
async def test_an_audio_event_has_chunk_size_ms_and_the_last_what_is_left(
    chunk_size_ms: int, rate_hz: int, sizes: list[int]
) -> None:
    async with running(says(SPEECH)) as api:
        order = {"text": "Hello", "chunk_size_ms": chunk_size_ms, "sample_rate": rate_hz}
        async with api.client.post(PATH, json=order) as response:
            events = parse_events(await response.read())
    assert [len(base64.b64decode(event.data)) for event in events[:-1]] == sizes
    assert audio(events) == SPEECH


async def test_g711_events_carry_octets() -> None:
    order = {"text": "Hello", "format": "mulaw"}
    async with running(says(SPEECH)) as api, api.client.post(PATH, json=order) as response:
        events = parse_events(await response.read())
    assert [len(base64.b64decode(event.data)) for event in events[:-1]] == [800, 800, 400]
    assert audio(events) == mulaw_like(SPEECH)


async def test_the_events_of_a_compressed_file_are_the_file() -> None:
    order = {"text": "Hello", "format": "opus", "chunk_size_ms": 20}
    async with running(says(SPEECH)) as api, api.client.post(PATH, json=order) as response:
        events = parse_events(await response.read())
    assert [event.id for event in events] == ["0", "1", "2", "3", "4", ""]
    assert [len(base64.b64decode(event.data)) for event in events[:-1]] == [8, 1000, 1000, 1000, 1000]
    assert audio(events) == b"[8000:?]" + SPEECH


async def test_a_file_without_speech_still_has_its_head_and_end() -> None:
    async with running(says()) as api, api.client.post(PATH, json={"text": "...", "format": "flac"}) as response:
        assert audio(parse_events(await response.read())) == b"[8000:0]"


async def test_no_speech_is_done_alone() -> None:
    async with running(says()) as api, api.client.post(PATH, json={"text": "..."}) as response:
        (done,) = parse_events(await response.read())
        assert (done.kind, json.loads(done.data)["rtf"]) == ("done", 0.0)


async def test_audio_leaves_as_it_is_made() -> None:
    engine = Gated(SPEECH[:1600], SPEECH[1600:])
    async with running(engine) as api, api.client.post(PATH, json={"text": "Hello"}) as response:
        first = await response.content.readuntil(b"\n\n")
        assert audio(parse_events(first)) == SPEECH[:1600]
        assert not engine.gate.is_set()
        engine.gate.set()
        assert audio(parse_events(await response.read())) == SPEECH[1600:]


@pytest.mark.parametrize(
    ("error", "status"), [(Failed("/srv/secret"), 500), (Busy("The engine is full", retry_after_s=1), 503)]
)
async def test_an_error_half_way_is_an_event_and_the_connection_lives(error: Exception, status: int) -> None:
    async with running(breaks(error, SPEECH[:1600])) as api:
        async with api.client.post(PATH, json={"text": "Hello"}, headers={"X-Request-Id": "me-1"}) as response:
            events = parse_events(await response.read())
            assert [event.kind for event in events] == ["audio", "error"]
            problem = json.loads(events[-1].data)
            assert (problem["status"], problem["request_id"]) == (status, "me-1")
            assert "secret" not in events[-1].data
        assert api.control.requests == [("stream", status)]
        async with api.client.get("/ready") as response:
            assert response.status == 200


async def test_silence_is_filled_with_comments() -> None:
    engine = Gated(b"", SPEECH)
    limits = ApiLimits(keep_alive_s=0.01)
    async with running(engine, limits) as api, api.client.post(PATH, json={"text": "Hello"}) as response:
        assert await response.content.readuntil(b"\n\n") == b": keep-alive\n\n"
        assert await response.content.readuntil(b"\n\n") == b": keep-alive\n\n"
        engine.gate.set()
        events = parse_events(await response.read())
    assert audio(events) == SPEECH
    assert events[-1].kind == "done"


async def test_an_error_after_comments_alone_is_an_event() -> None:
    async def speak(speech: Speech) -> AsyncGenerator[bytes, None]:
        await asyncio.sleep(0.05)
        raise Busy("The engine is full", retry_after_s=1)
        yield b""

    limits = ApiLimits(keep_alive_s=0.01)
    async with running(speak, limits) as api, api.client.post(PATH, json={"text": "Hello"}) as response:
        assert response.status == 200
        (error,) = parse_events(await response.read())
    assert (error.kind, json.loads(error.data)["status"]) == ("error", 503)


async def test_an_unforeseen_error_half_way_breaks_the_stream() -> None:
    async with running(breaks(RuntimeError("broken"), SPEECH[:1600])) as api:
        async with api.client.post(PATH, json={"text": "Hello"}) as response:
            assert response.status == 200
            with pytest.raises(aiohttp.ClientError):
                await response.read()
        assert api.control.requests == [("stream", 500)]
