"""sipp against the whole server: speech and digits within calls, Replaces, REFER, who is let in, probes, glare."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import rtp
import sip
from mediaserver import server
from mediaserver.media import Media
from sip.replaces import Replaces
from tests.live import OFFER, Ear, anext_of, invited, likeness, occurrences, rtp_ports, serving, spoken, until_calls

from .test_mediaserver_trunks import eventually
from .test_sip_sipp import SDP, Desk, call_us, desk, place, pytestmark, sipp

__all__ = ["pytestmark"]

FIRST = "The quick brown fox jumps over the lazy dog."
SECOND = "Pack my box with five dozen liquor jugs."
STAY = {"route": [{"say": FIRST, "then": "stay", "stay_s": 1}]}
LONG = {"route": [{"say": FIRST, "then": "stay", "stay_s": 60}]}
TRUSTED = {"refer": "trusted", "refer_networks": ["127.0.0.0/8"]}
QUIET = {"engine": {"name": "tone"}}


def hearing(ear: Ear | None) -> tuple[str, ...]:
    """Where sipp wants to get its media; to be refused there (the port named discard) if nobody is to hear them."""
    return ("-key", "ear_port", "9" if ear is None else str(ear.port))


async def call(running: server.Server, scenario: str, cwd: Path, *arguments: str, ear: Ear | None = None) -> None:
    """sipp calls the server."""
    address = str(running.sip_address)
    await (await sipp(scenario, address, "-s", "server", "-m", "1", *hearing(ear), *arguments, cwd=cwd)).finished()


# --- Speech and digits within a call


@pytest.mark.conformance("RFC 3428", "7", "a MESSAGE that is taken gets its final response at once")
@pytest.mark.conformance("RFC 3261", "8.2.3", "a body type that is not understood gets 415 with Accept")
async def test_sipp_has_more_said_by_message_and_info_and_is_refused_what_cannot_be(tmp_path: Path) -> None:
    async with serving(**STAY) as running:
        with Ear() as ear:
            await call(running, "uac_speech", tmp_path, ear=ear)
            heard = ear.heard()
        third = await spoken(running.engine, "<speak>Five boxing wizards jump quickly.</speak>", ssml=True)
        parts = [await spoken(running.engine, FIRST), await spoken(running.engine, SECOND), third]
        places = [occurrences(heard, part) for part in parts]
        assert [len(found) for found in places] == [1, 1, 1]
        assert sorted(places) == places
        await until_calls(running, 0)


async def test_sipp_interrupts(tmp_path: Path) -> None:
    async with serving(**STAY) as running:
        with Ear() as ear:
            await call(running, "uac_interrupt", tmp_path, ear=ear)
            heard = ear.heard()
        assert likeness(heard, await spoken(running.engine, FIRST)) < 0.9
        assert likeness(heard, await spoken(running.engine, "Never to be heard.")) < 0.9
        assert likeness(heard, await spoken(running.engine, SECOND)) > 0.98


@pytest.mark.conformance("RFC 6086", "4.2.2", "an INFO that is accepted gets 200")
async def test_sipp_sends_digits_by_info(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with serving(**QUIET, **LONG) as running:
        await call(running, "uac_digits", tmp_path)
        await until_calls(running, 0)
    assert "digits=2" in capsys.readouterr().out


# --- One call in the place of another


@asynccontextmanager
async def agent() -> AsyncIterator[tuple[sip.Transport, asyncio.Queue[sip.Event]]]:
    events: asyncio.Queue[sip.Event] = asyncio.Queue()
    ours = sip.Agent(random=random.Random())
    async with sip.Transport.open(ours, [("127.0.0.1", 0)], deliver=events.put_nowait) as transport:
        yield transport, events


@pytest.mark.conformance("RFC 3891", "3", "an accepted INVITE with Replaces ends the dialog that it names with BYE")
async def test_sipp_takes_the_place_of_a_call_of_ours(tmp_path: Path) -> None:
    async with serving(route=[{"say": FIRST, "repeat": 2}]) as running, agent() as (transport, events):
        taken = invited(running, transport, events, OFFER)
        await anext_of(events, sip.Answered)
        replaces = str(Replaces.at_peer(transport.agent.dialog(taken)))
        with Ear() as ear:
            await call(running, "uac_replaces", tmp_path, "-key", "replaces", replaces, ear=ear)
            assert likeness(ear.heard(), await spoken(running.engine, FIRST)) > 0.98
        ended = await anext_of(events, sip.Ended)
        assert (ended.call, ended.cause) == (taken, sip.Cause.REMOTE_BYE)
        await until_calls(running, 0)


@pytest.mark.conformance("RFC 3891", "3", "an accepted INVITE with Replaces ends the dialog that it names with BYE")
async def test_the_place_of_sipp_s_call_is_taken(tmp_path: Path) -> None:
    async with serving(**QUIET, **LONG) as running, agent() as (transport, events):
        losing = asyncio.create_task(call(running, "uac_replaced", tmp_path))
        signalling = running.transport.agent
        async with asyncio.timeout(10):
            while signalling.counters().dialogs == 0 or not running.endpoint.counters().packets_sent:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        (key,) = running.switchboard._calls
        dialog = signalling.dialog(key)
        replaces = Replaces(call_id=dialog.call_id, to_tag=dialog.local_tag, from_tag=dialog.remote_tag)
        taking = transport.invite(
            sip.Uri.parse(f"sip:server@{running.sip_address}"),
            transport.flow_to("127.0.0.1", running.sip_address.port),
            from_=sip.NameAddr.parse("<sip:tester@127.0.0.1>"),
            body=OFFER,
            headers=(("Replaces", str(replaces)), ("Require", "replaces")),
        )
        await anext_of(events, sip.Answered)
        await losing
        await until_calls(running, 1)
        transport.bye(taking)
        await until_calls(running, 0)


@pytest.mark.conformance("RFC 3891", "3", "a Replaces that names no dialog gets 481")
async def test_sipp_cannot_take_the_place_of_nobody(tmp_path: Path) -> None:
    async with serving(**QUIET) as running:
        await call(running, "uac_replaces_nothing", tmp_path)
        assert len(running.switchboard) == 0


# --- Referred


@pytest.mark.conformance("RFC 3515", "2.4.4", "an accepted REFER gets 202 and then a NOTIFY at once")
@pytest.mark.conformance("RFC 3515", "2.4.7", "the last NOTIFY has the final status: terminated;reason=noresource")
@pytest.mark.conformance("RFC 3892", "2.2", "the INVITE that a REFER brings about copies its Referred-By")
async def test_sipp_has_us_call_sipp_and_say_something(tmp_path: Path) -> None:
    async with serving(sip=TRUSTED) as running:
        with Ear() as ear:
            async with called("uas_listens", tmp_path, *hearing(ear)) as address:
                await call(running, "uac_refer_outside", tmp_path, "-key", "called", address)
            assert likeness(ear.heard(), await spoken(running.engine, SECOND)) > 0.98
        await until_calls(running, 0)
        # The dialog of a REFER outlasts the last NOTIFY by that one's response alone.
        assert running.transport.agent.counters().dialogs == 0


@pytest.mark.conformance("RFC 5589", "7.1", "an attended transfer has the transferee call the target with a Replaces")
async def test_sipp_has_us_take_the_place_of_another_call_of_its(tmp_path: Path) -> None:
    async with serving(**QUIET, **LONG, sip=TRUSTED) as running:
        async with called("uas_replaced", tmp_path, *hearing(None)) as address:
            await call(running, "uac_attended", tmp_path, "-key", "called", address)
        await until_calls(running, 0)


@asynccontextmanager
async def called(scenario: str, cwd: Path, *arguments: str) -> AsyncIterator[str]:
    """sipp waits for one call at the address that is given."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    run = await sipp(scenario, "-p", str(port), "-m", "1", *arguments, cwd=cwd)
    yield f"127.0.0.1:{port}"
    await run.finished()


# --- Who is let in


@pytest.mark.conformance(
    "RFC 3261", "21.5.4", "who cannot be served now gets 503 with Retry-After, and leaves no state"
)
@pytest.mark.conformance("RFC 3261", "11.2", "OPTIONS gets the status that an INVITE would get")
@pytest.mark.parametrize("limit", [{"max_calls": 1}, {"calls_per_s": 0.01}])
async def test_sipp_is_turned_away_and_told_when_to_come_back(limit: dict[str, float], tmp_path: Path) -> None:
    async with serving(**QUIET, **LONG, sip=limit) as running, agent() as (transport, events):
        key = invited(running, transport, events, OFFER)
        await anext_of(events, sip.Answered)
        await call(running, "uac_turned_away", tmp_path)
        assert len(running.switchboard) == 1
        assert running.transport.agent.counters().turned_away == 1
        transport.bye(key)
        await until_calls(running, 0)


OTHERS = {"networks": ["127.0.0.1/32"]}


@pytest.mark.conformance("RFC 3261", "11.2", "OPTIONS gets the status that an INVITE would get")
async def test_sipp_from_elsewhere_is_forbidden_to_call(tmp_path: Path) -> None:
    async with serving(**QUIET, sip=OTHERS) as running:
        await call(running, "uac_forbidden", tmp_path, "-i", "127.0.0.2")
        assert running.transport.agent.counters().calls_received == 0
        await call(running, "uac_digits", tmp_path)


async def test_sipp_from_elsewhere_is_ignored(tmp_path: Path) -> None:
    async with serving(**QUIET, sip=OTHERS | {"unknown": "ignore"}) as running:
        await call(running, "uac_ignored", tmp_path, "-i", "127.0.0.2")
        counters = running.transport.agent.counters()
        assert (counters.ignored, counters.calls_received, counters.transactions) == (2, 0, 0)


# --- Probes


@pytest.mark.conformance("RFC 3261", "11.1", "OPTIONS asks a peer outside of a dialog, with Contact and Accept")
async def test_a_trunk_is_up_while_sipp_answers_and_down_when_it_is_gone(tmp_path: Path) -> None:
    async with called("uas_options", tmp_path) as address:
        trunk = {"name": "carrier", "targets": [address], "probe_s": 5}
        async with serving(**QUIET, trunk=[trunk]) as running:
            await eventually(running, 'sip_trunk_up{trunk="carrier"}', 1)
            # sipp answers once and is gone. The next OPTIONS comes after 5.5 s at most, and is late 4 s after that.
            await eventually(running, 'sip_trunk_up{trunk="carrier"}', 0, within_s=20)


# --- Offers that cross


class Crossing(Desk):
    """Makes an offer of its own as soon as a call is up, and hangs up those that it has placed when that is taken."""

    def __init__(self) -> None:
        super().__init__()
        self.offered_at = 0.0
        self.waited_s = 0.0

    def __call__(self, event: sip.Event) -> None:
        super().__call__(event)
        if isinstance(event, sip.Confirmed | sip.Answered) and not self.offered_at:
            self.offered_at = self.transport.now()
            self.transport.reoffer(event.call, body=SDP.replace(b"1 1 IN", b"1 2 IN"))
        elif isinstance(event, sip.Answered):
            self.waited_s = self.transport.now() - self.offered_at
            if "Offered" not in self.kinds():
                self.transport.bye(event.call)


@pytest.mark.conformance(
    "RFC 3261", "14.1", "after 491 who owns the Call-ID tries again in 2.1 to 4 s, the other in 0 to 2 s"
)
@pytest.mark.conformance("RFC 3261", "14.2", "an INVITE that comes while ours is pending gets 491")
async def test_our_offer_crosses_that_of_sipp_which_has_called_us(tmp_path: Path) -> None:
    host = Crossing()
    async with desk(host=host):
        await call_us(host, "uac_glare", "any", tmp_path, *hearing(None))
        (over,) = await host.ended(1)
        assert over.cause is sip.Cause.REMOTE_BYE
        assert host.kinds() == ["Offered", "Confirmed", "Answered", "Ended"]
        assert 0 < host.waited_s < 2.5


@pytest.mark.conformance(
    "RFC 3261", "14.1", "after 491 who owns the Call-ID tries again in 2.1 to 4 s, the other in 0 to 2 s"
)
@pytest.mark.conformance("RFC 3261", "14.2", "an INVITE that comes while ours is pending gets 491")
async def test_our_offer_crosses_that_of_sipp_which_we_have_called(tmp_path: Path) -> None:
    host = Crossing()
    async with desk(host=host):
        async with called("uas_glare", tmp_path, *hearing(None)) as address:
            place(host, ("127.0.0.1", int(address.rpartition(":")[2])))
            (over,) = await host.ended(1)
        assert over.cause is sip.Cause.LOCAL_BYE
        assert host.kinds() == ["Answered", "Answered", "Ended"]
        assert 2.1 <= host.waited_s < 4.5


# --- Early media


class Announcing(Desk):
    """Speaks in a 183, and answers when it is told to."""

    def __init__(self, media: Media) -> None:
        super().__init__()
        self.media = media
        self.call = ""
        self.description = b""

    def _serve(self, call: str, wish: str) -> None:
        self.call = call
        offered = self.events[-1]
        assert isinstance(offered, sip.Offered)
        self.description = self.media.answer(offered.request.body)
        self.transport.ring(call, status=183, body=self.description)
        self.media.start()


@pytest.mark.conformance("RFC 3960", "3", "media flow before the final answer, after a 183 with a description")
@pytest.mark.conformance(
    "RFC 3261", "13.2.1", "a 2xx after a provisional response with an answer has the same answer or none"
)
async def test_sipp_is_spoken_to_before_its_call_is_answered(tmp_path: Path) -> None:
    tone = b"".join(int(8000 * ((i // 8) % 2 * 2 - 1)).to_bytes(2, "little", signed=True) for i in range(4000))
    first = int(rtp_ports().split("-")[0])
    async with rtp.Endpoint(host="127.0.0.1", ports=range(first, first + 100), realtime=False) as endpoint:
        host = Announcing(Media(endpoint, host="127.0.0.1"))
        with Ear() as ear:
            async with desk(host=host):
                calling = asyncio.create_task(call_us(host, "uac_early_media", "any", tmp_path, *hearing(ear)))
                async with asyncio.timeout(10):
                    while not host.description:
                        host.changed.clear()
                        await host.changed.wait()
                await host.media.stream.write(tone, 8000)
                host.media.stream.end()
                await host.media.stream.drained()
                await asyncio.sleep(0.1)
                early = ear.heard()
                assert host.kinds() == ["Offered"]
                host.transport.answer(host.call, body=host.description)
                await calling
                await host.ended(1)
        assert likeness(early, tone) > 0.98
        host.media.close()
        await host.media.wait_closed()
