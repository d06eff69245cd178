"""What is said and played in a call, and what may break in on it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from .body import Body, Line, is_printable
from .clips import AudioUpload
from .words import SpeakerId, Wording

__all__ = [
    "BargeIn",
    "Mode",
    "PlayRequest",
    "PlayUpload",
    "Repeat",
    "SayRequest",
    "TextMark",
    "TextMarks",
    "UtteranceReport",
]


def _differ(values: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(values)) < len(values):
        raise PydanticCustomError("unique", "No value should come twice")
    return values


BargeIn = Annotated[
    tuple[Literal["dtmf", "speech"], ...],
    Field(
        strict=False,
        max_length=2,
        json_schema_extra={"uniqueItems": True},
        description="What the peer may break in with: by a key (`dtmf`), by speaking (`speech`). What is being said "
        "stops then within 20 ms, and what waits is dropped where the same may break in on it; the rest is said. A "
        "call that is to hang up when all is said does so then too.",
        examples=[["dtmf"]],
    ),
    AfterValidator(_differ),
]


class TextMark(Body):
    """A place in a text; what happens to the call tells when speech has come to it."""

    name: Annotated[str, Field(min_length=1, max_length=64, examples=["price"]), AfterValidator(is_printable)]
    at: Annotated[int, Field(ge=0, description="Characters (Unicode code points) before it.", examples=[11])]


def _lie_in_text(marks: tuple[TextMark, ...], info: ValidationInfo) -> tuple[TextMark, ...]:
    text = info.data.get("text") or info.data.get("say")
    if marks and info.data.get("ssml") is not None:
        raise PydanticCustomError("marks_in_ssml", "An SSML document should have its marks in it: <mark name=.../>")
    if text is not None and any(mark.at > len(text) for mark in marks):
        raise PydanticCustomError("mark_beyond_text", "No mark should lie behind the end of the text")
    return marks


TextMarks = Annotated[
    tuple[TextMark, ...],
    Field(
        strict=False,
        max_length=100,
        description='Of `text`; an `ssml` has `<mark name="..."/>` in it. The event `speech.mark` comes when the audio '
        "behind it is being sent. What is between two of them is spoken by itself, so they are best between clauses.",
    ),
    AfterValidator(_lie_in_text),
]
Mode = Annotated[
    Literal["queue", "interrupt"],
    Field(description="`queue`: after all else. `interrupt`: at once, and all else is dropped."),
]
Repeat = Annotated[int, Field(ge=0, le=100, description="How often; 0: until something ends it.")]


class SayRequest(Wording):
    """Ask for something to be said in a call. Exactly one of `text` and `ssml` is given."""

    speaker_id: Annotated[
        SpeakerId | None, Field(description="Left out, it is the speaker with whom the call began.")
    ] = None
    mode: Annotated[
        Literal["queue", "interrupt"],
        Field(description="`queue`: after all else. `interrupt`: at once, and all else is dropped."),
    ] = "queue"
    barge_in: BargeIn = ()
    marks: TextMarks = ()


class PlayRequest(Body):
    """Ask for audio to be played in a call. Exactly one of `url` and `clip_id` is given."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"required": ["url"], "properties": {"url": {"type": "string"}}},
                {"required": ["clip_id"], "properties": {"clip_id": {"type": "string"}}},
            ]
        }
    )

    url: Annotated[
        str | None,
        Field(
            max_length=2048,
            pattern="^https?://[!-~]+$",
            description="Where it is, on a host of `fetch.allow_hosts`.",
            examples=["https://prompts.example.com/welcome.wav"],
        ),
    ] = None
    clip_id: Annotated[Line | None, Field(validate_default=True, description="Of `/v1/clips`.")] = None
    repeat: Repeat = 1
    mode: Mode = "queue"
    barge_in: BargeIn = ()

    @field_validator("clip_id")
    @classmethod
    def _is_instead_of_url(cls, clip_id: str | None, info: ValidationInfo) -> str | None:
        if "url" in info.data and (clip_id is None) == (info.data["url"] is None):
            raise PydanticCustomError("url_or_clip_id", "Exactly one of url and clip_id should be given")
        return clip_id


class PlayUpload(Body):
    """Ask for audio to be played in a call. As multipart/form-data (RFC 7578), each field in a part of its own."""

    file: AudioUpload
    repeat: Annotated[Repeat, Field(strict=False)] = 1
    mode: Mode = "queue"
    barge_in: Annotated[
        str | None,
        Field(
            pattern="^(dtmf|speech|dtmf,speech|speech,dtmf)$",
            description="As in JSON, joined by a comma.",
            examples=["dtmf,speech"],
        ),
    ] = None


class UtteranceReport(Body):
    """Something that a call says, and how far it has come."""

    id: Annotated[str, Field(examples=["utt_0123456789abcdef"])]
    state: Annotated[
        Literal["queued", "speaking", "spoken", "interrupted", "failed"],
        Field(
            description="`queued` comes first, then `speaking`. `spoken`: to its end. `interrupted`: by other words, "
            "by the peer, by `/stop`, or by the end of the call. `failed`: the engine could not make it."
        ),
    ]
    text: Annotated[str | None, Field(description="Null if it is a recording.")]
    ssml: Annotated[bool, Field(description="Whether the text is an SSML document.")]
    speaker_id: str | None
    spoken_ms: Annotated[int, Field(description="How much of it has been sent to the peer.")]
    last_mark: Annotated[str | None, Field(description="Name of the mark that speech has come to last.")]
    barged_in_by: Annotated[
        Literal["dtmf", "speech"] | None, Field(description="What interrupted it, if the peer did: see `barge_in`.")
    ]
