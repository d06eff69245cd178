"""GET /health, GET /ready and GET /metrics: how the server is, for people, for balancers and for Prometheus."""

from __future__ import annotations

import time

from aiohttp import web
from pydantic import BaseModel

from .control import SpeechControl
from .schema import HealthReport, Readiness

__all__ = ["Condition"]


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
        return _answer(200 if health.healthy else 503, report)

    async def ready(self, request: web.Request) -> web.Response:
        """200 when new work is taken now, otherwise 503: starting, draining or full."""
        ready = self._control.health().ready
        return _answer(200 if ready else 503, Readiness(ready=ready))

    async def metrics(self, request: web.Request) -> web.Response:
        """The Prometheus exposition."""
        exposition, content_type = self._control.metrics()
        return web.Response(body=exposition, headers={"Content-Type": content_type, "Cache-Control": "no-store"})


def _answer(status: int, body: BaseModel) -> web.Response:
    return web.Response(
        status=status,
        body=body.model_dump_json().encode(),
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )
