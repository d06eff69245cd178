"""Whatever calls can be made to say: what a script names becomes what a programme takes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import engines
import rtp
from mediaserver import audio
from mediaserver.config import Config
from mediaserver.fetch import Fetcher
from mediaserver.passage import Item
from mediaserver.script import AudioFile, Remote, Script, Text, text_of
from mediaserver.speech import Speech

__all__ = ["Repertoire"]


class Repertoire:
    """One for all calls. All that it is asked for raises what is in refusal.UNSERVABLE.

    clips     the audio of the routes' files
    decoding  bounds how many fetched ones are decoded at a time
    """

    def __init__(
        self,
        config: Config,
        speech: Speech,
        fetcher: Fetcher,
        clips: Mapping[Path, rtp.Clip],
        *,
        decoding: asyncio.Semaphore,
    ) -> None:
        self._config = config
        self._speech = speech
        self._fetcher = fetcher
        self._clips = clips
        self._decoding = decoding

    async def item(self, script: Script) -> Item | None:
        """What is said first; None if that is nothing."""
        if script.silent:
            return None
        return Item(
            content=await self.resolve(script.content),
            repeat=script.repeat,
            delay_ms=script.delay_ms,
            duration_ms=script.duration_ms,
            barge_in=script.barge_in,
            marks=script.content.marks if isinstance(script.content, Text) else (),
        )

    async def resolve(self, content: Text | AudioFile | Remote) -> engines.Utterance | rtp.Clip:
        """Fetch and decode what must be, check what will be synthesised: afterwards only the engine can fail."""
        if isinstance(content, AudioFile):
            return self._clips[content.path]
        if isinstance(content, Remote):
            media_type, charset, body = await self._fetcher.get(content.uri)
            if media_type.startswith("audio/"):
                max_s = self._config.fetch.max_audio_s
                async with self._decoding:
                    return await asyncio.to_thread(rtp.Clip, await audio.decode(body, max_s=max_s), audio.RATE_HZ)
            content = text_of(media_type, body, charset=charset, voice=content.voice, language=content.language)
        return await self._speech.prepare(self.utterance(content))

    def utterance(self, text: Text) -> engines.Utterance:
        """The words as the engine takes them. Raises engines.UnsuitableUtterance, engines.UnknownVoice."""
        utterance = engines.Utterance(
            text=text.text, ssml=text.ssml, voice=text.voice, language=text.language, rate_hz=audio.RATE_HZ
        )
        most = self._config.sip.max_text_chars
        if len(utterance.text) > most:
            raise engines.UnsuitableUtterance(f"the text has {len(utterance.text)} characters; {most} are allowed")
        self._speech.check(utterance)
        return utterance
