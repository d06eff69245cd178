"""From logits to a token: what is left to draw from, and the draw, for many streams at once and on any device.

The published models differ in the order in which they process logits, and the order matters:

    GPT2    temperature, top k, top p, then the repetition penalty, which so changes shares and excludes nothing
    Llama   guidance, repetition penalty, temperature, min p, then top p

A draw is the place where a number from 0 to 1 falls in the cumulated probabilities, in the order of the vocabulary. The
numbers of a stream come from Philox (philox.py), a generator that is a function of (seed, step), so a seed gives the
same draws whatever else is in the batch and on whichever device it runs.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from engines.chatterbox.philox import Domain, uniform

__all__ = ["MOST_CANDIDATES", "Sampling", "Settings", "draw", "draws", "guided", "remaining_gpt2", "remaining_llama"]

MOST_CANDIDATES = 1000
"""Top k is no larger than this."""

_NONE = float("-inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How a stream draws its tokens. The defaults are the published ones of Turbo and Nano.

    top_k     1 to 1000; 1 takes the likeliest token every time
    min_p     for Llama: less than this share of the likeliest one's probability is excluded
    guidance  for Llama: how far to go beyond what the text alone makes likely; 0 is without guidance
    """

    temperature: float = 0.8
    top_k: int = MOST_CANDIDATES
    top_p: float = 0.95
    min_p: float = 0.0
    repetition_penalty: float = 1.2
    guidance: float = 0.0

    def __post_init__(self) -> None:
        for name, allowed in (
            ("temperature", self.temperature > 0),
            ("top_k", 1 <= self.top_k <= MOST_CANDIDATES),
            ("top_p", 0 < self.top_p <= 1),
            ("min_p", 0 <= self.min_p <= 1),
            ("repetition_penalty", self.repetition_penalty > 0),
            ("guidance", self.guidance >= 0),
        ):
            if not allowed:
                raise ValueError(f"{name} {getattr(self, name)} is out of range")


ORIGINAL = Sampling(top_p=1.0, min_p=0.05, guidance=0.5)
"""The published defaults of the original model."""

MULTILINGUAL = Sampling(top_p=1.0, min_p=0.05, guidance=0.5, repetition_penalty=2.0)
"""The published defaults of the multilingual model."""


class Settings:
    """The `Sampling` of each slot, on the device: columns of a number for each slot."""

    def __init__(self, slots: int, device: torch.device) -> None:
        self._columns = {field.name: torch.ones(slots, 1, device=device) for field in fields(Sampling)}

    def put(self, slot: int, sampling: Sampling) -> None:
        for name, column in self._columns.items():
            column[slot] = getattr(sampling, name)

    def column(self, name: str, rows: slice) -> Tensor:
        """[rows, 1]"""
        return self._columns[name][rows]


def draws(seed: int, steps: int) -> Tensor:
    """The numbers from 0 to 1 of a stream's steps, the same for any number of steps: [steps], in double precision."""
    seeds = torch.tensor([(seed + 2**63) % 2**64 - 2**63])
    return uniform(seeds, Domain.TOKENS, torch.zeros(1, dtype=torch.int64), steps, 1).flatten().double()


def guided(logits: Tensor, weight: Tensor) -> Tensor:
    """Classifier-free guidance: rows in pairs, with and without the text, to one row each."""
    conditional, unconditional = logits.view(-1, 2, logits.shape[-1]).unbind(1)
    return conditional + weight * (conditional - unconditional)


def _penalised(scores: Tensor, seen: Tensor, penalty: Tensor) -> Tensor:
    return torch.where(seen, torch.where(scores < 0, scores * penalty, scores / penalty), scores)


def _without_tail(ascending: Tensor, top_p: Tensor) -> Tensor:
    """Scores in ascending order, without the least likely ones that together have less than 1 - top_p."""
    cumulated = ascending.softmax(-1).cumsum(-1)
    excluded = cumulated <= 1 - top_p
    excluded[..., -1] = False
    return ascending.masked_fill(excluded, _NONE)


def remaining_gpt2(logits: Tensor, seen: Tensor, settings: Settings, rows: slice) -> Tensor:
    """Probabilities over the vocabulary in the order of Turbo and Nano; `seen` are the tokens to be penalised.

    Where several tokens share the k-th place, only as many of them stay as make k.
    """
    scores = logits / settings.column("temperature", rows)
    candidates = scores.topk(min(MOST_CANDIDATES, scores.shape[-1]), dim=-1)
    ascending, order = candidates.values.flip(-1), candidates.indices.flip(-1)
    place = torch.arange(ascending.shape[-1] - 1, -1, -1, device=logits.device)
    ascending = ascending.masked_fill(place >= settings.column("top_k", rows), _NONE)
    ascending = _without_tail(ascending, settings.column("top_p", rows))
    ascending = _penalised(ascending, seen.gather(-1, order), settings.column("repetition_penalty", rows))
    return torch.zeros_like(scores).scatter(-1, order, ascending.softmax(-1))


def remaining_llama(logits: Tensor, seen: Tensor, settings: Settings, rows: slice) -> Tensor:
    """Probabilities over the vocabulary in the order of the original and the multilingual model."""
    scores = _penalised(logits, seen, settings.column("repetition_penalty", rows))
    scores = scores / settings.column("temperature", rows)
    shares = scores.softmax(-1)
    least = settings.column("min_p", rows) * shares.amax(-1, keepdim=True)
    scores = scores.masked_fill(shares < least, _NONE)
    ascending, order = scores.sort(dim=-1)
    ascending = _without_tail(ascending, settings.column("top_p", rows))
    place = torch.arange(ascending.shape[-1] - 1, -1, -1, device=logits.device)
    # Top k is not among the published settings of these models; at its largest it is off.
    top_k = settings.column("top_k", rows)
    ascending = ascending.masked_fill((place >= top_k) & (top_k < MOST_CANDIDATES), _NONE)
    return torch.zeros_like(scores).scatter(-1, order, ascending.softmax(-1))


def draw(probabilities: Tensor, numbers: Tensor) -> Tensor:
    """The token of each row at which the cumulated probability passes the row's number: [n, vocabulary], [n] to [n]."""
    cumulated = probabilities.double().cumsum(-1)
    reached = (numbers * cumulated[:, -1])[:, None]
    # Rounding may not lead to a token that is excluded: the last one that has any probability is the last resort.
    last = (probabilities > 0).int().cumsum(-1).argmax(-1, keepdim=True)
    return torch.searchsorted(cumulated, reached, right=True).minimum(last)[:, 0]
