"""The compiled media plane: streams ("lines"), rings, deadlines and sockets, served by threads that never take the GIL.

session.py says in words what it does. Errors are LocalProtocolError, for values that make no sense, and OSError.
"""

from typing import Final, Literal

from typing_extensions import Buffer

Notice = tuple[
    Literal["room", "drained", "audio", "latched", "timed_out", "telephone_event", "rtcp", "transformed", "removed"],
    int,
    int,
    int,
    tuple[str, int],
    bytes,
]

__all__ = ["Line", "Plane"]

COUNT_NAMES: Final[tuple[str, ...]]
LATENESS_BOUNDS_US: Final[tuple[int, ...]]
PTIMES_MS: Final[tuple[int, ...]]

class Plane:
    """The threads, and the lines that they serve.

    threads   at most: one more serves for each 1,000 lines, until all do; with 0 nothing happens but by `tick` and
              `Line.receive`
    start_ms  how much of an utterance is buffered before it is heard
    ring_ms   how much is buffered at most, 120 to 60000
    realtime  ask for SCHED_FIFO at `priority`; the attribute of that name says whether it was granted
    epoch_ns  monotonic time at which the clock of the lines begins; now when left out
    """

    realtime: bool
    def __init__(
        self,
        *,
        threads: int = 1,
        start_ms: int = 300,
        ring_ms: int = 1000,
        realtime: bool = True,
        epoch_ns: int | None = None,
        priority: int = 10,
    ) -> None: ...
    def fileno(self) -> int:
        """Becomes readable when there are notices."""

    def notices(self) -> list[Notice]:
        """What happened since the last call: (what, line id, number, monotonic time in ns, address, data).
        What does not apply is 0 or empty.

        room, drained, audio   what `await_room`, `await_end` or `await_audio` asked for
        latched                media come from `address`
        timed_out              nothing came for `number` ms
        telephone_event        its payload; `number` is its timestamp, and from bit 32 on the count of sources
        rtcp                   a compound from `address`, unread
        transformed            `transform` has taken effect; `number` is the context from before it
        removed                the plane has let go of the line: its sockets may be closed
        """

    def open(
        self,
        *,
        fd: int = -1,
        rtcp_fd: int = -1,
        ipv6: bool = False,
        ssrc: int,
        sequence: int,
        timestamp: int,
    ) -> Line:
        """A line on two bound, non-blocking UDP sockets, which stay the caller's to close (-1: none).

        ssrc, sequence and timestamp begin the stream and are to be random (RFC 3550 section 5.1). Raises
        LocalProtocolError after `close`.
        """

    def tick(self, now_ns: int) -> list[tuple[int, bytes]]:
        """Do what is due and say what was sent, as (line id, packet). Only without threads."""

    def counters(self) -> dict[str, int]:
        """COUNT_NAMES over all lines, those that are gone included."""

    def lateness(self) -> tuple[list[int], int, int, int]:
        """How late slots were served: how many by LATENESS_BOUNDS_US (the last count is of those beyond), the sum and
        the maximum in ns, and how many ticks of 1 ms began late by 1 ms or more."""

    def close(self) -> None:
        """End the threads. Every line is removed then. A plane with lines that is not closed serves on."""

class Line:
    """One stream's side of the plane. Orders (`connect` to `remove`) are carried out at the next tick.

    After `remove` an order raises LocalProtocolError.
    """

    id: int
    @property
    def uttering(self) -> bool:
        """An utterance is open: something was written since the last `end` or `flush`."""

    @property
    def idle(self) -> bool:
        """Everything written has been sent, and no utterance is open."""

    @property
    def target(self) -> tuple[str, int]:
        """Where packets go: as signalled, or as latched."""

    def connect(
        self,
        *,
        host: str,
        port: int,
        alaw: bool,
        payload_type: int,
        ptime_ms: int = 20,
        telephone_event: int | None = None,
        telephone_event_received: int | None = None,
        comfort_noise: int | None = None,
        latch: bool = True,
        timeout_ms: int = 0,
        any_fd: int = -1,
    ) -> None:
        """Where to send and what, and what to accept; anew by a re-INVITE.

        telephone_event_received  as `telephone_event` when left out
        latch       accept another source than host and port (an IP literal), and send there then
        timeout_ms  of media, 0 for never
        any_fd      a second socket on the RTP port, the plane's to close from now on: the first one is connected, and
                    hears the target alone
        """

    def start(self) -> None: ...
    def hold(self) -> None: ...
    def resume(self) -> None: ...
    def mute(self) -> None:
        """Send silence in the place of what was written, which waits; digits are sent all the same."""

    def unmute(self) -> None: ...
    def dial(self, frames: list[tuple[bool, int, bytes] | None]) -> None:
        """dtmf.dial's frames as (marker, offset, payload); they are of the ptime that is agreed."""

    def listen(self, on: bool) -> None:
        """Begin or stop gathering the peer's audio."""

    def remove(self) -> None:
        """Let go of the line; the notice "removed" says when that is done. Idempotent."""

    def write(self, codes: Buffer, start: int, alaw: bool) -> int:
        """Put G.711 codes from `start` on into the ring; returns how many there was room for."""

    def play(self, codes: bytes, alaw: bool) -> bool:
        """Put an utterance of G.711 codes, a multiple of 80, behind what was written, without copying it; an open
        utterance ends before it. False, and nothing is done, when there is no room: that is once the line has run down
        to two fifths of its ring, clips included, and at most four clips wait."""

    def end(self, codes: Buffer = b"", alaw: bool = False) -> None:
        """The utterance is complete with these codes, 1920 at most, for which there is always room."""

    def flush(self) -> int:
        """Drop what has not been sent and close the utterance; returns how many octets were dropped."""

    def await_room(self) -> bool:
        """Ask for the notice "room" when `play` would find some; false when it would already."""

    def await_end(self) -> bool:
        """Ask for the notice "drained"; false when the line is idle already."""

    def await_audio(self) -> bool:
        """Ask for the notice "audio" with the next frame; false when there is one already."""

    def hear(self) -> list[tuple[int, bytes]]:
        """The peer's audio since the last call: frames of 20 ms, 8000 Hz, 16-bit, and the monotonic time in ns at which
        each began. The times are 20 ms apart, unless frames were dropped: when the peer's clock runs away from ours,
        a frame of silence is put in, or one is left out."""

    def tap(self, on: bool) -> None:
        """Begin or stop keeping what is sent. Who wants it listens too: nothing tells when there is some."""

    def said(self) -> list[tuple[int, bytes]]:
        """The speech that was sent since the last call: frames of the ptime, 8000 Hz, 16-bit, and the monotonic time in
        ns at which each was due, which is that of its RTP timestamp. All else that was sent was silence or digits."""

    def counters(self) -> dict[str, int]:
        """COUNT_NAMES of this line."""

    def heard(self) -> tuple[int, int, int, int, int] | None:
        """The source at hand: SSRC, packets expected and received, highest sequence (32 bits), jitter (clock units)."""

    def media_clock(self, now_ns: int) -> int:
        """The RTP timestamp at a monotonic time; meaningless before the start."""

    def receive(self, data: bytes, host: str, port: int, now_ns: int) -> None:
        """A datagram came to the RTP port. Only without threads."""

    def transform(self, *, protect: int, unprotect: int, context: int) -> None:
        """An order: addresses of C functions that change each packet in place, and of their context; 0 for none.

        Their signature is libsrtp's, `int (void *context, void *packet, int *length)`, 0 for success. `protect` may
        append up to 144 octets. The notice "transformed" gives back the context that was used before.
        """
