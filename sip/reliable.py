"""Provisional responses that are sent until they are acknowledged, as a table (RFC 3262 section 3): the server's side.

One at a time: the next one waits until PRACK has come for the last.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from .message import Request
from .transaction import Schedule, Timed, Timers

__all__ = [
    "RELIABLE_DEADLINES",
    "RELIABLE_ROWS",
    "Provisional",
    "Reliable",
    "ReliableDeadline",
    "ReliableState",
    "rack_of",
]

RSEQ_LIMIT = 1 << 31


class ReliableState(enum.Enum):
    """How far the provisional responses of one INVITE have got."""

    IDLE = "nothing waits for its PRACK"
    WAITING = "the latest one waits for its PRACK"
    CLOSED = "the final response is out; a late PRACK may still come"


class ReliableInput(enum.Enum):
    """What happens to them, but for the deadlines."""

    SEND = "a provisional response goes out"
    PRACK = "PRACK to the latest one"
    FINAL = "the final response goes out, or the call is over"


class ReliableDeadline(enum.Enum):
    """How long the PRACK takes."""

    RESEND = "send it again, after T1, each interval twice the one before, without an upper limit"
    GIVE_UP = "64*T1 after it was sent first: the INVITE is refused"


_S, _I, _D = ReliableState, ReliableInput, ReliableDeadline

RELIABLE_ROWS: Mapping[tuple[ReliableState, ReliableInput | ReliableDeadline], ReliableState] = {
    (_S.IDLE, _I.SEND): _S.WAITING,
    (_S.IDLE, _I.FINAL): _S.CLOSED,
    (_S.WAITING, _I.PRACK): _S.IDLE,
    (_S.WAITING, _D.RESEND): _S.WAITING,
    (_S.WAITING, _D.GIVE_UP): _S.CLOSED,
    # RFC 3262 section 3: it is not sent again then, but its PRACK is served.
    (_S.WAITING, _I.FINAL): _S.CLOSED,
    (_S.CLOSED, _I.PRACK): _S.CLOSED,
    (_S.CLOSED, _I.FINAL): _S.CLOSED,
}
RELIABLE_DEADLINES: Mapping[ReliableState, frozenset[ReliableDeadline]] = {_S.WAITING: frozenset(_D)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Provisional:
    """A provisional response before it has its number."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    content_type: str


class Reliable(Timed[ReliableDeadline]):
    """The reliable provisional responses to one INVITE.

    call    the key of its call
    rseq    the number of the latest one
    seq     the CSeq number of the INVITE
    waiting its PRACK has not come, whether or not it is still sent
    media   whether the latest one carries a session description
    sent    the latest one as it was sent
    queue   those that wait for their turn
    """

    __slots__ = ("_interval", "_timers", "call", "media", "queue", "rseq", "sent", "seq", "state", "waiting")

    def __init__(self, *, call: str, seq: int, first_rseq: int, schedule: Schedule, timers: Timers) -> None:
        super().__init__(schedule)
        self.call = call
        self.seq = seq
        self.rseq = first_rseq - 1
        self.state = ReliableState.IDLE
        self.waiting = False
        self.media = False
        self.sent = b""
        self.queue: deque[Provisional] = deque()
        self._timers = timers
        self._interval = 0.0

    @property
    def holds_answer(self) -> bool:
        """Whether a 2xx must wait: a description is on its way that the peer has not acknowledged (section 3)."""
        return self.state is ReliableState.WAITING and self.media

    def number(self, media: bool, now: float) -> int:
        """The RSeq of the response that goes out now."""
        self.rseq += 1
        self.media = media
        self.waiting = True
        self._interval = self._timers.t1
        self._enter(ReliableInput.SEND)
        self.deadlines = {
            ReliableDeadline.RESEND: now + self._timers.t1,
            ReliableDeadline.GIVE_UP: now + self._timers.patience,
        }
        return self.rseq

    def acknowledge(self, rack: tuple[int, int] | None) -> bool:
        """PRACK came for that RSeq and CSeq number; False if it is for nothing that waits."""
        if not self.waiting or rack != (self.rseq, self.seq):
            return False
        self.waiting = False
        self._enter(ReliableInput.PRACK)
        self.deadlines = {}
        return True

    def fire(self, deadline: ReliableDeadline, now: float) -> None:
        """`deadline` has come."""
        self._enter(deadline)
        if deadline is ReliableDeadline.RESEND:
            self._interval *= 2
            self.deadlines = {**self.deadlines, ReliableDeadline.RESEND: now + self._interval}
        else:
            self.deadlines = {}

    def close(self) -> None:
        """The final response goes out, or nobody waits any more."""
        self._enter(ReliableInput.FINAL)
        self.queue.clear()
        self.deadlines = {}

    def _enter(self, happening: ReliableInput | ReliableDeadline) -> None:
        self.state = RELIABLE_ROWS[self.state, happening]


def rack_of(prack: Request) -> tuple[int, int] | None:
    """RSeq and CSeq number that `prack` acknowledges, None if it says nothing sensible (RFC 3262 section 7.2)."""
    parts = (prack.headers.get("RAck") or "").split()
    if len(parts) != 3 or parts[2] != "INVITE" or not all(part.isascii() and part.isdigit() for part in parts[:2]):
        return None
    return None if max(len(part) for part in parts[:2]) > 10 else (int(parts[0]), int(parts[1]))
