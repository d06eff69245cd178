"""The text front ends: tokens as the package makes them, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from engines.chatterbox.placeholder import TAGS, write_tokenizer
from engines.chatterbox.shapes import MODELS, TINY, TINY_ORIGINAL, ModelShape
from engines.chatterbox.text import LANGUAGES, FrontEnd, most_tokens, open_front_end
from engines.chatterbox.weights import UnsuitableCheckpoint
from engines.engine import UnsuitableUtterance, Unsupported
from tests.oracle import Part

TEXTS = (
    "hello there",
    "The thing  is\tthis:  all - in all — it’s “fine”…",  # noqa: RUF001
    "wait... 25 % of 1,234.50 €; right ?",
    "ends with a dash -",
    "Yes,",
    "Ünïcödé – naïve café 中文 😀",  # noqa: RUF001
    "élan vital",
)
TAGGED = ("Oh[laugh] the [clear throat] thing [sigh]", "[chuckle] the end")
FOREIGN = {
    "Größe: Straße…": "de",
    "ÉTÉ À L'ÎLE": "fr",
    "안녕하세요 ": "ko",
    "Привет; мир": "ru",
    "こんにちは、ガ": "ja",
    "Blåbær": "no",
    "अनुभव": "hi",
}
MULTILINGUAL = MODELS["multilingual"]
SHAPES = [TINY, TINY_ORIGINAL, MULTILINGUAL]


def texts_for(shape: ModelShape) -> Mapping[str, str]:
    """Texts and their languages."""
    english = dict.fromkeys(TEXTS if shape.t3.guided else TEXTS + TAGGED, "en")
    return english | FOREIGN if shape is MULTILINGUAL else english


def question(shape: ModelShape) -> Mapping[str, Tensor]:
    def joined(texts: Iterable[str]) -> Tensor:
        return torch.tensor(list("\0".join(texts).encode()), dtype=torch.uint8)

    texts = texts_for(shape)
    return {"texts": joined(texts), "languages": joined(texts.values())}


PART = Part(script="oracle_text.py", question=question, checkpoint=write_tokenizer)


@pytest.fixture(params=SHAPES, ids=lambda shape: shape.name)
def shape(request: pytest.FixtureRequest) -> ModelShape:
    return request.param  # type: ignore[no-any-return]


def front_end(shape: ModelShape, directory: Path) -> FrontEnd:
    write_tokenizer(shape, directory)
    return open_front_end(shape, directory)


def compare(ours: FrontEnd, shape: ModelShape, answer: Mapping[str, Tensor]) -> None:
    theirs = [part.tolist() for part in torch.split(answer["tokens"], answer["lengths"].tolist())]
    marks = ((shape.t3.start_text,), (shape.t3.stop_text,)) if shape.t3.guided else ((), ())
    for (text, language), tokens in zip(texts_for(shape).items(), theirs, strict=True):
        assert ours.tokens(text, language) == (*marks[0], *tokens, *marks[1]), text


def test_tokens_are_those_of_the_package(shape: ModelShape, tmp_path: Path) -> None:
    compare(front_end(shape, tmp_path), shape, PART.kept(shape))


@pytest.mark.slow
@pytest.mark.parity
def test_what_is_kept_of_tokens_is_what_the_package_says(shape: ModelShape, tmp_path: Path) -> None:
    answer = PART.ask(shape, tmp_path)
    compare(open_front_end(shape, tmp_path), shape, answer)
    kept = PART.kept(shape)
    assert all(torch.equal(answer[key], kept[key]) for key in ("tokens", "lengths"))


def test_tags_are_one_token_each(tmp_path: Path) -> None:
    turbo = front_end(TINY, tmp_path)
    assert turbo.tags == frozenset(TAGS)
    plain = turbo.tokens("Oh the end.")
    assert len(turbo.tokens("Oh[laugh] the end.")) == len(plain) + 1


@pytest.mark.parametrize("text", ["Well [lough] then.", "[STOP] it", "[START]", "a [PAD] b", "[en] hello"])
def test_an_unknown_tag_is_named_with_those_that_there_are(shape: ModelShape, tmp_path: Path, text: str) -> None:
    with pytest.raises(UnsuitableUtterance, match=r"^\[\w+\] is no tag of this model, which has .*"):
        front_end(shape, tmp_path).tokens(text)


def test_figures_in_brackets_are_text(tmp_path: Path) -> None:
    assert front_end(TINY, tmp_path).tokens("See [1] and [2].")


def test_commands_of_the_tokenizer_are_read_as_text(tmp_path: Path) -> None:
    turbo = front_end(TINY, tmp_path)
    end = json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8"))["<|endoftext|>"]
    assert end not in turbo.tokens("It says <|endoftext|> here.")


@pytest.mark.parametrize("text", ["", "   ", "...", "?!", "— -", "\n"])
def test_a_text_without_anything_to_say_is_refused(shape: ModelShape, tmp_path: Path, text: str) -> None:
    with pytest.raises(UnsuitableUtterance, match="nothing to say"):
        front_end(shape, tmp_path).tokens(text)


def test_a_text_of_nothing_but_unknown_characters_is_refused(tmp_path: Path) -> None:
    original = front_end(TINY_ORIGINAL, tmp_path)
    with pytest.raises(UnsuitableUtterance, match="can read none of the characters"):
        original.tokens("你好 世界")


def test_a_laugh_alone_can_be_said(tmp_path: Path) -> None:
    assert front_end(TINY, tmp_path).tokens("[laugh]")


@pytest.mark.parametrize("language", ["en", "en-GB", "EN_us", ""])
def test_english_is_spoken(shape: ModelShape, tmp_path: Path, language: str) -> None:
    assert front_end(shape, tmp_path).tokens("Hello.", language)


@pytest.mark.parametrize("shape", [TINY, TINY_ORIGINAL], ids=lambda shape: shape.name)
def test_another_language_is_refused_by_english_models(shape: ModelShape, tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match='speaks English only, not "de"') as raised:
        front_end(shape, tmp_path).check("Hallo.", "de-AT")
    assert raised.value.field == "language"


@pytest.fixture
def multilingual(tmp_path: Path) -> FrontEnd:
    return front_end(MULTILINGUAL, tmp_path)


def test_the_multilingual_model_hears_which_language_it_is(multilingual: FrontEnd) -> None:
    """Lower case, taken apart, and behind the mark of the language."""
    start, mark, *letters, stop = multilingual.tokens("Élan", "en")
    assert (start, mark, stop) == (255, 5 + sorted(LANGUAGES).index("en"), 0)
    assert len(letters) == 6, "e, its accent, l, a, n and a full stop"


@pytest.mark.parametrize("language", ["de-AT", "fr", "ko", "ru", "nb", "nn-NO"])
def test_languages_that_need_no_dictionary_are_spoken(multilingual: FrontEnd, language: str) -> None:
    assert multilingual.tokens("Abc", language)


def test_languages_that_need_a_dictionary_are_refused(multilingual: FrontEnd) -> None:
    for language in ("zh-CN", "he"):
        with pytest.raises(Unsupported, match="needs its writing taken apart by a dictionary"):
            multilingual.check("Abc", language)
    multilingual.check("こんにちは、カタカナ。", "ja")
    with pytest.raises(Unsupported, match="kanji need a dictionary"):
        multilingual.check("日本", "ja")
    with pytest.raises(Unsupported, match='does not speak "xx"'):
        multilingual.check("Abc", "xx")
    assert len(LANGUAGES) == 23


def test_a_missing_or_damaged_tokenizer_is_named(shape: ModelShape, tmp_path: Path) -> None:
    with pytest.raises(UnsuitableCheckpoint, match=r"\.json is missing or damaged"):
        open_front_end(shape, tmp_path)
    front_end(shape, tmp_path)
    for path in tmp_path.glob("*.json"):
        path.write_text(path.read_text(encoding="utf-8")[:-20], encoding="utf-8")
    with pytest.raises(UnsuitableCheckpoint, match=r"\.json is (missing or )?damaged"):
        open_front_end(shape, tmp_path)


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    write_tokenizer(TINY, tmp_path)
    added = tmp_path / "added_tokens.json"
    added.write_text('{"[laugh]": 300}', encoding="utf-8")
    with pytest.raises(UnsuitableCheckpoint, match="has token 300, but tiny knows 276 tokens"):
        open_front_end(TINY, tmp_path)
    added.write_text('{"[laugh]": 270}', encoding="utf-8")
    with pytest.raises(UnsuitableCheckpoint, match=r"the tag \[laugh\] is token 270, and would become 263"):
        open_front_end(TINY, tmp_path)
    (tmp_path / "merges.txt").write_text("#version: 0.2\nq q\n", encoding="utf-8")
    with pytest.raises(UnsuitableCheckpoint, match="do not belong together"):
        open_front_end(TINY, tmp_path)


def test_a_tokenizer_in_one_file_is_the_same(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    parts = front_end(TINY, tmp_path / "parts")
    vocabulary = json.loads((tmp_path / "parts" / "vocab.json").read_text(encoding="utf-8"))
    added = json.loads((tmp_path / "parts" / "added_tokens.json").read_text(encoding="utf-8"))
    merges = (tmp_path / "parts" / "merges.txt").read_text(encoding="utf-8").splitlines()[1:]
    whole = {
        "model": {"vocab": vocabulary, "merges": [merge.split(" ") for merge in merges]},
        "added_tokens": [{"content": tag, "id": place} for tag, place in added.items()],
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(whole), encoding="utf-8")
    one = open_front_end(TINY, tmp_path)
    assert [one.tokens(text) for text in TEXTS] == [parts.tokens(text) for text in TEXTS]


def test_a_text_has_time_enough_and_no_more() -> None:
    assert most_tokens("Good morning, this is the practice of Dr. Smith.") == 241
    assert most_tokens("10:30") == 25 + 60 + 5
    assert most_tokens("Oh [laugh]") == 25 + 75 + 14
    assert most_tokens("日本") == 45
    assert most_tokens("a" * 250) == 1000
