"""Session timers, as a table (RFC 4028): who keeps a session alive, when, and when it is given up.

One side, the refresher, sends an UPDATE or re-INVITE at half the interval; the other hangs up if none comes.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from .errors import RemoteProtocolError
from .headers import Parameterised
from .message import Message
from .transaction import Schedule, Timed

__all__ = [
    "LEAST_MIN_SE_S",
    "TIMER_DEADLINES",
    "TIMER_ROWS",
    "SessionExpires",
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
