"""An utterance, checked and cut into the requests that a worker understands."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Final

from engines import sentences, ssml
from engines.engine import UnsuitableUtterance, Unsupported, Utterance
from engines.profile import KIND, VoiceProfile
from engines.voices import Catalogue
from engines.wire import Hello, Speak

__all__ = ["MOST_CHARACTERS", "MOST_SSML_CHARACTERS", "RATES_HZ", "check", "pieces"]

MOST_CHARACTERS: Final = 100_000
"""A longer text is refused; it would take two hours to say."""

MOST_SSML_CHARACTERS: Final = 20_000
"""A longer document is refused, because it is spoken in one piece."""

RATES_HZ: Final = (8000, 16000, 24000)
_SLOWEST, _FASTEST = 0.25, 4.0


def check(utterance: Utterance, hello: Hello, catalogue: Catalogue) -> None:
    """Raise UnsuitableUtterance, saying what to change, when the engine cannot speak this."""
    if utterance.rate_hz not in RATES_HZ:
        raise UnsuitableUtterance(f"rate_hz is {utterance.rate_hz}; it is to be 8000, 16000 or 24000")
    if not _SLOWEST <= utterance.speed <= _FASTEST:
        raise UnsuitableUtterance(f"speed is {utterance.speed:g}; it is to be from {_SLOWEST} to {_FASTEST}")
    if utterance.ssml and not hello.ssml:
        raise Unsupported(
            f"not supported by this engine: {hello.version} does not understand SSML; send plain text", field="ssml"
        )
    if utterance.seed is not None and not hello.seeds:
        raise Unsupported(
            f"not supported by this engine: {hello.version} says a text in one way only, so leave seed out",
            field="seed",
        )
    most = MOST_SSML_CHARACTERS if utterance.ssml else MOST_CHARACTERS
    if len(utterance.text) > most:
        kind = "an SSML document" if utterance.ssml else "a text"
        raise UnsuitableUtterance(f"{kind} may have {most} characters, this one has {len(utterance.text)}; cut it up")
    catalogue.resolve(utterance.voice, utterance.language)
    if utterance.embedding and hello.embedding_kind == KIND:
        VoiceProfile.parse(utterance.embedding)
    if utterance.ssml:
        ssml.rewrite(utterance.text)
        return
    text = utterance.text
    if hello.tags is not None:
        for tag in sentences.TAG.findall(text):
            if tag not in hello.tags:
                known = ", ".join(sorted(hello.tags)) or "none"
                raise UnsuitableUtterance(f"{tag} is no tag of this engine, which has {known}; leave the brackets out")
            text = text.replace(tag, "a")
    if not sentences.speakable(text):
        raise UnsuitableUtterance("the text contains nothing to say: no letter, digit or symbol")


def pieces(utterance: Utterance, hello: Hello, catalogue: Catalogue) -> Iterator[Speak]:
    """The requests, in order, for an utterance that passed `check`; their ids are yet to be given."""
    voice = catalogue.resolve(utterance.voice, utterance.language)

    embedding = base64.b64encode(utterance.embedding).decode()

    def request(text: str, *, last: bool) -> Speak:
        return Speak(
            id=0,
            text=text,
            ssml=utterance.ssml,
            voice=voice,
            speed=utterance.speed,
            rate_hz=utterance.rate_hz,
            last=last,
            embedding=embedding,
            language=utterance.language,
            seed=utterance.seed,
        )

    if utterance.ssml:
        yield request(ssml.rewrite(utterance.text), last=not utterance.continues)
        return
    texts = (
        sentences.even(utterance.text) if hello.even else sentences.split(utterance.text, enough=hello.piece_characters)
    )
    held = next(texts)
    for text in texts:
        yield request(held, last=False)
        held = text
    yield request(held, last=not utterance.continues)
