"""What an operator may meet, done to a running server: docs/RUNBOOK.md ("Drills") says what was seen."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog

import engines
from mediaserver import softphone
from tests.live import heard, likeness, rtp_ports, serving, spoken, until_calls
from tests.redis_support import PASSWORD, needs_redis, redis_server
from tests.speakers_support import form, somebody, wav_of
from tests.test_calls import workers
from tests.test_speakers import api
from tests.test_speakers_shared import TONE, redis_state, status, until

ROOT = Path(__file__).parents[1]
TEXT = " ".join(f"Sentence number {n} is here to be heard." for n in range(1, 3))


@asynccontextmanager
async def served(*prefix: str, folder: Path, **environ: str) -> AsyncIterator[tuple[int, str, str]]:
    """A server in a process of its own: its pid, and where SIP and HTTP are; its log is `folder`/log."""
    variables = {
        "PATH": os.environ["PATH"],
        "LOG_LEVEL": "info",
        "MEDIASERVER_SIP__LISTEN": "127.0.0.1:0",
        "MEDIASERVER_HTTP__LISTEN": "127.0.0.1:0",
        "MEDIASERVER_RTP__PORTS": rtp_ports(),
        "MEDIASERVER_LOG__FORMAT": "json",
    }
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(*prefix, sys.executable, "-m", "mediaserver", "serve"),
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            cwd=ROOT,
            env=variables | environ,
        )
    assert process.stdout is not None
    try:
        lines = [(await process.stdout.readline()).decode() for _ in range(6)]
        where = re.search(r"SIP   udp (\S+) .* HTTP  (\S+)", lines[1])
        assert where, (folder / "log").read_text()
        yield process.pid, where[1], where[2]
        process.terminate()
        await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def logged(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log").read_text().splitlines() if line.startswith("{")]


async def said(text: str) -> bytes:
    async with engines.open_engine("espeak", workers=1) as engine:
        return await spoken(engine, text)


@pytest.mark.skipif(shutil.which("cc") is None, reason="wants a C compiler")
@pytest.mark.parametrize("step_s", [3600, -3600])
async def test_a_clock_that_is_set_by_an_hour_is_not_heard_and_makes_no_call_longer(
    step_s: int, tmp_path: Path
) -> None:
    expected = await said(TEXT)
    clock, library, records = tmp_path / "clock", tmp_path / "step_clock.so", tmp_path / "calls.jsonl"
    build = ("cc", "-shared", "-fPIC", "-O2", "-o", str(library), str(ROOT / "tests" / "step_clock.c"), "-ldl")
    assert await (await asyncio.create_subprocess_exec(*build)).wait() == 0
    clock.write_bytes(struct.pack("=q", 0))
    faked = {
        "LD_PRELOAD": str(library),
        "STEP_CLOCK": str(clock),
        "MEDIASERVER_STORE__PATH": str(tmp_path / "store"),
        "MEDIASERVER_CALLS__RECORD_FILE": str(records),
    }
    async with served(folder=tmp_path, **faked) as (_, sip, _):
        during = asyncio.create_task(softphone.call(softphone.Order(uri=f"sip:a@{sip}", text=TEXT)))
        await asyncio.sleep(2)
        with clock.open("r+b") as file:
            file.write(struct.pack("=q", step_s))
        outcome = await during
        assert (outcome.answered, outcome.ended_by) == (True, "the peer hung up")
        assert likeness(outcome.heard, expected) > 0.98
        assert (await softphone.call(softphone.Order(uri=f"sip:a@{sip}", text="a"))).ended_by == "the peer hung up"
    first, second = (json.loads(line) for line in records.read_text().splitlines())
    assert (first["media"]["underruns"], second["media"]["underruns"]) == (0, 0)
    began, ended = (datetime.fromisoformat(first[at]) for at in ("confirmed_at", "ended_at"))
    assert (ended - began).total_seconds() == pytest.approx(first["media"]["packets_sent"] * 0.02, abs=0.5)
    apart = datetime.fromisoformat(second["created_at"]) - began
    assert abs(apart.total_seconds() - step_s) < 100, "the clock was set"


async def test_a_worker_that_stands_still_for_five_seconds_costs_a_wait_and_no_word() -> None:
    async with serving(engine={"workers": 1}) as running:
        expected = await spoken(running.engine, TEXT)
        (worker,) = workers()
        os.kill(worker, signal.SIGSTOP)
        call = asyncio.create_task(heard(running, text=TEXT))
        await until_calls(running, 1)
        await asyncio.sleep(5)
        with contextlib.suppress(ProcessLookupError):  # it may have been replaced
            os.kill(worker, signal.SIGCONT)
        outcome = await call
        assert (outcome.answered, outcome.ended_by) == (True, "the peer hung up")
        assert likeness(outcome.heard, expected) > 0.98
        assert running.engine.health().workers == 1


def may_mount() -> bool:
    """Whether a file system of a few MB may be had that is nobody else's."""
    command = ["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"]
    return (
        shutil.which("unshare") is not None
        and subprocess.run(command, check=False, capture_output=True).returncode == 0
    )


@pytest.mark.skipif(not may_mount(), reason="wants the right to mount a file system of its own")
async def test_a_full_disk_costs_what_is_kept_there_and_no_call(tmp_path: Path) -> None:
    expected = await said(TEXT)
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = ("unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=4m none "$0" && exec "$@"', str(disk))
    settings = {
        "MEDIASERVER_STORE__PATH": str(disk),
        "MEDIASERVER_CALLS__RECORD_FILE": str(disk / "calls.jsonl"),
        "MEDIASERVER_CACHE__DISK_MB": "1",
        "MEDIASERVER_RECORDINGS__ENABLED": "true",
        "MEDIASERVER_RECORDINGS__MIN_FREE_MB": "0",
        "MEDIASERVER_ROUTE": json.dumps([{"say": TEXT, "record": True}]),
    }
    async with (
        served(*mounted, folder=tmp_path, **settings) as (pid, sip, web),
        aiohttp.ClientSession(web) as http,
    ):
        there = Path(f"/proc/{pid}/root{disk}")
        with (there / "fill").open("wb", buffering=0) as filling, contextlib.suppress(OSError):
            while True:
                filling.write(b"\\0" * 4096)
        assert os.statvfs(there).f_bavail == 0
        outcome = await softphone.call(softphone.Order(uri=f"sip:a@{sip}"))
        assert (outcome.answered, outcome.ended_by) == (True, "the peer hung up")
        assert likeness(outcome.heard, expected) > 0.98
        async with http.post("/v1/synthesize", json={"text": "This is new."}) as response:
            assert response.status == 200
        async with http.post("/v1/speakers", data=form(wav_of(somebody()), name="Ada")) as response:
            refused = response.status, response.headers.get("Retry-After")
        async with http.get("/v1/recordings") as response:
            recordings = await response.json()
        async with http.get("/health") as response:
            health = response.status
        (there / "fill").unlink()
        async with http.post("/v1/speakers", data=form(wav_of(somebody()), name="Ada")) as response:
            assert response.status == 201, await response.text()
    assert (refused, health) == ((503, "5"), 200)
    assert [one["reason"] for one in recordings["recordings"]] in ([], ["no_space"])
    told = {line["event"] for line in logged(tmp_path)}
    assert told >= {"a recording cannot be written", "speech cannot be kept on the disk", "the store of speakers fails"}


async def test_records_that_a_full_disk_does_not_take_are_lost_and_told_of() -> None:
    with structlog.testing.capture_logs() as lines:
        async with serving(engine={"name": "tone"}, calls={"record_file": "/dev/full"}) as running:
            for _ in range(2):
                assert (await heard(running, text="a")).ended_by == "the peer hung up"
    told = [line for line in lines if line["event"] == "the record of a call is lost"]
    assert [line["lost"] for line in told] == [1, 2]
    assert "No space left on device" in told[0]["error"]


@needs_redis
async def test_a_password_of_redis_that_is_changed_stops_enrolling_and_no_speech(tmp_path: Path) -> None:
    async with (
        redis_server(tmp_path) as redis,
        api(engine=TONE, store={"path": str(tmp_path / "one")}, redis=redis.section) as one,
    ):
        speaker = await one.enrol(wav_of(somebody()))
        await redis.client.config_set("requirepass", "another")
        # A password is asked for when a connection begins.
        for kind in ("pubsub", "normal"):
            await redis.client.client_kill_filter(_type=kind, skipme=True)

        assert await status(one, "POST", "/v1/speakers", data=form(wav_of(somebody()), name="Bob")) == 503

        async def down() -> bool:
            return await redis_state(one) == "down"

        await until(down)
        assert await one.say(speaker["id"])
        await redis.client.config_set("requirepass", PASSWORD)

        async def again() -> bool:
            return await status(one, "POST", "/v1/speakers", data=form(wav_of(somebody()), name="Bob")) == 201

        await until(again)
