"""The limits that a request is held to."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

__all__ = ["ApiLimits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiLimits:
    """What one request, one client and all of them together may take. All of it is positive.

    max_text_chars            text of one request, in Unicode code points: more is a 422
    max_body_bytes            body of one request: more is a 413
    max_upload_bytes          file in one request: more is a 413
    max_uploads               files on their way at a time: more is a 503
    max_concurrent            speech requests at work at a time: more is a 503, since the server is full
    max_concurrent_per_client the same for one remote address: more is a 429, since the client asks too much; None when
                              one address may take all there is, as it must behind a reverse proxy
    max_sockets               open WebSockets: more are a 503
    max_socket_chars          text of one WebSocket: more closes it
    socket_idle_s             time without a message, and with nothing to say, after which a WebSocket is closed
    socket_ping_s             how often a WebSocket's client is asked whether it is there
    max_connections           open connections: more are closed as they come, so that HTTP cannot take the descriptors
                              that calls need
    max_collected_s           seconds of speech that a format may ask to be held in memory (WAV): more is a 422
    hold_ms                   how long a streamed body may be held back so that its headers can be exact
    keep_alive_s              silence on an event stream after which a comment is sent
    read_timeout_s            time for a body to arrive: more is a 408
    upload_timeout_s          the same for a body with a file
    idle_timeout_s            time for a connection to bring (the head of) its next request: more closes it
    stall_timeout_s           time for a slow reader to make room for one write: more cuts it off
    retry_after_s             what a 429 or 503 by these limits advises
    """

    max_text_chars: int = 5000
    max_body_bytes: int = 128 * 1024
    max_upload_bytes: int = 10 * 1024 * 1024
    max_uploads: int = 4
    max_concurrent: int = 64
    max_concurrent_per_client: int | None = None
    max_sockets: int = 1000
    max_socket_chars: int = 100_000
    socket_idle_s: float = 600.0
    socket_ping_s: float = 30.0
    max_connections: int = 2048
    max_collected_s: float = 600.0
    hold_ms: float = 100.0
    keep_alive_s: float = 15.0
    read_timeout_s: float = 10.0
    upload_timeout_s: float = 60.0
    idle_timeout_s: float = 75.0
    stall_timeout_s: float = 30.0
    retry_after_s: float = 1.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None and not value > 0:
                raise ValueError(f"{field.name} must be positive, not {value!r}")
