"""The user agent: calls in both directions, as one table, over the transaction layer (RFC 3261 sections 8 to 15).

    agent.receive(data, flow, now)       what came off the wire
    agent.handle_timer(now)              when agent.wake_at() says so
    agent.next_event()                   what happened, until None
    agent.data_to_send()                 what has to go out

and the verbs of the host: `ring`, `answer`, `reject`, `bye`, `invite`, `cancel`, `reoffer` for calls; `request`,
`request_within` and `respond` for all other requests. Bodies are opaque: what is in an offer is the host's business.
`now` is seconds of any clock that never goes back.

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
    Answered,
    Call,
    CallInput,
    CallState,
    Confirmed,
    Deadline,
    Do,
    Ended,
    Event,
    FlowFailed,
    Offered,
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
from .guard import Guard, Held, Offenders, Until
from .headers import Headers, NameAddr, Via
from .message import REASONS, Request, Response
from .parser import MalformedMessage, parse_datagram
from .replaces import replaced
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
SUPPORTED: tuple[str, ...] = ("replaces", "norefersub")
_SUPPORTED_FIELD = ("Supported", ", ".join(SUPPORTED))
_MOST_REACHED_AT = 1024
# RFC 3261 section 18.1.1: the most that a datagram is trusted with where the MTU of the path is not known.
_LARGE_BYTES = 1300
_NOTHING: Mapping[str, tuple[str, ...]] = {}


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
        serve_within: Mapping[str, tuple[str, ...]] = _NOTHING,
        serve_outside: Mapping[str, tuple[str, ...]] = _NOTHING,
        login_for: Callable[[Request, Flow], Login | None] | None = None,
        guard_of: Callable[[Request, Flow], Guard | None] | None = None,
    ) -> None:
        self.admit: Admit = _admit_all
        self._random = random
        self._timers = timers or Timers()
        self._advertise = advertise
        self._accept = accept
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
                # RFC 4320 section 4.2: 408 would come too late to be of use to anybody.
                self._settle(owner, 500, now, reason="Not Answered in Time")

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
    ) -> None:
        """Say that an offered call rings (180), or with a body begin early media (183); 101 to 199."""
        if not 100 < status < 200:
            raise LocalProtocolError(f"{status} does not say that a call rings")
        ringing, server, offer = self._offered(call, CallInput.RING)
        fields = (("Contact", ringing.contact), *headers)
        self._respond(server, offer, status, now, headers=fields, body=body, content_type=content_type)
        self._step(ringing, CallInput.RING, now)

    def answer(
        self,
        now: float,
        call: str,
        *,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes = b"",
        content_type: str = "application/sdp",
    ) -> None:
        """Accept the INVITE, or re-INVITE, that is waiting. The 200 is repeated until the peer acknowledges it."""
        answered, server, offer = self._offered(call, CallInput.ANSWER)
        fields = (("Contact", answered.contact), self._allow, _SUPPORTED_FIELD, *headers)
        self._respond(server, offer, 200, now, headers=fields, body=body, content_type=content_type)
        if answered.state is CallState.REOFFERED and answered.dialog is not None:
            answered.dialog.refresh(offer, answered.source)
        answered.acked = offer.cseq.number
        answered.owed = not offer.body
        answered.offer = None
        self._step(answered, CallInput.ANSWER, now)
        self._replace(answered, now)

    def reject(
        self,
        now: float,
        call: str,
        *,
        status: int,
        reason: str | None = None,
        headers: Iterable[tuple[str, str]] = (),
    ) -> None:
        """Refuse the INVITE that is waiting: 300 to 699. A refused re-INVITE leaves the call as it was."""
        if not 300 <= status < 700:
            raise LocalProtocolError(f"{status} does not refuse a call")
        rejected, server, offer = self._offered(call, CallInput.REJECT)
        self._respond(server, offer, status, now, reason=reason, headers=headers)
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
        body: bytes,
        to: NameAddr | None = None,
        content_type: str = "application/sdp",
        headers: Iterable[tuple[str, str]] = (),
        ring_timeout_s: float = 180.0,
        keyring: Keyring | None = None,
        others: Iterable[Flow] = (),
    ) -> str:
        """Call `target` along `flow`; returns the key of the call. It is cancelled if nobody answers in time.

        from_    who calls; its tag is ours to choose
        to       who is called if not `target`
        keyring  answers the challenges of the whole call
        others   along which it is tried next, in this order

        Raises LocalProtocolError without a body: the 2xx would bring an offer that nobody could answer.
        """
        if not body:
            raise LocalProtocolError("an INVITE without an offer")
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
            *self._offer_fields(headers, content_type),
        )
        request = Request(method="INVITE", uri=target, headers=Headers(fields), body=body)
        patience_s = ring_timeout_s + self._timers.patience
        transaction = self._send_request(
            request, flow, key, now, final_within_s=patience_s, keyring=keyring, others=tuple(others)
        )
        self._begin(key, CallState.CALLING, transaction.flow, now, ring_timeout_s, secure=secure).invite = transaction
        self._calls_placed += 1
        return key

    def cancel(self, now: float, call: str) -> None:
        """Give up calling. The CANCEL goes out once the peer has shown signs of life; the call Ends afterwards."""
        self._step(self._call(call), CallInput.CANCEL, now)

    def reoffer(
        self,
        now: float,
        call: str,
        *,
        body: bytes,
        content_type: str = "application/sdp",
        headers: Iterable[tuple[str, str]] = (),
    ) -> None:
        """Send a re-INVITE; Answered or Refused will say what came of it."""
        if not body:
            raise LocalProtocolError("a re-INVITE without an offer")
        changing = self._call(call)
        changing.require(CallInput.REOFFER)
        assert changing.dialog is not None, changing.state
        fields = (("Contact", changing.contact), *self._offer_fields(headers, content_type))
        changing.invite = self._request_within(changing.dialog, "INVITE", call, now, headers=fields, body=body)
        self._step(changing, CallInput.REOFFER, now)

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
            elif do is Do.SEND_487:
                self._terminate(call, now)
            elif do is Do.SEND_CANCEL:
                if call.invite is not None:
                    call.invite.hurry(now)
                    self._send_request(cancel_for(call.invite.request), call.invite.flow, call.key, now, fixed=True)
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

    def _terminate(self, call: Call, now: float) -> None:
        if call.server is not None and call.offer is not None:
            self._respond(call.server, call.offer, 487, now)
        call.server = call.offer = None

    def _abandon(self, call: Call, now: float) -> None:
        """The call has ended: nobody waits any more for what was asked within it."""
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
        if not self._readable(request, reply, self._accept):
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
        call.server = self._transactions.serve(request, reply, key, now)
        self._calls_received += 1
        self._respond(call.server, request, 100, now)
        self._events.append(Offered(call=key, request=request, flow=source, user=user, replaces=other))

    def _serve_reinvite(self, request: Request, source: Flow, reply: Flow, now: float) -> None:
        call = self._within(request)
        if call is None or not call.allows(CallInput.PEER_INVITE):
            self._refuse(request, reply, 481)
            return
        if not self._acceptable(call.dialog, request, reply, self._accept):
            return
        transaction = self._transactions.serve(request, reply, call.key, now)
        if call.owed and call.state is CallState.ANSWERED:
            # RFC 5407 section 3.1.5, case 2: the exchange that the answer in the ACK completes comes first.
            self._respond(transaction, request, 491, now)
            return
        todo = self._step(call, CallInput.PEER_INVITE, now)
        if Do.SEND_500 in todo:
            # RFC 3261 section 14.2.
            pause = (("Retry-After", str(self._random.randint(0, 10))),)
            self._respond(transaction, request, 500, now, headers=pause)
        elif Do.SEND_491 in todo:
            self._respond(transaction, request, 491, now)
        else:
            self._acknowledged(call)
            call.server, call.offer, call.source = transaction, request, source
            self._respond(transaction, request, 100, now)
            if Do.TELL_CONFIRMED in todo:
                self._events.append(Confirmed(call=call.key, body=b"", content_type=""))
            self._events.append(Reoffered(call=call.key, request=request))

    def _serve_bye(self, request: Request, source: Flow, reply: Flow, now: float) -> None:
        call = self._within(request)
        if call is None or not call.allows(CallInput.PEER_BYE):
            self._refuse(request, reply, 481)
        elif self._in_order(call.dialog, request, reply):
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
        elif call is None or self._in_order(call.dialog, request, reply):
            self._answer_options(request, source, Admission())

    def _answer_options(self, request: Request, source: Flow, verdict: Admission) -> None:
        """RFC 3261 section 11.2: say what an INVITE would get."""
        fields = (
            ("Contact", self.contact(source)),
            self._allow,
            ("Accept", ", ".join(self._accept)),
            _SUPPORTED_FIELD,
            *_retry_after(verdict),
        )
        self._refuse(request, _reply_flow(request.via, source), verdict.status or 200, headers=fields)

    def _serve_within_call(self, request: Request, source: Flow, reply: Flow, now: float) -> None:
        call = self._within(request)
        dialog = None if call is None else call.dialog
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
            self._serve(request, source, reply, request.to.tag, request.to.tag, now)

    def _serve_outside_calls(self, request: Request, source: Flow, reply: Flow, now: float) -> None:
        if request.method not in self._serve_outside:
            self._disallow(request, reply)
        elif self._transactions.merged(request):
            self._refuse(request, reply, 482)
        elif (user := self._prover(request, source, reply, now)) is not None and self._readable(
            request, reply, self._serve_outside[request.method]
        ):
            self._serve(request, source, reply, None, self._token(), now, user=user)

    def _serve(
        self,
        request: Request,
        source: Flow,
        reply: Flow,
        call: str | None,
        to_tag: str,
        now: float,
        *,
        user: str = "",
    ) -> None:
        """Ask the host."""
        key = self._token()
        transaction = self._transactions.serve(request, reply, to_tag, now)
        expire_at = now + self._timers.patience / 2
        self._serving[key] = Serving(
            key=key,
            call=call,
            request=request,
            source=source,
            transaction=transaction,
            schedule=self._schedule,
            expire_at=expire_at,
        )
        self._events.append(Requested(request=key, call=call, message=request, flow=source, user=user))

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
        return call if call is not None and call.dialog is not None and call.dialog.matches(request) else None

    def _in_order(self, dialog: Dialog | None, request: Request, reply: Flow) -> bool:
        """Whether `request` is not older than another one that has come; answers it if it is."""
        if dialog is not None and dialog.in_order(request):
            return True
        self._refuse(request, reply, 500, "CSeq Out of Order")
        return False

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
            elif response.status >= 200 and self._prove(transaction, response, now) is None:
                if transaction.request.method == "BYE":
                    self._gone(transaction, now)
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
            if call.state is not CallState.REOFFERING and response.to.tag:
                call.dialog = Dialog.placed(transaction.request, response, source, transaction.keyring)
            if call.allows(CallInput.PEER_PROGRESS):
                todo = self._step(call, CallInput.PEER_PROGRESS, now)
                if Do.TELL_PROGRESSED in todo and response.status > 100:
                    self._events.append(Progressed(call=call.key, response=response))
            return
        if call.allows(CallInput.PEER_CHALLENGES) and (again := self._prove(transaction, response, now)) is not None:
            call.invite = again
            if call.state is not CallState.REOFFERING:
                call.dialog = None
                call.source, call.contact = again.flow, self._contact_of(again)
            self._step(call, CallInput.PEER_CHALLENGES, now)
            return
        call.invite = None
        # RFC 3261 section 12.2.1.2.
        lost = call.state is CallState.REOFFERING and response.status in (408, 481)
        happening = CallInput.PEER_FORGOT if lost else CallInput.PEER_REFUSES
        if call.allows(happening):
            todo = self._step(call, happening, now, status=response.status, reason=response.reason)
            if Do.TELL_REFUSED in todo:
                self._events.append(Refused(call=call.key, response=response))

    def _accepted(self, transaction: ClientTransaction, response: Response, source: Flow, now: float) -> None:
        """A 2xx to an INVITE of ours: acknowledge it, whatever has become of the call (section 13.2.2.4)."""
        tag = response.to.tag
        ack = transaction.acks.get(tag)
        call = self._calls.get(transaction.user)
        if ack is not None:
            self._transactions.resend(*ack)
            return
        if call is not None and call.dialog is not None and transaction.request.to.tag:
            dialog = call.dialog
            dialog.refresh(response, source)
        else:
            dialog = Dialog.placed(transaction.request, response, source, transaction.keyring)
        number = transaction.request.cseq.number
        # RFC 3261 section 22.1: an ACK cannot be challenged, and so has the credentials of its INVITE.
        fields = (*self._client_fields, *_credentials(transaction.request))
        request = dialog.request("ACK", self._via(dialog.flow), headers=fields, seq=number)
        transaction.acks[tag] = ack = (request.serialise(), dialog.flow)
        self._requests_sent["ACK"] += 1
        self._transactions.send(*ack)
        if call is not None and call.invite is transaction and call.allows(CallInput.PEER_ACCEPTS):
            call.invite = None
            call.dialog = dialog
            if Do.TELL_ANSWERED in self._step(call, CallInput.PEER_ACCEPTS, now):
                self._events.append(Answered(call=call.key, response=response))
        elif not transaction.request.to.tag:
            # Another branch of a forked INVITE answered too, or the call is over: one is enough.
            self._request_within(dialog, "BYE", "", now, headers=self._client_fields)

    def _unanswered(self, transaction: ClientTransaction, now: float, status: int = 408) -> None:
        """Timer B or F, or a transport error: as if 408, or 503, had come (RFC 3261 section 8.1.3.1)."""
        if self._fail_over(transaction, now, reached=status == 408):
            return
        if transaction.request.method == "BYE":
            self._gone(transaction, now)
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

    # What we send.

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
        seq = request.cseq.number + 1
        if dialog is not None:
            dialog.local_seq += 1
            seq = dialog.local_seq
        headers = request.headers.with_("Via", self._via(transaction.flow)).with_("CSeq", f"{seq} {request.method}")
        return self._send_request(
            _unproven(replace(request, headers=headers)),
            transaction.flow,
            transaction.user,
            now,
            final_within_s=transaction.final_within_s,
            keyring=keyring,
            dialog=dialog,
            answered=answered,
            others=transaction.others,
            # What was large already has been decided; with credentials it may have become so.
            fixed=dialog is not None or len(request.serialise()) > _LARGE_BYTES,
        )

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
            if not request.to.tag:
                call.dialog = None
            self._step(call, CallInput.FAIL_OVER, now)
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
    ) -> None:
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

    def _offer_fields(self, headers: Iterable[tuple[str, str]], content_type: str) -> tuple[tuple[str, str], ...]:
        return (
            self._allow,
            ("Accept", ", ".join(self._accept)),
            _SUPPORTED_FIELD,
            *self._client_fields,
            *headers,
            ("Content-Type", content_type),
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
}
# What is not sent as other requests are.
_OWN_METHODS = frozenset({"INVITE", "ACK", "BYE", "CANCEL"})
# Those that tell where the peer is now; RFC 6665 section 4.4.1 has NOTIFY among them.
_TARGET_REFRESHERS = frozenset({"REFER", "NOTIFY", "SUBSCRIBE"})


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
