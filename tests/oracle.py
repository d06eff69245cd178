"""What the package chatterbox-tts says of identical weights, to hold engines/chatterbox/ against.

`scripts/oracle` makes an environment with the package. A part of the oracle is a script of its own that runs there
(tests/oracle_t3.py): weights, question and answer travel as files, so neither side imports the other. For tiny shapes
the answers are kept in tests/golden/, so that every run compares with the package's numbers; `pytest -m parity` asks
anew, for tiny and for true shapes, and holds what is kept against it. After a change of a question:

    python -m tests.oracle      writes tests/golden/ anew
"""

from __future__ import annotations

import dataclasses
import enum
import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from torch import Tensor

from engines.chatterbox.shapes import ModelShape

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden"
PYTHON = Path(os.environ.get("ORACLE", ROOT / ".oracle")) / "bin" / "python"
SEED = 6
"""Of all random weights."""

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of the oracle.

    script      in tests/, run as `python SCRIPT DIRECTORY`
    question    what it is asked about a model of a shape
    checkpoint  writes the files that it reads into a directory
    keep        which tensors of the answer the repository keeps for tiny shapes; they have to be few
    """

    script: str
    question: Callable[[ModelShape], Tensors]
    checkpoint: Callable[[ModelShape, Path], None]
    keep: Callable[[Tensors], Tensors] = dict

    def ask(self, shape: ModelShape, directory: Path) -> Tensors:
        """The answer about random weights of that shape; skips the test where there is no oracle."""
        if not PYTHON.exists():
            pytest.skip(f"no oracle at {PYTHON.parent.parent}: run scripts/oracle")
        self.checkpoint(shape, directory)
        (directory / "shape.json").write_text(json.dumps(dataclasses.asdict(shape), default=_value), encoding="utf-8")
        save_file(dict(self.question(shape)), directory / "question.safetensors")
        ran = subprocess.run(
            [PYTHON, ROOT / "tests" / self.script, directory], capture_output=True, text=True, timeout=900, check=False
        )
        assert ran.returncode == 0, ran.stderr[-3000:]
        return load_file(directory / "answer.safetensors")

    def kept(self, shape: ModelShape) -> Tensors:
        """The answer that the repository keeps."""
        return load_file(self.golden(shape))

    def golden(self, shape: ModelShape) -> Path:
        return GOLDEN / f"{Path(self.script).stem}_{shape.name}.safetensors"


def _value(thing: object) -> object:
    if isinstance(thing, enum.Enum):
        return thing.value
    raise TypeError(thing)


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    return float((ours.float() - theirs.float()).abs().max() / theirs.float().abs().max().clamp_min(1e-30))


def _refresh() -> None:
    from tests import test_chatterbox_s3gen_parity as s3gen
    from tests import test_chatterbox_t3 as t3
    from tests import test_chatterbox_text as text

    GOLDEN.mkdir(exist_ok=True)
    parts = [(t3.PART, t3.TINY_SHAPES), (s3gen.PART, s3gen.TINY_SHAPES), (text.PART, text.SHAPES)]
    for part, shapes in parts:
        for shape in shapes:
            with tempfile.TemporaryDirectory() as directory:
                kept = part.keep(part.ask(shape, Path(directory)))
                save_file({key: tensor.contiguous() for key, tensor in kept.items()}, part.golden(shape))


if __name__ == "__main__":
    _refresh()
