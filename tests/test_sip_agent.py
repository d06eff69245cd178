"""The user agent: one rule, one test, on the bytes of the wire and in virtual time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sip import (
    Admission,
    Agent,
    Answered,
    Cause,
    Confirmed,
    Ended,
    Event,
    Flow,
    LocalProtocolError,
    NameAddr,
    Offered,
    Progressed,
    Refused,
    Reoffered,
    Request,
    Response,
    Uri,
    Withdrawn,
    parse_datagram,
)
from sip.call import CALL_DEADLINES, CALL_ROWS, CallState, Deadline, Do

US = ("192.0.2.1", 5060)
PEER = ("192.0.2.2", 5060)
FLOW = Flow("UDP", US, PEER)
OFFER = b"v=0 offer"
ANSWER = b"v=0 answer"
SDP = "application/sdp"
ALICE = NameAddr(uri=Uri.parse("sip:alice@192.0.2.1"))
BOB = Uri.parse("sip:bob@192.0.2.2")
ALLOWED = ("ACK", "INVITE", "BYE", "CANCEL", "OPTIONS", "PRACK", "UPDATE")
REPEATS = [0.0, 0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5]


class Side:
    """One agent, whose peer is the test: it says bytes, and hears what the agent sends."""

    def __init__(self, **arguments: Any) -> None:
        self.agent = Agent(random=Random(7), **arguments)
        self.now = 0.0
        self.sent: list[tuple[float, Request | Response, Flow]] = []

    def say(self, data: bytes, flow: Flow = FLOW) -> list[Request | Response]:
        """The peer says `data`; returns what the agent sends at once."""
        self.agent.receive(data, flow, self.now)
        return self.hear()

    def hear(self) -> list[Request | Response]:
        new = [(self.now, parse_datagram(data), flow) for data, flow in self.agent.data_to_send()]
        self.sent += new
        return [message for _, message, _ in new]

    def do(self, verb: Callable[..., Any], *arguments: Any, **named: Any) -> list[Request | Response]:
        """The host uses a verb; returns what the agent sends at once."""
        verb(self.now, *arguments, **named)
        return self.hear()

    def wait(self, seconds: float) -> list[Request | Response]:
        """Time passes, every timer going off at its very moment."""
        end = self.now + seconds
        heard = []
        while (at := self.agent.wake_at()) is not None and at <= end:
            self.now = at
            self.agent.handle_timer(at)
            heard += self.hear()
        self.now = end
        return heard

    def events(self) -> list[Event]:
        return list(iter(self.agent.next_event, None))

    def event(self) -> Event:
        (event,) = self.events()
        return event

    # What most tests begin with.

    def offered(self, **arguments: Any) -> str:
        self.say(request("INVITE", **arguments))
        event = self.event()
        assert isinstance(event, Offered)
        return event.call

    def answered(self, **arguments: Any) -> str:
        call = self.offered(**arguments)
        self.do(self.agent.answer, call, body=ANSWER)
        return call

    def confirmed(self, **arguments: Any) -> str:
        """A call of the peer's that is up."""
        call = self.answered(**arguments)
        same = {name: arguments[name] for name in ("call_id", "cseq") if name in arguments}
        self.say(request("ACK", branch="z9hG4bK-ack", to_tag=call, **same))
        assert isinstance(self.event(), Confirmed)
        return call

    def calling(self, **arguments: Any) -> tuple[str, Request]:
        call = self.agent.invite(self.now, BOB, FLOW, from_=ALICE, body=OFFER, **arguments)
        (invite,) = self.hear()
        assert isinstance(invite, Request)
        return call, invite

    def connected(self, **arguments: Any) -> tuple[str, Request]:
        """A call of ours that is up."""
        call, invite = self.calling(**arguments)
        self.say(accept(invite))
        assert isinstance(self.event(), Answered)
        return call, invite

    def assert_clean(self) -> None:
        """In time, nothing is left of anything."""
        self.wait(300)
        counters = self.agent.counters()
        assert (counters.calls, counters.dialogs, counters.transactions) == (0, 0, 0)
        assert self.agent.wake_at() is None


def request(
    method: str,
    *,
    branch: str = "z9hG4bK-1",
    to_tag: str = "",
    from_tag: str = "f",
    call_id: str = "c1",
    cseq: int = 1,
    uri: str = "sip:bob@192.0.2.1",
    via: str = "192.0.2.2",
    contact: str = "<sip:alice@192.0.2.2>",
    headers: tuple[str, ...] = (),
    body: bytes | None = None,
    content_type: str = SDP,
    version: str = "SIP/2.0",
) -> bytes:
    """A request of the peer's."""
    if body is None:
        body = OFFER if method == "INVITE" else b""
    lines = [
        f"{method} {uri} {version}",
        f"Via: SIP/2.0/UDP {via};branch={branch};rport",
        "Max-Forwards: 70",
        f"From: <sip:alice@192.0.2.2>;tag={from_tag}",
        f"To: <sip:bob@192.0.2.1>{';tag=' + to_tag if to_tag else ''}",
        f"Call-ID: {call_id}",
        f"CSeq: {cseq} {method}",
        *([f"Contact: {contact}"] if contact else []),
        *headers,
        *([f"Content-Type: {content_type}"] if body and content_type else []),
        f"Content-Length: {len(body)}",
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def respond(to: Request, status: int, *, tag: str | None = "b", headers: tuple[tuple[str, str], ...] = ()) -> bytes:
    """A response of the peer's."""
    return to.response(status, to_tag=tag, headers=headers).serialise()


def accept(invite: Request, *, tag: str = "b", contact: str = "<sip:bob@192.0.2.2>") -> bytes:
    fields = (("Contact", contact),) if contact else ()
    return invite.response(200, to_tag=tag, headers=fields, body=ANSWER, content_type=SDP).serialise()


def statuses(messages: list[Request | Response]) -> list[int]:
    assert all(isinstance(message, Response) for message in messages), messages
    return [message.status for message in messages if isinstance(message, Response)]


def only(messages: list[Request | Response]) -> Any:
    (message,) = messages
    return message


# --- The table of a call


def test_every_state_of_a_call_reaches_the_end() -> None:
    for state in CallState:
        reached = {state}
        while grown := {to for (at, _), (to, _) in CALL_ROWS.items() if at in reached} - reached:
            reached |= grown
        assert CallState.ENDED in reached, state


def test_every_deadline_of_a_call_has_a_row_in_every_state_that_it_runs_in() -> None:
    running = {(state, deadline) for state, deadlines in CALL_DEADLINES.items() for deadline in deadlines}
    rows = {(state, happening) for state, happening in CALL_ROWS if isinstance(happening, Deadline)}
    assert running == rows


def test_on_every_way_through_the_table_the_host_is_told_once_that_the_call_ended() -> None:
    seen = todo = {(CallState.OFFERED, 0), (CallState.CALLING, 0)}
    while todo:
        todo = {
            (entered, told + do.count(Do.TELL_ENDED))
            for state, told in todo
            for (at, _), (entered, do) in CALL_ROWS.items()
            if at is state
        } - seen
        seen = seen | todo
    told_at = {state: {told for at, told in seen if at is state} for state in CallState}
    over = {CallState.ENDING, CallState.ENDED}
    assert told_at == {state: {1} if state in over else {0} for state in CallState}


# --- The peer calls: INVITE


@pytest.mark.conformance("RFC 3261", "17.2.1", "an INVITE gets 100 unless there is another response within 200 ms")
def test_an_invite_gets_100_at_once_and_is_offered() -> None:
    side = Side()
    trying = only(side.say(request("INVITE")))
    assert (trying.status, trying.to.tag) == (100, "")
    offered = side.event()
    assert isinstance(offered, Offered)
    assert (offered.request.body, offered.request.call_id, offered.flow) == (OFFER, "c1", FLOW)


@pytest.mark.conformance("RFC 3261", "17.2.1", "a retransmitted INVITE gets the most recent provisional response again")
@pytest.mark.conformance(
    "RFC 6026", "7.1", "a retransmitted INVITE is absorbed after its 2xx while timer L runs, 64*T1"
)
def test_a_retransmitted_invite_never_makes_a_second_call() -> None:
    side = Side()
    call = side.offered()
    assert statuses(side.say(request("INVITE"))) == [100]
    side.do(side.agent.ring, call)
    assert statuses(side.say(request("INVITE"))) == [180]
    side.do(side.agent.answer, call)
    assert side.say(request("INVITE")) == []
    assert side.events() == []
    counters = side.agent.counters()
    assert (counters.calls_received, counters.retransmissions_received, counters.retransmissions_sent) == (1, 3, 2)


@pytest.mark.conformance("RFC 3261", "8.2.6.2", "the To tag is the same in every response to a request")
@pytest.mark.conformance("RFC 3261", "12.1.1", "a response that makes a dialog has a Contact")
@pytest.mark.conformance("RFC 3261", "13.3.1.1", "183 with a body begins early media")
def test_ringing_may_carry_early_media_and_makes_the_dialog() -> None:
    side = Side()
    call = side.offered()
    ringing = only(side.do(side.agent.ring, call))
    progress = only(side.do(side.agent.ring, call, status=183, body=ANSWER, headers=[("P-Early-Media", "sendonly")]))
    assert (ringing.status, ringing.body, progress.status, progress.body) == (180, b"", 183, ANSWER)
    assert ringing.to.tag == progress.to.tag == call
    assert str(ringing.contact) == "<sip:192.0.2.1:5060>"
    assert (progress.content_type, progress.headers.get("P-Early-Media")) == (SDP, "sendonly")


@pytest.mark.conformance(
    "RFC 3261", "13.3.1.1", "while the answer is awaited, the provisional response is sent again every minute"
)
def test_a_ringing_call_says_so_again_every_minute() -> None:
    """RFC 3261 section 13.3.1.1."""
    side = Side()
    call = side.offered()
    side.do(side.agent.ring, call)
    side.wait(150)
    assert [at for at, _, _ in side.sent] == [0.0, 0.0, 60.0, 120.0]


@pytest.mark.conformance("RFC 3261", "13.3.1", "an INVITE whose Expires is over gets 487")
@pytest.mark.parametrize("ringing", [False, True])
def test_an_invite_rings_as_long_as_its_expires_says(ringing: bool) -> None:
    side = Side()
    call = side.offered(headers=("Expires: 90",))
    if ringing:
        side.do(side.agent.ring, call)
    side.wait(89.9)
    assert side.events() == []
    terminated = only(side.wait(0.1))
    assert (terminated.status, terminated.to.tag) == (487, call)
    assert side.event() == Ended(call=call, cause=Cause.NO_ANSWER, status=None, reason="")
    side.say(request("ACK", to_tag=call))
    side.assert_clean()


def test_the_expires_of_an_invite_means_nothing_once_it_is_answered() -> None:
    side = Side()
    call = side.confirmed(headers=("Expires: 1",))
    assert side.wait(100) == []
    assert only(side.do(side.agent.bye, call)).method == "BYE"


@pytest.mark.conformance(
    "RFC 3261", "12.1.1", "Record-Route is copied into the response that makes a dialog, in its order"
)
@pytest.mark.conformance("RFC 3261", "12.1.1", "a response that makes a dialog has a Contact")
@pytest.mark.conformance("RFC 3261", "13.3.1.4", "the 2xx to an INVITE has an Allow")
def test_the_200_carries_what_a_dialog_and_its_peer_need() -> None:
    side = Side(product="box/1")
    call = side.offered(headers=("Record-Route: <sip:192.0.2.7;lr>, <sip:192.0.2.8;lr>", "Record-Route: <sip:p;lr>"))
    ok = only(side.do(side.agent.answer, call, body=ANSWER, headers=[("X-Speaker", "anna")]))
    assert (ok.status, ok.to.tag, ok.body, ok.content_type) == (200, call, ANSWER, SDP)
    assert str(ok.contact) == "<sip:192.0.2.1:5060>"
    assert ok.headers.get_all("Allow") == ALLOWED
    assert [str(route.uri) for route in ok.record_route] == ["sip:192.0.2.7;lr", "sip:192.0.2.8;lr", "sip:p;lr"]
    assert (ok.headers.get("Server"), ok.headers.get("X-Speaker")) == ("box/1", "anna")


@pytest.mark.conformance(
    "RFC 3261", "13.3.1.4", "the 2xx to an INVITE is sent again after T1, then doubling up to T2, until the ACK"
)
def test_the_200_is_repeated_until_the_ack() -> None:
    """RFC 3261 section 13.3.1.4: T1, doubling up to T2."""
    side = Side()
    call = side.answered()
    repeats = side.wait(12)
    assert [at for at, _, _ in side.sent[1:]] == [0.0, 0.5, 1.5, 3.5, 7.5, 11.5]
    assert len({message.serialise() for _, message, _ in side.sent[1:]}) == 1
    assert len(repeats) == 5
    assert side.say(request("ACK", branch="z9hG4bK-ack", to_tag=call)) == []
    assert side.event() == Confirmed(call=call, body=b"", content_type="")
    assert side.wait(100) == []


@pytest.mark.conformance("RFC 3261", "13.3.1.4", "without an ACK for 64*T1 the dialog is ended with a BYE")
def test_without_an_ack_the_call_is_given_up_with_a_bye() -> None:
    side = Side()
    call = side.answered()
    messages = side.wait(32)
    bye = messages[-1]
    assert isinstance(bye, Request)
    assert [at for at, message, _ in side.sent if isinstance(message, Response) and message.status == 200] == REPEATS
    assert (bye.method, bye.to.tag, bye.from_.tag) == ("BYE", "f", call)
    assert side.event() == Ended(call=call, cause=Cause.NO_ACK, status=None, reason="")
    side.assert_clean()


@pytest.mark.conformance("RFC 3261", "13.2.2.4", "an ACK belongs to the 2xx of the INVITE with its CSeq number")
def test_only_the_ack_to_this_invite_confirms() -> None:
    side = Side()
    call = side.answered()
    side.say(request("ACK", branch="z9hG4bK-a", to_tag=call, cseq=2))
    side.say(request("ACK", branch="z9hG4bK-b", to_tag="nobody"))
    side.say(request("ACK", branch="z9hG4bK-c", to_tag=call, from_tag="g"))
    side.say(request("ACK", branch="z9hG4bK-d", to_tag=call, call_id="c2"))
    assert side.events() == []
    assert side.agent.counters().strays == 4
    side.say(request("ACK", branch="z9hG4bK-e", to_tag=call))
    side.say(request("ACK", branch="z9hG4bK-e", to_tag=call))
    assert side.event() == Confirmed(call=call, body=b"", content_type="")


def test_an_ack_of_the_invites_transaction_that_is_not_of_its_dialog_leaves_the_200_to_be_repeated() -> None:
    side = Side()
    call = side.answered()
    assert side.say(request("ACK", to_tag="nobody")) == []
    again = only(side.wait(0.5))
    assert (again.status, again.to.tag) == (200, call)


@pytest.mark.conformance("RFC 3261", "13.2.1", "where the INVITE has no offer, the 2xx has it, and the ACK the answer")
def test_an_invite_without_an_offer_gets_its_answer_from_the_ack() -> None:
    side = Side()
    call = side.offered(body=b"")
    assert only(side.do(side.agent.answer, call, body=OFFER)).body == OFFER
    side.say(request("ACK", branch="z9hG4bK-ack", to_tag=call, body=ANSWER))
    assert side.event() == Confirmed(call=call, body=ANSWER, content_type=SDP)


@pytest.mark.conformance(
    "RFC 3261",
    "17.2.1",
    "over UDP a 300-699 to an INVITE is retransmitted after T1, then doubling up to T2, until the ACK",
)
def test_a_refused_call_has_ended_and_is_refused_until_the_ack() -> None:
    side = Side()
    call = side.offered()
    busy = only(side.do(side.agent.reject, call, status=486, headers=[("Retry-After", "7")]))
    assert (busy.status, busy.reason, busy.to.tag, busy.headers.get("Retry-After")) == (486, "Busy Here", call, "7")
    assert side.event() == Ended(call=call, cause=Cause.LOCAL_REJECT, status=486, reason="Busy Here")
    assert statuses(side.wait(1.5)) == [486, 486]
    side.say(request("ACK", to_tag=call))
    assert side.wait(30) == []
    side.assert_clean()


@pytest.mark.conformance("RFC 3261", "12.1.1", "a caller that sends no From tag is served")
def test_an_rfc_2543_caller_is_served() -> None:
    """No branch, no tags to rely on, no rport: RFC 3261 sections 12.1.1 and 17.2.3."""
    side = Side()

    def old(method: str, cseq: int, to: str = "") -> bytes:
        body = OFFER if method == "INVITE" else b""
        return (
            f"{method} sip:bob@192.0.2.1 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.2:5062\r\nFrom: sip:alice@192.0.2.2\r\n"
            f"To: sip:bob@192.0.2.1{to}\r\nCall-ID: c1\r\nCSeq: {cseq} {method}\r\nContact: sip:alice@192.0.2.2\r\n"
            f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode() + body

    assert statuses(side.say(old("INVITE", 1))) == [100]
    assert statuses(side.say(old("INVITE", 1))) == [100]
    offered = side.event()
    side.do(side.agent.answer, offered.call, body=ANSWER)
    side.say(old("ACK", 1, f";tag={offered.call}"))
    assert isinstance(side.event(), Confirmed)
    assert statuses(side.say(old("BYE", 2, f";tag={offered.call}"))) == [200]
    assert side.event() == Ended(call=offered.call, cause=Cause.REMOTE_BYE, status=None, reason="")
    assert {flow.remote for _, _, flow in side.sent} == {("192.0.2.2", 5062)}
    side.assert_clean()


# --- The peer hangs up, or gives up


@pytest.mark.conformance("RFC 3261", "15.1.2", "a BYE within its dialog gets 200 and ends the session")
@pytest.mark.conformance("RFC 3261", "15.1.2", "a BYE without its dialog gets 481")
@pytest.mark.conformance(
    "RFC 3261", "17.2.2", "a copy of a request gets the final response again until timer J, after 64*T1"
)
@pytest.mark.conformance("RFC 3326", "2", "the Reason of a BYE or CANCEL is told")
def test_a_bye_ends_the_call_and_is_answered_as_often_as_it_comes() -> None:
    side = Side()
    call = side.confirmed()
    bye = request("BYE", branch="z9hG4bK-bye", to_tag=call, cseq=2, headers=('Reason: Q.850;cause=16;text="Bye"',))
    assert statuses(side.say(bye)) == [200]
    assert side.event() == Ended(call=call, cause=Cause.REMOTE_BYE, status=None, reason='Q.850;cause=16;text="Bye"')
    assert statuses(side.say(bye)) == [200]
    assert statuses(side.say(request("BYE", branch="z9hG4bK-bye2", to_tag=call, cseq=3))) == [481]
    assert side.events() == []
    side.assert_clean()


@pytest.mark.conformance("RFC 5407", "3.1.6", "a BYE may overtake the ACK: it gets 200, and the session is over")
def test_a_bye_before_the_ack_stops_the_repetition_of_the_200() -> None:
    side = Side()
    call = side.answered()
    assert statuses(side.say(request("BYE", branch="z9hG4bK-bye", to_tag=call, cseq=2))) == [200]
    assert side.event() == Ended(call=call, cause=Cause.REMOTE_BYE, status=None, reason="")
    assert side.wait(100) == []
    side.assert_clean()


@pytest.mark.conformance("RFC 3261", "15.1.2", "a request that is pending when a BYE comes gets 487")
def test_a_bye_to_an_early_dialog_ends_it_and_its_invite() -> None:
    side = Side()
    call = side.offered()
    side.do(side.agent.ring, call)
    assert statuses(side.say(request("BYE", branch="z9hG4bK-bye", to_tag=call, cseq=2))) == [200, 487]
    assert side.event() == Ended(call=call, cause=Cause.REMOTE_BYE, status=None, reason="")
    side.say(request("ACK", to_tag=call))
    side.assert_clean()


@pytest.mark.conformance("RFC 3261", "9.2", "a CANCEL gets 200 and its INVITE 487, with the same To tag")
@pytest.mark.conformance("RFC 3326", "2", "the Reason of a BYE or CANCEL is told")
def test_a_cancel_gets_200_and_the_invite_487_with_the_same_to_tag() -> None:
    side = Side()
    call = side.offered()
    ok, terminated = side.say(request("CANCEL", headers=("Reason: SIP;cause=200",)))
    assert (ok.status, ok.cseq.method) == (200, "CANCEL")  # type: ignore[union-attr]
    assert (terminated.status, terminated.cseq.method) == (487, "INVITE")  # type: ignore[union-attr]
    assert ok.to.tag == terminated.to.tag == call
    assert side.event() == Ended(call=call, cause=Cause.REMOTE_CANCEL, status=None, reason="SIP;cause=200")
    assert statuses(side.say(request("CANCEL"))) == [200]
    side.say(request("ACK", to_tag=call))
    assert side.wait(30) == []
    side.assert_clean()


@pytest.mark.conformance("RFC 3261", "9.2", "a CANCEL after the final response changes nothing")
def test_a_cancel_after_the_answer_changes_nothing() -> None:
    side = Side()
    call = side.answered()
    assert statuses(side.say(request("CANCEL"))) == [200]
    assert side.events() == []
    side.say(request("ACK", branch="z9hG4bK-ack", to_tag=call))
    assert isinstance(side.event(), Confirmed)


@pytest.mark.conformance("RFC 3261", "9.2", "a CANCEL that matches no transaction gets 481")
def test_a_cancel_for_nothing_gets_481() -> None:
    side = Side()
    assert statuses(side.say(request("CANCEL"))) == [481]
    assert side.agent.counters().transactions == 0


# --- We hang up


@pytest.mark.conformance("RFC 3261", "15.1.1", "the session is over as soon as the BYE is sent")
def test_bye_ends_the_call_at_once_and_is_sent_until_it_is_answered() -> None:
    side = Side(product="box/1")
    call = side.confirmed()
    bye = only(side.do(side.agent.bye, call, headers=[("Reason", "Q.850;cause=16")]))
    assert (bye.method, bye.cseq.number, str(bye.uri)) == ("BYE", 1, "sip:alice@192.0.2.2")
    assert (bye.headers.get("Reason"), bye.headers.get("User-Agent")) == ("Q.850;cause=16", "box/1")
    assert bye.max_forwards == 70
    assert side.event() == Ended(call=call, cause=Cause.LOCAL_BYE, status=None, reason="")
    assert only(side.wait(0.5)) == bye
    side.say(respond(bye, 200, tag=None))
    assert side.agent.counters().dialogs == 0
    assert side.wait(100) == []
    side.assert_clean()


@pytest.mark.conformance("RFC 3261", "15.1.1", "no response to a BYE ends the dialog as a 200 does")
def test_a_bye_that_is_never_answered_is_forgotten() -> None:
    side = Side()
    call = side.confirmed()
    side.do(side.agent.bye, call)
    assert len(side.wait(32)) == 10
    assert side.agent.counters().dialogs == 0
    side.assert_clean()


@pytest.mark.conformance("RFC 3261", "15", "a callee sends no BYE before the ACK has come or been given up")
def test_a_callee_does_not_say_bye_before_the_ack() -> None:
    """RFC 3261 section 15."""
    side = Side()
    call = side.answered()
    assert side.do(side.agent.bye, call, headers=[("Reason", "SIP;cause=200")]) == []
    assert side.events() == []
    bye = only(side.say(request("ACK", branch="z9hG4bK-ack", to_tag=call)))
    assert (bye.method, bye.headers.get("Reason")) == ("BYE", "SIP;cause=200")
    assert side.event() == Ended(call=call, cause=Cause.LOCAL_BYE, status=None, reason="")


@pytest.mark.conformance("RFC 3261", "15", "a callee sends no BYE before the ACK has come or been given up")
def test_a_callee_that_waits_for_the_ack_in_vain_says_bye_then() -> None:
    side = Side()
    call = side.answered()
    side.do(side.agent.bye, call)
    bye = side.wait(32)[-1]
    assert isinstance(bye, Request)
    assert side.event() == Ended(call=call, cause=Cause.LOCAL_BYE, status=None, reason="")
    side.assert_clean()


@pytest.mark.conformance("RFC 5407", "3.2.1", "BYEs that cross are both answered")
def test_byes_that_cross_are_both_answered() -> None:
    """RFC 5407 section 3.2.1."""
    side = Side()
    call = side.confirmed()
    ours = only(side.do(side.agent.bye, call))
    assert statuses(side.say(request("BYE", branch="z9hG4bK-bye", to_tag=call, cseq=2))) == [200]
    assert statuses(side.say(request("INVITE", branch="z9hG4bK-re", to_tag=call, cseq=3))) == [481]
    side.say(respond(ours, 200, tag=None))
    assert side.event() == Ended(call=call, cause=Cause.LOCAL_BYE, status=None, reason="")
    side.assert_clean()


# --- What is refused


@pytest.mark.conformance("RFC 3261", "8.2.1", "a method that is not supported gets 405 with Allow")
@pytest.mark.parametrize("method", ["INFO", "MESSAGE", "REFER", "SUBSCRIBE", "NOTIFY", "DANCE"])
def test_an_unknown_method_gets_405_and_allow(method: str) -> None:
    side = Side()
    for to_tag in ("", side.confirmed()):
        refusal = only(side.say(request(method, branch=f"z9hG4bK-{to_tag}x", to_tag=to_tag, cseq=9)))
        assert refusal.status == 405
        assert refusal.headers.get_all("Allow") == ALLOWED
    assert side.events() == []


REFUSED = {
    "an unknown extension": (
        request("INVITE", headers=("Require: 100rel, Path, Gruu",)),
        420,
        ("Unsupported", "path, gruu"),
    ),
    "an unknown body type": (request("INVITE", content_type="text/html"), 415, ("Accept", "application/sdp")),
    "an encoded body": (request("INVITE", headers=("Content-Encoding: gzip",)), 415, ("Accept-Encoding", "identity")),
    "a body of no type": (request("INVITE", content_type=""), 400, None),
    "an INVITE without Contact": (request("INVITE", contact=""), 400, None),
    "another scheme": (request("INVITE", uri="nobodyKnows:bob"), 416, None),
    "another version": (request("INVITE", version="SIP/7.0"), 505, None),
    "a truncated body": (request("INVITE")[:-3], 400, None),
    "a CSeq of another method": (request("INVITE").replace(b"CSeq: 1 INVITE", b"CSeq: 1 BYE"), 400, None),
    "a re-INVITE without a dialog": (request("INVITE", to_tag="nobody"), 481, None),
    "a BYE without a dialog": (request("BYE", to_tag="nobody"), 481, None),
    "a BYE without a To tag": (request("BYE"), 481, None),
    "an OPTIONS without its dialog": (request("OPTIONS", to_tag="nobody"), 481, None),
}


@pytest.mark.conformance("RFC 3261", "8.1.1.5", "a CSeq with another method than the request's gets 400")
@pytest.mark.conformance("RFC 3261", "8.1.1.8", "an INVITE without a Contact gets 400")
@pytest.mark.conformance("RFC 3261", "8.2.2.1", "a Request-URI of an unknown scheme gets 416")
@pytest.mark.conformance(
    "RFC 3261", "8.2.2.3", "an extension in Require that is not understood gets 420 with Unsupported"
)
@pytest.mark.conformance("RFC 3261", "8.2.3", "a body type that is not understood gets 415 with Accept")
@pytest.mark.conformance("RFC 3261", "8.2.3", "a content encoding that is not understood gets 415 with Accept-Encoding")
@pytest.mark.conformance("RFC 3261", "8.2.7", "a stateless response to a copy is the same, to the To tag")
@pytest.mark.conformance("RFC 3261", "12.2.2", "a request within a dialog that is unknown gets 481")
@pytest.mark.conformance("RFC 3261", "15.1.2", "a BYE without its dialog gets 481")
@pytest.mark.conformance("RFC 3261", "18.3", "a datagram that is shorter than its Content-Length says gets 400")
@pytest.mark.conformance("RFC 3261", "21.5.6", "another version of SIP gets 505")
@pytest.mark.parametrize(("data", "status", "field"), REFUSED.values(), ids=REFUSED)
def test_is_refused_once_and_leaves_nothing(data: bytes, status: int, field: tuple[str, str] | None) -> None:
    side = Side()
    refusal = only(side.say(data))
    assert refusal.status == status
    assert refusal.to.tag
    if field is not None:
        assert refusal.headers.get(field[0]) == field[1]
    # RFC 3261 section 8.2.7: a retransmission gets the same again, to the tag, without our having kept anything.
    assert only(side.say(data)) == refusal
    counters = side.agent.counters()
    assert (counters.calls, counters.dialogs, counters.transactions) == (0, 0, 0)
    assert side.events() == []
    assert side.wait(100) == []


@pytest.mark.conformance("RFC 3261", "17", "an ACK is never answered")
@pytest.mark.parametrize("data", [data for data, _, _ in REFUSED.values()], ids=REFUSED)
def test_an_ack_is_never_answered(data: bytes) -> None:
    side = Side()
    assert side.say(data.replace(b"INVITE", b"ACK").replace(b"BYE", b"ACK").replace(b"OPTIONS", b"ACK")) == []


@pytest.mark.parametrize("data", [b"", b"\r\n\r\n", b"\x00" * 20, b"hello", b"INVITE", b"x" * 65507])
def test_garbage_is_counted_and_not_answered(data: bytes) -> None:
    side = Side()
    assert side.say(data) == []
    assert side.agent.counters().malformed == 1


@pytest.mark.conformance("RFC 3261", "8.2.2.2", "a merged request gets 482")
def test_a_request_that_came_by_two_ways_is_merged() -> None:
    """RFC 3261 section 8.2.2.2."""
    side = Side()
    side.offered()
    assert statuses(side.say(request("INVITE", branch="z9hG4bK-2"))) == [482]
    assert side.events() == []
    assert side.agent.counters().calls == 1


@pytest.mark.conformance("RFC 4475", "3.3.11", "an endpoint serves a request with a Max-Forwards of zero")
def test_an_endpoint_serves_a_request_that_has_made_all_its_hops() -> None:
    """RFC 4475 section 3.3.11: only who would forward it answers 483."""
    side = Side()
    assert statuses(side.say(request("INVITE").replace(b"Max-Forwards: 70", b"Max-Forwards: 0"))) == [100]


def test_the_body_types_of_the_host_are_accepted() -> None:
    side = Side(accept=("application/sdp", "multipart/mixed"))
    assert statuses(side.say(request("INVITE", content_type="Multipart/Mixed; boundary=x"))) == [100]


@pytest.mark.conformance("RFC 3261", "8.2.2.3", "Require of a CANCEL is ignored")
def test_require_of_a_cancel_is_ignored() -> None:
    """RFC 3261 section 8.2.2.3."""
    side = Side()
    side.offered()
    assert statuses(side.say(request("CANCEL", headers=("Require: 100rel",)))) == [200, 487]


# --- Admission and OPTIONS


@pytest.mark.conformance("RFC 3261", "11.2", "OPTIONS gets Allow, Accept, Supported and Contact, and makes no dialog")
def test_options_says_what_can_be_done() -> None:
    side = Side()
    ok = only(side.say(request("OPTIONS")))
    assert (ok.status, str(ok.contact)) == (200, "<sip:192.0.2.1:5060>")
    assert ok.headers.get_all("Allow") == ALLOWED
    assert ok.headers.get_all("Accept") == ("application/sdp",)
    assert ok.headers.get_all("Supported") == ("100rel", "timer", "replaces", "norefersub")
    assert side.agent.counters().transactions == 0


@pytest.mark.conformance("RFC 3261", "11.2", "OPTIONS within a dialog is answered as one outside is")
@pytest.mark.conformance("RFC 3261", "12.2.2", "a request within a dialog with a lower CSeq number gets 500")
def test_options_within_a_dialog_is_answered_and_in_order() -> None:
    side = Side()
    call = side.confirmed()
    assert statuses(side.say(request("OPTIONS", branch="z9hG4bK-2", to_tag=call, cseq=5))) == [200]
    assert statuses(side.say(request("OPTIONS", branch="z9hG4bK-3", to_tag=call, cseq=4))) == [500]


@pytest.mark.conformance("RFC 3261", "11.2", "OPTIONS gets the status that an INVITE would get")
@pytest.mark.conformance(
    "RFC 3261", "21.5.4", "who cannot be served now gets 503 with Retry-After, and leaves no state"
)
def test_who_is_not_admitted_is_turned_away_without_a_trace() -> None:
    side = Side()
    side.agent.admit = lambda *_: Admission(status=503, retry_after_s=17)
    for method in ("INVITE", "OPTIONS"):
        refusal = only(side.say(request(method)))
        assert (refusal.status, refusal.headers.get("Retry-After")) == (503, "17")
    counters = side.agent.counters()
    assert (counters.transactions, counters.calls, counters.turned_away) == (0, 0, 1)
    assert side.events() == []


def test_who_is_ignored_gets_no_answer_to_anything() -> None:
    side = Side()
    side.agent.admit = lambda *_: Admission(status=None)
    for method in ("INVITE", "OPTIONS", "MESSAGE", "CANCEL", "BYE", "NONSENSE"):
        assert side.say(request(method, to_tag="stale" if method == "BYE" else "")) == []
    assert side.say(request("INVITE").replace(b"CSeq: 1 INVITE", b"CSeq: x INVITE")) == []
    counters = side.agent.counters()
    assert (counters.ignored, counters.turned_away, counters.transactions) == (7, 0, 0)


def test_cancel_and_the_copy_of_a_request_are_not_judged() -> None:
    side = Side()
    judged: list[str] = []

    def admit(request: Request | None, flow: Flow, now: float) -> Admission:
        assert request is not None
        judged.append(request.method)
        return Admission()

    side.agent.admit = admit
    assert statuses(side.say(request("INVITE", branch="z9hG4bK-1"))) == [100]
    assert statuses(side.say(request("INVITE", branch="z9hG4bK-1"))) == [100]
    assert statuses(side.say(request("INVITE", branch="z9hG4bK-2"))) == [482]
    assert statuses(side.say(request("CANCEL", branch="z9hG4bK-1"))) == [200, 487]
    assert judged == ["INVITE"]


def test_who_is_admitted_of_those_who_cannot_be_read_is_judged_by_the_source_alone() -> None:
    side = Side()
    judged: list[tuple[Request | None, Flow]] = []
    side.agent.admit = lambda request, flow, now: judged.append((request, flow)) or Admission()
    unreadable = request("INVITE").replace(b"To: <", b'To: "<')
    side.agent.receive(unreadable, FLOW, 0.0)
    ((answer, _),) = side.agent.data_to_send()
    assert answer.startswith(b"SIP/2.0 400 ")
    assert judged == [(None, FLOW)]


def test_calls_that_are_up_do_not_notice_that_nobody_is_admitted() -> None:
    side = Side()
    ringing = side.offered(call_id="c2", branch="z9hG4bK-other")
    call = side.confirmed()
    side.agent.admit = lambda *_: Admission(status=503)
    assert statuses(side.say(request("INVITE", call_id="c2", branch="z9hG4bK-other"))) == [100]
    assert statuses(side.say(request("INVITE", branch="z9hG4bK-re", to_tag=call, cseq=2))) == [100]
    side.do(side.agent.answer, ringing)
    assert statuses(side.say(request("BYE", branch="z9hG4bK-bye", to_tag=call, cseq=3))) == [200, 487]


# --- Re-INVITE


@pytest.mark.conformance("RFC 3261", "12.2.2", "an accepted re-INVITE moves the remote target to its Contact")
@pytest.mark.conformance(
    "RFC 3261", "13.3.1.4", "the 2xx to an INVITE is sent again after T1, then doubling up to T2, until the ACK"
)
def test_a_reoffer_is_answered_and_moves_the_target() -> None:
    side = Side()
    call = side.confirmed()
    again = {"branch": "z9hG4bK-re", "to_tag": call, "cseq": 4, "contact": "<sip:alice@192.0.2.2:5080>"}
    assert statuses(side.say(request("INVITE", **again))) == [100]
    reoffered = side.event()
    assert isinstance(reoffered, Reoffered)
    assert (reoffered.call, reoffered.request.body) == (call, OFFER)
    ok = only(side.do(side.agent.answer, call, body=ANSWER))
    assert (ok.status, ok.body, ok.to.tag, str(ok.contact)) == (200, ANSWER, call, "<sip:192.0.2.1:5060>")
    assert statuses(side.wait(0.5)) == [200]
    side.say(request("ACK", branch="z9hG4bK-ack2", to_tag=call, cseq=4))
    assert side.event() == Confirmed(call=call, body=b"", content_type="")
    assert side.wait(10) == []
    bye = only(side.do(side.agent.bye, call))
    assert str(bye.uri) == "sip:alice@192.0.2.2:5080"
    assert side.sent[-1][2].remote == ("192.0.2.2", 5080)


@pytest.mark.conformance("RFC 3261", "14.2", "a re-INVITE that is refused leaves the session as it was")
def test_a_refused_reoffer_leaves_the_dialog_as_it_was() -> None:
    side = Side()
    call = side.confirmed()
    side.say(request("INVITE", branch="z9hG4bK-re", to_tag=call, cseq=2, contact="<sip:alice@192.0.2.2:5080>"))
    assert isinstance(side.event(), Reoffered)
    assert statuses(side.do(side.agent.reject, call, status=488)) == [488]
    side.say(request("ACK", branch="z9hG4bK-re", to_tag=call, cseq=2))
    assert side.events() == []
    bye = only(side.do(side.agent.bye, call))
    assert str(bye.uri) == "sip:alice@192.0.2.2"
    assert side.sent[-1][2].remote == PEER


@pytest.mark.conformance(
    "RFC 3261",
    "14.2",
    "a second INVITE before the final response to the first gets 500 with a Retry-After of 0 to 10 s",
)
@pytest.mark.parametrize("state", ["first", "re-INVITE"])
def test_a_second_invite_before_the_final_response_gets_500_and_a_pause(state: str) -> None:
    """RFC 3261 section 14.2."""
    side = Side()
    if state == "first":
        call = side.offered()
    else:
        call = side.confirmed()
        side.say(request("INVITE", branch="z9hG4bK-re1", to_tag=call, cseq=2))
        assert isinstance(side.event(), Reoffered)
    refusal = only(side.say(request("INVITE", branch="z9hG4bK-re2", to_tag=call, cseq=3)))
    assert refusal.status == 500
    assert 0 <= int(refusal.headers.get("Retry-After")) <= 10
    assert side.events() == []
    assert statuses(side.do(side.agent.answer, call)) == [200]


@pytest.mark.conformance("RFC 3261", "14.2", "an INVITE that comes while ours is pending gets 491")
def test_a_reoffer_that_meets_ours_gets_491() -> None:
    """RFC 3261 section 14.2."""
    side = Side()
    call = side.confirmed()
    side.do(side.agent.reoffer, call, body=OFFER)
    assert statuses(side.say(request("INVITE", branch="z9hG4bK-re", to_tag=call, cseq=2))) == [491]
    assert side.events() == []


@pytest.mark.conformance("RFC 3261", "12.2.2", "a request within a dialog with a lower CSeq number gets 500")
@pytest.mark.conformance("RFC 3261", "12.2.2", "a CSeq number that is higher by more than one is no error")
def test_an_older_cseq_gets_500_and_a_gap_is_fine() -> None:
    """RFC 3261 section 12.2.2."""
    side = Side()
    call = side.confirmed(cseq=10)
    late = request("BYE", branch="z9hG4bK-late", to_tag=call, cseq=9)
    assert statuses(side.say(late)) == [500]
    assert side.events() == []
    assert statuses(side.say(request("BYE", branch="z9hG4bK-bye", to_tag=call, cseq=100))) == [200]


def test_a_copy_of_an_invite_whose_transaction_is_over_is_out_of_order() -> None:
    side = Side()
    call = side.confirmed()
    side.say(request("INVITE", branch="z9hG4bK-re", to_tag=call, cseq=2))
    side.do(side.agent.reject, call, status=488)
    side.say(request("ACK", branch="z9hG4bK-re", to_tag=call, cseq=2))
    side.wait(40)
    side.events()
    assert statuses(side.say(request("INVITE", branch="z9hG4bK-re", to_tag=call, cseq=2))) == [500]
    assert side.events() == []


@pytest.mark.conformance("RFC 3261", "9.2", "a CANCEL of a re-INVITE ends that alone")
def test_a_cancelled_reoffer_is_withdrawn_and_the_call_goes_on() -> None:
    side = Side()
    call = side.confirmed()
    side.say(request("INVITE", branch="z9hG4bK-re", to_tag=call, cseq=2))
    assert isinstance(side.event(), Reoffered)
    assert statuses(side.say(request("CANCEL", branch="z9hG4bK-re", to_tag=call, cseq=2))) == [200, 487]
    assert side.event() == Withdrawn(call=call)
    side.say(request("ACK", branch="z9hG4bK-re", to_tag=call, cseq=2))
    assert statuses(side.say(request("BYE", branch="z9hG4bK-bye", to_tag=call, cseq=3))) == [200]
    side.events()
    side.assert_clean()


@pytest.mark.conformance("RFC 3261", "15.1.2", "a request that is pending when a BYE comes gets 487")
def test_a_bye_during_a_reoffer_leaves_nothing_behind() -> None:
    side = Side()
    call = side.confirmed()
    side.say(request("INVITE", branch="z9hG4bK-re", to_tag=call, cseq=2))
    side.events()
    assert statuses(side.say(request("BYE", branch="z9hG4bK-bye", to_tag=call, cseq=3))) == [200, 487]
    assert side.event() == Ended(call=call, cause=Cause.REMOTE_BYE, status=None, reason="")
    side.assert_clean()


def test_hanging_up_during_a_reoffer_answers_that_first() -> None:
    side = Side()
    call = side.confirmed()
    side.say(request("INVITE", branch="z9hG4bK-re", to_tag=call, cseq=2))
    terminated, bye = side.do(side.agent.bye, call)
    assert isinstance(terminated, Response)
    assert isinstance(bye, Request)
    assert (terminated.status, bye.method) == (487, "BYE")
    side.assert_clean()


@pytest.mark.conformance("RFC 5407", "3.1.4", "a re-INVITE may overtake the ACK to the answer before it")
def test_a_reoffer_that_overtakes_the_ack_confirms() -> None:
    """RFC 5407 section 3.1.5."""
    side = Side()
    call = side.answered()
    assert statuses(side.say(request("INVITE", branch="z9hG4bK-re", to_tag=call, cseq=2))) == [100]
    confirmed, reoffered = side.events()
    assert confirmed == Confirmed(call=call, body=b"", content_type="")
    assert isinstance(reoffered, Reoffered)
    assert side.say(request("ACK", branch="z9hG4bK-ack", to_tag=call)) == []
    assert side.events() == []
    assert side.wait(10) == []


@pytest.mark.conformance("RFC 5407", "3.1.5", "a re-INVITE that overtakes an ACK with an answer in it gets 491")
def test_a_reoffer_waits_until_the_ack_has_brought_the_answer_that_is_owed() -> None:
    """RFC 5407 section 3.1.5, case 2."""
    side = Side()
    call = side.offered(body=b"")
    side.do(side.agent.answer, call, body=OFFER)
    assert statuses(side.say(request("INVITE", branch="z9hG4bK-re", to_tag=call, cseq=2))) == [491]
    side.say(request("ACK", branch="z9hG4bK-ack", to_tag=call, body=ANSWER))
    assert side.event() == Confirmed(call=call, body=ANSWER, content_type=SDP)


@pytest.mark.conformance("RFC 3261", "13.3.1.4", "without an ACK for 64*T1 the dialog is ended with a BYE")
def test_a_reoffer_whose_answer_is_never_acknowledged_ends_the_call() -> None:
    side = Side()
    call = side.confirmed()
    side.say(request("INVITE", branch="z9hG4bK-re", to_tag=call, cseq=2))
    side.events()
    side.do(side.agent.answer, call)
    assert isinstance(side.wait(32)[-1], Request)
    assert side.event() == Ended(call=call, cause=Cause.NO_ACK, status=None, reason="")
    side.assert_clean()


# --- Our re-INVITE


@pytest.mark.conformance(
    "RFC 3261", "12.2.1.1", "a request within a dialog has its Call-ID and tags, and the next CSeq number"
)
@pytest.mark.conformance(
    "RFC 3261", "12.2.1.2", "a 2xx to a target refresh request moves the remote target to its Contact"
)
@pytest.mark.conformance(
    "RFC 3261", "13.2.2.4", "every 2xx to an INVITE is acknowledged, and each copy with the same ACK"
)
def test_our_reoffer_is_answered_and_acknowledged() -> None:
    side = Side()
    call, invite = side.connected()
    again = only(side.do(side.agent.reoffer, call, body=b"new offer"))
    assert (again.method, again.body, again.cseq.number, again.to.tag) == ("INVITE", b"new offer", 2, "b")
    assert (again.call_id, again.from_.tag) == (invite.call_id, call)
    ack = only(side.say(accept(again, contact="<sip:bob@192.0.2.2:5090>")))
    assert (ack.method, ack.cseq.number, str(ack.uri)) == ("ACK", 2, "sip:bob@192.0.2.2:5090")
    answered = side.event()
    assert isinstance(answered, Answered)
    assert only(side.say(accept(again))) == ack


@pytest.mark.conformance("RFC 3261", "14.1", "a re-INVITE that the peer refuses leaves the session as it was")
@pytest.mark.parametrize("status", [488, 503])
def test_our_refused_reoffer_leaves_the_call_as_it_was(status: int) -> None:
    side = Side()
    call, _ = side.connected()
    again = only(side.do(side.agent.reoffer, call, body=OFFER))
    assert only(side.say(respond(again, status))).method == "ACK"
    refused = side.event()
    assert isinstance(refused, Refused)
    assert refused.response.status == status
    assert only(side.do(side.agent.bye, call)).method == "BYE"


@pytest.mark.conformance(
    "RFC 3261", "12.2.1.2", "481, 408 or no response to a request within a dialog ends the dialog with a BYE"
)
@pytest.mark.parametrize("status", [481, 408])
def test_a_peer_that_knows_the_call_no_more_ends_it(status: int) -> None:
    """RFC 3261 section 12.2.1.2."""
    side = Side()
    call, _ = side.connected()
    again = only(side.do(side.agent.reoffer, call, body=OFFER))
    ack, bye = side.say(respond(again, status))
    assert isinstance(ack, Request)
    assert isinstance(bye, Request)
    assert (ack.method, bye.method) == ("ACK", "BYE")
    event = side.event()
    assert isinstance(event, Ended)
    assert (event.call, event.cause, event.status) == (call, Cause.LOST, status)
    side.assert_clean()


@pytest.mark.conformance(
    "RFC 3261", "12.2.1.2", "481, 408 or no response to a request within a dialog ends the dialog with a BYE"
)
def test_our_reoffer_that_nobody_responds_to_ends_the_call() -> None:
    side = Side()
    call, _ = side.connected()
    side.do(side.agent.reoffer, call, body=OFFER)
    side.wait(32)
    assert side.event() == Ended(call=call, cause=Cause.LOST, status=408, reason="Request Timeout")
    side.assert_clean()


def test_a_bye_that_meets_our_reoffer_ends_the_call() -> None:
    side = Side()
    call, _ = side.connected()
    again = only(side.do(side.agent.reoffer, call, body=OFFER))
    bye = request("BYE", branch="z9hG4bK-b", call_id=again.call_id, from_tag="b", to_tag=call, cseq=7)
    assert statuses(side.say(bye)) == [200]
    assert side.event() == Ended(call=call, cause=Cause.REMOTE_BYE, status=None, reason="")
    assert only(side.say(respond(again, 487))).method == "ACK"
    side.assert_clean()


# --- We call


@pytest.mark.conformance(
    "RFC 3261", "8.1.1", "a request has To, From with a tag, CSeq, Call-ID, Max-Forwards of 70 and Via"
)
@pytest.mark.conformance("RFC 3261", "8.1.1.7", "the branch of a Via begins with the magic cookie")
@pytest.mark.conformance("RFC 3261", "8.1.1.8", "an INVITE has a Contact")
@pytest.mark.conformance("RFC 3261", "13.2.1", "an INVITE says in Expires how long it is meant")
@pytest.mark.conformance("RFC 3581", "3", "a client asks for rport")
def test_invite_has_what_every_request_has() -> None:
    side = Side(product="box/1")
    call, invite = side.calling(headers=[("Subject", "news")])
    assert (str(invite.uri), invite.body, invite.content_type) == ("sip:bob@192.0.2.2", OFFER, SDP)
    assert (str(invite.cseq), invite.max_forwards, invite.from_.tag, invite.to.tag) == ("1 INVITE", 70, call, "")
    assert str(invite.contact) == "<sip:192.0.2.1:5060>"
    assert invite.expires == 180
    assert invite.via.branch.startswith("z9hG4bK")
    assert "rport" in invite.via.parameters
    assert (invite.headers.get("User-Agent"), invite.headers.get("Subject")) == ("box/1", "news")
    assert invite.headers.get_all("Allow") == ALLOWED


def test_a_host_that_places_a_call_says_who_calls_whom_and_along_which_route() -> None:
    side = Side()
    me = NameAddr(uri=Uri.parse("sip:+49301@pbx"), display_name="Front Desk")
    extra = [("Route", "<sip:192.0.2.9;lr>"), ("Privacy", "id"), ("P-Asserted-Identity", "<sip:+49301@pbx>")]
    to = NameAddr(uri=Uri.parse("sip:+49302@pbx"))
    side.agent.invite(0.0, BOB, FLOW, from_=me, to=to, body=OFFER, headers=extra)
    invite = only(side.hear())
    assert (str(invite.uri), str(invite.to)) == ("sip:bob@192.0.2.2", "<sip:+49302@pbx>")
    assert (invite.from_.display_name, str(invite.from_.uri)) == ("Front Desk", "sip:+49301@pbx")
    assert [invite.headers.get(name) for name, _ in extra] == [value for _, value in extra]


def test_a_cancel_may_say_why_and_so_does_the_bye_of_a_call_that_was_answered_meanwhile() -> None:
    """RFC 3326 section 2."""
    side = Side()
    why = ("Reason", 'SIP;cause=200;text="Call completed elsewhere"')
    call, invite = side.calling()
    side.say(respond(invite, 180))
    cancel = only(side.do(side.agent.cancel, call, headers=[why]))
    assert (cancel.method, cancel.headers.get("Reason")) == ("CANCEL", why[1])
    assert cancel.via == invite.via
    _, bye = side.say(accept(invite))
    assert isinstance(bye, Request)
    assert (bye.method, bye.headers.get("Reason")) == ("BYE", why[1])
    with pytest.raises(LocalProtocolError):
        side.agent.cancel(0.0, side.calling()[0], headers=[("Reason", "two\r\nlines")])


def test_progress_is_told_but_for_100() -> None:
    side = Side()
    call, invite = side.calling()
    side.say(respond(invite, 100, tag=None))
    assert side.events() == []
    side.say(respond(invite, 180))
    side.say(invite.response(183, to_tag="b", body=ANSWER, content_type=SDP).serialise())
    ringing, media = side.events()
    assert isinstance(ringing, Progressed)
    assert isinstance(media, Progressed)
    assert (ringing.call, ringing.response.status, media.response.body) == (call, 180, ANSWER)


@pytest.mark.conformance(
    "RFC 3261", "13.2.2.4", "every 2xx to an INVITE is acknowledged, and each copy with the same ACK"
)
@pytest.mark.conformance(
    "RFC 3261", "13.2.2.4", "the ACK to a 2xx has the CSeq number of the INVITE and a branch of its own"
)
def test_every_retransmitted_2xx_is_acknowledged_and_told_once() -> None:
    """RFC 3261 section 13.2.2.4."""
    side = Side()
    call, invite = side.calling()
    ack = only(side.say(accept(invite)))
    assert (ack.method, str(ack.uri), str(ack.cseq)) == ("ACK", "sip:bob@192.0.2.2", "1 ACK")
    assert (ack.to.tag, ack.from_.tag, ack.call_id) == ("b", call, invite.call_id)
    assert ack.via.branch != invite.via.branch
    assert isinstance(side.event(), Answered)
    side.wait(1)
    assert only(side.say(accept(invite))) == ack
    assert side.events() == []


def test_a_2xx_without_contact_is_acknowledged_where_the_invite_went() -> None:
    side = Side()
    _, invite = side.calling()
    assert only(side.say(accept(invite, contact=""))).uri == invite.uri


@pytest.mark.conformance(
    "RFC 3261",
    "17.1.1.2",
    "a 300-699 to an INVITE is acknowledged as often as it comes, and passed up once, until timer D",
)
@pytest.mark.parametrize("status", [302, 404, 486, 503, 603])
def test_a_refusal_ends_the_call_with_its_status(status: int) -> None:
    side = Side()
    call, invite = side.calling()
    refusal = invite.response(status, "So Be It", to_tag="b").serialise()
    ack = only(side.say(refusal))
    assert (ack.method, ack.via.branch) == ("ACK", invite.via.branch)
    assert side.event() == Ended(call=call, cause=Cause.REMOTE_REJECT, status=status, reason="So Be It")
    assert only(side.say(refusal)) == ack
    side.assert_clean()


@pytest.mark.conformance("RFC 3261", "8.1.3.1", "the timeout of a transaction is as a 408")
def test_an_invite_that_nobody_responds_to_ends_as_408() -> None:
    side = Side()
    call, _ = side.calling()
    assert len(side.wait(32)) == 6
    assert side.event() == Ended(call=call, cause=Cause.LOST, status=408, reason="Request Timeout")
    side.assert_clean()


@pytest.mark.conformance(
    "RFC 3261", "13.2.2.4", "a 2xx of another fork is acknowledged, and its dialog ended with a BYE"
)
def test_only_the_first_of_forked_answers_is_taken() -> None:
    side = Side()
    call, invite = side.calling()
    side.say(accept(invite, tag="b1"))
    assert isinstance(side.event(), Answered)
    ack, bye = side.say(accept(invite, tag="b2", contact="<sip:bob@192.0.2.2:5070>"))
    assert isinstance(ack, Request)
    assert isinstance(bye, Request)
    assert (ack.method, ack.to.tag, bye.method, bye.to.tag) == ("ACK", "b2", "BYE", "b2")
    assert str(bye.uri) == "sip:bob@192.0.2.2:5070"
    assert only(side.say(accept(invite, tag="b2"))) == ack
    side.say(respond(bye, 200, tag=None))
    assert side.events() == []
    assert only(side.do(side.agent.bye, call)).to.tag == "b1"
    side.assert_clean()


def test_a_peer_that_hangs_up() -> None:
    side = Side()
    call, invite = side.connected()
    bye = request("BYE", branch="z9hG4bK-b", call_id=invite.call_id, from_tag="b", to_tag=call, cseq=1)
    assert statuses(side.say(bye)) == [200]
    assert side.event() == Ended(call=call, cause=Cause.REMOTE_BYE, status=None, reason="")
    side.assert_clean()


def test_a_callee_whose_answer_was_lost_may_hang_up() -> None:
    side = Side()
    call, invite = side.calling()
    side.say(respond(invite, 180))
    side.events()
    bye = {"branch": "z9hG4bK-b", "call_id": invite.call_id, "to_tag": call}
    assert statuses(side.say(request("BYE", from_tag="stranger", **bye))) == [481]
    assert statuses(side.say(request("BYE", from_tag="b", **bye))) == [200]
    assert side.event() == Ended(call=call, cause=Cause.REMOTE_BYE, status=None, reason="")
    side.assert_clean()


# --- We give up calling


@pytest.mark.conformance("RFC 3261", "9.1", "no CANCEL is sent before a provisional response")
def test_no_cancel_before_a_provisional_response() -> None:
    """RFC 3261 section 9.1."""
    side = Side()
    call, invite = side.calling()
    assert side.do(side.agent.cancel, call) == []
    cancel = only(side.say(respond(invite, 100, tag=None)))
    assert (cancel.method, cancel.uri, cancel.vias, cancel.to) == ("CANCEL", invite.uri, invite.vias, invite.to)
    side.say(respond(cancel, 200))
    assert side.events() == []
    assert only(side.say(respond(invite, 487))).method == "ACK"
    assert side.event() == Ended(call=call, cause=Cause.LOCAL_CANCEL, status=487, reason="Request Terminated")
    side.assert_clean()


@pytest.mark.conformance(
    "RFC 3261", "13.2.2.4", "a 2xx that is not wanted any more is acknowledged, and its dialog ended with a BYE"
)
def test_a_2xx_that_crosses_the_cancel_is_acknowledged_and_hung_up() -> None:
    side = Side()
    call, invite = side.calling()
    side.say(respond(invite, 180))
    assert only(side.do(side.agent.cancel, call)).method == "CANCEL"
    ack, bye = side.say(accept(invite))
    assert isinstance(ack, Request)
    assert isinstance(bye, Request)
    assert (ack.method, bye.method) == ("ACK", "BYE")
    progressed, ended = side.events()
    assert isinstance(progressed, Progressed)
    assert ended == Ended(call=call, cause=Cause.LOCAL_CANCEL, status=None, reason="")
    side.assert_clean()


@pytest.mark.conformance("RFC 3261", "9.1", "after a CANCEL the final response is waited for 64*T1 and no longer")
def test_a_cancelled_call_that_never_gets_a_final_response_is_forgotten() -> None:
    side = Side()
    call, invite = side.calling()
    side.say(respond(invite, 180))
    side.events()
    side.say(respond(only(side.do(side.agent.cancel, call)), 200))
    side.wait(31.9)
    assert side.events() == []
    side.wait(0.1)
    assert side.event() == Ended(call=call, cause=Cause.LOCAL_CANCEL, status=408, reason="Request Timeout")
    side.assert_clean()


def test_a_call_that_was_cancelled_before_any_response_ends_without_one() -> None:
    side = Side()
    call, _ = side.calling()
    side.do(side.agent.cancel, call)
    side.wait(32)
    assert side.event() == Ended(call=call, cause=Cause.LOCAL_CANCEL, status=408, reason="Request Timeout")
    side.assert_clean()


def test_a_call_that_nobody_answers_in_time_is_cancelled() -> None:
    side = Side()
    call, invite = side.calling(ring_timeout_s=20.0)
    side.say(respond(invite, 180))
    side.events()
    assert side.wait(19.9) == []
    assert only(side.wait(0.1)).method == "CANCEL"
    side.say(respond(invite, 487))
    assert side.event() == Ended(call=call, cause=Cause.NO_ANSWER, status=487, reason="Request Terminated")
    side.assert_clean()


# --- Responses that are not ours


@pytest.mark.conformance("RFC 3261", "8.1.3.3", "a response with more than one Via is dropped")
def test_a_response_that_nobody_waits_for_is_dropped() -> None:
    side = Side()
    _, invite = side.calling()
    foreign = replace(invite, headers=invite.headers.with_("Via", "SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK-no"))
    assert side.say(accept(foreign)) == []
    assert side.say(accept(replace(invite, headers=invite.headers.added("Via", "SIP/2.0/UDP 192.0.2.9")))) == []
    assert side.events() == []
    assert side.agent.counters().strays == 2


# --- Where it all goes


@pytest.mark.conformance(
    "RFC 3581", "4", "a response goes to where the request came from, which received and rport say"
)
def test_a_response_goes_to_the_source_and_says_which_it_was() -> None:
    """RFC 3581."""
    source = FLOW._replace(remote=("198.51.100.9", 4711))
    side = Side()
    trying = only(side.say(request("INVITE", via="10.0.0.1:5060"), source))
    assert (trying.via.received, trying.via.rport) == ("198.51.100.9", 4711)
    assert side.sent[-1][2].remote == ("198.51.100.9", 4711)


@pytest.mark.conformance(
    "RFC 3261", "18.2.2", "without rport a response goes to the port of the sent-by, 5060 by default"
)
@pytest.mark.parametrize(
    ("via", "port"),
    [("192.0.2.2:5062", 5062), ("192.0.2.2", 5060), ("10.0.0.1:5062", 4711)],
    ids=["its port", "the default port", "behind a NAT"],
)
def test_a_client_without_rport_gets_the_port_of_its_via_unless_that_is_translated(via: str, port: int) -> None:
    """RFC 3261 section 18.2.2."""
    side = Side()
    side.say(request("OPTIONS", via=via).replace(b";rport", b""), FLOW._replace(remote=("192.0.2.2", 4711)))
    assert side.sent[-1][2].remote == ("192.0.2.2", port)


def test_maddr_is_not_followed() -> None:
    side = Side()
    side.say(request("OPTIONS", via="192.0.2.2;maddr=198.51.100.7"))
    assert side.sent[-1][2].remote == PEER


NAT_SOURCE = ("8.8.4.4", 4711)


@pytest.mark.conformance("RFC 3261", "12.2.1.1", "without a route set the Request-URI is the remote target")
@pytest.mark.parametrize(
    ("via", "contact", "source", "remote"),
    [
        ("10.0.0.1:5060", "<sip:a@10.0.0.1:5060>", NAT_SOURCE, NAT_SOURCE),
        ("8.8.4.4:4711", "<sip:a@10.0.0.1:5060>", NAT_SOURCE, NAT_SOURCE),
        ("8.8.4.4:5060", "<sip:a@8.8.4.4:5060>", NAT_SOURCE, NAT_SOURCE),
        ("8.8.4.4:4711", "<sip:a@phone.example>", NAT_SOURCE, NAT_SOURCE),
        ("8.8.4.4:4711", "<sip:a@8.8.4.4:5062>", NAT_SOURCE, ("8.8.4.4", 5062)),
        ("8.8.4.4:4711", "<sip:a@9.9.9.9>", NAT_SOURCE, ("9.9.9.9", 5060)),
        ("10.0.0.1", "<sip:a@10.0.0.2>", ("10.0.0.1", 5060), ("10.0.0.2", 5060)),
        ("172.17.0.2", "<sip:a@172.17.0.2>", ("10.0.0.1", 4711), ("10.0.0.1", 4711)),
        ("10.0.0.1", "<sip:a@127.0.0.1>", ("10.0.0.1", 5060), ("10.0.0.1", 5060)),
        ("10.0.0.1", "<sip:a@[fe80::1]>", ("10.0.0.1", 5060), ("10.0.0.1", 5060)),
    ],
    ids=[
        *("all private", "private Contact", "translated port", "name", "other port", "public Contact"),
        *("a proxy of the same network", "a NAT within it", "loopback", "link-local"),
    ],
)
def test_requests_within_a_dialog_go_to_the_contact_unless_that_is_behind_a_nat(
    via: str, contact: str, source: tuple[str, int], remote: tuple[str, int]
) -> None:
    side = Side()
    side.say(request("INVITE", via=via, contact=contact), FLOW._replace(remote=source))
    offered = side.event()
    side.do(side.agent.answer, offered.call)
    side.wait(32)
    assert isinstance(side.sent[-1][1], Request)
    assert str(side.sent[-1][1].uri) in contact
    assert side.sent[-1][2] == FLOW._replace(remote=remote)


def test_a_called_peer_behind_a_nat_gets_its_ack_where_its_answer_came_from() -> None:
    side = Side()
    _, invite = side.calling()
    side.say(accept(invite, contact="<sip:bob@10.1.1.1:5060>"), FLOW._replace(remote=NAT_SOURCE))
    assert side.sent[-1][2].remote == NAT_SOURCE
    assert str(side.sent[-1][1].uri) == "sip:bob@10.1.1.1:5060"  # type: ignore[union-attr]


def test_the_advertised_address_is_in_via_and_contact() -> None:
    side = Side(advertise=("203.0.113.5", 5999))
    call = side.offered()
    assert str(only(side.do(side.agent.answer, call)).contact) == "<sip:203.0.113.5:5999>"
    _, invite = side.calling()
    assert (invite.via.host, invite.via.port) == ("203.0.113.5", 5999)


def test_an_ack_past_a_proxy_of_a_private_network_goes_to_the_contact() -> None:
    """RFC 3261 section 12.2.1.1: without a route set, whoever passed the INVITE on gets nothing more."""
    side = Side()
    _, invite = side.calling()
    side.say(accept(invite, contact="<sip:bob@10.0.0.2:5062>"), FLOW._replace(remote=("10.0.0.1", 5060)))
    assert side.sent[-1][2].remote == ("10.0.0.2", 5062)


def test_by_tls_the_advertised_address_has_the_port_that_is_listened_on_by_tls() -> None:
    side = Side(advertise=("203.0.113.5", 5999))
    flow = Flow("TLS", ("192.0.2.1", 5061), PEER)
    side.agent.invite(0.0, BOB, flow, from_=ALICE, body=OFFER)
    invite = only(side.hear())
    assert (invite.via.host, invite.via.port) == ("203.0.113.5", 5061)
    assert str(invite.contact) == "<sip:203.0.113.5:5061;transport=tls>"


def test_the_advertised_address_is_not_told_to_peers_on_this_machine() -> None:
    side = Side(advertise=("203.0.113.5", 5999))
    flow = Flow("UDP", ("192.0.2.1", 5060), ("192.0.2.1", 5070))
    side.agent.invite(0.0, BOB, flow, from_=ALICE, body=OFFER)
    invite = only(side.hear())
    assert (invite.via.host, str(invite.contact)) == ("192.0.2.1", "<sip:192.0.2.1:5060>")


def test_an_advertised_ipv4_address_is_not_told_to_ipv6_peers() -> None:
    side = Side(advertise=("203.0.113.5", 5999))
    flow = Flow("UDP", ("2001:db8::1", 5060), ("2001:db8::2", 5060))
    side.agent.invite(0.0, Uri.parse("sip:bob@[2001:db8::2]"), flow, from_=ALICE, body=OFFER)
    invite = only(side.hear())
    assert (invite.via.host, str(invite.contact)) == ("2001:db8::1", "<sip:[2001:db8::1]:5060>")


# --- Routes


@pytest.mark.conformance("RFC 3261", "12.1.1", "the route set of a callee is the Record-Route in its order")
@pytest.mark.conformance(
    "RFC 3261", "12.2.1.1", "with a loose router first, the Request-URI is the remote target, and Route the route set"
)
def test_a_callee_sends_requests_along_the_record_route() -> None:
    """RFC 3261 section 12.1.1."""
    side = Side()
    call = side.confirmed(headers=("Record-Route: <sip:192.0.2.7;lr>, <sip:192.0.2.8;lr>",))
    bye = only(side.do(side.agent.bye, call))
    assert [str(route.uri) for route in bye.route] == ["sip:192.0.2.7;lr", "sip:192.0.2.8;lr"]
    assert str(bye.uri) == "sip:alice@192.0.2.2"
    assert side.sent[-1][2].remote == ("192.0.2.7", 5060)


@pytest.mark.conformance("RFC 3261", "12.1.2", "the route set of a caller is the Record-Route reversed")
@pytest.mark.conformance(
    "RFC 3261", "12.2.1.1", "with a loose router first, the Request-URI is the remote target, and Route the route set"
)
def test_a_caller_sends_requests_along_the_reversed_record_route() -> None:
    """RFC 3261 section 12.1.2."""
    side = Side()
    _, invite = side.calling()
    fields = (
        ("Contact", "<sip:bob@9.9.9.9>"),
        ("Record-Route", "<sip:8.8.8.8;lr>"),
        ("Record-Route", "<sip:1.1.1.1;lr>"),
    )
    ack = only(side.say(invite.response(200, to_tag="b", headers=fields).serialise()))
    assert [str(route.uri) for route in ack.route] == ["sip:1.1.1.1;lr", "sip:8.8.8.8;lr"]
    assert str(ack.uri) == "sip:bob@9.9.9.9"
    assert side.sent[-1][2].remote == ("1.1.1.1", 5060)


@pytest.mark.conformance(
    "RFC 3261", "12.2.1.1", "with a strict router first, that is the Request-URI, and the remote target ends the Route"
)
def test_a_strict_router_is_the_request_uri_and_the_target_ends_the_route() -> None:
    """RFC 3261 section 12.2.1.1."""
    side = Side()
    call = side.confirmed(headers=("Record-Route: <sip:192.0.2.2:5070;method=INVITE>, <sip:192.0.2.8;lr>",))
    bye = only(side.do(side.agent.bye, call))
    assert str(bye.uri) == "sip:192.0.2.2:5070"
    assert [str(route.uri) for route in bye.route] == ["sip:192.0.2.8;lr", "sip:alice@192.0.2.2"]
    assert side.sent[-1][2].remote == ("192.0.2.2", 5070)


# --- Our own mistakes


def test_verbs_on_a_call_that_is_not_there_raise() -> None:
    side = Side()
    call = side.confirmed()
    side.do(side.agent.bye, call)
    for gone in ("nobody", call):
        with pytest.raises(LocalProtocolError, match="no such call"):
            side.agent.bye(0.0, gone)


def test_verbs_that_the_state_does_not_allow_raise_and_change_nothing() -> None:
    side = Side()
    call = side.confirmed()
    agent = side.agent
    wrong: list[Callable[[], None]] = [
        lambda: agent.ring(0.0, call),
        lambda: agent.answer(0.0, call),
        lambda: agent.reject(0.0, call, status=486),
        lambda: agent.cancel(0.0, call),
    ]
    for verb in wrong:
        with pytest.raises(LocalProtocolError, match="when nothing is pending"):
            verb()
    offered = side.offered(call_id="c2", branch="z9hG4bK-2")
    for verb in (
        lambda: agent.ring(0.0, offered, status=100),
        lambda: agent.reject(0.0, offered, status=200),
        lambda: agent.bye(0.0, offered),
        lambda: agent.cancel(0.0, offered),
        lambda: agent.reoffer(0.0, offered, body=OFFER),
        lambda: agent.answer(0.0, offered, headers=[("X", "two\r\nlines")]),
    ):
        with pytest.raises(LocalProtocolError):
            verb()
    with pytest.raises(LocalProtocolError, match="no offer to acknowledge"):
        side.agent.acknowledge(0.0, call, body=ANSWER)
    with pytest.raises(LocalProtocolError, match="nothing to withdraw"):
        side.agent.withdraw(0.0, call)
    assert side.hear() == []
    assert statuses(side.do(agent.answer, offered)) == [200]


def test_a_header_that_cannot_be_sent_changes_nothing() -> None:
    side = Side()
    call = side.confirmed()
    split = [("X-Note", "two\r\nlines")]
    with pytest.raises(LocalProtocolError):
        side.agent.bye(0.0, call, headers=split)
    with pytest.raises(LocalProtocolError):
        side.agent.reoffer(0.0, call, body=OFFER, headers=split)
    with pytest.raises(LocalProtocolError):
        side.agent.invite(0.0, BOB, FLOW, from_=ALICE, body=OFFER, headers=split)
    assert side.hear() == []
    assert side.agent.counters().calls == 1
    bye = only(side.do(side.agent.bye, call))
    assert bye.headers.get("X-Note") is None
    side.assert_clean()


# --- Counters


def test_counters_say_what_came_and_went() -> None:
    side = Side()
    side.confirmed()
    side.calling()
    side.say(request("DANCE", branch="z9hG4bK-d"))
    side.say(b"garbage")
    counters = side.agent.counters()
    assert counters.requests_received == {"INVITE": 1, "ACK": 1, "other": 1}
    assert counters.requests_sent == {"INVITE": 1}
    assert counters.responses_sent == {"1xx": 1, "2xx": 1, "4xx": 1}
    assert (counters.calls_received, counters.calls_placed, counters.calls, counters.dialogs) == (1, 1, 2, 2)
    assert (counters.malformed, counters.transactions) == (1, 2)


# --- Nothing that arrives raises


def test_whatever_arrives_nothing_raises_and_no_datagram_gets_two_answers() -> None:
    """Mutations of every message of a call, thrown at an agent with calls of both directions."""
    random = Random(20)
    side = Side()
    side.offered(call_id="o", branch="z9hG4bK-o")
    call = side.confirmed(call_id="k", branch="z9hG4bK-k")
    _, invite = side.calling()
    seeds = [
        request("INVITE", call_id="o", branch="z9hG4bK-o"),
        request("INVITE", call_id="k", branch="z9hG4bK-re", to_tag=call, cseq=2),
        request("INVITE", headers=("Record-Route: <sip:p;lr>", "Require: x", "Expires: 3")),
        request("INVITE", headers=("Record-Route: <sip:p;lr>", "Supported: x", "Expires: 3")),
        request("ACK", call_id="k", branch="z9hG4bK-k2", to_tag=call),
        request("CANCEL", call_id="x", branch="z9hG4bK-x"),
        request("BYE", call_id="k", branch="z9hG4bK-bye", to_tag="nobody", cseq=2),
        request("OPTIONS"),
        request("UPDATE", call_id="k", branch="z9hG4bK-u", to_tag=call, cseq=3, headers=("Session-Expires: 90",)),
        request("UPDATE", call_id="k", branch="z9hG4bK-v", to_tag=call, cseq=4, body=OFFER),
        request("PRACK", call_id="k", branch="z9hG4bK-p", to_tag=call, cseq=5, headers=("RAck: 1 1 INVITE",)),
        respond(invite, 180),
        respond(invite, 183, tag="r", headers=(("Require", "100rel"), ("RSeq", "1"))),
        respond(invite, 422, headers=(("Min-SE", "90"),)),
        accept(invite),
        respond(invite, 503),
    ]
    breaking = [b"\r\n", b";", b",", b'"', b"<", b">", b"\x00", b"\xff", b"%", b":", b"=", b" ", b"9" * 20, b"[::"]
    pieces = [*breaking, *(bytes([letter]) for letter in b"0123456789abcxyz")]
    for _ in range(6000):
        data = bytearray(random.choice(seeds))
        for _ in range(random.randint(1, 3)):
            at = random.randrange(len(data))
            data[at : at + random.choice((0, 1, 1, 5))] = random.choice(pieces)
        side.now += 0.05
        side.agent.handle_timer(side.now)
        side.agent.data_to_send()
        side.agent.receive(bytes(data), FLOW, side.now)
        answers = [answer for answer, _ in side.agent.data_to_send()]
        # At most a response each; a BYE or CANCEL has its INVITE answered too, a stray 2xx is acknowledged and hung up.
        pairs = (b"BYE", b"CANCEL", b"SIP/2.0 2")
        assert len(answers) <= (2 if any(word in data for word in pairs) else 1), (data, answers)
        for event in side.events():
            if isinstance(event, Offered | Reoffered):
                side.agent.reject(side.now, event.call, status=486)
                side.agent.data_to_send()
    counters = side.agent.counters()
    assert counters.malformed > 1000
    assert counters.calls_received > 10
    # The call that was offered first may wait for its answer still, but nothing else waits for anything.
    side.agent.handle_timer(side.now + 64)
    side.agent.handle_timer(side.now + 300)
    counters = side.agent.counters()
    assert counters.transactions <= 1
    assert counters.dialogs <= 3


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_no_bytes_raise(data: bytes) -> None:
    side = Side()
    side.agent.receive(data, FLOW, 0.0)
    assert len(side.agent.data_to_send()) <= 1
