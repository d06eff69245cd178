"""Text to pieces: where a speaker would pause, and nothing lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.sentences import LONGEST, SHORTEST, UNCUT, Arriving, even, normalise, speakable, split

PLENTY = " Then comes a further sentence, and after it there is yet another one."


@given(st.text(max_size=2000), st.integers(1, 200))
def test_joined_pieces_are_the_normalised_text(text: str, enough: int) -> None:
    assert "".join(split(text, enough=enough)) == normalise(text)


@given(st.text(alphabet=st.sampled_from("aB1é。、,.!? \n…”Dr\u0301\U0001f469\u200d日"), max_size=3000))
def test_no_piece_is_empty_or_longer_than_the_limit(text: str) -> None:
    assert all(0 < len(piece) <= LONGEST for piece in split(text))


@given(st.text(max_size=500))
def test_normalising_twice_is_normalising_once(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


@given(st.text(max_size=500))
def test_normalised_text_has_the_same_letters_and_digits_in_the_same_order(text: str) -> None:
    kept = [c for c in normalise(text) if c.isalnum()]
    assert kept == [c for c in text if c.isalnum()]


@pytest.mark.parametrize("text", ["Hi.", "One. Two. Three.", "Is it you, Anna? Yes, it is me; come in!", "a" * UNCUT])
def test_a_short_text_stays_whole(text: str) -> None:
    assert list(split(text)) == [text]


def test_the_first_piece_is_the_first_clause() -> None:
    text = "Good morning and welcome, this is the practice of Dr. Smith speaking. How may we help you today?"
    assert list(split(text)) == [
        "Good morning and welcome, ",
        "this is the practice of Dr. Smith speaking. ",
        "How may we help you today?",
    ]


def test_a_very_short_first_clause_goes_with_the_next_one() -> None:
    first = next(split("Hi, Anna, this is your reminder for tomorrow, and nothing else of importance to you now."))
    assert first == "Hi, Anna, this is your reminder for tomorrow, "
    assert len(first) >= SHORTEST


def test_short_sentences_are_joined_until_there_are_enough_characters() -> None:
    text = "This opening is quite long enough, yes it is. " + "It rains now in Spain. " * 20
    lengths = [len(piece) for piece in split(text, enough=100)]
    assert lengths[0] == len("This opening is quite long enough, ")
    assert all(100 <= length < 100 + 23 for length in lengths[1:-1])


@pytest.mark.parametrize(
    "text",
    [
        "Please ask for Dr. Smith and Prof. Jones at once, will you.",
        "The U.S. Army and the U.K. Navy went there e.g. for a walk.",
        "Version 3.5 costs 10.000,50 at 10:30 sharp on the 3. Oktober.",
        "It happened at 5 p.m. Eastern time, as Mr. J. R. Hart said.",
        "Siehe z.B. Abb. oder d.h. Nr. 7 usw. nach dem 24. Dezember.",
        "She was there... and then she was not there any more at all.",
    ],
)
def test_abbreviations_numbers_and_ellipses_end_no_sentence(text: str) -> None:
    pieces = list(split(f"This is the beginning of it. {text}{PLENTY}"))
    assert any(text in piece for piece in pieces)


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("He said “Go!” Then he left the room at once.", "He said “Go!” "),
        ("Was it (really?) Yes it was like that indeed.", "Was it (really?) "),
        ("Wait for it… Now it is there, as we all saw.", "Wait for it… "),
        ("यह पहला वाक्य है। यह दूसरा वाक्य है और लंबा है।", "यह पहला वाक्य है। "),
        ("A line without a stop\n\nA paragraph after that.", "A line without a stop\n\n"),
    ],
)
def test_a_sentence_ends_here(text: str, cut: str) -> None:
    pieces = list(split(f"Here is some introduction to begin with. Some more of it. {text}{PLENTY}", enough=1))
    assert any(piece.endswith(cut) for piece in pieces)


def test_chinese_and_japanese_sentences_end_without_a_blank() -> None:
    sentence = "お電話ありがとうございます。こちらは山田歯科医院でございます。"
    assert set(split(sentence * 6)) == {sentence}


def test_a_line_end_inside_a_sentence_is_a_blank() -> None:
    assert list(split("One line\nand another\r\nand a third")) == ["One line\nand another\nand a third"]


def test_a_sentence_without_end_is_cut_at_a_clause_and_else_at_a_word() -> None:
    clauses = "This is where it starts, " + "word " * 40 + "and here, " + "word " * 40
    assert list(split(clauses))[1].endswith("and here, ")
    words = "word " * 100
    assert all(piece.endswith("word ") for piece in list(split(words))[:-1])


def test_a_text_without_blanks_is_cut_between_characters_and_not_inside_them() -> None:
    accented = "e\u0301" * 400
    assert all(not piece.startswith("\u0301") for piece in split(accented))
    family = "\U0001f469\u200d\U0001f467" * 200
    assert all(piece[0] != "\u200d" and piece[-1] != "\u200d" for piece in split(family))


def test_controls_surrogates_and_private_characters_become_blanks() -> None:
    assert normalise("a\x00b\x01c\x02d\ud800e\ue03cf\ufeffg\x1bh") == "a b c d e f g h"


def test_line_ends_of_every_kind_are_line_ends() -> None:
    assert normalise("a\r\nb\rc\u2028d\u2029e\n\n\n\nf \n g") == "a\nb\nc\nd\n\ne\n\nf\ng"


@pytest.mark.parametrize("text", ["a", "7", "日", "50 %", "&", "😀", "€", "..a.."])
def test_there_is_something_to_say(text: str) -> None:
    assert speakable(text)


@pytest.mark.parametrize("text", ["", " \n\t", "...", "?!", "—", "“”", "\x00\x01", "\u200b"])
def test_there_is_nothing_to_say(text: str) -> None:
    assert not speakable(text)


def test_a_long_text_is_cut_lazily() -> None:
    pieces = split("Hello there, my friend. " * 4000)
    assert len(next(pieces)) < UNCUT


# A text that arrives bit by bit.


def arriving(*tokens: str) -> list[str]:
    """The pieces that are complete with each token; then what a flush gives, after a None."""
    text = Arriving()
    return [piece for token in tokens for piece in text.feed(token)] + ["|", *text.flush()]


@given(st.lists(st.text(alphabet=st.sampled_from("aB1é。、,.!? \n…”Dr\u0301"), max_size=30), max_size=40))
def test_joined_arriving_pieces_are_the_text_but_for_an_unspeakable_end(tokens: list[str]) -> None:
    text = "".join(tokens)
    pieces = [piece for piece in arriving(*tokens) if piece != "|"]
    joined = "".join(pieces)
    assert text.startswith(joined)
    assert not speakable(text[len(joined) :])
    assert all(speakable(piece) and len(piece) <= LONGEST + 30 for piece in pieces)


@given(st.text(alphabet=st.sampled_from("aB1,. "), max_size=300))
def test_how_a_text_is_cut_into_tokens_does_not_change_its_pieces(text: str) -> None:
    assert arriving(*text) == arriving(text) == arriving(*(text[n : n + 7] for n in range(0, len(text), 7)))


@pytest.mark.parametrize(
    ("tokens", "pieces"),
    [
        # The first clause, as soon as what follows shows that it has ended; then sentences.
        (["Good morning to you all,", " this"], ["Good morning to you all, ", "|", "this"]),
        (["Good morning to you all,", " "], ["|", "Good morning to you all, "]),
        (
            ["Good morning to you all. But what, I ask", ", is it? I"],
            ["Good morning to you all. ", "But what, I ask, is it? ", "|", "I"],
        ),
        # A very short one goes with the next.
        (["Hi, Anna", ", this is it, then"], ["Hi, Anna, this is it, ", "|", "then"]),
        # An abbreviation, a number and an ordinal end nothing.
        (
            ["I went to see Mr.", " Smith at 3.", "30 on the 3.", " Oktober and"],
            ["|", "I went to see Mr. Smith at 3.30 on the 3. Oktober and"],
        ),
        # A sentence without end is cut at a clause once it is long.
        (
            ["Here we begin this text. ", "Word " + "word " * 8 + "or so, " + "word " * 9],
            ["Here we begin this text. ", "Word " + "word " * 8 + "or so, ", "|", "word " * 9],
        ),
        (
            ["お電話ありがとうございます。こちらは山田歯科医院でございます。", "は"],
            ["お電話ありがとうございます。こちらは山田歯科医院でございます。", "|", "は"],
        ),
    ],
)
def test_a_piece_ends_as_soon_as_its_end_is_certain(tokens: list[str], pieces: list[str]) -> None:
    assert arriving(*tokens) == pieces


def test_after_a_flush_the_first_clause_counts_again() -> None:
    text = Arriving()
    assert text.feed("Good morning. How are you") == []
    assert text.flush() == ["Good morning. How are you"]
    assert text.feed("I am quite well today, and you") == ["I am quite well today, "]


def test_what_cannot_be_spoken_waits_for_a_word_but_not_for_ever() -> None:
    text = Arriving()
    assert text.feed("... " * 50) == []
    assert text.flush() == []
    assert text.feed("Well, that is that") == ["... " * 50 + "Well, "]
    assert Arriving().feed(". " * 600) != []


def test_a_text_without_blanks_is_cut_at_the_limit() -> None:
    pieces = Arriving().feed("a" * 1000)
    assert [len(piece) for piece in pieces] == [LONGEST] * 3


LONG = (
    "This is the first sentence of a text that goes on for a while, and it has clauses. "
    "The second one is here; it is no shorter than the first one was, as one can see. "
) * 4


def test_a_long_text_is_said_in_parts_of_about_the_same_length() -> None:
    parts = list(even(LONG))
    assert "".join(parts) == LONG.strip()
    assert [len(part) for part in parts] == [247, 245, 163]
    assert all(part.rstrip().endswith((".", ";", ",")) for part in parts)


def test_a_text_of_250_characters_is_said_at_a_time() -> None:
    text = LONG[:249] + "."
    assert list(even(text)) == [text]
    assert max(map(len, even(LONG * 3))) <= 250


def test_what_cannot_be_said_is_no_part() -> None:
    assert list(even("...")) == []
    assert list(even("")) == []
