"""The user agent: calls in both directions, as one table, over the transaction layer (RFC 3261 sections 8 to 15).

    agent.receive(data, flow, now)       what came off the wire
    agent.handle_timer(now)              when agent.wake_at() says so
    agent.next_event()                   what happened, until None
    agent.data_to_send()                 what has to go out

and the verbs of the host: `ring`, `answer`, `reject`, `bye`, `invite`, `cancel`, `acknowledge`, `reoffer`, `update` and
`withdraw` for calls; `request`, `request_within` and `respond` for all other requests. Bodies are opaque: what is in an
offer is the host's business, and how offers and answers follow one another is ours. `now` is seconds of any clock that
never goes back.

Requests that are refused without touching a call are answered statelessly (RFC 3261 section 8.2.7): whoever sends a
million of them leaves nothing behind, and gets one response to each.

A request of ours has one target or several. It goes to the next one, as a new transaction, if the one before cannot be
reached, does not respond, or responds 503 (RFC 3263 section 4.3). One of more than 1300 bytes goes by TCP where UDP was
not asked for, and by UDP after all if TCP fails (RFC 3261 section 18.1.1).
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from random import Random

from .call import (
    Acknowledged,
    Answered,
    Call,
    CallInput,
    CallState,
    Change,
    Confirmed,
    Content,
    Deadline,
    Do,
    Ended,
    Event,
    FlowFailed,
    Offered,
    Owing,
    Progressed,
    Refused,
    Reoffered,
    Requested,
    Responded,
    Serving,
    Withdrawn,
)
from .connection import next_hop
from .dialog import MAX_FORWARDS, Dialog, Retained
from .digest import CREDENTIALS, Keyring, Login, Space, WrongProof
from .errors import LocalProtocolError, RemoteProtocolError
from .exchange import Exchange, ExchangeInput
from .guard import Guard, Held, Offenders, Until
from .headers import Headers, NameAddr, Via
from .message import REASONS, Request, Response
from .parser import MalformedMessage, parse_datagram
from .reliable import RSEQ_LIMIT, Provisional, Reliable, ReliableDeadline, ReliableState, rack_of
from .replaces import replaced
from .session_timer import (
    LEAST_MIN_SE_S,
    SessionExpires,
    SessionTimer,
    TimerDeadline,
    TimerInput,
    TimerState,
    min_se,
    session_expires,
)
from .transaction import (
    COOKIE,
    ClientTransaction,
    Flow,
    Numbered,
    Schedule,
    ServerTransaction,
    Timers,
    Transactions,
    Wire,
    cancel_for,
)
from .uri import Uri, bracketed

__all__ = ["SUPPORTED", "Admission", "Agent", "Counters"]

# The option tags of the extensions that are understood (RFC 3261 section 20.37); what else is required gets 420.
SUPPORTED: tuple[str, ...] = ("100rel", "timer", "replaces", "norefersub")
_SUPPORTED_FIELD = ("Supported", ", ".join(SUPPORTED))
_MOST_REACHED_AT = 1024
# RFC 3261 section 18.1.1: the most that a datagram is trusted with where the MTU of the path is not known.
_LARGE_BYTES = 1300
_NOTHING: Mapping[str, tuple[str, ...]] = {}
# How many branches of a forked INVITE may ring at a time; more are not told apart from silence.
_EARLY_LIMIT = 64
# How often a change that crosses the peer's is sent.
_TRIES = 8
# After a refusal that says nothing of the session.
_REFRESH_PAUSE_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """What a request outside of a call gets before anything else is looked at.

    status         200 to look at it; 503 when there is no room or no wish for more, 403, 480 ...; None to ignore it
    retry_after_s  when to try again (RFC 3261 section 20.33); None says nothing about it
    """

    status: int | None = 200
    retry_after_s: int | None = None


Admit = Callable[[Request, Flow, float], Admission]


def _admit_all(request: Request, source: Flow, now: float) -> Admission:
    return Admission()


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """A snapshot. Requests count by method ("other" for unknown ones), responses by class ("1xx" to "6xx").

    requests_received, requests_sent    first transmissions, and those received again
    responses_received, responses_sent  first transmissions, and those received again
    retransmissions_received            requests that were received again
    retransmissions_sent                messages of any kind that were sent again
    malformed                           datagrams that were no SIP message
    strays                              responses and ACKs that nothing waited for
    turned_away                         requests refused by `Agent.admit`
    ignored                             requests that it had ignored
    wrong_proofs                        requests whose user or password was wrong
    held                                requests of those who sent such, that wait
    calls_received, calls_placed        since the beginning
    calls                               that have not ended
    dialogs                             of calls, of those that wait for the response to their BYE, and retained ones
    transactions                        of both sides
    """

    requests_received: Mapping[str, int]
    requests_sent: Mapping[str, int]
    responses_received: Mapping[str, int]
    responses_sent: Mapping[str, int]
    retransmissions_received: int
    retransmissions_sent: int
    malformed: int
    strays: int
    turned_away: int
    wrong_proofs: int
    held: int
    ignored: int
    calls_received: int
    calls_placed: int
    calls: int
    dialogs: int
    transactions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Agreed:
    """What was agreed on about the timer of a session; `alone` as in SessionTimer."""

    happening: TimerInput
    interval_s: int
    alone: bool


class Agent:
    """A user agent, server and client.

    admit      judges each request that belongs to no call, before it is looked at; the host may put its own here. It is
               asked about a CANCEL without its INVITE and about what cannot be read, too, but these it can only ignore,
               and once for each OPTIONS, which is answered what an INVITE would get (RFC 3261 section 11.2)

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
        if min_se_s < LEAST_MIN_SE_S or 0 < session_expires_s < min_se_s:
            raise LocalProtocolError(f"not {LEAST_MIN_SE_S} <= {min_se_s} (min_se_s) <= {session_expires_s} or 0")
        self.admit: Admit = _admit_all
        self._session_expires_s = session_expires_s
        self._min_se_s = min_se_s
        self._random = random
        self._timers = timers or Timers()
        self._advertise = advertise
        self._body_types = accept
        self._serve_within = serve_within
        self._serve_outside = serve_outside
        self._login_for = login_for
        self._guard_of = guard_of
        self._offenders = Offenders()
        # The requests of offenders that wait, by the key of their transactions.
        self._held: dict[object, Held] = {}
        self._kept: Counter[Flow] = Counter()
        # How peers along a flow reach us, where they have said so.
        self._reached_at: dict[Flow, tuple[str, int]] = {}
        # RFC 3261 section 20.5.
        self._methods = ("ACK", *_SERVED, *dict.fromkeys((*serve_within, *serve_outside)))
        self._allow = ("Allow", ", ".join(self._methods))
        self._server_fields = (("Server", product),) if product else ()
        self._client_fields = (("User-Agent", product),) if product else ()
        self._secret = random.randbytes(16)
        self._wire: Wire = []
        self._schedule = Schedule()
        self._transactions = Transactions(timers=self._timers, schedule=self._schedule, wire=self._wire)
        self._calls: dict[str, Call] = {}
        # The dialogs that subscriptions use, by our tag.
        self._retained: dict[str, Retained] = {}
        # Requests that wait for their response: of the peers', and of ours with the key of their call, by their own.
        self._serving: dict[str, Serving] = {}
        self._asking: dict[str, str | None] = {}
        self._events: deque[Event] = deque()
        self._requests_received: Counter[str] = Counter()
        self._requests_sent: Counter[str] = Counter()
        self._responses_received: Counter[int] = Counter()
        self._responses_sent: Counter[int] = Counter()
        self._retransmissions_received = 0
        self._malformed = 0
        self._strays = 0
        self._turned_away = 0
        self._wrong_proofs = 0
        self._ignored = 0
        self._calls_received = 0
        self._calls_placed = 0
        self._live = 0

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
            self._malformed += 1
            if message.request is not None:
                request = message.request.received_from(*flow.remote)
                if self.admit(request, flow, now).status is None:
                    self._ignored += 1
                else:
                    reply = _reply_flow(request.via, flow)
                    self._refuse(request, reply, message.status, message.reason, message.headers)
        elif isinstance(message, Request):
            self._receive_request(message.received_from(*flow.remote), flow, now)
        else:
            self._receive_response(message, flow, now)

    def flow_failed(self, flow: Flow, now: float) -> None:
        """The connection of `flow` could not be made, or is lost: requests along it fail (RFC 3261 section 8.1.3.1)."""
        for transaction in self._transactions.sent_along(flow):
            if transaction.fail(now):
                self._unanswered(transaction, now, status=503)
        if flow in self._kept:
            self._events.append(FlowFailed(flow=flow))

    def uses(self, flow: Flow) -> bool:
        """Whether something is going on along `flow`, so that its connection should be kept."""
        return (
            flow in self._kept
            or self._transactions.use(flow)
            or any(flow in (call.source, call.dialog and call.dialog.flow) for call in self._calls.values())
            or any(flow == retained.dialog.flow for retained in self._retained.values())
        )

    def handle_timer(self, now: float) -> None:
        """Do what is due by `now`."""
        for owner in self._schedule.due(now):
            if isinstance(owner, Call):
                while (deadline := owner.next_due(now)) is not None:
                    self._step(owner, deadline, now)
            elif isinstance(owner, ClientTransaction):
                if owner.fire(now):
                    self._unanswered(owner, now)
            elif isinstance(owner, ServerTransaction):
                owner.fire(now)
            elif isinstance(owner, Held):
                self._release(owner, now)
            elif isinstance(owner, Serving):
                self._overdue(owner, now)
            elif isinstance(owner, Reliable):
                self._reliable_due(owner, now)
            elif isinstance(owner, SessionTimer):
                self._session_due(owner, now)
            elif isinstance(owner, Change):
                self._change_due(owner, now)

    def wake_at(self) -> float | None:
        """When `handle_timer` wants to be called; None if nothing is waited for."""
        return self._schedule.wake_at()

    def next_event(self) -> Event | None:
        """The next thing that happened, None if that was all."""
        return self._events.popleft() if self._events else None

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
        if not 100 < status < 200:
            raise LocalProtocolError(f"{status} does not say that a call rings")
        ringing, server, offer = self._offered(call, CallInput.RING)
        fields = tuple(Headers((("Contact", ringing.contact), *headers)))
        if "100rel" not in offer.require and not (reliable and "100rel" in offer.supported):
            if reliable:
                raise LocalProtocolError("the peer does not support reliable provisional responses")
            self._respond(server, offer, status, now, headers=fields, body=body, content_type=content_type)
        else:
            provisional = Provisional(status=status, headers=fields, body=body, content_type=content_type)
            if ringing.reliable is None:
                # RFC 3262 section 3: the first number leaves the others room to grow.
                first = self._random.randrange(1, RSEQ_LIMIT)
                ringing.reliable = Reliable(
                    call=call, seq=offer.cseq.number, first_rseq=first, schedule=self._schedule, timers=self._timers
                )
            if ringing.reliable.state is ReliableState.WAITING:
                ringing.reliable.queue.append(provisional)
            else:
                self._send_reliably(ringing, ringing.reliable, provisional, now)
        self._step(ringing, CallInput.RING, now)

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
        answered = self._call(call)
        content = Content(headers=tuple(Headers(headers)), body=body, content_type=content_type)
        asked = answered.waiting_beside(to)
        if asked is not None:
            self._agree(answered, asked, content, now)
            return
        answered, server, offer = self._offered(call, CallInput.ANSWER)
        if answered.reliable is not None and answered.reliable.holds_answer:
            answered.reliable.queue.clear()
            answered.held = content
            self._step(answered, CallInput.HOLD, now)
        else:
            self._accept(answered, server, offer, content, CallInput.ANSWER, now)

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
        if not 300 <= status < 700:
            raise LocalProtocolError(f"{status} does not refuse a call")
        asked = self._call(call).waiting_beside(to)
        if asked is not None:
            self._settle(asked, status, now, reason=reason, headers=headers)
            self._forget_asked(asked)
            return
        rejected, server, offer = self._offered(call, CallInput.REJECT)
        self._respond(server, offer, status, now, reason=reason, headers=headers)
        if rejected.dialog is not None:
            rejected.dialog.take(ExchangeInput.DROP)
        rejected.offer = rejected.server = None
        self._step(rejected, CallInput.REJECT, now, status=status, reason=reason or REASONS.get(status, ""))

    def bye(self, now: float, call: str, *, headers: Iterable[tuple[str, str]] = ()) -> None:
        """Hang up. The call has Ended at once, or, if its ACK is still to come, when that comes or is given up."""
        leaving = self._call(call)
        farewell = tuple(Headers(headers))
        leaving.require(CallInput.BYE)
        leaving.farewell = farewell
        self._step(leaving, CallInput.BYE, now)

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
        secure = target.scheme == "sips"
        key = self._token()
        fields = (
            ("Via", self._via(flow)),
            ("Max-Forwards", str(MAX_FORWARDS)),
            ("From", str(from_.with_tag(key))),
            ("To", str(to or NameAddr(uri=target))),
            ("Call-ID", self._token()),
            ("CSeq", "1 INVITE"),
            ("Contact", self.contact(flow, secure=secure)),
            # RFC 3261 section 13.2.1: a callee whose responses do not arrive knows when to stop ringing.
            ("Expires", str(math.ceil(ring_timeout_s))),
            *self._offer_fields(headers, body, content_type),
            *self._session_fields(None),
        )
        request = Request(method="INVITE", uri=target, headers=Headers(fields), body=body)
        patience_s = ring_timeout_s + self._timers.patience
        transaction = self._send_request(
            request, flow, key, now, final_within_s=patience_s, keyring=keyring, others=tuple(others)
        )
        call = self._begin(key, CallState.CALLING, transaction.flow, now, ring_timeout_s, secure=secure)
        call.invite = transaction
        call.local = (body, content_type)
        self._calls_placed += 1
        return key

    def cancel(self, now: float, call: str, *, headers: Iterable[tuple[str, str]] = ()) -> None:
        """Give up calling. The CANCEL goes out once the peer has shown signs of life; the call Ends afterwards.

        headers  of the CANCEL, or of the BYE if the answer crosses it: Reason, for example (RFC 3326)
        """
        leaving = self._call(call)
        farewell = tuple(Headers(headers))
        leaving.require(CallInput.CANCEL)
        leaving.farewell = farewell
        self._step(leaving, CallInput.CANCEL, now)

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
        acknowledging = self._call(call)
        owing = acknowledging.owing
        if owing is None:
            raise LocalProtocolError("no offer to acknowledge")
        content = Content(headers=tuple(Headers(headers)), body=body, content_type=content_type)
        if owing.rack:
            self._send_prack(owing.dialog, owing.rack, now, content)
        else:
            acknowledging.require(CallInput.ACKNOWLEDGE)
            self._send_ack(owing.transaction, owing.dialog, content)
            self._step(acknowledging, CallInput.ACKNOWLEDGE, now)
        owing.dialog.take(ExchangeInput.ANSWER)
        acknowledging.local = (body, content_type)
        acknowledging.owing = None

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
        self._change(
            call, "INVITE", Content(headers=tuple(Headers(headers)), body=body, content_type=content_type), now
        )

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
        self._change(
            call, "UPDATE", Content(headers=tuple(Headers(headers)), body=body, content_type=content_type), now
        )

    def withdraw(self, now: float, call: str) -> None:
        """Do not send the latest `reoffer` or `update` again; in flight, it may still come to Answered or Refused."""
        withdrawing = self._call(call)
        change = withdrawing.change
        if change is None:
            raise LocalProtocolError("nothing to withdraw")
        change.tries = _TRIES
        if change.waits:
            change.go()
            withdrawing.change = None

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
        if method in _OWN_METHODS:
            raise LocalProtocolError(f"{method} is not sent so")
        key = self._token()
        fields = (
            ("Via", self._via(flow)),
            ("Max-Forwards", str(MAX_FORWARDS)),
            ("From", str(from_ if from_.tag else from_.with_tag(self._token()))),
            ("To", str(to or NameAddr(uri=target))),
            ("Call-ID", call_id or self._token()),
            ("CSeq", f"{seq} {method}"),
            *self._client_fields,
            *headers,
            *_content_type(body, content_type),
        )
        request = Request(method=method, uri=target, headers=Headers(fields), body=body)
        self._send_request(request, flow, key, now, keyring=keyring, others=tuple(others))
        self._asking[key] = None
        return key

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
        if method in _OWN_METHODS:
            raise LocalProtocolError(f"{method} is not sent so")
        dialog, contact = self._dialog(call)
        key = self._token()
        fields = (*self._client_fields, *headers, *_content_type(body, content_type))
        if method in _TARGET_REFRESHERS:
            fields = (("Contact", contact), *fields)
        self._request_within(dialog, method, key, now, headers=fields, body=body)
        self._asking[key] = call
        return key

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
        serving = self._serving.get(request)
        if serving is None:
            raise LocalProtocolError(f"no such request, or it has been answered: {request}")
        if not 200 <= status < 700:
            raise LocalProtocolError(f"{status} is no final response")
        self._settle(serving, status, now, reason=reason, headers=headers, body=body, content_type=content_type)

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
        self._reached_at.pop(flow, None)
        self._reached_at[flow] = address
        if len(self._reached_at) > _MOST_REACHED_AT:
            del self._reached_at[next(iter(self._reached_at))]

    def dialog(self, call: str) -> Dialog:
        """The dialog of a call, or a retained one. Raises LocalProtocolError if there is none."""
        return self._dialog(call)[0]

    def retain(self, call: str) -> None:
        """Keep the dialog of a call even when the call has ended: a subscription uses it too (RFC 5057 section 3).

        Until `relinquish` has been called as often, REFER, NOTIFY and SUBSCRIBE go to and fro in it.
        """
        dialog, contact = self._dialog(call)
        retained = self._retained.setdefault(call, Retained(dialog=dialog, contact=contact))
        retained.users += 1

    def retain_outside(self, request: str) -> str:
        """Keep the dialog that our 2xx to a request outside of calls makes (RFC 3515); the key that stands for a call.

        Raises LocalProtocolError if the request waits no more, or is part of a call.
        """
        serving = self._serving.get(request)
        if serving is None or serving.call is not None:
            raise LocalProtocolError(f"no such request outside of calls, or it has been answered: {request}")
        key = serving.call = serving.transaction.to_tag
        dialog = Dialog.served(serving.request, key, serving.source)
        self._retained[key] = Retained(dialog=dialog, contact=self.contact(serving.source), users=1)
        return key

    def relinquish(self, call: str) -> None:
        """Undo one `retain`."""
        retained = self._retained[call]
        retained.users -= 1
        if not retained.users:
            del self._retained[call]

    def contact(self, flow: Flow, *, secure: bool = False) -> str:
        """The Contact by which peers along `flow` reach us; `secure` makes it a sips URI (RFC 3261 section 8.1.1.8)."""
        host, port = self._address(flow)
        if secure:
            return f"<sips:{bracketed(host)}:{port}>"
        transport = "" if flow.transport == "UDP" else f";transport={flow.transport.lower()}"
        return f"<sip:{bracketed(host)}:{port}{transport}>"

    def counters(self) -> Counters:
        """How much has come and gone, and what is alive."""
        return Counters(
            requests_received=dict(self._requests_received),
            requests_sent=dict(self._requests_sent),
            responses_received=_by_class(self._responses_received),
            responses_sent=_by_class(self._responses_sent),
            retransmissions_received=self._retransmissions_received,
            retransmissions_sent=self._transactions.retransmissions,
            malformed=self._malformed,
            strays=self._strays,
            turned_away=self._turned_away,
            wrong_proofs=self._wrong_proofs,
            held=len(self._held),
            ignored=self._ignored,
            calls_received=self._calls_received,
            calls_placed=self._calls_placed,
            calls=self._live,
            dialogs=len(self._calls.keys() | self._retained.keys()),
            transactions=len(self._transactions),
        )

    # The table.

    def _call(self, key: str) -> Call:
        call = self._calls.get(key)
        if call is None or call.state is CallState.ENDING:
            raise LocalProtocolError(f"no such call, or it has ended: {key}")
        return call

    def _dialog(self, key: str) -> tuple[Dialog, str]:
        """The dialog of a call, or a retained one, and our Contact in it."""
        retained = self._retained.get(key)
        if retained is not None:
            return retained.dialog, retained.contact
        call = self._call(key)
        if call.dialog is None:
            raise LocalProtocolError(f"no dialog yet: {key}")
        return call.dialog, call.contact

    def _offered(self, key: str, verb: CallInput) -> tuple[Call, ServerTransaction, Request]:
        call = self._call(key)
        call.require(verb)
        if call.server is None or call.offer is None:
            raise LocalProtocolError(f"no offer to {verb.value}")
        return call, call.server, call.offer

    def _begin(
        self,
        key: str,
        state: CallState,
        flow: Flow,
        now: float,
        ring_timeout_s: float | None,
        *,
        secure: bool,
    ) -> Call:
        call = self._calls[key] = Call(
            key=key,
            state=state,
            source=flow,
            contact=self.contact(flow, secure=secure),
            schedule=self._schedule,
            timers=self._timers,
            now=now,
            ring_timeout_s=ring_timeout_s,
        )
        self._live += 1
        return call

    def _step(
        self, call: Call, happening: CallInput | Deadline, now: float, *, status: int | None = None, reason: str = ""
    ) -> tuple[Do, ...]:
        """Take the row for `happening`, and do what it says but for what needs the message, which the caller has.

        Raises LocalProtocolError without a row: callers look first where the peer is to blame.
        """
        todo = call.step(happening, now)
        for do in todo:
            if do is Do.SEND_AGAIN:
                if call.server is not None:
                    call.server.repeat(now)
            elif do in _REFUSALS:
                self._terminate(call, _REFUSALS[do], now)
            elif do is Do.SEND_ACK:
                if call.owing is not None:
                    self._send_ack(call.owing.transaction, call.owing.dialog, _NO_CONTENT)
            elif do is Do.SEND_CANCEL:
                if call.invite is not None:
                    call.invite.hurry(now)
                    cancel = cancel_for(call.invite.request)
                    fields = (*cancel.headers, *self._client_fields, *call.farewell)
                    cancel = Request(method="CANCEL", uri=cancel.uri, headers=Headers(fields))
                    self._send_request(cancel, call.invite.flow, call.key, now, fixed=True)
            elif do is Do.SEND_BYE:
                assert call.dialog is not None, call.state
                headers = (*self._client_fields, *call.farewell)
                self._request_within(call.dialog, "BYE", call.key, now, headers=headers)
            elif do is Do.TELL_ENDED:
                assert call.cause is not None, call.state
                self._live -= 1
                self._abandon(call, now)
                self._events.append(Ended(call=call.key, cause=call.cause, status=status, reason=reason))
            elif do is Do.TELL_WITHDRAWN:
                self._events.append(Withdrawn(call=call.key))
        if call.state is CallState.ENDED:
            del self._calls[call.key]
        return todo

    def _replace(self, call: Call, now: float) -> None:
        """`call` has been answered: end the one whose place it takes (RFC 3891 section 3)."""
        other = self._calls.get(call.replaces)
        call.replaces = ""
        for verb in (CallInput.BYE, CallInput.CANCEL):
            if other is not None and other.allows(verb):
                self._step(other, verb, now)
                break

    def _terminate(self, call: Call, status: int, now: float) -> None:
        if call.server is not None and call.offer is not None:
            self._respond(call.server, call.offer, status, now)
        if call.dialog is not None:
            call.dialog.take(ExchangeInput.DROP)
        call.server = call.offer = None

    def _abandon(self, call: Call, now: float) -> None:
        """The call has ended: nobody waits any more for what was asked within it."""
        call.asked = call.owing = call.updating = None
        call.session.step(TimerInput.STOP, now)
        if call.reliable is not None:
            call.reliable.close()
        if call.change is not None:
            call.change.go()
        for serving in [serving for serving in self._serving.values() if serving.call == call.key]:
            # RFC 3261 section 15.1.2.
            self._settle(serving, 487, now)
        if call.key in self._retained:
            # What was asked in the dialog is still answered there.
            return
        for key in [key for key, user in self._asking.items() if user == call.key]:
            del self._asking[key]
            self._events.append(Responded(request=key, call=call.key, seq=None, response=None))

    # Requests of the peer's.

    def _receive_request(self, request: Request, source: Flow, now: float) -> None:
        method = request.method
        serve = _SERVED.get(method)
        known = method in self._methods
        self._requests_received[method if known else "other"] += 1
        transaction = self._transactions.server(request)
        if method == "ACK":
            self._receive_ack(request, transaction, now)
        elif transaction is not None:
            self._retransmissions_received += 1
            transaction.receive(request, now)
        elif self._admitted(request, source, now):
            reply = _reply_flow(request.via, source)
            unsupported = [tag for tag in request.require if tag not in SUPPORTED]
            if not known:
                # RFC 3261 section 8.2.1.
                self._refuse(request, reply, 405, headers=(self._allow,))
            elif unsupported and method != "CANCEL":
                # Section 8.2.2.3; nothing is required of a CANCEL.
                self._refuse(request, reply, 420, headers=(("Unsupported", ", ".join(unsupported)),))
            elif method != "INVITE" and "Replaces" in request.headers:
                # RFC 3891 section 3.
                self._refuse(request, reply, 400, "Replaces Outside of an INVITE")
            elif serve is not None:
                serve(self, request, source, reply, now)
            elif request.to.tag:
                self._serve_within_call(request, source, reply, now)
            else:
                self._serve_outside_calls(request, source, reply, now)

    def _admitted(self, request: Request, source: Flow, now: float) -> bool:
        """Whether to look at a request without a transaction; it is answered, or ignored, if not."""
        method = request.method
        if self._within(request) is not None or (method == "CANCEL" and self._transactions.cancelled_by(request)):
            return True
        if method == "INVITE" and not request.to.tag and self._transactions.merged(request):
            # RFC 3261 section 8.2.2.2. It is no other call, so it costs none of what a call costs.
            self._refuse(request, _reply_flow(request.via, source), 482)
            return False
        verdict = self.admit(request, source, now)
        if verdict.status is None:
            self._ignored += 1
        elif verdict.status == 200 or method == "CANCEL":
            return True
        elif method == "OPTIONS":
            self._answer_options(request, source, verdict)
        else:
            self._turned_away += 1
            self._refuse(request, _reply_flow(request.via, source), verdict.status, headers=_retry_after(verdict))
        return False

    def _receive_ack(self, ack: Request, transaction: ServerTransaction | None, now: float) -> None:
        if transaction is not None and not transaction.receive(ack, now):
            return
        call = self._within(ack)
        if call is None or ack.cseq.number != call.acked or not call.allows(CallInput.PEER_ACK):
            self._strays += 1
            return
        self._acknowledged(call)
        if call.owed and call.dialog is not None:
            call.dialog.take(ExchangeInput.PEER_ANSWER if ack.body else ExchangeInput.DROP)
        if Do.TELL_CONFIRMED in self._step(call, CallInput.PEER_ACK, now):
            self._events.append(Confirmed(call=call.key, body=ack.body, content_type=ack.content_type))

    def _acknowledged(self, call: Call) -> None:
        if call.server is not None:
            call.server.acknowledged()
            call.server = None

    def _serve_invite(self, request: Request, source: Flow, reply: Flow, now: float) -> None:
        if request.to.tag:
            self._serve_reinvite(request, source, reply, now)
            return
        user = self._prover(request, source, reply, now)
        if user is None:
            return
        if request.contact is None:
            self._refuse(request, reply, 400, "Missing Contact")
            return
        if not self._readable(request, reply, self._body_types) or self._too_brief(request, reply):
            return
        replaces = request.headers.get("Replaces")
        try:
            other = None if replaces is None else replaced(replaces, self._calls).key
        except RemoteProtocolError as error:
            self._refuse(request, reply, error.status, error.reason)
            return
        key = self._token()
        call = self._begin(key, CallState.OFFERED, source, now, request.expires, secure=_secure(request))
        call.replaces = other or ""
        call.dialog = Dialog.served(request, key, source)
        call.offer = request
        call.updatable = _allows_update(request)
        call.server = self._transactions.serve(request, reply, key, now)
        self._calls_received += 1
        self._respond(call.server, request, 100, now)
        self._events.append(Offered(call=key, request=request, flow=source, user=user, replaces=other))

    def _serve_reinvite(self, request: Request, source: Flow, reply: Flow, now: float) -> None:
        call = self._within(request)
        if call is None or not call.allows(CallInput.PEER_INVITE):
            self._refuse(request, reply, 481)
            return
        if self._too_brief(request, reply) or not self._acceptable(call.dialog, request, reply, self._body_types):
            return
        transaction = self._transactions.serve(request, reply, call.key, now)
        if call.dialog is not None and call.dialog.exchange is Exchange.OFFERING:
            # RFC 5407 section 3.1.5, case 2: the exchange that the answer in the ACK completes comes first, and that
            # of our UPDATE or re-INVITE.
            self._respond(transaction, request, 491, now)
            return
        if call.asked is not None:
            self._respond(transaction, request, 500, now, headers=self._pause())
            return
        todo = self._step(call, CallInput.PEER_INVITE, now)
        if Do.SEND_500 in todo:
            # RFC 3261 section 14.2.
            self._respond(transaction, request, 500, now, headers=self._pause())
        elif Do.SEND_491 in todo:
            self._respond(transaction, request, 491, now)
        else:
            self._acknowledged(call)
            call.server, call.offer, call.source = transaction, request, source
            if call.dialog is not None and request.body:
                call.dialog.take(ExchangeInput.PEER_OFFER)
            self._respond(transaction, request, 100, now)
            if Do.TELL_CONFIRMED in todo:
                self._events.append(Confirmed(call=call.key, body=b"", content_type=""))
            self._events.append(Reoffered(call=call.key, request=request))

    def _serve_bye(self, request: Request, source: Flow, reply: Flow, now: float) -> None:
        call = self._within(request)
        if call is None or not call.allows(CallInput.PEER_BYE):
            self._refuse(request, reply, 481)
        elif self._in_order(call.dialog_of(request.from_.tag), request, reply):
            transaction = self._transactions.serve(request, reply, call.key, now)
            self._respond(transaction, request, 200, now)
            self._step(call, CallInput.PEER_BYE, now, reason=request.headers.get("Reason") or "")
            # Who hangs up has done with our 2xx too.
            self._acknowledged(call)

    def _serve_cancel(self, request: Request, source: Flow, reply: Flow, now: float) -> None:
        invite = self._transactions.cancelled_by(request)
        if invite is None:
            self._refuse(request, reply, 481)
            return
        # RFC 3261 section 9.2: answered whether or not it comes too late, with the To tag of the INVITE's responses.
        transaction = self._transactions.serve(request, reply, invite.to_tag, now)
        self._respond(transaction, request, 200, now)
        held = self._held.get(invite.key)
        if held is not None:
            self._let_go(held)
            self._respond(invite, held.request, 487, now)
        call = self._calls.get(invite.to_tag)
        if call is not None and call.server is invite and call.allows(CallInput.PEER_CANCEL):
            self._step(call, CallInput.PEER_CANCEL, now, reason=request.headers.get("Reason") or "")

    def _serve_options(self, request: Request, source: Flow, reply: Flow, now: float) -> None:
        call = self._within(request)
        if request.to.tag and call is None:
            self._refuse(request, reply, 481)
        elif call is None or self._in_order(call.dialog_of(request.from_.tag), request, reply):
            self._answer_options(request, source, Admission())

    def _answer_options(self, request: Request, source: Flow, verdict: Admission) -> None:
        """RFC 3261 section 11.2: say what an INVITE would get."""
        fields = (
            ("Contact", self.contact(source)),
            self._allow,
            ("Accept", ", ".join(self._body_types)),
            _SUPPORTED_FIELD,
            *_retry_after(verdict),
        )
        self._refuse(request, _reply_flow(request.via, source), verdict.status or 200, headers=fields)

    def _serve_update(self, request: Request, source: Flow, reply: Flow, now: float) -> None:
        call = self._within(request)
        dialog = None if call is None else call.dialog_of(request.from_.tag)
        if call is None or dialog is None or call.state is CallState.ENDING:
            self._refuse(request, reply, 481)
            return
        if self._too_brief(request, reply) or not self._acceptable(dialog, request, reply, self._body_types):
            return
        # RFC 3311 section 5.2: one UPDATE at a time, and one offer.
        mine = dialog.exchange is Exchange.OFFERING or (dialog.exchange is Exchange.EMPTY and not call.up)
        if call.asked is not None or (request.body and dialog.exchange is Exchange.OFFERED):
            transaction = self._transactions.serve(request, reply, call.key, now)
            self._respond(transaction, request, 500, now, headers=self._pause())
        elif request.body and mine:
            self._respond(self._transactions.serve(request, reply, call.key, now), request, 491, now)
        else:
            serving = self._serve(request, source, reply, call.key, call.key, now)
            if request.body:
                self._ask(call, dialog, serving)
            else:
                self._agree(call, serving, _NO_CONTENT, now)

    def _serve_prack(self, request: Request, source: Flow, reply: Flow, now: float) -> None:
        call = self._within(request)
        dialog = None if call is None else call.dialog_of(request.from_.tag)
        if call is None or dialog is None or call.state is CallState.ENDING:
            self._refuse(request, reply, 481)
            return
        if not self._acceptable(dialog, request, reply, self._body_types):
            return
        reliable = call.reliable
        if reliable is None or not reliable.acknowledge(rack_of(request)):
            # RFC 3262 section 3.
            self._refuse(request, reply, 481)
            return
        answer = request if request.body and dialog.exchange is Exchange.OFFERING else None
        if answer is not None:
            dialog.take(ExchangeInput.PEER_ANSWER)
        body, content_type = (b"", "") if answer is None else (answer.body, answer.content_type)
        self._events.append(Acknowledged(call=call.key, body=body, content_type=content_type))
        serving = self._serve(request, source, reply, call.key, call.key, now)
        if request.body and answer is None and call.asked is None and dialog.exchange is Exchange.AGREED:
            # Section 5: after the answer in the response, PRACK may begin another exchange.
            self._ask(call, dialog, serving)
        else:
            self._settle(serving, 200, now)
        if call.server is None or call.offer is None:
            return
        if call.held is not None:
            self._accept(call, call.server, call.offer, call.held, CallInput.RELEASE, now)
        elif reliable.queue:
            self._send_reliably(call, reliable, reliable.queue.popleft(), now)

    def _ask(self, call: Call, dialog: Dialog, serving: Serving) -> None:
        """Have the host answer the offer of an UPDATE or PRACK."""
        dialog.take(ExchangeInput.PEER_OFFER)
        call.asked = serving
        self._events.append(Reoffered(call=call.key, request=serving.request))

    def _agree(self, call: Call, serving: Serving, content: Content, now: float) -> None:
        """Accept an UPDATE, or a PRACK with an offer."""
        request = serving.request
        dialog = call.dialog_of(request.from_.tag)
        update = request.method == "UPDATE"
        session, agreed = self._session_answer(call, request) if update and call.up else ((), None)
        fields = (self._allow, _SUPPORTED_FIELD, *session, *content.headers)
        body, content_type = content.body, content.content_type
        self._settle(serving, 200, now, headers=fields, body=body, content_type=content_type)
        if dialog is not None:
            if update:
                dialog.refresh(request, serving.source)
            if request.body:
                dialog.take(ExchangeInput.ANSWER if body else ExchangeInput.DROP)
        if body:
            call.local = (body, content_type)
        if call.asked is serving:
            call.asked = None
        call.updatable = call.updatable or update
        if agreed is not None:
            call.session.restart(agreed.happening, agreed.interval_s, now, alone=agreed.alone)

    def _forget_asked(self, serving: Serving) -> None:
        """The offer of an UPDATE or PRACK is not accepted."""
        call = self._calls.get(serving.call or "")
        if call is not None and call.asked is serving:
            call.asked = None
            dialog = call.dialog_of(serving.request.from_.tag)
            if dialog is not None:
                dialog.take(ExchangeInput.DROP)

    def _overdue(self, serving: Serving, now: float) -> None:
        """The host has left a request without an answer."""
        call = self._calls.get(serving.call or "")
        if call is not None and call.asked is serving:
            self._events.append(Withdrawn(call=call.key))
        self._forget_asked(serving)
        # RFC 4320 section 4.2: 408 would come too late to be of use to anybody.
        self._settle(serving, 500, now, reason="Not Answered in Time")

    def _serve_within_call(self, request: Request, source: Flow, reply: Flow, now: float) -> None:
        call = self._within(request)
        dialog = None if call is None else call.dialog_of(request.from_.tag)
        if call is None or call.state is CallState.ENDING:
            # RFC 5407 section 3.2: whoever has said BYE answers everything but a BYE with 481. Subscriptions go on.
            retained = self._retained.get(request.to.tag) if request.method in _TARGET_REFRESHERS else None
            dialog = retained.dialog if retained is not None and retained.dialog.matches(request) else None
        if dialog is None:
            self._refuse(request, reply, 481)
        elif request.method not in self._serve_within:
            self._disallow(request, reply)
        elif self._acceptable(dialog, request, reply, self._serve_within[request.method]):
            if request.method in _TARGET_REFRESHERS:
                dialog.refresh(request, source)
            self._tell_requested(self._serve(request, source, reply, request.to.tag, request.to.tag, now))

    def _serve_outside_calls(self, request: Request, source: Flow, reply: Flow, now: float) -> None:
        if request.method not in self._serve_outside:
            self._disallow(request, reply)
        elif self._transactions.merged(request):
            self._refuse(request, reply, 482)
        elif (user := self._prover(request, source, reply, now)) is not None and self._readable(
            request, reply, self._serve_outside[request.method]
        ):
            self._tell_requested(self._serve(request, source, reply, None, self._token(), now), user)

    def _tell_requested(self, serving: Serving, user: str = "") -> None:
        self._events.append(
            Requested(request=serving.key, call=serving.call, message=serving.request, flow=serving.source, user=user)
        )

    def _serve(self, request: Request, source: Flow, reply: Flow, call: str | None, to_tag: str, now: float) -> Serving:
        """Begin to serve a request that may wait for the host."""
        key = self._token()
        transaction = self._transactions.serve(request, reply, to_tag, now)
        expire_at = now + self._timers.patience / 2
        serving = self._serving[key] = Serving(
            key=key,
            call=call,
            request=request,
            source=source,
            transaction=transaction,
            schedule=self._schedule,
            expire_at=expire_at,
        )
        return serving

    def _prover(self, request: Request, source: Flow, reply: Flow, now: float) -> str | None:
        """Who has sent a request that begins something, "" where nobody has to say; None if it is answered with 401.

        RFC 3261 section 22. Without proof that is at once, and statelessly; after a wrong one it takes its time.
        """
        guard = None if self._guard_of is None else self._guard_of(request, source)
        if guard is None:
            return ""
        host = source.remote[0]
        waits_until = self._offenders.until(host, now)
        if waits_until > now and guard.realm.answer(request) is not None:
            self._hold(request, source, reply, guard, Until.CHECK, waits_until, now)
            return None
        try:
            return guard.realm.check(request, guard.password_of, now, source=host)
        except WrongProof:
            self._wrong_proofs += 1
            self._hold(request, source, reply, guard, Until.REFUSE, self._offenders.offend(host, now), now)
        except RemoteProtocolError as error:
            self._refuse(request, reply, error.status, headers=error.headers)
        return None

    def _hold(
        self, request: Request, source: Flow, reply: Flow, guard: Guard, until: Until, at: float, now: float
    ) -> None:
        # Beyond what is held for everybody there is no answer at all.
        if not self._offenders.admit(source.remote[0]):
            return
        transaction = self._transactions.serve(request, reply, self._stateless_tag(request), now)
        if request.method == "INVITE":
            # RFC 3261 section 17.2.1: within 200 ms.
            self._respond(transaction, request, 100, now)
        self._held[transaction.key] = Held(
            request=request,
            source=source,
            reply=reply,
            guard=guard,
            transaction=transaction,
            until=until,
            at=at,
            schedule=self._schedule,
        )

    def _let_go(self, held: Held) -> None:
        held.released()
        del self._held[held.transaction.key]
        self._offenders.dismiss(held.source.remote[0])

    def _release(self, held: Held, now: float) -> None:
        """The time of a held request has come."""
        self._let_go(held)
        request, source = held.request, held.source
        if held.until is Until.REFUSE:
            fields = held.guard.realm.unauthorised(now, source=source.remote[0]).headers
            self._respond(held.transaction, request, 401, now, headers=fields)
            return
        self._transactions.remove(held.transaction)
        if self._admitted(request, source, now):
            serve = Agent._serve_invite if request.method == "INVITE" else Agent._serve_outside_calls
            serve(self, request, source, held.reply, now)

    def _settle(
        self,
        serving: Serving,
        status: int,
        now: float,
        *,
        reason: str | None = None,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes = b"",
        content_type: str = "",
    ) -> None:
        fields = tuple(headers)
        if serving.request.method in _TARGET_REFRESHERS and status < 300:
            contact = self.contact(serving.source) if serving.call is None else self._dialog(serving.call)[1]
            fields = (("Contact", contact), *fields)
        self._respond(
            serving.transaction,
            serving.request,
            status,
            now,
            reason=reason,
            headers=fields,
            body=body,
            content_type=content_type or None,
        )
        serving.settled()
        del self._serving[serving.key]

    def _disallow(self, request: Request, reply: Flow) -> None:
        """RFC 3261 section 21.4.6: what is served elsewhere is not so for this address or in this dialog."""
        allowed = ", ".join(method for method in self._methods if method != request.method)
        self._refuse(request, reply, 405, headers=(("Allow", allowed),))

    def _within(self, request: Request) -> Call | None:
        """The call whose dialog `request` belongs to."""
        call = self._calls.get(request.to.tag)
        dialog = None if call is None else call.dialog_of(request.from_.tag)
        return call if dialog is not None and dialog.matches(request) else None

    def _in_order(self, dialog: Dialog | None, request: Request, reply: Flow) -> bool:
        """Whether `request` is not older than another one that has come; answers it if it is."""
        if dialog is not None and dialog.in_order(request):
            return True
        self._refuse(request, reply, 500, "CSeq Out of Order")
        return False

    def _pause(self) -> tuple[tuple[str, str], ...]:
        """RFC 3261 section 14.2, RFC 3311 section 5.2."""
        return (("Retry-After", str(self._random.randint(0, 10))),)

    def _acceptable(self, dialog: Dialog | None, request: Request, reply: Flow, accept: tuple[str, ...]) -> bool:
        return self._readable(request, reply, accept) and self._in_order(dialog, request, reply)

    def _readable(self, request: Request, reply: Flow, accept: tuple[str, ...]) -> bool:
        """Whether the body is of one of the types in `accept`, () being all; answers the request if not (8.2.3)."""
        if not request.body:
            return True
        encoding = request.headers.get("Content-Encoding")
        if encoding is not None and encoding.lower() != "identity":
            self._refuse(request, reply, 415, headers=(("Accept-Encoding", "identity"),))
            return False
        if not request.content_type:
            self._refuse(request, reply, 400, "Missing Content-Type")
            return False
        if accept and request.content_type not in accept:
            self._refuse(request, reply, 415, headers=(("Accept", ", ".join(accept)),))
            return False
        return True

    # What we say to an INVITE.

    def _send_reliably(self, call: Call, reliable: Reliable, provisional: Provisional, now: float) -> None:
        assert call.server is not None, call.state
        assert call.offer is not None, call.state
        assert call.dialog is not None, call.state
        # RFC 3261 section 13.2.1: later descriptions in responses to the same INVITE are ignored.
        body = b"" if call.exchanged else provisional.body
        rseq = reliable.number(bool(body), now)
        response = self._respond(
            call.server,
            call.offer,
            provisional.status,
            now,
            headers=(*provisional.headers, self._allow, ("Require", "100rel"), ("RSeq", str(rseq))),
            body=body,
            content_type=provisional.content_type,
        )
        reliable.sent = response.serialise()
        if body:
            call.dialog.take(ExchangeInput.ANSWER if call.offer.body else ExchangeInput.OFFER)
            call.local = (body, provisional.content_type)
            call.exchanged = True

    def _reliable_due(self, reliable: Reliable, now: float) -> None:
        call = self._calls[reliable.call]
        while (deadline := reliable.next_due(now)) is not None:
            reliable.fire(deadline, now)
            if deadline is ReliableDeadline.GIVE_UP:
                self._step(call, CallInput.NO_PRACK, now, status=504, reason=REASONS[504])
            elif call.server is not None:
                self._transactions.resend(reliable.sent, call.server.flow)

    def _accept(
        self,
        call: Call,
        server: ServerTransaction,
        offer: Request,
        content: Content,
        happening: CallInput,
        now: float,
    ) -> None:
        body = b"" if call.exchanged else content.body
        session, agreed = self._session_answer(call, offer)
        fields = (("Contact", call.contact), self._allow, _SUPPORTED_FIELD, *session, *content.headers)
        self._respond(server, offer, 200, now, headers=fields, body=body, content_type=content.content_type)
        dialog = call.dialog
        if dialog is not None and call.state is CallState.REOFFERED:
            dialog.refresh(offer, call.source)
        if dialog is not None and not call.exchanged:
            if offer.body:
                dialog.take(ExchangeInput.ANSWER if body else ExchangeInput.DROP)
            elif body:
                dialog.take(ExchangeInput.OFFER)
        if body:
            call.local = (body, content.content_type)
        if call.reliable is not None:
            call.reliable.close()
        call.acked = offer.cseq.number
        call.owed = not offer.body and not call.exchanged
        call.offer = call.held = None
        call.exchanged = False
        self._step(call, happening, now)
        self._replace(call, now)
        if agreed is None:
            call.session.step(TimerInput.STOP, now)
        else:
            call.session.restart(agreed.happening, agreed.interval_s, now, alone=agreed.alone)

    # Responses of the peer's.

    def _receive_response(self, response: Response, source: Flow, now: float) -> None:
        self._responses_received[response.status // 100] += 1
        transaction = self._transactions.client(response)
        # RFC 3261 section 8.1.3.3: more than one Via means that it was not for us.
        if transaction is None or len(response.vias) != 1:
            self._strays += 1
        elif transaction.receive(response, now):
            if response.status == 503 and self._fail_over(transaction, now, reached=True):
                return
            if transaction.request.method == "INVITE":
                self._receive_progress(transaction, response, source, now)
            elif response.status >= 200:
                again = self._prove(transaction, response, now)
                if again is not None:
                    self._follow(transaction, again)
                elif transaction.request.method == "BYE":
                    self._gone(transaction, now)
                elif transaction.request.method == "UPDATE":
                    self._updated(transaction, response, source, now)
                else:
                    self._responded(transaction, response, now)

    def _receive_progress(self, transaction: ClientTransaction, response: Response, source: Flow, now: float) -> None:
        if 200 <= response.status < 300:
            self._accepted(transaction, response, source, now)
            return
        call = self._calls.get(transaction.user)
        if call is None or call.invite is not transaction:
            return
        if response.status < 200:
            self._progressed(call, transaction, response, source, now)
            return
        if response.status == 422 and self._lengthened(call, transaction, response, now):
            return
        if call.allows(CallInput.PEER_CHALLENGES) and (again := self._prove(transaction, response, now)) is not None:
            call.invite = again
            if transaction.dialog is None:
                call.dialog, call.early = None, {}
                call.source, call.contact = again.flow, self._contact_of(again)
            self._step(call, CallInput.PEER_CHALLENGES, now)
            return
        call.invite = None
        if transaction.dialog is not None and call.dialog is not None:
            call.dialog.take(ExchangeInput.DROP)
        refreshing = call.state is CallState.REFRESHING
        # RFC 3261 section 12.2.1.2.
        lost = transaction.dialog is not None and response.status in (408, 481)
        happening = CallInput.PEER_FORGOT if lost else CallInput.PEER_REFUSES
        if call.allows(happening):
            todo = self._step(call, happening, now, status=response.status, reason=response.reason)
            if Do.TELL_REFUSED in todo:
                self._refused(call, response, now)
            elif refreshing and not lost:
                self._not_refreshed(call, response, now)

    def _progressed(
        self, call: Call, transaction: ClientTransaction, response: Response, source: Flow, now: float
    ) -> None:
        """A provisional response to an INVITE of ours: of a dialog that is early, or is made by it (section 12.1.2)."""
        tag = response.to.tag
        offer = False
        if tag and response.status > 100:
            dialog = call.dialog_of(tag)
            if dialog is None:
                if transaction.dialog is not None or len(call.early) >= _EARLY_LIMIT:
                    return
                dialog = Dialog.placed(transaction.request, response, source, transaction.keyring)
            elif transaction.dialog is None:
                dialog.refresh(response, source)
            rseq = response.headers.get("RSeq") or ""
            if "100rel" in response.require and rseq.isascii() and rseq.isdigit() and len(rseq) <= 10:
                if not dialog.in_sequence(response.cseq.number, int(rseq)):
                    return
                offer = self._acknowledge_progress(call, transaction, dialog, response, now)
            if transaction.dialog is None:
                call.dialog = call.early[tag] = dialog
            if _allows_update(response):
                call.updatable = True
        if call.allows(CallInput.PEER_PROGRESS):
            todo = self._step(call, CallInput.PEER_PROGRESS, now)
            if Do.TELL_PROGRESSED in todo and response.status > 100:
                self._events.append(Progressed(call=call.key, response=response, offer=offer))

    def _acknowledge_progress(
        self, call: Call, transaction: ClientTransaction, dialog: Dialog, response: Response, now: float
    ) -> bool:
        """Send PRACK (RFC 3262 section 4). True if it waits for the host, because the response makes an offer."""
        rack = f"{int(response.headers.get('RSeq') or 0)} {response.cseq}"
        if response.body and dialog.exchange is Exchange.EMPTY and call.state in (CallState.CALLING, CallState.RINGING):
            dialog.take(ExchangeInput.PEER_OFFER)
            call.owing = Owing(transaction=transaction, dialog=dialog, rack=rack)
            return True
        if response.body:
            dialog.take(ExchangeInput.PEER_ANSWER)
        self._send_prack(dialog, rack, now, _NO_CONTENT)
        return False

    def _accepted(self, transaction: ClientTransaction, response: Response, source: Flow, now: float) -> None:
        """A 2xx to an INVITE of ours: acknowledge it, whatever has become of the call (section 13.2.2.4)."""
        tag = response.to.tag
        again = transaction.dialog is not None
        ack = transaction.acks.get(tag)
        call = self._calls.get(transaction.user)
        if ack is not None:
            self._transactions.resend(*ack)
            return
        owing = None if call is None else call.owing
        if owing is not None and not owing.rack and owing.transaction is transaction and owing.dialog.remote_tag == tag:
            # The ACK waits for the host.
            return
        dialog = None if call is None else call.dialog if again else call.dialog_of(tag)
        if dialog is None:
            dialog = Dialog.placed(transaction.request, response, source, transaction.keyring)
        elif again:
            dialog.refresh(response, source)
        else:
            dialog.confirm(response, source)
        first = call is not None and call.invite is transaction
        offers = bool(response.body) and not transaction.request.body and (again or dialog.exchange is Exchange.EMPTY)
        offers = offers and call is not None and first and call.allows(CallInput.PEER_OFFERS)
        if not offers:
            self._send_ack(transaction, dialog, _NO_CONTENT)
        happening = CallInput.PEER_OFFERS if offers else CallInput.PEER_ACCEPTS
        if call is not None and first and call.allows(happening):
            call.invite = None
            call.dialog = dialog
            call.early = {}
            if offers:
                dialog.take(ExchangeInput.PEER_OFFER)
                call.owing = Owing(transaction=transaction, dialog=dialog)
            elif transaction.request.body and call.updating is None:
                # While an UPDATE of ours waits, the offer of the INVITE was answered before.
                dialog.take(ExchangeInput.PEER_ANSWER if response.body else ExchangeInput.DROP)
            if again and transaction.request.body:
                call.local = (transaction.request.body, transaction.request.content_type)
            if response.headers.get("Allow") is not None:
                call.updatable = _allows_update(response)
            todo = self._step(call, happening, now)
            if call.up:
                self._session_agreed(call, transaction.request, response, now)
            if Do.TELL_ANSWERED in todo:
                self._settle_change(call, transaction)
                self._events.append(Answered(call=call.key, response=response, offer=offers))
        elif not again:
            # Another branch of a forked INVITE answered too, or the call is over: one is enough.
            self._request_within(dialog, "BYE", "", now, headers=self._client_fields)

    def _updated(self, transaction: ClientTransaction, response: Response, source: Flow, now: float) -> None:
        """A final response to our UPDATE."""
        call = self._calls.get(transaction.user)
        if call is None or call.updating is not transaction:
            return
        if response.status == 422 and self._lengthened(call, transaction, response, now):
            return
        call.updating = None
        request = transaction.request
        dialog = call.dialog_of(request.to.tag)
        refreshing = call.change is None or call.change.waits or call.change.method != "UPDATE"
        if 200 <= response.status < 300:
            if dialog is not None:
                dialog.refresh(response, source)
                dialog.take(ExchangeInput.PEER_ANSWER)
            if request.body:
                call.local = (request.body, request.content_type)
            if call.up:
                self._session_agreed(call, request, response, now)
            if not refreshing:
                self._settle_change(call, transaction)
                self._events.append(Answered(call=call.key, response=response))
            return
        if dialog is not None and request.body:
            dialog.take(ExchangeInput.DROP)
        if response.status in (408, 481) and call.allows(CallInput.PEER_LOST):
            self._step(call, CallInput.PEER_LOST, now, status=response.status, reason=response.reason)
        elif refreshing:
            # The peer need not allow what it said it does.
            call.updatable = response.status not in (405, 501)
            self._not_refreshed(call, response, now)
        else:
            self._refused(call, response, now)

    def _unanswered(self, transaction: ClientTransaction, now: float, status: int = 408) -> None:
        """Timer B or F, or a transport error: as if 408, or 503, had come (RFC 3261 section 8.1.3.1)."""
        if self._fail_over(transaction, now, reached=status == 408):
            return
        if transaction.request.method == "BYE":
            self._gone(transaction, now)
        elif transaction.request.method == "UPDATE":
            timeout = transaction.request.response(408)
            self._updated(transaction, timeout, transaction.flow, now)
        elif transaction.request.method == "INVITE":
            call = self._calls.get(transaction.user)
            if call is not None and call.invite is transaction and call.allows(CallInput.PEER_FORGOT):
                call.invite = None
                if call.state is CallState.REOFFERING and status != 408:
                    # Section 12.2.1.2: of these two, only 408 ends the dialog.
                    self._step(call, CallInput.PEER_REFUSES, now)
                    self._events.append(Refused(call=call.key, response=transaction.request.response(status)))
                else:
                    self._step(call, CallInput.PEER_FORGOT, now, status=status, reason=REASONS[status])
        else:
            self._responded(transaction, None, now, status)

    def _responded(
        self, transaction: ClientTransaction, response: Response | None, now: float, status: int = 0
    ) -> None:
        """A final response to a request of ours that is neither INVITE nor BYE, None if `status` stands for one."""
        key = transaction.user
        if key not in self._asking:
            return
        user = self._asking.pop(key)
        seq = transaction.request.cseq.number
        self._events.append(Responded(request=key, call=user, seq=seq, response=response))
        call = self._calls.get(user or "")
        status, reason = (status, REASONS[status]) if response is None else (response.status, response.reason)
        # RFC 3261 section 12.2.1.2; RFC 5057 section 5.1: with a NOTIFY it is the subscription that is unknown.
        lost = status in (408, 481) and transaction.request.method != "NOTIFY"
        if call is not None and lost and call.allows(CallInput.PEER_LOST):
            self._step(call, CallInput.PEER_LOST, now, status=status, reason=reason)

    def _gone(self, transaction: ClientTransaction, now: float) -> None:
        call = self._calls.get(transaction.user)
        if call is not None and call.allows(CallInput.BYE_DONE):
            self._step(call, CallInput.BYE_DONE, now)

    # Changes of a session that is up.

    def _change(self, key: str, method: str, content: Content, now: float) -> None:
        call = self._call(key)
        refreshing = call.session.state is TimerState.REFRESHING
        if refreshing and (call.state is CallState.REFRESHING or call.updating is not None):
            # The host need not know that we are at it.
            self._replace_change(call, method, content).put_off(now + self._timers.t1)
            return
        if call.change is not None and not call.change.waits:
            raise LocalProtocolError(f"cannot {method} when another {call.change.method} waits for its response")
        if method == "INVITE":
            call.require(CallInput.REOFFER)
        else:
            self._require_update(call, content)
        assert call.dialog is not None, call.state
        if (content.body or method == "INVITE") and not call.dialog.exchange.allows(ExchangeInput.OFFER):
            raise LocalProtocolError(f"cannot offer when {call.dialog.exchange.value}")
        self._send_change(call, method, content, now)
        self._replace_change(call, method, content)

    def _require_update(self, call: Call, content: Content) -> None:
        early = call.state in (CallState.ALERTED, CallState.RINGING)
        if call.dialog is None or not (call.up or early):
            raise LocalProtocolError(f"cannot update when {call.state.value}")
        if not call.updatable:
            raise LocalProtocolError("the peer does not allow UPDATE")
        # RFC 3311 section 5.1.
        if early and content.body and not call.settled:
            raise LocalProtocolError("cannot offer before the first offer has been answered")

    def _replace_change(self, call: Call, method: str, content: Content) -> Change:
        if call.change is not None:
            call.change.go()
        call.change = Change(call=call.key, method=method, content=content, schedule=self._schedule)
        return call.change

    def _send_change(self, call: Call, method: str, content: Content, now: float) -> None:
        """Send a re-INVITE or UPDATE."""
        assert call.dialog is not None, call.state
        fields = (
            ("Contact", call.contact),
            *self._offer_fields(content.headers, content.body, content.content_type),
            *(self._session_fields(call.session) if call.up else ()),
        )
        transaction = self._request_within(call.dialog, method, call.key, now, headers=fields, body=content.body)
        if content.body:
            call.dialog.take(ExchangeInput.OFFER)
        if method == "INVITE":
            call.invite = transaction
            refreshing = call.session.state is TimerState.REFRESHING
            self._step(call, CallInput.REFRESH if refreshing else CallInput.REOFFER, now)
        else:
            call.updating = transaction

    def _settle_change(self, call: Call, transaction: ClientTransaction) -> None:
        if call.change is not None and not call.change.waits and call.change.method == transaction.request.method:
            call.change = None

    def _refused(self, call: Call, response: Response, now: float) -> None:
        """Our change was refused: try again if it has only crossed the peer's, else tell the host."""
        change = call.change
        if response.status == 491 and change is not None and change.tries < _TRIES:
            change.tries += 1
            change.put_off(now + self._back_off_s(call))
        else:
            call.change = None
            self._events.append(Refused(call=call.key, response=response))

    def _back_off_s(self, call: Call) -> float:
        """RFC 3261 section 14.1: in units of 10 ms, and never at the same time as the peer."""
        return self._random.randint(210, 400) / 100 if call.placed else self._random.randint(0, 200) / 100

    def _change_due(self, change: Change, now: float) -> None:
        call = self._calls[change.call]
        method, content = change.method, change.content
        assert call.dialog is not None, call.state
        free = call.allows(CallInput.REOFFER) if method == "INVITE" else call.up and call.updating is None
        if (
            free
            and call.session.state is not TimerState.REFRESHING
            and call.dialog.exchange.allows(ExchangeInput.OFFER)
        ):
            change.go()
            self._send_change(call, method, content, now)
        else:
            change.put_off(now + self._timers.t1)

    def _lengthened(self, call: Call, transaction: ClientTransaction, response: Response, now: float) -> bool:
        """Send a request that got 422 again with the interval asked for (RFC 4028 section 7.3); False if none is."""
        request, least_s = transaction.request, min_se(response)
        asked = session_expires(request)
        invite = request.method == "INVITE"
        if asked is None or least_s <= asked.interval_s or (invite and not call.allows(CallInput.PEER_CHALLENGES)):
            return False
        call.session.least_s = least_s
        if call.session.leads:
            call.session.interval_s = max(call.session.interval_s, least_s)
        field = SessionExpires(interval_s=least_s, refresher=asked.refresher)
        headers = request.headers.with_("Session-Expires", str(field)).with_("Min-SE", str(least_s))
        again = self._once_more(transaction, headers, now)
        if invite:
            call.invite = again
            if transaction.dialog is None:
                # What the first one began is over with it.
                call.dialog, call.early = None, {}
            self._step(call, CallInput.PEER_CHALLENGES, now)
        self._follow(transaction, again)
        return True

    # Session timers.

    def _session_fields(self, session: SessionTimer | None) -> tuple[tuple[str, str], ...]:
        """What a request that makes or refreshes a session says of its timer (RFC 4028 sections 7.1 and 7.4)."""
        running = session is not None and session.state is not TimerState.OFF
        wanted_s = session.interval_s if session is not None and running else self._session_expires_s
        if not wanted_s:
            return ()
        least_s = max(self._min_se_s, LEAST_MIN_SE_S if session is None else session.least_s)
        refresher = "" if session is None or not running else "uac" if session.leads else "uas"
        field = SessionExpires(interval_s=max(wanted_s, least_s), refresher=refresher)
        floor = (("Min-SE", str(least_s)),) if least_s > LEAST_MIN_SE_S else ()
        return (("Session-Expires", str(field)), *floor)

    def _too_brief(self, request: Request, reply: Flow) -> bool:
        """Whether the session would have to be refreshed too often (RFC 4028 section 9); answers the request if so."""
        asked = session_expires(request)
        if asked is None or asked.interval_s >= self._min_se_s or "timer" not in (*request.supported, *request.require):
            return False
        self._refuse(request, reply, 422, headers=(("Min-SE", str(self._min_se_s)),))
        return True

    def _session_answer(self, call: Call, request: Request) -> tuple[tuple[tuple[str, str], ...], _Agreed | None]:
        """What the 2xx to the peer's request says of the session timer, and what that means (RFC 4028 section 9)."""
        asked = session_expires(request)
        capable = "timer" in (*request.supported, *request.require)
        if asked is not None and asked.interval_s < LEAST_MIN_SE_S:
            # Section 5: nobody may ask for that, and 422 would not be understood.
            asked = None
        ours_s = self._session_expires_s
        if asked is None and not ours_s:
            return (), None
        floor_s = max(self._min_se_s, min_se(request))
        if asked is None:
            interval_s = max(ours_s, floor_s)
        else:
            interval_s = min(asked.interval_s, max(ours_s, floor_s)) if ours_s else asked.interval_s
        # Table 2: who does not know the timer cannot refresh; what the peer leaves open stays as it is, or is ours.
        kept = "uac" if call.session.state is TimerState.WAITING else "uas"
        refresher = (asked.refresher if asked is not None and asked.refresher else kept) if capable else "uas"
        field = SessionExpires(interval_s=interval_s, refresher=refresher)
        required = (("Require", "timer"),) if refresher == "uac" else ()
        happening = TimerInput.FOLLOW if refresher == "uac" else TimerInput.LEAD
        agreed = _Agreed(happening=happening, interval_s=interval_s, alone=not capable)
        return (*required, ("Session-Expires", str(field))), agreed

    def _session_agreed(self, call: Call, request: Request, response: Response, now: float) -> None:
        """What the 2xx to our request means for the session timer (RFC 4028 section 7.2)."""
        asked, got = session_expires(request), session_expires(response)
        if got is not None:
            happening = TimerInput.FOLLOW if got.refresher == "uas" else TimerInput.LEAD
            call.session.restart(happening, max(got.interval_s, LEAST_MIN_SE_S), now)
        elif asked is not None:
            call.session.restart(TimerInput.LEAD, asked.interval_s, now, alone=True)
        else:
            call.session.step(TimerInput.STOP, now)

    def _session_due(self, session: SessionTimer, now: float) -> None:
        call = self._calls[session.call]
        while (deadline := session.next_due(now)) is not None:
            session.step(deadline, now)
            if deadline is TimerDeadline.REFRESH:
                self._refresh(call, now)
            elif call.allows(CallInput.EXPIRED):
                self._step(call, CallInput.EXPIRED, now)

    def _refresh(self, call: Call, now: float) -> None:
        """Send the request that keeps the session alive (RFC 4028 section 7.4)."""
        body, content_type = call.local
        free = call.state is CallState.CONFIRMED and call.updating is None and call.dialog is not None
        if not free or (call.dialog is not None and call.dialog.exchange in (Exchange.OFFERED, Exchange.OFFERING)):
            # What is under way refreshes the session as well, if it succeeds.
            call.session.step(TimerInput.RETRY, now, pause_s=self._timers.t2)
        elif call.updatable:
            self._send_change(call, "UPDATE", _NO_CONTENT, now)
        elif body:
            content = Content(headers=(), body=body, content_type=content_type)
            self._send_change(call, "INVITE", content, now)
        else:
            # There is no session to refresh, nor any way to.
            call.session.step(TimerInput.STOP, now)

    def _not_refreshed(self, call: Call, response: Response, now: float) -> None:
        """A refresh was refused, and the call goes on until it expires (RFC 4028 section 10)."""
        session = call.session
        if session.state is not TimerState.REFRESHING:
            return
        if response.status == 491:
            session.step(TimerInput.RETRY, now, pause_s=max(self._back_off_s(call), 0.01))
        elif session.alone:
            session.restart(TimerInput.LEAD, session.interval_s, now, alone=True)
        else:
            pause_s = self._timers.t1 if response.status in (405, 501) else _REFRESH_PAUSE_S
            session.step(TimerInput.RETRY, now, pause_s=pause_s)

    # What we send.

    def _send_ack(self, transaction: ClientTransaction, dialog: Dialog, content: Content) -> None:
        """The ACK to a 2xx (RFC 3261 section 13.2.2.4)."""
        ack = dialog.request(
            "ACK",
            self._via(dialog.flow),
            headers=(
                *self._client_fields,
                # RFC 3261 section 22.1: an ACK cannot be challenged.
                *_credentials(transaction.request),
                *content.headers,
                *_content_type(content.body, content.content_type),
            ),
            body=content.body,
            seq=transaction.request.cseq.number,
        )
        transaction.acks[dialog.remote_tag] = sent = (ack.serialise(), dialog.flow)
        self._requests_sent["ACK"] += 1
        self._transactions.send(*sent)

    def _send_prack(self, dialog: Dialog, rack: str, now: float, content: Content) -> None:
        fields = (
            *self._client_fields,
            *content.headers,
            ("RAck", rack),
            *_content_type(content.body, content.content_type),
        )
        self._request_within(dialog, "PRACK", "", now, headers=fields, body=content.body)

    def _send_request(
        self,
        request: Request,
        flow: Flow,
        user: str,
        now: float,
        *,
        final_within_s: float | None = None,
        keyring: Keyring | None = None,
        dialog: Numbered | None = None,
        answered: Counter[Space] | None = None,
        others: tuple[Flow, ...] = (),
        fixed: bool = False,
    ) -> ClientTransaction:
        """Send `request`, made for `flow`, along it, or unless that is `fixed` by TCP if it is large."""
        if keyring is not None:
            proofs = keyring.fields(request.method, request.uri, request.body, cnonce=self._token())
            request = replace(request, headers=Headers((*request.headers, *proofs)))
        self._requests_sent[request.method] += 1
        first, *left = (flow, *others) if fixed else self._ways(request, (flow, *others))
        if first != flow:
            request = self._moved(request, flow, first)
        transaction = self._transactions.request(request, first, user, now, final_within_s=final_within_s)
        transaction.keyring, transaction.dialog, transaction.answered = keyring, dialog, answered
        transaction.others = tuple(left)
        return transaction

    def _prove(self, transaction: ClientTransaction, response: Response, now: float) -> ClientTransaction | None:
        """Send the request once more, with what a 401 or 407 asks for (RFC 3261 section 22.2); None if it is no use.

        The next try has the same Call-ID and From tag, a new branch, and a number that is higher by one.
        """
        request, dialog = transaction.request, transaction.dialog
        # Section 22.1: CANCEL is not challenged, because it cannot be sent again.
        if response.status not in (401, 407) or request.method == "CANCEL":
            return None
        keyring = transaction.keyring
        if keyring is None:
            login = None if self._login_for is None else self._login_for(request, transaction.flow)
            if login is None:
                return None
            keyring = Keyring(login)
            if dialog is not None:
                dialog.keyring = keyring
        answered = Counter[Space]() if transaction.answered is None else transaction.answered
        if not keyring.learn(response, answered):
            return None
        transaction.keyring, transaction.answered = keyring, answered
        return self._once_more(transaction, request.headers, now)

    def _once_more(self, transaction: ClientTransaction, headers: Headers, now: float) -> ClientTransaction:
        """Send a request as a new one, with what its response asked for in `headers` (RFC 3261 section 8.1.3.5)."""
        request, dialog = transaction.request, transaction.dialog
        seq = request.cseq.number + 1
        if dialog is not None:
            dialog.local_seq += 1
            seq = dialog.local_seq
        headers = headers.with_("Via", self._via(transaction.flow)).with_("CSeq", f"{seq} {request.method}")
        return self._send_request(
            _unproven(replace(request, headers=headers)),
            transaction.flow,
            transaction.user,
            now,
            final_within_s=transaction.final_within_s,
            keyring=transaction.keyring,
            dialog=dialog,
            answered=transaction.answered,
            others=transaction.others,
            # What was large already has been decided; with credentials it may have become so.
            fixed=dialog is not None or len(request.serialise()) > _LARGE_BYTES,
        )

    def _follow(self, transaction: ClientTransaction, again: ClientTransaction) -> None:
        """What waited for `transaction` waits for `again`, which takes its place."""
        call = self._calls.get(transaction.user)
        if call is not None and call.updating is transaction:
            call.updating = again

    def _ways(self, request: Request, flows: tuple[Flow, ...]) -> tuple[Flow, ...]:
        """`flows`, TCP coming before UDP if `request` is large (RFC 3261 section 18.1.1)."""
        if next_hop(request).transport == "udp" or len(request.serialise()) <= _LARGE_BYTES:
            return flows
        return tuple(
            way for flow in flows for way in ((flow,) if flow.reliable else (flow._replace(transport="TCP"), flow))
        )

    def _moved(self, request: Request, before: Flow, flow: Flow) -> Request:
        """`request`, made for the flow `before`, as it is along `flow`: another transaction, and our Contact there."""
        secure = request.uri.scheme == "sips"
        headers = request.headers.with_("Via", self._via(flow))
        contact = headers.get("Contact")
        if contact is not None:
            headers = headers.with_(
                "Contact", contact.replace(self.contact(before, secure=secure), self.contact(flow, secure=secure))
            )
        return replace(request, headers=headers)

    def _fail_over(self, transaction: ClientTransaction, now: float, *, reached: bool) -> bool:
        """Send a request that has failed to its next target; False if there is none (RFC 3263 section 4.3).

        reached  whether it may have reached its target: then the same one is not tried by another transport
        """
        before = transaction.flow.remote
        others = [other for other in transaction.others if not (reached and other.remote == before)]
        if not others:
            return False
        flow, *left = others
        call = None
        if transaction.request.method == "INVITE":
            call = self._calls.get(transaction.user)
            if call is None or call.invite is not transaction or not call.allows(CallInput.FAIL_OVER):
                return False
        request = self._moved(_unproven(transaction.request), transaction.flow, flow)
        again = self._send_request(
            request,
            flow,
            transaction.user,
            now,
            final_within_s=transaction.final_within_s,
            keyring=transaction.keyring,
            dialog=transaction.dialog,
            answered=transaction.answered,
            others=tuple(left),
            fixed=True,
        )
        if call is not None:
            call.invite, call.source, call.contact = again, flow, self._contact_of(again)
            if transaction.dialog is None:
                call.dialog, call.early = None, {}
            self._step(call, CallInput.FAIL_OVER, now)
        self._follow(transaction, again)
        return True

    def _request_within(
        self,
        dialog: Dialog,
        method: str,
        user: str,
        now: float,
        *,
        headers: Iterable[tuple[str, str]],
        body: bytes = b"",
    ) -> ClientTransaction:
        request = dialog.request(method, self._via(dialog.flow), headers=headers, body=body)
        # Behind a NAT nothing listens for connections.
        fixed = not dialog.direct
        return self._send_request(request, dialog.flow, user, now, keyring=dialog.keyring, dialog=dialog, fixed=fixed)

    def _respond(
        self,
        transaction: ServerTransaction,
        request: Request,
        status: int,
        now: float,
        *,
        reason: str | None = None,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes = b"",
        content_type: str | None = None,
    ) -> Response:
        response = request.response(
            status,
            reason,
            to_tag=None if status == 100 else transaction.to_tag,
            headers=(*self._server_fields, *headers),
            body=body,
            content_type=content_type if body else None,
        )
        transaction.respond(response, now)
        self._responses_sent[status // 100] += 1
        return response

    def _refuse(
        self,
        request: Request,
        reply: Flow,
        status: int,
        reason: str | None = None,
        headers: Iterable[tuple[str, str]] = (),
    ) -> None:
        """Respond and forget (RFC 3261 section 8.2.7)."""
        if request.method == "ACK":
            return
        fields = (*self._server_fields, *headers)
        response = request.response(status, reason, to_tag=self._stateless_tag(request), headers=fields)
        self._responses_sent[status // 100] += 1
        self._transactions.send(response.serialise(), reply)

    def _stateless_tag(self, request: Request) -> str:
        """A To tag that is the same for every retransmission, and that nobody can foresee."""
        headers = request.headers
        identity = "\0".join(headers.get(name) or "" for name in ("Call-ID", "From", "CSeq", "To"))
        return hashlib.blake2s(identity.encode(), key=self._secret, digest_size=8).hexdigest()

    def _offer_fields(
        self, headers: Iterable[tuple[str, str]], body: bytes, content_type: str
    ) -> tuple[tuple[str, str], ...]:
        return (
            self._allow,
            ("Accept", ", ".join(self._body_types)),
            _SUPPORTED_FIELD,
            *self._client_fields,
            *headers,
            *_content_type(body, content_type),
        )

    def _contact_of(self, transaction: ClientTransaction) -> str:
        return self.contact(transaction.flow, secure=transaction.request.uri.scheme == "sips")

    def _via(self, flow: Flow) -> str:
        host, port = self._address(flow)
        # RFC 3581: always ask for rport.
        return f"SIP/2.0/{flow.transport} {bracketed(host)}:{port};rport;branch={COOKIE}{self._token()}"

    def _address(self, flow: Flow) -> tuple[str, int]:
        advertised = self._advertise
        if advertised is None or (":" in advertised[0]) != (":" in flow.local[0]):
            return self._reached_at.get(flow, flow.local)
        return advertised

    def _token(self) -> str:
        return f"{self._random.getrandbits(64):016x}"


# What is served whatever the host serves.
_SERVED: Mapping[str, Callable[[Agent, Request, Flow, Flow, float], None]] = {
    "INVITE": Agent._serve_invite,
    "BYE": Agent._serve_bye,
    "CANCEL": Agent._serve_cancel,
    "OPTIONS": Agent._serve_options,
    "PRACK": Agent._serve_prack,
    "UPDATE": Agent._serve_update,
}
# What is not sent as other requests are.
_OWN_METHODS = frozenset({"INVITE", "ACK", "BYE", "CANCEL", "PRACK", "UPDATE"})
# Those that tell where the peer is now; RFC 6665 section 4.4.1 has NOTIFY among them.
_TARGET_REFRESHERS = frozenset({"REFER", "NOTIFY", "SUBSCRIBE", "UPDATE"})
# Final responses to the INVITE that waits, as rows want them.
_REFUSALS: Mapping[Do, int] = {Do.SEND_480: 480, Do.SEND_487: 487, Do.SEND_504: 504}
_NO_CONTENT = Content(headers=(), body=b"", content_type="")


def _allows_update(message: Request | Response) -> bool:
    try:
        return "UPDATE" in message.headers.get_all("Allow")
    except RemoteProtocolError:
        # Nobody can tell what it allows.
        return False


def _credentials(request: Request) -> tuple[tuple[str, str], ...]:
    return tuple((name, text) for name in CREDENTIALS for text in request.headers.get_all(name))


def _secure(request: Request) -> bool:
    """Whether the dialog that `request` begins needs a sips Contact (RFC 3261 section 12.1.1)."""
    hops = request.record_route[:1] or request.contacts[:1]
    return request.uri.scheme == "sips" or any(hop.uri.scheme == "sips" for hop in hops)


def _unproven(request: Request) -> Request:
    """`request` without credentials; each try has its own."""
    headers = request.headers
    for name in CREDENTIALS:
        headers = headers.without(name)
    return replace(request, headers=headers)


def _content_type(body: bytes, content_type: str) -> tuple[tuple[str, str], ...]:
    if body and not content_type:
        raise LocalProtocolError("a body without a type")
    return (("Content-Type", content_type),) if body else ()


def _retry_after(verdict: Admission) -> tuple[tuple[str, str], ...]:
    return () if verdict.retry_after_s is None else (("Retry-After", str(verdict.retry_after_s)),)


def _by_class(counter: Counter[int]) -> dict[str, int]:
    return {f"{hundreds}xx": count for hundreds, count in sorted(counter.items())}


def _reply_flow(via: Via, source: Flow) -> Flow:
    """Where the response to a request with this topmost Via, its source noted, goes (section 18.2.2, RFC 3581).

    To where the request came from, always to that address; `maddr` is not followed, because it would let anybody have
    us send to anybody. Only an old client that does not ask for `rport`, and is not behind a NAT, gets its response
    on the port that its Via names.
    """
    if source.reliable or via.rport is not None or via.received:
        return source
    return source._replace(remote=(source.remote[0], via.port or 5060))
