"""How a call sounds, estimated from its figures: the E-model of ITU-T G.107, narrowband.

    R = Ro - Is - Id - Ie,eff          (the advantage factor A is 0)

Loss and its burstiness give Ie,eff, delay gives Id, both as in G.107; everything else (loudness, sidetone, room noise,
an echo of 65 dB talker loudness rating) stands at the defaults of G.107 clause 7.7, with which Ro - Is is 93.36 and a
call without loss or delay rates R = 93.2, MOS 4.41.

What the estimate does not know: the sound at either end, transcoding on the way, clipping, real echo. Loss is the
network's; packets that arrive too late to be played are lost as well, and only the listener's side can count those.
The model was fitted to loss at random or in mild bursts, of a few percent; beyond that the ranking is right and the
number rough. Below 1 ms of delay its echo masking makes a ripple of 0.1. It is a planning model: it compares calls,
and does not replace a listening test.
"""

from __future__ import annotations

import math

__all__ = ["BPL", "BPL_WITH_CONCEALMENT", "burst_ratio", "mos", "mouth_to_ear_ms", "rating"]

# Robustness of G.711 against packet loss, and its equipment impairment without any (ITU-T G.113 appendix I).
BPL = 4.3
BPL_WITH_CONCEALMENT = 25.1  # with G.711 appendix I, as telephones have it
IE = 0.0

RO = 94.7688  # basic signal-to-noise ratio, G.107 clause 7.2 at the defaults
IS = 1.4136  # simultaneous impairments, G.107 clause 7.3 at the defaults
TELR_DB = 65.0  # talker echo loudness rating
WEPL_DB = 110.0  # weighted echo path loss
PERCEPTIBLE_MS = 100.0  # mT, least delay that impairs a conversation


def rating(
    *, loss: float, mouth_to_ear_ms: float, burst_ratio: float = 1.0, bpl: float = BPL_WITH_CONCEALMENT
) -> float:
    """The transmission rating factor R, at most 93.2; below 50 a call is hardly of use.

    loss             fraction of the packets that is lost, 0..1
    mouth_to_ear_ms  one-way delay
    burst_ratio      1 for loss at random, more when it comes in bursts (see `burst_ratio`)
    bpl              BPL_WITH_CONCEALMENT or BPL
    """
    return RO - IS - _delay_impairment(max(mouth_to_ear_ms, 0.0)) - _loss_impairment(loss, burst_ratio, bpl)


def mos(rating: float) -> float:
    """Mean opinion score, 1.0 to 4.5, of a rating (G.107 annex B)."""
    if rating <= 0:
        return 1.0
    if rating >= 100:
        return 4.5
    # The cubic dips below 1 for ratings under 6.5.
    return max(1.0, 1 + 0.035 * rating + rating * (rating - 60) * (100 - rating) * 7e-6)


def burst_ratio(*, expected: int, lost: int, gaps: int) -> float:
    """How much longer gaps are than they would be if the same loss fell at random (G.107 clause 7.5, BurstR).

    expected  packets that should have come
    lost      those that did not
    gaps      runs of consecutive losses

    Random loss with probability p makes runs of 1 / (1 - p) packets on average. Never below 1: what is spread more
    evenly than chance would have it lies outside the model.
    """
    if lost <= 0 or gaps <= 0 or expected <= lost:
        return 1.0
    return max(1.0, lost / gaps * (1 - lost / expected))


def mouth_to_ear_ms(*, round_trip_ms: float, jitter_ms: float, ptime_ms: float) -> float:
    """One-way delay as a listener has it: half the round trip, one packet's filling, and a jitter buffer.

    The buffer is taken as twice the jitter, and as one packet at least, which is what adaptive buffers settle at.
    """
    return round_trip_ms / 2 + ptime_ms + max(2 * jitter_ms, ptime_ms)


def _loss_impairment(loss: float, burst_ratio: float, bpl: float) -> float:
    """Ie,eff, G.107 clause 7.5."""
    percent = 100 * min(max(loss, 0.0), 1.0)
    return IE + (95 - IE) * percent / (percent / max(burst_ratio, 1.0) + bpl)


def _delay_impairment(delay_ms: float) -> float:
    """Id = Idte + Idle + Idd, G.107 clause 7.4, for T = Ta = Tr / 2."""
    level = 80 + 2.5 * (_echo_level_db(delay_ms) - 14)
    talker_echo = (RO - level) / 2 + math.hypot((RO - level) / 2, 10) - 1
    talker_echo *= -math.expm1(-delay_ms)

    level = 10.5 * (WEPL_DB + 7) * math.pow(2 * delay_ms + 1, -0.25)
    listener_echo = (RO - level) / 2 + math.hypot((RO - level) / 2, 13)

    absolute = 0.0
    if delay_ms > PERCEPTIBLE_MS:
        x = math.log2(delay_ms / PERCEPTIBLE_MS)
        absolute = 25 * (math.pow(1 + x**6, 1 / 6) - 3 * math.pow(1 + (x / 3) ** 6, 1 / 6) + 2)
    return talker_echo + listener_echo + absolute


def _echo_level_db(delay_ms: float) -> float:
    """TERV, G.107 clause 7.4."""
    masked = 40 * math.log10((1 + delay_ms / 10) / (1 + delay_ms / 150))
    return TELR_DB - masked + 6 * math.exp(-0.3 * delay_ms**2)
