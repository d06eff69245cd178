"""Session timers on both sides (RFC 4028)."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from sip import Agent, Answered, Cause, Confirmed, Ended, LocalProtocolError, Reoffered, Request
from sip.session_timer import TIMER_DEADLINES, TIMER_ROWS, TimerDeadline, TimerState

from .test_sip_agent import ANSWER, OFFER, SDP, Side, only, request, respond, statuses

TIMER = "Supported: timer"
ALLOW = "Allow: INVITE, ACK, BYE, UPDATE"
NEW = b"v=0 new"


def expires(message: Any) -> str | None:
    value: str | None = message.headers.get("Session-Expires")
    return value


def answer(side: Side, *headers: str) -> tuple[str, Any]:
    """A call of the peer's that is up, and our 200."""
    call = side.offered(headers=headers)
    ok = only(side.do(side.agent.answer, call, body=ANSWER))
    side.say(request("ACK", branch="z9hG4bK-ack", to_tag=call))
    assert isinstance(side.event(), Confirmed)
    return call, ok


def answered(side: Side, *fields: tuple[str, str]) -> tuple[str, Request]:
    """A call of ours that is up, and our INVITE."""
    call, invite = side.calling()
    said = (("Contact", "<sip:bob@192.0.2.2>"), *fields)
    side.say(invite.response(200, to_tag="b", headers=said, body=ANSWER, content_type=SDP).serialise())
    assert isinstance(side.event(), Answered)
    return call, invite


def next_request(side: Side, seconds: float) -> tuple[float, Request]:
    """The first request that goes out in that time, and when; time stands still then."""
    end = side.now + seconds
    while (at := side.agent.wake_at()) is not None and at <= end:
        side.now = at
        side.agent.handle_timer(at)
        for message in side.hear():
            if isinstance(message, Request):
                return at, message
    raise AssertionError("no request")


# --- The table


def test_every_state_of_a_session_timer_can_be_switched_off() -> None:
    for state in TimerState:
        assert TimerState.OFF in {to for (at, _), to in TIMER_ROWS.items() if at is state}


def test_every_deadline_of_a_session_timer_has_a_row_in_every_state_that_it_runs_in() -> None:
    running = {(state, deadline) for state, deadlines in TIMER_DEADLINES.items() for deadline in deadlines}
    assert running == {(state, what) for state, what in TIMER_ROWS if isinstance(what, TimerDeadline)}


# --- Being called


@pytest.mark.conformance(
    "RFC 4028", "9", "an interval below Min-SE gets 422 with Min-SE, from a caller that knows timers"
)
@pytest.mark.parametrize("method", ["INVITE", "UPDATE", "re-INVITE"])
def test_too_short_an_interval_gets_422(method: str) -> None:
    side = Side(min_se_s=120)
    brief = ("Session-Expires: 119", TIMER)
    if method == "INVITE":
        refusal = only(side.say(request("INVITE", headers=brief)))
    else:
        call = side.confirmed()
        refusal = only(
            side.say(request(method[-6:], branch="z9hG4bK-2", to_tag=call, cseq=2, headers=brief, body=OFFER))
        )
    assert (refusal.status, refusal.headers.get("Min-SE")) == (422, "120")
    assert side.events() == []


def test_a_change_that_is_refused_for_its_interval_is_refused_so_again() -> None:
    """The refusal is stateless (RFC 3261 section 8.2.7), and may be lost; it uses up no CSeq number."""
    side = Side()
    call = side.confirmed()
    brief = request("INVITE", branch="z9hG4bK-2", to_tag=call, cseq=2, headers=("Session-Expires: 60", TIMER))
    assert statuses(side.say(brief)) == [422]
    assert statuses(side.say(brief)) == [422]


def test_a_caller_that_knows_no_timers_is_not_refused_for_what_its_proxy_asks() -> None:
    side = Side(min_se_s=120)
    _, ok = answer(side, "Session-Expires: 100")
    assert expires(ok) == "100;refresher=uas"
    _, ok = answer(Side(), "Session-Expires: 5")
    assert expires(ok) == "1800;refresher=uas"


@pytest.mark.conformance(
    "RFC 4028", "9", "the 2xx says interval and refresher, and requires timer of a caller that refreshes"
)
@pytest.mark.parametrize(
    ("asked", "said", "required"),
    [
        (("Session-Expires: 600;refresher=uac", TIMER), "600;refresher=uac", ("timer",)),
        (("Session-Expires: 600;refresher=uas", TIMER), "600;refresher=uas", ()),
        (("x: 600", TIMER), "600;refresher=uas", ()),
        (("Session-Expires: 4000;refresher=uac", TIMER), "1800;refresher=uac", ("timer",)),
        (("Session-Expires: 4000", "Min-SE: 3000", TIMER), "3000;refresher=uas", ()),
        (("Session-Expires: 600;refresher=uac",), "600;refresher=uas", ()),
        ((TIMER,), "1800;refresher=uas", ()),
        ((), "1800;refresher=uas", ()),
        (("Session-Expires: soon",), "1800;refresher=uas", ()),
    ],
)
def test_the_200_settles_who_refreshes(asked: tuple[str, ...], said: str, required: tuple[str, ...]) -> None:
    _, ok = answer(Side(), *asked)
    assert (expires(ok), ok.require) == (said, required)


def test_without_a_timer_of_our_own_the_peer_has_its_wish_and_no_more() -> None:
    _, ok = answer(Side(session_expires_s=0), TIMER)
    assert expires(ok) is None
    _, ok = answer(Side(session_expires_s=0), TIMER, "Session-Expires: 4000;refresher=uac")
    assert expires(ok) == "4000;refresher=uac"


@pytest.mark.conformance(
    "RFC 4028", "10", "the refresher refreshes at half the interval, by UPDATE where that is allowed"
)
def test_we_refresh_at_half_the_interval_by_update() -> None:
    side = Side()
    answer(side, "Session-Expires: 600;refresher=uas", TIMER, ALLOW)
    at, update = next_request(side, 300)
    assert (at, update.method, update.body) == (300.0, "UPDATE", b"")
    assert expires(update) == "600;refresher=uac"
    assert str(update.contact) == "<sip:192.0.2.1:5060>"
    said = (("Session-Expires", "600;refresher=uac"), ("Require", "timer"))
    side.say(respond(update, 200, tag=None, headers=said))
    at, update = next_request(side, 300)
    assert (at, update.method) == (600.0, "UPDATE")
    assert side.events() == []


@pytest.mark.conformance("RFC 4028", "7.4", "a refresh by re-INVITE repeats the description as it was")
def test_we_refresh_by_reinvite_with_the_same_description() -> None:
    side = Side()
    call, _ = answer(side, "Session-Expires: 600;refresher=uas", TIMER)
    at, invite = next_request(side, 300)
    assert (at, invite.method, invite.body, invite.content_type) == (300.0, "INVITE", ANSWER, SDP)
    said = (("Session-Expires", "600;refresher=uac"), ("Contact", "<sip:alice@192.0.2.2>"))
    ok = invite.response(200, headers=said, body=OFFER, content_type=SDP).serialise()
    assert only(side.say(ok)).method == "ACK"
    assert side.events() == []
    side.say(respond(only(side.do(side.agent.reoffer, call, body=NEW)), 488, tag=None))
    side.events()
    at, again = next_request(side, 300)
    assert (at, again.body) == (600.0, ANSWER)


def test_a_description_that_a_refresh_brings_is_told_once_if_it_is_another_one() -> None:
    side = Side()
    call, _ = answer(side, "Session-Expires: 600;refresher=uas", TIMER)
    told = []
    for body in (OFFER, NEW, NEW, b"", OFFER):
        _, invite = next_request(side, 300)
        said = (("Session-Expires", "600;refresher=uac"), ("Contact", "<sip:alice@192.0.2.2>"))
        response = invite.response(200, headers=said, body=body, content_type=SDP)
        assert only(side.say(response.serialise())).method == "ACK"
        told.append([(type(event), event.call, event.response.body) for event in side.events()])
    assert told == [[], [(Answered, call, NEW)], [], [], [(Answered, call, OFFER)]]


@pytest.mark.conformance(
    "RFC 4028", "10", "who does not refresh hangs up min(32 s, a third) before the interval is over"
)
@pytest.mark.parametrize(("interval_s", "at"), [(600, 568.0), (90, 60.0)])
def test_a_session_that_the_peer_does_not_refresh_ends(interval_s: int, at: float) -> None:
    side = Side()
    call, _ = answer(side, f"Session-Expires: {interval_s};refresher=uac", TIMER)
    when, bye = next_request(side, interval_s)
    assert (when, bye.method) == (at, "BYE")
    assert side.event() == Ended(call=call, cause=Cause.EXPIRED, status=None, reason="")
    side.assert_clean()


@pytest.mark.parametrize("method", ["UPDATE", "INVITE"])
def test_a_refresh_of_the_peers_starts_the_interval_again(method: str) -> None:
    side = Side()
    call, _ = answer(side, "Session-Expires: 600;refresher=uac", TIMER)
    side.wait(300)
    headers = ("Session-Expires: 600;refresher=uac", TIMER)
    body = OFFER if method == "INVITE" else b""
    messages = side.say(request(method, branch="z9hG4bK-r", to_tag=call, cseq=2, headers=headers, body=body))
    if method == "INVITE":
        assert isinstance(side.event(), Reoffered)
        messages = side.do(side.agent.answer, call, body=ANSWER)
        side.say(request("ACK", branch="z9hG4bK-a", to_tag=call, cseq=2))
    assert (statuses(messages), expires(messages[-1])) == ([200], "600;refresher=uac")
    side.events()
    at, bye = next_request(side, 600)
    assert (at, bye.method) == (868.0, "BYE")


def test_a_refresh_that_leaves_the_refresher_open_changes_nothing() -> None:
    side = Side()
    call, _ = answer(side, "Session-Expires: 600;refresher=uac", TIMER)
    headers = ("Session-Expires: 600", TIMER)
    ok = only(side.say(request("UPDATE", branch="z9hG4bK-r", to_tag=call, cseq=2, headers=headers)))
    assert expires(ok) == "600;refresher=uac"


# --- Calling


@pytest.mark.conformance(
    "RFC 4028", "7.1", "an INVITE supports timer and asks for an interval, with Min-SE if that is above 90"
)
def test_our_invite_asks_for_an_interval() -> None:
    _, invite = Side().calling()
    assert ("timer" in invite.supported, expires(invite), invite.headers.get("Min-SE")) == (True, "1800", None)
    _, invite = Side(session_expires_s=400, min_se_s=200).calling()
    assert (expires(invite), invite.headers.get("Min-SE")) == ("400", "200")
    _, invite = Side(session_expires_s=0).calling()
    assert ("timer" in invite.supported, expires(invite)) == (True, None)


@pytest.mark.conformance("RFC 4028", "7.3", "after 422 the request is sent again with the Min-SE of the response")
def test_an_invite_that_gets_422_is_sent_again_with_the_interval_asked_for() -> None:
    side = Side(session_expires_s=100)
    call, invite = side.calling()
    ack, again = side.say(respond(invite, 422, headers=(("Min-SE", "300"),)))
    assert isinstance(ack, Request)
    assert isinstance(again, Request)
    assert (ack.method, again.method, again.body) == ("ACK", "INVITE", OFFER)
    assert (expires(again), again.headers.get("Min-SE")) == ("300", "300")
    assert (again.call_id, again.from_.tag, again.cseq.number) == (invite.call_id, call, 2)
    assert again.via.branch != invite.via.branch
    assert side.events() == []
    side.say(respond(again, 180))
    assert only(side.do(side.agent.cancel, call)).via.branch == again.via.branch


def test_a_422_that_asks_for_nothing_more_refuses_the_call() -> None:
    side = Side()
    call, invite = side.calling()
    assert len(side.say(respond(invite, 422, headers=(("Min-SE", "90"),)))) == 1
    assert side.event() == Ended(call=call, cause=Cause.REMOTE_REJECT, status=422, reason="Session Interval Too Small")
    side.assert_clean()


def test_an_invite_that_gets_422_after_ringing_calls_again() -> None:
    side = Side()
    call, invite = side.calling()
    side.say(respond(invite, 180))
    _, again = side.say(respond(invite, 422, headers=(("Min-SE", "3000"),)))
    # RFC 3261 section 9.1: no CANCEL before a provisional response to this one.
    assert side.do(side.agent.cancel, call) == []
    assert isinstance(again, Request)
    cancel = only(side.say(respond(again, 180)))
    assert (cancel.method, cancel.cseq.number) == ("CANCEL", 2)


@pytest.mark.conformance("RFC 4028", "7.2", "the 2xx says who refreshes")
@pytest.mark.parametrize(
    ("said", "at", "method"),
    [
        ("600;refresher=uac", 300.0, "UPDATE"),
        ("600;refresher=uas", 568.0, "BYE"),
        ("600", 300.0, "UPDATE"),
        ("1;refresher=uac", 45.0, "UPDATE"),
    ],
)
def test_the_answer_settles_who_refreshes(said: str, at: float, method: str) -> None:
    side = Side()
    answered(side, ("Session-Expires", said), ("Allow", "UPDATE"))
    when, message = next_request(side, 600)
    assert (when, message.method) == (at, method)


def test_to_a_peer_that_knows_no_timers_we_refresh_alone_and_take_any_response_for_life() -> None:
    side = Side()
    answered(side)
    for number in (1, 2, 3):
        at, invite = next_request(side, 900)
        assert (at, invite.method, invite.body) == (900.0 * number, "INVITE", OFFER)
        side.say(respond(invite, 488, tag=None))
    assert side.events() == []


def test_a_peer_that_knows_no_timers_and_is_gone_is_hung_up_on() -> None:
    side = Side()
    call, _ = answered(side)
    side.wait(932)
    assert side.event() == Ended(call=call, cause=Cause.LOST, status=408, reason="Request Timeout")


# --- Refreshes that fail


@pytest.mark.parametrize("status", [408, 481])
def test_a_refresh_that_finds_no_call_ends_it(status: int) -> None:
    """RFC 4028 section 10."""
    side = Side()
    call, _ = answered(side, ("Session-Expires", "600;refresher=uac"), ("Allow", "UPDATE"))
    _, update = next_request(side, 300)
    assert only(side.say(respond(update, status, tag=None))).method == "BYE"
    ended = side.event()
    assert isinstance(ended, Ended)
    assert (ended.call, ended.cause) == (call, Cause.LOST)


@pytest.mark.conformance("RFC 4028", "10", "a session whose refreshes are all refused ends with its interval")
def test_a_refused_refresh_is_tried_again_until_the_session_ends() -> None:
    side = Side()
    call, _ = answered(side, ("Session-Expires", "90;refresher=uac"), ("Allow", "UPDATE"))
    for at in (45.0, 55.0, 65.0, 75.0, 85.0):
        when, update = next_request(side, 90)
        assert (when, update.method) == (at, "UPDATE")
        side.say(respond(update, 500, tag=None))
        assert side.events() == []
    when, bye = next_request(side, 90)
    assert (when, bye.method) == (90.0, "BYE")
    assert side.event() == Ended(call=call, cause=Cause.EXPIRED, status=None, reason="")


def test_a_refresh_that_gets_422_is_sent_again_with_the_interval_asked_for() -> None:
    side = Side()
    answered(side, ("Session-Expires", "600;refresher=uac"), ("Allow", "UPDATE"))
    _, update = next_request(side, 300)
    again = only(side.say(respond(update, 422, tag=None, headers=(("Min-SE", "1000"),))))
    assert (again.method, expires(again), again.headers.get("Min-SE")) == ("UPDATE", "1000;refresher=uac", "1000")
    side.say(respond(again, 200, tag=None, headers=(("Session-Expires", "1000;refresher=uac"),)))
    at, _ = next_request(side, 500)
    assert at == 800.0


def test_a_peer_that_does_not_allow_update_after_all_gets_a_reinvite() -> None:
    side = Side()
    answered(side, ("Session-Expires", "600;refresher=uac"), ("Allow", "UPDATE"))
    _, update = next_request(side, 300)
    side.say(respond(update, 405, tag=None))
    at, invite = next_request(side, 1)
    assert (at, invite.method, invite.body) == (300.5, "INVITE", OFFER)


def test_a_refresh_that_crosses_the_peers_change_is_tried_again() -> None:
    side = Side()
    answered(side, ("Session-Expires", "600;refresher=uac"))
    _, invite = next_request(side, 300)
    side.say(respond(invite, 491, tag=None))
    at, again = next_request(side, 4)
    assert 302.1 <= at <= 304.0
    assert again.body == OFFER
    assert side.events() == []


def test_a_refresh_waits_for_what_is_under_way() -> None:
    side = Side()
    call, _ = answer(side, "Session-Expires: 600;refresher=uas", TIMER, ALLOW)
    side.wait(299)
    side.say(request("INVITE", branch="z9hG4bK-r", to_tag=call, cseq=2, body=NEW))
    assert [message for message in side.wait(10) if isinstance(message, Request)] == []
    side.do(side.agent.reject, call, status=488)
    _, update = next_request(side, 4)
    assert update.method == "UPDATE"


def test_a_change_that_the_host_wants_during_a_refresh_follows_it() -> None:
    side = Side()
    call, _ = answered(side, ("Session-Expires", "600;refresher=uac"))
    _, refresh = next_request(side, 300)
    assert side.do(side.agent.reoffer, call, body=NEW) == []
    said = (("Session-Expires", "600;refresher=uac"), ("Contact", "<sip:bob@192.0.2.2>"))
    side.say(refresh.response(200, headers=said, body=ANSWER, content_type=SDP).serialise())
    assert side.events() == []
    _, change = next_request(side, 1)
    assert (change.method, change.body, expires(change)) == ("INVITE", NEW, "600;refresher=uac")
    assert side.events() == []
    side.say(change.response(200, headers=said, body=ANSWER, content_type=SDP).serialise())
    assert isinstance(side.event(), Answered)


@pytest.mark.parametrize("refresh", ["UPDATE", "INVITE"])
def test_a_call_that_ends_during_a_refresh_leaves_nothing(refresh: str) -> None:
    side = Side()
    call, _ = answered(
        side, ("Session-Expires", "600;refresher=uac"), *([("Allow", "UPDATE")] if refresh == "UPDATE" else [])
    )
    assert next_request(side, 300)[1].method == refresh
    side.do(side.agent.bye, call)
    assert isinstance(side.event(), Ended)
    side.assert_clean()


# --- The arguments


@pytest.mark.conformance("RFC 4028", "5", "Min-SE is never below 90 seconds")
@pytest.mark.parametrize(
    "arguments", [{"min_se_s": 89}, {"session_expires_s": 80}, {"session_expires_s": 99, "min_se_s": 100}]
)
def test_intervals_that_must_not_be_are_our_mistake(arguments: dict[str, int]) -> None:
    with pytest.raises(LocalProtocolError, match="min_se_s"):
        Agent(random=Random(1), **arguments)  # type: ignore[arg-type]


def test_deadlines_far_away_keep_nothing_alive() -> None:
    """Calls that have ended leave no trace in the schedule, long before their session would have."""
    side = Side()
    for _ in range(3000):
        call, _ = answered(side)
        bye = only(side.do(side.agent.bye, call))
        side.say(respond(bye, 200, tag=None))
        side.events()
        side.sent.clear()
        side.wait(0.1)
    assert len(side.agent._schedule) < 3000
    side.assert_clean()
