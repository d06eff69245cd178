"""Calls are recorded: who asks for it, what is kept, and how much of it.

    ID.wav    16-bit, 8 kHz, the peer left and we right; its head is right again after each second that is written
    ID.json   what is known of it

Everything that touches the disk is done by one thread, in order. A disk that is full or too slow ends recordings, and
nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Final, Self, TypeVar

import structlog

import rtp
from mediaserver import config
from mediaserver.ear import Ear, Listening
from mediaserver.metrics import Metrics
from mediaserver.stereo import HEAD_BYTES, RATE_HZ, SAMPLE_BYTES, Sides, Stereo, wav_head

__all__ = [
    "AlreadyRecording",
    "Ended",
    "NoRoomToRecord",
    "Recorded",
    "Recorder",
    "Recording",
    "RecordingError",
    "RecordingOff",
    "RecordingUnderWay",
    "UnknownRecording",
]

log = structlog.get_logger("recorder")

ID: Final = re.compile(r"rec_[0-9a-f]{24}")
NS_PER_S: Final = 1_000_000_000

CHUNK: Final = RATE_HZ
"""Samples that are written at a time."""

MOST_WAITING: Final = 30
"""Chunks of a recording that wait for the disk."""

PATIENCE_S: Final = 5.0
"""For a disk to begin a file, or to finish one."""

SWEEP_S: Final = 60.0
"""How often it is looked for what is too old."""

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


Result = TypeVar("Result")


class RecordingError(Exception):
    """Base of what goes wrong with recordings; the message says what."""


class RecordingOff(RecordingError):
    """The configuration does not allow it."""


class AlreadyRecording(RecordingError):
    """One call is recorded once at a time."""


class NoRoomToRecord(RecordingError):
    """The disk, or what may be taken of it, is full, or it does not answer."""


class UnknownRecording(RecordingError):
    """There is none of this id."""


class RecordingUnderWay(RecordingError):
    """It has not ended, or the disk is not done with it."""


class Ended(Enum):
    """Why a recording has ended."""

    STOPPED = "stopped"
    CALL_ENDED = "call_ended"
    MAX_DURATION = "max_duration"
    NO_SPACE = "no_space"
    FAILED = "failed"
    INTERRUPTED = "interrupted"  # the server died


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What is known of a recording; `ended_at` and `reason` are None while it goes on."""

    id: str
    call_id: str
    started_at: datetime
    ended_at: datetime | None = None
    reason: Ended | None = None
    duration_ms: int = 0
    size_bytes: int = HEAD_BYTES

    def with_samples(self, samples: int) -> Recorded:
        return replace(self, duration_ms=samples * 1000 // RATE_HZ, size_bytes=HEAD_BYTES + SAMPLE_BYTES * samples)

    def serialise(self) -> bytes:
        facts = dataclasses.asdict(self)
        for name in ("started_at", "ended_at"):
            facts[name] = facts[name] and facts[name].isoformat()
        return json.dumps(facts | {"reason": self.reason and self.reason.value}).encode()

    @classmethod
    def parse(cls, data: bytes) -> Recorded:
        """Raises ValueError for what `serialise` did not make."""
        try:
            facts = json.loads(data)
            for name in ("started_at", "ended_at"):
                facts[name] = facts[name] and datetime.fromisoformat(facts[name])
            facts["reason"] = facts["reason"] and Ended(facts["reason"])
            return cls(**facts)
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"it is no description of a recording: {error}") from error


class _File:
    """A recording on the disk. All of it is the disk's thread's, but for what is read when an error is told.

    samples  that are in the file, and that its head tells of
    error    after which nothing is written any more
    """

    def __init__(self, directory: Path, facts: Recorded, *, min_free: int) -> None:
        self.samples = 0
        self.error: OSError | None = None
        self._directory = directory
        self._facts = facts
        self._min_free = min_free
        self._descriptor = -1

    @property
    def there(self) -> bool:
        """Whether there is such a file."""
        return self._descriptor >= 0

    def begin(self) -> None:
        """Raises OSError, and then there is none."""
        path = _wav(self._directory, self._facts.id)
        try:
            self._descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
            # Whoever starts in this directory is to leave it alone.
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._check_room(HEAD_BYTES)
            os.pwrite(self._descriptor, wav_head(0), 0)
            _describe(self._directory, self._facts)
        except OSError as error:
            self.error = error
            self.remove()
            raise

    def append(self, sides: Sides) -> None:
        """Raises OSError, after which what could not be written is left out, and all that follows."""
        if self.error is not None:
            return
        data = memoryview(sides.interleaved())
        at = end = HEAD_BYTES + SAMPLE_BYTES * self.samples
        try:
            self._check_room(len(data))
            while data:
                written = os.pwrite(self._descriptor, data, end)
                data, end = data[written:], end + written
        except OSError as error:
            self.error = error
            raise
        finally:
            self.samples += (end - at) // SAMPLE_BYTES
            with contextlib.suppress(OSError):
                if self.error is not None:
                    os.ftruncate(self._descriptor, HEAD_BYTES + SAMPLE_BYTES * self.samples)
                os.pwrite(self._descriptor, wav_head(self.samples), 0)

    def close(self, facts: Recorded) -> None:
        """It is complete. Raises OSError."""
        if not self.there:
            return
        try:
            _describe(self._directory, facts)
            os.fsync(self._descriptor)
        finally:
            os.close(self._descriptor)

    def remove(self) -> None:
        """There is to be no such recording. Raises OSError."""
        if self.there:
            os.close(self._descriptor)
            self._descriptor = -1
            _remove(self._directory, self._facts.id)

    def _check_room(self, size: int) -> None:
        room = os.fstatvfs(self._descriptor)
        if room.f_bavail * room.f_frsize - size < self._min_free:
            raise OSError(errno.ENOSPC, "less would be free than recordings.min_free_mb")


class Recording:
    """One recording of a call, from its beginning on.

    opened  the disk has taken it, or not: then it has ended, and `error` says why
    closed  the disk is done with it
    """

    def __init__(self, facts: Recorded, ear: Ear, recorder: Recorder, file: _File, *, most: int) -> None:
        """Raises rtp.StreamClosed when the call is over."""
        self._facts = facts
        self._recorder = recorder
        self._file = file
        self._waiting = 0
        self._counted = HEAD_BYTES
        self._stereo = Stereo(began_ns=time.monotonic_ns(), most=most)
        self.opened, self.closed = asyncio.Event(), asyncio.Event()
        self._listening: Listening | None = ear.listen(
            self._hear, said=self._stereo.say, over=lambda: self.end(Ended.CALL_ENDED)
        )
        recorder.submit(file.begin, self._begin)

    @property
    def facts(self) -> Recorded:
        """What is known of it now."""
        return self._facts if self._listening is None else self._facts.with_samples(self._stereo.samples)

    @property
    def active(self) -> bool:
        """Whether it goes on."""
        return self._listening is not None

    @property
    def error(self) -> OSError | None:
        """What the disk had against it."""
        return self._file.error

    def end(self, reason: Ended, *, keep: bool = True) -> None:
        """Nothing is added any more, or nothing is even kept. Idempotent; the first reason counts."""
        if self._listening is None:
            return
        self._listening.close()
        self._listening = None
        lost = self._file.error is not None
        self._facts = replace(
            self._facts.with_samples(self._file.samples if lost else self._stereo.samples),
            ended_at=datetime.now(UTC),
            reason=reason,
        )
        self._write(self._stereo.finish())
        self._recorder.submit(lambda: self._file.close(self._settled()) if keep else self._file.remove(), self._close)
        self._recorder.ended(self._facts)

    def _begin(self, error: OSError | None) -> None:
        self._fail(error)
        self.opened.set()

    def _hear(self, frame: rtp.Frame) -> None:
        self._stereo.hear(frame)
        if self._stereo.full:
            self.end(Ended.MAX_DURATION)
        elif self._stereo.settled >= CHUNK:
            if self._waiting >= MOST_WAITING:
                log.error("the disk is too slow for a recording", recording=self._facts.id)
                self.end(Ended.FAILED)
            elif not self._recorder.room:
                log.error("a recording ends: recordings.max_mb are taken", recording=self._facts.id)
                self.end(Ended.NO_SPACE)
            else:
                self._write(self._stereo.take())

    def _write(self, sides: Sides) -> None:
        self._waiting += 1
        size = SAMPLE_BYTES * len(sides.ours) // 2
        self._counted += size
        self._recorder.bytes += size
        self._recorder.submit(lambda: self._file.append(sides), self._written)

    def _written(self, error: OSError | None) -> None:
        self._waiting -= 1
        self._fail(error)

    def _fail(self, error: OSError | None) -> None:
        if error is not None:
            log.error("a recording cannot be written", recording=self._facts.id, error=str(error))
            self.end(Ended.NO_SPACE if error.errno in FULL else Ended.FAILED)

    def _settled(self) -> Recorded:
        """What is known once all is written that could be."""
        if (error := self._file.error) is None:
            return self._facts
        reason = Ended.NO_SPACE if error.errno in FULL else Ended.FAILED
        return replace(self._facts.with_samples(self._file.samples), reason=reason)

    def _close(self, error: OSError | None) -> None:
        if error is not None:
            log.error("a recording may not last", recording=self._facts.id, error=str(error))
        self._facts = self._settled()
        self._recorder.closed(self._facts, counted=self._counted, kept=self._file.there)
        self.closed.set()


class Recorder:
    """All recordings: those that are under way, and those that are kept. Belongs to one event loop.

    publish  is told what has happened: kind, id of the call, facts
    bytes    how much they take
    """

    def __init__(
        self,
        settings: config.Recordings,
        directory: Path,
        metrics: Metrics,
        publish: Callable[[str, str, Mapping[str, object]], None],
        kept: Mapping[str, Recorded],
        disk: ThreadPoolExecutor,
    ) -> None:
        self._settings = settings
        self._directory = directory
        self._metrics = metrics
        for reason in Ended:
            metrics.recordings.labels(reason.value)  # what was never there does not increase, as Prometheus sees it
        self._publish = publish
        self._disk = disk
        self._kept = dict(kept)
        self._live: dict[str, Recording] = {}
        self._calls: dict[str, Recording] = {}  # that are recorded now
        self.bytes = sum(facts.size_bytes for facts in kept.values())

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        settings: config.Recordings,
        directory: Path,
        metrics: Metrics,
        publish: Callable[[str, str, Mapping[str, object]], None],
    ) -> AsyncIterator[Self]:
        """Find what is in the directory, and repair what a server left there that died. At its end all is written.

        Raises OSError when the directory cannot be used, though it is to be.
        """
        disk = ThreadPoolExecutor(1, thread_name_prefix="recorder")
        try:
            kept = await asyncio.get_running_loop().run_in_executor(disk, _find, directory, settings.enabled)
            recorder = cls(settings, directory, metrics, publish, kept, disk)
            metrics.recordings_bytes.set_function(lambda: recorder.bytes)
            sweeping = asyncio.create_task(recorder._sweep())
            try:
                yield recorder
            finally:
                sweeping.cancel()
                await asyncio.wait([sweeping])
                for recording in list(recorder._live.values()):
                    recording.end(Ended.CALL_ENDED)
        finally:
            await asyncio.to_thread(disk.shutdown)

    @property
    def room(self) -> bool:
        """Whether more may be written."""
        return self.bytes < self._settings.max_mb * 1_000_000

    def begin(self, call_id: str, ear: Ear, *, max_s: float | None = None) -> Recording:
        """Record a call from now on; `max_s` is at most what the configuration allows.

        Raises RecordingOff, AlreadyRecording, NoRoomToRecord, and rtp.StreamClosed when the call is over. Whether the
        disk has room is known when the recording is `opened`.
        """
        settings = self._settings
        if not settings.enabled:
            raise RecordingOff("calls are not recorded here: set recordings.enabled")
        if call_id in self._calls:
            raise AlreadyRecording("the call is being recorded already")
        if not self.room:
            raise NoRoomToRecord("recordings take as much as they may (recordings.max_mb): delete some")
        most = round(min(max_s or settings.max_s, settings.max_s) * RATE_HZ)
        facts = Recorded(id=f"rec_{secrets.token_hex(12)}", call_id=call_id, started_at=datetime.now(UTC))
        file = _File(self._directory, facts, min_free=settings.min_free_mb * 1_000_000)
        recording = Recording(facts, ear, self, file, most=most)
        self._calls[call_id] = self._live[facts.id] = recording
        self.bytes += HEAD_BYTES
        self._metrics.recordings_active.inc()
        self._publish("recording.started", call_id, {"id": facts.id})
        return recording

    async def start(self, call_id: str, ear: Ear, *, max_s: float | None = None) -> Recording:
        """As `begin`, and wait until the disk has taken it; if it does not, nothing is kept."""
        recording = self.begin(call_id, ear, max_s=max_s)
        try:
            async with asyncio.timeout(PATIENCE_S):
                await recording.opened.wait()
        except TimeoutError:
            recording.end(Ended.FAILED, keep=False)
            raise NoRoomToRecord("the disk does not answer") from None
        except asyncio.CancelledError:
            recording.end(Ended.STOPPED, keep=False)
            raise
        if recording.error is not None:
            raise NoRoomToRecord(f"the disk does not take it: {recording.error.strerror}")
        return recording

    def stop(self, call_id: str) -> Recorded:
        """End the recording of a call. Raises UnknownRecording when there is none under way."""
        recording = self._calls.get(call_id)
        if recording is None:
            raise UnknownRecording("the call is not being recorded")
        recording.end(Ended.STOPPED)
        return recording.facts

    def all(self) -> list[Recorded]:
        """What is known of all recordings, in the order in which they began."""
        found = [*self._kept.values(), *(recording.facts for recording in self._live.values())]
        return sorted(found, key=lambda facts: facts.started_at)

    def find(self, id: str) -> Recorded:
        """Raises UnknownRecording."""
        if (recording := self._live.get(id)) is not None:
            return recording.facts
        if (facts := self._kept.get(id)) is None:
            raise UnknownRecording(f"there is no recording {id!r}")
        return facts

    async def file(self, id: str) -> Path:
        """The file of a recording that has ended. Raises UnknownRecording, RecordingUnderWay."""
        await self._end_of(id)
        path = _wav(self._directory, id)
        if not await self._done(path.exists):
            self._forget(id)  # somebody has cleared the directory up
            raise UnknownRecording(f"there is no recording {id!r} any more")
        return path

    async def delete(self, id: str) -> None:
        """Raises UnknownRecording, RecordingUnderWay."""
        await self._end_of(id)
        self._forget(id)
        await self._done(lambda: _remove(self._directory, id))

    def outdated(self, now: datetime) -> list[str]:
        """The ids of those that have been kept for as long as they may be."""
        days = self._settings.keep_days
        if not days:
            return []
        before = now - timedelta(days=days)
        return [id for id, facts in self._kept.items() if facts.ended_at is not None and facts.ended_at < before]

    async def _sweep(self) -> None:
        """Delete what is too old, until cancelled."""
        while True:
            for id in self.outdated(datetime.now(UTC)):
                try:
                    await self.delete(id)
                except UnknownRecording:
                    continue  # somebody was quicker
                except NoRoomToRecord as error:
                    log.error("a recording that is too old cannot be deleted", recording=id, error=str(error))
                else:
                    log.info("a recording is deleted: recordings.keep_days are over", recording=id)
            await asyncio.sleep(SWEEP_S)

    async def _end_of(self, id: str) -> None:
        """Wait a little until the disk is done with a recording."""
        recording = self._live.get(id)
        if recording is None:
            self.find(id)
            return
        if recording.active:
            raise RecordingUnderWay("the recording has not ended: stop it first")
        try:
            async with asyncio.timeout(PATIENCE_S):
                await recording.closed.wait()
        except TimeoutError:
            raise RecordingUnderWay("the recording is still being written") from None

    def _forget(self, id: str) -> None:
        facts = self._kept.pop(id, None)
        if facts is not None:
            self.bytes -= facts.size_bytes

    async def _done(self, job: Callable[[], Result]) -> Result:
        """What the disk's thread makes of it. Raises NoRoomToRecord when that cannot be had."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await asyncio.get_running_loop().run_in_executor(self._disk, job)
        except TimeoutError:
            raise NoRoomToRecord("the disk does not answer") from None
        except OSError as error:
            raise NoRoomToRecord(f"the disk does not take it: {error.strerror}") from error

    # What a recording calls.

    def submit(self, job: Callable[[], None], then: Callable[[OSError | None], None]) -> None:
        """Have the disk's thread do something after all else, and `then` be told, in the loop, how that went."""
        loop = asyncio.get_running_loop()

        def run() -> None:
            error = None
            try:
                job()
            except OSError as caught:
                error = caught
            loop.call_soon_threadsafe(then, error)

        self._disk.submit(run)

    def ended(self, facts: Recorded) -> None:
        """Nothing is added to it any more."""
        assert facts.reason is not None, "it has ended"
        del self._calls[facts.call_id]
        self._metrics.recordings_active.dec()
        self._metrics.recordings.labels(facts.reason.value).inc()
        told = {"id": facts.id, "reason": facts.reason.value, "duration_ms": facts.duration_ms}
        self._publish("recording.ended", facts.call_id, told)

    def closed(self, facts: Recorded, *, counted: int, kept: bool) -> None:
        """The disk is done with it; `counted` are the bytes that it was taken to need."""
        del self._live[facts.id]
        self.bytes -= counted
        if kept:
            self._kept[facts.id] = facts
            self.bytes += facts.size_bytes


def _wav(directory: Path, id: str) -> Path:
    return directory / f"{id}.wav"


def _describe(directory: Path, facts: Recorded) -> None:
    """Write down what is known of a recording: all of it, or nothing."""
    path = directory / f"{facts.id}.json"
    fresh = path.with_suffix(".new")
    fresh.touch(mode=0o600)
    fresh.write_bytes(facts.serialise())
    fresh.replace(path)


def _remove(directory: Path, id: str) -> None:
    for suffix in (".wav", ".json", ".new"):
        (directory / f"{id}{suffix}").unlink(missing_ok=True)


def _find(directory: Path, make: bool) -> dict[str, Recorded]:
    """What is in the directory."""
    if make:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(directory, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "the directory is not ours to write in", str(directory))
    found = {}
    for path in sorted(directory.glob("rec_*.json")):
        if not ID.fullmatch(path.stem):
            continue
        try:
            facts = Recorded.parse(path.read_bytes())
            if facts.id != path.stem:
                raise ValueError("it describes another one")
            found[facts.id] = facts if facts.reason is not None else _repaired(directory, facts)
        except BlockingIOError:
            log.info("a recording is another server's", recording=path.stem)
        except (OSError, ValueError) as error:
            log.warning("a recording is left alone", recording=path.stem, error=str(error))
    return found


def _repaired(directory: Path, facts: Recorded) -> Recorded:
    """Make whole what a server left behind that died. Raises OSError: BlockingIOError if one is still at work on it."""
    descriptor = os.open(_wav(directory, facts.id), os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        seen = os.fstat(descriptor)
        samples = max(0, seen.st_size - HEAD_BYTES) // SAMPLE_BYTES
        os.ftruncate(descriptor, HEAD_BYTES + SAMPLE_BYTES * samples)
        os.pwrite(descriptor, wav_head(samples), 0)
        ended_at = datetime.fromtimestamp(seen.st_mtime, UTC)
        repaired = replace(facts.with_samples(samples), ended_at=ended_at, reason=Ended.INTERRUPTED)
        _describe(directory, repaired)
    finally:
        os.close(descriptor)
    log.warning("a recording was cut off by the end of its server", recording=facts.id, ms=repaired.duration_ms)
    return repaired
