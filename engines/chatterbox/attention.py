"""What the flow's two transformers share: keys and values that are kept, and who may see whom.

Rows are tokens or frames. A context is what came before the new rows, right-aligned: its last row directly precedes
the first new one in every stream of the batch, however much each has behind it, so that distances between rows are the
same for all. New rows are left-aligned, and padded at their end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["KeyValues", "attention_mask", "join", "with_context"]


_SPARE = 200
"""Rows that are made room for at a time: of frames, four seconds."""


@dataclass(frozen=True, slots=True)
class KeyValues:
    """Keys and values of every layer of a stack, each (batch, layers, heads, room, head width).

    The first `rows` of them stand, and never change. The room behind them belongs to whoever continues from here, who
    is one stream: what it adds is written there, so that a hop does not copy all hops before it.
    """

    keys: Tensor
    values: Tensor
    rows: int

    @property
    def nbytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes

    @property
    def standing(self) -> tuple[Tensor, Tensor]:
        return self.keys[:, :, :, : self.rows], self.values[:, :, :, : self.rows]

    def select(self, rows: slice) -> KeyValues:
        """Some streams of the batch."""
        return KeyValues(self.keys[rows], self.values[rows], self.rows)

    def cut(self, count: int) -> KeyValues:
        """The first `count` rows."""
        return KeyValues(self.keys[:, :, :, :count], self.values[:, :, :, :count], count)

    def followed_by(self, later: KeyValues) -> KeyValues:
        total = self.rows + later.rows
        keys, values = self.keys, self.values
        if keys.shape[3] < total:
            room = (0, 0, 0, later.rows + _SPARE)
            keys, values = (functional.pad(each, room) for each in self.standing)
        keys[:, :, :, self.rows : total], values[:, :, :, self.rows : total] = later.standing
        return KeyValues(keys, values, total)


def join(parts: Sequence[KeyValues]) -> KeyValues:
    """A batch of contexts, right-aligned, those that are shorter filled up with zeros (which a mask has to hide)."""
    if len(parts) == 1:
        return parts[0]
    rows = max(part.rows for part in parts)
    filled = [[functional.pad(each, (0, 0, rows - part.rows, 0)) for each in part.standing] for part in parts]
    keys, values = (torch.cat(each) for each in zip(*filled, strict=True))
    return KeyValues(keys, values, rows)


def with_context(context: KeyValues | None, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values (batch, heads, rows, width) that one layer's new rows attend to."""
    if context is None:
        return key, value
    first, last = context.rows, context.rows + key.shape[2]
    keys, values = context.keys[:, layer], context.values[:, layer]
    if keys.shape[2] < last:
        return torch.cat((keys[:, :, :first], key), dim=2), torch.cat((values[:, :, :first], value), dim=2)
    keys[:, :, first:last], values[:, :, first:last] = key, value
    return keys[:, :, :last], values[:, :, :last]


def attention_mask(new: Tensor, before: Tensor | None, visible: Tensor | None) -> Tensor:
    """Who sees whom: (batch, 1, new rows, context and new rows), True where attended.

    new      (batch, rows) True where a new row is there, False where it pads
    before   (batch, context rows) the same for the context
    visible  (batch, rows, rows) which new rows see which, when not all do
    """
    batch, rows = new.shape
    # A row that pads sees at least itself, because a softmax over nothing is not a number, and spreads.
    itself = torch.eye(rows, dtype=torch.bool, device=new.device)
    seen = new[:, None, :].expand(batch, rows, rows)
    if visible is not None:
        seen = seen & visible
    seen = seen | itself
    if before is not None:
        seen = torch.cat((before[:, None, :].expand(batch, rows, before.shape[1]), seen), dim=2)
    return seen[:, None]
