"""No input gives a 500, none takes the server down, and every refusal is a problem."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from http_api import ApiLimits
from http_api.schema import ProblemDetails

from .http_support import Api, ramp, running, says
from .test_http_limits import ORDER, post, read_response

PATHS = st.sampled_from(["/v1/synthesize", "/v1/synthesize/stream"])
LIMITS = ApiLimits(max_text_chars=50, max_body_bytes=2000)
# Where a request may stop in its midst, so that waiting for the rest of it takes most of the time.
IMPATIENT = replace(LIMITS, read_timeout_s=0.05, idle_timeout_s=0.05)

json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)
near_orders = st.fixed_dictionaries(
    {},
    optional={
        "text": st.text(max_size=60) | json_values,
        "speaker_id": st.text(max_size=140) | json_values,
        "ssml": st.text(max_size=60) | json_values,
        "language": st.text(max_size=40) | json_values,
        "speed": st.floats(0, 5) | json_values,
        "seed": st.integers(-1, 2**33) | json_values,
        "format": st.sampled_from(["wav", "pcm", "mulaw", "alaw", "opus", "mp3", "WAV", ""]) | json_values,
        "sample_rate": st.sampled_from([8000, 16000, 24000, 8000.0, "8000", -1, 2**64]) | json_values,
        "chunk_size_ms": st.integers(-10, 1100) | json_values,
    },
)


@dataclass(frozen=True)
class Fuzzed:
    """An API that outlives many examples."""

    runner: asyncio.Runner
    api: Api

    def exchange(self, sent: bytes) -> tuple[int, dict[str, str], bytes] | None:
        """What comes back first, or None when the connection is closed without a word."""
        return self.runner.run(self._exchange(sent))

    async def _exchange(self, sent: bytes) -> tuple[int, dict[str, str], bytes] | None:
        reader, writer = await asyncio.open_connection(*self.api.listening.addresses[0])
        try:
            writer.write(sent)
            async with asyncio.timeout(5):
                return await read_response(reader)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        finally:
            writer.close()

    def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        return self.runner.run(self._post(path, body))

    async def _post(self, path: str, body: bytes) -> tuple[int, bytes]:
        # A connection for each: one that is kept may be closed by the server just as the next request is written.
        async with (
            aiohttp.ClientSession(self.api.listening.url, connector=aiohttp.TCPConnector(force_close=True)) as client,
            client.post(path, data=body, headers={"Content-Type": "application/json"}) as response,
        ):
            return response.status, await response.read()


@pytest.fixture
def fuzzed(caplog: pytest.LogCaptureFixture) -> Iterator[Fuzzed]:
    with fuzzing(LIMITS, caplog) as fuzzed:
        yield fuzzed


@pytest.fixture
def impatient(caplog: pytest.LogCaptureFixture) -> Iterator[Fuzzed]:
    with fuzzing(IMPATIENT, caplog) as fuzzed:
        yield fuzzed


@contextmanager
def fuzzing(limits: ApiLimits, caplog: pytest.LogCaptureFixture) -> Iterator[Fuzzed]:
    caplog.set_level(logging.WARNING)
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        api = runner.run(stack.enter_async_context(running(says(ramp(400)), limits)))
        yield Fuzzed(runner, api)
        runner.run(stack.aclose())
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert not [status for _, status in api.control.requests if status >= 500]


fuzz = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def check(status: int, body: bytes) -> None:
    assert status in (200, 400, 413, 422)
    if status != 200:
        assert ProblemDetails.model_validate_json(body).status == status


@fuzz
@given(path=PATHS, body=near_orders | json_values)
def test_any_json_is_spoken_or_refused(fuzzed: Fuzzed, path: str, body: object) -> None:
    check(*fuzzed.post(path, json.dumps(body).encode("utf-8", "surrogatepass")))


@fuzz
@given(path=PATHS, body=st.binary(max_size=100) | st.text(max_size=100).map(str.encode))
def test_any_octets_are_refused(fuzzed: Fuzzed, path: str, body: bytes) -> None:
    status, answer = fuzzed.post(path, body)
    check(status, answer)
    assert status != 200


near_messages = st.fixed_dictionaries(
    {},
    optional={
        "text": st.text(max_size=60) | json_values,
        "flush": st.booleans() | json_values,
        "cancel": st.booleans() | json_values,
        "end": st.booleans() | json_values,
        "played_ms": st.floats(-1, 5000) | json_values,
        "format": st.sampled_from(["pcm", "mulaw", "wav"]) | json_values,
        "sample_rate": st.sampled_from([8000, 24000, 1]) | json_values,
    },
)


@fuzz
@given(messages=st.lists(near_messages | json_values | st.text(max_size=20) | st.binary(max_size=20), max_size=5))
def test_any_messages_of_a_talk_are_obeyed_or_refused(fuzzed: Fuzzed, messages: list[object]) -> None:
    fuzzed.runner.run(_talk(fuzzed.api, messages))
    assert "failed" not in fuzzed.api.control.sockets


async def _talk(api: Api, messages: list[object]) -> None:
    """Say it all, and hear the talk to its end."""
    async with api.client.ws_connect("/v1/synthesize/ws") as socket:
        try:
            for message in messages:
                match message:
                    case bytes():
                        await socket.send_bytes(message)
                    case str():
                        await socket.send_str(message)
                    case _:
                        await socket.send_str(json.dumps(message))
            await socket.send_json({"end": True})
        except ConnectionError:
            pass  # refused already
        async with asyncio.timeout(5):
            heard = [received async for received in socket]
        kinds = [received.json()["type"] for received in heard if received.type is aiohttp.WSMsgType.TEXT]
        assert kinds[-1] in ("done", "error")
        assert socket.close_code in (1000, 1003, 1008, 1009)


@st.composite
def broken_requests(draw: st.DrawFn) -> bytes:
    """A good request, with some octets replaced, dropped, doubled or cut off."""
    request = bytearray(post(draw(PATHS), json.dumps(ORDER).encode()))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(request)))
        end = draw(st.integers(start, min(len(request), start + 8)))
        match draw(st.sampled_from(["replace", "double", "cut"])):
            case "replace":
                request[start:end] = draw(st.binary(max_size=8) | st.sampled_from([b"\r\n", b"\r\n\r\n", b":", b" "]))
            case "double":
                request[start:start] = request[start:end]
            case "cut":
                del request[start:]
    return bytes(request)


@fuzz
@given(sent=broken_requests())
def test_a_broken_request_is_answered_or_hung_up_on(impatient: Fuzzed, sent: bytes) -> None:
    answer = impatient.exchange(sent)
    if answer is not None:
        status, headers, body = answer
        assert 200 <= status < 500
        assert headers["server"] == "mediaserver"
        if status >= 400 and body:
            assert ProblemDetails.model_validate_json(body).status == status


FORM = (
    b'--x\r\nContent-Disposition: form-data; name="name"\r\n\r\nAda\r\n--x\r\n'
    b'Content-Disposition: form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav\r\n\r\nRIFF\r\n--x--\r\n'
)


@st.composite
def broken_forms(draw: st.DrawFn) -> bytes:
    """A good form, with some octets replaced, dropped or doubled; or octets."""
    body = bytearray(FORM)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(body)))
        end = draw(st.integers(start, min(len(body), start + 30)))
        odd = [
            b"\r\n",
            b"\r\n--x\r\n",
            b"--x--",
            b'"',
            b";",
            b"multipart/mixed; boundary=y",
            b"\xff",
            b"name*=utf-8''a",
        ]
        body[start:end] = draw(st.sampled_from([b"", body[start:end] * 2, *odd]) | st.binary(max_size=30))
    return bytes(draw(st.sampled_from([body, bytearray(draw(st.binary(max_size=100)))])))


@pytest.mark.filterwarnings("ignore::aiohttp.BadContentDispositionParam")
@pytest.mark.filterwarnings("ignore::aiohttp.BadContentDispositionHeader")
@fuzz
@given(body=broken_forms())
def test_a_broken_form_is_taken_or_refused(fuzzed: Fuzzed, body: bytes) -> None:
    head = f"POST /v1/speakers HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
    answer = fuzzed.exchange(head.encode() + b"Content-Type: multipart/form-data; boundary=x\r\n\r\n" + body)
    assert answer is not None
    status, _, told = answer
    assert status in (201, 400, 413, 415, 422)
    if status != 201:
        assert ProblemDetails.model_validate_json(told).status == status
