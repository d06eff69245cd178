"""Whether a recording is good enough to enrol a speaker with; if not, what to do about it."""

from __future__ import annotations

from typing import Final

import numpy as np

from engines.prosody import Prosody, measure

__all__ = ["UnfitRecording", "judge"]

LEAST_SPEECH_S: Final = 2.0

SILENT_DB: Final = -60.0
"""A peak below it: the microphone was muted."""

QUIET_DB: Final = -42.0
"""Speech below it is closer to the noise of its own quantisation and of a room than a voice should be."""

CLIPPED_SHARE: Final = 0.002
"""Of the samples within 2 % of the highest ones: in clean speech it is below 0.0003."""

LOUD: Final = 0.7
"""Of full scale: with lower peaks nothing was clipped, at least not here."""

STEADY_HZ: Final = 1.0
"""The pitch of speech ranges over more than that even in a monotone."""


class UnfitRecording(Exception):
    """It will not do; the message says what is wrong, and what to do."""


def judge(samples: bytes, rate_hz: int, *, min_s: float) -> Prosody:
    """The measures of a recording in signed 16-bit mono samples that lasts `min_s` seconds at least.

    Raises UnfitRecording. Takes some 10 ms for each second of sound.
    """
    duration_s = len(samples) / 2 / rate_hz
    if duration_s < min_s:
        raise UnfitRecording(f"it lasts {duration_s:.1f} s; record at least {min_s:g} s of speech")
    levels = np.abs(np.frombuffer(samples, np.int16).astype(np.float32)) / 32768
    peak = float(levels.max())
    if peak < 10 ** (SILENT_DB / 20):
        raise UnfitRecording("it is silent; check that the right microphone is chosen and not muted")
    prosody = measure(samples, rate_hz)
    if prosody.speech_s < LEAST_SPEECH_S:
        raise UnfitRecording(
            f"{prosody.speech_s:.1f} s of speech found in {duration_s:.0f} s, and {LEAST_SPEECH_S:g} s are needed; "
            "speak without long pauses, closer to the microphone, in a quiet room without music"
        )
    if prosody.range_hz < STEADY_HZ:
        raise UnfitRecording(f"it is a steady tone of {prosody.median_f0_hz:.0f} Hz; record somebody who speaks")
    clipped = float(np.mean(levels > 0.98 * peak))
    if peak > LOUD and clipped > CLIPPED_SHARE:
        raise UnfitRecording(
            f"it is clipped: {clipped:.1%} of the samples are at its highest level; turn the recording level down, "
            "or speak further from the microphone"
        )
    if prosody.speech_level_db < QUIET_DB:
        raise UnfitRecording(
            f"speech is too quiet, {-prosody.speech_level_db:.0f} dB below full scale; turn the recording level up, "
            f"or speak closer to the microphone, so that it is at most {-QUIET_DB:.0f} dB below"
        )
    return prosody
