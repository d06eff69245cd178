"""The WebSocket with the audio of a call, in words of its own and in those of Twilio's Media Streams."""

from __future__ import annotations

from typing import Annotated, Literal, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from .body import Body, Codec, SampleRate, suits

__all__ = [
    "LineCleared",
    "LineDigit",
    "LineMark",
    "LineMessage",
    "LineQuery",
    "LineStart",
    "LineStop",
    "MarkName",
    "TwilioMark",
    "TwilioMedia",
    "TwilioMessage",
]


def _number(value: object) -> object:
    """A rate as a parameter of a path has it, which is text."""
    return {str(rate_hz): rate_hz for rate_hz in get_args(SampleRate)}.get(str(value), value)


class LineQuery(Body):
    """How to listen to a call, and to speak into it."""

    protocol: Annotated[
        Literal["plain", "twilio"],
        Field(
            description="`plain`: audio in binary messages, the rest in JSON. `twilio`: all of it in JSON, as Twilio's "
            "Media Streams have it, with the call's id for `streamSid` and `callSid`."
        ),
    ] = "plain"
    direction: Annotated[
        Literal["both", "listen", "speak"],
        Field(description="Any number may listen to a call; one at a time may speak."),
    ] = "both"
    format: Annotated[
        Literal["pcm", "mulaw", "alaw"] | None,
        Field(
            description="Of the audio, both ways. `pcm`: signed 16-bit little-endian samples. `mulaw`, `alaw`: ITU-T "
            "G.711, which is passed on octet for octet if the call speaks it. Left out: `pcm`, and `mulaw` for "
            "`twilio`, which has nothing else."
        ),
    ] = None
    sample_rate: Annotated[SampleRate, BeforeValidator(_number), Field(description="Of both ways.")] = 8000
    buffer_ms: Annotated[
        int,
        Field(
            ge=0,
            le=1000,
            description="So much of what is spoken is gathered before it is heard, or for so long: this much jitter "
            "of a client that speaks in real time is made up for.",
        ),
    ] = 60

    @field_validator("format")
    @classmethod
    def _suits_the_protocol(cls, format: str | None, info: ValidationInfo) -> str | None:
        if info.data.get("protocol") == "twilio" and format not in (None, "mulaw"):
            raise PydanticCustomError("format_of_protocol", "Protocol twilio has the format mulaw and no other")
        return format

    @field_validator("sample_rate")
    @classmethod
    def _suits_the_format(cls, rate_hz: int, info: ValidationInfo) -> int:
        twilio = info.data.get("protocol") == "twilio"
        return suits("mulaw" if twilio else info.data.get("format"), rate_hz)

    @property
    def coding(self) -> Literal["pcm", "mulaw", "alaw"]:
        """The format, whether or not it was said."""
        return self.format or ("mulaw" if self.protocol == "twilio" else "pcm")


MarkName = Annotated[str, Field(min_length=1, max_length=256, examples=["greeting"])]


class LineMessage(Body):
    """What a client says beside audio."""

    type: Annotated[
        Literal["mark", "clear"],
        Field(
            description="`mark`: tell when all audio that came before has been sent to the peer. `clear`: be silent, "
            "and drop what was not sent."
        ),
    ]
    name: Annotated[MarkName | None, Field(description="With `mark`.")] = None

    @model_validator(mode="after")
    def _names_what_it_marks(self) -> Self:
        if (self.type == "mark") != (self.name is not None):
            raise PydanticCustomError("name_of_mark", "Name goes with mark, and mark with a name")
        return self


class LineStart(Body):
    """The call is up: audio follows, and is taken."""

    model_config = ConfigDict(serialize_by_alias=True, validate_by_name=True)

    type: Literal["start"]
    call_id: str
    direction: Annotated[Literal["inbound", "outbound"], Field(description="Of the call.")]
    caller: Annotated[str, Field(alias="from")]
    callee: Annotated[str, Field(alias="to")]
    codec: Annotated[Codec, Field(description="That the call speaks.")]
    format: Literal["pcm", "mulaw", "alaw"]
    sample_rate: int
    frame_ms: Annotated[int, Field(description="How much audio each binary message has.")]


class LineMark(Body):
    """All audio before the mark has been sent to the peer."""

    type: Literal["mark"]
    name: str


class LineCleared(Body):
    """Audio was dropped: by `clear`, or because something else interrupted it, such as `/stop`."""

    type: Literal["cleared"]
    marks: Annotated[tuple[str, ...], Field(description="Those that are not reached, and will not be.")]
    played_ms: Annotated[int, Field(description="How much of this connection's audio has been sent in all.")]


class LineDigit(Body):
    """The peer has keyed a digit."""

    type: Literal["dtmf"]
    digit: Annotated[str, Field(description="0 to 9, `*`, `#`, A to D, or `!` for a hook flash.")]


class LineStop(Body):
    """The call is over, or never came up; the connection is closed."""

    type: Literal["stop"]
    call_id: str


class TwilioMedia(BaseModel):
    """Audio in Twilio's words."""

    payload: str


class TwilioMark(BaseModel):
    """A mark in Twilio's words."""

    name: MarkName


class TwilioMessage(BaseModel):
    """What a client of Twilio's Media Streams says; what else is in it does not matter."""

    event: Literal["media", "mark", "clear"]
    media: TwilioMedia | None = None
    mark: TwilioMark | None = None
