"""The store of speakers: what goes in comes out, after a restart and beside another server too."""

from __future__ import annotations

import os
import sqlite3
import stat
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mediaserver.config import Config, ConfigError
from mediaserver.config import Store as Settings
from mediaserver.store import Recording, Speaker, Store, StoreError

ADA = Speaker(
    id="spk_0123456789abcdef01234567",
    name="Ada",
    consent="in writing",
    created_at=datetime(2026, 11, 25, 12, 0, tzinfo=UTC),
    duration_s=12.5,
    speech_s=10.0,
    level_db=-20.5,
)
BOB = replace(ADA, id="spk_b0b0b0b0b0b0b0b0b0b0b0b0", name="Bob", consent=None)
VOICE = Recording(samples=b"\x01\x02\x03\x04" * 100, rate_hz=24000)


async def test_a_speaker_is_there_after_a_restart(tmp_path: Path) -> None:
    async with Store.open(tmp_path / "new" / "store") as store:
        await store.keep(ADA, VOICE, {"a-1": b"\x00\xff"})
        assert await store.speaker(ADA.id) == ADA
    async with Store.open(tmp_path / "new" / "store") as store:
        assert await store.speakers() == [ADA]
        assert await store.recording(ADA.id) == VOICE
        assert await store.embedding(ADA.id, "a-1") == b"\x00\xff"
        assert await store.embedding(ADA.id, "a-2") is None
        assert await store.embedding(BOB.id, "a-1") is None


async def test_two_servers_may_share_a_store(tmp_path: Path) -> None:
    async with Store.open(tmp_path) as one, Store.open(tmp_path) as other:
        await one.keep(ADA, VOICE, {})
        await other.keep(BOB, VOICE, {"a-1": b"x"})
        assert await one.speakers() == await other.speakers() == [ADA, BOB]
        await other.delete(ADA.id)
        assert await one.speaker(ADA.id) is None


async def test_what_was_deleted_leaves_nothing_but_its_id_and_does_not_come_back(tmp_path: Path) -> None:
    async with Store.open(tmp_path) as store:
        await store.keep(ADA, VOICE, {"a-1": b"secret embedding"})
        await store.delete(ADA.id)
        assert await store.deleted() == {ADA.id}
        assert await store.embedding(ADA.id, "a-1") is None
        assert list((tmp_path / "speakers").iterdir()) == []
        await store.keep(ADA, VOICE, {})
        await store.keep_embedding(ADA.id, "a-1", b"again")
        assert await store.speakers() == []
        assert await store.embedding(ADA.id, "a-1") is None
    assert b"secret embedding" not in (tmp_path / "speakers.sqlite3").read_bytes()


async def test_only_a_later_version_replaces_what_is_known(tmp_path: Path) -> None:
    async with Store.open(tmp_path) as store:
        await store.keep(ADA, VOICE, {})
        third = replace(ADA, name="Countess", version=3)
        await store.update(third)
        await store.update(replace(ADA, name="late", version=2))
        assert await store.speaker(ADA.id) == third
        await store.update(BOB)
        assert await store.speakers() == [third]


async def test_voices_are_for_the_server_s_user_alone(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir(mode=0o755)
    for path in (tmp_path / "store", tmp_path / "shared"):
        async with Store.open(path) as store:
            await store.keep(ADA, VOICE, {})
            assert stat.S_IMODE((path / "speakers").stat().st_mode) == 0o700
            assert {stat.S_IMODE(file.stat().st_mode) for file in path.glob("speakers.sqlite3*")} == {0o600}
    assert stat.S_IMODE((tmp_path / "store").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "shared").stat().st_mode) == 0o755


async def test_a_store_of_a_later_version_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "speakers.sqlite3") as base:
        base.execute("PRAGMA user_version = 2")
    with pytest.raises(StoreError, match="written by a later version of the server"):
        await Store.open(tmp_path).__aenter__()


async def test_what_is_no_store_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "speakers.sqlite3").write_text("This is not a database, however long one looks at it.")
    with pytest.raises(StoreError, match=f"{tmp_path}: file is not a database"):
        await Store.open(tmp_path).__aenter__()
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="Not a directory"):
        await Store.open(tmp_path / "file" / "store").__aenter__()


async def test_a_recording_that_is_lost_is_an_error_of_the_store(tmp_path: Path) -> None:
    async with Store.open(tmp_path) as store:
        await store.keep(ADA, VOICE, {})
        (tmp_path / "speakers" / f"{ADA.id}.wav").write_bytes(b"RIFF")
        with pytest.raises(StoreError):
            await store.recording(ADA.id)
        (tmp_path / "speakers" / f"{ADA.id}.wav").unlink()
        with pytest.raises(StoreError, match="No such file"):
            await store.recording(ADA.id)


async def test_what_a_crash_left_behind_is_swept_up_once_it_is_old(tmp_path: Path) -> None:
    async with Store.open(tmp_path) as store:
        await store.keep(ADA, VOICE, {})
    names = (f"{ADA.id}.wav", f"{BOB.id}.77.new", f"{BOB.id}.wav", "somebody else's.wav")
    kept, old, new, foreign = (tmp_path / "speakers" / name for name in names)
    for file in (old, new, foreign):
        file.write_bytes(b"half")
    for file in (old, kept, foreign):
        os.utime(file, (time.time() - 7200,) * 2)
    async with Store.open(tmp_path):
        assert sorted((tmp_path / "speakers").iterdir()) == sorted([kept, new, foreign])


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"STATE_DIRECTORY": "/var/lib/mediaserver:/var/lib/other", "XDG_STATE_HOME": "/x"}, "/var/lib/mediaserver"),
        ({"XDG_STATE_HOME": "/home/ada/.state"}, "/home/ada/.state/mediaserver"),
        ({"XDG_STATE_HOME": "relative"}, "/home/ada/.local/state/mediaserver"),
        ({}, "/home/ada/.local/state/mediaserver"),
    ],
)
def test_the_store_has_its_place_where_the_system_wants_it(
    environ: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert Config().store.directory(environ) == Path(expected)
    assert Settings(path=Path("/named")).directory(environ) == Path("/named")


def test_without_any_place_the_key_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(ConfigError, match=r"store\.path: name a directory"):
        Config().store.directory({})
