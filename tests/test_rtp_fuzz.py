"""A million broken packets and more through everything that a datagram can reach: nothing crashes, all is counted."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from rtp import Endpoint, Latched, dtmf
from rtp._plane import Line, Plane
from rtp.packet import RemoteProtocolError
from rtp.session import RtcpSchedule
from tests.rtp_rules import ELSEWHERE, OTHER, SIGNALLED, TELEPHONE_EVENT, media

MS = 1_000_000
S = 1000 * MS
BATCH = 1000
HEADER = struct.Struct("!BBHII")


def packets(random: random.Random) -> Iterator[bytes]:
    """Well-formed packets of all kinds that a call knows, one after the other as a peer would send them."""
    sequence = random.getrandbits(16)
    timestamp = random.getrandbits(32)
    while True:
        sequence = (sequence + 1) & 0xFFFF
        timestamp = (timestamp + 160) & 0xFFFFFFFF
        kind = random.random()
        if kind < 0.7:
            yield HEADER.pack(0x80, random.choice((0, 0, 8)), sequence, timestamp, 7) + bytes(160)
        elif kind < 0.8:
            event = struct.pack("!BBH", random.randrange(20), random.choice((10, 138)), random.getrandbits(16))
            yield HEADER.pack(0x80, TELEPHONE_EVENT, sequence, timestamp, 7) + event
        elif kind < 0.85:
            yield HEADER.pack(0x80, 13, sequence, timestamp, 7) + b"\x40"
        elif kind < 0.9:  # extension and contributing sources
            yield HEADER.pack(0x92, 0, sequence, timestamp, 7) + bytes(8) + b"\xbe\xde\x00\x01" + bytes(164)
        elif kind < 0.95:  # padding
            yield HEADER.pack(0xA0, 0, sequence, timestamp, 7) + bytes(160) + b"\x00\x00\x00\x04"
        else:
            yield struct.pack("!BBHI", 0x81, 201, 7, 7) + bytes(24)


def mutate(random: random.Random, data: bytes) -> bytes:
    """One thing, or two, wrong with a packet."""
    how = random.random()
    at = random.randrange(len(data))
    if how < 0.3:  # an octet, most often of the header
        at = at if how < 0.1 else at % 16
        data = data[:at] + random.randbytes(1) + data[at + 1 :]
    elif how < 0.45:
        data = data[:at]
    elif how < 0.5:
        data += random.randbytes(at)
    elif how < 0.6:  # a jump in the sequence, the timestamp, or another source
        first = random.choice((2, 4, 8))
        size = 2 if first == 2 else 4
        data = data[:first] + random.randbytes(size) + data[first + size :]
    elif how < 0.61:
        data = random.randbytes(random.choice((0, 1, 2, 11, 12, 13, 2048, 2049, 65507)))
    elif how < 0.65:  # announces more than there is
        data = bytes((data[0] | random.choice((0x0F, 0x10, 0x20, 0x3F)),)) + data[1:]
    return data


def check(line: Line, fed: int) -> None:
    counts = line.counters()
    assert all(count >= 0 for name, count in counts.items() if name != "lost")
    assert counts["packets_received"] + counts["invalid"] + counts["strangers"] <= fed
    assert counts["duplicates"] + counts["reordered"] <= counts["packets_received"]
    heard = line.heard()
    if heard is not None:
        assert heard[1] >= 0


def fuzz(seed: int, count: int) -> None:
    chance = random.Random(seed)
    plane = Plane(threads=0, epoch_ns=0, start_ms=0)
    line = plane.open(ssrc=1, sequence=0, timestamp=0)
    line.connect(
        host=SIGNALLED[0],
        port=SIGNALLED[1],
        alaw=False,
        payload_type=0,
        telephone_event=TELEPHONE_EVENT,
        timeout_ms=100,
    )
    line.start()
    line.listen(True)
    detector = dtmf.Detector()
    schedule = RtcpSchedule(ssrc=1, cname="fuzz", now_ns=0, unix_ns=0, random=chance.random)
    sent = now_ns = 0
    source = packets(chance)
    addresses = (SIGNALLED, SIGNALLED, SIGNALLED, ELSEWHERE, OTHER)
    for round_ in range(count // BATCH):
        now_ns = 20 * round_ * MS
        sent += len(plane.tick(now_ns))
        for what, _, number, time_ns, _, data in plane.notices():
            try:
                if what == "telephone_event":
                    detector.receive(data, timestamp=number & 0xFFFFFFFF, now_ns=time_ns)
                elif what == "rtcp":
                    schedule.receive(data, time_ns)
            except RemoteProtocolError:
                pass
        frames = line.hear()
        assert {len(samples) for _, samples in frames} <= {320}
        assert [at_ns for at_ns, _ in frames] == sorted({at_ns for at_ns, _ in frames})
        assert all(-2 * S <= at_ns - now_ns <= S for at_ns, _ in frames), "no clock of a peer's takes ours along"
        for n in range(BATCH):
            host, port = addresses[n % len(addresses)]
            line.receive(mutate(chance, next(source)), host, port, now_ns)
        check(line, (round_ + 1) * BATCH)
        if round_ % 50 == 49:  # a re-INVITE opens the latch again
            line.connect(host=OTHER[0], port=OTHER[1], alaw=True, payload_type=8, telephone_event=TELEPHONE_EVENT)
            line.listen(round_ % 100 < 50)
    assert sent == count // BATCH, "the stream has gone on"
    line.connect(host=SIGNALLED[0], port=SIGNALLED[1], alaw=False, payload_type=0)
    plane.tick(now_ns + 20 * MS)
    before = line.counters()["packets_received"]
    for _, datagram in media(range(10), ssrc=99):
        line.receive(datagram, *SIGNALLED, now_ns + 20 * MS)
    assert line.counters()["packets_received"] >= before + 8, "an honest peer is heard again"


async def test_broken_datagrams_on_every_socket_of_a_stream_do_no_harm() -> None:
    chance = random.Random(1)
    happened: list[object] = []
    with ExitStack() as sockets:
        peer, stranger = (sockets.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(2))
        for made in (peer, stranger):
            made.bind(("127.0.0.1", 0))
        async with Endpoint(host="127.0.0.1", ports=range(0), realtime=False) as endpoint:
            stream, other = endpoint.open(happened.append, port=0), endpoint.open(port=0)
            for opened in (stream, other):
                opened.connect(
                    host="127.0.0.1",
                    port=peer.getsockname()[1],
                    codec="PCMU",
                    payload_type=0,
                    telephone_event=TELEPHONE_EVENT,
                )
                opened.start()
            for _ in range(200):
                source = packets(chance)
                for n in range(100):
                    sender = peer if n % 3 else stranger
                    sender.sendto(mutate(chance, next(source))[:65000], ("127.0.0.1", stream.port + n % 2))
                await asyncio.sleep(0.002)
            counts = stream.counters()
            assert counts.invalid > 100
            assert counts.strangers + counts.probation > 100
            assert other.counters().skipped_frames <= stream.counters().skipped_frames
            await asyncio.sleep(0.3)
            stream.connect(host="127.0.0.1", port=stranger.getsockname()[1], codec="PCMU", payload_type=0)
            before = stream.counters().packets_received
            for _, datagram in media(range(40), ssrc=99):
                stranger.sendto(datagram, ("127.0.0.1", stream.port))
                await asyncio.sleep(0.01)
            assert stream.counters().packets_received >= before + 35
            assert happened[-1] == Latched(host="127.0.0.1", port=stranger.getsockname()[1])
            sent = other.counters().packets_sent
            await asyncio.sleep(0.2)
            assert other.counters().packets_sent >= sent + 8


@pytest.mark.parametrize("seed", range(8))
def test_mutated_packets_do_no_harm(seed: int) -> None:
    """1,040,000 packets over all seeds."""
    fuzz(seed, 130_000)
