"""The console's files as they are served: what a browser is told to allow, what it may keep, and what is not there."""

from __future__ import annotations

import re
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import pytest

import http_api
from http_api.console import POLICY

from .http_support import Api, running, says
from .test_http_access import gate

ROOT = Path(__file__).parents[1]
FOLDER = Path(http_api.__file__).parent / "console"
FILES = sorted(file.name for file in FOLDER.iterdir())
PAGES = {"/console": "index.html", "/docs": "docs.html"}


class Markup(HTMLParser):
    """The attributes of a page, and what stands in its scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.attributes: list[tuple[str, str, str]] = []
        self.inline: list[str] = []
        self._tag = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._tag = tag
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        if self._tag in ("script", "style") and data.strip():
            self.inline.append(data)


async def body(api: Api, path: str) -> bytes:
    async with api.client.get(path) as response:
        assert response.status == 200, path
        return await response.read()


async def test_the_pages_and_their_files_are_there_without_a_token() -> None:
    async with running(says(), gate=gate()) as api:
        for path, name in PAGES.items():
            assert await body(api, path) == (FOLDER / name).read_bytes()
        for name in FILES:
            async with api.client.get(f"/console/{name}") as response:
                assert (response.status, await response.read()) == (200, (FOLDER / name).read_bytes())
                types = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
                assert response.content_type == types[name.rpartition(".")[2]]
        async with api.client.get("/v1/voices") as response:
            assert response.status == 401


async def test_a_browser_is_told_to_run_and_load_nothing_else() -> None:
    async with running(says()) as api, api.client.get("/console") as response:
        headers = response.headers
    assert headers["Content-Security-Policy"] == POLICY
    for directive in (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ):
        assert directive in POLICY.split("; ")
    assert "unsafe" not in POLICY
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"


@pytest.mark.parametrize("page", PAGES.values())
def test_no_page_has_an_inline_script_or_style_or_asks_another_host(page: str) -> None:
    markup = Markup((FOLDER / page).read_text(encoding="utf-8"))
    assert markup.inline == []
    for tag, name, value in markup.attributes:
        assert not name.startswith("on"), (tag, name)
        assert name != "style", (tag, value)
        if name in ("src", "href", "action"):
            # Relative to the page, so that a proxy may put the server below a path of its own.
            assert not re.match(r"[a-z]+:|/", value), (tag, name, value)


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith((".js", ".css"))])
def test_no_file_names_another_host_or_makes_markup_of_text(name: str) -> None:
    text = (FOLDER / name).read_text(encoding="utf-8")
    assert set(re.findall(r"https?://[^\s\"'`)]+", text)) <= {"http://www.w3.org/2000/svg"}
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser", text
    )


async def test_what_a_browser_has_is_not_sent_again() -> None:
    async with running(says()) as api:
        async with api.client.get("/console/app.js") as response:
            tag = response.headers["ETag"]
            assert response.headers["Cache-Control"] == "no-cache"
        async with api.client.get("/console/app.js", headers={"If-None-Match": f'"other", {tag}'}) as response:
            assert (response.status, response.headers["ETag"], await response.read()) == (304, tag, b"")
            assert response.headers["Content-Security-Policy"] == POLICY
        async with api.client.get("/console/app.js", headers={"If-None-Match": '"other"'}) as response:
            assert response.status == 200
        async with api.client.head("/console") as response:
            assert (response.status, await response.read()) == (200, b"")
            assert int(response.headers["Content-Length"]) == (FOLDER / "index.html").stat().st_size


@pytest.mark.parametrize(
    "path",
    [
        "/console/missing.js",
        "/console/..%2f__init__.py",
        "/console/%2e%2e%2fapp.py",
        "/console/app.js%00",
        "/console/a/b",
    ],
)
async def test_nothing_else_is_there(path: str) -> None:
    async with running(says()) as api:
        _, writer = line = await api.dial()
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        assert (await line[0].read()).startswith(b"HTTP/1.1 404 ")


async def test_the_root_leads_to_the_console_and_a_page_takes_no_other_method() -> None:
    async with running(says()) as api:
        async with api.client.get("/", allow_redirects=False) as response:
            assert (response.status, response.headers["Location"]) == (302, "console")
        async with api.client.post("/console") as response:
            assert (response.status, response.headers["Allow"]) == (405, "GET, HEAD, OPTIONS")


def test_the_files_are_in_the_wheel_and_in_the_image() -> None:
    packaging = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    assert "console/*" in packaging["package-data"]["http_api"]
    assert "COPY http_api ./http_api" in (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_the_pictures_are_there_and_small_enough_for_whoever_clones() -> None:
    pictures = sorted((ROOT / "docs" / "console").glob("*.png"))
    assert len(pictures) == 10
    assert all(10_000 < picture.stat().st_size < 150_000 for picture in pictures)
    assert "](docs/console/calls.png)" in (ROOT / "README.md").read_text(encoding="utf-8")


async def test_voices_are_those_of_the_engine_the_default_first() -> None:
    async with running(says()) as api, api.client.get("/v1/voices") as response:
        told = await response.json()
    assert told == {
        "engine": "fake",
        "voices": [
            {"id": "en", "name": "English", "language": "en"},
            {"id": "de", "name": "Deutsch", "language": "de"},
        ],
    }
