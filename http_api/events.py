"""/v1/events: what happens to calls, as server-sent events (WHATWG HTML section 9.2)."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from aiohttp import web

from .control import CallControl, EventFacts, NotFound
from .delivery import patiently
from .problem import Problem
from .route import Answer, Operation
from .schema import EVENT_KINDS, ApiLimits, EventReport

__all__ = ["CALL_EVENTS", "EVENTS", "Events"]

RETRY_MS = 2000

EXAMPLE = (
    'id: 5f0c9be2-17\nevent: call.answered\ndata: {"type":"call.answered","call_id":"call_0123456789abcdef01234567",'
    '"at":"2026-11-25T12:00:00Z","details":{}}\n\n'
)
STREAM = Answer(status=200, description="It follows.", content={"text/event-stream": EXAMPLE})

EVENTS = Operation(
    summary="What happens to calls: server-sent events",
    description=f"{', '.join(f'`{kind}`' for kind in EVENT_KINDS if kind != 'call.record')}; the data is an "
    "`EventReport`. With the header Last-Event-ID it begins after that event; the latest 2000 are kept, "
    "and an event `gap` says that some are missing.",
    answers=(STREAM,),
    problems=(500, 503),
    models=(EventReport,),
)

CALL_EVENTS = Operation(
    summary="What happens to one call: server-sent events",
    description="As `/v1/events`; after `call.ended` the stream ends. Without Last-Event-ID it begins with "
    "the first that is kept.",
    answers=(STREAM,),
    problems=(404, 500, 503),
    models=(EventReport,),
)


class Events:
    """The streams of events."""

    def __init__(self, control: CallControl, *, limits: ApiLimits) -> None:
        self._control = control
        self._limits = limits
        self._open: set[asyncio.Task[object]] = set()

    async def all(self, request: web.Request) -> web.StreamResponse:
        return await self._stream(request, None)

    async def one(self, request: web.Request) -> web.StreamResponse:
        id = request.match_info["id"]
        self._control.call(id)
        return await self._stream(request, id)

    async def close(self, _app: web.Application) -> None:
        """The server ends: so do the streams, and whoever follows comes again by himself."""
        for task in self._open:
            task.cancel()

    async def _stream(self, request: web.Request, call_id: str | None) -> web.StreamResponse:
        limits = self._limits
        if len(self._open) >= limits.max_sockets:
            raise Problem.of_overload(
                503, f"{limits.max_sockets} streams of events are open already.", retry_after_s=limits.retry_after_s
            )
        response = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream",
                "Cache-Control": "no-store",
                "X-Accel-Buffering": "no",  # nginx would collect the events otherwise
            }
        )
        task = asyncio.current_task()
        assert task is not None, "a request is a task"
        self._open.add(task)
        try:
            await response.prepare(request)
            await patiently(response.write(f"retry: {RETRY_MS}\n\n".encode()), limits)
            after = request.headers.get("Last-Event-ID") or None
            async with aclosing(self._control.events(after, call_id=call_id, idle_s=limits.keep_alive_s)) as events:
                async for event in events:
                    line = ":\n\n" if event is None else _event(event)
                    await patiently(response.write(line.encode()), limits)
                    if call_id is not None and self._has_ended(call_id, event):
                        break
            await patiently(response.write_eof(), limits)
        finally:
            self._open.discard(task)
        return response

    def _has_ended(self, id: str, event: EventFacts | None) -> bool:
        """Whether nothing more will happen to a call; its end may be kept no more, and then nothing happens at all."""
        if event is not None:
            return event.kind == "call.ended"
        try:
            return self._control.call(id).state == "ended"
        except NotFound:
            return True


def _event(event: EventFacts) -> str:
    report = EventReport(type=event.kind, call_id=event.call_id, at=event.at, details=dict(event.details))
    return f"id: {event.id}\nevent: {event.kind}\ndata: {report.model_dump_json()}\n\n"
