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
from typing import Final
from xml.parsers import expat
from xml.sax.saxutils import escape

from engines.engine import UnsuitableUtterance
from engines.sentences import speakable

__all__ = ["LONGEST_BREAK_S", "rewrite"]

LONGEST_BREAK_S: Final = 60
"""The longest pause that one <break> may ask for."""

LONGEST_SILENCE_S: Final = 600
"""All pauses of a document together."""

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
    scribe = _Scribe()
    try:
        scribe.parser.Parse(document.encode("utf-8", "replace"), True)
    except expat.ExpatError as error:
        cause = expat.errors.messages[error.code]
        raise UnsuitableUtterance(
            f"the SSML is not well-formed XML: {cause} in line {error.lineno}, column {error.offset + 1}"
        ) from error
    if not scribe.speaks:
        raise UnsuitableUtterance("the SSML document contains nothing to say")
    return _BLANKS.sub(" ", "".join(scribe.written))


class _Scribe:
    """Writes down what the parser reads."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.speaks = False
        self._open: list[str] = []  # what closes each open element
        self._unspoken = 0  # depth within an element whose text is not spoken
        self._silence_ms = 0.0
        self.parser = expat.ParserCreate("utf-8")
        self.parser.buffer_text = True
        self.parser.StartDoctypeDeclHandler = self._refuse_doctype
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text

    def _refuse_doctype(self, *_declaration: object) -> None:
        # Entities may be declared in a document type only: without one there is no expansion to be afraid of.
        raise UnsuitableUtterance("remove the <!DOCTYPE ...> from the SSML: document types and entities are refused")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if not self._open and name != "speak":
            raise UnsuitableUtterance(f"the SSML document's root element is <{name}>; it is to be <speak>")
        if len(self._open) == DEEPEST:
            raise UnsuitableUtterance(f"the SSML is nested deeper than {DEEPEST} elements")
        if name in _ATTRIBUTES and not self._unspoken:
            self.written.append(f"<{name}{''.join(self._attribute(name, *pair) for pair in attributes.items())}>")
            self._open.append(f"</{name}>")
            return
        # The tag goes, but what stood apart stays apart.
        self.written.append(" ")
        self._open.append(" ")
        if name == "sub" and "alias" in attributes:
            self._text(attributes["alias"])
            self._unspoken += 1
        elif self._unspoken or name in _SILENT:
            self._unspoken += 1

    def _end(self, _name: str) -> None:
        self.written.append(self._open.pop())
        self._unspoken = max(0, self._unspoken - 1)

    def _text(self, text: str) -> None:
        if not self._unspoken:
            self.speaks = self.speaks or speakable(text)
            self.written.append(escape(text))

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
