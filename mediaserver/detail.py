"""What becomes of a call, written down while it happens: the detail record, and why a call has ended in one word."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Literal

import sip
from mediaserver.passage import PassageState, Said
from mediaserver.recorder import Recorded, Recording

__all__ = ["Detail", "End", "Facts", "end_of", "outcome_of"]

Direction = Literal["inbound", "outbound"]
Party = Literal["server", "peer", "network"]

# RFC 3261 section 21 and RFC 8197; what is not here is a failure.
OUTCOMES: Mapping[int, str] = {
    **dict.fromkeys((404, 410, 414, 416, 484, 485, 604), "not_found"),
    **dict.fromkeys((401, 403, 407), "forbidden"),
    **dict.fromkeys((415, 420, 488, 606), "incompatible"),
    **dict.fromkeys((486, 600), "busy"),
    **dict.fromkeys((603, 607, 608), "declined"),
    **dict.fromkeys((502, 503, 504), "unreachable"),
    408: "no_answer",
    480: "unavailable",
    487: "cancelled",
}


def outcome_of(status: int | None) -> str:
    """A final response that is no 2xx in one word; None is none at all."""
    return "unreachable" if status is None else OUTCOMES.get(status, "failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """Why a call has ended.

    by      whose decision it was: "network" if it was nobody's
    reason  in one word
    status  of the response that ended it, and its phrase
    """

    by: Party
    reason: str
    status: int | None
    phrase: str


def end_of(ended: sip.Ended, *, answered: bool, why: str) -> End:
    """The end of a call; `why` is our reason for hanging up, if we did."""
    by: Party
    match ended.cause:
        case sip.Cause.LOCAL_BYE:
            by, reason = "server", why or "hung_up"
        case sip.Cause.REMOTE_BYE:
            by, reason = "peer", "hung_up"
        case sip.Cause.LOCAL_REJECT:
            by, reason = "server", why or outcome_of(ended.status)
        case sip.Cause.REMOTE_REJECT:
            by, reason = "peer", outcome_of(ended.status)
        case sip.Cause.LOCAL_CANCEL:
            by, reason = "server", "cancelled"
        case sip.Cause.REMOTE_CANCEL:
            by, reason = "peer", "cancelled"
        case sip.Cause.NO_ANSWER:
            by, reason = "peer", "no_answer"
        case _:
            by, reason = "network", "lost" if answered else "unreachable"
    return End(by=by, reason=reason, status=ended.status, phrase=ended.reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of a call at one time; `media` is None until it has any, `end` until it has ended.

    Its times are those of one clock, whatever becomes of the machine's meanwhile: that of `created_at`, going on.

    sip_call_id   None until there is one; traceparent: of whoever ordered it, as it was given (W3C Trace Context)
    confirmed_at  from when on there are media: the ACK of a call that came, the answer to one that we placed
    held    the peer is, by us; paused: our speech is; digits: how many came, which is no secret
    """

    id: str
    sip_call_id: str | None
    traceparent: str | None
    direction: Direction
    caller: str
    callee: str
    source: str
    trunk: str | None
    state: str
    created_at: datetime
    ringing_at: datetime | None
    answered_at: datetime | None
    confirmed_at: datetime | None
    ended_at: datetime | None
    end: End | None
    held: bool
    paused: bool
    digits: int
    first_speech_ms: float | None
    media: Mapping[str, int | float | str] | None
    speech: tuple[Said, ...]
    recordings: tuple[Recorded, ...]


class Detail:
    """The detail record of one call.

    publish  is told what has happened: kind, id and facts

    id          by which the API knows it: not the agent's key, since whoever knows that may take the call over
                (RFC 3891)
    sip_call_id  its SIP Call-ID, once there is one
    why         our reason for hanging up; the first one counts
    recordings  of it, in the order in which they began
    """

    __slots__ = (
        "_answered_at",
        "_began",
        "_callee",
        "_caller",
        "_confirmed_at",
        "_created_at",
        "_direction",
        "_end",
        "_ended_at",
        "_publish",
        "_ringing_at",
        "_source",
        "_traceparent",
        "_trunk",
        "_why",
        "first_speech_ms",
        "id",
        "recordings",
        "sip_call_id",
    )

    def __init__(
        self,
        direction: Direction,
        *,
        caller: sip.Uri,
        callee: sip.Uri,
        source: str,
        trunk: str | None,
        sip_call_id: str | None,
        traceparent: str | None,
        publish: Callable[[str, str, Mapping[str, object]], None],
    ) -> None:
        self.id = f"call_{secrets.token_hex(12)}"
        self._direction: Direction = direction
        self._caller = _address(caller)
        self._callee = _address(callee)
        self._source = source
        self._trunk = trunk
        self.sip_call_id = sip_call_id
        self._traceparent = traceparent
        self._created_at = datetime.now(UTC)
        self._began = time.monotonic()
        self._ringing_at: datetime | None = None
        self._answered_at: datetime | None = None
        self._confirmed_at: datetime | None = None
        self._ended_at: datetime | None = None
        self._why = ""
        self._end: End | None = None
        self.first_speech_ms: float | None = None
        self.recordings: list[Recording] = []
        self._publish = publish
        self._tell("call.created", direction=direction, **{"from": self._caller, "to": self._callee, "trunk": trunk})

    @property
    def ringing(self) -> bool:
        return self._ringing_at is not None

    def ring(self) -> None:
        """The other side says that it rings."""
        if self._ringing_at is None:
            self._ringing_at = self._now()
            self._tell("call.ringing")

    def answer(self) -> None:
        """The call is up."""
        if self._answered_at is None:
            self._answered_at = self._now()
            self._tell("call.answered")

    def confirm(self) -> None:
        """There are media from now on."""
        self._confirmed_at = self._now()

    def speak(self, said: Said) -> None:
        """Something that it says has begun or ended."""
        kind = "speech.started" if said.state is PassageState.SPEAKING else "speech.ended"
        by = {} if said.barged_in_by is None else {"barged_in_by": said.barged_in_by.value}
        self._tell(kind, id=said.id, state=said.state.value, spoken_ms=said.spoken_ms, **by)

    def falter(self, step: int, reason: str) -> None:
        """The webhook that conducts it has not done its part."""
        self._tell("dialogue.failed", step=step, reason=reason)

    def mark(self, said: Said) -> None:
        """It has come to a mark in what it says."""
        self._tell("speech.mark", id=said.id, mark=said.last_mark, spoken_ms=said.spoken_ms)

    def hang_up(self, why: str) -> None:
        """We want the call to end, and why."""
        self._why = self._why or why

    def fail(self, status: int, phrase: str) -> None:
        """It could not be placed."""
        self._end = End(by="server", reason=self._why or outcome_of(status), status=status, phrase=phrase)

    def finish(self, ended: sip.Ended | None) -> None:
        """It is over; None if the agent did not say so."""
        self._ended_at = self._now()
        if ended is not None:
            self._end = end_of(ended, answered=self._answered_at is not None, why=self._why)
        elif self._end is None:
            self._end = End(by="server", reason="failed", status=None, phrase="")
        assert self._end is not None, "every branch gives one"
        end = self._end
        told = {"reason": end.reason, "by": end.by, "sip_status": end.status, "sip_reason": end.phrase}
        self._tell("call.ended", end=told)

    def _now(self) -> datetime:
        """A clock that is set while the call lasts would have it last an hour longer, or end before it began."""
        return self._created_at + timedelta(seconds=time.monotonic() - self._began)

    def _tell(self, kind: str, **facts: object) -> None:
        self._publish(kind, self.id, facts)

    def facts(
        self,
        *,
        state: str,
        held: bool,
        paused: bool,
        digits: int,
        media: Mapping[str, int | float | str] | None,
        speech: tuple[Said, ...],
    ) -> Facts:
        return Facts(
            id=self.id,
            sip_call_id=self.sip_call_id,
            traceparent=self._traceparent,
            direction=self._direction,
            caller=self._caller,
            callee=self._callee,
            source=self._source,
            trunk=self._trunk,
            state="ended" if self._ended_at is not None else state,
            created_at=self._created_at,
            ringing_at=self._ringing_at,
            answered_at=self._answered_at,
            confirmed_at=self._confirmed_at,
            ended_at=self._ended_at,
            end=self._end,
            held=held,
            paused=paused,
            digits=digits,
            first_speech_ms=self.first_speech_ms,
            media=media,
            speech=speech,
            recordings=tuple(recording.facts for recording in self.recordings),
        )


def _address(uri: sip.Uri) -> str:
    """Without what is nobody's business (a password) or no part of the address."""
    return str(replace(uri, password=None, headers=()))
