"""Speakers on a running server: enrolled by HTTP, spoken with everywhere."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest

from mediaserver.server import Server
from rtp import g711
from tests.engines_support import pitch_hz
from tests.live import Ear, heard, likeness, serving
from tests.speakers_support import RATE_HZ, form, somebody, wav_of

TEXT = "Speakers have voices of their own."


@dataclass
class Running:
    server: Server
    http: aiohttp.ClientSession

    async def enrol(self, file: bytes, name: str = "Ada", **fields: str) -> dict[str, Any]:
        async with self.http.post("/v1/speakers", data=form(file, name=name, **fields)) as response:
            assert response.status == 201, await response.text()
            told: dict[str, Any] = await response.json()
            return told

    async def say(self, speaker: str, text: str = TEXT) -> bytes:
        order = {"text": text, "speaker_id": speaker, "format": "pcm"}
        async with self.http.post("/v1/synthesize", json=order) as response:
            assert response.status == 200, await response.text()
            return await response.read()


@asynccontextmanager
async def api(**sections: Any) -> AsyncIterator[Running]:
    async with (
        serving(**sections) as server,
        aiohttp.ClientSession(f"http://{server.http_address}", timeout=aiohttp.ClientTimeout(total=20)) as http,
    ):
        yield Running(server, http)


def store(path: Path) -> dict[str, str]:
    return {"path": str(path)}


async def test_a_speaker_is_enrolled_and_speaks_after_a_restart_too(tmp_path: Path) -> None:
    async with api(store=store(tmp_path)) as running:
        speaker = await running.enrol(wav_of(somebody()), consent="yes")
        assert (speaker["name"], speaker["engine"], speaker["cloning"]) == ("Ada", "espeak", False)
        assert speaker["duration_s"] == pytest.approx(len(somebody()) / RATE_HZ, abs=0.01)
        spoken = await running.say(speaker["id"])
        assert likeness(spoken, await running.say("default")) < 0.5
    async with api(store=store(tmp_path)) as running:
        assert likeness(await running.say(speaker["id"]), spoken) > 0.99
        async with running.http.get("/v1/speakers") as response:
            assert await response.json() == [speaker]
        async with running.http.get(f"/v1/speakers/{speaker['id']}") as response:
            embedding = (await response.json())["embedding"]
        assert embedding["kind"] == "voice-profile-1"
        assert embedding["figures"]["median_f0_hz"] == pytest.approx(218, rel=0.1)


async def test_a_speaker_is_taken_wherever_a_voice_is(tmp_path: Path) -> None:
    async with api(store=store(tmp_path)) as running:
        speaker = (await running.enrol(wav_of(somebody())))["id"]
        spoken = await running.say(speaker)
        order = {"text": TEXT, "speaker_id": speaker}
        async with running.http.post("/v1/synthesize/stream", json=order) as response:
            assert b"event: done" in await response.read()
        order = {"model": "espeak", "voice": speaker, "input": TEXT, "response_format": "mulaw"}
        async with running.http.post("/v1/audio/speech", json=order) as response:
            assert likeness(g711.mulaw_decode(await response.read()), spoken) > 0.95
        order = {"text": TEXT, "speaker_id": speaker}
        with Ear() as ear:
            push = order | {"host": "127.0.0.1", "port": ear.port}
            async with running.http.post("/v1/rtp", json=push) as response:
                assert response.status == 201
                id = (await response.json())["id"]
            async with asyncio.timeout(20):
                while True:
                    async with running.http.get(f"/v1/rtp/{id}") as response:
                        if (await response.json())["state"] != "streaming":
                            break
                    await asyncio.sleep(0.05)
            assert likeness(ear.heard(), spoken) > 0.95
        outcome = await heard(running.server, text=TEXT, voice=speaker)
        assert likeness(outcome.heard, spoken) > 0.95
    async with api(store=store(tmp_path), route=[{"user": "7", "say": TEXT, "voice": speaker}]) as running:
        outcome = await heard(running.server, "7")
        assert likeness(outcome.heard, spoken) > 0.95


async def test_a_renamed_speaker_is_the_same_and_a_deleted_one_is_gone_everywhere(tmp_path: Path) -> None:
    async with api(store=store(tmp_path), engine={"name": "tone", "workers": 1}) as running:
        speaker = await running.enrol(wav_of(somebody()))
        one = f"/v1/speakers/{speaker['id']}"
        before = await running.say(speaker["id"])
        async with running.http.patch(one, json={"name": "Countess"}) as response:
            assert await response.json() == speaker | {"name": "Countess"}
        assert await running.say(speaker["id"]) == before
        async with running.http.delete(one) as response:
            assert response.status == 204
        for method, path, body in (
            ("GET", one, None),
            ("DELETE", one, None),
            ("PATCH", one, {"name": "x"}),
            ("POST", "/v1/synthesize", {"text": TEXT, "speaker_id": speaker["id"]}),
        ):
            async with running.http.request(method, path, json=body) as response:
                assert response.status == 404, method
                assert f"there is no speaker '{speaker['id']}'" in (await response.json())["detail"]
        outcome = await heard(running.server, text=TEXT, voice=speaker["id"])
        assert outcome.status == 404
        assert list((tmp_path / "speakers").iterdir()) == []


async def test_a_route_whose_speaker_is_missing_keeps_no_server_from_starting(tmp_path: Path) -> None:
    route = {"user": "7", "say": TEXT, "voice": "spk_" + "0" * 24}
    async with api(store=store(tmp_path), engine={"name": "tone", "workers": 1}, route=[route]) as running:
        assert (await heard(running.server, "7")).status == 404


async def test_another_engine_learns_a_speaker_from_the_recording(tmp_path: Path) -> None:
    """An embedding is an engine's own, and the recording is kept: what was enrolled need not be enrolled again."""
    async with api(store=store(tmp_path)) as running:
        speaker = (await running.enrol(wav_of(somebody())))["id"]
        async with running.http.get(f"/v1/speakers/{speaker}") as response:
            pitch = (await response.json())["embedding"]["figures"]["median_f0_hz"]
    with sqlite3.connect(tmp_path / "speakers.sqlite3") as base:
        base.execute("UPDATE embedding SET kind = 'of another engine'")
    async with api(store=store(tmp_path), engine={"name": "tone", "workers": 1}) as running:
        tone = np.frombuffer(await running.say(speaker), np.int16)
        assert pitch_hz(tone[:4000], 8000) == pytest.approx(pitch, rel=0.03)


@pytest.mark.parametrize(
    ("file", "complaint"),
    [
        (lambda: b"This is text, and no audio.", "does not decode as audio"),
        (lambda: wav_of(somebody()[: 2 * RATE_HZ]), "it lasts 2.0 s; record at least 3 s of speech"),
        (lambda: wav_of(np.concatenate([somebody()] * 4)), "it is longer than 60 s"),
        (lambda: wav_of(np.zeros(4 * RATE_HZ, np.int16)), "it is silent"),
    ],
)
async def test_a_recording_that_will_not_do_is_422_and_leaves_nothing(
    file: Callable[[], bytes], complaint: str, tmp_path: Path
) -> None:
    async with api(store=store(tmp_path), engine={"name": "tone", "workers": 1}) as running:
        async with running.http.post("/v1/speakers", data=form(file(), name="Ada")) as response:
            problem = await response.json()
            assert (response.status, problem["errors"][0]["field"]) == (422, "file")
            assert complaint in problem["detail"]
        assert list((tmp_path / "speakers").iterdir()) == []


async def test_there_are_no_more_speakers_than_the_configuration_allows(tmp_path: Path) -> None:
    sections = {"store": store(tmp_path), "engine": {"name": "tone", "workers": 1}, "speakers": {"max_speakers": 1}}
    async with api(**sections) as running:
        await running.enrol(wav_of(somebody()))
        async with running.http.post("/v1/speakers", data=form(wav_of(somebody()), name="Bob")) as response:
            assert (response.status, "no more may be" in await response.text()) == (409, True)


async def test_a_store_that_fails_is_503_for_speakers_and_nothing_for_voices(tmp_path: Path) -> None:
    async with api(store=store(tmp_path), engine={"name": "tone", "workers": 1}) as running:
        speaker = (await running.enrol(wav_of(somebody())))["id"]
        with sqlite3.connect(tmp_path / "speakers.sqlite3") as base:
            base.execute("DROP TABLE embedding")
        async with running.http.post("/v1/synthesize", json={"text": "x", "speaker_id": speaker}) as response:
            assert (response.status, response.headers["Retry-After"]) == (503, "5")
            assert str(tmp_path) not in json.dumps(await response.json())
        outcome = await heard(running.server, text=TEXT, voice=speaker)
        assert outcome.status == 503
        assert await running.say("tone-880")
