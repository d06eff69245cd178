"""Browsers that call a real server: aiortc as an independent peer, and Chromium itself."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import numpy as np
import pytest
import soxr

from mediaserver import server
from mediaserver.browsers import TABLE, _State
from tests.chromium import Page, chromium, needs_chromium
from tests.live import Samples, floats, heard, likeness, serving, spoken, until_calls
from tests.test_calls_api import Client, api
from tests.webrtc_phone import HOST, WebRtcPhone, webrtc_phone

TEXT = "The quick brown fox jumps over the lazy dog."
STAYS = [{"say": TEXT, "then": "stay", "stay_s": 60}]
LOOPBACK = {"addresses": [HOST]}
# A range of its own for each of the test processes, below what the kernel hands out and what `rtp_ports` does.
PORT = 19_000 + 20 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))


def tone(hz: float, seconds: float, amplitude: float = 8000) -> bytes:
    times = np.arange(round(8000 * seconds)) / 8000
    return (np.sin(2 * np.pi * hz * times) * amplitude).astype(np.int16).tobytes()


def at_line_rate(phone: WebRtcPhone) -> bytes:
    """What a phone has heard, at 8 kHz."""
    samples = floats(phone.heard).astype(np.float32)
    if phone.rate_hz not in (0, 8000):  # 0: nothing has been heard yet
        samples = np.asarray(soxr.resample(samples, phone.rate_hz, 8000))
    return np.clip(np.rint(samples), -32768, 32767).astype(np.int16).tobytes()


def purity(samples: Samples, hz: float) -> tuple[float, float]:
    """Amplitude of a tone in samples at 8 kHz, and how far above everything else it is, in dB."""
    times = np.arange(len(samples)) / 8000
    basis = np.stack([np.sin(2 * np.pi * hz * times), np.cos(2 * np.pi * hz * times)], axis=1)
    found = np.linalg.lstsq(basis, samples, rcond=None)[0]
    rest = samples - basis @ found
    return float(np.hypot(*found)), float(10 * np.log10(np.var(basis @ found) / np.var(rest)))


async def hear(running: server.Server, id: str, seconds: float) -> Samples:
    """What the server hears of the peer of a call."""
    call = running.switchboard.ledger.alive(id)
    assert call is not None
    heard = bytearray()
    async with asyncio.timeout(seconds + 10):
        while (media := call.media) is None or not media.facts()["packets_received"]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        with media.ear.frames() as frames:
            async for frame in frames:
                heard += frame.samples
                if len(heard) >= seconds * 16_000:
                    break
    return floats(bytes(heard))


@asynccontextmanager
async def called(
    *, codec: str = "PCMU", sound: bytes = b"", to: str = "console", **sections: Any
) -> AsyncIterator[tuple[server.Server, WebRtcPhone, str]]:
    """A server, and a phone that has called it; the id of the call."""
    sections["webrtc"] = LOOPBACK | sections.get("webrtc", {})
    async with serving(**({"route": STAYS} | sections)) as running, webrtc_phone(codec, sound) as phone:
        await phone.dial(running, to)
        assert phone.status == 201, phone.answer
        yield running, phone, phone.answer["call_id"]


async def connected(client: Client, id: str) -> None:
    """Wait until media flow; a call is up as soon as the server has answered."""
    await client.until(id, lambda told: told["media"] is not None and told["media"]["packets_received"] > 0)


def test_every_state_of_a_browser_reaches_the_end() -> None:
    for state in _State:
        reached = {state}
        while grown := {to for (at, _), (to, _) in TABLE.items() if at in reached} - reached:
            reached |= grown
        assert _State.ENDED in reached, state


@pytest.mark.parametrize(("codec", "alike"), [("PCMU", 0.999), ("opus", 0.9)])
async def test_a_browser_hears_the_speech_from_its_first_sound_and_the_call_ends(codec: str, alike: float) -> None:
    async with called(codec=codec, route=[{"say": TEXT}]) as (running, phone, id), api(running) as client:
        assert phone.headers["Location"] == f"/v1/calls/{id}"
        async with asyncio.timeout(15):
            await phone.ended.wait()
        told = await client.ended(id)
        assert likeness(at_line_rate(phone), await spoken(running.engine, TEXT)) > alike
    assert (told["direction"], told["from"]) == ("inbound", "sip:browser@127.0.0.1")
    assert told["to"] == f"sip:console@{running.sip_address}"
    assert told["end"] == {"reason": "completed", "by": "server", "sip_status": None, "sip_reason": ""}
    assert (told["media"]["codec"], told["media"]["underruns"]) == ("PCMU", 0)
    assert told["media"]["packets_received"] > 50


@pytest.mark.parametrize(("codec", "above_db"), [("PCMU", 33.0), ("opus", 25.0)])
async def test_the_server_hears_the_browser(codec: str, above_db: float) -> None:
    async with called(codec=codec, sound=tone(1000, 20)) as (running, _, id), api(running) as client:
        await connected(client, id)
        heard = await hear(running, id, 2.0)
        # Where this machine is busy, a packet of the phone's comes late: the best quarter of a second tells.
        amplitude, ratio_db = max(
            (purity(heard[at : at + 2000], 1000) for at in range(2000, 14_001, 2000)), key=lambda found: found[1]
        )
        told = await client.call(id)
    assert abs(20 * np.log10(amplitude / 8000)) < 0.5
    assert ratio_db > above_db
    assert told["media"]["lost"] == 0


async def test_the_verbs_of_a_call_are_a_browsers_too() -> None:
    words = "Pack my box with five dozen liquor jugs."
    async with called(sound=tone(1000, 30)) as (running, phone, id), api(running) as client:
        await connected(client, id)
        assert (await client.ask("POST", f"/v1/calls/{id}/say", {"text": words, "mode": "interrupt"}))[0] == 202
        await client.until(id, lambda told: told["speech"][-1]["state"] == "spoken")
        original = await spoken(running.engine, words)
        async with asyncio.timeout(5):  # aiortc hears 80 ms late
            while likeness(at_line_rate(phone), original) < 0.999:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        # On hold the browser is not heard any more, and off it again.
        assert (await client.ask("POST", f"/v1/calls/{id}/hold"))[0] == 200
        await asyncio.sleep(0.2)
        count = (await client.call(id))["media"]["packets_received"]
        await asyncio.sleep(0.3)
        assert (await client.call(id))["media"]["packets_received"] == count
        assert (await client.ask("POST", f"/v1/calls/{id}/unhold"))[0] == 200
        await client.until(id, lambda told: told["media"]["packets_received"] > count + 10)
        # Nobody else can be put in a browser's place.
        status, told = await client.ask("POST", f"/v1/calls/{id}/transfer", {"to": "sip:bob@example.com"})
        assert (status, told["outcome"]) == (200, "failed")
        assert (await client.ask("DELETE", f"/v1/calls/{id}"))[0] == 204
        async with asyncio.timeout(5):
            await phone.ended.wait()
        assert (await client.ended(id))["end"]["by"] == "server"


async def test_a_call_ends_when_the_browser_leaves() -> None:
    async with called() as (running, phone, id), api(running) as client:
        await connected(client, id)
        await phone.connection.close()
        async with asyncio.timeout(2):
            await until_calls(running, 0)
        end = (await client.call(id))["end"]
    assert end == {
        "reason": "hung_up",
        "by": "peer",
        "sip_status": None,
        "sip_reason": 'SIP;text="the browser has left"',
    }


async def test_browsers_are_let_in_whoever_else_is_and_need_no_password() -> None:
    closed = {"networks": ["192.0.2.0/24"]}
    async with called(sip=closed, user=[{"name": "a", "password": "b"}]) as (running, _, id), api(running) as client:
        assert (await heard(running)).status == 403
        await connected(client, id)


async def test_a_browser_is_of_no_trunk_although_one_is_on_this_machine() -> None:
    trunk = {
        "name": "pbx",
        "targets": ["127.0.0.1:5998"],
        "probe_s": 0,
        "codecs": ["PCMA"],
        "inbound_username": "a",
        "inbound_password": "b",
    }
    async with called(trunk=[trunk]) as (running, _, id), api(running) as client:
        await connected(client, id)
        told = await client.call(id)
        assert (told["trunk"], told["media"]["codec"]) == (None, "PCMU")


async def test_a_public_address_is_not_told_to_a_telephone_on_this_machine() -> None:
    async with called(sip={"advertise": "203.0.113.5"}, sound=tone(1000, 20)) as (running, phone, id):
        assert " 203.0.113.5 " in phone.answer["sdp"]  # for browsers
        async with api(running) as client:
            await connected(client, id)
            assert len(await hear(running, id, 0.5)) >= 4000
            assert (await client.ask("DELETE", f"/v1/calls/{id}"))[0] == 204
            assert (await client.ended(id))["end"]["reason"] == "hung_up"


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::1]:0", "[::]:0", ["0.0.0.0:0", "[::1]:0"]])
async def test_wherever_the_server_listens_a_browser_reaches_it(listen: str | list[str]) -> None:
    async with called(sip={"listen": listen}, sound=tone(1000, 20)) as (running, phone, id), api(running) as client:
        await connected(client, id)
        original = await spoken(running.engine, TEXT)
        async with asyncio.timeout(8):
            while likeness(at_line_rate(phone), original) < 0.99:  # noqa: ASYNC110
                await asyncio.sleep(0.1)


async def test_ports_are_those_of_the_configuration() -> None:
    async with called(webrtc={"ports": f"{PORT}-{PORT + 9}"}) as (_, phone, _):
        (candidate,) = [line for line in phone.answer["sdp"].splitlines() if line.startswith("a=candidate")]
        assert PORT <= int(candidate.split()[5]) <= PORT + 9


async def test_where_no_port_is_free_it_is_said() -> None:
    async with (
        called(webrtc={"ports": f"{PORT + 10}-{PORT + 11}"}) as (running, _, _),
        contextlib.AsyncExitStack() as stack,
    ):
        statuses = []
        for _ in range(2):
            phone = await stack.enter_async_context(webrtc_phone())
            await phone.dial(running)
            statuses.append(phone.status)
        assert statuses == [201, 503]
        assert "no port" in phone.answer["detail"]


@pytest.mark.parametrize(
    ("sections", "status", "detail"),
    [
        ({"webrtc": {"max_calls": 0}}, 403, "webrtc.max_calls"),
        ({"webrtc": {"max_calls": 1}}, 503, "no room for another browser"),
        ({"sip": {"max_calls": 1}}, 503, "no room for another call"),
        ({"route": [{"user": "console", "say": "a", "voice": "spk_0123456789abcdef01234567"}]}, 404, "spk_"),
    ],
)
async def test_a_browser_that_is_not_taken_is_told_why(sections: dict[str, Any], status: int, detail: str) -> None:
    sections["webrtc"] = LOOPBACK | sections.get("webrtc", {})
    async with serving(**sections) as running, webrtc_phone() as first, webrtc_phone() as second:
        await first.dial(running, "else")
        await second.dial(running, "console")
        assert (second.status, detail in second.answer["detail"]) == (status, True), second.answer
        assert ("Retry-After" in second.headers) is (status == 503)


async def test_an_offer_that_is_none_begins_nothing() -> None:
    async with serving() as running, api(running) as client:
        status, told = await client.ask("POST", "/v1/webrtc/offer", {"sdp": "v=0\r\n"})
        assert (status, told["errors"][0]["field"]) == (422, "sdp")
        assert len(running.switchboard) == 0


async def test_a_gateway_that_dies_ends_its_calls_and_is_started_again() -> None:
    async with called() as (running, _, id), api(running) as client:
        await connected(client, id)
        assert running.gateway.pid is not None
        os.kill(running.gateway.pid, signal.SIGKILL)
        end = (await client.ended(id))["end"]
        assert (end["by"], end["sip_reason"]) == ("peer", 'SIP;text="the WebRTC gateway has died"')
        async with webrtc_phone() as phone:
            await phone.dial(running)
            assert phone.status == 201
            await connected(client, phone.answer["call_id"])
        pid = running.gateway.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_whoever_does_not_wait_for_the_answer_leaves_nothing() -> None:
    async with serving(route=STAYS, webrtc=LOOPBACK) as running, webrtc_phone() as phone, api(running) as client:
        body = {"sdp": await phone.offer()}
        assert (await client.ask("POST", "/v1/webrtc/offer", body))[0] == 201  # The gateway is up now.
        before = len(running.switchboard)
        async with aiohttp.ClientSession(f"http://{running.http_address}") as session:
            for wait_s in (0.001, 0.002, 0.003, 0.004):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait_s), session.post("/v1/webrtc/offer", json=body):
                        before += 1  # It was quicker.
        # An answer may have been on its way to whoever had just left: its call ends when nobody has connected.
        async with asyncio.timeout(45):
            while len(running.switchboard) > before:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def test_a_browser_with_another_certificate_than_it_offered_is_not_connected() -> None:
    """RFC 8122 section 6.2: the fingerprint is what ties the media to whoever made the offer."""

    def forged(sdp: str) -> str:
        return re.sub(r"(?m)^(a=fingerprint:sha-(\d+)) .*$", _another_fingerprint, sdp)

    async with serving(route=STAYS, webrtc=LOOPBACK) as running, webrtc_phone() as phone, api(running) as client:
        await phone.dial(running, change=forged)
        end = (await client.ended(phone.answer["call_id"]))["end"]
        assert (end["by"], end["sip_reason"]) == ("peer", 'SIP;text="the DTLS handshake failed"')
        assert phone.heard == b""


def _another_fingerprint(line: re.Match[str]) -> str:
    return f"{line[1]} " + ":".join(["AB"] * (int(line[2]) // 8))


async def test_browsers_that_have_left_leave_nothing_behind() -> None:
    async with serving(route=STAYS, webrtc=LOOPBACK) as running, api(running) as client:
        counts = []
        for _ in range(4):
            async with webrtc_phone() as phone:
                await phone.dial(running)
                await connected(client, phone.answer["call_id"])
            await until_calls(running, 0)
            # The gateway says when it has closed all that a browser had.
            async with asyncio.timeout(5):
                while len(counts) > 1 and _files(running) > counts[1]:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            counts.append(_files(running))
        assert counts[-1] <= counts[1]


def _files(running: server.Server) -> int:
    return len(os.listdir(f"/proc/{running.gateway.pid}/fd"))


@pytest.mark.slow
async def test_a_browser_that_never_connects_is_given_up() -> None:
    async with serving(route=STAYS, webrtc=LOOPBACK) as running, webrtc_phone() as phone, api(running) as client:
        status, told = await client.ask("POST", "/v1/webrtc/offer", {"sdp": await phone.offer()})
        assert status == 201
        async with asyncio.timeout(30):
            await until_calls(running, 0)
        told = await client.call(told["call_id"])
    assert told["end"]["sip_reason"] == 'SIP;text="no connection within 15 s"'
    assert [said["spoken_ms"] for said in told["speech"]] == [0]


@pytest.mark.slow
async def test_a_browser_that_vanishes_is_missed_within_half_a_minute() -> None:
    """RFC 7675: consent expires. The browser is stopped, so that nothing says good-bye."""
    async with called() as (running, phone, id), api(running) as client:
        await connected(client, id)
        for ice in phone.connection._RTCPeerConnection__iceTransports:  # type: ignore[attr-defined]
            for protocol in ice._connection._protocols:
                protocol.transport.abort()
        async with asyncio.timeout(30):
            await until_calls(running, 0)
        assert (await client.call(id))["end"]["by"] == "peer"


CALL = """(async () => {
  window.heard = [];
  const pc = window.pc = new RTCPeerConnection();
  const media = await navigator.mediaDevices.getUserMedia({audio: true});
  const transceiver = pc.addTransceiver(media.getAudioTracks()[0], {streams: [media]});
  pc.addTransceiver('video');
  pc.createDataChannel('chat');
  const codecs = RTCRtpReceiver.getCapabilities('audio').codecs;
  transceiver.setCodecPreferences(codecs.filter(one => ['audio/%s', 'audio/telephone-event'].includes(one.mimeType)));
  pc.ontrack = event => {
    if (event.track.kind != 'audio') return;
    const audio = new Audio();
    audio.srcObject = new MediaStream([event.track]);
    audio.play();
    const context = new AudioContext({sampleRate: 8000});
    const node = context.createScriptProcessor(1024, 1, 1);
    node.onaudioprocess = event => window.heard.push(...event.inputBuffer.getChannelData(0));
    context.createMediaStreamSource(audio.srcObject).connect(node);
    node.connect(context.destination);
  };
  await pc.setLocalDescription();
  while (pc.iceGatheringState != 'complete') await new Promise(done => setTimeout(done, 10));
  const response = await fetch('/v1/webrtc/offer', {
    method: 'POST',
    headers: {'Content-Type': 'application/json'},
    body: JSON.stringify({...pc.localDescription.toJSON(), to: 'console'}),
  });
  const answer = await response.json();
  if (response.status != 201) throw new Error(JSON.stringify(answer));
  await pc.setRemoteDescription({type: answer.type, sdp: answer.sdp});
  return answer.call_id;
})()"""


async def place(page: Page, running: server.Server, codec: str) -> str:
    """Call the server from a page of its own; the id of the call."""
    await page.goto(f"http://{running.http_address}/health")
    id = await page.evaluate(CALL % codec)
    await page.until("pc.connectionState == 'connected'")
    return str(id)


@needs_chromium
@pytest.mark.parametrize("codec", ["PCMU", "opus"])
async def test_chromium_is_a_telephone(codec: str) -> None:
    async with serving(route=STAYS, webrtc=LOOPBACK) as running, chromium() as page, api(running) as client:
        id = await place(page, running, codec)
        told = await client.until(id, lambda told: told["speech"][0]["state"] == "spoken")
        await page.until(f"heard.length > 8 * {told['speech'][0]['spoken_ms']} + 4000")
        samples = np.array(await page.evaluate("heard"))
        original = await spoken(running.engine, TEXT)
        # The browser's jitter buffer stretches and squeezes, so the speech is looked for piece by piece.
        recorded = (np.clip(samples, -1, 1) * 32_767).astype(np.int16).tobytes()
        pieces = [original[at : at + 3200] for at in range(0, len(original) - 3200, 3200)]
        loud = [piece for piece in pieces if np.std(floats(piece)) > 500]
        assert len(loud) > 8
        assert np.median([likeness(recorded, piece) for piece in loud]) > 0.9
        # Digits, as RTCDTMFSender sends them.
        assert await page.evaluate("pc.getSenders()[0].dtmf.canInsertDTMF")
        await page.evaluate("pc.getSenders()[0].dtmf.insertDTMF('12#', 100, 70)")
        await client.until(id, lambda told: told["digits"] == 3)
        # The made-up microphone beeps, and the server hears it.
        assert np.max(np.abs(await hear(running, id, 1.5))) > 1000
        stats = "pc.getStats().then(all => [...all.values()].find(one => one.type == 'inbound-rtp'))"
        told = await page.evaluate(stats)
        assert (told["packetsLost"], told["packetsReceived"] > 100) == (0, True)
        await page.evaluate("pc.close()")
        assert (await client.ended(id))["end"]["by"] == "peer"
        assert [message for message in page.messages if message.startswith("error: Uncaught")] == []


LISTEN = """(async () => {
  const pc = window.pc = new RTCPeerConnection();
  pc.addTransceiver('audio', {direction: 'recvonly'});
  await pc.setLocalDescription();
  while (pc.iceGatheringState != 'complete') await new Promise(done => setTimeout(done, 10));
  const hidden = pc.localDescription.sdp.replace(/(a=candidate:\\S+ 1 udp \\d+) \\S+/g, '$1 0b5b1f1a-0f0e.local');
  const response = await fetch('/v1/webrtc/offer', {
    method: 'POST', headers: {'Content-Type': 'application/json'}, body: JSON.stringify({type: 'offer', sdp: hidden}),
  });
  const answer = await response.json();
  await pc.setRemoteDescription({type: answer.type, sdp: answer.sdp});
  return answer.call_id;
})()"""


@needs_chromium
async def test_chromium_without_a_microphone_and_with_hidden_addresses_listens() -> None:
    async with serving(route=STAYS, webrtc=LOOPBACK) as running, chromium() as page, api(running) as client:
        await page.goto(f"http://{running.http_address}/health")
        id = await page.evaluate(LISTEN)
        await page.until("pc.connectionState == 'connected'")
        await client.until(id, lambda told: told["speech"][0]["state"] == "spoken")
        stats = "pc.getStats().then(all => [...all.values()].find(one => one.type == 'inbound-rtp'))"
        assert (await page.evaluate(stats))["packetsReceived"] > 100
        assert (await client.call(id))["media"]["packets_received"] == 0


@needs_chromium
async def test_chromium_sees_that_the_server_hangs_up() -> None:
    async with serving(route=STAYS, webrtc=LOOPBACK) as running, chromium() as page, api(running) as client:
        id = await place(page, running, "PCMU")
        await connected(client, id)
        assert (await client.ask("DELETE", f"/v1/calls/{id}"))[0] == 204
        # Of the connection Chromium says so seconds later, "disconnected"; of its transport at once.
        await page.until("pc.getSenders()[0].transport.state == 'closed'", timeout_s=2)
        assert (await client.ended(id))["end"]["reason"] == "hung_up"
