"""A real headless Chromium of the test's own, driven by the Chrome DevTools Protocol over the WebSocket of aiohttp."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import shutil
import tempfile
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
START_S = 30.0
ANSWER_S = 30.0

needs_chromium = pytest.mark.skipif(PROGRAM is None, reason="chromium is not installed")

FLAGS = (
    "--headless=new",
    "--remote-debugging-port=0",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--mute-audio",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    # A camera and a microphone that are made up, and nobody who would have to allow them.
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    # Loopback is an address like any other, and addresses are no secret here.
    "--allow-loopback-in-peer-connection",
    "--disable-features=WebRtcHideLocalIpsWithMdns",
)

# UI Events KeyboardEvent key Values, section 3: those that are no character, by their codes.
KEYS = {
    "Enter": 13,
    "Tab": 9,
    "Escape": 27,
    "Backspace": 8,
    "Space": 32,
    "ArrowUp": 38,
    "ArrowDown": 40,
    "ArrowLeft": 37,
    "ArrowRight": 39,
    "Home": 36,
    "End": 35,
}
SHIFT = 8


class ChromiumError(Exception):
    """The browser refused a command, or the page's script threw."""


class Page:
    """One tab.

    messages  what the page wrote to its console, and what it threw, in this order: "error: ..."
    """

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.messages: list[str] = []
        self._socket = socket
        self._number = 0
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._loaded = asyncio.Event()

    async def goto(self, url: str) -> None:
        """Show `url`; returns when it is loaded. Raises ChromiumError when it cannot be."""
        self._loaded.clear()
        told = await self.command("Page.navigate", url=url)
        if told.get("errorText"):
            raise ChromiumError(f"{url}: {told['errorText']}")
        async with asyncio.timeout(START_S):
            await self._loaded.wait()

    async def evaluate(self, script: str) -> Any:
        """The value of an expression, or what its promise is resolved with. Raises ChromiumError if it throws."""
        told = await self.command(
            "Runtime.evaluate",
            expression=script,
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,  # so that sound may begin
        )
        if fault := told.get("exceptionDetails"):
            raise ChromiumError(fault.get("exception", {}).get("description", fault["text"]))
        return told["result"].get("value")

    async def until(self, script: str, *, timeout_s: float = ANSWER_S) -> Any:
        """The value of an expression as soon as it is true."""
        try:
            async with asyncio.timeout(timeout_s):
                while not (value := await self.evaluate(script)):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
                return value
        except TimeoutError:
            raise ChromiumError(f"never true: {script}\n" + "\n".join(self.messages)) from None

    async def press(self, key: str, *, shift: bool = False) -> None:
        """Press and release a key: one character, or one of KEYS."""
        text = {"Enter": "\r", "Space": " "}.get(key, key if len(key) == 1 else "")
        code = KEYS.get(key) or ord(key.upper())
        facts = {
            "key": " " if key == "Space" else key,
            "code": key if key in KEYS else f"Key{key.upper()}" if key.isalpha() else f"Digit{key}",
            "windowsVirtualKeyCode": code,
            "modifiers": SHIFT if shift else 0,
        }
        await self.command("Input.dispatchKeyEvent", type="keyDown", **facts, **({"text": text} if text else {}))
        await self.command("Input.dispatchKeyEvent", type="keyUp", **facts)

    async def write(self, text: str) -> None:
        """Type a text into what has the focus."""
        await self.command("Input.insertText", text=text)

    async def click(self, selector: str) -> None:
        """Click the middle of an element with the mouse, scrolled into view."""
        where = await self.evaluate(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({block: 'center'}); const r = e.getBoundingClientRect();"
            "return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        facts = {"x": where[0], "y": where[1], "button": "left", "clickCount": 1}
        for kind in ("mousePressed", "mouseReleased"):
            await self.command("Input.dispatchMouseEvent", type=kind, **facts)

    async def choose(self, selector: str, *files: Path) -> None:
        """Give files to an <input type="file">."""
        root = await self.command("DOM.getDocument")
        found = await self.command("DOM.querySelector", nodeId=root["root"]["nodeId"], selector=selector)
        await self.command("DOM.setFileInputFiles", nodeId=found["nodeId"], files=[str(file) for file in files])

    async def emulate(self, *, width: int = 1280, height: int = 800, dark: bool = False) -> None:
        """A screen of that size, in dark or light."""
        await self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        await self.command("Emulation.setEmulatedMedia", features=features)

    async def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """Write what is seen, or the `whole` page, as PNG."""
        told = await self.command("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(told["data"]))  # noqa: ASYNC240

    async def command(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Any command of the protocol. Raises ChromiumError when it is refused."""
        self._number += 1
        answer = self._answers[self._number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": self._number, "method": method, "params": parameters})
        async with asyncio.timeout(ANSWER_S):
            told = await answer
        if "error" in told:
            raise ChromiumError(f"{method}: {told['error']['message']}")
        return dict(told["result"])

    async def listen(self) -> None:
        """Take what the browser tells, until it is gone."""
        async for message in self._socket:
            told = json.loads(message.data)
            if "id" in told:
                if not (answer := self._answers.pop(told["id"])).done():
                    answer.set_result(told)
                continue
            facts = told["params"]
            match told["method"]:
                case "Page.loadEventFired":
                    self._loaded.set()
                case "Runtime.consoleAPICalled":
                    words = (str(one.get("value", one.get("description", ""))) for one in facts["args"])
                    self.messages.append(f"{facts['type']}: {' '.join(words)}")
                case "Runtime.exceptionThrown":
                    fault = facts["exceptionDetails"]
                    self.messages.append(f"error: {fault.get('exception', {}).get('description', fault['text'])}")
                case "Log.entryAdded":
                    self.messages.append(f"{facts['entry']['level']}: {facts['entry']['text']}")


@asynccontextmanager
async def chromium(*flags: str) -> AsyncIterator[Page]:
    """A page of a fresh browser without any past; `flags` come after FLAGS. Needs `needs_chromium`."""
    assert PROGRAM is not None, "there is a Chromium"
    # Only root has to, and only where nothing else is at stake.
    unconfined = ("--no-sandbox",) if os.geteuid() == 0 else ()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            *(PROGRAM, f"--user-data-dir={profile}", *FLAGS, *unconfined, *flags, "about:blank"),
            stdout=DEVNULL,
            stderr=DEVNULL,
            env={**os.environ, "HOME": profile},
        )
        try:
            port = await _port(Path(profile) / "DevToolsActivePort")
            async with (
                aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
                session.get("/json/list") as response,
            ):
                tab = next(one for one in await response.json() if one["type"] == "page")
                async with session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                    page = Page(socket)
                    listening = asyncio.create_task(page.listen())
                    for domain in ("Page", "Runtime", "Log"):
                        await page.command(f"{domain}.enable")
                    yield page
                    with contextlib.suppress(ChromiumError, TimeoutError, aiohttp.ClientError):
                        await page.command("Browser.close")
                await listening
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                async with asyncio.timeout(5):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()


async def _port(file: Path) -> int:
    async with asyncio.timeout(START_S):
        while not (file.exists() and file.read_text().count("\n")):  # noqa: ASYNC110, ASYNC240
            await asyncio.sleep(0.02)
    return int(file.read_text().split()[0])  # noqa: ASYNC240
