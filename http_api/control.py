"""What the HTTP API needs from the server that it fronts. Only builtins and the values below cross this seam."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Busy", "ControlError", "Failed", "Health", "NotFound", "Refused", "Speech", "SpeechControl"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Speech:
    """A request for speech, already validated by the schema; `rate_hz` is 8000, 16000 or 24000."""

    text: str
    speaker_id: str
    rate_hz: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """`healthy`: the process works. `ready`: it takes new work now. `details` go into the JSON body as they are."""

    healthy: bool
    ready: bool
    gpu_available: bool
    model_loaded: bool
    details: Mapping[str, str | int | float | bool]


class ControlError(Exception):
    """Base of what a control raises; the message is meant for the client, unless the class says otherwise."""


class NotFound(ControlError):
    """What the request names does not exist; `field` is the field that names it."""

    def __init__(self, message: str, *, field: str) -> None:
        super().__init__(message)
        self.field = field


class Refused(ControlError):
    """The request cannot be done as it stands; `field` is the field at fault."""

    def __init__(self, message: str, *, field: str) -> None:
        super().__init__(message)
        self.field = field


class Busy(ControlError):
    """No capacity now; ask again after `retry_after_s` seconds."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Failed(ControlError):
    """The work broke on our side; the message is for the log, the client is only told that it broke."""


class SpeechControl(Protocol):
    """The speech side of the server."""

    @property
    def model_version(self) -> str:
        """Engine and version, such as "espeak-ng 1.52.0"; goes into X-Model-Version."""

    def synthesize(self, speech: Speech) -> AsyncGenerator[bytes, None]:
        """Signed 16-bit little-endian mono samples at `speech.rate_hz`, as they are made.

        Raises NotFound, Refused or Busy before the first chunk, Failed at any time. Closing it stops the work.
        """

    def health(self) -> Health:
        """How the server is now. Never blocks."""

    def metrics(self) -> tuple[bytes, str]:
        """The Prometheus exposition and its content type."""

    def observe_request(self, *, endpoint: str, status: int, latency_ms: float) -> None:
        """A speech request ended: `endpoint` "synthesize" or "stream", `latency_ms` from request to last byte.

        `status` tells how it ended, which a status line sent ahead of the body cannot: 499 when the client left before
        the end, 408 when it stopped reading and was cut off, 500 when the speech broke half-way.
        """
