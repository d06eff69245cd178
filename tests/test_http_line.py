"""GET /v1/calls/{id}/audio: what is said on it, what is refused, who is cut off. The call itself is scripted."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp
import pytest
from aiohttp import WSMsgType
from hypothesis import given
from hypothesis import strategies as st

from http_api import ApiLimits, Busy, Cleared, Keyed, LineOrder, Marked, Refused

from .http_support import CALL, Api, FakeLine, running, says
from .test_http_fuzz import Fuzzed, fuzz, fuzzed, json_values
from .test_http_talk import HANDSHAKE, descriptors

__all__ = ["fuzzed"]

PATH = f"/v1/calls/{CALL.id}/audio"
FRAME = bytes(range(160)) * 2
START = {
    "type": "start",
    "call_id": CALL.id,
    "direction": "outbound",
    "from": "sip:desk@example.com",
    "to": "sip:alice@example.com",
    "codec": "PCMU",
    "format": "pcm",
    "sample_rate": 8000,
    "frame_ms": 20,
}


@asynccontextmanager
async def attached(
    query: str = "", limits: ApiLimits | None = None, *, up: bool = True
) -> AsyncIterator[tuple[Api, FakeLine, aiohttp.ClientWebSocketResponse]]:
    async with running(says(), limits) as api:
        api.calls.line = line = FakeLine()
        async with api.client.ws_connect(PATH + query) as client:
            if up:
                line.up.set()
            yield api, line, client


async def told(client: aiohttp.ClientWebSocketResponse) -> dict[str, Any]:
    received = await client.receive(timeout=5)
    assert received.type is WSMsgType.TEXT, received
    message: dict[str, Any] = received.json()
    return message


async def ends(client: aiohttp.ClientWebSocketResponse, api: Api, how: str) -> int | None:
    """The code with which it is closed, after no further message, and counted as `how`."""
    received = await client.receive(timeout=5)
    assert received.type in (WSMsgType.CLOSE, WSMsgType.CLOSED), received
    await let_go(api, how)
    return client.close_code


async def let_go(api: Api, how: str) -> None:
    """Wait until the call is free of it, and see that it was counted as `how`."""
    async with asyncio.timeout(5):
        await api.control.observed.wait()
        while api.calls.attached:  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert api.control.sockets == [how]


# What is said


async def test_audio_is_binary_both_ways_and_the_rest_is_json() -> None:
    async with attached() as (api, line, client):
        assert await told(client) == START
        line.frames.put_nowait(FRAME)
        received = await client.receive(timeout=5)
        assert (received.type, received.data) == (WSMsgType.BINARY, FRAME)
        await client.send_bytes(FRAME)
        await client.send_json({"type": "mark", "name": "a"})
        await client.send_json({"type": "clear"})
        line.happenings.put_nowait(Marked("a"))
        assert await told(client) == {"type": "mark", "name": "a"}
        line.happenings.put_nowait(Cleared(("b", "c"), 1240))
        assert await told(client) == {"type": "cleared", "marks": ["b", "c"], "played_ms": 1240}
        line.happenings.put_nowait(Keyed("#"))
        assert await told(client) == {"type": "dtmf", "digit": "#"}
        assert line.told == [FRAME, "a", None]
        line.happenings.put_nowait(None)
        line.frames.put_nowait(None)
        assert await told(client) == {"type": "stop", "call_id": CALL.id}
        assert await ends(client, api, "done") == 1000
        assert api.calls.orders == [
            LineOrder(format="pcm", rate_hz=8000, listens=True, speaks=True, delay_ms=60)
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("query", "order"),
    [
        ("?direction=listen", ("pcm", 8000, True, False, 60)),
        ("?direction=speak&sample_rate=24000&buffer_ms=0", ("pcm", 24000, False, True, 0)),
        ("?format=alaw&buffer_ms=1000", ("alaw", 8000, True, True, 1000)),
        ("?protocol=twilio", ("mulaw", 8000, True, True, 60)),
    ],
)
async def test_the_query_says_how(query: str, order: tuple[Any, ...]) -> None:
    async with attached(query) as (api, _, client):
        await told(client)
        (made,) = api.calls.orders
        assert (made.format, made.rate_hz, made.listens, made.speaks, made.delay_ms) == order


async def test_twilios_messages_are_numbered_and_have_audio_in_base64() -> None:
    async with attached("?protocol=twilio") as (api, line, client):
        id = CALL.id
        assert await told(client) == {"event": "connected", "protocol": "Call", "version": "1.0.0"}
        assert await told(client) == {
            "event": "start",
            "sequenceNumber": "1",
            "start": {
                "accountSid": "",
                "streamSid": id,
                "callSid": id,
                "tracks": ["inbound"],
                "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
                "customParameters": {
                    "from": "sip:desk@example.com",
                    "to": "sip:alice@example.com",
                    "direction": "outbound",
                },
            },
            "streamSid": id,
        }
        for number in (0, 1):
            line.frames.put_nowait(FRAME[:160])
            assert await told(client) == {
                "event": "media",
                "sequenceNumber": str(2 + number),
                "media": {
                    "track": "inbound",
                    "chunk": str(1 + number),
                    "timestamp": str(20 * number),
                    "payload": base64.b64encode(FRAME[:160]).decode(),
                },
                "streamSid": id,
            }
        # As Pipecat's serializer writes them, and with what Twilio's documentation has beside it.
        await client.send_str('{"event": "media", "streamSid": "MZ1", "media": {"payload": "AAEC"}}')
        await client.send_str('{"event":"mark","streamSid":"MZ1","sequenceNumber":"4","mark":{"name":"a"}}')
        await client.send_str('{"event": "clear", "streamSid": "MZ1"}')
        line.happenings.put_nowait(Keyed("5"))
        assert await told(client) == {
            "event": "dtmf",
            "sequenceNumber": "4",
            "dtmf": {"track": "inbound_track", "digit": "5"},
            "streamSid": id,
        }
        line.happenings.put_nowait(Cleared(("a", "b"), 60))
        for number, name in ((5, "a"), (6, "b")):
            assert await told(client) == {
                "event": "mark", "sequenceNumber": str(number), "mark": {"name": name}, "streamSid": id
            }  # fmt: skip
        assert line.told == [b"\x00\x01\x02", "a", None]
        for end in (line.happenings, line.frames):
            end.put_nowait(None)
        assert await told(client) == {
            "event": "stop",
            "sequenceNumber": "7",
            "stop": {"accountSid": "", "callSid": id},
            "streamSid": id,
        }
        assert await ends(client, api, "done") == 1000


async def test_a_call_that_never_comes_up_is_told_as_over() -> None:
    async with attached(up=False) as (api, line, client):
        line.facts = None
        line.up.set()
        assert await told(client) == {"type": "stop", "call_id": CALL.id}
        assert await ends(client, api, "done") == 1000


async def test_a_client_that_leaves_is_let_go_of_and_was_served(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="http_api.audit")
    async with attached(up=False) as (api, _, client):
        await client.close()
        await let_go(api, "left")
    assert [record.getMessage() for record in caplog.records] == ["get_call_audio 101"]


# What is refused


@pytest.mark.parametrize(
    ("query", "message", "status", "code"),
    [
        ("", "{", 400, 1008),
        ("", "[]", 422, 1008),
        ("", '{"type": "mark"}', 422, 1008),
        ("", '{"type": "mark", "name": ""}', 422, 1008),
        ("", '{"type": "clear", "name": "a"}', 422, 1008),
        ("", '{"type": "hello"}', 422, 1008),
        ("", '{"type": "clear", "all": true}', 400, 1008),
        ("", b"odd", 422, 1008),
        ("?direction=listen", b"even", 422, 1008),
        ("?direction=listen", '{"type": "clear"}', 422, 1008),
        ("?protocol=twilio", b"audio", 415, 1003),
        ("?protocol=twilio", '{"event": "media"}', 422, 1008),
        ("?protocol=twilio", '{"event": "media", "media": {"payload": "a"}}', 422, 1008),
        ("?protocol=twilio", '{"event": "media", "media": {"payload": "\\u00e4"}}', 422, 1008),
        ("?protocol=twilio", '{"event": "mark", "mark": {}}', 422, 1008),
        ("?protocol=twilio", '{"event": "start"}', 422, 1008),
    ],
)
async def test_a_message_at_fault_is_named_and_ends_the_connection(
    query: str, message: str | bytes, status: int, code: int
) -> None:
    async with attached(query, up=False) as (api, line, client):
        await (client.send_bytes(message) if isinstance(message, bytes) else client.send_str(message))
        error = await told(client)
        if error.get("event") == "connected":
            error = await told(client)
        assert (error["type"], error["problem"]["status"]) == ("error", status)
        assert await ends(client, api, "refused") == code
        assert line.told == []


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (Busy("32 things wait to be said", retry_after_s=5.0), 503, 1013),
        (Refused("1000 marks are not read", field="type"), 422, 1008),
    ],
)
async def test_what_the_call_does_not_take_ends_the_connection(error: Exception, status: int, code: int) -> None:
    async with attached() as (api, line, client):
        line.error = error
        await told(client)
        await client.send_bytes(FRAME)
        assert (await told(client))["problem"]["status"] == status
        assert await ends(client, api, "refused") == code


async def test_a_message_of_more_than_a_megabyte_closes_with_1009() -> None:
    async with attached() as (api, _, client):
        await told(client)
        await client.send_bytes(bytes(1024 * 1024 + 2))
        assert await ends(client, api, "refused") == 1009


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        (PATH, {}, 426),
        (PATH, {"Upgrade": "websocket"}, 409),
        (PATH.replace("call_0", "call_1"), {"Upgrade": "websocket"}, 404),
        (PATH + "?sample_rate=44100", {"Upgrade": "websocket"}, 422),
        (PATH + "?buffer_ms=1001", {"Upgrade": "websocket"}, 422),
        (PATH + "?direction=listen&direction=speak", {"Upgrade": "websocket"}, 422),
        (PATH + "?format=alaw&sample_rate=16000", {"Upgrade": "websocket"}, 422),
        (PATH + "?protocol=twilio&format=pcm", {"Upgrade": "websocket"}, 422),
        (PATH + "?token=secret", {"Upgrade": "websocket"}, 400),
        (PATH, {"Upgrade": "websocket", "Origin": "https://elsewhere.example"}, 403),
    ],
)
async def test_what_cannot_be_had_is_a_problem(path: str, headers: dict[str, str], status: int) -> None:
    async with running(says()) as api, api.client.get(path, headers=headers) as response:
        assert (response.status, response.content_type) == (status, "application/problem+json")
        assert (await response.json())["status"] == status


async def test_sockets_beyond_the_limit_are_503_whatever_they_are_for() -> None:
    async with attached(limits=ApiLimits(max_sockets=1)) as (api, _, _client):
        for path in (PATH, "/v1/synthesize/ws"):
            with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                await api.client.ws_connect(path)
            assert caught.value.status == 503


# Who is cut off


def handshake(query: str = "") -> bytes:
    return HANDSHAKE.replace(b"/v1/synthesize/ws", (PATH + query).encode())


async def test_a_client_that_does_not_read_is_cut_off_and_little_is_held_for_it() -> None:
    async with running(says(), ApiLimits(stall_timeout_s=0.1)) as api:
        api.calls.line = line = FakeLine()
        line.up.set()
        for _ in range(4000):  # 80 s
            line.frames.put_nowait(bytes(960))
        with socket.create_connection(api.listening.addresses[0]) as client:
            client.setblocking(False)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            await asyncio.get_running_loop().sock_sendall(client, handshake("?sample_rate=24000"))
            await asyncio.wait_for(api.control.observed.wait(), 5)
        assert api.control.sockets == ["slow"]
        assert 4000 - line.frames.qsize() < 400  # 8 s, in the buffers of both sides


async def test_a_client_that_does_not_answer_pings_is_cut_off() -> None:
    async with running(says(), ApiLimits(socket_ping_s=0.1)) as api:
        api.calls.line = FakeLine()
        _, writer = await api.dial()
        writer.write(handshake())
        await let_go(api, "left")


async def test_a_client_that_answers_pings_stays_and_gets_pongs() -> None:
    async with attached(limits=ApiLimits(socket_ping_s=0.05), up=False) as (api, line, client):
        receiving = asyncio.create_task(client.receive())
        await asyncio.sleep(0.3)
        await client.ping(b"there?")
        line.up.set()
        assert (await receiving).json()["type"] == "start"
        assert api.control.sockets == ["open"]


async def test_a_client_that_waits_for_room_is_not_taken_for_gone() -> None:
    async with attached(limits=ApiLimits(socket_ping_s=0.05)) as (api, line, client):
        line.room = asyncio.Event()
        await told(client)
        await client.send_bytes(FRAME)
        await asyncio.sleep(0.3)  # nothing reads its pongs meanwhile
        assert api.control.sockets == ["open"]
        line.room.set()
        await client.send_json({"type": "clear"})
        line.happenings.put_nowait(Cleared((), 0))
        assert (await told(client))["type"] == "cleared"
        assert line.told == [FRAME, None]


async def test_a_server_that_ends_says_so() -> None:
    async with running(says()) as api:
        api.calls.line = FakeLine()
        client = aiohttp.ClientSession(api.listening.url)
        line = await client.ws_connect(PATH)
        closing = asyncio.create_task(line.receive())
    assert (await closing).data == 1001
    await client.close()


async def test_a_thousand_idle_connections_hold() -> None:
    with descriptors(4096):
        async with running(says(), ApiLimits(max_sockets=1000)) as api:
            api.calls.line = line = FakeLine()
            line.up.set()
            readers = []
            for _ in range(1000):
                reader, writer = await api.dial()
                writer.write(handshake("?direction=listen"))
                readers.append(reader)
            for reader in readers:
                assert b"101" in await reader.readuntil(b"\r\n\r\n")
                assert b'"type":"start"' in await reader.readuntil(b"}")
            assert api.calls.attached == 1000


# Whatever comes

near_messages = st.fixed_dictionaries(
    {"type": st.sampled_from(["mark", "clear", "stop"]) | json_values},
    optional={"name": st.text(max_size=300) | json_values},
)
near_twilio = st.fixed_dictionaries(
    {"event": st.sampled_from(["media", "mark", "clear", "stop"]) | json_values},
    optional={
        "streamSid": st.text(max_size=10) | json_values,
        "media": st.fixed_dictionaries({"payload": st.text(max_size=10) | json_values}) | json_values,
        "mark": st.fixed_dictionaries({"name": st.text(max_size=10) | json_values}) | json_values,
    },
)


@fuzz
@given(
    twilio=st.booleans(),
    messages=st.lists(
        near_messages | near_twilio | json_values | st.text(max_size=20) | st.binary(max_size=20), max_size=5
    ),
)
def test_any_messages_are_obeyed_or_refused(fuzzed: Fuzzed, twilio: bool, messages: list[object]) -> None:
    fuzzed.runner.run(_say(fuzzed.api, "?protocol=twilio" if twilio else "", messages))
    assert "failed" not in fuzzed.api.control.sockets


async def _say(api: Api, query: str, messages: list[object]) -> None:
    """Say it all, and hear the connection to its end."""
    api.calls.line = line = FakeLine()
    line.up.set()
    async with api.client.ws_connect(PATH + query) as client:
        with suppress(ConnectionError):  # refused already
            for message in messages:
                match message:
                    case bytes():
                        await client.send_bytes(message)
                    case str():
                        await client.send_str(message)
                    case _:
                        await client.send_str(json.dumps(message))
        answered = asyncio.create_task(client.receive())
        while not answered.done() and len(line.told) < len(messages):  # noqa: ASYNC110
            await asyncio.sleep(0)
        for end in (line.happenings, line.frames):
            end.put_nowait(None)
        async with asyncio.timeout(5):
            await answered
            async for _ in client:
                pass
        assert client.close_code in (1000, 1003, 1008)
        assert all(isinstance(wish, bytes | str | None) for wish in line.told)
