"""The session's rules over the reference, the figures of its reports, and what the shared rules leave out."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import asdict, replace

import pytest
from aiortc.rtp import RtcpPacket as JudgePacket
from aiortc.rtp import RtcpSdesPacket, RtcpSrPacket
from hypothesis import given
from hypothesis import strategies as st

from rtp import packet, rtcp, session
from rtp.packet import LocalProtocolError, Packet, RemoteProtocolError
from rtp.session import PCMA, PCMU, Heard, Latched, MediaTimeout, Receiver, RtcpSchedule, Sender, Sent
from tests.rtp_rules import ELSEWHERE, RULES, SIGNALLED, Datagrams, Options, Rule, media, speech, telephone_event

MS = 1_000_000
CODECS = {"PCMU": PCMU, "PCMA": PCMA}


class Reference:
    """tests.rtp_rules.Rig over rtp.session."""

    def __init__(self, options: Options) -> None:
        self._now_ms = 5_000
        self._timeout_ms = options.timeout_ms
        self._sender = Sender(ssrc=1, sequence=65534, timestamp=2**32 - 320, start_ms=options.start_ms)
        self._receiver = Receiver()
        self.connect(options)
        self._watch()

    @property
    def _now_ns(self) -> int:
        return self._now_ms * MS

    def _watch(self) -> None:
        self._receiver.watch(self._timeout_ms * MS or None, self._now_ns)

    def start(self) -> None:
        self._sender.start(self._now_ns)
        self._watch()

    def mute(self) -> None:
        self._sender.mute()

    def unmute(self) -> None:
        self._sender.unmute()

    def hold(self) -> None:
        self._sender.hold()
        self._receiver.watch(None, self._now_ns)

    def resume(self) -> None:
        self._sender.resume(self._now_ns)
        self._watch()

    def connect(self, options: Options) -> None:
        self._sender.connect(
            codec=CODECS[options.codec],
            payload_type={"PCMU": 0, "PCMA": 8}[options.codec],
            ptime_ms=options.ptime_ms,
            telephone_event=101,
        )
        self._receiver.connect(
            codecs=frozenset({0, 8}), now_ns=self._now_ns, signalled=options.signalled, telephone_event=101
        )

    def write(self, codes: bytes) -> None:
        assert self._sender.write(codes) == len(codes)

    def play(self, codes: bytes) -> None:
        self._sender.play(codes)

    def end(self) -> None:
        self._sender.end()

    def flush(self) -> float:
        return self._sender.flush() / 8

    def dial(self, digits: str) -> None:
        self._sender.dial(digits)

    def run(self, ms: int) -> Datagrams:
        sent = []
        for _ in range(ms):
            sent += self._tick()
            self._now_ms += 1
        return sent

    def stall(self, ms: int) -> Datagrams:
        self._now_ms += ms
        return self._tick()

    def _tick(self) -> Datagrams:
        self._receiver.handle_timer(self._now_ns)
        return [(self._now_ms, datagram) for datagram in self._sender.tick(self._now_ns)]

    def hear(self, datagram: bytes, address: tuple[str, int]) -> None:
        self._receiver.receive(datagram, address, self._now_ns)

    def events(self) -> list[tuple[object, ...]]:
        events: list[tuple[object, ...]] = []
        while (event := self._receiver.next_event()) is not None:
            match event:
                case Latched(host=host, port=port):
                    events.append(("latched", host, port))
                case MediaTimeout():
                    events.append(("timeout",))
                case _:
                    events.append(("digit", event.digit, event.duration_ms))
        return events

    def sent(self) -> dict[str, int]:
        return asdict(self._sender.counters())

    def received(self) -> dict[str, float]:
        return asdict(self._receiver.counters())


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule(rule: Rule) -> None:
    rule(Reference)


# The tables


def test_every_state_of_speech_has_a_row_for_every_ring_and_can_end() -> None:
    assert set(session._SLOT) == set(itertools.product(session._Speech, session._Ring))
    for state in session._Speech:
        assert session._SLOT[state, session._Ring.EMPTY] == (session._Speech.IDLE, session._Frame.SILENCE)


def test_every_order_is_defined_but_a_second_start() -> None:
    missing = set(itertools.product(session._Flow, session._Order)) - set(session._FLOW)
    started = (session._Flow.RUNNING, session._Flow.HELD)
    assert missing == {(flow, session._Order.START) for flow in started}


def test_every_origin_is_admitted_or_not_whether_the_latch_is_open_or_locked() -> None:
    assert set(session._ADMISSION) == set(itertools.product(session._Latch, session._Origin))


# What the shared rules leave out: sending


def sender(**options: int) -> Sender:
    made = Sender(ssrc=1, sequence=10, timestamp=1000, **options)
    made.connect(codec=PCMU, payload_type=0, telephone_event=101)
    return made


@pytest.mark.conformance(
    "RFC 3550", "5.1", "a packet begins with version, marker, payload type, sequence, timestamp and SSRC"
)
def test_wire_bytes_of_the_first_packets() -> None:
    line = Sender(ssrc=0xDEADBEEF, sequence=65535, timestamp=2**32 - 80, start_ms=0)
    line.connect(codec=PCMA, payload_type=8, ptime_ms=10)
    line.write(bytes(range(80)))
    line.end()
    line.start(0)
    assert line.tick(0) == [bytes.fromhex("8088 ffff ffffffb0 deadbeef") + bytes(range(80))]
    assert line.tick(10 * MS) == [bytes.fromhex("8008 0000 00000000 deadbeef") + b"\xd5" * 80]


def test_a_second_start_is_refused() -> None:
    line = sender()
    line.start(0)
    with pytest.raises(LocalProtocolError, match="start in a stream that is running"):
        line.start(MS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ptime_ms": 25}, "ptime 25 ms is not one of"),
        ({"payload_type": 128}, "payload type 128 is not in 0..127"),
        ({"telephone_event": -1}, "payload type -1 "),
    ],
)
def test_connecting_with_what_cannot_be_sent_is_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(LocalProtocolError, match=message):
        sender().connect(**{"codec": PCMU, "payload_type": 0, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize(("start_ms", "ring_ms"), [(-1, 1000), (400, 300), (0, 59)])
def test_a_ring_that_cannot_hold_its_threshold_or_a_frame_is_refused(start_ms: int, ring_ms: int) -> None:
    with pytest.raises(LocalProtocolError, match=f"{start_ms} ms in a ring of {ring_ms} ms"):
        sender(start_ms=start_ms, ring_ms=ring_ms)


def test_limits_are_within_the_range() -> None:
    line = sender(start_ms=60, ring_ms=60)
    line.connect(codec=PCMU, payload_type=127, telephone_event=0)
    assert line.room == 480


def test_a_full_ring_takes_no_more() -> None:
    line = sender(start_ms=0, ring_ms=100)
    assert line.write(bytes(900)) == 800
    assert (line.room, line.write(b"x")) == (0, 0)
    line.start(0)
    line.tick(0)
    assert line.room == 160


def test_drained_when_the_last_frame_has_been_sent() -> None:
    line = sender(start_ms=0)
    assert line.drained
    line.write(speech(2))
    line.start(0)
    for slot in range(2):
        line.tick(slot * 20 * MS)
    assert not line.drained  # more of the utterance may come
    line.end()
    assert line.drained


def test_wakes_at_the_next_slot_and_never_while_nothing_is_sent() -> None:
    line = sender()
    assert line.wake_at_ns() is None
    line.start(7)
    assert line.wake_at_ns() == 7
    line.tick(7)
    assert line.wake_at_ns() == 7 + 20 * MS
    line.hold()
    assert line.wake_at_ns() is None
    line.resume(1000 * MS)
    assert line.wake_at_ns() == 7 + 1000 * MS


def test_the_media_clock_at_any_time() -> None:
    line = sender()
    line.start(0)
    line.tick(0)
    assert line.timestamp_at(0) == 1000
    assert line.timestamp_at(10 * MS) == 1080
    line.hold()
    assert line.timestamp_at(60_000 * MS) == 1000 + 480_000


def test_digits_need_negotiated_events() -> None:
    line = sender()
    line.connect(codec=PCMU, payload_type=0)
    with pytest.raises(LocalProtocolError, match="not negotiated"):
        line.dial("1")


@pytest.mark.parametrize("change", ["hold", "ptime", "events"])
def test_digits_end_with_what_they_were_dialled_under(change: str) -> None:
    line = sender()
    line.start(0)
    line.dial("123")
    line.tick(0)
    if change == "hold":
        line.hold()
        line.resume(MS)
    elif change == "ptime":
        line.connect(codec=PCMU, payload_type=0, ptime_ms=10, telephone_event=101)
    else:
        line.connect(codec=PCMU, payload_type=0)
    sent = [packet.parse(datagram) for n in range(1, 50) for datagram in line.tick(n * 20 * MS)]
    assert {p.payload_type for p in sent} == {0}


def test_a_digit_keeps_its_timestamp_over_skipped_slots() -> None:
    line = sender()
    line.start(0)
    line.dial("12")
    sent = line.tick(0) + line.tick(20 * MS) + line.tick(500 * MS)
    sent += [datagram for n in range(26, 60) for datagram in line.tick(n * 20 * MS)]
    stamps = [p.timestamp for p in map(packet.parse, sent)]
    events = [p for p in map(packet.parse, sent) if p.payload_type == 101]
    assert len({p.timestamp for p in events}) == 2
    assert stamps == sorted(stamps)


# What the shared rules leave out: receiving


def receiver() -> Receiver:
    """One that has latched SIGNALLED with SSRC 7; sequence number 2 counts as the first packet."""
    made = Receiver()
    made.connect(codecs=frozenset({0}), now_ns=0, signalled=SIGNALLED, telephone_event=101)
    for sequence, datagram in media(range(3)):
        made.receive(datagram, SIGNALLED, sequence * 20 * MS)
    assert made.next_event() == Latched(host=SIGNALLED[0], port=SIGNALLED[1])
    return made


def test_audio_is_handed_over_once_and_nothing_else_is() -> None:
    line = receiver()
    (_, audio), (_, noise) = media((3,))[0], media((4,), payload_type=13)[0]
    assert line.receive(audio, SIGNALLED, 60 * MS) == packet.parse(audio)
    assert line.receive(audio, SIGNALLED, 60 * MS) is None
    assert line.receive(noise, SIGNALLED, 80 * MS) is None
    assert line.receive(telephone_event(sequence=5, timestamp=0, code=1, duration=8), SIGNALLED, 0) is None
    assert line.receive(media((6,))[0][1], ELSEWHERE, 80 * MS) is None


@pytest.mark.conformance("RFC 3550", "6.4.1", "packets lost are those expected less those received, late ones included")
def test_repeats_count_as_received_as_reports_want_it() -> None:
    """RFC 3550 section 6.4.1: the packets received include any which are late or duplicates."""
    line = receiver()
    for sequence, datagram in media((3, 5, 5, 5)):
        line.receive(datagram, SIGNALLED, sequence * 20 * MS)
    assert line.heard() == Heard(ssrc=7, expected=4, received=5, highest_sequence=5, jitter=0)
    assert (line.counters().lost, line.counters().duplicates) == (-1, 2)


@pytest.mark.conformance("RFC 3550", "6.4.1", "the highest sequence number is extended by the count of its cycles")
def test_cycles_extend_the_highest_sequence_number() -> None:
    line = Receiver()
    line.connect(codecs=frozenset({0}), now_ns=0)
    for sequence, datagram in media(range(65530, 65540)):
        line.receive(datagram, SIGNALLED, sequence * 20 * MS)
    assert line.heard() == Heard(ssrc=7, expected=8, received=8, highest_sequence=65539, jitter=0)


def test_nothing_is_heard_before_there_is_a_source() -> None:
    assert Receiver().heard() is None
    assert Receiver().next_event() is None
    assert Receiver().wake_at_ns() is None


def test_a_broken_event_is_invalid() -> None:
    line = receiver()
    broken = packet.serialise(Packet(payload_type=101, sequence=3, timestamp=0, ssrc=7, payload=b"abc"))
    assert line.receive(broken, SIGNALLED, 0) is None
    assert (line.counters().invalid, line.next_event()) == (1, None)


def test_rtcp_of_the_source_is_a_sign_of_life() -> None:
    line = receiver()
    line.watch(500 * MS, 0)
    report = bytes.fromhex("80c9000100000007")
    line.receive(report, SIGNALLED, 400 * MS)
    line.receive(report, ELSEWHERE, 800 * MS)
    assert line.wake_at_ns() == 900 * MS
    line.handle_timer(900 * MS)
    assert line.next_event() == MediaTimeout(silent_ms=500)
    assert line.wake_at_ns() is None


def test_an_open_latch_is_locked_again_when_the_source_goes_on() -> None:
    line = receiver()
    line.connect(codecs=frozenset({0}), now_ns=100 * MS, signalled=SIGNALLED)
    at = 100 * MS + session.REOPEN_NS
    line.receive(media((3,))[0][1], SIGNALLED, at)
    for _, datagram in media(range(50, 53)):
        line.receive(datagram, ELSEWHERE, at + 1000 * MS)
    assert (line.next_event(), line.counters().strangers) == (None, 3)


@pytest.mark.conformance("RFC 3550", "A.1", "behind by 100 or ahead by 3000 is a jump")
@given(st.lists(st.integers(0, 65535), min_size=1, max_size=60), st.integers(0, 65535))
def test_sequence_numbers_as_in_the_appendix(steps: list[int], start: int) -> None:
    """RFC 3550 appendix A.1 in its own words, over steps that jump in any direction."""
    mod, bad = 1 << 16, (1 << 16) + 1
    highest = base = start
    cycles, received = 0, 1
    source = session._Source(7, start)
    assert source.place(start) is session._Placed.NEXT
    at = start
    for step in steps:
        at = (at + (step % 7 - 2 if step % 5 else step)) % mod
        ahead = (at - highest) % mod
        accepted = True
        if ahead < 3000:
            cycles += mod if at < highest else 0
            highest = at
        elif ahead <= mod - 100:
            accepted = False
            if at == bad:
                highest = base = at
                cycles = received = 0
                accepted = True
            else:
                bad = (at + 1) % mod
        received += accepted
        placed = source.place(at)
        if placed is session._Placed.JUMP:
            if source.restarts(at):
                source = session._Source(7, at)
                assert source.place(at) is session._Placed.NEXT
                placed = session._Placed.NEXT
        elif accepted:
            bad = mod + 1  # ours: packets in their place between the two of a jump mean that it was none
        assert (placed is not session._Placed.JUMP) == accepted
        assert source.received == received
        assert source.expected == cycles + highest - base + 1
        assert source.highest % mod == highest


@pytest.mark.conformance("RFC 3550", "A.8", "jitter is computed in integers as well as in floating point")
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 200)), min_size=2, max_size=50))
def test_jitter_as_in_the_appendix(arrivals: list[tuple[int, int]]) -> None:
    """RFC 3550 appendix A.8 in floating point; the integer form rounds by up to 0.5 and then cuts the fraction off."""
    source = session._Source(7, 0)
    jitter, before = 0.0, None
    now_ms = 0
    for n, (wait_ms, skip) in enumerate(arrivals):
        now_ms += wait_ms
        timestamp = (2**32 - 1000 + 160 * n + skip) % 2**32
        transit = now_ms * 8 - (160 * n + skip)
        jitter += (abs(transit - before) - jitter) / 16 if before is not None else 0
        before = transit
        source.time(timestamp, now_ms * MS)
    assert -1.5 < source.jitter - jitter <= 0.5


def mangled(chance: random.Random, datagrams: Sequence[bytes]) -> list[bytes]:
    """What a bad network makes of them: some are lost, repeated or overtaken."""
    out: list[bytes] = []
    for datagram in datagrams:
        for _ in range(chance.choices((0, 1, 2), (5, 90, 5))[0]):
            out.insert(len(out) - chance.randrange(min(len(out) + 1, 4)), datagram)
    return out


@given(st.integers(0, 2**32))
def test_figures_add_up_on_a_bad_network(seed: int) -> None:
    line = receiver()
    for n, datagram in enumerate(mangled(random.Random(seed), [d for _, d in media(range(3, 103))])):
        line.receive(datagram, SIGNALLED, (3 + n) * 20 * MS)
    counts, heard = line.counters(), line.heard()
    assert heard is not None
    assert (counts.packets, counts.invalid, counts.strangers, counts.sources) == (heard.received, 0, 0, 1)
    assert counts.lost == heard.expected - heard.received
    assert heard.expected == heard.highest_sequence - 1
    distinct = counts.packets - counts.duplicates
    assert 0 <= heard.expected - distinct <= 100


@given(st.lists(st.tuples(st.binary(max_size=60), st.sampled_from([SIGNALLED, ELSEWHERE])), max_size=20))
def test_the_receiver_survives_anything(datagrams: list[tuple[bytes, tuple[str, int]]]) -> None:
    line = receiver()
    for n, (data, address) in enumerate(datagrams):
        # Half of them look like RTP or RTCP at first sight.
        line.receive(b"\x80" + data if n % 2 else data, address, n * MS)
        line.handle_timer(n * MS)
    assert line.counters().packets <= 1 + len(datagrams)


# Reports

S = 1_000 * MS
UNIX_NS = 1_700_000_000 * S


def schedule(*, ssrc: int = 1, unix_ns: int = UNIX_NS, chance: float = 0.5) -> RtcpSchedule:
    return RtcpSchedule(ssrc=ssrc, cname="a1b2c3", now_ns=0, unix_ns=unix_ns, random=lambda: chance)


def sent(packets: int, timestamp: int = 0) -> Sent:
    return Sent(packets=packets, octets=160 * packets, timestamp=timestamp)


def heard(expected: int, received: int, *, ssrc: int = 7, jitter: int = 0) -> Heard:
    return Heard(ssrc=ssrc, expected=expected, received=received, highest_sequence=100 + expected, jitter=jitter)


def only_block(compound: bytes) -> rtcp.Report:
    first = rtcp.parse(compound)[0]
    assert isinstance(first, rtcp.SenderReport | rtcp.ReceiverReport)
    (block,) = first.reports
    return block


@pytest.mark.conformance(
    "RFC 3550", "6.4.1", "a sender report has NTP and RTP timestamps, packets, octets, and a block on the source"
)
@pytest.mark.conformance("RFC 3550", "6.5.1", "every compound has the CNAME")
def test_wire_bytes_of_a_sender_report() -> None:
    compound = schedule(ssrc=0x11223344).report(sent=sent(250, 0x55667788), heard=heard(100, 98), now_ns=2 * S)
    assert compound == bytes.fromhex(
        "81c8000c 11223344 e8fe6f82 00000000 55667788 000000fa 00009c40"
        "00000007 05000002 000000c8 00000000 00000000 00000000"
        "81ca0004 11223344 0106 613162326333 00000000"
    )


@pytest.mark.conformance(
    "RFC 3550", "6.4.1", "a sender report has NTP and RTP timestamps, packets, octets, and a block on the source"
)
@pytest.mark.conformance("RFC 3550", "6.5.1", "every compound has the CNAME")
def test_an_independent_parser_reads_our_report() -> None:
    compound = schedule().report(sent=sent(250, 5), heard=heard(100, 98, jitter=9), now_ns=2 * S)
    report, description = JudgePacket.parse(compound)
    assert isinstance(report, RtcpSrPacket)
    assert isinstance(description, RtcpSdesPacket)
    assert rtcp.unix_ns_from_ntp(report.sender_info.ntp_timestamp) == UNIX_NS + 2 * S
    assert (report.sender_info.packet_count, report.sender_info.octet_count) == (250, 40_000)
    assert (report.reports[0].packets_lost, report.reports[0].jitter) == (2, 9)
    assert description.chunks[0].items == [(1, b"a1b2c3")]


@pytest.mark.conformance(
    "RFC 3550", "6.3.1", "a report goes out every 5 s, give or take half, and the first after half of that"
)
@pytest.mark.parametrize(("chance", "first_ms", "next_ms"), [(0.0, 1250, 2500), (0.5, 2500, 5000), (0.99, 3725, 7450)])
def test_reports_are_due_every_five_seconds_give_or_take_half(chance: float, first_ms: int, next_ms: int) -> None:
    reports = schedule(chance=chance)
    assert reports.wake_at_ns() == first_ms * MS
    reports.report(sent=sent(1), heard=None, now_ns=4 * S)
    assert reports.wake_at_ns() == 4 * S + next_ms * MS


@pytest.mark.conformance("RFC 3550", "6.4", "who has sent nothing since two reports sends a receiver report")
def test_who_has_not_sent_for_two_intervals_is_a_receiver() -> None:
    reports = schedule()
    kinds = [
        type(rtcp.parse(reports.report(sent=sent(total), heard=None, now_ns=n * S))[0])
        for n, total in enumerate([0, 5, 5, 5, 5, 6])
    ]
    receiver_report, sender_report = rtcp.ReceiverReport, rtcp.SenderReport
    assert kinds == [receiver_report, sender_report, sender_report, receiver_report, receiver_report, sender_report]


@pytest.mark.conformance("RFC 3550", "6.4.1", "loss is told in total, and as a fraction since the report before")
def test_loss_is_reported_in_total_and_since_the_last_report() -> None:
    reports = schedule()
    blocks = [
        only_block(reports.report(sent=sent(1), heard=figures, now_ns=n * S))
        for n, figures in enumerate([heard(100, 90), heard(200, 165), heard(300, 275), heard(400, 375)])
    ]
    assert [(block.lost, block.fraction_lost) for block in blocks] == [(10, 25), (35, 64), (25, 0), (25, 0)]


def test_a_new_source_is_counted_from_its_own_beginning() -> None:
    reports = schedule()
    reports.report(sent=sent(1), heard=heard(1000, 500), now_ns=0)
    block = only_block(reports.report(sent=sent(2), heard=heard(100, 75, ssrc=8), now_ns=S))
    assert (block.ssrc, block.lost, block.fraction_lost) == (8, 25, 64)
    block = only_block(reports.report(sent=sent(3), heard=heard(50, 25, ssrc=8), now_ns=2 * S))
    assert (block.lost, block.fraction_lost) == (25, 128)  # the same SSRC, whose sequence has begun anew


def test_no_block_on_a_source_that_was_not_heard_since() -> None:
    reports = schedule()
    reports.report(sent=sent(1), heard=heard(10, 10), now_ns=0)
    (report, _) = rtcp.parse(reports.report(sent=sent(2), heard=heard(10, 10), now_ns=S))
    assert isinstance(report, rtcp.SenderReport)
    assert report.reports == ()


def test_counts_beyond_32_bits_wrap() -> None:
    (report, _) = rtcp.parse(schedule().report(sent=sent(2**32 + 1), heard=None, now_ns=0))
    assert isinstance(report, rtcp.SenderReport)
    assert (report.packets, report.octets) == (1, 160)


@pytest.mark.conformance(
    "RFC 3550", "6.4.1", "a report repeats the middle of the last NTP timestamp, and tells the delay since in 1/65536 s"
)
def test_the_delay_since_the_last_sender_report_of_the_source() -> None:
    reports, peer = schedule(), schedule(ssrc=7)
    reports.receive(peer.report(sent=sent(1), heard=None, now_ns=S), S)
    block = only_block(reports.report(sent=sent(1), heard=heard(1, 1), now_ns=3 * S + S // 2))
    assert (block.last_sr, block.delay) == (rtcp.middle_32(rtcp.ntp_from_unix_ns(UNIX_NS + S)), 5 << 15)
    other = schedule()
    other.receive(schedule(ssrc=8).report(sent=sent(1), heard=None, now_ns=S), S)
    block = only_block(other.report(sent=sent(1), heard=heard(1, 1), now_ns=3 * S))
    assert (block.last_sr, block.delay) == (0, 0)


@pytest.mark.conformance("RFC 3550", "6.4.1", "the round trip follows from the report that came back")
@given(st.integers(0, 2**31), st.integers(0, 2 * S), st.integers(0, 7 * S))
def test_round_trip_over_two_schedules(skew_s: int, one_way_ns: int, pause_ns: int) -> None:
    """Whatever the two wall clocks say; to within what 1/65536 s can carry."""
    ours, theirs = schedule(), schedule(ssrc=7, unix_ns=skew_s * S)
    ours_sent = ours.report(sent=sent(1), heard=None, now_ns=0)
    theirs.receive(ours_sent, one_way_ns)
    back = theirs.report(sent=sent(1), heard=heard(1, 1, ssrc=1), now_ns=one_way_ns + pause_ns)
    ours.receive(back, 2 * one_way_ns + pause_ns)
    assert ours.round_trip_ns is not None
    assert abs(ours.round_trip_ns - 2 * one_way_ns) < 40_000
    assert ours.heard_by_peer is not None
    assert ours.heard_by_peer.ssrc == 1


def test_reports_on_others_and_our_own_echo_are_not_taken_in() -> None:
    reports, peer = schedule(), schedule(ssrc=7)
    reports.receive(peer.report(sent=sent(1), heard=heard(1, 1, ssrc=99), now_ns=0), 0)
    assert reports.heard_by_peer is None
    echo = schedule()
    reports.receive(echo.report(sent=sent(1), heard=heard(1, 1, ssrc=1), now_ns=0), 0)
    reports.receive(echo.goodbye(sent=sent(1), heard=None, now_ns=0), 0)
    assert (reports.heard_by_peer, reports.left) == (None, False)


def test_a_round_trip_that_cannot_be_told_keeps_the_last_one() -> None:
    reports = schedule()
    report = rtcp.Report(
        ssrc=1,
        fraction_lost=0,
        lost=0,
        highest_sequence=0,
        jitter=0,
        delay=0,
        last_sr=rtcp.middle_32(rtcp.ntp_from_unix_ns(UNIX_NS)),
    )
    description = rtcp.SourceDescription(sources=(rtcp.Source(ssrc=7, items=((1, b"x"),)),))
    for block in (report, replace(report, last_sr=0), replace(report, delay=2**20)):
        reports.receive(rtcp.serialise((rtcp.ReceiverReport(ssrc=7, reports=(block,)), description)), S)
    assert reports.round_trip_ns == S


@pytest.mark.conformance("RFC 3550", "6.6", "BYE ends the stream")
def test_goodbye_ends_the_stream() -> None:
    reports, peer = schedule(), schedule(ssrc=7)
    compound = peer.goodbye(sent=sent(3), heard=None, now_ns=S, reason="done")
    assert [type(part) for part in rtcp.parse(compound)] == [rtcp.SenderReport, rtcp.SourceDescription, rtcp.Goodbye]
    assert rtcp.parse(compound)[2] == rtcp.Goodbye(ssrcs=(7,), reason="done")
    reports.receive(compound, S)
    assert reports.left


@given(st.binary(max_size=100))
def test_malformed_compounds_change_nothing(data: bytes) -> None:
    reports = schedule()
    try:
        reports.receive(data, 0)
    except RemoteProtocolError:
        assert (reports.round_trip_ns, reports.heard_by_peer, reports.left) == (None, None, False)
