"""Which voice is meant by an id and a language."""

from __future__ import annotations

import pytest

from engines import UnknownVoice, UnsuitableUtterance
from engines.voices import Catalogue
from engines.wire import Hello

HELLO = Hello(
    version="test 1",
    concurrency=1,
    ssml=True,
    source_rate_hz=0,
    piece_characters=20,
    voices=(
        ("de", "German", "de"),
        ("en", "English (Great Britain)", "en-gb"),
        ("en-us", "English (America)", "en-us"),
        ("pt-br", "Portuguese (Brazil)", "pt-br"),
    ),
    variants=("f3", "Linda"),
    languages={"de": "de", "en": "en", "en-gb": "en", "en-us": "en-us", "pt": "pt-br", "pt-br": "pt-br"},
)


@pytest.mark.parametrize(
    ("voice", "language", "found"),
    [
        ("default", "", "en-us+f3"),
        ("DE", "", "de"),
        ("en-us", "", "en-us"),
        ("de+F3", "", "de+f3"),
        ("de+linda", "", "de+Linda"),
        ("default", "en", "en-us+f3"),  # American English is English
        ("default", "en-US", "en-us+f3"),
        ("default", "en-GB", "en+f3"),
        ("default", "de-AT", "de+f3"),
        ("en", "de", "de"),
        ("de", "pt-PT", "pt-br"),
    ],
)
def test_a_voice_is_found(voice: str, language: str, found: str) -> None:
    assert Catalogue(HELLO, default="en-us+f3").resolve(voice, language) == found


@pytest.mark.parametrize(
    ("voice", "complaint"),
    [
        ("en-uk", "there is no voice 'en-uk'; did you mean en-us or en?"),
        ("xyzzy", "there is no voice 'xyzzy'"),
        ("", "there is no voice ''"),
        ("de+f4", "voice 'de' has no variant 'f4'; did you mean f3?"),
        ("de+../../../etc/passwd", "voice 'de' has no variant"),
        ("de+", "voice 'de' has no variant ''"),
    ],
)
def test_an_unknown_voice_is_refused_and_near_ones_are_named(voice: str, complaint: str) -> None:
    with pytest.raises(UnknownVoice) as refused:
        Catalogue(HELLO).resolve(voice)
    assert str(refused.value).startswith(complaint)


def test_a_language_that_no_voice_speaks_is_refused() -> None:
    with pytest.raises(UnsuitableUtterance, match="no voice speaks the language 'tlh'"):
        Catalogue(HELLO).resolve("default", "tlh")


def test_the_default_voice_comes_first() -> None:
    assert [voice.id for voice in Catalogue(HELLO, default="en-us").voices] == ["en-us", "de", "en", "pt-br"]
    assert Catalogue(HELLO).voices[0].id == "de"


def test_an_unknown_default_voice_is_refused_at_once() -> None:
    with pytest.raises(UnknownVoice):
        Catalogue(HELLO, default="nobody")
