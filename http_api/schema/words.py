"""What is to be said, and by whom."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from .body import Body, has_no_null
from .limits import ApiLimits

__all__ = ["Language", "Said", "SpeakerId", "Speed", "Wording", "Words", "can_be_spoken"]


def can_be_spoken(text: str, info: ValidationInfo) -> str:
    """The text, if there is something to say in it and it is not longer than the limits allow."""
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


Words = Annotated[str, Field(min_length=1), AfterValidator(can_be_spoken), AfterValidator(has_no_null)]
SpeakerId = Annotated[
    str,
    Field(min_length=1, max_length=128, description="A voice of the engine, or an enrolled speaker."),
    AfterValidator(has_no_null),
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


class Wording(Body):
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


class Said(Wording):
    """What is to be said, and by whom."""

    speaker_id: SpeakerId = "default"
