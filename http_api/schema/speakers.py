"""Speakers that are enrolled."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, Field, RootModel, WithJsonSchema
from pydantic_core import PydanticCustomError

from .body import Body

__all__ = [
    "SpeakerChange",
    "SpeakerDetails",
    "SpeakerEmbedding",
    "SpeakerList",
    "SpeakerName",
    "SpeakerReport",
    "SpeakerUpload",
]


def _is_one_line(value: str) -> str:
    if not value.strip() or not value.isprintable():
        raise PydanticCustomError("one_line", "Name should be one line of printable text")
    return value


SpeakerName = Annotated[
    str,
    Field(min_length=1, max_length=100, description="For people; it need not be unique.", examples=["Ada"]),
    AfterValidator(_is_one_line),
]


class SpeakerUpload(Body):
    """Enrol a speaker. As multipart/form-data (RFC 7578), each field in a part of its own."""

    file: Annotated[
        bytes,
        WithJsonSchema({"type": "string", "contentMediaType": "application/octet-stream"}),
        Field(
            description="Ten seconds or more of one person's speech, in any common audio format, without music or "
            "other people."
        ),
    ]
    name: SpeakerName
    consent: Annotated[
        str | None,
        Field(
            max_length=2000,
            description="Who agreed, and when, that this voice may be used. Kept and given back as it is.",
            examples=["Ada Lovelace, in writing, 2026-11-25"],
        ),
    ] = None


class SpeakerChange(Body):
    """Change what is known of a speaker."""

    name: SpeakerName


class SpeakerReport(Body):
    """What is known of a speaker."""

    id: Annotated[str, Field(description="To be given as `speaker_id`.", examples=["spk_5f0c9be2a1d84e7791c3a6b8"])]
    name: str
    consent: str | None
    created_at: datetime
    engine: str
    cloning: Annotated[
        bool,
        Field(
            description="Whether the engine speaks with the speaker's own voice. Otherwise one of the engine's takes "
            "over pitch, range and rate."
        ),
    ]
    duration_s: Annotated[float, Field(description="Seconds of the recording.")]
    speech_s: Annotated[float, Field(description="Seconds of speech in it.")]
    level_db: Annotated[float, Field(description="Level of that speech, in dB relative to full scale.")]


class SpeakerEmbedding(Body):
    """What the engine made of the recording."""

    kind: Annotated[str, Field(examples=["voice-profile-1"])]
    data: Annotated[str, WithJsonSchema({"type": "string", "contentEncoding": "base64"})]
    figures: Annotated[
        dict[str, float],
        Field(
            description="The embedding in numbers that people understand, if it can be told in such.",
            examples=[{"median_f0_hz": 118.2, "range_hz": 41.0, "syllables_per_s": 4.4}],
        ),
    ]


class SpeakerDetails(SpeakerReport):
    """What is known of a speaker, with the embedding."""

    embedding: SpeakerEmbedding


class SpeakerList(RootModel[tuple[SpeakerReport, ...]]):
    """All speakers, in the order in which they were enrolled."""
