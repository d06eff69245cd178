"""The rules by which webhooks are told: in order for each call, again when it failed, within bounds."""

from __future__ import annotations

import random

import pytest

from mediaserver.outbox import (
    FIRST_PAUSE_S,
    LONGEST_PAUSE_S,
    MOST_REFUSALS,
    OVERHEAD_BYTES,
    Attempt,
    Message,
    Outbox,
    attempt_of,
)


class Longest(random.Random):
    """Jitter that takes nothing away."""

    def uniform(self, a: float, b: float) -> float:
        return b


def outbox(*, max_bytes: int = 1 << 20, keep_s: float = 3600) -> Outbox:
    return Outbox(random=Longest(), max_bytes=max_bytes, keep_s=keep_s)


def message(id: str, lane: str = "call_1") -> Message:
    return Message(id=id, lane=lane, body=b"{}")


def taken(box: Outbox, now: float) -> list[Message]:
    found = []
    while (one := box.take(now)) is not None:
        found.append(one)
    return found


def ids(messages: list[Message]) -> list[str]:
    return [one.id for one in messages]


def test_the_messages_of_one_call_go_one_after_the_other_and_those_of_calls_beside_one_another() -> None:
    box = outbox()
    for id, lane in (("a1", "a"), ("a2", "a"), ("b1", "b")):
        assert box.put(message(id, lane), 0)
    first = taken(box, 0)
    assert ids(first) == ["a1", "b1"]
    box.settle(first[0], Attempt.ACCEPTED, 0.1)
    second = taken(box, 0.1)
    assert ids(second) == ["a2"]
    for one in (first[1], second[0]):
        box.settle(one, Attempt.ACCEPTED, 0.2)
    assert (box.counts.delivered, box.waiting, box.wake_at()) == (3, 0, None)


def test_no_more_than_eight_are_under_way_at_a_time() -> None:
    box = outbox()
    for number in range(20):
        box.put(message(str(number), str(number)), 0)
    assert len(taken(box, 0)) == 8
    assert box.wake_at() is None


def test_an_endpoint_that_is_away_is_left_alone_ever_longer_and_asked_with_one_message() -> None:
    box = outbox()
    for number in range(20):
        box.put(message(str(number), str(number)), 0)
    now, pauses = 0.0, []
    for one in taken(box, 0):
        box.settle(one, Attempt.AWAY, now)
    for _ in range(9):
        wake_at = box.wake_at()
        assert wake_at is not None
        pauses.append(wake_at - now)
        assert taken(box, wake_at - 0.01) == []
        now = wake_at
        (only,) = taken(box, now)
        box.settle(only, Attempt.AWAY, now)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert box.away
    (only,) = taken(box, now + LONGEST_PAUSE_S)
    box.settle(only, Attempt.ACCEPTED, now)
    assert len(taken(box, now)) == 8, "it is there again"
    assert not box.away


def test_jitter_takes_up_to_half_of_a_pause_away() -> None:
    pauses = set()
    for seed in range(200):
        box = Outbox(random=random.Random(seed), max_bytes=1 << 20, keep_s=60)
        box.put(message("1"), 0)
        (one,) = taken(box, 0)
        box.settle(one, Attempt.AWAY, 0)
        pauses.add(box.wake_at())
    assert len(pauses) == 200
    assert all(pause is not None and FIRST_PAUSE_S / 2 <= pause <= FIRST_PAUSE_S for pause in pauses)


@pytest.mark.parametrize("attempt", [Attempt.AWAY, Attempt.REFUSED])
def test_retry_after_is_honoured(attempt: Attempt) -> None:
    box = outbox()
    box.put(message("1"), 0)
    (one,) = taken(box, 0)
    box.settle(one, attempt, 5, retry_after_s=40)
    assert box.wake_at() == 45


def test_a_message_that_is_refused_holds_up_its_own_call_alone_and_not_for_ever() -> None:
    box = outbox()
    for id, lane in (("bad", "a"), ("after", "a"), ("other", "b")):
        box.put(message(id, lane), 0)
    bad, other = taken(box, 0)
    box.settle(bad, Attempt.REFUSED, 0)
    box.settle(other, Attempt.ACCEPTED, 0)
    now = 0.0
    for _ in range(MOST_REFUSALS - 1):
        wake_at = box.wake_at()
        assert wake_at is not None
        now = wake_at
        (one,) = taken(box, now)
        assert one is bad
        box.settle(bad, Attempt.REFUSED, now)
    assert now == 1 + 2 + 4 + 8 + 16 + 32 + 60
    assert ids(taken(box, now)) == ["after"]
    assert (box.counts.failed, box.counts.delivered) == (1, 1)


def test_a_message_is_given_up_when_it_is_old() -> None:
    box = outbox(keep_s=10)
    box.put(message("old"), 0)
    (one,) = taken(box, 0)
    box.settle(one, Attempt.AWAY, 0, retry_after_s=20)
    box.put(message("new"), 15)
    assert ids(taken(box, 20)) == ["new"]
    assert box.counts.failed == 1


def test_what_finds_no_room_is_dropped_and_counted_and_room_comes_back() -> None:
    box = outbox(max_bytes=2 * (OVERHEAD_BYTES + 2))
    assert [box.put(message(id), 0) for id in "abc"] == [True, True, False]
    assert (box.counts.dropped, box.waiting) == (1, 2)
    (one,) = taken(box, 0)
    box.settle(one, Attempt.ACCEPTED, 0)
    assert box.put(message("d"), 0)


def test_an_endpoint_that_is_gone_gets_nothing_more() -> None:
    box = outbox()
    for id in "abc":
        box.put(message(id, id), 0)
    first, second, _ = taken(box, 0)
    box.settle(first, Attempt.GONE, 0)
    box.settle(second, Attempt.ACCEPTED, 0)
    assert not box.put(message("d"), 0)
    assert (box.counts.dropped, box.waiting, box.wake_at(), box.take(9)) == (4, 0, None, None)


@pytest.mark.parametrize(
    ("status", "attempt"),
    [
        (200, Attempt.ACCEPTED),
        (204, Attempt.ACCEPTED),
        (302, Attempt.REFUSED),
        (400, Attempt.REFUSED),
        (404, Attempt.REFUSED),
        (408, Attempt.AWAY),
        (410, Attempt.GONE),
        (429, Attempt.AWAY),
        (500, Attempt.AWAY),
        (503, Attempt.AWAY),
    ],
)
def test_what_a_status_says(status: int, attempt: Attempt) -> None:
    assert attempt_of(status) is attempt


def test_whatever_happens_everything_is_delivered_in_order_or_counted() -> None:
    """Thousands of messages, an endpoint of all moods: nothing is lost without a trace, and no call is out of order."""
    chance = random.Random(7)
    box = Outbox(random=chance, max_bytes=100 * (OVERHEAD_BYTES + 2), keep_s=40)
    now, put, under_way = 0.0, 0, []
    delivered: dict[str, list[int]] = {}
    while put < 5000 or box.waiting:
        now += chance.random() / 2
        if put < 5000:
            box.put(message(str(put), f"call_{chance.randrange(20)}"), now)
            put += 1
        under_way += taken(box, now)
        while under_way and chance.random() < 0.7:
            one = under_way.pop(chance.randrange(len(under_way)))
            mood = chance.choices([Attempt.ACCEPTED, Attempt.REFUSED, Attempt.AWAY], [4, 4, 1])[0]
            box.settle(one, mood, now)
            if mood is Attempt.ACCEPTED:
                delivered.setdefault(one.lane, []).append(int(one.id))
    assert all(order == sorted(order) for order in delivered.values())
    counts = box.counts
    assert counts.delivered == sum(map(len, delivered.values()))
    assert counts.delivered + counts.failed + counts.dropped == 5000
    assert min(counts.delivered, counts.failed, counts.dropped) > 0
    assert sum(box.put(message(str(number)), now) for number in range(200)) == 100, "all the room is back"
