"""Both sides of a call on one time line: frames in, interleaved samples out."""

from __future__ import annotations

import io
import wave

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rtp
from mediaserver.stereo import SETTLED, Stereo, wav_head

BEGAN_NS = 7_000_000_123
SAMPLE_NS = 125_000


def frame(at: int, value: int, samples: int = 160) -> rtp.Frame:
    """`samples` of that value, of which the first is sample `at` of the recording."""
    return rtp.Frame(BEGAN_NS + at * SAMPLE_NS, np.full(samples, value, np.int16).tobytes())


def read(stereo: Stereo) -> list[list[int]]:
    """What is in it, as (peer, ours)."""
    pairs: list[list[int]] = np.frombuffer(stereo.finish().interleaved(), "<i2").reshape(-1, 2).tolist()
    return pairs


def test_each_side_is_where_its_time_says_and_silence_elsewhere() -> None:
    stereo = Stereo(began_ns=BEGAN_NS, most=10_000)
    stereo.hear(frame(0, 1))
    stereo.hear(frame(160, 2))
    stereo.say(frame(100, -5, samples=80))
    stereo.hear(frame(400, 3))
    assert read(stereo) == [
        *[[1, 0]] * 100,
        *[[1, -5]] * 60,
        *[[2, -5]] * 20,
        *[[2, 0]] * 140,
        *[[0, 0]] * 80,
        *[[3, 0]] * 160,
    ]


def test_what_was_before_the_beginning_is_cut_off() -> None:
    stereo = Stereo(began_ns=BEGAN_NS, most=10_000)
    stereo.say(frame(-200, 9))
    stereo.hear(frame(-100, 1))
    stereo.say(frame(-1, 2))
    assert read(stereo) == [[1, 2]] * 60


def test_it_ends_where_the_peer_was_heard_last() -> None:
    stereo = Stereo(began_ns=BEGAN_NS, most=10_000)
    stereo.say(frame(0, 5, samples=480))
    stereo.hear(frame(0, 1))
    assert stereo.samples == 160
    assert read(stereo) == [[1, 5]] * 160


def test_it_is_no_longer_than_it_may_be() -> None:
    stereo = Stereo(began_ns=BEGAN_NS, most=200)
    at = 0
    while not stereo.full:
        stereo.hear(frame(at, 1))
        stereo.say(frame(at, 2))
        at += 160
    assert at - 160 <= 200 + SETTLED <= at
    assert read(stereo) == [[1, 2]] * 200


def test_nothing_is_taken_that_something_may_be_added_to() -> None:
    stereo = Stereo(began_ns=BEGAN_NS, most=100_000)
    for at in range(0, SETTLED, 160):
        stereo.hear(frame(at, 1))
    assert stereo.settled == 0
    stereo.hear(frame(SETTLED, 1))
    assert stereo.settled == 160
    stereo.say(frame(0, 2))
    taken = stereo.take()
    assert np.frombuffer(taken.interleaved(), "<i2").tolist() == [1, 2] * 160
    stereo.say(frame(0, 3))  # too late: that stretch is written
    stereo.say(frame(160, 4))
    assert read(stereo) == [[1, 4]] * 160 + [[1, 0]] * (SETTLED - 160)


@given(st.lists(st.tuples(st.booleans(), st.integers(-400, 30_000), st.sampled_from([80, 160, 240, 480]))))
def test_whatever_is_taken_in_between_comes_to_the_same(frames: list[tuple[bool, int, int]]) -> None:
    whole, parts = (Stereo(began_ns=BEGAN_NS, most=25_000) for _ in range(2))
    frames.sort(key=lambda one: one[1])
    taken = b""
    for number, (ours, at, samples) in enumerate(frames):
        for stereo in (whole, parts):
            (stereo.say if ours else stereo.hear)(frame(at, number, samples))
        taken += parts.take().interleaved()
    assert whole.samples == parts.samples
    assert taken + parts.finish().interleaved() == whole.finish().interleaved()


@pytest.mark.parametrize("samples", [0, 1, 12_345])
def test_the_head_says_what_follows(samples: int) -> None:
    with wave.open(io.BytesIO(wav_head(samples) + bytes(4 * samples))) as file:
        assert file.getparams()[:4] == (2, 2, 8000, samples)
        assert file.readframes(samples) == bytes(4 * samples)
