"""Models in and out: the id of a request, its body, JSON or a form, as a model, and a model as the answer."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from aiohttp import BodyPartReader, web
from aiohttp.http_exceptions import HttpProcessingError
from pydantic import BaseModel, ValidationError

from .access import Client
from .problem import Problem, of_validation
from .route import AUDIO, FORM, Route
from .schema import ApiLimits

__all__ = [
    "BESIDE",
    "CLIENT",
    "DIALECT",
    "FAILURE",
    "FORM_BYTES",
    "REQUEST_ID",
    "ROUTE",
    "UPGRADED",
    "answer",
    "expecting",
    "read_file",
    "read_form",
    "read_model",
    "read_query",
    "request_id",
]

REQUEST_ID: web.RequestKey[str] = web.RequestKey("request_id", str)
# What went wrong when the status line had left already, and the response was ended in an orderly way all the same.
FAILURE: web.RequestKey[Exception] = web.RequestKey("failure", Exception)
# How a problem is written, by its request's id, where it is not written as RFC 9457 has it.
DIALECT: web.RequestKey[Callable[[Problem, str], web.Response]] = web.RequestKey("dialect")
# Which route was taken, and who takes it.
ROUTE: web.RequestKey[Route] = web.RequestKey("route", Route)
CLIENT: web.RequestKey[Client] = web.RequestKey("client", Client)
# A WebSocket was opened, however it ends.
UPGRADED: web.RequestKey[bool] = web.RequestKey("upgraded", bool)
# Headers that the answer has beside its own.
BESIDE: web.RequestKey[dict[str, str]] = web.RequestKey("beside")

FORM_BYTES = 16 * 1024
"""Of a form, beside its file: its fields, and the heads of its parts."""

MAX_PARTS = 8
MAX_NAME_CHARS = 100
CHUNK_BYTES = 16 * 1024

_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:~+/=-]{0,127}")

Model = TypeVar("Model", bound=BaseModel)


def request_id(request: web.BaseRequest) -> str:
    """The id that the client gave in X-Request-Id, when it is fit for a header and a log line, or a new one."""
    given = request.headers.get("X-Request-Id", "")
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def expecting(
    max_bytes: int, check: Callable[[web.Request], None]
) -> Callable[[web.Request], Awaitable[web.StreamResponse | None]]:
    """What answers an Expect header: a body is invited only if it may come (RFC 9110 section 10.1.1).

    check  raises Problem when it may not, whatever its length
    """

    async def expect(request: web.Request) -> web.StreamResponse | None:
        expectation = request.headers.get("Expect", "")
        try:
            if expectation.lower() != "100-continue":
                raise Problem.of_field(
                    417, "Expect", "The only expectation that can be met is 100-continue", closes=True
                )
            check(request)
            _check_length(request, max_bytes)
        except Problem as problem:
            problem.closes = True
            return problem.response(request_id(request))
        assert request.transport is not None
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return None

    return expect


async def read_model(
    request: web.Request, model: type[Model], limits: ApiLimits, *, max_bytes: int | None = None
) -> Model:
    """The body of `request` as a `model`; it may have `limits.max_body_bytes`, or `max_bytes` if that is given.

    Raises Problem: 400 no JSON, 408 too slow, 413 too large, 415 not said to be JSON, 422 not fit for the model.
    """
    max_bytes = limits.max_body_bytes if max_bytes is None else max_bytes
    _check_type(request)
    _check_length(request, max_bytes)
    try:
        async with asyncio.timeout(limits.read_timeout_s):
            body = await request.clone(client_max_size=max_bytes).read()
    except TimeoutError:
        raise Problem(408, f"The body did not arrive within {limits.read_timeout_s:g} s.", closes=True) from None
    except web.HTTPRequestEntityTooLarge:
        raise _too_large(max_bytes) from None
    except web.RequestPayloadError as error:
        raise Problem(400, "The body is not framed as its headers say.", closes=True) from error
    try:
        return model.model_validate_json(body, context=limits)
    except ValidationError as error:
        raise of_validation(error) from None


def read_query(request: web.Request, model: type[Model]) -> Model:
    """The parameters after the path of `request`. Raises Problem: 422 not fit for the model."""
    query = request.query
    if twice := next((name for name in query if len(query.getall(name)) > 1), None):
        raise Problem.of_field(422, twice[:MAX_NAME_CHARS], "This parameter comes twice")
    try:
        return model.model_validate_strings(dict(query))
    except ValidationError as error:
        raise of_validation(error) from None


async def read_form(request: web.Request, model: type[Model], limits: ApiLimits) -> Model:
    """The body of `request`, multipart/form-data (RFC 7578), as a `model` whose field "file" takes octets.

    The file is counted while it comes, whatever the headers say. Raises Problem: 400 not framed as it says, 408 too
    slow, 413 too large, 415 not said to be a form, 422 not fit for the model.
    """
    _check_coding(request)
    if request.content_type != FORM:
        raise Problem.of_field(415, "Content-Type", f"Body should be {FORM}", closes=True)
    _check_length(request, limits.max_upload_bytes + FORM_BYTES)
    try:
        async with asyncio.timeout(limits.upload_timeout_s):
            fields = await _parts(request, limits)
    except TimeoutError:
        raise Problem(408, f"The body did not arrive within {limits.upload_timeout_s:g} s.", closes=True) from None
    except (ValueError, RuntimeError, HttpProcessingError, web.RequestPayloadError) as error:
        raise Problem(400, f"The body is not {FORM} as its headers say.", closes=True) from error
    try:
        return model.model_validate(fields, context=limits)
    except ValidationError as error:
        raise of_validation(error) from None


async def read_file(request: web.Request, limits: ApiLimits) -> bytes:
    """The body of `request`, an audio file by itself, counted while it comes.

    Raises Problem: 400 not framed as it says, 408 too slow, 413 too large, 415 not said to be audio.
    """
    _check_coding(request)
    if not request.content_type.startswith("audio/"):
        raise Problem.of_field(415, "Content-Type", f"Body should be one of those described, or {AUDIO}", closes=True)
    _check_length(request, limits.max_upload_bytes)
    file = bytearray()
    try:
        async with asyncio.timeout(limits.upload_timeout_s):
            async for chunk in request.content.iter_chunked(CHUNK_BYTES):
                file += chunk
                if len(file) > limits.max_upload_bytes:
                    raise _too_large(limits.max_upload_bytes)
    except TimeoutError:
        raise Problem(408, f"The body did not arrive within {limits.upload_timeout_s:g} s.", closes=True) from None
    except web.RequestPayloadError as error:
        raise Problem(400, "The body is not framed as its headers say.", closes=True) from error
    return bytes(file)


async def _parts(request: web.Request, limits: ApiLimits) -> dict[str, bytes | str]:
    fields: dict[str, bytes | str] = {}
    reader = await request.multipart()
    while (part := await reader.next()) is not None:
        if not isinstance(part, BodyPartReader) or part.name is None:
            raise Problem(400, "A part of the form has no name.", closes=True)
        name = part.name[:MAX_NAME_CHARS]
        if name in fields:
            raise Problem.of_field(422, name, "This field comes twice", closes=True)
        # RFC 7578 section 4.7: Content-Transfer-Encoding is deprecated, and nobody sends it over HTTP.
        if part.headers.get("Content-Transfer-Encoding", "binary").lower() not in ("binary", "8bit", "7bit"):
            raise Problem.of_field(415, name, "A part should come as it is, in no transfer encoding", closes=True)
        if "Content-Encoding" in part.headers:
            raise Problem.of_field(415, name, "A compressed part is not accepted", closes=True)
        most = limits.max_upload_bytes if name == "file" else FORM_BYTES
        content = bytearray()
        while chunk := await part.read_chunk(CHUNK_BYTES):
            content += chunk
            if len(content) > most:
                raise Problem.of_field(413, name, f"It may have {most} bytes", closes=True)
        if len(fields) == MAX_PARTS:
            raise Problem(422, f"The form may have {MAX_PARTS} fields.", closes=True)
        fields[name] = bytes(content) if name == "file" else _text(name, content)
    return fields


def _text(name: str, content: bytearray) -> str:
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise Problem.of_field(422, name, "It should be text in UTF-8", closes=True) from None
    return text


def answer(status: int, body: BaseModel, headers: Mapping[str, str] | None = None) -> web.Response:
    """A model as JSON, which nothing may keep: what it says of the server is true now."""
    return web.Response(
        status=status,
        body=body.model_dump_json().encode(),
        content_type="application/json",
        headers={"Cache-Control": "no-store", **(headers or {})},
    )


def _check_coding(request: web.Request) -> None:
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Problem.of_field(415, "Content-Encoding", "A compressed body is not accepted", closes=True)


def _check_type(request: web.Request) -> None:
    _check_coding(request)
    if request.content_type != "application/json" or (request.charset or "utf-8").lower() not in ("utf-8", "us-ascii"):
        raise Problem.of_field(415, "Content-Type", "Body should be application/json, in UTF-8")


def _check_length(request: web.Request, max_bytes: int) -> None:
    if (request.content_length or 0) > max_bytes:
        raise _too_large(max_bytes)


def _too_large(max_bytes: int) -> Problem:
    return Problem(413, f"The body may have {max_bytes} bytes.", closes=True)
