"""How a body of speech leaves: held back for its headers' sake, or as it is made; not for a reader who is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from aiohttp import web

from .problem import Problem
from .rendition import SAMPLE_BYTES, Encoding, Rendition
from .schema import ApiLimits

__all__ = ["collect", "deliver", "hold", "patiently"]

# Held back at most, so that a fast engine and a long text do not fill the memory within `hold_ms`.
MAX_HELD_BYTES = 1024 * 1024
WRITE_BYTES = 64 * 1024


async def collect(rendition: Rendition, file: Encoding, *, rate_hz: int, limits: ApiLimits, field: str) -> None:
    """Write all of the speech. Raises Problem 422 of `field` when it is longer than memory has room for."""
    size = 0
    while (chunk := await rendition.next()) is not None:
        size += len(chunk)
        if size > limits.max_collected_s * rate_hz * SAMPLE_BYTES:
            raise Problem.of_field(
                422,
                field,
                f"Speech in a file that comes as a whole may last {limits.max_collected_s:g} s: split the text, or ask "
                "for pcm",
            )
        await file.feed(chunk)
    await file.finish()


async def hold(rendition: Rendition, file: Encoding, *, hold_ms: float) -> bool:
    """Write what there is of the speech when its response has to begin; whether it is all."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + hold_ms / 1000
    held = 0
    while held < MAX_HELD_BYTES:
        # Without a first chunk there is nothing to begin with, and an error can still have its own status.
        timeout_s = max(0.0, deadline - loop.time()) if held else None
        try:
            chunk = await rendition.next(timeout_s)
        except TimeoutError:
            return False
        if chunk is None:
            await file.finish()
            return True
        await file.feed(chunk)
        held += len(chunk)
    return False


async def deliver(
    request: web.Request,
    response: web.StreamResponse,
    rendition: Rendition,
    file: Encoding,
    *,
    complete: bool,
    limits: ApiLimits,
) -> None:
    """Send what there is, and unless the speech is `complete`, the rest as it is made."""
    body = file.take()
    if complete:
        response.content_length = len(body)
    await response.prepare(request)
    for start in range(0, len(body), WRITE_BYTES):
        await patiently(response.write(body[start : start + WRITE_BYTES]), limits)
    if not complete:
        while (chunk := await rendition.next()) is not None:
            await file.feed(chunk)
            await patiently(response.write(file.take()), limits)
        await file.finish()
        await patiently(response.write(file.take()), limits)
    await patiently(response.write_eof(), limits)


async def patiently(writing: Awaitable[None], limits: ApiLimits) -> None:
    """Wait for a write, though not for ever. Raises Problem 408 when the reader makes no room for it."""
    try:
        async with asyncio.timeout(limits.stall_timeout_s):
            await writing
    except TimeoutError:
        raise Problem(408, "The client stopped reading.") from None
