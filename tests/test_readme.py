"""What the README tells people to type works as it stands there, but for addresses and ids."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import sys
from pathlib import Path

import aiohttp
import pytest

from mediaserver import server
from tests.live import serving
from tests.speakers_support import somebody, wav_of
from tests.test_attendant import caller, story
from tests.test_call_audio import handset
from tests.test_calls_verbs import friend

README = (Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = ["\n".join(line[4:] for line in block.splitlines()) for block in re.findall(r"(?m)(?:^    .*\n|^\n)+", README)]
LONG_S = 3
"""So long a stream of events is read that does not end by itself."""


def _commands() -> list[str]:
    joined = "\n".join(BLOCKS).replace("\\\n", " ")
    return [re.sub(r" {2,}", " ", line) for line in joined.splitlines() if line.startswith("curl ")]


def _programs(word: str) -> list[str]:
    """Those in which the word stands."""
    return [block.strip() for block in BLOCKS if re.match(r"import |from ", block.strip()) and word in block]


COMMANDS, PROGRAMS = _commands(), _programs("/v1/synthesize/ws")
(WEBHOOK,), (ECHO,) = _programs("add_post"), _programs("call_...")


def test_the_readme_has_commands_and_programs() -> None:
    assert len(COMMANDS) > 20
    assert len(PROGRAMS) >= 1


async def _ran(command: str, *, cwd: Path) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *("bash", "-c", command),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=cwd,
        env={"PATH": os.environ["PATH"], "TOKEN": "0123456789abcdef0123456789abcdef"},
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode(errors="replace")


async def _speaker(web: str) -> str:
    form = aiohttp.FormData()
    form.add_field("name", "Ada")
    form.add_field("file", wav_of(somebody()), filename="ada.wav")
    async with aiohttp.ClientSession() as client, client.post(f"{web}/v1/speakers", data=form) as response:
        assert response.status == 201, await response.text()
        return str((await response.json())["id"])


async def _clip(web: str) -> str:
    url, audio = f"{web}/v1/clips", {"Content-Type": "audio/wav"}
    async with aiohttp.ClientSession() as client, client.post(url, data=wav_of(somebody()), headers=audio) as response:
        assert response.status == 201, await response.text()
        return str((await response.json())["id"])


async def _call(web: str, uri: str) -> str:
    """A call that is up."""
    async with aiohttp.ClientSession() as client:
        async with client.post(f"{web}/v1/calls", json={"to": uri, "stay": 60, "then": "stay"}) as response:
            assert response.status == 201, await response.text()
            id = str((await response.json())["id"])
        while True:
            async with client.get(f"{web}/v1/calls/{id}") as response:
                if (await response.json())["state"] == "up":
                    return id
            await asyncio.sleep(0.02)


async def _recording(web: str, call: str, **fields: object) -> str:
    """A recording that has begun."""
    async with aiohttp.ClientSession() as client, client.post(f"{web}/v1/calls/{call}/record", json=fields) as response:
        assert response.status == 201, await response.text()
        return str((await response.json())["id"])


async def _recorded(web: str, call: str) -> str:
    """A recording that has ended."""
    id = await _recording(web, call, max_s=0.2)
    async with aiohttp.ClientSession() as client:
        while True:
            async with client.get(f"{web}/v1/recordings/{id}") as response:
                if (await response.json())["state"] == "ended":
                    return id
            await asyncio.sleep(0.02)


def _web(running: server.Server) -> str:
    return f"http://{running.http_address}"


@pytest.mark.parametrize("command", COMMANDS)
async def test_every_curl_line_is_answered_with_2xx(command: str, tmp_path: Path) -> None:
    (tmp_path / "ada.wav").write_bytes(wav_of(somebody()))
    accepted = ("SIP/2.0 100 Trying", "SIP/2.0 200 OK")
    settings = {
        "store": {"path": str(tmp_path / "store")},
        "recordings": {"enabled": True, "min_free_mb": 0},
        "webhooks": {"allow_hosts": ["127.0.0.1"]},
    }
    async with serving(**settings) as running, friend(notifies=accepted) as peer:
        web = _web(running)
        typed = command.replace("http://127.0.0.1:8080", web)
        typed = re.sub(r"sip:alice@192\.168\.1\.20", peer.uri, typed)
        if "call_..." in typed:
            call = await _call(web, peer.uri)
            typed = typed.replace("call_...", call)
            if "/record/stop" in typed:
                await _recording(web, call)
        if "rec_..." in typed:
            typed = typed.replace("rec_...", await _recorded(web, await _call(web, peer.uri)))
        if "clip_..." in typed:
            typed = typed.replace("clip_...", await _clip(web))
        if "spk_..." in typed:
            typed = typed.replace("spk_...", await _speaker(web))
        endless = "/events" in command
        code, output = await _ran(f"{typed} -sS --fail-with-body --max-time {LONG_S if endless else 30}", cwd=tmp_path)
        assert code == (28 if endless else 0), f"{typed}\n{output[-2000:]}"
        written = re.search(r" -o (\S+)", command)
        if written:
            assert (tmp_path / written[1]).stat().st_size > 1000


@pytest.mark.parametrize("program", [program for program in PROGRAMS if "call_..." not in program])
async def test_every_program_runs(program: str, tmp_path: Path) -> None:
    async with serving(store={"path": str(tmp_path / "store")}) as running:
        (tmp_path / "program.py").write_text(program.replace("127.0.0.1:8080", str(running.http_address)))
        code, output = await _ran(f"{sys.executable} program.py", cwd=tmp_path)
        assert code == 0, output
        assert any(line.isdigit() and int(line) > 1000 for line in output.splitlines()), "speech came"
        assert json.loads(output.splitlines()[-1])["type"] == "done"


async def test_the_menu_works_as_it_stands_there(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    (tmp_path / "menu.py").write_text(WEBHOOK.replace("9000", str(port)))
    route = {"webhook": f"http://127.0.0.1:{port}/calls", "say": "Please call again later."}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "menu.py"), cwd=tmp_path, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        async with serving(engine={"name": "tone"}, route=[route]) as running, caller() as peer:
            await until_it_listens(port)
            peer.dial(running)
            await peer.key("1")
            await peer.over()
            told = [one["text"] for one in (await story(running))["speech"]]
    finally:
        process.terminate()
        await process.wait()
    assert told[0].startswith("Welcome. For opening hours, press 1.")
    assert told[1:] == ["We are open from nine to five."]


async def until_it_listens(port: int) -> None:
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            await asyncio.sleep(0.05)


async def test_a_caller_of_the_program_that_echoes_hears_himself(tmp_path: Path) -> None:
    said = bytes(range(1, 100)) * 40
    async with serving(store={"path": str(tmp_path / "store")}) as running, handset() as callee:
        web = _web(running)
        call = await _call(web, callee.uri)
        typed = ECHO.replace("127.0.0.1:8080", str(running.http_address)).replace("call_...", call)
        (tmp_path / "program.py").write_text(typed)
        echoing = asyncio.create_task(_ran(f"{sys.executable} program.py", cwd=tmp_path))
        async with asyncio.timeout(20):
            while said not in callee.ear.codes:
                await callee.ear.talk(said)
        async with aiohttp.ClientSession() as client, client.delete(f"{web}/v1/calls/{call}"):
            code, output = await echoing
    assert code == 0, output
    kinds = [json.loads(line)["type"] for line in output.splitlines()]
    assert (kinds[0], kinds[-1]) == ("start", "stop")
