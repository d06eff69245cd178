"""The engine chatterbox in its worker process and in a call, with a tiny model of random weights: noise, not speech."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import urllib.request
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
import pytest_asyncio
import torch

from bench import gpu
from engines import (
    Engine,
    EngineBusy,
    EngineFailure,
    EngineState,
    Pcm,
    Substitute,
    UnsuitableReference,
    UnsuitableUtterance,
    Unsupported,
    Utterance,
    models,
    open_engine,
)
from engines.chatterbox.checkpoint import random_checkpoint
from engines.chatterbox.mel_stream import Mode
from engines.chatterbox.networks import Networks
from engines.chatterbox.process import capacity
from engines.chatterbox.shapes import TINY
from engines.chatterbox.voice import Voice
from engines.chatterbox.weights import RANDOM_LABEL
from engines.enrolment import Cloning
from mediaserver import server
from tests.chatterbox_flow import some_recording
from tests.chatterbox_support import checkpoint
from tests.engines_support import say
from tests.live import heard, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

TEXT = "Good morning."
STREAMS = 4


def recording(seconds: int) -> bytes:
    return bytes(some_recording(seconds).numpy().tobytes())


def options(**values: object) -> dict[str, object]:
    return {
        "directory": str(checkpoint()),
        "model": "tiny",
        "device": "cpu",
        "threads": 1,
        "streams": STREAMS,
        **values,
    }


@contextlib.asynccontextmanager
async def opened(**values: object) -> AsyncIterator[Engine]:
    async with open_engine("chatterbox", options=options(**values)) as engine:  # type: ignore[arg-type]
        yield engine


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def engine() -> AsyncIterator[Engine]:
    async with opened() as one:
        yield one


async def test_it_says_that_its_weights_are_random_and_where_it_runs(engine: Engine) -> None:
    assert engine.name == "chatterbox"
    assert engine.version.startswith("chatterbox tiny ")
    assert engine.version.endswith("isolated on cpu")
    assert engine.health().detail.startswith("random weights: noise, not speech")
    assert engine.health().state is EngineState.READY
    assert engine.cloning
    assert [voice.language for voice in engine.voices()] == ["en"]
    assert "never speech" in RANDOM_LABEL


@pytest.mark.parametrize("rate_hz", [8000, 16000, 24000])
async def test_samples_come_at_each_rate_in_the_same_length_of_time(engine: Engine, rate_hz: int) -> None:
    samples = await say(engine, TEXT, rate_hz=rate_hz, seed=3)
    in_time = await say(engine, TEXT, rate_hz=24000, seed=3)
    assert len(samples) > rate_hz
    assert len(samples) / rate_hz == pytest.approx(len(in_time) / 24000, abs=0.002)


async def test_sound_comes_before_all_of_it_is_made(engine: Engine) -> None:
    async with aclosing(engine.synthesize(Utterance(text=TEXT))) as speech:
        chunks = [chunk async for chunk in speech]
    assert chunks[0].duration_ms == 160, "four tokens"
    assert sum(chunk.duration_ms for chunk in chunks) % 40 == 0


async def test_a_seed_says_the_same_whatever_is_said_beside_it(engine: Engine) -> None:
    alone = await say(engine, TEXT, seed=5)
    others = [asyncio.create_task(say(engine, f"Another text, number {number}.")) for number in range(3)]
    beside = await say(engine, TEXT, seed=5)
    await asyncio.gather(*others)
    assert beside == alone
    assert await say(engine, TEXT, seed=6) != alone


async def test_a_speed_is_what_was_asked_for(engine: Engine) -> None:
    usual, fast = await say(engine, TEXT, seed=1), await say(engine, TEXT, seed=1, speed=2.0)
    assert len(fast) / len(usual) == pytest.approx(0.5, abs=0.02)


async def test_closing_frees_the_place_at_once(engine: Engine) -> None:
    for _ in range(2 * STREAMS):
        speech = engine.synthesize(Utterance(text=TEXT * 8))
        await anext(speech)
        await speech.aclose()
    assert engine.health().active == 0
    assert await say(engine, "Hello.")


async def test_a_thousand_at_once_are_spoken_or_refused_at_once(engine: Engine) -> None:
    said = await asyncio.gather(*(say(engine, "Hi.") for _ in range(1000)), return_exceptions=True)
    assert sum(isinstance(each, bytes) for each in said) == STREAMS
    refused = [each for each in said if isinstance(each, EngineBusy)]
    assert len(refused) == 1000 - STREAMS
    assert str(refused[0]) == "all 4 places are taken"
    assert await say(engine, "Hi.")


async def test_whom_it_has_no_place_for_the_fallback_speaks() -> None:
    async with open_engine("chatterbox", options=options(streams=1), fallback="espeak") as engine:  # type: ignore[arg-type]
        first = engine.synthesize(Utterance(text=TEXT))
        assert type(await anext(first)) is Pcm
        other = [chunk async for chunk in engine.synthesize(Utterance(text="Hello."))]
        assert other
        assert all(isinstance(chunk, Substitute) for chunk in other)
        await first.aclose()
        again = engine.synthesize(Utterance(text=TEXT))
        assert type(await anext(again)) is Pcm
        await again.aclose()


@pytest.mark.parametrize(
    ("fields", "kind", "message"),
    [
        ({"text": "[yodel] Hello."}, UnsuitableUtterance, r"\[yodel\] is no tag of this engine, which has \[chuckle\]"),
        ({"text": "..."}, UnsuitableUtterance, "nothing to say"),
        ({"text": "<speak/>", "ssml": True}, Unsupported, "does not understand SSML"),
        ({"text": "Guten Tag.", "language": "de"}, UnsuitableUtterance, "no voice speaks the language 'de'"),
    ],
)
async def test_what_it_cannot_say_is_refused_before_anything_is_made(
    engine: Engine, fields: dict[str, object], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        engine.check(Utterance(**fields))  # type: ignore[arg-type]


async def test_what_only_the_worker_can_judge_is_refused_by_it_and_not_tried_again(engine: Engine) -> None:
    with pytest.raises(UnsuitableUtterance, match="no voice of Chatterbox"):
        await say(engine, TEXT, embedding=b"x" * 100)
    assert engine.health().restarts == 0


# Speakers.


async def test_an_enrolled_speaker_is_spoken_for_in_a_voice_of_his_own(engine: Engine) -> None:
    voice = await engine.enrol(recording(6), 24_000)
    assert len(voice) < 50_000, "without the recording, which the host keeps"
    assert engine.embedding_kind.startswith("chatterbox-voice-1-tiny-")
    assert engine.figures(voice) == {}
    usual = await say(engine, TEXT, seed=4)
    theirs = await asyncio.gather(*(say(engine, TEXT, seed=4, embedding=voice) for _ in range(STREAMS)))
    assert theirs[0] != usual
    assert theirs == [theirs[0]] * STREAMS
    one, again = Voice.parse(voice), Voice.parse(await engine.enrol(recording(6), 24_000))
    assert torch.equal(one.mel, again.mel)
    assert torch.equal(one.t3_tokens, again.t3_tokens)
    assert one.weights == again.weights


@pytest.mark.parametrize(("samples", "message"), [(2, "at least 5 s are needed"), (bytes(288_000), "silent")])
async def test_a_recording_of_which_no_voice_can_be_made_is_refused(
    engine: Engine, samples: int | bytes, message: str
) -> None:
    with pytest.raises(UnsuitableReference, match=message):
        await engine.enrol(recording(samples) if isinstance(samples, int) else samples, 24_000)


async def test_a_voice_of_other_weights_is_refused(engine: Engine) -> None:
    voice = Voice.parse(await engine.enrol(recording(6), 24_000))
    foreign = dataclasses.replace(voice, weights="0" * 64)
    with pytest.raises(UnsuitableUtterance, match="other weights have made this voice"):
        await say(engine, TEXT, embedding=foreign.serialise())


async def test_a_process_that_makes_no_voice_in_time_is_killed() -> None:
    with pytest.raises(EngineFailure, match=r"a voice was not made within 0.1 s"):
        await Cloning(checkpoint(), "tiny", patience_s=0.1)(recording(6), 24_000)
    with pytest.raises(EngineFailure, match=r"a voice could not be made: .*s3gen_meanflow.safetensors is missing"):
        await Cloning(Path("/nowhere"), "tiny")(recording(6), 24_000)


# What it can carry.


def some_networks() -> Networks:
    tiny = random_checkpoint("tiny", device=torch.device("cpu"), dtype=torch.float32, tile=1)
    return Networks(tiny, mode=Mode.CAUSAL, slots=2, voice_bytes=10**8, guidance=None)


async def test_how_many_it_takes_at_a_time_is_what_it_keeps_up_with() -> None:
    networks = some_networks()
    assert capacity(networks, 2, seconds=1.0) in (1, 2)
    assert capacity(networks, 2, seconds=0.0) == 1, "it has made nothing, and one is the least"
    await asyncio.sleep(0)
    assert await asyncio.to_thread(capacity, networks, 2, seconds=0.5) in (1, 2), "slots are free again"


async def test_the_bench_runs_anywhere_and_says_that_its_weights_are_random(capsys: pytest.CaptureFixture[str]) -> None:
    usual = ["--device", "cpu", "--tiny", "--seconds", "1", "--threads", "1", "--streams", "1", "2", "--mode", "causal"]
    await asyncio.to_thread(gpu.main, usual)
    heading, _, _, *rows = capsys.readouterr().out.splitlines()
    assert "RANDOM WEIGHTS (random weights: noise, not speech), on" in heading
    assert [row.split("|")[1:3] for row in rows] == [[" causal ", " 1 "], [" causal ", " 2 "]]


async def test_a_late_chunk_is_counted_in_frames_that_were_waited_for() -> None:
    seen, caller = gpu.Seen(), gpu.Caller(asked=0.0)
    seen.hear(caller, 10, 0.1)
    assert seen.firsts == [100.0]
    seen.hear(caller, 10, 0.25)
    assert seen.late == 0, "200 ms last until 0.3 s"
    seen.hear(caller, 10, 0.55)
    assert seen.late == 3, "sound ran out at 0.5 s"
    seen.hear(caller, 10, 0.74)
    assert (seen.late, seen.frames) == (3, 40), "which put off all that follows"


# What is not there.


async def test_a_package_that_is_not_installed_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_NEEDS", ("torch", "no_such_package"))
    with pytest.raises(EngineFailure, match=r"chatterbox needs no_such_package: run pip install 'mediaserver\[chatt"):
        open_engine("chatterbox", options=options())  # type: ignore[arg-type]


async def test_a_file_that_is_missing_is_named_before_a_worker_starts(tmp_path: Path) -> None:
    with pytest.raises(
        EngineFailure, match=r"lacks t3_turbo_v1.safetensors, .*conds.pt.* of the model turbo; mediaserver"
    ):
        open_engine("chatterbox", options={"directory": str(tmp_path)})
    with pytest.raises(EngineFailure, match="the directory /nowhere of the model nano is not there"):
        open_engine("chatterbox", options={"directory": "/nowhere", "model": "nano"})


async def test_a_file_that_is_cut_short_keeps_the_server_from_starting_and_says_which(tmp_path: Path) -> None:
    for path in checkpoint().iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    broken = tmp_path / TINY.files.s3gen
    broken.write_bytes(broken.read_bytes()[:100_000])
    section = {"name": "chatterbox", "model": str(tmp_path), "chatterbox_model": "tiny", "threads": 1, "device": "cpu"}
    with pytest.raises(server.StartError, match=r"engine: .*s3gen_meanflow.safetensors .* is damaged or cut short"):
        async with serving(engine=section):
            pass


# In a call.


async def test_a_call_hears_frames_at_their_pace_and_is_told_apart_from_speech() -> None:
    section = {
        "name": "chatterbox",
        "model": str(checkpoint()),
        "chatterbox_model": "tiny",
        "threads": 1,
        "device": "cpu",
        "streams": 2,
    }
    routes = [{"user": "test", "say": TEXT, "then": "hangup"}]
    async with serving(engine=section, route=routes) as running:
        wanted = await say(running.engine, TEXT)
        outcome = await heard(running, seconds=30)
        assert outcome.answered
        assert outcome.ended_by == "the peer hung up"
        assert outcome.counters
        frames = len(wanted) // 320
        assert outcome.counters.packets_received >= frames
        assert outcome.counters.lost == 0
        assert outcome.seconds == pytest.approx(frames * 0.02, abs=1.5), "no faster than it is heard"
        url = f"http://{running.http_address}/health"
        report = json.loads(await asyncio.to_thread(lambda: urllib.request.urlopen(url).read()))
        assert report["engine_detail"].startswith("random weights: noise, not speech")
        assert report["model_loaded"]
        assert report["gpu_available"] is False
        url = url.replace("/health", "/metrics")
        metrics = await asyncio.to_thread(lambda: urllib.request.urlopen(url).read().decode())
        assert "tts_queue_depth 0.0" in metrics
        assert "tts_gpu_memory_gb 0.0" in metrics
