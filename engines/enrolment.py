"""A speaker's recording made into the embedding of an engine that cannot clone: a voice profile."""

from __future__ import annotations

import asyncio

from engines.engine import UnsuitableReference
from engines.profile import VoiceProfile
from engines.prosody import measure

__all__ = ["enrol"]

LEAST_SPEECH_S = 1.0


async def enrol(samples: bytes, rate_hz: int) -> bytes:
    """The embedding, computed in a thread. Raises UnsuitableReference when too little is voiced to be measured."""
    prosody = await asyncio.to_thread(measure, samples, rate_hz)
    if prosody.speech_s < LEAST_SPEECH_S:
        raise UnsuitableReference(
            f"{prosody.speech_s:g} s of speech found; at least {LEAST_SPEECH_S:g} s are needed to measure a voice"
        )
    return VoiceProfile(
        median_f0_hz=prosody.median_f0_hz,
        range_hz=prosody.range_hz,
        syllables_per_s=prosody.syllables_per_s,
    ).serialise()
