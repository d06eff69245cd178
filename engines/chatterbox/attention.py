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


@dataclass(frozen=True, slots=True)
class KeyValues:
    """Keys and values of every layer of a stack, each (batch, layers, heads, rows, head width)."""

    keys: Tensor
    values: Tensor

    @property
    def rows(self) -> int:
        return self.keys.shape[3]

    @property
    def nbytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes

    def select(self, row: int) -> KeyValues:
        """One stream of the batch, as a batch of one."""
        return KeyValues(self.keys[row : row + 1], self.values[row : row + 1])

    def cut(self, first: int, last: int) -> KeyValues:
        return KeyValues(self.keys[:, :, :, first:last], self.values[:, :, :, first:last])

    def followed_by(self, later: KeyValues) -> KeyValues:
        return KeyValues(torch.cat((self.keys, later.keys), dim=3), torch.cat((self.values, later.values), dim=3))


def join(parts: Sequence[KeyValues]) -> KeyValues:
    """A batch of contexts, right-aligned, those that are shorter filled up with zeros (which a mask has to hide)."""
    rows = max(part.rows for part in parts)
    if all(part.rows == rows for part in parts):
        return KeyValues(torch.cat([part.keys for part in parts]), torch.cat([part.values for part in parts]))
    fill = [(0, 0, rows - part.rows, 0) for part in parts]
    return KeyValues(
        torch.cat([functional.pad(part.keys, pad) for part, pad in zip(parts, fill, strict=True)]),
        torch.cat([functional.pad(part.values, pad) for part, pad in zip(parts, fill, strict=True)]),
    )


def with_context(context: KeyValues | None, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values (batch, heads, rows, width) that one layer's new rows attend to."""
    if context is None:
        return key, value
    before_key, before_value = context.keys[:, layer].to(key), context.values[:, layer].to(value)
    return torch.cat((before_key, key), dim=2), torch.cat((before_value, value), dim=2)


def attention_mask(new: Tensor, before: Tensor | None, visible: Tensor | None) -> Tensor | None:
    """Who sees whom: (batch, 1, new rows, context and new rows), True where attended; None when everybody sees all.

    new      (batch, rows) True where a new row is there, False where it pads
    before   (batch, context rows) the same for the context
    visible  (batch, rows, rows) which new rows see which, when not all do
    """
    if visible is None and bool(new.all()) and (before is None or bool(before.all())):
        return None
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
