"""Access over HTTP as an operator sets it up: a real server, its configuration, its token file and SIGHUP."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Mapping
from pathlib import Path

import aiohttp
import pytest

from mediaserver import server

from .live import serving, settings
from .test_command_line import served

ADMIN = {"name": "boss", "token": "boss-0123456789abcdef", "roles": ["admin"]}


def bearing(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def status(url: str, headers: Mapping[str, str]) -> int:
    async with aiohttp.ClientSession() as http, http.get(url, headers=headers) as response:
        return response.status


def file_of(path: Path, name: str) -> None:
    path.write_text(f'[[token]]\nname = "{name}"\ntoken = "{name}-0123456789abcdef"\nroles = ["read"]\n')


async def test_a_server_with_a_token_is_closed_and_counts_who_was_not_let_in() -> None:
    async with serving(token=[ADMIN]) as running:
        metrics = f"http://{running.http_address}/metrics"
        assert await status(metrics, {}) == 401
        assert await status(f"http://{running.http_address}/health", {}) == 200
        assert "Authorization: Bearer TOKEN" in running.banner()
        assert "boss" not in running.banner()
        async with aiohttp.ClientSession(headers=bearing("boss-0123456789abcdef")) as http, http.get(metrics) as page:
            assert 'http_refused_total{status="401"} 1.0' in await page.text()


async def test_a_token_file_is_read_anew_and_what_cannot_be_used_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "tokens.toml"
    file_of(file, "first")
    async with serving(http={"token_file": file}) as running:
        url = f"http://{running.http_address}/metrics"
        first, second = bearing("first-0123456789abcdef"), bearing("second-0123456789abcdef")
        assert [await status(url, first), await status(url, second)] == [200, 401]
        file_of(file, "second")
        running.reload()
        assert [await status(url, first), await status(url, second)] == [401, 200]
        for nothing in ("", "[[token]]\n", "token = []"):
            file.write_text(nothing)
            running.reload()
            assert [await status(url, first), await status(url, second)] == [401, 200]
        file.unlink()
        running.reload()
        assert [await status(url, {}), await status(url, second)] == [401, 200]


async def test_a_token_file_that_cannot_be_used_is_a_start_error(tmp_path: Path) -> None:
    wrong = settings(http={"token_file": tmp_path / "missing.toml"})
    with pytest.raises(server.StartError, match=r"http\.token_file: .*missing\.toml: cannot be read"):
        async with server.running(wrong):
            pass
    assert [problem.split(":")[0] for problem in await server.problems(wrong)] == ["http.token_file"]


async def test_sighup_has_the_tokens_read_anew_and_no_secret_is_in_the_log(tmp_path: Path) -> None:
    file = tmp_path / "tokens.toml"
    file_of(file, "first")
    async with served(MEDIASERVER_HTTP__TOKEN_FILE=str(file), LOG_LEVEL="debug") as (process, listens):
        url = f"{listens['http']}/metrics"
        assert await status(url, bearing("first-0123456789abcdef")) == 200
        file_of(file, "second")
        process.send_signal(signal.SIGHUP)
        async with asyncio.timeout(10):
            while await status(url, bearing("second-0123456789abcdef")) != 200:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert await status(url, bearing("first-0123456789abcdef")) == 401
        process.terminate()
        _, log = await process.communicate()
    assert b"the tokens are read anew" in log
    assert b"0123456789abcdef" not in log


async def test_an_audit_line_is_written_however_little_is_to_be_told() -> None:
    async with served(LOG_LEVEL="error") as (process, listens):
        async with aiohttp.ClientSession() as http, http.delete(f"{listens['http']}/v1/rtp/none") as response:
            assert response.status == 404
        process.terminate()
        _, log = await process.communicate()
    lines = [json.loads(line) for line in log.splitlines()]
    assert [(line["logger"], line["action"], line["status"]) for line in lines] == [
        ("http_api.audit", "delete_push", 404)
    ]
