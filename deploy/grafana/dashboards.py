"""The dashboards as tables; `python deploy/grafana/dashboards.py` writes dashboards/*.json, which Grafana is given."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "dashboards"
WIDTH = 8
HEIGHT = 8
PER_LINE = 24 // WIDTH
HERE = 'instance=~"$instance"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A graph: `queries` are (expression, legend), `limit` is drawn as a line in red."""

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    about: str = ""
    limit: float | None = None
    most: float | None = None


def rate(metric: str, labels: str = "") -> str:
    return f"rate({metric}{{{HERE}{', ' if labels else ''}{labels}}}[$__rate_interval])"


def total(metric: str, by: str = "", labels: str = "") -> str:
    return f"sum{f' by ({by})' if by else ''} ({rate(metric, labels)})"


def quantiles(metric: str) -> tuple[tuple[str, str], ...]:
    return tuple(
        (f"histogram_quantile({part}, {total(f'{metric}_bucket', 'le')})", f"p{part * 100:g}")
        for part in (0.5, 0.95, 0.99)
    )


def gauge(metric: str, labels: str = "") -> str:
    return f"{metric}{{{HERE}{', ' if labels else ''}{labels}}}"


def share(part: str, of: str) -> str:
    return f"{part} / ({of} > 0)"


CALLS = (
    Panel(title="Calls now", queries=((gauge("sip_calls_active"), "{{instance}}"),)),
    Panel(
        title="Calls ended, by why",
        queries=((total("sip_calls_ended_total", "cause, status"), "{{cause}} {{status}}"),),
    ),
    Panel(
        title="Requests refused by admission",
        queries=(
            (total("sip_turned_away_total"), "refused"),
            (total("sip_ignored_total"), "ignored"),
            (total("sip_wrong_proofs_total"), "wrong password"),
        ),
        about="Refused: full, or unknown. Ignored: unknown, where sip.unknown says so.",
    ),
    Panel(
        title="Set-up time",
        queries=quantiles("sip_call_setup_ms"),
        unit="ms",
        about="From INVITE to our 200.",
        limit=500,
    ),
    Panel(
        title="First-speech latency",
        queries=quantiles("sip_call_first_speech_ms"),
        unit="ms",
        about="From ACK to the first sample of speech being ready to send.",
        limit=500,
    ),
    Panel(title="How long calls last", queries=quantiles("sip_call_duration_seconds"), unit="s"),
    Panel(
        title="Trunks",
        queries=((gauge("sip_trunk_up"), "{{trunk}} is up"), (gauge("sip_trunk_calls"), "calls with {{trunk}}")),
    ),
    Panel(
        title="Round trip to trunks",
        queries=((gauge("sip_trunk_probe_rtt_seconds"), "{{trunk}} {{target}}"),),
        unit="s",
    ),
    Panel(title="Calls placed on a REFER", queries=((total("sip_transfers_total", "status"), "{{status}}"),)),
    Panel(
        title="SIP requests", queries=((total("sip_requests_total", "direction, method"), "{{direction}} {{method}}"),)
    ),
    Panel(
        title="SIP responses", queries=((total("sip_responses_total", "direction, class"), "{{direction}} {{class}}"),)
    ),
    Panel(
        title="SIP messages again, and malformed",
        queries=(
            (total("sip_retransmissions_total", "direction"), "{{direction}} again"),
            (total("sip_malformed_total"), "malformed"),
        ),
    ),
)

MEDIA = (
    Panel(
        title="How late packets leave",
        queries=quantiles("rtp_lateness_seconds"),
        unit="s",
        about="Against the deadline of each packet.",
        limit=0.005,
    ),
    Panel(
        title="Underruns",
        queries=(
            (
                share(
                    total("rtp_frames_total", labels='kind="underrun"'),
                    total("rtp_frames_total", labels='kind=~"speech|underrun"'),
                ),
                "of the frames of speech",
            ),
        ),
        unit="percentunit",
        about="Speech that came too late for its packet.",
        limit=0.001,
    ),
    Panel(
        title="Ticks late, and frames skipped",
        queries=(
            (total("rtp_late_ticks_total"), "ticks late by 1 ms"),
            (total("rtp_skipped_frames_total"), "frames skipped"),
        ),
    ),
    Panel(
        title="Loss on the way to us",
        queries=(
            (
                f"1 - {share(total('rtp_packets_received_total'), total('rtp_packets_expected_total'))}",
                "of peers' packets",
            ),
        ),
        unit="percentunit",
        limit=0.02,
    ),
    Panel(
        title="MOS at the callers",
        queries=(
            (share(total("rtp_call_mos_sum"), total("rtp_call_mos_count")), "mean"),
            (f"histogram_quantile(0.05, {total('rtp_call_mos_bucket', 'le')})", "worst 5 %"),
        ),
        about="Of calls whose phones report by RTCP, which many do not.",
        most=4.5,
    ),
    Panel(
        title="RTP ports",
        queries=((gauge("rtp_ports_free"), "free, {{instance}}"), (gauge("rtp_streams"), "streams, {{instance}}")),
    ),
    Panel(
        title="Packets",
        queries=((total("rtp_packets_sent_total"), "sent"), (total("rtp_packets_received_total"), "received")),
        unit="pps",
    ),
    Panel(
        title="Packets sent, by what was in them",
        queries=((total("rtp_frames_total", "kind"), "{{kind}}"),),
        unit="pps",
    ),
    Panel(
        title="Packets that were odd, or could not be sent",
        queries=(
            (total("rtp_received_odd_total", "how"), "received: {{how}}"),
            (total("rtp_unsent_total", "reason"), "not sent: {{reason}}"),
            (total("rtp_receive_errors_total"), "errors of sockets"),
        ),
        unit="pps",
    ),
    Panel(
        title="SCHED_FIFO", queries=((gauge("rtp_realtime"), "{{instance}}"),), about="1 where it is granted.", most=1
    ),
    Panel(title="Pushes now", queries=((gauge("rtp_pushes_active"), "{{instance}}"),)),
    Panel(title="Pushes ended, by how", queries=((total("rtp_pushes_ended_total", "state"), "{{state}}"),)),
)

SPEECH = (
    Panel(title="Utterances being made", queries=((gauge("tts_active_requests"), "{{instance}}"),)),
    Panel(
        title="Real-time factor",
        queries=quantiles("tts_rtf"),
        about="Time the engine takes over time the speech lasts; above 1 nothing can be streamed.",
        limit=1,
    ),
    Panel(title="Engine's time for an utterance", queries=quantiles("tts_inference_latency_ms"), unit="ms"),
    Panel(
        title="Engine's failures",
        queries=((total("tts_failures_total"), "utterances"), (total("tts_engine_restarts_total"), "workers replaced")),
    ),
    Panel(
        title="Cache hits",
        queries=((total("tts_cache_lookups_total", "result"), "{{result}}"),),
        about="Where an utterance was: memory, disk, redis; joined: being made; miss: made for this one.",
    ),
    Panel(
        title="Speech that is kept",
        queries=((f"sum by (place) ({gauge('tts_cache_bytes')})", "{{place}}"),),
        unit="bytes",
    ),
    Panel(
        title="GPU memory of the engine",
        queries=((gauge("tts_gpu_memory_gb"), "{{instance}}"),),
        unit="decgbytes",
        limit=20,
    ),
    Panel(
        title="HTTP: speech requests",
        queries=((total("tts_requests_total", "endpoint, status"), "{{endpoint}} {{status}}"),),
        unit="reqps",
    ),
    Panel(
        title="HTTP: from request to last byte",
        queries=quantiles("tts_request_latency_ms"),
        unit="ms",
    ),
    Panel(title="HTTP: not let in", queries=((total("http_refused_total", "status"), "{{status}}"),), unit="reqps"),
    Panel(title="WebSockets", queries=((gauge("http_websockets_open"), "open, {{instance}}"),)),
    Panel(
        title="The process",
        queries=(
            (rate("process_cpu_seconds_total"), "cores, {{instance}}"),
            (gauge("mediaserver_healthy"), "healthy, {{instance}}"),
            (gauge("mediaserver_ready"), "ready, {{instance}}"),
            (gauge("redis_up"), "Redis, {{instance}}"),
        ),
    ),
    Panel(title="Memory", queries=((gauge("process_resident_memory_bytes"), "{{instance}}"),), unit="bytes"),
    Panel(
        title="File descriptors",
        queries=((f"{gauge('process_open_fds')} / {gauge('process_max_fds')}", "{{instance}}"),),
        unit="percentunit",
        limit=0.9,
    ),
)

DASHBOARDS = {"calls": ("Calls", CALLS), "media": ("Media", MEDIA), "speech": ("Speech and HTTP", SPEECH)}


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    steps = [{"color": "green", "value": None}]
    if panel.limit is not None:
        steps.append({"color": "red", "value": panel.limit})
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.about,
        "datasource": {"type": "prometheus", "uid": "prometheus"},
        "gridPos": {"w": WIDTH, "h": HEIGHT, "x": number % PER_LINE * WIDTH, "y": number // PER_LINE * HEIGHT},
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "min": 0,
                **({"max": panel.most} if panel.most is not None else {}),
                "custom": {"thresholdsStyle": {"mode": "off" if panel.limit is None else "line"}},
                "thresholds": {"mode": "absolute", "steps": steps},
            },
            "overrides": [],
        },
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [
            {"refId": chr(ord("A") + at), "expr": expression, "legendFormat": legend}
            for at, (expression, legend) in enumerate(panel.queries)
        ],
    }


def dashboard(name: str) -> dict[str, Any]:
    title, panels = DASHBOARDS[name]
    return {
        "uid": f"mediaserver-{name}",
        "title": f"Media server: {title}",
        "tags": ["mediaserver"],
        "schemaVersion": 41,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "links": [
            {
                "title": "Media server",
                "type": "dashboards",
                "tags": ["mediaserver"],
                "includeVars": True,
                "keepTime": True,
            }
        ],
        "templating": {
            "list": [
                {
                    "name": "instance",
                    "label": "Server",
                    "type": "query",
                    "datasource": {"type": "prometheus", "uid": "prometheus"},
                    "query": {"query": "label_values(mediaserver_healthy, instance)", "refId": "instance"},
                    "refresh": 2,
                    "multi": True,
                    "includeAll": True,
                    "current": {"text": "All", "value": "$__all"},
                }
            ]
        },
        "panels": [_panel(number, panel) for number, panel in enumerate(panels)],
    }


def text(name: str) -> str:
    return json.dumps(dashboard(name), indent=1) + "\n"


if __name__ == "__main__":
    for name in DASHBOARDS:
        (FOLDER / f"{name}.json").write_text(text(name))
