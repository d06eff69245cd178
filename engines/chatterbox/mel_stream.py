"""Mel frames of a stream as its speech tokens become known, hop by hop, in one of three modes.

    exact     every hop runs the published model on the prompt and all tokens so far. The last hop is what the model
              says without streaming; the cost of a hop grows with the utterance.
    isolated  the prompt does not see what is generated, so what it leaves behind is computed once for each voice.
              What is generated sees all of itself, and is computed anew at each hop, the last `window` tokens of it.
    causal    each hop sees the prompt and the hops before it, not those after it. Nothing is computed twice.

A hop emits the frames of some tokens, knows three tokens more (the encoder looks that far ahead), and never takes back
what it has emitted. Frames of the tokens ahead come as a draft, which the vocoder may look at. In all modes the noise
of a frame depends on the stream's seed and the frame's number alone; the prompt's noise is the same for all.

In the first two modes earlier frames would come out a little different at each hop, because they see those that are
new. So that nothing is heard of it, what was emitted is given to the model as the known part of the mel (it was trained
to continue from such a beginning). `continues=False` leaves that out.

Streams of one mode are decoded side by side, padded to the longest: what comes out for one does not depend on the
others. Who makes batches puts together what is about as long (`MelStream.rows`).
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from engines.chatterbox import philox
from engines.chatterbox.flow import LOOKAHEAD, MEL_PER_TOKEN, EncoderContext, EstimatorContext, Flow
from engines.chatterbox.shapes import CODEBOOK, SILENCE

__all__ = ["Hop", "MelDecoder", "MelStream", "Mode", "Prompt", "VoiceState"]


class Mode(enum.Enum):
    """How frames that are already out relate to those to come."""

    EXACT = "exact"
    ISOLATED = "isolated"
    CAUSAL = "causal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What the flow knows of a voice: tokens (n,) of a recording, its mel (2 n, mels), and the x-vector (192,)."""

    tokens: Tensor
    mel: Tensor
    x_vector: Tensor

    def __post_init__(self) -> None:
        if self.mel.shape[0] != MEL_PER_TOKEN * self.tokens.shape[0]:
            raise ValueError(f"{self.tokens.shape[0]} tokens do not go with {self.mel.shape[0]} frames")


@dataclass(frozen=True, slots=True, kw_only=True)
class VoiceState:
    """A prompt on the device, and what the networks keep of it unless the mode is `exact`."""

    tokens: Tensor
    mel: Tensor
    speaker: Tensor
    encoder: EncoderContext | None
    estimator: tuple[EstimatorContext, ...]

    @property
    def size_bytes(self) -> int:
        """What it takes on the device."""
        kept = sum(context.nbytes for context in self.estimator) + (self.encoder.nbytes if self.encoder else 0)
        return kept + self.tokens.nbytes + self.mel.nbytes + self.speaker.nbytes


@dataclass(slots=True, kw_only=True)
class MelStream:
    """One utterance on its way. `push` tokens, have a `MelDecoder` decode some of them, and so on.

    tokens    so far
    ended     whether there are all
    emitted   of how many the frames are out
    """

    voice: VoiceState
    seed: int
    tokens: list[int] = field(default_factory=list)
    ended: bool = False
    emitted: int = 0
    _mel: list[Tensor] = field(default_factory=list)
    _encoder: EncoderContext | None = None
    _estimator: tuple[EstimatorContext, ...] = ()

    def __post_init__(self) -> None:
        self._encoder, self._estimator = self.voice.encoder, self.voice.estimator

    def push(self, tokens: Iterable[int], *, last: bool = False) -> None:
        """More tokens; `last` when there will be no others. Raises ValueError for what is no speech token."""
        for token in tokens:
            if not 0 <= token < CODEBOOK:
                raise ValueError(f"{token} is no speech token")
            self.tokens.append(token)
        self.ended = self.ended or last

    @property
    def ready(self) -> int:
        """Of how many tokens a hop could emit the frames now."""
        return max(len(self.tokens) - self.emitted - (0 if self.ended else LOOKAHEAD), 0)

    @property
    def done(self) -> bool:
        return self.ended and self.emitted == len(self.tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """Frames (2 n, mels) that stand, and those of the tokens ahead (up to 6, mels), which the next hop makes anew."""

    frames: Tensor
    draft: Tensor


class MelDecoder:
    """A flow in one mode.

    window     tokens of the utterance that a hop in mode `isolated` looks at, besides those that it emits
    continues  whether frames that are out are known to the hops after (modes `exact` and `isolated`)
    drafts     whether frames of the tokens ahead are made as well
    steps      of the solver; the model's own by default
    """

    def __init__(
        self,
        flow: Flow,
        mode: Mode,
        *,
        window: int = 100,
        continues: bool = True,
        drafts: bool = True,
        steps: int | None = None,
    ) -> None:
        self.flow, self.mode = flow, mode
        self.window, self.continues, self.drafts, self.steps = window, continues, drafts, steps

    @torch.inference_mode()
    def prepare(self, prompt: Prompt) -> VoiceState:
        """What all streams of a voice have in common. Its last tokens look ahead at silence, in modes that keep it."""
        device = self.flow.input_embedding.weight.device
        tokens, mel = prompt.tokens.to(device)[None], prompt.mel.to(device, torch.float32)[None]
        speaker = self.flow.speaker(prompt.x_vector.to(device, self.flow.encoder_proj.weight.dtype)[None])
        encoder: EncoderContext | None = None
        estimator: list[EstimatorContext] = []
        if self.mode is not Mode.EXACT:
            count = tokens.shape[1]
            keep = torch.tensor([count], device=device)
            ahead = functional.pad(tokens, (0, LOOKAHEAD), value=SILENCE)
            mu, encoder = self.flow.encode(ahead, torch.ones_like(ahead, dtype=torch.bool), keep=keep, full=True)
            there = torch.ones(mel.shape[:2], dtype=torch.bool, device=device)
            _, estimator = self.flow.solve(
                self._prompt_noise(mel), mu, speaker, mel, there, steps=self.steps, keep=keep * MEL_PER_TOKEN, full=True
            )
        return VoiceState(tokens=tokens, mel=mel, speaker=speaker, encoder=encoder, estimator=tuple(estimator))

    def open(self, voice: VoiceState, seed: int) -> MelStream:
        """A new utterance."""
        return MelStream(voice=voice, seed=philox.seed_of(seed))

    def rows(self, stream: MelStream, count: int) -> int:
        """How many tokens a hop over `count` tokens of the stream computes: what batches are made by."""
        first, last = self._span(stream, count)
        prompt = stream.voice.tokens.shape[1] if self.mode is Mode.EXACT else 0
        return prompt + last - first

    @torch.inference_mode()
    def decode(self, streams: Sequence[MelStream], counts: Sequence[int]) -> list[Hop]:
        """One hop of each stream, over so many tokens of each. Raises ValueError when a stream is not ready for it."""
        for stream, count in zip(streams, counts, strict=True):
            if not 0 < count <= stream.ready:
                raise ValueError(f"a hop over {count} tokens, of {stream.ready} that are ready")
        mel, starts = self._decode(streams, counts)
        hops = []
        for row, (stream, count) in enumerate(zip(streams, counts, strict=True)):
            first = starts[row]
            stands, drafted = first + MEL_PER_TOKEN * count, self._ahead(stream, count) if self.drafts else 0
            hop = Hop(
                frames=mel[row, first:stands].clone(),
                draft=mel[row, stands : stands + MEL_PER_TOKEN * drafted].clone(),
            )
            stream.emitted += count
            if self.mode is not Mode.CAUSAL and self.continues:
                stream._mel.append(hop.frames)
            hops.append(hop)
        return hops

    # --- what a hop computes ----------------------------------------------------------------------------------------

    @staticmethod
    def _ahead(stream: MelStream, count: int) -> int:
        """How many tokens a hop looks ahead at: three, or what is left."""
        return min(len(stream.tokens) - stream.emitted - count, LOOKAHEAD)

    def _span(self, stream: MelStream, count: int) -> tuple[int, int]:
        """The first and the last token that a hop computes, looked-at ones included."""
        last = stream.emitted + count + self._ahead(stream, count)
        if self.mode is Mode.CAUSAL:
            return stream.emitted, last
        return max(stream.emitted - self.window, 0) if self.mode is Mode.ISOLATED else 0, last

    @staticmethod
    def _prompt_noise(mel: Tensor) -> Tensor:
        seed = torch.zeros(mel.shape[0], dtype=torch.int64, device=mel.device)
        return philox.normal(seed, philox.Domain.PROMPT_MEL, seed, mel.shape[1], mel.shape[2])

    def _decode(self, streams: Sequence[MelStream], counts: Sequence[int]) -> tuple[Tensor, list[int]]:
        """The mel of all new rows (batch, frames, mels), and in which of them each stream's hop begins."""
        device = self.flow.input_embedding.weight.device
        exact, causal = self.mode is Mode.EXACT, self.mode is Mode.CAUSAL
        spans = [self._span(stream, count) for stream, count in zip(streams, counts, strict=True)]
        prompts = [stream.voice.tokens.shape[1] if exact else 0 for stream in streams]
        sizes = [prompt + last - first for prompt, (first, last) in zip(prompts, spans, strict=True)]
        stands = [
            prompt + stream.emitted + count - first
            for prompt, stream, count, (first, _) in zip(prompts, streams, counts, spans, strict=True)
        ]
        longest = max(sizes)

        tokens = torch.zeros(len(streams), longest + LOOKAHEAD, dtype=torch.int64)
        for row, (stream, prompt, (first, last)) in enumerate(zip(streams, prompts, spans, strict=True)):
            tokens[row, prompt : prompt + last - first] = torch.tensor(stream.tokens[first:last])
        tokens = tokens.to(device)
        for row, (stream, prompt) in enumerate(zip(streams, prompts, strict=True)):
            tokens[row, :prompt] = stream.voice.tokens[0, :prompt]
        size, stand = torch.tensor(sizes, device=device), torch.tensor(stands, device=device)
        there = torch.arange(longest + LOOKAHEAD, device=device) < size[:, None]

        ages = {stream._encoder.tokens.rows if stream._encoder else 0 for stream in streams}
        full = not causal and len(set(sizes)) == len(ages) == 1
        encoder = estimator = before = visible = keep = None
        if not exact:
            encoder, estimator, before = self._contexts(streams, device)
        if causal:
            # What stands does not see what is ahead.
            keep, index = stand, torch.arange(longest, device=device)
            visible = (index[:, None] >= stand[:, None, None]) | (index < stand[:, None, None])
        mu, kept_encoder = self.flow.encode(
            tokens, there, keep=keep, context=encoder, before=before, visible=visible, full=full
        )

        frames = _doubled(stand if not self.drafts else size, device, longest)
        noise, known = self._inputs(streams, prompts, spans, MEL_PER_TOKEN * longest, mu)
        mel, kept = self.flow.solve(
            noise,
            mu,
            torch.cat([stream.voice.speaker for stream in streams]),
            known,
            frames,
            steps=self.steps,
            keep=None if keep is None else MEL_PER_TOKEN * keep,
            contexts=estimator,
            before=None if before is None else before.repeat_interleave(MEL_PER_TOKEN, dim=1),
            visible=None if visible is None else _twofold(visible),
            full=full and (self.drafts or sizes == stands),
        )
        if kept_encoder is not None:
            self._remember(streams, counts, kept_encoder, kept)
        starts = [MEL_PER_TOKEN * (stand - count) for stand, count in zip(stands, counts, strict=True)]
        return mel, starts

    def _contexts(
        self, streams: Sequence[MelStream], device: torch.device
    ) -> tuple[EncoderContext, list[EstimatorContext], Tensor]:
        encoders = [stream._encoder for stream in streams if stream._encoder is not None]
        steps = zip(*(stream._estimator for stream in streams), strict=True)
        lengths = torch.tensor([context.tokens.rows for context in encoders], device=device)
        longest = max(context.tokens.rows for context in encoders)
        before = torch.arange(longest, device=device) >= longest - lengths[:, None]
        return EncoderContext.join(encoders), [EstimatorContext.join(step) for step in steps], before

    def _inputs(
        self,
        streams: Sequence[MelStream],
        prompts: Sequence[int],
        spans: Sequence[tuple[int, int]],
        frames: int,
        mu: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Noise and what is known of the mel, each (batch, frames, mels) float32."""
        device, mels = mu.device, mu.shape[2]
        seeds = torch.tensor([stream.seed for stream in streams], dtype=torch.int64, device=device)
        # Frame numbers count from the first generated one, so those of a prompt are below zero, and are replaced.
        first = torch.tensor(
            [MEL_PER_TOKEN * (first - prompt) for prompt, (first, _) in zip(prompts, spans, strict=True)], device=device
        )
        noise = philox.normal(seeds, philox.Domain.MEL, first, frames, mels)
        known = torch.zeros_like(noise)
        for row, (stream, prompt, (start, _)) in enumerate(zip(streams, prompts, spans, strict=True)):
            end = MEL_PER_TOKEN * prompt
            if prompt:
                noise[row, :end] = self._prompt_noise(stream.voice.mel)[0]
                known[row, :end] = stream.voice.mel[0]
            if stream._mel:
                out = torch.cat(stream._mel)[MEL_PER_TOKEN * start :]
                known[row, end : end + out.shape[0]] = out
        return noise, known

    def _remember(
        self,
        streams: Sequence[MelStream],
        counts: Sequence[int],
        encoder: EncoderContext,
        estimator: Sequence[EstimatorContext],
    ) -> None:
        rows = 2 if self.flow.shape.estimator.guidance else 1
        for row, (stream, count) in enumerate(zip(streams, counts, strict=True)):
            assert stream._encoder is not None
            stream._encoder = stream._encoder.followed_by(encoder.select(row).cut(count))
            own = slice(rows * row, rows * row + rows)
            stream._estimator = tuple(
                past.followed_by(step.select(own).cut(MEL_PER_TOKEN * count))
                for past, step in zip(stream._estimator, estimator, strict=True)
            )


def _doubled(lengths: Tensor, device: torch.device, longest: int) -> Tensor:
    """Which frames are there, (batch, 2 * longest), of so many tokens each."""
    return torch.arange(MEL_PER_TOKEN * longest, device=device) < MEL_PER_TOKEN * lengths[:, None]


def _twofold(visible: Tensor) -> Tensor:
    return visible.repeat_interleave(MEL_PER_TOKEN, dim=1).repeat_interleave(MEL_PER_TOKEN, dim=2)
