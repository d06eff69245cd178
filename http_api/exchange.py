"""What every request has in common: an id, an answer whatever happens, one access line, one observation.

What asks for the roles `call` or `admin` leaves an audit line too, whether or not it was let through: who, from where,
did what, and what came of it. A body, a query or a secret is in no line.
"""

from __future__ import annotations

import logging
import socket
import struct
import time
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.typedefs import Middleware

from .control import ControlError, SpeechControl
from .entrance import Entrance
from .intake import BESIDE, CLIENT, DIALECT, FAILURE, REQUEST_ID, ROUTE, UPGRADED, request_id
from .problem import Problem, of_control, of_http
from .route import Access

__all__ = ["COMMON_HEADERS", "dress", "exchange"]

access = logging.getLogger("http_api.access")
errors = logging.getLogger("http_api.error")
audit = logging.getLogger("http_api.audit")

Act = Callable[[web.Request], Awaitable[web.StreamResponse]]

# nginx's: the client closed the request. It is never on the wire.
CLIENT_CLOSED = 499

# No version to look up an attack for, and no type to guess.
COMMON_HEADERS = {"Server": "mediaserver", "X-Content-Type-Options": "nosniff"}

OBSERVED = frozenset({"synthesize", "stream", "speech", "pushes"})
POLLED = frozenset({"health", "ready", "metrics"})
AUDITED = frozenset({Access.CALL, Access.ADMIN})

MAX_PATH_CHARS = 200

# struct linger {on, 0 s}: closing sends RST and discards what is unsent (socket(7)).
LINGER_RESET = struct.pack("ii", 1, 0)


def exchange(control: SpeechControl, entrance: Entrance) -> Middleware:
    """The one middleware. Requests for speech, which are POST to the routes OBSERVED, are observed by `control`."""

    @web.middleware
    async def run(request: web.Request, handler: Act) -> web.StreamResponse:
        began = time.perf_counter()
        request[REQUEST_ID] = request_id(request)
        request[BESIDE] = entrance.beside(request)
        outcome, made = CLIENT_CLOSED, ""
        try:
            try:
                response = await handler(request)
            except Exception as error:
                if isinstance(error, ConnectionError) and _gone(request):
                    raise
                problem = _translate(error, request)
                outcome = problem.status
                if request.writer.output_size:
                    _cut(request)
                    raise ConnectionAbortedError from error
                respond: Callable[[Problem, str], web.StreamResponse] = request.get(DIALECT, Problem.response)
                return respond(problem, request[REQUEST_ID])
            else:
                late = request.get(FAILURE)
                made = response.headers.get("Location", "")
                outcome = response.status if late is None else _translate(late, request).status
                return response
        finally:
            if outcome == CLIENT_CLOSED and UPGRADED in request:  # how else should it end?
                outcome = 101
            elapsed_ms = (time.perf_counter() - began) * 1000
            endpoint = request.match_info.route.name or ""
            if endpoint in OBSERVED and request.method == "POST":
                control.observe_request(endpoint=endpoint, status=outcome, latency_ms=elapsed_ms)
            _log(request, endpoint, outcome, elapsed_ms, made)

    return run


async def dress(request: web.Request, response: web.StreamResponse) -> None:
    """Give a response what all have."""
    response.headers.update(COMMON_HEADERS)
    response.headers.update(request.get(BESIDE, {}))
    if "X-Request-Id" not in response.headers:
        response.headers["X-Request-Id"] = request[REQUEST_ID]


def _translate(error: Exception, request: web.Request) -> Problem:
    match error:
        case Problem():
            return error
        case web.HTTPException():
            return of_http(error)
        case ControlError():
            problem = of_control(error)
            if problem.status == 500:
                errors.error("speech failed: %s", error, extra={"request_id": request[REQUEST_ID]}, exc_info=error)
            return problem
        case _:
            errors.error("request failed", extra={"request_id": request[REQUEST_ID]}, exc_info=error)
            return Problem(500, "The server failed. Its log knows this request by its id.")


def _gone(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


def _cut(request: web.Request) -> None:
    """Reset the connection under a body that cannot be finished, so that nobody takes the part for the whole.

    A mere close is how a body ends under HTTP/1.0, and would wait for a client that does not read.
    """
    if request.transport is not None:
        request.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
        request.transport.abort()


def _log(request: web.Request, endpoint: str, status: int, elapsed_ms: float, made: str) -> None:
    """One line, or two. Neither the query nor a body is in it, and the path is as it came, percent-encoded.

    made  the path of what the request brought into being
    """
    path = request.rel_url.raw_path[:MAX_PATH_CHARS]
    client = request.get(CLIENT)
    who = {"client": client.name if client else "", "remote": request.remote, "request_id": request[REQUEST_ID]}
    route = request.get(ROUTE)
    if route is not None and route.access in AUDITED:
        audit.info(
            "%s %d", route.id, status, extra={"action": route.id, "path": path, "made": made, "status": status, **who}
        )
    access.log(
        logging.DEBUG if endpoint in POLLED else logging.INFO,
        "%s %s %d %.1f ms",
        request.method,
        path,
        status,
        elapsed_ms,
        extra={
            "method": request.method,
            "path": path,
            "status": status,
            "ms": round(elapsed_ms, 1),
            **who,
        },
    )
