"""What the server remembers of its speakers: an SQLite database and their recordings beside it, in one directory.

    speakers.sqlite3     records, embeddings, and which speakers were deleted
    speakers/ID.wav      the recordings, as they were decoded

SQLite works in threads of its own, one that reads and one that writes, so that nobody waits for a disk's write who only
looks something up (write-ahead logging lets them pass one another). Several servers may share a directory: nothing is
remembered elsewhere, and every write is one transaction.
"""

from __future__ import annotations

import asyncio
import os
import re
import sqlite3
import time
import wave
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Concatenate, Final, ParamSpec, TypeVar

__all__ = ["Recording", "Speaker", "Store", "StoreError", "is_speaker"]

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS speaker (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    consent TEXT,
    created_at TEXT NOT NULL,
    version INTEGER NOT NULL,
    duration_s REAL NOT NULL,
    speech_s REAL NOT NULL,
    level_db REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS embedding (
    speaker TEXT NOT NULL REFERENCES speaker ON DELETE CASCADE,
    kind TEXT NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (speaker, kind)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS deleted (id TEXT PRIMARY KEY) WITHOUT ROWID;
"""
FORMAT: Final = 1
"""In PRAGMA user_version. A later server may raise it, and an earlier one refuses what it does not know."""

PATIENCE_S: Final = 5.0
"""So long a write waits for another server's."""

ORPHAN_S: Final = 3600.0
"""A recording without a record that is so old was left by a crash, not by an enrolment that is under way."""

ID: Final = re.compile(r"spk_[0-9a-f]{24}")
LEFT_BEHIND: Final = re.compile(ID.pattern + r"\.")

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def is_speaker(voice: str) -> bool:
    """Whether an id is a speaker's, and not one of the engine's voices. What is, may stand in a path or a header."""
    return ID.fullmatch(voice) is not None


class StoreError(Exception):
    """The store cannot be used, or cannot be written; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Speaker:
    """What is known of a speaker.

    consent     what was noted of the consent of who is heard
    version     counts the changes
    duration_s  of the recording, speech_s of the speech in it, whose level is level_db (below full scale)
    """

    id: str
    name: str
    consent: str | None
    created_at: datetime
    version: int = 1
    duration_s: float
    speech_s: float
    level_db: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """Signed 16-bit mono samples in native byte order."""

    samples: bytes
    rate_hz: int


COLUMNS: Final = tuple(Speaker.__dataclass_fields__)
SELECT: Final = f"SELECT {', '.join(COLUMNS)} FROM speaker"
INSERT: Final = f"INSERT OR REPLACE INTO speaker ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"


class Store:
    """The directory, open. Made by `Store.open`; all its methods raise StoreError."""

    def __init__(self, path: Path) -> None:
        self._recordings = path / "speakers"
        with _translated(path):
            # Voices are personal data. The directory itself may be somebody else's as well, and stays as it is.
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._recordings.mkdir(mode=0o700, exist_ok=True)
            os.close(os.open(path / "speakers.sqlite3", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
            self._writing = _connected(path / "speakers.sqlite3")
            if self._writing.execute("PRAGMA user_version").fetchone()[0] > FORMAT:
                raise StoreError(f"{path}: written by a later version of the server")
            self._writing.executescript(f"PRAGMA journal_mode = WAL; {SCHEMA} PRAGMA user_version = {FORMAT};")
            self._reading = _connected(path / "speakers.sqlite3")
            self._sweep()
        self._path = path
        self._writer = ThreadPoolExecutor(1, "store writer")
        self._reader = ThreadPoolExecutor(1, "store reader")

    @classmethod
    @asynccontextmanager
    async def open(cls, path: Path) -> AsyncIterator[Store]:
        """The store in the directory `path`, which is made if need be. Raises StoreError."""
        store = await asyncio.to_thread(cls, path)
        try:
            yield store
        finally:
            store._writer.shutdown()
            store._reader.shutdown()
            store._reading.close()
            store._writing.close()

    async def speakers(self) -> list[Speaker]:
        """All of them, in the order in which they were enrolled."""
        rows = await self._read(lambda base: base.execute(f"{SELECT} ORDER BY created_at, id").fetchall())
        return [_speaker(row) for row in rows]

    async def speaker(self, id: str) -> Speaker | None:
        row = await self._read(lambda base: base.execute(f"{SELECT} WHERE id = ?", (id,)).fetchone())
        return None if row is None else _speaker(row)

    async def deleted(self) -> set[str]:
        """The ids of speakers that there were."""
        return {id for (id,) in await self._read(lambda base: base.execute("SELECT id FROM deleted").fetchall())}

    async def embedding(self, id: str, kind: str) -> bytes | None:
        """A speaker's embedding of one kind, if there is one."""
        query = "SELECT data FROM embedding WHERE speaker = ? AND kind = ?"
        row = await self._read(lambda base: base.execute(query, (id, kind)).fetchone())
        return None if row is None else bytes(row[0])

    async def embeddings(self, id: str) -> dict[str, bytes]:
        """All embeddings of a speaker, by kind."""
        query = "SELECT kind, data FROM embedding WHERE speaker = ?"
        return {
            kind: bytes(data) for kind, data in await self._read(lambda base: base.execute(query, (id,)).fetchall())
        }

    async def recording(self, id: str) -> Recording:
        """A speaker's recording."""
        return await self._read(lambda _: _read_recording(self._file(id)))

    async def keep(self, speaker: Speaker, recording: Recording, embeddings: dict[str, bytes]) -> None:
        """Take a speaker in, in place of the one with its id; embeddings by kind. A deleted one stays deleted."""
        await self._write(self._keep, speaker, recording, embeddings)

    def _keep(
        self, base: sqlite3.Connection, speaker: Speaker, recording: Recording, embeddings: dict[str, bytes]
    ) -> None:
        if base.execute("SELECT 1 FROM deleted WHERE id = ?", (speaker.id,)).fetchone():
            return
        file = self._file(speaker.id)
        _write_recording(file, recording)
        try:
            base.execute(INSERT, tuple(_column(getattr(speaker, name)) for name in COLUMNS))
            base.executemany(
                "INSERT OR REPLACE INTO embedding VALUES (?, ?, ?)",
                [(speaker.id, kind, data) for kind, data in embeddings.items()],
            )
        except sqlite3.Error:
            file.unlink()
            raise

    async def keep_embedding(self, id: str, kind: str, embedding: bytes) -> None:
        """Add an embedding to a speaker; nothing when there is none (any more)."""
        query = "INSERT OR REPLACE INTO embedding SELECT id, ?, ? FROM speaker WHERE id = ?"
        await self._write(lambda base: base.execute(query, (kind, embedding, id)))

    async def update(self, speaker: Speaker) -> None:
        """Change what is known of a speaker, unless something later is known; nothing when there is none."""
        query = "UPDATE speaker SET name = ?, consent = ?, version = ? WHERE id = ? AND version < ?"
        values = (speaker.name, speaker.consent, speaker.version, speaker.id, speaker.version)
        await self._write(lambda base: base.execute(query, values))

    async def delete(self, id: str) -> None:
        """Delete a speaker and all that there is of it but its id, or see to it that it will not come."""
        await self._write(self._delete, id)

    def _delete(self, base: sqlite3.Connection, id: str) -> None:
        base.execute("DELETE FROM speaker WHERE id = ?", (id,))
        base.execute("INSERT OR IGNORE INTO deleted VALUES (?)", (id,))
        self._file(id).unlink(missing_ok=True)

    async def _read(self, query: Callable[[sqlite3.Connection], Result]) -> Result:
        def run() -> Result:
            with _translated(self._path):
                return query(self._reading)

        return await asyncio.get_running_loop().run_in_executor(self._reader, run)

    async def _write(
        self,
        change: Callable[Concatenate[sqlite3.Connection, Parameters], object],
        *arguments: Parameters.args,
        **options: Parameters.kwargs,
    ) -> None:
        def run() -> None:
            with _translated(self._path):
                self._writing.execute("BEGIN IMMEDIATE")
                try:
                    change(self._writing, *arguments, **options)
                    self._writing.execute("COMMIT")
                except BaseException:
                    with suppress(sqlite3.Error):
                        self._writing.execute("ROLLBACK")
                    raise

        # A client that leaves must not leave half a transaction.
        await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._writer, run))

    def _file(self, id: str) -> Path:
        return self._recordings / f"{id}.wav"

    def _sweep(self) -> None:
        known = {id for (id,) in self._writing.execute("SELECT id FROM speaker")}
        for file in self._recordings.iterdir():
            if (
                LEFT_BEHIND.match(file.name)
                and file.stem not in known
                and file.stat().st_mtime < time.time() - ORPHAN_S
            ):
                file.unlink(missing_ok=True)


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
    except (sqlite3.Error, wave.Error, EOFError) as error:
        raise StoreError(f"{path}: {error}") from error


def _connected(file: Path) -> sqlite3.Connection:
    base = sqlite3.connect(file, timeout=PATIENCE_S, isolation_level=None, check_same_thread=False)
    base.executescript("PRAGMA foreign_keys = ON; PRAGMA synchronous = FULL; PRAGMA secure_delete = ON;")
    return base


def _column(value: object) -> object:
    return value.isoformat() if isinstance(value, datetime) else value


def _speaker(row: tuple[object, ...]) -> Speaker:
    fields = dict(zip(COLUMNS, row, strict=True))
    fields["created_at"] = datetime.fromisoformat(str(fields["created_at"])).astimezone(UTC)
    return Speaker(**fields)  # type: ignore[arg-type]


def _read_recording(file: Path) -> Recording:
    with closing(wave.open(str(file), "rb")) as opened:
        return Recording(samples=opened.readframes(opened.getnframes()), rate_hz=opened.getframerate())


def _write_recording(file: Path, recording: Recording) -> None:
    """Whole or not at all, and on the disk when it returns."""
    new = file.with_suffix(f".{os.getpid()}.new")
    try:
        with new.open("wb") as raw:
            with wave.open(raw, "wb") as opened:
                opened.setnchannels(1)
                opened.setsampwidth(2)
                opened.setframerate(recording.rate_hz)
                opened.writeframes(recording.samples)
            raw.flush()
            os.fsync(raw.fileno())
        new.replace(file)
    except OSError:
        new.unlink(missing_ok=True)
        raise
