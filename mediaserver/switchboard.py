"""Who is on the line: admits calls, hands each its events, and sees all of them off when the server stops."""

from __future__ import annotations

import asyncio
from types import TracebackType

import structlog

import sip
from mediaserver.call import Call, Means, Shutdown

__all__ = ["Switchboard"]

log = structlog.get_logger("switchboard")

# Long enough for a call to end, short enough for a caller to try again (RFC 3261 section 20.33).
RETRY_AFTER_S = 5
# How long calls may take to say good-bye when the server stops.
FAREWELL_S = 4


class Switchboard:
    """The calls that are alive, each a task. An async context manager, whose end is the end of all calls."""

    def __init__(self, means: Means) -> None:
        self._means = means
        self._calls: dict[str, Call] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._shut = False

    async def __aenter__(self) -> Switchboard:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shut = True
        self._refuse(FAREWELL_S)
        for call in self._calls.values():
            call.deliver(Shutdown())
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
        return not self._shut and len(self._calls) < self._means.config.sip.max_calls

    def deliver(self, event: sip.Event) -> None:
        """Take an event of the SIP agent to its call."""
        if isinstance(event, sip.Offered):
            self._admit(event)
        elif event.call is not None and (call := self._calls.get(event.call)):
            call.deliver(event)

    def _admit(self, offered: sip.Offered) -> None:
        call = Call(offered, self._means)
        self._calls[call.id] = call
        if len(self._calls) >= self._means.config.sip.max_calls:
            self._refuse(RETRY_AFTER_S)
        task = asyncio.create_task(self._run(call), name=f"call {call.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, call: Call) -> None:
        try:
            await call.run()
        except Exception:
            log.exception("call failed", call=call.id)
            call.abandon()
        finally:
            del self._calls[call.id]
            if self.accepting:
                self._means.signalling.agent.admission = sip.Admission()

    def _refuse(self, retry_after_s: int) -> None:
        self._means.signalling.agent.admission = sip.Admission(status=503, retry_after_s=retry_after_s)
