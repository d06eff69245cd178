"""Fuzzing guided by the code that is reached: scripts/fuzz TARGET [--seconds N] [FILE ...]

Without a FILE it runs for N seconds, or until something is found, and keeps what reached new code in build/fuzz/TARGET
for the next time. With FILEs it tries those, such as build/fuzz/crash-..., which it wrote when it found something.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["sip"]):
    from tests.sip_targets import TARGETS, seeds

FOLDER = Path(__file__).parents[1] / "build" / "fuzz"
LONGEST_BYTES = 4096


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description="Fuzz a part of the SIP stack.")
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="to be tried, and nothing else")
    arguments = parser.parse_args()
    corpus = FOLDER / arguments.target
    corpus.mkdir(parents=True, exist_ok=True)
    for seed in seeds(arguments.target):
        (corpus / hashlib.sha1(seed, usedforsecurity=False).hexdigest()).write_bytes(seed)
    options = [f"-max_total_time={arguments.seconds}", f"-max_len={LONGEST_BYTES}", "-timeout=5", "-rss_limit_mb=2048"]
    # A new input is worth keeping whatever its length; findings lie beside the corpora.
    options += ["-len_control=0", "-reduce_inputs=0", f"-artifact_prefix={FOLDER}/", str(corpus)]
    atheris.Setup(
        [sys.argv[0], *(map(str, arguments.files) if arguments.files else options)], TARGETS[arguments.target]
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
