"""The test engine: a tone that can be computed, and that misbehaves when told to."""

from __future__ import annotations

import time

import numpy as np
import pytest

from engines import ENGINES, EngineFailure, Unsupported, Utterance, open_engine, tone
from tests.engines_support import say, share_at, tone_of

SENTENCE = "The quick brown fox jumps over the lazy dog. "


def test_a_tone_is_as_long_as_its_text_and_ends_in_a_pause() -> None:
    samples = tone.samples("x" * 50, voice="tone-440", rate_hz=8000)
    assert len(samples) == 50 * 60 * 8 + 150 * 8
    assert not samples[-150 * 8 :].any()
    assert share_at(samples, 8000, 435, 445) > 0.99
    assert len(tone.samples("x" * 50, speed=2.0)) == 25 * 60 * 8 + 150 * 8


def test_a_tone_begins_and_ends_softly() -> None:
    samples = tone.samples("xxxx", rate_hz=16000).astype(int)
    assert np.abs(np.diff(samples)).max() < 1.05 * 8000 * 2 * np.pi * 440 / 16000
    assert samples[0] == 0


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"name": "festival"}, f"there is no engine 'festival'; there are: {', '.join(ENGINES)}"),
        (
            {"name": "espeak", "options": {"volume": 3}},
            "no option volume; it has: pitch, pitch_range, words_per_minute",
        ),
        ({"name": "espeak", "workers": 0}, "engine 'espeak' needs at least one worker"),
    ],
)
def test_an_impossible_engine_is_refused_at_once(arguments: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        open_engine(**arguments)  # type: ignore[arg-type]


# The tone in process.


@pytest.mark.parametrize("workers", [0, 1])
async def test_the_tone_is_the_same_with_and_without_a_worker(workers: int) -> None:
    async with open_engine("tone", workers=workers) as engine:
        assert await say(engine, SENTENCE * 3) == tone_of(SENTENCE * 3)
        high = await say(engine, "abc", voice="tone-1000", rate_hz=16000, speed=2.0)
        assert high == tone_of("abc", voice="tone-1000", rate_hz=16000, speed=2.0)
        assert "not speech" in engine.voices()[0].name


async def test_what_a_tone_cannot_do_is_told_apart_from_what_is_wrong() -> None:
    async with open_engine("tone", workers=0) as engine:
        for utterance, field in (
            (Utterance(text="<speak>a</speak>", ssml=True), "ssml"),
            (Utterance(text="a", seed=1), "seed"),
        ):
            with pytest.raises(Unsupported, match=r"^not supported by this engine: ") as caught:
                engine.check(utterance)
            assert caught.value.field == field
        for speed in (0.25, 4.0):
            engine.check(Utterance(text="a", speed=speed))


async def test_the_tone_in_process_waits_gaps_and_crashes_as_told() -> None:
    options = {"delay_ms": 100, "gap_at_ms": 120, "gap_ms": 150, "crash_at_ms": 240}
    async with open_engine("tone", workers=0, options=options) as engine:
        times = [time.perf_counter()]
        speech = engine.synthesize(Utterance(text="abcdefgh"))
        for _ in range(4):
            await anext(speech)
            times.append(time.perf_counter())
        with pytest.raises(EngineFailure, match="told to crash"):
            await anext(speech)
        waits_ms = np.diff(times) * 1000
        assert waits_ms[0] >= 100
        assert waits_ms[1] < 100
        assert waits_ms[2] >= 150
        assert engine.health().active == 0
