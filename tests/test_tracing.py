"""Traces of calls, as a collector gets them: OTLP over HTTP, decoded by the protocol's own definitions."""

from __future__ import annotations

import asyncio
import gzip
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

import sip
from mediaserver import config
from mediaserver.detail import Facts
from mediaserver.server import StartError, problems
from mediaserver.tracing import FAREWELL_S, MOST_WAITING, Traces
from tests.live import heard, serving, settings, until_calls
from tests.test_calls_api import api
from tests.test_referrals import phone

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TEXT = "All our lines are busy."


class Collector:
    """What has come: spans, attributes of the resources, and the headers of the requests."""

    def __init__(self, status: int, hangs: asyncio.Event | None) -> None:
        self.url = ""
        self.status = status
        self.spans: list[Span] = []
        self.resource: dict[str, object] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        self._hangs = hangs

    async def take(self, request: web.Request) -> web.Response:
        self.requests.append((request.path, dict(request.headers)))
        body = await request.read()
        if self._hangs is not None:
            await self._hangs.wait()
        if self.status == 200:
            told = ExportTraceServiceRequest.FromString(
                gzip.decompress(body) if request.headers.get("Content-Encoding") == "gzip" else body
            )
            for group in told.resource_spans:
                self.resource = attributes(group.resource.attributes)
                self.spans += [span for scope in group.scope_spans for span in scope.spans]
        return web.Response(
            status=self.status,
            body=ExportTraceServiceResponse().SerializeToString(),
            content_type="application/x-protobuf",
        )

    async def until(self, found: Callable[[Collector], bool]) -> None:
        async with asyncio.timeout(20):
            while not found(self):  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    def named(self, name: str) -> Span:
        (span,) = [span for span in self.spans if span.name == name]
        return span


@asynccontextmanager
async def collector(status: int = 200, hangs: asyncio.Event | None = None) -> AsyncIterator[Collector]:
    made = Collector(status, hangs)
    app = web.Application()
    app.router.add_post("/{path:.*}", made.take)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield made
    finally:
        await runner.cleanup()


def attributes(pairs: Iterable[KeyValue]) -> dict[str, object]:
    return {pair.key: getattr(pair.value, str(pair.value.WhichOneof("value"))) for pair in pairs}


async def placed(running: Any, to: str, *, traceparent: str | None = None, **fields: object) -> None:
    """Place a call, and wait for its end."""
    headers = {} if traceparent is None else {"traceparent": traceparent}
    async with api(running) as client:
        url = f"http://{running.http_address}/v1/calls"
        async with (
            aiohttp.ClientSession() as session,
            session.post(url, json={"to": to} | fields, headers=headers) as response,
        ):
            assert response.status == 201, await response.text()
            id = (await response.json())["id"]
        await client.ended(id)


async def traced(running: Any, outcome: str, count: int) -> None:
    """Return when so many calls are counted."""
    line = f'traced_calls_total{{outcome="{outcome}"}} {count}.0'
    async with aiohttp.ClientSession(f"http://{running.http_address}") as session, asyncio.timeout(20):
        while True:
            async with session.get("/metrics") as response:
                if line in (await response.text()).splitlines():
                    return
            await asyncio.sleep(0.05)


async def test_a_call_is_one_trace_from_its_invite_to_its_end() -> None:
    before = time.time_ns()
    async with collector() as there, serving(trace={"endpoint": there.url}, route=[{"say": TEXT}]) as running:
        await heard(running)
        await there.until(lambda there: len(there.spans) == 4)
        after = time.time_ns()
        call = there.named("call")
        parts = [there.named(name) for name in ("set-up", "first speech", "talk")]
        assert {span.trace_id for span in there.spans} == {call.trace_id}
        assert [part.parent_span_id for part in parts] == [call.span_id] * 3
        assert (call.parent_span_id, call.kind, call.status.code) == (
            b"",
            Span.SPAN_KIND_SERVER,
            Status.STATUS_CODE_UNSET,
        )
        set_up, first, talk = parts
        assert before < call.start_time_unix_nano == set_up.start_time_unix_nano
        assert set_up.end_time_unix_nano <= first.start_time_unix_nano == talk.start_time_unix_nano
        assert first.start_time_unix_nano <= first.end_time_unix_nano < talk.end_time_unix_nano
        assert talk.end_time_unix_nano == call.end_time_unix_nano < after
        known = attributes(call.attributes)
        assert known.pop("sip.call_id")
        assert str(known.pop("call.id")).startswith("call_")
        # A packet leaves every 20 ms for as long as there is talk.
        talked_s = (talk.end_time_unix_nano - talk.start_time_unix_nano) / 1e9
        assert talked_s == pytest.approx(known["rtp.packets_sent"] * 0.02, abs=0.3)  # type: ignore[operator]
        for figure in ("rtp.packets_sent", "rtp.packets_received", "rtp.jitter_ms"):
            assert known.pop(figure) >= 0  # type: ignore[operator]
        for figure in ("rtp.mos", "rtp.rtt_ms", "rtp.peer.packets_lost"):
            known.pop(figure, None)  # there are none without a report of the peer's
        assert known == {
            "network.protocol.name": "sip",
            "network.peer.address": "127.0.0.1",
            "call.direction": "inbound",
            "call.end.reason": "completed",
            "call.end.by": "server",
            "rtp.codec": "PCMU",
            "rtp.packets_lost": 0,
            "rtp.underruns": 0,
        }
        assert there.resource.keys() >= {"service.name", "service.version", "host.name", "telemetry.sdk.name"}
        assert there.resource["service.name"] == "mediaserver"
        assert [path for path, _ in there.requests] == ["/v1/traces"]


async def test_the_trace_names_the_parties_only_where_that_is_wanted_and_never_the_text() -> None:
    for wanted in (False, True):
        async with collector() as there, serving(trace={"endpoint": there.url, "parties": wanted}) as running:
            await heard(running, "0815", text=TEXT)
            await there.until(lambda there: len(there.spans) == 4)
            told = str(there.spans)
            assert ("0815" in told) is wanted
            assert TEXT not in told


async def test_a_call_that_is_ordered_is_part_of_the_trace_of_whoever_orders_it() -> None:
    async with collector() as there, serving(trace={"endpoint": there.url}) as running, phone() as callee:
        await placed(running, callee.uri, text="a", traceparent=f"00-{TRACE}-{PARENT}-01")
        await there.until(lambda there: len(there.spans) == 4)
        offered = await callee.until(sip.Offered)
        assert isinstance(offered, sip.Offered)
        call = there.named("call")
        assert (call.trace_id.hex(), call.parent_span_id.hex()) == (TRACE, PARENT)
        assert (call.kind, attributes(call.attributes)["call.direction"]) == (Span.SPAN_KIND_CLIENT, "outbound")
        assert [event.name for event in call.events] == ["ringing"]
        assert attributes(call.attributes)["sip.call_id"] == offered.request.call_id


@pytest.mark.parametrize("traceparent", ["", "nonsense", f"00-{'0' * 32}-{PARENT}-01", f"ff-{TRACE}-{PARENT}-01"])
async def test_a_traceparent_that_is_malformed_is_passed_over(traceparent: str) -> None:
    async with collector() as there, serving(trace={"endpoint": there.url}) as running, phone() as callee:
        await placed(running, callee.uri, text="a", traceparent=traceparent)
        await there.until(lambda there: len(there.spans) == 4)
        assert there.named("call").parent_span_id == b""


async def test_whoever_orders_a_call_decides_whether_it_is_traced() -> None:
    async with collector() as there, serving(trace={"endpoint": there.url, "ratio": 0}) as running, phone() as callee:
        await placed(running, callee.uri, text="a")
        await placed(running, callee.uri, text="a", traceparent=f"00-{TRACE}-{PARENT}-00")
        await placed(running, callee.uri, text="a", traceparent=f"00-{TRACE}-{PARENT}-01")
        await there.until(lambda there: len(there.spans) == 4)
    assert len(there.spans) == 4


@pytest.mark.parametrize(("status", "is_fault"), [(486, False), (500, True)])
async def test_a_call_that_fails_is_an_error_unless_the_other_side_had_a_reason(status: int, is_fault: bool) -> None:
    async with collector() as there, serving(trace={"endpoint": there.url}) as running, phone(status=status) as callee:
        await placed(running, callee.uri, text="a")
        await there.until(lambda there: len(there.spans) == 2)
        call, set_up = there.named("call"), there.named("set-up")
        assert attributes(call.attributes)["sip.response.status_code"] == status
        assert (call.status.code == Status.STATUS_CODE_ERROR) is is_fault
        assert set_up.end_time_unix_nano == call.end_time_unix_nano


async def test_a_collector_that_takes_nothing_is_told_of_once_and_again_when_it_does() -> None:
    with structlog.testing.capture_logs() as lines:
        async with collector(status=400) as there, serving(trace={"endpoint": there.url}) as running:
            for count in (1, 2):
                await heard(running, text="a")
                await traced(running, "lost", count)
            there.status = 200
            await heard(running, text="a")
            await traced(running, "sent", 1)
    told = [(line["event"], line["log_level"]) for line in lines if line["event"].startswith("traces")]
    assert told == [("traces are not taken", "warning"), ("traces are taken again", "info")]


async def test_a_collector_that_hangs_holds_up_no_call_and_not_the_end_of_the_server() -> None:
    hangs = asyncio.Event()
    async with collector(hangs=hangs) as there:
        async with serving(trace={"endpoint": there.url}) as running:
            await heard(running, text="a")
            await there.until(lambda there: bool(there.requests))
            outcome = await heard(running, text="a")
            assert (outcome.answered, outcome.ended_by) == (True, "the peer hung up")
            began = time.monotonic()
        assert time.monotonic() - began < FAREWELL_S + 2
        hangs.set()


async def test_a_call_pays_for_its_trace_with_a_place_in_a_queue_that_is_bounded(tmp_path: Path) -> None:
    file = tmp_path / "calls.jsonl"
    ended: list[Facts] = []
    async with serving(calls={"record_file": file}, engine={"name": "tone"}) as running:
        running.switchboard._record = ended.append
        await heard(running, text="a")
        await until_calls(running, 0)
    (facts,) = ended
    traces = Traces(config.Trace(endpoint="http://127.0.0.1:9"), version="1")
    began = time.perf_counter()
    for _ in range(MOST_WAITING):
        traces.record(facts)
    assert (time.perf_counter() - began) / MOST_WAITING < 100e-6
    traces.record(facts)
    (family,) = traces.families()
    assert [(sample.labels["outcome"], sample.value) for sample in family.samples] == [("sent", 0), ("lost", 1)]


async def test_headers_of_the_configuration_go_there_and_a_path_is_not_doubled() -> None:
    async with (
        collector() as there,
        serving(trace={"endpoint": f"{there.url}/v1/traces/", "headers": {"Authorization": "Bearer x"}}) as running,
    ):
        await heard(running, text="a")
        await there.until(lambda there: bool(there.requests))
    (path, headers), *_ = there.requests
    assert (path, headers["Authorization"]) == ("/v1/traces", "Bearer x")


async def test_without_the_extra_the_key_is_named_and_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "mediaserver.tracing", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    wanted = settings(trace={"endpoint": "http://127.0.0.1:4318"}, engine={"name": "tone"})
    (told,) = await problems(wanted)
    assert told.startswith("trace.endpoint: ")
    assert "mediaserver[otel]" in told
    with pytest.raises(StartError, match=r"^trace\.endpoint"):
        async with serving(trace={"endpoint": "http://127.0.0.1:4318"}):
            pass


@pytest.mark.parametrize("endpoint", ["127.0.0.1:4318", "grpc://a:4317", "http://", "http://a/?token=b"])
def test_an_endpoint_that_cannot_be_is_refused(endpoint: str) -> None:
    with pytest.raises(config.ConfigError, match=r"trace\.endpoint"):
        config.load(None, {"MEDIASERVER_TRACE__ENDPOINT": endpoint})
