"""How much of a text was spoken, at a position in its audio."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from http_api.transcript import Passage, Transcript

RATE_HZ = 8000


def passage(text: str, start: int = 0) -> Passage:
    return Passage(start=start, text=text, continues=True)


def test_nothing_was_spoken_before_the_first_sample() -> None:
    transcript = Transcript(rate_hz=RATE_HZ)
    assert (transcript.spoken(), transcript.audio_ms) == (0, 0)
    transcript.begin(passage("Hello there."))
    assert transcript.spoken() == 0


def test_a_complete_passage_was_spoken_at_its_end() -> None:
    transcript = Transcript(rate_hz=RATE_HZ)
    transcript.begin(passage("Hello there. "))
    transcript.sent(8000)
    transcript.finish()
    assert (transcript.spoken(), transcript.spoken(1000), transcript.spoken(5000)) == (13, 13, 13)
    assert transcript.audio_ms == 1000


@pytest.mark.parametrize(("at_ms", "spoken"), [(0, 0), (300, 0), (600, 6), (800, 6), (999, 12)])
def test_within_a_complete_passage_it_is_by_proportion_and_in_whole_words(at_ms: float, spoken: int) -> None:
    transcript = Transcript(rate_hz=RATE_HZ)
    transcript.begin(passage("Hello there. "))
    transcript.sent(8000)
    transcript.finish()
    assert transcript.spoken(at_ms) == spoken


def test_within_a_passage_that_is_being_made_it_is_by_the_pace_so_far() -> None:
    transcript = Transcript(rate_hz=RATE_HZ)
    transcript.begin(passage("One two three. "))
    transcript.sent(15 * 800)  # 100 ms a character
    transcript.finish()
    transcript.begin(passage("Four five six.", 15))
    transcript.sent(9 * 800)
    assert transcript.spoken() == 15 + len("Four five")
    transcript.sent(100 * 800)  # longer than it was thought to become
    assert transcript.spoken() == 15 + len("Four five six.")


def test_until_something_was_said_the_pace_is_typical() -> None:
    for speed, spoken in ((1.0, 4), (4.0, 14)):
        transcript = Transcript(rate_hz=RATE_HZ, speed=speed)
        transcript.begin(passage("One two three four five. "))
        transcript.sent(4 * 65 * 8)
        assert transcript.spoken() == spoken


def test_text_that_was_forgotten_is_passed_over() -> None:
    transcript = Transcript(rate_hz=RATE_HZ)
    transcript.begin(passage("One. "))
    transcript.sent(800)
    transcript.finish()
    transcript.begin(passage("Two.", 40))
    transcript.sent(800)
    transcript.finish()
    assert (transcript.spoken(100), transcript.spoken(200)) == (5, 44)


@given(st.lists(st.tuples(st.text("ab ", min_size=1, max_size=20), st.integers(0, 5000)), max_size=8))
def test_what_was_spoken_grows_with_the_audio(passages: list[tuple[str, int]]) -> None:
    transcript = Transcript(rate_hz=RATE_HZ)
    start = 0
    for text, samples in passages:
        transcript.begin(passage(text, start))
        transcript.sent(samples)
        transcript.finish()
        start += len(text)
    spoken = [transcript.spoken(at_ms) for at_ms in range(0, int(transcript.audio_ms) + 50, 10)]
    assert spoken == sorted(spoken)
    assert 0 <= min(spoken) <= max(spoken) <= start
