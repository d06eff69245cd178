"""S3Gen's file: its tensors are those that are published, and what is loaded of it is what it says."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from engines.chatterbox import philox, s3gen
from engines.chatterbox.shapes import MODELS, TINY
from engines.chatterbox.weights import UnsuitableCheckpoint, random_weights, write_random


@pytest.mark.parametrize(
    ("name", "tensors", "parameters"), [("turbo", 2491, 266_030_919), ("original", 2490, 263_933_767)]
)
def test_s3gen_is_as_large_as_what_is_published(name: str, tensors: int, parameters: int) -> None:
    layout = s3gen.layout(MODELS[name].s3gen)
    # What is normalised counts how often it has seen a batch, which is no parameter; nor are means and constants.
    weights = {
        key: size
        for key, size in layout.items()
        if not key.endswith(("num_batches_tracked", "running_mean", "running_var", "_mel_filters", "tokenizer.window"))
    }
    assert (len(layout), sum(map(math.prod, weights.values()))) == (tensors, parameters)


def test_the_voice_encoder_is_as_large_as_what_is_published() -> None:
    layout = s3gen.voice_encoder_layout(MODELS["turbo"].voice_encoder)
    assert (len(layout), sum(map(math.prod, layout.values()))) == (16, 1_423_618)


def test_only_what_speaks_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "s3gen_meanflow.safetensors"
    write_random(path, s3gen.layout(TINY.s3gen), seed=1)
    model = s3gen.load(path, TINY.s3gen)
    assert [name for name, _ in model.named_children()] == ["flow", "mel2wav"]
    assert not any(parameter.requires_grad or parameter.is_meta for parameter in model.parameters())
    assert not model.training


def test_lengths_and_directions_are_multiplied_out(tmp_path: Path) -> None:
    path = tmp_path / "s3gen_meanflow.safetensors"
    layout = s3gen.layout(TINY.s3gen)
    write_random(path, layout, seed=1)
    weights = random_weights(layout, seed=1)
    loaded = s3gen.load(path, TINY.s3gen).mel2wav.ups[0].weight
    stem = "mel2wav.ups.0.parametrizations.weight.original"
    expected = torch._weight_norm(weights[stem + "1"], weights[stem + "0"], 0)
    torch.testing.assert_close(loaded.data, expected)


def test_constants_may_be_absent_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "s3gen_meanflow.safetensors"
    layout = dict(s3gen.layout(TINY.s3gen))
    del layout["tokenizer.window"], layout["tokenizer._mel_filters"]
    write_random(path, layout, seed=1)
    s3gen.load(path, TINY.s3gen)
    del layout["flow.encoder_proj.bias"]
    write_random(path, layout, seed=1)
    with pytest.raises(UnsuitableCheckpoint, match=r"lacks flow\.encoder_proj\.bias"):
        s3gen.load(path, TINY.s3gen)


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_known_answers_of_its_reference(
    counter: tuple[int, ...], key: tuple[int, ...], words: tuple[int, ...]
) -> None:
    """Vectors of Random123's kat_vectors, philox4x32 with ten rounds."""
    one, two, three, four = (torch.tensor([word]) for word in counter)
    low, high = (torch.tensor([word]) for word in key)
    assert tuple(int(word) for word in philox.philox((one, two, three, four), (low, high))) == words


def test_noise_has_an_address() -> None:
    """A window that begins elsewhere, in another batch, hears the same; another seed or domain does not."""
    whole = philox.normal(torch.tensor([7]), philox.Domain.MEL, torch.tensor([0]), 50, 10)
    part = philox.normal(torch.tensor([1, 7]), philox.Domain.MEL, torch.tensor([3, 20]), 5, 10)
    assert torch.equal(part[1], whole[0, 20:25])
    assert not torch.equal(part[0], whole[0, 3:8])
    other = philox.normal(torch.tensor([7]), philox.Domain.HARMONICS, torch.tensor([0]), 50, 10)
    assert not torch.equal(other, whole)


def test_noise_is_normal() -> None:
    numbers = philox.normal(torch.tensor([-5, 2**63 - 1]), philox.Domain.MEL, torch.tensor([-9, 2**40]), 2000, 100)
    assert abs(float(numbers.mean())) < 0.005
    assert float(numbers.std()) == pytest.approx(1, abs=0.005)
    assert float((numbers.abs() < 1).float().mean()) == pytest.approx(0.6827, abs=0.003)
    assert bool(numbers.isfinite().all())


def test_uniform_noise_is_between_none_and_one() -> None:
    numbers = philox.uniform(torch.tensor([1]), philox.Domain.PHASES, torch.tensor([0]), 1000, 8)
    assert 0 < float(numbers.min()) < 0.001
    assert 0.999 < float(numbers.max()) <= 1


def test_any_whole_number_is_a_seed() -> None:
    assert [philox.seed_of(number) for number in (0, 7, -1, 2**63 - 1)] == [0, 7, -1, 2**63 - 1]
    assert philox.seed_of(2**63) == -(2**63)
    assert philox.seed_of(2**64 + 5) == 5
