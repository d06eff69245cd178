"""The E-model against figures of the whole of ITU-T G.107, computed once outside this code base."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtp.quality import BPL, BPL_WITH_CONCEALMENT, burst_ratio, mos, mouth_to_ear_ms, rating


@pytest.mark.parametrize(
    ("delay_ms", "expected"),
    [
        (0, 93.2062),
        (20, 92.5313),
        (50, 91.7562),
        (100, 90.6637),
        (150, 89.5391),
        (200, 85.8047),
        (300, 72.6664),
        (400, 62.2468),
        (600, 49.4838),
    ],
)
def test_delay_as_the_whole_model_rates_it(delay_ms: int, expected: float) -> None:
    """All of G.107 (06/2015) evaluated with T = Ta = Tr / 2 and every other parameter at its default."""
    assert rating(loss=0, mouth_to_ear_ms=delay_ms) == pytest.approx(expected, abs=0.001)


@pytest.mark.parametrize(
    ("loss", "burst", "bpl", "expected"),
    [
        (0.03, 1.5, BPL_WITH_CONCEALMENT, 80.5653),
        (0.03, 1.0, BPL, 52.0408),
        (0.0, 1.0, BPL, 91.0817),
    ],
)
def test_loss_as_the_whole_model_rates_it(loss: float, burst: float, bpl: float, expected: float) -> None:
    assert rating(loss=loss, mouth_to_ear_ms=80, burst_ratio=burst, bpl=bpl) == pytest.approx(expected, abs=0.001)


SCORES = {-5: 1.0, 0: 1.0, 3: 1.0, 50: 2.575, 60: 3.1, 70: 3.597, 80: 4.024, 90: 4.339, 93.2: 4.409, 100: 4.5, 120: 4.5}


@pytest.mark.conformance("ITU-T G.107", "B", "the rating R is turned into a mean opinion score")
@pytest.mark.parametrize(("r", "score"), SCORES.items())
def test_mean_opinion_scores_of_annex_b(r: float, score: float) -> None:
    assert mos(r) == pytest.approx(score, abs=0.001)


def test_a_call_without_loss_or_delay_scores_4_41() -> None:
    assert round(mos(rating(loss=0, mouth_to_ear_ms=0)), 2) == 4.41


@given(st.floats(0, 1), st.floats(0, 1), st.floats(1, 2000), st.floats(1, 2000))
def test_more_loss_or_delay_never_sounds_better(loss: float, more: float, delay: float, longer: float) -> None:
    """From 1 ms on; below, where no packet network gets, the model's echo masking makes a ripple of 0.1."""
    loss, more = sorted((loss, more))
    delay, longer = sorted((delay, longer))
    better = mos(rating(loss=loss, mouth_to_ear_ms=delay))
    assert 1.0 <= mos(rating(loss=more, mouth_to_ear_ms=longer)) <= better <= 4.5


@given(st.floats(0.001, 0.2), st.floats(1, 4))
def test_bursts_and_missing_concealment_sound_worse(loss: float, burst: float) -> None:
    at_random = rating(loss=loss, mouth_to_ear_ms=50)
    assert rating(loss=loss, mouth_to_ear_ms=50, burst_ratio=burst) <= at_random
    assert rating(loss=loss, mouth_to_ear_ms=50, bpl=BPL) < at_random


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        ({"loss": -0.1, "mouth_to_ear_ms": 0}, 93.2062),
        ({"loss": 0, "mouth_to_ear_ms": -20}, 93.2062),
        ({"loss": 2, "mouth_to_ear_ms": 0}, 17.267),
        ({"loss": 0.01, "mouth_to_ear_ms": 0, "burst_ratio": 0.2}, 89.566),
    ],
)
def test_figures_out_of_range_count_as_the_nearest_in_range(figures: dict[str, float], expected: float) -> None:
    assert rating(**figures) == pytest.approx(expected, abs=0.001)


@pytest.mark.parametrize(
    ("expected", "lost", "gaps", "ratio"),
    [
        (1000, 0, 0, 1.0),
        (100, 20, 16, 1.0),  # runs of 1.25, as chance has it at 20 %
        (100, 20, 4, 4.0),
        (100, 20, 20, 1.0),  # more even than chance
        (10, 10, 1, 1.0),  # nothing came: no pattern to speak of
    ],
)
def test_burst_ratio(expected: int, lost: int, gaps: int, ratio: float) -> None:
    assert burst_ratio(expected=expected, lost=lost, gaps=gaps) == pytest.approx(ratio)


@pytest.mark.parametrize(
    ("round_trip_ms", "jitter_ms", "ptime_ms", "delay_ms"),
    [(0, 0, 20, 40), (100, 5, 20, 90), (100, 30, 20, 130), (40, 10, 60, 140)],
)
def test_mouth_to_ear_delay(round_trip_ms: float, jitter_ms: float, ptime_ms: float, delay_ms: float) -> None:
    figures = {"round_trip_ms": round_trip_ms, "jitter_ms": jitter_ms, "ptime_ms": ptime_ms}
    assert mouth_to_ear_ms(**figures) == delay_ms


def test_the_scale_of_ratings_is_continuous() -> None:
    for before, after in itertools.pairwise(range(20, 20_000)):
        step = rating(loss=0, mouth_to_ear_ms=before / 20) - rating(loss=0, mouth_to_ear_ms=after / 20)
        assert 0 <= step < 0.05
