"""What of a text has become sound: positions in the text, positions in the audio, and the way from one to the other.

Both are counted from the beginning of a talk and never start again: characters (Unicode code points) as they were
received, samples as they were sent. Where a passage is complete, a position within it is found by proportion; where it
is still being made, by how long its characters took so far in this talk.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Passage", "Transcript"]

TYPICAL_CHARACTER_S = 0.065
"""Until something was said, a character is taken to last so long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """A piece of the text that is said in one go.

    start      of its first character
    continues  more of the same will be said after it
    """

    start: int
    text: str
    continues: bool

    @property
    def end(self) -> int:
        return self.start + len(self.text)


@dataclass(slots=True)
class _Said:
    passage: Passage
    start: int
    end: int
    complete: bool = False


class Transcript:
    """The passages that were said, and which samples they are."""

    def __init__(self, *, rate_hz: int, speed: float = 1.0) -> None:
        self._rate_hz = rate_hz
        self._typical = TYPICAL_CHARACTER_S * rate_hz / speed
        self._said: list[_Said] = []
        self.samples = 0

    @property
    def audio_ms(self) -> float:
        """How much was sent."""
        return round(self.samples * 1000 / self._rate_hz, 3)

    def begin(self, passage: Passage) -> None:
        """What is sent from now on says `passage`."""
        self._said.append(_Said(passage, self.samples, self.samples))

    def sent(self, samples: int) -> None:
        self.samples += samples
        self._said[-1].end = self.samples

    def finish(self) -> None:
        """The passage was said to its end."""
        self._said[-1].complete = True

    def spoken(self, at_ms: float | None = None) -> int:
        """The position that speech has come to in the text when the audio is heard up to `at_ms`; None: up to its end.

        A word counts when it was spoken as a whole.
        """
        at = self.samples if at_ms is None else min(self.samples, round(at_ms * self._rate_hz / 1000))
        reached = [said for said in self._said if said.start < at]
        if not reached:
            return 0
        said = reached[-1]
        passage = said.passage
        if said.complete and at >= said.end:
            return passage.end
        length = said.end - said.start if said.complete else len(passage.text) * self._samples_per_character()
        characters = min(len(passage.text), int((at - said.start) / max(length, 1.0) * len(passage.text)))
        return passage.start + _whole_words(passage.text, characters)

    def _samples_per_character(self) -> float:
        complete = [said for said in self._said if said.complete]
        characters = sum(len(said.passage.text) for said in complete)
        return sum(said.end - said.start for said in complete) / characters if characters else self._typical


def _whole_words(text: str, characters: int) -> int:
    """So many `characters` of `text`, less those of a word that goes on behind them."""
    while 0 < characters < len(text) and not (text[characters - 1].isspace() or text[characters].isspace()):
        characters -= 1
    return characters
