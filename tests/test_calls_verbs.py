"""What is done with a call that is up: pause, digits, hold, transfer; and the record that is left of it."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import rtp
import sip
from mediaserver.media import Media
from mediaserver.server import StartError
from rtp.g711 import mulaw_decode, mulaw_encode
from tests.live import likeness, serving, spoken
from tests.test_calls_api import TEXT, WORDS, Client, api, states
from tests.test_referrals import phone

Told = dict[str, Any]


class Friend:
    """A telephone with media of its own, that takes re-INVITEs and REFERs and keeps what it is told.

    status   of its answer to a re-INVITE
    notifies what it says of a transfer: each a status line
    """

    def __init__(self, *, status: int, notifies: tuple[str, ...]) -> None:
        self.status = status
        self.notifies = notifies
        self.transport: sip.Transport
        self.media: Media
        self.digits: list[str] = []
        self.call = ""
        self.referred: list[sip.Request] = []

    @property
    def uri(self) -> str:
        host, port = self.transport.addresses[0]
        return f"sip:friend@{host}:{port}"

    def hear(self, event: rtp.StreamEvent) -> None:
        if isinstance(event, rtp.Digit):
            self.digits.append(event.digit)

    def deliver(self, event: sip.Event) -> None:
        match event:
            case sip.Offered():
                self.call = event.call
                self.transport.answer(event.call, body=self.media.answer(event.request.body))
            case sip.Confirmed():
                self.media.start()
            case sip.Reoffered() if self.status == 200:
                self.transport.answer(event.call, body=self.media.answer(event.request.body))
            case sip.Reoffered():
                self.transport.reject(event.call, status=self.status)
            case sip.Requested() if event.message.method == "REFER":
                self.referred.append(event.message)
                self.transport.respond(event.request, 202)
                for number, line in enumerate(self.notifies, 1):
                    self.notify(line, last=number == len(self.notifies))

    def notify(self, line: str, *, last: bool) -> None:
        """Tell of the transfer."""
        self.transport.request_within(
            self.call,
            "NOTIFY",
            headers=(
                ("Event", "refer"),
                ("Subscription-State", "terminated;reason=noresource" if last else "active;expires=60"),
            ),
            body=line.encode(),
            content_type="message/sipfrag",
        )


@asynccontextmanager
async def friend(*, status: int = 200, notifies: tuple[str, ...] = ()) -> AsyncIterator[Friend]:
    made = Friend(status=status, notifies=notifies)
    agent = sip.Agent(random=random.Random(), serve_within={"REFER": ()})
    async with (
        rtp.Endpoint(host="127.0.0.1", ports=range(41000, 41400)) as endpoint,
        sip.Transport.open(agent, [("127.0.0.1", 0)], deliver=made.deliver) as made.transport,
    ):
        made.media = Media(endpoint, host="127.0.0.1", deliver=made.hear)
        yield made


async def act(client: Client, id: str, verb: str, body: Told | None = None, *, status: int = 200) -> Told:
    answered, told = await client.ask("POST", f"/v1/calls/{id}/{verb}", body)
    assert answered == status, told
    return dict(told or {})


async def test_speech_is_paused_and_goes_on_where_it_was() -> None:
    async with serving() as running, api(running) as client, phone() as callee:
        id = await client.place(callee.uri, text=TEXT, then="stay")
        await client.until(id, lambda told: bool(told["speech"]) and told["speech"][0]["spoken_ms"] > 300)
        told = await act(client, id, "pause")
        assert told["paused"]
        await asyncio.sleep(0.1)
        first = callee.ear.heard()
        before = (await client.call(id))["media"]
        await asyncio.sleep(0.5)
        between = callee.ear.heard()
        told = await client.call(id)
        after = told["media"]
        assert states(told) == ["speaking"]
        sent = after["packets_sent"] - before["packets_sent"]
        assert sent >= 20
        assert after["silence_frames"] - before["silence_frames"] == sent
        assert (after["speech_frames"], after["underruns"]) == (before["speech_frames"], 0)
        # On the wire there is silence at the pace of the clock, and nothing else.
        assert len(between) >= 20 * 320
        assert set(between) == {0}
        assert not (await act(client, id, "resume"))["paused"]
        await client.until(id, lambda told: states(told) == ["spoken"])
        speech = await spoken(running.engine, TEXT)
        line = mulaw_decode(mulaw_encode(speech + bytes(-len(speech) % 320)))
        assert loud(first + callee.ear.heard()) == loud(line)


def loud(heard: bytes) -> bytes:
    """Without the frames of 20 ms that are silence."""
    return b"".join(frame for at in range(0, len(heard), 320) if any(frame := heard[at : at + 320]))


async def test_digits_are_dialled_in_a_pause() -> None:
    async with serving() as running, api(running) as client, friend() as callee:
        id = await client.place(callee.uri, text=TEXT, then="stay")
        await client.up(id)
        await act(client, id, "pause")
        await act(client, id, "dtmf", {"digits": "12", "duration_ms": 60}, status=204)
        async with asyncio.timeout(5):
            while len(callee.digits) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert callee.digits == ["1", "2"]
        assert states(await client.call(id)) == ["speaking"]


async def test_words_that_interrupt_end_a_pause() -> None:
    async with serving() as running, api(running) as client, phone() as callee:
        id = await client.place(callee.uri, text=TEXT, then="stay")
        await client.up(id)
        await act(client, id, "pause")
        await act(client, id, "say", {"text": WORDS, "mode": "interrupt"}, status=202)
        told = await client.until(id, lambda told: states(told)[-1] == "spoken")
        assert not told["paused"]
        assert likeness(callee.ear.heard(), await spoken(running.engine, WORDS)) > 0.98


async def test_digits_are_dialled_and_counted_by_whoever_gets_them() -> None:
    async with serving() as running, api(running) as client, friend() as callee:
        id = await client.place(callee.uri)
        await client.up(id)
        await act(client, id, "dtmf", {"digits": "1#A", "duration_ms": 60}, status=204)
        async with asyncio.timeout(5):
            while len(callee.digits) < 3:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert callee.digits == ["1", "#", "A"]
        callee.media.stream.send_digits("42")
        await client.until(id, lambda told: told["digits"] == 2)


async def test_digits_that_nobody_takes_or_that_would_not_be_sent_are_409() -> None:
    async with serving() as running, api(running) as client, phone() as deaf, friend() as callee:
        id = await client.place(deaf.uri)
        await client.up(id)
        await act(client, id, "dtmf", {"digits": "1"}, status=409)
        id = await client.place(callee.uri)
        await client.up(id)
        callee.transport.reoffer(callee.call, body=callee.media.hold(held=True))
        call = running.switchboard.ledger.alive(id)
        assert call is not None
        assert call.media is not None
        async with asyncio.timeout(5):
            while call.media.flows:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await act(client, id, "dtmf", {"digits": "1"}, status=409)


async def test_the_peer_is_put_on_hold_and_taken_off_and_is_spoken_to_meanwhile() -> None:
    async with serving() as running, api(running) as client, friend() as callee:
        id = await client.place(callee.uri)
        await client.up(id)
        for _ in range(2):
            assert (await act(client, id, "hold"))["held"]
        assert callee.media.audio is not None
        assert (callee.media.audio.sends, callee.media.audio.receives) == (False, True)
        await act(client, id, "say", {"text": "One moment."}, status=202)
        await client.until(id, lambda told: states(told) == ["spoken"])
        assert not (await act(client, id, "unhold"))["held"]
        assert (callee.media.audio.sends, callee.media.audio.receives) == (True, True)


async def test_a_peer_that_does_not_agree_to_be_held_is_not() -> None:
    async with serving() as running, api(running) as client, friend(status=488) as callee:
        id = await client.place(callee.uri)
        await client.up(id)
        await act(client, id, "hold", status=409)
        told = await client.call(id)
        assert (told["held"], told["state"]) == (False, "up")
        await act(client, id, "say", {"text": "a"}, status=202)
        await client.until(id, lambda told: states(told) == ["spoken"])


async def test_verbs_for_a_call_that_is_up_are_409_before() -> None:
    async with serving() as running, api(running) as client, phone(status=180) as callee, phone() as other:
        id = await client.place(callee.uri)
        await client.until(id, lambda told: told["state"] == "ringing")
        for verb in ("pause", "resume", "hold", "unhold"):
            await act(client, id, verb, status=409)
        await act(client, id, "dtmf", {"digits": "1"}, status=409)
        await act(client, id, "transfer", {"to": "sip:b@127.0.0.1"}, status=409)
        up = await client.place(other.uri)
        await client.up(up)
        await act(client, up, "transfer", {"call_id": id}, status=409)
        await act(client, up, "transfer", {"call_id": "call_nobody"}, status=404)
        await act(client, up, "transfer", {"call_id": up}, status=422)
        await act(client, up, "transfer", {"to": "bob"}, status=422)


async def test_a_blind_transfer_that_succeeds_ends_the_call() -> None:
    notifies = ("SIP/2.0 100 Trying", "SIP/2.0 200 OK")
    async with serving() as running, api(running) as client, friend(notifies=notifies) as callee:
        id = await client.place(callee.uri)
        await client.up(id)
        told = await act(client, id, "transfer", {"to": "sip:bob@example.com"})
        assert told == {"outcome": "succeeded", "sip_status": 200, "sip_reason": "OK"}
        assert callee.referred[0].headers.get("Refer-To") == "<sip:bob@example.com>"
        assert (await client.ended(id))["end"]["reason"] == "transferred"


async def test_a_transfer_that_fails_leaves_the_call_as_it_was() -> None:
    async with serving() as running, api(running) as client, friend(notifies=("SIP/2.0 486 Busy Here",)) as callee:
        id = await client.place(callee.uri, text="a", then="stay")
        await client.up(id)
        told = await act(client, id, "transfer", {"to": "sip:bob@example.com"})
        assert told == {"outcome": "failed", "sip_status": 486, "sip_reason": "Busy Here"}
        assert (await client.call(id))["state"] == "up"
        await act(client, id, "say", {"text": "b"}, status=202)
        await client.until(id, lambda told: states(told) == ["spoken", "spoken"])


async def test_an_attended_transfer_names_the_other_call() -> None:
    async with (
        serving() as running,
        api(running) as client,
        friend(notifies=("SIP/2.0 200 OK",)) as callee,
        phone() as other,
    ):
        id, consulted = await client.place(callee.uri), await client.place(other.uri)
        await client.up(id)
        await client.up(consulted)
        await act(client, id, "transfer", {"call_id": consulted})
        offered = await other.until(sip.Offered)
        assert isinstance(offered, sip.Offered)
        target = sip.NameAddr.parse(callee.referred[0].headers.get("Refer-To") or "").uri
        assert dict(target.headers)["Replaces"].startswith(offered.request.call_id)


async def test_a_notify_that_nobody_waits_for_is_481() -> None:
    async with serving() as running, api(running) as client, phone() as callee:
        await client.up(await client.place(callee.uri))
        offered = await callee.until(sip.Offered)
        assert isinstance(offered, sip.Offered)
        callee.transport.request_within(
            offered.call, "NOTIFY", headers=(("Event", "refer"), ("Subscription-State", "terminated"))
        )
        responded = await callee.until(sip.Responded)
        assert isinstance(responded, sip.Responded)
        assert responded.response is not None
        assert responded.response.status == 481


@pytest.mark.parametrize("with_text", [False, True])
async def test_every_call_that_has_ended_leaves_a_line(tmp_path: Path, with_text: bool) -> None:
    file = tmp_path / "calls.jsonl"
    async with (
        phone() as callee,
        phone(status=486) as busy,
        serving(calls={"record_file": file, "record_text": with_text}) as running,
        api(running) as client,
    ):
        answered = await client.place(callee.uri, text="a")
        await client.ended(answered)
        refused = await client.place(busy.uri, text="a")
        await client.ended(refused)
    first, second = (json.loads(line) for line in file.read_text().splitlines())
    assert (first["id"], second["id"]) == (answered, refused)
    assert (first["direction"], first["to"]) == ("outbound", callee.uri)
    assert first["end"] == {"by": "server", "reason": "completed", "status": None, "phrase": ""}
    assert second["end"] == {"by": "peer", "reason": "busy", "status": 486, "phrase": "Busy Here"}
    assert (first["media"]["codec"], first["media"]["underruns"], first["media"]["mos"]) == ("PCMU", 0, None)
    assert first["first_speech_ms"] >= 0
    (said,) = first["speech"]
    assert (said["state"], said.get("text")) == ("spoken", "a" if with_text else None)
    assert ("text" in said) == with_text


async def test_a_record_file_that_cannot_be_written_is_named_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"calls\.record_file"):
        async with serving(calls={"record_file": tmp_path / "no" / "such"}):
            pass
