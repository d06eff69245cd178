"""RTP between a browser and the server, packet by packet and without I/O: a translator (RFC 3550 section 7.1).

Sources, sequence numbers and reports pass through, so either end sees what the other one really loses, and how late it
is. PCMU passes as it is; Opus is made of it and into it, one packet of each for one of the other, and its clock, which
is six times as fast, is translated in what tells the time.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol

from rtp import RemoteProtocolError, packet

__all__ = ["Transcoder", "Translator"]

# What the server's side speaks (RFC 3551 section 6), and the octets in 20 ms of it.
PCMU = 0
FRAME = 160
# RFC 7587 section 4.1 over RFC 3551 section 4.5.14.
OPUS_CLOCK = 6
# A source that goes back by more than this has begun anew; one that goes back by less was overtaken.
MOST_REORDERED = 100

_SENDER_REPORT, _RECEIVER_REPORT, _DESCRIPTION, _GOODBYE = 200, 201, 202, 203
_EVENT = struct.Struct("!BBH")
_REPORT_SIZE = 24


class Transcoder(Protocol):
    """Opus of one call, both ways; `samples` are PCMU codes."""

    def decode(self, opus: bytes) -> bytes:
        """The codes in a packet, none if there is nothing in it that can be decoded."""

    def encode(self, codes: bytes) -> bytes:
        """20 ms of codes as a packet."""


class _Clock:
    """Timestamps of one source on another clock, `numerator / denominator` as fast. Wrapping around is seen through."""

    def __init__(self, numerator: int, denominator: int) -> None:
        self._numerator, self._denominator = numerator, denominator
        self._last: int | None = None
        self._total = 0

    def at(self, timestamp: int) -> int:
        """What it is on the other clock."""
        if self._last is None:
            self._last = self._total = timestamp
        ahead = packet.distance(self._last, timestamp, bits=32)
        self._last, self._total = timestamp, self._total + ahead
        return self._total * self._numerator // self._denominator & 0xFFFFFFFF


class Translator:
    """One call's packets, both ways. Each method gives None for what the other side must not get.

    payload_type     of the audio at the browser
    telephone_event  of digits there, and `server_event` at the server; None if there are none
    transcoder       where the browser speaks Opus; None where it speaks PCMU

    hears       whether the server wants to hear the browser
    dropped     packets that were none, or nothing that was agreed on
    """

    def __init__(
        self,
        *,
        payload_type: int,
        telephone_event: int | None,
        server_event: int | None,
        transcoder: Transcoder | None,
    ) -> None:
        self.hears = True
        self.dropped = 0
        self._payload_type = payload_type
        self._telephone_event = telephone_event
        self._server_event = server_event
        self._transcoder = transcoder
        self._plain = transcoder is None and payload_type == PCMU
        self._source: int | None = None
        self._sequence = 0
        scale = 1 if transcoder is None else OPUS_CLOCK
        self._scale = scale
        self._down, self._up = _Clock(1, scale), _Clock(scale, 1)

    def from_browser(self, data: bytes) -> bytes | None:
        """An RTP packet of the browser's, as the server gets it."""
        if not self.hears:
            return None
        if self._passes(data):
            return data
        received = self._parse(data)
        if received is None:
            return None
        if received.payload_type == self._payload_type:
            payload_type, payload = PCMU, self._heard(received)
        elif received.payload_type == self._telephone_event and self._server_event is not None:
            payload_type, payload = self._server_event, self._event(received.payload, 1, self._scale)
        else:
            payload_type, payload = PCMU, b""
        if not payload:
            self.dropped += 1
            return None
        return self._serialise(received, payload_type, payload, self._down)

    def to_browser(self, data: bytes) -> bytes | None:
        """An RTP packet of the server's, as the browser gets it."""
        if self._passes(data):
            return data
        received = self._parse(data)
        if received is None:
            return None
        if received.payload_type == PCMU:
            payload_type, payload = self._payload_type, received.payload
            if self._transcoder is not None:
                payload = self._transcoder.encode(payload) if len(payload) == FRAME else b""
        elif received.payload_type == self._server_event and self._telephone_event is not None:
            payload_type, payload = self._telephone_event, self._event(received.payload, self._scale, 1)
        else:
            payload_type, payload = PCMU, b""
        if not payload:
            self.dropped += 1
            return None
        return self._serialise(received, payload_type, payload, self._up)

    def reports_from_browser(self, data: bytes) -> bytes | None:
        """A compound RTCP packet of the browser's, as the server gets it."""
        return self._reports(data, own=self._down, numerator=1, denominator=self._scale)

    def reports_to_browser(self, data: bytes) -> bytes | None:
        """A compound RTCP packet of the server's, as the browser gets it."""
        return self._reports(data, own=self._up, numerator=self._scale, denominator=1)

    def _passes(self, data: bytes) -> bool:
        """Whether it is as it should be already, as nearly all are between PCMU and PCMU: a header and audio alone."""
        return self._plain and len(data) > packet.HEADER_SIZE and data[0] == 0x80 and data[1] & 0x7F == PCMU

    def _parse(self, data: bytes) -> packet.Packet | None:
        try:
            return packet.parse(data)
        except RemoteProtocolError:
            self.dropped += 1
            return None

    def _serialise(self, received: packet.Packet, payload_type: int, payload: bytes, clock: _Clock) -> bytes:
        return packet.serialise(
            replace(
                received,
                payload_type=payload_type,
                payload=payload,
                timestamp=clock.at(received.timestamp),
                csrcs=(),
                extension=None,
                padding=0,
            )
        )

    def _heard(self, received: packet.Packet) -> bytes:
        """PCMU codes of a packet of the browser's."""
        if self._transcoder is None or not received.payload:
            return received.payload
        if received.ssrc != self._source:
            self._source, self._down = received.ssrc, _Clock(1, self._scale)
        else:
            ahead = packet.distance(self._sequence, received.sequence, bits=16)
            if -MOST_REORDERED < ahead <= 0:
                return b""  # The decoder has gone on.
        self._sequence = received.sequence
        return self._transcoder.decode(received.payload)

    def _event(self, payload: bytes, numerator: int, denominator: int) -> bytes:
        """RFC 4733 section 2.3.5: the duration is in units of the timestamp, and 0xFFFF says as long as can be said."""
        if len(payload) < _EVENT.size:
            return b""
        event, flags, duration = _EVENT.unpack_from(payload)
        return _EVENT.pack(event, flags, min(duration * numerator // denominator, 0xFFFF))

    def _reports(self, data: bytes, *, own: _Clock, numerator: int, denominator: int) -> bytes | None:
        """The packets of a compound (RFC 3550 section 6.1) that mean something to the other side.

        A report tells jitter on the clock of what it is about, and a sender's its own time; both sides' clocks are in
        the same ratio.
        """
        parts = []
        for kind, octets in _compound(data):
            part = bytearray(octets)
            if kind in (_SENDER_REPORT, _RECEIVER_REPORT) and self._scale != 1:
                if kind == _SENDER_REPORT:
                    struct.pack_into("!I", part, 16, own.at(struct.unpack_from("!I", part, 16)[0]))
                first = 28 if kind == _SENDER_REPORT else 8
                for at in range(first, first + (part[0] & 0x1F) * _REPORT_SIZE, _REPORT_SIZE):
                    jitter = struct.unpack_from("!I", part, at + 12)[0] * numerator // denominator
                    struct.pack_into("!I", part, at + 12, min(jitter, 0xFFFFFFFF))
            if kind in (_SENDER_REPORT, _RECEIVER_REPORT, _DESCRIPTION, _GOODBYE):
                parts.append(part)
        if not parts:
            self.dropped += 1
            return None
        return b"".join(parts)


def _compound(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and octets of each packet; it ends before the first one that is not whole (RFC 3550 appendix A.2)."""
    at = 0
    while at + 8 <= len(data) and data[at] >> 6 == 2:
        end = at + 4 + 4 * struct.unpack_from("!H", data, at + 2)[0]
        kind, count = data[at + 1], data[at] & 0x1F
        least = {_SENDER_REPORT: 28 + count * _REPORT_SIZE, _RECEIVER_REPORT: 8 + count * _REPORT_SIZE}.get(kind, 4)
        if end > len(data) or end - at < least:
            return
        yield kind, data[at:end]
        at = end
