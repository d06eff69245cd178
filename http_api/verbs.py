"""What a webhook that conducts a call is told, and the verbs that it answers with."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, TypeAlias

from pydantic import ConfigDict, Field, RootModel, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from .control import Refused
from .problem import of_validation
from .schema import ApiLimits, BargeIn, Body, Line, Reference, Repeat, SpeakerId, WebAddress, Wording

__all__ = [
    "KEYS",
    "DialogueAnswer",
    "DialogueCall",
    "DialogueRequest",
    "GatherResult",
    "GatherVerb",
    "HangUpVerb",
    "PauseVerb",
    "PlayVerb",
    "RecordResult",
    "RecordVerb",
    "RedirectVerb",
    "RejectVerb",
    "Result",
    "SayVerb",
    "StayVerb",
    "TransferResult",
    "TransferVerb",
    "Verb",
    "read_verbs",
]

MAX_VERBS = 50
KEYS = "0123456789*#ABCD"
"""Of a telephone, as ITU-T Q.23 has them."""


FinishKey = Literal["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "*", "#", "A", "B", "C", "D", ""]
Next = Annotated[
    Reference | None,
    Field(
        description="The webhook that is told what came of it, and answers how it goes on. Left out, it is the same."
    ),
]


class SayVerb(Wording):
    """Say something. Exactly one of `text` and `ssml` is given."""

    verb: Literal["say"]
    speaker_id: Annotated[
        SpeakerId | None, Field(description="Left out, it is the speaker with whom the call began.")
    ] = None
    barge_in: BargeIn = ()


class PlayVerb(Body):
    """Play a recording. Exactly one of `url` and `clip_id` is given."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"required": ["url"], "properties": {"url": {"type": "string"}}},
                {"required": ["clip_id"], "properties": {"clip_id": {"type": "string"}}},
            ]
        }
    )

    verb: Literal["play"]
    url: Annotated[
        WebAddress | None,
        Field(description="Of an audio file, on a host that the server may fetch from (fetch.allow_hosts)."),
    ] = None
    clip_id: Annotated[Line | None, Field(validate_default=True, description="Of `/v1/clips`.")] = None
    repeat: Repeat = 1
    barge_in: BargeIn = ()

    @field_validator("clip_id")
    @classmethod
    def _is_instead_of_url(cls, clip_id: str | None, info: ValidationInfo) -> str | None:
        if "url" in info.data and (clip_id is None) == (info.data["url"] is None):
            raise PydanticCustomError("url_or_clip_id", "Exactly one of url and clip_id should be given")
        return clip_id


Prompt: TypeAlias = Annotated[SayVerb | PlayVerb, Field(discriminator="verb")]
Prompts = Annotated[tuple[Prompt, ...], Field(strict=False, max_length=10)]


class GatherVerb(Body):
    """Ask for digits. The last verb of an answer: what was keyed is told to the webhook."""

    verb: Literal["gather"]
    prompts: Annotated[Prompts, Field(description="What is said or played first.")] = ()
    retry_prompts: Annotated[
        Prompts | None, Field(description="The same from the second attempt on. Left out, they are `prompts`.")
    ] = None
    barge_in: Annotated[bool, Field(description="Whether keys count while prompts are heard; the first ends them.")] = (
        True
    )
    type_ahead: Annotated[bool, Field(description="Whether keys count that came before, in other verbs.")] = True
    min_digits: Annotated[int, Field(ge=1, le=32, description="With fewer, it is asked again.")] = 1
    max_digits: Annotated[int, Field(ge=1, le=32, description="With so many, it is done at once.")] = 32
    finish_key: Annotated[FinishKey, Field(description="Ends the digits, and is none of them; empty: no key does.")] = (
        "#"
    )
    first_digit_timeout_ms: Annotated[int, Field(ge=100, le=120_000, description="From the end of the prompts.")] = 5000
    inter_digit_timeout_ms: Annotated[int, Field(ge=100, le=120_000)] = 3000
    attempts: Annotated[int, Field(ge=1, le=10, description="How often it is asked.")] = 1
    next: Next = None

    @field_validator("max_digits")
    @classmethod
    def _is_no_fewer(cls, most: int, info: ValidationInfo) -> int:
        if most < info.data.get("min_digits", 1):
            raise PydanticCustomError("max_below_min", "It should be at least min_digits")
        return most


class PauseVerb(Body):
    """Be silent for a while."""

    verb: Literal["pause"]
    duration_ms: Annotated[int, Field(ge=1, le=600_000)] = 1000


class TransferVerb(Body):
    """Have the peer call somebody else, blindly. The last verb of an answer; if it fails, the next one goes on."""

    verb: Literal["transfer"]
    to: Annotated[Line, Field(description="A SIP URI, or a number if the call is of a trunk.")]
    next: Next = None


class RecordVerb(Body):
    """Record both sides of the call. The last verb of an answer, unless it is in the background."""

    verb: Literal["record"]
    max_s: Annotated[float, Field(gt=0, le=86_400, description="At most recordings.max_s of the server.")] = 120
    finish_key: Annotated[FinishKey, Field(description="Ends it; empty: no key does.")] = "#"
    background: Annotated[
        bool, Field(description="Go on with the next verb meanwhile; it ends with the call, and is not told.")
    ] = False
    next: Next = None


class RedirectVerb(Body):
    """Ask another webhook. The last verb of an answer."""

    verb: Literal["redirect"]
    url: Reference


class RejectVerb(Body):
    """Do not answer a call that came: the only verb of an answer, and before any other."""

    verb: Literal["reject"]
    status: Annotated[
        Literal[403, 404, 410, 480, 484, 486, 503, 600, 603, 604], Field(description="Of SIP; 486 is busy.")
    ] = 603


class HangUpVerb(Body):
    """End the call. So does an answer without a further verb."""

    verb: Literal["hangup"]


class StayVerb(Body):
    """End the dialogue, and not the call: it may be spoken into by `/v1/calls/{id}/say`. The last verb of an answer."""

    verb: Literal["stay"]
    seconds: Annotated[float, Field(gt=0, le=86_400, description="After so long without a word it is hung up.")] = 3600


Verb: TypeAlias = (
    SayVerb
    | PlayVerb
    | GatherVerb
    | PauseVerb
    | TransferVerb
    | RecordVerb
    | RedirectVerb
    | RejectVerb
    | HangUpVerb
    | StayVerb
)
LAST = (GatherVerb, TransferVerb, RedirectVerb, RejectVerb, HangUpVerb, StayVerb)


class DialogueAnswer(RootModel[tuple[Annotated[Verb, Field(discriminator="verb")], ...]]):
    """What a call does next, one verb after the other. After the last it is hung up, unless that verb goes on."""

    root: Annotated[
        tuple[Annotated[Verb, Field(discriminator="verb")], ...],
        Field(
            strict=False,
            max_length=MAX_VERBS,
            examples=[
                [
                    {"verb": "say", "text": "Welcome."},
                    {
                        "verb": "gather",
                        "prompts": [{"verb": "say", "text": "For opening hours, press 1."}],
                        "max_digits": 1,
                        "attempts": 3,
                        "next": "/choice",
                    },
                ]
            ],
        ),
    ]

    @field_validator("root")
    @classmethod
    def _ends_where_it_goes_on(cls, verbs: tuple[Verb, ...]) -> tuple[Verb, ...]:
        for number, verb in enumerate(verbs[:-1]):
            if isinstance(verb, LAST) or (isinstance(verb, RecordVerb) and not verb.background):
                raise PydanticCustomError(
                    "not_last", "{number}: {verb} should be the last verb", {"number": number, "verb": verb.verb}
                )
        if len(verbs) > 1 and isinstance(verbs[-1], RejectVerb):
            raise PydanticCustomError("not_alone", "reject should be the only verb")
        return verbs


class DialogueCall(Body):
    """The call that it is about."""

    id: Annotated[str, Field(examples=["call_0123456789abcdef01234567"])]
    direction: Literal["inbound", "outbound"]
    caller: Annotated[str, Field(serialization_alias="from")]
    callee: Annotated[str, Field(serialization_alias="to")]
    trunk: str | None
    headers: Annotated[
        dict[str, str], Field(description="Those of the INVITE that came which the configuration lists.")
    ]


class GatherResult(Body):
    """What was keyed. `digits` may be a PIN: the server writes them down nowhere."""

    verb: Literal["gather"]
    outcome: Annotated[
        Literal["complete", "incomplete", "no_input"],
        Field(description="`incomplete`: fewer than `min_digits` in the last attempt. `no_input`: none."),
    ]
    digits: str
    ended_by: Literal["finish_key", "max_digits", "inter_digit_timeout", "first_digit_timeout"]
    attempts: Annotated[int, Field(description="How often it was asked.")]


class TransferResult(Body):
    """What has become of a transfer. After `succeeded` the call is over, and the answer counts for nothing."""

    verb: Literal["transfer"]
    outcome: Literal["succeeded", "failed", "unknown"]
    sip_status: int | None
    sip_reason: str


class RecordResult(Body):
    """What has become of a recording. After `call_ended` the answer counts for nothing."""

    verb: Literal["record"]
    recording_id: Annotated[str | None, Field(description="For `/v1/recordings/{id}`; null if it did not begin.")]
    duration_ms: int
    ended_by: Literal["finish_key", "max_duration", "stopped", "call_ended", "no_space", "failed"]
    error: Annotated[str | None, Field(description="Why it did not begin.")]


Result: TypeAlias = GatherResult | TransferResult | RecordResult


class DialogueRequest(Body):
    """Ask what a call is to do."""

    type: Annotated[
        Literal["dialogue.started", "dialogue.continued"], Field(description="`started`: it is the first request.")
    ]
    at: datetime
    step: Annotated[int, Field(description="How many requests about this call there were before.")]
    call: DialogueCall
    result: Annotated[
        Annotated[Result, Field(discriminator="verb")] | None,
        Field(description="Of the verb that the last answer ended with; null at first and after a redirect."),
    ]


def read_verbs(body: bytes, limits: ApiLimits) -> tuple[Verb, ...]:
    """The verbs of an answer; none at all, if its body is empty.

    Raises Refused, which names the first field at fault, the number of its verb first.
    """
    if not body.strip():
        return ()
    try:
        return DialogueAnswer.model_validate_json(body, context=limits).root
    except ValidationError as error:
        problem = of_validation(error)
        raise Refused(problem.detail, field=problem.errors[0].field if problem.errors else "") from None
