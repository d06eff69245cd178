"""SIP: a user agent without I/O (`Agent`), and the shell around it (`Transport`).

Messages are values (`Request`, `Response`), events too (`Offered` ... `Ended`), bodies are bytes; `sip.sdp` reads and
answers the usual kind of body.
"""

from __future__ import annotations

from .agent import Admission, Admit, Agent, Counters
from .call import (
    Answered,
    Cause,
    Confirmed,
    Ended,
    Event,
    Offered,
    Progressed,
    Refused,
    Reoffered,
    Requested,
    Responded,
    Withdrawn,
)
from .connection import StreamLimits
from .digest import Keyring, Login, Realm
from .errors import LocalProtocolError, RemoteProtocolError, SipError
from .guard import Guard
from .headers import CSeq, Headers, NameAddr, Via
from .message import Request, Response
from .parser import parse_datagram
from .streams import StreamCounters
from .transaction import Flow, Timers
from .transport import Transport
from .uri import Uri

__all__ = [
    "Admission",
    "Admit",
    "Agent",
    "Answered",
    "CSeq",
    "Cause",
    "Confirmed",
    "Counters",
    "Ended",
    "Event",
    "Flow",
    "Guard",
    "Headers",
    "Keyring",
    "LocalProtocolError",
    "Login",
    "NameAddr",
    "Offered",
    "Progressed",
    "Realm",
    "Refused",
    "RemoteProtocolError",
    "Reoffered",
    "Request",
    "Requested",
    "Responded",
    "Response",
    "SipError",
    "StreamCounters",
    "StreamLimits",
    "Timers",
    "Transport",
    "Uri",
    "Via",
    "Withdrawn",
    "parse_datagram",
]
