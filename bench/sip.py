"""How many calls the SIP stack sets up and ends, without media: scripts/bench sip [--help]

First the agent alone, in memory, in CPU time. Then over UDP on the loopback: the agent in a process of its own, and a
caller in this one that sends calls at a fixed rate whatever happens (INVITE, ACK on the 200, BYE a little later) and
never retransmits, so that what is lost or late shows.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import multiprocessing
import multiprocessing.connection
import random
import select
import socket
import time

from sip import Agent, Event, Flow, Offered, Transport, parse_datagram

SDP = (
    b"v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 40000 RTP/AVP 0 8 101\r\n"
    b"a=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\na=ptime:20\r\n"
)
HOLD_S = 0.2
MESSAGES_PER_CALL = 7


def request(method: str, number: int, cseq: int, port: int, to: bytes = b"") -> bytes:
    body = SDP if method == "INVITE" else b""
    head = (
        f"{method} sip:bench@127.0.0.1:5060 SIP/2.0\r\n"
        f"Via: SIP/2.0/UDP 127.0.0.1:{port};branch=z9hG4bK-{method}-{number};rport\r\n"
        f"Max-Forwards: 70\r\nFrom: <sip:caller@127.0.0.1:{port}>;tag=f{number}\r\n"
        f"Call-ID: {number}@bench\r\nCSeq: {cseq} {method}\r\nContact: <sip:caller@127.0.0.1:{port}>\r\n"
        f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n"
    )
    return head.encode() + b"To: " + (to or b"<sip:bench@127.0.0.1:5060>") + b"\r\n\r\n" + body


def header(message: bytes, name: bytes) -> bytes:
    start = message.index(b"\r\n" + name + b": ") + len(name) + 4
    return message[start : message.index(b"\r\n", start)]


def bench_core(calls: int) -> None:
    agent = Agent(random=random.SystemRandom(), product="bench")
    flow = Flow("UDP", ("127.0.0.1", 5060), ("127.0.0.1", 5070))
    invites = [request("INVITE", number, 1, 5070) for number in range(calls)]
    spent = 0.0
    for number, invite in enumerate(invites):
        now = number / 1000
        start = time.process_time()
        agent.receive(invite, flow, now)
        event = agent.next_event()
        assert isinstance(event, Offered)
        agent.ring(now, event.call)
        agent.answer(now, event.call, body=SDP)
        (*_, (ok, _)) = agent.data_to_send()
        spent += time.process_time() - start
        to = header(ok, b"To")
        ack, bye = request("ACK", number, 1, 5070, to), request("BYE", number, 2, 5070, to)
        start = time.process_time()
        agent.receive(ack, flow, now)
        agent.receive(bye, flow, now)
        agent.data_to_send()
        agent.handle_timer(now)
        spent += time.process_time() - start
        while agent.next_event() is not None:
            pass
    start = time.process_time()
    for invite in invites:
        parse_datagram(invite)
    parsed = time.process_time() - start
    print(f"agent in memory      {calls / spent:8.0f} calls/s   {MESSAGES_PER_CALL * calls / spent:8.0f} messages/s")
    print(f"parser alone         {'':8}             {calls / parsed:8.0f} INVITEs/s")


def serve(pipe: multiprocessing.connection.Connection) -> None:
    """The called side, in its own process: rings and answers at once, until the pipe says stop."""

    async def main() -> None:
        def deliver(event: Event) -> None:
            if isinstance(event, Offered):
                transport.ring(event.call)
                transport.answer(event.call, body=SDP)

        agent = Agent(random=random.SystemRandom(), product="bench")
        async with Transport.open(agent, [("127.0.0.1", 0)], deliver=deliver) as transport:
            stopped = asyncio.Event()
            asyncio.get_running_loop().add_reader(pipe.fileno(), stopped.set)
            begun = time.process_time()
            pipe.send(transport.addresses[0])
            await stopped.wait()
            pipe.send((time.process_time() - begun, agent.counters().retransmissions_sent))

    asyncio.run(main())


def bench_wire(rate: int, seconds: float) -> None:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,))
    process.start()
    target = ours.recv()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        sock.bind(("127.0.0.1", 0))
        sock.connect(target)
        sock.setblocking(False)
        latencies, ended, cpu = call_at(sock, rate, int(rate * seconds))
    ours.send("stop")
    server_cpu, repeated = ours.recv()
    process.join()
    latencies.sort()
    total = int(rate * seconds)
    p50, p99, worst = (1000 * latencies[int(share * (len(latencies) - 1))] for share in (0.5, 0.99, 1.0))
    print(
        f"{rate:5} calls/s for {seconds:.0f} s  failed {total - ended:5}  2xx repeated {repeated:5}  "
        f"INVITE to 200: p50 {p50:6.1f} p99 {p99:6.1f} max {worst:6.1f} ms  "
        f"CPU {1e6 * server_cpu / total:4.0f} us/call = {total / server_cpu:5.0f} calls/s a core  (caller {cpu:.0%})"
    )


def call_at(sock: socket.socket, rate: int, total: int) -> tuple[list[float], int, float]:
    """Make `total` calls; returns the times from INVITE to 200, how many ended, and the share of a core it took."""
    port = sock.getsockname()[1]
    sent: dict[bytes, float] = {}
    latencies: list[float] = []
    byes: list[tuple[float, bytes]] = []
    ended = number = 0
    begun, cpu = time.perf_counter(), time.process_time()
    last = begun + total / rate + 2
    while (now := time.perf_counter()) < last and ended < total:
        while number < total and begun + number / rate <= now:
            sent[b"%d@bench" % number] = now
            sock.send(request("INVITE", number, 1, port))
            number += 1
        while byes and byes[0][0] <= now:
            sock.send(heapq.heappop(byes)[1])
        due = [begun + number / rate] if number < total else []
        due += [byes[0][0]] if byes else []
        select.select([sock], [], [], max(0.0, min(due, default=last) - time.perf_counter()))
        while True:
            try:
                message = sock.recv(65535)
            except BlockingIOError:
                break
            if not message.startswith(b"SIP/2.0 200"):
                continue
            if header(message, b"CSeq").endswith(b"BYE"):
                ended += 1
                continue
            call_id = header(message, b"Call-ID")
            at = sent.pop(call_id, None)
            to = header(message, b"To")
            call = int(call_id.partition(b"@")[0])
            sock.send(request("ACK", call, 1, port, to))
            if at is not None:
                latencies.append(time.perf_counter() - at)
                heapq.heappush(byes, (time.perf_counter() + HOLD_S, request("BYE", call, 2, port, to)))
    return latencies, ended, (time.process_time() - cpu) / (time.perf_counter() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description="Calls and messages a second of the SIP stack.")
    parser.add_argument("--rates", default="300,600,1000", help="calls a second, comma-separated")
    parser.add_argument("--seconds", type=float, default=10.0)
    arguments = parser.parse_args()
    bench_core(5000)
    for rate in arguments.rates.split(","):
        bench_wire(int(rate), arguments.seconds)


if __name__ == "__main__":
    main()
