"""What happens to calls, as it is followed: the log, and its server-sent events from a real server."""

from __future__ import annotations

import ast
import asyncio
import json
import re
from contextlib import aclosing
from pathlib import Path

import aiohttp

from http_api import EVENT_KINDS
from mediaserver.events import EventLog, Happening
from tests.http_support import CALL, parse_events, running, says
from tests.live import serving
from tests.test_calls_api import api
from tests.test_referrals import phone


async def taken(log: EventLog, after: str | None, count: int) -> list[Happening | None]:
    async with aclosing(log.follow(after, idle_s=0.01)) as happenings:
        return [await anext(happenings) for _ in range(count)]


def kinds(happenings: list[Happening | None]) -> list[str]:
    return ["" if happening is None else happening.kind for happening in happenings]


async def test_whoever_was_away_catches_up() -> None:
    log = EventLog(count=10)
    for kind in "abc":
        log.publish(kind, "call_1", {})
    first, *_ = await taken(log, log.beginning, 3)
    assert first is not None
    assert kinds(await taken(log, first.id, 3)) == ["b", "c", ""]
    assert kinds(await taken(log, None, 1)) == [""]


async def test_what_is_not_known_any_more_is_a_gap() -> None:
    log = EventLog(count=2)
    log.publish("a", "call_1", {})
    (first,) = await taken(log, log.beginning, 1)
    assert first is not None
    for kind in "bcd":
        log.publish(kind, "call_1", {})
    assert kinds(await taken(log, first.id, 3)) == ["gap", "c", "d"]
    for id in ("of-another", "x", f"{first.id}9", "ffffffff-1", f"{first.id.partition('-')[0]}-" + "9" * 40):
        assert kinds(await taken(log, id, 3)) == ["gap", "c", "d"]


async def test_a_follower_who_is_overtaken_is_told() -> None:
    log = EventLog(count=2)
    async with aclosing(log.follow(None, idle_s=5)) as happenings:
        following = asyncio.ensure_future(anext(happenings))
        await asyncio.sleep(0)
        for kind in "abcd":
            log.publish(kind, "call_1", {})
        assert kinds([await following, await anext(happenings), await anext(happenings)]) == ["gap", "c", "d"]


async def test_a_stream_has_ids_and_a_comment_when_nothing_happens() -> None:
    async with running(says()) as server, server.client.get("/v1/events") as response:
        assert (response.status, response.content_type) == (200, "text/event-stream")
        body = await response.read()
    assert body.startswith(b"retry: 2000\n\n")
    assert b"\n\n:\n\n" in body
    first, second = parse_events(body.replace(b"retry: 2000\n\n", b""))
    assert (first.id, first.kind, second.id, second.kind) == ("e-0", "call.created", "e-2", "call.ended")
    assert json.loads(first.data)["call_id"] == CALL.id


async def test_the_events_of_an_unknown_call_are_404() -> None:
    async with running(says()) as server, server.client.get("/v1/calls/call_nobody/events") as response:
        assert response.status == 404


async def test_a_call_is_told_from_its_beginning_to_its_end_and_resumed_in_between() -> None:
    async with serving() as running, api(running) as client, phone() as callee:
        id = await client.place(callee.uri, text="a")
        url = f"http://{running.http_address}/v1/calls/{id}/events"
        async with aiohttp.ClientSession() as session:
            async with session.get(url) as response:
                told = parse_events((await response.read()).replace(b"retry: 2000\n\n", b""))
            async with session.get(url, headers={"Last-Event-ID": told[2].id}) as response:
                rest = parse_events((await response.read()).replace(b"retry: 2000\n\n", b""))
    assert [event.kind for event in told] == [
        "call.created",
        "call.ringing",
        "call.answered",
        "speech.started",
        "speech.ended",
        "call.ended",
    ]
    assert rest == told[3:]
    assert json.loads(told[0].data)["details"]["to"] == callee.uri
    assert json.loads(told[-1].data)["details"]["end"]["reason"] == "completed"
    assert json.loads(told[4].data)["details"]["state"] == "spoken"


def test_every_kind_of_event_is_one_that_the_api_describes() -> None:
    told = set()
    for path in (Path(__file__).parents[1] / "mediaserver").glob("*.py"):
        if path.name == "tracing.py":  # attributes of spans, and no events
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                told |= set(re.findall(r"^(?:call|speech|dialogue|recording)\.[a-z_]+$", node.value))
    assert told - {"dialogue.started", "dialogue.continued"} == set(EVENT_KINDS)


async def test_streams_end_with_the_server() -> None:
    async with aiohttp.ClientSession() as session:
        async with serving() as running:
            response = await session.get(f"http://{running.http_address}/v1/events")
            assert response.status == 200
            stopped = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - stopped < 2
        response.close()
