"""Digits in INFO requests."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sip import RemoteProtocolError
from sip.info import Tone, read_tone

RELAY, BARE = "application/dtmf-relay", "application/dtmf"


@pytest.mark.parametrize(
    ("content_type", "body", "tone"),
    [
        (RELAY, b"Signal=5\r\nDuration=160\r\n", Tone(digit="5", duration_ms=160)),
        (RELAY, b"Signal=5\r\nDuration=160", Tone(digit="5", duration_ms=160)),
        (RELAY, b"signal= *\nduration= 250\n", Tone(digit="*", duration_ms=250)),
        (RELAY, b"Duration=100\r\nSignal=#\r\n", Tone(digit="#", duration_ms=100)),
        (RELAY, b"Signal=d\r\n", Tone(digit="D")),
        (RELAY, b"Signal=10\r\n", Tone(digit="*")),
        (RELAY, b"Signal=16\r\n", Tone(digit="!")),
        (BARE, b"7", Tone(digit="7")),
        (BARE, b" 11\r\n", Tone(digit="#")),
        (BARE, b"Signal=1\r\nDuration=90", Tone(digit="1", duration_ms=90)),
    ],
)
def test_a_digit_is_read(content_type: str, body: bytes, tone: Tone) -> None:
    assert read_tone(content_type, body) == tone


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (RELAY, b""),
        (RELAY, b"5"),
        (RELAY, b"Signal=\r\nDuration=160"),
        (RELAY, b"Signal=17"),
        (RELAY, b"Signal=5\r\nDuration=-1"),
        (RELAY, b"Signal=5\r\nDuration=1234567"),
        (RELAY, b"Signal=\xff"),
        (BARE, b""),
        (BARE, b"E"),
        (BARE, b"1234"),
    ],
)
def test_what_is_no_digit_is_refused_without_a_word_of_it(content_type: str, body: bytes) -> None:
    with pytest.raises(RemoteProtocolError) as error:
        read_tone(content_type, body)
    assert error.value.status == 400
    assert error.value.reason in ("Bad Signal", "Bad Duration")


@given(st.sampled_from([RELAY, BARE]), st.binary(max_size=40))
def test_whatever_comes_is_one_digit_or_refused(content_type: str, body: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError):
        assert read_tone(content_type, body).digit in "0123456789*#ABCD!"
