"""espeak-ng through ctypes.

The library is GPL-3.0: it is loaded by `Espeak()`, which only a worker process calls, never the host. It has global
state and speaks one text at a time. Its output depends on that state (pitch flutter, wave phase, noise), therefore each
piece is to be spoken by a fresh copy of the process: see worker.py.

Sources: espeak-ng 1.52, src/include/espeak-ng/speak_lib.h.
"""

from __future__ import annotations

import base64
import ctypes
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import espeakng_loader

from engines.profile import KIND, VoiceProfile
from engines.wire import Hello, Speak

__all__ = ["Espeak", "EspeakError", "Settings", "settings_of"]

BLOCK_MS: Final = 60
"""The library hands over so much audio at a time."""

PIECE_CHARACTERS: Final = 150
"""Sentences are joined up to about this length: 10 s of speech, 10 ms of work."""

_OUTPUT_SYNCHRONOUS: Final = 2
_INITIALIZE_DONT_EXIT: Final = 0x8000
_CHARS_UTF8: Final = 1
_SSML: Final = 0x10
_ENDPAUSE: Final = 0x1000
_RATE, _PITCH, _RANGE = 1, 3, 4
_SLOWEST_WPM, _FASTEST_WPM = 80, 450
_MOST: Final = 99
"""Of pitch and range."""
_SPOKEN_INSTEAD: Final = 1

_SynthCallback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
_UriCallback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p)


class EspeakError(Exception):
    """The library refused a call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a voice speaks at speed 1.

    words_per_minute  80 to 450
    pitch             base pitch, 0 to 99; 50 is the voice's own
    pitch_range       liveliness, 0 (monotone) to 99; 50 is the voice's own
    """

    words_per_minute: int = 175
    pitch: int = 50
    pitch_range: int = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class _Timbre:
    """What a variant does with the library's parameters, in figures of prosody.py.

    Median pitch is about lift_hz + base_hz * 2 ** ((pitch - 50) / 50) + sway_hz * (pitch_range - 50), and its range is
    range_hz * pitch_range.
    """

    variant: str
    lift_hz: float
    base_hz: float
    sway_hz: float
    range_hz: float


# Measured with voice en-us over texts of 18 s; pitch and range are the same in most of the library's voices.
_LOW: Final = _Timbre(variant="", lift_hz=33, base_hz=65, sway_hz=0.2, range_hz=0.62)
_HIGH: Final = _Timbre(variant="f2", lift_hz=54, base_hz=134, sway_hz=0.36, range_hz=1.28)
_HIGH_FROM_HZ: Final = 150.0
"""The library's own timbre reaches 165 Hz, and sounds like a man's."""

# Syllables in a second, as prosody.py counts them, are about 1.2 + 0.0175 * words per minute.
_LEAST_SYLLABLES, _SYLLABLES_PER_WPM = 1.2, 0.0175
_SLOWEST_SPEAKER_WPM, _FASTEST_SPEAKER_WPM = 100, 300


def settings_of(profile: VoiceProfile) -> tuple[Settings, str]:
    """The parameters that come nearest to a speaker, and the variant that goes with them ("" for the voice's own)."""
    timbre = _HIGH if profile.median_f0_hz >= _HIGH_FROM_HZ else _LOW
    pitch_range = min(max(round(profile.range_hz / timbre.range_hz), 0), _MOST)
    base_hz = profile.median_f0_hz - timbre.lift_hz - timbre.sway_hz * (pitch_range - 50)
    pitch = 50 + 50 * math.log2(max(base_hz, 1.0) / timbre.base_hz)
    words_per_minute = (profile.syllables_per_s - _LEAST_SYLLABLES) / _SYLLABLES_PER_WPM
    settings = Settings(
        words_per_minute=round(min(max(words_per_minute, _SLOWEST_SPEAKER_WPM), _FASTEST_SPEAKER_WPM)),
        pitch=min(max(round(pitch), 0), _MOST),
        pitch_range=pitch_range,
    )
    return settings, timbre.variant


class _Voice(ctypes.Structure):
    """espeak_VOICE."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("languages", ctypes.c_void_p),
        ("identifier", ctypes.c_char_p),
        ("gender", ctypes.c_ubyte),
        ("age", ctypes.c_ubyte),
        ("variant", ctypes.c_ubyte),
        ("xx1", ctypes.c_ubyte),
        ("score", ctypes.c_int),
        ("spare", ctypes.c_void_p),
    )


@dataclass(frozen=True, slots=True)
class _Listed:
    """A voice file: its id, its path among the voice files, and (BCP 47 tag, priority; low is better) pairs."""

    id: str
    name: str
    path: str
    languages: tuple[tuple[str, int], ...]


class Espeak:
    """The library, loaded and ready. One per process; not for threads."""

    def __init__(self, settings: Settings) -> None:
        """Raises EspeakError when the library or its data cannot be loaded."""
        self._settings = settings
        try:
            self._library = ctypes.CDLL(espeakng_loader.get_library_path())
            data = espeakng_loader.get_data_path()
        except (OSError, RuntimeError) as error:
            raise EspeakError(f"espeak-ng does not load: {error}") from error
        self._library.espeak_Info.restype = ctypes.c_char_p
        self._library.espeak_ListVoices.restype = ctypes.POINTER(ctypes.POINTER(_Voice))
        self._rate_hz: int = self._library.espeak_Initialize(
            _OUTPUT_SYNCHRONOUS, BLOCK_MS, data.encode(), _INITIALIZE_DONT_EXIT
        )
        if self._rate_hz <= 0:
            raise EspeakError(f"espeak-ng found no data in {data}")
        # Without this callback, <audio src="..."> opens any file that the process may read.
        self._never_play = _UriCallback(lambda _kind, _uri, _base: _SPOKEN_INSTEAD)
        self._library.espeak_SetUriCallback(self._never_play)
        self._voices = {voice.id: voice for voice in self._list(None) if _has_dictionary(Path(data), voice)}

    def hello(self) -> Hello:
        best: dict[str, tuple[int, str]] = {}
        for voice in self._voices.values():
            for tag, priority in voice.languages:
                best[tag] = min(best.get(tag, (priority, voice.id)), (priority, voice.id))
        variants = _Voice(languages=ctypes.cast(ctypes.c_char_p(b"variant"), ctypes.c_void_p))
        return Hello(
            version=f"espeak-ng {self._library.espeak_Info(None).decode()}",
            concurrency=1,
            ssml=True,
            source_rate_hz=self._rate_hz,
            piece_characters=PIECE_CHARACTERS,
            voices=tuple((voice.id, voice.name, voice.languages[0][0]) for voice in self._voices.values()),
            variants=tuple(sorted(variant.path.removeprefix("!v/") for variant in self._list(variants))),
            languages={tag: voice for tag, (_, voice) in sorted(best.items())},
            embedding_kind=KIND,
            speeds=(_SLOWEST_WPM / self._settings.words_per_minute, _FASTEST_WPM / self._settings.words_per_minute),
            enrolled_speeds=(_SLOWEST_WPM / _SLOWEST_SPEAKER_WPM, _FASTEST_WPM / _FASTEST_SPEAKER_WPM),
        )

    def rehearsal(self) -> Speak | None:
        """The commonest voice, so that most copies need not load another."""
        return Speak(id=0, text="Hello.", ssml=False, voice="en-us", speed=1.0, rate_hz=8000, last=True)

    def speak(self, piece: Speak, emit: Callable[[bytes], None]) -> None:
        """Speak, handing samples to `emit` as they are made. Raises EspeakError."""
        base, _, variant = piece.voice.partition("+")
        settings = self._settings
        if piece.embedding:
            settings, timbre = settings_of(VoiceProfile.parse(base64.b64decode(piece.embedding)))
            variant = variant or timbre
        self._set_voice(self._voices[base].path + ("+" + variant if variant else ""))
        words_per_minute = round(settings.words_per_minute * piece.speed)
        self._library.espeak_SetParameter(_RATE, min(max(words_per_minute, _SLOWEST_WPM), _FASTEST_WPM), 0)
        self._library.espeak_SetParameter(_PITCH, settings.pitch, 0)
        self._library.espeak_SetParameter(_RANGE, settings.pitch_range, 0)
        pause = _ENDPAUSE if not piece.last and _calls_for_a_pause(piece.text) else 0
        self._synthesize(piece.text, pause | (_SSML if piece.ssml else 0), emit)

    def _synthesize(self, text: str, flags: int, emit: Callable[[bytes], None]) -> None:
        broken: list[BaseException] = []

        def on_samples(address: int | None, count: int, _events: int | None) -> int:
            try:
                if address and count:
                    emit(ctypes.string_at(address, count * 2))
            except BaseException as error:  # It cannot travel through the library; it is raised below.
                broken.append(error)
                return 1
            return 0

        callback = _SynthCallback(on_samples)
        self._library.espeak_SetSynthCallback(callback)
        encoded = text.encode()
        result = self._library.espeak_Synth(
            encoded, ctypes.c_size_t(len(encoded) + 1), 0, 1, 0, _CHARS_UTF8 | flags, None, None
        )
        if broken:
            raise broken[0]
        if result != 0:
            raise EspeakError(f"espeak-ng refused to speak (error {result})")

    def _set_voice(self, name: str) -> None:
        if self._library.espeak_SetVoiceByName(name.encode()) != 0:
            raise EspeakError(f"espeak-ng does not load the voice {name!r}")

    def _list(self, wanted: _Voice | None) -> Iterator[_Listed]:
        found = self._library.espeak_ListVoices(ctypes.byref(wanted) if wanted else None)
        index = 0
        while found[index]:
            voice = found[index].contents
            path = voice.identifier.decode()
            yield _Listed(
                id=path.rpartition("/")[2].lower(),
                name=voice.name.decode().strip(),
                path=path,
                languages=tuple(_languages(voice.languages)),
            )
            index += 1


def _has_dictionary(data: Path, voice: _Listed) -> bool:
    """Whether the dictionary that the voice's file asks for was shipped; a voice without it only spells."""
    name = voice.languages[0][0].partition("-")[0]
    for line in (data / "lang" / voice.path).read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("dictionary"):
            name = line.split()[1]
    return (data / f"{name}_dict").exists()


def _calls_for_a_pause(text: str) -> bool:
    """Whether a piece ends with punctuation or a paragraph, and not between two words."""
    return text.endswith("\n\n") or not text.rstrip()[-1:].isalnum()


def _languages(address: int) -> Iterator[tuple[str, int]]:
    """A list of (priority byte, zero-terminated tag), ended by a zero byte."""
    while priority := ctypes.string_at(address, 1)[0]:
        tag = ctypes.string_at(address + 1)
        yield tag.decode(), priority
        address += len(tag) + 2
