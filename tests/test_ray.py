"""Speech by Ray Serve (deploy/ray), on a real local Ray in an environment of its own; replicas are killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import yaml

from engines import EngineFailure, UnknownVoice, Utterance, open_engine
from engines.remote import open_remote
from tests.live import heard, likeness, serving, spoken

ROOT = Path(__file__).parents[1]
TEXT = "Good morning, this is what Ray has to say."
START_S = 240


def test_the_configuration_names_what_there_is() -> None:
    settings = yaml.safe_load((ROOT / "deploy" / "ray" / "serve.yaml").read_text())
    (application,) = settings["applications"]
    assert application["import_path"] == "deploy.ray.serve_app:app"
    source = (ROOT / "deploy" / "ray" / "serve_app.py").read_text()
    (deployment,) = application["deployments"]
    assert f"class {deployment['name']}:" in source
    assert "\napp = Engine.bind(" in source


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The interpreter of an environment with this project and Ray in it; RAY_PYTHON names one that is there."""
    if there := os.environ.get("RAY_PYTHON"):
        return there
    place = tmp_path_factory.mktemp("ray") / "venv"
    subprocess.run([sys.executable, "-m", "venv", place], check=True)
    subprocess.run([place / "bin" / "pip", "install", "-q", f"{ROOT}[ray]"], check=True, timeout=900)
    return str(place / "bin" / "python")


@asynccontextmanager
async def ray(python: str, port: int, name: str, **options: int) -> AsyncIterator[str]:
    """Where the application answers."""
    process = await asyncio.create_subprocess_exec(
        *(python, "-m", "tests.ray_scene", str(port), name, json.dumps(options)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        cwd=ROOT,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(START_S):
            while (line := await process.stdout.readline()).strip() != b"up":
                assert line, "Ray did not start"
        yield f"http://127.0.0.1:{port}"
    finally:
        _, pending = await asyncio.wait([asyncio.create_task(process.communicate())], timeout=30)
        if pending:
            os.killpg(process.pid, signal.SIGKILL)
            await asyncio.wait(pending)


def replicas() -> list[int]:
    found = subprocess.run(["pgrep", "-f", "^ray::ServeReplica"], capture_output=True, text=True, check=False).stdout
    return [int(line) for line in found.split()]


@pytest.mark.slow
async def test_ray_says_what_the_engine_says_here(python: str, unused_tcp_port: int) -> None:
    async with ray(python, unused_tcp_port, "espeak") as url, open_engine("espeak", workers=1) as espeak:
        expected = await spoken(espeak, TEXT)
        async with open_remote([url], first_s=20) as engine:
            assert (engine.name, engine.version, engine.voices()) == (espeak.name, espeak.version, espeak.voices())
            for _ in range(4):
                assert await spoken(engine, TEXT) == expected
            many = await asyncio.gather(*(spoken(engine, TEXT) for _ in range(40)))
            assert set(many) == {expected}
            with pytest.raises(UnknownVoice):
                engine.check(Utterance(text=TEXT, voice="nobody"))
        remote = {"name": "remote", "urls": [url], "fallback": "espeak", "first_ms": 20_000}
        async with serving(engine=remote, cache={"memory_mb": 0}) as running:
            assert likeness((await heard(running, text=TEXT)).heard, expected) > 0.98
            for pid in replicas():
                os.kill(pid, signal.SIGKILL)
            # Serve makes new ones; meanwhile the embedded engine speaks, and no call is silent.
            for _ in range(3):
                assert likeness((await heard(running, text=TEXT)).heard, expected) > 0.98


@pytest.mark.slow
async def test_a_replica_that_is_killed_in_mid_utterance_fails_that_one_alone(
    python: str, unused_tcp_port: int
) -> None:
    """A tone that is made no faster than it sounds is long at work."""
    async with (
        ray(python, unused_tcp_port, "tone", gap_ms=4000, gap_at_ms=400) as url,
        open_remote([url], first_s=10, stall_s=8) as engine,
    ):
        chunks = engine.synthesize(Utterance(text="A text that takes a while to say, since there is a gap in it."))
        await anext(chunks)
        assert len(replicas()) == 2
        for pid in replicas():
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(EngineFailure):
            async for _ in chunks:
                pass
        async with asyncio.timeout(60):
            while True:
                try:
                    assert await spoken(engine, "Afterwards.")
                    break
                except EngineFailure:
                    await asyncio.sleep(0.5)
