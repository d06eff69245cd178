"""SIP: a user agent without I/O (`Agent`), and the shell around it (`Transport`).

Messages are values (`Request`, `Response`), events too (`Offered` ... `Ended`), bodies are bytes; `sip.sdp` reads and
answers the usual kind of body.
"""

from __future__ import annotations

from .agent import Agent
from .call import (
    Acknowledged,
    Answered,
    Cause,
    Confirmed,
    Ended,
    Event,
    FlowFailed,
    Offered,
    Progressed,
    Refused,
    Reoffered,
    Requested,
    Responded,
    Withdrawn,
)
from .connection import StreamLimits
from .counters import Counters
from .digest import Keyring, Login, Realm
from .errors import LocalProtocolError, RemoteProtocolError, SipError
from .guard import Guard
from .headers import CSeq, Headers, NameAddr, Via
from .hep import capture_packet
from .locate import Target
from .message import Request, Response
from .parser import parse_datagram
from .probe import Probe, ProbeState, Reached, Unreached
from .refer import Outcome, ReferOrder, Referral, ReferralDone, Transfer, Transferred, refer_to_peer_of
from .registration import Account, Registered, Registration, RegistrationFailed, RegistrationState, Unregistered
from .resolver import NotLocated, Resolver
from .session_timer import LEAST_MIN_SE_S
from .streams import StreamCounters
from .tls import Tls, TlsError
from .transaction import Flow, Timers
from .transport import Transport
from .uas import Admission, Admit
from .uri import Uri

__all__ = [
    "LEAST_MIN_SE_S",
    "Account",
    "Acknowledged",
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
    "FlowFailed",
    "Guard",
    "Headers",
    "Keyring",
    "LocalProtocolError",
    "Login",
    "NameAddr",
    "NotLocated",
    "Offered",
    "Outcome",
    "Probe",
    "ProbeState",
    "Progressed",
    "Reached",
    "Realm",
    "ReferOrder",
    "Referral",
    "ReferralDone",
    "Refused",
    "Registered",
    "Registration",
    "RegistrationFailed",
    "RegistrationState",
    "RemoteProtocolError",
    "Reoffered",
    "Request",
    "Requested",
    "Resolver",
    "Responded",
    "Response",
    "SipError",
    "StreamCounters",
    "StreamLimits",
    "Target",
    "Timers",
    "Tls",
    "TlsError",
    "Transfer",
    "Transferred",
    "Transport",
    "Unreached",
    "Unregistered",
    "Uri",
    "Via",
    "Withdrawn",
    "capture_packet",
    "parse_datagram",
    "refer_to_peer_of",
]
