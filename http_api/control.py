"""What the HTTP API needs from the server that it fronts. Only builtins and the values below cross this seam."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

__all__ = [
    "BargeIn",
    "Busy",
    "CallControl",
    "CallEnd",
    "CallFacts",
    "CallLine",
    "CallOrder",
    "Clauses",
    "Cleared",
    "ClipFacts",
    "Conflict",
    "ControlError",
    "Embedding",
    "Encoder",
    "EventFacts",
    "Failed",
    "FieldFault",
    "Forbidden",
    "Health",
    "Host",
    "Kept",
    "Keyed",
    "LineFacts",
    "LineNotice",
    "LineOrder",
    "Marked",
    "NotFound",
    "PlayOrder",
    "PromptControl",
    "PromptFacts",
    "PushControl",
    "PushFacts",
    "PushOrder",
    "RecordingControl",
    "RecordingFacts",
    "Refused",
    "SocketEnd",
    "SpeakerControl",
    "SpeakerFacts",
    "SpeakerOrder",
    "Speech",
    "SpeechControl",
    "TransferFacts",
    "Unsupported",
    "UtteranceFacts",
    "UtteranceOrder",
    "VoiceFacts",
    "WebRtcFacts",
    "WebRtcOrder",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Speech:
    """A request for speech, already validated by the schema.

    text       what to say: plain text, or an SSML document when `ssml` is true
    rate_hz    8000, 16000 or 24000
    language   BCP 47 tag; "" leaves it to the speaker
    speed      relative to the speaker's own, 0.25 to 4.0
    continues  more will be said after it, so it ends with the pause that its last punctuation calls for
    embedding  of a speaker whom the server need not know, as the engine has made it; b"" for the one of `speaker_id`
    """

    text: str
    ssml: bool = False
    speaker_id: str
    rate_hz: int
    language: str = ""
    speed: float = 1.0
    seed: int | None = None
    continues: bool = False
    embedding: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class VoiceFacts:
    """A voice of the engine; `language` is a BCP 47 tag."""

    id: str
    name: str
    language: str


class Kept(bytes):
    """A chunk of speech that nobody had to synthesise for this request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptFacts:
    """What became of a prompt; the fields are those of schema.PromptResult."""

    status: Literal["made", "kept", "failed"]
    duration_ms: float
    field: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PushOrder:
    """A request for speech in RTP packets, already validated by the schema.

    text        what to say: plain text, or an SSML document when `ssml` is true
    language    BCP 47 tag; "" leaves it to the voice
    host        an IP address, and no name
    ssrc        None: the server chooses one
    local_port  an even port to send from; None: the server chooses one
    """

    text: str
    ssml: bool
    speaker_id: str
    language: str
    host: str
    port: int
    codec: Literal["PCMU", "PCMA"]
    payload_type: int
    ptime_ms: int
    ssrc: int | None
    local_port: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PushFacts:
    """What is known of a push; the fields are those of schema.PushReport."""

    id: str
    state: Literal["streaming", "done", "stopped", "failed"]
    failure: str | None
    created_at: datetime
    host: str
    port: int
    codec: Literal["PCMU", "PCMA"]
    payload_type: int
    ptime_ms: int
    ssrc: int
    local_port: int
    packets_sent: int
    packets_unsent: int
    packets_refused: int
    speech_frames: int
    silence_frames: int
    underrun_frames: int
    underruns: int
    played_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeakerOrder:
    """A speaker to be enrolled: `file` is an audio file in any container, `consent` a note that is kept."""

    file: bytes
    name: str
    consent: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeakerFacts:
    """What is known of a speaker; the fields are those of schema.SpeakerReport."""

    id: str
    name: str
    consent: str | None
    created_at: datetime
    engine: str
    cloning: bool
    duration_s: float
    speech_s: float
    level_db: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """What the engine made of a speaker: bytes for itself, and figures for people if there are any."""

    kind: str
    data: bytes
    figures: Mapping[str, float]


BargeIn = Literal["dtmf", "speech"]


@dataclass(frozen=True, slots=True, kw_only=True)
class UtteranceOrder:
    """Something to be said in a call.

    text        plain text, or an SSML document when `ssml` is true
    speaker_id  None leaves it to the call; language "" to the speaker
    interrupts  at once, and in the stead of all that waits
    barge_in    what ends it early: the peer's keys, its speech
    marks       of a plain text: their names, and how many characters are before them
    """

    text: str
    ssml: bool
    speaker_id: str | None
    language: str
    interrupts: bool = False
    barge_in: frozenset[BargeIn] = frozenset()
    marks: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayOrder:
    """Audio to be played in a call: one of `file`, in any container, `url` and `clip_id`.

    repeat      how often; None until something ends it
    interrupts  at once, and in the stead of all that waits
    barge_in    what ends it early
    """

    file: bytes | None = None
    url: str | None = None
    clip_id: str | None = None
    repeat: int | None = 1
    interrupts: bool = False
    barge_in: frozenset[BargeIn] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipFacts:
    """What is known of a clip; the fields are those of schema.ClipReport."""

    id: str
    duration_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UtteranceFacts:
    """What is known of something that a call says; the fields are those of schema.UtteranceReport."""

    id: str
    state: Literal["queued", "speaking", "spoken", "interrupted", "failed"]
    text: str | None
    ssml: bool
    speaker_id: str | None
    spoken_ms: int
    barged_in_by: BargeIn | None = None
    last_mark: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CallOrder:
    """A request for a call, already validated by the schema.

    to            a SIP URI, or a number when there is a trunk
    caller        likewise; None leaves it to the configuration
    said          None: nothing at first
    hangs_up      when all is said; otherwise the call stays for `stay_s`
    webhook       that conducts the call; then `said` is what is said if it does not do its part
    records       from the answer on
    traceparent   the header of that name, as it came (W3C Trace Context), or None
    """

    to: str
    caller: str | None
    trunk: str | None
    said: UtteranceOrder | None
    speaker_id: str
    language: str
    headers: Mapping[str, str]
    ring_timeout_s: float
    hangs_up: bool
    stay_s: float
    webhook: str | None = None
    webhook_timeout_ms: int = 3000
    records: bool = False
    traceparent: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CallEnd:
    """Why a call has ended; the fields are those of schema.CallEndReport."""

    reason: str
    by: Literal["server", "peer", "network"]
    sip_status: int | None
    sip_reason: str


RecordingEnd = Literal["stopped", "call_ended", "max_duration", "no_space", "failed", "interrupted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingFacts:
    """What is known of the recording of a call; the fields are those of schema.RecordingReport."""

    id: str
    call_id: str
    state: Literal["recording", "ended"]
    started_at: datetime
    ended_at: datetime | None
    reason: RecordingEnd | None
    duration_ms: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFacts:
    """What is known of a call; the fields are those of schema.CallDetails, but for `caller` and `callee`."""

    id: str
    direction: Literal["inbound", "outbound"]
    caller: str
    callee: str
    trunk: str | None
    state: str
    created_at: datetime
    ringing_at: datetime | None
    answered_at: datetime | None
    ended_at: datetime | None
    end: CallEnd | None
    held: bool
    paused: bool
    digits: int
    media: Mapping[str, int | float | str] | None
    first_speech_ms: float | None
    speech: tuple[UtteranceFacts, ...]
    recordings: tuple[RecordingFacts, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFacts:
    """Something that has happened to a call, or "gap": something has that is not known any more."""

    id: str
    kind: str
    call_id: str
    at: datetime
    details: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferFacts:
    """What has become of a transfer; the fields are those of schema.TransferReport."""

    outcome: Literal["succeeded", "failed", "unknown"]
    sip_status: int | None
    sip_reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WebRtcOrder:
    """A browser that wants to call: its offer, whom it calls, and who it is ("" if nobody knows)."""

    sdp: str
    to: str
    caller: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WebRtcFacts:
    """The answer to a browser's offer, and the call that has begun."""

    call_id: str
    sdp: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LineOrder:
    """How somebody wants to listen to a call and to speak into it: both ways in the same format, at the same rate.

    delay_ms  how much of what is spoken is gathered before it is heard, or for how long
    """

    format: Literal["pcm", "mulaw", "alaw"]
    rate_hz: int
    listens: bool
    speaks: bool
    delay_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LineFacts:
    """The call that is up."""

    call_id: str
    direction: Literal["inbound", "outbound"]
    caller: str
    callee: str
    codec: Literal["PCMU", "PCMA"]


@dataclass(frozen=True, slots=True)
class Marked:
    """All that was spoken before the mark of that name has been sent to the peer."""

    name: str


@dataclass(frozen=True, slots=True)
class Cleared:
    """What was spoken and not sent is dropped, so that `marks` are not reached; `played_ms` were sent in all."""

    marks: tuple[str, ...]
    played_ms: int


@dataclass(frozen=True, slots=True)
class Keyed:
    """The peer has keyed a digit."""

    digit: str


LineNotice = Marked | Cleared | Keyed


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """`healthy`: the process works. `ready`: it takes new work now. `details` go into the JSON body as they are."""

    healthy: bool
    ready: bool
    gpu_available: bool
    model_loaded: bool
    details: Mapping[str, str | int | float | bool]


class ControlError(Exception):
    """Base of what a control raises; the message is meant for the client, unless the class says otherwise."""


class FieldFault(ControlError):
    """One field of the request is at fault: `field`."""

    def __init__(self, message: str, *, field: str) -> None:
        super().__init__(message)
        self.field = field


class NotFound(FieldFault):
    """What the field names does not exist."""


class Refused(FieldFault):
    """The request cannot be done as it stands."""


class Unsupported(FieldFault):
    """The engine cannot do what the field asks for; another engine might."""


class Forbidden(FieldFault):
    """The configuration does not allow it."""


class Conflict(FieldFault):
    """Somebody else has what the field asks for."""


class Busy(ControlError):
    """It cannot be done now: no capacity, or something is down. Ask again after `retry_after_s` seconds."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Failed(ControlError):
    """The work broke on our side; the message is for the log, the client is only told that it broke."""


class Encoder(Protocol):
    """A file of mono sound, being written. One thread at a time, and any thread."""

    def feed(self, samples: bytes) -> None:
        """Encode signed 16-bit little-endian samples."""

    def finish(self) -> None:
        """No more samples will come."""

    def take(self) -> bytes:
        """What was written since the last time. A head that was not taken before `finish` knows the file's length."""


class Clauses(Protocol):
    """A text that arrives bit by bit, cut into pieces to be spoken; joined, they are the text."""

    def feed(self, text: str) -> Sequence[str]:
        """The pieces that are complete now."""

    def flush(self) -> Sequence[str]:
        """The rest, if there is anything to say in it."""


SocketEnd = Literal["done", "left", "idle", "slow", "refused", "failed"]
"""How a WebSocket ended: as asked, the client left, nothing came, nobody read, the client's fault, ours."""


class SpeechControl(Protocol):
    """The speech side of the server."""

    @property
    def engine(self) -> str:
        """The engine's short name, such as "espeak"."""

    @property
    def model_version(self) -> str:
        """Engine and version, such as "espeak-ng 1.52.0"; goes into X-Model-Version."""

    def synthesize(self, speech: Speech) -> AsyncGenerator[bytes, None]:
        """Signed 16-bit little-endian mono samples at `speech.rate_hz`, as they are made.

        Raises NotFound, Refused or Busy before the first chunk, Failed at any time. Closing it stops the work.
        """

    def voices(self) -> Sequence[VoiceFacts]:
        """What the engine speaks with, without speakers that were enrolled; the default first."""

    def describe_engine(self) -> Mapping[str, object]:
        """The engine, as another server's client of it has to know it: the fields of `EngineDescription`."""

    async def embed(self, samples: bytes, rate_hz: int) -> Embedding:
        """What the engine makes of a speaker's recording: signed 16-bit samples. Raises Refused, Busy or Failed."""

    def clauses(self) -> Clauses:
        """For a text that is yet to arrive."""

    def socket_opened(self) -> None:
        """A WebSocket was opened."""

    def socket_ended(self, how: SocketEnd) -> None:
        """... and has ended."""

    def health(self) -> Health:
        """How the server is now. Never blocks."""

    def metrics(self) -> tuple[bytes, str]:
        """The Prometheus exposition and its content type."""

    def observe_request(self, *, endpoint: str, status: int, latency_ms: float) -> None:
        """A speech request ended: `endpoint` is the name of its route, `latency_ms` from request to last byte.

        `status` tells how it ended, which a status line sent ahead of the body cannot: 499 when the client left before
        the end, 408 when it stopped reading and was cut off, 500 when the speech broke half-way.
        """

    def observe_refusal(self, status: int) -> None:
        """Somebody was not let in: 400, 401, 403 or 429."""


class PushControl(Protocol):
    """Speech in RTP packets to an address that the request names."""

    async def open_push(self, order: PushOrder) -> PushFacts:
        """Begin to send; returns when the first sound is there. Cancelling it leaves nothing behind.

        Raises NotFound, Refused, Forbidden, Conflict, Busy or Failed.
        """

    def pushes(self) -> Sequence[PushFacts]:
        """Those that are alive, and for a while those that have ended."""

    def push(self, id: str) -> PushFacts:
        """One of `pushes`. Raises NotFound."""

    async def stop_push(self, id: str) -> None:
        """Stop sending, unless it has ended; when it returns, nothing leaves any more. Raises NotFound."""


class PromptControl(Protocol):
    """Speech that is made ahead."""

    async def make_prompts(self, prompts: Sequence[Speech]) -> Sequence[PromptFacts]:
        """Have each made, unless it is kept already; in the order given. Raises Conflict when nothing is kept."""


class SpeakerControl(Protocol):
    """Voices that were enrolled. Every method raises Busy when the speakers cannot be reached."""

    async def enrol_speaker(self, order: SpeakerOrder) -> SpeakerFacts:
        """Raises Refused for a recording that will not do, Conflict when there are as many as may be, or Failed."""

    async def speakers(self) -> Sequence[SpeakerFacts]:
        """All of them, in the order in which they were enrolled."""

    async def speaker(self, id: str) -> tuple[SpeakerFacts, Embedding]:
        """Raises NotFound, Failed."""

    async def rename_speaker(self, id: str, name: str) -> SpeakerFacts:
        """Raises NotFound."""

    async def delete_speaker(self, id: str) -> None:
        """Raises NotFound."""


class CallLine(Protocol):
    """Somebody who listens to a call and speaks into it. Audio is in the format that was ordered."""

    async def opened(self) -> LineFacts | None:
        """The call, as soon as it is up; None if it never will be."""

    def heard(self) -> AsyncGenerator[bytes, None]:
        """The peer's audio from now on in frames of 20 ms, until the call is over; what is not taken is lost."""

    def notices(self) -> AsyncGenerator[LineNotice, None]:
        """What has happened, until the call is over."""

    async def play(self, audio: bytes) -> None:
        """Have this said next; waits for room. Raises Busy."""

    def mark(self, name: str) -> None:
        """Have it noticed when all that came before is said. Raises Refused when there are too many."""

    def clear(self) -> None:
        """Be silent at once, and drop what waits; it is noticed when that is done. Raises Refused as `mark` does."""


class RecordingControl(Protocol):
    """Calls that are recorded."""

    async def record(self, call_id: str, *, max_s: float | None) -> RecordingFacts:
        """Record a call from now on. Raises NotFound, Forbidden, Refused, Conflict or Busy."""

    def stop_recording(self, call_id: str) -> RecordingFacts:
        """End the recording of a call. Raises NotFound, or Conflict when there is none under way."""

    def recordings(self) -> Sequence[RecordingFacts]:
        """All of them, in the order in which they began."""

    def recording(self, id: str) -> RecordingFacts:
        """Raises NotFound."""

    async def recording_file(self, id: str) -> str:
        """The path of its file. Raises NotFound, or Conflict while it is under way."""

    async def delete_recording(self, id: str) -> None:
        """Raises NotFound, or Conflict while it is under way."""


class CallControl(RecordingControl, Protocol):
    """Telephone calls."""

    async def place_call(self, order: CallOrder) -> CallFacts:
        """Begin to call somebody; what becomes of it is to be seen. Raises NotFound, Refused, Forbidden or Busy."""

    async def take_offer(self, order: WebRtcOrder) -> WebRtcFacts:
        """Begin a browser's call. Cancelling it leaves nothing behind. Raises NotFound, Refused, Forbidden or Busy."""

    def calls(self) -> Sequence[CallFacts]:
        """Those that are alive, and for a while those that have ended."""

    def call(self, id: str) -> CallFacts:
        """One of `calls`. Raises NotFound."""

    def hang_up(self, id: str) -> None:
        """End a call, unless it has ended. Raises NotFound."""

    async def say(self, id: str, order: UtteranceOrder) -> UtteranceFacts:
        """Say something in a call. Raises NotFound, Refused, Unsupported, Conflict or Busy."""

    async def play(self, id: str, order: PlayOrder) -> UtteranceFacts:
        """Play something in a call. Raises NotFound, Refused, Forbidden, Conflict or Busy."""

    async def add_clip(self, file: bytes) -> ClipFacts:
        """Keep an audio file to be played in calls. Raises Refused or Busy."""

    def clip(self, id: str) -> ClipFacts:
        """Raises NotFound."""

    def delete_clip(self, id: str) -> None:
        """Raises NotFound."""

    async def stop_speech(self, id: str) -> CallFacts:
        """Drop what a call is saying and is to say; returns when that is done. Raises NotFound, Conflict."""

    def pause_speech(self, id: str, *, paused: bool) -> CallFacts:
        """Have what a call says wait, or go on. Raises NotFound, Conflict."""

    def send_digits(self, id: str, digits: str, *, duration_ms: int) -> None:
        """Send digits as RFC 4733 events. Raises NotFound, Conflict."""

    async def hold(self, id: str, *, held: bool) -> CallFacts:
        """Put the peer on hold, or take it off; returns when it has agreed. Raises NotFound, Conflict."""

    def events(
        self, after: str | None, *, call_id: str | None, idle_s: float
    ) -> AsyncGenerator[EventFacts | None, None]:
        """What happens to calls, or to one, from now on or after the event of that id; None when nothing does.

        With a `call_id` and no `after` it begins with the earliest that is kept.
        """

    def attach(self, id: str, order: LineOrder) -> AbstractContextManager[CallLine]:
        """Listen to a call and speak into it while the context lasts; what was handed in is said after it too.

        Raises NotFound, and Conflict if the call has ended, or if somebody speaks in it already.
        """

    async def transfer(self, id: str, *, to: str | None, call_id: str | None) -> TransferFacts:
        """Have the peer call `to`, or whom the call `call_id` is with; returns when it is known what came of it.

        Raises NotFound, Refused, Conflict.
        """


class Host(SpeechControl, PushControl, PromptControl, SpeakerControl, Protocol):
    """All that the API needs, but for calls."""
