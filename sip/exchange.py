"""Offer and answer within one dialog, as a table (RFC 3264 section 4, RFC 6337 section 2): one exchange at a time.

What is exchanged is opaque; only its order is looked at here, whichever messages carry it: INVITE, its reliable
responses, PRACK, ACK and UPDATE. A description in an unreliable response is a preview of the answer, and no part of
the exchange.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

from .errors import LocalProtocolError

__all__ = ["EXCHANGE_ROWS", "Exchange", "ExchangeInput"]


class Exchange(enum.Enum):
    """Where the exchange stands, seen from us."""

    EMPTY = "nothing has been offered yet"
    OFFERED = "the peer's offer waits for our answer"
    OFFERING = "our offer waits for the peer's answer"
    AGREED = "no offer waits"

    def after(self, happening: ExchangeInput) -> Exchange:
        """Where `happening` leads. Raises LocalProtocolError if it is not its turn."""
        entered = EXCHANGE_ROWS.get((self, happening))
        if entered is None:
            raise LocalProtocolError(f"{happening.value} when {self.value}")
        return entered

    def allows(self, happening: ExchangeInput) -> bool:
        """Whether it is the turn of `happening`."""
        return (self, happening) in EXCHANGE_ROWS


class ExchangeInput(enum.Enum):
    """Who says what."""

    OFFER = "our offer"
    ANSWER = "our answer"
    PEER_OFFER = "the peer's offer"
    PEER_ANSWER = "the peer's answer"
    DROP = "refusal or withdrawal of the offer"


_E, _I = Exchange, ExchangeInput

EXCHANGE_ROWS: Mapping[tuple[Exchange, ExchangeInput], Exchange] = {
    (_E.EMPTY, _I.OFFER): _E.OFFERING,
    (_E.EMPTY, _I.PEER_OFFER): _E.OFFERED,
    (_E.OFFERED, _I.ANSWER): _E.AGREED,
    (_E.OFFERING, _I.PEER_ANSWER): _E.AGREED,
    (_E.AGREED, _I.OFFER): _E.OFFERING,
    (_E.AGREED, _I.PEER_OFFER): _E.OFFERED,
    # RFC 3261 section 14.1: then what was agreed on before stays. The first offer is refused only with its INVITE.
    (_E.OFFERED, _I.DROP): _E.AGREED,
    (_E.OFFERING, _I.DROP): _E.AGREED,
}
