"""A call as a table: its states, what leads from one to another, what the host is told (RFC 3261 sections 13 to 15).

`CALL_ROWS` is the whole behaviour of a call of either direction; `Call` is one of them; the events are what the agent
hands to its host.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from .dialog import Dialog
from .errors import LocalProtocolError
from .exchange import Exchange
from .message import Request, Response
from .reliable import Reliable
from .session_timer import SessionTimer
from .transaction import ClientTransaction, Flow, Schedule, ServerTransaction, Timed, Timers

__all__ = [
    "CALL_DEADLINES",
    "CALL_ROWS",
    "NO_CONTENT",
    "Acknowledged",
    "Answered",
    "Call",
    "CallInput",
    "CallState",
    "Cause",
    "Change",
    "Confirmed",
    "Content",
    "Deadline",
    "Do",
    "Ended",
    "Event",
    "FlowFailed",
    "Offered",
    "Owing",
    "Progressed",
    "Refused",
    "Reoffered",
    "Requested",
    "Responded",
    "Serving",
    "Withdrawn",
]


class Cause(enum.Enum):
    """Why a call has ended."""

    LOCAL_BYE = "we hung up"
    REMOTE_BYE = "the peer hung up"
    LOCAL_REJECT = "we refused"
    REMOTE_REJECT = "the peer refused"
    LOCAL_CANCEL = "we gave up calling"
    REMOTE_CANCEL = "the peer gave up calling"
    NO_ANSWER = "nobody answered in time"
    NO_ACK = "the peer did not acknowledge our answer"
    LOST = "the peer does not respond, or knows the call no more"
    NO_PRACK = "the peer did not acknowledge that it rings"
    EXPIRED = "the session was not refreshed in time"
    NO_SDP = "we left the peer's offer without an answer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Offered:
    """An INVITE came; `ring`, then `answer` or `reject` it. Without a body, the answer carries the offer.

    request   has `received` and `rport` filled in
    flow      its `remote` is where it came from
    user      who has proved to have sent it; "" where nobody had to
    replaces  the call whose place it takes once it is answered, which ends that one (RFC 3891); None if it is new
    """

    call: str
    request: Request
    flow: Flow
    user: str = ""
    replaces: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmed:
    """The ACK to our 2xx came, or a re-INVITE that shows that the 2xx arrived (RFC 5407 section 3.1.5).

    body  the peer's answer if the INVITE had no offer, else mostly empty; `content_type` is "" without one
    """

    call: str
    body: bytes
    content_type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledged:
    """The PRACK to a reliable provisional response of ours came (RFC 3262).

    body  the peer's answer if that response made the offer, else mostly empty; `content_type` is "" without one
    """

    call: str
    body: bytes
    content_type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Progressed:
    """A provisional response but for 100 came, once even if it was sent reliably; early media may follow (183).

    response  of the early dialog that its To tag tells: a forked INVITE has several, and media of the latest one count
    offer     whether its body is an offer, because our INVITE had none: `acknowledge` it with the answer
    """

    call: str
    response: Response
    offer: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A 2xx to our INVITE, `reoffer` or `update` came, which the method in the CSeq of the response tells.

    Its body is the answer, unless that came before, in a reliable provisional response (RFC 3262 section 5). It is told
    of a re-INVITE that only refreshes the session, too, if the peer answers with another description than before.

    offer  whether its body is an offer, because our INVITE had none: `acknowledge` it with the answer within 32*T1
    """

    call: str
    response: Response
    offer: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Reoffered:
    """A re-INVITE, or an UPDATE or PRACK with an offer, came; `answer` or `reject` it.

    The call goes on as it was until then, and after a `reject`. Without a body, the answer carries the offer. While a
    call is still to be answered its INVITE waits too: `answer(..., to=request)` then says which one is meant.
    """

    call: str
    request: Request


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdrawn:
    """The peer cancelled its re-INVITE, or its UPDATE has waited too long: nothing is to be answered any more."""

    call: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Our `reoffer` or `update` was refused, and the call goes on as it was.

    Not by 491, which means that the peer's crossed it: then it is sent again by itself (RFC 3261 section 14.1).
    """

    call: str
    response: Response


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The call is over: the last event of every call, once.

    status  of the response that ended it, None if none did
    reason  its phrase, or the Reason header field of the peer's BYE or CANCEL (RFC 3326), or ""
    """

    call: str
    cause: Cause
    status: int | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Requested:
    """A request came that the host has said it serves: INFO, MESSAGE, REFER ...; `respond` to it within 32*T1.

    request  its key
    call     the call whose dialog it belongs to, None if it is outside of any
    flow     its `remote` is where it came from
    user     who has proved to have sent it; "" where nobody had to, and within a call
    """

    request: str
    call: str | None
    message: Request
    flow: Flow
    user: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Responded:
    """The final response to a request of ours by `request` or `request_within` came; it comes once.

    It comes before Ended, unless the dialog is retained beyond the call.

    request   its key
    call      the call whose dialog it belongs to, None if it is outside of any
    seq       CSeq number of its last try, None if the call ended before a response came
    response  None if there was none, in time or before the call ended
    """

    request: str
    call: str | None
    seq: int | None
    response: Response | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowFailed:
    """A connection that `Agent.keep` was asked to keep could not be made, or is lost."""

    flow: Flow


Event = (
    FlowFailed
    | Offered
    | Acknowledged
    | Confirmed
    | Progressed
    | Answered
    | Reoffered
    | Withdrawn
    | Refused
    | Requested
    | Responded
    | Ended
)


class CallState(enum.Enum):
    """Where a call stands, seen from us."""

    OFFERED = "the peer's INVITE waits for our answer"
    ALERTED = "as OFFERED, and we have said that it rings"
    ANSWERING = "as ALERTED, and we accept as soon as the peer has acknowledged the media of its early dialog"
    ANSWERED = "we accepted an INVITE, and wait for the ACK"
    LEAVING = "as ANSWERED, but we want to hang up then"
    CALLING = "our INVITE has no response yet"
    RINGING = "our INVITE has a provisional response"
    GIVING_UP = "as CALLING, but we want to cancel"
    CANCELLED = "we have cancelled, and wait for the final response"
    CONFIRMED = "nothing is pending"
    REOFFERED = "the peer's re-INVITE waits for our answer"
    REOFFERING = "our re-INVITE waits for its answer"
    REFRESHING = "our re-INVITE that changes nothing waits for its answer"
    OWING = "the 2xx to our INVITE brought an offer, and the ACK waits for our answer"
    ENDING = "we have sent BYE, and wait for its response"
    ENDED = "over"


class CallInput(enum.Enum):
    """What the host asks for, in one word each, what the peer does, and how our BYE went."""

    RING = "ring"
    ANSWER = "answer"
    REJECT = "reject"
    BYE = "bye"
    CANCEL = "cancel"
    REOFFER = "reoffer"
    ACKNOWLEDGE = "acknowledge"
    HOLD = "answer before the PRACK"
    RELEASE = "PRACK that the answer waits for"
    REFRESH = "refresh"
    PEER_ACK = "ACK to our 2xx"
    PEER_BYE = "BYE"
    PEER_CANCEL = "CANCEL"
    PEER_INVITE = "INVITE within the dialog"
    PEER_PROGRESS = "1xx to our INVITE"
    PEER_ACCEPTS = "2xx to our INVITE"
    PEER_OFFERS = "2xx to our INVITE that had no offer, with one"
    PEER_REFUSES = "3xx-6xx to our INVITE"
    PEER_CHALLENGES = "401, 407 or 422 to our INVITE, which we can answer"
    FAIL_OVER = "send our INVITE to the next target"
    PEER_FORGOT = "481 or 408 to our re-INVITE, or no response at all to an INVITE"
    PEER_LOST = "481 or 408 to another request within the dialog, or no response at all"
    NO_PRACK = "no PRACK for 64*T1"
    EXPIRED = "no refresh of the session in time"
    BYE_DONE = "our BYE has been answered, or never will be"


class Deadline(enum.Enum):
    """What a call waits for, beyond what its transactions do."""

    REMIND = "say again that it rings, every minute, lest proxies give up (RFC 3261 section 13.3.1.1)"
    RESEND = "send the 2xx again, after T1, then doubling up to T2 (RFC 3261 section 13.3.1.4)"
    NO_ACK = "64*T1 after the 2xx (RFC 3261 section 13.3.1.4)"
    NO_ANSWER = "the caller, ourselves or the peer with its Expires, has the phone ring so long and no longer"
    NO_SDP = "32*T1 after the 2xx with an offer: long before the peer gives up waiting for the ACK"


class Do(enum.Enum):
    """What a row brings about; a `TELL` is an event."""

    TELL_CONFIRMED = enum.auto()
    TELL_PROGRESSED = enum.auto()
    TELL_ANSWERED = enum.auto()
    TELL_REOFFERED = enum.auto()
    TELL_WITHDRAWN = enum.auto()
    TELL_REFUSED = enum.auto()
    TELL_ENDED = enum.auto()
    SEND_BYE = enum.auto()
    SEND_ACK = enum.auto()
    SEND_CANCEL = enum.auto()
    SEND_480 = enum.auto()
    SEND_504 = enum.auto()
    SEND_487 = enum.auto()
    SEND_491 = enum.auto()
    SEND_500 = enum.auto()
    SEND_AGAIN = enum.auto()


_S, _I, _D = CallState, CallInput, Deadline

CALL_ROWS: Mapping[tuple[CallState, CallInput | Deadline], tuple[CallState, tuple[Do, ...]]] = {
    # The peer calls: RFC 3261 section 13.3.
    (_S.OFFERED, _I.RING): (_S.ALERTED, ()),
    (_S.ALERTED, _I.RING): (_S.ALERTED, ()),
    (_S.ALERTED, _D.REMIND): (_S.ALERTED, (Do.SEND_AGAIN,)),
    # Its Expires: who hears none of our responses does not cancel either.
    (_S.OFFERED, _D.NO_ANSWER): (_S.ENDED, (Do.SEND_487, Do.TELL_ENDED)),
    (_S.ALERTED, _D.NO_ANSWER): (_S.ENDED, (Do.SEND_487, Do.TELL_ENDED)),
    **{
        (waiting, happening): row
        for waiting in (_S.OFFERED, _S.ALERTED, _S.ANSWERING)
        for happening, row in {
            _I.REJECT: (_S.ENDED, (Do.TELL_ENDED,)),
            # Section 9.2.
            _I.PEER_CANCEL: (_S.ENDED, (Do.SEND_487, Do.TELL_ENDED)),
            # Section 15.1.2: a caller may say BYE to an early dialog, and the INVITE is still answered.
            _I.PEER_BYE: (_S.ENDED, (Do.SEND_487, Do.TELL_ENDED)),
            # Section 14.2: one INVITE at a time.
            _I.PEER_INVITE: (waiting, (Do.SEND_500,)),
            # RFC 3262 section 3.
            _I.NO_PRACK: (_S.ENDED, (Do.SEND_504, Do.TELL_ENDED)),
        }.items()
    },
    (_S.OFFERED, _I.ANSWER): (_S.ANSWERED, ()),
    (_S.ALERTED, _I.ANSWER): (_S.ANSWERED, ()),
    (_S.ALERTED, _I.HOLD): (_S.ANSWERING, ()),
    (_S.ANSWERING, _I.RELEASE): (_S.ANSWERED, ()),
    (_S.ANSWERING, _I.BYE): (_S.ENDED, (Do.SEND_480, Do.TELL_ENDED)),
    (_S.ANSWERED, _I.PEER_ACK): (_S.CONFIRMED, (Do.TELL_CONFIRMED,)),
    (_S.ANSWERED, _I.PEER_BYE): (_S.ENDED, (Do.TELL_ENDED,)),
    # Section 15: a callee does not say BYE before the ACK, or before it has given up waiting for it.
    (_S.ANSWERED, _I.BYE): (_S.LEAVING, ()),
    # RFC 5407 section 3.1.5: who sends the next INVITE has seen the answer to the last; its ACK was lost or is late.
    (_S.ANSWERED, _I.PEER_INVITE): (_S.REOFFERED, (Do.TELL_CONFIRMED, Do.TELL_REOFFERED)),
    (_S.ANSWERED, _D.RESEND): (_S.ANSWERED, (Do.SEND_AGAIN,)),
    (_S.ANSWERED, _D.NO_ACK): (_S.ENDING, (Do.SEND_BYE, Do.TELL_ENDED)),
    (_S.LEAVING, _I.PEER_ACK): (_S.ENDING, (Do.SEND_BYE, Do.TELL_ENDED)),
    (_S.LEAVING, _I.PEER_BYE): (_S.ENDED, (Do.TELL_ENDED,)),
    (_S.LEAVING, _I.PEER_INVITE): (_S.LEAVING, (Do.SEND_491,)),
    (_S.LEAVING, _D.RESEND): (_S.LEAVING, (Do.SEND_AGAIN,)),
    (_S.LEAVING, _D.NO_ACK): (_S.ENDING, (Do.SEND_BYE, Do.TELL_ENDED)),
    # We call: RFC 3261 sections 13.2 and 9.1. No CANCEL before a provisional response.
    (_S.CALLING, _I.PEER_PROGRESS): (_S.RINGING, (Do.TELL_PROGRESSED,)),
    (_S.CALLING, _I.CANCEL): (_S.GIVING_UP, ()),
    (_S.CALLING, _D.NO_ANSWER): (_S.GIVING_UP, ()),
    # RFC 3263 section 4.3. The next target has not responded yet, so there is nothing to cancel.
    (_S.CALLING, _I.FAIL_OVER): (_S.CALLING, ()),
    (_S.RINGING, _I.FAIL_OVER): (_S.CALLING, ()),
    (_S.RINGING, _I.PEER_PROGRESS): (_S.RINGING, (Do.TELL_PROGRESSED,)),
    (_S.RINGING, _I.CANCEL): (_S.CANCELLED, (Do.SEND_CANCEL,)),
    (_S.RINGING, _D.NO_ANSWER): (_S.CANCELLED, (Do.SEND_CANCEL,)),
    (_S.RINGING, _I.PEER_BYE): (_S.ENDED, (Do.TELL_ENDED,)),
    **{
        (calling, happening): row
        for calling in (_S.CALLING, _S.RINGING)
        for happening, row in {
            _I.PEER_ACCEPTS: (_S.CONFIRMED, (Do.TELL_ANSWERED,)),
            _I.PEER_OFFERS: (_S.OWING, (Do.TELL_ANSWERED,)),
            _I.PEER_REFUSES: (_S.ENDED, (Do.TELL_ENDED,)),
            _I.PEER_FORGOT: (_S.ENDED, (Do.TELL_ENDED,)),
            # Section 22.2: the INVITE goes out anew, and has no provisional response yet.
            _I.PEER_CHALLENGES: (_S.CALLING, ()),
        }.items()
    },
    # RFC 3261 section 13.2.2.4: the ACK comes at once, or as soon as there is an answer to put into it.
    (_S.OWING, _I.ACKNOWLEDGE): (_S.CONFIRMED, ()),
    (_S.OWING, _I.BYE): (_S.ENDING, (Do.SEND_ACK, Do.SEND_BYE, Do.TELL_ENDED)),
    (_S.OWING, _D.NO_SDP): (_S.ENDING, (Do.SEND_ACK, Do.SEND_BYE, Do.TELL_ENDED)),
    (_S.OWING, _I.PEER_BYE): (_S.ENDED, (Do.SEND_ACK, Do.TELL_ENDED)),
    (_S.OWING, _I.PEER_LOST): (_S.ENDING, (Do.SEND_ACK, Do.SEND_BYE, Do.TELL_ENDED)),
    (_S.OWING, _I.PEER_INVITE): (_S.OWING, (Do.SEND_491,)),
    (_S.GIVING_UP, _I.PEER_PROGRESS): (_S.CANCELLED, (Do.SEND_CANCEL,)),
    (_S.CANCELLED, _I.PEER_PROGRESS): (_S.CANCELLED, ()),
    (_S.CANCELLED, _I.PEER_BYE): (_S.ENDED, (Do.TELL_ENDED,)),
    **{
        (leaving, happening): row
        for leaving in (_S.GIVING_UP, _S.CANCELLED)
        for happening, row in {
            # A 2xx that crossed the CANCEL made a dialog.
            _I.PEER_ACCEPTS: (_S.ENDING, (Do.SEND_BYE, Do.TELL_ENDED)),
            _I.PEER_REFUSES: (_S.ENDED, (Do.TELL_ENDED,)),
            _I.PEER_FORGOT: (_S.ENDED, (Do.TELL_ENDED,)),
        }.items()
    },
    # The call is up: RFC 3261 sections 14 and 15.
    (_S.CONFIRMED, _I.BYE): (_S.ENDING, (Do.SEND_BYE, Do.TELL_ENDED)),
    (_S.CONFIRMED, _I.PEER_BYE): (_S.ENDED, (Do.TELL_ENDED,)),
    (_S.CONFIRMED, _I.PEER_INVITE): (_S.REOFFERED, (Do.TELL_REOFFERED,)),
    (_S.CONFIRMED, _I.REOFFER): (_S.REOFFERING, ()),
    (_S.CONFIRMED, _I.REFRESH): (_S.REFRESHING, ()),
    (_S.REOFFERED, _I.ANSWER): (_S.ANSWERED, ()),
    (_S.REOFFERED, _I.REJECT): (_S.CONFIRMED, ()),
    (_S.REOFFERED, _I.BYE): (_S.ENDING, (Do.SEND_487, Do.SEND_BYE, Do.TELL_ENDED)),
    (_S.REOFFERED, _I.PEER_CANCEL): (_S.CONFIRMED, (Do.SEND_487, Do.TELL_WITHDRAWN)),
    (_S.REOFFERED, _I.PEER_BYE): (_S.ENDED, (Do.SEND_487, Do.TELL_ENDED)),
    (_S.REOFFERED, _I.PEER_INVITE): (_S.REOFFERED, (Do.SEND_500,)),
    (_S.REOFFERING, _I.PEER_ACCEPTS): (_S.CONFIRMED, (Do.TELL_ANSWERED,)),
    (_S.REOFFERING, _I.PEER_OFFERS): (_S.OWING, (Do.TELL_ANSWERED,)),
    (_S.REOFFERING, _I.PEER_REFUSES): (_S.CONFIRMED, (Do.TELL_REFUSED,)),
    # RFC 4028 section 10: the host has no part in it.
    (_S.REFRESHING, _I.PEER_ACCEPTS): (_S.CONFIRMED, ()),
    (_S.REFRESHING, _I.PEER_REFUSES): (_S.CONFIRMED, ()),
    **{
        (changing, happening): row
        for changing in (_S.REOFFERING, _S.REFRESHING)
        for happening, row in {
            _I.PEER_PROGRESS: (changing, ()),
            _I.PEER_CHALLENGES: (changing, ()),
            _I.FAIL_OVER: (changing, ()),
            # Section 12.2.1.2: then there is no dialog any more, and BYE says so to whoever still believes in it.
            _I.PEER_FORGOT: (_S.ENDING, (Do.SEND_BYE, Do.TELL_ENDED)),
            _I.PEER_INVITE: (changing, (Do.SEND_491,)),
            _I.PEER_BYE: (_S.ENDED, (Do.TELL_ENDED,)),
            _I.BYE: (_S.ENDING, (Do.SEND_BYE, Do.TELL_ENDED)),
        }.items()
    },
    (_S.LEAVING, _I.PEER_LOST): (_S.ENDING, (Do.SEND_BYE, Do.TELL_ENDED)),
    **{
        (up, happening): (_S.ENDING, todo)
        for happening in (_I.PEER_LOST, _I.EXPIRED)
        for up, todo in {
            _S.ANSWERED: (Do.SEND_BYE, Do.TELL_ENDED),
            _S.CONFIRMED: (Do.SEND_BYE, Do.TELL_ENDED),
            _S.REOFFERED: (Do.SEND_487, Do.SEND_BYE, Do.TELL_ENDED),
            _S.REOFFERING: (Do.SEND_BYE, Do.TELL_ENDED),
            _S.REFRESHING: (Do.SEND_BYE, Do.TELL_ENDED),
        }.items()
    },
    # RFC 5407 section 3.2: BYEs that cross are both answered 200, everything else 481.
    (_S.ENDING, _I.PEER_BYE): (_S.ENDING, ()),
    (_S.ENDING, _I.BYE_DONE): (_S.ENDED, ()),
}

# A deadline that is in two states runs on from the one to the other.
CALL_DEADLINES: Mapping[CallState, frozenset[Deadline]] = {
    _S.OFFERED: frozenset({_D.NO_ANSWER}),
    _S.ALERTED: frozenset({_D.NO_ANSWER, _D.REMIND}),
    _S.ANSWERED: frozenset({_D.RESEND, _D.NO_ACK}),
    _S.LEAVING: frozenset({_D.RESEND, _D.NO_ACK}),
    _S.CALLING: frozenset({_D.NO_ANSWER}),
    _S.RINGING: frozenset({_D.NO_ANSWER}),
    _S.OWING: frozenset({_D.NO_SDP}),
}
# States that only lead to the end. What brings a call there is the cause of its end; what happens after is not.
_DOOMED = frozenset({_S.LEAVING, _S.GIVING_UP, _S.CANCELLED, _S.ENDING, _S.ENDED})
_CAUSES: Mapping[CallInput | Deadline, Cause] = {
    _I.REJECT: Cause.LOCAL_REJECT,
    _I.BYE: Cause.LOCAL_BYE,
    _I.CANCEL: Cause.LOCAL_CANCEL,
    _I.PEER_BYE: Cause.REMOTE_BYE,
    _I.PEER_CANCEL: Cause.REMOTE_CANCEL,
    _I.PEER_REFUSES: Cause.REMOTE_REJECT,
    _I.PEER_FORGOT: Cause.LOST,
    _I.PEER_LOST: Cause.LOST,
    _D.NO_ACK: Cause.NO_ACK,
    _D.NO_ANSWER: Cause.NO_ANSWER,
    _D.NO_SDP: Cause.NO_SDP,
    _I.NO_PRACK: Cause.NO_PRACK,
    _I.EXPIRED: Cause.EXPIRED,
}
_NOT_UP = _DOOMED | {_S.OFFERED, _S.ALERTED, _S.ANSWERING, _S.CALLING, _S.RINGING}
_REMIND_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What the host says with a verb."""

    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    content_type: str = ""

    @property
    def fields(self) -> tuple[tuple[str, str], ...]:
        """The header fields with the Content-Type. Raises LocalProtocolError if the body has none."""
        if not self.body:
            return self.headers
        if not self.content_type:
            raise LocalProtocolError("a body without a type")
        return (*self.headers, ("Content-Type", self.content_type))


NO_CONTENT = Content()


@dataclass(frozen=True, slots=True, kw_only=True)
class Owing:
    """An offer of the peer's in a response to our INVITE without one.

    rack  the RAck of the PRACK, "" if it is the ACK that the answer goes into
    """

    transaction: ClientTransaction
    dialog: Dialog
    rack: str = ""


class Call(Timed[Deadline]):
    """One call: its state, its dialogs, and what is pending in it.

    key        our tag, which is what requests within the dialog find it by
    placed     whether we placed it: then the Call-ID is ours
    contact    the Contact that we give
    dialog     None until the peer of a call of ours has sent its tag; of several early ones, the latest
    early      the early dialogs of a call of ours, by the peer's tag
    offer      the peer's INVITE that waits for a final response, and `source` whence it came
    server     the transaction of that INVITE, or of the one whose 2xx waits for the ACK
    reliable   its reliable provisional responses, None if it has none
    held       the arguments of the `answer` that waits for a PRACK
    exchanged  whether offer and answer of that INVITE are complete before its final response
    owed       whether that ACK must bring an answer, because the INVITE had no offer
    acked      the CSeq number of the INVITE whose ACK is, or was last, waited for
    serving    the peer's requests that wait for their final response, by their keys
    asking     the keys of the host's requests that wait for theirs, in order
    asked      the peer's UPDATE or PRACK whose offer waits for our answer
    invite     the transaction of our INVITE while it waits for a final response
    owing      the peer's offer that waits for our answer, in the ACK or PRACK to this
    updating   the transaction of our UPDATE while it waits for a final response
    change     the `reoffer` or `update` that is in flight, or is to be sent once more after a while
    session    the session timer
    local      our latest description that the peer has, and its type
    updatable  whether the peer allows UPDATE
    cause      why it ends, from when that is decided
    farewell   header fields of the BYE that waits for the ACK
    replaces   the key of the call whose place it takes when it is answered, "" if it is none
    """

    __slots__ = (
        "_interval",
        "_ring_timeout_s",
        "_timers",
        "acked",
        "asked",
        "asking",
        "cause",
        "change",
        "contact",
        "dialog",
        "early",
        "exchanged",
        "farewell",
        "held",
        "invite",
        "key",
        "local",
        "offer",
        "owed",
        "owing",
        "placed",
        "reliable",
        "replaces",
        "server",
        "serving",
        "session",
        "source",
        "state",
        "updatable",
        "updating",
    )

    def __init__(
        self,
        *,
        key: str,
        state: CallState,
        source: Flow,
        contact: str,
        schedule: Schedule,
        timers: Timers,
        now: float,
        ring_timeout_s: float | None,
    ) -> None:
        super().__init__(schedule)
        self.key = key
        self.state = state
        self.placed = state is CallState.CALLING
        self.source = source
        self.contact = contact
        self.dialog: Dialog | None = None
        self.early: dict[str, Dialog] = {}
        self.offer: Request | None = None
        self.server: ServerTransaction | None = None
        self.reliable: Reliable | None = None
        self.held: Content | None = None
        self.exchanged = False
        self.owed = False
        self.acked = 0
        self.serving: dict[str, Serving] = {}
        self.asking: dict[str, None] = {}
        self.asked: Serving | None = None
        self.invite: ClientTransaction | None = None
        self.owing: Owing | None = None
        self.updating: ClientTransaction | None = None
        self.change: Change | None = None
        self.session = SessionTimer(call=key, schedule=schedule)
        self.local: tuple[bytes, str] = (b"", "")
        self.updatable = False
        self.cause: Cause | None = None
        self.farewell: tuple[tuple[str, str], ...] = ()
        self.replaces = ""
        self._timers = timers
        self._interval = 0.0
        self._ring_timeout_s = ring_timeout_s
        self._arm(now)

    @property
    def up(self) -> bool:
        """Whether the call has been accepted, and is not over."""
        return self.state not in _NOT_UP

    def dialog_of(self, remote_tag: str) -> Dialog | None:
        """The dialog with the peer's tag, early or confirmed."""
        if self.dialog is not None and self.dialog.remote_tag == remote_tag:
            return self.dialog
        return self.early.get(remote_tag)

    def waiting_beside(self, to: Request | None) -> Serving | None:
        """The UPDATE or PRACK that a verb means: `to`, or else what waits where no INVITE does.

        None if the INVITE is meant. Raises LocalProtocolError if `to` does not wait.
        """
        asked = self.asked
        if asked is not None and (asked.request is to or (to is None and self.offer is None)):
            return asked
        if to is not None and to is not self.offer:
            raise LocalProtocolError("that request does not wait for an answer")
        return None

    @property
    def settled(self) -> bool:
        """Whether something may be offered now: nothing is, and something was (RFC 3311 section 5.1)."""
        return self.dialog is not None and self.dialog.exchange is Exchange.AGREED

    def allows(self, happening: CallInput) -> bool:
        """Whether the table has a row for it."""
        return (self.state, happening) in CALL_ROWS

    def require(self, happening: CallInput | Deadline) -> None:
        """Raises LocalProtocolError if the table has no row for it."""
        if (self.state, happening) not in CALL_ROWS:
            raise LocalProtocolError(f"cannot {happening.value} when {self.state.value}")

    def step(self, happening: CallInput | Deadline, now: float) -> tuple[Do, ...]:
        """Take the row for `happening`; what it brings about is up to the caller. Raises LocalProtocolError."""
        self.require(happening)
        entered, todo = CALL_ROWS[self.state, happening]
        if self.cause is None and entered in _DOOMED:
            self.cause = _CAUSES[happening]
        if entered is not self.state:
            self.state = entered
            self._arm(now)
        elif happening is Deadline.RESEND:
            self._interval = min(2 * self._interval, self._timers.t2)
            self.deadlines = {**self.deadlines, Deadline.RESEND: now + self._interval}
        elif happening is Deadline.REMIND:
            self.deadlines = {**self.deadlines, Deadline.REMIND: now + _REMIND_S}
        return todo

    def _arm(self, now: float) -> None:
        """Start the deadlines of the state just entered, and stop all others."""
        deadlines: dict[Deadline, float] = {}
        for deadline in CALL_DEADLINES.get(self.state, ()):
            if deadline in self.deadlines:
                deadlines[deadline] = self.deadlines[deadline]
            elif (span_s := self._span_s(deadline)) is not None:
                deadlines[deadline] = now + span_s
        self.deadlines = deadlines

    def _span_s(self, deadline: Deadline) -> float | None:
        if deadline is Deadline.RESEND:
            self._interval = self._timers.t1
            return self._interval
        if deadline is Deadline.NO_ANSWER:
            return self._ring_timeout_s
        if deadline is Deadline.NO_SDP:
            return self._timers.patience / 2
        return _REMIND_S if deadline is Deadline.REMIND else self._timers.patience


class Patience(enum.Enum):
    """What a request of the peer's waits for."""

    EXPIRE = "the host has not answered it in half the time that the peer waits"


class Serving(Timed[Patience]):
    """A request of the peer's that is neither INVITE, BYE, CANCEL nor OPTIONS, until its final response.

    key     what the host knows it by
    call    the call that it is part of, None if it is outside of any
    source  whence it came
    """

    __slots__ = ("call", "key", "request", "source", "transaction")

    def __init__(
        self,
        *,
        key: str,
        call: str | None,
        request: Request,
        source: Flow,
        transaction: ServerTransaction,
        schedule: Schedule,
        expire_at: float,
    ) -> None:
        super().__init__(schedule)
        self.key = key
        self.call = call
        self.request = request
        self.source = source
        self.transaction = transaction
        self.deadlines = {Patience.EXPIRE: expire_at}

    def settled(self) -> None:
        """It has its final response."""
        self.deadlines = {}


class Pause(enum.Enum):
    """What a change waits for."""

    OVER = "the time that lets the peer have the first go (RFC 3261 section 14.1)"


class Change(Timed[Pause]):
    """A `reoffer` or `update`: in flight, or waiting to be sent once more because the peer's crossed it.

    call    the key of its call
    method  "INVITE" or "UPDATE"
    tries   how often it has been sent
    """

    __slots__ = ("call", "content", "method", "tries")

    def __init__(self, *, call: str, method: str, content: Content, schedule: Schedule) -> None:
        super().__init__(schedule)
        self.call = call
        self.method = method
        self.content = content
        self.tries = 1

    @property
    def waits(self) -> bool:
        """Whether it is not in flight."""
        return self.wake is not None

    def put_off(self, at: float) -> None:
        """Send it once more `at` that time."""
        self.deadlines = {Pause.OVER: at}

    def go(self) -> None:
        """It is in flight, or will not be sent any more."""
        self.deadlines = {}
