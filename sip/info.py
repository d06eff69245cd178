"""Digits in INFO requests, as gateways and PBXs send them where there is no RFC 4733: no standard, but everywhere."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .errors import RemoteProtocolError

__all__ = ["DTMF_TYPES", "Tone", "read_tone"]

_RELAY, _BARE = "application/dtmf-relay", "application/dtmf"
DTMF_TYPES = (_RELAY, _BARE)
_LINE = re.compile(r"\s*([A-Za-z]+)\s*=\s*(\S+)\s*")
# Digits by the event codes of RFC 4733 section 3.2, which some send in their stead; 16 is a hook flash.
_BY_CODE = dict(zip(map(str, range(17)), "0123456789*#ABCD!", strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Tone:
    """A key that was pressed.

    digit        0 to 9, "*", "#", A to D, or "!" for a hook flash
    duration_ms  None if it is not said
    """

    digit: str
    duration_ms: int | None = None


def read_tone(content_type: str, body: bytes) -> Tone:
    """What an INFO with a body of one of DTMF_TYPES says. Raises RemoteProtocolError (400)."""
    text = body.decode("ascii", "replace")
    if content_type == _BARE and "=" not in text:
        return Tone(digit=_digit(text.strip()))
    lines = [match for match in map(_LINE.fullmatch, text.splitlines()) if match]
    values = {match[1].lower(): match[2] for match in lines}
    duration = values.get("duration", "")
    if duration and not (duration.isascii() and duration.isdigit() and len(duration) < 7):
        raise RemoteProtocolError("Bad Duration")
    return Tone(digit=_digit(values.get("signal", "")), duration_ms=int(duration) if duration else None)


def _digit(text: str) -> str:
    if len(text) == 1 and text.upper() in "*#ABCD!":
        return text.upper()
    digit = _BY_CODE.get(text)
    if digit is None:
        # What it was is not quoted: digits may be a PIN.
        raise RemoteProtocolError("Bad Signal")
    return digit
