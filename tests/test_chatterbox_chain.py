"""Speech tokens to the octets of a phone line, hop by hop, through all that stands between."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from engines.chatterbox.hops import HopSchedule
from engines.chatterbox.mel_stream import MelDecoder, Mode
from engines.chatterbox.telephony import Coding, PhoneEncoder
from engines.chatterbox.wave_stream import Piece, WaveDecoder
from tests.chatterbox_flow import offline, some_prompt, some_tokens, tiny
from tests.test_chatterbox_wave_stream import snr_db, whole

SEED = 2**64 - 17
HOPS = [4, 6, 15, 8]


def spoken(mode: Mode, *, right: int, fades: bool = False) -> tuple[list[Tensor], list[bytes]]:
    """Samples and octets of each hop; tokens are known as the schedule wants them."""
    model, tokens = tiny(), some_tokens(sum(HOPS))
    mels, waves, phones = (
        MelDecoder(model.flow, mode),
        WaveDecoder(model.mel2wav, right=right, fades=fades),
        PhoneEncoder(),
    )
    mel, wave, phone = mels.open(mels.prepare(some_prompt(10)), SEED), waves.open(SEED), phones.open()
    mel.push(tokens, last=True)
    samples, octets = [], []
    for turn in range(len(HOPS)):
        hop = HopSchedule().next_hop(
            hops=turn, ready=mel.ready, ended=mel.ended, buffered_ms=5000, takes_ms=lambda tokens: 50
        )
        assert hop == HOPS[turn]
        (made,) = mels.decode([mel], [hop])
        (piece,) = waves.decode([wave], [Piece(frames=made.frames, draft=made.draft, last=mel.done)])
        (coded,) = phones.encode([phone], [piece], [Coding.PCMU])
        assert coded is not None
        samples.append(piece)
        octets.append(coded)
    assert mel.done
    return samples, octets


@pytest.mark.parametrize("mode", Mode)
def test_every_hop_is_heard_as_soon_as_it_is_made(mode: Mode) -> None:
    """With as many frames waited for as there are drafts, a token is two packets of 160 octets, at once."""
    samples, octets = spoken(mode, right=6)
    assert [piece.shape[0] for piece in samples] == [960 * hop for hop in HOPS]
    assert [len(piece) for piece in octets] == [320 * hop for hop in HOPS]


@pytest.mark.parametrize("mode", Mode)
def test_what_is_heard_is_what_the_mode_gives_offline(mode: Mode) -> None:
    """When frames are waited for until they stand, instead of drafts.

    Frames are the same to 1e-5; what they are off by is in the pitch too, and a phase sums it up. So it is less than
    the 80 dB that the vocoder keeps to for one and the same mel.
    """
    samples, _ = spoken(mode, right=26)
    mel = offline(tiny().flow, mode, some_prompt(10), some_tokens(sum(HOPS)), HOPS, seed=-17)
    with torch.inference_mode():
        expected = whole(tiny().mel2wav, mel, seed=-17)
    assert snr_db(torch.cat(samples), expected) > 60
