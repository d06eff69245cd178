"""/console, where an operator sees and hears the server, and /docs, where the API is described: pages for people.

They are plain files, kept in the folder console/ beside this module, which hold no data and so ask for no token; what
they show they ask of the API, as any other client does. A browser is told to run and to load nothing else: no inline
script, no other host, no frame around them, and no text that becomes markup (Trusted Types), because what comes from a
call, such as a caller's name, was written by a stranger.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import PurePath

from aiohttp import web

from .problem import Problem
from .route import Answer, Operation

__all__ = ["FILE", "PAGE", "ROOT", "Console"]

TYPES: Mapping[str, str] = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "media-src 'self' blob:",  # what was synthesised, to be heard again
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)

HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "microphone=(self), camera=(), display-capture=(), geolocation=(), payment=(), usb=()",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    # Kept, and asked for again each time: the ETag makes that a 304, and a new version is there at once.
    "Cache-Control": "no-cache",
}

PAGE = Operation(
    summary="A page for people",
    answers=(Answer(status=200, description="It.", content={"text/html": b""}),),
    problems=(500,),
)
FILE = Operation(
    summary="A file of a page",
    answers=(Answer(status=200, description="It.", content={"text/css": b"", "text/javascript": b""}),),
    problems=(404, 500),
)
ROOT = Operation(
    summary="The way to the console",
    answers=(Answer(status=302, description="It is there.", content={}),),
    problems=(500,),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    body: bytes
    content_type: str
    etag: str


class Console:
    """The pages, read once when the server starts."""

    def __init__(self) -> None:
        folder = resources.files(__package__) / "console"
        self._files = {file.name: _read(file.name, file.read_bytes()) for file in folder.iterdir()}

    async def console(self, request: web.Request) -> web.Response:
        return self._answer(request, "index.html")

    async def docs(self, request: web.Request) -> web.Response:
        return self._answer(request, "docs.html")

    async def file(self, request: web.Request) -> web.Response:
        return self._answer(request, request.match_info["file"])

    async def root(self, request: web.Request) -> web.Response:
        # Relative, since a proxy may have put the server below a path of its own (RFC 9110 section 10.2.2).
        return web.Response(status=302, headers={"Location": "console", "Cache-Control": "no-cache"})

    def _answer(self, request: web.Request, name: str) -> web.Response:
        file = self._files.get(name)
        if file is None:
            raise Problem(404, "There is nothing at this path.")
        if any(tag.value in (file.etag, "*") for tag in request.if_none_match or ()):
            response = web.Response(status=304, headers=HEADERS)
        else:
            response = web.Response(body=file.body, headers={**HEADERS, "Content-Type": file.content_type})
        response.etag = file.etag
        return response


def _read(name: str, body: bytes) -> _File:
    return _File(body=body, content_type=TYPES[PurePath(name).suffix], etag=hashlib.sha256(body).hexdigest()[:32])
