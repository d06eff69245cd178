"""What a browser's call costs, and what is left of the sound: scripts/bench webrtc [--help]

A tone goes through the whole path both ways, aiortc being the browser: from a WAV file by the RTP plane and the gateway
to aiortc, and from aiortc by the gateway to the server's ear. Told are its level after all and how far it is above
everything else that is heard (median and worst of the half seconds), G.711 itself among that. Then several browsers
call at once, in a process of their own, and the processor time of the gateway and of the server is taken.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soxr

from bench.calls import usage
from mediaserver import audio, server
from tests.live import Samples, floats, serving
from tests.webrtc_phone import HOST, WebRtcPhone, webrtc_phone

HZ, AMPLITUDE = 1004.0, 8000
WINDOW = 4000
SETTLE_S = 1.5


def tone(seconds: float) -> bytes:
    times = np.arange(round(8000 * seconds)) / 8000
    return (np.sin(2 * np.pi * HZ * times) * AMPLITUDE).astype(np.int16).tobytes()


def judged(samples: Samples) -> tuple[float, float, float]:
    """Level of the tone against what was sent, dB; how far it is above the rest, median and worst window, dB."""
    levels, ratios = [], []
    for at in range(0, len(samples) - WINDOW + 1, WINDOW):
        heard = samples[at : at + WINDOW]
        times = np.arange(WINDOW) / 8000
        basis = np.stack([np.sin(2 * np.pi * HZ * times), np.cos(2 * np.pi * HZ * times)], axis=1)
        found = np.linalg.lstsq(basis, heard, rcond=None)[0]
        levels.append(20 * np.log10(np.hypot(*found) / AMPLITUDE))
        ratios.append(10 * np.log10(np.var(basis @ found) / np.var(heard - basis @ found)))
    return statistics.median(levels), statistics.median(ratios), min(ratios)


async def ear(running: server.Server, id: str, seconds: float) -> Samples:
    call = running.switchboard.ledger.alive(id)
    assert call is not None
    while (media := call.media) is None or not media.facts()["packets_received"]:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    await asyncio.sleep(SETTLE_S)
    heard = bytearray()
    with media.ear.frames() as frames:
        async for frame in frames:
            heard += frame.samples
            if len(heard) >= seconds * 16_000:
                break
    return floats(bytes(heard))


def mouth(phone: WebRtcPhone) -> Samples:
    samples = floats(phone.heard).astype(np.float32)
    if phone.rate_hz != 8000:
        samples = np.asarray(soxr.resample(samples, phone.rate_hz, 8000))
    return samples[round(SETTLE_S * 8000) :].astype(np.float64)


async def quality(running: server.Server, codec: str, seconds: float) -> None:
    async with webrtc_phone(codec, tone(seconds + 5)) as phone:
        await phone.dial(running)
        heard = await ear(running, phone.answer["call_id"], seconds)
        for way, samples in (("browser to server", heard), ("server to browser", mouth(phone))):
            level, median, worst = judged(samples)
            print(f"{codec:6} {way:18} {level:+6.2f} {median:7.1f} {worst:7.1f}")


async def cost(running: server.Server, codec: str, calls: int, seconds: float) -> None:
    # The browsers' own processor time is nobody's business here.
    command = (sys.executable, "-m", "bench.webrtc", "--browsers", str(running.http_address), codec, str(calls))
    process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.PIPE)
    try:
        async with asyncio.timeout(30):
            while len(running.switchboard) < calls or not all(_flows(running)):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        gateway = running.gateway.pid
        assert gateway is not None
        began, cpu, whole = time.monotonic(), usage(gateway), usage(os.getpid())
        others = usage(process.pid)[0]
        await asyncio.sleep(seconds)
        took = time.monotonic() - began
        used = usage(gateway)[0] - cpu[0]
        rest = usage(os.getpid())[0] - whole[0] - used - (usage(process.pid)[0] - others)
        media = [facts.media for facts in running.switchboard.ledger.all(0.0) if facts.media is not None]
        lost = sum(int(one["lost"]) for one in media)
        peer_lost = sum(int(one["peer_lost"] or 0) for one in media)
        jitter = statistics.median(float(one["jitter_ms"]) for one in media)
        print(
            f"{codec:6} {calls:5} {used / took / calls * 100:9.2f} {used / took / calls / 100 * 1e6:9.0f} "
            f"{rest / took / calls * 100:9.2f} {usage(gateway)[1]:7.0f} {lost:5} {peer_lost:5} {jitter:6.1f}"
        )
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
        while len(running.switchboard):  # noqa: ASYNC110
            await asyncio.sleep(0.1)


def _flows(running: server.Server) -> list[bool]:
    return [
        facts.media is not None and int(facts.media["packets_received"]) > 0
        for facts in running.switchboard.ledger.all(0.0)
        if facts.ended_at is None
    ]


class _Address:
    """What a phone wants to know of a server."""

    def __init__(self, http_address: str) -> None:
        self.http_address = http_address


async def browsers(address: str, codec: str, calls: int) -> None:
    """Call so often, and talk until this is ended."""
    sound = tone(60)
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(calls):
            phone = await stack.enter_async_context(webrtc_phone(codec, sound))
            await phone.dial(_Address(address))  # type: ignore[arg-type]
        await asyncio.sleep(60)


async def measure(calls: int, seconds: float) -> None:
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "tone.wav"
        audio.write_wav(file, tone(60), rate_hz=8000)
        settings = {
            "route": [{"play": str(file)}],
            "webrtc": {"addresses": [HOST], "max_calls": 1000},
            "log": {"level": "warning"},
        }
        print("codec  way                level dB  above   worst dB")
        async with serving(**settings) as running:
            for codec in ("PCMU", "opus"):
                await quality(running, codec, seconds)
        print("codec  calls  gateway %  us/packet  server %     MiB  lost  peer  jitter ms")
        for codec in ("PCMU", "opus"):
            async with serving(**settings) as running:
                await cost(running, codec, calls, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--browsers", nargs=3, metavar=("ADDRESS", "CODEC", "CALLS"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.browsers:
        address, codec, calls = asked.browsers
        asyncio.run(browsers(address, codec, int(calls)))
        return
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    asyncio.run(measure(asked.calls, asked.seconds))


if __name__ == "__main__":
    main()
