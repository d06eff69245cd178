"""The digits that one call's other side keys, for whoever listens. They are kept nowhere, for they may be a PIN."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Digits"]


class Digits:
    """A call's digits, however they came: telephone events (RFC 4733) and INFO, in the order of their arrival.

    count  how many came, which is no secret
    """

    __slots__ = ("_listeners", "_waiting", "count")

    def __init__(self) -> None:
        self.count = 0
        # Mostly nobody, and there is one of these for each call.
        self._listeners: tuple[Callable[[str], None], ...] = ()
        self._waiting: tuple[Callable[[], None], ...] = ()

    def subscribe(self, listener: Callable[[str], None]) -> None:
        """Have it called with each digit that comes from now on: 0 to 9, "*", "#", A to D, or "!" for a hook flash.

        Listeners are called in the order in which they came; one may leave, or have others leave, meanwhile.
        """
        self._listeners += (listener,)

    def unsubscribe(self, listener: Callable[[str], None]) -> None:
        """It is not called any more; nothing if it was not to be."""
        left = list(self._listeners)
        if listener in left:
            left.remove(listener)
        self._listeners = tuple(left)

    def listen(self, pressed: Callable[[], None]) -> Callable[[], None]:
        """Have it called whenever a key is pressed, whichever it is, until what is returned is called."""
        self._waiting += (pressed,)
        return lambda: self._leave(pressed)

    def _leave(self, pressed: Callable[[], None]) -> None:
        left = list(self._waiting)
        if pressed in left:
            left.remove(pressed)
        self._waiting = tuple(left)

    def press(self) -> None:
        """A key is down; `key` tells which one when it is up again, a tenth of a second later and more."""
        for pressed in self._waiting:
            pressed()

    def key(self, digit: str) -> None:
        """It was keyed just now."""
        self.count += 1
        for listener in self._listeners:
            if listener in self._listeners:
                listener(digit)

    def close(self) -> None:
        """The call is over: nobody is called any more, and nobody is held on to."""
        self._listeners = self._waiting = ()
