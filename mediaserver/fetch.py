"""Fetching what a caller asks to be played: only from hosts that the configuration lists, bounded in size and time.

A listed name has to lead to public addresses, or to those of fetch.allow_networks: whoever has a say in its DNS could
otherwise have us ask machines that only we can reach. The addresses that were looked at are the ones that are connected
to; nothing is resolved a second time. An address stands for itself: it is fetched from if it is listed.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Sequence
from types import TracebackType

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from mediaserver import config

__all__ = ["FetchError", "Fetcher", "Forbidden", "Resolver"]

MAX_REDIRECTS = 5
REDIRECTS = frozenset({301, 302, 303, 307, 308})
# RFC 6052 section 2.1 and RFC 8215: behind these is an IPv4 address.
NAT64 = ipaddress.ip_network("64:ff9b::/96")
LOCAL_NAT64 = ipaddress.ip_network("64:ff9b:1::/48")


class FetchError(Exception):
    """The resource could not be had; the message says why."""


class Forbidden(FetchError):
    """The configuration does not allow it."""


class Resolver(AbstractResolver):
    """Finds the addresses of names, and forbids a name that has one where nothing is to be asked.

    networks  that are not public, and may be asked all the same
    names     finds the addresses; by default as the system does
    key       of the configuration, where the networks stand
    """

    def __init__(
        self,
        networks: Sequence[config.Network],
        names: AbstractResolver | None = None,
        *,
        key: str = "fetch.allow_networks",
    ) -> None:
        self._networks = tuple(networks)
        self._key = key
        self._names = names or aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Raises Forbidden, and OSError when there is no such name."""
        found = await self._names.resolve(host, port, family)
        for result in found:
            address = ipaddress.ip_address(result["host"].partition("%")[0])
            if not any(address in network or _behind(address) in network for network in self._networks) and not (
                _is_public(address) and _is_public(_behind(address))
            ):
                raise Forbidden(f"host {host!r} leads to {address}, which is not public: see {self._key}")
        return found

    async def close(self) -> None:
        await self._names.close()


class Fetcher:
    """An HTTP client that goes nowhere by itself. An async context manager."""

    def __init__(self, settings: config.Fetch, *, names: AbstractResolver | None = None) -> None:
        self._settings = settings
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(resolver=Resolver(settings.allow_networks, names), use_dns_cache=False),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            raise_for_status=False,
        )

    async def __aenter__(self) -> Fetcher:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def get(self, uri: str) -> tuple[str, str, bytes]:
        """Media type, charset and body at `uri`, or where it redirects to, each hop being held to the same rules.

        Raises Forbidden for a host that is not listed, FetchError for everything else that goes wrong.
        """
        try:
            # What is checked is what is connected to: no second parser with another opinion of where the host is.
            url = URL(uri)
            async with asyncio.timeout(self._settings.timeout_s):
                for _ in range(1 + MAX_REDIRECTS):
                    found = await self._ask(url)
                    if not isinstance(found, URL):
                        return found
                    url = found
        except (TimeoutError, aiohttp.ClientError, ValueError) as error:
            raise FetchError(f"{_place(uri)}: {type(error).__name__}") from error
        raise FetchError(f"{_place(uri)}: more than {MAX_REDIRECTS} redirects")

    async def _ask(self, url: URL) -> tuple[str, str, bytes] | URL:
        """What is there, or where it is instead."""
        host = (url.host or "").lower()
        if url.scheme not in ("http", "https"):
            raise FetchError(f"not an address of HTTP: {url.scheme[:20]!r}")
        if host not in self._settings.allow_hosts:
            raise Forbidden(f"host {host!r} is not in fetch.allow_hosts")
        body = bytearray()
        async with self._session.get(url, allow_redirects=False) as response:
            if response.status in REDIRECTS and "Location" in response.headers:
                onwards = url.join(URL(response.headers["Location"]))
                if url.scheme == "https" and onwards.scheme != "https":
                    raise FetchError(f"{host} redirects from HTTPS to {onwards.scheme[:20]!r}")
                return onwards
            if response.status != 200:
                raise FetchError(f"{host} answered {response.status}")
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > self._settings.max_bytes:
                    raise FetchError(f"larger than fetch.max_bytes ({self._settings.max_bytes})")
            return response.content_type, response.charset or "utf-8", bytes(body)


def _place(uri: str) -> str:
    """An address as it may be told and logged: whoever has all of one that is signed, or names a user, may use it."""
    try:
        return repr(str(URL(uri).with_user(None).with_query(None).with_fragment(None))[:200])
    except ValueError:
        return "an address of another form"


def _is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return address.is_global and not address.is_multicast and address not in LOCAL_NAT64


def _behind(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The IPv4 address that an IPv6 address stands for, if it does."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    teredo = address.teredo[1] if address.teredo else None
    return address.ipv4_mapped or address.sixtofour or teredo or address
