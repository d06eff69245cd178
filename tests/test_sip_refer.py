"""REFER in both directions: one rule, one test, on the bytes of the wire and in virtual time."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sip import (
    Cause,
    Ended,
    Headers,
    LocalProtocolError,
    NameAddr,
    Outcome,
    Referral,
    ReferralDone,
    RemoteProtocolError,
    Request,
    Requested,
    Response,
    Transfer,
    Transferred,
    parse_datagram,
)
from sip.refer import (
    REFERRAL_DEADLINES,
    REFERRAL_ROWS,
    TRANSFER_DEADLINES,
    TRANSFER_ROWS,
    ReferOrder,
    ReferralState,
    TransferState,
    sipfrag_status,
)

from .test_sip_agent import FLOW, Side, only, request, respond, statuses

SERVED: dict[str, Any] = {"serve_within": {"REFER": ("message/sipfrag",), "NOTIFY": ("message/sipfrag",)}}
CAROL = NameAddr.parse("<sip:carol@192.0.2.3>")
FRAG = "message/sipfrag;version=2.0"


class Desk(Side):
    """A side whose host has transfers and referrals."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**(SERVED | arguments))
        self.parts: list[Transfer | Referral] = []
        self.told: list[Transferred | ReferralDone] = []
        self.others: list[object] = []

    def hear(self) -> list[Request | Response]:
        """What the agent sends, once transfers and referrals have had its events."""
        while (event := self.agent.next_event()) is not None:
            if not any(part.receive(event, self.now) for part in self.parts):
                self.others.append(event)
        for part in self.parts:
            self.told += iter(part.next_event, None)
        return super().hear()

    def wait(self, seconds: float) -> list[Request | Response]:
        end = self.now + seconds
        heard = []
        while True:
            at = min((at for part in self.parts if (at := part.wake_at()) is not None), default=end + 1)
            heard += super().wait(min(at, end) - self.now)
            if at > end:
                return heard
            for part in self.parts:
                part.handle_timer(self.now)
            heard += self.hear()

    def up(self) -> str:
        """A call of the peer's that is up."""
        self.say(request("INVITE"))
        offered = self.others.pop()
        call = getattr(offered, "call", "")
        self.do(self.agent.answer, call, body=b"v=0")
        self.say(request("ACK", branch="z9hG4bK-ack", to_tag=call))
        self.others.clear()
        return call

    def transferring(self, **arguments: Any) -> tuple[str, Request]:
        call = self.up()
        self.parts.append(Transfer(self.agent, call, CAROL, now=self.now, **arguments))
        return call, only(self.hear())

    def waiting(self, **arguments: Any) -> tuple[str, Request]:
        """A transfer of ours that has been accepted."""
        call, refer = self.transferring(**arguments)
        assert self.say(respond(refer, 202, tag=None)) == []
        return call, refer

    def refer(self, call: str = "", *, cseq: int = 2, to: str = "<sip:carol@192.0.2.3>", **arguments: Any) -> Referral:
        """A REFER of the peer's, not answered yet."""
        fields = (f"Refer-To: {to}", *arguments.pop("headers", ()))
        assert self.say(request("REFER", branch=f"z9hG4bK-r{cseq}", to_tag=call, cseq=cseq, headers=fields)) == []
        requested = self.others.pop()
        assert isinstance(requested, Requested)
        referral = Referral.open(self.agent, requested, self.now)
        assert referral is not None
        self.parts.append(referral)
        return referral

    def assert_clean(self) -> None:
        super().assert_clean()
        assert not self.agent._calls._retained
        assert all(part.wake_at() is None for part in self.parts)


def notify(call: str, body: str, state: str = "active;expires=60", *, cseq: int = 2, event: str = "refer") -> bytes:
    """A NOTIFY of the peer's."""
    return request(
        "NOTIFY",
        branch=f"z9hG4bK-n{cseq}",
        to_tag=call,
        cseq=cseq,
        headers=(f"Event: {event}", f"Subscription-State: {state}"),
        body=body.encode(),
        content_type=FRAG,
    )


def frag(message: Any) -> tuple[str, str | None, bytes]:
    assert message.method == "NOTIFY"
    assert message.headers.get("Content-Type") == FRAG or not message.body
    return message.headers.get("Subscription-State"), message.headers.get("Event"), message.body


# --- The tables


def test_every_state_reaches_the_end() -> None:
    for rows, end in ((TRANSFER_ROWS, TransferState.DONE), (REFERRAL_ROWS, ReferralState.DONE)):
        for state in type(end):
            reached = {state}
            while grown := {to for (at, _), (to, _) in rows.items() if at in reached} - reached:  # type: ignore[attr-defined]
                reached |= grown
            assert end in reached, state


def test_every_deadline_has_a_row() -> None:
    for state, deadlines in TRANSFER_DEADLINES.items():
        assert all((state, deadline) in TRANSFER_ROWS for deadline in deadlines)
    for quiet, renewals in REFERRAL_DEADLINES.items():
        assert all((quiet, deadline) in REFERRAL_ROWS for deadline in renewals)


@pytest.mark.conformance("RFC 3420", "2", "a message/sipfrag may be a status line alone")
@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"SIP/2.0 200 OK\r\n", (200, "OK")),
        (b"SIP/2.0 486 Busy Here", (486, "Busy Here")),
        (b"SIP/2.0 100 Trying\r\nVia: x\r\n\r\n", (100, "Trying")),
        (b"\r\nsip/2.0 603 \r\n", (603, "")),
        (b"SIP/2.0 180", (180, "")),
        (b"SIP/2.0 999 No", None),
        (b"INVITE sip:x SIP/2.0\r\n", None),
        (b"", None),
    ],
)
def test_sipfrag(body: bytes, status: tuple[int, str] | None) -> None:
    assert sipfrag_status(body) == status


# --- Ours


@pytest.mark.conformance("RFC 3515", "2.1", "a REFER has one Refer-To, and a Contact")
@pytest.mark.conformance("RFC 3892", "2", "a REFER says by Referred-By who refers")
def test_a_transfer_is_a_refer_within_the_call() -> None:
    desk = Desk()
    call, refer = desk.transferring()
    assert (refer.method, refer.to.tag, refer.from_.tag) == ("REFER", "f", call)
    assert refer.headers.get_all("Refer-To") == ("<sip:carol@192.0.2.3>",)
    assert refer.headers.get("Referred-By") == "<sip:bob@192.0.2.1>"
    assert str(refer.contact) == "<sip:192.0.2.1:5060>"
    assert "Refer-Sub" not in refer.headers


@pytest.mark.conformance("RFC 3515", "2.4.5", "each NOTIFY is answered 200, and the final status is the outcome")
def test_the_final_notify_tells_the_outcome_and_the_call_goes_on() -> None:
    desk = Desk()
    call, _ = desk.waiting()
    assert statuses(desk.say(notify(call, "SIP/2.0 100 Trying"))) == [200]
    assert statuses(desk.say(notify(call, "SIP/2.0 180 Ringing", cseq=3))) == [200]
    assert desk.told == []
    final = notify(call, "SIP/2.0 200 OK\r\n", "terminated;reason=noresource", cseq=4)
    assert statuses(desk.say(final)) == [200]
    assert desk.told == [Transferred(call=call, outcome=Outcome.SUCCEEDED, status=200, reason="OK")]
    assert only(desk.do(desk.agent.bye, call)).method == "BYE"
    desk.assert_clean()


@pytest.mark.parametrize("state", ["terminated;reason=noresource", "active;expires=60"])
def test_a_target_that_refuses_fails_the_transfer_and_the_call_goes_on(state: str) -> None:
    desk = Desk()
    call, _ = desk.waiting()
    assert statuses(desk.say(notify(call, "SIP/2.0 486 Busy Here", state))) == [200]
    assert desk.told == [Transferred(call=call, outcome=Outcome.FAILED, status=486, reason="Busy Here")]
    assert desk.others == []
    # What comes afterwards is for nobody: the host answers it.
    desk.say(notify(call, "SIP/2.0 486 Busy Here", cseq=3))
    assert isinstance(desk.others.pop(), Requested)


def test_a_subscription_that_ends_without_an_outcome_fails_the_transfer_with_its_reason() -> None:
    desk = Desk()
    call, _ = desk.waiting()
    assert statuses(desk.say(notify(call, "SIP/2.0 100 Trying", "terminated;reason=timeout"))) == [200]
    assert desk.told == [Transferred(call=call, outcome=Outcome.FAILED, status=None, reason="timeout")]


@pytest.mark.conformance("RFC 3515", "2.4.4", "a NOTIFY may come before the response to the REFER")
def test_a_notify_that_overtakes_the_202() -> None:
    desk = Desk()
    call, refer = desk.transferring()
    assert statuses(desk.say(notify(call, "SIP/2.0 100 Trying"))) == [200]
    assert statuses(desk.say(notify(call, "SIP/2.0 200 OK", "terminated", cseq=3))) == [200]
    assert [event.outcome for event in desk.told] == [Outcome.SUCCEEDED]  # type: ignore[union-attr]
    assert desk.say(respond(refer, 202, tag=None)) == []
    assert len(desk.told) == 1


@pytest.mark.parametrize("status", [302, 403, 405, 503, 603])
def test_a_refused_refer_leaves_the_call_as_it_was(status: int) -> None:
    desk = Desk()
    call, refer = desk.transferring()
    assert desk.say(respond(refer, status, tag=None)) == []
    (told,) = desk.told
    assert isinstance(told, Transferred)
    assert (told.outcome, told.status) == (Outcome.FAILED, status)
    assert desk.others == []
    assert only(desk.do(desk.agent.bye, call)).method == "BYE"
    desk.assert_clean()


def test_a_bye_before_the_outcome_leaves_a_second_for_the_notify() -> None:
    desk = Desk()
    call, _ = desk.waiting()
    assert statuses(desk.say(request("BYE", branch="z9hG4bK-bye", to_tag=call, cseq=2))) == [200]
    assert isinstance(desk.others.pop(), Ended)
    desk.wait(0.5)
    assert desk.told == []
    assert statuses(desk.say(notify(call, "SIP/2.0 200 OK", "terminated", cseq=3))) == [200]
    assert desk.told == [Transferred(call=call, outcome=Outcome.SUCCEEDED, status=200, reason="OK")]
    desk.assert_clean()


def test_a_bye_without_a_notify_leaves_the_outcome_unknown() -> None:
    desk = Desk()
    call, _ = desk.waiting()
    desk.say(request("BYE", branch="z9hG4bK-bye", to_tag=call, cseq=2))
    desk.wait(0.5)
    assert desk.told == []
    desk.wait(0.5)
    assert [(event.outcome, event.status) for event in desk.told] == [(Outcome.UNKNOWN, None)]  # type: ignore[union-attr]
    assert statuses(desk.say(notify(call, "SIP/2.0 200 OK", "terminated", cseq=3))) == [481]
    desk.assert_clean()


@pytest.mark.parametrize("status", [200, 481])
def test_a_bye_before_the_202_does_not_settle_it(status: int) -> None:
    desk = Desk()
    call, refer = desk.transferring()
    desk.say(request("BYE", branch="z9hG4bK-bye", to_tag=call, cseq=2))
    assert desk.told == []
    desk.say(respond(refer, status, tag=None))
    desk.wait(1)
    assert [event.outcome for event in desk.told] == [Outcome.UNKNOWN]  # type: ignore[union-attr]
    desk.assert_clean()


def test_the_wait_for_the_outcome_is_bounded() -> None:
    desk = Desk()
    call, _ = desk.waiting(outcome_within_s=7)
    desk.say(notify(call, "SIP/2.0 180 Ringing"))
    desk.wait(6.5)
    assert desk.told == []
    desk.wait(0.5)
    assert desk.told == [
        Transferred(call=call, outcome=Outcome.UNKNOWN, status=None, reason="Outcome Not Told in Time")
    ]
    desk.do(desk.agent.bye, call)
    desk.assert_clean()


def test_a_peer_that_is_silent_to_a_refer_has_lost_the_call() -> None:
    desk = Desk()
    call, _ = desk.transferring()
    desk.wait(32)
    assert desk.told == [Transferred(call=call, outcome=Outcome.FAILED, status=408, reason="Request Timeout")]
    desk.assert_clean()


@pytest.mark.conformance("RFC 4488", "4", "Refer-Sub: false asks for no NOTIFY, and counts if the 2xx has it too")
def test_nobody_is_told_where_nobody_wants_to_be() -> None:
    desk = Desk()
    call, refer = desk.transferring(observed=False)
    assert refer.headers.get("Refer-Sub") == "false"
    desk.say(respond(refer, 202, tag=None, headers=(("Refer-Sub", "false"),)))
    assert desk.told == [Transferred(call=call, outcome=Outcome.UNKNOWN, status=None, reason="Nobody Was to Be Told")]
    other = Desk()
    call, refer = other.transferring(observed=False)
    other.say(respond(refer, 202, tag=None))
    assert other.told == []
    other.say(notify(call, "SIP/2.0 200 OK", "terminated"))
    assert [event.outcome for event in other.told] == [Outcome.SUCCEEDED]  # type: ignore[union-attr]


@pytest.mark.conformance("RFC 3515", "2.4.6", "NOTIFYs of several REFERs in a dialog are told apart by the id of Event")
def test_a_notify_of_another_refer_is_not_taken() -> None:
    desk = Desk()
    call, refer = desk.waiting()
    other = refer.cseq.number + 1
    desk.say(notify(call, "SIP/2.0 200 OK", event=f"refer;id={other}"))
    desk.say(notify(call, "SIP/2.0 200 OK", cseq=3, event="presence"))
    assert [type(event) for event in desk.others] == [Requested, Requested]
    assert desk.told == []
    desk.say(notify(call, "SIP/2.0 200 OK", cseq=4, event=f"refer;id={refer.cseq.number}"))
    assert len(desk.told) == 1


@pytest.mark.conformance("RFC 6665", "8.2.3", "a NOTIFY has a Subscription-State")
def test_a_notify_without_a_state_is_malformed() -> None:
    desk = Desk()
    call, _ = desk.waiting()
    assert statuses(desk.say(notify(call, "SIP/2.0 200 OK", ""))) == [400]
    assert desk.told == []


def test_a_transfer_needs_a_call() -> None:
    desk = Desk()
    with pytest.raises(LocalProtocolError, match="no such call"):
        Transfer(desk.agent, "nobody", CAROL, now=0.0)


# --- The peer's


@pytest.mark.conformance("RFC 3515", "2.4.2", "a REFER without a Refer-To, or with more than one, gets 400")
@pytest.mark.parametrize("fields", [(), ("Refer-To: <sip:c@x>", "r: <sip:d@x>"), ("Refer-To: <sip:c@x>, <sip:d@x>",)])
def test_not_one_refer_to(fields: tuple[str, ...]) -> None:
    desk = Desk()
    call = desk.up()
    answers = desk.say(request("REFER", branch="z9hG4bK-r", to_tag=call, cseq=2, headers=fields))
    if not answers:
        requested = desk.others.pop()
        assert isinstance(requested, Requested)
        assert Referral.open(desk.agent, requested, desk.now) is None
        answers = desk.hear()
    assert statuses(answers) == [400]


@pytest.mark.parametrize(
    ("to", "status"),
    [
        ("<tel:+4930123>", 416),
        ("<http://x/>", 416),
        ("<sip:c@x;method=BYE>", 403),
        ("<sip:c@x?Replaces=abc>", 400),
        ("<sip:c@x?Replaces=a%3Bto-tag%3D1%3Bfrom-tag%3D2&Replaces=b%3Bto-tag%3D1%3Bfrom-tag%3D2>", 400),
        ("<sip:c@x?X-Speak=a%0D%0AVia:%20b>", 400),
        ("<sip:c@x?X-Speak=a%00>", 400),
        ("<sip:c@x?X%20Speak=a>", 400),
        ("<sip:c@x", 400),
    ],
)
@pytest.mark.conformance("RFC 3515", "2.4.2", "a Refer-To that cannot be followed is refused: 400, 416 or 403")
def test_a_target_that_cannot_be_called(to: str, status: int) -> None:
    message = parse_datagram(request("REFER", headers=(f"Refer-To: {to}",)))
    assert isinstance(message, Request)
    with pytest.raises(RemoteProtocolError) as error:
        ReferOrder.read(message)
    assert error.value.status == status


@pytest.mark.parametrize("field", ["Referred-By: <sip:", "Refer-Sub: perhaps"])
def test_other_fields_that_cannot_be_read(field: str) -> None:
    message = parse_datagram(request("REFER", headers=("Refer-To: <sip:c@x>", field)))
    assert isinstance(message, Request)
    with pytest.raises(RemoteProtocolError) as error:
        ReferOrder.read(message)
    assert error.value.status == 400


def order(to: str, *fields: str) -> ReferOrder:
    message = parse_datagram(request("REFER", headers=(f"Refer-To: {to}", *fields)))
    assert isinstance(message, Request)
    return ReferOrder.read(message)


@pytest.mark.conformance("RFC 3892", "2.2", "the INVITE that a REFER brings about copies its Referred-By")
@pytest.mark.conformance("RFC 3515", "2.1", "header fields in the Refer-To URI go into the INVITE, unescaped")
def test_an_order_says_whom_to_call_and_with_what() -> None:
    read = order(
        '"Carol" <sip:carol@192.0.2.3;transport=udp;method=INVITE?X-Speak=Gr%C3%BC%C3%9Fe%2C%20you&X-Speaker=de'
        "&Replaces=a%40b%3Bto-tag%3D1%3Bfrom-tag%3D2&Require=replaces&Subject=s>",
        "Referred-By: <sip:boss@x>;cid=1",
    )
    assert str(read.target) == "sip:carol@192.0.2.3;transport=udp"
    assert read.headers == Headers([("X-Speak", "Grüße, you"), ("X-Speaker", "de"), ("Subject", "s")])
    assert read.fields() == (
        ("Referred-By", "<sip:boss@x>;cid=1"),
        ("Replaces", "a@b;to-tag=1;from-tag=2"),
        ("Require", "replaces"),
    )
    assert read.subscription
    assert order("<sip:c@x>").fields() == ()


NAMES = st.sampled_from(["X-Speak", "Replaces", "Require", "Via", "a b"]) | st.text(min_size=1, max_size=4)
VALUES = st.sampled_from(["a;to-tag=1;from-tag=2", "replaces", "a\r\nb"]) | st.text(max_size=8)
PARAMETERS = st.sampled_from(["", ";method=INVITE", ";method=BYE", ";lr", ";transport=tcp", ":5", ";;", ">"])


@given(PARAMETERS, st.lists(st.tuples(NAMES, VALUES), max_size=4))
def test_whatever_stands_in_a_refer_it_is_an_order_or_refused(parameters: str, fields: list[tuple[str, str]]) -> None:
    query = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in fields)
    data = request("REFER", headers=(f"Refer-To: <sip:c@x{parameters}{'?' if query else ''}{query}>",))
    try:
        message = parse_datagram(data)
        assert isinstance(message, Request)
        read = ReferOrder.read(message)
    except RemoteProtocolError:
        return
    side = Side()
    side.agent.invite(0.0, read.target, FLOW, from_=CAROL, body=b"v=0", headers=(*read.fields(), *read.headers))
    invite = only(side.hear())
    assert invite.uri.equivalent(read.target)
    assert {name for name, _ in read.fields()} <= {"Replaces", "Require"}


@pytest.mark.conformance("RFC 3261", "19.1.5", "header fields in a URI that only we can know are not followed")
@pytest.mark.parametrize("name", ["From", "Via", "Call-ID", "Route", "Contact", "Authorization", "Require", "body"])
def test_what_a_target_may_not_say(name: str) -> None:
    read = order(f"<sip:c@x?{name}=%3Csip:evil@x%3E>")
    assert (len(read.headers), read.fields()) == (0, ())


@pytest.mark.conformance("RFC 3515", "2.4.4", "an accepted REFER gets 202 and then a NOTIFY at once")
@pytest.mark.conformance("RFC 3515", "2.4.5", "the body of a NOTIFY is a message/sipfrag with the status line")
def test_an_accepted_refer_gets_202_and_a_notify_at_once() -> None:
    desk = Desk()
    call = desk.up()
    referral = desk.refer(call)
    referral.accept(desk.now)
    accepted, trying = desk.hear()
    assert isinstance(accepted, Response)
    assert (accepted.status, str(accepted.contact)) == (202, "<sip:192.0.2.1:5060>")
    assert frag(trying) == ("active;expires=60", "refer", b"SIP/2.0 100 Trying\r\n")
    assert (trying.to.tag, trying.from_.tag, str(trying.contact)) == ("f", call, "<sip:192.0.2.1:5060>")
    with pytest.raises(LocalProtocolError, match="cannot accept"):
        referral.accept(desk.now)


@pytest.mark.conformance("RFC 3515", "2.4.7", "the last NOTIFY has the final status: terminated;reason=noresource")
def test_progress_is_told_one_notify_at_a_time_and_the_end_is_known_when_it_is_confirmed() -> None:
    desk = Desk()
    call = desk.up()
    referral = desk.refer(call)
    referral.accept(desk.now)
    _, trying = desk.hear()
    assert isinstance(trying, Request)
    referral.progress(desk.now, 180, "Ringing")
    referral.progress(desk.now, 183, "Session Progress")
    assert desk.hear() == []
    progress = only(desk.say(respond(trying, 200, tag=None)))
    assert frag(progress) == ("active;expires=60", "refer", b"SIP/2.0 183 Session Progress\r\n")
    assert progress.cseq.number == trying.cseq.number + 1
    assert desk.say(respond(progress, 200, tag=None)) == []
    referral.finish(desk.now, 486, "Busy Here")
    last = only(desk.hear())
    assert frag(last) == ("terminated;reason=noresource", "refer", b"SIP/2.0 486 Busy Here\r\n")
    assert last.cseq.number == progress.cseq.number + 1
    assert desk.told == []
    assert desk.say(respond(last, 200, tag=None)) == []
    assert desk.told == [ReferralDone(told=True)]
    assert only(desk.do(desk.agent.bye, call)).cseq.number == last.cseq.number + 1
    desk.assert_clean()


def test_an_outcome_while_a_notify_is_out_comes_after_it() -> None:
    desk = Desk()
    referral = desk.refer(desk.up())
    referral.accept(desk.now)
    _, trying = desk.hear()
    assert isinstance(trying, Request)
    referral.finish(desk.now, 200, "OK")
    assert desk.hear() == []
    assert frag(only(desk.say(respond(trying, 200, tag=None))))[2] == b"SIP/2.0 200 OK\r\n"
    with pytest.raises(LocalProtocolError, match="cannot progress"):
        referral.progress(desk.now, 180, "Ringing")


@pytest.mark.conformance("RFC 3515", "2.4.6", "NOTIFYs of a second REFER in the dialog have the id of its CSeq")
def test_a_second_refer_has_an_id() -> None:
    desk = Desk()
    call = desk.up()
    for cseq, event in ((2, "refer"), (5, "refer;id=5")):
        referral = desk.refer(call, cseq=cseq)
        referral.accept(desk.now)
        _, trying = desk.hear()
        assert isinstance(trying, Request)
        assert frag(trying)[1] == event
        desk.say(respond(trying, 200, tag=None))


@pytest.mark.conformance("RFC 4488", "4", "Refer-Sub: false is echoed in the 202, and no NOTIFY is sent")
def test_a_peer_that_wants_no_notify_gets_none() -> None:
    desk = Desk()
    call = desk.up()
    referral = desk.refer(call, headers=("Refer-Sub: false", "Require: norefersub"))
    referral.accept(desk.now)
    accepted = only(desk.hear())
    assert (accepted.status, accepted.headers.get("Refer-Sub")) == (202, "false")
    referral.progress(desk.now, 180, "Ringing")
    referral.finish(desk.now, 200, "OK")
    assert desk.hear() == []
    assert desk.told == [ReferralDone(told=False)]
    desk.do(desk.agent.bye, call)
    desk.assert_clean()


@pytest.mark.conformance("RFC 3515", "2.4.2", "a REFER that policy refuses gets 603")
def test_a_declined_refer_leaves_the_call_as_it_was() -> None:
    desk = Desk()
    call = desk.up()
    referral = desk.refer(call)
    referral.decline(desk.now)
    assert statuses(desk.hear()) == [603]
    assert desk.others == []
    desk.do(desk.agent.bye, call)
    desk.assert_clean()


@pytest.mark.conformance("RFC 5057", "3", "the subscription of a REFER outlives the call in its dialog")
def test_the_transferor_may_hang_up_right_after_the_202() -> None:
    desk = Desk()
    call = desk.up()
    referral = desk.refer(call)
    referral.accept(desk.now)
    _, trying = desk.hear()
    assert isinstance(trying, Request)
    assert statuses(desk.say(request("BYE", branch="z9hG4bK-bye", to_tag=call, cseq=3))) == [200]
    assert desk.others == [Ended(call=call, cause=Cause.REMOTE_BYE, status=None, reason="")]
    assert desk.agent.counters().dialogs == 1
    assert desk.say(respond(trying, 200, tag=None)) == []
    referral.finish(desk.now, 200, "OK")
    last = only(desk.hear())
    assert frag(last)[2] == b"SIP/2.0 200 OK\r\n"
    # Nothing else is served in what is left of the dialog.
    assert statuses(desk.say(request("BYE", branch="z9hG4bK-again", to_tag=call, cseq=4))) == [481]
    desk.say(respond(last, 200, tag=None))
    assert desk.told == [ReferralDone(told=True)]
    desk.assert_clean()


@pytest.mark.conformance("RFC 6665", "4.2.2", "a NOTIFY that fails ends the subscription")
@pytest.mark.conformance("RFC 5057", "5.1", "481 to a NOTIFY ends the subscription and not the call")
@pytest.mark.parametrize("status", [481, 500])
def test_a_peer_that_does_not_want_to_know_is_told_no_more(status: int) -> None:
    desk = Desk()
    call = desk.up()
    referral = desk.refer(call)
    referral.accept(desk.now)
    _, trying = desk.hear()
    assert isinstance(trying, Request)
    assert desk.say(respond(trying, status, tag=None)) == []
    referral.progress(desk.now, 180, "Ringing")
    referral.finish(desk.now, 200, "OK")
    assert desk.hear() == []
    assert desk.told == [ReferralDone(told=False)]
    assert desk.others == []
    desk.do(desk.agent.bye, call)
    desk.assert_clean()


def test_a_peer_that_falls_silent_holds_nothing_up() -> None:
    desk = Desk()
    call = desk.up()
    referral = desk.refer(call)
    referral.accept(desk.now)
    desk.hear()
    referral.finish(desk.now, 200, "OK")
    desk.wait(32)
    assert desk.told == [ReferralDone(told=False)]
    desk.do(desk.agent.bye, call)
    desk.assert_clean()


@pytest.mark.conformance("RFC 6665", "4.1.3", "the expires of a NOTIFY prolongs the subscription")
def test_a_subscription_is_renewed_as_long_as_the_target_rings() -> None:
    desk = Desk()
    referral = desk.refer(desk.up())
    referral.accept(desk.now)
    _, trying = desk.hear()
    assert isinstance(trying, Request)
    desk.say(respond(trying, 200, tag=None))
    referral.progress(desk.now, 180, "Ringing")
    desk.say(respond(only(desk.hear()), 200, tag=None))
    for _ in range(3):
        assert desk.wait(44.5) == []
        again = only(desk.wait(0.5))
        assert frag(again) == ("active;expires=60", "refer", b"SIP/2.0 180 Ringing\r\n")
        desk.say(respond(again, 200, tag=None))


def test_a_call_that_ends_before_the_refer_is_answered_takes_it_along() -> None:
    desk = Desk()
    call = desk.up()
    referral = desk.refer(call)
    assert statuses(desk.say(request("BYE", branch="z9hG4bK-bye", to_tag=call, cseq=3))) == [200, 487]
    with pytest.raises(LocalProtocolError):
        referral.accept(desk.now)
    desk.assert_clean()


@pytest.mark.parametrize("verb", ["progress", "finish", "decline"])
def test_a_status_of_the_wrong_kind_is_not_told(verb: str) -> None:
    desk = Desk()
    referral = desk.refer(desk.up())
    arguments = {"status": 200} if verb == "decline" else {"status": 700, "reason": ""}
    with pytest.raises(LocalProtocolError):
        getattr(referral, verb)(desk.now, **arguments)


# --- Outside of calls


OUTSIDE: dict[str, Any] = {**SERVED, "serve_outside": {"REFER": ("message/sipfrag",)}}


def test_a_refer_outside_of_calls_is_not_allowed_unless_the_host_serves_it() -> None:
    answer = only(Desk().say(request("REFER", headers=("Refer-To: <sip:c@x>",))))
    assert answer.status == 405
    assert "REFER" not in answer.headers.get_all("Allow")


@pytest.mark.conformance("RFC 3515", "2.4.4", "a REFER outside of a dialog makes one, which the NOTIFYs belong to")
def test_a_refer_outside_of_calls_makes_a_dialog_of_its_own() -> None:
    desk = Desk(**OUTSIDE)
    referral = desk.refer(cseq=9, headers=("Record-Route: <sip:192.0.2.7;lr>",))
    assert referral.call is None
    referral.accept(desk.now)
    accepted, trying = desk.hear()
    assert isinstance(accepted, Response)
    assert isinstance(trying, Request)
    assert (accepted.status, accepted.to.tag) == (202, referral.call)
    assert str(accepted.contact) == "<sip:192.0.2.1:5060>"
    assert (trying.call_id, trying.from_.tag, trying.to.tag) == (accepted.call_id, referral.call, "f")
    assert [str(route.uri) for route in trying.route] == ["sip:192.0.2.7;lr"]
    assert str(trying.uri) == "sip:alice@192.0.2.2"
    assert frag(trying)[1] == "refer"
    assert desk.agent.counters().dialogs == 1
    assert desk.agent.uses(FLOW)
    desk.say(respond(trying, 200, tag=None))
    referral.finish(desk.now, 200, "OK")
    desk.say(respond(only(desk.hear()), 200, tag=None))
    assert desk.told == [ReferralDone(told=True)]
    desk.assert_clean()


def test_a_refer_outside_of_calls_that_wants_no_notify_leaves_nothing() -> None:
    desk = Desk(**OUTSIDE)
    referral = desk.refer(headers=("Refer-Sub: false",))
    referral.accept(desk.now)
    accepted = only(desk.hear())
    assert (accepted.status, str(accepted.contact)) == (202, "<sip:192.0.2.1:5060>")
    referral.finish(desk.now, 200, "OK")
    desk.assert_clean()


def test_a_refer_that_has_waited_too_long_cannot_be_accepted() -> None:
    desk = Desk(**OUTSIDE)
    referral = desk.refer()
    assert statuses(desk.wait(16)) == [500]
    with pytest.raises(LocalProtocolError):
        referral.accept(desk.now)
    assert referral.state is ReferralState.DONE
    with pytest.raises(LocalProtocolError, match="cannot finish"):
        referral.finish(desk.now, 200, "OK")
    desk.assert_clean()
