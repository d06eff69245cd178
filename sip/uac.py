"""The user agent client: requests of the host's, and what the peers respond (RFC 3261 sections 8.1, 12.2.1, 13.2).

A request has one target or several. It goes to the next one, as a new transaction, if the one before cannot be reached,
does not respond, or responds 503 (RFC 3263 section 4.3).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from .call import (
    NO_CONTENT,
    Answered,
    Call,
    CallInput,
    CallState,
    Content,
    Do,
    Owing,
    Progressed,
    Refused,
)
from .calls import TARGET_REFRESHERS, Calls, allows_update
from .counters import Tally
from .dialog import MAX_FORWARDS, Dialog
from .digest import Keyring
from .errors import LocalProtocolError
from .exchange import Exchange, ExchangeInput
from .headers import Headers, NameAddr
from .identity import Identity
from .message import REASONS, Request, Response
from .modification import Modifications
from .requests import Requests
from .session_timer import SessionTerms
from .transaction import ClientTransaction, Flow, Transactions
from .uri import Uri

__all__ = ["UserAgentClient"]

# How many branches of a forked INVITE may ring at a time; more are not told apart from silence.
_EARLY_LIMIT = 64
# What is not sent as other requests are.
_OWN_METHODS = frozenset({"INVITE", "ACK", "BYE", "CANCEL", "PRACK", "UPDATE"})


class UserAgentClient:
    """Sends what the host asks for, and takes the responses."""

    def __init__(
        self,
        *,
        identity: Identity,
        transactions: Transactions,
        requests: Requests,
        calls: Calls,
        modifications: Modifications,
        terms: SessionTerms,
        tally: Tally,
    ) -> None:
        self._identity = identity
        self._transactions = transactions
        self._requests = requests
        self._calls = calls
        self._modifications = modifications
        self._terms = terms
        self._tally = tally

    # What the host asks for.

    def invite(
        self,
        now: float,
        target: Uri,
        flow: Flow,
        content: Content,
        *,
        from_: NameAddr,
        to: NameAddr | None,
        ring_timeout_s: float,
        keyring: Keyring | None,
        others: Iterable[Flow],
    ) -> str:
        """See `Agent.invite`."""
        secure = target.scheme == "sips"
        key = self._identity.token()
        fields = (
            ("Via", self._identity.via(flow)),
            ("Max-Forwards", str(MAX_FORWARDS)),
            ("From", str(from_.with_tag(key))),
            ("To", str(to or NameAddr(uri=target))),
            ("Call-ID", self._identity.token()),
            ("CSeq", "1 INVITE"),
            ("Contact", self._identity.contact(flow, secure=secure)),
            # RFC 3261 section 13.2.1: a callee whose responses do not arrive knows when to stop ringing.
            ("Expires", str(math.ceil(ring_timeout_s))),
            *self._identity.offer_fields,
            *content.fields,
            *self._terms.fields(None),
        )
        request = Request(method="INVITE", uri=target, headers=Headers(fields), body=content.body)
        patience_s = ring_timeout_s + self._transactions.timers.patience
        transaction = self._requests.send(
            request, flow, key, now, final_within_s=patience_s, keyring=keyring, others=tuple(others)
        )
        call = self._calls.begin(key, CallState.CALLING, transaction.flow, now, ring_timeout_s, secure=secure)
        call.invite = transaction
        call.local = (content.body, content.content_type)
        self._tally.calls_placed += 1
        return key

    def acknowledge(self, now: float, key: str, content: Content) -> None:
        """See `Agent.acknowledge`."""
        call = self._calls.call(key)
        owing = call.owing
        if owing is None:
            raise LocalProtocolError("no offer to acknowledge")
        if owing.rack:
            self._requests.send_prack(owing.dialog, owing.rack, now, content)
        else:
            call.require(CallInput.ACKNOWLEDGE)
            self._requests.send_ack(owing.transaction, owing.dialog, content)
            self._calls.step(call, CallInput.ACKNOWLEDGE, now)
        owing.dialog.take(ExchangeInput.ANSWER)
        call.local = (content.body, content.content_type)
        call.owing = None

    def request(
        self,
        now: float,
        method: str,
        target: Uri,
        flow: Flow,
        content: Content,
        *,
        from_: NameAddr,
        to: NameAddr | None,
        call_id: str | None,
        seq: int,
        keyring: Keyring | None,
        others: Iterable[Flow],
    ) -> str:
        """See `Agent.request`."""
        if method in _OWN_METHODS:
            raise LocalProtocolError(f"{method} is not sent so")
        key = self._identity.token()
        fields = (
            ("Via", self._identity.via(flow)),
            ("Max-Forwards", str(MAX_FORWARDS)),
            ("From", str(from_ if from_.tag else from_.with_tag(self._identity.token()))),
            ("To", str(to or NameAddr(uri=target))),
            ("Call-ID", call_id or self._identity.token()),
            ("CSeq", f"{seq} {method}"),
            *self._identity.client_fields,
            *content.fields,
        )
        request = Request(method=method, uri=target, headers=Headers(fields), body=content.body)
        self._requests.send(request, flow, key, now, keyring=keyring, others=tuple(others))
        self._calls.ask(key, None)
        return key

    def request_within(self, now: float, call: str, method: str, content: Content) -> str:
        """See `Agent.request_within`."""
        if method in _OWN_METHODS:
            raise LocalProtocolError(f"{method} is not sent so")
        dialog, contact = self._calls.dialog(call)
        key = self._identity.token()
        fields = (*self._identity.client_fields, *content.fields)
        if method in TARGET_REFRESHERS:
            fields = (("Contact", contact), *fields)
        self._requests.within(dialog, method, key, now, headers=fields, body=content.body)
        self._calls.ask(key, call)
        return key

    # What comes.

    def receive(self, response: Response, source: Flow, now: float) -> None:
        """A response came along `source`."""
        self._tally.responses_received[response.status // 100] += 1
        transaction = self._transactions.client(response)
        # RFC 3261 section 8.1.3.3: more than one Via means that it was not for us.
        if transaction is None or len(response.vias) != 1:
            self._tally.strays += 1
        elif transaction.receive(response, now):
            if response.status == 503 and self._fail_over(transaction, now, reached=True):
                return
            if transaction.request.method == "INVITE":
                self._receive_to_invite(transaction, response, source, now)
            elif response.status >= 200:
                again = self._requests.prove(transaction, response, now)
                if again is not None:
                    self._modifications.follow(transaction, again)
                elif transaction.request.method == "BYE":
                    self._gone(transaction, now)
                elif transaction.request.method == "UPDATE":
                    self._modifications.updated(transaction, response, source, now)
                else:
                    self._responded(transaction, response, now)

    def unanswered(self, transaction: ClientTransaction, now: float, status: int = 408) -> None:
        """Timer B or F, or a transport error: as if 408, or 503, had come (RFC 3261 section 8.1.3.1)."""
        if self._fail_over(transaction, now, reached=status == 408):
            return
        if transaction.request.method == "BYE":
            self._gone(transaction, now)
        elif transaction.request.method == "UPDATE":
            timeout = transaction.request.response(408)
            self._modifications.updated(transaction, timeout, transaction.flow, now)
        elif transaction.request.method == "INVITE":
            call = self._calls.get(transaction.user)
            if call is not None and call.invite is transaction and call.allows(CallInput.PEER_FORGOT):
                call.invite = None
                if call.state is CallState.REOFFERING and status != 408:
                    # Section 12.2.1.2: of these two, only 408 ends the dialog.
                    self._calls.step(call, CallInput.PEER_REFUSES, now)
                    self._calls.tell(Refused(call=call.key, response=transaction.request.response(status)))
                else:
                    self._calls.step(call, CallInput.PEER_FORGOT, now, status=status, reason=REASONS[status])
        else:
            self._responded(transaction, None, now, status)

    # Responses to an INVITE.

    def _receive_to_invite(self, transaction: ClientTransaction, response: Response, source: Flow, now: float) -> None:
        if 200 <= response.status < 300:
            self._accepted(transaction, response, source, now)
            return
        call = self._calls.get(transaction.user)
        if call is None or call.invite is not transaction:
            return
        if response.status < 200:
            self._progressed(call, transaction, response, source, now)
            return
        if response.status == 422 and self._modifications.lengthened(call, transaction, response, now):
            return
        if (
            call.allows(CallInput.PEER_CHALLENGES)
            and (again := self._requests.prove(transaction, response, now)) is not None
        ):
            call.invite = again
            if transaction.dialog is None:
                call.dialog, call.early = None, {}
                call.source, call.contact = again.flow, self._contact_of(again)
            self._calls.step(call, CallInput.PEER_CHALLENGES, now)
            return
        call.invite = None
        if transaction.dialog is not None and call.dialog is not None:
            call.dialog.take(ExchangeInput.DROP)
        refreshing = call.state is CallState.REFRESHING
        # RFC 3261 section 12.2.1.2.
        lost = transaction.dialog is not None and response.status in (408, 481)
        happening = CallInput.PEER_FORGOT if lost else CallInput.PEER_REFUSES
        if call.allows(happening):
            todo = self._calls.step(call, happening, now, status=response.status, reason=response.reason)
            if Do.TELL_REFUSED in todo:
                self._modifications.refused(call, response, now)
            elif refreshing and not lost:
                self._modifications.not_refreshed(call, response, now)

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
            if allows_update(response):
                call.updatable = True
        if call.allows(CallInput.PEER_PROGRESS):
            todo = self._calls.step(call, CallInput.PEER_PROGRESS, now)
            if Do.TELL_PROGRESSED in todo and response.status > 100:
                self._calls.tell(Progressed(call=call.key, response=response, offer=offer))

    def _acknowledge_progress(
        self, call: Call, transaction: ClientTransaction, dialog: Dialog, response: Response, now: float
    ) -> bool:
        """Send PRACK (RFC 3262 section 4). True if it waits for the host, because the response makes an offer."""
        rack = f"{int(response.headers.get('RSeq') or 0)} {response.cseq}"
        if response.body and dialog.exchange is Exchange.EMPTY and call.state in (CallState.CALLING, CallState.RINGING):
            dialog.take(ExchangeInput.PEER_OFFER, response.body)
            call.owing = Owing(transaction=transaction, dialog=dialog, rack=rack)
            return True
        if response.body:
            dialog.take(ExchangeInput.PEER_ANSWER, response.body)
        self._requests.send_prack(dialog, rack, now, NO_CONTENT)
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
            self._requests.send_ack(transaction, dialog, NO_CONTENT)
        happening = CallInput.PEER_OFFERS if offers else CallInput.PEER_ACCEPTS
        if call is not None and first and call.allows(happening):
            call.invite = None
            call.dialog = dialog
            call.early = {}
            # RFC 4028 section 7.4: what was to refresh the session only has changed it nevertheless.
            changed = call.state is CallState.REFRESHING and response.body not in (b"", dialog.described)
            if offers:
                dialog.take(ExchangeInput.PEER_OFFER, response.body)
                call.owing = Owing(transaction=transaction, dialog=dialog)
            elif transaction.request.body and call.updating is None:
                # While an UPDATE of ours waits, the offer of the INVITE was answered before.
                dialog.take(ExchangeInput.PEER_ANSWER if response.body else ExchangeInput.DROP, response.body)
            if again and transaction.request.body:
                call.local = (transaction.request.body, transaction.request.content_type)
            if response.headers.get("Allow") is not None:
                call.updatable = allows_update(response)
            todo = self._calls.step(call, happening, now)
            if call.up:
                call.session.agreed(transaction.request, response, now)
            if changed:
                self._calls.tell(Answered(call=call.key, response=response))
            if Do.TELL_ANSWERED in todo:
                self._modifications.settle(call, transaction)
                self._calls.tell(Answered(call=call.key, response=response, offer=offers))
        elif not again:
            # Another branch of a forked INVITE answered too, or the call is over: one is enough.
            self._requests.within(dialog, "BYE", "", now, headers=self._identity.client_fields)

    # Responses to other requests, and none.

    def _responded(
        self, transaction: ClientTransaction, response: Response | None, now: float, status: int = 0
    ) -> None:
        """A final response to a request of ours that is neither INVITE nor BYE, None if `status` stands for one."""
        call = self._calls.responded(transaction.user, transaction.request.cseq.number, response)
        status, reason = (status, REASONS[status]) if response is None else (response.status, response.reason)
        # RFC 3261 section 12.2.1.2; RFC 5057 section 5.1: with a NOTIFY it is the subscription that is unknown.
        lost = status in (408, 481) and transaction.request.method != "NOTIFY"
        if call is not None and lost and call.allows(CallInput.PEER_LOST):
            self._calls.step(call, CallInput.PEER_LOST, now, status=status, reason=reason)

    def _gone(self, transaction: ClientTransaction, now: float) -> None:
        call = self._calls.get(transaction.user)
        if call is not None and call.allows(CallInput.BYE_DONE):
            self._calls.step(call, CallInput.BYE_DONE, now)

    def _fail_over(self, transaction: ClientTransaction, now: float, *, reached: bool) -> bool:
        """Send a request that has failed to its next target; False if there is none (RFC 3263 section 4.3).

        reached  whether it may have reached its target: then the same one is not tried by another transport
        """
        left = self._requests.left(transaction, reached=reached)
        if not left:
            return False
        call = None
        if transaction.request.method == "INVITE":
            call = self._calls.get(transaction.user)
            if call is None or call.invite is not transaction or not call.allows(CallInput.FAIL_OVER):
                return False
        again = self._requests.move_on(transaction, left, now)
        if call is not None:
            call.invite, call.source, call.contact = again, again.flow, self._contact_of(again)
            if transaction.dialog is None:
                call.dialog, call.early = None, {}
            self._calls.step(call, CallInput.FAIL_OVER, now)
        self._modifications.follow(transaction, again)
        return True

    def _contact_of(self, transaction: ClientTransaction) -> str:
        return self._identity.contact(transaction.flow, secure=transaction.request.uri.scheme == "sips")
