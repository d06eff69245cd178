"""Reliable provisional responses and PRACK in both directions (RFC 3262), and several early dialogs (RFC 3261 13.2)."""

from __future__ import annotations

from typing import Any

import pytest

from sip import Acknowledged, Answered, Cause, Confirmed, Ended, LocalProtocolError, Progressed, Reoffered, Request
from sip.reliable import RELIABLE_DEADLINES, RELIABLE_ROWS, ReliableDeadline, ReliableState

from .test_sip_agent import ALICE, ANSWER, BOB, FLOW, OFFER, SDP, Side, accept, only, request, respond, statuses

REQUIRED = ("Require: 100rel",)
SUPPORTED = ("Supported: 100rel",)
NEW = b"v=0 new"


def prack(call: str, rack: str, cseq: int = 2, **arguments: Any) -> bytes:
    return request("PRACK", branch=f"z9hG4bK-p{cseq}", to_tag=call, cseq=cseq, headers=(f"RAck: {rack}",), **arguments)


def rack_for(response: Any) -> str:
    return f"{response.headers.get('RSeq')} {response.cseq}"


def reliable(
    invite: Request, rseq: int, *, status: int = 183, tag: str = "b", body: bytes = b"", contact: str = "192.0.2.2"
) -> bytes:
    """A reliable provisional response of the peer's."""
    fields = (("Require", "100rel"), ("RSeq", str(rseq)), ("Contact", f"<sip:bob@{contact}>"))
    content_type = SDP if body else None
    return invite.response(status, to_tag=tag, headers=fields, body=body, content_type=content_type).serialise()


# --- The table


def test_every_state_of_provisional_responses_can_be_closed() -> None:
    for state in ReliableState:
        reached = {state}
        while grown := {to for (at, _), to in RELIABLE_ROWS.items() if at in reached} - reached:
            reached |= grown
        assert ReliableState.CLOSED in reached, state


def test_every_deadline_of_provisional_responses_has_a_row_in_every_state_that_it_runs_in() -> None:
    running = {(state, deadline) for state, deadlines in RELIABLE_DEADLINES.items() for deadline in deadlines}
    assert running == {(state, what) for state, what in RELIABLE_ROWS if isinstance(what, ReliableDeadline)}


# --- We say it rings


@pytest.mark.conformance(
    "RFC 3262", "3", "a 1xx to an INVITE that requires 100rel has RSeq and Require: 100rel, a 100 has not"
)
def test_what_the_peer_requires_is_sent_reliably() -> None:
    side = Side()
    (trying,) = side.say(request("INVITE", headers=REQUIRED))
    assert "RSeq" not in trying.headers
    call = side.event().call  # type: ignore[union-attr]
    ringing = only(side.do(side.agent.ring, call))
    assert (ringing.status, ringing.require) == (180, ("100rel",))
    assert 1 <= int(ringing.headers.get("RSeq")) < 2**31
    assert "UPDATE" in ringing.headers.get_all("Allow")
    ok = only(side.say(prack(call, rack_for(ringing))))
    assert (ok.status, ok.cseq.method, ok.to.tag) == (200, "PRACK", call)
    assert side.event() == Acknowledged(call=call, body=b"", content_type="")
    assert side.wait(50) == []


def test_the_first_rseq_is_random() -> None:
    assert len({rack_for(only(side.do(side.agent.ring, side.offered(headers=REQUIRED)))) for side in _sides(20)}) == 20


def _sides(count: int) -> list[Side]:
    sides = [Side() for _ in range(count)]
    for number, side in enumerate(sides):
        side.agent._identity.random.seed(number)
    return sides


def test_what_the_peer_only_supports_is_sent_reliably_where_the_host_wants_it() -> None:
    side = Side()
    call = side.offered(headers=SUPPORTED)
    assert "RSeq" not in only(side.do(side.agent.ring, call)).headers
    assert "RSeq" in only(side.do(side.agent.ring, call, status=183, reliable=True)).headers
    unable = side.offered(call_id="c2", branch="z9hG4bK-2")
    with pytest.raises(LocalProtocolError, match="does not support"):
        side.agent.ring(0.0, unable, reliable=True)


@pytest.mark.conformance(
    "RFC 3262", "3", "a reliable 1xx is sent again after T1, doubling without limit, until its PRACK"
)
def test_a_reliable_response_is_repeated_until_it_is_given_up() -> None:
    side = Side()
    call = side.offered(headers=REQUIRED)
    side.do(side.agent.ring, call)
    side.wait(31.9)
    assert [at for at, message, _ in side.sent if getattr(message, "status", 0) == 180] == [
        0.0,
        0.5,
        1.5,
        3.5,
        7.5,
        15.5,
        31.5,
    ]


@pytest.mark.conformance("RFC 3262", "3", "without a PRACK for 64*T1 the INVITE gets 5xx")
def test_without_a_prack_the_invite_is_refused() -> None:
    side = Side()
    call = side.offered(headers=REQUIRED)
    side.do(side.agent.ring, call)
    assert statuses(side.wait(32))[-1] == 504
    assert side.event() == Ended(call=call, cause=Cause.NO_PRACK, status=504, reason="Server Time-out")
    side.say(request("ACK", to_tag=call))
    side.assert_clean()


@pytest.mark.conformance("RFC 3262", "3", "a PRACK that matches no reliable 1xx gets 481")
@pytest.mark.parametrize("rack", ["1 1 INVITE", "{rseq} 2 INVITE", "{rseq} 1 UPDATE", "{rseq}", "x y INVITE", "9" * 30])
def test_a_prack_for_nothing_gets_481(rack: str) -> None:
    side = Side()
    call = side.offered(headers=REQUIRED)
    ringing = only(side.do(side.agent.ring, call))
    rseq = ringing.headers.get("RSeq")
    assert statuses(side.say(prack(call, rack.format(rseq=rseq)))) == [481]
    assert statuses(side.say(prack("nobody", rack_for(ringing), 3))) == [481]
    assert side.events() == []
    assert statuses(side.say(prack(call, rack_for(ringing), 4))) == [200]
    assert statuses(side.say(prack(call, rack_for(ringing), 5))) == [481]


def test_a_prack_that_comes_again_gets_the_same_answer() -> None:
    side = Side()
    call = side.offered(headers=REQUIRED)
    acknowledgement = prack(call, rack_for(only(side.do(side.agent.ring, call))))
    assert statuses(side.say(acknowledgement)) == [200]
    assert statuses(side.say(acknowledgement)) == [200]
    assert len(side.events()) == 1


def test_a_prack_where_nothing_was_sent_reliably_gets_481() -> None:
    side = Side()
    call = side.confirmed()
    assert statuses(side.say(prack(call, "1 1 INVITE"))) == [481]


@pytest.mark.conformance(
    "RFC 3262", "3", "a second reliable 1xx waits for the PRACK to the first, and has the next RSeq"
)
def test_the_next_reliable_response_waits_for_the_prack() -> None:
    side = Side()
    call = side.offered(headers=REQUIRED)
    first = only(side.do(side.agent.ring, call))
    assert side.do(side.agent.ring, call, status=183, body=ANSWER) == []
    ok, second = side.say(prack(call, rack_for(first)))
    assert (ok.status, second.status, second.body) == (200, 183, ANSWER)  # type: ignore[union-attr]
    assert int(second.headers.get("RSeq") or 0) == int(first.headers.get("RSeq")) + 1
    assert statuses(side.say(prack(call, rack_for(second), 3))) == [200]


@pytest.mark.conformance("RFC 3262", "3", "no 2xx while a reliable 1xx with a session description waits for its PRACK")
def test_an_answer_waits_for_the_prack_to_early_media() -> None:
    side = Side()
    call = side.offered(headers=REQUIRED)
    progress = only(side.do(side.agent.ring, call, status=183, body=ANSWER))
    assert side.do(side.agent.answer, call, body=ANSWER, headers=[("X-A", "b")]) == []
    ok, answer = side.say(prack(call, rack_for(progress)))
    assert (ok.cseq.method, answer.cseq.method) == ("PRACK", "INVITE")
    assert (answer.status, answer.body, answer.headers.get("X-A")) == (200, b"", "b")  # type: ignore[union-attr]
    side.say(request("ACK", branch="z9hG4bK-a", to_tag=call))
    assert [type(event) for event in side.events()] == [Acknowledged, Confirmed]


def test_an_answer_does_not_wait_for_the_prack_to_mere_ringing() -> None:
    side = Side()
    call = side.offered(headers=REQUIRED)
    ringing = only(side.do(side.agent.ring, call))
    answer = only(side.do(side.agent.answer, call, body=ANSWER))
    assert (answer.status, answer.body) == (200, ANSWER)
    # RFC 3262 section 3: then it is not sent again, but its PRACK is served.
    assert statuses(side.say(prack(call, rack_for(ringing)))) == [200]
    side.say(request("ACK", branch="z9hG4bK-a", to_tag=call))
    assert side.wait(60) == []


HELD_ENDS = {
    "CANCEL": (lambda call: request("CANCEL"), Cause.REMOTE_CANCEL, [200, 487]),
    "BYE": (lambda call: request("BYE", branch="z9hG4bK-b", to_tag=call, cseq=2), Cause.REMOTE_BYE, [200, 487]),
}


@pytest.mark.parametrize("how", HELD_ENDS)
def test_the_peer_may_give_up_while_the_answer_waits(how: str) -> None:
    says, cause, expected = HELD_ENDS[how]
    side = Side()
    call = side.offered(headers=REQUIRED)
    side.do(side.agent.ring, call, status=183, body=ANSWER)
    side.do(side.agent.answer, call, body=ANSWER)
    assert statuses(side.say(says(call))) == expected
    ended = side.event()
    assert isinstance(ended, Ended)
    assert ended.cause is cause
    side.say(request("ACK", to_tag=call))
    side.assert_clean()


def test_the_host_may_give_up_while_the_answer_waits() -> None:
    side = Side()
    call = side.offered(headers=REQUIRED)
    side.do(side.agent.ring, call, status=183, body=ANSWER)
    side.do(side.agent.answer, call, body=ANSWER)
    assert statuses(side.do(side.agent.bye, call)) == [480]
    assert side.event() == Ended(call=call, cause=Cause.LOCAL_BYE, status=None, reason="")
    side.say(request("ACK", to_tag=call))
    side.assert_clean()


@pytest.mark.conformance("RFC 3262", "5", "the answer to an offer in a reliable 1xx comes in its PRACK")
def test_a_delayed_offer_goes_into_the_reliable_response_and_its_answer_into_the_prack() -> None:
    side = Side()
    call = side.offered(headers=REQUIRED, body=b"")
    progress = only(side.do(side.agent.ring, call, status=183, body=OFFER))
    assert progress.body == OFFER
    side.say(prack(call, rack_for(progress), body=ANSWER))
    assert side.event() == Acknowledged(call=call, body=ANSWER, content_type=SDP)
    assert only(side.do(side.agent.answer, call, body=OFFER)).body == b""
    side.say(request("ACK", branch="z9hG4bK-a", to_tag=call))
    assert side.event() == Confirmed(call=call, body=b"", content_type="")


@pytest.mark.conformance("RFC 3262", "5", "an offer in a PRACK is answered in its 2xx")
def test_an_offer_in_a_prack_is_the_hosts_to_answer() -> None:
    side = Side()
    call = side.offered(headers=REQUIRED)
    progress = only(side.do(side.agent.ring, call, status=183, body=ANSWER))
    assert side.say(prack(call, rack_for(progress), body=NEW)) == []
    acknowledged, reoffered = side.events()
    assert acknowledged == Acknowledged(call=call, body=b"", content_type="")
    assert isinstance(reoffered, Reoffered)
    ok = only(side.do(side.agent.answer, call, body=ANSWER, to=reoffered.request))
    assert (ok.status, ok.cseq.method, ok.body) == (200, "PRACK", ANSWER)


def test_a_description_is_not_sent_twice() -> None:
    side = Side()
    call = side.offered(headers=REQUIRED)
    first = only(side.do(side.agent.ring, call, status=183, body=ANSWER))
    side.say(prack(call, rack_for(first)))
    assert only(side.do(side.agent.ring, call, status=183, body=ANSWER)).body == b""


# --- The peer says it rings


@pytest.mark.conformance("RFC 3262", "4", "every reliable 1xx gets one PRACK, in its dialog and with its RSeq and CSeq")
def test_what_the_peer_says_reliably_gets_one_prack() -> None:
    side = Side()
    call, invite = side.calling()
    assert "100rel" in invite.supported
    acknowledgement = only(side.say(reliable(invite, 71, body=ANSWER)))
    assert (acknowledgement.method, acknowledgement.headers.get("RAck")) == ("PRACK", "71 1 INVITE")
    assert (acknowledgement.to.tag, acknowledgement.from_.tag, acknowledgement.cseq.number) == ("b", call, 2)
    progressed = side.event()
    assert isinstance(progressed, Progressed)
    assert (progressed.response.body, progressed.offer) == (ANSWER, False)
    assert side.say(reliable(invite, 71, body=ANSWER)) == []
    assert side.events() == []
    side.say(respond(acknowledgement, 200, tag=None))
    ack = only(side.say(accept(invite)))
    assert (ack.method, ack.cseq.number) == ("ACK", 1)
    assert only(side.do(side.agent.bye, call)).cseq.number == 3


@pytest.mark.conformance("RFC 3262", "4", "a reliable 1xx out of order is neither acknowledged nor used")
def test_reliable_responses_are_taken_in_order_and_once() -> None:
    side = Side()
    _, invite = side.calling()
    assert only(side.say(reliable(invite, 5))).headers.get("RAck") == "5 1 INVITE"
    assert side.say(reliable(invite, 7)) == []
    assert side.say(reliable(invite, 4)) == []
    assert only(side.say(reliable(invite, 6))).headers.get("RAck") == "6 1 INVITE"
    assert only(side.say(reliable(invite, 7))).headers.get("RAck") == "7 1 INVITE"
    assert len(side.events()) == 3


@pytest.mark.conformance("RFC 3262", "4", "the reliable 1xx to another INVITE of the dialog begin with any RSeq")
def test_the_numbers_of_a_reinvite_are_its_own() -> None:
    side = Side()
    call, invite = side.calling()
    side.say(reliable(invite, 500))
    side.say(accept(invite))
    again = only(side.do(side.agent.reoffer, call, body=NEW))
    assert only(side.say(reliable(again, 7))).headers.get("RAck") == f"7 {again.cseq.number} INVITE"
    assert side.say(reliable(again, 7)) == []
    assert side.say(reliable(again, 9)) == []


@pytest.mark.parametrize("rseq", ["", "x", "9" * 30])
def test_an_rseq_that_is_none_makes_the_response_an_unreliable_one(rseq: str) -> None:
    side = Side()
    _, invite = side.calling()
    assert side.say(respond(invite, 183, headers=(("Require", "100rel"), ("RSeq", rseq)))) == []
    assert isinstance(side.event(), Progressed)


def test_a_prack_that_is_not_answered_does_not_end_the_call() -> None:
    """The peer, which has not seen it, ends the INVITE: RFC 3262 section 3."""
    side = Side()
    call, invite = side.calling()
    side.say(reliable(invite, 5))
    side.wait(32)
    assert [type(event) for event in side.events()] == [Progressed]
    side.say(respond(invite, 504))
    assert side.event() == Ended(call=call, cause=Cause.REMOTE_REJECT, status=504, reason="Server Time-out")
    side.assert_clean()


@pytest.mark.conformance("RFC 3262", "5", "the PRACK to a reliable 1xx with an offer carries the answer")
def test_the_host_answers_the_offer_of_a_reliable_response_in_the_prack() -> None:
    side = Side()
    call = side.agent.invite(0.0, BOB, FLOW, from_=ALICE)
    invite = only(side.hear())
    assert side.say(reliable(invite, 5, body=OFFER)) == []
    progressed = side.event()
    assert isinstance(progressed, Progressed)
    assert progressed.offer
    acknowledgement = only(side.do(side.agent.acknowledge, call, body=ANSWER))
    assert (acknowledgement.method, acknowledgement.body) == ("PRACK", ANSWER)
    assert acknowledgement.headers.get("RAck") == "5 1 INVITE"
    ack = only(side.say(accept(invite)))
    assert (ack.method, ack.body) == ("ACK", b"")
    answered = side.event()
    assert isinstance(answered, Answered)
    assert not answered.offer


# --- Several early dialogs


@pytest.mark.conformance(
    "RFC 3261", "13.2.2.1", "every To tag in a provisional response makes an early dialog of its own"
)
def test_every_branch_is_a_dialog_of_its_own() -> None:
    side = Side()
    call, invite = side.calling()
    first = only(side.say(reliable(invite, 5, tag="b", body=ANSWER, contact="192.0.2.21")))
    second = only(side.say(reliable(invite, 90, tag="c", body=ANSWER, contact="192.0.2.22")))
    third = only(side.say(reliable(invite, 6, tag="b", contact="192.0.2.21")))
    seen = [(message.to.tag, str(message.uri), message.cseq.number) for message in (first, second, third)]
    assert seen == [("b", "sip:bob@192.0.2.21", 2), ("c", "sip:bob@192.0.2.22", 2), ("b", "sip:bob@192.0.2.21", 3)]
    tags = [event.response.to.tag for event in side.events() if isinstance(event, Progressed)]
    assert tags == ["b", "c", "b"]
    assert only(side.say(accept(invite, tag="c"))).to.tag == "c"
    answered = side.event()
    assert isinstance(answered, Answered)
    assert only(side.do(side.agent.bye, call)).cseq.number == 3


@pytest.mark.conformance("RFC 3261", "13.2.2.4", "the 2xx of another branch gets ACK and BYE")
def test_a_branch_that_answers_too_late_is_hung_up_in_its_own_dialog() -> None:
    side = Side()
    _, invite = side.calling()
    side.say(reliable(invite, 5, tag="b", contact="192.0.2.21"))
    side.say(reliable(invite, 5, tag="c", contact="192.0.2.22"))
    side.say(accept(invite, tag="c"))
    ack, bye = side.say(accept(invite, tag="b", contact="<sip:bob@192.0.2.21>"))
    assert isinstance(ack, Request)
    assert isinstance(bye, Request)
    assert (ack.method, ack.to.tag, bye.method, bye.to.tag) == ("ACK", "b", "BYE", "b")
    assert str(bye.uri) == "sip:bob@192.0.2.21"
    assert [type(event) for event in side.events()] == [Progressed, Progressed, Answered]


def test_a_thousand_branches_do_not_fill_the_memory() -> None:
    side = Side()
    call, invite = side.calling()
    for number in range(1000):
        side.say(respond(invite, 180, tag=f"t{number}"))
    assert len(side.agent._calls.by_key[call].early) == 64
    side.say(accept(invite, tag="t999"))
    assert isinstance(side.events()[-1], Answered)
    assert side.agent._calls.by_key[call].early == {}
