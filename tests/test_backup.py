"""A backup of the speakers holds all of them, and brings back whoever is missing and nobody else."""

from __future__ import annotations

import asyncio
import io
import os
import stat
import tarfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from mediaserver.__main__ import main
from mediaserver.backup import BackupError, back_up, restore
from mediaserver.store import Store
from tests.test_mediaserver_store import ADA, BOB, VOICE


async def filled(path: Path) -> None:
    async with Store.open(path) as store:
        await store.keep(ADA, VOICE, {"espeak-profile-1": b"\x00\xff", "chatterbox-1": b"abc"})
        await store.keep(BOB, replace(VOICE, rate_hz=16000), {})


async def test_an_empty_store_becomes_the_one_that_was_backed_up(tmp_path: Path) -> None:
    await filled(tmp_path / "old")
    async with Store.open(tmp_path / "old") as store:
        assert await back_up(store, tmp_path / "b.tar") == 2
    async with Store.open(tmp_path / "new") as store:
        assert await restore(store, tmp_path / "b.tar") == 2
        assert await store.speakers() == [ADA, BOB]
        assert await store.recording(ADA.id) == VOICE
        assert await store.recording(BOB.id) == replace(VOICE, rate_hz=16000)
        assert await store.embeddings(ADA.id) == {"espeak-profile-1": b"\x00\xff", "chatterbox-1": b"abc"}
        assert await store.embeddings(BOB.id) == {}
        assert await restore(store, tmp_path / "b.tar") == 0, "once more adds nobody"
    assert stat.S_IMODE((tmp_path / "b.tar").stat().st_mode) == 0o600


async def test_what_is_known_stays_and_the_deleted_stay_deleted(tmp_path: Path) -> None:
    await filled(tmp_path / "s")
    async with Store.open(tmp_path / "s") as store:
        await back_up(store, tmp_path / "b.tar")
        await store.update(replace(ADA, name="Lovelace", version=2))
        await store.delete(BOB.id)
        assert await restore(store, tmp_path / "b.tar") == 0
        assert [speaker.name for speaker in await store.speakers()] == ["Lovelace"]


async def test_whoever_was_deleted_before_the_backup_does_not_come_from_elsewhere(tmp_path: Path) -> None:
    await filled(tmp_path / "one")
    await filled(tmp_path / "two")
    async with Store.open(tmp_path / "one") as one, Store.open(tmp_path / "two") as two:
        await one.delete(ADA.id)
        await back_up(one, tmp_path / "b.tar")
        assert await restore(two, tmp_path / "b.tar") == 0
        assert await two.speakers() == [BOB]


async def test_a_backup_that_cannot_be_written_leaves_the_former_one(tmp_path: Path) -> None:
    await filled(tmp_path / "s")
    file = tmp_path / "b.tar"
    file.write_bytes(b"former")
    (tmp_path / f"b.tar.{os.getpid()}.new").touch()
    async with Store.open(tmp_path / "s") as store:
        with pytest.raises(BackupError, match="File exists"):
            await back_up(store, file)
        with pytest.raises(BackupError, match="No such file"):
            await back_up(store, tmp_path / "nowhere" / "b.tar")
    assert file.read_bytes() == b"former"


def archive(parts: Mapping[str, bytes]) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as made:
        for name, data in parts.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            made.addfile(member, io.BytesIO(data))
    return raw.getvalue()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "it is no backup"),
        (b"text" * 1000, "it is no backup"),
        (archive({}), "deleted.json is missing"),
        (archive({"deleted.json": b"[]", "../../etc/passwd": b"x"}), "no part of a backup"),
        (archive({"deleted.json": b"[]", "/etc/passwd": b"x"}), "no part of a backup"),
        (archive({"deleted.json": b'["../x"]'}), "deleted.json names"),
        (archive({"deleted.json": b"{"}), "it is no backup"),
        (archive({"deleted.json": b"[]", f"{ADA.id}/recording.wav": b""}), "record.json is missing"),
        (archive({"deleted.json": b"[]", f"{ADA.id}/record.json": b"{}"}), "it is no backup"),
    ],
)
async def test_what_is_no_backup_changes_nothing(tmp_path: Path, data: bytes, why: str) -> None:
    file = tmp_path / "b.tar"
    file.write_bytes(data)
    async with Store.open(tmp_path / "s") as store:
        with pytest.raises(BackupError, match=why):
            await restore(store, file)
        assert await store.speakers() == []
        assert await store.deleted() == set()
    assert sorted(os.listdir(tmp_path)) == ["b.tar", "s"]


async def test_a_torn_backup_brings_back_what_is_whole_in_it(tmp_path: Path) -> None:
    await filled(tmp_path / "s")
    async with Store.open(tmp_path / "s") as store:
        await back_up(store, tmp_path / "b.tar")
    whole = (tmp_path / "b.tar").read_bytes()
    (tmp_path / "torn.tar").write_bytes(whole[: len(whole) // 2])
    async with Store.open(tmp_path / "new") as store:
        with pytest.raises(BackupError):
            await restore(store, tmp_path / "torn.tar")
        assert await store.speakers() == [], "deleted.json is last, and tells that it is whole"


def test_the_commands_back_up_and_restore(tmp_path: Path) -> None:
    asyncio.run(filled(tmp_path / "s"))

    def typed(*arguments: str, store: str) -> tuple[int, str]:
        result = CliRunner().invoke(
            main, ["speakers", *arguments], env={"MEDIASERVER_STORE__PATH": str(tmp_path / store)}
        )
        assert not isinstance(result.exception, Exception), result.exception
        return result.exit_code, result.output

    file = str(tmp_path / "b.tar")
    assert typed("backup", file, store="s") == (0, f"{file}: 2 speaker(s)\n")
    assert typed("restore", file, store="new") == (0, f"{file}: 2 speaker(s) restored\n")
    (tmp_path / "b.tar").write_bytes(b"x")
    code, output = typed("restore", file, store="new")
    assert code == 1
    assert "it is no backup" in output
