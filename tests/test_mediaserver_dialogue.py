"""The table of dialogues: verbs, digits and time in, effects out, without a call, a webhook or a clock."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import http_api
from mediaserver.dialogue import (
    MOST_AHEAD,
    MOST_ASKED,
    MOST_ASKED_IN_SILENCE,
    TABLE,
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
    State,
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

URL = "https://ivr.example/start"
LIMITS = http_api.ApiLimits()


def verbs(*items: dict[str, Any]) -> Told:
    """An answer, read as it comes over the wire."""
    return Told(http_api.read_verbs(json.dumps(items).encode(), LIMITS))


def say(text: str = "a", **fields: Any) -> dict[str, Any]:
    return {"verb": "say", "text": text} | fields


def gather(**fields: Any) -> dict[str, Any]:
    return {"verb": "gather"} | fields


class Line:
    """A dialogue, a clock, and whatever it wants done."""

    def __init__(self, *answer: dict[str, Any], up: bool = True, asks_first: bool = True) -> None:
        self.now = 100.0
        self.dialogue = Dialogue(URL, asks_first=asks_first)
        self.first = self.effects()
        if answer or asks_first:
            self.receive(verbs(*answer))
        if up:
            self.receive(Up())

    def effects(self) -> list[Effect]:
        found = []
        while (effect := self.dialogue.next_effect()) is not None:
            found.append(effect)
        return found

    def receive(self, *inputs: Input) -> None:
        for one in inputs:
            self.dialogue.receive(one, self.now)

    def key(self, digits: str) -> None:
        self.receive(*map(Keyed, digits))

    def wait(self, seconds: float) -> None:
        """Let time pass, with every timer on its time."""
        end = self.now + seconds
        while (wake_at := self.dialogue.wake_at()) is not None and wake_at <= end:
            self.now = wake_at
            self.dialogue.handle_timer(self.now)
        self.now = end

    def gathered(self) -> tuple[str, str, str, int]:
        """The result that the webhook is told now, and nothing else."""
        (ask,) = self.effects()
        assert isinstance(ask, Ask)
        assert isinstance(ask.result, http_api.GatherResult)
        return ask.result.outcome, ask.result.digits, ask.result.ended_by, ask.result.attempts


def texts(effects: Sequence[Effect]) -> list[str]:
    return [str(effect.verb.text) for effect in effects if isinstance(effect, Utter) if effect.verb.verb == "say"]


def test_every_state_can_reach_the_end_and_every_row_starts_where_one_can_be() -> None:
    after = {state: {to for (at, _), (to, _) in TABLE.items() if at is state} for state in State}
    after[State.COLLECTING].add(State.ASKING)  # which what was gathered decides
    ends = {State.OVER}
    for _ in State:
        ends |= {state for state in State if after[state] & ends}
    assert ends == set(State)
    assert {state for (state, _) in TABLE} == set(State) - {State.OVER}


def test_the_webhook_is_asked_at_once_when_it_may_reject_and_else_when_the_call_is_up() -> None:
    assert Line(up=False).first == [Ask(url=URL)]
    line = Line(up=False, asks_first=False)
    assert line.first == []
    line.receive(Up())
    assert line.effects() == [Ask(url=URL)]


def test_verbs_are_done_one_after_the_other_and_then_it_hangs_up() -> None:
    line = Line(say("one"), say("two"))
    assert texts(line.effects()) == ["one"]
    line.receive(Uttered(number=1))
    assert texts(line.effects()) == ["two"]
    line.receive(Uttered(number=1))
    assert line.effects() == [], "that was over already"
    line.receive(Uttered(number=2))
    assert line.effects() == [HangUp()]
    assert line.dialogue.state is State.OVER


def test_before_the_call_is_up_it_can_be_spoken_into_and_nothing_else() -> None:
    line = Line(say(), {"verb": "pause", "duration_ms": 1000}, say("b"), up=False)
    assert texts(line.effects()) == ["a"]
    line.receive(Uttered(number=1))
    line.wait(60)
    assert line.effects() == []
    line.receive(Up())
    line.wait(0.99)
    assert line.effects() == []
    line.wait(0.02)
    assert texts(line.effects()) == ["b"]
    for last in ({"verb": "hangup"}, gather(), {"verb": "stay"}, {"verb": "transfer", "to": "sip:b@example.com"}):
        line = Line(last, up=False)
        line.wait(60)
        assert line.effects() == []
        assert line.dialogue.state is State.WAITING


@pytest.mark.parametrize("answer", [b"", b" \n", b"[]", b'[{"verb": "hangup"}]'])
def test_an_answer_without_a_verb_hangs_up(answer: bytes) -> None:
    line = Line(up=False, asks_first=False)
    line.receive(Up())
    line.receive(Told(http_api.read_verbs(answer, LIMITS)))
    assert line.effects()[1:] == [HangUp()]


def test_a_call_that_is_not_answered_may_be_rejected_by_whoever_is_asked_first_or_next() -> None:
    line = Line({"verb": "reject", "status": 486}, up=False)
    assert line.effects() == [Reject(486)]
    assert line.dialogue.state is State.OVER
    line = Line({"verb": "redirect", "url": "/b"}, up=False)
    line.receive(verbs({"verb": "reject"}))
    assert line.effects()[1:] == [Reject(603)]


@pytest.mark.parametrize("asks_first", [True, False])
def test_a_call_that_is_answered_cannot_be_rejected(asks_first: bool) -> None:
    line = Line(say(), {"verb": "redirect", "url": "/b"}) if asks_first else Line(asks_first=False)
    line.receive(Uttered(number=1))
    line.effects()
    line.receive(verbs({"verb": "reject"}))
    (fallen,) = line.effects()
    assert isinstance(fallen, FallBack)
    assert "rejected" in fallen.reason


def test_a_stay_ends_the_dialogue_and_not_the_call() -> None:
    line = Line(say(), {"verb": "stay", "seconds": 5.0})
    line.effects()
    line.receive(Uttered(number=1))
    assert line.effects() == [Stay(5.0)]
    assert line.dialogue.state is State.OVER


@pytest.mark.parametrize(
    ("reference", "url"),
    [
        ("/menu", "https://ivr.example/menu"),
        ("menu?x=1", "https://ivr.example/menu?x=1"),
        ("https://b.example/", "https://b.example/"),
        ("?again", "https://ivr.example/start?again"),
    ],
)
def test_a_redirect_leads_on_and_what_follows_is_relative_to_it(reference: str, url: str) -> None:
    line = Line({"verb": "redirect", "url": reference})
    assert line.effects() == [Ask(url=url)]
    line.receive(verbs({"verb": "redirect", "url": "next"}))
    (ask,) = line.effects()
    assert isinstance(ask, Ask)
    assert ask.url.startswith(url.rpartition("/")[0])
    assert ask.url.endswith("/next")


def test_no_answer_and_what_cannot_be_said_fall_back() -> None:
    line = Line(up=False, asks_first=False)
    line.receive(Up(), Unanswered("it sleeps"))
    assert line.effects()[-1] == FallBack("it sleeps")
    for answer in (say(), gather(prompts=[say()])):
        line = Line(answer)
        line.effects()
        line.receive(Unsayable(number=1, reason="no voice"))
        assert line.effects() == [FallBack("no voice")]
        assert line.dialogue.state is State.OVER


def test_a_loop_without_a_sound_falls_back_and_one_with_speech_goes_on() -> None:
    line = Line({"verb": "redirect", "url": URL})
    for _ in range(MOST_ASKED_IN_SILENCE - 2):
        assert isinstance(line.effects()[0], Ask)
        line.receive(verbs({"verb": "redirect", "url": URL}))
    assert isinstance(line.effects()[0], Ask)
    line.receive(verbs({"verb": "redirect", "url": URL}))
    (fallen,) = line.effects()
    assert isinstance(fallen, FallBack)
    assert "in circles" in fallen.reason

    line, asked = Line(say(), {"verb": "redirect", "url": URL}), 1
    while not isinstance(effect := line.effects()[0], FallBack):
        if isinstance(effect, Ask):
            asked += 1
            line.receive(verbs(say(), {"verb": "redirect", "url": URL}))
        elif isinstance(effect, Utter):
            line.receive(Uttered(number=effect.number))
    assert asked == MOST_ASKED


def test_words_that_make_no_sound_do_not_hide_a_loop() -> None:
    line, asked = Line(say(), {"verb": "redirect", "url": URL}), 1
    while not isinstance(effect := line.effects()[0], FallBack):
        if isinstance(effect, Ask):
            asked += 1
            line.receive(verbs(say(), {"verb": "redirect", "url": URL}))
        elif isinstance(effect, Utter):
            line.receive(Uttered(number=effect.number, heard=False))
    assert asked == MOST_ASKED_IN_SILENCE


@pytest.mark.parametrize("outcome", ["failed", "unknown"])
def test_a_transfer_that_does_not_succeed_is_told_and_goes_on(outcome: Any) -> None:
    line = Line({"verb": "transfer", "to": "sip:b@example.com", "next": "/after"})
    assert line.effects() == [Refer("sip:b@example.com")]
    line.receive(Transferred(outcome=outcome, status=486, reason="Busy Here"))
    result = http_api.TransferResult(verb="transfer", outcome=outcome, sip_status=486, sip_reason="Busy Here")
    assert line.effects() == [Ask(url="https://ivr.example/after", result=result)]
    line.receive(verbs(say()))
    assert texts(line.effects()) == ["a"]


def test_a_transfer_that_succeeds_is_told_and_is_the_end() -> None:
    line = Line({"verb": "transfer", "to": "sip:b@example.com"})
    line.effects()
    line.receive(Transferred(outcome="succeeded", status=200, reason="OK"))
    result = http_api.TransferResult(verb="transfer", outcome="succeeded", sip_status=200, sip_reason="OK")
    assert line.effects() == [Notify(url=URL, result=result)]
    assert line.dialogue.state is State.OVER


def recorded(ended_by: str, **fields: Any) -> http_api.RecordResult:
    told = {"recording_id": "rec_1", "duration_ms": 900, "error": None, "ended_by": ended_by} | fields
    return http_api.RecordResult.model_validate({"verb": "record"} | told)


def test_a_recording_ends_with_its_key_and_is_told() -> None:
    line = Line({"verb": "record", "max_s": 60.0, "finish_key": "*", "next": "/kept"})
    assert line.effects() == [Record(max_s=60.0, told=True)]
    line.key("1#**")
    assert line.effects() == [StopRecording()]
    line.receive(Recorded(id="rec_1", duration_ms=900, ended_by="stopped"))
    assert line.effects() == [Ask(url="https://ivr.example/kept", result=recorded("finish_key"))]


@pytest.mark.parametrize("ended_by", ["max_duration", "stopped", "no_space"])
def test_a_recording_that_ends_by_itself_is_told(ended_by: Any) -> None:
    line = Line({"verb": "record"})
    line.effects()
    line.receive(Recorded(id="rec_1", duration_ms=900, ended_by=ended_by))
    assert line.effects() == [Ask(url=URL, result=recorded(ended_by))]


def test_a_recording_that_does_not_begin_is_told_and_why() -> None:
    line = Line({"verb": "record"})
    line.effects()
    line.receive(Recorded(id=None, duration_ms=0, ended_by="failed", error="off"))
    result = recorded("failed", recording_id=None, duration_ms=0, error="off")
    assert line.effects() == [Ask(url=URL, result=result)]


def test_a_recording_that_the_caller_ends_by_hanging_up_is_told_and_is_the_end() -> None:
    line = Line({"verb": "record"})
    line.effects()
    line.receive(Recorded(id="rec_1", duration_ms=900, ended_by="call_ended"))
    assert line.effects() == [Notify(url=URL, result=recorded("call_ended"))]
    assert line.dialogue.over


def test_a_recording_in_the_background_holds_nothing_up_and_is_not_told() -> None:
    line = Line({"verb": "record", "background": True}, say())
    record, utter = line.effects()
    assert record == Record(max_s=120.0, told=False)
    assert texts([utter]) == ["a"]
    line.receive(Recorded(id="rec_1", duration_ms=900, ended_by="max_duration"))
    assert line.effects() == []


# Digits.


def test_digits_end_with_the_finish_key_which_is_none_of_them() -> None:
    line = Line(gather())
    line.key("12#")
    assert line.gathered() == ("complete", "12", "finish_key", 1)


def test_without_a_finish_key_every_key_is_a_digit() -> None:
    line = Line(gather(finish_key="", max_digits=3))
    line.key("1#*")
    assert line.gathered() == ("complete", "1#*", "max_digits", 1)


def test_so_many_digits_are_enough_and_a_finish_key_right_behind_them_is_none_of_the_next() -> None:
    line = Line(gather(max_digits=4))
    line.key("1234")
    assert line.gathered() == ("complete", "1234", "max_digits", 1)
    line.key("#")
    line.receive(verbs(gather(max_digits=2)))
    line.key("56")
    assert line.gathered() == ("complete", "56", "max_digits", 1)
    line.receive(verbs(gather(max_digits=2)))
    line.key("#")
    line.key("#")
    assert line.gathered() == ("no_input", "", "finish_key", 1), "the second one is meant"


def test_each_digit_begins_the_time_for_the_next_one() -> None:
    line = Line(gather(first_digit_timeout_ms=5000, inter_digit_timeout_ms=2000))
    line.wait(4.9)
    line.key("1")
    line.wait(1.9)
    line.key("2")
    line.wait(1.9)
    assert line.effects() == []
    line.wait(0.2)
    assert line.gathered() == ("complete", "12", "inter_digit_timeout", 1)


def test_the_time_for_the_first_digit_begins_when_the_prompts_are_said() -> None:
    line = Line(gather(prompts=[say("one"), say("two")], first_digit_timeout_ms=1000))
    assert texts(line.effects()) == ["one"]
    line.wait(30)
    line.receive(Uttered(number=1))
    assert texts(line.effects()) == ["two"]
    line.wait(30)
    line.receive(Uttered(number=2))
    line.wait(0.9)
    assert line.effects() == []
    line.wait(0.2)
    assert line.gathered() == ("no_input", "", "first_digit_timeout", 1)


def test_it_is_asked_again_with_other_prompts_until_there_are_enough_digits_or_no_attempts() -> None:
    asked = gather(prompts=[say("code")], retry_prompts=[say("again")], min_digits=4, attempts=3)
    line = Line(asked)
    assert texts(line.effects()) == ["code"]
    line.receive(Uttered(number=1))
    line.wait(5)
    assert texts(line.effects()) == ["again"]
    line.receive(Uttered(number=2))
    line.key("12#")
    assert texts(line.effects()) == ["again"]
    line.key("34#")
    assert line.effects()[:1] == [Hush()], "what is keyed while it is asked again breaks in"


def test_too_few_digits_in_the_last_attempt_are_told() -> None:
    line = Line(gather(min_digits=4, attempts=2))
    line.key("1#")
    line.key("23#")
    assert line.gathered() == ("incomplete", "23", "finish_key", 2)


def test_without_other_prompts_the_same_are_said_again_and_with_none_nothing_is() -> None:
    line = Line(gather(prompts=[say("code")], attempts=2, first_digit_timeout_ms=100))
    line.receive(Uttered(number=1))
    line.wait(0.1)
    assert texts(line.effects()) == ["code", "code"]
    line = Line(gather(prompts=[say("code")], retry_prompts=[], attempts=2, first_digit_timeout_ms=100))
    line.receive(Uttered(number=1))
    line.wait(0.2)
    assert texts(line.effects()[:-1]) == ["code"]


def test_the_first_digit_ends_the_prompts_and_counts() -> None:
    line = Line(gather(prompts=[say("one"), say("two")], max_digits=2))
    (utter,) = line.effects()
    assert isinstance(utter, Utter)
    assert utter.verb.barge_in == ("dtmf",)
    line.key("4")
    assert line.effects() == [Hush()]
    line.receive(Uttered(number=1, barged_in_by="dtmf"))
    line.key("2")
    assert line.gathered() == ("complete", "42", "max_digits", 1)


def test_a_key_that_is_down_ends_the_prompts_before_it_is_known_which_one_it_is() -> None:
    line = Line(gather(prompts=[say("one"), say("two")], max_digits=1))
    line.receive(Uttered(number=1, barged_in_by="dtmf"))
    assert texts(line.effects()) == ["one"]
    line.key("4")
    assert line.gathered() == ("complete", "4", "max_digits", 1)


def test_a_key_that_is_down_when_it_is_asked_answers_without_a_prompt_and_once_only() -> None:
    line = Line(say("welcome", barge_in=["dtmf"]), gather(prompts=[say("code")], max_digits=1))
    line.receive(Uttered(number=1, barged_in_by="dtmf"))
    assert texts(line.effects()) == ["welcome"]
    line.key("4")
    assert line.gathered() == ("complete", "4", "max_digits", 1)
    line.receive(verbs(gather(prompts=[say("next")], max_digits=1)))
    assert texts(line.effects()) == ["next"]


def test_a_key_that_is_down_is_none_for_a_gather_that_takes_none_from_before() -> None:
    line = Line(say("welcome", barge_in=["dtmf"]), gather(prompts=[say("code")], type_ahead=False))
    line.receive(Uttered(number=1, barged_in_by="dtmf"))
    assert texts(line.effects()) == ["welcome", "code"]


def test_prompts_that_are_to_be_heard_are_heard_and_what_is_keyed_meanwhile_counts_for_nothing() -> None:
    line = Line(gather(prompts=[say("one", barge_in=["dtmf"])], barge_in=False, max_digits=1))
    (utter,) = line.effects()
    assert isinstance(utter, Utter)
    assert utter.verb.barge_in == ()
    line.key("4")
    assert line.effects() == []
    line.receive(Uttered(number=1))
    line.key("2")
    assert line.gathered() == ("complete", "2", "max_digits", 1)


def test_what_is_keyed_before_it_is_asked_answers_without_a_prompt() -> None:
    line = Line(say("welcome"), gather(prompts=[say("code")], max_digits=4))
    line.key("12")
    line.receive(Uttered(number=1))
    assert texts(line.effects()) == ["welcome"]
    line.key("34")
    assert line.gathered() == ("complete", "1234", "max_digits", 1)
    line.key("78")
    line.receive(verbs(gather(max_digits=1)))
    assert line.gathered() == ("complete", "7", "max_digits", 1)
    line.receive(verbs(gather(max_digits=1)))
    assert line.gathered() == ("complete", "8", "max_digits", 1)


def test_what_is_keyed_ahead_is_forgotten_where_it_is_not_wanted_and_beyond_what_anybody_means() -> None:
    line = Line(say(), gather(type_ahead=False, max_digits=2))
    line.key("99")
    line.receive(Uttered(number=1))
    assert texts(line.effects()) == ["a"]
    line.key("12")
    assert line.gathered() == ("complete", "12", "max_digits", 1)
    line = Line(say(), gather(finish_key=""))
    line.key("1" * 100)
    line.receive(Uttered(number=1))
    (_, ask) = line.effects()
    assert isinstance(ask, Ask)
    assert isinstance(ask.result, http_api.GatherResult)
    assert ask.result.digits == "1" * MOST_AHEAD


def test_a_hook_flash_is_no_digit() -> None:
    line = Line(gather(max_digits=2))
    line.key("!1!2")
    assert line.gathered() == ("complete", "12", "max_digits", 1)


def test_who_breaks_in_on_words_is_spared_those_that_allow_the_same() -> None:
    open_to_keys = {"barge_in": ["dtmf"]}
    line = Line(say("one", **open_to_keys), say("two", **open_to_keys), say("three"), gather(max_digits=1))
    line.key("5")
    line.receive(Uttered(number=1, barged_in_by="dtmf"))
    assert texts(line.effects()) == ["one", "three"]
    line.receive(Uttered(number=2))
    assert line.gathered() == ("complete", "5", "max_digits", 1)


# Answers as they come over the wire.


@pytest.mark.parametrize(
    ("answer", "field"),
    [
        ("{", ""),
        ("5", ""),
        ('{"verb": "say", "text": "a"}', ""),
        ("[5]", "0"),
        ('[{"text": "a"}]', "0"),
        ('[{"verb": "shout", "text": "a"}]', "0"),
        ('[{"verb": "say"}]', "0.say.ssml"),
        ('[{"verb": "say", "text": 5}]', "0.say.text"),
        ('[{"verb": "say", "text": "a", "ssml": "<speak/>"}]', "0.say.ssml"),
        ('[{"verb": "say", "text": "a", "loud": true}]', "0.say.loud"),
        ('[{"verb": "say", "text": "a", "barge_in": ["shout"]}]', "0.say.barge_in.0"),
        ('[{"verb": "hangup"}, {"verb": "say", "text": "a"}]', ""),
        ('[{"verb": "record"}, {"verb": "say", "text": "a"}]', ""),
        ('[{"verb": "say", "text": "a"}, {"verb": "reject"}]', ""),
        ('[{"verb": "pause"}, {"verb": "pause", "duration_ms": 0}]', "1.pause.duration_ms"),
        ('[{"verb": "gather", "min_digits": 5, "max_digits": 4}]', "0.gather.max_digits"),
        ('[{"verb": "gather", "finish_key": "##"}]', "0.gather.finish_key"),
        ('[{"verb": "gather", "prompts": [{"verb": "gather"}]}]', "0.gather.prompts.0"),
        ('[{"verb": "gather", "next": "//b.example/"}]', "0.gather.next"),
        ('[{"verb": "redirect", "url": "ftp://b.example/"}]', "0.redirect.url"),
        ('[{"verb": "redirect", "url": "http://a:b@b.example/"}]', "0.redirect.url"),
        ('[{"verb": "redirect", "url": "http:///x"}]', "0.redirect.url"),
        ('[{"verb": "redirect", "url": "/a#b"}]', "0.redirect.url"),
        ('[{"verb": "play", "url": "/relative.wav"}]', "0.play.url"),
        ('[{"verb": "play", "url": "file:///etc/passwd"}]', "0.play.url"),
        ('[{"verb": "play"}]', "0.play.clip_id"),
        ('[{"verb": "play", "url": "http://a.example/", "clip_id": "clip_1"}]', "0.play.clip_id"),
        ('[{"verb": "reject", "status": 200}]', "0.reject.status"),
        ('[{"verb": "stay", "seconds": -1}]', "0.stay.seconds"),
        (json.dumps([{"verb": "pause"}] * 51), ""),
        (json.dumps([say("a" * 6000)]), "0.say.text"),
        ('[{"verb": "say", "text": "a"', ""),
        ('[{"verb": "say", "text": "\\ud800"}]', ""),
        ("[" * 100_000, ""),
        ("\x00", ""),
    ],
)
def test_an_answer_that_is_not_understood_names_the_field(answer: str, field: str) -> None:
    with pytest.raises(http_api.Refused) as refused:
        http_api.read_verbs(answer.encode(), LIMITS)
    assert refused.value.field == field
    assert str(refused.value)


def test_an_answer_that_is_no_text_is_refused() -> None:
    for body in (b"\xff\xfe", b"\x89PNG\r\n"):
        with pytest.raises(http_api.Refused):
            http_api.read_verbs(body, LIMITS)


NOISE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["say", "gather"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["verb", "text", "prompts", "next", "url", "finish_key", "x"]), inner)
    ),
    max_leaves=12,
)


@given(NOISE | st.lists(st.fixed_dictionaries({"verb": st.sampled_from(["say", "gather", "play", "record"])})) | NOISE)
@settings(max_examples=400, deadline=None)
def test_whatever_is_answered_is_understood_or_refused(answer: object) -> None:
    with contextlib.suppress(http_api.Refused):
        http_api.read_verbs(json.dumps(answer).encode(), LIMITS)


ANSWERS: list[list[dict[str, Any]]] = [
    [],
    [say(), say("b", barge_in=["dtmf"]), gather(prompts=[say(), say()], attempts=2)],
    [say(), {"verb": "redirect", "url": "/b"}],
    [gather(max_digits=2, type_ahead=False, min_digits=2)],
    [gather(prompts=[say()], barge_in=False, finish_key="")],
    [{"verb": "pause"}, {"verb": "record", "background": True}, {"verb": "record"}],
    [{"verb": "transfer", "to": "sip:b@example.com"}],
    [{"verb": "hangup"}],
    [{"verb": "stay"}],
    [{"verb": "reject"}],
    [say()] * 5,
]


@pytest.mark.parametrize("seed", range(100))
def test_a_dialogue_always_waits_for_something_and_ends_once(seed: int) -> None:
    """Whatever happens in whatever order, it is known what it waits for, until it has ended with one last effect."""
    chance = random.Random(seed)
    dialogue, now, up = Dialogue(URL, asks_first=chance.random() < 0.7), 0.0, False
    asked = referred = recording = False
    uttered: int | None = None
    last: list[Effect] = []
    for _ in range(400):
        while (effect := dialogue.next_effect()) is not None:
            assert not last, "nothing comes after the end"
            match effect:
                case Ask():
                    assert not asked
                    asked = True
                case Utter(number=number):
                    uttered = number
                case Refer():
                    referred = True
                case Record(told=True):
                    recording = True
                case Hush() | StopRecording() | Record():
                    pass
                case _:
                    last.append(effect)
                    assert isinstance(effect, Reject) <= (not up)
        assert bool(last) == dialogue.over
        waits = asked or referred or recording or uttered is not None or dialogue.wake_at() is not None or not up
        assert waits or last
        now += chance.random()
        happens: list[Input] = [Keyed(chance.choice("0123456789*#AD!")), Up()]
        happens += [verbs(*chance.choice(ANSWERS)), Unanswered("x")] * asked
        happens += [Transferred(outcome=chance.choice(["failed", "succeeded"]), status=None, reason="")] * referred
        happens += [Recorded(id="r", duration_ms=1, ended_by=chance.choice(["stopped", "call_ended"]))] * recording
        if uttered is not None:
            happens += [Uttered(number=uttered, heard=chance.random() < 0.9)] * 3
            happens.append(Uttered(number=uttered, barged_in_by="dtmf"))
            happens.append(Unsayable(number=uttered, reason="x"))
        event = chance.choice(happens)
        up = up or isinstance(event, Up)
        asked = asked and not isinstance(event, Told | Unanswered)
        referred = referred and not isinstance(event, Transferred)
        recording = recording and not isinstance(event, Recorded)
        uttered = None if isinstance(event, Uttered | Unsayable) else uttered
        dialogue.receive(event, now)
        dialogue.handle_timer(now)
    assert not last or isinstance(last[0], Reject | Stay | HangUp | FallBack | Notify)
