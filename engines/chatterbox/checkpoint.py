"""A model as it lies in a directory, loaded on a device: all that speaking takes, and the voice that comes with it."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from engines.chatterbox import s3gen, t3
from engines.chatterbox.placeholder import write_tokenizer, write_voice
from engines.chatterbox.s3gen import S3Gen
from engines.chatterbox.shapes import MODELS, ModelShape
from engines.chatterbox.t3 import T3
from engines.chatterbox.text import FrontEnd, open_front_end
from engines.chatterbox.voice import Voice, fingerprint, published
from engines.chatterbox.weights import UnsuitableCheckpoint, is_random, random_weights

__all__ = ["RANDOM_NOTICE", "Checkpoint", "open_checkpoint", "random_checkpoint"]

RANDOM_NOTICE = "random weights: noise, not speech"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A model, ready to speak.

    t3, s3gen  the networks, on their device
    text       the front end
    voice      of the speaker that is published with it
    weights    fingerprint of all files
    deriving   fingerprint of those that derive a voice
    random     whether nobody has trained it: what it makes is noise
    """

    shape: ModelShape
    t3: T3
    s3gen: S3Gen
    text: FrontEnd
    voice: Voice
    weights: str
    deriving: str
    random: bool


def open_checkpoint(directory: Path, model: str, *, device: torch.device, dtype: torch.dtype, tile: int) -> Checkpoint:
    """Load a model; `dtype` is T3's, S3Gen computes in single precision. Raises UnsuitableCheckpoint."""
    if model not in MODELS:
        raise UnsuitableCheckpoint(f"there is no model {model!r}; there are: {', '.join(MODELS)}")
    shape = MODELS[model]
    files = shape.files
    if not directory.is_dir():
        raise UnsuitableCheckpoint(
            f"{directory} is no directory. Point engine.model at one with the published files: "
            f"{files.t3}, {files.s3gen}, {files.voice_encoder}, {files.voice} and {', '.join(files.tokenizer)}."
        )
    networks = [directory / name for name in (files.t3, files.s3gen, files.voice_encoder)]
    speaking = t3.load(networks[0], shape.t3, device=device, dtype=dtype, tile=tile)
    sounding = s3gen.load(networks[1], shape.s3gen, device=device)
    text = open_front_end(shape, directory)
    s3gen.load_voice_encoder(networks[2], shape.voice_encoder)  # Now, so that it is not found broken later.
    deriving = fingerprint(networks[1:])
    return Checkpoint(
        shape=shape,
        t3=speaking,
        s3gen=sounding,
        text=text,
        voice=published(directory / files.voice, model=shape.name, weights=deriving),
        weights=fingerprint(networks),
        deriving=deriving,
        random=any(is_random(path) for path in networks),
    )


def random_checkpoint(model: str, *, device: torch.device, dtype: torch.dtype, tile: int, seed: int = 1) -> Checkpoint:
    """A model of random numbers that was never in files, for measurements: only what speaking takes."""
    shape = MODELS[model]
    wanted = {key: size for key, size in t3.layout(shape.t3).items() if t3.used(key)}
    speaking = t3.T3(shape.t3, random_weights(wanted, seed=seed), device=device, dtype=dtype, tile=tile)
    sizes = {key: size for key, size in s3gen.layout(shape.s3gen).items() if key.split(".")[0] in s3gen.SYNTHESIS}
    tensors = {key: tensor.to(device) for key, tensor in random_weights(sizes, seed=seed).items()}
    sounding = s3gen.assembled(shape.s3gen, tensors, parts=s3gen.SYNTHESIS, dtype=torch.float32)
    with tempfile.TemporaryDirectory() as directory:
        write_tokenizer(shape, Path(directory))
        write_voice(shape, Path(directory), seed=seed)
        text = open_front_end(shape, Path(directory))
        voice = published(Path(directory) / shape.files.voice, model=shape.name, weights=RANDOM_NOTICE)
    return Checkpoint(
        shape=shape,
        t3=speaking,
        s3gen=sounding,
        text=text,
        voice=voice,
        weights=RANDOM_NOTICE,
        deriving=RANDOM_NOTICE,
        random=True,
    )
