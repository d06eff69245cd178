"""Peers that we did not write: PJSIP and sipp call a real server, and aiortc judges the RTP on the wire."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import shutil
import socket
import struct
import sys
import time
import wave
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from aiortc.rtp import RtpPacket

import sip
from mediaserver import server
from sip import sdp
from tests.live import likeness, serving, spoken, until_calls

SO_TIMESTAMPNS = 35  # asm-generic/socket.h; Python does not name it
TEXT = "The quick brown fox jumps over the lazy dog."
sipp = pytest.mark.skipif(shutil.which("sipp") is None, reason="sipp is not installed (Debian: sip-tester)")


async def output_of(*command: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode(errors="replace")


@pytest.mark.alone
async def test_pjsip_hears_what_the_engine_said(tmp_path: Path) -> None:
    recording = tmp_path / "heard.wav"
    async with serving() as running:
        speech = await spoken(running.engine, TEXT)
        status, output = await output_of(
            *(sys.executable, "-m", "tests.pjsua2_phone", f"sip:pjsip@{running.sip_address}"),
            *(str(recording), "20", "--header", f"X-Speak={TEXT}"),
        )
        assert status == 0, output
        facts = json.loads(output.splitlines()[-1])
        assert (facts["answered"], facts["status"], facts["lost"], facts["duplicates"]) == (True, 200, 0, 0), facts
        await until_calls(running, 0)
    with wave.open(str(recording)) as file:
        assert file.getframerate() == 8000
        assert likeness(file.readframes(file.getnframes()), speech) > 0.95


@sipp
@pytest.mark.alone
async def test_fifty_calls_of_sipp_at_ten_a_second_do_not_fail() -> None:
    async with serving() as running:
        status, output = await output_of(
            *("sipp", "-sn", "uac", str(running.sip_address), "-i", "127.0.0.1", "-s", "100", "-nostdin"),
            *("-m", "50", "-r", "10", "-d", "1000", "-timeout", "60"),
        )
        assert status == 0, output[-2000:]
        await until_calls(running, 0)
        seen = running.endpoint.counters()
        assert seen.underruns == 0
        assert seen.speech_frames > 50 * 40


@asynccontextmanager
async def listening(running: server.Server, seconds: float, text: str) -> AsyncIterator[list[tuple[float, RtpPacket]]]:
    """Call with a bare socket for media: the packets that arrive in `seconds`, each with the kernel's arrival time."""
    events: asyncio.Queue[sip.Event] = asyncio.Queue()
    agent = sip.Agent(random=random.Random(1))
    loop = asyncio.get_running_loop()
    packets: list[tuple[float, RtpPacket]] = []

    def take() -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                data, ancillary, _, _ = media.recvmsg(2048, 128)
                sec, nsec = struct.unpack("qq", ancillary[0][2])
                packets.append((sec + nsec * 1e-9, RtpPacket.parse(data)))

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as media:
        media.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        media.bind(("127.0.0.1", 0))
        media.setblocking(False)
        port = media.getsockname()[1]
        loop.add_reader(media, take)
        async with sip.Transport.open(agent, [("127.0.0.1", 0)], deliver=events.put_nowait) as transport:
            flow = transport.flow_to("127.0.0.1", running.sip_address.port)
            offer = sdp.offer(
                sdp.Capabilities(host="127.0.0.1", port=port, session_id=1, codecs=("PCMU",), rtcp_mux=False)
            )
            call = transport.invite(
                sip.Uri.parse(f"sip:x@{running.sip_address}"),
                flow,
                from_=sip.NameAddr.parse("<sip:judge@127.0.0.1>"),
                body=offer.serialise(),
                headers=(("X-Speak", text),),
            )
            while not isinstance(await events.get(), sip.Answered):
                pass
            await asyncio.sleep(seconds)
            transport.bye(call)
            await until_calls(running, 0)
        loop.remove_reader(media)
        take()
        yield packets


def judge(packets: list[tuple[float, RtpPacket]], seconds: float, *, skipped: int = 0) -> None:
    """`skipped` slots are what the server says that it passed over."""
    assert len(packets) == pytest.approx(seconds * 50, abs=4)
    first = packets[0][1]
    for index, (_, packet) in enumerate(packets):
        assert (packet.version, packet.payload_type, packet.ssrc, packet.csrc) == (2, 0, first.ssrc, [])
        assert len(packet.payload) == 160
        assert packet.sequence_number == (first.sequence_number + index) % 2**16
        assert (packet.timestamp - first.timestamp) % 2**32 % 160 == 0
    slots = np.array([(packet.timestamp - first.timestamp) % 2**32 // 160 for _, packet in packets])
    passed_over = np.diff(slots, prepend=-1) - 1
    assert passed_over.min() >= 0, "the media clock goes forward"
    assert passed_over.sum() == skipped
    # The marker stands where speech begins after silence.
    silent = [set(packet.payload) == {0xFF} for _, packet in packets]
    for index, (_, packet) in enumerate(packets):
        if packet.marker:
            assert index == 0 or silent[index - 1] or passed_over[index]
    assert any(packet.marker for _, packet in packets)
    # Absolute deadlines: against the grid of the first packets nothing is ever early, and nothing drifts.
    times = np.array([at for at, _ in packets])
    late_ms = 1000 * (times - times[0] - 0.02 * slots)
    late_ms -= np.percentile(late_ms, 1)
    assert abs(np.median(late_ms[-100:]) - np.median(late_ms[:100])) < 1.0, "the pace drifts"
    assert np.percentile(late_ms, 99) < 12.0, "a pause of a shared machine is shorter, a blocked loop is longer"


@pytest.mark.alone
async def test_the_wire_is_as_rfc_3550_wants_it_for_a_minute() -> None:
    async with serving() as running, listening(running, 60.0, f"{TEXT} " * 40) as packets:
        skipped = running.endpoint.counters().skipped_frames
        assert skipped <= 10, "only a machine that stands still for more than two slots passes over the rest"
        judge(packets, 60.0, skipped=skipped)


@pytest.mark.alone
async def test_pacing_survives_an_event_loop_that_stands_still() -> None:
    async def stall() -> None:
        while True:
            time.sleep(0.25)  # noqa: ASYNC251
            await asyncio.sleep(0.25)

    async with serving() as running:
        stalling = asyncio.create_task(stall())
        async with listening(running, 5.0, f"{TEXT} " * 20) as packets:
            stalling.cancel()
            judge(packets, 5.0)
        assert running.endpoint.counters().underruns == 0
