"""The user agent: calls in both directions, over the transaction layer (RFC 3261 sections 8 to 15).

    agent.receive(data, flow, now)       what came off the wire
    agent.handle_timer(now)              when agent.wake_at() says so
    agent.next_event()                   what happened, until None
    agent.data_to_send()                 what has to go out

and the verbs of the host: `ring`, `answer`, `reject`, `bye`, `invite`, `cancel`, `acknowledge`, `reoffer`, `update` and
`withdraw` for calls; `request`, `request_within` and `respond` for all other requests. Bodies are opaque: what is in an
offer is the host's business, and how offers and answers follow one another is ours. `now` is seconds of any clock that
never goes back.

Here is its face, and where its parts meet: the server (uas.py) takes requests, the client (uac.py) sends them and takes
responses, modification.py changes sessions that are up, and calls.py has what they share.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from random import Random

from .call import Call, CallInput, Change, Content, Event, FlowFailed, Serving
from .calls import Calls
from .counters import Counters, Tally
from .dialog import Dialog
from .digest import Keyring, Login
from .guard import Gate, Guard, Held
from .headers import Headers, NameAddr
from .identity import Identity
from .message import Request, Response
from .modification import Modifications
from .parser import MalformedMessage, parse_datagram
from .reliable import Reliable
from .requests import Requests
from .responses import Responses
from .session_timer import LEAST_MIN_SE_S, SessionTerms, SessionTimer
from .transaction import ClientTransaction, Flow, Schedule, ServerTransaction, Timers, Transactions, Wire
from .uac import UserAgentClient
from .uas import SERVED, Admission, Admit, UserAgentServer
from .uri import Uri

__all__ = ["Agent"]

_NOTHING: Mapping[str, tuple[str, ...]] = {}


def _admit_all(request: Request | None, source: Flow, now: float) -> Admission:
    return Admission()


class Agent:
    """A user agent, server and client.

    admit      judges each request that belongs to no call, before it is looked at; the host may put its own here. It is
               asked about a CANCEL without its INVITE and, with None for the request, about what cannot be read, but
               these it can only ignore, and once for each OPTIONS, which is answered what an INVITE would get (RFC 3261
               section 11.2)

    Arguments:

    random     where tags, branches and back-offs come from: `random.SystemRandom()` but in tests
    timers     T1, T2 and T4
    advertise  (host, port) that peers reach us at where that is not the local address of the flow (NAT, containers);
               by TLS they do on the port that we listen on
    accept     body types of INVITEs that the host understands; others get 415
    product    goes into Server and User-Agent; "" leaves them out

    session_expires_s, min_se_s

               how long a session lasts unless it is refreshed, and the least that peers may ask for (RFC 4028); with
               `session_expires_s` 0 a session has an end only where the peer wants one

    serve_within, serve_outside

               requests that the host serves within calls, and outside of them: a method with the body types that it
               takes, () being all. Each comes as `Requested`, and Allow lists it. For example {"INFO":
               ("application/dtmf-relay",), "REFER": ()}. INVITE, ACK, BYE, CANCEL and OPTIONS are served anyway

    login_for  who to prove to be where a request of ours is challenged whose caller has given no keyring, such as those
               within a call of the peer's; None for nobody. It gets the request and its flow

    guard_of   who has to prove who it is: the guard of a request that begins something (INVITE, MESSAGE, REFER ...; not
               OPTIONS), None if it is taken as it is. It gets the request and its flow
    """

    def __init__(
        self,
        *,
        random: Random,
        timers: Timers | None = None,
        advertise: tuple[str, int] | None = None,
        accept: tuple[str, ...] = ("application/sdp",),
        product: str = "",
        session_expires_s: int = 1800,
        min_se_s: int = LEAST_MIN_SE_S,
        serve_within: Mapping[str, tuple[str, ...]] = _NOTHING,
        serve_outside: Mapping[str, tuple[str, ...]] = _NOTHING,
        login_for: Callable[[Request, Flow], Login | None] | None = None,
        guard_of: Callable[[Request, Flow], Guard | None] | None = None,
    ) -> None:
        self.admit: Admit = _admit_all
        self._kept: Counter[Flow] = Counter()
        self._wire: Wire = []
        self._schedule = Schedule()
        self._tally = Tally()
        self._transactions = Transactions(timers=timers or Timers(), schedule=self._schedule, wire=self._wire)
        self._identity = Identity(
            random=random,
            advertise=advertise,
            product=product,
            # RFC 3261 section 20.5.
            methods=("ACK", *SERVED, *dict.fromkeys((*serve_within, *serve_outside))),
            body_types=accept,
        )
        terms = SessionTerms(expires_s=session_expires_s, min_se_s=min_se_s)
        responses = Responses(identity=self._identity, transactions=self._transactions, tally=self._tally)
        requests = Requests(
            identity=self._identity, transactions=self._transactions, login_for=login_for, tally=self._tally
        )
        self._calls = Calls(
            identity=self._identity,
            transactions=self._transactions,
            requests=requests,
            responses=responses,
            tally=self._tally,
        )
        self._gate = Gate(guard_of=guard_of, transactions=self._transactions, responses=responses, tally=self._tally)
        self._modifications = Modifications(
            identity=self._identity,
            transactions=self._transactions,
            requests=requests,
            calls=self._calls,
            terms=terms,
        )
        self._server = UserAgentServer(
            identity=self._identity,
            transactions=self._transactions,
            responses=responses,
            calls=self._calls,
            gate=self._gate,
            terms=terms,
            serve_within=serve_within,
            serve_outside=serve_outside,
            admit=lambda request, source, now: self.admit(request, source, now),
            tally=self._tally,
        )
        self._client = UserAgentClient(
            identity=self._identity,
            transactions=self._transactions,
            requests=requests,
            calls=self._calls,
            modifications=self._modifications,
            terms=terms,
            tally=self._tally,
        )

    # The five verbs of the core.

    def receive(self, data: bytes, flow: Flow, now: float) -> None:
        """Take one datagram. Never raises, whatever it is."""
        try:
            message: Request | Response | MalformedMessage = parse_datagram(data)
        except MalformedMessage as error:
            message = error
        self.receive_message(message, flow, now)

    def receive_message(self, message: Request | Response | MalformedMessage, flow: Flow, now: float) -> None:
        """Take one message, as it was cut out of a stream. Never raises, whatever it is."""
        if isinstance(message, MalformedMessage):
            self._server.receive_malformed(message, flow, now)
        elif isinstance(message, Request):
            self._server.receive(message.received_from(*flow.remote), flow, now)
        else:
            self._client.receive(message, flow, now)

    def flow_failed(self, flow: Flow, now: float) -> None:
        """The connection of `flow` could not be made, or is lost: requests along it fail (RFC 3261 section 8.1.3.1)."""
        for transaction in self._transactions.sent_along(flow):
            if transaction.fail(now):
                self._client.unanswered(transaction, now, status=503)
        if flow in self._kept:
            self._calls.tell(FlowFailed(flow=flow))

    def uses(self, flow: Flow) -> bool:
        """Whether something is going on along `flow`, so that its connection should be kept."""
        return flow in self._kept or self._transactions.use(flow) or self._calls.use(flow)

    def handle_timer(self, now: float) -> None:
        """Do what is due by `now`."""
        for owner in self._schedule.due(now):
            if isinstance(owner, Call):
                while (deadline := owner.next_due(now)) is not None:
                    self._calls.step(owner, deadline, now)
            elif isinstance(owner, ClientTransaction):
                if owner.fire(now):
                    self._client.unanswered(owner, now)
            elif isinstance(owner, ServerTransaction):
                owner.fire(now)
            elif isinstance(owner, Held):
                self._server.release(owner, now)
            elif isinstance(owner, Serving):
                self._server.overdue(owner, now)
            elif isinstance(owner, Reliable):
                self._server.reliable_due(owner, now)
            elif isinstance(owner, SessionTimer):
                self._modifications.session_due(owner, now)
            elif isinstance(owner, Change):
                self._modifications.change_due(owner, now)

    def wake_at(self) -> float | None:
        """When `handle_timer` wants to be called; None if nothing is waited for."""
        return self._schedule.wake_at()

    def next_event(self) -> Event | None:
        """The next thing that happened, None if that was all."""
        return self._calls.events.popleft() if self._calls.events else None

    def data_to_send(self) -> list[tuple[bytes, Flow]]:
        """What is to be sent now, in order; it is not given twice."""
        if not self._wire:
            return []
        data = self._wire.copy()
        self._wire.clear()
        return data

    # The verbs of the host. Each raises LocalProtocolError if the call, as it stands, does not allow it.

    def ring(
        self,
        now: float,
        call: str,
        *,
        status: int = 180,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes = b"",
        content_type: str = "application/sdp",
        reliable: bool = False,
    ) -> None:
        """Say that an offered call rings (180), or with a body begin early media (183); 101 to 199.

        It is said reliably, so that the peer acknowledges it, if the peer requires that or `reliable` is set. Several
        at once wait for one another then. If the INVITE had no offer, a reliable `body` is one: Acknowledged brings
        the answer. A body that would come after the answer, or the offer, is left out.

        Raises LocalProtocolError if it is to be `reliable` and the peer does not support that.
        """
        self._server.ring(now, call, status, _content(headers, body, content_type), reliable=reliable)

    def answer(
        self,
        now: float,
        call: str,
        *,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes = b"",
        content_type: str = "application/sdp",
        to: Request | None = None,
    ) -> None:
        """Accept the INVITE that is waiting or, if there is none, what else was Reoffered.

        The 200 to an INVITE is repeated until the peer acknowledges it. It goes out later if the peer has yet to
        acknowledge the description in a reliable `ring`, and without `body` if that was the answer or the offer.

        to  which request, where an UPDATE waits beside the INVITE
        """
        self._server.answer(now, call, _content(headers, body, content_type), to=to)

    def reject(
        self,
        now: float,
        call: str,
        *,
        status: int,
        reason: str | None = None,
        headers: Iterable[tuple[str, str]] = (),
        to: Request | None = None,
    ) -> None:
        """Refuse what is waiting: 300 to 699. After what was Reoffered the call goes on as it was.

        to  which request, where an UPDATE waits beside the INVITE
        """
        self._server.reject(now, call, status, reason, _content(headers), to=to)

    def bye(self, now: float, call: str, *, headers: Iterable[tuple[str, str]] = ()) -> None:
        """Hang up. The call has Ended at once, or, if its ACK is still to come, when that comes or is given up."""
        self._calls.leave(now, call, CallInput.BYE, _content(headers))

    def invite(
        self,
        now: float,
        target: Uri,
        flow: Flow,
        *,
        from_: NameAddr,
        body: bytes = b"",
        to: NameAddr | None = None,
        content_type: str = "application/sdp",
        headers: Iterable[tuple[str, str]] = (),
        ring_timeout_s: float = 180.0,
        keyring: Keyring | None = None,
        others: Iterable[Flow] = (),
    ) -> str:
        """Call `target` along `flow`; returns the key of the call.

        Progressed says how it goes: 180 that it rings, 183 with a body that there are early media. Answered comes if
        somebody takes the call, Ended in all other cases: with REMOTE_REJECT and the status, with LOST if nothing
        comes back at all, with NO_ANSWER if nobody answered in `ring_timeout_s`, upon which it is cancelled, or with
        LOCAL_CANCEL after `cancel`. Whether a person or a machine answered is for the host to find out.

        from_    who calls; its tag is ours to choose
        to       who is called if not `target`
        keyring  answers the challenges of the whole call
        others   along which it is tried next, in this order
        body     the offer; without one the peer makes it, and `acknowledge` answers it
        headers  any others, Route, Privacy and P-Asserted-Identity among them
        """
        return self._client.invite(
            now,
            target,
            flow,
            _content(headers, body, content_type),
            from_=from_,
            to=to,
            ring_timeout_s=ring_timeout_s,
            keyring=keyring,
            others=others,
        )

    def cancel(self, now: float, call: str, *, headers: Iterable[tuple[str, str]] = ()) -> None:
        """Give up calling. The CANCEL goes out once the peer has shown signs of life; the call Ends afterwards.

        headers  of the CANCEL, or of the BYE if the answer crosses it: Reason, for example (RFC 3326)
        """
        self._calls.leave(now, call, CallInput.CANCEL, _content(headers))

    def acknowledge(
        self,
        now: float,
        call: str,
        *,
        body: bytes,
        content_type: str = "application/sdp",
        headers: Iterable[tuple[str, str]] = (),
    ) -> None:
        """Answer the offer that a response to our INVITE without one brought: in the ACK, or the PRACK."""
        self._client.acknowledge(now, call, _content(headers, body, content_type))

    def reoffer(
        self,
        now: float,
        call: str,
        *,
        body: bytes = b"",
        content_type: str = "application/sdp",
        headers: Iterable[tuple[str, str]] = (),
    ) -> None:
        """Send a re-INVITE; Answered or Refused will say what came of it.

        If it crosses the peer's it is sent again, as it is, after the pause of RFC 3261 section 14.1, unless
        `withdraw` or another `reoffer` or `update` comes first.

        body  the offer; without one the peer makes it, and `acknowledge` answers it
        """
        self._modifications.change(now, call, "INVITE", _content(headers, body, content_type))

    def update(
        self,
        now: float,
        call: str,
        *,
        body: bytes = b"",
        content_type: str = "application/sdp",
        headers: Iterable[tuple[str, str]] = (),
    ) -> None:
        """Send an UPDATE (RFC 3311), even before the call is answered; Answered or Refused will say what came of it.

        It is sent again as `reoffer` is. Before the answer it goes to the early dialog that was heard of last.

        body  the offer; without one, nothing but the target and the session timer is refreshed
        """
        self._modifications.change(now, call, "UPDATE", _content(headers, body, content_type))

    def withdraw(self, now: float, call: str) -> None:
        """Do not send the latest `reoffer` or `update` again; in flight, it may still come to Answered or Refused."""
        self._modifications.withdraw(call)

    def request(
        self,
        now: float,
        method: str,
        target: Uri,
        flow: Flow,
        *,
        from_: NameAddr,
        to: NameAddr | None = None,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes = b"",
        content_type: str = "",
        call_id: str | None = None,
        seq: int = 1,
        keyring: Keyring | None = None,
        others: Iterable[Flow] = (),
    ) -> str:
        """Send a request outside of a dialog: REGISTER, OPTIONS, MESSAGE ...; returns its key.

        Responded says what came of it, once. Contact, where the method has one, is the caller's to give: see `contact`.

        from_         who asks; a tag that it has is kept, as the refreshing of a registration wants it
        to            who is asked if not `target`
        call_id, seq  Call-ID and number of the CSeq; by default it is the first request of a Call-ID of its own
        keyring       answers its challenges; each try has a number more than the one before, see `Responded.seq`
        others        flows along which it is tried next, in this order

        Raises LocalProtocolError for a method that has a verb of its own.
        """
        return self._client.request(
            now,
            method,
            target,
            flow,
            _content(headers, body, content_type),
            from_=from_,
            to=to,
            call_id=call_id,
            seq=seq,
            keyring=keyring,
            others=others,
        )

    def request_within(
        self,
        now: float,
        call: str,
        method: str,
        *,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes = b"",
        content_type: str = "",
    ) -> str:
        """Send a request within the dialog of a call: INFO, MESSAGE, REFER, NOTIFY ...; returns its key.

        Responded says what came of it, once. The call ends if the peer does not know it any more, or does not respond.

        Once the call has ended this goes on in a dialog that is retained.

        Raises LocalProtocolError if there is no such dialog, or none yet, or for a method that has a verb of its own.
        """
        return self._client.request_within(now, call, method, _content(headers, body, content_type))

    def respond(
        self,
        now: float,
        request: str,
        status: int,
        *,
        reason: str | None = None,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes = b"",
        content_type: str = "",
    ) -> None:
        """Answer a request that was Requested: 200 to 699.

        Raises LocalProtocolError if it waits no more: it has been answered, its call has ended, or 32*T1 have passed.
        """
        self._server.respond(now, request, status, reason, _content(headers, body, content_type))

    def keep_alive(self, now: float, flow: Flow) -> None:
        """Send what keeps NATs and connections open, and is no message (RFC 5626 section 3.5.1)."""
        self._transactions.send(b"\r\n\r\n", flow)

    def keep(self, flow: Flow) -> None:
        """Have the connection of `flow` kept open, and FlowFailed said when it is lost, until `release`."""
        self._kept[flow] += 1

    def release(self, flow: Flow) -> None:
        """One who had `flow` kept needs it no more."""
        self._kept[flow] -= 1
        if not self._kept[flow]:
            del self._kept[flow]

    def reached_at(self, flow: Flow, address: tuple[str, int]) -> None:
        """From now on tell peers along `flow` that they reach us at `address`, unless `advertise` says otherwise."""
        self._identity.reached_at(flow, address)

    def dialog(self, call: str) -> Dialog:
        """The dialog of a call, or a retained one. Raises LocalProtocolError if there is none."""
        return self._calls.dialog(call)[0]

    def call_id(self, call: str) -> str | None:
        """The Call-ID of a call whose INVITE of ours has no final response yet; None of any other."""
        placed = self._calls.get(call)
        return None if placed is None or placed.invite is None else placed.invite.request.call_id

    def retain(self, call: str) -> None:
        """Keep the dialog of a call even when the call has ended: a subscription uses it too (RFC 5057 section 3).

        Until `relinquish` has been called as often, REFER, NOTIFY and SUBSCRIBE go to and fro in it.
        """
        self._calls.retain(call)

    def retain_outside(self, request: str) -> str:
        """Keep the dialog that our 2xx to a request outside of calls makes (RFC 3515); the key that stands for a call.

        Raises LocalProtocolError if the request waits no more, or is part of a call.
        """
        return self._calls.retain_outside(request)

    def relinquish(self, call: str) -> None:
        """Undo one `retain`."""
        self._calls.relinquish(call)

    def contact(self, flow: Flow, *, secure: bool = False) -> str:
        """The Contact by which peers along `flow` reach us; `secure` makes it a sips URI (RFC 3261 section 8.1.1.8)."""
        return self._identity.contact(flow, secure=secure)

    def counters(self) -> Counters:
        """How much has come and gone, and what is alive."""
        return self._tally.counters(
            retransmissions_sent=self._transactions.retransmissions,
            held=len(self._gate),
            dialogs=self._calls.dialogs,
            transactions=len(self._transactions),
        )


def _content(headers: Iterable[tuple[str, str]], body: bytes = b"", content_type: str = "") -> Content:
    return Content(headers=tuple(Headers(headers)), body=body, content_type=content_type)
