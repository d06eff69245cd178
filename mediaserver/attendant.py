"""Conducting calls as webhooks say: asks them, and does with the call what the table of mediaserver/dialogue.py wants.

The audio of a call never waits for a webhook. A call that came rings while it is asked, so that it can be rejected;
later the line is silent. Whatever goes wrong leaves an ordinary call that says what was meant for this case.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from types import TracebackType
from typing import Any, Literal

import structlog

import http_api
import rtp
import sip
from mediaserver.call import Call, Means
from mediaserver.clips import Clips, TooMuchAudio
from mediaserver.config import Then
from mediaserver.dialling import Dialling, UnusableNumber
from mediaserver.dialogue import (
    Ask,
    Dialogue,
    Effect,
    FallBack,
    HangUp,
    Hush,
    Input,
    Keyed,
    Notify,
    Record,
    Recorded,
    Refer,
    Reject,
    Stay,
    StopRecording,
    Told,
    Transferred,
    Unanswered,
    Unsayable,
    Up,
    Utter,
    Uttered,
)
from mediaserver.passage import BargeIn, Item, Passage, PassageState
from mediaserver.posting import PostError, Posting
from mediaserver.recorder import AlreadyRecording, Ended, NoRoomToRecord, RecordingOff, UnknownRecording
from mediaserver.refusal import UNSERVABLE
from mediaserver.script import Script, Text
from mediaserver.switchboard import Switchboard
from mediaserver.transfers import OUTCOMES
from sip.message import REASONS

__all__ = ["Attendant", "Attendants"]

MAX_ANSWER_BYTES = 65_536
# What proves who somebody is goes to nobody, whatever webhooks.headers says.
PROOFS = frozenset({"authorization", "proxy-authorization"})
MOST_HEADERS = 50
MAX_HEADER_CHARS = 1000

ENDINGS: Mapping[Ended | None, Literal["max_duration", "stopped", "call_ended", "no_space", "failed"]] = {
    Ended.STOPPED: "stopped",
    Ended.CALL_ENDED: "call_ended",
    Ended.MAX_DURATION: "max_duration",
    Ended.NO_SPACE: "no_space",
    Ended.FAILED: "failed",
}


class Attendants:
    """What attendants work with. An async context manager; at its end nobody is asked any more.

    Raises ConfigError for a secret that cannot be read.
    """

    def __init__(self, means: Means, posting: Posting, switchboard: Switchboard, clips: Clips) -> None:
        self.means = means
        self.posting = posting
        self.clips = clips
        self.switchboard = switchboard
        self.dialling = Dialling(means.config, means.signalling)
        self.limits = http_api.ApiLimits(max_text_chars=means.config.sip.max_text_chars)
        self.keys = means.config.webhooks.keys()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Attendants:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def reload(self) -> None:
        """Read the secrets anew. Raises ConfigError, and then they stay as they were."""
        self.keys = self.means.config.webhooks.keys()

    def attend(self, call: Call, script: Script) -> Attendant:
        """Somebody to conduct `call`, whose script names a webhook."""
        return Attendant(self, call, script)

    def keep(self, task: asyncio.Task[None]) -> None:
        """Let it come to its end although its call may not last so long."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class Attendant:
    """Whoever conducts one call.

    script  what the call says if the webhook does not do its part
    """

    def __init__(self, house: Attendants, call: Call, script: Script) -> None:
        assert script.webhook is not None, "who has no webhook is not attended"
        self._house = house
        self._call = call
        self._webhook = script.webhook
        self._fallback = replace(script, webhook=None)
        self._came = call.facts().direction == "inbound"
        self._dialogue = Dialogue(script.webhook.url, asks_first=self._came)
        self._headers = self._told_headers()
        self._inbox: asyncio.Queue[Input | BaseException] = asyncio.Queue()
        self._doing: set[asyncio.Task[None]] = set()
        self._next: Effect | None = None
        self._uttering: asyncio.Task[None] | None = None
        self._passage: Passage | None = None
        self._steps = 0
        self._log = structlog.get_logger("dialogue").bind(call=call.detail.id)

    async def admit(self) -> Script:
        """What a call says for now: it rings meanwhile if it came.

        Raises sip.RemoteProtocolError with the status by which the webhook rejects it.
        """
        self._next = self._dialogue.next_effect()
        if self._next is not None:
            with suppress(sip.LocalProtocolError):  # it was cancelled, and is about to end
                self._house.means.signalling.ring(self._call.id)
        while isinstance(self._next, Ask):
            self._dialogue.receive(await self._ask(self._next), _now())
            self._next = self._dialogue.next_effect()
        match self._next:
            case Reject(status=status):
                raise sip.RemoteProtocolError(REASONS[status], status=status)
            case FallBack(reason=reason):
                self._next = None
                self._tell_fault(reason)
                return self._fallback
        return self._conducted(Then.STAY, self._house.means.config.sip.max_call_s)

    async def conduct(self) -> None:
        """Have the call do what the webhook wants, until that is done."""
        try:
            await self._conduct()
        except Exception:
            self._log.exception("the dialogue failed")
            self._tell_fault("the server failed")
            await self._turn_to(self._fallback)

    async def _conduct(self) -> None:
        self._call.digits.subscribe(self._keyed)
        try:
            self._begin(self._await_up())
            while True:
                while (effect := self._next or self._dialogue.next_effect()) is not None:
                    self._next = None
                    await self._do(effect)
                if self._dialogue.over:
                    break
                await self._hear()
        finally:
            self._call.digits.unsubscribe(self._keyed)
            for task in self._doing:
                task.cancel()

    async def _hear(self) -> None:
        """Wait for what happens next, and take it to the dialogue."""
        try:
            async with asyncio.timeout_at(self._dialogue.wake_at()):
                event = await self._inbox.get()
        except TimeoutError:
            self._dialogue.handle_timer(_now())
        else:
            if isinstance(event, BaseException):
                raise event
            self._dialogue.receive(event, _now())

    def _begin(self, doing: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Do something meanwhile. A group of tasks that is cancelled leaves a cycle, and a call is to leave none."""
        task = asyncio.create_task(doing)
        self._doing.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._doing.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._inbox.put_nowait(error)

    async def _do(self, effect: Effect) -> None:
        """Carry out an effect, or begin to."""
        match effect:
            case Ask():
                self._begin(self._ask_on(effect))
            case Utter():
                self._uttering = self._begin(self._utter(effect))
            case Hush():
                self._begin(self._hush())
            case Refer():
                self._house.keep(asyncio.create_task(self._refer(effect)))
            case Record():
                self._house.keep(asyncio.create_task(self._record(effect)))
            case StopRecording():
                with suppress(UnknownRecording):  # its time is over already
                    self._house.means.recorder.stop(self._call.detail.id)
            case FallBack():
                self._tell_fault(effect.reason)
                await self._turn_to(self._fallback)
            case Stay():
                await self._turn_to(self._conducted(Then.STAY, effect.seconds))
            case HangUp():
                await self._turn_to(self._conducted(Then.HANGUP, 0))

    def _conducted(self, then: Then, stay_s: float) -> Script:
        """Silence, in the voice of the call."""
        return replace(self._fallback, silent=True, then=then, stay_s=stay_s)

    async def _turn_to(self, script: Script) -> None:
        try:
            await self._call.turn_to(script)
        except UNSERVABLE as error:
            self._log.warning("what was to be said instead cannot be said", error=str(error))
            await self._call.turn_to(self._conducted(Then.HANGUP, 0))

    def _tell_fault(self, reason: str) -> None:
        self._log.warning("the dialogue is broken off", step=self._steps, reason=reason)
        self._call.detail.falter(self._steps, reason)

    # What takes its time.

    def _keyed(self, digit: str) -> None:
        self._inbox.put_nowait(Keyed(digit))

    async def _await_up(self) -> None:
        await self._call.wait_up()
        self._inbox.put_nowait(Up())

    async def _ask_on(self, effect: Ask) -> None:
        self._inbox.put_nowait(await self._ask(effect))

    async def _ask(self, effect: Ask) -> Told | Unanswered:
        began = time.perf_counter()
        told = await self._answer(effect)
        metrics = self._house.means.metrics
        metrics.dialogue_requests.labels("answered" if isinstance(told, Told) else "failed").inc()
        metrics.dialogue_latency.observe((time.perf_counter() - began) * 1000)
        return told

    async def _answer(self, effect: Ask) -> Told | Unanswered:
        house, facts = self._house, self._call.facts()
        step, self._steps = self._steps, self._steps + 1
        if not house.posting.allows(effect.url):
            return Unanswered("the webhook that is to go on is not in webhooks.allow_hosts")
        request = http_api.DialogueRequest(
            type="dialogue.continued" if step else "dialogue.started",
            at=datetime.now(UTC),
            step=step,
            call=http_api.DialogueCall(
                id=facts.id,
                direction=facts.direction,
                caller=facts.caller,
                callee=facts.callee,
                trunk=facts.trunk,
                headers=self._headers,
            ),
            result=effect.result,
        )
        try:
            reply = await house.posting.post(
                effect.url,
                f"{facts.id}-{step}",
                request.model_dump_json(by_alias=True).encode(),
                keys=house.keys,
                timeout_s=self._webhook.timeout_s,
                max_bytes=MAX_ANSWER_BYTES,
                persist=True,
            )
            if not 200 <= reply.status < 300:
                return Unanswered(f"the webhook answers {reply.status}")
            return Told(http_api.read_verbs(reply.body, house.limits))
        except PostError as error:
            return Unanswered(str(error))
        except http_api.Refused as error:
            return Unanswered(f"the answer is not understood: {error}")
        except Exception:
            self._log.exception("a webhook could not be asked")
            return Unanswered("the server failed")

    async def _utter(self, effect: Utter) -> None:
        verb, number, self._passage = effect.verb, effect.number, None
        try:
            self._passage = self._call.utter(await self._item(verb))
        except (*UNSERVABLE, TooMuchAudio, http_api.NotFound) as error:
            self._inbox.put_nowait(Unsayable(number=number, reason=f"{verb.verb}: {error}"))
            return
        passage = self._passage
        await passage.wait_ended()
        if passage.state is PassageState.FAILED:
            self._inbox.put_nowait(Unsayable(number=number, reason=f"{verb.verb}: it could not be made"))
        else:
            by = None if passage.barged_in_by is None else passage.barged_in_by.value
            self._inbox.put_nowait(Uttered(number=number, heard=passage.spoken_ms > 0, barged_in_by=by))

    async def _item(self, verb: http_api.SayVerb | http_api.PlayVerb) -> Item:
        barge_in = frozenset(map(BargeIn, verb.barge_in))
        if isinstance(verb, http_api.PlayVerb):
            return Item(content=await self._clip(verb), repeat=verb.repeat or None, barge_in=barge_in)
        text = Text(
            text=verb.words(),
            ssml=verb.ssml is not None,
            voice=verb.speaker_id or self._fallback.voice,
            language=verb.language,
        )
        return Item(content=await self._house.means.repertoire.resolve(text), barge_in=barge_in)

    async def _clip(self, verb: http_api.PlayVerb) -> rtp.Clip:
        if verb.url is not None:
            return await self._house.clips.fetched(verb.url)
        clip = self._house.clips.find(verb.clip_id or "")
        if clip is None:
            raise http_api.NotFound(f"there is no clip {verb.clip_id!r}, or it had to make room", field="clip_id")
        return clip

    async def _hush(self) -> None:
        """What is heard already the key has stopped by itself; what is not yet is not to be."""
        if self._uttering is not None:
            self._uttering.cancel()
        if self._passage is not None and self._passage.state is PassageState.QUEUED:
            self._call.withdraw(self._passage)

    async def _refer(self, effect: Refer) -> None:
        """The call may be over before it is told what became of its transfer."""
        house = self._house
        try:
            target = house.dialling.referred(effect.to, trunk=self._call.trunk)
            told = await asyncio.shield(house.switchboard.transfer(self._call, target))
        except (UnusableNumber, sip.LocalProtocolError) as error:
            event = Transferred(outcome="failed", status=None, reason=str(error))
        else:
            event = Transferred(outcome=OUTCOMES[told.outcome], status=told.status, reason=told.reason)
        await self._tell(event, last=event.outcome == "succeeded")

    async def _record(self, effect: Record) -> None:
        """The caller may hang up when all is said that was to be recorded."""
        try:
            recording = await self._call.record(max_s=effect.max_s)
        except (RecordingOff, AlreadyRecording, NoRoomToRecord, sip.LocalProtocolError, rtp.StreamClosed) as error:
            self._log.warning("the call is not recorded", reason=str(error))
            event = Recorded(id=None, duration_ms=0, ended_by="failed", error=str(error))
        else:
            await recording.closed.wait()
            facts = recording.facts
            event = Recorded(id=facts.id, duration_ms=facts.duration_ms, ended_by=ENDINGS[facts.reason])
        if effect.told:
            await self._tell(event, last=event.ended_by == "call_ended")

    async def _tell(self, event: Transferred | Recorded, *, last: bool) -> None:
        """What a verb has come to; if the call is over by that, the webhook is told all the same."""
        if not last:
            self._inbox.put_nowait(event)
            return
        self._dialogue.receive(event, _now())
        notice = self._dialogue.next_effect()
        if isinstance(notice, Notify):
            await self._ask(Ask(url=notice.url, result=notice.result))

    def _told_headers(self) -> dict[str, str]:
        """What the webhook is told of the INVITE."""
        patterns = [pattern.lower() for pattern in self._house.means.config.webhooks.headers]
        told: dict[str, str] = {}
        for name, value in self._call.headers:
            known = next((one for one in told if one.lower() == name.lower()), name)
            if name.lower() in PROOFS or not any(fnmatchcase(name.lower(), pattern) for pattern in patterns):
                continue
            if known in told or len(told) < MOST_HEADERS:
                # RFC 3261 section 7.3.1: fields of one name are one list.
                told[known] = f"{told[known]}, {value}" if known in told else value
        return {name: value[:MAX_HEADER_CHARS] for name, value in told.items()}


def _now() -> float:
    return asyncio.get_running_loop().time()
