"""Whether a stream of speech tokens goes round in circles.

A model that has lost its way repeats a token, or a figure of some tokens, until it is stopped. Speech holds a sound for
a few tokens (40 ms each) and pauses for longer, so silence may last, and other things not. The published code of Turbo
has no such guard; these bounds are ours, generous, and have not been tried on published weights.
"""

from __future__ import annotations

from engines.chatterbox.shapes import SILENCE, TOKEN_RATE_HZ

__all__ = ["Loop"]

LONGEST_SILENCE = 3 * TOKEN_RATE_HZ
LONGEST_SOUND = 12
"""So many times the same token, silence apart, is a loop: half a second of a sound that does not change."""

LONGEST_FIGURE = 16
TIMES = 4
SHORTEST_LOOP = 2 * TOKEN_RATE_HZ
"""A figure is a loop when it has been heard so many `TIMES`, and for as long as this."""


class Loop:
    """Told of each token of one stream."""

    def __init__(self) -> None:
        self._tokens: list[int] = []
        # For each period: how many tokens in a row have been the same as the one a period earlier.
        self._matches = [0] * (LONGEST_FIGURE + 1)

    def add(self, token: int) -> bool:
        """Whether the stream is in a loop with this token."""
        tokens, matches = self._tokens, self._matches
        for period in range(1, LONGEST_FIGURE + 1):
            same = len(tokens) >= period and tokens[-period] == token
            matches[period] = matches[period] + 1 if same else 0
        tokens.append(token)
        del tokens[:-LONGEST_FIGURE]
        if matches[1] + 1 >= (LONGEST_SILENCE if token == SILENCE else LONGEST_SOUND):
            return True
        return any(
            matches[period] + period >= max(TIMES * period, SHORTEST_LOOP) and matches[1] < period
            for period in range(2, LONGEST_FIGURE + 1)
        )
