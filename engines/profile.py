"""A voice profile: what an engine that cannot clone a voice can still take over from a speaker."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Final, Self

from engines.engine import UnsuitableUtterance

__all__ = ["KIND", "VoiceProfile"]

KIND: Final = "voice-profile-1"
"""The `Engine.embedding_kind` of those engines whose embedding is a serialised `VoiceProfile`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VoiceProfile:
    """How a speaker speaks.

    median_f0_hz     pitch: the median of the fundamental frequency
    range_hz         liveliness: from the 10th to the 90th percentile of it
    syllables_per_s  rate, pauses left out
    """

    median_f0_hz: float
    range_hz: float
    syllables_per_s: float

    def figures(self) -> Mapping[str, float]:
        return asdict(self)

    def serialise(self) -> bytes:
        return json.dumps(asdict(self), separators=(",", ":")).encode()

    @classmethod
    def parse(cls, embedding: bytes) -> Self:
        """Raises UnsuitableUtterance when these are not the bytes of a profile."""
        try:
            fields = json.loads(embedding)
            profile = cls(**{name: float(value) for name, value in fields.items()})
        except (ValueError, TypeError, AttributeError):
            raise UnsuitableUtterance("the speaker's embedding is not a voice profile: enrol them anew") from None
        if not all(math.isfinite(value) and value >= 0 for value in asdict(profile).values()):
            raise UnsuitableUtterance("the speaker's voice profile holds a number that cannot be: enrol them anew")
        return profile
