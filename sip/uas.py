"""The user agent server: requests of the peers', and what the host says to them (RFC 3261 sections 8.2, 12.2.2, 13.3).

Requests that are refused without touching a call are answered statelessly (RFC 3261 section 8.2.7): whoever sends a
million of them leaves nothing behind, and gets one response to each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from .call import (
    NO_CONTENT,
    Acknowledged,
    Call,
    CallInput,
    CallState,
    Confirmed,
    Content,
    Do,
    Offered,
    Reoffered,
    Requested,
    Serving,
    Withdrawn,
)
from .calls import TARGET_REFRESHERS, Calls, allows_update
from .counters import Tally
from .dialog import Dialog
from .errors import LocalProtocolError, RemoteProtocolError
from .exchange import Exchange, ExchangeInput
from .guard import Gate, Held
from .identity import SUPPORTED, Identity
from .message import REASONS, Request
from .parser import MalformedMessage
from .reliable import RSEQ_LIMIT, Provisional, Reliable, ReliableDeadline, ReliableState, rack_of
from .replaces import replaced
from .responses import Responses, reply_flow
from .session_timer import SessionTerms
from .transaction import Flow, ServerTransaction, Transactions

__all__ = ["SERVED", "Admission", "Admit", "UserAgentServer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """What a request outside of a call gets before anything else is looked at.

    status         200 to look at it; 503 when there is no room or no wish for more, 403, 480 ...; None to ignore it
    retry_after_s  when to try again (RFC 3261 section 20.33); None says nothing about it
    """

    status: int | None = 200
    retry_after_s: int | None = None


Admit = Callable[[Request | None, Flow, float], Admission]


class UserAgentServer:
    """Serves what peers ask for.

    admit                        see `Agent`
    serve_within, serve_outside  requests that the host serves within calls, and outside of them, with their body types
    """

    def __init__(
        self,
        *,
        identity: Identity,
        transactions: Transactions,
        responses: Responses,
        calls: Calls,
        gate: Gate,
        terms: SessionTerms,
        serve_within: Mapping[str, tuple[str, ...]],
        serve_outside: Mapping[str, tuple[str, ...]],
        admit: Admit,
        tally: Tally,
    ) -> None:
        self._identity = identity
        self._transactions = transactions
        self._responses = responses
        self._calls = calls
        self._gate = gate
        self._terms = terms
        self._serve_within = serve_within
        self._serve_outside = serve_outside
        self._admit = admit
        self._tally = tally

    # What comes.

    def receive(self, request: Request, source: Flow, now: float) -> None:
        """A request came along `source`."""
        method = request.method
        serve = SERVED.get(method)
        known = method in self._identity.methods
        self._tally.requests_received[method if known else "other"] += 1
        transaction = self._transactions.server(request)
        if method == "ACK":
            self._receive_ack(request, transaction, now)
        elif transaction is not None:
            self._tally.retransmissions_received += 1
            transaction.receive(request, now)
        elif self._admitted(request, source, now):
            reply = reply_flow(request.via, source)
            unsupported = [tag for tag in request.require if tag not in SUPPORTED]
            if not known:
                # RFC 3261 section 8.2.1.
                self._responses.refuse(request, reply, 405, headers=(self._identity.allow,))
            elif unsupported and method != "CANCEL":
                # Section 8.2.2.3; nothing is required of a CANCEL.
                self._responses.refuse(request, reply, 420, headers=(("Unsupported", ", ".join(unsupported)),))
            elif method != "INVITE" and "Replaces" in request.headers:
                # RFC 3891 section 3.
                self._responses.refuse(request, reply, 400, "Replaces Outside of an INVITE")
            elif serve is not None:
                serve(self, request, source, reply, now)
            elif request.to.tag:
                self._serve_within_call(request, source, reply, now)
            else:
                self._serve_outside_calls(request, source, reply, now)

    def receive_malformed(self, error: MalformedMessage, source: Flow, now: float) -> None:
        """A message came that cannot be read, perhaps a request that can be answered."""
        self._tally.malformed += 1
        if error.request is not None:
            request = error.request.received_from(*source.remote)
            # Nothing in it can be relied on.
            if self._admit(None, source, now).status is None:
                self._tally.ignored += 1
            else:
                reply = reply_flow(request.via, source)
                self._responses.refuse(request, reply, error.status, error.reason, error.headers)

    def release(self, held: Held, now: float) -> None:
        """The time of a held request has come."""
        request, source = held.request, held.source
        if self._gate.release(held, now) and self._admitted(request, source, now):
            serve = self._serve_invite if request.method == "INVITE" else self._serve_outside_calls
            serve(request, source, held.reply, now)

    def overdue(self, serving: Serving, now: float) -> None:
        """The host has left a request without an answer."""
        call = self._calls.get(serving.call or "")
        if call is not None and call.asked is serving:
            self._calls.tell(Withdrawn(call=call.key))
        self._forget_asked(serving)
        # RFC 4320 section 4.2: 408 would come too late to be of use to anybody.
        self._calls.settle(serving, 500, now, reason="Not Answered in Time")

    def reliable_due(self, reliable: Reliable, now: float) -> None:
        """A provisional response has no PRACK yet."""
        call = self._calls.by_key[reliable.call]
        while (deadline := reliable.next_due(now)) is not None:
            reliable.fire(deadline, now)
            if deadline is ReliableDeadline.GIVE_UP:
                self._calls.step(call, CallInput.NO_PRACK, now, status=504, reason=REASONS[504])
            elif call.server is not None:
                self._transactions.resend(reliable.sent, call.server.flow)

    # What the host says.

    def ring(self, now: float, key: str, status: int, content: Content, *, reliable: bool) -> None:
        """See `Agent.ring`."""
        if not 100 < status < 200:
            raise LocalProtocolError(f"{status} does not say that a call rings")
        call, server, offer = self._offered(key, CallInput.RING)
        headers = (("Contact", call.contact), *content.headers)
        body, content_type = content.body, content.content_type
        if "100rel" not in offer.require and not (reliable and "100rel" in offer.supported):
            if reliable:
                raise LocalProtocolError("the peer does not support reliable provisional responses")
            self._responses.respond(server, offer, status, now, headers=headers, body=body, content_type=content_type)
        else:
            provisional = Provisional(status=status, headers=headers, body=body, content_type=content_type)
            if call.reliable is None:
                # RFC 3262 section 3: the first number leaves the others room to grow.
                first = self._identity.random.randrange(1, RSEQ_LIMIT)
                call.reliable = Reliable(
                    call=key,
                    seq=offer.cseq.number,
                    first_rseq=first,
                    schedule=self._transactions.schedule,
                    timers=self._transactions.timers,
                )
            if call.reliable.state is ReliableState.WAITING:
                call.reliable.queue.append(provisional)
            else:
                self._send_reliably(call, call.reliable, provisional, now)
        self._calls.step(call, CallInput.RING, now)

    def answer(self, now: float, key: str, content: Content, *, to: Request | None) -> None:
        """See `Agent.answer`."""
        call = self._calls.call(key)
        asked = call.waiting_beside(to)
        if asked is not None:
            self._agree(call, asked, content, now)
            return
        call, server, offer = self._offered(key, CallInput.ANSWER)
        if call.reliable is not None and call.reliable.holds_answer:
            call.reliable.queue.clear()
            call.held = content
            self._calls.step(call, CallInput.HOLD, now)
        else:
            self._accept(call, server, offer, content, CallInput.ANSWER, now)

    def reject(
        self, now: float, key: str, status: int, reason: str | None, content: Content, *, to: Request | None
    ) -> None:
        """See `Agent.reject`."""
        if not 300 <= status < 700:
            raise LocalProtocolError(f"{status} does not refuse a call")
        asked = self._calls.call(key).waiting_beside(to)
        if asked is not None:
            self._calls.settle(asked, status, now, reason=reason, content=content)
            self._forget_asked(asked)
            return
        call, server, offer = self._offered(key, CallInput.REJECT)
        self._responses.respond(server, offer, status, now, reason=reason, headers=content.headers)
        if call.dialog is not None:
            call.dialog.take(ExchangeInput.DROP)
        call.offer = call.server = None
        self._calls.step(call, CallInput.REJECT, now, status=status, reason=reason or REASONS.get(status, ""))

    def respond(self, now: float, key: str, status: int, reason: str | None, content: Content) -> None:
        """See `Agent.respond`."""
        serving = self._calls.served(key)
        if not 200 <= status < 700:
            raise LocalProtocolError(f"{status} is no final response")
        self._calls.settle(serving, status, now, reason=reason, content=content)

    def _offered(self, key: str, verb: CallInput) -> tuple[Call, ServerTransaction, Request]:
        call = self._calls.call(key)
        call.require(verb)
        if call.server is None or call.offer is None:
            raise LocalProtocolError(f"no offer to {verb.value}")
        return call, call.server, call.offer

    # Whether a request is looked at.

    def _admitted(self, request: Request, source: Flow, now: float) -> bool:
        """Whether to look at a request without a transaction; it is answered, or ignored, if not."""
        method = request.method
        if self._calls.within(request) is not None or (method == "CANCEL" and self._transactions.cancelled_by(request)):
            return True
        if method == "INVITE" and not request.to.tag and self._transactions.merged(request):
            # RFC 3261 section 8.2.2.2. It is no other call, so it costs none of what a call costs.
            self._responses.refuse(request, reply_flow(request.via, source), 482)
            return False
        verdict = self._admit(request, source, now)
        if verdict.status is None:
            self._tally.ignored += 1
        elif verdict.status == 200 or method == "CANCEL":
            return True
        elif method == "OPTIONS":
            self._answer_options(request, source, verdict)
        else:
            self._tally.turned_away += 1
            self._responses.refuse(
                request, reply_flow(request.via, source), verdict.status, headers=_retry_after(verdict)
            )
        return False

    def _disallow(self, request: Request, reply: Flow) -> None:
        """RFC 3261 section 21.4.6: what is served elsewhere is not so for this address or in this dialog."""
        allowed = ", ".join(method for method in self._identity.methods if method != request.method)
        self._responses.refuse(request, reply, 405, headers=(("Allow", allowed),))

    def _in_order(self, dialog: Dialog | None, request: Request, reply: Flow) -> bool:
        """Whether `request` is not older than another one that has come; answers it if it is."""
        if dialog is not None and dialog.in_order(request):
            return True
        self._responses.refuse(request, reply, 500, "CSeq Out of Order")
        return False

    def _acceptable(self, dialog: Dialog | None, request: Request, reply: Flow, accept: tuple[str, ...]) -> bool:
        return self._responses.readable(request, reply, accept) and self._in_order(dialog, request, reply)

    def _too_brief(self, request: Request, reply: Flow) -> bool:
        """Whether the session would have to be refreshed too often (RFC 4028 section 9); answers the request if so."""
        if not self._terms.too_brief(request):
            return False
        self._responses.refuse(request, reply, 422, headers=(("Min-SE", str(self._terms.min_se_s)),))
        return True

    def _pause(self) -> tuple[tuple[str, str], ...]:
        """RFC 3261 section 14.2, RFC 3311 section 5.2."""
        return (("Retry-After", str(self._identity.random.randint(0, 10))),)

    # The methods.

    def _receive_ack(self, ack: Request, transaction: ServerTransaction | None, now: float) -> None:
        if transaction is not None and not transaction.receive(ack, now):
            return
        call = self._calls.within(ack)
        if call is None or ack.cseq.number != call.acked or not call.allows(CallInput.PEER_ACK):
            self._tally.strays += 1
            return
        self._acknowledged(call)
        if call.owed and call.dialog is not None:
            call.dialog.take(ExchangeInput.PEER_ANSWER if ack.body else ExchangeInput.DROP, ack.body)
        if Do.TELL_CONFIRMED in self._calls.step(call, CallInput.PEER_ACK, now):
            self._calls.tell(Confirmed(call=call.key, body=ack.body, content_type=ack.content_type))

    def _acknowledged(self, call: Call) -> None:
        if call.server is not None:
            call.server.acknowledged()
            call.server = None

    def _serve_invite(self, request: Request, source: Flow, reply: Flow, now: float) -> None:
        if request.to.tag:
            self._serve_reinvite(request, source, reply, now)
            return
        user = self._gate.prover(request, source, reply, now)
        if user is None:
            return
        if request.contact is None:
            self._responses.refuse(request, reply, 400, "Missing Contact")
            return
        if not self._responses.readable(request, reply, self._identity.body_types) or self._too_brief(request, reply):
            return
        replaces = request.headers.get("Replaces")
        try:
            other = None if replaces is None else replaced(replaces, self._calls.by_key).key
        except RemoteProtocolError as error:
            self._responses.refuse(request, reply, error.status, error.reason)
            return
        key = self._identity.token()
        call = self._calls.begin(key, CallState.OFFERED, source, now, request.expires, secure=_secure(request))
        call.replaces = other or ""
        call.dialog = Dialog.served(request, key, source)
        call.offer = request
        call.updatable = allows_update(request)
        call.server = self._transactions.serve(request, reply, key, now)
        self._tally.calls_received += 1
        self._responses.respond(call.server, request, 100, now)
        self._calls.tell(Offered(call=key, request=request, flow=source, user=user, replaces=other))

    def _serve_reinvite(self, request: Request, source: Flow, reply: Flow, now: float) -> None:
        call = self._calls.within(request)
        if call is None or not call.allows(CallInput.PEER_INVITE):
            self._responses.refuse(request, reply, 481)
            return
        if self._too_brief(request, reply) or not self._acceptable(
            call.dialog, request, reply, self._identity.body_types
        ):
            return
        transaction = self._transactions.serve(request, reply, call.key, now)
        if call.dialog is not None and call.dialog.exchange is Exchange.OFFERING:
            # RFC 5407 section 3.1.5, case 2: the exchange that the answer in the ACK completes comes first, and that
            # of our UPDATE or re-INVITE.
            self._responses.respond(transaction, request, 491, now)
            return
        if call.asked is not None:
            self._responses.respond(transaction, request, 500, now, headers=self._pause())
            return
        todo = self._calls.step(call, CallInput.PEER_INVITE, now)
        if Do.SEND_500 in todo:
            # RFC 3261 section 14.2.
            self._responses.respond(transaction, request, 500, now, headers=self._pause())
        elif Do.SEND_491 in todo:
            self._responses.respond(transaction, request, 491, now)
        else:
            self._acknowledged(call)
            call.server, call.offer, call.source = transaction, request, source
            if call.dialog is not None and request.body:
                call.dialog.take(ExchangeInput.PEER_OFFER, request.body)
            self._responses.respond(transaction, request, 100, now)
            if Do.TELL_CONFIRMED in todo:
                self._calls.tell(Confirmed(call=call.key, body=b"", content_type=""))
            self._calls.tell(Reoffered(call=call.key, request=request))

    def _serve_bye(self, request: Request, source: Flow, reply: Flow, now: float) -> None:
        call = self._calls.within(request)
        if call is None or not call.allows(CallInput.PEER_BYE):
            self._responses.refuse(request, reply, 481)
        elif self._in_order(call.dialog_of(request.from_.tag), request, reply):
            transaction = self._transactions.serve(request, reply, call.key, now)
            self._responses.respond(transaction, request, 200, now)
            self._calls.step(call, CallInput.PEER_BYE, now, reason=request.headers.get("Reason") or "")
            # Who hangs up has done with our 2xx too.
            self._acknowledged(call)

    def _serve_cancel(self, request: Request, source: Flow, reply: Flow, now: float) -> None:
        invite = self._transactions.cancelled_by(request)
        if invite is None:
            self._responses.refuse(request, reply, 481)
            return
        # RFC 3261 section 9.2: answered whether or not it comes too late, with the To tag of the INVITE's responses.
        transaction = self._transactions.serve(request, reply, invite.to_tag, now)
        self._responses.respond(transaction, request, 200, now)
        self._gate.withdraw(invite, now)
        call = self._calls.get(invite.to_tag)
        if call is not None and call.server is invite and call.allows(CallInput.PEER_CANCEL):
            self._calls.step(call, CallInput.PEER_CANCEL, now, reason=request.headers.get("Reason") or "")

    def _serve_options(self, request: Request, source: Flow, reply: Flow, now: float) -> None:
        call = self._calls.within(request)
        if request.to.tag and call is None:
            self._responses.refuse(request, reply, 481)
        elif call is None or self._in_order(call.dialog_of(request.from_.tag), request, reply):
            self._answer_options(request, source, Admission())

    def _answer_options(self, request: Request, source: Flow, verdict: Admission) -> None:
        """RFC 3261 section 11.2: say what an INVITE would get."""
        fields = (
            ("Contact", self._identity.contact(source)),
            self._identity.allow,
            self._identity.accept,
            self._identity.supported,
            *_retry_after(verdict),
        )
        self._responses.refuse(request, reply_flow(request.via, source), verdict.status or 200, headers=fields)

    def _serve_update(self, request: Request, source: Flow, reply: Flow, now: float) -> None:
        call = self._calls.within(request)
        dialog = None if call is None else call.dialog_of(request.from_.tag)
        if call is None or dialog is None or call.state is CallState.ENDING:
            self._responses.refuse(request, reply, 481)
            return
        if self._too_brief(request, reply) or not self._acceptable(dialog, request, reply, self._identity.body_types):
            return
        # RFC 3311 section 5.2: one UPDATE at a time, and one offer.
        mine = dialog.exchange is Exchange.OFFERING or (dialog.exchange is Exchange.EMPTY and not call.up)
        if call.asked is not None or (request.body and dialog.exchange is Exchange.OFFERED):
            transaction = self._transactions.serve(request, reply, call.key, now)
            self._responses.respond(transaction, request, 500, now, headers=self._pause())
        elif request.body and mine:
            self._responses.respond(self._transactions.serve(request, reply, call.key, now), request, 491, now)
        else:
            serving = self._calls.serve(request, source, reply, call.key, call.key, now)
            if request.body:
                self._ask(call, dialog, serving)
            else:
                self._agree(call, serving, NO_CONTENT, now)

    def _serve_prack(self, request: Request, source: Flow, reply: Flow, now: float) -> None:
        call = self._calls.within(request)
        dialog = None if call is None else call.dialog_of(request.from_.tag)
        if call is None or dialog is None or call.state is CallState.ENDING:
            self._responses.refuse(request, reply, 481)
            return
        if not self._acceptable(dialog, request, reply, self._identity.body_types):
            return
        reliable = call.reliable
        if reliable is None or not reliable.acknowledge(rack_of(request)):
            # RFC 3262 section 3.
            self._responses.refuse(request, reply, 481)
            return
        answer = request if request.body and dialog.exchange is Exchange.OFFERING else None
        if answer is not None:
            dialog.take(ExchangeInput.PEER_ANSWER, answer.body)
        body, content_type = (b"", "") if answer is None else (answer.body, answer.content_type)
        self._calls.tell(Acknowledged(call=call.key, body=body, content_type=content_type))
        serving = self._calls.serve(request, source, reply, call.key, call.key, now)
        if request.body and answer is None and call.asked is None and dialog.exchange is Exchange.AGREED:
            # Section 5: after the answer in the response, PRACK may begin another exchange.
            self._ask(call, dialog, serving)
        else:
            self._calls.settle(serving, 200, now)
        if call.server is None or call.offer is None:
            return
        if call.held is not None:
            self._accept(call, call.server, call.offer, call.held, CallInput.RELEASE, now)
        elif reliable.queue:
            self._send_reliably(call, reliable, reliable.queue.popleft(), now)

    def _serve_within_call(self, request: Request, source: Flow, reply: Flow, now: float) -> None:
        call = self._calls.within(request)
        dialog = None if call is None else call.dialog_of(request.from_.tag)
        if call is None or call.state is CallState.ENDING:
            # RFC 5407 section 3.2: whoever has said BYE answers everything but a BYE with 481. Subscriptions go on.
            dialog = self._calls.retained(request)
        if dialog is None:
            self._responses.refuse(request, reply, 481)
        elif request.method not in self._serve_within:
            self._disallow(request, reply)
        elif self._acceptable(dialog, request, reply, self._serve_within[request.method]):
            if request.method in TARGET_REFRESHERS:
                dialog.refresh(request, source)
            self._tell_requested(self._calls.serve(request, source, reply, request.to.tag, request.to.tag, now))

    def _serve_outside_calls(self, request: Request, source: Flow, reply: Flow, now: float) -> None:
        if request.method not in self._serve_outside:
            self._disallow(request, reply)
        elif self._transactions.merged(request):
            self._responses.refuse(request, reply, 482)
        elif (user := self._gate.prover(request, source, reply, now)) is not None and self._responses.readable(
            request, reply, self._serve_outside[request.method]
        ):
            self._tell_requested(self._calls.serve(request, source, reply, None, self._identity.token(), now), user)

    def _tell_requested(self, serving: Serving, user: str = "") -> None:
        self._calls.tell(
            Requested(request=serving.key, call=serving.call, message=serving.request, flow=serving.source, user=user)
        )

    # Offers, answers, and what they bring about.

    def _ask(self, call: Call, dialog: Dialog, serving: Serving) -> None:
        """Have the host answer the offer of an UPDATE or PRACK."""
        dialog.take(ExchangeInput.PEER_OFFER, serving.request.body)
        call.asked = serving
        self._calls.tell(Reoffered(call=call.key, request=serving.request))

    def _agree(self, call: Call, serving: Serving, content: Content, now: float) -> None:
        """Accept an UPDATE, or a PRACK with an offer."""
        request = serving.request
        dialog = call.dialog_of(request.from_.tag)
        update = request.method == "UPDATE"
        session, agreed = self._terms.answer(call.session, request) if update and call.up else ((), None)
        fields = (self._identity.allow, self._identity.supported, *session, *content.headers)
        self._calls.settle(serving, 200, now, content=replace(content, headers=fields))
        if dialog is not None:
            if update:
                dialog.refresh(request, serving.source)
            if request.body:
                dialog.take(ExchangeInput.ANSWER if content.body else ExchangeInput.DROP)
        if content.body:
            call.local = (content.body, content.content_type)
        if call.asked is serving:
            call.asked = None
        call.updatable = call.updatable or update
        if agreed is not None:
            call.session.begin(agreed, now)

    def _forget_asked(self, serving: Serving) -> None:
        """The offer of an UPDATE or PRACK is not accepted."""
        call = self._calls.get(serving.call or "")
        if call is not None and call.asked is serving:
            call.asked = None
            dialog = call.dialog_of(serving.request.from_.tag)
            if dialog is not None:
                dialog.take(ExchangeInput.DROP)

    def _send_reliably(self, call: Call, reliable: Reliable, provisional: Provisional, now: float) -> None:
        assert call.server is not None, call.state
        assert call.offer is not None, call.state
        assert call.dialog is not None, call.state
        # RFC 3261 section 13.2.1: later descriptions in responses to the same INVITE are ignored.
        body = b"" if call.exchanged else provisional.body
        rseq = reliable.number(bool(body), now)
        response = self._responses.respond(
            call.server,
            call.offer,
            provisional.status,
            now,
            headers=(*provisional.headers, self._identity.allow, ("Require", "100rel"), ("RSeq", str(rseq))),
            body=body,
            content_type=provisional.content_type,
        )
        reliable.sent = response.serialise()
        if body:
            call.dialog.take(ExchangeInput.ANSWER if call.offer.body else ExchangeInput.OFFER)
            call.local = (body, provisional.content_type)
            call.exchanged = True

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
        session, agreed = self._terms.answer(call.session, offer)
        fields = (("Contact", call.contact), self._identity.allow, self._identity.supported, *session, *content.headers)
        self._responses.respond(server, offer, 200, now, headers=fields, body=body, content_type=content.content_type)
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
        self._calls.step(call, happening, now)
        self._replace(call, now)
        call.session.begin(agreed, now)

    def _replace(self, call: Call, now: float) -> None:
        """`call` has been answered: end the one whose place it takes (RFC 3891 section 3)."""
        other = self._calls.get(call.replaces)
        call.replaces = ""
        for verb in (CallInput.BYE, CallInput.CANCEL):
            if other is not None and other.allows(verb):
                self._calls.step(other, verb, now)
                break


# What is served whatever the host serves.
SERVED: Mapping[str, Callable[[UserAgentServer, Request, Flow, Flow, float], None]] = {
    "INVITE": UserAgentServer._serve_invite,
    "BYE": UserAgentServer._serve_bye,
    "CANCEL": UserAgentServer._serve_cancel,
    "OPTIONS": UserAgentServer._serve_options,
    "PRACK": UserAgentServer._serve_prack,
    "UPDATE": UserAgentServer._serve_update,
}


def _secure(request: Request) -> bool:
    """Whether the dialog that `request` begins needs a sips Contact (RFC 3261 section 12.1.1)."""
    hops = request.record_route[:1] or request.contacts[:1]
    return request.uri.scheme == "sips" or any(hop.uri.scheme == "sips" for hop in hops)


def _retry_after(verdict: Admission) -> tuple[tuple[str, str], ...]:
    return () if verdict.retry_after_s is None else (("Retry-After", str(verdict.retry_after_s)),)
