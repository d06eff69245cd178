"""Engines as their users meet them: real worker processes that are killed, stopped, flooded and left alone."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
import pytest_asyncio

from engines import (
    ENGINES,
    EngineBusy,
    EngineFailure,
    EngineState,
    UnknownVoice,
    UnsuitableUtterance,
    Utterance,
    open_engine,
)
from engines.pieces import MOST_CHARACTERS, MOST_SSML_CHARACTERS
from engines.pool import WorkerPool, open_pool
from engines.schedule import Limits
from tests.engines_support import PRACTICE, children, is_gone, say, tone_of

_LOG = logging.getLogger(__name__)

pytestmark = pytest.mark.asyncio(loop_scope="module")

SENTENCE = "The quick brown fox jumps over the lazy dog. "


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def espeak() -> AsyncIterator[WorkerPool]:
    async with open_pool("espeak", {}, workers=1, default_voice="en-us") as pool:
        yield pool


@pytest_asyncio.fixture(loop_scope="module")
async def two_tones() -> AsyncIterator[WorkerPool]:
    async with open_pool("tone", {"concurrency": 1}, workers=2) as pool:
        yield pool


async def until(condition: object, *, within_s: float = 10.0) -> float:
    """Wait for a condition; return how long it took."""
    assert callable(condition)
    began = time.perf_counter()
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 (it is about other processes)
            await asyncio.sleep(0.002)
    return time.perf_counter() - began


def _of_process(pid: int, what: str) -> str:
    return Path(f"/proc/{pid}/{what}").read_text()


# Speech.


async def test_streamed_speech_is_the_same_every_time_and_on_every_worker(espeak: WorkerPool) -> None:
    first = await say(espeak, PRACTICE)
    async with open_engine("espeak", workers=2) as other:
        several = await asyncio.gather(*(say(other, PRACTICE) for _ in range(4)))
    assert len(first) > 15 * 16000
    assert several == [first] * 4


@pytest.mark.parametrize("rate_hz", [8000, 16000, 24000])
async def test_chunks_are_whole_samples_at_the_rate_asked_for(espeak: WorkerPool, rate_hz: int) -> None:
    chunks = [pcm async for pcm in espeak.synthesize(Utterance(text=PRACTICE, rate_hz=rate_hz))]
    assert {pcm.rate_hz for pcm in chunks} == {rate_hz}
    assert all(pcm.samples and len(pcm.samples) % 2 == 0 for pcm in chunks)
    assert 20 <= chunks[0].duration_ms <= 120
    assert max(pcm.duration_ms for pcm in chunks) <= 1100
    assert 17000 < sum(pcm.duration_ms for pcm in chunks) < 19000


async def test_the_first_chunk_comes_soon_and_speech_is_made_faster_than_it_is_heard(espeak: WorkerPool) -> None:
    await say(espeak, SENTENCE)
    waits = []
    for _ in range(5):
        began = time.perf_counter()
        async with aclosing(espeak.synthesize(Utterance(text=PRACTICE))) as speech:
            await anext(speech)
        waits.append(time.perf_counter() - began)
    began = time.perf_counter()
    audio_s = len(await say(espeak, PRACTICE)) / 16000
    took_s = time.perf_counter() - began
    _LOG.info("first chunk after %.1f ms; real-time factor %.4f", sorted(waits)[2] * 1000, took_s / audio_s)
    assert sorted(waits)[2] < 0.5
    assert took_s < audio_s / 10


async def test_ssml_is_spoken(espeak: WorkerPool) -> None:
    short = await say(espeak, "<speak>One two.</speak>", ssml=True)
    long = await say(espeak, "<speak>One <break time='1s'/> two.</speak>", ssml=True)
    assert 0.9 * 16000 < len(long) - len(short) < 1.4 * 16000


async def test_what_continues_ends_with_the_pause_of_its_punctuation(espeak: WorkerPool) -> None:
    ends = {text: await say(espeak, text) for text in ("One two three.", "One two three")}
    pauses = {text: len(await say(espeak, text, continues=True)) - len(end) for text, end in ends.items()}
    assert pauses["One two three."] > 0.2 * 16000
    assert pauses["One two three"] == 0


async def test_voices_and_languages_are_heard(espeak: WorkerPool) -> None:
    assert espeak.voices()[0].id == "en-us"
    assert len(espeak.voices()) > 100
    texts = {
        await say(espeak, "Hotel", voice=voice, language=language)
        for voice, language in (("default", ""), ("default", "de-DE"), ("fr", ""), ("en-us+f3", ""), ("en-us+f3", "de"))
    }
    assert len(texts) == 5
    assert await say(espeak, "Hotel", language="de-DE") == await say(espeak, "Hotel", voice="de")


async def test_the_engine_names_itself(espeak: WorkerPool) -> None:
    assert espeak.name == "espeak"
    assert espeak.version.startswith("espeak-ng 1.")
    health = espeak.health()
    assert (health.state, health.detail, health.workers, health.restarts) == (EngineState.READY, "", 1, 0)


async def test_the_host_never_loads_espeak_ng(espeak: WorkerPool) -> None:
    await say(espeak, SENTENCE)
    assert "libespeak" not in _of_process(os.getpid(), "maps")
    [speaking_half] = children(espeak.worker_pids[0])
    assert "libespeak" in _of_process(speaking_half, "maps")


# What is refused.


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"text": ""}, "nothing to say"),
        ({"text": " \n\t "}, "nothing to say"),
        ({"text": "...?!"}, "nothing to say"),
        ({"text": "\x00\x01"}, "nothing to say"),
        ({"text": "a", "rate_hz": 44100}, "rate_hz is 44100"),
        ({"text": "a", "speed": 0.1}, "speed is 0.1"),
        ({"text": "a", "speed": float("nan")}, "speed is nan"),
        ({"text": "a", "speed": 4.1}, "speed is 4.1"),
        ({"text": "a", "seed": 0}, "not supported by this engine: .* leave seed out"),
        ({"text": "a", "language": "tlh"}, "no voice speaks the language 'tlh'"),
        ({"text": "a" * (MOST_CHARACTERS + 1)}, "may have 100000 characters, this one has 100001"),
        ({"text": "<speak>" + "a" * MOST_SSML_CHARACTERS + "</speak>", "ssml": True}, "may have 20000 characters"),
        ({"text": "Hello.", "ssml": True}, "not well-formed"),
    ],
)
async def test_what_cannot_be_spoken_is_refused_before_the_first_chunk(
    espeak: WorkerPool, fields: dict[str, object], complaint: str
) -> None:
    utterance = Utterance(**fields)  # type: ignore[arg-type]
    with pytest.raises(UnsuitableUtterance, match=complaint):
        espeak.check(utterance)
    with pytest.raises(UnsuitableUtterance, match=complaint):
        await anext(espeak.synthesize(utterance))


async def test_an_unknown_voice_is_refused(espeak: WorkerPool) -> None:
    with pytest.raises(UnknownVoice, match="there is no voice 'en-uk'; did you mean"):
        espeak.check(Utterance(text="a", voice="en-uk"))


@pytest.mark.parametrize(
    "text", ["a\x00b", "a\ud800b", "\x0190Sa", "a\u0300" * 300, "\U0001f600" * 60, "1" * 400, "\ufeffa"]
)
async def test_strange_characters_are_spoken_around(espeak: WorkerPool, text: str) -> None:
    assert len(await say(espeak, text)) > 1000


async def test_a_megabyte_of_text_is_refused_and_the_longest_text_starts_at_once(espeak: WorkerPool) -> None:
    with pytest.raises(UnsuitableUtterance, match="cut it up"):
        espeak.check(Utterance(text="x " * 500_000))
    longest = (SENTENCE * 3000)[:MOST_CHARACTERS]
    began = time.perf_counter()
    async with aclosing(espeak.synthesize(Utterance(text=longest))) as speech:
        await anext(speech)
    assert time.perf_counter() - began < 1.0


async def test_the_tone_engine_does_not_understand_ssml(two_tones: WorkerPool) -> None:
    with pytest.raises(UnsuitableUtterance, match="does not understand SSML"):
        two_tones.check(Utterance(text="<speak>a</speak>", ssml=True))


# Fairness, and memory.


async def test_a_first_clause_overtakes_a_long_text() -> None:
    async with open_pool("tone", {"concurrency": 1, "delay_ms": 20}, workers=1) as pool:
        long = asyncio.create_task(say(pool, SENTENCE * 60))
        await asyncio.sleep(0.1)
        began = time.perf_counter()
        await say(pool, "Another call.")
        assert time.perf_counter() - began < 0.5
        assert not long.done()
        assert await long == tone_of(SENTENCE * 60)


async def test_twenty_long_utterances_progress_together(espeak: WorkerPool) -> None:
    progress = [0.0] * 20
    at_first_end: list[float] = []

    async def listen(number: int) -> None:
        async for pcm in espeak.synthesize(Utterance(text=f"Number {number}. " + SENTENCE * 12)):
            progress[number] += pcm.duration_ms
        if not at_first_end:
            at_first_end.extend(progress)

    await asyncio.gather(*(listen(number) for number in range(20)))
    assert min(at_first_end) > 0.5 * max(at_first_end)


async def test_a_slow_listener_holds_little_and_hears_everything() -> None:
    text = SENTENCE * 25
    limits = Limits(most_ahead_s=2.0, least_ahead_s=1.0)
    document = f"<speak>{text}</speak>"
    async with open_pool("espeak", {}, workers=1, limits=limits) as pool:
        whole = await say(pool, document, ssml=True)
        heard = b""
        async with aclosing(pool.synthesize(Utterance(text=document, ssml=True))) as speech:
            async for pcm in speech:
                heard += pcm.samples
                held = max(piece.ahead_s for piece in pool._crew._waiting)
                assert held <= 2.0 + 40.0  # what was on its way in the socket
                await asyncio.sleep(0.001)
        assert heard == whole


async def test_when_the_queue_is_full_the_engine_is_busy() -> None:
    async with open_pool("tone", {"concurrency": 1, "delay_ms": 500}, workers=1, limits=Limits(queue=3)) as pool:
        tasks = [asyncio.create_task(say(pool, f"Call {number}.")) for number in range(4)]
        await asyncio.sleep(0.05)
        with pytest.raises(EngineBusy) as busy:
            await say(pool, "One too many.")
        assert busy.value.retry_after_s >= 1.0
        assert pool.health().active == 4
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await until(lambda: pool.health().active == 0)
        assert await say(pool, "Now.") == tone_of("Now.")


# Listeners that leave.


async def test_closing_the_iterator_stops_the_work_and_frees_the_worker() -> None:
    async with open_pool("tone", {"concurrency": 1, "delay_ms": 60_000, "word": "slow"}, workers=1) as pool:
        waiting = asyncio.create_task(say(pool, "slow"))
        await asyncio.sleep(0.1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        began = time.perf_counter()
        assert await say(pool, "quick") == tone_of("quick")
        took_s = time.perf_counter() - began
        _LOG.info("worker freed and speaking again after %.1f ms", took_s * 1000)
        assert took_s < 0.5
        assert pool.health().active == 0


async def test_an_utterance_left_after_its_first_chunk_is_spoken_no_further(espeak: WorkerPool) -> None:
    for _ in range(20):
        async with aclosing(espeak.synthesize(Utterance(text=SENTENCE * 100))) as speech:
            await anext(speech)
    assert espeak.health().active == 0
    await until(lambda: not espeak._crew._schedule._workers[1].pieces)
    assert espeak._crew._schedule.waiting == 0
    assert espeak._crew._waiting == {}


# Workers that die.


async def test_a_worker_killed_in_mid_sentence_is_not_heard_and_back_within_a_second() -> None:
    text = PRACTICE * 3
    async with open_engine("espeak", workers=2) as undisturbed:
        expected = await say(undisturbed, text)
    async with open_pool("espeak", {}, workers=1, default_voice="en-us") as pool:
        heard = b""
        killed_at = 0.0
        async for pcm in pool.synthesize(Utterance(text=text)):
            heard += pcm.samples
            if not killed_at:
                os.kill(pool.worker_pids[0], signal.SIGKILL)
                killed_at = time.perf_counter()
                await until(lambda: pool.health().workers == 0)
                back_after_s = await until(lambda: pool.health().workers == 1)
        _LOG.info("worker back after %.0f ms", back_after_s * 1000)
        assert heard == expected
        assert back_after_s < 2.0
        assert pool.health().restarts == 1
        assert pool.health().detail == ""


async def test_killing_workers_all_the_time_changes_no_sample() -> None:
    text = PRACTICE * 4
    async with open_pool("espeak", {}, workers=2, limits=Limits(attempts=1000)) as pool:
        expected = await say(pool, text)

        async def kill() -> None:
            for _ in range(6):
                await asyncio.sleep(0.06)
                for pid in pool.worker_pids[:1]:
                    os.kill(pid, signal.SIGKILL)

        killer = asyncio.create_task(kill())
        heard = await asyncio.gather(*(say(pool, text) for _ in range(4)))
        killer.cancel()
        assert heard == [expected] * 4
        assert pool.health().restarts >= 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
async def test_a_worker_whose_speaking_half_dies_is_replaced(number: signal.Signals) -> None:
    async with open_pool("tone", {"concurrency": 1}, workers=1) as pool:
        [pid] = pool.worker_pids
        [speaking_half] = children(pid)
        os.kill(speaking_half, number)
        await until(lambda: pool.health().workers == 0)
        await until(lambda: f"worker {pid} exited with status {128 + number}" in pool.health().detail)
        assert await say(pool, SENTENCE) == tone_of(SENTENCE)


async def test_while_one_worker_is_replaced_another_speaks(two_tones: WorkerPool) -> None:
    os.kill(two_tones.worker_pids[0], signal.SIGKILL)
    assert await say(two_tones, SENTENCE) == tone_of(SENTENCE)
    await until(lambda: two_tones.health().workers == 2)


async def test_a_piece_that_crashes_once_is_spoken_again() -> None:
    async with open_pool("tone", {"crash_at_ms": 600, "crashes": 1}, workers=1) as pool:
        assert await say(pool, SENTENCE) == tone_of(SENTENCE)
        assert pool.health().restarts == 0  # a copy died, not the worker


async def test_a_piece_that_crashes_twice_fails_and_the_others_do_not() -> None:
    async with open_pool("tone", {"crash_at_ms": 600, "crashes": 2, "word": "bad"}, workers=1) as pool:
        bad, good = await asyncio.gather(say(pool, "bad " * 10), say(pool, "good " * 10), return_exceptions=True)
        assert isinstance(bad, EngineFailure)
        assert str(bad) == "a piece of speech broke 2 times; at last the engine was killed"
        assert good == tone_of("good " * 10)


async def test_a_stopped_worker_is_replaced_and_its_piece_spoken_again() -> None:
    limits = Limits(stall_s=0.5, ping_s=0.1)
    async with open_pool("tone", {"concurrency": 1}, workers=1, limits=limits) as pool:
        [pid] = pool.worker_pids
        os.kill(pid, signal.SIGSTOP)
        assert await say(pool, SENTENCE) == tone_of(SENTENCE)
        assert pool.worker_pids != (pid,)
        assert is_gone(pid, within_s=1)


async def test_an_idle_stopped_worker_is_replaced_before_anybody_needs_it() -> None:
    async with open_pool("tone", {}, workers=1, limits=Limits(stall_s=0.5, ping_s=0.1)) as pool:
        [pid] = pool.worker_pids
        os.kill(pid, signal.SIGSTOP)
        await until(lambda: pool.worker_pids not in ((pid,), ()))


async def test_a_copy_that_makes_nothing_is_given_up() -> None:
    options = {"gap_at_ms": 300, "gap_ms": 60_000, "word": "stuck"}
    limits = Limits(stall_s=0.4, ping_s=0.1)
    async with open_pool("tone", options, workers=1, limits=limits) as pool:
        with pytest.raises(EngineFailure, match="broke 2 times; at last the worker made nothing of a piece for"):
            await say(pool, "I am stuck.")
        assert await say(pool, "I am not.") == tone_of("I am not.")


async def test_an_engine_that_does_not_start_says_why() -> None:
    with pytest.raises(EngineFailure, match=r"espeak does not start: .*TypeError.*volume"):
        async with open_pool("espeak", {"volume": 1}, workers=2):
            pass


async def test_workers_that_cannot_come_back_make_the_engine_fail(
    two_tones: WorkerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    await until(lambda: len(two_tones.worker_pids) == 2)
    waiting = asyncio.create_task(say(two_tones, "slow"))
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    for pid in two_tones.worker_pids:
        os.kill(pid, signal.SIGKILL)
    await until(lambda: two_tones.health().state is EngineState.FAILED)
    assert "cannot be started" in two_tones.health().detail
    with pytest.raises(EngineFailure, match="the engine tone is down: a worker process cannot be started"):
        await say(two_tones, SENTENCE)
    await asyncio.wait([waiting])
    assert isinstance(waiting.exception(), EngineFailure)
    monkeypatch.undo()
    await until(lambda: two_tones.health().state is EngineState.READY)
    assert await say(two_tones, SENTENCE) == tone_of(SENTENCE)


# The end.


def _descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


async def test_closing_leaves_no_process_and_no_descriptor() -> None:
    async with open_pool("tone", {}, workers=1):
        pass  # whatever the first time opens for good
    before = (_descriptors(), children(os.getpid()), asyncio.all_tasks())
    async with open_pool("tone", {"delay_ms": 60_000}, workers=2) as pool:
        speaking = [asyncio.create_task(say(pool, SENTENCE)) for _ in range(3)]
        await until(lambda: len(pool.worker_pids) == 2)
        pids = pool.worker_pids
        os.kill(pids[0], signal.SIGKILL)
        await until(lambda: len(pool.worker_pids) == 2 and pids[0] not in pool.worker_pids)
        pids += pool.worker_pids
    for task in speaking:
        with pytest.raises(EngineFailure, match="the engine tone was closed"):
            await task
    assert (_descriptors(), children(os.getpid()), asyncio.all_tasks()) == before
    assert all(is_gone(pid, within_s=0) for pid in pids)


async def test_closing_while_the_workers_start_leaves_nothing_either() -> None:
    before = (_descriptors(), children(os.getpid()))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05), open_pool("espeak", {}, workers=2):
            pass
    assert (_descriptors(), children(os.getpid())) == before


async def test_an_error_of_the_host_passes_through() -> None:
    with pytest.raises(ZeroDivisionError):
        async with open_engine("tone", workers=1):
            raise ZeroDivisionError


# By name.


async def test_engines_are_opened_by_name() -> None:
    assert ENGINES == ("chatterbox", "espeak", "remote", "tone")
    async with open_engine("espeak", workers=1, default_voice="de", options={"words_per_minute": 100}) as engine:
        assert engine.voices()[0].id == "de"
        slow = await say(engine, "Hallo Welt")
    async with open_engine("espeak", workers=1, default_voice="de") as engine:
        assert len(await say(engine, "Hallo Welt")) < 0.8 * len(slow)


async def test_an_unknown_default_voice_is_refused_at_the_start() -> None:
    with pytest.raises(UnknownVoice, match="no voice 'nobody'"):
        async with open_engine("tone", workers=1, default_voice="nobody"):
            pass
