"""T3 against the package chatterbox-tts: logits, greedy tokens, and what is left to draw from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from engines.chatterbox.sampling import ORIGINAL, Sampling, Settings, remaining_gpt2, remaining_llama
from engines.chatterbox.shapes import MODELS, TINY, TINY_ORIGINAL, ModelShape
from engines.chatterbox.t3 import T3
from tests.chatterbox_support import numbers, random_t3, text, voice, write_t3
from tests.oracle import Part, relative_error

TINY_SHAPES = [TINY, TINY_ORIGINAL]
GREEDY = 24
GREEDY_OF_TRUE_SIZE = 8
ROWS = 16
EVERY = 37
"""Of logits, the repository keeps one in so many."""


def greedy_tokens(shape: ModelShape) -> int:
    return GREEDY if shape in TINY_SHAPES else GREEDY_OF_TRUE_SIZE


def question(shape: ModelShape) -> Mapping[str, Tensor]:
    prompt = voice(shape)
    # From flat scores to those of a sure model, with a few high ones; some have been said before.
    scores = torch.randn(ROWS, shape.t3.speech_vocabulary, generator=torch.Generator().manual_seed(5))
    return {
        "speaker": prompt.speaker,
        "prompt": torch.tensor(prompt.tokens),
        "emotion": torch.tensor(prompt.emotion),
        "text": torch.tensor(text(shape)),
        "speech": numbers(6, shape.t3.start_speech, seed=3),
        "greedy": torch.tensor(greedy_tokens(shape)),
        "scores": scores * torch.linspace(0.5, 8, ROWS)[:, None],
        "history": numbers(ROWS * 200, shape.t3.speech_vocabulary, seed=4).view(ROWS, 200),
    }


def keep(answer: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    return {key: tensor if key == "greedy" else tensor[..., ::EVERY] for key, tensor in answer.items()}


PART = Part(script="oracle_t3.py", question=question, checkpoint=write_t3, keep=keep)


def ours(shape: ModelShape) -> dict[str, Tensor]:
    """What the oracle is asked for, by our modules."""
    asked, t3 = question(shape), random_t3(shape)
    prefix, opening, following = rows(t3, shape, asked["speech"])
    with torch.inference_mode():
        _, past = t3.whole(prefix)
        hidden, _ = t3.whole(torch.cat([opening, following], dim=1), past)
        logits = t3.logits(hidden[:, -1 - len(asked["speech"]) :])
        greedy: list[int] = []
        while len(greedy) < asked["greedy"] and shape.t3.stop_speech not in greedy[1:]:
            sequence = torch.cat([opening, rows(t3, shape, torch.tensor(greedy, dtype=torch.int64))[2]], dim=1)
            scores = t3.logits(t3.whole(sequence, past)[0][:, -1])
            seen = torch.zeros(1, scores.shape[-1], dtype=torch.bool)
            seen[0, greedy or [shape.t3.start_speech]] = True
            if shape.t3.guided:
                scores = scores[:1] + 0.5 * (scores[:1] - scores[1:])
                seen[0, shape.t3.start_speech] = True
                scores = torch.where(seen, torch.where(scores < 0, scores * 1.2, scores / 1.2), scores)
            greedy.append(int(scores.argmax()))
    if greedy[-1] == shape.t3.stop_speech and not shape.t3.guided:
        greedy.pop()
    return {"logits": logits, "greedy": torch.tensor(greedy), "remaining": left(shape, asked)}


def rows(t3: T3, shape: ModelShape, speech: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    following = t3.speech(speech, torch.arange(len(speech)))[None].expand(t3.rows, -1, -1)
    return t3.prefix(voice(shape)), t3.opening(text(shape)), following


def left(shape: ModelShape, asked: Mapping[str, Tensor]) -> Tensor:
    settings = Settings(ROWS, torch.device("cpu"))
    for slot in range(ROWS):
        settings.put(slot, ORIGINAL if shape.t3.guided else Sampling())
    seen = torch.zeros(asked["scores"].shape, dtype=torch.bool).scatter(1, asked["history"], True)
    remaining = remaining_llama if shape.t3.guided else remaining_gpt2
    return remaining(asked["scores"], seen, settings, slice(0, ROWS))


def compare(found: Mapping[str, Tensor], answer: Mapping[str, Tensor]) -> None:
    assert relative_error(found["logits"], answer["logits"]) < 1e-4
    assert found["greedy"].tolist() == answer["greedy"].tolist()
    assert relative_error(found["remaining"], answer["remaining"]) < 1e-4
    assert torch.equal(found["remaining"] > 0, answer["remaining"] > 0), "the same tokens are excluded"


@pytest.mark.parametrize("shape", TINY_SHAPES, ids=lambda shape: shape.name)
def test_a_tiny_model_gives_the_numbers_of_the_package(shape: ModelShape) -> None:
    compare(keep(ours(shape)), PART.kept(shape))


@pytest.mark.slow
@pytest.mark.parity
@pytest.mark.parametrize("shape", TINY_SHAPES, ids=lambda shape: shape.name)
def test_what_is_kept_is_what_the_package_says(shape: ModelShape, tmp_path: Path) -> None:
    answer = PART.ask(shape, tmp_path)
    compare(ours(shape), answer)
    compare(keep(answer), PART.kept(shape))


@pytest.mark.slow
@pytest.mark.parity
@pytest.mark.parametrize("name", ["nano", "turbo", "original", "multilingual"])
def test_a_model_of_true_size_gives_the_numbers_of_the_package(name: str, tmp_path: Path) -> None:
    compare(ours(MODELS[name]), PART.ask(MODELS[name], tmp_path))
