"""GET /health, GET /ready and GET /metrics: how the server is, for people, for balancers and for Prometheus."""

from __future__ import annotations

import time

from aiohttp import web

from .control import SpeechControl
from .intake import answer
from .route import Answer, Operation
from .schema import HealthReport, Readiness

__all__ = ["HEALTH", "METRICS", "READY", "Condition"]

HEALTH = Operation(
    summary="Whether the server works",
    answers=(
        Answer(status=200, description="It works.", content={"application/json": HealthReport}),
        Answer(status=503, description="It has to be replaced.", content={"application/json": HealthReport}),
    ),
    problems=(500,),
)

READY = Operation(
    summary="Whether new work is taken now",
    answers=(
        Answer(status=200, description="It is.", content={"application/json": Readiness}),
        Answer(
            status=503, description="It is not: starting, draining or full.", content={"application/json": Readiness}
        ),
    ),
    problems=(500,),
)

METRICS = Operation(
    summary="Metrics for Prometheus",
    answers=(Answer(status=200, description="The exposition.", content={"text/plain": "tts_active_requests 1\n"}),),
    problems=(500,),
)


class Condition:
    """The three resources that tell how the server is. They answer at any load, and nothing may keep their answers."""

    def __init__(self, control: SpeechControl, *, version: str) -> None:
        self._control = control
        self._version = version
        self._born = time.monotonic()

    async def health(self, request: web.Request) -> web.Response:
        """200 when the process works, 503 when it has to be replaced."""
        health = self._control.health()
        report = HealthReport.model_validate(
            {
                **health.details,
                "status": "healthy" if health.healthy else "unhealthy",
                "ready": health.ready,
                "gpu_available": health.gpu_available,
                "model_loaded": health.model_loaded,
                "version": self._version,
                "uptime_s": round(time.monotonic() - self._born, 3),
            }
        )
        return answer(200 if health.healthy else 503, report)

    async def ready(self, request: web.Request) -> web.Response:
        """200 when new work is taken now, otherwise 503: starting, draining or full."""
        ready = self._control.health().ready
        return answer(200 if ready else 503, Readiness(ready=ready))

    async def metrics(self, request: web.Request) -> web.Response:
        """The Prometheus exposition."""
        exposition, content_type = self._control.metrics()
        return web.Response(body=exposition, headers={"Content-Type": content_type, "Cache-Control": "no-store"})
