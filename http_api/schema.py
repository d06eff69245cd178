"""Every body that travels over HTTP, as a model, and the limits that a request is held to.

Models are strict (`"text": 5` is an error, not "5"), closed (an unknown field is an error) and frozen. The names of
the fields are the names on the wire; what describes them is published. Validated with an `ApiLimits` as pydantic's
context, they hold a request to it.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, ClassVar, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    RootModel,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError
from yarl import URL

__all__ = [
    "EVENT_KINDS",
    "ApiLimits",
    "CallDetails",
    "CallEndReport",
    "CallList",
    "CallMedia",
    "CallReport",
    "CallRequest",
    "ClipReport",
    "ClipUpload",
    "DigitsRequest",
    "EventReport",
    "FieldError",
    "HealthReport",
    "LineCleared",
    "LineDigit",
    "LineMark",
    "LineMessage",
    "LineQuery",
    "LineStart",
    "LineStop",
    "OpenAiError",
    "OpenAiFault",
    "OpenAiModel",
    "OpenAiModelList",
    "OpenAiSpeechDelta",
    "OpenAiSpeechDone",
    "OpenAiSpeechRequest",
    "OpenAiUsage",
    "OpenAiVoice",
    "PlayRequest",
    "PlayUpload",
    "ProblemDetails",
    "PromptReport",
    "PromptResult",
    "PromptsRequest",
    "PushList",
    "PushReport",
    "PushRequest",
    "Readiness",
    "RecordRequest",
    "RecordingList",
    "RecordingReport",
    "SayRequest",
    "SocketError",
    "SpeakerChange",
    "SpeakerDetails",
    "SpeakerList",
    "SpeakerReport",
    "SpeakerUpload",
    "SpeechFigures",
    "StreamRequest",
    "SynthesizeRequest",
    "TalkCancelled",
    "TalkDone",
    "TalkFlushed",
    "TalkMark",
    "TalkMessage",
    "TalkReady",
    "TextMark",
    "TokenReport",
    "TransferReport",
    "TransferRequest",
    "TwilioMessage",
    "UtteranceReport",
    "VoiceList",
    "VoiceReport",
]

G711_RATE_HZ = 8000
# RFC 3551 section 6; the payload types from 96 on say nothing by themselves.
STATIC_PAYLOAD_TYPES: dict[Literal["PCMU", "PCMA"], int] = {"PCMU": 0, "PCMA": 8}
DYNAMIC_PAYLOAD_TYPES = range(96, 128)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiLimits:
    """What one request, one client and all of them together may take. All of it is positive.

    max_text_chars            text of one request, in Unicode code points: more is a 422
    max_body_bytes            body of one request: more is a 413
    max_upload_bytes          file in one request: more is a 413
    max_uploads               files on their way at a time: more is a 503
    max_concurrent            speech requests at work at a time: more is a 503, since the server is full
    max_concurrent_per_client the same for one remote address: more is a 429, since the client asks too much; None when
                              one address may take all there is, as it must behind a reverse proxy
    max_sockets               open WebSockets: more are a 503
    max_socket_chars          text of one WebSocket: more closes it
    socket_idle_s             time without a message, and with nothing to say, after which a WebSocket is closed
    socket_ping_s             how often a WebSocket's client is asked whether it is there
    max_connections           open connections: more are closed as they come, so that HTTP cannot take the descriptors
                              that calls need
    max_collected_s           seconds of speech that a format may ask to be held in memory (WAV): more is a 422
    hold_ms                   how long a streamed body may be held back so that its headers can be exact
    keep_alive_s              silence on an event stream after which a comment is sent
    read_timeout_s            time for a body to arrive: more is a 408
    upload_timeout_s          the same for a body with a file
    idle_timeout_s            time for a connection to bring (the head of) its next request: more closes it
    stall_timeout_s           time for a slow reader to make room for one write: more cuts it off
    retry_after_s             what a 429 or 503 by these limits advises
    """

    max_text_chars: int = 5000
    max_body_bytes: int = 128 * 1024
    max_upload_bytes: int = 10 * 1024 * 1024
    max_uploads: int = 4
    max_concurrent: int = 64
    max_concurrent_per_client: int | None = None
    max_sockets: int = 1000
    max_socket_chars: int = 100_000
    socket_idle_s: float = 600.0
    socket_ping_s: float = 30.0
    max_connections: int = 2048
    max_collected_s: float = 600.0
    hold_ms: float = 100.0
    keep_alive_s: float = 15.0
    read_timeout_s: float = 10.0
    upload_timeout_s: float = 60.0
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


def _can_be_spoken(text: str, info: ValidationInfo) -> str:
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


def _has_no_null(value: str) -> str:
    if "\0" in value:
        raise PydanticCustomError("null_character", "Value should not contain U+0000")
    return value


def _is_address(value: str) -> str:
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        raise PydanticCustomError("address", "Host should be an IP address: a name could lead anywhere") from None
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id:
        raise PydanticCustomError("address_zone", "Host should be an IP address without a zone")
    return value


def _is_payload_type(value: int | None) -> int | None:
    if value is not None and value not in (*STATIC_PAYLOAD_TYPES.values(), *DYNAMIC_PAYLOAD_TYPES):
        raise PydanticCustomError("payload_type", "Payload type should be 0 (PCMU), 8 (PCMA) or in 96 to 127")
    return value


def _suits(coding: str | None, rate_hz: int) -> int:
    if coding in ("mulaw", "alaw") and rate_hz != G711_RATE_HZ:
        raise PydanticCustomError(
            "rate_not_of_format", "Format {format} has a sample rate of 8000 and no other", {"format": coding}
        )
    return rate_hz


def _is_printable(value: str) -> str:
    if not value.isprintable():
        raise PydanticCustomError("one_line", "Value should be one line of printable text")
    return value


def _differ(values: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(values)) < len(values):
        raise PydanticCustomError("unique", "No value should come twice")
    return values


Words = Annotated[str, Field(min_length=1), AfterValidator(_can_be_spoken), AfterValidator(_has_no_null)]
SpeakerId = Annotated[
    str,
    Field(min_length=1, max_length=128, description="A voice of the engine, or an enrolled speaker."),
    AfterValidator(_has_no_null),
]
Language = Annotated[
    str, Field(max_length=35, pattern="^[A-Za-z0-9-]*$", description="BCP 47 tag; empty leaves it to the speaker.")
]
Speed = Annotated[
    float,
    Field(
        ge=0.25,
        le=4.0,
        description="Speaking rate relative to the speaker's own. At speeds at which the engine itself does not speak, "
        "its speech is stretched at the same pitch.",
        examples=[1.2],
    ),
]
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


class TextMark(_Body):
    """A place in a text; what happens to the call tells when speech has come to it."""

    name: Annotated[str, Field(min_length=1, max_length=64, examples=["price"]), AfterValidator(_is_printable)]
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
SampleRate = Literal[8000, 16000, 24000]
Codec = Literal["PCMU", "PCMA"]


class _Words(_Body):
    """What is to be said. Exactly one of `text` and `ssml` is given."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"required": ["text"], "properties": {"text": {"type": "string"}}},
                {"required": ["ssml"], "properties": {"ssml": {"type": "string"}}},
            ]
        }
    )

    text: Annotated[Words | None, Field(description="What to say.", examples=["Hello, world."])] = None
    ssml: Annotated[
        Words | None,
        Field(
            validate_default=True,
            description="What to say, as an SSML document (W3C SSML 1.1). An engine that knows no SSML says so with "
            "400.",
            examples=["<speak>Hello, <emphasis>world</emphasis>.</speak>"],
        ),
    ] = None
    language: Language = ""

    @field_validator("ssml")
    @classmethod
    def _is_instead_of_text(cls, ssml: str | None, info: ValidationInfo) -> str | None:
        if "text" in info.data and (ssml is None) == (info.data["text"] is None):
            raise PydanticCustomError("text_or_ssml", "Exactly one of text and ssml should be given")
        return ssml

    def words(self) -> str:
        """The one of `text` and `ssml` that was given."""
        return self.text or self.ssml or ""


class _Said(_Words):
    """What is to be said, and by whom."""

    speaker_id: SpeakerId = "default"


class SynthesizeRequest(_Said):
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
        return _suits(info.data.get("format"), rate_hz)


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


class TalkMessage(_Body):
    """What a client says on the WebSocket. Speaker, format, rate, speed and language are for its first message."""

    OPENING: ClassVar = frozenset({"speaker_id", "format", "sample_rate", "speed", "language"})

    text: Annotated[
        str,
        AfterValidator(_has_no_null),
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
        return _suits(info.data.get("format"), rate_hz)

    @field_validator("played_ms")
    @classmethod
    def _is_of_a_cancel(cls, played_ms: float | None, info: ValidationInfo) -> float | None:
        if played_ms is not None and not info.data.get("cancel"):
            raise PydanticCustomError("played_without_cancel", "This field goes with cancel")
        return played_ms


class TalkReady(_Body):
    """The first message was accepted."""

    type: Literal["ready"]
    speaker_id: str
    format: Literal["pcm", "mulaw", "alaw"]
    sample_rate: int
    model_version: str


class TalkMark(_Body):
    """The audio from `audio_ms` on, until the next mark, says the text from `text_start` to `text_end`."""

    type: Literal["mark"]
    text_start: int
    text_end: int
    audio_ms: float


class TalkFlushed(_Body):
    """All text up to the flush was said, and its audio sent."""

    type: Literal["flushed"]
    text_chars: int
    audio_ms: float


class TalkCancelled(_Body):
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


class TalkDone(_Body):
    """All was said; the connection is closed."""

    type: Literal["done"]
    text_chars: int
    audio_ms: float


def _number(value: object) -> object:
    """A rate as a parameter of a path has it, which is text."""
    return {str(rate_hz): rate_hz for rate_hz in get_args(SampleRate)}.get(str(value), value)


class LineQuery(_Body):
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
        return _suits("mulaw" if twilio else info.data.get("format"), rate_hz)

    @property
    def coding(self) -> Literal["pcm", "mulaw", "alaw"]:
        """The format, whether or not it was said."""
        return self.format or ("mulaw" if self.protocol == "twilio" else "pcm")


MarkName = Annotated[str, Field(min_length=1, max_length=256, examples=["greeting"])]


class LineMessage(_Body):
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


class LineStart(_Body):
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


class LineMark(_Body):
    """All audio before the mark has been sent to the peer."""

    type: Literal["mark"]
    name: str


class LineCleared(_Body):
    """Audio was dropped: by `clear`, or because something else interrupted it, such as `/stop`."""

    type: Literal["cleared"]
    marks: Annotated[tuple[str, ...], Field(description="Those that are not reached, and will not be.")]
    played_ms: Annotated[int, Field(description="How much of this connection's audio has been sent in all.")]


class LineDigit(_Body):
    """The peer has keyed a digit."""

    type: Literal["dtmf"]
    digit: Annotated[str, Field(description="0 to 9, `*`, `#`, A to D, or `!` for a hook flash.")]


class LineStop(_Body):
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


class OpenAiVoice(_Body):
    """A speaker by its id, as OpenAI's clients name one that is not built in."""

    id: SpeakerId


class OpenAiSpeechRequest(_Body):
    """Ask for a text to be spoken, in OpenAI's words."""

    model: Annotated[
        str, Field(min_length=1, max_length=128, description="One of `GET /v1/models`.", examples=["tts-1"])
    ]
    input: Annotated[
        str,
        Field(min_length=1, max_length=4096, description="What to say.", examples=["Hello, world."]),
        AfterValidator(_can_be_spoken),
        AfterValidator(_has_no_null),
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


class OpenAiModel(_Body):
    """One name that `model` may be."""

    id: str
    object: Literal["model"]
    created: Annotated[int, Field(description="When this server started, in seconds since 1970.")]
    owned_by: str


class OpenAiModelList(_Body):
    """All that `model` may be."""

    object: Literal["list"]
    data: tuple[OpenAiModel, ...]


class OpenAiSpeechDelta(_Body):
    """An event with the next piece of the file."""

    type: Literal["speech.audio.delta"]
    audio: Annotated[str, Field(description="Base64.")]


class OpenAiUsage(_Body):
    """Nothing is counted in tokens here, so it is 0."""

    input_tokens: int
    output_tokens: int
    total_tokens: int


class OpenAiSpeechDone(_Body):
    """The last event."""

    type: Literal["speech.audio.done"]
    usage: OpenAiUsage


class OpenAiFault(_Body):
    """What is wrong, and with which parameter."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAiError(_Body):
    """An error in OpenAI's form."""

    error: OpenAiFault


class PushRequest(_Said):
    """Ask for speech in RTP packets, sent to an address. Exactly one of `text` and `ssml` is given."""

    host: Annotated[
        str,
        AfterValidator(_is_address),
        WithJsonSchema({"type": "string", "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]}),
        Field(
            description="IP address to send to, and no name. It has to be in one of the networks that the server may "
            "send to.",
            examples=["127.0.0.1"],
        ),
    ]
    port: Annotated[
        int, Field(ge=1024, le=65534, description="Port to send to; RTCP goes to the one after it.", examples=[4000])
    ]
    payload_type: Annotated[
        int | None,
        AfterValidator(_is_payload_type),
        WithJsonSchema(
            {
                "anyOf": [
                    {"enum": sorted(STATIC_PAYLOAD_TYPES.values())},
                    {"type": "integer", "minimum": DYNAMIC_PAYLOAD_TYPES[0], "maximum": DYNAMIC_PAYLOAD_TYPES[-1]},
                    {"type": "null"},
                ]
            }
        ),
        Field(description="0 is PCMU, 8 is PCMA, and 96 to 127 are what `codec` says. Left out, it is the codec's."),
    ] = None
    codec: Annotated[
        Codec | None,
        Field(validate_default=True, description="Left out, it is that of `payload_type`; or PCMU without one."),
    ] = None
    ptime_ms: Annotated[Literal[10, 20, 30, 40, 60], Field(description="Speech in one packet.")] = 20
    ssrc: Annotated[int | None, Field(ge=0, le=2**32 - 1, description="Left out, it is random.")] = None
    local_port: Annotated[
        int | None,
        Field(
            ge=1024,
            le=65534,
            multiple_of=2,
            description="Even port to send from; RTCP takes the one after it. Left out, the server takes one of its "
            "range.",
        ),
    ] = None

    @field_validator("codec")
    @classmethod
    def _suits_the_payload_type(cls, codec: Codec | None, info: ValidationInfo) -> Codec | None:
        payload_type = info.data.get("payload_type")
        if payload_type in DYNAMIC_PAYLOAD_TYPES and codec is None:
            raise PydanticCustomError(
                "codec_missing",
                "Payload type {payload_type} is dynamic: say what it is",
                {"payload_type": payload_type},
            )
        for static, number in STATIC_PAYLOAD_TYPES.items():
            if payload_type == number and codec not in (None, static):
                raise PydanticCustomError(
                    "codec_not_of_payload_type",
                    "Payload type {payload_type} is {codec} and nothing else",
                    {"payload_type": payload_type, "codec": static},
                )
        return codec

    def coding(self) -> tuple[Codec, int]:
        """Codec and payload type, where one was left to follow from the other."""
        if self.codec is not None:
            number = STATIC_PAYLOAD_TYPES[self.codec] if self.payload_type is None else self.payload_type
            return self.codec, number
        return ("PCMA", 8) if self.payload_type == STATIC_PAYLOAD_TYPES["PCMA"] else ("PCMU", 0)


class PushReport(_Body):
    """What is known of a push."""

    id: str
    state: Annotated[
        Literal["streaming", "done", "stopped", "failed"],
        Field(description="`streaming` comes first. `done`: all was sent. `stopped`: by DELETE, or with the server."),
    ]
    failure: Annotated[str | None, Field(description="What went wrong; null unless `failed`.")]
    created_at: datetime
    host: Annotated[str, Field(description="An IPv4-mapped IPv6 address is given as the IPv4 address that it is.")]
    port: int
    codec: Codec
    payload_type: int
    ptime_ms: int
    ssrc: int
    local_port: Annotated[int, Field(description="Packets come from here, and RTCP from the one after it.")]
    packets_sent: int
    packets_unsent: Annotated[int, Field(description="Packets that the system would not send.")]
    packets_refused: Annotated[int, Field(description="ICMP errors that came back: nobody listens there, say.")]
    speech_frames: Annotated[int, Field(description="Packets of speech.")]
    silence_frames: Annotated[int, Field(description="Packets sent while nothing was being said.")]
    underrun_frames: Annotated[int, Field(description="Packets of silence in the place of speech that was late.")]
    underruns: Annotated[int, Field(description="How often speech was late.")]
    played_ms: Annotated[int, Field(description="How much of the speech has been sent.")]


class PushList(_Body):
    """What is known of all pushes: first those that have ended, then those that are alive."""

    pushes: tuple[PushReport, ...]


def _is_one_line(value: str) -> str:
    if not value.strip() or not value.isprintable():
        raise PydanticCustomError("one_line", "Name should be one line of printable text")
    return value


SpeakerName = Annotated[
    str,
    Field(min_length=1, max_length=100, description="For people; it need not be unique.", examples=["Ada"]),
    AfterValidator(_is_one_line),
]


class SpeakerUpload(_Body):
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


class SpeakerChange(_Body):
    """Change what is known of a speaker."""

    name: SpeakerName


class SpeakerReport(_Body):
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


class SpeakerEmbedding(_Body):
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


class VoiceReport(_Body):
    """A voice of the engine."""

    id: Annotated[str, Field(description="To be given as `speaker_id`.", examples=["en-gb-x-rp"])]
    name: Annotated[str, Field(examples=["English (Received Pronunciation)"])]
    language: Annotated[str, Field(description="BCP 47 tag.", examples=["en-gb-x-rp"])]


class EngineDescription(_Body):
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


class EngineRequest(_Body):
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


class EmbeddingRequest(_Body):
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


class EmbeddingReport(_Body):
    """What an engine has made of a speaker's recording."""

    kind: Annotated[str, Field(examples=["voice-profile-1"])]
    data: Annotated[str, Field(description="In base64.")]
    figures: Annotated[dict[str, float], Field(description="What it says in numbers that mean something to people.")]


class VoiceList(_Body):
    """All voices of the engine, the default one first."""

    engine: str
    voices: tuple[VoiceReport, ...]


class TokenReport(_Body):
    """Whom the server takes a client for."""

    name: Annotated[str | None, Field(description="Of the token; null where no token is asked for.")]
    opens: Annotated[
        tuple[Literal["read", "speak", "call", "admin"], ...],
        Field(description="The roles whose paths are open, whether the token has them or one that includes them."),
    ]


class FieldError(_Body):
    """What is wrong with one field, or with one header; nested fields are joined by dots."""

    field: str
    message: str


class Prompt(_Said):
    """A text to be made ahead. Exactly one of `text` and `ssml` is given."""

    sample_rate: Annotated[SampleRate, Field(description="Samples a second; calls want 8000.")] = 8000
    speed: Speed = 1.0
    seed: Annotated[int | None, Field(ge=0, le=2**32 - 1, description="As in /v1/synthesize.")] = None


class PromptsRequest(_Body):
    """Have texts made ahead."""

    prompts: Annotated[tuple[Prompt, ...], Field(strict=False, min_length=1, max_length=100)]


class PromptResult(_Body):
    """What became of one prompt."""

    status: Annotated[
        Literal["made", "kept", "failed"],
        Field(description="`made`: now. `kept`: since earlier. `failed`: see `error`."),
    ]
    duration_ms: Annotated[float, Field(description="How much speech it is.")]
    error: Annotated[FieldError | None, Field(description="Why it failed; `field` is empty where none is at fault.")]


class PromptReport(_Body):
    """What became of the prompts, in the order of the request."""

    results: tuple[PromptResult, ...]


# Beside those of its own that any application may have (RFC 3261 section 20 and others): what a call is to be known by.
CALL_HEADERS = frozenset(
    {
        "accept-language",
        "alert-info",
        "call-info",
        "diversion",
        "organization",
        "p-asserted-identity",
        "p-preferred-identity",
        "priority",
        "privacy",
        "subject",
        "user-to-user",
    }
)


def _is_header(name: str) -> str:
    if not name.lower().startswith("x-") and name.lower() not in CALL_HEADERS:
        raise PydanticCustomError(
            "header",
            "Header should begin with X-, or be one of {allowed}",
            {"allowed": ", ".join(sorted(CALL_HEADERS))},
        )
    return name


Line = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(_is_printable)]
HeaderName = Annotated[str, Field(max_length=64, pattern="^[A-Za-z][A-Za-z0-9-]*$"), AfterValidator(_is_header)]
HeaderValue = Annotated[str, Field(max_length=512), AfterValidator(_is_printable)]


def _is_reference(value: str) -> str:
    try:
        url = URL(value)
        fine = url.scheme in ("http", "https", "") and url.user is None and url.password is None and not url.fragment
        # Two slashes alone would name a host, and no scheme to ask it by.
        fine = fine and (url.absolute if url.scheme else not value.startswith("//"))
    except ValueError:
        fine = False
    if not fine or not value.isprintable():
        raise PydanticCustomError("reference", "It should be an address of HTTP, or a path relative to the webhook's")
    return value


def _is_web_address(value: str) -> str:
    if not URL(_is_reference(value)).scheme:
        raise PydanticCustomError("address", "It should begin with http:// or https://")
    return value


Reference = Annotated[str, Field(min_length=1, max_length=2048), AfterValidator(_is_reference)]
WebAddress = Annotated[str, Field(min_length=1, max_length=2048), AfterValidator(_is_web_address)]


class CallRequest(_Body):
    """Ask for somebody to be called. At most one of `say`, `text` and `ssml` is given."""

    to: Annotated[
        Line,
        Field(
            description="Whom to call: a SIP URI, which has to lead into one of the networks that the server may call, "
            "or with `trunk` a number.",
            examples=["sip:alice@127.0.0.1:5070"],
        ),
    ]
    caller: Annotated[
        Line | None,
        Field(
            alias="from",
            description="Who calls: a SIP URI, with a display name or without, or a number. Left out, it is the "
            "trunk's, or the server's own.",
            examples=['"Reception" <sip:100@example.com>'],
        ),
    ] = None
    trunk: Annotated[
        Line | None, Field(description="The name of a trunk of the configuration, to call a number by.")
    ] = None
    say: Annotated[Words | None, Field(description="The same as `text`.")] = None
    text: Annotated[Words | None, Field(description="What to say to whoever answers.", examples=["Good morning."])] = (
        None
    )
    ssml: Annotated[
        Words | None, Field(validate_default=True, description="The same as an SSML document (W3C SSML 1.1).")
    ] = None
    speaker_id: SpeakerId = "default"
    language: Language = ""
    barge_in: BargeIn = ()
    marks: TextMarks = ()
    headers: Annotated[
        dict[HeaderName, HeaderValue],
        Field(
            max_length=20,
            description="Of the INVITE: such as begin with X-, and some that tell more of the call.",
            examples=[{"X-Order": "4711", "Subject": "Your order"}],
        ),
    ] = {}
    ring_timeout: Annotated[
        float, Field(ge=1, le=300, description="Seconds after which a call that nobody answers is given up.")
    ] = 60.0
    then: Annotated[
        Literal["hangup", "stay"] | None,
        Field(
            description="What happens when all is said: left out, the call is hung up, or it stays if there was "
            "nothing to say at first."
        ),
    ] = None
    stay: Annotated[
        float, Field(gt=0, le=86_400, description="Seconds for which it stays when there is nothing more to say.")
    ] = 3600.0
    webhook: Annotated[
        WebAddress | None,
        Field(
            description="Who is asked, as soon as the call is up, what it is to do: see `webhooks`. Its host has to be "
            "one that the configuration allows. What is given to be said, is said if it does not do its part.",
        ),
    ] = None
    webhook_timeout_ms: Annotated[
        int, Field(ge=100, le=30_000, description="After so long without an answer it has not done its part.")
    ] = 3000
    record: Annotated[
        bool, Field(description="Whether it is recorded from the answer on, as by `/record`: 403 if none may be.")
    ] = False

    @field_validator("ssml")
    @classmethod
    def _is_alone(cls, ssml: str | None, info: ValidationInfo) -> str | None:
        if sum(words is not None for words in (info.data.get("say"), info.data.get("text"), ssml)) > 1:
            raise PydanticCustomError("say_text_or_ssml", "At most one of say, text and ssml should be given")
        return ssml

    def words(self) -> str:
        """What was given to be said; "" if nothing was."""
        return self.say or self.text or self.ssml or ""


class SayRequest(_Words):
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


Mode = Annotated[
    Literal["queue", "interrupt"],
    Field(description="`queue`: after all else. `interrupt`: at once, and all else is dropped."),
]
Repeat = Annotated[int, Field(ge=0, le=100, description="How often; 0: until something ends it.")]
AudioUpload = Annotated[
    bytes,
    WithJsonSchema({"type": "string", "contentMediaType": "application/octet-stream"}),
    Field(description="In any common audio format."),
]


class PlayRequest(_Body):
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


class PlayUpload(_Body):
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


class ClipUpload(_Body):
    """Audio to be kept. As multipart/form-data (RFC 7578)."""

    file: AudioUpload


class ClipReport(_Body):
    """Audio that can be played."""

    id: Annotated[str, Field(description="To be given as `clip_id`.", examples=["clip_0123456789abcdef01234567"])]
    duration_ms: int


class UtteranceReport(_Body):
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


class CallEndReport(_Body):
    """Why a call has ended."""

    reason: Annotated[
        str,
        Field(
            description="Of a call that was answered: `completed` (all was said), `hung_up`, `transferred`, "
            "`media_timeout`, `max_duration`, `shutdown`, `lost` or `incompatible`. Of one that was not: `busy`, "
            "`declined`, `no_answer`, `unavailable`, `not_found`, `forbidden`, `incompatible`, `unreachable`, "
            "`cancelled` or `failed`.",
            examples=["busy"],
        ),
    ]
    by: Annotated[Literal["server", "peer", "network"], Field(description="Who ended it; `network`: nobody did.")]
    sip_status: Annotated[int | None, Field(description="Of the response that ended it, if one did.")]
    sip_reason: Annotated[str, Field(description="Its phrase, or the Reason of the peer's BYE or CANCEL.")]


class CallMedia(_Body):
    """The audio of a call. What is null is not known, or not yet."""

    codec: str | None
    packets_sent: int
    packets_received: int
    lost: Annotated[int, Field(description="Packets of the peer's that did not arrive.")]
    jitter_ms: Annotated[float, Field(description="Of the peer's packets (RFC 3550).")]
    peer_lost: Annotated[int | None, Field(description="Packets of ours that the peer says it missed.")]
    rtt_ms: Annotated[float | None, Field(description="Round trip, by RTCP.")]
    mos: Annotated[float | None, Field(description="Of our speech at the peer, estimated from its reports.")]
    speech_frames: int
    silence_frames: int
    underrun_frames: int
    underruns: Annotated[int, Field(description="How often speech was late.")]


class RecordRequest(_Body):
    """Ask for a call to be recorded."""

    format: Annotated[
        Literal["wav"],
        Field(description="16-bit samples at 8 kHz with two channels: the peer left, and right what it was told."),
    ] = "wav"
    max_s: Annotated[
        float | None,
        Field(gt=0, le=86_400, description="The longest that it may be; `recordings.max_s` by default.", examples=[60]),
    ] = None


class RecordingReport(_Body):
    """What is known of the recording of a call."""

    id: Annotated[str, Field(examples=["rec_0123456789abcdef01234567"])]
    call_id: Annotated[str, Field(examples=["call_0123456789abcdef01234567"])]
    state: Literal["recording", "ended"]
    format: Literal["wav"] = "wav"
    started_at: datetime
    ended_at: datetime | None
    reason: Annotated[
        Literal["stopped", "call_ended", "max_duration", "no_space", "failed", "interrupted"] | None,
        Field(
            description="Why it has ended. `no_space`: the disk, or what may be taken of it, was full; "
            "`interrupted`: the server died, and what was written until then is whole."
        ),
    ]
    duration_ms: int
    size_bytes: int


class RecordingList(_Body):
    """Recordings, in the order in which they began."""

    recordings: tuple[RecordingReport, ...]


class CallReport(_Body):
    """What is known of a call."""

    model_config = ConfigDict(serialize_by_alias=True, validate_by_name=True)

    id: Annotated[str, Field(examples=["call_0123456789abcdef01234567"])]
    direction: Literal["inbound", "outbound"]
    caller: Annotated[str, Field(alias="from")]
    callee: Annotated[str, Field(alias="to")]
    trunk: str | None
    state: Annotated[
        Literal["preparing", "calling", "ringing", "offered", "up", "transferring", "ending", "ended"],
        Field(description="`offered`: a call that came, and is not answered yet."),
    ]
    created_at: datetime
    ringing_at: datetime | None
    answered_at: datetime | None
    ended_at: datetime | None
    end: Annotated[CallEndReport | None, Field(description="Null until it has ended.")]


class CallDetails(CallReport):
    """What is known of a call, with its media and what it says."""

    held: Annotated[bool, Field(description="Whether the peer was put on hold, by `/hold`.")]
    paused: Annotated[bool, Field(description="Whether speech was told to wait, by `/pause`.")]
    digits: Annotated[int, Field(description="How many the peer has dialled.")]
    first_speech_ms: Annotated[
        float | None, Field(description="How long whoever answered had to wait for the first sound; known at the end.")
    ]
    media: CallMedia | None
    speech: Annotated[
        tuple[UtteranceReport, ...],
        Field(description="What was said, is being said and will be said, in this order; the latest 50 or so."),
    ]
    recordings: Annotated[tuple[RecordingReport, ...], Field(description="In the order in which they began.")]


class DigitsRequest(_Body):
    """Ask for digits to be dialled in a call."""

    digits: Annotated[str, Field(min_length=1, max_length=32, pattern="^[0-9*#A-D]+$", examples=["1234#"])]
    duration_ms: Annotated[int, Field(ge=40, le=1000, description="How long each of them is.")] = 100


class TransferRequest(_Body):
    """Ask the peer of a call to call somebody else. Exactly one of `to` and `call_id` is given."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"required": ["to"], "properties": {"to": {"type": "string"}}},
                {"required": ["call_id"], "properties": {"call_id": {"type": "string"}}},
            ]
        }
    )

    to: Annotated[
        Line | None,
        Field(
            description="A blind transfer: a SIP URI, or a number if the call is of a trunk.",
            examples=["sip:bob@192.168.1.21"],
        ),
    ] = None
    call_id: Annotated[
        Line | None,
        Field(
            validate_default=True, description="An attended transfer: the peer takes our place in this call of ours."
        ),
    ] = None

    @field_validator("call_id")
    @classmethod
    def _is_instead_of_to(cls, call_id: str | None, info: ValidationInfo) -> str | None:
        if "to" in info.data and (call_id is None) == (info.data["to"] is None):
            raise PydanticCustomError("to_or_call_id", "Exactly one of to and call_id should be given")
        return call_id


class TransferReport(_Body):
    """What has become of a transfer."""

    outcome: Annotated[
        Literal["succeeded", "failed", "unknown"],
        Field(
            description="`succeeded`: the target has answered, and the call ends. `failed`: the call goes on as it "
            "was. `unknown`: the peer has not said, and the call goes on."
        ),
    ]
    sip_status: Annotated[
        int | None, Field(description="Of the target, as the peer tells it; or of the peer, if it will not.")
    ]
    sip_reason: str


EVENT_KINDS = (
    "call.created",
    "call.ringing",
    "call.answered",
    "call.ended",
    "call.record",
    "speech.started",
    "speech.mark",
    "speech.ended",
    "recording.started",
    "recording.ended",
    "dialogue.failed",
)
"""What may happen. Webhooks alone are told the record of a call; the others may ask for it."""


class EventReport(_Body):
    """Something that has happened: the data of a server-sent event, and what webhooks are told."""

    type: Annotated[str, Field(examples=["call.answered"])]
    call_id: Annotated[str, Field(description="Empty for a gap.")]
    at: datetime
    details: Annotated[
        dict[str, object],
        Field(
            description="Of `call.created` the parties and the direction; of `call.ended` the `end`; of `speech.*` the "
            "utterance's `id`, `state` and `spoken_ms`, the name of the `mark`, and `barged_in_by` if the peer "
            "interrupted it; of `call.record` all that is known of the call; of `dialogue.failed` the `step` at which "
            "a webhook did not do its part, and the `reason`."
        ),
    ]


class WebRtcOffer(_Body):
    """An RTCSessionDescription of a browser's, with all its candidates, and whom it calls."""

    type: Literal["offer"] = "offer"
    sdp: Annotated[
        str,
        Field(
            min_length=1,
            max_length=32_768,
            description="Of `pc.localDescription`, once `pc.iceGatheringState` is `complete`.",
        ),
    ]
    to: Annotated[
        str,
        Field(
            min_length=1,
            max_length=64,
            pattern="^[A-Za-z0-9+*#_.-]+$",
            description="The user that is called, as the `user` of a `[[route]]` has it.",
        ),
    ] = "console"


class WebRtcAnswer(_Body):
    """An RTCSessionDescription for the browser, and the call that has begun."""

    type: Literal["answer"]
    sdp: str
    call_id: Annotated[str, Field(examples=["call_0123456789abcdef01234567"])]


class CallList(_Body):
    """What is known of all calls: first those that have ended, then those that are alive."""

    calls: tuple[CallReport, ...]


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


class ProblemDetails(_Body):
    """An error, as RFC 9457 has it, with the fields at fault and the id that the log knows the request by."""

    type: Annotated[str, Field(description="`about:blank`: the status says it all (RFC 9457 section 4.2.1).")]
    title: str
    status: Annotated[int, Field(ge=400, le=599)]
    detail: str
    errors: tuple[FieldError, ...] = ()
    request_id: str


class SocketError(_Body):
    """A WebSocket is closed, and why."""

    type: Literal["error"]
    problem: ProblemDetails
