"""How many calls the whole server carries: scripts/bench calls [--help]

sipp places the calls, each with a media port of its own; bench/rtp_wire.c receives their RTP with kernel arrival times.
Measured while all calls are up: failed calls, lateness against the ideal grid of 20 ms, loss, underruns (by the
server's own count, from /metrics), CPU and memory of the server and its workers. Caller and receiver share the cores.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import re
import resource
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bench.rtp import build
from mediaserver import audio

HERE = Path(__file__).parent
SIP_PORT, HTTP_PORT, CALLER_PORT = 5070, 8070, 5099
# Some five seconds, different for each call, so that no two calls could share what was made for one of them.
SENTENCE = "This is a sentence that is spoken for {from} alone, and it goes on for a little while longer than most do."
WATCH_S = 30
METRICS = ("rtp_underruns_total", "rtp_skipped_frames_total", "rtp_packets_sent_total", "rtp_packets_received_total")


def configuration(folder: Path, options: argparse.Namespace) -> Path:
    """A server that speaks for as long as the calls last: live speech, or a prompt from memory."""
    if options.speech == "prompt":
        prompt = folder / "prompt.wav"
        noise = np.random.default_rng(1).normal(0, 3000, 30 * audio.RATE_HZ).astype(np.int16)
        audio.write_wav(prompt, noise.tobytes(), rate_hz=audio.RATE_HZ)
        words = f'play = "{prompt}"\nrepeat = 1000'
    else:
        words = f'say = "{SENTENCE}"\nrepeat = 1000\ndelay_ms = {options.pause_ms}'
    path = folder / "server.toml"
    path.write_text(
        f"""
[sip]
listen = "127.0.0.1:{SIP_PORT}"
max_calls = {options.calls}
[http]
listen = "127.0.0.1:{HTTP_PORT}"
[rtp]
ports = "{options.ports}"
threads = {options.threads}
[log]
level = "warning"
[store]
path = "{folder}/store"
[cache]
memory_mb = 0
disk_mb = 0
[[route]]
{words}
""",
        encoding="utf-8",
    )
    return path


def metrics() -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{HTTP_PORT}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return {name: float(re.search(rf"^{name} (\S+)", text, re.MULTILINE)[1]) for name in METRICS}  # type: ignore[index]


def usage(pid: int) -> tuple[float, float]:
    """CPU seconds, those of children that have ended included, and resident MiB of a process and its descendants."""
    try:
        times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]
        cpu_s = sum(map(int, times)) / os.sysconf("SC_CLK_TCK")
        resident_mib = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize() / 2**20
        tasks = Path(f"/proc/{pid}/task").iterdir()
        children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:  # ended meanwhile: its parent has its time
        return 0.0, 0.0
    for child in children:
        more_s, more_mib = usage(child)
        cpu_s, resident_mib = cpu_s + more_s, resident_mib + more_mib
    return cpu_s, resident_mib


def plane_cpu_s(pid: int) -> float:
    """CPU seconds of the plane's threads, by the kernel's accounting."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    planes = [task for task in tasks if (task / "comm").read_text() == "rtp-plane\n"]
    return sum(int((task / "schedstat").read_text().split()[0]) for task in planes) / 1e9


def quantile(name: str, share: float) -> float:
    """Of a histogram of the server's, interpolated within its bucket; NaN while it is empty."""
    with urllib.request.urlopen(f"http://127.0.0.1:{HTTP_PORT}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    buckets = [
        (float(bound), float(count))
        for bound, count in re.findall(rf'^{name}_bucket\{{le="([^"]+)"\}} (\S+)', text, re.MULTILINE)
    ]
    wanted, below, lower = share * buckets[-1][1], 0.0, 0.0
    for bound, count in buckets:
        if count >= wanted > 0:
            upper = lower if bound == float("inf") else bound
            return lower + (upper - lower) * (wanted - below) / (count - below)
        below, lower = count, bound
    return float("nan")


def measure(
    options: argparse.Namespace, folder: Path, *, watch: Callable[[float, int], None] = lambda since_s, pid: None
) -> dict[str, object]:
    """One run. `watch` is called every half minute with the time since the beginning and the server's process."""
    receiver = subprocess.Popen(
        [build(str(folder)), "receive", str(options.calls), str(int(options.two_way))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    assert receiver.stdin is not None
    assert receiver.stdout is not None
    (folder / "ports.csv").write_text("SEQUENTIAL\n" + "".join(f"{p};\n" for p in receiver.stdout.readline().split()))
    server = subprocess.Popen(
        [sys.executable, "-m", "mediaserver", "serve", "--config", str(configuration(folder, options))],
        stdout=subprocess.DEVNULL,
    )
    ramp_s = options.calls / options.rate
    try:
        for _ in range(200):
            try:
                metrics()
                break
            except OSError:
                time.sleep(0.1)
        _, idle_mib = usage(server.pid)
        caller = subprocess.Popen(
            [
                *("sipp", f"127.0.0.1:{SIP_PORT}", "-sf", str(HERE / "uac.xml"), "-inf", str(folder / "ports.csv")),
                *("-i", "127.0.0.1", "-p", str(CALLER_PORT), "-m", str(options.calls), "-l", str(options.calls)),
                *("-r", str(options.rate), "-d", str(int((ramp_s + options.seconds + 6) * 1000)), "-nostdin"),
                *("-trace_stat", "-stf", str(folder / "stat.csv"), "-fd", "1", "-max_socket", "20000"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(ramp_s + 3)
        earlier, (cpu_s, _), plane_s = metrics(), usage(server.pid), plane_cpu_s(server.pid)
        receiver.stdin.write("go\n")
        started = time.monotonic()
        while (left_s := started + options.seconds - time.monotonic()) > 0:
            time.sleep(min(left_s, WATCH_S))
            watch(time.monotonic() - started, server.pid)
        receiver.stdin.write("stop\n")
        took_s = time.monotonic() - started
        later, (cpu_after_s, resident_mib) = metrics(), usage(server.pid)
        plane_s = plane_cpu_s(server.pid) - plane_s
        found: dict[str, object] = json.loads(receiver.stdout.readline())
        caller.wait(timeout=ramp_s * 2 + 60)
        time.sleep(1)
        latencies = {
            f"{short}_p{share * 100:g}_ms": quantile(name, share)
            for short, name in (("setup", "sip_call_setup_ms"), ("first_speech", "sip_call_first_speech_ms"))
            for share in (0.5, 0.99)
        }
    finally:
        server.terminate()
        server.wait()
        receiver.kill()
    with (folder / "stat.csv").open(newline="") as file:
        last = list(csv.DictReader(file, delimiter=";"))[-1]
    sent = later["rtp_packets_sent_total"] - earlier["rtp_packets_sent_total"]
    return (
        found
        | latencies
        | {
            "answered": int(last["SuccessfulCall(C)"]),
            "failed": int(last["FailedCall(C)"]),
            "retransmissions": int(last["Retransmissions(C)"]),
            "setup_mean_ms": last.get("ResponseTimesetup(C)", ""),
            "cores": (cpu_after_s - cpu_s) / took_s,
            "us_per_packet": 1e6 * (cpu_after_s - cpu_s) / sent if sent else float("nan"),
            "plane_us": 1e6 * plane_s / sent if sent else float("nan"),
            "kib_per_call": (resident_mib - idle_mib) * 1024 / options.calls,
            "underruns": later["rtp_underruns_total"] - earlier["rtp_underruns_total"],
            "skipped": later["rtp_skipped_frames_total"] - earlier["rtp_skipped_frames_total"],
            "received": later["rtp_packets_received_total"] - earlier["rtp_packets_received_total"],
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--rate", type=int, default=100, help="calls placed per second")
    parser.add_argument("--seconds", type=float, default=60, help="how long all calls are up and measured")
    parser.add_argument("--speech", choices=["espeak", "prompt"], default="espeak", help="live speech, or a prompt")
    parser.add_argument("--pause-ms", type=int, default=5000, help="between two sentences; speech is of some 5000 ms")
    parser.add_argument("--two-way", action="store_true", help="the callers send RTP too")
    parser.add_argument("--threads", type=int, default=0, help="threads of the plane; 0 for one per core")
    parser.add_argument("--ports", default="10000-31999", help="RTP ports of the server")
    options = parser.parse_args()
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    print(f"{platform.platform()}, {os.cpu_count()} CPUs, Python {platform.python_version()}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        for name, value in measure(options, Path(folder)).items():
            print(f"{name:16} {round(value, 3) if isinstance(value, float) else value}")


if __name__ == "__main__":
    main()
