"""Requests that are neither INVITE, BYE, CANCEL nor OPTIONS, of ours and of the peer's, within and outside of calls."""

from __future__ import annotations

from typing import Any

import pytest

from sip import Cause, Ended, LocalProtocolError, Request, Requested, Responded

from .test_sip_agent import ALICE, ALLOWED, BOB, FLOW, Side, only, request, respond, statuses

SERVED: dict[str, Any] = {
    "serve_within": {"INFO": ("application/dtmf-relay",), "REFER": ()},
    "serve_outside": {"MESSAGE": ("text/plain",)},
}


def within(method: str, call: str, cseq: int = 2, **arguments: Any) -> bytes:
    return request(method, branch=f"z9hG4bK-{method}{cseq}", to_tag=call, cseq=cseq, **arguments)


# --- Of ours


def test_a_request_outside_of_a_dialog_is_whole_and_its_response_comes_back() -> None:
    side = Side(product="box/1")
    key = side.agent.request(0.0, "MESSAGE", BOB, FLOW, from_=ALICE, body=b"hi", content_type="text/plain")
    message = only(side.hear())
    assert (message.method, str(message.uri)) == ("MESSAGE", "sip:bob@192.0.2.2")
    assert (message.body, message.content_type) == (b"hi", "text/plain")
    assert (message.max_forwards, str(message.cseq), message.to.tag, message.contacts) == (70, "1 MESSAGE", "", ())
    assert message.from_.tag
    assert message.headers.get("User-Agent") == "box/1"
    assert side.say(respond(message, 100)) == []
    assert side.events() == []
    side.say(respond(message, 202))
    responded = side.event()
    assert isinstance(responded, Responded)
    assert responded.response is not None
    assert (responded.request, responded.call, responded.response.status) == (key, None, 202)
    side.assert_clean()


def test_a_registration_keeps_its_call_id_and_tag_and_counts_on() -> None:
    """RFC 3261 section 10.2.4."""
    side = Side()
    me = ALICE.with_tag("mine")
    contact = ("Contact", side.agent.contact(FLOW))
    for seq in (1, 2):
        side.agent.request(0.0, "REGISTER", BOB, FLOW, from_=me, to=ALICE, headers=[contact], call_id="c9", seq=seq)
        register = only(side.hear())
        assert (register.from_.tag, register.call_id, register.cseq.number) == ("mine", "c9", seq)
        assert str(register.to.uri) == "sip:alice@192.0.2.1"
        assert str(register.contact) == "<sip:192.0.2.1:5060>"


def test_a_request_that_nobody_answers_comes_back_without_a_response() -> None:
    """RFC 3261 section 17.1.2.2: timer F."""
    side = Side()
    key = side.agent.request(0.0, "OPTIONS", BOB, FLOW, from_=ALICE)
    side.wait(31.9)
    assert side.events() == []
    side.wait(0.1)
    assert side.event() == Responded(request=key, call=None, seq=1, response=None)
    side.assert_clean()


def test_a_request_within_a_call_belongs_to_its_dialog() -> None:
    side = Side()
    call = side.confirmed(headers=("Record-Route: <sip:192.0.2.7;lr>",))
    keys = [side.agent.request_within(0.0, call, method) for method in ("INFO", "REFER")]
    info, refer = side.hear()
    assert isinstance(info, Request)
    assert isinstance(refer, Request)
    for number, message in enumerate((info, refer), 1):
        assert (message.from_.tag, message.to.tag, message.call_id) == (call, "f", "c1")
        assert message.cseq.number == number
        assert [str(route.uri) for route in message.route] == ["sip:192.0.2.7;lr"]
        assert str(message.uri) == "sip:alice@192.0.2.2"
    # RFC 3515 section 2.2 wants a Contact; INFO has none (RFC 6086 section 5.2.1).
    assert (str(refer.contact), info.contact) == ("<sip:192.0.2.1:5060>", None)
    side.say(respond(refer, 202, tag=None))
    side.say(respond(info, 415, tag=None))
    seen = [(event.request, event.call, event.response.status) for event in side.events()]  # type: ignore[union-attr]
    assert seen == [(keys[1], call, 202), (keys[0], call, 415)]


@pytest.mark.parametrize("status", [481, 408])
def test_a_peer_that_knows_the_call_no_more_ends_it(status: int) -> None:
    """RFC 3261 section 12.2.1.2."""
    side = Side()
    call, _ = side.connected()
    side.agent.request_within(0.0, call, "INFO")
    assert only(side.say(respond(only(side.hear()), status, tag=None))).method == "BYE"
    responded, ended = side.events()
    assert isinstance(responded, Responded)
    assert isinstance(ended, Ended)
    assert (ended.call, ended.cause, ended.status) == (call, Cause.LOST, status)


@pytest.mark.parametrize("status", [481, 408])
def test_a_peer_that_knows_the_subscription_no_more_does_not_end_the_call(status: int) -> None:
    """RFC 5057 section 5.1."""
    side = Side()
    call, _ = side.connected()
    side.agent.request_within(0.0, call, "NOTIFY")
    assert side.say(respond(only(side.hear()), status, tag=None)) == []
    assert isinstance(side.event(), Responded)


def test_a_peer_that_is_silent_to_a_request_within_the_call_ends_it() -> None:
    side = Side()
    call, _ = side.connected()
    key = side.agent.request_within(0.0, call, "INFO")
    side.wait(32)
    assert side.events() == [
        Responded(request=key, call=call, seq=2, response=None),
        Ended(call=call, cause=Cause.LOST, status=408, reason="Request Timeout"),
    ]
    side.assert_clean()


def test_what_was_asked_within_a_call_is_over_with_the_call() -> None:
    side = Side()
    call, _ = side.connected()
    key = side.agent.request_within(0.0, call, "INFO")
    info = only(side.hear())
    side.do(side.agent.bye, call)
    assert side.events() == [
        Responded(request=key, call=call, seq=None, response=None),
        Ended(call=call, cause=Cause.LOCAL_BYE, status=None, reason=""),
    ]
    assert side.say(respond(info, 200, tag=None)) == []
    assert side.events() == []
    side.assert_clean()


@pytest.mark.parametrize("method", ["INVITE", "ACK", "BYE", "CANCEL"])
def test_methods_with_a_verb_of_their_own_are_not_sent_otherwise(method: str) -> None:
    side = Side()
    call, _ = side.connected()
    with pytest.raises(LocalProtocolError, match="not sent so"):
        side.agent.request(0.0, method, BOB, FLOW, from_=ALICE)
    with pytest.raises(LocalProtocolError, match="not sent so"):
        side.agent.request_within(0.0, call, method)


def test_a_request_that_cannot_be_sent_leaves_nothing() -> None:
    side = Side()
    call, _ = side.calling()
    with pytest.raises(LocalProtocolError, match="no dialog yet"):
        side.agent.request_within(0.0, call, "INFO")
    with pytest.raises(LocalProtocolError, match="without a type"):
        side.agent.request(0.0, "MESSAGE", BOB, FLOW, from_=ALICE, body=b"hi")
    assert side.hear() == []


# --- Of the peer's


def test_a_request_within_a_call_is_asked_and_answered_by_the_host() -> None:
    side = Side(**SERVED)
    call = side.confirmed()
    info = within("INFO", call, body=b"Signal=5", content_type="application/dtmf-relay")
    assert side.say(info) == []
    requested = side.event()
    assert isinstance(requested, Requested)
    assert (requested.call, requested.message.method, requested.message.body) == (call, "INFO", b"Signal=5")
    assert requested.flow == FLOW
    assert side.say(info) == []
    assert side.events() == []
    ok = only(side.do(side.agent.respond, requested.request, 200, headers=[("X-Heard", "5")]))
    assert (ok.status, ok.cseq.method, ok.to.tag, ok.headers.get("X-Heard")) == (200, "INFO", call, "5")
    assert statuses(side.say(info)) == [200]
    with pytest.raises(LocalProtocolError, match="has been answered"):
        side.agent.respond(0.0, requested.request, 200)


def test_a_request_outside_of_calls_is_asked_where_the_host_serves_it() -> None:
    side = Side(**SERVED)
    text: dict[str, Any] = {"body": b"hi", "content_type": "text/plain"}
    assert side.say(request("MESSAGE", **text)) == []
    requested = side.event()
    assert isinstance(requested, Requested)
    assert requested.call is None
    # RFC 3261 section 8.2.2.2.
    assert statuses(side.say(request("MESSAGE", branch="z9hG4bK-other", **text))) == [482]
    with pytest.raises(LocalProtocolError, match="no final response"):
        side.agent.respond(0.0, requested.request, 100)
    ok = only(side.do(side.agent.respond, requested.request, 202))
    assert (ok.status, bool(ok.to.tag)) == (202, True)
    side.assert_clean()


def test_what_is_served_is_allowed_and_what_is_not_served_there_gets_405() -> None:
    """RFC 3261 section 21.4.6."""
    side = Side(**SERVED)
    call = side.confirmed()
    assert only(side.say(request("OPTIONS"))).headers.get_all("Allow") == (*ALLOWED, "INFO", "REFER", "MESSAGE")
    outside = only(side.say(request("INFO", branch="z9hG4bK-2")))
    assert (outside.status, outside.headers.get_all("Allow")) == (405, (*ALLOWED, "REFER", "MESSAGE"))
    inside = only(side.say(within("MESSAGE", call, body=b"hi", content_type="text/plain")))
    assert (inside.status, inside.headers.get_all("Allow")) == (405, (*ALLOWED, "INFO", "REFER"))
    assert side.events() == []


def test_a_body_of_a_type_that_the_host_does_not_serve_gets_415() -> None:
    """RFC 3261 section 21.4.13."""
    side = Side(**SERVED)
    call = side.confirmed()
    info = only(side.say(within("INFO", call, body=b"x", content_type="text/plain")))
    assert (info.status, info.headers.get("Accept")) == (415, "application/dtmf-relay")
    message = only(side.say(request("MESSAGE", body=b"x", content_type="text/html")))
    assert (message.status, message.headers.get("Accept")) == (415, "text/plain")
    assert side.events() == []


def test_a_request_for_a_call_that_is_not_there_gets_481_and_an_old_one_500() -> None:
    side = Side(**SERVED)
    call = side.confirmed(cseq=7)
    assert statuses(side.say(within("INFO", "nobody"))) == [481]
    assert statuses(side.say(within("INFO", call, 6))) == [500]
    side.do(side.agent.bye, call)
    assert isinstance(side.event(), Ended)
    assert statuses(side.say(within("INFO", call, 8))) == [481]
    assert side.events() == []


def test_a_request_that_the_host_forgets_gets_500_in_time_and_leaves_nothing() -> None:
    """Before the peer's timer F goes off: RFC 4320 section 4.2."""
    side = Side(**SERVED)
    side.say(request("MESSAGE", body=b"hi", content_type="text/plain"))
    requested = side.event()
    assert isinstance(requested, Requested)
    assert side.wait(15.9) == []
    assert statuses(side.wait(0.1)) == [500]
    with pytest.raises(LocalProtocolError, match="has been answered"):
        side.agent.respond(side.now, requested.request, 200)
    side.assert_clean()


def test_a_request_that_waits_when_its_call_ends_gets_487() -> None:
    """RFC 3261 section 15.1.2."""
    side = Side(**SERVED)
    call = side.confirmed()
    side.say(within("INFO", call))
    assert isinstance(side.event(), Requested)
    answers = side.say(within("BYE", call, 3))
    assert [str(answer.cseq) for answer in answers] == ["3 BYE", "2 INFO"]
    assert statuses(answers) == [200, 487]
    assert isinstance(side.event(), Ended)
    side.assert_clean()


def test_a_refer_says_where_the_peer_is_now() -> None:
    """RFC 3515 section 2.2: it refreshes the target."""
    side = Side(**SERVED)
    call = side.confirmed()
    side.say(within("REFER", call, contact="<sip:alice@192.0.2.99>"))
    requested = side.event()
    assert isinstance(requested, Requested)
    accepted = only(side.do(side.agent.respond, requested.request, 202))
    assert str(accepted.contact) == "<sip:192.0.2.1:5060>"
    assert str(only(side.do(side.agent.bye, call)).uri) == "sip:alice@192.0.2.99"
