"""T3: text tokens and a voice to logits over speech tokens, on the backbone of GPT2 or of Llama.

A sequence is a prefix that depends on the voice alone, the text, and the speech so far:

    GPT2    [speaker] [prompt of the voice]            [text] [start]          [speech ...]
    Llama   [speaker] [32 rows of prompt] [emotion]    [text] [start] [start]  [speech ...]

GPT2 adds learned positions over the whole sequence; Llama rotates by them, and adds learned positions within the text
and within the speech. Llama runs with classifier-free guidance: each stream has two rows, and the second one hears of
the text no more than its length (its text is positions without tokens).

There is one pass through the layers, and whoever calls it brings the attention: over a whole sequence (`whole`), or
over the caches of many streams (engines/chatterbox/decoder.py).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from engines.chatterbox.shapes import Backbone, LlamaRope, T3Shape
from engines.chatterbox.weights import Layout, read

__all__ = ["T3", "Block", "Prompt", "layout", "load", "used"]

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, queries, keys, values) to context; each [rows, heads, length, head width]."""


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """What T3 knows of a voice.

    speaker  the embedding of the voice encoder: [256]
    tokens   speech tokens of the recording, at most `T3Shape.prompt_tokens` of them
    emotion  how exaggerated the speech is to be, 0 to 2; for models with `T3Shape.emotion`
    """

    speaker: Tensor
    tokens: tuple[int, ...]
    emotion: float = 0.5

    def digest(self) -> bytes:
        """The same for equal prompts; what is kept of a prefix is kept under this."""
        numbers = self.speaker.detach().to("cpu", torch.float32).numpy().tobytes()
        return hashlib.sha256(repr((self.tokens, self.emotion)).encode() + numbers).digest()


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Keys and values of a stretch of a sequence: each [layers, rows, heads, length, head width]."""

    keys: Tensor
    values: Tensor

    @property
    def length(self) -> int:
        return self.keys.shape[3]

    @property
    def size_bytes(self) -> int:
        return 2 * self.keys.numel() * self.keys.element_size()


def used(key: str) -> bool:
    """Whether a tensor of the checkpoint is needed to speak: a quarter of Turbo's is not."""
    return not key.startswith(("tfmr.wte", "tfmr.embed_tokens", "text_head"))


class T3:
    """A model on a device. Holds no state of any stream; `dtype` is that of the weights and of the arithmetic."""

    def __init__(
        self,
        shape: T3Shape,
        weights: Mapping[str, Tensor],
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        tile: int | None = None,
    ) -> None:
        """`weights` are those of `layout` that are `used`.

        tile  every matrix product of a step has this number of rows, padded with zeros or split: what comes of a row
              is then the same whatever other rows there are, because the shape of a product decides in which order it
              sums up. None lets the number of rows be what it is.
        """
        self.shape = shape
        self.device = torch.device(device)
        self.dtype = dtype
        self.tile = tile
        self._weights = {key: tensor.to(device, dtype) for key, tensor in weights.items() if used(key)}
        self._norm = "tfmr.ln_f" if shape.backbone is Backbone.GPT2 else "tfmr.norm"
        if shape.backbone is Backbone.GPT2:
            self._stack_gpt2()
        else:
            self._stack_llama()
        self._cosine, self._sine = _rotation(shape, self.device)

    @property
    def rows(self) -> int:
        """Rows of a stream: two where there is guidance, the second one without the text's tokens."""
        return 2 if self.shape.guided else 1

    @property
    def head_width(self) -> int:
        return self.shape.width // self.shape.heads

    def _stack_gpt2(self) -> None:
        """Turn GPT2's [in, out] around, as linear layers have it."""
        for key in [key for key in self._weights if ".attn.c_" in key or ".mlp.c_" in key]:
            if key.endswith("weight"):
                self._weights[key] = self._weights[key].t().contiguous()

    def _stack_llama(self) -> None:
        """Put what is applied to the same rows into one matrix."""
        for layer in range(self.shape.layers):
            block = f"tfmr.layers.{layer}"
            for stacked, part, names in (
                ("qkv", "self_attn", ("q_proj", "k_proj", "v_proj")),
                ("gate_up", "mlp", ("gate_proj", "up_proj")),
            ):
                parts = [self._weights.pop(f"{block}.{part}.{name}.weight") for name in names]
                self._weights[f"{block}.{stacked}.weight"] = torch.cat(parts)

    def prefix(self, prompt: Prompt) -> Tensor:
        """The rows that depend on the voice alone: [1, length, width]. With guidance both rows have the same."""
        speaker = prompt.speaker.to(self.device, self.dtype).view(1, -1)
        parts = [self._linear("cond_enc.spkr_enc", speaker)[None]]
        if prompt.tokens:
            tokens = self._index(prompt.tokens)
            rows = self._weights["speech_emb.weight"][tokens][None]
            if self.shape.speech_positions:
                rows = rows + self._weights["speech_pos_emb.emb.weight"][: len(prompt.tokens)]
            parts.append(self._perceive(rows) if self.shape.perceiver else rows)
        if self.shape.emotion:
            emotion = torch.full((1, 1), prompt.emotion, device=self.device, dtype=self.dtype)
            parts.append(F.linear(emotion, self._weights["cond_enc.emotion_adv_fc.weight"])[None])
        return torch.cat(parts, dim=1)

    def _perceive(self, rows: Tensor) -> Tensor:
        """[1, tokens, width] to [1, queries, width]: the queries look at the rows, then at themselves."""
        assert self.shape.perceiver
        queries = self._weights["cond_enc.perceiver.pre_attention_query"]
        for seen in (rows, None):
            looking, seen = queries, queries if seen is None else seen
            normal = self._layer_norm("cond_enc.perceiver.attn.norm", looking)
            keyed = self._layer_norm("cond_enc.perceiver.attn.norm", seen)
            q, k, v = (
                _heads(self._linear(f"cond_enc.perceiver.attn.to_{name}", source), self.shape.perceiver.heads)
                for name, source in (("q", normal), ("k", keyed), ("v", keyed))
            )
            context = _joined(F.scaled_dot_product_attention(q, k, v))
            queries = looking + self._linear("cond_enc.perceiver.attn.proj_out", context)
        return queries

    def opening(self, text: Sequence[int]) -> Tensor:
        """The rows of the text and of the start of speech: [rows, length, width]. `text` is as tokenized."""
        tokens = self._weights["text_emb.weight"][self._index(text)][None]
        start = self._weights["speech_emb.weight"][self.shape.start_speech].view(1, 1, -1)
        if not self.shape.guided:
            return torch.cat([tokens, start], dim=1)
        # The row without guidance loses the tokens and keeps their positions.
        tokens = torch.cat([tokens, torch.zeros_like(tokens)]) + self._weights["text_pos_emb.emb.weight"][: len(text)]
        start = (start + self._weights["speech_pos_emb.emb.weight"][0]).expand(2, -1, -1)
        return torch.cat([tokens, start, start], dim=1)

    def speech(self, tokens: Tensor, steps: Tensor) -> Tensor:
        """The rows of speech tokens, each the `steps`th of its stream (from 0): [n] and [n] to [n, width]."""
        rows = self._weights["speech_emb.weight"][tokens]
        if self.shape.speech_positions:
            rows = rows + self._weights["speech_pos_emb.emb.weight"][steps + 1]
        return rows

    def layers(self, rows: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """Through all layers and the last norm: [rows, length, width]; `positions` [rows, length] in the sequence."""
        if self.shape.backbone is Backbone.GPT2:
            rows = rows + self._weights["tfmr.wpe.weight"][positions]
            for layer in range(self.shape.layers):
                rows = self._gpt2_layer(layer, rows, attend)
            return self._layer_norm(self._norm, rows)
        cosine, sine = self._cosine[positions][:, None], self._sine[positions][:, None]
        for layer in range(self.shape.layers):
            rows = self._llama_layer(layer, rows, cosine, sine, attend)
        return self._rms_norm(self._norm, rows)

    def _gpt2_layer(self, layer: int, rows: Tensor, attend: Attend) -> Tensor:
        block = f"tfmr.h.{layer}"
        projected = self._linear(f"{block}.attn.c_attn", self._layer_norm(f"{block}.ln_1", rows))
        q, k, v = (_heads(part, self.shape.heads) for part in projected.chunk(3, dim=-1))
        rows = rows + self._linear(f"{block}.attn.c_proj", _joined(attend(layer, q, k, v)))
        inner = self._linear(f"{block}.mlp.c_fc", self._layer_norm(f"{block}.ln_2", rows))
        return rows + self._linear(f"{block}.mlp.c_proj", F.gelu(inner, approximate="tanh"))

    def _llama_layer(self, layer: int, rows: Tensor, cosine: Tensor, sine: Tensor, attend: Attend) -> Tensor:
        block = f"tfmr.layers.{layer}"
        projected = self._linear(f"{block}.qkv", self._rms_norm(f"{block}.input_layernorm", rows))
        q, k, v = (_heads(part, self.shape.heads) for part in projected.chunk(3, dim=-1))
        q, k = _rotated(q, cosine, sine), _rotated(k, cosine, sine)
        rows = rows + self._linear(f"{block}.self_attn.o_proj", _joined(attend(layer, q, k, v)))
        normal = self._rms_norm(f"{block}.post_attention_layernorm", rows)
        gate, up = self._linear(f"{block}.gate_up", normal).chunk(2, dim=-1)
        return rows + self._linear(f"{block}.mlp.down_proj", F.silu(gate) * up)

    def logits(self, hidden: Tensor) -> Tensor:
        """Over the speech vocabulary, in single precision: [..., width] to [..., vocabulary]."""
        return self._linear("speech_head", hidden).float()

    def whole(self, rows: Tensor, past: Block | None = None) -> tuple[Tensor, Block]:
        """A stretch of a sequence after its past: the hidden states, and the keys and values of the stretch."""
        begin = past.length if past else 0
        count, length = rows.shape[:2]
        positions = torch.arange(begin, begin + length, device=self.device).expand(count, -1)
        visible = torch.ones(length, begin + length, dtype=torch.bool, device=self.device).tril(begin)
        keys: list[Tensor] = []
        values: list[Tensor] = []

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys.append(k)
            values.append(v)
            if past:
                k = torch.cat([past.keys[layer].expand(count, -1, -1, -1), k], dim=2)
                v = torch.cat([past.values[layer].expand(count, -1, -1, -1), v], dim=2)
            return F.scaled_dot_product_attention(q, k, v, attn_mask=visible)

        hidden = self.layers(rows, positions, attend)
        return hidden, Block(torch.stack(keys), torch.stack(values))

    def _index(self, tokens: Sequence[int]) -> Tensor:
        return torch.tensor(tokens, dtype=torch.int64, device=self.device)

    def _linear(self, name: str, rows: Tensor) -> Tensor:
        weight, bias = self._weights[f"{name}.weight"], self._weights.get(f"{name}.bias")
        # One position of each stream: a step, whose rows are to be independent of one another.
        if self.tile is None or rows.shape[-2] != 1 or rows.dim() != 3:
            return F.linear(rows, weight, bias)
        flat = rows[:, 0]
        padded = F.pad(flat, (0, 0, 0, -len(flat) % self.tile))
        tiles = [F.linear(tile, weight, bias) for tile in torch.split(padded, self.tile)]
        return torch.cat(tiles)[: len(flat), None]

    def _layer_norm(self, name: str, rows: Tensor) -> Tensor:
        weight, bias = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        return F.layer_norm(rows, (rows.shape[-1],), weight, bias, self.shape.epsilon)

    def _rms_norm(self, name: str, rows: Tensor) -> Tensor:
        exact = rows.float()
        exact = exact * torch.rsqrt(exact.square().mean(-1, keepdim=True) + self.shape.epsilon)
        return self._weights[f"{name}.weight"] * exact.to(rows.dtype)


def _heads(rows: Tensor, heads: int) -> Tensor:
    """[rows, length, width] to [rows, heads, length, head width]."""
    return rows.view(*rows.shape[:2], heads, -1).transpose(1, 2)


def _joined(context: Tensor) -> Tensor:
    """[rows, heads, length, head width] to [rows, length, width]."""
    return context.transpose(1, 2).flatten(2)


def _rotated(rows: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    first, second = rows.chunk(2, dim=-1)
    turned = rows.float() * cosine + torch.cat([-second, first], dim=-1).float() * sine
    return turned.to(rows.dtype)


def _rotation(shape: T3Shape, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines of rotary positions, [positions, head width]; empty without them."""
    if shape.rope is None:
        return torch.empty(0, device=device), torch.empty(0, device=device)
    width = shape.width // shape.heads
    # A sequence is no longer than the positions of its text and of its speech, and the prefix of the voice.
    longest = shape.text_positions + shape.speech_positions + 64
    angles = torch.outer(torch.arange(longest).float(), _frequencies(shape.rope, width))
    angles = torch.cat([angles, angles], dim=-1).to(device)
    return angles.cos(), angles.sin()


def _frequencies(rope: LlamaRope, width: int) -> Tensor:
    """Llama 3's: long waves are slowed down by `factor`, short ones stay, and those between are blended."""
    frequencies = 1.0 / rope.theta ** (torch.arange(0, width, 2).float() / width)
    turns = rope.original_positions * frequencies / (2 * math.pi)
    share = (turns - rope.low_frequency_factor) / (rope.high_frequency_factor - rope.low_frequency_factor)
    share = share.clamp(0, 1)
    return (1 - share) * frequencies / rope.factor + share * frequencies


def layout(shape: T3Shape) -> Layout:
    """The tensors of a checkpoint of T3, under the published names."""
    width, inner = shape.width, shape.inner
    sizes: dict[str, tuple[int, ...]] = {
        "cond_enc.spkr_enc.weight": (width, shape.speaker),
        "cond_enc.spkr_enc.bias": (width,),
        "text_emb.weight": (shape.text_vocabulary, width),
        "speech_emb.weight": (shape.speech_vocabulary, width),
        "text_head.weight": (shape.text_vocabulary, width),
        "speech_head.weight": (shape.speech_vocabulary, width),
    }
    if shape.emotion:
        sizes["cond_enc.emotion_adv_fc.weight"] = (width, 1)
    if shape.perceiver:
        sizes["cond_enc.perceiver.pre_attention_query"] = (1, shape.perceiver.queries, width)
        for name in ("to_q", "to_k", "to_v", "proj_out"):
            sizes[f"cond_enc.perceiver.attn.{name}.weight"] = (width, width)
            sizes[f"cond_enc.perceiver.attn.{name}.bias"] = (width,)
        sizes["cond_enc.perceiver.attn.norm.weight"] = (width,)
        sizes["cond_enc.perceiver.attn.norm.bias"] = (width,)
    if shape.text_positions:
        sizes["text_pos_emb.emb.weight"] = (shape.text_positions, width)
        sizes["speech_pos_emb.emb.weight"] = (shape.speech_positions, width)
    if shape.backbone is Backbone.GPT2:
        sizes["speech_head.bias"] = (shape.speech_vocabulary,)
        sizes["tfmr.wte.weight"] = (shape.word_rows, width)
        sizes["tfmr.wpe.weight"] = (shape.positions, width)
        sizes["tfmr.ln_f.weight"] = sizes["tfmr.ln_f.bias"] = (width,)
        for layer in range(shape.layers):
            block = f"tfmr.h.{layer}"
            for name in ("ln_1", "ln_2"):
                sizes[f"{block}.{name}.weight"] = sizes[f"{block}.{name}.bias"] = (width,)
            # GPT2's projections are stored as [in, out].
            for name, rows, columns in (
                ("attn.c_attn", width, 3 * width),
                ("attn.c_proj", width, width),
                ("mlp.c_fc", width, inner),
                ("mlp.c_proj", inner, width),
            ):
                sizes[f"{block}.{name}.weight"] = (rows, columns)
                sizes[f"{block}.{name}.bias"] = (columns,)
        return sizes
    sizes["tfmr.embed_tokens.weight"] = (shape.word_rows, width)
    sizes["tfmr.norm.weight"] = (width,)
    for layer in range(shape.layers):
        block = f"tfmr.layers.{layer}"
        for name in ("input_layernorm", "post_attention_layernorm"):
            sizes[f"{block}.{name}.weight"] = (width,)
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            sizes[f"{block}.self_attn.{name}.weight"] = (width, width)
        sizes[f"{block}.mlp.gate_proj.weight"] = sizes[f"{block}.mlp.up_proj.weight"] = (inner, width)
        sizes[f"{block}.mlp.down_proj.weight"] = (width, inner)
    return sizes


def load(
    path: Path,
    shape: T3Shape,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    tile: int | None = None,
) -> T3:
    """The model of a published file; raises UnsuitableCheckpoint. `tile` as for `T3`."""
    weights = read(path, layout(shape), wanted=used, device=device, dtype=dtype)
    return T3(shape, weights, device=device, dtype=dtype, tile=tile)
