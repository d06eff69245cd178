"""Who may call, and when there is room: networks, calls at a time and calls per second, judged before anything else.

Nothing here waits or keeps anything about who was refused, so that a flood costs what reading it costs. Times are
seconds of one clock that never goes back.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Callable, Sequence

import structlog
from prometheus_client.core import GaugeMetricFamily, Metric

import sip
from mediaserver.config import Config, Network, Trunk

__all__ = ["Gate", "Room"]

# What begins a call; OPTIONS is told what an INVITE would get (RFC 3261 section 11.2).
BEGINNING = frozenset({"INVITE", "OPTIONS", "REFER"})
# Long enough for a call to end, short enough for a caller to try again, while nothing is known of how calls end.
RETRY_AFTER_S = 5
LONGEST_RETRY_AFTER_S = 60
# How much the latest call counts in the mean time between the ends of calls.
LATEST = 0.1
# So many unknown sources are logged.
MOST_TOLD = 100

log = structlog.get_logger("admission")


class Gate:
    """The admission of calls; `judge` is what the SIP agent asks (`sip.Agent.admit`).

    ours  whether a flow is of a telephone of this server's own, which is let in whatever the networks are
    """

    def __init__(
        self,
        settings: Config,
        trunk_of: Callable[[str], Trunk | None],
        ours: Callable[[sip.Flow], bool] = lambda flow: False,
    ) -> None:
        self._networks = settings.sip.networks
        self._unknown = sip.Admission(status=403 if settings.sip.unknown == "refuse" else None)
        self._room = Room(max_calls=settings.sip.max_calls, calls_per_s=settings.sip.calls_per_s)
        self._trunk_of = trunk_of
        self._ours = ours
        self._trunks = {
            trunk.name: Room(max_calls=trunk.max_calls or math.inf, calls_per_s=trunk.calls_per_s)
            for trunk in settings.trunk
        }
        self._closed_for_s: int | None = None
        self._told: set[str] = set()

    def judge(self, request: sip.Request | None, source: sip.Flow, now: float) -> sip.Admission:
        """What a request outside of a call gets, None being an unreadable one; it takes no room by being asked."""
        host = source.remote[0]
        trunk = self._trunk_of(host)
        if trunk is None and not _among(self._networks, host) and not self._ours(source):
            self._tell(host)
            return self._unknown
        if request is None or request.method not in BEGINNING or request.to.tag:
            return sip.Admission()
        wait_s = self.wait_s(host, now)
        return sip.Admission(status=503, retry_after_s=wait_s) if wait_s else sip.Admission()

    def wait_s(self, host: str, now: float) -> int:
        """After how long to ask again whether there is room for a call with `host`; 0 when there is."""
        if self._closed_for_s is not None:
            return self._closed_for_s
        wait_s = max(room.wait_s(now) for room in self._rooms(self._trunk_of(host)))
        return min(math.ceil(wait_s), LONGEST_RETRY_AFTER_S)

    def welcomes(self, host: str) -> bool:
        """Whether to take a connection from there: one whose requests will all be ignored takes up a place in vain."""
        return self._unknown.status is not None or self._trunk_of(host) is not None or _among(self._networks, host)

    @property
    def open(self) -> bool:
        """Whether there is room for a call, as far as calls at a time go."""
        return self._closed_for_s is None and not self._room.full

    def begin(self, host: str, now: float) -> tuple[Room, ...]:
        """A call with `host` has begun; gives the room that it takes, for `end`."""
        rooms = self._rooms(self._trunk_of(host))
        for room in rooms:
            room.begin(now)
        return rooms

    def end(self, rooms: tuple[Room, ...], now: float) -> None:
        """A call that took `rooms` has ended."""
        for room in rooms:
            room.end(now)

    def families(self) -> list[Metric]:
        """How many calls each trunk has, as a metric family."""
        calls = GaugeMetricFamily("sip_trunk_calls", "Calls with the trunk", labels=["trunk"])
        for name, room in self._trunks.items():
            calls.add_metric([name], room.calls)
        return [calls]

    def _tell(self, host: str) -> None:
        """Log once who is not let in, so that whoever should be is found; forged sources do not fill the log."""
        if len(self._told) < MOST_TOLD and host not in self._told:
            self._told.add(host)
            log.warning("source unknown: list it in sip.networks, or in a trunk, if it may call", source=host)

    def _rooms(self, trunk: Trunk | None) -> tuple[Room, ...]:
        return (self._room,) if trunk is None else (self._room, self._trunks[trunk.name])

    def close(self, retry_after_s: int) -> None:
        """Let nobody in any more; who asks is told to come back after so long."""
        self._closed_for_s = retry_after_s


class Room:
    """How many calls there may be, and how fast they may come: a token bucket that holds a second's worth.

    calls  that there are
    """

    def __init__(self, *, max_calls: float, calls_per_s: float) -> None:
        self.calls = 0
        self._max_calls = max_calls
        self._rate = calls_per_s  # 0: as fast as they come
        self._depth = max(calls_per_s, 1.0)
        self._tokens = self._depth
        self._filled_at = 0.0
        self._ended_at: float | None = None
        self._between_ends_s = float(RETRY_AFTER_S)

    @property
    def full(self) -> bool:
        return self.calls >= self._max_calls

    def wait_s(self, now: float) -> float:
        """How long until there is room for one more, as far as can be told; 0 when there is."""
        waits = [self._between_ends_s] if self.full else []
        if self._rate and self._level(now) < 1:
            waits.append((1 - self._level(now)) / self._rate)
        return max(waits, default=0.0)

    def begin(self, now: float) -> None:
        self.calls += 1
        if self._rate:
            self._tokens, self._filled_at = self._level(now) - 1, now

    def end(self, now: float) -> None:
        self.calls -= 1
        if self._ended_at is not None:
            self._between_ends_s += LATEST * (now - self._ended_at - self._between_ends_s)
        self._ended_at = now

    def _level(self, now: float) -> float:
        return min(self._depth, self._tokens + (now - self._filled_at) * self._rate)


def _among(networks: Sequence[Network], host: str) -> bool:
    address = ipaddress.ip_address(host)
    mapped = getattr(address, "ipv4_mapped", None)
    return any((mapped or address) in network for network in networks)
