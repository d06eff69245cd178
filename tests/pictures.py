"""The pictures of the console in docs/console/: `python -m tests.pictures` takes them anew, of a real server.

They show what is there, so a look that has changed shows in the next ones; tests/test_console.py says what has to hold.
"""

from __future__ import annotations

import asyncio
import json
import struct
import tempfile
import zlib
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import av
import numpy as np

from mediaserver import server
from tests.chromium import Page, chromium
from tests.live import heard, serving
from tests.speakers_support import somebody, wav_of
from tests.test_calls_api import Client, api
from tests.test_calls_verbs import friend

FOLDER = Path(__file__).parents[1] / "docs" / "console"
MOST_BYTES = 150_000
WIDE, HIGH, NARROW = 1200, 800, 390

ROUTES = [
    {
        "user": "harbour",
        "say": "Welcome to the harbour office. All of our lines are open from nine to five, and the tide tables are "
        "read out every quarter of an hour. High water this afternoon is at half past three, with four metres and "
        "twenty over the sill, so please mind the moorings. Yachts of more than twelve metres are asked to call on "
        "channel twelve before they pass the outer wall.",
        "repeat": 20,
        "delay_ms": 2000,
        "voice": "en-gb-x-rp",
    },
    {"user": "hello", "say": "Hello, and welcome. Press 1 for opening hours, or stay on the line.", "then": "stay"},
]


async def take() -> None:
    """Take all of them."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        store = stack.enter_context(tempfile.TemporaryDirectory())
        running = await stack.enter_async_context(serving(route=ROUTES, store={"path": store}))
        client = await stack.enter_async_context(api(running))
        callee = await stack.enter_async_context(friend())
        microphone = Path(store) / "microphone.wav"
        microphone.write_bytes(wav_of(somebody()))
        page = await stack.enter_async_context(chromium(f"--use-file-for-fake-audio-capture={microphone}"))
        await _enrol(running, "Ada", "In writing, 2026-11-25", "en-us+f3")
        await _enrol(running, "Grace", "By telephone, recorded, 2026-11-20", "en-us+f2")
        await page.emulate(width=WIDE, height=HIGH)
        await page.goto(f"http://{running.http_address}/console")
        calls = []
        for number in range(8):
            lasts_s, user = (300.0, "harbour") if number % 3 == 0 else (9.0, "hello")
            calls.append(asyncio.create_task(heard(running, user, seconds=lasts_s)))
            await page.evaluate(
                "fetch('/v1/synthesize', {method: 'POST', headers: {'Content-Type': 'application/json'},"
                f"body: JSON.stringify({{text: 'Berth number {number} is free.'}})}}).then(r => r.blob()).then(() => 0)"
            )
            await asyncio.sleep(6)
            if number == 5:
                await client.place(callee.uri, text="Your boat is ready.", **{"from": "sip:desk@example.com"})
        await _speech(page)
        await _voices(page)
        await _calls(page, client)
        await _phone(page)
        await _view(page, "health")
        await _shoot(page, "health", whole=True)
        await page.emulate(width=WIDE, height=HIGH, dark=True)
        await _shoot(page, "health-dark", whole=True)
        await page.emulate(width=WIDE, height=HIGH)
        await page.goto(f"http://{running.http_address}/docs#post_say")
        await page.until("document.querySelectorAll('.operation').length > 20")
        await _shoot(page, "docs")
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)


async def _speech(page: Page) -> None:
    await _view(page, "speech")
    await page.evaluate("document.getElementById('speak-voice').value = 'en-gb-x-rp'")
    await page.click("#speak button.primary")
    await page.until("document.getElementById('heard-audio').duration > 0.5")
    await asyncio.sleep(1.2)
    await _shoot(page, "speech")
    await page.until("document.getElementById('speak').getAttribute('aria-busy') !== 'true'")
    await page.emulate(width=WIDE, height=HIGH, dark=True)
    await _shoot(page, "speech-dark")
    await page.emulate(width=WIDE, height=HIGH)


async def _voices(page: Page) -> None:
    await _view(page, "voices")
    await page.until("document.querySelectorAll('#speakers li').length == 2")
    await _shoot(page, "voices")


async def _calls(page: Page, client: Client) -> None:
    await _view(page, "calls")
    _, told = await client.ask("GET", "/v1/calls")
    first = next(call["id"] for call in told["calls"] if call["state"] == "up" and "harbour" in call["to"])
    await client.ask("POST", f"/v1/calls/{first}/say", {"text": "One moment, please: somebody will be with you."})
    await _view(page, f"calls/{first}")
    await page.until("document.querySelectorAll('#spoken li').length > 1")
    await asyncio.sleep(12)
    await page.evaluate("document.activeElement.blur()")
    await _shoot(page, "calls", whole=True)
    await page.emulate(width=WIDE, height=HIGH, dark=True)
    await _shoot(page, "calls-dark", whole=True)
    await _view(page, "calls")
    await page.emulate(width=NARROW, height=HIGH)
    await _shoot(page, "calls-narrow")
    await page.emulate(width=WIDE, height=HIGH)


async def _phone(page: Page) -> None:
    await _view(page, "phone")
    await page.evaluate("document.getElementById('dial-to').value = 'harbour'")
    await page.click("#dial-go")
    await page.until("!document.getElementById('talk').hidden")
    await page.until("document.getElementById('hear-level').ariaValueNow > 30")
    await page.click("[data-digit='1']")
    await asyncio.sleep(2)
    await page.evaluate("document.activeElement.blur()")
    await _shoot(page, "phone")
    await page.click("#phone-hang-up")


async def _view(page: Page, view: str) -> None:
    await page.evaluate(f"location.hash = {json.dumps(view)}")
    await page.until(f"!document.getElementById('view-{view.partition('/')[0]}').hidden")
    await asyncio.sleep(0.5)


async def _shoot(page: Page, name: str, *, whole: bool = False) -> None:
    await page.evaluate("document.getElementById('toasts')?.replaceChildren(); scrollTo(0, 0)")
    await asyncio.sleep(0.3)
    file = FOLDER / f"{name}.png"
    await page.screenshot(file, whole=whole)
    file.write_bytes(_small(file))
    assert file.stat().st_size < MOST_BYTES, file


def _small(file: Path) -> bytes:
    """The picture in 256 colours: those that are most of it, and those that would be missed the most."""
    with av.open(file) as opened:
        pixels = next(opened.decode(video=0)).to_ndarray(format="rgb24")
    height, width, _ = pixels.shape
    colours, which, counts = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True, return_counts=True)
    values = colours.astype(int)
    chosen = list(np.argsort(-counts)[:128])
    nearest = ((values[:, None] - values[chosen]) ** 2).sum(axis=2).min(axis=1)
    while len(chosen) < 256:
        chosen.append(int(np.argmax(nearest * np.sqrt(counts))))
        nearest = np.minimum(nearest, ((values - values[chosen[-1]]) ** 2).sum(axis=1))
    palette = colours[chosen]
    distance = ((values[:, None] - values[chosen]) ** 2).sum(axis=2)
    rows = np.zeros((height, width + 1), np.uint8)  # each begins with its filter, which is none
    rows[:, 1:] = distance.argmin(axis=1).astype(np.uint8)[which].reshape(height, width)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    # ISO/IEC 15948 section 11.2: 8 bits, of a palette.
    head = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    chunks = (chunk(b"IHDR", head), chunk(b"PLTE", palette.tobytes()), chunk(b"IDAT", zlib.compress(rows.tobytes(), 9)))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + chunk(b"IEND", b"")


async def _enrol(running: server.Server, name: str, consent: str, voice: str) -> None:
    form = aiohttp.FormData()
    for field, value in (("name", name), ("consent", consent)):
        form.add_field(field, value)
    form.add_field("file", wav_of(somebody(voice)), filename="voice.wav")
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"http://{running.http_address}/v1/speakers", data=form) as response,
    ):
        assert response.status == 201, await response.text()


if __name__ == "__main__":
    asyncio.run(take())
