"""The description of the API, OpenAPI 3.1.0, made from the table of routes and the models; so it cannot drift."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, TypeAlias

from aiohttp import web
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from .examples import ANSWERS, IDS
from .problem import CONTENT_TYPE
from .route import Access, Answer, Operation, Route
from .schema import ApiLimits, ProblemDetails, SpeechFigures
from .webhooks import SIGNATURE, WEBHOOKS

__all__ = ["OPENAPI", "Description", "describe"]

Json: TypeAlias = "Mapping[str, Json] | list[Json] | str | int | float | bool | None"

ABOUT = """Text in, speech out, over the same engine that speaks into telephone calls.

Errors are problem details (RFC 9457) that name the field at fault. Every response has an `X-Request-Id`: the one that
came with the request, or a new one; the server's log knows the request by it."""

# Fields that a request is held to `ApiLimits.max_text_chars` in, wherever they are.
WORDS = frozenset({"text", "ssml", "say", "input"})

BEARER = {
    "type": "http",
    "scheme": "bearer",
    "description": "A token of the server's configuration (RFC 6750). A path names the role that a token needs for it: "
    "`read`, `speak`, `call` (which includes both) or `admin` (which includes all). One that names none takes any "
    "token. A WebSocket may bring the token as a subprotocol: `Sec-WebSocket-Protocol: mediaserver, bearer.TOKEN`.",
}

PROBLEM_HEADERS: dict[int, dict[str, str]] = {
    401: {"WWW-Authenticate": "As RFC 6750 section 3 has it."},
    405: {"Allow": "What the path allows."},
    426: {"Upgrade": "websocket"},
    429: {"Retry-After": "Whole seconds after which to ask again."},
    503: {"Retry-After": "Whole seconds after which to ask again."},
}


OPENAPI = Operation(
    summary="The description of the API",
    answers=(Answer(status=200, description="OpenAPI 3.1.", content={"application/json": "{}"}),),
    problems=(500,),
)


class Description:
    """The resource that serves the description."""

    def __init__(self, document: Json) -> None:
        self._body = json.dumps(document, ensure_ascii=False).encode()

    async def show(self, request: web.Request) -> web.Response:
        return web.Response(body=self._body, content_type="application/json")


def describe(table: Sequence[Route], *, version: str, limits: ApiLimits, guarded: bool) -> Json:
    """The whole document. `limits` stand in it where they bound a field; `guarded`: a token is asked for."""
    paths: dict[str, dict[str, Json]] = {}
    for route in table:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, guarded=guarded)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Media server",
            "version": version,
            "description": ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "webhooks": {name: {"post": _webhook(name, operation)} for name, operation in WEBHOOKS.items()},
        "components": {
            "schemas": _schemas([route.operation for route in table], WEBHOOKS.values(), limits),
            "parameters": {
                "RequestId": {
                    "name": "X-Request-Id",
                    "in": "header",
                    "description": "An id of the client's own for this request, to be found in logs.",
                    "schema": {"type": "string", "maxLength": 128},
                },
                "IdempotencyKey": {
                    "name": "Idempotency-Key",
                    "in": "header",
                    "description": "Makes it safe to send the request again: with the same key and the same body, the "
                    "answer is the first one's, and nothing is done twice.",
                    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
                },
                "TraceParent": {
                    "name": "traceparent",
                    "in": "header",
                    "description": "The span that this is part of (W3C Trace Context): the trace of the call, where "
                    "`trace.endpoint` is set, hangs below it. One that is malformed is passed over.",
                    "schema": {"type": "string", "maxLength": 512},
                },
            },
        }
        | ({"securitySchemes": {"bearer": BEARER}} if guarded else {}),
    }


def _operation(route: Route, *, guarded: bool) -> Json:
    operation = route.operation
    entrance = () if route.access is Access.OPEN else (*((401,) if guarded else ()), 400, 403, 429)
    described: dict[str, Json] = {
        "operationId": route.id,
        "summary": operation.summary,
        "parameters": [
            {"$ref": "#/components/parameters/RequestId"},
            *([{"$ref": "#/components/parameters/IdempotencyKey"}] if operation.repeats else []),
            *([{"$ref": "#/components/parameters/TraceParent"}] if operation.traced else []),
            *_path_parameters(route.path),
            *([] if operation.query is None else _query_parameters(operation.query)),
        ],
        "responses": {str(answer.status): _answer(answer) for answer in operation.answers}
        | {str(status): _problem(status, operation.problem) for status in sorted({*operation.problems, *entrance})},
    }
    if guarded:
        described["security"] = _security(route.access)
    return described | _asked(operation)


def _webhook(name: str, operation: Operation) -> Json:
    """OpenAPI 3.1.0 section 4.8.1: what this server asks of others, who know it by its signature."""
    described: dict[str, Json] = {
        "operationId": f"webhook_{name}",
        "summary": operation.summary,
        "parameters": [
            {"name": header, "in": "header", "description": says, "schema": {"type": "string"}}
            for header, says in SIGNATURE.items()
        ],
        "responses": {str(answer.status): _answer(answer) for answer in operation.answers},
        "security": [],
    }
    return described | _asked(operation)


def _asked(operation: Operation) -> dict[str, Json]:
    """The description and the body of an operation, if it has them."""
    described: dict[str, Json] = {}
    if operation.description:
        described["description"] = operation.description
    if operation.body is not None:
        media: dict[str, Any] = {"schema": _reference(operation.body)}
        if operation.examples:
            media["examples"] = {says: {"value": dict(value)} for says, value in operation.examples.items()}
        others = {media_type: _media(body) for media_type, body in operation.uploads.items()}
        described["requestBody"] = {"required": True, "content": {operation.media_type: media} | others}
    return described


def _security(access: Access) -> Json:
    """OpenAPI 3.1.0 section 4.8.30: for a scheme of HTTP, the list may name the roles that are needed."""
    if access is Access.OPEN:
        return []
    return [{"bearer": [] if access is Access.TOKEN else [access.value]}]


def _path_parameters(path: str) -> list[Json]:
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "string"},
            "example": IDS[path.partition("{")[0]],
        }
        for name in re.findall(r"\{(\w+)\}", path)
    ]


def _query_parameters(model: type[BaseModel]) -> list[Json]:
    schema = model.model_json_schema(mode="validation")
    return [
        {
            "name": name,
            "in": "query",
            "required": name in schema.get("required", ()),
            "description": field.pop("description", ""),
            "schema": field,
        }
        for name, field in schema["properties"].items()
    ]


def _answer(answer: Answer) -> Json:
    return {
        "description": answer.description,
        "headers": _headers(answer.headers),
        "content": {media_type: _media(body) | _example(body) for media_type, body in answer.content.items()},
    }


def _example(body: type[BaseModel] | str | bytes) -> dict[str, Any]:
    """Of an answer. What webhooks answer has examples in its schema."""
    return {"example": ANSWERS[body]} if isinstance(body, type) and body in ANSWERS else {}


def _media(body: type[BaseModel] | str | bytes) -> dict[str, Json]:
    match body:
        case str():
            # As OpenAPI 3.2 has it, tools take a schema of text/event-stream for that of one event's fields.
            return {"example": body}
        case bytes():
            # OpenAPI 3.1.0 section 4.7.14.3: raw binary has a media type and no schema.
            return {}
        case _:
            return {"schema": _reference(body)}


def _problem(status: int, model: type[BaseModel] | None) -> Json:
    media_type = CONTENT_TYPE if model is None else "application/json"
    return {
        "description": HTTPStatus(status).phrase,
        "headers": _headers(PROBLEM_HEADERS.get(status, {})),
        "content": {media_type: {"schema": _reference(model or ProblemDetails)}},
    }


def _headers(headers: Mapping[str, str]) -> Json:
    return {name: {"description": says, "schema": {"type": "string"}} for name, says in headers.items()}


def _reference(model: type[BaseModel]) -> Json:
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def _schemas(operations: Iterable[Operation], webhooks: Iterable[Operation], limits: ApiLimits) -> Json:
    models: dict[type[BaseModel], JsonSchemaMode] = dict.fromkeys((ProblemDetails, SpeechFigures), "serialization")
    for operation in operations:
        if operation.body is not None:
            models[operation.body] = "validation"
            models |= {body: "validation" for body in operation.uploads.values() if isinstance(body, type)}
        if operation.problem is not None:
            models[operation.problem] = "serialization"
        models |= dict.fromkeys(operation.models, "serialization")
        models |= dict.fromkeys(operation.receives, "validation")
        for answer in operation.answers:
            models |= {body: "serialization" for body in answer.content.values() if isinstance(body, type)}
    # What others are asked is what we write, and what they answer is what we read.
    for webhook in webhooks:
        if webhook.body is not None:
            models[webhook.body] = "serialization"
        for answer in webhook.answers:
            models |= {body: "validation" for body in answer.content.values() if isinstance(body, type)}
    _, schemas = models_json_schema(list(models.items()), ref_template="#/components/schemas/{model}")
    definitions: dict[str, dict[str, Any]] = schemas["$defs"]
    for model in (model for model, mode in models.items() if mode == "validation"):
        definition = definitions[model.__name__]
        for name in WORDS & definition.get("properties", {}).keys():
            text = definition["properties"][name]
            for words in (way for way in text.get("anyOf", [text]) if way["type"] == "string"):
                words["maxLength"] = min(limits.max_text_chars, words.get("maxLength", limits.max_text_chars))
    return definitions
