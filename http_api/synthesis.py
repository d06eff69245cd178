"""POST /v1/synthesize and POST /v1/synthesize/stream: text in, speech out.

**One body.** A WAV file is collected, since it begins with its length. The other formats are streamed as they are made;
their figures (X-Inference-Time-Ms, X-Audio-Duration-Ms, X-RTF) belong in headers, which leave before the body. So the
response is held back until the speech is complete or `hold_ms` have passed. In the first case (an engine much faster
than real time, a text of a few sentences) headers are exact and Content-Length is there; in the second the body is
chunked, and of the headers only X-Model-Version is there. Speech that breaks half-way breaks the connection, so that
nobody takes the part for the whole.

**Events** (WHATWG HTML section 9.2):

    id: 0                   event: done                               event: error
    event: audio            data: {"inference_time_ms": 3.1, ...}     data: {"status": 500, ...}
    data: <base64>

`audio` carries `chunk_size_ms` of speech, `id` counts them from 0. `done` ends the stream with a `SpeechFigures`, or
`error` with a `ProblemDetails`. A comment is sent when there was nothing for `keep_alive_s`.

A client that leaves stops the engine at once; one that stops reading is cut off after `stall_timeout_s`.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Literal

from aiohttp import web

from .admission import Admission
from .control import ControlError, Speech, SpeechControl
from .delivery import collect, deliver, hold, patiently
from .intake import CLIENT, FAILURE, REQUEST_ID, read_model
from .problem import of_control
from .rendition import SAMPLE_BYTES, AudioFormat, Encoding, Rendition
from .route import Answer, Operation
from .schema import ApiLimits, SpeechFigures, StreamRequest, SynthesizeRequest

__all__ = ["STREAM", "SYNTHESIZE", "Synthesis"]

KEEP_ALIVE = b": keep-alive\n\n"

MODEL_HEADER = {
    "X-Model-Version": "Engine and version that spoke.",
    "X-Cache": "`hit`: the speech had been made before, or was being made for somebody else. `miss`: made for this.",
}
FIGURE_HEADERS = {
    "X-Inference-Time-Ms": "Time spent waiting for the engine. Absent from a body that is streamed.",
    "X-Audio-Duration-Ms": "How much speech came of it. Absent from a body that is streamed.",
    "X-RTF": "Real-time factor: the one over the other. Absent from a body that is streamed.",
}
PROBLEMS = (400, 404, 408, 413, 415, 417, 422, 429, 500, 503)

SYNTHESIZE = Operation(
    summary="Speak a text: one body of audio",
    description="A WAV file comes as a whole. The other formats come as a whole when their speech is complete within a "
    "moment, and are streamed as it is made otherwise: then the body is chunked and the headers with figures are "
    "absent. A streamed body that breaks off, without its last chunk, is speech that failed half-way.",
    body=SynthesizeRequest,
    examples={
        "A WAV file": {"text": "Hello, world."},
        "For the telephone": {"text": "Guten Tag.", "speaker_id": "de", "format": "mulaw"},
        "SSML as Opus": {"ssml": '<speak>One, <break time="500ms"/> two.</speak>', "format": "opus"},
        "Slower, by the language": {"text": "Good evening.", "language": "en-GB", "speed": 0.8},
    },
    answers=(
        Answer(
            status=200,
            description="The speech.",
            content=dict.fromkeys(
                (
                    *("audio/wav", "audio/x-pcm", "audio/basic", "audio/x-alaw-basic"),
                    *("audio/ogg", "audio/flac", "audio/mpeg"),
                ),
                b"",
            ),
            headers=MODEL_HEADER | FIGURE_HEADERS,
        ),
    ),
    problems=PROBLEMS,
)

STREAM = Operation(
    summary="Speak a text: server-sent events",
    description="`event: audio` has base64 data, `chunk_size_ms` of speech in each but the last, and an `id` that "
    "counts from 0. `event: done` is the last and has `SpeechFigures`; or `event: error` is, and has "
    "`ProblemDetails`. A comment comes when there was nothing for long.",
    body=StreamRequest,
    examples={
        "Samples": {"text": "Hello, world.", "chunk_size_ms": 100},
        "For the telephone": {"text": "Hello, world.", "format": "alaw", "chunk_size_ms": 20},
    },
    answers=(
        Answer(
            status=200,
            description="The speech.",
            content={
                "text/event-stream": "id: 0\nevent: audio\ndata: //79/A==\n\nevent: done\ndata: "
                '{"inference_time_ms":3.1,"audio_duration_ms":250.0,"rtf":0.0124,"model_version":"espeak-ng 1.52"}\n\n'
            },
            headers=MODEL_HEADER,
        ),
    ),
    problems=PROBLEMS,
)


class Synthesis:
    """The speech resource."""

    def __init__(
        self, control: SpeechControl, *, limits: ApiLimits, admission: Admission, formats: Mapping[str, AudioFormat]
    ) -> None:
        self._control = control
        self._limits = limits
        self._admission = admission
        self._formats = formats

    async def synthesize(self, request: web.Request) -> web.StreamResponse:
        """Speech as one body."""
        order = await read_model(request, SynthesizeRequest, self._limits)
        audio = self._formats[order.format]
        with self._admission.slot(request[CLIENT]):
            async with self._rendition(order) as rendition:
                file = Encoding(audio, order.sample_rate)
                if order.format == "wav":
                    field = "text" if order.text else "ssml"
                    await collect(rendition, file, rate_hz=order.sample_rate, limits=self._limits, field=field)
                    complete = True
                else:
                    complete = await hold(rendition, file, hold_ms=self._limits.hold_ms)
                response = web.StreamResponse(headers={"Content-Type": audio.content_type})
                response.headers["X-Model-Version"] = self._control.model_version
                response.headers["X-Cache"] = rendition.cache
                if complete:
                    response.headers.update(_headers(rendition.figures()))
                await deliver(request, response, rendition, file, complete=complete, limits=self._limits)
                return response

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """Speech as server-sent events."""
        order = await read_model(request, StreamRequest, self._limits)
        response = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream",
                "Cache-Control": "no-store",
                "X-Accel-Buffering": "no",  # nginx would collect the events otherwise
                "X-Model-Version": self._control.model_version,
            }
        )
        with self._admission.slot(request[CLIENT]):
            async with self._rendition(order) as rendition:
                try:
                    async with aclosing(self._events(rendition, order)) as events:
                        async for event in events:
                            if not response.prepared:
                                response.headers["X-Cache"] = rendition.cache
                                await response.prepare(request)
                            await patiently(response.write(event), self._limits)
                except ControlError as error:
                    if not response.prepared:
                        raise
                    request[FAILURE] = error
                    details = of_control(error).details(request[REQUEST_ID])
                    await patiently(response.write(_event("error", details.model_dump_json())), self._limits)
                await patiently(response.write_eof(), self._limits)
                return response

    def _rendition(self, order: SynthesizeRequest) -> Rendition:
        speech = Speech(
            text=order.words(),
            ssml=order.ssml is not None,
            speaker_id=order.speaker_id,
            rate_hz=order.sample_rate,
            language=order.language,
            speed=order.speed,
            seed=order.seed,
        )
        return Rendition(
            self._control.synthesize(speech), rate_hz=order.sample_rate, model_version=self._control.model_version
        )

    async def _events(self, rendition: Rendition, order: StreamRequest) -> AsyncGenerator[bytes, None]:
        file = Encoding(self._formats[order.format], order.sample_rate)
        size = order.chunk_size_ms * order.sample_rate // 1000 * SAMPLE_BYTES
        pending = bytearray()
        sequence = 0
        complete = False
        while not complete:
            try:
                chunk = await rendition.next(self._limits.keep_alive_s)
            except TimeoutError:
                yield KEEP_ALIVE
                continue
            complete = chunk is None
            pending += chunk or b""
            ready = bytearray()  # one write for all that there is
            while len(pending) >= size:
                await file.feed(bytes(pending[:size]))
                del pending[:size]
                if octets := file.take():
                    ready += _event("audio", base64.b64encode(octets).decode(), id=sequence)
                    sequence += 1
            if ready:
                yield bytes(ready)
        await file.feed(bytes(pending))
        await file.finish()
        if octets := file.take():
            yield _event("audio", base64.b64encode(octets).decode(), id=sequence)
        yield _event("done", rendition.figures().model_dump_json())


def _headers(figures: SpeechFigures) -> dict[str, str]:
    return {
        "X-Inference-Time-Ms": f"{figures.inference_time_ms:.3f}",
        "X-Audio-Duration-Ms": f"{figures.audio_duration_ms:.3f}",
        "X-RTF": f"{figures.rtf:.6f}",
    }


def _event(kind: Literal["audio", "done", "error"], data: str, *, id: int | None = None) -> bytes:
    """One event; `data` has no line break in it."""
    identity = "" if id is None else f"id: {id}\n"
    return f"{identity}event: {kind}\ndata: {data}\n\n".encode()
