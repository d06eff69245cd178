"""The files of a checkpoint: read and checked key by key, or made of random numbers under the same names.

A `Layout` says which tensors a file has and how large they are. `read` holds a file against its layout, so that a
wrong, truncated or foreign file is an error that names the file, the keys and what to do, and never a voice that sounds
strange. `write_random` makes a file of any layout for tests and measurements; such files are labelled, and `is_random`
says so.

    >>> layout = {"proj.weight": (8, 4), "proj.bias": (8,)}
    >>> write_random(path, layout, seed=1)
    >>> read(path, layout)["proj.weight"].shape
    torch.Size([8, 4])

Errors: UnsuitableCheckpoint, an EngineError.
"""

from __future__ import annotations

import hashlib
import math
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from engines.engine import EngineError

__all__ = ["Layout", "UnsuitableCheckpoint", "is_random", "random_weights", "read", "write_random"]

Layout = Mapping[str, tuple[int, ...]]
"""The tensors of a file by key, with their sizes."""

COUNTER = "num_batches_tracked"
"""Keys that end so are integers; all others are floating point."""

RANDOM_LABEL = "random numbers, not trained: what comes out is noise, never speech"

_NAMED = 4


class UnsuitableCheckpoint(EngineError):
    """A file of a checkpoint is missing, damaged, or not what the model needs."""


def read(
    path: Path,
    layout: Layout,
    *,
    optional: frozenset[str] = frozenset(),
    wanted: Callable[[str], bool] = lambda key: True,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """The tensors of a file, which has exactly those of `layout`; keys in `optional` may be absent.

    Only keys that are `wanted` are loaded, but all are checked. Floating-point tensors come in `dtype`.
    Raises UnsuitableCheckpoint.
    """
    if not path.is_file():
        there = ", ".join(sorted(entry.name for entry in path.parent.glob("*"))[:12]) or "nothing"
        raise UnsuitableCheckpoint(
            f"{path} is missing (there: {there}). Point engine.model_path at a directory with the published files."
        )
    if path.suffix == ".safetensors":
        return _read_safetensors(path, layout, optional, wanted, device, dtype)
    tensors = _read_pickle(path)
    _compare(path, {key: tuple(tensor.shape) for key, tensor in tensors.items()}, layout, optional)
    return {key: _placed(tensor, device, dtype) for key, tensor in tensors.items() if wanted(key)}


def _read_safetensors(
    path: Path,
    layout: Layout,
    optional: frozenset[str],
    wanted: Callable[[str], bool],
    device: torch.device | str,
    dtype: torch.dtype,
) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            sizes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
            _compare(path, sizes, layout, optional)
            return {key: _placed(file.get_tensor(key), device, dtype) for key in sizes if wanted(key)}
    except (SafetensorError, OSError) as error:
        raise UnsuitableCheckpoint(
            f"{path} ({path.stat().st_size:,} bytes) is damaged or cut short: {error}. Download it again."
        ) from error


def _read_pickle(path: Path) -> dict[str, Tensor]:
    """The tensors of a file that torch.save made; nothing but tensors and plain values is unpickled."""
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        raise UnsuitableCheckpoint(
            f"{path} ({path.stat().st_size:,} bytes) is damaged, cut short, or no file of tensors: "
            f"{str(error).splitlines()[0]}. Download it again."
        ) from error
    # Published training code saves {"model": [state]}.
    if isinstance(content, dict) and isinstance(content.get("model"), list) and len(content["model"]) == 1:
        content = content["model"][0]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UnsuitableCheckpoint(f"{path} holds no table of tensors. It is not a file of this model.")
    return content


def _compare(path: Path, sizes: Layout, layout: Layout, optional: frozenset[str]) -> None:
    missing = sorted(layout.keys() - sizes.keys() - optional)
    foreign = sorted(sizes.keys() - layout.keys())
    misfits = sorted(key for key in sizes.keys() & layout.keys() if sizes[key] != layout[key])
    faults = []
    if missing:
        faults.append(f"lacks {_some(missing)}")
    if foreign:
        faults.append(f"has {_some(foreign)}, which the model does not know")
    if misfits:
        described = [f"{key} as {_size(sizes[key])} instead of {_size(layout[key])}" for key in misfits]
        faults.append(f"has {_some(described)}")
    if faults:
        raise UnsuitableCheckpoint(
            f"{path} {' and '.join(faults)}. It belongs to another model or version: "
            "set engine.model to the one whose files these are, or download the right ones."
        )


def _some(keys: list[str]) -> str:
    more = len(keys) - _NAMED
    return ", ".join(keys[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _size(size: tuple[int, ...]) -> str:
    return "x".join(map(str, size)) or "a number"


def _placed(tensor: Tensor, device: torch.device | str, dtype: torch.dtype) -> Tensor:
    return tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else tensor.dtype)


def random_weights(layout: Layout, *, seed: int) -> dict[str, Tensor]:
    """Numbers of a size with which activations neither vanish nor grow, the same on every machine.

    A tensor depends on the seed and its own key, not on what else is in the layout.
    """
    return {key: _random_tensor(key, size, seed) for key, size in layout.items()}


def _random_tensor(key: str, size: tuple[int, ...], seed: int) -> Tensor:
    if key.endswith(COUNTER):
        return torch.zeros(size, dtype=torch.int64)
    count = math.prod(size)
    entropy = hashlib.sha256(f"{seed} {key}".encode()).digest()
    bits = np.random.Philox(key=int.from_bytes(entropy[:16], "little")).random_raw((count + 1) // 2)
    uniform = bits.view(np.uint32)[:count].astype(np.float32) * np.float32(2**-31) - 1
    numbers = torch.from_numpy(uniform).reshape(size)
    if key.endswith("running_var"):
        return numbers.mul_(0.2).add_(1)
    if key.endswith("original0"):  # the length of a weight that is kept as length and direction
        return numbers.mul_(0.2).add_(1)
    if len(size) < 2:
        return numbers.mul_(0.1).add_(1) if key.endswith("weight") else numbers.mul_(0.05)
    return numbers.mul_(math.sqrt(3 / math.prod(size[1:])))


def write_random(path: Path, layout: Layout, *, seed: int, fixed: Mapping[str, Tensor] | None = None) -> None:
    """Save random weights as safetensors, labelled as such; `fixed` are tensors that no training changes."""
    tensors = random_weights(layout, seed=seed) | dict(fixed or {})
    save_file(tensors, path, metadata={"format": "pt", "weights": RANDOM_LABEL, "seed": str(seed)})


def is_random(path: Path) -> bool:
    """Whether the file is one that `write_random` made."""
    if path.suffix != ".safetensors":
        return False
    with safe_open(path, framework="pt") as file:
        return (file.metadata() or {}).get("weights") == RANDOM_LABEL
