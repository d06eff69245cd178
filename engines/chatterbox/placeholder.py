"""A checkpoint that nobody has trained: the published files of a model, full of random numbers.

For tests, for measurements, and for trying a server out where the published weights cannot be had. What such a model
makes is noise of the right length and cost. The files say so themselves (`weights.is_random`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from engines.chatterbox import s3gen, t3
from engines.chatterbox.shapes import CODEBOOK, Backbone, ModelShape
from engines.chatterbox.text import LANGUAGES
from engines.chatterbox.weights import write_random

__all__ = ["TAGS", "write_checkpoint", "write_tokenizer", "write_voice"]

TAGS = ("[clear throat]", "[sigh]", "[shush]", "[cough]", "[groan]", "[sniff]", "[gasp]", "[chuckle]", "[laugh]")
"""Some of those that Turbo has been taught."""

_MERGES = (("h", "e"), ("Ġ", "t"), ("Ġt", "he"), ("i", "n"), ("in", "g"), ("l", "l"))
# Latin, accents, Greek, Cyrillic, Devanagari, Jamo, kana.
_LETTERS = (
    (0x21, 0x7F),
    (0xA1, 0x180),
    (0x300, 0x500),
    (0x900, 0x980),
    (0x1100, 0x1200),
    (0x3001, 0x3100),
)


def write_checkpoint(model: ModelShape, directory: Path, *, seed: int = 1) -> None:
    """Write T3, S3Gen, the voice encoder, a voice and a tokenizer for a model whose files are safetensors."""
    directory.mkdir(parents=True, exist_ok=True)
    write_random(directory / model.files.t3, t3.layout(model.t3), seed=seed)
    write_random(directory / model.files.s3gen, s3gen.layout(model.s3gen), seed=seed)
    write_random(directory / model.files.voice_encoder, s3gen.voice_encoder_layout(model.voice_encoder), seed=seed)
    write_tokenizer(model, directory)
    write_voice(model, directory, seed=seed)


def write_voice(model: ModelShape, directory: Path, *, seed: int = 1) -> None:
    """Write conds.pt: a voice of nobody, in the form of those that are published."""
    numbers = torch.Generator().manual_seed(seed)
    count = model.s3gen.prompt_tokens
    speaker = torch.randn(1, model.t3.speaker, generator=numbers)
    content = {
        "t3": {
            "speaker_emb": speaker / speaker.norm(),
            "clap_emb": None,
            "cond_prompt_speech_tokens": torch.randint(CODEBOOK, (1, model.t3.prompt_tokens), generator=numbers),
            "cond_prompt_speech_emb": None,
            "emotion_adv": torch.full((1, 1, 1), 0.5),
        },
        "gen": {
            "prompt_token": torch.randint(CODEBOOK, (1, count), generator=numbers),
            "prompt_token_len": torch.tensor([count]),
            "prompt_feat": torch.randn(1, 2 * count, model.s3gen.mels, generator=numbers) - 5,
            "prompt_feat_len": None,
            "embedding": torch.randn(1, model.s3gen.speaker_encoder.embedding, generator=numbers),
        },
    }
    torch.save(content, directory / model.files.voice)


def write_tokenizer(model: ModelShape, directory: Path) -> None:
    """Write files of the form that the model's front end reads, with little in them but bytes or letters."""
    if model.t3.backbone is Backbone.GPT2:
        _write_byte_pairs(directory)
    else:
        _write_letters(directory / model.files.tokenizer[0], model)


def _write_byte_pairs(directory: Path) -> None:
    words = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *(first + second for first, second in _MERGES)]
    vocabulary = {word: place for place, word in enumerate([*words, "<|endoftext|>"])}
    added = {tag: len(vocabulary) + place for place, tag in enumerate(TAGS)}
    _write_json(directory / "vocab.json", vocabulary)
    _write_json(directory / "added_tokens.json", added)
    _write_json(directory / "tokenizer_config.json", {"tokenizer_class": "GPT2Tokenizer", "model_max_length": 1024})
    _write_json(directory / "special_tokens_map.json", {"eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"})
    lines = ["#version: 0.2", *(f"{first} {second}" for first, second in _MERGES)]
    (directory / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_letters(path: Path, model: ModelShape) -> None:
    specials = {"[STOP]": model.t3.stop_text, "[START]": model.t3.start_text, "[UNK]": 1, "[SPACE]": 2}
    for language in sorted(LANGUAGES):
        specials[f"[{language}]"] = len(specials) + 1
    letters = [chr(code) for first, end in _LETTERS for code in range(first, end)]
    taken = set(specials.values())
    places = [place for place in range(model.t3.text_vocabulary) if place not in taken]
    vocabulary = specials | dict(zip(letters, places, strict=False))
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([AddedToken(word, special=True) for word in specials])
    tokenizer.save(str(path))


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
