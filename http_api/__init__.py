"""The HTTP API: text in, speech out, and how the server is.

`make_app` makes the application over a `SpeechControl`, which is what it needs from its host; `serve` carries it.
"""

from __future__ import annotations

from .app import make_app
from .control import Busy, ControlError, Failed, Health, NotFound, Refused, Speech, SpeechControl
from .schema import ApiLimits
from .server import Listening, serve

__all__ = [
    "ApiLimits",
    "Busy",
    "ControlError",
    "Failed",
    "Health",
    "Listening",
    "NotFound",
    "Refused",
    "Speech",
    "SpeechControl",
    "make_app",
    "serve",
]
