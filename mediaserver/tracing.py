"""A trace of every call for an OpenTelemetry collector: made at its end of what is known of it, in a thread of its own.

Only the extra `otel` has what is imported here.
"""

from __future__ import annotations

import asyncio
import queue
import socket
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import structlog
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prometheus_client.core import CounterMetricFamily

from mediaserver import config
from mediaserver.detail import End, Facts

__all__ = ["Traces"]

log = structlog.get_logger("tracing")

# What waits while the collector is away, how many go there at a time, and how long others may still join them.
MOST_WAITING = 10_000
BATCH = 100
GATHER_S = 1.0
# For sending a batch, once more and again if need be, and for the last ones when the server stops.
TIMEOUT_S = 5.0
FAREWELL_S = 3.0

PATH = "/v1/traces"  # OTLP 1.0: the default of OTLP/HTTP
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# Figures of the media, by their names in `Facts.media`: OpenTelemetry's semantic conventions know no telephony.
MEDIA = {
    "codec": "rtp.codec",
    "mos": "rtp.mos",
    "lost": "rtp.packets_lost",
    "packets_received": "rtp.packets_received",
    "packets_sent": "rtp.packets_sent",
    "peer_lost": "rtp.peer.packets_lost",
    "jitter_ms": "rtp.jitter_ms",
    "rtt_ms": "rtp.rtt_ms",
    "underruns": "rtp.underruns",
}


class Traces:
    """Takes the calls that have ended to `trace.endpoint`, while `sending` lasts.

    No call waits for the collector. What it does not take is lost, and counted; that it takes nothing is said once.
    """

    def __init__(self, settings: config.Trace, *, version: str) -> None:
        assert settings.endpoint is not None, "there is nothing to be traced for"
        self._parties = settings.parties
        self._endpoint = settings.endpoint.removesuffix("/").removesuffix(PATH) + PATH
        self._exporter = OTLPSpanExporter(
            self._endpoint,
            headers={name: value.get_secret_value() for name, value in settings.headers.items()},
            timeout=TIMEOUT_S,
        )
        own = {"service.name": "mediaserver", "service.version": version, "host.name": socket.gethostname()}
        provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(settings.ratio)),
            # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES know better.
            resource=Resource.create(own).merge(OTELResourceDetector().detect()),
            shutdown_on_exit=False,
        )
        self._made = _Made()
        provider.add_span_processor(self._made)
        self._tracer = provider.get_tracer("mediaserver", version)
        self._waiting: queue.Queue[Facts | None] = queue.Queue(MOST_WAITING)
        self._sent = self._lost = 0
        self._away = False
        # A daemon, so that a collector which hangs keeps nobody from stopping.
        self._thread = threading.Thread(target=self._run, name="tracing", daemon=True)

    def record(self, facts: Facts) -> None:
        """A call has ended."""
        try:
            self._waiting.put_nowait(facts)
        except queue.Full:
            self._lost += 1

    def families(self) -> list[CounterMetricFamily]:
        """As metric families."""
        spans = CounterMetricFamily("traced_calls", "Calls by what became of their traces", labels=["outcome"])
        spans.add_metric(["sent"], self._sent)
        spans.add_metric(["lost"], self._lost)
        return [spans]

    @asynccontextmanager
    async def sending(self) -> AsyncIterator[None]:
        """What is recorded meanwhile is sent; at the end there are FAREWELL_S for the rest."""
        self._thread.start()
        try:
            yield
        finally:
            try:
                self._waiting.put_nowait(None)
            except queue.Full:
                log.warning("traces are lost", endpoint=self._endpoint, calls=self._waiting.qsize())
            else:
                await asyncio.to_thread(self._thread.join, FAREWELL_S)
            await asyncio.to_thread(self._exporter.shutdown)

    def _run(self) -> None:
        going = True
        while going:
            batch = [self._waiting.get()]
            until = time.monotonic() + GATHER_S
            while batch[-1] is not None and len(batch) < BATCH:
                try:
                    batch.append(self._waiting.get(timeout=max(0.0, until - time.monotonic())))
                except queue.Empty:
                    break
            going = batch[-1] is not None
            self._send([facts for facts in batch if facts is not None])

    def _send(self, calls: list[Facts]) -> None:
        for facts in calls:
            self._describe(facts)
        # None of those that are not to be traced, by trace.ratio or by whoever ordered them.
        spans = self._made.take()
        if not spans:
            return
        traced = sum(span.parent is None or span.parent.is_remote for span in spans)
        taken = self._exporter.export(spans) is SpanExportResult.SUCCESS
        if taken:
            self._sent += traced
        else:
            self._lost += traced
        if taken and self._away:
            log.info("traces are taken again", endpoint=self._endpoint, lost=self._lost)
        elif not (taken or self._away):
            log.warning("traces are not taken", endpoint=self._endpoint)
        self._away = not taken

    def _describe(self, facts: Facts) -> None:
        """Make the spans of a call: the whole, and what it consisted of."""
        assert facts.ended_at is not None, "it has ended"
        parent = TraceContextTextMapPropagator().extract({"traceparent": facts.traceparent or ""})
        call = self._tracer.start_span(
            "call",
            parent,
            kind=SpanKind.SERVER if facts.direction == "inbound" else SpanKind.CLIENT,
            start_time=_ns(facts.created_at),
            attributes=self._attributes(facts),
        )
        if facts.ringing_at is not None:
            call.add_event("ringing", timestamp=_ns(facts.ringing_at))
        answered, confirmed = facts.answered_at, facts.confirmed_at
        self._part(call, "set-up", facts.created_at, answered or facts.ended_at)
        if confirmed is not None:
            if facts.first_speech_ms is not None:
                heard_at = confirmed + timedelta(milliseconds=facts.first_speech_ms)
                self._part(call, "first speech", confirmed, heard_at)
            self._part(call, "talk", confirmed, facts.ended_at)
        if facts.end is not None and _is_fault(facts.end):
            call.set_attribute("error.type", facts.end.reason)
            call.set_status(Status(StatusCode.ERROR))
        call.end(_ns(facts.ended_at))

    def _part(self, call: Span, name: str, begin: datetime, end: datetime) -> None:
        self._tracer.start_span(name, set_span_in_context(call), start_time=_ns(begin)).end(_ns(end))

    def _attributes(self, facts: Facts) -> dict[str, str | int | float]:
        media = facts.media or {}
        end = facts.end
        known: dict[str, str | int | float | None] = {
            "network.protocol.name": "sip",
            "network.peer.address": facts.source,
            "sip.call_id": facts.sip_call_id,
            "sip.trunk": facts.trunk,
            "sip.response.status_code": None if end is None else end.status,
            "call.id": facts.id,
            "call.direction": facts.direction,
            "call.end.reason": None if end is None else end.reason,
            "call.end.by": None if end is None else end.by,
            **{attribute: media.get(name) for name, attribute in MEDIA.items()},
        }
        if self._parties:
            known |= {"sip.from": facts.caller, "sip.to": facts.callee}
        return {name: value for name, value in known.items() if value is not None and value != ""}


class _Made(SpanProcessor):
    """Keeps the spans that have been made until they are taken."""

    def __init__(self) -> None:
        self._spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self._spans.append(span)

    def take(self) -> list[ReadableSpan]:
        spans, self._spans = self._spans, []
        return spans


def _is_fault(end: End) -> bool:
    """Whether somebody should look into it: callers who err, are busy or change their minds are no reason to."""
    return end.by == "network" or (end.status is not None and 500 <= end.status < 600)


def _ns(at: datetime) -> int:
    """Nanoseconds since 1970, exactly to the microsecond."""
    return (at - EPOCH) // timedelta(microseconds=1) * 1000
