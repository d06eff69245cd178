"""Modifications of a session, by re-INVITE or UPDATE (RFC 3261 section 14, RFC 3311), and its refreshes (RFC 4028).

A change of the host's that crosses the peer's is sent again after a while. A refresh changes nothing: it carries what
was agreed on last.
"""

from __future__ import annotations

from .call import NO_CONTENT, Answered, Call, CallInput, CallState, Change, Content, Refused
from .calls import Calls
from .errors import LocalProtocolError
from .exchange import Exchange, ExchangeInput
from .identity import Identity
from .message import Response
from .requests import Requests
from .session_timer import (
    SessionExpires,
    SessionTerms,
    SessionTimer,
    TimerDeadline,
    TimerInput,
    TimerState,
    min_se,
    session_expires,
)
from .transaction import ClientTransaction, Flow, Transactions

__all__ = ["Modifications"]

# How often a change that crosses the peer's is sent.
_TRIES = 8
# After a refusal that says nothing of the session.
_REFRESH_PAUSE_S = 10.0


class Modifications:
    """Changes and refreshes the sessions of calls."""

    def __init__(
        self,
        *,
        identity: Identity,
        transactions: Transactions,
        requests: Requests,
        calls: Calls,
        terms: SessionTerms,
    ) -> None:
        self._identity = identity
        self._requests = requests
        self._calls = calls
        self._terms = terms
        self._schedule = transactions.schedule
        self._timers = transactions.timers

    def change(self, now: float, key: str, method: str, content: Content) -> None:
        """The host wants a re-INVITE or an UPDATE, whichever `method` says. See `Agent.reoffer` and `Agent.update`."""
        call = self._calls.call(key)
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

    def withdraw(self, key: str) -> None:
        """See `Agent.withdraw`."""
        call = self._calls.call(key)
        change = call.change
        if change is None:
            raise LocalProtocolError("nothing to withdraw")
        change.tries = _TRIES
        if change.waits:
            change.go()
            call.change = None

    def change_due(self, change: Change, now: float) -> None:
        """The pause of a change that crossed the peer's is over."""
        call = self._calls.by_key[change.call]
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

    def session_due(self, session: SessionTimer, now: float) -> None:
        """A session is to be refreshed, or has expired."""
        call = self._calls.by_key[session.call]
        while (deadline := session.next_due(now)) is not None:
            session.step(deadline, now)
            if deadline is TimerDeadline.REFRESH:
                self._refresh(call, now)
            elif call.allows(CallInput.EXPIRED):
                self._calls.step(call, CallInput.EXPIRED, now)

    # What came of them.

    def updated(self, transaction: ClientTransaction, response: Response, source: Flow, now: float) -> None:
        """A final response to our UPDATE."""
        call = self._calls.get(transaction.user)
        if call is None or call.updating is not transaction:
            return
        if response.status == 422 and self.lengthened(call, transaction, response, now):
            return
        call.updating = None
        request = transaction.request
        dialog = call.dialog_of(request.to.tag)
        refreshing = call.change is None or call.change.waits or call.change.method != "UPDATE"
        if 200 <= response.status < 300:
            if dialog is not None:
                dialog.refresh(response, source)
                dialog.take(ExchangeInput.PEER_ANSWER, response.body)
            if request.body:
                call.local = (request.body, request.content_type)
            if call.up:
                call.session.agreed(request, response, now)
            if not refreshing:
                self.settle(call, transaction)
                self._calls.tell(Answered(call=call.key, response=response))
            return
        if dialog is not None and request.body:
            dialog.take(ExchangeInput.DROP)
        if response.status in (408, 481) and call.allows(CallInput.PEER_LOST):
            self._calls.step(call, CallInput.PEER_LOST, now, status=response.status, reason=response.reason)
        elif refreshing:
            # The peer need not allow what it said it does.
            call.updatable = response.status not in (405, 501)
            self.not_refreshed(call, response, now)
        else:
            self.refused(call, response, now)

    def settle(self, call: Call, transaction: ClientTransaction) -> None:
        """The response to a re-INVITE or UPDATE came: the change, if it was one of the host's, has been made."""
        if call.change is not None and not call.change.waits and call.change.method == transaction.request.method:
            call.change = None

    def refused(self, call: Call, response: Response, now: float) -> None:
        """Our change was refused: try again if it has only crossed the peer's, else tell the host."""
        change = call.change
        if response.status == 491 and change is not None and change.tries < _TRIES:
            change.tries += 1
            change.put_off(now + self._back_off_s(call))
        else:
            call.change = None
            self._calls.tell(Refused(call=call.key, response=response))

    def not_refreshed(self, call: Call, response: Response, now: float) -> None:
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

    def lengthened(self, call: Call, transaction: ClientTransaction, response: Response, now: float) -> bool:
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
        again = self._requests.once_more(transaction, headers, now)
        if invite:
            call.invite = again
            if transaction.dialog is None:
                # What the first one began is over with it.
                call.dialog, call.early = None, {}
            self._calls.step(call, CallInput.PEER_CHALLENGES, now)
        self.follow(transaction, again)
        return True

    def follow(self, transaction: ClientTransaction, again: ClientTransaction) -> None:
        """What waited for `transaction` waits for `again`, which takes its place."""
        call = self._calls.get(transaction.user)
        if call is not None and call.updating is transaction:
            call.updating = again

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
            *self._identity.offer_fields,
            *content.fields,
            *(self._terms.fields(call.session) if call.up else ()),
        )
        transaction = self._requests.within(call.dialog, method, call.key, now, headers=fields, body=content.body)
        if content.body:
            call.dialog.take(ExchangeInput.OFFER)
        if method == "INVITE":
            call.invite = transaction
            refreshing = call.session.state is TimerState.REFRESHING
            self._calls.step(call, CallInput.REFRESH if refreshing else CallInput.REOFFER, now)
        else:
            call.updating = transaction

    def _refresh(self, call: Call, now: float) -> None:
        """Send the request that keeps the session alive (RFC 4028 section 7.4)."""
        body, content_type = call.local
        free = call.state is CallState.CONFIRMED and call.updating is None and call.dialog is not None
        if not free or (call.dialog is not None and call.dialog.exchange in (Exchange.OFFERED, Exchange.OFFERING)):
            # What is under way refreshes the session as well, if it succeeds.
            call.session.step(TimerInput.RETRY, now, pause_s=self._timers.t2)
        elif call.updatable:
            self._send_change(call, "UPDATE", NO_CONTENT, now)
        elif body:
            content = Content(headers=(), body=body, content_type=content_type)
            self._send_change(call, "INVITE", content, now)
        else:
            # There is no session to refresh, nor any way to.
            call.session.step(TimerInput.STOP, now)

    def _back_off_s(self, call: Call) -> float:
        """RFC 3261 section 14.1: in units of 10 ms, and never at the same time as the peer."""
        least, most = (210, 400) if call.placed else (0, 200)
        return self._identity.random.randint(least, most) / 100
