"""Calls of a real server that are recorded over HTTP, with a telephone at the other end; what comes out is measured."""

from __future__ import annotations

import asyncio
import io
import json
import os
import resource
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from mediaserver import config
from rtp.g711 import mulaw_decode, mulaw_encode
from rtp.packet import Packet, serialise
from tests.live import heard, likeness, serving, spoken, until_calls
from tests.test_calls_api import TEXT, Client, api, states
from tests.test_calls_verbs import act, friend
from tests.test_referrals import Phone, phone

Side = npt.NDArray[np.int16]
FRAME = 160


class Mirror:
    """Has a telephone say whatever it hears as soon as it has heard it: a packet later, as a microphone would.

    lost   of what it says, so many packets' payloads are lost on the way: those whose number is divisible by it
    heard  payloads by timestamp, from the beginning on
    """

    def __init__(self, telephone: Phone, *, lost: int = 0) -> None:
        self._socket = telephone.ear._socket
        self._lost = lost
        self._said = 0
        self._before = b""
        self.heard: dict[int, bytes] = {}
        asyncio.get_running_loop().add_reader(self._socket, self._reflect)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)

    def _reflect(self) -> None:
        packet, address = self._socket.recvfrom(2048)
        if packet[1] & 0x7F:
            return
        self.heard[struct.unpack("!I", packet[4:8])[0]] = packet[12:]
        before, self._before = self._before, packet[12:]
        if not before:
            return
        self._said += 1
        if not self._lost or self._said % self._lost:
            said = Packet(payload_type=0, sequence=self._said, timestamp=FRAME * self._said, ssrc=7, payload=before)
            self._socket.sendto(serialise(said), address)


@asynccontextmanager
async def mirror(*, lost: int = 0) -> AsyncIterator[tuple[Phone, Mirror]]:
    async with phone() as telephone:
        made = Mirror(telephone, lost=lost)
        yield telephone, made
        made.close()


@asynccontextmanager
async def recording(path: Path, **section: Any) -> AsyncIterator[tuple[Any, Client]]:
    """A server that records into `path`."""
    settings = {"enabled": True, "path": str(path), "min_free_mb": 0} | section
    async with serving(recordings=settings) as running, api(running) as client:
        yield running, client


async def audio(client: Client, id: str) -> tuple[Side, Side]:
    """What was recorded: the peer, and we."""
    async with client._session.get(f"/v1/recordings/{id}/audio") as response:
        assert (response.status, response.content_type) == (200, "audio/wav")
        assert response.headers["Content-Disposition"] == f'attachment; filename="{id}.wav"'
        samples, rate_hz = soundfile.read(io.BytesIO(await response.read()), dtype="int16")
    assert (rate_hz, samples.shape[1]) == (8000, 2)
    return samples[:, 0], samples[:, 1]


def lag(late: Side, early: Side) -> int:
    """By how many samples one is behind the other."""
    size = 1 << (len(late) + len(early)).bit_length()
    spectrum = np.fft.rfft(late.astype(float), size) * np.conj(np.fft.rfft(early.astype(float), size))
    at = int(np.argmax(np.fft.irfft(spectrum, size)))
    return at if at < size // 2 else at - size


def same(one: Side, other: Side, shift: int) -> float:
    """The share of samples that are equal once the first is shifted back."""
    one = one[max(shift, 0) :]
    other = other[max(-shift, 0) :]
    size = min(len(one), len(other))
    return float(np.mean(one[:size] == other[:size]))


async def test_both_sides_are_recorded_as_they_were_and_aligned_to_within_a_frame(tmp_path: Path) -> None:
    async with recording(tmp_path) as (running, client), mirror() as (callee, reflected):
        id = await client.place(callee.uri, stay=60)
        await client.up(id)
        begun = await act(client, id, "record", {}, status=201)
        assert (begun["state"], begun["call_id"], begun["reason"], begun["format"]) == ("recording", id, None, "wav")
        await act(client, id, "say", {"text": TEXT}, status=202)
        await client.until(id, lambda told: states(told) == ["spoken"])
        await asyncio.sleep(0.3)
        ended = await act(client, id, "record/stop")
        peer, ours = await audio(client, begun["id"])
        said = np.frombuffer(mulaw_decode(b"".join(reflected.heard.values())), np.int16)
        speech = await spoken(running.engine, TEXT)
    # What we said is in the file sample by sample, as it was on the wire.
    speaks = np.flatnonzero(ours)
    assert len(speaks) > 8000
    first = int(np.flatnonzero(said)[0]) - int(speaks[0])
    assert np.array_equal(ours[speaks[0] : speaks[-1]], said[speaks[0] + first : speaks[-1] + first])
    assert likeness(ours.tobytes(), speech) > 0.98
    # The telephone's voice is that one, heard a packet later, and so at the time at which it was said.
    shift = lag(peer, ours)
    assert abs(shift) <= FRAME
    assert same(peer, ours, shift) > 0.99
    assert (ended["state"], ended["reason"]) == ("ended", "stopped")
    assert ended["duration_ms"] == len(peer) // 8
    assert ended["size_bytes"] == 44 + 4 * len(peer) == (tmp_path / f"{begun['id']}.wav").stat().st_size


async def test_what_is_lost_on_the_way_is_silence_and_shifts_nothing(tmp_path: Path) -> None:
    async with recording(tmp_path) as (_, client), mirror(lost=10) as (callee, _):
        id = await client.place(callee.uri, stay=60)
        await client.up(id)
        begun = await act(client, id, "record", {}, status=201)
        await act(client, id, "say", {"text": TEXT}, status=202)
        await client.until(id, lambda told: states(told) == ["spoken"])
        await asyncio.sleep(0.3)
        await act(client, id, "record/stop")
        peer, ours = await audio(client, begun["id"])
    shift = lag(peer, ours)
    assert abs(shift) <= FRAME
    at = slice(max(shift, 0), None), slice(max(-shift, 0), None)
    size = min(len(peer[at[0]]), len(ours[at[1]]))
    peer, ours = peer[at[0]][:size], ours[at[1]][:size]
    missing = np.flatnonzero(peer != ours)
    assert not peer[missing].any(), "all that differs is silence"
    assert 0.02 < len(missing) / size < 0.11


async def test_pauses_and_holds_are_recorded_as_the_silence_that_they_were(tmp_path: Path) -> None:
    async with recording(tmp_path) as (_, client), mirror() as (callee, _):
        id = await client.place(callee.uri, stay=60)
        await client.up(id)
        begun = await act(client, id, "record", {}, status=201)
        await act(client, id, "say", {"text": TEXT}, status=202)
        await client.until(id, lambda told: told["speech"][0]["spoken_ms"] > 600)
        await act(client, id, "pause")
        await asyncio.sleep(0.7)
        await act(client, id, "resume")
        await client.until(id, lambda told: states(told) == ["spoken"])
        await asyncio.sleep(0.3)
        await act(client, id, "record/stop")
        peer, ours = await audio(client, begun["id"])
    pauses = [side[: np.flatnonzero(side)[-1]] for side in (peer, ours)]
    for side in pauses:
        gaps = np.diff(np.flatnonzero(side))
        assert 5000 <= gaps.max() <= 8000, "700 ms"
    # Each part by itself, before the pause and after it.
    where = int(np.argmax(np.diff(np.flatnonzero(ours))))
    breach = int(np.flatnonzero(ours)[where]) + 2800
    before, after = lag(peer[:breach], ours[:breach]), lag(peer[breach:], ours[breach:])
    assert abs(before) <= FRAME
    assert abs(after) <= FRAME


async def test_a_recording_goes_on_through_a_hold(tmp_path: Path) -> None:
    async with recording(tmp_path) as (_, client), friend() as callee:
        id = await client.place(callee.uri, stay=60)
        await client.up(id)
        begun = await act(client, id, "record", {}, status=201)
        await act(client, id, "hold")
        assert (await client.call(id))["recordings"][0]["state"] == "recording"
        await act(client, id, "unhold")
        tone = np.tile(np.int16([8000, -8000] * 4 + [0] * 8), 200)
        await callee.media.stream.write(tone.tobytes(), 8000)
        callee.media.stream.end()
        await callee.media.stream.drained()
        await asyncio.sleep(0.2)
        await client.ask("DELETE", f"/v1/calls/{id}")
        (facts,) = (await client.ended(id))["recordings"]
        peer, _ = await audio(client, begun["id"])
    assert facts["reason"] == "call_ended"
    # On a busy machine a packet may come too late for its place.
    assert likeness(peer.tobytes(), tone.tobytes()) > 0.9


async def test_one_recording_at_a_time_and_the_next_one_after_it(tmp_path: Path) -> None:
    async with recording(tmp_path) as (_, client), phone() as callee:
        id = await client.place(callee.uri, stay=60)
        await client.up(id)
        first = await act(client, id, "record", {}, status=201)
        await act(client, id, "record", {}, status=409)
        await asyncio.sleep(0.25)
        await act(client, id, "record/stop")
        await act(client, id, "record/stop", status=409)
        second = await act(client, id, "record", {}, status=201)
        status, told = await client.ask("GET", f"/v1/recordings/{second['id']}/audio")
        assert (status, told["status"]) == (409, 409)
        assert (await client.ask("DELETE", f"/v1/recordings/{second['id']}"))[0] == 409
        await client.ask("DELETE", f"/v1/calls/{id}")
        told = await client.ended(id)
        _, listed = await client.ask("GET", "/v1/recordings")
        assert listed["recordings"] == told["recordings"]
        assert [(one["id"], one["reason"]) for one in told["recordings"]] == [
            (first["id"], "stopped"),
            (second["id"], "call_ended"),
        ]
        assert (await client.ask("GET", f"/v1/recordings/{first['id']}"))[1] == told["recordings"][0]
        peer, _ = await audio(client, first["id"])
        assert 100 <= len(peer) / 8 <= 400
        assert (await client.ask("DELETE", f"/v1/recordings/{first['id']}"))[0] == 204
        for path in (f"/v1/recordings/{first['id']}", f"/v1/recordings/{first['id']}/audio"):
            assert (await client.ask("GET", path))[0] == 404
        assert (await client.ask("DELETE", f"/v1/recordings/{first['id']}"))[0] == 404
        assert {name.partition(".")[0] for name in os.listdir(tmp_path)} == {second["id"]}
        await act(client, id, "record", {}, status=409)
        await act(client, "call_0", "record", {}, status=404)


async def test_a_call_that_is_not_up_is_not_recorded(tmp_path: Path) -> None:
    async with recording(tmp_path) as (_, client), phone(status=180) as callee:
        id = await client.place(callee.uri, stay=60)
        await client.until(id, lambda told: told["state"] == "ringing")
        await act(client, id, "record", {}, status=409)
        await act(client, id, "record/stop", status=409)


async def test_a_recording_is_told_of_and_no_longer_than_was_asked_for(tmp_path: Path) -> None:
    async with recording(tmp_path, max_s=5) as (_, client), phone() as callee:
        id = await client.place(callee.uri, stay=60)
        await client.up(id)
        assert (await act(client, id, "record", {"max_s": 6}, status=422))["errors"][0]["field"] == "max_s"
        begun = await act(client, id, "record", {"max_s": 0.5}, status=201)
        told = await client.until(id, lambda told: told["recordings"][0]["state"] == "ended")
        (facts,) = told["recordings"]
        assert (facts["reason"], facts["duration_ms"]) == ("max_duration", 500)
        peer, ours = await audio(client, begun["id"])
        assert (len(peer), len(ours)) == (4000, 4000)
        await client.ask("DELETE", f"/v1/calls/{id}")
        await client.ended(id)
        async with client._session.get(f"/v1/calls/{id}/events") as response:
            lines = (await response.text()).splitlines()
    told_of = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
    started, over = (one for one in told_of if one["type"].startswith("recording."))
    assert (started["type"], started["details"]) == ("recording.started", {"id": begun["id"]})
    assert (over["type"], over["details"]) == (
        "recording.ended",
        {"id": begun["id"], "reason": "max_duration", "duration_ms": 500},
    )


async def test_parts_of_the_file_may_be_asked_for(tmp_path: Path) -> None:
    async with recording(tmp_path) as (_, client), phone() as callee:
        id = await client.place(callee.uri, stay=60)
        await client.up(id)
        begun = await act(client, id, "record", {"max_s": 0.2}, status=201)
        await client.until(id, lambda told: told["recordings"][0]["state"] == "ended")
        path = f"/v1/recordings/{begun['id']}/audio"
        async with client._session.get(path, headers={"Range": "bytes=8-11"}) as response:
            assert (response.status, await response.read()) == (206, b"WAVE")
        async with client._session.get(path, headers={"Range": "bytes=999999-"}) as response:
            assert response.status == 416
        async with client._session.head(path) as response:
            assert (response.status, response.headers["Content-Length"]) == (200, str(44 + 4 * 1600))


async def test_a_route_has_its_calls_recorded_from_the_first_sample_on(tmp_path: Path) -> None:
    settings = {"enabled": True, "path": str(tmp_path), "min_free_mb": 0}
    route = [{"user": "kept", "say": TEXT, "record": True}, {"say": TEXT}]
    async with serving(recordings=settings, route=route) as running, api(running) as client:
        outcome = await heard(running, "kept")
        await heard(running, "other")
        await until_calls(running, 0)
        _, told = await client.ask("GET", "/v1/recordings")
        (facts,) = told["recordings"]
        assert (await client.call(facts["call_id"]))["recordings"] == [facts]
        peer, ours = await audio(client, facts["id"])
        speech = np.frombuffer(await spoken(running.engine, TEXT), np.int16)
    assert facts["reason"] == "call_ended"
    assert not peer.any()
    # Half a second of it: on a busy machine more may have a gap in the telephone's ear, and is no longer the same.
    assert likeness(ours.tobytes(), outcome.heard[3200:11200]) > 0.99
    said = np.frombuffer(mulaw_decode(mulaw_encode(speech.tobytes())), np.int16)
    begins = int(np.flatnonzero(ours)[0]) - int(np.flatnonzero(said)[0])
    assert begins >= 0, "all of it is there"
    size = min(len(said), len(ours) - begins)
    assert size > 8000
    assert np.array_equal(ours[begins : begins + size], said[:size])


async def test_a_call_may_be_placed_to_be_recorded(tmp_path: Path) -> None:
    async with recording(tmp_path) as (_, client), phone() as callee:
        id = await client.place(callee.uri, text="a", record=True)
        (facts,) = (await client.ended(id))["recordings"]
        _, ours = await audio(client, facts["id"])
        assert ours.any()


async def test_a_call_goes_on_without_a_recording_that_cannot_be(tmp_path: Path) -> None:
    route = [{"say": "a", "record": True}]
    settings = {"enabled": True, "path": str(tmp_path), "min_free_mb": 10**9}
    async with serving(recordings=settings, route=route) as running, api(running) as client:
        assert (await heard(running)).answered
        await until_calls(running, 0)
        _, told = await client.ask("GET", "/v1/calls")
        (facts,) = (await client.call(told["calls"][0]["id"]))["recordings"]
        assert (facts["reason"], facts["duration_ms"]) == ("no_space", 0)
        assert (await client.ask("GET", f"/v1/recordings/{facts['id']}"))[0] == 404


def test_a_route_that_records_needs_leave_to() -> None:
    with pytest.raises(ValueError, match=r"route\.0\.record: set recordings\.enabled"):
        config.Config.model_validate({"route": [{"say": "a", "record": True}]})


async def test_nothing_is_recorded_unless_the_configuration_says_so(tmp_path: Path) -> None:
    async with recording(tmp_path / "never", enabled=False) as (_, client), phone() as callee:
        id = await client.place(callee.uri, stay=60)
        await client.up(id)
        told = await act(client, id, "record", {}, status=403)
        status, refused = await client.ask("POST", "/v1/calls", {"to": callee.uri, "record": True})
        assert (status, refused["errors"][0]["field"]) == (403, "record")
        assert "recordings.enabled" in told["detail"]
        assert (await client.ask("GET", "/v1/recordings")) == (200, {"recordings": []})
    assert not (tmp_path / "never").exists()


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """As on a disk that is full: no file of this process grows beyond it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_a_full_disk_ends_the_recording_and_not_the_call(tmp_path: Path) -> None:
    size = 44 + 4 * 8000 + 4 * 100 + 2  # a second, and a piece of the next one
    async with recording(tmp_path) as (_, client), phone() as callee:
        id = await client.place(callee.uri, stay=60)
        await client.up(id)
        with files_of_at_most(size):
            begun = await act(client, id, "record", {}, status=201)
            told = await client.until(id, lambda told: told["recordings"][0]["state"] == "ended")
        (facts,) = told["recordings"]
        assert (facts["reason"], told["state"]) == ("no_space", "up")
        peer, _ = await audio(client, begun["id"])
        assert len(peer) == 8100, "what the disk took is whole"
        assert (await client.ask("GET", f"/v1/recordings/{begun['id']}"))[1]["size_bytes"] == 44 + 4 * 8100
        _, told = await client.ask("GET", f"/v1/calls/{id}")
        await act(client, id, "record", {"max_s": 0.1}, status=201)
        async with client._session.get("/metrics") as response:
            metrics = await response.text()
    assert 'recordings_ended_total{reason="no_space"} 1.0' in metrics
    assert "recordings_active 1.0" in metrics


async def test_no_recording_begins_when_too_little_is_free(tmp_path: Path) -> None:
    async with recording(tmp_path, min_free_mb=10**9) as (_, client), phone() as callee:
        id = await client.place(callee.uri, stay=60)
        await client.up(id)
        await act(client, id, "record", {}, status=503)
        assert (await client.call(id))["recordings"] == []
    assert os.listdir(tmp_path) == []
