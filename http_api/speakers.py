"""/v1/speakers: voices that are enrolled from recordings, and then spoken with."""

from __future__ import annotations

import base64
import dataclasses

from aiohttp import web

from .admission import Uploads
from .control import SpeakerControl, SpeakerFacts, SpeakerOrder
from .intake import answer, read_form, read_model
from .route import FORM, Answer, Operation
from .schema import (
    ApiLimits,
    SpeakerChange,
    SpeakerDetails,
    SpeakerEmbedding,
    SpeakerList,
    SpeakerReport,
    SpeakerUpload,
)

__all__ = ["CHANGE", "ENROL", "FORGET", "INSPECT", "SPEAKERS", "Speakers"]

ENROL = Operation(
    summary="Enrol a speaker",
    description="From a recording in any common audio format. It is refused, with what to do about it, when it is too "
    "short or too long, too quiet, clipped, or has too little speech in it. The id that comes back is a `speaker_id` "
    "wherever one is taken, and the value of X-Speaker in SIP.",
    body=SpeakerUpload,
    media_type=FORM,
    answers=(
        Answer(
            status=201,
            description="The speaker can be spoken with.",
            content={"application/json": SpeakerReport},
            headers={"Location": "Path of the speaker."},
        ),
    ),
    problems=(400, 408, 409, 413, 415, 417, 422, 500, 503),
)

SPEAKERS = Operation(
    summary="All speakers",
    answers=(Answer(status=200, description="They are.", content={"application/json": SpeakerList}),),
    problems=(500, 503),
)

INSPECT = Operation(
    summary="One speaker, with the embedding",
    answers=(Answer(status=200, description="It is.", content={"application/json": SpeakerDetails}),),
    problems=(404, 500, 503),
)

CHANGE = Operation(
    summary="Rename a speaker",
    body=SpeakerChange,
    examples={"another name": {"name": "Ada Lovelace"}},
    answers=(Answer(status=200, description="It has the name.", content={"application/json": SpeakerReport}),),
    problems=(400, 404, 408, 413, 415, 417, 422, 500, 503),
)

FORGET = Operation(
    summary="Delete a speaker",
    description="With the recording, every embedding, and all speech in this voice that was kept.",
    answers=(Answer(status=204, description="It is gone.", content={}),),
    problems=(404, 500, 503),
)


class Speakers:
    """The speaker resources."""

    def __init__(self, control: SpeakerControl, *, limits: ApiLimits, uploads: Uploads) -> None:
        self._control = control
        self._limits = limits
        self._uploads = uploads

    async def enrol(self, request: web.Request) -> web.Response:
        with self._uploads.slot():
            form = await read_form(request, SpeakerUpload, self._limits)
            facts = await self._control.enrol_speaker(
                SpeakerOrder(file=form.file, name=form.name, consent=form.consent)
            )
        return answer(201, _report(facts), {"Location": f"/v1/speakers/{facts.id}"})

    async def list(self, request: web.Request) -> web.Response:
        return answer(200, SpeakerList(tuple(map(_report, await self._control.speakers()))))

    async def show(self, request: web.Request) -> web.Response:
        facts, embedding = await self._control.speaker(request.match_info["id"])
        told = SpeakerEmbedding(
            kind=embedding.kind, data=base64.b64encode(embedding.data).decode(), figures=dict(embedding.figures)
        )
        return answer(200, SpeakerDetails(**dataclasses.asdict(facts), embedding=told))

    async def change(self, request: web.Request) -> web.Response:
        order = await read_model(request, SpeakerChange, self._limits)
        return answer(200, _report(await self._control.rename_speaker(request.match_info["id"], order.name)))

    async def forget(self, request: web.Request) -> web.Response:
        await self._control.delete_speaker(request.match_info["id"])
        return web.Response(status=204)


def _report(facts: SpeakerFacts) -> SpeakerReport:
    return SpeakerReport.model_validate(dataclasses.asdict(facts))
