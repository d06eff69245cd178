"""Along which flow the agent sends, and what it does when one fails: in virtual time, no sockets."""

from __future__ import annotations

import pytest

from sip import Answered, Cause, Ended, Flow, Refused, Request
from tests.test_sip_agent import ALICE, ANSWER, BOB, OFFER, PEER, US, Side, accept, only, request, respond, statuses

TCP = Flow("TCP", US, PEER)


def calling(side: Side, flow: Flow = TCP) -> tuple[str, Request]:
    call = side.agent.invite(side.now, BOB, flow, from_=ALICE, body=OFFER)
    return call, only(side.hear())


@pytest.mark.conformance("RFC 3261", "8.1.3.1", "a transport error is taken for a 503")
def test_a_flow_that_fails_ends_the_invite_along_it_as_503() -> None:
    """RFC 3261 section 8.1.3.1."""
    side = Side()
    call, _ = calling(side)
    side.agent.flow_failed(TCP._replace(remote=("192.0.2.3", 5060)), 1.0)
    assert side.events() == []
    side.agent.flow_failed(TCP, 1.0)
    assert side.event() == Ended(call=call, cause=Cause.LOST, status=503, reason="Service Unavailable")
    side.assert_clean()


def test_an_invite_that_has_a_provisional_response_outlives_its_connection() -> None:
    """The peer has it, and may respond along a connection that it makes (RFC 3261 section 18.2.2)."""
    side = Side()
    _, invite = calling(side)
    side.say(respond(invite, 180), TCP)
    side.events()
    side.agent.flow_failed(TCP, 1.0)
    assert side.events() == []
    back = TCP._replace(remote=("192.0.2.2", 40000), connection=1)
    assert only(side.say(accept(invite), back)).method == "ACK"
    assert isinstance(side.event(), Answered)
    assert side.sent[-1][2] == back


@pytest.mark.conformance("RFC 3261", "12.2.1.2", "a transport error does not end the dialog")
def test_a_re_invite_whose_flow_fails_is_refused_and_the_call_goes_on() -> None:
    """RFC 3261 section 12.2.1.2: of what may stand for a missing response, only 408 ends the dialog."""
    side = Side()
    call, invite = calling(side)
    side.say(accept(invite), TCP)
    side.events()
    side.do(side.agent.reoffer, call, body=OFFER)
    side.agent.flow_failed(TCP, 1.0)
    event = side.event()
    assert isinstance(event, Refused)
    assert event.response.status == 503
    assert only(side.do(side.agent.bye, call)).method == "BYE"
    assert side.event() == Ended(call=call, cause=Cause.LOCAL_BYE, status=None, reason="")


def test_a_bye_whose_flow_fails_is_over() -> None:
    side = Side()
    call, invite = calling(side)
    side.say(accept(invite), TCP)
    side.do(side.agent.bye, call)
    side.agent.flow_failed(TCP, side.now)
    assert side.agent.counters().dialogs == 0


@pytest.mark.conformance("RFC 3261", "13.3.1.4", "a 2xx is retransmitted over reliable transports too")
def test_nothing_is_sent_again_along_a_reliable_flow_but_the_2xx() -> None:
    """RFC 3261 section 13.3.1.4: the 2xx is, over every transport, because the next hop may be another one."""
    side = Side()
    side.say(request("INVITE"), TCP)
    call = side.event().call
    assert statuses(side.do(side.agent.answer, call, body=ANSWER)) == [200]
    assert statuses(side.wait(1.6)) == [200, 200]
    other = Side()
    calling(other)
    assert other.wait(31.0) == []


def test_a_flow_is_in_use_from_the_invite_to_the_end_of_the_call() -> None:
    side = Side()
    flow = TCP._replace(connection=7)
    assert not side.agent.uses(flow)
    side.say(request("INVITE"), flow)
    call = side.event().call
    assert side.agent.uses(flow)
    side.do(side.agent.answer, call, body=ANSWER)
    side.say(request("ACK", branch="z9hG4bK-ack", to_tag=call), flow)
    side.wait(100)
    assert side.agent.uses(flow)
    assert not side.agent.uses(TCP)
    bye = only(side.do(side.agent.bye, call))
    side.say(respond(bye, 200), flow)
    side.wait(100)
    assert not side.agent.uses(flow)
