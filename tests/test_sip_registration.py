"""The registration client: one rule, one test, on the bytes of the wire and in virtual time (RFC 3261 section 10)."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sip import (
    Account,
    Flow,
    FlowFailed,
    Login,
    NameAddr,
    Registered,
    Registration,
    RegistrationFailed,
    RegistrationState,
    Request,
    Responded,
    Response,
    Unregistered,
    Uri,
    parse_datagram,
)
from sip.digest import Credentials
from sip.registration import (
    REGISTRATION_DEADLINES,
    REGISTRATION_ROWS,
    RegistrationDeadline,
    RegistrationEvent,
    RegistrationInput,
    retry_after_s,
)

from .test_sip_agent import FLOW, PEER, US, Side

ACCOUNT = Account(
    registrar=Uri.parse("sip:example.com"),
    address=NameAddr(uri=Uri.parse("sip:alice@example.com")),
    login=Login(username="alice", password="wonderland"),
    expires_s=600,
)
STREAM = Flow("TCP", US, PEER)
CHALLENGE = ("WWW-Authenticate", 'Digest realm="example.com", nonce="n1", algorithm=MD5, qop="auth"')
Field = tuple[str, str]


class Phone(Side):
    """An agent with one registration; the test is its registrar. Keep-alives are told apart from messages."""

    def __init__(self, *flows: Flow, seed: int = 1, account: Account = ACCOUNT, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.keep_alives: list[float] = []
        self.told: list[RegistrationEvent] = []
        self.registration = Registration(self.agent, account, flows or (FLOW,), random=Random(seed), now=0.0)
        self.last = self.register()

    def register(self) -> Request:
        """The REGISTER that has been sent, and nothing else."""
        (sent,) = self.hear()
        assert isinstance(sent, Request)
        assert sent.method == "REGISTER"
        self.last = sent
        return sent

    def hear(self) -> list[Request | Response]:
        wire = self.agent.data_to_send()
        self.keep_alives += [self.now for data, _ in wire if data == b"\r\n\r\n"]
        new = [(self.now, parse_datagram(data), flow) for data, flow in wire if data != b"\r\n\r\n"]
        self.sent += new
        return [message for _, message, _ in new]

    def pump(self) -> None:
        for event in self.events():
            assert isinstance(event, Responded | FlowFailed)
            self.registration.receive(event, self.now)
        self.told += iter(self.registration.next_event, None)

    def respond(self, status: int, *fields: Field, to: Request | None = None, seen_at: Field | None = None) -> None:
        """The registrar responds to the REGISTER that was sent last; `seen_at` is what it says in the Via."""
        response = (to or self.last).response(status, to_tag="r", headers=fields)
        if seen_at is not None:
            via = response.via.with_("received", seen_at[0]).with_("rport", seen_at[1])
            response = Response(
                status=status, reason=response.reason, headers=response.headers.with_("Via", str(via)), body=b""
            )
        self.agent.receive(response.serialise(), FLOW, self.now)
        self.pump()

    def pass_time(self, seconds: float) -> None:
        """Time passes; what is sent meanwhile is not heard yet."""
        end = self.now + seconds
        while True:
            wakes = [at for at in (self.agent.wake_at(), self.registration.wake_at()) if at is not None]
            if not wakes or min(wakes) > end:
                break
            self.now = max(self.now, min(wakes))
            self.agent.handle_timer(self.now)
            self.pump()
            self.registration.handle_timer(self.now)
            self.pump()
        self.now = end

    def sends_next(self, within_s: float = 7200.0) -> float:
        """Wait for the next REGISTER; returns how long that took."""
        begin = self.now
        while self.now < begin + within_s:
            wakes = [at for at in (self.agent.wake_at(), self.registration.wake_at()) if at is not None]
            self.pass_time(max(0.0, min(wakes) - self.now))
            heard = self.hear()
            if heard:
                (sent,) = heard
                assert isinstance(sent, Request)
                self.last = sent
                return self.now - begin
        raise AssertionError("no REGISTER")

    def event(self) -> Any:
        (event,) = self.told
        self.told.clear()
        return event

    def registered(self, expires_s: int = 600) -> None:
        self.respond(200, ("Contact", f"{contact_of(self.last)};expires={expires_s}"))
        assert isinstance(self.event(), Registered)

    def fails(self, *fields: Field, status: int = 500) -> float:
        self.respond(status, *fields)
        failed = self.event()
        assert isinstance(failed, RegistrationFailed)
        assert failed.status == status
        return failed.retry_in_s


def contact_of(register: Request) -> NameAddr:
    assert register.contact is not None
    return NameAddr(uri=register.contact.uri)


# --- The table


def test_every_state_of_a_registration_reaches_the_end() -> None:
    for state in RegistrationState:
        reached = {state}
        while grown := {to for (at, _), (to, _) in REGISTRATION_ROWS.items() if at in reached} - reached:
            reached |= grown
        assert RegistrationState.UNREGISTERED in reached, state


def test_every_deadline_of_a_registration_has_a_row() -> None:
    waited = {(state, deadline) for state, kinds in REGISTRATION_DEADLINES.items() for deadline in kinds}
    rows = {(state, kind) for state, kind in REGISTRATION_ROWS if isinstance(kind, RegistrationDeadline)}
    assert waited == rows


def test_every_response_has_a_row_where_one_may_come() -> None:
    waiting = {state for state, happening in REGISTRATION_ROWS if happening is RegistrationInput.REFUSED}
    for happening in (RegistrationInput.GRANTED, RegistrationInput.TOO_BRIEF):
        assert {state for state, kind in REGISTRATION_ROWS if kind is happening} == waiting


# --- The request


@pytest.mark.conformance("RFC 3261", "10.2", "a REGISTER names the registrar's domain without a user, and From is To")
def test_the_first_register_is_whole() -> None:
    phone = Phone()
    sent = phone.last
    assert str(sent.uri) == "sip:example.com"
    assert (str(sent.to.uri), str(sent.from_.uri), sent.to.tag) == ("sip:alice@example.com",) * 2 + ("",)
    assert sent.headers.get("Contact") == "<sip:alice@192.0.2.1:5060>;expires=600"
    assert sent.expires == 600
    assert "Authorization" not in sent.headers


@pytest.mark.conformance("RFC 3261", "10.2", "all REGISTERs have one Call-ID and From tag, and each the next CSeq")
def test_every_register_has_the_same_call_id_and_the_next_number() -> None:
    phone = Phone()
    first = phone.last
    phone.respond(401, CHALLENGE)
    second = phone.register()
    phone.registered()
    phone.sends_next()
    third = phone.last
    assert {message.call_id for message in (first, second, third)} == {first.call_id}
    assert {message.from_ for message in (first, second, third)} == {first.from_}
    assert [message.cseq.number - first.cseq.number for message in (first, second, third)] == [0, 1, 2]


@pytest.mark.conformance("RFC 3261", "10.2.4", "the binding is renewed by the time in our Contact, then by Expires")
@pytest.mark.parametrize(
    ("fields", "granted_s"),
    [
        ([("Contact", "<sip:alice@192.0.2.1:5060>;expires=300"), ("Expires", "900")], 300),
        ([("Contact", "<sip:other@192.0.2.7>;expires=50, <sip:alice@192.0.2.1:5060>;expires=200")], 200),
        ([("Contact", "<sip:alice@192.0.2.1:5060>"), ("Expires", "120")], 120),
        ([("Expires", "120")], 120),
        ([("Contact", "<sip:alice@border.example.com>;expires=60")], 60),
        ([("Contact", "<sip:alice@192.0.2.1:5060>;expires=soon"), ("Expires", "70")], 70),
        ([], 600),
    ],
)
def test_what_is_granted_is_honoured(fields: list[Field], granted_s: int) -> None:
    phone = Phone()
    phone.respond(200, *fields)
    event = phone.event()
    assert event.expires_s == granted_s
    assert str(event.contact) == "sip:alice@192.0.2.1:5060"
    assert phone.sends_next() == pytest.approx(event.refresh_in_s)


def test_a_binding_is_renewed_at_50_to_85_percent_of_its_time() -> None:
    shares = []
    for seed in range(200):
        phone = Phone(seed=seed)
        phone.registered()
        shares.append(phone.sends_next() / 600)
    assert 0.5 <= min(shares) < 0.51
    assert 0.84 < max(shares) <= 0.85


def test_a_binding_of_a_century_is_renewed_every_day() -> None:
    phone = Phone(STREAM)
    phone.respond(200, ("Expires", "4294967295"))
    assert phone.event().expires_s == 4294967295
    assert phone.sends_next(90_000.0) <= 0.85 * 86_400


def test_a_binding_of_no_time_is_none() -> None:
    phone = Phone()
    phone.respond(200, ("Contact", "<sip:alice@192.0.2.1:5060>;expires=0"))
    assert isinstance(phone.event(), RegistrationFailed)
    assert phone.registration.state is RegistrationState.WAITING


# --- Challenges


def test_a_challenge_is_answered_and_its_nonce_used_again() -> None:
    phone = Phone()
    phone.respond(401, CHALLENGE)
    for count in (1, 2, 3):
        sent = phone.register() if count == 1 else phone.last
        proof = Credentials.parse(sent.headers.get("Authorization") or "")
        assert (proof.nonce, proof.nonce_count, proof.uri) == ("n1", count, "sip:example.com")
        assert proof.response == proof.expected_response(password="wonderland", method="REGISTER", body=b"")
        phone.registered()
        phone.sends_next()


@pytest.mark.conformance("RFC 3261", "22.2", "credentials that were refused are not sent again at once")
def test_a_wrong_password_is_tried_once_and_then_after_a_back_off() -> None:
    phone = Phone()
    phone.respond(401, CHALLENGE)
    phone.register()
    retry_in_s = phone.fails(CHALLENGE, status=401)
    assert 30 <= retry_in_s <= 60
    assert phone.sends_next() == pytest.approx(retry_in_s)
    assert "Authorization" not in phone.last.headers


def test_a_stale_nonce_is_replaced_at_once() -> None:
    phone = Phone()
    phone.respond(401, CHALLENGE)
    phone.register()
    phone.registered()
    phone.sends_next()
    phone.respond(401, (CHALLENGE[0], CHALLENGE[1].replace("n1", "n2") + ", stale=true"))
    assert Credentials.parse(phone.register().headers.get("Authorization") or "").nonce == "n2"
    phone.registered()


# --- Refusals


@pytest.mark.conformance("RFC 3261", "10.2.8", "after 423 the REGISTER is sent again with Min-Expires")
def test_an_interval_too_brief_is_lengthened_at_once() -> None:
    phone = Phone()
    phone.respond(423, ("Min-Expires", "1800"))
    sent = phone.register()
    assert (sent.expires, sent.headers.get("Contact")) == (1800, "<sip:alice@192.0.2.1:5060>;expires=1800")
    phone.registered(1800)
    phone.sends_next()
    assert phone.last.expires == 1800


@pytest.mark.parametrize("fields", [[], [("Min-Expires", "600")], [("Min-Expires", "10")], [("Min-Expires", "x")]])
def test_a_423_that_asks_for_no_more_is_a_failure(fields: list[Field]) -> None:
    assert 30 <= Phone().fails(*fields, status=423) <= 60


@pytest.mark.conformance("RFC 5626", "4.5", "after n failures REGISTER waits 50 to 100 % of min(1800, 30 * 2^n) s")
def test_failures_back_off_exponentially_with_jitter() -> None:
    waits: dict[int, list[float]] = {}
    for seed in range(40):
        phone = Phone(seed=seed)
        for failure in range(1, 9):
            wait_s = phone.fails(status=(403, 404, 500, 503, 603)[seed % 5])
            waits.setdefault(failure, []).append(wait_s)
            assert phone.sends_next() == pytest.approx(wait_s)
    for failure, spans in waits.items():
        most_s = min(1800, 30 * 2**failure)
        assert 0.5 * most_s <= min(spans) < 0.6 * most_s
        assert 0.9 * most_s < max(spans) <= most_s


def test_a_success_forgets_the_failures() -> None:
    phone = Phone()
    for _ in range(3):
        phone.fails()
        phone.sends_next()
    phone.registered()
    phone.sends_next()
    assert phone.fails() <= 60


@pytest.mark.conformance("RFC 3261", "21.5.4", "Retry-After is honoured")
@pytest.mark.parametrize("status", [503, 500, 404, 486])
def test_retry_after_is_honoured(status: int) -> None:
    phone = Phone()
    wait_s = phone.fails(("Retry-After", "120 (in the works);duration=60"), status=status)
    assert 120 <= wait_s <= 132
    assert phone.sends_next() == pytest.approx(wait_s)


def test_retry_after_without_end_is_not_asked_every_second() -> None:
    phone = Phone()
    waits = []
    for _ in range(8):
        waits.append(phone.fails(("Retry-After", "1"), status=503))
        phone.sends_next()
    assert 2 <= waits[0] <= 2.2
    assert 256 <= waits[-1] <= 282


@pytest.mark.parametrize(
    ("text", "seconds"), [("5", 5), (" 7;duration=1", 7), ("soon", None), ("", None), ("9" * 9, 86_400)]
)
def test_retry_after_is_read(text: str, seconds: int | None) -> None:
    response = Phone().last.response(503, headers=[("Retry-After", text)])
    assert retry_after_s(response) == seconds


def test_a_registrar_that_is_silent_has_failed_after_32_seconds() -> None:
    phone = Phone()
    first = phone.last
    phone.pass_time(32.0)
    failed = phone.event()
    assert (failed.status, failed.reason) == (408, "Request Timeout")
    repeats = phone.hear()
    assert {message.via.branch for message in repeats} == {first.via.branch}
    phone.sends_next()
    assert phone.last.cseq.number == first.cseq.number + 1
    phone.registered()


def test_the_number_counts_on_after_a_challenge_whose_answer_is_lost() -> None:
    phone = Phone()
    first = phone.last
    phone.respond(401, CHALLENGE)
    phone.pass_time(32.0)
    phone.hear()
    phone.event()
    phone.sends_next()
    assert phone.last.cseq.number == first.cseq.number + 2


def test_the_response_of_another_request_is_not_taken() -> None:
    phone = Phone()
    other = Responded(request="other", call=None, seq=1, response=phone.last.response(200))
    assert not phone.registration.receive(other, 0.0)
    assert phone.registration.state is RegistrationState.REGISTERING


# --- Where we are seen


@pytest.mark.conformance("RFC 3581", "4", "received and rport of a response say at which address we are seen")
def test_the_address_that_the_registrar_sees_is_bound_in_the_place_of_ours() -> None:
    phone = Phone()
    phone.respond(200, ("Expires", "600"), seen_at=("198.51.100.9", "4711"))
    event = phone.event()
    assert (str(event.contact), event.refresh_in_s) == ("sip:alice@192.0.2.1:5060", 0.0)
    assert phone.sends_next() == 0.0
    assert phone.last.headers.get("Contact") == (
        "<sip:alice@198.51.100.9:4711>;expires=600, <sip:alice@192.0.2.1:5060>;expires=0"
    )
    assert (phone.last.via.host, phone.last.via.port) == ("198.51.100.9", 4711)
    phone.respond(200, ("Expires", "600"), seen_at=("198.51.100.9", "4711"))
    assert str(phone.event().contact) == "sip:alice@198.51.100.9:4711"
    assert phone.sends_next() >= 300
    assert phone.last.headers.get("Contact") == "<sip:alice@198.51.100.9:4711>;expires=600"


def test_an_address_that_changes_with_every_request_is_not_chased() -> None:
    phone = Phone()
    phone.respond(200, ("Expires", "600"), seen_at=("198.51.100.9", "1001"))
    assert phone.sends_next() == 0.0
    phone.respond(200, ("Expires", "600"), seen_at=("198.51.100.9", "1002"))
    assert phone.sends_next() >= 300


def test_calls_to_the_registrar_give_the_address_that_it_sees() -> None:
    phone = Phone()
    phone.respond(200, ("Expires", "600"), seen_at=("198.51.100.9", "4711"))
    assert phone.agent.contact(FLOW) == "<sip:198.51.100.9:4711>"
    assert phone.agent.contact(FLOW._replace(remote=("192.0.2.99", 5060))) == "<sip:192.0.2.1:5060>"


def test_a_configured_address_is_not_replaced() -> None:
    phone = Phone(advertise=("203.0.113.5", 5060))
    phone.respond(200, ("Expires", "600"), seen_at=("198.51.100.9", "4711"))
    assert str(phone.event().contact) == "sip:alice@203.0.113.5:5060"
    assert phone.sends_next() >= 300


@pytest.mark.parametrize(
    "seen_at",
    [
        ("gateway", "5060"),
        ("192.0.2.1", "5060"),
        ("192.0.2.1", "0"),
        ("198.51.100.9", "65536"),
        ("198.51.100.9", "99999"),
        ("0.0.0.0", "5060"),
        ("239.1.2.3", "5060"),
        ("2001:db8::1", "5060"),
        ("fe80::1%eth0", "5060"),
        ("", "5060"),
    ],
)
def test_what_says_nothing_new_changes_nothing(seen_at: Field) -> None:
    phone = Phone()
    phone.respond(200, ("Expires", "600"), seen_at=seen_at)
    assert phone.event().refresh_in_s > 0


def test_by_tcp_the_port_of_the_connection_is_nobody_elses_business() -> None:
    phone = Phone(STREAM)
    assert phone.last.headers.get("Contact") == "<sip:alice@192.0.2.1:5060;transport=tcp>;expires=600"
    phone.respond(200, ("Expires", "600"), seen_at=("192.0.2.1", "41234"))
    assert phone.event().refresh_in_s > 0


# --- Keeping the way open


@pytest.mark.conformance("RFC 5626", "4.4.2", "while it is registered over UDP, a keep-alive goes out every 24 to 29 s")
def test_over_udp_a_keep_alive_goes_out_at_least_every_29_seconds() -> None:
    phone = Phone()
    phone.pass_time(0.0)
    phone.registered(3600)
    at = phone.now
    for _ in range(40):
        phone.pass_time(phone.registration.wake_at() - phone.now)  # type: ignore[operator]
        phone.hear()
        assert 24 <= phone.keep_alives[-1] - at <= 29
        at = phone.keep_alives[-1]


def test_nothing_is_kept_alive_before_there_is_a_binding() -> None:
    phone = Phone()
    phone.fails()
    phone.pass_time(29.0)
    phone.hear()
    assert phone.keep_alives == []


def test_over_tcp_the_connection_is_kept_from_beginning_to_end() -> None:
    phone = Phone(STREAM)
    assert phone.agent.uses(STREAM)
    phone.registered()
    phone.pass_time(100.0)
    assert phone.keep_alives == []
    assert phone.agent.uses(STREAM)
    phone.registration.unregister(phone.now)
    phone.register()
    phone.respond(200)
    assert phone.event() == Unregistered(confirmed=True)
    phone.pass_time(32.0)
    assert not phone.agent.uses(STREAM)


def test_a_lost_connection_is_made_anew_at_once_and_its_failure_backs_off() -> None:
    """RFC 5626 section 4.5."""
    phone = Phone(STREAM)
    phone.registered()
    phone.pass_time(50.0)
    phone.agent.flow_failed(STREAM, phone.now)
    phone.pump()
    assert phone.told == []
    phone.register()
    phone.agent.flow_failed(STREAM, phone.now)
    phone.pump()
    failed = phone.event()
    assert isinstance(failed, RegistrationFailed)
    assert phone.sends_next() == pytest.approx(failed.retry_in_s)


SECOND = FLOW._replace(remote=("192.0.2.3", 5060))


@pytest.mark.conformance("RFC 3263", "4.3", "a REGISTER goes to the next target after 503 or silence")
@pytest.mark.parametrize("status", [503, None])
def test_another_target_is_tried_at_once_and_the_one_that_serves_is_kept(status: int | None) -> None:
    phone = Phone(FLOW, SECOND)
    if status is None:
        phone.pass_time(32.0)
        sent = phone.hear()[-1]
        assert isinstance(sent, Request)
        phone.last = sent
    else:
        phone.respond(status, ("Retry-After", "60"))
        assert phone.sends_next() == 0.0
    assert phone.event().retry_in_s == 0.0
    assert phone.sent[-1][2] == SECOND
    phone.registered()
    phone.sends_next()
    assert phone.sent[-1][2] == SECOND


def test_when_every_target_has_failed_the_first_one_waits() -> None:
    phone = Phone(FLOW, SECOND)
    assert phone.fails(status=503) == 0.0
    phone.sends_next()
    assert phone.fails(status=503) >= 30
    phone.sends_next()
    assert phone.sent[-1][2] == FLOW


def test_a_refusal_is_not_carried_to_another_target() -> None:
    phone = Phone(FLOW, SECOND)
    assert phone.fails(status=403) >= 30
    phone.sends_next()
    assert phone.sent[-1][2] == FLOW


def test_the_host_changes_the_targets_and_one_that_serves_and_stays_is_kept() -> None:
    phone = Phone()
    phone.registered()
    phone.registration.flows = (SECOND, FLOW)
    assert phone.registration.flow == FLOW
    phone.registration.flows = (SECOND,)
    phone.sends_next()
    assert phone.sent[-1][2] == SECOND


# --- The end


@pytest.mark.conformance("RFC 3261", "10.2.2", "a binding is removed by Expires: 0")
def test_the_binding_is_removed_at_the_end() -> None:
    phone = Phone()
    phone.registered()
    phone.registration.unregister(phone.now)
    sent = phone.register()
    assert (sent.expires, sent.headers.get("Contact")) == (0, "<sip:alice@192.0.2.1:5060>;expires=0")
    phone.respond(200)
    assert phone.event() == Unregistered(confirmed=True)
    phone.registration.unregister(phone.now)
    assert phone.hear() == []
    assert phone.registration.wake_at() is None
    phone.assert_clean()


def test_the_last_register_is_proven_too() -> None:
    phone = Phone()
    phone.registered()
    phone.registration.unregister(phone.now)
    phone.register()
    phone.respond(401, CHALLENGE)
    assert "Authorization" in phone.register().headers
    phone.respond(200)
    assert phone.event() == Unregistered(confirmed=True)


def test_a_registrar_that_is_silent_at_the_end_is_left_after_4_seconds() -> None:
    phone = Phone()
    phone.registered()
    phone.registration.unregister(phone.now)
    phone.pass_time(3.9)
    assert phone.told == []
    phone.pass_time(0.1)
    assert phone.event() == Unregistered(confirmed=False)


def test_a_response_that_comes_after_the_end_is_nobodys() -> None:
    phone = Phone()
    phone.registered()
    phone.registration.unregister(phone.now)
    last = phone.register()
    phone.pass_time(4.0)
    assert phone.event() == Unregistered(confirmed=False)
    phone.respond(200, to=last)
    assert phone.told == []


def test_a_register_that_is_out_is_waited_for_before_the_last_one() -> None:
    phone = Phone()
    phone.registration.unregister(phone.now)
    assert phone.hear() == []
    phone.respond(200, ("Expires", "600"))
    assert phone.register().expires == 0
    phone.respond(200)
    assert phone.event() == Unregistered(confirmed=True)


@pytest.mark.parametrize("status", [403, 423])
def test_a_register_that_fails_while_we_leave_is_the_end(status: int) -> None:
    phone = Phone()
    phone.registration.unregister(phone.now)
    phone.respond(status, ("Min-Expires", "1800"))
    assert phone.event() == Unregistered(confirmed=False)


def test_without_a_binding_there_is_nothing_to_remove() -> None:
    phone = Phone()
    phone.fails()
    phone.registration.unregister(phone.now)
    assert phone.hear() == []
    phone.pump()
    assert phone.event() == Unregistered(confirmed=True)


def test_a_binding_that_outlives_a_failed_refresh_is_removed() -> None:
    phone = Phone()
    phone.registered()
    phone.sends_next()
    phone.fails()
    phone.registration.unregister(phone.now)
    assert phone.register().expires == 0


# --- Whatever the registrar says


NONSENSE = st.text(st.sampled_from('0123456789 ;,="<>*@[]:%sip.expiresDigestrealmnonce\\-ä'), max_size=60)
SENSE = {
    "Contact": st.sampled_from(["<sip:alice@192.0.2.1:5060>;expires=90", "*", "<tel:+1>;expires=0", "<mailto:a@b>"]),
    "Expires": st.sampled_from(["0", "60", "4294967296"]),
    "Min-Expires": st.sampled_from(["1", "7200", "4294967296"]),
    "Retry-After": st.sampled_from(["0", "30", "999999999999"]),
    "WWW-Authenticate": st.sampled_from([CHALLENGE[1], 'Digest realm="", nonce=""', 'Digest realm="ä", nonce="\\""']),
    "Proxy-Authenticate": st.sampled_from(['Digest realm="p", nonce="1", stale=true', "Basic"]),
}
SAYING = st.dictionaries(st.sampled_from(sorted(SENSE)), st.none() | NONSENSE, max_size=4)


@settings(deadline=None, max_examples=150)
@given(data=st.data(), statuses=st.lists(st.sampled_from([200, 200, 401, 407, 423, 503, 500, 302]), max_size=5))
def test_nothing_that_a_registrar_says_raises_or_stops_it(data: st.DataObject, statuses: list[int]) -> None:
    # Without keep-alives days pass faster.
    phone = Phone(STREAM)
    for status in statuses:
        said = data.draw(SAYING)
        fields = [(name, data.draw(SENSE[name]) if text is None else text) for name, text in said.items()]
        seen_at = (data.draw(NONSENSE | st.just("198.51.100.9")), data.draw(st.sampled_from(["1", "99999", "x"])))
        response = phone.last.response(status, to_tag="r", headers=fields)
        via = f"SIP/2.0/UDP 192.0.2.1;branch={phone.last.via.branch};received={seen_at[0]};rport={seen_at[1]}"
        text = Response(status=status, reason="", headers=response.headers.with_("Via", via)).serialise()
        phone.agent.receive(text, FLOW, phone.now)
        phone.pump()
        heard = phone.hear()
        if heard:
            assert isinstance(heard[-1], Request)
            phone.last = heard[-1]
        else:
            phone.sends_next(100_000.0)
    phone.registration.unregister(phone.now)
    phone.pass_time(40.0)
    assert phone.registration.state is RegistrationState.UNREGISTERED
    phone.hear()
    phone.assert_clean()
