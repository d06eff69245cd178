"""Audio that is played in a call: uploaded with the order, uploaded before, or fetched; heard at the other end."""

from __future__ import annotations

import asyncio
import gzip
import io
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import av
import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

import rtp
from mediaserver import audio
from mediaserver.clips import BYTES_PER_MS, FETCHES_AT_ONCE, Clips, TooMuchAudio
from mediaserver.fetch import Fetcher
from mediaserver.server import Server
from tests.http_support import CALL, CLIP, running, says
from tests.live import likeness, occurrences, serving, settings, spoken
from tests.test_barge_in import key
from tests.test_calls_api import TEXT, WORDS, Client, api, states
from tests.test_calls_verbs import act
from tests.test_http_limits import read_response
from tests.test_http_speakers import LIMITS
from tests.test_mediaserver_audio import tone
from tests.test_referrals import phone

Told = dict[str, Any]


def recorded(samples: bytes, kind: str = "wav", *, codec: str = "pcm_s16le") -> bytes:
    """Samples at 8 kHz as an audio file."""
    file = io.BytesIO()
    with av.open(file, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=8000)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(np.frombuffer(samples, np.int16)[None], "s16", "mono")
        frame.sample_rate = 8000
        for one in (frame, None):
            container.mux(stream.encode(one))
    return file.getvalue()


def form(file: bytes, **fields: str) -> aiohttp.FormData:
    made = aiohttp.FormData(default_to_multipart=True)
    for name, value in fields.items():
        made.add_field(name, value)
    made.add_field("file", file, filename="prompt.wav")
    return made


async def upload(running: Server, path: str, data: object, **headers: str) -> tuple[int, Told]:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    url = f"http://{running.http_address}{path}"
    async with aiohttp.ClientSession() as session, session.post(url, data=data, headers=fields) as response:
        return response.status, await response.json()


async def played(client: Client, id: str, told: Told) -> Told:
    """What became of it."""
    done = await client.until(id, lambda call: all(state not in ("queued", "speaking") for state in states(call)))
    return next(dict(said) for said in done["speech"] if said["id"] == told["id"])


@pytest.mark.parametrize(("kind", "codec"), [("wav", "pcm_s16le"), ("flac", "flac"), ("au", "pcm_mulaw")])
async def test_a_file_is_heard_as_it_was_uploaded_after_what_is_queued(kind: str, codec: str) -> None:
    async with serving() as running, api(running) as client, phone() as callee:
        words = await spoken(running.engine, WORDS)
        id = await client.place(callee.uri, text="One.", then="stay")
        status, told = await upload(running, f"/v1/calls/{id}/play", form(recorded(words, kind, codec=codec)))
        assert (status, told["text"], told["speaker_id"], told["ssml"]) == (202, None, None, False)
        done = await played(client, id, told)
        assert done["state"] == "spoken"
        assert 0 <= done["spoken_ms"] - len(words) / 16 <= 20
        heard = callee.ear.heard()
        assert likeness(heard, words) > 0.98
        (first,), (second,) = occurrences(heard, await spoken(running.engine, "One.")), occurrences(heard, words)
        assert second > first


async def test_a_file_by_itself_is_played_too() -> None:
    async with serving() as running, api(running) as client, phone() as callee:
        words = await spoken(running.engine, WORDS)
        id = await client.place(callee.uri)
        status, told = await upload(running, f"/v1/calls/{id}/play", recorded(words), Content_Type="audio/wav")
        assert status == 202
        assert (await played(client, id, told))["state"] == "spoken"
        assert likeness(callee.ear.heard(), words) > 0.98


async def test_what_is_uploaded_once_is_played_in_any_call_as_often_as_it_is_wanted() -> None:
    async with serving() as running, api(running) as client, phone() as one, phone() as other:
        words = await spoken(running.engine, "Two.")
        status, clip = await upload(running, "/v1/clips", form(recorded(words)))
        assert status == 201
        assert 0 <= clip["duration_ms"] - len(words) / 16 < 10
        assert await client.ask("GET", f"/v1/clips/{clip['id']}") == (200, clip)
        for callee, repeat in ((one, 1), (other, 3)):
            id = await client.place(callee.uri)
            told = await act(client, id, "play", {"clip_id": clip["id"], "repeat": repeat}, status=202)
            assert (await played(client, id, told))["state"] == "spoken"
            assert len(occurrences(callee.ear.heard(), words)) == repeat
        assert (await client.ask("DELETE", f"/v1/clips/{clip['id']}"))[0] == 204
        for method in ("GET", "DELETE"):
            assert (await client.ask(method, f"/v1/clips/{clip['id']}"))[0] == 404
        status, problem = await client.ask("POST", f"/v1/calls/{id}/play", {"clip_id": clip["id"]})
        assert (status, problem["errors"][0]["field"]) == (404, "clip_id")


async def test_a_clip_that_goes_on_for_ever_ends_by_a_key_and_one_that_interrupts_is_heard_at_once() -> None:
    async with serving() as running, api(running) as client, phone() as callee:
        word = await spoken(running.engine, "Two.")
        id = await client.place(callee.uri, text=TEXT, then="stay")
        await client.until(id, lambda told: states(told) == ["speaking"])
        order = form(recorded(word), repeat="0", mode="interrupt", barge_in="speech,dtmf")
        status, told = await upload(running, f"/v1/calls/{id}/play", order)
        assert status == 202
        await client.until(id, lambda call: call["speech"][1]["spoken_ms"] > 3 * len(word) / 16)
        await key(callee, "5")
        done = await played(client, id, told)
        assert (done["state"], done["barged_in_by"]) == ("interrupted", "dtmf")
        assert states(await client.call(id)) == ["interrupted", "interrupted"]
        assert len(occurrences(callee.ear.heard(), word)) >= 3


@asynccontextmanager
async def site(files: dict[str, bytes]) -> AsyncIterator[TestServer]:
    async def answer(request: web.Request) -> web.Response:
        if request.path not in files:
            raise web.HTTPNotFound
        return web.Response(body=files[request.path], content_type="audio/wav")

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    async with TestServer(app) as server:
        yield server


async def test_an_address_is_fetched_where_the_configuration_allows_it_and_nowhere_else() -> None:
    words = tone(440, seconds=0.5)
    async with site({"/a.wav": words, "/text": b"Hello."}) as server:
        here = {"allow_hosts": ["127.0.0.1"]}
        async with serving(fetch=here) as running, api(running) as client, phone() as callee:
            id = await client.place(callee.uri)
            told = await act(client, id, "play", {"url": str(server.make_url("/a.wav"))}, status=202)
            done = await played(client, id, told)
            assert (done["state"], done["spoken_ms"]) == ("spoken", 500)
            for path, why in (("/text", "does not decode as audio"), ("/nothing", "127.0.0.1 answered 404")):
                status, problem = await client.ask("POST", f"/v1/calls/{id}/play", {"url": str(server.make_url(path))})
                assert (status, problem["errors"][0]["field"]) == (422, "url")
                assert why in problem["errors"][0]["message"]
        async with serving() as running, api(running) as client, phone() as callee:
            id = await client.place(callee.uri)
            status, problem = await client.ask("POST", f"/v1/calls/{id}/play", {"url": str(server.make_url("/a.wav"))})
            assert (status, problem["errors"][0]["field"]) == (403, "url")


async def test_what_is_no_audio_is_refused_and_a_bomb_in_audio_clothing_goes_no_further_than_its_decoder() -> None:
    bomb = b"RIFF\xff\xff\xff\xffWAVE" + zlib.compress(bytes(50_000_000))
    long = tone(440, seconds=3)
    async with serving(fetch={"max_audio_s": 2}) as running, api(running) as client, phone() as callee:
        id = await client.place(callee.uri)
        for file in (b"Hello, this is text.", b"", bomb, gzip.compress(bytes(10_000_000)), long):
            status, problem = await upload(running, f"/v1/calls/{id}/play", form(file))
            assert (status, problem["errors"][0]["field"]) == (422, "file"), problem
        assert "longer than 2 s" in problem["errors"][0]["message"]
        assert (await client.call(id))["speech"] == []
        status, problem = await upload(running, f"/v1/calls/{id}/play", b"text", Content_Type="audio/wav")
        assert status == 422


async def test_a_call_that_is_over_or_unknown_is_not_played_to() -> None:
    async with serving() as running, api(running) as client, phone() as callee:
        id = await client.place(callee.uri, text="One.")
        await client.ended(id)
        assert (await upload(running, f"/v1/calls/{id}/play", form(tone())))[0] == 409
        assert (await upload(running, "/v1/calls/call_nobody/play", form(tone())))[0] == 404


async def test_the_same_upload_with_the_same_key_is_played_once() -> None:
    async with serving() as running, api(running) as client, phone() as callee:
        id = await client.place(callee.uri)
        path, file = f"/v1/calls/{id}/play", tone(440, seconds=0.2)
        first = await upload(running, path, form(file), Idempotency_Key="k1")
        assert await upload(running, path, form(file), Idempotency_Key="k1") == first
        assert (await upload(running, path, form(file, repeat="2"), Idempotency_Key="k1"))[0] == 422
        assert (await upload(running, path, form(file + b"\0"), Idempotency_Key="k1"))[0] == 422
        assert len((await client.call(id))["speech"]) == 1


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "clip_id"),
        ({"url": "http://a/b", "clip_id": "clip_1"}, "clip_id"),
        ({"url": "file:///etc/passwd"}, "url"),
        ({"url": "http://a/\r\nX: b"}, "url"),
        ({"url": "http://" + "a" * 3000}, "url"),
        ({"clip_id": "clip_1", "repeat": -1}, "repeat"),
        ({"clip_id": "clip_1", "repeat": 101}, "repeat"),
        ({"clip_id": "clip_1", "mode": "now"}, "mode"),
        ({"clip_id": "clip_1", "volume": 1}, "volume"),
    ],
)
async def test_an_order_at_fault_says_which_field(body: Told, field: str) -> None:
    async with running(says()) as server, server.client.post(f"/v1/calls/{CALL.id}/play", json=body) as response:
        told = await response.json()
        assert (response.status, told["errors"][0]["field"]) == (400 if field == "volume" else 422, field)
        assert server.calls.played == []


@pytest.mark.parametrize(
    ("fields", "field"),
    [({"repeat": "often"}, "repeat"), ({"barge_in": "voice"}, "barge_in"), ({"barge_in": ""}, "barge_in")],
)
async def test_a_form_at_fault_says_which_field(fields: dict[str, str], field: str) -> None:
    path, body = f"/v1/calls/{CALL.id}/play", form(b"a", **fields)
    async with running(says()) as server, server.client.post(path, data=body) as response:
        assert (response.status, (await response.json())["errors"][0]["field"]) == (422, field)


async def test_what_is_ordered_is_what_the_server_is_asked_for() -> None:
    async with running(says()) as server:
        path = f"/v1/calls/{CALL.id}/play"
        for body in (form(b"audio", repeat="3", barge_in="dtmf"), form(b"audio", mode="interrupt", repeat="0")):
            async with server.client.post(path, data=body) as response:
                assert response.status == 202
        async with server.client.post(path, data=b"audio", headers={"Content-Type": "audio/mpeg"}) as response:
            assert response.status == 202
        first, second, third = server.calls.played
    assert (first.file, first.repeat, first.barge_in, first.interrupts) == (b"audio", 3, {"dtmf"}, False)
    assert (second.repeat, second.interrupts) == (None, True)
    assert (third.file, third.repeat, third.barge_in) == (b"audio", 1, frozenset())


@pytest.mark.parametrize("path", [f"/v1/calls/{CALL.id}/play", "/v1/clips"])
async def test_a_body_of_another_kind_is_415(path: str) -> None:
    async with running(says()) as server:
        for kind in ("text/plain", "application/octet-stream", "video/mp4"):
            async with server.client.post(path, data=b"a", headers={"Content-Type": kind}) as response:
                assert (response.status, (await response.json())["errors"][0]["field"]) == (415, "Content-Type")
        headers = {"Content-Type": "audio/wav", "Content-Encoding": "gzip"}
        async with server.client.post(path, data=gzip.compress(b"a"), headers=headers) as response:
            assert response.status == 415


async def test_a_file_that_is_too_large_is_refused_while_it_comes() -> None:
    async with running(says(), LIMITS) as server:
        for length in ("Content-Length: 1000000", "Transfer-Encoding: chunked"):
            reader, writer = await server.dial()
            writer.write(f"POST /v1/clips HTTP/1.1\r\nHost: x\r\n{length}\r\nContent-Type: audio/wav\r\n\r\n".encode())
            if "chunked" in length:
                for _ in range(4):
                    writer.write(b"8000\r\n" + bytes(0x8000) + b"\r\n")
            status, headers, _ = await read_response(reader)
            assert (status, headers["connection"]) == (413, "close")
        # One that stops coming is given up.
        reader, writer = await server.dial()
        writer.write(b"POST /v1/clips HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\nContent-Type: audio/wav\r\n\r\n")
        assert (await read_response(reader))[0] == 408


@pytest.mark.parametrize("id", ["clip_nobody", "..%2Fspeakers", "%00", "x" * 2000])
async def test_an_unknown_clip_is_404(id: str) -> None:
    async with running(says()) as server, aiohttp.ClientSession() as client:
        for method in ("GET", "DELETE"):
            async with client.request(method, f"{server.listening.url}/v1/clips/{id}") as response:
                assert response.status == 404
        async with client.get(f"{server.listening.url}/v1/clips/{CLIP.id}") as response:
            assert await response.json() == {"id": CLIP.id, "duration_ms": 1500}


@asynccontextmanager
async def clips(*, budget_ms: int) -> AsyncIterator[Clips]:
    async with Fetcher(settings(fetch={"allow_hosts": ["127.0.0.1"]}).fetch) as fetcher:
        yield Clips(fetcher, budget_bytes=budget_ms * BYTES_PER_MS, max_s=10, decoding=asyncio.Semaphore(1))


async def test_no_more_is_fetched_at_a_time_than_memory_is_meant_for() -> None:
    at_once, most = 0, 0

    async def answer(request: web.Request) -> web.Response:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.1)
        at_once -= 1
        return web.Response(body=b"no audio", content_type="audio/wav")

    app = web.Application()
    app.router.add_get("/a", answer)
    async with TestServer(app) as server, clips(budget_ms=1000) as kept:
        url = str(server.make_url("/a"))
        outcomes = await asyncio.gather(*(kept.fetched(url) for _ in range(12)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [audio.AudioError] * 12
    assert most == FETCHES_AT_ONCE == 8


async def test_what_was_not_played_for_longest_makes_room() -> None:
    async with clips(budget_ms=1000) as kept:
        ids = [kept.keep(await kept.decoded(tone(440, seconds=0.4))) for _ in range(2)]
        assert kept.find(ids[0]) is not None
        ids.append(kept.keep(await kept.decoded(tone(440, seconds=0.4))))
        assert [kept.find(id) is not None for id in ids] == [True, False, True]
        assert kept.occupied_bytes == 800 * BYTES_PER_MS
        assert kept.forget(ids[0])
        assert not kept.forget(ids[0])
        assert kept.occupied_bytes == 400 * BYTES_PER_MS


async def test_what_is_being_played_counts_although_nobody_keeps_it() -> None:
    async with clips(budget_ms=1000) as kept:
        playing = await kept.decoded(tone(440, seconds=0.8))
        assert isinstance(playing, rtp.Clip)
        with pytest.raises(TooMuchAudio, match=r"calls\.clips_mb"):
            await kept.decoded(tone(440, seconds=0.8))
        del playing
        assert (await kept.decoded(tone(440, seconds=0.8))).duration_ms == 800


async def test_audio_for_which_there_is_no_room_is_503() -> None:
    async with serving(calls={"clips_mb": 1}) as running, api(running) as client, phone() as callee:
        id = await client.place(callee.uri)
        long = form(tone(440, seconds=40, rate_hz=8000, layout="mono"))
        assert (await upload(running, f"/v1/calls/{id}/play", long))[0] == 202
        again = form(tone(440, seconds=40, rate_hz=8000, layout="mono"))
        assert (await upload(running, f"/v1/calls/{id}/play", again))[0] == 503
        await act(client, id, "stop")
        # Whatever was played has gone with the plane's last look at it.
        again = form(tone(440, seconds=40, rate_hz=8000, layout="mono"))
        assert (await upload(running, f"/v1/calls/{id}/play", again))[0] == 202


async def test_a_prompt_that_was_made_ahead_is_played_by_its_text(tmp_path: Path) -> None:
    async with serving(store={"path": str(tmp_path)}) as running, api(running) as client, phone() as callee:
        status, made = await client.ask("POST", "/v1/prompts", {"prompts": [{"text": WORDS}]})
        assert (status, made["results"][0]["status"]) == (200, "made")
        id = await client.place(callee.uri)
        told = await act(client, id, "say", {"text": WORDS}, status=202)
        assert (await played(client, id, told))["state"] == "spoken"
        url = f"http://{running.http_address}/metrics"
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            assert 'tts_cache_lookups_total{result="memory"} 1.0' in await response.text()
        assert likeness(callee.ear.heard(), await spoken(running.engine, WORDS)) > 0.98
