"""What a call is to say, one thing at a time, and how far each of them has come."""

from __future__ import annotations

import asyncio
import enum
import secrets
from collections.abc import Callable
from dataclasses import dataclass

import engines
import rtp
from mediaserver.talkspurt import Talkspurt

__all__ = ["BargeIn", "Item", "Mark", "Passage", "PassageState", "Said"]


class BargeIn(enum.Enum):
    """By what the other side may break in on what is being said (VoiceXML 2.0 section 4.1.5): a key, or its voice."""

    DTMF = "dtmf"
    SPEECH = "speech"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A place in a text that is to be told when it is reached, `at` so many characters from its beginning."""

    name: str
    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One thing to be said.

    repeat       how often, None for ever; delay_ms: silence between two repetitions
    duration_ms  end of it, counted from the start of the media; None: no limit
    barge_in     what ends it early
    marks        of a plain text; an SSML document brings its own
    """

    content: engines.Utterance | rtp.Clip | Talkspurt
    repeat: int | None = 1
    delay_ms: int = 0
    duration_ms: int | None = None
    barge_in: frozenset[BargeIn] = frozenset()
    marks: tuple[Mark, ...] = ()


class PassageState(enum.Enum):
    """QUEUED comes first, then SPEAKING; the others are ends."""

    QUEUED = "queued"
    SPEAKING = "speaking"
    SPOKEN = "spoken"
    INTERRUPTED = "interrupted"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What is known of a passage.

    text       None if it came as audio; `ssml` tells whether it is a document
    spoken_ms  how much of it has been sent
    barged_in_by  what interrupted it, if the other side did
    last_mark  name of the one that speech came to last
    """

    id: str
    state: PassageState
    text: str | None
    ssml: bool
    voice: str | None
    spoken_ms: int
    barged_in_by: BargeIn | None
    last_mark: str | None


class Passage:
    """One `item` of a call's programme. `tell` gets what is known of it when it begins and when it ends."""

    __slots__ = (
        "_over",
        "_ssml",
        "_tell",
        "_text",
        "_voice",
        "barged_in_by",
        "id",
        "item",
        "last_mark",
        "spoken_ms",
        "state",
    )

    def __init__(self, item: Item, tell: Callable[[Said], None]) -> None:
        self.id = f"utt_{secrets.token_hex(8)}"
        self.item: Item | None = item
        self.state = PassageState.QUEUED
        self.spoken_ms = 0
        self.barged_in_by: BargeIn | None = None
        self.last_mark: str | None = None
        self._tell = tell
        self._over = asyncio.Event()
        words = item.content if isinstance(item.content, engines.Utterance) else None
        self._text = None if words is None else words.text
        self._ssml = words is not None and words.ssml
        self._voice = None if words is None else words.voice

    @property
    def ended(self) -> bool:
        return self.state not in (PassageState.QUEUED, PassageState.SPEAKING)

    def end(self, state: PassageState, *, spoken_ms: int) -> None:
        """No more of it will be said; what was to be said is let go of, for a recording is large."""
        content = None if self.item is None else self.item.content
        self.state, self.spoken_ms, self.item = state, spoken_ms, None
        if isinstance(content, Talkspurt):
            content.close()
        self._over.set()
        self._tell(self.facts(spoken_ms=spoken_ms))

    def start(self) -> None:
        """It is heard from now on."""
        if self.state is PassageState.QUEUED:
            self.state = PassageState.SPEAKING
            self._tell(self.facts(spoken_ms=0))

    async def wait_ended(self) -> None:
        await self._over.wait()

    def facts(self, *, spoken_ms: int) -> Said:
        return Said(
            id=self.id,
            state=self.state,
            text=self._text,
            ssml=self._ssml,
            voice=self._voice,
            spoken_ms=spoken_ms,
            barged_in_by=self.barged_in_by,
            last_mark=self.last_mark,
        )
