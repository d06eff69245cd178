"""Who may call, and when there is room: networks, calls at a time and calls per second, judged before anything else.

Nothing here waits or keeps anything about who was refused, so that a flood costs what reading it costs. Times are
seconds of one clock that never goes back.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Sequence

import sip
from mediaserver.config import Network, Sip

__all__ = ["Gate"]

# What begins a call; OPTIONS is told what an INVITE would get (RFC 3261 section 11.2).
BEGINNING = frozenset({"INVITE", "OPTIONS", "REFER"})
# Long enough for a call to end, short enough for a caller to try again, while nothing is known of how calls end.
RETRY_AFTER_S = 5
LONGEST_RETRY_AFTER_S = 60
# How much the latest call counts in the mean time between the ends of calls.
LATEST = 0.1


class Gate:
    """The admission of calls; `judge` is what the SIP agent asks (`sip.Agent.admit`)."""

    def __init__(self, settings: Sip) -> None:
        self._networks = settings.networks
        self._unknown = sip.Admission(status=403 if settings.unknown == "refuse" else None)
        self._room = _Room(max_calls=settings.max_calls, calls_per_s=settings.calls_per_s)
        self._closed_for_s: int | None = None

    def judge(self, request: sip.Request, source: sip.Flow, now: float) -> sip.Admission:
        """What a request outside of a call gets; it takes no room by being asked."""
        if not _among(self._networks, source.remote[0]):
            return self._unknown
        if request.method not in BEGINNING or request.to.tag:
            return sip.Admission()
        if self._closed_for_s is not None:
            return sip.Admission(status=503, retry_after_s=self._closed_for_s)
        wait_s = self._room.wait_s(now)
        if wait_s:
            return sip.Admission(status=503, retry_after_s=min(math.ceil(wait_s), LONGEST_RETRY_AFTER_S))
        return sip.Admission()

    @property
    def open(self) -> bool:
        """Whether there is room for a call, as far as calls at a time go."""
        return self._closed_for_s is None and not self._room.full

    def begin(self, now: float) -> None:
        """A call has begun."""
        self._room.begin(now)

    def end(self, now: float) -> None:
        """A call that had begun has ended."""
        self._room.end(now)

    def close(self, retry_after_s: int) -> None:
        """Let nobody in any more; who asks is told to come back after so long."""
        self._closed_for_s = retry_after_s


class _Room:
    """How many calls there may be, and how fast they may come: a token bucket that holds a second's worth."""

    def __init__(self, *, max_calls: int, calls_per_s: float) -> None:
        self._max_calls = max_calls
        self._rate = calls_per_s  # 0: as fast as they come
        self._depth = max(calls_per_s, 1.0)
        self._tokens = self._depth
        self._filled_at = 0.0
        self._calls = 0
        self._ended_at: float | None = None
        self._between_ends_s = float(RETRY_AFTER_S)

    @property
    def full(self) -> bool:
        return self._calls >= self._max_calls

    def wait_s(self, now: float) -> float:
        """How long until there is room for one more, as far as can be told; 0 when there is."""
        waits = [self._between_ends_s] if self.full else []
        if self._rate and self._level(now) < 1:
            waits.append((1 - self._level(now)) / self._rate)
        return max(waits, default=0.0)

    def begin(self, now: float) -> None:
        self._calls += 1
        if self._rate:
            self._tokens, self._filled_at = self._level(now) - 1, now

    def end(self, now: float) -> None:
        self._calls -= 1
        if self._ended_at is not None:
            self._between_ends_s += LATEST * (now - self._ended_at - self._between_ends_s)
        self._ended_at = now

    def _level(self, now: float) -> float:
        return min(self._depth, self._tokens + (now - self._filled_at) * self._rate)


def _among(networks: Sequence[Network], host: str) -> bool:
    address = ipaddress.ip_address(host)
    mapped = getattr(address, "ipv4_mapped", None)
    return any((mapped or address) in network for network in networks)
