"""POST /v1/rtp: what arrives at the address, judged by aiortc; where nothing may go; how a push ends."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiortc.rtp import RtcpByePacket, RtcpPacket, RtcpSrPacket, RtpPacket
from jsonschema import Draft202012Validator
from pydantic import ValidationError

import engines
import rtp
from http_api.schema import PushRequest
from mediaserver import config, push, server
from mediaserver.metrics import Metrics
from mediaserver.prompts import Prompts
from mediaserver.speakers import Speakers
from mediaserver.speech import Speech
from mediaserver.store import Store
from rtp import g711

from .live import likeness, rtp_ports, serving, spoken, store

TEXT = "The quick brown fox jumps over the lazy dog."
LONG = "A sentence that takes its time to be said. " * 20
LAWS = {"PCMU": g711.mulaw_decode, "PCMA": g711.alaw_decode}
TONE = {"name": "tone", "workers": 1}
# An address of its own, where nothing comes that streams of other tests send to ports that were theirs.
HERE = "127.80.85.83"


@dataclass
class Ear:
    """A peer: it takes RTP on a port, and RTCP on the next one."""

    rtp: socket.socket
    rtcp: socket.socket
    packets: list[RtpPacket] = field(default_factory=list)
    control: list[Any] = field(default_factory=list)
    sources: set[tuple[str, int]] = field(default_factory=set)

    @property
    def port(self) -> int:
        return int(self.rtp.getsockname()[1])

    def take(self) -> int:
        """Read what has come; returns how many RTP packets it was."""
        before = len(self.packets)
        for data, source in drain(self.rtp):
            self.packets.append(RtpPacket.parse(data))
            self.sources.add(source[:2])
        for data, _ in drain(self.rtcp):
            self.control += RtcpPacket.parse(data)
        return len(self.packets) - before

    async def until(self, count: int) -> None:
        """Wait until so many packets have come."""
        while len(self.packets) < count:
            await asyncio.sleep(0.005)
            self.take()

    def samples(self, codec: str = "PCMU") -> bytes:
        return LAWS[codec](b"".join(packet.payload for packet in self.packets))


def drain(line: socket.socket) -> Iterator[tuple[bytes, Any]]:
    while True:
        try:
            yield line.recvfrom(2048)
        except BlockingIOError:
            return


def bound(port: int, host: str = HERE) -> socket.socket:
    line = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        line.setblocking(False)
        line.bind((host, port))
    except OSError:
        line.close()
        raise
    return line


@contextmanager
def listening(host: str = HERE) -> Iterator[Ear]:
    while True:
        first = bound(0, host)
        try:
            second = bound(first.getsockname()[1] + 1, host)
            break
        except (OSError, OverflowError):
            first.close()
    with closing(first), closing(second):
        yield Ear(first, second)


@dataclass
class Api:
    """The push resources of a running server."""

    server: server.Server
    http: aiohttp.ClientSession

    async def ask(self, method: str, path: str = "/v1/rtp", body: object = None) -> tuple[int, Any, Any]:
        """Status, body and headers."""
        async with self.http.request(method, path, json=body) as response:
            return response.status, json.loads(await response.read() or b"null"), response.headers

    async def open(self, to: Ear, **order: Any) -> dict[str, Any]:
        order = {"host": HERE, "port": to.port, "text": TEXT} | order
        status, report, headers = await self.ask("POST", body=order)
        assert status == 201, report
        assert headers["Location"] == f"/v1/rtp/{report['id']}"
        assert report["state"] == "streaming"
        return dict(report)

    async def report(self, id: str) -> dict[str, Any]:
        status, report, _ = await self.ask("GET", f"/v1/rtp/{id}")
        assert status == 200, report
        return dict(report)

    async def ended(self, id: str) -> dict[str, Any]:
        """The report of a push when it has ended."""
        while (report := await self.report(id))["state"] == "streaming":  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        await until_none(self.server.pushes)  # it says that all was sent before the port is free
        return await self.report(report["id"])


@asynccontextmanager
async def api(**sections: Any) -> AsyncIterator[Api]:
    async with (
        serving(**sections) as running,
        aiohttp.ClientSession(f"http://{running.http_address}", timeout=aiohttp.ClientTimeout(total=30)) as http,
    ):
        yield Api(running, http)


def check_packets(packets: list[RtpPacket], report: dict[str, Any]) -> None:
    """One stream of RFC 3550, as reported, that begins with a marker."""
    ptime_ms = report["ptime_ms"]
    assert packets[0].marker == 1
    for n, packet in enumerate(packets):
        assert packet.version == 2
        assert packet.payload_type == report["payload_type"]
        assert packet.ssrc == report["ssrc"]
        assert packet.sequence_number == (packets[0].sequence_number + n) % 2**16
        assert packet.timestamp == (packets[0].timestamp + 8 * ptime_ms * n) % 2**32
        assert len(packet.payload) == 8 * ptime_ms


# What arrives


@pytest.mark.parametrize(("codec", "payload_type"), [("PCMU", 0), ("PCMA", 8)])
async def test_the_text_arrives_as_speech_and_the_stream_ends_with_it(codec: str, payload_type: int) -> None:
    with listening() as ear:
        async with api() as one:
            order = await one.open(ear, codec=codec)
            report = await one.ended(order["id"])
            speech = await spoken(one.server.engine, TEXT)
            await asyncio.sleep(0.1)
            ear.take()
            check_packets(ear.packets, report)
            assert ear.sources == {("127.0.0.1", report["local_port"])}
            assert likeness(ear.samples(codec), speech) > 0.98
            expected = {"state": "done", "failure": None, "codec": codec, "payload_type": payload_type, "ptime_ms": 20}
            assert report.items() >= expected.items()
            assert report["packets_sent"] == len(ear.packets)
            assert report["packets_sent"] == report["speech_frames"] + report["silence_frames"]
            assert report["speech_frames"] == -(-len(speech) // 320)
            assert report["played_ms"] == 20 * report["speech_frames"]
            assert report["silence_frames"] < 10, "what follows the last word is no endless silence"
            assert (report["underruns"], report["underrun_frames"], report["packets_unsent"]) == (0, 0, 0)
            # RFC 3550 section 6.6: whoever leaves says so.
            *_, goodbye = ear.control
            assert isinstance(goodbye, RtcpByePacket)
            assert goodbye.sources == [report["ssrc"]]
            reports = [each for each in ear.control if isinstance(each, RtcpSrPacket)]
            assert reports[-1].sender_info.packet_count <= report["packets_sent"]
            assert one.server.endpoint.counters().streams == 0


async def test_ssrc_port_payload_type_and_ptime_are_those_asked_for() -> None:
    with listening() as ear:
        async with api(engine=TONE) as one:
            local_port = one.server.settings.rtp.ports.start + 1000
            order = {"ssrc": 0xFFFFFFFF, "local_port": local_port, "payload_type": 97, "codec": "PCMA", "ptime_ms": 60}
            report = await one.open(ear, **order)
            assert report.items() >= order.items()
            await one.ended(report["id"])
            ear.take()
            check_packets(ear.packets, report)
            assert ear.sources == {("127.0.0.1", local_port)}
            assert likeness(ear.samples("PCMA"), await spoken(one.server.engine, TEXT)) > 0.98


async def test_a_payload_type_that_says_its_codec_needs_no_other_word() -> None:
    with listening() as ear:
        async with api(engine=TONE) as one:
            assert (await one.open(ear, payload_type=8))["codec"] == "PCMA"
            assert (await one.open(ear, payload_type=0))["codec"] == "PCMU"
            assert (await one.open(ear, payload_type=96, codec="PCMU"))["codec"] == "PCMU"
            assert (await one.open(ear))["payload_type"] == 0
            ssrcs = {report["ssrc"] for report in (await one.ask("GET"))[1]["pushes"]}
            assert len(ssrcs) == 4, "left out, it is random"


async def test_speaker_language_and_markup_are_heard() -> None:
    document = "<speak>Guten <emphasis>Tag</emphasis>.</speak>"
    async with api() as one:
        for order, utterance in (
            ({"text": "Guten Tag.", "language": "de"}, {"text": "Guten Tag.", "voice": "de"}),
            ({"text": "Guten Tag.", "speaker_id": "de"}, {"text": "Guten Tag.", "voice": "de"}),
            ({"text": None, "ssml": document, "language": "de"}, {"text": document, "ssml": True, "voice": "de"}),
        ):
            with listening() as ear:
                await one.ended((await one.open(ear, **order))["id"])
                ear.take()
                assert likeness(ear.samples(), await spoken(one.server.engine, **utterance)) > 0.98


async def test_ipv6_is_spoken_too() -> None:
    with listening("::1") as six, listening() as four:
        async with api(engine=TONE, sip={"listen": "[::]:0"}) as one:
            for ear, host in ((six, "::1"), (four, HERE)):
                assert (await one.open(ear, host=host))["host"] == host
                await ear.until(3)
            # RFC 4291 section 2.5.5.2: an address of IPv4 in another dress.
            assert (await one.open(four, host=f"::ffff:{HERE}"))["host"] == HERE


async def test_nobody_who_answers_moves_the_stream() -> None:
    with listening() as ear, listening() as other:
        async with api(engine=TONE) as one:
            report = await one.open(ear, text=LONG)
            await ear.until(3)
            for n in range(20):
                packet = RtpPacket(payload_type=0, sequence_number=n, timestamp=160 * n, ssrc=7, payload=bytes(160))
                other.rtp.sendto(packet.serialize(), ("127.0.0.1", report["local_port"]))
                await ear.until(len(ear.packets) + 1)
            assert other.take() == 0


# How it ends


async def test_delete_stops_the_stream_within_one_packet() -> None:
    with listening() as ear:
        async with api(engine=TONE) as one:
            report = await one.open(ear, text=LONG)
            await ear.until(10)
            ear.take()
            loop = asyncio.get_running_loop()
            asked = loop.time()
            status, body, _ = await one.ask("DELETE", f"/v1/rtp/{report['id']}")
            meanwhile = ear.take()
            answered = loop.time()
            assert (status, body) == (204, None)
            assert meanwhile <= 1 + (answered - asked) / 0.020
            await asyncio.sleep(0.2)
            assert ear.take() == 0, "nothing leaves after the answer"
            assert [type(each) for each in ear.control[-1:]] == [RtcpByePacket]
            stopped = await one.report(report["id"])
            assert (stopped["state"], stopped["failure"]) == ("stopped", None)
            assert stopped["packets_sent"] == len(ear.packets)
            assert one.server.endpoint.counters().streams == 0
            assert (await one.ask("DELETE", f"/v1/rtp/{report['id']}"))[0] == 204
            assert await one.report(report["id"]) == stopped


async def test_delete_changes_nothing_of_what_is_done() -> None:
    with listening() as ear:
        async with api(engine=TONE) as one:
            done = await one.ended((await one.open(ear, text="A."))["id"])
            assert (await one.ask("DELETE", f"/v1/rtp/{done['id']}"))[0] == 204
            assert await one.report(done["id"]) == done


async def test_the_list_has_those_alive_and_those_that_ended() -> None:
    with listening() as ear:
        async with api(engine=TONE) as one:
            assert (await one.ask("GET"))[:2] == (200, {"pushes": []})
            alive = await one.open(ear, text=LONG)
            ended = await one.open(ear, text=LONG)
            await one.ask("DELETE", f"/v1/rtp/{ended['id']}")
            status, body, headers = await one.ask("GET")
            assert (status, headers["Cache-Control"]) == (200, "no-store")
            assert [each["id"] for each in body["pushes"]] == [ended["id"], alive["id"]]
            async with one.http.get("/metrics") as response:
                exposition = await response.text()
            assert "\nrtp_pushes_active 1.0\n" in exposition
            assert '\nrtp_pushes_ended_total{state="stopped"} 1.0\n' in exposition
            assert '\ntts_requests_total{endpoint="pushes",status="201"} 2.0\n' in exposition
            assert (await one.ask("GET", "/health"))[1]["active_pushes"] == 1


async def test_the_end_of_the_server_ends_the_streams_and_leaves_nothing_behind() -> None:
    before = asyncio.all_tasks()
    with listening() as ear:
        async with api(engine=TONE) as one:
            reports = [await one.open(ear, text=LONG) for _ in range(5)]
            await ear.until(10)
        ear.take()
        assert sum(isinstance(each, RtcpByePacket) for each in ear.control) == 5
        await asyncio.sleep(0.1)
        assert ear.take() == 0
        assert asyncio.all_tasks() == before
        for report in reports:
            bound(report["local_port"], "127.0.0.1").close()


async def test_a_port_that_refuses_is_counted() -> None:
    with listening() as ear:
        port = ear.port
    async with api(engine=TONE) as one:
        status, report, _ = await one.ask("POST", body={"text": LONG, "host": HERE, "port": port})
        assert status == 201
        while not (await one.report(report["id"]))["packets_refused"]:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        assert (await one.ask("DELETE", f"/v1/rtp/{report['id']}"))[0] == 204


# What is refused

ORDER: dict[str, Any] = {"text": TEXT, "host": "127.0.0.1", "port": 40000}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def refusing() -> AsyncIterator[Api]:
    async with api(engine=TONE) as one:
        yield one


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("change", "status", "field"),
    [
        ({"host": "8.8.8.8"}, 403, "host"),
        ({"host": "::ffff:8.8.8.8"}, 403, "host"),
        ({"host": "2001:db8::1"}, 403, "host"),
        ({"host": "169.254.1.1"}, 403, "host"),
        ({"host": "fe80::1"}, 403, "host"),
        ({"host": "239.1.2.3"}, 403, "host"),
        ({"host": "ff02::1"}, 403, "host"),
        ({"host": "0.0.0.0"}, 403, "host"),
        ({"host": "::"}, 403, "host"),
        ({"host": "255.255.255.255"}, 403, "host"),
        ({"host": "127.255.255.255"}, 403, "host"),
        ({"host": "::1"}, 422, "host"),  # the server of this test has IPv4 alone
        ({"host": "10.1.2.3"}, 422, "host"),  # and its address leads nowhere but to loopback
        ({"host": "localhost"}, 422, "host"),
        ({"host": "2130706433"}, 422, "host"),
        ({"host": "127.1"}, 422, "host"),
        ({"host": "fe80::1%lo"}, 422, "host"),
        ({"host": ""}, 422, "host"),
        ({"port": 1023}, 422, "port"),
        ({"port": 65535}, 422, "port"),  # there is no port after it
        ({"port": "40000"}, 422, "port"),
        ({"text": None}, 422, "ssml"),
        ({"ssml": "<speak>Both</speak>"}, 422, "ssml"),
        ({"text": None, "ssml": "<speak>"}, 400, "ssml"),
        ({"text": None, "ssml": "<speak/>"}, 400, "ssml"),
        ({"text": " "}, 422, "text"),
        ({"text": "a" * 5001}, 422, "text"),
        ({"text": "a\0b"}, 422, "text"),
        ({"text": "?!"}, 422, "text"),
        ({"speaker_id": "nobody"}, 404, "speaker_id"),
        ({"language": "tlh"}, 422, "language"),
        ({"language": "de_DE"}, 422, "language"),
        ({"payload_type": 13}, 422, "payload_type"),
        ({"payload_type": 128}, 422, "payload_type"),
        ({"payload_type": 96}, 422, "codec"),
        ({"payload_type": 0, "codec": "PCMA"}, 422, "codec"),
        ({"payload_type": 8, "codec": "PCMU"}, 422, "codec"),
        ({"codec": "G729"}, 422, "codec"),
        ({"ptime_ms": 25}, 422, "ptime_ms"),
        ({"ssrc": -1}, 422, "ssrc"),
        ({"ssrc": 2**32}, 422, "ssrc"),
        ({"local_port": 1022}, 422, "local_port"),
        ({"local_port": 5005}, 422, "local_port"),
        ({"volume": 11}, 400, "volume"),
    ],
)
async def test_what_cannot_be_is_refused_with_the_field_at_fault(
    refusing: Api, change: dict[str, Any], status: int, field: str
) -> None:
    answered, problem, headers = await refusing.ask("POST", body=ORDER | change)
    assert (answered, headers["Content-Type"]) == (status, "application/problem+json")
    assert [error["field"] for error in problem["errors"]] == [field]
    assert not len(refusing.server.pushes)
    assert refusing.server.endpoint.counters().streams == 0


@pytest.mark.asyncio(loop_scope="module")
async def test_an_unknown_push_is_not_found(refusing: Api) -> None:
    for method in ("GET", "DELETE"):
        for id in ("x" * 24, "..%2F..%2Fetc", "%00"):
            status, problem, _ = await refusing.ask(method, f"/v1/rtp/{id}")
            assert status == 404, problem


async def test_only_listed_networks_are_sent_to() -> None:
    async with api(engine=TONE, rtp={"push_networks": ["127.0.0.2/32", "169.254.0.0/16"]}) as one:
        assert (await one.ask("POST", body=ORDER))[0] == 403
        assert (await one.ask("POST", body=ORDER | {"host": "127.0.0.2"}))[0] == 201
    async with api(engine=TONE, rtp={"push_networks": []}) as one:
        assert (await one.ask("POST", body=ORDER))[0] == 403


async def test_beyond_the_maximum_a_push_is_turned_away() -> None:
    with listening() as ear:
        async with api(engine=TONE, rtp={"max_pushes": 2}) as one:
            first, _ = [await one.open(ear, text=LONG) for _ in range(2)]
            status, _, headers = await one.ask("POST", body=ORDER)
            assert (status, headers["Retry-After"]) == (503, "5")
            await one.ask("DELETE", f"/v1/rtp/{first['id']}")
            await one.open(ear)


async def test_without_a_free_port_a_push_is_turned_away() -> None:
    first = int(rtp_ports().partition("-")[0])
    with listening() as ear:
        async with api(engine=TONE, rtp={"ports": f"{first}-{first + 1}"}) as one:
            await one.open(ear)
            status, _, headers = await one.ask("POST", body=ORDER)
            assert (status, headers["Retry-After"]) == (503, "5")


async def test_a_local_port_that_is_taken_is_a_conflict() -> None:
    with listening() as ear:
        async with api(engine=TONE) as one:
            report = await one.open(ear, text=LONG)
            status, problem, _ = await one.ask("POST", body=ORDER | {"local_port": report["local_port"]})
            assert (status, problem["errors"][0]["field"]) == (409, "local_port")
            assert len(one.server.pushes) == 1


# Where it may go


@pytest.mark.parametrize(
    ("host", "leads_to"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("10.255.255.254", "10.255.255.254"),
        ("172.16.0.1", "172.16.0.1"),
        ("172.31.255.254", "172.31.255.254"),
        ("192.168.1.255", "192.168.1.255"),
        ("::1", "::1"),
        ("fd00::1", "fd00::1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("172.32.0.0", None),
        ("192.169.0.1", None),
        ("100.64.0.1", None),
        ("10.255.255.255", None),
        ("::ffff:0.0.0.0", None),
        ("::ffff:224.0.0.1", None),
        ("::ffff:255.255.255.255", None),
        ("::127.0.0.1", None),
        ("64:ff9b::7f00:1", None),
        ("2002:7f00:1::", None),
    ],
)
def test_loopback_and_private_networks_are_the_default(host: str, leads_to: str | None) -> None:
    networks = config.Config().rtp.push_networks
    if leads_to is None:
        with pytest.raises(push.ForbiddenDestination):
            push.check_destination(host, networks)
    else:
        assert str(push.check_destination(host, networks)) == leads_to


@pytest.mark.parametrize("host", ["224.0.0.1", "ff02::1", "0.0.0.0", "::", "255.255.255.255", "::ffff:239.0.0.1"])
def test_what_is_not_one_host_is_never_sent_to(host: str) -> None:
    everything = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))
    with pytest.raises(push.ForbiddenDestination, match="not the address of one host"):
        push.check_destination(host, everything)


def test_a_mapped_address_is_judged_as_what_it_is() -> None:
    with pytest.raises(push.ForbiddenDestination):
        push.check_destination("::ffff:8.8.8.8", (ipaddress.ip_network("::/0"),))


def test_a_network_of_one_or_two_has_no_broadcast_address() -> None:
    for network in ("192.0.2.1/32", "192.0.2.0/31"):
        assert push.check_destination("192.0.2.1", (ipaddress.ip_network(network),))


# Speech that breaks, and who leaves before it begins


class Scripted:
    """An engine that says what it is told: samples, waiting (a future) and errors, in their order."""

    name, version = "scripted", "1"
    cloning, embedding_kind = False, ""

    def __init__(self, *script: bytes | asyncio.Future[None] | Exception) -> None:
        self.script = script
        self.closed = asyncio.Event()

    def voices(self) -> list[engines.Voice]:
        return []

    def health(self) -> engines.Health:
        return engines.Health(state=engines.EngineState.READY)

    def check(self, utterance: engines.Utterance) -> None:
        pass

    async def enrol(self, samples: bytes, rate_hz: int) -> bytes:
        return b""

    def figures(self, embedding: bytes) -> Mapping[str, float]:
        return {}

    async def synthesize(self, utterance: engines.Utterance) -> AsyncGenerator[engines.Pcm, None]:
        try:
            for each in self.script:
                match each:
                    case bytes():
                        yield engines.Pcm(each, 8000)
                    case Exception():
                        raise each
                    case _:
                        await each
        finally:
            self.closed.set()


PORTS = range(*map(int, rtp_ports().split("-")))
UTTERANCE = engines.Utterance(text=TEXT)
SECOND = b"\x00\x10" * 8000


@asynccontextmanager
async def pushing(engine: Scripted) -> AsyncIterator[push.Pushes]:
    settings = config.Config().rtp
    async with rtp.Endpoint(host="127.0.0.1", ports=PORTS) as endpoint, Store.open(Path(store())) as kept:
        metrics = Metrics()
        nothing = config.Cache(memory_mb=0, disk_mb=0)
        prompts = Prompts(nothing, metrics, directory=Path(store()), shared=None, salt="")
        speakers = Speakers(engine, kept, config.Config().speakers, decoding=asyncio.Semaphore(1), prompts=prompts)
        speech = Speech(engine, metrics, speakers, prompts)
        async with push.Pushes(
            endpoint, speech, metrics, host="127.0.0.1", networks=settings.push_networks, max_pushes=1
        ) as pushes:
            yield pushes
            assert endpoint.counters().streams == len(pushes)


async def until_none(pushes: push.Pushes) -> None:
    while len(pushes):  # noqa: ASYNC110
        await asyncio.sleep(0.005)


async def until_ended(pushes: push.Pushes) -> push.Facts:
    await until_none(pushes)
    (facts,) = pushes.all()
    return facts


async def test_speech_that_breaks_off_is_heard_as_far_as_it_came_and_the_push_has_failed() -> None:
    with listening() as ear:
        async with pushing(Scripted(SECOND, engines.EngineFailure("a secret of the engine"))) as pushes:
            facts = await pushes.open(UTTERANCE, push.Destination(host=HERE, port=ear.port))
            assert facts.state is push.PushState.STREAMING
            facts = await until_ended(pushes)
            assert facts.state is push.PushState.FAILED
            assert facts.failure is not None
            assert "secret" not in facts.failure
            assert facts.counters.speech_frames == 50
            ear.take()
            assert g711.mulaw_encode(SECOND) in b"".join(packet.payload for packet in ear.packets)


async def test_a_stop_while_the_rest_of_broken_speech_is_heard_is_a_stop() -> None:
    with listening() as ear:
        async with pushing(Scripted(SECOND, engines.EngineFailure("broken"))) as pushes:
            facts = await pushes.open(UTTERANCE, push.Destination(host=HERE, port=ear.port))
            await ear.until(5)
            await pushes.stop(facts.id)
            stopped = await until_ended(pushes)
            assert (stopped.state, stopped.failure) == (push.PushState.STOPPED, None)
            assert stopped.counters.speech_frames < 50


@pytest.mark.parametrize(
    "error",
    [engines.EngineBusy("full", retry_after_s=3), engines.EngineFailure("broken"), ZeroDivisionError("a bug")],
    ids=lambda error: type(error).__name__,
)
async def test_speech_that_does_not_begin_is_no_push(error: Exception) -> None:
    with listening() as ear:
        async with pushing(Scripted(error)) as pushes:
            with pytest.raises(type(error)):
                await pushes.open(UTTERANCE, push.Destination(host=HERE, port=ear.port))
            await until_none(pushes)
            assert pushes.all() == []
            assert ear.take() == 0


async def test_speech_without_sound_is_done_at_once() -> None:
    with listening() as ear:
        async with pushing(Scripted()) as pushes:
            await pushes.open(UTTERANCE, push.Destination(host=HERE, port=ear.port))
            assert (await until_ended(pushes)).state is push.PushState.DONE
            assert ear.take() == 0


async def test_who_leaves_before_the_first_sound_leaves_nothing_behind() -> None:
    engine = Scripted(asyncio.get_running_loop().create_future())
    with listening() as ear:
        async with pushing(engine) as pushes:
            asking = asyncio.create_task(pushes.open(UTTERANCE, push.Destination(host=HERE, port=ear.port)))
            await asyncio.sleep(0)
            assert len(pushes) == 1
            with pytest.raises(push.TooManyPushes):
                await pushes.open(UTTERANCE, push.Destination(host=HERE, port=ear.port))
            asking.cancel()
            await asyncio.wait([asking])
            await asyncio.wait_for(engine.closed.wait(), 5)
            await until_none(pushes)
            assert pushes.all() == []
            assert ear.take() == 0


async def test_speech_that_is_late_is_an_underrun_and_a_stop_does_not_wait_for_it() -> None:
    late = asyncio.get_running_loop().create_future()
    with listening() as ear:
        async with pushing(Scripted(SECOND, late)) as pushes:
            facts = await pushes.open(UTTERANCE, push.Destination(host=HERE, port=ear.port))
            await ear.until(60)
            assert await pushes.stop(facts.id)
            ear.take()
            found = pushes.find(facts.id)
            assert found is not None
            assert found.state is push.PushState.STOPPED
            assert (found.counters.underruns, found.counters.speech_frames) == (1, 50)
            assert found.counters.packets_sent == len(ear.packets)


# What is remembered


def facts(id: str) -> push.Facts:
    counted = dict.fromkeys(rtp.StreamCounters.__dataclass_fields__, 0)
    return push.Facts(
        id=id,
        state=push.PushState.DONE,
        failure=None,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        destination=push.Destination(host="127.0.0.1", port=4000),
        ssrc=1,
        local_port=2000,
        counters=rtp.StreamCounters(**counted),  # type: ignore[arg-type]
    )


def test_an_ended_push_is_remembered_for_its_time() -> None:
    memory = push.Memory(seconds=10, count=5)
    memory.keep(facts("a"), 100)
    memory.keep(facts("b"), 105)
    assert memory.find("a", 109.9) == facts("a")
    assert memory.find("a", 110) is None
    assert memory.all(110) == [facts("b")]
    assert memory.all(115) == []


def test_so_many_ended_pushes_are_remembered_and_the_latest_at_that() -> None:
    memory = push.Memory(seconds=10, count=2)
    for id in "abc":
        memory.keep(facts(id), 0)
    assert memory.all(1) == [facts("b"), facts("c")]
    assert memory.find("a", 1) is None


# The words of the interface


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"text": None, "ssml": "<speak>a</speak>"},
        {"ssml": None, "codec": None, "payload_type": None, "ssrc": None, "local_port": None},
        {"payload_type": 127, "codec": "PCMA", "ptime_ms": 60, "ssrc": 0, "local_port": 1024},
        {"text": None},
        {"ssml": "<speak>a</speak>"},
        {"text": ""},
        {"text": 5},
        {"speaker_id": ""},
        {"host": "example.com"},
        {"host": None},
        {"port": 1023},
        {"payload_type": 95, "codec": "PCMU"},
        {"payload_type": 9, "codec": "PCMU"},
        {"codec": "pcmu"},
        {"ptime_ms": 50},
        {"ssrc": 2**32},
        {"local_port": 5001},
        {"language": "de_DE"},
        {"more": 1},
    ],
    ids=json.dumps,
)
def test_the_described_order_is_the_one_accepted(change: dict[str, Any]) -> None:
    order = ORDER | change
    described = Draft202012Validator(
        PushRequest.model_json_schema(), format_checker=Draft202012Validator.FORMAT_CHECKER
    )
    try:
        PushRequest.model_validate_json(json.dumps(order))
    except ValidationError:
        assert not described.is_valid(order)
    else:
        described.validate(order)


def test_a_network_that_is_none_is_named_with_its_key() -> None:
    with pytest.raises(config.ConfigError, match=r"rtp\.push_networks\.1: .*10\.0\.0\.1/8 has host bits set"):
        config.load(None, {"MEDIASERVER_RTP__PUSH_NETWORKS": '["127.0.0.0/8", "10.0.0.1/8"]'})


async def test_an_ssrc_has_32_bits() -> None:
    async with rtp.Endpoint(host="127.0.0.1", ports=range(0)) as endpoint:
        async with endpoint.open(port=0, ssrc=2**32 - 1) as stream:
            assert stream.ssrc == 2**32 - 1
        for ssrc in (-1, 2**32):
            with pytest.raises(rtp.LocalProtocolError, match="SSRC"):
                endpoint.open(port=0, ssrc=ssrc)
