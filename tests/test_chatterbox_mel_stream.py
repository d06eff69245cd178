"""Mel frames that come hop by hop are those that the same mode gives at once, whoever else is in the batch."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engines.chatterbox.mel_stream import MelDecoder, MelStream, Mode, Prompt
from tests.chatterbox_flow import deviation, of_true_size, offline, one_pass, some_prompt, some_tokens, tiny

EXACT = 1e-5
MODES = pytest.mark.parametrize("mode", Mode)


def stream_of(decoder: MelDecoder, prompt: Prompt, tokens: list[int], seed: int) -> MelStream:
    stream = decoder.open(decoder.prepare(prompt), seed)
    stream.push(tokens, last=True)
    return stream


def in_hops(decoder: MelDecoder, stream: MelStream, hops: list[int]) -> Tensor:
    """Tokens become known just as they are needed, as they do when speech is made."""
    tokens, stream.tokens, stream.ended = stream.tokens, [], False
    frames = []
    for end, hop in zip(torch.tensor(hops).cumsum(0).tolist(), hops, strict=True):
        heard = min(end + 3, len(tokens))
        stream.push(tokens[len(stream.tokens) : heard], last=heard == len(tokens))
        (out,) = decoder.decode([stream], [hop])
        assert out.frames.shape[0] == 2 * hop
        assert out.draft.shape[0] == (2 * (heard - end) if decoder.drafts else 0)
        frames.append(out.frames)
    assert stream.done
    return torch.cat(frames)


@MODES
@settings(max_examples=6, deadline=None)
@given(
    hops=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    prompt=st.integers(4, 12),
    seed=st.integers(0, 2**63 - 1),
    drafts=st.booleans(),
    continues=st.booleans(),
)
def test_streamed_is_what_the_mode_gives_offline(
    mode: Mode, hops: list[int], prompt: int, seed: int, drafts: bool, continues: bool
) -> None:
    flow, voice, tokens = tiny().flow, some_prompt(prompt), some_tokens(sum(hops), seed=seed % 97)
    decoder = MelDecoder(flow, mode, drafts=drafts, continues=continues)
    streamed = in_hops(decoder, stream_of(decoder, voice, tokens, seed), hops)
    expected = offline(flow, mode, voice, tokens, hops, seed=seed, drafts=drafts, continues=continues)
    assert deviation(streamed, expected) < EXACT


@MODES
def test_a_guided_model_streams_as_well(mode: Mode) -> None:
    flow, voice, tokens = tiny("tiny-original").flow, some_prompt(6), some_tokens(14)
    decoder = MelDecoder(flow, mode)
    streamed = in_hops(decoder, stream_of(decoder, voice, tokens, 5), [3, 4, 7])
    assert deviation(streamed, offline(flow, mode, voice, tokens, [3, 4, 7], seed=5)) < EXACT


def test_one_hop_over_everything_is_the_published_model() -> None:
    flow, voice, tokens = tiny().flow, some_prompt(8), some_tokens(11)
    decoder = MelDecoder(flow, Mode.EXACT)
    (hop,) = decoder.decode([stream_of(decoder, voice, tokens, 3)], [11])
    assert deviation(hop.frames, one_pass(flow, voice, tokens, [19], seed=3, isolated=False)) < EXACT


def test_the_last_hop_is_the_model_without_streaming_when_nothing_is_taken_as_known() -> None:
    flow, voice, tokens = tiny().flow, some_prompt(8), some_tokens(11)
    decoder = MelDecoder(flow, Mode.EXACT, continues=False)
    streamed = in_hops(decoder, stream_of(decoder, voice, tokens, 3), [6, 5])
    whole = one_pass(flow, voice, tokens, [19], seed=3, isolated=False)
    assert deviation(streamed[12:], whole[12:]) < EXACT
    assert deviation(streamed[:12], whole[:12]) > 100 * EXACT, "the first hop could not know what came later"


@MODES
def test_neighbours_in_the_batch_change_nothing(mode: Mode) -> None:
    """Streams of other voices, lengths and ages: the published model's padded rows are off by a tenth at their end."""
    decoder = MelDecoder(tiny().flow, mode, window=9)
    sizes = [(8, [2, 5, 4]), (4, [4, 1, 9]), (11, [1, 12, 2]), (6, [7, 3, 3])]

    def streams() -> list[MelStream]:
        return [
            stream_of(decoder, some_prompt(prompt, seed=number), some_tokens(sum(hops), seed=number), number)
            for number, (prompt, hops) in enumerate(sizes)
        ]

    together = streams()
    batched = [decoder.decode(together, [hops[turn] for _, hops in sizes]) for turn in range(3)]
    for number, (alone, (_, hops)) in enumerate(zip(streams(), sizes, strict=True)):
        for turn, hop in enumerate(hops):
            (expected,) = decoder.decode([alone], [hop])
            assert deviation(batched[turn][number].frames, expected.frames) < EXACT
            if expected.draft.shape[0]:
                assert deviation(batched[turn][number].draft, expected.draft) < EXACT


@MODES
def test_streams_of_one_voice_share_it_and_nothing_else(mode: Mode) -> None:
    decoder = MelDecoder(tiny().flow, mode)
    voice, hops = decoder.prepare(some_prompt(7)), [3, 5, 4]

    def opened(seed: int) -> MelStream:
        stream = decoder.open(voice, seed)
        stream.push(some_tokens(sum(hops), seed=seed), last=True)
        return stream

    one, other = opened(1), opened(2)
    interleaved = [decoder.decode([stream], [hop])[0].frames for hop in hops for stream in (one, other)]
    for seed in (1, 2):
        alone = opened(seed)
        for turn, hop in enumerate(hops):
            (expected,) = decoder.decode([alone], [hop])
            assert torch.equal(interleaved[2 * turn + seed - 1], expected.frames)


@MODES
def test_a_seed_is_one_utterance_and_another_seed_another(mode: Mode) -> None:
    decoder, voice, tokens = MelDecoder(tiny().flow, mode), some_prompt(5), some_tokens(6)
    first, again, other = (
        decoder.decode([stream_of(decoder, voice, tokens, seed)], [6])[0].frames for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert deviation(other, first) > 0.1


def test_isolated_looks_at_no_more_than_its_window() -> None:
    """A hop far into an utterance is what it is in one that begins a window earlier, but for what is numbered."""
    decoder = MelDecoder(tiny().flow, Mode.ISOLATED, window=6)
    stream = stream_of(decoder, some_prompt(8), some_tokens(40), 1)
    assert decoder.rows(stream, 4) == 4 + 3
    for _ in range(5):
        decoder.decode([stream], [4])
    assert decoder.rows(stream, 4) == 6 + 4 + 3


def test_a_voice_is_kept_as_large_as_it_says() -> None:
    flow = tiny().flow
    kept = {mode: MelDecoder(flow, mode).prepare(some_prompt(10)).size_bytes for mode in Mode}
    assert kept[Mode.CAUSAL] == kept[Mode.ISOLATED] > 10 * kept[Mode.EXACT]


def test_a_stream_is_ready_for_what_has_three_tokens_behind_it() -> None:
    decoder = MelDecoder(tiny().flow, Mode.CAUSAL)
    stream = decoder.open(decoder.prepare(some_prompt(4)), 1)
    stream.push([1, 2, 3])
    assert stream.ready == 0
    stream.push([4, 5])
    assert stream.ready == 2
    with pytest.raises(ValueError, match="a hop over 3 tokens, of 2 that are ready"):
        decoder.decode([stream], [3])
    stream.push([], last=True)
    assert stream.ready == 5
    assert not stream.done


@pytest.mark.parametrize("token", [-1, 6561])
def test_what_is_no_speech_token_is_refused(token: int) -> None:
    decoder = MelDecoder(tiny().flow, Mode.EXACT)
    with pytest.raises(ValueError, match="is no speech token"):
        decoder.open(decoder.prepare(some_prompt(4)), 1).push([1, token])


def test_a_prompt_has_two_frames_for_each_token() -> None:
    with pytest.raises(ValueError, match="3 tokens do not go with 5 frames"):
        Prompt(tokens=torch.zeros(3), mel=torch.zeros(5, 80), x_vector=torch.zeros(192))


@MODES
def test_a_stream_that_is_broken_breaks_no_other(mode: Mode) -> None:
    """What is no number stays in its own row, also in rows that are filled up to the length of the others."""
    decoder = MelDecoder(tiny().flow, mode)
    sound = some_prompt(6)
    broken = Prompt(tokens=some_prompt(4).tokens, mel=some_prompt(4).mel * torch.nan, x_vector=sound.x_vector)
    hops = decoder.decode(
        [stream_of(decoder, broken, some_tokens(5), 1), stream_of(decoder, sound, some_tokens(9), 2)], [5, 9]
    )
    (expected,) = decoder.decode([stream_of(decoder, sound, some_tokens(9), 2)], [9])
    assert not bool(hops[0].frames.isfinite().all())
    assert deviation(hops[1].frames, expected.frames) < EXACT


@MODES
@pytest.mark.parametrize(("dtype", "most"), [(torch.bfloat16, 0.03), (torch.float16, 0.003)])
def test_the_networks_may_run_in_half_precision(mode: Mode, dtype: torch.dtype, most: float) -> None:
    """Noise, and what the solver adds up, stay in single precision."""
    voice, tokens = some_prompt(8), some_tokens(12)
    half, single = MelDecoder(copy.deepcopy(tiny().flow).to(dtype), mode), MelDecoder(tiny().flow, mode)
    found, expected = (in_hops(decoder, stream_of(decoder, voice, tokens, 1), [4, 8]) for decoder in (half, single))
    assert found.dtype == torch.float32
    assert deviation(found, expected) < most


@pytest.mark.slow
@MODES
def test_streamed_is_what_the_mode_gives_offline_at_true_size(mode: Mode) -> None:
    """Turbo with a prompt of three seconds, in the first of the schedule's hops."""
    flow = of_true_size("flow").flow
    voice, tokens, hops = some_prompt(75), some_tokens(13), [4, 6, 3]
    decoder = MelDecoder(flow, mode)
    streamed = in_hops(decoder, stream_of(decoder, voice, tokens, 9), hops)
    assert deviation(streamed, offline(flow, mode, voice, tokens, hops, seed=9)) < EXACT
