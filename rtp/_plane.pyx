# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The media plane: every stream's frames, sent on time by threads that never take the GIL.

session.py says the rules in words that can be read; here they are at 4,000 streams a core. A worker owns a share of
the streams ("lines" in here), and does in each millisecond, in this order:

    obey        the orders that Python left in its inbox
    serve       the lines that are due: take a frame out of the ring, stamp it, send it, count it; then read what came
                to the line's port
    listen      to RTCP and to strangers, on the ports of all lines at once
    notify      Python, once for everything that it should know

A line's grid lies on whole milliseconds of the worker's clock, on the phase that had the least to do when it started.
The lines that are due in a millisecond stand in that millisecond's slot of a wheel.

RTP ports are read in the line's own slot, and not when epoll says that something came: a socket that epoll watches
makes each packet *sent* cost a sixth more, because the kernel tells the watcher that there is room again. So a packet
waits for up to a ptime until it is seen, which nothing minds: arrival times are the kernel's own.

An RTP port has two sockets. The one that sends is connected to the target: the kernel then sends faster, keeps
strangers out of it and reports ICMP errors. While somebody else may still become the source, a second one, which is
not connected and never sends, hears whoever the first does not; that one epoll may watch.

Python and a worker share a line without a lock. The ring has one producer and one consumer; `tail` is moved by compare
and swap because a flush takes from the consumer's end too, and carries a generation, so that the consumer sees that
the utterance it was in the middle of is gone. Orders go in, and come back as acknowledgements, over stacks that are
pushed by compare and swap and taken whole. A worker allocates nothing and frees nothing. Counts are read while they are
written, word by word: one may be a packet ahead of another.
"""

from collections import deque

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.errno cimport EAGAIN, ECONNREFUSED, ENOBUFS, errno
from libc.stdint cimport int16_t, int32_t, int64_t, intptr_t, uintptr_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, llabs, malloc, realloc
from libc.string cimport memcmp, memcpy, memset
from posix.time cimport CLOCK_MONOTONIC, CLOCK_REALTIME, clock_gettime, clockid_t, timespec
from posix.unistd cimport close, read, write

from rtp._posix cimport (
    AF_INET, AF_INET6, AF_UNSPEC, CMSG_DATA, CMSG_FIRSTHDR, EFD_CLOEXEC, EFD_NONBLOCK, EPOLLIN, EPOLL_CLOEXEC,
    EPOLL_CTL_ADD, EPOLL_CTL_DEL, MADV_HUGEPAGE, MSG_DONTWAIT, MSG_TRUNC, PR_SET_TIMERSLACK, SCHED_FIFO,
    SCM_TIMESTAMPNS, SIG_SETMASK, SOL_SOCKET, SO_TIMESTAMPNS, TIMER_ABSTIME, acquire, aligned_alloc, clock_nanosleep,
    cmsghdr, connect_socket, epoll_create1, epoll_ctl, epoll_event, epoll_wait, eventfd, htons, increase, inet_ntop,
    inet_pton, madvise, mmsghdr, msghdr, ntohs, poll, pollfd, POLLIN, prctl, prefetch, pthread_create, pthread_join,
    pthread_setname_np, pthread_setschedparam, pthread_sigmask, pthread_t, recvfrom, recvmmsg, release, replace,
    sched_param, send, sendto, setsockopt, settle, settle_word, settled, settled_word, sigfillset, sigset_t, sockaddr,
    sockaddr_in, sockaddr_in6, take,
)

from rtp import g711
from rtp.packet import LocalProtocolError

__all__ = ["Line", "Plane"]


cdef extern from *:
    command_t *take_commands "shared_take"(command_t **word, command_t *value) nogil
    command_t *newest_command "shared_settled"(command_t **word) nogil
    bint replace_command "shared_replace"(command_t **word, command_t **expected, command_t *value) nogil


cdef enum:
    # What a block of the ring is.
    ALAW = 1                     # encoded in A-law, otherwise mu-law
    LAST = 2                     # an utterance ends with it
    EMPTY = 4                    # it holds no audio
    # The kinds of payload that a line accepts, besides its own.
    STATIC_PCMU = 0              # RFC 3551 table 4
    STATIC_PCMA = 8
    COMFORT_NOISE = 13           # RFC 3389
    HOT = 512                    # octets of a line that a frame's way through the plane touches
    # Rules.
    SLOTS_AT_ONCE = 2
    ENOUGH = 1000                # lines of a thread before the next one is given some
    BELIEVED = 3                 # consecutive packets until a source is believed
    MAX_DROPOUT = 3000           # RFC 3550 appendix A.1
    MAX_MISORDER = 100
    REORDER_UNITS = 480          # timestamp units that a gap in the peer's audio is waited for: 60 ms
    QUIET_MS = 200               # without a packet from whom we trust, after which a stranger gets his chance
    REOPEN_MS = 5000             # after `connect`: a source that is still heard then is locked again
    HUSH_MS = 100                # without a packet, after which a listener is given silence
    JUDGED_MS = 2000             # for so long packets are watched before they are said to be early or late
    RESYNC_UNITS = 8000          # a jump of the peer's clock by more than this is a new beginning
    NOTICES_A_SECOND = 200       # of telephone events and of RTCP, each, that a line passes on; a flood ends here
    NOTIFY_MS = 10               # how long what can wait does wait
    BATCHES = 4                  # of datagrams that a line reads at once at most
    ATTENTIVE_MS = 1000          # after a packet of the peer, its port is read in every slot
    INATTENTIVE_MS = 60          # later on it is read this often
    SETTLED_MS = 1000            # after `connect`: what is heard then was not sent before it
    LISTENINGS = 16              # sockets that epoll names at a time
    FLOOD = 64                   # datagrams on them in a millisecond, after which no more sockets are asked for
    ANYBODY = 1                  # what epoll says of a line's second socket: its address, made odd

cdef uint64_t POSITION = (1 << 48) - 1
cdef int64_t NS_PER_MS = 1_000_000
cdef int64_t NS_PER_SAMPLE = 125_000

COUNT_NAMES = (
    "packets_sent", "octets_sent", "speech_frames", "silence_frames", "underrun_frames", "event_frames", "underruns",
    "skipped_frames", "played_ms", "send_blocked", "send_refused", "send_failed", "packets_received",
    "octets_received", "lost", "reordered", "duplicates", "invalid", "strangers", "probation", "sources",
    "receive_errors", "notices_dropped", "audio_dropped",
)
NOTICE_NAMES = ("room", "drained", "audio", "latched", "timed_out", "telephone_event", "rtcp")
LATENESS_BOUNDS_US = (20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 60000)
PTIMES_MS = (10, 20, 30, 40, 60)

cdef int64_t lateness_bounds_ns[BOUNDS]
for _bound in range(BOUNDS - 1):
    lateness_bounds_ns[_bound] = LATENESS_BOUNDS_US[_bound] * 1000

# By law, mu-law before A-law.
cdef uint8_t silences[2]
silences[0], silences[1] = g711.MULAW_SILENCE, g711.ALAW_SILENCE

cdef uint8_t from_other[2][256]  # the other law's codes in this one
memcpy(from_other[0], PyBytes_AS_STRING(g711.mulaw_encode(g711.LINEAR_FROM_ALAW)), 256)
memcpy(from_other[1], PyBytes_AS_STRING(g711.alaw_encode(g711.LINEAR_FROM_MULAW)), 256)

cdef int16_t linear[2][256]
memcpy(linear[0], PyBytes_AS_STRING(g711.LINEAR_FROM_MULAW), 512)
memcpy(linear[1], PyBytes_AS_STRING(g711.LINEAR_FROM_ALAW), 512)


# ---------------------------------------------------------------------------------------------------------------------
# Addresses


cdef bint pack_address(address_t *address, int family, bytes host, int port) noexcept:
    """Whether `host`, an IP literal, can be reached from a socket of `family`; a v6 socket reaches v4 ones mapped."""
    memset(address, 0, sizeof(address_t))
    address.any.sa_family = family
    if family == AF_INET:
        address.v4.sin_port = htons(port)
        return inet_pton(AF_INET, host, &address.v4.sin_addr) == 1
    address.v6.sin6_port = htons(port)
    return inet_pton(AF_INET6, host, &address.v6.sin6_addr) == 1 or (
        inet_pton(AF_INET6, b"::ffff:" + host, &address.v6.sin6_addr) == 1
    )


cdef tuple unpack_address(const address_t *address):
    cdef char text[64]
    if address.any.sa_family == AF_INET:
        inet_ntop(AF_INET, &address.v4.sin_addr, text, sizeof(text))
        return text.decode(), ntohs(address.v4.sin_port)
    inet_ntop(AF_INET6, &address.v6.sin6_addr, text, sizeof(text))
    return text.decode().removeprefix("::ffff:"), ntohs(address.v6.sin6_port)


cdef inline unsigned size_of(const address_t *address) noexcept nogil:
    return sizeof(sockaddr_in) if address.any.sa_family == AF_INET else sizeof(sockaddr_in6)


cdef inline bint same_host(const address_t *one, const address_t *other) noexcept nogil:
    if one.any.sa_family == AF_INET:
        return one.v4.sin_addr.s_addr == other.v4.sin_addr.s_addr
    return memcmp(&one.v6.sin6_addr, &other.v6.sin6_addr, 16) == 0


cdef inline bint same_address(const address_t *one, const address_t *other) noexcept nogil:
    return one.v4.sin_port == other.v4.sin_port and same_host(one, other)  # both versions have the port in one place


# ---------------------------------------------------------------------------------------------------------------------
# The clock, and the wheel


cdef inline int64_t clock_ns(clockid_t clock=CLOCK_MONOTONIC) noexcept nogil:
    cdef timespec now
    clock_gettime(clock, &now)
    return now.tv_sec * 1_000_000_000 + now.tv_nsec


cdef inline void sleep_until(int64_t then_ns) noexcept nogil:
    cdef timespec then
    then.tv_sec = then_ns // 1_000_000_000
    then.tv_nsec = then_ns % 1_000_000_000
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &then, NULL)


cdef void burden(worker_t *worker, line_t *line, int change) noexcept nogil:
    """Add a line's frames to the load of its phase's slots, or take them off."""
    cdef int64_t at = line.due_ms % line.ptime_ms
    while at < WHEEL:
        worker.load[at] += change
        at += line.ptime_ms


cdef int64_t least_burdened(worker_t *worker, int64_t from_ms, int32_t ptime_ms) noexcept nogil:
    """The first millisecond from `from_ms` on whose phase has the least to do."""
    cdef int64_t best_ms = from_ms, at_ms, at
    cdef int32_t least = 0x7FFFFFFF, most
    for at_ms in range(from_ms, from_ms + ptime_ms):
        most = 0
        at = at_ms % ptime_ms
        while at < WHEEL:
            most = max(most, worker.load[at])
            at += ptime_ms
        if most < least:
            least, best_ms = most, at_ms
    return best_ms


cdef inline void hang(worker_t *worker, line_t *line) noexcept nogil:
    """Put a line at the end of the slot that it is due in: the order within a slot never changes by itself."""
    cdef slot_t *slot = &worker.wheel[line.due_ms % WHEEL]
    line.before = slot.last
    line.after = NULL
    if slot.last != NULL:
        slot.last.after = line
    else:
        slot.first = line
    slot.last = line


cdef inline void unhang(worker_t *worker, line_t *line) noexcept nogil:
    cdef slot_t *slot = &worker.wheel[line.due_ms % WHEEL]
    if line.before != NULL:
        line.before.after = line.after
    else:
        slot.first = line.after
    if line.after != NULL:
        line.after.before = line.before
    else:
        slot.last = line.before


# ---------------------------------------------------------------------------------------------------------------------
# Notices: from the plane to Python


cdef struct notice_head_t:
    uint32_t size                # of what follows
    uint32_t line
    int64_t number
    int64_t time_ns
    address_t source
    notice_t notice


cdef void ring_copy_in(uint8_t *ring, uint64_t at, const void *data, uint64_t size) noexcept nogil:
    cdef uint64_t start = at % NOTICES
    cdef uint64_t first = min(size, NOTICES - start)
    memcpy(ring + start, data, first)
    memcpy(ring, <const uint8_t *>data + first, size - first)


cdef void ring_copy_out(const uint8_t *ring, uint64_t at, void *data, uint64_t size) noexcept nogil:
    cdef uint64_t start = at % NOTICES
    cdef uint64_t first = min(size, NOTICES - start)
    memcpy(data, ring + start, first)
    memcpy(<uint8_t *>data + first, ring, size - first)


cdef bint post(
    line_t *line, notice_t notice, int64_t number, int64_t time_ns, const address_t *source, const void *data,
    uint32_t size,
) noexcept nogil:
    """Leave a notice for Python; false when there is no room for it."""
    cdef worker_t *worker = line.worker
    cdef notice_head_t head
    if worker.notice_head + sizeof(head) + size - acquire(&worker.notice_tail) > NOTICES:
        line.counts[NOTICES_DROPPED] += 1
        return False
    head.size, head.line, head.number, head.time_ns, head.notice = size, line.id, number, time_ns, notice
    if source != NULL:
        head.source = source[0]
    else:
        head.source.any.sa_family = AF_UNSPEC
    ring_copy_in(worker.notices, worker.notice_head, &head, sizeof(head))
    if size:
        ring_copy_in(worker.notices, worker.notice_head + sizeof(head), data, size)
    release(&worker.notice_head, worker.notice_head + sizeof(head) + size)
    if notice == ROOM:
        worker.pending = True
    else:
        worker.pressing = True
    return True


cdef void pass_on(
    line_t *line, notice_t notice, int64_t number, int64_t now_ns, const address_t *source, const void *data,
    uint32_t size,
) noexcept nogil:
    """Post what a peer had to say, unless it says too much."""
    cdef int64_t second = now_ns // 1_000_000_000
    cdef int32_t *passed = &line.notices[notice == RTCP]
    if line.notice_second != second:
        line.notice_second = second
        line.notices[0] = line.notices[1] = 0
    passed[0] += 1
    if passed[0] > NOTICES_A_SECOND:
        line.counts[NOTICES_DROPPED] += 1
    else:
        post(line, notice, number, now_ns, source, data, size)


cdef inline void post_to_waiting(line_t *line, notice_t notice, int32_t *waits) noexcept nogil:
    """Post to somebody who waits, if somebody does; when there is no room, the next slot tries again."""
    if settled(waits) and take(waits, 0) and not post(line, notice, 0, 0, NULL, NULL, 0):
        settle(waits, 1)


cdef void notify(worker_t *worker, int64_t now_ms) noexcept nogil:
    cdef uint64_t one = 1
    if worker.pending and (now_ms - worker.notified_ms >= NOTIFY_MS or settled(&worker.lines) == 0):
        worker.pressing = True
    if not worker.pressing:
        return
    worker.pressing = worker.pending = False
    worker.notified_ms = now_ms
    if not take(&worker.notified, 1):
        write(worker.notify, &one, sizeof(one))


# ---------------------------------------------------------------------------------------------------------------------
# Sending


cdef inline uint32_t media_clock(const line_t *line) noexcept nogil:
    """The RTP timestamp of the slot that is due. It hangs on the grid, so the two cannot drift apart."""
    return line.offset + <uint32_t>(8 * line.due_ms)


cdef void dispatch(line_t *line, uint8_t payload_type, uint32_t timestamp, bint marker, int size) noexcept nogil:
    """Stamp and send the packet whose payload of `size` octets stands in the worker's buffer."""
    cdef worker_t *worker = line.worker
    cdef uint8_t *packet = worker.packet
    cdef int length = HEADER + size, attempt
    cdef ssize_t sent
    packet[0] = 0x80
    packet[1] = marker << 7 | payload_type
    packet[2], packet[3] = line.sequence >> 8, line.sequence & 0xFF
    packet[4], packet[5], packet[6], packet[7] = timestamp >> 24, timestamp >> 16, timestamp >> 8, timestamp
    packet[8], packet[9], packet[10], packet[11] = line.ssrc >> 24, line.ssrc >> 16, line.ssrc >> 8, line.ssrc
    line.sequence += 1
    if line.through.protect != NULL and line.through.protect(line.through.context, packet, &length) != 0:
        line.counts[SEND_FAILED] += 1
        return
    if not worker.threaded:
        capture(worker, line.id, length)
    # An ICMP error that came meanwhile is reported in the place of sending: the second attempt sends.
    for attempt in range(2 if line.fd >= 0 else 0):
        if line.connected:
            sent = send(line.fd, packet, length, MSG_DONTWAIT)
        else:
            sent = sendto(line.fd, packet, length, MSG_DONTWAIT, &line.target.any, size_of(&line.target))
        if sent >= 0:
            line.counts[SEND_REFUSED] += attempt
            break
        if errno == EAGAIN or errno == ENOBUFS:
            line.counts[SEND_BLOCKED] += 1
            return
        if attempt:
            line.counts[SEND_REFUSED if errno == ECONNREFUSED else SEND_FAILED] += 1
            return
    line.counts[PACKETS_SENT] += 1
    line.counts[OCTETS_SENT] += size


cdef void capture(worker_t *worker, uint32_t id, int length) noexcept nogil:
    cdef int32_t head[2]
    cdef int64_t size = worker.captured_size + sizeof(head) + length
    cdef uint8_t *grown
    if size > worker.captured_room:
        grown = <uint8_t *>realloc(worker.captured, 2 * size)
        if grown == NULL:
            return
        worker.captured, worker.captured_room = grown, 2 * size
    head[0], head[1] = id, length
    memcpy(worker.captured + worker.captured_size, head, sizeof(head))
    memcpy(worker.captured + worker.captured_size + sizeof(head), worker.packet, length)
    worker.captured_size = size


cdef inline void tally(line_t *line, frame_t frame) noexcept nogil:
    line.sent = frame
    line.counts[SPEECH_FRAMES + (frame - SPEECH)] += 1


cdef inline void pass_clips(line_t *line, uint64_t position) noexcept nogil:
    """Give back to the producer the clips that lie before `position`, from where the line will never go back."""
    cdef clip_t *clip
    while line.clips_tail != acquire(&line.clips_head):
        clip = &line.clips[line.clips_tail % CLIPS]
        if position < clip.start + clip.blocks:
            break
        line.passed += clip.blocks
        release(&line.clips_tail, line.clips_tail + 1)


cdef inline uint8_t block_at(line_t *line, uint64_t position, const uint8_t **codes) noexcept nogil:
    """What the block is, and where its codes lie: in the ring, or in a clip."""
    cdef uint64_t passed = line.passed, at = line.clips_tail, block
    cdef const clip_t *clip
    while at != acquire(&line.clips_head):
        clip = &line.clips[at % CLIPS]
        if position < clip.start:
            break
        if position < clip.start + clip.blocks:
            codes[0] = clip.codes + (position - clip.start) * BLOCK
            return clip.tag | LAST if position + 1 == clip.start + clip.blocks else clip.tag
        passed += clip.blocks
        at += 1
    block = (position - passed) % line.blocks
    codes[0] = line.codes + block * BLOCK
    return line.tags[block]


cdef inline void take_block(const line_t *line, const uint8_t *codes, bint alaw, uint8_t *out) noexcept nogil:
    """Copy a block, into the law that is spoken now if it was written in the other one."""
    cdef const uint8_t *table = from_other[line.alaw]
    cdef int at
    if alaw == line.alaw:
        memcpy(out, codes, BLOCK)
    else:
        for at in range(BLOCK):
            out[at] = table[codes[at]]


cdef frame_t next_frame(line_t *line, uint8_t *out) noexcept nogil:
    """What the slot carries; `out` is filled with it (session.py: the sender's table)."""
    cdef uint64_t tail, position, ready, taken
    cdef const uint8_t *codes
    cdef int filled
    cdef uint8_t tag
    while True:
        tail = acquire(&line.tail)
        if tail >> 48 != line.generation:  # flushed: what was being said is over
            line.generation = tail >> 48
            line.talk = SILENT
        position = tail & POSITION
        pass_clips(line, position)
        ready = acquire(&line.head) - position
        if line.talk != SPEAKING and ready < line.start_blocks and acquire(&line.ended) <= position:
            break  # still filling

        filled, taken, tag = 0, 0, 0
        while taken < ready and filled < line.frame and not tag & LAST:
            tag = block_at(line, position + taken, &codes)
            if not tag & EMPTY:
                take_block(line, codes, tag & ALAW, out + filled)
                filled += BLOCK
            taken += 1
        if filled < line.frame and not tag & LAST:
            if line.talk == SPEAKING:
                line.talk = STARVED
                line.counts[UNDERRUNS] += 1
            break
        if filled == line.frame and taken < ready and block_at(line, position + taken, &codes) & EMPTY:
            tag |= LAST
            taken += 1
        if not replace(&line.tail, &tail, tail + taken):
            continue  # flushed under our hands: what was copied is gone
        line.counts[PLAYED_MS] += 10 * (filled // BLOCK)
        line.talk = SILENT if tag & LAST else SPEAKING
        if filled == 0:
            continue  # no more than the end of an utterance whose audio has been sent
        memset(out + filled, line.silence, line.frame - filled)
        return SPEECH
    memset(out, line.silence, line.frame)
    return UNDERRUN if line.talk == STARVED else SILENCE


cdef bint dial(line_t *line) noexcept nogil:
    """Send the frame of dialling that is due; false when nothing is being dialled (RFC 4733)."""
    cdef command_t *dialling = line.dialling
    cdef uint8_t *payload = line.worker.packet + HEADER
    cdef tone_t *tone
    cdef bint marker
    if dialling == NULL:
        return False
    tone = &dialling.tone[dialling.sent]
    if tone.audible:
        if tone.marker:
            line.dial_origin = media_clock(line) - tone.offset
        memcpy(payload, tone.payload, 4)
        tally(line, EVENT)
        dispatch(line, <uint8_t>line.peer.telephone_event, line.dial_origin + tone.offset, tone.marker, 4)
    else:
        marker = line.sent == NOTHING
        memset(payload, line.silence, line.frame)
        tally(line, SILENCE)
        dispatch(line, line.payload_type, media_clock(line), marker, line.frame)
    dialling.sent += 1
    if dialling.sent == dialling.tones:
        line.dialling = dialling.next
        acknowledge(line.worker, dialling)
    return True


cdef void keep_said(line_t *line, const uint8_t *codes) noexcept nogil:
    """Keep a frame of speech for who wants to know what we say; what is not kept was silence."""
    cdef tap_t *tap = line.tap
    cdef said_t *said = &tap.frames[tap.head % BACKLOG]
    if tap.head - acquire(&tap.tail) == BACKLOG:
        line.counts[AUDIO_DROPPED] += 1
        return
    said.at, said.size, said.alaw = 8 * line.due_ms, line.frame, line.alaw
    memcpy(said.codes, codes, line.frame)
    release(&tap.head, tap.head + 1)


cdef void speak(line_t *line) noexcept nogil:
    cdef frame_t frame
    cdef uint8_t before = line.sent
    cdef bint marker
    if dial(line):
        return
    if line.muted:
        frame = SILENCE
        memset(line.worker.packet + HEADER, line.silence, line.frame)
        pass_clips(line, acquire(&line.tail) & POSITION)  # a flush may have left them behind
    else:
        frame = next_frame(line, line.worker.packet + HEADER)
    if line.tap != NULL and frame == SPEECH:
        keep_said(line, line.worker.packet + HEADER)
    tally(line, frame)
    marker = before == NOTHING or (frame == SPEECH and before != SPEECH)  # a talkspurt begins (RFC 3551 section 4.1)
    dispatch(line, line.payload_type, media_clock(line), marker, line.frame)


cdef void observe_lateness(worker_t *worker, int64_t late_ns) noexcept nogil:
    cdef int bound = 0
    while bound < BOUNDS - 1 and late_ns > lateness_bounds_ns[bound]:
        bound += 1
    worker.lateness[bound] += 1
    worker.lateness_sum_ns += late_ns
    worker.lateness_max_ns = max(worker.lateness_max_ns, late_ns)


cdef void serve(line_t *line, int64_t now_ms, int64_t now_ns) noexcept nogil:
    """Do what is due on a line at `now_ms`; `now_ns` is the same instant, or a little later."""
    cdef worker_t *worker = line.worker
    cdef int64_t slots = 1 + (now_ms - line.due_ms) // line.ptime_ms
    cdef uint64_t filling
    if line.held or not line.running:
        line.sent = NOTHING
        line.due_ms += slots * line.ptime_ms
        pass_clips(line, acquire(&line.tail) & POSITION)  # a flush may have left them behind
    else:
        observe_lateness(worker, now_ns - worker.epoch_ns - line.due_ms * NS_PER_MS)
        if slots > SLOTS_AT_ONCE:
            line.counts[SKIPPED_FRAMES] += slots - SLOTS_AT_ONCE
            line.due_ms += (slots - SLOTS_AT_ONCE) * line.ptime_ms
            line.sent = NOTHING
            slots = SLOTS_AT_ONCE
        while slots:
            speak(line)
            line.due_ms += line.ptime_ms
            slots -= 1
        if settled(&line.wants_end) and acquire(&line.head) == (acquire(&line.tail) & POSITION):
            post_to_waiting(line, DRAINED, &line.wants_end)
        if line.timeout_ms and not line.timed_out and now_ms - line.heard_ms >= line.timeout_ms:
            line.timed_out = post(line, TIMED_OUT, now_ms - line.heard_ms, now_ns, NULL, NULL, 0)
    if settled(&line.wants_room):
        filling = acquire(&line.head) - (acquire(&line.tail) & POSITION)
        if filling <= line.low_blocks and line.clips_head - line.clips_tail < CLIPS:
            post_to_waiting(line, ROOM, &line.wants_room)
    # What comes before `connect` waits in the socket's buffer: it may be the peer's first word.
    if line.fd >= 0 and now_ms >= line.look_ms and line.latch != DEAF:
        if now_ms - line.heard_ms < ATTENTIVE_MS:
            read_port(line, now_ns)
        else:
            line.look_ms = now_ms + INATTENTIVE_MS
            glance_at(line, now_ns)
    if line.untold:
        line.untold = not post(line, LATCHED, 0, now_ns, &line.source, NULL, 0)
    if line.playout != NULL:
        fill_quiet(line, now_ms)


cdef inline void fetch_ahead(const line_t *line) noexcept nogil:
    """Have the memory that serving a line touches on its way while the line before it is in the kernel."""
    cdef const uint8_t *memory = <const uint8_t *>line
    cdef int at
    for at in range(0, HOT, 64):
        prefetch(memory + at)


cdef inline void fetch_frame_ahead(const line_t *line) noexcept nogil:
    cdef uint64_t position = line.tail & POSITION
    cdef const clip_t *clip = &line.clips[line.clips_tail % CLIPS]
    cdef const uint8_t *codes
    cdef uint64_t block
    cdef int at
    if line.clips_tail != line.clips_head and position >= clip.start:
        codes = clip.codes + (position - clip.start) * BLOCK
    else:
        block = (position - line.passed) % line.blocks
        codes = line.codes + block * BLOCK
        prefetch(line.tags + block)
    for at in range(0, line.frame + 64, 64):
        prefetch(codes + at)


cdef void serve_all(worker_t *worker, int64_t now_ns) noexcept nogil:
    cdef int64_t now_ms = (now_ns - worker.epoch_ns) // NS_PER_MS
    cdef int64_t at_ms, first_ms = worker.next_ms
    cdef line_t *line
    cdef line_t *after
    if now_ms < first_ms:
        return
    if now_ms > first_ms:
        worker.late_ticks += 1
    worker.next_ms = now_ms + 1
    worker.unix_less_now_ns = clock_ns(CLOCK_REALTIME) - (clock_ns() if worker.threaded else now_ns)
    for at_ms in range(first_ms, min(now_ms, first_ms + WHEEL - 1) + 1):
        line = worker.wheel[at_ms % WHEEL].first
        worker.wheel[at_ms % WHEEL].first = worker.wheel[at_ms % WHEEL].last = NULL
        while line != NULL:
            after = line.after
            if after != NULL:
                fetch_frame_ahead(after)
                if after.after != NULL:
                    fetch_ahead(after.after)
            if line.due_ms <= now_ms:  # otherwise it was served a moment ago and hung here by the wheel's going round
                serve(line, now_ms, clock_ns() if worker.threaded else now_ns)
            hang(worker, line)
            line = after
    if worker.looking:
        look(worker, now_ns)


# ---------------------------------------------------------------------------------------------------------------------
# Receiving


cdef inline int64_t expected(const line_t *line) noexcept nogil:
    return line.highest_sequence - line.base_sequence + 1 if line.followed else 0


cdef inline int64_t lost(const line_t *line) noexcept nogil:
    return line.lost_before + expected(line) - line.source_received


cdef void aim_at(line_t *line, const address_t *target) noexcept nogil:
    """Send there from now on, and hear them on the socket that sends."""
    cdef sockaddr nobody
    if line.connected and same_address(&line.target, target):
        return
    line.target = target[0]
    if line.fd < 0:
        return
    if line.connected:  # otherwise the socket would keep the local address that suited the target before
        memset(&nobody, 0, sizeof(nobody))
        nobody.sa_family = AF_UNSPEC
        connect_socket(line.fd, &nobody, sizeof(nobody))
    line.connected = connect_socket(line.fd, &line.target.any, size_of(&line.target)) == 0


cdef void lock(line_t *line) noexcept nogil:
    line.latch = LOCKED
    aim_at(line, &line.source)


cdef void hear_nobody_else(line_t *line) noexcept nogil:
    """Close the second socket of the port."""
    if line.any_fd >= 0:
        epoll_ctl(line.worker.epoll, EPOLL_CTL_DEL, line.any_fd, NULL)
        close(line.any_fd)
        line.any_fd = -1


cdef void hear_anybody(line_t *line, int fd) noexcept nogil:
    """Take up a second socket of the port, in the place of the one that there may be."""
    cdef epoll_event event
    hear_nobody_else(line)
    line.any_fd = fd
    event.events, event.data.ptr = EPOLLIN, <uint8_t *>line + ANYBODY
    if fd >= 0 and epoll_ctl(line.worker.epoll, EPOLL_CTL_ADD, fd, &event) != 0:
        line.counts[RECEIVE_ERRORS] += 1


cdef void follow(line_t *line, uint32_t ssrc, uint16_t sequence) noexcept nogil:
    """Take up a source, from this packet on."""
    line.lost_before = lost(line)
    line.followed = True
    line.remote_ssrc = ssrc
    line.base_sequence = sequence
    line.highest_sequence = <int64_t>sequence - 1
    line.seen = 0
    line.source_received = 0
    line.jump_to = -1
    line.timed = False
    line.jitter = 0
    line.counts[SOURCES] += 1


cdef inline probation_t *candidate(line_t *line, const address_t *address) noexcept nogil:
    """The probation of an address, NULL if it is not on any."""
    cdef int at
    for at in range(CANDIDATES):
        if line.candidates[at].packets and same_address(&line.candidates[at].address, address):
            return &line.candidates[at]
    return NULL


cdef inline void acquit(line_t *line, const address_t *address) noexcept nogil:
    """End the probation of an address, if it is on one."""
    cdef probation_t *probation = candidate(line, address)
    if probation != NULL:
        probation.packets = 0


cdef bint passes(line_t *line, const address_t *address, uint32_t ssrc, uint16_t sequence) noexcept nogil:
    """Count a packet on probation; whether it ends it. One that does not follow begins it anew.

    Each address has a probation of its own, so that nobody ends another's by sending in between.
    """
    cdef probation_t *probation = candidate(line, address)
    cdef int at
    if probation == NULL:
        probation = &line.candidates[0]
        for at in range(1, CANDIDATES):
            if probation.packets and (
                line.candidates[at].packets == 0 or <int32_t>(line.candidates[at].turn - probation.turn) < 0
            ):
                probation = &line.candidates[at]
        probation.packets = 0
        probation.address = address[0]
    elif probation.ssrc != ssrc or probation.next_sequence != sequence:
        probation.packets = 0
    line.turn += 1
    probation.turn = line.turn
    probation.ssrc = ssrc
    probation.next_sequence = <uint16_t>(sequence + 1)
    probation.packets += 1
    if probation.packets < BELIEVED:
        line.counts[PROBATION] += 1
        return False
    probation.packets = 0
    return True


cdef bint admit(
    line_t *line, const address_t *address, uint32_t ssrc, uint16_t sequence, int64_t now_ms, int64_t now_ns
) noexcept nogil:
    """Whether a packet comes from the source, which it may become by it (session.py: the table of admission)."""
    cdef bint is_source = line.sourced and same_address(address, &line.source)
    cdef bint is_signalled = same_address(address, &line.peer.address)
    if not is_source and not is_signalled and not (line.latch == OPEN and now_ms - line.trusted_ms >= QUIET_MS):
        line.counts[STRANGERS] += 1
        return False
    if is_source or is_signalled:
        line.trusted_ms = now_ms
    # Not where signalling has moved us away from: the old party may go on sending.
    if (
        is_source
        and line.latch == OPEN
        and now_ms - line.opened_ms >= REOPEN_MS
        and same_address(&line.target, &line.source)
    ):
        lock(line)
    if is_source and line.followed and line.remote_ssrc == ssrc:
        acquit(line, address)  # another SSRC takes over only once this one is silent
        return True
    if not passes(line, address, ssrc, sequence):
        return False
    if not is_source:
        line.sourced = True
        line.source = address[0]
        lock(line)
        line.untold = not post(line, LATCHED, 0, now_ns, address, NULL, 0)
    if not line.followed or line.remote_ssrc != ssrc:
        follow(line, ssrc, sequence)
    return True


cdef bint count_in(line_t *line, uint16_t sequence, int size) noexcept nogil:
    """Count a packet of the source; whether it has not been there before (RFC 3550 appendix A.1, update_seq)."""
    cdef int32_t ahead = <int16_t><uint16_t>(sequence - <uint16_t>line.highest_sequence)
    cdef bint repeated = False
    if not -MAX_MISORDER < ahead < MAX_DROPOUT:
        if sequence != line.jump_to:
            line.jump_to = <uint16_t>(sequence + 1)
            line.counts[INVALID] += 1
            return False
        follow(line, line.remote_ssrc, sequence)  # two in a row after a jump: the peer has begun anew
        ahead = 1
    if ahead > 0:
        line.highest_sequence += ahead
        line.seen = (line.seen << ahead if ahead < 128 else <seen_t>0) | 1
    elif line.seen >> -ahead & 1:
        line.counts[DUPLICATES] += 1
        repeated = True
    else:
        line.counts[REORDERED] += 1
        line.seen |= <seen_t>1 << -ahead
    line.jump_to = -1
    line.source_received += 1
    line.counts[PACKETS_RECEIVED] += 1
    line.counts[OCTETS_RECEIVED] += size
    return not repeated


cdef void measure_jitter(line_t *line, uint32_t timestamp, int64_t arrival_ns) noexcept nogil:
    """RFC 3550 appendix A.8."""
    cdef uint32_t transit = <uint32_t>(arrival_ns // 125_000) - timestamp
    cdef int32_t change = <int32_t>(transit - line.transit)
    line.transit = transit
    if line.timed:
        line.jitter += <uint32_t>llabs(change) - ((line.jitter + 8) >> 4)
    line.timed = True


cdef void receive_rtcp(
    line_t *line, const uint8_t *data, int size, const address_t *source, int64_t now_ms, int64_t now_ns
) noexcept nogil:
    """Hand RTCP on; from the source's or the signalled host it is a sign of life, too."""
    if line.latch == DEAF or not (same_host(source, &line.peer.address) or same_host(source, &line.target)):
        line.counts[STRANGERS] += 1
        return
    # A phone with silence suppression sends no RTP while it only listens.
    line.heard_ms = now_ms
    line.timed_out = False
    pass_on(line, RTCP, 0, now_ns, source, data, size)


cdef void receive(
    line_t *line, uint8_t *data, int size, const address_t *source, int64_t arrival_ns, int64_t now_ms, int64_t now_ns
) noexcept nogil:
    """A datagram came to the RTP port, at `arrival_ns` as the kernel saw it."""
    cdef int start, words, payload_type
    cdef uint16_t sequence
    cdef uint32_t timestamp, ssrc
    cdef int64_t event
    cdef bint audio
    if line.latch == DEAF:
        line.counts[STRANGERS] += 1
        return
    if size >= 2 and data[0] >> 6 == 2 and 192 <= data[1] <= 223:  # RFC 5761 section 4
        receive_rtcp(line, data, size, source, now_ms, now_ns)
        return
    if size < HEADER or data[0] >> 6 != 2:
        line.counts[INVALID] += 1
        return
    if line.through.unprotect != NULL and (
        line.through.unprotect(line.through.context, data, &size) != 0 or size < HEADER
    ):
        line.counts[INVALID] += 1
        return

    start = HEADER + 4 * (data[0] & 0x0F)
    if data[0] & 0x10 and start + 4 <= size:
        words = data[start + 2] << 8 | data[start + 3]
        start += 4 + 4 * words
    elif data[0] & 0x10:
        start = size + 1
    if start <= size and data[0] & 0x20:
        size = size - data[size - 1] if data[size - 1] else 0
    payload_type = data[1] & 0x7F
    audio = payload_type == line.peer.payload_type or payload_type == STATIC_PCMU or payload_type == STATIC_PCMA
    if start > size or not (
        audio
        or payload_type == line.peer.telephone_event_received
        or payload_type == line.peer.comfort_noise
        or payload_type == COMFORT_NOISE
    ):
        line.counts[INVALID] += 1
        return

    sequence = data[2] << 8 | data[3]
    timestamp = <uint32_t>data[4] << 24 | data[5] << 16 | data[6] << 8 | data[7]
    ssrc = <uint32_t>data[8] << 24 | data[9] << 16 | data[10] << 8 | data[11]
    if not admit(line, source, ssrc, sequence, now_ms, now_ns):
        # Whom signalling announced is heard from the first word on, though not yet believed.
        if audio and line.playout != NULL and not line.sourced and same_address(source, &line.peer.address):
            place(line, timestamp, data + start, size - start, payload_type, now_ms, arrival_ns)
        return
    if not count_in(line, sequence, size - start):
        return
    line.heard_ms = now_ms
    line.timed_out = False
    if payload_type == line.peer.telephone_event_received:
        # Its timestamp is that of the event's beginning, so it says nothing about jitter.
        event = line.counts[SOURCES] << 32 | timestamp
        pass_on(line, TELEPHONE_EVENT, event, now_ns, source, data + start, size - start)
        return
    measure_jitter(line, timestamp, arrival_ns)
    if audio and line.playout != NULL:
        place(line, timestamp, data + start, size - start, payload_type, now_ms, arrival_ns)


cdef bint read_batch(line_t *line, int fd, int64_t now_ns) noexcept nogil:
    """Read what came to a line's RTP port; whether there may be more."""
    cdef worker_t *worker = line.worker
    cdef int64_t now_ms = (now_ns - worker.epoch_ns) // NS_PER_MS, arrival_ns
    cdef mmsghdr *message
    cdef cmsghdr *control
    cdef timespec *stamp
    cdef int at, count = recvmmsg(fd, worker.messages, BATCH, MSG_DONTWAIT, NULL)
    for at in range(count):
        message = &worker.messages[at]
        arrival_ns = now_ns
        control = CMSG_FIRSTHDR(&message.msg_hdr)
        if control != NULL and control.cmsg_level == SOL_SOCKET and control.cmsg_type == SCM_TIMESTAMPNS:
            stamp = <timespec *>CMSG_DATA(control)
            arrival_ns = stamp.tv_sec * 1_000_000_000 + stamp.tv_nsec - worker.unix_less_now_ns
        if message.msg_hdr.msg_flags & MSG_TRUNC:
            line.counts[INVALID] += 1
        else:
            receive(line, worker.received[at], message.msg_len, &worker.sources[at], arrival_ns, now_ms, now_ns)
        ready_message(worker, at)
    if count < 0 and errno != EAGAIN:
        line.counts[SEND_REFUSED if errno == ECONNREFUSED else RECEIVE_ERRORS] += 1
    return count == BATCH


cdef void read_port(line_t *line, int64_t now_ns) noexcept nogil:
    """Read what the target sent; a flood is left to the socket's buffer, so that it delays no other line."""
    cdef int64_t received = line.source_received
    cdef int batch
    for batch in range(BATCHES):
        if not read_batch(line, line.fd, now_ns):
            break
    # The source is whom signalling announced, and heard where it should be: there is nobody else to wait for.
    if (
        line.any_fd >= 0
        and line.latch == LOCKED
        and line.source_received > received
        and line.heard_ms - line.opened_ms >= SETTLED_MS
        and same_address(&line.source, &line.peer.address)
    ):
        hear_nobody_else(line)


cdef void read_backlog(line_t *line, int64_t now_ms) noexcept nogil:
    """Read what came before the peer's address was known, ahead of what comes to the second socket meanwhile."""
    cdef int64_t now_ns = line.worker.epoch_ns + now_ms * NS_PER_MS
    cdef int batch
    for batch in range(BACKLOG):
        if not read_batch(line, line.fd, now_ns):
            break


cdef void look(worker_t *worker, int64_t now_ns) noexcept nogil:
    """Read the ports that something came to, of those that were glanced at."""
    cdef int at
    if poll(worker.looks, worker.looking, 0) > 0:
        for at in range(worker.looking):
            if worker.looks[at].revents:
                read_port(worker.looked[at], now_ns)
    worker.looking = 0


cdef inline void glance_at(line_t *line, int64_t now_ns) noexcept nogil:
    """Whom we have not heard for a while we listen to less often, and to many at once."""
    cdef worker_t *worker = line.worker
    cdef pollfd *it = &worker.looks[worker.looking]
    it.fd, it.events = line.fd, POLLIN
    worker.looked[worker.looking] = line
    worker.looking += 1
    if worker.looking == LOOKS:
        look(worker, now_ns)


cdef void ready_message(worker_t *worker, int at) noexcept nogil:
    cdef msghdr *header = &worker.messages[at].msg_hdr
    worker.vectors[at].iov_base = worker.received[at]
    worker.vectors[at].iov_len = DATAGRAM
    header.msg_name = &worker.sources[at]
    header.msg_namelen = sizeof(address_t)
    header.msg_iov = &worker.vectors[at]
    header.msg_iovlen = 1
    header.msg_control = worker.controls[at]
    header.msg_controllen = sizeof(worker.controls[at])
    header.msg_flags = 0


cdef void read_rtcp(line_t *line, int64_t now_ns) noexcept nogil:
    cdef worker_t *worker = line.worker
    cdef unsigned source_size = sizeof(address_t)
    cdef ssize_t size = recvfrom(
        line.rtcp_fd, worker.received, DATAGRAM, MSG_DONTWAIT | MSG_TRUNC, &worker.sources[0].any, &source_size
    )
    if 0 <= size <= DATAGRAM:
        receive_rtcp(
            line, worker.received[0], size, &worker.sources[0], (now_ns - worker.epoch_ns) // NS_PER_MS, now_ns
        )
    elif size > DATAGRAM:
        line.counts[INVALID] += 1
    elif errno != EAGAIN:
        line.counts[RECEIVE_ERRORS] += 1


cdef void listen(worker_t *worker, int64_t until_ns, int timeout_ms) noexcept nogil:
    """Read RTCP, and what came to second sockets, until there is no more, the next slot is due, or so much was read
    that only a flood can be behind it; wait for the first of it if there is none."""
    cdef epoll_event events[LISTENINGS]
    cdef uint8_t *data
    cdef int at, count = LISTENINGS, datagrams = 0
    cdef int64_t now_ns = 0
    while count == LISTENINGS and now_ns < until_ns and datagrams < FLOOD:
        count = epoll_wait(worker.epoll, events, LISTENINGS, timeout_ms)
        now_ns = clock_ns()
        for at in range(count):
            data = <uint8_t *>events[at].data.ptr
            if data == NULL:  # it is `wake`
                read(worker.wake, worker.received, sizeof(uint64_t))
            elif <uintptr_t>data & ANYBODY:
                read_batch(<line_t *>(data - ANYBODY), (<line_t *>(data - ANYBODY)).any_fd, now_ns)
                datagrams += BATCH
            else:
                read_rtcp(<line_t *>data, now_ns)
                datagrams += 1


# ---------------------------------------------------------------------------------------------------------------------
# The peer's audio, for whoever asks


cdef void give_frame(line_t *line, const int16_t *samples, int64_t now_ms) noexcept nogil:
    """Give a frame to the consumer, NULL being silence."""
    cdef playout_t *playout = line.playout
    cdef uint64_t at = playout.head % BACKLOG
    if playout.at > 8 * now_ms + BACKLOG * LISTENED:  # whoever makes his clock jump again and again
        line.counts[AUDIO_DROPPED] += 1
        return
    if playout.head - acquire(&playout.tail) < BACKLOG:
        if samples != NULL:
            memcpy(playout.frames[at], samples, sizeof(playout.frames[at]))
        else:
            memset(playout.frames[at], 0, sizeof(playout.frames[at]))
        playout.times[at] = playout.at
        settle_word(&playout.head, playout.head + 1)
        post_to_waiting(line, AUDIO, &line.wants_audio)
    else:
        line.counts[AUDIO_DROPPED] += 1
    playout.at += LISTENED


cdef void release_frame(line_t *line, int64_t now_ms) noexcept nogil:
    """Give the oldest frame of the window to the consumer, gaps in it as silence."""
    cdef playout_t *playout = line.playout
    cdef int32_t first = playout.first
    if playout.ahead:
        playout.ahead = False
    else:
        give_frame(line, playout.window[first], now_ms)
    memset(playout.window[first], 0, sizeof(playout.window[first]))
    playout.filled[first] = 0
    playout.first = (first + 1) % WINDOW
    playout.start += LISTENED


cdef void anchor(line_t *line, uint32_t timestamp, int64_t came, int64_t now_ms) noexcept nogil:
    """Have the peer's clock begin with this timestamp, whose sample came at `came` on ours."""
    cdef playout_t *playout = line.playout
    while playout.anchored and <int32_t>(playout.highest - playout.start) > 0:
        release_frame(line, now_ms)
    if playout.head == 0:
        playout.at = came
    while came - playout.at > LISTENED // 2:
        give_frame(line, NULL, now_ms)
    playout.anchored, playout.ahead = True, False
    playout.start = playout.highest = timestamp
    playout.judged_ms, playout.least = now_ms, RESYNC_UNITS


cdef void judge(line_t *line, int64_t late, int64_t now_ms) noexcept nogil:
    """Have the peer's clock not run away from ours: by silence if it is slow, by a frame less if it is fast.

    `late` is how many samples a packet came after its place. The least counts, for jitter only makes it more.
    """
    cdef playout_t *playout = line.playout
    playout.least = min(playout.least, late)
    if now_ms - playout.judged_ms >= JUDGED_MS:
        if playout.least > LISTENED:
            give_frame(line, NULL, now_ms)
        playout.ahead = playout.least < -LISTENED
        playout.judged_ms, playout.least = now_ms, RESYNC_UNITS


cdef void place(
    line_t *line, uint32_t timestamp, const uint8_t *codes, int size, int payload_type, int64_t now_ms,
    int64_t arrival_ns,
) noexcept nogil:
    """Put a packet's samples where its timestamp says, and release what is complete or has waited long enough."""
    cdef playout_t *playout = line.playout
    cdef bint alaw = line.peer.alaw if payload_type == line.peer.payload_type else payload_type == STATIC_PCMA
    cdef const int16_t *table = linear[alaw]
    cdef int64_t came = (arrival_ns - line.worker.epoch_ns) // NS_PER_SAMPLE
    cdef int32_t ahead, at, frame
    # Between the kernel's stamp and our reading it the wall clock may have been set.
    came = min(max(came, 8 * now_ms - BACKLOG * LISTENED), 8 * now_ms + 8)
    came -= size  # it was sent when its last sample had been spoken
    if not playout.anchored or llabs(<int32_t>(timestamp - playout.start)) > RESYNC_UNITS:
        anchor(line, timestamp, came, now_ms)
    else:
        judge(line, came - playout.at - <int32_t>(timestamp - playout.start), now_ms)
    playout.placed_ms = now_ms
    size = min(size, WINDOW * LISTENED // 2)
    while <int32_t>(timestamp + size - playout.start) > WINDOW * LISTENED:
        release_frame(line, now_ms)
    ahead = <int32_t>(timestamp - playout.start)
    for at in range(max(-ahead, 0), size):
        frame = (playout.first + (ahead + at) // LISTENED) % WINDOW
        playout.window[frame][(ahead + at) % LISTENED] = table[codes[at]]
        playout.filled[frame] += 1
    if <int32_t>(timestamp + size - playout.highest) > 0:
        playout.highest = timestamp + size
    while playout.filled[playout.first] >= LISTENED or (
        <int32_t>(playout.highest - playout.start) >= LISTENED + REORDER_UNITS
    ):
        release_frame(line, now_ms)


cdef void fill_quiet(line_t *line, int64_t now_ms) noexcept nogil:
    """When the peer has fallen silent, give out what is left of its audio, then silence at the pace of the clock."""
    cdef playout_t *playout = line.playout
    if now_ms - playout.placed_ms < HUSH_MS:
        return
    # A frame behind: a packet that comes now began a frame ago.
    while playout.at + 2 * LISTENED <= 8 * now_ms:
        release_frame(line, now_ms)
        # What the peer says next follows this silence, whatever its clock did meanwhile.
        playout.anchored = playout.anchored and <int32_t>(playout.highest - playout.start) > 0


# ---------------------------------------------------------------------------------------------------------------------
# Orders: from Python to the plane


cdef void push(command_t **stack, command_t *command) noexcept nogil:
    command.next = newest_command(stack)
    while not replace_command(stack, &command.next, command):
        pass


cdef void acknowledge(worker_t *worker, command_t *command) noexcept nogil:
    push(&worker.outbox, command)
    worker.pending = True


cdef void agree(line_t *line, const peer_t *peer, int64_t now_ms) noexcept nogil:
    """Where to send and what to accept, for the first time or anew (re-INVITE)."""
    cdef worker_t *worker = line.worker
    cdef bint moved = line.latch == DEAF or not same_address(&peer.address, &line.peer.address)
    cdef epoll_event event
    if line.latch == DEAF and line.rtcp_fd >= 0:  # what came before waits in the socket's buffer
        event.events, event.data.ptr = EPOLLIN, line
        if epoll_ctl(worker.epoll, EPOLL_CTL_ADD, line.rtcp_fd, &event) != 0:
            line.counts[RECEIVE_ERRORS] += 1
    burden(worker, line, -1)
    if line.ptime_ms != peer.ptime_ms or line.peer.telephone_event != peer.telephone_event:
        stop_dialling(line)
    line.peer = peer[0]
    line.ptime_ms = peer.ptime_ms
    burden(worker, line, 1)
    line.payload_type, line.alaw, line.silence = peer.payload_type, peer.alaw, silences[peer.alaw]
    line.frame = 8 * peer.ptime_ms
    line.timeout_ms = peer.timeout_ms
    line.latch = OPEN
    line.opened_ms = now_ms
    memset(line.candidates, 0, sizeof(line.candidates))
    line.heard_ms = now_ms
    line.timed_out = False
    if moved:
        aim_at(line, &peer.address)
    if not peer.latch:
        line.sourced = True
        line.source = peer.address
        lock(line)


cdef void settle_in(line_t *line, int64_t now_ms) noexcept nogil:
    """Begin the grid of a line."""
    cdef worker_t *worker = line.worker
    line.due_ms = least_burdened(worker, max(now_ms, worker.next_ms), line.ptime_ms)
    burden(worker, line, 1)
    hang(worker, line)


cdef void stop_dialling(line_t *line) noexcept nogil:
    cdef command_t *dialling
    while line.dialling != NULL:
        dialling = line.dialling
        line.dialling = dialling.next
        acknowledge(line.worker, dialling)


cdef void let_go(line_t *line) noexcept nogil:
    cdef worker_t *worker = line.worker
    burden(worker, line, -1)
    unhang(worker, line)
    stop_dialling(line)
    hear_nobody_else(line)
    if line.rtcp_fd >= 0:
        epoll_ctl(worker.epoll, EPOLL_CTL_DEL, line.rtcp_fd, NULL)
    increase(&worker.lines, -1)


cdef bint obey(worker_t *worker, command_t *command, int64_t now_ms) noexcept nogil:
    """Carry an order out; whether it is done with."""
    cdef line_t *line = command.line
    cdef command_t **last
    cdef playout_t *playout
    cdef transforms_t before
    if command.order == ADOPT:
        settle_in(line, now_ms)
    elif command.order == CONNECT:
        agree(line, &command.peer, now_ms)
        if command.any_fd >= 0:
            read_backlog(line, now_ms)
        hear_anybody(line, command.any_fd)
        command.any_fd = -1
    elif command.order == START:
        burden(worker, line, -1)
        unhang(worker, line)
        settle_in(line, now_ms)
        line.offset = line.offset - <uint32_t>(8 * line.due_ms)
        line.running = True
        line.heard_ms = now_ms
    elif command.order == HOLD:
        line.held = True
        stop_dialling(line)
    elif command.order == RESUME:
        if line.held:
            line.sent = NOTHING
        line.held = False
        line.heard_ms = now_ms
        line.timed_out = False
    elif command.order == MUTE:
        line.muted = True
    elif command.order == UNMUTE:
        line.muted = False
    elif command.order == DIAL:
        last = &line.dialling
        while last[0] != NULL:
            last = &last[0].next
        command.next = NULL
        last[0] = command
        return False
    elif command.order == LISTEN:
        playout = line.playout
        line.playout = command.playout
        command.playout = playout
        if line.playout != NULL:
            line.playout.placed_ms, line.playout.at = now_ms, 8 * now_ms
    elif command.order == TAP:
        line.tap, command.tap = command.tap, line.tap
    elif command.order == TRANSFORM:
        before = line.through
        line.through, command.transforms = command.transforms, before
    elif command.order == REMOVE:
        let_go(line)
    return True


cdef command_t *take_all(command_t **stack) noexcept nogil:
    """Empty a stack; its commands come as a list, the oldest first."""
    cdef command_t *newest = NULL
    cdef command_t *command
    cdef command_t *oldest = NULL
    if newest_command(stack) != NULL:
        newest = take_commands(stack, NULL)
    while newest != NULL:
        command = newest
        newest = newest.next
        command.next = oldest
        oldest = command
    return oldest


cdef void obey_all(worker_t *worker, int64_t now_ns) noexcept nogil:
    cdef int64_t now_ms = (now_ns - worker.epoch_ns) // NS_PER_MS
    cdef command_t *command
    cdef command_t *oldest = take_all(&worker.inbox)
    while oldest != NULL:
        command = oldest
        oldest = oldest.next
        if obey(worker, command, now_ms):
            acknowledge(worker, command)


# ---------------------------------------------------------------------------------------------------------------------
# The worker


cdef void *work(void *argument) noexcept nogil:
    cdef worker_t *worker = <worker_t *>argument
    cdef int64_t now_ns, next_ns
    prctl(PR_SET_TIMERSLACK, 1)  # wake up punctually without SCHED_FIFO, too
    while not settled(&worker.stopping):
        if settled(&worker.lines) == 0:
            listen(worker, 1, -1)  # nobody is there: sleep until `wake`
            worker.next_ms = (clock_ns() - worker.epoch_ns) // NS_PER_MS
        now_ns = clock_ns()
        obey_all(worker, now_ns)
        serve_all(worker, now_ns)
        next_ns = worker.epoch_ns + worker.next_ms * NS_PER_MS
        listen(worker, next_ns, 0)
        notify(worker, worker.next_ms - 1)
        sleep_until(next_ns)
    return NULL


cdef void *carve(arena_t *arena) except NULL:
    cdef uint64_t size = (arena.size + 63) & ~<uint64_t>63  # whole cache lines
    cdef void *piece = arena.spare
    cdef chunk_t *chunk
    if piece != NULL:
        arena.spare = (<void **>piece)[0]
        return piece
    if arena.chunks == NULL or arena.carved + size > CHUNK:
        chunk = <chunk_t *>aligned_alloc(CHUNK, CHUNK)
        if chunk == NULL:
            raise MemoryError
        madvise(chunk, CHUNK, MADV_HUGEPAGE)
        chunk.next, arena.chunks, arena.carved = arena.chunks, chunk, 64
    piece = arena.chunks.memory + arena.carved
    arena.carved += size
    return piece


cdef void give_back(arena_t *arena, void *piece) noexcept:
    (<void **>piece)[0] = arena.spare
    arena.spare = piece


cdef void free_arena(arena_t *arena) noexcept:
    cdef chunk_t *chunk
    while arena.chunks != NULL:
        chunk, arena.chunks = arena.chunks, arena.chunks.next
        free(chunk)


cdef worker_t *make_worker(int64_t epoch_ns, bint threaded, int notify) except NULL:
    cdef worker_t *worker = <worker_t *>calloc(1, sizeof(worker_t))
    cdef epoll_event event
    cdef int at
    if worker == NULL:
        raise MemoryError
    worker.epoch_ns, worker.threaded, worker.notify = epoch_ns, threaded, notify
    worker.wake, worker.epoll = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), epoll_create1(EPOLL_CLOEXEC)
    worker.notices = <uint8_t *>malloc(NOTICES)
    for at in range(BATCH):
        ready_message(worker, at)
    event.events, event.data.ptr = EPOLLIN, NULL
    if (
        worker.notices == NULL
        or worker.epoll < 0
        or worker.wake < 0
        or epoll_ctl(worker.epoll, EPOLL_CTL_ADD, worker.wake, &event) != 0
    ):
        free_worker(worker)
        raise OSError("no memory or no file descriptor left for the media plane")
    return worker


cdef void free_worker(worker_t *worker) noexcept:
    cdef int fd
    for fd in (worker.epoll, worker.wake):
        if fd >= 0:
            close(fd)
    free_commands(worker.inbox)
    free_commands(worker.outbox)
    free(worker.notices)
    free(worker.captured)
    free(worker)


cdef void free_commands(command_t *command) noexcept:
    cdef command_t *next
    while command != NULL:
        next = command.next
        free_command(command)
        command = next


cdef void close_second(command_t *command) noexcept:
    if command.any_fd >= 0:
        close(command.any_fd)
        command.any_fd = -1


cdef void free_command(command_t *command) noexcept:
    close_second(command)
    free(command.playout)
    free(command.tap)
    free(command)


# ---------------------------------------------------------------------------------------------------------------------
# Python's side


cdef class Plane:
    cdef worker_t **workers
    cdef pthread_t *threads
    cdef int worker_count
    cdef int thread_count
    cdef int notify
    cdef uint32_t last_id
    cdef dict lines
    cdef arena_t line_memory
    cdef arena_t ring_memory
    cdef int start_ms
    cdef int ring_ms
    cdef int64_t gone[COUNTS]    # of the lines that were removed
    cdef readonly bint realtime
    cdef bint closed

    def __cinit__(
        self, *, int threads=1, int start_ms=300, int ring_ms=1000, bint realtime=True, epoch_ns=None, int priority=10
    ):
        cdef sched_param parameter
        cdef int at
        self.notify = -1
        cdef int64_t epoch = clock_ns() if epoch_ns is None else epoch_ns
        if not 0 <= threads <= 256:
            raise LocalProtocolError(f"{threads} threads are not in 0..256")
        if not 120 <= ring_ms <= 60_000 or not 0 <= start_ms <= ring_ms:
            raise LocalProtocolError(f"a start threshold of {start_ms} ms in a ring of {ring_ms} ms (120 to 60000)")
        self.start_ms, self.ring_ms = start_ms, ring_ms
        self.line_memory.size = sizeof(line_t)
        self.ring_memory.size = (ring_ms // 10 + RESERVE) * (BLOCK + 1)
        self.lines = {}
        self.notify = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
        if self.notify < 0:
            raise OSError(errno, "no file descriptor left for the media plane")
        self.workers = <worker_t **>calloc(max(threads, 1), sizeof(worker_t *))
        self.threads = <pthread_t *>calloc(max(threads, 1), sizeof(pthread_t))
        if self.workers == NULL or self.threads == NULL:
            raise MemoryError
        for at in range(max(threads, 1)):
            self.workers[at] = make_worker(epoch, threads > 0, self.notify)
            self.worker_count += 1
        parameter.sched_priority = priority
        self.realtime = realtime and threads > 0
        for at in range(threads):
            if not self._begin(&self.threads[at], self.workers[at]):
                raise OSError("no thread left for the media plane")
            self.thread_count += 1
            if self.realtime:
                self.realtime = pthread_setschedparam(self.threads[at], SCHED_FIFO, &parameter) == 0

    def __dealloc__(self):
        cdef int at
        self._join()
        if self.workers != NULL:
            for at in range(self.worker_count):
                free_worker(self.workers[at])
        free(self.workers)
        free(self.threads)
        if self.notify >= 0:
            close(self.notify)
        free_arena(&self.line_memory)
        free_arena(&self.ring_memory)

    cdef bint _begin(self, pthread_t *thread, worker_t *worker) noexcept:
        """Begin a thread in which no signal of the process is handled."""
        cdef sigset_t all, before
        cdef bint begun
        sigfillset(&all)
        pthread_sigmask(SIG_SETMASK, &all, &before)
        begun = pthread_create(thread, NULL, work, worker) == 0
        pthread_sigmask(SIG_SETMASK, &before, NULL)
        if begun:
            pthread_setname_np(thread[0], b"rtp-plane")
        return begun

    cdef void _join(self) noexcept:
        cdef uint64_t one = 1
        cdef int at
        for at in range(self.thread_count):
            settle(&self.workers[at].stopping, 1)
            write(self.workers[at].wake, &one, sizeof(one))
        with nogil:
            for at in range(self.thread_count):
                pthread_join(self.threads[at], NULL)
        self.thread_count = 0

    def close(self):
        cdef Line line
        cdef command_t *unheard
        cdef int at
        self._join()
        self.closed = True
        for at in range(self.worker_count):
            unheard = newest_command(&self.workers[at].inbox)
            while unheard != NULL:
                close_second(unheard)
                unheard = unheard.next
        for line in self.lines.values():
            hear_nobody_else(line.it)
            line.closed = True
            line.add_counts(self.gone)
        self.lines.clear()

    def fileno(self):
        return self.notify

    def open(
        self, *, int fd=-1, int rtcp_fd=-1, bint ipv6=False, uint32_t ssrc, uint16_t sequence, uint32_t timestamp
    ):
        cdef worker_t *worker = self.workers[0]
        cdef int at
        cdef uint64_t one = 1
        cdef int on = 1
        cdef Line line
        if self.closed:
            raise LocalProtocolError("the plane is closed")
        if fd >= 0 and setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof(on)) != 0:
            raise OSError(errno, "arrivals on the RTP port cannot be timed")
        # The fewer threads share the lines, the less each packet costs; a thread has enough before it is late.
        for at in range(1, self.worker_count):
            if settled(&worker.lines) >= ENOUGH and settled(&self.workers[at].lines) < settled(&worker.lines):
                worker = self.workers[at]
        self.last_id += 1
        line = Line(self, self.last_id)
        line.family = AF_INET6 if ipv6 else AF_INET
        line.make(worker, fd, rtcp_fd, self.ring_ms // 10, self.start_ms // 10)
        line.it.ssrc, line.it.sequence, line.it.offset = ssrc, sequence, timestamp
        line.give(line.order(ADOPT))
        self.lines[self.last_id] = line
        increase(&worker.lines, 1)
        write(worker.wake, &one, sizeof(one))
        return line

    def tick(self, int64_t now_ns):
        cdef worker_t *worker = self.workers[0]
        cdef list packets = []
        cdef int64_t at = 0
        cdef int32_t *head
        if worker.threaded:
            raise LocalProtocolError("this plane ticks by itself")
        worker.captured_size = 0
        obey_all(worker, now_ns)
        serve_all(worker, now_ns)
        notify(worker, worker.next_ms - 1)
        while at < worker.captured_size:
            head = <int32_t *>(worker.captured + at)
            packets.append((head[0], worker.captured[at + 8 : at + 8 + head[1]]))
            at += 8 + head[1]
        return packets

    def notices(self):
        cdef uint64_t count
        cdef int at
        cdef command_t *obeyed
        cdef list out = []
        read(self.notify, &count, sizeof(count))
        for at in range(self.worker_count):
            settle(&self.workers[at].notified, 0)
            # In this order: what is obeyed by now has left all its notices by now, and "removed" is a line's last.
            obeyed = take_all(&self.workers[at].outbox)
            self._read(self.workers[at], out)
            self._reap(obeyed, out)
        return out

    cdef _reap(self, command_t *command, list out):
        cdef command_t *next
        cdef Line line
        while command != NULL:
            next = command.next
            if command.order == REMOVE:
                line = self.lines.pop(command.line.id, None)
                if line is not None:  # the plane was not closed meanwhile
                    line.add_counts(self.gone)
                    out.append(("removed", line.id, 0, 0, ("", 0), b""))
            elif command.order == TRANSFORM:
                out.append(("transformed", command.line.id, <intptr_t>command.transforms.context, 0, ("", 0), b""))
            free_command(command)
            command = next

    cdef _read(self, worker_t *worker, list out):
        cdef notice_head_t head
        cdef bytes data
        cdef uint64_t at = worker.notice_tail, end = acquire(&worker.notice_head)
        while at < end:
            ring_copy_out(worker.notices, at, &head, sizeof(head))
            data = PyBytes_FromStringAndSize(NULL, head.size)
            ring_copy_out(worker.notices, at + sizeof(head), PyBytes_AS_STRING(data), head.size)
            source = ("", 0) if head.source.any.sa_family == AF_UNSPEC else unpack_address(&head.source)
            out.append((NOTICE_NAMES[head.notice], head.line, head.number, head.time_ns, source, data))
            at += sizeof(head) + head.size
        release(&worker.notice_tail, end)

    def counters(self):
        cdef Line line
        cdef int64_t totals[COUNTS]
        cdef int at
        memcpy(totals, self.gone, sizeof(totals))
        for line in self.lines.values():
            line.add_counts(totals)
        return {name: totals[at] for at, name in enumerate(COUNT_NAMES)}

    def lateness(self):
        cdef list counts = [0] * BOUNDS
        cdef int64_t total_ns = 0, max_ns = 0, late_ticks = 0
        cdef int at, bound
        for at in range(self.worker_count):
            for bound in range(BOUNDS):
                counts[bound] += self.workers[at].lateness[bound]
            total_ns += self.workers[at].lateness_sum_ns
            max_ns = max(max_ns, self.workers[at].lateness_max_ns)
            late_ticks += self.workers[at].late_ticks
        return counts, total_ns, max_ns, late_ticks


@cython.no_gc  # the plane uses a line until it has let go of it: lines and plane are no garbage before `close`
cdef class Line:
    cdef line_t *it
    cdef Plane plane             # whose threads use `it`
    cdef playout_t *playout      # which the plane fills, or will when it obeys
    cdef tap_t *tapped           # likewise
    cdef object clips            # (first block's position, blocks, codes) of those that the plane may still read
    cdef uint64_t clip_blocks    # of all clips there were
    cdef bint closed
    cdef int family
    cdef readonly uint32_t id

    def __cinit__(self, Plane plane not None, uint32_t id):
        self.plane = plane
        self.id = id
        self.clips = deque()

    cdef make(self, worker_t *worker, int fd, int rtcp_fd, uint64_t capacity, uint64_t start):
        self.it = <line_t *>carve(&self.plane.line_memory)
        memset(self.it, 0, sizeof(line_t))
        self.it.worker, self.it.id, self.it.fd, self.it.rtcp_fd = worker, self.id, fd, rtcp_fd
        self.it.blocks, self.it.start_blocks, self.it.low_blocks = capacity + RESERVE, start, 2 * capacity // 5
        self.it.ptime_ms = PTIMES_MS[1]
        self.it.frame = 8 * self.it.ptime_ms
        self.it.jump_to = self.it.any_fd = -1
        self.it.trusted_ms = -QUIET_MS

    def __dealloc__(self):
        if self.it != NULL:
            free_commands(self.it.dialling)
            free(self.it.playout)
            free(self.it.tap)
            if self.it.codes != NULL:
                give_back(&self.plane.ring_memory, self.it.codes)
            give_back(&self.plane.line_memory, self.it)

    cdef _need_ring(self):
        if self.it.codes == NULL:
            self.it.codes = <uint8_t *>carve(&self.plane.ring_memory)
            self.it.tags = self.it.codes + self.it.blocks * BLOCK

    cdef command_t *order(self, order_t order, int tones=0) except NULL:
        cdef command_t *command
        if self.closed:
            raise LocalProtocolError("the line was removed")
        command = <command_t *>calloc(1, sizeof(command_t) + tones * sizeof(tone_t))
        if command == NULL:
            raise MemoryError
        command.line, command.order, command.tones, command.any_fd = self.it, order, tones, -1
        return command

    cdef void give(self, command_t *command) noexcept:
        push(&self.it.worker.inbox, command)

    def connect(
        self, *, str host, int port, bint alaw, int payload_type, int ptime_ms=20, telephone_event=None,
        telephone_event_received=None, comfort_noise=None, bint latch=True, int64_t timeout_ms=0, int any_fd=-1,
    ):
        cdef command_t *command
        cdef int on = 1
        cdef peer_t peer
        memset(&peer, 0, sizeof(peer))
        if ptime_ms not in PTIMES_MS:
            raise LocalProtocolError(f"ptime {ptime_ms} ms is not one of {PTIMES_MS}")
        if telephone_event_received is None:
            telephone_event_received = telephone_event
        for number in (payload_type, telephone_event, telephone_event_received, comfort_noise):
            if number is not None and not 0 <= number <= 127:
                raise LocalProtocolError(f"payload type {number} is not in 0..127")
        if not 0 < port < 65536 or not pack_address(&peer.address, self.family, host.encode(), port):
            raise LocalProtocolError(
                f"{host} port {port} is no address that an IPv{4 if self.family == AF_INET else 6} socket can send to"
            )
        peer.payload_type, peer.alaw, peer.ptime_ms = payload_type, alaw, ptime_ms
        peer.telephone_event = -1 if telephone_event is None else telephone_event
        peer.telephone_event_received = -1 if telephone_event_received is None else telephone_event_received
        peer.comfort_noise = -1 if comfort_noise is None else comfort_noise
        peer.latch, peer.timeout_ms = latch, timeout_ms
        if any_fd >= 0 and setsockopt(any_fd, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof(on)) != 0:
            raise OSError(errno, "arrivals on the RTP port cannot be timed")
        command = self.order(CONNECT)
        command.peer, command.any_fd = peer, any_fd
        self.give(command)

    def start(self):
        self.give(self.order(START))

    def hold(self):
        self.give(self.order(HOLD))

    def resume(self):
        self.give(self.order(RESUME))

    def mute(self):
        self.give(self.order(MUTE))

    def unmute(self):
        self.give(self.order(UNMUTE))

    def dial(self, list frames):
        cdef command_t *command = self.order(DIAL, len(frames))
        cdef tone_t *tone
        cdef int at
        cdef bytes payload
        for at, frame in enumerate(frames):
            tone = &command.tone[at]
            tone.audible = frame is not None
            if frame is not None:
                tone.marker, tone.offset, payload = frame
                memcpy(tone.payload, PyBytes_AS_STRING(payload), 4)
        self.give(command)

    def listen(self, bint on):
        cdef command_t *command = self.order(LISTEN)
        if on:
            command.playout = <playout_t *>calloc(1, sizeof(playout_t))
            if command.playout == NULL:
                free(command)
                raise MemoryError
        self.playout = command.playout
        self.give(command)

    def tap(self, bint on):
        cdef command_t *command = self.order(TAP)
        if on:
            command.tap = <tap_t *>calloc(1, sizeof(tap_t))
            if command.tap == NULL:
                free(command)
                raise MemoryError
        self.tapped = command.tap
        self.give(command)

    def remove(self):
        if not self.closed:
            self.give(self.order(REMOVE))
            self.closed = True

    def write(self, const uint8_t[::1] codes, Py_ssize_t start, bint alaw):
        cdef uint64_t filling = self.filling(), capacity = self.it.blocks - RESERVE
        self._need_ring()
        return self._append(codes, start, alaw, capacity - filling if filling < capacity else 0)

    cdef uint64_t filling(self) noexcept:
        """Blocks that have not been sent."""
        return self.it.head - (settled_word(&self.it.tail) & POSITION)

    cdef uint64_t free_blocks(self):
        """Of the ring, in which clips take no room."""
        cdef uint64_t position = acquire(&self.it.tail) & POSITION, start, blocks
        cdef uint64_t filling = self.it.head - position
        for start, blocks, _ in self.clips:
            if position < start + blocks:
                filling -= min(blocks, start + blocks - position)
        return self.it.blocks - filling

    cdef Py_ssize_t _append(self, const uint8_t[::1] codes, Py_ssize_t start, bint alaw, uint64_t room) noexcept:
        """Put codes into `room` blocks; returns how many."""
        cdef line_t *it = self.it
        cdef Py_ssize_t size = codes.shape[0], at = start
        cdef uint64_t block
        cdef uint32_t part
        if alaw != it.writes_alaw:
            self._rewrite(alaw)
        while at < size and room:
            block = self.slot()
            part = min(BLOCK - it.filling, size - at)
            memcpy(it.codes + block * BLOCK + it.filling, &codes[at], part)
            it.uttering = True
            it.filling += part
            at += part
            if it.filling == BLOCK:
                self._publish(ALAW if alaw else 0)
                room -= 1
        return at - start

    cdef uint64_t slot(self) noexcept:
        """The block of the ring at hand."""
        return (self.it.head - self.clip_blocks) % self.it.blocks

    cdef void _publish(self, uint8_t tag) noexcept:
        """The block at hand is complete."""
        self.it.tags[self.slot()] = tag
        self.it.filling = 0
        release(&self.it.head, self.it.head + 1)

    cdef void _fill_up(self) noexcept:
        """Have silence in the rest of the block at hand."""
        memset(
            self.it.codes + self.slot() * BLOCK + self.it.filling,
            silences[self.it.writes_alaw],
            BLOCK - self.it.filling,
        )

    def play(self, bytes codes, bint alaw):
        cdef line_t *it = self.it
        cdef clip_t *clip
        cdef uint64_t blocks = len(codes) // BLOCK
        if len(codes) % BLOCK:
            raise LocalProtocolError(f"a clip of {len(codes)} octets is no whole number of 10 ms")
        self._forget_passed()
        if self._full():
            return False
        self.end()
        if blocks:
            clip = &it.clips[it.clips_head % CLIPS]
            clip.start, clip.blocks, clip.codes = it.head, blocks, <const uint8_t *>PyBytes_AS_STRING(codes)
            clip.tag = ALAW if alaw else 0
            self.clips.append((it.head, blocks, codes))
            self.clip_blocks += blocks
            release(&it.clips_head, it.clips_head + 1)
            release(&it.ended, it.head + blocks)
            release(&it.head, it.head + blocks)
        return True

    cdef bint _full(self) noexcept:
        return (
            self.filling() > self.it.low_blocks or self.it.clips_head - settled_word(&self.it.clips_tail) == CLIPS
        )

    cdef _forget_passed(self):
        while <uint64_t>len(self.clips) > self.it.clips_head - acquire(&self.it.clips_tail):
            self.clips.popleft()

    cdef void _rewrite(self, bint alaw) noexcept:
        """Turn what stands in the block at hand into the other law."""
        cdef uint8_t *codes = self.it.codes + self.slot() * BLOCK
        cdef const uint8_t *table = from_other[alaw]
        cdef uint32_t at
        for at in range(self.it.filling):
            codes[at] = table[codes[at]]
        self.it.writes_alaw = alaw

    def end(self, const uint8_t[::1] codes=b"", bint alaw=False):
        cdef line_t *it = self.it
        if codes.shape[0]:
            self._need_ring()
            if <uint64_t>(it.filling + codes.shape[0] + BLOCK - 1) // BLOCK + 1 > self.free_blocks():
                raise LocalProtocolError(f"{codes.shape[0]} octets are too many for the end of an utterance")
            self._append(codes, 0, alaw, it.blocks)
        if not it.uttering:
            return
        it.uttering = False
        release(&it.ended, it.head + 1)
        if it.filling:
            self._fill_up()
            self._publish(LAST | (ALAW if it.writes_alaw else 0))
        else:
            self._publish(LAST | EMPTY)

    def flush(self):
        cdef line_t *it = self.it
        cdef uint64_t tail = acquire(&it.tail)
        cdef int64_t dropped
        while True:
            dropped = it.filling + BLOCK * self._audible_from(tail & POSITION)
            if replace(&it.tail, &tail, ((tail >> 48) + 1) << 48 | it.head):
                break
        it.filling = 0
        it.uttering = False
        return dropped

    cdef int64_t _audible_from(self, uint64_t position):
        """Blocks of audio from there on."""
        cdef int64_t audible = 0
        cdef uint64_t passed = self.clip_blocks, start, blocks
        for _, blocks, _ in self.clips:
            passed -= blocks
        for start, blocks, _ in (*self.clips, (self.it.head, 0, b"")):
            while position < start:
                audible += not self.it.tags[(position - passed) % self.it.blocks] & EMPTY
                position += 1
            passed += blocks
            if position < start + blocks:
                audible += start + blocks - position
                position = start + blocks
        return audible

    @property
    def uttering(self):
        return self.it.uttering

    @property
    def idle(self):
        return not self.it.uttering and self.filling() == 0

    def await_room(self):
        settle(&self.it.wants_room, 1)
        if self._full():
            return True
        settle(&self.it.wants_room, 0)
        return False

    def await_end(self):
        settle(&self.it.wants_end, 1)
        if not self.idle:
            return True
        settle(&self.it.wants_end, 0)
        return False

    def await_audio(self):
        settle(&self.it.wants_audio, 1)
        if self.playout == NULL or settled_word(&self.playout.head) == self.playout.tail:
            return True
        settle(&self.it.wants_audio, 0)
        return False

    cdef int64_t _time_ns(self, int64_t at) noexcept:
        """The monotonic time of a sample on the worker's clock."""
        return self.it.worker.epoch_ns + at * NS_PER_SAMPLE

    def hear(self):
        cdef playout_t *playout = self.playout
        cdef list frames = []
        cdef uint64_t at
        if playout == NULL:
            return frames
        for at in range(playout.tail, settled_word(&playout.head)):
            samples = (<uint8_t *>playout.frames[at % BACKLOG])[: 2 * LISTENED]
            frames.append((self._time_ns(playout.times[at % BACKLOG]), samples))
        release(&playout.tail, playout.tail + <uint64_t>len(frames))
        return frames

    def said(self):
        cdef tap_t *tap = self.tapped
        cdef list frames = []
        cdef int16_t samples[LARGEST_FRAME]
        cdef const said_t *frame
        cdef uint64_t at
        cdef int code
        if tap == NULL:
            return frames
        for at in range(tap.tail, acquire(&tap.head)):
            frame = &tap.frames[at % BACKLOG]
            for code in range(frame.size):
                samples[code] = linear[frame.alaw][frame.codes[code]]
            frames.append((self._time_ns(frame.at), (<uint8_t *>samples)[: 2 * frame.size]))
        release(&tap.tail, tap.tail + <uint64_t>len(frames))
        return frames

    def counters(self):
        cdef int64_t counts[COUNTS]
        cdef int at
        memset(counts, 0, sizeof(counts))
        self.add_counts(counts)
        return {name: counts[at] for at, name in enumerate(COUNT_NAMES)}

    cdef void add_counts(self, int64_t *counts) noexcept:
        cdef int at
        for at in range(COUNTS):
            counts[at] += self.it.counts[at]
        counts[LOST] += lost(self.it)

    def heard(self):
        cdef line_t *it = self.it
        if not it.followed:
            return None
        return (
            it.remote_ssrc, expected(it), it.source_received, <uint32_t>it.highest_sequence, it.jitter >> 4
        )

    def media_clock(self, int64_t now_ns):
        return <uint32_t>(self.it.offset + <uint32_t>(8 * (now_ns - self.it.worker.epoch_ns) // NS_PER_MS))

    @property
    def target(self):
        return unpack_address(&self.it.target)

    def receive(self, bytes data, str host, int port, int64_t now_ns):
        cdef worker_t *worker = self.it.worker
        cdef address_t source
        if worker.threaded:
            raise LocalProtocolError("this plane receives by itself")
        if not pack_address(&source, self.family, host.encode(), port):
            raise LocalProtocolError(f"{host} is no address of this line's family")
        if len(data) > DATAGRAM:
            self.it.counts[INVALID] += 1
            return
        memcpy(worker.received[0], PyBytes_AS_STRING(data), len(data))
        receive(
            self.it, worker.received[0], len(data), &source, now_ns, (now_ns - worker.epoch_ns) // NS_PER_MS, now_ns
        )

    def transform(self, *, intptr_t protect, intptr_t unprotect, intptr_t context):
        cdef command_t *command = self.order(TRANSFORM)
        command.transforms.protect = <transform_t>protect
        command.transforms.unprotect = <transform_t>unprotect
        command.transforms.context = <void *>context
        self.give(command)
