"""The HTTP API as a whole: its routes as one table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web

from .admission import Admission
from .control import SpeechControl
from .exchange import dress, exchange
from .health import Condition
from .intake import expect
from .rendition import audio_formats
from .route import Route
from .schema import ApiLimits, StreamRequest, SynthesizeRequest
from .synthesis import Synthesis

__all__ = ["LIMITS", "make_app"]

LIMITS: web.AppKey[ApiLimits] = web.AppKey("limits", ApiLimits)


def routes(synthesis: Synthesis, condition: Condition) -> tuple[Route, ...]:
    """Every route there is. Request limits, `X-Request-Id` and HEAD and OPTIONS are common to all of them."""
    speech_problems = (400, 404, 408, 413, 415, 417, 422, 429, 500, 503)
    return (
        Route(
            name="synthesize",
            summary="Speak a text: one body of audio",
            method="POST",
            path="/v1/synthesize",
            act=synthesis.synthesize,
            body=SynthesizeRequest,
            problems=speech_problems,
        ),
        Route(
            name="stream",
            summary="Speak a text: server-sent events",
            method="POST",
            path="/v1/synthesize/stream",
            act=synthesis.stream,
            body=StreamRequest,
            problems=speech_problems,
        ),
        Route(
            name="health",
            summary="Whether the server works",
            method="GET",
            path="/health",
            act=condition.health,
            problems=(500,),
        ),
        Route(
            name="ready",
            summary="Whether new work is taken now",
            method="GET",
            path="/ready",
            act=condition.ready,
            problems=(500,),
        ),
        Route(
            name="metrics",
            summary="Prometheus metrics",
            method="GET",
            path="/metrics",
            act=condition.metrics,
            problems=(500,),
        ),
    )


def make_app(
    control: SpeechControl,
    *,
    version: str,
    encode: Mapping[str, Callable[[bytes], bytes]],
    limits: ApiLimits | None = None,
) -> web.Application:
    """The application, to be carried by `serve`.

    encode   companding by format name, "mulaw" and "alaw": signed 16-bit little-endian samples to G.711 octets
    version  the server's own, as /health tells it

    Raises ValueError when `encode` lacks one of the two.
    """
    if missing := {"mulaw", "alaw"} - set(encode):
        raise ValueError(f"encode lacks {', '.join(sorted(missing))}")
    limits = limits or ApiLimits()
    app = web.Application(middlewares=[exchange(control)], client_max_size=limits.max_body_bytes)
    app[LIMITS] = limits
    app.on_response_prepare.append(dress)
    synthesis = Synthesis(control, limits=limits, admission=Admission(limits), formats=audio_formats(encode))
    _install(app, routes(synthesis, Condition(control, version=version)))
    return app


def _install(app: web.Application, table: tuple[Route, ...]) -> None:
    by_resource: defaultdict[tuple[str, str], list[Route]] = defaultdict(list)
    for route in table:
        by_resource[route.path, route.name].append(route)
    for (path, name), rows in by_resource.items():
        resource = app.router.add_resource(path, name=name)
        methods = {"OPTIONS"}
        for row in rows:
            for method in (row.method, "HEAD") if row.method == "GET" else (row.method,):
                resource.add_route(method, row.act, expect_handler=expect)
                methods.add(method)
        resource.add_route("OPTIONS", _options(", ".join(sorted(methods))))


def _options(allow: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def options(request: web.Request) -> web.StreamResponse:
        return web.Response(status=204, headers={"Allow": allow})

    return options
