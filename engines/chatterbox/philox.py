"""Random numbers by address: Philox4x32-10 in torch, on whatever device the numbers are wanted.

A number depends on its seed, its domain and its index alone, so that a stream hears the same noise whatever its
neighbours in the batch, however its audio is cut into hops, and wherever a window begins. (Salmon et al., "Parallel
random numbers: as easy as 1, 2, 3", SC 2011; the known answers of its reference software are in the tests.)
"""

from __future__ import annotations

import enum
import math

import torch
from torch import Tensor

__all__ = ["Domain", "normal", "seed_of", "uniform"]

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10

_Words = tuple[Tensor, Tensor, Tensor, Tensor]


class Domain(enum.IntEnum):
    """What a number is for; two domains of one seed share nothing."""

    PROMPT_MEL = 1
    MEL = 2
    HARMONICS = 3
    PHASES = 4
    TOKENS = 5


def philox(counter: _Words, key: tuple[Tensor, Tensor]) -> _Words:
    """Four words of 32 bits for each counter: int64 tensors that broadcast, each value 0 to 2**32 - 1."""
    first, second, third, fourth = counter
    low, high = key
    for _ in range(_ROUNDS):
        # A product of two words wraps at 2**64, and the sign that the shift drags in is masked away.
        left, right = first * _MULTIPLIERS[0], third * _MULTIPLIERS[1]
        first, second, third, fourth = (
            ((right >> 32) & _WORD) ^ second ^ low,
            right & _WORD,
            ((left >> 32) & _WORD) ^ fourth ^ high,
            left & _WORD,
        )
        low, high = (low + _WEYL[0]) & _WORD, (high + _WEYL[1]) & _WORD
    return first, second, third, fourth


def _words(seeds: Tensor, domain: Domain, first: Tensor, count: int, width: int) -> _Words:
    """Rows `first` to `first + count` of each seed: four words of shape (batch, count, ceil(width / 4))."""
    device = seeds.device
    index = first[:, None] + torch.arange(count, device=device)
    block = torch.arange(-(-width // 4), device=device)
    return philox(
        (index[..., None] & _WORD, (index[..., None] >> 32) & _WORD, block, torch.tensor(int(domain), device=device)),
        (seeds[:, None, None] & _WORD, (seeds[:, None, None] >> 32) & _WORD),
    )


def seed_of(number: int) -> int:
    """Any whole number as a seed of 64 bits, which a tensor can hold; of larger ones the lowest 64 bits count."""
    return (number + 2**63) % 2**64 - 2**63


def _unit(word: Tensor) -> Tensor:
    return (word.to(torch.float32) + 0.5) * 2.0**-32


def normal(seeds: Tensor, domain: Domain, first: Tensor, count: int, width: int) -> Tensor:
    """Standard normal numbers of shape (batch, count, width).

    seeds   (batch,) int64, one of each stream
    first   (batch,) int64, the absolute index of each stream's first row
    """
    words = _words(seeds, domain, first, count, width)
    columns = []
    for radius, angle in ((words[0], words[1]), (words[2], words[3])):  # Box and Muller, both of the pair
        length, turn = torch.sqrt(-2.0 * torch.log(_unit(radius))), (2.0 * math.pi) * _unit(angle)
        columns += [length * torch.cos(turn), length * torch.sin(turn)]
    return torch.stack(columns, dim=-1).flatten(2)[..., :width]


def uniform(seeds: Tensor, domain: Domain, first: Tensor, count: int, width: int) -> Tensor:
    """Numbers from 0 to 1 of shape (batch, count, width), as `normal`'s."""
    words = _words(seeds, domain, first, count, width)
    return torch.stack([_unit(word) for word in words], dim=-1).flatten(2)[..., :width]
