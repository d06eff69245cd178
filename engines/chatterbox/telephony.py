"""Samples at 24 kHz to what a phone line takes, on the device: 8 kHz, one level for all voices, G.711 in 20 ms frames.

A low-pass of 3.6 kHz keeps what G.711 carries, and takes away the vocoder's tone near 4.9 kHz with all else that would
fold back. It delays by 2.5 ms. The level follows what has been said so far and moves slowly, so that a whisper at the
end of a sentence stays one; what would be louder than the line carries is rounded off instead of clipped.

All of it runs in double precision: it is a thousandth of what the networks cost, and makes octets the same however
speech was cut into pieces.
"""

from __future__ import annotations

import enum
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from engines.chatterbox.shapes import SAMPLE_RATE_HZ

__all__ = ["Coding", "PhoneEncoder", "PhoneStream", "compand", "low_pass", "pcm16"]

RATE_HZ = 8000
FRAME = SAMPLE_RATE_HZ // 50
"""Samples of a frame of 20 ms at 24 kHz, in which everything comes."""

PHONE_FRAME = RATE_HZ // 50

_DOWN = SAMPLE_RATE_HZ // RATE_HZ
_TAPS = 121
_CUT_HZ = 3600
_ATTENUATION_DB = 60

_TARGET_DBM0 = -19.0
"""Active speech level. (ITU-T G.168 and P.56 leave it open; -19 dBm0 is what networks are planned for.)"""

# ITU-T G.711 table 5: a sine that just does not overload the coder has 3.17 dBm0 (mu-law), 3.14 (A-law).
_TARGET_RMS = 10 ** ((_TARGET_DBM0 - 3.17) / 20) / math.sqrt(2)
_EXPECTED_RMS = 10 ** (-27 / 20)
"""What a voice is likely to have before anything is known: references are brought to -27 LUFS."""

_EXPECTED_FRAMES = 25.0
"""How many frames that expectation weighs as much as."""

_SILENT_RMS = 10 ** (-50 / 20)
_MEMORY_S = 2.0
_MOST_GAIN = 10 ** (12 / 20)
_KNEE = 0.7


class Coding(enum.Enum):
    """How samples at 8 kHz travel: G.711 octets, or 16 bits in native byte order."""

    PCMU = "pcmu"
    PCMA = "pcma"
    LINEAR = "linear"


@functools.cache
def low_pass(device: torch.device) -> Tensor:
    """Taps of the low-pass at 24 kHz, float64: a sinc in a Kaiser window (Oppenheim and Schafer, section 7.6)."""
    beta = 0.1102 * (_ATTENUATION_DB - 8.7)
    time = torch.arange(_TAPS, dtype=torch.float64) - (_TAPS - 1) / 2
    window = torch.kaiser_window(_TAPS, periodic=False, beta=beta, dtype=torch.float64)
    taps = torch.sinc(2 * _CUT_HZ / SAMPLE_RATE_HZ * time) * window
    return (taps / taps.sum()).to(device)


@functools.cache
def _codes(coding: Coding, device: torch.device) -> Tensor:
    """The octet of each 16-bit sample, indexed by its bits read as unsigned."""
    sample = torch.arange(65536)
    negative = sample >= 32768
    magnitude = torch.where(negative, 65535 - sample, sample)  # the ones' complement of a negative one
    if coding is Coding.PCMU:
        # G.711 table 2a: 14 bits, to which 33 is added so that each chord begins at a power of two.
        biased = ((magnitude >> 2) + 33).clamp(max=8191)
        chord = _chord(biased, 64)
        step, toggle = chord << 4 | (biased >> (chord + 1)) & 15, 0xFF
    else:
        # G.711 table 1a: 12 bits; the first two chords are one, of equal steps.
        cut = magnitude >> 4
        chord = _chord(cut, 16)
        step, toggle = chord << 4 | (cut >> (chord - 1).clamp(min=0)) & 15, 0xD5
    return (step ^ toggle ^ (negative.long() << 7)).to(device, torch.uint8)


def _chord(magnitude: Tensor, second: int) -> Tensor:
    """Which chord it is in, 0 to 7; the second begins at `second`, and each further one at twice that."""
    return (magnitude[:, None] >= torch.tensor([second << index for index in range(7)])).sum(-1)


def compand(samples: Tensor, coding: Coding) -> Tensor:
    """Octets, uint8, of samples from -32768 to 32767, int64; `coding` is one of the two laws."""
    return _codes(coding, samples.device)[samples & 0xFFFF]


def pcm16(samples: Tensor) -> Tensor:
    """Samples between -1 and 1 as 16 bits, int64 from -32768 to 32767."""
    return (samples.double() * 32768).round().clamp(-32768, 32767).long()


@dataclass(slots=True, kw_only=True)
class PhoneStream:
    """What one utterance carries from piece to piece: the filter's past, and how loud it has been."""

    _past: Tensor
    _energy: Tensor
    _weight: Tensor
    _gain: Tensor


class PhoneEncoder:
    """Encodes streams side by side, on their device. `levels` is whether they are brought to one level."""

    def __init__(self, device: torch.device | str = "cpu", *, levels: bool = True) -> None:
        self.device, self.levels = torch.device(device), levels

    def open(self) -> PhoneStream:
        """A new utterance."""
        weight = torch.tensor(_EXPECTED_FRAMES, dtype=torch.float64, device=self.device)
        return PhoneStream(
            _past=torch.zeros(_TAPS - 1, dtype=torch.float64, device=self.device),
            _energy=weight * _EXPECTED_RMS**2,
            _weight=weight,
            _gain=torch.full_like(weight, _TARGET_RMS / _EXPECTED_RMS),
        )

    @torch.inference_mode()
    def encode(
        self, streams: Sequence[PhoneStream], pieces: Sequence[Tensor], codings: Sequence[Coding]
    ) -> list[bytes | None]:
        """Each piece, (samples,) at 24 kHz and whole frames of 480, as frames of 160 samples in its stream's coding.

        None stands for a piece that holds what is no number: that stream is broken, the others are not.
        Raises ValueError for what is no whole number of frames.
        """
        frames = [piece.shape[0] // FRAME for piece in pieces]
        for piece in pieces:
            if piece.shape[0] % FRAME:
                raise ValueError(f"{piece.shape[0]} samples are no whole number of frames of {FRAME}")
        if not any(frames):
            return [b"" for _ in pieces]
        samples = torch.nn.utils.rnn.pad_sequence([piece.double() for piece in pieces], batch_first=True)
        sound = samples.isfinite().all(dim=1)
        count = torch.tensor(frames, device=self.device)
        narrow = self._filter(streams, torch.where(sound[:, None], samples, 0.0), count)
        if self.levels:
            narrow = self._level(streams, narrow, count)
        linear = pcm16(narrow)
        result: list[bytes | None] = []
        for row, (coding, whole) in enumerate(zip(codings, sound.tolist(), strict=True)):
            out = linear[row, : frames[row] * PHONE_FRAME]
            octets = out.to(torch.int16) if coding is Coding.LINEAR else compand(out, coding)
            result.append(octets.cpu().numpy().tobytes() if whole else None)
        return result

    def _filter(self, streams: Sequence[PhoneStream], samples: Tensor, frames: Tensor) -> Tensor:
        """One sample in three, (batch, samples), filtered."""
        rows = torch.cat((torch.stack([stream._past for stream in streams]), samples), dim=1)
        for row, (stream, count) in enumerate(zip(streams, frames.tolist(), strict=True)):
            stream._past = rows[row, count * FRAME : count * FRAME + _TAPS - 1].clone()
        return functional.conv1d(rows[:, None], low_pass(self.device)[None, None], stride=_DOWN)[:, 0]

    def _level(self, streams: Sequence[PhoneStream], samples: Tensor, frames: Tensor) -> Tensor:
        """Brought to the level, frame by frame; a frame's gain leads over from that of the frame before."""
        framed = samples.view(samples.shape[0], -1, PHONE_FRAME)
        power = framed.square().mean(-1)
        active = (power > _SILENT_RMS**2).double()
        # Sums that fade: a frame weighs less by `fade` with each frame of speech after it; pauses forget nothing.
        fade = math.exp(-1 / (50 * _MEMORY_S))
        spoken = active.cumsum(-1)
        ages = spoken[:, :, None] - spoken[:, None, :]
        fading = (fade**ages).tril() * active[:, None, :]
        before = fade**spoken
        energy = (fading * power[:, None, :]).sum(-1)
        energy = energy + before * torch.stack([stream._energy for stream in streams])[:, None]
        weight = fading.sum(-1) + before * torch.stack([stream._weight for stream in streams])[:, None]
        gain = (_TARGET_RMS / (energy / weight).sqrt()).clamp(1 / _MOST_GAIN, _MOST_GAIN)
        first = torch.stack([stream._gain for stream in streams])[:, None]
        previous = torch.cat((first, gain[:, :-1]), dim=1)
        ramp = torch.arange(1, PHONE_FRAME + 1, device=self.device, dtype=torch.float64) / PHONE_FRAME
        levelled = framed * (previous[..., None] + (gain - previous)[..., None] * ramp)
        for row, (stream, count) in enumerate(zip(streams, frames.tolist(), strict=True)):
            if count:
                stream._energy, stream._weight = energy[row, count - 1], weight[row, count - 1]
                stream._gain = gain[row, count - 1]
        return _rounded_off(levelled).flatten(1)


def _rounded_off(samples: Tensor) -> Tensor:
    """Nothing above one: linear up to the knee, and from there on a bend that never reaches it."""
    size, room = samples.abs(), 1 - _KNEE
    bent = _KNEE + room * torch.tanh((size - _KNEE) / room)
    return torch.where(size > _KNEE, bent.copysign(samples), samples)
