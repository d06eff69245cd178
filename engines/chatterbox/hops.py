"""How many tokens the next hop of a stream is to have: few at first, so that something is heard soon, then more.

A hop costs nearly as much for few tokens as for many, so long ones are cheaper; but nothing of a hop is heard before it
is done. The rule: a hop may be as long as what waits to be heard lasts twice as long as the hop will take. No torch in
here, and no clock.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from engines.chatterbox.shapes import TOKEN_RATE_HZ

__all__ = ["HopSchedule"]

TOKEN_MS = 1000 / TOKEN_RATE_HZ


@dataclass(frozen=True, slots=True, kw_only=True)
class HopSchedule:
    """Lengths of hops in tokens, ascending: the first hop has the first one, each later hop at most the next one.

    The lengths add up to multiples of 25 tokens, which is the grid that models with chunk masks are trained on.
    """

    lengths: tuple[int, ...] = (4, 6, 15, 25)
    margin: float = 2.0

    def __post_init__(self) -> None:
        if not self.lengths or self.lengths[0] < 1 or list(self.lengths) != sorted(set(self.lengths)):
            raise ValueError(f"lengths of hops ascend from 1 on: {self.lengths}")

    def next_hop(
        self, *, hops: int, ready: int, ended: bool, buffered_ms: float, takes_ms: Callable[[int], float]
    ) -> int:
        """Tokens of the hop that is to begin now; 0 to wait for more of them.

        hops         so far
        ready        tokens that a hop could have (`MelStream.ready`)
        ended        whether those are all
        buffered_ms  speech that is made and has not been heard
        takes_ms     how long a hop of so many tokens takes, as measured
        """
        if ready == 0:
            return 0
        allowed = self.lengths[: hops + 1]
        safe = [length for length in allowed if self.margin * takes_ms(length) <= buffered_ms]
        wanted = safe[-1] if safe and hops else allowed[0]
        if ended:
            # What would be left over is said along, when it is less than the shortest hop.
            return ready if ready - wanted < self.lengths[0] else wanted
        if ready >= wanted:
            return wanted
        # What is wanted is not there yet. It is waited for while there is time to; then what is there has to do.
        urgent = hops > 0 and buffered_ms <= self.margin * takes_ms(ready) + TOKEN_MS
        return ready if urgent else 0
