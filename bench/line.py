"""How late the audio of calls is on /v1/calls/{id}/audio, and what a connection costs: scripts/bench line [--help]

Each call has a telephone that talks in packets of 20 ms, and a client that listens and now and then speaks 400 ms at
once. Measured: from a packet of the telephone to the client's message that has its first sample; from a client's
message to the first packet of it at the telephone, which waits up to 20 ms for the next slot; from `clear` to the last
packet that is not silence. Then the resident memory of the server for each of 1,000 connections that wait for one call
to be answered. Telephones and clients are one process, which shares the cores with the server.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import random
import re
import resource
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import aiohttp

import sip
from bench.calls import usage

PORT, SIP_PORT = 8072, 5072
SILENCE = b"\xff" * 160
SPOKEN_MS = 400
IDLE = 1000


class Telephone:
    """One call's other end: `codes` are the codes that packets are filled with, and when they came first."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.setblocking(False)
        self.target = ("", 0)
        self.came: dict[int, float] = {}
        self.sounded_at = 0.0
        self.sent: dict[int, float] = {}

    def receive(self) -> None:
        packet = self.socket.recv(2048)
        if packet[1] & 0x7F == 0 and packet[12:] != SILENCE:
            self.sounded_at = time.monotonic()
            self.came.setdefault(packet[12], self.sounded_at)

    async def talk(self) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time() + random.random() * 0.02
        for number in range(10**9):
            await asyncio.sleep(begun + 0.02 * number - loop.time())
            code = number % 100
            head = bytes([0x80, 0]) + (number % 2**16).to_bytes(2, "big") + (160 * number).to_bytes(4, "big") + b"talk"
            self.sent[code] = time.monotonic()
            self.socket.sendto(head + bytes([code]) * 160, self.target)


async def measure(
    client: aiohttp.ClientSession, telephone: Telephone, id: str, seconds: float
) -> tuple[list[float], list[float], list[float]]:
    """Of one call, in ms: mouth to socket, socket to wire, clear to silence."""
    out: list[float] = []
    heard: set[int] = set()

    async def listen(line: aiohttp.ClientWebSocketResponse) -> None:
        async for message in line:
            if message.type is aiohttp.WSMsgType.BINARY:
                now = time.monotonic()
                for code in set(message.data) - heard - {0xFF}:
                    heard.add(code)
                    heard.discard((code + 50) % 100)
                    out.append((now - telephone.sent[code]) * 1000)

    spoken, cleared = [], []
    async with client.ws_connect(f"/v1/calls/{id}/audio?format=mulaw") as line:
        await line.receive()
        listening = asyncio.create_task(listen(line))
        talking = asyncio.create_task(telephone.talk())
        until = time.monotonic() + seconds
        code = 1
        while time.monotonic() < until:
            await asyncio.sleep(0.3 + random.random() * 0.1)
            telephone.came.clear()
            asked = time.monotonic()
            await line.send_bytes(bytes([code]) * (8 * SPOKEN_MS))
            await asyncio.sleep(0.2)
            spoken.append((telephone.came.get(code, asked + 9) - asked) * 1000)
            asked = time.monotonic()
            await line.send_json({"type": "clear"})
            await asyncio.sleep(0.1)
            cleared.append((telephone.sounded_at - asked) * 1000)
            code = code % 100 + 1
        talking.cancel()
        listening.cancel()
        await asyncio.gather(talking, listening, return_exceptions=True)
    return out[100:], spoken, cleared


def told(values: list[float]) -> str:
    values = sorted(values)
    return f"{values[len(values) // 2]:6.1f} {values[len(values) * 99 // 100]:6.1f} {values[-1]:6.1f}"


async def run(options: argparse.Namespace, server: int) -> None:
    telephones: dict[str, Telephone] = {}
    agent = sip.Agent(random=random.Random())
    events: asyncio.Queue[sip.Event] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    async with (
        sip.Transport.open(agent, [("127.0.0.1", 0)], deliver=events.put_nowait) as transport,
        aiohttp.ClientSession(f"http://127.0.0.1:{PORT}", connector=aiohttp.TCPConnector(limit=0)) as client,
    ):

        async def answer() -> None:
            while True:
                event = await events.get()
                if isinstance(event, sip.Offered) and event.request.uri.user in telephones:
                    telephone = telephones[event.request.uri.user]
                    found = re.search(rb"m=audio (\d+)", event.request.body)
                    assert found is not None
                    telephone.target = ("127.0.0.1", int(found[1]))
                    body = (
                        "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
                        f"m=audio {telephone.socket.getsockname()[1]} RTP/AVP 0\r\n"
                    )
                    transport.answer(event.call, body=body.encode())
                elif isinstance(event, sip.Offered):
                    transport.ring(event.call)

        answering = asyncio.create_task(answer())
        host, port = transport.addresses[0]

        async def place(user: str) -> str:
            order = {"to": f"sip:{user}@{host}:{port}", "stay": 600}
            async with client.post("/v1/calls", json=order) as response:
                return str((await response.json())["id"])

        print("calls  mouth to socket, ms   socket to wire, ms    clear to silence, ms   server")
        print("          p50    p99    max     p50    p99    max     p50    p99    max      cores")
        for calls in options.calls:
            users = [f"{calls}-{number}" for number in range(calls)]
            for user in users:
                telephones[user] = Telephone()
                loop.add_reader(telephones[user].socket, telephones[user].receive)
            ids = [await place(user) for user in users]
            begun, before = time.monotonic(), usage(server)[0]
            rows = await asyncio.gather(
                *(measure(client, telephones[user], id, options.seconds) for user, id in zip(users, ids, strict=True))
            )
            cores = (usage(server)[0] - before) / (time.monotonic() - begun)
            figures = [told([value for row in rows for value in row[column]]) for column in range(3)]
            print(f"{calls:5}  {figures[0]}  {figures[1]}  {figures[2]}   {cores:5.2f}")
            for id in ids:
                await client.delete(f"/v1/calls/{id}")
        id = await place("rings")
        await asyncio.sleep(1)
        before = usage(server)[1]
        lines = [
            await client.ws_connect(f"/v1/calls/{id}/audio?direction=listen", autoping=True)
            for _ in range(options.idle)
        ]
        print(f"{options.idle} idle connections: {(usage(server)[1] - before) / options.idle * 1024:.1f} KiB each")
        await asyncio.gather(*(line.close() for line in lines))
        answering.cancel()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, nargs="+", default=[1, 20, 100])
    parser.add_argument("--seconds", type=float, default=10, help="of each row")
    parser.add_argument("--idle", type=int, default=IDLE)
    options = parser.parse_args()
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    print(f"{platform.platform()}, {os.cpu_count()} CPUs, Python {platform.python_version()}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "server.toml"
        path.write_text(
            f'[sip]\nlisten = "127.0.0.1:{SIP_PORT}"\n[http]\nlisten = "127.0.0.1:{PORT}"\n[engine]\nname = "tone"\n'
            f'[rtp]\nports = "9000-9999"\n[log]\nlevel = "warning"\n[store]\npath = "{folder}/store"\n',
            encoding="utf-8",
        )
        server = subprocess.Popen(
            [sys.executable, "-m", "mediaserver", "serve", "--config", str(path)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
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
