"""Whether a machine is fit for a configuration: what was found, and what to change.

`observe` looks at the machine; `judge` is rules about what was seen.
"""

from __future__ import annotations

import asyncio
import ctypes
import enum
import os
import resource
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from mediaserver import config
from mediaserver.shared import Shared, Unreachable

__all__ = ["Finding", "Machine", "Standing", "judge", "observe"]

PROC = Path("/proc/sys")
# What sip.Transport asks for.
BUFFER_BYTES = 4 * 1024 * 1024
FAST_CLOCKS = ("tsc", "kvm-clock", "arch_sys_counter", "")
LATE_MS = 2.0
WAKES = 200
LEAST_DISK_BYTES = 1024**3
GPU_TIMEOUT_S = 10
# adjtimex(2): STA_UNSYNC.
UNSYNCHRONISED = 0x40


class Standing(enum.Enum):
    GOOD = "good"
    ADVICE = "advice"
    FAULT = "fault"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """`about` names what was looked at, `seen` says how it is, `do` what to change; "" if nothing."""

    about: str
    standing: Standing
    seen: str
    do: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What was seen; None is what this machine does not tell.

    taken           addresses that cannot be listened on: the key of the configuration, and why
    ephemeral       first and last port that the kernel gives to whoever asks for any; `reserved`: out of those
    files           descriptors that one process may have, None without a limit
    realtime        SCHED_FIFO is granted
    throttled       the kernel stops a real-time thread that takes nearly a whole core
    quota_cores     of the control group, None without one
    late_ms         of 200 wake-ups of a normal thread, the 99th percentile of how late they were
    synchronised    the clock is kept by NTP
    free_bytes      where the state is kept; `unwritable` says why nothing can be written there
    redis           why it does not answer, "" if it does
    gpus            by name
    """

    taken: Mapping[str, str]
    rmem_max: int | None
    ephemeral: tuple[int, int] | None
    reserved: frozenset[int]
    files: int | None
    realtime: bool
    throttled: bool
    cores: int
    quota_cores: float | None
    late_ms: float
    clocksource: str
    synchronised: bool | None
    huge_pages: str
    directory: Path
    unwritable: str
    free_bytes: int
    redis: str | None
    gpus: tuple[str, ...]


def judge(settings: config.Config, machine: Machine, *, files: int) -> Iterator[Finding]:
    """What is to be said about each thing; `files` descriptors are wanted."""
    for key in ("sip.listen", "sip.tls_listen", "http.listen", "rtp.ports"):
        taken = machine.taken.get(key)
        if taken is not None:
            who = "stop what has it (ss -lunpt says who: is a server running already?), or choose another"
            yield Finding(about=key, standing=Standing.FAULT, seen=taken, do=who)
        elif key != "sip.tls_listen" or settings.sip.tls_listen:
            yield Finding(about=key, standing=Standing.GOOD, seen="free")
    yield from _ports(settings, machine)
    if machine.rmem_max is not None:
        yield _weighed(
            "net.core.rmem_max",
            f"{machine.rmem_max:,} bytes",
            amiss=machine.rmem_max < BUFFER_BYTES,
            do=f"sysctl -w net.core.rmem_max={BUFFER_BYTES}: bursts of SIP messages are lost else (deploy/sysctl.conf)",
        )
    yield _weighed(
        "file descriptors",
        f"{'no limit' if machine.files is None else machine.files}; all calls and connections want {files}",
        amiss=machine.files is not None and machine.files < files,
        do="raise the hard limit (LimitNOFILE= of the unit, ulimits of the container), or lower sip.max_calls",
    )
    yield _weighed(
        "SCHED_FIFO",
        "granted" if machine.realtime else "not granted",
        amiss=not machine.realtime,
        do="grant CAP_SYS_NICE, or an rtprio of 10 (LimitRTPRIO=, ulimits.rtprio): a busy machine delays audio else",
    )
    yield _processors(settings, machine)
    yield _weighed(
        "wake-ups",
        f"99 of 100 are less than {machine.late_ms:.2f} ms late",
        amiss=machine.late_ms > LATE_MS,
        do="see what else runs here (top; the steal time of a virtual machine), and give the server cores of its own",
    )
    yield _weighed(
        "clock source",
        machine.clocksource or "not told",
        amiss=machine.clocksource not in FAST_CLOCKS,
        do="boot with clocksource=tsc where the processor has it: every packet reads the clock",
    )
    if machine.synchronised is not None:
        yield _weighed(
            "clock",
            "kept by NTP" if machine.synchronised else "not kept by NTP",
            amiss=not machine.synchronised,
            do="run chrony or systemd-timesyncd: records and certificates have times, though audio does not need it",
        )
    yield _weighed(
        "huge pages",
        machine.huge_pages or "not told",
        amiss=machine.huge_pages == "never",
        do="echo madvise > /sys/kernel/mm/transparent_hugepage/enabled: packets cost a tenth less",
    )
    yield from _storage(settings, machine)
    yield Finding(about="GPU", standing=Standing.GOOD, seen=", ".join(machine.gpus) or "none; espeak-ng needs none")


def _weighed(about: str, seen: str, *, amiss: bool, do: str) -> Finding:
    """Advice to `do` something if it is `amiss`."""
    return Finding(about=about, standing=Standing.ADVICE if amiss else Standing.GOOD, seen=seen, do=do if amiss else "")


def _ports(settings: config.Config, machine: Machine) -> Iterator[Finding]:
    ports = settings.rtp.ports
    yield _weighed(
        "ports and calls",
        f"rtp.ports suffice for {len(ports) // 2} calls, sip.max_calls is {settings.sip.max_calls}",
        amiss=len(ports) // 2 < settings.sip.max_calls,
        do="widen rtp.ports, or lower sip.max_calls: calls beyond the ports are refused all the same",
    )
    if machine.ephemeral is not None:
        first, last = machine.ephemeral
        shared = sum(first <= port <= last and port not in machine.reserved for port in ports)
        yield _weighed(
            "ephemeral ports",
            f"{shared} of rtp.ports are among those that the kernel gives to other sockets",
            amiss=shared > 0,
            do=f"sysctl -w net.ipv4.ip_local_reserved_ports={ports[0]}-{ports[-1]} (deploy/sysctl.conf)",
        )


def _processors(settings: config.Config, machine: Machine) -> Finding:
    quota, cores, threads = machine.quota_cores, machine.cores, settings.rtp.threads
    if quota is not None and quota < cores:
        return _weighed(
            "processors",
            f"{cores} to run on, of which the control group grants {quota:g} in each period",
            amiss=True,
            do="bind the server to cores instead of a quota (cpuset, CPUAffinity=): at the end of a quota everything "
            "stands still until the next period",
        )
    if threads > cores:
        return _weighed(
            "processors",
            f"{cores} to run on, and rtp.threads is {threads}",
            amiss=True,
            do="leave rtp.threads at 0: threads that share a core wait for one another",
        )
    return _weighed(
        "processors",
        f"{cores} to run on",
        amiss=cores == 1 and machine.realtime and machine.throttled,
        do="add a core: on one, the kernel stops the RTP plane when it takes 95 % of it",
    )


def _storage(settings: config.Config, machine: Machine) -> Iterator[Finding]:
    if machine.unwritable:
        yield Finding(
            about="store.path",
            standing=Standing.FAULT,
            seen=f"{machine.directory}: {machine.unwritable}",
            do="give it to the user that the server runs as, or name another directory",
        )
    else:
        want = LEAST_DISK_BYTES + settings.cache.disk_mb * 1024 * 1024
        yield _weighed(
            "store.path",
            f"{machine.directory}, {machine.free_bytes / 1e9:.1f} GB free",
            amiss=machine.free_bytes < want,
            do=f"make room: {want / 1e9:.1f} GB are wanted for speakers, recordings and cache.disk_mb",
        )
    if machine.redis:
        yield Finding(
            about="redis.url",
            standing=Standing.FAULT,
            seen=machine.redis,
            do="start Redis, or mend the address and password: until then this server has only its own speakers",
        )
    elif machine.redis is not None:
        yield Finding(about="redis.url", standing=Standing.GOOD, seen="answers")


async def observe(settings: config.Config, environ: Mapping[str, str]) -> Machine:
    """Look at this machine; takes a second. Raises config.ConfigError when there is no place for the state."""
    directory = settings.store.directory(environ)
    unwritable, free_bytes = _room(directory)
    first_last = _read(PROC / "net/ipv4/ip_local_port_range").split()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return Machine(
        taken=dict(_taken(settings)),
        rmem_max=_number(PROC / "net/core/rmem_max"),
        ephemeral=(int(first_last[0]), int(first_last[1])) if first_last else None,
        reserved=frozenset(_ranges(_read(PROC / "net/ipv4/ip_local_reserved_ports"))),
        files=None if hard == resource.RLIM_INFINITY else hard,
        realtime=_is_granted_realtime(),
        throttled=(_number(PROC / "kernel/sched_rt_runtime_us") or -1) >= 0,
        cores=len(os.sched_getaffinity(0)),
        quota_cores=_quota(),
        late_ms=await asyncio.to_thread(_lateness_ms),
        clocksource=_read(Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")),
        synchronised=_is_synchronised(),
        huge_pages=_chosen(_read(Path("/sys/kernel/mm/transparent_hugepage/enabled"))),
        directory=directory,
        unwritable=unwritable,
        free_bytes=free_bytes,
        redis=None if settings.redis.url is None else await _redis(settings.redis.url.get_secret_value()),
        gpus=await asyncio.to_thread(_gpus),
    )


def _taken(settings: config.Config) -> Iterator[tuple[str, str]]:
    listening = {
        "sip.listen": [(address, kind) for address in settings.sip.listen for kind in ("udp", "tcp")],
        "sip.tls_listen": [(address, "tcp") for address in settings.sip.tls_listen],
        "http.listen": [(settings.http.listen, "tcp")],
        "rtp.ports": [(config.Address(host=settings.sip.media_host, port=settings.rtp.ports[0]), "udp")],
    }
    for key, addresses in listening.items():
        for address, kind in addresses:
            family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
            with closing(socket.socket(family, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM)) as sock:
                if kind == "tcp":
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    sock.bind((address.host, address.port))
                except OSError as error:
                    yield key, f"{kind} {address}: {error.strerror}"
                    break


def _is_granted_realtime() -> bool:
    """Ask for it, in a thread that ends with that."""
    granted = []

    def ask() -> None:
        try:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
        except PermissionError:
            granted.append(False)
        else:
            granted.append(True)

    asking = threading.Thread(target=ask)
    asking.start()
    asking.join()
    return granted == [True]


def _lateness_ms() -> float:
    late = []
    for _ in range(WAKES):
        due = time.monotonic() + 0.002
        time.sleep(0.002)
        late.append(time.monotonic() - due)
    return sorted(late)[WAKES * 99 // 100] * 1000


def _is_synchronised() -> bool | None:
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(256)  # struct timex; modes = 0 only reads
    if libc.adjtimex(buffer) < 0:
        return None
    # unsigned int modes; long offset, freq, maxerror, esterror; int status
    status_at = 5 * ctypes.sizeof(ctypes.c_long)
    return not ctypes.c_int.from_buffer(buffer, status_at).value & UNSYNCHRONISED


def _quota() -> float | None:
    quota, _, period = _read(Path("/sys/fs/cgroup/cpu.max")).partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None


def _room(directory: Path) -> tuple[str, int]:
    """Why nothing can be written there, and how much room there is. Nothing is made that was not there."""
    there = next(place for place in (directory, *directory.parents) if place.exists())
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"x")
    except OSError as error:
        return error.strerror or type(error).__name__, 0
    return "", shutil.disk_usage(there).free


async def _redis(url: str) -> str:
    async with Shared.open(url) as shared:
        try:
            await shared.check()
        except Unreachable as error:
            return str(error)
    return ""


def _gpus() -> tuple[str, ...]:
    command = ("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader")
    if shutil.which(command[0]) is None:
        return ()
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=GPU_TIMEOUT_S).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return (f"nvidia-smi fails ({type(error).__name__})",)
    return tuple(line.strip() for line in told.splitlines() if line.strip())


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _read(path)
    return int(text) if text.lstrip("-").isdigit() else None


def _chosen(text: str) -> str:
    """How the kernel tells a choice: of [x] y z it is x."""
    return text.partition("[")[2].partition("]")[0]


def _ranges(text: str) -> Iterator[int]:
    """How the kernel writes ports: 1-3,7 is 1, 2, 3 and 7."""
    for part in text.split(","):
        if part:
            first, _, last = part.partition("-")
            yield from range(int(first), int(last or first) + 1)
