"""The sockets under the application: who may connect, how long a connection may idle, and how it all ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
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

# What a client may go on sending after it was refused, before the connection is closed under it: long enough that it
# reads the answer rather than a reset (RFC 9112 section 9.6).
LINGER_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """Where the server listens: one (host, port) per socket."""

    addresses: tuple[tuple[str, int], ...]

    @property
    def url(self) -> str:
        """The root of the API at the first address."""
        host, port = self.addresses[0]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@asynccontextmanager
async def serve(app: web.Application, host: str, port: int, *, grace_s: float = 10.0) -> AsyncIterator[Listening]:
    """Serve `app` while the block runs; `port` 0 takes a free one.

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
        listener = await loop.create_server(
            lambda: Connection(server, crowd=crowd, limits=app[LIMITS], loop=loop), host, port, backlog=BACKLOG
        )
        try:
            yield Listening(addresses=tuple(socket.getsockname()[:2] for socket in listener.sockets))
        finally:
            listener.close()
    finally:
        await runner.cleanup()


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
