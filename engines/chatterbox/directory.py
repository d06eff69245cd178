"""Which files a model's directory has to have. No torch in here: a host looks before it starts a worker."""

from __future__ import annotations

from pathlib import Path

from engines.chatterbox.shapes import MODELS, ModelShape

__all__ = ["lacking", "missing_files", "wanted_files"]

_WHOLE_TOKENIZER = "tokenizer.json"


def wanted_files(model: ModelShape) -> tuple[str, ...]:
    """The names of all files of a model that are read."""
    files = model.files
    return (files.t3, files.s3gen, files.voice_encoder, files.voice, *_read(files.tokenizer))


def _read(tokenizer: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in tokenizer if name not in ("special_tokens_map.json", "tokenizer_config.json"))


def missing_files(directory: Path, model: str) -> str:
    """A sentence about what is not there and what to do; "" when all is there. Raises ValueError for no such model."""
    if model not in MODELS:
        raise ValueError(f"there is no model {model!r}; there are: {', '.join(MODELS)}")
    shape = MODELS[model]
    get_it = f"mediaserver models download {model} fetches it" if shape.repository else "nobody publishes it"
    if not directory.is_dir():
        return f"the directory {directory} of the model {model} is not there; {get_it}"
    if lacks := lacking(directory, shape):
        return f"{directory} lacks {', '.join(lacks)} of the model {model}; {get_it}"
    return ""


def lacking(directory: Path, model: ModelShape) -> list[str]:
    """The names of files that are not in the directory."""
    wanted = wanted_files(model)
    if (directory / _WHOLE_TOKENIZER).is_file():  # It stands for all files of a tokenizer.
        wanted = tuple(name for name in wanted if name not in model.files.tokenizer)
    return [name for name in wanted if not (directory / name).is_file()]
