"""Checkpoints of Chatterbox: sizes as published, and what is said of files that do not fit."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from engines.chatterbox import s3gen, t3
from engines.chatterbox.placeholder import write_checkpoint
from engines.chatterbox.shapes import MODELS, TINY, TINY_ORIGINAL, ModelShape
from engines.chatterbox.text import open_front_end
from engines.chatterbox.weights import UnsuitableCheckpoint, is_random, random_weights, read, write_random

LAYOUT = {"proj.weight": (6, 4), "proj.bias": (6,), "norm.weight": (6,), "norm.num_batches_tracked": ()}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "t3.safetensors"
    write_random(path, LAYOUT, seed=1)
    return path


@pytest.mark.parametrize(
    ("name", "tensors", "parameters"),
    [
        ("turbo", 299, 478_862_755),
        ("nano", 155, 217_471_139),
        ("original", 292, 532_405_248),
        ("multilingual", 292, 535_989_248),
    ],
)
def test_t3_is_as_large_as_what_is_published(name: str, tensors: int, parameters: int) -> None:
    layout = t3.layout(MODELS[name].t3)
    assert (len(layout), sum(map(math.prod, layout.values()))) == (tensors, parameters)


def test_what_was_written_is_read(path: Path) -> None:
    assert {key: tuple(tensor.shape) for key, tensor in read(path, LAYOUT).items()} == LAYOUT


def test_random_weights_are_labelled_and_published_ones_are_not(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(1)}, other)
    assert (is_random(path), is_random(other), is_random(tmp_path / "ve.pt")) == (True, False, False)


def test_random_weights_depend_on_seed_and_key_alone() -> None:
    alone = random_weights({"proj.weight": (6, 4)}, seed=1)["proj.weight"]
    among = random_weights(LAYOUT, seed=1)["proj.weight"]
    other = random_weights(LAYOUT, seed=2)["proj.weight"]
    assert torch.equal(alone, among)
    assert not torch.equal(alone, other)
    # Fixed for ever, because files of reference values are compared with what these weights make.
    assert alone[0].tolist() == pytest.approx([0.43055946, -0.63659078, -0.55978042, 0.35150227], abs=1e-7)


def test_only_what_is_wanted_is_loaded_but_all_is_checked(path: Path) -> None:
    assert list(read(path, LAYOUT, wanted=lambda key: key.startswith("norm"))) == [
        "norm.num_batches_tracked",
        "norm.weight",
    ]
    with pytest.raises(UnsuitableCheckpoint, match=r"proj\.bias as 6 instead of 7"):
        read(path, LAYOUT | {"proj.bias": (7,)}, wanted=lambda key: key.startswith("norm"))


def test_floating_point_comes_as_asked_for_and_counters_stay_integers(path: Path) -> None:
    tensors = read(path, LAYOUT, dtype=torch.bfloat16)
    assert tensors["proj.weight"].dtype is torch.bfloat16
    assert tensors["norm.num_batches_tracked"].dtype is torch.int64


def test_a_missing_file_is_named_with_what_is_there(path: Path) -> None:
    with pytest.raises(UnsuitableCheckpoint, match=r"ve\.safetensors is missing \(there: t3\.safetensors\)"):
        read(path.with_name("ve.safetensors"), LAYOUT)


@pytest.mark.parametrize("kept", [0, 5, 100, -1])
def test_a_truncated_file_is_damaged(path: Path, kept: int) -> None:
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UnsuitableCheckpoint, match=r"t3\.safetensors \(.* bytes\) is damaged or cut short"):
        read(path, LAYOUT)


def test_missing_foreign_and_misfitting_keys_are_named(path: Path) -> None:
    wanted = {"proj.weight": (6, 5), "proj.bias": (6,), "norm.weight": (6,)} | {f"head.{n}": (1,) for n in range(6)}
    with pytest.raises(UnsuitableCheckpoint) as raised:
        read(path, wanted)
    assert str(raised.value) == (
        f"{path} lacks head.0, head.1, head.2, head.3 and 2 more and has norm.num_batches_tracked, which the model "
        "does not know and has proj.weight as 6x4 instead of 6x5. It belongs to another model or version: set "
        "engine.model to the one whose files these are, or download the right ones."
    )


def test_an_optional_key_may_be_absent(path: Path) -> None:
    assert "window" not in read(path, LAYOUT | {"window": (4,)}, optional=frozenset({"window"}))


def test_a_pickled_table_is_read_wrapped_or_not(tmp_path: Path) -> None:
    path = tmp_path / "ve.pt"
    for content in (random_weights(LAYOUT, seed=1), {"model": [random_weights(LAYOUT, seed=1)]}):
        torch.save(content, path)
        assert torch.equal(read(path, LAYOUT)["proj.weight"], random_weights(LAYOUT, seed=1)["proj.weight"])


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ve.pt"
    torch.save({"proj.weight": Path("/")}, path)
    with pytest.raises(UnsuitableCheckpoint, match=r"ve\.pt .*no file of tensors"):
        read(path, LAYOUT)
    path.write_bytes(b"not a pickle")
    with pytest.raises(UnsuitableCheckpoint, match="Download it again"):
        read(path, LAYOUT)
    torch.save([1, 2], path)
    with pytest.raises(UnsuitableCheckpoint, match="no table of tensors"):
        read(path, LAYOUT)


@pytest.mark.parametrize("model", [TINY, TINY_ORIGINAL], ids=lambda model: model.name)
def test_a_placeholder_has_every_file_of_a_model_and_says_what_it_is(model: ModelShape, tmp_path: Path) -> None:
    write_checkpoint(model, tmp_path / "model")
    directory = tmp_path / "model"
    loaded = t3.load(directory / model.files.t3, model.t3)
    s3gen.load(directory / model.files.s3gen, model.s3gen)
    s3gen.load_voice_encoder(directory / model.files.voice_encoder, model.voice_encoder)
    tokens = open_front_end(model, directory).tokens("Hello.")
    assert loaded.opening(tokens).shape == (loaded.rows, len(tokens) + loaded.rows, model.t3.width)
    weights = sorted(directory.glob("*.safetensors"))
    assert [path.name for path in weights] == sorted((model.files.t3, model.files.s3gen, model.files.voice_encoder))
    assert all(is_random(path) for path in weights)


def test_a_file_of_another_model_says_which_to_set(tmp_path: Path) -> None:
    write_checkpoint(TINY, tmp_path)
    with pytest.raises(UnsuitableCheckpoint, match=r"t3_turbo_v1.*lacks .*set engine\.model to the one"):
        t3.load(tmp_path / TINY.files.t3, TINY_ORIGINAL.t3)
