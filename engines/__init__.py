"""Speech engines: text in, PCM out as it is made.

    async with open_engine("espeak") as engine:
        async for pcm in engine.synthesize(Utterance(text="Hello.")):
            ...

espeak-ng (GPL-3.0) is loaded in worker processes only, never by a process that merely imports this package.
"""

from __future__ import annotations

from engines.engine import (
    Engine,
    EngineBusy,
    EngineError,
    EngineFailure,
    EngineState,
    Health,
    Pcm,
    Substitute,
    UnknownVoice,
    UnsuitableReference,
    UnsuitableUtterance,
    Unsupported,
    Utterance,
    Voice,
)
from engines.models import choose, download_model, examine_model, published_models
from engines.opening import ENGINES, open_engine
from engines.sentences import Arriving, speakable
from engines.ssml import at_marks

__all__ = [
    "ENGINES",
    "Arriving",
    "Engine",
    "EngineBusy",
    "EngineError",
    "EngineFailure",
    "EngineState",
    "Health",
    "Pcm",
    "Substitute",
    "UnknownVoice",
    "UnsuitableReference",
    "UnsuitableUtterance",
    "Unsupported",
    "Utterance",
    "Voice",
    "at_marks",
    "choose",
    "download_model",
    "examine_model",
    "open_engine",
    "published_models",
    "speakable",
]
