"""What may happen to a call beside the events of its SIP dialog and its media: the inputs of its table.

An `Order` begins one that we place; everything else is handed to `Call.deliver`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import rtp
import sip
from mediaserver.script import Script

__all__ = [
    "Declined",
    "Departed",
    "Drain",
    "Expired",
    "HangUp",
    "Input",
    "Order",
    "Prepared",
    "Referred",
    "Resumed",
    "Shutdown",
    "Spoken",
    "Stayed",
    "Stranded",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A call to be placed.

    target   whom to call, along the first of `flows` that works
    from_    who calls
    script   what to say to whom answers
    headers  further header fields of the INVITE
    tell     gets each status of the INVITE's and its reason, up to the final one, which is ours if none came; then what
             comes is to be ignored
    ring_timeout_s  after which it is given up
    traceparent     of what it is part of, as whoever ordered it has told (W3C Trace Context)
    """

    target: sip.Uri
    flows: tuple[sip.Flow, ...]
    from_: sip.NameAddr
    script: Script
    headers: tuple[tuple[str, str], ...]
    tell: Callable[[int, str], None]
    ring_timeout_s: float = 180.0
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """The script is known, its synthesis has begun, and the media are there: so our offer, or our answer."""

    description: bytes


@dataclass(frozen=True, slots=True)
class Declined:
    """The INVITE cannot be served."""

    status: int
    reason: str
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Spoken:
    """All is said and sent that had been handed in by that turn of the programme."""

    turn: int


@dataclass(frozen=True, slots=True)
class Stayed:
    """The time to stay on the line after the words is over."""

    turn: int


@dataclass(frozen=True, slots=True)
class Resumed:
    """There is more to say."""


@dataclass(frozen=True, slots=True)
class Referred:
    """A transfer is under way: whoever asked for it, the peer or we, will hear what comes of it."""


@dataclass(frozen=True, slots=True)
class Departed:
    """Somebody else has taken our call, and the peer knows."""


@dataclass(frozen=True, slots=True)
class Stranded:
    """Nobody else has taken our call, and the peer knows."""


@dataclass(frozen=True, slots=True)
class Expired:
    """The call has lasted as long as any call may."""


@dataclass(frozen=True, slots=True)
class HangUp:
    """Whoever controls the call wants it to end."""


@dataclass(frozen=True, slots=True)
class Drain:
    """The server will stop: the call is to end once it has said what it is saying."""


@dataclass(frozen=True, slots=True)
class Shutdown:
    """The server stops."""


Input = (
    sip.Event
    | rtp.MediaTimeout
    | Prepared
    | Declined
    | Spoken
    | Stayed
    | Resumed
    | Referred
    | Departed
    | Stranded
    | Expired
    | HangUp
    | Drain
    | Shutdown
)
