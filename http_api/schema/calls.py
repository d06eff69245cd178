"""Calls: placed, known of, and acted on."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from .body import Body, Line, WebAddress, is_printable
from .recordings import RecordingReport
from .utterances import BargeIn, TextMarks, UtteranceReport
from .words import Language, SpeakerId, Words

__all__ = [
    "CALL_HEADERS",
    "CallDetails",
    "CallEndReport",
    "CallList",
    "CallMedia",
    "CallReport",
    "CallRequest",
    "DigitsRequest",
    "HeaderName",
    "HeaderValue",
    "TransferReport",
    "TransferRequest",
]

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


HeaderName = Annotated[str, Field(max_length=64, pattern="^[A-Za-z][A-Za-z0-9-]*$"), AfterValidator(_is_header)]
HeaderValue = Annotated[str, Field(max_length=512), AfterValidator(is_printable)]


class CallRequest(Body):
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
    ] = Field(default={})
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


class CallEndReport(Body):
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


class CallMedia(Body):
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


class CallReport(Body):
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


class CallList(Body):
    """What is known of all calls: first those that have ended, then those that are alive."""

    calls: tuple[CallReport, ...]


class DigitsRequest(Body):
    """Ask for digits to be dialled in a call."""

    digits: Annotated[str, Field(min_length=1, max_length=32, pattern="^[0-9*#A-D]+$", examples=["1234#"])]
    duration_ms: Annotated[int, Field(ge=40, le=1000, description="How long each of them is.")] = 100


class TransferRequest(Body):
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


class TransferReport(Body):
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
