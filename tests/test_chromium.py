"""The browser of the tests does what they ask of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.chromium import ChromiumError, chromium, needs_chromium

PAGE = """<!doctype html><title>A page</title><style>@media (prefers-color-scheme: dark) { body { background: #000 } }
</style><input id=name><button id=b onclick="document.title = 'clicked'">B</button><input type=file id=file>"""


async def show(request: web.Request) -> web.Response:
    return web.Response(text=PAGE, content_type="text/html")


@needs_chromium
async def test_a_page_is_shown_typed_into_clicked_and_looked_at(tmp_path: Path) -> None:
    app = web.Application()
    app.router.add_get("/", show)
    (tmp_path / "voice.wav").write_bytes(b"RIFF")
    async with TestServer(app) as server, chromium() as page:
        await page.goto(str(server.make_url("/")))
        await page.emulate(width=640, height=480, dark=True)
        await page.click("#name")
        await page.press("a")
        await page.press("B", shift=True)
        await page.write("cé")
        assert await page.evaluate("document.querySelector('#name').value") == "aBcé"
        await page.press("Tab")
        await page.press("Enter")
        assert await page.until("document.title == 'clicked' && document.title") == "clicked"
        await page.choose("#file", tmp_path / "voice.wav")
        assert await page.evaluate("document.querySelector('#file').files[0].name") == "voice.wav"
        assert await page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(0, 0, 0)"
        assert await page.evaluate("Promise.resolve([1, {a: null}])") == [1, {"a": None}]
        with pytest.raises(ChromiumError, match="TypeError: no"):
            await page.evaluate("(() => { throw new TypeError('no') })()")
        with pytest.raises(ChromiumError, match="never true"):
            await page.until("false", timeout_s=0.1)
        await page.evaluate("console.log('said', 1)")
        assert "log: said 1" in page.messages
        track = "navigator.mediaDevices.getUserMedia({audio: true}).then(s => s.getAudioTracks().length)"
        assert await page.evaluate(track) == 1
        await page.screenshot(tmp_path / "page.png")
    image = (tmp_path / "page.png").read_bytes()
    assert (image[:8], int.from_bytes(image[16:20]), int.from_bytes(image[20:24])) == (b"\x89PNG\r\n\x1a\n", 640, 480)
