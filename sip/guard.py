"""Whose requests need proof, and how slowly those are served who gave a wrong one.

A `Guard` is a realm with its users. `Offenders` are the addresses that guessed: each further guess is answered twice as
late as the one before, and until then nothing of that address is looked at, so that guessing side by side wins nothing.
A request that waits is `Held`; nobody else waits for it.
"""

from __future__ import annotations

import enum
import ipaddress
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from .digest import Realm
from .message import Request
from .transaction import Flow, Schedule, ServerTransaction, Timed

__all__ = ["Guard", "Held", "Offenders", "Until"]

_FIRST_S = 0.5
_LONGEST_S = 32.0
# Who has not guessed for so long begins anew.
_FORGIVEN_AFTER_S = 900.0
_ADDRESSES = 4096
_HELD = 1024
_HELD_OF_ONE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """A protection space and its users.

    password_of  the password of a user, None if there is no such user
    """

    realm: Realm
    password_of: Callable[[str], str | None]


class Until(enum.Enum):
    """What a held request waits for."""

    CHECK = "it is looked at"
    REFUSE = "it is refused: its proof was wrong"


class Held(Timed[Until]):
    """A request of an offender, until its time has come.

    transaction  absorbs what is retransmitted meanwhile
    """

    __slots__ = ("guard", "reply", "request", "source", "transaction", "until")

    def __init__(
        self,
        *,
        request: Request,
        source: Flow,
        reply: Flow,
        guard: Guard,
        transaction: ServerTransaction,
        until: Until,
        at: float,
        schedule: Schedule,
    ) -> None:
        super().__init__(schedule)
        self.request = request
        self.source = source
        self.reply = reply
        self.guard = guard
        self.transaction = transaction
        self.until = until
        self.deadlines = {until: at}

    def released(self) -> None:
        """It waits no more."""
        self.deadlines = {}


class Offenders:
    """The addresses that guessed lately, the latest `addresses` of them, and how many requests of each are held."""

    def __init__(self, *, addresses: int = _ADDRESSES) -> None:
        self._limit = addresses
        # What is an address here -> (guesses, until when it waits), the longest quiet first.
        self._guesses: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._held: Counter[str] = Counter()

    def until(self, host: str, now: float) -> float:
        """When the next request of `host` may be looked at; not later than `now` if it need not wait."""
        return self._guesses.get(_place(host), (0, now))[1]

    def offend(self, host: str, now: float) -> float:
        """Another wrong proof came from `host`; returns when it may be told so."""
        place = _place(host)
        count, until = self._guesses.pop(place, (0, now))
        if now - until > _FORGIVEN_AFTER_S:
            count = 0
        until = max(now, until) + min(_FIRST_S * 2.0 ** min(count, 30), _LONGEST_S)
        self._guesses[place] = (count + 1, until)
        if len(self._guesses) > self._limit:
            self._guesses.popitem(last=False)
        return until

    def admit(self, host: str) -> bool:
        """Whether one more request of `host` may be held; it is counted then, until it is `dismissed`."""
        place = _place(host)
        if self._held.total() >= _HELD or self._held[place] >= _HELD_OF_ONE:
            return False
        self._held[place] += 1
        return True

    def dismiss(self, host: str) -> None:
        """A held request of `host` waits no more."""
        place = _place(host)
        self._held[place] -= 1
        if not self._held[place]:
            del self._held[place]


def _place(host: str) -> str:
    """What counts as one address: an IPv6 network of 64 bits is one customer's (RFC 6177)."""
    if ":" not in host:
        return host
    return str(ipaddress.ip_network((host.partition("%")[0], 64), strict=False))
