"""Probing a peer with OPTIONS: what is sent, and what makes of a peer one that calls can be sent to."""

from __future__ import annotations

from random import Random

import pytest

from sip import Login, NameAddr, Probe, ProbeState, Reached, Request, Responded, Unreached, Uri
from sip.probe import PROBE_ROWS, ProbeDeadline, ProbeInput

from .test_sip_agent import BOB, FLOW, Side, respond

CHALLENGE = ("WWW-Authenticate", 'Digest realm="pbx", nonce="n1", algorithm=MD5, qop="auth"')


class Prober(Side):
    def __init__(self) -> None:
        super().__init__()
        self.told: list[Reached | Unreached] = []
        self.probe = Probe(
            self.agent,
            BOB,
            FLOW,
            from_=NameAddr(uri=Uri.parse("sip:us@192.0.2.1")),
            random=Random(3),
            now=0.0,
            login=Login(username="alice", password="wonderland"),
            interval_s=30.0,
        )
        self.last = self.options()

    def options(self) -> Request:
        (sent,) = self.hear()
        assert isinstance(sent, Request)
        assert sent.method == "OPTIONS"
        self.last = sent
        return sent

    def answer(self, status: int, *fields: tuple[str, str]) -> None:
        self.agent.receive(respond(self.last, status, headers=fields), FLOW, self.now)
        self.pump()

    def pump(self) -> None:
        for event in self.events():
            assert isinstance(event, Responded)
            assert self.probe.receive(event, self.now)
        self.told += iter(self.probe.next_event, None)

    def pass_time(self, seconds: float) -> None:
        end = self.now + seconds
        while True:
            wakes = [at for at in (self.agent.wake_at(), self.probe.wake_at()) if at is not None and at <= end]
            if not wakes:
                break
            self.now = min(wakes)
            self.agent.handle_timer(self.now)
            self.probe.handle_timer(self.now)
            self.told += iter(self.probe.next_event, None)
        self.now = end


def test_every_state_takes_everything_that_may_happen() -> None:
    assert set(PROBE_ROWS) == {(state, kind) for state in ProbeState for kind in (*ProbeInput, *ProbeDeadline)}


@pytest.mark.conformance("RFC 3261", "11.1", "OPTIONS asks a peer outside of a dialog, with Contact and Accept")
def test_a_probe_is_an_options_outside_of_a_dialog() -> None:
    sent = Prober().last
    assert (str(sent.uri), sent.to.tag, str(sent.contact)) == (str(BOB), "", "<sip:192.0.2.1:5060>")
    assert sent.headers.get("Accept") == "application/sdp"


@pytest.mark.parametrize("status", [200, 404, 405, 481, 486, 500, 501, 603])
def test_any_response_shows_that_somebody_is_there(status: int) -> None:
    prober = Prober()
    prober.pass_time(0.25)
    prober.answer(status)
    assert prober.told == [Reached(rtt_s=0.25, status=status, again=False)]
    assert prober.probe.state is ProbeState.UP


@pytest.mark.parametrize("status", [408, 503, 504])
def test_who_takes_no_calls_is_away(status: int) -> None:
    prober = Prober()
    prober.answer(status)
    assert prober.told == [Unreached(status=status, again=False)]
    assert prober.probe.state is ProbeState.DOWN


def test_silence_counts_after_4_seconds_and_a_late_response_is_one_all_the_same() -> None:
    prober = Prober()
    prober.pass_time(4.0)
    assert prober.told == [Unreached(status=408, again=False)]
    prober.pass_time(2.0)
    prober.answer(200)
    assert prober.told[1:] == [Reached(rtt_s=6.0, status=200, again=False)]


def test_silence_is_told_once_for_each_probe() -> None:
    prober = Prober()
    prober.pass_time(120.0)
    assert prober.told[0] == Unreached(status=408, again=False)
    assert set(prober.told[1:]) == {Unreached(status=408, again=True)}
    assert len(prober.told) in (4, 5)


def test_the_next_probe_follows_after_about_the_interval() -> None:
    prober = Prober()
    prober.answer(200)
    prober.pass_time(26.9)
    assert prober.hear() == []
    first = prober.last
    wake = prober.probe.wake_at()
    assert wake is not None
    assert wake <= 33.0
    prober.pass_time(wake - prober.now)
    assert prober.options().call_id != first.call_id
    prober.answer(200)
    assert prober.told[-1] == Reached(rtt_s=0.0, status=200, again=True)


def test_a_challenged_probe_is_proven() -> None:
    prober = Prober()
    prober.answer(401, CHALLENGE)
    assert "Authorization" in prober.options().headers
    prober.answer(200)
    assert prober.probe.state is ProbeState.UP


def test_the_response_of_another_request_is_not_taken() -> None:
    prober = Prober()
    assert not prober.probe.receive(Responded(request="other", call=None, seq=1, response=None), 0.0)
    assert prober.probe.state is ProbeState.UNKNOWN
