"""What a stream of mel frames is held against: one pass over everything, with masks instead of caches, unbatched."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from engines.chatterbox import philox, s3gen
from engines.chatterbox.features import mel_bands
from engines.chatterbox.flow import LOOKAHEAD, Flow
from engines.chatterbox.mel_stream import Mode, Prompt
from engines.chatterbox.shapes import MODELS, SILENCE, TURBO, ModelShape
from engines.chatterbox.voice_encoder import VoiceEncoder
from engines.chatterbox.weights import random_weights

MELS = 80

# Rows of this size are done before a second thread has woken up.
torch.set_num_threads(1)


def random_s3gen(shape: ModelShape, part: str = "") -> dict[str, Tensor]:
    """A checkpoint of random weights; the vocoder's are such that its pitch is a voice's and nothing is clipped.

    With `part`, only the weights of that part.
    """
    layout = s3gen.layout(shape.s3gen)
    weights = random_weights({key: size for key, size in layout.items() if key.startswith(part)}, seed=1)
    for key in list(weights):
        if key.startswith("mel2wav.conv_post.") and key.endswith("original0"):
            weights[key] = weights[key] * 0.2
        if key.startswith("mel2wav.f0_predictor.classifier"):
            weights[key] = weights[key] * 150
    if not part:
        weights["tokenizer._mel_filters"] = mel_bands(16_000, 400, 128)
        weights["tokenizer.window"] = torch.hann_window(400)
    return weights


def of_true_size(part: str) -> s3gen.S3Gen:
    """One part of Turbo's S3Gen, with random weights."""
    model = s3gen.S3Gen(TURBO.s3gen, (part,))
    model.load_state_dict(s3gen.folded(random_s3gen(TURBO, part)))
    return model.eval().requires_grad_(False)


@cache
def tiny(name: str = "tiny") -> s3gen.S3Gen:
    """All parts, with those weights."""
    model = s3gen.S3Gen(MODELS[name].s3gen)
    model.load_state_dict(s3gen.folded(random_s3gen(MODELS[name])))
    return model.eval().requires_grad_(False)


@cache
def tiny_voice_encoder(name: str = "tiny") -> VoiceEncoder:
    shape = MODELS[name].voice_encoder
    model = VoiceEncoder(shape)
    model.load_state_dict(random_weights(s3gen.voice_encoder_layout(shape), seed=1))
    return model.eval().requires_grad_(False)


def some_recording(seconds: float, *, rate_hz: int = 24_000, seed: int = 1) -> Tensor:
    """int16: harmonics of a pitch that moves, in syllables, with some noise; no speech, but shaped like it."""
    time = torch.arange(round(seconds * rate_hz), dtype=torch.float64) / rate_hz
    turns = (130 * time + 12 * torch.sin(2 * time)) % 1
    tones = sum(torch.sin(2 * torch.pi * order * turns) / order for order in range(1, 20))
    noise = torch.randn(time.shape[0], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    loud = torch.sin(4 * time).clamp(min=0).sqrt() * (time > 0.3) * (time < seconds - 0.4)
    return ((0.1 * tones * loud + 0.003 * noise) * 32768).round().to(torch.int16)


def some_prompt(tokens: int, seed: int = 1) -> Prompt:
    generator = torch.Generator().manual_seed(seed)
    return Prompt(
        tokens=torch.randint(0, 6561, (tokens,), generator=generator),
        mel=torch.randn(2 * tokens, MELS, generator=generator),
        x_vector=torch.randn(192, generator=generator),
    )


def some_tokens(count: int, seed: int = 2) -> list[int]:
    return torch.randint(0, 6561, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def noise(frames: int, domain: philox.Domain, seed: int, first: int = 0) -> Tensor:
    return philox.normal(torch.tensor([seed]), domain, torch.tensor([first]), frames, MELS)


@torch.inference_mode()
def one_pass(
    flow: Flow,
    prompt: Prompt,
    tokens: Sequence[int],
    blocks: Sequence[int],
    *,
    seed: int,
    isolated: bool,
    frames: int | None = None,
    known: Tensor | None = None,
) -> Tensor:
    """The mel of all tokens of an utterance, computed at once.

    blocks    how many tokens each block has, the prompt's first: no row sees a later block
    isolated  whether the prompt's last tokens look ahead at silence instead of at what follows
    frames    that the estimator has of the utterance, when not all
    known     the mel that is known already, (frames, mels)
    """
    size, spoken = prompt.tokens.shape[0], len(tokens)
    sequence = torch.cat((prompt.tokens, torch.tensor(tokens), torch.zeros(LOOKAHEAD, dtype=torch.int64)))[None]
    there = (torch.arange(size + spoken + LOOKAHEAD) < size + spoken)[None]
    block = torch.repeat_interleave(torch.arange(len(blocks)), torch.tensor(blocks))
    visible = (block[None, :] <= block[:, None])[None]
    lookahead = flow.encoder.pre_lookahead_layer
    ahead = lookahead.ahead

    def before_silence(rows: Tensor) -> Tensor:
        silence = flow.encoder.embed(flow.input_embedding(torch.full((1, LOOKAHEAD), SILENCE)))
        around = torch.cat((rows[:, size - LOOKAHEAD : size], silence), dim=1)
        whole = ahead(rows)
        return torch.cat((whole[:, : size - LOOKAHEAD], ahead(around), whole[:, size:]), dim=1)

    if isolated:
        lookahead.ahead = before_silence
    try:
        mu, _ = flow.encode(sequence, there, visible=visible)
    finally:
        lookahead.ahead = ahead
    count = 2 * spoken if frames is None else frames
    mu = mu[:, : 2 * size + count]
    fine = visible.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)[:, : mu.shape[1], : mu.shape[1]]
    start = torch.cat((noise(2 * size, philox.Domain.PROMPT_MEL, 0), noise(count, philox.Domain.MEL, seed)), dim=1)
    given = torch.zeros_like(start)
    given[0, : 2 * size] = prompt.mel
    if known is not None:
        given[0, 2 * size : 2 * size + known.shape[0]] = known
    mel, _ = flow.solve(
        start,
        mu,
        flow.speaker(prompt.x_vector[None]),
        given,
        torch.ones(mu.shape[:2], dtype=torch.bool),
        visible=fine,
    )
    return mel[0, 2 * size :]


def offline(
    flow: Flow,
    mode: Mode,
    prompt: Prompt,
    tokens: Sequence[int],
    hops: Sequence[int],
    *,
    seed: int,
    continues: bool = True,
    drafts: bool = True,
) -> Tensor:
    """What a mode says that the frames are, for hops over so many tokens each."""
    size = prompt.tokens.shape[0]
    if mode is Mode.CAUSAL:
        return one_pass(flow, prompt, tokens, [size, *hops], seed=seed, isolated=True)
    out, emitted = torch.empty(0, MELS), 0
    for hop in hops:
        stands = emitted + hop
        heard = min(stands + LOOKAHEAD, len(tokens))
        mel = one_pass(
            flow,
            prompt,
            tokens[:heard],
            [size, heard] if mode is Mode.ISOLATED else [size + heard],
            seed=seed,
            isolated=mode is Mode.ISOLATED,
            frames=2 * (heard if drafts else stands),
            known=out if continues else None,
        )
        out = torch.cat((out, mel[2 * emitted : 2 * stands]))
        emitted = stands
    return out


def deviation(one: Tensor, other: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return float((one - other).abs().max() / other.abs().max())
