"""Trunks and users of a real server, with another agent on the wire as the PBX, the carrier or the caller."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import structlog

import sip
from mediaserver import server
from mediaserver.trunks import Trunks

from .live import serving, settings
from .test_sip_sipp import SDP

LOGIN = sip.Login(username="1000", password="wonderland")


class Pbx:
    """A registrar that asks for proof, answers OPTIONS, and hands calls to nobody."""

    def __init__(self, status: int = 200) -> None:
        self.transport: sip.Transport
        self.status = status
        self.bindings: list[tuple[str, str]] = []
        self.changed = asyncio.Event()
        self.events: asyncio.Queue[sip.Event] = asyncio.Queue()

    def __call__(self, event: sip.Event) -> None:
        if isinstance(event, sip.Requested) and event.message.method == "REGISTER":
            self.bindings.append((event.user, event.message.headers.get("Contact") or ""))
            self.transport.respond(
                event.request, self.status, headers=[("Contact", event.message.headers.get("Contact") or "")]
            )
            self.changed.set()
        else:
            self.events.put_nowait(event)

    async def bound(self, count: int) -> list[tuple[str, str]]:
        async with asyncio.timeout(10):
            while len(self.bindings) < count:
                self.changed.clear()
                await self.changed.wait()
        return self.bindings

    @property
    def target(self) -> str:
        host, port = self.transport.addresses[0]
        return f"{host}:{port}"


@contextlib.asynccontextmanager
async def pbx(**arguments: Any) -> AsyncIterator[Pbx]:
    host = Pbx(**arguments)
    realm = sip.Realm("pbx", secret=bytes(16))
    guard = sip.Guard(realm=realm, password_of={LOGIN.username: LOGIN.password}.get)
    agent = sip.Agent(
        random=random.SystemRandom(),
        serve_outside={"REGISTER": ()},
        guard_of=lambda request, flow: guard if request.method == "REGISTER" else None,
    )
    async with sip.Transport.open(agent, [("127.0.0.1", 0)], deliver=host) as host.transport:
        yield host


def trunk(**keys: Any) -> dict[str, Any]:
    return {"name": "office", "username": LOGIN.username, "password": LOGIN.password} | keys


async def metrics(running: server.Server) -> dict[str, float]:
    """The samples of the trunks."""
    async with aiohttp.ClientSession() as web, web.get(f"http://{running.http_address}/metrics") as response:
        lines = (await response.text()).splitlines()
    samples = (line.rpartition(" ") for line in lines if line.startswith(("sip_trunk", "sip_registration")))
    return {name: float(value) for name, _, value in samples}


async def eventually(running: server.Server, name: str, value: float, *, within_s: float = 10) -> dict[str, float]:
    async with asyncio.timeout(within_s):
        while (samples := await metrics(running)).get(name) != value:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return samples


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_a_trunk_is_registered_and_probed_and_at_the_end_unregistered(transport: str) -> None:
    async with pbx() as peer:
        target = f"{peer.target};transport={transport}"
        async with serving(trunk=[trunk(targets=[target], register=True, expires_s=600)]) as running:
            ((user, contact),) = await peer.bound(1)
            port = running.sip_address.port
            suffix = ";transport=tcp" if transport == "tcp" else ""
            assert (user, contact) == ("1000", f"<sip:1000@127.0.0.1:{port}{suffix}>;expires=600")
            await eventually(running, 'sip_registration_state{state="registered",trunk="office"}', 1)
            samples = await eventually(running, 'sip_trunk_up{trunk="office"}', 1)
            assert samples['sip_registration_state{state="failed",trunk="office"}'] == 0
            assert 0 < samples[f'sip_trunk_probe_rtt_seconds{{target="{target}",trunk="office"}}'] < 1
        assert peer.bindings[1:] == [("1000", f"<sip:1000@127.0.0.1:{port}{suffix}>;expires=0")]


async def test_a_server_that_drains_is_unregistered_at_once() -> None:
    async with pbx() as peer, serving(trunk=[trunk(targets=[peer.target], register=True)]) as running:
        await peer.bound(1)
        await eventually(running, 'sip_registration_state{state="registered",trunk="office"}', 1)
        drained = asyncio.create_task(running.drain(asyncio.Event()))
        assert (await peer.bound(2))[1][1].endswith(";expires=0")
        await drained
        samples = await metrics(running)
        assert samples['sip_registration_state{state="unregistered",trunk="office"}'] == 1


async def test_a_trunk_that_refuses_is_down() -> None:
    async with pbx(status=403) as peer:
        peer.transport.agent.admit = lambda request, source, now: sip.Admission(
            status=503 if request.method == "OPTIONS" else 200
        )
        async with serving(trunk=[trunk(targets=[peer.target], register=True)]) as running:
            samples = await eventually(running, 'sip_registration_state{state="failed",trunk="office"}', 1)
            assert samples['sip_trunk_up{trunk="office"}'] == 0
            assert not any(name.startswith("sip_trunk_probe_rtt") for name in samples)


async def test_a_trunk_with_a_name_that_leads_nowhere_disturbs_nobody() -> None:
    async with pbx() as peer:
        lost = trunk(name="lost", targets=["nowhere.invalid"], register=True)
        async with serving(trunk=[lost, trunk(targets=[peer.target], probe_s=0, register=True)]) as running:
            await peer.bound(1)
            samples = await eventually(running, 'sip_trunk_up{trunk="office"}', 1)
            assert samples['sip_trunk_up{trunk="lost"}'] == 0
            assert samples['sip_registration_state{state="registering",trunk="lost"}'] == 1


async def test_a_target_that_fails_is_replaced_by_the_next() -> None:
    async with pbx(status=503) as away, pbx() as peer:
        targets = [away.target, peer.target]
        async with serving(trunk=[trunk(targets=targets, register=True)]) as running:
            await peer.bound(1)
            await eventually(running, 'sip_registration_state{state="registered",trunk="office"}', 1)


async def test_whose_call_it_is_is_told_by_its_address() -> None:
    async with pbx() as peer:
        office = trunk(targets=["192.0.2.1"], networks=["198.51.100.0/24", "2001:db8::/32"], probe_s=0)
        near = trunk(name="near", targets=[peer.target], probe_s=0)
        async with Trunks(settings(trunk=[office, near]), peer.transport, random=random.Random(1)) as trunks:
            found = {}
            for host in ("198.51.100.7", "::ffff:198.51.100.7", "2001:db8::1", "192.0.2.1", "127.0.0.1"):
                await asyncio.sleep(0)
                owner = trunks.trunk_of(host)
                found[host] = owner and owner.name
            assert found == {
                "198.51.100.7": "office",
                "::ffff:198.51.100.7": "office",
                "2001:db8::1": "office",
                "192.0.2.1": None,  # of the office, but where its networks are said they are all
                "127.0.0.1": "near",
            }


# --- Callers


async def call(running: server.Server, peer: Pbx, login: sip.Login | None = None) -> sip.Answered | sip.Ended:
    """What becomes of a call by `peer` to the server."""
    host, port = "127.0.0.1", running.sip_address.port
    key = peer.transport.invite(
        sip.Uri(user="hello", host=host, port=port),
        peer.transport.flow_to(host, port),
        from_=sip.NameAddr(uri=sip.Uri(user="alice", host=host)),
        body=SDP,
        keyring=None if login is None else sip.Keyring(login),
    )
    async with asyncio.timeout(10):
        while True:
            event = await peer.events.get()
            if isinstance(event, sip.Answered):
                peer.transport.bye(key)
            if isinstance(event, sip.Answered | sip.Ended):
                return event


ALICE = {"name": "alice", "password": "wonderland"}


async def test_with_users_a_stranger_is_asked_who_it_is() -> None:
    async with pbx() as peer, serving(user=[ALICE]) as running:
        refused = await call(running, peer)
        assert isinstance(refused, sip.Ended)
        assert refused.status == 401
        answered = await call(running, peer, sip.Login(username="alice", password="wonderland"))
        assert isinstance(answered, sip.Answered)


async def test_the_log_names_the_trunk_and_the_user_of_a_call() -> None:
    near = trunk(targets=["127.0.0.1"], probe_s=0, inbound_username="carrier", inbound_password="lookingglass")
    with structlog.testing.capture_logs() as lines:
        async with pbx() as peer, serving(trunk=[near]) as running:
            await call(running, peer, sip.Login(username="carrier", password="lookingglass"))
    (offered,) = [line for line in lines if line["event"] == "call offered"]
    assert (offered["trunk"], offered["user"]) == ("office", "carrier")
    assert "lookingglass" not in str(lines)
    assert LOGIN.password not in str(lines)


async def test_a_wrong_password_is_refused_after_half_a_second() -> None:
    async with pbx() as peer, serving(user=[ALICE]) as running:
        begin = peer.transport.now()
        refused = await call(running, peer, sip.Login(username="alice", password="guess"))
        assert isinstance(refused, sip.Ended)
        assert refused.status == 401
        assert peer.transport.now() - begin >= 0.5


async def test_a_trunk_is_known_by_its_address_and_asked_only_where_that_is_not_enough() -> None:
    here = {"targets": ["192.0.2.1"], "networks": ["127.0.0.0/8"], "probe_s": 0}
    async with pbx() as peer, serving(user=[ALICE], trunk=[trunk(**here)]) as running:
        assert isinstance(await call(running, peer), sip.Answered)
    asked = trunk(**here, inbound_username="carrier", inbound_password="lookingglass")
    async with pbx() as peer, serving(user=[ALICE], trunk=[asked]) as running:
        assert isinstance(await call(running, peer, sip.Login(username="alice", password="wonderland")), sip.Ended)
        login = sip.Login(username="carrier", password="lookingglass")
        assert isinstance(await call(running, peer, login), sip.Answered)


async def test_the_calls_of_a_trunk_use_its_codecs() -> None:
    here = trunk(targets=["192.0.2.1"], networks=["127.0.0.0/8"], probe_s=0, codecs=["PCMA"])
    async with pbx() as peer, serving(trunk=[here]) as running:
        refused = await call(running, peer)
        assert isinstance(refused, sip.Ended)
        assert refused.status == 488


async def test_we_prove_who_we_are_to_the_targets_and_to_whoever_calls_from_the_networks() -> None:
    async with pbx() as peer:
        office = trunk(targets=["192.0.2.1"], networks=["198.51.100.0/24"], probe_s=0)
        trunks = Trunks(settings(trunk=[office]), peer.transport, random=random.Random(1))
        request = sip.Request(method="BYE", uri=sip.Uri(host="a"), headers=sip.Headers())
        found = {
            host: trunks.login_for(request, sip.Flow("UDP", ("192.0.2.9", 5060), (host, 5060)))
            for host in ("192.0.2.1", "198.51.100.7", "203.0.113.1")
        }
        assert found == {"192.0.2.1": LOGIN, "198.51.100.7": LOGIN, "203.0.113.1": None}
