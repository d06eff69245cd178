"""The resolver, against a DNS server on the loopback and a hosts file of the test's."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

import pytest

from sip import Admission, Agent, Ended, NameAddr, NotLocated, Resolver, Transport, Uri
from sip.locate import RecordType, Target
from tests.dns_server import DnsServer, Zone, dns_server
from tests.test_sip_transport import QUICK, Ear, opened

ZONE: Zone = {
    ("example.com", "NAPTR"): [
        '20 0 "s" "SIP+D2T" "" _sip._tcp.example.com.',
        '10 0 "s" "SIP+D2U" "" _sip._udp.example.com.',
    ],
    ("_sip._udp.example.com", "SRV"): ["10 0 5070 a.example.com.", "20 0 5071 b.example.com."],
    ("_sip._tcp.example.com", "SRV"): ["0 0 5072 b.example.com."],
    ("a.example.com", "A"): ["192.0.2.1"],
    ("a.example.com", "AAAA"): ["2001:db8::1"],
    ("b.example.com", "A"): ["192.0.2.2"],
}
ALL = ("UDP", "TCP")


def resolver(server: DnsServer, hosts: Path = Path("/nonexistent"), timeout_s: float = 3.0) -> Resolver:
    return Resolver(
        random=Random(1), nameservers=["127.0.0.1"], port=server.port, hosts_file=hosts, timeout_s=timeout_s
    )


async def located(uri: str, by: Resolver, families: str = "A AAAA") -> tuple[Target, ...]:
    kinds = [RecordType(kind) for kind in families.split()]
    return await by.locate(Uri.parse(uri), transports=ALL, families=kinds)


async def test_naptr_srv_and_addresses_come_over_the_wire() -> None:
    async with dns_server(ZONE) as server:
        assert await located("sip:bob@example.com", resolver(server)) == (
            Target("UDP", "192.0.2.1", 5070),
            Target("UDP", "2001:db8::1", 5070),
            Target("UDP", "192.0.2.2", 5071),
            Target("TCP", "192.0.2.2", 5072),
        )


async def test_answers_are_remembered_and_so_are_those_that_there_is_nothing() -> None:
    async with dns_server(ZONE) as server:
        asked = resolver(server)
        for _ in range(3):
            await located("sip:example.com", asked)
            await located("sip:b.example.com", asked)
            with pytest.raises(NotLocated, match=r"^nowhere\.example\.com cannot be located: it has no address$"):
                await located("sip:nowhere.example.com", asked)
        assert server.asked["example.com", "NAPTR"] == 1
        assert server.asked["_sip._udp.b.example.com", "SRV"] == 1
        assert server.asked["nowhere.example.com", "NAPTR"] == 1


async def test_no_answer_is_remembered_longer_than_its_ttl() -> None:
    async with dns_server(ZONE, ttl_s=0) as server:
        asked = resolver(server)
        for _ in range(2):
            await located("sip:example.com", asked)
        assert server.asked["example.com", "NAPTR"] == 2


async def test_a_server_that_does_not_answer_is_said_to_be_silent() -> None:
    async with dns_server(ZONE) as server:
        server.mute = True
        asked = resolver(server, timeout_s=0.1)
        with pytest.raises(NotLocated, match=r"^a\.example\.com cannot be located: the DNS does not answer$"):
            await located("sip:a.example.com:5060", asked)
        # Which is not remembered.
        server.mute = False
        assert await located("sip:a.example.com:5060", asked, "A") == (Target("UDP", "192.0.2.1", 5060),)


@pytest.mark.parametrize("name", ["a..b", "x" * 64 + ".example", ".".join(["x" * 60] * 5), "_", "-"])
async def test_a_name_that_is_none_is_not_located(name: str) -> None:
    async with dns_server({}) as server:
        with pytest.raises(NotLocated):
            await located(f"sip:{name}:5060", resolver(server))


async def test_names_of_the_hosts_file_need_no_dns(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("# comment\n192.0.2.7 pbx PBX.example # the exchange\n2001:db8::7\tpbx\nfe80::1%eth0 pbx\n\nbad\n")
    async with dns_server({}) as server:
        asked = resolver(server, hosts)
        assert await located("sip:Pbx", asked, "A") == (Target("UDP", "192.0.2.7", 5060),)
        assert await located("sip:pbx:5070", asked, "AAAA") == (
            *(Target("UDP", "2001:db8::7", 5070), Target("UDP", "fe80::1", 5070)),
        )
        assert await located("sip:pbx.example;transport=tcp", asked) == (Target("TCP", "192.0.2.7", 5060),)
        hosts.write_text("192.0.2.8 pbx\n")
        os.utime(hosts, ns=(1, 1))
        assert await located("sip:pbx", asked, "A") == (Target("UDP", "192.0.2.8", 5060),)
        assert not server.asked


async def test_localhost_is_this_machine() -> None:
    async with dns_server({}) as server:
        assert await located("sip:localhost", resolver(server)) == (
            *(Target("UDP", "127.0.0.1", 5060), Target("UDP", "::1", 5060)),
        )
        assert not server.asked


async def test_without_nameservers_addresses_still_work() -> None:
    none = Resolver(random=Random(1), nameservers=[])
    assert await located("sip:192.0.2.1", none) == (Target("UDP", "192.0.2.1", 5060),)
    with pytest.raises(NotLocated, match="the DNS does not answer"):
        await located("sip:example.com:5060", none)


# --- The transport's part


async def test_a_uri_leads_to_flows_and_a_dead_target_to_the_next() -> None:
    """RFC 3263 section 4.3, from the domain to the phone that is busy."""
    async with opened() as (callee, _), dns_server({}) as server:
        callee.agent.admit = lambda request, flow, now: Admission(status=486)
        # Of TCP, the first target refuses connections; the second one is there.
        server.zone = {
            ("_sip._tcp.example.com", "SRV"): [
                "1 0 9 dead.example.com.",
                f"2 0 {callee.addresses[0][1]} live.example.com.",
            ],
            ("dead.example.com", "A"): ["127.0.0.1"],
            ("live.example.com", "A"): ["127.0.0.1"],
        }
        ear = Ear()
        agent = Agent(random=Random(1), timers=QUICK)
        async with Transport.open(agent, [("127.0.0.1", 0)], deliver=ear, resolver=resolver(server)) as transport:
            uri = Uri.parse("sip:bob@example.com;transport=tcp")
            flow, *others = await transport.flows(uri)
            assert [each.remote for each in (flow, *others)] == [("127.0.0.1", 9), callee.addresses[0]]
            alice = NameAddr(uri=Uri.parse("sip:alice@127.0.0.1"))
            transport.invite(uri, flow, from_=alice, body=b"offer", others=others)
            ended = await ear.wait_for(Ended)
            assert isinstance(ended, Ended)
            assert ended.status == 486


async def test_addresses_of_families_without_a_socket_are_not_used() -> None:
    zone: Zone = {("a.example.com", "A"): ["192.0.2.1"], ("a.example.com", "AAAA"): ["2001:db8::1"]}
    async with dns_server(zone) as server:
        agent = Agent(random=Random(1))
        async with Transport.open(agent, [("::1", 0)], deliver=Ear(), resolver=resolver(server)) as transport:
            flows = await transport.flows(Uri.parse("sip:a.example.com:5060"))
            assert [flow.remote for flow in flows] == [("2001:db8::1", 5060)]
