"""S3Gen and what enrols a voice against the package chatterbox-tts, on identical random weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from engines.chatterbox import s3gen, voice
from engines.chatterbox.features import (
    filter_bank,
    loudness_lufs,
    narrowed,
    token_mel,
    voice_mel,
    without_silence,
)
from engines.chatterbox.flow import LOOKAHEAD
from engines.chatterbox.shapes import MODELS, TINY, TINY_ORIGINAL, ModelShape
from engines.chatterbox.weights import RANDOM_LABEL, random_weights
from tests.chatterbox_flow import random_s3gen, some_prompt, some_recording, some_tokens
from tests.oracle import Part, relative_error

TINY_SHAPES = [TINY, TINY_ORIGINAL]
PROMPT, TOKENS, FRAMES = 15, 14, 24
MOST = 40
"""Numbers that the repository keeps of a tensor, spread over it."""


def question(shape: ModelShape) -> Mapping[str, Tensor]:
    generator = torch.Generator().manual_seed(7)
    prompt = some_prompt(PROMPT)
    return {
        "prompt_tokens": prompt.tokens,
        "prompt_mel": prompt.mel,
        "x_vector": prompt.x_vector,
        "tokens": torch.tensor(some_tokens(TOKENS)),
        "noise": torch.randn(2 * (PROMPT + TOKENS), 80, generator=generator),
        "vocoder_mel": torch.randn(FRAMES, 80, generator=generator),
        "source": 0.1 * torch.randn(480 * FRAMES, generator=generator),
        "pitch": 300 * torch.rand(FRAMES, generator=generator) * (torch.rand(FRAMES, generator=generator) > 0.3),
        "phases": functional.pad(6 * torch.rand(8, generator=generator) - 3, (1, 0)),
        "harmonics_noise": torch.randn(480 * FRAMES, 9, generator=generator),
        "recording": some_recording(6.4),
    }


def checkpoint(shape: ModelShape, directory: Path) -> None:
    metadata = {"format": "pt", "weights": RANDOM_LABEL}
    save_file(random_s3gen(shape), directory / shape.files.s3gen, metadata=metadata)
    weights = random_weights(s3gen.voice_encoder_layout(shape.voice_encoder), seed=1)
    save_file(weights, directory / shape.files.voice_encoder, metadata=metadata)


def keep(answer: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    return {
        name: tensor.flatten()[:: max(tensor.numel() // MOST, 1)] if tensor.is_floating_point() else tensor
        for name, tensor in answer.items()
    }


PART = Part(script="oracle_s3gen.py", question=question, checkpoint=checkpoint, keep=keep)


@torch.inference_mode()
def ours(shape: ModelShape, directory: Path) -> dict[str, Tensor]:
    """What the oracle is asked for, by our modules, of the files that it reads."""
    checkpoint(shape, directory)
    asked = question(shape)
    model = s3gen.load(directory / shape.files.s3gen, shape.s3gen, parts=(*s3gen.SYNTHESIS, *s3gen.ENROLMENT))
    encoder = s3gen.load_voice_encoder(directory / shape.files.voice_encoder, shape.voice_encoder)
    vocoder_mel = asked["vocoder_mel"].T[None]
    turns = model.mel2wav.turns(asked["pitch"][None])
    begins = (turns.cumsum(-1) - turns) % 1
    excitation = model.mel2wav.source(
        asked["pitch"][None], begins, asked["phases"][None], asked["harmonics_noise"].T[None]
    )
    recording = asked["recording"].float() / 32768
    loudness = loudness_lufs(recording, 24_000)
    # The oracle does with every recording what Turbo does.
    turbo = dataclasses.replace(shape, t3=dataclasses.replace(TINY.t3, prompt_tokens=shape.t3.prompt_tokens))
    enroller = voice.Enroller(turbo, model, encoder, weights="")
    known = enroller.enrol(asked["recording"].numpy().tobytes(), 24_000)
    levelled = recording * 10 ** ((-27 - loudness) / 20)
    narrow = torch.from_numpy(voice.soxr.resample(levelled.numpy(), 24_000, 16_000, "HQ"))
    most = turbo.t3.prompt_tokens
    heard = token_mel(narrow[: most * 640])[:, : 4 * most]
    return {
        "pitch": model.mel2wav.pitch(vocoder_mel)[0],
        "samples": model.mel2wav.decode(vocoder_mel, asked["source"][None])[0],
        "source": excitation[0],
        "whole": mel(model, asked),
        "blocks": mel(model, asked, chunk=5),
        "voice.loudness": torch.tensor(loudness, dtype=torch.float64),
        "voice.speaker": known.speaker,
        "voice.t3_tokens": known.t3_tokens,
        "voice.tokens": known.tokens,
        "voice.mel": known.mel,
        "voice.x_vector": known.x_vector,
        "voice.levels": model.tokenizer.levels(heard[None])[0] / 0.9990000128746033,
        "voice.voice_mel": voice_mel(without_silence(narrow)),
        "voice.token_mel": token_mel(narrow),
        "voice.filter_bank": filter_bank(narrow),
        "voice.narrowed": narrowed(levelled[: turbo.s3gen.prompt_tokens * 960]),
    }


def mel(model: s3gen.S3Gen, asked: Mapping[str, Tensor], *, chunk: int = 0) -> Tensor:
    """Frames of the question's tokens in one pass; with `chunk`, no token sees a later block of so many."""
    flow, size = model.flow, PROMPT + TOKENS
    tokens = functional.pad(torch.cat((asked["prompt_tokens"], asked["tokens"])), (0, LOOKAHEAD))[None]
    block = torch.arange(size) // chunk if chunk else torch.zeros(size)
    visible = (block[None, :] <= block[:, None])[None]
    mu, _ = flow.encode(tokens, (torch.arange(size + LOOKAHEAD) < size)[None], visible=visible)
    count = 2 * size
    known = functional.pad(asked["prompt_mel"], (0, 0, 0, 2 * TOKENS))[None]
    out, _ = flow.solve(
        asked["noise"][None],
        mu,
        flow.speaker(asked["x_vector"][None]),
        known,
        torch.ones(1, count, dtype=torch.bool),
        visible=visible.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2),
    )
    return out[0, 2 * PROMPT :]


BOUNDS = dict.fromkeys(["samples", "source", "voice.filter_bank", "voice.token_mel", "voice.levels"], 1e-4)
"""Relative to the largest value; 1e-5 for all others."""


def compare(found: Mapping[str, Tensor], answer: Mapping[str, Tensor]) -> None:
    assert found.keys() == answer.keys()
    for name, expected in answer.items():
        if expected.is_floating_point():
            assert relative_error(found[name], expected) < BOUNDS.get(name, 1e-5), name
        else:
            assert found[name].tolist() == expected.tolist(), name


@pytest.mark.parametrize("shape", TINY_SHAPES, ids=lambda shape: shape.name)
def test_a_tiny_model_gives_the_numbers_of_the_package(shape: ModelShape, tmp_path: Path) -> None:
    compare(keep(ours(shape, tmp_path)), PART.kept(shape))


@pytest.mark.slow
@pytest.mark.parity
@pytest.mark.parametrize("shape", TINY_SHAPES, ids=lambda shape: shape.name)
def test_what_is_kept_is_what_the_package_says(shape: ModelShape, tmp_path: Path) -> None:
    answer = PART.ask(shape, tmp_path)
    compare(ours(shape, tmp_path), answer)
    compare(keep(answer), PART.kept(shape))


@pytest.mark.slow
@pytest.mark.parity
@pytest.mark.parametrize("name", ["turbo", "original"])
def test_a_model_of_true_size_gives_the_numbers_of_the_package(name: str, tmp_path: Path) -> None:
    compare(ours(MODELS[name], tmp_path), PART.ask(MODELS[name], tmp_path))
