"""POST /v1/webrtc/offer as HTTP: what is taken, what is refused, and who may."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from http_api import ApiLimits, Gate, Token, WebRtcOrder
from http_api.webrtc import EXAMPLE

from .http_support import CALL, Api, running, says

PATH = "/v1/webrtc/offer"
OFFER: dict[str, Any] = {"type": "offer", "sdp": EXAMPLE}


async def post(api: Api, body: object, **headers: str) -> tuple[int, Any, dict[str, str]]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with api.client.post(PATH, json=body, headers=named) as response:
        return response.status, await response.json(), dict(response.headers)


async def test_an_offer_is_answered_with_an_answer_and_the_call() -> None:
    async with running(says()) as api:
        status, told, headers = await post(api, OFFER)
    assert (status, headers["Location"]) == (201, f"/v1/calls/{CALL.id}")
    assert told == {"type": "answer", "sdp": "v=0\r\n", "call_id": CALL.id}
    assert api.calls.offered == [WebRtcOrder(sdp=EXAMPLE, to="console", caller="")]


async def test_who_calls_is_whose_token_it_is_and_whom_is_said() -> None:
    secret = "S" * 20
    token = Token(name="desk", sha256=hashlib.sha256(secret.encode()).digest(), roles=frozenset({"call"}))
    async with running(says(), gate=Gate((token,))) as api:
        status, _, _ = await post(api, OFFER | {"to": "+4420"}, Authorization=f"Bearer {secret}")
        assert status == 201
        assert (await post(api, OFFER))[0] == 401
    assert api.calls.offered == [WebRtcOrder(sdp=EXAMPLE, to="+4420", caller="desk")]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "sdp"),
        ({"sdp": ""}, "sdp"),
        ({"sdp": 5}, "sdp"),
        ({"sdp": "v=0" * 12_000}, "sdp"),
        (OFFER | {"type": "answer"}, "type"),
        (OFFER | {"to": "sip:a@b"}, "to"),
        (OFFER | {"to": ""}, "to"),
        (OFFER | {"to": "a" * 65}, "to"),
        (OFFER | {"to": "a\r\nX-Speak: b"}, "to"),
        (OFFER | {"video": True}, "video"),
        ({"sdp": "v=0\r\n"}, "sdp"),
    ],
)
async def test_what_does_not_fit_is_refused_and_the_field_is_named(body: dict[str, Any], field: str) -> None:
    async with running(says()) as api:
        status, told, _ = await post(api, body)
    # What there is not is 400, whatever its value.
    assert (status, told["errors"][0]["field"]) == (400 if field == "video" else 422, field)


async def test_a_body_that_is_none_or_too_large_is_refused() -> None:
    async with running(says(), ApiLimits(max_body_bytes=2000)) as api:
        async with api.client.post(PATH, data=b"{", headers={"Content-Type": "application/json"}) as response:
            assert response.status == 400
        async with api.client.post(PATH, data=EXAMPLE, headers={"Content-Type": "application/sdp"}) as response:
            assert response.status == 415
        assert (await post(api, OFFER | {"sdp": EXAMPLE + "a=x\r\n" * 500}))[0] == 413
    assert api.calls.offered == []


async def test_an_offer_that_is_sent_again_is_answered_once() -> None:
    async with running(says()) as api:
        first = await post(api, OFFER, Idempotency_Key="k")
        again = await post(api, OFFER, Idempotency_Key="k")
        other = await post(api, OFFER | {"to": "other"}, Idempotency_Key="k")
    assert (first[0], again[0], other[0]) == (201, 201, 422)
    assert first[1] == again[1]
    assert again[2]["Location"] == f"/v1/calls/{CALL.id}"
    assert len(api.calls.offered) == 1
