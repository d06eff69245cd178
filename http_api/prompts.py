"""POST /v1/prompts: speech that is made before it is needed."""

from __future__ import annotations

import dataclasses

from aiohttp import web

from .admission import Admission
from .control import PromptControl, PromptFacts, Speech
from .intake import CLIENT, answer, read_model
from .route import Answer, Operation
from .schema import ApiLimits, FieldError, PromptReport, PromptResult, PromptsRequest

__all__ = ["PROMPTS", "Prompts"]

PROMPTS = Operation(
    summary="Make prompts ahead",
    description="Whoever asks for one of these texts later, with the same speaker, language, speed and sample rate, "
    "hears it without the engine: calls, /v1/rtp and requests for speech alike. Calls want 8000 samples a second. The "
    "answer comes when all are made, and tells of each in the order of the request.",
    body=PromptsRequest,
    examples={
        "two announcements": {
            "prompts": [
                {"text": "All our lines are busy. Please hold."},
                {"ssml": "<speak>Guten Tag.</speak>", "language": "de", "speed": 0.9},
            ]
        }
    },
    answers=(Answer(status=200, description="What became of them.", content={"application/json": PromptReport}),),
    problems=(400, 408, 409, 413, 415, 417, 422, 429, 500, 503),
)


class Prompts:
    """The resource of prompts."""

    def __init__(self, control: PromptControl, *, limits: ApiLimits, admission: Admission) -> None:
        self._control = control
        self._limits = limits
        self._admission = admission

    async def make(self, request: web.Request) -> web.Response:
        order = await read_model(request, PromptsRequest, self._limits)
        prompts = [
            Speech(
                text=prompt.words(),
                ssml=prompt.ssml is not None,
                speaker_id=prompt.speaker_id,
                rate_hz=prompt.sample_rate,
                language=prompt.language,
                speed=prompt.speed,
                seed=prompt.seed,
            )
            for prompt in order.prompts
        ]
        with self._admission.slot(request[CLIENT]):
            results = await self._control.make_prompts(prompts)
        return answer(200, PromptReport(results=tuple(map(_result, results))))


def _result(facts: PromptFacts) -> PromptResult:
    told = dataclasses.asdict(facts)
    field, message = told.pop("field"), told.pop("error")
    return PromptResult(**told, error=None if message is None else FieldError(field=field or "", message=message))
