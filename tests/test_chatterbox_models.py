"""Published models: fetched from a hub on loopback that has what the test puts there, and held against their layout."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import engines
from engines.chatterbox.directory import wanted_files
from engines.chatterbox.files import examine
from engines.chatterbox.shapes import MODELS, TINY
from mediaserver import config, server
from tests.chatterbox_support import checkpoint
from tests.engines_support import say


@contextmanager
def hub(files: dict[str, bytes]) -> Iterator[str]:
    """Its address. It answers as the public one does, for paths OWNER/NAME/resolve/main/FILE."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            content = files.get(self.path.rpartition("/")[2].partition("?")[0])
            self.send_response(200 if content is not None else 404)
            if content is None:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("ETag", f'"{len(content or b"")}"')
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            if body and content:
                self.wfile.write(content)

        def log_message(self, format: str, *values: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def mediaserver(*arguments: str, endpoint: str = "http://127.0.0.1:9", home: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-m", "mediaserver", "models", *arguments]
    here = Path(__file__).parent.parent
    return subprocess.run(command, env=environment, capture_output=True, text=True, cwd=here, timeout=120)


def test_models_are_listed_with_where_they_are_published(tmp_path: Path) -> None:
    listed = mediaserver("list", home=tmp_path)
    assert listed.stdout.split() == [
        *("turbo", "ResembleAI/chatterbox-turbo"),
        *("nano", "ResembleAI/chatterbox-nano"),
        *("original", "ResembleAI/chatterbox"),
        *("multilingual", "ResembleAI/chatterbox"),
    ]


def test_a_model_is_downloaded_file_by_file_and_verified(tmp_path: Path) -> None:
    small = {path.name: path.read_bytes() for path in checkpoint().iterdir()}
    with hub(small) as endpoint:
        fetched = mediaserver(
            "download", "turbo", "--directory", str(tmp_path / "turbo"), endpoint=endpoint, home=tmp_path
        )
    there = {path.name for path in (tmp_path / "turbo").iterdir() if path.is_file()}
    assert there == set(wanted_files(MODELS["turbo"]))
    assert (tmp_path / "turbo" / "conds.pt").read_bytes() == small["conds.pt"]
    # The tiny model's files have the names of Turbo's, and are found to be none.
    assert fetched.returncode == 1
    assert "t3_turbo_v1.safetensors lacks tfmr.h.10." in fetched.stderr
    assert "It belongs to another model" in fetched.stderr


def test_a_hub_that_cannot_be_reached_is_named_with_what_to_do(tmp_path: Path) -> None:
    failed = mediaserver("download", "nano", "--directory", str(tmp_path / "nano"), home=tmp_path)
    assert failed.returncode == 1
    assert "http://127.0.0.1:9/ResembleAI/chatterbox-nano cannot be reached" in failed.stderr
    assert "HF_ENDPOINT" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_a_file_that_is_published_no_more_is_named(tmp_path: Path) -> None:
    with hub({}) as endpoint:
        failed = mediaserver(
            "download", "nano", "--directory", str(tmp_path / "nano"), endpoint=endpoint, home=tmp_path
        )
    assert failed.returncode == 1
    assert "ResembleAI/chatterbox-nano has no t3_nano_v1.safetensors" in failed.stderr


def test_files_that_are_whole_are_so_and_random_ones_are_told() -> None:
    assert examine(TINY, checkpoint()) == ([], True)


def test_every_file_that_is_wrong_is_named(tmp_path: Path) -> None:
    for path in checkpoint().iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "conds.pt").write_bytes(b"no voice")
    (tmp_path / TINY.files.t3).write_bytes((tmp_path / TINY.files.t3).read_bytes()[:5000])
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 10_000}))
    faults, random = examine(TINY, tmp_path)
    assert [fault.split()[0] for fault in faults] == [
        str(tmp_path / name) for name in (TINY.files.t3, "conds.pt", "vocab.json")
    ]
    assert not random
    (tmp_path / "conds.pt").unlink()
    assert examine(TINY, tmp_path)[0] == [f"{tmp_path} lacks conds.pt"]


# The engine "auto".


def test_auto_is_chatterbox_where_a_gpu_and_weights_are_there(tmp_path: Path) -> None:
    gpu = tmp_path / "nvidiactl"
    gpu.touch()
    name, why = engines.choose(checkpoint(), "tiny", gpu=gpu, torch="2.13.0")
    assert name == "chatterbox"
    assert why == f"there is a GPU, and {checkpoint()} has the model tiny"


@pytest.mark.parametrize(
    ("directory", "gpu", "torch", "why"),
    [
        (None, "/dev/null", "2.13.0", "no engine.model is configured"),
        ("/nowhere", "/dev/null", "2.13.0", "the directory /nowhere of the model tiny is not there"),
        ("", "/nowhere", "2.13.0", "there is no GPU"),
        ("", "/dev/null", "2.13.0+cpu", "PyTorch 2.13.0+cpu is the build for CPUs"),
    ],
)
def test_auto_is_espeak_elsewhere_and_says_why(directory: str | None, gpu: str, torch: str, why: str) -> None:
    place = None if directory is None else Path(directory or checkpoint())
    name, reason = engines.choose(place, "tiny", gpu=Path(gpu), torch=torch)
    assert name == "espeak"
    assert reason.startswith(why)


async def test_a_server_with_the_engine_auto_speaks_with_what_is_there() -> None:
    async with server.open_engine(config.Engine(name="auto", fallback="espeak")) as engine:
        assert engine.name == "espeak"
        assert await say(engine, "Hello.")
