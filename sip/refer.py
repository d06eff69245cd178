"""REFER (RFC 3515): transfers of ours, and those that a peer asks us for, each as one table.

    transfer = Transfer(agent, call, target, now=now)      we ask the peer of `call` to call `target`
    referral = Referral.open(agent, requested, now)        a peer asks us: then accept or decline, progress, finish

    each.receive(event, now)       every event of the agent; True if it is for nobody else
    each.handle_timer(now)         when each.wake_at() says so
    each.next_event()              what happened, until None

The subscription that comes with a REFER keeps its dialog, so that either side may say BYE at any time (RFC 5057). The
host serves NOTIFY within calls for the ones, REFER for the others: `Agent(serve_within=...)`.
"""

from __future__ import annotations

import abc
import enum
import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from .agent import Agent
from .call import Ended, Event, Requested, Responded
from .errors import LocalProtocolError, RemoteProtocolError
from .headers import Headers, NameAddr, Parameterised
from .message import REASONS, Request
from .replaces import Replaces
from .uri import Uri

__all__ = [
    "REFERRAL_DEADLINES",
    "REFERRAL_ROWS",
    "TRANSFER_DEADLINES",
    "TRANSFER_ROWS",
    "Outcome",
    "ReferOrder",
    "Referral",
    "ReferralDeadline",
    "ReferralDo",
    "ReferralDone",
    "ReferralInput",
    "ReferralState",
    "Transfer",
    "TransferDeadline",
    "TransferInput",
    "TransferState",
    "Transferred",
    "refer_to_peer_of",
    "sipfrag_status",
]

SIPFRAG = "message/sipfrag"
_SIPFRAG_SENT = "message/sipfrag;version=2.0"
_STATUS_LINE = re.compile(rb"\s*SIP/2\.0[ \t]+([1-6][0-9]{2})(?:[ \t]+([^\r\n]*))?", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
# RFC 3261 section 19.1.5: a URI must not make us send what only we can know. So these may stand in one, and X-fields.
_PASSED_ON = frozenset({"subject", "priority", "user-to-user"})
E = TypeVar("E")
S = TypeVar("S", bound=enum.Enum)
I = TypeVar("I", bound=enum.Enum)  # noqa: E741  input
D = TypeVar("D", bound=enum.Enum)
A = TypeVar("A", bound=enum.Enum)


def sipfrag_status(body: bytes) -> tuple[int, str] | None:
    """Status and reason that a message/sipfrag begins with (RFC 3420 section 2); None if it begins otherwise."""
    match = _STATUS_LINE.match(body)
    return None if match is None else (int(match[1]), (match[2] or b"").decode("utf-8", "replace").strip())


def refer_to_peer_of(agent: Agent, call: str) -> NameAddr:
    """The target of an attended transfer: the peer of `call`, who is to be called in our place (RFC 5589 section 7)."""
    dialog = agent.dialog(call)
    replaces = str(Replaces.at_peer(dialog))
    parameters = dialog.target.parameters.without("method")
    headers = (("Replaces", replaces), ("Require", "replaces"))
    return NameAddr(uri=replace(dialog.target, parameters=parameters, headers=headers))


class _Machine(abc.ABC, Generic[S, I, D, A, E]):
    """A state, its deadlines, and the events that came of it."""

    ROWS: Mapping[tuple[S, I | D], tuple[S, tuple[A, ...]]]
    DEADLINES: Mapping[S, frozenset[D]]
    state: S

    def __init__(self) -> None:
        self._deadlines: dict[D, float] = {}
        self._events: deque[E] = deque()

    def wake_at(self) -> float | None:
        """When `handle_timer` wants to be called; None if nothing is waited for."""
        return min(self._deadlines.values(), default=None)

    def next_event(self) -> E | None:
        """The next thing that happened, None if that was all."""
        return self._events.popleft() if self._events else None

    def _due(self, now: float) -> D | None:
        at = self.wake_at()
        return None if at is None or at > now else min(self._deadlines, key=self._deadlines.__getitem__)

    def _allows(self, happening: I) -> bool:
        return (self.state, happening) in self.ROWS

    def _take(self, happening: I | D, now: float) -> tuple[A, ...]:
        self.state, todo = self.ROWS[self.state, happening]
        # A deadline that is in two states runs on from the one to the other, unless it has just gone off.
        running = {deadline: at for deadline, at in self._deadlines.items() if deadline is not happening}
        self._deadlines = {
            deadline: running[deadline] if deadline in running else now + self._span(deadline)
            for deadline in self.DEADLINES.get(self.state, ())
        }
        return todo

    @abc.abstractmethod
    def _span(self, deadline: D) -> float:
        """Seconds that a deadline is ahead when its state is entered."""


# --- Ours


class Outcome(enum.Enum):
    """What has become of a transfer."""

    SUCCEEDED = "the target has answered: our call with the peer has served its purpose"
    FAILED = "it has come to nothing: our call goes on as it was"
    UNKNOWN = "nobody has said"


@dataclass(frozen=True, slots=True, kw_only=True)
class Transferred:
    """The only event of a transfer: it is over.

    status  the final one: of the target's, told by NOTIFY, or of the peer's to our REFER; None if there was none
    reason  its phrase, or why there was none
    """

    call: str
    outcome: Outcome
    status: int | None
    reason: str


class TransferState(enum.Enum):
    """Where a transfer of ours stands."""

    REFERRING = "our REFER waits for its response"
    WAITING = "it has been accepted, and the outcome is to come by NOTIFY"
    PARTING = "the call has ended before the outcome came"
    DONE = "over"


class TransferInput(enum.Enum):
    """What the peer says."""

    ACCEPTED = "2xx to the REFER"
    UNOBSERVED = "2xx with Refer-Sub: false, as we wished"
    REFUSED = "any other response, or none"
    PROGRESS = "NOTIFY without a final status, and more will come"
    SUCCESS = "NOTIFY of a 2xx"
    FAILURE = "NOTIFY of another final status"
    CLOSED = "NOTIFY that is the last one, without a final status"
    LEFT = "the call has ended"


class TransferDeadline(enum.Enum):
    """How long a transfer is waited for."""

    OUTCOME = "the NOTIFY of a final status"
    LAST_WORD = "a NOTIFY that was on the way when the peer said BYE"


class TransferDo(enum.Enum):
    """What a row brings about."""

    TELL = enum.auto()


_TS, _TI, _TD = TransferState, TransferInput, TransferDeadline
_TELL = (TransferDo.TELL,)

TRANSFER_ROWS: Mapping[
    tuple[TransferState, TransferInput | TransferDeadline], tuple[TransferState, tuple[TransferDo, ...]]
] = {
    (_TS.REFERRING, _TI.ACCEPTED): (_TS.WAITING, ()),
    (_TS.REFERRING, _TI.LEFT): (_TS.PARTING, ()),
    (_TS.WAITING, _TI.LEFT): (_TS.PARTING, ()),
    (_TS.PARTING, _TI.ACCEPTED): (_TS.PARTING, ()),
    **{
        (waiting, happening): row
        # RFC 3515 section 2.4.4: a NOTIFY may be quicker than the response to the REFER.
        for waiting in (_TS.REFERRING, _TS.WAITING, _TS.PARTING)
        for happening, row in {
            _TI.PROGRESS: (waiting, ()),
            _TI.SUCCESS: (_TS.DONE, _TELL),
            _TI.FAILURE: (_TS.DONE, _TELL),
            _TI.CLOSED: (_TS.DONE, _TELL),
        }.items()
    },
    **{
        (referring, happening): (_TS.DONE, _TELL)
        for referring in (_TS.REFERRING, _TS.PARTING)
        for happening in (_TI.REFUSED, _TI.UNOBSERVED)
    },
    (_TS.WAITING, _TD.OUTCOME): (_TS.DONE, _TELL),
    (_TS.PARTING, _TD.LAST_WORD): (_TS.DONE, _TELL),
}
TRANSFER_DEADLINES: Mapping[TransferState, frozenset[TransferDeadline]] = {
    _TS.WAITING: frozenset({_TD.OUTCOME}),
    _TS.PARTING: frozenset({_TD.LAST_WORD}),
}
_OUTCOMES: Mapping[TransferInput | TransferDeadline, Outcome] = {
    _TI.SUCCESS: Outcome.SUCCEEDED,
    _TI.FAILURE: Outcome.FAILED,
    _TI.CLOSED: Outcome.FAILED,
    _TI.REFUSED: Outcome.FAILED,
    _TI.UNOBSERVED: Outcome.UNKNOWN,
    _TD.OUTCOME: Outcome.UNKNOWN,
    _TD.LAST_WORD: Outcome.UNKNOWN,
}


class Transfer(_Machine[TransferState, TransferInput, TransferDeadline, TransferDo, Transferred]):
    """The transfer of a call's peer to somebody else: blind to any address, attended with `refer_to_peer_of`.

    It sends its REFER when it is made. The call stays: hang up when Transferred says that it succeeded.
    """

    ROWS = TRANSFER_ROWS
    DEADLINES = TRANSFER_DEADLINES

    def __init__(
        self,
        agent: Agent,
        call: str,
        target: NameAddr,
        *,
        now: float,
        observed: bool = True,
        outcome_within_s: float = 15.0,
        last_word_within_s: float = 1.0,
    ) -> None:
        """Refer the peer of `call` to `target`.

        observed            False to ask for no NOTIFY (RFC 4488): the outcome of an accepted transfer is then unknown
        outcome_within_s    how long after the REFER was accepted the outcome may take to come
        last_word_within_s  the same once the call has ended

        Raises LocalProtocolError if the call has no dialog.
        """
        super().__init__()
        self.state = TransferState.REFERRING
        self._agent = agent
        self._call = call
        self._outcome_within_s = outcome_within_s
        self._last_word_within_s = last_word_within_s
        self._observed = observed
        self._dialog = agent.dialog(call)
        us = NameAddr.parse(self._dialog.local)
        fields = [("Refer-To", str(target)), ("Referred-By", str(NameAddr(uri=us.uri, display_name=us.display_name)))]
        if not observed:
            fields.append(("Refer-Sub", "false"))
        self._request = agent.request_within(now, call, "REFER", headers=fields)
        agent.retain(call)
        # The numbers that our REFER may have, until it is known which of its tries was taken.
        self._first_seq = self._dialog.local_seq
        self._seq: int | None = None

    def receive(self, event: Event, now: float) -> bool:
        """Take an event of the agent's; True if it was for this transfer alone."""
        if isinstance(event, Responded) and event.request == self._request:
            self._seq = event.seq
            response = event.response
            if response is None:
                self._step(TransferInput.REFUSED, now, 408, "Request Timeout")
            elif response.status >= 300:
                self._step(TransferInput.REFUSED, now, response.status, response.reason)
            elif not self._observed and (response.headers.get("Refer-Sub") or "").strip().lower() == "false":
                # RFC 4488 section 4: only if the peer says so too.
                self._step(TransferInput.UNOBSERVED, now, None, "Nobody Was to Be Told")
            else:
                self._step(TransferInput.ACCEPTED, now)
            return True
        if isinstance(event, Requested) and event.message.method == "NOTIFY" and self._concerns(event):
            self._notified(event, now)
            return True
        if isinstance(event, Ended) and event.call == self._call:
            self._step(TransferInput.LEFT, now)
        return False

    def handle_timer(self, now: float) -> None:
        """Do what is due by `now`."""
        while (due := self._due(now)) is not None:
            self._step(due, now, None, "Outcome Not Told in Time")

    def _concerns(self, event: Requested) -> bool:
        if event.call != self._call or self.state is TransferState.DONE:
            return False
        try:
            package = Parameterised.parse(event.message.headers.get("Event") or "", "Event")
        except RemoteProtocolError:
            return False
        if package.value.lower() != "refer":
            return False
        number = package.parameters.value("id")
        if not number:
            # RFC 3515 section 2.4.6: it need not be there while there is one REFER only.
            return True
        if self._seq is not None:
            return number == str(self._seq)
        return number in map(str, range(self._first_seq, self._dialog.local_seq + 1))

    def _notified(self, event: Requested, now: float) -> None:
        message = event.message
        told = sipfrag_status(message.body) if message.content_type == SIPFRAG else None
        try:
            subscription = Parameterised.parse(message.headers.get("Subscription-State") or "", "Subscription-State")
        except RemoteProtocolError:
            # RFC 6665 section 8.2.3 has it in every NOTIFY.
            self._agent.respond(now, event.request, 400, reason="Missing Subscription-State")
            return
        self._agent.respond(now, event.request, 200)
        if told is not None and told[0] >= 200:
            happening = TransferInput.SUCCESS if told[0] < 300 else TransferInput.FAILURE
            self._step(happening, now, *told)
        elif subscription.value.lower() == "terminated":
            self._step(TransferInput.CLOSED, now, None, subscription.parameters.value("reason"))
        else:
            self._step(TransferInput.PROGRESS, now)

    def _step(
        self, happening: TransferInput | TransferDeadline, now: float, status: int | None = None, reason: str = ""
    ) -> None:
        if (self.state, happening) not in TRANSFER_ROWS:
            # The call ends, or the response to the REFER comes, when all has been said.
            return
        left = self.state is TransferState.PARTING
        if TransferDo.TELL in self._take(happening, now):
            self._agent.relinquish(self._call)
            outcome = _OUTCOMES[happening]
            if left and happening is TransferInput.REFUSED and status in (408, 481):
                # The peer may have forgotten the call because it has done what it was asked.
                outcome = Outcome.UNKNOWN
            self._events.append(Transferred(call=self._call, outcome=outcome, status=status, reason=reason))

    def _span(self, deadline: TransferDeadline) -> float:
        return self._outcome_within_s if deadline is TransferDeadline.OUTCOME else self._last_word_within_s


# --- The peer's


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferOrder:
    """What a REFER asks for: an INVITE.

    target        whom to call, ready to be a Request-URI
    headers       the header fields of the Refer-To URI that may go into the INVITE, or be obeyed: X-Speak ...
    replaces      value of the INVITE's Replaces; "" for none
    required      whether the INVITE is to require that Replaces be understood
    referred_by   value of the INVITE's Referred-By (RFC 3892); "" for none
    subscription  whether the peer wants to be told what comes of it
    """

    target: Uri
    headers: Headers
    replaces: str = ""
    required: bool = False
    referred_by: str = ""
    subscription: bool = True

    @classmethod
    def read(cls, request: Request) -> ReferOrder:
        """Raises RemoteProtocolError: what the REFER deserves."""
        values = request.headers.get_all("Refer-To")
        if len(values) != 1:
            # RFC 3515 section 2.4.2.
            raise RemoteProtocolError("Not Exactly One Refer-To")
        uri = NameAddr.parse(values[0], "Refer-To").uri
        if uri.scheme not in ("sip", "sips"):
            raise RemoteProtocolError("Unsupported URI Scheme in Refer-To", status=416)
        if uri.parameters.value("method").upper() not in ("", "INVITE"):
            raise RemoteProtocolError("Only an INVITE Can Be Referred to", status=403)
        if any(_CONTROL.search(value) for _, value in uri.headers):
            raise RemoteProtocolError("Bad Refer-To: control character")
        try:
            fields = Headers(uri.headers)
        except LocalProtocolError as error:
            raise RemoteProtocolError("Bad Refer-To: not a header name") from error
        replaces = fields.get_all("Replaces")
        if len(replaces) > 1:
            raise RemoteProtocolError("Bad Refer-To: more than one Replaces")
        for value in replaces:
            Replaces.parse(value)
        referred_by = request.headers.get("Referred-By") or ""
        if referred_by:
            NameAddr.parse(referred_by, "Referred-By")
        subscription = (request.headers.get("Refer-Sub") or "true").partition(";")[0].strip().lower()
        if subscription not in ("true", "false"):
            raise RemoteProtocolError("Bad Refer-Sub")
        return cls(
            target=replace(uri, parameters=uri.parameters.without("method"), headers=()),
            headers=Headers(field for field in fields if _passed_on(field[0])),
            replaces=replaces[0] if replaces else "",
            required="replaces" in map(str.lower, fields.get_all("Require")),
            referred_by=referred_by,
            subscription=subscription == "true",
        )

    def fields(self) -> tuple[tuple[str, str], ...]:
        """What the INVITE has beside `headers`."""
        fields = (("Referred-By", self.referred_by), ("Replaces", self.replaces))
        required = (("Require", "replaces"),) if self.required and self.replaces else ()
        return (*(field for field in fields if field[1]), *required)


def _passed_on(name: str) -> bool:
    return name.lower().startswith("x-") or name.lower() in _PASSED_ON


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferralDone:
    """The only event of a referral that was accepted: nothing more will be sent, and BYE harms nobody.

    told  whether the peer has confirmed the last NOTIFY
    """

    told: bool


class ReferralState(enum.Enum):
    """Where a peer's REFER stands."""

    ASKED = "it waits for us"
    NOTIFYING = "accepted, and a NOTIFY waits for its response"
    BEHIND = "as NOTIFYING, and there is news"
    CLOSING = "as NOTIFYING, and the outcome is there"
    QUIET = "accepted, and the peer knows all that we do"
    FINISHING = "the last NOTIFY waits for its response"
    UNOBSERVED = "accepted, and the peer does not want to know"
    DONE = "over"


class ReferralInput(enum.Enum):
    """What the host says, and how the NOTIFYs went."""

    ACCEPT = "accept"
    ACCEPT_UNOBSERVED = "accept without a subscription"
    DECLINE = "decline"
    PROGRESS = "progress"
    FINISH = "finish"
    HEARD = "2xx to a NOTIFY"
    UNHEARD = "any other response to a NOTIFY, or none"
    LEFT = "the call has ended"


class ReferralDeadline(enum.Enum):
    """What a subscription waits for."""

    RENEW = "tell it once more before it expires: the expires of a NOTIFY counts (RFC 6665 section 4.1.3)"


class ReferralDo(enum.Enum):
    """What a row brings about."""

    SEND_202 = enum.auto()
    SEND_NOTIFY = enum.auto()
    SEND_LAST = enum.auto()
    SEND_DECLINE = enum.auto()
    RELEASE = enum.auto()
    TELL_DONE = enum.auto()


_RS, _RI, _RD, _Do = ReferralState, ReferralInput, ReferralDeadline, ReferralDo

REFERRAL_ROWS: Mapping[
    tuple[ReferralState, ReferralInput | ReferralDeadline], tuple[ReferralState, tuple[ReferralDo, ...]]
] = {
    # RFC 3515 section 2.4.4: a NOTIFY at once.
    (_RS.ASKED, _RI.ACCEPT): (_RS.NOTIFYING, (_Do.SEND_202, _Do.SEND_NOTIFY)),
    # RFC 4488 section 4.
    (_RS.ASKED, _RI.ACCEPT_UNOBSERVED): (_RS.UNOBSERVED, (_Do.SEND_202,)),
    (_RS.ASKED, _RI.DECLINE): (_RS.DONE, (_Do.SEND_DECLINE,)),
    (_RS.ASKED, _RI.LEFT): (_RS.DONE, ()),
    # One NOTIFY at a time: two that overtake one another would cost the news with the lower CSeq.
    (_RS.NOTIFYING, _RI.PROGRESS): (_RS.BEHIND, ()),
    (_RS.NOTIFYING, _RI.FINISH): (_RS.CLOSING, ()),
    (_RS.NOTIFYING, _RI.HEARD): (_RS.QUIET, ()),
    (_RS.BEHIND, _RI.PROGRESS): (_RS.BEHIND, ()),
    (_RS.BEHIND, _RI.FINISH): (_RS.CLOSING, ()),
    (_RS.BEHIND, _RI.HEARD): (_RS.NOTIFYING, (_Do.SEND_NOTIFY,)),
    (_RS.CLOSING, _RI.HEARD): (_RS.FINISHING, (_Do.SEND_LAST,)),
    (_RS.QUIET, _RI.PROGRESS): (_RS.NOTIFYING, (_Do.SEND_NOTIFY,)),
    (_RS.QUIET, _RI.FINISH): (_RS.FINISHING, (_Do.SEND_LAST,)),
    (_RS.QUIET, _RD.RENEW): (_RS.NOTIFYING, (_Do.SEND_NOTIFY,)),
    # RFC 6665 section 4.2.2: a NOTIFY that fails ends the subscription, and nothing else (RFC 5057 section 5.1).
    (_RS.NOTIFYING, _RI.UNHEARD): (_RS.UNOBSERVED, (_Do.RELEASE,)),
    (_RS.BEHIND, _RI.UNHEARD): (_RS.UNOBSERVED, (_Do.RELEASE,)),
    (_RS.CLOSING, _RI.UNHEARD): (_RS.DONE, (_Do.RELEASE, _Do.TELL_DONE)),
    (_RS.FINISHING, _RI.UNHEARD): (_RS.DONE, (_Do.RELEASE, _Do.TELL_DONE)),
    (_RS.FINISHING, _RI.HEARD): (_RS.DONE, (_Do.RELEASE, _Do.TELL_DONE)),
    (_RS.UNOBSERVED, _RI.PROGRESS): (_RS.UNOBSERVED, ()),
    (_RS.UNOBSERVED, _RI.FINISH): (_RS.DONE, (_Do.TELL_DONE,)),
}
REFERRAL_DEADLINES: Mapping[ReferralState, frozenset[ReferralDeadline]] = {_RS.QUIET: frozenset({_RD.RENEW})}


class Referral(_Machine[ReferralState, ReferralInput, ReferralDeadline, ReferralDo, ReferralDone]):
    """A REFER of a peer's: `accept` or `decline` it, place the call, and tell how that goes.

    order  what is asked for
    call   the call that it came in, or what stands for one once it has been accepted; None until then
    flow   its `remote` is where it came from
    user   who has proved to have sent it; "" where nobody had to
    """

    ROWS = REFERRAL_ROWS
    DEADLINES = REFERRAL_DEADLINES

    def __init__(self, agent: Agent, requested: Requested, order: ReferOrder, *, expires_s: int = 60) -> None:
        """See `open`."""
        super().__init__()
        self.state = ReferralState.ASKED
        self.order = order
        self.call = requested.call
        self.flow = requested.flow
        self.user = requested.user
        self._agent = agent
        self._asked = requested
        self._expires_s = expires_s
        self._event = "refer"
        self._latest = (100, REASONS[100])
        self._refusal: tuple[int, str, tuple[tuple[str, str], ...]] = (603, "", ())
        self._notify = ""

    @classmethod
    def open(cls, agent: Agent, requested: Requested, now: float, *, expires_s: int = 60) -> Referral | None:
        """The referral that a REFER asks for; None if it is malformed, and has been answered.

        expires_s  how long its subscription lasts from one NOTIFY to the next
        """
        try:
            return cls(agent, requested, ReferOrder.read(requested.message), expires_s=expires_s)
        except RemoteProtocolError as error:
            agent.respond(now, requested.request, error.status, reason=error.reason, headers=error.headers)
            return None

    # The verbs of the host. Each raises LocalProtocolError if it is not its turn.

    def accept(self, now: float) -> None:
        """Answer 202, and tell the peer at once that it is being tried."""
        happening = ReferralInput.ACCEPT if self.order.subscription else ReferralInput.ACCEPT_UNOBSERVED
        self._step(happening, now)

    def decline(
        self, now: float, *, status: int = 603, reason: str = "", headers: tuple[tuple[str, str], ...] = ()
    ) -> None:
        """Refuse: 300 to 699. The call goes on as it was."""
        if not 300 <= status < 700:
            raise LocalProtocolError(f"{status} does not refuse a transfer")
        self._refusal = (status, reason, headers)
        self._step(ReferralInput.DECLINE, now)

    def progress(self, now: float, status: int, reason: str) -> None:
        """The target rings, or whatever else its 1xx says."""
        if not 100 <= status < 200:
            raise LocalProtocolError(f"{status} is no progress")
        self._require(ReferralInput.PROGRESS)
        self._latest = (status, reason)
        self._step(ReferralInput.PROGRESS, now)

    def finish(self, now: float, status: int, reason: str) -> None:
        """The target has answered, or refused: its final status. ReferralDone comes when the peer knows."""
        if not 200 <= status < 700:
            raise LocalProtocolError(f"{status} is no outcome")
        self._require(ReferralInput.FINISH)
        self._latest = (status, reason)
        self._step(ReferralInput.FINISH, now)

    def receive(self, event: Event, now: float) -> bool:
        """Take an event of the agent's; True if it was for this referral alone."""
        if isinstance(event, Responded) and event.request == self._notify:
            heard = event.response is not None and event.response.status < 300
            self._step(ReferralInput.HEARD if heard else ReferralInput.UNHEARD, now)
            return True
        if isinstance(event, Ended) and event.call == self.call and self._allows(ReferralInput.LEFT):
            self._step(ReferralInput.LEFT, now)
        return False

    def handle_timer(self, now: float) -> None:
        """Do what is due by `now`."""
        while (due := self._due(now)) is not None:
            self._step(due, now)

    def _require(self, happening: ReferralInput | ReferralDeadline) -> None:
        if (self.state, happening) not in REFERRAL_ROWS:
            raise LocalProtocolError(f"cannot {happening.value} when {self.state.value}")

    def _step(self, happening: ReferralInput | ReferralDeadline, now: float) -> None:
        self._require(happening)
        try:
            for do in self._take(happening, now):
                self._do(do, happening, now)
        except LocalProtocolError:
            # The REFER has waited too long, and has been answered for us.
            self.state, self._deadlines = ReferralState.DONE, {}
            raise

    def _do(self, do: ReferralDo, happening: ReferralInput | ReferralDeadline, now: float) -> None:
        if do is ReferralDo.SEND_202:
            self._accept(now)
        elif do is ReferralDo.SEND_DECLINE:
            status, reason, headers = self._refusal
            self._agent.respond(now, self._asked.request, status, reason=reason or None, headers=headers)
        elif do is ReferralDo.SEND_NOTIFY:
            self._send(f"active;expires={self._expires_s}", now)
        elif do is ReferralDo.SEND_LAST:
            # RFC 3515 section 2.4.7.
            self._send("terminated;reason=noresource", now)
        elif do is ReferralDo.RELEASE:
            self._agent.relinquish(self._key())
        else:
            self._events.append(ReferralDone(told=happening is ReferralInput.HEARD))

    def _accept(self, now: float) -> None:
        asked = self._asked
        if not self.order.subscription:
            self._agent.respond(now, asked.request, 202, headers=(("Refer-Sub", "false"),))
            return
        if asked.call is None:
            self.call = self._agent.retain_outside(asked.request)
        else:
            self._agent.retain(asked.call)
        try:
            self._agent.respond(now, asked.request, 202)
        except LocalProtocolError:
            self._agent.relinquish(self._key())
            raise
        dialog = self._agent.dialog(self._key())
        if dialog.refers:
            # RFC 3515 section 2.4.6: what is about a later REFER in the same dialog says which.
            self._event = f"refer;id={asked.message.cseq.number}"
        dialog.refers += 1

    def _send(self, state: str, now: float) -> None:
        status, reason = self._latest
        fields = (("Event", self._event), ("Subscription-State", state))
        body = f"SIP/2.0 {status} {reason}\r\n".encode()
        self._notify = self._agent.request_within(
            now, self._key(), "NOTIFY", headers=fields, body=body, content_type=_SIPFRAG_SENT
        )

    def _key(self) -> str:
        assert self.call is not None, "an accepted REFER is in a dialog"
        return self.call

    def _span(self, deadline: ReferralDeadline) -> float:
        return 0.75 * self._expires_s
