"""An engine elsewhere: a client of /v1/engine, which every server of ours and the Ray Serve application answer to.

    GET  /v1/engine              what there is to know of the engine: `Hello`, and its name
    POST /v1/engine/synthesize   an `Utterance` as JSON in, samples out as they are made
    POST /v1/engine/embedding    a recording in, the embedding of a speaker out

A text goes to the replica with the least to do. Until its first sample has come, another one is tried when that one
fails, is full, or is too slow; one that has failed is left alone for a while and then asked how it is. Samples that
stop half-way are a failure, since nobody could say the rest in the same way.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import dataclasses
import io
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from typing import Any, Final, NoReturn

import aiohttp

from engines import pieces as cutting
from engines.engine import (
    EngineBusy,
    EngineFailure,
    EngineState,
    Health,
    Pcm,
    UnknownVoice,
    UnsuitableReference,
    UnsuitableUtterance,
    Unsupported,
    Utterance,
    Voice,
)
from engines.profile import KIND, VoiceProfile
from engines.voices import Catalogue
from engines.wire import Hello

__all__ = ["RemoteEngine", "open_remote", "read_utterance"]

CONNECT_S: Final = 1.0
PROBE_S: Final = 2.0
SHORTEST_REST_S: Final = 1.0
LONGEST_REST_S: Final = 30.0
SAMPLE_BYTES: Final = 2
JSON: Final = {"Content-Type": "application/json"}
PATIENCE_S: Final = 30.0
"""So long the first replica may take to come up when this server starts."""


def read_utterance(fields: Mapping[str, Any]) -> Utterance:
    """The utterance that POST /v1/engine/synthesize brings. Raises UnsuitableUtterance for what is none."""
    try:
        given = {**fields, "embedding": base64.b64decode(fields.get("embedding", ""), validate=True)}
        utterance = Utterance(**given)
    except (TypeError, ValueError, binascii.Error) as error:
        raise UnsuitableUtterance(f"it is no utterance: {error}") from error
    kinds = {"text": str, "ssml": bool, "voice": str, "language": str, "rate_hz": int, "continues": bool}
    for name, kind in kinds.items():
        if not isinstance(getattr(utterance, name), kind):
            raise UnsuitableUtterance(f"{name} is not of the type {kind.__name__}")
    if not isinstance(utterance.speed, float | int) or not isinstance(utterance.seed, int | None):
        raise UnsuitableUtterance("speed and seed are numbers")
    return utterance


def _written(utterance: Utterance) -> dict[str, object]:
    fields = dataclasses.asdict(utterance)
    return {**fields, "embedding": base64.b64encode(utterance.embedding).decode()}


def _read_hello(fields: Mapping[str, Any]) -> tuple[str, Hello]:
    known = {field.name for field in dataclasses.fields(Hello)}
    given = {name: value for name, value in fields.items() if name in known}
    given["voices"] = tuple((voice["id"], voice["name"], voice["language"]) for voice in given["voices"])
    for name in ("variants", "speeds", "enrolled_speeds"):
        given[name] = tuple(given[name])
    if given.get("tags") is not None:
        given["tags"] = tuple(given["tags"])
    return fields["name"], Hello(**given)


class _Elsewhere(Exception):
    """This replica cannot, and another one may: `cause` is what to say if none can, `ill` whether it is to rest."""

    def __init__(self, cause: EngineFailure, *, ill: bool) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.ill = ill


class _Replica:
    """One address, how much it has to do for us, and until when it rests."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.active = 0
        self.rests_until = 0.0
        self._rest_s = SHORTEST_REST_S

    def rest(self, now: float) -> None:
        self.rests_until = now + self._rest_s
        self._rest_s = min(2 * self._rest_s, LONGEST_REST_S)

    def recover(self) -> None:
        self.rests_until, self._rest_s = 0.0, SHORTEST_REST_S


class RemoteEngine:
    """An `Engine` whose work is done elsewhere. Made by `open_remote`."""

    def __init__(
        self, session: aiohttp.ClientSession, replicas: Sequence[_Replica], *, first_s: float, stall_s: float
    ) -> None:
        self._session = session
        self._replicas = replicas
        self._first_s = first_s
        self._stall_s = stall_s
        self._loop = asyncio.get_running_loop()
        self._active = 0
        self._restarts = 0
        self._name: str
        self._hello: Hello
        self._catalogue: Catalogue

    async def meet(self, default_voice: str) -> None:
        """Learn what the engine is, from the replica that answers first. Raises EngineFailure, UnknownVoice."""
        asked = {asyncio.create_task(self._ask(replica)) for replica in self._replicas}
        faults = []
        try:
            while asked:
                done, asked = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    if task.exception() is None:
                        self._name, self._hello = task.result()
                        self._catalogue = Catalogue(self._hello, default=default_voice)
                        return
                    faults.append(str(task.exception()))
        finally:
            for task in asked:
                task.cancel()
        raise EngineFailure(f"no engine answers: {'; '.join(faults)}")

    async def _ask(self, replica: _Replica) -> tuple[str, Hello]:
        """What a replica says of its engine. Raises EngineFailure."""
        try:
            async with asyncio.timeout(PROBE_S), self._session.get(f"{replica.url}/v1/engine") as response:
                if response.status != 200:
                    raise EngineFailure(f"{replica.url} answers {response.status}")
                return _read_hello(await response.json())
        except (aiohttp.ClientError, TimeoutError, ValueError, TypeError, KeyError) as error:
            raise EngineFailure(f"{replica.url}: {_said(error)}") from error

    async def watch(self) -> None:
        """Ask those that rest how they are, for ever."""
        while True:
            await asyncio.sleep(SHORTEST_REST_S / 2)
            now = self._loop.time()
            for replica in self._replicas:
                if replica.rests_until and replica.rests_until <= now:
                    try:
                        _, hello = await self._ask(replica)
                    except EngineFailure:
                        replica.rest(self._loop.time())
                    else:
                        if hello.version == self._hello.version:
                            replica.recover()
                        else:  # its voices may be others, and what it says is not what is kept of this one
                            replica.rest(self._loop.time())

    @property
    def name(self) -> str:
        return self._name

    @property
    def version(self) -> str:
        return self._hello.version

    @property
    def cloning(self) -> bool:
        return self._hello.cloning

    @property
    def embedding_kind(self) -> str:
        return self._hello.embedding_kind

    def voices(self) -> Sequence[Voice]:
        return self._catalogue.voices

    def health(self) -> Health:
        well = [replica for replica in self._replicas if not replica.rests_until]
        resting = ", ".join(replica.url for replica in self._replicas if replica.rests_until)
        return Health(
            state=EngineState.READY if well else EngineState.FAILED,
            detail=f"not there: {resting}" if resting else "",
            workers=len(well),
            restarts=self._restarts,
            active=self._active,
        )

    def describe(self) -> Mapping[str, object]:
        return self._catalogue.describe(self._name)

    def check(self, utterance: Utterance) -> None:
        cutting.check(utterance, self._hello, self._catalogue)

    def figures(self, embedding: bytes) -> Mapping[str, float]:
        return VoiceProfile.parse(embedding).figures() if self.embedding_kind == KIND else {}

    async def enrol(self, samples: bytes, rate_hz: int) -> bytes:
        asked = {"recording": base64.b64encode(samples).decode(), "rate_hz": rate_hz}
        fault: EngineFailure | None = None
        for replica in self._in_order():
            try:
                async with self._asking(replica, "embedding", asked) as response:
                    told = await response.json()
                    return base64.b64decode(told["data"], validate=True)
            except _Elsewhere as error:
                fault = error.cause
            except UnsuitableUtterance as error:
                raise UnsuitableReference(str(error)) from error
            except (aiohttp.ClientError, TimeoutError, ValueError, KeyError) as error:
                raise EngineFailure(f"{replica.url}: {_said(error)}") from error
        raise fault or EngineFailure("no replica of the engine is there")

    async def synthesize(self, utterance: Utterance) -> AsyncGenerator[Pcm, None]:
        self.check(utterance)
        self._active += 1
        try:
            fault: EngineFailure | None = None
            for replica in self._in_order():
                try:
                    async with contextlib.aclosing(self._speak(replica, utterance)) as chunks:
                        async for chunk in chunks:
                            yield chunk
                        return
                except _Elsewhere as error:
                    fault = error.cause
            raise fault or EngineFailure("no replica of the engine is there")
        finally:
            self._active -= 1

    def _in_order(self) -> Sequence[_Replica]:
        """Those that are well, the least busy one first; if none is, all of them: one may be back."""
        well = [replica for replica in self._replicas if not replica.rests_until]
        return sorted(well or self._replicas, key=lambda replica: replica.active)

    async def _speak(self, replica: _Replica, utterance: Utterance) -> AsyncGenerator[Pcm, None]:
        begun = False
        odd = b""
        async with self._asking(replica, "synthesize", _written(utterance)) as response:
            try:
                while True:
                    async with asyncio.timeout(self._stall_s if begun else self._first_s):
                        octets = await response.content.readany()
                    if not octets:
                        break
                    octets = odd + octets
                    whole = len(octets) // SAMPLE_BYTES * SAMPLE_BYTES
                    odd = octets[whole:]
                    if whole:
                        begun = True
                        yield Pcm(octets[:whole], utterance.rate_hz)
            except (aiohttp.ClientError, TimeoutError) as error:
                failure = EngineFailure(f"{replica.url}: {_said(error)}")
                self._rest(replica)
                if begun:
                    raise failure from error
                raise _Elsewhere(failure, ill=True) from error

    @contextlib.asynccontextmanager
    async def _asking(
        self, replica: _Replica, what: str, body: Mapping[str, object]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A response of 200. Raises _Elsewhere, and the UnsuitableUtterance that the replica speaks of."""
        url = f"{replica.url}/v1/engine/{what}"
        data = io.BytesIO(json.dumps(body).encode())  # sent piece by piece, however much it is
        replica.active += 1
        try:
            async with contextlib.AsyncExitStack() as stack:
                try:
                    async with asyncio.timeout(self._first_s):
                        response = await stack.enter_async_context(self._session.post(url, data=data, headers=JSON))
                        if response.status != 200:
                            _blame(replica, response, await response.read())
                except (aiohttp.ClientError, TimeoutError) as error:
                    self._rest(replica)
                    raise _Elsewhere(EngineFailure(f"{replica.url}: {_said(error)}"), ill=True) from error
                except _Elsewhere as error:
                    if error.ill:
                        self._rest(replica)
                    raise
                replica.recover()
                yield response
        finally:
            replica.active -= 1

    def _rest(self, replica: _Replica) -> None:
        if not replica.rests_until:
            self._restarts += 1
        replica.rest(self._loop.time())


def _blame(replica: _Replica, response: aiohttp.ClientResponse, body: bytes) -> NoReturn:
    """Raise what a response that is not 200 says (RFC 9457)."""
    try:
        problem = json.loads(body)
        detail = str(problem["detail"])
        field = str(problem["errors"][0]["field"]) if problem.get("errors") else ""
    except (ValueError, KeyError, TypeError, IndexError):
        detail, field = f"it answers {response.status}", ""
    match response.status:
        case 400:
            raise Unsupported(detail, field=field)
        case 404 if field:
            raise UnknownVoice(detail)
        case 422:
            raise UnsuitableUtterance(detail)
        case 429 | 503:
            after = response.headers.get("Retry-After", "")
            retry_after_s = float(after) if after.isdigit() else SHORTEST_REST_S
            raise _Elsewhere(EngineBusy(f"{replica.url}: {detail}", retry_after_s=retry_after_s), ill=False)
    raise _Elsewhere(EngineFailure(f"{replica.url}: {detail}"), ill=True)


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__


@contextlib.asynccontextmanager
async def open_remote(
    urls: Sequence[str],
    *,
    token: str = "",
    default_voice: str = "",
    first_s: float = 2.0,
    stall_s: float = 5.0,
) -> AsyncIterator[RemoteEngine]:
    """An engine that is at each of `urls`, such as "http://10.0.0.21:8080".

    token    that they ask for, with the role `speak`
    first_s  until the first sample; then another one is tried
    stall_s  between samples

    Raises EngineFailure when nobody answers within half a minute, UnknownVoice when there is no such default voice.
    """
    async with aiohttp.ClientSession(
        headers={"Authorization": f"Bearer {token}"} if token else {},
        # As many connections as there are texts at a time; those that are kept open save the greeting.
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60),
        timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_S),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
    ) as session:
        engine = RemoteEngine(session, [_Replica(url) for url in urls], first_s=first_s, stall_s=stall_s)
        deadline = asyncio.get_running_loop().time() + PATIENCE_S
        while True:
            try:
                await engine.meet(default_voice)
                break
            except EngineFailure:
                if asyncio.get_running_loop().time() > deadline:
                    raise
                await asyncio.sleep(SHORTEST_REST_S / 2)
        watching = asyncio.create_task(engine.watch())
        try:
            yield engine
        finally:
            watching.cancel()
            await asyncio.wait([watching])
