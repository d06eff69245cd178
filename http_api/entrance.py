"""What stands before every route: who asks, whether they may, and how much."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import web

from .access import Client, Gate
from .control import SpeechControl
from .intake import BESIDE, CLIENT, DIALECT, ROUTE
from .problem import Problem
from .route import Access, Route

__all__ = ["Entrance"]

Act = Callable[[web.Request], Awaitable[web.StreamResponse]]
Dialect = Callable[[Problem, str], web.Response]

# GET and HEAD of a resource that is no WebSocket: browsers keep their answers from other sites' pages by themselves.
SAFE = frozenset({"GET", "HEAD"})

# What a page may send beside what the Fetch Standard lets every page send, and read beside what it may always read.
ALLOWED_HEADERS = "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, X-Request-Id, traceparent"
EXPOSED_HEADERS = (
    "Location, Retry-After, RateLimit, RateLimit-Policy, WWW-Authenticate, X-Request-Id, X-Model-Version, "
    "X-Inference-Time-Ms, X-Audio-Duration-Ms, X-RTF, X-Cache, Idempotency-Replayed"
)
PREFLIGHT_MAX_AGE_S = 600


class Entrance:
    """Lets requests through to the routes."""

    def __init__(self, gate: Gate, control: SpeechControl) -> None:
        self._gate = gate
        self._control = control

    def before(self, route: Route, dialect: Dialect) -> Act:
        """The route, with the gate before it; `dialect` is how it tells problems."""

        async def act(request: web.Request) -> web.StreamResponse:
            request[DIALECT] = dialect
            request[ROUTE] = route
            if route.access is Access.OPEN:
                return await route.act(request)
            loop = asyncio.get_running_loop()
            try:
                client = await self._client(request)
                request[CLIENT] = client
                self._permit(request, route, client)
                quota = self._gate.spend(client, loop.time())
            except Problem as problem:
                problem.closes |= request.body_exists  # nobody waits for a body that was not read
                self._control.observe_refusal(problem.status)
                raise
            if route.operation.query is None and request.query:
                raise Problem.of_field(400, next(iter(request.query)), "There is no such parameter")
            if quota is not None:
                request[BESIDE] |= quota.headers()
            task = asyncio.current_task()
            assert task is not None
            with self._gate.visit(client, task.cancel):
                return await route.act(request)

        return act

    def inviting(self, route: Route) -> Callable[[web.Request], None]:
        """What a body has to pass before it is invited (RFC 9110 section 10.1.1). It raises Problem."""

        def check(request: web.Request) -> None:
            if route.access is not Access.OPEN:
                self._permit(request, route, self._identified(request))

        return check

    def options(self, methods: str) -> Act:
        """What answers OPTIONS: the methods, and a preflight (Fetch Standard section 3.3.2) of a page that may ask."""

        async def act(request: web.Request) -> web.StreamResponse:
            headers = {"Allow": methods}
            if "Access-Control-Allow-Origin" in request[BESIDE] and "Access-Control-Request-Method" in request.headers:
                headers |= {
                    "Access-Control-Allow-Methods": methods,
                    "Access-Control-Allow-Headers": ALLOWED_HEADERS,
                    "Access-Control-Max-Age": str(PREFLIGHT_MAX_AGE_S),
                }
            return web.Response(status=204, headers=headers)

        return act

    def beside(self, request: web.Request) -> dict[str, str]:
        """What its answer has beside its own headers, whatever it is."""
        headers = self._gate.cors(request.headers.get("Origin"))
        if "Access-Control-Allow-Origin" in headers:
            headers["Access-Control-Expose-Headers"] = EXPOSED_HEADERS
        return headers

    async def _client(self, request: web.Request) -> Client:
        try:
            return self._identified(request)
        except Problem as problem:
            if "invalid_token" in problem.headers.get("WWW-Authenticate", ""):
                now = asyncio.get_running_loop().time()
                await asyncio.sleep(self._gate.guesses.delay_s(request.remote or "", now))
            raise

    def _identified(self, request: web.Request) -> Client:
        return self._gate.client(
            authorization=request.headers.getall("Authorization", []),
            protocols=request.headers.getall("Sec-WebSocket-Protocol", []),
            address=request.remote or "",
        )

    def _permit(self, request: web.Request, route: Route, client: Client) -> None:
        if route.method not in SAFE or "Upgrade" in request.headers:
            self._gate.check_origin(request.headers.get("Origin"), request.headers.get("Host", ""))
        self._gate.check(client, route.access)
