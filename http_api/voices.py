"""GET /v1/voices: what the engine speaks with by itself. Voices that were enrolled are at /v1/speakers."""

from __future__ import annotations

import dataclasses

from aiohttp import web

from .control import SpeechControl
from .intake import answer
from .route import Answer, Operation
from .schema import VoiceList, VoiceReport

__all__ = ["VOICES", "Voices"]

VOICES = Operation(
    summary="All voices of the engine",
    description="The first one is the default. An id is a `speaker_id` wherever one is taken, as that of a speaker is.",
    answers=(Answer(status=200, description="They are.", content={"application/json": VoiceList}),),
    problems=(500,),
)


class Voices:
    """The voices resource."""

    def __init__(self, control: SpeechControl) -> None:
        self._control = control

    async def list(self, request: web.Request) -> web.Response:
        voices = tuple(VoiceReport(**dataclasses.asdict(voice)) for voice in self._control.voices())
        return answer(200, VoiceList(engine=self._control.engine, voices=voices))
