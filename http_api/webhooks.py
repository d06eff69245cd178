"""What this server asks of others: the webhooks of OpenAPI 3.1, described as its own routes are."""

from __future__ import annotations

from collections.abc import Mapping

from .route import Answer, Operation
from .schema import EVENT_KINDS, EventReport
from .verbs import DialogueAnswer, DialogueRequest

__all__ = ["SIGNATURE", "WEBHOOKS"]

CALL = "call_0123456789abcdef01234567"

SIGNATURE = {
    "webhook-id": "Of this message, the same when it is sent again.",
    "webhook-timestamp": "When it was sent, in seconds since 1970.",
    "webhook-signature": "One for each secret (Standard Webhooks 1.0.0): `v1,` and the HMAC-SHA256 of id, timestamp "
    "and body, joined by dots, in base64.",
}

EVENT = Operation(
    summary="Something has happened to a call",
    description=f"For each `[[webhook]]` of the configuration, those events that it wants of "
    f"{', '.join(f'`{kind}`' for kind in EVENT_KINDS)}. Those of one call come in order. What is not answered 2xx "
    "comes again, with ever longer pauses; 410 ends it.",
    body=EventReport,
    examples={
        "an answered call": {
            "type": "call.answered",
            "call_id": CALL,
            "at": "2026-11-25T12:00:00Z",
            "details": {},
        }
    },
    answers=(Answer(status=204, description="It is taken; any 2xx says so, and a body says nothing.", content={}),),
    problems=(),
)

DIALOGUE = Operation(
    summary="What a call is to do",
    description="For calls whose `[[route]]`, or whose request, names a webhook: first while a call that came rings, "
    "or when one that was placed is answered; then with what came of a verb. Without a good answer in time the call "
    "says what it is to say in that case. Signed if the configuration has a secret for it.",
    body=DialogueRequest,
    examples={
        "a call that came": {
            "type": "dialogue.started",
            "at": "2026-11-25T12:00:00Z",
            "step": 0,
            "call": {
                "id": CALL,
                "direction": "inbound",
                "from": "sip:alice@192.0.2.1",
                "to": "sip:200@192.0.2.2",
                "trunk": None,
                "headers": {"X-Order": "4711"},
            },
            "result": None,
        },
        "digits": {
            "type": "dialogue.continued",
            "at": "2026-11-25T12:00:09Z",
            "step": 1,
            "call": {
                "id": CALL,
                "direction": "inbound",
                "from": "sip:alice@192.0.2.1",
                "to": "sip:200@192.0.2.2",
                "trunk": None,
                "headers": {},
            },
            "result": {
                "verb": "gather",
                "outcome": "complete",
                "digits": "1",
                "ended_by": "max_digits",
                "attempts": 1,
            },
        },
    },
    answers=(
        Answer(status=200, description="Verbs, done in order.", content={"application/json": DialogueAnswer}),
        Answer(status=204, description="No verbs: the call is hung up.", content={}),
    ),
    problems=(),
)

WEBHOOKS: Mapping[str, Operation] = {"event": EVENT, "dialogue": DIALOGUE}
