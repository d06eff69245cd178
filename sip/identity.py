"""Who we are in every message: tags and branches, our Via and Contact, and what we allow, accept and support."""

from __future__ import annotations

from random import Random

from .transaction import COOKIE, Flow
from .uri import bracketed

__all__ = ["SUPPORTED", "Identity"]

# The option tags of the extensions that are understood (RFC 3261 section 20.37); what else is required gets 420.
SUPPORTED: tuple[str, ...] = ("100rel", "timer", "replaces", "norefersub")
_MOST_REACHED_AT = 1024


class Identity:
    """What a user agent says of itself.

    random         where tags, branches and back-offs come from
    methods        that it serves, within dialogs or outside of them
    body_types     of INVITEs that it understands

    And as header fields: `allow`, `accept` and `supported` (RFC 3261 sections 20.5, 20.1 and 20.37), `server_fields` in
    responses, `client_fields` in requests, and `offer_fields` in those that make or change a session.
    """

    def __init__(
        self,
        *,
        random: Random,
        advertise: tuple[str, int] | None,
        product: str,
        methods: tuple[str, ...],
        body_types: tuple[str, ...],
    ) -> None:
        self.random = random
        self.methods = methods
        self.body_types = body_types
        self.allow = ("Allow", ", ".join(methods))
        self.accept = ("Accept", ", ".join(body_types))
        self.supported = ("Supported", ", ".join(SUPPORTED))
        self.server_fields = (("Server", product),) if product else ()
        self.client_fields = (("User-Agent", product),) if product else ()
        self.offer_fields = (self.allow, self.accept, self.supported, *self.client_fields)
        self._advertise = advertise
        # How peers along a flow reach us, where they have said so.
        self._reached_at: dict[Flow, tuple[str, int]] = {}

    def token(self) -> str:
        """What serves as tag, branch, Call-ID or key: nobody can foresee it."""
        return f"{self.random.getrandbits(64):016x}"

    def via(self, flow: Flow) -> str:
        """The Via of a new request along `flow`."""
        host, port = self._address(flow)
        # RFC 3581: always ask for rport.
        return f"SIP/2.0/{flow.transport} {bracketed(host)}:{port};rport;branch={COOKIE}{self.token()}"

    def contact(self, flow: Flow, *, secure: bool = False) -> str:
        """The Contact by which peers along `flow` reach us; `secure` makes it a sips URI (RFC 3261 section 8.1.1.8)."""
        host, port = self._address(flow)
        if secure:
            return f"<sips:{bracketed(host)}:{port}>"
        transport = "" if flow.transport == "UDP" else f";transport={flow.transport.lower()}"
        return f"<sip:{bracketed(host)}:{port}{transport}>"

    def reached_at(self, flow: Flow, address: tuple[str, int]) -> None:
        """From now on tell peers along `flow` that they reach us at `address`, unless `advertise` says otherwise."""
        self._reached_at.pop(flow, None)
        self._reached_at[flow] = address
        if len(self._reached_at) > _MOST_REACHED_AT:
            del self._reached_at[next(iter(self._reached_at))]

    def _address(self, flow: Flow) -> tuple[str, int]:
        advertised = self._advertise
        # A peer on this machine is on this side of the NAT.
        here = flow.local[0] == flow.remote[0]
        if advertised is None or here or (":" in advertised[0]) != (":" in flow.local[0]):
            return self._reached_at.get(flow, flow.local)
        # What `advertise` says the port of is where we listen by UDP and TCP.
        return (advertised[0], flow.local[1]) if flow.transport == "TLS" else advertised
