"""The rules of an RTP session as cases that run over any implementation of them.

A test module hands each rule a function that opens a `Rig`, the adapter between a rule and an implementation:

    from tests.rtp_rules import RULES, Rule

    @pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
    def test_rule(rule: Rule) -> None:
        rule(open_rig)

`open_rig(**options)` makes one stream that is connected and not started, with the defaults of `Options`. A rig has its
own clock, which only `run` and `stall` move: `run(ms)` ticks and then moves it by a millisecond, `ms` times over;
`stall(ms)` moves it in one go and then ticks once. Both answer with what was sent, as (ms of the clock, datagram).
`hear` delivers a datagram to the RTP port at the present time. `events` hands over, once each, what happened:
("latched", host, port), ("digit", digit, duration in ms), ("timeout",).

Where the first slot lies after `start` is left to the implementation, within one ptime.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import pytest

from rtp import g711
from rtp.packet import Packet, parse, serialise

SIGNALLED = ("192.0.2.10", 4000)
ELSEWHERE = ("198.51.100.7", 5000)
OTHER = ("203.0.113.9", 6000)

Datagrams = list[tuple[int, bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """`timeout_ms` of media, 0 for none; telephone events have payload type 101."""

    codec: str = "PCMU"
    ptime_ms: int = 20
    start_ms: int = 0
    signalled: tuple[str, int] = SIGNALLED
    timeout_ms: int = 0


class Rig(Protocol):
    def start(self) -> None: ...
    def hold(self) -> None: ...
    def resume(self) -> None: ...
    def mute(self) -> None: ...
    def unmute(self) -> None: ...
    def connect(self, options: Options) -> None:
        """Agree anew, as a re-INVITE does; `start_ms` stays what it was."""

    def write(self, codes: bytes) -> None:
        """G.711 codes of the law that is agreed at this moment."""

    def play(self, codes: bytes) -> None:
        """A clip of whole 10 ms, in the law that is agreed at this moment."""

    def end(self) -> None: ...
    def flush(self) -> float:
        """Milliseconds of speech that were dropped."""

    def dial(self, digits: str) -> None:
        """Digits of 100 ms and gaps of 60 ms at -10 dBm0."""

    def run(self, ms: int) -> Datagrams: ...
    def stall(self, ms: int) -> Datagrams: ...
    def hear(self, datagram: bytes, address: tuple[str, int]) -> None: ...
    def events(self) -> list[tuple[object, ...]]: ...
    def sent(self) -> Mapping[str, int]:
        """The fields of rtp.session.SentFrames."""

    def received(self) -> Mapping[str, float]:
        """The fields of rtp.session.Received."""


OpenRig = Callable[[Options], Rig]
Rule = Callable[[OpenRig], None]

RULES: list[Rule] = []

PAYLOAD_TYPES = {"PCMU": 0, "PCMA": 8}
SILENCE = {"PCMU": 0xFF, "PCMA": 0xD5}
TELEPHONE_EVENT = 101


def rule(case: Rule) -> Rule:
    RULES.append(case)
    return case


def packets(datagrams: Datagrams) -> list[Packet]:
    return [parse(datagram) for _, datagram in datagrams]


def _survives(code: int) -> bool:
    """Whether a code, taken as of either law, is the same again after a way into the other law and back."""
    codes = bytes((code,))
    return (
        g711.mulaw_encode(g711.alaw_decode(g711.alaw_encode(g711.mulaw_decode(codes)))) == codes
        and g711.alaw_encode(g711.mulaw_decode(g711.mulaw_encode(g711.alaw_decode(codes)))) == codes
    )


# So a change of codec to and fro changes none of them, whether the ring is translated or what is taken from it.
CODES = bytes(filter(_survives, range(1, 128)))


def speech(frames: int, *, first: int = 0) -> bytes:
    """Frames of 20 ms, each of a code of its own, none of them silence."""
    return b"".join(CODES[(first + frame) % len(CODES)].to_bytes() * 160 for frame in range(frames))


def spoken(datagrams: Datagrams) -> bytes:
    """The payloads that are not silence."""
    payloads = [p.payload for p in packets(datagrams) if p.payload_type != TELEPHONE_EVENT]
    return b"".join(payload for payload in payloads if set(payload) - {0xFF})


def media(sequences: Iterable[int], *, ssrc: int = 7, payload_type: int = 0, start: int = 0) -> list[tuple[int, bytes]]:
    """Packets of the peer, one every 20 ms, as (sequence, datagram)."""
    return [
        (
            sequence,
            serialise(
                Packet(
                    payload_type=payload_type,
                    sequence=sequence % 65536,
                    timestamp=(start + 160 * sequence) % 2**32,
                    ssrc=ssrc,
                    payload=bytes(160),
                )
            ),
        )
        for sequence in sequences
    ]


def hear(rig: Rig, sequences: Iterable[int], address: tuple[str, int] = SIGNALLED, *, ssrc: int = 7) -> None:
    """The peer's packets arrive, 20 ms apart."""
    for _, datagram in media(sequences, ssrc=ssrc):
        rig.hear(datagram, address)
        rig.run(20)


def latched(open_rig: OpenRig, options: Options | None = None) -> Rig:
    """A rig that hears SIGNALLED; sequence numbers 0 to 2 are its probation, and 2 counts as the first packet."""
    rig = open_rig(options or Options())
    hear(rig, range(3))
    rig.events()
    return rig


def telephone_event(
    *, sequence: int, timestamp: int, code: int, duration: int, end: bool = False, ssrc: int = 7
) -> bytes:
    return serialise(
        Packet(
            payload_type=TELEPHONE_EVENT,
            sequence=sequence,
            timestamp=timestamp,
            ssrc=ssrc,
            payload=bytes((code, end << 7 | 10)) + duration.to_bytes(2, "big"),
        )
    )


# What is sent


@rule
def nothing_is_sent_before_start(open_rig: OpenRig) -> None:
    rig = open_rig(Options())
    rig.write(speech(5))
    rig.end()
    assert rig.run(100) == []
    rig.start()
    assert spoken(rig.run(120)) == speech(5)


@rule
@pytest.mark.conformance("RFC 3550", "5.1", "the sequence number goes up by one with every packet")
@pytest.mark.conformance("RFC 3550", "5.1", "the timestamp goes up by the samples of a packet")
def every_slot_sends_one_packet(open_rig: OpenRig) -> None:
    for ptime_ms in (10, 20, 30, 40, 60):
        rig = open_rig(Options(ptime_ms=ptime_ms))
        rig.start()
        sent = rig.run(600)
        times = [at for at, _ in sent]
        found = packets(sent)
        assert len(found) == 600 // ptime_ms
        assert times == [times[0] + n * ptime_ms for n in range(len(times))]
        assert {len(p.payload) for p in found} == {8 * ptime_ms}
        for n, p in enumerate(found):
            assert p.sequence == (found[0].sequence + n) % 2**16
            assert p.timestamp == (found[0].timestamp + n * 8 * ptime_ms) % 2**32
            assert p.ssrc == found[0].ssrc
            assert p.payload_type == 0


@rule
@pytest.mark.conformance("RFC 3551", "6", "PCMU is payload type 0, and PCMA 8")
def silence_is_the_code_of_zero(open_rig: OpenRig) -> None:
    for codec, octet in SILENCE.items():
        rig = open_rig(Options(codec=codec))
        rig.start()
        for p in packets(rig.run(100)):
            assert (p.payload_type, p.payload) == (PAYLOAD_TYPES[codec], bytes((octet,)) * 160)


@rule
def clip_is_an_utterance_in_its_place_among_others(open_rig: OpenRig) -> None:
    for ptime_ms in (10, 20, 30, 40, 60):
        said = speech(36)
        rig = open_rig(Options(ptime_ms=ptime_ms, start_ms=200))
        rig.write(said[:960])
        rig.play(said[960:2880])
        rig.play(said[2880:3840])
        rig.write(said[3840:])
        rig.end()
        rig.start()
        assert spoken(rig.run(1000)) == said
        assert (rig.sent()["underruns"], rig.sent()["underrun"]) == (0, 0)


@rule
def clip_needs_no_end_and_fills_its_last_frame_up(open_rig: OpenRig) -> None:
    said = speech(6)
    rig = open_rig(Options(ptime_ms=60, start_ms=300))
    rig.play(said[: 480 + 80])
    rig.start()
    assert spoken(rig.run(300)) == said[:560] + b"\xff" * 400
    assert rig.sent()["underruns"] == 0


@rule
def clip_is_turned_into_a_new_codec(open_rig: OpenRig) -> None:
    rig = open_rig(Options())
    rig.play(bytes((0x10,)) * 320)
    rig.start()
    assert packets(rig.run(20))[0].payload == bytes((0x10,)) * 160
    rig.connect(Options(codec="PCMA"))
    (second,) = packets(rig.run(20))
    assert (second.payload_type, second.payload) == (8, g711.alaw_encode(g711.mulaw_decode(bytes((0x10,)))) * 160)


@rule
def flush_drops_the_rest_of_a_clip(open_rig: OpenRig) -> None:
    said = speech(45)
    rig = open_rig(Options())
    rig.write(said[:160])
    rig.play(said[160:2400])
    rig.play(said[2400:6400])
    rig.write(said[6400:])
    rig.start()
    assert spoken(rig.run(100)) == said[:800]
    assert rig.flush() == 800
    assert spoken(rig.run(100)) == b""
    rig.play(said[:800])
    assert spoken(rig.run(200)) == said[:800]
    assert rig.sent()["underruns"] == 0


@rule
@pytest.mark.conformance("RFC 3551", "4.1", "the marker is on the first packet of a talkspurt and on no other")
def marker_opens_a_talkspurt(open_rig: OpenRig) -> None:
    rig = open_rig(Options())
    rig.start()
    assert [p.marker for p in packets(rig.run(60))] == [True, False, False]
    rig.write(speech(2))
    rig.end()
    assert [p.marker for p in packets(rig.run(80))] == [True, False, False, False]
    rig.write(speech(1))
    rig.end()
    assert [p.marker for p in packets(rig.run(40))] == [True, False]


@rule
def last_frame_is_filled_with_silence(open_rig: OpenRig) -> None:
    for codec, octet in SILENCE.items():
        rig = open_rig(Options(codec=codec))
        rig.write(bytes((3,)) * 240)
        rig.end()
        rig.start()
        frames = [p.payload for p in packets(rig.run(60))]
        quiet = bytes((octet,))
        # The padding may be counted to a whole frame or to 10 ms and then a whole frame: the wire shows the same.
        assert frames == [bytes((3,)) * 160, bytes((3,)) * 80 + quiet * 80, quiet * 160]
        assert rig.sent()["underruns"] == 0


@rule
def utterance_waits_for_its_start_threshold(open_rig: OpenRig) -> None:
    rig = open_rig(Options(start_ms=60))
    rig.start()
    rig.write(speech(2))
    assert spoken(rig.run(100)) == b""
    rig.write(speech(1, first=2))
    assert spoken(rig.run(60)) == speech(3)
    assert (rig.sent()["speech"], rig.sent()["underrun"]) == (3, 0)


@rule
def end_is_heard_without_waiting_for_the_threshold(open_rig: OpenRig) -> None:
    rig = open_rig(Options(start_ms=60))
    rig.start()
    rig.write(speech(1))
    rig.end()
    assert spoken(rig.run(20)) == speech(1)


@rule
@pytest.mark.conformance("RFC 3550", "5.1", "the timestamp counts the time also in which there is no audio")
def late_audio_is_one_underrun(open_rig: OpenRig) -> None:
    rig = open_rig(Options(start_ms=40))
    rig.start()
    rig.write(speech(3))
    first = rig.run(160)
    assert (rig.sent()["speech"], rig.sent()["underrun"], rig.sent()["underruns"]) == (3, 5, 1)
    rig.write(speech(2, first=3))
    rig.end()
    second = rig.run(60)
    assert spoken(first + second) == speech(5)
    assert (rig.sent()["underruns"], rig.sent()["silence"]) == (1, 1)
    found = packets(first + second)
    assert [(p.timestamp - found[0].timestamp) % 2**32 for p in found] == [160 * n for n in range(11)]
    assert [p.marker for p in found] == [n in (0, 8) for n in range(11)]


@rule
def after_an_underrun_the_threshold_holds_again(open_rig: OpenRig) -> None:
    rig = open_rig(Options(start_ms=60))
    rig.start()
    rig.write(speech(3))
    rig.run(80)
    rig.write(speech(2, first=3))
    assert spoken(rig.run(100)) == b""
    rig.write(speech(1, first=5))
    assert spoken(rig.run(60)) == speech(3, first=3)
    assert rig.sent()["underruns"] == 1


@rule
def pauses_of_300_ms_between_chunks_are_absorbed(open_rig: OpenRig) -> None:
    rig = open_rig(Options(start_ms=300))
    rig.start()
    rig.write(speech(15))
    sent = rig.run(20)
    for chunk in range(1, 10):
        sent += rig.run(280)
        rig.write(speech(15, first=15 * chunk))
        sent += rig.run(20)
    rig.end()
    sent += rig.run(300)
    assert spoken(sent) == speech(150)
    assert (rig.sent()["underruns"], rig.sent()["underrun"], rig.sent()["speech"]) == (0, 0, 150)


@rule
def part_of_a_frame_waits_for_the_rest(open_rig: OpenRig) -> None:
    rig = open_rig(Options(start_ms=20))
    rig.start()
    rig.write(speech(1) + bytes((9,)) * 80)
    assert spoken(rig.run(60)) == speech(1)
    rig.write(bytes((9,)) * 80)
    rig.end()
    assert spoken(rig.run(40)) == bytes((9,)) * 160
    assert rig.sent()["underruns"] == 1


@rule
def silence_after_the_end_is_designed(open_rig: OpenRig) -> None:
    rig = open_rig(Options())
    rig.start()
    rig.write(speech(2))
    rig.end()
    rig.run(200)
    counts = rig.sent()
    assert (counts["speech"], counts["silence"], counts["underrun"], counts["underruns"]) == (2, 8, 0, 0)


@rule
def next_utterance_follows_without_a_gap(open_rig: OpenRig) -> None:
    rig = open_rig(Options())
    rig.write(speech(2))
    rig.end()
    rig.write(speech(2, first=2))
    rig.end()
    rig.start()
    found = packets(rig.run(100))
    assert b"".join(p.payload for p in found[:4]) == speech(4)
    assert [p.marker for p in found] == [True, False, False, False, False]


@rule
def next_utterance_has_its_own_threshold(open_rig: OpenRig) -> None:
    rig = open_rig(Options(start_ms=60))
    rig.write(speech(4))
    rig.end()
    rig.write(speech(2, first=4))
    rig.start()
    assert spoken(rig.run(200)) == speech(4)
    assert rig.sent()["underruns"] == 0
    rig.write(speech(1, first=6))
    assert spoken(rig.run(60)) == speech(3, first=4)


@rule
def flush_drops_what_was_not_sent(open_rig: OpenRig) -> None:
    rig = open_rig(Options())
    rig.write(speech(10))
    rig.start()
    assert spoken(rig.run(60)) == speech(3)
    assert rig.flush() == 140
    assert spoken(rig.run(60)) == b""
    assert rig.sent()["underruns"] == 0
    rig.write(speech(1, first=20))
    rig.end()
    assert spoken(rig.run(20)) == speech(1, first=20)
    assert rig.flush() == 0


@rule
@pytest.mark.conformance("RFC 3550", "5.1", "the timestamp counts the time also in which nothing is sent")
@pytest.mark.conformance("RFC 3264", "8.4", "on hold nothing is sent")
def hold_sends_nothing_and_resume_goes_on(open_rig: OpenRig) -> None:
    rig = open_rig(Options())
    rig.write(speech(6))
    rig.end()
    rig.start()
    before = rig.run(60)
    rig.hold()
    assert rig.run(505) == []
    rig.resume()
    after = rig.run(100)
    assert spoken(before + after) == speech(6)
    last, first = packets(before)[-1], packets(after)[0]
    elapsed_ms = after[0][0] - before[-1][0]
    assert elapsed_ms % 20 == 0
    assert first.ssrc == last.ssrc
    assert first.sequence == (last.sequence + 1) % 2**16
    assert first.timestamp == (last.timestamp + 8 * elapsed_ms) % 2**32
    assert first.marker
    assert rig.sent()["skipped"] == 0


@rule
@pytest.mark.conformance("RFC 3551", "4.1", "the marker is on the first packet of a talkspurt and on no other")
@pytest.mark.conformance("RFC 3550", "5.1", "the timestamp goes up by the samples of a packet")
def mute_sends_silence_in_every_slot_and_unmute_goes_on_with_the_next_frame(open_rig: OpenRig) -> None:
    rig = open_rig(Options())
    rig.write(speech(4))
    rig.play(speech(4, first=4))
    rig.start()
    before = rig.run(60)
    rig.mute()
    between = rig.run(500)
    rig.unmute()
    after = rig.run(120)
    assert [len(before), len(between), len(after)] == [3, 25, 6]
    assert {p.payload for p in packets(between)} == {b"\xff" * 160}
    assert spoken(before) + spoken(after) == speech(8)
    found = packets(before + between + after)
    assert [(p.sequence - found[0].sequence) % 2**16 for p in found] == list(range(len(found)))
    assert [(p.timestamp - found[0].timestamp) % 2**32 for p in found] == [160 * n for n in range(len(found))]
    assert [n for n, p in enumerate(found) if p.marker] == [0, 28]
    sent = rig.sent()
    assert (sent["speech"], sent["silence"], sent["underrun"], sent["underruns"]) == (8, 26, 0, 0)


@rule
def silence_of_a_mute_is_no_underrun_however_little_is_there(open_rig: OpenRig) -> None:
    rig = open_rig(Options())
    rig.write(speech(2))
    rig.start()
    rig.run(40)
    rig.mute()
    rig.run(200)
    rig.write(speech(2, first=2))
    rig.end()
    rig.unmute()
    assert spoken(rig.run(100)) == speech(2, first=2)
    sent = rig.sent()
    assert (sent["silence"], sent["underrun"], sent["underruns"]) == (13, 0, 0)


@rule
def what_is_flushed_during_a_mute_is_never_sent(open_rig: OpenRig) -> None:
    rig = open_rig(Options())
    rig.play(speech(4))
    rig.write(speech(4, first=4))
    rig.start()
    rig.run(40)
    rig.mute()
    rig.run(40)
    assert rig.flush() == 120
    rig.play(speech(3, first=8))
    assert spoken(rig.run(60)) == b""
    rig.unmute()
    assert spoken(rig.run(100)) == speech(3, first=8)


@rule
def digits_are_sent_during_a_mute(open_rig: OpenRig) -> None:
    rig = open_rig(Options())
    rig.write(speech(4))
    rig.end()
    rig.start()
    rig.mute()
    rig.dial("1")
    found = packets(rig.run(300))
    assert sum(p.payload_type == TELEPHONE_EVENT for p in found) == 7
    assert rig.sent()["speech"] == 0


@rule
def hold_before_start_holds(open_rig: OpenRig) -> None:
    rig = open_rig(Options())
    rig.hold()
    rig.start()
    assert rig.run(100) == []
    rig.resume()
    assert len(rig.run(100)) == 5


@rule
@pytest.mark.conformance("RFC 3550", "5.1", "the timestamp counts the time also in which nothing is sent")
def late_tick_sends_two_at_most_and_keeps_the_grid(open_rig: OpenRig) -> None:
    rig = open_rig(Options())
    rig.write(speech(20))
    rig.end()
    rig.start()
    before = rig.run(100)
    late = rig.stall(210)
    after = rig.run(100)
    assert [len(before), len(late)] == [5, 2]
    assert rig.sent()["skipped"] in (8, 9)  # as the phase of the grid has it
    assert spoken(before + late + after) == speech(7 + len(after))
    found = packets(before + late + after)
    assert [(p.sequence - found[0].sequence) % 2**16 for p in found] == list(range(len(found)))
    for at, datagram in before + after:
        assert (parse(datagram).timestamp - found[0].timestamp) % 2**32 == 8 * (at - before[0][0])
    assert (found[6].timestamp - found[5].timestamp) % 2**32 == 160
    assert (found[7].timestamp - found[6].timestamp) % 2**32 == 160
    assert [p.marker for p in found[5:8]] == [True, False, False]


@rule
def one_slot_late_is_caught_up_without_loss(open_rig: OpenRig) -> None:
    rig = open_rig(Options())
    rig.start()
    before = rig.run(100)
    late = rig.stall(39)
    found = packets(before + late)
    assert len(late) == 2
    assert [(p.timestamp - found[0].timestamp) % 2**32 for p in found] == [160 * n for n in range(7)]
    assert rig.sent()["skipped"] == 0


@rule
@pytest.mark.conformance("RFC 4733", "2.2.1", "every packet of an event has the timestamp of its beginning")
@pytest.mark.conformance("RFC 4733", "2.2.2", "the marker is on the first packet of an event and on no other")
@pytest.mark.conformance("RFC 4733", "2.5.1.2", "the duration of an event grows from packet to packet")
@pytest.mark.conformance(
    "RFC 4733", "2.5.1.4", "the last packet of an event is sent three times, with the same duration"
)
@pytest.mark.conformance("RFC 4733", "2.5.1.6", "the sequence number goes up by one with every packet of an event")
def digits_take_the_place_of_audio(open_rig: OpenRig) -> None:
    rig = open_rig(Options())
    rig.start()
    rig.write(speech(6))
    rig.end()
    before = rig.run(40)
    rig.dial("5#")
    during = rig.run(320)
    after = rig.run(100)
    start = packets(before)[-1].timestamp + 160
    found = packets(during)
    digits = [p for p in found if p.payload_type == TELEPHONE_EVENT]
    assert [(p.timestamp - start) % 2**32 for p in digits] == [0] * 7 + [160 * 8] * 7
    assert [p.marker for p in digits] == [True] + [False] * 6 + [True] + [False] * 6
    growing = ["00a0", "0140", "01e0", "0280"]
    assert [p.payload.hex() for p in digits] == [
        code + rest for code in ("05", "0b") for rest in ["0a" + d for d in growing] + ["8a0320"] * 3
    ]
    between = [p for p in found if p.payload_type != TELEPHONE_EVENT]
    assert [p.payload for p in between] == [bytes((0xFF,)) * 160] * 2
    everything = packets(before + during + after)
    assert [(p.sequence - everything[0].sequence) % 2**16 for p in everything] == list(range(23))
    assert spoken(before + during + after) == speech(6)
    assert packets(after)[0].marker
    assert packets(after)[0].timestamp == (start + 16 * 160) % 2**32
    assert (rig.sent()["event"], rig.sent()["underruns"]) == (14, 0)


@rule
@pytest.mark.conformance(
    "RFC 3550", "5.1", "a source may change its payload type, and sequence, timestamp and SSRC go on"
)
def new_codec_says_what_is_in_the_ring(open_rig: OpenRig) -> None:
    rig = open_rig(Options())
    rig.write(speech(3))
    rig.end()
    rig.start()
    before = packets(rig.run(20))
    rig.connect(Options(codec="PCMA"))
    after = packets(rig.run(60))
    assert [p.payload_type for p in before + after] == [0, 8, 8, 8]
    linear = g711.mulaw_decode(speech(2, first=1))
    assert b"".join(p.payload for p in after) == g711.alaw_encode(linear) + bytes((0xD5,)) * 160
    assert (after[0].sequence - before[0].sequence) % 2**16 == 1
    assert (after[0].timestamp - before[0].timestamp) % 2**32 == 160
    assert after[0].ssrc == before[0].ssrc


@rule
@pytest.mark.conformance("RFC 3550", "5.1", "the timestamp goes up by the samples of a packet")
def new_ptime_keeps_the_media_clock(open_rig: OpenRig) -> None:
    rig = open_rig(Options())
    rig.write(speech(8))
    rig.end()
    rig.start()
    before = rig.run(60)
    rig.connect(Options(ptime_ms=40))
    after = rig.run(160)
    assert spoken(before + after)[: 160 * 8] == speech(8)
    for at, datagram in before + after:
        assert (parse(datagram).timestamp - packets(before)[0].timestamp) % 2**32 == 8 * (at - before[0][0])
    assert {len(p.payload) for p in packets(after)[1:]} == {320}


@rule
def new_ptime_within_a_clip_loses_nothing_of_it(open_rig: OpenRig) -> None:
    rig = open_rig(Options(ptime_ms=20))
    rig.play(speech(12))
    rig.start()
    sent = rig.run(60)
    rig.connect(Options(ptime_ms=30))
    sent += rig.run(60)
    rig.connect(Options(ptime_ms=10))
    sent += rig.run(180)
    assert spoken(sent) == speech(12)
    assert {len(p.payload) for p in packets(sent)} == {80, 160, 240}


@rule
def counters_say_what_was_sent(open_rig: OpenRig) -> None:
    rig = open_rig(Options(start_ms=40))
    rig.start()
    rig.run(40)
    rig.write(speech(2))
    rig.run(80)
    rig.end()
    rig.run(20)
    assert rig.sent() == {
        "packets": 7,
        "octets": 1120,
        "speech": 2,
        "silence": 3,
        "underrun": 2,
        "event": 0,
        "underruns": 1,
        "skipped": 0,
    }


# What is received


@rule
@pytest.mark.conformance("RFC 3550", "A.1", "a source is valid after a number of packets in sequence")
def three_consecutive_packets_latch(open_rig: OpenRig) -> None:
    rig = open_rig(Options())
    hear(rig, (0, 1), ELSEWHERE)
    assert (rig.events(), rig.received()["packets"]) == ([], 0)
    hear(rig, (2,), ELSEWHERE)
    assert rig.events() == [("latched", *ELSEWHERE)]
    assert (rig.received()["packets"], rig.received()["lost"]) == (1, 0)


@rule
@pytest.mark.conformance("RFC 3550", "A.1", "a source is valid after a number of packets in sequence")
def probation_begins_anew_at_a_gap(open_rig: OpenRig) -> None:
    rig = open_rig(Options())
    hear(rig, (0, 1, 3, 4), ELSEWHERE)
    assert rig.events() == []
    hear(rig, (5,), ELSEWHERE)
    assert rig.events() == [("latched", *ELSEWHERE)]


@rule
@pytest.mark.conformance("RFC 3550", "A.1", "a source is valid after a number of packets in sequence")
def probation_begins_anew_with_another_ssrc(open_rig: OpenRig) -> None:
    rig = open_rig(Options())
    hear(rig, (0, 1), ELSEWHERE, ssrc=1)
    hear(rig, (2, 3), ELSEWHERE, ssrc=2)
    assert rig.events() == []


@rule
def probations_do_not_disturb_one_another(open_rig: OpenRig) -> None:
    rig = open_rig(Options())
    for (_, ours), (_, theirs) in zip(media(range(3)), media((50, 70, 90), ssrc=8), strict=True):
        rig.hear(theirs, OTHER)
        rig.hear(ours, ELSEWHERE)
        rig.hear(theirs, OTHER)
    assert rig.events() == [("latched", *ELSEWHERE)]
    assert (rig.received()["probation"], rig.received()["strangers"], rig.received()["packets"]) == (7, 1, 1)


@rule
def oldest_of_five_probations_is_given_up(open_rig: OpenRig) -> None:
    rig = open_rig(Options())
    callers = [("192.0.2.66", port) for port in range(4000, 4010, 2)]
    for _, datagram in media(range(2)):
        for caller in callers:
            rig.hear(datagram, caller)
    assert (rig.events(), rig.received()["probation"]) == ([], 10)
    ((_, third),) = media((2,))
    # With five in turn each has always just been given up, so it is the first packet of each again.
    rig.hear(third, callers[0])
    assert rig.events() == []
    rig.hear(media((3,))[0][1], callers[0])
    rig.hear(media((4,))[0][1], callers[0])
    assert rig.events() == [("latched", *callers[0])]


@rule
def strangers_never_move_a_locked_stream(open_rig: OpenRig) -> None:
    rig = latched(open_rig)
    hear(rig, range(3, 53), ELSEWHERE)
    assert rig.events() == []
    assert (rig.received()["strangers"], rig.received()["packets"]) == (50, 1)
    hear(rig, range(3, 5))
    assert (rig.received()["packets"], rig.received()["lost"]) == (3, 0)


@rule
def signalled_address_is_not_outrun(open_rig: OpenRig) -> None:
    rig = open_rig(Options())
    for (_, ours), (_, theirs) in zip(media(range(3)), media(range(100, 103), ssrc=8), strict=True):
        rig.hear(ours, SIGNALLED)
        for _ in range(5):
            rig.hear(theirs, ELSEWHERE)
        rig.run(20)
    assert rig.events() == [("latched", *SIGNALLED)]


@rule
def one_packet_from_the_signalled_address_does_not_block(open_rig: OpenRig) -> None:
    rig = open_rig(Options())
    hear(rig, (0,))
    rig.run(300)
    hear(rig, range(3), ELSEWHERE)
    assert rig.events() == [("latched", *ELSEWHERE)]


@rule
def connect_opens_the_latch(open_rig: OpenRig) -> None:
    rig = latched(open_rig)
    rig.connect(Options())
    rig.run(300)
    hear(rig, range(100, 103), ELSEWHERE, ssrc=8)
    assert rig.events() == [("latched", *ELSEWHERE)]
    counts = rig.received()
    hear(rig, (3,))
    assert (rig.events(), rig.received()["packets"]) == ([], counts["packets"])


@rule
def source_that_moves_keeps_its_figures(open_rig: OpenRig) -> None:
    rig = latched(open_rig)
    hear(rig, range(3, 10))
    rig.connect(Options())
    rig.run(300)
    hear(rig, range(10, 20), ELSEWHERE)
    counts = rig.received()
    assert rig.events() == [("latched", *ELSEWHERE)]
    # What the first two packets of the probation carried is lost.
    assert (counts["packets"], counts["lost"], counts["sources"]) == (16, 2, 1)


@rule
def source_is_heard_on_while_the_latch_is_open(open_rig: OpenRig) -> None:
    rig = latched(open_rig)
    rig.connect(Options())
    hear(rig, range(3, 13))
    assert (rig.received()["packets"], rig.received()["lost"]) == (11, 0)


@rule
def new_signalled_address_takes_over_from_the_old_path(open_rig: OpenRig) -> None:
    rig = latched(open_rig)
    rig.connect(Options(signalled=OTHER))
    hear(rig, range(3, 9))
    hear(rig, range(50, 53), OTHER, ssrc=9)
    assert rig.events()[-1:] == [("latched", *OTHER)]
    hear(rig, range(53, 55), OTHER, ssrc=9)
    counts = rig.received()
    hear(rig, range(9, 12))
    assert rig.received()["packets"] == counts["packets"]
    assert rig.received()["strangers"] == counts["strangers"] + 3


@rule
@pytest.mark.conformance("RFC 3550", "A.1", "version, payload type, padding and extension of a packet are checked")
def unexpected_payload_type_is_invalid(open_rig: OpenRig) -> None:
    rig = latched(open_rig)
    for _, datagram in media((3,), payload_type=18):
        rig.hear(datagram, SIGNALLED)
    assert (rig.received()["invalid"], rig.received()["packets"]) == (1, 1)


@rule
@pytest.mark.conformance("RFC 3550", "A.1", "version, payload type, padding and extension of a packet are checked")
def malformed_packets_are_invalid(open_rig: OpenRig) -> None:
    rig = latched(open_rig)
    good = media((3,))[0][1]
    for broken in (
        b"",
        good[:11],
        b"\x40" + good[1:],
        b"\x8f" + good[1:40],
        b"\x90" + good[1:15],
        b"\x90" + good[1:14] + b"\xff\xff" + good[16:],
        b"\xa0" + good[1:-1] + b"\xff",
        b"\xa0" + good[1:-1] + b"\x00",
    ):
        rig.hear(broken, SIGNALLED)
    assert (rig.received()["invalid"], rig.received()["packets"]) == (8, 1)


@rule
@pytest.mark.conformance("RFC 3389", "4", "comfort noise has payload type 13, and is no loss")
def comfort_noise_is_no_loss(open_rig: OpenRig) -> None:
    rig = latched(open_rig)
    for _, datagram in media((3,), payload_type=13):
        rig.hear(datagram, SIGNALLED)
    hear(rig, (4,))
    counts = rig.received()
    assert (counts["packets"], counts["lost"], counts["invalid"]) == (3, 0, 0)


@rule
@pytest.mark.conformance("RFC 5761", "4", "RTCP is told from RTP by its packet type")
def rtcp_on_the_rtp_port_is_no_media(open_rig: OpenRig) -> None:
    rig = latched(open_rig)
    rig.hear(bytes.fromhex("80c9000100000007"), SIGNALLED)
    assert (rig.received()["packets"], rig.received()["lost"]) == (1, 0)


@rule
@pytest.mark.conformance("RFC 3550", "6.4.1", "packets lost are those expected less those received, late ones included")
def gaps_are_lost_and_late_packets_are_not(open_rig: OpenRig) -> None:
    rig = latched(open_rig)
    hear(rig, (3, 5, 8))
    assert (rig.received()["lost"], rig.received()["reordered"]) == (3, 0)
    hear(rig, (4, 7))
    assert (rig.received()["lost"], rig.received()["reordered"], rig.received()["packets"]) == (1, 2, 6)


@rule
@pytest.mark.conformance("RFC 3550", "6.4.1", "packets lost are those expected less those received, late ones included")
def repeated_packets_are_duplicates(open_rig: OpenRig) -> None:
    rig = latched(open_rig)
    hear(rig, (3, 3, 5, 4, 4, 3))
    counts = rig.received()
    assert (counts["duplicates"], counts["reordered"]) == (3, 1)


@rule
@pytest.mark.conformance("RFC 3550", "A.1", "the sequence number wraps around without loss")
def sequence_wraps_without_loss(open_rig: OpenRig) -> None:
    rig = open_rig(Options())
    hear(rig, range(65530, 65546))
    counts = rig.received()
    assert (counts["packets"], counts["lost"], counts["reordered"], counts["sources"]) == (14, 0, 0, 1)


@rule
@pytest.mark.conformance(
    "RFC 3550", "A.1", "one packet far from the sequence is dropped, and two in sequence begin anew"
)
def one_packet_far_away_is_dropped_and_two_restart(open_rig: OpenRig) -> None:
    rig = latched(open_rig)
    hear(rig, (3, 30000, 4, 5))
    counts = rig.received()
    assert (counts["packets"], counts["lost"], counts["invalid"]) == (4, 0, 1)
    hear(rig, (40000, 40001, 40002))
    counts = rig.received()
    assert (counts["packets"], counts["lost"], counts["invalid"], counts["sources"]) == (6, 0, 2, 2)


@rule
@pytest.mark.conformance("RFC 3550", "A.1", "behind by 100 or ahead by 3000 is a jump")
def packets_are_late_up_to_99_behind_and_ahead_up_to_2999(open_rig: OpenRig) -> None:
    """RFC 3550 appendix A.1: behind by MAX_MISORDER (100) or ahead by MAX_DROPOUT (3000) is a jump."""
    rig = latched(open_rig)
    hear(rig, (2 + 2999, 2 + 2999 - 99))
    counts = rig.received()
    assert (counts["packets"], counts["lost"], counts["reordered"], counts["invalid"]) == (3, 2997, 1, 0)
    hear(rig, (2 + 2999 - 100, 2 + 2999 + 3000))
    counts = rig.received()
    assert (counts["packets"], counts["lost"], counts["reordered"], counts["invalid"]) == (3, 2997, 1, 2)


@rule
@pytest.mark.conformance("RFC 3550", "A.1", "a source is valid after a number of packets in sequence")
def new_ssrc_takes_over_after_probation(open_rig: OpenRig) -> None:
    rig = latched(open_rig)
    hear(rig, range(3, 10))
    hear(rig, range(500, 502), ssrc=99)
    assert rig.received()["packets"] == 8
    hear(rig, range(502, 510), ssrc=99)
    counts = rig.received()
    assert (counts["packets"], counts["lost"], counts["sources"]) == (16, 0, 2)


@rule
def foreign_ssrc_does_not_take_over_from_a_live_source(open_rig: OpenRig) -> None:
    rig = latched(open_rig)
    for (_, ours), (_, theirs) in zip(media(range(3, 23)), media(range(800, 820), ssrc=8), strict=True):
        rig.hear(ours, SIGNALLED)
        rig.hear(theirs, SIGNALLED)
        rig.run(20)
    counts = rig.received()
    assert (counts["packets"], counts["lost"], counts["sources"]) == (21, 0, 1)


@rule
@pytest.mark.conformance("RFC 3550", "6.4.1", "jitter is the mean deviation of the transit time, smoothed by 1/16")
def jitter_follows_the_arrivals(open_rig: OpenRig) -> None:
    rig = latched(open_rig)
    assert rig.received()["jitter_ms"] == 0
    expected = 0.0
    for n, (_, datagram) in enumerate(media(range(3, 203))):
        # By turns 12 ms late and on time: every difference of transit is 12 ms (RFC 3550 appendix A.8).
        rig.run(12 if n % 2 == 0 else 0)
        rig.hear(datagram, SIGNALLED)
        rig.run(8 if n % 2 == 0 else 20)
        expected += (12 - expected) / 16
    assert abs(rig.received()["jitter_ms"] - expected) < 0.2


@rule
@pytest.mark.conformance(
    "RFC 4733", "2.3.2", "an event ends at the first packet with the E bit, and copies of that are ignored"
)
def digit_is_reported_once_at_its_first_end(open_rig: OpenRig) -> None:
    rig = latched(open_rig)
    for n, duration in enumerate((160, 320, 480)):
        rig.hear(telephone_event(sequence=3 + n, timestamp=480, code=5, duration=duration), SIGNALLED)
        rig.run(20)
        assert rig.events() == []
    for n in range(3):
        rig.hear(telephone_event(sequence=6 + n, timestamp=480, code=5, duration=640, end=True), SIGNALLED)
        rig.run(20)
        assert rig.events() == ([("digit", "5", 80)] if n == 0 else [])
    rig.run(1000)
    assert rig.events() == []
    assert rig.received()["lost"] == 0


@rule
@pytest.mark.conformance("RFC 4733", "2.5.2.2", "an event whose last packets are all lost ends when the next begins")
def digit_without_its_ends_is_reported_by_the_next(open_rig: OpenRig) -> None:
    rig = latched(open_rig)
    rig.hear(telephone_event(sequence=3, timestamp=480, code=1, duration=160), SIGNALLED)
    rig.hear(telephone_event(sequence=4, timestamp=480, code=1, duration=400), SIGNALLED)
    rig.hear(telephone_event(sequence=8, timestamp=1600, code=1, duration=160), SIGNALLED)
    rig.run(20)
    assert rig.events() == [("digit", "1", 50)]
    rig.hear(telephone_event(sequence=9, timestamp=1600, code=1, duration=320, end=True), SIGNALLED)
    rig.run(20)
    assert rig.events() == [("digit", "1", 40)]


@rule
@pytest.mark.conformance(
    "RFC 4733", "2.5.2.2", "an event whose last packets are all lost ends when nothing comes for some time"
)
def digit_without_its_ends_is_reported_in_time(open_rig: OpenRig) -> None:
    rig = latched(open_rig)
    rig.hear(telephone_event(sequence=3, timestamp=480, code=11, duration=800), SIGNALLED)
    rig.run(100)
    assert rig.events() == []
    rig.run(200)
    assert rig.events() == [("digit", "#", 100)]
    rig.hear(telephone_event(sequence=4, timestamp=480, code=11, duration=960, end=True), SIGNALLED)
    rig.run(300)
    assert rig.events() == []


@rule
@pytest.mark.conformance("RFC 4733", "2.5.1.4", "an event of which only the last packet arrives is told")
def digit_from_its_end_alone(open_rig: OpenRig) -> None:
    rig = latched(open_rig)
    rig.hear(telephone_event(sequence=7, timestamp=480, code=0, duration=800, end=True), SIGNALLED)
    rig.run(20)
    assert rig.events() == [("digit", "0", 100)]


@rule
def silence_of_the_peer_is_reported_once(open_rig: OpenRig) -> None:
    rig = latched(open_rig, Options(timeout_ms=500))
    rig.start()
    rig.run(400)
    assert rig.events() == []
    rig.run(600)
    assert rig.events() == [("timeout",)]
    rig.run(2000)
    assert rig.events() == []
    hear(rig, (3,))
    rig.run(1000)
    assert rig.events() == [("timeout",)]


@rule
def hold_is_no_silence_of_the_peer(open_rig: OpenRig) -> None:
    rig = latched(open_rig, Options(timeout_ms=500))
    rig.start()
    rig.run(100)
    rig.hold()
    rig.run(3000)
    assert rig.events() == []
    rig.resume()
    rig.run(400)
    assert rig.events() == []
    rig.run(600)
    assert rig.events() == [("timeout",)]
