"""The sockets under the application: who may connect, how long a connection may idle, and how it all ends."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong

from .app import LIMITS
from .exchange import COMMON_HEADERS
from .intake import request_id
from .problem import Problem
from .schema import ApiLimits

__all__ = ["Listening", "serve"]

access = logging.getLogger("http_api.access")
errors = logging.getLogger("http_api.error")

MAX_LINE_BYTES = 8190
MAX_HEADERS = 64
BACKLOG = 512

# Of TLS: for a client to finish its greeting, and its farewell.
GREETING_S = 10.0
FAREWELL_S = 2.0
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
EXHAUSTED_S = 1.0

# What a client may go on sending after it was refused, before the connection is closed under it: long enough that it
# reads the answer rather than a reset (RFC 9112 section 9.6).
LINGER_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """Where the server listens: one (host, port) per socket; `scheme` is "http" or "https"."""

    addresses: tuple[tuple[str, int], ...]
    scheme: str

    @property
    def url(self) -> str:
        """The root of the API at the first address."""
        host, port = self.addresses[0]
        return f"{self.scheme}://[{host}]:{port}" if ":" in host else f"{self.scheme}://{host}:{port}"


@asynccontextmanager
async def serve(
    app: web.Application,
    host: str,
    port: int,
    *,
    grace_s: float = 10.0,
    tls: Callable[[], ssl.SSLContext] | None = None,
) -> AsyncIterator[Listening]:
    """Serve `app` while the block runs, by TLS if there is `tls`; `port` 0 takes a free one.

    tls  gives the context for one connection, so that a new certificate counts from the next one on

    At the end no new connection is taken, requests at work have `grace_s` to end, and are cancelled then. Raises
    OSError when the address cannot be bound.
    """
    loop = asyncio.get_running_loop()
    # aiohttp waits out its time-out twice: once for the request, once for the connection.
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=grace_s / 2)
    await runner.setup()
    try:
        server = runner.server
        assert server is not None
        crowd: set[Connection] = set()
        limits = app[LIMITS]

        def connect() -> Connection:
            return Connection(server, crowd=crowd, limits=limits, loop=loop)

        listening = _plainly(connect, host, port) if tls is None else _securely(connect, host, port, tls, crowd, limits)
        async with listening as addresses:
            yield Listening(addresses=addresses, scheme="http" if tls is None else "https")
    finally:
        await runner.cleanup()


@asynccontextmanager
async def _plainly(
    connect: Callable[[], Connection], host: str, port: int
) -> AsyncIterator[tuple[tuple[str, int], ...]]:
    listener = await asyncio.get_running_loop().create_server(connect, host, port, backlog=BACKLOG)
    try:
        yield tuple(listening.getsockname()[:2] for listening in listener.sockets)
    finally:
        listener.close()


@asynccontextmanager
async def _securely(
    connect: Callable[[], Connection],
    host: str,
    port: int,
    tls: Callable[[], ssl.SSLContext],
    crowd: set[Connection],
    limits: ApiLimits,
) -> AsyncIterator[tuple[tuple[str, int], ...]]:
    """asyncio would keep one context for ever, and does not count who has not finished the greeting."""
    loop = asyncio.get_running_loop()
    greeting: set[asyncio.Task[None]] = set()

    async def greet(accepted: socket.socket) -> None:
        try:
            await loop.connect_accepted_socket(
                connect,
                accepted,
                ssl=tls(),
                ssl_handshake_timeout=GREETING_S,
                ssl_shutdown_timeout=FAREWELL_S,
            )
        except OSError as error:
            access.debug("no TLS: %s", error)

    async def accept(listener: socket.socket) -> None:
        while True:
            try:
                accepted, _ = await loop.sock_accept(listener)
            except OSError as error:
                # Otherwise the connection was given up meanwhile.
                if error.errno in EXHAUSTED:
                    await asyncio.sleep(EXHAUSTED_S)
                continue
            if len(crowd) + len(greeting) >= limits.max_connections:
                accepted.close()
                continue
            task = asyncio.create_task(greet(accepted))
            greeting.add(task)
            task.add_done_callback(greeting.discard)

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family, backlog=BACKLOG) as listener:
        listener.setblocking(False)
        accepting = asyncio.create_task(accept(listener))
        try:
            yield (listener.getsockname()[:2],)
        finally:
            tasks = (accepting, *greeting)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


class Connection(web.RequestHandler):
    """One client's connection: one of a bounded crowd, and answered in kind even when it does not speak HTTP."""

    __slots__ = ("_crowd", "_max_connections")

    def __init__(
        self, server: web.Server, *, crowd: set[Connection], limits: ApiLimits, loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(
            server,
            loop=loop,
            keepalive_timeout=limits.idle_timeout_s,
            lingering_time=LINGER_S,
            max_line_size=MAX_LINE_BYTES,
            max_field_size=MAX_LINE_BYTES,
            max_headers=MAX_HEADERS,
            auto_decompress=False,  # a compressed body is refused, and is not unpacked while it is read away either
            access_log=None,  # type: ignore[arg-type]  # the documented way to have none
        )
        self._crowd = crowd
        self._max_connections = limits.max_connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if len(self._crowd) >= self._max_connections:
            assert isinstance(transport, asyncio.Transport)
            transport.abort()
            return
        self._crowd.add(self)
        super().connection_made(transport)

    def connection_lost(self, error: BaseException | None) -> None:
        self._crowd.discard(self)
        super().connection_lost(error)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what cannot be read as a request: 431 when a line is too long (RFC 6585 section 5), otherwise 400."""
        if request.writer.output_size:
            raise ConnectionAbortedError("There is nobody left to answer") from exc
        identity = request_id(request)
        if isinstance(exc, LineTooLong):
            problem = Problem(431, f"A line of the head may have {MAX_LINE_BYTES} bytes.", closes=True)
        elif isinstance(exc, HttpProcessingError):
            problem = Problem(400, "This is not an HTTP/1.1 request.", closes=True)
        else:
            errors.error("request failed", extra={"request_id": identity}, exc_info=exc)
            problem = Problem(500, "The server failed. Its log knows this request by its id.", closes=True)
        access.info("malformed %d", problem.status, extra={"remote": request.remote, "request_id": identity})
        response = problem.response(identity)
        response.headers.update(COMMON_HEADERS)
        return response
