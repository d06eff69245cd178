"""What cannot be served, by the fault of whoever asked or of the moment, and the SIP response that says so."""

from __future__ import annotations

import math

import engines
import rtp
import sip
from mediaserver import audio
from mediaserver.fetch import FetchError, Forbidden
from mediaserver.inputs import Declined
from mediaserver.programme import ProgrammeFull

__all__ = ["UNSERVABLE", "declined"]

UNSERVABLE = (
    sip.RemoteProtocolError,
    engines.UnsuitableUtterance,
    Forbidden,
    FetchError,
    audio.AudioError,
    engines.EngineBusy,
    rtp.PortsExhausted,
    ProgrammeFull,
)


def declined(error: Exception) -> Declined:
    """What one of UNSERVABLE is answered with."""
    # The reason may quote what the caller sent, and a phrase is one line (RFC 3261 section 25.1).
    reason = " ".join("".join(c if c.isprintable() else " " for c in str(error)).split())
    match error:
        case sip.RemoteProtocolError():
            return Declined(error.status, reason, error.headers)
        case engines.UnsuitableUtterance() if not isinstance(error, engines.UnknownVoice):
            return Declined(400, reason)
        case Forbidden():
            return Declined(403, reason)
        case rtp.PortsExhausted():
            return Declined(503, "No RTP port is free", (("Retry-After", "5"),))
        case engines.EngineBusy():
            return Declined(503, reason, (("Retry-After", f"{math.ceil(error.retry_after_s)}"),))
        case ProgrammeFull():
            return Declined(503, reason, (("Retry-After", "5"),))
    # RFC 4240 section 3: what cannot be had is Not Found.
    return Declined(404, reason)
