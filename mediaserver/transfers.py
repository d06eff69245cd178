"""Transfers of ours: we have the peer of a call call somebody else (RFC 3515), and are told how that goes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Literal

import sip

__all__ = ["NOTIFIED_TYPES", "OUTCOMES", "Transfers"]

# How an outcome is told.
OUTCOMES: Mapping[sip.Outcome, Literal["succeeded", "failed", "unknown"]] = {
    sip.Outcome.SUCCEEDED: "succeeded",
    sip.Outcome.FAILED: "failed",
    sip.Outcome.UNKNOWN: "unknown",
}

# What a NOTIFY about a transfer brings (RFC 3515 section 2.4.4).
NOTIFIED_TYPES = ("message/sipfrag",)


class Transfers:
    """Those that are under way."""

    def __init__(self, signalling: sip.Transport) -> None:
        self._signalling = signalling
        self._waiting: dict[sip.Transfer, asyncio.Future[sip.Transferred]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, call: str, target: sip.NameAddr) -> asyncio.Future[sip.Transferred]:
        """Refer the peer of `call` to `target`; the result is what came of it. Raises sip.LocalProtocolError."""
        told: asyncio.Future[sip.Transferred] = asyncio.get_running_loop().create_future()
        transfer = sip.Transfer(self._signalling.agent, call, target, now=self._signalling.now())
        self._waiting[transfer] = told
        self._settle()
        return told

    def deliver(self, event: sip.Event) -> bool:
        """Take an event of the SIP agent; True if it is of a transfer alone."""
        if not self._waiting:
            return False
        now = self._signalling.now()
        # All of them: the end of a call may concern more than one.
        taken = [transfer.receive(event, now) for transfer in self._waiting]
        self._settle()
        return any(taken)

    def close(self) -> None:
        """Wait for nothing more."""
        if self._timer is not None:
            self._timer.cancel()
        for told in self._waiting.values():
            told.cancel()
        self._waiting.clear()

    def _settle(self) -> None:
        """Send what the transfers have to say, wake up when they want to, and tell of those that are over."""
        for transfer in list(self._waiting):
            if (outcome := transfer.next_event()) is not None:
                told = self._waiting.pop(transfer)
                if not told.done():
                    told.set_result(outcome)
        if self._timer is not None:
            self._timer.cancel()
        wakes = [at for transfer in self._waiting if (at := transfer.wake_at()) is not None]
        self._timer = asyncio.get_running_loop().call_at(min(wakes), self._tick) if wakes else None
        self._signalling.flush()

    def _tick(self) -> None:
        now = self._signalling.now()
        for transfer in self._waiting:
            transfer.handle_timer(now)
        self._settle()
