"""UPDATE in both directions, what may be offered when, and changes that cross (RFC 3311, RFC 6337, RFC 3261 14.1)."""

from __future__ import annotations

from typing import Any

import pytest

from sip import Answered, Cause, Ended, LocalProtocolError, Refused, Reoffered, Request, Withdrawn
from sip.exchange import EXCHANGE_ROWS, Exchange, ExchangeInput

from .test_sip_agent import ALICE, ANSWER, BOB, FLOW, OFFER, SDP, Side, accept, only, request, respond, statuses

ALLOW = (("Allow", "INVITE, ACK, BYE, CANCEL, UPDATE"),)
NEW = b"v=0 new"


def update(call: str, cseq: int = 2, **arguments: Any) -> bytes:
    return request("UPDATE", branch=f"z9hG4bK-u{cseq}", to_tag=call, cseq=cseq, **arguments)


def reinvite(call: str, cseq: int = 2, **arguments: Any) -> bytes:
    return request("INVITE", branch=f"z9hG4bK-i{cseq}", to_tag=call, cseq=cseq, **arguments)


def connected(side: Side, **arguments: Any) -> str:
    """A call of ours to a peer that allows UPDATE."""
    call, invite = side.calling(**arguments)
    fields = (*ALLOW, ("Contact", "<sip:bob@192.0.2.2>"))
    side.say(invite.response(200, to_tag="b", headers=fields, body=ANSWER, content_type=SDP).serialise())
    assert isinstance(side.event(), Answered)
    return call


def agree(to: Request, body: bytes = ANSWER, **arguments: Any) -> bytes:
    fields = (("Contact", "<sip:bob@192.0.2.2>"),)
    return to.response(200, headers=fields, body=body, content_type=SDP if body else None, **arguments).serialise()


# --- The table


def test_every_exchange_reaches_agreement() -> None:
    for state in Exchange:
        reached = {state}
        while grown := {to for (at, _), to in EXCHANGE_ROWS.items() if at in reached} - reached:
            reached |= grown
        assert Exchange.AGREED in reached, state


def test_an_answer_out_of_turn_is_our_mistake() -> None:
    with pytest.raises(LocalProtocolError, match="our answer when no offer waits"):
        Exchange.AGREED.after(ExchangeInput.ANSWER)


# --- The peer's


@pytest.mark.conformance(
    "RFC 3311", "5.2", "an UPDATE without an offer refreshes the target and gets 200 with a Contact"
)
def test_an_update_without_an_offer_is_answered_at_once_and_moves_the_target() -> None:
    side = Side()
    call = side.confirmed()
    ok = only(side.say(update(call, contact="<sip:alice@192.0.2.77>")))
    assert (ok.status, ok.to.tag, str(ok.contact)) == (200, call, "<sip:192.0.2.1:5060>")
    assert side.events() == []
    assert str(only(side.do(side.agent.bye, call)).uri) == "sip:alice@192.0.2.77"


@pytest.mark.conformance(
    "RFC 3311", "5.2", "an UPDATE with an offer gets 200 with the answer, and only then moves the target"
)
def test_an_offer_in_an_update_is_the_hosts_to_answer() -> None:
    side = Side()
    call = side.confirmed()
    offer = update(call, body=NEW, contact="<sip:alice@192.0.2.77>")
    assert side.say(offer) == []
    reoffered = side.event()
    assert isinstance(reoffered, Reoffered)
    assert (reoffered.call, reoffered.request.method, reoffered.request.body) == (call, "UPDATE", NEW)
    ok = only(side.do(side.agent.answer, call, body=ANSWER, headers=[("X-A", "b")]))
    assert (ok.status, ok.cseq.method, ok.body, ok.headers.get("X-A")) == (200, "UPDATE", ANSWER, "b")
    assert statuses(side.say(offer)) == [200]
    assert side.wait(40) == []
    assert str(only(side.do(side.agent.bye, call)).uri) == "sip:alice@192.0.2.77"


@pytest.mark.conformance("RFC 3311", "5.2", "a refused UPDATE changes nothing")
def test_a_refused_update_leaves_the_call_as_it_was() -> None:
    side = Side()
    call = side.confirmed()
    side.say(update(call, body=NEW, contact="<sip:alice@192.0.2.77>"))
    refused = only(side.do(side.agent.reject, call, status=488))
    assert (refused.status, refused.cseq.method) == (488, "UPDATE")
    side.events()
    side.say(update(call, 3, body=NEW))
    assert isinstance(side.event(), Reoffered)
    assert statuses(side.do(side.agent.answer, call, body=ANSWER)) == [200]
    assert str(only(side.do(side.agent.bye, call)).uri) == "sip:alice@192.0.2.2"


@pytest.mark.conformance("RFC 3311", "5.2", "a second UPDATE before the answer to the first gets 500 with Retry-After")
@pytest.mark.parametrize("body", [NEW, b""])
def test_a_second_update_meanwhile_gets_500(body: bytes) -> None:
    side = Side()
    call = side.confirmed()
    side.say(update(call, body=NEW))
    refused = only(side.say(update(call, 3, body=body)))
    assert refused.status == 500
    assert 0 <= int(refused.headers.get("Retry-After")) <= 10
    assert statuses(side.do(side.agent.answer, call, body=ANSWER)) == [200]


@pytest.mark.conformance("RFC 3311", "5.2", "a re-INVITE before the answer to an UPDATE gets 500 with Retry-After")
def test_a_reinvite_while_an_update_waits_gets_500() -> None:
    side = Side()
    call = side.confirmed()
    side.say(update(call, body=NEW))
    refused = only(side.say(reinvite(call, 3)))
    assert (refused.status, "Retry-After" in refused.headers) == (500, True)
    assert statuses(side.do(side.agent.answer, call, body=ANSWER)) == [200]


@pytest.mark.conformance("RFC 3311", "5.2", "an offer while the peer's re-INVITE waits for its answer gets 500")
def test_an_update_while_the_peers_reinvite_waits_gets_500() -> None:
    side = Side()
    call = side.confirmed()
    side.say(reinvite(call))
    assert statuses(side.say(update(call, 3, body=NEW))) == [500]
    assert statuses(side.say(update(call, 4))) == [200]
    assert isinstance(side.event(), Reoffered)


@pytest.mark.conformance("RFC 3311", "5.2", "an offer while ours waits for its answer gets 491")
@pytest.mark.parametrize("verb", ["reoffer", "update"])
@pytest.mark.parametrize("peers", [update, reinvite])
def test_an_offer_that_crosses_ours_gets_491(verb: str, peers: Any) -> None:
    side = Side()
    call = side.confirmed(headers=("Allow: UPDATE",))
    ours = only(side.do(getattr(side.agent, verb), call, body=NEW))
    assert statuses(side.say(peers(call, body=OFFER))) == [491]
    assert side.events() == []
    side.say(agree(ours))
    assert isinstance(side.event(), Answered)
    side.say(peers(call, 3, body=OFFER))
    assert isinstance(side.event(), Reoffered)


@pytest.mark.conformance("RFC 3311", "5.2", "an offer while the ACK is to bring the answer to ours gets 491")
def test_an_update_before_the_ack_with_the_answer_gets_491() -> None:
    side = Side()
    call = side.offered(body=b"")
    side.do(side.agent.answer, call, body=OFFER)
    assert statuses(side.say(update(call, body=NEW))) == [491]
    side.say(request("ACK", branch="z9hG4bK-ack", to_tag=call, body=ANSWER))
    side.events()
    side.say(update(call, 3, body=NEW))
    assert isinstance(side.event(), Reoffered)


def test_an_update_before_the_ack_of_an_answered_offer_is_served() -> None:
    """The dialog is confirmed with our 2xx; the ACK may be late (RFC 3261 section 13.3.1.4)."""
    side = Side()
    call = side.answered()
    side.say(update(call, body=NEW))
    assert isinstance(side.event(), Reoffered)
    ok = only(side.do(side.agent.answer, call, body=ANSWER))
    assert (ok.status, ok.cseq.method) == (200, "UPDATE")


def test_an_update_that_the_host_forgets_gets_500_in_time() -> None:
    side = Side()
    call = side.confirmed()
    side.say(update(call, body=NEW))
    side.events()
    assert statuses(side.wait(16)) == [500]
    assert side.event() == Withdrawn(call=call)
    with pytest.raises(LocalProtocolError):
        side.agent.answer(side.now, call, body=ANSWER)
    side.say(update(call, 3, body=NEW))
    assert isinstance(side.event(), Reoffered)


def test_a_bye_while_an_update_waits_leaves_nothing() -> None:
    side = Side()
    call = side.confirmed()
    side.say(update(call, body=NEW))
    answers = side.say(request("BYE", branch="z9hG4bK-bye", to_tag=call, cseq=3))
    assert [(answer.status, str(answer.cseq)) for answer in answers] == [  # type: ignore[union-attr]
        (200, "3 BYE"),
        (487, "2 UPDATE"),
    ]
    assert [type(event) for event in side.events()] == [Reoffered, Ended]
    side.assert_clean()


def test_an_update_of_no_call_gets_481() -> None:
    side = Side()
    assert statuses(side.say(update("nobody"))) == [481]
    assert statuses(side.say(request("UPDATE", branch="z9hG4bK-x"))) == [481]
    call = side.confirmed()
    side.do(side.agent.bye, call)
    assert statuses(side.say(update(call))) == [481]


def test_an_update_with_a_body_of_another_type_gets_415() -> None:
    side = Side()
    call = side.confirmed()
    assert statuses(side.say(update(call, body=b"x", content_type="text/plain"))) == [415]


# --- Ours


@pytest.mark.conformance("RFC 3311", "5.1", "an UPDATE has a Contact, and a 2xx to it moves the target")
def test_our_update_is_answered_and_moves_the_target() -> None:
    side = Side()
    call = connected(side)
    ours = only(side.do(side.agent.update, call, body=NEW, headers=[("X-A", "b")]))
    assert (ours.method, ours.body, ours.content_type, ours.cseq.number) == ("UPDATE", NEW, SDP, 2)
    assert (str(ours.contact), ours.headers.get("X-A")) == ("<sip:192.0.2.1:5060>", "b")
    side.say(ours.response(200, headers=(("Contact", "<sip:bob@192.0.2.66>"),), body=ANSWER).serialise())
    answered = side.event()
    assert isinstance(answered, Answered)
    assert (answered.response.cseq.method, answered.response.body, answered.offer) == ("UPDATE", ANSWER, False)
    assert str(only(side.do(side.agent.bye, call)).uri) == "sip:bob@192.0.2.66"


def test_our_refused_update_leaves_the_call_as_it_was() -> None:
    side = Side()
    call = connected(side)
    ours = only(side.do(side.agent.update, call, body=NEW))
    side.say(respond(ours, 488, tag=None))
    refused = side.event()
    assert isinstance(refused, Refused)
    assert refused.response.status == 488
    assert only(side.do(side.agent.update, call, body=NEW)).method == "UPDATE"


@pytest.mark.parametrize("status", [408, 481])
def test_an_update_to_a_peer_that_knows_the_call_no_more_ends_it(status: int) -> None:
    side = Side()
    call = connected(side)
    ours = only(side.do(side.agent.update, call))
    assert only(side.say(respond(ours, status, tag=None))).method == "BYE"
    ended = side.event()
    assert isinstance(ended, Ended)
    assert (ended.cause, ended.status) == (Cause.LOST, status)


def test_an_update_to_a_silent_peer_ends_the_call() -> None:
    side = Side()
    call = connected(side)
    side.do(side.agent.update, call)
    side.wait(32)
    assert side.event() == Ended(call=call, cause=Cause.LOST, status=408, reason="Request Timeout")
    side.assert_clean()


def test_our_update_may_not_be_sent_out_of_turn() -> None:
    side = Side()
    call = connected(side)
    side.do(side.agent.update, call, body=NEW)
    for verb in (side.agent.update, side.agent.reoffer):
        with pytest.raises(LocalProtocolError, match="another UPDATE waits"):
            verb(0.0, call, body=NEW)
    unable, _ = side.connected()
    with pytest.raises(LocalProtocolError, match="does not allow UPDATE"):
        side.agent.update(0.0, unable)
    calling, _ = side.calling()
    with pytest.raises(LocalProtocolError, match="cannot update when"):
        side.agent.update(0.0, calling)
    offered = side.offered(call_id="c5", branch="z9hG4bK-c5", headers=("Allow: UPDATE",))
    side.do(side.agent.ring, offered)
    with pytest.raises(LocalProtocolError, match="before the first offer has been answered"):
        side.agent.update(0.0, offered, body=NEW)


def test_an_offer_while_the_peers_waits_is_not_sent() -> None:
    """RFC 3264 section 4: not before the answer to the other side's offer."""
    side = Side()
    call = side.confirmed(headers=("Allow: UPDATE",))
    side.say(update(call, body=NEW))
    for verb in (side.agent.update, side.agent.reoffer):
        with pytest.raises(LocalProtocolError, match="cannot offer when the peer's offer waits"):
            verb(0.0, call, body=OFFER)
    assert side.hear() == []


# --- Early dialogs


@pytest.mark.conformance("RFC 3311", "5.1", "an early dialog whose first offer is answered is changed by UPDATE")
def test_an_update_in_an_early_dialog_waits_beside_the_invite() -> None:
    side = Side()
    call = side.offered(headers=("Require: 100rel",))
    progress = only(side.do(side.agent.ring, call, status=183, body=ANSWER))
    rack = f"RAck: {progress.headers.get('RSeq')} 1 INVITE"
    side.say(request("PRACK", branch="z9hG4bK-p", to_tag=call, cseq=2, headers=(rack,)))
    side.events()
    assert side.say(update(call, 3, body=NEW)) == []
    reoffered = side.event()
    assert isinstance(reoffered, Reoffered)
    with pytest.raises(LocalProtocolError, match="does not wait"):
        side.agent.answer(0.0, call, body=ANSWER, to=replace_method(reoffered.request))
    ok = only(side.do(side.agent.answer, call, body=ANSWER, to=reoffered.request))
    assert (ok.status, ok.cseq.method, ok.body) == (200, "UPDATE", ANSWER)
    answer = only(side.do(side.agent.answer, call, body=ANSWER))
    # The answer was in the reliable response: RFC 3261 section 13.2.1 has it once.
    assert (answer.status, answer.cseq.method, answer.body) == (200, "INVITE", b"")


def replace_method(message: Request) -> Request:
    return Request(method="UPDATE", uri=message.uri, headers=message.headers, body=message.body)


def test_the_invite_may_be_answered_while_an_update_waits() -> None:
    side = Side()
    call = side.offered(headers=("Require: 100rel",))
    progress = only(side.do(side.agent.ring, call, status=183, body=ANSWER))
    rack = f"RAck: {progress.headers.get('RSeq')} 1 INVITE"
    side.say(request("PRACK", branch="z9hG4bK-p", to_tag=call, cseq=2, headers=(rack,)))
    side.say(update(call, 3, body=NEW))
    assert only(side.do(side.agent.answer, call)).cseq.method == "INVITE"
    assert only(side.do(side.agent.answer, call, body=ANSWER)).cseq.method == "UPDATE"


@pytest.mark.conformance("RFC 3311", "5.2", "an offer in an UPDATE before the first offer is answered gets 491 or 500")
@pytest.mark.parametrize(("first", "status"), [(OFFER, 500), (b"", 491)])
def test_an_offer_before_the_first_one_is_answered_is_out_of_turn(first: bytes, status: int) -> None:
    side = Side()
    call = side.offered(body=first)
    side.do(side.agent.ring, call)
    assert statuses(side.say(update(call, body=NEW))) == [status]
    assert side.events() == []


def test_a_called_peer_may_update_its_early_dialog() -> None:
    side = Side()
    call, invite = side.calling()
    reliable = (("Require", "100rel"), ("RSeq", "9"), ("Contact", "<sip:bob@192.0.2.2>"), *ALLOW)
    side.say(invite.response(183, to_tag="b", headers=reliable, body=ANSWER, content_type=SDP).serialise())
    side.events()
    side.say(request("UPDATE", branch="z9hG4bK-u", to_tag=call, from_tag="b", call_id=invite.call_id, cseq=1, body=NEW))
    assert isinstance(side.event(), Reoffered)
    assert only(side.do(side.agent.answer, call, body=ANSWER)).status == 200
    assert only(side.do(side.agent.update, call, body=NEW)).to.tag == "b"


def test_an_answer_to_the_invite_does_not_answer_our_update() -> None:
    """RFC 3261 section 13.2.1: the description in the 2xx is that of the reliable response once more."""
    side = Side()
    call, invite = side.calling()
    reliable = (("Require", "100rel"), ("RSeq", "9"), ("Contact", "<sip:bob@192.0.2.2>"), *ALLOW)
    side.say(invite.response(183, to_tag="b", headers=reliable, body=ANSWER, content_type=SDP).serialise())
    ours = only(side.do(side.agent.update, call, body=NEW))
    side.say(accept(invite))
    with pytest.raises(LocalProtocolError):
        side.agent.reoffer(side.now, call, body=NEW)
    side.say(agree(ours))
    _, first, second = side.events()
    assert isinstance(first, Answered)
    assert isinstance(second, Answered)
    assert [event.response.cseq.method for event in (first, second)] == ["INVITE", "UPDATE"]
    side.do(side.agent.reoffer, call, body=OFFER)


def test_a_refresh_repeats_what_an_update_has_changed() -> None:
    side = Side(session_expires_s=600)
    call = connected(side)
    side.say(agree(only(side.do(side.agent.update, call, body=NEW))))
    refused = next(message for message in side.wait(300) if isinstance(message, Request))
    side.say(respond(refused, 405, tag=None))
    # Any response shows that the peer is there, since it knows no session timers; the next refresh is no UPDATE.
    refresh = next(message for message in side.wait(300) if isinstance(message, Request))
    assert (refresh.method, refresh.body) == ("INVITE", NEW)


# --- Changes that cross


@pytest.mark.conformance(
    "RFC 3261", "14.1", "after 491 who owns the Call-ID tries again in 2.1 to 4 s, the other in 0 to 2 s"
)
@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize("verb", ["reoffer", "update"])
def test_a_change_that_crosses_the_peers_is_sent_again_after_the_pause(ours: bool, verb: str) -> None:
    pauses = set()
    for _ in range(40):
        side = Side()
        for _ in range(len(pauses)):
            side.agent._identity.random.random()
        call = connected(side) if ours else side.confirmed(headers=("Allow: UPDATE",))
        first = only(side.do(getattr(side.agent, verb), call, body=NEW, headers=[("X-A", "b")]))
        side.say(respond(first, 491, tag=None))
        assert side.events() == []
        at = side.agent.wake_at()
        again = only([message for message in side.wait(4.0) if isinstance(message, Request)][:1])
        assert (again.method, again.body, again.headers.get("X-A")) == (first.method, NEW, "b")
        assert again.cseq.number == first.cseq.number + 1
        assert again.via.branch != first.via.branch
        (sent_at,) = {when for when, message, _ in side.sent if message is again}
        assert at is not None
        pauses.add(round(sent_at, 6))
        side.say(agree(again))
        assert isinstance(side.event(), Answered)
    low, high = (2.1, 4.0) if ours else (0.0, 2.0)
    assert low <= min(pauses) <= max(pauses) <= high
    assert all(round(pause * 100, 3) == int(round(pause * 100, 3)) for pause in pauses)
    assert len(pauses) > 10


def test_a_change_is_sent_again_after_the_peers_own_is_done() -> None:
    side = Side()
    call = connected(side)
    first = only(side.do(side.agent.reoffer, call, body=NEW))
    side.say(respond(first, 491, tag=None))
    invite: dict[str, Any] = {"from_tag": "b", "call_id": first.call_id, "cseq": 1}
    side.say(request("INVITE", branch="z9hG4bK-i", to_tag=call, **invite))
    assert isinstance(side.event(), Reoffered)
    side.wait(10)
    assert side.agent.counters().requests_sent["INVITE"] == 2
    side.do(side.agent.answer, call, body=ANSWER)
    side.say(request("ACK", branch="z9hG4bK-a", to_tag=call, **invite))
    again = only(side.wait(0.5))
    assert (again.method, again.body) == ("INVITE", NEW)


def test_a_change_that_is_withdrawn_is_not_sent_again() -> None:
    side = Side()
    call = connected(side)
    first = only(side.do(side.agent.reoffer, call, body=NEW))
    side.say(respond(first, 491, tag=None))
    side.do(side.agent.withdraw, call)
    assert side.wait(10) == []
    second = only(side.do(side.agent.reoffer, call, body=NEW))
    side.do(side.agent.withdraw, call)
    side.say(respond(second, 491, tag=None))
    assert isinstance(side.event(), Refused)
    assert side.wait(10) == []


def test_another_change_takes_the_place_of_one_that_waits() -> None:
    side = Side()
    call = connected(side)
    side.say(respond(only(side.do(side.agent.reoffer, call, body=NEW)), 491, tag=None))
    second = only(side.do(side.agent.update, call, body=OFFER))
    side.say(agree(second))
    assert isinstance(side.event(), Answered)
    assert side.wait(10) == []


def test_a_change_that_crosses_for_ever_is_refused_in_the_end() -> None:
    side = Side()
    call = connected(side)
    latest = only(side.do(side.agent.reoffer, call, body=NEW))
    for _ in range(7):
        side.say(respond(latest, 491, tag=None))
        assert side.events() == []
        latest = next(message for message in side.wait(4.0) if isinstance(message, Request))
    side.say(respond(latest, 491, tag=None))
    refused = side.event()
    assert isinstance(refused, Refused)
    assert refused.response.status == 491
    assert side.wait(10) == []


def test_a_call_that_ends_drops_the_change_that_waits() -> None:
    side = Side()
    call = connected(side)
    side.say(respond(only(side.do(side.agent.reoffer, call, body=NEW)), 491, tag=None))
    bye = only(side.do(side.agent.bye, call))
    side.say(respond(bye, 200, tag=None))
    side.assert_clean()
    assert side.agent.counters().requests_sent == {"INVITE": 2, "ACK": 1, "BYE": 1}


# --- Delayed offer


@pytest.mark.conformance("RFC 3261", "13.2.2.4", "the ACK to a 2xx with an offer carries the answer")
@pytest.mark.parametrize("again", [False, True])
def test_the_host_answers_the_offer_of_a_2xx_in_the_ack(again: bool) -> None:
    side = Side()
    if again:
        call, _ = side.connected()
        invite = only(side.do(side.agent.reoffer, call))
    else:
        call = side.agent.invite(0.0, BOB, FLOW, from_=ALICE)
        invite = only(side.hear())
    assert (invite.body, invite.headers.get("Content-Type")) == (b"", None)
    ok = accept(invite)
    assert side.say(ok) == []
    answered = side.event()
    assert isinstance(answered, Answered)
    assert (answered.offer, answered.response.body) == (True, ANSWER)
    assert side.say(ok) == []
    ack = only(side.do(side.agent.acknowledge, call, body=NEW))
    assert (ack.method, ack.body, ack.content_type, ack.cseq.number) == ("ACK", NEW, SDP, invite.cseq.number)
    assert only(side.say(ok)) == ack
    assert only(side.do(side.agent.reoffer, call, body=NEW)).method == "INVITE"


@pytest.mark.conformance("RFC 3261", "13.2.2.4", "an offer in a 2xx that cannot be answered gets ACK and BYE")
def test_an_offer_that_the_host_leaves_unanswered_gets_ack_and_bye_in_time() -> None:
    side = Side()
    call = side.agent.invite(0.0, BOB, FLOW, from_=ALICE)
    side.say(accept(only(side.hear())))
    side.events()
    ack, bye = side.wait(16)
    assert (ack.method, ack.body, bye.method) == ("ACK", b"", "BYE")  # type: ignore[union-attr]
    assert side.event() == Ended(call=call, cause=Cause.NO_SDP, status=None, reason="")
    side.say(respond(bye, 200, tag=None))  # type: ignore[arg-type]
    side.assert_clean()


def test_hanging_up_instead_of_answering_the_offer_acknowledges_it() -> None:
    side = Side()
    call = side.agent.invite(0.0, BOB, FLOW, from_=ALICE)
    side.say(accept(only(side.hear())))
    side.events()
    ack, bye = side.do(side.agent.bye, call)
    assert (ack.method, bye.method) == ("ACK", "BYE")  # type: ignore[union-attr]
    assert isinstance(side.event(), Ended)


def test_a_bye_instead_of_waiting_for_the_answer_ends_the_call() -> None:
    side = Side()
    call = side.agent.invite(0.0, BOB, FLOW, from_=ALICE)
    invite = only(side.hear())
    side.say(accept(invite))
    side.events()
    bye = request("BYE", branch="z9hG4bK-b", to_tag=call, from_tag="b", call_id=invite.call_id)
    assert [message.method if isinstance(message, Request) else message.status for message in side.say(bye)] == [
        200,
        "ACK",
    ]
    assert isinstance(side.event(), Ended)
    side.assert_clean()


def test_an_offer_that_crossed_the_cancel_gets_ack_and_bye() -> None:
    side = Side()
    call = side.agent.invite(0.0, BOB, FLOW, from_=ALICE)
    invite = only(side.hear())
    side.do(side.agent.cancel, call)
    ack, bye = side.say(accept(invite))
    assert (ack.method, bye.method) == ("ACK", "BYE")  # type: ignore[union-attr]
    ended = side.event()
    assert isinstance(ended, Ended)
    assert ended.cause is Cause.LOCAL_CANCEL
