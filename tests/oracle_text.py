"""The oracle for text front ends: punctuation as the package tidies it, and tokens as its tokenizers make them."""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

from oracle_part import Shape, Tensors, answer  # ahead of the package, whose __init__ it passes by

# isort: split
import torch
from transformers import AutoTokenizer

sys.modules["perth"] = types.ModuleType("perth")  # watermarks, imported beside what is asked for

from chatterbox import mtl_tts, tts, tts_turbo  # noqa: E402
from chatterbox.models.tokenizers import EnTokenizer, MTLTokenizer  # noqa: E402


def part(shape: Shape, question: Tensors, directory: Path) -> Tensors:
    texts = bytes(question["texts"].tolist()).decode().split("\0")
    languages = bytes(question["languages"].tolist()).decode().split("\0")
    if shape.t3.backbone == "gpt2":
        tokenizer = AutoTokenizer.from_pretrained(directory)
        ids = [tokenizer(tts_turbo.punc_norm(text)).input_ids for text in texts]
    elif shape.name == "multilingual":
        tokenizer = MTLTokenizer(str(directory / shape.files.tokenizer[0]))
        pairs = zip(texts, languages, strict=True)
        ids = [tokenizer.encode(mtl_tts.punc_norm(text), language_id=language) for text, language in pairs]
    else:
        tokenizer = EnTokenizer(str(directory / shape.files.tokenizer[0]))
        ids = [tokenizer.encode(tts.punc_norm(text)) for text in texts]
    return {
        "tokens": torch.tensor([token for each in ids for token in each]),
        "lengths": torch.tensor([len(each) for each in ids]),
    }


if __name__ == "__main__":
    answer(part)
