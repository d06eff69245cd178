"""What the doctor says of a machine, and that what it looks at is what there is."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mediaserver import config, doctor
from mediaserver.__main__ import main
from mediaserver.doctor import Machine, Standing, judge

ROOT = Path(__file__).parents[1]

FIT = Machine(
    taken={},
    rmem_max=4 << 20,
    ephemeral=(32768, 60999),
    reserved=frozenset(),
    files=65536,
    realtime=True,
    throttled=True,
    cores=2,
    quota_cores=None,
    late_ms=0.3,
    clocksource="tsc",
    synchronised=True,
    huge_pages="madvise",
    directory=Path("/var/lib/mediaserver"),
    unwritable="",
    free_bytes=10**10,
    redis=None,
    gpus=(),
)


def settings(**environ: str) -> config.Config:
    return config.load(None, environ)


def amiss(machine: Machine, **environ: str) -> dict[str, doctor.Finding]:
    found = judge(settings(**environ), machine, files=4256)
    return {finding.about: finding for finding in found if finding.standing is not Standing.GOOD}


def test_a_fit_machine_is_left_alone() -> None:
    assert amiss(FIT) == {}


@pytest.mark.parametrize(
    ("change", "about", "do"),
    [
        ({"rmem_max": 212_992}, "net.core.rmem_max", "sysctl -w net.core.rmem_max=4194304"),
        ({"files": 1024}, "file descriptors", "LimitNOFILE="),
        ({"realtime": False}, "SCHED_FIFO", "rtprio of 10"),
        ({"cores": 1}, "processors", "add a core"),
        ({"quota_cores": 0.5}, "processors", "CPUAffinity="),
        ({"late_ms": 7.0}, "wake-ups", "steal time"),
        ({"clocksource": "hpet"}, "clock source", "clocksource=tsc"),
        ({"synchronised": False}, "clock", "chrony"),
        ({"huge_pages": "never"}, "huge pages", "madvise"),
        ({"free_bytes": 10**8}, "store.path", "1.1 GB are wanted"),
        ({"ephemeral": (29000, 60999)}, "ephemeral ports", "ip_local_reserved_ports=20000-29999"),
    ],
)
def test_what_could_be_better_is_advice_with_the_next_step(change: dict[str, Any], about: str, do: str) -> None:
    findings = amiss(replace(FIT, **change))
    assert list(findings) == [about]
    assert findings[about].standing is Standing.ADVICE
    assert do in findings[about].do


@pytest.mark.parametrize(
    ("change", "about", "seen"),
    [
        ({"taken": {"sip.listen": "udp 0.0.0.0:5060: Address already in use"}}, "sip.listen", "already in use"),
        ({"taken": {"http.listen": "tcp 127.0.0.1:80: Permission denied"}}, "http.listen", "denied"),
        ({"unwritable": "Read-only file system"}, "store.path", "Read-only"),
        ({"redis": "ConnectionError"}, "redis.url", "ConnectionError"),
    ],
)
def test_what_keeps_the_server_from_its_work_is_a_fault(change: dict[str, Any], about: str, seen: str) -> None:
    findings = amiss(replace(FIT, **change))
    assert list(findings) == [about]
    assert findings[about].standing is Standing.FAULT
    assert seen in findings[about].seen
    assert findings[about].do


def test_reserved_ports_are_nobody_elses() -> None:
    shared = replace(FIT, ephemeral=(1024, 65535))
    assert "10000 of rtp.ports" in amiss(shared)["ephemeral ports"].seen
    assert amiss(replace(shared, reserved=frozenset(range(20000, 30000)))) == {}


def test_fewer_ports_than_calls_are_told() -> None:
    assert "50 calls" in amiss(FIT, MEDIASERVER_RTP__PORTS="20000-20099")["ports and calls"].seen


def test_threads_that_share_a_core_are_told() -> None:
    assert "rtp.threads at 0" in amiss(FIT, MEDIASERVER_RTP__THREADS="4")["processors"].do


def test_what_a_machine_does_not_tell_is_left_out() -> None:
    silent = replace(FIT, rmem_max=None, ephemeral=None, files=None, synchronised=None, clocksource="", huge_pages="")
    assert amiss(silent) == {}


def observed(**environ: str) -> Machine:
    return asyncio.run(doctor.observe(settings(**environ), environ))


def test_it_finds_the_port_that_is_taken_and_leaves_the_others_free(tmp_path: Path) -> None:
    with closing(socket.socket(type=socket.SOCK_DGRAM)) as sock:
        sock.bind(("127.0.0.1", 0))
        host, port = sock.getsockname()
        machine = observed(
            MEDIASERVER_SIP__LISTEN=f"{host}:{port}",
            MEDIASERVER_HTTP__LISTEN="127.0.0.1:0",
            MEDIASERVER_STORE__PATH=str(tmp_path / "new"),
        )
    assert machine.taken["sip.listen"] == f"udp 127.0.0.1:{port}: Address already in use"
    assert "http.listen" not in machine.taken
    assert not (tmp_path / "new").exists(), "looking makes nothing"
    assert machine.directory == tmp_path / "new"
    assert machine.free_bytes > 0


def test_it_reads_what_the_kernel_says(tmp_path: Path) -> None:
    machine = observed(MEDIASERVER_STORE__PATH=str(tmp_path))
    assert machine.cores == len(os.sched_getaffinity(0))
    assert machine.rmem_max == int(Path("/proc/sys/net/core/rmem_max").read_text())
    assert 0 < machine.late_ms < 1000
    assert machine.synchronised in (True, False, None)


def test_it_tells_why_redis_does_not_answer_without_its_password(tmp_path: Path) -> None:
    url = "redis://user:hunter2@127.0.0.1:1/0"
    machine = observed(MEDIASERVER_STORE__PATH=str(tmp_path), MEDIASERVER_REDIS__URL=url)
    assert machine.redis
    assert "hunter2" not in machine.redis


def typed(*arguments: str, **environ: str) -> tuple[int, str]:
    free = {"MEDIASERVER_SIP__LISTEN": "127.0.0.1:0", "MEDIASERVER_HTTP__LISTEN": "127.0.0.1:0"}
    result = CliRunner().invoke(main, ["doctor", *arguments], env=free | environ)
    assert not isinstance(result.exception, Exception), result.exception
    return result.exit_code, result.output


def test_the_command_exits_with_1_for_a_fault_alone(tmp_path: Path) -> None:
    code, output = typed(MEDIASERVER_STORE__PATH=str(tmp_path), MEDIASERVER_RTP__PORTS="20000-20009")
    assert code == 0, output
    assert "! ports and calls" in output, "advice is told, and is no fault"
    code, output = typed(MEDIASERVER_STORE__PATH="/proc/nowhere")
    assert code == 1
    assert "x store.path" in output


def test_the_command_tells_what_is_wrong_with_the_configuration(tmp_path: Path) -> None:
    toml = tmp_path / "c.toml"
    toml.write_text('[[route]]\nplay = "/nowhere.wav"\n[http]\nlisten = "127.0.0.1:0"\n')
    code, output = typed("--config", str(toml), "--json", MEDIASERVER_STORE__PATH=str(tmp_path))
    assert code == 1
    told = json.loads(output)
    assert told[0]["about"] == "configuration"
    assert "route.0.play" in told[0]["seen"]


def test_the_sysctl_file_is_what_the_doctor_asks_for() -> None:
    text = (ROOT / "deploy" / "sysctl.conf").read_text()
    values = dict(re.findall(r"^([\w.]+) = (.+)$", text, re.MULTILINE))
    ports = settings().rtp.ports
    assert values == {
        "net.core.rmem_max": str(doctor.BUFFER_BYTES),
        "net.ipv4.ip_local_reserved_ports": f"{ports[0]}-{ports[-1]}",
    }


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_takes_the_unit_and_finds_it_hardened(tmp_path: Path) -> None:
    text = (ROOT / "deploy" / "systemd" / "mediaserver.service").read_text()
    unit = tmp_path / "mediaserver.service"
    unit.write_text(text.replace("/opt/mediaserver/.venv/bin/mediaserver", sys.executable))
    verified = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stderr) == (0, "")
    judged = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--threshold=20", "--no-pager", unit],
        capture_output=True,
        text=True,
        check=False,
    )
    assert judged.returncode == 0, judged.stdout[-600:]


def test_the_unit_waits_for_calls_to_end_and_grants_what_pacing_needs() -> None:
    text = (ROOT / "deploy" / "systemd" / "mediaserver.service").read_text()
    values = dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))
    assert int(values["TimeoutStopSec"]) > settings().sip.drain_s
    assert int(values["LimitRTPRIO"]) >= 10
    assert "RestrictRealtime" not in values
    assert values["StateDirectory"] == "mediaserver", "store.path follows STATE_DIRECTORY"
