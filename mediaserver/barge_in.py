"""How it is noticed that the other side breaks in on what it hears."""

from __future__ import annotations

from collections.abc import Callable

import rtp
from mediaserver.ear import Ear
from mediaserver.vad import VoiceActivity

__all__ = ["Listen", "by_speech"]

Listen = Callable[[Callable[[], None]], Callable[[], None]]
"""Begins to listen, calls what it was given whenever somebody breaks in, and gives what ends it; as `Digits.listen`."""


def by_speech(ear: Ear, *, least_dbfs: float) -> Listen:
    """Speech of at least that level, relative to full scale."""

    def listen(spoke: Callable[[], None]) -> Callable[[], None]:
        activity = VoiceActivity(least_dbfs=least_dbfs)

        def take(frame: rtp.Frame) -> None:
            if activity.hear(frame.samples):
                spoke()

        return ear.listen(take).close

    return listen
