"""The protocol around the resources: problems, methods, ids, log lines, garbage, and the end."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time

import aiohttp
import pytest

from http_api import Health, make_app, serve

from .http_support import ENCODE, ENCODERS, VERSION, FakeCalls, FakeControl, Gated, breaks, ramp, running, says
from .test_http_limits import ORDER, post, read_response

SPEECH = ramp(1600)

# Health, readiness, metrics


async def test_health_tells_how_the_server_is() -> None:
    async with running(says()) as api, api.client.get("/health") as response:
        assert (response.status, response.content_type) == (200, "application/json")
        assert response.headers["Cache-Control"] == "no-store"
        report = await response.json()
        assert 0 <= report.pop("uptime_s") < 60
        assert report == {
            "status": "healthy",
            "ready": True,
            "gpu_available": False,
            "model_loaded": True,
            "version": VERSION,
            "engine": "fake",
            "workers": 2,
        }


@pytest.mark.parametrize(
    ("healthy", "ready", "health_status", "ready_status"),
    [(True, True, 200, 200), (True, False, 200, 503), (False, False, 503, 503)],
)
async def test_health_and_readiness_are_503_when_they_fail(
    healthy: bool, ready: bool, health_status: int, ready_status: int
) -> None:
    async with running(says()) as api:
        api.control.state = Health(
            healthy=healthy, ready=ready, gpu_available=True, model_loaded=False, details={"status": "not this one"}
        )
        async with api.client.get("/health") as response:
            assert response.status == health_status
            assert (await response.json())["status"] == ("healthy" if healthy else "unhealthy")
        async with api.client.get("/ready") as response:
            assert (response.status, await response.json()) == (ready_status, {"ready": ready})


async def test_metrics_are_the_host_s() -> None:
    async with running(says()) as api, api.client.get("/metrics") as response:
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert (response.status, await response.read()) == (200, api.control.metrics()[0])


async def test_only_speech_requests_are_observed() -> None:
    async with running(says(SPEECH)) as api:
        for method, path in [("GET", "/health"), ("GET", "/v1/synthesize"), ("OPTIONS", "/v1/synthesize")]:
            async with api.client.request(method, path):
                pass
        assert api.control.requests == []
        async with api.client.post("/v1/synthesize", json={"text": 5}):
            pass
        async with api.client.post("/v1/synthesize/stream", json=ORDER) as response:
            await response.read()
        assert api.control.requests == [("synthesize", 422), ("stream", 200)]
        assert all(0 < ms < 5000 for ms in api.control.latencies_ms)


# Problems


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/v1", 404, None),
        ("POST", "/v1/synthesise", 404, None),
        ("POST", "/v1/synthesize/", 404, None),
        ("GET", "/v1/synthesize", 405, "OPTIONS, POST"),
        ("PUT", "/v1/synthesize/stream", 405, "OPTIONS, POST"),
        ("POST", "/health", 405, "GET, HEAD, OPTIONS"),
        ("DELETE", "/ready", 405, "GET, HEAD, OPTIONS"),
    ],
)
async def test_routing_errors_are_problems(method: str, path: str, status: int, allow: str | None) -> None:
    async with running(says()) as api, api.client.request(method, path) as response:
        problem = await response.json()
        assert (response.status, response.content_type) == (status, "application/problem+json")
        assert response.headers.get("Allow") == allow
        assert problem == {
            "type": "about:blank",
            "title": {404: "Not Found", 405: "Method Not Allowed"}[status],
            "status": status,
            "detail": problem["detail"],
            "errors": [],
            "request_id": response.headers["X-Request-Id"],
        }


@pytest.mark.parametrize(
    ("headers", "field"),
    [
        ({"Content-Type": "text/plain"}, "Content-Type"),
        ({"Content-Type": "application/x-www-form-urlencoded"}, "Content-Type"),
        ({"Content-Type": ""}, "Content-Type"),
        ({"Content-Type": "application/json; charset=utf-16"}, "Content-Type"),
        ({"Content-Type": "application/json", "Content-Encoding": "gzip"}, "Content-Encoding"),
    ],
)
async def test_a_body_that_is_not_said_to_be_json_is_415(headers: dict[str, str], field: str) -> None:
    async with (
        running(says()) as api,
        api.client.post("/v1/synthesize", data=json.dumps(ORDER).encode(), headers=headers) as response,
    ):
        assert response.status == 415
        assert [error["field"] for error in (await response.json())["errors"]] == [field]


async def test_utf_8_json_is_accepted_however_it_is_said() -> None:
    async with running(says(SPEECH)) as api:
        for content_type in ("application/json", "application/json; charset=UTF-8", 'APPLICATION/JSON;charset="utf-8"'):
            headers = {"Content-Type": content_type}
            async with api.client.post("/v1/synthesize", data='{"text": "Grüße"}', headers=headers) as response:
                assert response.status == 200
        assert {speech.text for speech in api.control.asked} == {"Grüße"}


async def test_a_connection_lives_on_after_a_problem() -> None:
    async with running(says(SPEECH)) as api:
        reader, writer = await api.dial()
        for sent, expected in [
            (post("/v1/synthesize", b"{"), 400),
            (post("/v1/synthesize", b'{"text": 5}'), 422),
            (post("/nowhere", b"{}"), 404),
            (b"GET /v1/synthesize HTTP/1.1\r\nHost: a\r\n\r\n", 405),
            (post("/v1/synthesize", json.dumps(ORDER).encode()), 200),
        ]:
            writer.write(sent)
            status, headers, _ = await read_response(reader)
            assert (status, headers.get("connection")) == (expected, None)


async def test_nothing_of_an_unexpected_error_leaves_but_the_log_has_it(caplog: pytest.LogCaptureFixture) -> None:
    async with running(breaks(ZeroDivisionError("/srv/secret"))) as api:
        headers = {"X-Request-Id": "me-1"}
        async with api.client.post("/v1/synthesize", json=ORDER, headers=headers) as response:
            assert response.status == 500
            assert "secret" not in await response.text()
            assert "secret" not in str(response.headers)
    (record,) = (record for record in caplog.records if record.levelno >= logging.ERROR)
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ZeroDivisionError)
    assert vars(record)["request_id"] == "me-1"


# Methods


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics"])
async def test_head_is_get_without_a_body(path: str) -> None:
    async with running(says()) as api, api.client.get(path) as get, api.client.head(path) as head:
        assert (head.status, await head.read()) == (200, b"")
        assert head.headers["Content-Type"] == get.headers["Content-Type"]


async def test_options_tells_what_a_path_allows_and_no_cors() -> None:
    async with running(says()) as api:
        headers = {"Origin": "https://elsewhere.example", "Access-Control-Request-Method": "POST"}
        async with api.client.options("/v1/synthesize", headers=headers) as response:
            assert (response.status, response.headers["Allow"]) == (204, "OPTIONS, POST")
            assert not [name for name in response.headers if name.lower().startswith("access-control")]
        async with api.client.options("/nowhere") as response:
            assert response.status == 404


# Ids and log lines


async def test_a_request_id_is_echoed_or_made() -> None:
    async with running(says(SPEECH)) as api:
        for path in ("/health", "/nowhere"):
            async with api.client.get(path, headers={"X-Request-Id": "abc-1.2:3"}) as response:
                assert response.headers.getall("X-Request-Id") == ["abc-1.2:3"]
        for bad in ("", "a b", "x" * 129, "ä", '"', "<script>", "-"):
            async with api.client.get("/health", headers={"X-Request-Id": bad}) as response:
                assert re.fullmatch("[0-9a-f]{32}", response.headers["X-Request-Id"])
        async with api.client.post("/v1/synthesize/stream", json=ORDER, headers={"X-Request-Id": "s"}) as response:
            assert response.headers["X-Request-Id"] == "s"


async def test_a_response_tells_nothing_of_what_made_it() -> None:
    async with running(says()) as api:
        for path in ("/health", "/nowhere"):
            async with api.client.get(path) as response:
                assert response.headers["Server"] == "mediaserver"
                assert response.headers["X-Content-Type-Options"] == "nosniff"
        reader, writer = await api.dial()
        writer.write(b"nonsense\r\n\r\n")
        assert b"aiohttp" not in await reader.read(-1)


async def test_the_access_line_is_one_and_has_no_text_in_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "http_api")
    async with running(says(SPEECH)) as api:
        order = {"text": "my card is 1234", "speaker_id": "x"}
        async with api.client.post("/v1/synthesize", json=order) as response:
            await response.read()
        async with api.client.post("/v1/synthesize?token=hush", json=order) as response:
            assert response.status == 400
        async with api.client.post("/v1/synthesize", json={"text": "my card is 1234", "format": 5}):
            pass
        async with api.client.get("/a%0Ab" + "c" * 500):
            pass
        async with api.client.get("/health"):
            pass
    assert "1234" not in caplog.text
    assert "hush" not in caplog.text
    records = [record for record in caplog.records if record.name == "http_api.access"]
    assert [(record.levelname, vars(record)["status"]) for record in records] == [
        ("INFO", 200),
        ("INFO", 400),
        ("INFO", 422),
        ("INFO", 404),
        ("DEBUG", 200),
    ]
    first, _, _, third, _ = (vars(record) for record in records)
    assert (first["method"], first["path"], first["remote"]) == ("POST", "/v1/synthesize", "127.0.0.1")
    assert re.fullmatch("[0-9a-f]{32}", first["request_id"])
    assert re.fullmatch(r"POST /v1/synthesize 200 \d+\.\d ms", records[0].getMessage())
    assert third["path"] == "/a%0Ab" + "c" * 194


# Garbage


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\r\n\r\nGARBAGE\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"BREW /health HTTP/1.1\r\n\r\n", 400),
        (b"GET /health SIP/2.0\r\n\r\n", 400),
        (b"GET /health HTTP/9.9\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n", 400),
        (post("/v1/synthesize", b"{}", "Content-Length: 2", "Transfer-Encoding: chunked"), 400),
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 431),
        (b"GET /health HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 20_000 + b"\r\n\r\n", 431),
        (b"GET /health HTTP/1.1\r\nHost: a\r\n" + b"X: a\r\n" * 200 + b"\r\n", 400),
    ],
)
async def test_what_is_no_request_is_a_problem_and_ends_the_connection(
    sent: bytes, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(says()) as api:
        reader, writer = await api.dial()
        writer.write(sent)
        got, headers, body = await asyncio.wait_for(read_response(reader), 5)
        assert (got, json.loads(body)["status"], headers["server"]) == (status, status, "mediaserver")
        assert await asyncio.wait_for(reader.read(-1), 5) == b""
        writer.close()
        async with api.client.get("/ready") as response:
            assert response.status == 200
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_garbage_behind_a_request_does_not_harm_its_answer() -> None:
    engine = Gated(b"", SPEECH)
    async with running(engine) as api:
        reader, writer = await api.dial()
        writer.write(post("/v1/synthesize", json.dumps(ORDER).encode()))
        await engine.waiting.wait()
        writer.write(b"\x00\x01garbage\r\n\r\n")
        await asyncio.sleep(0.02)
        engine.gate.set()
        status, _, audio = await read_response(reader)
        assert (status, audio) == (200, SPEECH)
        status, _, _ = await read_response(reader)
        assert status == 400
        assert await reader.read(-1) == b""


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with running(says(SPEECH)) as api:
        reader, writer = await api.dial()
        writer.write(
            post("/v1/synthesize", b'{"text": 1}')
            + b"GET /ready HTTP/1.1\r\nHost: a\r\n\r\n"
            + post("/v1/synthesize", json.dumps(ORDER).encode())
        )
        assert [(await read_response(reader))[0] for _ in range(3)] == [422, 200, 200]


async def test_a_request_may_come_byte_by_byte() -> None:
    async with running(says(SPEECH)) as api:
        reader, writer = await api.dial()
        for byte in post("/v1/synthesize", json.dumps(ORDER).encode()):
            writer.write(bytes([byte]))
            await writer.drain()
        status, _, audio = await read_response(reader)
        assert (status, audio) == (200, SPEECH)


# The beginning and the end


async def test_both_companders_are_needed() -> None:
    with pytest.raises(ValueError, match="alaw"):
        make_app(FakeControl(says()), calls=FakeCalls(), version=VERSION, encode={"mulaw": bytes}, encoders=ENCODERS)


async def test_an_address_in_use_is_an_os_error() -> None:
    async with running(says()) as api:
        app = make_app(FakeControl(says()), calls=FakeCalls(), version=VERSION, encode=ENCODE, encoders=ENCODERS)
        with pytest.raises(OSError, match="address already in use"):
            async with serve(app, "127.0.0.1", api.listening.addresses[0][1]):
                pytest.fail("two servers on one port")


async def test_ipv6_is_served() -> None:
    app = make_app(FakeControl(says()), calls=FakeCalls(), version=VERSION, encode=ENCODE, encoders=ENCODERS)
    async with serve(app, "::1", 0) as listening, aiohttp.ClientSession(listening.url) as client:
        assert listening.url.startswith("http://[::1]:")
        async with client.get("/ready") as response:
            assert response.status == 200


async def test_at_the_end_requests_at_work_are_finished() -> None:
    engine = Gated(b"", SPEECH)
    async with asyncio.TaskGroup() as tasks:
        async with running(engine, grace_s=5) as api:
            client = aiohttp.ClientSession(api.listening.url)
            request = tasks.create_task(client.post("/v1/synthesize", json=ORDER))
            await engine.waiting.wait()
            asyncio.get_running_loop().call_later(0.05, engine.gate.set)
        response = await request
        assert (response.status, await response.read()) == (200, SPEECH)
        with pytest.raises(aiohttp.ClientConnectorError):
            await client.get("/ready")
        await client.close()


async def test_at_the_end_what_does_not_finish_in_grace_is_cancelled() -> None:
    engine = Gated(SPEECH)
    client = aiohttp.ClientSession()
    async with running(engine, grace_s=0.1) as api:
        response = await client.post(api.listening.url + "/v1/synthesize/stream", json=ORDER)
        await engine.waiting.wait()
        began = time.perf_counter()
    assert time.perf_counter() - began < 3
    assert engine.closed.is_set()
    with pytest.raises(aiohttp.ClientPayloadError):
        await response.read()
    await client.close()
