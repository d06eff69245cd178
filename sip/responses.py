"""Responses of ours: by a transaction, or stateless (RFC 3261 sections 8.2.6 and 8.2.7)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from .counters import Tally
from .headers import Via
from .identity import Identity
from .message import Request, Response
from .transaction import Flow, ServerTransaction, Transactions

__all__ = ["Responses", "reply_flow"]


class Responses:
    """Sends responses of ours."""

    def __init__(self, *, identity: Identity, transactions: Transactions, tally: Tally) -> None:
        self._identity = identity
        self._transactions = transactions
        self._tally = tally
        self._secret = identity.random.randbytes(16)

    def respond(
        self,
        transaction: ServerTransaction,
        request: Request,
        status: int,
        now: float,
        *,
        reason: str | None = None,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes = b"",
        content_type: str | None = None,
    ) -> Response:
        """Respond to `request` by its `transaction`; returns what is sent. `content_type` counts with a body only."""
        response = request.response(
            status,
            reason,
            to_tag=None if status == 100 else transaction.to_tag,
            headers=(*self._identity.server_fields, *headers),
            body=body,
            content_type=content_type if body else None,
        )
        transaction.respond(response, now)
        self._tally.responses_sent[status // 100] += 1
        return response

    def refuse(
        self,
        request: Request,
        reply: Flow,
        status: int,
        reason: str | None = None,
        headers: Iterable[tuple[str, str]] = (),
    ) -> None:
        """Respond and forget (RFC 3261 section 8.2.7)."""
        if request.method == "ACK":
            return
        fields = (*self._identity.server_fields, *headers)
        response = request.response(status, reason, to_tag=self.stateless_tag(request), headers=fields)
        self._tally.responses_sent[status // 100] += 1
        self._transactions.send(response.serialise(), reply)

    def stateless_tag(self, request: Request) -> str:
        """A To tag that is the same for every retransmission, and that nobody can foresee."""
        headers = request.headers
        identity = "\0".join(headers.get(name) or "" for name in ("Call-ID", "From", "CSeq", "To"))
        return hashlib.blake2s(identity.encode(), key=self._secret, digest_size=8).hexdigest()

    def readable(self, request: Request, reply: Flow, accept: tuple[str, ...]) -> bool:
        """Whether the body is of one of the types in `accept`, () being all; answers the request if not (8.2.3)."""
        if not request.body:
            return True
        encoding = request.headers.get("Content-Encoding")
        if encoding is not None and encoding.lower() != "identity":
            self.refuse(request, reply, 415, headers=(("Accept-Encoding", "identity"),))
            return False
        if not request.content_type:
            self.refuse(request, reply, 400, "Missing Content-Type")
            return False
        if accept and request.content_type not in accept:
            self.refuse(request, reply, 415, headers=(("Accept", ", ".join(accept)),))
            return False
        return True


def reply_flow(via: Via, source: Flow) -> Flow:
    """Where the response to a request with this topmost Via, its source noted, goes (section 18.2.2, RFC 3581).

    To where the request came from, always to that address; `maddr` is not followed, because it would let anybody have
    us send to anybody. Only an old client that does not ask for `rport`, and is not behind a NAT, gets its response
    on the port that its Via names.
    """
    if source.reliable or via.rport is not None or via.received:
        return source
    return source._replace(remote=(source.remote[0], via.port or 5060))
