"""The image: what the Dockerfile says, and, without Docker, what becomes of it when its own lines are carried out."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import aiohttp
import pytest

from mediaserver import softphone

from .image import ROOT, Build, Dockerfile, context, registries
from .live import serving

MB = 1_000_000
LARGEST_IMAGE = 600 * MB
BASE_IMAGE = 150 * MB
"""python:3.11-slim-bookworm has about 130 MB unpacked; it cannot be had here."""
USER = 10001


@pytest.fixture(scope="module")
def dockerfile() -> Dockerfile:
    return Dockerfile.read(ROOT / "Dockerfile")


def test_hadolint_has_nothing_to_say() -> None:
    linter = Path(sys.executable).parent / "hadolint"
    found = subprocess.run([linter, "--no-color", ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")


def test_no_more_reaches_the_build_than_it_copies(dockerfile: Dockerfile) -> None:
    copied = [
        word
        for arguments in dockerfile.stages["build"].all("COPY")
        for word in arguments.split()[:-1]
        if not word.startswith("--")
    ]
    files = context()
    assert {path.parts[0] for path in files} == set(copied)
    assert {path.suffix for path in files} <= {
        ".py",
        ".pyi",
        ".pyx",
        ".pxd",
        ".h",
        ".txt",
        ".toml",
        ".md",
        "",
        ".typed",
        ".html",
        ".css",
        ".js",
        ".svg",
    }
    assert sum((ROOT / path).stat().st_size for path in files) < 4 * MB


def test_every_package_of_ours_is_in_the_image(dockerfile: Dockerfile) -> None:
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    copied = {arguments.split()[0] for arguments in dockerfile.stages["build"].all("COPY")}
    assert {package.partition(".")[0] for package in packages} <= copied


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_the_server_is_process_one_s_child_and_nobody_in_particular(dockerfile: Dockerfile, target: str) -> None:
    assert dockerfile.last(target, "USER") == f"{USER}:{USER}"
    assert dockerfile.command(target) == ["tini", "--", "mediaserver", "serve"]
    assert dockerfile.last(target, "STOPSIGNAL") == "SIGTERM"
    assert dockerfile.last(target, "VOLUME") == dockerfile.environment(target)["MEDIASERVER_STORE__PATH"]


async def _checked(command: list[str], url: str) -> int:
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command[1:], env={"HEALTH_URL": url}, stderr=asyncio.subprocess.DEVNULL
    )
    return await process.wait()


async def test_the_health_check_asks_the_server(dockerfile: Dockerfile, unused_tcp_port: int) -> None:
    command = dockerfile.health_check()
    assert command[0] == "python"
    async with serving(engine={"name": "tone"}) as running:
        assert await _checked(command, f"http://{running.http_address}/health") == 0
        assert await _checked(command, f"http://{running.http_address}/nowhere") == 1
    assert await _checked(command, f"http://127.0.0.1:{unused_tcp_port}/health") == 1


def test_the_health_check_s_default_is_where_the_server_listens(dockerfile: Dockerfile) -> None:
    settings = tomllib.loads((ROOT / "deploy/mediaserver.toml").read_text())
    assert dockerfile.environment("cpu")["HEALTH_URL"] == f"http://{settings['http']['listen']}/health"


# The lines themselves, carried out on a bare Debian.

may_build = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("debootstrap") is None, reason="takes root and debootstrap"
)


@pytest.fixture(scope="module")
def built(dockerfile: Dockerfile, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Build]:
    directory = tmp_path_factory.mktemp("image")
    base = directory / "base"
    packages = "python3,python3-venv,python3-dev,ca-certificates"
    subprocess.run(
        ["debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", base, "http://deb.debian.org/debian"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    (base / "usr/bin/python").symlink_to("python3")
    build = Build(base=base, directory=directory / "stages", environment=registries())
    build.directory.mkdir()
    build.make(dockerfile, "cpu")
    yield build
    shutil.rmtree(directory)


def size(directory: Path) -> int:
    return int(subprocess.run(["du", "-sB1", directory], check=True, capture_output=True, text=True).stdout.split()[0])


def process_one(unshare: int) -> int:
    """The process that is 1 in the namespace that `unshare` has made."""
    return int(Path(f"/proc/{unshare}/task/{unshare}/children").read_text().split()[0])


@pytest.mark.slow
@pytest.mark.alone  # so that the image is made once
@may_build
async def test_the_image_serves_read_only_without_root_and_drains(
    dockerfile: Dockerfile, built: Build, tmp_path: Path, unused_tcp_port_factory: Callable[[], int]
) -> None:
    volume, (sip, web) = tmp_path / "volume", (unused_tcp_port_factory(), unused_tcp_port_factory())
    volume.mkdir()
    os.chown(volume, USER, USER)
    settings = {
        "MEDIASERVER_SIP__LISTEN": f"127.0.0.1:{sip}",
        "MEDIASERVER_HTTP__LISTEN": f"127.0.0.1:{web}",
        "MEDIASERVER_RTP__PORTS": "31000-31099",
    }
    user, _, group = dockerfile.last("cpu", "USER").partition(":")
    bare = ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", "--no-new-privs", "--bounding-set=-all"]
    command = built.inside(
        "cpu",
        [*bare, *dockerfile.command("cpu")],
        env=dockerfile.environment("cpu") | settings,
        volume=(volume, dockerfile.last("cpu", "VOLUME")),
    )
    outside = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
    try:
        async with aiohttp.ClientSession() as http, asyncio.timeout(30):
            while True:
                try:
                    async with http.get(f"http://127.0.0.1:{web}/health") as response:
                        assert (response.status, (await response.json())["engine"]) == (200, "espeak")
                        break
                except aiohttp.ClientConnectionError:
                    await asyncio.sleep(0.2)
        first = process_one(outside.pid)
        inside = ["nsenter", f"--target={first}", "--mount", "--root", f"--setuid={user}", f"--setgid={group}"]
        path = f"PATH={dockerfile.environment('cpu')['PATH']}"
        for url, status in ((f"http://127.0.0.1:{web}/health", 0), ("http://127.0.0.1:1/health", 1)):
            asks = ["/usr/bin/env", "-i", path, f"HEALTH_URL={url}", *dockerfile.health_check()]
            check = await asyncio.create_subprocess_exec(*inside, *asks, stderr=asyncio.subprocess.DEVNULL)
            assert await check.wait() == status
        text = "This is said to its end, although the server was asked to stop when it had just begun to speak."
        call = asyncio.create_task(
            softphone.call(softphone.Order(uri=f"sip:hello@127.0.0.1:{sip}", text=text, seconds=30))
        )
        await asyncio.sleep(1)
        os.kill(first, signal.SIGTERM)
        outcome = await call
        assert (outcome.answered, await asyncio.wait_for(outside.wait(), 10)) == (True, 0)
        assert len(outcome.heard) / 2 / 8000 > 3
    finally:
        if outside.returncode is None:
            outside.kill()
            await outside.wait()
    assert {path.name for path in volume.iterdir()} >= {"speakers.sqlite3"}


@pytest.mark.slow
@pytest.mark.alone  # so that the image is made once
@may_build
def test_the_image_is_small_and_has_no_tools_to_build_with(built: Build) -> None:
    assert size(built.upper("cpu")) + BASE_IMAGE < LARGEST_IMAGE
    installed = built.upper("cpu") / "opt/mediaserver"
    names = {path.name.partition("-")[0].lower() for path in installed.glob("lib/*/site-packages/*.dist-info")}
    assert "mediaserver" in names
    assert not names & {"pip", "cython", "setuptools", "pytest"}
    assert not list((built.upper("cpu") / "usr/bin").glob("*gcc*"))
