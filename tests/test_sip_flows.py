"""Along which flow the agent sends, and what it does when one fails: in virtual time, no sockets."""

from __future__ import annotations

from typing import Any

import pytest

from sip import Answered, Cause, Ended, Flow, Refused, Request, Responded, Uri
from sip.digest import Keyring, Login
from tests.test_sip_agent import (
    ALICE,
    ANSWER,
    BOB,
    FLOW,
    OFFER,
    PEER,
    US,
    Side,
    accept,
    only,
    request,
    respond,
    statuses,
)

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


# --- Several targets: RFC 3263 section 4.3

SECOND, THIRD = Flow("UDP", US, ("192.0.2.3", 5060)), Flow("TCP", US, ("192.0.2.4", 5070))


def calling_one_of(side: Side, *flows: Flow, **arguments: Any) -> tuple[str, Request]:
    call = side.agent.invite(side.now, BOB, flows[0], from_=ALICE, body=OFFER, others=flows[1:], **arguments)
    return call, only(side.hear())


@pytest.mark.conformance("RFC 3263", "4.3", "a target that fails is followed by the next, in a transaction of its own")
def test_a_transport_failure_leads_to_the_next_target() -> None:
    side = Side()
    call, first = calling_one_of(side, TCP, THIRD, SECOND)
    side.agent.flow_failed(TCP, 0.0)
    second = only(side.hear())
    assert side.sent[-1][2] == THIRD
    assert second.via.branch != first.via.branch
    assert (second.call_id, second.cseq, second.from_, second.uri, second.body) == (
        *(first.call_id, first.cseq, first.from_, first.uri, first.body),
    )
    side.agent.flow_failed(THIRD, 0.0)
    third = only(side.hear())
    assert side.sent[-1][2] == SECOND
    # Via and Contact are those of the transport that the request goes by.
    assert [str(message.contact) for message in (first, second, third)] == [
        *("<sip:192.0.2.1:5060;transport=tcp>", "<sip:192.0.2.1:5060;transport=tcp>", "<sip:192.0.2.1:5060>")
    ]
    assert [message.via.transport for message in (first, second, third)] == ["TCP", "TCP", "UDP"]
    assert only(side.say(accept(third), SECOND)).method == "ACK"
    event = side.event()
    assert isinstance(event, Answered)
    assert event.call == call
    side.do(side.agent.bye, call)
    side.assert_clean()


@pytest.mark.conformance("RFC 3263", "4.3", "a 503 leads to the next target")
@pytest.mark.parametrize("progress", [None, 100, 180])
def test_a_503_leads_to_the_next_target(progress: int | None) -> None:
    side = Side()
    call, first = calling_one_of(side, TCP, SECOND)
    if progress is not None:
        side.say(respond(first, progress, tag=None if progress == 100 else "b"), TCP)
        side.events()
    ack, second = side.say(respond(first, 503, tag="b"), TCP)
    assert (ack.method, second.method) == ("ACK", "INVITE")
    assert ack.via.branch == first.via.branch
    assert side.events() == []
    # There is nothing to cancel until the new target has responded (RFC 3261 section 9.1).
    assert side.do(side.agent.cancel, call) == []
    cancel = only(side.say(respond(second, 100, tag=None), SECOND))
    assert (cancel.method, cancel.via.branch) == ("CANCEL", second.via.branch)
    side.say(respond(second, 487), SECOND)
    assert side.event() == Ended(call=call, cause=Cause.LOCAL_CANCEL, status=487, reason="Request Terminated")
    side.assert_clean()


@pytest.mark.conformance("RFC 3263", "4.3", "a target that does not respond is followed by the next")
def test_a_silent_target_is_followed_by_the_next() -> None:
    side = Side()
    call, _ = calling_one_of(side, Flow("UDP", US, PEER), SECOND)
    side.wait(32.0)
    assert side.sent[-1][2] == SECOND
    side.say(respond(side.sent[-1][1], 486), SECOND)
    assert side.event() == Ended(call=call, cause=Cause.REMOTE_REJECT, status=486, reason="Busy Here")


@pytest.mark.parametrize("status", [404, 408, 486, 500, 600])
def test_any_other_answer_is_the_answer(status: int) -> None:
    side = Side()
    _, first = calling_one_of(side, TCP, SECOND)
    side.say(respond(first, status), TCP)
    assert side.event().status == status


def test_the_last_target_gives_the_reason() -> None:
    side = Side()
    _, first = calling_one_of(side, TCP, SECOND)
    _, second = side.say(respond(first, 503), TCP)
    side.say(respond(second, 503), SECOND)
    assert (side.event().cause, side.agent.counters().calls_placed) == (Cause.REMOTE_REJECT, 1)


def test_a_call_that_is_given_up_is_tried_nowhere_else() -> None:
    side = Side()
    call, _ = calling_one_of(side, TCP, SECOND)
    side.do(side.agent.cancel, call)
    side.agent.flow_failed(TCP, 0.0)
    assert side.hear() == []
    assert side.event().cause is Cause.LOCAL_CANCEL


def test_a_phone_that_rings_too_long_is_not_followed_by_another() -> None:
    side = Side()
    _, first = calling_one_of(side, TCP, SECOND, ring_timeout_s=10.0)
    side.say(respond(first, 180), TCP)
    assert [message.method for message in side.wait(200.0)] == ["CANCEL"]


def test_other_requests_have_several_targets_too() -> None:
    side = Side()
    contact = ("Contact", f"{side.agent.contact(TCP)};expires=60")
    key = side.agent.request(0.0, "REGISTER", BOB, TCP, from_=ALICE, headers=(contact,), others=(SECOND,))
    side.hear()
    side.agent.flow_failed(TCP, 0.0)
    again = only(side.hear())
    assert again.headers.get("Contact") == "<sip:192.0.2.1:5060>;expires=60"
    side.say(respond(again, 200), SECOND)
    event = side.event()
    assert isinstance(event, Responded)
    assert (event.request, event.response and event.response.status) == (key, 200)


# --- Large requests: RFC 3261 section 18.1.1

UDP = Flow("UDP", US, PEER)
BEHIND_NAT = UDP._replace(remote=("8.8.4.4", 4711))


def large(side: Side, target: Uri = BOB, flow: Flow = UDP, size: int = 2000) -> list[Request]:
    side.agent.invite(side.now, target, flow, from_=ALICE, body=b"x" * size)
    return side.hear()


@pytest.mark.conformance("RFC 3261", "18.1.1", "a request above 1300 bytes goes by TCP, as its Via says")
def test_a_large_request_goes_by_tcp() -> None:
    side = Side()
    invite = only(large(side))
    assert (invite.via.transport, str(invite.contact)) == ("TCP", "<sip:192.0.2.1:5060;transport=tcp>")
    assert side.sent[-1][2] == TCP
    assert only(side.say(accept(invite), TCP)).via.transport == "TCP"


def test_1300_bytes_are_the_limit() -> None:
    side = Side()
    room = 1300 - len(only(large(side, size=100)).serialise()) + 100
    assert [only(large(side, size=room + more)).via.transport for more in (0, 1)] == ["UDP", "TCP"]
    assert len(side.sent[-2][1].serialise()) == 1300


@pytest.mark.conformance("RFC 3261", "18.1.1", "where TCP fails, a large request goes by UDP")
def test_a_large_request_goes_by_udp_if_tcp_fails() -> None:
    side = Side()
    first = only(large(side))
    side.agent.flow_failed(TCP, 0.0)
    second = only(side.hear())
    assert (second.via.transport, str(second.contact)) == ("UDP", "<sip:192.0.2.1:5060>")
    assert second.via.branch != first.via.branch
    assert side.sent[-1][2] == UDP


def test_who_refuses_a_large_request_by_tcp_is_not_asked_again_by_udp() -> None:
    side = Side()
    side.say(respond(only(large(side)), 503), TCP)
    assert side.event().status == 503


def test_whoever_asks_for_udp_gets_udp() -> None:
    side = Side()
    assert only(large(side, Uri.parse("sip:bob@192.0.2.2;transport=udp"))).via.transport == "UDP"


def test_a_large_request_within_a_call_goes_by_tcp_unless_there_is_a_nat() -> None:
    for source, transport in ((PEER, "TCP"), (("8.8.4.4", 4711), "UDP")):
        side = Side()
        call, invite = side.calling()
        side.say(accept(invite, contact="<sip:bob@192.0.2.2>"), FLOW._replace(remote=source))
        side.event()
        reinvite = only(side.do(side.agent.reoffer, call, body=b"x" * 2000))
        assert reinvite.via.transport == transport


def test_a_re_invite_that_tcp_does_not_take_goes_by_udp_and_the_call_goes_on() -> None:
    side = Side()
    call, _ = side.connected()
    side.do(side.agent.reoffer, call, body=b"x" * 2000)
    side.agent.flow_failed(TCP, side.now)
    again = only(side.hear())
    assert (again.via.transport, again.cseq.number) == ("UDP", 2)
    assert only(side.say(accept(again))).method == "ACK"
    assert isinstance(side.event(), Answered)
    assert only(side.do(side.agent.bye, call)).via.transport == "UDP"


def test_credentials_may_make_a_request_large() -> None:
    side = Side()
    keyring = Keyring(Login(username="alice", password="secret"))
    size = 1300 - len(only(large(side, size=100)).serialise()) + 100
    side.agent.invite(0.0, BOB, UDP, from_=ALICE, body=b"x" * size, keyring=keyring, others=(SECOND,))
    first = only(side.hear())
    assert first.via.transport == "UDP"
    challenge = (("WWW-Authenticate", 'Digest realm="r", nonce="n", algorithm=MD5, qop="auth"'),)
    _, second = side.say(respond(first, 401, headers=challenge))
    assert (second.via.transport, str(second.contact)) == ("TCP", "<sip:192.0.2.1:5060;transport=tcp>")
    for flow, transport in ((TCP, "UDP"), (UDP, "TCP")):
        assert side.sent[-1][2].remote == flow.remote
        before = side.sent[-1][1]
        if flow.reliable:
            side.agent.flow_failed(flow, 0.0)
            (again,) = side.hear()
        else:
            _, again = side.say(respond(before, 503))
        assert again.via.transport == transport
        # Each try proves itself anew: no count is used twice.
        (proof,) = again.headers.get_all("Authorization")
        assert proof not in before.headers.get_all("Authorization")
    assert side.sent[-1][2].remote == SECOND.remote


# --- The transport that a peer states for requests within the dialog


@pytest.mark.conformance("RFC 3261", "12.2.1.1", "a request within a dialog goes by the transport of its next hop")
@pytest.mark.parametrize(
    ("contact", "source", "flow"),
    [
        ("<sip:a@192.0.2.2;transport=tcp>", UDP, TCP),
        ("<sip:a@192.0.2.2:5070;transport=TCP>", UDP, TCP._replace(remote=("192.0.2.2", 5070))),
        ("<sip:a@192.0.2.2;transport=tls>", UDP, Flow("TLS", US, ("192.0.2.2", 5061))),
        ("<sips:a@8.8.4.4>", UDP, Flow("TLS", US, ("8.8.4.4", 5061))),
        ("<sip:a@192.0.2.2;transport=udp>", UDP, UDP),
        # Behind a NAT only the source is there to be reached, as it was.
        ("<sip:a@10.0.0.1;transport=tcp>", BEHIND_NAT, BEHIND_NAT),
        ("<sip:a@pbx.example;transport=tcp>", UDP, UDP),
        # A connection is there already.
        ("<sip:a@192.0.2.2;transport=udp>", TCP._replace(connection=3), TCP._replace(connection=3)),
        ("<sip:a@10.0.0.1;transport=tls>", TCP._replace(connection=3), TCP._replace(connection=3)),
    ],
)
def test_a_request_within_a_call_goes_by_the_transport_that_the_peer_states(
    contact: str, source: Flow, flow: Flow
) -> None:
    side = Side()
    side.say(request("INVITE", contact=contact), source)
    call = side.event().call
    side.do(side.agent.answer, call, body=ANSWER)
    side.say(request("ACK", branch="z9hG4bK-ack", to_tag=call), source)
    side.events()
    bye = only(side.do(side.agent.bye, call))
    assert side.sent[-1][2] == flow
    assert bye.via.transport == flow.transport
