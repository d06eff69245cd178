"""Digest authentication of the agent, RFC 3261 section 22: what it proves when it is challenged, whom it challenges."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sip import (
    Admission,
    Answered,
    Cause,
    Ended,
    Flow,
    Guard,
    Keyring,
    LocalProtocolError,
    Login,
    Offered,
    Realm,
    Refused,
    Request,
    Requested,
    Responded,
    Response,
)
from sip.digest import Challenge, Credentials
from sip.guard import Offenders

from .test_sip_agent import ALICE, BOB, FLOW, OFFER, US, Side, accept, only, request, respond, statuses

LOGIN = Login(username="alice", password="wonderland")
FIRST = 'Digest realm="pbx", nonce="n1", algorithm=MD5, qop="auth"'
STALE = 'Digest realm="pbx", nonce="n2", algorithm=MD5, qop="auth", stale=true'
OTHER = 'Digest realm="carrier", nonce="n3", algorithm=SHA-256, qop="auth"'


def challenge(to: Request, status: int, *texts: str, tag: str = "b") -> bytes:
    name = "WWW-Authenticate" if status == 401 else "Proxy-Authenticate"
    return respond(to, status, tag=tag, headers=tuple((name, text) for text in texts))


def proofs(sent: Request, name: str = "Authorization") -> list[Credentials]:
    return [Credentials.parse(text) for text in sent.headers.get_all(name)]


def assert_right(proof: Credentials, sent: Request, *, count: int = 1) -> None:
    assert proof.uri == str(sent.uri)
    assert proof.username == "alice"
    assert proof.nonce_count == count
    assert proof.response == proof.expected_response(password="wonderland", method=sent.method, body=sent.body)


def keyed(side: Side) -> tuple[str, Request]:
    return side.calling(keyring=Keyring(LOGIN))


def up(side: Side) -> tuple[str, Request]:
    """A call of ours that is up after one challenge."""
    call, invite = keyed(side)
    _, again = side.say(challenge(invite, 401, FIRST))
    assert isinstance(again, Request)
    side.say(accept(again))
    assert isinstance(side.event(), Answered)
    return call, again


# --- What we prove


@pytest.mark.conformance("RFC 3261", "22.2", "a challenged INVITE is acknowledged and sent again, with the next CSeq")
@pytest.mark.parametrize(("status", "name"), [(401, "Authorization"), (407, "Proxy-Authorization")])
def test_a_challenged_invite_is_acknowledged_and_sent_again_with_proof(status: int, name: str) -> None:
    """RFC 3261 section 22.2: the same Call-ID and From tag, the next CSeq, a branch of its own."""
    side = Side()
    call, invite = keyed(side)
    ack, again = side.say(challenge(invite, status, FIRST))
    assert isinstance(ack, Request)
    assert isinstance(again, Request)
    assert (ack.method, ack.via.branch, ack.cseq.number) == ("ACK", invite.via.branch, 1)
    assert (again.method, again.call_id, again.from_.tag) == ("INVITE", invite.call_id, invite.from_.tag)
    assert (again.cseq.number, again.to.tag, again.body) == (2, "", OFFER)
    assert again.via.branch != invite.via.branch
    (proof,) = proofs(again, name)
    assert (proof.realm, proof.nonce, proof.qop, bool(proof.cnonce)) == ("pbx", "n1", "auth", True)
    assert_right(proof, again)
    # A 401 that is received again is acknowledged again, and nothing else.
    assert [message.method for message in side.say(challenge(invite, status, FIRST))] == ["ACK"]  # type: ignore[union-attr]
    assert side.events() == []
    side.say(accept(again))
    answered = side.event()
    assert isinstance(answered, Answered)
    assert answered.call == call
    side.do(side.agent.bye, call)
    side.assert_clean()


@pytest.mark.conformance("RFC 3261", "22.1", "the ACK to a 2xx carries the credentials of its INVITE")
def test_the_ack_to_a_2xx_carries_the_credentials_of_its_invite() -> None:
    side = Side()
    _, invite = keyed(side)
    _, again = side.say(challenge(invite, 407, FIRST))
    assert isinstance(again, Request)
    ack = only(side.say(accept(again)))
    assert (ack.method, ack.cseq.number) == ("ACK", 2)
    assert ack.headers.get_all("Proxy-Authorization") == again.headers.get_all("Proxy-Authorization")


def test_a_proxy_and_the_callee_may_both_ask() -> None:
    side = Side()
    _, invite = keyed(side)
    _, second = side.say(challenge(invite, 407, FIRST))
    assert isinstance(second, Request)
    _, third = side.say(challenge(second, 401, OTHER))
    assert isinstance(third, Request)
    assert third.cseq.number == 3
    (outer,) = proofs(third, "Proxy-Authorization")
    (inner,) = proofs(third)
    assert (outer.realm, inner.realm, inner.algorithm) == ("pbx", "carrier", "SHA-256")
    assert_right(outer, third, count=2)
    assert_right(inner, third)


@pytest.mark.conformance("RFC 7616", "3.4", "a nonce is used again with a higher count")
def test_the_requests_of_a_call_use_its_nonce_again_with_a_higher_count() -> None:
    side = Side()
    call, _ = up(side)
    reinvite = only(side.do(side.agent.reoffer, call, body=OFFER))
    assert_right(proofs(reinvite)[0], reinvite, count=2)
    side.say(accept(reinvite))
    side.events()
    side.agent.request_within(side.now, call, "MESSAGE", body=b"hi", content_type="text/plain")
    message = only(side.hear())
    assert_right(proofs(message)[0], message, count=3)
    bye = only(side.do(side.agent.bye, call))
    assert_right(proofs(bye)[0], bye, count=4)
    assert bye.cseq.number == message.cseq.number + 1 == reinvite.cseq.number + 2


@pytest.mark.conformance("RFC 3261", "22.2", "requests within a dialog answer challenges too")
@pytest.mark.parametrize("method", ["INVITE", "BYE", "REFER", "MESSAGE"])
def test_a_nonce_that_grew_stale_within_the_call_is_replaced_once(method: str) -> None:
    side = Side()
    call, _ = up(side)
    verbs: dict[str, Callable[[], Any]] = {
        "INVITE": lambda: side.agent.reoffer(side.now, call, body=OFFER),
        "BYE": lambda: side.agent.bye(side.now, call),
    }
    verbs.get(method, lambda: side.agent.request_within(side.now, call, method))()
    sent = only(side.hear())
    side.events()
    again = side.say(challenge(sent, 401, STALE))[-1]
    assert isinstance(again, Request)
    assert (again.method, again.cseq.number, again.to.tag) == (method, sent.cseq.number + 1, "b")
    assert proofs(again)[0].nonce == "n2"
    assert_right(proofs(again)[0], again)
    assert side.events() == []
    side.say(accept(again) if method == "INVITE" else respond(again, 200))
    if method in ("REFER", "MESSAGE"):
        responded = side.event()
        assert isinstance(responded, Responded)
        assert responded.seq == again.cseq.number
    if method != "BYE":
        bye = only(side.do(side.agent.bye, call))
        assert bye.cseq.number == again.cseq.number + 1
        side.say(respond(bye, 200))
    side.assert_clean()


@pytest.mark.parametrize("second", [FIRST, FIRST.replace("n1", "n9")])
def test_a_password_that_is_refused_is_not_offered_again(second: str) -> None:
    """RFC 3261 section 22.2: no loop, whatever the nonce."""
    side = Side()
    call, invite = keyed(side)
    _, again = side.say(challenge(invite, 401, FIRST))
    assert isinstance(again, Request)
    assert only(side.say(challenge(again, 401, second))).method == "ACK"
    assert side.event() == Ended(call=call, cause=Cause.REMOTE_REJECT, status=401, reason="Unauthorized")
    side.assert_clean()


def test_a_stale_nonce_is_replaced_once_and_no_more() -> None:
    side = Side()
    call, sent = keyed(side)
    for text, messages in ((FIRST, 2), (STALE, 2), (STALE, 1)):
        heard = side.say(challenge(sent, 401, text))
        assert len(heard) == messages
        if messages == 2:
            assert isinstance(heard[1], Request)
            sent = heard[1]
    assert side.event() == Ended(call=call, cause=Cause.REMOTE_REJECT, status=401, reason="Unauthorized")


def test_without_a_login_a_challenge_is_a_refusal() -> None:
    side = Side()
    call, invite = side.calling()
    side.say(challenge(invite, 407, FIRST))
    reason = "Proxy Authentication Required"
    assert side.event() == Ended(call=call, cause=Cause.REMOTE_REJECT, status=407, reason=reason)


def test_a_challenged_reoffer_that_cannot_be_proven_leaves_the_call_as_it_was() -> None:
    side = Side()
    call, _ = side.connected()
    reinvite = only(side.do(side.agent.reoffer, call, body=OFFER))
    side.say(challenge(reinvite, 401, FIRST))
    assert isinstance(side.event(), Refused)
    side.do(side.agent.bye, call)


@pytest.mark.conformance("RFC 3261", "12.1.2", "a callee that sends no To tag is called")
def test_a_challenged_reoffer_stays_within_a_dialog_whose_peer_has_no_tag() -> None:
    side = Side()
    call, invite = keyed(side)
    fields = [("Contact", "<sip:bob@192.0.2.2>")]
    side.say(invite.response(200, headers=fields, body=b"v=0 answer", content_type="application/sdp").serialise())
    again = only(side.do(side.agent.reoffer, call, body=OFFER))
    assert again.to.tag == ""
    ack, proven = side.say(again.response(407, headers=[("Proxy-Authenticate", FIRST)]).serialise())
    assert (ack.method, proven.method) == ("ACK", "INVITE")  # type: ignore[union-attr]
    bye = only(side.do(side.agent.bye, call))
    assert (bye.method, bye.to.tag, bye.call_id) == ("BYE", "", invite.call_id)


def test_giving_up_before_the_challenge_sends_no_second_invite() -> None:
    side = Side()
    call, invite = keyed(side)
    assert side.do(side.agent.cancel, call) == []
    assert only(side.say(challenge(invite, 401, FIRST))).method == "ACK"
    assert side.event() == Ended(call=call, cause=Cause.LOCAL_CANCEL, status=401, reason="Unauthorized")
    side.assert_clean()


@pytest.mark.conformance("RFC 3261", "9.1", "no CANCEL is sent before a provisional response")
def test_giving_up_after_the_challenge_waits_for_a_sign_of_life_of_the_second_invite() -> None:
    """RFC 3261 section 9.1: the 100 to the first INVITE says nothing about the second."""
    side = Side()
    call, invite = keyed(side)
    side.say(respond(invite, 100, tag=None))
    _, again = side.say(challenge(invite, 401, FIRST))
    assert isinstance(again, Request)
    assert side.do(side.agent.cancel, call) == []
    cancel = only(side.say(respond(again, 180)))
    assert (cancel.method, cancel.via.branch, cancel.cseq.number) == ("CANCEL", again.via.branch, 2)
    assert proofs(cancel) == []
    side.say(respond(cancel, 200))
    side.say(respond(again, 487))
    assert side.event() == Ended(call=call, cause=Cause.LOCAL_CANCEL, status=487, reason="Request Terminated")
    side.assert_clean()


def test_the_ring_timeout_runs_on_over_the_challenge() -> None:
    side = Side()
    call, invite = side.calling(keyring=Keyring(LOGIN), ring_timeout_s=10.0)
    side.wait(6.0)
    _, again = side.say(challenge(invite, 401, FIRST))
    assert isinstance(again, Request)
    side.say(respond(again, 180))
    (cancel,) = side.wait(4.0)
    assert isinstance(cancel, Request)
    assert cancel.method == "CANCEL"
    assert call


def test_within_a_call_of_the_peers_the_host_is_asked_who_to_be() -> None:
    asked: list[tuple[str, Flow]] = []

    def login_for(sent: Request, flow: Flow) -> Login | None:
        asked.append((sent.method, flow))
        return LOGIN

    side = Side(login_for=login_for)
    call = side.confirmed()
    reinvite = only(side.do(side.agent.reoffer, call, body=OFFER))
    _, again = side.say(challenge(reinvite, 407, FIRST))
    assert isinstance(again, Request)
    assert_right(proofs(again, "Proxy-Authorization")[0], again)
    side.say(accept(again))
    bye = only(side.do(side.agent.bye, call))
    assert_right(proofs(bye, "Proxy-Authorization")[0], bye, count=2)
    assert asked == [("INVITE", FLOW)]


def test_a_request_outside_of_a_dialog_is_proven_and_its_last_number_told() -> None:
    side = Side()
    keyring = Keyring(LOGIN)
    key = side.agent.request(0.0, "REGISTER", BOB, FLOW, from_=ALICE, keyring=keyring, call_id="c", seq=5)
    register = only(side.hear())
    again = only(side.say(challenge(register, 401, FIRST)))
    assert (again.cseq.number, again.call_id, again.from_) == (6, "c", register.from_)
    assert_right(proofs(again)[0], again)
    side.say(respond(again, 200))
    responded = side.event()
    assert isinstance(responded, Responded)
    assert (responded.request, responded.seq) == (key, 6)
    side.agent.request(0.0, "REGISTER", BOB, FLOW, from_=ALICE, keyring=keyring, call_id="c", seq=7)
    assert_right(proofs(renewed := only(side.hear()))[0], renewed, count=2)
    side.assert_clean()


@pytest.mark.parametrize("body", [b"", OFFER])
def test_a_challenged_update_is_sent_again_with_proof(body: bytes) -> None:
    side = Side()
    call, invite = keyed(side)
    fields = (("Contact", "<sip:bob@192.0.2.2>"), ("Allow", "UPDATE"))
    side.say(invite.response(200, to_tag="b", headers=fields, body=b"v=0", content_type="application/sdp").serialise())
    assert isinstance(side.event(), Answered)
    update = only(side.do(side.agent.update, call, body=body))
    again = only(side.say(challenge(update, 401, FIRST)))
    assert (again.method, again.body, again.cseq.number) == ("UPDATE", body, 3)
    assert_right(proofs(again)[0], again)
    assert side.events() == []
    side.say(respond(again, 200, tag=None))
    assert isinstance(side.event(), Answered)


def test_a_challenged_refresh_of_the_session_is_sent_again_with_proof() -> None:
    """RFC 4028 section 7.4: it is a re-INVITE as any other."""
    side = Side(session_expires_s=600)
    keyed_call, invite = keyed(side)
    side.say(accept(invite))
    assert isinstance(side.event(), Answered)
    refresh = next(message for message in side.wait(300) if isinstance(message, Request))
    assert (refresh.method, refresh.body) == ("INVITE", OFFER)
    ack, again = side.say(challenge(refresh, 407, FIRST))
    assert isinstance(ack, Request)
    assert isinstance(again, Request)
    assert (ack.method, again.method, again.cseq.number) == ("ACK", "INVITE", 3)
    assert_right(proofs(again, "Proxy-Authorization")[0], again)
    assert only(side.say(accept(again))).method == "ACK"
    assert side.events() == []
    assert only(side.do(side.agent.bye, keyed_call)).method == "BYE"


ASKED = st.text(st.sampled_from('Digestralmnoc="\\, =-_ä1'), max_size=40) | st.sampled_from(
    [FIRST, STALE, OTHER, 'Digest realm="", nonce=""', 'Digest realm="\\"", nonce="\\\\", opaque="\\"", qop="auth-int"']
)


@settings(deadline=None, max_examples=200)
@given(texts=st.lists(st.tuples(st.sampled_from([401, 407]), st.lists(ASKED, max_size=3)), min_size=10, max_size=10))
def test_whatever_is_asked_for_a_call_ends_after_a_few_tries(texts: list[tuple[int, list[str]]]) -> None:
    side = Side()
    call, sent = keyed(side)
    tries = 1
    for status, asked in texts:
        _, *again = side.say(challenge(sent, status, *asked))
        if not again:
            break
        assert isinstance(again[0], Request)
        sent = again[0]
        tries += 1
    # RFC 3261 section 22.2: two answers at most for each of four protection spaces.
    assert tries <= 9
    ended = side.event()
    assert isinstance(ended, Ended)
    assert (ended.call, ended.cause) == (call, Cause.REMOTE_REJECT)


# --- Whom we challenge


class Door(Side):
    """An agent that has everybody prove who it is, and one peer of the test's."""

    def __init__(self, **arguments: Any) -> None:
        realm = Realm("us", secret=bytes(16), algorithms=("MD5",))
        guard = Guard(realm=realm, password_of={"alice": "wonderland"}.get)
        served = {"serve_outside": {"MESSAGE": ("text/plain",)}}
        super().__init__(guard_of=lambda message, flow: guard, **served, **arguments)
        self.tries = 0

    def knock(self, method: str = "INVITE", *, proof: str = "", flow: Flow = FLOW, **arguments: Any) -> list[Any]:
        """A new request of the peer's, with `proof` if it has one; returns what the agent sends at once."""
        self.tries += 1
        named = {"branch": f"z9hG4bK-{self.tries}", "call_id": f"c{self.tries}", **arguments}
        headers = (f"Authorization: {proof}",) if proof else ()
        return self.say(request(method, headers=headers, **named), flow)

    def proof(self, method: str = "INVITE", *, flow: Flow = FLOW, password: str = "wonderland", **named: Any) -> str:
        """The answer to a challenge that is asked for first."""
        refused = only(self.knock(method, flow=flow))
        asked = Challenge.parse(refused.headers.get("WWW-Authenticate"))
        return str(
            asked.credentials(
                method=method,
                uri="sip:bob@192.0.2.1",
                password=password,
                cnonce="c",
                **{"username": "alice", **named},
            )
        )

    def guess(self, **named: Any) -> str:
        return self.proof(password="guess", **named)


@pytest.mark.conformance("RFC 3261", "22.1", "a request without credentials is challenged, and nothing is kept of it")
def test_a_call_without_proof_is_challenged_statelessly() -> None:
    side = Door()
    refused = only(side.knock())
    assert (refused.status, refused.to.tag != "") == (401, True)
    asked = Challenge.parse(refused.headers.get("WWW-Authenticate"))
    assert (asked.realm, asked.algorithm, asked.qop, asked.stale) == ("us", "MD5", ("auth",), False)
    assert side.events() == []
    assert side.agent.counters().transactions == 0
    # RFC 3261 section 22.1: ACK and CANCEL are not challenged.
    assert side.say(request("ACK", branch="z9hG4bK-1", to_tag=refused.to.tag, call_id="c1")) == []


def test_a_call_with_proof_is_offered_with_its_user() -> None:
    side = Door()
    assert statuses(side.knock(proof=side.proof())) == [100]
    offered = side.event()
    assert isinstance(offered, Offered)
    assert offered.user == "alice"
    side.do(side.agent.reject, offered.call, status=486)


def test_other_requests_that_begin_something_are_challenged_too_and_options_are_not() -> None:
    side = Door()
    text: dict[str, Any] = {"body": b"hi", "content_type": "text/plain"}
    assert statuses(side.knock("MESSAGE", **text)) == [401]
    side.knock("MESSAGE", proof=side.proof("MESSAGE"), **text)
    requested = side.event()
    assert isinstance(requested, Requested)
    assert requested.user == "alice"
    assert statuses(side.knock("OPTIONS")) == [200]


@pytest.mark.conformance("RFC 3261", "22.1", "ACK and CANCEL are never challenged")
def test_within_a_call_nobody_is_asked_again() -> None:
    side = Door()
    side.knock(proof=side.proof())
    offered = side.event()
    assert isinstance(offered, Offered)
    side.do(side.agent.answer, offered.call, body=OFFER)
    same = {"call_id": f"c{side.tries}", "to_tag": offered.call}
    side.say(request("ACK", branch="z9hG4bK-a", **same))
    side.events()
    assert statuses(side.say(request("BYE", branch="z9hG4bK-b", cseq=2, **same))) == [200]


def test_where_no_guard_stands_nobody_is_asked() -> None:
    side = Side(guard_of=lambda message, flow: None)
    side.offered()


def test_a_full_server_says_so_before_it_asks() -> None:
    side = Door()
    side.agent.admit = lambda *_: Admission(status=503)
    assert statuses(side.knock()) == [503]


@pytest.mark.conformance("RFC 7616", "5.5", "a nonce count that was used is refused")
def test_a_replayed_proof_is_refused_as_stale() -> None:
    side = Door()
    proof = side.proof()
    side.knock(proof=proof)
    replayed = only(side.knock(proof=proof))
    assert replayed.status == 401
    assert Challenge.parse(replayed.headers.get("WWW-Authenticate")).stale
    assert side.agent.counters().wrong_proofs == 0


def told(side: Side, within_s: float) -> list[tuple[float, int]]:
    """When and how requests are finally answered in the time to come, without what is said again."""
    begin, before = side.now, {message.via.branch for _, message, _ in side.sent if finally_answers(message)}
    side.wait(within_s)
    heard: dict[str, tuple[float, int]] = {}
    for at, message, _ in side.sent:
        if at > begin and finally_answers(message) and message.via.branch not in before:
            assert isinstance(message, Response)
            heard.setdefault(message.via.branch, (pytest.approx(at - begin), message.status))
    return list(heard.values())


def finally_answers(message: Request | Response) -> bool:
    return isinstance(message, Response) and message.status >= 200


def test_guesses_of_an_address_are_answered_ever_more_slowly() -> None:
    side = Door()
    for delay_s in (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 32.0):
        guess = side.guess()
        assert statuses(side.knock(proof=guess)) == [100]
        assert told(side, delay_s + 1.0) == [(delay_s, 401)]
    assert side.agent.counters().wrong_proofs == 8
    assert side.events() == []
    side.assert_clean()
    assert side.agent.counters().held == 0


@pytest.mark.parametrize("named", [{"password": "guess"}, {"username": "mallory"}])
@pytest.mark.conformance("RFC 3261", "22.4", "an unknown user and a wrong password are answered alike")
def test_an_unknown_user_and_a_wrong_password_are_answered_alike(named: dict[str, Any]) -> None:
    side = Door()
    side.knock("MESSAGE", proof=side.proof("MESSAGE", **named), body=b"hi", content_type="text/plain")
    side.wait(0.49)
    assert len(side.sent) == 1
    (refused,) = side.wait(0.02)
    assert isinstance(refused, Response)
    asked = Challenge.parse(refused.headers.get("WWW-Authenticate") or "")
    assert (refused.status, refused.reason, asked.stale, len(refused.headers)) == (401, "Unauthorized", False, 6)


def test_a_retransmitted_guess_is_one_guess() -> None:
    side = Door()
    guess = side.guess()
    side.knock(proof=guess)
    for _ in range(3):
        side.tries -= 1
        assert statuses(side.knock(proof=guess)) == [100]
    assert side.agent.counters().wrong_proofs == 1


def test_guesses_side_by_side_are_looked_at_one_after_the_other() -> None:
    side = Door()
    guesses = [side.guess() for _ in range(3)]
    for guess in guesses:
        side.knock(proof=guess)
    assert side.agent.counters().wrong_proofs == 1
    assert told(side, 10.0) == [(0.5, 401), (1.5, 401), (3.5, 401)]
    assert side.agent.counters().wrong_proofs == 3


def test_the_right_proof_of_an_offender_waits_and_is_then_taken() -> None:
    side = Door()
    guess, right = side.guess(), side.proof()
    side.knock(proof=guess)
    side.knock(proof=right)
    assert side.events() == []
    side.wait(0.6)
    offered = side.event()
    assert isinstance(offered, Offered)
    assert offered.user == "alice"
    side.do(side.agent.reject, offered.call, status=486)
    side.assert_clean()


def test_nobody_else_waits_for_an_offender() -> None:
    side = Door()
    other = Flow("UDP", US, ("192.0.2.9", 5060))
    side.knock(proof=side.guess())
    side.knock(proof=side.proof(flow=other), flow=other)
    assert isinstance(side.event(), Offered)


def test_an_address_that_is_made_up_cannot_be_made_an_offender() -> None:
    """Whoever forges sources never hears the nonce that a guess needs."""
    side = Door()
    stolen = side.guess(flow=Flow("UDP", US, ("192.0.2.9", 5060)))
    refused = only(side.knock(proof=stolen))
    assert refused.status == 401
    assert side.agent.counters().wrong_proofs == 0


def test_what_is_held_is_bounded_and_beyond_it_there_is_silence() -> None:
    side = Door()
    guesses = [side.guess() for _ in range(9)]
    heard = [statuses(side.knock(proof=guess)) for guess in guesses]
    assert heard == [[100]] * 4 + [[]] * 5
    assert side.agent.counters().held == 4
    side.assert_clean()


def test_a_call_that_is_held_can_be_cancelled() -> None:
    side = Door()
    guess, right = side.guess(), side.proof()
    side.knock(proof=guess)
    side.knock(proof=right)
    last = {"branch": f"z9hG4bK-{side.tries}", "call_id": f"c{side.tries}"}
    assert statuses(side.say(request("CANCEL", **last))) == [200, 487]
    side.wait(5)
    assert side.events() == []
    side.assert_clean()


def test_an_impossible_realm_is_our_fault() -> None:
    with pytest.raises(LocalProtocolError):
        Realm("us", secret=b"short")


def test_no_number_of_addresses_has_more_than_a_thousand_requests_held() -> None:
    offenders = Offenders()
    hosts = [f"10.0.{number // 256}.{number % 256}" for number in range(1024)]
    assert all(offenders.admit(host) for host in hosts)
    assert not offenders.admit("10.9.9.9")
    offenders.dismiss(hosts[0])
    assert offenders.admit("10.9.9.9")


def test_an_ipv6_network_is_one_address_and_the_oldest_is_forgotten() -> None:
    offenders = Offenders(addresses=2)
    assert offenders.offend("2001:db8::1", 0.0) == 0.5
    assert offenders.offend("2001:db8::2", 0.0) == 1.5
    assert offenders.until("2001:db8:0:1::2", 0.0) == 0.0
    for host in ("192.0.2.7", "192.0.2.8"):
        offenders.offend(host, 1.0)
    assert offenders.until("2001:db8::1", 1.0) == 1.0
    # Who is good for a quarter of an hour begins anew.
    assert offenders.offend("192.0.2.7", 1000.0) == 1000.5
