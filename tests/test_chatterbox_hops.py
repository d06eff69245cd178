"""Hops start small and grow with what waits to be heard."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.chatterbox.hops import HopSchedule

SCHEDULE = HopSchedule()


def constant(milliseconds: float) -> Callable[[int], float]:
    return lambda tokens: milliseconds


def test_the_first_hop_is_short_and_waits_for_nothing_else() -> None:
    for ready, hop in ((0, 0), (3, 0), (4, 4), (40, 4)):
        assert SCHEDULE.next_hop(hops=0, ready=ready, ended=False, buffered_ms=0, takes_ms=constant(500)) == hop


def test_hops_grow_by_one_length_each_when_there_is_time() -> None:
    found = [
        SCHEDULE.next_hop(hops=hops, ready=99, ended=False, buffered_ms=10_000, takes_ms=constant(10))
        for hops in range(6)
    ]
    assert found == [4, 6, 15, 25, 25, 25]


def test_what_waits_to_be_heard_lasts_twice_as_long_as_the_hop_takes() -> None:
    takes: Callable[[int], float] = lambda tokens: 10.0 * tokens  # noqa: E731
    for buffered_ms, hop in ((10, 4), (119, 4), (120, 6), (300, 15), (499, 15), (500, 25)):
        assert SCHEDULE.next_hop(hops=9, ready=99, ended=False, buffered_ms=buffered_ms, takes_ms=takes) == hop


def test_tokens_are_waited_for_while_there_is_time_and_no_longer() -> None:
    for buffered_ms, hop in ((400, 0), (141, 0), (140, 5), (20, 4)):
        assert SCHEDULE.next_hop(hops=9, ready=5, ended=False, buffered_ms=buffered_ms, takes_ms=constant(50)) == hop


def test_the_end_comes_in_full_and_leaves_no_sliver() -> None:
    for ready, hop in ((1, 1), (4, 4), (25, 25), (28, 28), (29, 25), (60, 25)):
        assert SCHEDULE.next_hop(hops=9, ready=ready, ended=True, buffered_ms=900, takes_ms=constant(1)) == hop


@pytest.mark.parametrize("lengths", [(), (0, 4), (6, 4), (4, 4)])
def test_lengths_ascend(lengths: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="lengths of hops ascend"):
        HopSchedule(lengths=lengths)


@given(
    tokens=st.integers(4, 300),
    per_token_ms=st.floats(1, 25),
    hop_ms=st.floats(5, 60),
)
def test_speech_is_never_late_when_the_machine_keeps_up(tokens: int, per_token_ms: float, hop_ms: float) -> None:
    """A stream on a clock of its own: tokens come every so many milliseconds, and a hop takes `hop_ms`."""
    now = emitted = hops = 0.0
    heard_until: float | None = None
    while emitted < tokens:
        known = min(int(now / per_token_ms), tokens)
        ended = known == tokens
        ready = int(known - emitted - (0 if ended else 3))
        buffered_ms = 0.0 if heard_until is None else heard_until - now
        hop = SCHEDULE.next_hop(
            hops=int(hops), ready=max(ready, 0), ended=ended, buffered_ms=buffered_ms, takes_ms=constant(hop_ms)
        )
        if not hop:
            now += 1
            continue
        now += hop_ms
        if heard_until is None:
            assert now <= 8 * per_token_ms + hop_ms + 1, "the first hop waits for seven tokens"
            heard_until = now
        assert now <= heard_until, "late"
        heard_until += 40 * hop
        emitted += hop
        hops += 1
