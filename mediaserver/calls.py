"""What the HTTP API does with calls: it places them, looks at them, speaks into them and hangs them up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import replace

import engines
import http_api
import rtp
import sip
from mediaserver import audio
from mediaserver.attachment import Attachment
from mediaserver.browsers import Browsers
from mediaserver.call import Call, Means
from mediaserver.clips import Clips, TooMuchAudio
from mediaserver.config import Then
from mediaserver.detail import Facts
from mediaserver.dialling import Dialling, ForbiddenNumber, UnknownTrunk, UnusableNumber
from mediaserver.faults import translated
from mediaserver.fetch import FetchError, Forbidden
from mediaserver.inputs import HangUp, Order
from mediaserver.media import Media
from mediaserver.passage import BargeIn, Item, Mark, Said
from mediaserver.programme import ProgrammeFull
from mediaserver.recorder import (
    AlreadyRecording,
    NoRoomToRecord,
    Recorded,
    RecordingOff,
    RecordingUnderWay,
    UnknownRecording,
)
from mediaserver.script import APOLOGY, Script, Text, Webhook
from mediaserver.switchboard import NoRoom, Switchboard
from mediaserver.transfers import OUTCOMES

__all__ = ["Calls"]

# For something that waits to be said to be said.
RETRY_AFTER_S = 5.0
# For somebody to delete something.
FULL_DISK_RETRY_S = 60.0


class Calls:
    """Implements http_api.CallControl. `asks` tells whether webhooks may be asked at an address."""

    def __init__(
        self, means: Means, switchboard: Switchboard, browsers: Browsers, clips: Clips, *, asks: Callable[[str], bool]
    ) -> None:
        self._clips = clips
        self._means = means
        self._asks = asks
        self._switchboard = switchboard
        self._browsers = browsers
        self._dialling = Dialling(means.config, means.signalling)

    async def place_call(self, order: http_api.CallOrder) -> http_api.CallFacts:
        if order.records and not self._means.config.recordings.enabled:
            raise http_api.Forbidden("calls are not recorded here: set recordings.enabled", field="record")
        said = order.said
        text = Text(
            text="" if said is None else said.text,
            ssml=said is not None and said.ssml,
            voice=order.speaker_id,
            language=order.language,
            marks=() if said is None else _marks(said),
        )
        webhook = None
        if order.webhook is not None:
            if not self._asks(order.webhook):
                raise http_api.Forbidden("its host is not in webhooks.allow_hosts", field="webhook")
            webhook = Webhook(url=order.webhook, timeout_s=order.webhook_timeout_ms / 1000)
            text = text if said is not None else replace(text, text=APOLOGY)
        await self._check(text, silent=not text.text)
        try:
            destination = await self._dialling.reach(order.to, caller=order.caller, trunk=order.trunk)
        except ForbiddenNumber as error:
            raise http_api.Forbidden(str(error), field=error.field) from error
        except UnknownTrunk as error:
            raise http_api.NotFound(str(error), field=error.field) from error
        except UnusableNumber as error:
            raise http_api.Refused(str(error), field=error.field) from error
        try:
            call = self._switchboard.place(
                Order(
                    target=destination.target,
                    flows=destination.flows,
                    from_=destination.from_,
                    script=Script(
                        content=text,
                        then=Then.HANGUP if order.hangs_up else Then.STAY,
                        stay_s=order.stay_s,
                        silent=not text.text,
                        webhook=webhook,
                        barge_in=frozenset() if said is None else frozenset(map(BargeIn, said.barge_in)),
                        records=order.records,
                    ),
                    headers=tuple(order.headers.items()),
                    tell=lambda status, reason: None,
                    ring_timeout_s=order.ring_timeout_s,
                    traceparent=order.traceparent,
                )
            )
        except NoRoom as error:
            raise http_api.Busy(str(error), retry_after_s=error.retry_after_s) from error
        return _told(call.facts())

    async def take_offer(self, order: http_api.WebRtcOrder) -> http_api.WebRtcFacts:
        return await self._browsers.take_offer(order)

    def calls(self) -> list[http_api.CallFacts]:
        return [_told(facts) for facts in self._switchboard.ledger.all(self._means.signalling.now())]

    def call(self, id: str) -> http_api.CallFacts:
        facts = self._switchboard.ledger.find(id, self._means.signalling.now())
        if facts is None:
            raise http_api.NotFound(f"There is no call {id!r}, or none that is remembered", field="id")
        return _told(facts)

    def hang_up(self, id: str) -> None:
        call = self._switchboard.ledger.alive(id)
        if call is None:
            self.call(id)
        else:
            call.deliver(HangUp())

    async def say(self, id: str, order: http_api.UtteranceOrder) -> http_api.UtteranceFacts:
        call = self._alive(id)
        voice = "default" if call.script is None else call.script.voice
        text = Text(
            text=order.text,
            ssml=order.ssml,
            voice=order.speaker_id or voice,
            language=order.language,
            marks=_marks(order),
        )
        await self._check(text)
        call = self._alive(id)
        if order.interrupts and call.media is not None:
            call.media.resume()
        with _unless_full():
            said = call.say(text, interrupts=order.interrupts, barge_in=frozenset(map(BargeIn, order.barge_in)))
        return _spoken(said.facts(spoken_ms=0))

    async def play(self, id: str, order: http_api.PlayOrder) -> http_api.UtteranceFacts:
        self._alive(id)
        clip = await self._playable(order)
        call = self._alive(id)
        if order.interrupts and call.media is not None:
            call.media.resume()
        item = Item(content=clip, repeat=order.repeat, barge_in=frozenset(map(BargeIn, order.barge_in)))
        with _unless_full():
            played = call.utter(item, interrupts=order.interrupts)
        return _spoken(played.facts(spoken_ms=0))

    async def _playable(self, order: http_api.PlayOrder) -> rtp.Clip:
        if order.file is not None:
            with _unless_unplayable("file"):
                return await self._clips.decoded(order.file)
        if order.url is not None:
            with _unless_unplayable("url"):
                return await self._clips.fetched(order.url)
        return self._kept(order.clip_id or "", field="clip_id")

    async def add_clip(self, file: bytes) -> http_api.ClipFacts:
        with _unless_unplayable("file"):
            clip = await self._clips.decoded(file)
        return http_api.ClipFacts(id=self._clips.keep(clip), duration_ms=clip.duration_ms)

    def clip(self, id: str) -> http_api.ClipFacts:
        return http_api.ClipFacts(id=id, duration_ms=self._kept(id, field="id").duration_ms)

    def delete_clip(self, id: str) -> None:
        self._kept(id, field="id")
        self._clips.forget(id)

    def _kept(self, id: str, *, field: str) -> rtp.Clip:
        clip = self._clips.find(id)
        if clip is None:
            raise http_api.NotFound(f"There is no clip {id!r}, or it had to make room", field=field)
        return clip

    async def stop_speech(self, id: str) -> http_api.CallFacts:
        await self._alive(id).be_silent()
        return self.call(id)

    def pause_speech(self, id: str, *, paused: bool) -> http_api.CallFacts:
        media = self._media(id)
        if paused:
            media.pause()
        else:
            media.resume()
        return self.call(id)

    def send_digits(self, id: str, digits: str, *, duration_ms: int) -> None:
        media = self._media(id)
        if not media.flows:
            raise http_api.Conflict("No packets are sent now: the peer holds", field="id")
        try:
            media.stream.send_digits(digits, duration_ms=duration_ms)
        except rtp.LocalProtocolError as error:
            raise http_api.Conflict(str(error), field="id") from error

    async def hold(self, id: str, *, held: bool) -> http_api.CallFacts:
        call = self._alive(id)
        if self._media(id).held != held:
            try:
                status = await asyncio.shield(call.hold(held=held))
            except sip.LocalProtocolError as error:
                raise http_api.Conflict(str(error), field="id") from error
            if status != 200:
                raise http_api.Conflict(f"The peer does not agree: {status or 'it is gone'}", field="id")
        return self.call(id)

    async def transfer(self, id: str, *, to: str | None, call_id: str | None) -> http_api.TransferFacts:
        call = self._alive(id)
        try:
            target = self._target(call, call_id) if to is None else self._dialling.referred(to, trunk=call.trunk)
            # Whoever asked may leave: the call ends all the same when it has succeeded.
            told = await asyncio.shield(self._switchboard.transfer(call, target))
        except UnusableNumber as error:
            raise http_api.Refused(str(error), field=error.field) from error
        except sip.LocalProtocolError as error:
            raise http_api.Conflict(str(error), field="id") from error
        return http_api.TransferFacts(outcome=OUTCOMES[told.outcome], sip_status=told.status, sip_reason=told.reason)

    @contextmanager
    def attach(self, id: str, order: http_api.LineOrder) -> Iterator[Attachment]:
        with Attachment(self._alive(id), order) as attachment:
            yield attachment

    async def events(
        self, after: str | None, *, call_id: str | None, idle_s: float
    ) -> AsyncGenerator[http_api.EventFacts | None, None]:
        log = self._means.events
        if after is None and call_id is not None:
            after = log.beginning
        async with aclosing(log.follow(after, idle_s=idle_s)) as happenings:
            async for happening in happenings:
                if happening is None:
                    yield None
                elif call_id is None or happening.call in (call_id, ""):
                    yield http_api.EventFacts(
                        id=happening.id,
                        kind=happening.kind,
                        call_id=happening.call,
                        at=happening.at,
                        details=happening.facts,
                    )

    async def record(self, call_id: str, *, max_s: float | None) -> http_api.RecordingFacts:
        most = self._means.config.recordings.max_s
        if max_s is not None and max_s > most:
            raise http_api.Refused(f"recordings.max_s is {most:g}", field="max_s")
        call = self._alive(call_id)
        with _translated_recording():
            return _recorded((await call.record(max_s=max_s)).facts)

    def stop_recording(self, call_id: str) -> http_api.RecordingFacts:
        self._alive(call_id)
        try:
            return _recorded(self._means.recorder.stop(call_id))
        except UnknownRecording as error:
            raise http_api.Conflict(str(error), field="id") from error

    def recordings(self) -> list[http_api.RecordingFacts]:
        return list(map(_recorded, self._means.recorder.all()))

    def recording(self, id: str) -> http_api.RecordingFacts:
        with _translated_recording():
            return _recorded(self._means.recorder.find(id))

    async def recording_file(self, id: str) -> str:
        with _translated_recording():
            return str(await self._means.recorder.file(id))

    async def delete_recording(self, id: str) -> None:
        with _translated_recording():
            await self._means.recorder.delete(id)

    def _target(self, call: Call, other_id: str | None) -> sip.NameAddr:
        """The peer of another call."""
        assert other_id is not None, "the schema wants one of both"
        other = self._switchboard.ledger.alive(other_id)
        if other is None:
            raise http_api.NotFound(f"There is no call {other_id!r} that is alive", field="call_id")
        if other is call:
            raise http_api.Refused("it is the same call", field="call_id")
        if other.media is None:
            raise http_api.Conflict("That call is not up", field="call_id")
        return sip.refer_to_peer_of(self._means.signalling.agent, other.id)

    def _media(self, id: str) -> Media:
        """Raises http_api.NotFound, and Conflict if the call is not up."""
        media = self._alive(id).media
        if media is None:
            raise http_api.Conflict("The call is not up", field="id")
        return media

    def _alive(self, id: str) -> Call:
        """Raises http_api.NotFound, and Conflict if the call has ended."""
        call = self._switchboard.ledger.alive(id)
        if call is None or call.over:
            self.call(id)
            raise http_api.Conflict("The call has ended", field="id")
        return call

    async def _check(self, text: Text, *, silent: bool = False) -> None:
        """Whether it can be said, as far as that can be told beforehand."""
        # Where there is nothing to say yet, any word will do to find out about the voice.
        utterance = engines.Utterance(
            text="a" if silent else text.text,
            ssml=text.ssml,
            voice=text.voice,
            language=text.language,
            rate_hz=audio.RATE_HZ,
        )
        most = self._means.config.sip.max_text_chars
        if len(text.text) > most:
            raise http_api.Refused(
                f"it has {len(text.text)} characters, and a call takes {most} (sip.max_text_chars)",
                field="ssml" if text.ssml else "text",
            )
        with translated(utterance, self._means.speech):
            await self._means.speech.prepare(utterance)


@contextmanager
def _unless_full() -> Iterator[None]:
    """Raises http_api.Busy where too much waits to be said."""
    try:
        yield
    except ProgrammeFull as error:
        raise http_api.Busy(str(error), retry_after_s=RETRY_AFTER_S) from error


@contextmanager
def _unless_unplayable(field: str) -> Iterator[None]:
    """What is wrong with audio, in the API's words."""
    try:
        yield
    except Forbidden as error:
        raise http_api.Forbidden(str(error), field=field) from error
    except (audio.AudioError, FetchError) as error:
        raise http_api.Refused(f"it cannot be played: {error}", field=field) from error
    except TooMuchAudio as error:
        raise http_api.Busy(str(error), retry_after_s=RETRY_AFTER_S) from error


def _marks(order: http_api.UtteranceOrder) -> tuple[Mark, ...]:
    return tuple(Mark(name=name, at=at) for name, at in order.marks)


def _told(facts: Facts) -> http_api.CallFacts:
    end = facts.end
    return http_api.CallFacts(
        id=facts.id,
        direction=facts.direction,
        caller=facts.caller,
        callee=facts.callee,
        trunk=facts.trunk,
        state=facts.state,
        created_at=facts.created_at,
        ringing_at=facts.ringing_at,
        answered_at=facts.answered_at,
        ended_at=facts.ended_at,
        end=None
        if end is None
        else http_api.CallEnd(reason=end.reason, by=end.by, sip_status=end.status, sip_reason=end.phrase),
        held=facts.held,
        paused=facts.paused,
        digits=facts.digits,
        media=facts.media,
        first_speech_ms=facts.first_speech_ms,
        speech=tuple(map(_spoken, facts.speech)),
        recordings=tuple(map(_recorded, facts.recordings)),
    )


def _recorded(facts: Recorded) -> http_api.RecordingFacts:
    return http_api.RecordingFacts(
        id=facts.id,
        call_id=facts.call_id,
        state="recording" if facts.reason is None else "ended",
        started_at=facts.started_at,
        ended_at=facts.ended_at,
        reason=None if facts.reason is None else facts.reason.value,
        duration_ms=facts.duration_ms,
        size_bytes=facts.size_bytes,
    )


@contextmanager
def _translated_recording() -> Iterator[None]:
    """What goes wrong with recordings, in the API's words."""
    try:
        yield
    except RecordingOff as error:
        raise http_api.Forbidden(str(error), field="id") from error
    except UnknownRecording as error:
        raise http_api.NotFound(str(error), field="id") from error
    except (AlreadyRecording, RecordingUnderWay, sip.LocalProtocolError) as error:
        raise http_api.Conflict(str(error), field="id") from error
    except rtp.StreamClosed as error:
        raise http_api.Conflict("The call has ended", field="id") from error
    except NoRoomToRecord as error:
        raise http_api.Busy(str(error), retry_after_s=FULL_DISK_RETRY_S) from error


def _spoken(said: Said) -> http_api.UtteranceFacts:
    return http_api.UtteranceFacts(
        id=said.id,
        state=said.state.value,
        text=said.text,
        ssml=said.ssml,
        speaker_id=said.voice,
        spoken_ms=said.spoken_ms,
        barged_in_by=None if said.barged_in_by is None else said.barged_in_by.value,
        last_mark=said.last_mark,
    )
