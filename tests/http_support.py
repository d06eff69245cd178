"""A host for the HTTP API: an engine that says what a test scripts, behind the control seam; real sockets before it."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import aiohttp

from engines import Arriving
from engines.in_process import InProcessTone
from engines.tone import Faults
from http_api import (
    ApiLimits,
    Busy,
    CallEnd,
    CallFacts,
    CallOrder,
    Clauses,
    ClipFacts,
    Conflict,
    Embedding,
    EventFacts,
    Gate,
    Health,
    LineFacts,
    LineNotice,
    LineOrder,
    Listening,
    NotFound,
    PlayOrder,
    PromptFacts,
    PushFacts,
    PushOrder,
    RecordingFacts,
    Refused,
    SocketEnd,
    SpeakerFacts,
    SpeakerOrder,
    Speech,
    TransferFacts,
    UtteranceFacts,
    UtteranceOrder,
    VoiceFacts,
    WebRtcFacts,
    WebRtcOrder,
    make_app,
    serve,
)

MODEL = "fake 1.0"
VERSION = "9.8.7"

SPEAKER = SpeakerFacts(
    id="spk_0123456789abcdef01234567",
    name="Ada",
    consent=None,
    created_at=datetime(2026, 11, 25, 12, 0, tzinfo=UTC),
    engine="fake",
    cloning=True,
    duration_s=12.5,
    speech_s=10.25,
    level_db=-21.5,
)

UTTERANCE = UtteranceFacts(
    id="utt_0123456789abcdef", state="queued", text="Hello.", ssml=False, speaker_id="default", spoken_ms=0
)

CALL = CallFacts(
    id="call_0123456789abcdef01234567",
    direction="outbound",
    caller="sip:mediaserver@127.0.0.1",
    callee="sip:alice@127.0.0.1:5070",
    trunk=None,
    state="ended",
    created_at=datetime(2026, 11, 25, 12, 0, tzinfo=UTC),
    ringing_at=None,
    answered_at=None,
    ended_at=datetime(2026, 11, 25, 12, 0, 1, tzinfo=UTC),
    end=CallEnd(reason="busy", by="peer", sip_status=486, sip_reason="Busy Here"),
    media=None,
    held=False,
    paused=False,
    digits=0,
    first_speech_ms=None,
    speech=(UTTERANCE,),
    recordings=(
        RecordingFacts(
            id="rec_0123456789abcdef01234567",
            call_id="call_0123456789abcdef01234567",
            state="ended",
            started_at=datetime(2026, 11, 25, 12, 0, tzinfo=UTC),
            ended_at=datetime(2026, 11, 25, 12, 0, 1, tzinfo=UTC),
            reason="call_ended",
            duration_ms=1000,
            size_bytes=32044,
        ),
    ),
)

CLIP = ClipFacts(id="clip_0123456789abcdef01234567", duration_ms=1500)

Script = Callable[[Speech], AsyncGenerator[bytes, None]]


def ramp(samples: int, *, start: int = 0) -> bytes:
    """Samples that all differ from their neighbours, so that a lost, doubled or shifted one shows."""
    return struct.pack(f"<{samples}h", *((start + 7 * n) % 65536 - 32768 for n in range(samples)))


def says(*chunks: bytes) -> Script:
    """An engine that has all of it at once."""

    async def speak(speech: Speech) -> AsyncGenerator[bytes, None]:
        for chunk in chunks:
            yield chunk

    return speak


def breaks(error: Exception, *before: bytes) -> Script:
    """An engine that fails after some chunks."""

    async def speak(speech: Speech) -> AsyncGenerator[bytes, None]:
        for chunk in before:
            yield chunk
        raise error

    return speak


class Gated:
    """An engine that gives a chunk, then waits for `gate`, then gives the rest; it tells when it was closed."""

    def __init__(self, before: bytes, *after: bytes) -> None:
        self.before = before
        self.after = after
        self.gate = asyncio.Event()
        self.waiting = asyncio.Event()
        self.closed = asyncio.Event()

    async def __call__(self, speech: Speech) -> AsyncGenerator[bytes, None]:
        try:
            if self.before:
                yield self.before
            self.waiting.set()
            await self.gate.wait()
            for chunk in self.after:
                yield chunk
        finally:
            self.closed.set()


class Endless:
    """An engine that never ends, and counts what it was made to give."""

    def __init__(self, chunk: bytes) -> None:
        self.chunk = chunk
        self.given = 0
        self.closed = asyncio.Event()

    async def __call__(self, speech: Speech) -> AsyncGenerator[bytes, None]:
        try:
            while True:
                await asyncio.sleep(0)
                self.given += len(self.chunk)
                yield self.chunk
        finally:
            self.closed.set()


@dataclass
class FakeControl:
    """A `Host` that keeps what it was told, and has no room for a push."""

    script: Script
    state: Health = field(
        default_factory=lambda: Health(
            healthy=True, ready=True, gpu_available=False, model_loaded=True, details={"engine": "fake", "workers": 2}
        )
    )
    asked: list[Speech] = field(default_factory=list)
    enrolled: list[SpeakerOrder] = field(default_factory=list)
    refusals: list[int] = field(default_factory=list)
    requests: list[tuple[str, int]] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)
    sockets: list[str] = field(default_factory=list)
    observed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def engine(self) -> str:
        return MODEL.partition(" ")[0]

    @property
    def model_version(self) -> str:
        return MODEL

    def synthesize(self, speech: Speech) -> AsyncGenerator[bytes, None]:
        self.asked.append(speech)
        return self.script(speech)

    def voices(self) -> list[VoiceFacts]:
        return [VoiceFacts(id="en", name="English", language="en"), VoiceFacts(id="de", name="Deutsch", language="de")]

    def describe_engine(self) -> Mapping[str, object]:
        return InProcessTone(Faults(), "tone-440").describe()

    async def embed(self, samples: bytes, rate_hz: int) -> Embedding:
        return Embedding(kind="fake-1", data=samples[:2], figures={"rate": float(rate_hz)})

    def clauses(self) -> Clauses:
        return Arriving()

    def socket_opened(self) -> None:
        self.sockets.append("open")

    def socket_ended(self, how: SocketEnd) -> None:
        self.sockets.remove("open")
        self.sockets.append(how)
        self.observed.set()

    def health(self) -> Health:
        return self.state

    def metrics(self) -> tuple[bytes, str]:
        return b"# HELP up It is.\n# TYPE up gauge\nup 1\n", "text/plain; version=0.0.4; charset=utf-8"

    async def open_push(self, order: PushOrder) -> PushFacts:
        raise Busy("There is no room.", retry_after_s=7.2)

    def pushes(self) -> list[PushFacts]:
        return []

    def push(self, id: str) -> PushFacts:
        raise NotFound(f"There is no push {id!r}", field="id")

    async def stop_push(self, id: str) -> None:
        raise NotFound(f"There is no push {id!r}", field="id")

    async def make_prompts(self, prompts: Sequence[Speech]) -> list[PromptFacts]:
        self.asked += prompts
        return [
            PromptFacts(status="failed", duration_ms=0, field="text", error="It is forbidden.")
            if prompt.text == "forbidden"
            else PromptFacts(status="made", duration_ms=500.0)
            for prompt in prompts
        ]

    async def enrol_speaker(self, order: SpeakerOrder) -> SpeakerFacts:
        self.enrolled.append(order)
        return SPEAKER

    async def speakers(self) -> list[SpeakerFacts]:
        return [SPEAKER]

    async def speaker(self, id: str) -> tuple[SpeakerFacts, Embedding]:
        if id != SPEAKER.id:
            raise NotFound(f"There is no speaker {id!r}", field="id")
        return SPEAKER, Embedding(kind="fake-1", data=b"\x00\xff", figures={"median_f0_hz": 120.5})

    async def rename_speaker(self, id: str, name: str) -> SpeakerFacts:
        return replace((await self.speaker(id))[0], name=name)

    async def delete_speaker(self, id: str) -> None:
        await self.speaker(id)

    def observe_refusal(self, status: int) -> None:
        self.refusals.append(status)

    def observe_request(self, *, endpoint: str, status: int, latency_ms: float) -> None:
        self.requests.append((endpoint, status))
        self.latencies_ms.append(latency_ms)
        self.observed.set()


LINE = LineFacts(
    call_id=CALL.id, direction="outbound", caller="sip:desk@example.com", callee="sip:alice@example.com", codec="PCMU"
)


@dataclass
class FakeLine:
    """A `CallLine` that keeps what it is told, and hears and notices what a test puts in; None ends either."""

    up: asyncio.Event = field(default_factory=asyncio.Event)
    frames: asyncio.Queue[bytes | None] = field(default_factory=asyncio.Queue)
    happenings: asyncio.Queue[LineNotice | None] = field(default_factory=asyncio.Queue)
    told: list[object] = field(default_factory=list)
    facts: LineFacts | None = LINE
    error: Exception | None = None
    room: asyncio.Event | None = None

    async def opened(self) -> LineFacts | None:
        await self.up.wait()
        return self.facts

    async def heard(self) -> AsyncGenerator[bytes, None]:
        while (frame := await self.frames.get()) is not None:
            yield frame

    async def notices(self) -> AsyncGenerator[LineNotice, None]:
        while (notice := await self.happenings.get()) is not None:
            yield notice

    async def play(self, audio: bytes) -> None:
        if self.error is not None:
            raise self.error
        self.told.append(audio)
        if self.room is not None:
            await self.room.wait()

    def mark(self, name: str) -> None:
        self.told.append(name)

    def clear(self) -> None:
        self.told.append(None)


@dataclass
class FakeCalls:
    """A `CallControl` that knows one call, which has ended, and keeps what it was told."""

    placed: list[CallOrder] = field(default_factory=list)
    played: list[PlayOrder] = field(default_factory=list)
    offered: list[WebRtcOrder] = field(default_factory=list)
    line: FakeLine | None = None
    orders: list[LineOrder] = field(default_factory=list)
    attached: int = 0

    @contextmanager
    def attach(self, id: str, order: LineOrder) -> Iterator[FakeLine]:
        self.call(id)
        if self.line is None:
            raise Conflict("The call has ended", field="id")
        self.orders.append(order)
        self.attached += 1
        try:
            yield self.line
        finally:
            self.attached -= 1

    async def place_call(self, order: CallOrder) -> CallFacts:
        self.placed.append(order)
        return CALL

    async def take_offer(self, order: WebRtcOrder) -> WebRtcFacts:
        self.offered.append(order)
        if "m=audio" not in order.sdp:
            raise Refused("It has no audio", field="sdp")
        return WebRtcFacts(call_id=CALL.id, sdp="v=0\r\n")

    def calls(self) -> list[CallFacts]:
        return [CALL]

    def call(self, id: str) -> CallFacts:
        if id != CALL.id:
            raise NotFound(f"There is no call {id!r}", field="id")
        return CALL

    def hang_up(self, id: str) -> None:
        self.call(id)

    async def say(self, id: str, order: UtteranceOrder) -> UtteranceFacts:
        self.call(id)
        raise Conflict("The call has ended", field="id")

    async def play(self, id: str, order: PlayOrder) -> UtteranceFacts:
        self.call(id)
        self.played.append(order)
        return replace(UTTERANCE, text=None, speaker_id=None)

    async def add_clip(self, file: bytes) -> ClipFacts:
        return CLIP

    def clip(self, id: str) -> ClipFacts:
        if id != CLIP.id:
            raise NotFound(f"There is no clip {id!r}", field="id")
        return CLIP

    def delete_clip(self, id: str) -> None:
        self.clip(id)

    async def stop_speech(self, id: str) -> CallFacts:
        self.call(id)
        raise Conflict("The call has ended", field="id")

    def pause_speech(self, id: str, *, paused: bool) -> CallFacts:
        self.call(id)
        raise Conflict("The call has ended", field="id")

    def send_digits(self, id: str, digits: str, *, duration_ms: int) -> None:
        self.call(id)

    async def hold(self, id: str, *, held: bool) -> CallFacts:
        self.call(id)
        raise Conflict("The call has ended", field="id")

    async def events(
        self, after: str | None, *, call_id: str | None, idle_s: float
    ) -> AsyncGenerator[EventFacts | None, None]:
        """Those of one call, with a pause in between; then it ends, as no host's does."""
        for number, kind in enumerate(("call.created", "", "call.ended")):
            event = EventFacts(id=f"e-{number}", kind=kind, call_id=CALL.id, at=CALL.created_at, details={})
            yield event if kind else None

    async def record(self, call_id: str, *, max_s: float | None) -> RecordingFacts:
        self.call(call_id)
        raise Conflict("The call has ended", field="id")

    def stop_recording(self, call_id: str) -> RecordingFacts:
        self.call(call_id)
        raise Conflict("The call has ended", field="id")

    def recordings(self) -> tuple[RecordingFacts, ...]:
        return CALL.recordings

    def recording(self, id: str) -> RecordingFacts:
        if id != CALL.recordings[0].id:
            raise NotFound(f"There is no recording {id!r}", field="id")
        return CALL.recordings[0]

    async def recording_file(self, id: str) -> str:
        self.recording(id)
        return __file__

    async def delete_recording(self, id: str) -> None:
        self.recording(id)

    async def transfer(self, id: str, *, to: str | None, call_id: str | None) -> TransferFacts:
        self.call(id)
        return TransferFacts(outcome="failed", sip_status=486, sip_reason="Busy Here")


def mulaw_like(samples: bytes) -> bytes:
    """Stands for mu-law: the high octet of every sample."""
    return samples[1::2]


def alaw_like(samples: bytes) -> bytes:
    """Stands for A-law: the low octet of every sample."""
    return samples[0::2]


class Boxes:
    """Stands for a format with a head that tells the length, and pages of 1000 octets."""

    def __init__(self, rate_hz: int) -> None:
        self._head = f"[{rate_hz}:?]".encode()
        self._samples = b""
        self._finished = False

    def feed(self, samples: bytes) -> None:
        self._samples += samples

    def finish(self) -> None:
        self._finished = True
        self._head = self._head.replace(b"?", str(len(self._samples)).encode())

    def take(self) -> bytes:
        size = len(self._samples) if self._finished else len(self._samples) // 1000 * 1000
        taken, self._samples, self._head = self._head + self._samples[:size], self._samples[size:], b""
        return taken


ENCODE = {"mulaw": mulaw_like, "alaw": alaw_like}
ENCODERS = {"opus": Boxes, "flac": Boxes, "mp3": Boxes}


@dataclass
class Api:
    """A running API and a client of it."""

    control: FakeControl
    calls: FakeCalls
    listening: Listening
    client: aiohttp.ClientSession
    lines: AsyncExitStack

    async def dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A bare connection, for what no HTTP client would send; closed at the end."""
        reader, writer = await asyncio.open_connection(*self.listening.addresses[0])
        self.lines.callback(writer.close)
        return reader, writer


@asynccontextmanager
async def running(
    script: Script, limits: ApiLimits | None = None, *, grace_s: float = 1.0, gate: Gate | None = None
) -> AsyncIterator[Api]:
    control, calls = FakeControl(script), FakeCalls()
    app = make_app(control, calls=calls, version=VERSION, encode=ENCODE, encoders=ENCODERS, limits=limits, gate=gate)
    async with (
        serve(app, "127.0.0.1", 0, grace_s=grace_s) as listening,
        aiohttp.ClientSession(listening.url, timeout=aiohttp.ClientTimeout(total=10)) as client,
        AsyncExitStack() as lines,
    ):
        yield Api(control, calls, listening, client, lines)


@dataclass(frozen=True)
class Event:
    kind: str
    data: str
    id: str


def parse_events(body: bytes) -> list[Event]:
    """Server-sent events as WHATWG HTML section 9.2.6 reads them; comments are left out."""
    events = []
    for block in body.decode().removesuffix("\n\n").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":"))
        if fields:
            events.append(Event(fields["event"], fields["data"], fields.get("id", "")))
    return events
