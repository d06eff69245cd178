"""What a request may say, rule by rule, and how each fault is named."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from http_api import ApiLimits
from http_api.problem import of_validation
from http_api.schema import FieldError, StreamRequest, SynthesizeRequest

LIMITS = ApiLimits(max_text_chars=20)
FORMATS = "'wav', 'pcm', 'mulaw', 'alaw', 'opus', 'flac' or 'mp3'"


def faults(model: type[SynthesizeRequest], body: str | bytes) -> tuple[int, tuple[FieldError, ...]]:
    with pytest.raises(ValidationError) as raised:
        model.model_validate_json(body, context=LIMITS)
    problem = of_validation(raised.value)
    return problem.status, problem.errors


def test_a_text_alone_is_a_request() -> None:
    order = SynthesizeRequest.model_validate_json('{"text": "Hello"}', context=LIMITS)
    assert order == SynthesizeRequest(text="Hello", speaker_id="default", format="wav", sample_rate=8000)
    events = StreamRequest.model_validate_json('{"text": "Hello"}', context=LIMITS)
    assert events == StreamRequest(
        text="Hello", speaker_id="default", format="pcm", sample_rate=8000, chunk_size_ms=100
    )


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        ({"text": 5}, "text", "Input should be a valid string"),
        ({"text": None}, "ssml", "Exactly one of text and ssml should be given"),
        ({"text": "a", "ssml": "<speak>a</speak>"}, "ssml", "Exactly one of text and ssml should be given"),
        ({"ssml": "x" * 21}, "ssml", "Text should have at most 20 characters, and this has 21: split it"),
        ({"text": "a", "language": "de_DE"}, "language", "String should match pattern '^[A-Za-z0-9-]*$'"),
        ({"text": "a", "speed": 0.24}, "speed", "Input should be greater than or equal to 0.25"),
        ({"text": "a", "speed": 4.01}, "speed", "Input should be less than or equal to 4"),
        ({"text": "a", "speed": "1"}, "speed", "Input should be a valid number"),
        ({"text": "a", "seed": -1}, "seed", "Input should be greater than or equal to 0"),
        ({"text": "a", "seed": 2**32}, "seed", "Input should be less than or equal to 4294967295"),
        ({"text": "a", "seed": 1.5}, "seed", "Input should be a valid integer"),
        ({"text": ["a"]}, "text", "Input should be a valid string"),
        ({}, "ssml", "Exactly one of text and ssml should be given"),
        ({"text": ""}, "text", "String should have at least 1 character"),
        ({"text": " \n\t "}, "text", "Text should contain something to say"),
        ({"text": "a\0b"}, "text", "Value should not contain U+0000"),
        ({"text": "x" * 21}, "text", "Text should have at most 20 characters, and this has 21: split it"),
        ({"text": "a", "speaker_id": 1}, "speaker_id", "Input should be a valid string"),
        ({"text": "a", "speaker_id": ""}, "speaker_id", "String should have at least 1 character"),
        ({"text": "a", "speaker_id": "s" * 129}, "speaker_id", "String should have at most 128 characters"),
        ({"text": "a", "speaker_id": "\0"}, "speaker_id", "Value should not contain U+0000"),
        ({"text": "a", "format": "aac"}, "format", f"Input should be {FORMATS}"),
        ({"text": "a", "format": "WAV"}, "format", f"Input should be {FORMATS}"),
        ({"text": "a", "sample_rate": 44100}, "sample_rate", "Input should be 8000, 16000 or 24000"),
        ({"text": "a", "sample_rate": "8000"}, "sample_rate", "Input should be 8000, 16000 or 24000"),
        ({"text": "a", "sample_rate": 8000.5}, "sample_rate", "Input should be 8000, 16000 or 24000"),
        ({"text": "a", "voice": "b"}, "voice", "There is no such field"),
        ({"text": "a", "chunk_size_ms": 20}, "chunk_size_ms", "There is no such field"),
    ],
)
def test_a_fault_names_its_field(body: dict[str, Any], field: str, message: str) -> None:
    # What a request asks for and there is not was never honoured: 400, and not a value that does not fit.
    status = 400 if message == "There is no such field" else 422
    assert faults(SynthesizeRequest, json.dumps(body)) == (status, (FieldError(field=field, message=message),))


@pytest.mark.parametrize("coding", ["mulaw", "alaw"])
@pytest.mark.parametrize("rate_hz", [16000, 24000])
def test_g711_is_8000_hz(coding: str, rate_hz: int) -> None:
    body = json.dumps({"text": "a", "format": coding, "sample_rate": rate_hz})
    message = f"Format {coding} has a sample rate of 8000 and no other"
    assert faults(SynthesizeRequest, body) == (422, (FieldError(field="sample_rate", message=message),))


@pytest.mark.parametrize("chunk_size_ms", [19, 1001, -1, 0, 10**30, 100.5, "100", True, None])
def test_chunk_size_is_20_to_1000_ms(chunk_size_ms: object) -> None:
    status, errors = faults(StreamRequest, json.dumps({"text": "a", "chunk_size_ms": chunk_size_ms}))
    assert (status, [error.field for error in errors]) == (422, ["chunk_size_ms"])
    for edge in (20, 1000):
        assert StreamRequest(text="a", chunk_size_ms=edge).chunk_size_ms == edge


def test_a_stream_has_no_wav() -> None:
    assert faults(StreamRequest, '{"text": "a", "format": "wav"}') == (
        422,
        (FieldError(field="format", message="Input should be 'pcm', 'mulaw', 'alaw', 'opus', 'flac' or 'mp3'"),),
    )


def test_the_text_is_measured_in_characters_not_in_bytes() -> None:
    assert SynthesizeRequest.model_validate_json(json.dumps({"text": "\U0001f600" * 20}), context=LIMITS).text


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"text": "a"',
        b'{"text": "a",}',
        b"{'text': 'a'}",
        b'{"text": "a"} x',
        b'\xff\xfe{"text": "a"}',
        b'{"text": "\xff"}',
        b'{"text": "\\ud800"}',
        b"[" * 100_000,
        b'{"text":' * 10_000,
        b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    ],
)
def test_what_is_no_json_is_400(body: bytes) -> None:
    status, errors = faults(SynthesizeRequest, body)
    assert (status, errors) == (400, ())


@pytest.mark.parametrize("body", ["NaN", "null", "[]", '"text"', "5", "true"])
def test_a_body_that_is_no_object_is_422(body: str) -> None:
    status, errors = faults(SynthesizeRequest, body)
    assert (status, errors) == (422, ())


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "100.0"])
def test_no_number_but_an_integer_passes(number: str) -> None:
    status, errors = faults(StreamRequest, f'{{"text": "a", "chunk_size_ms": {number}}}')
    assert (status, [error.field for error in errors]) == (422, ["chunk_size_ms"])


def test_every_fault_is_named_up_to_eight() -> None:
    status, errors = faults(SynthesizeRequest, '{"text": 1, "format": 2, "sample_rate": 3}')
    assert (status, [error.field for error in errors]) == (422, ["text", "format", "sample_rate"])
    unknown = json.dumps({"text": "a"} | {"u" * 1000 + str(n): n for n in range(100)})
    status, errors = faults(SynthesizeRequest, unknown)
    assert status == 400
    assert [error.field for error in errors] == ["u" * 100] * 8


def test_limits_are_positive() -> None:
    for name in ("max_text_chars", "max_concurrent", "hold_ms", "max_concurrent_per_client"):
        for value in (0, -1, float("nan")):
            with pytest.raises(ValueError, match=f"^{name} must be positive"):
                ApiLimits(**{name: value})  # type: ignore[arg-type]
