"""Every body that travels over HTTP, as a model, and the limits that a request is held to.

Models are strict (`"text": 5` is an error, not "5"), closed (an unknown field is an error) and frozen. The names of
the fields are the names on the wire; what describes them is published. Validated with an `ApiLimits` as pydantic's
context, they hold a request to it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

__all__ = [
    "ApiLimits",
    "FieldError",
    "HealthReport",
    "ProblemDetails",
    "Readiness",
    "SpeechFigures",
    "StreamRequest",
    "SynthesizeRequest",
]

G711_RATE_HZ = 8000


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiLimits:
    """What one request, one client and all of them together may take. All of it is positive.

    max_text_chars            text of one request, in Unicode code points: more is a 422
    max_body_bytes            body of one request: more is a 413
    max_concurrent            speech requests at work at a time: more is a 503, since the server is full
    max_concurrent_per_client the same for one remote address: more is a 429, since the client asks too much; None when
                              one address may take all there is, as it must behind a reverse proxy
    max_connections           open connections: more are closed as they come, so that HTTP cannot take the descriptors
                              that calls need
    max_collected_s           seconds of speech that a format may ask to be held in memory (WAV): more is a 422
    hold_ms                   how long a streamed body may be held back so that its headers can be exact
    keep_alive_s              silence on an event stream after which a comment is sent
    read_timeout_s            time for a body to arrive: more is a 408
    idle_timeout_s            time for a connection to bring (the head of) its next request: more closes it
    stall_timeout_s           time for a slow reader to make room for one write: more cuts it off
    retry_after_s             what a 429 or 503 by these limits advises
    """

    max_text_chars: int = 5000
    max_body_bytes: int = 128 * 1024
    max_concurrent: int = 64
    max_concurrent_per_client: int | None = None
    max_connections: int = 1024
    max_collected_s: float = 600.0
    hold_ms: float = 100.0
    keep_alive_s: float = 15.0
    read_timeout_s: float = 10.0
    idle_timeout_s: float = 75.0
    stall_timeout_s: float = 30.0
    retry_after_s: float = 1.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None and not value > 0:
                raise ValueError(f"{field.name} must be positive, not {value!r}")


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class SynthesizeRequest(_Body):
    """Ask for a text to be spoken, as one body of audio."""

    text: Annotated[str, Field(min_length=1, description="What to say.", examples=["Hello, world."])]
    speaker_id: Annotated[
        str, Field(min_length=1, max_length=128, description="A voice of the engine, or an enrolled speaker.")
    ] = "default"
    format: Annotated[
        Literal["wav", "pcm", "mulaw", "alaw"],
        Field(
            description="`wav`: a RIFF file of 16-bit PCM. `pcm`: signed 16-bit little-endian samples, bare. `mulaw`, "
            "`alaw`: ITU-T G.711, one octet a sample. All of it is mono."
        ),
    ] = "wav"
    sample_rate: Annotated[
        Literal[8000, 16000, 24000],
        Field(description="Samples a second. G.711 has 8000 and no other (RFC 2046 section 4.3, RFC 3551)."),
    ] = 8000

    @field_validator("text")
    @classmethod
    def _can_be_spoken(cls, text: str, info: ValidationInfo) -> str:
        limits: ApiLimits | None = info.context
        if limits is not None and len(text) > limits.max_text_chars:
            raise PydanticCustomError(
                "text_too_long",
                "Text should have at most {max_chars} characters, and this has {chars}: split it",
                {"max_chars": limits.max_text_chars, "chars": len(text)},
            )
        if not text.strip():
            raise PydanticCustomError("text_blank", "Text should contain something to say")
        return text

    @field_validator("text", "speaker_id")
    @classmethod
    def _has_no_null(cls, value: str) -> str:
        if "\0" in value:
            raise PydanticCustomError("null_character", "Value should not contain U+0000")
        return value

    @field_validator("sample_rate")
    @classmethod
    def _suits_the_format(cls, rate_hz: int, info: ValidationInfo) -> int:
        coding = info.data.get("format")
        if coding in ("mulaw", "alaw") and rate_hz != G711_RATE_HZ:
            raise PydanticCustomError(
                "rate_not_of_format", "Format {format} has a sample rate of 8000 and no other", {"format": coding}
            )
        return rate_hz


class StreamRequest(SynthesizeRequest):
    """Ask for a text to be spoken, as server-sent events."""

    format: Annotated[
        Literal["pcm", "mulaw", "alaw"],
        Field(
            description="`pcm`: signed 16-bit little-endian samples. `mulaw`, `alaw`: ITU-T G.711. There is no `wav`, "
            "since such a file begins with its length."
        ),
    ] = "pcm"
    chunk_size_ms: Annotated[
        int, Field(ge=20, le=1000, description="Speech in one audio event; the last has what is left.")
    ] = 100


class SpeechFigures(_Body):
    """How the speech was made: the data of `event: done`."""

    inference_time_ms: Annotated[float, Field(ge=0, description="Time spent waiting for the engine.")]
    audio_duration_ms: Annotated[float, Field(ge=0, description="How much speech came of it.")]
    rtf: Annotated[
        float, Field(ge=0, description="Real-time factor: inference time over audio duration; 0 when nothing came.")
    ]
    model_version: str


class HealthReport(BaseModel):
    """How the server is; further fields are the engine's own details."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)

    status: Literal["healthy", "unhealthy"]
    ready: Annotated[bool, Field(description="Whether new work is taken now.")]
    gpu_available: bool
    model_loaded: bool
    version: str
    uptime_s: Annotated[float, Field(ge=0)]


class Readiness(_Body):
    """Whether new work is taken now."""

    ready: bool


class FieldError(_Body):
    """What is wrong with one field, or with one header; nested fields are joined by dots."""

    field: str
    message: str


class ProblemDetails(_Body):
    """An error, as RFC 9457 has it, with the fields at fault and the id that the log knows the request by."""

    type: Annotated[str, Field(description="`about:blank`: the status says it all (RFC 9457 section 4.2.1).")]
    title: str
    status: Annotated[int, Field(ge=400, le=599)]
    detail: str
    errors: tuple[FieldError, ...] = ()
    request_id: str
