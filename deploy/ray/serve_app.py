"""The engine on Ray Serve: the same /v1/engine as that of every server, one engine in each replica.

    pip install ".[ray]"
    serve run deploy.ray.serve_app:app                         # on this machine, at http://127.0.0.1:8000
    serve deploy deploy/ray/serve.yaml                         # on a cluster: replicas, GPUs and limits stand there

and on the media nodes:

    [engine]
    name = "remote"
    urls = ["http://127.0.0.1:8000"]    # Ray's HTTP proxy, or what balances several of them
    fallback = "espeak"

A replica speaks several texts at a time, since its engine batches them (a GPU) or queues them (espeak-ng). What is
beyond `max_ongoing_requests` of all replicas waits in Serve's queue, up to `max_queued_requests`; the rest gets 503,
which media nodes take for "full". Serve adds replicas when more than `target_ongoing_requests` are at work in each.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from typing import Any

from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

import engines
from engines.remote import read_utterance

SPEECH = "audio/x-pcm"


@serve.deployment(
    num_replicas="auto",
    max_ongoing_requests=32,
    max_queued_requests=64,
    graceful_shutdown_timeout_s=30,
    health_check_period_s=5,
    autoscaling_config={"min_replicas": 1, "max_replicas": 4, "target_ongoing_requests": 16},
    ray_actor_options={"num_cpus": 1},
)
class Engine:
    """One engine; `name` and its other arguments as `engines.open_engine` takes them."""

    async def __init__(self, name: str = "espeak", **options: Any) -> None:  # type: ignore[misc]  # Serve awaits it
        self._stack = AsyncExitStack()
        self._engine = await self._stack.enter_async_context(engines.open_engine(name, **options))

    def check_health(self) -> None:
        """Raises when Serve should replace this replica."""
        health = self._engine.health()
        if health.state is engines.EngineState.FAILED:
            raise RuntimeError(health.detail)

    async def __call__(self, request: Request) -> Response:
        match request.method, request.url.path:
            case "GET", "/v1/engine":
                return JSONResponse(dict(self._engine.describe()))
            case "POST", "/v1/engine/synthesize":
                return await self._speak(await request.body())
            case "POST", "/v1/engine/embedding":
                return await self._embed(await request.body())
        return _problem(404, "There is nothing at this path.")

    async def _speak(self, body: bytes) -> Response:
        try:
            chunks = self._engine.synthesize(read_utterance(json.loads(body)))
            first = await anext(chunks, None)
        except ValueError as error:
            return _problem(400, f"The body is no JSON: {error}")
        except engines.EngineError as error:
            return _blamed(error)
        if first is None:
            return Response(b"", media_type=SPEECH)
        return StreamingResponse(_samples(first, chunks), media_type=SPEECH)

    async def _embed(self, body: bytes) -> Response:
        try:
            asked = json.loads(body)
            samples = base64.b64decode(asked["recording"], validate=True)
            embedding = await self._engine.enrol(samples, int(asked["rate_hz"]))
        except engines.EngineError as error:
            return _blamed(error)
        except (ValueError, KeyError, TypeError) as error:
            return _problem(400, f"The body is no recording: {error!r}")
        data = base64.b64encode(embedding).decode()
        return JSONResponse(
            {"kind": self._engine.embedding_kind, "data": data, "figures": dict(self._engine.figures(embedding))}
        )


async def _samples(first: engines.Pcm, rest: AsyncGenerator[engines.Pcm, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(rest):
        yield first.samples
        async for chunk in rest:
            yield chunk.samples


def _blamed(error: engines.EngineError) -> Response:
    """As /v1/engine of a server has it."""
    match error:
        case engines.UnknownVoice():
            return _problem(404, str(error), field="voice")
        case engines.Unsupported(field=field):
            return _problem(400, str(error), field=field)
        case engines.UnsuitableUtterance():
            return _problem(422, str(error), field="text")
        case engines.UnsuitableReference():
            return _problem(422, str(error), field="recording")
        case engines.EngineBusy(retry_after_s=retry_after_s):
            return _problem(503, str(error), headers={"Retry-After": str(max(1, round(retry_after_s)))})
    return _problem(500, str(error))


def _problem(status: int, detail: str, *, field: str = "", headers: dict[str, str] | None = None) -> Response:
    errors = [{"field": field, "message": detail}] if field else []
    return JSONResponse(
        {"type": "about:blank", "status": status, "detail": detail, "errors": errors},
        status_code=status,
        headers=headers,
        media_type="application/problem+json",
    )


app = Engine.bind(os.environ.get("ENGINE", "espeak"))
