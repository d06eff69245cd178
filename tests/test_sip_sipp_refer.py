"""sipp transfers us, and is transferred: tests/sipp/uac_refer.xml and uas_refer.xml."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from sip import Answered, Cause, Event, NameAddr, Outcome, Referral, ReferralDone, Requested, Transfer, Transferred

from .test_sip_sipp import SIPP, Desk, assert_nothing_live, call_us, desk, place, sipp_serves

pytestmark = pytest.mark.skipif(SIPP is None, reason="sipp is not installed (Debian package sip-tester)")
SERVED = {"REFER": ("message/sipfrag",), "NOTIFY": ("message/sipfrag",)}


class Transferee(Desk):
    """Is transferred to somebody who rings and is busy."""

    def __init__(self) -> None:
        super().__init__()
        self.referral: Referral | None = None
        self.done: list[ReferralDone] = []

    def __call__(self, event: Event) -> None:
        now = self.transport.now()
        if isinstance(event, Requested):
            self.referral = Referral.open(self.transport.agent, event, now)
            assert self.referral is not None
            assert self.referral.order.target.user == "carol"
            self.referral.accept(now)
            asyncio.get_running_loop().call_later(0.2, self._tell, 180, "Ringing")
            asyncio.get_running_loop().call_later(0.4, self._tell, 486, "Busy Here")
        elif self.referral is not None and self.referral.receive(event, now):
            self.done.extend(iter(self.referral.next_event, None))
        else:
            super().__call__(event)

    def _tell(self, status: int, reason: str) -> None:
        assert self.referral is not None
        tell = self.referral.progress if status < 200 else self.referral.finish
        tell(self.transport.now(), status, reason)
        self.transport.flush()


class Transferor(Desk):
    """Transfers whoever answers, and hangs up when that has succeeded."""

    def __init__(self) -> None:
        super().__init__()
        self.transfer: Transfer | None = None
        self.outcome: Transferred | None = None

    def __call__(self, event: Event) -> None:
        now = self.transport.now()
        if isinstance(event, Answered):
            target = NameAddr.parse("<sip:carol@127.0.0.1>")
            self.transfer = Transfer(self.transport.agent, event.call, target, now=now)
        elif self.transfer is not None and self.transfer.receive(event, now):
            self.outcome = self.transfer.next_event()
            if self.outcome is not None:
                self.transport.bye(self.outcome.call)
        else:
            super().__call__(event)


async def test_sipp_transfers_us_and_hears_how_it_went(tmp_path: Path) -> None:
    transferee = Transferee()
    async with desk(host=transferee, serve_within=SERVED):
        await call_us(transferee, "uac_refer", "any", tmp_path)
        (over,) = await transferee.ended(1)
        assert over.cause is Cause.REMOTE_BYE
        assert transferee.done == [ReferralDone(told=True)]
        assert_nothing_live(transferee)


async def test_we_transfer_sipp_and_hear_how_it_went(tmp_path: Path) -> None:
    transferor = Transferor()
    async with (
        desk(host=transferor, serve_within=SERVED),
        sipp_serves("uas_refer", 1, tmp_path) as address,
    ):
        call = place(transferor, address)
        (over,) = await transferor.ended(1)
        assert over.cause is Cause.LOCAL_BYE
        assert transferor.outcome == Transferred(call=call, outcome=Outcome.SUCCEEDED, status=200, reason="OK")
