"""Speech in the words of OpenAI's API."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator
from pydantic_core import PydanticCustomError

from .body import Body, has_no_null
from .words import SpeakerId, Speed, can_be_spoken

__all__ = [
    "OpenAiError",
    "OpenAiFault",
    "OpenAiModel",
    "OpenAiModelList",
    "OpenAiSpeechDelta",
    "OpenAiSpeechDone",
    "OpenAiSpeechRequest",
    "OpenAiUsage",
    "OpenAiVoice",
]


class OpenAiVoice(Body):
    """A speaker by its id, as OpenAI's clients name one that is not built in."""

    id: SpeakerId


class OpenAiSpeechRequest(Body):
    """Ask for a text to be spoken, in OpenAI's words."""

    model: Annotated[
        str, Field(min_length=1, max_length=128, description="One of `GET /v1/models`.", examples=["tts-1"])
    ]
    input: Annotated[
        str,
        Field(min_length=1, max_length=4096, description="What to say.", examples=["Hello, world."]),
        AfterValidator(can_be_spoken),
        AfterValidator(has_no_null),
    ]
    voice: Annotated[
        SpeakerId | OpenAiVoice,
        Field(
            union_mode="left_to_right",
            description="A speaker of this server. OpenAI's own voices are the default speaker.",
            examples=["alloy", "en-gb-x-rp", {"id": "en-us+f3"}],
        ),
    ]
    instructions: Annotated[
        Literal[""] | None, Field(description="How to say it: not supported by this engine, so leave it out.")
    ] = None
    response_format: Annotated[
        Literal["mp3", "opus", "flac", "wav", "pcm", "mulaw", "alaw"],
        Field(description="As `format` of `/v1/synthesize`. There is no `aac`."),
    ] = "mp3"
    speed: Speed = 1.0
    stream_format: Annotated[
        Literal["audio", "sse"], Field(description="`audio`: one body. `sse`: server-sent events.")
    ] = "audio"
    stream: Annotated[
        bool | None,
        Field(
            description="Of one body. `true`: it begins with the first sound. `false`: it comes as a whole. Left out: "
            "it begins with the first sound, or a moment later where its head can then tell the length."
        ),
    ] = None

    @field_validator("response_format", mode="before")
    @classmethod
    def _is_written_here(cls, format: object) -> object:
        if format == "aac":
            raise PydanticCustomError("format_unsupported", "AAC is not supported: ask for mp3, opus, flac or wav")
        return format

    @field_validator("instructions", mode="before")
    @classmethod
    def _are_not_supported(cls, instructions: object) -> object:
        if isinstance(instructions, str) and instructions:
            raise PydanticCustomError("instructions_unsupported", "Not supported by this engine: leave it out")
        return instructions


class OpenAiModel(Body):
    """One name that `model` may be."""

    id: str
    object: Literal["model"]
    created: Annotated[int, Field(description="When this server started, in seconds since 1970.")]
    owned_by: str


class OpenAiModelList(Body):
    """All that `model` may be."""

    object: Literal["list"]
    data: tuple[OpenAiModel, ...]


class OpenAiSpeechDelta(Body):
    """An event with the next piece of the file."""

    type: Literal["speech.audio.delta"]
    audio: Annotated[str, Field(description="Base64.")]


class OpenAiUsage(Body):
    """Nothing is counted in tokens here, so it is 0."""

    input_tokens: int
    output_tokens: int
    total_tokens: int


class OpenAiSpeechDone(Body):
    """The last event."""

    type: Literal["speech.audio.done"]
    usage: OpenAiUsage


class OpenAiFault(Body):
    """What is wrong, and with which parameter."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAiError(Body):
    """An error in OpenAI's form."""

    error: OpenAiFault
