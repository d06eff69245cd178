"""Asking webhooks: signed JSON to where the configuration leads, and nowhere else; bounded in time and size.

An address in the configuration is the operator's own word, so it is asked without being listed anywhere. What names
another one, a caller of the API or the answer of a webhook, gets as far as the origins of the configuration and the
hosts of webhooks.allow_hosts. Wherever a name comes from, it has to lead to public addresses or into
webhooks.allow_networks, by the rules of mediaserver/fetch.py. No redirect is followed.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from types import TracebackType

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from mediaserver import config, signature
from mediaserver.fetch import Forbidden, Resolver

__all__ = ["MAX_CONNECTIONS", "PostError", "Posting", "Reply"]

MAX_CONNECTIONS = 256
"""At a time, so that webhooks which are slow take no descriptors that calls need; one more waits, within its time."""

# A server that is started anew has closed the connections that we keep, and is not there for a moment.
FIRST_AGAIN_S = 0.05


class PostError(Exception):
    """Nobody has answered as it should be; the message says why, and names no address: it may be a secret."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer; `retry_after_s` is 0 where it does not say."""

    status: int
    retry_after_s: float
    body: bytes


class Posting:
    """An HTTP client for webhooks. An async context manager.

    Arguments:

    known  addresses of the configuration
    """

    def __init__(
        self, settings: config.Webhooks, *, known: Iterable[str], product: str, names: AbstractResolver | None = None
    ) -> None:
        self._hosts = settings.allow_hosts
        self._origins = frozenset(_origin(URL(url)) for url in known)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                resolver=Resolver(settings.allow_networks, names, key="webhooks.allow_networks"),
                use_dns_cache=False,
                limit=MAX_CONNECTIONS,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": product, "Content-Type": "application/json", "Accept-Encoding": "identity"},
            trust_env=False,
            raise_for_status=False,
            auto_decompress=False,
        )

    async def __aenter__(self) -> Posting:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    def allows(self, url: str) -> bool:
        """Whether somebody else than the configuration may have us ask there."""
        try:
            address = URL(url)
            scheme, host, _ = origin = _origin(address)
        except ValueError:
            return False
        return scheme in ("http", "https") and (origin in self._origins or host in self._hosts)

    async def post(
        self,
        url: str,
        id: str,
        body: bytes,
        *,
        keys: Sequence[bytes],
        timeout_s: float,
        max_bytes: int = 0,
        persist: bool = False,
    ) -> Reply:
        """Send a message and take its answer.

        max_bytes  that the answer's body may have; 0: it does not matter, and is not read
        persist    ask again, within the same time, while no connection lasts until an answer

        Raises PostError.
        """
        pause_s = FIRST_AGAIN_S
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    try:
                        return await self._ask(url, id, body, keys, max_bytes)
                    except (aiohttp.ClientConnectionError, ConnectionError) as error:
                        if not persist or isinstance(error, aiohttp.ClientConnectorDNSError | aiohttp.ClientSSLError):
                            raise
                    await asyncio.sleep(pause_s)
                    pause_s *= 2
        except TimeoutError as error:
            raise PostError(f"there is no answer within {timeout_s:g} s") from error
        except Forbidden as error:
            raise PostError(str(error)) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise PostError(f"there is no answer: {type(error).__name__}") from error

    async def _ask(self, url: str, id: str, body: bytes, keys: Sequence[bytes], max_bytes: int) -> Reply:
        # Signed anew each time: a receiver knows an old time for a repetition by somebody else.
        headers = signature.headers_of(id, body, keys=keys, time_s=int(time.time()))
        async with self._session.post(URL(url), data=body, headers=headers, allow_redirects=False) as response:
            answer = bytearray()
            while max_bytes > 0 and (chunk := await response.content.readany()):
                answer += chunk
                if len(answer) > max_bytes:
                    raise PostError(f"the answer is larger than {max_bytes} octets")
            after_s = _seconds(response.headers.get("Retry-After", ""), time.time())
            return Reply(status=response.status, retry_after_s=after_s, body=bytes(answer))


def _origin(url: URL) -> tuple[str, str, int | None]:
    """RFC 6454 section 4."""
    return url.scheme, (url.host or "").lower(), url.port


def _seconds(retry_after: str, now: float) -> float:
    """RFC 9110 section 10.2.3: whole seconds, or a date; 0 if it is neither."""
    if retry_after.isascii() and retry_after.isdigit():
        return float(retry_after[:9])
    with contextlib.suppress(ValueError):
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - now)
    return 0.0
