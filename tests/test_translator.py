"""RTP and RTCP between a browser and the server (RFC 3550 section 7.1), on wire bytes."""

from __future__ import annotations

import struct
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mediaserver.opus import Opus
from mediaserver.translator import FRAME, Translator
from rtp import g711, packet, rtcp
from rtp.packet import Extension, Packet

CODES = bytes(range(160))


class Marked:
    """Stands for Opus: a packet says how many codes it was, and of what first code."""

    def decode(self, opus: bytes) -> bytes:
        return opus[1:2] * opus[0]

    def encode(self, codes: bytes) -> bytes:
        return bytes((len(codes), codes[0]))


def pcmu(*, event: int | None = 126, server_event: int | None = 101) -> Translator:
    return Translator(payload_type=0, telephone_event=event, server_event=server_event, transcoder=None)


def opus() -> Translator:
    return Translator(payload_type=111, telephone_event=110, server_event=101, transcoder=Marked())


def rtp(payload: bytes = CODES, **fields: object) -> bytes:
    base = Packet(payload_type=0, sequence=7, timestamp=1000, ssrc=5, payload=payload)
    return packet.serialise(replace(base, **fields))  # type: ignore[arg-type]


def up(translator: Translator, data: bytes) -> Packet:
    out = translator.from_browser(data)
    assert out is not None
    return packet.parse(out)


def down(translator: Translator, data: bytes) -> Packet:
    out = translator.to_browser(data)
    assert out is not None
    return packet.parse(out)


def test_pcmu_passes_as_it_is_but_for_what_only_the_browser_knows() -> None:
    extension = Extension(profile=0xBEDE, data=b"\x10\xff\x00\x00")
    out = up(pcmu(), rtp(marker=True, extension=extension, csrcs=(1, 2), padding=4))
    assert out == Packet(payload_type=0, sequence=7, timestamp=1000, ssrc=5, payload=CODES, marker=True)
    assert down(pcmu(), rtp()) == Packet(payload_type=0, sequence=7, timestamp=1000, ssrc=5, payload=CODES)


def test_a_packet_that_needs_no_change_is_not_taken_apart() -> None:
    data = rtp(marker=True)
    assert pcmu().from_browser(data) is data
    assert pcmu().to_browser(data) is data
    # A browser may have numbered PCMU otherwise.
    other = Translator(payload_type=96, telephone_event=None, server_event=None, transcoder=None)
    assert down(other, data).payload_type == 96
    assert up(other, rtp(payload_type=96)).payload_type == 0


def test_digits_get_the_payload_type_of_the_other_side() -> None:
    event = struct.pack("!BBH", 5, 0x8A, 800)
    assert up(pcmu(), rtp(event, payload_type=126)).payload_type == 101
    assert up(pcmu(), rtp(event, payload_type=126)).payload == event
    assert down(pcmu(), rtp(event, payload_type=101)).payload_type == 126


@pytest.mark.parametrize("translator", [pcmu(event=None), pcmu(server_event=None)])
def test_digits_that_one_side_does_not_know_are_dropped(translator: Translator) -> None:
    event = struct.pack("!BBH", 5, 0x8A, 800)
    assert translator.from_browser(rtp(event, payload_type=126)) is None
    assert translator.to_browser(rtp(event, payload_type=101)) is None
    assert translator.dropped == 2


@pytest.mark.conformance("RFC 4733", "2.3.5", "the duration of an event is in units of its timestamp")
def test_the_duration_of_a_digit_is_told_on_the_clock_of_the_other_side() -> None:
    event = struct.pack("!BBH", 5, 0x8A, 4800)
    found = up(opus(), rtp(event, payload_type=110))
    assert (found.payload_type, found.payload) == (101, struct.pack("!BBH", 5, 0x8A, 800))
    found = down(opus(), rtp(struct.pack("!BBH", 5, 0x8A, 800), payload_type=101))
    assert (found.payload_type, found.payload) == (110, event)
    # What cannot be said is said as the longest that can.
    assert down(opus(), rtp(struct.pack("!BBH", 5, 0x8A, 60_000), payload_type=101)).payload[2:] == b"\xff\xff"


def test_what_was_not_agreed_on_is_dropped_and_counted() -> None:
    translator = pcmu()
    assert translator.from_browser(rtp(payload_type=13)) is None
    assert translator.from_browser(b"\x80") is None
    assert translator.from_browser(rtp(b"")) is None
    assert translator.from_browser(rtp(b"\x01", payload_type=126)) is None
    assert translator.to_browser(rtp(payload_type=8)) is None
    assert translator.dropped == 5


def test_a_browser_that_the_server_does_not_want_to_hear_is_silent() -> None:
    translator = pcmu()
    translator.hears = False
    assert translator.from_browser(rtp()) is None
    assert translator.to_browser(rtp()) is not None
    assert translator.dropped == 0


@pytest.mark.conformance("RFC 7587", "4.1", "the RTP clock of Opus is 48 kHz, whatever the rate of the sound")
def test_opus_is_a_packet_for_a_packet_on_a_clock_six_times_as_fast() -> None:
    translator = opus()
    found = up(translator, rtp(bytes((160, 9)), payload_type=111, sequence=7, timestamp=6000))
    assert (found.payload_type, found.payload, found.sequence, found.timestamp) == (0, b"\x09" * 160, 7, 1000)
    found = up(translator, rtp(bytes((160, 9)), payload_type=111, sequence=8, timestamp=6960))
    assert (found.sequence, found.timestamp) == (8, 1160)
    found = down(translator, rtp(b"\x05" * 160, timestamp=1000))
    assert (found.payload_type, found.payload, found.timestamp) == (111, bytes((160, 5)), 6000)
    assert down(translator, rtp(b"\x05" * 160, timestamp=1160, sequence=8)).timestamp == 6960


def test_a_timestamp_that_wraps_around_goes_on_on_the_other_clock() -> None:
    translator = opus()
    times = [
        up(translator, rtp(b"\xa0\x09", payload_type=111, sequence=n, timestamp=960 * (n - 1) % 2**32)).timestamp
        for n in range(4)
    ]
    assert [(later - times[0]) % 2**32 for later in times] == [0, 160, 320, 480]
    times = [down(translator, rtp(timestamp=160 * (n - 1) % 2**32)).timestamp for n in range(4)]
    assert [(later - times[0]) % 2**32 for later in times] == [0, 960, 1920, 2880]


def test_a_lost_packet_stays_lost_and_one_that_comes_late_is_dropped() -> None:
    translator = opus()
    sent = [rtp(bytes((160, n)), payload_type=111, sequence=n, timestamp=960 * n) for n in range(6)]
    heard = [translator.from_browser(sent[n]) for n in (0, 1, 3, 2, 3, 5)]
    assert [None if data is None else packet.parse(data).sequence for data in heard] == [0, 1, 3, None, None, 5]
    # An encoder carries state; G.711 does not, so there what is late is the server's to judge.
    assert [up(pcmu(), rtp(sequence=n)).sequence for n in (0, 1, 3, 2)] == [0, 1, 3, 2]


def test_another_source_and_one_that_begins_anew_are_heard() -> None:
    translator = opus()
    up(translator, rtp(b"\xa0\x01", payload_type=111, sequence=5000, timestamp=600_000))
    assert up(translator, rtp(b"\xa0\x02", payload_type=111, sequence=1, timestamp=600, ssrc=6)).timestamp == 100
    up(translator, rtp(b"\xa0\x02", payload_type=111, sequence=30_000, timestamp=1200, ssrc=6))
    assert up(translator, rtp(b"\xa0\x02", payload_type=111, sequence=3, timestamp=1800, ssrc=6)).sequence == 3


def report(*, ssrc: int, jitter: int) -> rtcp.Report:
    return rtcp.Report(ssrc=ssrc, fraction_lost=3, lost=4, highest_sequence=70_000, jitter=jitter, last_sr=11, delay=12)


def compound(*, timestamp: int, jitter: int) -> bytes:
    return rtcp.serialise(
        (
            rtcp.SenderReport(
                ssrc=5,
                ntp=99,
                rtp_timestamp=timestamp,
                packets=3,
                octets=480,
                reports=(report(ssrc=6, jitter=jitter),),
            ),
            rtcp.ReceiverReport(ssrc=5, reports=(report(ssrc=7, jitter=jitter), report(ssrc=8, jitter=jitter))),
            rtcp.SourceDescription(sources=(rtcp.Source(ssrc=5, items=((1, b"cname"),)),)),
        )
    )


def test_reports_pass_as_they_are_where_the_clocks_are_the_same() -> None:
    data = compound(timestamp=6000, jitter=600)
    assert pcmu().reports_from_browser(data) == data
    assert pcmu().reports_to_browser(data) == data


@pytest.mark.conformance("RFC 3550", "7.2", "a translator that changes the clock changes what reports say of it")
def test_reports_tell_time_and_jitter_on_the_clock_of_the_other_side() -> None:
    slow, fast = compound(timestamp=1000, jitter=100), compound(timestamp=6000, jitter=600)
    translator = opus()
    up(translator, rtp(b"\xa0\x01", payload_type=111, timestamp=6000))
    assert translator.reports_from_browser(fast) == slow
    down(translator, rtp(timestamp=1000))
    assert translator.reports_to_browser(slow) == fast


def test_a_report_between_packets_does_not_disturb_their_clock() -> None:
    translator = opus()
    assert up(translator, rtp(b"\xa0\x01", payload_type=111, sequence=1, timestamp=6000)).timestamp == 1000
    translator.reports_from_browser(compound(timestamp=6500, jitter=0))
    assert up(translator, rtp(b"\xa0\x01", payload_type=111, sequence=2, timestamp=6960)).timestamp == 1160


def test_feedback_and_what_is_cut_off_stay_where_they_are() -> None:
    data = compound(timestamp=6000, jitter=600)
    feedback = struct.pack("!BBHII", 0x81, 205, 2, 5, 6)
    translator = pcmu()
    assert translator.reports_from_browser(data + feedback) == data
    assert translator.reports_from_browser(data + data[:51]) == data
    assert translator.reports_from_browser(feedback) is None
    assert translator.reports_from_browser(b"\x81\xc8") is None
    # A report that announces more blocks than it has.
    assert translator.reports_from_browser(bytes((0x9F,)) + data[1:52]) is None
    assert translator.dropped == 3


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.binary(max_size=200))
def test_nothing_that_comes_raises(head: bytes, tail: bytes) -> None:
    for translator in (pcmu(), opus()):
        for data in (head, b"\x80" + head, rtp(tail, payload_type=111), b"\x81\xc8" + head, rtp(tail)):
            translator.from_browser(data)
            translator.to_browser(data)
            translator.reports_from_browser(data)
            translator.reports_to_browser(data)


def tone(hz: float, seconds: float, amplitude: float = 10_000) -> bytes:
    times = np.arange(round(8000 * seconds)) / 8000
    return g711.mulaw_encode((np.sin(2 * np.pi * hz * times) * amplitude).astype(np.int16).tobytes())


def through(codes: bytes) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """What of codes is left after Opus and back, without the first quarter of a second."""
    one, other = Opus(), Opus()
    heard = b"".join(other.decode(one.encode(codes[at : at + FRAME])) for at in range(0, len(codes), FRAME))
    assert len(heard) == len(codes)
    return np.frombuffer(g711.mulaw_decode(heard), np.int16).astype(np.float64)[2000:]


@pytest.mark.parametrize("hz", [300, 1000, 2500, 3300])
def test_opus_leaves_a_tone_as_it_is(hz: float) -> None:
    heard = through(tone(hz, 2))
    times = np.arange(len(heard)) / 8000
    basis = np.stack([np.sin(2 * np.pi * hz * times), np.cos(2 * np.pi * hz * times)], axis=1)
    found = np.linalg.lstsq(basis, heard, rcond=None)[0]
    noise = heard - basis @ found
    assert abs(20 * np.log10(np.hypot(*found) / 10_000)) < 1.0
    assert 10 * np.log10(np.var(basis @ found) / np.var(noise)) > 18


def test_opus_leaves_silence_silent() -> None:
    assert np.max(np.abs(through(b"\xff" * 8000))) <= 8


def test_a_packet_that_is_no_opus_is_no_sound_and_no_end() -> None:
    opus = Opus()
    assert opus.decode(b"\xff\xff\xff") == b""
    assert opus.decode(b"") == b""
    assert len(opus.decode(Opus().encode(b"\xff" * FRAME))) == FRAME
