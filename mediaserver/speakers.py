"""The speakers: enrolled from recordings, kept in the store, and lent to utterances by their ids."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

import structlog

import engines
from mediaserver import audio, config
from mediaserver.recording import UnfitRecording, judge
from mediaserver.store import Recording, Speaker, Store, StoreError

__all__ = ["Speakers", "SpeakersUnavailable", "TooManySpeakers", "UnknownSpeaker", "is_speaker"]

log = structlog.get_logger("speakers")

RATE_HZ: Final = 24000
"""Of the recordings that are kept: what neural engines want, and above all that matters of a voice."""

ID: Final = re.compile(r"spk_[0-9a-f]{24}")


RETRY_AFTER_S: Final = 5.0


def is_speaker(voice: str) -> bool:
    """Whether an id is a speaker's, and not one of the engine's voices. What is, may stand in a path or a header."""
    return ID.fullmatch(voice) is not None


class UnknownSpeaker(Exception):
    """There is no such speaker, or no more."""


class TooManySpeakers(Exception):
    """As many as may be are enrolled."""


class SpeakersUnavailable(engines.EngineBusy):
    """Nothing can be said of speakers, or changed, for the moment."""

    def __init__(self, message: str) -> None:
        super().__init__(message, retry_after_s=RETRY_AFTER_S)


class Speakers:
    """What is known of voices that were enrolled. Every method raises SpeakersUnavailable when the store fails.

    decoding  bounds how many recordings are decoded and measured at a time
    """

    def __init__(
        self, engine: engines.Engine, store: Store, settings: config.Speakers, *, decoding: asyncio.Semaphore
    ) -> None:
        self._engine = engine
        self._store = store
        self._settings = settings
        self._decoding = decoding

    async def enrol(self, file: bytes, *, name: str, consent: str | None) -> Speaker:
        """Take in a new speaker, by a recording in an audio file.

        Raises audio.AudioError, UnfitRecording, TooManySpeakers, engines.EngineFailure.
        """
        self._check_room(len(await self.all()))
        settings = self._settings
        async with self._decoding:
            samples = await audio.decode(file, max_s=settings.max_s, rate_hz=RATE_HZ)
            prosody = await asyncio.to_thread(judge, samples, RATE_HZ, min_s=settings.min_s)
            try:
                embedding = await self._engine.enrol(samples, RATE_HZ)
            except engines.UnsuitableReference as error:
                raise UnfitRecording(str(error)) from error
        speaker = Speaker(
            id=f"spk_{secrets.token_hex(12)}",
            name=name,
            consent=consent,
            created_at=datetime.now(UTC).replace(microsecond=0),
            duration_s=round(len(samples) / 2 / RATE_HZ, 2),
            speech_s=prosody.speech_s,
            level_db=prosody.speech_level_db,
        )
        recording = Recording(samples=samples, rate_hz=RATE_HZ)
        with _translated():
            await self._store.keep(speaker, recording, {self._engine.embedding_kind: embedding})
        log.info("speaker enrolled", speaker=speaker.id, duration_s=speaker.duration_s, speech_s=speaker.speech_s)
        return speaker

    def _check_room(self, count: int) -> None:
        if count >= self._settings.max_speakers:
            raise TooManySpeakers(f"{count} speakers are enrolled, and no more may be: delete some")

    async def all(self) -> list[Speaker]:
        """All of them, in the order in which they were enrolled."""
        with _translated():
            return await self._store.speakers()

    async def find(self, id: str) -> Speaker:
        """Raises UnknownSpeaker."""
        with _translated():
            speaker = await self._store.speaker(id) if is_speaker(id) else None
        if speaker is None:
            raise UnknownSpeaker(f"there is no speaker {id[:40]!r}")
        return speaker

    async def rename(self, id: str, name: str) -> Speaker:
        """Raises UnknownSpeaker."""
        known = await self.find(id)
        speaker = replace(known, name=name, version=known.version + 1)
        with _translated():
            await self._store.update(speaker)
        return speaker

    async def delete(self, id: str) -> None:
        """Forget a speaker: record, recording and embeddings. Raises UnknownSpeaker."""
        await self.find(id)
        with _translated():
            await self._store.delete(id)
        log.info("speaker deleted", speaker=id)

    async def embedding(self, id: str) -> bytes:
        """What the engine needs of a speaker; computed anew when another engine enrolled it. Raises UnknownSpeaker."""
        kind = self._engine.embedding_kind
        with _translated():
            if is_speaker(id) and (known := await self._store.embedding(id, kind)) is not None:
                return known
            await self.find(id)
            recording = await self._store.recording(id)
            embedding = await self._engine.enrol(recording.samples, recording.rate_hz)
            await self._store.keep_embedding(id, kind, embedding)
        return embedding

    async def voiced(self, utterance: engines.Utterance) -> engines.Utterance:
        """The utterance with its speaker's embedding, when its voice is a speaker's id.

        Raises engines.UnknownVoice when there is no such speaker.
        """
        if not is_speaker(utterance.voice):
            return utterance
        try:
            embedding = await self.embedding(utterance.voice)
        except UnknownSpeaker as error:
            raise engines.UnknownVoice(str(error)) from error
        return replace(utterance, voice="default", embedding=embedding)


@contextmanager
def _translated() -> Iterator[None]:
    """What goes wrong with the store is for the log; who asked is to ask again."""
    try:
        yield
    except StoreError as error:
        log.error("the store of speakers fails", error=str(error))
        raise SpeakersUnavailable("the store of speakers cannot be used now") from error
