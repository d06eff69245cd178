"""The HTTP API as a whole: its routes as one table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping

from aiohttp import web
from pydantic import BaseModel

from .access import Gate
from .admission import Admission, Uploads
from .calls import (
    CALL,
    CALLS,
    DIAL,
    HANG_UP,
    HOLD,
    PAUSE,
    PLACE,
    RESUME,
    SAY,
    STOP_SPEECH,
    TRANSFER,
    UNHOLD,
    Calls,
)
from .clips import ADD_CLIP, CLIP, FORGET_CLIP, PLAY, Clips
from .console import FILE, PAGE, ROOT, Console
from .control import CallControl, Encoder, Host
from .engine import DESCRIBE, EMBED, UTTER, LentEngine
from .entrance import Entrance
from .events import CALL_EVENTS, EVENTS, Events
from .exchange import dress, exchange
from .health import HEALTH, METRICS, READY, Condition
from .intake import FORM_BYTES, expecting
from .line import CALL_AUDIO, CallAudio
from .openai import MODEL, MODELS, SPEECH, OpenAi, complaint
from .openapi import OPENAPI, Description, describe
from .problem import Problem
from .prompts import PROMPTS, Prompts
from .push import LIST, OPEN, SHOW, STOP, Pushes
from .recordings import DOWNLOAD, ERASE, RECORD, RECORDING, RECORDINGS, STOP_RECORDING, Recordings
from .rendition import audio_formats
from .route import FORM, Access, Route
from .schema import ApiLimits, OpenAiError
from .sockets import Sockets
from .speakers import CHANGE, ENROL, FORGET, INSPECT, SPEAKERS, Speakers
from .synthesis import STREAM, SYNTHESIZE, Synthesis
from .talk import TALK, Talks
from .token import TOKEN
from .token import show as show_token
from .voices import VOICES, Voices
from .webrtc import OFFER, WebRtc

__all__ = ["LIMITS", "make_app"]

# How problems are told where it is not as RFC 9457 has it, by the model of them.
DIALECTS: Mapping[type[BaseModel] | None, Callable[[Problem, str], web.Response]] = {OpenAiError: complaint}

LIMITS: web.AppKey[ApiLimits] = web.AppKey("limits", ApiLimits)


def make_table(
    synthesis: Synthesis,
    talks: Talks,
    openai: OpenAi,
    prompts: Prompts,
    voices: Voices,
    engine: LentEngine,
    pushes: Pushes,
    speakers: Speakers,
    calls: Calls,
    recordings: Recordings,
    clips: Clips,
    webrtc: WebRtc,
    line: CallAudio,
    events: Events,
    condition: Condition,
) -> tuple[Route, ...]:
    """Every route, but for OPTIONS, which is answered everywhere, and HEAD, which is answered wherever GET is."""
    return (
        Route("synthesize", "POST", "/v1/synthesize", synthesis.synthesize, SYNTHESIZE, Access.SPEAK),
        Route("stream", "POST", "/v1/synthesize/stream", synthesis.stream, STREAM, Access.SPEAK),
        Route("talk", "GET", "/v1/synthesize/ws", talks.talk, TALK, Access.SPEAK),
        Route("speech", "POST", "/v1/audio/speech", openai.speech, SPEECH, Access.SPEAK),
        Route("models", "GET", "/v1/models", openai.models, MODELS, Access.TOKEN),
        Route("model", "GET", "/v1/models/{model}", openai.model, MODEL, Access.TOKEN),
        Route("pushes", "POST", "/v1/rtp", pushes.open, OPEN, Access.CALL),
        Route("pushes", "GET", "/v1/rtp", pushes.list, LIST, Access.READ),
        Route("push", "GET", "/v1/rtp/{id}", pushes.show, SHOW, Access.READ),
        Route("push", "DELETE", "/v1/rtp/{id}", pushes.stop, STOP, Access.CALL),
        Route("prompts", "POST", "/v1/prompts", prompts.make, PROMPTS, Access.SPEAK),
        Route("voices", "GET", "/v1/voices", voices.list, VOICES, Access.TOKEN),
        Route("engine", "GET", "/v1/engine", engine.describe, DESCRIBE, Access.SPEAK),
        Route("utterance", "POST", "/v1/engine/synthesize", engine.utter, UTTER, Access.SPEAK),
        Route("embedding", "POST", "/v1/engine/embedding", engine.embed, EMBED, Access.SPEAK),
        Route("speakers", "POST", "/v1/speakers", speakers.enrol, ENROL, Access.ADMIN),
        Route("speakers", "GET", "/v1/speakers", speakers.list, SPEAKERS, Access.TOKEN),
        Route("speaker", "GET", "/v1/speakers/{id}", speakers.show, INSPECT, Access.ADMIN),
        Route("speaker", "PATCH", "/v1/speakers/{id}", speakers.change, CHANGE, Access.ADMIN),
        Route("speaker", "DELETE", "/v1/speakers/{id}", speakers.forget, FORGET, Access.ADMIN),
        Route("calls", "POST", "/v1/calls", calls.place, PLACE, Access.CALL),
        Route("calls", "GET", "/v1/calls", calls.list, CALLS, Access.READ),
        Route("call", "GET", "/v1/calls/{id}", calls.show, CALL, Access.READ),
        Route("call", "DELETE", "/v1/calls/{id}", calls.hang_up, HANG_UP, Access.CALL),
        Route("say", "POST", "/v1/calls/{id}/say", calls.say, SAY, Access.CALL),
        Route("play", "POST", "/v1/calls/{id}/play", clips.play, PLAY, Access.CALL),
        Route("clips", "POST", "/v1/clips", clips.add, ADD_CLIP, Access.CALL),
        Route("clip", "GET", "/v1/clips/{id}", clips.show, CLIP, Access.CALL),
        Route("clip", "DELETE", "/v1/clips/{id}", clips.forget, FORGET_CLIP, Access.CALL),
        Route("stop_speech", "POST", "/v1/calls/{id}/stop", calls.stop_speech, STOP_SPEECH, Access.CALL),
        Route("pause", "POST", "/v1/calls/{id}/pause", calls.pause, PAUSE, Access.CALL),
        Route("resume", "POST", "/v1/calls/{id}/resume", calls.resume, RESUME, Access.CALL),
        Route("dial", "POST", "/v1/calls/{id}/dtmf", calls.dial, DIAL, Access.CALL),
        Route("hold", "POST", "/v1/calls/{id}/hold", calls.hold, HOLD, Access.CALL),
        Route("unhold", "POST", "/v1/calls/{id}/unhold", calls.unhold, UNHOLD, Access.CALL),
        Route("transfer", "POST", "/v1/calls/{id}/transfer", calls.transfer, TRANSFER, Access.CALL),
        Route("record", "POST", "/v1/calls/{id}/record", recordings.start, RECORD, Access.CALL),
        Route("stop_recording", "POST", "/v1/calls/{id}/record/stop", recordings.stop, STOP_RECORDING, Access.CALL),
        Route("recordings", "GET", "/v1/recordings", recordings.list, RECORDINGS, Access.CALL),
        Route("recording", "GET", "/v1/recordings/{id}", recordings.show, RECORDING, Access.CALL),
        Route("recording", "DELETE", "/v1/recordings/{id}", recordings.erase, ERASE, Access.ADMIN),
        Route("recording_audio", "GET", "/v1/recordings/{id}/audio", recordings.download, DOWNLOAD, Access.CALL),
        Route("offer", "POST", "/v1/webrtc/offer", webrtc.offer, OFFER, Access.CALL),
        Route("call_audio", "GET", "/v1/calls/{id}/audio", line.attach, CALL_AUDIO, Access.CALL),
        Route("events", "GET", "/v1/events", events.all, EVENTS, Access.READ),
        Route("call_events", "GET", "/v1/calls/{id}/events", events.one, CALL_EVENTS, Access.READ),
        Route("token", "GET", "/v1/token", show_token, TOKEN, Access.TOKEN),
        Route("health", "GET", "/health", condition.health, HEALTH, Access.OPEN),
        Route("ready", "GET", "/ready", condition.ready, READY, Access.OPEN),
        Route("metrics", "GET", "/metrics", condition.metrics, METRICS, Access.READ),
    )


def make_pages(console: Console) -> tuple[Route, ...]:
    """What people look at. It is no part of the API, and so is not described there."""
    return (
        Route("root", "GET", "/", console.root, ROOT, Access.OPEN),
        Route("console", "GET", "/console", console.console, PAGE, Access.OPEN),
        Route("console_file", "GET", "/console/{file}", console.file, FILE, Access.OPEN),
        Route("docs", "GET", "/docs", console.docs, PAGE, Access.OPEN),
    )


def make_app(
    control: Host,
    *,
    calls: CallControl,
    version: str,
    encode: Mapping[str, Callable[[bytes], bytes]],
    encoders: Mapping[str, Callable[[int], Encoder]],
    limits: ApiLimits | None = None,
    gate: Gate | None = None,
) -> web.Application:
    """The application, to be carried by `serve`.

    encode    companding by format name, "mulaw" and "alaw": signed 16-bit little-endian samples to G.711 octets
    encoders  what makes the encoder of one file, by its sampling rate; by format name, "opus", "flac" and "mp3"
    version   the server's own, as /health tells it
    gate      who may do what; None: everybody everything

    Raises ValueError when one of the formats is missing.
    """
    if missing := {"mulaw", "alaw", "opus", "flac", "mp3"} - {*encode, *encoders}:
        raise ValueError(f"there is nothing to encode {', '.join(sorted(missing))}")
    limits = limits or ApiLimits()
    gate = gate or Gate()
    entrance = Entrance(gate, control)
    app = web.Application(middlewares=[exchange(control, entrance)], client_max_size=limits.max_body_bytes)
    app[LIMITS] = limits
    app.on_response_prepare.append(dress)
    formats, admission, uploads = audio_formats(encode, encoders), Admission(limits), Uploads(limits)
    sockets = Sockets(control, limits=limits)
    app.on_shutdown.append(sockets.close)
    events = Events(calls, limits=limits)
    app.on_shutdown.append(events.close)
    table = make_table(
        Synthesis(control, limits=limits, admission=admission, formats=formats),
        Talks(control, sockets=sockets, limits=limits, admission=admission, formats=formats),
        OpenAi(control, limits=limits, admission=admission, formats=formats),
        Prompts(control, limits=limits, admission=admission),
        Voices(control),
        LentEngine(control, limits=limits, admission=admission),
        Pushes(control, limits=limits),
        Speakers(control, limits=limits, uploads=uploads),
        Calls(calls, limits=limits),
        Recordings(calls, limits=limits),
        Clips(calls, limits=limits, uploads=uploads),
        WebRtc(calls, limits=limits),
        CallAudio(calls, sockets=sockets),
        events,
        Condition(control, version=version),
    )
    description = Description(describe(table, version=version, limits=limits, guarded=gate.guarded))
    openapi = Route("openapi", "GET", "/openapi.json", description.show, OPENAPI, Access.OPEN)
    _install(app, limits, entrance, (*table, openapi, *make_pages(Console())))
    return app


def _install(app: web.Application, limits: ApiLimits, entrance: Entrance, table: tuple[Route, ...]) -> None:
    by_resource: defaultdict[tuple[str, str], list[Route]] = defaultdict(list)
    for route in table:
        by_resource[route.path, route.name].append(route)
    for (path, name), rows in by_resource.items():
        resource = app.router.add_resource(path, name=name)
        methods = {"OPTIONS"}
        for row in rows:
            uploading = row.operation.media_type == FORM or row.operation.uploads
            most = limits.max_upload_bytes + FORM_BYTES if uploading else limits.max_body_bytes
            act = entrance.before(row, DIALECTS.get(row.operation.problem, Problem.response))
            expect = expecting(most, entrance.inviting(row))
            for method in (row.method, "HEAD") if row.method == "GET" else (row.method,):
                resource.add_route(method, act, expect_handler=expect)
                methods.add(method)
        resource.add_route("OPTIONS", entrance.options(", ".join(sorted(methods))))
