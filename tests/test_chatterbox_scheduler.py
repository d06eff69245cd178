"""Which stream's work is done next, on a device that is a list of what it was asked."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest

from engines.chatterbox.scheduler import Scheduler, Task, Work, halves
from engines.chatterbox.studio import Studio
from engines.engine import EngineBusy, UnsuitableUtterance
from engines.wire import (
    Backlog,
    Cancel,
    Chunk,
    Done,
    Failed,
    Hello,
    Message,
    Ping,
    Pong,
    Refused,
    Speak,
    Stopped,
    WireError,
)
from tests.engines_support import piece

TOKEN_BYTES = 640
"""Of a token's 40 ms at 8 kHz."""

SECONDS = {Work.STEP: 0.002, Work.FLOW: 0.010, Work.WAVE: 0.005}
LOOKAHEAD = 3


@dataclasses.dataclass
class Made:
    key: int
    ready: int
    ended: bool
    failure: str = ""


@dataclasses.dataclass
class FakeStream:
    length: int
    known: int = 0
    out: int = 0
    framed: int = 0


class FakeDevice:
    """Speaks as many tokens as a text has characters; each work takes its time on a clock of its own.

    fits  so many streams of a hop at a time have memory enough
    """

    def __init__(self, *, slots: int = 99, fits: int = 99) -> None:
        self.now, self.slots, self.fits = 0.0, slots, fits
        self.streams: dict[int, FakeStream] = {}
        self.done: list[tuple[Work, tuple[int, ...], tuple[int, ...]]] = []
        self.closed: list[int] = []
        self.sick: dict[int, str] = {}

    def begin(self, piece: Speak) -> None:
        if piece.text == "[refused]":
            raise UnsuitableUtterance("no such tag")
        if len(self.streams) >= self.slots:
            raise EngineBusy("no slot", retry_after_s=1.0)
        self.streams[piece.id] = FakeStream(length=len(piece.text))

    def close(self, key: int) -> None:
        self.closed.append(key)
        self.streams.pop(key, None)

    def rows(self, key: int, count: int) -> int:
        return count

    def step(self) -> list[Made]:
        self.now += SECONDS[Work.STEP]
        made = []
        running = {key: stream for key, stream in self.streams.items() if stream.known < stream.length}
        self.done.append((Work.STEP, tuple(running), ()))
        for key, stream in running.items():
            stream.known += 1
            ended = stream.known == stream.length
            ready = stream.known - stream.out - (0 if ended else LOOKAHEAD)
            made.append(Made(key, max(ready, 0), ended, "broken" if self.sick.get(key) == "step" else ""))
        return made

    def flow(self, keys: Sequence[int], counts: Sequence[int]) -> None:
        if len(keys) > self.fits or any(self.sick.get(key) == "memory" for key in keys):
            raise MemoryError
        self.now += SECONDS[Work.FLOW]
        self.done.append((Work.FLOW, tuple(keys), tuple(counts)))
        for key, count in zip(keys, counts, strict=True):
            self.streams[key].framed, self.streams[key].out = count, self.streams[key].out + count

    def wave(self, keys: Sequence[int]) -> list[bytes | None]:
        self.now += SECONDS[Work.WAVE]
        self.done.append((Work.WAVE, tuple(keys), ()))
        return [None if self.sick.get(key) == "wave" else bytes(TOKEN_BYTES * self.streams[key].framed) for key in keys]

    def clock(self) -> float:
        return self.now


def studio_of(device: FakeDevice, *texts: str, **fields: object) -> Studio:
    studio = Studio(device, device.clock)
    for number, text in enumerate(texts, 1):
        studio.receive(piece(text, id=number, **fields), device.now)
    return studio


def finish(studio: Studio) -> list[Message]:
    """Work until there is none, and what was said meanwhile."""
    said = studio.data_to_send()
    for _ in range(100_000):
        if not studio.busy:
            return said
        studio.work()
        said += studio.data_to_send()
    raise AssertionError("it never ends")


def heard(said: list[Message], key: int) -> int:
    """Tokens of a stream whose samples came."""
    return (
        sum(len(message.samples) for message in said if isinstance(message, Chunk) and message.id == key) // TOKEN_BYTES
    )


# The order of work.


def test_a_stream_goes_round_by_steps_flow_and_wave() -> None:
    device = FakeDevice()
    said = finish(studio_of(device, "a" * 30))
    assert heard(said, 1) == 30
    assert said[-1] == Done(id=1)
    hops = [(work, counts) for work, _, counts in device.done if work is not Work.STEP]
    assert device.done[:7] == [(Work.STEP, (1,), ())] * 7, "four tokens, and three to look ahead at"
    assert device.done[7:9] == [(Work.FLOW, (1,), (4,)), (Work.WAVE, (1,), ())]
    flow, wave = Work.FLOW, Work.WAVE
    lengths = [(4,), (6,), (15,), (5,)]
    assert hops == [each for counts in lengths for each in ((flow, counts), (wave, ()))]


def test_whoever_has_heard_nothing_comes_before_all_who_have() -> None:
    scheduler = Scheduler()
    scheduler.open(1, now=0.0, due=0.0)
    scheduler.tokens(1, ready=25)
    task = scheduler.next(0.0)
    assert task
    scheduler.took(task, 0.01)
    scheduler.took(Task(Work.WAVE, (1,), task.counts), 0.005)
    scheduler.delivered(1, 160, 0.02)
    scheduler.open(2, now=5.0, due=5.0)
    scheduler.tokens(2, ready=4)
    # The first one has had nothing to hear for 4.8 s; both are served, the new one in front.
    assert scheduler.next(5.0) == Task(Work.FLOW, (2, 1), (4, 4))


def test_the_earliest_deadline_says_what_is_done_and_others_come_along() -> None:
    scheduler = Scheduler()
    for key, due in ((1, 3.0), (2, 1.0), (3, 2.0)):
        scheduler.open(key, now=0.0, due=due)
    scheduler.tokens(1, ready=4)
    scheduler.tokens(3, ready=4)
    assert scheduler.next(0.0) == Task(Work.STEP, (2, 3, 1))
    scheduler.tokens(2, ready=4)
    assert scheduler.next(0.0) == Task(Work.FLOW, (2, 3, 1), (4, 4, 4))


def test_frames_wait_for_the_vocoder_no_longer_than_a_stream_that_is_more_urgent() -> None:
    scheduler = Scheduler(batch=1)
    for key, due in ((1, 1.0), (2, 2.0)):
        scheduler.open(key, now=0.0, due=due)
        scheduler.tokens(key, ready=4, ended=True)
    first = scheduler.next(0.0)
    assert first == Task(Work.FLOW, (1,), (4,))
    scheduler.took(first, 0.01)
    assert scheduler.next(0.01) == Task(Work.WAVE, (1,), (4,))
    scheduler.backlog(1, 5000, 0.01)
    assert scheduler.next(0.01) == Task(Work.FLOW, (2,), (4,))


def test_a_batch_has_no_more_streams_and_rows_than_fit_padding_included() -> None:
    scheduler = Scheduler(batch=3, room=40, rows=lambda key, count: 10 * key)
    for key in (1, 2, 3, 4):
        scheduler.open(key, now=0.0, due=float(key))
        scheduler.tokens(key, ready=4)
    assert scheduler.next(0.0) == Task(Work.FLOW, (1, 2), (4, 4)), "three would be 90 rows"
    scheduler.close(1)
    scheduler.close(2)
    scheduler.close(3)
    assert scheduler.next(0.0) == Task(Work.FLOW, (4,), (4,))


def test_hops_grow_with_what_waits_to_be_heard() -> None:
    scheduler = Scheduler()
    scheduler.open(1, now=0.0, due=0.0)
    scheduler.tokens(1, ready=50)
    counts = []
    now = 0.0
    for _ in range(4):
        task = scheduler.next(now)
        assert task
        counts.append(task.counts[0])
        now += 0.08
        scheduler.took(task, 0.08)
        scheduler.took(Task(Work.WAVE, (1,), task.counts), 0.02)
        scheduler.delivered(1, 40 * task.counts[0], now)
    assert counts == [4, 4, 15, 25], "160 ms are not twice the 100 that a hop takes, 240 are"


def test_hops_of_a_steady_stream_depend_on_nothing_but_what_it_says() -> None:
    lengths = []
    for others in ("", "b" * 80):
        device = FakeDevice()
        studio = Studio(device, device.clock)
        studio.receive(piece("a" * 120, id=1, seed=7), 0.0)
        for number, text in enumerate([others] * 5, 2):
            if text:
                studio.receive(piece(text, id=number), 0.0)
        finish(studio)
        lengths.append([counts[keys.index(1)] for work, keys, counts in device.done if work is Work.FLOW and 1 in keys])
    assert lengths[0] == lengths[1] == [4, 6, 15, 25, 25, 25, 20]


def test_what_waits_untaken_puts_a_deadline_off_and_never_forward() -> None:
    scheduler = Scheduler()
    for key in (1, 2):
        scheduler.open(key, now=0.0, due=1.0)
        scheduler.tokens(key, ready=4)
    scheduler.backlog(1, 3000, 0.0)
    assert scheduler.next(0.0) == Task(Work.FLOW, (2, 1), (4, 4))
    scheduler.backlog(1, 0, 0.0)
    assert scheduler.next(0.0) == Task(Work.FLOW, (2, 1), (4, 4))
    scheduler.backlog(99, 10, 0.0)


def test_sound_that_comes_after_its_deadline_is_counted() -> None:
    scheduler = Scheduler()
    scheduler.open(1, now=0.0, due=0.0)
    scheduler.delivered(1, 100, 0.5)
    assert (scheduler.late, scheduler.late_s) == (0, 0.0), "nobody can be late with the first sound"
    scheduler.delivered(1, 100, 0.55)
    scheduler.delivered(1, 100, 0.95)
    assert scheduler.late == 1
    assert scheduler.late_s == pytest.approx(0.25)


def test_halves_have_all_of_a_task() -> None:
    assert halves(Task(Work.FLOW, (1, 2, 3), (4, 5, 6))) == (
        Task(Work.FLOW, (1,), (4,)),
        Task(Work.FLOW, (2, 3), (5, 6)),
    )
    assert halves(Task(Work.FLOW, (1,), (4,))) == (Task(Work.FLOW, (1,), (4,)),)


# What the host says and hears.


def test_a_ping_is_answered_between_two_pieces_of_work() -> None:
    studio = studio_of(FakeDevice(), "a" * 10)
    studio.receive(Ping(), 0.0)
    assert studio.data_to_send() == [Pong()]


def test_a_host_that_says_what_only_workers_say_is_none() -> None:
    with pytest.raises(WireError, match="a host does not say Hello"):
        studio_of(FakeDevice()).receive(
            Hello(version="", concurrency=1, ssml=False, source_rate_hz=0, piece_characters=1, voices=()), 0.0
        )


@pytest.mark.parametrize("steps", range(0, 60, 3))
def test_cancelling_at_every_stage_frees_the_slot_at_once_and_nothing_follows(steps: int) -> None:
    device = FakeDevice()
    studio = studio_of(device, "a" * 40, "b" * 40)
    for _ in range(steps):
        studio.work()
    before = studio.data_to_send()
    studio.receive(Cancel(id=1), device.now)
    after = finish(studio)
    if Done(id=1) in before:
        assert Stopped(id=1) not in after
    else:
        assert after[0] == Stopped(id=1)
        assert not [message for message in after[1:] if getattr(message, "id", 0) == 1]
    assert heard(before, 2) + heard(after, 2) == 40
    assert not device.streams


def test_what_cannot_be_said_is_refused_and_disturbs_nobody() -> None:
    said = finish(studio_of(FakeDevice(), "[refused]", "b" * 10))
    assert Refused(id=1, message="no such tag") in said
    assert heard(said, 2) == 10


def test_a_text_for_which_there_is_no_slot_fails() -> None:
    said = finish(studio_of(FakeDevice(slots=1), "a" * 10, "b" * 10))
    assert Failed(id=2, message="no slot") in said
    assert heard(said, 1) == 10


@pytest.mark.parametrize("where", ["step", "wave"])
def test_a_stream_of_what_is_no_number_fails_alone_and_leaves_its_slot(where: str) -> None:
    device = FakeDevice()
    device.sick[2] = where
    studio = studio_of(device, "a" * 30, "b" * 30, "c" * 30)
    said = finish(studio)
    assert [message.id for message in said if isinstance(message, Failed)] == [2]
    assert (heard(said, 1), heard(said, 2), heard(said, 3)) == (30, 0, 30)
    assert studio.broken == 1
    assert 2 in device.closed


def test_when_memory_is_short_fewer_streams_are_worked_on_at_a_time() -> None:
    device = FakeDevice(fits=3)
    studio = studio_of(device, *["a" * 20] * 8)
    said = finish(studio)
    assert [heard(said, key) for key in range(1, 9)] == [20] * 8
    assert studio.scheduler.batch == 2
    assert not [message for message in said if isinstance(message, Failed)]


def test_what_is_too_large_even_alone_is_given_up_and_all_others_go_on() -> None:
    device = FakeDevice()
    device.sick[1] = "memory"
    said = finish(studio_of(device, "a" * 20, "b" * 20))
    assert Failed(id=1, message="there is not enough memory on the device for this utterance") in said
    assert heard(said, 2) == 20


def test_a_thousand_at_once_are_all_served_and_first_sounds_go_first() -> None:
    device = FakeDevice(slots=1000)
    said = finish(studio_of(device, *["a" * 8] * 1000))
    firsts: set[int] = set()
    order = [message.id for message in said if isinstance(message, Chunk)]
    for position, key in enumerate(order):
        if key in firsts:
            assert position >= 1000, "nobody hears more before all have heard something"
            break
        firsts.add(key)
    assert all(heard(said, key) == 8 for key in range(1, 1001))


def test_a_backlog_reaches_the_schedule() -> None:
    device = FakeDevice()
    studio = studio_of(device, "a" * 60, "b" * 60)
    for _ in range(2):
        studio.work()
    studio.receive(Backlog(id=1, ms=60_000), device.now)
    said = finish(studio)
    first = {key: next(i for i, m in enumerate(said) if isinstance(m, Chunk) and m.id == key) for key in (1, 2)}
    assert first[2] < first[1]


def test_samples_that_fit_into_no_packet_come_in_several() -> None:
    device = FakeDevice()
    studio = studio_of(device, "a" * 10)
    studio._send(1, bytes(200_000))
    assert [len(message.samples) for message in studio.data_to_send() if isinstance(message, Chunk)] == [
        96_000,
        96_000,
        8_000,
    ]
