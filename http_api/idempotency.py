"""Idempotency-Key (draft-ietf-httpapi-idempotency-key-header): a request that is sent again is done once."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable

from aiohttp import web

from .intake import CLIENT
from .problem import Problem

__all__ = ["Idempotency"]

HEADER = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"
_KEY = re.compile(r"[!-~]{1,255}")


class _Entry:
    """A request and, once there is one, its answer: status, body and headers."""

    __slots__ = ("answer", "asked", "until")

    def __init__(self, asked: object, until: float) -> None:
        self.asked = asked
        self.until = until
        self.answer: tuple[int, bytes, dict[str, str]] | None = None


class Idempotency:
    """The keys that were used lately, each token's for itself: `count` of them, each for `seconds`."""

    def __init__(self, *, count: int = 10_000, seconds: float = 3600.0) -> None:
        self._count = count
        self._seconds = seconds
        self._entries: dict[tuple[str, str], _Entry] = {}
        self._at_work: set[asyncio.Task[web.Response]] = set()

    async def once(
        self, request: web.Request, asked: object, act: Callable[[], Awaitable[web.Response]]
    ) -> web.Response:
        """The answer of `act`, or of the first request with this key; a problem is no answer to be repeated.

        asked  what the request asks for, to be compared with what the first one did

        Raises Problem: 400 for a key that is none, 409 while the first request is at work, 422 if it was another one.
        """
        given = request.headers.get(HEADER)
        if given is None:
            return await act()
        if not _KEY.fullmatch(given):
            raise Problem.of_field(400, HEADER, "It should be 1 to 255 printable ASCII characters without spaces")
        self._forget()
        key = request[CLIENT].name, given
        asked = (request.method, request.path, asked)
        entry = self._entries.get(key)
        if entry is not None:
            return _again(entry, asked)
        self._entries[key] = _Entry(asked, time.monotonic() + self._seconds)
        # A client that leaves does not undo what it has asked for: it asks again, and hears what came of it.
        task = asyncio.create_task(self._act(key, act))
        self._at_work.add(task)
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    async def _act(self, key: tuple[str, str], act: Callable[[], Awaitable[web.Response]]) -> web.Response:
        """Do it and keep the answer."""
        entry = self._entries[key]
        try:
            response = await act()
        except BaseException:
            # Nothing was done, so it may be tried again.
            if self._entries.get(key) is entry:
                del self._entries[key]
            raise
        body = response.body or b""
        assert isinstance(body, bytes), "an answer that is repeated is JSON, or has no body"
        kept = {name: response.headers[name] for name in ("Content-Type", "Location") if name in response.headers}
        entry.answer = (response.status, body, kept)
        return response

    def _done(self, task: asyncio.Task[web.Response]) -> None:
        self._at_work.discard(task)
        if not task.cancelled():
            task.exception()  # whoever asked has heard of it, or has gone

    def _forget(self) -> None:
        now = time.monotonic()
        while self._entries:
            first = next(iter(self._entries))
            if len(self._entries) < self._count and self._entries[first].until > now:
                return
            del self._entries[first]


def _again(entry: _Entry, asked: object) -> web.Response:
    if entry.asked != asked:
        raise Problem.of_field(422, HEADER, "This key was used for another request")
    if entry.answer is None:
        raise Problem.of_field(409, HEADER, "The first request with this key is still at work")
    status, body, headers = entry.answer
    return web.Response(status=status, body=body, headers={**headers, "Cache-Control": "no-store", REPLAYED: "true"})
