"""Text to tokens, as each published model was taught to read.

    Turbo, Nano     English; GPT2's byte pairs, and tags such as [laugh] that are tokens of their own
    original        English; a small vocabulary of its own, in which a blank is a token
    multilingual    23 languages, of which some want their writing taken apart first

Punctuation is tidied as the published code does it, because the models have read it so. What that code says instead of
an empty text, or does with a tag that it does not know (reads it out), is an error here. Characters that command a
tokenizer ("[STOP]", "<|endoftext|>") are never taken for commands.

Errors: UnsuitableUtterance and Unsupported for texts, UnsuitableCheckpoint for the tokenizer's files.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from engines.chatterbox.shapes import Backbone, ModelShape
from engines.chatterbox.weights import UnsuitableCheckpoint
from engines.engine import UnsuitableUtterance, Unsupported
from engines.sentences import TAG, speakable

__all__ = ["LANGUAGES", "FrontEnd", "most_tokens", "open_front_end"]

LANGUAGES = frozenset("ar da de el en es fi fr he hi it ja ko ms nl no pl pt ru sv sw tr zh".split())  # noqa: SIM905
"""Of the multilingual model."""

MOST_TOKENS = 1000
"""Of speech for one utterance, as published: 40 s."""

_KANJI = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_NORWEGIAN = {"nb": "no", "nn": "no"}
_SENTENCE_ENDS = (".", "!", "?", "-", ",")
_CJK_ENDS = ("、", "，", "。", "？", "！")  # noqa: RUF001

_QUOTES = (("“", '"'), ("”", '"'), ("‘", "'"), ("’", "'"))  # noqa: RUF001
_TURBO_MARKS = (("…", ", "), (":", ","), ("—", "-"), ("–", "-"), (" ,", ","), *_QUOTES)  # noqa: RUF001
_ORIGINAL_MARKS = (
    ("...", ", "),
    ("…", ", "),
    (":", ","),
    (" - ", ", "),
    (";", ", "),
    ("—", "-"),
    ("–", "-"),  # noqa: RUF001
    (" ,", ","),
    *_QUOTES,
)


def most_tokens(text: str) -> int:
    """How many tokens of speech a text can take, with room to spare: a model that needs more does not say the text.

    People take 0.03 to 0.18 s for a letter; digits and symbols are words, ideographs and the like syllables, and a tag
    may be a long laugh. Speech has 25 tokens a second.
    """
    tokens = 25.0 + 75 * len(TAG.findall(text))
    for character in TAG.sub("", text):
        if character.isdecimal() or unicodedata.category(character)[0] == "S" or character in "%&@#":
            tokens += 15
        elif unicodedata.east_asian_width(character) in "WF" and character.isalpha():
            tokens += 10
        else:
            tokens += 4.5
    return min(MOST_TOKENS, math.ceil(tokens))


class FrontEnd(ABC):
    """The text front end of one model. `tags` are those that it has been taught."""

    tags: frozenset[str] = frozenset()
    marks: tuple[tuple[str, str], ...] = _ORIGINAL_MARKS
    ends: tuple[str, ...] = _SENTENCE_ENDS

    def check(self, text: str, language: str = "") -> None:
        """Raise UnsuitableUtterance or Unsupported if `tokens` would refuse the text."""
        self._check_language(self._language(language), text)
        for tag in TAG.findall(text):
            if tag not in self.tags:
                known = ", ".join(sorted(self.tags)) or "none"
                raise UnsuitableUtterance(
                    f"{tag} is no tag of this model, which has {known}. Without the brackets it would be read out."
                )
        if not speakable(TAG.sub("", text)) and not TAG.search(text):
            raise UnsuitableUtterance("There is nothing to say in this text: it has no letter, digit or symbol.")

    def tokens(self, text: str, language: str = "") -> tuple[int, ...]:
        """The tokens of one utterance, with the marks that the model wants around it.

        Raises UnsuitableUtterance, Unsupported.
        """
        self.check(text, language)
        return self._tokens(self.tidied(text), self._language(language))

    def tidied(self, text: str) -> str:
        """Blanks and punctuation as the model has read them, a capital at the start and an end at the end."""
        if text[:1].islower():
            text = text[0].upper() + text[1:]
        text = " ".join(text.split())
        for mark, replacement in self.marks:
            text = text.replace(mark, replacement)
        text = text.rstrip(" ")
        return text if text.endswith(self.ends) else text + "."

    @staticmethod
    def _language(tag: str) -> str:
        primary = tag.lower().replace("_", "-").split("-")[0] or "en"
        return _NORWEGIAN.get(primary, primary)

    def _check_language(self, language: str, text: str) -> None:
        if language != "en":
            raise Unsupported(f'This model speaks English only, not "{language}".', field="language")

    @abstractmethod
    def _tokens(self, text: str, language: str) -> tuple[int, ...]: ...


class _Turbo(FrontEnd):
    marks = _TURBO_MARKS

    def __init__(self, tokenizer: Tokenizer, tags: frozenset[str]) -> None:
        self._tokenizer = tokenizer
        self.tags = tags

    def _tokens(self, text: str, language: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text).ids)


class _Original(FrontEnd):
    def __init__(self, path: Path, model: ModelShape) -> None:
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises no narrower one
            raise UnsuitableCheckpoint(f"{path} is missing or damaged: {error}. Download it again.") from error
        vocabulary = self._tokenizer.get_vocab()
        for word in ("[START]", "[STOP]", "[SPACE]", "[UNK]"):
            if word not in vocabulary:
                raise UnsuitableCheckpoint(f"{path} lacks {word}: it is not the tokenizer of {model.name}.")
        _check_size(path, vocabulary, model)
        self._start, self._stop = model.t3.start_text, model.t3.stop_text

    def _tokens(self, text: str, language: str) -> tuple[int, ...]:
        tokens = self._tokenizer.encode(self._written(text, language).replace(" ", "[SPACE]")).ids
        words = (self._tokenizer.id_to_token(token) or "" for token in tokens)
        if not any(speakable(word) for word in words if not TAG.fullmatch(word)):
            raise UnsuitableUtterance("The model can read none of the characters of this text.")
        return (self._start, *tokens, self._stop)

    def _written(self, text: str, language: str) -> str:
        return text


class _Multilingual(_Original):
    ends = _SENTENCE_ENDS + _CJK_ENDS

    def _check_language(self, language: str, text: str) -> None:
        if language not in LANGUAGES:
            spoken = ", ".join(sorted(LANGUAGES - {"he", "zh"}))
            raise Unsupported(f'This model does not speak "{language}". It speaks {spoken}.', field="language")
        if language in ("he", "zh"):
            raise Unsupported(
                f'"{language}" needs its writing taken apart by a dictionary, which is not there (points for Hebrew, '
                "words and Cangjie codes for Chinese).",
                field="language",
            )
        if language == "ja" and _KANJI.search(text):
            raise Unsupported(
                "Japanese is read in hiragana and katakana only; kanji need a dictionary, which is not there.",
                field="language",
            )

    def _written(self, text: str, language: str) -> str:
        # Compatibility decomposition also takes Korean syllables apart, as the published code does by itself.
        text = unicodedata.normalize("NFKD", text.lower())
        return f"[{language}]{text.strip() if language == 'ko' else text}"


def open_front_end(model: ModelShape, directory: Path) -> FrontEnd:
    """The front end of a model, from the tokenizer's files in the directory of its checkpoint.

    Raises UnsuitableCheckpoint.
    """
    if model.t3.backbone is Backbone.GPT2:
        return _turbo(model, directory)
    path = directory / model.files.tokenizer[0]
    return _Multilingual(path, model) if model.name == "multilingual" else _Original(path, model)


def _turbo(model: ModelShape, directory: Path) -> FrontEnd:
    whole = directory / "tokenizer.json"
    if whole.is_file():
        content = _json(whole)
        vocabulary, merges = content["model"]["vocab"], [_pair(merge) for merge in content["model"]["merges"]]
        added = {entry["content"]: entry["id"] for entry in content["added_tokens"]}
        path = whole
    else:
        path = directory / "vocab.json"
        vocabulary = _json(path)
        lines = _lines(directory / "merges.txt")
        merges = [_pair(line) for line in lines if line and not line.startswith("#version")]
        added = _json(directory / "added_tokens.json")
    _check_size(path, vocabulary | added, model)
    try:
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    except Exception as error:  # the library raises no narrower one
        raise UnsuitableCheckpoint(f"{path} and its merges do not belong together: {error}") from error
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tags = sorted((place, tag) for tag, place in added.items() if TAG.fullmatch(tag))
    for place, tag in tags:
        tokenizer.add_tokens([AddedToken(tag, normalized=False)])
        if tokenizer.token_to_id(tag) != place:
            raise UnsuitableCheckpoint(
                f"{path}: the tag {tag} is token {place}, and would become {tokenizer.token_to_id(tag)}. "
                "Its files do not belong together; download them again."
            )
    return _Turbo(tokenizer, frozenset(tag for _, tag in tags))


def _check_size(path: Path, vocabulary: Mapping[str, int], model: ModelShape) -> None:
    if max(vocabulary.values()) >= model.t3.text_vocabulary:
        raise UnsuitableCheckpoint(
            f"{path} has token {max(vocabulary.values())}, but {model.name} knows {model.t3.text_vocabulary} tokens "
            "of text. It belongs to another model: set engine.model to the one whose files these are."
        )


def _pair(merge: str | list[str]) -> tuple[str, str]:
    first, second = merge.split(" ") if isinstance(merge, str) else merge
    return first, second


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UnsuitableCheckpoint(f"{path} is missing or damaged: {error}. Download it again.") from error


def _json(path: Path) -> Any:
    try:
        return json.loads("\n".join(_lines(path)))
    except json.JSONDecodeError as error:
        raise UnsuitableCheckpoint(f"{path} is damaged: {error}. Download it again.") from error
