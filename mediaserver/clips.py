"""Audio that calls are played: had once, or kept for any call under an id; all of it within one budget of memory."""

from __future__ import annotations

import asyncio
import secrets
import weakref
from collections import OrderedDict

import rtp
from mediaserver import audio
from mediaserver.fetch import Fetcher

__all__ = ["Clips", "TooMuchAudio"]

# A clip has each of 8000 samples a second in both laws.
BYTES_PER_MS = 16

# Each holds up to fetch.max_bytes until it is decoded; more of them wait for these.
FETCHES_AT_ONCE = 8


class TooMuchAudio(Exception):
    """There is no room for it in memory now."""


class Clips:
    """Makes clips of files and of what is fetched, and keeps some. Those used longest ago go when room is needed.

    budget_bytes  for all clips that there are: kept, being played, or waiting for that
    max_s         of one clip
    decoding      bounds how many files are decoded at a time
    """

    def __init__(self, fetcher: Fetcher, *, budget_bytes: int, max_s: float, decoding: asyncio.Semaphore) -> None:
        self._fetcher = fetcher
        self._budget_bytes = budget_bytes
        self._max_s = max_s
        self._decoding = decoding
        self._fetching = asyncio.Semaphore(FETCHES_AT_ONCE)
        self._kept: OrderedDict[str, rtp.Clip] = OrderedDict()
        self._alive: weakref.WeakSet[rtp.Clip] = weakref.WeakSet()

    async def decoded(self, file: bytes) -> rtp.Clip:
        """Of an audio file in any common format. Raises audio.AudioError, TooMuchAudio."""
        async with self._decoding:
            samples = await audio.decode(file, max_s=self._max_s)
            clip = await asyncio.to_thread(rtp.Clip, samples, audio.RATE_HZ)
        self._alive.add(clip)
        while (occupied := self.occupied_bytes) > self._budget_bytes:
            if not self._kept:
                raise TooMuchAudio(f"{occupied} bytes of audio are wanted at a time (calls.clips_mb)")
            self._kept.popitem(last=False)
        return clip

    async def fetched(self, url: str) -> rtp.Clip:
        """As `decoded`, of the file that is there. Raises fetch.FetchError too."""
        async with self._fetching:
            _, _, body = await self._fetcher.get(url)
            return await self.decoded(body)

    def keep(self, clip: rtp.Clip) -> str:
        """The id by which it is found from now on."""
        id = f"clip_{secrets.token_hex(12)}"
        self._kept[id] = clip
        return id

    def find(self, id: str) -> rtp.Clip | None:
        clip = self._kept.get(id)
        if clip is not None:
            self._kept.move_to_end(id)
        return clip

    def forget(self, id: str) -> bool:
        """Keep it no longer; whoever is being played it hears the rest. False if there is none of that id."""
        return self._kept.pop(id, None) is not None

    @property
    def occupied_bytes(self) -> int:
        return BYTES_PER_MS * sum(clip.duration_ms for clip in self._alive)
