"""/v1/clips and /v1/calls/{id}/play: audio that calls are played, uploaded or fetched."""

from __future__ import annotations

import dataclasses
import hashlib

from aiohttp import web

from .admission import Uploads
from .control import BargeIn, CallControl, ClipFacts, PlayOrder
from .idempotency import Idempotency
from .intake import answer, read_file, read_form, read_model
from .route import AUDIO, FORM, JSON, Answer, Operation
from .schema import ApiLimits, ClipReport, ClipUpload, PlayRequest, PlayUpload, UtteranceReport

__all__ = ["ADD_CLIP", "CLIP", "FORGET_CLIP", "PLAY", "Clips"]

BARGE_IN: tuple[BargeIn, ...] = ("dtmf", "speech")

PLAY = Operation(
    summary="Play audio in a call",
    description="Of any common format: a form with a file, a file by itself, or as JSON the address of one (its host "
    "has to be in `fetch.allow_hosts`) or the id of one that was uploaded to `/v1/clips`. It is played after all else, "
    "or at once. Speech that was made ahead by `/v1/prompts` needs no upload: `/say` finds it by its text.",
    body=PlayRequest,
    examples={
        "what was uploaded": {"clip_id": "clip_0123456789abcdef01234567", "repeat": 2},
        "from elsewhere, until a key is pressed": {
            "url": "https://prompts.example.com/music.mp3",
            "repeat": 0,
            "barge_in": ["dtmf"],
        },
    },
    uploads={FORM: PlayUpload, AUDIO: b""},
    answers=(Answer(status=202, description="It will be played.", content={"application/json": UtteranceReport}),),
    problems=(400, 403, 404, 408, 409, 413, 415, 417, 422, 500, 503),
    repeats=True,
)

ADD_CLIP = Operation(
    summary="Upload audio to be played",
    description="Of any common format; to be played in any call by its id. It is kept in memory, and forgotten when "
    "the server ends, or when what was not played for longest has to make room (`calls.clips_mb`).",
    body=ClipUpload,
    media_type=FORM,
    uploads={AUDIO: b""},
    answers=(
        Answer(
            status=201,
            description="It can be played.",
            content={"application/json": ClipReport},
            headers={"Location": "Path of the clip."},
        ),
    ),
    problems=(400, 408, 413, 415, 417, 422, 500, 503),
)

CLIP = Operation(
    summary="One clip",
    answers=(Answer(status=200, description="It can be played.", content={"application/json": ClipReport}),),
    problems=(404, 500),
)

FORGET_CLIP = Operation(
    summary="Delete a clip",
    description="Whoever is being played it hears the rest.",
    answers=(Answer(status=204, description="It is gone.", content={}),),
    problems=(404, 500),
)


class Clips:
    """The clip resources, and playing."""

    def __init__(self, control: CallControl, *, limits: ApiLimits, uploads: Uploads) -> None:
        self._control = control
        self._limits = limits
        self._uploads = uploads
        self._idempotency = Idempotency()

    async def play(self, request: web.Request) -> web.Response:
        if request.content_type == JSON:
            return await self._once(request, _order(await read_model(request, PlayRequest, self._limits)))
        with self._uploads.slot():
            if request.content_type == FORM:
                order = _order(await read_form(request, PlayUpload, self._limits))
            else:
                order = PlayOrder(file=await read_file(request, self._limits))
            return await self._once(request, order)

    async def _once(self, request: web.Request, order: PlayOrder) -> web.Response:
        async def act() -> web.Response:
            facts = await self._control.play(request.match_info["id"], order)
            return answer(202, UtteranceReport.model_validate(dataclasses.asdict(facts)))

        # Of a file its hash is enough to know it again, and takes less room.
        digest = None if order.file is None else hashlib.sha256(order.file).digest()
        return await self._idempotency.once(request, dataclasses.replace(order, file=digest), act)

    async def add(self, request: web.Request) -> web.Response:
        with self._uploads.slot():
            if request.content_type == FORM:
                file = (await read_form(request, ClipUpload, self._limits)).file
            else:
                file = await read_file(request, self._limits)
            facts = await self._control.add_clip(file)
        return answer(201, _report(facts), {"Location": f"/v1/clips/{facts.id}"})

    async def show(self, request: web.Request) -> web.Response:
        return answer(200, _report(self._control.clip(request.match_info["id"])))

    async def forget(self, request: web.Request) -> web.Response:
        self._control.delete_clip(request.match_info["id"])
        return web.Response(status=204)


def _order(order: PlayRequest | PlayUpload) -> PlayOrder:
    common = PlayOrder(repeat=order.repeat or None, interrupts=order.mode == "interrupt")
    if isinstance(order, PlayUpload):
        chosen = (one for one in BARGE_IN if one in (order.barge_in or "").split(","))
        return dataclasses.replace(common, file=order.file, barge_in=frozenset(chosen))
    return dataclasses.replace(common, url=order.url, clip_id=order.clip_id, barge_in=frozenset(order.barge_in))


def _report(facts: ClipFacts) -> ClipReport:
    return ClipReport.model_validate(dataclasses.asdict(facts))
