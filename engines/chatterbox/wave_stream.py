"""Samples of a stream as its mel frames come, so that cutting into hops is not heard.

The vocoder hears a frame through its neighbours: those before are kept (15 frames suffice for the same samples as
without streaming), those after are waited for. `right` says how many: the 6 that come as drafts with a hop cost no time
and are within 28 dB of what the whole utterance gives, 8 within 37, 15 within 104 and 20 within 123, which is rounding
(Turbo's size, random weights, two seconds in hops of half a second). What the vocoder would otherwise draw or compute
anew for each piece is carried on: where in its turn each harmonic is, the phases that harmonics begin with, noise by
the number of its sample, and the excitation of what is out.

Windows of equal length are one batch. A window takes a little more of the past than it needs, so that lengths are few.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from engines.chatterbox import philox
from engines.chatterbox.hift import Hift
from engines.chatterbox.shapes import SAMPLE_RATE_HZ

__all__ = ["LEFT", "Piece", "WaveDecoder", "WaveStream"]

LEFT = 15
"""Frames of the past that samples depend on."""

_SAMPLES_A_ROW = 4
"""Noise is addressed in rows of so many samples, each with a number for every harmonic."""


@dataclass(slots=True, kw_only=True)
class WaveStream:
    """One utterance on its way. `emitted` counts the frames whose samples are out."""

    seed: int
    emitted: int = 0
    _mel: Tensor
    _source: Tensor
    _turns: Tensor
    _phases: Tensor
    _first: int = field(default=0)
    """The frame that `_mel` and `_source` begin with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Frames (n, mels) that stand, those that are expected after them (a draft), and whether no others will come."""

    frames: Tensor
    draft: Tensor | None = None
    last: bool = False


@dataclass(frozen=True, slots=True)
class _Window:
    """What is computed of a stream.

    row     of the stream in the call
    first   the number of the frame that `heard` begins with
    heard   (frames, mels)
    kept    the frames from the stream's first on that stand
    stands  up to which frame samples are to come out
    """

    row: int
    stream: WaveStream
    first: int
    heard: Tensor
    kept: Tensor
    stands: int

    @property
    def new(self) -> int:
        """The first frame of the window whose samples are not out yet."""
        return self.stream.emitted - self.first


class WaveDecoder:
    """A vocoder for streams.

    right   frames after a sample's own that are waited for
    fades   whether an utterance begins with 20 ms of silence and fades in over another 20 ms, as the published model's
            do to hide what spills over from the prompt
    bucket  windows are a multiple of so many frames long, as soon as there is enough of a past
    """

    def __init__(self, hift: Hift, *, right: int = 6, fades: bool = True, bucket: int = 8) -> None:
        self.hift, self.right, self.bucket = hift, right, bucket
        fade = SAMPLE_RATE_HZ // 50
        ramp = (torch.cos(torch.linspace(math.pi, 0, fade)) + 1) / 2
        self._fade = torch.cat((torch.zeros(fade), ramp)).to(self._device) if fades else torch.ones(0)

    @property
    def _device(self) -> torch.device:
        return self.hift.conv_pre.weight.device

    def open(self, seed: int) -> WaveStream:
        """A new utterance."""
        seed = philox.seed_of(seed)
        device, harmonics = self._device, self.hift.shape.harmonics
        seeds = torch.tensor([seed], dtype=torch.int64, device=device)
        drawn = philox.uniform(seeds, philox.Domain.PHASES, torch.zeros_like(seeds), 1, harmonics)[0, 0]
        return WaveStream(
            seed=seed,
            _mel=torch.zeros(0, self.hift.conv_pre.in_channels, device=device),
            _source=torch.zeros(0, device=device),
            _turns=torch.zeros(harmonics + 1, dtype=torch.float64, device=device),
            _phases=functional.pad((2 * drawn - 1) * math.pi, (1, 0)),
        )

    @torch.inference_mode()
    def decode(self, streams: Sequence[WaveStream], pieces: Sequence[Piece]) -> list[Tensor]:
        """Samples at 24 kHz, float32 between -0.99 and 0.99, as many for each stream as can be said already."""
        samples = [torch.zeros(0, device=self._device) for _ in streams]
        by_length: defaultdict[int, list[_Window]] = defaultdict(list)
        for row, (stream, piece) in enumerate(zip(streams, pieces, strict=True)):
            window = self._window(row, stream, piece)
            if window.stands > stream.emitted:
                by_length[window.heard.shape[0]].append(window)
            else:
                stream._mel = window.kept
        for batch in by_length.values():
            for window, out in zip(batch, self._run(batch), strict=True):
                samples[window.row] = out
        return samples

    def _window(self, row: int, stream: WaveStream, piece: Piece) -> _Window:
        kept = torch.cat((stream._mel, piece.frames.to(stream._mel)))
        heard = kept if piece.draft is None or piece.last else torch.cat((kept, piece.draft.to(kept)))
        known, end = stream._first + kept.shape[0], stream._first + heard.shape[0]
        if piece.last:
            stands = known
        else:
            stands = max(min(known, end - self.right), stream.emitted)
            end = stands + self.right
        first = max(stream.emitted - LEFT, 0)
        first = max(first - (first - end) % self.bucket, stream._first)
        return _Window(row, stream, first, heard[first - stream._first : end - stream._first], kept, stands)

    def _run(self, batch: Sequence[_Window]) -> list[Tensor]:
        hift, frame = self.hift, self.hift.frame
        mel = torch.stack([window.heard for window in batch]).transpose(1, 2)
        source, begins, turns = self._excitation(batch, hift.pitch(mel))
        dtype = hift.conv_pre.weight.dtype
        samples = hift.decode(mel.to(dtype), source.to(dtype)).float()
        out = []
        for row, window in enumerate(batch):
            stream, stands = window.stream, window.stands - window.first
            piece = samples[row, window.new * frame : stands * frame].clone()
            fade = self._fade[stream.emitted * frame :][: piece.shape[0]]
            piece[: fade.shape[0]] *= fade
            out.append(piece)
            stream._turns = (begins[row, :, stands - 1] + turns[row, :, stands - 1]) % 1
            first = max(window.stands - LEFT - self.bucket, window.first)
            stream._source = source[row, (first - window.first) * frame : stands * frame].clone()
            stream._mel = window.kept[first - stream._first :].clone()
            stream._first, stream.emitted = first, window.stands
        return out

    def _excitation(self, batch: Sequence[_Window], pitch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The source (batch, samples), and where harmonics are at each frame and how far each moves them, in turns."""
        hift, frame, device = self.hift, self.hift.frame, pitch.device
        streams = [window.stream for window in batch]
        new = torch.tensor([window.new for window in batch], device=device)
        turns = hift.turns(pitch) * (torch.arange(pitch.shape[1], device=device) >= new[:, None])[:, None]
        carried = torch.stack([stream._turns for stream in streams])[..., None]
        begins = (carried + turns.cumsum(-1) - turns) % 1
        # What is out is not made again; all streams of the batch have at least `past` frames of it.
        past = min(window.new for window in batch)
        count, harmonics = pitch.shape[1] - past, hift.shape.harmonics + 1
        rows = frame // _SAMPLES_A_ROW
        noise = philox.normal(
            torch.tensor([stream.seed for stream in streams], dtype=torch.int64, device=device),
            philox.Domain.HARMONICS,
            torch.tensor([(window.first + past) * rows for window in batch], device=device),
            count * rows,
            _SAMPLES_A_ROW * harmonics,
        )
        made = hift.source(
            pitch[:, past:],
            begins[..., past:],
            torch.stack([stream._phases for stream in streams]),
            noise.view(len(batch), count * frame, harmonics).transpose(1, 2),
        )
        source = functional.pad(made, (past * frame, 0))
        for row, window in enumerate(batch):
            out = window.stream._source[(window.first - window.stream._first) * frame :]
            source[row, : out.shape[0]] = out
        return source, begins, turns
