"""The oracle for S3Gen and for what enrols a voice: mel frames, samples, features and embeddings, by the package."""

from __future__ import annotations

import functools
from pathlib import Path

from oracle_part import Shape, Tensors, answer  # ahead of the package, whose __init__ it passes by

# isort: split
import librosa
import pyloudnorm
import s3tokenizer.model_v2 as tokenizer_v2
import torch
import torchaudio.transforms  # noqa: F401, the package takes it for granted
from chatterbox.models.s3gen import hifigan, s3gen, xvector
from chatterbox.models.s3gen.configs import CFM_PARAMS
from chatterbox.models.s3gen.decoder import ConditionalDecoder
from chatterbox.models.s3gen.f0_predictor import ConvRNNF0Predictor
from chatterbox.models.s3gen.flow import CausalMaskedDiffWithXvec
from chatterbox.models.s3gen.flow_matching import CausalConditionalCFM
from chatterbox.models.s3gen.transformer import upsample_encoder
from chatterbox.models.s3gen.utils.mel import mel_spectrogram
from chatterbox.models.s3tokenizer import S3Tokenizer
from chatterbox.models.voice_encoder import VoiceEncConfig, VoiceEncoder
from chatterbox.models.voice_encoder.melspec import melspectrogram
from safetensors.torch import load_file


class Model(torch.nn.Module):
    """The package's S3Gen of that shape."""

    dtype = torch.float32
    device = torch.device("cpu")

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        size, field, hift = shape.encoder, shape.estimator, shape.hift
        upsample_encoder.PreLookaheadLayer = functools.partial(resized, upsample_encoder.PreLookaheadLayer, size.width)
        upsample_encoder.Upsample1D = functools.partial(resized, upsample_encoder.Upsample1D, size.width)
        encoder = upsample_encoder.UpsampleConformerEncoder(
            input_size=size.width,
            output_size=size.width,
            attention_heads=size.heads,
            linear_units=size.inner,
            num_blocks=size.blocks,
            use_cnn_module=False,
        )
        estimator = ConditionalDecoder(
            channels=[field.width],
            attention_head_dim=field.head_width,
            n_blocks=field.blocks,
            num_mid_blocks=field.middle,
            num_heads=field.heads,
            meanflow=field.meanflow,
        )
        self.flow = CausalMaskedDiffWithXvec(
            input_size=size.width,
            encoder=encoder,
            decoder=CausalConditionalCFM(spk_emb_dim=80, cfm_params=CFM_PARAMS, estimator=estimator),
        )
        self.mel2wav = hifigan.HiFTGenerator(
            base_channels=hift.width,
            sampling_rate=24_000,
            upsample_rates=hift.upsampling,
            upsample_kernel_sizes=hift.upsampling_kernels,
            source_resblock_kernel_sizes=hift.source_kernels,
            source_resblock_dilation_sizes=hift.source_dilations,
            f0_predictor=ConvRNNF0Predictor(cond_channels=hift.pitch_width),
        )
        speaker = shape.speaker_encoder
        self.speaker_encoder = xvector.CAMPPlus(
            growth_rate=speaker.growth, init_channels=speaker.width, bn_size=speaker.bottleneck, memory_efficient=False
        )
        tokens = shape.tokenizer
        config = tokenizer_v2.ModelConfig(
            n_audio_state=tokens.width, n_audio_head=tokens.heads, n_audio_layer=tokens.layers
        )
        rotary, width = tokenizer_v2.precompute_freqs_cis, tokens.width // tokens.heads
        tokenizer_v2.precompute_freqs_cis = lambda dim, end: rotary(width, end)
        tokenizer_v2.S3TokenizerV2.__init__.__defaults__ = (config,)
        self.tokenizer = S3Tokenizer("speech_tokenizer_v2_25hz")
        self.mel_extractor = mel_spectrogram


def resized(layer: type[torch.nn.Module], width: int, **sizes: int) -> torch.nn.Module:
    """A layer for which the package has a fixed width."""
    return layer(**{name: width if name.endswith("channels") else size for name, size in sizes.items()})


def drawing(*numbers: torch.Tensor) -> object:
    """Have the package draw these instead of random numbers of their shapes."""
    draw = {tuple(each.shape): each for each in numbers}
    return lambda like, *_, **__: draw.get(tuple(like.shape), torch.zeros_like(like)).clone()


def mel(model: Model, shape: Shape, question: Tensors, *, chunk: int = 0) -> torch.Tensor:
    """Mel frames of the question's tokens, [80, frames]; with `chunk`, of blocks of so many tokens."""
    model.flow.encoder.static_chunk_size = chunk
    model.flow.decoder.estimator.static_chunk_size = 2 * chunk
    prompt, tokens = question["prompt_tokens"][None], question["tokens"][None]
    noise = question["noise"].T[None]
    torch.randn_like = drawing(noise)
    frames, _ = model.flow.inference(
        token=tokens,
        token_len=torch.tensor([tokens.shape[1]]),
        prompt_token=prompt,
        prompt_token_len=torch.tensor([prompt.shape[1]]),
        prompt_feat=question["prompt_mel"][None],
        prompt_feat_len=None,
        embedding=question["x_vector"][None],
        finalize=True,  # the package fails on anything else
        n_timesteps=shape.estimator.steps,
        meanflow=shape.estimator.meanflow,
    )
    return frames[0].T


def source(model: Model, question: Tensors) -> torch.Tensor:
    """The excitation of the question's pitch, with its phases and noise, summed up in double precision."""
    phases, noise = question["phases"][None, :, None], question["harmonics_noise"].T[None]

    class Phases:
        def __init__(self, **_: float) -> None: ...

        def sample(self, **_: object) -> torch.Tensor:
            return phases.clone()

    hifigan.Uniform = Phases
    torch.randn_like = drawing(noise)
    zeros = torch.zeros
    torch.zeros = lambda *args, **kwargs: zeros(*args, **({"dtype": torch.float64} | kwargs))
    try:
        pitch = model.mel2wav.f0_upsamp(question["pitch"][None, None]).double()
        sines, _, _ = model.mel2wav.m_source.l_sin_gen(pitch)
    finally:
        torch.zeros = zeros
    merged = model.mel2wav.m_source.l_linear(sines.transpose(1, 2).float())
    return torch.tanh(merged)[0, :, 0]


def voice(model: Model, shape: Shape, question: Tensors, directory: Path) -> Tensors:
    """What ChatterboxTurboTTS.prepare_conditionals does with a recording at 24 kHz."""
    samples = (question["recording"].float() / 32768).numpy()
    loudness = pyloudnorm.Meter(24_000).integrated_loudness(samples)
    samples = (samples * 10 ** ((-27 - loudness) / 20)).astype("float32")  # the package forgets the last part
    narrow = librosa.resample(samples, orig_sr=24_000, target_sr=16_000)
    prompt = torch.from_numpy(samples[: shape.s3gen.prompt_tokens * 960])
    reference = s3gen.S3Token2Mel.embed_ref(model, prompt, 24_000, device="cpu")
    most = shape.t3.prompt_tokens
    tokens, _ = model.tokenizer.forward([narrow[: most * 640]], max_len=most)
    levels: list[torch.Tensor] = []
    hook = model.tokenizer.quantizer._codebook.project_down.register_forward_hook(
        lambda _, __, projected: levels.append(projected)
    )
    model.tokenizer.forward([narrow[: most * 640]], max_len=most)
    hook.remove()
    sizes = shape.voice_encoder
    config = VoiceEncConfig()
    config.ve_hidden_size, config.speaker_embed_size = sizes.width, sizes.embedding
    encoder = VoiceEncoder(config)
    encoder.lstm = torch.nn.LSTM(sizes.mels, sizes.width, num_layers=sizes.layers, batch_first=True)
    encoder.load_state_dict(load_file(directory / shape.files.voice_encoder), strict=True)
    trimmed = librosa.effects.trim(narrow, top_db=20)[0]
    return {
        "loudness": torch.tensor(loudness, dtype=torch.float64),
        "speaker": torch.from_numpy(encoder.embeds_from_wavs([narrow], sample_rate=16_000))[0],
        "t3_tokens": tokens[0],
        "levels": levels[0].tanh(),
        "tokens": reference["prompt_token"][0],
        "mel": reference["prompt_feat"][0],
        "x_vector": reference["embedding"][0],
        "voice_mel": torch.from_numpy(melspectrogram(trimmed, VoiceEncConfig()).T),
        "token_mel": model.tokenizer.log_mel_spectrogram(torch.from_numpy(narrow)),
        "filter_bank": xvector.extract_feature(torch.from_numpy(narrow)[None])[0][0],
        "narrowed": s3gen.get_resampler(24_000, 16_000, torch.device("cpu"))(prompt),
    }


def part(shape: Shape, question: Tensors, directory: Path) -> Tensors:
    model = Model(shape.s3gen)
    model.load_state_dict(load_file(directory / shape.files.s3gen), strict=True)
    model.eval()
    vocoder_mel = question["vocoder_mel"].T[None]
    result = {
        "pitch": model.mel2wav.f0_predictor(vocoder_mel)[0],
        "samples": model.mel2wav.decode(x=vocoder_mel, s=question["source"][None, None])[0],
        "source": source(model, question),
        **{f"voice.{name}": tensor for name, tensor in voice(model, shape, question, directory).items()},
    }
    result["whole"] = mel(model, shape.s3gen, question)
    result["blocks"] = mel(model, shape.s3gen, question, chunk=5)
    return result


if __name__ == "__main__":
    answer(part)
