"""/v1/speakers over HTTP: forms are read as they come, and refused as soon as it is known why."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from http_api import ApiLimits, SpeakerOrder

from .http_support import SPEAKER, Api, running, says
from .speakers_support import form
from .test_http_limits import read_response

PATH = "/v1/speakers"
LIMITS = ApiLimits(max_upload_bytes=100_000, max_uploads=2, upload_timeout_s=0.3)
REPORT = {
    "id": SPEAKER.id,
    "name": "Ada",
    "consent": None,
    "created_at": "2026-11-25T12:00:00Z",
    "engine": "fake",
    "cloning": True,
    "duration_s": 12.5,
    "speech_s": 10.25,
    "level_db": -21.5,
}


async def refused(api: Api, data: object, **headers: str) -> tuple[int, str]:
    async with api.client.post(PATH, data=data, headers=headers) as response:
        assert response.content_type == "application/problem+json"
        return response.status, (await response.json())["detail"]


async def test_a_form_enrols_a_speaker() -> None:
    async with running(says(), LIMITS) as api:
        file = bytes(range(256)) * 300
        async with api.client.post(PATH, data=form(file, name="Ada", consent="by letter")) as response:
            assert (response.status, await response.json()) == (201, REPORT)
            assert response.headers["Location"] == f"/v1/speakers/{SPEAKER.id}"
        assert api.control.enrolled == [SpeakerOrder(file=file, name="Ada", consent="by letter")]


async def test_speakers_are_listed_shown_renamed_and_deleted() -> None:
    one = f"{PATH}/{SPEAKER.id}"
    async with running(says()) as api:
        async with api.client.get(PATH) as response:
            assert (response.status, await response.json()) == (200, [REPORT])
        async with api.client.get(one) as response:
            embedding = {"kind": "fake-1", "data": "AP8=", "figures": {"median_f0_hz": 120.5}}
            assert (response.status, await response.json()) == (200, REPORT | {"embedding": embedding})
        async with api.client.patch(one, json={"name": "Countess"}) as response:
            assert (response.status, await response.json()) == (200, REPORT | {"name": "Countess"})
        async with api.client.delete(one) as response:
            assert (response.status, await response.read()) == (204, b"")


@pytest.mark.parametrize("id", ["nobody", "..%2F..%2Fetc%2Fpasswd", "%00", "spk_", "x" * 2000, "%E2%80%AE"])
@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
async def test_an_unknown_or_path_like_id_is_404(method: str, id: str) -> None:
    async with running(says()) as api:
        body = {"name": "x"} if method == "PATCH" else None
        url = api.listening.url + f"{PATH}/{id}"
        async with aiohttp.ClientSession() as client, client.request(method, url, json=body) as response:
            assert response.status == 404


@pytest.mark.parametrize(
    ("fields", "status", "detail"),
    [
        ({}, 422, "name: This field is required"),
        ({"name": ""}, 422, "name: String should have at least 1 character"),
        ({"name": " "}, 422, "name: Name should be one line of printable text"),
        ({"name": "a\r\nSet-Cookie: b"}, 422, "name: Name should be one line of printable text"),
        ({"name": "x" * 101}, 422, "name: String should have at most 100 characters"),
        ({"name": "Ada", "consent": "x" * 2001}, 422, "consent: String should have at most 2000 characters"),
        ({"name": "Ada", "voice": "x"}, 400, "voice: There is no such field"),
        ({"name": "x" * 20_000}, 413, "name: It may have 16384 bytes"),
    ],
)
async def test_a_field_at_fault_is_named(fields: dict[str, str], status: int, detail: str) -> None:
    async with running(says(), LIMITS) as api:
        assert await refused(api, form(b"audio", **fields)) == (status, detail)
        assert api.control.enrolled == []


async def test_a_field_that_is_missing_or_comes_twice_is_named() -> None:
    async with running(says(), LIMITS) as api:
        nothing = aiohttp.FormData(default_to_multipart=True)
        nothing.add_field("name", "Ada")
        assert await refused(api, nothing) == (422, "file: This field is required")
        twice = form(b"audio", name="Ada")
        twice.add_field("name", "Bob")
        assert await refused(api, twice) == (422, "name: This field comes twice")


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{}", {"Content-Type": "application/json"}, 415),
        (b"", {"Content-Type": "multipart/form-data"}, 400),
        (b"--x\r\n", {"Content-Type": "multipart/form-data; boundary=" + "x" * 80}, 400),
        (b"no boundary in it", {"Content-Type": "multipart/form-data; boundary=x"}, 400),
        (b"--x\r\nnot a header\r\n\r\nabc\r\n--x--\r\n", {"Content-Type": "multipart/form-data; boundary=x"}, 400),
        (b"--x\r\n\r\nno name\r\n--x--\r\n", {"Content-Type": "multipart/form-data; boundary=x"}, 400),
        (b"--x\r\nContent-Type: multipart/mixed; boundary=y\r\n\r\n--y--\r\n--x--\r\n",
         {"Content-Type": "multipart/form-data; boundary=x"}, 400),
        (b'--x\r\nContent-Disposition: form-data; name="file"\r\nContent-Transfer-Encoding: base64\r\n\r\nA\r\n--x--',
         {"Content-Type": "multipart/form-data; boundary=x"}, 415),
        (b'--x\r\nContent-Disposition: form-data; name="file"\r\nContent-Encoding: gzip\r\n\r\nAA==\r\n--x--\r\n',
         {"Content-Type": "multipart/form-data; boundary=x"}, 415),
        (b'--x\r\nContent-Disposition: form-data; name="name"\r\n\r\n\xff\xfe\r\n--x--\r\n',
         {"Content-Type": "multipart/form-data; boundary=x"}, 422),
        (b"".join(b'--x\r\nContent-Disposition: form-data; name="%d"\r\n\r\na\r\n' % n for n in range(100)) + b"--x--",
         {"Content-Type": "multipart/form-data; boundary=x"}, 422),
        (b"--x\r\n" + b"A: b\r\n" * 200 + b"\r\n--x--\r\n", {"Content-Type": "multipart/form-data; boundary=x"}, 400),
        (b"--x--", {"Content-Type": "multipart/form-data; boundary=x", "Content-Encoding": "gzip"}, 415),
    ],
)  # fmt: skip
async def test_what_is_no_form_is_refused(body: bytes, headers: dict[str, str], status: int) -> None:
    async with running(says(), LIMITS) as api:
        assert (await refused(api, body, **headers))[0] == status
        assert api.control.enrolled == []


def head(length: str) -> bytes:
    return (
        f"POST {PATH} HTTP/1.1\r\nHost: x\r\n{length}\r\nContent-Type: multipart/form-data; boundary=x\r\n\r\n"
    ).encode()


PART = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'


async def test_a_file_that_says_that_it_is_too_large_is_refused_before_it_comes() -> None:
    async with running(says(), LIMITS) as api:
        reader, writer = await api.dial()
        writer.write(head("Content-Length: 1000000"))
        status, headers, _ = await read_response(reader)
        assert (status, headers["connection"]) == (413, "close")


async def test_a_file_that_does_not_say_so_is_refused_while_it_comes() -> None:
    async with running(says(), LIMITS) as api:
        reader, writer = await api.dial()
        writer.write(head("Transfer-Encoding: chunked") + b"%x\r\n%s\r\n" % (len(PART), PART))
        for _ in range(4):
            writer.write(b"8000\r\n" + bytes(0x8000) + b"\r\n")  # 128 KiB, and no end of it
        status, headers, _ = await read_response(reader)
        assert (status, headers["connection"]) == (413, "close")


async def test_a_form_that_does_not_come_to_its_end_is_408() -> None:
    async with running(says(), LIMITS) as api:
        reader, writer = await api.dial()
        writer.write(head("Content-Length: 5000") + PART)
        assert (await read_response(reader))[0] == 408


async def test_an_upload_is_invited_up_to_its_own_limit() -> None:
    async with running(says(), ApiLimits(max_body_bytes=1000, max_upload_bytes=100_000)) as api:
        for length, expected in ((90_000, b"HTTP/1.1 100 Continue\r\n"), (900_000, b"HTTP/1.1 413 ")):
            reader, writer = await api.dial()
            writer.write(head(f"Content-Length: {length}\r\nExpect: 100-continue"))
            assert (await reader.readline()).startswith(expected)


async def test_more_uploads_than_memory_is_meant_for_are_503() -> None:
    async with running(says(), LIMITS) as api:
        slow = [await api.dial() for _ in range(LIMITS.max_uploads)]
        for _, writer in slow:
            writer.write(head("Content-Length: 5000") + PART)
        await asyncio.sleep(0.05)
        async with api.client.post(PATH, data=form(b"audio", name="Ada")) as response:
            assert (response.status, response.headers["Retry-After"]) == (503, "1")
        for reader, _ in slow:
            assert (await read_response(reader))[0] == 408
        async with api.client.post(PATH, data=form(b"audio", name="Ada")) as response:
            assert response.status == 201
