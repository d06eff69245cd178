"""One call: a table, a task and an end. What is said comes from script, speech and media."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

import rtp
import sip
from mediaserver.barge_in import by_speech
from mediaserver.config import Config, Then, Trunk
from mediaserver.detail import Detail, Facts
from mediaserver.digits import Digits
from mediaserver.events import EventLog
from mediaserver.inputs import (
    Declined,
    Departed,
    Drain,
    Expired,
    HangUp,
    Input,
    Order,
    Prepared,
    Referred,
    Resumed,
    Shutdown,
    Spoken,
    Stayed,
    Stranded,
)
from mediaserver.media import DEFAULT_CODECS, Media, host_for
from mediaserver.metrics import Metrics
from mediaserver.passage import BargeIn, Item, Passage
from mediaserver.programme import Programme, ProgrammeFull
from mediaserver.recorder import Recorder, Recording, RecordingError
from mediaserver.refusal import UNSERVABLE, declined
from mediaserver.renegotiation import Hold, answer_anew
from mediaserver.repertoire import Repertoire
from mediaserver.script import More, Script, Text, offer_in
from mediaserver.script import read as read_script
from mediaserver.speech import Speech
from mediaserver.tally import Tally
from mediaserver.within import asked
from sip.info import Tone

__all__ = ["Attendance", "Call", "CallState", "Means"]

# A telephone drops what its jitter buffer still holds when a BYE arrives, so the last word gets time to be heard.
TAIL_S = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What every call works with.

    `repertoire` has what calls say; `trunk_of` tells the trunk whose calls come from an address, and `ours` whether a
    flow is of a telephone of this server's own; `events` is told what happens to calls; `attend` gives whoever conducts
    a call whose script names a webhook.
    """

    config: Config
    signalling: sip.Transport
    endpoint: rtp.Endpoint
    speech: Speech
    repertoire: Repertoire
    metrics: Metrics
    trunk_of: Callable[[str], Trunk | None]
    ours: Callable[[sip.Flow], bool]
    events: EventLog
    recorder: Recorder
    attend: Callable[[Call, Script], Attendance]


class Attendance(Protocol):
    """What a call asks of whoever conducts it."""

    async def admit(self) -> Script:
        """What the call says until it is up. Raises sip.RemoteProtocolError when it is not to be answered."""

    async def conduct(self) -> None:
        """Conduct it, as soon as it is prepared."""


class CallState(enum.Enum):
    OFFERED = "offered"
    ORDERED = "ordered"
    CALLING = "calling"
    ANSWERED = "answered"
    TALKING = "talking"
    STAYING = "staying"
    TRANSFERRING = "transferring"
    ENDING = "ending"
    ENDED = "ended"


class Call:
    """A call of either direction, from its INVITE, or the order to send one, to its end.

    id      its key with the agent, once there is one; it changes when another call takes its place (RFC 3891)
    script  what it says
    detail  what has become of it
    digits  what the other side keys

    Arguments:

    begun  the peer's INVITE, or the order
    moved  gets the former id and the call when the id changes
    """

    def __init__(self, begun: sip.Offered | Order, means: Means, *, moved: Callable[[str, Call], None]) -> None:
        self.script: Script | None = None
        self._begun = begun
        if isinstance(begun, Order):
            self.id, self.state, flow = secrets.token_hex(8), CallState.ORDERED, begun.flows[0]
            facts = {"order": self.id}
        else:
            self.id, self.state, flow = begun.call, CallState.OFFERED, begun.flow
            facts = {"call_id": begun.request.call_id}
        self._source = flow.remote[0]
        self._trunk = None if means.ours(flow) else means.trunk_of(self._source)
        self.detail = Detail(
            "outbound" if isinstance(begun, Order) else "inbound",
            caller=begun.from_.uri if isinstance(begun, Order) else begun.request.from_.uri,
            callee=begun.target if isinstance(begun, Order) else begun.request.uri,
            source=self._source,
            trunk=self.trunk,
            sip_call_id=self.call_id or None,
            traceparent=begun.traceparent if isinstance(begun, Order) else None,
            publish=means.events.publish,
        )
        self._means = means
        self._moved = moved
        self._host = host_for(flow, advertised=(means.config.rtp.advertise, means.config.sip.advertise))
        self._inbox: asyncio.Queue[Input] = asyncio.Queue()
        self._media: Media | None = None
        self._tally = Tally(means.metrics)
        self._end: sip.Ended | None = None
        self._timers: list[asyncio.TimerHandle] = []
        self.digits = Digits()
        self._hold = Hold()
        self._followers: tuple[Callable[[], None], ...] = ()
        self._log = structlog.get_logger("call").bind(**facts)
        self._programme = Programme(means.speech, tell=self.detail.speak, mark=self.detail.mark, log=self._log)

    def deliver(self, event: Input) -> None:
        """Hand in what happened; the call's task acts on it."""
        self._inbox.put_nowait(event)

    async def run(self) -> None:
        """Live until the call has ended. Only cancellation leaves it as an exception."""
        self._means.metrics.calls_active.inc()
        if isinstance(self._begun, Order):
            caller, callee, user = self._begun.from_, self._begun.target, ""
        else:
            caller, callee, user = self._begun.request.from_, self._begun.request.uri, self._begun.user
        self._log.info(
            f"call {self.state.value}",
            caller=caller.uri.user,
            callee=callee.user,
            source=self._source,
            trunk="" if self._trunk is None else self._trunk.name,
            user=user,
        )
        try:
            async with asyncio.TaskGroup() as tasks:
                performing = tasks.create_task(self._perform(tasks))
                while self.state is not CallState.ENDED:
                    self._step(await self._inbox.get())
                performing.cancel()
        finally:
            if isinstance(self._begun, Order) and self.state is not CallState.ENDED:
                self._begun.tell(500, "Server Internal Error")
            self._hold.over()
            self.digits.close()
            for timer in self._timers:
                timer.cancel()
            if self._media is not None:
                self._media.close()
                await self._media.wait_closed()
            self._means.metrics.calls_active.dec()
            self._record()

    def _step(self, event: Input) -> None:
        row = TABLE.get((self.state, type(event)))
        # It came too late to matter, such as the end of a timer while the call is ending.
        if row is None or self._is_stale(event):
            return
        before, (self.state, act) = self.state, row
        if self.state is not before and self.state is not CallState.ENDED:
            self._log.debug(f"call {self.state.value}")
        try:
            act(self, event)
        except sip.LocalProtocolError as error:
            # Mostly a CANCEL or BYE crossed what we wanted: its Ended waits in the inbox then, and this does nothing.
            self._log.debug("the call does not allow it", wanted=type(event).__name__, why=str(error))
            self.abandon()
        if self.state is not before:
            for changed in self._followers:
                changed()

    def _is_stale(self, event: Input) -> bool:
        """Whether more has been handed in since it was said that all is said, or another call took the place."""
        if isinstance(event, Spoken | Stayed):
            return event.turn != self._programme.turn
        return isinstance(event, OF_THE_DIALOG) and event.call != self.id

    def take_over(self, offered: sip.Offered) -> None:
        """Let another call take the place of this one (RFC 3891), and go on speaking there."""
        if (self.state, sip.Offered) in TABLE:
            self._step(offered)
        else:
            # RFC 3891 section 3: Declined is for a dialog that has ended, and this one is about to.
            self._means.signalling.reject(offered.call, status=603 if self.state is CallState.ENDING else 486)

    @property
    def call_id(self) -> str:
        """The SIP Call-ID; "" of one that we place."""
        return "" if isinstance(self._begun, Order) else self._begun.request.call_id

    @property
    def trunk(self) -> str | None:
        """The name of the trunk that it goes by."""
        return None if self._trunk is None else self._trunk.name

    def facts(self) -> Facts:
        """What is known of it now."""
        return self.detail.facts(
            state="ringing" if self.state is CallState.CALLING and self.detail.ringing else STANDING[self.state],
            held=self._media is not None and self._media.held,
            paused=self._media is not None and self._media.paused,
            digits=self.digits.count,
            media=None if self._media is None else self._media.facts(),
            speech=self._programme.history(),
        )

    @property
    def over(self) -> bool:
        """Whether it has ended, or is about to."""
        return self.state in (CallState.ENDING, CallState.ENDED)

    @property
    def transferable(self) -> bool:
        """Whether a transfer may begin now."""
        return (self.state, Referred) in TABLE

    def abandon(self) -> None:
        """End the call towards the peer, whatever state it is in; nothing if it has ended."""
        with contextlib.suppress(sip.LocalProtocolError):
            self._means.signalling.reject(self.id, status=500)
        with contextlib.suppress(sip.LocalProtocolError):
            self._means.signalling.cancel(self.id)
        with contextlib.suppress(sip.LocalProtocolError):
            self._means.signalling.bye(self.id)

    # What the call says: one task from the INVITE until the last word is sent.

    async def _perform(self, tasks: asyncio.TaskGroup) -> None:
        begun = self._begun
        try:
            if isinstance(begun, Order):
                script = begun.script
            else:
                script = read_script(begun.request, self._source, self._means.config)
            attendance = None if script.webhook is None else self._means.attend(self, script)
            if attendance is not None:
                script = await attendance.admit()
            item = await self._means.repertoire.item(script)
            codecs = DEFAULT_CODECS if self._trunk is None else self._trunk.codecs
            self._media = Media(self._means.endpoint, host=self._host, deliver=self._hear, codecs=codecs)
            # A delayed offer (RFC 3264 section 4): an INVITE without SDP gets ours in the 200.
            offer = None if isinstance(begun, Order) else offer_in(begun.request)
            description = self._media.offer() if offer is None else self._media.answer(offer)
        except UNSERVABLE as error:
            self.deliver(declined(error))
        except Exception:
            self._log.exception("call could not be prepared")
            self.deliver(Declined(500, "Server Internal Error"))
        else:
            self.script = script
            if item is None:
                self._programme.rest()
            else:
                self._programme.add(item)
            self.deliver(Prepared(description))
            speaking = by_speech(self._media.ear, least_dbfs=self._means.config.calls.barge_in_dbfs)
            conducting = None if attendance is None else tasks.create_task(attendance.conduct())
            try:
                await self._programme.run(
                    self._media.stream,
                    listen={BargeIn.DTMF: self.digits.listen, BargeIn.SPEECH: speaking},
                    finished=lambda turn: self.deliver(Spoken(turn)),
                )
            finally:
                if conducting is not None:
                    conducting.cancel()

    # What the call does: the actions of the table.

    def _answer(self, event: Prepared) -> None:
        self._means.signalling.answer(self.id, body=event.description)
        self.detail.answer()
        self._tally.answer()

    def _reject(self, event: Declined) -> None:
        self._log.info("call refused", status=event.status, reason=event.reason)
        self._means.signalling.reject(self.id, status=event.status, reason=event.reason, headers=event.headers)

    def _place(self, event: Prepared) -> None:
        order, old = self._order, self.id
        try:
            self.id = self._means.signalling.invite(
                order.target,
                order.flows[0],
                others=order.flows[1:],
                from_=order.from_,
                body=event.description,
                headers=order.headers,
                ring_timeout_s=order.ring_timeout_s,
            )
        except sip.LocalProtocolError as error:
            self.deliver(Declined(500, str(error)))
        else:
            self.detail.sip_call_id = self._means.signalling.agent.call_id(self.id)
            self._log = self._log.bind(call_id=self.detail.sip_call_id)
            self._moved(old, self)

    def _drop(self, event: Declined) -> None:
        self._log.info("call not placed", status=event.status, reason=event.reason)
        self.detail.fail(event.status, event.reason)
        self._order.tell(event.status, event.reason)

    def _forgo(self, event: Drain | HangUp | Shutdown) -> None:
        status, reason = (487, "Request Terminated") if isinstance(event, HangUp) else (503, "Service Unavailable")
        self.detail.fail(status, reason)
        self._order.tell(status, reason)

    def _ring(self, event: sip.Progressed) -> None:
        assert self._media is not None, "a call is placed with its media"
        self._order.tell(event.response.status, event.response.reason)
        if event.response.status == 180:
            self.detail.ring()
        if event.response.body:
            # The answer may come in a reliable provisional response, and not again (RFC 3262 section 5).
            with contextlib.suppress(sip.RemoteProtocolError, rtp.PortsExhausted):
                self._media.accept(event.response.body)

    def _connect(self, event: sip.Answered) -> None:
        assert self._media is not None, "a call is placed with its media"
        self._order.tell(event.response.status, event.response.reason)
        self.detail.answer()
        early = self._media.audio is not None and not event.response.body
        if early or self._accept(event.response.body):
            self._begin()

    def _cancel(self, event: Drain | HangUp | Shutdown) -> None:
        self._means.signalling.cancel(self.id)

    def _miss(self, event: sip.Ended) -> None:
        self._order.tell(event.status or 408, event.reason or "Request Timeout")
        self._finish(event)

    @property
    def _order(self) -> Order:
        assert isinstance(self._begun, Order), "the rows of a call that we place"
        return self._begun

    def _decline(self, event: HangUp) -> None:
        self._means.signalling.reject(self.id, status=603)

    def _turn_away(self, event: Drain | Shutdown) -> None:
        self._means.signalling.reject(self.id, status=503, headers=(("Retry-After", "10"),))

    def _talk(self, event: sip.Confirmed) -> None:
        assert self._media is not None, "a call is answered with its media"
        if self._media.audio is not None or self._accept(event.body):
            self._begin()

    def _begin(self) -> None:
        assert self._media is not None, "a call is answered with its media"
        if self._said().records:
            self._tape(self._media)
        self._media.start()
        self._tally.confirm()
        self.detail.confirm()
        self._expect(self._means.config.sip.max_call_s, Expired())
        self._programme.confirm()

    def _accept(self, answer: bytes) -> bool:
        """Take up the peer's answer; hang up, and give False, if that cannot be."""
        assert self._media is not None, "a call is answered with its media"
        try:
            self._media.accept(answer)
        except (sip.RemoteProtocolError, rtp.PortsExhausted) as error:
            self._log.info("there is no answer that can be taken up", reason=str(error))
            self.detail.hang_up("incompatible")
            self.deliver(Shutdown())
            return False
        return True

    def _stay(self, event: Spoken) -> None:
        script = self._said()
        stays = script.then is Then.STAY and not self._programme.draining
        stay_s = script.stay_s if stays else TAIL_S
        self._expect(stay_s, Stayed(event.turn))

    def _said(self) -> Script:
        assert self.script is not None, "a call that is up has a script"
        return self.script

    def _serve(self, event: sip.Requested) -> None:
        """A MESSAGE or INFO: more to say, or a digit."""
        try:
            match asked(event.message, self._said()):
                case Tone(digit=digit):
                    self.digits.press()
                    self.digits.key(digit)
                case More(text=text, interrupts=interrupts):
                    self.say(text, interrupts=interrupts)
        except UNSERVABLE as error:
            refused = declined(error)
            self._log.info("request within the call refused", status=refused.status, reason=refused.reason)
            self._means.signalling.respond(
                event.request, refused.status, reason=refused.reason, headers=refused.headers
            )
        else:
            self._means.signalling.respond(event.request, 200)

    def say(self, text: Text, *, interrupts: bool = False, barge_in: frozenset[BargeIn] = frozenset()) -> Passage:
        """Say it after all else, or at once and in the stead of it. Raises what is in UNSERVABLE."""
        item = Item(content=self._means.repertoire.utterance(text), barge_in=barge_in, marks=text.marks)
        return self.utter(item, interrupts=interrupts)

    def utter(self, item: Item, *, interrupts: bool = False) -> Passage:
        """As `say`, whatever it is. Raises ProgrammeFull."""
        if self._programme.draining:
            raise ProgrammeFull("The server will stop")
        passage = self._programme.interrupt(item) if interrupts else self._programme.add(item)
        self.deliver(Resumed())
        return passage

    async def turn_to(self, script: Script) -> None:
        """Say this from now on, after what is being said, and end as it says. Raises what is in UNSERVABLE."""
        item = await self._means.repertoire.item(script)
        self.script = script
        if item is not None:
            self.utter(item)
        elif self._programme.idle:
            self.deliver(Resumed())
            self.deliver(Spoken(self._programme.turn))

    async def wait_up(self) -> None:
        """Return when the peer hears it."""
        await self._programme.wait_confirmed()

    @property
    def headers(self) -> sip.Headers:
        """Of the INVITE that came; none if we sent it."""
        return sip.Headers() if isinstance(self._begun, Order) else self._begun.request.headers

    def attend(self) -> None:
        """Somebody is there who may speak at any time: the call goes on when all is said. Raises Attended."""
        self._programme.attend()
        self.deliver(Resumed())

    def leave(self) -> None:
        """Whoever was there has left: when all is said, the script says what is next."""
        self._programme.leave()

    def withdraw(self, passage: Passage) -> None:
        """Say no more of that."""
        self._programme.drop(passage)

    def follow(self, changed: Callable[[], None]) -> None:
        """Have it called whenever the state has changed."""
        self._followers += (changed,)

    def unfollow(self, changed: Callable[[], None]) -> None:
        """Have it called no longer."""
        self._followers = tuple(follower for follower in self._followers if follower != changed)

    @property
    def media(self) -> Media | None:
        """Its audio, once it is up; None before, and when it is over."""
        return self._media if self.state in CONVERSING else None

    async def record(self, *, max_s: float | None = None) -> Recording:
        """Record both sides from now on; the end of the call is that of the recording.

        Raises what `Recorder.start` does, and sip.LocalProtocolError when the call is not up.
        """
        if self.media is None:
            raise sip.LocalProtocolError("the call is not up")
        recording = await self._means.recorder.start(self.detail.id, self.media.ear, max_s=max_s)
        self.detail.recordings.append(recording)
        return recording

    def _tape(self, media: Media) -> None:
        """Record the call from its first sample on; it goes on without a recording if there cannot be any."""
        try:
            self.detail.recordings.append(self._means.recorder.begin(self.detail.id, media.ear))
        except RecordingError as error:
            self._log.error("the call is not recorded", reason=str(error))

    def hold(self, *, held: bool) -> asyncio.Future[int | None]:
        """Put the peer on hold, or take it off: see `Hold.propose`."""
        if self.media is None:
            raise sip.LocalProtocolError("the call is not up")
        return self._hold.propose(self._means.signalling, self.id, self.media, held=held)

    async def be_silent(self) -> None:
        """Drop what is being said and what waits to be; returns when no more of it is sent."""
        await self._programme.silence()

    def _postpone(self, event: sip.Requested) -> None:
        self._means.signalling.respond(event.request, 480)

    def _note(self, event: Input) -> None:
        """Nothing but the state changes."""

    def _renegotiate(self, event: sip.Reoffered) -> None:
        self._exchange(event.call, event.request)

    def _agree(self, event: sip.Answered) -> None:
        if self._accept(event.response.body):
            self._hold.answered()

    def _disagree(self, event: sip.Refused) -> None:
        self._hold.refused(event.response.status)

    def _take_over(self, event: sip.Offered) -> None:
        self._hold.over()
        if self._exchange(event.call, event.request):
            self._log.info("call replaced", by=event.request.call_id)
            old, self.id = self.id, event.call
            self._moved(old, self)

    def _exchange(self, call: str, request: sip.Request) -> bool:
        """Answer an INVITE with what it makes of the media; False if it is refused."""
        assert self._media is not None, "a call is answered with its media"
        return answer_anew(self._means.signalling, call, request, self._media, self._log)

    def _settle(self, event: sip.Confirmed) -> None:
        """The ACK to a later INVITE: it brings the answer if that had no offer."""
        if not self._tally.confirmed:
            self._talk(event)
        elif event.body:
            self._accept(event.body)

    def _go_on(self, event: Stranded) -> None:
        if self._programme.idle:
            self.deliver(Spoken(self._programme.turn))

    def _hang_up(self, event: Input) -> None:
        match event:
            case rtp.MediaTimeout(silent_ms=silent_ms):
                self._log.info("the caller's media stopped", silent_ms=silent_ms)
            case Expired():
                self._log.info("the call lasted as long as sip.max_call_s allows")
        self.detail.hang_up(WHY[type(event)])
        self._means.signalling.bye(self.id)

    def _drain(self, event: Drain) -> None:
        self._programme.drain()

    def _finish(self, event: sip.Ended) -> None:
        self._end = event

    def _expect(self, seconds: float, event: Input) -> None:
        self._timers.append(asyncio.get_running_loop().call_later(seconds, self.deliver, event))

    def _hear(self, event: rtp.StreamEvent) -> None:
        match event:
            case rtp.MediaTimeout():
                self.deliver(event)
            case rtp.Latched(host=host, port=port):
                self._log.debug("media come from", host=host, port=port)
            case rtp.DigitBegun():
                self.digits.press()
            case rtp.Digit():
                self.digits.key(event.digit)

    def _record(self) -> None:
        """One line that sums the call up."""
        never = "not_placed" if self.state is CallState.ENDED else "abandoned"
        cause = self._end.cause.name.lower() if self._end else never
        status = self._end.status if self._end else None
        self.detail.finish(self._end)
        facts = self._tally.finish(
            cause,
            status,
            first_sound_at=self._programme.began_at,
            media=None if self._media is None else self._media.facts(),
        )
        self.detail.first_speech_ms = self._tally.first_speech_ms
        self._log.info("call ended", cause=cause, status=status, digits=self.digits.count, **facts)


# What another dialog than the one of the moment may still bring.
OF_THE_DIALOG = (sip.Answered, sip.Confirmed, sip.Ended, sip.Refused, sip.Reoffered, sip.Requested)

# How a state is told, and why we hang up.
STANDING: Mapping[CallState, str] = {
    CallState.OFFERED: "offered",
    CallState.ORDERED: "preparing",
    CallState.CALLING: "calling",
    CallState.ANSWERED: "up",
    CallState.TALKING: "up",
    CallState.STAYING: "up",
    CallState.TRANSFERRING: "transferring",
    CallState.ENDING: "ending",
    CallState.ENDED: "ending",  # until the last packet is counted
}
WHY: Mapping[type[Input], str] = {
    Stayed: "completed",
    Departed: "transferred",
    rtp.MediaTimeout: "media_timeout",
    Expired: "max_duration",
    HangUp: "hung_up",
    Drain: "shutdown",
    Shutdown: "shutdown",
}

Action = Callable[[Call, Any], None]
NOT_UP = (CallState.OFFERED, CallState.CALLING, CallState.ENDING)
CONVERSING = (CallState.TALKING, CallState.STAYING, CallState.TRANSFERRING)
UP = (CallState.ANSWERED, *CONVERSING)

TABLE: Mapping[tuple[CallState, type[Input]], tuple[CallState, Action]] = {
    (CallState.OFFERED, Prepared): (CallState.ANSWERED, Call._answer),
    (CallState.OFFERED, Declined): (CallState.ENDING, Call._reject),
    (CallState.OFFERED, Drain): (CallState.ENDING, Call._turn_away),
    (CallState.OFFERED, Shutdown): (CallState.ENDING, Call._turn_away),
    (CallState.OFFERED, sip.Ended): (CallState.ENDED, Call._finish),
    (CallState.ORDERED, Prepared): (CallState.CALLING, Call._place),
    (CallState.ORDERED, Declined): (CallState.ENDED, Call._drop),
    (CallState.ORDERED, Drain): (CallState.ENDED, Call._forgo),
    (CallState.ORDERED, Shutdown): (CallState.ENDED, Call._forgo),
    (CallState.CALLING, Declined): (CallState.ENDED, Call._drop),
    (CallState.CALLING, sip.Progressed): (CallState.CALLING, Call._ring),
    (CallState.CALLING, sip.Reoffered): (CallState.CALLING, Call._renegotiate),
    (CallState.CALLING, sip.Answered): (CallState.TALKING, Call._connect),
    (CallState.CALLING, Drain): (CallState.CALLING, Call._cancel),
    (CallState.CALLING, Shutdown): (CallState.CALLING, Call._cancel),
    (CallState.CALLING, sip.Ended): (CallState.ENDED, Call._miss),
    (CallState.ANSWERED, sip.Confirmed): (CallState.TALKING, Call._talk),
    (CallState.ANSWERED, sip.Reoffered): (CallState.ANSWERED, Call._renegotiate),
    (CallState.ANSWERED, Drain): (CallState.ANSWERED, Call._drain),
    (CallState.ANSWERED, Shutdown): (CallState.ENDING, Call._hang_up),
    (CallState.ANSWERED, sip.Ended): (CallState.ENDED, Call._finish),
    (CallState.OFFERED, HangUp): (CallState.ENDING, Call._decline),
    (CallState.ORDERED, HangUp): (CallState.ENDED, Call._forgo),
    (CallState.CALLING, HangUp): (CallState.CALLING, Call._cancel),
    **{(state, HangUp): (CallState.ENDING, Call._hang_up) for state in UP},
    **{(state, sip.Answered): (state, Call._agree) for state in CONVERSING},
    **{(state, sip.Refused): (state, Call._disagree) for state in CONVERSING},
    **{(state, sip.Requested): (state, Call._serve) for state in UP},
    **{(state, sip.Offered): (state, Call._take_over) for state in UP},
    **{(state, sip.Requested): (state, Call._postpone) for state in NOT_UP},
    (CallState.ANSWERED, Resumed): (CallState.ANSWERED, Call._note),
    (CallState.TALKING, Resumed): (CallState.TALKING, Call._note),
    (CallState.STAYING, Resumed): (CallState.TALKING, Call._note),
    (CallState.TALKING, sip.Confirmed): (CallState.TALKING, Call._settle),
    (CallState.STAYING, sip.Confirmed): (CallState.STAYING, Call._settle),
    (CallState.TALKING, Spoken): (CallState.STAYING, Call._stay),
    (CallState.TALKING, sip.Reoffered): (CallState.TALKING, Call._renegotiate),
    (CallState.TALKING, rtp.MediaTimeout): (CallState.ENDING, Call._hang_up),
    (CallState.TALKING, Expired): (CallState.ENDING, Call._hang_up),
    (CallState.TALKING, Drain): (CallState.TALKING, Call._drain),
    (CallState.TALKING, Shutdown): (CallState.ENDING, Call._hang_up),
    (CallState.TALKING, sip.Ended): (CallState.ENDED, Call._finish),
    (CallState.STAYING, Stayed): (CallState.ENDING, Call._hang_up),
    (CallState.STAYING, sip.Reoffered): (CallState.STAYING, Call._renegotiate),
    (CallState.STAYING, rtp.MediaTimeout): (CallState.ENDING, Call._hang_up),
    (CallState.STAYING, Expired): (CallState.ENDING, Call._hang_up),
    (CallState.STAYING, Drain): (CallState.ENDING, Call._hang_up),
    (CallState.STAYING, Shutdown): (CallState.ENDING, Call._hang_up),
    (CallState.STAYING, sip.Ended): (CallState.ENDED, Call._finish),
    # Our BYE comes after the last NOTIFY (RFC 3515) has been answered: some phones hang for minutes otherwise.
    # A REFER may be right behind the ACK, whose event waits then.
    (CallState.ANSWERED, Referred): (CallState.TRANSFERRING, Call._note),
    (CallState.TALKING, Referred): (CallState.TRANSFERRING, Call._note),
    (CallState.STAYING, Referred): (CallState.TRANSFERRING, Call._note),
    (CallState.TRANSFERRING, Stranded): (CallState.TALKING, Call._go_on),
    (CallState.TRANSFERRING, Departed): (CallState.ENDING, Call._hang_up),
    (CallState.TRANSFERRING, sip.Confirmed): (CallState.TRANSFERRING, Call._settle),
    (CallState.TRANSFERRING, sip.Reoffered): (CallState.TRANSFERRING, Call._renegotiate),
    (CallState.TRANSFERRING, Expired): (CallState.ENDING, Call._hang_up),
    (CallState.TRANSFERRING, Drain): (CallState.TRANSFERRING, Call._drain),
    (CallState.TRANSFERRING, Shutdown): (CallState.ENDING, Call._hang_up),
    (CallState.TRANSFERRING, sip.Ended): (CallState.ENDED, Call._finish),
    (CallState.ENDING, sip.Ended): (CallState.ENDED, Call._finish),
}
