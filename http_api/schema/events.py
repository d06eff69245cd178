"""What happens to calls."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import Field

from .body import Body

__all__ = ["EVENT_KINDS", "EventReport"]

EVENT_KINDS = (
    "call.created",
    "call.ringing",
    "call.answered",
    "call.ended",
    "call.record",
    "speech.started",
    "speech.mark",
    "speech.ended",
    "recording.started",
    "recording.ended",
    "dialogue.failed",
)
"""What may happen. Webhooks alone are told the record of a call; the others may ask for it."""


class EventReport(Body):
    """Something that has happened: the data of a server-sent event, and what webhooks are told."""

    type: Annotated[str, Field(examples=["call.answered"])]
    call_id: Annotated[str, Field(description="Empty for a gap.")]
    at: datetime
    details: Annotated[
        dict[str, object],
        Field(
            description="Of `call.created` the parties and the direction; of `call.ended` the `end`; of `speech.*` the "
            "utterance's `id`, `state` and `spoken_ms`, the name of the `mark`, and `barged_in_by` if the peer "
            "interrupted it; of `call.record` all that is known of the call; of `dialogue.failed` the `step` at which "
            "a webhook did not do its part, and the `reason`."
        ),
    ]
