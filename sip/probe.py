"""Whether a peer is there: OPTIONS at an interval (RFC 3261 section 11), as one table.

probe = Probe(agent, target, flow, random=..., now=...)
probe.receive(event, now)     each Responded of the agent; True if it was the probe's
probe.handle_timer(now)       when probe.wake_at() says so
probe.next_event()            what happened, until None
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from .agent import Agent
from .call import Responded
from .digest import Keyring, Login
from .headers import NameAddr
from .transaction import Flow
from .uri import Uri

__all__ = ["PROBE_ROWS", "Probe", "ProbeDeadline", "ProbeInput", "ProbeState", "Reached", "Unreached"]

# Whoever says one of these takes no calls. Any other response shows that somebody would (RFC 3261 section 11.2).
_AWAY = frozenset({408, 503, 504})


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """The peer has responded, after `rtt_s`; `again` if it had the last time."""

    rtt_s: float
    status: int
    again: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreached:
    """The peer takes no calls: it says so, or (status 408) says nothing; `again` if it was so the last time."""

    status: int
    again: bool


class ProbeState(enum.Enum):
    """What is known of the peer."""

    UNKNOWN = "the first OPTIONS is out"
    UP = "it responded the last time"
    DOWN = "it did not, or takes no calls"


class ProbeInput(enum.Enum):
    """What became of the OPTIONS that is out."""

    RESPONDED = "a response"
    AWAY = "a response that says that it takes no calls, or none in the time of the transaction"


class ProbeDeadline(enum.Enum):
    """What a probe waits for."""

    SEND = "the next OPTIONS"
    LATE = "no response yet: long before the transaction gives up, calls had better go elsewhere"


_S, _I, _D = ProbeState, ProbeInput, ProbeDeadline

_LEADS_TO: Mapping[ProbeInput | ProbeDeadline, ProbeState] = {
    _I.RESPONDED: _S.UP,
    _I.AWAY: _S.DOWN,
    _D.LATE: _S.DOWN,
}
PROBE_ROWS: Mapping[tuple[ProbeState, ProbeInput | ProbeDeadline], ProbeState] = {
    **{(state, happening): entered for state in ProbeState for happening, entered in _LEADS_TO.items()},
    **{(state, _D.SEND): state for state in ProbeState},
}


class Probe:
    """One peer's probe. It sends its first OPTIONS when it is made.

    state  what is known of the peer
    flow   along which the next OPTIONS goes
    """

    def __init__(
        self,
        agent: Agent,
        target: Uri,
        flow: Flow,
        *,
        from_: NameAddr,
        random: Random,
        now: float,
        login: Login | None = None,
        interval_s: float = 30.0,
        late_after_s: float = 4.0,
    ) -> None:
        self.state = ProbeState.UNKNOWN
        self.flow = flow
        self._agent = agent
        self._target = target
        self._from = from_
        self._random = random
        self._interval_s = interval_s
        self._late_after_s = late_after_s
        self._keyring = None if login is None else Keyring(login)
        self._pending = ""
        self._sent_at = now
        self._deadlines: dict[ProbeDeadline, float] = {}
        self._events: deque[Reached | Unreached] = deque()
        self._send(now)

    def receive(self, event: Responded, now: float) -> bool:
        """Take the response to the OPTIONS that is out; False if the event is another's."""
        if event.request != self._pending:
            return False
        self._pending = ""
        late = self._deadlines.pop(ProbeDeadline.LATE, None) is None
        status = 408 if event.response is None else event.response.status
        if status not in _AWAY:
            again = self._enter(ProbeInput.RESPONDED)
            self._events.append(Reached(rtt_s=now - self._sent_at, status=status, again=again))
        elif not (late and event.response is None):
            self._events.append(Unreached(status=status, again=self._enter(ProbeInput.AWAY)))
        return True

    def handle_timer(self, now: float) -> None:
        """Do what is due by `now`."""
        while (at := self.wake_at()) is not None and at <= now:
            due = min(self._deadlines, key=self._deadlines.__getitem__)
            del self._deadlines[due]
            again = self._enter(due)
            if due is ProbeDeadline.SEND:
                self._send(now)
            else:
                self._events.append(Unreached(status=408, again=again))

    def wake_at(self) -> float | None:
        """When `handle_timer` wants to be called; None if nothing is waited for."""
        return min(self._deadlines.values(), default=None)

    def next_event(self) -> Reached | Unreached | None:
        """The next thing that happened, None if that was all."""
        return self._events.popleft() if self._events else None

    def _enter(self, happening: ProbeInput | ProbeDeadline) -> bool:
        """Take the row for `happening`; whether that changes nothing."""
        before, self.state = self.state, PROBE_ROWS[self.state, happening]
        return before is self.state

    def _send(self, now: float) -> None:
        self._sent_at = now
        self._pending = self._agent.request(
            now,
            "OPTIONS",
            self._target,
            self.flow,
            from_=self._from,
            headers=(("Contact", self._agent.contact(self.flow)), ("Accept", "application/sdp")),
            keyring=self._keyring,
        )
        # Not all trunks in the same breath.
        pause_s = self._interval_s * self._random.uniform(0.9, 1.1)
        self._deadlines = {ProbeDeadline.SEND: now + pause_s, ProbeDeadline.LATE: now + self._late_after_s}
