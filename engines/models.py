"""The published models of the engine chatterbox: which there are, fetching them, and whether one can be run here."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from engines.engine import EngineFailure

__all__ = ["choose", "download_model", "examine_model", "lacking_packages", "published_models"]

_NEEDS: Final = ("torch", "safetensors", "tokenizers", "huggingface_hub")
_GPU: Final = Path("/dev/nvidiactl")
_INSTALL: Final = "run pip install 'mediaserver[chatterbox]', from a clone pip install '.[chatterbox]'"


def lacking_packages() -> str:
    """A sentence about what is not installed, and what to do; "" when all is there."""
    lacks = [module for module in _NEEDS if importlib.util.find_spec(module) is None]
    return f"chatterbox needs {', '.join(lacks)}: {_INSTALL}" if lacks else ""


def published_models() -> dict[str, str]:
    """Where each model is published, by its name."""
    from engines.chatterbox.shapes import MODELS

    return {name: shape.repository for name, shape in MODELS.items() if shape.repository}


def download_model(name: str, directory: Path) -> Iterator[str]:
    """Fetch the files of a model; yields the name of each that is there. Raises EngineFailure, with what to do."""
    _require_packages()
    from engines.chatterbox.files import download
    from engines.chatterbox.shapes import MODELS

    return download(MODELS[name], directory)


def examine_model(name: str, directory: Path) -> tuple[list[str], bool]:
    """What is wrong with the files of a model, and whether they are random numbers. Raises EngineFailure."""
    _require_packages()
    from engines.chatterbox.files import examine
    from engines.chatterbox.shapes import MODELS

    return examine(MODELS[name], directory)


def choose(directory: Path | None, model: str, *, gpu: Path = _GPU, torch: str | None = None) -> tuple[str, str]:
    """The engine that "auto" stands for here, and why.

    gpu    a file that is there where a driver has a GPU
    torch  the version of PyTorch that is installed; None looks
    """
    from engines.chatterbox.directory import missing_files

    if directory is None:
        return "espeak", "no engine.model is configured"
    if missing := missing_files(directory, model):
        return "espeak", missing
    if not gpu.exists():
        return "espeak", f"there is no GPU ({gpu} is not there); name the engine chatterbox to run it on the CPU"
    if torch is None:
        if lacks := lacking_packages():
            return "espeak", lacks
        from importlib.metadata import version  # Only here, because a worker imports this package too.

        torch = version("torch")
    if torch.endswith("+cpu"):
        return "espeak", f"PyTorch {torch} is the build for CPUs; install the one for CUDA"
    return "chatterbox", f"there is a GPU, and {directory} has the model {model}"


def _require_packages() -> None:
    if lacks := lacking_packages():
        raise EngineFailure(lacks)
