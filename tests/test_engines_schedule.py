"""The schedule in virtual time: who is served first, what a crash costs, when a worker counts as stuck."""

from __future__ import annotations

import dataclasses
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines import EngineBusy, UnsuitableUtterance
from engines.schedule import _ENDED, _TRANSITIONS, Advanced, Limits, Piece, Schedule, State, Stuck, _Input
from engines.wire import Backlog, Cancel, Chunk, Done, Failed, Hello, Message, Ping, Pong, Refused, Speak, Stopped
from tests.engines_support import piece

SECOND = bytes(16000)
"""One second of audio at 8 kHz."""


def hello(concurrency: int = 1) -> Hello:
    return Hello(
        version="test 1",
        concurrency=concurrency,
        ssml=True,
        source_rate_hz=0,
        piece_characters=20,
        voices=(("a", "A", "en"),),
    )


def schedule(*, workers: int = 1, concurrency: int = 1, **limits: float) -> Schedule:
    made = Schedule(Limits(**limits))  # type: ignore[arg-type]
    for number in range(1, workers + 1):
        made.worker_ready(number, hello(concurrency), 0.0)
    return made


def texts(made: Schedule) -> list[tuple[int, str]]:
    """(worker, text) of what is to be spoken now."""
    return [(worker, message.text) for worker, message in made.data_to_send() if isinstance(message, Speak)]


def only(made: Schedule) -> Message:
    [(_, message)] = made.data_to_send()
    return message


def stuck(made: Schedule) -> list[Stuck]:
    found = []
    while event := made.next_event():
        if isinstance(event, Stuck):
            found.append(event)
    return found


# The table.


def test_every_state_can_reach_an_end() -> None:
    for state in State:
        reached, frontier = {state}, {state}
        while frontier:
            frontier = {to for (start, _), to in _TRANSITIONS.items() if start in frontier} - reached
            reached |= frontier
        assert reached & _ENDED


def test_every_state_but_the_first_is_entered_and_every_input_is_used() -> None:
    assert set(_TRANSITIONS.values()) == set(State)
    assert {given for _, given in _TRANSITIONS} == set(_Input)


def test_a_piece_can_be_dropped_in_every_state_until_it_is() -> None:
    droppable = {start for start, given in _TRANSITIONS if given is _Input.DROP}
    assert droppable == set(State) - {State.STOPPING, State.DROPPED}


# Who is served first.


def test_the_most_urgent_piece_is_served_first() -> None:
    made = schedule(workers=0)
    made.ask(piece("in ten seconds"), 0.0, in_s=10.0)
    made.ask(piece("now"), 1.0)
    made.ask(piece("in five seconds"), 1.0, in_s=5.0)
    for number in (1, 2, 3):
        made.worker_ready(number, hello(), 2.0)
    assert texts(made) == [(1, "now"), (2, "in five seconds"), (3, "in ten seconds")]


def test_equally_urgent_pieces_are_served_in_the_order_of_asking() -> None:
    made = schedule(workers=0)
    for number in range(5):
        made.ask(piece(str(number)), 0.0)
    made.worker_ready(1, hello(5), 0.0)
    assert [text for _, text in texts(made)] == ["0", "1", "2", "3", "4"]


def test_a_new_call_does_not_wait_for_the_long_text_of_another() -> None:
    made = schedule()
    first = made.ask(piece("long, piece 1"), 0.0)
    made.ask(piece("long, piece 2"), 0.0, in_s=8.0)
    made.ask(piece("another call"), 0.005)
    assert texts(made) == [(1, "long, piece 1")]
    made.receive(1, Done(id=first.request.id), 0.01)
    assert texts(made) == [(1, "another call")]


def test_a_piece_whose_listener_waits_for_it_is_urgent() -> None:
    made = schedule()
    made.ask(piece("speaking"), 0.0)
    hurried = made.ask(piece("in ten seconds"), 0.0, in_s=10.0)
    made.ask(piece("in five seconds"), 0.0, in_s=5.0)
    [(_, speaking)] = made.data_to_send()
    assert isinstance(speaking, Speak)
    made.hurry(hurried, 2.0)
    made.hurry(hurried, 3.0)
    assert made.waiting == 2
    made.receive(1, Done(id=speaking.id), 4.0)
    made.receive(1, Done(id=hurried.request.id), 5.0)
    assert [text for _, text in texts(made)] == ["in ten seconds", "in five seconds"]
    assert made.waiting == 0


def test_a_worker_gets_as_many_pieces_as_it_said_it_takes() -> None:
    made = schedule(concurrency=3)
    asked = [made.ask(piece(str(number)), 0.0) for number in range(4)]
    assert len(texts(made)) == 3
    assert made.waiting == 1
    made.receive(1, Done(id=asked[1].request.id), 0.1)
    assert texts(made) == [(1, "3")]


def test_the_worker_with_most_room_gets_the_next_piece() -> None:
    made = schedule(workers=2, concurrency=2)
    for number in range(4):
        made.ask(piece(str(number)), 0.0)
    assert [worker for worker, _ in texts(made)] == [1, 2, 1, 2]


def test_a_full_queue_lets_no_new_utterance_in_and_says_when_to_come_back() -> None:
    made = schedule(queue=2)
    for number in range(2):
        made.ask(piece(str(number)), 0.0)
    made.admit()
    made.ask(piece("2"), 0.0)
    with pytest.raises(EngineBusy, match="2 pieces") as busy:
        made.admit()
    assert busy.value.retry_after_s == 1.0


def test_the_time_to_come_back_grows_with_the_queue_and_the_work_per_piece() -> None:
    made = schedule(queue=100)
    asked = [made.ask(piece(str(number)), 0.0) for number in range(101)]
    for done in range(64):
        made.receive(1, Done(id=asked[done].request.id), done + 1.0)
        made.ask(piece("more"), done + 1.0)
    with pytest.raises(EngineBusy) as busy:
        made.admit()
    assert 90 < busy.value.retry_after_s < 100


# What a crash costs.


def test_a_broken_piece_is_spoken_again_from_where_it_broke_off() -> None:
    made = schedule(workers=2)
    broken = made.ask(piece("text"), 0.0)
    first = only(made)
    assert isinstance(first, Speak)
    assert (first.attempt, first.skip_bytes) == (0, 0)
    made.receive(1, Chunk(id=first.id, samples=b"abcd"), 0.1)
    made.worker_lost(1, "died", 0.2)
    [(worker, second)] = made.data_to_send()
    assert isinstance(second, Speak)
    assert (worker, second.attempt, second.skip_bytes, second.text) == (2, 1, 4, "text")
    assert second.id != first.id
    made.receive(2, Chunk(id=second.id, samples=b"efgh"), 0.3)
    made.receive(2, Done(id=second.id), 0.3)
    assert (made.take(broken, 0.4), made.take(broken, 0.4), made.take(broken, 0.4)) == (b"abcd", b"efgh", None)
    assert broken.state is State.SPOKEN


def test_a_broken_piece_goes_before_everything_that_waits() -> None:
    made = schedule()
    broken = made.ask(piece("broken"), 0.0)
    made.ask(piece("waits"), 1.0)
    made.data_to_send()
    made.receive(1, Failed(id=broken.request.id, message="oops"), 2.0)
    assert texts(made) == [(1, "broken")]


def test_a_piece_that_breaks_twice_fails_and_says_why() -> None:
    made = schedule()
    broken = made.ask(piece("text"), 0.0)
    for _ in range(2):
        made.receive(1, Failed(id=broken.request.id, message="the engine died of SIGSEGV"), 0.1)
    assert broken.state is State.FAILED
    assert broken.failure == "a piece of speech broke 2 times; at last the engine died of SIGSEGV"


def test_a_copy_killed_by_somebody_else_is_a_crash() -> None:
    made = schedule()
    broken = made.ask(piece("text"), 0.0)
    made.data_to_send()
    made.receive(1, Stopped(id=broken.request.id), 0.1)
    assert texts(made) == [(1, "text")]


def test_when_nothing_can_be_spoken_everything_fails_until_a_worker_is_ready() -> None:
    made = schedule(workers=1)
    speaking, queued = made.ask(piece("a"), 0.0), made.ask(piece("b"), 0.0)
    made.fail_all("the engine is down")
    late = made.ask(piece("c"), 1.0)
    assert [one.failure for one in (speaking, queued, late)] == ["the engine is down"] * 3
    assert made.waiting == 0
    made.data_to_send()
    made.worker_ready(2, hello(), 2.0)
    made.ask(piece("d"), 3.0)
    assert texts(made) == [(2, "d")]


# Nobody wants it any more.


def test_dropping_a_piece_that_is_spoken_cancels_it_and_frees_the_worker() -> None:
    made = schedule()
    dropped = made.ask(piece("dropped"), 0.0)
    made.ask(piece("next"), 0.0)
    made.data_to_send()
    made.drop(dropped, 0.1)
    assert only(made) == Cancel(id=dropped.request.id)
    made.receive(1, Chunk(id=dropped.request.id, samples=b"late"), 0.1)
    assert made.take(dropped, 0.1) is None
    made.receive(1, Stopped(id=dropped.request.id), 0.1)
    assert dropped.state is State.DROPPED
    assert texts(made) == [(1, "next")]


def test_dropping_a_piece_that_waits_takes_it_out_of_the_queue() -> None:
    made = schedule(workers=0)
    dropped = made.ask(piece("dropped"), 0.0)
    made.ask(piece("wanted"), 1.0)
    made.drop(dropped, 1.0)
    assert made.waiting == 1
    made.worker_ready(1, hello(2), 2.0)
    assert texts(made) == [(1, "wanted")]


@pytest.mark.parametrize("end", [Done, Stopped])
def test_an_end_that_crosses_the_cancel_is_the_end(end: type[Done] | type[Stopped]) -> None:
    made = schedule()
    dropped = made.ask(piece("text"), 0.0)
    made.drop(dropped, 0.1)
    made.receive(1, end(id=dropped.request.id), 0.2)
    assert dropped.state is State.DROPPED
    made.drop(dropped, 0.3)


# More is made than taken.


def test_a_piece_that_nobody_takes_pauses_and_goes_on_later() -> None:
    made = schedule(most_ahead_s=3.0, least_ahead_s=1.0)
    slow = made.ask(piece("text"), 0.0)
    first = slow.request.id
    made.data_to_send()
    for _ in range(3):
        made.receive(1, Chunk(id=first, samples=SECOND), 0.1)
    assert only(made) == Cancel(id=first)
    made.receive(1, Chunk(id=first, samples=SECOND), 0.1)  # on its way already
    made.receive(1, Stopped(id=first), 0.1)
    assert slow.state is State.PAUSED
    made.ask(piece("another"), 0.2)
    assert texts(made) == [(1, "another")]
    for _ in range(3):
        assert made.take(slow, 3.0) == SECOND
        assert slow.state is State.PAUSED
    assert made.take(slow, 4.0) == SECOND
    assert (slow.state, slow.deadline) == (State.QUEUED, 4.0)
    made.worker_ready(2, hello(), 4.0)
    [(worker, again)] = made.data_to_send()
    assert isinstance(again, Speak)
    assert (worker, again.skip_bytes, again.attempt) == (2, 4 * len(SECOND), 0)


def test_a_piece_drained_while_it_pauses_goes_on_at_once() -> None:
    made = schedule(most_ahead_s=1.0, least_ahead_s=1.0)
    slow = made.ask(piece("text"), 0.0)
    first = slow.request.id
    made.receive(1, Chunk(id=first, samples=SECOND), 0.1)
    assert made.take(slow, 0.2) == SECOND
    made.data_to_send()
    while made.next_event():
        pass
    made.receive(1, Stopped(id=first), 0.3)
    assert made.next_event() == Advanced(slow)  # whoever waits for it looks again
    assert made.take(slow, 0.3) is None
    assert texts(made) == [(1, "text")]


# Stuck workers.


def test_a_worker_that_makes_nothing_of_a_piece_is_stuck() -> None:
    made = schedule(stall_s=5.0)
    asked = made.ask(piece("text"), 0.0)
    made.receive(1, Chunk(id=asked.request.id, samples=b"ab"), 3.0)
    made.handle_timer(7.9)
    assert stuck(made) == []
    made.handle_timer(8.0)
    assert stuck(made) == [Stuck(1, "made nothing of a piece for 5 s")]


def test_a_piece_that_waits_for_a_worker_makes_none_stuck() -> None:
    made = schedule(workers=0, stall_s=5.0)
    made.ask(piece("text"), 0.0)
    made.worker_ready(1, hello(), 100.0)
    made.handle_timer(104.9)
    assert stuck(made) == []


def test_an_idle_worker_is_asked_whether_it_is_there_and_is_stuck_when_it_does_not_answer() -> None:
    made = schedule(stall_s=5.0, ping_s=1.0)
    made.handle_timer(0.9)
    assert made.data_to_send() == []
    made.handle_timer(1.0)
    assert made.data_to_send() == [(1, Ping())]
    made.receive(1, Pong(), 1.1)
    made.handle_timer(2.0)
    assert made.data_to_send() == []
    made.handle_timer(2.1)
    assert made.data_to_send() == [(1, Ping())]
    made.handle_timer(7.0)
    assert stuck(made) == []
    made.handle_timer(7.1)
    assert stuck(made) == [Stuck(1, "did not answer for 5 s")]
    assert made.data_to_send() == []


@pytest.mark.parametrize("message", [Done(id=99), Chunk(id=99, samples=b""), Cancel(id=1), hello()])
def test_a_worker_that_speaks_out_of_turn_is_stuck(message: Message) -> None:
    made = schedule()
    made.receive(1, message, 0.0)
    assert stuck(made) == [Stuck(1, f"said {type(message).__name__} out of turn")]


def test_a_worker_that_is_gone_says_nothing_any_more() -> None:
    made = schedule()
    asked = made.ask(piece("text"), 0.0)
    made.worker_lost(1, "died", 0.1)
    made.receive(1, Chunk(id=asked.request.id, samples=b"ab"), 0.2)
    made.worker_lost(1, "died", 0.3)
    assert asked.attempts == 1
    assert made.take(asked, 0.4) is None


# All of it at once.


class Play:
    """Workers that speak at random, and die at random, and listeners that listen at random."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.made = Schedule(Limits(most_ahead_s=1.0, least_ahead_s=0.5, attempts=10**6))
        self.now = 0.0
        self.numbers = iter(range(1, 10**6))
        self.speaking: dict[int, dict[int, tuple[Speak, int]]] = {}
        self.sound: dict[str, bytes] = {}
        self.heard: dict[str, bytes] = {}
        self.pieces: dict[str, Piece] = {}
        self.silenced: set[str] = set()
        self.hire()

    def hire(self) -> None:
        number = next(self.numbers)
        self.speaking[number] = {}
        self.made.worker_ready(number, hello(self.dice.randint(1, 3)), self.now)

    def step(self, *, calm: bool) -> None:
        self.now += 0.01
        match self.dice.randrange(8 if calm else 12):
            case 0 | 1 | 2 | 3:
                self.work()
            case 4 | 5 | 6:
                self.listen()
            case 7:
                self.made.handle_timer(self.now)
            case 8 | 9:
                name = str(len(self.pieces))
                self.sound[name] = self.dice.randbytes(2 * self.dice.randint(0, 40000))
                self.heard[name] = b""
                self.pieces[name] = self.made.ask(piece(name), self.now, in_s=self.dice.random())
            case 10 if self.pieces:
                name = self.dice.choice(list(self.pieces))
                self.silenced.add(name)
                self.made.drop(self.pieces[name], self.now)
            case _:
                victim = self.dice.choice(list(self.speaking))
                del self.speaking[victim]
                self.made.worker_lost(victim, "died", self.now)
                self.hire()
        self.deliver()

    def deliver(self) -> None:
        while sent := self.made.data_to_send():
            for number, message in sent:
                self.post(number, message)
        while event := self.made.next_event():
            assert isinstance(event, Advanced)

    def post(self, number: int, message: Message) -> None:
        work = self.speaking.get(number)
        match message:
            case Speak() if work is not None:
                work[message.id] = (message, message.skip_bytes)
            case Cancel() if work is not None and work.pop(message.id, None):
                self.made.receive(number, Stopped(id=message.id), self.now)
            case Ping() if work is not None:
                self.made.receive(number, Pong(), self.now)

    def work(self) -> None:
        number = self.dice.choice(list(self.speaking))
        if not self.speaking[number]:
            return
        request, said = self.dice.choice(list(self.speaking[number].values()))
        rest = self.sound[request.text][said:]
        if rest:
            samples = rest[: 2 * self.dice.randint(1, 8000)]
            self.speaking[number][request.id] = (request, said + len(samples))
            self.made.receive(number, Chunk(id=request.id, samples=samples), self.now)
        else:
            del self.speaking[number][request.id]
            self.made.receive(number, Done(id=request.id), self.now)

    def listen(self) -> None:
        if self.pieces:
            name = self.dice.choice(list(self.pieces))
            samples = self.made.take(self.pieces[name], self.now)
            self.heard[name] += samples or b""
            if samples is None:
                self.made.hurry(self.pieces[name], self.now)


@given(st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_whatever_dies_and_whoever_dawdles_every_listener_hears_every_sample_once(seed: int) -> None:
    play = Play(seed)
    for _ in range(300):
        play.step(calm=False)
        most = max((one.ahead_s for one in play.pieces.values()), default=0.0)
        assert most < 1.0 + 1.0  # what may lie untaken, and a chunk
    for _ in range(100_000):
        if all(one.ended and not one.chunks for one in play.pieces.values()):
            break
        play.step(calm=True)
    for name, sound in play.sound.items():
        if name in play.silenced:
            assert sound.startswith(play.heard[name])
        else:
            assert play.heard[name] == sound
    assert play.made.waiting == 0
    assert all(not work for work in play.speaking.values())


# A worker that keeps pace with those who listen.


def pacing() -> Schedule:
    made = Schedule(Limits())
    made.worker_ready(1, dataclasses.replace(hello(2), queues=False), 0.0)
    return made


def test_a_worker_that_paces_its_work_is_told_what_has_not_been_taken() -> None:
    made = pacing()
    one = made.ask(piece("one"), 0.0)
    made.data_to_send()
    for _ in range(2):
        made.receive(1, Chunk(id=one.request.id, samples=SECOND), 0.1)
    assert made.take(one, 0.2) == SECOND
    assert made.data_to_send() == [(1, Backlog(id=one.request.id, ms=1000))]
    made.receive(1, Done(id=one.request.id), 0.3)
    assert made.take(one, 0.4) == SECOND
    assert made.data_to_send() == [], "it has nothing to do with the piece any more"


def test_other_workers_are_not_told() -> None:
    made = schedule()
    one = made.ask(piece("one"), 0.0)
    made.data_to_send()
    made.receive(1, Chunk(id=one.request.id, samples=SECOND), 0.1)
    assert made.take(one, 0.2) == SECOND
    assert made.data_to_send() == []


def test_a_worker_learns_when_a_piece_will_be_wanted() -> None:
    made = pacing()
    made.ask(piece("now"), 5.0)
    made.ask(piece("later"), 5.0, in_s=1.25)
    due = [message.due_ms for _, message in made.data_to_send() if isinstance(message, Speak)]
    assert due == [0, 1250]


def test_what_a_worker_refuses_is_not_tried_again_and_is_the_callers_to_change() -> None:
    made = schedule(workers=2)
    one = made.ask(piece("[yodel]"), 0.0)
    made.data_to_send()
    made.receive(1, Refused(id=one.request.id, message="[yodel] is no tag"), 0.1)
    assert made.data_to_send() == []
    assert (one.state, one.failure) == (State.FAILED, "[yodel] is no tag")
    assert one.blame is UnsuitableUtterance
