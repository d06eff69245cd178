"""Errors as the client sees them: RFC 9457 problem details.

`Problem` is what a handler raises; `of_validation`, `of_control` and `of_http` translate what others raise. Nothing of
an unexpected error reaches the client but its status.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus

from aiohttp import web
from pydantic import ValidationError

from .control import Busy, Conflict, ControlError, FieldFault, Forbidden, NotFound, Refused, Unsupported
from .schema import FieldError, ProblemDetails

__all__ = ["Problem", "of_control", "of_http", "of_validation"]

CONTENT_TYPE = "application/problem+json"

# A body of a thousand bad fields is answered by its first few.
MAX_ERRORS = 8
MAX_FIELD_CHARS = 100

# Where pydantic's words are about Python, or about its own options.
UNKNOWN = "extra_forbidden"
MESSAGES = {
    UNKNOWN: "There is no such field",
    "missing": "This field is required",
    "model_type": "Body should be a JSON object",
}

FAULTS: Mapping[type[FieldFault], int] = {Unsupported: 400, Forbidden: 403, NotFound: 404, Conflict: 409, Refused: 422}


class Problem(Exception):
    """An answer of 4xx or 5xx. `detail` is a sentence for whoever wrote the client."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
        closes: bool = False,
    ) -> None:
        """`closes`: the connection ends with this answer, because what follows on it cannot be told apart."""
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = tuple(errors)
        self.headers = dict(headers or {})
        self.closes = closes

    @classmethod
    def of_field(cls, status: int, field: str, message: str, *, closes: bool = False) -> Problem:
        """A problem with one field of the body, or with one header."""
        return cls(status, f"{field}: {message}", errors=[FieldError(field=field, message=message)], closes=closes)

    @classmethod
    def of_overload(cls, status: int, detail: str, *, retry_after_s: float) -> Problem:
        """429 or 503. Retry-After is a whole number of seconds and at least 1 (RFC 9110 section 10.2.3)."""
        return cls(status, detail, headers={"Retry-After": str(max(1, math.ceil(retry_after_s)))})

    def details(self, request_id: str) -> ProblemDetails:
        return ProblemDetails(
            type="about:blank",
            title=HTTPStatus(self.status).phrase,
            status=self.status,
            detail=self.detail,
            errors=self.errors,
            request_id=request_id,
        )

    def response(self, request_id: str) -> web.Response:
        body = self.details(request_id).model_dump_json().encode()
        headers = {**self.headers, "X-Request-Id": request_id}
        response = web.Response(status=self.status, body=body, content_type=CONTENT_TYPE, headers=headers)
        if self.closes:
            response.force_close()
        return response


def of_validation(error: ValidationError) -> Problem:
    """400 for a body that is no JSON, or has a field that there is not; 422 for one that does not fit the model."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    if faults[0]["type"] == "json_invalid":
        return Problem(400, faults[0]["msg"])
    errors = [
        FieldError(
            field=".".join(map(str, fault["loc"]))[:MAX_FIELD_CHARS],
            message=MESSAGES.get(fault["type"], fault["msg"]),
        )
        for fault in faults[:MAX_ERRORS]
    ]
    detail = "; ".join(f"{error.field}: {error.message}" if error.field else error.message for error in errors)
    status = 400 if any(fault["type"] == UNKNOWN for fault in faults) else 422
    return Problem(status, detail, errors=[error for error in errors if error.field])


def of_control(error: ControlError) -> Problem:
    """The status that FAULTS has for a field at fault, 503 when there is no room, otherwise 500."""
    match error:
        case FieldFault():
            return Problem.of_field(FAULTS[type(error)], error.field, str(error))
        case Busy():
            return Problem.of_overload(503, str(error), retry_after_s=error.retry_after_s)
        case _:
            return Problem(500, "The speech could not be made. The server's log knows this request by its id.")


def of_http(error: web.HTTPException) -> Problem:
    """What aiohttp raises by itself: no such path, method not allowed, body too large."""
    match error:
        case web.HTTPNotFound():
            return Problem(404, "There is nothing at this path.")
        case web.HTTPMethodNotAllowed():
            allow = ", ".join(sorted(error.allowed_methods))
            return Problem(405, f"This path allows {allow}.", headers={"Allow": allow})
        case _:
            return Problem(error.status, HTTPStatus(error.status).description or error.reason)
