"""The four transaction machines: as tables, in virtual time, and which message belongs to which."""

from __future__ import annotations

import pytest

from sip.errors import LocalProtocolError
from sip.message import Request, Response
from sip.parser import parse_datagram
from sip.transaction import (
    INVITE_CLIENT,
    INVITE_SERVER,
    MACHINES,
    NON_INVITE_SERVER,
    TIMERS,
    ClientTransaction,
    Flow,
    Input,
    Machine,
    Schedule,
    State,
    Timer,
    Timers,
    Transactions,
    Wire,
    ack_for,
    cancel_for,
)

UDP = Flow("UDP", ("192.0.2.1", 5060), ("192.0.2.2", 5060))
TCP = Flow("TCP", ("192.0.2.1", 5060), ("192.0.2.2", 5060))
# No retransmission is at the very edge of the wait: T1 doubles to 31.5 s, 64*T1 is 32 s.
INVITE_INTERVALS = [0.0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5]
CAPPED_INTERVALS = [0.0, 0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5]


def request(
    method: str,
    *,
    branch: str = "z9hG4bK-1",
    sent_by: str = "192.0.2.2",
    to: str = "<sip:bob@192.0.2.1>",
    cseq: int = 1,
    from_tag: str = "f",
    uri: str = "sip:bob@192.0.2.1",
) -> Request:
    message = parse_datagram(
        f"{method} {uri} SIP/2.0\r\n"
        f"Via: SIP/2.0/UDP {sent_by}{';branch=' + branch if branch else ''}\r\n"
        "Route: <sip:192.0.2.9;lr>\r\n"
        f"From: <sip:alice@192.0.2.2>;tag={from_tag}\r\nTo: {to}\r\nCall-ID: c1\r\nCSeq: {cseq} {method}\r\n"
        "Max-Forwards: 70\r\n\r\n".encode()
    )
    assert isinstance(message, Request)
    return message


class Bench:
    """The transaction layer alone, in virtual time; `log` is when what was sent."""

    def __init__(self, timers: Timers | None = None) -> None:
        self.wire: Wire = []
        self.schedule = Schedule()
        self.layer = Transactions(timers=timers or Timers(), schedule=self.schedule, wire=self.wire)
        self.now = 0.0
        self.log: list[tuple[float, bytes]] = []
        self.gave_up: list[tuple[float, object]] = []
        self.flush()

    def flush(self) -> None:
        self.log += [(self.now, data) for data, _ in self.wire]
        self.wire.clear()

    def run(self, until: float) -> None:
        """Let time pass, every timer firing at its very moment."""
        self.flush()
        while (at := self.schedule.wake_at()) is not None and at <= until:
            self.now = at
            for owner in self.schedule.due(at):
                assert hasattr(owner, "fire")
                if owner.fire(at):
                    self.gave_up.append((at, owner))
            self.flush()
        self.now = until

    @property
    def times(self) -> list[float]:
        self.flush()
        return [at for at, _ in self.log]

    def client(self, sent: Request, flow: Flow = UDP) -> ClientTransaction:
        return self.layer.request(sent, flow, "user", self.now)


# --- The tables


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)
def test_every_state_reaches_the_end(machine: Machine) -> None:
    states = {state for state, _ in machine.rows} | {state for state, _ in machine.rows.values()}
    for state in states:
        reached = {state}
        while grown := {to for (at, _), (to, _) in machine.rows.items() if at in reached} - reached:
            reached |= grown
        assert State.TERMINATED in reached, state
    assert machine.start in states


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)
def test_every_timer_has_a_row_in_every_state_that_it_runs_in(machine: Machine) -> None:
    running = {(state, timer) for state, timers in machine.timers.items() for timer in timers}
    rows = {(state, happening) for state, happening in machine.rows if isinstance(happening, Timer)}
    assert running == rows


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)
def test_no_state_waits_for_ever_but_for_the_user(machine: Machine) -> None:
    waits_for_user = {(INVITE_SERVER, State.PROCEEDING), (NON_INVITE_SERVER, State.TRYING)}
    waits_for_user |= {(NON_INVITE_SERVER, State.PROCEEDING)}
    for state in {state for state, _ in machine.rows if (machine, state) not in waits_for_user}:
        assert machine.timers[state], state


def test_every_timer_of_the_standard_is_in_one_machine() -> None:
    used = [timer for machine in MACHINES for timer in {t for timers in machine.timers.values() for t in timers}]
    assert sorted(timer.value for timer in used) == sorted(timer.value for timer in TIMERS) == list("ABCDEFGHIJKLM")


# --- INVITE client (RFC 3261 section 17.1.1)


@pytest.mark.conformance(
    "RFC 3261",
    "17.1.1.2",
    "over UDP an INVITE is retransmitted after T1, then doubling without a ceiling, until timer B at 64*T1",
)
def test_an_invite_is_retransmitted_at_doubling_intervals_until_timer_b() -> None:
    bench = Bench()
    client = bench.client(request("INVITE"))
    bench.run(100)
    assert bench.times == INVITE_INTERVALS
    assert bench.gave_up == [(32.0, client)]
    assert len(bench.layer) == 0


@pytest.mark.conformance("RFC 3261", "17.1.1.2", "a provisional response ends the retransmission of an INVITE")
def test_a_provisional_response_stops_the_retransmission_of_an_invite_for_good() -> None:
    bench = Bench()
    client = bench.client(request("INVITE"))
    bench.run(0.6)
    assert client.receive(client.request.response(180, to_tag="t"), 0.6)
    bench.run(32.5)
    assert bench.times == [0.0, 0.5]
    assert client.state is State.PROCEEDING


@pytest.mark.conformance("RFC 3261", "17.1.1.2", "an INVITE is not retransmitted over a reliable transport")
def test_an_invite_over_a_reliable_transport_is_sent_once() -> None:
    bench = Bench()
    client = bench.client(request("INVITE"), TCP)
    bench.run(100)
    assert bench.times == [0.0]
    assert bench.gave_up == [(32.0, client)]


@pytest.mark.conformance(
    "RFC 3261",
    "17.1.1.2",
    "a 300-699 to an INVITE is acknowledged as often as it comes, and passed up once, until timer D",
)
def test_a_failure_is_acknowledged_as_often_as_it_comes_and_told_once() -> None:
    bench = Bench()
    client = bench.client(request("INVITE"))
    busy = client.request.response(486, to_tag="t")
    assert client.receive(busy, 0.1)
    assert not client.receive(busy, 0.6)
    bench.flush()
    acks = [parse_datagram(data) for _, data in bench.log[1:]]
    assert len(acks) == 2
    assert acks[0] == acks[1] == parse_datagram(ack_for(client.request, busy).serialise())
    bench.run(32.0)
    assert len(bench.layer) == 1
    bench.run(32.1)
    assert len(bench.layer) == 0


@pytest.mark.conformance(
    "RFC 6026", "7.2", "every 2xx to an INVITE is passed up while timer M runs, 64*T1 from the first"
)
def test_every_2xx_goes_to_the_user_while_timer_m_runs() -> None:
    bench = Bench()
    client = bench.client(request("INVITE"))
    for at, tag in ((1.0, "t1"), (2.0, "t1"), (3.0, "t2")):
        bench.run(at)
        assert client.receive(client.request.response(200, to_tag=tag), at)
    assert not client.receive(client.request.response(180, to_tag="t1"), 4.0)
    bench.run(32.9)
    assert len(bench.layer) == 1
    bench.run(33.0)
    assert len(bench.layer) == 0
    assert bench.gave_up == []


# --- non-INVITE client (RFC 3261 section 17.1.2)


@pytest.mark.conformance(
    "RFC 3261",
    "17.1.2.2",
    "over UDP a request is retransmitted after T1, then doubling up to T2, until timer F at 64*T1",
)
def test_a_request_is_retransmitted_at_intervals_capped_by_t2_until_timer_f() -> None:
    bench = Bench()
    client = bench.client(request("OPTIONS"))
    bench.run(100)
    assert bench.times == CAPPED_INTERVALS
    assert bench.gave_up == [(32.0, client)]


@pytest.mark.conformance(
    "RFC 3261", "17.1.2.2", "after a provisional response a request other than INVITE is retransmitted every T2"
)
def test_after_a_provisional_response_a_request_is_retransmitted_every_t2() -> None:
    bench = Bench()
    client = bench.client(request("OPTIONS"))
    bench.run(0.4)
    assert client.receive(client.request.response(100), 0.4)
    bench.run(100)
    assert bench.times == [0.0, 0.5, 4.5, 8.5, 12.5, 16.5, 20.5, 24.5, 28.5]
    assert bench.gave_up == [(32.0, client)]


@pytest.mark.conformance("RFC 3261", "17.1.2.2", "copies of a final response are absorbed until timer K, after T4")
def test_a_final_response_is_told_once_and_its_copies_are_absorbed_for_t4() -> None:
    bench = Bench()
    client = bench.client(request("BYE"))
    ok = client.request.response(200)
    assert client.receive(ok, 1.0)
    assert not client.receive(ok, 2.0)
    bench.run(5.9)
    assert len(bench.layer) == 1
    bench.run(6.0)
    assert len(bench.layer) == 0


@pytest.mark.conformance("RFC 3261", "17.1.1.2", "timer D is zero over a reliable transport")
@pytest.mark.conformance("RFC 3261", "17.1.2.2", "timer K is zero over a reliable transport")
@pytest.mark.parametrize(("method", "status"), [("BYE", 200), ("INVITE", 486)])
def test_a_client_over_a_reliable_transport_does_not_linger(method: str, status: int) -> None:
    bench = Bench()
    client = bench.client(request(method), TCP)
    assert client.receive(client.request.response(status, to_tag="t"), 0.0)
    bench.run(0.0)
    assert len(bench.layer) == 0


# --- INVITE server (RFC 3261 section 17.2.1, RFC 6026)


@pytest.mark.conformance("RFC 3261", "17.2.1", "a retransmitted INVITE gets the most recent provisional response again")
def test_a_retransmitted_invite_gets_the_latest_response_again() -> None:
    bench = Bench()
    invite = request("INVITE")
    server = bench.layer.serve(invite, UDP, "t", 0.0)
    for status in (100, 180):
        server.respond(invite.response(status, to_tag="t"), 0.0)
        server.receive(invite, 0.1)
    bench.flush()
    assert [parse_datagram(data).status for _, data in bench.log] == [100, 100, 180, 180]  # type: ignore[union-attr]
    assert bench.layer.retransmissions == 2


@pytest.mark.conformance(
    "RFC 3261",
    "17.2.1",
    "over UDP a 300-699 to an INVITE is retransmitted after T1, then doubling up to T2, until the ACK",
)
@pytest.mark.conformance("RFC 3261", "17.2.1", "copies of the ACK are absorbed until timer I, after T4")
def test_a_failure_is_retransmitted_until_the_ack_and_acks_are_absorbed_for_t4() -> None:
    bench = Bench()
    invite = request("INVITE")
    server = bench.layer.serve(invite, UDP, "t", 0.0)
    busy = invite.response(486, to_tag="t")
    server.respond(busy, 0.0)
    bench.run(2.0)
    assert not server.receive(ack_for(invite, busy), 2.0)
    assert not server.receive(ack_for(invite, busy), 3.0)
    server.receive(invite, 3.0)
    bench.run(6.9)
    assert bench.times == [0.0, 0.5, 1.5]
    assert len(bench.layer) == 1
    bench.run(7.0)
    assert len(bench.layer) == 0
    assert bench.gave_up == []


@pytest.mark.conformance(
    "RFC 3261",
    "17.2.1",
    "over UDP a 300-699 to an INVITE is retransmitted after T1, then doubling up to T2, until the ACK",
)
@pytest.mark.conformance("RFC 3261", "17.2.1", "timer H gives up waiting for the ACK after 64*T1")
def test_a_failure_that_is_never_acknowledged_is_given_up_by_timer_h() -> None:
    bench = Bench()
    invite = request("INVITE")
    server = bench.layer.serve(invite, UDP, "t", 0.0)
    server.respond(invite.response(486, to_tag="t"), 0.0)
    bench.run(100)
    assert bench.times == CAPPED_INTERVALS
    assert bench.gave_up == [(32.0, server)]
    assert len(bench.layer) == 0


@pytest.mark.conformance(
    "RFC 3261", "17.2.1", "a 300-699 is not retransmitted over a reliable transport, and timer I is zero"
)
def test_a_failure_over_a_reliable_transport_is_sent_once() -> None:
    bench = Bench()
    invite = request("INVITE")
    server = bench.layer.serve(invite, TCP, "t", 0.0)
    server.respond(invite.response(486, to_tag="t"), 0.0)
    bench.run(1.0)
    server.receive(ack_for(invite, invite.response(486, to_tag="t")), 1.0)
    bench.run(1.0)
    assert bench.times == [0.0]
    assert len(bench.layer) == 0


@pytest.mark.conformance(
    "RFC 6026", "7.1", "a retransmitted INVITE is absorbed after its 2xx while timer L runs, 64*T1"
)
def test_an_accepted_invite_is_absorbed_while_timer_l_runs() -> None:
    bench = Bench()
    invite = request("INVITE")
    server = bench.layer.serve(invite, UDP, "t", 0.0)
    server.respond(invite.response(200, to_tag="t"), 0.0)
    server.receive(invite, 1.0)
    bench.run(31.9)
    assert bench.times == [0.0]
    assert len(bench.layer) == 1
    bench.run(32.0)
    assert len(bench.layer) == 0


def test_the_user_repeats_its_2xx_until_it_knows_that_it_is_acknowledged() -> None:
    bench = Bench()
    invite = request("INVITE")
    server = bench.layer.serve(invite, UDP, "t", 0.0)
    server.respond(invite.response(200, to_tag="t"), 0.0)
    server.repeat(0.5)
    bench.flush()
    assert bench.log[0][1] == bench.log[1][1]
    assert bench.layer.retransmissions == 1


def test_a_second_final_response_is_our_mistake() -> None:
    bench = Bench()
    invite = request("INVITE")
    server = bench.layer.serve(invite, UDP, "t", 0.0)
    server.respond(invite.response(486, to_tag="t"), 0.0)
    with pytest.raises(LocalProtocolError, match="200 in state completed of the INVITE server"):
        server.respond(invite.response(200, to_tag="t"), 0.0)


# --- non-INVITE server (RFC 3261 section 17.2.2)


@pytest.mark.conformance("RFC 3261", "17.2.2", "a copy of a request is discarded while there is no response")
@pytest.mark.conformance(
    "RFC 3261", "17.2.2", "a copy of a request gets the final response again until timer J, after 64*T1"
)
def test_a_final_response_is_replayed_while_timer_j_runs() -> None:
    bench = Bench()
    bye = request("BYE")
    server = bench.layer.serve(bye, UDP, "t", 0.0)
    server.receive(bye, 0.0)
    assert bench.times == []
    server.respond(bye.response(200, to_tag="t"), 0.0)
    server.receive(bye, 1.0)
    bench.run(31.9)
    server.receive(bye, 31.9)
    bench.flush()
    assert len({data for _, data in bench.log}) == 1
    assert len(bench.log) == 3
    bench.run(32.0)
    assert len(bench.layer) == 0


@pytest.mark.conformance("RFC 3261", "17.2.2", "timer J is zero over a reliable transport")
def test_a_server_over_a_reliable_transport_does_not_linger() -> None:
    bench = Bench()
    bye = request("BYE")
    bench.layer.serve(bye, TCP, "t", 0.0).respond(bye.response(200, to_tag="t"), 0.0)
    bench.run(0.0)
    assert len(bench.layer) == 0


def test_timers_scale_with_t1() -> None:
    bench = Bench(Timers(t1=0.01, t2=0.04, t4=0.05))
    bench.client(request("OPTIONS"))
    bench.run(1.0)
    assert bench.gave_up[0][0] == pytest.approx(0.64)
    assert len(bench.times) == len(CAPPED_INTERVALS) + 7


@pytest.mark.parametrize("times", [{"t1": 0.0}, {"t1": 5.0}, {"t4": 0.0}])
def test_timers_that_cannot_work_are_refused(times: dict[str, float]) -> None:
    with pytest.raises(LocalProtocolError, match="times that do not fit"):
        Timers(**times)


# --- Matching


@pytest.mark.conformance(
    "RFC 3261", "17.2.3", "a request is matched by branch, sent-by and method, and an ACK with its INVITE"
)
def test_a_request_is_matched_by_branch_sent_by_and_method() -> None:
    bench = Bench()
    invite = request("INVITE")
    server = bench.layer.serve(invite, UDP, "t", 0.0)
    assert bench.layer.server(request("INVITE")) is server
    assert bench.layer.server(request("ACK", to="<sip:bob@192.0.2.1>;tag=t")) is server
    assert bench.layer.server(request("INVITE", branch="z9hG4bK-2")) is None
    assert bench.layer.server(request("INVITE", sent_by="192.0.2.3")) is None
    assert bench.layer.server(request("INVITE", sent_by="192.0.2.2:5070")) is None
    assert bench.layer.server(request("CANCEL")) is None


@pytest.mark.conformance(
    "RFC 3261", "9.2", "a CANCEL is matched as if its method were that of the request that it is for"
)
def test_a_cancel_is_matched_with_the_invite_that_it_is_for() -> None:
    bench = Bench()
    server = bench.layer.serve(request("INVITE"), UDP, "t", 0.0)
    assert bench.layer.cancelled_by(request("CANCEL")) is server
    assert bench.layer.cancelled_by(request("CANCEL", branch="z9hG4bK-2")) is None


@pytest.mark.conformance(
    "RFC 3261", "17.2.3", "without the magic cookie a request is matched by Request-URI, tags, Call-ID, CSeq and Via"
)
@pytest.mark.parametrize("branch", ["", "1", "z9hG4bK"], ids=["none", "old", "bare cookie"])
def test_an_rfc_2543_request_is_matched_by_what_identifies_it(branch: str) -> None:
    bench = Bench()
    invite = request("INVITE", branch=branch)
    server = bench.layer.serve(invite, UDP, "t", 0.0)
    assert bench.layer.server(invite) is server
    assert bench.layer.cancelled_by(request("CANCEL", branch=branch)) is server
    assert bench.layer.server(request("INVITE", branch=branch, cseq=2)) is None
    assert bench.layer.server(request("INVITE", branch=branch, from_tag="g")) is None
    assert bench.layer.server(request("INVITE", branch=branch, uri="sip:carol@192.0.2.1")) is None
    server.respond(invite.response(486, to_tag="t"), 0.0)
    server.receive(request("ACK", branch=branch, to="<sip:bob@192.0.2.1>;tag=other"), 0.0)
    assert server.state is State.COMPLETED
    server.receive(request("ACK", branch=branch, to="<sip:bob@192.0.2.1>;tag=t"), 0.0)
    assert server.state is State.CONFIRMED


@pytest.mark.conformance(
    "RFC 3261", "17.2.3", "without the magic cookie an ACK is matched by the To tag of the response"
)
def test_an_rfc_2543_ack_to_a_2xx_goes_to_the_user() -> None:
    bench = Bench()
    invite = request("INVITE", branch="1")
    server = bench.layer.serve(invite, UDP, "t", 0.0)
    server.respond(invite.response(200, to_tag="t"), 0.0)
    assert server.receive(request("ACK", branch="1", to="<sip:bob@192.0.2.1>;tag=t"), 0.0)


@pytest.mark.conformance(
    "RFC 3261",
    "8.2.2.2",
    "a request is merged if From tag, Call-ID and CSeq are those of a transaction that is under way",
)
def test_a_copy_that_came_by_another_way_is_merged_as_long_as_the_first_lives() -> None:
    bench = Bench()
    server = bench.layer.serve(request("INVITE"), UDP, "t", 0.0)
    other = request("INVITE", branch="z9hG4bK-2", sent_by="192.0.2.77")
    assert bench.layer.merged(other)
    assert not bench.layer.merged(request("INVITE", branch="z9hG4bK-2", cseq=2))
    assert not bench.layer.merged(request("INVITE", branch="z9hG4bK-2", to="<sip:bob@192.0.2.1>;tag=t"))
    server.respond(server_response(200), 0.0)
    bench.run(32.0)
    assert not bench.layer.merged(other)


def server_response(status: int) -> Response:
    return request("INVITE").response(status, to_tag="t")


@pytest.mark.conformance(
    "RFC 3261", "17.1.3", "a response is matched by the branch of its topmost Via and the method of its CSeq"
)
def test_a_response_is_matched_by_branch_and_cseq_method() -> None:
    bench = Bench()
    invite = bench.client(request("INVITE"))
    cancel = bench.client(cancel_for(invite.request))
    assert bench.layer.client(invite.request.response(487, to_tag="t")) is invite
    assert bench.layer.client(cancel.request.response(200, to_tag="t")) is cancel
    assert bench.layer.client(request("INVITE", branch="z9hG4bK-2").response(200)) is None


def test_an_invite_that_rings_for_ever_is_given_up_by_timer_c() -> None:
    bench = Bench()
    client = bench.layer.request(request("INVITE"), UDP, "user", 0.0, final_within_s=200.0)
    client.receive(client.request.response(180, to_tag="t"), 1.0)
    client.receive(client.request.response(180, to_tag="t"), 61.0)
    bench.run(300)
    assert bench.gave_up == [(201.0, client)]
    assert bench.layer.client(client.request.response(200, to_tag="t")) is None


@pytest.mark.conformance("RFC 3261", "9.1", "after a CANCEL the final response is waited for 64*T1 and no longer")
def test_after_a_cancel_the_final_response_has_64_t1() -> None:
    """RFC 3261 section 9.1."""
    bench = Bench()
    client = bench.layer.request(request("INVITE"), UDP, "user", 0.0, final_within_s=200.0)
    client.receive(client.request.response(180, to_tag="t"), 1.0)
    client.hurry(5.0)
    bench.run(300)
    assert bench.gave_up == [(37.0, client)]


# --- The requests that belong to an INVITE


@pytest.mark.conformance(
    "RFC 3261",
    "17.1.1.3",
    "the ACK to a failure has the INVITE's URI, Call-ID, From, CSeq number, Via and Route, the response's To",
)
def test_the_ack_to_a_failure_repeats_the_invite_and_takes_the_to_of_the_response() -> None:
    invite = request("INVITE", cseq=7)
    ack = ack_for(invite, invite.response(486, to_tag="theirs"))
    assert (ack.method, str(ack.cseq), ack.to.tag) == ("ACK", "7 ACK", "theirs")
    assert (ack.uri, ack.call_id, ack.from_, ack.route) == (invite.uri, invite.call_id, invite.from_, invite.route)
    assert ack.vias == (invite.via,)
    assert ack.body == b""


@pytest.mark.conformance(
    "RFC 3261", "9.1", "a CANCEL has the URI, Call-ID, To, From, CSeq number, topmost Via and Route of its request"
)
def test_the_cancel_of_an_invite_repeats_it() -> None:
    invite = request("INVITE", cseq=7)
    cancel = cancel_for(invite)
    assert (cancel.method, str(cancel.cseq), cancel.to) == ("CANCEL", "7 CANCEL", invite.to)
    assert (cancel.uri, cancel.call_id, cancel.from_, cancel.route) == (
        invite.uri,
        invite.call_id,
        invite.from_,
        invite.route,
    )
    assert cancel.vias == (invite.via,)


# --- Schedule and rows


def test_a_response_without_a_row_is_ignored() -> None:
    bench = Bench()
    client = bench.client(request("BYE"))
    client.receive(client.request.response(200), 0.0)
    assert not client.receive(client.request.response(100), 0.0)
    assert (State.COMPLETED, Input.PROVISIONAL) not in client.machine.rows
    assert client.state is State.COMPLETED


def test_wake_at_is_the_earliest_live_deadline() -> None:
    bench = Bench()
    assert bench.schedule.wake_at() is None
    first = bench.client(request("INVITE"))
    bench.now = 0.25
    bench.client(request("OPTIONS", branch="z9hG4bK-2"))
    assert bench.schedule.wake_at() == 0.5
    first.receive(first.request.response(100), 0.3)
    assert bench.schedule.wake_at() == 0.75
    assert first.machine is INVITE_CLIENT
    assert first.wake == 32.3


# --- Transport errors: RFC 3261 section 17.1.4, figures 5 and 6


@pytest.mark.conformance(
    "RFC 3261", "17.1.4", "a transport error ends a client transaction, and the transaction user is told"
)
@pytest.mark.parametrize(
    ("method", "status", "gives_up"),
    [
        ("INVITE", None, True),
        ("INVITE", 180, False),
        ("INVITE", 200, False),
        ("OPTIONS", None, True),
        ("OPTIONS", 100, True),
        ("OPTIONS", 200, False),
    ],
)
def test_a_transport_error_ends_the_wait_for_a_response(method: str, status: int | None, gives_up: bool) -> None:
    """An INVITE with a provisional response goes on: the final one may come along another connection."""
    bench = Bench()
    sent = request(method)
    transaction = bench.client(sent, TCP)
    if status is not None:
        transaction.receive(sent.response(status, to_tag="t"), 0.0)
    assert bench.layer.sent_along(TCP) == (transaction,)
    assert bench.layer.sent_along(UDP) == ()
    before = transaction.state
    assert transaction.fail(1.0) is gives_up
    assert transaction.state is (State.TERMINATED if gives_up else before)


def test_a_flow_is_used_while_a_transaction_of_either_side_is_on_it() -> None:
    bench = Bench()
    assert not bench.layer.use(TCP)
    sent = request("OPTIONS")
    transaction = bench.client(sent, TCP)
    assert bench.layer.use(TCP)
    assert not bench.layer.use(TCP._replace(connection=1))
    transaction.receive(sent.response(200, to_tag="t"), 0.0)
    bench.run(1.0)
    assert not bench.layer.use(TCP)
    served = bench.layer.serve(request("OPTIONS"), TCP, "t", 0.0)
    assert bench.layer.use(TCP)
    served.respond(sent.response(200, to_tag="t"), 1.0)
    bench.run(2.0)
    assert not bench.layer.use(TCP)
