"""What a call says, read from its INVITE and the routes: pure, before anything is fetched or synthesised.

In this order:

1. RFC 4240 announcement: user "annc" with `play=`; it ends the call when all is said.
2. a text/plain or application/ssml+xml part beside the SDP in a multipart/mixed body
3. the header X-Speak
4. the first matching [[route]] of the configuration

What 2 and 3 bring replaces the words of the matching route, unless that has a webhook, which is asked what to say; what
happens afterwards stays the route's to say. The headers X-Speaker and X-Language choose the voice for all four.

A REFER brings its words in the Refer-To (`referred`); without any, the new call says what the transferred one said, or
what the routes have for whom it calls. A MESSAGE or INFO within the call brings more to say (`more`), in the voice of
the call unless it says otherwise.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import unquote_to_bytes
from xml.sax.saxutils import escape

import sip
from mediaserver.config import DEFAULT_ROUTE, Config, Route, Then
from mediaserver.passage import BargeIn, Mark
from sip.body import parts_of

__all__ = [
    "APOLOGY",
    "BODY_TYPES",
    "AudioFile",
    "More",
    "Remote",
    "Script",
    "Text",
    "Webhook",
    "more",
    "offer_in",
    "read",
    "referred",
    "text_of",
]

ANNOUNCEMENT_USER = "annc"
# What is said where a webhook has not done its part, and nothing else is to be said.
APOLOGY = "We are sorry. This service does not work at the moment. Please call again later."
TEXT_TYPES = {"text/plain": False, "application/ssml+xml": True}
SDP_TYPE = "application/sdp"
BODY_TYPES = (SDP_TYPE, *TEXT_TYPES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """Words to be synthesised; `ssml` tells a document, which may have marks of its own, from plain text."""

    text: str
    ssml: bool = False
    voice: str = "default"
    language: str = ""
    marks: tuple[Mark, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioFile:
    """A file that the configuration names."""

    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """Text or audio at an http(s) URI, fetched if the configuration allows its host."""

    uri: str
    voice: str = "default"
    language: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """Who conducts a call, and how long it may take to answer. The address may be a secret."""

    url: str = field(repr=False)
    timeout_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What to say and what then.

    repeat       how often, None for ever; delay_ms: silence between two repetitions
    duration_ms  end of all speech, counted from its start; None: no limit
    stay_s       how long to stay on the line after the words when `then` is STAY
    silent       nothing is said at first: `content` only tells the voice of what may be said later
    webhook      conducts the call; the rest is for when it does not do its part
    barge_in     what ends it early
    records      the call is recorded from its answer on
    """

    content: Text | AudioFile | Remote
    repeat: int | None = 1
    delay_ms: int = 0
    duration_ms: int | None = None
    then: Then = Then.HANGUP
    stay_s: float = 0
    silent: bool = False
    webhook: Webhook | None = None
    barge_in: frozenset[BargeIn] = frozenset()
    records: bool = False

    @property
    def voice(self) -> str:
        """That of words which do not choose one."""
        return "default" if isinstance(self.content, AudioFile) else self.content.voice


@dataclass(frozen=True, slots=True, kw_only=True)
class More:
    """What is to be said besides; `interrupts`: at once, and in the stead of all that waits."""

    text: Text
    interrupts: bool = False


def read(request: sip.Request, source: str, config: Config) -> Script:
    """The script of the call that `request`, an INVITE from the address `source`, would open.

    Raises sip.RemoteProtocolError with the status that the INVITE deserves when it asks for something unclear.
    """
    if request.uri.user == ANNOUNCEMENT_USER:
        return _voiced(_announcement(request.uri.parameters), request.headers)
    route = config.route_for(
        user=request.uri.user or "", caller=request.from_.uri.user or "", source=source.partition("%")[0]
    )
    text = None if route.webhook is not None else _body_text(request) or _header_text(request.headers)
    if text is None:
        script = _routed(route, caller=request.from_.uri.user, callee=request.uri.user)
    elif route is DEFAULT_ROUTE:
        script = Script(content=text)
    else:
        text = replace(text, voice=route.voice, language=text.language or route.language)
        script = Script(content=text, then=route.then, stay_s=route.stay_s)
    return replace(_voiced(script, request.headers), records=route.record)


def referred(order: sip.ReferOrder, *, caller: str, source: str, config: Config, transferred: Script | None) -> Script:
    """The script of a call that a REFER from the address `source` asks for.

    caller       user part of who will call
    transferred  the script of the call that the REFER came in, None if it is outside of any
    """
    text = _header_text(order.headers)
    if text is not None:
        return _voiced(Script(content=text), order.headers)
    if transferred is not None and not transferred.silent:
        return _voiced(transferred, order.headers)
    route = config.route_for(user=order.target.user, caller=caller, source=source.partition("%")[0])
    return _voiced(_routed(route, caller=caller, callee=order.target.user), order.headers)


def more(request: sip.Request, script: Script) -> More:
    """What a MESSAGE or INFO within the call that opened with `script` wants to be said.

    Raises sip.RemoteProtocolError with the status that it deserves.
    """
    text = _body_text(request)
    if text is None or not text.text.strip():
        raise sip.RemoteProtocolError("There is nothing to say", status=400)
    mode = (request.headers.get("X-Speak-Mode") or "queue").lower()
    if mode not in ("queue", "interrupt"):
        raise sip.RemoteProtocolError("X-Speak-Mode is neither queue nor interrupt", status=400)
    if not isinstance(script.content, AudioFile):
        text = replace(text, voice=script.content.voice, language=text.language or script.content.language)
    voiced = _voiced(Script(content=text), request.headers).content
    assert isinstance(voiced, Text), "words stay words"
    return More(text=voiced, interrupts=mode == "interrupt")


def offer_in(request: sip.Request) -> bytes | None:
    """The SDP that an INVITE brings, alone or in a multipart; None if it brings none."""
    return next((part.body for part in parts_of(request, BODY_TYPES) if part.content_type == SDP_TYPE), None)


def _announcement(parameters: Mapping[str, str | None]) -> Script:
    """RFC 4240 section 3: play is mandatory; repeat counts, delay and duration are in milliseconds."""
    uri = parameters.get("play")
    if not uri:
        raise sip.RemoteProtocolError("Mandatory play parameter missing", status=400)
    language = (parameters.get("locale") or "").replace("_", "-")
    repeat = parameters.get("repeat", "1")
    return Script(
        content=_content(uri, language=language),
        repeat=None if repeat in ("forever", "-1") else _number("repeat", repeat, at_least=1),
        delay_ms=_number("delay", parameters.get("delay", "0")),
        duration_ms=_number("duration", parameters["duration"], at_least=1) if "duration" in parameters else None,
    )


def _number(name: str, value: str | None, at_least: int = 0) -> int:
    if value and value.isascii() and value.isdigit() and len(value) < 10 and int(value) >= at_least:
        return int(value)
    raise sip.RemoteProtocolError(f"{name} is not a number of at least {at_least}", status=400)


def _content(uri: str, *, language: str = "") -> Text | Remote:
    """The content that a `play` URI names: data: holds the words themselves, http(s): is to be fetched."""
    scheme = uri.partition(":")[0].lower()
    if scheme == "data":
        media_type, charset, data = _data_uri(uri)
        return text_of(media_type, data, charset=charset, language=language)
    if scheme in ("http", "https"):
        return Remote(uri=uri, language=language)
    raise sip.RemoteProtocolError(f"Cannot play a {scheme[:16]!r} URI, only data:, http: and https:", status=404)


def _data_uri(uri: str) -> tuple[str, str, bytes]:
    """Media type, charset and octets of a data: URI (RFC 2397), whose charset is UTF-8 here if it names none."""
    meta, comma, data = uri[len("data:") :].partition(",")
    if not comma:
        raise sip.RemoteProtocolError("The data: URI has no comma", status=400)
    media_type, *parameters = (part.strip().lower() for part in meta.split(";"))
    octets = unquote_to_bytes(data)
    if "base64" in parameters:
        try:
            octets = base64.b64decode(octets, validate=True)
        except binascii.Error:
            raise sip.RemoteProtocolError("The data: URI is not base64", status=400) from None
    charsets = [part.removeprefix("charset=") for part in parameters if part.startswith("charset=")]
    return media_type or "text/plain", charsets[0] if charsets else "utf-8", octets


def text_of(media_type: str, data: bytes, *, charset: str, voice: str = "default", language: str = "") -> Text:
    """The words of a resource. Raises sip.RemoteProtocolError: 415 if it is no text, 400 if it does not decode."""
    if media_type not in TEXT_TYPES:
        raise sip.RemoteProtocolError(
            f"Cannot speak {media_type[:40]}", status=415, headers=(("Accept", ", ".join(TEXT_TYPES)),)
        )
    try:
        return Text(text=data.decode(charset), ssml=TEXT_TYPES[media_type], voice=voice, language=language)
    except (ValueError, LookupError):
        # Some of Python's codecs raise UnicodeError itself, and a NUL in their names ValueError.
        raise sip.RemoteProtocolError(f"The text is not {charset[:20]!r}", status=400) from None


def _body_text(request: sip.Request) -> Text | None:
    for part in parts_of(request, BODY_TYPES):
        if part.content_type in TEXT_TYPES:
            language = part.headers.get("Content-Language") or ""
            return Text(text=part.text, ssml=TEXT_TYPES[part.content_type], language=language)
    return None


def _header_text(headers: sip.Headers) -> Text | None:
    text = headers.get("X-Speak")
    return None if text is None else Text(text=text)


def _voiced(script: Script, headers: sip.Headers) -> Script:
    """With X-Speaker and X-Language, which hold for whatever is to be synthesised."""
    if isinstance(script.content, AudioFile):
        return script
    voice = headers.get("X-Speaker") or script.content.voice
    language = headers.get("X-Language") or script.content.language
    return replace(script, content=replace(script.content, voice=voice, language=language))


def _routed(route: Route, *, caller: str, callee: str) -> Script:
    names = {"from": caller or "unknown", "to": callee or "unknown"}
    content: Text | AudioFile
    if route.play is not None:
        content = AudioFile(path=route.play)
    elif route.ssml is not None:
        # What a caller calls itself must not become markup.
        ssml = route.ssml.format_map({name: escape(value) for name, value in names.items()})
        content = Text(text=ssml, ssml=True, voice=route.voice, language=route.language)
    else:
        content = Text(text=(route.say or APOLOGY).format_map(names), voice=route.voice, language=route.language)
    webhook = None
    if route.webhook is not None:
        webhook = Webhook(url=route.webhook.get_secret_value(), timeout_s=route.webhook_timeout_ms / 1000)
    return Script(
        content=content,
        repeat=route.repeat,
        delay_ms=route.delay_ms,
        then=route.then,
        stay_s=route.stay_s,
        webhook=webhook,
    )
