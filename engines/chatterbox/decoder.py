"""The speech tokens of many streams at a time, one for each at every step; streams join and leave between steps.

    >>> decoder = Decoder(t3, slots=4, positions=1536, prefix_bytes=100_000_000)
    >>> ticket = decoder.join(Request(prompt=prompt, text=(1, 2, 3), seed=7, most=200))
    >>> while decoder.streams:
    ...     for produced in decoder.step():
    ...         ...

Each stream has a slot: rows of one large cache of keys and values, and a place in each column of numbers that a step
needs. All of that is on the device and stays where it is, so a step moves nothing but a token for each stream to the
host, and on a GPU it is one replay of a CUDA graph. A step takes in the first slots up to the last one that is in use,
and the cached positions up to the last one that is in use, both rounded up; there is one graph for each pair.

What depends on the voice alone is computed once for each voice and copied into the slot that a stream takes.

A seed gives the same tokens whatever else is in the batch. That rests on three things: draws are a function of seed and
step (sampling.py); each matrix product of a step has a fixed number of rows (`T3.tile`); and attention is a product for
each row and head, with what lies beyond a stream's own positions weighted by exactly zero. The first two hold
everywhere. The third relies on products of a batch being computed alike whatever their number, which the tests prove
for the CPU; the same tests have to be run on a GPU before it can be said of one.

There is no clock and no thread in here: whoever owns the device calls `step`.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from engines.chatterbox.hot import Hot
from engines.chatterbox.loop import Loop
from engines.chatterbox.sampling import Sampling, Settings, draw, draws, guided, remaining_gpt2, remaining_llama
from engines.chatterbox.shapes import CODEBOOK
from engines.chatterbox.t3 import T3, Block, Prompt
from engines.engine import EngineBusy, UnsuitableUtterance

__all__ = ["Decoder", "End", "Produced", "Request"]

KEY_BLOCK = 512
"""Attention goes over cached positions in multiples of this; a sum of so many numbers and zeros behind them is the same
as without those zeros."""


class End(enum.Enum):
    """Why a stream has ended by itself."""

    STOPPED = "the model has said that this is all"
    LIMIT = "it was not done within its number of tokens"
    LOOP = "it repeated itself"
    BROKEN = "the arithmetic gave something that is no number"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A stream to be made.

    text   as tokenized for this model
    seed   which of the ways to say it
    most   tokens to be drawn, at the most
    loops  whether a stream that repeats itself goes on regardless
    """

    prompt: Prompt
    text: tuple[int, ...]
    seed: int
    most: int
    sampling: Sampling = field(default_factory=Sampling)
    loops: bool = False


@dataclass(frozen=True, slots=True)
class Produced:
    """What a stream has since the last step: speech tokens of the codebook, and its end if it has come."""

    ticket: int
    tokens: tuple[int, ...]
    end: End | None = None


@dataclass(slots=True)
class _Stream:
    """The host's side of a slot; `position` is where the latest token goes in the sequence."""

    ticket: int
    request: Request
    position: int
    drawn: int = 0
    fresh: list[int] = field(default_factory=list)
    end: End | None = None
    loop: Loop = field(default_factory=Loop)


class Decoder:
    """Streams of one model on its device."""

    def __init__(self, t3: T3, *, slots: int, positions: int, prefix_bytes: int) -> None:
        """`positions` of a sequence at the most: prefix, text and speech. `prefix_bytes` for prefixes of voices."""
        if t3.tile is None:
            raise ValueError("a decoder wants a T3 with a tile: 1 on a CPU, its number of slots or less on a GPU")
        shape, device = t3.shape, t3.device
        self._t3 = t3
        self._positions = math.ceil(positions / KEY_BLOCK) * KEY_BLOCK
        self._prefixes: Hot[bytes, Block] = Hot(prefix_bytes)
        self._slots: list[_Stream | None] = [None] * slots
        self._resident: list[bytes | None] = [None] * slots
        self._tickets = 0
        size = (shape.layers, slots * t3.rows, shape.heads, self._positions, t3.head_width)
        self._keys = torch.zeros(size, device=device, dtype=t3.dtype)
        self._values = torch.zeros(size, device=device, dtype=t3.dtype)
        self._token = torch.zeros(slots, dtype=torch.int64, device=device)
        self._step = torch.zeros(slots, dtype=torch.int64, device=device)
        self._position = torch.zeros(slots, dtype=torch.int64, device=device)
        self._active = torch.zeros(slots, dtype=torch.bool, device=device)
        self._broken = torch.zeros(slots, dtype=torch.bool, device=device)
        self._seen = torch.zeros(slots, shape.speech_vocabulary, dtype=torch.bool, device=device)
        # A stream of `positions` could not draw more often than that.
        self._numbers = torch.zeros(slots, self._positions, dtype=torch.float64, device=device)
        self._settings = Settings(slots, device)
        self._remaining = remaining_llama if shape.guided else remaining_gpt2
        self._graphs: dict[tuple[int, int], torch.cuda.CUDAGraph] | None = {} if device.type == "cuda" else None

    @property
    def streams(self) -> int:
        """How many there are."""
        return sum(stream is not None for stream in self._slots)

    @property
    def room(self) -> int:
        """How many more may join."""
        return len(self._slots) - self.streams

    @property
    def size_bytes(self) -> int:
        """Of the caches of all slots."""
        return Block(self._keys, self._values).size_bytes

    @property
    def prefixes(self) -> Hot[bytes, Block]:
        """The voices whose prefixes are at hand."""
        return self._prefixes

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Have every shape of a step ready, so that no stream waits for it later. While there is no stream."""
        if self._graphs is None:
            self._forward(1, KEY_BLOCK)
            return
        for rows in self._buckets():
            for length in range(KEY_BLOCK, self._positions + 1, KEY_BLOCK):
                self._capture(rows, length)

    @torch.inference_mode()
    def join(self, request: Request) -> int:
        """Begin a stream, whose first token comes with the next step; returns its ticket.

        Raises EngineBusy if there is no room, UnsuitableUtterance if the sequence would be too long.
        """
        slot = next((slot for slot, stream in enumerate(self._slots) if stream is None), None)
        if slot is None:
            raise EngineBusy(f"all {len(self._slots)} slots are taken", retry_after_s=1.0)
        self._check(request)
        digest = request.prompt.digest()
        prefix = self._prefixes.get(digest, lambda: self._t3.whole(self._t3.prefix(request.prompt))[1])
        opening = self._t3.opening(request.text)
        begin, end = prefix.length, prefix.length + opening.shape[1]
        # The last position is where slots without a stream write to.
        if end + request.most > self._positions - 1:
            raise UnsuitableUtterance(
                f"{len(request.text)} tokens of text and up to {request.most} of speech are too many at a time: "
                f"there is room for {self._positions - 1 - begin}"
            )
        rows = slice(slot * self._t3.rows, (slot + 1) * self._t3.rows)
        if self._resident[slot] != digest:
            self._put(prefix, rows, 0)
            self._resident[slot] = digest
        hidden, block = self._t3.whole(opening, prefix)
        self._put(block, rows, begin)
        self._begin(slot, request)
        self._position[slot] = end
        self._tickets += 1
        stream = _Stream(ticket=self._tickets, request=request, position=end)
        self._slots[slot] = stream
        here = slice(slot, slot + 1)
        self._choose(self._t3.logits(hidden[:, -1:])[:, 0], here)
        if not self._t3.shape.guided:
            # What is penalised from now on is what has been said; Llama goes on penalising the start as well.
            self._seen[slot, self._t3.shape.start_speech] = False
            self._seen[slot, self._token[slot]] = True
        self._hear(slot, stream, int(self._token[slot]), bool(self._broken[slot]))
        return stream.ticket

    @torch.inference_mode()
    def step(self) -> list[Produced]:
        """A token for each stream, and the end of those that have ended; their slots are free then."""
        running = [slot for slot, stream in enumerate(self._slots) if stream and not stream.end]
        if running:
            rows = next(rows for rows in self._buckets() if rows > running[-1])
            last = max(stream.position for stream in self._slots if stream and not stream.end)
            self._run(rows, math.ceil((last + 1) / KEY_BLOCK) * KEY_BLOCK)
            columns = torch.stack([self._token[:rows], self._broken[:rows].long()]).tolist()
            for slot in running:
                stream = self._slots[slot]
                assert stream
                stream.position += 1
                self._hear(slot, stream, columns[0][slot], bool(columns[1][slot]))
        produced = []
        for slot, stream in enumerate(self._slots):
            if stream:
                produced.append(Produced(stream.ticket, tuple(stream.fresh), stream.end))
                stream.fresh.clear()
                if stream.end:
                    self._slots[slot] = None
        return produced

    @torch.inference_mode()
    def cancel(self, ticket: int) -> bool:
        """End a stream; its slot is free for the next one at once. False if it had ended already."""
        for slot, stream in enumerate(self._slots):
            if stream and stream.ticket == ticket:
                self._active[slot] = False
                self._slots[slot] = None
                return True
        return False

    def _check(self, request: Request) -> None:
        """Refuse what would have the device read beyond a table, which on a GPU ends the process."""
        shape = self._t3.shape
        for of, tokens, size, most in (
            ("of text", request.text, shape.text_vocabulary, shape.text_positions or self._positions),
            ("of the voice", request.prompt.tokens, shape.speech_vocabulary, shape.speech_positions or self._positions),
        ):
            foreign = next((token for token in tokens if not 0 <= token < size), None)
            if foreign is not None:
                raise UnsuitableUtterance(f"{foreign} is no token {of} of this model, which has {size}")
            if len(tokens) > most:
                raise UnsuitableUtterance(f"{len(tokens)} tokens {of} are too many: {most} is the most")

    def _hear(self, slot: int, stream: _Stream, token: int, broken: bool) -> None:
        """Take a token that was drawn, and end the stream if it is the last one."""
        shape = self._t3.shape
        stream.drawn += 1
        # Turbo's published loop never looks whether the first token is the end; what is compared with it does the same.
        stops = token == shape.stop_speech and (stream.drawn > 1 or shape.guided)
        if broken:
            stream.end = End.BROKEN
            self._clean(slot)
        elif stops:
            stream.end = End.STOPPED
        elif stream.loop.add(token) and not stream.request.loops:
            stream.end = End.LOOP
        else:
            if token < CODEBOOK:
                stream.fresh.append(token)
            if stream.drawn >= stream.request.most:
                stream.end = End.LIMIT
        if stream.end:
            self._active[slot] = False

    def _clean(self, slot: int) -> None:
        """Nothing that is no number may stay in a cache: what is weighted by zero would spread it."""
        rows = slice(slot * self._t3.rows, (slot + 1) * self._t3.rows)
        self._keys[:, rows] = 0
        self._values[:, rows] = 0
        digest, self._resident[slot] = self._resident[slot], None
        if digest:
            self._prefixes.drop(digest)

    def _begin(self, slot: int, request: Request) -> None:
        self._settings.put(slot, request.sampling)
        self._numbers[slot, : request.most] = draws(request.seed, request.most).to(self._t3.device)
        self._seen[slot] = False
        self._seen[slot, self._t3.shape.start_speech] = True
        # The first draw is that of step 0, as if a token had been drawn before it.
        self._step[slot] = -1
        self._active[slot] = True

    def _put(self, block: Block, rows: slice, position: int) -> None:
        self._keys[:, rows, :, position : position + block.length] = block.keys
        self._values[:, rows, :, position : position + block.length] = block.values

    def _buckets(self) -> list[int]:
        """Numbers of slots that a step may take in: all on a CPU, where rounding up costs; doubling on a GPU."""
        slots = len(self._slots)
        if self._graphs is None:
            return list(range(1, slots + 1))
        return [*(2**power for power in range(slots.bit_length()) if 2**power < slots), slots]

    def _run(self, rows: int, length: int) -> None:
        if self._graphs is None:
            self._forward(rows, length)
            return
        if (rows, length) not in self._graphs:
            self._capture(rows, length)
        self._graphs[rows, length].replay()

    def _capture(self, rows: int, length: int) -> None:
        """Record a step as a CUDA graph. What runs for that moves no stream on."""
        assert self._graphs is not None
        active = self._active.clone()
        self._active.zero_()
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                self._forward(rows, length)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        pool = next((other.pool() for other in self._graphs.values()), None)
        with torch.cuda.graph(graph, pool=pool):
            self._forward(rows, length)
        self._graphs[rows, length] = graph
        self._active.copy_(active)

    def _forward(self, rows: int, length: int) -> None:
        """A step of the first `rows` slots, with `length` positions of the caches in view."""
        t3, here = self._t3, slice(0, rows)
        active = self._active[here]
        # Slots without a stream write to the last position, which no stream uses.
        at = torch.where(active, self._position[here], self._positions - 1).repeat_interleave(t3.rows)
        row = torch.arange(rows * t3.rows, device=t3.device)
        hidden_keys = torch.arange(length, device=t3.device) > at[:, None]
        mask = torch.zeros(hidden_keys.shape, device=t3.device).masked_fill(hidden_keys, float("-inf"))[:, None, None]
        scale = t3.head_width**-0.5

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            self._keys[layer][row, :, at] = k[:, :, 0]
            self._values[layer][row, :, at] = v[:, :, 0]
            keys = self._keys[layer, : rows * t3.rows, :, :length]
            values = self._values[layer, : rows * t3.rows, :, :length]
            # A copy, because strides that mean nothing for one row choose another way of multiplying.
            query = q.transpose(-1, -2).clone(memory_format=torch.contiguous_format)
            scores = torch.matmul(keys, query).transpose(-1, -2)
            shares = (scores.float() * scale + mask).softmax(-1).to(t3.dtype)
            return torch.matmul(shares, values)

        embedded = t3.speech(self._token[here], self._step[here].clamp_min(0)).repeat_interleave(t3.rows, dim=0)
        hidden = t3.layers(embedded[:, None], at[:, None], attend)
        self._choose(t3.logits(hidden)[:, 0], here)
        self._seen[here].scatter_(1, self._token[here, None], True)
        self._position[here] += active

    def _choose(self, logits: Tensor, here: slice) -> None:
        """Draw the next token of slots; what is no number marks its slot as broken."""
        if self._t3.shape.guided:
            logits = guided(logits, self._settings.column("guidance", here))
        active = self._active[here]
        sound = logits.isfinite().all(-1)
        logits = torch.where(sound[:, None], logits, 0.0)
        step = self._step[here] + active.long()
        numbers = self._numbers[here].gather(1, step.clamp_min(0)[:, None])[:, 0]
        token = draw(self._remaining(logits, self._seen[here], self._settings, here), numbers)
        self._token[here] = torch.where(active, token, self._token[here])
        self._broken[here] = active & ~sound
        self._step[here] = step
