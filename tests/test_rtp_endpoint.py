"""Streams on real sockets of the loopback interface: ports, writing, latching, digits, audio, RTCP, closing."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from typing import Any

import pytest
from aiortc.rtp import RtcpByePacket, RtcpPacket, RtcpSdesPacket, RtcpSrPacket, RtpPacket

from rtp import (
    Clip,
    Digit,
    DigitBegun,
    Endpoint,
    Frame,
    Latched,
    LocalProtocolError,
    MediaTimeout,
    PortsExhausted,
    RemoteBye,
    RemoteProtocolError,
    Stream,
    StreamClosed,
    Transform,
)
from rtp.g711 import alaw_decode, alaw_encode, mulaw_decode, mulaw_encode
from rtp.packet import Packet, serialise
from rtp.rtcp import (
    CNAME,
    Goodbye,
    ReceiverReport,
    Report,
    SenderReport,
    Source,
    SourceDescription,
    middle_32,
    ntp_from_unix_ns,
)
from rtp.rtcp import serialise as serialise_rtcp

FRAME_MS = 20
SPEECH = struct.pack("=160h", *(range(-8000, 8000, 100)))  # a frame of 8000 Hz


class Peer:
    """A telephone as far as RTP goes: a pair of sockets, and whatever came to them."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.host = host
        self.rtp, self.rtcp = self._bind(), self._bind()
        self.sequence = 0

    def _bind(self) -> socket.socket:
        made = socket.socket(self.family, socket.SOCK_DGRAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        made.setblocking(False)
        made.bind((self.host, 0))
        return made

    @property
    def port(self) -> int:
        return int(self.rtp.getsockname()[1])

    @property
    def rtcp_port(self) -> int:
        return int(self.rtcp.getsockname()[1])

    def send(
        self, stream: Stream, count: int = 1, *, codes: bytes = bytes(160), payload_type: int = 0, to: str = ""
    ) -> None:
        for _ in range(count):
            packet = Packet(
                payload_type=payload_type,
                sequence=self.sequence % 2**16,
                timestamp=160 * self.sequence % 2**32,
                ssrc=7,
                payload=codes,
            )
            self.rtp.sendto(serialise(packet), (to or self.host, stream.port))
            self.sequence += 1

    def received(self) -> list[RtpPacket]:
        return [RtpPacket.parse(data) for data in drain(self.rtp)]

    async def compounds(self, count: int) -> list[list[Any]]:
        found: list[list[Any]] = []
        while len(found) < count:
            await readable(self.rtcp)
            found += [RtcpPacket.parse(data) for data in drain(self.rtcp)]
        return found

    def close(self) -> None:
        self.rtp.close()
        self.rtcp.close()


def drain(source: socket.socket) -> list[bytes]:
    found = []
    while True:
        try:
            found.append(source.recv(4096))
        except BlockingIOError:
            return found


async def readable(source: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    came = loop.create_future()
    loop.add_reader(source, lambda: came.done() or came.set_result(None))
    try:
        await asyncio.wait_for(came, 10)
    finally:
        loop.remove_reader(source)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for happens outside of the event loop
            await asyncio.sleep(0.005)


async def first_packet(stream: Stream) -> None:
    """Wait until the stream has sent and counted one: it may be received a moment before it is counted."""
    await until(lambda: stream.counters().packets_sent)


def connect(stream: Stream, peer: Peer, **options: Any) -> None:
    stream.connect(
        **(
            {"host": peer.host, "port": peer.port, "rtcp_port": peer.rtcp_port, "codec": "PCMU", "payload_type": 0}
            | options
        )
    )


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    async with Endpoint(host="127.0.0.1", ports=range(0), realtime=False) as endpoint:
        yield endpoint


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    peer = Peer()
    yield peer
    peer.close()


@pytest.fixture
async def happened() -> list[object]:
    return []


@pytest.fixture
async def stream(endpoint: Endpoint, peer: Peer, happened: list[object]) -> Stream:
    stream = endpoint.open(happened.append, port=0)
    connect(stream, peer, telephone_event=101)
    return stream


def payloads(packets: list[RtpPacket]) -> bytes:
    return b"".join(packet.payload for packet in packets)


# Ports


def free_range(pairs: int) -> range:
    """Ports that nobody has at the moment."""
    while True:
        first = 20000 + 2 * int.from_bytes(os.urandom(2)) % 20000 & ~1
        held = []
        try:
            for port in range(first, first + 2 * pairs):
                probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                held.append(probe)
                probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        finally:
            for probe in held:
                probe.close()
        return range(first, first + 2 * pairs)


@pytest.mark.conformance("RFC 3550", "11", "RTP has an even port, and RTCP the next higher one")
async def test_stream_has_an_even_port_and_the_one_after_it() -> None:
    ports = free_range(4)
    async with Endpoint(host="127.0.0.1", ports=ports, realtime=False) as endpoint:
        streams = [endpoint.open() for _ in range(4)]
        assert sorted(stream.port for stream in streams) == list(ports)[::2]
        for port in ports:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, pytest.raises(OSError, match="in use"):
                probe.bind(("127.0.0.1", port))


async def test_range_that_begins_odd_is_used_from_its_first_even_port_on() -> None:
    ports = free_range(3)
    async with Endpoint(host="127.0.0.1", ports=range(ports[1], ports[-1] + 1), realtime=False) as endpoint:
        assert endpoint.counters().ports_free == 2
        assert sorted(endpoint.open().port for _ in range(2)) == [ports[2], ports[4]]


async def test_exhausted_ports_refuse_the_next_stream_and_harm_no_other(peer: Peer) -> None:
    async with Endpoint(host="127.0.0.1", ports=free_range(2), quarantine_s=0, realtime=False) as endpoint:
        streams = [endpoint.open() for _ in range(2)]
        with pytest.raises(PortsExhausted, match="no RTP port pair is free"):
            endpoint.open()
        connect(streams[0], peer)
        streams[0].start()
        await readable(peer.rtp)
        port = streams[1].port
        streams[1].close()
        await until(lambda: endpoint.counters().ports_free)
        assert endpoint.open().port == port


async def test_port_rests_between_two_streams() -> None:
    async with Endpoint(host="127.0.0.1", ports=free_range(1), quarantine_s=0.2, realtime=False) as endpoint:
        stream = endpoint.open()
        stream.connect(host="127.0.0.1", port=9, codec="PCMU", payload_type=0)
        stream.close()
        await asyncio.sleep(0.1)
        with pytest.raises(PortsExhausted, match=r"rest for 0\.2 s"):
            endpoint.open()
        await until(lambda: endpoint.counters().ports_free)
        endpoint.open()


async def test_port_that_no_peer_was_told_of_needs_no_rest() -> None:
    async with Endpoint(host="127.0.0.1", ports=free_range(1), realtime=False) as endpoint:
        for _ in range(3):
            endpoint.open().close()
            await until(lambda: endpoint.counters().ports_free)


async def test_port_that_somebody_else_has_is_passed_over() -> None:
    ports = free_range(2)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as squatter:
        squatter.bind(("127.0.0.1", ports[1]))
        async with Endpoint(host="127.0.0.1", ports=ports, realtime=False) as endpoint:
            assert endpoint.open().port == ports[2]
            with pytest.raises(PortsExhausted):
                endpoint.open()


async def test_port_may_be_named(endpoint: Endpoint) -> None:
    port = free_range(1)[0]
    assert endpoint.open(port=port).port == port
    with pytest.raises(OSError, match="in use"):
        endpoint.open(port=port)
    with pytest.raises(LocalProtocolError, match=f"RTP port {port + 1} is odd"):
        endpoint.open(port=port + 1)


@pytest.mark.conformance("RFC 4594", "4.1", "media is marked for expedited forwarding")
async def test_ports_are_marked_for_expedited_forwarding(stream: Stream, peer: Peer) -> None:
    peer.rtp.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
    stream.start()
    await readable(peer.rtp)
    _, ancillary, _, _ = peer.rtp.recvmsg(2048, 64)
    assert [data[0] >> 2 for level, kind, data in ancillary if kind == socket.IP_TOS] == [46]


# Writing


async def test_written_speech_is_sent_frame_by_frame(stream: Stream, peer: Peer) -> None:
    stream.start()
    await stream.write(SPEECH * 5, 8000)
    stream.end()
    await stream.drained()
    await asyncio.sleep(0.05)
    packets = peer.received()
    assert {packet.ssrc for packet in packets} == {stream.ssrc}
    assert {len(packet.payload) for packet in packets} == {160}
    assert payloads(packets).strip(b"\xff") == mulaw_encode(SPEECH * 5)
    assert stream.counters().speech_frames == 5
    assert stream.counters().played_ms == 100


async def test_write_waits_for_room_and_loses_nothing(stream: Stream, peer: Peer) -> None:
    stream.start()
    speech = b"".join(struct.pack("=160h", *([100 * n] * 160)) for n in range(1, 91))  # 1.8 s into a ring of 1 s
    begun = asyncio.get_running_loop().time()
    await stream.write(speech, 8000)
    waited = asyncio.get_running_loop().time() - begun
    stream.end()
    await stream.drained()
    assert 0.6 < waited < 1.6
    assert payloads(peer.received()).strip(b"\xff") == mulaw_encode(speech)
    assert stream.counters().underruns == 0


async def test_any_rate_is_resampled(stream: Stream, peer: Peer) -> None:
    stream.start()
    await stream.write(struct.pack("=h", 8000) * 24000, 24000)
    stream.end()
    await stream.drained()
    samples = struct.unpack("=8000h", mulaw_decode(payloads(peer.received()).strip(b"\xff"))[:16000])
    assert set(samples[200:-200]) == {7932}  # the step of mu-law that 8000 falls in
    assert 1000 <= stream.counters().played_ms <= 1010


async def test_rates_may_change_within_an_utterance(stream: Stream, peer: Peer) -> None:
    stream.start()
    for rate_hz in (24000, 8000, 16000):
        await stream.write(struct.pack("=h", 8000) * (rate_hz // 10), rate_hz)
    stream.end()
    await stream.drained()
    assert stream.counters().played_ms == 300


async def test_what_is_relayed_is_sent_octet_for_octet(stream: Stream, peer: Peer) -> None:
    stream.start()
    codes = bytes(range(256)) * 50  # 1.6 s into a ring of 1 s
    await stream.relay(codes, "PCMU")
    stream.end()
    await stream.drained()
    assert payloads(peer.received()).strip(b"\xff") == codes.strip(b"\xff")
    assert stream.counters().underruns == 0


async def test_what_is_relayed_in_the_other_law_is_turned_into_the_one_that_is_agreed_on(
    stream: Stream, peer: Peer
) -> None:
    stream.start()
    await stream.write(SPEECH * 3, 24000)  # what a resampler holds back of it comes first
    await stream.relay(alaw_encode(SPEECH), "PCMA")
    stream.end()
    await stream.drained()
    heard = payloads(peer.received()).rstrip(b"\xff")
    assert heard[-159:] == mulaw_encode(alaw_decode(alaw_encode(SPEECH)))[-159:]
    assert stream.counters().played_ms == 40


async def test_a_relay_stops_at_a_flush_and_is_refused_beside_a_write(stream: Stream) -> None:
    stream.start()
    relaying = asyncio.create_task(stream.relay(bytes(24_000), "PCMU"))
    await asyncio.sleep(0.05)
    with pytest.raises(LocalProtocolError, match="another write"):
        await stream.relay(b"a", "PCMU")
    stream.flush()
    await relaying
    await stream.drained()
    assert stream.counters().played_ms < 200


async def test_speech_may_be_written_before_connect_and_start(endpoint: Endpoint, peer: Peer) -> None:
    stream = endpoint.open(port=0)
    await stream.write(SPEECH, 8000)
    stream.end()
    connect(stream, peer, codec="PCMA", payload_type=8)
    assert drain(peer.rtp) == []
    stream.start()
    await stream.drained()
    await readable(peer.rtp)
    (first, *_) = peer.received()
    assert first.payload_type == 8
    assert first.marker == 1
    assert set(first.payload) != {0xD5}


async def test_flush_drops_the_ring_and_a_write_that_waits(stream: Stream, peer: Peer) -> None:
    stream.start()
    writing = asyncio.create_task(stream.write(SPEECH * 150, 8000))  # 3 s
    await asyncio.sleep(0.1)
    played_ms = stream.counters().played_ms
    dropped_ms = stream.flush()
    await writing
    assert 3000 - played_ms - 20 <= dropped_ms <= 3000 - played_ms
    await stream.drained()
    peer.received()
    await asyncio.sleep(0.06)
    assert set(payloads(peer.received())) == {0xFF}
    assert stream.counters().underruns == 0
    assert stream.flush() == 0


async def test_speech_after_a_flush_is_heard(stream: Stream, peer: Peer) -> None:
    stream.start()
    await stream.write(SPEECH * 30, 24000)
    stream.flush()
    await stream.write(SPEECH, 8000)
    stream.end()
    await stream.drained()
    assert payloads(peer.received()).strip(b"\xff").endswith(mulaw_encode(SPEECH))


@pytest.mark.parametrize(("codec", "payload_type", "encode"), [("PCMU", 0, mulaw_encode), ("PCMA", 8, alaw_encode)])
async def test_clip_is_played_in_the_codec_of_each_stream(
    endpoint: Endpoint, peer: Peer, codec: str, payload_type: int, encode: Callable[[bytes], bytes]
) -> None:
    clip = Clip(SPEECH * 5 + SPEECH[:20], 8000)
    assert clip.duration_ms == 110
    stream = endpoint.open(port=0)
    connect(stream, peer, codec=codec, payload_type=payload_type)
    stream.start()
    for _ in range(2):
        await stream.play(clip)
    await stream.drained()
    await asyncio.sleep(0.05)
    packets = peer.received()
    silence = encode(bytes(2))
    padded = encode(SPEECH * 5 + SPEECH[:20]) + silence * 150
    spoken = [packet.payload for packet in packets if set(packet.payload) != set(silence)]
    assert b"".join(spoken) == padded * 2
    assert stream.counters().played_ms == 220


async def test_clip_of_any_rate_is_resampled_once() -> None:
    clip = Clip(struct.pack("=h", 8000) * 24000, 24000)
    assert 1000 <= clip.duration_ms <= 1010
    with pytest.raises(LocalProtocolError, match="3 octets are no whole number"):
        Clip(bytes(3), 8000)


async def test_clip_follows_what_was_written_at_another_rate(stream: Stream, peer: Peer) -> None:
    stream.start()
    await stream.write(struct.pack("=h", 8000) * 2400, 24000)
    await stream.play(Clip(SPEECH, 8000))
    await stream.write(struct.pack("=h", 8000) * 2400, 24000)
    stream.end()
    await stream.drained()
    assert mulaw_encode(SPEECH) in payloads(peer.received())
    assert stream.counters().played_ms == 220
    assert stream.counters().underruns == 0


async def test_clip_is_heard_whatever_python_does(stream: Stream, peer: Peer) -> None:
    stream.start()
    await stream.play(Clip(SPEECH * 100, 8000))  # 2 s, twice of what a ring holds
    time.sleep(1.9)  # noqa: ASYNC251 - the event loop stands still
    assert stream.counters().speech_frames >= 90
    assert stream.counters().underruns == 0
    await stream.drained()
    assert payloads(peer.received()).strip(b"\xff") == mulaw_encode(SPEECH * 100)


async def test_flush_frees_a_clip_that_waits_for_its_turn(stream: Stream) -> None:
    clip = Clip(SPEECH * 50, 8000)
    stream.start()
    await stream.play(clip)
    waiting = asyncio.create_task(stream.play(clip))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    with pytest.raises(LocalProtocolError, match="another write is under way"):
        await stream.play(clip)
    played_ms = stream.counters().played_ms
    assert 2000 - played_ms - 20 <= stream.flush() <= 2000 - played_ms
    await waiting
    await asyncio.wait_for(stream.drained(), 1)


async def test_drained_waits_for_the_end_of_the_utterance(stream: Stream) -> None:
    stream.start()
    await stream.write(SPEECH, 8000)
    waiting = asyncio.create_task(stream.drained())
    await asyncio.sleep(0.1)
    assert not waiting.done()
    stream.end()
    await asyncio.wait_for(waiting, 1)


async def test_cancelled_write_leaves_the_stream_usable(stream: Stream) -> None:
    stream.start()
    writing = asyncio.create_task(stream.write(SPEECH * 150, 8000))
    await asyncio.sleep(0.05)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert 800 < stream.flush() <= 1000
    await stream.write(SPEECH, 8000)


async def test_two_writes_at_once_are_refused(stream: Stream) -> None:
    writing = asyncio.create_task(stream.write(SPEECH * 150, 8000))
    await asyncio.sleep(0)
    with pytest.raises(LocalProtocolError, match="another write is under way"):
        await stream.write(SPEECH, 8000)
    stream.flush()
    await writing


@pytest.mark.parametrize(
    ("samples", "rate_hz", "message"),
    [
        (b"abc", 8000, "3 octets"),
        (b"ab", 0, "rate of 0 Hz"),
        (b"ab", -1, "rate of -1 Hz"),
        (b"ab", 10**6, "1000000 Hz"),
    ],
)
async def test_write_refuses_what_is_no_audio(stream: Stream, samples: bytes, rate_hz: int, message: str) -> None:
    with pytest.raises(LocalProtocolError, match=message):
        await stream.write(samples, rate_hz)


@pytest.mark.conformance("RFC 3264", "8.4", "on hold nothing is sent")
@pytest.mark.conformance("RFC 3550", "5.1", "the timestamp counts the time also in which nothing is sent")
async def test_hold_stops_packets_and_resume_goes_on(stream: Stream, peer: Peer) -> None:
    stream.start()
    await readable(peer.rtp)
    stream.hold()
    await asyncio.sleep(0.05)
    before = peer.received()
    await asyncio.sleep(0.1)
    assert peer.received() == []
    stream.resume()
    await readable(peer.rtp)
    (after, *_) = peer.received()
    assert after.sequence_number == (before[-1].sequence_number + 1) % 2**16
    assert (after.timestamp - before[-1].timestamp) % 2**32 >= 160 * 6
    assert (after.timestamp - before[-1].timestamp) % 160 == 0
    assert after.marker == 1


async def test_mute_sends_silence_and_unmute_goes_on_with_the_next_frame(stream: Stream, peer: Peer) -> None:
    await stream.play(Clip(SPEECH * 20, 8000))
    stream.mute()
    stream.start()
    await asyncio.sleep(0.1)
    muted = peer.received()
    assert len(muted) >= 3
    assert {packet.payload for packet in muted} == {b"\xff" * 160}
    assert not stream.counters().played_ms
    stream.unmute()
    await stream.drained()
    assert stream.counters().played_ms == Clip(SPEECH * 20, 8000).duration_ms
    found = muted + peer.received()
    assert [(p.timestamp - found[0].timestamp) % 2**32 for p in found] == [160 * n for n in range(len(found))]


@pytest.mark.conformance(
    "RFC 3550", "5.1", "a source may change its payload type, and sequence, timestamp and SSRC go on"
)
async def test_reinvite_changes_address_and_codec_and_keeps_the_source(stream: Stream, peer: Peer) -> None:
    other = Peer()
    stream.start()
    stream.start()  # starting again changes nothing
    await readable(peer.rtp)
    connect(stream, other, codec="PCMA", payload_type=8, ptime_ms=40)
    await readable(other.rtp)
    (before, *_), (after, *_) = peer.received()[-1:], other.received()
    assert (after.ssrc, after.payload_type, len(after.payload)) == (before.ssrc, 8, 320)
    assert after.sequence_number == (before.sequence_number + 1) % 2**16
    assert (after.timestamp - before.timestamp) % 2**32 == 160
    other.close()


async def test_start_needs_an_address(endpoint: Endpoint) -> None:
    with pytest.raises(LocalProtocolError, match="after it was connected"):
        endpoint.open(port=0).start()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"codec": "G729"}, "'G729' is neither PCMU nor PCMA"),
        ({"rtcp_port": 70000}, "RTCP port 70000"),
        ({"host": "localhost"}, "localhost port"),
    ],
)
async def test_connect_refuses_what_makes_no_sense(
    stream: Stream, peer: Peer, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(LocalProtocolError, match=message):
        connect(stream, peer, **options)


# What comes from the peer


@pytest.mark.conformance("RFC 4961", "4", "RTP is sent to where the peer's comes from")
async def test_packets_go_to_where_they_come_from(stream: Stream, peer: Peer, happened: list[object]) -> None:
    behind_nat = Peer()
    stream.start()
    behind_nat.send(stream, 3)
    await readable(behind_nat.rtp)
    assert happened == [Latched(host="127.0.0.1", port=behind_nat.port)]
    peer.received()
    await asyncio.sleep(0.1)
    assert len(peer.received()) <= 1
    assert len(behind_nat.received()) >= 4
    behind_nat.close()


async def test_stranger_never_moves_a_locked_stream(stream: Stream, peer: Peer, happened: list[object]) -> None:
    stream.start()
    peer.send(stream, 3)
    await until(lambda: happened)
    before = stream.counters().packets_received
    stranger = Peer()
    stranger.rtp.setblocking(True)
    stranger.send(stream, 1)
    stranger.rtp.settimeout(0.05)
    with pytest.raises(OSError, match=r"timed out|refused"):
        stranger.rtp.recv(2048)
    peer.received()
    await readable(peer.rtp)
    assert happened == [Latched(host="127.0.0.1", port=peer.port)]
    assert stream.counters().packets_received == before
    stranger.close()


async def test_peer_that_answers_to_another_address_of_ours_stays_heard(peer: Peer, happened: list[object]) -> None:
    """A host with several addresses sends from the one that routing says, and may have been told another."""
    async with Endpoint(host="0.0.0.0", ports=range(0), realtime=False, media_timeout_s=0.5) as endpoint:
        stream = endpoint.open(happened.append, port=0)
        connect(stream, peer)
        stream.start()
        for n in range(150):
            packet = Packet(payload_type=0, sequence=n, timestamp=160 * n, ssrc=7, payload=bytes(160))
            peer.rtp.sendto(serialise(packet), ("127.0.0.2", stream.port))
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert happened == [Latched(host="127.0.0.1", port=peer.port)]
        assert stream.counters().packets_received >= 147


def sockets() -> int:
    return sum(
        os.path.islink(f"/proc/self/fd/{fd}") and "socket:" in os.readlink(f"/proc/self/fd/{fd}")
        for fd in os.listdir("/proc/self/fd")
    )


async def test_second_socket_of_a_port_is_gone_once_the_peer_is_settled(
    endpoint: Endpoint, peer: Peer, happened: list[object]
) -> None:
    before = sockets()
    stream = endpoint.open(happened.append, port=0)
    connect(stream, peer)
    stream.start()
    await until(lambda: sockets() == before + 3)
    async with asyncio.timeout(10):
        while sockets() != before + 2:
            peer.send(stream)
            await asyncio.sleep(0.02)
    connect(stream, peer)  # a re-INVITE opens the latch again
    await until(lambda: sockets() == before + 3)
    connect(stream, peer)
    await asyncio.sleep(0.1)
    assert sockets() == before + 3
    stream.close()
    await stream.wait_closed()
    assert sockets() == before


async def test_leaving_the_endpoint_closes_second_sockets(peer: Peer) -> None:
    before = sockets()
    async with Endpoint(host="127.0.0.1", ports=range(0), realtime=False) as endpoint:
        for _ in range(3):
            connect(endpoint.open(port=0), peer)
    assert sockets() == before


async def test_nobody_else_can_have_the_port_beside_us(stream: Stream) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="in use"):
            thief.bind(("127.0.0.1", stream.port))


async def test_lack_of_file_descriptors_is_a_lack_of_ports(endpoint: Endpoint, peer: Peer) -> None:
    ours = endpoint.open(port=0)
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(fd) for fd in os.listdir("/proc/self/fd"))
    held = [os.dup(0) for _ in range(64)]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1 if highest < 64 else max(held) + 1, files[1]))
        with pytest.raises(PortsExhausted, match="ulimit -n"):
            connect(ours, peer)
        with pytest.raises(PortsExhausted, match="ulimit -n"):
            endpoint.open(port=0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, files)
        for fd in held:
            os.close(fd)
    connect(ours, peer)
    ours.start()
    await readable(peer.rtp)


async def test_signalled_address_may_still_take_over_from_another(
    stream: Stream, peer: Peer, happened: list[object]
) -> None:
    early = Peer()
    early.send(stream, 3)
    await until(lambda: len(happened) == 1)
    peer.send(stream, 3)
    await until(lambda: len(happened) == 2)
    assert happened == [Latched(host="127.0.0.1", port=p.port) for p in (early, peer)]
    early.close()


async def test_closed_port_of_the_peer_is_counted_and_nothing_more(
    stream: Stream, peer: Peer, happened: list[object]
) -> None:
    stream.start()
    peer.send(stream, 3)
    await until(lambda: happened)
    peer.rtp.close()
    await until(lambda: stream.counters().send_refused >= 3)
    before = stream.counters().packets_sent
    await until(lambda: stream.counters().packets_sent > before + 3)
    assert stream.counters().send_failed == 0


async def test_digits_travel_from_one_stream_to_another(endpoint: Endpoint) -> None:
    happened: list[object] = []
    one, other = endpoint.open(port=0), endpoint.open(happened.append, port=0)
    for stream, to in ((one, other), (other, one)):
        stream.connect(host="127.0.0.1", port=to.port, codec="PCMU", payload_type=0, telephone_event=101)
        stream.start()
    await until(lambda: one.counters().packets_received and other.counters().packets_received)
    one.send_digits("4#")
    await until(lambda: len(happened) == 5)
    assert happened[1::2] == [DigitBegun()] * 2
    assert happened[2::2] == [Digit(digit=digit, duration_ms=100, volume_dbm0=-10) for digit in "4#"]
    assert one.counters().event_frames >= 7
    assert other.counters().lost == 0


async def test_digit_whose_end_is_lost_is_reported_in_time(stream: Stream, peer: Peer, happened: list[object]) -> None:
    peer.send(stream, 3)
    peer.send(stream, 1, codes=b"\x07\x0a\x01\x40", payload_type=101)
    await until(lambda: len(happened) == 3)
    assert happened[1] == DigitBegun()
    assert happened[2] == Digit(digit="7", duration_ms=40, volume_dbm0=-10)


async def test_digits_need_to_be_negotiated(endpoint: Endpoint, peer: Peer) -> None:
    stream = endpoint.open(port=0)
    connect(stream, peer)
    with pytest.raises(LocalProtocolError, match="not negotiated"):
        stream.send_digits("1")
    connect(stream, peer, telephone_event=101)
    with pytest.raises(LocalProtocolError, match="'x' is not made of the digits"):
        stream.send_digits("x")


async def test_silent_peer_is_reported_unless_on_hold(endpoint: Endpoint, peer: Peer) -> None:
    happened: list[object] = []
    stream = endpoint.open(happened.append, port=0)
    connect(stream, peer, media_timeout_s=0.2)
    stream.start()
    stream.hold()
    await asyncio.sleep(0.3)
    assert happened == []
    stream.resume()
    await until(lambda: happened)
    (timeout,) = happened
    assert isinstance(timeout, MediaTimeout)
    assert 200 <= timeout.silent_ms <= 400


async def test_audio_of_the_peer_is_heard(stream: Stream, peer: Peer) -> None:
    peer.send(stream, 3)
    await until(lambda: stream.counters().packets_received)
    heard: list[Frame] = []
    stream.listen(heard.append)
    for n in range(5):
        peer.send(stream, 1, codes=bytes((n,)) * 160)
    await until(lambda: len(heard) >= 5)
    assert [frame.samples for frame in heard[:5]] == [mulaw_decode(bytes((n,)) * 160) for n in range(5)]
    assert {then.at_ns - frame.at_ns for frame, then in pairwise(heard)} == {20_000_000}


async def test_one_listener_at_a_time(stream: Stream) -> None:
    heard: list[Frame] = []
    stream.listen(lambda _: None)
    with pytest.raises(LocalProtocolError, match="somebody listens already"):
        stream.listen(heard.append)
    stream.listen(None)
    stream.listen(heard.append)
    await until(lambda: heard)
    stream.close()
    with pytest.raises(StreamClosed):
        stream.listen(heard.append)
    count = len(heard)
    await stream.wait_closed()
    assert len(heard) == count


@pytest.mark.parametrize("host", ["::1", "::"])
async def test_ipv6_carries_a_stream(host: str) -> None:
    peer = Peer("::1")
    async with Endpoint(host=host, ports=range(0), realtime=False) as endpoint:
        stream = endpoint.open(port=0)
        connect(stream, peer)
        stream.start()
        await readable(peer.rtp)
        peer.send(stream, 3)
        await until(lambda: stream.counters().packets_received)
    peer.close()


async def test_endpoint_on_both_families_serves_ipv4(peer: Peer, happened: list[object]) -> None:
    async with Endpoint(host="::", ports=range(0), realtime=False) as endpoint:
        stream = endpoint.open(happened.append, port=0)
        connect(stream, peer)
        stream.start()
        await first_packet(stream)
        peer.send(stream, 3)
        await until(lambda: happened)
        assert happened == [Latched(host="127.0.0.1", port=peer.port)]
        stream.close()
        ((*_, goodbye),) = await peer.compounds(1)
        assert isinstance(goodbye, RtcpByePacket)


# RTCP


def description(ssrc: int) -> SourceDescription:
    return SourceDescription(sources=(Source(ssrc=ssrc, items=((CNAME, b"peer"),)),))


@pytest.mark.conformance("RFC 3550", "6.4.1", "the round trip follows from the report that came back")
async def test_first_report_comes_within_four_seconds_and_tells_round_trip_and_mos(stream: Stream, peer: Peer) -> None:
    stream.start()
    peer.send(stream, 10)
    ((report, source),) = await peer.compounds(1)
    assert isinstance(report, RtcpSrPacket)
    assert isinstance(source, RtcpSdesPacket)
    assert report.ssrc == stream.ssrc
    assert report.sender_info.packet_count > 50
    assert [(block.ssrc, block.packets_lost) for block in report.reports] == [(7, 0)]
    nearest = min(peer.received(), key=lambda packet: abs(packet.timestamp - report.sender_info.rtp_timestamp))
    assert abs(nearest.timestamp - report.sender_info.rtp_timestamp) <= 160
    assert (stream.counters().rtt_ms, stream.counters().mos) == (None, None)
    answer = Report(
        ssrc=stream.ssrc,
        fraction_lost=0,
        lost=2,
        highest_sequence=100,
        jitter=16,
        last_sr=middle_32(report.sender_info.ntp_timestamp),
        delay=0,
    )
    compound = serialise_rtcp((ReceiverReport(ssrc=7, reports=(answer,)), description(7)))
    peer.rtcp.sendto(compound, ("127.0.0.1", stream.port + 1))
    await until(lambda: stream.counters().rtt_ms is not None)
    counters = stream.counters()
    assert counters.rtt_ms is not None
    assert 0 <= counters.rtt_ms < 500
    assert counters.peer_lost == 2
    assert counters.mos is not None
    assert 3 < counters.mos < 4.42


@pytest.mark.conformance("RFC 3550", "6.6", "who leaves says BYE")
async def test_goodbye_is_said_at_the_end_by_who_has_spoken(stream: Stream, peer: Peer) -> None:
    stream.start()
    await first_packet(stream)
    stream.close()
    ((report, _, goodbye),) = await peer.compounds(1)
    assert isinstance(report, RtcpSrPacket)
    assert isinstance(goodbye, RtcpByePacket)
    assert goodbye.sources == [stream.ssrc]


@pytest.mark.conformance("RFC 3550", "6.3.7", "who has sent nothing says no BYE")
async def test_nobody_says_goodbye_who_was_never_heard(stream: Stream, peer: Peer) -> None:
    stream.close()
    await asyncio.sleep(0.05)
    assert drain(peer.rtcp) == []


async def test_goodbye_of_the_peer_is_reported_once(stream: Stream, peer: Peer, happened: list[object]) -> None:
    goodbye = serialise_rtcp((ReceiverReport(ssrc=7), description(7), Goodbye(ssrcs=(7,))))
    for _ in range(2):
        peer.rtcp.sendto(goodbye, ("127.0.0.1", stream.port + 1))
    await until(lambda: happened)
    await asyncio.sleep(0.05)
    assert happened == [RemoteBye()]


@pytest.mark.conformance("RFC 5761", "5.1.1", "where rtcp-mux is agreed, RTCP has the port of RTP")
async def test_multiplexed_rtcp_shares_the_rtp_port(stream: Stream, peer: Peer, happened: list[object]) -> None:
    connect(stream, peer, rtcp_mux=True)
    stream.start()
    await first_packet(stream)
    peer.rtp.sendto(
        serialise_rtcp((ReceiverReport(ssrc=7), description(7), Goodbye(ssrcs=(7,)))), ("127.0.0.1", stream.port)
    )
    await until(lambda: happened)
    assert happened == [RemoteBye()]
    stream.close()
    await asyncio.sleep(0.05)
    assert RtcpPacket.parse(drain(peer.rtp)[-1])[-1].sources == [stream.ssrc]
    assert drain(peer.rtcp) == []


async def test_rtcp_goes_to_the_host_that_was_signalled_for_it(endpoint: Endpoint, peer: Peer) -> None:
    stream, collector = endpoint.open(port=0), Peer("127.0.0.2")
    connect(stream, peer, rtcp_host=collector.host, rtcp_port=collector.rtcp_port)
    stream.start()
    await first_packet(stream)
    stream.close()
    ((*_, goodbye),) = await collector.compounds(1)
    assert isinstance(goodbye, RtcpByePacket)
    assert drain(peer.rtcp) == []
    collector.close()


async def test_rtcp_returns_to_its_signalled_port_with_the_source(endpoint: Endpoint, happened: list[object]) -> None:
    stream, announced, other = endpoint.open(happened.append, port=0), Peer(), Peer("127.0.0.2")
    connect(stream, announced)
    stream.start()
    for speaker in (other, announced):
        speaker.send(stream, 3, to="127.0.0.1")
        latched: list[object] = [Latched(host=speaker.host, port=speaker.port)]
        await until(lambda latched=latched: happened[-1:] == latched)
    stream.close()
    ((*_, goodbye),) = await announced.compounds(1)
    assert isinstance(goodbye, RtcpByePacket)
    announced.close()
    other.close()


async def test_rtcp_goes_through_the_transform(stream: Stream, peer: Peer, happened: list[object]) -> None:
    def sealed(data: bytes) -> bytes:
        return data + b"seal"

    def opened(data: bytes) -> bytes:
        if not data.endswith(b"seal"):
            raise RemoteProtocolError("not authentic")
        return data[:-4]

    stream.transform(Transform(protect_rtcp=sealed, unprotect_rtcp=opened))
    goodbye = serialise_rtcp((ReceiverReport(ssrc=7), description(7), Goodbye(ssrcs=(7,))))
    for data in (goodbye, sealed(goodbye)):
        peer.rtcp.sendto(data, ("127.0.0.1", stream.port + 1))
    await until(lambda: happened)
    assert (happened, stream.counters().invalid) == ([RemoteBye()], 1)
    stream.start()
    await first_packet(stream)
    stream.close()
    await readable(peer.rtcp)
    (said,) = drain(peer.rtcp)
    assert isinstance(RtcpPacket.parse(said[:-4])[-1], RtcpByePacket)
    assert said.endswith(b"seal")


async def test_malformed_rtcp_is_counted(stream: Stream, peer: Peer) -> None:
    for data in (b"", b"\x80", b"\x80\xc9\x00\x09\x00", bytes(2000), b"\x80\xc8\x00\x01\x00\x00\x00\x07"):
        peer.rtcp.sendto(data, ("127.0.0.1", stream.port + 1))
    await until(lambda: stream.counters().invalid == 5)


@pytest.mark.conformance("RFC 4961", "4", "RTCP is sent to where the peer's comes from")
async def test_reports_follow_a_peer_behind_nat(stream: Stream, peer: Peer) -> None:
    """Symmetric RTCP (RFC 4961): reports go to where the peer's come from."""
    stream.start()
    await first_packet(stream)
    elsewhere = Peer()
    now = ntp_from_unix_ns(10**18)
    report = SenderReport(ssrc=7, ntp=now, rtp_timestamp=0, packets=1, octets=160)
    elsewhere.rtcp.sendto(serialise_rtcp((report, description(7))), ("127.0.0.1", stream.port + 1))
    await asyncio.sleep(0.05)
    stream.close()
    ((*_, goodbye),) = await elsewhere.compounds(1)
    assert isinstance(goodbye, RtcpByePacket)
    elsewhere.close()


# Closing


async def test_close_is_idempotent_and_frees_the_ports(endpoint: Endpoint, stream: Stream) -> None:
    assert endpoint.counters().streams == 1
    stream.close()
    stream.close()
    assert endpoint.counters().streams == 0
    await until(lambda: stream._rtp.fileno() == -1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", stream.port))


async def test_whoever_waits_for_a_stream_learns_that_it_was_closed(stream: Stream) -> None:
    writing = asyncio.create_task(stream.write(SPEECH * 150, 8000))
    draining = asyncio.create_task(stream.drained())
    await asyncio.sleep(0.05)
    stream.close()
    for task in (writing, draining):
        with pytest.raises(StreamClosed):
            await asyncio.wait_for(task, 1)


async def test_closed_stream_refuses_everything_but_its_counters(stream: Stream, peer: Peer) -> None:
    stream.start()
    await first_packet(stream)
    async with stream:
        pass
    for refused in (stream.start, stream.hold, stream.resume, stream.mute, stream.unmute, stream.end, stream.flush):
        with pytest.raises(StreamClosed):
            refused()
    with pytest.raises(StreamClosed):
        await stream.write(SPEECH, 8000)
    with pytest.raises(StreamClosed):
        await stream.drained()
    with pytest.raises(StreamClosed):
        connect(stream, peer)
    with pytest.raises(StreamClosed):
        stream.send_digits("1")
    assert stream.counters().packets_sent >= 1


async def test_endpoint_that_was_left_opens_no_stream() -> None:
    async with Endpoint(host="127.0.0.1", ports=free_range(1)) as endpoint:
        pass
    with pytest.raises(LocalProtocolError, match="closed"):
        endpoint.open()
    assert endpoint.counters().ports_free == 1


async def test_leaving_the_endpoint_closes_its_streams(peer: Peer) -> None:
    async with Endpoint(host="127.0.0.1", ports=range(0), realtime=False) as endpoint:
        stream = endpoint.open(port=0)
        connect(stream, peer)
        stream.start()
        await first_packet(stream)
    assert stream.closed
    ((*_, goodbye),) = await peer.compounds(1)
    assert goodbye.sources == [stream.ssrc]


async def test_a_thousand_streams_leave_nothing_behind(endpoint: Endpoint, peer: Peer) -> None:
    before = set(os.listdir("/proc/self/fd"))
    for _ in range(10):
        streams = [endpoint.open(port=0) for _ in range(100)]
        for stream in streams:
            connect(stream, peer, telephone_event=101)
            stream.start()
            await stream.write(SPEECH, 8000)
            stream.send_digits("1")
        await asyncio.sleep(0.01)
        for stream in streams:
            stream.close()
    await until(lambda: not endpoint._streams)
    assert set(os.listdir("/proc/self/fd")) <= before
    assert endpoint.counters().streams == 0


async def test_counters_of_the_endpoint_include_streams_that_are_gone(endpoint: Endpoint, peer: Peer) -> None:
    for _ in range(2):
        async with endpoint.open(port=0) as stream:
            connect(stream, peer)
            stream.start()
            await first_packet(stream)
            peer.received()
    await until(lambda: not endpoint._streams)
    counters = endpoint.counters()
    assert counters.packets_sent >= 2
    assert counters.packets_sent == counters.silence_frames
    assert sum(counters.lateness_counts) == counters.packets_sent
    assert counters.lateness_sum_s <= counters.lateness_max_s * counters.packets_sent


async def test_endpoint_without_threads_is_refused() -> None:
    with pytest.raises(LocalProtocolError, match="0 threads"):
        Endpoint(ports=range(0), threads=0)


@pytest.mark.parametrize("idle", [0, 1000])
async def test_streams_are_heard_whatever_thread_has_them(peer: Peer, idle: int) -> None:
    """With a thousand streams the first thread has enough, and the others take over."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files[1], files[1]))
    async with Endpoint(host="127.0.0.1", ports=range(0), threads=3, realtime=False) as endpoint:
        for _ in range(idle):
            endpoint.open(port=0)
        streams = [endpoint.open(port=0) for _ in range(9)]
        for stream in streams:
            connect(stream, peer)
            stream.start()
        heard: set[int] = set()
        await until(lambda: heard.update(p.ssrc for p in peer.received()) or heard == {s.ssrc for s in streams})


# Trouble on the wire


async def test_packets_that_outrun_the_signalling_are_heard_after_connect(
    endpoint: Endpoint, peer: Peer, happened: list[object]
) -> None:
    stream = endpoint.open(happened.append, port=0)
    peer.send(stream, 5)
    await asyncio.sleep(0.1)
    connect(stream, peer)
    await until(lambda: happened)
    assert happened == [Latched(host="127.0.0.1", port=peer.port)]
    assert stream.counters().packets_received == 3


async def test_early_packets_are_heard_in_order_although_more_come_while_connecting(
    endpoint: Endpoint, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = endpoint.open(port=0)
    second = stream._ports.second

    def second_and_packet(first: socket.socket) -> socket.socket:
        made = second(first)
        peer.send(stream)  # to the newest socket of the port
        return made

    monkeypatch.setattr(stream._ports, "second", second_and_packet)
    peer.send(stream, 10)
    await asyncio.sleep(0.05)
    connect(stream, peer)
    await until(lambda: stream.counters().packets_received == 9)  # two are the probation's
    assert stream.counters().lost == 0
    assert stream.counters().reordered == 0


async def test_flood_on_one_stream_delays_no_other(endpoint: Endpoint, peer: Peer) -> None:
    streams = [endpoint.open(port=0) for _ in range(20)]
    for stream in streams:
        connect(stream, peer)
        stream.start()
    stop = threading.Event()

    def flood() -> None:
        while not stop.is_set():
            peer.send(streams[0], 100)

    flooding = asyncio.create_task(asyncio.to_thread(flood))
    await asyncio.sleep(0.7)
    stop.set()
    await flooding
    counters = endpoint.counters()
    assert counters.skipped_frames == 0
    assert streams[0].counters().packets_received > 300
    assert min(stream.counters().packets_sent for stream in streams) >= 30


async def test_address_that_nothing_can_be_sent_to_is_counted(endpoint: Endpoint) -> None:
    stream = endpoint.open(port=0)
    stream.connect(host="192.0.2.1", port=4000, codec="PCMU", payload_type=0)  # not from a socket on 127.0.0.1
    stream.start()
    await until(lambda: stream.counters().send_failed >= 3)
    assert stream.counters().packets_sent == 0


async def test_what_is_no_rtp_is_counted(stream: Stream, peer: Peer) -> None:
    for data in (b"", b"\x00" * 12, b"\x80" * 11, bytes(3000), b"\x90\x00" + bytes(10), b"\x80\x00" + bytes(65505)):
        peer.rtp.sendto(data, ("127.0.0.1", stream.port))
    await until(lambda: stream.counters().invalid == 6)
    assert stream.counters().packets_received == 0
