"""TLS: throw-away authorities and certificates, real handshakes on the loopback."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme

from sip import (
    Agent,
    Answered,
    Cause,
    Confirmed,
    Ended,
    Event,
    LocalProtocolError,
    NameAddr,
    Offered,
    Response,
    StreamLimits,
    Tls,
    TlsError,
    Transport,
    Uri,
)
from tests.test_sip_streams import Peer, closings, connected, message
from tests.test_sip_transport import LOCALHOSTS, QUICK, Ear


class Authority:
    """A CA, and where its files and those of its certificates are."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self._ca = trustme.CA()
        self.file = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(str(self.file))

    def tls(self, *names: str, verify_client: bool = False, trusting: Authority | None = None) -> Tls:
        """What whoever has a certificate for `names`, or none, needs."""
        ca = (trusting or self).file
        if not names:
            return Tls(ca=ca)
        certificate, key = self._folder / f"{names[0]}.pem", self._folder / f"{names[0]}.key"
        self.issue(certificate, key, *names)
        return Tls(certificate=certificate, key=key, ca=ca, verify_client=verify_client)

    def issue(self, certificate: Path, key: Path, *names: str) -> None:
        leaf = self._ca.issue_cert(*names)
        leaf.private_key_pem.write_to_path(str(key))
        certificate.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))

    def context(self, names: tuple[str, ...] = ()) -> ssl.SSLContext:
        """That of a client which is not ours."""
        context = ssl.create_default_context(cafile=str(self.file))
        if names:
            leaf = self._ca.issue_cert(*names)
            leaf.configure_cert(context)
        return context


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


@contextlib.asynccontextmanager
async def secured(
    tls: Tls, *, host: str = "127.0.0.1", ear: Ear | None = None, limits: StreamLimits | None = None
) -> AsyncIterator[tuple[Transport, Ear]]:
    """A transport that listens by TLS too if it has a certificate."""
    heard = ear or Ear()
    listen = [(host, 0)] if tls.certificate is not None else []
    agent = Agent(random=random.SystemRandom(), timers=QUICK)
    async with Transport.open(
        agent, [(host, 0)], deliver=heard, tls_listen=listen, tls=tls, limits=limits
    ) as transport:
        yield transport, heard


def place(caller: Transport, uri: str, address: tuple[str, int], name: str) -> str:
    alice = NameAddr(uri=Uri.parse("sip:alice@127.0.0.1"))
    return caller.invite(Uri.parse(uri), caller.flow_to(*address, "TLS", name), from_=alice, body=b"offer")


def picking_up(transports: list[Transport]) -> Ear:
    def pick_up(event: Event) -> None:
        if isinstance(event, Offered):
            transports[0].answer(event.call, body=b"answer")

    return Ear(pick_up)


def tls_message(method: str = "OPTIONS", call_id: str = "c1") -> bytes:
    return message(method, call_id).replace(b"SIP/2.0/TCP", b"SIP/2.0/TLS")


# --- Calls


@pytest.mark.conformance("RFC 3261", "26.2.1", "calls are made and taken over TLS")
@pytest.mark.parametrize("host", LOCALHOSTS)
@pytest.mark.parametrize(("scheme", "contact"), [("sip", "transport=tls"), ("sips", "sips:")])
async def test_a_call_over_tls_from_end_to_end(authority: Authority, host: str, scheme: str, contact: str) -> None:
    tls = authority.tls("pbx.example")
    ours: list[Transport] = []
    async with (
        secured(tls, host=host, ear=picking_up(ours)) as (callee, callee_ear),
        secured(authority.tls(), host=host) as (caller, ear),
    ):
        ours.append(callee)
        call = place(caller, f"{scheme}:bob@pbx.example", callee.tls_addresses[0], "pbx.example")
        answered = await ear.wait_for(Answered)
        assert isinstance(answered, Answered)
        assert answered.response.via.transport == "TLS"
        # RFC 3261 sections 8.1.1.8 and 12.1.1: a sips URI wants a sips Contact.
        assert contact in str(answered.response.contact)
        assert answered.response.contact is not None
        assert answered.response.contact.uri.port == callee.tls_addresses[0][1]
        confirmed = await callee_ear.wait_for(Confirmed)
        assert isinstance(confirmed, Confirmed)
        callee.bye(confirmed.call)
        ended = await ear.wait_for(Ended)
        assert isinstance(ended, Ended)
        assert (ended.call, ended.cause) == (call, Cause.REMOTE_BYE)
        assert caller.connections().made == callee.connections().accepted == 1


async def test_a_request_within_a_call_from_a_client_without_a_certificate_goes_along_its_connection(
    authority: Authority,
) -> None:
    async with secured(authority.tls("pbx.example")) as (transport, _):
        reader, writer = await asyncio.open_connection(
            *transport.tls_addresses[0], ssl=authority.context(), server_hostname="pbx.example"
        )
        peer = Peer(reader, writer)
        peer.say(tls_message())
        ok = await peer.hear()
        assert isinstance(ok, Response)
        assert ok.status == 200
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


# --- Who proves what


@pytest.mark.conformance("RFC 5922", "7.3", "a peer whose certificate is not for the name that was called is refused")
@pytest.mark.parametrize("name", ["other.example", "", "127.0.0.1"])
async def test_a_certificate_for_another_name_is_refused(authority: Authority, name: str) -> None:
    async with secured(authority.tls("pbx.example")) as (callee, callee_ear), secured(authority.tls()) as (caller, ear):
        place(caller, "sip:bob@other.example", callee.tls_addresses[0], name)
        ended = await ear.wait_for(Ended)
        assert isinstance(ended, Ended)
        assert (ended.cause, ended.status) == (Cause.LOST, 503)
        assert callee_ear.events == []
        assert caller.connections().closed == {"unreachable": 1}


async def test_a_certificate_for_the_address_serves_where_no_name_is_known(authority: Authority) -> None:
    tls = authority.tls("127.0.0.1")
    async with secured(tls) as (callee, callee_ear), secured(authority.tls()) as (caller, _):
        place(caller, "sip:bob@127.0.0.1", callee.tls_addresses[0], "127.0.0.1")
        await callee_ear.wait_for(Offered)


async def test_a_certificate_of_an_unknown_authority_is_refused(authority: Authority, tmp_path: Path) -> None:
    stranger = Authority(tmp_path / "stranger")
    async with secured(stranger.tls("pbx.example")) as (callee, _), secured(authority.tls()) as (caller, ear):
        place(caller, "sip:bob@pbx.example", callee.tls_addresses[0], "pbx.example")
        ended = await ear.wait_for(Ended)
        assert isinstance(ended, Ended)
        assert ended.status == 503


@pytest.mark.conformance("RFC 3261", "26.3.1", "a client can be required to have a certificate")
async def test_clients_can_be_required_to_have_a_certificate(authority: Authority) -> None:
    async with secured(authority.tls("pbx.example", verify_client=True)) as (transport, _):
        address = transport.tls_addresses[0]
        async with connected(address, ssl=authority.context(("phone.example",)), server_hostname="pbx.example") as peer:
            peer.say(tls_message())
            assert await peer.status() == 200
        # Under TLS 1.3 a client learns only from the first read that it was refused.
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            async with connected(address, ssl=authority.context(), server_hostname="pbx.example") as peer:
                peer.say(tls_message("OPTIONS", "c2"))
                assert await peer.closed()
        assert transport.agent.counters().requests_received == {"OPTIONS": 1}


async def test_we_prove_ourselves_with_our_certificate_where_that_is_required(authority: Authority) -> None:
    async with (
        secured(authority.tls("pbx.example", verify_client=True)) as (callee, callee_ear),
        secured(authority.tls("us.example")) as (caller, _),
    ):
        place(caller, "sip:bob@pbx.example", callee.tls_addresses[0], "pbx.example")
        await callee_ear.wait_for(Offered)


async def test_versions_before_1_2_are_refused(authority: Authority) -> None:
    contexts = authority.tls("pbx.example").load()
    assert contexts.server is not None
    assert contexts.server.minimum_version is contexts.client.minimum_version is ssl.TLSVersion.TLSv1_2


async def test_alpn_is_offered_only_when_it_is_configured(authority: Authority) -> None:
    tls = authority.tls("pbx.example")
    with_alpn = Tls(certificate=tls.certificate, key=tls.key, ca=tls.ca, alpn=("sip/2",))
    for settings, chosen in ((tls, None), (with_alpn, "sip/2")):
        async with secured(settings) as (transport, _):
            context = authority.context()
            context.set_alpn_protocols(["sip/2", "http/1.1"])
            address = transport.tls_addresses[0]
            async with connected(address, ssl=context, server_hostname="pbx.example") as peer:
                assert peer.writer.get_extra_info("ssl_object").selected_alpn_protocol() == chosen


# --- Reloading


async def serial(address: tuple[str, int], authority: Authority) -> str:
    async with connected(address, ssl=authority.context(), server_hostname="pbx.example") as peer:
        certificate = peer.writer.get_extra_info("peercert")
        assert certificate is not None
        return str(certificate["serialNumber"])


async def test_a_new_certificate_is_taken_up_for_new_connections_only(authority: Authority) -> None:
    tls = authority.tls("pbx.example")
    assert tls.certificate is not None
    assert tls.key is not None
    async with secured(tls) as (transport, _):
        address = transport.tls_addresses[0]
        async with connected(address, ssl=authority.context(), server_hostname="pbx.example") as old:
            before = await serial(address, authority)
            authority.issue(tls.certificate, tls.key, "pbx.example")
            assert await serial(address, authority) == before
            transport.reload()
            assert await serial(address, authority) != before
            old.say(tls_message())
            assert await old.status() == 200


async def test_a_broken_file_is_named_and_the_old_certificate_is_kept(authority: Authority) -> None:
    tls = authority.tls("pbx.example")
    assert tls.certificate is not None
    assert tls.key is not None
    async with secured(tls) as (transport, _):
        before = await serial(transport.tls_addresses[0], authority)
        tls.certificate.write_text("nonsense")
        with pytest.raises(TlsError, match=rf"certificate or key {tls.certificate}: not a PEM file"):
            transport.reload()
        assert await serial(transport.tls_addresses[0], authority) == before
        authority.issue(tls.certificate, tls.key.with_name("other"), "pbx.example")
        with pytest.raises(TlsError, match="the key is not that of the certificate"):
            transport.reload()
        tls.key.unlink()
        with pytest.raises(TlsError, match=rf"{tls.key}: No such file"):
            transport.reload()
        tls.certificate.unlink()
        with pytest.raises(TlsError, match=rf"{tls.certificate}: No such file"):
            transport.reload()
        assert await serial(transport.tls_addresses[0], authority) == before


def test_an_authority_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(TlsError, match=rf"CA {tmp_path / 'ca'}: No such file"):
        Tls(ca=tmp_path / "ca").load()
    (tmp_path / "ca").write_text("nonsense")
    with pytest.raises(TlsError, match=rf"CA {tmp_path / 'ca'}: not a PEM file"):
        Tls(ca=tmp_path / "ca").load()


async def test_to_listen_takes_a_certificate() -> None:
    agent = Agent(random=random.SystemRandom())
    with pytest.raises(TlsError, match="takes a certificate"):
        async with Transport.open(agent, [], deliver=Ear(), tls_listen=[("127.0.0.1", 0)], tls=Tls()):
            pass


async def test_without_tls_there_is_no_flow_of_it() -> None:
    agent = Agent(random=random.SystemRandom())
    async with Transport.open(agent, [("127.0.0.1", 0)], deliver=Ear()) as us:
        us.reload()
        with pytest.raises(LocalProtocolError, match="by TLS"):
            us.flow_to("127.0.0.1", 5061, "TLS")
        with pytest.raises(LocalProtocolError, match="no transport for sips:"):
            await us.flows(Uri.parse("sips:bob@127.0.0.1"))


# --- Bad peers


async def test_a_handshake_that_does_not_come_is_not_waited_for(authority: Authority) -> None:
    limits = StreamLimits(connect_s=0.1, connections=1)
    async with secured(authority.tls("pbx.example"), limits=limits) as (transport, _):
        with socket.socket() as silent:
            silent.setblocking(False)
            await asyncio.get_running_loop().sock_connect(silent, transport.tls_addresses[0])
            await closings(transport, "unreachable")
        # And it counted while it lasted, and no longer.
        assert await serial(transport.tls_addresses[0], authority)


async def test_who_speaks_something_else_is_dropped(authority: Authority) -> None:
    async with secured(authority.tls("pbx.example")) as (transport, _):
        async with connected(transport.tls_addresses[0]) as peer:
            peer.say(message() * 3)
            with contextlib.suppress(ConnectionError):
                assert b"SIP/2.0" not in await peer.reader.read()
        await closings(transport, "unreachable")
        assert await serial(transport.tls_addresses[0], authority)
