"""HiFT: a mel spectrogram at 50 Hz to samples at 24 kHz, by a source of harmonics, a filter and an inverse STFT.

    mel -> pitch (Hz, one a frame) -> source (a sine for each harmonic where voiced, noise elsewhere)
    mel, STFT of the source -> filter -> magnitude and phase of 16-point frames, four samples apart -> samples

Everything is real-valued: the short-time Fourier transforms are convolutions. What the published code draws anew at
each call is an argument here: the phases of the harmonics at the first sample, and noise by absolute sample. A frame's
pitch holds for its 480 samples, so a harmonic's phase is in closed form, and what is carried from one window to the
next is a fraction of a turn for each harmonic.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from engines.chatterbox.shapes import SAMPLE_RATE_HZ, HiftShape

__all__ = ["Hift"]


def _same(kernel: int, dilation: int = 1) -> int:
    return (kernel - 1) * dilation // 2


class _Snake(nn.Module):
    """x + sin(alpha x)^2 / alpha (Liu et al., arXiv:2006.08195)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(channels))

    def forward(self, rows: Tensor) -> Tensor:
        alpha = self.alpha[:, None]
        return rows + torch.sin(rows * alpha).square() / (alpha + 1e-9)


class _ResBlock(nn.Module):
    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(
            nn.Conv1d(channels, channels, kernel, dilation=dilation, padding=_same(kernel, dilation))
            for dilation in dilations
        )
        self.convs2 = nn.ModuleList(nn.Conv1d(channels, channels, kernel, padding=_same(kernel)) for _ in dilations)
        self.activations1 = nn.ModuleList(_Snake(channels) for _ in dilations)
        self.activations2 = nn.ModuleList(_Snake(channels) for _ in dilations)

    def forward(self, rows: Tensor) -> Tensor:
        for first, second, before, between in zip(
            self.convs1, self.convs2, self.activations1, self.activations2, strict=True
        ):
            rows = rows + second(between(first(before(rows))))
        return rows


class _Pitch(nn.Module):
    """The fundamental frequency of each frame, in Hz.

    In double precision: rounding differs between windows, and phases sum up what the pitch is off by. After 20 s of
    single precision two cuts of one utterance are 60 dB apart. It costs a fiftieth of what the filter does.
    """

    def __init__(self, mels: int, width: int) -> None:
        super().__init__()
        # Published as a Sequential with an activation behind each convolution.
        self.condnet = nn.ModuleDict(
            {str(2 * index): nn.Conv1d(width if index else mels, width, 3, padding=1) for index in range(5)}
        )
        self.classifier = nn.Linear(width, 1)

    def forward(self, mel: Tensor) -> Tensor:
        rows = mel.to(self.classifier.weight.dtype)
        for convolution in self.condnet.values():
            rows = functional.elu(convolution(rows))
        pitch: Tensor = self.classifier(rows.transpose(1, 2)).squeeze(-1).abs()
        return pitch


class _Source(nn.Module):
    def __init__(self, shape: HiftShape) -> None:
        super().__init__()
        self.l_linear = nn.Linear(shape.harmonics + 1, 1)


class Hift(nn.Module):
    """The vocoder. `frame` is how many samples a mel frame has."""

    def __init__(self, shape: HiftShape, mels: int = 80) -> None:
        super().__init__()
        self.shape = shape
        self.frame = math.prod(shape.upsampling) * shape.hop
        self.f0_predictor = _Pitch(mels, shape.pitch_width).double()
        self.m_source = _Source(shape)
        self.conv_pre = nn.Conv1d(mels, shape.width, 7, padding=3)
        widths = [shape.width >> index for index in range(len(shape.upsampling) + 1)]
        self.ups = nn.ModuleList(
            nn.ConvTranspose1d(widths[index], widths[index + 1], kernel, rate, padding=(kernel - rate) // 2)
            for index, (rate, kernel) in enumerate(zip(shape.upsampling, shape.upsampling_kernels, strict=True))
        )
        self.source_downs = nn.ModuleList()
        self.source_resblocks = nn.ModuleList()
        self.resblocks = nn.ModuleList()
        for index in range(len(shape.upsampling)):
            # Down from the rate of the STFT to what the rows have after this up-sampling.
            down = math.prod(shape.upsampling[index + 1 :])
            kernel, padding = (1, 0) if down == 1 else (2 * down, down // 2)
            width = widths[index + 1]
            self.source_downs.append(nn.Conv1d(shape.fft + 2, width, kernel, down, padding=padding))
            self.source_resblocks.append(_ResBlock(width, shape.source_kernels[index], shape.source_dilations[index]))
            self.resblocks.extend(
                _ResBlock(width, kernel, dilations)
                for kernel, dilations in zip(shape.kernels, shape.dilations, strict=True)
            )
        self.conv_post = nn.Conv1d(widths[-1], shape.fft + 2, 7, padding=3)

    # --- source -----------------------------------------------------------------------------------------------------

    def pitch(self, mel: Tensor) -> Tensor:
        """Hz of each frame, float64 (batch, frames), of a mel (batch, mels, frames)."""
        pitch: Tensor = self.f0_predictor(mel)
        return pitch

    def turns(self, pitch: Tensor) -> Tensor:
        """By how many turns each harmonic moves on in each frame, float64 (batch, harmonics, frames)."""
        order = torch.arange(1, self.shape.harmonics + 2, device=pitch.device, dtype=torch.float64)
        return pitch.double()[:, None] * order[:, None] * (self.frame / SAMPLE_RATE_HZ)

    def source(self, pitch: Tensor, begins: Tensor, phases: Tensor, noise: Tensor) -> Tensor:
        """The excitation (batch, frames * 480).

        pitch   (batch, frames) Hz
        begins  (batch, harmonics, frames) float64, where in its turn each harmonic is when the frame begins, 0 to 1
        phases  (batch, harmonics) radians that each harmonic of the utterance is ahead; the fundamental's are 0
        noise   (batch, harmonics, frames * 480) standard normal
        """
        shape = self.shape
        samples = torch.arange(1, self.frame + 1, device=pitch.device, dtype=torch.float32) / self.frame
        turn = begins.float()[..., None] + self.turns(pitch).float()[..., None] * samples
        sines = torch.sin(2 * math.pi * (turn % 1) + phases[:, :, None, None])
        voiced = (pitch > shape.voiced_above_hz).float()[:, None, :, None]
        deviation = voiced * shape.noise_deviation + (1 - voiced) * (shape.sine_amplitude / 3)
        excited = shape.sine_amplitude * sines * voiced + deviation * noise.view(*noise.shape[:2], -1, self.frame)
        linear = self.m_source.l_linear
        return torch.tanh(linear(excited.flatten(2).transpose(1, 2).to(linear.weight.dtype))).squeeze(-1)

    # --- filter -----------------------------------------------------------------------------------------------------

    def decode(self, mel: Tensor, source: Tensor) -> Tensor:
        """Samples (batch, frames * 480) of a mel (batch, mels, frames) and its excitation (batch, frames * 480)."""
        shape = self.shape
        spectrum = self._transform(source)
        rows = self.conv_pre(mel)
        kernels = len(shape.kernels)
        for index, up in enumerate(self.ups):
            rows = up(functional.leaky_relu(rows, shape.slope))
            if index == len(self.ups) - 1:
                rows = functional.pad(rows, (1, 0), mode="reflect")
            rows = rows + self.source_resblocks[index](self.source_downs[index](spectrum))
            blocks = self.resblocks[index * kernels : (index + 1) * kernels]
            rows = sum((block(rows) for block in blocks[1:]), start=blocks[0](rows)) / kernels
        rows = self.conv_post(functional.leaky_relu(rows))
        bins = shape.fft // 2 + 1
        magnitude = torch.exp(rows[:, :bins]).clamp(max=1e2)
        phase = torch.sin(rows[:, bins:])
        return self._inverse(magnitude * torch.cos(phase), magnitude * torch.sin(phase)).clamp(
            -shape.limit, shape.limit
        )

    def _transform(self, samples: Tensor) -> Tensor:
        """STFT with a Hann window, (batch, 18, frames): nine real parts and nine imaginary ones."""
        half = self.shape.fft // 2
        padded = functional.pad(samples[:, None], (half, half), mode="reflect")
        analysis, _, _ = _fourier(self.shape.fft, samples.device, samples.dtype)
        return functional.conv1d(padded, analysis, stride=self.shape.hop)

    def _inverse(self, real: Tensor, imaginary: Tensor) -> Tensor:
        half, hop = self.shape.fft // 2, self.shape.hop
        spectrum = torch.cat((real, imaginary), dim=1)
        _, synthesis, envelope = _fourier(self.shape.fft, spectrum.device, spectrum.dtype)
        summed = functional.conv_transpose1d(spectrum, synthesis, stride=hop)
        weight = functional.conv_transpose1d(spectrum.new_ones(1, 1, spectrum.shape[2]), envelope, stride=hop)
        return (summed / weight.clamp(min=1e-11))[:, 0, half:-half]


@functools.cache
def _fourier(size: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Bases of a windowed transform, (size + 2, 1, size): analysis, synthesis, and the window's square (1, 1, size)."""
    sample = torch.arange(size, dtype=torch.float64)
    bins = torch.arange(size // 2 + 1, dtype=torch.float64)
    window = 0.5 - 0.5 * torch.cos(2 * math.pi * sample / size)
    angle = 2 * math.pi * bins[:, None] * sample / size
    weight = torch.full_like(bins, 2.0)
    weight[0] = weight[-1] = 1.0  # neither has a mirror image
    analysis = torch.cat((torch.cos(angle), -torch.sin(angle))) * window
    synthesis = torch.cat((torch.cos(angle), -torch.sin(angle))) * window * weight.repeat(2)[:, None] / size
    return (
        analysis[:, None].to(device, dtype),
        synthesis[:, None].to(device, dtype),
        window.square()[None, None].to(device, dtype),
    )
