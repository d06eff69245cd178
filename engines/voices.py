"""Which voice is meant: ids, languages and variants of the voices that an engine announced."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping

from engines.engine import DEFAULT_VOICE, UnknownVoice, UnsuitableUtterance, Voice
from engines.wire import Hello

__all__ = ["Catalogue"]


class Catalogue:
    """The voices of one engine. Ids compare without regard to case."""

    def __init__(self, hello: Hello, *, default: str = "") -> None:
        """`default` is the id that stands behind "default"; "" makes it the first voice. Raises UnknownVoice."""
        self._hello = hello
        voices = [Voice(id=id, name=name, language=language) for id, name, language in hello.voices]
        self._voices = {voice.id.lower(): voice for voice in voices}
        self._variants = {variant.lower(): variant for variant in hello.variants}
        self._languages = {tag.lower(): voice for tag, voice in hello.languages.items()}
        self._default = self._find(default or voices[0].id)

    @property
    def voices(self) -> tuple[Voice, ...]:
        """Every voice, the default one first."""
        first = self._voices[_voice_of(self._default).lower()]
        return (first, *(voice for voice in self._voices.values() if voice is not first))

    def describe(self, name: str) -> Mapping[str, object]:
        """What is to be known of the engine `name` elsewhere: see `Engine.describe`."""
        voices = [dataclasses.asdict(voice) for voice in self.voices]
        return {"name": name, **dataclasses.asdict(self._hello), "voices": voices}

    def resolve(self, voice: str, language: str = "") -> str:
        """The id to speak with: a voice's, or "en-us+f3" for voice "en-us" in variant "f3".

        A language that `voice` does not speak changes the voice and keeps its variant.

        Raises UnknownVoice, naming near ones, and UnsuitableUtterance for a language that no voice speaks.
        """
        found = self._default if voice.lower() == DEFAULT_VOICE else self._find(voice)
        if not language or _speaks(self._voices[_voice_of(found).lower()], language):
            return found
        _, plus, variant = found.partition("+")
        return self._best_for(language) + plus + variant

    def _find(self, name: str) -> str:
        base, plus, variant = name.partition("+")
        known = self._voices.get(base.lower())
        if known is None:
            raise UnknownVoice(f"there is no voice {name!r}{_near(base, self._voices)}")
        if not plus:
            return known.id
        if variant.lower() not in self._variants:
            near = _near(variant, self._variants)
            raise UnknownVoice(f"voice {known.id!r} has no variant {variant!r}{near}")
        return f"{known.id}+{self._variants[variant.lower()]}"

    def _best_for(self, language: str) -> str:
        # RFC 4647 section 3.4, lookup: drop subtags from the right until something matches.
        tag = language.lower()
        while tag:
            if tag in self._languages:
                return self._languages[tag]
            tag = tag.rpartition("-")[0]
        raise UnsuitableUtterance(f"no voice speaks the language {language!r}{_near(language, self._languages)}")


def _voice_of(name: str) -> str:
    return name.partition("+")[0]


def _speaks(voice: Voice, language: str) -> bool:
    # RFC 4647 section 3.3.1, basic filtering: "en" matches "en" and "en-gb", but not the other way round.
    return f"{voice.language}-".lower().startswith(f"{language}-".lower())


def _near(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(near)}?" if near else ""
