"""One connection of a stream transport (RFC 3261 section 18, RFC 5626), without its socket.

A `Connection` cuts messages out of what comes, answers keep-alives, and says when the peer has tried our patience. It
has the verbs of every core; `now` is seconds of any clock that never goes back.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from .message import Request, Response
from .parser import DEFAULT_LIMITS, KeepAlive, Limits, MalformedMessage, StreamParser
from .transaction import Flow, Schedule, Timed
from .uri import Uri

__all__ = ["Closing", "Connection", "Received", "StreamLimits", "Wait", "next_hop", "return_flow"]

Received = Request | Response | MalformedMessage

DEFAULT_PORTS: Mapping[str, int] = {"UDP": 5060, "TCP": 5060, "TLS": 5061}


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamLimits:
    """How much of a stream's peer is borne with. Times are in seconds.

    connections           at a time, of either direction
    connections_per_host  of them, with one address
    buffer_bytes          that a peer may leave unread before it is dropped
    connect_s             for making a connection, and for the handshake of TLS
    message_s             for a message to arrive whole, from its first byte, and for the first one to come
    idle_s                without traffic, after which a connection that nothing needs is closed
    ping_s                between two pings along a connection that we have made (RFC 5626 section 4.4.1)
    pong_s                for the answer to one
    """

    connections: int = 1000
    connections_per_host: int = 250
    buffer_bytes: int = 1 << 20
    connect_s: float = 5.0
    message_s: float = 16.0
    idle_s: float = 300.0
    ping_s: float = 100.0
    pong_s: float = 10.0


class Closing(enum.Enum):
    """Why a connection ends."""

    PEER = "the peer closed it, or it broke"
    MALFORMED = "the boundary of the next message was lost"
    SLOW_SENDER = "a message did not arrive whole in time"
    SLOW_READER = "the peer left too much unread"
    IDLE = "nothing needed it any more"
    SILENT = "the peer, which had answered pings, did not answer one"
    UNREACHABLE = "it could not be made"
    LOCAL = "we end"


class Wait(enum.Enum):
    """What a connection waits for."""

    MESSAGE = "the rest of a message, or the first one"
    IDLE = "the end of a time without traffic"
    PING = "the time of the next ping"
    PONG = "the answer to a ping"


class Connection(Timed[Wait]):
    """One connection: what has come along it, what is to be sent besides messages, and whether it is to be closed.

    ours      whether we have made it
    closing   why it is to be closed, once what `next_message` still has is dealt with; None to go on
    """

    __slots__ = ("_active_at", "_limits", "_messages", "_parser", "_pinged", "_pongs", "_to_send", "closing", "ours")

    def __init__(
        self,
        *,
        ours: bool,
        schedule: Schedule,
        now: float,
        limits: StreamLimits,
        message_limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        super().__init__(schedule)
        self.ours = ours
        self.closing: Closing | None = None
        self._limits = limits
        self._parser = StreamParser(message_limits)
        self._messages: deque[Received] = deque()
        self._to_send = b""
        self._pinged = self._pongs = False
        self._active_at = now
        self.deadlines = {Wait.IDLE: now + limits.idle_s}
        # Whoever connects has something to say; a place that is held in silence would be one less for others.
        first, within_s = (Wait.PING, limits.ping_s) if ours else (Wait.MESSAGE, limits.message_s)
        self.deadlines = {**self.deadlines, first: now + within_s}

    def receive(self, data: bytes, now: float) -> None:
        """Take what came. Never raises, whatever it is."""
        self._parser.feed(data)
        keep_alives: list[KeepAlive] = []
        progress = False
        while not self._parser.broken:
            item: Received | KeepAlive | None
            try:
                item = self._parser.next_message()
            except MalformedMessage as error:
                item = error
            if item is None:
                break
            progress = True
            if isinstance(item, KeepAlive):
                keep_alives.append(item)
            else:
                self._messages.append(item)
        if self._parser.broken:
            self._close(Closing.MALFORMED)
            return
        # A keep-alive of the peer's says that it wants the connection; its pongs only say that it is there.
        if self._messages or not self.ours:
            self._active_at = now
        deadlines = dict(self.deadlines)
        if self._pinged and len(keep_alives) == 1:
            # One empty line while an answer is due is that answer, whatever came before it.
            self._pongs = True
        else:
            self._to_send += KeepAlive.PONG.value * keep_alives.count(KeepAlive.PING)
        self._pinged = False
        deadlines.pop(Wait.PONG, None)
        if not self._parser.partial:
            deadlines.pop(Wait.MESSAGE, None)
        elif progress or Wait.MESSAGE not in deadlines:
            # From its first byte on: a peer that sends one now and then gains nothing by it.
            deadlines[Wait.MESSAGE] = now + self._limits.message_s
        if deadlines != self.deadlines:
            self.deadlines = deadlines

    def next_message(self) -> Received | None:
        """The next message, or what was wrong with it; None until more has come."""
        return self._messages.popleft() if self._messages else None

    def data_to_send(self) -> bytes:
        """The keep-alives that are to be sent now; they are not given twice."""
        data, self._to_send = self._to_send, b""
        return data

    def sent(self, now: float) -> None:
        """A message is sent."""
        self._active_at = now

    def handle_timer(self, now: float, *, needed: bool) -> None:
        """Do what is due by `now`; `needed` is whether a call or a transaction relies on the connection."""
        while (wait := self.next_due(now)) is not None:
            deadlines = dict(self.deadlines)
            del deadlines[wait]
            if wait is Wait.MESSAGE:
                self._close(Closing.SLOW_SENDER)
                return
            if wait is Wait.PONG:
                self._close(Closing.SILENT)
                return
            if wait is Wait.IDLE:
                idle_at = (now if needed else self._active_at) + self._limits.idle_s
                if idle_at <= now:
                    self._close(Closing.IDLE)
                    return
                deadlines[Wait.IDLE] = idle_at
            else:
                deadlines[Wait.PING] = now + self._limits.ping_s
                if needed:
                    self._to_send += KeepAlive.PING.value
                    self._pinged = True
                    if self._pongs:
                        # RFC 5626 section 4.4.1; a peer that knows nothing of it ignores empty lines.
                        deadlines[Wait.PONG] = now + self._limits.pong_s
            self.deadlines = deadlines

    def _close(self, why: Closing) -> None:
        self.closing = why
        self.deadlines = {}


def return_flow(response: Response, flow: Flow) -> Flow:
    """Where `response` goes once the connection `flow`, along which its request came, is lost (section 18.2.2).

    To the address that the request came from, on the port that its Via names.
    """
    via = response.via
    remote = (flow.remote[0], via.port or DEFAULT_PORTS[flow.transport])
    return Flow(flow.transport, flow.local, remote, via.host if flow.transport == "TLS" else "")


def next_hop(request: Request) -> Uri:
    """Where a request of ours goes first (RFC 3261 section 8.1.2): a strict router is the Request-URI already."""
    route = request.route
    return route[0].uri if route and "lr" in route[0].uri.parameters else request.uri
