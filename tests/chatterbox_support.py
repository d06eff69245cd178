"""Models of random weights for the tests of engines/chatterbox/, and questions about them."""

from __future__ import annotations

import atexit
import functools
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from engines.chatterbox import t3
from engines.chatterbox.placeholder import write_checkpoint
from engines.chatterbox.shapes import TINY, ModelShape
from engines.chatterbox.weights import random_weights, write_random
from tests.oracle import SEED

# The machine is shared with other tests: threads that wait for one another take longer than one alone.
torch.set_num_threads(1)


DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
"""What a rule about devices is proved on: a GPU too, where there is one."""


@functools.cache
def random_t3(
    shape: ModelShape, tile: int | None = None, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> t3.T3:
    """T3 of that shape with random weights."""
    layout = {key: size for key, size in t3.layout(shape.t3).items() if t3.used(key)}
    return t3.T3(shape.t3, random_weights(layout, seed=SEED), device=device, dtype=dtype, tile=tile)


def write_t3(shape: ModelShape, directory: Path) -> None:
    """Save the same weights, and those that are not used, as a checkpoint."""
    write_random(directory / shape.files.t3, t3.layout(shape.t3), seed=SEED)


def numbers(count: int, below: int, *, seed: int) -> Tensor:
    """Random whole numbers, the same on every machine."""
    return torch.randint(below, (count,), generator=torch.Generator().manual_seed(seed))


def voice(shape: ModelShape, *, seed: int = 1) -> t3.Prompt:
    """A prompt of random speech tokens and a random embedding of length 1."""
    speaker = torch.randn(shape.t3.speaker, generator=torch.Generator().manual_seed(seed))
    tokens = numbers(shape.t3.prompt_tokens, shape.t3.start_speech, seed=seed)
    return t3.Prompt(speaker=speaker / speaker.norm(), tokens=tuple(tokens.tolist()), emotion=0.5)


def text(shape: ModelShape, *, length: int = 20, seed: int = 1) -> tuple[int, ...]:
    """Tokens of a text; Llama's begin and end with its marks."""
    tokens = tuple(numbers(length, shape.t3.text_vocabulary - 1, seed=seed).tolist())
    if not shape.t3.guided:
        return tokens
    inner = tuple(token for token in tokens if token not in (shape.t3.start_text, shape.t3.stop_text))
    return (shape.t3.start_text, *inner, shape.t3.stop_text)


@functools.cache
def checkpoint() -> Path:
    """The directory of a tiny model of random weights, complete, which goes with the process. It makes noise."""
    directory = tempfile.TemporaryDirectory()
    atexit.register(directory.cleanup)
    write_checkpoint(TINY, Path(directory.name))
    return Path(directory.name)
