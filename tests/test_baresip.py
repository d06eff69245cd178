"""baresip, an independent telephone, on calls with us: what it hears, holds, dials and hangs up."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

import sip
from mediaserver import server, softphone
from tests import baresip_phone
from tests.baresip_phone import RATE_HZ, TONE_HZ, Baresip, baresip
from tests.live import likeness, serving, spoken, until_calls
from tests.test_referrals import TRUSTED, phone

TEXT = "The quick brown fox jumps over the lazy dog."
STAYING = [{"say": TEXT, "then": "stay", "stay_s": 30}]

pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(not baresip_phone.is_installed(), reason="baresip is not installed (Debian: baresip-core)"),
]


async def dialled(phone: Baresip, running: server.Server, parameters: str = "") -> None:
    phone.order("dial", f"sip:hello@{running.sip_address}{parameters}")
    await phone.until("CALL_ESTABLISHED")


async def sent_in(running: server.Server, seconds: float) -> int:
    before = running.endpoint.counters().packets_sent
    await asyncio.sleep(seconds)
    return running.endpoint.counters().packets_sent - before


def pitch_hz(samples: bytes) -> float:
    """The strongest frequency."""
    spectrum = np.abs(np.fft.rfft(np.frombuffer(samples, np.int16)))
    return float(np.argmax(spectrum) * RATE_HZ / (len(samples) // 2))


@pytest.mark.parametrize("parameters", ["", ";transport=tcp"])
async def test_baresip_hears_what_the_engine_said(tmp_path: Path, parameters: str) -> None:
    async with serving(route=[{"say": TEXT}]) as running, baresip(tmp_path) as phone:
        await dialled(phone, running, parameters)
        await phone.until("CALL_CLOSED")
        await until_calls(running, 0)
        assert likeness(phone.heard(), await spoken(running.engine, TEXT)) > 0.95


async def test_baresip_holds_and_resumes(tmp_path: Path) -> None:
    async with serving(route=STAYING) as running, baresip(tmp_path) as phone:
        await dialled(phone, running)
        assert await sent_in(running, 0.5) > 20
        phone.order("hold")
        await phone.until("CALL_REMOTE_SDP")
        await asyncio.sleep(0.1)
        assert await sent_in(running, 0.5) == 0
        phone.order("resume")
        await phone.until("CALL_REMOTE_SDP")
        await asyncio.sleep(0.1)
        assert 20 < await sent_in(running, 0.5) < 30
        phone.order("hangup")
        await until_calls(running, 0)


async def test_digits_of_baresip_are_heard(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with serving(route=STAYING) as running, baresip(tmp_path) as phone:
        await dialled(phone, running)
        for digit in "7#":
            phone.order("sndcode", digit)
            await asyncio.sleep(0.4)
        phone.order("hangup")
        await until_calls(running, 0)
    assert " digits=2 " in capsys.readouterr().out


@pytest.mark.parametrize("who", ["we", "the peer"])
async def test_baresip_takes_our_call_and_is_heard(tmp_path: Path, who: str) -> None:
    async with baresip(tmp_path, answers=True) as phone:
        calling = asyncio.create_task(softphone.call(softphone.Order(uri=phone.uri, seconds=2 if who == "we" else 10)))
        await phone.until("CALL_ESTABLISHED")
        if who == "the peer":
            await asyncio.sleep(1.5)
            phone.order("hangup")
        outcome = await calling
        assert (outcome.answered, outcome.ended_by) == (True, f"{who} hung up")
        assert outcome.counters is not None
        assert outcome.counters.lost == 0
        assert abs(pitch_hz(outcome.heard) - TONE_HZ) < 5


async def test_call_that_baresip_does_not_take_is_given_up(tmp_path: Path) -> None:
    async with baresip(tmp_path) as phone:
        giving_up = asyncio.get_running_loop().create_future()
        calling = asyncio.create_task(softphone.call(softphone.Order(uri=phone.uri), hang_up=giving_up))
        await phone.until("CALL_INCOMING")
        giving_up.set_result(None)
        outcome = await calling
        await phone.until("CALL_CLOSED")
        assert (outcome.answered, outcome.status) == (False, 487)


async def test_baresip_transfers_us_blindly(tmp_path: Path) -> None:
    async with serving(route=[{"say": TEXT}], sip=TRUSTED) as running, baresip(tmp_path) as caller, phone() as callee:
        await dialled(caller, running)
        caller.order("transfer", callee.uri)
        await callee.until(sip.Ended)
        assert likeness(callee.ear.heard(), await spoken(running.engine, TEXT)) > 0.95
        await caller.until("CALL_CLOSED")
        await until_calls(running, 0)
