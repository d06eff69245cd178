"""A recording is judged before anybody is enrolled with it, and a refusal says what to do."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from mediaserver.recording import UnfitRecording, judge
from tests.engines_support import piece, worker
from tests.speakers_support import RATE_HZ, somebody

Samples = npt.NDArray[np.int16]


def noise(seconds: float, level: float) -> Samples:
    return np.random.default_rng(7).normal(0, level, round(seconds * RATE_HZ)).astype(np.int16)


def sine(hz: float, seconds: float = 5.0, level: float = 9000) -> Samples:
    return np.rint(level * np.sin(2 * np.pi * hz * np.arange(round(seconds * RATE_HZ)) / RATE_HZ)).astype(np.int16)


def amplified(samples: Samples, by: float) -> Samples:
    return np.clip(np.rint(samples * by), -32768, 32767).astype(np.int16)


def word_in_silence() -> Samples:
    with worker("espeak") as (speaker, _):
        word, _ = speaker.speak(piece("Yes.", rate_hz=RATE_HZ))
    return np.concatenate([word, noise(12, 8)])[: 12 * RATE_HZ]


@pytest.mark.parametrize("by", [1.0, 0.2, 2.0])
@pytest.mark.parametrize("voice", ["en-us+f3", "en-us", "de+m3"])
def test_clean_speech_is_taken(voice: str, by: float) -> None:
    prosody = judge(amplified(somebody(voice), by).tobytes(), RATE_HZ, min_s=3)
    assert prosody.speech_s > 10


def test_speech_in_the_noise_of_an_office_is_taken() -> None:
    speech = somebody()
    judge((speech + noise(len(speech) / RATE_HZ, 300)[: len(speech)]).tobytes(), RATE_HZ, min_s=3)


@pytest.mark.parametrize(
    ("samples", "complaint"),
    [
        (lambda: somebody()[: 2 * RATE_HZ], r"^it lasts 2\.0 s; record at least 3 s of speech$"),
        (lambda: somebody()[:0], r"^it lasts 0\.0 s"),
        (lambda: np.zeros(5 * RATE_HZ, np.int16), "^it is silent; check that the right microphone is chosen"),
        (lambda: noise(5, 4), "^it is silent"),
        (word_in_silence, r"^0\.\d s of speech found in 12 s, and 2 s are needed; .*closer to the microphone"),
        (lambda: noise(10, 3000), r"^0\.\d s of speech found in 10 s"),
        (lambda: sine(220), "^it is a steady tone of 220 Hz; record somebody who speaks$"),
        (lambda: amplified(somebody(), 8), r"^it is clipped: \d+\.\d% of the samples .* turn the recording level down"),
        (lambda: amplified(somebody(), 0.01), r"^speech is too quiet, \d\d dB below full scale; turn .* level up"),
    ],
)
def test_what_will_not_do_is_refused_with_what_to_do(samples: object, complaint: str) -> None:
    with pytest.raises(UnfitRecording, match=complaint):
        judge(samples().tobytes(), RATE_HZ, min_s=3)  # type: ignore[operator]
