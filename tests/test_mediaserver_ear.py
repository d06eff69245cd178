"""What the caller says, heard by several listeners at a time, over real RTP on loopback."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from itertools import pairwise

import pytest

import rtp
from mediaserver.ear import Ear
from rtp.g711 import mulaw_decode, mulaw_encode
from tests.test_rtp_endpoint import Peer, connect, until

FRAME_NS = 20_000_000


@pytest.fixture
async def endpoint() -> AsyncIterator[rtp.Endpoint]:
    async with rtp.Endpoint(ports=range(0), realtime=False) as endpoint:
        yield endpoint


@pytest.fixture
def peer() -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.close()


@pytest.fixture
async def stream(endpoint: rtp.Endpoint, peer: Peer) -> rtp.Stream:
    stream = endpoint.open(port=0)
    connect(stream, peer)
    stream.start()
    return stream


def said(n: int) -> bytes:
    return mulaw_decode(bytes((n,)) * 160)


async def test_all_listeners_hear_the_same_frames_at_the_same_times(stream: rtp.Stream, peer: Peer) -> None:
    ear = Ear(stream)
    heard: list[rtp.Frame] = []
    with ear.listen(heard.append), ear.frames() as frames:
        for n in range(8):
            peer.send(stream, 1, codes=bytes((n,)) * 160)
        iterated = [await anext(frames) for _ in range(8)]
    assert [frame.samples for frame in iterated] == [said(n) for n in range(8)]
    assert heard[:8] == iterated
    assert [then.at_ns - frame.at_ns for frame, then in pairwise(iterated)] == [FRAME_NS] * 7


async def test_a_call_that_nobody_listens_to_is_not_listened_to(stream: rtp.Stream, peer: Peer) -> None:
    ear = Ear(stream)
    stream.listen(lambda frame: None)  # nobody else does: there is one listener at a time
    stream.listen(None)
    with ear.listen(lambda frame: None) as first, ear.listen(lambda frame: None):
        first.close()
        first.close()
        with pytest.raises(rtp.LocalProtocolError, match="somebody listens already"):
            stream.listen(lambda frame: None)
    stream.listen(lambda frame: None)


async def test_listening_goes_on_where_it_was_taken_up_again_at_once(stream: rtp.Stream, peer: Peer) -> None:
    ear = Ear(stream)
    ear.listen(lambda frame: None).close()
    heard: list[rtp.Frame] = []
    with ear.listen(heard.append):
        peer.send(stream, 4, codes=bytes((5,)) * 160)
        await until(lambda: said(5) in [frame.samples for frame in heard])
    ear.listen(heard.append).close()
    count = len(heard)
    peer.send(stream, 4)
    await asyncio.sleep(0.1)
    assert len(heard) == count


async def test_a_slow_listener_loses_the_oldest_frames_and_delays_nobody(stream: rtp.Stream, peer: Peer) -> None:
    ear = Ear(stream)
    heard: list[rtp.Frame] = []
    with ear.listen(heard.append), ear.frames(most=3) as slow:
        for n in range(10):
            peer.send(stream, 1, codes=bytes((n,)) * 160)
        await until(lambda: len(heard) >= 10)
        waiting = [await anext(slow) for _ in range(3)]
        assert waiting == heard[-3:]
        assert slow.lost == len(heard) - 3


async def test_a_listener_that_fails_disturbs_no_other(stream: rtp.Stream, peer: Peer) -> None:
    ear = Ear(stream)
    failures: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context["exception"]))
    heard: list[rtp.Frame] = []

    def fail(frame: rtp.Frame) -> None:
        raise ZeroDivisionError

    with ear.listen(fail), ear.listen(heard.append):
        peer.send(stream, 5)
        await until(lambda: len(heard) >= 5)
    assert {type(failure) for failure in failures} == {ZeroDivisionError}


async def test_who_wants_to_know_is_told_what_is_said_and_when(stream: rtp.Stream, peer: Peer) -> None:
    ear = Ear(stream)
    await until(lambda: peer.received())
    spoken, again = [bytes((n, n)) * 160 for n in range(1, 26)], bytes((77, 0)) * 160
    told: list[rtp.Frame] = []
    heard: list[rtp.Frame] = []
    with ear.listen(heard.append), ear.listen(lambda frame: None, said=told.append) as listening:
        await stream.write(b"".join(spoken), 8000)
        stream.end()
        await stream.drained()
        await until(lambda: len(told) >= 25)
        listening.close()
        count = len(heard)
        await stream.write(again, 8000)
        stream.end()
        await until(lambda: len(heard) > count + 5)
    assert [frame.samples for frame in told] == [mulaw_decode(mulaw_encode(samples)) for samples in spoken]
    assert [then.at_ns - frame.at_ns for frame, then in pairwise(told)] == [FRAME_NS] * 24
    assert 0 <= told[0].at_ns - heard[0].at_ns < 1_000_000_000
    stream.tap(told.append)  # nobody else does any more


async def test_the_end_of_the_call_ends_what_is_heard(stream: rtp.Stream, peer: Peer) -> None:
    ear = Ear(stream)
    ended: list[str] = []
    ear.listen(lambda frame: None, over=lambda: ended.append("over"))
    frames = ear.frames()
    peer.send(stream, 3)
    await until(lambda: stream.counters().packets_received)
    waits = asyncio.create_task(frames_of(frames))
    await asyncio.sleep(0)
    ear.close()
    ear.close()
    stream.close()
    assert (await waits)[:1] in ([], [said(0)])
    assert ended == ["over"]
    with pytest.raises(rtp.StreamClosed):
        ear.listen(lambda frame: None)


async def frames_of(frames: AsyncIterator[rtp.Frame]) -> list[bytes]:
    return [frame.samples async for frame in frames]


async def test_an_ear_leaves_no_cycle_for_the_garbage_collector(endpoint: rtp.Endpoint, peer: Peer) -> None:
    async def listened_to() -> None:
        stream = endpoint.open(port=0)
        ear = Ear(stream)
        connect(stream, peer)
        stream.start()
        heard: list[rtp.Frame] = []
        frames, listening = ear.frames(), ear.listen(heard.append, said=heard.append)
        await anext(frames)
        assert listening
        ear.close()
        stream.close()
        await stream.wait_closed()

    await listened_to()
    gc.collect()
    gc.disable()
    try:
        await listened_to()
        assert gc.collect() == 0
    finally:
        gc.enable()
