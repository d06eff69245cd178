"""CAM++: features of a recording to an x-vector, which says whose voice the flow is to have.

(Wang et al., "CAM++: a fast and efficient network for speaker verification using context-aware masking", 2023.)
Modules bear the names of the published checkpoint. It runs when a voice is enrolled, and not when it speaks.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

from engines.chatterbox.shapes import SpeakerEncoderShape

__all__ = ["SpeakerEncoder"]

_SEGMENT = 100
"""Frames over which a context-aware mask looks at the mean."""


def _normalised(channels: int, *, affine: bool = True) -> nn.Sequential:
    return nn.Sequential(OrderedDict(batchnorm=nn.BatchNorm1d(channels, affine=affine)))


class _ResBlock(nn.Module):
    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, stride=(stride, 1), padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if stride != 1:
            self.shortcut.append(nn.Conv2d(channels, channels, 1, stride=(stride, 1), bias=False))
            self.shortcut.append(nn.BatchNorm2d(channels))

    def forward(self, rows: Tensor) -> Tensor:
        hidden = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(rows)))))
        return functional.relu(hidden + self.shortcut(rows))


class _Head(nn.Module):
    """A small two-dimensional network over bands and frames that leaves an eighth of the bands."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.layer1 = nn.Sequential(_ResBlock(channels, 2), _ResBlock(channels, 1))
        self.layer2 = nn.Sequential(_ResBlock(channels, 2), _ResBlock(channels, 1))
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=(2, 1), padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, features: Tensor) -> Tensor:
        rows = functional.relu(self.bn1(self.conv1(features[:, None])))
        rows = self.layer2(self.layer1(rows))
        return functional.relu(self.bn2(self.conv2(rows))).flatten(1, 2)


class _Mask(nn.Module):
    def __init__(self, channels: int, outputs: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.linear_local = nn.Conv1d(
            channels, outputs, kernel, padding=(kernel - 1) // 2 * dilation, dilation=dilation, bias=False
        )
        self.linear1 = nn.Conv1d(channels, channels // 2, 1)
        self.linear2 = nn.Conv1d(channels // 2, outputs, 1)

    def forward(self, rows: Tensor) -> Tensor:
        segments = functional.avg_pool1d(rows, _SEGMENT, _SEGMENT, ceil_mode=True)
        context = rows.mean(-1, keepdim=True) + segments.repeat_interleave(_SEGMENT, dim=2)[..., : rows.shape[2]]
        mask = torch.sigmoid(self.linear2(functional.relu(self.linear1(context))))
        result: Tensor = self.linear_local(rows) * mask
        return result


class _Dense(nn.Module):
    def __init__(self, inputs: int, shape: SpeakerEncoderShape, kernel: int, dilation: int) -> None:
        super().__init__()
        channels = shape.bottleneck * shape.growth
        self.nonlinear1 = _normalised(inputs)
        self.linear1 = nn.Conv1d(inputs, channels, 1, bias=False)
        self.nonlinear2 = _normalised(channels)
        self.cam_layer = _Mask(channels, shape.growth, kernel, dilation)

    def forward(self, rows: Tensor) -> Tensor:
        hidden = self.linear1(functional.relu(self.nonlinear1(rows)))
        result: Tensor = self.cam_layer(functional.relu(self.nonlinear2(hidden)))
        return result


class _Block(nn.ModuleDict):
    """Layers that each hear all before them."""

    def forward(self, rows: Tensor) -> Tensor:
        for layer in self.values():
            rows = torch.cat((rows, layer(rows)), dim=1)
        return rows


class _Transit(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.nonlinear = _normalised(channels)
        self.linear = nn.Conv1d(channels, channels // 2, 1, bias=False)

    def forward(self, rows: Tensor) -> Tensor:
        result: Tensor = self.linear(functional.relu(self.nonlinear(rows)))
        return result


class _Projection(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, *, affine: bool = True) -> None:
        super().__init__()
        self.linear = nn.Conv1d(inputs, outputs, kernel, stride=stride, padding=(kernel - 1) // 2, bias=False)
        self.nonlinear = _normalised(outputs, affine=affine)

    def forward(self, rows: Tensor) -> Tensor:
        result: Tensor = self.nonlinear(self.linear(rows))
        return result


class SpeakerEncoder(nn.Module):
    """Call it in eval mode: its normalisations have learnt means."""

    def __init__(self, shape: SpeakerEncoderShape) -> None:
        super().__init__()
        self.head = _Head(shape.head_width)
        channels = shape.head_width * (shape.mels // 8)
        self.xvector = nn.ModuleDict({"tdnn": _Projection(channels, shape.width, 5, 2)})
        channels = shape.width
        blocks = zip(shape.layers, shape.kernels, shape.dilations, strict=True)
        for number, (layers, kernel, dilation) in enumerate(blocks, 1):
            self.xvector[f"block{number}"] = _Block(
                {
                    f"tdnnd{index + 1}": _Dense(channels + index * shape.growth, shape, kernel, dilation)
                    for index in range(layers)
                }
            )
            channels += layers * shape.growth
            self.xvector[f"transit{number}"] = _Transit(channels)
            channels //= 2
        self.xvector["out_nonlinear"] = _normalised(channels)
        self.xvector["dense"] = _Projection(2 * channels, shape.embedding, affine=False)

    def forward(self, features: Tensor) -> Tensor:
        """x-vectors (batch, 192) of features (batch, frames, 80) whose mean over the frames is zero."""
        rows: Tensor = self.head(features.transpose(1, 2))
        for name, module in self.xvector.items():
            if name == "tdnn":
                rows = functional.relu(module(rows))
            elif name == "out_nonlinear":
                rows = functional.relu(module(rows))
                rows = torch.cat((rows.mean(-1), rows.std(-1)), dim=-1)[..., None]
            else:
                rows = module(rows)
        return rows[..., 0]
