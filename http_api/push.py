"""/v1/rtp: speech in RTP packets, to an address that the request names."""

from __future__ import annotations

import dataclasses

from aiohttp import web

from .control import PushControl, PushFacts, PushOrder
from .intake import answer, read_model
from .route import Answer, Operation
from .schema import ApiLimits, PushList, PushReport, PushRequest

__all__ = ["LIST", "OPEN", "SHOW", "STOP", "Pushes"]

OPEN = Operation(
    summary="Speak a text: RTP to an address",
    description="G.711 in RTP packets and their RTCP, without SIP. The answer comes with the first sound; packets flow "
    "until the last word is sent, or until DELETE.",
    body=PushRequest,
    examples={
        "PCMU to this machine": {"text": "Hello by RTP.", "host": "127.0.0.1", "port": 40000},
        "PCMA in packets of 30 ms": {
            "text": "Hello by RTP.",
            "host": "127.0.0.1",
            "port": 40000,
            "codec": "PCMA",
            "ptime_ms": 30,
        },
    },
    answers=(
        Answer(
            status=201,
            description="Packets flow.",
            content={"application/json": PushReport},
            headers={"Location": "Path of the push."},
        ),
    ),
    problems=(400, 403, 404, 408, 409, 413, 415, 417, 422, 500, 503),
)

LIST = Operation(
    summary="All pushes",
    description="Those that have ended are remembered for some minutes.",
    answers=(Answer(status=200, description="They are.", content={"application/json": PushList}),),
    problems=(500,),
)

SHOW = Operation(
    summary="One push",
    description="One that has ended is remembered for some minutes.",
    answers=(Answer(status=200, description="It is.", content={"application/json": PushReport}),),
    problems=(404, 500),
)

STOP = Operation(
    summary="Stop a push",
    description="At once: when the answer comes, no packet leaves any more. One that has ended stays as it is.",
    answers=(Answer(status=204, description="It has ended.", content={}),),
    problems=(404, 500),
)


class Pushes:
    """The push resources."""

    def __init__(self, control: PushControl, *, limits: ApiLimits) -> None:
        self._control = control
        self._limits = limits

    async def open(self, request: web.Request) -> web.Response:
        order = await read_model(request, PushRequest, self._limits)
        codec, payload_type = order.coding()
        facts = await self._control.open_push(
            PushOrder(
                text=order.words(),
                ssml=order.ssml is not None,
                speaker_id=order.speaker_id,
                language=order.language,
                host=order.host,
                port=order.port,
                codec=codec,
                payload_type=payload_type,
                ptime_ms=order.ptime_ms,
                ssrc=order.ssrc,
                local_port=order.local_port,
            )
        )
        return answer(201, _report(facts), {"Location": f"/v1/rtp/{facts.id}"})

    async def list(self, request: web.Request) -> web.Response:
        return answer(200, PushList(pushes=tuple(map(_report, self._control.pushes()))))

    async def show(self, request: web.Request) -> web.Response:
        return answer(200, _report(self._control.push(request.match_info["id"])))

    async def stop(self, request: web.Request) -> web.Response:
        await self._control.stop_push(request.match_info["id"])
        return web.Response(status=204)


def _report(facts: PushFacts) -> PushReport:
    return PushReport.model_validate(dataclasses.asdict(facts))
