"""The commands as a user types them: what they print, what they leave behind, and their exit codes."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
import wave
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.live import likeness, rtp_ports

ROOT = Path(__file__).parents[1]


async def run(*arguments: str, **environ: str) -> tuple[int, str, str]:
    process = await start(*arguments, **environ)
    output, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode(), errors.decode()


async def start(*arguments: str, **environ: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "mediaserver", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"} | environ,
    )


@asynccontextmanager
async def served(**environ: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, dict[str, str]]]:
    """A server in a process of its own, and where its banner says that it listens."""
    free = {"MEDIASERVER_SIP__LISTEN": "127.0.0.1:0", "MEDIASERVER_HTTP__LISTEN": "127.0.0.1:0"}
    process = await start("serve", **(free | {"MEDIASERVER_RTP__PORTS": rtp_ports()} | environ))
    assert process.stdout is not None
    lines = [(await process.stdout.readline()).decode() for _ in range(6)]
    where = re.search(r"SIP   udp (\S+) .* HTTP  (\S+)", lines[1])
    assert where, lines
    try:
        yield process, {"sip": where[1], "http": where[2], "banner": "".join(lines)}
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def samples(path: Path, rate_hz: int) -> bytes:
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, rate_hz)
        return file.readframes(file.getnframes())


async def test_help_teaches() -> None:
    status, output, _ = await run("--help")
    assert status == 0
    for word in ("serve", "check", "call", "say", "mediaserver call sip:hello@127.0.0.1"):
        assert word in output
    for command in ("serve", "check", "call", "say"):
        status, output, _ = await run(command, "--help")
        assert status == 0
        assert "Usage: mediaserver" in output or "Usage: python -m mediaserver" in output


async def test_the_demonstration_of_the_banner_leaves_speech_in_a_file(tmp_path: Path) -> None:
    async with served() as (process, listens):
        assert f'call "sip:hello@{listens["sip"]}" --text' in listens["banner"]
        heard = tmp_path / "heard.wav"
        status, output, errors = await run(
            *("call", f"sip:hello@{listens['sip']}", "--text", "Hello from the media server.", "--record", str(heard))
        )
        assert status == 0, errors
        assert "Answered after" in output
        assert "0 lost" in output
        said = tmp_path / "said.wav"
        status, output, errors = await run("say", "Hello from the media server.", "-o", str(said), "--rate", "8000")
        assert status == 0, errors
        assert likeness(samples(heard, 8000), samples(said, 8000)) > 0.98
        async with aiohttp.ClientSession() as http, http.get(f"{listens['http']}/metrics") as answer:
            page = await answer.text()
        assert 'sip_calls_ended_total{cause="local_bye",status=""} 1.0' in page
        assert "rtp_underruns_total 0.0" in page
        assert "tts_gpu_memory_gb 0.0" in page
        async with aiohttp.ClientSession() as http, http.get(f"{listens['http']}/health") as answer:
            health = await answer.json()
        assert (health["status"], health["gpu_available"], health["model_loaded"]) == ("healthy", False, True)
        process.send_signal(signal.SIGTERM)
        _, log = await process.communicate()
        assert process.returncode == 0
    lines = [json.loads(line) for line in log.decode().splitlines()]
    call = [line for line in lines if line["event"].startswith("call ")]
    assert [line["event"] for line in call] == [
        *("call offered", "call answered", "call talking", "call staying", "call ending", "call ended")
    ]
    assert len({line["call_id"] for line in call}) == 1
    assert call[-1]["underruns"] == 0
    assert "Hello from the media server" not in log.decode(), "what is said is nobody else's business"


async def test_a_call_that_is_refused_exits_with_3() -> None:
    async with served() as (_, listens):
        status, output, _ = await run("call", f"sip:annc@{listens['sip']}")
        assert (status, output.strip()) == (3, "Not answered: 400 Mandatory play parameter missing")


@pytest.mark.parametrize("uri", ["sip:", "tel:123", "sips:a@127.0.0.1", "http://x"])
async def test_what_cannot_be_called_is_a_usage_error(uri: str) -> None:
    status, _, errors = await run("call", uri)
    assert status == 2
    assert "Error: " in errors


async def test_check_names_the_key(tmp_path: Path) -> None:
    status, output, _ = await run("check", "--config", "deploy/mediaserver.toml")
    assert (status, output) == (0, "deploy/mediaserver.toml: good, with 2 route(s)\n")
    bad = tmp_path / "bad.toml"
    bad.write_text('[sip]\nlisten = "nowhere"\n[[route]]\nplay = "/nonexistent.wav"')
    status, _, errors = await run("check", "--config", str(bad))
    assert status == 2
    assert "sip.listen: write it as" in errors
    status, _, errors = await run("check", MEDIASERVER_ROUTE='[{"play": "/nonexistent.wav"}]')
    assert status == 2
    assert "route.0.play: /nonexistent.wav: " in errors


async def test_a_port_in_use_is_named() -> None:
    async with served() as (_, listens):
        status, _, errors = await run("serve", MEDIASERVER_SIP__LISTEN=listens["sip"])
        assert status == 1
        assert f"cannot listen on 127.0.0.1 port {listens['sip'].rpartition(':')[2]} (UDP)" in errors
        assert "Traceback" not in errors


async def test_an_unknown_voice_is_a_usage_error(tmp_path: Path) -> None:
    status, _, errors = await run("say", "Hello", "-o", str(tmp_path / "x.wav"), "--voice", "nobody")
    assert status == 2
    assert "nobody" in errors
    assert not (tmp_path / "x.wav").exists()
