"""INVITE with Replaces (RFC 3891), on the bytes of the wire."""

from __future__ import annotations

import pytest

from sip import Cause, Ended, LocalProtocolError, NameAddr, Offered, Progressed, Uri, refer_to_peer_of
from sip.dialog import Dialog
from sip.replaces import Replaces

from .test_sip_agent import ANSWER, Side, accept, only, request, respond, statuses


def replacing(
    replaces: str, *more: str, method: str = "INVITE", call_id: str = "c2", branch: str = "z9hG4bK-new"
) -> bytes:
    """A request of somebody else's, with a Replaces."""
    fields = tuple(f"Replaces: {value}" for value in (replaces, *more))
    return request(method, call_id=call_id, from_tag="other", branch=branch, headers=fields)


def offered(side: Side, replaces: str) -> Offered:
    assert statuses(side.say(replacing(replaces))) == [100]
    event = side.event()
    assert isinstance(event, Offered)
    return event


@pytest.mark.conformance("RFC 3891", "3", "an accepted INVITE with Replaces ends the dialog that it names with BYE")
def test_the_call_that_is_replaced_ends_once_the_new_one_is_answered() -> None:
    side = Side()
    old = side.confirmed()
    new = offered(side, f"c1;to-tag={old};from-tag=f")
    assert new.replaces == old
    assert side.do(side.agent.ring, new.call)[0].status == 180  # type: ignore[union-attr]
    ok, bye = side.do(side.agent.answer, new.call, body=ANSWER)
    assert (ok.call_id, getattr(ok, "status", None)) == ("c2", 200)
    assert (bye.call_id, getattr(bye, "method", ""), bye.to.tag, bye.from_.tag) == ("c1", "BYE", "f", old)
    assert side.event() == Ended(call=old, cause=Cause.LOCAL_BYE, status=None, reason="")
    side.do(side.agent.bye, new.call)
    side.assert_clean()


@pytest.mark.conformance("RFC 3891", "3", "an INVITE with Replaces that is not accepted leaves the dialog unchanged")
def test_a_refused_replacement_leaves_the_call_as_it_was() -> None:
    side = Side()
    old = side.confirmed()
    new = offered(side, f"c1;to-tag={old};from-tag=f")
    assert statuses(side.do(side.agent.reject, new.call, status=488)) == [488]
    assert [event.call for event in side.events()] == [new.call]  # type: ignore[union-attr]
    assert only(side.do(side.agent.bye, old)).call_id == "c1"


def test_a_call_that_ends_before_its_replacement_is_answered_is_no_trouble() -> None:
    side = Side()
    old = side.confirmed()
    new = offered(side, f"c1;to-tag={old};from-tag=f")
    assert statuses(side.say(request("BYE", branch="z9hG4bK-bye", to_tag=old, cseq=2))) == [200]
    assert statuses(side.do(side.agent.answer, new.call, body=ANSWER)) == [200]


@pytest.mark.conformance("RFC 3891", "3", "a Replaces that names no dialog gets 481")
@pytest.mark.parametrize(
    "named", ["c1;to-tag={old};from-tag=g", "c9;to-tag={old};from-tag=f", "c1;to-tag=x;from-tag=f"]
)
def test_no_such_dialog(named: str) -> None:
    side = Side()
    old = side.confirmed()
    assert statuses(side.say(replacing(named.format(old=old)))) == [481]
    assert side.events() == []


@pytest.mark.conformance("RFC 3891", "3", "more than one Replaces gets 400")
def test_two_replaces() -> None:
    side = Side()
    old = side.confirmed()
    named = f"c1;to-tag={old};from-tag=f"
    assert statuses(side.say(replacing(named, named))) == [400]
    assert statuses(side.say(replacing("c1"))) == [400]
    assert side.events() == []


@pytest.mark.conformance("RFC 3891", "3", "Replaces in a request other than INVITE gets 400")
def test_replaces_outside_of_an_invite() -> None:
    side = Side()
    assert statuses(side.say(replacing("c1;to-tag=a;from-tag=f", method="OPTIONS"))) == [400]


@pytest.mark.conformance("RFC 3891", "3", "early-only and a confirmed dialog get 486")
def test_early_only() -> None:
    side = Side()
    old = side.confirmed()
    assert statuses(side.say(replacing(f"c1;to-tag={old};from-tag=f;early-only"))) == [486]
    assert side.events() == []


@pytest.mark.conformance("RFC 3891", "3", "an early dialog that we did not begin is not replaced: 481")
def test_a_call_that_we_have_not_answered_is_not_replaced() -> None:
    side = Side()
    old = side.offered()
    assert statuses(side.say(replacing(f"c1;to-tag={old};from-tag=f"))) == [481]


@pytest.mark.conformance("RFC 3891", "3", "an early dialog that we began is replaced, and cancelled")
def test_a_call_of_ours_that_rings_is_picked_up() -> None:
    side = Side()
    old, invite = side.calling()
    side.say(respond(invite, 180, headers=(("Contact", "<sip:bob@192.0.2.2>"),)))
    assert isinstance(side.event(), Progressed)
    new = offered(side, f"{invite.call_id};to-tag={invite.from_.tag};from-tag=b;early-only")
    assert new.replaces == old
    ok, cancel = side.do(side.agent.answer, new.call, body=ANSWER)
    assert (getattr(ok, "status", None), getattr(cancel, "method", None)) == (200, "CANCEL")
    assert cancel.call_id == invite.call_id


def test_each_early_dialog_of_a_forked_call_is_found() -> None:
    side = Side()
    old, invite = side.calling()
    for tag in ("b1", "b2"):
        side.say(respond(invite, 180, tag=tag, headers=(("Contact", "<sip:bob@192.0.2.2>"),)))
        side.events()
    for number, tag in enumerate(("b1", "b2")):
        named = f"{invite.call_id};to-tag={invite.from_.tag};from-tag={tag}"
        assert statuses(side.say(replacing(named, call_id=f"n{number}", branch=f"z9hG4bK-n{number}"))) == [100]
        (event,) = side.events()
        assert isinstance(event, Offered)
        assert event.replaces == old


@pytest.mark.conformance("RFC 3891", "3", "a dialog that is ending is not replaced: 603")
def test_a_call_that_is_ending_is_not_replaced() -> None:
    side = Side()
    old = side.confirmed()
    side.do(side.agent.bye, old)
    assert isinstance(side.event(), Ended)
    assert statuses(side.say(replacing(f"c1;to-tag={old};from-tag=f"))) == [603]


@pytest.mark.conformance("RFC 3891", "6.2", "support is advertised by the option tag replaces, which may be required")
def test_replaces_is_advertised_and_may_be_required() -> None:
    side = Side()
    _, invite = side.calling()
    assert "replaces" in invite.supported
    old = side.confirmed()
    data = request(
        "INVITE",
        call_id="c2",
        branch="z9hG4bK-n",
        headers=("Require: replaces", f"Replaces: c1;to-tag={old};from-tag=f"),
    )
    assert statuses(side.say(data)) == [100]


@pytest.mark.conformance("RFC 3891", "6.1", "a tag of 0 stands for a peer that sets none")
def test_a_peer_without_a_tag_is_named_by_a_zero() -> None:
    dialog = Dialog(
        call_id="c",
        local="<sip:a@x>;tag=1",
        local_tag="1",
        local_seq=1,
        remote="<sip:b@y>",
        remote_tag="",
        remote_seq=None,
        target=Uri(host="y"),
        routes=(),
    )
    assert str(Replaces.at_peer(dialog)) == "c;to-tag=0;from-tag=1"
    assert Replaces.parse("c;to-tag=1;from-tag=0").names(dialog)
    assert not Replaces.parse("c;to-tag=1;from-tag=2").names(dialog)


def test_a_replaces_reads_as_it_was_written() -> None:
    text = "a@b;to-tag=1;from-tag=2;early-only"
    assert str(Replaces.parse(text)) == text


@pytest.mark.conformance("RFC 5589", "7.1", "an attended transfer refers to the target with a Replaces in the URI")
def test_the_target_of_an_attended_transfer_is_told_in_its_own_words() -> None:
    side = Side()
    call, invite = side.calling()
    side.say(accept(invite, contact="<sip:bob@192.0.2.2;transport=udp>"))
    target = refer_to_peer_of(side.agent, call)
    replaces = f"{invite.call_id}%3Bto-tag%3Db%3Bfrom-tag%3D{invite.from_.tag}"
    assert str(target) == f"<sip:bob@192.0.2.2;transport=udp?Replaces={replaces}&Require=replaces>"
    parsed = NameAddr.parse(str(target))
    # What the target gets names its own dialog with us.
    assert dict(parsed.uri.headers)["Replaces"] == f"{invite.call_id};to-tag=b;from-tag={invite.from_.tag}"
    with pytest.raises(LocalProtocolError):
        refer_to_peer_of(side.agent, "nobody")
