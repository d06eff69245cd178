"""Voices: what is derived of a recording, what is kept of it, and recordings that no voice can be made of."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from engines.chatterbox.features import loudness_lufs, without_silence
from engines.chatterbox.mel_stream import MelDecoder, Mode
from engines.chatterbox.shapes import TINY
from engines.chatterbox.voice import Enroller, Voice, fingerprint, published
from engines.chatterbox.weights import UnsuitableCheckpoint
from engines.engine import UnsuitableReference, UnsuitableUtterance
from tests.chatterbox_flow import some_recording, tiny, tiny_voice_encoder


@pytest.fixture
def enroller() -> Enroller:
    return Enroller(TINY, tiny(), tiny_voice_encoder(), weights="a" * 64)


def pcm(seconds: float, *, rate_hz: int = 24_000) -> bytes:
    return some_recording(seconds, rate_hz=rate_hz).numpy().tobytes()


def test_a_voice_has_prompts_as_long_as_the_model_takes_them(enroller: Enroller) -> None:
    voice = enroller.enrol(pcm(6.01), 24_000)
    assert voice.t3_tokens.shape == (TINY.t3.prompt_tokens,)
    assert voice.tokens.shape == (TINY.s3gen.prompt_tokens,)
    assert voice.mel.shape == (2 * TINY.s3gen.prompt_tokens, 80)
    assert (voice.speaker.shape, voice.x_vector.shape) == ((256,), (192,))
    assert float(voice.speaker.norm()) == pytest.approx(1, abs=1e-5)
    assert bool(((voice.tokens >= 0) & (voice.tokens < 6561)).all())


def test_a_voice_is_what_both_networks_begin_with(enroller: Enroller) -> None:
    voice = enroller.enrol(pcm(5), 24_000)
    decoder = MelDecoder(tiny().flow, Mode.CAUSAL)
    stream = decoder.open(decoder.prepare(voice.flow_prompt), 1)
    stream.push(voice.t3_prompt(0.7).tokens, last=True)
    (hop,) = decoder.decode([stream], [TINY.t3.prompt_tokens])
    assert hop.frames.shape == (2 * TINY.t3.prompt_tokens, 80)
    assert voice.t3_prompt(0.7).emotion == 0.7
    assert torch.equal(voice.t3_prompt().speaker, voice.speaker)


def test_two_frames_go_with_each_token_whatever_the_length(enroller: Enroller) -> None:
    shape = dataclasses.replace(TINY, s3gen=dataclasses.replace(TINY.s3gen, prompt_tokens=250))
    enroller = Enroller(shape, tiny(), tiny_voice_encoder(), weights="")
    for samples in (120_000, 120_001, 120_959, 121_400):
        voice = enroller.enrol(some_recording(6)[:samples].numpy().tobytes(), 24_000)
        assert voice.mel.shape[0] == 2 * voice.tokens.shape[0] == 2 * (samples // 960)


def test_a_file_of_a_voice_is_read_as_it_was_written(enroller: Enroller) -> None:
    voice = enroller.enrol(pcm(5), 24_000)
    again = Voice.parse(voice.serialise())
    assert (again.model, again.weights) == ("tiny", "a" * 64)
    for field in ("speaker", "t3_tokens", "tokens", "mel", "x_vector", "recording"):
        assert torch.equal(getattr(again, field), getattr(voice, field))


def test_another_model_derives_the_voice_anew_from_what_is_kept(enroller: Enroller) -> None:
    voice = Voice.parse(enroller.enrol(pcm(5.5, rate_hz=16_000), 16_000).serialise())
    assert enroller.renewed(voice) is voice
    foreign = dataclasses.replace(voice, weights="b" * 64, mel=voice.mel + 1, tokens=voice.tokens * 0)
    renewed = enroller.renewed(foreign)
    assert renewed.weights == "a" * 64
    assert torch.equal(renewed.mel, voice.mel)
    assert torch.equal(renewed.tokens, voice.tokens)


def test_how_loud_a_recording_is_makes_no_difference(enroller: Enroller) -> None:
    loud, quiet = some_recording(5), (some_recording(5).float() / 4).round().to(torch.int16)
    one, other = (enroller.enrol(each.numpy().tobytes(), 24_000) for each in (loud, quiet))
    assert float((one.mel - other.mel).abs().mean()) < 0.02


def test_of_a_long_recording_the_first_half_minute_is_taken(enroller: Enroller) -> None:
    assert enroller.enrol(pcm(31, rate_hz=8000), 8000).recording.shape == (720_000,)


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        (some_recording(4.9), r"4\.9 s of recording; at least 5 s are needed"),
        (torch.zeros(0, dtype=torch.int16), r"0\.0 s of recording"),
        (torch.zeros(144_000, dtype=torch.int16), "silent"),
        (torch.ones(144_000, dtype=torch.int16), "silent"),
        (
            (some_recording(6).float() * 20).clamp(-32768, 32767).to(torch.int16),
            r"clipped: .* % of it is at full scale",
        ),
    ],
    ids=["too short", "empty", "silent", "constant", "clipped"],
)
def test_a_recording_that_no_voice_can_be_made_of_is_refused(
    enroller: Enroller, samples: torch.Tensor, reason: str
) -> None:
    with pytest.raises(UnsuitableReference, match=reason):
        enroller.enrol(samples.numpy().tobytes(), 24_000)


def test_what_is_no_file_of_a_voice_is_refused(enroller: Enroller) -> None:
    file = enroller.enrol(pcm(5), 24_000).serialise()
    for broken in (b"", b"RIFF", file[:-1], file[:100], save({"mel": torch.zeros(2, 80)}), b'{"median_f0_hz": 120}'):
        with pytest.raises(UnsuitableUtterance, match="no voice of Chatterbox: enrol them anew"):
            Voice.parse(broken)


def test_parts_that_do_not_go_together_are_refused(enroller: Enroller) -> None:
    voice = enroller.enrol(pcm(5), 24_000)
    for changes in ({"mel": voice.mel[1:]}, {"speaker": voice.speaker * math.nan}, {"tokens": voice.tokens.int()}):
        with pytest.raises(UnsuitableUtterance, match="parts that do not go together"):
            Voice.parse(dataclasses.replace(voice, **changes).serialise())


def conds(tokens: int, frames: int) -> dict[str, dict[str, torch.Tensor | None]]:
    """As ChatterboxTurboTTS saves them."""
    return {
        "t3": {
            "speaker_emb": torch.ones(1, 256),
            "clap_emb": None,
            "cond_prompt_speech_tokens": torch.arange(375)[None],
            "emotion_adv": torch.ones(1, 1, 1),
        },
        "gen": {
            "prompt_token": torch.arange(tokens)[None],
            "prompt_token_len": torch.tensor([tokens]),
            "prompt_feat": torch.randn(1, frames, 80),
            "prompt_feat_len": None,
            "embedding": torch.ones(1, 192),
        },
    }


@pytest.mark.parametrize(
    ("tokens", "frames", "count"), [(250, 500, 250), (250, 501, 250), (250, 499, 249), (248, 500, 248)]
)
def test_a_published_voice_is_read(tmp_path: Path, tokens: int, frames: int, count: int) -> None:
    path = tmp_path / "conds.pt"
    torch.save(conds(tokens, frames), path)
    voice = published(path, model="turbo", weights="c" * 64)
    assert (voice.speaker.shape, voice.t3_tokens.shape, voice.x_vector.shape) == ((256,), (375,), (192,))
    assert (voice.tokens.shape, voice.mel.shape) == ((count,), (2 * count, 80))
    assert torch.equal(Voice.parse(voice.serialise()).mel, voice.mel)


def test_a_published_voice_cannot_be_derived_anew(tmp_path: Path, enroller: Enroller) -> None:
    path = tmp_path / "conds.pt"
    torch.save(conds(250, 500), path)
    with pytest.raises(UnsuitableUtterance, match=r"of another model \(turbo\) and keeps no recording"):
        enroller.renewed(published(path, model="turbo", weights="c" * 64))


def test_what_is_no_published_voice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "conds.pt"
    with pytest.raises(UnsuitableCheckpoint, match=r"conds\.pt is missing"):
        published(path, model="turbo", weights="")
    torch.save(conds(250, 500), path)
    whole = path.read_bytes()
    for content in (b"", b"no pickle", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(UnsuitableCheckpoint, match="Download it again"):
            published(path, model="turbo", weights="")
    for other in ({"t3": {}}, [1, 2], {"t3": {}, "gen": {"prompt_feat": None}}):
        torch.save(other, path)
        with pytest.raises(UnsuitableCheckpoint, match="Download it again"):
            published(path, model="turbo", weights="")


def test_weights_are_told_by_their_files(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"1")
    two.write_bytes(b"2")
    assert fingerprint([one, two]) == fingerprint([one, two])
    assert len({fingerprint([one, two]), fingerprint([two, one]), fingerprint([one])}) == 3


def test_loudness_is_that_of_the_standard() -> None:
    """ITU-R BS.1770-4, section 1: a sine of 997 Hz at full scale in one channel is -3.01 LKFS; silence has none."""
    time = torch.arange(5 * 48_000, dtype=torch.float64) / 48_000
    assert loudness_lufs(torch.sin(2 * math.pi * 997 * time), 48_000) == pytest.approx(-3.01, abs=0.05)
    assert loudness_lufs(torch.zeros(24_000), 24_000) == -math.inf


def test_pauses_do_not_count_as_quiet() -> None:
    """BS.1770's gate: half of silence is left out."""
    speech = some_recording(4).double() / 32768
    paused = torch.cat((speech, torch.zeros(96_000)))
    assert loudness_lufs(paused, 24_000) == pytest.approx(loudness_lufs(speech, 24_000), abs=0.1)


def test_silence_at_both_ends_is_cut_off() -> None:
    samples = torch.zeros(40_000)
    samples[10_000:30_000] = torch.randn(20_000, generator=torch.Generator().manual_seed(1))
    cut = without_silence(samples)
    assert 20_000 <= cut.shape[0] < 20_000 + 4 * 512
