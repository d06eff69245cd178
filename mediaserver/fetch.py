"""Fetching what a caller asks to be played: only from hosts that the configuration lists, bounded in size and time."""

from __future__ import annotations

from types import TracebackType
from urllib.parse import urlsplit

import aiohttp

from mediaserver import config

__all__ = ["FetchError", "Fetcher", "Forbidden"]


class FetchError(Exception):
    """The resource could not be had; the message says why."""


class Forbidden(FetchError):
    """The configuration does not allow it."""


class Fetcher:
    """An HTTP client that goes nowhere by itself. An async context manager."""

    def __init__(self, settings: config.Fetch) -> None:
        self._settings = settings
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=settings.timeout_s), trust_env=False, raise_for_status=False
        )

    async def __aenter__(self) -> Fetcher:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def get(self, uri: str) -> tuple[str, str, bytes]:
        """Media type, charset and body at `uri`. A redirect counts as a failure: it could lead anywhere.

        Raises Forbidden for a host that is not listed, FetchError for everything else that goes wrong.
        """
        try:
            host = (urlsplit(uri).hostname or "").lower()
        except ValueError as error:
            raise FetchError(f"not a URI: {error}") from error
        if host not in self._settings.allow_hosts:
            raise Forbidden(f"host {host!r} is not in fetch.allow_hosts")
        body = bytearray()
        try:
            async with self._session.get(uri, allow_redirects=False) as response:
                if response.status != 200:
                    raise FetchError(f"{host} answered {response.status}")
                async for chunk in response.content.iter_any():
                    body += chunk
                    if len(body) > self._settings.max_bytes:
                        raise FetchError(f"larger than fetch.max_bytes ({self._settings.max_bytes})")
                return response.content_type, response.charset or "utf-8", bytes(body)
        except (TimeoutError, aiohttp.ClientError, ValueError) as error:
            raise FetchError(f"{host}: {type(error).__name__}") from error
