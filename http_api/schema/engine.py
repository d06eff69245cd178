"""An engine, its voices, and what it is asked for by another server."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from .body import Body, SampleRate
from .words import Language, SpeakerId, Speed, Words

__all__ = ["EmbeddingReport", "EmbeddingRequest", "EngineDescription", "EngineRequest", "VoiceList", "VoiceReport"]


class VoiceReport(Body):
    """A voice of the engine."""

    id: Annotated[str, Field(description="To be given as `speaker_id`.", examples=["en-gb-x-rp"])]
    name: Annotated[str, Field(examples=["English (Received Pronunciation)"])]
    language: Annotated[str, Field(description="BCP 47 tag.", examples=["en-gb-x-rp"])]


class VoiceList(Body):
    """All voices of the engine, the default one first."""

    engine: str
    voices: tuple[VoiceReport, ...]


class EngineDescription(Body):
    """An engine, as another server has to know it to send it texts and to refuse what it would refuse."""

    name: Annotated[str, Field(examples=["espeak"])]
    version: Annotated[str, Field(examples=["espeak-ng 1.52.0"])]
    concurrency: Annotated[int, Field(description="Texts at a time in one of its processes.")]
    ssml: Annotated[bool, Field(description="Whether it understands SSML.")]
    source_rate_hz: Annotated[int, Field(description="Of the samples that it makes itself; 0: any.")]
    piece_characters: Annotated[int, Field(description="So many characters are spoken in one go.")]
    voices: Annotated[tuple[VoiceReport, ...], Field(description="The default one first.")]
    variants: Annotated[tuple[str, ...], Field(description="Timbres that go with every voice, as `voice+variant`.")]
    languages: Annotated[dict[str, str], Field(description="The voice that speaks it best, by BCP 47 tag.")]
    cloning: Annotated[bool, Field(description="Whether an enrolled speaker is recognised by ear.")]
    embedding_kind: Annotated[str, Field(description="What an embedding has to be.", examples=["voice-profile-1"])]
    speeds: Annotated[tuple[float, float], Field(description="That it speaks by itself, relative to a voice's own.")]
    enrolled_speeds: Annotated[tuple[float, float], Field(description="The same for enrolled speakers.")]
    seeds: Annotated[bool, Field(description="Whether it can say a text in more than one way.")]
    even: Annotated[bool, Field(description="Whether it wants texts in long pieces of about the same length.")]
    tags: Annotated[
        tuple[str, ...] | None, Field(description="Words in brackets that it does instead of reading them, if any.")
    ]
    queues: Annotated[bool, Field(description="Whether texts beyond its concurrency wait instead of being refused.")]
    notice: Annotated[str, Field(description="What has to be known of it all the time.")]


class EngineRequest(Body):
    """An utterance for an engine on another machine."""

    text: Annotated[Words, Field(description="Plain text, or an SSML document when `ssml` is true.")]
    ssml: bool = False
    voice: SpeakerId = "default"
    language: Language = ""
    speed: Speed = 1.0
    seed: Annotated[int | None, Field(ge=0, le=2**32 - 1)] = None
    rate_hz: SampleRate = 8000
    embedding: Annotated[
        str, Field(pattern=r"^[A-Za-z0-9+/]*={0,2}$", description="Of a speaker, in base64; empty for nobody.")
    ] = ""
    continues: Annotated[bool, Field(description="More will be said after it.")] = False


class EmbeddingRequest(Body):
    """A recording of a speaker, for what the engine makes of it."""

    recording: Annotated[
        str,
        Field(
            min_length=1,
            pattern=r"^[A-Za-z0-9+/]*={0,2}$",
            description="Signed 16-bit little-endian samples, mono, in base64.",
        ),
    ]
    rate_hz: Annotated[int, Field(ge=8000, le=48_000)] = 24_000


class EmbeddingReport(Body):
    """What an engine has made of a speaker's recording."""

    kind: Annotated[str, Field(examples=["voice-profile-1"])]
    data: Annotated[str, Field(description="In base64.")]
    figures: Annotated[dict[str, float], Field(description="What it says in numbers that mean something to people.")]
