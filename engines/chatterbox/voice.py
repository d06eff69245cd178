"""A voice: what the networks know of a speaker, derived from a recording, and the recording itself; one file each.

A voice is of use to the weights that derived it and to no others. So its file names them by a digest, and keeps the
recording, from which another model derives the voice anew (`Enroller.renewed`). A file is safetensors: numbers and
strings, nothing that is run.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import numpy as np
import soxr
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from engines.chatterbox import mel_stream, t3
from engines.chatterbox.features import (
    filter_bank,
    loudness_lufs,
    narrowed,
    prompt_mel,
    token_mel,
    voice_mel,
    without_silence,
)
from engines.chatterbox.s3gen import S3Gen
from engines.chatterbox.shapes import SAMPLE_RATE_HZ, TOKEN_RATE_HZ, ModelShape
from engines.chatterbox.voice_encoder import VoiceEncoder
from engines.chatterbox.weights import UnsuitableCheckpoint
from engines.engine import UnsuitableReference, UnsuitableUtterance

__all__ = ["KIND", "Enroller", "Voice", "fingerprint", "published"]

KIND: Final = "chatterbox-voice-1"
"""The `Engine.embedding_kind` of a serialised `Voice`."""

LEAST_S = 5.0
MOST_S = 30.0
"""Of a longer recording the beginning is taken."""

_NARROW_HZ = 16_000
_LOUDNESS_LUFS = -27.0
_SILENT_LUFS = -60.0
_FULL_SCALE = 32_700
_MOST_CLIPPED = 0.005
_TOKEN = SAMPLE_RATE_HZ // TOKEN_RATE_HZ


def fingerprint(paths: Iterable[Path]) -> str:
    """A digest of the files that derive a voice, in hexadecimal digits."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Voice:
    """A speaker as one model knows them.

    model        the name of its shape
    weights      `fingerprint` of what derived it
    speaker      of T3: float32 (256,)
    t3_tokens    speech tokens that T3 continues from: int64 (n,)
    tokens       speech tokens of the flow's prompt: int64 (n,)
    mel          of the flow's prompt: float32 (2 n, 80)
    x_vector     of the flow: float32 (192,)
    recording    int16 (samples,) at 24 kHz, all that was listened to; empty for a voice that was published without
    """

    model: str
    weights: str
    speaker: Tensor
    t3_tokens: Tensor
    tokens: Tensor
    mel: Tensor
    x_vector: Tensor
    recording: Tensor

    @property
    def flow_prompt(self) -> mel_stream.Prompt:
        """What a `MelDecoder` prepares."""
        return mel_stream.Prompt(tokens=self.tokens, mel=self.mel, x_vector=self.x_vector)

    def t3_prompt(self, emotion: float = 0.5) -> t3.Prompt:
        """What T3 begins with."""
        return t3.Prompt(speaker=self.speaker, tokens=tuple(self.t3_tokens.tolist()), emotion=emotion)

    def serialise(self) -> bytes:
        """The file."""
        tensors = {name: getattr(self, name).contiguous() for name in _TYPES}
        metadata = {"format": "pt", "kind": KIND, "model": self.model, "weights": self.weights}
        return save(tensors, metadata=metadata)

    @classmethod
    def parse(cls, file: bytes) -> Self:
        """Raises UnsuitableUtterance for what is no file of a voice."""
        try:
            tensors, metadata = load(file), _metadata(file)
            if metadata["kind"] != KIND or tensors.keys() != _TYPES.keys():
                raise KeyError
            voice = cls(model=metadata["model"], weights=metadata["weights"], **tensors)
        except (SafetensorError, KeyError, ValueError):
            raise UnsuitableUtterance("the speaker's embedding is no voice of Chatterbox: enrol them anew") from None
        sound = (
            all(tensors[name].dtype == dtype for name, dtype in _TYPES.items())
            and voice.mel.shape == (2 * voice.tokens.shape[0], 80)
            and voice.tokens.dim() == voice.t3_tokens.dim() == voice.recording.dim() == 1
            and bool(voice.mel.isfinite().all() and voice.speaker.isfinite().all() and voice.x_vector.isfinite().all())
        )
        if not sound:
            raise UnsuitableUtterance("the speaker's voice has parts that do not go together: enrol them anew")
        return voice


_TYPES = {
    "speaker": torch.float32,
    "t3_tokens": torch.int64,
    "tokens": torch.int64,
    "mel": torch.float32,
    "x_vector": torch.float32,
    "recording": torch.int16,
}


def _metadata(file: bytes) -> dict[str, str]:
    size = int.from_bytes(file[:8], "little")
    content: dict[str, str] = json.loads(file[8 : 8 + size]).get("__metadata__", {})
    return content


def published(path: Path, *, model: str, weights: str) -> Voice:
    """The voice that comes with a model (conds.pt). Nothing but tensors and plain values is unpickled.

    Raises UnsuitableCheckpoint.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        language, flow = content["t3"], content["gen"]
        mel, tokens = flow["prompt_feat"][0].float(), flow["prompt_token"][0].long()
        count = min(tokens.shape[0], mel.shape[0] // 2)
        return Voice(
            model=model,
            weights=weights,
            speaker=language["speaker_emb"].reshape(-1).float(),
            t3_tokens=language["cond_prompt_speech_tokens"].reshape(-1).long(),
            tokens=tokens[:count],
            mel=mel[: 2 * count],
            x_vector=flow["embedding"].reshape(-1).float(),
            recording=torch.zeros(0, dtype=torch.int16),
        )
    except FileNotFoundError:
        raise UnsuitableCheckpoint(
            f"{path} is missing: without it the model has no voice before one is enrolled"
        ) from None
    except (
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        OSError,
        KeyError,
        TypeError,
        IndexError,
        ValueError,
    ) as error:
        raise UnsuitableCheckpoint(
            f"{path} is damaged, or no voice that was published with a model: {error!r}. Download it again."
        ) from error


class Enroller:
    """Derives voices, with the parts of a model that do; `weights` is the fingerprint of their files."""

    def __init__(self, shape: ModelShape, s3gen: S3Gen, voice_encoder: VoiceEncoder, *, weights: str) -> None:
        self.shape, self.weights = shape, weights
        self._s3gen, self._voice_encoder = s3gen, voice_encoder

    def enrol(self, samples: bytes, rate_hz: int) -> Voice:
        """A voice of a recording: 16-bit mono samples in native byte order.

        Raises UnsuitableReference for one that is too short, silent or clipped.
        """
        pcm = np.frombuffer(samples[: 2 * round(MOST_S * rate_hz)], dtype=np.int16)
        if len(pcm) < LEAST_S * rate_hz:
            raise UnsuitableReference(
                f"{len(pcm) / rate_hz:.1f} s of recording; at least {LEAST_S:g} s are needed to clone a voice"
            )
        clipped = float(np.mean(np.abs(pcm.astype(np.int32)) >= _FULL_SCALE))
        if clipped > _MOST_CLIPPED:
            raise UnsuitableReference(
                f"the recording is clipped: {100 * clipped:.1f} % of it is at full scale; record it with less gain"
            )
        if rate_hz != SAMPLE_RATE_HZ:
            pcm = soxr.resample(pcm, rate_hz, SAMPLE_RATE_HZ, "HQ")
        return self._derived(torch.from_numpy(pcm.copy()))

    def renewed(self, voice: Voice) -> Voice:
        """The voice as this model knows it: derived anew from its recording when other weights derived it.

        Raises UnsuitableUtterance when there is no recording.
        """
        if voice.weights == self.weights:
            return voice
        if not voice.recording.numel():
            raise UnsuitableUtterance(f"the voice is of another model ({voice.model}) and keeps no recording")
        return self._derived(voice.recording)

    @torch.inference_mode()
    def _derived(self, recording: Tensor) -> Voice:
        device = next(self._voice_encoder.parameters()).device
        samples = recording.float() / 32768
        loudness = loudness_lufs(samples, SAMPLE_RATE_HZ)
        if loudness < _SILENT_LUFS:
            raise UnsuitableReference("the recording is silent")
        if not self.shape.t3.guided:  # the models with guidance were published without
            samples = samples * 10 ** ((_LOUDNESS_LUFS - loudness) / 20)
        narrow = torch.from_numpy(soxr.resample(samples.numpy(), SAMPLE_RATE_HZ, _NARROW_HZ, "HQ")).to(device)
        most = self.shape.t3.prompt_tokens
        heard = token_mel(narrow[: most * _NARROW_HZ // TOKEN_RATE_HZ])[:, : 4 * most]
        # Whole tokens, so that two frames go with each.
        prompt = samples[: min(samples.shape[0] // _TOKEN, self.shape.s3gen.prompt_tokens) * _TOKEN].to(device)
        prompt_narrow = narrowed(prompt)
        return Voice(
            model=self.shape.name,
            weights=self.weights,
            speaker=self._voice_encoder.embed(voice_mel(without_silence(narrow)))[0].float().cpu(),
            t3_tokens=self._s3gen.tokenizer(heard[None])[0].cpu(),
            tokens=self._s3gen.tokenizer(token_mel(prompt_narrow)[None])[0].cpu(),
            mel=prompt_mel(prompt).cpu(),
            x_vector=self._s3gen.speaker_encoder(filter_bank(prompt_narrow)[None])[0].float().cpu(),
            recording=recording,
        )
