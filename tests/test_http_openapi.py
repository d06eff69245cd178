"""GET /openapi.json: a valid description, and a true one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

import http_api.schema
from http_api import ApiLimits, read_verbs
from http_api.examples import ANSWERS

from .http_support import SPEAKER, Api, ramp, running, says
from .test_http_limits import ORDER

SPEECH = ramp(1600)


async def fetch(api: Api) -> dict[str, Any]:
    async with api.client.get("/openapi.json") as response:
        assert (response.status, response.content_type) == (200, "application/json")
        document: dict[str, Any] = await response.json()
        return document


def schema(document: dict[str, Any], name: str) -> Draft202012Validator:
    return Draft202012Validator(
        {"$ref": f"#/components/schemas/{name}", "components": document["components"]},
    )


async def test_the_description_is_valid_openapi_3_1() -> None:
    async with running(says()) as api:
        document = await fetch(api)
    assert document["openapi"] == "3.1.0"
    OpenAPIV31SpecValidator(document).validate()


async def test_every_route_is_described_and_everything_described_is_there() -> None:
    async with running(says()) as api:
        document = await fetch(api)
        described = {(path, method) for path, methods in document["paths"].items() for method in methods}
        assert described == {
            ("/v1/synthesize", "post"),
            ("/v1/synthesize/stream", "post"),
            ("/v1/synthesize/ws", "get"),
            ("/v1/audio/speech", "post"),
            ("/v1/models", "get"),
            ("/v1/models/{model}", "get"),
            ("/v1/rtp", "post"),
            ("/v1/rtp", "get"),
            ("/v1/rtp/{id}", "get"),
            ("/v1/rtp/{id}", "delete"),
            ("/v1/prompts", "post"),
            ("/v1/voices", "get"),
            ("/v1/engine", "get"),
            ("/v1/engine/synthesize", "post"),
            ("/v1/engine/embedding", "post"),
            ("/v1/token", "get"),
            ("/v1/speakers", "post"),
            ("/v1/speakers", "get"),
            ("/v1/speakers/{id}", "get"),
            ("/v1/speakers/{id}", "patch"),
            ("/v1/speakers/{id}", "delete"),
            ("/v1/calls", "post"),
            ("/v1/calls", "get"),
            ("/v1/calls/{id}", "get"),
            ("/v1/calls/{id}", "delete"),
            ("/v1/calls/{id}/say", "post"),
            ("/v1/calls/{id}/stop", "post"),
            ("/v1/calls/{id}/play", "post"),
            ("/v1/clips", "post"),
            ("/v1/clips/{id}", "get"),
            ("/v1/clips/{id}", "delete"),
            ("/v1/calls/{id}/pause", "post"),
            ("/v1/calls/{id}/resume", "post"),
            ("/v1/calls/{id}/dtmf", "post"),
            ("/v1/calls/{id}/hold", "post"),
            ("/v1/calls/{id}/unhold", "post"),
            ("/v1/calls/{id}/transfer", "post"),
            ("/v1/calls/{id}/audio", "get"),
            ("/v1/calls/{id}/events", "get"),
            ("/v1/calls/{id}/record", "post"),
            ("/v1/calls/{id}/record/stop", "post"),
            ("/v1/recordings", "get"),
            ("/v1/recordings/{id}", "get"),
            ("/v1/recordings/{id}", "delete"),
            ("/v1/recordings/{id}/audio", "get"),
            ("/v1/webrtc/offer", "post"),
            ("/v1/events", "get"),
            ("/health", "get"),
            ("/ready", "get"),
            ("/metrics", "get"),
        }
        for path, method in described:
            async with api.client.request(method, path) as response:
                assert str(response.status) in document["paths"][path][method]["responses"]


async def test_the_limits_in_force_are_described() -> None:
    async with running(says(), ApiLimits(max_text_chars=77)) as api:
        document = await fetch(api)
    for name in ("SynthesizeRequest", "StreamRequest", "PushRequest"):
        for field in ("text", "ssml"):
            words, absent = document["components"]["schemas"][name]["properties"][field]["anyOf"]
            assert (words["maxLength"], absent) == (77, {"type": "null"})
    chunk_size = document["components"]["schemas"]["StreamRequest"]["properties"]["chunk_size_ms"]
    assert (chunk_size["minimum"], chunk_size["maximum"], chunk_size["default"]) == (20, 1000, 100)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (ORDER, 200),
        ({"text": "a", "format": "mulaw", "sample_rate": 8000, "speaker_id": "x"}, 200),
        ({"text": 5}, 422),
        ({"text": ""}, 422),
        ({"text": "a" * 78}, 422),
        ({"text": "a", "sample_rate": 11025}, 422),
        ({"text": "a", "format": "opus", "language": "de", "speed": 4, "seed": 1}, 200),
        ({"ssml": "<speak>a</speak>", "speed": 0.25}, 200),
        ({"text": "a", "ssml": "<speak>a</speak>"}, 422),
        ({"text": "a", "ssml": None}, 200),
        ({"text": "a", "format": "aac"}, 422),
        ({"text": "a", "speed": 4.1}, 422),
        ({"text": "a", "more": 1}, 400),
        ({}, 422),
        ([], 422),
    ],
)
async def test_the_described_request_is_the_one_accepted(body: object, status: int) -> None:
    async with running(says(SPEECH), ApiLimits(max_text_chars=77)) as api:
        document = await fetch(api)
        assert schema(document, "SynthesizeRequest").is_valid(body) == (status == 200)
        async with api.client.post("/v1/synthesize", json=body) as response:
            assert response.status == status
            if status != 200:
                schema(document, "ProblemDetails").validate(await response.json())
            else:
                described = document["paths"]["/v1/synthesize"]["post"]["responses"]["200"]
                assert response.content_type in described["content"]
                assert set(described["headers"]) <= set(response.headers)
                await response.read()


async def test_every_json_body_has_examples_and_they_are_accepted() -> None:
    async with running(says(SPEECH)) as api:
        document = await fetch(api)
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                media = operation.get("requestBody", {}).get("content", {}).get("application/json")
                if media is None:
                    continue
                assert media["examples"], path
                for example in media["examples"].values():
                    schema(document, media["schema"]["$ref"].rpartition("/")[2]).validate(example["value"])
                    one = path.replace("{id}", SPEAKER.id)
                    async with api.client.request(method, one, json=example["value"]) as response:
                        # There is no room for a push here, and no such call, which is no fault of the examples.
                        assert response.status == {"/v1/rtp": 503, "/v1/calls": 201, "/v1/webrtc/offer": 201}.get(
                            path, 404 if path.startswith("/v1/calls/") else 200
                        )
                        await response.read()


async def test_every_answer_in_json_has_an_example_and_it_is_one() -> None:
    async with running(says()) as api:
        document = await fetch(api)
    shown = set()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            for parameter in operation["parameters"]:
                assert parameter.get("in") != "path" or parameter["example"], path
            for status, answer in operation["responses"].items():
                media = answer.get("content", {}).get("application/json")
                if int(status) >= 400 or media is None or path == "/openapi.json":
                    continue
                name = media["schema"]["$ref"].rpartition("/")[2]
                schema(document, name).validate(media["example"])
                shown.add(name)
                # Nothing is made up, and nothing is left out.
                model = getattr(http_api.schema, name)
                told = json.loads(model.model_validate_json(json.dumps(media["example"])).model_dump_json())
                assert told == media["example"], (method, path)
    assert shown == {model.__name__ for model in ANSWERS}


async def test_reports_are_as_described() -> None:
    async with running(says()) as api:
        document = await fetch(api)
        async with api.client.get("/health") as response:
            schema(document, "HealthReport").validate(await response.json())
        async with api.client.get("/ready") as response:
            schema(document, "Readiness").validate(await response.json())


async def test_webhooks_are_described_as_they_are_asked_and_may_answer() -> None:
    async with running(says()) as api:
        document = await fetch(api)
    assert set(document["webhooks"]) == {"event", "dialogue"}
    for asked in document["webhooks"].values():
        media = asked["post"]["requestBody"]["content"]["application/json"]
        names = {parameter["name"] for parameter in asked["post"]["parameters"]}
        assert names == {"webhook-id", "webhook-timestamp", "webhook-signature"}
        assert media["examples"]
        for example in media["examples"].values():
            schema(document, media["schema"]["$ref"].rpartition("/")[2]).validate(example["value"])
    answer = schema(document, "DialogueAnswer")
    for verbs in document["components"]["schemas"]["DialogueAnswer"]["examples"]:
        answer.validate(verbs)
        assert read_verbs(json.dumps(verbs).encode(), ApiLimits())
    assert not answer.is_valid([{"verb": "shout"}])
