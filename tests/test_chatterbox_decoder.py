"""The decoder: many streams at a time, each as if it were alone."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterable

import pytest
import torch

from engines.chatterbox.decoder import KEY_BLOCK, Decoder, End, Request
from engines.chatterbox.sampling import ORIGINAL, Sampling
from engines.chatterbox.shapes import MODELS, TINY, TINY_ORIGINAL, ModelShape
from engines.chatterbox.t3 import T3, Prompt, used
from engines.chatterbox.t3 import layout as t3_layout
from engines.chatterbox.weights import random_weights
from engines.engine import EngineBusy, UnsuitableUtterance
from tests.chatterbox_support import DEVICES, random_t3, text, voice
from tests.oracle import SEED
from tests.test_chatterbox_t3 import GREEDY, PART

SHAPES = pytest.mark.parametrize("shape", [TINY, TINY_ORIGINAL], ids=lambda shape: shape.name)
GREEDILY = Sampling(top_k=1)


DEVICE = pytest.mark.parametrize("device", DEVICES)


def decoder_of(
    shape: ModelShape, *, slots: int = 8, tile: int = 1, prefix_bytes: int = 10**8, device: str = "cpu"
) -> Decoder:
    t3 = random_t3(shape, tile, device)
    return Decoder(t3, slots=slots, positions=3 * KEY_BLOCK, prefix_bytes=prefix_bytes)


def request(shape: ModelShape, seed: int, *, most: int = 30, loops: bool = True, **values: object) -> Request:
    """Each seed has a text and one of three voices of its own."""
    wanted: dict[str, object] = {
        "prompt": voice(shape, seed=seed % 3),
        "text": text(shape, length=10 + seed % 17, seed=seed),
        "sampling": ORIGINAL if shape.t3.guided else Sampling(),
    }
    return Request(seed=seed, most=most, loops=loops, **(wanted | values))  # type: ignore[arg-type]


def run(decoder: Decoder, tickets: Iterable[int] = ()) -> dict[int, list[int]]:
    """Step until no stream is left; the tokens of each."""
    spoken: dict[int, list[int]] = {ticket: [] for ticket in tickets}
    while decoder.streams:
        for produced in decoder.step():
            spoken.setdefault(produced.ticket, []).extend(produced.tokens)
    return spoken


def alone(decoder: Decoder, wanted: Request) -> list[int]:
    ticket = decoder.join(wanted)
    return run(decoder)[ticket]


@SHAPES
@DEVICE
def test_greedy_tokens_are_those_of_the_package(shape: ModelShape, device: str) -> None:
    sampling = dataclasses.replace(GREEDILY, top_p=1.0, guidance=0.5 if shape.t3.guided else 0.0)
    wanted = Request(prompt=voice(shape), text=text(shape), seed=0, most=GREEDY, sampling=sampling, loops=True)
    kept = PART.kept(shape)["greedy"].tolist()
    assert alone(decoder_of(shape, device=device), wanted) == [token for token in kept if token < shape.t3.start_speech]


@SHAPES
@DEVICE
@pytest.mark.parametrize("tile", [1, 4])
def test_a_seed_gives_the_same_tokens_whatever_its_neighbours(shape: ModelShape, tile: int, device: str) -> None:
    decoder = decoder_of(shape, tile=tile, device=device)
    wanted = [request(shape, seed, most=5 + 3 * seed) for seed in range(12)]
    each = [alone(decoder, one) for one in wanted]
    assert len({tuple(tokens) for tokens in each}) == len(each), "the seeds, texts and voices tell them apart"
    for order in range(3):
        joining = random.Random(order)
        waiting = list(enumerate(wanted))
        joining.shuffle(waiting)
        places: dict[int, int] = {}
        spoken: dict[int, list[int]] = {}
        while waiting or decoder.streams:
            while waiting and decoder.room and joining.random() < 0.6:
                place, one = waiting.pop()
                ticket = decoder.join(one)
                places[ticket], spoken[ticket] = place, []
            for produced in decoder.step():
                spoken[produced.ticket] += produced.tokens
        assert {places[ticket]: tokens for ticket, tokens in spoken.items()} == dict(enumerate(each))


@SHAPES
@DEVICE
@pytest.mark.parametrize("tile", [1, 4])
def test_keys_and_values_are_the_same_to_the_last_bit_whatever_its_neighbours(
    shape: ModelShape, tile: int, device: str
) -> None:
    """Tokens would forgive what is rounded otherwise, nearly always."""
    same_to_the_last_bit(shape, decoder_of(shape, tile=tile, device=device), (0, 1, 2, 6), steps=20)


@pytest.mark.slow
@DEVICE
def test_a_model_of_true_size_is_the_same_to_the_last_bit_whatever_its_neighbours(device: str) -> None:
    nano = MODELS["nano"]
    same_to_the_last_bit(nano, decoder_of(nano, slots=4, prefix_bytes=10**9, device=device), (0, 1, 3), steps=8)


def same_to_the_last_bit(shape: ModelShape, decoder: Decoder, neighbours: Iterable[int], steps: int) -> None:
    held = []
    t3 = random_t3(shape)
    for count in neighbours:
        others = [decoder.join(request(shape, 20 + seed)) for seed in range(count)]
        ticket = decoder.join(request(shape, 5, most=60))
        for _ in range(steps):
            decoder.step()
        rows = slice(count * t3.rows, (count + 1) * t3.rows)
        until = len(request(shape, 5).text) + t3.prefix(voice(shape)).shape[1] + steps
        held.append((decoder._keys[:, rows, :, :until].clone(), decoder._values[:, rows, :, :until].clone()))
        for each in (*others, ticket):
            decoder.cancel(each)
    assert all(torch.equal(keys, held[0][0]) and torch.equal(values, held[0][1]) for keys, values in held[1:])


@SHAPES
@DEVICE
def test_half_the_precision_says_nearly_the_same(shape: ModelShape, device: str) -> None:
    """As on a GPU: the likeliest token is so in both, where it is likelier than the next one by more than is lost."""
    t3 = random_t3(shape, 1, device, torch.bfloat16)
    decoder = Decoder(t3, slots=2, positions=KEY_BLOCK, prefix_bytes=10**8)
    tickets = [decoder.join(request(shape, seed)) for seed in (1, 2)]
    assert all(run(decoder, tickets).values())
    exact = random_t3(shape, 1, device)
    rows = torch.cat([t3.prefix(voice(shape)).expand(t3.rows, -1, -1), t3.opening(text(shape))], dim=1)
    theirs = torch.cat([exact.prefix(voice(shape)).expand(t3.rows, -1, -1), exact.opening(text(shape))], dim=1)
    ours, wanted = t3.logits(t3.whole(rows)[0]), exact.logits(exact.whole(theirs)[0])
    assert float((ours - wanted).abs().max() / wanted.abs().max()) < 0.05


@SHAPES
def test_a_long_neighbour_changes_no_token(shape: ModelShape) -> None:
    """One that needs more blocks of keys than the stream itself."""
    decoder = decoder_of(shape, slots=2)
    wanted = request(shape, 5, most=20)
    each = alone(decoder, wanted)
    long = decoder.join(request(shape, 6, most=KEY_BLOCK + 60))
    for _ in range(KEY_BLOCK + 30):
        decoder.step()
    ticket = decoder.join(wanted)
    assert run(decoder, [long])[ticket] == each


@SHAPES
def test_logits_of_a_step_are_those_of_the_whole_sequence(shape: ModelShape) -> None:
    """Teacher forcing over what was drawn gives back each greedy token."""
    t3 = biased(shape, slice(shape.t3.start_speech, None), -1e4)
    decoder = Decoder(t3, slots=1, positions=KEY_BLOCK, prefix_bytes=10**8)
    wanted = request(shape, 3, sampling=dataclasses.replace(GREEDILY, repetition_penalty=1.0))
    spoken = alone(decoder, wanted)
    assert len(spoken) == wanted.most
    with torch.inference_mode():
        rows = t3.speech(torch.tensor(spoken[:-1]), torch.arange(len(spoken) - 1))[None].expand(t3.rows, -1, -1)
        prefix = t3.prefix(wanted.prompt).expand(t3.rows, -1, -1)
        hidden, _ = t3.whole(torch.cat([prefix, t3.opening(wanted.text), rows], dim=1))
        assert t3.logits(hidden[0, -len(spoken) :]).argmax(-1).tolist() == spoken


def test_a_prefix_is_computed_once_for_each_voice() -> None:
    decoder = decoder_of(TINY)
    for seed in range(6):
        decoder.join(request(TINY, seed))
    assert (decoder.prefixes.hits, decoder.prefixes.misses, len(decoder.prefixes)) == (3, 3, 3)


def test_without_room_for_prefixes_the_tokens_are_the_same() -> None:
    wanted = [request(TINY, seed) for seed in range(6)]
    kept, none = decoder_of(TINY), decoder_of(TINY, prefix_bytes=0)
    assert [alone(kept, one) for one in wanted] == [alone(none, one) for one in wanted]
    assert len(none.prefixes) == 0


def test_a_cancelled_stream_is_gone_at_once_and_its_slot_is_free() -> None:
    decoder = decoder_of(TINY, slots=2)
    first, second = decoder.join(request(TINY, 1)), decoder.join(request(TINY, 2))
    decoder.step()
    assert decoder.cancel(first)
    assert (decoder.streams, decoder.room) == (1, 1)
    assert [produced.ticket for produced in decoder.step()] == [second]
    assert not decoder.cancel(first)


def test_a_stream_that_is_cancelled_before_its_first_step_is_never_heard_of() -> None:
    decoder = decoder_of(TINY, slots=1)
    expected = alone(decoder, request(TINY, 2))
    decoder.cancel(decoder.join(request(TINY, 1)))
    assert decoder.step() == []
    assert alone(decoder, request(TINY, 2)) == expected


def test_a_stream_beyond_the_slots_is_refused_and_disturbs_nobody() -> None:
    decoder = decoder_of(TINY, slots=2)
    tickets = [decoder.join(request(TINY, seed)) for seed in (1, 2)]
    with pytest.raises(EngineBusy, match="all 2 slots are taken"):
        decoder.join(request(TINY, 3))
    assert list(run(decoder)) == tickets


def test_a_thousand_streams_go_through_eight_slots() -> None:
    decoder = decoder_of(TINY)
    waiting = [request(TINY, seed, most=1 + seed % 3) for seed in range(1000)]
    lengths: dict[int, int] = {}
    while waiting or decoder.streams:
        while waiting and decoder.room:
            decoder.join(waiting.pop())
        for produced in decoder.step():
            lengths[produced.ticket] = lengths.get(produced.ticket, 0) + len(produced.tokens)
    assert len(lengths) == 1000
    assert sum(lengths.values()) > 1900, "two tokens on average, less the few that are of no codebook"


def test_a_sequence_that_would_be_too_long_is_refused() -> None:
    decoder = decoder_of(TINY)
    with pytest.raises(UnsuitableUtterance, match=r"20 tokens of text and up to 1500 of speech .*room for 1509"):
        decoder.join(Request(prompt=voice(TINY), text=text(TINY), seed=1, most=1500))
    assert decoder.streams == 0


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"text": (5, 276)}, "276 is no token of text of this model, which has 276"),
        ({"text": (-1,)}, "-1 is no token of text"),
        ({"prompt": Prompt(speaker=torch.ones(256), tokens=(6563,))}, "6563 is no token of the voice"),
    ],
)
def test_what_is_no_token_is_refused_before_the_device_sees_it(values: dict[str, object], said: str) -> None:
    decoder = decoder_of(TINY)
    with pytest.raises(UnsuitableUtterance, match=said):
        decoder.join(request(TINY, 1, **values))  # type: ignore[arg-type]
    assert (decoder.streams, len(decoder.prefixes)) == (0, 0)


def test_more_text_than_the_model_has_positions_for_is_refused() -> None:
    with pytest.raises(UnsuitableUtterance, match="2051 tokens of text are too many: 2050 is the most"):
        decoder_of(TINY_ORIGINAL).join(request(TINY_ORIGINAL, 1, text=(5,) * 2051))


def test_a_decoder_without_a_tile_could_not_keep_its_promise() -> None:
    with pytest.raises(ValueError, match="wants a T3 with a tile"):
        Decoder(random_t3(TINY), slots=1, positions=KEY_BLOCK, prefix_bytes=0)


def test_a_stream_ends_at_its_limit() -> None:
    decoder = decoder_of(TINY)
    decoder.join(request(TINY, 1, most=2))
    (produced,) = decoder.step()
    assert (len(produced.tokens), produced.end) == (2, End.LIMIT)
    assert decoder.step() == []


@SHAPES
def test_a_stream_ends_when_the_model_says_so(shape: ModelShape) -> None:
    """Turbo's first token is not looked at, as published; Llama's is. Nothing but speech is given out."""
    decoder = Decoder(biased(shape, shape.t3.stop_speech, 1e4), slots=1, positions=KEY_BLOCK, prefix_bytes=10**8)
    for most, end in ((1, End.STOPPED if shape.t3.guided else End.LIMIT), (2, End.STOPPED)):
        decoder.join(request(shape, 1, most=most))
        (produced,) = decoder.step()
        assert (produced.tokens, produced.end) == ((), end)


def test_a_stream_that_repeats_itself_ends() -> None:
    decoder = Decoder(biased(TINY, 77, 1e4), slots=1, positions=KEY_BLOCK, prefix_bytes=10**8)
    decoder.join(request(TINY, 1, most=100, loops=False))
    spoken, ends = [], []
    while decoder.streams:
        for produced in decoder.step():
            spoken += produced.tokens
            ends.append(produced.end)
    assert (spoken, ends[-1]) == ([77] * 11, End.LOOP)
    assert len(alone(decoder, request(TINY, 1, most=100, loops=True))) == 100


def biased(shape: ModelShape, tokens: int | slice, by: float) -> T3:
    """A model that finds some tokens likelier, or less likely, than their share."""
    layout = {key: size for key, size in t3_layout(shape.t3).items() if used(key)}
    weights = random_weights(layout, seed=SEED)
    bias = weights.get("speech_head.bias", torch.zeros(shape.t3.speech_vocabulary))
    bias[tokens] += by
    return T3(shape.t3, weights | {"speech_head.bias": bias}, tile=1)


def test_what_is_no_number_ends_its_stream_alone_and_leaves_a_clean_slot() -> None:
    decoder = decoder_of(TINY, slots=2)
    expected = [alone(decoder, request(TINY, seed)) for seed in (1, 2)]
    sound = decoder.join(request(TINY, 1))
    ill = decoder.join(request(TINY, 4))
    decoder.step()
    decoder._values[0, 1, :, 3] = float("nan")
    produced = {each.ticket: each for each in decoder.step()}
    assert (produced[ill].end, produced[ill].tokens, produced[sound].end) == (End.BROKEN, (), None)
    successor = decoder.join(request(TINY, 2))
    assert decoder.step()
    assert bool(decoder._values.isfinite().all())
    assert bool(decoder._keys.isfinite().all())
    rest = run(decoder)
    assert rest[sound] == expected[0][-len(rest[sound]) :]
    assert rest[successor] == expected[1][-len(rest[successor]) :]


def test_a_voice_that_is_no_number_breaks_at_the_start_and_is_not_kept() -> None:
    decoder = decoder_of(TINY, slots=1)
    expected = alone(decoder, request(TINY, 2))
    decoder.join(request(TINY, 1, prompt=Prompt(speaker=torch.full((256,), float("nan")), tokens=(1, 2))))
    (produced,) = decoder.step()
    assert (produced.tokens, produced.end) == ((), End.BROKEN)
    assert len(decoder.prefixes) == 1, "that of the sound voice"
    assert alone(decoder, request(TINY, 2)) == expected


def test_guidance_and_emotion_change_what_is_said() -> None:
    decoder = decoder_of(TINY_ORIGINAL)
    wanted = request(TINY_ORIGINAL, 1)
    prompt = wanted.prompt
    moved = Prompt(speaker=prompt.speaker, tokens=prompt.tokens, emotion=1.5)
    said = [
        alone(decoder, one)
        for one in (
            wanted,
            dataclasses.replace(wanted, sampling=dataclasses.replace(ORIGINAL, guidance=0.0)),
            dataclasses.replace(wanted, prompt=moved),
        )
    ]
    assert len({tuple(tokens) for tokens in said}) == 3
    # Without weight the guidance is no crash, as it is in the published code.
    assert all(said)


@SHAPES
def test_the_cache_has_the_size_that_is_said(shape: ModelShape) -> None:
    decoder = decoder_of(shape, slots=3)
    per_token = 2 * shape.t3.layers * shape.t3.width * 4
    assert decoder.size_bytes == 3 * (2 if shape.t3.guided else 1) * 3 * KEY_BLOCK * per_token


def test_a_warm_up_leaves_no_trace() -> None:
    decoder = decoder_of(TINY)
    decoder.warm_up()
    assert alone(decoder, request(TINY, 1)) == alone(decoder_of(TINY), request(TINY, 1))
