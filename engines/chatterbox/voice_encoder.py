"""T3's voice encoder: a recording at 16 kHz to the embedding of its speaker.

Three LSTMs over 1.6 s at a time, whose last states are projected, cut off below zero and brought to length one; the
mean over the partials is the speaker. Modules bear the names of the published checkpoint (ve.safetensors).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from engines.chatterbox.shapes import VoiceEncoderShape

__all__ = ["VoiceEncoder"]

_STEP = 77
"""Frames from one partial to the next: the published rate of 1.3 partials a second, 16000 / 1.3 / 160 frames."""

_COVERAGE = 0.8
"""How much of the last partial has to be recording."""


class VoiceEncoder(nn.Module):
    """Embeddings of length one (batch, 256), of mel spectrograms (frames, 40)."""

    def __init__(self, shape: VoiceEncoderShape) -> None:
        super().__init__()
        self.shape = shape
        self.lstm = nn.LSTM(shape.mels, shape.width, num_layers=shape.layers, batch_first=True)
        self.proj = nn.Linear(shape.width, shape.embedding)
        # Of the loss that it was trained with; never used, but in the file.
        self.similarity_weight = nn.Parameter(torch.tensor([10.0]))
        self.similarity_bias = nn.Parameter(torch.tensor([-5.0]))

    def forward(self, partials: Tensor) -> Tensor:
        """(batch, 256) of partials (batch, 160, 40)."""
        _, (hidden, _) = self.lstm(partials)
        return functional.normalize(functional.relu(self.proj(hidden[-1])), dim=1, eps=0.0)

    def embed(self, mel: Tensor) -> Tensor:
        """The speaker (1, 256) of a recording's mel spectrogram (frames, 40)."""
        size = self.shape.partial_frames
        count, rest = divmod(max(mel.shape[0] - size + _STEP, 0), _STEP)
        if count == 0 or (rest + size - _STEP) / size >= _COVERAGE:
            count += 1
        needed = size + _STEP * (count - 1)
        padded = functional.pad(mel, (0, 0, 0, max(needed - mel.shape[0], 0)))
        partials = padded[:needed].unfold(0, size, _STEP).transpose(1, 2)
        return functional.normalize(self(partials).mean(dim=0, keepdim=True), dim=1, eps=0.0)
