"""Everything that Prometheus may ask, in one registry made with the server and gone with it.

Counters that the SIP and RTP stacks keep themselves are read from them when a scrape asks, so they cost nothing in
between: see `watch`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

import http_api
import rtp
import sip

__all__ = ["Metrics", "connection_families", "health_families", "rtp_families", "sip_families"]

# One range has to suit a cached prompt (1 ms) and a cold GPU (seconds).
LATENCY_BUCKETS_MS = (1, 2, 5, 10, 20, 30, 50, 75, 100, 150, 200, 300, 500, 1000, 2000, 5000, 10_000)
RATIO_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.85, 1.0, 1.5, 2.0, 5.0)
MOS_BUCKETS = (1.5, 2.0, 2.5, 3.0, 3.5, 3.8, 4.0, 4.2, 4.4)
DURATION_BUCKETS_S = (1, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)


class Metrics:
    """The registry and the instruments in it; each attribute is one instrument."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self.tts_requests = Counter(
            "tts_requests", "Speech requests over HTTP", ["endpoint", "status"], registry=self.registry
        )
        self.tts_request_latency = Histogram(
            "tts_request_latency_ms",
            "From request to last byte, ms",
            ["endpoint"],
            buckets=LATENCY_BUCKETS_MS,
            registry=self.registry,
        )
        self.sockets_open = Gauge("http_websockets_open", "WebSockets that are open", registry=self.registry)
        self.sockets_ended = Counter("http_websockets_ended", "WebSockets that ended", ["how"], registry=self.registry)
        self.http_refused = Counter("http_refused", "Requests that were not let in", ["status"], registry=self.registry)
        self.tts_inference_latency = Histogram(
            "tts_inference_latency_ms",
            "Time the engine took for one utterance, ms",
            buckets=LATENCY_BUCKETS_MS,
            registry=self.registry,
        )
        self.tts_rtf = Histogram(
            "tts_rtf", "Engine time over audio time", buckets=RATIO_BUCKETS, registry=self.registry
        )
        self.tts_gpu_memory = Gauge("tts_gpu_memory_gb", "GPU memory in use by the engine, GB", registry=self.registry)
        self.tts_active = Gauge("tts_active_requests", "Utterances being made now", registry=self.registry)
        self.tts_queue = Gauge("tts_queue_depth", "Pieces of speech that no worker has begun", registry=self.registry)
        self.tts_late = Gauge(
            "tts_late_chunks",
            "Times that a listener had heard everything before more was made, since the worker's start",
            registry=self.registry,
        )
        self.tts_failures = Counter("tts_failures", "Utterances the engine failed at", registry=self.registry)
        self.tts_substituted = Counter(
            "tts_substituted", "Utterances that engine.fallback spoke instead", registry=self.registry
        )
        self.cache_lookups = Counter(
            "tts_cache_lookups",
            'Utterances by where they were: memory, disk, redis; "joined": being made; "miss": made for this one',
            ["result"],
            registry=self.registry,
        )
        self.cache_bytes = Gauge("tts_cache_bytes", "Speech that is kept, bytes", ["place"], registry=self.registry)
        self.redis_up = Gauge("redis_up", "Whether other servers are followed by Redis", registry=self.registry)
        self.calls = Counter(
            "sip_calls_ended", "Calls ended, by why and final status", ["cause", "status"], registry=self.registry
        )
        self.transfers = Counter(
            "sip_transfers",
            "Calls placed on a REFER, by final status",
            ["status"],
            registry=self.registry,
        )
        self.calls_active = Gauge("sip_calls_active", "Calls between INVITE and end", registry=self.registry)
        self.call_setup = Histogram(
            "sip_call_setup_ms", "From INVITE to our 200, ms", buckets=LATENCY_BUCKETS_MS, registry=self.registry
        )
        self.call_first_speech = Histogram(
            "sip_call_first_speech_ms",
            "From ACK to the first sample of speech being ready to send, ms",
            buckets=LATENCY_BUCKETS_MS,
            registry=self.registry,
        )
        self.call_duration = Histogram(
            "sip_call_duration_seconds", "From answer to end, s", buckets=DURATION_BUCKETS_S, registry=self.registry
        )

        self.call_mos = Histogram(
            "rtp_call_mos",
            "Estimated MOS of our speech at the caller, of calls whose phone reports by RTCP",
            buckets=MOS_BUCKETS,
            registry=self.registry,
        )

        self.recordings = Counter("recordings_ended", "Recordings ended, by why", ["reason"], registry=self.registry)
        self.recordings_active = Gauge("recordings_active", "Calls being recorded", registry=self.registry)
        self.recordings_bytes = Gauge("recordings_bytes", "What recordings take, bytes", registry=self.registry)
        self.dialogue_requests = Counter(
            "dialogue_requests", "Requests to webhooks that conduct calls", ["result"], registry=self.registry
        )
        for result in ("answered", "failed"):
            self.dialogue_requests.labels(result)  # a rate begins at 0
        self.dialogue_latency = Histogram(
            "dialogue_latency_ms",
            "From asking a webhook what a call is to do to its answer, ms",
            buckets=LATENCY_BUCKETS_MS,
            registry=self.registry,
        )

        self.pushes = Counter("rtp_pushes_ended", "Pushes ended, by how", ["state"], registry=self.registry)
        self.pushes_active = Gauge("rtp_pushes_active", "Pushes that are alive", registry=self.registry)

    def watch(self, collect: Callable[[], Iterable[Metric]]) -> None:
        """Ask `collect` for metric families at every scrape."""
        self.registry.register(_Watched(collect))

    def exposition(self) -> tuple[bytes, str]:
        """The text of a scrape and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST


class _Watched(Collector):
    def __init__(self, collect: Callable[[], Iterable[Metric]]) -> None:
        self._collect = collect

    def collect(self) -> Iterable[Metric]:
        return self._collect()

    def describe(self) -> Iterable[Metric]:
        return ()


def health_families(health: http_api.Health) -> list[Metric]:
    """What /health and /ready say, as metric families."""
    return [
        GaugeMetricFamily("mediaserver_healthy", "1 if /health says that the process works", int(health.healthy)),
        GaugeMetricFamily("mediaserver_ready", "1 if new work is taken", int(health.ready)),
        CounterMetricFamily(
            "tts_engine_restarts",
            "Workers of the engine that had to be replaced",
            int(health.details["engine_restarts"]),
        ),
    ]


def rtp_families(counters: rtp.EndpointCounters) -> list[Metric]:
    """What the RTP plane has done, as metric families."""
    frames = CounterMetricFamily("rtp_frames", "Packets sent, by what was in them", labels=["kind"])
    frames.add_metric(["speech"], counters.speech_frames)
    frames.add_metric(["silence"], counters.silence_frames)
    frames.add_metric(["underrun"], counters.underrun_frames)
    frames.add_metric(["event"], counters.event_frames)
    unsent = CounterMetricFamily("rtp_unsent", "Packets that the system would not send", labels=["reason"])
    unsent.add_metric(["buffer full"], counters.send_blocked)
    unsent.add_metric(["refused by the peer's host"], counters.send_refused)
    unsent.add_metric(["other"], counters.send_failed)
    odd = CounterMetricFamily("rtp_received_odd", "Packets received that were not as they should be", labels=["how"])
    odd.add_metric(["reordered"], counters.reordered)
    odd.add_metric(["duplicate"], counters.duplicates)
    odd.add_metric(["invalid"], counters.invalid)
    odd.add_metric(["stranger"], counters.strangers)
    odd.add_metric(["on probation"], counters.probation)
    total = 0
    buckets = []
    for bound_us, count in zip((*counters.lateness_us, None), counters.lateness_counts, strict=True):
        total += count
        buckets.append(("+Inf" if bound_us is None else str(bound_us / 1e6), total))
    lateness = HistogramMetricFamily("rtp_lateness_seconds", "How late packets left, against their deadline")
    lateness.add_metric([], buckets=buckets, sum_value=counters.lateness_sum_s)
    return [
        frames,
        unsent,
        odd,
        lateness,
        GaugeMetricFamily("rtp_streams", "Streams that are open", counters.streams),
        GaugeMetricFamily("rtp_ports_free", "Port pairs that a call could take", counters.ports_free),
        GaugeMetricFamily("rtp_realtime", "1 if the plane runs under SCHED_FIFO", int(counters.realtime)),
        CounterMetricFamily("rtp_packets_sent", "Packets sent", counters.packets_sent),
        CounterMetricFamily("rtp_octets_sent", "Octets of payload sent", counters.octets_sent),
        CounterMetricFamily("rtp_underruns", "Times that speech came too late for its packet", counters.underruns),
        CounterMetricFamily("rtp_skipped_frames", "Deadlines passed over after a stall", counters.skipped_frames),
        CounterMetricFamily("rtp_late_ticks", "Ticks that began 1 ms late or more", counters.late_ticks),
        CounterMetricFamily("rtp_packets_received", "Packets received", counters.packets_received),
        CounterMetricFamily("rtp_octets_received", "Octets of payload received", counters.octets_received),
        # Loss is the difference. It is none of the counters, since it falls when a packet comes late.
        CounterMetricFamily(
            "rtp_packets_expected",
            "Packets that peers have sent, by their sequence numbers",
            counters.packets_received + counters.lost,
        ),
        CounterMetricFamily("rtp_sources", "Sources of media followed, one after the other", counters.sources),
        CounterMetricFamily("rtp_receive_errors", "Errors of receiving sockets", counters.receive_errors),
        CounterMetricFamily(
            "rtp_notices_dropped", "Telephone events and RTCP beyond what a stream may bring", counters.notices_dropped
        ),
        CounterMetricFamily("rtp_audio_dropped", "Frames of 20 ms that their listener left", counters.audio_dropped),
    ]


def sip_families(counters: sip.Counters) -> list[Metric]:
    """What the SIP agent has done, as metric families."""
    requests = CounterMetricFamily("sip_requests", "Requests, without repetitions", labels=["direction", "method"])
    responses = CounterMetricFamily("sip_responses", "Responses, without repetitions", labels=["direction", "class"])
    again = CounterMetricFamily("sip_retransmissions", "Messages sent or received again", labels=["direction"])
    for method, count in counters.requests_received.items():
        requests.add_metric(["received", method], count)
    for method, count in counters.requests_sent.items():
        requests.add_metric(["sent", method], count)
    for status_class, count in counters.responses_received.items():
        responses.add_metric(["received", status_class], count)
    for status_class, count in counters.responses_sent.items():
        responses.add_metric(["sent", status_class], count)
    again.add_metric(["received"], counters.retransmissions_received)
    again.add_metric(["sent"], counters.retransmissions_sent)
    return [
        requests,
        responses,
        again,
        CounterMetricFamily("sip_malformed", "Datagrams that were no SIP message", counters.malformed),
        CounterMetricFamily("sip_turned_away", "Requests refused by admission: full, or unknown", counters.turned_away),
        CounterMetricFamily("sip_ignored", "Requests from unknown sources that were not answered", counters.ignored),
        CounterMetricFamily("sip_wrong_proofs", "Requests with a wrong user or password", counters.wrong_proofs),
        GaugeMetricFamily("sip_transactions", "Transactions that are alive", counters.transactions),
        GaugeMetricFamily("sip_dialogs", "Dialogs that are alive", counters.dialogs),
    ]


def connection_families(counters: sip.StreamCounters) -> list[Metric]:
    """What has become of the connections of SIP over TCP and TLS, as metric families."""
    alive = GaugeMetricFamily("sip_connections", "Connections that are open, by transport", labels=["transport"])
    for transport in ("TCP", "TLS"):
        alive.add_metric([transport.lower()], counters.open.get(transport, 0))
    begun = CounterMetricFamily("sip_connections_begun", "Connections, by who made them", labels=["by"])
    begun.add_metric(["peer"], counters.accepted)
    begun.add_metric(["us"], counters.made)
    closed = CounterMetricFamily("sip_connections_closed", "Connections that ended, by why", labels=["reason"])
    for reason, count in counters.closed.items():
        closed.add_metric([reason], count)
    refused = "Connections refused because there were too many"
    return [alive, begun, closed, CounterMetricFamily("sip_connections_refused", refused, counters.refused)]
