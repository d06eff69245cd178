"""All speakers of a store in one file, and back: a tar archive that any tool can read.

    ID/record.json      name, consent, times and measures
    ID/recording.wav    what the speaker was enrolled with
    ID/embedding/KIND   what engines made of it
    deleted.json        ids of speakers that are not to come back

A server may run meanwhile: it shares its store with anybody who uses mediaserver/store.py.
"""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
import wave
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter

from mediaserver.store import Recording, Speaker, Store, StoreError, is_speaker

__all__ = ["BackupError", "back_up", "restore"]

SPEAKER = "spk_[0-9a-f]{24}"
NAME = re.compile(rf"deleted\.json|{SPEAKER}/(record\.json|recording\.wav|embedding/[\w.+-]{{1,100}})")
RECORD = TypeAdapter(Speaker)
LARGEST_PART_BYTES = 1 << 28


class BackupError(Exception):
    """The file cannot be written, or is no backup; the message says why."""


async def back_up(store: Store, file: Path, *, told: Callable[[Speaker], None] = lambda speaker: None) -> int:
    """Write all speakers to `file`, whole or not at all; returns how many. Raises BackupError, StoreError.

    told  gets each one as it is written
    """
    new = file.with_name(f"{file.name}.{os.getpid()}.new")
    speakers = await store.speakers()
    try:
        with (
            _blaming(file),
            os.fdopen(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as raw,
            tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            count = 0
            for speaker in speakers:
                try:
                    recording = await store.recording(speaker.id)
                except StoreError:
                    if await store.speaker(speaker.id) is None:
                        continue  # deleted meanwhile
                    raise
                _add(archive, f"{speaker.id}/record.json", RECORD.dump_json(speaker))
                _add(archive, f"{speaker.id}/recording.wav", _wav(recording))
                for kind, data in (await store.embeddings(speaker.id)).items():
                    _add(archive, f"{speaker.id}/embedding/{kind}", data)
                count += 1
                told(speaker)
            _add(archive, "deleted.json", json.dumps(sorted(await store.deleted())).encode())
            archive.close()
            raw.flush()
            os.fsync(raw.fileno())
            new.replace(file)
    finally:
        new.unlink(missing_ok=True)
    return count


async def restore(store: Store, file: Path, *, told: Callable[[Speaker], None] = lambda speaker: None) -> int:
    """Add the speakers of `file` that the store does not have; returns how many. Raises BackupError, StoreError.

    What the store knows of a speaker stays as it is, and who was deleted, here or there, stays deleted.

    told  gets each one as it is added
    """
    with _blaming(file), tarfile.open(file) as archive:
        members = _sorted_out(archive)
        for id in json.loads(_part(archive, members["deleted.json"])):
            if not is_speaker(id):
                raise BackupError(f"{file}: deleted.json names {id!r}")
            await store.delete(id)
        kept = {speaker.id for speaker in await store.speakers()} | await store.deleted()
        count = 0
        for id in sorted({name.partition("/")[0] for name in members if "/" in name} - kept):
            speaker = RECORD.validate_json(_part(archive, members[f"{id}/record.json"]))
            recording = _recording(_part(archive, members[f"{id}/recording.wav"]))
            prefix = f"{id}/embedding/"
            embeddings = {
                name.removeprefix(prefix): _part(archive, member)
                for name, member in members.items()
                if name.startswith(prefix)
            }
            await store.keep(replace(speaker, id=id), recording, embeddings)
            count += 1
            told(speaker)
    return count


def _sorted_out(archive: tarfile.TarFile) -> Mapping[str, tarfile.TarInfo]:
    """The parts by name. Raises BackupError for what is none, or too large."""
    members = {}
    for member in archive:
        if not (member.isfile() and NAME.fullmatch(member.name) and member.size <= LARGEST_PART_BYTES):
            raise BackupError(f"{member.name!r} is no part of a backup")
        members[member.name] = member
    return members


def _part(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    opened = archive.extractfile(member)
    assert opened is not None, "it is a file"
    return opened.read()


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), 0o600
    archive.addfile(member, io.BytesIO(data))


def _wav(recording: Recording) -> bytes:
    raw = io.BytesIO()
    with wave.open(raw, "wb") as opened:
        opened.setnchannels(1)
        opened.setsampwidth(2)
        opened.setframerate(recording.rate_hz)
        opened.writeframes(recording.samples)
    return raw.getvalue()


def _recording(data: bytes) -> Recording:
    with wave.open(io.BytesIO(data), "rb") as opened:
        return Recording(samples=opened.readframes(opened.getnframes()), rate_hz=opened.getframerate())


@contextmanager
def _blaming(file: Path) -> Iterator[None]:
    """Name the file that cannot be written, or is none of ours."""
    try:
        yield
    except OSError as error:
        raise BackupError(f"{file}: {error.strerror or error}") from error
    except KeyError as error:
        raise BackupError(f"{file}: {error.args[0]} is missing; is it a backup, and whole?") from error
    except (tarfile.TarError, wave.Error, EOFError, ValueError) as error:
        raise BackupError(f"{file}: it is no backup: {error}") from error
