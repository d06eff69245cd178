"""Texts that are made ahead."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .body import Body, SampleRate
from .problem import FieldError
from .words import Said, Speed

__all__ = ["Prompt", "PromptReport", "PromptResult", "PromptsRequest"]


class Prompt(Said):
    """A text to be made ahead. Exactly one of `text` and `ssml` is given."""

    sample_rate: Annotated[SampleRate, Field(description="Samples a second; calls want 8000.")] = 8000
    speed: Speed = 1.0
    seed: Annotated[int | None, Field(ge=0, le=2**32 - 1, description="As in /v1/synthesize.")] = None


class PromptsRequest(Body):
    """Have texts made ahead."""

    prompts: Annotated[tuple[Prompt, ...], Field(strict=False, min_length=1, max_length=100)]


class PromptResult(Body):
    """What became of one prompt."""

    status: Annotated[
        Literal["made", "kept", "failed"],
        Field(description="`made`: now. `kept`: since earlier. `failed`: see `error`."),
    ]
    duration_ms: Annotated[float, Field(description="How much speech it is.")]
    error: Annotated[FieldError | None, Field(description="Why it failed; `field` is empty where none is at fault.")]


class PromptReport(Body):
    """What became of the prompts, in the order of the request."""

    results: tuple[PromptResult, ...]
