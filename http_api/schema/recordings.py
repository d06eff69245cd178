"""Recordings of calls."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from .body import Body

__all__ = ["RecordRequest", "RecordingList", "RecordingReport"]


class RecordRequest(Body):
    """Ask for a call to be recorded."""

    format: Annotated[
        Literal["wav"],
        Field(description="16-bit samples at 8 kHz with two channels: the peer left, and right what it was told."),
    ] = "wav"
    max_s: Annotated[
        float | None,
        Field(gt=0, le=86_400, description="The longest that it may be; `recordings.max_s` by default.", examples=[60]),
    ] = None


class RecordingReport(Body):
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


class RecordingList(Body):
    """Recordings, in the order in which they began."""

    recordings: tuple[RecordingReport, ...]
