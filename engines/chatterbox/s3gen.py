"""S3Gen: speech tokens and a voice to samples, and what makes a voice of a recording; one file of a checkpoint.

The flow and the vocoder are what speaks, and all that is loaded to speak. The speaker encoder and the speech tokenizer
enrol voices. Weights that the file keeps as length and direction are multiplied out as they are loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from engines.chatterbox.flow import Flow
from engines.chatterbox.hift import Hift
from engines.chatterbox.shapes import CODEBOOK, S3GenShape, VoiceEncoderShape
from engines.chatterbox.speech_tokenizer import SpeechTokenizer
from engines.chatterbox.voice_encoder import VoiceEncoder
from engines.chatterbox.weights import Layout, read
from engines.chatterbox.xvector import SpeakerEncoder

__all__ = [
    "ENROLMENT",
    "SYNTHESIS",
    "S3Gen",
    "assembled",
    "layout",
    "load",
    "load_voice_encoder",
    "voice_encoder_layout",
]

SYNTHESIS = ("flow", "mel2wav")
ENROLMENT = ("speaker_encoder", "tokenizer")

_Model = TypeVar("_Model", bound=nn.Module)

_LENGTH, _DIRECTION = "parametrizations.weight.original0", "parametrizations.weight.original1"
_CONSTANTS: dict[str, tuple[int, ...]] = {"tokenizer._mel_filters": (128, 201), "tokenizer.window": (400,)}
"""Published with the weights although they are no weights; we compute our own."""


class S3Gen(nn.Module):
    """The parts by the names of the file; those that were not asked for are absent."""

    flow: Flow
    mel2wav: Hift
    speaker_encoder: SpeakerEncoder
    tokenizer: SpeechTokenizer

    def __init__(self, shape: S3GenShape, parts: tuple[str, ...] = SYNTHESIS + ENROLMENT) -> None:
        super().__init__()
        self.shape = shape
        makers: dict[str, Callable[[], nn.Module]] = {
            "flow": lambda: Flow(shape, CODEBOOK),
            "mel2wav": lambda: Hift(shape.hift, shape.mels),
            "speaker_encoder": lambda: SpeakerEncoder(shape.speaker_encoder),
            "tokenizer": lambda: SpeechTokenizer(shape.tokenizer),
        }
        for part in parts:
            setattr(self, part, makers[part]())


def _has_length(key: str) -> bool:
    """Whether the file keeps this weight as length and direction (`weight_norm`)."""
    return (
        key.startswith("mel2wav.")
        and key.endswith(".weight")
        and not key.startswith(("mel2wav.source_downs.", "mel2wav.m_source.", "mel2wav.f0_predictor.classifier."))
    )


def layout(shape: S3GenShape) -> Layout:
    """The tensors of the file, with their sizes."""
    with torch.device("meta"):
        state = S3Gen(shape).state_dict()
    tensors: dict[str, tuple[int, ...]] = dict(_CONSTANTS)
    for key, tensor in state.items():
        size = tuple(tensor.shape)
        if _has_length(key):
            stem = key.removesuffix("weight")
            tensors[stem + _LENGTH] = (size[0], *(1 for _ in size[1:]))
            tensors[stem + _DIRECTION] = size
        else:
            tensors[key] = size
    return tensors


def folded(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Lengths and directions multiplied out; constants left out."""
    state = {}
    for key, tensor in tensors.items():
        if key.endswith(_DIRECTION):
            stem = key.removesuffix(_DIRECTION)
            length = tensor.flatten(1).norm(dim=1).reshape(-1, *(1 for _ in tensor.shape[1:]))
            state[stem + "weight"] = tensors[stem + _LENGTH] * tensor / length
        elif not key.endswith(_LENGTH) and key not in _CONSTANTS:
            state[key] = tensor
    return state


def load(
    path: Path,
    shape: S3GenShape,
    *,
    parts: tuple[str, ...] = SYNTHESIS,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> S3Gen:
    """The parts that are asked for, but for the pitch in `dtype`. Raises UnsuitableCheckpoint."""
    tensors = read(
        path,
        layout(shape),
        optional=frozenset(_CONSTANTS),
        wanted=lambda key: key.split(".")[0] in parts,
        device=device,
    )
    return assembled(shape, tensors, parts=parts, dtype=dtype)


def assembled(shape: S3GenShape, tensors: Mapping[str, Tensor], *, parts: tuple[str, ...], dtype: torch.dtype) -> S3Gen:
    """The parts, of tensors by the names of the file; but for the pitch in `dtype`."""
    with torch.device("meta"):
        model = S3Gen(shape, parts)
    return _filled(model, {key: _cast(key, tensor, dtype) for key, tensor in folded(tensors).items()})


def _cast(key: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    if key.startswith("mel2wav.f0_predictor."):
        return tensor.double()
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def voice_encoder_layout(shape: VoiceEncoderShape) -> Layout:
    """The tensors of the voice encoder's file."""
    with torch.device("meta"):
        return {key: tuple(tensor.shape) for key, tensor in VoiceEncoder(shape).state_dict().items()}


def load_voice_encoder(path: Path, shape: VoiceEncoderShape, *, device: torch.device | str = "cpu") -> VoiceEncoder:
    """Raises UnsuitableCheckpoint."""
    tensors = read(path, voice_encoder_layout(shape), device=device)
    with torch.device("meta"):
        model = VoiceEncoder(shape)
    return _filled(model, tensors)


def _filled(model: _Model, state: Mapping[str, Tensor]) -> _Model:
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval().requires_grad_(False)
