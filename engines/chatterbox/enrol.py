"""A process that makes one voice, which enrolment.py starts: `python -m engines.chatterbox.enrol DIR MODEL RATE_HZ`.

Samples come by the standard input; by the standard output goes one octet, and what it says follows: V, the voice in a
file as voice.py has it, without the recording, which the host keeps; or U, why nothing can be made of the recording. It
runs on the processor, at low priority, because a voice is made once, and those who listen meanwhile want the device.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from typing import Final

import torch

from engines.chatterbox import s3gen
from engines.chatterbox.shapes import MODELS
from engines.chatterbox.voice import Enroller, fingerprint
from engines.engine import UnsuitableReference

__all__ = ["main"]

_NICE: Final = 10
_MOST_THREADS: Final = 4


def main() -> None:
    directory, model, rate_hz = sys.argv[1:]
    os.nice(_NICE)
    torch.set_num_threads(min(os.cpu_count() or 1, _MOST_THREADS))
    shape = MODELS[model]
    networks = [Path(directory) / name for name in (shape.files.s3gen, shape.files.voice_encoder)]
    enroller = Enroller(
        shape,
        s3gen.load(networks[0], shape.s3gen, parts=s3gen.ENROLMENT),
        s3gen.load_voice_encoder(networks[1], shape.voice_encoder),
        weights=fingerprint(networks),
    )
    try:
        voice = enroller.enrol(sys.stdin.buffer.read(), int(rate_hz))
    except UnsuitableReference as error:
        sys.stdout.buffer.write(b"U" + str(error).encode())
        return
    file = dataclasses.replace(voice, recording=torch.zeros(0, dtype=torch.int16)).serialise()
    sys.stdout.buffer.write(b"V" + file)


if __name__ == "__main__":
    main()
