"""Chatterbox Nano on this machine's processor, one caller: scripts/bench engine [--help]

Random weights of true size: what is said is NOISE. All else is as scripts/bench gpu has it.
"""

from __future__ import annotations

import sys

from bench.gpu import main

if __name__ == "__main__":
    usual = ["--model", "nano", "--device", "cpu", "--mode", "causal", "--streams", "1"]
    main([*usual, *sys.argv[1:]])
