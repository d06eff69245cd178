"""Two media servers behind Kamailio with one Redis, each machine a network namespace; one is killed, another drained.

    unshare -rnm python -m tests.cluster FOLDER     # prints what happened, as JSON

It is run in namespaces of its own, so that nothing of it is seen from outside, and wants no right that a user lacks who
may make them.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from asyncio.subprocess import DEVNULL, Process
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp

from tests.speakers_support import form, somebody, wav_of

ROOT = Path(__file__).parents[1]
PROXY, REDIS, CALLER = "10.77.0.5", "10.77.0.6", "10.77.0.20"
NODES = {"media1": "10.77.0.11", "media2": "10.77.0.12"}
MACHINES = {"proxy": PROXY, "redis": REDIS, "caller": CALLER, **NODES}
HTTP_PORT = 8080
RATE = 8
"""Calls in a second."""
SECONDS = 27
CONFIG = """\
[sip]
listen = "{host}:5060"
networks = ["{proxy}/32"]
drain_s = 20

[http]
listen = "{host}:8080"
allow_unauthenticated = true

[redis]
url = "redis://{redis}:6379/0"

[store]
path = "{store}"

[[route]]
say = "This is call number one of many, and it takes some three seconds to say so."
"""


def shell(*commands: str) -> None:
    for command in commands:
        subprocess.run(command.split(), check=True)


def make_machines() -> None:
    shell(
        "mount --make-rprivate /",
        "mount -t tmpfs none /run",
        "ip link set lo up",
        "ip link add wire type bridge",
        "ip link set wire up",
        "ip addr add 10.77.0.1/24 dev wire",
    )
    Path("/run/kamailio").mkdir()
    for name, host in MACHINES.items():
        shell(
            f"ip netns add {name}",
            f"ip link add {name} type veth peer name eth0 netns {name}",
            f"ip link set {name} master wire up",
            f"ip -n {name} addr add {host}/24 dev eth0",
            f"ip -n {name} link set eth0 up",
            f"ip -n {name} link set lo up",
        )


class Cluster:
    """The machines and what runs on them; `folder` is for their files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nodes: dict[str, Process] = {}
        self.others: list[Process] = []

    async def start(self, machine: str, *command: str) -> Process:
        with (self.folder / f"{machine}.log").open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *("ip", "netns", "exec", machine, *command),
                stdin=DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                start_new_session=True,
            )

    async def start_node(self, name: str) -> None:
        host = NODES[name]
        file = self.folder / f"{name}.toml"
        file.write_text(CONFIG.format(host=host, proxy=PROXY, redis=REDIS, store=self.folder / name))
        self.nodes[name] = await self.start(name, sys.executable, "-m", "mediaserver", "serve", "--config", str(file))

    async def start_all(self) -> None:
        redis = ("redis-server", "--bind", REDIS, "--protected-mode", "no", "--save", "", "--dir", str(self.folder))
        self.others.append(await self.start("redis", *redis))
        await asyncio.gather(*map(self.start_node, NODES))
        servers = self.folder / "dispatcher.list"
        servers.write_text("".join(f"1 sip:{host}:5060 0 0 duid={name}\n" for name, host in NODES.items()))
        await self.start_proxy()

    async def start_proxy(self) -> None:
        servers = self.folder / "dispatcher.list"
        options = {"LISTEN": f"udp:{PROXY}:5060", "NODES": f'"{servers}"', "CALLERS": f'"127.0.0.0/8, {CALLER}/32"'}
        defined = [part for name, value in options.items() for part in ("-A", f"{name}={value}")]
        config = ROOT / "deploy" / "kamailio" / "kamailio.cfg"
        arguments = ("-f", str(config), *defined, "-DD", "-E", "-Y", str(self.folder), "-m", "64", "-M", "8")
        self.others.append(await self.start("proxy", "kamailio", *arguments))

    async def standing(self) -> dict[str, str]:
        """What Kamailio knows of each server: AP is active and asked, IP is not."""
        asked = await asyncio.create_subprocess_exec(
            *("kamcmd", "-s", "unix:/run/kamailio/kamailio_ctl", "dispatcher.list"),
            stdout=asyncio.subprocess.PIPE,
            stderr=DEVNULL,
        )
        told = (await asked.communicate())[0].decode()
        found, host = {}, ""
        for line in told.splitlines():
            key, _, value = line.strip().partition(": ")
            if key == "URI":
                host = value.partition(":")[2].partition(":")[0]
            elif key == "FLAGS":
                found[host] = value
        return {name: found.get(host, "") for name, host in NODES.items()}

    async def until(self, **wanted: str) -> float:
        """Wait until servers stand like that; how long it took."""
        began = time.monotonic()
        async with asyncio.timeout(40):
            while True:
                standing = await self.standing()
                if all(standing[name] == flags for name, flags in wanted.items()):
                    return round(time.monotonic() - began, 2)
                await asyncio.sleep(0.1)

    async def calls(self, client: aiohttp.ClientSession, name: str) -> int:
        """How many calls a server has."""
        async with client.get(f"http://{NODES[name]}:{HTTP_PORT}/v1/calls") as response:
            return sum(call["ended_at"] is None for call in (await response.json())["calls"])

    async def load(self, seconds: int) -> tuple[Process, Path]:
        """Calls at RATE for so long."""
        folder = self.folder / f"load{time.monotonic_ns()}"
        folder.mkdir()
        process = await self.start(
            "caller",
            *("sh", "-c", 'cd "$0" && exec "$@"', str(folder)),
            *("sipp", f"{PROXY}:5060", "-sf", str(ROOT / "tests" / "sipp" / "uac_proxied.xml"), "-i", CALLER),
            *("-r", str(RATE), "-m", str(RATE * seconds), "-l", "1000", "-nostdin", "-timeout", "60s"),
            *("-trace_logs", "-trace_err", "-trace_stat", "-mi", CALLER),
        )
        return process, folder

    async def close(self) -> None:
        for process in (*self.nodes.values(), *self.others):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


async def asked(request: str, route: str) -> str:
    """What Kamailio answers one who is nobody: the status, "" if nothing."""
    loop = asyncio.get_running_loop()
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.bind(("10.77.0.1", 0))
        port = sock.getsockname()[1]
        tag = ";tag=2" if route else ""
        message = (
            f"{request} SIP/2.0\r\nVia: SIP/2.0/UDP 10.77.0.1:{port};branch=z9hG4bK{port}\r\nMax-Forwards: 70\r\n"
            f"{route}From: <sip:n@10.77.0.1>;tag=1\r\nTo: <sip:a@10.77.0.5>{tag}\r\nCall-ID: {port}\r\n"
            f"CSeq: 1 {request.split()[0]}\r\nContact: <sip:n@10.77.0.1:{port}>\r\nContent-Length: 0\r\n\r\n"
        )
        await loop.sock_sendto(sock, message.encode(), (PROXY, 5060))
        try:
            answer = await asyncio.wait_for(loop.sock_recv(sock, 4096), 3)
        except TimeoutError:
            return ""
    return answer.decode().split()[1]


def outcome(status: int, folder: Path) -> dict[str, Any]:
    """What became of a load."""
    logs = "".join(file.read_text() for file in folder.glob("*_logs.log"))
    header, *rows = next(iter(folder.glob("*_.csv"))).read_text().splitlines()
    last = dict(zip(header.split(";"), rows[-1].split(";"), strict=False))
    return {
        "status": status,
        "lost": logs.count("lost "),
        "calls": int(last["TotalCallCreated"]),
        "failed": int(last["FailedCall(C)"]),
    }


async def play(folder: Path) -> dict[str, Any]:
    told: dict[str, Any] = {}
    cluster = Cluster(folder)
    try:
        await cluster.start_all()
        told["ready_s"] = await cluster.until(media1="AP", media2="AP")
        async with aiohttp.ClientSession() as client:
            # A speaker that is enrolled with one server is known to the other.
            url = "http://{}:8080/v1/speakers"
            async with client.post(url.format(NODES["media1"]), data=form(wav_of(somebody()), name="Ada")) as response:
                id = (await response.json())["id"]
            async with client.get(f"{url.format(NODES['media2'])}/{id}") as response:
                told["shared_speaker"] = response.status

            told["stranger"] = await asked("INVITE sip:a@10.77.0.5", "")
            told["relayed"] = await asked("BYE sip:a@10.77.0.20", "Route: <sip:10.77.0.5;lr>\r\n")

            process, where = await cluster.load(SECONDS)
            await asyncio.sleep(5)
            told["spread"] = {name: await cluster.calls(client, name) for name in NODES}
            os.killpg(cluster.nodes["media2"].pid, signal.SIGKILL)
            told["killed_s"] = await cluster.until(media1="AP", media2="IP")
            await asyncio.sleep(2)
            await cluster.start_node("media2")
            told["back_s"] = await cluster.until(media1="AP", media2="AP")
            # The proxy is replaced in the middle of all calls.
            os.killpg(cluster.others[-1].pid, signal.SIGKILL)
            await cluster.others[-1].wait()
            await cluster.start_proxy()
            told["proxy_back_s"] = await cluster.until(media1="AP", media2="AP")
            await asyncio.sleep(2)
            told["before_drain"] = {name: await cluster.calls(client, name) for name in NODES}
            draining = cluster.nodes["media1"]
            os.kill(draining.pid, signal.SIGTERM)
            told["drained_s"] = await cluster.until(media1="IP", media2="AP")
            told["drained_status"] = await asyncio.wait_for(draining.wait(), 30)
            told["load"] = outcome(await asyncio.wait_for(process.wait(), 70), where)
    finally:
        await cluster.close()
    return told


def main() -> None:
    make_machines()
    sys.stdout.write(json.dumps(asyncio.run(play(Path(sys.argv[1])))))


def may_run() -> bool:
    """Whether there is all that it takes."""
    programs = ("ip", "unshare", "kamailio", "kamcmd", "redis-server", "sipp")
    if not all(map(shutil.which, programs)):
        return False
    probe = "mount --make-rprivate / && mount -t tmpfs none /run && ip netns add x && ip link add wire type bridge"
    return subprocess.run(["unshare", "-rnm", "sh", "-c", probe], capture_output=True, check=False).returncode == 0


if __name__ == "__main__":
    main()
