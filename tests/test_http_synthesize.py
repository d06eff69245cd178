"""POST /v1/synthesize: speech as one body."""

from __future__ import annotations

import asyncio
import io
import time
import wave
from collections.abc import AsyncGenerator

import aiohttp
import av
import numpy as np
import pytest

from http_api import ApiLimits, Busy, Failed, NotFound, Refused, Speech, Unsupported

from .http_support import MODEL, Endless, Gated, alaw_like, breaks, mulaw_like, ramp, running, says

PATH = "/v1/synthesize"
SPEECH = ramp(2000)
COMPRESSED = [("opus", "audio/ogg"), ("flac", "audio/flac"), ("mp3", "audio/mpeg")]


@pytest.mark.parametrize("rate_hz", [8000, 16000, 24000])
async def test_wav_is_read_alike_by_wave_and_by_ffmpeg(rate_hz: int) -> None:
    async with running(says(SPEECH[:1000], SPEECH[1000:])) as api:
        async with api.client.post(PATH, json={"text": "Hello", "sample_rate": rate_hz}) as response:
            assert (response.status, response.content_type) == (200, "audio/wav")
            body = await response.read()
            assert response.content_length == len(body) == 44 + len(SPEECH)
        assert api.control.asked == [Speech(text="Hello", speaker_id="default", rate_hz=rate_hz)]
    with wave.open(io.BytesIO(body)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, rate_hz)
        assert file.readframes(file.getnframes()) == SPEECH
    with av.open(io.BytesIO(body), mode="r") as container:
        stream = container.streams.audio[0]
        assert (stream.codec_context.name, stream.rate, stream.channels) == ("pcm_s16le", rate_hz, 1)
        samples = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(stream)])
    assert samples.tobytes() == SPEECH


@pytest.mark.parametrize(
    ("coding", "rate_hz", "content_type", "expected"),
    [
        ("pcm", 24000, "audio/x-pcm", SPEECH),
        ("mulaw", 8000, "audio/basic", mulaw_like(SPEECH)),
        ("alaw", 8000, "audio/x-alaw-basic", alaw_like(SPEECH)),
    ],
)
async def test_a_bare_format_is_its_octets(coding: str, rate_hz: int, content_type: str, expected: bytes) -> None:
    async with running(says(SPEECH[:700], SPEECH[700:])) as api:
        order = {"text": "Hello", "format": coding, "sample_rate": rate_hz, "speaker_id": "anna"}
        async with api.client.post(PATH, json=order) as response:
            assert (response.status, response.content_type) == (200, content_type)
            assert await response.read() == expected
        assert api.control.asked == [Speech(text="Hello", speaker_id="anna", rate_hz=rate_hz)]


async def test_every_field_reaches_the_engine() -> None:
    order = {"ssml": "<speak/>", "speaker_id": "anna", "sample_rate": 16000, "language": "de", "speed": 0.5, "seed": 7}
    async with running(says(SPEECH)) as api:
        async with api.client.post(PATH, json=order) as response:
            assert response.status == 200
        assert api.control.asked == [
            Speech(text="<speak/>", ssml=True, speaker_id="anna", rate_hz=16000, language="de", speed=0.5, seed=7)
        ]


@pytest.mark.parametrize(("coding", "content_type"), COMPRESSED)
async def test_a_compressed_file_that_is_complete_has_an_exact_head(coding: str, content_type: str) -> None:
    async with running(says(SPEECH[:700], SPEECH[700:])) as api:
        order = {"text": "Hello", "format": coding, "sample_rate": 24000}
        async with api.client.post(PATH, json=order) as response:
            assert (response.status, response.content_type) == (200, content_type)
            body = await response.read()
            assert body == b"[24000:4000]" + SPEECH
            assert response.content_length == len(body)


async def test_a_compressed_file_that_is_streamed_leaves_its_length_open() -> None:
    engine = Gated(SPEECH[:1400], SPEECH[1400:])
    async with (
        running(engine, ApiLimits(hold_ms=20)) as api,
        api.client.post(PATH, json={"text": "Hello", "format": "flac"}) as response,
    ):
        assert response.headers["Transfer-Encoding"] == "chunked"
        assert await response.content.readexactly(1008) == b"[8000:?]" + SPEECH[:1000]
        engine.gate.set()
        assert await response.read() == SPEECH[1000:]


@pytest.mark.parametrize("coding", ["wav", "pcm", "mulaw"])
async def test_headers_carry_the_figures_of_speech_that_is_complete(coding: str) -> None:
    async with running(says(SPEECH)) as api:
        async with api.client.post(PATH, json={"text": "Hello", "format": coding}) as response:
            inference_ms = float(response.headers["X-Inference-Time-Ms"])
            assert response.headers["X-Audio-Duration-Ms"] == "250.000"
            assert float(response.headers["X-RTF"]) == round(inference_ms / 250, 6)
            assert response.headers["X-Model-Version"] == MODEL
            assert response.content_length is not None
        assert api.control.requests == [("synthesize", 200)]


async def test_inference_time_is_time_spent_waiting_for_the_engine() -> None:
    engine = Gated(b"", SPEECH)
    async with running(engine, ApiLimits(hold_ms=5000)) as api:
        async with asyncio.TaskGroup() as tasks:
            request = tasks.create_task(api.client.post(PATH, json={"text": "Hello", "format": "pcm"}))
            await engine.waiting.wait()
            await asyncio.sleep(0.05)
            engine.gate.set()
        async with request.result() as response:
            assert 45 <= float(response.headers["X-Inference-Time-Ms"]) <= api.control.latencies_ms[0]


async def test_slow_speech_leaves_in_pieces_after_the_hold() -> None:
    engine = Gated(SPEECH[:400], SPEECH[400:800], SPEECH[800:])
    async with running(engine, ApiLimits(hold_ms=20)) as api:
        began = time.perf_counter()
        async with api.client.post(PATH, json={"text": "Hello", "format": "pcm"}) as response:
            assert time.perf_counter() - began >= 0.02
            assert response.headers["Transfer-Encoding"] == "chunked"
            assert response.headers["X-Model-Version"] == MODEL
            assert not {"Content-Length", "X-RTF", "X-Audio-Duration-Ms", "X-Inference-Time-Ms"} & set(response.headers)
            assert await response.content.readexactly(400) == SPEECH[:400]
            engine.gate.set()
            assert await response.read() == SPEECH[400:]


async def test_a_fast_engine_and_a_long_text_do_not_fill_the_memory_while_held() -> None:
    engine = Endless(bytes(64 * 1024))
    async with running(engine, ApiLimits(hold_ms=60_000)) as api:
        async with api.client.post(PATH, json={"text": "Hello", "format": "pcm"}) as response:
            assert response.headers["Transfer-Encoding"] == "chunked"
            await response.content.readexactly(1024 * 1024)
        await asyncio.wait_for(engine.closed.wait(), 5)


async def test_a_collected_wav_is_bounded() -> None:
    engine = Endless(ramp(800))
    async with running(engine, ApiLimits(max_collected_s=2)) as api:
        async with api.client.post(PATH, json={"text": "Hello"}) as response:
            problem = await response.json()
        assert (problem["status"], problem["errors"][0]["field"]) == (422, "text")
        assert engine.closed.is_set()
        assert engine.given <= 2 * 8000 * 2 + 1600


async def test_no_speech_is_an_empty_body() -> None:
    async with running(says()) as api:
        async with api.client.post(PATH, json={"text": "...", "format": "mulaw"}) as response:
            assert (response.status, await response.read()) == (200, b"")
            assert (response.headers["X-Audio-Duration-Ms"], response.headers["X-RTF"]) == ("0.000", "0.000000")
        async with api.client.post(PATH, json={"text": "..."}) as response:
            with wave.open(io.BytesIO(await response.read())) as file:
                assert file.getnframes() == 0


@pytest.mark.parametrize("path", [PATH, "/v1/synthesize/stream"])
@pytest.mark.parametrize(
    ("error", "status", "field", "detail"),
    [
        (NotFound("There is no voice 'x'", field="speaker_id"), 404, "speaker_id", "speaker_id: There is no voice 'x'"),
        (Refused("It has no words", field="text"), 422, "text", "text: It has no words"),
        (Unsupported("Not by this engine", field="seed"), 400, "seed", "seed: Not by this engine"),
        (Busy("The engine is full", retry_after_s=2.1), 503, None, "The engine is full"),
        (
            Failed("/srv/secret: exit 9"),
            500,
            None,
            "The speech could not be made. The server's log knows this request by its id.",
        ),
        (RuntimeError("/srv/secret"), 500, None, "The server failed. Its log knows this request by its id."),
        (BrokenPipeError("/srv/secret"), 500, None, "The server failed. Its log knows this request by its id."),
    ],
)
async def test_an_error_before_the_first_chunk_has_its_own_status(
    path: str, error: Exception, status: int, field: str | None, detail: str
) -> None:
    async with running(breaks(error)) as api, api.client.post(path, json={"text": "Hello"}) as response:
        assert (response.status, response.content_type) == (status, "application/problem+json")
        text = await response.text()
        problem = await response.json()
        assert "secret" not in text
        assert (problem["status"], problem["detail"]) == (status, detail)
        assert [error["field"] for error in problem["errors"]] == ([field] if field else [])
        assert response.headers.get("Retry-After") == ("3" if status == 503 else None)
        assert api.control.requests == [("stream" if path.endswith("stream") else "synthesize", status)]


@pytest.mark.parametrize("error", [Failed("broken"), RuntimeError("broken")])
async def test_speech_that_breaks_half_way_breaks_the_body(error: Exception) -> None:
    async with running(breaks(error, bytes(1024 * 1024))) as api:
        async with api.client.post(PATH, json={"text": "Hello", "format": "pcm"}) as response:
            assert response.status == 200
            with pytest.raises(aiohttp.ClientError):
                await response.read()
        assert api.control.requests == [("synthesize", 500)]


HTTP_1_0 = b"POST /v1/synthesize HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: 34\r\n\r\n"


async def test_http_1_0_gets_its_body_without_chunks() -> None:
    async with running(says(bytes(1024 * 1024), SPEECH)) as api:
        reader, writer = await api.dial()
        writer.write(HTTP_1_0 + b'{"text": "Hello", "format": "pcm"}')
        head, audio = (await reader.read(-1)).split(b"\r\n\r\n", 1)
        assert head.startswith(b"HTTP/1.0 200 OK")
        assert b"Transfer-Encoding" not in head
        assert audio == bytes(1024 * 1024) + SPEECH


async def test_http_1_0_can_tell_a_broken_body_from_a_whole_one() -> None:
    async with running(breaks(Failed("broken"), bytes(1024 * 1024))) as api:
        reader, writer = await api.dial()
        writer.write(HTTP_1_0 + b'{"text": "Hello", "format": "pcm"}')
        with pytest.raises(ConnectionResetError):
            await reader.read(-1)


async def test_an_error_has_its_own_status_for_as_long_as_nothing_was_spoken() -> None:
    async def speak(speech: Speech) -> AsyncGenerator[bytes, None]:
        await asyncio.sleep(0.05)
        raise Refused("It has no words", field="text")
        yield b""

    async with (
        running(speak, ApiLimits(hold_ms=1)) as api,
        api.client.post(PATH, json={"text": "Hello", "format": "pcm"}) as response,
    ):
        assert response.status == 422
