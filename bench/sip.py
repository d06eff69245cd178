"""How much signalling one process carries: scripts/bench sip [--help]

First the agent alone, in memory, in CPU time: calls and messages a second, what the parser does by itself, and the
memory of calls that are up and idle. Then over UDP on the loopback, with sipp as the caller: the highest rate of calls
(INVITE, 180, 200, ACK, a pause, BYE) of which no more than 1 % fail or need a retransmission, and the time from INVITE
to 200 at half of it, for the agent, for the whole server (which speaks into each call), and for sipp as the called
side, which is what caller and machine can do at best. All three share the cores with the caller.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import csv
import gc
import multiprocessing
import multiprocessing.connection
import os
import platform
import random
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.calls import HERE, SIP_PORT, configuration, metrics, usage
from sip import Agent, Event, Flow, Offered, Transport, parse_datagram

SDP = (
    b"v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 40000 RTP/AVP 0 8 101\r\n"
    b"a=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\na=ptime:20\r\n"
)
FLOW = Flow("UDP", ("127.0.0.1", 5060), ("127.0.0.1", 5070))
HOLD_MS = 200
IDLE_S = 100.0  # longer than every transaction lingers
TOLERATED = 0.01
CALLED_PORT, CALLER_PORT = 5088, 5089


def request(method: str, number: int, cseq: int, to: bytes = b"<sip:bench@127.0.0.1:5060>") -> bytes:
    body = SDP if method == "INVITE" else b""
    head = (
        f"{method} sip:bench@127.0.0.1:5060 SIP/2.0\r\n"
        f"Via: SIP/2.0/UDP 127.0.0.1:5070;branch=z9hG4bK-{method}-{number};rport\r\n"
        f"Max-Forwards: 70\r\nFrom: <sip:caller@127.0.0.1:5070>;tag=f{number}\r\n"
        f"Call-ID: {number}@bench\r\nCSeq: {cseq} {method}\r\nContact: <sip:caller@127.0.0.1:5070>\r\n"
        f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n"
    )
    return head.encode() + b"To: " + to + b"\r\n\r\n" + body


def header(message: bytes, name: bytes) -> bytes:
    start = message.index(b"\r\n" + name + b": ") + len(name) + 4
    return message[start : message.index(b"\r\n", start)]


def answered(agent: Agent, invite: bytes, now: float) -> list[bytes]:
    """A call comes, rings and is answered; returns what was sent: 100, 180, 200."""
    agent.receive(invite, FLOW, now)
    event = agent.next_event()
    assert isinstance(event, Offered)
    agent.ring(now, event.call)
    agent.answer(now, event.call, body=SDP)
    return [data for data, _ in agent.data_to_send()]


def bench_core(calls: int) -> None:
    agent = Agent(random=random.SystemRandom(), product="bench")
    invites = [request("INVITE", number, 1) for number in range(calls)]
    spent = 0.0
    messages: list[bytes] = []
    for number, invite in enumerate(invites):
        now = number / 1000
        start = time.process_time()
        responses = answered(agent, invite, now)
        spent += time.process_time() - start
        to = header(responses[-1], b"To")
        ack, bye = request("ACK", number, 1, to), request("BYE", number, 2, to)
        start = time.process_time()
        agent.receive(ack, FLOW, now)
        agent.receive(bye, FLOW, now)
        responses += [data for data, _ in agent.data_to_send()]
        agent.handle_timer(now)
        while agent.next_event() is not None:
            pass
        spent += time.process_time() - start
        messages = [invite, ack, bye, *responses]
    print(f"agent in memory      {calls / spent:8.0f} calls/s   {len(messages) * calls / spent:8.0f} messages/s")
    for name, some in (("an INVITE with SDP", messages[:1]), ("those of a call", messages)):
        start = time.process_time()
        for _ in range(calls):
            for message in some:
                parse_datagram(message)
        parsed = time.process_time() - start
        print(f"parser: {name:18} {len(some) * calls / parsed:10.0f} messages/s")


def resident_kib() -> float:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1024


def idle_memory(pipe: multiprocessing.connection.Connection, calls: int) -> None:
    """In a process of its own: KiB of each call that is up, once its transactions are over."""
    agent = Agent(random=random.SystemRandom(), product="bench")
    before = resident_kib()
    for number in range(calls):
        to = header(answered(agent, request("INVITE", number, 1), 0.0)[-1], b"To")
        agent.receive(request("ACK", number, 1, to), FLOW, 0.0)
        while agent.next_event() is not None:
            pass
    agent.handle_timer(IDLE_S)
    agent.data_to_send()
    counters = agent.counters()
    assert (counters.calls, counters.transactions) == (calls, 0)
    pipe.send((resident_kib() - before) / calls)


def bench_memory(calls: int) -> None:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=idle_memory, args=(theirs, calls))
    process.start()
    print(f"memory per idle call {ours.recv():8.1f} KiB       ({calls} calls, resident)")
    process.join()


# Over the wire: who is called.


def answer_calls(pipe: multiprocessing.connection.Connection) -> None:
    """The agent in its own process: rings and answers at once, until the pipe says stop."""

    async def main() -> None:
        def deliver(event: Event) -> None:
            if isinstance(event, Offered):
                transport.ring(event.call)
                transport.answer(event.call, body=SDP)

        agent = Agent(random=random.SystemRandom(), product="bench")
        async with Transport.open(agent, [("127.0.0.1", CALLED_PORT)], deliver=deliver) as transport:
            stopped = asyncio.Event()
            asyncio.get_running_loop().add_reader(pipe.fileno(), stopped.set)
            pipe.send("ready")
            await stopped.wait()

    asyncio.run(main())


@dataclass(frozen=True, slots=True, kw_only=True)
class Called:
    pid: int
    port: int


@contextlib.contextmanager
def agent_called(folder: Path) -> Iterator[Called]:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=answer_calls, args=(theirs,))
    process.start()
    ours.recv()
    assert process.pid is not None
    yield Called(pid=process.pid, port=CALLED_PORT)
    ours.send("stop")
    process.join()


@contextlib.contextmanager
def server_called(folder: Path) -> Iterator[Called]:
    """The whole server; it plays a prompt, so that what is measured is calls and not an engine."""
    options = argparse.Namespace(speech="prompt", calls=5000, ports="10000-31999", threads=0)
    command = [sys.executable, "-m", "mediaserver", "serve", "--config", str(configuration(folder, options))]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        for _ in range(200):
            with contextlib.suppress(OSError):
                metrics()
                break
            time.sleep(0.1)
        yield Called(pid=process.pid, port=SIP_PORT)
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def sipp_called(folder: Path) -> Iterator[Called]:
    command = ["sipp", "-sn", "uas", "-i", "127.0.0.1", "-p", str(CALLED_PORT), "-nostdin"]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(0.5)
    try:
        yield Called(pid=process.pid, port=CALLED_PORT)
    finally:
        process.terminate()
        process.wait()


WHO: dict[str, Callable[[Path], contextlib.AbstractContextManager[Called]]] = {
    "agent": agent_called,
    "server": server_called,
    "sipp": sipp_called,
}


# Over the wire: calling.


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What became of the calls placed at one rate. `placed` is the rate that the caller reached."""

    rate: int
    placed: float
    failed: int
    retransmissions: int
    calls: int
    p50_ms: float
    p99_ms: float
    cpu_us: float

    @property
    def passed(self) -> bool:
        return self.failed + self.retransmissions <= TOLERATED * self.calls and self.placed > 0.95 * self.rate

    def __str__(self) -> str:
        return (
            f"{self.rate:6} calls/s  reached {self.placed:6.0f}  failed {self.failed:5}  "
            f"retransmitted {self.retransmissions:5}  INVITE to 200: p50 {self.p50_ms:6.1f} p99 {self.p99_ms:6.1f} ms  "
            f"{self.cpu_us:5.0f} us/call"
        )


def call_at(rate: int, seconds: float, called: Called, media_port: int, folder: Path) -> Step:
    """Let sipp place calls at a fixed rate. Its clock, and so the times from INVITE to 200, ticks every 4 ms."""
    calls = int(rate * seconds)
    for old in folder.glob("*.csv"):
        old.unlink()
    (folder / "ports.csv").write_text(f"SEQUENTIAL\n{media_port};\n")
    cpu_s = usage(called.pid)[0]
    subprocess.run(
        [
            *("sipp", f"127.0.0.1:{called.port}", "-sf", str(HERE / "uac.xml"), "-inf", str(folder / "ports.csv")),
            *("-i", "127.0.0.1", "-p", str(CALLER_PORT), "-m", str(calls), "-l", str(4 * rate), "-r", str(rate)),
            *(
                "-d",
                str(HOLD_MS),
                "-nostdin",
                "-timer_resol",
                "1",
                "-trace_stat",
                "-stf",
                str(folder / "stat.csv"),
                "-fd",
                "1",
            ),
            *("-trace_rtt", "-rtt_freq", "1", "-timeout", f"{int(seconds + 10)}s"),
        ],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    cpu_s = usage(called.pid)[0] - cpu_s
    with (folder / "stat.csv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter=";"))
    last = rows[-1]
    (rtt,) = folder.glob("*_rtt.csv")
    with rtt.open(newline="") as file:
        answered_ms = sorted(float(row[1]) for row in list(csv.reader(file, delimiter=";"))[1:])
    return Step(
        rate=rate,
        placed=max(float(row["CallRate(P)"]) for row in rows),
        failed=calls - int(last["SuccessfulCall(C)"]),
        retransmissions=int(last["Retransmissions(C)"]),
        calls=calls,
        p50_ms=answered_ms[len(answered_ms) // 2] if answered_ms else float("nan"),
        p99_ms=answered_ms[int(0.99 * (len(answered_ms) - 1))] if answered_ms else float("nan"),
        cpu_us=1e6 * cpu_s / calls,
    )


def bench_limit(who: str, options: argparse.Namespace, folder: Path) -> None:
    with WHO[who](folder) as called, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as media:
        # Nobody reads it: what does not fit into its buffer is dropped.
        media.bind(("127.0.0.1", 0))

        def at(rate: int) -> Step:
            step = call_at(rate, options.seconds, called, media.getsockname()[1], folder)
            print(f"  {step}{'' if step.passed else '  too much'}")
            return step

        print(f"{who}:")
        passed, rate, above = 0, options.first, None
        while above is None and passed < options.highest:
            if at(rate).passed:
                passed, rate = rate, min(int(rate * 1.5), options.highest)
            else:
                above = rate
        while above is not None and passed and above - passed > 0.1 * above:
            rate = (passed + above) // 2
            if at(rate).passed:
                passed = rate
            else:
                above = rate
        half = at(passed // 2) if passed else None
        limit = f"{'at least' if above is None else 'limit'} {passed} calls/s"
        print(f"  {limit}" + (f"; at half of it p99 {half.p99_ms:.1f} ms" if half else ""))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--who", default="agent,server,sipp", help="who is called: agent, server, sipp; '' for nobody")
    parser.add_argument("--first", type=int, default=200, help="calls a second to begin with")
    parser.add_argument("--highest", type=int, default=10_000, help="calls a second to end with")
    parser.add_argument("--seconds", type=float, default=10.0, help="at each rate")
    options = parser.parse_args()
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    print(f"{platform.platform()}, {os.cpu_count()} CPUs, Python {platform.python_version()}")
    bench_core(5000)
    bench_memory(10_000)
    who = [name for name in options.who.split(",") if name]
    if who and shutil.which("sipp") is None:
        sys.exit("sipp is missing. On Debian or Ubuntu: sudo apt-get install sip-tester")
    for name in who:
        with tempfile.TemporaryDirectory() as folder:
            bench_limit(name, options, Path(folder))


if __name__ == "__main__":
    main()
