"""POST /v1/audio/speech and GET /v1/models: OpenAI's own client is at home here."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import wave
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import av
import numpy as np
import openai
import pytest

from http_api import ApiLimits, Busy, Failed, NotFound, Refused, Speech, Unsupported

from .http_support import (
    MODEL,
    Api,
    Endless,
    Gated,
    Script,
    alaw_like,
    breaks,
    mulaw_like,
    ramp,
    running,
    says,
)
from .live import serving

PATH = "/v1/audio/speech"
SPEECH = ramp(2000)
ORDER: dict[str, Any] = {"model": "tts-1", "input": "Hello", "voice": "alloy"}


def client_of(url: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="anything", max_retries=0)


@asynccontextmanager
async def dialled(script: Script, limits: ApiLimits | None = None) -> AsyncIterator[tuple[Api, openai.AsyncOpenAI]]:
    async with running(script, limits) as api, client_of(api.listening.url) as client:
        yield api, client


# The official client, against a server with an engine


async def test_the_official_client_gets_speech_in_every_format() -> None:
    async with serving(engine={"name": "tone"}) as server, client_of(f"http://{server.http_address}") as client:
        for format, codec in [
            ("mp3", "mp3float"),
            ("opus", "opus"),
            ("flac", "flac"),
            ("wav", "pcm_s16le"),
        ]:
            response = await client.audio.speech.create(**ORDER, response_format=format)  # type: ignore[arg-type]
            with av.open(io.BytesIO(response.content), mode="r") as file:
                stream = file.streams.audio[0]
                assert stream.codec_context.name == codec
                samples = np.concatenate([frame.to_ndarray()[0] for frame in file.decode(stream)]).astype(float)
                assert stream.rate == (48000 if format == "opus" else 24000)
                spectrum = np.abs(np.fft.rfft(samples))
                assert np.argmax(spectrum) * stream.rate / len(samples) == pytest.approx(440, abs=5)
        pcm = await client.audio.speech.create(**ORDER, response_format="pcm")
        assert len(pcm.content) == (5 * 60 + 150) * 24 * 2
        fast = await client.audio.speech.create(**ORDER, response_format="pcm", speed=2.0)
        assert len(fast.content) == (5 * 60 // 2 + 150) * 24 * 2
        for format in ("mulaw", "alaw"):
            response = await client.audio.speech.create(**ORDER, response_format=format)  # type: ignore[arg-type]
            assert len(response.content) == (5 * 60 + 150) * 8


async def test_the_official_client_gets_the_first_sound_while_the_rest_is_being_made() -> None:
    engine = Gated(SPEECH[:400], SPEECH[400:])
    async with (
        dialled(engine) as (_, client),
        client.audio.speech.with_streaming_response.create(**ORDER, response_format="pcm") as response,
    ):
        pieces = response.iter_bytes()
        assert await anext(pieces) == SPEECH[:400]
        engine.gate.set()
        assert b"".join([piece async for piece in pieces]) == SPEECH[400:]


async def test_the_official_client_reads_the_models() -> None:
    async with dialled(says()) as (_, client):
        names = [model.id async for model in client.models.list()]
        assert names == ["fake", "tts-1", "tts-1-hd", "gpt-4o-mini-tts", "gpt-4o-mini-tts-2025-12-15"]
        model = await client.models.retrieve("fake")
        assert (model.id, model.object, model.owned_by) == ("fake", "model", "mediaserver")
        with pytest.raises(openai.NotFoundError) as caught:
            await client.models.retrieve("whisper-1")
        assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


@pytest.mark.parametrize(
    ("error", "raised", "code", "param"),
    [
        (NotFound("There is no voice 'x'", field="speaker_id"), openai.NotFoundError, "not_found", "voice"),
        (Refused("It has no words", field="text"), openai.BadRequestError, None, "input"),
        (Unsupported("Not by this engine", field="speed"), openai.BadRequestError, None, "speed"),
        (Busy("The engine is full", retry_after_s=2.1), openai.InternalServerError, "overloaded", None),
        (Failed("/srv/secret"), openai.InternalServerError, None, None),
        (RuntimeError("/srv/secret"), openai.InternalServerError, None, None),
    ],
)
async def test_the_official_client_raises_its_own_errors(
    error: Exception, raised: type[openai.APIStatusError], code: str | None, param: str | None
) -> None:
    async with dialled(breaks(error)) as (api, client):
        with pytest.raises(raised) as caught:
            await client.audio.speech.create(**ORDER)
        assert (caught.value.code, caught.value.param) == (code, param)
        # It is told in their words.
        assert isinstance(caught.value.body, dict)
        assert param is None or caught.value.body["message"].startswith(f"{param}: ")
        assert "secret" not in str(caught.value)
        assert caught.value.request_id == caught.value.response.headers["X-Request-Id"]
        assert len(api.control.requests) == 1
        assert api.control.requests[0][0] == "speech"


# What is asked of the engine


@pytest.mark.parametrize(
    ("voice", "speaker_id"),
    [
        ("alloy", "default"),
        ("verse", "default"),
        ("en-us+f3", "en-us+f3"),
        ({"id": "voice_1234"}, "voice_1234"),
        ({"id": "nova"}, "default"),
    ],
)
async def test_openai_s_voices_are_the_default_speaker_and_others_are_themselves(
    voice: object, speaker_id: str
) -> None:
    async with running(says(SPEECH)) as api:
        async with api.client.post(PATH, json=ORDER | {"voice": voice, "speed": 1.5}) as response:
            assert response.status == 200
        assert api.control.asked == [Speech(text="Hello", speaker_id=speaker_id, rate_hz=24000, speed=1.5)]


@pytest.mark.parametrize("model", ["fake", "tts-1", "tts-1-hd", "gpt-4o-mini-tts"])
async def test_every_listed_model_speaks(model: str) -> None:
    async with running(says(SPEECH)) as api, api.client.post(PATH, json=ORDER | {"model": model}) as response:
        assert (response.status, response.content_type) == (200, "audio/mpeg")
        assert response.headers["X-Model-Version"] == MODEL


# Bodies


@pytest.mark.parametrize(
    ("format", "content_type", "expected"),
    [
        ("mp3", "audio/mpeg", b"[24000:4000]" + SPEECH),
        ("opus", "audio/ogg", b"[24000:4000]" + SPEECH),
        ("flac", "audio/flac", b"[24000:4000]" + SPEECH),
        ("pcm", "audio/x-pcm", SPEECH),
        ("mulaw", "audio/basic", mulaw_like(SPEECH)),
        ("alaw", "audio/x-alaw-basic", alaw_like(SPEECH)),
    ],
)
async def test_each_format_is_itself(format: str, content_type: str, expected: bytes) -> None:
    order = ORDER | {"response_format": format}
    async with running(says(SPEECH[:700], SPEECH[700:])) as api, api.client.post(PATH, json=order) as response:
        assert (response.status, response.content_type) == (200, content_type)
        assert await response.read() == expected


@pytest.mark.parametrize("stream", [None, False])
async def test_a_wav_file_that_is_soon_complete_tells_its_length(stream: bool | None) -> None:
    order = ORDER | {"response_format": "wav", "stream": stream}
    async with running(says(SPEECH)) as api, api.client.post(PATH, json=order) as response:
        assert response.content_length == 44 + len(SPEECH)
        with wave.open(io.BytesIO(await response.read())) as file:
            assert (file.getframerate(), file.readframes(file.getnframes())) == (24000, SPEECH)


async def test_a_wav_file_that_is_streamed_leaves_its_length_open() -> None:
    engine = Gated(SPEECH[:400], SPEECH[400:])
    order = ORDER | {"response_format": "wav", "stream": True}
    async with running(engine) as api, api.client.post(PATH, json=order) as response:
        head = await response.content.readexactly(44)
        assert (head[4:8], head[40:44]) == (b"\xff\xff\xff\xff", b"\xff\xff\xff\xff")
        assert await response.content.readexactly(400) == SPEECH[:400]
        engine.gate.set()
        assert await response.read() == SPEECH[400:]


async def test_a_body_that_is_to_come_as_a_whole_is_bounded() -> None:
    engine = Endless(ramp(800))
    order = ORDER | {"stream": False}
    async with running(engine, ApiLimits(max_collected_s=2)) as api, api.client.post(PATH, json=order) as response:
        assert response.status == 400
        assert (await response.json())["error"]["param"] == "input"
        assert engine.closed.is_set()


# Events


def deltas(body: bytes) -> list[dict[str, Any]]:
    return [json.loads(line.removeprefix("data: ")) for line in body.decode().split("\n\n") if line]


async def test_events_are_deltas_and_then_done() -> None:
    order = ORDER | {"response_format": "mulaw", "stream_format": "sse"}
    async with running(says(SPEECH[:700], SPEECH[700:])) as api, api.client.post(PATH, json=order) as response:
        assert response.content_type == "text/event-stream"
        *audio, done = deltas(await response.read())
    assert [event["type"] for event in audio] == ["speech.audio.delta"] * 2
    assert b"".join(base64.b64decode(event["audio"]) for event in audio) == mulaw_like(SPEECH)
    assert done == {
        "type": "speech.audio.done",
        "usage": {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0},
    }


async def test_events_leave_as_they_are_made() -> None:
    engine = Gated(SPEECH[:400], SPEECH[400:])
    order = ORDER | {"response_format": "pcm", "stream_format": "sse"}
    async with running(engine) as api, api.client.post(PATH, json=order) as response:
        (first,) = deltas(await response.content.readuntil(b"\n\n"))
        assert base64.b64decode(first["audio"]) == SPEECH[:400]
        engine.gate.set()
        assert len(deltas(await response.read())) == 2


async def test_an_error_half_way_is_an_event() -> None:
    order = ORDER | {"response_format": "pcm", "stream_format": "sse"}
    script = breaks(Failed("/srv/secret"), SPEECH)
    async with running(script) as api, api.client.post(PATH, json=order) as response:
        _, error = deltas(await response.read())
        assert error["error"]["type"] == "server_error"
        assert "secret" not in error["error"]["message"]
        assert api.control.requests == [("speech", 500)]


async def test_an_error_before_the_first_sound_has_its_own_status() -> None:
    order = ORDER | {"stream_format": "sse"}
    script = breaks(Busy("The engine is full", retry_after_s=2.1))
    async with running(script) as api, api.client.post(PATH, json=order) as response:
        assert (response.status, response.headers["Retry-After"]) == (503, "3")
        assert (await response.json())["error"]["code"] == "overloaded"


# What is refused


@pytest.mark.parametrize(
    ("change", "status", "param", "message"),
    [
        ({"model": "whisper-1"}, 404, "model", "There is no model 'whisper-1'"),
        ({"model": None}, 400, "model", "valid string"),
        ({"input": ""}, 400, "input", "at least 1 character"),
        ({"input": " \n"}, 400, "input", "something to say"),
        ({"input": "x" * 4097}, 400, "input", "at most 4096 characters"),
        ({"voice": 5}, 400, "voice", ""),
        ({"voice": {"name": "x"}}, 400, "voice", ""),
        ({"instructions": "Whisper."}, 400, "instructions", "Not supported by this engine"),
        ({"response_format": "aac"}, 400, "response_format", "AAC is not supported"),
        ({"response_format": "ogg"}, 400, "response_format", "Input should be"),
        ({"speed": 0.2}, 400, "speed", "greater than or equal to 0.25"),
        ({"speed": 4.5}, 400, "speed", "less than or equal to 4"),
        ({"stream_format": "ws"}, 400, "stream_format", "'audio' or 'sse'"),
        ({"stream": "yes"}, 400, "stream", "valid boolean"),
        ({"user": "me"}, 400, "user", "There is no such field"),
    ],
)
async def test_a_fault_names_its_parameter_in_openai_s_form(
    change: dict[str, Any], status: int, param: str, message: str
) -> None:
    async with running(says(SPEECH)) as api, api.client.post(PATH, json=ORDER | change) as response:
        assert (response.status, response.content_type) == (status, "application/json")
        error = (await response.json())["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["type"] == "invalid_request_error"
        assert error["param"].partition(".")[0] == param
        assert message in error["message"]
        assert api.control.asked == []


async def test_4096_characters_are_spoken_and_instructions_may_be_empty() -> None:
    order = ORDER | {"input": "x" * 4096, "instructions": ""}
    async with running(says(SPEECH)) as api, api.client.post(PATH, json=order) as response:
        assert response.status == 200


async def test_a_body_that_is_no_json_and_one_that_is_too_long_have_openai_s_form() -> None:
    async with running(says(SPEECH), ApiLimits(max_body_bytes=1000)) as api:
        headers = {"Content-Type": "application/json"}
        for body, status in ((b"{", 400), (b" " * 1001, 413)):
            async with api.client.post(PATH, data=body, headers=headers) as response:
                assert response.status == status
                assert (await response.json())["error"]["type"] == "invalid_request_error"


async def test_requests_beyond_the_limit_are_told_to_come_back() -> None:
    engine = Gated(b"", SPEECH)
    async with (
        dialled(engine, ApiLimits(max_concurrent=9, max_concurrent_per_client=1)) as (api, client),
        asyncio.TaskGroup() as tasks,
    ):
        tasks.create_task(client.audio.speech.create(**ORDER))
        await engine.waiting.wait()
        with pytest.raises(openai.RateLimitError) as caught:
            await client.audio.speech.create(**ORDER)
        assert caught.value.response.headers["Retry-After"] == "1"
        async with api.client.post("/v1/synthesize/stream", json={"text": "Hello"}) as response:
            assert response.status == 429
        engine.gate.set()
