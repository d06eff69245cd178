"""What all parts of the oracle share. Runs in the oracle's environment, where nothing of this project can be imported.

A part is a script: `.oracle/bin/python tests/oracle_t3.py DIRECTORY`. It finds there shape.json (a ModelShape as JSON),
question.safetensors, and the checkpoint under its published names; it writes answer.safetensors.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]


def pass_init_by(*packages: str) -> None:
    """Have packages imported without what their __init__ would import: watermarks, CUDA libraries, web pages."""
    for name in packages:
        spec = importlib.machinery.PathFinder.find_spec(name)
        assert spec is not None, f"{name} is not installed: run scripts/oracle"
        assert spec.submodule_search_locations is not None
        package = types.ModuleType(name)
        package.__path__ = list(spec.submodule_search_locations)
        package.__spec__ = spec
        package.__version__ = "0"
        sys.modules[name] = package


pass_init_by("chatterbox", "torchaudio")
# The compiled part of torchaudio is for CUDA, and nothing that is asked for here needs it.
extension = types.ModuleType("torchaudio._extension")
extension.__dict__.update(fail_if_no_align=lambda function: function, _IS_TORCHAUDIO_EXT_AVAILABLE=False)
sys.modules[extension.__name__] = extension


class Shape:
    """A part of shape.json, with attributes as in engines/chatterbox/shapes.py."""

    def __init__(self, values: dict[str, Any]) -> None:
        for name, value in values.items():
            setattr(self, name, Shape(value) if isinstance(value, dict) else value)


def answer(part: Callable[[Shape, Tensors, Path], Tensors]) -> None:
    """Run a part of the oracle on the directory that the command line names."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # as the tests have it
    directory = Path(sys.argv[1])
    shape = Shape(json.loads((directory / "shape.json").read_text(encoding="utf-8")))
    with torch.inference_mode():
        tensors = part(shape, load_file(directory / "question.safetensors"), directory)
    save_file({key: tensor.contiguous().clone() for key, tensor in tensors.items()}, directory / "answer.safetensors")


if __name__ == "__main__":
    import chatterbox.models.s3gen.s3gen  # scripts/oracle asks whether everything is there
    import chatterbox.models.t3.t3
    import chatterbox.models.voice_encoder.voice_encoder  # noqa: F401
