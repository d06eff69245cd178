"""Requests of ours on their way (RFC 3261 section 8.1): sent, and sent once more if they are challenged or fail.

Each try is a transaction of its own. A request of more than 1300 bytes goes by TCP where UDP was not asked for, and by
UDP after all if TCP fails (section 18.1.1).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace

from .call import Content
from .connection import next_hop
from .counters import Tally
from .dialog import Dialog
from .digest import CREDENTIALS, Keyring, Login, Space
from .headers import Headers
from .identity import Identity
from .message import Request, Response
from .transaction import ClientTransaction, Flow, Numbered, Transactions

__all__ = ["Requests"]

# RFC 3261 section 18.1.1: the most that a datagram is trusted with where the MTU of the path is not known.
_LARGE_BYTES = 1300


class Requests:
    """Sends requests of ours.

    login_for  who to prove to be where a request is challenged that has no keyring, None for nobody
    """

    def __init__(
        self,
        *,
        identity: Identity,
        transactions: Transactions,
        login_for: Callable[[Request, Flow], Login | None] | None,
        tally: Tally,
    ) -> None:
        self._identity = identity
        self._transactions = transactions
        self._login_for = login_for
        self._tally = tally

    def send(
        self,
        request: Request,
        flow: Flow,
        user: str,
        now: float,
        *,
        final_within_s: float | None = None,
        keyring: Keyring | None = None,
        dialog: Numbered | None = None,
        answered: Counter[Space] | None = None,
        others: tuple[Flow, ...] = (),
        fixed: bool = False,
    ) -> ClientTransaction:
        """Send `request`, made for `flow`, along it, or unless that is `fixed` by TCP if it is large."""
        if keyring is not None:
            proofs = keyring.fields(request.method, request.uri, request.body, cnonce=self._identity.token())
            request = replace(request, headers=Headers((*request.headers, *proofs)))
        self._tally.requests_sent[request.method] += 1
        first, *left = (flow, *others) if fixed else self._ways(request, (flow, *others))
        if first != flow:
            request = self._moved(request, flow, first)
        transaction = self._transactions.request(request, first, user, now, final_within_s=final_within_s)
        transaction.keyring, transaction.dialog, transaction.answered = keyring, dialog, answered
        transaction.others = tuple(left)
        return transaction

    def within(
        self,
        dialog: Dialog,
        method: str,
        user: str,
        now: float,
        *,
        headers: Iterable[tuple[str, str]],
        body: bytes = b"",
    ) -> ClientTransaction:
        """Send a request within `dialog`."""
        request = dialog.request(method, self._identity.via(dialog.flow), headers=headers, body=body)
        # Behind a NAT nothing listens for connections.
        fixed = not dialog.direct
        return self.send(request, dialog.flow, user, now, keyring=dialog.keyring, dialog=dialog, fixed=fixed)

    def send_ack(self, transaction: ClientTransaction, dialog: Dialog, content: Content) -> None:
        """The ACK to a 2xx (RFC 3261 section 13.2.2.4)."""
        ack = dialog.request(
            "ACK",
            self._identity.via(dialog.flow),
            headers=(
                *self._identity.client_fields,
                # RFC 3261 section 22.1: an ACK cannot be challenged.
                *_credentials(transaction.request),
                *content.fields,
            ),
            body=content.body,
            seq=transaction.request.cseq.number,
        )
        transaction.acks[dialog.remote_tag] = sent = (ack.serialise(), dialog.flow)
        self._tally.requests_sent["ACK"] += 1
        self._transactions.send(*sent)

    def send_prack(self, dialog: Dialog, rack: str, now: float, content: Content) -> None:
        """Acknowledge a reliable provisional response (RFC 3262 section 4)."""
        fields = (
            *self._identity.client_fields,
            ("RAck", rack),
            *content.fields,
        )
        self.within(dialog, "PRACK", "", now, headers=fields, body=content.body)

    def prove(self, transaction: ClientTransaction, response: Response, now: float) -> ClientTransaction | None:
        """Send the request once more, with what a 401 or 407 asks for (RFC 3261 section 22.2); None if it is no use.

        The next try has the same Call-ID and From tag, a new branch, and a number that is higher by one.
        """
        request, dialog = transaction.request, transaction.dialog
        # Section 22.1: CANCEL is not challenged, because it cannot be sent again.
        if response.status not in (401, 407) or request.method == "CANCEL":
            return None
        keyring = transaction.keyring
        if keyring is None:
            login = None if self._login_for is None else self._login_for(request, transaction.flow)
            if login is None:
                return None
            keyring = Keyring(login)
            if dialog is not None:
                dialog.keyring = keyring
        answered = Counter[Space]() if transaction.answered is None else transaction.answered
        if not keyring.learn(response, answered):
            return None
        transaction.keyring, transaction.answered = keyring, answered
        return self.once_more(transaction, request.headers, now)

    def once_more(self, transaction: ClientTransaction, headers: Headers, now: float) -> ClientTransaction:
        """Send a request as a new one, with what its response asked for in `headers` (RFC 3261 section 8.1.3.5)."""
        request, dialog = transaction.request, transaction.dialog
        seq = request.cseq.number + 1
        if dialog is not None:
            dialog.local_seq += 1
            seq = dialog.local_seq
        headers = headers.with_("Via", self._identity.via(transaction.flow)).with_("CSeq", f"{seq} {request.method}")
        return self.send(
            _unproven(replace(request, headers=headers)),
            transaction.flow,
            transaction.user,
            now,
            final_within_s=transaction.final_within_s,
            keyring=transaction.keyring,
            dialog=dialog,
            answered=transaction.answered,
            others=transaction.others,
            # What was large already has been decided; with credentials it may have become so.
            fixed=dialog is not None or len(request.serialise()) > _LARGE_BYTES,
        )

    def left(self, transaction: ClientTransaction, *, reached: bool) -> tuple[Flow, ...]:
        """Along which a request that has failed may be sent instead (RFC 3263 section 4.3).

        reached  whether it may have reached its target: then the same one is not tried by another transport
        """
        before = transaction.flow.remote
        return tuple(other for other in transaction.others if not (reached and other.remote == before))

    def move_on(self, transaction: ClientTransaction, flows: tuple[Flow, ...], now: float) -> ClientTransaction:
        """Send a request that has failed along the first of `flows`."""
        flow, *left = flows
        request = self._moved(_unproven(transaction.request), transaction.flow, flow)
        return self.send(
            request,
            flow,
            transaction.user,
            now,
            final_within_s=transaction.final_within_s,
            keyring=transaction.keyring,
            dialog=transaction.dialog,
            answered=transaction.answered,
            others=tuple(left),
            fixed=True,
        )

    def _ways(self, request: Request, flows: tuple[Flow, ...]) -> tuple[Flow, ...]:
        """`flows`, TCP coming before UDP if `request` is large (RFC 3261 section 18.1.1)."""
        if next_hop(request).transport == "udp" or len(request.serialise()) <= _LARGE_BYTES:
            return flows
        return tuple(
            way for flow in flows for way in ((flow,) if flow.reliable else (flow._replace(transport="TCP"), flow))
        )

    def _moved(self, request: Request, before: Flow, flow: Flow) -> Request:
        """`request`, made for the flow `before`, as it is along `flow`: another transaction, and our Contact there."""
        secure = request.uri.scheme == "sips"
        headers = request.headers.with_("Via", self._identity.via(flow))
        contact = headers.get("Contact")
        if contact is not None:
            headers = headers.with_(
                "Contact",
                contact.replace(
                    self._identity.contact(before, secure=secure), self._identity.contact(flow, secure=secure)
                ),
            )
        return replace(request, headers=headers)


def _credentials(request: Request) -> tuple[tuple[str, str], ...]:
    return tuple((name, text) for name in CREDENTIALS for text in request.headers.get_all(name))


def _unproven(request: Request) -> Request:
    """`request` without credentials; each try has its own."""
    headers = request.headers
    for name in CREDENTIALS:
        headers = headers.without(name)
    return replace(request, headers=headers)
