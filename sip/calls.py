"""All calls, and the dialogs that outlive them: what both sides of a user agent share.

`Calls` finds the call that a request or a verb means, takes the steps of its table and does what they bring about, and
knows which requests within it wait for a response. What happened is told here, for the host to hear.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from .call import (
    NO_CONTENT,
    Call,
    CallInput,
    CallState,
    Content,
    Deadline,
    Do,
    Ended,
    Event,
    Responded,
    Serving,
    Withdrawn,
)
from .counters import Tally
from .dialog import Dialog, Retained
from .errors import LocalProtocolError, RemoteProtocolError
from .exchange import ExchangeInput
from .headers import Headers
from .identity import Identity
from .message import Request, Response
from .requests import Requests
from .responses import Responses
from .session_timer import TimerInput
from .transaction import Flow, Transactions, cancel_for

__all__ = ["TARGET_REFRESHERS", "Calls", "allows_update"]

# Those that tell where the peer is now; RFC 6665 section 4.4.1 has NOTIFY among them.
TARGET_REFRESHERS = frozenset({"REFER", "NOTIFY", "SUBSCRIBE", "UPDATE"})
# Final responses to the INVITE that waits, as rows want them.
_REFUSALS: Mapping[Do, int] = {Do.SEND_480: 480, Do.SEND_487: 487, Do.SEND_504: 504}


class Calls:
    """Every call that has not ended, and what waits in it.

    by_key  by our tag, which is what requests within the dialog find it by
    events  what happened, for the host
    """

    def __init__(
        self,
        *,
        identity: Identity,
        transactions: Transactions,
        requests: Requests,
        responses: Responses,
        tally: Tally,
    ) -> None:
        self.by_key: dict[str, Call] = {}
        self.events: deque[Event] = deque()
        self._identity = identity
        self._transactions = transactions
        self._requests = requests
        self._responses = responses
        self._tally = tally
        # The dialogs that subscriptions use, by our tag.
        self._retained: dict[str, Retained] = {}
        # Requests that wait for their response: of the peers', and of ours with the key of their call, by their own.
        self._serving: dict[str, Serving] = {}
        self._asking: dict[str, str | None] = {}

    @property
    def dialogs(self) -> int:
        """How many dialogs there are: of calls, of those that wait for the response to their BYE, and retained ones."""
        return len(self.by_key.keys() | self._retained.keys())

    def tell(self, event: Event) -> None:
        """Have the host hear of `event`."""
        self.events.append(event)

    # Which one.

    def get(self, key: str) -> Call | None:
        """The call, whatever its state; None if there is none."""
        return self.by_key.get(key)

    def call(self, key: str) -> Call:
        """A call that has not ended. Raises LocalProtocolError if there is none."""
        call = self.by_key.get(key)
        if call is None or call.state is CallState.ENDING:
            raise LocalProtocolError(f"no such call, or it has ended: {key}")
        return call

    def within(self, request: Request) -> Call | None:
        """The call whose dialog `request` belongs to."""
        call = self.by_key.get(request.to.tag)
        dialog = None if call is None else call.dialog_of(request.from_.tag)
        return call if dialog is not None and dialog.matches(request) else None

    def dialog(self, key: str) -> tuple[Dialog, str]:
        """The dialog of a call, or a retained one, and our Contact in it. Raises LocalProtocolError."""
        retained = self._retained.get(key)
        if retained is not None:
            return retained.dialog, retained.contact
        call = self.call(key)
        if call.dialog is None:
            raise LocalProtocolError(f"no dialog yet: {key}")
        return call.dialog, call.contact

    def retained(self, request: Request) -> Dialog | None:
        """The dialog retained for subscriptions that `request` belongs to."""
        retained = self._retained.get(request.to.tag) if request.method in TARGET_REFRESHERS else None
        return retained.dialog if retained is not None and retained.dialog.matches(request) else None

    def use(self, flow: Flow) -> bool:
        """Whether requests within a dialog go along `flow`, or the INVITE of a call does."""
        return any(flow in (call.source, call.dialog and call.dialog.flow) for call in self.by_key.values()) or any(
            flow == retained.dialog.flow for retained in self._retained.values()
        )

    # The table.

    def begin(
        self,
        key: str,
        state: CallState,
        flow: Flow,
        now: float,
        ring_timeout_s: float | None,
        *,
        secure: bool,
    ) -> Call:
        """A call begins, in `state`; `flow` is that of its INVITE, which `secure` wants a sips Contact."""
        call = self.by_key[key] = Call(
            key=key,
            state=state,
            source=flow,
            contact=self._identity.contact(flow, secure=secure),
            schedule=self._transactions.schedule,
            timers=self._transactions.timers,
            now=now,
            ring_timeout_s=ring_timeout_s,
        )
        self._tally.calls += 1
        return call

    def leave(self, now: float, key: str, verb: CallInput, farewell: Content) -> None:
        """The host wants BYE or CANCEL. See `Agent.bye` and `Agent.cancel`."""
        call = self.call(key)
        call.require(verb)
        call.farewell = farewell.headers
        self.step(call, verb, now)

    def step(
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
                    self._requests.send_ack(call.owing.transaction, call.owing.dialog, NO_CONTENT)
            elif do is Do.SEND_CANCEL:
                if call.invite is not None:
                    call.invite.hurry(now)
                    cancel = cancel_for(call.invite.request)
                    fields = (*cancel.headers, *self._identity.client_fields, *call.farewell)
                    cancel = Request(method="CANCEL", uri=cancel.uri, headers=Headers(fields))
                    self._requests.send(cancel, call.invite.flow, call.key, now, fixed=True)
            elif do is Do.SEND_BYE:
                assert call.dialog is not None, call.state
                headers = (*self._identity.client_fields, *call.farewell)
                self._requests.within(call.dialog, "BYE", call.key, now, headers=headers)
            elif do is Do.TELL_ENDED:
                assert call.cause is not None, call.state
                self._tally.calls -= 1
                self._abandon(call, now)
                self.tell(Ended(call=call.key, cause=call.cause, status=status, reason=reason))
            elif do is Do.TELL_WITHDRAWN:
                self.tell(Withdrawn(call=call.key))
        if call.state is CallState.ENDED:
            del self.by_key[call.key]
        return todo

    def _terminate(self, call: Call, status: int, now: float) -> None:
        if call.server is not None and call.offer is not None:
            self._responses.respond(call.server, call.offer, status, now)
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
        for serving in tuple(call.serving.values()):
            # RFC 3261 section 15.1.2.
            self.settle(serving, 487, now)
        if call.key in self._retained:
            # What was asked in the dialog is still answered there.
            return
        for key in call.asking:
            del self._asking[key]
            self.tell(Responded(request=key, call=call.key, seq=None, response=None))
        call.asking.clear()

    # Requests that wait.

    def serve(self, request: Request, source: Flow, reply: Flow, call: str | None, to_tag: str, now: float) -> Serving:
        """Begin to serve a request that may wait for the host; `call` is the key of its call, or dialog, if any."""
        key = self._identity.token()
        transaction = self._transactions.serve(request, reply, to_tag, now)
        expire_at = now + self._transactions.timers.patience / 2
        serving = self._serving[key] = Serving(
            key=key,
            call=call,
            request=request,
            source=source,
            transaction=transaction,
            schedule=self._transactions.schedule,
            expire_at=expire_at,
        )
        begun = self.by_key.get(call or "")
        if begun is not None:
            begun.serving[key] = serving
        return serving

    def served(self, request: str) -> Serving:
        """The request that waits by that key. Raises LocalProtocolError if it waits no more."""
        serving = self._serving.get(request)
        if serving is None:
            raise LocalProtocolError(f"no such request, or it has been answered: {request}")
        return serving

    def settle(
        self,
        serving: Serving,
        status: int,
        now: float,
        *,
        reason: str | None = None,
        content: Content = NO_CONTENT,
    ) -> None:
        """Respond to a request that waits."""
        fields = content.headers
        if serving.request.method in TARGET_REFRESHERS and status < 300:
            contact = self._identity.contact(serving.source) if serving.call is None else self.dialog(serving.call)[1]
            fields = (("Contact", contact), *fields)
        self._responses.respond(
            serving.transaction,
            serving.request,
            status,
            now,
            reason=reason,
            headers=fields,
            body=content.body,
            content_type=content.content_type or None,
        )
        serving.settled()
        del self._serving[serving.key]
        call = self.by_key.get(serving.call or "")
        if call is not None:
            call.serving.pop(serving.key, None)

    def ask(self, key: str, call: str | None) -> None:
        """A request of the host's has gone out; `call` is the key of its call, or dialog, if any."""
        self._asking[key] = call
        begun = self.by_key.get(call or "")
        if begun is not None:
            begun.asking[key] = None

    def responded(self, key: str, seq: int, response: Response | None) -> Call | None:
        """Tell the host what came of its request, if that waits still; returns the call that this was part of."""
        if key not in self._asking:
            return None
        user = self._asking.pop(key)
        self.tell(Responded(request=key, call=user, seq=seq, response=response))
        call = self.by_key.get(user or "")
        if call is not None:
            call.asking.pop(key, None)
        return call

    # Dialogs that outlive their calls.

    def retain(self, call: str) -> None:
        """See `Agent.retain`."""
        dialog, contact = self.dialog(call)
        retained = self._retained.setdefault(call, Retained(dialog=dialog, contact=contact))
        retained.users += 1

    def retain_outside(self, request: str) -> str:
        """See `Agent.retain_outside`."""
        serving = self._serving.get(request)
        if serving is None or serving.call is not None:
            raise LocalProtocolError(f"no such request outside of calls, or it has been answered: {request}")
        key = serving.call = serving.transaction.to_tag
        dialog = Dialog.served(serving.request, key, serving.source)
        self._retained[key] = Retained(dialog=dialog, contact=self._identity.contact(serving.source), users=1)
        return key

    def relinquish(self, call: str) -> None:
        """See `Agent.relinquish`."""
        retained = self._retained[call]
        retained.users -= 1
        if not retained.users:
            del self._retained[call]


def allows_update(message: Request | Response) -> bool:
    """Whether it says in Allow that its sender takes UPDATE (RFC 3311 section 4)."""
    try:
        return "UPDATE" in message.headers.get_all("Allow")
    except RemoteProtocolError:
        # Nobody can tell what it allows.
        return False
