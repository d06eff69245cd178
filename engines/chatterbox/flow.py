"""S3Gen's flow: speech tokens at 25 Hz to a mel spectrogram at 50 Hz.

    tokens -> Encoder (conformer with relative positions, up-sampled by two) -> mu (80 channels, 50 Hz)
    noise, mu, speaker, what is known of the mel -> Estimator -> how the noise moves towards the mel, step by step

Modules bear the names of the published checkpoint, so that its keys load as they are. Both networks take an optional
context, which is what came before: keys and values of each attention, and what each causal convolution has last seen.
Without one they compute what the published model does. Shapes are (batch, rows, channels) throughout.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from engines.chatterbox.attention import KeyValues, attention_mask, join, with_context
from engines.chatterbox.shapes import EncoderShape, EstimatorShape, S3GenShape

__all__ = [
    "LOOKAHEAD",
    "MEL_PER_TOKEN",
    "Encoder",
    "EncoderContext",
    "Estimator",
    "EstimatorContext",
    "Flow",
    "steps_of",
]

MEL_PER_TOKEN = 2
LOOKAHEAD = 3
"""Tokens that the encoder has to know beyond the one that it encodes."""


def _causal(convolution: nn.Conv1d, rows: Tensor, before: Tensor | None) -> Tensor:
    """A convolution that sees what came before; `before` is its last kernel - 1 input rows, zeros when nothing was."""
    past = convolution.kernel_size[0] - 1
    inputs = rows.transpose(1, 2)
    if before is None:
        inputs = functional.pad(inputs, (past, 0))
    else:
        inputs = torch.cat((before.to(rows).transpose(1, 2), inputs), dim=2)
    result: Tensor = convolution(inputs).transpose(1, 2)
    return result


def _last(rows: Tensor, lengths: Tensor, count: int, before: Tensor | None) -> Tensor:
    """The last `count` rows that are there, of each stream, as a causal convolution will have to know them."""
    if before is None:
        before = rows.new_zeros(rows.shape[0], count, rows.shape[2])
    index = lengths[:, None] + torch.arange(count, device=rows.device)
    return torch.cat((before.to(rows), rows), dim=1).gather(1, index[..., None].expand(-1, -1, rows.shape[2]))


# --- Encoder --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EncoderContext:
    """What the encoder keeps of the tokens before: attention at 25 and at 50 Hz, and two convolutions' pasts."""

    tokens: KeyValues
    frames: KeyValues
    lookahead: Tensor
    upsampling: Tensor

    @property
    def nbytes(self) -> int:
        return self.tokens.nbytes + self.frames.nbytes + self.lookahead.nbytes + self.upsampling.nbytes

    def select(self, row: int) -> EncoderContext:
        one = slice(row, row + 1)
        return EncoderContext(
            self.tokens.select(one), self.frames.select(one), self.lookahead[one], self.upsampling[one]
        )

    def cut(self, count: int) -> EncoderContext:
        """Keys and values of the first `count` tokens alone; the convolutions' pasts are of those already."""
        frames = self.frames.cut(MEL_PER_TOKEN * count)
        return EncoderContext(self.tokens.cut(count), frames, self.lookahead, self.upsampling)

    def followed_by(self, later: EncoderContext) -> EncoderContext:
        return EncoderContext(
            self.tokens.followed_by(later.tokens),
            self.frames.followed_by(later.frames),
            later.lookahead,
            later.upsampling,
        )

    @staticmethod
    def join(parts: Sequence[EncoderContext]) -> EncoderContext:
        return EncoderContext(
            join([part.tokens for part in parts]),
            join([part.frames for part in parts]),
            torch.cat([part.lookahead for part in parts]),
            torch.cat([part.upsampling for part in parts]),
        )


class _Embedding(nn.Module):
    """Linear and LayerNorm, scaled for the relative positions that follow."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out = nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width, eps=1e-5))
        self.scale = math.sqrt(width)

    def forward(self, rows: Tensor) -> Tensor:
        scaled: Tensor = self.out(rows) * self.scale
        return scaled


class _Lookahead(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(width, width, LOOKAHEAD + 1)
        self.conv2 = nn.Conv1d(width, width, 3)

    def ahead(self, rows: Tensor) -> Tensor:
        """Each row with the three that follow it, so that three fewer come out."""
        return functional.leaky_relu(self.conv1(rows.transpose(1, 2))).transpose(1, 2)


class _Upsampling(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width, width, 2 * MEL_PER_TOKEN + 1)


class _FeedForward(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w_1 = nn.Linear(width, hidden)
        self.w_2 = nn.Linear(hidden, width)

    def forward(self, rows: Tensor) -> Tensor:
        result: Tensor = self.w_2(functional.silu(self.w_1(rows)))
        return result


class _RelativeAttention(nn.Module):
    """Attention with relative positions (Dai et al., Transformer-XL, section 3.3)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.linear_q = nn.Linear(width, width)
        self.linear_k = nn.Linear(width, width)
        self.linear_v = nn.Linear(width, width)
        self.linear_out = nn.Linear(width, width)
        self.linear_pos = nn.Linear(width, width, bias=False)
        self.pos_bias_u = nn.Parameter(torch.zeros(heads, width // heads))
        self.pos_bias_v = nn.Parameter(torch.zeros(heads, width // heads))

    def _split(self, rows: Tensor) -> Tensor:
        return rows.view(*rows.shape[:2], self.heads, -1).transpose(1, 2)

    def project(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self._split(self.linear_q(rows)), self._split(self.linear_k(rows)), self._split(self.linear_v(rows))

    def attend(self, query: Tensor, key: Tensor, value: Tensor, distances: Tensor, mask: Tensor | None) -> Tensor:
        """`distances` (1, keys + queries - 1, width): the embedding of each distance, the largest first."""
        batch, heads, queries, width = query.shape
        keys = key.shape[2]
        position = self._split(self.linear_pos(distances))
        by_distance = (query + self.pos_bias_v[:, None]) @ position.transpose(2, 3)
        # Query i is as far from key j as the distance in column queries - 1 - i + j says: each row is one step on.
        by_distance = by_distance.contiguous()
        stride = by_distance.stride()
        bias = by_distance.as_strided(
            (batch, heads, queries, keys), (stride[0], stride[1], stride[2] - 1, 1), queries - 1
        ) / math.sqrt(width)
        if mask is not None:
            bias = bias.masked_fill(~mask, -math.inf)
        rows = functional.scaled_dot_product_attention(query + self.pos_bias_u[:, None], key, value, attn_mask=bias)
        result: Tensor = self.linear_out(rows.transpose(1, 2).flatten(2))
        return result


class _EncoderLayer(nn.Module):
    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        self.self_attn = _RelativeAttention(shape.width, shape.heads)
        self.feed_forward = _FeedForward(shape.width, shape.inner)
        self.norm_ff = nn.LayerNorm(shape.width, eps=1e-12)
        self.norm_mha = nn.LayerNorm(shape.width, eps=1e-12)

    def forward(
        self, rows: Tensor, index: int, context: KeyValues | None, distances: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The rows, and their keys and values; `index` is the layer's own in the context."""
        query, key, value = self.self_attn.project(self.norm_mha(rows))
        keys, values = with_context(context, index, key, value)
        rows = rows + self.self_attn.attend(query, keys, values, distances, mask)
        return rows + self.feed_forward(self.norm_ff(rows)), key, value


def _distances(queries: int, before: int, width: int, like: Tensor) -> Tensor:
    """Sinusoids of the distances from every query to every key, (1, before + 2 * queries - 1, width)."""
    distance = torch.arange(before + queries - 1, -queries, -1, device=like.device, dtype=torch.float32)
    rate = torch.exp(torch.arange(0, width, 2, device=like.device, dtype=torch.float32) * (-math.log(10000.0) / width))
    angle = distance[:, None] * rate
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1)[None].to(like.dtype)


class Encoder(nn.Module):
    """Conformer without convolution modules: six layers at 25 Hz, up-sampling, four layers at 50 Hz."""

    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        width = shape.width
        self.embed = _Embedding(width)
        self.pre_lookahead_layer = _Lookahead(width)
        self.encoders = nn.ModuleList(_EncoderLayer(shape) for _ in range(shape.blocks))
        self.up_layer = _Upsampling(width)
        self.up_embed = _Embedding(width)
        self.up_encoders = nn.ModuleList(_EncoderLayer(shape) for _ in range(shape.upsampled_blocks))
        self.after_norm = nn.LayerNorm(width, eps=1e-5)

    def forward(
        self,
        rows: Tensor,
        there: Tensor,
        *,
        keep: Tensor | None = None,
        context: EncoderContext | None = None,
        before: Tensor | None = None,
        visible: Tensor | None = None,
        full: bool = False,
    ) -> tuple[Tensor, EncoderContext | None]:
        """Encode `rows` but for the last three, which are only looked at.

        rows     (batch, n + 3, width) embedded tokens
        there    (batch, n + 3) False where a row pads; what pads counts as zeros to whom it is looked ahead at
        keep     (batch,) how many of the n rows are to be kept for a later call; None for no context
        context  what came before, of which `before` (batch, context rows) says how much is there
        visible  (batch, n, n) which rows see which, when not all do
        full     no row pads and every row sees all: whoever calls knows it, and asking the device would wait for it
        """
        embedded = self.embed(rows) * there[..., None]
        count = rows.shape[1] - LOOKAHEAD
        new = there[:, :count]
        ahead = self.pre_lookahead_layer.ahead(embedded)
        past = context.lookahead if context else None
        hidden = _causal(self.pre_lookahead_layer.conv2, ahead, past) + embedded[:, :count]

        mask = None if full else attention_mask(new, before, visible)
        hidden, tokens = self._layers(self.encoders, hidden, mask, context.tokens if context else None)

        doubled = hidden.repeat_interleave(MEL_PER_TOKEN, dim=1)
        raised = context.upsampling.repeat_interleave(MEL_PER_TOKEN, dim=1) if context else None
        frames = self.up_embed(_causal(self.up_layer.conv, doubled, raised))
        if mask is not None:
            # A block diagonal of whole tokens, so that a row that pads sees itself and its twin.
            mask = mask.repeat_interleave(MEL_PER_TOKEN, dim=2).repeat_interleave(MEL_PER_TOKEN, dim=3)
        frames, fine = self._layers(self.up_encoders, frames, mask, context.frames if context else None)
        encoded = self.after_norm(frames)
        if keep is None:
            return encoded, None
        return encoded, EncoderContext(
            tokens,
            fine,
            _last(ahead, keep, 2, past),
            _last(hidden, keep, 2, context.upsampling if context else None),
        )

    @staticmethod
    def _layers(
        layers: nn.ModuleList, rows: Tensor, mask: Tensor | None, context: KeyValues | None
    ) -> tuple[Tensor, KeyValues]:
        distances = _distances(rows.shape[1], context.rows if context else 0, rows.shape[2], rows)
        keys, values = [], []
        for index, layer in enumerate(layers):
            rows, key, value = layer(rows, index, context, distances, mask)
            keys.append(key)
            values.append(value)
        return rows, KeyValues(torch.stack(keys, dim=1), torch.stack(values, dim=1), rows.shape[1])


# --- Estimator ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EstimatorContext:
    """What the estimator keeps of the frames before, of one step: attention, and each convolution's past."""

    frames: KeyValues
    convolutions: tuple[Tensor, ...]

    @property
    def nbytes(self) -> int:
        return self.frames.nbytes + sum(past.nbytes for past in self.convolutions)

    def select(self, rows: slice) -> EstimatorContext:
        return EstimatorContext(
            self.frames.select(rows),
            tuple(past[rows] for past in self.convolutions),
        )

    def cut(self, count: int) -> EstimatorContext:
        return EstimatorContext(self.frames.cut(count), self.convolutions)

    def followed_by(self, later: EstimatorContext) -> EstimatorContext:
        return EstimatorContext(self.frames.followed_by(later.frames), later.convolutions)

    @staticmethod
    def join(parts: Sequence[EstimatorContext]) -> EstimatorContext:
        return EstimatorContext(
            join([part.frames for part in parts]),
            tuple(torch.cat(pasts) for pasts in zip(*(part.convolutions for part in parts), strict=True)),
        )


class _Memory:
    """What one pass of the estimator reads of the frames before and notes for those to come, layer by layer."""

    def __init__(self, context: EstimatorContext | None, keep: Tensor | None) -> None:
        self._context, self._keep = context, keep
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        self._pasts: list[Tensor] = []
        self._attentions = self._convolutions = 0

    def convolve(self, module: nn.Module, rows: Tensor) -> Tensor:
        convolution = cast(nn.Conv1d, module)
        before = self._context.convolutions[self._convolutions] if self._context else None
        self._convolutions += 1
        if self._keep is not None:
            self._pasts.append(_last(rows, self._keep, convolution.kernel_size[0] - 1, before))
        return _causal(convolution, rows, before)

    def extend(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        if self._keep is not None:
            self._keys.append(key)
            self._values.append(value)
        self._attentions += 1
        return with_context(self._context.frames if self._context else None, self._attentions - 1, key, value)

    def noted(self) -> EstimatorContext | None:
        if self._keep is None:
            return None
        keys, values = torch.stack(self._keys, dim=1), torch.stack(self._values, dim=1)
        return EstimatorContext(KeyValues(keys, values, keys.shape[3]), tuple(self._pasts))


class _Block(nn.Module):
    """Causal convolution, LayerNorm, Mish."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        # The published block is a Sequential that transposes at 1 and 3.
        self.block = nn.ModuleDict({"0": nn.Conv1d(inputs, outputs, 3), "2": nn.LayerNorm(outputs)})

    def forward(self, rows: Tensor, there: Tensor, memory: _Memory) -> Tensor:
        convolved = memory.convolve(self.block["0"], rows * there)
        return functional.mish(self.block["2"](convolved)) * there


class _Resnet(nn.Module):
    def __init__(self, inputs: int, outputs: int, time: int) -> None:
        super().__init__()
        self.mlp = nn.ModuleDict({"1": nn.Linear(time, outputs)})
        self.block1 = _Block(inputs, outputs)
        self.block2 = _Block(outputs, outputs)
        self.res_conv = nn.Conv1d(inputs, outputs, 1)

    def forward(self, rows: Tensor, there: Tensor, time: Tensor, memory: _Memory) -> Tensor:
        hidden = self.block1(rows, there, memory) + self.mlp["1"](functional.mish(time))[:, None]
        hidden = self.block2(hidden, there, memory)
        result: Tensor = hidden + _pointwise(self.res_conv, rows * there)
        return result


def _pointwise(convolution: nn.Conv1d, rows: Tensor) -> Tensor:
    return functional.linear(rows, convolution.weight[:, :, 0], convolution.bias)


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        inner = heads * head_width
        self.heads = heads
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_k = nn.Linear(width, inner, bias=False)
        self.to_v = nn.Linear(width, inner, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(inner, width)])

    def forward(self, rows: Tensor, mask: Tensor | None, memory: _Memory) -> Tensor:
        query, key, value = (
            projection(rows).view(*rows.shape[:2], self.heads, -1).transpose(1, 2)
            for projection in (self.to_q, self.to_k, self.to_v)
        )
        key, value = memory.extend(key, value)
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        result: Tensor = self.to_out[0](attended.transpose(1, 2).flatten(2))
        return result


class _Inner(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, inner)

    def forward(self, rows: Tensor) -> Tensor:
        return functional.gelu(self.proj(rows))


class _InnerOuter(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.ModuleDict({"0": _Inner(width, 4 * width), "2": nn.Linear(4 * width, width)})

    def forward(self, rows: Tensor) -> Tensor:
        result: Tensor = self.net["2"](self.net["0"](rows))
        return result


class _Transformer(nn.Module):
    def __init__(self, shape: EstimatorShape) -> None:
        super().__init__()
        width = shape.width
        self.norm1 = nn.LayerNorm(width)
        self.attn1 = _Attention(width, shape.heads, shape.head_width)
        self.norm3 = nn.LayerNorm(width)
        self.ff = _InnerOuter(width)

    def forward(self, rows: Tensor, mask: Tensor | None, memory: _Memory) -> Tensor:
        rows = rows + self.attn1(self.norm1(rows), mask, memory)
        result: Tensor = rows + self.ff(self.norm3(rows))
        return result


class _Stage(nn.ModuleList):
    """A resnet block and transformers; the first and the last stage have a convolution besides."""

    def __init__(self, inputs: int, shape: EstimatorShape, *, outer: bool = False) -> None:
        width = shape.width
        super().__init__(
            [_Resnet(inputs, width, 4 * width), nn.ModuleList(_Transformer(shape) for _ in range(shape.blocks))]
        )
        if outer:
            self.append(nn.Conv1d(width, width, 3))

    def forward(self, rows: Tensor, there: Tensor, time: Tensor, mask: Tensor | None, memory: _Memory) -> Tensor:
        rows = self[0](rows, there, time, memory)
        for transformer in cast(nn.ModuleList, self[1]):
            rows = transformer(rows, mask, memory)
        return rows

    def convolve(self, rows: Tensor, there: Tensor, memory: _Memory) -> Tensor:
        return memory.convolve(self[2], rows * there)


class _TimeEmbedding(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(inputs, outputs)
        self.linear_2 = nn.Linear(outputs, outputs)

    def forward(self, time: Tensor) -> Tensor:
        half = self.linear_1.in_features // 2
        rate = torch.exp(torch.arange(half, device=time.device).float() * (-math.log(10000) / (half - 1)))
        angle = 1000 * time[:, None] * rate
        sinusoids = torch.cat((angle.sin(), angle.cos()), dim=-1).to(self.linear_1.weight.dtype)
        embedding: Tensor = self.linear_2(functional.silu(self.linear_1(sinusoids)))
        return embedding


class Estimator(nn.Module):
    """The vector field of the flow: a U-Net that does not change the rate, with four transformers in each block."""

    def __init__(self, shape: EstimatorShape, mels: int) -> None:
        super().__init__()
        inputs, width, time = 4 * mels, shape.width, 4 * shape.width

        self.time_mlp = _TimeEmbedding(inputs, time)
        if shape.meanflow:
            self.time_embed_mixer = nn.Linear(2 * time, time, bias=False)
        self.meanflow = shape.meanflow
        self.down_blocks = nn.ModuleList([_Stage(inputs, shape, outer=True)])
        self.mid_blocks = nn.ModuleList(_Stage(width, shape) for _ in range(shape.middle))
        self.up_blocks = nn.ModuleList([_Stage(2 * width, shape, outer=True)])
        self.final_block = _Block(width, width)
        self.final_proj = nn.Conv1d(width, mels, 1)

    def time(self, start: Tensor, end: Tensor) -> Tensor:
        """Embedding (1, width) of a step from `start` to `end`, each of shape (1,)."""
        embedding: Tensor = self.time_mlp(start)
        if self.meanflow:
            embedding = self.time_embed_mixer(torch.cat((embedding, self.time_mlp(end)), dim=1))
        return embedding

    def forward(
        self,
        rows: Tensor,
        time: Tensor,
        there: Tensor,
        *,
        keep: Tensor | None = None,
        context: EstimatorContext | None = None,
        before: Tensor | None = None,
        visible: Tensor | None = None,
        full: bool = False,
    ) -> tuple[Tensor, EstimatorContext | None]:
        """Where each frame moves, (batch, frames, mels).

        rows     (batch, frames, 4 * mels): noisy mel, mu, speaker, known mel, in this order
        there    (batch, frames) False where a row pads
        keep, context, before, visible, full: as the encoder's, in frames
        """
        mask = None if full else attention_mask(there, before, visible)
        present = there[..., None].to(rows.dtype)
        memory = _Memory(context, keep)

        first, last = cast(_Stage, self.down_blocks[0]), cast(_Stage, self.up_blocks[0])
        skipped = first(rows, present, time, mask, memory)
        hidden = first.convolve(skipped, present, memory)
        for stage in self.mid_blocks:
            hidden = stage(hidden, present, time, mask, memory)
        hidden = last(torch.cat((hidden, skipped), dim=-1), present, time, mask, memory)
        hidden = self.final_block(last.convolve(hidden, present, memory), present, memory)
        return _pointwise(self.final_proj, hidden * present) * present, memory.noted()


# --- Flow -----------------------------------------------------------------------------------------------------------


def steps_of(shape: EstimatorShape, steps: int | None = None) -> list[tuple[float, float]]:
    """Times at which each step of the solver starts and ends."""
    count = steps or shape.steps
    times = torch.linspace(0, 1, count + 1)
    if shape.cosine:
        times = 1 - torch.cos(times * 0.5 * torch.pi)
    return list(zip(times[:-1].tolist(), times[1:].tolist(), strict=True))


def _twice(batch: Tensor | None) -> Tensor | None:
    return None if batch is None else batch.repeat_interleave(2, dim=0)


class _Decoder(nn.Module):
    def __init__(self, shape: S3GenShape) -> None:
        super().__init__()
        self.estimator = Estimator(shape.estimator, shape.mels)


class Flow(nn.Module):
    """Encoder, estimator and solver together."""

    def __init__(self, shape: S3GenShape, vocabulary: int = 6561) -> None:
        super().__init__()
        self.shape = shape
        width = shape.encoder.width
        self.input_embedding = nn.Embedding(vocabulary, width)
        self.spk_embed_affine_layer = nn.Linear(shape.speaker_encoder.embedding, shape.mels)
        self.encoder = Encoder(shape.encoder)
        self.encoder_proj = nn.Linear(width, shape.mels)
        self.decoder = _Decoder(shape)

    def speaker(self, x_vectors: Tensor) -> Tensor:
        """What the estimator knows of the speakers, (batch, mels), of x-vectors (batch, 192)."""
        result: Tensor = self.spk_embed_affine_layer(functional.normalize(x_vectors, dim=1))
        return result

    def encode(
        self,
        tokens: Tensor,
        there: Tensor,
        *,
        keep: Tensor | None = None,
        context: EncoderContext | None = None,
        before: Tensor | None = None,
        visible: Tensor | None = None,
        full: bool = False,
    ) -> tuple[Tensor, EncoderContext | None]:
        """mu (batch, 2 n, mels) of tokens (batch, n + 3), the last three of which are only looked at.

        Arguments as `Encoder.forward`'s.
        """
        rows = self.input_embedding(tokens) * there[..., None]
        encoded, kept = self.encoder(
            rows,
            there,
            keep=keep,
            context=context,
            before=before,
            visible=visible,
            full=full,
        )
        return self.encoder_proj(encoded), kept

    def solve(
        self,
        noise: Tensor,
        mu: Tensor,
        speaker: Tensor,
        known: Tensor,
        there: Tensor,
        *,
        steps: int | None = None,
        keep: Tensor | None = None,
        contexts: Sequence[EstimatorContext] | None = None,
        before: Tensor | None = None,
        visible: Tensor | None = None,
        full: bool = False,
    ) -> tuple[Tensor, list[EstimatorContext]]:
        """The mel (batch, frames, mels) that `noise` moves to; and, with `keep`, what each step keeps.

        noise, mu, known  (batch, frames, mels); known is the mel where it is known, and zero elsewhere
        speaker           (batch, mels)
        steps             of the solver, the model's own by default
        contexts          one for each step. A guided model has two rows for each stream there: with conditions, and
                          without
        """
        estimator, guidance = self.decoder.estimator, self.shape.estimator.guidance
        dtype = estimator.final_proj.weight.dtype
        conditions = torch.cat((mu, speaker[:, None].expand_as(mu), known), dim=-1).to(dtype)
        if guidance:
            conditions = torch.stack((conditions, torch.zeros_like(conditions)), dim=1).flatten(0, 1)
            there = there.repeat_interleave(2, dim=0)
            keep, before, visible = (_twice(each) for each in (keep, before, visible))
        mel, kept = noise, []
        for index, (start, end) in enumerate(steps_of(self.shape.estimator, steps)):
            moving = (mel.repeat_interleave(2, dim=0) if guidance else mel).to(dtype)
            times = torch.tensor([[start], [end]], device=mel.device)
            velocity, note = estimator(
                torch.cat((moving, conditions), dim=-1),
                estimator.time(times[0], times[1]),
                there,
                keep=keep,
                context=contexts[index] if contexts else None,
                before=before,
                visible=visible,
                full=full,
            )
            if guidance:
                velocity = (1 + guidance) * velocity[0::2] - guidance * velocity[1::2]
            mel = mel + (end - start) * velocity.to(mel.dtype)
            if note is not None:
                kept.append(note)
        return mel, kept
