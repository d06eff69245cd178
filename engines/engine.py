"""What an engine is: text in, PCM out as it is made.

An engine turns one `Utterance` into a stream of `Pcm` chunks. The chunks arrive at the rate that the utterance asks
for, because an engine knows best how to get there (on the device, in its worker process) and the event loop of the
host should not pay for it.

Errors, by who is to blame:

    EngineError
    ├── UnsuitableReference   the caller's: a recording that no embedding can be made of
    ├── UnsuitableUtterance   the caller's: blank text, broken SSML
    │   ├── UnknownVoice      the caller's: no such voice; the message names near ones
    │   └── Unsupported       the caller's: it asks for what this engine cannot do, another one might
    └── EngineFailure         ours: the synthesis broke and a retry did not help
        └── EngineBusy        ours: no capacity now; `retry_after_s` says when to ask again
"""

from __future__ import annotations

import enum
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = [
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
]

DEFAULT_VOICE = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Utterance:
    """One thing to be said.

    text       what to say: plain text, or an SSML document (W3C SSML 1.1) when `ssml` is true
    voice      an id out of `Engine.voices()`, or "default"
    language   BCP 47 tag such as "de" or "en-GB"; "" leaves it to the voice
    speed      speaking rate relative to the voice's own, 0.25 to 4.0
    seed       which of the ways in which an engine may say it; None for any
    rate_hz    sampling rate that the PCM is to have: 8000, 16000 or 24000
    continues  more will be said after it, so it ends with the pause that its last punctuation calls for
    embedding  of the speaker that the voice is to take after, as this engine's `enrol` made it; b"" for nobody
    """

    text: str
    ssml: bool = False
    voice: str = DEFAULT_VOICE
    language: str = ""
    speed: float = 1.0
    seed: int | None = None
    rate_hz: int = 8000
    embedding: bytes = b""
    continues: bool = False


@dataclass(frozen=True, slots=True)
class Pcm:
    """A chunk of speech: signed 16-bit mono samples in native byte order, `rate_hz` of them a second."""

    samples: bytes
    rate_hz: int

    @property
    def duration_ms(self) -> float:
        return len(self.samples) * 500 / self.rate_hz


@dataclass(frozen=True, slots=True)
class Substitute(Pcm):
    """A chunk that another engine has made, since the one that was asked could not: not to be kept as its speech."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Voice:
    """A voice that an engine can speak with; `language` is a BCP 47 tag."""

    id: str
    name: str
    language: str


class EngineState(enum.Enum):
    """Whether an engine can speak: not yet, now, or no more."""

    STARTING = "starting"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """How an engine is; `detail` is a sentence for an operator, empty when there is nothing to say.

    waiting  pieces of speech that no worker has begun
    late     times that a listener had heard everything before more of it was made, where the engine knows
    broken   utterances that the engine itself gave up
    """

    state: EngineState
    detail: str = ""
    workers: int = 0
    restarts: int = 0
    active: int = 0
    gpu_available: bool = False
    gpu_memory_bytes: int = 0
    waiting: int = 0
    late: int = 0
    broken: int = 0


class EngineError(Exception):
    """Base of everything that an engine raises."""


class UnsuitableReference(EngineError):
    """Nothing can be learnt of a speaker from this recording; the message says why."""


class UnsuitableUtterance(EngineError):
    """The utterance cannot be spoken as it stands; the message says what to change."""


class UnknownVoice(UnsuitableUtterance):
    """There is no such voice."""


class Unsupported(UnsuitableUtterance):
    """This engine cannot do what `field` of the utterance asks for."""

    def __init__(self, message: str, *, field: str) -> None:
        super().__init__(message)
        self.field = field


class EngineFailure(EngineError):
    """The engine broke while speaking, and trying again did not help."""


class EngineBusy(EngineFailure):
    """No capacity now; ask again after `retry_after_s` seconds."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Engine(Protocol):
    """An engine, already started. Made by an async context manager that also ends it."""

    @property
    def name(self) -> str:
        """Short name as in the configuration, such as "espeak"."""

    @property
    def version(self) -> str:
        """Model or library version; part of what a cache of speech is keyed by."""

    @property
    def cloning(self) -> bool:
        """Whether an enrolled speaker is recognised by ear. Otherwise only the manner of speaking is taken over."""

    @property
    def embedding_kind(self) -> str:
        """What `enrol` makes, such as "voice-profile-1". Another kind means that old embeddings are of no use."""

    def voices(self) -> Sequence[Voice]:
        """Every voice, the default one first."""

    def health(self) -> Health:
        """How the engine is at this moment. Never blocks."""

    def check(self, utterance: Utterance) -> None:
        """Raise UnsuitableUtterance (or UnknownVoice) at once if `synthesize` would refuse it. Never blocks."""

    def describe(self) -> Mapping[str, object]:
        """What a `RemoteEngine` on another machine has to know to stand for this one, as JSON has it."""

    async def enrol(self, samples: bytes, rate_hz: int) -> bytes:
        """The embedding of a speaker, out of a recording of some seconds: signed 16-bit mono samples in native order.

        The bytes are for this engine alone; they may be kept, and mean the same on every machine.
        Raises UnsuitableReference, EngineFailure.
        """

    def figures(self, embedding: bytes) -> Mapping[str, float]:
        """What an embedding says in numbers that mean something to people; empty if it is a mere vector.

        Raises UnsuitableUtterance for what `enrol` did not make. Never blocks.
        """

    def synthesize(self, utterance: Utterance) -> AsyncGenerator[Pcm, None]:
        """Speak; chunks come as they are made. Closing the generator stops the work.

        Raises UnsuitableUtterance before the first chunk, EngineFailure at any time.
        """
