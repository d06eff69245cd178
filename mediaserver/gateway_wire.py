"""What server and WebRTC gateway tell one another: one JSON document in each packet of a socket pair."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Literal

__all__ = [
    "PACKET_SIZE",
    "Close",
    "Closed",
    "Codec",
    "Connect",
    "Connected",
    "Direct",
    "Failed",
    "Message",
    "Open",
    "Opened",
    "Ready",
    "decode",
    "encode",
]

PACKET_SIZE = 65_536

Codec = Literal["PCMU", "opus"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """From the gateway: it takes what it is told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Open:
    """Gather candidates for a browser, and open a port on `host` for the server's RTP.

    addresses    to be reached at by browsers; none: all of this machine's but loopback
    ports        first and last of those to be reached at; None: any
    advertise    that browsers reach `addresses` at, by the same ports, where a NAT is in between; "" if none is
    stun_server  host and port of one that tells what a NAT makes of us
    """

    id: str
    host: str
    addresses: tuple[str, ...]
    ports: tuple[int, int] | None
    advertise: str
    stun_server: tuple[str, int] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """It is there; the fields are those of jsep.Side, and the port for the server's RTP."""

    id: str
    ufrag: str
    password: str
    fingerprint: str
    candidates: tuple[str, ...]
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """It could not be opened."""

    id: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Connect:
    """Connect a browser with the server's RTP at host:port.

    The fields up to `candidates` are those of jsep.BrowserOffer.

    server_event  payload type of digits on the server's side; None if there is none
    """

    id: str
    codec: Codec
    payload_type: int
    telephone_event: int | None
    ufrag: str
    password: str
    fingerprints: tuple[tuple[str, str], ...]
    active: bool
    candidates: tuple[str, ...]
    host: str
    port: int
    server_event: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Connected:
    """Media can flow."""

    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Direct:
    """Whether the server wants to hear the browser now."""

    id: str
    hears: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Close:
    """End it, towards the browser."""

    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """It has ended, and why."""

    id: str
    why: str


Message = Ready | Open | Opened | Failed | Connect | Connected | Direct | Close | Closed
_KINDS: dict[str, type[Message]] = {
    kind.__name__: kind for kind in (Ready, Open, Opened, Failed, Connect, Connected, Direct, Close, Closed)
}


def encode(message: Message) -> bytes:
    return json.dumps([type(message).__name__, dataclasses.asdict(message)]).encode()


def decode(packet: bytes) -> Message:
    """The reverse: both sides are the same program, so it raises for nothing that `encode` makes."""
    name, told = json.loads(packet)
    fields: dict[str, Any] = {key: _frozen(value) for key, value in told.items()}
    return _KINDS[name](**fields)


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
