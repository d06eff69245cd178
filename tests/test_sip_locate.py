"""Where a request goes (RFC 3263): the rules alone, the DNS being a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from random import Random

import pytest

from sip import LocalProtocolError, Uri
from sip.locate import Answer, Naptr, Question, RecordType, Srv, Target, locate

Zone = Mapping[tuple[str, str], Answer]


def naptr(order: int, preference: int, service: str, replacement: str, flags: str = "s") -> Naptr:
    return Naptr(order=order, preference=preference, flags=flags, service=service, replacement=replacement)


def srv(priority: int, weight: int, port: int, target: str) -> Srv:
    return Srv(priority=priority, weight=weight, port=port, target=target)


# The example of RFC 3263 section 4.1, and its SRV records of section 4.2.
EXAMPLE: Zone = {
    ("example.com", "NAPTR"): [
        naptr(90, 50, "SIP+D2T", "_sip._tcp.example.com."),
        naptr(50, 50, "SIPS+D2T", "_sips._tcp.example.com."),
        naptr(100, 50, "SIP+D2U", "_sip._udp.example.com."),
    ],
    ("_sip._tcp.example.com", "SRV"): [
        srv(0, 1, 5060, "server1.example.com."),
        srv(0, 2, 5060, "server2.example.com."),
    ],
    ("_sips._tcp.example.com", "SRV"): [srv(0, 0, 5061, "server1.example.com.")],
    ("_sip._udp.example.com", "SRV"): [srv(1, 0, 5062, "server2.example.com."), srv(0, 0, 5060, "server1.example.com")],
    ("example.com", "A"): ["192.0.2.9"],
    ("server1.example.com", "A"): ["192.0.2.1"],
    ("server1.example.com", "AAAA"): ["2001:db8::1"],
    ("server2.example.com", "A"): ["192.0.2.2"],
}


def asked(
    uri: str,
    zone: Zone = EXAMPLE,
    *,
    seed: int = 1,
    transports: Sequence[str] = ("UDP", "TCP", "TLS"),
    families: str = "A",
) -> tuple[list[Target], list[list[Question]]]:
    """The targets, and the questions of each round."""
    kinds = [RecordType(kind) for kind in families.split()]
    rules = locate(Uri.parse(uri), random=Random(seed), transports=transports, families=kinds)
    rounds: list[list[Question]] = []
    answers: list[Answer] | None = None
    while True:
        try:
            questions = next(rules) if answers is None else rules.send(answers)
        except StopIteration as done:
            return list(done.value), rounds
        rounds.append(questions)
        answers = [zone.get((name, kind.value), []) for name, kind in questions]


def located(uri: str, zone: Zone = EXAMPLE, **arguments: object) -> list[str]:
    targets, _ = asked(uri, zone, **arguments)  # type: ignore[arg-type]
    return [f"{transport} {host} {port}" for transport, host, port in targets]


@pytest.mark.conformance(
    "RFC 3263", "4.1", "a numeric host goes by UDP, or by TLS for sips, unless the URI says otherwise"
)
@pytest.mark.conformance("RFC 3263", "4.2", "a numeric host needs no DNS, and has the default port of its transport")
@pytest.mark.parametrize(
    ("uri", "target"),
    [
        ("sip:bob@192.0.2.1", "UDP 192.0.2.1 5060"),
        ("sip:bob@192.0.2.1:5070", "UDP 192.0.2.1 5070"),
        ("sip:192.0.2.1;transport=tcp", "TCP 192.0.2.1 5060"),
        ("sip:192.0.2.1;transport=TLS", "TLS 192.0.2.1 5061"),
        ("sips:192.0.2.1", "TLS 192.0.2.1 5061"),
        ("sips:192.0.2.1:5060;transport=tcp", "TLS 192.0.2.1 5060"),
        ("sip:[2001:db8::1]", "UDP 2001:db8::1 5060"),
        ("sip:example.com;maddr=192.0.2.7", "UDP 192.0.2.7 5060"),
    ],
)
def test_a_numeric_host_needs_no_dns(uri: str, target: str) -> None:
    assert located(uri) == [target]
    assert asked(uri)[1] == []


@pytest.mark.conformance("RFC 3263", "4.2", "a port that is given leads to the addresses of the host, without SRV")
@pytest.mark.parametrize(
    ("uri", "target"),
    [
        ("sip:server1.example.com:5070", "UDP 192.0.2.1 5070"),
        ("sips:server1.example.com:5070", "TLS 192.0.2.1 5070"),
        ("sip:server1.example.com:5070;transport=tcp", "TCP 192.0.2.1 5070"),
    ],
)
def test_with_a_port_only_addresses_are_asked_for(uri: str, target: str) -> None:
    assert located(uri) == [target]
    assert asked(uri)[1] == [[Question("server1.example.com", RecordType.A)]]


@pytest.mark.conformance("RFC 3263", "4.1", "NAPTR records say which transports, in which order")
def test_naptr_gives_the_transports_in_the_order_of_the_domain() -> None:
    targets, rounds = asked("sip:bob@example.com")
    assert [(target.transport, target.port) for target in targets] == [
        *(("TLS", 5061), ("TCP", 5060), ("TCP", 5060), ("UDP", 5060), ("UDP", 5062))
    ]
    assert rounds[0] == [Question("example.com", RecordType.NAPTR)]
    assert [question.name for question in rounds[1]] == [
        *("_sips._tcp.example.com", "_sip._tcp.example.com", "_sip._udp.example.com")
    ]
    assert len(rounds) == 3


def test_preference_orders_what_order_leaves_equal() -> None:
    zone = {
        **EXAMPLE,
        ("example.com", "NAPTR"): [
            naptr(1, 20, "sip+d2t", "_sip._tcp.example.com"),
            naptr(1, 10, "SIP+D2U", "_sip._udp.example.com", "S"),
            # Not ours: another service, or a record that is no SRV's.
            naptr(0, 0, "E2U+sip", "", "u"),
            naptr(0, 0, "SIP+D2S", "_sip._sctp.example.com"),
            naptr(0, 0, "SIP+D2T", "example.com", "a"),
        ],
    }
    assert [line.split()[0] for line in located("sip:example.com", zone)] == ["UDP", "UDP", "TCP", "TCP"]


@pytest.mark.conformance("RFC 3263", "4.1", "a sips URI is only ever reached over TLS")
def test_a_sips_uri_is_only_reached_over_tls() -> None:
    assert located("sips:example.com") == ["TLS 192.0.2.1 5061"]
    without_naptr = {key: answer for key, answer in EXAMPLE.items() if key[1] != "NAPTR"}
    targets, rounds = asked("sips:example.com", without_naptr)
    assert targets == [Target("TLS", "192.0.2.1", 5061)]
    assert rounds[1] == [Question("_sips._tcp.example.com", RecordType.SRV)]


@pytest.mark.conformance("RFC 3263", "4.1", "with a transport parameter no NAPTR is asked for")
def test_a_transport_parameter_leads_straight_to_its_srv() -> None:
    targets, rounds = asked("sip:example.com;transport=udp")
    assert targets == [Target("UDP", "192.0.2.1", 5060), Target("UDP", "192.0.2.2", 5062)]
    assert rounds[0] == [Question("_sip._udp.example.com", RecordType.SRV)]


@pytest.mark.conformance("RFC 3263", "4.1", "without NAPTR, SRV is asked for each transport that we support")
def test_without_naptr_the_srv_of_every_transport_is_asked_for() -> None:
    zone = {
        ("_sip._tcp.example.net", "SRV"): [srv(0, 0, 5080, "192.0.2.5")],
        ("example.net", "A"): ["192.0.2.6"],
    }
    targets, rounds = asked("sip:example.net", zone)
    assert targets == [Target("TCP", "192.0.2.5", 5080)]
    assert [question.name for question in rounds[1]] == [
        *("_sip._udp.example.net", "_sip._tcp.example.net", "_sips._tcp.example.net")
    ]
    # The address stood in the record.
    assert len(rounds) == 2


@pytest.mark.conformance("RFC 3263", "4.2", "without SRV the addresses of the host and the default port are used")
@pytest.mark.parametrize(
    ("uri", "target"),
    [
        ("sip:plain.example", "UDP 192.0.2.8 5060"),
        ("sip:plain.example.;transport=tcp", "TCP 192.0.2.8 5060"),
        ("sips:plain.example", "TLS 192.0.2.8 5061"),
        ("sip:other.example;maddr=plain.example", "UDP 192.0.2.8 5060"),
    ],
)
def test_without_srv_the_host_itself_is_taken(uri: str, target: str) -> None:
    assert located(uri, {("plain.example", "A"): ["192.0.2.8"]}) == [target]


def test_a_domain_without_anything_has_no_targets() -> None:
    assert located("sip:nowhere.example", {}) == []


def test_a_service_that_is_said_not_to_be_there_is_not_looked_for_elsewhere() -> None:
    """RFC 2782: a target of "." means that the service is decidedly not available."""
    zone = {("_sip._udp.example.net", "SRV"): [srv(0, 0, 0, ".")], ("example.net", "A"): ["192.0.2.6"]}
    assert located("sip:example.net;transport=udp", zone) == []


@pytest.mark.conformance("RFC 2782", "3", "lower priorities come first")
def test_priorities_come_in_order_and_so_do_their_hosts() -> None:
    zone = {
        ("_sip._udp.example.net", "SRV"): [srv(priority, 100, 5060, f"192.0.2.{priority}") for priority in (3, 1, 2)]
    }
    assert located("sip:example.net;transport=udp", zone) == [f"UDP 192.0.2.{last} 5060" for last in (1, 2, 3)]


@pytest.mark.conformance("RFC 2782", "3", "within a priority the chance to be first is that of the weight")
def test_weights_are_the_chances_of_being_first() -> None:
    weights = {1: 10, 2: 30, 3: 60, 4: 0}
    zone = {
        ("_sip._udp.example.net", "SRV"): [srv(0, weight, 5060, f"192.0.2.{last}") for last, weight in weights.items()]
    }
    rounds = 2000
    first = Counter(located("sip:example.net;transport=udp", zone, seed=seed)[0] for seed in range(rounds))
    for last, weight in weights.items():
        assert first[f"UDP 192.0.2.{last} 5060"] / rounds == pytest.approx(weight / 100, abs=0.03)
    # Weight 0 has a small chance, and every record its turn.
    assert first["UDP 192.0.2.4 5060"] > 0
    assert len(located("sip:example.net;transport=udp", zone)) == 4


def test_families_come_in_our_order_and_only_those_that_we_have() -> None:
    uri = "sip:server1.example.com"
    assert located(uri, families="A AAAA") == ["UDP 192.0.2.1 5060", "UDP 2001:db8::1 5060"]
    assert located(uri, families="AAAA A") == ["UDP 2001:db8::1 5060", "UDP 192.0.2.1 5060"]
    assert located(uri, families="AAAA") == ["UDP 2001:db8::1 5060"]


def test_only_transports_that_we_have_are_used() -> None:
    lines = located("sip:example.com", transports=("UDP", "TCP"))
    assert {line.split()[0] for line in lines} == {"UDP", "TCP"}
    assert located("sip:192.0.2.1", transports=("TLS",)) == ["TLS 192.0.2.1 5061"]


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("tel:+4930", "not a SIP URI"),
        ("sip:192.0.2.1;transport=sctp", "no transport for"),
        ("sips:192.0.2.1;transport=udp", "no transport for"),
        ("sips:192.0.2.1", "no transport for"),
        ("sip:192.0.2.1;transport=tls", "no transport for"),
    ],
)
def test_what_cannot_be_reached_at_all_is_our_mistake(uri: str, message: str) -> None:
    with pytest.raises(LocalProtocolError, match=message):
        asked(uri, transports=("UDP", "TCP"))


def test_a_domain_with_very_many_targets_is_cut_short() -> None:
    records = [srv(0, 0, 5060, f"192.0.2.{last}") for last in range(1, 200)]
    assert len(located("sip:example.net;transport=udp", {("_sip._udp.example.net", "SRV"): records})) == 16


def test_one_address_by_two_ways_is_one_target() -> None:
    zone = {("_sip._udp.example.net", "SRV"): [srv(0, 0, 5060, "192.0.2.1"), srv(1, 0, 5060, "192.0.2.1")]}
    assert located("sip:example.net;transport=udp", zone) == ["UDP 192.0.2.1 5060"]
