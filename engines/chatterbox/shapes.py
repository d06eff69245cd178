"""How large each published Chatterbox model is, and a tiny one for tests. No torch in here.

A shape holds every number that the layout of a checkpoint and its arithmetic depend on, so that one code runs all of
them. The names are those of the papers; where the published code has another name, that stands behind it.

Rates that all models share: 25 speech tokens, 50 mel frames and 24,000 samples a second. A mel frame is 480 samples,
which is 160 samples at 8 kHz, one G.711 packet of 20 ms.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = [
    "MODELS",
    "TINY",
    "TINY_ORIGINAL",
    "Backbone",
    "EncoderShape",
    "EstimatorShape",
    "Files",
    "HiftShape",
    "LlamaRope",
    "ModelShape",
    "PerceiverShape",
    "S3GenShape",
    "SpeakerEncoderShape",
    "SpeechTokenizerShape",
    "T3Shape",
    "VoiceEncoderShape",
]

TOKEN_RATE_HZ = 25
FRAME_RATE_HZ = 50
SAMPLE_RATE_HZ = 24_000
CODEBOOK = 6561
"""Speech tokens proper: finite scalar quantisation to 3 levels in 8 dimensions."""

SILENCE = 4299
"""The speech token of silence."""


class Backbone(enum.Enum):
    """The transformer of T3."""

    GPT2 = "gpt2"
    LLAMA = "llama"


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaRope:
    """Rotary positions with the frequencies of Llama 3 (`rope_scaling` of type llama3)."""

    theta: float = 500_000.0
    factor: float = 8.0
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    original_positions: int = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class PerceiverShape:
    """Condenses the voice's prompt to `queries` rows."""

    queries: int = 32
    heads: int = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class T3Shape:
    """Text tokens to speech tokens.

    inner             width between the two layers of the feed-forward network
    word_rows         rows of the backbone's own embedding, which is in the checkpoint and never used
    positions         rows of the absolute positions over the whole sequence (GPT2's `wpe`); 0 for rotary ones
    text_positions    rows of the learned positions of the text; 0 for none
    speech_positions  rows of the learned positions of the speech; 0 for none
    prompt_tokens     speech tokens of the voice that are its prompt, at most
    emotion           whether one row of the prefix says how exaggerated the speech is to be
    """

    backbone: Backbone
    layers: int
    width: int
    heads: int
    inner: int
    word_rows: int
    positions: int
    text_vocabulary: int
    speech_vocabulary: int
    text_positions: int
    speech_positions: int
    prompt_tokens: int
    perceiver: PerceiverShape | None
    emotion: bool
    rope: LlamaRope | None
    speaker: int = 256
    epsilon: float = 1e-5
    start_text: int = 255
    stop_text: int = 0
    start_speech: int = CODEBOOK
    stop_speech: int = CODEBOOK + 1

    @property
    def guided(self) -> bool:
        """Whether it runs with classifier-free guidance: two rows for each stream."""
        return self.backbone is Backbone.LLAMA


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderShape:
    """`flow.encoder` (UpsampleConformerEncoder): speech tokens at 25 Hz to rows at 50 Hz."""

    width: int = 512
    heads: int = 8
    inner: int = 2048
    blocks: int = 6
    upsampled_blocks: int = 4
    lookahead: int = 3
    upsampling: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class EstimatorShape:
    """`flow.decoder.estimator` (ConditionalDecoder): the vector field of the flow over mel frames.

    meanflow      whether the time at which a step ends is an input too (`time_embed_mixer`)
    steps         of the Euler solver
    cosine        whether times are spaced by a cosine, not evenly
    guidance      weight of the unconditional estimate in classifier-free guidance; 0 for none
    """

    width: int = 256
    heads: int = 8
    head_width: int = 64
    blocks: int = 4
    middle: int = 12
    meanflow: bool
    steps: int
    cosine: bool
    guidance: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HiftShape:
    """`mel2wav` (HiFTGenerator): mel frames to samples by a harmonic source, a filter and an inverse STFT."""

    width: int = 512
    pitch_width: int = 512
    harmonics: int = 8
    upsampling: tuple[int, ...] = (8, 5, 3)
    upsampling_kernels: tuple[int, ...] = (16, 11, 7)
    kernels: tuple[int, ...] = (3, 7, 11)
    dilations: tuple[tuple[int, ...], ...] = ((1, 3, 5), (1, 3, 5), (1, 3, 5))
    source_kernels: tuple[int, ...] = (7, 7, 11)
    source_dilations: tuple[tuple[int, ...], ...] = ((1, 3, 5), (1, 3, 5), (1, 3, 5))
    fft: int = 16
    hop: int = 4
    sine_amplitude: float = 0.1
    noise_deviation: float = 0.003
    voiced_above_hz: float = 10.0
    slope: float = 0.1
    limit: float = 0.99


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeakerEncoderShape:
    """`speaker_encoder` (CAM++): features at 16 kHz to an x-vector."""

    mels: int = 80
    embedding: int = 192
    growth: int = 32
    bottleneck: int = 4
    width: int = 128
    head_width: int = 32
    layers: tuple[int, ...] = (12, 24, 16)
    kernels: tuple[int, ...] = (3, 3, 3)
    dilations: tuple[int, ...] = (1, 2, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechTokenizerShape:
    """`tokenizer` (S3TokenizerV2 at 25 Hz): a recording at 16 kHz to speech tokens."""

    mels: int = 128
    width: int = 1280
    heads: int = 20
    layers: int = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class VoiceEncoderShape:
    """ve.safetensors: a recording at 16 kHz to T3's embedding of the speaker."""

    mels: int = 40
    width: int = 256
    layers: int = 3
    embedding: int = 256
    partial_frames: int = 160


@dataclass(frozen=True, slots=True, kw_only=True)
class S3GenShape:
    """Speech tokens and a voice to samples."""

    estimator: EstimatorShape
    encoder: EncoderShape = EncoderShape()
    hift: HiftShape = HiftShape()
    speaker_encoder: SpeakerEncoderShape = SpeakerEncoderShape()
    tokenizer: SpeechTokenizerShape = SpeechTokenizerShape()
    mels: int = 80
    prompt_tokens: int = 250


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """Names as published, all in one directory. `tokenizer` holds every file of the text front end."""

    t3: str
    s3gen: str
    voice_encoder: str
    tokenizer: tuple[str, ...]
    voice: str = "conds.pt"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """One published model. `repository` is where huggingface_hub finds its files; "" for what nobody publishes."""

    name: str
    repository: str
    files: Files
    t3: T3Shape
    s3gen: S3GenShape
    voice_encoder: VoiceEncoderShape = VoiceEncoderShape()


_GPT2_FILES = ("vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json", "tokenizer_config.json")


def _gpt2(*, layers: int, width: int, heads: int, text: int = 50_276, prompt: int = 375) -> T3Shape:
    return T3Shape(
        backbone=Backbone.GPT2,
        layers=layers,
        width=width,
        heads=heads,
        inner=4 * width,
        word_rows=text,
        positions=8196,
        text_vocabulary=text,
        speech_vocabulary=CODEBOOK + 2,
        text_positions=0,
        speech_positions=0,
        prompt_tokens=prompt,
        perceiver=None,
        emotion=False,
        rope=None,
    )


def _llama(*, text: int, layers: int = 30, width: int = 1024, heads: int = 16, prompt: int = 150) -> T3Shape:
    return T3Shape(
        backbone=Backbone.LLAMA,
        layers=layers,
        width=width,
        heads=heads,
        inner=4 * width,
        word_rows=8,
        positions=0,
        text_vocabulary=text,
        speech_vocabulary=8194,
        text_positions=2050,
        speech_positions=4100,
        prompt_tokens=prompt,
        perceiver=PerceiverShape(),
        emotion=True,
        rope=LlamaRope(),
    )


_MEANFLOW = EstimatorShape(meanflow=True, steps=2, cosine=False, guidance=0.0)
_STANDARD = EstimatorShape(meanflow=False, steps=10, cosine=True, guidance=0.7)

TURBO = ModelShape(
    name="turbo",
    repository="ResembleAI/chatterbox-turbo",
    files=Files(
        t3="t3_turbo_v1.safetensors",
        s3gen="s3gen_meanflow.safetensors",
        voice_encoder="ve.safetensors",
        tokenizer=_GPT2_FILES,
    ),
    t3=_gpt2(layers=24, width=1024, heads=16),
    s3gen=S3GenShape(estimator=_MEANFLOW),
)
NANO = ModelShape(
    name="nano",
    repository="ResembleAI/chatterbox-nano",
    files=Files(
        t3="t3_nano_v1.safetensors",
        s3gen="s3gen_meanflow.safetensors",
        voice_encoder="ve.safetensors",
        tokenizer=_GPT2_FILES,
    ),
    t3=_gpt2(layers=12, width=768, heads=12),
    s3gen=S3GenShape(estimator=_MEANFLOW),
)
ORIGINAL = ModelShape(
    name="original",
    repository="ResembleAI/chatterbox",
    files=Files(
        t3="t3_cfg.safetensors",
        s3gen="s3gen.safetensors",
        voice_encoder="ve.safetensors",
        tokenizer=("tokenizer.json",),
    ),
    t3=_llama(text=704),
    s3gen=S3GenShape(estimator=_STANDARD),
)
MULTILINGUAL = ModelShape(
    name="multilingual",
    repository="ResembleAI/chatterbox",
    files=Files(
        t3="t3_mtl23ls_v2.safetensors",
        s3gen="s3gen.pt",
        voice_encoder="ve.pt",
        tokenizer=("grapheme_mtl_merged_expanded_v1.json",),
    ),
    t3=_llama(text=2454),
    s3gen=S3GenShape(estimator=_STANDARD),
)

_TINY_ENCODER = EncoderShape(width=64, heads=4, inner=96, blocks=2)
_TINY_HIFT = HiftShape(width=32, pitch_width=32)
_TINY_SPEAKER_ENCODER = SpeakerEncoderShape(growth=4, width=16)
_TINY_TOKENIZER = SpeechTokenizerShape(width=64, heads=4, layers=2)
_TINY_VOICE_ENCODER = VoiceEncoderShape(width=32, layers=2)

TINY = ModelShape(
    name="tiny",
    repository="",
    files=TURBO.files,
    t3=_gpt2(layers=2, width=64, heads=4, text=276, prompt=25),
    s3gen=S3GenShape(
        estimator=EstimatorShape(
            width=32, heads=2, head_width=16, blocks=1, middle=2, meanflow=True, steps=2, cosine=False, guidance=0.0
        ),
        encoder=_TINY_ENCODER,
        hift=_TINY_HIFT,
        speaker_encoder=_TINY_SPEAKER_ENCODER,
        tokenizer=_TINY_TOKENIZER,
        prompt_tokens=50,
    ),
    voice_encoder=_TINY_VOICE_ENCODER,
)
"""Turbo's architecture at a size for tests. It has random weights only, and what it says is noise."""

TINY_ORIGINAL = ModelShape(
    name="tiny-original",
    repository="",
    files=ORIGINAL.files,
    t3=_llama(text=704, layers=2, width=64, heads=4, prompt=25),
    s3gen=S3GenShape(
        estimator=EstimatorShape(
            width=32, heads=2, head_width=16, blocks=1, middle=2, meanflow=False, steps=10, cosine=True, guidance=0.7
        ),
        encoder=_TINY_ENCODER,
        hift=_TINY_HIFT,
        speaker_encoder=_TINY_SPEAKER_ENCODER,
        tokenizer=_TINY_TOKENIZER,
        prompt_tokens=50,
    ),
    voice_encoder=_TINY_VOICE_ENCODER,
)
"""The original model's architecture at a size for tests, with random weights only."""

MODELS = {model.name: model for model in (TURBO, NANO, ORIGINAL, MULTILINGUAL, TINY, TINY_ORIGINAL)}
"""By name, as the configuration has it."""
