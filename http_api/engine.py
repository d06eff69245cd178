"""/v1/engine: the engine for other servers, whose own it is in all but the machine that it runs on.

Speech is not held back for its headers' sake, and it has none: each chunk leaves as it is made. A body that breaks off
without its last chunk is speech that failed half-way.
"""

from __future__ import annotations

import base64
import binascii
from contextlib import aclosing

from aiohttp import web

from .admission import Admission
from .control import Speech, SpeechControl
from .delivery import patiently
from .intake import CLIENT, answer, read_model
from .problem import Problem
from .route import Answer, Operation
from .schema import ApiLimits, EmbeddingReport, EmbeddingRequest, EngineDescription, EngineRequest

__all__ = ["DESCRIBE", "EMBED", "UTTER", "LentEngine"]

CONTENT_TYPE = "audio/x-pcm"

DESCRIBE = Operation(
    summary="The engine",
    description="What another server has to know of it, so that it is there what it is here (`engine.name` `remote`).",
    answers=(Answer(status=200, description="It is.", content={"application/json": EngineDescription}),),
    problems=(500,),
)

UTTER = Operation(
    summary="Speak an utterance, for another server",
    description="Samples leave as they are made: signed 16-bit little-endian, `rate_hz` a second. A body that breaks "
    "off, without its last chunk, is speech that failed half-way.",
    body=EngineRequest,
    examples={"for a call": {"text": "Hello, world.", "voice": "en-us", "rate_hz": 8000}},
    answers=(Answer(status=200, description="The speech.", content={CONTENT_TYPE: b""}),),
    problems=(400, 404, 408, 413, 415, 417, 422, 429, 500, 503),
)

EMBED = Operation(
    summary="Make the embedding of a speaker, for another server",
    description="Nothing is kept. To enrol a speaker here, use `/v1/speakers`.",
    body=EmbeddingRequest,
    examples={"a tenth of a second, which is too short": {"recording": "AAAA" * 400, "rate_hz": 8000}},
    answers=(Answer(status=200, description="It is.", content={"application/json": EmbeddingReport}),),
    problems=(400, 408, 413, 415, 417, 422, 429, 500, 503),
)


class LentEngine:
    """The resource."""

    def __init__(self, control: SpeechControl, *, limits: ApiLimits, admission: Admission) -> None:
        self._control = control
        self._limits = limits
        self._admission = admission

    async def describe(self, request: web.Request) -> web.Response:
        return answer(200, EngineDescription.model_validate(self._control.describe_engine(), strict=False))

    async def utter(self, request: web.Request) -> web.StreamResponse:
        order = await read_model(request, EngineRequest, self._limits, max_bytes=self._limits.max_upload_bytes)
        speech = Speech(
            text=order.text,
            ssml=order.ssml,
            speaker_id=order.voice,
            language=order.language,
            speed=order.speed,
            seed=order.seed,
            rate_hz=order.rate_hz,
            continues=order.continues,
            embedding=_octets("embedding", order.embedding),
        )
        response = web.StreamResponse(headers={"Content-Type": CONTENT_TYPE})
        with self._admission.slot(request[CLIENT]):
            async with aclosing(self._control.synthesize(speech)) as chunks:
                async for chunk in chunks:
                    if not response.prepared:
                        await response.prepare(request)
                    await patiently(response.write(chunk), self._limits)
            if not response.prepared:
                await response.prepare(request)
            await patiently(response.write_eof(), self._limits)
        return response

    async def embed(self, request: web.Request) -> web.Response:
        order = await read_model(request, EmbeddingRequest, self._limits, max_bytes=self._limits.max_upload_bytes)
        recording = _octets("recording", order.recording)
        with self._admission.slot(request[CLIENT]):
            made = await self._control.embed(recording[: len(recording) // 2 * 2], order.rate_hz)
        data = base64.b64encode(made.data).decode()
        return answer(200, EmbeddingReport(kind=made.kind, data=data, figures=dict(made.figures)))


def _octets(field: str, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise Problem.of_field(422, field, f"Value should be base64: {error}") from None
