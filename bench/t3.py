"""How long a step of Chatterbox's T3 takes for how many streams: scripts/bench t3 [--help]

Random weights of true size: the cost is that of the published ones, what is said is noise. A step makes one token for
each stream, 40 ms of speech; so "in real time" is what a device could carry if it did nothing else. The floor is the
time in which this device can read what a step has to read: the weights once for each tile, and the keys and values that
are in use. How fast it reads is measured here first.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import torch

from engines.chatterbox import t3
from engines.chatterbox.decoder import Decoder, Request
from engines.chatterbox.shapes import MODELS, T3Shape
from engines.chatterbox.weights import random_weights

TOKEN_MS = 40.0
TEXT = 40
READ_BYTES = 2**29


def timed_ms(work: Callable[[], object], device: torch.device) -> float:
    begun = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - begun)


def read_bytes_per_ms(device: torch.device) -> float:
    block = torch.zeros(READ_BYTES // 4, device=device)
    return READ_BYTES / min(timed_ms(block.sum, device) for _ in range(5))


def some_request(shape: T3Shape, seed: int, most: int) -> Request:
    generator = torch.Generator().manual_seed(seed)
    prompt = torch.randint(0, shape.start_speech, (shape.prompt_tokens,), generator=generator).tolist()
    text = torch.randint(1, shape.text_vocabulary, (TEXT,), generator=generator).tolist()
    voice = t3.Prompt(speaker=torch.randn(shape.speaker, generator=generator), tokens=tuple(prompt))
    return Request(prompt=voice, text=tuple(text), seed=seed, most=most, loops=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano", choices=[name for name in MODELS if "tiny" not in name])
    parser.add_argument("--streams", type=int, nargs="+", help="default: 1 2 on a CPU, 1 32 128 256 on a GPU")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="default: single on a CPU, half on a GPU")
    parser.add_argument("--tile", type=int, help="rows of each product; default: 1 on a CPU, 128 on a GPU")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    device, shape = torch.device(asked.device), MODELS[asked.model].t3
    gpu = device.type == "cuda"
    streams = asked.streams or ([1, 32, 128, 256] if gpu else [1, 2])
    tile = asked.tile or (min(128, max(streams)) if gpu else 1)
    dtype: torch.dtype = getattr(torch, asked.dtype or ("bfloat16" if gpu else "float32"))
    name = torch.cuda.get_device_name(device) if gpu else f"{platform.processor() or 'CPU'}, {asked.threads} threads"
    print(f"T3 of {asked.model}, RANDOM WEIGHTS, {dtype}, tiles of {tile}, on {name}, torch {torch.__version__}")
    layout = {key: size for key, size in t3.layout(shape).items() if t3.used(key)}
    weights = random_weights(layout, seed=1)
    # Tables are looked up, not read as a whole.
    active = sum(tensor.numel() for key, tensor in weights.items() if "emb" not in key and "wpe" not in key)
    model = t3.T3(shape, weights, device=device, dtype=dtype, tile=tile)
    rate = read_bytes_per_ms(device)
    print(
        f"reading: {rate / 1e6:.1f} GB/s; a step reads {active * dtype.itemsize / 1e6:.0f} MB of weights for each tile"
    )
    decoder = Decoder(model, slots=max(streams), positions=1024, prefix_bytes=10**9)
    warming = timed_ms(decoder.warm_up, device)
    print(f"warm-up {warming:.0f} ms, caches of {decoder.size_bytes / 1e6:.0f} MB")
    print("| streams | join, new voice | join, known one | step p50 | step max | floor | to the floor | in real time |")
    print("|---:|---:|---:|---:|---:|---:|---:|---:|")
    for count in streams:
        joins, tickets = [], []
        for seed in range(count):
            wanted = some_request(shape, seed % 8, asked.steps + 5)
            begun = time.perf_counter()
            tickets.append(decoder.join(wanted))
            joins.append(1000 * (time.perf_counter() - begun))
        steps = [timed_ms(decoder.step, device) for _ in range(asked.steps)]
        context = shape.prompt_tokens + TEXT + asked.steps // 2
        cached = 2 * shape.layers * shape.width * dtype.itemsize * context * count * model.rows
        tiles = -(-count * model.rows // tile)
        floor = (active * dtype.itemsize * tiles + cached) / rate
        middle = statistics.median(steps)
        known = f"{statistics.median(joins[8:]):.1f} ms" if count > 8 else "-"
        print(
            f"| {count} | {joins[0]:.1f} ms | {known} | {middle:.2f} ms | {max(steps):.2f} ms | {floor:.2f} ms "
            f"| {middle / floor:.1f} | {count * TOKEN_MS / middle:.0f} |"
        )
        for ticket in tickets:
            decoder.cancel(ticket)


if __name__ == "__main__":
    main()
