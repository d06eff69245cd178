"""Calls of browsers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .body import Body

__all__ = ["WebRtcAnswer", "WebRtcOffer"]


class WebRtcOffer(Body):
    """An RTCSessionDescription of a browser's, with all its candidates, and whom it calls."""

    type: Literal["offer"] = "offer"
    sdp: Annotated[
        str,
        Field(
            min_length=1,
            max_length=32_768,
            description="Of `pc.localDescription`, once `pc.iceGatheringState` is `complete`.",
        ),
    ]
    to: Annotated[
        str,
        Field(
            min_length=1,
            max_length=64,
            pattern="^[A-Za-z0-9+*#_.-]+$",
            description="The user that is called, as the `user` of a `[[route]]` has it.",
        ),
    ] = "console"


class WebRtcAnswer(Body):
    """An RTCSessionDescription for the browser, and the call that has begun."""

    type: Literal["answer"]
    sdp: str
    call_id: Annotated[str, Field(examples=["call_0123456789abcdef01234567"])]
