"""Telling webhooks what happens to calls: one outbox for each of them, and a task that sends what is due."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from types import TracebackType

import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

import http_api
from mediaserver import config
from mediaserver.detail import Facts
from mediaserver.events import Happening
from mediaserver.outbox import Attempt, Message, Outbox, attempt_of
from mediaserver.posting import PostError, Posting
from mediaserver.records import record_of

__all__ = ["Webhooks"]

log = structlog.get_logger("webhooks")

# How long what waits may take to be told when the server stops.
FAREWELL_S = 3.0


class Webhooks:
    """The webhooks of the configuration. An async context manager, whose end is a bounded attempt to tell all.

    Nobody who tells waits for anybody who is told.

    Arguments:

    with_text  the records of calls have what was said

    Raises config.ConfigError for a secret that cannot be read.
    """

    def __init__(self, settings: Sequence[config.Webhook], posting: Posting, *, with_text: bool) -> None:
        self._with_text = with_text
        self._endpoints = [_Endpoint(one, posting) for one in settings]
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Webhooks:
        self._tasks = [asyncio.create_task(one.run(), name=f"webhook {one.name}") for one in self._endpoints]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_S):
                await asyncio.gather(*(one.emptied() for one in self._endpoints))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for one in self._endpoints:
            one.close()

    def tell(self, happening: Happening) -> None:
        """Something has happened to a call."""
        self._put(happening.id, happening.kind, happening.call, happening.at, happening.facts)

    def record(self, facts: Facts) -> None:
        """A call has ended, and this is its record."""
        at = facts.ended_at or datetime.now(UTC)
        self._put(f"{facts.id}-record", "call.record", facts.id, at, record_of(facts, with_text=self._with_text))

    def reload(self) -> None:
        """Read the secrets anew. Raises config.ConfigError, and then they stay as they were."""
        for one, keys in [(one, one.settings.keys()) for one in self._endpoints]:
            one.keys = keys

    def families(self) -> list[Metric]:
        """What has become of messages, as metric families."""
        told = CounterMetricFamily("webhook_messages", "Messages, by what became of them", labels=["webhook", "result"])
        tries = CounterMetricFamily("webhook_attempts", "Requests to webhooks", labels=["webhook"])
        waiting = GaugeMetricFamily("webhook_waiting", "Messages that wait to be delivered", labels=["webhook"])
        for one in self._endpoints:
            counts = one.outbox.counts
            told.add_metric([one.name, "delivered"], counts.delivered)
            told.add_metric([one.name, "failed"], counts.failed)
            told.add_metric([one.name, "dropped"], counts.dropped)
            tries.add_metric([one.name], counts.attempts)
            waiting.add_metric([one.name], one.outbox.waiting)
        return [told, tries, waiting]

    def _put(self, id: str, kind: str, call: str, at: datetime, facts: Mapping[str, object]) -> None:
        wanting = [one for one in self._endpoints if one.settings.wants(kind)]
        if wanting:
            report = http_api.EventReport(type=kind, call_id=call, at=at, details=dict(facts))
            message = Message(id=id, lane=call, body=report.model_dump_json(fallback=str).encode())
            for one in wanting:
                one.put(message)


class _Endpoint:
    """One webhook."""

    def __init__(self, settings: config.Webhook, posting: Posting) -> None:
        self.settings = settings
        self.name = settings.name
        self.keys = settings.keys()
        self.outbox = Outbox(random=random.SystemRandom(), max_bytes=settings.max_bytes, keep_s=settings.keep_s)
        self._posting = posting
        self._changed = asyncio.Event()
        self._troubled = False
        self._log = log.bind(webhook=self.name)

    def put(self, message: Message) -> None:
        if not self.outbox.put(message, _now()) and not self.outbox.gone:
            self._trouble("too much waits to be told: messages are dropped")
        self._changed.set()

    async def run(self) -> None:
        """Send what is due, until cancelled."""
        async with asyncio.TaskGroup() as attempts:
            while True:
                self._changed.clear()
                while (message := self.outbox.take(_now())) is not None:
                    attempts.create_task(self._try(message))
                wake_at = self.outbox.wake_at()
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(wake_at):
                        await self._changed.wait()

    async def emptied(self) -> None:
        """Return when nothing waits, or nobody is there."""
        while self.outbox.waiting and not self.outbox.away:
            self._changed.clear()
            await self._changed.wait()

    def close(self) -> None:
        if self.outbox.waiting:
            self._log.warning("messages were not delivered before the end", count=self.outbox.waiting)

    async def _try(self, message: Message) -> None:
        url = self.settings.url.get_secret_value()
        retry_after_s = 0.0
        try:
            reply = await self._posting.post(
                url, message.id, message.body, keys=self.keys, timeout_s=self.settings.timeout_s
            )
        except PostError as error:
            attempt, why = Attempt.AWAY, str(error)
        except Exception:
            self._log.exception("an attempt to deliver a message failed")
            attempt, why = Attempt.AWAY, "the attempt failed"
        else:
            attempt, why, retry_after_s = attempt_of(reply.status), f"it answers {reply.status}", reply.retry_after_s
        failed = self.outbox.counts.failed
        self.outbox.settle(message, attempt, _now(), retry_after_s=retry_after_s)
        match attempt:
            case Attempt.ACCEPTED if self._troubled and not self.outbox.away:
                self._troubled = False
                self._log.info("messages are delivered again")
            case Attempt.REFUSED | Attempt.AWAY:
                self._trouble("messages are not delivered", why=why)
            case Attempt.GONE:
                self._log.error("it wants no more messages (410): it gets none until the server is started anew")
        if self.outbox.counts.failed > failed:
            self._log.warning("a message was given up", id=message.id, why=why)
        self._changed.set()

    def _trouble(self, what: str, **facts: str) -> None:
        """Say so once, until messages are delivered again."""
        if not self._troubled:
            self._troubled = True
            self._log.warning(what, **facts)


def _now() -> float:
    return asyncio.get_running_loop().time()
