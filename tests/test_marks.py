"""Marks in what is said: where a text is cut at them, and when they are told."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

import engines
import rtp
from engines import UnsuitableUtterance, Utterance, at_marks
from mediaserver.marks import Segment, segments
from mediaserver.passage import Mark
from mediaserver.server import Server
from tests.live import likeness, serving, spoken
from tests.test_barge_in import BY_KEY, key, logged
from tests.test_calls_api import TEXT, WORDS, Client, api, states
from tests.test_calls_verbs import act
from tests.test_referrals import phone

HERE = "Good morning, this is the bank. Your balance is ten pounds."


def cut(text: str, *marks: tuple[str, int]) -> list[tuple[tuple[str, ...], str | None, bool]]:
    found = segments(Utterance(text=text), [Mark(name=name, at=at) for name, at in marks])
    return [
        (one.marks, one.content.text, one.content.continues)
        if isinstance(one.content, Utterance)
        else (one.marks, None, False)
        for one in found
    ]


def test_a_text_is_cut_at_its_marks_and_goes_on_but_for_the_last_part() -> None:
    assert cut(HERE) == [((), HERE, False)]
    assert cut(HERE, ("balance", 32)) == [((), HERE[:32], True), (("balance",), HERE[32:], False)]
    assert cut(HERE, ("a", 14), ("c", 32), ("b", 14)) == [
        ((), HERE[:14], True),
        (("a", "b"), HERE[14:32], True),
        (("c",), HERE[32:], False),
    ]


def test_marks_at_the_beginning_and_at_the_end_cut_nothing() -> None:
    end = ("end", len(HERE))
    assert cut(HERE, ("start", 0)) == [(("start",), HERE, False)]
    assert cut(HERE, end) == [((), HERE, False), (("end",), None, False)]
    assert cut(HERE, ("start", 0), end) == [(("start",), HERE, False), (("end",), None, False)]


def test_what_cannot_be_spoken_alone_goes_with_what_follows_it_or_at_the_end_with_what_precedes_it() -> None:
    assert cut("Yes. No.", ("a", 3), ("b", 5)) == [((), "Yes", True), (("a", "b"), ". No.", False)]
    assert cut("Yes. ", ("a", 3), ("b", 4)) == [((), "Yes. ", False), (("a", "b"), None, False)]
    assert cut("... Yes.", ("a", 4)) == [(("a",), "... Yes.", False)]


def test_joined_the_segments_are_the_text_wherever_the_marks_are() -> None:
    for first in range(0, len(HERE) + 1, 3):
        for second in range(first, len(HERE) + 1, 5):
            found = cut(HERE, ("a", first), ("b", second))
            assert "".join(text or "" for _, text, _ in found) == HERE
            assert [name for names, _, _ in found for name in names] == ["a", "b"]
            assert all(engines.speakable(text) for _, text, _ in found if text is not None)


def test_a_part_of_what_continues_continues_and_a_recording_is_one() -> None:
    *_, last = segments(Utterance(text=HERE, continues=True), [Mark(name="a", at=14)])
    assert isinstance(last.content, Utterance)
    assert last.content.continues
    clip = rtp.Clip(bytes(1600), 8000)
    assert list(segments(clip)) == [Segment(marks=(), content=clip)]


def test_a_document_is_cut_at_its_marks_with_all_that_is_open_there() -> None:
    document = (
        '<speak xml:lang="en"><mark name="start"/>Good <prosody rate="slow">morning, <mark name="bank"/>this is '
        '<sub alias="the bank">X</sub>.</prosody><mark name="end"/></speak>'
    )
    assert at_marks(document) == [
        (("start",), '<speak xml:lang="en"> Good <prosody rate="slow">morning, </prosody></speak>'),
        (("bank",), '<speak xml:lang="en"><prosody rate="slow"> this is the bank .</prosody></speak>'),
        (("end",), ""),
    ]


def test_marks_with_nothing_to_say_between_them_are_in_one_place() -> None:
    document = (
        '<speak><mark name="a"/><break time="1s"/><mark name="b"/>Yes.<mark/><desc><mark name="c"/></desc></speak>'
    )
    assert at_marks(document) == [
        (("a", "b"), '<speak> <break time="1000ms"></break> Yes. </speak>'),
    ]
    for wrong in ('<speak><mark name="a"/></speak>', "<speak><mark name='a'></speak>"):
        with pytest.raises(UnsuitableUtterance):
            at_marks(wrong)
    ((names, _),) = at_marks(f'<speak><mark name="{"x" * 500}"/>a</speak>')
    assert names == ("x" * 64,)


async def places(running: Server, *parts: str, ssml: bool = False) -> list[int]:
    """How many ms come before the end of each part, in the line's blocks of 10 ms."""
    ends, at = [], 0
    for number, part in enumerate(parts, 1):
        samples = await spoken(running.engine, part, ssml=ssml, continues=number < len(parts))
        at += 10 * math.ceil(len(samples) / 160)
        ends.append(at)
    return ends


def told(events: list[tuple[str, dict[str, Any]]]) -> list[tuple[str, str | None]]:
    return [(kind, details.get("mark")) for kind, details in events]


async def spoken_call(client: Client, uri: str, **order: Any) -> str:
    id = await client.place(uri, then="stay", **order)
    await client.until(id, lambda told: bool(states(told)) and all(state == "spoken" for state in states(told)))
    return id


SPEECH = ("speech.started", "speech.mark", "speech.ended")


async def test_a_mark_is_told_when_the_audio_behind_it_is_being_sent() -> None:
    marks = [{"name": "start", "at": 0}, {"name": "bank", "at": 14}, {"name": "money", "at": 32}]
    async with serving() as running, api(running) as client, phone() as callee:
        id = await spoken_call(client, callee.uri, text=HERE, marks=[*marks, {"name": "end", "at": len(HERE)}])
        (said,) = (await client.call(id))["speech"]
        events = await logged(running, client, id, *SPEECH)
        ends = await places(running, HERE[:14], HERE[14:32], HERE[32:])
    assert said["last_mark"] == "end"
    assert told(events) == [
        ("speech.started", None),
        *(("speech.mark", name) for name in ("start", "bank", "money", "end")),
        ("speech.ended", None),
    ]
    started, bank, money, end = (details["spoken_ms"] for kind, details in events if kind == "speech.mark")
    # Never before the audio is sent, and two frames later at most but for what a busy machine adds.
    assert 0 < started <= 100
    assert ends[0] < bank <= ends[0] + 100
    assert ends[1] < money <= ends[1] + 100
    assert end == said["spoken_ms"] == ends[2]


async def test_the_marks_of_a_document_are_told_too() -> None:
    document = f'<speak>{TEXT} <mark name="second"/>{WORDS}</speak>'
    async with serving() as running, api(running) as client, phone() as callee:
        id = await spoken_call(client, callee.uri, ssml=document)
        events = await logged(running, client, id, *SPEECH)
        first, second = (text for _, text in at_marks(document))
        (at, _) = await places(running, first, second, ssml=True)
        assert likeness(callee.ear.heard(), await spoken(running.engine, second, ssml=True)) > 0.98
    assert told(events) == [("speech.started", None), ("speech.mark", "second"), ("speech.ended", None)]
    assert at < events[1][1]["spoken_ms"] <= at + 100


async def test_what_was_said_before_has_its_marks_in_the_same_places_from_the_cache() -> None:
    async with serving() as running, api(running) as client, phone() as callee:
        id = await client.place(callee.uri)
        for _ in range(2):
            order = {"text": HERE, "marks": [{"name": "money", "at": 32}]}
            await act(client, id, "say", order, status=202)
            await client.until(id, lambda told: bool(states(told)) and set(states(told)) == {"spoken"})
        first, second = (await client.call(id))["speech"]
        events = await logged(running, client, id, "speech.mark")
        at, end = await places(running, HERE[:32], HERE[32:])
    assert first["spoken_ms"] == second["spoken_ms"] == end
    assert [at < details["spoken_ms"] <= at + 100 for _, details in events] == [True, True]


async def test_marks_that_are_not_reached_are_not_told_and_the_last_one_that_was_is_known() -> None:
    marks = [{"name": "bank", "at": 14}, {"name": "money", "at": 32}]
    async with serving() as running, api(running) as client, phone() as callee:
        id = await client.place(callee.uri, text=HERE, marks=marks, then="stay", **BY_KEY)
        await client.until(id, lambda told: bool(told["speech"]) and told["speech"][0]["last_mark"] == "bank")
        await key(callee, "1")
        (said,) = (await client.until(id, lambda told: states(told) == ["interrupted"]))["speech"]
        assert (said["last_mark"], said["barged_in_by"]) == ("bank", "dtmf")
        assert told(await logged(running, client, id, *SPEECH)) == [
            ("speech.started", None),
            ("speech.mark", "bank"),
            ("speech.ended", None),
        ]


async def test_no_mark_is_told_in_a_pause() -> None:
    async with serving() as running, api(running) as client, phone() as callee:
        id = await client.place(callee.uri, text=HERE, marks=[{"name": "bank", "at": 14}], then="stay")
        await client.until(id, lambda told: bool(told["speech"]) and told["speech"][0]["spoken_ms"] > 200)
        await act(client, id, "pause")
        await asyncio.sleep(1.5)
        assert (await client.call(id))["speech"][0]["last_mark"] is None
        await act(client, id, "resume")
        await client.until(id, lambda told: told["speech"][0]["last_mark"] == "bank")


@pytest.mark.parametrize(
    "order",
    [
        {"text": "a", "marks": [{"name": "x", "at": 2}]},
        {"text": "a", "marks": [{"name": "x", "at": -1}]},
        {"text": "a", "marks": [{"name": "", "at": 0}]},
        {"text": "a", "marks": [{"name": "x\n", "at": 0}]},
        {"text": "a", "marks": [{"name": "x" * 65, "at": 0}]},
        {"text": "a", "marks": [{"name": "x"}]},
        {"text": "a", "marks": [{"name": "x", "at": 0}] * 101},
        {"ssml": "<speak>a</speak>", "marks": [{"name": "x", "at": 0}]},
    ],
)
async def test_marks_at_fault_are_422(order: dict[str, Any]) -> None:
    async with serving() as running, api(running) as client, phone() as callee:
        id = await client.place(callee.uri)
        for path, more in (("/v1/calls", {"to": callee.uri}), (f"/v1/calls/{id}/say", {})):
            status, problem = await client.ask("POST", path, {**order, **more})
            assert (status, problem["errors"][0]["field"].partition(".")[0]) == (422, "marks")
