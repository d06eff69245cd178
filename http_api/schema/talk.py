"""The WebSocket that text goes into as it is written, and speech comes from."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from .body import Body, SampleRate, has_no_null, suits
from .words import Language, SpeakerId, Speed

__all__ = ["TalkCancelled", "TalkDone", "TalkFlushed", "TalkMark", "TalkMessage", "TalkReady"]


class TalkMessage(Body):
    """What a client says on the WebSocket. Speaker, format, rate, speed and language are for its first message."""

    OPENING: ClassVar = frozenset({"speaker_id", "format", "sample_rate", "speed", "language"})

    text: Annotated[
        str,
        AfterValidator(has_no_null),
        Field(description="Some more text; a token, say.", examples=["Good morning, "]),
    ] = ""
    flush: Annotated[bool, Field(description="No more belongs to it: speak what is there now.")] = False
    cancel: Annotated[
        bool, Field(description="Be silent, and forget what was not spoken; then comes `text`, if there is any.")
    ] = False
    played_ms: Annotated[
        float | None,
        Field(
            ge=0,
            description="With `cancel`: how much of this connection's audio was heard. Left out: all that was sent.",
        ),
    ] = None
    end: Annotated[bool, Field(description="Nothing follows: speak what is left, and close.")] = False
    speaker_id: SpeakerId = "default"
    format: Literal["pcm", "mulaw", "alaw"] = "pcm"
    sample_rate: SampleRate = 8000
    speed: Speed = 1.0
    language: Language = ""

    @field_validator("sample_rate")
    @classmethod
    def _suits_the_format(cls, rate_hz: int, info: ValidationInfo) -> int:
        return suits(info.data.get("format"), rate_hz)

    @field_validator("played_ms")
    @classmethod
    def _is_of_a_cancel(cls, played_ms: float | None, info: ValidationInfo) -> float | None:
        if played_ms is not None and not info.data.get("cancel"):
            raise PydanticCustomError("played_without_cancel", "This field goes with cancel")
        return played_ms


class TalkReady(Body):
    """The first message was accepted."""

    type: Literal["ready"]
    speaker_id: str
    format: Literal["pcm", "mulaw", "alaw"]
    sample_rate: int
    model_version: str


class TalkMark(Body):
    """The audio from `audio_ms` on, until the next mark, says the text from `text_start` to `text_end`."""

    type: Literal["mark"]
    text_start: int
    text_end: int
    audio_ms: float


class TalkFlushed(Body):
    """All text up to the flush was said, and its audio sent."""

    type: Literal["flushed"]
    text_chars: int
    audio_ms: float


class TalkCancelled(Body):
    """No audio follows but for text that came after the cancel."""

    type: Literal["cancelled"]
    spoken_to: Annotated[
        int,
        Field(
            description="Where in the connection's text speech stopped, in characters and whole words. Within a "
            "passage that was not yet sent to its end, it is an estimate. Text that an earlier cancel forgot may lie "
            "before it."
        ),
    ]
    text_chars: Annotated[int, Field(description="Characters that had come.")]
    audio_ms: Annotated[float, Field(description="Audio that was sent.")]


class TalkDone(Body):
    """All was said; the connection is closed."""

    type: Literal["done"]
    text_chars: int
    audio_ms: float
