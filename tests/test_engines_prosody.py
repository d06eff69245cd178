"""How somebody speaks is measured, and an engine that cannot clone takes it over."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest

from engines import Engine, UnsuitableReference, UnsuitableUtterance, Utterance, open_engine, tone
from engines.espeak import settings_of
from engines.profile import VoiceProfile
from engines.prosody import Prosody, measure
from tests.engines_support import PRACTICE, piece, say, share_at, worker

RATE_HZ = 24000


def hum(hz: float, *, seconds: float = 3.0, rate_hz: int = 8000, glide_hz: float = 0.0, level: float = 0.3) -> bytes:
    """Ten harmonics, as a larynx makes them; the pitch swings by `glide_hz` once in a second."""
    at_s = np.arange(round(seconds * rate_hz)) / rate_hz
    pitch = hz + glide_hz / 2 * np.sin(2 * np.pi * at_s)
    phase = 2 * np.pi * np.cumsum(pitch) / rate_hz
    wave = sum(np.sin(phase * n) / n for n in range(1, 11) if hz * n < rate_hz / 2)
    return np.rint(32767 * level * wave / np.abs(wave).max()).astype(np.int16).tobytes()


def silence(seconds: float, rate_hz: int = 8000) -> bytes:
    return bytes(2 * round(seconds * rate_hz))


@pytest.mark.parametrize("hz", [60.0, 85.0, 120.0, 178.0, 220.0, 310.0, 440.0])
def test_the_pitch_of_a_voice_is_found_within_half_a_percent(hz: float) -> None:
    assert measure(hum(hz), 8000).median_f0_hz == pytest.approx(hz, rel=0.005)
    assert measure(hum(hz, rate_hz=RATE_HZ), RATE_HZ).median_f0_hz == pytest.approx(hz, rel=0.005)


def test_the_range_is_that_between_the_tenth_and_the_ninetieth_percentile() -> None:
    # Of a sine, those are at sin(0.4 pi) of its amplitude.
    measured = measure(hum(150, glide_hz=40, seconds=5), 8000)
    assert measured.range_hz == pytest.approx(40 * np.sin(0.4 * np.pi), rel=0.05)
    assert measure(hum(150), 8000).range_hz < 0.2


def test_noise_and_silence_are_not_speech() -> None:
    noise = np.random.default_rng(1).normal(0, 3000, 80_000).astype(np.int16).tobytes()
    for samples in (noise, silence(3), b"", silence(0.01)):
        measured = measure(samples, 8000)
        assert (measured.speech_s, measured.median_f0_hz, measured.syllables_per_s) == (0, 0, 0)


def test_syllables_are_counted_and_pauses_are_no_speech() -> None:
    syllables = (hum(120, seconds=0.16) + silence(0.04)) * 12
    measured = measure(silence(2) + syllables + silence(3) + syllables + silence(1), 8000)
    assert measured.speech_s == pytest.approx(4.8, abs=0.2)
    assert measured.syllables_per_s == pytest.approx(5.0, rel=0.08)


def test_the_level_is_that_of_the_speech_alone() -> None:
    loud = measure(hum(120), 8000).speech_level_db
    assert measure(hum(120) + silence(20), 8000).speech_level_db == pytest.approx(loud, abs=0.3)
    assert measure(hum(120, level=0.03), 8000).speech_level_db == pytest.approx(loud - 20, abs=0.2)


def profile_of(prosody: Prosody) -> VoiceProfile:
    return VoiceProfile(
        median_f0_hz=prosody.median_f0_hz, range_hz=prosody.range_hz, syllables_per_s=prosody.syllables_per_s
    )


@pytest.mark.parametrize(
    ("voice", "options"),
    [
        ("en-us", {"pitch": 30, "pitch_range": 40, "words_per_minute": 140}),
        ("en-us", {"pitch": 70, "pitch_range": 70, "words_per_minute": 220}),
        ("en-us+f2", {"pitch": 45, "pitch_range": 30, "words_per_minute": 160}),
        ("en-us+f3", {"pitch": 60, "pitch_range": 50, "words_per_minute": 175}),
    ],
)
def test_espeak_takes_over_pitch_range_and_rate_of_a_speaker(voice: str, options: dict[str, int]) -> None:
    """What is spoken by the profile of a recording measures as the recording does."""
    with worker("espeak", **options) as (speaker, _):
        recording, _ = speaker.speak(piece(PRACTICE, voice=voice))
    wanted = measure(recording.tobytes(), 8000)
    with worker("espeak") as (engine, _):
        embedding = base64_of(profile_of(wanted))
        spoken, _ = engine.speak(piece(PRACTICE, embedding=embedding))
    got = measure(spoken.tobytes(), 8000)
    assert got.median_f0_hz == pytest.approx(wanted.median_f0_hz, rel=0.07)  # 1.2 semitones
    assert got.range_hz == pytest.approx(wanted.range_hz, rel=0.2)
    assert got.syllables_per_s == pytest.approx(wanted.syllables_per_s, rel=0.12)


def base64_of(profile: VoiceProfile) -> str:
    return base64.b64encode(profile.serialise()).decode()


@pytest.mark.parametrize(
    ("profile", "expected"),
    [
        (VoiceProfile(median_f0_hz=98, range_hz=31, syllables_per_s=4.26), (175, 50, 50, "")),
        (VoiceProfile(median_f0_hz=188, range_hz=64, syllables_per_s=4.26), (175, 50, 50, "f2")),
        (VoiceProfile(median_f0_hz=30, range_hz=0, syllables_per_s=0), (100, 0, 0, "")),
        (VoiceProfile(median_f0_hz=500, range_hz=400, syllables_per_s=12), (300, 99, 99, "f2")),
    ],
)
def test_a_profile_becomes_parameters_within_what_the_library_takes(
    profile: VoiceProfile, expected: tuple[int, int, int, str]
) -> None:
    settings, timbre = settings_of(profile)
    assert (settings.words_per_minute, settings.pitch, settings.pitch_range, timbre) == expected


def test_a_variant_that_was_asked_for_is_kept() -> None:
    with worker("espeak") as (engine, _):
        embedding = base64_of(VoiceProfile(median_f0_hz=188, range_hz=64, syllables_per_s=4.26))
        asked, _ = engine.speak(piece("Hello there.", voice="en-us+f3", embedding=embedding))
        own, _ = engine.speak(piece("Hello there.", voice="en-us+f2", embedding=embedding))
        left, _ = engine.speak(piece("Hello there.", voice="en-us", embedding=embedding))
    assert left.tobytes() == own.tobytes() != asked.tobytes()


async def tone_engine() -> Engine:
    return await open_engine("tone", workers=0).__aenter__()


async def test_an_engine_enrols_a_speaker_and_tells_its_figures() -> None:
    engine = await tone_engine()
    assert (engine.cloning, engine.embedding_kind) == (False, "voice-profile-1")
    embedding = await engine.enrol(hum(200, rate_hz=RATE_HZ), RATE_HZ)
    assert engine.figures(embedding)["median_f0_hz"] == pytest.approx(200, rel=0.005)
    assert await engine.enrol(hum(200, rate_hz=RATE_HZ), RATE_HZ) == embedding
    samples = np.frombuffer(await say(engine, "x" * 50, embedding=embedding), np.int16)
    assert share_at(samples, 8000, 195, 205) > 0.99
    assert samples.tobytes() == tone.samples("x" * 50, embedding=embedding).tobytes()


@pytest.mark.parametrize("samples", [b"", silence(5), hum(120, seconds=0.5) + silence(4)])
async def test_a_recording_with_too_little_speech_is_refused(samples: bytes) -> None:
    engine = await tone_engine()
    with pytest.raises(UnsuitableReference, match=r"s of speech found; at least 1 s are needed"):
        await engine.enrol(samples, 8000)


GOOD = {"median_f0_hz": 100.0, "range_hz": 20.0, "syllables_per_s": 4.0}


@pytest.mark.parametrize(
    "embedding",
    [
        b"\x00\x01",
        b"[]",
        b"null",
        b"{}",
        b'{"median_f0_hz": 100}',
        json.dumps(GOOD | {"more": 1}).encode(),
        json.dumps(GOOD | {"range_hz": None}).encode(),
        json.dumps(GOOD | {"range_hz": float("nan")}).encode(),
        json.dumps(GOOD | {"range_hz": -1}).encode(),
    ],
)
async def test_what_is_no_voice_profile_is_refused_before_anything_is_said(embedding: bytes) -> None:
    engine = await tone_engine()
    with pytest.raises(UnsuitableUtterance, match="enrol them anew"):
        engine.check(Utterance(text="Hello", embedding=embedding))
    with pytest.raises(UnsuitableUtterance, match="enrol them anew"):
        engine.figures(embedding)


def test_a_profile_survives_its_serialisation() -> None:
    profile = VoiceProfile(**GOOD)
    assert VoiceProfile.parse(profile.serialise()) == profile
