"""Whose requests need proof, and how slowly those are served who gave a wrong one.

A `Guard` is a realm with its users. `Offenders` are the addresses that guessed: each further guess is answered twice as
late as the one before, and until then nothing of that address is looked at, so that guessing side by side wins nothing.
A request that waits is `Held`; nobody else waits for it. The `Gate` is where requests meet both (RFC 3261 section 22).
"""

from __future__ import annotations

import enum
import ipaddress
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from .counters import Tally
from .digest import Realm, WrongProof
from .errors import RemoteProtocolError
from .message import Request
from .responses import Responses
from .transaction import Flow, Schedule, ServerTransaction, Timed, Transactions

__all__ = ["Gate", "Guard", "Held", "Offenders", "Until"]

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


class Gate:
    """Lets in who proves who it is, and holds the requests of offenders.

    guard_of  the guard of a request, None if it is taken as it is
    """

    def __init__(
        self,
        *,
        guard_of: Callable[[Request, Flow], Guard | None] | None,
        transactions: Transactions,
        responses: Responses,
        tally: Tally,
    ) -> None:
        self._guard_of = guard_of
        self._transactions = transactions
        self._responses = responses
        self._tally = tally
        self._offenders = Offenders()
        # By the key of their transactions.
        self._held: dict[object, Held] = {}

    def __len__(self) -> int:
        """How many requests are held."""
        return len(self._held)

    def prover(self, request: Request, source: Flow, reply: Flow, now: float) -> str | None:
        """Who has sent a request that begins something, "" where nobody has to say; None if it is answered with 401.

        RFC 3261 section 22. Without proof that is at once, and statelessly; after a wrong one it takes its time.
        """
        guard = None if self._guard_of is None else self._guard_of(request, source)
        if guard is None:
            return ""
        host = source.remote[0]
        waits_until = self._offenders.until(host, now)
        if waits_until > now and guard.realm.answer(request) is not None:
            self._hold(request, source, reply, guard, Until.CHECK, waits_until, now)
            return None
        try:
            return guard.realm.check(request, guard.password_of, now, source=host)
        except WrongProof:
            self._tally.wrong_proofs += 1
            self._hold(request, source, reply, guard, Until.REFUSE, self._offenders.offend(host, now), now)
        except RemoteProtocolError as error:
            self._responses.refuse(request, reply, error.status, headers=error.headers)
        return None

    def release(self, held: Held, now: float) -> bool:
        """The time of a held request has come: True if it is to be looked at now, else it is answered."""
        self._let_go(held)
        if held.until is Until.REFUSE:
            fields = held.guard.realm.unauthorised(now, source=held.source.remote[0]).headers
            self._responses.respond(held.transaction, held.request, 401, now, headers=fields)
            return False
        self._transactions.remove(held.transaction)
        return True

    def withdraw(self, invite: ServerTransaction, now: float) -> None:
        """An INVITE was cancelled: if it is held, it is refused (RFC 3261 section 9.2)."""
        held = self._held.get(invite.key)
        if held is not None:
            self._let_go(held)
            self._responses.respond(invite, held.request, 487, now)

    def _hold(
        self, request: Request, source: Flow, reply: Flow, guard: Guard, until: Until, at: float, now: float
    ) -> None:
        # Beyond what is held for everybody there is no answer at all.
        if not self._offenders.admit(source.remote[0]):
            return
        transaction = self._transactions.serve(request, reply, self._responses.stateless_tag(request), now)
        if request.method == "INVITE":
            # RFC 3261 section 17.2.1: within 200 ms.
            self._responses.respond(transaction, request, 100, now)
        self._held[transaction.key] = Held(
            request=request,
            source=source,
            reply=reply,
            guard=guard,
            transaction=transaction,
            until=until,
            at=at,
            schedule=self._transactions.schedule,
        )

    def _let_go(self, held: Held) -> None:
        held.released()
        del self._held[held.transaction.key]
        self._offenders.dismiss(held.source.remote[0])


def _place(host: str) -> str:
    """What counts as one address: an IPv6 network of 64 bits is one customer's (RFC 6177)."""
    if ":" not in host:
        return host
    return str(ipaddress.ip_network((host.partition("%")[0], 64), strict=False))
