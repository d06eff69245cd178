"""How soon and how fast speech comes over HTTP: scripts/bench http [--help]

Two loads. "listeners": each stream asks for a sentence of some five seconds, and for the next one when the first would
have been heard; so 200 of them are 200 voices that speak at the same moment. "flat out": each asks again at once.
Measured: requests per second, time from the request to the first byte of audio, and the slowest stream's speed against
real time. The engine alone, in this process and with as many workers, gets the same load in the same run. Each sentence
is different, so no cache helps; with --cached it is the same one each time, which was said before, and the engine has
no row. The client shares the cores with the server, and costs about as much as it.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

import engines
from bench.calls import usage

PORT, SIP_PORT = 8071, 5071
SENTENCE = "This is sentence number {number}, which is spoken once and never again, and goes on for a little longer."
ENDPOINTS = {
    "stream": ("/v1/synthesize/stream", {"format": "mulaw"}),
    "body": ("/v1/synthesize", {"format": "mulaw"}),
    "openai": ("/v1/audio/speech", {"model": "tts-1", "voice": "alloy", "response_format": "mulaw"}),
}


@dataclass(frozen=True)
class Said:
    """One sentence: seconds to its first sound, to its last, and of its speech."""

    first_s: float
    took_s: float
    audio_s: float


Say = Callable[[str], Awaitable[Said]]


@dataclass
class Row:
    said: list[Said] = field(default_factory=list)
    failed: int = 0
    took_s: float = 0.0
    cpu_s: float = 0.0

    def tell(self, what: str, load: str, streams: int) -> None:
        if not self.said:
            print(f"{what:8} {load:10} {streams:5}  nothing was said, {self.failed} failed")
            return
        first = sorted(said.first_s * 1000 for said in self.said)
        slowest = min(said.audio_s / said.took_s for said in self.said)
        print(
            f"{what:8} {load:10} {streams:5} {len(first):7} {len(first) / self.took_s:8.1f} "
            f"{statistics.median(first):8.1f} {first[min(len(first) - 1, len(first) * 99 // 100)]:8.1f} "
            f"{slowest:9.1f} {self.failed:6} {self.cpu_s / self.took_s:6.2f}"
        )


class Connection:
    """One client's connection, which lives as long as its stream. No more of HTTP than the server sends."""

    def __init__(self, endpoint: str) -> None:
        self._path, self._fields = ENDPOINTS[endpoint]
        self._text = "input" if endpoint == "openai" else "text"
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def say(self, text: str) -> Said:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", PORT)
        reader, writer = self._streams
        body = json.dumps({self._text: text, **self._fields}).encode()
        head = f"POST {self._path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        began = time.perf_counter()
        writer.write(head.encode() + b"\r\n\r\n" + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        if b" 200 " not in answer.partition(b"\r\n")[0]:
            raise ConnectionError(answer.decode())
        length = next(
            (int(line.split()[1]) for line in answer.lower().split(b"\r\n") if b"content-length" in line), None
        )
        first = 0.0
        data = bytearray()
        if length is not None:
            data += await reader.readexactly(1)
            first = time.perf_counter()
            data += await reader.readexactly(length - 1)
        else:
            while size := int(await reader.readline(), 16):
                data += (await reader.readexactly(size + 2))[:-2]
                first = first or time.perf_counter()
            await reader.readline()
        took_s = time.perf_counter() - began
        audio_s = len(data) / 8000
        if b"event: done" in data:
            audio_s = json.loads(data.rpartition(b"data: ")[2])["audio_duration_ms"] / 1000
        return Said(first - began, took_s, audio_s)


async def engine_says(engine: engines.Engine, text: str) -> Said:
    began, first, audio_s = time.perf_counter(), 0.0, 0.0
    async with aclosing(engine.synthesize(engines.Utterance(text=text))) as chunks:
        async for chunk in chunks:
            first = first or time.perf_counter()
            audio_s += chunk.duration_ms / 1000
    return Said(first - began, time.perf_counter() - began, audio_s)


async def measure(
    make: Callable[[], Say],
    *,
    streams: int,
    seconds: float,
    listeners: bool,
    cpu: Callable[[], float],
    cached: bool = False,
) -> Row:
    row = Row()
    numbers = itertools.repeat(1) if cached else itertools.count(random.randrange(10**6))
    began = time.perf_counter()

    async def one() -> None:
        say = make()
        if listeners:
            await asyncio.sleep(random.uniform(0, min(5.0, seconds / 2)))
        while time.perf_counter() - began < seconds:
            asked = time.perf_counter()
            try:
                said = await say(SENTENCE.format(number=next(numbers)))
            except (OSError, EOFError, engines.EngineError):
                row.failed += 1
                return
            row.said.append(said)
            if listeners:
                await asyncio.sleep(max(0.0, asked + said.audio_s - time.perf_counter()))

    before = cpu()
    tasks = [asyncio.create_task(one()) for _ in range(streams)]
    await asyncio.sleep(seconds)
    row.cpu_s = cpu() - before
    row.took_s = time.perf_counter() - began
    done = len(row.said)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    del row.said[done:]
    return row


async def run(options: argparse.Namespace, server_pid: int) -> None:
    print("what     load       streams  said  said/s   p50 ms   p99 ms  x realtime failed  cores")
    loads = [load for load in ("listeners", "flat out") if options.load in (load, "both")]
    if options.cached:
        await Connection(options.endpoint).say(SENTENCE.format(number=1))
    async with engines.open_engine("espeak", workers=options.workers) as engine:
        for streams in options.streams:
            for load in loads:
                listeners = load == "listeners"
                (
                    await measure(
                        lambda: Connection(options.endpoint).say,
                        streams=streams,
                        seconds=options.seconds,
                        listeners=listeners,
                        cpu=lambda: usage(server_pid)[0],
                        cached=options.cached,
                    )
                ).tell(options.endpoint, load, streams)
                if options.cached:
                    continue
                (
                    await measure(
                        lambda: lambda text: engine_says(engine, text),
                        streams=streams,
                        seconds=options.seconds,
                        listeners=listeners,
                        cpu=lambda: usage(os.getpid())[0],
                    )
                ).tell("engine", load, streams)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 10, 50, 200])
    parser.add_argument("--seconds", type=float, default=10, help="of each row")
    parser.add_argument("--endpoint", choices=list(ENDPOINTS), default="stream")
    parser.add_argument("--load", choices=["listeners", "flat out", "both"], default="both")
    parser.add_argument("--cached", action="store_true", help="one sentence, which was said before")
    parser.add_argument("--workers", type=int, default=2, help="of the engine, in the server and alone")
    options = parser.parse_args()
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    print(f"{platform.platform()}, {os.cpu_count()} CPUs, Python {platform.python_version()}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "server.toml"
        path.write_text(
            f'[sip]\nlisten = "127.0.0.1:{SIP_PORT}"\n[http]\nlisten = "127.0.0.1:{PORT}"\n'
            f"max_concurrent = {max(options.streams)}\n[engine]\nworkers = {options.workers}\n"
            f'[rtp]\nports = "9000-9999"\n[log]\nlevel = "warning"\n[store]\npath = "{folder}/store"\n',
            encoding="utf-8",
        )
        server = subprocess.Popen(
            [sys.executable, "-m", "mediaserver", "serve", "--config", str(path)], stdout=subprocess.DEVNULL
        )
        try:
            for _ in range(200):
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{PORT}/ready", timeout=1).close()
                    break
                except OSError:
                    time.sleep(0.1)
            asyncio.run(run(options, server.pid))
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
