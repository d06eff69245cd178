"""Text to pieces that are spoken one after another.

An engine that had the whole text at once would start late and hold its worker for long. So a text is cut where a
speaker would pause. The first piece ends at the first clause end, so that speech starts early; the others are
sentences, or a few short ones together. Joined, the pieces are the normalised text, character by character, and none
is longer than `LONGEST`.

    >>> list(split("Good morning, this is the practice of Dr. Smith. Your appointment is tomorrow at 10:30, isn't it?"))
    ['Good morning, this is the practice of Dr. Smith. ', "Your appointment is tomorrow at 10:30, isn't it?"]

The cuts lie where espeak-ng ends a clause too, so that its pauses are the same with and without them.
"""

from __future__ import annotations

import enum
import math
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["LONGEST", "TAG", "UNCUT", "Arriving", "even", "normalise", "speakable", "split"]

LONGEST = 250
"""No piece has more characters than this."""

UNCUT = 80
"""A text of at most so many characters stays whole."""

SHORTEST = 20
"""A shorter sentence goes with the next one: alone it would sound clipped."""

MOST_UNSPEAKABLE = 1000
"""So many characters without a word may come ahead of one; more of them are refused when they are to be said."""

TAG = re.compile(r"\[[^\W\d][\w.' -]*\]")
"""A word in brackets, which some engines take for something to do: "[laugh]"."""

_LINE_ENDS = re.compile(r"\r\n?|[\v\f\x1c-\x1e\x85\u2028]")
_PARAGRAPH_ENDS = re.compile(r"\u2029")
# Controls (espeak-ng reads U+0001 and U+0002 as commands), surrogates, private use, noncharacters, direction marks.
_UNSPEAKABLE = re.compile(
    r"[\x00-\x08\x0e-\x1b\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\uf8ff\ufdd0-\ufdef\ufeff\ufff9-\uffff]"
    r"|[\U0001fffe\U0001ffff\U000f0000-\U0010ffff]"
)
_BLANKS = re.compile(r"[ \t]+")
_LINE_MARGINS = re.compile(r" ?\n ?")
_EMPTY_LINES = re.compile(r"\n{3,}")

# Punctuation that is read out: "50 %", "&", "@".
_READ_OUT = frozenset("%&@#*/\\")

# An end of a sentence or clause is followed by white space, in CJK text by anything.
_END = re.compile(
    r"""
      (?P<paragraph> \s*\n\s*\n\s* )
    | (?P<sentence>  [.!?\u2026\u203d\u061f\u06d4\u0964\u0965]+ ["'\u201d\u2019)\]\u00bb]* \s+
                   | [\u3002\uff01\uff1f\uff61]+ [\u300d\u300f\u201d\u2019\uff09\u3011]* \s* )
    | (?P<clause>    [,;:\u060c\u061b\u2013\u2014]+ ["'\u201d\u2019)\]\u00bb]* \s+
                   | [\u3001\uff0c\uff1b\uff1a]+ [\u300d\u300f\u201d\u2019\uff09\u3011]* \s* )
    | (?P<word>      \s+ )
    """,
    re.VERBOSE,
)

# "J.", "U.S.", "e.g.", "p.m.": a full stop after single letters ends no sentence, nor after an ordinal ("3. Oktober").
_INITIALS_OR_ORDINAL = re.compile(r"(?:\w\.)*\w|\d\d")
_ABBREVIATION = re.compile(
    r"adm|approx|apt|art|assoc|ave|bros|bzw|ca|capt|cf|co|col|corp|dept|dipl|dr|ed|est|etc|ext"
    r"|fig|fr|gen|gov|hon|hr|inc|ing|jr|lt|ltd|maj|max|mgr|min|mlle|mme|mr|mrs|ms|mt|no|nos"
    r"|nr|op|pp|prof|rep|rev|sen|sgt|sr|sra|srta|st|str|tel|univ|usw|vgl|vol|vs|zb"
)
_LAST_WORD = re.compile(r"[\w.]*$")


class _Rank(enum.IntEnum):
    WORD = 0
    CLAUSE = 1
    SENTENCE = 2


@dataclass(frozen=True, slots=True)
class _Cut:
    """A place to cut: before the character at `position`."""

    position: int
    rank: _Rank


def normalise(text: str) -> str:
    """The text as it is spoken: no controls, single blanks, at most one empty line in a row, no margins."""
    text = _LINE_ENDS.sub("\n", text)
    text = _PARAGRAPH_ENDS.sub("\n\n", text)
    text = _UNSPEAKABLE.sub(" ", text)
    text = _BLANKS.sub(" ", text)
    text = _LINE_MARGINS.sub("\n", text)
    return _EMPTY_LINES.sub("\n\n", text).strip()


def speakable(text: str) -> bool:
    """Whether there is anything to say: a letter, a digit, or a symbol that has a name."""
    return any(c.isalnum() or c in _READ_OUT or unicodedata.category(c)[0] == "S" for c in text)


def split(text: str, *, enough: int = SHORTEST) -> Iterator[str]:
    """Yield the pieces of `text` in order; lazily, because a long text may be hung up on after its first sentence.

    Sentences are joined until a piece has `enough` characters, and a text of that length stays whole: few for an engine
    that is slow, more for one to which each piece is a cost.
    """
    text = normalise(text)
    if len(text) <= max(UNCUT, enough):
        if text:
            yield text
        return
    start = 0
    while start < len(text):
        end = _end_of_piece(text, start, enough)
        yield text[start:end]
        start = end


def even(text: str) -> Iterator[str]:
    """Yield the pieces of `text` for an engine that wants long ones: at most `LONGEST` characters, and all of about the
    same length, cut where a sentence or at least a clause ends. Longer ones make a neural model lose its way; short
    ones cost it the melody.
    """
    pieces = list(split(text))
    goal = 0.0
    if total := sum(map(len, pieces)):
        goal = total / math.ceil(total / LONGEST)
    part = ""
    for piece in pieces:
        if part and (len(part) + len(piece) > LONGEST or len(part) >= goal):
            yield from _spoken(part)
            part = ""
        part += piece
    yield from _spoken(part)


def _spoken(part: str) -> Iterator[str]:
    if speakable(part):
        yield part


class Arriving:
    """A text that arrives bit by bit, such as a language model's tokens; cut as soon as the end of a piece is certain.

        >>> arriving = Arriving()
        >>> [arriving.feed(token) for token in ("Good morning", " to you,", " Dr.", " Smith. How")]
        [[], [], ['Good morning to you, '], []]
        >>> arriving.flush()
        ['Dr. Smith. How']

    Joined, the pieces are the text as it came. The first one after the beginning or a flush ends with the first clause,
    the others with a sentence, or with a clause where a sentence is long.
    """

    def __init__(self) -> None:
        self._text = ""
        self._begun = False

    def feed(self, text: str) -> list[str]:
        """The pieces that are complete now."""
        self._text += text
        pieces = []
        while end := self._end():
            pieces.append(self._text[:end])
            self._text = self._text[end:]
            self._begun = True
        return pieces

    def flush(self) -> list[str]:
        """What is left, because no more belongs to it. What cannot be spoken alone goes with what comes next."""
        self._begun = False
        if not speakable(self._text):
            return []
        rest, self._text = self._text, ""
        return [rest]

    def _end(self) -> int:
        """Of the first piece; 0 when it cannot be told yet."""
        text = self._text
        if len(text) <= SHORTEST:
            return 0
        cuts = [cut for cut in _cuts(text, 0, LONGEST) if cut.position >= SHORTEST]
        # A piece without a word in it is none, unless it goes on for ever.
        cuts = [cut for cut in cuts if speakable(text[: cut.position])]
        if not cuts and len(text) <= MOST_UNSPEAKABLE and not speakable(text):
            return 0
        clauses = [cut.position for cut in cuts if cut.rank >= _Rank.CLAUSE]
        sentences = [cut.position for cut in cuts if cut.rank is _Rank.SENTENCE]
        if clauses and not self._begun:
            return clauses[0]
        if sentences:
            return sentences[0]
        if clauses and len(text) > UNCUT:
            return clauses[-1]
        if len(text) > LONGEST:
            words = [cut.position for cut in cuts]
            return (words or [_between_characters(text, LONGEST)])[-1]
        return 0


def _end_of_piece(text: str, start: int, enough: int) -> int:
    most = start + LONGEST
    cuts = [cut for cut in _cuts(text, start, most) if cut.position >= start + SHORTEST]
    clauses = [cut.position for cut in cuts if cut.rank >= _Rank.CLAUSE]
    sentences = [cut.position for cut in cuts if cut.rank is _Rank.SENTENCE]
    if start == 0 and clauses:
        end = clauses[0]
    elif sentences:
        end = next((position for position in sentences if position >= start + enough), sentences[-1])
    elif len(text) <= most:
        return len(text)
    else:
        # A sentence without end: cut it as late and as gently as it allows.
        words = [cut.position for cut in cuts]
        end = (clauses or words or [_between_characters(text, most)])[-1]
    return len(text) if len(text) <= most and len(text) - end < SHORTEST else end


def _cuts(text: str, start: int, most: int) -> Iterator[_Cut]:
    for end in _END.finditer(text, start, most):
        position = end.end()
        if position == len(text) or (position == most and text[position].isspace()):
            return
        if end["paragraph"]:
            yield _Cut(position, _Rank.SENTENCE)
        elif end["sentence"]:
            abbreviated = _abbreviates(text, end.start(), position)
            yield _Cut(position, _Rank.WORD if abbreviated else _Rank.SENTENCE)
        else:
            yield _Cut(position, _Rank.CLAUSE if end["clause"] else _Rank.WORD)


def _abbreviates(text: str, stop: int, following: int) -> bool:
    """Whether the full stop at `stop` belongs to the word before it; `following` is where the next word starts."""
    if text[following].islower():
        return True
    if text[stop] != "." or text.startswith("..", stop):
        return False
    before = _LAST_WORD.search(text[max(0, stop - 12) : stop])
    word = before[0].lower() if before else ""
    return bool(_ABBREVIATION.fullmatch(word) or _INITIALS_OR_ORDINAL.fullmatch(word))


def _between_characters(text: str, most: int) -> int:
    """The last place up to `most` that does not part a letter from its combining marks or an emoji from its joiner."""
    end = most
    while end > most - SHORTEST and (
        unicodedata.combining(text[end]) or text[end] in "\u200d\ufe0f" or text[end - 1] == "\u200d"
    ):
        end -= 1
    return end
