"""Dialogs (RFC 3261 section 12): what two peers remember of one another between requests.

A `Dialog` knows the sequence numbers, the remote target, the route set and how far offer and answer have got, and makes
the requests that are sent within it. Whether it is early or confirmed is the state of the call that holds it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, replace

from .digest import Keyring
from .exchange import Exchange, ExchangeInput
from .headers import Headers, NameAddr, Via
from .message import Request, Response
from .transaction import Flow
from .uri import NO_PARAMETERS, Uri

__all__ = ["MAX_FORWARDS", "Dialog", "Retained", "hop_address"]

MAX_FORWARDS = 70
_DEFAULT_PORT = 5060
_DEFAULT_TLS_PORT = 5061
_CONNECTED = ("TCP", "TLS")


class Dialog:
    """One dialog, of either side.

    call_id, local_tag, remote_tag   what identifies it; `remote_tag` is "" with an RFC 2543 peer that sets none
    local, remote                    the From and To that its requests carry, as text
    local_seq, remote_seq            the latest sequence numbers; `remote_seq` is None before the peer's first request
    target                           the peer's Contact: the Request-URI
    routes                           the route set, nearest proxy first
    flow                             along which its requests travel
    refers                           how many REFERs of the peer's have been accepted in it
    keyring                          what answers the challenges of its requests, None if nothing does
    exchange                         how far offer and answer have got
    described                        the peer's latest offer or answer, accepted or not; b"" before the first one
    rseq                             CSeq number and RSeq of the peer's latest reliable provisional response, if any
    """

    __slots__ = (
        "call_id",
        "described",
        "exchange",
        "flow",
        "keyring",
        "local",
        "local_seq",
        "local_tag",
        "refers",
        "remote",
        "remote_seq",
        "remote_tag",
        "routes",
        "rseq",
        "target",
    )

    def __init__(
        self,
        *,
        call_id: str,
        local: str,
        local_tag: str,
        local_seq: int,
        remote: str,
        remote_tag: str,
        remote_seq: int | None,
        target: Uri,
        routes: tuple[NameAddr, ...],
        exchange: Exchange = Exchange.EMPTY,
    ) -> None:
        self.call_id = call_id
        self.local = local
        self.local_tag = local_tag
        self.local_seq = local_seq
        self.remote = remote
        self.remote_tag = remote_tag
        self.remote_seq = remote_seq
        self.target = target
        self.routes = routes
        self.refers = 0
        self.keyring: Keyring | None = None
        self.exchange = exchange
        self.described = b""
        self.rseq: tuple[int, int] | None = None

    @classmethod
    def served(cls, request: Request, local_tag: str, source: Flow) -> Dialog:
        """The dialog that our response with `local_tag` to the peer's `request` makes (RFC 3261 section 12.1.1).

        source  how the request came to us, its Via saying so (`Request.received_from`)
        """
        contact = request.contact
        dialog = cls(
            call_id=request.call_id,
            local=f"{request.headers.get('To')};tag={local_tag}",
            local_tag=local_tag,
            local_seq=0,
            remote=request.headers.get("From") or "",
            remote_tag=request.from_.tag,
            remote_seq=request.cseq.number,
            target=request.from_.uri if contact is None else contact.uri,
            routes=request.record_route,
            exchange=Exchange.OFFERED if request.body else Exchange.EMPTY,
        )
        dialog.described = request.body
        dialog.flow = hop_flow(dialog.next_hop, source, request.via)
        return dialog

    @classmethod
    def placed(cls, request: Request, response: Response, source: Flow, keyring: Keyring | None = None) -> Dialog:
        """The dialog that the peer's `response` to our `request` makes (RFC 3261 section 12.1.2)."""
        contact = response.contact
        dialog = cls(
            call_id=request.call_id,
            local=request.headers.get("From") or "",
            local_tag=request.from_.tag,
            local_seq=request.cseq.number,
            remote=response.headers.get("To") or "",
            remote_tag=response.to.tag,
            remote_seq=None,
            # A 2xx must have a Contact. Where one has none, the address that reached the peer may do so again.
            target=request.uri if contact is None else contact.uri,
            routes=response.record_route[::-1],
            exchange=Exchange.OFFERING if request.body else Exchange.EMPTY,
        )
        dialog.flow = hop_flow(dialog.next_hop, source, None)
        dialog.keyring = keyring
        return dialog

    def matches(self, request: Request) -> bool:
        """Whether a request of the peer's belongs here (RFC 3261 section 12.2.2)."""
        return (
            request.to.tag == self.local_tag
            and request.from_.tag == self.remote_tag
            and request.call_id == self.call_id
        )

    def in_order(self, request: Request) -> bool:
        """Take a new request of the peer's into account; False if a later one has come already.

        RFC 3261 section 12.2.2: a lower number is out of order, a gap is not. An INVITE with the same number is a
        copy of one whose transaction is over.
        """
        number, latest = request.cseq.number, self.remote_seq
        if latest is not None and (number < latest or (number == latest and request.method == "INVITE")):
            return False
        self.remote_seq = number
        return True

    def refresh(self, message: Request | Response, source: Flow) -> None:
        """A target refresh succeeded: `message` of the peer's says where it is now (RFC 3261 section 12.2)."""
        if message.contact is not None:
            self.target = message.contact.uri
        self.flow = hop_flow(self.next_hop, source, message.via if isinstance(message, Request) else None)

    def confirm(self, response: Response, source: Flow) -> None:
        """The 2xx to the INVITE came: it alone fixes the route set (RFC 3261 section 13.2.2.4)."""
        self.routes = response.record_route[::-1]
        self.remote = response.headers.get("To") or ""
        self.refresh(response, source)

    def take(self, happening: ExchangeInput, described: bytes = b"") -> None:
        """An offer or answer went by, the peer's `described` in it; out of turn it changes nothing (section 13.2.1)."""
        if self.exchange.allows(happening):
            self.exchange = self.exchange.after(happening)
            self.described = described or self.described

    def in_sequence(self, seq: int, rseq: int) -> bool:
        """Take a reliable provisional response into account; False if it is a copy or comes too early.

        RFC 3262 section 4: the first one to an INVITE, whose number is `seq`, may have any RSeq; the others follow.
        """
        if self.rseq is not None and self.rseq[0] == seq and rseq != self.rseq[1] + 1:
            return False
        self.rseq = (seq, rseq)
        return True

    @property
    def next_hop(self) -> Uri:
        """Where requests go first: the nearest proxy of the route set, without one the peer itself."""
        return self.routes[0].uri if self.routes else self.target

    @property
    def direct(self) -> bool:
        """Whether requests go to the very address that the peer states: there is no NAT before it."""
        hop = self.next_hop
        return (hop.host, hop.port or _DEFAULT_PORT) == self.flow.remote

    def request(
        self,
        method: str,
        via: str,
        *,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes = b"",
        seq: int | None = None,
    ) -> Request:
        """A request within the dialog (RFC 3261 section 12.2.1.1); `seq` is the INVITE's number for its ACK."""
        if seq is None:
            self.local_seq += 1
            seq = self.local_seq
        uri, routes = _request_uri(self.target), self.routes
        if routes and "lr" not in routes[0].uri.parameters:
            # A strict router wants to be the Request-URI, and the target at the end of the route.
            uri = _request_uri(routes[0].uri)
            routes = (*routes[1:], NameAddr(uri=self.target))
        fields = [("Via", via)]
        fields += [("Route", str(route)) for route in routes]
        fields += [
            ("Max-Forwards", str(MAX_FORWARDS)),
            ("From", self.local),
            ("To", self.remote),
            ("Call-ID", self.call_id),
            ("CSeq", f"{seq} {method}"),
        ]
        return Request(method=method, uri=uri, headers=Headers((*fields, *headers)), body=body)


@dataclass(slots=True, kw_only=True)
class Retained:
    """A dialog that subscriptions use, whatever becomes of the call in it (RFC 5057 section 3).

    contact  ours in it
    users    so many
    """

    dialog: Dialog
    contact: str
    users: int = 0


def _request_uri(uri: Uri) -> Uri:
    """`uri` less what a Request-URI may not have (RFC 3261 sections 12.2.1.1 and 19.1.1)."""
    if "method" not in uri.parameters and not uri.headers:
        return uri
    parameters = uri.parameters.without("method") if uri.parameters else NO_PARAMETERS
    return replace(uri, parameters=parameters, headers=())


def hop_flow(hop: Uri, source: Flow, via: Via | None) -> Flow:
    """The flow of requests to `hop`, which the peer named in a message that came along `source`.

    Where it goes to the stated address, it goes by the stated transport (RFC 3261 section 12.2.1.1, RFC 3263 section
    4.1); a peer that has made a connection to us is reached along that.

    via  the topmost Via of that message if it was a request
    """
    remote = hop_address(hop, source, via)
    stated = "TLS" if hop.scheme == "sips" else hop.transport.upper()
    if source.reliable or stated not in _CONNECTED or not (_same_host(hop.host, remote[0]) and _port(hop) == remote[1]):
        return source._replace(remote=remote)
    return source._replace(transport=stated, remote=remote)


def hop_address(hop: Uri, source: Flow, via: Via | None) -> tuple[str, int]:
    """Where to send for `hop`: to the address it states, unless the peer is plainly behind a NAT.

    Then only the source of what it sent reaches it. Signs of a NAT: the Via is not true of the source (RFC 3581), or
    the stated address is a private one and the source is none. Within a private network, a peer behind a proxy that
    did not record its route is where it says (RFC 3261 section 12.2.1.1); but an address that nobody else can reach,
    of the peer's loopback or link, is not. A host name goes to the source as well: resolving is not done here, and a
    peer is the most likely to be where it was last heard of.
    """
    if source.reliable:
        return source.remote
    try:
        address = ipaddress.ip_address(hop.host)
    except ValueError:
        return source.remote
    same_host = _same_host(hop.host, source.remote[0])
    if not same_host and not (address.is_global or _within_reach(address, source)):
        return source.remote
    if via is not None and _translated(via, source):
        return source.remote
    return (source.remote[0] if same_host else hop.host, _port(hop))


def _within_reach(address: ipaddress.IPv4Address | ipaddress.IPv6Address, source: Flow) -> bool:
    """Whether a private address can be meant for us, who hear its owner from `source`."""
    if address.is_loopback or address.is_link_local or address.is_unspecified or address.is_multicast:
        return False
    try:
        return not ipaddress.ip_address(source.remote[0]).is_global
    except ValueError:
        return False


def _port(hop: Uri) -> int:
    return hop.port or (_DEFAULT_TLS_PORT if hop.scheme == "sips" or hop.transport == "tls" else _DEFAULT_PORT)


def _translated(via: Via, source: Flow) -> bool:
    host, port = source.remote
    if not _same_host(via.host, host):
        return True
    # A client that asks for rport sends from the port that it listens on (RFC 3581 section 4); an older one may not.
    return "rport" in via.parameters and (via.port or _DEFAULT_PORT) != port


def _same_host(one: str, other: str) -> bool:
    if one == other:
        return True
    try:
        return ipaddress.ip_address(one) == ipaddress.ip_address(other)
    except ValueError:
        return False
