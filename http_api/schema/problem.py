"""What is wrong."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .body import Body

__all__ = ["FieldError", "ProblemDetails", "SocketError"]


class FieldError(Body):
    """What is wrong with one field, or with one header; nested fields are joined by dots."""

    field: str
    message: str


class ProblemDetails(Body):
    """An error, as RFC 9457 has it, with the fields at fault and the id that the log knows the request by."""

    type: Annotated[str, Field(description="`about:blank`: the status says it all (RFC 9457 section 4.2.1).")]
    title: str
    status: Annotated[int, Field(ge=400, le=599)]
    detail: str
    errors: tuple[FieldError, ...] = ()
    request_id: str


class SocketError(Body):
    """A WebSocket is closed, and why."""

    type: Literal["error"]
    problem: ProblemDetails
