"""Whole calls to a running server over TCP and TLS: by our own softphone, and by PJSIP."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from pathlib import Path

import pytest

from mediaserver import config, server, softphone
from tests.live import heard, likeness, serving, spoken, until_calls
from tests.test_command_line import fetched, served, until
from tests.test_sip_tls import Authority, serial

TEXT = "The quick brown fox jumps over the lazy dog."


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


def tls_settings(authority: Authority, *names: str) -> dict[str, str]:
    tls = authority.tls(*(names or ("localhost", "127.0.0.1")))
    return {"tls_listen": "127.0.0.1:0", "tls_certificate": str(tls.certificate), "tls_key": str(tls.key)}


def spoil(file: str) -> None:
    Path(file).write_text("nonsense")


async def test_a_call_over_tcp_is_heard() -> None:
    async with serving() as running:
        speech = await spoken(running.engine, TEXT)
        outcome = await heard(running, parameters=";transport=tcp", text=TEXT)
        assert outcome.answered
        assert likeness(outcome.heard, speech) > 0.99
        await until_calls(running, 0)
        assert running.transport.connections().accepted == 1


async def test_a_long_text_makes_a_call_go_by_tcp() -> None:
    """RFC 3261 section 18.1.1: an INVITE above 1300 bytes does."""
    async with serving() as running:
        outcome = await heard(running, text="Hello. " * 200, seconds=0.5)
        assert outcome.answered
        assert running.transport.connections().accepted == 1


@pytest.mark.parametrize("uri", ["sips:test@localhost:{}", "sip:test@localhost:{};transport=tls", "sips:127.0.0.1:{}"])
async def test_a_call_over_tls_is_heard(uri: str, authority: Authority) -> None:
    async with serving(sip=tls_settings(authority)) as running:
        assert running.sips_addresses
        speech = await spoken(running.engine, TEXT)
        order = softphone.Order(uri=uri.format(running.sips_addresses[0].port), text=TEXT, ca=authority.file)
        outcome = await softphone.call(order)
        assert outcome.answered, outcome
        assert likeness(outcome.heard, speech) > 0.99
        await until_calls(running, 0)


async def test_a_server_whose_certificate_is_not_trusted_is_not_called(authority: Authority, tmp_path: Path) -> None:
    async with serving(sip=tls_settings(authority, "other.example")) as running:
        assert running.sips_addresses
        uri = f"sips:localhost:{running.sips_addresses[0].port}"
        for ca in (authority.file, None):
            outcome = await softphone.call(softphone.Order(uri=uri, ca=ca))
            assert (outcome.answered, outcome.unreachable, outcome.status) == (False, True, 503)
            assert "certificate" in outcome.summary()
        with pytest.raises(softphone.CallError, match=f"CA {tmp_path}: "):
            await softphone.call(softphone.Order(uri=uri, ca=tmp_path))


async def test_a_refused_connection_is_told_at_once() -> None:
    started = asyncio.get_running_loop().time()
    outcome = await softphone.call(softphone.Order(uri="sip:127.0.0.1:9;transport=tcp"))
    assert (outcome.unreachable, outcome.status) == (True, 503)
    assert asyncio.get_running_loop().time() - started < 5


@pytest.mark.parametrize("transport", ["tcp", "tls"])
async def test_pjsip_calls_over_a_connection(transport: str, authority: Authority, tmp_path: Path) -> None:
    recording = tmp_path / "heard.wav"
    async with serving(sip=tls_settings(authority)) as running:
        assert running.sips_addresses
        port = running.sip_address.port if transport == "tcp" else running.sips_addresses[0].port
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.pjsua2_phone", f"sip:pjsip@127.0.0.1:{port};transport={transport}"),
            *(str(recording), "20", "--header", f"X-Speak={TEXT}", "--ca", str(authority.file)),
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()
        assert process.returncode == 0, output
        facts = json.loads(output.splitlines()[-1])
        assert (facts["answered"], facts["status"]) == (True, 200), facts
        await until_calls(running, 0)
        assert running.transport.connections().accepted == 1
        # The BYE was ours: it went along the connection that the phone had made.
        assert running.transport.connections().made == 0


async def test_files_of_tls_that_cannot_be_used_are_named(authority: Authority) -> None:
    settings = tls_settings(authority)
    spoil(settings["tls_key"])
    loaded = config.Config.model_validate({"sip": settings})
    (problem,) = await server.problems(loaded)
    assert problem.startswith(f"sip.tls: certificate or key {settings['tls_certificate']}: ")
    with pytest.raises(server.StartError, match=r"^sip: certificate or key "):
        async with serving(sip=settings):
            pass


async def test_sighup_takes_up_a_new_certificate_and_a_broken_one_changes_nothing(authority: Authority) -> None:
    names = ("pbx.example", "127.0.0.1")
    settings = {f"MEDIASERVER_SIP__{key.upper()}": value for key, value in tls_settings(authority, *names).items()}
    certificate, key = (settings[f"MEDIASERVER_SIP__TLS_{name}"] for name in ("CERTIFICATE", "KEY"))
    async with served(**settings) as (process, listens):
        host, _, port = listens["banner"].partition(" tls ")[2].split()[0].partition(":")
        address = (host, int(port))
        before = await serial(address, authority)
        spoil(certificate)
        process.send_signal(signal.SIGHUP)
        assert process.stderr is not None
        async with asyncio.timeout(20):
            while b"the old ones stay" not in await process.stderr.readline():
                pass
        assert await serial(address, authority) == before
        authority.issue(Path(certificate), Path(key), *names)
        process.send_signal(signal.SIGHUP)
        async with asyncio.timeout(20):
            while await serial(address, authority) == before:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        await until(f"{listens['http']}/metrics", r'sip_connections_begun_total\{by="peer"\} (\S+)', 3)
        assert 'sip_connections{transport="tls"}' in await fetched(f"{listens['http']}/metrics")


async def test_more_connections_than_configured_are_refused() -> None:
    async with serving(sip={"max_connections": 2}) as running, contextlib.AsyncExitStack() as stack:
        for _ in range(3):
            _, writer = await asyncio.open_connection(running.sip_address.host, running.sip_address.port)
            stack.callback(writer.close)
        async with asyncio.timeout(5):
            while not running.transport.connections().refused:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def test_one_server_is_there_for_ipv4_and_ipv6() -> None:
    async with serving(engine={"name": "tone"}, sip={"listen": ["127.0.0.1:0", "[::1]:0"]}) as running:
        assert [address.host for address in running.sip_addresses] == ["127.0.0.1", "::1"]
        assert f"udp {running.sip_addresses[0]}, {running.sip_addresses[1]} and tcp" in running.banner()
        for address in running.sip_addresses:
            outcome = await softphone.call(softphone.Order(uri=f"sip:test@{address}", text=TEXT))
            assert (outcome.status, outcome.answered) == (200, True)
            assert len(outcome.heard) > 8000
