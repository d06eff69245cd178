"""The load of a day's worst hour on one machine: scripts/bench load [--help]

Calls that are spoken to without a pause, each its own sentence, made live and never kept. First so many of them for as
long as is asked for, watched every half minute; then ever more, until an objective is missed: the row says which, and
what was short.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import sys
import tempfile
from pathlib import Path

from bench.calls import measure, metrics, usage

# What is to hold, by the name of the figure: at most so much.
OBJECTIVES = {
    "failed": 0,
    "underruns": 0,
    "lost": 0,
    "skipped": 0,
    "p999_ms": 20,
    "setup_p99_ms": 100,
    "first_speech_p99_ms": 500,
}
COLUMNS = ("calls", *OBJECTIVES, "p99_ms", "setup_p50_ms", "first_speech_p50_ms", "cores", "kib_per_call")


def row(found: dict[str, object]) -> str:
    cells = (found.get(name) for name in COLUMNS)
    return " ".join(f"{round(cell, 2) if isinstance(cell, float) else cell!s:>{10}}" for cell in cells)


def missed(found: dict[str, object]) -> list[str]:
    return [name for name, most in OBJECTIVES.items() if isinstance(found[name], int | float) and found[name] > most]  # type: ignore[operator]


def cause(found: dict[str, object]) -> str:
    """What was short, as far as the figures tell."""
    cores = float(found["cores"])  # type: ignore[arg-type]
    if cores > 0.85 * (os.cpu_count() or 1):
        return (
            f"processors: server and workers took {cores:.2f} cores of {os.cpu_count()}, caller and receiver the rest"
        )
    return "not the processors: look at the log"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--step", type=int, default=100, help="calls more in each further run, of 20 s")
    parser.add_argument("--most", type=int, default=2000, help="calls at which the ramp ends")
    options = parser.parse_args()
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    print(f"{platform.platform()}, {os.cpu_count()} CPUs, Python {platform.python_version()}", file=sys.stderr)

    def run(calls: int, seconds: float, *, tell: bool = False) -> dict[str, object]:
        before = [0.0, 0.0]

        def watch(since_s: float, pid: int) -> None:
            cpu_s, mib = usage(pid)
            if tell and before[0]:
                cores = (cpu_s - before[1]) / (since_s - before[0])
                print(
                    f"  {since_s / 60:5.1f} min  {cores:5.2f} cores  {mib:6.1f} MiB  "
                    f"{metrics()['rtp_underruns_total']:g} underruns"
                )
            before[:] = since_s, cpu_s

        arguments = argparse.Namespace(
            calls=calls,
            rate=50,
            seconds=seconds,
            speech="espeak",
            pause_ms=0,
            two_way=False,
            threads=0,
            ports="10000-31999",
        )
        with tempfile.TemporaryDirectory() as folder:
            return {"calls": calls} | measure(arguments, Path(folder), watch=watch)

    found = run(options.calls, options.minutes * 60, tell=True)
    print(" ".join(f"{name:>10}" for name in COLUMNS))
    print(row(found))
    calls = options.calls
    while not (names := missed(found)) and calls < options.most:
        calls += options.step
        found = run(calls, 20)
        print(row(found))
    if names:
        print(f"missed: {', '.join(names)}; {cause(found)}")


if __name__ == "__main__":
    main()
