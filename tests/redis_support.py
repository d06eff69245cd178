"""A real redis-server of the test's own: on a port of its own, with a password, to be killed and started again."""

from __future__ import annotations

import asyncio
import shutil
import socket
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import redis.asyncio as aioredis
from redis.exceptions import RedisError

PASSWORD = "correct-horse-battery-staple"

needs_redis = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")


class RedisServer:
    """The server and a client of it. `kill` takes all that it held with it, for it writes nothing down."""

    def __init__(self, directory: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port: int = probe.getsockname()[1]
        self.url = f"redis://:{PASSWORD}@127.0.0.1:{self.port}/0"
        self.client: aioredis.Redis = aioredis.Redis(host="127.0.0.1", port=self.port, password=PASSWORD)
        self._directory = directory
        self._process: Process | None = None

    @property
    def section(self) -> dict[str, str]:
        """As it stands in a configuration."""
        return {"url": self.url}

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *("redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--requirepass", PASSWORD),
            *("--save", "", "--appendonly", "no", "--dir", str(self._directory), "--loglevel", "warning"),
            stdout=DEVNULL,
            stderr=DEVNULL,
        )
        async with asyncio.timeout(10):
            while True:
                with suppress(RedisError, OSError):
                    await self.client.ping()
                    return
                await asyncio.sleep(0.02)

    async def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            await self._process.wait()
            self._process = None


@asynccontextmanager
async def redis_server(directory: Path) -> AsyncIterator[RedisServer]:
    server = RedisServer(directory)
    try:
        await server.start()
        yield server
    finally:
        await server.client.aclose()
        await server.kill()
