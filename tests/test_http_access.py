"""Who may do what over HTTP: tokens, roles, budgets, foreign pages, and what is left of it in the log."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import logging
from typing import Any

import aiohttp
import openai
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from http_api import ROLES, Gate, Token
from http_api.access import Budget, Client, Guesses
from http_api.app import make_app
from http_api.problem import Problem
from http_api.route import Access

from .http_support import ENCODE, ENCODERS, SPEAKER, VERSION, FakeCalls, FakeControl, Gated, ramp, running, says
from .test_http_limits import ORDER, read_response

SPEECH = ramp(1600)
CHALLENGE = 'Bearer realm="mediaserver"'

# Every route, and what it asks for: a new one is entered here too, so that somebody has thought of it.
ROUTES = {
    "POST /v1/synthesize": Access.SPEAK,
    "POST /v1/synthesize/stream": Access.SPEAK,
    "GET /v1/synthesize/ws": Access.SPEAK,
    "POST /v1/audio/speech": Access.SPEAK,
    "GET /v1/engine": Access.SPEAK,
    "POST /v1/engine/synthesize": Access.SPEAK,
    "POST /v1/engine/embedding": Access.SPEAK,
    "GET /v1/models": Access.TOKEN,
    "GET /v1/models/{model}": Access.TOKEN,
    "POST /v1/rtp": Access.CALL,
    "GET /v1/rtp": Access.READ,
    "GET /v1/rtp/{id}": Access.READ,
    "DELETE /v1/rtp/{id}": Access.CALL,
    "GET /v1/calls/{id}/audio": Access.CALL,
    "POST /v1/prompts": Access.SPEAK,
    "POST /v1/speakers": Access.ADMIN,
    "GET /v1/speakers": Access.TOKEN,
    "GET /v1/speakers/{id}": Access.ADMIN,
    "PATCH /v1/speakers/{id}": Access.ADMIN,
    "DELETE /v1/speakers/{id}": Access.ADMIN,
    "POST /v1/calls": Access.CALL,
    "GET /v1/calls": Access.READ,
    "GET /v1/calls/{id}/events": Access.READ,
    "GET /v1/events": Access.READ,
    "POST /v1/webrtc/offer": Access.CALL,
    "GET /v1/calls/{id}": Access.READ,
    "DELETE /v1/calls/{id}": Access.CALL,
    "POST /v1/calls/{id}/say": Access.CALL,
    "POST /v1/calls/{id}/play": Access.CALL,
    "POST /v1/clips": Access.CALL,
    "GET /v1/clips/{id}": Access.CALL,
    "DELETE /v1/clips/{id}": Access.CALL,
    **{
        f"POST /v1/calls/{{id}}/{verb}": Access.CALL
        for verb in ("stop", "pause", "resume", "dtmf", "hold", "unhold", "transfer", "record", "record/stop")
    },
    # Not to `read`: whoever may hear what is said on the telephone is another matter than who may count calls.
    "GET /v1/recordings": Access.CALL,
    "GET /v1/recordings/{id}": Access.CALL,
    "GET /v1/recordings/{id}/audio": Access.CALL,
    "DELETE /v1/recordings/{id}": Access.ADMIN,
    "GET /health": Access.OPEN,
    "GET /ready": Access.OPEN,
    "GET /metrics": Access.READ,
    "GET /openapi.json": Access.OPEN,
    "GET /v1/voices": Access.TOKEN,
    "GET /v1/token": Access.TOKEN,
    "GET /": Access.OPEN,
    "GET /console": Access.OPEN,
    "GET /console/{file}": Access.OPEN,
    "GET /docs": Access.OPEN,
}

# What describes the API, and the pages for people.
NOT_DESCRIBED = {"/openapi.json", "/", "/console", "/console/{file}", "/docs"}


def secret(name: str) -> str:
    """A token for the tests; it looks like no other."""
    return f"SECRET-{name}-0123456789abcdef"


def token(name: str, *roles: str, **limits: Any) -> Token:
    digest = hashlib.sha256(secret(name).encode()).digest()
    return Token(name=name, sha256=digest, roles=frozenset(roles), **limits)


def gate(**limits: Any) -> Gate:
    """One token for each role, of its name."""
    return Gate([token(role, role, **limits) for role in ROLES])


def bearing(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret(name)}"}


def identify(gate: Gate, *authorization: str, protocols: tuple[str, ...] = ()) -> str:
    return gate.client(authorization=authorization, protocols=protocols, address="192.0.2.1").name


# The table


async def test_every_route_asks_for_what_was_decided() -> None:
    app = make_app(FakeControl(says()), calls=FakeCalls(), version=VERSION, encode=ENCODE, encoders=ENCODERS)
    routed = {
        f"{route.method} {route.resource.canonical}"
        for route in app.router.routes()
        if route.resource is not None and route.method not in ("OPTIONS", "HEAD")
    }
    assert routed == ROUTES.keys()
    names = {role: secret(role) for role in ROLES}
    async with running(says(SPEECH), gate=gate()) as api:
        for row, access in ROUTES.items():
            method, path = row.replace("{id}", "x").replace("{model}", "x").split(" ")
            for role in names:
                async with api.client.request(method, path, headers=bearing(role)) as response:
                    refused = response.status == 403
                    assert refused == (access is not Access.OPEN and access not in ROLES[role]), (row, role)
            async with api.client.request(method, path) as response:
                assert (response.status == 401) == (access is not Access.OPEN), row


def test_each_role_includes_what_is_said_of_it() -> None:
    assert ROLES["read"] == {Access.TOKEN, Access.READ}
    assert ROLES["speak"] == {Access.TOKEN, Access.SPEAK}
    assert ROLES["call"] == ROLES["read"] | ROLES["speak"] | {Access.CALL}
    assert ROLES["admin"] == set(Access)


async def test_a_head_asks_for_what_its_get_asks_for() -> None:
    async with running(says(), gate=gate()) as api:
        async with api.client.head("/metrics") as response:
            assert response.status == 401
        async with api.client.head("/metrics", headers=bearing("read")) as response:
            assert response.status == 200


async def test_probes_need_no_token() -> None:
    async with running(says(), gate=gate()) as api:
        for path in ("/health", "/ready", "/openapi.json"):
            async with api.client.get(path) as response:
                assert response.status == 200
            async with api.client.get(path, headers={"Authorization": "Bearer wrong"}) as response:
                assert response.status == 200


# RFC 6750


@pytest.mark.parametrize(
    ("authorization", "status", "challenge"),
    [
        ((), 401, CHALLENGE),
        (("Basic dXNlcjpwYXNzd29yZA==",), 401, CHALLENGE),
        (("Bearer",), 401, f'{CHALLENGE}, error="invalid_token"'),
        (("Bearer ",), 401, f'{CHALLENGE}, error="invalid_token"'),
        ((f"Bearer {secret('read')}x",), 401, f'{CHALLENGE}, error="invalid_token"'),
        ((f"Bearer {secret('read')[:-1]}",), 401, f'{CHALLENGE}, error="invalid_token"'),
        ((f"Bearer {secret('read')} {secret('read')}",), 401, f'{CHALLENGE}, error="invalid_token"'),
        ((f"Bearer {secret('read').lower()}",), 401, f'{CHALLENGE}, error="invalid_token"'),
        (('Bearer "',), 401, f'{CHALLENGE}, error="invalid_token"'),
        (("Bearer \u00e9",), 401, f'{CHALLENGE}, error="invalid_token"'),
        (("Bearer " + "a" * 8000,), 401, f'{CHALLENGE}, error="invalid_token"'),
        ((f"Bearer {secret('read')}",) * 2, 400, f'{CHALLENGE}, error="invalid_request"'),
    ],
)
async def test_without_a_token_in_force_it_is_401_with_a_challenge(
    authorization: tuple[str, ...], status: int, challenge: str
) -> None:
    async with running(says(), gate=gate()) as api:
        headers = [("Authorization", value) for value in authorization]
        async with api.client.get("/metrics", headers=headers) as response:
            assert (response.status, response.headers["WWW-Authenticate"]) == (status, challenge)
            assert response.content_type == "application/problem+json"
        assert api.control.refusals == [status]


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_the_scheme_is_case_insensitive(scheme: str) -> None:
    async with running(says(), gate=gate()) as api:
        headers = {"Authorization": f"{scheme} {secret('read')}"}
        async with api.client.get("/metrics", headers=headers) as response:
            assert response.status == 200


async def test_a_missing_role_is_403_and_named() -> None:
    async with running(says(SPEECH), gate=gate()) as api:
        async with api.client.post("/v1/synthesize", json=ORDER, headers=bearing("read")) as response:
            assert response.status == 403
            assert response.headers["WWW-Authenticate"] == f'{CHALLENGE}, error="insufficient_scope", scope="speak"'
            assert (await response.json())["detail"] == "The token read has not the role speak."
        assert (api.control.asked, api.control.refusals) == ([], [403])


async def test_several_roles_add_up() -> None:
    both = Gate([token("both", "read", "speak")])
    async with running(says(SPEECH), gate=both) as api:
        async with api.client.post("/v1/synthesize", json=ORDER, headers=bearing("both")) as response:
            assert response.status == 200
        async with api.client.get("/metrics", headers=bearing("both")) as response:
            assert response.status == 200
        async with api.client.post("/v1/rtp", json=ORDER, headers=bearing("both")) as response:
            assert response.status == 403


async def test_a_line_that_is_too_long_is_431_and_the_token_is_not_looked_at() -> None:
    async with running(says(), gate=gate()) as api:
        reader, writer = await api.dial()
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: api\r\nAuthorization: Bearer " + b"a" * 10_000 + b"\r\n\r\n")
        status, _, body = await read_response(reader)
        assert status == 431
        assert b"aaaa" not in body


@pytest.mark.parametrize("break_", ["\r\nX-Injected: yes", "\nX-Injected: yes", "\rX-Injected: yes", "\0"])
async def test_what_comes_in_a_header_is_in_no_header_that_leaves(break_: str) -> None:
    async with running(says(), gate=Gate([token("a", "read")], origins=["https://good.example"])) as api:
        for name in ("Authorization", "Origin", "Sec-WebSocket-Protocol"):
            reader, writer = await api.dial()
            head = f"GET /metrics HTTP/1.1\r\nHost: api\r\n{name}: Bearer smuggled{break_}\r\n\r\n"
            writer.write(head.encode())
            status, headers, body = await read_response(reader)
            assert status in (400, 401)
            assert "x-injected" not in headers
            assert b"smuggled" not in body


@given(
    authorization=st.lists(st.text(), max_size=2),
    protocols=st.lists(st.text(), max_size=2),
    guarded=st.booleans(),
)
@example(authorization=["Bearer \ud800"], protocols=[], guarded=True)
@example(authorization=[], protocols=["mediaserver, bearer.\ud800"], guarded=True)
def test_whatever_is_presented_is_answered(authorization: list[str], protocols: list[str], guarded: bool) -> None:
    asked = gate() if guarded else Gate()
    told: Problem | Client
    try:
        told = asked.client(authorization=authorization, protocols=protocols, address="192.0.2.1")
    except Problem as problem:
        told = problem
    if isinstance(told, Problem):
        assert told.status in (400, 401)
        assert told.headers["WWW-Authenticate"].startswith(CHALLENGE)
        assert told.headers["WWW-Authenticate"].isascii()
    else:
        assert not guarded, "nobody guesses a token"
        assert (told.name, told.opens) == ("", frozenset(Access))


@given(origin=st.text(), host=st.text(), guarded=st.booleans())
def test_whatever_origin_a_page_has_it_is_judged(origin: str, host: str, guarded: bool) -> None:
    listed = Gate([token("a", "read")] if guarded else [], origins=["https://good.example"])
    with contextlib.suppress(Problem):
        listed.check_origin(origin, host)
    assert "Access-Control-Allow-Origin" not in listed.cors(origin)


# Comparison


def test_a_token_is_kept_as_its_hash_and_shown_to_nobody() -> None:
    kept = gate()
    assert all(secret(name) not in repr(vars(kept)) for name in ROLES)
    assert token("read", "read").sha256.hex() not in repr(token("read", "read"))


@pytest.mark.parametrize("presented", [*ROLES, "nobody"])
def test_every_token_is_compared_whichever_is_presented(presented: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = []
    compare = hmac.compare_digest

    def counted(a: bytes, b: bytes) -> bool:
        lengths.append((len(a), len(b)))
        return compare(a, b)

    monkeypatch.setattr(hmac, "compare_digest", counted)
    if presented in ROLES:
        assert identify(gate(), f"Bearer {secret(presented)}") == presented
    else:
        with pytest.raises(Problem):
            identify(gate(), f"Bearer {secret(presented)}")
    assert lengths == [(32, 32)] * len(ROLES)


def test_a_token_of_a_megabyte_is_not_hashed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hmac, "compare_digest", None)
    with pytest.raises(Problem) as caught:
        identify(gate(), "Bearer " + "a" * 1_000_000)
    assert caught.value.status == 401


def test_a_token_without_a_hash_or_with_an_unknown_role_is_none() -> None:
    for sha256, roles in ((b"", {"read"}), (bytes(32), set()), (bytes(32), {"root"})):
        with pytest.raises(ValueError, match=r"sha256|roles"):
            Token(name="a", sha256=sha256, roles=frozenset(roles))


@pytest.mark.parametrize("twice", [[token("a", "read"), token("a", "speak")], [token("a", "read")] * 2])
def test_two_tokens_are_told_apart(twice: list[Token]) -> None:
    with pytest.raises(ValueError, match="two tokens"):
        Gate(twice)


# Guessing


def test_guesses_are_told_ever_later_and_only_where_they_come_from() -> None:
    guesses = Guesses()
    delays = [guesses.delay_s("192.0.2.1", now=float(n)) for n in range(16)]
    assert delays == [0.0] * 8 + [0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 4.0, 4.0]
    assert guesses.delay_s("192.0.2.2", now=16.0) == 0


def test_guesses_are_forgiven_after_a_while() -> None:
    guesses = Guesses()
    for _ in range(20):
        guesses.delay_s("192.0.2.1", now=0.0)
    assert guesses.delay_s("192.0.2.1", now=Guesses.FORGIVEN_AFTER_S) == 4.0
    assert guesses.delay_s("192.0.2.1", now=2 * Guesses.FORGIVEN_AFTER_S + 1) == 0.0


def test_an_ipv6_network_is_one_place() -> None:
    guesses = Guesses()
    delays = [guesses.delay_s(f"2001:db8::{n:x}", now=0.0) for n in range(10)]
    assert delays[-1] == 0.25
    assert guesses.delay_s("2001:db8:0:1::1", now=0.0) == 0


def test_guesses_from_everywhere_take_bounded_memory() -> None:
    guesses = Guesses()
    for n in range(2 * Guesses.ADDRESSES):
        guesses.delay_s(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}", now=0.0)
    assert len(guesses._by_place) == Guesses.ADDRESSES


async def test_whoever_has_the_right_token_waits_for_no_guesser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Guesses, "FREE", 2)
    monkeypatch.setattr(Guesses, "FIRST_S", 60.0)
    monkeypatch.setattr(Guesses, "LONGEST_S", 60.0)
    async with running(says(), gate=gate()) as api:
        for _ in range(2):
            async with api.client.get("/metrics", headers=bearing("nobody")) as response:
                assert response.status == 401
        guess = asyncio.create_task(api.client.get("/metrics", headers=bearing("nobody")).__aenter__())
        async with api.client.get("/metrics", headers=bearing("read")) as response:
            assert response.status == 200
        async with api.client.get("/metrics") as response:
            assert response.status == 401, "to present none is no guess"
        assert not guess.done()
        guess.cancel()
        await asyncio.gather(guess, return_exceptions=True)


# The log


@pytest.mark.parametrize("name", ["call", "read", "nobody"])
async def test_no_token_is_logged(name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with running(says(SPEECH), gate=gate()) as api:
        async with api.client.post("/v1/rtp?a=b", json=ORDER, headers=bearing(name)) as response:
            await response.read()
        for protocols in (["mediaserver", f"bearer.{secret(name)}"], [f"bearer.{secret(name)}"]):
            try:
                async with api.client.ws_connect("/v1/synthesize/ws", protocols=protocols):
                    pass
            except aiohttp.WSServerHandshakeError:
                pass
    lines = [f"{record.getMessage()} {vars(record)}" for record in caplog.records if record.name != "asyncio"]
    assert len(lines) >= 3
    assert not [line for line in lines if secret(name) in line]


async def test_what_changes_something_leaves_an_audit_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with running(says(SPEECH), gate=gate()) as api:
        path = f"/v1/speakers/{SPEAKER.id}"
        async with api.client.delete(path, headers=bearing("admin")) as response:
            assert response.status == 204
        async with api.client.delete(path, headers=bearing("call")) as response:
            assert response.status == 403
        async with api.client.delete(path) as response:
            assert response.status == 401
        async with api.client.post("/v1/synthesize", json=ORDER, headers=bearing("speak")) as response:
            assert response.status == 200
        async with api.client.get("/metrics", headers=bearing("read")) as response:
            assert response.status == 200
    audited = [
        [vars(record)[key] for key in ("client", "action", "path", "status")]
        for record in caplog.records
        if record.name == "http_api.audit"
    ]
    assert audited == [
        ["admin", "delete_speaker", path, 204],
        ["call", "delete_speaker", path, 403],
        ["", "delete_speaker", path, 401],
    ]


async def test_an_audit_line_names_what_was_made(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with running(says(SPEECH), gate=gate()) as api:
        form = aiohttp.FormData(default_to_multipart=True)
        form.add_field("name", "Ada")
        form.add_field("file", b"RIFF", filename="a.wav")
        async with api.client.post("/v1/speakers", data=form, headers=bearing("admin")) as response:
            assert response.status == 201
    (line,) = [record for record in caplog.records if record.name == "http_api.audit"]
    assert (vars(line)["action"], vars(line)["made"]) == ("post_speakers", f"/v1/speakers/{SPEAKER.id}")
    assert "Ada" not in str(vars(line))


async def test_an_audit_line_has_no_spoken_text(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with running(says(SPEECH), gate=gate()) as api:
        order = {"text": "My name is Sherlock", "host": "127.0.0.1", "port": 40000}
        async with api.client.post("/v1/rtp", json=order, headers=bearing("call")) as response:
            assert response.status == 503
    assert [record.getMessage() for record in caplog.records if record.name == "http_api.audit"] == ["post_pushes 503"]
    assert "Sherlock" not in "".join(str(vars(record)) for record in caplog.records)


async def test_the_access_line_names_the_token(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    order = {"json": ORDER, "headers": bearing("speak")}
    async with running(says(SPEECH), gate=gate()) as api, api.client.post("/v1/synthesize", **order) as response:
        assert response.status == 200
    (line,) = [record for record in caplog.records if record.name == "http_api.access"]
    assert vars(line)["client"] == "speak"


# Bodies


async def test_a_body_is_not_invited_without_a_token() -> None:
    async with running(says(), gate=gate()) as api:
        reader, writer = await api.dial()
        head = "POST /v1/speakers HTTP/1.1\r\nHost: api\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        writer.write(f"{head}Content-Length: 1000\r\nExpect: 100-continue\r\n\r\n".encode())
        status, headers, _ = await read_response(reader)
        assert (status, headers["connection"]) == (401, "close")


async def test_a_body_that_comes_uninvited_is_not_waited_for() -> None:
    async with running(says(), gate=gate()) as api:
        reader, writer = await api.dial()
        writer.write(b"POST /v1/synthesize HTTP/1.1\r\nHost: api\r\nContent-Length: 1000\r\n\r\n")
        status, headers, _ = await read_response(reader)
        assert (status, headers["connection"]) == (401, "close")


# OpenAI's client


async def test_openais_client_sends_its_key_as_the_token() -> None:
    async with running(says(SPEECH), gate=gate()) as api:

        def client(key: str) -> openai.AsyncOpenAI:
            return openai.AsyncOpenAI(base_url=f"{api.listening.url}/v1", api_key=key, max_retries=0)

        async with client(secret("speak")) as allowed:
            models = await allowed.models.list()
            assert models.data[0].id == "fake"
            spoken = await allowed.audio.speech.create(
                model="tts-1", input="Hello", voice="alloy", response_format="pcm"
            )
            assert spoken.content == SPEECH
        async with client("sk-wrong-0123456789") as refused:
            with pytest.raises(openai.AuthenticationError) as caught:
                await refused.models.list()
            assert caught.value.body == {
                "message": "This token is not in force.",
                "type": "invalid_request_error",
                "param": None,
                "code": "invalid_api_key",
            }
        async with client(secret("read")) as refused:
            with pytest.raises(openai.PermissionDeniedError, match="has not the role speak"):
                await refused.audio.speech.create(model="tts-1", input="Hello", voice="alloy")


# WebSockets


async def test_a_websocket_takes_the_token_in_its_header() -> None:
    async with running(says(SPEECH), gate=gate()) as api:
        async with api.client.ws_connect("/v1/synthesize/ws", headers=bearing("speak")) as socket:
            await socket.send_json({"end": True})
            assert (await socket.receive_json())["type"] == "ready"
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await api.client.ws_connect("/v1/synthesize/ws", headers=bearing("read"))
        assert caught.value.status == 403
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await api.client.ws_connect("/v1/synthesize/ws")
        assert caught.value.status == 401


async def test_a_browser_brings_the_token_of_a_websocket_as_a_subprotocol() -> None:
    async with running(says(SPEECH), gate=gate()) as api:
        protocols = ["mediaserver", f"bearer.{secret('speak')}"]
        async with api.client.ws_connect("/v1/synthesize/ws", protocols=protocols) as socket:
            assert socket.protocol == "mediaserver", "and it is not the token that comes back"
            await socket.send_json({"end": True})
            assert (await socket.receive_json())["type"] == "ready"


@pytest.mark.parametrize(
    ("protocols", "status"),
    [
        ((f"bearer.{secret('speak')}",), 400),
        (("mediaserver", f"bearer.{secret('nobody')}"), 401),
        (("mediaserver", "bearer."), 401),
        (("mediaserver", f"bearer.{secret('read')}"), 403),
        (("mediaserver", f"bearer.{secret('read')}", f"bearer.{secret('speak')}"), 400),
        (("mediaserver",), 401),
    ],
)
async def test_a_subprotocol_that_is_no_token_is_refused(protocols: tuple[str, ...], status: int) -> None:
    async with running(says(SPEECH), gate=gate()) as api:
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await api.client.ws_connect("/v1/synthesize/ws", protocols=protocols)
        assert caught.value.status == status


def test_a_token_comes_in_one_way() -> None:
    with pytest.raises(Problem) as caught:
        identify(gate(), f"Bearer {secret('read')}", protocols=(f"mediaserver, bearer.{secret('read')}",))
    assert caught.value.status == 400
    assert identify(gate(), protocols=(f"mediaserver, bearer.{secret('read')}",)) == "read"


# Without tokens


async def test_without_tokens_everybody_may_do_everything_and_a_token_does_no_harm() -> None:
    async with running(says(SPEECH)) as api:
        for headers in ({}, bearing("any"), {"Authorization": "Basic x"}):
            async with api.client.post("/v1/synthesize", json=ORDER, headers=headers) as response:
                assert response.status == 200
        async with api.client.get("/metrics") as response:
            assert response.status == 200


# Replacing tokens


async def test_tokens_are_replaced_while_the_server_runs() -> None:
    tokens = Gate([token("old", "read")])
    async with running(says(), gate=tokens) as api:
        tokens.replace([token("new", "read")])
        async with api.client.get("/metrics", headers=bearing("old")) as response:
            assert response.status == 401
        async with api.client.get("/metrics", headers=bearing("new")) as response:
            assert response.status == 200


def test_replacing_opens_no_gate_and_closes_none() -> None:
    for before, after in (([token("a", "read")], []), ([], [token("a", "read")])):
        gate = Gate(before)
        with pytest.raises(ValueError, match="decided at the start"):
            gate.replace(after)
        assert gate.guarded == bool(before)


@pytest.mark.parametrize("after", [[token("b", "speak")], [token("a", "read")]], ids=["gone", "changed"])
async def test_what_is_at_work_for_a_token_that_goes_is_ended(after: list[Token]) -> None:
    engine = Gated(SPEECH, SPEECH)
    tokens = Gate([token("a", "speak")])
    async with (
        running(engine, gate=tokens) as api,
        api.client.ws_connect("/v1/synthesize/ws", headers=bearing("a")) as socket,
    ):
        await socket.send_json({"text": "Hello", "flush": True})
        await engine.waiting.wait()
        tokens.replace(after)
        async with asyncio.timeout(5):
            await engine.closed.wait()
            while (await socket.receive()).type not in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSE):
                pass


async def test_what_is_at_work_for_a_token_that_stays_goes_on() -> None:
    engine = Gated(SPEECH, SPEECH)
    tokens = Gate([token("a", "speak")])
    async with running(engine, gate=tokens) as api:
        asking = asyncio.create_task(api.client.post("/v1/synthesize", json=ORDER, headers=bearing("a")).__aenter__())
        await engine.waiting.wait()
        tokens.replace([token("b", "read"), token("a", "speak")])
        engine.gate.set()
        assert await (await asking).read() == SPEECH + SPEECH


# Budgets


def test_a_budget_holds_a_seconds_worth_and_fills_evenly() -> None:
    budget = Budget(4.0, now=0.0)
    quotas = [budget.spend(0.0) for _ in range(5)]
    assert [quota.remaining for quota in quotas] == [3, 2, 1, 0, 0]
    assert [quota.wait_s for quota in quotas] == [0, 0, 0, 0, 0.25]
    assert budget.spend(0.25).wait_s == 0
    assert budget.spend(0.25).wait_s == 0.25
    assert budget.spend(1000.0).remaining == 3


def test_a_budget_below_one_a_second_has_one() -> None:
    budget = Budget(0.1, now=0.0)
    assert budget.spend(0.0).headers() == {
        "RateLimit-Policy": '"requests";q=1;w=10',
        "RateLimit": '"requests";r=0;t=10',
    }
    assert budget.spend(5.0).wait_s == pytest.approx(5.0)
    assert budget.spend(10.0).wait_s == 0


async def test_beyond_the_budget_of_a_token_it_is_429_with_the_time_to_wait() -> None:
    tokens = Gate([token("slow", "read", requests_per_s=0.01), token("free", "read")])
    async with running(says(), gate=tokens) as api:
        async with api.client.get("/metrics", headers=bearing("slow")) as response:
            assert response.status == 200
            assert response.headers["RateLimit-Policy"] == '"requests";q=1;w=100'
            assert response.headers["RateLimit"] == '"requests";r=0;t=100'
        async with api.client.get("/metrics", headers=bearing("slow")) as response:
            assert (response.status, response.headers["Retry-After"]) == (429, "100")
            assert response.headers["RateLimit"] == '"requests";r=0;t=100'
            assert (await response.json())["detail"] == "The token slow may make 0.01 requests in a second."
        async with api.client.get("/metrics", headers=bearing("free")) as response:
            assert response.status == 200
            assert "RateLimit" not in response.headers
        async with api.client.get("/health", headers=bearing("slow")) as response:
            assert response.status == 200
        assert api.control.refusals == [429]


async def test_what_is_not_let_in_costs_no_budget() -> None:
    tokens = Gate([token("slow", "read", requests_per_s=0.01)])
    async with running(says(), gate=tokens) as api:
        async with api.client.post("/v1/rtp", json=ORDER, headers=bearing("slow")) as response:
            assert response.status == 403
        async with api.client.get("/metrics", headers=bearing("slow")) as response:
            assert response.status == 200


async def test_a_budget_outlives_a_replacement_that_leaves_it_alone() -> None:
    slow = token("slow", "read", requests_per_s=0.01)
    tokens = Gate([slow])
    async with running(says(), gate=tokens) as api:
        async with api.client.get("/metrics", headers=bearing("slow")) as response:
            assert response.status == 200
        tokens.replace([token("other", "read"), slow])
        async with api.client.get("/metrics", headers=bearing("slow")) as response:
            assert response.status == 429
        tokens.replace([token("slow", "read", requests_per_s=5)])
        async with api.client.get("/metrics", headers=bearing("slow")) as response:
            assert response.status == 200


async def test_a_token_has_its_share_of_speech_and_the_others_theirs() -> None:
    engine = Gated(b"", SPEECH)
    tokens = Gate([token("one", "speak", max_speech=1), token("two", "speak", max_speech=1)])
    async with running(engine, gate=tokens) as api:

        async def ask(name: str) -> int:
            async with api.client.post("/v1/synthesize", json=ORDER, headers=bearing(name)) as response:
                await response.read()
                return response.status

        first = asyncio.create_task(ask("one"))
        await engine.waiting.wait()
        async with api.client.post("/v1/synthesize", json=ORDER, headers=bearing("one")) as response:
            assert (response.status, response.headers["Retry-After"]) == (429, "1")
        second = asyncio.create_task(ask("two"))
        engine.gate.set()
        assert [await first, await second] == [200, 200]
        assert await ask("one") == 200


# Pages of other sites


@pytest.mark.parametrize(
    ("origin", "host", "guarded", "status"),
    [
        (None, "anything", False, None),
        ("http://127.0.0.1:8080", "127.0.0.1:8080", False, None),
        ("http://[::1]:8080", "[::1]:8080", False, None),
        ("http://localhost:8080", "localhost:8080", False, None),
        ("https://listed.example", "127.0.0.1:8080", False, None),
        ("http://evil.example", "127.0.0.1:8080", False, 403),
        ("null", "127.0.0.1:8080", False, 403),
        ("", "127.0.0.1:8080", False, 403),
        ("http://[", "127.0.0.1:8080", False, 403),
        ("http://[", "[", False, 403),
        ("http://127.0.0.1:8081", "127.0.0.1:8080", False, 403),
        ("https://listed.example.evil.example", "127.0.0.1:8080", False, 403),
        # DNS rebinding: a page of that name has come to have our address.
        ("http://rebound.example:8080", "rebound.example:8080", False, 403),
        ("http://rebound.example:8080", "rebound.example:8080", True, None),
        ("http://evil.example", "127.0.0.1:8080", True, 403),
    ],
)
def test_a_page_of_elsewhere_changes_nothing(origin: str | None, host: str, guarded: bool, status: int | None) -> None:
    gate = Gate([token("a", "read")] if guarded else [], origins=["https://listed.example"])
    if status is None:
        gate.check_origin(origin, host)
    else:
        with pytest.raises(Problem) as caught:
            gate.check_origin(origin, host)
        assert (caught.value.status, caught.value.errors[0].field) == (403, "Origin")


async def test_a_form_that_a_page_of_elsewhere_posts_is_refused() -> None:
    async with running(says(), gate=None) as api:
        form = aiohttp.FormData({"name": "x"}, default_to_multipart=True)
        headers = {"Origin": "https://evil.example"}
        async with api.client.post("/v1/speakers", data=form, headers=headers) as response:
            assert response.status == 403
        assert api.control.enrolled == []


async def test_cors_is_off_by_default() -> None:
    async with running(says()) as api:
        headers = {"Origin": "https://good.example", "Access-Control-Request-Method": "POST"}
        async with api.client.options("/v1/synthesize", headers=headers) as response:
            assert (response.status, response.headers["Allow"]) == (204, "OPTIONS, POST")
            assert not [name for name in response.headers if name.startswith("Access-Control")]
        async with api.client.get("/health", headers=headers) as response:
            assert "Access-Control-Allow-Origin" not in response.headers
            assert "Vary" not in response.headers


async def test_a_preflight_of_a_listed_page_is_told_what_it_may_send() -> None:
    async with running(says(SPEECH), gate=Gate([token("a", "speak")], origins=["https://good.example"])) as api:
        headers = {"Origin": "https://good.example", "Access-Control-Request-Method": "POST"}
        async with api.client.options("/v1/synthesize", headers=headers) as response:
            assert response.status == 204
            told = {name: value for name, value in response.headers.items() if name.startswith("Access-Control")}
            assert told == {
                "Access-Control-Allow-Origin": "https://good.example",
                "Access-Control-Allow-Methods": "OPTIONS, POST",
                "Access-Control-Allow-Headers": "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, "
                "X-Request-Id, traceparent",
                "Access-Control-Max-Age": "600",
                "Access-Control-Expose-Headers": told["Access-Control-Expose-Headers"],
            }
            assert response.headers["Vary"] == "Origin"


async def test_a_listed_page_reads_answers_and_errors_and_others_do_not() -> None:
    async with running(says(SPEECH), gate=Gate([token("a", "speak")], origins=["https://good.example"])) as api:
        for origin, seen in (("https://good.example", "https://good.example"), ("https://evil.example", None)):
            for headers, status in ((bearing("a"), 200), ({}, 401)):
                headers |= {"Origin": origin}
                async with api.client.get("/v1/models", headers=headers) as response:
                    assert response.status == status
                    assert response.headers.get("Access-Control-Allow-Origin") == seen
                    assert response.headers["Vary"] == "Origin"
                    assert "Access-Control-Allow-Credentials" not in response.headers
            async with api.client.get("/nowhere", headers={"Origin": origin}) as response:
                assert response.headers.get("Access-Control-Allow-Origin") == seen


async def test_a_listed_page_opens_a_websocket() -> None:
    async with (
        running(says(SPEECH), gate=Gate(origins=["https://good.example"])) as api,
        api.client.ws_connect("/v1/synthesize/ws", origin="https://good.example") as socket,
    ):
        await socket.send_json({"end": True})
        assert (await socket.receive_json())["type"] == "ready"


# The description


async def test_the_description_says_what_each_route_asks_for() -> None:
    async with running(says(), gate=gate()) as api, api.client.get("/openapi.json") as response:
        document = await response.json()
    scheme = document["components"]["securitySchemes"]["bearer"]
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    for row, access in ROUTES.items():
        method, path = row.split(" ")
        if path in NOT_DESCRIBED:
            continue
        operation = document["paths"][path][method.lower()]
        role = [] if access is Access.TOKEN else [access.value]
        assert operation["security"] == ([] if access is Access.OPEN else [{"bearer": role}])
        assert ({"400", "401", "403", "429"} <= operation["responses"].keys()) == (access is not Access.OPEN)


async def test_a_server_without_tokens_describes_none() -> None:
    async with running(says()) as api, api.client.get("/openapi.json") as response:
        document = await response.json()
    assert "securitySchemes" not in document["components"]
    operation = document["paths"]["/v1/synthesize"]["post"]
    assert "security" not in operation
    assert "401" not in operation["responses"]


async def test_whoever_asks_learns_what_the_token_opens() -> None:
    opened = {
        "read": ["read"],
        "speak": ["speak"],
        "call": ["read", "speak", "call"],
        "admin": ["read", "speak", "call", "admin"],
    }
    async with running(says(), gate=gate()) as api:
        for name, opens in opened.items():
            async with api.client.get("/v1/token", headers=bearing(name)) as response:
                assert await response.json() == {"name": name, "opens": opens}
                assert response.headers["Cache-Control"] == "no-store"
    async with running(says()) as api, api.client.get("/v1/token") as response:
        assert await response.json() == {"name": None, "opens": opened["admin"]}
