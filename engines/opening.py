"""Engines by name, from plain values as they stand in a configuration."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final

from engines.engine import Engine, EngineFailure
from engines.models import lacking_packages

__all__ = ["ENGINES", "open_engine"]

_OPTIONS: Final[Mapping[str, frozenset[str]]] = {
    "chatterbox": frozenset({"directory", "model", "device", "mode", "streams", "threads", "voice_mb", "cfg_scale"}),
    "espeak": frozenset({"words_per_minute", "pitch", "pitch_range"}),
    "remote": frozenset(),
    "tone": frozenset({"delay_ms", "gap_ms", "gap_at_ms", "crash_at_ms", "crashes", "word", "concurrency"}),
}

_VOICES: Final = {"chatterbox": "", "espeak": "en-us", "tone": "tone-440"}

_LOADING_S: Final = 300.0
_PATIENCE_S: Final = 30.0

ENGINES: Final = tuple(_OPTIONS)
"""The names that `open_engine` knows."""


def open_engine(
    name: str,
    *,
    workers: int | None = None,
    default_voice: str = "",
    options: Mapping[str, int | str | float] | None = None,
    queue: int = 1024,
    stall_s: float = 5.0,
    urls: Sequence[str] = (),
    token: str = "",
    first_s: float = 2.0,
    fallback: str = "",
) -> AbstractAsyncContextManager[Engine]:
    """An engine, to be entered with `async with`, which starts its workers, and ends them at exit.

    name           "chatterbox" (cloned voices, `pip install mediaserver[chatterbox]`), "espeak" (speech),
                   "remote" (one at `urls`), "tone" (a sine tone for tests, not speech)
    workers        processes; None makes it one per processor, two at most; 0 lets a tone sound without any
    default_voice  the voice behind "default"; "" leaves it to the engine
    options        chatterbox: chatterbox.process.Settings; espeak: espeak.Settings; tone: tone.Faults
    queue          pieces of speech that may wait before new utterances are refused with EngineBusy
    stall_s        a worker that has work and makes nothing for so long is replaced
    urls, token, first_s    remote: see `open_remote`
    fallback       an engine that speaks where this one cannot, in its default voice if it has no such voice

    Raises ValueError for an unknown name or option, EngineFailure for a package or a model's file that is not there.
    Entering raises EngineFailure when no worker starts, and UnknownVoice for an unknown default voice.
    """
    if name not in _OPTIONS:
        raise ValueError(f"there is no engine {name!r}; there are: {', '.join(ENGINES)}")
    unknown = set(options or {}) - _OPTIONS[name]
    if unknown:
        known = ", ".join(sorted(_OPTIONS[name]))
        raise ValueError(f"engine {name!r} has no option {', '.join(sorted(unknown))}; it has: {known}")
    # Only here, because a worker imports this package too: asyncio would make each of its copies dearer.
    if fallback:
        from engines.fallback import open_with_fallback

        first = open_engine(
            name,
            workers=workers,
            default_voice=default_voice,
            options=options,
            queue=queue,
            stall_s=stall_s,
            urls=urls,
            token=token,
            first_s=first_s,
        )
        return open_with_fallback(first, open_engine(fallback, queue=queue, stall_s=stall_s))
    if name == "remote":
        if not urls:
            raise ValueError("engine 'remote' needs the urls of where it is")
        from engines.remote import open_remote

        return open_remote(urls, token=token, default_voice=default_voice, first_s=first_s, stall_s=stall_s)
    if workers == 0:
        if name != "tone":
            raise ValueError(f"engine {name!r} needs at least one worker")
        from engines.in_process import open_in_process

        return open_in_process(dict(options or {}), default_voice=default_voice or _VOICES[name])
    from engines.pool import open_pool
    from engines.schedule import Limits

    if name == "chatterbox":
        from engines.chatterbox.directory import missing_files
        from engines.enrolment import Cloning

        chosen = {"model": "turbo", **(options or {})}
        if "directory" not in chosen:
            raise ValueError("engine 'chatterbox' needs the directory of its model")
        if lacks := lacking_packages():
            raise EngineFailure(lacks)
        missing = missing_files(Path(str(chosen["directory"])), str(chosen["model"]))
        if missing:
            raise EngineFailure(missing)
        # One process has the device; it loads gigabytes, and a CPU may take long for a hop.
        return open_pool(
            name,
            dict(options or {}),
            workers=1,
            default_voice=default_voice,
            limits=Limits(queue=queue, stall_s=max(stall_s, _PATIENCE_S)),
            start_s=_LOADING_S,
            enrol=Cloning(Path(str(chosen["directory"])), str(chosen["model"])),
        )
    return open_pool(
        name,
        dict(options or {}),
        workers=min(2, os.cpu_count() or 1) if workers is None else workers,
        default_voice=default_voice or _VOICES[name],
        limits=Limits(queue=queue, stall_s=stall_s),
    )
