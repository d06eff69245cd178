"""Voice activity: what is taken for speech, how soon, and what is not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np
import pytest

import engines
from mediaserver.vad import SILENCE_DBFS, VoiceActivity, level_dbfs
from rtp import g711
from tests.live import Samples, floats, spoken

FRAME = 320
TEXTS = (
    "Yes, I would like to speak to somebody.",
    "No.",
    "Stop.",
    "Four.",
    "Hello?",
    "I want to know when you are open today, please.",
    "Operator.",
    "What did you say?",
)
VOICES = ("default", "en-gb-x-rp", "de", "fr")
OURS = (
    "Good morning. For opening hours, press one. To speak to somebody, say so at any time. For everything else, please "
    "hold the line, and we will be with you in a moment."
)
LEAD = 8000  # samples of the scene before anybody speaks

Noise = Callable[[int], Samples]


def white(count: int) -> Samples:
    return np.random.default_rng(count).standard_normal(count)


def shaped(count: int, weight: Callable[[Samples], Samples]) -> Samples:
    spectrum = np.fft.rfft(white(count))
    return np.asarray(np.fft.irfft(spectrum * weight(np.maximum(np.fft.rfftfreq(count, 1 / 8000), 1)), count))


def pink(count: int) -> Samples:
    return shaped(count, lambda hz: hz**-0.5)


def car(count: int) -> Samples:
    return shaped(count, lambda hz: 1 / (1 + (hz / 150) ** 2))


def hum(count: int) -> Samples:
    at = np.arange(count) / 8000
    return np.asarray(np.sin(2 * np.pi * 50 * at) + np.sin(2 * np.pi * 150 * at) / 3)


def decibels(power: float) -> float:
    return 10 * float(np.log10(power))


def powers(sound: Samples) -> Samples:
    return np.asarray(np.mean(sound[: len(sound) // 160 * 160].reshape(-1, 160) ** 2, axis=1))


def active(speech: Samples) -> float:
    """About the active level of ITU-T P.56: of what is within 16 dB of the loudest."""
    found = powers(speech)
    return decibels(float(np.mean(found[found > np.max(found) / 10**1.6])))


def at_active(speech: Samples, dbov: float) -> Samples:
    return np.asarray(speech * 10 ** ((dbov - active(speech)) / 20))


def at_level(noise: Samples, dbov: float) -> Samples:
    return np.asarray(noise * 10 ** ((dbov - decibels(float(np.mean(noise**2)))) / 20))


def onset(speech: Samples) -> int:
    """The first frame within 16 dB of the active level."""
    return int(np.argmax(powers(speech) > 10 ** ((active(speech) - 16) / 10)))


def frames(sound: Samples) -> list[bytes]:
    """As they come through a telephone line."""
    samples = np.clip(sound * 32768, -32768, 32767).astype(np.int16).tobytes()
    line = g711.mulaw_decode(g711.mulaw_encode(samples))
    return [line[at : at + FRAME] for at in range(0, len(line) // FRAME * FRAME, FRAME)]


def begins(sound: Samples) -> list[int]:
    """The frames with which speech is found to begin."""
    activity, found, before = VoiceActivity(), [], False
    for number, frame in enumerate(frames(sound)):
        if activity.hear(frame) and not before:
            found.append(number)
        before = activity.speaking
    return found


@pytest.fixture(scope="module")
def speech() -> dict[str, Samples]:
    """By voice and text; and OURS by itself."""

    async def speak() -> dict[str, Samples]:
        wanted = [(f"{voice} {text}", text, voice) for voice in VOICES for text in TEXTS]
        async with engines.open_engine("espeak") as engine:
            return {
                name: floats(await spoken(engine, text, voice=voice)) / 32768
                for name, text, voice in [*wanted, (OURS, OURS, "default")]
            }

    return asyncio.run(speak())


@pytest.mark.parametrize(
    ("dbov", "noise", "snr_db", "missed", "median_ms", "most_ms"),
    [
        (-26, None, 0, 0, 80, 140),
        (-26, white, 20, 0, 80, 140),
        (-26, white, 15, 0, 100, 180),
        (-26, white, 5, 12, 260, 2000),
        (-26, pink, 20, 0, 80, 140),
        (-26, pink, 10, 0, 100, 180),
        (-26, car, 5, 0, 80, 140),
        (-36, None, 0, 0, 160, 420),
        (-20, pink, 15, 0, 80, 160),
    ],
)
def test_speech_is_found_soon_after_its_onset_and_not_before(
    speech: dict[str, Samples],
    dbov: float,
    noise: Noise | None,
    snr_db: float,
    missed: int,
    median_ms: float,
    most_ms: float,
) -> None:
    """`most_ms` is the 95th percentile."""
    delays: list[int] = []
    for name, words in speech.items():
        if name == OURS:
            continue
        said = at_active(words, dbov)
        scene = np.concatenate((np.zeros(LEAD), said, np.zeros(1600)))
        if noise is not None:
            scene = scene + at_level(noise(len(scene)), dbov - snr_db)
        found = begins(scene)
        assert not found or found[0] >= LEAD // 160, name
        delays += [(found[0] + 1 - LEAD // 160 - onset(said)) * 20] if found else []
    assert len(delays) >= len(TEXTS) * len(VOICES) - missed
    assert np.median(delays) <= median_ms
    assert np.percentile(delays, 95) <= most_ms


@pytest.mark.parametrize("dbov", [-60, -50, -40, -30, -20])
@pytest.mark.parametrize("noise", [white, pink, hum])
def test_steady_noise_of_any_level_is_no_speech_not_even_at_its_beginning(noise: Noise, dbov: float) -> None:
    assert begins(at_level(noise(30 * 8000), dbov)) == []


def test_comfort_noise_that_comes_and_goes_is_no_speech() -> None:
    noise = at_level(white(10 * 8000), -45)
    noise[np.arange(len(noise)) // 4000 % 2 == 0] = 0
    assert begins(noise) == []


def test_clicks_are_no_speech_however_many_and_loud() -> None:
    for apart_ms in (100, 150, 333):
        scene = at_level(white(10 * 8000), -60)
        for at in range(0, len(scene) - 160, apart_ms * 8):
            scene[at : at + 40] = 0.9 * (-1.0) ** np.arange(40)
        assert begins(scene) == [], apart_ms


def test_an_echo_25_db_down_is_not_the_caller_and_one_of_15_db_is(speech: dict[str, Samples]) -> None:
    ours = speech[OURS]
    assert round(active(ours)) == -19
    for loss_db, taken in ((15, True), (25, False), (35, False)):
        assert bool(begins(ours * 10 ** (-loss_db / 20))) is taken, loss_db


def test_speech_is_over_after_300_ms_of_quiet_and_begins_anew_after_that(speech: dict[str, Samples]) -> None:
    word = at_active(speech["default Stop."], -20)
    for pause_ms, count in ((0, 1), (800, 2)):
        scene = np.concatenate((np.zeros(LEAD), word, np.zeros(pause_ms * 8), word, np.zeros(LEAD)))
        scene = scene + at_level(white(len(scene)), -60)
        assert len(begins(scene)) == count, pause_ms
        activity = VoiceActivity()
        assert [activity.hear(frame) for frame in frames(scene)][-1] is False


def test_four_loud_frames_begin_speech_and_fifteen_quiet_ones_end_it() -> None:
    loud, quiet = frames(at_level(white(160), -20)), [bytes(FRAME)]
    activity = VoiceActivity()
    heard = [activity.hear(frame) for frame in quiet * 10 + loud * 4 + quiet * 15]
    assert heard == [False] * 13 + [True] * 15 + [False]
    # One quiet frame takes a loud one away.
    activity = VoiceActivity()
    heard = [activity.hear(frame) for frame in quiet * 10 + loud * 3 + quiet + loud + loud]
    assert heard == [False] * 15 + [True]


def test_a_higher_least_level_takes_only_louder_speech(speech: dict[str, Samples]) -> None:
    said = frames(np.concatenate((np.zeros(LEAD), at_active(speech["default Hello?"], -26))))
    for least_dbfs, taken in ((-40, True), (-12, False)):
        activity = VoiceActivity(least_dbfs=least_dbfs)
        assert any(activity.hear(frame) for frame in said) is taken


def test_the_level_is_that_of_the_telephone_band() -> None:
    at = np.arange(160) / 8000
    tone = (16384 * np.sin(2 * np.pi * 1000 * at)).astype(np.int16).tobytes()
    mains = (16384 * np.sin(2 * np.pi * 50 * at)).astype(np.int16).tobytes()
    # Half of full scale is -6 dB, and a sine 3 dB less.
    assert level_dbfs(tone) == pytest.approx(-9.03, abs=0.05)
    assert level_dbfs(mains) < -60
    assert level_dbfs(bytes(FRAME)) == SILENCE_DBFS
