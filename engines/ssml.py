"""SSML made safe: a document is parsed, checked and written anew, and only what was written anew reaches an engine.

espeak-ng reads SSML with a scanner that differs from an XML parser in dangerous and in merely annoying ways: it opens
the files that <audio> names, keeps nested voices in an unchecked array of 20, ends a comment or a quoted attribute at
the first ">", skips CDATA, reads "1.5s" as 1 ms. What `rewrite` returns is in the part of the language on which both
agree. Of <sub>, the alias is spoken; of <phoneme> and <audio>, the text inside.

Sources: W3C SSML 1.1; espeak-ng 1.52, src/libespeak-ng/ssml.c and readclause.c.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape
from typing import Final
from xml.parsers import expat

from engines.engine import UnsuitableUtterance
from engines.sentences import speakable

__all__ = ["LONGEST_BREAK_S", "at_marks", "rewrite"]

LONGEST_BREAK_S: Final = 60
"""The longest pause that one <break> may ask for."""

LONGEST_SILENCE_S: Final = 600
"""All pauses of a document together."""

LONGEST_MARK: Final = 64
"""Characters of a mark's name; the rest is left out."""

DEEPEST: Final = 16
"""Elements may be nested so deep."""

_ATTRIBUTES: Final[Mapping[str, frozenset[str]]] = {
    "speak": frozenset({"xml:lang"}),
    "p": frozenset({"xml:lang"}),
    "s": frozenset({"xml:lang"}),
    "voice": frozenset({"name", "xml:lang", "gender", "age", "variant"}),
    "prosody": frozenset({"rate", "volume", "pitch", "range"}),
    "emphasis": frozenset({"level"}),
    "break": frozenset({"strength", "time"}),
    "say-as": frozenset({"interpret-as", "format", "detail"}),
}
"""Elements that an engine sees, with their attributes; of any other element it sees the text."""

_SILENT: Final = frozenset({"metadata", "meta", "lexicon", "lookup", "desc"})
"""Elements whose text is not for speaking."""

_VALUE: Final = re.compile(r"[^<>\"&\\=\[\]]{0,100}")
_BLANKS: Final = re.compile(r" {2,}")
_TIME: Final = re.compile(r"\s*\+?(\d{1,7}(?:\.\d*)?|\.\d+)(ms|s)\s*")


def rewrite(document: str) -> str:
    """The document in the words that every engine understands.

    Raises UnsuitableUtterance when it is not well-formed XML, has a document type or entities of its own, its root is
    not <speak>, it is nested too deep, pauses too long, or says nothing.
    """
    (_, text), *_ = _written(document, cuts=False).parts()
    return text


def at_marks(document: str) -> list[tuple[tuple[str, ...], str]]:
    """The document, cut at each <mark>: the names of the marks that a part begins with, and the part as by `rewrite`.

    A part is spoken as it would be in its place, but that a <p> or <s> with a mark in it is two. Where there is nothing
    to say between marks, they are at the same place, before whatever pause there is; the part that only marks are in at
    the end is "". Raises what `rewrite` raises.
    """
    return _written(document, cuts=True).parts()


def _written(document: str, *, cuts: bool) -> _Scribe:
    scribe = _Scribe(cuts=cuts)
    try:
        scribe.parser.Parse(document.encode("utf-8", "replace"), True)
    except expat.ExpatError as error:
        cause = expat.errors.messages[error.code]
        raise UnsuitableUtterance(
            f"the SSML is not well-formed XML: {cause} in line {error.lineno}, column {error.offset + 1}"
        ) from error
    if not scribe.speaks:
        raise UnsuitableUtterance("the SSML document contains nothing to say")
    return scribe


class _Scribe:
    """Writes down what the parser reads; `cuts`: in parts, at the marks that there is something to say between."""

    def __init__(self, *, cuts: bool) -> None:
        self.speaks = False
        self._cuts = cuts
        self._parts: list[tuple[tuple[str, ...], str]] = []
        self._marks: list[str] = []  # that the part at hand begins with
        self._written: list[str] = []
        self._spoken = False  # something is, in the part at hand
        self._open: list[tuple[str, str]] = []  # what opens and closes each open element
        self._unspoken = 0  # depth within an element whose text is not spoken
        self._silence_ms = 0.0
        self.parser = expat.ParserCreate("utf-8")
        self.parser.buffer_text = True
        self.parser.StartDoctypeDeclHandler = self._refuse_doctype
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text

    def parts(self) -> list[tuple[tuple[str, ...], str]]:
        """What was written, with the marks that it begins with."""
        if self._spoken:
            self._finish_part()
        elif self._marks:
            self._parts.append((tuple(self._marks), ""))
        return self._parts

    def _finish_part(self) -> None:
        closing = (closes for _, closes in reversed(self._open))
        text = _BLANKS.sub(" ", "".join((*self._written, *closing)))
        self._parts.append((tuple(self._marks), text))
        self._marks, self._written, self._spoken = [], [opens for opens, _ in self._open], False

    def _mark(self, name: str) -> None:
        if self._spoken:
            self._finish_part()
        self._marks.append(name[:LONGEST_MARK])

    def _refuse_doctype(self, *_declaration: object) -> None:
        # Entities may be declared in a document type only: without one there is no expansion to be afraid of.
        raise UnsuitableUtterance("remove the <!DOCTYPE ...> from the SSML: document types and entities are refused")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if not self._open and name != "speak":
            raise UnsuitableUtterance(f"the SSML document's root element is <{name}>; it is to be <speak>")
        if len(self._open) == DEEPEST:
            raise UnsuitableUtterance(f"the SSML is nested deeper than {DEEPEST} elements")
        if name in _ATTRIBUTES and not self._unspoken:
            opens = f"<{name}{''.join(self._attribute(name, *pair) for pair in attributes.items())}>"
            self._written.append(opens)
            self._open.append((opens, f"</{name}>"))
            return
        if self._cuts and name == "mark" and attributes.get("name") and not self._unspoken:
            self._mark(attributes["name"])
        # The tag goes, but what stood apart stays apart.
        self._written.append(" ")
        self._open.append((" ", " "))
        if name == "sub" and "alias" in attributes:
            self._text(attributes["alias"])
            self._unspoken += 1
        elif self._unspoken or name in _SILENT:
            self._unspoken += 1

    def _end(self, _name: str) -> None:
        self._written.append(self._open.pop()[1])
        self._unspoken = max(0, self._unspoken - 1)

    def _text(self, text: str) -> None:
        if not self._unspoken:
            self._spoken = self._spoken or speakable(text)
            self.speaks = self.speaks or self._spoken
            self._written.append(escape(text, quote=False))

    def _attribute(self, element: str, name: str, value: str) -> str:
        if name not in _ATTRIBUTES[element]:
            return ""
        if not _VALUE.fullmatch(value):
            raise UnsuitableUtterance(f'<{element} {name}="{value[:40]}">: not a value that can be used')
        if name == "time":
            value = self._pause(value)
        return f' {name}="{value}"'

    def _pause(self, time: str) -> str:
        parsed = _TIME.fullmatch(time)
        if parsed is None:
            raise UnsuitableUtterance(f'<break time="{time}">: write a time such as "500ms" or "1.5s"')
        ms = float(parsed[1]) * (1000 if parsed[2] == "s" else 1)
        self._silence_ms += ms
        if ms > LONGEST_BREAK_S * 1000 or self._silence_ms > LONGEST_SILENCE_S * 1000:
            raise UnsuitableUtterance(
                f"a <break> may last {LONGEST_BREAK_S} s, all of a document together {LONGEST_SILENCE_S} s"
            )
        return f"{ms:.0f}ms"
