"""What a host and its worker say to each other: one message in one packet of a SOCK_SEQPACKET socket pair.

    packet = kind (1 byte) | request id (4 bytes, big endian; 0 where a message concerns no request) | body
    body   = samples (PCM), or JSON in UTF-8 (every other kind that has one)

A message that is too long for a packet (a request with the voice of a speaker) comes in several: all but the last are
of kind 0, with what comes first of its body.

The socket keeps packets whole, so several processes may write to it without a lock, and one that dies leaves no half
message behind. A conversation:

    host    worker
         <- Hello                 once, when the worker can speak
    Speak ->                      at most `Hello.concurrency` requests are open at a time
         <- Chunk ...             samples as they are made
         <- Done | Failed         ends the request
    Cancel ->                     for an open request ...
         <- Stopped               ... ends it too (or Done or Failed, when they crossed)
         <- Refused               ends a request that no worker could carry out
    Backlog ->                   for an open request, to a worker that paces its work
         <- Load                  now and then, from a worker that has a device
    Ping -> <- Pong               at any time; a worker that does not answer is stuck
"""

from __future__ import annotations

import dataclasses
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

__all__ = [
    "MOST_BYTES",
    "PACKET_SIZE",
    "Backlog",
    "Cancel",
    "Chunk",
    "Done",
    "Failed",
    "Hello",
    "Joiner",
    "Load",
    "Message",
    "Ping",
    "Pong",
    "Refused",
    "Speak",
    "Stopped",
    "WireError",
    "decode",
    "encode",
    "packets",
]

PACKET_SIZE: Final = 128 * 1024
"""No packet is longer, in bytes; a receiver needs a buffer of this size."""

MOST_BYTES: Final = 4 * 1024 * 1024
"""Of a message."""

_MORE: Final = 0

_HEADER = struct.Struct("!BI")


class WireError(Exception):
    """The other side does not speak this protocol."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """The worker can speak.

    version           of the engine, such as "espeak-ng 1.52.0"
    concurrency       how many requests it takes at a time
    ssml              whether it understands SSML
    source_rate_hz    of the samples that the engine makes; 0: it makes them at any rate
    piece_characters  sentences are joined until a piece has so many characters
    voices            [id, name, BCP 47 language] of each
    variants          timbres that go with every voice, such as "f3"
    languages         BCP 47 tag to the id of the voice that speaks it best
    cloning           whether an enrolled speaker is recognised by ear
    embedding_kind    what an embedding has to be
    speeds            the slowest and the fastest that it speaks itself, relative to a voice's own speed
    enrolled_speeds   the same for every enrolled speaker, relative to the speaker's own
    seeds             whether it can say a text in more than one way
    even              pieces are to be long, and all of about the same length
    tags              words in brackets that are not read out but done, such as "[laugh]"; None: there are none, and
                      brackets are read as any text is
    queues            whether a request may wait until another one is done. Otherwise it speaks in step with those who
                      listen, as many at a time as it can keep up with, and more of them are to be turned away
    notice            what an operator has to know of it all the time
    """

    version: str
    concurrency: int
    ssml: bool
    source_rate_hz: int
    piece_characters: int
    voices: tuple[tuple[str, str, str], ...]
    variants: tuple[str, ...] = ()
    languages: Mapping[str, str] = field(default_factory=dict)
    cloning: bool = False
    embedding_kind: str = ""
    speeds: tuple[float, float] = (0.25, 4.0)
    enrolled_speeds: tuple[float, float] = (0.25, 4.0)
    seeds: bool = False
    even: bool = False
    tags: tuple[str, ...] | None = None
    queues: bool = True
    notice: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Speak:
    """Speak one piece of an utterance.

    text        plain text, or an SSML document when `ssml` is true
    voice       an id that the worker announced, with "+variant" or without
    speed       relative to the voice's own
    rate_hz     of the samples that are to come back
    last        no piece follows, so no pause is wanted at the end
    embedding   of the speaker to take after, in base64; "" for nobody
    attempt     0, or how many times this piece was begun before
    skip_bytes  samples at the start that were delivered already and are not to be sent again
    language    BCP 47 tag; "" leaves it to the voice
    seed        which of the ways to say it; None leaves that to the engine, which says the same text the same way
    due_ms      what was said before will have been heard then
    """

    id: int
    text: str
    ssml: bool
    voice: str
    speed: float
    rate_hz: int
    last: bool
    embedding: str = ""
    attempt: int = 0
    skip_bytes: int = 0
    language: str = ""
    seed: int | None = None
    due_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Signed 16-bit mono samples in native byte order."""

    id: int
    samples: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """Everything was said."""

    id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """The request was cancelled; no chunk follows."""

    id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The request broke. With id 0 the worker itself cannot start."""

    id: int
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Whoever asks for this has to ask for something else; the message says why. Trying again would not help."""

    id: int
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """So much of what was made has not been taken yet by whoever listens, in milliseconds."""

    id: int
    ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How much a device has to do.

    memory_bytes  that are taken on it; 0 for a CPU
    streams       that are spoken now
    late          times that a stream had nothing left to be heard before more came, since the worker's start
    broken        streams that failed by themselves, since then
    """

    memory_bytes: int
    streams: int
    late: int
    broken: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """Stop speaking."""

    id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ping:
    """Are you there?"""

    id: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pong:
    """Yes."""

    id: int = 0


Message = Hello | Speak | Chunk | Done | Stopped | Failed | Refused | Backlog | Load | Cancel | Ping | Pong

_KINDS: dict[type[Message], int] = {
    Hello: 1, Speak: 2, Chunk: 3, Done: 4, Stopped: 5, Failed: 6, Cancel: 7, Ping: 8, Pong: 9, Refused: 10, Backlog: 11,
    Load: 12,
}  # fmt: skip
_TYPES: dict[int, type[Message]] = {kind: message for message, kind in _KINDS.items()}


def encode(message: Message) -> bytes:
    """One packet. Raises WireError when it would be too long for one."""
    packet = _whole(message)
    if len(packet) > PACKET_SIZE:
        raise WireError(f"a message of {len(packet)} bytes does not fit into a packet of {PACKET_SIZE}")
    return packet


def packets(message: Message) -> list[bytes]:
    """A message of any length, to be sent in this order. Raises WireError when nobody would take it."""
    whole = _whole(message)
    if len(whole) > MOST_BYTES:
        raise WireError(f"a message of {len(whole)} bytes is too long: {MOST_BYTES} is the most")
    if len(whole) <= PACKET_SIZE:
        return [whole]
    kind, identity = _HEADER.unpack_from(whole)
    size = PACKET_SIZE - _HEADER.size
    bodies = [whole[start : start + size] for start in range(_HEADER.size, len(whole), size)]
    kinds = [_MORE] * (len(bodies) - 1) + [kind]
    return [_HEADER.pack(each, identity) + body for each, body in zip(kinds, bodies, strict=True)]


class Joiner:
    """At the receiving end of a socket: packets in, whole messages out, still encoded."""

    def __init__(self) -> None:
        self._held: dict[int, bytearray] = {}

    def feed(self, packet: bytes) -> bytes | None:
        """The message that the packet ends; None if there is more to come. Raises WireError."""
        try:
            kind, identity = _HEADER.unpack_from(packet)
        except struct.error as error:
            raise WireError(f"not a message: {packet[:40]!r}") from error
        if kind != _MORE and identity not in self._held:
            return packet
        held = self._held.setdefault(identity, bytearray())
        held += packet[_HEADER.size :]
        if len(held) > MOST_BYTES:
            raise WireError("a message that does not end")
        if kind == _MORE:
            return None
        return _HEADER.pack(kind, identity) + bytes(self._held.pop(identity))


def _whole(message: Message) -> bytes:
    if isinstance(message, Chunk):
        return _HEADER.pack(_KINDS[Chunk], message.id) + message.samples
    fields = dataclasses.asdict(message)
    identity = fields.pop("id", 0)
    body = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode() if fields else b""
    return _HEADER.pack(_KINDS[type(message)], identity) + body


def decode(packet: bytes) -> Message:
    """The message in a packet. Raises WireError."""
    try:
        kind, identity = _HEADER.unpack_from(packet)
        body = packet[_HEADER.size :]
        if kind == _KINDS[Chunk]:
            return Chunk(id=identity, samples=body)
        fields = json.loads(body) if body else {}
        if kind == _KINDS[Hello]:
            fields["voices"] = tuple(tuple(voice) for voice in fields["voices"])
            fields["variants"] = tuple(fields["variants"])
            fields["tags"] = None if fields["tags"] is None else tuple(fields["tags"])
            for speeds in ("speeds", "enrolled_speeds"):
                fields[speeds] = tuple(fields[speeds])
        elif kind != _KINDS[Load]:
            fields["id"] = identity
        return _TYPES[kind](**fields)
    except (struct.error, ValueError, KeyError, TypeError) as error:
        raise WireError(f"not a message: {packet[:40]!r}") from error
