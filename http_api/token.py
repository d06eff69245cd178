"""GET /v1/token: whom the server takes a client for, so that a program can offer what will be granted, and no more."""

from __future__ import annotations

from typing import Final, Literal

from aiohttp import web

from .intake import CLIENT, answer
from .route import Access, Answer, Operation
from .schema import TokenReport

__all__ = ["TOKEN", "show"]

TOKEN = Operation(
    summary="Who asks, and for what",
    answers=(
        Answer(
            status=200,
            description="Whom the token is of. Where no token is asked for, everybody may ask for everything.",
            content={"application/json": TokenReport},
        ),
    ),
    problems=(500,),
)

ROLES: Final[tuple[Literal["read", "speak", "call", "admin"], ...]] = ("read", "speak", "call", "admin")


async def show(request: web.Request) -> web.Response:
    client = request[CLIENT]
    opens = tuple(role for role in ROLES if Access(role) in client.opens)
    return answer(200, TokenReport(name=client.name or None, opens=opens))
