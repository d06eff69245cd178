"""Digits as telephone events in RTP (RFC 4733).

An event travels as a run of packets that all carry the timestamp of its beginning and a duration that grows; the last
one, with the end bit, is sent three times. `Detector` turns such runs back into digits, each exactly once. `dial` lays
out the packets for a string of digits, one for each frame of the stream.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from .packet import TIMESTAMP_BITS, LocalProtocolError, RemoteProtocolError, distance

__all__ = ["DIGITS", "Detector", "Digit", "Event", "EventFrame", "dial", "parse", "serialise"]

DIGITS = "0123456789*#ABCD"  # indexed by event code, RFC 4733 table 3
LONGEST_SEGMENT = 0xFFFF  # timestamp units
MOST_REPORTS = 16  # in one payload; ours, so that one datagram cannot key thousands of digits
ENDS = 3  # RFC 4733 section 2.5.1.4: how often the last packet of an event or segment is sent
SILENCE_NS = 200_000_000  # an event whose end was lost is over when nothing is heard of it for so long

_EVENT = struct.Struct("!BBH")


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One report of an event (RFC 4733 section 2.3).

    code      0..255; 0..15 are DIGITS
    end       the event is over
    volume    power in -dBm0, 0..63: 10 means -10 dBm0
    duration  0..65535 timestamp units since the RTP timestamp
    """

    code: int
    end: bool
    volume: int
    duration: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Digit:
    """A digit that was keyed: one of DIGITS, how long it lasted, and how loud in dBm0 (0 to -63)."""

    digit: str
    duration_ms: int
    volume_dbm0: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFrame:
    """A packet to send in place of an audio frame: `offset` in timestamp units from the first frame of the dialling."""

    marker: bool
    offset: int
    payload: bytes


def parse(payload: bytes) -> tuple[Event, ...]:
    """The reports in a payload, mostly one (RFC 4733 section 2.5.1.5 allows more). Raises RemoteProtocolError."""
    count, rest = divmod(len(payload), _EVENT.size)
    if rest or not 1 <= count <= MOST_REPORTS:
        raise RemoteProtocolError(
            f"telephone-event payload of {len(payload)} octets instead of 1 to {MOST_REPORTS} reports of {_EVENT.size}"
        )
    return tuple(
        Event(code=code, end=flags >= 0x80, volume=flags & 0x3F, duration=duration)
        for code, flags, duration in _EVENT.iter_unpack(payload)
    )


def serialise(event: Event) -> bytes:
    """The report's 4 octets. Raises LocalProtocolError for a value that does not fit its field."""
    for name, value, limit in (
        ("code", event.code, 0xFF),
        ("volume", event.volume, 0x3F),
        ("duration", event.duration, LONGEST_SEGMENT),
    ):
        if not 0 <= value <= limit:
            raise LocalProtocolError(f"telephone-event {name} {value} is not in 0..{limit}")
    return _EVENT.pack(event.code, event.end << 7 | event.volume, event.duration)


class _State(enum.Enum):
    QUIET = "nothing heard yet"
    OPEN = "an event goes on"
    REPORTED = "the event at hand has been reported; more of its packets may come"


class Detector:
    """Telephone-event packets in, digits out, each once.

    A digit is reported with the first end packet of its event. When all of those are lost it is reported with the
    first packet of the next event, or when nothing more of it has come for SILENCE_NS. Packets of one event share
    its timestamp, whatever else is repeated, lost or out of order: the same digit keyed twice has two timestamps. A
    marker is not needed. Events that are no digits are followed but not reported.

    begun  how many digits have begun to be keyed: each is reported later, if its source stays the same
    """

    def __init__(self, *, rate_hz: int = 8000) -> None:
        self.begun = 0
        self._rate_hz = rate_hz
        self._state = _State.QUIET
        self._code = 0
        self._volume = 0
        self._start = 0  # timestamp of the segment at hand
        self._earlier = 0  # duration of the segments before it
        self._duration = 0
        self._last_ns = 0

    def receive(self, payload: bytes, *, timestamp: int, now_ns: int) -> list[Digit]:
        """Digits that this packet completes. Raises RemoteProtocolError for a payload that is none."""
        digits: list[Digit] = []
        for event in parse(payload):
            self._receive_one(event, timestamp, now_ns, digits)
            # RFC 4733 section 2.5.1.5: several reports in a payload follow each other without a gap.
            timestamp = timestamp + event.duration & 0xFFFFFFFF
        return digits

    def wake_at_ns(self) -> int | None:
        """When `handle_timer` is due; None while no event is open."""
        return self._last_ns + SILENCE_NS if self._state is _State.OPEN else None

    def handle_timer(self, now_ns: int) -> list[Digit]:
        """The digit, if any, whose end is taken for lost."""
        wake_at_ns = self.wake_at_ns()
        if wake_at_ns is None or now_ns < wake_at_ns:
            return []
        return self._report()

    def reset(self) -> None:
        """The source has changed: what it sends is not in sequence with what came before."""
        self._state = _State.QUIET

    def _receive_one(self, event: Event, timestamp: int, now_ns: int, digits: list[Digit]) -> None:
        ahead = distance(self._start, timestamp, bits=TIMESTAMP_BITS) if self._state is not _State.QUIET else 1
        if ahead < 0:
            return  # a straggler of an event that is over
        if ahead > 0:
            if self._continues(event, ahead):
                self._earlier += LONGEST_SEGMENT
            else:
                digits += self._report()
                self._earlier = 0
                self._state = _State.OPEN
                self.begun += event.code < len(DIGITS)
            self._code = event.code
            self._start = timestamp
            self._duration = 0
        self._duration = max(self._duration, event.duration)
        self._volume = event.volume
        self._last_ns = now_ns
        if event.end:
            digits += self._report()

    def _continues(self, event: Event, ahead: int) -> bool:
        # RFC 4733 section 2.5.1.3: a segment starts where the one before it reached the longest duration.
        return self._state is _State.OPEN and event.code == self._code and ahead == LONGEST_SEGMENT

    def _report(self) -> list[Digit]:
        if self._state is not _State.OPEN:
            return []
        self._state = _State.REPORTED
        if self._code >= len(DIGITS):
            return []
        duration_ms = (self._earlier + self._duration) * 1000 // self._rate_hz
        return [Digit(digit=DIGITS[self._code], duration_ms=duration_ms, volume_dbm0=-self._volume)]


def dial(
    digits: str,
    *,
    ptime_ms: int = 20,
    duration_ms: int = 100,
    gap_ms: int = 60,
    volume: int = 10,
    rate_hz: int = 8000,
) -> Iterator[EventFrame | None]:
    """What takes the place of audio, one entry for each frame of `ptime_ms`; None stands for a frame of silence.

    duration_ms  of each digit, at least 40 (ITU-T Q.24), rounded up to whole frames
    gap_ms       from the end of a digit to the next, at least 40, likewise; it begins while the end is being repeated
    volume       in -dBm0, 0..63

    Raises LocalProtocolError, at the call, for what is no digit or out of range.
    """
    codes = [DIGITS.find(digit) for digit in digits.upper()]
    if not codes or -1 in codes:
        raise LocalProtocolError(f"{digits!r} is not made of the digits {DIGITS}")
    if duration_ms < 40 or gap_ms < 40:
        raise LocalProtocolError(f"a digit of {duration_ms} ms and a gap of {gap_ms} ms: both must be at least 40 ms")
    if not 0 <= volume <= 63:
        raise LocalProtocolError(f"volume {volume} is not in 0..63 (-dBm0)")
    return _dial(
        codes,
        frame=ptime_ms * rate_hz // 1000,
        frames=-(-duration_ms // ptime_ms),
        gap=-(-gap_ms // ptime_ms),
        volume=volume,
    )


def _dial(codes: list[int], *, frame: int, frames: int, gap: int, volume: int) -> Iterator[EventFrame | None]:
    """`frame` is a frame's length in timestamp units; `frames` and `gap` count frames."""
    start = 0
    for code in codes:
        count = 0
        for entry in _event(code, start=start, frame=frame, total=frames * frame, volume=volume):
            yield entry
            count += 1
        for _ in range(count, frames + gap):
            yield None
            count += 1
        start += count * frame


def _event(code: int, *, start: int, frame: int, total: int, volume: int) -> Iterator[EventFrame]:
    """One event of `total` units from `start` on, in segments when it is too long for one.

    The clock runs on while the last packet of a segment is repeated, so that the next segment's first packet already
    reports a few frames.
    """
    base = 0  # where the segment at hand begins, from the event's start
    elapsed = 0
    while base < total:
        limit = min(base + LONGEST_SEGMENT, total)
        final = limit == total
        repeats = 0
        while repeats < ENDS:
            elapsed += frame
            duration = min(elapsed, limit) - base
            over = elapsed >= limit
            repeats += over
            event = Event(code=code, end=over and final, volume=volume, duration=duration)
            # RFC 4733 section 2.2.2: only the first packet of the first segment has the marker.
            yield EventFrame(marker=elapsed == frame, offset=start + base, payload=serialise(event))
        base = limit
