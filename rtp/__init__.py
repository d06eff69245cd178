"""RTP for telephony: G.711 streams, paced by compiled code, with RTCP, digits and quality figures.

`Endpoint` opens streams on UDP ports. Below it lie the values and rules that can be used without one: packet, g711,
rtcp, dtmf, quality, session.
"""

from importlib.util import find_spec

if find_spec("rtp._plane") is None or find_spec("rtp._dsp") is None:
    raise ImportError("rtp is compiled code, and it has not been built: run scripts/serve, or `pip install -e .`")

from .endpoint import (
    Clip,
    Codec,
    Digit,
    DigitBegun,
    Endpoint,
    EndpointCounters,
    Frame,
    Latched,
    MediaTimeout,
    PortsExhausted,
    RemoteBye,
    Stream,
    StreamClosed,
    StreamCounters,
    StreamEvent,
    Transform,
)
from .packet import LocalProtocolError, RemoteProtocolError, RtpError

__all__ = [
    "Clip",
    "Codec",
    "Digit",
    "DigitBegun",
    "Endpoint",
    "EndpointCounters",
    "Frame",
    "Latched",
    "LocalProtocolError",
    "MediaTimeout",
    "PortsExhausted",
    "RemoteBye",
    "RemoteProtocolError",
    "RtpError",
    "Stream",
    "StreamClosed",
    "StreamCounters",
    "StreamEvent",
    "Transform",
]
