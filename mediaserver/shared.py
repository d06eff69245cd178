"""What several servers share by Redis: speakers, for good, and for a while embeddings and speech that was made.

    mediaserver:speakers              hash    id -> record (JSON)
    mediaserver:deleted               set     ids of speakers that there were
    mediaserver:recording:ID          string  sampling rate (4 bytes, big endian) and samples
    mediaserver:embedding:KIND:ID     string  for HOT_S
    mediaserver:changed               channel ids of speakers that were enrolled, changed or deleted
    mediaserver:speech:KEY            string  samples, for cache.redis_ttl_s
    mediaserver:spoken:TAG            set     keys of the speech of one speaker

Whatever goes wrong with Redis is `Unreachable`, and then nothing is asked of it for PAUSE_S: a host that does not even
refuse a connection must not hold up every call. The URL has a password in it, so neither it nor a client's own
description of itself goes into a message.
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import asdict, replace
from datetime import datetime
from typing import Final, TypeVar

import redis.asyncio as aioredis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError, WatchError

from mediaserver.store import Recording, Speaker, is_speaker

__all__ = ["Shared", "Unreachable"]

CONNECTIONS: Final = 100
HOT_S: Final = 3600
TIMEOUT_S: Final = 1.0
PAUSE_S: Final = 5.0
"""Unless somebody who tries again and again (`changes`) is heard before."""
IDLE_S: Final = 60.0
"""Who has heard of no change for so long compares everything: a message may be lost with a connection."""

SPEAKERS: Final = "mediaserver:speakers"
DELETED: Final = "mediaserver:deleted"
CHANGED: Final = "mediaserver:changed"

Result = TypeVar("Result")


class Unreachable(Exception):
    """Redis does not answer; the message says how, and holds no secret."""


class Shared:
    """A client of Redis. Every method raises Unreachable. Made by `Shared.open`, which does not wait for Redis."""

    def __init__(self, url: str) -> None:
        self._client: aioredis.Redis = aioredis.Redis(
            connection_pool=aioredis.BlockingConnectionPool.from_url(
                url,
                max_connections=CONNECTIONS,
                timeout=TIMEOUT_S,
                socket_connect_timeout=TIMEOUT_S,
                socket_timeout=TIMEOUT_S,
                # A connection that a restart has closed is found out by using it.
                retry=Retry(NoBackoff(), 1),
            )
        )
        self._paused_until = 0.0

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator[Shared]:
        """`url` as in the configuration. Raises ValueError for one that no client can be made of."""
        shared = cls(url)
        try:
            yield shared
        finally:
            with suppress(RedisError, OSError):
                await shared._client.aclose()
                await shared._client.connection_pool.aclose()

    @property
    def reachable(self) -> bool:
        """Whether Redis is worth asking now."""
        return asyncio.get_running_loop().time() >= self._paused_until

    async def check(self) -> None:
        """Raise Unreachable when Redis does not answer."""
        await self._ask(self._client.ping)

    async def speakers(self) -> dict[str, Speaker]:
        """All of them, by id."""
        records = await self._ask(lambda: self._client.hgetall(SPEAKERS))
        return {speaker.id: speaker for record in records.values() if (speaker := _speaker(record)) is not None}

    async def speaker(self, id: str) -> Speaker | None:
        record = await self._ask(lambda: self._client.hget(SPEAKERS, id))
        return None if record is None else _speaker(record)

    async def deleted(self) -> set[str]:
        return {_octets(id).decode() for id in await self._ask(lambda: self._client.smembers(DELETED))}

    async def recording(self, id: str) -> Recording | None:
        value = await self._ask(lambda: self._client.get(f"mediaserver:recording:{id}"))
        if value is None or len(value) < 4:
            return None
        octets = _octets(value)
        return Recording(rate_hz=struct.unpack_from("!I", octets)[0], samples=octets[4:])

    async def embedding(self, id: str, kind: str) -> bytes | None:
        """It is there if somebody has asked for it lately."""
        value = await self._ask(lambda: self._client.getex(f"mediaserver:embedding:{kind}:{id}", ex=HOT_S))
        return None if value is None else _octets(value)

    async def keep_embedding(self, id: str, kind: str, embedding: bytes) -> None:
        await self._ask(lambda: self._client.set(f"mediaserver:embedding:{kind}:{id}", embedding, ex=HOT_S))

    async def keep(self, speaker: Speaker, recording: Recording, embeddings: dict[str, bytes]) -> None:
        """Tell all servers of a speaker."""

        async def run() -> None:
            async with self._client.pipeline(transaction=True) as batch:
                batch.set(
                    f"mediaserver:recording:{speaker.id}", struct.pack("!I", recording.rate_hz) + recording.samples
                )
                for kind, data in embeddings.items():
                    batch.set(f"mediaserver:embedding:{kind}:{speaker.id}", data, ex=HOT_S)
                batch.hset(SPEAKERS, speaker.id, _record(speaker))
                batch.publish(CHANGED, speaker.id)
                await batch.execute()

        await self._ask(run)

    async def rename(self, id: str, name: str) -> Speaker | None:
        """Give a speaker another name, whoever else does so at the same moment; None when there is none."""

        async def run() -> Speaker | None:
            async with self._client.pipeline(transaction=True) as batch:
                while True:
                    with suppress(WatchError):
                        await batch.watch(SPEAKERS)
                        record = await batch.hget(SPEAKERS, id)  # at once, between WATCH and MULTI
                        known = None if record is None else _speaker(record)
                        if known is None:
                            return None
                        speaker = replace(known, name=name, version=known.version + 1)
                        batch.multi()  # type: ignore[no-untyped-call]
                        batch.hset(SPEAKERS, id, _record(speaker))
                        batch.publish(CHANGED, id)
                        await batch.execute()
                        return speaker

        return await self._ask(run)

    async def delete(self, id: str) -> None:
        """Delete a speaker everywhere."""

        async def run() -> None:
            async with self._client.pipeline(transaction=True) as batch:
                batch.sadd(DELETED, id)
                batch.hdel(SPEAKERS, id)
                batch.delete(f"mediaserver:recording:{id}")
                batch.publish(CHANGED, id)
                await batch.execute()
            async for key in self._client.scan_iter(match=f"mediaserver:embedding:*:{id}", count=1000):
                await self._client.delete(key)

        await self._ask(run)

    async def speech(self, key: str) -> bytes | None:
        """Samples that some server made."""
        value = await self._ask(lambda: self._client.get(f"mediaserver:speech:{key}"))
        return None if value is None or len(value) % 2 else _octets(value)

    async def keep_speech(self, key: str, tag: str, samples: bytes, *, ttl_s: int) -> None:
        async def run() -> None:
            async with self._client.pipeline(transaction=True) as batch:
                batch.set(f"mediaserver:speech:{key}", samples, ex=ttl_s)
                batch.sadd(f"mediaserver:spoken:{tag}", key)
                batch.expire(f"mediaserver:spoken:{tag}", ttl_s)
                await batch.execute()

        await self._ask(run)

    async def forget_speech(self, tag: str) -> None:
        async def run() -> None:
            keys = await self._client.smembers(f"mediaserver:spoken:{tag}")
            names = [f"mediaserver:speech:{_octets(key).decode()}" for key in keys]
            await self._client.delete(f"mediaserver:spoken:{tag}", *names)

        await self._ask(run)

    @asynccontextmanager
    async def changes(self) -> AsyncIterator[Callable[[], Awaitable[str | None]]]:
        """A function that waits for the id of the next speaker that changed, and gives None when none did for IDLE_S.

        What changes from the first moment of the block on is told.
        """
        with _translated():
            async with self._client.pubsub(ignore_subscribe_messages=True) as subscription:
                await subscription.subscribe(CHANGED)
                self._paused_until = 0.0

                async def following() -> str | None:
                    with _translated():
                        message = await subscription.get_message(timeout=IDLE_S)
                        return None if message is None else str(message["data"].decode(errors="replace"))

                yield following

    async def _ask(self, question: Callable[[], Awaitable[Result]]) -> Result:
        if not self.reachable:
            raise Unreachable("it did not answer a moment ago")
        try:
            with _translated():
                return await question()
        except Unreachable:
            self._paused_until = asyncio.get_running_loop().time() + PAUSE_S
            raise


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (RedisError, OSError, TimeoutError) as error:
        # An answer names what is wrong with a command or a login; other messages may hold addresses, and no more.
        told = str(error) if isinstance(error, ResponseError) else type(error).__name__
        raise Unreachable(told) from None


def _octets(value: bytes | str) -> bytes:
    """What the client answers with, whose types allow for one that decodes."""
    return value if isinstance(value, bytes) else value.encode()


def _record(speaker: Speaker) -> str:
    return json.dumps(asdict(speaker) | {"created_at": speaker.created_at.isoformat()})


def _speaker(record: bytes | str) -> Speaker | None:
    """None for what somebody else has written there."""
    try:
        fields = json.loads(record)
        speaker = Speaker(**fields | {"created_at": datetime.fromisoformat(fields["created_at"])})
        numbers = (speaker.duration_s, speaker.speech_s, speaker.level_db)
        sound = (
            is_speaker(speaker.id)  # it becomes the name of a file
            and isinstance(speaker.name, str)
            and isinstance(speaker.consent, str | None)
            and isinstance(speaker.version, int)
            and all(isinstance(number, float | int) for number in numbers)
        )
        return speaker if sound else None
    except (ValueError, TypeError, KeyError):
        return None
