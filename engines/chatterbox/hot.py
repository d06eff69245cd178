"""What was used lately, up to a number of bytes: the state of voices on the device, large and worth keeping."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar

__all__ = ["Hot"]


class _Sized(Protocol):
    @property
    def size_bytes(self) -> int: ...


Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value", bound=_Sized)


class Hot(Generic[Key, Value]):
    """Values by key; those that were used longest ago leave when all together are larger than `most_bytes`.

    What is larger by itself is made whenever it is asked for, and not kept.
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.size_bytes = 0
        self.hits = 0
        self.misses = 0
        self._values: OrderedDict[Key, Value] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: Key) -> bool:
        return key in self._values

    def get(self, key: Key, make: Callable[[], Value]) -> Value:
        """The value of a key, made now if it is not there."""
        if key in self._values:
            self.hits += 1
            self._values.move_to_end(key)
            return self._values[key]
        self.misses += 1
        value = make()
        if value.size_bytes > self.most_bytes:
            return value
        self._values[key] = value
        self.size_bytes += value.size_bytes
        while self.size_bytes > self.most_bytes:
            _, oldest = self._values.popitem(last=False)
            self.size_bytes -= oldest.size_bytes
        return value

    def drop(self, key: Key) -> None:
        """Forget a key, if it is there."""
        if key in self._values:
            self.size_bytes -= self._values.pop(key).size_bytes
