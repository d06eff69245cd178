"""Speech that was made once and is kept: in memory, on the disk, and in Redis, if there is one, for other servers.

What is kept is samples, by all that makes them what they are: the utterance, rate and speaker's embedding included, the
engine with its version, and the engine's configuration. G.711 and WAV are made of samples in no time.

A text that is asked for while it is being made is not made twice: whoever comes later is given what there is and what
comes, at the pace of whoever listens fastest. The last one who leaves stops the engine.

    cache/TAG/KEY    SHA-256 of the samples (32 bytes), then the samples

TAG is of the speaker's embedding, so that what was said in a voice goes with its speaker. Several servers may share a
directory: whenever one has written a tenth of the budget, it looks at what there is, and deletes what was not used for
longest.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
import os
import re
import secrets
import shutil
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

import engines
import rtp
from mediaserver import config
from mediaserver.metrics import Metrics
from mediaserver.shared import Shared, Unreachable

__all__ = ["Kept", "Key", "Prompts"]

log = structlog.get_logger("prompts")

DIGEST_BYTES: Final = 32
SHARED_PATIENCE_S: Final = 0.1
"""Redis is to answer a lookup by then; a call waits for it."""

MOST_SHARED_BYTES: Final = 4 * 1024 * 1024
"""One utterance in Redis; larger ones would hold up everybody else's."""

SWEEP_TO: Final = 0.9
"""Of the disk's budget is what a sweep leaves, so that it need not come again soon."""

LARGEST_SHARE: Final = 0.25
"""Of the larger budget is what one utterance may take."""

OURS: Final = re.compile(r"[0-9a-f]{64}|\.[0-9a-f]{16}\.new")

MOST_WRITES: Final = 64
"""So many utterances may wait for the disk. More are kept in memory alone."""


@dataclass(frozen=True, slots=True)
class Kept(engines.Pcm):
    """Speech that nobody had to synthesise for whoever asked."""


@dataclass(frozen=True, slots=True)
class Key:
    """What an utterance is kept by; `tag` is that of its speaker."""

    digest: str
    tag: str


@dataclass(slots=True)
class _Entry:
    samples: bytes
    tag: str
    clip: rtp.Clip | None = None

    @property
    def size(self) -> int:
        # A clip has every sample once more in each law, in one byte.
        return len(self.samples) * (1 if self.clip is None else 2)


class _Take:
    """An utterance that is being made, and all who listen to it.

    limit_bytes  up to which all of it is held; from then on nobody may join
    """

    def __init__(self, source: AsyncGenerator[engines.Pcm, None], limit_bytes: int) -> None:
        self.listeners = 0
        self.complete = False
        self._source = source
        self._limit_bytes = limit_bytes
        self._chunks: list[engines.Pcm] = []
        self._size = 0
        self._pull: asyncio.Task[None] | None = None
        self._failure: Exception | None = None

    @property
    def whole(self) -> bool:
        """Whether all that was made of it is held, so that who comes now hears it from its beginning."""
        return self._size <= self._limit_bytes and self._failure is None

    @property
    def genuine(self) -> bool:
        """Whether the engine that was asked has made it."""
        return not any(isinstance(chunk, engines.Substitute) for chunk in self._chunks)

    @property
    def samples(self) -> bytes:
        return b"".join(chunk.samples for chunk in self._chunks)

    async def listen(self) -> AsyncGenerator[engines.Pcm, None]:
        """All of it. Raises what the engine raises."""
        self.listeners += 1
        position = 0
        try:
            while True:
                while position < len(self._chunks):
                    chunk = self._chunks[position]
                    if not self.whole and self.listeners == 1:
                        self._chunks[position] = engines.Pcm(b"", chunk.rate_hz)  # nobody else will want it
                    position += 1
                    yield chunk
                if self.complete:
                    return
                if self._failure is not None:
                    raise self._failure
                if self._pull is None or self._pull.done():
                    self._pull = asyncio.create_task(self._advance())
                # Who is cancelled here leaves the pull to the others.
                await asyncio.wait([self._pull])
        finally:
            self.listeners -= 1
            if not self.listeners:
                await self._close()

    async def _advance(self) -> None:
        try:
            chunk = await anext(self._source, None)
        except Exception as error:  # the boundary of a task: every listener is to have it
            self._failure = error
            return
        if chunk is None:
            self.complete = True
        else:
            self._chunks.append(chunk)
            self._size += len(chunk.samples)

    async def _close(self) -> None:
        if self._pull is not None:
            self._pull.cancel()
            await asyncio.gather(self._pull, return_exceptions=True)
        await self._source.aclose()


class Prompts:
    """What is kept. Made by `Prompts.open`.

    directory  for the disk; made when first needed
    salt       whatever else decides how an utterance sounds on this server
    """

    def __init__(
        self, settings: config.Cache, metrics: Metrics, *, directory: Path, shared: Shared | None, salt: str
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._directory = directory
        self._shared = shared if settings.redis_ttl_s else None
        self._salt = salt
        self._memory_bytes = settings.memory_mb * 1024 * 1024
        self._disk_bytes = settings.disk_mb * 1024 * 1024
        self._memory: OrderedDict[str, _Entry] = OrderedDict()
        self._memory_used = 0
        self._takes: dict[str, _Take] = {}
        self._writes: set[asyncio.Task[None]] = set()
        self._unswept_bytes = self._disk_bytes  # a first write looks at what there is
        self._sweeping = asyncio.Lock()

    @classmethod
    @asynccontextmanager
    async def open(
        cls, settings: config.Cache, metrics: Metrics, *, directory: Path, shared: Shared | None, salt: str
    ) -> AsyncIterator[Prompts]:
        prompts = cls(settings, metrics, directory=directory, shared=shared, salt=salt)
        try:
            yield prompts
        finally:
            await asyncio.gather(*prompts._writes)

    @property
    def keeping(self) -> bool:
        """Whether anything is kept at all."""
        return bool(self._memory_bytes or self._disk_bytes)

    @property
    def largest_bytes(self) -> int:
        """Samples of one utterance that may be kept."""
        return round(max(self._memory_bytes, self._disk_bytes) * LARGEST_SHARE)

    def holds(self, key: Key) -> bool:
        """Whether speech that was made or found a moment ago is kept. Never blocks."""
        return key.digest in self._memory or (bool(self._disk_bytes) and self._file(key).exists())

    def key(self, utterance: engines.Utterance, engine: engines.Engine) -> Key:
        """By what an utterance is kept, whose speaker was looked up."""
        speaker = hashlib.sha256(utterance.embedding).hexdigest() if utterance.embedding else ""
        facts = dataclasses.asdict(utterance) | {"embedding": speaker}
        whole = json.dumps([engine.name, engine.version, self._salt, facts], sort_keys=True)
        return Key(hashlib.sha256(whole.encode()).hexdigest(), speaker[:32] or "voices")

    async def said(
        self, key: Key, rate_hz: int, make: Callable[[], AsyncGenerator[engines.Pcm, None]], *, looked_up: bool = False
    ) -> AsyncGenerator[engines.Pcm, None]:
        """The utterance: `Kept`, or as `make` makes it, and kept then.

        looked_up  it is known not to be kept
        """
        if not self.keeping:
            async with aclosing(make()) as chunks:
                async for chunk in chunks:
                    yield chunk
            return
        samples = None if looked_up else await self.find(key)
        if samples is not None:
            yield Kept(samples, rate_hz)
            return
        take = self._takes.get(key.digest)
        joined = take is not None and take.whole
        if take is None or not joined:
            take = self._takes[key.digest] = _Take(make(), self.largest_bytes)
        self._metrics.cache_lookups.labels("joined" if joined else "miss").inc()
        try:
            async with aclosing(take.listen()) as chunks:
                async for chunk in chunks:
                    yield Kept(chunk.samples, rate_hz) if joined else chunk
        finally:
            if self._takes.get(key.digest) is take and (take.complete or not take.listeners):
                del self._takes[key.digest]
                if take.complete and take.whole and take.genuine:
                    self._keep(key, take.samples)

    async def clip(self, key: Key, rate_hz: int) -> rtp.Clip | None:
        """The utterance for calls, if it is kept."""
        samples = await self.find(key)
        if samples is None:
            return None
        entry = self._memory.get(key.digest)
        if entry is not None and entry.clip is not None:
            return entry.clip
        clip = await asyncio.to_thread(rtp.Clip, samples, rate_hz)
        entry = self._memory.get(key.digest)
        if entry is not None and entry.clip is None:
            before = entry.size
            entry.clip = clip
            self._occupy(entry.size - before)
        return clip

    async def find(self, key: Key) -> bytes | None:
        """The samples, if they are kept anywhere."""
        entry = self._memory.get(key.digest)
        if entry is not None:
            self._memory.move_to_end(key.digest)
            self._metrics.cache_lookups.labels("memory").inc()
            return entry.samples
        if self._disk_bytes:
            samples = await asyncio.to_thread(_read, self._file(key))
            if samples is not None:
                self._metrics.cache_lookups.labels("disk").inc()
                self._remember(key, samples)
                return samples
        if self._shared is not None and self._shared.reachable:
            with suppress(Unreachable, TimeoutError):
                async with asyncio.timeout(SHARED_PATIENCE_S):
                    samples = await self._shared.speech(key.digest)
                if samples is not None:
                    self._metrics.cache_lookups.labels("redis").inc()
                    self._remember(key, samples)
                    self._write_later(key, samples, share=False)
                    return samples
        return None

    async def forget(self, embedding: bytes) -> None:
        """Delete what was said in a speaker's voice, here; in Redis whoever deletes the speaker does so."""
        tag = hashlib.sha256(embedding).hexdigest()[:32]
        await asyncio.gather(*self._writes)
        for digest in [digest for digest, entry in self._memory.items() if entry.tag == tag]:
            self._occupy(-self._memory.pop(digest).size)
        await asyncio.to_thread(shutil.rmtree, self._directory / tag, ignore_errors=True)
        if self._shared is not None:
            with suppress(Unreachable):
                await self._shared.forget_speech(tag)

    def _keep(self, key: Key, samples: bytes) -> None:
        if samples:
            self._remember(key, samples)
            self._write_later(key, samples, share=True)

    def _remember(self, key: Key, samples: bytes) -> None:
        if len(samples) <= self._memory_bytes * LARGEST_SHARE and key.digest not in self._memory:
            self._memory[key.digest] = _Entry(samples, key.tag)
            self._occupy(len(samples))

    def _occupy(self, more_bytes: int) -> None:
        self._memory_used += more_bytes
        while self._memory_used > self._memory_bytes:
            _, entry = self._memory.popitem(last=False)
            self._memory_used -= entry.size
        self._metrics.cache_bytes.labels("memory").set(self._memory_used)

    def _write_later(self, key: Key, samples: bytes, *, share: bool) -> None:
        if len(self._writes) < MOST_WRITES:
            task = asyncio.create_task(self._write(key, samples, share=share))
            self._writes.add(task)
            task.add_done_callback(self._writes.discard)

    async def _write(self, key: Key, samples: bytes, *, share: bool) -> None:
        if share and self._shared is not None and len(samples) <= MOST_SHARED_BYTES:
            with suppress(Unreachable):
                await self._shared.keep_speech(key.digest, key.tag, samples, ttl_s=self._settings.redis_ttl_s)
        if len(samples) > self._disk_bytes * LARGEST_SHARE:
            return
        try:
            await asyncio.to_thread(_write, self._file(key), samples)
            self._unswept_bytes += len(samples) + DIGEST_BYTES
            async with self._sweeping:
                if self._unswept_bytes > self._disk_bytes * (1 - SWEEP_TO):
                    self._unswept_bytes = 0
                    left = await asyncio.to_thread(_sweep, self._directory, self._disk_bytes)
                    self._metrics.cache_bytes.labels("disk").set(left)
        except OSError as error:
            log.warning("speech cannot be kept on the disk", error=error.strerror)

    def _file(self, key: Key) -> Path:
        return self._directory / key.tag / key.digest


def _read(file: Path) -> bytes | None:
    """The samples in a file; None when there is none, or a broken one, which goes."""
    try:
        content = file.read_bytes()
    except OSError:
        return None
    digest, samples = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
    with suppress(OSError):
        if hashlib.sha256(samples).digest() != digest or len(samples) % 2:
            file.unlink()
            return None
        os.utime(file)
    return samples


def _write(file: Path, samples: bytes) -> None:
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = file.with_name(f".{secrets.token_hex(8)}.new")
    try:
        new.write_bytes(hashlib.sha256(samples).digest() + samples)
        new.replace(file)
    except OSError:
        new.unlink(missing_ok=True)
        raise


def _sweep(directory: Path, budget_bytes: int) -> int:
    """Delete what was not used for longest until SWEEP_TO of the budget is left, if it is full; the bytes left."""
    files = []
    for file in directory.glob("*/*"):
        if OURS.fullmatch(file.name):
            with suppress(OSError):
                seen = file.stat()
                files.append((seen.st_mtime, seen.st_size, file))
    used = sum(size for _, size, _ in files)
    for _, size, file in sorted(files):
        if used <= budget_bytes * SWEEP_TO:
            break
        with suppress(OSError):
            file.unlink()
            used -= size
    return used
