"""Samples that come piece by piece are those of the whole utterance, however it is cut and whoever else is there."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engines.chatterbox import philox
from engines.chatterbox.hift import Hift
from engines.chatterbox.wave_stream import LEFT, Piece, WaveDecoder
from tests.chatterbox_flow import MELS, of_true_size, tiny

FRAME = 480


def some_mel(frames: int, seed: int = 1) -> Tensor:
    return torch.randn(frames, MELS, generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def whole(hift: Hift, mel: Tensor, *, seed: int) -> Tensor:
    """The samples of an utterance at once, with the phases summed up sample by sample, in double precision."""
    seeds, none = torch.tensor([seed]), torch.tensor([0])
    frames, harmonics = mel.shape[0], hift.shape.harmonics + 1
    rows = mel.T[None]
    pitch = hift.pitch(rows)
    turns = hift.turns(pitch)
    begins = (turns.cumsum(-1) - turns) % 1
    phases = (2 * philox.uniform(seeds, philox.Domain.PHASES, none, 1, harmonics - 1)[:, 0] - 1) * math.pi
    noise = philox.normal(seeds, philox.Domain.HARMONICS, none, frames * FRAME // 4, 4 * harmonics)
    source = hift.source(
        pitch,
        begins,
        torch.cat((torch.zeros(1, 1), phases), dim=1),
        noise.view(1, frames * FRAME, harmonics).transpose(1, 2),
    )
    return hift.decode(rows, source)[0]


def snr_db(found: Tensor, expected: Tensor) -> float:
    return float(10 * torch.log10(expected.square().sum() / (found - expected).square().sum().clamp(min=1e-30)))


def in_pieces(decoder: WaveDecoder, mel: Tensor, cuts: list[int], *, seed: int, draft: int = 0) -> Tensor:
    """`draft`: as many of the frames to come as are told in advance, rightly."""
    stream, out, start = decoder.open(seed), [], 0
    for cut in cuts:
        end = min(start + cut, mel.shape[0])
        piece = Piece(frames=mel[start:end], draft=mel[end : end + draft], last=end == mel.shape[0])
        out += decoder.decode([stream], [piece])
        start = end
    return torch.cat(out)


@settings(max_examples=15, deadline=None)
@given(
    cuts=st.lists(st.integers(1, 40), min_size=1, max_size=8),
    seed=st.integers(0, 2**63 - 1),
    draft=st.integers(0, 6),
    bucket=st.sampled_from([1, 8, 16]),
)
def test_pieces_are_the_whole(cuts: list[int], seed: int, draft: int, bucket: int) -> None:
    mel = some_mel(sum(cuts), seed=seed % 89)
    decoder = WaveDecoder(tiny().mel2wav, right=20, fades=False, bucket=bucket)
    expected = whole(tiny().mel2wav, mel, seed=seed)
    assert snr_db(in_pieces(decoder, mel, cuts, seed=seed, draft=draft), expected) > 80


@pytest.mark.parametrize(("right", "least_db"), [(20, 100), (15, 80), (8, 25), (6, 15)])
def test_what_is_waited_for_says_how_exact_the_samples_are(right: int, least_db: float) -> None:
    """And more is not gained than that: each figure is within 40 dB of what comes out."""
    hift, mel = tiny().mel2wav, some_mel(150)
    found = in_pieces(WaveDecoder(hift, right=right, fades=False), mel, [10] * 15, seed=3)
    assert least_db < snr_db(found, whole(hift, mel, seed=3)) < least_db + 40


def test_phases_go_on_over_a_long_utterance() -> None:
    """Twenty seconds in hops of a tenth: what a phase is off by would add up."""
    hift, mel = tiny().mel2wav, some_mel(1000)
    found = in_pieces(WaveDecoder(hift, right=15, fades=False), mel, [5] * 200, seed=4)
    expected = whole(hift, mel, seed=4)
    assert snr_db(found[-FRAME * 50 :], expected[-FRAME * 50 :]) > 80


def test_neighbours_in_the_batch_change_nothing() -> None:
    hift = tiny().mel2wav
    decoder = WaveDecoder(hift, right=15, fades=False)
    cuts = [[30, 8, 25, 1], [4, 30, 30, 2], [30, 8, 25, 9], [1, 1, 50, 12]]
    mels = [some_mel(sum(each), seed=number) for number, each in enumerate(cuts)]
    streams, starts = [decoder.open(number) for number in range(4)], [0] * 4
    out: list[list[Tensor]] = [[], [], [], []]
    for turn in range(4):
        pieces = []
        for number, mel in enumerate(mels):
            end = starts[number] + cuts[number][turn]
            pieces.append(Piece(frames=mel[starts[number] : end], last=turn == 3))
            starts[number] = end
        for number, samples in enumerate(decoder.decode(streams, pieces)):
            out[number].append(samples)
    for number, mel in enumerate(mels):
        assert snr_db(torch.cat(out[number]), whole(hift, mel, seed=number)) > 80


def test_drafts_cost_no_time() -> None:
    """With as many drafts as are waited for, the samples of every frame that stands are out."""
    decoder = WaveDecoder(tiny().mel2wav, right=6)
    stream, mel = decoder.open(1), some_mel(40)
    (samples,) = decoder.decode([stream], [Piece(frames=mel[:8], draft=mel[8:14])])
    assert samples.shape == (8 * FRAME,)
    (samples,) = decoder.decode([stream], [Piece(frames=mel[8:10])])
    assert samples.shape == (0,)
    (samples,) = decoder.decode([stream], [Piece(frames=mel[10:12], last=True)])
    assert samples.shape == (4 * FRAME,)


def test_no_more_of_the_past_is_kept_than_is_heard() -> None:
    decoder = WaveDecoder(tiny().mel2wav, right=6)
    stream, mel = decoder.open(1), some_mel(300)
    for start in range(0, 290, 10):
        decoder.decode([stream], [Piece(frames=mel[start : start + 10], draft=mel[start + 10 : start + 16])])
    assert stream._mel.shape[0] == LEFT + 8
    assert stream._source.shape == ((LEFT + 8) * FRAME,)


def test_an_utterance_begins_with_silence_and_fades_in_however_it_is_cut() -> None:
    hift, mel = tiny().mel2wav, some_mel(30)
    for cuts in ([1, 1, 28], [30]):
        found = in_pieces(WaveDecoder(hift, right=0), mel, cuts, seed=1)
        plain = in_pieces(WaveDecoder(hift, right=0, fades=False), mel, cuts, seed=1)
        assert bool((found[:480] == 0).all())
        ramp = (torch.cos(torch.linspace(math.pi, 0, 480)) + 1) / 2
        torch.testing.assert_close(found[480:960], plain[480:960] * ramp)
        assert torch.equal(found[960:], plain[960:])


def test_a_voice_of_random_weights_is_voiced_and_not_clipped() -> None:
    """What the other tests rely on: otherwise phases would not matter, or clipping would hide differences."""
    hift = tiny().mel2wav
    with torch.inference_mode():
        pitch = hift.pitch(some_mel(100).T[None])
    assert 0.2 < float((pitch > 10).float().mean()) < 0.95
    assert float(whole(hift, some_mel(100), seed=1).abs().max()) < 0.9


@pytest.mark.slow
def test_what_is_waited_for_says_how_exact_the_samples_are_at_true_size() -> None:
    """In hops of a quarter of a second."""
    hift, mel = of_true_size("mel2wav").mel2wav, some_mel(60)
    expected = whole(hift, mel, seed=3)
    found = {
        right: snr_db(in_pieces(WaveDecoder(hift, right=right, fades=False), mel, [12] * 5, seed=3), expected)
        for right in (6, 8, 15, 20)
    }
    assert found[6] > 20
    assert found[8] > 30
    assert found[15] > 90
    assert found[20] > 110
