"""A talkspurt on a real stream: what is gathered, what belongs to it, what is held, and which marks are reached."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from mediaserver.attachment import MOST_NOTICES
from mediaserver.call import Call
from mediaserver.talkspurt import HELD_MS, Talkspurt
from rtp import Endpoint, Stream
from tests.live import Ear, serving
from tests.test_call_audio import attached, handset, talking
from tests.test_calls_api import api, states


class Told:
    """A talkspurt, and what it tells."""

    def __init__(self, *, delay_ms: int = 0, tail: bytes = b"") -> None:
        self.marks: list[str] = []
        self.ends = 0
        self.begun = asyncio.Event()
        tails = [tail] if tail else []
        self.spurt = Talkspurt(
            "PCMU",
            delay_ms=delay_ms,
            reached=self.marks.append,
            ended=self.end,
            tail=lambda: tails.pop() if tails else b"",
        )

    def end(self, spurt: Talkspurt) -> None:
        self.ends += 1

    def play(self, stream: Stream) -> asyncio.Task[bool]:
        return asyncio.create_task(self.spurt.play(stream, begin=self.begun.set))


@asynccontextmanager
async def streaming(*, ptime_ms: int = 20) -> AsyncIterator[tuple[Stream, Ear]]:
    with Ear() as ear:
        async with Endpoint(host="127.0.0.1", ports=range(43000, 43100), realtime=False) as endpoint:
            stream = endpoint.open()
            stream.connect(host="127.0.0.1", port=ear.port, codec="PCMU", payload_type=0, ptime_ms=ptime_ms)
            stream.start()
            yield stream, ear


@pytest.mark.parametrize("ptime_ms", [10, 20, 30, 60])
async def test_all_of_it_is_sent_and_its_end_is_filled_up(ptime_ms: int) -> None:
    async with streaming(ptime_ms=ptime_ms) as (stream, _):
        told = Told(tail=b"\x02" * 30)
        for _ in range(7):
            told.spurt.feed(b"\x01" * 130)
        told.spurt.mark("end")
        told.spurt.finish()
        assert await told.play(stream)
        # 910 octets and a tail of 30: 117.5 ms in blocks of 10.
        assert (told.spurt.played_ms, stream.counters().underruns) == (120, 0)
        told.spurt.close()
        assert (told.marks, told.spurt.cut, told.ends) == (["end"], False, 1)


async def test_it_is_heard_when_enough_is_gathered_or_after_so_long() -> None:
    loop = asyncio.get_running_loop()
    async with streaming() as (stream, _):
        for octets, wait_s in ((1600, 0.0), (160, 0.2)):
            told = Told(delay_ms=200)
            told.spurt.feed(b"\x01" * octets)
            began = loop.time()
            playing = told.play(stream)
            await told.begun.wait()
            assert loop.time() - began >= wait_s
            told.spurt.finish()
            await playing


async def test_what_comes_soon_belongs_to_it_and_what_comes_later_does_not() -> None:
    async with streaming() as (stream, _):
        told = Told()
        told.spurt.feed(b"\x01" * 800)
        playing = told.play(stream)
        while told.spurt.played_ms < 100:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.05)
        told.spurt.feed(b"\x01" * 800)
        assert await asyncio.wait_for(playing, 5)
        assert (told.spurt.played_ms, stream.counters().underruns) == (200, 0)


async def test_a_minute_is_held_and_then_whoever_feeds_waits() -> None:
    async with streaming() as (stream, _):
        told = Told()
        told.spurt.feed(bytes(HELD_MS * 8 - 1))
        await asyncio.wait_for(told.spurt.room(), 1)
        told.spurt.feed(bytes(1))
        waiting = asyncio.create_task(told.spurt.room())
        await asyncio.sleep(0.01)
        assert not waiting.done()
        playing = told.play(stream)
        await asyncio.wait_for(waiting, 5)
        playing.cancel()
        await asyncio.wait((playing,))
        stream.flush()


async def test_whoever_waits_for_room_is_let_go_when_it_is_over() -> None:
    told = Told()
    told.spurt.feed(bytes(HELD_MS * 8))
    told.spurt.mark("never")
    waiting = asyncio.create_task(told.spurt.room())
    await asyncio.sleep(0)
    told.spurt.close()
    await asyncio.wait_for(waiting, 1)
    assert (told.spurt.cut, told.spurt.marks, told.marks, told.spurt.played_ms) == (True, ("never",), [], 0)
    told.spurt.feed(b"more")
    told.spurt.close()
    assert told.ends == 1


async def test_marks_in_what_was_not_sent_are_not_reached() -> None:
    async with streaming() as (stream, _):
        told = Told()
        told.spurt.feed(b"\x01" * 400)
        told.spurt.mark("reached")
        told.spurt.feed(b"\x01" * 8000)
        told.spurt.mark("a")
        told.spurt.feed(b"\x01" * 80_000)
        told.spurt.mark("b")
        playing = told.play(stream)
        while not told.marks:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        playing.cancel()
        await asyncio.wait((playing,))
        stream.flush()
        told.spurt.close()
        assert (told.marks, told.spurt.marks, told.spurt.cut) == (["reached"], ("a", "b"), True)
        assert 50 <= told.spurt.played_ms < 1000


# At a call


async def test_marks_without_end_are_refused() -> None:
    async with talking("direction=speak") as (_, _, _, agent):
        await agent.hears("start")
        await agent.line.send_bytes(bytes(160_000))
        for number in range(MOST_NOTICES + 1):
            await agent.says(type="mark", name=str(number))
        assert (await agent.hears("error"))["problem"]["status"] == 422
        assert await agent.closed() == 1008


async def test_each_talkspurt_is_a_passage() -> None:
    async with talking("format=mulaw") as (client, id, _, agent):
        await agent.hears("start")
        for pause_s in (0.05, 0.5, 0.0):
            await agent.line.send_bytes(b"\x01" * 800)
            await agent.says(type="mark", name="a")
            await agent.hears("mark")
            await asyncio.sleep(pause_s)
        told = await client.until(id, lambda told: states(told) == ["spoken", "spoken"])
        assert [spoken["spoken_ms"] for spoken in told["speech"]] == [200, 100]


async def test_a_call_with_somebody_at_it_leaves_no_cycle() -> None:
    async with serving() as running, api(running) as client, handset() as callee:
        gc.collect()
        gc.disable()
        try:
            id = await client.place(callee.uri, stay=60)
            async with attached(running, id, "format=mulaw") as agent:
                await agent.hears("start")
                await agent.line.send_bytes(b"\x01" * 80_000)
                await agent.until(lambda: bool(callee.ear.sounding()))
                await agent.says(type="clear")
                await agent.hears("cleared")
                await client.ask("DELETE", f"/v1/calls/{id}")
                await agent.hears("stop")
            await client.ended(id)
            async with asyncio.timeout(5):
                while any(type(thing) in (Call, Talkspurt) for thing in gc.get_objects()):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        finally:
            gc.enable()
