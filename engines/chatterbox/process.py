"""The process that has the device: it loads a model, says Hello, and speaks as many texts at a time as it was told.

    host <── relay.py ──> a thread that reads ──> Studio ──> device

The thread only takes packets from the socket, so that the other side can always go on; everything else, answering a
Ping too, happens between two pieces of work. So a device that hangs is a worker that does not answer, and is replaced.
"""

from __future__ import annotations

import os
import queue
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from engines.chatterbox.checkpoint import RANDOM_NOTICE, Checkpoint, open_checkpoint
from engines.chatterbox.mel_stream import Mode
from engines.chatterbox.networks import Networks
from engines.chatterbox.shapes import MODELS
from engines.chatterbox.studio import Studio
from engines.chatterbox.text import LANGUAGES
from engines.chatterbox.voice import KIND
from engines.engine import EngineError
from engines.wire import PACKET_SIZE, Chunk, Done, Hello, Joiner, Speak, decode, encode

__all__ = ["Settings", "capacity", "serve", "studio_of"]

LOAD_S: Final = 1.0
"""The host is told how much there is to do so often."""

_VOICE: Final = "chatterbox"
_REHEARSED: Final = "Good morning, how can I help you today?"
_DEVICE_SLOTS: Final = {"cpu": 4, "cuda": 64}
_SHARE: Final = 0.8
_BATCHES: Final = {"cpu": 1, "cuda": 32}
"""Streams of a hop at a time. A CPU gains nothing by more, and what it makes of one alone does not depend on others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the worker is told.

    directory    with the files of the model
    model        its name in shapes.MODELS
    device       "cpu", "cuda", "cuda:1"; "" takes a GPU if there is one
    mode         of S3Gen: "exact", "isolated" or "causal"
    streams      texts at a time; 0 has it measured
    threads      of a CPU; 0 for one per core
    voice_mb     for voices that are kept on the device
    cfg_scale    of models with classifier-free guidance; negative for the published one
    """

    directory: str
    model: str = "turbo"
    device: str = ""
    mode: str = "isolated"
    streams: int = 0
    threads: int = 0
    voice_mb: int = 2048
    cfg_scale: float = -1.0


def _device(wanted: str) -> tuple[torch.device, str]:
    """The device, and what is to be said about it. Raises EngineError."""
    there = torch.cuda.is_available()
    if wanted.startswith("cuda") and not there:
        raise EngineError(
            f"device {wanted!r} is not there: PyTorch {torch.__version__} sees no GPU; leave it out for the CPU"
        )
    if wanted or there:
        return torch.device(wanted or "cuda"), ""
    return torch.device("cpu"), "no GPU: it runs on the CPU"


def _open(settings: Settings) -> tuple[Networks, Hello]:
    device, notice = _device(settings.device)
    torch.set_num_threads(settings.threads or os.cpu_count() or 1)
    on_gpu = device.type == "cuda"
    slots = settings.streams or _DEVICE_SLOTS[device.type]
    checkpoint = open_checkpoint(
        Path(settings.directory),
        settings.model,
        device=device,
        dtype=torch.bfloat16 if on_gpu else torch.float32,
        tile=min(slots, 128) if on_gpu else 1,
    )
    networks = Networks(
        checkpoint,
        mode=Mode(settings.mode),
        slots=slots,
        voice_bytes=settings.voice_mb * 1_000_000,
        guidance=None if settings.cfg_scale < 0 else settings.cfg_scale,
    )
    networks.warm_up()
    _rehearse(networks)
    streams = settings.streams or capacity(networks, slots)
    return networks, _hello(checkpoint, networks, streams, notice)


def _hello(checkpoint: Checkpoint, networks: Networks, streams: int, notice: str) -> Hello:
    shape = checkpoint.shape
    languages = LANGUAGES if shape.name == MODELS["multilingual"].name else frozenset({"en"})
    notices = [RANDOM_NOTICE] if checkpoint.random else []
    where = f"{networks.mode.value} on {checkpoint.t3.device.type}"
    return Hello(
        version=f"chatterbox {shape.name} {checkpoint.weights[:8]}, {where}",
        concurrency=streams,
        ssml=False,
        source_rate_hz=0,
        piece_characters=250,
        voices=((_VOICE, f"Chatterbox {shape.name}: the published voice", "en"),),
        languages=dict.fromkeys(sorted(languages), _VOICE),
        cloning=True,
        embedding_kind=f"{KIND}-{shape.name}-{checkpoint.deriving[:16]}",
        speeds=(1.0, 1.0),
        enrolled_speeds=(1.0, 1.0),
        seeds=True,
        even=True,
        tags=tuple(sorted(checkpoint.text.tags)),
        queues=False,
        notice="; ".join([*notices, notice] if notice else notices),
    )


def studio_of(networks: Networks) -> Studio:
    """Requests of a device, that makes as large batches as it is good for."""
    return Studio(networks, time.monotonic, batch=_BATCHES[networks.checkpoint.t3.device.type])


def _piece(number: int, rate_hz: int) -> Speak:
    return Speak(id=number, text=_REHEARSED, ssml=False, voice=_VOICE, speed=1.0, rate_hz=rate_hz, last=True)


def capacity(networks: Networks, slots: int, *, seconds: float = 3.0) -> int:
    """How many streams the device keeps up with, by what it makes of as many as there are slots: one at least.

    Some of what it can do is left, because streams do not come evenly.
    """
    studio = studio_of(networks)
    for number in range(slots):
        studio.receive(_piece(number, 8000), time.monotonic())
    began = now = time.monotonic()
    made = 0
    while studio.busy and now < began + seconds:
        studio.work()
        made += sum(len(message.samples) for message in studio.data_to_send() if isinstance(message, Chunk))
        now = time.monotonic()
    for number in range(slots):
        networks.close(number)
    return max(1, min(slots, int(_SHARE * made / 16_000 / max(now - began, 1e-6))))


def _rehearse(networks: Networks) -> None:
    """Say something once, all the way: what is made at first use is made now."""
    for rate_hz in (8000, 24000):
        studio = studio_of(networks)
        studio.receive(_piece(0, rate_hz), 0.0)
        heard = 0
        while studio.busy and heard < 2:
            studio.work()
            messages = studio.data_to_send()
            heard += sum(isinstance(message, Chunk | Done) for message in messages)
        networks.close(0)


def _read(outside: socket.socket, inbox: queue.SimpleQueue[bytes]) -> None:
    """Take packets until there are no more; the last one is empty."""
    packet = b"?"
    while packet:
        try:
            packet = outside.recv(PACKET_SIZE)
        except OSError:
            packet = b""
        inbox.put(packet)


def serve(outside: socket.socket, options: dict[str, int | str]) -> None:
    """Serve until the other side is gone. Raises EngineError, ValueError for what keeps it from starting."""
    networks, hello = _open(Settings(**options))  # type: ignore[arg-type]
    studio = studio_of(networks)
    inbox: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(outside, inbox), name="reader", daemon=True).start()
    outside.send(encode(hello))
    outside.send(encode(studio.load(networks.memory_bytes)))
    joiner, told_at = Joiner(), time.monotonic()
    while True:
        while not studio.busy or not inbox.empty():
            packet = inbox.get()
            if not packet:
                return
            message = joiner.feed(packet)
            if message is not None:
                studio.receive(decode(message), time.monotonic())
            _send(outside, studio)
        studio.work()
        _send(outside, studio)
        if time.monotonic() >= told_at + LOAD_S or not studio.busy:
            told_at = time.monotonic()
            outside.send(encode(studio.load(networks.memory_bytes)))


def _send(outside: socket.socket, studio: Studio) -> None:
    for message in studio.data_to_send():
        outside.send(encode(message))
