"""GET /v1/synthesize/ws: text in pieces, speech by the clause, silence on demand."""

from __future__ import annotations

import asyncio
import re
import resource
import socket
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import WSMsgType

from http_api import ApiLimits, Busy, Failed, NotFound, Speech

from .http_support import MODEL, Api, Endless, Gated, Script, breaks, mulaw_like, ramp, running, says
from .live import serving
from .test_http_limits import read_response

PATH = "/v1/synthesize/ws"
SPEECH = ramp(800)  # 100 ms
FIRST = "Good morning to you all, "
SECOND = "this is the practice of Dr. Smith. "
THIRD = "How can I help you?"


class Talk:
    """A client's end of a talk."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.audio = b""

    async def say(self, **message: Any) -> None:
        await self.socket.send_json(message)

    async def hears(self, kind: str) -> dict[str, Any]:
        """The next JSON message, which is of that kind; the audio before it is in `audio`."""
        self.audio = b""
        while True:
            received = await self.socket.receive(timeout=5)
            if received.type is WSMsgType.BINARY:
                self.audio += received.data
                continue
            assert received.type is WSMsgType.TEXT, received
            message: dict[str, Any] = received.json()
            assert message["type"] == kind, message
            return message

    async def closed(self) -> int | None:
        """The code with which the server closes, after no further message."""
        received = await self.socket.receive(timeout=5)
        assert received.type in (WSMsgType.CLOSE, WSMsgType.CLOSED), received
        return self.socket.close_code


@asynccontextmanager
async def talking(script: Script, limits: ApiLimits | None = None) -> AsyncIterator[tuple[Api, Talk]]:
    async with running(script, limits) as api, api.client.ws_connect(PATH) as socket:
        yield api, Talk(socket)


def texts(api: Api) -> list[str]:
    return [speech.text for speech in api.control.asked]


# What is said


async def test_text_in_pieces_is_spoken_clause_by_clause() -> None:
    async with talking(says(SPEECH)) as (api, talk):
        for token in ("Good", " morning", " to you all,", " this is the practice", " of Dr.", " Smith.", " How"):
            await talk.say(text=token)
        await talk.say(text=" can I help you?", flush=True)
        assert await talk.hears("ready") == {
            "type": "ready",
            "speaker_id": "default",
            "format": "pcm",
            "sample_rate": 8000,
            "model_version": MODEL,
        }
        marks = [await talk.hears("mark")]
        for start_ms in (100, 200):
            marks.append(await talk.hears("mark"))
            assert (talk.audio, marks[-1]["audio_ms"]) == (SPEECH, start_ms)
        assert await talk.hears("flushed") == {"type": "flushed", "text_chars": 79, "audio_ms": 300}
        assert talk.audio == SPEECH
        assert [(mark["text_start"], mark["text_end"]) for mark in marks] == [(0, 25), (25, 60), (60, 79)]
        await talk.say(end=True)
        assert await talk.hears("done") == {"type": "done", "text_chars": 79, "audio_ms": 300}
        assert await talk.closed() == 1000
        assert api.control.asked == [
            Speech(text=text, speaker_id="default", rate_hz=8000, continues=continues)
            for text, continues in ((FIRST, True), (SECOND, True), (THIRD, False))
        ]


async def test_the_first_clause_is_heard_while_the_sentence_is_still_being_written() -> None:
    async with talking(says(SPEECH)) as (api, talk):
        await talk.say(text=FIRST + "this")
        await talk.hears("ready")
        assert (await talk.hears("mark"))["text_end"] == len(FIRST)
        assert (await talk.socket.receive(timeout=5)).data == SPEECH
        assert texts(api) == [FIRST]


async def test_the_first_message_says_how() -> None:
    opening = {"speaker_id": "anna", "format": "mulaw", "speed": 1.5, "language": "de"}
    async with talking(says(SPEECH)) as (api, talk):
        await talk.say(text="Guten Tag.", end=True, **opening)
        ready = await talk.hears("ready")
        assert (ready["speaker_id"], ready["format"]) == ("anna", "mulaw")
        await talk.hears("mark")
        assert (await talk.hears("done"))["audio_ms"] == 100
        assert talk.audio == mulaw_like(SPEECH)
        (speech,) = api.control.asked
        assert speech == Speech(text="Guten Tag.", speaker_id="anna", rate_hz=8000, language="de", speed=1.5)


async def test_many_flushes_are_many_turns() -> None:
    async with talking(says(SPEECH)) as (api, talk):
        await talk.say(text="One.", flush=True)
        await talk.hears("ready")
        await talk.hears("mark")
        assert (await talk.hears("flushed"))["text_chars"] == 4
        await talk.say(text="Two.", flush=True)
        assert (await talk.hears("mark"))["text_start"] == 4
        assert (await talk.hears("flushed"))["text_chars"] == 8
        await talk.say(flush=True)
        assert (await talk.hears("flushed"))["text_chars"] == 8
        assert texts(api) == ["One.", "Two."]


async def test_what_cannot_be_spoken_alone_goes_with_what_comes_next() -> None:
    async with talking(says(SPEECH)) as (api, talk):
        await talk.say(text="...", flush=True)
        await talk.hears("ready")
        assert (await talk.hears("flushed"))["text_chars"] == 0
        await talk.say(text=" and so on", end=True)
        assert (await talk.hears("mark"))["text_start"] == 0
        assert (await talk.hears("done"))["text_chars"] == 13
        assert texts(api) == ["... and so on"]


# Cancelling


async def test_a_cancel_is_silence_and_tells_what_was_spoken() -> None:
    engine = Gated(SPEECH, SPEECH)
    async with talking(engine) as (api, talk):
        await talk.say(text=FIRST + SECOND + "And")
        await talk.hears("ready")
        await talk.hears("mark")
        await engine.waiting.wait()
        await talk.say(cancel=True)
        cancelled = await talk.hears("cancelled")
        assert talk.audio == SPEECH
        # 100 ms of a passage that is still being made: a character and a half at the typical pace, and no whole word.
        assert cancelled == {"type": "cancelled", "spoken_to": 0, "text_chars": 63, "audio_ms": 100}
        assert engine.closed.is_set()
        api.control.script = says(SPEECH)
        await talk.say(text="Yes?", flush=True)
        assert await talk.hears("mark") == {"type": "mark", "text_start": 63, "text_end": 67, "audio_ms": 100}
        assert (await talk.hears("flushed"))["audio_ms"] == 200
        assert texts(api) == [FIRST, "Yes?"]


@pytest.mark.parametrize(
    ("played_ms", "spoken_to"),
    [
        (None, 60),
        (0, 0),
        (50, 12),  # half of 25 characters: "Good morning"
        (90, 20),  # 22 of 25, of which "all," is not complete
        (100, 25),
        (150, 37),  # half of the second: 17 of 35 characters, in whole words "this is the "
        (200, 60),
        (9999, 60),
    ],
)
async def test_what_was_played_counts_as_spoken(played_ms: float | None, spoken_to: int) -> None:
    async with talking(says(SPEECH)) as (_, talk):
        await talk.say(text=FIRST + SECOND, flush=True)
        for kind in ("ready", "mark", "mark", "flushed"):
            await talk.hears(kind)
        await talk.say(cancel=True, **({} if played_ms is None else {"played_ms": played_ms}))
        assert (await talk.hears("cancelled"))["spoken_to"] == spoken_to


async def test_a_cancel_stops_within_20_ms() -> None:
    waits = []
    async with talking(Endless(SPEECH[:160])) as (_, talk):
        for _ in range(5):
            await talk.say(text="Good morning.", flush=True)
            while (await talk.socket.receive(timeout=5)).type is not WSMsgType.BINARY:
                pass
            await talk.say(cancel=True)
            asked = time.perf_counter()
            await talk.hears("cancelled")
            waits.append(time.perf_counter() - asked)
            with pytest.raises(TimeoutError):
                await talk.socket.receive(timeout=0.02)
    # The least, so that a busy machine is not mistaken for a slow server; the client reads what was on its way.
    assert min(waits) < 0.02


async def test_text_that_comes_with_a_cancel_is_spoken() -> None:
    async with talking(says(SPEECH)) as (api, talk):
        await talk.say(text="Never to be")
        await talk.hears("ready")
        await talk.say(cancel=True, text="Hello.", end=True)
        await talk.hears("cancelled")
        assert (await talk.hears("mark"))["text_start"] == 11
        await talk.hears("done")
        assert texts(api) == ["Hello."]


# What is refused


@pytest.mark.parametrize(
    ("message", "status", "code"),
    [
        ("{", 400, 1008),
        ("[]", 422, 1008),
        ('{"text": 5}', 422, 1008),
        ('{"text": "a\\u0000b"}', 422, 1008),
        ('{"speed": 9}', 422, 1008),
        ('{"format": "mp3"}', 422, 1008),
        ('{"format": "mulaw", "sample_rate": 16000}', 422, 1008),
        ('{"played_ms": 5}', 422, 1008),
        ('{"volume": 5}', 400, 1008),
        (b"audio", 415, 1003),
    ],
)
async def test_a_message_at_fault_is_named_and_ends_the_talk(message: str | bytes, status: int, code: int) -> None:
    async with talking(says(SPEECH)) as (api, talk):
        await (talk.socket.send_bytes(message) if isinstance(message, bytes) else talk.socket.send_str(message))
        error = await talk.hears("error")
        assert error["problem"]["status"] == status
        assert error["problem"]["request_id"]
        assert await talk.closed() == code
        await asyncio.wait_for(api.control.observed.wait(), 5)
        assert api.control.sockets == ["refused"]


async def test_how_is_for_the_first_message_alone() -> None:
    async with talking(says(SPEECH)) as (_, talk):
        await talk.say(text="a")
        await talk.hears("ready")
        await talk.say(text="b", speed=2)
        assert (await talk.hears("error"))["problem"]["status"] == 422
        assert await talk.closed() == 1008


@pytest.mark.parametrize(
    ("error", "status", "code", "end"),
    [
        (NotFound("There is no voice 'x'", field="speaker_id"), 404, 1008, "refused"),
        (Busy("The engine is full", retry_after_s=2.1), 503, 1013, "refused"),
        (Failed("/srv/secret"), 500, 1011, "failed"),
    ],
)
async def test_speech_that_cannot_be_made_ends_the_talk(error: Exception, status: int, code: int, end: str) -> None:
    async with talking(breaks(error)) as (api, talk):
        await talk.say(text="Hello.", flush=True)
        await talk.hears("ready")
        problem = (await talk.hears("error"))["problem"]
        assert problem["status"] == status
        assert "secret" not in problem["detail"]
        assert await talk.closed() == code
        await asyncio.wait_for(api.control.observed.wait(), 5)
        assert api.control.sockets == [end]


async def test_a_message_that_is_too_long_closes_with_1009() -> None:
    async with talking(says(SPEECH), ApiLimits(max_body_bytes=1000)) as (api, talk):
        await talk.say(text="x" * 1000)
        assert await talk.closed() == 1009
        await asyncio.wait_for(api.control.observed.wait(), 5)
        assert api.control.sockets == ["refused"]


async def test_more_text_than_a_connection_may_bring_closes_with_1009() -> None:
    async with talking(says(SPEECH), ApiLimits(max_socket_chars=30)) as (_, talk):
        await talk.say(text="x" * 30)
        await talk.hears("ready")
        await talk.say(text="x")
        assert (await talk.hears("error"))["problem"]["status"] == 413
        assert await talk.closed() == 1009


async def test_a_flood_of_flushes_is_bounded() -> None:
    async with talking(Gated(b"")) as (_, talk):
        await talk.say(text="Hello.", flush=True)
        await talk.hears("ready")
        for _ in range(4097):
            await talk.say(flush=True)
        assert (await talk.hears("error"))["problem"]["status"] == 422


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 426),
        ({"Connection": "Upgrade", "Upgrade": "h2c"}, 426),
        ({"Connection": "Upgrade", "Upgrade": "websocket"}, 400),
        ({"Upgrade": "websocket", "Origin": "https://elsewhere.example"}, 403),
        ({"Upgrade": "websocket", "Origin": "null"}, 403),
    ],
)
async def test_what_is_no_handshake_is_a_problem(headers: dict[str, str], status: int) -> None:
    async with running(says(SPEECH)) as api, api.client.get(PATH, headers=headers) as response:
        assert (response.status, response.content_type) == (status, "application/problem+json")
        assert (await response.json())["status"] == status


async def test_a_page_of_this_server_may_connect() -> None:
    async with running(says(SPEECH)) as api, api.client.ws_connect(PATH, origin=api.listening.url) as socket:
        await socket.send_json({"text": "Hello.", "end": True})
        await Talk(socket).hears("ready")


# Limits of the crowd


async def test_sockets_beyond_the_limit_are_503() -> None:
    async with talking(says(SPEECH), ApiLimits(max_sockets=1)) as (api, _):
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await api.client.ws_connect(PATH)
        assert caught.value.status == 503
        assert caught.value.headers is not None
        assert caught.value.headers["Retry-After"] == "1"


async def test_speaking_takes_a_place_among_the_requests_at_work_and_gives_it_back() -> None:
    engine = Gated(SPEECH)
    async with talking(engine, ApiLimits(max_concurrent=1)) as (api, talk):
        await talk.say(text="Hello.", flush=True)
        await engine.waiting.wait()
        async with api.client.post("/v1/synthesize", json={"text": "Hello"}) as response:
            assert response.status == 503
        async with api.client.ws_connect(PATH) as other:
            await other.send_json({"text": "Hello.", "flush": True})
            assert (await Talk(other).hears("ready"))["format"] == "pcm"
            second = Talk(other)
            assert (await second.hears("error"))["problem"]["status"] == 503
            assert await second.closed() == 1013
        engine.gate.set()
        for kind in ("ready", "mark", "flushed"):
            await talk.hears(kind)
        api.control.script = says(SPEECH)
        async with api.client.post("/v1/synthesize", json={"text": "Hello"}) as response:
            assert response.status == 200


@pytest.mark.parametrize("spoken", [False, True])
async def test_a_talk_without_messages_is_closed(spoken: bool) -> None:
    async with talking(says(SPEECH), ApiLimits(socket_idle_s=0.1)) as (api, talk):
        if spoken:
            await talk.say(text="Hello.", flush=True)
            for kind in ("ready", "mark", "flushed"):
                await talk.hears(kind)
        assert (await talk.hears("error"))["problem"]["status"] == 408
        assert await talk.closed() == 1008
        await asyncio.wait_for(api.control.observed.wait(), 5)
        assert api.control.sockets == ["idle"]


async def test_a_talk_that_speaks_is_not_idle() -> None:
    engine = Gated(SPEECH, SPEECH)
    async with talking(engine, ApiLimits(socket_idle_s=0.05)) as (_, talk):
        await talk.say(text="Hello.", flush=True)
        await talk.hears("ready")
        await talk.hears("mark")
        await asyncio.sleep(0.15)
        engine.gate.set()
        await talk.hears("flushed")


async def test_a_client_that_leaves_stops_the_engine() -> None:
    engine = Gated(SPEECH)
    async with talking(engine) as (api, talk):
        await talk.say(text="Hello.", flush=True)
        await engine.waiting.wait()
        await talk.socket.close()
        await asyncio.wait_for(engine.closed.wait(), 5)
        await asyncio.wait_for(api.control.observed.wait(), 5)
        assert api.control.sockets == ["left"]


HANDSHAKE = (
    f"GET {PATH} HTTP/1.1\r\nHost: api\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
).encode()


def frame(text: bytes) -> bytes:
    """A text frame of at most 125 octets, masked with zeros (RFC 6455 section 5.2)."""
    return bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text


async def test_a_client_that_does_not_read_is_cut_off_and_counted() -> None:
    engine = Endless(bytes(8000))
    async with running(engine, ApiLimits(stall_timeout_s=0.1)) as api:
        with socket.create_connection(api.listening.addresses[0]) as client:
            client.setblocking(False)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            await asyncio.get_running_loop().sock_sendall(client, HANDSHAKE + frame(b'{"text":"Hi.","flush":true}'))
            await asyncio.wait_for(engine.closed.wait(), 5)
            given = engine.given
            await asyncio.wait_for(api.control.observed.wait(), 5)
        assert api.control.sockets == ["slow"]
        assert given < 16 * 1024 * 1024


async def test_a_client_that_vanishes_in_mid_speech_is_no_fault_of_ours(caplog: pytest.LogCaptureFixture) -> None:
    engine = Endless(bytes(8000))
    async with running(engine) as api:
        _, writer = await api.dial()
        writer.write(HANDSHAKE + frame(b'{"text":"Hi.","flush":true}'))
        await asyncio.sleep(0.05)
        writer.transport.abort()
        await asyncio.wait_for(api.control.observed.wait(), 5)
        assert api.control.sockets == ["left"]
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


async def test_a_server_that_ends_says_so() -> None:
    async with running(says(SPEECH)) as api:
        client = aiohttp.ClientSession(api.listening.url)
        talk = Talk(await client.ws_connect(PATH))
        await talk.say(text="Hello")
        await talk.hears("ready")
        closing = asyncio.create_task(talk.closed())
    assert await closing == 1001
    await client.close()


@contextmanager
def descriptors(wanted: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"{wanted} file descriptors are not to be had")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_thousand_idle_websockets_hold() -> None:
    with descriptors(4096):
        async with running(says(SPEECH), ApiLimits(max_sockets=1001)) as api:
            lines = []
            for _ in range(1000):
                reader, writer = await api.dial()
                writer.write(HANDSHAKE)
                lines.append((reader, writer))
            for reader, _ in lines:
                assert (await read_response(reader))[0] == 101
            assert api.control.sockets == ["open"] * 1000
            async with api.client.ws_connect(PATH) as client:
                talk = Talk(client)
                await talk.say(text="Hello.", end=True)
                for kind in ("ready", "mark", "done"):
                    await talk.hears(kind)
            for _, writer in lines[::100]:
                writer.write(frame(b'{"text":"Hi.","end":true}'))
            for reader, _ in lines[::100]:
                assert b'"type":"done"' in await asyncio.wait_for(reader.read(-1), 5)
            assert api.control.sockets.count("open") == 990


# With an engine


async def test_speech_is_that_of_the_clauses() -> None:
    text = "Good morning to you all, this is the practice of Dr. Smith. "
    async with (
        serving(engine={"name": "tone"}) as server,
        aiohttp.ClientSession() as client,
        client.ws_connect(f"http://{server.http_address}{PATH}") as socket,
    ):
        talk = Talk(socket)
        for token in re.findall(r"\S+\s", text):
            await talk.say(text=token)
        await talk.say(end=True)
        for kind in ("ready", "mark", "mark"):
            await talk.hears(kind)
        # The tone engine leaves a blank at an end unsaid.
        assert len(talk.audio) == (24 * 60 + 150) * 8 * 2
        assert await talk.hears("done") == {"type": "done", "text_chars": 60, "audio_ms": 58 * 60 + 2 * 150}
        assert await talk.closed() == 1000
        async with client.get(f"http://{server.http_address}/metrics") as response:
            metrics = await response.text()
        assert "http_websockets_open 0.0" in metrics
        assert 'http_websockets_ended_total{how="done"} 1.0' in metrics


async def unused(speech: Speech) -> AsyncGenerator[bytes, None]:
    raise AssertionError
    yield b""


async def test_an_idle_talk_asks_for_nothing() -> None:
    async with talking(unused) as (api, talk):
        await talk.say(text="Not yet a clause")
        await talk.hears("ready")
        await talk.say(cancel=True)
        await talk.hears("cancelled")
        assert api.control.asked == []
