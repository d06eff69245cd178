"""Who is on the line: makes calls, hands each its events, and sees all of them off when the server stops."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from types import TracebackType

import structlog

import sip
from mediaserver.admission import Gate, Room
from mediaserver.call import Call, Means
from mediaserver.detail import Facts
from mediaserver.inputs import Departed, Drain, Order, Referred, Shutdown, Stranded
from mediaserver.ledger import Ledger
from mediaserver.referrals import Referrals
from mediaserver.transfers import Transfers

__all__ = ["NoRoom", "Switchboard"]

log = structlog.get_logger("switchboard")

# How long calls may take to say good-bye when the server stops.
FAREWELL_S = 4


class NoRoom(Exception):
    """No call can be taken or placed now: the server is full, or will stop. Ask again after `retry_after_s`."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__("There is no room for another call now")
        self.retry_after_s = retry_after_s


class Switchboard:
    """The calls that are alive, each a task. An async context manager, whose end is the end of all calls.

    ledger  what is known of them, and of those that have ended

    Arguments:

    record  gets what is known of each call that has ended
    """

    def __init__(self, means: Means, *, record: Callable[[Facts], None] = lambda facts: None) -> None:
        self._means = means
        self.ledger = Ledger()
        self._calls: dict[str, Call] = {}
        self._record = record
        self._transfers = Transfers(means.signalling)
        self._tasks: set[asyncio.Task[None]] = set()
        self._gate = Gate(means.config, means.trunk_of, means.ours)
        self._referrals = Referrals(means, place=self._begin, room=self._has_room)
        means.signalling.agent.admit = self._gate.judge
        means.signalling.welcome = self._gate.welcomes
        means.metrics.watch(self._gate.families)

    async def __aenter__(self) -> Switchboard:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._gate.close(FAREWELL_S)
        for call in self._calls.values():
            call.deliver(Shutdown())
        self._referrals.close()
        self._transfers.close()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=FAREWELL_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def __len__(self) -> int:
        return len(self._calls)

    @property
    def accepting(self) -> bool:
        """Whether a new call would be taken now."""
        return self._gate.open

    async def drain(self, grace_s: float) -> None:
        """Take no more calls, let those that there are finish what they say, and return when all have ended.

        grace_s  is what refused callers are told, as the time after which a server may be here again
        """
        self._gate.close(math.ceil(grace_s) + FAREWELL_S)
        for call in self._calls.values():
            call.deliver(Drain())
        while self._tasks:
            await asyncio.wait(self._tasks)

    def deliver(self, event: sip.Event) -> None:
        """Take an event of the SIP agent to its call."""
        if isinstance(event, sip.Offered):
            replaced = self._calls.get(event.replaces or "")
            if replaced is None:
                self._begin(event)
            else:
                replaced.take_over(event)
        elif isinstance(event, sip.Requested) and event.message.method == "REFER":
            self._referrals.take(event, self._calls.get(event.call or ""))
        elif self._transfers.deliver(event) or self._referrals.deliver(event):
            pass
        elif isinstance(event, sip.Requested) and event.message.method == "NOTIFY":
            # RFC 6665 section 4.1.3: nobody has subscribed, or not any more.
            self._means.signalling.respond(event.request, 481)
        elif isinstance(event, sip.FlowFailed) or event.call is None:
            pass
        elif (call := self._calls.get(event.call)) is not None:
            call.deliver(event)

    def wait_s(self, host: str) -> int:
        """After how long to ask again whether there is room for a call with `host`; 0 when there is."""
        return self._gate.wait_s(host, self._means.signalling.now())

    def find(self, call_id: str) -> Call | None:
        """The call of that SIP Call-ID that somebody has placed to us."""
        return next((call for call in self._calls.values() if call.call_id == call_id), None)

    def place(self, order: Order) -> Call:
        """Begin a call that nobody has asked for by SIP. Raises NoRoom."""
        if wait_s := self.wait_s(order.flows[0].remote[0]):
            raise NoRoom(wait_s)
        return self._begin(order)

    def transfer(self, call: Call, target: sip.NameAddr) -> asyncio.Future[sip.Transferred]:
        """Have the peer of `call` call somebody else; the call ends when that has succeeded.

        Raises sip.LocalProtocolError when it is not up, or being transferred already.
        """
        if not call.transferable:
            raise sip.LocalProtocolError("the call is not up, or being transferred already")
        told = self._transfers.begin(call.id, target)
        call.deliver(Referred())
        told.add_done_callback(lambda told: call.deliver(Departed() if _succeeded(told) else Stranded()))
        return told

    def _begin(self, begun: sip.Offered | Order) -> Call:
        call = Call(begun, self._means, moved=self._move)
        self._calls[call.id] = call
        self.ledger.begin(call)
        peer = begun.flows[0] if isinstance(begun, Order) else begun.flow
        rooms = self._gate.begin(peer.remote[0], self._means.signalling.now())
        task = asyncio.create_task(self._run(call, rooms), name=f"call {call.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return call

    def _has_room(self, host: str) -> bool:
        return not self.wait_s(host)

    def _move(self, former: str, call: Call) -> None:
        self._calls[call.id] = self._calls.pop(former)

    async def _run(self, call: Call, rooms: tuple[Room, ...]) -> None:
        try:
            await call.run()
        except Exception:
            log.exception("call failed", call=call.id)
            call.abandon()
        finally:
            del self._calls[call.id]
            now = self._means.signalling.now()
            self._record(self.ledger.end(call, now))
            self._gate.end(rooms, now)


def _succeeded(told: asyncio.Future[sip.Transferred]) -> bool:
    return not told.cancelled() and told.result().outcome is sip.Outcome.SUCCEEDED
