"""/v1/calls/{id}/audio on a real server: a telephone at one end, a WebSocket at the other, and what passes between."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import random
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Self

import aiohttp
import numpy as np
import pytest
from aiohttp import WSMsgType

import sip
from mediaserver import server
from rtp import g711
from tests.live import Ear, likeness, serving
from tests.test_calls_api import TEXT, WORDS, Client, Told, api, states
from tests.test_referrals import Phone, phone

SILENCE = {0: b"\xff", 8: b"\xd5"}
EVERY_CODE = bytes(range(256)) * 5  # eight frames, the octets of silence among them, and of silence's twin


class Wire(Ear):
    """An ear that keeps the octets, and when they came; and a mouth."""

    def __init__(self, payload_type: int) -> None:
        super().__init__()
        self.payload_type = payload_type
        self.packets: list[tuple[float, bytes]] = []
        self.target: tuple[str, int] | None = None
        self._sequence = 0

    def __enter__(self) -> Self:
        asyncio.get_running_loop().add_reader(self._socket, self._receive)
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)
        super().__exit__(*error)

    def _receive(self) -> None:
        packet = self._socket.recv(2048)
        if packet[1] & 0x7F == self.payload_type:
            self.packets.append((time.monotonic(), packet[12:]))

    @property
    def codes(self) -> bytes:
        """All octets that came."""
        return b"".join(payload for _, payload in self.packets)

    def sounding(self) -> list[float]:
        """When packets came that are no silence."""
        silence = SILENCE[self.payload_type] * 160
        return [at for at, payload in self.packets if payload != silence]

    def say(self, codes: bytes) -> None:
        """Send a packet."""
        assert self.target is not None
        head = bytes([0x80, self.payload_type]) + self._sequence.to_bytes(2, "big")
        head += (160 * self._sequence).to_bytes(4, "big") + b"mouth"[:4]
        self._sequence += 1
        self._socket.sendto(head + codes, self.target)

    async def talk(self, codes: bytes, *, told: Callable[[float], None] = lambda at: None) -> None:
        """Send it in packets of 20 ms, and tell when each is sent."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        for number, start in enumerate(range(0, len(codes), 160)):
            await asyncio.sleep(begun + 0.02 * number - loop.time())
            told(time.monotonic())
            self.say(codes[start : start + 160])


class Handset(Phone):
    """A telephone whose octets can be seen."""

    def __init__(self, payload_type: int = 0) -> None:
        super().__init__()
        with self.ear:
            self.ear: Wire = Wire(payload_type)

    @property
    def offer(self) -> bytes:
        return super().offer.replace(b"RTP/AVP 0", b"RTP/AVP %d" % self.ear.payload_type)

    def deliver(self, event: sip.Event) -> None:
        if isinstance(event, sip.Offered):
            found = re.search(rb"m=audio (\d+)", event.request.body)
            assert found is not None
            self.ear.target = ("127.0.0.1", int(found[1]))
        super().deliver(event)


@asynccontextmanager
async def handset(payload_type: int = 0) -> AsyncIterator[Handset]:
    made = Handset(payload_type)
    agent = sip.Agent(random=random.Random())
    with made.ear:
        async with sip.Transport.open(agent, [("127.0.0.1", 0)], deliver=made.deliver) as made.transport:
            yield made


class Agent:
    """A client's end of a WebSocket of a call's audio."""

    def __init__(self, line: aiohttp.ClientWebSocketResponse) -> None:
        self.line = line
        self.audio: list[tuple[float, bytes]] = []
        self.told: list[Told] = []
        self._more = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for message in self.line:
            if message.type is WSMsgType.BINARY:
                self.audio.append((time.monotonic(), message.data))
            else:
                told = message.json() | {"at": time.monotonic()}
                self.told.append(told)
                if told.get("event") == "media":
                    self.audio.append((told["at"], base64.b64decode(told["media"]["payload"])))
            self._more.set()
        self._more.set()

    @property
    def heard(self) -> bytes:
        return b"".join(frame for _, frame in self.audio)

    async def until(self, found: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not found():
                self._more.clear()
                await self._more.wait()

    async def hears(self, kind: str) -> Told:
        """The next message of that kind that was not asked for before."""
        await self.until(lambda: any(kind in (told.get("type"), told.get("event")) for told in self.told))
        told = next(told for told in self.told if kind in (told.get("type"), told.get("event")))
        self.told.remove(told)
        return told

    async def says(self, **message: Any) -> None:
        await self.line.send_json(message)

    async def closed(self) -> int | None:
        async with asyncio.timeout(10):
            await self._reading
        return self.line.close_code


@asynccontextmanager
async def attached(running: server.Server, id: str, query: str = "") -> AsyncIterator[Agent]:
    async with (
        aiohttp.ClientSession(f"http://{running.http_address}") as session,
        session.ws_connect(f"/v1/calls/{id}/audio?{query}") as line,
    ):
        agent = Agent(line)
        yield agent
        await line.close()
        await agent.closed()


@asynccontextmanager
async def talking(
    query: str = "", *, payload_type: int = 0, **fields: Any
) -> AsyncIterator[tuple[Client, str, Handset, Agent]]:
    """A call with a handset, and an agent at it."""
    async with serving() as running, api(running) as client, handset(payload_type) as callee:
        id = await client.place(callee.uri, **({"stay": 60} | fields))
        async with attached(running, id, query) as agent:
            yield client, id, callee, agent
        await client.ask("DELETE", f"/v1/calls/{id}")
        await client.ended(id)


def tone(hz: float, rate_hz: int, seconds: float) -> bytes:
    at = np.arange(round(seconds * rate_hz)) / rate_hz
    return bytes(np.rint(8000 * np.sin(2 * np.pi * hz * at)).astype(np.int16).tobytes())


# What the caller says


async def test_the_call_is_told_and_then_its_audio_comes_in_frames_of_20_ms() -> None:
    async with talking() as (_, id, callee, agent):
        start = await agent.hears("start")
        await agent.until(lambda: len(agent.audio) > 20)
        assert {key: start[key] for key in start.keys() - {"at", "from"}} == {
            "type": "start",
            "call_id": id,
            "direction": "outbound",
            "to": callee.uri,
            "codec": "PCMU",
            "format": "pcm",
            "sample_rate": 8000,
            "frame_ms": 20,
        }
        assert {len(frame) for _, frame in agent.audio} == {320}
        gaps = [later - earlier for (earlier, _), (later, _) in itertools.pairwise(agent.audio[10:])]
        assert sum(gaps) / len(gaps) == pytest.approx(0.02, abs=0.004)


@pytest.mark.parametrize(("format", "payload_type"), [("mulaw", 0), ("alaw", 8)])
async def test_what_the_caller_says_comes_octet_for_octet(format: str, payload_type: int) -> None:
    said = EVERY_CODE.replace(b"\x7f", b"\x7e")  # mu-law has two zeros, and linear samples but one
    async with talking(f"format={format}&direction=listen", payload_type=payload_type) as (_, _, callee, agent):
        await agent.hears("start")
        await callee.ear.talk(SILENCE[payload_type] * 1600 + said + SILENCE[payload_type] * 160)
        await agent.until(lambda: said in agent.heard)


@pytest.mark.parametrize("rate_hz", [8000, 16000, 24000])
async def test_what_the_caller_says_comes_at_the_rate_that_was_asked_for(rate_hz: int) -> None:
    async with talking(f"sample_rate={rate_hz}&direction=listen") as (_, _, callee, agent):
        await agent.hears("start")
        await callee.ear.talk(g711.mulaw_encode(tone(440, 8000, 0.6)))
        await agent.until(lambda: likeness(agent.heard, tone(440, rate_hz, 0.3)) > 0.99)
        assert {len(frame) for _, frame in agent.audio} == {2 * rate_hz // 50}


async def test_any_number_may_listen_at_a_time() -> None:
    async with serving() as running, api(running) as client, handset() as callee:
        id = await client.place(callee.uri, stay=60)
        async with (
            attached(running, id, "direction=listen&format=mulaw") as first,
            attached(running, id, "direction=listen&format=mulaw") as second,
            attached(running, id, "format=mulaw") as both,
        ):
            listeners = (first, second, both)
            for agent in listeners:
                await agent.hears("start")
            await callee.ear.talk(b"\x10" * 1600)
            for agent in listeners:
                await agent.until(lambda agent=agent: b"\x10" * 1600 in agent.heard)  # type: ignore[misc]


async def test_digits_come_as_messages() -> None:
    async with talking("direction=speak") as (_, _, callee, agent):
        await agent.hears("start")
        offered = await callee.until(sip.Offered)
        assert isinstance(offered, sip.Offered)
        for digit in "5#":
            callee.transport.request_within(
                offered.call, "INFO", body=f"Signal={digit}\r\n".encode(), content_type="application/dtmf-relay"
            )
            assert (await agent.hears("dtmf"))["digit"] == digit
        assert agent.audio == []


# What the agent says


@pytest.mark.parametrize(("format", "payload_type"), [("mulaw", 0), ("alaw", 8)])
async def test_what_is_in_the_codec_of_the_call_is_sent_octet_for_octet(format: str, payload_type: int) -> None:
    async with talking(f"format={format}", payload_type=payload_type) as (client, id, callee, agent):
        await agent.hears("start")
        for start in range(0, len(EVERY_CODE), 100):  # whatever the size of the messages
            await agent.line.send_bytes(EVERY_CODE[start : start + 100])
        await agent.says(type="mark", name="end")
        await agent.hears("mark")
        assert callee.ear.codes.strip(SILENCE[payload_type]) == EVERY_CODE.strip(SILENCE[payload_type])
        told = await client.call(id)
        assert (told["media"]["speech_frames"], told["media"]["underruns"]) == (8, 0)


@pytest.mark.parametrize("query", ["", "sample_rate=16000", "sample_rate=24000", "format=alaw"])
async def test_other_audio_is_turned_into_the_codec_of_the_call(query: str) -> None:
    rate_hz = int(query.removeprefix("sample_rate=")) if "rate" in query else 8000
    said = tone(440, rate_hz, 0.5)
    async with talking(query) as (client, id, callee, agent):
        await agent.hears("start")
        await agent.line.send_bytes(g711.alaw_encode(said) if "alaw" in query else said)
        await agent.says(type="mark", name="end")
        await agent.hears("mark")
        heard = g711.mulaw_decode(callee.ear.codes)
        assert likeness(heard, tone(440, 8000, 0.45)) > 0.99
        (spoken,) = (await client.call(id))["speech"]
        assert (spoken["text"], spoken["spoken_ms"]) == (None, 500)


async def test_speech_in_real_time_is_sent_without_a_gap() -> None:
    said = bytes(1 + n // 160 % 100 for n in range(160 * 50))
    async with talking("format=mulaw") as (client, id, callee, agent):
        await agent.hears("start")
        begun = time.monotonic()
        for number in range(100):  # 10 ms each
            await asyncio.sleep(max(0.0, begun + number * 0.01 - time.monotonic()))
            await agent.line.send_bytes(said[80 * number : 80 * number + 80])
        await agent.says(type="mark", name="end")
        await agent.hears("mark")
        assert callee.ear.codes.strip(b"\xff") == said
        (spoken,) = (await client.call(id))["speech"]
        assert spoken["spoken_ms"] == 1000


async def test_marks_come_back_in_their_order_when_all_before_them_is_sent() -> None:
    async with talking("format=mulaw&direction=speak") as (_, _, callee, agent):
        await agent.hears("start")
        for code in (1, 2, 3):
            await agent.says(type="mark", name=f"before {code}")
            await agent.line.send_bytes(bytes([code]) * 1600)
        await agent.says(type="mark", name="end")
        for code in (1, 2, 3):
            assert (await agent.hears("mark"))["name"] == f"before {code}"
            if code > 1:
                last = max(at for at, payload in callee.ear.packets if payload[0] == code - 1)
                assert len([payload for _, payload in callee.ear.packets if payload[0] == code - 1]) == 10
                assert time.monotonic() - last < 0.1
        assert (await agent.hears("mark"))["name"] == "end"
        await agent.says(type="mark", name="silence")
        assert (await agent.hears("mark"))["name"] == "silence"


async def test_clear_is_silence_within_20_ms_and_tells_what_was_not_reached() -> None:
    late = []
    async with talking("format=mulaw") as (client, id, callee, agent):
        await agent.hears("start")
        for turn in range(3):
            sounding = len(callee.ear.sounding())
            await agent.line.send_bytes(b"\x01" * 800)
            await agent.says(type="mark", name="reached")
            await agent.line.send_bytes(b"\x01" * 80_000)
            await agent.says(type="mark", name="a")
            await agent.says(type="mark", name="b")
            assert (await agent.hears("mark"))["name"] == "reached"
            asked = time.monotonic()
            await agent.says(type="clear")
            cleared = await agent.hears("cleared")
            assert cleared["marks"] == ["a", "b"]
            await asyncio.sleep(0.06)
            late.append(callee.ear.sounding()[-1] - asked)
            assert len(callee.ear.sounding()) - sounding >= 5
            assert cleared["played_ms"] == 20 * len(callee.ear.sounding()), turn
        told = await client.call(id)
        assert states(told) == ["interrupted"] * 3
        await agent.says(type="clear")
        assert (await agent.hears("cleared"))["marks"] == []
    # The least, so that a busy machine is not mistaken for a slow server.
    assert min(late) < 0.02


async def test_what_comes_after_a_clear_is_said() -> None:
    async with talking("format=mulaw&buffer_ms=0") as (_, _, callee, agent):
        await agent.hears("start")
        await agent.line.send_bytes(b"\x01" * 80_000)
        await agent.until(lambda: bool(callee.ear.sounding()))
        await agent.says(type="clear")
        await agent.line.send_bytes(b"\x02" * 800)
        await agent.says(type="mark", name="end")
        await agent.hears("mark")
        assert callee.ear.codes.rstrip(b"\xff").endswith(b"\x02" * 800)


async def test_speech_waits_for_what_the_call_says_and_is_interrupted_like_it() -> None:
    async with talking("format=mulaw", text=TEXT, then="stay") as (client, id, callee, agent):
        await agent.line.send_bytes(b"\x01" * 16_000)  # the call may not even be up
        await agent.says(type="mark", name="never")
        await client.until(id, lambda told: states(told) == ["spoken", "speaking"])
        await client.ask("POST", f"/v1/calls/{id}/say", {"text": WORDS, "mode": "interrupt"})
        cleared = await agent.hears("cleared")
        assert cleared["marks"] == ["never"]
        assert cleared["played_ms"] < 2000
        told = await client.until(id, lambda told: states(told) == ["spoken", "interrupted", "spoken"])
        assert told["speech"][1]["spoken_ms"] == cleared["played_ms"]
        assert callee.ear.codes.count(b"\x01") == 8 * cleared["played_ms"]


async def test_more_than_a_minute_of_audio_is_not_read_before_there_is_room() -> None:
    async with talking("format=mulaw") as (client, id, _, agent):
        await agent.hears("start")

        async def flood() -> None:
            for _ in range(40):
                await agent.line.send_bytes(b"\x01" * 160_000)  # 20 s
            await agent.says(type="mark", name="end")

        flooding = asyncio.create_task(flood())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(flooding), 0.7)
        assert (await client.call(id))["state"] == "up"
        await client.ask("DELETE", f"/v1/calls/{id}")
        await agent.hears("stop")
        with contextlib.suppress(ConnectionError):
            await flooding


# How it begins and ends


async def test_a_call_with_somebody_who_may_speak_goes_on_until_he_has_left() -> None:
    async with serving() as running, api(running) as client, handset() as callee:
        id = await client.place(callee.uri, text="a", then="hangup")
        async with attached(running, id, "format=mulaw") as agent:
            await client.until(id, lambda told: states(told) == ["spoken"])
            await asyncio.sleep(0.6)
            assert (await client.call(id))["state"] == "up"
            await agent.line.send_bytes(b"\x01" * 4000)
        told = await client.ended(id)
        assert told["end"]["reason"] == "completed"
        assert states(told) == ["spoken", "spoken"]
        assert callee.ear.codes.count(b"\x01") == 4000


async def test_a_listener_holds_no_call() -> None:
    async with serving() as running, api(running) as client, handset() as callee:
        id = await client.place(callee.uri, text="a", then="hangup")
        async with attached(running, id, "direction=listen") as agent:
            assert (await client.ended(id))["end"]["reason"] == "completed"
            await agent.hears("stop")
            assert await agent.closed() == 1000


async def test_a_caller_who_hangs_up_is_the_end() -> None:
    async with talking("format=mulaw") as (_, id, callee, agent):
        await agent.hears("start")
        await agent.line.send_bytes(b"\x01" * 80_000)
        await agent.says(type="mark", name="never")
        await agent.until(lambda: bool(callee.ear.sounding()))
        offered = await callee.until(sip.Offered)
        assert isinstance(offered, sip.Offered)
        callee.transport.bye(offered.call)
        assert (await agent.hears("stop"))["call_id"] == id
        assert await agent.closed() == 1000


async def test_whoever_comes_while_it_rings_waits() -> None:
    async with serving() as running, api(running) as client, phone(status=180) as callee:
        id = await client.place(callee.uri, stay=60)
        await client.until(id, lambda told: told["state"] == "ringing")
        async with attached(running, id) as agent:
            offered = await callee.until(sip.Offered)
            assert isinstance(offered, sip.Offered)
            assert agent.told == []
            callee.transport.answer(offered.call, body=callee.offer)
            await agent.hears("start")
        id = await client.place(callee.uri, ring_timeout=1)
        async with attached(running, id) as agent:
            assert (await agent.hears("stop"))["call_id"] == id
            assert agent.told == []
            assert await agent.closed() == 1000


async def test_one_at_a_time_may_speak() -> None:
    async with talking() as (_, id, _, agent):
        await agent.hears("start")
        host, port = agent.line.get_extra_info("peername")
        url = f"http://{host}:{port}/v1/calls/{id}/audio"
        async with aiohttp.ClientSession() as session:
            for query in ("", "?direction=speak"):
                with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                    await session.ws_connect(url + query)
                assert caught.value.status == 409
            await agent.line.close()
            async with asyncio.timeout(5):
                while True:
                    try:
                        async with session.ws_connect(url):
                            break
                    except aiohttp.WSServerHandshakeError:
                        await asyncio.sleep(0.01)


async def test_a_server_that_drains_lets_the_agent_finish_and_says_nothing_new() -> None:
    async with serving() as running, api(running) as client, handset() as callee:
        id = await client.place(callee.uri, stay=60)
        async with attached(running, id, "format=mulaw") as agent:
            await agent.hears("start")
            await agent.line.send_bytes(b"\x01" * 8000)
            await agent.until(lambda: bool(callee.ear.sounding()))
            await running.drain(asyncio.Event())
            await agent.hears("stop")
            assert await agent.closed() == 1000
        assert callee.ear.codes.count(b"\x01") == 8000
        assert (await client.call(id))["end"]["reason"] == "completed"


async def test_what_is_new_while_the_server_drains_is_refused() -> None:
    async with serving() as running, api(running) as client, handset() as callee:
        id = await client.place(callee.uri, stay=60)
        async with attached(running, id, "format=mulaw") as agent:
            await agent.hears("start")
            await agent.line.send_bytes(b"\x01" * 8000)
            await agent.until(lambda: bool(callee.ear.sounding()))
            draining = asyncio.create_task(running.drain(asyncio.Event()))
            await asyncio.sleep(0)
            await agent.says(type="clear")
            await agent.hears("cleared")
            await agent.line.send_bytes(b"\x02" * 8000)
            assert (await agent.hears("error"))["problem"]["status"] == 503
            assert await agent.closed() == 1013
            await draining
        assert b"\x02" not in callee.ear.codes


async def test_a_call_that_came_has_its_audio_too() -> None:
    async with serving(route=[{"say": "a", "then": "stay"}]) as running, api(running) as client, handset() as caller:
        await caller.dial(running)
        _, told = await client.ask("GET", "/v1/calls")
        async with attached(running, told["calls"][0]["id"]) as agent:
            start = await agent.hears("start")
            assert (start["direction"], start["to"]) == ("inbound", f"sip:x@{running.sip_address}")


# Twilio's words


async def test_an_agent_of_twilios_is_served_in_its_own_words() -> None:
    async with talking("protocol=twilio") as (client, id, callee, agent):
        assert await agent.hears("connected") | {"at": 0} == {
            "event": "connected", "protocol": "Call", "version": "1.0.0", "at": 0
        }  # fmt: skip
        start = await agent.hears("start")
        assert (start["sequenceNumber"], start["streamSid"], start["start"]["callSid"]) == ("1", id, id)
        assert start["start"]["mediaFormat"] == {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1}
        await callee.ear.talk(b"\x10" * 1600)
        await agent.until(lambda: b"\x10" * 1600 in agent.heard)
        media = await agent.hears("media")
        assert media["sequenceNumber"] == "2"
        assert (media["media"]["chunk"], media["media"]["timestamp"], media["media"]["track"]) == ("1", "0", "inbound")
        payload = base64.b64encode(b"\x01" * 800).decode()
        await agent.says(event="media", streamSid=id, media={"payload": payload})
        await agent.says(event="mark", streamSid=id, mark={"name": "sent"})
        assert (await agent.hears("mark"))["mark"] == {"name": "sent"}
        assert callee.ear.codes.count(b"\x01") == 800
        for _ in range(20):
            await agent.says(event="media", streamSid=id, media={"payload": payload})
        await agent.says(event="mark", streamSid=id, mark={"name": "cleared"})
        await agent.says(event="clear", streamSid=id)
        assert (await agent.hears("mark"))["mark"] == {"name": "cleared"}
        await client.ask("DELETE", f"/v1/calls/{id}")
        assert (await agent.hears("stop"))["stop"]["callSid"] == id
        assert await agent.closed() == 1000
