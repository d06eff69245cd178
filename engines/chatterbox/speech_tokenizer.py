"""S3TokenizerV2: a recording at 16 kHz to speech tokens at 25 Hz.

A transformer over a mel spectrogram at 100 Hz, cut down to 25 Hz, whose rows are quantised to three levels in each of
eight dimensions: 6,561 tokens. Modules bear the names of the published checkpoint. It runs when a voice is enrolled.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from engines.chatterbox.shapes import SpeechTokenizerShape

__all__ = ["MAX_FRAMES", "SpeechTokenizer"]

MAX_FRAMES = 3000
"""Mel frames that it was made for: 30 s."""

_KERNEL = 31
_DIMENSIONS = 8
_LEVELS = 3


def _rotate(rows: Tensor) -> Tensor:
    """Rotary positions (batch, heads, rows, width)."""
    width = rows.shape[3]
    rate = 1.0 / 10000.0 ** (torch.arange(0, width, 2, device=rows.device).float() / width)
    angle = torch.outer(torch.arange(rows.shape[2], device=rows.device).float(), rate).repeat(1, 2)
    left, right = rows.chunk(2, dim=-1)
    return rows * angle.cos() + torch.cat((-right, left), dim=-1) * angle.sin()


class _Attention(nn.Module):
    """Attention beside a depthwise convolution of the values (FSMN)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.fsmn_block = nn.Conv1d(width, width, _KERNEL, padding=_KERNEL // 2, groups=width, bias=False)

    def forward(self, rows: Tensor) -> Tensor:
        value = self.value(rows)
        memory = self.fsmn_block(value.transpose(1, 2)).transpose(1, 2) + value
        query, key, split = (
            projected.view(*rows.shape[:2], self.heads, -1).transpose(1, 2)
            for projected in (self.query(rows), self.key(rows), value)
        )
        attended = functional.scaled_dot_product_attention(_rotate(query), _rotate(key), split)
        result: Tensor = self.out(attended.transpose(1, 2).flatten(2)) + memory
        return result


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = _Attention(width, heads)
        self.attn_ln = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.mlp_ln = nn.LayerNorm(width)

    def forward(self, rows: Tensor) -> Tensor:
        rows = rows + self.attn(self.attn_ln(rows))
        result: Tensor = rows + self.mlp(self.mlp_ln(rows))
        return result


class _Encoder(nn.Module):
    def __init__(self, shape: SpeechTokenizerShape) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(shape.mels, shape.width, 3, stride=2, padding=1)
        self.conv2 = nn.Conv1d(shape.width, shape.width, 3, stride=2, padding=1)
        self.blocks = nn.ModuleList(_Layer(shape.width, shape.heads) for _ in range(shape.layers))

    def forward(self, mel: Tensor) -> Tensor:
        rows = functional.gelu(self.conv2(functional.gelu(self.conv1(mel)))).transpose(1, 2)
        for block in self.blocks:
            rows = block(rows)
        return rows


class _Codebook(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.project_down = nn.Linear(width, _DIMENSIONS)


class _Quantizer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self._codebook = _Codebook(width)


class SpeechTokenizer(nn.Module):
    """Speech tokens (batch, frames / 4) of log mel spectrograms (batch, 128, frames), see `features.token_mel`."""

    def __init__(self, shape: SpeechTokenizerShape) -> None:
        super().__init__()
        self.encoder = _Encoder(shape)
        self.quantizer = _Quantizer(shape.width)

    def levels(self, mel: Tensor) -> Tensor:
        """What is rounded to a token, (batch, tokens, 8), each between -1 and 1."""
        projected: Tensor = self.quantizer._codebook.project_down(self.encoder(mel))
        return projected.float().tanh() * 0.9990000128746033

    def forward(self, mel: Tensor) -> Tensor:
        """Raises ValueError for more than 30 s."""
        if mel.shape[2] > MAX_FRAMES:
            raise ValueError(f"{mel.shape[2]} frames are more than the {MAX_FRAMES} that speech tokens are made of")
        digits = (self.levels(mel).round() + 1).long()
        return (digits * _LEVELS ** torch.arange(_DIMENSIONS, device=mel.device)).sum(-1)
