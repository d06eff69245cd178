"""The HTTP API: text in, speech out, and how the server is.

`make_app` makes the application over a `Host`, which is what it needs; `serve` carries it.
"""

from __future__ import annotations

from .access import ROLES, Gate, Token
from .app import make_app
from .control import (
    Busy,
    Clauses,
    Conflict,
    ControlError,
    Embedding,
    Encoder,
    Failed,
    FieldFault,
    Forbidden,
    Health,
    Host,
    Kept,
    NotFound,
    PromptControl,
    PromptFacts,
    PushControl,
    PushFacts,
    PushOrder,
    Refused,
    SocketEnd,
    SpeakerControl,
    SpeakerFacts,
    SpeakerOrder,
    Speech,
    SpeechControl,
    Unsupported,
)
from .schema import ApiLimits
from .server import Listening, serve

__all__ = [
    "ROLES",
    "ApiLimits",
    "Busy",
    "Clauses",
    "Conflict",
    "ControlError",
    "Embedding",
    "Encoder",
    "Failed",
    "FieldFault",
    "Forbidden",
    "Gate",
    "Health",
    "Host",
    "Kept",
    "Listening",
    "NotFound",
    "PromptControl",
    "PromptFacts",
    "PushControl",
    "PushFacts",
    "PushOrder",
    "Refused",
    "SocketEnd",
    "SpeakerControl",
    "SpeakerFacts",
    "SpeakerOrder",
    "Speech",
    "SpeechControl",
    "Token",
    "Unsupported",
    "make_app",
    "serve",
]
