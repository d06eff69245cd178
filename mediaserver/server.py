"""The composition root: makes every part from the configuration, joins them, and ends them in the reverse order."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import resource
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

import engines
import http_api
import rtp
import sip
from mediaserver import audio, config, encoding
from mediaserver.attendant import Attendants
from mediaserver.browsers import Browsers, telephone
from mediaserver.call import Means
from mediaserver.calls import Calls
from mediaserver.capture import Capture
from mediaserver.clips import Clips
from mediaserver.control import Control
from mediaserver.detail import Facts
from mediaserver.events import EventLog
from mediaserver.fetch import Fetcher
from mediaserver.metrics import Metrics, connection_families, health_families, rtp_families, sip_families
from mediaserver.posting import MAX_CONNECTIONS, Posting
from mediaserver.prompts import Prompts
from mediaserver.push import Pushes
from mediaserver.recorder import Recorder
from mediaserver.records import Records
from mediaserver.referrals import REFERRED_TYPES
from mediaserver.repertoire import Repertoire
from mediaserver.script import APOLOGY, BODY_TYPES
from mediaserver.shared import Shared
from mediaserver.speakers import Speakers, SpeakersUnavailable, UnknownSpeaker, is_speaker
from mediaserver.speech import Speech
from mediaserver.store import Store, StoreError
from mediaserver.switchboard import Switchboard
from mediaserver.transfers import NOTIFIED_TYPES
from mediaserver.trunks import Trunks
from mediaserver.webhooks import Webhooks
from mediaserver.webrtc import Gateway
from mediaserver.within import SERVED

if TYPE_CHECKING:
    from mediaserver.tracing import Traces

__all__ = ["Server", "StartError", "open_engine", "problems", "running", "serve", "wanted_files"]

log = structlog.get_logger("server")


LONGEST_CLIP_S = 3600.0
FILES_PER_CALL = 3
"""Sockets: RTP, RTCP, and a second one on the RTP port while the peer's address is not certain."""
FILES_BESIDE_CALLS = 256 + MAX_CONNECTIONS
DECODERS = 2
"""So many files are decoded at a time that were fetched or uploaded."""


class StartError(Exception):
    """The server cannot start; the message says why, and what to do."""


class Certificate:
    """The certificate of HTTPS, as it was read last."""

    def __init__(self, settings: config.Http) -> None:
        """Raises sip.TlsError when it cannot be used."""
        self._tls = _web_tls(settings)
        self._context = self._tls.load().server

    def reload(self) -> None:
        """Read it anew. Raises sip.TlsError, and then what was read before stays."""
        self._context = self._tls.load().server

    def context(self) -> ssl.SSLContext:
        """For a connection that begins now."""
        assert self._context is not None, "it is made of a certificate"
        return self._context


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running server: where it listens, and its parts; `sips_addresses` is empty without TLS."""

    settings: config.Config
    sip_addresses: tuple[config.Address, ...]
    sips_addresses: tuple[config.Address, ...]
    http_address: config.Address
    engine: engines.Engine
    endpoint: rtp.Endpoint
    transport: sip.Transport
    switchboard: Switchboard
    trunks: Trunks
    pushes: Pushes
    gateway: Gateway
    gate: http_api.Gate
    certificate: Certificate | None
    webhooks: Webhooks
    attendants: Attendants

    @property
    def sip_address(self) -> config.Address:
        """The first one."""
        return self.sip_addresses[0]

    def reload(self) -> None:
        """Read tokens, secrets and, for new connections, certificates anew; what cannot be used stays as it was."""
        try:
            self.gate.replace(self.settings.bearers())
        except config.ConfigError as error:
            log.error("the tokens are not read anew: the old ones stay", reason=str(error))
        else:
            log.info("the tokens are read anew")
        try:
            self.webhooks.reload()
            self.attendants.reload()
        except config.ConfigError as error:
            log.error("the secrets of webhooks are not read anew: the old ones stay", reason=str(error))
        else:
            log.info("the secrets of webhooks are read anew")
        reloads = {"sip": self.transport.reload}
        if self.certificate is not None:
            reloads["http"] = self.certificate.reload
        for stack, reload in reloads.items():
            try:
                reload()
            except sip.TlsError as error:
                log.error("the certificates are not read anew: the old ones stay", stack=stack, reason=str(error))
            else:
                log.info("the certificates are read anew", stack=stack)

    async def drain(self, hurry: asyncio.Event) -> None:
        """Take no new work, and return when what there is has ended, sip.drain_s are over, or `hurry` is set."""
        grace_s = self.settings.sip.drain_s
        log.info("draining", calls=len(self.switchboard), pushes=len(self.pushes), grace_s=grace_s)
        self.trunks.leave()
        waiting = [
            asyncio.create_task(self.switchboard.drain(grace_s)),
            asyncio.create_task(self.pushes.drain()),
        ]
        hurried = asyncio.create_task(hurry.wait())
        ended = asyncio.gather(*waiting)
        await asyncio.wait((ended, hurried), timeout=grace_s, return_when=asyncio.FIRST_COMPLETED)
        for task in (ended, hurried):
            task.cancel()
        await asyncio.gather(ended, hurried, return_exceptions=True)

    def banner(self) -> str:
        """Where it listens and what to try, for the terminal."""
        ports = self.settings.rtp.ports
        here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.sip_address.host, self.sip_address.host)
        uri = f"sip:hello@{config.Address(host=here, port=self.sip_address.port)}"
        web = f"http{'s' if self.certificate else ''}://{self.http_address}"
        udp = ", ".join(map(str, self.sip_addresses))
        tls = f", tls {', '.join(map(str, self.sips_addresses))}" if self.sips_addresses else ""
        token = " -H 'Authorization: Bearer TOKEN'" if self.gate.guarded else ""
        command = sys.argv[0] if Path(sys.argv[0]).name == "mediaserver" else "mediaserver"
        engine = f"{self.engine.name} {self.engine.version}, {len(self.engine.voices())} voices"
        return f"""\
Media server {version("mediaserver")} is up: {engine}
  SIP   udp {udp} and tcp{tls}    RTP  udp {ports.start}-{ports.stop - 1}    HTTP  {web}
Try, in another terminal:
  {command} call "{uri}" --text "Hello from the media server." --record hello.wav
  curl {web}/v1/synthesize{token} -H 'Content-Type: application/json' -d '{{"text": "Hello"}}' -o hello-http.wav
Stop with Ctrl-C."""


def open_engine(settings: config.Engine) -> AbstractAsyncContextManager[engines.Engine]:
    """The engine that the configuration names, not yet started."""
    if settings.name == "auto":
        name, why = engines.choose(settings.model, settings.chatterbox_model)
        log.info("the engine is chosen", engine=name, why=why)
        fallback = "" if settings.fallback == name else settings.fallback
        settings = settings.model_copy(update={"name": name, "fallback": fallback})
    return engines.open_engine(
        settings.name,
        default_voice=settings.voice,
        workers=settings.workers or None,
        options=_options(settings),
        urls=settings.urls,
        token="" if settings.token is None else settings.token.get_secret_value(),
        first_s=settings.first_ms / 1000,
        fallback=settings.fallback,
    )


def _options(settings: config.Engine) -> dict[str, int | str | float]:
    """What the engine's worker is told."""
    if settings.name != "chatterbox":
        return {}
    scale = settings.chatterbox_cfg_scale
    return {
        "directory": str(settings.model),
        "model": settings.chatterbox_model,
        "device": settings.device,
        "mode": settings.mode,
        "streams": settings.streams,
        "threads": settings.threads,
        "cfg_scale": -1.0 if scale is None else scale,
    }


async def problems(settings: config.Config) -> list[str]:
    """What the configuration names and this machine lacks: a sentence each, beginning with the key."""
    try:
        with _naming("http.token_file"):
            settings.bearers()
        with _naming("webhook"):
            for webhook in settings.webhook:
                webhook.keys()
        with _naming("webhooks"):
            settings.webhooks.keys()
        with _naming("sip.tls"):
            _tls(settings.sip).load()
        with _naming("http.tls"):
            _web_tls(settings.http).load()
        _traces(settings.trace)
        with _naming("engine"):
            async with open_engine(settings.engine) as engine:
                return (await _rehearse(settings.route, engine))[1]
    except StartError as error:
        return [str(error)]


async def _rehearse(routes: Sequence[config.Route], engine: engines.Engine) -> tuple[dict[Path, rtp.Clip], list[str]]:
    """The audio of the routes' files, and what in the routes cannot be said, a sentence each."""
    clips: dict[Path, rtp.Clip] = {}
    faults = []
    for number, route in enumerate(routes):
        try:
            if route.play is not None:
                samples = await audio.decode(route.play, max_s=LONGEST_CLIP_S)
                clips[route.play] = rtp.Clip(samples, audio.RATE_HZ)
            else:
                words = (route.ssml or route.say or APOLOGY).format_map({"from": "100", "to": "200"})
                engine.check(
                    engines.Utterance(
                        text=words,
                        ssml=route.ssml is not None,
                        voice="default" if is_speaker(route.voice) else route.voice,
                        language=route.language,
                        rate_hz=8000,
                    )
                )
        except audio.AudioError as error:
            faults.append(f"route.{number}.play: {route.play}: {error}")
        except engines.EngineError as error:
            faults.append(f"route.{number}: {error}")
    return clips, faults


async def _introduce(routes: Sequence[config.Route], speakers: Speakers) -> None:
    """Say which routes' speakers are not there: they may be enrolled yet, and until then their calls get 404."""
    for number, route in enumerate(routes):
        if is_speaker(route.voice):
            try:
                await speakers.find(route.voice)
            except (UnknownSpeaker, SpeakersUnavailable) as error:
                log.warning("the voice of a route is not there", route=number, error=str(error))


@contextmanager
def _naming(key: str) -> Iterator[None]:
    """Name the key of the configuration by which something could not be started."""
    try:
        yield
    except (config.ConfigError, engines.EngineError, sip.TlsError, StoreError, OSError) as error:
        raise StartError(f"{key}: {error}") from error


def _tls(settings: config.Sip) -> sip.Tls:
    return sip.Tls(
        certificate=settings.tls_certificate,
        key=settings.tls_key,
        ca=settings.tls_ca,
        verify_client=settings.tls_verify_client,
        alpn=settings.tls_alpn,
    )


def _web_tls(settings: config.Http) -> sip.Tls:
    return sip.Tls(certificate=settings.tls_certificate, key=settings.tls_key, alpn=("http/1.1",))


async def serve(settings: config.Config, *, banner: Callable[[str], None]) -> None:
    """Run until SIGTERM or SIGINT, let the calls finish what they say, and return; a second signal hurries.

    SIGHUP has the certificates, the tokens and the secrets of webhooks read anew.

    Raises StartError.
    """
    stop, hurry = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: (hurry if stop.is_set() else stop).set())
    async with running(settings) as server:
        loop.add_signal_handler(signal.SIGHUP, server.reload)
        _spare_the_collector()
        banner(server.banner())
        await stop.wait()
        await server.drain(hurry)
        log.info("stopping", calls=len(server.switchboard), pushes=len(server.pushes))


def _spare_the_collector() -> None:
    """Keep full garbage collections, which hold everything up for as long as there are objects, off the calls.

    What is there now stays, so it is never looked at again; and a call leaves no cycle behind (tests/test_leaks.py), so
    there is hardly anything to find for a full collection. HTTP leaves some, so they are rare and not abolished.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(1_000, 10, 500)


def _traces(settings: config.Trace) -> Traces | None:
    """Where traces of calls go, if they go anywhere. Raises StartError."""
    if settings.endpoint is None:
        return None
    try:
        from mediaserver.tracing import Traces
    except ModuleNotFoundError as error:
        raise StartError(f"trace.endpoint: {error}: pip install 'mediaserver[otel]'") from error
    return Traces(settings, version=version("mediaserver"))


def _recording(
    settings: config.Calls, stack: AsyncExitStack, *others: Callable[[Facts], None]
) -> Callable[[Facts], None]:
    """Who takes the records of calls: the file, if there is one, and others."""
    takers = list(others)
    if settings.record_file is not None:
        with _naming("calls.record_file"):
            records = Records(settings.record_file, with_text=settings.record_text)
        stack.enter_context(records)
        takers.append(records.append)

    def record(facts: Facts) -> None:
        for take in takers:
            take(facts)

    return record


def wanted_files(settings: config.Sip) -> int:
    """The file descriptors that all calls and connections take."""
    return FILES_BESIDE_CALLS + settings.max_connections + FILES_PER_CALL * settings.max_calls


def _raise_file_limit(settings: config.Sip) -> None:
    """Take as many file descriptors as the system grants, and say so when they are too few for all calls."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    wanted = wanted_files(settings)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        log.warning(
            "too few file descriptors for sip.max_calls and sip.max_connections: raise the hard limit",
            limit=hard,
            wanted=wanted,
        )


@asynccontextmanager
async def running(settings: config.Config) -> AsyncIterator[Server]:
    """A server, from its first listening to its last good-bye. Raises StartError."""
    try:
        directory = settings.store.directory(os.environ)
    except config.ConfigError as error:
        raise StartError(str(error)) from error
    with _naming("http.token_file"):
        gate = http_api.Gate(settings.bearers(), origins=settings.http.cors_origins)
    with _naming("http.tls"):
        certificate = Certificate(settings.http) if settings.http.tls_certificate is not None else None
    _raise_file_limit(settings.sip)
    async with AsyncExitStack() as stack:
        with _naming("engine"):
            engine = await stack.enter_async_context(open_engine(settings.engine))
        if notice := engine.health().detail:
            log.warning("the engine has something to say", engine=engine.name, notice=notice)
        clips, faults = await _rehearse(settings.route, engine)
        if faults:
            raise StartError("\n".join(faults))
        with _naming("rtp"):
            endpoint = await stack.enter_async_context(
                rtp.Endpoint(
                    host=settings.sip.media_host,
                    ports=settings.rtp.ports,
                    start_ms=settings.rtp.start_ms,
                    ring_ms=settings.rtp.ring_ms,
                    threads=settings.rtp.threads or min(os.cpu_count() or 1, 16),
                    media_timeout_s=settings.rtp.silence_timeout_s,
                )
            )
        metrics = Metrics()
        decoding = asyncio.Semaphore(DECODERS)
        with _naming("store.path"):
            store = await stack.enter_async_context(Store.open(directory))
        shared = None
        if settings.redis.url is not None:
            with _naming("redis.url"):
                shared = await stack.enter_async_context(Shared.open(settings.redis.url.get_secret_value()))
        prompts = await stack.enter_async_context(
            Prompts.open(
                settings.cache,
                metrics,
                directory=directory / "cache",
                shared=shared,
                salt=settings.engine.model_dump_json(include={"name", "voice", "chatterbox_cfg_scale"}),
            )
        )
        speakers = Speakers(engine, store, settings.speakers, decoding=decoding, prompts=prompts, shared=shared)
        await stack.enter_async_context(speakers.following())
        await _introduce(settings.route, speakers)
        speech = Speech(engine, metrics, speakers, prompts)
        fetcher = await stack.enter_async_context(Fetcher(settings.fetch))
        posting = await stack.enter_async_context(
            Posting(
                settings.webhooks,
                known=[
                    *(one.url.get_secret_value() for one in settings.webhook),
                    *(one.webhook.get_secret_value() for one in settings.route if one.webhook is not None),
                ],
                product=f"mediaserver/{version('mediaserver')}",
            )
        )
        with _naming("webhook"):
            webhooks = Webhooks(settings.webhook, posting, with_text=settings.calls.record_text)
        await stack.enter_async_context(webhooks)
        events = EventLog()
        events.tell(webhooks.tell)
        with _naming("recordings.path"):
            recorder = await stack.enter_async_context(
                Recorder.open(
                    settings.recordings,
                    settings.recordings.path or directory / "recordings",
                    metrics,
                    events.publish,
                )
            )

        gateway = await stack.enter_async_context(Gateway.open())
        with _naming("webrtc"):
            phone = await stack.enter_async_context(telephone(settings.sip, lambda event: browsers.deliver(event)))

        def ours(flow: sip.Flow) -> bool:
            # Nobody else on this machine can have that port, and no packet with an address of ours comes from outside.
            return flow.remote == phone.addresses[0]

        def deliver(event: sip.Event) -> None:
            if not trunks.deliver(event):
                switchboard.deliver(event)

        referring = {"REFER": REFERRED_TYPES} if settings.sip.refer != "off" else {}
        agent = sip.Agent(
            random=random.SystemRandom(),
            advertise=settings.sip.advertised,
            accept=(*BODY_TYPES, "multipart/mixed", "multipart/alternative"),
            product=f"mediaserver/{version('mediaserver')}",
            session_expires_s=settings.sip.session_expires_s,
            min_se_s=settings.sip.min_se_s,
            login_for=lambda request, flow: trunks.login_for(request, flow),
            guard_of=lambda request, flow: None if ours(flow) else trunks.guard_of(request, flow),
            serve_within=SERVED | {"NOTIFY": NOTIFIED_TYPES} | referring,
            serve_outside=referring,
        )
        # The errors name the address; those of TLS, the file.
        with _naming("sip"):
            transport = await stack.enter_async_context(
                sip.Transport.open(
                    agent,
                    [(address.host, address.port) for address in settings.sip.listen],
                    deliver=deliver,
                    tls_listen=[(address.host, address.port) for address in settings.sip.tls_listen],
                    tls=_tls(settings.sip),
                    limits=sip.StreamLimits(
                        connections=settings.sip.max_connections,
                        connections_per_host=settings.sip.max_connections_per_address,
                    ),
                )
            )
        if settings.hep.collector is not None:
            with _naming("hep.collector"):
                capture = stack.enter_context(Capture(settings.hep.collector, node=settings.hep.node))
            transport.capture = capture
            metrics.watch(capture.families)
        # No event is delivered before the event loop has its next turn, and so none before `switchboard` is there.
        trunks = Trunks(settings, transport, random=random.SystemRandom())
        means = Means(
            config=settings,
            signalling=transport,
            endpoint=endpoint,
            speech=speech,
            repertoire=Repertoire(settings, speech, fetcher, clips, decoding=decoding),
            metrics=metrics,
            trunk_of=trunks.trunk_of,
            ours=ours,
            events=events,
            recorder=recorder,
            attend=lambda call, script: attendants.attend(call, script),
        )
        takers = [webhooks.record]
        if (traces := _traces(settings.trace)) is not None:
            await stack.enter_async_context(traces.sending())
            metrics.watch(traces.families)
            takers.append(traces.record)
        switchboard = await stack.enter_async_context(
            Switchboard(means, record=_recording(settings.calls, stack, *takers))
        )
        played = Clips(
            fetcher,
            budget_bytes=settings.calls.clips_mb * 1024 * 1024,
            max_s=settings.fetch.max_audio_s,
            decoding=decoding,
        )
        with _naming("webhooks"):
            attendants = Attendants(means, posting, switchboard, played)
        await stack.enter_async_context(attendants)
        await stack.enter_async_context(trunks)
        pushes = await stack.enter_async_context(
            Pushes(
                endpoint,
                speech,
                metrics,
                host=settings.sip.media_host,
                networks=settings.rtp.push_networks,
                max_pushes=settings.rtp.max_pushes,
            )
        )
        metrics.watch(lambda: rtp_families(endpoint.counters()))
        metrics.watch(lambda: sip_families(agent.counters()))
        browsers = Browsers(
            settings,
            gateway=gateway,
            phone=phone,
            server=transport.addresses[0],
            switchboard=switchboard,
        )
        stack.callback(browsers.close)
        metrics.watch(browsers.families)
        metrics.watch(trunks.families)
        metrics.watch(webhooks.families)
        metrics.watch(lambda: connection_families(transport.connections()))
        control = Control(
            speech, pushes, speakers, metrics, calls=switchboard.__len__, accepting=lambda: switchboard.accepting
        )
        metrics.watch(lambda: health_families(control.health()))
        app = http_api.make_app(
            control,
            calls=Calls(means, switchboard, browsers, played, asks=posting.allows),
            version=version("mediaserver"),
            encode={"mulaw": encoding.mulaw, "alaw": encoding.alaw},
            encoders={format: partial(encoding.FileEncoder, format) for format in encoding.FORMATS},
            limits=http_api.ApiLimits(
                max_text_chars=settings.http.max_text_chars,
                max_body_bytes=settings.http.max_body_bytes,
                max_concurrent=settings.http.max_concurrent,
                max_upload_bytes=settings.speakers.max_bytes,
            ),
            gate=gate,
        )
        with _naming("http.listen"):
            web = await stack.enter_async_context(
                http_api.serve(
                    app,
                    settings.http.listen.host,
                    settings.http.listen.port,
                    tls=None if certificate is None else certificate.context,
                )
            )
        if not endpoint.counters().realtime:
            log.warning(
                "no SCHED_FIFO for the RTP plane: grant CAP_SYS_NICE or an rtprio limit, or busy hosts delay audio"
            )
        http_host, http_port = web.addresses[0]
        log.info("listening", sip=transport.addresses, http=web.addresses[0], realtime=endpoint.counters().realtime)
        yield Server(
            settings=settings,
            sip_addresses=tuple(config.Address(host=host, port=port) for host, port in transport.addresses),
            sips_addresses=tuple(config.Address(host=host, port=port) for host, port in transport.tls_addresses),
            http_address=config.Address(host=http_host, port=http_port),
            engine=engine,
            endpoint=endpoint,
            transport=transport,
            switchboard=switchboard,
            trunks=trunks,
            pushes=pushes,
            gateway=gateway,
            gate=gate,
            certificate=certificate,
            webhooks=webhooks,
            attendants=attendants,
        )
