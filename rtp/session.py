"""One RTP session, sans-IO: what the compiled plane does, in words that can be read.

`Sender` and `Receiver` are the rules that the plane follows, and tests/rtp_rules.py holds both to them. `RtcpSchedule`
is not only a reference: it composes and reads the RTCP of every stream at run time.

Sending. Time is a grid: slot n is due at origin + n * ptime, and the media clock (the RTP timestamp) advances by one
frame in every slot, whether a packet goes out in it or not. From `start` on, every slot sends one packet, unless the
stream is held. What the packet carries is one of

    SPEECH    a frame of what was written; the last frame of an utterance is filled up with silence
    SILENCE   designed: nothing is being said, or an utterance is still filling its start threshold
    UNDERRUN  silence in the place of speech: an utterance is being said and its audio is late
    EVENT     a telephone event (RFC 4733); speech waits meanwhile

An utterance opens with its first `write` and closes with `end`. It starts to be heard when `start_ms` of it are
buffered, or all of it. When its audio runs out before `end` that is one underrun, however many frames it lasts, and
speech goes on when `start_ms` are buffered again, or the rest. Less than a whole frame of an open utterance waits
for the rest of its frame. A clip is an utterance that `play` appends whole, and that is read where it lies: it may
be longer than the ring, and cannot run out.

The marker is set (RFC 3551 section 4.1) on the first packet after `start`, after a hold and after skipped slots, on
the first packet of a telephone event, and on a speech packet whose predecessor was no speech. That section wants no
marker at all from a sender that never pauses; jitter buffers adapt best between utterances, so ours marks them still.

A tick that comes late sends the slots that are due, two at most. Older slots are skipped: no packet, the media clock
passes over them, and what they would have said is said in later slots. So a stalled host is heard as a pause, never as
a burst, and never shifts the grid.

Receiving. Three consecutive packets (RFC 3550 appendix A.1, probation) from one address with one SSRC latch it, and
lock it: packets from elsewhere are strangers' and are dropped. `connect` opens the latch again, for a re-INVITE; the
source that was latched is heard on meanwhile. The address that signalling announced comes first: while it or the
source is heard, no stranger can be latched, and it can be latched even when another is locked, since after a
re-INVITE the old path is often heard for some packets more. A new SSRC from the source's address takes over after
probation, once the old one is silent. Each address has its own probation, so that nobody ends another's by sending in
between; four are on one at a time. What the first two packets of a probation carry is lost, unless they come from the
announced address and nobody was heard before: a first word is not to be clipped.

Addresses are (host, port). Times are nanoseconds of one monotonic clock.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from . import dtmf, g711, packet, rtcp
from .packet import SEQUENCE_BITS, TIMESTAMP_BITS, LocalProtocolError, Packet, RemoteProtocolError, distance

__all__ = [
    "PCMA",
    "PCMU",
    "Address",
    "Codec",
    "Heard",
    "Latched",
    "MediaTimeout",
    "Received",
    "Receiver",
    "RtcpSchedule",
    "Sender",
    "Sent",
    "SentFrames",
]

Address = tuple[str, int]

PTIMES_MS = (10, 20, 30, 40, 60)
SLOTS_AT_ONCE = 2
COMFORT_NOISE = 13  # RFC 3389; its static payload type is accepted whether negotiated or not
PROBATION = 3  # consecutive packets
CANDIDATES = 4  # addresses that may be on probation at once
QUIET_NS = 200_000_000
REOPEN_NS = 5_000_000_000
MAX_DROPOUT = 3000  # RFC 3550 appendix A.1
MAX_MISORDER = 100  # RFC 3550 appendix A.1

_NS_PER_MS = 1_000_000
_NS_PER_S = 1_000_000_000
_SEQUENCES = 1 << SEQUENCE_BITS
_TIMESTAMPS = 1 << TIMESTAMP_BITS


@dataclass(frozen=True, slots=True, kw_only=True)
class Codec:
    """A companding law; `silence` is the code of sample 0, `from_other` turns the other law's codes into this one's."""

    name: str
    silence: int
    from_other: bytes


PCMU = Codec(name="PCMU", silence=g711.MULAW_SILENCE, from_other=g711.mulaw_encode(g711.LINEAR_FROM_ALAW))
PCMA = Codec(name="PCMA", silence=g711.ALAW_SILENCE, from_other=g711.alaw_encode(g711.LINEAR_FROM_MULAW))


class _Frame(enum.Enum):
    SPEECH = "speech"
    SILENCE = "silence"
    UNDERRUN = "underrun"
    EVENT = "event"
    NOTHING = "no packet in the slot before"


class _Speech(enum.Enum):
    """Where the ring stands when a slot is due; the states of the sender's table."""

    IDLE = "no utterance is being said"
    SPEAKING = "an utterance is being said"
    STARVED = "an utterance is being said and its audio is late"


class _Ring(enum.Enum):
    """What the ring holds of the utterance at its head when a slot is due; the inputs of the sender's table."""

    EMPTY = "nothing, and no utterance is open"
    WHOLE = "all that is left of it, up to its end"
    READY = "at least the start threshold of an open one"
    SOME = "at least a frame of an open one, less than the threshold"
    SHORT = "less than a frame of an open one"


_SLOT = {
    (_Speech.IDLE, _Ring.EMPTY): (_Speech.IDLE, _Frame.SILENCE),
    (_Speech.IDLE, _Ring.SHORT): (_Speech.IDLE, _Frame.SILENCE),
    (_Speech.IDLE, _Ring.SOME): (_Speech.IDLE, _Frame.SILENCE),
    (_Speech.IDLE, _Ring.READY): (_Speech.SPEAKING, _Frame.SPEECH),
    (_Speech.IDLE, _Ring.WHOLE): (_Speech.SPEAKING, _Frame.SPEECH),
    (_Speech.SPEAKING, _Ring.READY): (_Speech.SPEAKING, _Frame.SPEECH),
    (_Speech.SPEAKING, _Ring.SOME): (_Speech.SPEAKING, _Frame.SPEECH),
    (_Speech.SPEAKING, _Ring.WHOLE): (_Speech.SPEAKING, _Frame.SPEECH),
    (_Speech.SPEAKING, _Ring.SHORT): (_Speech.STARVED, _Frame.UNDERRUN),  # counted as one underrun
    (_Speech.SPEAKING, _Ring.EMPTY): (_Speech.IDLE, _Frame.SILENCE),
    (_Speech.STARVED, _Ring.SHORT): (_Speech.STARVED, _Frame.UNDERRUN),
    (_Speech.STARVED, _Ring.SOME): (_Speech.STARVED, _Frame.UNDERRUN),
    (_Speech.STARVED, _Ring.READY): (_Speech.SPEAKING, _Frame.SPEECH),
    (_Speech.STARVED, _Ring.WHOLE): (_Speech.SPEAKING, _Frame.SPEECH),
    (_Speech.STARVED, _Ring.EMPTY): (_Speech.IDLE, _Frame.SILENCE),
}


class _Flow(enum.Enum):
    READY = "not started: nothing is sent"
    PARKED = "not started, and on hold"
    RUNNING = "every slot sends"
    HELD = "started, and on hold: slots pass without a packet"


class _Order(enum.Enum):
    START = "start"
    HOLD = "hold"
    RESUME = "resume"


_FLOW = {
    (_Flow.READY, _Order.START): _Flow.RUNNING,
    (_Flow.READY, _Order.HOLD): _Flow.PARKED,
    (_Flow.READY, _Order.RESUME): _Flow.READY,
    (_Flow.PARKED, _Order.START): _Flow.HELD,
    (_Flow.PARKED, _Order.HOLD): _Flow.PARKED,
    (_Flow.PARKED, _Order.RESUME): _Flow.READY,
    (_Flow.RUNNING, _Order.HOLD): _Flow.HELD,
    (_Flow.RUNNING, _Order.RESUME): _Flow.RUNNING,
    (_Flow.HELD, _Order.HOLD): _Flow.HELD,
    (_Flow.HELD, _Order.RESUME): _Flow.RUNNING,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SentFrames:
    """What a sender has done. Octets are payload octets, as sender reports count them (RFC 3550 section 6.4.1)."""

    packets: int
    octets: int
    speech: int
    silence: int
    underrun: int
    event: int
    underruns: int
    skipped: int


class Sender:
    """Codes in, one packet for each slot out.

    `ssrc`, `sequence` and `timestamp` begin the stream and are to be random (RFC 3550 section 5.1). `start_ms` is
    how much of an utterance is buffered before it is heard, `ring_ms` how much is buffered at most.
    """

    def __init__(self, *, ssrc: int, sequence: int, timestamp: int, start_ms: int = 300, ring_ms: int = 1000) -> None:
        if not 0 <= start_ms <= ring_ms or ring_ms < PTIMES_MS[-1]:
            raise LocalProtocolError(f"a start threshold of {start_ms} ms in a ring of {ring_ms} ms")
        self.ssrc = ssrc
        self._sequence = sequence
        self._timestamp = timestamp  # the media clock at the slot that is due next
        self._start = start_ms * g711.RATE_HZ // 1000
        self._capacity = ring_ms * g711.RATE_HZ // 1000
        self._codec = PCMU
        self._payload_type = 0
        self._telephone_event: int | None = None
        self._ptime_ns = 20 * _NS_PER_MS
        self._flow = _Flow.READY
        self._muted = False
        self._due_ns = 0
        self._ring = bytearray()
        self._closed = 0  # how many codes at the head of the ring belong to utterances that have ended
        self._open = False  # an utterance is open: more of it may come
        self._speech = _Speech.IDLE
        self._before = _Frame.NOTHING
        self._events: deque[dtmf.EventFrame | None] = deque()
        self._events_origin = 0
        self._frames = dict.fromkeys(_Frame, 0)
        self._octets = 0
        self._underruns = 0
        self._skipped = 0

    def connect(
        self, *, codec: Codec, payload_type: int, ptime_ms: int = 20, telephone_event: int | None = None
    ) -> None:
        """Agree, or agree anew (re-INVITE), on what is sent. SSRC, sequence, timestamp and grid go on.

        What is in the ring is turned into the new codec; digits that are being dialled are dropped when the ptime or
        the negotiation of events changes. Raises LocalProtocolError for a ptime that is not one of
        PTIMES_MS or a payload type that is not in 0..127.
        """
        if ptime_ms not in PTIMES_MS:
            raise LocalProtocolError(f"ptime {ptime_ms} ms is not one of {PTIMES_MS}")
        for number in (payload_type, 0 if telephone_event is None else telephone_event):
            if not 0 <= number <= 127:
                raise LocalProtocolError(f"payload type {number} is not in 0..127")
        ptime_ns = ptime_ms * _NS_PER_MS
        if (ptime_ns, telephone_event) != (self._ptime_ns, self._telephone_event):
            self._events.clear()
        if codec != self._codec:
            self._ring = self._ring.translate(codec.from_other)
        self._codec = codec
        self._payload_type = payload_type
        self._ptime_ns = ptime_ns
        self._telephone_event = telephone_event

    def start(self, now_ns: int) -> None:
        """The grid begins here: the first slot is due at once. Raises LocalProtocolError the second time."""
        self._order(_Order.START)
        self._due_ns = now_ns

    def hold(self) -> None:
        """Send nothing from now on. The ring is kept, the media clock goes on. Digits being dialled are dropped."""
        self._order(_Order.HOLD)
        self._events.clear()

    def resume(self, now_ns: int) -> None:
        """Send again, from the next slot of the old grid on."""
        if self._flow is _Flow.HELD:
            self._pass_over(max(-((self._due_ns - now_ns) // self._ptime_ns), 0))
        self._order(_Order.RESUME)

    def mute(self) -> None:
        """Send silence from the next slot on; what is in the ring waits. Digits are sent all the same."""
        self._muted = True

    def unmute(self) -> None:
        """Go on with the next code of the ring."""
        self._muted = False

    @property
    def room(self) -> int:
        """How many codes `write` takes at this moment."""
        return max(self._capacity - len(self._ring), 0)

    def write(self, codes: bytes) -> int:
        """Append to the open utterance, or open one; returns how many codes there was room for."""
        taken = codes[: self.room]
        self._ring += taken
        self._open = self._open or bool(taken)
        return len(taken)

    def play(self, codes: bytes) -> None:
        """Append a clip, an utterance however long; an open one ends before it."""
        self._ring += codes
        self.end()

    def end(self) -> None:
        """The open utterance is complete."""
        self._closed = len(self._ring)
        self._open = False

    def flush(self) -> int:
        """Drop what has not been sent, close the utterance; returns how many codes were dropped."""
        dropped = len(self._ring)
        self._ring.clear()
        self.end()
        return dropped

    @property
    def drained(self) -> bool:
        """Everything that was written has been sent, and no utterance is open."""
        return not self._ring and not self._open

    def dial(self, digits: str, *, duration_ms: int = 100, gap_ms: int = 60, volume: int = 10) -> None:
        """Send digits as telephone events from the next slot on, after those that are under way.

        Raises LocalProtocolError when none were negotiated, or as `dtmf.dial` does.
        """
        if self._telephone_event is None:
            raise LocalProtocolError("telephone events were not negotiated")
        ptime_ms = self._ptime_ns // _NS_PER_MS
        frames = dtmf.dial(digits, ptime_ms=ptime_ms, duration_ms=duration_ms, gap_ms=gap_ms, volume=volume)
        self._events.extend(frames)

    def wake_at_ns(self) -> int | None:
        """When the next slot is due; None while nothing is sent."""
        return self._due_ns if self._flow is _Flow.RUNNING else None

    def tick(self, now_ns: int) -> list[bytes]:
        """The packets that are due."""
        if self._flow is not _Flow.RUNNING or now_ns < self._due_ns:
            return []
        due = (now_ns - self._due_ns) // self._ptime_ns + 1
        if due > SLOTS_AT_ONCE:
            self._skipped += due - SLOTS_AT_ONCE
            self._pass_over(due - SLOTS_AT_ONCE)
        return [self._send_slot() for _ in range(min(due, SLOTS_AT_ONCE))]

    def timestamp_at(self, now_ns: int) -> int:
        """The media clock at `now_ns`, as a sender report names it beside the time (RFC 3550 section 6.4.1)."""
        since = (now_ns - self._due_ns) * g711.RATE_HZ // _NS_PER_S
        return (self._timestamp + since) % _TIMESTAMPS

    def counters(self) -> SentFrames:
        frames = self._frames
        return SentFrames(
            packets=sum(frames.values()),
            octets=self._octets,
            speech=frames[_Frame.SPEECH],
            silence=frames[_Frame.SILENCE],
            underrun=frames[_Frame.UNDERRUN],
            event=frames[_Frame.EVENT],
            underruns=self._underruns,
            skipped=self._skipped,
        )

    def _order(self, order: _Order) -> None:
        if (self._flow, order) not in _FLOW:
            raise LocalProtocolError(f"{order.value} in a stream that is {self._flow.name.lower()}")
        self._flow = _FLOW[self._flow, order]

    @property
    def _frame_size(self) -> int:
        return self._ptime_ns * g711.RATE_HZ // _NS_PER_S

    def _pass_over(self, slots: int) -> None:
        self._due_ns += slots * self._ptime_ns
        self._timestamp = (self._timestamp + slots * self._frame_size) % _TIMESTAMPS
        self._before = _Frame.NOTHING

    def _send_slot(self) -> bytes:
        if self._events:
            event = self._events.popleft()
            sent = self._silence() if event is None else self._event(event)
        elif self._muted:
            sent = self._silence()
        else:
            sent = self._voice()
        self._sequence = (self._sequence + 1) % _SEQUENCES
        self._timestamp = (self._timestamp + self._frame_size) % _TIMESTAMPS
        self._due_ns += self._ptime_ns
        return packet.serialise(sent)

    def _event(self, event: dtmf.EventFrame) -> Packet:
        assert self._telephone_event is not None  # RFC 4733 events are in the queue only after negotiation
        if event.marker:
            # Taken anew for each digit, since slots may have been skipped since the one before.
            self._events_origin = self._timestamp - event.offset
        timestamp = (self._events_origin + event.offset) % _TIMESTAMPS
        self._tally(_Frame.EVENT, octets=len(event.payload))
        return self._packet(event.payload, self._telephone_event, timestamp, marker=event.marker)

    def _silence(self) -> Packet:
        marker = self._before is _Frame.NOTHING
        self._tally(_Frame.SILENCE, octets=self._frame_size)
        payload = bytes((self._codec.silence,)) * self._frame_size
        return self._packet(payload, self._payload_type, self._timestamp, marker=marker)

    def _voice(self) -> Packet:
        before = self._speech
        self._speech, frame = _SLOT[self._speech, self._look()]
        if self._speech is _Speech.STARVED and before is _Speech.SPEAKING:
            self._underruns += 1
        payload = self._take() if frame is _Frame.SPEECH else b""
        payload = payload.ljust(self._frame_size, bytes((self._codec.silence,)))
        marker = self._before is _Frame.NOTHING or (frame is _Frame.SPEECH and self._before is not frame)
        self._tally(frame, octets=len(payload))
        return self._packet(payload, self._payload_type, self._timestamp, marker=marker)

    def _look(self) -> _Ring:
        if self._closed:
            return _Ring.WHOLE
        if not self._open:
            return _Ring.EMPTY
        if len(self._ring) >= max(self._start, self._frame_size):
            return _Ring.READY
        return _Ring.SOME if len(self._ring) >= self._frame_size else _Ring.SHORT

    def _take(self) -> bytes:
        size = min(self._frame_size, self._closed or len(self._ring))
        taken = bytes(self._ring[:size])
        del self._ring[:size]
        if self._closed:
            self._closed -= size
            if not self._closed:
                self._speech = _Speech.IDLE
        return taken

    def _tally(self, frame: _Frame, *, octets: int) -> None:
        self._before = frame
        self._frames[frame] += 1
        self._octets += octets

    def _packet(self, payload: bytes, payload_type: int, timestamp: int, *, marker: bool) -> Packet:
        return Packet(
            payload_type=payload_type,
            sequence=self._sequence,
            timestamp=timestamp,
            ssrc=self.ssrc,
            payload=payload,
            marker=marker,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Latched:
    """Media come from here, and from nowhere else until the stream is connected anew."""

    host: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaTimeout:
    """Nothing has been heard from the peer for so long; reported once for each silence."""

    silent_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """What a receiver has seen.

    packets     accepted, late and repeated ones included (RFC 3550 section 6.4.1)
    lost        expected less accepted, over all sources; negative when repeats outnumber losses
    jitter_ms   interarrival jitter of the source at hand (RFC 3550 appendix A.8)
    reordered   accepted after a packet with a higher sequence number
    duplicates  accepted a second time
    invalid     no RTP, a payload type that was not agreed, or far out of sequence
    strangers   from another address than the one that is locked, or while another source was being latched
    probation   from whom might become the source, before they were enough to be believed
    sources     how many sources (SSRC, or a restart of its sequence) have been accepted one after the other
    """

    packets: int
    octets: int
    lost: int
    jitter_ms: float
    reordered: int
    duplicates: int
    invalid: int
    strangers: int
    probation: int
    sources: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """The source at hand, as a report block needs it. `highest_sequence` counts its cycles; jitter in its clock."""

    ssrc: int
    expected: int
    received: int
    highest_sequence: int
    jitter: int


class _Placed(enum.Enum):
    """Where a packet falls in the sequence of its source."""

    NEXT = "after all before it"
    LATE = "before one that came earlier"
    REPEATED = "accepted before"
    JUMP = "too far away to belong there"


class _Source:
    """The sequence numbers and arrivals of one source (RFC 3550 appendices A.1, A.3, A.8), from probation's end on."""

    def __init__(self, ssrc: int, sequence: int) -> None:
        self.ssrc = ssrc
        self.received = 0
        self._base = sequence
        self.highest = sequence - 1  # extended
        self._seen = 0  # bit n: highest - n was accepted
        self._jump_to = -1
        self._transit: int | None = None
        self._jitter_16 = 0  # jitter times 16

    @property
    def expected(self) -> int:
        return self.highest - self._base + 1

    @property
    def jitter(self) -> int:
        return self._jitter_16 >> 4

    def place(self, sequence: int) -> _Placed:
        """Count the packet in; one that makes a jump is not counted."""
        ahead = distance(self.highest, sequence, bits=SEQUENCE_BITS)
        if 0 < ahead < MAX_DROPOUT:
            self.highest += ahead
            self._seen = self._seen << ahead & (1 << MAX_MISORDER) - 1 | 1
            placed = _Placed.NEXT
        elif -MAX_MISORDER < ahead <= 0:
            placed = _Placed.REPEATED if self._seen >> -ahead & 1 else _Placed.LATE
            self._seen |= 1 << -ahead
        else:
            return _Placed.JUMP
        self._jump_to = -1
        self.received += 1
        return placed

    def restarts(self, sequence: int) -> bool:
        """After a jump: whether this is the packet after one that made the same jump (RFC 3550 appendix A.1)."""
        restarts = sequence == self._jump_to
        self._jump_to = (sequence + 1) % _SEQUENCES
        return restarts

    def time(self, timestamp: int, now_ns: int) -> None:
        """Count the packet's arrival into the jitter."""
        transit = now_ns * g711.RATE_HZ // _NS_PER_S - timestamp
        if self._transit is not None:
            difference = abs(distance(self._transit, transit, bits=TIMESTAMP_BITS))
            self._jitter_16 += difference - (self._jitter_16 + 8 >> 4)
        self._transit = transit


class _Probation:
    """Runs of consecutive packets, one from each address, with one SSRC."""

    def __init__(self) -> None:
        self._runs: dict[Address, tuple[int, int, int]] = {}  # SSRC, next sequence number, packets; the latest one last

    def passes(self, address: Address, ssrc: int, sequence: int) -> bool:
        """Count the packet; whether it ends the probation. One that does not follow begins it anew."""
        *expected, packets = self._runs.pop(address, (ssrc, sequence, 0))
        packets = packets + 1 if expected == [ssrc, sequence] else 1
        if packets == PROBATION:
            return True
        if len(self._runs) == CANDIDATES:
            del self._runs[next(iter(self._runs))]
        self._runs[address] = (ssrc, (sequence + 1) % _SEQUENCES, packets)
        return False

    def acquit(self, address: Address) -> None:
        """End the probation of an address, if it is on one."""
        self._runs.pop(address, None)


class _Latch(enum.Enum):
    OPEN = "any address may become the source"
    LOCKED = "only the signalled address may still become the source"


class _Origin(enum.Enum):
    """Who sent a packet, as far as its address tells."""

    SOURCE = "the address that is latched, or was until it was opened again"
    SIGNALLED = "the address that signalling announced, while another is latched or none"
    STRANGER = "any other"


class _Admission(enum.Enum):
    ACCEPT = "it belongs to the stream"
    TRY = "it may, after probation"
    TRY_IF_QUIET = "likewise, unless the source or the signalled address has been heard of late"
    REFUSE = "it does not"


_ADMISSION = {
    (_Latch.OPEN, _Origin.SOURCE): _Admission.ACCEPT,
    (_Latch.OPEN, _Origin.SIGNALLED): _Admission.TRY,
    (_Latch.OPEN, _Origin.STRANGER): _Admission.TRY_IF_QUIET,
    (_Latch.LOCKED, _Origin.SOURCE): _Admission.ACCEPT,
    (_Latch.LOCKED, _Origin.SIGNALLED): _Admission.TRY,
    (_Latch.LOCKED, _Origin.STRANGER): _Admission.REFUSE,
}

Event = Latched | MediaTimeout | dtmf.Digit


class Receiver:
    """Datagrams in; the audio packets that belong to the stream, and events, out."""

    def __init__(self) -> None:
        self._codecs: frozenset[int] = frozenset()
        self._telephone_event: int | None = None
        self._comfort_noise = COMFORT_NOISE
        self._latch = _Latch.OPEN
        self._opened_ns = 0
        self._signalled: Address | None = None
        self._source_address: Address | None = None
        self._moved = False  # away from the source, by a re-INVITE
        self._trusted_ns: int | None = None  # when the source or the signalled address was last heard
        self._probation = _Probation()
        self._source: _Source | None = None
        self._lost_before = 0  # by the sources before the one at hand
        self._sources = 0
        self._packets = 0
        self._octets = 0
        self._reordered = 0
        self._duplicates = 0
        self._invalid = 0
        self._strangers = 0
        self._on_probation = 0
        self._detector = dtmf.Detector()
        self._events: deque[Event] = deque()
        self._timeout_ns: int | None = None
        self._last_ns = 0
        self._timed_out = False

    def connect(
        self,
        *,
        codecs: frozenset[int],
        now_ns: int,
        signalled: Address | None = None,
        telephone_event: int | None = None,
        comfort_noise: int = COMFORT_NOISE,
    ) -> None:
        """Agree, or agree anew (re-INVITE), on what is received: payload types, and the address in the SDP.

        Opens the latch. A source that was latched goes on being heard, and is locked again when it is still heard
        REOPEN_NS later, nothing else has been latched, and the address in the SDP did not change.
        """
        changed = self._moved or signalled != self._signalled
        self._moved = changed and self._source_address not in (None, signalled)
        self._codecs = codecs
        self._telephone_event = telephone_event
        self._comfort_noise = comfort_noise
        self._signalled = signalled
        self._latch = _Latch.OPEN
        self._opened_ns = now_ns
        self._probation = _Probation()

    def watch(self, timeout_ns: int | None, now_ns: int) -> None:
        """From now on report a MediaTimeout when nothing is heard for so long; None (on hold) reports none."""
        self._timeout_ns = timeout_ns
        self._last_ns = now_ns
        self._timed_out = False

    def alive(self, now_ns: int) -> None:
        """A sign of life. RTCP is one: a phone with silence suppression sends no RTP while it only listens."""
        self._last_ns = now_ns
        self._timed_out = False

    def receive(self, data: bytes, address: Address, now_ns: int) -> Packet | None:
        """The packet, when it is audio of this stream that was not there before. Never raises for what is in `data`."""
        if packet.is_rtcp(data):
            if address == self._source_address:
                self.alive(now_ns)
            return None
        try:
            received = packet.parse(data)
        except RemoteProtocolError:
            self._invalid += 1
            return None
        if received.payload_type not in (*self._codecs, self._telephone_event, self._comfort_noise):
            self._invalid += 1
            return None
        if self._admit(received, address, now_ns):
            return self._accept(received, now_ns)
        announced = self._source is None and address == self._signalled
        return received if announced and received.payload_type in self._codecs else None

    def wake_at_ns(self) -> int | None:
        """When `handle_timer` is due."""
        timeout_ns = None if self._timeout_ns is None or self._timed_out else self._last_ns + self._timeout_ns
        return min((at for at in (timeout_ns, self._detector.wake_at_ns()) if at is not None), default=None)

    def handle_timer(self, now_ns: int) -> None:
        self._events.extend(self._detector.handle_timer(now_ns))
        silent_ns = now_ns - self._last_ns
        if self._timeout_ns is not None and not self._timed_out and silent_ns >= self._timeout_ns:
            self._timed_out = True
            self._events.append(MediaTimeout(silent_ms=silent_ns // _NS_PER_MS))

    def next_event(self) -> Event | None:
        return self._events.popleft() if self._events else None

    def heard(self) -> Heard | None:
        """The source at hand, for a report on it; None before there is one."""
        if self._source is None:
            return None
        return Heard(
            ssrc=self._source.ssrc,
            expected=self._source.expected,
            received=self._source.received,
            highest_sequence=self._source.highest & 0xFFFFFFFF,
            jitter=self._source.jitter,
        )

    def counters(self) -> Received:
        source = self._source
        return Received(
            packets=self._packets,
            octets=self._octets,
            lost=self._lost_before + (source.expected - source.received if source else 0),
            jitter_ms=source.jitter * 1000 / g711.RATE_HZ if source else 0.0,
            reordered=self._reordered,
            duplicates=self._duplicates,
            invalid=self._invalid,
            strangers=self._strangers,
            probation=self._on_probation,
            sources=self._sources,
        )

    def _admit(self, received: Packet, address: Address, now_ns: int) -> bool:
        """Whether the packet comes from the source, which it may become by it."""
        origin = _Origin.STRANGER
        if address == self._source_address:
            origin = _Origin.SOURCE
        elif address == self._signalled:
            origin = _Origin.SIGNALLED
        admission = _ADMISSION[self._latch, origin]
        if admission is _Admission.TRY_IF_QUIET:
            quiet = self._trusted_ns is None or now_ns - self._trusted_ns >= QUIET_NS
            admission = _Admission.TRY if quiet else _Admission.REFUSE
        if admission is _Admission.REFUSE:
            self._strangers += 1
            return False
        if origin is not _Origin.STRANGER:
            self._trusted_ns = now_ns
        if admission is _Admission.ACCEPT:
            if now_ns - self._opened_ns >= REOPEN_NS and not self._moved:
                self._latch = _Latch.LOCKED
            return self._follow(received, address)
        if not self._believe(received, address):
            return False
        self._latch = _Latch.LOCKED
        self._source_address = address
        self._moved = False
        self._events.append(Latched(host=address[0], port=address[1]))
        if self._source is None or self._source.ssrc != received.ssrc:
            self._begin(received)
        return True

    def _follow(self, received: Packet, address: Address) -> bool:
        """A packet from the source's address: whether its SSRC is the source's, or has just taken over."""
        if self._source is not None and self._source.ssrc == received.ssrc:
            self._probation.acquit(address)  # another SSRC takes over only once this one is silent
            return True
        if not self._believe(received, address):
            return False
        self._begin(received)
        return True

    def _believe(self, received: Packet, address: Address) -> bool:
        believed = self._probation.passes(address, received.ssrc, received.sequence)
        self._on_probation += not believed
        return believed

    def _begin(self, received: Packet) -> None:
        if self._source is not None:
            self._lost_before += self._source.expected - self._source.received
        self._source = _Source(received.ssrc, received.sequence)
        self._sources += 1
        self._detector.reset()

    def _accept(self, received: Packet, now_ns: int) -> Packet | None:
        assert self._source is not None  # _admit has seen to it
        placed = self._source.place(received.sequence)
        if placed is _Placed.JUMP:
            if not self._source.restarts(received.sequence):
                self._invalid += 1
                return None
            self._begin(received)
            placed = self._source.place(received.sequence)
        self.alive(now_ns)
        self._packets += 1
        self._octets += len(received.payload)
        if placed is _Placed.REPEATED:
            self._duplicates += 1
            return None
        self._reordered += placed is _Placed.LATE
        if received.payload_type == self._telephone_event:
            try:
                digits = self._detector.receive(received.payload, timestamp=received.timestamp, now_ns=now_ns)
            except RemoteProtocolError:
                self._invalid += 1
            else:
                self._events.extend(digits)
            return None
        # Telephone events stay out of the jitter: all packets of one carry the timestamp of its beginning.
        self._source.time(received.timestamp, now_ns)
        return received if received.payload_type in self._codecs else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What we have sent up to now: totals, and the media clock at this moment (`Sender.timestamp_at`)."""

    packets: int
    octets: int
    timestamp: int


class RtcpSchedule:
    """When to report on one stream and what; and what the peer reports.

    ssrc     ours
    cname    ours, the same for all streams of a call (RFC 3550 section 6.5.1); RFC 7022 wants it to say nothing
    now_ns   monotonic clock; all other times here are of the same
    unix_ns  wall clock at `now_ns`. It is not asked for again, so that a step of it does not harm round-trip times
    random   yields 0 <= x < 1

    The peer's figures are properties: `round_trip_ns`, `heard_by_peer` (its last report on us) and `left` (it said
    goodbye).
    """

    def __init__(self, *, ssrc: int, cname: str, now_ns: int, unix_ns: int, random: Callable[[], float]) -> None:
        self._ssrc = ssrc
        self._description = rtcp.SourceDescription(
            sources=(rtcp.Source(ssrc=ssrc, items=((rtcp.CNAME, cname.encode()),)),)
        )
        self._unix_less_now_ns = unix_ns - now_ns
        self._random = random
        self._wake_at_ns = now_ns + rtcp.interval_ns(random, first=True)
        self._packets_before = (0, 0)  # as the report before last and the last one found them
        self._heard_before: Heard | None = None
        self._peer_report: tuple[int, int, int] | None = None  # SSRC, middle of its NTP time, arrival in ns
        self.round_trip_ns: int | None = None
        self.heard_by_peer: rtcp.Report | None = None
        self.left = False

    def wake_at_ns(self) -> int:
        """When the next `report` is due."""
        return self._wake_at_ns

    def report(self, *, sent: Sent, heard: Heard | None, now_ns: int) -> bytes:
        """The compound to send now. The next one is due an interval later."""
        self._wake_at_ns = now_ns + rtcp.interval_ns(self._random)
        return rtcp.serialise((self._own_report(sent, heard, now_ns), self._description))

    def goodbye(self, *, sent: Sent, heard: Heard | None, now_ns: int, reason: str = "") -> bytes:
        """The compound that ends the stream. RFC 3550 section 6.3.7: not to be sent when nothing else ever was."""
        goodbye = rtcp.Goodbye(ssrcs=(self._ssrc,), reason=reason)
        return rtcp.serialise((self._own_report(sent, heard, now_ns), self._description, goodbye))

    def receive(self, data: bytes, now_ns: int) -> None:
        """Take in a compound from the peer. Raises RemoteProtocolError."""
        for received in rtcp.parse(data):
            match received:
                case rtcp.SenderReport():
                    self._peer_report = (received.ssrc, rtcp.middle_32(received.ntp), now_ns)
                    self._take_in(received.ssrc, received.reports, now_ns)
                case rtcp.ReceiverReport():
                    self._take_in(received.ssrc, received.reports, now_ns)
                case rtcp.Goodbye():
                    self.left = self.left or self._ssrc not in received.ssrcs

    def _own_report(self, sent: Sent, heard: Heard | None, now_ns: int) -> rtcp.SenderReport | rtcp.ReceiverReport:
        reports = self._report_blocks(heard, now_ns)
        before_last, last = self._packets_before
        self._packets_before = (last, sent.packets)
        # RFC 3550 section 6.4: a sender is who has sent since the report before last.
        if sent.packets == before_last:
            return rtcp.ReceiverReport(ssrc=self._ssrc, reports=reports)
        return rtcp.SenderReport(
            ssrc=self._ssrc,
            ntp=self._ntp(now_ns),
            rtp_timestamp=sent.timestamp,
            packets=sent.packets & 0xFFFFFFFF,
            octets=sent.octets & 0xFFFFFFFF,
            reports=reports,
        )

    def _report_blocks(self, heard: Heard | None, now_ns: int) -> tuple[rtcp.Report, ...]:
        before = self._heard_before
        if heard is None or heard == before:
            return ()  # RFC 3550 section 6.4.1: on sources heard since the last report
        self._heard_before = heard
        same = before is not None and before.ssrc == heard.ssrc and before.expected <= heard.expected
        expected, received = (before.expected, before.received) if before is not None and same else (0, 0)
        last_sr = delay = 0
        if self._peer_report is not None and self._peer_report[0] == heard.ssrc:
            last_sr = self._peer_report[1]
            delay = min(((now_ns - self._peer_report[2]) << 16) // _NS_PER_S, 0xFFFFFFFF)
        return (
            rtcp.Report(
                ssrc=heard.ssrc,
                fraction_lost=rtcp.fraction_lost(
                    expected=heard.expected - expected, received=heard.received - received
                ),
                lost=rtcp.clamp_lost(heard.expected - heard.received),
                highest_sequence=heard.highest_sequence,
                jitter=heard.jitter,
                last_sr=last_sr,
                delay=delay,
            ),
        )

    def _take_in(self, ssrc: int, reports: tuple[rtcp.Report, ...], now_ns: int) -> None:
        if ssrc == self._ssrc:
            return  # our own packets, come back to us (RFC 3550 section 8.2)
        for report in reports:
            if report.ssrc == self._ssrc:
                self.heard_by_peer = report
                round_trip_ns = rtcp.round_trip_ns(report, arrival_ntp=self._ntp(now_ns))
                if round_trip_ns is not None:
                    self.round_trip_ns = round_trip_ns

    def _ntp(self, now_ns: int) -> int:
        return rtcp.ntp_from_unix_ns(now_ns + self._unix_less_now_ns)
