"""Packets between host and worker."""

from __future__ import annotations

import contextlib
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.wire import (
    MOST_BYTES,
    PACKET_SIZE,
    Backlog,
    Cancel,
    Chunk,
    Done,
    Failed,
    Hello,
    Joiner,
    Load,
    Message,
    Ping,
    Pong,
    Refused,
    Speak,
    Stopped,
    WireError,
    decode,
    encode,
    packets,
)
from tests.engines_support import piece

_IDS = st.integers(0, 2**32 - 1)
_TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
_MESSAGES = st.one_of(
    st.builds(
        Hello,
        version=_TEXTS,
        concurrency=st.integers(1, 64),
        ssml=st.booleans(),
        source_rate_hz=st.integers(0, 48000),
        piece_characters=st.integers(1, 250),
        voices=st.lists(st.tuples(_TEXTS, _TEXTS, _TEXTS), max_size=4).map(tuple),
        variants=st.lists(_TEXTS, max_size=4).map(tuple),
        languages=st.dictionaries(_TEXTS, _TEXTS, max_size=4),
        tags=st.none() | st.lists(_TEXTS, max_size=4).map(tuple),
        queues=st.booleans(),
    ),
    st.builds(
        Speak,
        id=_IDS,
        text=_TEXTS,
        ssml=st.booleans(),
        voice=_TEXTS,
        speed=st.floats(0.5, 2.0),
        rate_hz=st.sampled_from([8000, 16000, 24000]),
        last=st.booleans(),
        attempt=st.integers(0, 2),
        skip_bytes=st.integers(0, 2**40),
        seed=st.none() | st.integers(0, 2**32 - 1),
    ),
    st.builds(Chunk, id=_IDS, samples=st.binary(max_size=4000)),
    st.builds(Done, id=_IDS),
    st.builds(Stopped, id=_IDS),
    st.builds(Failed, id=_IDS, message=_TEXTS),
    st.builds(Refused, id=_IDS, message=_TEXTS),
    st.builds(Backlog, id=_IDS, ms=st.integers(0, 2**31)),
    st.builds(Load, memory_bytes=st.integers(0, 2**40), streams=_IDS, late=_IDS, broken=_IDS),
    st.builds(Cancel, id=_IDS),
    st.builds(Ping),
    st.builds(Pong),
)


@given(_MESSAGES)
def test_decode_undoes_encode(message: Message) -> None:
    assert decode(encode(message)) == message


def test_a_chunk_is_its_header_and_its_samples() -> None:
    assert encode(Chunk(id=258, samples=b"\x01\x02")) == b"\x03\x00\x00\x01\x02\x01\x02"


@pytest.mark.parametrize(
    "packet",
    [b"", b"\x02", b"\xff\0\0\0\1", b"\x02\0\0\0\1{}", b"\x01\0\0\0\0[]", b"\x06\0\0\0\1\xff", b"\x04\0\0\0\1{"],
)
def test_what_is_no_message_is_an_error(packet: bytes) -> None:
    with pytest.raises(WireError, match="not a message"):
        decode(packet)


@given(st.binary(max_size=100))
def test_no_packet_whatever_raises_anything_else(packet: bytes) -> None:
    with contextlib.suppress(WireError):
        assert isinstance(decode(packet), Message)


def test_a_message_too_long_for_a_packet_is_refused() -> None:
    with pytest.raises(WireError, match="does not fit"):
        encode(piece("x" * PACKET_SIZE))


def test_the_longest_packet_travels_whole() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        packet = encode(Chunk(id=1, samples=bytes(PACKET_SIZE - 5)))
        assert ours.send(packet) == PACKET_SIZE
        assert theirs.recv(PACKET_SIZE) == packet


def test_a_message_that_is_too_long_for_a_packet_comes_in_several_and_is_joined() -> None:
    long = piece("Hello.", id=7, embedding="A" * 300_000)
    other = piece("Hello.", id=8, embedding="B" * 200_000)
    first, second, third = packets(long)
    assert len(first) == len(second) == PACKET_SIZE > len(third)
    assert (first[0], second[0]) == (0, 0), "kind 0: there is more"
    # Those of two messages may be mixed.
    one, two = packets(other)
    joiner = Joiner()
    assert [joiner.feed(packet) for packet in (first, one, second)] == [None, None, None]
    joined = joiner.feed(two)
    assert joined
    assert decode(joined) == other
    joined = joiner.feed(third)
    assert joined
    assert decode(joined) == long
    assert joiner.feed(encode(Ping())) == encode(Ping())


def test_a_message_that_does_not_end_is_none() -> None:
    joiner = Joiner()
    more = bytes(5) + bytes(MOST_BYTES // 32)
    assert [joiner.feed(more) for _ in range(32)] == [None] * 32
    with pytest.raises(WireError, match="does not end"):
        joiner.feed(more)
    with pytest.raises(WireError, match="too long"):
        packets(piece("a" * 5_000_000))
    with pytest.raises(WireError, match="not a message"):
        joiner.feed(b"abc")
