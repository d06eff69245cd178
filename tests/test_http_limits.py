"""Everything is bounded: bodies, requests at work, connections, patience with the slow and with the gone."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import struct
import time
from collections.abc import AsyncGenerator

import pytest

from http_api import ApiLimits, Speech

from .http_support import Api, Endless, Gated, ramp, running, says

PATHS = ["/v1/synthesize", "/v1/synthesize/stream"]
SPEECH = ramp(1600)
ORDER = {"text": "Hello", "format": "pcm"}


def post(path: str, body: bytes, *headers: str) -> bytes:
    head = [f"POST {path} HTTP/1.1", "Host: api", "Content-Type: application/json", *headers]
    if not any(header.startswith(("Content-Length", "Transfer-Encoding")) for header in headers):
        head.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*head, "", ""]).encode() + body


async def read_response(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """One response that says its length."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    status, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    return int(status.split(" ")[1]), headers, await reader.readexactly(int(headers.get("content-length", "0")))


# Bodies


@pytest.mark.parametrize("path", PATHS)
async def test_a_body_of_a_megabyte_is_413_and_nothing_is_spoken(path: str) -> None:
    async with running(says(SPEECH)) as api:
        async with api.client.post(path, json={"text": "x" * 1_000_000}) as response:
            problem = await response.json()
            assert (response.status, problem["detail"]) == (413, "The body may have 131072 bytes.")
            assert response.headers["Connection"] == "close"
        assert api.control.asked == []


async def test_a_body_too_long_by_its_header_is_refused_before_it_comes() -> None:
    async with running(says(SPEECH), ApiLimits(max_body_bytes=100)) as api:
        reader, writer = await api.dial()
        writer.write(post("/v1/synthesize", b"", "Content-Length: 1000000000"))
        status, _, _ = await read_response(reader)
        assert status == 413


async def test_a_body_too_long_by_its_chunks_is_refused_while_it_comes() -> None:
    async with running(says(SPEECH), ApiLimits(max_body_bytes=100)) as api:
        reader, writer = await api.dial()
        writer.write(post("/v1/synthesize", b"", "Transfer-Encoding: chunked"))
        writer.write(b"65\r\n" + b" " * 101 + b"\r\n")
        status, _, _ = await read_response(reader)
        assert status == 413


async def test_a_body_at_the_limit_passes() -> None:
    body = json.dumps(ORDER).encode().ljust(100)
    async with running(says(SPEECH), ApiLimits(max_body_bytes=100)) as api:
        headers = {"Content-Type": "application/json"}
        async with api.client.post("/v1/synthesize", data=body, headers=headers) as response:
            assert response.status == 200
        async with api.client.post("/v1/synthesize", data=body + b" ", headers=headers) as response:
            assert response.status == 413


async def test_a_body_that_does_not_come_is_408() -> None:
    async with running(says(SPEECH), ApiLimits(read_timeout_s=0.05)) as api:
        reader, writer = await api.dial()
        writer.write(post("/v1/synthesize", b'{"text', "Content-Length: 100"))
        status, headers, body = await read_response(reader)
        assert (status, headers["connection"]) == (408, "close")
        assert json.loads(body)["detail"] == "The body did not arrive within 0.05 s."


async def test_a_body_that_is_not_framed_as_said_is_400() -> None:
    async with running(says(SPEECH)) as api:
        reader, writer = await api.dial()
        writer.write(post("/v1/synthesize", b"", "Transfer-Encoding: chunked") + b"zz\r\n{}\r\n0\r\n\r\n")
        status, _, _ = await read_response(reader)
        assert status == 400


async def test_an_expected_body_is_invited_only_when_it_may_come() -> None:
    body = json.dumps(ORDER).encode()
    async with running(says(SPEECH)) as api:
        reader, writer = await api.dial()
        writer.write(post("/v1/synthesize", b"", f"Content-Length: {len(body)}", "Expect: 100-continue"))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        status, _, audio = await read_response(reader)
        assert (status, audio) == (200, SPEECH)
        writer.write(post("/v1/synthesize", b"", "Content-Length: 10000000", "Expect: 100-continue"))
        status, _, _ = await read_response(reader)
        assert status == 413


async def test_an_unknown_expectation_is_417() -> None:
    async with running(says(SPEECH)) as api:
        reader, writer = await api.dial()
        writer.write(post("/v1/synthesize", b"{}", "Expect: a-miracle"))
        status, headers, body = await read_response(reader)
        assert (status, headers["content-type"]) == (417, "application/problem+json")
        assert json.loads(body)["errors"][0]["field"] == "Expect"


# Requests at work


async def _speak(api: Api) -> None:
    async with api.client.post("/v1/synthesize", json=ORDER) as response:
        assert (response.status, await response.read()) == (200, SPEECH)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("limits", "status"),
    [
        (ApiLimits(max_concurrent=3, retry_after_s=1.2), 503),
        (ApiLimits(max_concurrent=9, max_concurrent_per_client=3, retry_after_s=1.2), 429),
    ],
)
async def test_requests_beyond_the_limit_are_told_to_come_back(path: str, limits: ApiLimits, status: int) -> None:
    engine = Gated(b"", SPEECH)
    async with running(engine, limits) as api:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(3):
                engine.waiting.clear()
                tasks.create_task(_speak(api))
                await engine.waiting.wait()
            async with api.client.post(path, json=ORDER) as response:
                assert (response.status, response.headers["Retry-After"]) == (status, "2")
            async with api.client.get("/health") as response:
                assert response.status == 200
            engine.gate.set()
        async with api.client.post(path, json=ORDER) as response:
            assert response.status == 200
        assert len(api.control.asked) == 4


async def test_every_end_of_a_request_frees_its_place() -> None:
    async with running(says(SPEECH), ApiLimits(max_concurrent=1)) as api:
        for order in (ORDER, {"text": ""}, ORDER, {"text": "a", "format": "x"}, ORDER):
            async with api.client.post("/v1/synthesize", json=order) as response:
                assert response.status in (200, 422)
        engine = Gated(SPEECH)
        api.control.script = engine
        _, writer = await api.dial()
        writer.write(post("/v1/synthesize", json.dumps(ORDER).encode()))
        await engine.waiting.wait()
        writer.close()
        await engine.closed.wait()
        await asyncio.sleep(0)
        api.control.script = says(SPEECH)
        await _speak(api)


# Clients that leave


@pytest.mark.parametrize(
    ("path", "order", "first"),
    [
        ("/v1/synthesize", {"text": "Hello"}, b""),
        ("/v1/synthesize", ORDER, b""),
        ("/v1/synthesize", ORDER, SPEECH),
        ("/v1/synthesize/stream", ORDER, b""),
        ("/v1/synthesize/stream", ORDER, SPEECH),
    ],
)
async def test_a_client_that_leaves_stops_the_engine_within_100_ms(
    path: str, order: dict[str, str], first: bytes
) -> None:
    elapsed_s = []
    async with running(Gated(b""), ApiLimits(hold_ms=1)) as api:
        for _ in range(3):
            engine = Gated(first)
            api.control.script = engine
            api.control.observed.clear()
            reader, writer = await api.dial()
            writer.write(post(path, json.dumps(order).encode()))
            await engine.waiting.wait()
            if first:
                assert await reader.readuntil(b"\r\n\r\n")
            left = time.perf_counter()
            writer.close()
            await asyncio.wait_for(engine.closed.wait(), 5)
            elapsed_s.append(time.perf_counter() - left)
            await api.control.observed.wait()
        assert {status for _, status in api.control.requests} == {499}
    # The least of three, so that a busy machine is not mistaken for a slow server.
    assert min(elapsed_s) < 0.1


async def test_a_client_that_leaves_before_its_body_came_is_counted() -> None:
    async with running(says(SPEECH)) as api:
        _, writer = await api.dial()
        writer.write(post("/v1/synthesize", b'{"text', "Content-Length: 100"))
        await writer.drain()
        await asyncio.sleep(0.02)
        writer.close()
        await asyncio.wait_for(api.control.observed.wait(), 5)
        assert (api.control.requests, api.control.asked) == ([("synthesize", 499)], [])


@pytest.mark.parametrize("path", PATHS)
async def test_a_client_that_leaves_as_its_answer_begins_is_no_fault_of_ours(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = socket.socket()

    async def speak(speech: Speech) -> AsyncGenerator[bytes, None]:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        yield SPEECH

    async with running(speak) as api:
        client.connect(api.listening.addresses[0])
        client.sendall(post(path, json.dumps(ORDER).encode()))
        await asyncio.wait_for(api.control.observed.wait(), 5)
        assert [status for _, status in api.control.requests] == [499]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_an_engine_that_will_not_stop_at_once_is_still_closed() -> None:
    steps = []

    async def stubborn(speech: Speech) -> AsyncGenerator[bytes, None]:
        try:
            yield SPEECH
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            steps.append("cleaned up")

    async with running(stubborn, ApiLimits(hold_ms=1)) as api:
        reader, writer = await api.dial()
        writer.write(post("/v1/synthesize", json.dumps(ORDER).encode()))
        await reader.readuntil(b"\r\n\r\n")
        writer.close()
        await asyncio.wait_for(api.control.observed.wait(), 5)
        assert steps == ["cleaned up"]


# Clients that do not read


@pytest.mark.parametrize("path", PATHS)
async def test_a_client_that_stops_reading_is_cut_off_and_counted(path: str) -> None:
    engine = Endless(bytes(8000))
    async with running(engine, ApiLimits(stall_timeout_s=0.1, hold_ms=1)) as api:
        with socket.create_connection(api.listening.addresses[0]) as client:
            client.setblocking(False)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            await asyncio.get_running_loop().sock_sendall(client, post(path, json.dumps(ORDER).encode()))
            await asyncio.wait_for(engine.closed.wait(), 5)
            given = engine.given
            await asyncio.wait_for(api.control.observed.wait(), 5)
        assert [status for _, status in api.control.requests] == [408]
        # What the kernel buffers on loopback, and not what the engine could make in the time.
        assert given < 16 * 1024 * 1024


async def test_a_client_that_reads_slowly_holds_the_engine_back_and_gets_everything() -> None:
    pieces = 400
    given = 0

    async def speak(speech: Speech) -> AsyncGenerator[bytes, None]:
        nonlocal given
        for _ in range(pieces):
            given += 1
            yield bytes(64 * 1024)

    async with running(speak) as api:
        async with api.client.post("/v1/synthesize", json=ORDER) as response:
            await asyncio.sleep(0.1)
            assert 0 < given < pieces
            size = 0
            async for chunk in response.content.iter_any():
                size += len(chunk)
        assert (size, given) == (pieces * 64 * 1024, pieces)
        assert api.control.requests == [("synthesize", 200)]


# Connections


async def test_a_connection_that_brings_no_request_is_closed() -> None:
    async with running(says(SPEECH), ApiLimits(idle_timeout_s=0.05)) as api:
        for sent in (b"", b"POST /v1/synthesize HTTP/1.1\r\nHost: a\r\n", post("/nowhere", b"")):
            reader, writer = await api.dial()
            writer.write(sent)
            await asyncio.wait_for(reader.read(-1), 5)
            writer.close()


async def test_connections_beyond_the_limit_are_closed_as_they_come() -> None:
    async with running(says(SPEECH), ApiLimits(max_connections=3)) as api:
        crowd = [await api.dial() for _ in range(3)]
        for _, writer in crowd:
            writer.write(b"GET /ready HTTP/1.1\r\nHost: a\r\n\r\n")
        for reader, _ in crowd:
            assert (await read_response(reader))[0] == 200
        reader, writer = await api.dial()
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await reader.readexactly(1)
        writer.close()
        crowd[0][1].close()
        await asyncio.sleep(0.02)
        reader, writer = await api.dial()
        writer.write(b"GET /ready HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await read_response(reader))[0] == 200
        for _, each in [*crowd, (reader, writer)]:
            each.close()
