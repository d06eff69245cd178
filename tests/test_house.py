"""The house rules that a machine can check."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("mediaserver", "rtp", "sip", "http_api", "engines")
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
BANNED_NAMES = re.compile(r"(Manager|Helper|Handler|Service|Utils?)$")
EIGHT_HOPS = (
    "sip/transport.py",
    "sip/agent.py",
    "mediaserver/switchboard.py",
    "mediaserver/call.py",
    "mediaserver/media.py",
    "mediaserver/speech.py",
    "engines/engine.py",
    "rtp/_plane.pyx",
)


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_no_name_is_a_job_title(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef):
            assert not BANNED_NAMES.search(node.name), f"{node.name} says what it does for a living, not what it is"


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_a_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_no_finaliser_and_no_forced_collection(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert "__del__" not in defined
    # A collection before a process makes itself the pattern of its copies is the one that earns its keep.
    assert "gc.collect" not in called or "gc.freeze" in called


@pytest.mark.parametrize("folder", FOLDERS[1:])
def test_all_is_the_public_face(folder: str) -> None:
    package = importlib.import_module(folder)
    assert package.__all__, "the face is spelt out"
    assert sorted(package.__all__) == sorted(set(package.__all__))
    for name in package.__all__:
        thing = getattr(package, name)
        assert thing.__doc__ or not (inspect.isclass(thing) or inspect.isfunction(thing)), f"{name} has no docstring"


def test_the_eight_hops_exist() -> None:
    for hop in EIGHT_HOPS:
        assert (ROOT / hop).is_file(), hop
        assert hop in (ROOT / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8") or hop == "engines/engine.py"
