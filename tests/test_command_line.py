"""The commands as a user types them: what they print, what they leave behind, and their exit codes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import signal
import socket
import sys
import time
import wave
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest
from click.testing import CliRunner

import engines
import sip
from mediaserver import softphone
from mediaserver.__main__ import main
from tests.live import likeness, rtp_ports, spoken, store

ROOT = Path(__file__).parents[1]


async def run(*arguments: str, **environ: str) -> tuple[int, str, str]:
    process = await start(*arguments, **environ)
    output, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode(), errors.decode()


def typed(*arguments: str) -> tuple[int, str]:
    """As `run`, for what ends so soon that it needs no process of its own: the exit code, and what goes to stderr."""
    result = CliRunner().invoke(main, arguments)
    assert not isinstance(result.exception, Exception), result.exception
    return result.exit_code, result.stderr


async def start(*arguments: str, **environ: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "mediaserver", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "MEDIASERVER_STORE__PATH": store()} | environ,
    )


@contextlib.asynccontextmanager
async def served(**environ: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, dict[str, str]]]:
    """A server in a process of its own, and where its banner says that it listens."""
    free = {"MEDIASERVER_SIP__LISTEN": "127.0.0.1:0", "MEDIASERVER_HTTP__LISTEN": "127.0.0.1:0"}
    process = await start("serve", **(free | {"MEDIASERVER_RTP__PORTS": rtp_ports()} | environ))
    assert process.stdout is not None
    lines = [(await process.stdout.readline()).decode() for _ in range(6)]
    where = re.search(r"SIP   udp (\S+) .* HTTP  (\S+)", lines[1])
    assert where, lines
    try:
        yield process, {"sip": where[1], "http": where[2], "banner": "".join(lines)}
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def fetched(url: str) -> str:
    async with aiohttp.ClientSession() as http, http.get(url) as answer:
        return await answer.text()


async def until(url: str, pattern: str, least: float) -> None:
    """Wait until the number that `pattern` finds at `url` has become so large."""
    async with asyncio.timeout(20):
        while not (found := re.search(pattern, await fetched(url))) or float(found[1]) < least:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


class SilentPeer:
    """A UDP socket that nobody responds from. What is left of some earlier call may stray to its port."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.address = f"127.0.0.1:{sock.getsockname()[1]}"

    def invites(self) -> int:
        """How many have come since this was asked last."""
        count = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                count += self.sock.recv(65535).startswith(b"INVITE")
        return count

    async def invited(self) -> None:
        async with asyncio.timeout(20):
            while not self.invites():  # noqa: ASYNC110
                await asyncio.sleep(0.02)


@contextlib.contextmanager
def silent_peer() -> Iterator[SilentPeer]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
        yield SilentPeer(sock)


@contextlib.asynccontextmanager
async def phone(host: str = "127.0.0.1") -> AsyncIterator[tuple[sip.Transport, asyncio.Queue[sip.Event]]]:
    """Another phone, and what happens to it."""
    events: asyncio.Queue[sip.Event] = asyncio.Queue()
    agent = sip.Agent(random=random.Random(1))
    async with sip.Transport.open(agent, [(host, 0)], deliver=events.put_nowait) as transport:
        yield transport, events


def samples(path: Path, rate_hz: int) -> bytes:
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, rate_hz)
        return file.readframes(file.getnframes())


async def test_help_teaches() -> None:
    status, output, _ = await run("--help")
    assert status == 0
    for word in ("serve", "check", "call", "say", "mediaserver call sip:hello@127.0.0.1"):
        assert word in output
    assert re.findall(r"^  (\d+)  +\S", output, re.MULTILINE) == ["0", "1", "2", "3", "130", "143"]
    for command in ("serve", "check", "call", "say"):
        status, output, _ = await run(command, "--help")
        assert status == 0
        assert "Usage: mediaserver" in output or "Usage: python -m mediaserver" in output


async def test_the_demonstration_of_the_banner_leaves_speech_in_a_file(tmp_path: Path) -> None:
    async with served() as (process, listens):
        assert f'call "sip:hello@{listens["sip"]}" --text' in listens["banner"]
        heard = tmp_path / "heard.wav"
        status, output, errors = await run(
            *("call", f"sip:hello@{listens['sip']}", "--text", "Hello from the media server.", "--record", str(heard))
        )
        assert status == 0, errors
        assert "Answered after" in output
        assert "0 lost" in output
        said = tmp_path / "said.wav"
        status, output, errors = await run("say", "Hello from the media server.", "-o", str(said), "--rate", "8000")
        assert status == 0, errors
        assert likeness(samples(heard, 8000), samples(said, 8000)) > 0.98
        page = await fetched(f"{listens['http']}/metrics")
        assert 'sip_calls_ended_total{cause="local_bye",status=""} 1.0' in page
        assert "rtp_underruns_total 0.0" in page
        assert "tts_gpu_memory_gb 0.0" in page
        health = json.loads(await fetched(f"{listens['http']}/health"))
        assert (health["status"], health["gpu_available"], health["model_loaded"]) == ("healthy", False, True)
        process.send_signal(signal.SIGTERM)
        _, log = await process.communicate()
        assert process.returncode == 0
    lines = [json.loads(line) for line in log.decode().splitlines()]
    call = [line for line in lines if line["event"].startswith("call ")]
    assert [line["event"] for line in call] == ["call offered", "call ended"]
    assert len({line["call_id"] for line in call}) == 1
    assert call[-1]["underruns"] == 0
    assert "Hello from the media server" not in log.decode(), "what is said is nobody else's business"


async def test_sigterm_lets_a_call_finish_and_takes_no_more(tmp_path: Path) -> None:
    heard = tmp_path / "heard.wav"
    async with served(
        MEDIASERVER_ROUTE='[{"say": "Good bye to {from}, and thank you for calling.", "then": "stay"}]'
    ) as (
        process,
        listens,
    ):
        call = await start("call", f"hello@{listens['sip']}", "--record", str(heard))
        await until(f"{listens['http']}/metrics", r'rtp_frames_total{kind="speech"} (\S+)', 10)
        process.send_signal(signal.SIGTERM)
        async with aiohttp.ClientSession() as http:
            while (await http.get(f"{listens['http']}/ready")).status != 503:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            assert (await http.get(f"{listens['http']}/health")).status == 200
            push = await http.post(f"{listens['http']}/v1/rtp", json={"text": "a", "host": "127.0.0.1", "port": 4000})
            assert push.status == 503
        status, output, _ = await run("call", f"hello@{listens['sip']}")
        assert (status, output.strip()) == (3, "Not answered: 503 Service Unavailable")
        await call.communicate()
        _, errors = await process.communicate()
        assert (call.returncode, process.returncode) == (0, 0)
        log = [json.loads(line) for line in errors.decode().splitlines()]
        (ended,) = [line for line in log if line["event"] == "call ended"]
        assert (ended["cause"], ended["seconds"] < 10) == ("local_bye", True)
        async with engines.open_engine("espeak") as engine:
            speech = await spoken(engine, "Good bye to softphone, and thank you for calling.")
        assert likeness(heard.read_bytes()[44:], speech) > 0.97


@pytest.mark.parametrize("how", ["grace", "signal"])
async def test_drain_ends_with_its_grace_or_a_second_signal(how: str) -> None:
    grace = "0.5" if how == "grace" else "60"
    async with served(
        MEDIASERVER_SIP__DRAIN_S=grace,
        MEDIASERVER_ENGINE__NAME="tone",
        MEDIASERVER_ROUTE=f'[{{"say": "{"a " * 500}"}}]',
    ) as (process, listens):
        call = await start("call", f"hello@{listens['sip']}")
        await until(f"{listens['http']}/metrics", r'rtp_frames_total{kind="speech"} (\S+)', 10)
        process.send_signal(signal.SIGTERM)
        if how == "signal":
            await asyncio.sleep(0.3)
            process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        await call.communicate()
        await process.communicate()
        assert (call.returncode, process.returncode) == (0, 0)
        assert time.monotonic() - began < 6


async def test_a_call_that_is_refused_exits_with_3() -> None:
    async with served() as (_, listens):
        status, output, _ = await run("call", f"sip:annc@{listens['sip']}")
        assert (status, output.strip()) == (3, "Not answered: 400 Mandatory play parameter missing")


async def test_ctrl_c_hangs_up_and_keeps_what_was_heard(tmp_path: Path) -> None:
    heard = tmp_path / "heard.wav"
    async with served() as (_, listens):
        process = await start("call", f"hello@{listens['sip']}", "--text", "Hello. " * 200, "--record", str(heard))
        await until(f"{listens['http']}/metrics", r"(?m)^rtp_packets_sent_total (\S+)", 25)
        process.send_signal(signal.SIGINT)
        output, errors = await asyncio.wait_for(process.communicate(), 10)
        assert (process.returncode, errors) == (130, b"")
        assert re.search(r"Answered after .* long, we hung up\.\nReceived \d+ packets, 0 lost.*\n", output.decode())
        recorded = samples(heard, 8000)
        assert f"Recorded {len(recorded) / 16000:.1f} s to {heard}." in output.decode()
        assert softphone.level_dbfs(recorded) > -50
        assert json.loads(await fetched(f"{listens['http']}/health"))["active_calls"] == 0
        assert 'sip_calls_ended_total{cause="remote_bye",status=""} 1.0' in await fetched(f"{listens['http']}/metrics")


async def test_sigterm_cancels_a_call_that_rings(tmp_path: Path) -> None:
    heard = tmp_path / "heard.wav"
    heard.write_bytes(b"what was there before")
    async with phone() as (transport, events):
        port = transport.addresses[0][1]
        process = await start("call", f"127.0.0.1:{port}", "--record", str(heard))
        offered = await asyncio.wait_for(events.get(), 10)
        assert isinstance(offered, sip.Offered)
        transport.ring(offered.call)
        process.send_signal(signal.SIGTERM)
        output, errors = await asyncio.wait_for(process.communicate(), 10)
        assert (process.returncode, output, errors) == (143, b"Not answered: 487 Request Terminated\n", b"")
        ended = await asyncio.wait_for(events.get(), 10)
        assert isinstance(ended, sip.Ended)
        assert ended.cause is sip.Cause.REMOTE_CANCEL
    assert heard.read_bytes() == b"what was there before"


async def test_a_peer_that_does_not_respond_cannot_keep_a_call_that_is_ended() -> None:
    with silent_peer() as peer:
        process = await start("call", peer.address)
        await peer.invited()
        process.send_signal(signal.SIGINT)
        output, errors = await asyncio.wait_for(process.communicate(), softphone.RING_S / 3)
        assert (process.returncode, errors) == (130, b"")
        assert output.startswith(b"Not answered: 487 we gave up calling\nNo SIP server answers there")


async def test_a_second_signal_leaves_at_once() -> None:
    with silent_peer() as peer:
        process = await start("call", peer.address)
        await peer.invited()
        leaving = asyncio.create_task(process.communicate())
        while not leaving.done():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGINT)
            await asyncio.wait([leaving], timeout=0.1)
        assert (process.returncode, leaving.result()) == (130, (b"", b"")), "not even a summary"


async def test_a_softphone_is_busy_to_others() -> None:
    async with phone() as (transport, events):
        order = softphone.Order(uri=f"127.0.0.1:{transport.addresses[0][1]}")
        hang_up: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        calling = asyncio.create_task(softphone.call(order, hang_up=hang_up))
        offered = await asyncio.wait_for(events.get(), 10)
        assert isinstance(offered, sip.Offered)
        transport.ring(offered.call)
        assert offered.request.contact is not None
        other = transport.invite(
            offered.request.contact.uri,
            transport.flow_to(*offered.flow.remote),
            from_=sip.NameAddr(uri=sip.Uri.parse("sip:a@127.0.0.1")),
            body=offered.request.body,
        )
        refused = await asyncio.wait_for(events.get(), 10)
        assert refused == sip.Ended(call=other, cause=sip.Cause.REMOTE_REJECT, status=486, reason="Busy Here")
        hang_up.set_result(None)
        assert (await calling).status == 487


async def test_a_softphone_needs_the_answer_once() -> None:
    """It may come in a provisional response that is acknowledged, and the 200 has none then: RFC 3262 section 5."""
    async with phone() as (transport, events):
        order = softphone.Order(uri=f"127.0.0.1:{transport.addresses[0][1]}")
        calling = asyncio.create_task(softphone.call(order))
        offered = await asyncio.wait_for(events.get(), 10)
        assert isinstance(offered, sip.Offered)
        transport.ring(offered.call, status=183, body=offered.request.body, reliable=True)
        transport.answer(offered.call, body=offered.request.body)
        assert isinstance(await asyncio.wait_for(events.get(), 10), sip.Acknowledged)
        assert isinstance(await asyncio.wait_for(events.get(), 10), sip.Confirmed)
        transport.bye(offered.call)
        outcome = await asyncio.wait_for(calling, 10)
        assert (outcome.answered, outcome.ended_by) == (True, "the peer hung up")


async def test_a_call_hung_up_before_it_is_placed_sends_nothing() -> None:
    with silent_peer() as peer:
        hang_up: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        hang_up.set_result(None)
        outcome = await softphone.call(softphone.Order(uri=peer.address), hang_up=hang_up)
        assert (outcome.answered, outcome.status, outcome.reason) == (False, 487, "we gave up calling")
        assert peer.invites() == 0


@pytest.mark.parametrize(
    "uri",
    [
        "sip:",
        "tel:123",
        "TEL:123",
        "sips:5061",
        "sip:127.0.0.1;transport=sctp",
        "http://x",
        "mailto:a@b",
        "a@b@c:5060",
        "\udcff",
    ],
)
def test_what_cannot_be_called_is_a_usage_error(uri: str) -> None:
    status, errors = typed("call", uri)
    assert status == 2
    assert "Error: " in errors


def test_a_host_whose_name_is_none_is_a_usage_error() -> None:
    status, errors = typed("call", "sip:a@b..c")
    assert status == 2
    assert "Error: b..c cannot be located: it has no address" in errors


@pytest.mark.parametrize(
    "form", ["127.0.0.1:{}", "localhost:{}", "user@127.0.0.1:{}", "127.0.0.1:{};a=b", "sip:127.0.0.1:{}"]
)
async def test_an_address_is_called_with_or_without_its_scheme(form: str) -> None:
    async with phone() as (transport, events):
        uri = form.format(transport.addresses[0][1])
        calling = asyncio.create_task(softphone.call(softphone.Order(uri=uri)))
        offered = await asyncio.wait_for(events.get(), 10)
        assert isinstance(offered, sip.Offered)
        assert str(offered.request.uri) == f"sip:{uri.removeprefix('sip:')}"
        transport.reject(offered.call, status=480)
        assert (await calling).status == 480


@pytest.mark.parametrize(
    ("option", "value", "complaint"),
    [
        ("--text", "", "it is empty"),
        ("--text", " \n\x00\x9f ", "it is empty"),
        ("--text", "\udcff", "it is not UTF-8"),
        (
            "--text",
            "ü" * 4001,
            "it has 8002 bytes of UTF-8. The header of a call has room for 8000.",
        ),
        ("--voice", "", "it is empty"),
        ("--language", "x" * 8001, "it has 8001 bytes"),
        ("--seconds", "0", "0.0 is not in the range"),
    ],
)
def test_what_a_header_field_cannot_carry_is_a_usage_error(option: str, value: str, complaint: str) -> None:
    with silent_peer() as peer:
        status, errors = typed("call", peer.address, option, value)
        assert status == 2
        assert f"Error: Invalid value for '{option}': {complaint}" in errors
        assert peer.invites() == 0


async def test_the_longest_text_arrives_whole_and_as_one_line() -> None:
    async with phone() as (transport, events):
        text = "a\x01b\r\nX-Speaker: c\x85d\x1b " + "ü" * 3986
        process = await start("call", f"127.0.0.1:{transport.addresses[0][1]}", "--text", text)
        offered = await asyncio.wait_for(events.get(), 10)
        assert isinstance(offered, sip.Offered)
        spoken = "a b X-Speaker: c d " + "ü" * 3986
        assert offered.request.headers.get("X-Speak") == spoken
        assert offered.request.headers.get("X-Speaker") is None
        transport.reject(offered.call, status=480)
        await process.communicate()
        assert process.returncode == 3


OUTPUTS = [
    ("missing/x.wav", "No such file or directory"),
    ("file/x.wav", "Not a directory"),
    (".", "is a directory"),
    ("", "is a directory"),
    ("x" * 256, "File name too long"),
    # Where not even root may create a file.
    ("/sys/x.wav", "cannot be written: "),
]


@pytest.mark.parametrize(("name", "complaint"), OUTPUTS)
def test_a_recording_that_cannot_be_written_is_a_usage_error_before_the_call(
    name: str, complaint: str, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with silent_peer() as peer:
        status, errors = typed("call", peer.address, "--record", name and str(tmp_path / name))
        assert status == 2
        assert "Error: Invalid value for '--record': " in errors
        assert complaint in errors
        assert peer.invites() == 0
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(("name", "complaint"), OUTPUTS[:2])
def test_speech_that_cannot_be_written_is_a_usage_error(name: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    status, errors = typed("say", "Hello", "-o", str(tmp_path / name))
    assert status == 2
    assert "Error: Invalid value for '-o' / '--output': " in errors
    assert complaint in errors


async def test_ctrl_c_ends_speech_that_is_being_made(tmp_path: Path) -> None:
    process = await start("say", "Hello there. " * 7000, "-o", str(tmp_path / "said.wav"))
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    async with asyncio.timeout(20):
        while not children.read_text():  # noqa: ASYNC110, ASYNC240
            await asyncio.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert await asyncio.wait_for(process.communicate(), 10) == (b"", b"")
    assert process.returncode == 130
    assert not (tmp_path / "said.wav").exists()


def test_a_full_disk_is_named() -> None:
    status, errors = typed("say", "Hello", "-o", "/dev/full")
    assert (status, errors) == (1, "Error: /dev/full cannot be written: No space left on device.\n")


async def test_a_file_is_replaced_only_when_there_is_something_to_write(tmp_path: Path) -> None:
    said = tmp_path / "said.wav"
    said.write_bytes(b"what was there before")
    status, _, errors = await run("say", "", "-o", str(said))
    assert status == 2
    assert "nothing to say" in errors
    assert said.read_bytes() == b"what was there before"
    link = tmp_path / "link.wav"
    link.symlink_to(tmp_path / "behind.wav")
    for place in (said, link):
        status, _, _ = await run("say", "Hello", "-o", str(place))
        assert status == 0
        assert len(samples(place, 24000)) > 10000
    assert link.is_symlink()


async def test_check_names_the_key(tmp_path: Path) -> None:
    status, output, _ = await run("check", "--config", "deploy/mediaserver.toml")
    assert (status, output) == (0, "deploy/mediaserver.toml: good, with 2 route(s)\n")
    bad = tmp_path / "bad.toml"
    bad.write_text('[sip]\nlisten = "nowhere"\n[[route]]\nplay = "/nonexistent.wav"')
    status, _, errors = await run("check", "--config", str(bad))
    assert status == 2
    assert "sip.listen: write it as" in errors
    status, _, errors = await run("check", MEDIASERVER_ROUTE='[{"play": "/nonexistent.wav"}]')
    assert status == 2
    assert "route.0.play: /nonexistent.wav: " in errors


async def test_a_port_in_use_is_named() -> None:
    async with served() as (_, listens):
        status, _, errors = await run("serve", MEDIASERVER_SIP__LISTEN=listens["sip"])
        assert status == 1
        assert f"cannot listen on 127.0.0.1 port {listens['sip'].rpartition(':')[2]} (UDP)" in errors
        assert "Traceback" not in errors


async def test_an_unknown_voice_is_a_usage_error(tmp_path: Path) -> None:
    status, _, errors = await run("say", "Hello", "-o", str(tmp_path / "x.wav"), "--voice", "nobody")
    assert status == 2
    assert "nobody" in errors
    assert not (tmp_path / "x.wav").exists()
