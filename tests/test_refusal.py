"""How what cannot be served is answered, and which address of ours a peer is told."""

from __future__ import annotations

import pytest

import engines
import rtp
import sip
from mediaserver.audio import AudioError
from mediaserver.fetch import FetchError, Forbidden
from mediaserver.inputs import Declined
from mediaserver.media import host_for
from mediaserver.programme import ProgrammeFull
from mediaserver.refusal import UNSERVABLE, declined

ANSWERS = [
    (
        sip.RemoteProtocolError("No such part", status=415, headers=(("Accept", "text/plain"),)),
        Declined(415, "No such part", (("Accept", "text/plain"),)),
    ),
    (engines.UnsuitableUtterance("too long"), Declined(400, "too long")),
    (engines.UnknownVoice("no voice x"), Declined(404, "no voice x")),
    (Forbidden("the host is not allowed"), Declined(403, "the host is not allowed")),
    (FetchError("status 500"), Declined(404, "status 500")),
    (AudioError("no audio"), Declined(404, "no audio")),
    (engines.EngineBusy("full", retry_after_s=1.2), Declined(503, "full", (("Retry-After", "2"),))),
    (rtp.PortsExhausted("20000-20010"), Declined(503, "No RTP port is free", (("Retry-After", "5"),))),
    (ProgrammeFull("32 things wait"), Declined(503, "32 things wait", (("Retry-After", "5"),))),
]


@pytest.mark.parametrize(("error", "answer"), ANSWERS, ids=[type(error).__name__ for error, _ in ANSWERS])
def test_what_cannot_be_served_is_answered_with_whose_fault_it_is(error: Exception, answer: Declined) -> None:
    assert declined(error) == answer


def test_all_that_is_unservable_has_an_answer_of_its_own() -> None:
    assert {type(error) for error, _ in ANSWERS} >= set(UNSERVABLE)


def test_a_phrase_is_one_line_whatever_the_caller_sent() -> None:
    assert declined(FetchError("no\r\nVia: x\0 \t there")) == Declined(404, "no Via: x there")


@pytest.mark.parametrize(
    ("local", "remote", "host"),
    [
        ("10.0.0.1", "198.51.100.7", "203.0.113.5"),  # the first advertised address of the family
        ("2001:db8::1", "2001:db8::7", "2001:db8::5"),
        ("10.0.0.1", "10.0.0.1", "10.0.0.1"),  # on this machine, behind the same NAT
    ],
)
def test_a_peer_is_told_the_advertised_address_that_is_for_it(local: str, remote: str, host: str) -> None:
    flow = sip.Flow("UDP", (local, 5060), (remote, 5060))
    assert host_for(flow, advertised=(None, "203.0.113.5", "203.0.113.6", "2001:db8::5")) == host


def test_a_peer_is_told_our_own_address_where_none_is_advertised_for_it() -> None:
    flow = sip.Flow("UDP", ("2001:db8::1", 5060), ("2001:db8::7", 5060))
    assert host_for(flow, advertised=(None, "203.0.113.5")) == "2001:db8::1"
