"""A row of the table of routes: what is called, and what the description of the API says of it."""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from aiohttp import web
from pydantic import BaseModel

__all__ = ["AUDIO", "FORM", "JSON", "Access", "Answer", "Operation", "Route"]

JSON = "application/json"
FORM = "multipart/form-data"
AUDIO = "audio/*"


class Access(enum.Enum):
    """What a route asks of whoever calls it: nothing, any token, or one with this role."""

    OPEN = "open"
    TOKEN = "token"
    READ = "read"
    SPEAK = "speak"
    CALL = "call"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A response that is no problem.

    content  its body by media type: a model, an example of a text that no model has, or b"" for octets
    headers  what each header of its own says
    """

    status: int
    description: str
    content: Mapping[str, type[BaseModel] | str | bytes]
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What a client has to know of a route (OpenAPI 3.1.0 section 4.8.10).

    body      what the request carries, as `media_type`
    query     the parameters after the path
    examples  of the body, by a few words on each
    uploads   what it may carry instead, by media type: a form with a file, or b"" for a file by itself
    answers   every response that is no problem
    problems  every status that a problem may have
    problem   how a problem is told; None: as the rest of the API tells it
    models    what is sent beside the bodies
    receives  what is received beside the body
    repeats   whether Idempotency-Key makes a second request the first one again
    traced    whether what it begins may be part of a trace of the client's
    """

    summary: str
    description: str = ""
    body: type[BaseModel] | None = None
    media_type: str = JSON
    query: type[BaseModel] | None = None
    examples: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    uploads: Mapping[str, type[BaseModel] | bytes] = field(default_factory=dict)
    answers: tuple[Answer, ...]
    problems: tuple[int, ...]
    problem: type[BaseModel] | None = None
    models: tuple[type[BaseModel], ...] = ()
    receives: tuple[type[BaseModel], ...] = ()
    repeats: bool = False
    traced: bool = False


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one path. A path has one name, which is unique, and by which it is counted.

    What asks for `CALL` or `ADMIN` leaves an audit line.
    """

    name: str
    method: str
    path: str
    act: Callable[[web.Request], Awaitable[web.StreamResponse]]
    operation: Operation
    access: Access

    @property
    def id(self) -> str:
        """The operationId, unique among all routes."""
        return f"{self.method.lower()}_{self.name}"
