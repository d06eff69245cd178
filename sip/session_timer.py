"""Session timers, as a table (RFC 4028): who keeps a session alive, when, and when it is given up.

One side, the refresher, sends an UPDATE or re-INVITE at half the interval; the other hangs up if none comes.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from .errors import LocalProtocolError, RemoteProtocolError
from .headers import Parameterised
from .message import Message, Request, Response
from .transaction import Schedule, Timed

__all__ = [
    "LEAST_MIN_SE_S",
    "TIMER_DEADLINES",
    "TIMER_ROWS",
    "Agreed",
    "SessionExpires",
    "SessionTerms",
    "SessionTimer",
    "TimerDeadline",
    "TimerInput",
    "TimerState",
    "min_se",
    "session_expires",
]

# RFC 4028 section 5.
LEAST_MIN_SE_S = 90
_LONGEST_S = (1 << 32) - 1


class TimerState(enum.Enum):
    """Who refreshes."""

    OFF = "nobody"
    REFRESHER = "we, at half the interval"
    REFRESHING = "we, and our request waits for its response"
    WAITING = "the peer"


class TimerInput(enum.Enum):
    """What came of a request that could refresh."""

    LEAD = "the session goes on, and we refresh it"
    FOLLOW = "the session goes on, and the peer refreshes it"
    RETRY = "our request was refused, or could not be sent: once more in a while"
    STOP = "without a session timer, or over"


class TimerDeadline(enum.Enum):
    """What the session waits for."""

    REFRESH = "half the interval after the last refresh (RFC 4028 section 10)"
    EXPIRE = "the interval; less min(32 s, a third of it) for who does not refresh (RFC 4028 section 10)"


_S, _I, _D = TimerState, TimerInput, TimerDeadline

TIMER_ROWS: Mapping[tuple[TimerState, TimerInput | TimerDeadline], TimerState] = {
    **{
        (state, happening): entered
        for state in TimerState
        for happening, entered in {_I.LEAD: _S.REFRESHER, _I.FOLLOW: _S.WAITING, _I.STOP: _S.OFF}.items()
    },
    (_S.REFRESHER, _D.REFRESH): _S.REFRESHING,
    (_S.REFRESHING, _I.RETRY): _S.REFRESHER,
    (_S.REFRESHER, _D.EXPIRE): _S.OFF,
    (_S.REFRESHING, _D.EXPIRE): _S.OFF,
    (_S.WAITING, _D.EXPIRE): _S.OFF,
}
TIMER_DEADLINES: Mapping[TimerState, frozenset[TimerDeadline]] = {
    _S.REFRESHER: frozenset({_D.REFRESH, _D.EXPIRE}),
    _S.REFRESHING: frozenset({_D.EXPIRE}),
    _S.WAITING: frozenset({_D.EXPIRE}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionExpires:
    """The header field Session-Expires; `refresher` is "uac", "uas" or, left open, ""."""

    interval_s: int
    refresher: str = ""

    def __str__(self) -> str:
        return f"{self.interval_s};refresher={self.refresher}" if self.refresher else str(self.interval_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreed:
    """What was agreed on about the timer of a session: LEAD or FOLLOW; `alone` as in SessionTimer."""

    happening: TimerInput
    interval_s: int
    alone: bool


class SessionTimer(Timed[TimerDeadline]):
    """The session timer of one call.

    call        the key of its call
    interval_s  what was agreed on last
    least_s     the longest Min-SE that the peer has asked for
    alone       the peer knows no session timers: any response at all says that it is alive
    """

    __slots__ = ("alone", "call", "interval_s", "least_s", "state")

    def __init__(self, *, call: str, schedule: Schedule) -> None:
        super().__init__(schedule)
        self.call = call
        self.state = TimerState.OFF
        self.interval_s = 0
        self.least_s = LEAST_MIN_SE_S
        self.alone = False

    @property
    def leads(self) -> bool:
        """Whether we are the refresher."""
        return self.state in (TimerState.REFRESHER, TimerState.REFRESHING)

    def begin(self, agreed: Agreed | None, now: float) -> None:
        """Our 2xx to a request that makes or refreshes the session agreed on that; None: on no timer."""
        if agreed is None:
            self.step(TimerInput.STOP, now)
        else:
            self.restart(agreed.happening, agreed.interval_s, now, alone=agreed.alone)

    def agreed(self, request: Request, response: Response, now: float) -> None:
        """The peer's 2xx to our `request` came (RFC 4028 section 7.2)."""
        asked, got = session_expires(request), session_expires(response)
        if got is not None:
            happening = TimerInput.FOLLOW if got.refresher == "uas" else TimerInput.LEAD
            self.restart(happening, max(got.interval_s, LEAST_MIN_SE_S), now)
        elif asked is not None:
            self.restart(TimerInput.LEAD, asked.interval_s, now, alone=True)
        else:
            self.step(TimerInput.STOP, now)

    def restart(self, happening: TimerInput, interval_s: int, now: float, *, alone: bool = False) -> None:
        """A refresh succeeded: LEAD or FOLLOW for another `interval_s`."""
        self.interval_s, self.alone = interval_s, alone
        self.deadlines = {}
        self.step(happening, now)

    def step(self, happening: TimerInput | TimerDeadline, now: float, *, pause_s: float = 0.0) -> None:
        """Take the row for `happening`; after RETRY the next refresh comes in `pause_s`."""
        running = self.deadlines
        self.state = TIMER_ROWS[self.state, happening]
        self.deadlines = {
            deadline: running[deadline] if deadline in running else now + (pause_s or self._span_s(deadline))
            for deadline in TIMER_DEADLINES.get(self.state, ())
        }

    def _span_s(self, deadline: TimerDeadline) -> float:
        if deadline is TimerDeadline.REFRESH:
            return self.interval_s / 2
        return self.interval_s if self.leads else self.interval_s - min(32, self.interval_s / 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionTerms:
    """What we want of session timers.

    expires_s  how long a session lasts unless it is refreshed; 0: it has an end only where the peer wants one
    min_se_s   the least that peers may ask for

    Raises LocalProtocolError if that is a contradiction, or less than RFC 4028 allows.
    """

    expires_s: int
    min_se_s: int

    def __post_init__(self) -> None:
        if self.min_se_s < LEAST_MIN_SE_S or 0 < self.expires_s < self.min_se_s:
            raise LocalProtocolError(
                f"not {LEAST_MIN_SE_S} <= {self.min_se_s} (min_se_s) <= {self.expires_s} (session_expires_s) or 0"
            )

    def fields(self, session: SessionTimer | None) -> tuple[tuple[str, str], ...]:
        """What a request that makes or refreshes a session says of its timer (RFC 4028 sections 7.1 and 7.4)."""
        running = session is not None and session.state is not TimerState.OFF
        wanted_s = session.interval_s if session is not None and running else self.expires_s
        if not wanted_s:
            return ()
        least_s = max(self.min_se_s, LEAST_MIN_SE_S if session is None else session.least_s)
        refresher = "" if session is None or not running else "uac" if session.leads else "uas"
        field = SessionExpires(interval_s=max(wanted_s, least_s), refresher=refresher)
        floor = (("Min-SE", str(least_s)),) if least_s > LEAST_MIN_SE_S else ()
        return (("Session-Expires", str(field)), *floor)

    def too_brief(self, request: Request) -> bool:
        """Whether the session would have to be refreshed too often, which is answered with 422 (RFC 4028 section 9)."""
        asked = session_expires(request)
        return asked is not None and asked.interval_s < self.min_se_s and _capable(request)

    def answer(self, session: SessionTimer, request: Request) -> tuple[tuple[tuple[str, str], ...], Agreed | None]:
        """What the 2xx to the peer's request says of the session timer, and what that means (RFC 4028 section 9)."""
        asked = session_expires(request)
        capable = _capable(request)
        if asked is not None and asked.interval_s < LEAST_MIN_SE_S:
            # Section 5: nobody may ask for that, and 422 would not be understood.
            asked = None
        ours_s = self.expires_s
        if asked is None and not ours_s:
            return (), None
        floor_s = max(self.min_se_s, min_se(request))
        if asked is None:
            interval_s = max(ours_s, floor_s)
        else:
            interval_s = min(asked.interval_s, max(ours_s, floor_s)) if ours_s else asked.interval_s
        # Table 2: who does not know the timer cannot refresh; what the peer leaves open stays as it is, or is ours.
        kept = "uac" if session.state is TimerState.WAITING else "uas"
        refresher = (asked.refresher if asked is not None and asked.refresher else kept) if capable else "uas"
        field = SessionExpires(interval_s=interval_s, refresher=refresher)
        required = (("Require", "timer"),) if refresher == "uac" else ()
        happening = TimerInput.FOLLOW if refresher == "uac" else TimerInput.LEAD
        agreed = Agreed(happening=happening, interval_s=interval_s, alone=not capable)
        return (*required, ("Session-Expires", str(field))), agreed


def _capable(request: Request) -> bool:
    return "timer" in (*request.supported, *request.require)


def session_expires(message: Message) -> SessionExpires | None:
    """What `message` says in Session-Expires, None if nothing sensible."""
    text = message.headers.get("Session-Expires")
    if text is None:
        return None
    try:
        field = Parameterised.parse(text, "Session-Expires")
    except RemoteProtocolError:
        return None
    interval_s = _seconds(field.value)
    refresher = field.parameters.value("refresher").lower()
    if not interval_s:
        return None
    return SessionExpires(interval_s=interval_s, refresher=refresher if refresher in ("uac", "uas") else "")


def min_se(message: Message) -> int:
    """The shortest interval that `message` allows, in seconds (RFC 4028 section 5)."""
    text = (message.headers.get("Min-SE") or "").partition(";")[0].strip()
    return max(LEAST_MIN_SE_S, _seconds(text))


def _seconds(text: str) -> int:
    return min(int(text), _LONGEST_S) if text.isascii() and text.isdigit() and len(text) < 20 else 0
