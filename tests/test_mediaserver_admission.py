"""Who is let in, and what the others are told: networks, calls at a time, calls per second."""

from __future__ import annotations

import pytest

import sip
from mediaserver.admission import Gate
from mediaserver.config import Config
from sip.parser import parse_datagram

AT_HOME = "10.0.0.1"
ELSEWHERE = "203.0.113.5"
TRUNK = "198.51.100.1"


def gate(trunk: dict[str, object] | None = None, /, **settings: object) -> Gate:
    """A gate by the settings of [sip], and one trunk at TRUNK."""
    config = Config.model_validate(
        {"sip": settings, "trunk": [{"name": "carrier", "targets": [TRUNK]} | (trunk or {})]}
    )
    return Gate(config, lambda host: config.trunk[0] if host == TRUNK else None)


def asked(
    gate: Gate, now: float = 0.0, *, method: str = "INVITE", host: str = AT_HOME, to_tag: str = ""
) -> sip.Admission:
    message = parse_datagram(
        (
            f"{method} sip:bob@192.0.2.1 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.2;branch=z9hG4bK1\r\nMax-Forwards: 70\r\n"
            f"From: <sip:a@b>;tag=1\r\nTo: <sip:bob@192.0.2.1>{to_tag}\r\nCall-ID: 1\r\nCSeq: 1 {method}\r\n\r\n"
        ).encode()
    )
    assert isinstance(message, sip.Request)
    return gate.judge(message, sip.Flow("UDP", ("10.0.0.9", 5060), (host, 5060)), now)


def busy(retry_after_s: int) -> sip.Admission:
    return sip.Admission(status=503, retry_after_s=retry_after_s)


WELCOME = sip.Admission()


@pytest.mark.parametrize("host", ["127.0.0.1", "10.1.2.3", "192.168.1.1", "::1", "fd00::1", "::ffff:10.0.0.1"])
def test_private_networks_may_call_unless_told_otherwise(host: str) -> None:
    assert asked(gate(), host=host) == WELCOME


@pytest.mark.parametrize("host", [ELSEWHERE, "2001:db8::1", "::ffff:203.0.113.5", "fe80::1%eth0"])
@pytest.mark.parametrize("method", ["INVITE", "OPTIONS", "MESSAGE", "BYE", "CANCEL"])
def test_other_sources_are_refused_or_ignored_whatever_they_ask(host: str, method: str) -> None:
    assert asked(gate(), method=method, host=host) == sip.Admission(status=403)
    assert asked(gate(unknown="ignore"), method=method, host=host) == sip.Admission(status=None)
    assert asked(gate(networks=["203.0.113.0/24", "2001:db8::/32", "fe80::/10"]), method=method, host=host) == WELCOME


@pytest.mark.parametrize(("host", "verdict"), [(AT_HOME, WELCOME), (ELSEWHERE, sip.Admission(status=403))])
def test_what_cannot_be_read_is_judged_by_its_source_alone(host: str, verdict: sip.Admission) -> None:
    full = gate(max_calls=1)
    full.begin(AT_HOME, 0)
    assert full.judge(None, sip.Flow("UDP", ("10.0.0.9", 5060), (host, 5060)), 0) == verdict


def test_beyond_the_maximum_nobody_is_let_in_until_a_call_ends() -> None:
    door = gate(max_calls=2)
    calls = []
    for _ in range(2):
        assert asked(door) == WELCOME
        calls.append(door.begin(AT_HOME, 0))
    assert not door.open
    for method in ("INVITE", "OPTIONS", "REFER"):
        assert asked(door, method=method) == busy(5)
    door.end(calls.pop(), 1)
    assert door.open
    assert asked(door, 1) == WELCOME


def test_what_begins_no_call_needs_no_room() -> None:
    door = gate(max_calls=1)
    door.begin(AT_HOME, 0)
    for method in ("BYE", "MESSAGE", "CANCEL", "NOTIFY"):
        assert asked(door, method=method) == WELCOME
    assert asked(door, to_tag=";tag=2") == WELCOME  # a re-INVITE in a dialog that there is not gets its 481


def test_retry_after_follows_how_often_calls_end() -> None:
    door = gate(max_calls=1)
    now = 0.0
    for _ in range(100):
        call = door.begin(AT_HOME, now)
        now += 20
        door.end(call, now)
    call = door.begin(AT_HOME, now)
    assert asked(door, now) == busy(20)
    for _ in range(100):
        door.end(call, now)
        call = door.begin(AT_HOME, now)
        now += 1000
    assert asked(door, now) == busy(60)


def test_calls_per_second_are_a_bucket_of_a_seconds_worth() -> None:
    door = gate(calls_per_s=3)
    admitted = 0
    for tick in range(1000):
        now = tick / 100
        if asked(door, now) == WELCOME:
            door.begin(AT_HOME, now)
            admitted += 1
    assert admitted == 3 + 29


def test_a_rate_below_one_admits_one_and_says_when_the_next_may_come() -> None:
    door = gate(calls_per_s=0.1)
    door.begin(AT_HOME, 0)
    assert asked(door, 0) == busy(10)
    assert asked(door, 7.5) == busy(3)
    assert asked(door, 10) == WELCOME


def test_a_trunk_may_call_from_wherever_it_is() -> None:
    door = gate(unknown="ignore")
    assert asked(door, host=TRUNK) == WELCOME
    assert asked(door, host=ELSEWHERE).status is None


def test_who_is_unknown_is_logged_once_and_a_flood_of_sources_a_hundred_times(
    capsys: pytest.CaptureFixture[str],
) -> None:
    door = gate()
    for number in range(300):
        for _ in range(2):
            asked(door, host=f"203.0.{number // 250}.{number % 250}")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 100
    assert "sip.networks" in lines[0]
    assert "203.0.0.0" in lines[0]


def test_connections_of_who_is_ignored_are_not_taken() -> None:
    assert gate().welcomes(ELSEWHERE)
    door = gate(unknown="ignore")
    assert (door.welcomes(AT_HOME), door.welcomes(TRUNK), door.welcomes(ELSEWHERE)) == (True, True, False)


def test_limits_of_a_trunk_are_its_own() -> None:
    door = gate({"max_calls": 1, "calls_per_s": 0.5}, max_calls=10)
    call = door.begin(TRUNK, 0)
    assert asked(door, host=TRUNK) == busy(5)
    assert asked(door) == WELCOME
    (family,) = door.families()
    assert [(sample.labels, sample.value) for sample in family.samples] == [({"trunk": "carrier"}, 1)]
    door.end(call, 1)
    assert asked(door, 1, host=TRUNK) == busy(1)
    assert asked(door, 2, host=TRUNK) == WELCOME


def test_a_full_server_is_full_for_a_trunk_too() -> None:
    door = gate(max_calls=1)
    door.begin(AT_HOME, 0)
    assert asked(door, host=TRUNK) == busy(5)


def test_being_asked_takes_no_room() -> None:
    door = gate(calls_per_s=1, max_calls=1)
    assert [asked(door) for _ in range(10)] == [WELCOME] * 10


def test_a_closed_gate_says_when_to_come_back_and_still_hides_from_strangers() -> None:
    door = gate(unknown="ignore")
    door.close(30)
    assert asked(door) == asked(door, method="OPTIONS") == busy(30)
    assert asked(door, host=ELSEWHERE).status is None
    assert not door.open


def test_a_telephone_of_our_own_is_let_in_from_anywhere_and_finds_the_room_that_there_is() -> None:
    config = Config.model_validate({"sip": {"networks": [], "max_calls": 1}})
    full = Gate(config, lambda host: None, lambda flow: flow.remote == (AT_HOME, 5060))
    assert asked(full) == WELCOME
    assert asked(full, host="10.0.0.2") == sip.Admission(status=403)
    full.begin(AT_HOME, 0.0)
    assert asked(full) == busy(5)
