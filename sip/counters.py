"""How much has come and gone: counted in a `Tally`, told as `Counters`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Counters", "Tally"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """A snapshot. Requests count by method ("other" for unknown ones), responses by class ("1xx" to "6xx").

    requests_received, requests_sent    first transmissions, and those received again
    responses_received, responses_sent  first transmissions, and those received again
    retransmissions_received            requests that were received again
    retransmissions_sent                messages of any kind that were sent again
    malformed                           datagrams that were no SIP message
    strays                              responses and ACKs that nothing waited for
    turned_away                         requests refused by `Agent.admit`
    ignored                             requests that it had ignored
    wrong_proofs                        requests whose user or password was wrong
    held                                requests of those who sent such, that wait
    calls_received, calls_placed        since the beginning
    calls                               that have not ended
    dialogs                             of calls, of those that wait for the response to their BYE, and retained ones
    transactions                        of both sides
    """

    requests_received: Mapping[str, int]
    requests_sent: Mapping[str, int]
    responses_received: Mapping[str, int]
    responses_sent: Mapping[str, int]
    retransmissions_received: int
    retransmissions_sent: int
    malformed: int
    strays: int
    turned_away: int
    wrong_proofs: int
    held: int
    ignored: int
    calls_received: int
    calls_placed: int
    calls: int
    dialogs: int
    transactions: int


@dataclass(slots=True, kw_only=True)
class Tally:
    """What `Counters` says, as it is counted: responses by their class, 1 to 6."""

    requests_received: Counter[str] = field(default_factory=Counter)
    requests_sent: Counter[str] = field(default_factory=Counter)
    responses_received: Counter[int] = field(default_factory=Counter)
    responses_sent: Counter[int] = field(default_factory=Counter)
    retransmissions_received: int = 0
    malformed: int = 0
    strays: int = 0
    turned_away: int = 0
    wrong_proofs: int = 0
    ignored: int = 0
    calls_received: int = 0
    calls_placed: int = 0
    calls: int = 0

    def counters(self, *, retransmissions_sent: int, held: int, dialogs: int, transactions: int) -> Counters:
        """A snapshot, with what is counted elsewhere."""
        return Counters(
            requests_received=dict(self.requests_received),
            requests_sent=dict(self.requests_sent),
            responses_received=_by_class(self.responses_received),
            responses_sent=_by_class(self.responses_sent),
            retransmissions_received=self.retransmissions_received,
            retransmissions_sent=retransmissions_sent,
            malformed=self.malformed,
            strays=self.strays,
            turned_away=self.turned_away,
            wrong_proofs=self.wrong_proofs,
            held=held,
            ignored=self.ignored,
            calls_received=self.calls_received,
            calls_placed=self.calls_placed,
            calls=self.calls,
            dialogs=dialogs,
            transactions=transactions,
        )


def _by_class(counter: Counter[int]) -> dict[str, int]:
    return {f"{hundreds}xx": count for hundreds, count in sorted(counter.items())}
