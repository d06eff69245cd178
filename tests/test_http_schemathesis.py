"""The description of the API, taken at its word: whatever it allows and forbids, no request is answered by a 500."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from http_api import ApiLimits, Forbidden, PushFacts, PushOrder, make_app, serve

from .http_support import ENCODE, ENCODERS, VERSION, FakeCalls, FakeControl, ramp, says

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


EXAMPLES = 10


class Sealed(FakeControl):
    """A host that sends nothing to the addresses that are made up here."""

    async def open_push(self, order: PushOrder) -> PushFacts:
        raise Forbidden("There is nowhere to send to", field="host")


@contextmanager
def in_background(control: FakeControl) -> Iterator[str]:
    """Serve in a thread of its own, because schemathesis asks in this one; gives the root of the API."""
    url: list[str] = []
    started, ended = threading.Event(), threading.Event()

    async def run() -> None:
        limits = ApiLimits(max_text_chars=200, max_body_bytes=10_000)
        app = make_app(control, calls=FakeCalls(), version=VERSION, encode=ENCODE, encoders=ENCODERS, limits=limits)
        async with serve(app, "127.0.0.1", 0, grace_s=1.0) as listening:
            url.append(listening.url)
            started.set()
            await asyncio.to_thread(ended.wait)

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    try:
        assert started.wait(10)
        yield url[0]
    finally:
        ended.set()
        thread.join(10)


def test_no_request_is_a_500_and_every_answer_is_as_described(caplog: pytest.LogCaptureFixture) -> None:
    control = Sealed(says(ramp(400)))
    with in_background(control) as url:
        schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
        schema.config.update(base_url=url)
        described = [found.ok() for found in schema.get_all_operations()]
        for operation in described:
            for mode in GenerationMode:
                _ask(operation, mode)
    assert len(described) > 10
    assert len(control.requests) > 20
    assert not [status for _, status in control.requests if status >= 500]
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def _ask(operation: Any, mode: GenerationMode) -> None:
    """Send what the description of `operation` allows, or what it forbids, and check each answer."""

    @settings(
        derandomize=True,
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: schemathesis.Case) -> None:
        case.call_and_validate(checks=CHECKS)

    with contextlib.suppress(Unsatisfiable):  # there is nothing to forbid about it
        ask()
