"""The speakers: enrolled from recordings, kept in the store, shared by Redis, lent to utterances by their ids."""

from __future__ import annotations

import asyncio
import enum
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

import structlog

import engines
from mediaserver import audio, config
from mediaserver.prompts import Prompts
from mediaserver.recording import UnfitRecording, judge
from mediaserver.shared import Shared, Unreachable
from mediaserver.store import Recording, Speaker, Store, StoreError, is_speaker

__all__ = ["Sharing", "Speakers", "SpeakersUnavailable", "TooManySpeakers", "UnknownSpeaker", "is_speaker"]

log = structlog.get_logger("speakers")

RATE_HZ: Final = 24000
"""Of the recordings that are kept: what neural engines want, and above all that matters of a voice."""


RETRY_AFTER_S: Final = 5.0

PATIENCE_S: Final = 3.0
"""So long the start waits for Redis."""

SHORTEST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 2.0
"""Between two attempts to reach Redis."""


class Sharing(enum.Enum):
    """Whether speakers are those of other servers too: not at all, now, or not now."""

    OFF = "off"
    UP = "up"
    DOWN = "down"


class UnknownSpeaker(Exception):
    """There is no such speaker, or no more."""


class TooManySpeakers(Exception):
    """As many as may be are enrolled."""


class SpeakersUnavailable(engines.EngineBusy):
    """Nothing can be said of speakers, or changed, for the moment."""

    def __init__(self, message: str) -> None:
        super().__init__(message, retry_after_s=RETRY_AFTER_S)


class Speakers:
    """What is known of voices that were enrolled. Every method raises SpeakersUnavailable when it cannot be done now.

    With `shared`, Redis has the last word on which speakers there are, and the store is this server's copy: all that is
    known here goes on while Redis is away, and only what the others would have to know as well has to wait for it.

    sharing  whether Redis is there

    Arguments:

    decoding  bounds how many recordings are decoded and measured at a time
    """

    def __init__(
        self,
        engine: engines.Engine,
        store: Store,
        settings: config.Speakers,
        *,
        decoding: asyncio.Semaphore,
        prompts: Prompts,
        shared: Shared | None = None,
    ) -> None:
        self._engine = engine
        self._store = store
        self._prompts = prompts
        self._shared = shared
        self._settings = settings
        self._decoding = decoding
        self._comparing = asyncio.Lock()
        self.sharing = Sharing.OFF if shared is None else Sharing.DOWN

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """Keep up with what other servers do, while the block runs."""
        if self._shared is None:
            yield
            return
        compared = asyncio.Event()
        task = asyncio.create_task(self._follow(self._shared, compared), name="speakers")
        try:
            with suppress(TimeoutError):
                await asyncio.wait_for(compared.wait(), PATIENCE_S)
            yield
        finally:
            while not task.done():  # a client library on its way through a time-out may swallow the first
                task.cancel()
                await asyncio.wait([task], timeout=1)

    async def _follow(self, shared: Shared, compared: asyncio.Event) -> None:
        pause_s, silent = SHORTEST_PAUSE_S, False
        while True:
            try:
                async with shared.changes() as following:
                    await self._compare(shared)
                    compared.set()
                    self.sharing = Sharing.UP
                    log.info("speakers are shared by Redis")
                    pause_s, silent = SHORTEST_PAUSE_S, False
                    while True:
                        id = await following()
                        if id is None:
                            await self._compare(shared)
                        elif is_speaker(id):
                            await self._fetch(shared, id)
            except (Unreachable, StoreError) as error:
                self.sharing = Sharing.DOWN
                if not silent:
                    log.warning("Redis cannot be reached: speakers are those known here", error=str(error))
                silent = True
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    async def _compare(self, shared: Shared) -> None:
        """Make Redis and the store alike: each learns what the other knows, and what is deleted is so everywhere."""
        async with self._comparing:
            theirs, deleted_there = await shared.speakers(), await shared.deleted()
            ours = {speaker.id: speaker for speaker in await self._store.speakers()}
            deleted_here = await self._store.deleted()
            for id in deleted_here - deleted_there:
                await shared.delete(id)
            for id in deleted_there & ours.keys():
                await self._forget(id)
            for id in ours.keys() - deleted_there:
                if id not in theirs or theirs[id].version < ours[id].version:
                    # Redis may have been emptied, or restored from an older copy.
                    await shared.keep(ours[id], await self._store.recording(id), {})
            for id in theirs.keys() - deleted_here:
                await self._adopt(shared, theirs[id], ours.get(id))

    async def _adopt(self, shared: Shared, speaker: Speaker, known: Speaker | None) -> None:
        """Take over what Redis says of a speaker."""
        if known is not None:
            await self._store.update(speaker)
        elif (recording := await shared.recording(speaker.id)) is not None:
            kind = self._engine.embedding_kind
            embedding = await shared.embedding(speaker.id, kind)
            await self._store.keep(speaker, recording, {} if embedding is None else {kind: embedding})

    async def _fetch(self, shared: Shared, id: str) -> Speaker | None:
        """What Redis says of one speaker, taken over; what this server knows when it says nothing."""
        speaker = await shared.speaker(id)
        known = await self._store.speaker(id)
        if speaker is not None:
            await self._adopt(shared, speaker, known)
        elif known is not None and id in await shared.deleted():
            await self._forget(id)
        return await self._store.speaker(id)

    async def enrol(self, file: bytes, *, name: str, consent: str | None) -> Speaker:
        """Take in a new speaker, by a recording in an audio file.

        Raises audio.AudioError, UnfitRecording, TooManySpeakers, engines.EngineFailure.
        """
        with _translated("a speaker that the other servers do not know cannot be enrolled"):
            if self._shared is not None:
                await self._shared.check()
            self._check_room(len(await self._store.speakers()))
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
            created_at=datetime.now(UTC),
            duration_s=round(len(samples) / 2 / RATE_HZ, 2),
            speech_s=prosody.speech_s,
            level_db=prosody.speech_level_db,
        )
        recording = Recording(samples=samples, rate_hz=RATE_HZ)
        embeddings = {self._engine.embedding_kind: embedding}
        with _translated("a speaker that the other servers do not know cannot be enrolled"):
            if self._shared is not None:
                await self._shared.keep(speaker, recording, embeddings)
            await self._store.keep(speaker, recording, embeddings)
        log.info("speaker enrolled", speaker=speaker.id, duration_s=speaker.duration_s, speech_s=speaker.speech_s)
        return speaker

    def _check_room(self, count: int) -> None:
        if count >= self._settings.max_speakers:
            raise TooManySpeakers(f"{count} speakers are enrolled, and no more may be: delete some")

    async def all(self) -> list[Speaker]:
        """All of them, in the order in which they were enrolled."""
        with _translated():
            if self._shared is not None:
                with suppress(Unreachable):
                    await self._compare(self._shared)
            return await self._store.speakers()

    async def find(self, id: str) -> Speaker:
        """Raises UnknownSpeaker."""
        speaker = None
        if is_speaker(id):
            with _translated("it might know the speaker"):
                speaker = await self._find(id)
        if speaker is None:
            raise UnknownSpeaker(f"there is no speaker {id[:40]!r}")
        return speaker

    async def _find(self, id: str) -> Speaker | None:
        if self._shared is None:
            return await self._store.speaker(id)
        try:
            return await self._fetch(self._shared, id)
        except Unreachable:
            known = await self._store.speaker(id)
            if known is None and id not in await self._store.deleted():
                raise
            return known

    async def rename(self, id: str, name: str) -> Speaker:
        """Raises UnknownSpeaker."""
        known = await self.find(id)
        with _translated("the other servers would keep the old name"):
            if self._shared is None:
                speaker = replace(known, name=name, version=known.version + 1)
            else:
                renamed = await self._shared.rename(id, name)
                if renamed is None:
                    raise UnknownSpeaker(f"there is no speaker {id!r}")
                speaker = renamed
            await self._store.update(speaker)
        return speaker

    async def delete(self, id: str) -> None:
        """Forget a speaker: record, recording, embeddings, and what was said in that voice. Raises UnknownSpeaker."""
        await self.find(id)
        with _translated("the other servers would keep the speaker"):
            if self._shared is not None:
                await self._shared.delete(id)
            await self._forget(id)
        log.info("speaker deleted", speaker=id)

    async def _forget(self, id: str) -> None:
        embedding = await self._store.embedding(id, self._engine.embedding_kind)
        await self._store.delete(id)
        if embedding is not None:
            await self._prompts.forget(embedding)

    async def embedding(self, id: str) -> bytes:
        """What the engine needs of a speaker; computed anew when another engine enrolled it. Raises UnknownSpeaker."""
        kind = self._engine.embedding_kind
        with _translated():
            if is_speaker(id) and (known := await self._store.embedding(id, kind)) is not None:
                return known
            await self.find(id)
            if (known := await self._store.embedding(id, kind)) is not None:
                return known
            recording = await self._store.recording(id)
            embedding = await self._engine.enrol(recording.samples, recording.rate_hz)
            await self._store.keep_embedding(id, kind, embedding)
            if self._shared is not None:
                with suppress(Unreachable):
                    await self._shared.keep_embedding(id, kind, embedding)
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
def _translated(matter: str = "") -> Iterator[None]:
    """What goes wrong with the store is for the log; who asked is to ask again. `matter`: why it takes Redis."""
    try:
        yield
    except StoreError as error:
        log.error("the store of speakers fails", error=str(error))
        raise SpeakersUnavailable("the store of speakers cannot be used now") from error
    except Unreachable as error:
        raise SpeakersUnavailable(f"Redis cannot be reached now, and {matter}") from error
