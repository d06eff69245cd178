"""What the networks that enrol a voice hear of its recording. Each in the definition that they were trained with.

    prompt_mel    24 kHz, 80 bands at 50 Hz     the flow's
    token_mel     16 kHz, 128 bands at 100 Hz   the speech tokenizer's (Whisper's)
    voice_mel     16 kHz, 40 bands at 100 Hz    the voice encoder's
    filter_bank   16 kHz, 80 bands at 100 Hz    the speaker encoder's (Kaldi's)

Recordings are float32 (samples,) between -1 and 1.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor
from torch.nn import functional

__all__ = [
    "filter_bank",
    "loudness_lufs",
    "mel_bands",
    "narrowed",
    "prompt_mel",
    "token_mel",
    "voice_mel",
    "without_silence",
]


# --- mel scales -----------------------------------------------------------------------------------------------------


def _slaney_hz(mel: Tensor) -> Tensor:
    """Slaney's mel scale: linear up to 1 kHz, logarithmic above."""
    return torch.where(mel < 15, mel * 200 / 3, 1000 * torch.exp((mel - 15) * (math.log(6.4) / 27)))


@functools.cache
def mel_bands(rate_hz: int, size: int, bands: int) -> Tensor:
    """Triangles on Slaney's scale from 0 to 8 kHz, each of area one: float32 (bands, size / 2 + 1)."""
    highest = 15 + 27 * math.log(8) / math.log(6.4)
    corners = _slaney_hz(torch.linspace(0, highest, bands + 2, dtype=torch.float64))
    frequencies = torch.arange(size // 2 + 1, dtype=torch.float64) * (rate_hz / size)
    rising = (frequencies - corners[:-2, None]) / (corners[1:-1] - corners[:-2])[:, None]
    falling = (corners[2:, None] - frequencies) / (corners[2:] - corners[1:-1])[:, None]
    triangles = torch.minimum(rising, falling).clamp(min=0)
    return (triangles * (2 / (corners[2:] - corners[:-2]))[:, None]).float()


def _spectrum(samples: Tensor, size: int, hop: int, *, center: bool) -> Tensor:
    """STFT in a Hann window, complex (bins, frames)."""
    window = torch.hann_window(size, device=samples.device)
    return torch.stft(samples, size, hop, window=window, center=center, pad_mode="reflect", return_complex=True)


def prompt_mel(samples: Tensor) -> Tensor:
    """(frames, 80) of a recording at 24 kHz: the logarithm of magnitudes, a frame for each 480 samples."""
    padded = functional.pad(samples[None], (720, 720), mode="reflect")[0]
    spectrum = torch.view_as_real(_spectrum(padded, 1920, 480, center=False))
    magnitude = (spectrum.square().sum(-1) + 1e-9).sqrt()
    return (mel_bands(24_000, 1920, 80).to(samples.device) @ magnitude).clamp(min=1e-5).log().T


def token_mel(samples: Tensor) -> Tensor:
    """(128, frames) of a recording at 16 kHz: decimal logarithm of powers, at most eight below the loudest, scaled."""
    power = _spectrum(samples, 400, 160, center=True)[:, :-1].abs().square()
    loudness = (mel_bands(16_000, 400, 128).to(samples.device) @ power).clamp(min=1e-10).log10()
    return (torch.maximum(loudness, loudness.max() - 8) + 4) / 4


def voice_mel(samples: Tensor) -> Tensor:
    """(frames, 40) of a recording at 16 kHz: powers."""
    power = _spectrum(samples, 400, 160, center=True).abs().square()
    return (mel_bands(16_000, 400, 40).to(samples.device) @ power).T


@functools.cache
def _kaldi_bands() -> Tensor:
    """80 triangles on the scale of HTK and Kaldi from 20 Hz to 8 kHz, for 512 points: (80, 257)."""

    def mel(hz: Tensor) -> Tensor:
        return 1127 * (1 + hz / 700).log()

    corners = torch.linspace(
        float(mel(torch.tensor(20.0, dtype=torch.float64))),
        float(mel(torch.tensor(8000.0, dtype=torch.float64))),
        82,
        dtype=torch.float64,
    )
    bins = mel(torch.arange(257, dtype=torch.float64) * (16_000 / 512))
    rising = (bins - corners[:-2, None]) / (corners[1:-1] - corners[:-2])[:, None]
    falling = (corners[2:, None] - bins) / (corners[2:] - corners[1:-1])[:, None]
    return torch.minimum(rising, falling).clamp(min=0).float()


def filter_bank(samples: Tensor) -> Tensor:
    """(frames, 80) of a recording at 16 kHz: logarithm of powers as Kaldi's compute-fbank-feats, its mean taken off."""
    frames = samples.unfold(0, 400, 160)
    frames = frames - frames.mean(dim=1, keepdim=True)
    frames = frames - 0.97 * torch.cat((frames[:, :1], frames[:, :-1]), dim=1)
    window: Tensor = torch.hann_window(400, periodic=False, device=samples.device) ** 0.85
    power = torch.fft.rfft(frames * window, n=512).abs().square()
    bands = (power @ _kaldi_bands().T.to(samples.device)).clamp(min=torch.finfo(torch.float32).eps).log()
    result: Tensor = bands - bands.mean(dim=0, keepdim=True)
    return result


# --- rate, loudness, silence ----------------------------------------------------------------------------------------


@functools.cache
def _narrowing(original: int, new: int) -> tuple[Tensor, int]:
    """A windowed sinc for each phase, (new, taps), and by how many samples it reaches into the past."""
    cut = 0.99 * min(original, new)
    reach = math.ceil(6 * original / cut)
    sample = torch.arange(-reach, reach + original, dtype=torch.float64) / original
    phase = torch.arange(0, -new, -1, dtype=torch.float64) / new
    time = ((phase[:, None] + sample) * cut).clamp(-6, 6)
    kernel = torch.sinc(time) * torch.cos(time * (math.pi / 12)).square() * (cut / original)
    return kernel.float(), reach


def narrowed(samples: Tensor) -> Tensor:
    """24 kHz to 16 kHz as torchaudio's Resample does it, a sinc in a Hann window: what S3Gen hears of a prompt."""
    kernel, reach = _narrowing(3, 2)
    padded = functional.pad(samples, (reach, reach + 3))
    phases = functional.conv1d(padded[None, None], kernel[:, None].to(samples.device), stride=3)[0]
    return phases.T.flatten()[: math.ceil(samples.shape[0] * 2 / 3)]


def loudness_lufs(samples: Tensor, rate_hz: int) -> float:
    """Integrated loudness (ITU-R BS.1770-4) of one channel; minus infinity for silence. At least 0.4 s."""
    weighted = _weighted(samples.double().cpu(), rate_hz)
    count = round((weighted.shape[0] / rate_hz - 0.4) / 0.1) + 1
    powers = []
    for block in range(count):
        first, last = int(0.4 * (block * 0.25) * rate_hz), int(0.4 * (block * 0.25 + 1) * rate_hz)
        powers.append(weighted[first:last].square().sum() / (0.4 * rate_hz))
    power = torch.stack(powers)
    loudness = -0.691 + 10 * power.log10()
    heard = loudness >= -70
    if not bool(heard.any()):
        return -math.inf
    relative = -0.691 + 10 * float(power[heard].mean().log10()) - 10
    gated = power[(loudness > relative) & (loudness > -70)]
    return -0.691 + 10 * float(gated.mean().log10())


def _weighted(samples: Tensor, rate_hz: int) -> Tensor:
    """BS.1770's two filters, a shelf of 4 dB from 1.5 kHz on and a high-pass at 38 Hz, in the frequency domain.

    Their answer to a pulse is over within a quarter of a second, so that a second of silence after the recording keeps
    its end from coming round to its beginning.
    """
    size = samples.shape[0] + rate_hz
    angle = 2 * math.pi * torch.fft.rfftfreq(size, dtype=torch.float64)
    delay = torch.polar(torch.ones_like(angle), -angle)
    gain, corner = 10 ** (4.0 / 40), 2 * math.pi * 1500 / rate_hz
    cosine, slope = math.cos(corner), math.sin(corner) / 2 * math.sqrt(2)
    root = 2 * math.sqrt(gain) * slope
    shelf = (
        gain * (gain + 1 + (gain - 1) * cosine + root),
        -2 * gain * (gain - 1 + (gain + 1) * cosine),
        gain * (gain + 1 + (gain - 1) * cosine - root),
        gain + 1 - (gain - 1) * cosine + root,
        2 * (gain - 1 - (gain + 1) * cosine),
        gain + 1 - (gain - 1) * cosine - root,
    )
    corner = 2 * math.pi * 38 / rate_hz
    cosine, slope = math.cos(corner), math.sin(corner)
    high_pass = ((1 + cosine) / 2, -(1 + cosine), (1 + cosine) / 2, 1 + slope, -2 * cosine, 1 - slope)
    response = torch.ones_like(delay)
    for b0, b1, b2, a0, a1, a2 in (shelf, high_pass):
        response = response * (b0 + (b1 + b2 * delay) * delay) / (a0 + (a1 + a2 * delay) * delay)
    result: Tensor = torch.fft.irfft(torch.fft.rfft(samples, n=size) * response, n=size)[: samples.shape[0]]
    return result


def without_silence(samples: Tensor) -> Tensor:
    """The recording from its first to its last frame of 512 samples that is within 20 dB of the loudest one."""
    padded = functional.pad(samples, (1024, 1024))
    level = padded.unfold(0, 2048, 512).square().mean(dim=1).sqrt().clamp(min=1e-5)
    loud = (20 * (level / level.max()).log10() > -20).nonzero()[:, 0]
    return samples[int(loud[0]) * 512 : (int(loud[-1]) + 1) * 512]
