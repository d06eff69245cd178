"""Audio that is kept, to be played in calls."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, WithJsonSchema

from .body import Body

__all__ = ["AudioUpload", "ClipReport", "ClipUpload"]

AudioUpload = Annotated[
    bytes,
    WithJsonSchema({"type": "string", "contentMediaType": "application/octet-stream"}),
    Field(description="In any common audio format."),
]


class ClipUpload(Body):
    """Audio to be kept. As multipart/form-data (RFC 7578)."""

    file: AudioUpload


class ClipReport(Body):
    """Audio that can be played."""

    id: Annotated[str, Field(description="To be given as `clip_id`.", examples=["clip_0123456789abcdef01234567"])]
    duration_ms: int
