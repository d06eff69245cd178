"""/v1/calls: telephone calls, placed, seen, spoken into and hung up."""

from __future__ import annotations

import dataclasses

from aiohttp import web

from .control import CallControl, CallFacts, CallOrder, UtteranceFacts, UtteranceOrder
from .idempotency import Idempotency
from .intake import answer, read_model
from .route import Answer, Operation
from .schema import (
    ApiLimits,
    CallDetails,
    CallList,
    CallMedia,
    CallReport,
    CallRequest,
    DigitsRequest,
    SayRequest,
    TransferReport,
    TransferRequest,
    UtteranceReport,
)

__all__ = [
    "CALL",
    "CALLS",
    "DIAL",
    "HANG_UP",
    "HOLD",
    "PAUSE",
    "PLACE",
    "RESUME",
    "SAY",
    "STOP_SPEECH",
    "TRANSFER",
    "UNHOLD",
    "Calls",
]

PLACE = Operation(
    summary="Call somebody",
    description="The answer comes at once; what becomes of the call is to be seen at its path: whether it rings, is "
    "answered, and in the end why it has ended.",
    body=CallRequest,
    examples={
        "a telephone on this machine": {"to": "sip:alice@127.0.0.1:5070", "text": "Good morning."},
        "a number, by a trunk": {
            "to": "+442079460123",
            "trunk": "carrier",
            "from": "+442079460100",
            "ssml": "<speak>Your order is <emphasis>ready</emphasis>.</speak>",
            "headers": {"X-Order": "4711"},
            "ring_timeout": 30,
        },
        "conducted by a webhook": {
            "to": "sip:alice@127.0.0.1:5070",
            "webhook": "https://ivr.example.com/calls",
            "text": "We are sorry. Please call again.",
        },
        "to be spoken into later": {"to": "sip:alice@127.0.0.1:5070", "speaker_id": "default", "stay": 600},
    },
    answers=(
        Answer(
            status=201,
            description="The call begins.",
            content={"application/json": CallDetails},
            headers={"Location": "Path of the call."},
        ),
    ),
    problems=(400, 403, 404, 408, 409, 413, 415, 417, 422, 500, 503),
    repeats=True,
    traced=True,
)

CALLS = Operation(
    summary="All calls",
    description="Of both directions. Those that have ended are remembered for some minutes.",
    answers=(Answer(status=200, description="They are.", content={"application/json": CallList}),),
    problems=(500,),
)

CALL = Operation(
    summary="One call",
    description="With the figures of its media, and with what it says. One that has ended is remembered for some "
    "minutes.",
    answers=(Answer(status=200, description="It is.", content={"application/json": CallDetails}),),
    problems=(404, 500),
)

HANG_UP = Operation(
    summary="Hang up",
    description="Whatever state the call is in. One that has ended stays as it is.",
    answers=(Answer(status=204, description="It ends.", content={}),),
    problems=(404, 500),
)

SAY = Operation(
    summary="Say something in a call",
    description="After all else, or at once. A call that is not answered yet says it when it is.",
    body=SayRequest,
    examples={
        "after all else": {"text": "One moment, please."},
        "at once": {"text": "Stop.", "mode": "interrupt"},
        "with a mark before the price": {"text": "That makes ten pounds.", "marks": [{"name": "price", "at": 11}]},
        "until a key is pressed": {"text": "For opening hours, press 1.", "barge_in": ["dtmf"]},
    },
    answers=(Answer(status=202, description="It will be said.", content={"application/json": UtteranceReport}),),
    problems=(400, 404, 408, 409, 413, 415, 417, 422, 500, 503),
    repeats=True,
)

STOP_SPEECH = Operation(
    summary="Stop speaking",
    description="What the call is saying stops within 20 ms, and what waits is dropped; the answer tells how much was "
    "spoken. A call that is to hang up when all is said does so.",
    answers=(Answer(status=200, description="It is silent.", content={"application/json": CallDetails}),),
    problems=(404, 409, 500),
)


PAUSE = Operation(
    summary="Have speech wait",
    description="Silence is sent until `/resume`, or until something is said with `mode` `interrupt`.",
    answers=(Answer(status=200, description="It waits.", content={"application/json": CallDetails}),),
    problems=(404, 409, 500),
)

RESUME = Operation(
    summary="Have speech go on",
    description="Where it was paused.",
    answers=(Answer(status=200, description="It goes on.", content={"application/json": CallDetails}),),
    problems=(404, 409, 500),
)

DIAL = Operation(
    summary="Dial digits in a call",
    description="As telephone events (RFC 4733), after those under way; speech waits meanwhile. 409 if the peer takes "
    "none, or if no packets are sent now.",
    body=DigitsRequest,
    examples={"an extension": {"digits": "1234#"}},
    answers=(Answer(status=204, description="They will be sent.", content={}),),
    problems=(400, 404, 408, 409, 413, 415, 417, 422, 500),
    repeats=True,
)

HOLD = Operation(
    summary="Put the peer on hold",
    description="By a re-INVITE: the peer sends nothing more, and is still spoken to. 409 if it does not agree.",
    answers=(Answer(status=200, description="It is.", content={"application/json": CallDetails}),),
    problems=(404, 409, 500),
)

UNHOLD = Operation(
    summary="Take the peer off hold",
    answers=(Answer(status=200, description="It is not any more.", content={"application/json": CallDetails}),),
    problems=(404, 409, 500),
)

TRANSFER = Operation(
    summary="Transfer a call",
    description="Blindly or attended, by REFER (RFC 3515). The answer comes when it is known what became of it, which "
    "may take a quarter of a minute.",
    body=TransferRequest,
    examples={"blindly": {"to": "sip:bob@192.168.1.21"}, "attended": {"call_id": "call_0123456789abcdef01234567"}},
    answers=(Answer(status=200, description="It is known.", content={"application/json": TransferReport}),),
    problems=(400, 404, 408, 409, 413, 415, 417, 422, 500),
    repeats=True,
)


class Calls:
    """The call resources."""

    def __init__(self, control: CallControl, *, limits: ApiLimits) -> None:
        self._control = control
        self._limits = limits
        self._idempotency = Idempotency()

    async def place(self, request: web.Request) -> web.Response:
        order = await read_model(request, CallRequest, self._limits)

        async def act() -> web.Response:
            facts = await self._control.place_call(_order(order, request.headers.get("traceparent")))
            return answer(201, _details(facts), {"Location": f"/v1/calls/{facts.id}"})

        return await self._idempotency.once(request, order, act)

    async def list(self, request: web.Request) -> web.Response:
        return answer(200, CallList(calls=tuple(map(_report, self._control.calls()))))

    async def show(self, request: web.Request) -> web.Response:
        return answer(200, _details(self._control.call(request.match_info["id"])))

    async def hang_up(self, request: web.Request) -> web.Response:
        self._control.hang_up(request.match_info["id"])
        return web.Response(status=204)

    async def say(self, request: web.Request) -> web.Response:
        order = await read_model(request, SayRequest, self._limits)

        async def act() -> web.Response:
            facts = await self._control.say(
                request.match_info["id"],
                UtteranceOrder(
                    text=order.words(),
                    ssml=order.ssml is not None,
                    speaker_id=order.speaker_id,
                    language=order.language,
                    interrupts=order.mode == "interrupt",
                    barge_in=frozenset(order.barge_in),
                    marks=tuple((mark.name, mark.at) for mark in order.marks),
                ),
            )
            return answer(202, _utterance(facts))

        return await self._idempotency.once(request, order, act)

    async def stop_speech(self, request: web.Request) -> web.Response:
        return answer(200, _details(await self._control.stop_speech(request.match_info["id"])))

    async def pause(self, request: web.Request) -> web.Response:
        return answer(200, _details(self._control.pause_speech(request.match_info["id"], paused=True)))

    async def resume(self, request: web.Request) -> web.Response:
        return answer(200, _details(self._control.pause_speech(request.match_info["id"], paused=False)))

    async def dial(self, request: web.Request) -> web.Response:
        order = await read_model(request, DigitsRequest, self._limits)

        async def act() -> web.Response:
            self._control.send_digits(request.match_info["id"], order.digits, duration_ms=order.duration_ms)
            return web.Response(status=204)

        return await self._idempotency.once(request, order, act)

    async def hold(self, request: web.Request) -> web.Response:
        return answer(200, _details(await self._control.hold(request.match_info["id"], held=True)))

    async def unhold(self, request: web.Request) -> web.Response:
        return answer(200, _details(await self._control.hold(request.match_info["id"], held=False)))

    async def transfer(self, request: web.Request) -> web.Response:
        order = await read_model(request, TransferRequest, self._limits)

        async def act() -> web.Response:
            facts = await self._control.transfer(request.match_info["id"], to=order.to, call_id=order.call_id)
            return answer(200, TransferReport.model_validate(dataclasses.asdict(facts)))

        return await self._idempotency.once(request, order, act)


def _order(order: CallRequest, traceparent: str | None) -> CallOrder:
    words = order.words()
    said = None
    if words:
        said = UtteranceOrder(
            text=words,
            ssml=order.ssml is not None,
            speaker_id=order.speaker_id,
            language=order.language,
            barge_in=frozenset(order.barge_in),
            marks=tuple((mark.name, mark.at) for mark in order.marks),
        )
    return CallOrder(
        to=order.to,
        caller=order.caller,
        trunk=order.trunk,
        said=said,
        speaker_id=order.speaker_id,
        language=order.language,
        headers=order.headers,
        ring_timeout_s=order.ring_timeout,
        hangs_up=bool(words or order.webhook) if order.then is None else order.then == "hangup",
        stay_s=order.stay,
        webhook=order.webhook,
        webhook_timeout_ms=order.webhook_timeout_ms,
        records=order.record,
        traceparent=traceparent,
    )


def _utterance(facts: UtteranceFacts) -> UtteranceReport:
    return UtteranceReport.model_validate(dataclasses.asdict(facts))


def _told(facts: CallFacts) -> dict[str, object]:
    told = {field.name: getattr(facts, field.name) for field in dataclasses.fields(facts)}
    return told | {"end": None if facts.end is None else dataclasses.asdict(facts.end)}


def _report(facts: CallFacts) -> CallReport:
    told = _told(facts)
    return CallReport.model_validate({name: told[name] for name in CallReport.model_fields})


def _details(facts: CallFacts) -> CallDetails:
    media = None
    if facts.media is not None:
        media = {name: None if facts.media[name] == "" else facts.media[name] for name in CallMedia.model_fields}
    return CallDetails.model_validate(
        _told(facts)
        | {
            "media": media,
            "speech": tuple(dataclasses.asdict(said) for said in facts.speech),
            "recordings": tuple(dataclasses.asdict(recording) for recording in facts.recordings),
        }
    )
