"""Speech that was made once is not made again: budgets, restarts, simultaneous requests, broken files, Redis."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import engines
from mediaserver.config import Cache
from mediaserver.metrics import Metrics
from mediaserver.prompts import Kept, Key, Prompts
from mediaserver.shared import Shared
from tests.redis_support import needs_redis, redis_server

KEY = Key("a" * 64, "voices")
CHUNKS = [b"\1\0" * 4000, b"\2\0" * 4000]
WHOLE = b"".join(CHUNKS)


class Maker:
    """An engine that counts how often it was asked, and waits before its second chunk if it is told to."""

    def __init__(self, *chunks: bytes, error: Exception | None = None) -> None:
        self.chunks = chunks or CHUNKS
        self.error = error
        self.begun = self.closed = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self) -> AsyncGenerator[engines.Pcm, None]:
        self.begun += 1
        try:
            for number, chunk in enumerate(self.chunks):
                if number:
                    await self.gate.wait()
                yield engines.Pcm(chunk, 8000)
            if self.error:
                raise self.error
        finally:
            self.closed += 1


@asynccontextmanager
async def opened(path: Path, shared: Shared | None = None, **settings: Any) -> AsyncIterator[Prompts]:
    kept = Cache(**({"disk_mb": 512, "redis_ttl_s": 86_400} | settings))
    async with Prompts.open(kept, Metrics(), directory=path / "cache", shared=shared, salt="") as prompts:
        yield prompts


async def said(prompts: Prompts, maker: Maker, key: Key = KEY) -> tuple[bytes, bool]:
    """The samples, and whether they were kept."""
    samples, kept = b"", True
    async for chunk in prompts.said(key, 8000, maker):
        samples += chunk.samples
        kept = kept and isinstance(chunk, Kept)
    return samples, kept


def files(path: Path) -> list[Path]:
    return sorted(file for file in (path / "cache").rglob("*") if file.is_file())


async def test_what_was_said_is_kept_in_memory_and_over_a_restart(tmp_path: Path) -> None:
    maker = Maker()
    async with opened(tmp_path) as prompts:
        assert await said(prompts, maker) == (WHOLE, False)
        assert prompts.holds(KEY)
        assert await said(prompts, maker) == (WHOLE, True)
    async with opened(tmp_path) as prompts:
        assert await said(prompts, maker) == (WHOLE, True)
    assert maker.begun == 1


@pytest.mark.parametrize("settings", [{"memory_mb": 0}, {"disk_mb": 0}])
async def test_each_place_can_be_had_without_the_other(tmp_path: Path, settings: dict[str, int]) -> None:
    maker = Maker()
    async with opened(tmp_path, **settings) as prompts:
        assert await said(prompts, maker) == (WHOLE, False)
        await asyncio.gather(*prompts._writes)
        assert await said(prompts, maker) == (WHOLE, True)
        assert prompts.holds(KEY)
    assert len(files(tmp_path)) == ("disk_mb" not in settings)


async def test_without_any_place_everything_is_made(tmp_path: Path) -> None:
    maker = Maker()
    async with opened(tmp_path, memory_mb=0, disk_mb=0) as prompts:
        assert not prompts.keeping
        assert await said(prompts, maker) == await said(prompts, maker) == (WHOLE, False)
    assert maker.begun == maker.closed == 2
    assert files(tmp_path) == []


async def test_a_text_that_is_asked_for_twice_at_once_is_made_once(tmp_path: Path) -> None:
    maker = Maker()
    maker.gate.clear()
    async with opened(tmp_path) as prompts:
        first = asyncio.create_task(said(prompts, maker))
        await asyncio.sleep(0.05)
        others = [asyncio.create_task(said(prompts, maker)) for _ in range(20)]
        await asyncio.sleep(0.05)
        maker.gate.set()
        assert await first == (WHOLE, False)
        assert await asyncio.gather(*others) == [(WHOLE, True)] * 20
    assert maker.begun == maker.closed == 1


async def test_who_leaves_does_not_take_the_speech_from_the_others(tmp_path: Path) -> None:
    maker = Maker()
    maker.gate.clear()
    async with opened(tmp_path) as prompts:
        first, second = (asyncio.create_task(said(prompts, maker)) for _ in range(2))
        await asyncio.sleep(0.05)
        first.cancel()
        await asyncio.wait([first])
        assert not maker.closed
        maker.gate.set()
        assert (await second)[0] == WHOLE
    assert maker.begun == maker.closed == 1


async def test_the_last_one_who_leaves_stops_the_engine_and_nothing_is_kept(tmp_path: Path) -> None:
    maker = Maker()
    maker.gate.clear()
    async with opened(tmp_path) as prompts:
        listeners = [asyncio.create_task(said(prompts, maker)) for _ in range(3)]
        await asyncio.sleep(0.05)
        for listener in listeners:
            listener.cancel()
        await asyncio.wait(listeners)
        assert maker.closed == 1
        assert not prompts.holds(KEY)
        async with aclosing(prompts.said(KEY, 8000, maker)) as chunks:
            assert (await anext(chunks)).samples == CHUNKS[0]
        assert maker.begun == maker.closed == 2
    assert files(tmp_path) == []


async def test_the_engine_works_only_as_far_ahead_as_somebody_listens(tmp_path: Path) -> None:
    maker = Maker(*CHUNKS * 50)
    async with opened(tmp_path) as prompts:
        asked = 0
        async with aclosing(prompts.said(KEY, 8000, maker)) as chunks:
            async for _ in chunks:
                asked += 1
                if asked == 3:
                    break
                await asyncio.sleep(0.01)
                (take,) = prompts._takes.values()
                assert len(take._chunks) <= asked + 1


async def test_speech_that_fails_is_told_to_all_and_not_kept(tmp_path: Path) -> None:
    maker = Maker(error=engines.EngineFailure("broke"))
    maker.gate.clear()
    async with opened(tmp_path) as prompts:
        listeners = [asyncio.create_task(said(prompts, maker)) for _ in range(3)]
        await asyncio.sleep(0.05)
        maker.gate.set()
        results = await asyncio.gather(*listeners, return_exceptions=True)
        assert [str(result) for result in results] == ["broke"] * 3
        assert not prompts.holds(KEY)
        assert await said(prompts, Maker()) == (WHOLE, False)


async def test_memory_holds_what_was_used_last_within_its_budget(tmp_path: Path) -> None:
    keys = [Key(f"{number:064}", "voices") for number in range(8)]
    quarter = b"\1\0" * (120 * 1024)  # 240 KiB: four of them and not five fit into a mebibyte
    async with opened(tmp_path, memory_mb=1, disk_mb=0) as prompts:
        for key in keys[:4]:
            await said(prompts, Maker(quarter), key)
        await prompts.find(keys[0])
        await said(prompts, Maker(quarter), keys[4])
        assert [prompts.holds(key) for key in keys[:5]] == [True, False, True, True, True]
        # A clip has every sample again in both laws.
        assert await prompts.clip(keys[4], 8000) is await prompts.clip(keys[4], 8000)
        assert sum(entry.size for entry in prompts._memory.values()) <= 1024 * 1024
        assert prompts._memory_used == sum(entry.size for entry in prompts._memory.values())


async def test_the_disk_holds_what_was_used_last_within_its_budget(tmp_path: Path) -> None:
    keys = [Key(f"{number:064}", "voices") for number in range(12)]
    tenth = b"\1\0" * (50 * 1024)
    async with opened(tmp_path, memory_mb=0, disk_mb=1) as prompts:
        for number, key in enumerate(keys):
            await said(prompts, Maker(tenth), key)
            await asyncio.gather(*prompts._writes)
            file = tmp_path / "cache" / "voices" / key.digest
            if file.exists():
                os.utime(file, (number, number))
            await prompts.find(keys[0])  # used just now, again and again
    assert sum(file.stat().st_size for file in files(tmp_path)) <= 1024 * 1024
    names = [file.name for file in files(tmp_path)]
    assert keys[0].digest in names
    assert keys[1].digest not in names
    assert keys[11].digest in names


async def test_what_is_larger_than_its_share_is_said_and_not_kept(tmp_path: Path) -> None:
    maker = Maker(*[b"\1\0" * 100_000] * 4)
    async with opened(tmp_path, memory_mb=1, disk_mb=1) as prompts:
        listeners = [asyncio.create_task(said(prompts, maker)) for _ in range(2)]
        await asyncio.sleep(0)
        assert [samples for samples, _ in await asyncio.gather(*listeners)] == [b"\1\0" * 400_000] * 2
        assert not prompts.holds(KEY)
    assert files(tmp_path) == []


async def test_a_long_speech_is_not_held_once_it_cannot_be_kept(tmp_path: Path) -> None:
    maker = Maker(*[b"\1\0" * 50_000] * 40)
    async with opened(tmp_path, memory_mb=1, disk_mb=0) as prompts, aclosing(prompts.said(KEY, 8000, maker)) as chunks:
        async for _ in chunks:
            (take,) = prompts._takes.values()
            assert sum(len(chunk.samples) for chunk in take._chunks) < 500_000


@pytest.mark.parametrize("content", [b"", b"short", b"\0" * 32 + WHOLE, b"\0" * 33])
async def test_a_broken_file_is_made_anew(tmp_path: Path, content: bytes) -> None:
    maker = Maker()
    async with opened(tmp_path, memory_mb=0) as prompts:
        await said(prompts, maker)
    (file,) = files(tmp_path)
    file.write_bytes(content)
    async with opened(tmp_path, memory_mb=0) as prompts:
        assert await said(prompts, maker) == (WHOLE, False)
    assert files(tmp_path)[0].read_bytes()[32:] == WHOLE


async def test_a_disk_that_cannot_be_written_costs_no_speech(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("in the way")
    maker = Maker()
    async with opened(tmp_path) as prompts:
        assert await said(prompts, maker) == (WHOLE, False)
        assert await said(prompts, maker) == (WHOLE, True)


async def test_with_a_speaker_goes_what_was_said_in_that_voice(tmp_path: Path) -> None:
    async with engines.open_engine("tone", workers=0) as engine, opened(tmp_path) as prompts:
        spoken = engines.Utterance(text="Hello", embedding=b"somebody")
        mine, others = prompts.key(spoken, engine), prompts.key(replace(spoken, embedding=b"else"), engine)
        for key in (mine, others):
            await said(prompts, Maker(), key)
        await prompts.forget(b"somebody")
        assert [prompts.holds(key) for key in (mine, others)] == [False, True]
        assert [file.name for file in files(tmp_path)] == [others.digest]


async def test_all_that_decides_how_it_sounds_is_in_the_key(tmp_path: Path) -> None:
    utterance = engines.Utterance(text="Hello")
    changes: list[dict[str, Any]] = [
        {},
        {"text": "Hello."},
        {"ssml": True},
        {"voice": "tone-880"},
        {"language": "de"},
        {"speed": 1.1},
        {"seed": 1},
        {"rate_hz": 16000},
        {"continues": True},
        {"embedding": b"x"},
        {"embedding": b"y"},
    ]
    assert {field for change in changes for field in change} == set(utterance.__dataclass_fields__)
    async with engines.open_engine("tone", workers=0) as engine, opened(tmp_path) as prompts:
        keys = {prompts.key(replace(utterance, **change), engine).digest for change in changes}
        assert len(keys) == len(changes)
        assert prompts.key(utterance, engine) == prompts.key(engines.Utterance(text="Hello"), engine)
        other = Prompts(Cache(disk_mb=512), Metrics(), directory=tmp_path, shared=None, salt="other")
        assert other.key(utterance, engine) != prompts.key(utterance, engine)


@needs_redis
async def test_what_one_server_made_another_has_by_redis_for_a_while(tmp_path: Path) -> None:
    maker = Maker()
    async with redis_server(tmp_path) as redis, AsyncExitStack() as stack:
        one, other, third = [
            await stack.enter_async_context(
                opened(tmp_path / name, await stack.enter_async_context(Shared.open(redis.url)), redis_ttl_s=ttl_s)
            )
            for name, ttl_s in (("one", 100), ("other", 100), ("third", 0))
        ]
        await said(one, maker)
        await asyncio.gather(*one._writes)
        assert await said(other, maker) == (WHOLE, True)
        assert await said(third, maker) == (WHOLE, False)
        assert 90 < await redis.client.ttl(f"mediaserver:speech:{KEY.digest}") <= 100
        await redis.kill()
        began = time.monotonic()
        for number in range(20):
            assert await said(other, maker, Key(f"{number:064}", "voices")) == (WHOLE, False)
        assert time.monotonic() - began < 1
        await redis.start()


@needs_redis
async def test_a_redis_that_hangs_holds_up_nobody_for_long(tmp_path: Path) -> None:
    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(mute, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, Shared.open(f"redis://127.0.0.1:{port}") as shared, opened(tmp_path, shared) as prompts:
        began = time.monotonic()
        assert await said(prompts, Maker()) == (WHOLE, False)
        assert time.monotonic() - began < 0.5
        async with asyncio.timeout(5):
            await asyncio.gather(*prompts._writes)
