"""What Chatterbox can carry on a device, and how soon it is heard: scripts/bench gpu [--help]

Random weights of true size, made in memory: the cost is that of the published ones, what is said is NOISE. Callers come
spread over a second, each says one utterance after another, and hears it at its pace from the first sample on. For so
many streams at a time:

    first      from the request to the first samples, p50 and p99
    real-time  seconds that are computed for a second of audio of one stream, were there no other: under 1 it keeps up
    late       frames of 20 ms that came after the listener had heard all before, of all frames
    batch      streams of a hop of the flow in the mean
    memory     that PyTorch has taken on the device

`--device cpu --tiny` runs it anywhere, to see that it runs.
"""

from __future__ import annotations

import argparse
import itertools
import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from engines.chatterbox.checkpoint import RANDOM_NOTICE, random_checkpoint
from engines.chatterbox.mel_stream import Mode
from engines.chatterbox.networks import Networks
from engines.chatterbox.process import capacity, studio_of
from engines.chatterbox.scheduler import Task, Work
from engines.chatterbox.shapes import MODELS
from engines.chatterbox.studio import Studio
from engines.wire import Cancel, Chunk, Done, Failed, Speak

FRAME_BYTES = 320
FRAME_S = 0.02
TEXTS = (
    "Good morning, how can I help you today?",
    "Your appointment is tomorrow at half past ten; please bring the letter and your card.",
    "Please hold the line, somebody will be with you in a moment.",
)


@dataclass(slots=True)
class Caller:
    """One stream: when it was asked for, when sound began, and how much has come."""

    asked: float
    begun: float = 0.0
    frames: int = 0


@dataclass(slots=True)
class Seen:
    """What was seen of so many streams."""

    firsts: list[float] = field(default_factory=list)
    frames: int = 0
    late: int = 0
    failed: int = 0
    batches: list[int] = field(default_factory=list)
    busy_s: float = 0.0

    def hear(self, caller: Caller, count: int, now: float) -> None:
        if not caller.frames:
            caller.begun = now
            self.firsts.append(1000 * (now - caller.asked))
        # How long ago the listener ran out of sound is how much of what comes now is late.
        behind = now - caller.begun - caller.frames * FRAME_S
        if behind > 0:
            self.late += min(count, int(behind / FRAME_S) + 1) if caller.frames else 0
            caller.begun += behind
        caller.frames += count
        self.frames += count


def run(studio: Studio, streams: int, seconds: float) -> Seen:
    """Keep so many callers for so long."""
    seen, numbers, callers = Seen(), itertools.count(1), dict[int, Caller]()
    began = time.perf_counter()
    arrivals = [began + index / streams for index in range(streams)]
    took = studio.scheduler.took

    def noting(task: Task, spent: float) -> None:
        if task.work is Work.FLOW:
            seen.batches.append(len(task.keys))
        took(task, spent)

    studio.scheduler.took = noting  # type: ignore[method-assign]
    while (now := time.perf_counter()) < began + seconds:
        while arrivals and arrivals[0] <= now:
            number, asked = next(numbers), arrivals.pop(0)
            callers[number] = Caller(asked)
            text = TEXTS[number % len(TEXTS)]
            piece = Speak(id=number, text=text, ssml=False, voice="", speed=1.0, rate_hz=8000, last=True)
            studio.receive(piece, time.monotonic())
        if not studio.busy:
            time.sleep(max(min(arrivals, default=now + 0.001) - now, 0.0))
            continue
        studio.work()
        done = time.perf_counter()
        seen.busy_s += done - now
        for message in studio.data_to_send():
            if isinstance(message, Chunk):
                seen.hear(callers[message.id], len(message.samples) // FRAME_BYTES, done)
            elif isinstance(message, Done | Failed):
                caller = callers.pop(message.id)
                seen.failed += isinstance(message, Failed)
                # The next utterance is wanted when this one has been heard.
                arrivals.append(max(done, caller.begun + caller.frames * FRAME_S))
                arrivals.sort()
    for number in callers:
        studio.receive(Cancel(id=number), time.monotonic())
    return seen


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def main(arguments: Sequence[str] | None = None) -> None:
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="turbo", choices=[name for name in MODELS if "tiny" not in name])
    parser.add_argument("--tiny", action="store_true", help="a model for tests instead: its figures mean nothing")
    parser.add_argument("--mode", nargs="+", default=["exact", "isolated", "causal"], choices=[m.value for m in Mode])
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 32, 128, 256, 400] if gpu else [1, 2])
    parser.add_argument("--seconds", type=float, default=20.0, help="for each number of streams")
    parser.add_argument("--device", default="cuda" if gpu else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    asked = parser.parse_args(arguments)
    torch.set_num_threads(asked.threads)
    device = torch.device(asked.device)
    on_gpu = device.type == "cuda"
    model = "tiny" if asked.tiny else asked.model
    name = torch.cuda.get_device_name(device) if on_gpu else f"{platform.machine()} CPU, {asked.threads} threads"
    print(f"Chatterbox {model}, RANDOM WEIGHTS ({RANDOM_NOTICE}), on {name}, torch {torch.__version__}")
    slots = max(asked.streams)
    checkpoint = random_checkpoint(
        model,
        device=device,
        dtype=torch.bfloat16 if on_gpu else torch.float32,
        tile=min(128, slots) if on_gpu else 1,
    )
    print("| mode | streams | first p50 | first p99 | real-time | late | batch | failed | memory |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for mode in asked.mode:
        networks = Networks(checkpoint, mode=Mode(mode), slots=slots, voice_bytes=2_000_000_000, guidance=None)
        networks.warm_up()
        capacity(networks, 1, seconds=5.0)  # so that nothing is done for the first time below
        for streams in asked.streams:
            seen = run(studio_of(networks), streams, asked.seconds)
            memory = f"{networks.memory_bytes / 1e9:.1f} GB" if on_gpu else "-"
            factor = seen.busy_s / (seen.frames * FRAME_S) if seen.frames else float("nan")
            half, most = percentile(seen.firsts, 0.5), percentile(seen.firsts, 0.99)
            print(
                f"| {mode} | {streams} | {half:.0f} ms | {most:.0f} ms "
                f"| {factor:.4f} | {seen.late / max(seen.frames, 1):.1e} "
                f"| {statistics.mean(seen.batches or [0]):.1f} | {seen.failed} | {memory} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
