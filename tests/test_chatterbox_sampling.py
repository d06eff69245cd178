"""Draws, what they are drawn from, loops of tokens, and what is kept of voices."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from engines.chatterbox.hot import Hot
from engines.chatterbox.loop import LONGEST_SILENCE, LONGEST_SOUND, Loop
from engines.chatterbox.sampling import Sampling, Settings, draw, draws, guided, remaining_gpt2, remaining_llama
from engines.chatterbox.shapes import SILENCE
from tests.chatterbox_support import numbers


def left(scores: list[float], *, seen: tuple[int, ...] = (), llama: bool = False, **values: float) -> list[float]:
    """Probabilities that are left of one row of scores; settings that are not given change nothing."""
    settings = Settings(1, torch.device("cpu"))
    neutral = {"temperature": 1.0, "top_p": 1.0, "repetition_penalty": 1.0}
    settings.put(0, Sampling(**(neutral | values)))  # type: ignore[arg-type]
    was_seen = torch.zeros(1, len(scores), dtype=torch.bool)
    was_seen[0, list(seen)] = True
    remaining = remaining_llama if llama else remaining_gpt2
    return remaining(torch.tensor([scores]), was_seen, settings, slice(0, 1))[0].tolist()


LOGS = [float(number) for number in np.log([0.5, 0.2, 0.2, 0.1])]


@pytest.mark.parametrize("llama", [False, True])
def test_each_setting_excludes_what_it_says(llama: bool) -> None:
    assert left(LOGS, llama=llama) == pytest.approx([0.5, 0.2, 0.2, 0.1])
    assert left(LOGS, llama=llama, top_k=1) == [1, 0, 0, 0]
    assert left(LOGS, llama=llama, top_p=0.85) == pytest.approx([0.5 / 0.9, 0.2 / 0.9, 0.2 / 0.9, 0])
    assert left(LOGS, llama=llama, top_p=0.01) == [1, 0, 0, 0], "the likeliest always stays"
    assert left(LOGS, llama=llama, temperature=0.5) == pytest.approx([25 / 34, 4 / 34, 4 / 34, 1 / 34])


def test_a_penalty_divides_what_is_positive_and_multiplies_what_is_negative() -> None:
    for llama in (False, True):
        shares = left([2.0, 2.0, -1.0, -1.0], llama=llama, seen=(0, 2), repetition_penalty=2.0)
        assert shares[0] / shares[1] == pytest.approx(np.exp(-1))
        assert shares[2] / shares[3] == pytest.approx(np.exp(-1))


def test_turbo_penalises_after_it_has_excluded_and_llama_before() -> None:
    scores = [3.0, 2.0, 1.0]
    assert [share > 0 for share in left(scores, seen=(0,), top_k=1, repetition_penalty=4.0)] == [True, False, False]
    llama = left(scores, seen=(0,), top_k=1, repetition_penalty=4.0, llama=True)
    assert [share > 0 for share in llama] == [False, True, False]


def test_min_p_is_relative_to_the_likeliest() -> None:
    assert left(LOGS, llama=True, min_p=0.3) == pytest.approx([0.5 / 0.9, 0.2 / 0.9, 0.2 / 0.9, 0])
    assert left(LOGS, llama=True, min_p=1.0) == [1, 0, 0, 0]


def test_guidance_goes_beyond_what_the_text_makes_likely() -> None:
    pairs = torch.tensor([[1.0, 2.0], [0.0, 4.0], [5.0, 5.0], [5.0, 5.0]])
    assert guided(pairs, torch.tensor([[0.5], [2.0]])).tolist() == [[1.5, 1.0], [5.0, 5.0]]


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": 0},
        {"top_k": 0},
        {"top_k": 1001},
        {"top_p": 0},
        {"top_p": 1.1},
        {"min_p": -0.1},
        {"repetition_penalty": 0},
        {"guidance": -1},
    ],
    ids=str,
)
def test_a_setting_out_of_range_is_named(wrong: dict[str, float]) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=f"^{name} .* is out of range"):
        Sampling(**wrong)  # type: ignore[arg-type]


def test_the_numbers_of_a_step_depend_on_the_seed_alone() -> None:
    """Counted on, not drawn from, so the length does not matter."""
    assert torch.equal(draws(7, 5), draws(7, 1000)[:5])
    assert not torch.equal(draws(7, 5), draws(8, 5))
    assert [number.hex() for number in draws(7, 3).tolist()] == [
        "0x1.38be0c0000000p-1",
        "0x1.686c380000000p-9",
        "0x1.ebf47c0000000p-2",
    ]
    assert torch.equal(draws(-1, 5), draws(2**64 - 1, 5))
    many = draws(1, 100_000)
    assert float(many.min()) >= 0
    assert float(many.max()) <= 1
    assert float(many.mean()) == pytest.approx(0.5, abs=0.005)


def test_a_draw_is_where_its_number_falls() -> None:
    shares = torch.tensor([[0.0, 0.25, 0.0, 0.5, 0.25, 0.0]])
    for number, token in ((0.0, 1), (0.2499, 1), (0.25, 3), (0.7499, 3), (0.75, 4), (1.0, 4)):
        assert draw(shares, torch.tensor([number], dtype=torch.float64)).tolist() == [token]


def test_draws_have_the_shares_that_are_left() -> None:
    shares = torch.tensor([0.1, 0.0, 0.6, 0.3]).expand(100_000, -1)
    counts = torch.bincount(draw(shares, draws(3, 100_000)), minlength=4) / 100_000
    assert counts.tolist() == pytest.approx([0.1, 0, 0.6, 0.3], abs=0.005)


def loops_at(tokens: list[int]) -> int | None:
    """The place of the token at which it is a loop."""
    loop = Loop()
    return next((place for place, token in enumerate(tokens) if loop.add(token)), None)


def test_a_sound_that_does_not_change_is_a_loop() -> None:
    assert loops_at([1, 2, *[5] * 30]) == 2 + LONGEST_SOUND - 1
    assert loops_at([*[5] * (LONGEST_SOUND - 1), *range(100)] * 3) is None


def test_silence_may_last() -> None:
    assert loops_at([*[SILENCE] * (LONGEST_SILENCE - 1), 3]) is None
    assert loops_at([SILENCE] * 200) == LONGEST_SILENCE - 1


@pytest.mark.parametrize(("period", "at"), [(2, 49), (5, 49), (12, 49), (13, 51), (16, 63), (17, None)])
def test_a_figure_is_a_loop_when_heard_four_times_and_for_two_seconds(period: int, at: int | None) -> None:
    assert loops_at(list(range(100, 100 + period)) * 30) == at


def test_random_tokens_are_no_loop() -> None:
    assert loops_at(numbers(20_000, 50, seed=1).tolist()) is None


@dataclass
class Weight:
    size_bytes: int


def test_what_was_used_longest_ago_leaves_first() -> None:
    hot: Hot[str, Weight] = Hot(10)
    for key in "abc":
        hot.get(key, lambda: Weight(3))
    hot.get("a", lambda: pytest.fail("it is there"))
    hot.get("d", lambda: Weight(3))
    assert ([key for key in "abcd" if key in hot], hot.size_bytes, len(hot)) == (["a", "c", "d"], 9, 3)
    assert (hot.hits, hot.misses) == (1, 4)


def test_what_is_larger_than_all_is_made_and_not_kept() -> None:
    hot: Hot[str, Weight] = Hot(10)
    hot.get("a", lambda: Weight(10))
    assert hot.get("b", lambda: Weight(11)).size_bytes == 11
    assert ("a" in hot, "b" in hot, hot.size_bytes) == (True, False, 10)


def test_what_is_dropped_gives_its_room_back() -> None:
    hot: Hot[str, Weight] = Hot(10)
    hot.get("a", lambda: Weight(10))
    for _ in range(2):
        hot.drop("a")
    assert (hot.size_bytes, len(hot)) == (0, 0)
