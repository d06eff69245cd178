"""A call's digits, for whoever listens in the server: by RTP and by INFO, and by nobody else's way."""

from __future__ import annotations

import asyncio
import gc
import weakref

from mediaserver.digits import Digits
from tests.live import serving, until_calls
from tests.test_calls_api import api
from tests.test_calls_verbs import friend
from tests.test_dialogue import STAY, calling


def test_digits_are_told_in_order_to_everybody_who_listens_and_to_nobody_else() -> None:
    digits, one, other = Digits(), list[str](), list[str]()
    digits.key("1")
    digits.subscribe(one.append)
    digits.key("2")
    digits.subscribe(other.append)
    digits.key("#")
    digits.unsubscribe(one.append)
    digits.unsubscribe(one.append)
    digits.key("!")
    assert (one, other, digits.count) == (["2", "#"], ["#", "!"], 4)


def test_who_is_made_to_leave_while_a_digit_is_told_does_not_hear_it() -> None:
    digits, heard = Digits(), list[str]()

    def leave(digit: str) -> None:
        digits.unsubscribe(leave)
        digits.unsubscribe(heard.append)

    digits.subscribe(leave)
    digits.subscribe(heard.append)
    digits.key("1")
    digits.key("2")
    assert heard == []


def test_who_comes_while_a_digit_is_told_hears_the_next_one() -> None:
    digits, heard = Digits(), list[str]()

    def bring(digit: str) -> None:
        digits.unsubscribe(bring)
        digits.subscribe(heard.append)

    digits.subscribe(bring)
    digits.key("1")
    digits.key("2")
    assert heard == ["2"]


def test_a_key_that_goes_down_is_told_to_who_waits_for_one_and_not_again_when_it_is_up() -> None:
    digits, pressed = Digits(), list[str]()
    leave = digits.listen(lambda: pressed.append("down"))
    digits.press()
    assert (pressed, digits.count) == (["down"], 0)
    digits.key("1")
    assert (pressed, digits.count) == (["down"], 1)
    leave()
    leave()
    digits.press()
    assert pressed == ["down"]


def test_a_call_that_is_over_tells_nobody_and_holds_on_to_nobody() -> None:
    digits, heard = Digits(), list[str]()
    digits.subscribe(heard.append)
    digits.close()
    digits.key("1")
    assert (heard, digits.count) == ([], 1)


async def test_telephone_events_are_told() -> None:
    async with serving() as running, api(running) as client, friend() as callee:
        id = await client.place(callee.uri)
        await client.up(id)
        call, heard = running.switchboard.ledger.alive(id), asyncio.Queue[str]()
        assert call is not None
        call.digits.subscribe(heard.put_nowait)
        callee.media.stream.send_digits("4#")
        assert [await asyncio.wait_for(heard.get(), 5) for _ in range(2)] == ["4", "#"]
        assert (await client.call(id))["digits"] == 2


async def test_digits_by_info_are_told_and_the_call_that_has_ended_is_let_go() -> None:
    async with serving(engine={"name": "tone"}, **STAY) as running, calling(running) as caller, api(running) as client:
        _, told = await client.ask("GET", "/v1/calls")
        call, heard = running.switchboard.ledger.alive(told["calls"][0]["id"]), list[str]()
        assert call is not None
        call.digits.subscribe(heard.append)
        for body in (b"Signal=7\r\nDuration=160\r\n", b"Signal=11\r\n", b"Signal=16\r\n"):
            assert (await caller.ask("INFO", body, "application/dtmf-relay")).status == 200
        assert heard == ["7", "#", "!"]
        there = weakref.ref(call)
        call.digits.subscribe(lambda digit, call=call: call.abandon())  # type: ignore[misc]
        del call
        gc.disable()
        try:
            caller.transport.bye(caller.call)
            await until_calls(running, 0)
            async with asyncio.timeout(5):
                while there() is not None:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        finally:
            gc.enable()
