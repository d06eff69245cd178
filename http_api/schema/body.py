"""What bodies of more than one resource are made of."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError
from yarl import URL

__all__ = [
    "G711_RATE_HZ",
    "Body",
    "Codec",
    "Line",
    "Reference",
    "SampleRate",
    "WebAddress",
    "has_no_null",
    "is_printable",
    "suits",
]


class Body(BaseModel):
    """What every body is: strict, closed and frozen."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


def has_no_null(value: str) -> str:
    if "\0" in value:
        raise PydanticCustomError("null_character", "Value should not contain U+0000")
    return value


def is_printable(value: str) -> str:
    if not value.isprintable():
        raise PydanticCustomError("one_line", "Value should be one line of printable text")
    return value


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


Line = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(is_printable)]
Reference = Annotated[str, Field(min_length=1, max_length=2048), AfterValidator(_is_reference)]
WebAddress = Annotated[str, Field(min_length=1, max_length=2048), AfterValidator(_is_web_address)]
SampleRate = Literal[8000, 16000, 24000]
Codec = Literal["PCMU", "PCMA"]
G711_RATE_HZ = 8000


def suits(coding: str | None, rate_hz: int) -> int:
    """The rate, if audio of that coding can have it."""
    if coding in ("mulaw", "alaw") and rate_hz != G711_RATE_HZ:
        raise PydanticCustomError(
            "rate_not_of_format", "Format {format} has a sample rate of 8000 and no other", {"format": coding}
        )
    return rate_hz
