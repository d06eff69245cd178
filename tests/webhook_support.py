"""A webhook as people write them, and as they should not: a real HTTP server whose manners a test chooses."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from standardwebhooks import Webhook

KEY = bytes(range(32))
SECRET = f"whsec_{base64.b64encode(KEY).decode()}"
OTHER_SECRET = f"whsec_{base64.b64encode(bytes(32)).decode()}"

Manners = Callable[[web.Request], Awaitable[web.StreamResponse]]
Told = dict[str, Any]


def status(code: int, **headers: str) -> Manners:
    """Always answer so."""

    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=code, headers={name.replace("_", "-"): value for name, value in headers.items()})

    return answer


async def never(request: web.Request) -> web.StreamResponse:
    """Take the request, and say nothing."""
    await asyncio.sleep(3600)
    raise AssertionError


async def drip(request: web.Request) -> web.StreamResponse:
    """Answer an octet at a time, for ever."""
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b" ")
        await asyncio.sleep(0.05)


async def flood(request: web.Request) -> web.StreamResponse:
    """Answer with more than anybody wants to hear."""
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(1000):
        await response.write(b" " * 65536)
    return response


async def slam(request: web.Request) -> web.StreamResponse:
    """Close the connection in the stead of an answer."""
    assert request.transport is not None
    request.transport.close()
    return web.Response(status=500)


class Hook:
    """The server: it keeps what it was told, and answers by `manners`; a list of them is for one request each.

    told    the bodies of what was accepted, in the order in which they came; ids and paths likewise
    frauds  why the official library would not verify a request
    """

    def __init__(self, *, secret: str | None = SECRET) -> None:
        self.secret = secret
        self.manners: Manners | list[Manners] = status(204)
        self.told: list[Told] = []
        self.ids: list[str] = []
        self.paths: list[str] = []
        self.requests = 0
        self.frauds: list[Exception] = []
        self.port = 0
        self._runner: web.AppRunner | None = None
        self._changed = asyncio.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    async def start(self) -> None:
        """Listen, on the port of before if there was one."""
        app = web.Application(client_max_size=1 << 24)
        app.router.add_route("*", "/{path:.*}", self._take)
        self._runner = web.AppRunner(app, shutdown_timeout=0.05)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def until(self, found: Callable[[Hook], bool], *, seconds: float = 20) -> None:
        async with asyncio.timeout(seconds):
            while not found(self):
                self._changed.clear()
                await self._changed.wait()

    def kinds(self, call: str | None = None) -> list[str]:
        return [told["type"] for told in self.told if call is None or told["call_id"] == call]

    async def _take(self, request: web.Request) -> web.StreamResponse:
        self.requests += 1
        self._changed.set()
        body = await request.read()
        manners = self.manners
        if isinstance(manners, list):
            manners = manners.pop(0) if len(manners) > 1 else manners[0]
        try:
            if self.secret is not None:
                Webhook(self.secret).verify(body, dict(request.headers))
        except Exception as error:
            self.frauds.append(error)
            self._changed.set()
            raise web.HTTPUnauthorized from error
        try:
            response = await manners(request)
        finally:
            self._changed.set()
        if response.status < 300:
            self.told.append(json.loads(body))
            self.ids.append(request.headers["webhook-id"])
            self.paths.append(request.path)
            self._changed.set()
        return response


@asynccontextmanager
async def hook(*, secret: str | None = SECRET) -> AsyncIterator[Hook]:
    made = Hook(secret=secret)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


def entry(listening: Hook, **keys: Any) -> dict[str, Any]:
    """As a [[webhook]] of the configuration."""
    return {"name": "crm", "url": listening.url, "secret": SECRET} | keys
