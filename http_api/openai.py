"""POST /v1/audio/speech and GET /v1/models, as OpenAI's clients expect them.

Source: platform.openai.com/docs/api-reference/audio/createSpeech and the models' pages.

What differs is told, not hidden: the models are this server's engine under its own name and under OpenAI's; OpenAI's
voices are the default speaker, and every other name is a speaker of this server; there are no tokens to count, so the
usage is 0. Errors have OpenAI's form here, and its statuses: a field at fault is 400 where the rest of the API has 422.

`stream_format` "sse" sends (WHATWG HTML section 9.2)

    data: {"type":"speech.audio.delta","audio":"<base64>"}      data: {"type":"speech.audio.done","usage":{...}}

and a failure half-way as `data: {"error": {...}}`, which the clients raise.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web

from .admission import Admission
from .control import ControlError, Speech, SpeechControl
from .delivery import collect, deliver, hold, patiently
from .intake import CLIENT, FAILURE, answer, read_model
from .problem import Problem, of_control
from .rendition import AudioFormat, Encoding, Rendition
from .route import Answer, Operation
from .schema import (
    ApiLimits,
    OpenAiError,
    OpenAiFault,
    OpenAiModel,
    OpenAiModelList,
    OpenAiSpeechDelta,
    OpenAiSpeechDone,
    OpenAiSpeechRequest,
    OpenAiUsage,
)

__all__ = ["MODEL", "MODELS", "SPEECH", "OpenAi", "complaint"]

# platform.openai.com/docs/guides/text-to-speech
ALIASES = ("tts-1", "tts-1-hd", "gpt-4o-mini-tts", "gpt-4o-mini-tts-2025-12-15")
VOICES = frozenset(
    ["alloy", "ash", "ballad", "cedar", "coral", "echo", "fable", "marin", "nova", "onyx", "sage", "shimmer", "verse"],
)
# OpenAI's rate, and that of G.711.
RATE_HZ = 24000
G711_RATE_HZ = 8000

# Their names for our fields, and their statuses for ours.
PARAMETERS = {"text": "input", "speaker_id": "voice"}
STATUSES = {422: 400}

PROBLEMS = (400, 404, 408, 413, 415, 417, 429, 500, 503)

SPEECH = Operation(
    summary="Speak a text, as OpenAI's clients ask for it",
    description="For `client.audio.speech.create(...)` with `base_url` at this server's `/v1`. `model` is one of "
    "`GET /v1/models`. `voice` is a speaker of this server; OpenAI's own voices (alloy, echo, ...) are the default "
    "speaker. All formats have 24000 samples a second, mulaw and alaw 8000. With `stream_format` `sse`, the events are "
    "`speech.audio.delta`, with base64 data, and at the end `speech.audio.done`; its usage is 0, because nothing is "
    "counted in tokens. A WAV file that is not complete within a moment says in its head that its length is unknown.",
    body=OpenAiSpeechRequest,
    examples={
        "An MP3 file": {"model": "tts-1", "input": "Hello, world.", "voice": "alloy"},
        "Events, in a voice of this server": {
            "model": "gpt-4o-mini-tts",
            "input": "Hello, world.",
            "voice": {"id": "en-us"},
            "response_format": "pcm",
            "stream_format": "sse",
        },
    },
    answers=(
        Answer(
            status=200,
            description="The speech.",
            content={
                **dict.fromkeys(("audio/mpeg", "audio/wav", "audio/x-pcm", "audio/ogg", "audio/flac"), b""),
                **dict.fromkeys(("audio/basic", "audio/x-alaw-basic"), b""),
                "text/event-stream": 'data: {"type":"speech.audio.delta","audio":"//79/A=="}\n\ndata: '
                '{"type":"speech.audio.done","usage":{"input_tokens":0,"output_tokens":0,"total_tokens":0}}\n\n',
            },
            headers={"X-Model-Version": "Engine and version that spoke.", "X-Cache": "`hit` or `miss`."},
        ),
    ),
    problems=PROBLEMS,
    problem=OpenAiError,
    models=(OpenAiSpeechDelta, OpenAiSpeechDone),
)

MODELS = Operation(
    summary="What `model` may be",
    description="The engine, under its own name and under those of OpenAI's models.",
    answers=(Answer(status=200, description="They are.", content={"application/json": OpenAiModelList}),),
    problems=(500,),
    problem=OpenAiError,
)

MODEL = Operation(
    summary="One of the models",
    answers=(Answer(status=200, description="It is.", content={"application/json": OpenAiModel}),),
    problems=(404, 500),
    problem=OpenAiError,
)

Act = Callable[[web.Request], Awaitable[web.StreamResponse]]


class OpenAi:
    """The resources."""

    def __init__(
        self, control: SpeechControl, *, limits: ApiLimits, admission: Admission, formats: Mapping[str, AudioFormat]
    ) -> None:
        self._control = control
        self._limits = limits
        self._admission = admission
        self._formats = formats
        self._born = int(time.time())

    async def models(self, request: web.Request) -> web.Response:
        return answer(200, OpenAiModelList(object="list", data=tuple(map(self._card, self._names()))))

    async def model(self, request: web.Request) -> web.Response:
        name = request.match_info["model"]
        self._check_model(name)
        return answer(200, self._card(name))

    async def speech(self, request: web.Request) -> web.StreamResponse:
        order = await read_model(request, OpenAiSpeechRequest, self._limits)
        self._check_model(order.model)
        rate_hz = G711_RATE_HZ if order.response_format in ("mulaw", "alaw") else RATE_HZ
        voice = order.voice if isinstance(order.voice, str) else order.voice.id
        speech = Speech(
            text=order.input,
            speaker_id="default" if voice in VOICES else voice,
            rate_hz=rate_hz,
            speed=order.speed,
        )
        with self._admission.slot(request[CLIENT]):
            chunks = self._control.synthesize(speech)
            async with Rendition(chunks, rate_hz=rate_hz, model_version=self._control.model_version) as rendition:
                if order.stream_format == "sse":
                    return await self._events(request, rendition, order.response_format, rate_hz)
                return await self._body(request, rendition, order, rate_hz)

    async def _body(
        self, request: web.Request, rendition: Rendition, order: OpenAiSpeechRequest, rate_hz: int
    ) -> web.StreamResponse:
        audio = self._formats[order.response_format]
        file = Encoding(audio, rate_hz)
        if order.stream is False:
            await collect(rendition, file, rate_hz=rate_hz, limits=self._limits, field="input")
            complete = True
        else:
            waits = audio.tells_length and not order.stream
            complete = await hold(rendition, file, hold_ms=self._limits.hold_ms if waits else 0)
        response = web.StreamResponse(
            headers={"Content-Type": audio.content_type, **self._headers(), "X-Cache": rendition.cache}
        )
        await deliver(request, response, rendition, file, complete=complete, limits=self._limits)
        return response

    async def _events(
        self, request: web.Request, rendition: Rendition, format: str, rate_hz: int
    ) -> web.StreamResponse:
        file = Encoding(self._formats[format], rate_hz)
        response = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream",
                "Cache-Control": "no-store",
                "X-Accel-Buffering": "no",
                **self._headers(),
            }
        )

        async def send(data: str) -> None:
            if not response.prepared:
                response.headers["X-Cache"] = rendition.cache
                await response.prepare(request)
            await patiently(response.write(f"data: {data}\n\n".encode()), self._limits)

        async def send_audio() -> None:
            if octets := file.take():
                audio = base64.b64encode(octets).decode()
                await send(OpenAiSpeechDelta(type="speech.audio.delta", audio=audio).model_dump_json())

        try:
            while (chunk := await rendition.next()) is not None:
                await file.feed(chunk)
                await send_audio()
            await file.finish()
            await send_audio()
            usage = OpenAiUsage(input_tokens=0, output_tokens=0, total_tokens=0)
            await send(OpenAiSpeechDone(type="speech.audio.done", usage=usage).model_dump_json())
        except ControlError as error:
            if not response.prepared:
                raise
            request[FAILURE] = error
            await send(_fault(of_control(error)).model_dump_json())
        await patiently(response.write_eof(), self._limits)
        return response

    def _headers(self) -> Mapping[str, str]:
        return {"X-Model-Version": self._control.model_version}

    def _names(self) -> tuple[str, ...]:
        return (self._control.engine, *ALIASES)

    def _check_model(self, name: str) -> None:
        if name not in self._names():
            raise Problem.of_field(404, "model", f"There is no model {name[:100]!r}; see GET /v1/models")

    def _card(self, name: str) -> OpenAiModel:
        return OpenAiModel(id=name, object="model", created=self._born, owned_by="mediaserver")


def complaint(problem: Problem, request_id: str) -> web.Response:
    """`problem` in OpenAI's form."""
    response = web.Response(
        status=STATUSES.get(problem.status, problem.status),
        body=_fault(problem).model_dump_json().encode(),
        content_type="application/json",
        headers={**problem.headers, "X-Request-Id": request_id},
    )
    if problem.closes:
        response.force_close()
    return response


def _fault(problem: Problem) -> OpenAiError:
    field = problem.errors[0].field if problem.errors else None
    kind: str
    code: str | None
    match problem.status:
        case 401:
            kind, code = "invalid_request_error", "invalid_api_key"
        case 404 if field == "model":
            kind, code = "invalid_request_error", "model_not_found"
        case 404:
            kind, code = "invalid_request_error", "not_found"
        case 429:
            kind, code = "requests", "rate_limit_exceeded"
        case 503:
            kind, code = "server_error", "overloaded"
        case 500:
            kind, code = "server_error", None
        case _:
            kind, code = "invalid_request_error", None
    param = PARAMETERS.get(field, field) if field else None
    message = f"{param}: {problem.detail.removeprefix(f'{field}: ')}" if param else problem.detail
    return OpenAiError(error=OpenAiFault(message=message, type=kind, param=param, code=code))
