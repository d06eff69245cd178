"""Models in and out: the id of a request, its JSON body as a model, and a model as the answer."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Callable, Mapping
from typing import TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError

from .problem import Problem, of_validation
from .schema import ApiLimits

__all__ = ["DIALECT", "FAILURE", "REQUEST_ID", "answer", "expect", "read_model", "request_id"]

REQUEST_ID: web.RequestKey[str] = web.RequestKey("request_id", str)
# What went wrong when the status line had left already, and the response was ended in an orderly way all the same.
FAILURE: web.RequestKey[Exception] = web.RequestKey("failure", Exception)
# How a problem is written, by its request's id, where it is not written as RFC 9457 has it.
DIALECT: web.RequestKey[Callable[[Problem, str], web.Response]] = web.RequestKey("dialect")

_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:~+/=-]{0,127}")

Model = TypeVar("Model", bound=BaseModel)


def request_id(request: web.BaseRequest) -> str:
    """The id that the client gave in X-Request-Id, when it is fit for a header and a log line, or a new one."""
    given = request.headers.get("X-Request-Id", "")
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


async def expect(request: web.Request) -> web.StreamResponse | None:
    """Answer an Expect header: invite the body only if it may come (RFC 9110 section 10.1.1)."""
    expectation = request.headers.get("Expect", "")
    try:
        if expectation.lower() != "100-continue":
            raise Problem.of_field(417, "Expect", "The only expectation that can be met is 100-continue", closes=True)
        _check_length(request, request.client_max_size)
    except Problem as problem:
        return problem.response(request_id(request))
    assert request.transport is not None
    request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    return None


async def read_model(request: web.Request, model: type[Model], limits: ApiLimits) -> Model:
    """The body of `request` as a `model`.

    Raises Problem: 400 no JSON, 408 too slow, 413 too large, 415 not said to be JSON, 422 not fit for the model.
    """
    _check_type(request)
    _check_length(request, limits.max_body_bytes)
    try:
        async with asyncio.timeout(limits.read_timeout_s):
            body = await request.read()
    except TimeoutError:
        raise Problem(408, f"The body did not arrive within {limits.read_timeout_s:g} s.", closes=True) from None
    except web.HTTPRequestEntityTooLarge:
        raise _too_large(limits.max_body_bytes) from None
    except web.RequestPayloadError as error:
        raise Problem(400, "The body is not framed as its headers say.", closes=True) from error
    try:
        return model.model_validate_json(body, context=limits)
    except ValidationError as error:
        raise of_validation(error) from None


def answer(status: int, body: BaseModel, headers: Mapping[str, str] | None = None) -> web.Response:
    """A model as JSON, which nothing may keep: what it says of the server is true now."""
    return web.Response(
        status=status,
        body=body.model_dump_json().encode(),
        content_type="application/json",
        headers={"Cache-Control": "no-store", **(headers or {})},
    )


def _check_type(request: web.Request) -> None:
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Problem.of_field(415, "Content-Encoding", "A compressed body is not accepted", closes=True)
    if request.content_type != "application/json" or (request.charset or "utf-8").lower() not in ("utf-8", "us-ascii"):
        raise Problem.of_field(415, "Content-Type", "Body should be application/json, in UTF-8")


def _check_length(request: web.Request, max_bytes: int) -> None:
    if (request.content_length or 0) > max_bytes:
        raise _too_large(max_bytes)


def _too_large(max_bytes: int) -> Problem:
    return Problem(413, f"The body may have {max_bytes} bytes.", closes=True)
