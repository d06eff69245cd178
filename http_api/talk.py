"""GET /v1/synthesize/ws: a WebSocket (RFC 6455) for text that arrives in pieces, such as a language model's tokens.

    client                                          server
    {"text": "Good morning, ", "speaker_id": ...}   {"type": "ready", ...}             once, after the first message
    {"text": "how are you"}                         {"type": "mark", "text_start": 0, "text_end": 14, "audio_ms": 0}
    {"text": " today?", "flush": true}              <binary audio> ...                 what the mark named
                                                    {"type": "mark", ...} <binary audio> ...
                                                    {"type": "flushed", ...}           all text so far was said
    {"cancel": true, "played_ms": 900}              {"type": "cancelled", "spoken_to": 9, ...}    no audio follows
    {"end": true}                                   {"type": "done", ...}, and the connection is closed

Text is spoken clause by clause, as soon as the end of one is certain. Two tasks work on a talk: `run` reads what the
client sends, a second one speaks what is in the queue. Cancelling ends the second and begins it anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from aiohttp import web
from pydantic import ValidationError

from .admission import Admission
from .control import SocketEnd, Speech, SpeechControl
from .problem import Problem, of_validation
from .rendition import SAMPLE_BYTES, AudioFormat, Encoding, Rendition
from .route import Answer, Operation
from .schema import (
    ApiLimits,
    SocketError,
    TalkCancelled,
    TalkDone,
    TalkFlushed,
    TalkMark,
    TalkMessage,
    TalkReady,
)
from .sockets import Line, Sockets
from .transcript import Passage, Transcript

__all__ = ["TALK", "Talks"]

MOST_QUEUED: Final = 4096
"""Passages and flushes that may wait for being spoken."""

TALK = Operation(
    summary="Speak a text while it is being written: a WebSocket",
    description="""Text in, speech out while the text is still arriving. The client's messages are JSON (`TalkMessage`):

* `{"text": "...", "flush": false}`: some more text. It is spoken clause by clause; `flush` has the rest spoken now.
* The first message may carry `speaker_id`, `format` (`pcm`, `mulaw`, `alaw`), `sample_rate`, `speed` and `language`.
* `{"cancel": true}`: be silent; text that was not spoken is forgotten. `played_ms` may say how much of the audio was
  heard: what counts as spoken is measured by it.
* `{"end": true}`: speak what is left, and close.

Messages of the server are audio (binary) and JSON, told apart by `type`: `ready`; `mark` ahead of the audio of each
passage, with its place in the text and in the audio; `flushed`; `cancelled`, with `spoken_to`; `done`; `error`, with
a `ProblemDetails` as `problem`, before the connection is closed with 1003 (no JSON text), 1007 (not UTF-8), 1008 (a
message or its content is at fault, or nothing came for long), 1009 (too much text), 1011 (the speech failed), 1013 (no
room now) or 1001 (the server ends). Characters are Unicode code points, and they and `audio_ms` are counted from the
beginning of the connection. A client that does not read is cut off. A browser may connect from this server's own pages
and from listed ones only; it cannot set a header, and brings its token as a subprotocol.""",
    answers=(Answer(status=101, description="A WebSocket (RFC 6455).", content={}),),
    problems=(400, 403, 426, 500, 503),
    models=(TalkReady, TalkMark, TalkFlushed, TalkCancelled, TalkDone, SocketError),
    receives=(TalkMessage,),
)


@dataclass(frozen=True, slots=True)
class _Flush:
    """Everything before was said. `end`: and nothing follows."""

    position: int
    end: bool


class Talks:
    """The resource."""

    def __init__(
        self,
        control: SpeechControl,
        *,
        sockets: Sockets,
        limits: ApiLimits,
        admission: Admission,
        formats: Mapping[str, AudioFormat],
    ) -> None:
        self._control = control
        self._sockets = sockets
        self._limits = limits
        self._admission = admission
        self._formats = formats

    async def talk(self, request: web.Request) -> web.WebSocketResponse:
        limits = self._limits
        return await self._sockets.hold(
            request, self._converse, max_message_bytes=limits.max_body_bytes, heartbeat_s=limits.socket_ping_s
        )

    async def _converse(self, line: Line) -> SocketEnd:
        try:
            async with asyncio.timeout(self._limits.socket_idle_s):
                opening = await _receive(line, self._limits)
        except TimeoutError:
            raise _idle(self._limits) from None
        if opening is None:
            return line.end
        await line.send(
            TalkReady(
                type="ready",
                speaker_id=opening.speaker_id,
                format=opening.format,
                sample_rate=opening.sample_rate,
                model_version=self._control.model_version,
            )
        )
        audio = self._formats[opening.format]
        end = await _Talk(self._control, self._limits, self._admission, audio, line, opening).run()
        if end == "done":
            await line.close()
        return end


async def _receive(line: Line, limits: ApiLimits) -> TalkMessage | None:
    """The client's next message; None when it has gone. Raises Problem."""
    received = await line.receive()
    if isinstance(received, bytes):
        raise Problem(415, "Messages are JSON, in text frames.")
    try:
        return None if received is None else TalkMessage.model_validate_json(received, context=limits)
    except ValidationError as error:
        raise of_validation(error) from None


def _idle(limits: ApiLimits) -> Problem:
    """What is wrong when nothing comes."""
    return Problem(408, f"Nothing came for {limits.socket_idle_s:g} s.")


class _Talk:
    """What is said on one connection, from its first message on."""

    def __init__(
        self,
        control: SpeechControl,
        limits: ApiLimits,
        admission: Admission,
        audio: AudioFormat,
        line: Line,
        opening: TalkMessage,
    ) -> None:
        self._control = control
        self._limits = limits
        self._admission = admission
        self._audio = audio
        self._line = line
        self._opening = opening
        self._clauses = control.clauses()
        self._transcript = Transcript(rate_hz=opening.sample_rate, speed=opening.speed)
        self._queue: asyncio.Queue[Passage | _Flush] = asyncio.Queue()
        self._saying = False
        self._received = 0  # characters
        self._passed = 0  # of them, those that went into the queue, or were forgotten

    async def run(self) -> SocketEnd:
        """Talk to the end; how it ended. Raises Problem, ControlError and SlowReader."""
        if self._opening.cancel:
            await self._cancel(self._opening.played_ms)
        self._take(self._opening)
        receiving = asyncio.create_task(_receive(self._line, self._limits))
        speaking = asyncio.create_task(self._speak())
        try:
            while True:
                await self._wait(receiving, speaking)
                if speaking.done():
                    speaking.result()
                    return "done"
                message = receiving.result()
                if message is None:
                    return self._line.end
                if message.model_fields_set & TalkMessage.OPENING:
                    raise Problem(422, "Speaker, format, rate, speed and language are for the first message alone.")
                if message.cancel:
                    await _stopped(speaking)
                    await self._cancel(message.played_ms)
                    speaking = asyncio.create_task(self._speak())
                self._take(message)
                receiving = asyncio.create_task(_receive(self._line, self._limits))
        finally:
            for task in (receiving, speaking):
                task.cancel()
            await asyncio.gather(receiving, speaking, return_exceptions=True)

    async def _wait(self, receiving: asyncio.Task[TalkMessage | None], speaking: asyncio.Task[None]) -> None:
        """Until there is a message, or the speaking has ended. Raises Problem when there is nothing to wait for."""
        idle_s = self._limits.socket_idle_s
        while not (await asyncio.wait({receiving, speaking}, timeout=idle_s, return_when=asyncio.FIRST_COMPLETED))[0]:
            if not self._saying and self._queue.empty():
                raise _idle(self._limits)

    async def _cancel(self, played_ms: float | None) -> None:
        """Forget what was not said, and tell what was."""
        while not self._queue.empty():
            self._queue.get_nowait()
        self._saying = False
        self._clauses = self._control.clauses()
        self._passed = self._received
        await self._line.send(
            TalkCancelled(
                type="cancelled",
                spoken_to=self._transcript.spoken(played_ms),
                text_chars=self._received,
                audio_ms=self._transcript.audio_ms,
            )
        )

    def _take(self, message: TalkMessage) -> None:
        """Queue what a message brings."""
        self._received += len(message.text)
        if self._received > self._limits.max_socket_chars:
            raise Problem(413, f"A connection may bring {self._limits.max_socket_chars} characters: open another one.")
        for piece in self._clauses.feed(message.text):
            self._queue_passage(piece, continues=True)
        if message.flush or message.end:
            for piece in self._clauses.flush():
                self._queue_passage(piece, continues=False)
            self._queue.put_nowait(_Flush(self._passed, message.end))
        if self._queue.qsize() > MOST_QUEUED:
            raise Problem(422, f"More than {MOST_QUEUED} messages wait for being spoken.")

    def _queue_passage(self, text: str, *, continues: bool) -> None:
        self._queue.put_nowait(Passage(start=self._passed, text=text, continues=continues))
        self._passed += len(text)

    async def _speak(self) -> None:
        """Say what is in the queue, and end after the end."""
        while True:
            self._saying = False
            following = await self._queue.get()
            self._saying = True
            if isinstance(following, Passage):
                await self._say(following)
                continue
            position, audio_ms = following.position, self._transcript.audio_ms
            if following.end:
                await self._line.send(TalkDone(type="done", text_chars=position, audio_ms=audio_ms))
                return
            await self._line.send(TalkFlushed(type="flushed", text_chars=position, audio_ms=audio_ms))

    async def _say(self, passage: Passage) -> None:
        opening, transcript = self._opening, self._transcript
        speech = Speech(
            text=passage.text,
            speaker_id=opening.speaker_id,
            rate_hz=opening.sample_rate,
            language=opening.language,
            speed=opening.speed,
            continues=passage.continues,
        )
        file = Encoding(self._audio, opening.sample_rate)
        with self._admission.slot(self._line.client):
            chunks = self._control.synthesize(speech)
            async with Rendition(
                chunks, rate_hz=opening.sample_rate, model_version=self._control.model_version
            ) as rendition:
                chunk = await rendition.next()
                transcript.begin(passage)
                await self._line.send(
                    TalkMark(type="mark", text_start=passage.start, text_end=passage.end, audio_ms=transcript.audio_ms)
                )
                while chunk is not None:
                    await file.feed(chunk)
                    # Counted first: once it was handed over, it will be heard, whatever becomes of the waiting.
                    transcript.sent(len(chunk) // SAMPLE_BYTES)
                    await self._line.send(file.take())
                    chunk = await rendition.next()
                transcript.finish()


async def _stopped(speaking: asyncio.Task[None]) -> None:
    """Stop it. Raises what it had raised by itself."""
    speaking.cancel()
    await asyncio.wait({speaking})
    if not speaking.cancelled() and (error := speaking.exception()):
        raise error
