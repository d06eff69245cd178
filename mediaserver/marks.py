"""Marks in what is said: what is said between them, and when speech has come to one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import engines
import rtp
from mediaserver.passage import Mark
from mediaserver.talkspurt import Talkspurt

__all__ = ["Marks", "Segment", "segments"]

# While nothing is sent, as in a pause, it is looked for so often whether something was.
IDLE_S = 0.1
SLOT_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """What is said in one go.

    marks    that it begins with
    content  None: nothing; the marks are those of the end
    """

    marks: tuple[str, ...]
    content: engines.Utterance | rtp.Clip | Talkspurt | None


def segments(content: engines.Utterance | rtp.Clip | Talkspurt, marks: Sequence[Mark] = ()) -> Iterator[Segment]:
    """What is said between the marks: `marks` of a text, or those of an SSML document (W3C SSML 1.1 section 3.3.2).

    Each is synthesised by itself, so that the place of a mark in the audio is known to the sample, whatever the engine.
    """
    if not isinstance(content, engines.Utterance):
        yield Segment(marks=(), content=content)
        return
    parts = engines.at_marks(content.text) if content.ssml else _cut(content.text, marks)
    said = sum(bool(text) for _, text in parts)
    for number, (names, text) in enumerate(parts, 1):
        if not text:
            yield Segment(marks=names, content=None)
        elif said == 1:
            yield Segment(marks=names, content=content)
        else:
            continues = number < said or content.continues
            yield Segment(marks=names, content=replace(content, text=text, continues=continues))


def _cut(text: str, marks: Sequence[Mark]) -> list[tuple[tuple[str, ...], str]]:
    """As engines.at_marks. What cannot be spoken alone, such as a full stop, goes with what follows it."""
    parts: list[tuple[list[str], str]] = [([], "")]
    for position, piece in _pieces(text, marks):
        names = [mark.name for mark in marks if mark.at == position]
        before, said = parts[-1]
        if names and engines.speakable(said):
            parts.append((names, piece))
        else:
            parts[-1] = ([*before, *names], said + piece)
    names, said = parts[-1]
    if len(parts) > 1 and not engines.speakable(said):
        before, last = parts[-2]
        parts[-2:] = [(before, last + said), (names, "")]
    return [(tuple(names), said) for names, said in parts]


def _pieces(text: str, marks: Sequence[Mark]) -> Iterator[tuple[int, str]]:
    places = sorted({0, *(min(mark.at, len(text)) for mark in marks)})
    for start, end in zip(places, [*places[1:], len(text)], strict=True):
        yield start, text[start:end]


class Marks:
    """The marks of one passage, each told when the audio behind it is being sent, and the last ones at its end.

    heard_ms  tells how much of the passage has been sent
    reached   gets the name of each
    """

    def __init__(self, heard_ms: Callable[[], int], reached: Callable[[str], None]) -> None:
        self._heard_ms = heard_ms
        self._reached = reached
        self._ahead: deque[tuple[int, str]] = deque()
        self._before_ms = -1
        self._started = False
        self._timer: asyncio.TimerHandle | None = None

    def expect(self, at_ms: int, names: Sequence[str]) -> None:
        """They lie behind so much of the passage; what is expected later does not lie before."""
        self._ahead.extend((at_ms, name) for name in names)
        if self._started and self._timer is None:
            self._look()

    def start(self) -> None:
        """The passage is heard from now on."""
        self._started = True
        self._look()

    def close(self, *, complete: bool) -> None:
        """No more of it is sent; `complete`: it was said to its end."""
        if self._timer is not None:
            self._timer.cancel()
        self._started = False
        self._tell(self._heard_ms() + complete)

    def _look(self) -> None:
        heard_ms, self._timer = self._heard_ms(), None
        self._tell(heard_ms)
        if self._ahead:
            waits_s = IDLE_S if heard_ms == self._before_ms else max(SLOT_S, (self._ahead[0][0] - heard_ms) / 1000)
            self._timer = asyncio.get_running_loop().call_later(waits_s, self._look)
        self._before_ms = heard_ms

    def _tell(self, until_ms: int) -> None:
        while self._ahead and self._ahead[0][0] < until_ms:
            self._reached(self._ahead.popleft()[1])
