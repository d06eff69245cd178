"""A speaker's recording made into an embedding: a voice profile, or by a process of its own what Chatterbox clones."""

from __future__ import annotations

import asyncio
import asyncio.subprocess
import os
import sys
from pathlib import Path

from engines.engine import EngineFailure, UnsuitableReference
from engines.profile import VoiceProfile
from engines.prosody import measure

__all__ = ["Cloning", "enrol"]

LEAST_SPEECH_S = 1.0


async def enrol(samples: bytes, rate_hz: int) -> bytes:
    """The embedding, computed in a thread. Raises UnsuitableReference when too little is voiced to be measured."""
    prosody = await asyncio.to_thread(measure, samples, rate_hz)
    if prosody.speech_s < LEAST_SPEECH_S:
        raise UnsuitableReference(
            f"{prosody.speech_s:g} s of speech found; at least {LEAST_SPEECH_S:g} s are needed to measure a voice"
        )
    return VoiceProfile(
        median_f0_hz=prosody.median_f0_hz,
        range_hz=prosody.range_hz,
        syllables_per_s=prosody.syllables_per_s,
    ).serialise()


class Cloning:
    """Voices of Chatterbox out of recordings, one at a time: each takes a process with half a gigabyte of weights.

    patience_s  after which a process is killed that has not made its voice
    """

    def __init__(self, directory: Path, model: str, *, patience_s: float = 120.0) -> None:
        self._arguments = (str(directory), model)
        self._patience_s = patience_s
        self._turn = asyncio.Lock()

    async def __call__(self, samples: bytes, rate_hz: int) -> bytes:
        """The voice. Raises UnsuitableReference, EngineFailure."""
        async with self._turn:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "engines.chatterbox.enrol", *self._arguments, str(rate_hz)),
                env=_environment(),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            try:
                async with asyncio.timeout(self._patience_s):
                    made, complaint = await process.communicate(samples)
            except TimeoutError:
                raise EngineFailure(f"a voice was not made within {self._patience_s:g} s") from None
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
        if made[:1] == b"U":
            raise UnsuitableReference(made[1:].decode())
        if process.returncode or made[:1] != b"V":
            last = complaint.decode(errors="replace").strip().rpartition("\n")[2]
            raise EngineFailure(f"a voice could not be made: {last or f'status {process.returncode}'}")
        return made[1:]


def _environment() -> dict[str, str]:
    here = str(Path(__file__).resolve().parent.parent)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH", "")]))}
