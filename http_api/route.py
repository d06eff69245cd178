"""A row of the table of routes: what is called, and what the API's description says of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web
from pydantic import BaseModel

__all__ = ["Answer", "Route"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A successful or documented answer: `content` maps a media type to the model of its body, or to a description of
    a body that no model has. `headers` maps a header to what it says."""

    status: int
    description: str
    content: dict[str, type[BaseModel] | str]
    headers: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """`name` is unique, and is what the route is counted as. `problems` are the statuses of its problem details."""

    name: str
    method: str
    path: str
    act: Callable[[web.Request], Awaitable[web.StreamResponse]]
    summary: str
    description: str = ""
    body: type[BaseModel] | None = None
    answers: tuple[Answer, ...] = ()
    problems: tuple[int, ...] = ()
