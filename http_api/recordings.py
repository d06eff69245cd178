"""/v1/recordings: calls that are recorded, and what they sound like."""

from __future__ import annotations

import dataclasses

from aiohttp import web

from .control import RecordingControl, RecordingFacts
from .idempotency import Idempotency
from .intake import answer, read_model
from .route import Answer, Operation
from .schema import ApiLimits, RecordingList, RecordingReport, RecordRequest

__all__ = ["DOWNLOAD", "ERASE", "RECORD", "RECORDING", "RECORDINGS", "STOP_RECORDING", "Recordings"]

RECORD = Operation(
    summary="Record a call",
    description="Both sides, from now on until `/record/stop` or the end of the call, through holds and transfers "
    "that do not succeed. One recording of a call at a time. It is off unless the configuration turns it on "
    "(`recordings.enabled`), since in most countries whoever is recorded has to be told or asked: that is for what "
    "the call says.",
    body=RecordRequest,
    examples={"to its end": {}, "a minute": {"format": "wav", "max_s": 60}},
    answers=(
        Answer(
            status=201,
            description="It is being recorded.",
            content={"application/json": RecordingReport},
            headers={"Location": "Path of the recording."},
        ),
    ),
    problems=(400, 403, 404, 408, 409, 413, 415, 417, 422, 500, 503),
    repeats=True,
)

STOP_RECORDING = Operation(
    summary="Stop recording a call",
    description="409 if it is not being recorded.",
    answers=(Answer(status=200, description="It has ended.", content={"application/json": RecordingReport}),),
    problems=(404, 409, 500),
)

RECORDINGS = Operation(
    summary="All recordings",
    answers=(Answer(status=200, description="They are.", content={"application/json": RecordingList}),),
    problems=(500,),
)

RECORDING = Operation(
    summary="One recording",
    answers=(Answer(status=200, description="It is.", content={"application/json": RecordingReport}),),
    problems=(404, 500),
)

DOWNLOAD = Operation(
    summary="What was recorded",
    description="A WAV file with two channels at 8 kHz: left the peer, right what it was told, aligned to within a "
    "frame of 20 ms. 409 until the recording has ended. Parts may be asked for by Range.",
    answers=(
        Answer(status=200, description="All of it.", content={"audio/wav": b""}),
        Answer(status=206, description="The part that Range asks for.", content={"audio/wav": b""}),
        Answer(status=304, description="It is what the client has.", content={}),
        Answer(status=412, description="It is not what the client takes it to be.", content={}),
        Answer(status=416, description="There is no such part.", content={}),
    ),
    problems=(404, 409, 500, 503),
)

ERASE = Operation(
    summary="Delete a recording",
    description="409 until it has ended.",
    answers=(Answer(status=204, description="It is gone.", content={}),),
    problems=(404, 409, 500, 503),
)


class Recordings:
    """The recordings' resources."""

    def __init__(self, control: RecordingControl, *, limits: ApiLimits) -> None:
        self._control = control
        self._limits = limits
        self._idempotency = Idempotency()

    async def start(self, request: web.Request) -> web.Response:
        order = await read_model(request, RecordRequest, self._limits)

        async def act() -> web.Response:
            facts = await self._control.record(request.match_info["id"], max_s=order.max_s)
            return answer(201, report(facts), {"Location": f"/v1/recordings/{facts.id}"})

        return await self._idempotency.once(request, order, act)

    async def stop(self, request: web.Request) -> web.Response:
        return answer(200, report(self._control.stop_recording(request.match_info["id"])))

    async def list(self, request: web.Request) -> web.Response:
        return answer(200, RecordingList(recordings=tuple(map(report, self._control.recordings()))))

    async def show(self, request: web.Request) -> web.Response:
        return answer(200, report(self._control.recording(request.match_info["id"])))

    async def download(self, request: web.Request) -> web.FileResponse:
        id = request.match_info["id"]
        return web.FileResponse(
            await self._control.recording_file(id),
            headers={
                "Content-Type": "audio/wav",
                "Content-Disposition": f'attachment; filename="{id}.wav"',
                "Cache-Control": "no-store",
            },
        )

    async def erase(self, request: web.Request) -> web.Response:
        await self._control.delete_recording(request.match_info["id"])
        return web.Response(status=204)


def report(facts: RecordingFacts) -> RecordingReport:
    """What is known of a recording, as it is told."""
    return RecordingReport.model_validate(dataclasses.asdict(facts))
