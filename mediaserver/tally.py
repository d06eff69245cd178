"""What is measured of one call, from its beginning to its end."""

from __future__ import annotations

import time
from collections.abc import Mapping

from mediaserver.metrics import Metrics

__all__ = ["Tally"]


class Tally:
    """When it came, and what came of that, in the metrics. It is made when the call is offered or ordered.

    first_speech_ms  how long whoever answered had to wait for the first sound; None before the end, or without any
    """

    __slots__ = ("_confirmed_at", "_metrics", "_offered_at", "first_speech_ms")

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._offered_at = time.monotonic()
        self._confirmed_at: float | None = None
        self.first_speech_ms: float | None = None

    @property
    def confirmed(self) -> bool:
        """Whether its media have started."""
        return self._confirmed_at is not None

    def answer(self) -> None:
        """We have sent our 200."""
        self._metrics.call_setup.observe((time.monotonic() - self._offered_at) * 1000)

    def confirm(self) -> None:
        """Its media start."""
        self._confirmed_at = time.monotonic()

    def finish(
        self,
        cause: str,
        status: int | None,
        *,
        first_sound_at: float | None,
        media: Mapping[str, int | float | str] | None,
    ) -> dict[str, object]:
        """It is over. The result is what is to be told of it.

        first_sound_at  time.monotonic() then, None if there was none
        media           facts of its media, None if it had none
        """
        self._metrics.calls.labels(cause, str(status or "")).inc()
        facts: dict[str, object] = {}
        if self._confirmed_at is not None:
            talked_s = time.monotonic() - self._confirmed_at
            self._metrics.call_duration.observe(talked_s)
            facts["seconds"] = round(talked_s, 2)
            if first_sound_at is not None:
                waited_ms = max(0.0, first_sound_at - self._confirmed_at) * 1000
                self._metrics.call_first_speech.observe(waited_ms)
                self.first_speech_ms = facts["first_speech_ms"] = round(waited_ms, 1)
        if media is not None:
            facts |= media
            if isinstance(media["mos"], float):
                self._metrics.call_mos.observe(media["mos"])
        return facts
