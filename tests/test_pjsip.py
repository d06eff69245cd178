"""PJSIP, an independent telephone, holds, resumes, dials and transfers calls with a real server."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

import sip
from mediaserver import server
from tests.live import serving, until_calls
from tests.test_referrals import TRUSTED, phone

STAYING = [{"say": "a", "then": "stay", "stay_s": 30}]

pytestmark = pytest.mark.alone


async def phoned(running: server.Server, folder: Path, *actions: str) -> dict[str, object]:
    """A call of PJSIP's that does `actions`, to its end; what it says of it."""
    process = await asyncio.create_subprocess_exec(
        *(
            sys.executable,
            "-m",
            "tests.pjsua2_phone",
            f"sip:pjsip@{running.sip_address}",
            str(folder / "heard.wav"),
            "15",
        ),
        *(word for action in actions for word in ("--do", action)),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output
    facts: dict[str, object] = json.loads(output.splitlines()[-1])
    await until_calls(running, 0)
    return facts


async def test_pjsip_holds_and_resumes(tmp_path: Path) -> None:
    async with serving(engine={"name": "tone"}, route=STAYING) as running:
        calling = asyncio.create_task(phoned(running, tmp_path, "1 hold", "3 resume", "4 hangup"))
        sent = []
        for _ in range(45):
            await asyncio.sleep(0.1)
            sent.append(running.endpoint.counters().packets_sent)
        assert (await calling)["answered"]
        pauses = [n for n in range(len(sent) - 10) if sent[n] and sent[n] == sent[n + 10]]
        assert pauses, "a second and more without a packet"
        assert sent[-1] > sent[pauses[-1] + 10], "and packets afterwards"


@pytest.mark.parametrize("way", ["dtmf", "info"])
async def test_digits_of_pjsip_are_heard(tmp_path: Path, way: str, capsys: pytest.CaptureFixture[str]) -> None:
    async with serving(engine={"name": "tone"}, route=STAYING) as running:
        assert (await phoned(running, tmp_path, f"0.5 {way} 12#", "3 hangup"))["answered"]
    assert " digits=3 " in capsys.readouterr().out


@pytest.mark.parametrize(("status", "told"), [(200, 200), (486, 486)])
async def test_pjsip_transfers_us_blindly(tmp_path: Path, status: int, told: int) -> None:
    async with (
        serving(engine={"name": "tone"}, route=STAYING, sip=TRUSTED) as running,
        phone(status=status) as callee,
    ):
        facts = await phoned(running, tmp_path, f"0.5 transfer {callee.uri}", "4 hangup")
        progress = facts["transfer"]
        assert isinstance(progress, list)
        assert progress[-1] == told
        await callee.until(sip.Offered)


@pytest.mark.conformance("RFC 5589", "7.1", "an attended transfer has the transferee call the target with a Replaces")
async def test_pjsip_transfers_us_to_one_whom_it_has_asked(tmp_path: Path) -> None:
    async with serving(engine={"name": "tone"}, route=STAYING, sip=TRUSTED) as running, phone() as callee:
        calling = asyncio.create_task(phoned(running, tmp_path, f"0.5 consult {callee.uri}", "1.5 join", "4 hangup"))
        await callee.until(sip.Ended)
        asked, ours = (event for event in callee.events if isinstance(event, sip.Offered))
        assert (asked.replaces, ours.replaces) == (None, asked.call)
        callee.transport.bye(ours.call)
        assert (await calling)["transfer"][-1:] == [200]  # type: ignore[index]
