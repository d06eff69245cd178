"""A registration (RFC 3261 section 10): one account's binding at its registrar, as one table, from birth to farewell.

    registration = Registration(agent, account, flows, random=..., now=...)
    registration.receive(event, now)     each Responded and FlowFailed of the agent; True if it was the registration's
    registration.handle_timer(now)       when registration.wake_at() says so
    registration.next_event()            what happened, until None
    registration.unregister(now)         once, at the end

It speaks through an `Agent`, which answers challenges; several accounts are several objects.
"""

from __future__ import annotations

import enum
import ipaddress
import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random

from .agent import Agent
from .call import FlowFailed, Responded
from .digest import Keyring, Login
from .headers import NameAddr
from .message import Response
from .transaction import Flow
from .uri import Parameters, Uri

__all__ = [
    "REGISTRATION_DEADLINES",
    "REGISTRATION_ROWS",
    "Account",
    "Registered",
    "Registration",
    "RegistrationDeadline",
    "RegistrationDo",
    "RegistrationEvent",
    "RegistrationFailed",
    "RegistrationInput",
    "RegistrationState",
    "Unregistered",
    "retry_after_s",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Who registers where.

    registrar  Request-URI: the domain, without a user
    address    the address of record: From and To
    login      for the registrar's challenges; None if it has none
    expires_s  how long a binding is asked for
    """

    registrar: Uri
    address: NameAddr
    login: Login | None = None
    expires_s: int = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """The binding was made or renewed.

    expires_s     for so long
    refresh_in_s  it is renewed then
    contact       the URI that is bound: with the address that the registrar sees us at, where it has said so
    """

    expires_s: int
    refresh_in_s: float
    contact: Uri


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistrationFailed:
    """A REGISTER failed, and another one follows; a binding made before lasts as long as it was granted.

    status  of the response, 408 if there was none
    """

    status: int
    reason: str
    retry_in_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Unregistered:
    """The last event. `confirmed`: the registrar has said that the binding is gone, or there was none."""

    confirmed: bool


RegistrationEvent = Registered | RegistrationFailed | Unregistered


class RegistrationState(enum.Enum):
    """Where a registration stands."""

    REGISTERING = "a REGISTER, the first one or one after a failure, waits for its response"
    REGISTERED = "bound"
    REFRESHING = "bound, and the REGISTER that renews it waits for its response"
    WAITING = "the last REGISTER failed"
    LEAVING = "we want to go, and a REGISTER still waits for its response"
    UNREGISTERING = "the REGISTER that removes the binding waits for its response"
    UNREGISTERED = "over"


class RegistrationInput(enum.Enum):
    """What the registrar says, and what the host wants."""

    GRANTED = "2xx"
    TOO_BRIEF = "423 with Min-Expires, to a request for less"
    REFUSED = "any other response, or none"
    UNREGISTER = "unregister, with a binding"
    FORGET = "unregister, with none"
    FLOW_LOST = "the connection is gone"


class RegistrationDeadline(enum.Enum):
    """What a registration waits for, beyond what its transactions do."""

    REFRESH = "renew the binding, at 50 to 85 % of its time"
    RETRY = "try again after a failure"
    KEEP_ALIVE = "keep NATs and connections open (RFC 5626 section 3.5)"
    GIVE_UP = "go without the registrar's leave"


class RegistrationDo(enum.Enum):
    """What a row brings about; a `TELL` is an event."""

    SEND = enum.auto()
    SEND_FAREWELL = enum.auto()
    SEND_KEEP_ALIVE = enum.auto()
    TELL_REGISTERED = enum.auto()
    TELL_FAILED = enum.auto()
    TELL_UNREGISTERED = enum.auto()


_S, _I, _D, _Do = RegistrationState, RegistrationInput, RegistrationDeadline, RegistrationDo

REGISTRATION_ROWS: Mapping[
    tuple[RegistrationState, RegistrationInput | RegistrationDeadline],
    tuple[RegistrationState, tuple[RegistrationDo, ...]],
] = {
    (_S.REGISTERING, _I.GRANTED): (_S.REGISTERED, (_Do.TELL_REGISTERED,)),
    # RFC 3261 section 10.2.8.
    (_S.REGISTERING, _I.TOO_BRIEF): (_S.REGISTERING, (_Do.SEND,)),
    (_S.REGISTERING, _I.REFUSED): (_S.WAITING, (_Do.TELL_FAILED,)),
    (_S.REGISTERING, _I.UNREGISTER): (_S.LEAVING, ()),
    (_S.REGISTERING, _I.FORGET): (_S.LEAVING, ()),
    (_S.REGISTERED, _D.REFRESH): (_S.REFRESHING, (_Do.SEND,)),
    (_S.REGISTERED, _D.KEEP_ALIVE): (_S.REGISTERED, (_Do.SEND_KEEP_ALIVE,)),
    # RFC 5626 section 4.5: a flow that served is replaced at once, one that did not after a while.
    (_S.REGISTERED, _I.FLOW_LOST): (_S.REGISTERING, (_Do.SEND,)),
    (_S.REGISTERED, _I.UNREGISTER): (_S.UNREGISTERING, (_Do.SEND_FAREWELL,)),
    (_S.REFRESHING, _I.GRANTED): (_S.REGISTERED, (_Do.TELL_REGISTERED,)),
    (_S.REFRESHING, _I.TOO_BRIEF): (_S.REFRESHING, (_Do.SEND,)),
    (_S.REFRESHING, _I.REFUSED): (_S.WAITING, (_Do.TELL_FAILED,)),
    (_S.REFRESHING, _D.KEEP_ALIVE): (_S.REFRESHING, (_Do.SEND_KEEP_ALIVE,)),
    (_S.REFRESHING, _I.UNREGISTER): (_S.LEAVING, ()),
    (_S.WAITING, _D.RETRY): (_S.REGISTERING, (_Do.SEND,)),
    (_S.WAITING, _I.UNREGISTER): (_S.UNREGISTERING, (_Do.SEND_FAREWELL,)),
    (_S.WAITING, _I.FORGET): (_S.UNREGISTERED, (_Do.TELL_UNREGISTERED,)),
    # Section 10.2: no new REGISTER before the last one has its final response.
    (_S.LEAVING, _I.GRANTED): (_S.UNREGISTERING, (_Do.SEND_FAREWELL,)),
    (_S.LEAVING, _I.TOO_BRIEF): (_S.UNREGISTERED, (_Do.TELL_UNREGISTERED,)),
    (_S.LEAVING, _I.REFUSED): (_S.UNREGISTERED, (_Do.TELL_UNREGISTERED,)),
    (_S.LEAVING, _D.GIVE_UP): (_S.UNREGISTERED, (_Do.TELL_UNREGISTERED,)),
    (_S.UNREGISTERING, _I.GRANTED): (_S.UNREGISTERED, (_Do.TELL_UNREGISTERED,)),
    (_S.UNREGISTERING, _I.TOO_BRIEF): (_S.UNREGISTERED, (_Do.TELL_UNREGISTERED,)),
    (_S.UNREGISTERING, _I.REFUSED): (_S.UNREGISTERED, (_Do.TELL_UNREGISTERED,)),
    (_S.UNREGISTERING, _D.GIVE_UP): (_S.UNREGISTERED, (_Do.TELL_UNREGISTERED,)),
}

# A deadline that is in two states runs on from the one to the other.
REGISTRATION_DEADLINES: Mapping[RegistrationState, frozenset[RegistrationDeadline]] = {
    _S.REGISTERED: frozenset({_D.REFRESH, _D.KEEP_ALIVE}),
    _S.REFRESHING: frozenset({_D.KEEP_ALIVE}),
    _S.WAITING: frozenset({_D.RETRY}),
    _S.LEAVING: frozenset({_D.GIVE_UP}),
    _S.UNREGISTERING: frozenset({_D.GIVE_UP}),
}

# RFC 5626 section 4.5 with no other flow in use: min(max-time, base-time * 2^failures), of which 50 to 100 %.
_BASE_S = 30.0
_MOST_S = 1800.0
# RFC 5626 section 4.4.2, for UDP. Along a connection it is the transport that pings, while we keep its flow.
_KEEP_ALIVE_S = (24.0, 29.0)
# Nobody's restart should cost us more than a day.
_LONGEST_GRANT_S = 86_400
_RETRY_AFTER = re.compile(r"\s*(\d{1,9})")


class Registration:
    """One account's binding. It sends its first REGISTER when it is made.

    state  where it is in the table
    """

    def __init__(
        self,
        agent: Agent,
        account: Account,
        flows: Sequence[Flow],
        *,
        random: Random,
        now: float,
        give_up_after_s: float = 4.0,
    ) -> None:
        """Along the first of `flows` that serves; `give_up_after_s` bounds the wait for the registrar at the end."""
        self.state = RegistrationState.REGISTERING
        self._kept: Flow | None = None
        self.flows = flows
        self._agent = agent
        self._account = account
        self._random = random
        self._give_up_after_s = give_up_after_s
        self._keyring = None if account.login is None else Keyring(account.login)
        # RFC 3261 section 10.2: the same Call-ID for all; the same From tag, so that it reads as one conversation.
        self._call_id = f"{random.getrandbits(64):016x}"
        self._from = account.address.with_tag(f"{random.getrandbits(64):016x}")
        self._seq = random.randint(1, 1 << 20)
        self._expires_s = account.expires_s
        self._contact = self._own_contact()
        self._moved = False
        self._bound_until = now
        self._failures = 0
        self._span_s = 0.0
        self._pending = ""
        self._deadlines: dict[RegistrationDeadline, float] = {}
        self._events: deque[RegistrationEvent] = deque()
        self._send(now, self._expires_s)

    def receive(self, event: Responded | FlowFailed, now: float) -> bool:
        """Take the response to the REGISTER that is out, or the loss of the connection; False if it is another's."""
        if isinstance(event, FlowFailed):
            if event.flow == self._kept and (self.state, RegistrationInput.FLOW_LOST) in REGISTRATION_ROWS:
                self._step(RegistrationInput.FLOW_LOST, now)
            # Others may rely on the same connection.
            return False
        if event.request != self._pending:
            return False
        self._pending = ""
        self._seq = (event.seq or self._seq) + 1
        response = event.response
        status = 408 if response is None else response.status
        reason = "Request Timeout" if response is None else response.reason
        if response is not None:
            self._learn(response)
        farewell = self.state is RegistrationState.UNREGISTERING
        granted_s = 0 if response is None or farewell else self._granted(response)
        if 200 <= status < 300 and (farewell or granted_s > 0):
            happening = RegistrationInput.GRANTED
            self._failures = 0
            self._bound_until = now + granted_s
        elif response is not None and status == 423 and self._lengthened(response):
            happening = RegistrationInput.TOO_BRIEF
        else:
            happening = RegistrationInput.REFUSED
            self._span_s = 0.0 if self._fails_over(response) else self._back_off(response)
        if happening is RegistrationInput.GRANTED and not farewell:
            # If the binding leads elsewhere than to where we are seen, it is replaced at once, but not again and again.
            self._moved = not self._moved and self._own_contact() != self._contact
            share = self._random.uniform(0.5, 0.85)
            self._span_s = 0.0 if self._moved else share * min(granted_s, _LONGEST_GRANT_S)
        self._step(happening, now, status=status, reason=reason, granted_s=granted_s)
        return True

    def handle_timer(self, now: float) -> None:
        """Do what is due by `now`."""
        while (at := self.wake_at()) is not None and at <= now:
            self._step(min(self._deadlines, key=self._deadlines.__getitem__), now)

    def wake_at(self) -> float | None:
        """When `handle_timer` wants to be called; None if nothing is waited for."""
        return min(self._deadlines.values(), default=None)

    def next_event(self) -> RegistrationEvent | None:
        """The next thing that happened, None if that was all."""
        return self._events.popleft() if self._events else None

    def unregister(self, now: float) -> None:
        """Remove the binding, if there is one; Unregistered comes in a bounded time. Once more does nothing."""
        bound = now < self._bound_until or self.state is RegistrationState.REGISTERED
        happening = RegistrationInput.UNREGISTER if bound else RegistrationInput.FORGET
        if (self.state, happening) in REGISTRATION_ROWS:
            self._step(happening, now)

    def _step(
        self,
        happening: RegistrationInput | RegistrationDeadline,
        now: float,
        *,
        status: int = 0,
        reason: str = "",
        granted_s: int = 0,
    ) -> None:
        entered, todo = REGISTRATION_ROWS[self.state, happening]
        confirmed = happening in (RegistrationInput.GRANTED, RegistrationInput.FORGET)
        self.state = entered
        if isinstance(happening, RegistrationDeadline):
            del self._deadlines[happening]
        self._deadlines = {
            deadline: self._deadlines[deadline] if deadline in self._deadlines else now + self._span(deadline)
            for deadline in REGISTRATION_DEADLINES.get(entered, ())
            if not (deadline is RegistrationDeadline.KEEP_ALIVE and self.flow.reliable)
        }
        for do in todo:
            if do is RegistrationDo.SEND:
                self._send(now, self._expires_s)
            elif do is RegistrationDo.SEND_FAREWELL:
                self._send(now, 0)
            elif do is RegistrationDo.SEND_KEEP_ALIVE:
                self._agent.keep_alive(now, self.flow)
            elif do is RegistrationDo.TELL_REGISTERED:
                self._events.append(Registered(expires_s=granted_s, refresh_in_s=self._span_s, contact=self._contact))
            elif do is RegistrationDo.TELL_FAILED:
                self._events.append(RegistrationFailed(status=status, reason=reason, retry_in_s=self._span_s))
            else:
                # A response that still comes is nobody's.
                self._pending = ""
                self._keep(None)
                self._events.append(Unregistered(confirmed=confirmed))

    def _span(self, deadline: RegistrationDeadline) -> float:
        if deadline is RegistrationDeadline.GIVE_UP:
            return self._give_up_after_s
        if deadline is RegistrationDeadline.KEEP_ALIVE:
            return self._random.uniform(*_KEEP_ALIVE_S)
        return self._span_s

    def _keep(self, flow: Flow | None) -> None:
        """Have `flow` kept open, and no other."""
        if flow != self._kept:
            if self._kept is not None:
                self._agent.release(self._kept)
            if flow is not None:
                self._agent.keep(flow)
            self._kept = flow

    def _send(self, now: float, expires_s: int) -> None:
        self._keep(self.flow)
        before, self._contact = self._contact, self._own_contact()
        contacts = [_binding(self._contact, expires_s)]
        if before != self._contact:
            contacts.append(_binding(before, 0))
        self._pending = self._agent.request(
            now,
            "REGISTER",
            self._account.registrar,
            self.flow,
            from_=self._from,
            to=self._account.address,
            headers=(("Contact", ", ".join(contacts)), ("Expires", str(expires_s))),
            call_id=self._call_id,
            seq=self._seq,
            keyring=self._keyring,
        )

    @property
    def flows(self) -> Sequence[Flow]:
        """Along which the registrar may be reached, the preferred one first; the host changes them as names resolve."""
        return self._flows

    @flows.setter
    def flows(self, flows: Sequence[Flow]) -> None:
        self._flows = tuple(flows)
        self._at = self._flows.index(self._kept) if self._kept in self._flows else 0

    @property
    def flow(self) -> Flow:
        """Along which the next REGISTER goes."""
        return self._flows[self._at]

    def _fails_over(self, response: Response | None) -> bool:
        """Whether another flow is tried at once (RFC 3263 section 4.3); once all have failed, it is for a while."""
        if response is not None and response.status != 503:
            return False
        self._at = (self._at + 1) % len(self._flows)
        return self._at != 0

    def _own_contact(self) -> Uri:
        return replace(NameAddr.parse(self._agent.contact(self.flow)).uri, user=self._account.address.uri.user)

    def _learn(self, response: Response) -> None:
        """The address that the registrar sees us at (RFC 3581), for the Contact."""
        via = response.via
        host = via.received.removeprefix("[").removesuffix("]")
        port = self.flow.local[1] if self.flow.reliable else via.rport or 0
        if 0 < port < 65536 and _is_reachable(host) and (":" in host) == (":" in self.flow.local[0]):
            self._agent.reached_at(self.flow, (host, port))

    def _granted(self, response: Response) -> int:
        """For how many seconds the binding stands: by our Contact, then by Expires (RFC 3261 section 10.2.4)."""
        own = [contact for contact in response.contacts if contact.uri.equivalent(self._contact)]
        # A border controller may have put its own address in the place of ours.
        for contact in own or (response.contacts if len(response.contacts) == 1 else ()):
            text = contact.parameters.value("expires")
            if text.isascii() and text.isdigit() and len(text) < 11:
                return int(text)
        return self._expires_s if response.expires is None else response.expires

    def _lengthened(self, response: Response) -> bool:
        """Whether Min-Expires asks for more than we did; we do from now on."""
        text = response.headers.get("Min-Expires") or ""
        if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) > self._expires_s):
            return False
        self._expires_s = int(text)
        return True

    def _back_off(self, response: Response | None) -> float:
        self._failures += 1
        doubled = 2.0 ** min(self._failures, 16)
        asked_s = None if response is None else retry_after_s(response)
        if asked_s is None:
            return min(_MOST_S, _BASE_S * doubled) * self._random.uniform(0.5, 1.0)
        # Not all at the same moment, and not for ever every second, whatever the registrar says.
        return max(asked_s, min(_MOST_S, doubled)) * self._random.uniform(1.0, 1.1)


def retry_after_s(response: Response) -> int | None:
    """What Retry-After says (RFC 3261 section 20.33), but no more than a day; None if it says nothing."""
    match = _RETRY_AFTER.match(response.headers.get("Retry-After") or "")
    return None if match is None else min(int(match[1]), 86_400)


def _binding(contact: Uri, expires_s: int) -> str:
    return str(NameAddr(uri=contact, parameters=Parameters({"expires": str(expires_s)})))


def _is_reachable(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return not (address.is_unspecified or address.is_multicast or "%" in text)
