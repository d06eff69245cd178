"""A text that is spoken as one body, or as server-sent events."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from .body import Body, SampleRate, suits
from .words import Said, Speed

__all__ = ["SpeechFigures", "StreamRequest", "SynthesizeRequest"]


class SynthesizeRequest(Said):
    """Ask for a text to be spoken, as one body of audio. Exactly one of `text` and `ssml` is given."""

    format: Annotated[
        Literal["wav", "pcm", "mulaw", "alaw", "opus", "flac", "mp3"],
        Field(
            description="`wav`: a RIFF file of 16-bit PCM. `pcm`: signed 16-bit little-endian samples, bare. `mulaw`, "
            "`alaw`: ITU-T G.711, one octet a sample. `opus`: in Ogg. `flac`, `mp3`. All of it is mono."
        ),
    ] = "wav"
    sample_rate: Annotated[
        SampleRate,
        Field(description="Samples a second. G.711 has 8000 and no other (RFC 2046 section 4.3, RFC 3551)."),
    ] = 8000
    speed: Speed = 1.0
    seed: Annotated[
        int | None,
        Field(
            ge=0,
            le=2**32 - 1,
            description="Chooses one of the ways in which the engine may say it. An engine that says a text in one way "
            "only, as espeak does, says so with 400.",
        ),
    ] = None

    @field_validator("sample_rate")
    @classmethod
    def _suits_the_format(cls, rate_hz: int, info: ValidationInfo) -> int:
        return suits(info.data.get("format"), rate_hz)


class StreamRequest(SynthesizeRequest):
    """Ask for a text to be spoken, as server-sent events."""

    format: Annotated[
        Literal["pcm", "mulaw", "alaw", "opus", "flac", "mp3"],
        Field(
            description="`pcm`: signed 16-bit little-endian samples. `mulaw`, `alaw`: ITU-T G.711. `opus`, `flac`, "
            "`mp3`: the events' data, joined, is the file. There is no `wav`, since such a file begins with its length."
        ),
    ] = "pcm"
    chunk_size_ms: Annotated[
        int,
        Field(
            ge=20,
            le=1000,
            description="Speech in one audio event; the last has what is left. A format that writes pages of its own "
            "has fewer events and larger ones.",
        ),
    ] = 100


class SpeechFigures(Body):
    """How the speech was made: the data of `event: done`."""

    inference_time_ms: Annotated[float, Field(ge=0, description="Time spent waiting for the engine.")]
    audio_duration_ms: Annotated[float, Field(ge=0, description="How much speech came of it.")]
    rtf: Annotated[
        float, Field(ge=0, description="Real-time factor: inference time over audio duration; 0 when nothing came.")
    ]
    model_version: str
