"""/v1/calls as HTTP: what is taken, what is refused, and what Idempotency-Key makes of a second request."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import pytest

from http_api import ApiLimits, CallFacts, CallOrder, Forbidden, Gate, Token, UtteranceOrder

from .http_support import CALL, Api, running, says

PATH = "/v1/calls"
ORDER: dict[str, Any] = {"to": "sip:alice@127.0.0.1:5070", "text": "Hello."}


async def post(api: Api, body: object, **headers: str) -> tuple[int, Any, dict[str, str]]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with api.client.post(PATH, json=body, headers=named) as response:
        return response.status, await response.json(), dict(response.headers)


async def test_a_call_is_answered_with_its_id_and_its_path() -> None:
    async with running(says()) as api:
        status, told, headers = await post(api, ORDER)
    assert (status, headers["Location"]) == (201, f"/v1/calls/{CALL.id}")
    assert (told["from"], told["to"], told["state"]) == (CALL.caller, CALL.callee, "ended")
    assert told["end"] == {"reason": "busy", "by": "peer", "sip_status": 486, "sip_reason": "Busy Here"}
    assert [said["state"] for said in told["speech"]] == ["queued"]


async def test_what_is_asked_for_reaches_the_host() -> None:
    async with running(says()) as api:
        await post(
            api,
            {
                "to": "+4420",
                "from": "100",
                "trunk": "carrier",
                "ssml": "<speak>a</speak>",
                "speaker_id": "en-gb",
                "language": "en",
                "headers": {"X-Order": "4711"},
                "ring_timeout": 5,
                "then": "stay",
                "stay": 7,
            },
        )
    assert api.calls.placed == [
        CallOrder(
            to="+4420",
            caller="100",
            trunk="carrier",
            said=UtteranceOrder(text="<speak>a</speak>", ssml=True, speaker_id="en-gb", language="en"),
            speaker_id="en-gb",
            language="en",
            headers={"X-Order": "4711"},
            ring_timeout_s=5,
            hangs_up=False,
            stay_s=7,
        )
    ]


UNKNOWN = ("caller", "tape")
"""Fields that there are not."""


@pytest.mark.parametrize(
    ("body", "hangs_up"),
    [({"text": "a"}, True), ({"say": "a"}, True), ({}, False), ({"text": "a", "then": "stay"}, False)],
)
async def test_a_call_without_words_stays_and_one_with_words_hangs_up(body: dict[str, Any], hangs_up: bool) -> None:
    async with running(says()) as api:
        assert (await post(api, {"to": "sip:a@127.0.0.1"} | body))[0] == 201
    assert [order.hangs_up for order in api.calls.placed] == [hangs_up]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"to": ""}, "to"),
        ({"to": "sip:a@127.0.0.1\r\nX: y"}, "to"),
        ({"say": "a"}, "ssml"),
        ({"ssml": "<speak>a</speak>"}, "ssml"),
        ({"text": "a" * 6000}, "text"),
        ({"headers": {"Via": "a"}}, "headers.Via.[key]"),
        ({"headers": {"X-A": "a\r\nVia: b"}}, "headers.X-A"),
        ({"headers": {"X-A\r\nVia": "b"}}, None),
        ({"ring_timeout": 0}, "ring_timeout"),
        ({"caller": "100"}, "caller"),
        ({"tape": True}, "tape"),
    ],
)
async def test_what_does_not_fit_is_refused_by_its_name(change: dict[str, Any], field: str | None) -> None:
    async with running(says()) as api:
        status, told, _ = await post(api, ORDER | change)
    assert status == (400 if field in UNKNOWN else 422)
    assert api.calls.placed == []
    if field is not None:
        assert [error["field"] for error in told["errors"]] == [field]


async def test_unknown_calls_are_404_and_one_that_has_ended_is_409_to_speech() -> None:
    async with running(says()) as api:
        for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/stop"), ("POST", "/say")):
            body = {"text": "a"} if path == "/say" else None
            async with api.client.request(method, f"{PATH}/call_nobody{path}", json=body) as response:
                assert (response.status, response.content_type) == (404, "application/problem+json")
            async with api.client.request(method, f"{PATH}/{CALL.id}{path}", json=body) as response:
                assert response.status == (409 if path else 200 if method == "GET" else 204)


async def test_every_verb_is_404_for_an_unknown_call_and_409_where_the_state_is_wrong() -> None:
    bodies: dict[str, dict[str, Any]] = {"dtmf": {"digits": "1#"}, "transfer": {"to": "sip:b@127.0.0.1"}}
    async with running(says()) as api:
        for verb in ("pause", "resume", "hold", "unhold", "dtmf", "transfer"):
            body = bodies.get(verb)
            async with api.client.post(f"{PATH}/call_nobody/{verb}", json=body) as response:
                assert response.status == 404
            async with api.client.post(f"{PATH}/{CALL.id}/{verb}", json=body) as response:
                assert response.status == {"dtmf": 204, "transfer": 200}.get(verb, 409)


@pytest.mark.parametrize(
    ("verb", "body"),
    [
        ("dtmf", {"digits": ""}),
        ("dtmf", {"digits": "1234567890" * 4}),
        ("dtmf", {"digits": "E"}),
        ("dtmf", {"digits": "1", "duration_ms": 10}),
        ("transfer", {}),
        ("transfer", {"to": None}),
        ("transfer", {"to": "sip:b@127.0.0.1", "call_id": "call_1"}),
    ],
)
async def test_verbs_refuse_what_does_not_fit(verb: str, body: dict[str, Any]) -> None:
    async with running(says()) as api, api.client.post(f"{PATH}/{CALL.id}/{verb}", json=body) as response:
        assert response.status == 422


async def test_an_answer_without_a_body_is_repeated_too() -> None:
    async with running(says()) as api:
        for replayed in (None, "true"):
            async with api.client.post(
                f"{PATH}/{CALL.id}/dtmf", json={"digits": "1"}, headers={"Idempotency-Key": "k1"}
            ) as response:
                assert (response.status, response.headers.get("Idempotency-Replayed")) == (204, replayed)


async def test_the_same_request_with_the_same_key_is_done_once() -> None:
    async with running(says()) as api:
        first = await post(api, ORDER, Idempotency_Key="k1")
        second = await post(api, ORDER, Idempotency_Key="k1")
        await post(api, ORDER, Idempotency_Key="k2")
    assert (first[0], first[1]) == (second[0], second[1])
    assert "Idempotency-Replayed" not in first[2]
    assert (second[2]["Idempotency-Replayed"], second[2]["Location"]) == ("true", f"/v1/calls/{CALL.id}")
    assert len(api.calls.placed) == 2


async def test_another_request_with_the_same_key_is_422() -> None:
    async with running(says()) as api:
        await post(api, ORDER, Idempotency_Key="k1")
        assert (await post(api, ORDER | {"text": "Good-bye."}, Idempotency_Key="k1"))[0] == 422
        async with api.client.post(
            f"{PATH}/{CALL.id}/say", json={"text": "a"}, headers={"Idempotency-Key": "k1"}
        ) as response:
            assert response.status == 422
    assert len(api.calls.placed) == 1


async def test_one_token_s_keys_are_not_another_s() -> None:
    tokens = [
        Token(name=name, sha256=hashlib.sha256(f"secret-{name}".encode()).digest(), roles=frozenset({"call"}))
        for name in ("ada", "bob")
    ]
    async with running(says(), gate=Gate(tokens)) as api:
        for name in ("ada", "bob"):
            told = await post(api, ORDER, Idempotency_Key="k1", Authorization=f"Bearer secret-{name}")
            assert (told[0], "Idempotency-Replayed" in told[2]) == (201, False)


async def test_a_key_that_is_none_is_400() -> None:
    async with running(says()) as api:
        for key in ("", "a b", "k" * 256):
            assert (await post(api, ORDER, Idempotency_Key=key))[0] == 400
    assert api.calls.placed == []


async def test_while_the_first_request_is_at_work_the_second_is_409() -> None:
    async with running(says()) as api:
        begun, gate = asyncio.Event(), asyncio.Event()

        async def slowly(order: CallOrder) -> CallFacts:
            begun.set()
            await gate.wait()
            return CALL

        api.calls.place_call = slowly  # type: ignore[method-assign]
        first = asyncio.create_task(post(api, ORDER, Idempotency_Key="k1"))
        await begun.wait()
        assert (await post(api, ORDER, Idempotency_Key="k1"))[0] == 409
        gate.set()
        assert (await first)[0] == 201


async def test_a_client_that_leaves_finds_the_answer_when_it_asks_again() -> None:
    async with running(says()) as api:
        begun, gate, placed = asyncio.Event(), asyncio.Event(), []

        async def slowly(order: CallOrder) -> CallFacts:
            placed.append(order)
            begun.set()
            await gate.wait()
            return CALL

        api.calls.place_call = slowly  # type: ignore[method-assign]
        first = asyncio.create_task(post(api, ORDER, Idempotency_Key="k1"))
        await begun.wait()
        first.cancel()
        await asyncio.wait([first])
        gate.set()
        while (told := await post(api, ORDER, Idempotency_Key="k1"))[0] == 409:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert (told[0], told[2]["Idempotency-Replayed"], len(placed)) == (201, "true", 1)


async def test_a_parameter_that_there_is_not_is_400() -> None:
    async with running(says()) as api:
        async with api.client.get(PATH, params={"limit": "3"}) as response:
            assert response.status == 400
            assert (await response.json())["errors"] == [{"field": "limit", "message": "There is no such parameter"}]
        async with api.client.get("/health", params={"from": "a balancer"}) as response:
            assert response.status == 200
        assert api.calls.placed == []


async def test_a_problem_is_no_answer_that_is_kept() -> None:
    async with running(says()) as api:
        place = api.calls.place_call

        async def refuse(order: CallOrder) -> CallFacts:
            raise Forbidden("not there", field="to")

        api.calls.place_call = refuse  # type: ignore[method-assign]
        assert (await post(api, ORDER, Idempotency_Key="k1"))[0] == 403
        api.calls.place_call = place  # type: ignore[method-assign]
        assert (await post(api, ORDER, Idempotency_Key="k1"))[0] == 201


async def test_the_text_of_a_call_is_held_to_the_limit_of_all_texts() -> None:
    async with running(says(), ApiLimits(max_text_chars=10)) as api:
        for field in ("text", "say", "ssml"):
            assert (await post(api, {"to": "sip:a@127.0.0.1", field: "a" * 11}))[0] == 422
