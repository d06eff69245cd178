"""What a call does that a webhook conducts: a table, without I/O and without a clock.

The webhook answers with verbs, which are done one after the other; some of them end an answer, and what came of them is
told to the webhook, whose next answer goes on. `receive` takes what happens, `next_effect` says what is to be done.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from yarl import URL

import http_api

__all__ = [
    "Ask",
    "Dialogue",
    "Effect",
    "FallBack",
    "HangUp",
    "Hush",
    "Input",
    "Keyed",
    "Notify",
    "Record",
    "Recorded",
    "Refer",
    "Reject",
    "State",
    "Stay",
    "StopRecording",
    "Told",
    "Transferred",
    "Unanswered",
    "Unsayable",
    "Up",
    "Utter",
    "Uttered",
]

# More is no dialogue with a person: a programme goes round in circles.
MOST_ASKED = 500
MOST_ASKED_IN_SILENCE = 10
MOST_AHEAD = 32


class State(enum.Enum):
    ASKING = "asking"
    CHOOSING = "choosing"
    WAITING = "waiting"
    UTTERING = "uttering"
    PROMPTING = "prompting"
    COLLECTING = "collecting"
    PAUSING = "pausing"
    TRANSFERRING = "transferring"
    RECORDING = "recording"
    OVER = "over"


# What happens.


@dataclass(frozen=True, slots=True)
class Told:
    """The webhook has answered."""

    verbs: tuple[http_api.Verb, ...]


@dataclass(frozen=True, slots=True)
class Unanswered:
    """The webhook has not answered, or not as it should."""

    reason: str


@dataclass(frozen=True, slots=True)
class Up:
    """The call is up, and the peer hears it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Uttered:
    """What the Utter of that number asked for is over; `heard`: there was something to hear of it."""

    number: int
    heard: bool = True
    barged_in_by: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsayable:
    """What the Utter of that number asked for cannot be said."""

    number: int
    reason: str


@dataclass(frozen=True, slots=True)
class Keyed:
    """The peer has pressed a key."""

    digit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Transferred:
    """It is known what became of a transfer; `reason` is the phrase of `status`, if there is one."""

    outcome: Literal["succeeded", "failed", "unknown"]
    status: int | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """A recording has ended, or did not begin: then its id is None, and `error` says why."""

    id: str | None
    duration_ms: int
    ended_by: Literal["max_duration", "stopped", "call_ended", "no_space", "failed"]
    error: str | None = None


@dataclass(frozen=True, slots=True)
class _Elapsed:
    """The time is over that the state lasts."""


@dataclass(frozen=True, slots=True)
class _Prompted:
    """All prompts are said, or none is wanted any more."""


@dataclass(frozen=True, slots=True)
class _Gathered:
    """That is all that will be keyed in this attempt, and why."""

    ended_by: Literal["finish_key", "max_digits", "inter_digit_timeout", "first_digit_timeout"]


@dataclass(frozen=True, slots=True)
class _Again:
    """It is to be asked again."""


@dataclass(frozen=True, slots=True)
class _Done:
    """There is no further verb."""


Input = Told | Unanswered | Up | Uttered | Unsayable | Keyed | Transferred | Recorded

# What is to be done.


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """Ask the webhook there, and tell it the result of what came before."""

    url: str
    result: http_api.Result | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Notify:
    """The same, but nobody waits for the answer."""

    url: str
    result: http_api.Result


@dataclass(frozen=True, slots=True, kw_only=True)
class Utter:
    """Say or play it."""

    number: int
    verb: http_api.SayVerb | http_api.PlayVerb


@dataclass(frozen=True, slots=True)
class Hush:
    """Say no more of what was to be uttered last."""


@dataclass(frozen=True, slots=True)
class Refer:
    """Have the peer call somebody else."""

    to: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Record both sides; `told`: the dialogue wants to hear of its end."""

    max_s: float
    told: bool


@dataclass(frozen=True, slots=True)
class StopRecording:
    """End the recording."""


@dataclass(frozen=True, slots=True)
class Reject:
    """Do not answer the call. The dialogue is over."""

    status: int


@dataclass(frozen=True, slots=True)
class Stay:
    """Leave the call to others; after so long without a word it is hung up. The dialogue is over."""

    seconds: float


@dataclass(frozen=True, slots=True)
class HangUp:
    """End the call, as soon as the last word is heard. The dialogue is over."""


@dataclass(frozen=True, slots=True)
class FallBack:
    """Say what was meant for this case, and end as it says. The dialogue is over."""

    reason: str


Effect = Ask | Notify | Utter | Hush | Refer | Record | StopRecording | Reject | Stay | HangUp | FallBack


class Dialogue:
    """The dialogue of one call with the webhook at `url`, and with those that it leads to.

    asks_first  the webhook is asked before the call is answered, and may have it rejected; otherwise when it is up
    """

    def __init__(self, url: str, *, asks_first: bool) -> None:
        self.state = State.CHOOSING if asks_first else State.WAITING
        self._url = url
        self._next: str | None = None
        self._up = False
        self._verbs: deque[http_api.Verb] = deque([http_api.RedirectVerb(verb="redirect", url=url)])
        self._inputs: deque[object] = deque()
        self._effects: deque[Effect] = deque()
        self._until: float | None = None
        self._asked = 0
        self._asked_in_silence = 0
        self._uttered = 0
        self._ahead = ""
        self._pressed = False
        self._gather = NO_GATHER
        self._prompts: deque[http_api.SayVerb | http_api.PlayVerb] = deque()
        self._attempt = 0
        self._digits = ""
        self._spare_key = ""
        self._finish_key = ""
        self._finished = False
        if asks_first:
            self._then(self._verbs.popleft())
            self._run(0.0)  # no time is set before there is an answer

    @property
    def over(self) -> bool:
        """Whether nothing more comes of it than the effects that there are."""
        return self.state is State.OVER

    def receive(self, event: Input, now: float) -> None:
        """Something has happened."""
        if isinstance(event, Up):
            self._up = True
        elif isinstance(event, Keyed):
            self._pressed = False
        self._inputs.append(event)
        self._run(now)

    def handle_timer(self, now: float) -> None:
        """It is `now`."""
        if self._until is not None and now >= self._until:
            self._until = None
            self._inputs.append(_Elapsed())
            self._run(now)

    def wake_at(self) -> float | None:
        """When `handle_timer` wants to be called."""
        return self._until

    def next_effect(self) -> Effect | None:
        """What is to be done next."""
        return self._effects.popleft() if self._effects else None

    def _run(self, now: float) -> None:
        while self._inputs:
            event = self._inputs.popleft()
            row = TABLE.get((self.state, type(event)))
            if row is None or self._is_stale(event):
                continue
            before, (self.state, act) = self.state, row
            if self.state is not before:
                self._until = None
            act(self, event, now)

    def _is_stale(self, event: object) -> bool:
        return isinstance(event, Uttered | Unsayable) and event.number != self._uttered

    def _then(self, event: object) -> None:
        """What has been found out decides what comes next, before anything else that has happened."""
        self._inputs.appendleft(event)

    # The actions of the table.

    def _begin(self, event: Told, now: float) -> None:
        self._verbs = deque(event.verbs)
        if self._verbs and isinstance(self._verbs[0], http_api.RejectVerb) and (self._up or self._uttered):
            self._then(Unanswered("0: a call that is answered cannot be rejected any more"))
        else:
            self._choose(event, now)

    def _choose(self, event: object, now: float) -> None:
        """The next verb decides. Before the call is up it can be spoken into, and nothing else."""
        verb = self._verbs[0] if self._verbs else None
        early = isinstance(verb, http_api.SayVerb | http_api.PlayVerb | http_api.RedirectVerb | http_api.RejectVerb)
        if not (self._up or early):
            self.state = State.WAITING
        elif verb is None:
            self._then(_Done())
        else:
            self._then(self._verbs.popleft())

    def _go_on(self, event: Uttered, now: float) -> None:
        if event.heard:
            self._asked_in_silence = 0
        # It broke in when the key went down; which one it is comes when it is up again.
        self._pressed = event.barged_in_by == "dtmf" and not self._ahead
        # As a queue of the API's: what the peer broke in on takes with it what it may break in on likewise.
        while event.barged_in_by and self._verbs:
            verb = self._verbs[0]
            if not isinstance(verb, http_api.SayVerb | http_api.PlayVerb) or event.barged_in_by not in verb.barge_in:
                break
            self._verbs.popleft()
        self._choose(event, now)

    def _utter(self, event: http_api.SayVerb | http_api.PlayVerb, now: float) -> None:
        self._uttered += 1
        self._effects.append(Utter(number=self._uttered, verb=event))

    def _redirect(self, event: http_api.RedirectVerb, now: float) -> None:
        self._ask(event.url, None)

    def _pause(self, event: http_api.PauseVerb, now: float) -> None:
        self._until = now + event.duration_ms / 1000

    def _refer(self, event: http_api.TransferVerb, now: float) -> None:
        self._next = event.next
        self._effects.append(Refer(event.to))

    def _tell_transfer(self, event: Transferred, now: float) -> None:
        result = http_api.TransferResult(
            verb="transfer", outcome=event.outcome, sip_status=event.status, sip_reason=event.reason
        )
        if event.outcome == "succeeded":
            self.state = State.OVER
            self._effects.append(Notify(url=self._resolved(self._next), result=result))
        else:
            self._ask(self._next, result)

    def _record(self, event: http_api.RecordVerb, now: float) -> None:
        self._effects.append(Record(max_s=event.max_s, told=not event.background))
        self._next, self._finish_key, self._finished = event.next, event.finish_key, False
        if event.background:
            self.state = State.CHOOSING
            self._choose(event, now)

    def _stop_recording(self, event: Keyed, now: float) -> None:
        if event.digit == self._finish_key and not self._finished:
            self._finished = True
            self._effects.append(StopRecording())

    def _tell_recording(self, event: Recorded, now: float) -> None:
        self._asked_in_silence = 0 if event.duration_ms else self._asked_in_silence
        by_key = self._finished and event.ended_by == "stopped"
        result = http_api.RecordResult(
            verb="record",
            recording_id=event.id,
            duration_ms=event.duration_ms,
            ended_by="finish_key" if by_key else event.ended_by,
            error=event.error,
        )
        if event.ended_by == "call_ended":
            self.state = State.OVER
            self._effects.append(Notify(url=self._resolved(self._next), result=result))
        else:
            self._ask(self._next, result)

    def _reject(self, event: http_api.RejectVerb, now: float) -> None:
        self._effects.append(Reject(event.status))

    def _stay(self, event: http_api.StayVerb, now: float) -> None:
        self._effects.append(Stay(event.seconds))

    def _hang_up(self, event: object, now: float) -> None:
        self._effects.append(HangUp())

    def _fall_back(self, event: Unanswered | Unsayable, now: float) -> None:
        self._effects.append(FallBack(event.reason))

    def _look_ahead(self, event: Keyed, now: float) -> None:
        """Nobody has asked yet."""
        self._asked_in_silence = 0
        if event.digit in http_api.KEYS and event.digit != self._spare_key:
            self._ahead = (self._ahead + event.digit)[:MOST_AHEAD]
        self._spare_key = ""

    def _ask(self, reference: str | None, result: http_api.Result | None) -> None:
        self._until = None
        if self._asked >= MOST_ASKED or self._asked_in_silence >= MOST_ASKED_IN_SILENCE:
            self._then(Unanswered("it goes round in circles: too many answers, or too many in a row without a sound"))
            return
        self._url = self._resolved(reference)
        self._effects.append(Ask(url=self._url, result=result))
        self._asked += 1
        self._asked_in_silence += 1

    def _resolved(self, reference: str | None) -> str:
        return self._url if reference is None else str(URL(self._url).join(URL(reference)))

    # Digits.

    def _gather_digits(self, event: http_api.GatherVerb, now: float) -> None:
        self._gather, self._attempt, self._next = event, 0, event.next
        if not event.type_ahead:
            self._ahead = self._spare_key = ""
        self._prompt(event, now)

    def _prompt(self, event: object, now: float) -> None:
        """Begin an attempt."""
        gather, self._digits = self._gather, ""
        self._attempt += 1
        again = self._attempt > 1 and gather.retry_prompts is not None
        self._prompts = deque((gather.retry_prompts or ()) if again else gather.prompts)
        ahead, self._ahead = self._ahead, ""
        pressed, self._pressed = self._pressed and gather.type_ahead, False
        if ahead or pressed:
            # What was keyed before it was asked answers it.
            self._then(_Prompted())
            for digit in ahead:
                self._inputs.append(Keyed(digit))
        else:
            self._prompt_on(event, now)

    def _prompt_on(self, event: object, now: float) -> None:
        if isinstance(event, Uttered) and event.heard:
            self._asked_in_silence = 0
        if not self._prompts or (isinstance(event, Uttered) and event.barged_in_by == "dtmf"):
            self._then(_Prompted())
            return
        barge_in: tuple[Literal["dtmf", "speech"], ...] = ("dtmf",) if self._gather.barge_in else ()
        prompt = self._prompts.popleft()
        self._utter(prompt.model_copy(update={"barge_in": barge_in}), now)

    def _break_in(self, event: Keyed, now: float) -> None:
        if self._gather.barge_in and not self._is_spare(event.digit):
            self._effects.append(Hush())
            self._uttered += 1  # what was hushed tells of its end yet
            self._then(event)
            self._then(_Prompted())

    def _collect(self, event: object, now: float) -> None:
        self._until = now + self._gather.first_digit_timeout_ms / 1000

    def _take(self, event: Keyed, now: float) -> None:
        gather, digit = self._gather, event.digit
        if digit not in http_api.KEYS or self._is_spare(digit):
            return
        self._asked_in_silence = 0
        if digit == gather.finish_key:
            self._then(_Gathered("finish_key"))
            return
        self._digits += digit
        self._until = now + gather.inter_digit_timeout_ms / 1000
        if len(self._digits) == gather.max_digits:
            # Who ends the digits by habit is not to end the next ones so.
            self._spare_key = gather.finish_key
            self._then(_Gathered("max_digits"))

    def _is_spare(self, digit: str) -> bool:
        spare, self._spare_key = self._spare_key, ""
        return bool(spare) and digit == spare

    def _run_out(self, event: _Elapsed, now: float) -> None:
        self._then(_Gathered("inter_digit_timeout" if self._digits else "first_digit_timeout"))

    def _judge(self, event: _Gathered, now: float) -> None:
        gather = self._gather
        complete = len(self._digits) >= gather.min_digits
        if not complete and self._attempt < gather.attempts:
            self._then(_Again())
            return
        self.state = State.ASKING
        self._ask(
            self._next,
            http_api.GatherResult(
                verb="gather",
                outcome="complete" if complete else "incomplete" if self._digits else "no_input",
                digits=self._digits,
                ended_by=event.ended_by,
                attempts=self._attempt,
            ),
        )
        self._digits = ""


NO_GATHER = http_api.GatherVerb(verb="gather")
Action = Callable[[Dialogue, Any, float], None]
UNBIDDEN = (State.ASKING, State.WAITING, State.UTTERING, State.PAUSING)

TABLE: Mapping[tuple[State, type[object]], tuple[State, Action]] = {
    (State.ASKING, Told): (State.CHOOSING, Dialogue._begin),
    (State.ASKING, Unanswered): (State.OVER, Dialogue._fall_back),
    (State.CHOOSING, Unanswered): (State.OVER, Dialogue._fall_back),
    (State.CHOOSING, http_api.SayVerb): (State.UTTERING, Dialogue._utter),
    (State.CHOOSING, http_api.PlayVerb): (State.UTTERING, Dialogue._utter),
    (State.CHOOSING, http_api.GatherVerb): (State.PROMPTING, Dialogue._gather_digits),
    (State.CHOOSING, http_api.PauseVerb): (State.PAUSING, Dialogue._pause),
    (State.CHOOSING, http_api.TransferVerb): (State.TRANSFERRING, Dialogue._refer),
    (State.CHOOSING, http_api.RecordVerb): (State.RECORDING, Dialogue._record),
    (State.CHOOSING, http_api.RedirectVerb): (State.ASKING, Dialogue._redirect),
    (State.CHOOSING, http_api.RejectVerb): (State.OVER, Dialogue._reject),
    (State.CHOOSING, http_api.StayVerb): (State.OVER, Dialogue._stay),
    (State.CHOOSING, http_api.HangUpVerb): (State.OVER, Dialogue._hang_up),
    (State.CHOOSING, _Done): (State.OVER, Dialogue._hang_up),
    (State.WAITING, Up): (State.CHOOSING, Dialogue._choose),
    (State.UTTERING, Uttered): (State.CHOOSING, Dialogue._go_on),
    (State.UTTERING, Unsayable): (State.OVER, Dialogue._fall_back),
    (State.PROMPTING, Uttered): (State.PROMPTING, Dialogue._prompt_on),
    (State.PROMPTING, Unsayable): (State.OVER, Dialogue._fall_back),
    (State.PROMPTING, Keyed): (State.PROMPTING, Dialogue._break_in),
    (State.PROMPTING, _Prompted): (State.COLLECTING, Dialogue._collect),
    (State.COLLECTING, Keyed): (State.COLLECTING, Dialogue._take),
    (State.COLLECTING, _Elapsed): (State.COLLECTING, Dialogue._run_out),
    (State.COLLECTING, _Gathered): (State.COLLECTING, Dialogue._judge),
    (State.COLLECTING, _Again): (State.PROMPTING, Dialogue._prompt),
    (State.PAUSING, _Elapsed): (State.CHOOSING, Dialogue._choose),
    (State.TRANSFERRING, Transferred): (State.ASKING, Dialogue._tell_transfer),
    (State.RECORDING, Keyed): (State.RECORDING, Dialogue._stop_recording),
    (State.RECORDING, Recorded): (State.ASKING, Dialogue._tell_recording),
    **{(state, Keyed): (state, Dialogue._look_ahead) for state in UNBIDDEN},
}
