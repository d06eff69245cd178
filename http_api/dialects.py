"""What is said on the WebSocket of a call's audio, in two ways: binary audio beside JSON, or as Twilio has it."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from pydantic import BaseModel, ValidationError

from .control import Cleared, Keyed, LineFacts, LineNotice, Marked
from .problem import Problem, of_validation
from .schema import LineCleared, LineDigit, LineMark, LineMessage, LineQuery, LineStart, LineStop, TwilioMessage

__all__ = ["DIALECTS", "FRAME_MS", "Clear", "Dialect", "Mark", "Play", "Wish"]

FRAME_MS: Final = 20

Message = BaseModel | str | bytes


@dataclass(frozen=True, slots=True)
class Play:
    """Audio, in the format that was agreed on."""

    audio: bytes


@dataclass(frozen=True, slots=True)
class Mark:
    """A mark of that name."""

    name: str


@dataclass(frozen=True, slots=True)
class Clear:
    """Silence, now."""


Wish = Play | Mark | Clear


class Dialect(Protocol):
    """One connection's messages to and fro."""

    def read(self, message: str | bytes) -> Wish:
        """What the client wants. Raises Problem."""

    def greeting(self) -> tuple[Message, ...]:
        """What comes first, before the call is up."""

    def start(self, facts: LineFacts) -> Message:
        """The call is up."""

    def audio(self, frame: bytes) -> Message:
        """The peer's audio, 20 ms of it."""

    def told(self, notice: LineNotice) -> tuple[Message, ...]:
        """Something has happened."""

    def stop(self) -> Message:
        """The call is over."""


class Plain:
    """Audio as it is, in binary messages."""

    def __init__(self, call_id: str, query: LineQuery) -> None:
        self._call_id = call_id
        self._query = query

    def read(self, message: str | bytes) -> Wish:
        if isinstance(message, bytes):
            if self._query.coding == "pcm" and len(message) % 2:
                raise Problem(422, "Audio should have whole samples: this has an odd number of bytes.")
            return Play(message)
        try:
            wanted = LineMessage.model_validate_json(message)
        except ValidationError as error:
            raise of_validation(error) from None
        return Clear() if wanted.name is None else Mark(wanted.name)

    def greeting(self) -> tuple[Message, ...]:
        return ()

    def start(self, facts: LineFacts) -> Message:
        return LineStart(
            type="start",
            call_id=facts.call_id,
            direction=facts.direction,
            caller=facts.caller,
            callee=facts.callee,
            codec=facts.codec,
            format=self._query.coding,
            sample_rate=self._query.sample_rate,
            frame_ms=FRAME_MS,
        )

    def audio(self, frame: bytes) -> Message:
        return frame

    def told(self, notice: LineNotice) -> tuple[Message, ...]:
        match notice:
            case Marked(name=name):
                return (LineMark(type="mark", name=name),)
            case Cleared(marks=marks, played_ms=played_ms):
                return (LineCleared(type="cleared", marks=marks, played_ms=played_ms),)
            case Keyed(digit=digit):
                return (LineDigit(type="dtmf", digit=digit),)

    def stop(self) -> Message:
        return LineStop(type="stop", call_id=self._call_id)


class Twilio:
    """Twilio's Media Streams: audio in base64, and each message numbered. Its accounts there are none of."""

    def __init__(self, call_id: str, query: LineQuery) -> None:
        self._id = call_id
        self._listens = query.direction != "speak"
        self._messages = 0
        self._frames = 0

    def read(self, message: str | bytes) -> Wish:
        if isinstance(message, bytes):
            raise Problem(415, "Messages are JSON, in text frames.")
        try:
            wanted = TwilioMessage.model_validate_json(message)
        except ValidationError as error:
            raise of_validation(error) from None
        match wanted:
            case TwilioMessage(event="media", media=media) if media is not None:
                try:
                    return Play(base64.b64decode(media.payload, validate=True))
                except (binascii.Error, ValueError):
                    raise Problem.of_field(422, "media.payload", "It should be base64") from None
            case TwilioMessage(event="mark", mark=mark) if mark is not None:
                return Mark(mark.name)
            case TwilioMessage(event="clear"):
                return Clear()
        raise Problem.of_field(422, wanted.event, "This field is required")

    def greeting(self) -> tuple[Message, ...]:
        return (json.dumps({"event": "connected", "protocol": "Call", "version": "1.0.0"}),)

    def start(self, facts: LineFacts) -> Message:
        return self._numbered(
            "start",
            {
                "accountSid": "",
                "streamSid": self._id,
                "callSid": self._id,
                "tracks": ["inbound"] if self._listens else [],
                "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
                "customParameters": {"from": facts.caller, "to": facts.callee, "direction": facts.direction},
            },
        )

    def audio(self, frame: bytes) -> Message:
        at_ms = self._frames * FRAME_MS
        self._frames += 1
        payload = base64.b64encode(frame).decode()
        return self._numbered(
            "media", {"track": "inbound", "chunk": str(self._frames), "timestamp": str(at_ms), "payload": payload}
        )

    def told(self, notice: LineNotice) -> tuple[Message, ...]:
        match notice:
            case Marked(name=name):
                return (self._numbered("mark", {"name": name}),)
            case Cleared(marks=marks):  # they come back all the same: there is no other word for it
                return tuple(self._numbered("mark", {"name": name}) for name in marks)
            case Keyed(digit=digit):
                return (self._numbered("dtmf", {"track": "inbound_track", "digit": digit}),)

    def stop(self) -> Message:
        return self._numbered("stop", {"accountSid": "", "callSid": self._id})

    def _numbered(self, event: str, content: dict[str, object]) -> str:
        self._messages += 1
        return json.dumps(
            {"event": event, "sequenceNumber": str(self._messages), event: content, "streamSid": self._id}
        )


DIALECTS: Final[dict[Literal["plain", "twilio"], type[Plain] | type[Twilio]]] = {"plain": Plain, "twilio": Twilio}
