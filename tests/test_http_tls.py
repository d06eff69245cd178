"""HTTPS: the API over TLS, who is not secure yet, and certificates that change while the server runs."""

from __future__ import annotations

import asyncio
import signal
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from http_api import ApiLimits, Listening, make_app, serve
from mediaserver import config, server

from .http_support import ENCODE, ENCODERS, VERSION, Endless, FakeCalls, FakeControl, Script, ramp, says
from .live import serving, settings
from .test_command_line import served
from .test_http_limits import ORDER
from .test_sip_tls import Authority

SPEECH = ramp(1600)
NAMES = ("127.0.0.1", "localhost")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


def files(authority: Authority) -> tuple[Path, Path]:
    """Of a certificate for NAMES, and its key."""
    tls = authority.tls(*NAMES)
    assert tls.certificate is not None
    assert tls.key is not None
    return tls.certificate, tls.key


def context(authority: Authority) -> Callable[[], ssl.SSLContext]:
    def load() -> ssl.SSLContext:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.load_cert_chain(*certificate)
        return made

    certificate = files(authority)
    return load


@asynccontextmanager
async def running(script: Script, authority: Authority, **limits: float) -> AsyncIterator[Listening]:
    app = make_app(
        FakeControl(script),
        calls=FakeCalls(),
        version=VERSION,
        encode=ENCODE,
        encoders=ENCODERS,
        limits=ApiLimits(**limits),
    )
    async with serve(app, "127.0.0.1", 0, grace_s=1.0, tls=context(authority)) as listening:
        yield listening


def client(authority: Authority, url: str) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(url, connector=aiohttp.TCPConnector(ssl=authority.context()))


async def serial(url: str, authority: Authority, name: str | None = None) -> str:
    """Of the certificate there, to whoever asks for `name`, or for none."""
    host, _, port = url.removeprefix("https://").partition(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=authority.context(), server_hostname=name or host)
    certificate = writer.get_extra_info("peercert")
    writer.close()
    await writer.wait_closed()
    return str(certificate["serialNumber"])


async def test_speech_and_websockets_come_over_tls(authority: Authority) -> None:
    async with running(says(SPEECH), authority) as listening, client(authority, listening.url) as http:
        assert listening.url.startswith("https://127.0.0.1:")
        async with http.post("/v1/synthesize", json=ORDER) as response:
            assert (response.status, await response.read()) == (200, SPEECH)
        async with http.ws_connect("/v1/synthesize/ws") as socket:
            await socket.send_json({"end": True})
            assert (await socket.receive_json())["type"] == "ready"


async def test_a_client_that_does_not_know_the_authority_gets_nothing(authority: Authority, tmp_path: Path) -> None:
    stranger = Authority(tmp_path / "other")
    async with running(says(SPEECH), authority) as listening, client(stranger, listening.url) as http:
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await http.get("/health")
        async with client(authority, listening.url) as known, known.get("/health") as response:
            assert response.status == 200


async def test_who_speaks_no_tls_is_not_answered_and_disturbs_nobody(authority: Authority) -> None:
    async with running(says(SPEECH), authority) as listening, client(authority, listening.url) as http:
        reader, writer = await asyncio.open_connection(*listening.addresses[0])
        writer.write(b"GET /health HTTP/1.1\r\nHost: api\r\n\r\n")
        assert b"HTTP" not in await reader.read(-1)
        writer.close()
        await writer.wait_closed()
        async with http.get("/health") as response:
            assert response.status == 200


async def test_who_has_not_finished_the_greeting_counts_as_a_connection(authority: Authority) -> None:
    async with running(says(SPEECH), authority, max_connections=2) as listening:
        silent = [await asyncio.open_connection(*listening.addresses[0]) for _ in range(2)]
        reader, writer = await asyncio.open_connection(*listening.addresses[0])
        assert await reader.read(-1) == b""
        for _, other in (*silent, (reader, writer)):
            other.close()
            await other.wait_closed()
        async with client(authority, listening.url) as http:
            while True:
                try:
                    async with http.get("/health") as response:
                        assert response.status == 200
                        break
                except aiohttp.ClientConnectionError:
                    await asyncio.sleep(0.01)


async def test_a_greeting_that_takes_too_long_is_cut(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("http_api.server.GREETING_S", 0.05)
    async with running(says(SPEECH), authority) as listening:
        reader, writer = await asyncio.open_connection(*listening.addresses[0])
        async with asyncio.timeout(5):
            assert await reader.read(-1) == b""
        writer.close()
        await writer.wait_closed()


async def test_a_server_ends_under_an_open_greeting_and_an_endless_answer(authority: Authority) -> None:
    engine = Endless(SPEECH)
    async with running(engine, authority) as listening:
        http = client(authority, listening.url)
        response = await http.post("/v1/synthesize", json=ORDER)
        _, writer = await asyncio.open_connection(*listening.addresses[0])
    async with asyncio.timeout(5):
        await engine.closed.wait()
    response.close()
    await http.close()
    writer.close()


async def test_a_new_certificate_counts_from_the_next_connection_on(authority: Authority) -> None:
    certificate, key = files(authority)
    async with serving(http={"tls_certificate": str(certificate), "tls_key": str(key)}) as running:
        url = f"https://{running.http_address}"
        assert url in running.banner()
        async with client(authority, url) as http:
            async with http.get("/health") as response:
                assert response.status == 200
            before = await serial(url, authority)
            authority.issue(certificate, key, *NAMES)
            running.reload()
            after = {await serial(url, authority), await serial(url, authority, "localhost")}
            assert len(after) == 1
            assert after != {before}
            async with http.get("/health") as response:
                assert response.status == 200


async def test_sighup_takes_up_a_new_certificate_and_a_broken_one_changes_nothing(authority: Authority) -> None:
    certificate, key = files(authority)
    where = {"MEDIASERVER_HTTP__TLS_CERTIFICATE": str(certificate), "MEDIASERVER_HTTP__TLS_KEY": str(key)}
    async with served(**where) as (process, listens):
        before = await serial(listens["http"], authority)
        certificate.write_text("nonsense")
        process.send_signal(signal.SIGHUP)
        assert process.stderr is not None
        async with asyncio.timeout(20):
            while b"the certificates are not read anew" not in await process.stderr.readline():
                pass
        assert await serial(listens["http"], authority) == before
        authority.issue(certificate, key, *NAMES)
        process.send_signal(signal.SIGHUP)
        async with asyncio.timeout(20):
            while await serial(listens["http"], authority) == before:  # noqa: ASYNC110
                await asyncio.sleep(0.05)


async def test_a_certificate_that_cannot_be_used_is_named(authority: Authority) -> None:
    certificate, key = files(authority)
    key.write_text("nonsense")
    wrong = settings(http={"tls_certificate": str(certificate), "tls_key": str(key)})
    (problem,) = await server.problems(wrong)
    assert problem.startswith(f"http.tls: certificate or key {certificate}: ")
    with pytest.raises(server.StartError, match=r"^http\.tls: certificate or key "):
        async with server.running(wrong):
            pass
    missing = config.Config.model_validate({"http": {"tls_certificate": "/nonexistent/cert.pem"}})
    assert (await server.problems(missing))[0].startswith("http.tls: certificate or key /nonexistent/cert.pem: ")
