"""Speakers that several servers share by a real Redis, which is killed, emptied and started again meanwhile."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from mediaserver.logs import configure
from tests.redis_support import PASSWORD, RedisServer, needs_redis, redis_server
from tests.speakers_support import form, somebody, wav_of
from tests.test_speakers import Running, api

pytestmark = needs_redis

TONE = {"name": "tone", "workers": 1}


@pytest_asyncio.fixture
async def redis(tmp_path: Path) -> AsyncIterator[RedisServer]:
    async with redis_server(tmp_path) as server:
        yield server


@asynccontextmanager
async def node(tmp_path: Path, redis: RedisServer, name: str, **sections: Any) -> AsyncIterator[Running]:
    sections = {"engine": TONE, "store": {"path": str(tmp_path / name)}, "redis": redis.section} | sections
    async with api(**sections) as running:
        yield running


@asynccontextmanager
async def nodes(tmp_path: Path, redis: RedisServer) -> AsyncIterator[tuple[Running, Running]]:
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(node(tmp_path, redis, "one"))
        yield one, await stack.enter_async_context(node(tmp_path, redis, "other"))


async def status(running: Running, method: str, path: str, **request: Any) -> int:
    async with running.http.request(method, path, **request) as response:
        return response.status


async def listed(running: Running) -> list[dict[str, Any]]:
    async with running.http.get("/v1/speakers") as response:
        told: list[dict[str, Any]] = await response.json()
        return told


async def redis_state(running: Running) -> str:
    async with running.http.get("/health") as response:
        return str((await response.json())["redis"])


async def until(condition: Callable[[], Awaitable[bool]], *, within_s: float = 8) -> None:
    async with asyncio.timeout(within_s):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_a_speaker_is_known_to_every_server_at_once(tmp_path: Path, redis: RedisServer) -> None:
    async with nodes(tmp_path, redis) as (one, other):
        speaker = await one.enrol(wav_of(somebody()))
        assert await other.say(speaker["id"]) == await one.say(speaker["id"])
        assert await listed(other) == [speaker]
        second = await one.enrol(wav_of(somebody()), "Bob")
        assert await status(other, "GET", f"/v1/speakers/{second['id']}") == 200
        assert await listed(other) == [speaker, second]


async def test_a_change_and_a_deletion_are_known_to_every_server(tmp_path: Path, redis: RedisServer) -> None:
    async with nodes(tmp_path, redis) as (one, other):
        speaker = await one.enrol(wav_of(somebody()))
        path = f"/v1/speakers/{speaker['id']}"
        assert await status(other, "PATCH", path, json={"name": "Countess"}) == 200
        assert await status(one, "PATCH", path, json={"name": "Lady"}) == 200
        assert await listed(other) == await listed(one) == [speaker | {"name": "Lady"}]
        await other.say(speaker["id"])
        assert await status(one, "DELETE", path) == 204
        assert await status(other, "GET", path) == 404
        order = {"text": "Hello", "speaker_id": speaker["id"]}
        assert await status(other, "POST", "/v1/synthesize", json=order) == 404
        assert list((tmp_path / "other" / "speakers").iterdir()) == []
        assert await redis.client.keys("mediaserver:recording:*") == []
        assert await redis.client.keys("mediaserver:embedding:*") == []


async def test_what_is_used_by_name_alone_learns_of_a_deletion_without_being_asked(
    tmp_path: Path, redis: RedisServer
) -> None:
    """Speech looks a speaker up in the server's own copy, which the others' changes reach by publication."""
    async with nodes(tmp_path, redis) as (one, other):
        speaker = await one.enrol(wav_of(somebody()))
        order = {"text": "Hello", "speaker_id": speaker["id"]}
        assert await status(other, "POST", "/v1/synthesize", json=order) == 200
        assert await status(one, "DELETE", f"/v1/speakers/{speaker['id']}") == 204

        async def gone() -> bool:
            return await status(other, "POST", "/v1/synthesize", json=order) == 404

        await until(gone, within_s=1)


async def test_an_embedding_is_hot_for_an_hour(tmp_path: Path, redis: RedisServer) -> None:
    async with node(tmp_path, redis, "one") as one:
        speaker = await one.enrol(wav_of(somebody()))
        key = f"mediaserver:embedding:voice-profile-1:{speaker['id']}"
        assert 3590 < await redis.client.ttl(key) <= 3600
        assert await redis.client.ttl(f"mediaserver:recording:{speaker['id']}") == -1
        await redis.client.delete(key)
        async with node(tmp_path, redis, "late") as late:
            assert await late.say(speaker["id"]) == await one.say(speaker["id"])
        assert 3590 < await redis.client.ttl(key) <= 3600


async def test_without_redis_what_is_known_goes_on_and_what_is_not_waits(tmp_path: Path, redis: RedisServer) -> None:
    async with nodes(tmp_path, redis) as (one, other):
        speaker = await one.enrol(wav_of(somebody()))
        path = f"/v1/speakers/{speaker['id']}"
        spoken = await other.say(speaker["id"])
        assert await redis_state(one) == "up"
        await redis.kill()
        for running in (one, other):
            assert await running.say(speaker["id"]) == spoken
            assert await listed(running) == [speaker]
            assert await status(running, "GET", path) == 200
            for method, at, request in (
                ("POST", "/v1/speakers", {"data": form(wav_of(somebody()), name="Bob")}),
                ("PATCH", path, {"json": {"name": "Bob"}}),
                ("DELETE", path, {}),
                ("GET", "/v1/speakers/spk_" + "0" * 24, {}),
                ("POST", "/v1/synthesize", {"json": {"text": "x", "speaker_id": "spk_" + "0" * 24}}),
            ):
                async with running.http.request(method, at, **request) as response:
                    assert response.status == 503, (method, at)
                    assert response.headers["Retry-After"] == "5"
                    assert "Redis cannot be reached now" in (await response.json())["detail"]

        assert await redis_state(one) == "down"


async def test_a_redis_that_was_restarted_empty_is_filled_by_the_servers(tmp_path: Path, redis: RedisServer) -> None:
    async with nodes(tmp_path, redis) as (one, other):
        kept = await one.enrol(wav_of(somebody()))
        gone = await one.enrol(wav_of(somebody()), "Bob")
        assert await status(other, "DELETE", f"/v1/speakers/{gone['id']}") == 204
        await redis.kill()
        await asyncio.sleep(0.3)
        await redis.start()

        async def back() -> bool:
            return await status(one, "PATCH", f"/v1/speakers/{kept['id']}", json={"name": "Ada"}) == 200

        await until(back)
        new = await other.enrol(wav_of(somebody()), "Eve")
        async with node(tmp_path, redis, "third") as third:
            assert sorted(speaker["id"] for speaker in await listed(third)) == sorted([kept["id"], new["id"]])
            assert await third.say(kept["id"]) == await one.say(kept["id"])


async def test_a_server_that_was_away_brings_nobody_back(tmp_path: Path, redis: RedisServer) -> None:
    async with node(tmp_path, redis, "one") as one:
        speaker = await one.enrol(wav_of(somebody()))
        async with node(tmp_path, redis, "other") as other:
            assert await listed(other) == [speaker]
        assert await status(one, "DELETE", f"/v1/speakers/{speaker['id']}") == 204
        async with node(tmp_path, redis, "other") as other:
            assert await listed(other) == []
            assert list((tmp_path / "other" / "speakers").iterdir()) == []


async def test_a_server_starts_without_its_redis_and_shares_when_it_comes(tmp_path: Path, redis: RedisServer) -> None:
    async with node(tmp_path, redis, "one") as one:
        speaker = await one.enrol(wav_of(somebody()))
    await redis.kill()
    async with node(tmp_path, redis, "one") as one:
        assert await one.say(speaker["id"])
        await redis.start()

        async def shared() -> bool:
            return await redis.client.hexists("mediaserver:speakers", speaker["id"])

        await until(shared)


async def test_a_wrong_password_is_told_and_no_password_is(
    tmp_path: Path, redis: RedisServer, capfd: pytest.CaptureFixture[str]
) -> None:
    root = logging.getLogger()
    before = root.handlers, root.level
    configure(_Verbose())  # type: ignore[arg-type]
    wrong = {"url": redis.url.replace(PASSWORD, "wr0ng-secret")}
    try:
        async with api(engine=TONE, store={"path": str(tmp_path / "one")}, redis=wrong) as one:
            assert await status(one, "POST", "/v1/speakers", data=form(wav_of(somebody()), name="x")) == 503
    finally:
        root.handlers, root.level = before
    output = "".join(capfd.readouterr())
    assert "Redis cannot be reached" in output
    assert "wr0ng-secret" not in output
    assert PASSWORD not in output


class _Verbose:
    level, format = "debug", "json"


async def test_what_somebody_else_wrote_into_redis_disturbs_nobody(tmp_path: Path, redis: RedisServer) -> None:
    evil = "../../../../tmp/evil"
    async with node(tmp_path, redis, "one") as one:
        speaker = await one.enrol(wav_of(somebody()))
        record = json.loads(await redis.client.hget("mediaserver:speakers", speaker["id"]))
        await redis.client.hset("mediaserver:speakers", evil, json.dumps(record | {"id": evil}))
        await redis.client.set(f"mediaserver:recording:{evil}", b"\0\0\x1f\x40" + b"\1\1" * 100)
        odd = json.dumps(record | {"id": "spk_" + "1" * 24, "name": 5})
        for garbage in (b"\xff", b"[]", b"{}", json.dumps(record | {"created_at": 5}).encode(), odd):
            await redis.client.hset("mediaserver:speakers", "spk_" + "1" * 24, garbage)
            await redis.client.publish("mediaserver:changed", "spk_" + "1" * 24)
            await redis.client.publish("mediaserver:changed", b"\xff\xfe")
            assert await listed(one) == [speaker]
            assert await redis_state(one) == "up"
            assert await one.say(speaker["id"])
        assert [file.stem for file in (tmp_path / "one" / "speakers").iterdir()] == [speaker["id"]]
