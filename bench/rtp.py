"""How many streams the media plane carries, and how punctually: scripts/bench rtp [--help]

First the physical limit: datagrams a core can send here when it does nothing else (bench/rtp_wire.c). Then the plane at
growing numbers of streams, fed through Stream.write as live speech is, or through Stream.play with --prompt; with "GIL"
a Python thread beside it holds the GIL for 200 ms in every second. CPU is the plane's threads' own, by the kernel's
accounting; lateness is against the ideal grid of 20 ms, by the arrival times of the receiver's kernel.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import platform
import resource
import struct
import subprocess
import sysconfig
import tempfile
import threading
import time
from pathlib import Path

from rtp import Clip, Endpoint, Stream

HERE = Path(__file__).parent
HELD_S = 0.2
PORTS = range(10000, 32000)  # below the system's own, of which the receiver takes one for each stream
SPEECH = struct.pack("=8000h", *(int(8000 * math.sin(0.3 * n)) | 1 for n in range(8000)))


def build(folder: str) -> str:
    program = f"{folder}/rtp_wire"
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    subprocess.run([compiler, "-O2", "-o", program, HERE / "rtp_wire.c", "-lpthread"], check=True)
    return program


def limit_us(program: str, streams: int) -> float:
    """CPU time that the kernel takes for one datagram."""
    found = json.loads(subprocess.run([program, "limit", str(streams), "2"], check=True, capture_output=True).stdout)
    return 1e6 * float(found["cpu_s"]) / int(found["sent"])


def threads() -> set[str]:
    return set(os.listdir("/proc/self/task"))


def cpu_s(tids: set[str]) -> float:
    return sum(int(Path(f"/proc/self/task/{tid}/schedstat").read_text().split()[0]) for tid in tids) / 1e9


class GilHog:
    """A thread that holds the GIL for HELD_S in every second: one call into C that never lets go."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        begun = time.perf_counter()
        sum(range(10_000_000))
        self._count = int(10_000_000 * HELD_S / (time.perf_counter() - begun))
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(1 - HELD_S):
            sum(range(self._count))

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


async def speak(stream: Stream) -> None:
    while True:
        await stream.write(SPEECH, 8000)


async def play(stream: Stream, clip: Clip) -> None:
    while True:
        await stream.play(clip)


async def measure(program: str, streams: int, options: argparse.Namespace, *, hog: bool) -> dict[str, float]:
    receiver = await asyncio.create_subprocess_exec(
        program,
        "receive",
        str(streams),
        str(int(options.two_way)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 20,
    )
    assert receiver.stdin is not None
    assert receiver.stdout is not None
    ports = [int(port) for port in (await receiver.stdout.readline()).split()]
    before = threads()
    resident = resident_kib()
    async with (
        Endpoint(host="127.0.0.1", ports=PORTS, threads=options.threads, realtime=not options.fair) as endpoint,
        asyncio.TaskGroup() as tasks,
    ):
        plane = threads() - before
        speakers = []
        opened = []
        clip = Clip(SPEECH * 30, 8000)
        for port in ports:
            stream = endpoint.open()
            stream.connect(host="127.0.0.1", port=port, codec="PCMU", payload_type=0, latch=options.two_way)
            opened.append(stream)
            speakers.append(tasks.create_task(play(stream, clip) if options.prompt else speak(stream)))
        await asyncio.sleep(0.5)
        for stream in opened:
            stream.start()
        await asyncio.sleep(2)
        memory_kib = (resident_kib() - resident) / streams
        gil = GilHog() if hog else None
        earlier, cpu, python = endpoint.counters(), cpu_s(plane), cpu_s(before)
        receiver.stdin.write(b"go\n")
        await asyncio.sleep(options.seconds)
        receiver.stdin.write(b"stop\n")
        later, cpu, python = endpoint.counters(), cpu_s(plane) - cpu, cpu_s(before) - python
        found: dict[str, float] = json.loads(await receiver.stdout.readline())
        if gil is not None:
            gil.stop()
        for task in speakers:
            task.cancel()
    packets = later.packets_sent - earlier.packets_sent
    return found | {
        "plane_us": 1e6 * cpu / packets,
        "cores": cpu / options.seconds,
        "python_cores": python / options.seconds,
        "underruns": later.underruns - earlier.underruns,
        "skipped": later.skipped_frames - earlier.skipped_frames,
        "received": later.packets_received - earlier.packets_received,
        "kib": memory_kib,
        "realtime": later.realtime,
    }


def resident_kib() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", default="500,1000,2000,4000,8000", help="numbers of streams, with commas between")
    parser.add_argument("--seconds", type=float, default=10, help="how long each row is measured")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads of the plane, at most")
    parser.add_argument("--prompt", action="store_true", help="play a clip of 30 s instead of writing speech")
    parser.add_argument("--two-way", action="store_true", help="every packet is answered with one")
    parser.add_argument("--fair", action="store_true", help="do without SCHED_FIFO")
    parser.add_argument("--without-gil", action="store_true", help="leave out the rows in which the GIL is held")
    options = parser.parse_args()
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

    print(f"{platform.platform()}, {os.cpu_count()} CPUs, Python {platform.python_version()}, files {files}")
    with tempfile.TemporaryDirectory() as folder:
        program = build(folder)
        print(
            "streams  GIL  limit_us  plane_us  %limit  cores  python  p50_ms  p99_ms  p99.9    max  >20ms     lost"
            "  underruns  skipped  received  KiB/stream"
        )
        for streams in map(int, options.streams.split(",")):
            for hog in (False,) if options.without_gil else (False, True):
                limit = limit_us(program, streams)
                row = asyncio.run(measure(program, streams, options, hog=hog))
                print(
                    f"{streams:7}  {'held' if hog else '':4} {limit:8.2f}  {row['plane_us']:8.2f}"
                    f"  {100 * limit / row['plane_us']:5.0f}%  {row['cores']:5.2f}  {row['python_cores']:6.2f}"
                    f"  {row.get('p50_ms', -1):6.2f}  {row.get('p99_ms', -1):6.2f}  {row.get('p999_ms', -1):5.2f}"
                    f"  {row.get('max_ms', -1):5.1f}  {row['over_20_ms']:5.0f}  {row['lost']:7.0f}"
                    f"  {row['underruns']:9.0f}  {row['skipped']:7.0f}  {row['received']:8.0f}  {row['kib']:10.1f}"
                    f"{'' if row['realtime'] or options.fair else '  (SCHED_FIFO not granted)'}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
