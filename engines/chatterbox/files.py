"""The published files of a model: fetched from where they are published, and examined without loading them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
from huggingface_hub import errors

from engines.chatterbox import s3gen, t3
from engines.chatterbox.directory import lacking, wanted_files
from engines.chatterbox.shapes import ModelShape
from engines.chatterbox.text import open_front_end
from engines.chatterbox.voice import published
from engines.chatterbox.weights import UnsuitableCheckpoint, is_random, read
from engines.engine import EngineFailure

__all__ = ["download", "examine"]


def download(shape: ModelShape, directory: Path) -> Iterator[str]:
    """Fetch what is not in the directory yet, with a bar for each file; yields the name of each that is there then.

    Raises EngineFailure, with what to do.
    """
    if not shape.repository:
        raise EngineFailure(f"nobody publishes the model {shape.name}")
    for name in wanted_files(shape):
        try:
            huggingface_hub.hf_hub_download(shape.repository, name, local_dir=directory)
        except errors.EntryNotFoundError as error:
            if isinstance(error, errors.LocalEntryNotFoundError):
                raise EngineFailure(_unreachable(shape, directory)) from error
            raise EngineFailure(f"{shape.repository} has no {name} (any more): is this version the latest?") from error
        except (errors.HfHubHTTPError, errors.OfflineModeIsEnabled, OSError) as error:
            if isinstance(error, OSError) and error.filename is not None:
                raise EngineFailure(f"{error.filename} cannot be written: {error.strerror}") from error
            raise EngineFailure(f"{_unreachable(shape, directory)} ({str(error).splitlines()[0]})") from error
        yield name


def _unreachable(shape: ModelShape, directory: Path) -> str:
    hub = huggingface_hub.constants.ENDPOINT
    return (
        f"{hub}/{shape.repository} cannot be reached, or does not answer. Where it can be, run the same command and "
        f"copy {directory} here; behind a mirror set HF_ENDPOINT, behind a proxy HTTPS_PROXY."
    )


def examine(shape: ModelShape, directory: Path) -> tuple[list[str], bool]:
    """What is wrong with the files, a sentence each, and whether they are random numbers."""
    if lacks := lacking(directory, shape):
        return [f"{directory} lacks {', '.join(lacks)}"], False
    files = shape.files
    faults = []
    for look in (
        lambda: read(directory / files.t3, t3.layout(shape.t3), wanted=lambda key: False),
        lambda: s3gen.load(directory / files.s3gen, shape.s3gen, parts=()),
        lambda: s3gen.load_voice_encoder(directory / files.voice_encoder, shape.voice_encoder),
        lambda: published(directory / files.voice, model=shape.name, weights=""),
        lambda: open_front_end(shape, directory),
    ):
        try:
            look()
        except UnsuitableCheckpoint as error:
            faults.append(str(error))
    return faults, not faults and is_random(directory / files.t3)
