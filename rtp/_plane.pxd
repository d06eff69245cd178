# cython: language_level=3
"""The table of contents of _plane.pyx: what a stream's line is made of, and who may touch which part of it.

    producer   the Python thread that writes (under the GIL)
    plane      the worker's own thread, which never takes the GIL
    both       one atomic word each

SRTP, or anything else that changes packets in place, plugs in by `transform_t`. Its signature is that of libsrtp's
srtp_protect and srtp_unprotect: `length` goes in and comes out, 0 is success.
"""

from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from rtp._posix cimport iovec, mmsghdr, pollfd, sockaddr, sockaddr_in, sockaddr_in6


cdef extern from *:
    """
    typedef unsigned __int128 seen_t;
    """
    ctypedef unsigned long long seen_t


cdef union address_t:
    sockaddr any
    sockaddr_in v4
    sockaddr_in6 v6


ctypedef int (*transform_t)(void *context, void *packet, int *length) noexcept nogil


cdef enum:
    BLOCK = 80                   # octets of G.711 in 10 ms: the unit of the ring, of which every ptime is a multiple
    HEADER = 12                  # RFC 3550 section 5.1
    LARGEST_FRAME = 480          # 60 ms
    TRAILER = 144                # room for what a transform appends (libsrtp's SRTP_MAX_TRAILER_LEN)
    RESERVE = 25                 # blocks of a ring that only the end of an utterance may fill, since it never waits
    WHEEL = 120                  # slots of 1 ms: the least common multiple of 10, 20, 30, 40 and 60
    BATCH = 16                   # datagrams in one system call
    LOOKS = 64                   # ports that are looked at in one system call
    DATAGRAM = 2048              # longer ones are no telephony
    NOTICES = 1 << 18            # octets of the ring of notices
    BOUNDS = 12                  # of the lateness histogram, the last one open
    CHUNK = 1 << 21              # octets of memory that pieces are cut from: a huge page
    LISTENED = 160               # samples in a frame of the peer's audio: 20 ms
    WINDOW = 16                  # such frames in which late packets still find their place
    BACKLOG = 50                 # such frames that wait for their consumer, and frames of our own
    CLIPS = 4                    # that wait in a line at once
    CANDIDATES = 4               # addresses that may be on probation at once


cdef enum talk_t:                # what the frames of a stream are at the moment
    SILENT                       # nothing is being said, or not enough of it is there to begin
    SPEAKING                     # an utterance is under way
    STARVED                      # an utterance is under way and its audio is late


cdef enum frame_t:
    NOTHING                      # no packet in the slot before
    SPEECH
    SILENCE
    UNDERRUN
    EVENT


cdef enum latch_t:               # from where packets are accepted (symmetric RTP, RFC 4961; session.py has the table)
    DEAF                         # nowhere: no peer was named yet
    OPEN                         # any address may become the source
    LOCKED                       # only the signalled address may still become the source


cdef enum:                       # what is counted on a line; COUNT_NAMES has the names
    PACKETS_SENT
    OCTETS_SENT
    SPEECH_FRAMES
    SILENCE_FRAMES
    UNDERRUN_FRAMES
    EVENT_FRAMES
    UNDERRUNS
    SKIPPED_FRAMES
    PLAYED_MS
    SEND_BLOCKED
    SEND_REFUSED
    SEND_FAILED
    PACKETS_RECEIVED
    OCTETS_RECEIVED
    LOST
    REORDERED
    DUPLICATES
    INVALID
    STRANGERS
    PROBATION
    SOURCES
    RECEIVE_ERRORS
    NOTICES_DROPPED
    AUDIO_DROPPED
    COUNTS


cdef enum notice_t:              # what the plane has to say to Python
    ROOM                         # the ring has run down to its low-water mark, and a writer waits
    DRAINED                      # everything written was sent, and somebody waits for it
    AUDIO                        # frames of the peer's audio are there, and somebody waits for them
    LATCHED
    TIMED_OUT
    TELEPHONE_EVENT
    RTCP


cdef enum order_t:               # what Python has to say to the plane
    ADOPT                        # serve a line from now on
    CONNECT
    START
    HOLD
    RESUME
    MUTE
    UNMUTE
    DIAL
    LISTEN
    TAP
    TRANSFORM
    REMOVE


cdef struct clip_t:              # an utterance that is read where it lies, in its place among the blocks of a line
    uint64_t start               # position of its first block
    uint64_t blocks
    const uint8_t *codes         # the producer's to keep until the plane has passed it
    uint8_t tag                  # of each block, but for LAST


cdef struct probation_t:         # a run of consecutive packets from one address with one SSRC
    address_t address
    uint32_t ssrc
    uint16_t next_sequence
    int32_t packets              # 0: nobody is on it
    uint32_t turn                # of the latest packet: the slot with the oldest one is given away


cdef struct tone_t:              # one frame of dialling: see dtmf.EventFrame
    uint32_t offset
    uint8_t payload[4]
    bint marker
    bint audible                 # false: a frame of silence


cdef struct peer_t:              # what `connect` says
    address_t address
    uint8_t payload_type
    bint alaw
    int16_t telephone_event      # payload types, -1 for none: of the digits that we send
    int16_t telephone_event_received
    int16_t comfort_noise
    int16_t ptime_ms
    bint latch
    int64_t timeout_ms           # of media, 0 for never


cdef struct transforms_t:        # SRTP: what each packet goes through; NULL is off
    transform_t protect
    transform_t unprotect
    void *context


cdef struct playout_t:           # the peer's audio for a consumer: placed by timestamp, released in order
    bint anchored                # `start` means something
    uint32_t start               # timestamp of the first sample not yet released
    uint32_t highest             # timestamp after the last one placed
    int64_t at                   # when that sample came, in samples on the worker's clock
    int64_t placed_ms            # when the last packet was placed
    int64_t judged_ms            # when the two clocks were last compared
    int64_t least                # samples that a packet came after its place, at the least since then
    bint ahead                   # the peer's clock is: the next frame is left out
    int32_t first                # frame of the window that `start` is in
    uint16_t filled[WINDOW]      # samples placed in each frame
    int16_t window[WINDOW][LISTENED]
    uint64_t head                # frames released, by the plane
    uint64_t tail                # frames taken, by the consumer
    int64_t times[BACKLOG]       # when each began
    int16_t frames[BACKLOG][LISTENED]


cdef struct said_t:              # a frame of speech as it was sent
    int64_t at                   # on the worker's clock, in samples
    int16_t size
    uint8_t alaw
    uint8_t codes[LARGEST_FRAME]


cdef struct tap_t:               # what we say, for a consumer
    uint64_t head                # frames sent, by the plane
    uint64_t tail                # frames taken, by the consumer
    said_t frames[BACKLOG]


cdef struct command_t:
    command_t *next
    line_t *line
    order_t order
    peer_t peer
    int any_fd                   # given by CONNECT; -1 for none
    playout_t *playout           # given by LISTEN, taken back with its acknowledgement
    tap_t *tap                   # by TAP, likewise
    transforms_t transforms      # given by TRANSFORM
    int tones                    # of `tone`
    int sent
    tone_t tone[1]


cdef union chunk_t:
    chunk_t *next
    uint8_t memory[CHUNK]


cdef struct arena_t:             # pieces of one size, close together: each page of theirs is looked up in every ptime
    uint64_t size
    chunk_t *chunks
    uint64_t carved              # octets of the newest chunk that were given out
    void *spare                  # what was given back; the first word of each piece leads to the next


cdef struct slot_t:
    line_t *first
    line_t *last


cdef struct line_t:
    # What a frame's way through the plane touches stands together: the cache lines of a stream are cold after 20 ms.
    # The plane's: the grid.
    line_t *before               # in the slot of the wheel
    line_t *after
    int64_t due_ms               # of the next frame, on the worker's clock
    worker_t *worker             # set once
    int64_t heard_ms             # when the peer was last heard
    int64_t look_ms              # when to look for packets again
    uint8_t running              # it was started
    uint8_t held
    uint8_t muted
    uint8_t connected            # the socket, to the target
    uint8_t timed_out
    uint8_t untold               # LATCHED could not be posted
    uint8_t silence
    uint8_t payload_type
    uint8_t alaw
    uint8_t talk                 # talk_t
    uint8_t sent                 # frame_t of the slot before
    int16_t ptime_ms
    int16_t frame                # octets
    uint16_t sequence
    # Both sides'.
    int32_t wants_room           # set by the producer, taken by the plane
    int32_t wants_end
    int32_t wants_audio
    uint64_t head                # blocks published, clips' too; written by the producer
    uint64_t ended               # one past the last block that ends an utterance; written by the producer
    uint64_t tail                # generation << 48 | blocks consumed; either side moves it by compare and swap
    uint64_t generation          # the plane's: of the tail that `talk` belongs to
    uint64_t clips_head          # clips published; written by the producer
    uint64_t clips_tail          # clips passed; written by the plane
    uint64_t passed              # the plane's: blocks of the clips that it has passed
    clip_t clips[CLIPS]
    # Set once.
    uint64_t blocks              # of the ring, RESERVE included
    uint64_t start_blocks        # how much of an utterance must be there before it is heard
    uint64_t low_blocks          # a waiting writer is woken at this filling
    uint8_t *codes               # the ring: `blocks` of BLOCK octets; made when something is written
    uint8_t *tags                # and what each block is: ALAW, LAST, EMPTY
    int fd
    uint32_t ssrc
    # The plane's: where packets go.
    transforms_t through
    uint32_t offset              # of the media clock: timestamp = offset + 8 * due_ms
    address_t target             # as signalled, or as latched
    command_t *dialling          # the DIAL commands being carried out
    playout_t *playout           # NULL: nobody listens
    tap_t *tap                   # NULL: nobody wants to know what we say
    int64_t timeout_ms           # of media, 0 for never
    int64_t counts[COUNTS]
    uint32_t dial_origin

    # The producer's.
    uint32_t filling             # octets already in the block at `head`
    bint uttering                # something was written since the last end()
    bint writes_alaw             # the law that it encodes with

    # Set once.
    uint32_t id
    int rtcp_fd

    # The plane's: what is received.
    int any_fd                   # a second socket on the RTP port, which hears whom the first does not; -1 for none
    peer_t peer
    latch_t latch
    int64_t opened_ms            # when `connect` opened the latch
    bint sourced                 # there is a source's address
    address_t source
    int64_t trusted_ms           # when the source or the signalled address was last heard
    probation_t candidates[CANDIDATES]
    uint32_t turn                # of packets on probation
    bint followed                # there is a source, by its SSRC
    uint32_t remote_ssrc
    int64_t base_sequence        # extended by the count of cycles
    int64_t highest_sequence
    seen_t seen                  # bit n: the packet n before the highest one came
    int64_t source_received
    int64_t lost_before          # by the sources before this one
    int32_t jump_to              # RFC 3550 appendix A.1, bad_seq; -1 for none
    bint timed
    uint32_t transit             # timestamp units
    uint32_t jitter              # timestamp units, 16 times
    int64_t notice_second
    int32_t notices[2]           # passed on in this second: telephone events, RTCP


cdef struct worker_t:
    slot_t wheel[WHEEL]
    int32_t load[WHEEL]          # frames due in each slot of a round of the wheel
    int64_t epoch_ns             # monotonic clock at millisecond 0
    int64_t next_ms              # the first slot not yet served
    int64_t unix_less_now_ns     # what arrivals are stamped by, less our clock; found anew every tick
    bint threaded
    int epoll
    int wake                     # eventfd: a line was opened, or the end is near
    int notify                   # eventfd of the plane's Python side
    int32_t lines                # both sides'
    int32_t stopping             # both sides'
    int32_t notified             # both sides': Python was notified and has not come yet
    command_t *inbox             # both sides': pushed by Python, newest first
    command_t *outbox            # both sides': pushed by the plane, done with
    bint pressing                # there is something that Python should hear of at once
    bint pending                 # there is something, and it can wait a little
    int64_t notified_ms
    uint8_t *notices
    uint64_t notice_head         # octets published by the plane
    uint64_t notice_tail         # octets consumed by Python
    int64_t late_ticks
    int64_t lateness[BOUNDS]     # slots of streams by how late they were served
    int64_t lateness_sum_ns
    int64_t lateness_max_ns
    uint8_t *captured            # what ticks without a thread would have sent: id, size, packet
    int64_t captured_size
    int64_t captured_room
    uint8_t packet[HEADER + LARGEST_FRAME + TRAILER]
    pollfd looks[LOOKS]          # ports that nothing came to for a while
    line_t *looked[LOOKS]        # and whose they are
    int looking
    mmsghdr messages[BATCH]      # for receiving; `vectors` to `controls` are what they point to
    iovec vectors[BATCH]
    address_t sources[BATCH]
    uint64_t controls[BATCH][8]
    uint8_t received[BATCH][DATAGRAM]
