"""What is kept of recordings: limits, a slow disk, a server that dies, and that nothing is left of one in memory."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import shutil
import threading
import wave
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import rtp
from mediaserver import config, recorder
from mediaserver.ear import Ear
from mediaserver.metrics import Metrics
from mediaserver.recorder import (
    AlreadyRecording,
    Ended,
    NoRoomToRecord,
    Recorded,
    Recorder,
    RecordingUnderWay,
    UnknownRecording,
)
from mediaserver.stereo import wav_head
from rtp.g711 import mulaw_decode
from tests.test_rtp_endpoint import Peer, connect, until

SAID = bytes((3,)) * 160
Told = list[tuple[str, str, Mapping[str, object]]]


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
async def ear(endpoint: rtp.Endpoint, peer: Peer) -> Ear:
    stream = endpoint.open(port=0)
    connect(stream, peer)
    stream.start()
    return Ear(stream)


@pytest.fixture
def told() -> Told:
    return []


def opened(path: Path, told: Told | None = None, **settings: object) -> AbstractAsyncContextManager[Recorder]:
    section = config.Recordings.model_validate({"enabled": True, "min_free_mb": 0} | settings)
    sink: Told = [] if told is None else told
    return Recorder.open(section, path, Metrics(), lambda kind, call, facts: sink.append((kind, call, facts)))


def read(path: Path) -> tuple[int, int]:
    """Samples and channels of a WAV file, the head of which is right."""
    with wave.open(str(path)) as file:
        assert path.stat().st_size == 44 + 4 * file.getnframes()
        return file.getnframes(), file.getnchannels()


async def hears(ear: Ear, peer: Peer, ms: int) -> None:
    """Have the peer speak for so long."""
    for _ in range(ms // 20):
        peer.send(ear._stream, 1, codes=SAID)
        await asyncio.sleep(0.02)


async def test_a_recording_is_whole_after_each_second_whatever_becomes_of_the_server(
    tmp_path: Path, ear: Ear, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "CHUNK", 800)
    monkeypatch.setattr("mediaserver.stereo.SETTLED", 800)
    live, dead = tmp_path / "live", tmp_path / "dead"
    async with opened(live) as one:
        recording = await one.start("call_1", ear)
        file = live / f"{recording.facts.id}.wav"
        await hears(ear, peer, 600)
        await until(lambda: file.stat().st_size > 44 + 4 * 1600)
        samples, channels = read(file)
        assert (samples >= 1600, channels) == (True, 2)
        # Another server that begins in the same directory leaves it alone.
        async with opened(live) as other:
            assert other.all() == []
        # The disk as it is now is what a server leaves that is killed now, or in the middle of the next write.
        shutil.copytree(live, dead)
    with (dead / file.name).open("ab") as torn:
        torn.write(b"\x01" * 7)
    async with opened(dead, enabled=False) as after:
        (facts,) = after.all()
        assert await after.file(facts.id) == dead / file.name
    assert (facts.id, facts.call_id, facts.reason) == (recording.facts.id, "call_1", Ended.INTERRUPTED)
    assert facts.ended_at is not None
    assert read(dead / file.name) == (samples + 1, 2)
    assert (facts.duration_ms, facts.size_bytes) == ((samples + 1) // 8, 44 + 4 * (samples + 1))
    async with opened(dead) as later:
        assert later.all() == [facts]
        assert later.bytes == facts.size_bytes
        await later.delete(facts.id)
        assert (later.all(), later.bytes) == ([], 0)
    assert list(dead.iterdir()) == []


async def test_what_nobody_recorded_here_is_left_alone(tmp_path: Path) -> None:
    id = f"rec_{'0' * 24}"
    facts = Recorded(id=id, call_id="call_1", started_at=datetime.now(UTC))
    for name, data in (
        (f"{id}.json", facts.serialise()),  # without a file of sound
        (f"rec_{'1' * 24}.json", facts.serialise()),  # of another one
        (f"rec_{'2' * 24}.json", b"[]"),
        (f"rec_{'3' * 24}.json", b"{}"),
        (f"rec_{'4' * 24}.json", b"\xff"),
        ("rec_notes.json", b"{}"),
    ):
        (tmp_path / name).write_bytes(data)
    async with opened(tmp_path) as found:
        assert found.all() == []
    assert len(os.listdir(tmp_path)) == 6


def test_a_description_that_is_read_is_the_one_that_was_written() -> None:
    facts = Recorded(id="rec_1", call_id="call_1", started_at=datetime.now(UTC))
    assert Recorded.parse(facts.serialise()) == facts
    over = Recorded(
        id="rec_1",
        call_id="call_1",
        started_at=datetime.now(UTC),
        ended_at=datetime.now(UTC),
        reason=Ended.NO_SPACE,
    ).with_samples(12_345)
    assert (over.duration_ms, over.size_bytes) == (1543, 44 + 4 * 12_345)
    assert Recorded.parse(over.serialise()) == over


async def test_all_recordings_together_take_no_more_than_they_may(
    tmp_path: Path, ear: Ear, peer: Peer, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "CHUNK", 800)
    monkeypatch.setattr("mediaserver.stereo.SETTLED", 800)
    old = Recorded(
        id=f"rec_{'0' * 24}",
        call_id="call_0",
        started_at=datetime.now(UTC),
        ended_at=datetime.now(UTC),
        reason=Ended.STOPPED,
    ).with_samples(249_000)  # of a million bytes, 4000 are left
    (tmp_path / f"{old.id}.json").write_bytes(old.serialise())
    (tmp_path / f"{old.id}.wav").write_bytes(wav_head(249_000) + bytes(4 * 249_000))
    async with opened(tmp_path, told, max_mb=1) as full:
        recording = await full.start("call_1", ear)
        await hears(ear, peer, 600)
        assert not recording.active
        facts = recording.facts
        assert facts.reason is Ended.NO_SPACE
        with pytest.raises(NoRoomToRecord, match="max_mb"):
            await full.start("call_1", ear)
        path = await full.file(facts.id)
        assert facts.size_bytes == 44 + 4 * read(path)[0]
        await full.delete(old.id)
        assert full.bytes == facts.size_bytes
        await full.start("call_1", ear)
    assert [kind for kind, _, _ in told] == [
        "recording.started",
        "recording.ended",
        "recording.started",
        "recording.ended",
    ]


async def test_what_is_too_old_is_deleted(tmp_path: Path, ear: Ear, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "SWEEP_S", 0.01)
    now = datetime.now(UTC)
    ages = {f"rec_{age:024}": timedelta(days=30, seconds=age - 60) for age in (0, 30, 90)}
    for id, age in ages.items():
        facts = Recorded(
            id=id, call_id="call_0", started_at=now - age, ended_at=now - age, reason=Ended.CALL_ENDED
        ).with_samples(10)
        (tmp_path / f"{id}.json").write_bytes(facts.serialise())
        (tmp_path / f"{id}.wav").write_bytes(wav_head(10) + bytes(40))
    young = list(ages)[:2]
    async with opened(tmp_path) as forever:
        assert forever.outdated(now + timedelta(days=10_000)) == []
    async with opened(tmp_path, keep_days=30) as kept:
        await until(lambda: len(kept.all()) == 2)
        assert sorted(facts.id for facts in kept.all()) == young
        assert kept.bytes == 2 * 84
        await kept.start("call_1", ear)
        # Of two that are kept, one is 60 s from its end, the other 30 s; what goes on has not begun to age.
        assert kept.outdated(now + timedelta(seconds=45)) == young[1:]
        assert kept.outdated(now + timedelta(seconds=75)) == young
        kept.stop("call_1")
    assert {name.partition(".")[0] for name in os.listdir(tmp_path)} > set(young)


async def test_a_disk_that_stands_still_ends_the_recording_and_holds_up_nobody(
    tmp_path: Path, ear: Ear, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "CHUNK", 800)
    monkeypatch.setattr("mediaserver.stereo.SETTLED", 800)
    monkeypatch.setattr(recorder, "MOST_WAITING", 2)
    monkeypatch.setattr(recorder, "PATIENCE_S", 0.05)
    stuck = threading.Event()
    try:
        async with opened(tmp_path) as slow:
            recording = await slow.start("call_1", ear)
            slow.submit(lambda: stuck.wait() and None, lambda error: None)
            await hears(ear, peer, 800)
            assert recording.facts.reason is Ended.FAILED
            with pytest.raises(NoRoomToRecord, match="does not answer"):
                await slow.start("call_2", ear)
            with pytest.raises(RecordingUnderWay, match="still being written"):
                await slow.file(recording.facts.id)
            stuck.set()
            await recording.closed.wait()
            samples, _ = read(await slow.file(recording.facts.id))
            assert recording.facts.size_bytes == 44 + 4 * samples
            assert [facts.id for facts in slow.all()] == [recording.facts.id], "the late one is no recording"
            again = await slow.start("call_2", ear)
    finally:
        stuck.set()
    assert {name.partition(".")[0] for name in os.listdir(tmp_path)} == {recording.facts.id, again.facts.id}


async def test_a_directory_that_goes_away_is_told_of(tmp_path: Path, ear: Ear) -> None:
    async with opened(tmp_path / "there") as there:
        recording = await there.start("call_1", ear)
        with pytest.raises(AlreadyRecording):
            await there.start("call_1", ear)
        there.stop("call_1")
        await recording.closed.wait()
        shutil.rmtree(tmp_path / "there")
        with pytest.raises(UnknownRecording):
            await there.file(recording.facts.id)
        assert (there.all(), there.bytes) == ([], 0)
        with pytest.raises(NoRoomToRecord, match="No such file"):
            await there.start("call_1", ear)
        with pytest.raises(UnknownRecording):
            there.stop("call_1")


async def test_a_directory_that_cannot_be_used_is_an_error_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="File exists") as error:
        async with opened(tmp_path / "file"):
            pass
    assert error.value.errno == errno.EEXIST


async def test_a_call_that_is_over_is_not_recorded(tmp_path: Path, ear: Ear) -> None:
    async with opened(tmp_path) as some:
        ear.close()
        ear._stream.close()
        with pytest.raises(rtp.StreamClosed):
            await some.start("call_1", ear)
        assert (some.all(), some.bytes) == ([], 0)
    assert os.listdir(tmp_path) == []


async def test_files_are_for_the_server_alone(tmp_path: Path, ear: Ear) -> None:
    async with opened(tmp_path / "deep" / "recordings") as some:
        await some.start("call_1", ear)
    directory = tmp_path / "deep" / "recordings"
    assert directory.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in directory.iterdir()} == {0o600}


async def test_two_recordings_and_a_listener_at_once_hear_the_same(
    tmp_path: Path, endpoint: rtp.Endpoint, ear: Ear, peer: Peer
) -> None:
    async with opened(tmp_path) as some:
        await some.start("call_1", ear)
        with ear.frames() as frames:
            await some.start("call_2", ear)  # another call's, as far as the recorder knows
            await hears(ear, peer, 400)
            heard = [frames._waiting[n].samples for n in range(15)]
        first, second = some.stop("call_1"), some.stop("call_2")
        paths = [await some.file(facts.id) for facts in (first, second)]
    assert mulaw_decode(SAID) in heard
    sounds = []
    for path in paths:
        with wave.open(str(path)) as file:
            sounds.append(file.readframes(file.getnframes()))
    one = bytes(mulaw_decode(SAID)[:2]) + b"\0\0"
    assert all(sound.count(one * 160 * 10) for sound in sounds)


async def test_a_recording_leaves_no_cycle_for_the_garbage_collector(
    tmp_path: Path, endpoint: rtp.Endpoint, peer: Peer
) -> None:
    async def recorded(some: Recorder) -> None:
        stream = endpoint.open(port=0)
        ear = Ear(stream)
        connect(stream, peer)
        stream.start()
        recording = await some.start("call_1", ear)
        await until(lambda: recording.facts.duration_ms)
        ear.close()
        stream.close()
        await stream.wait_closed()
        await recording.closed.wait()

    async with opened(tmp_path) as some:
        await recorded(some)
        gc.collect()
        gc.disable()
        try:
            await recorded(some)
            assert gc.collect() == 0
        finally:
            gc.enable()
        assert (some._live, some._calls) == ({}, {})
