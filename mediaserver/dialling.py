"""Where the calls may lead that the HTTP API places: a trunk of the configuration, or an address that it allows.

Who may have us call anybody could spend our money, and aim us at others. So what decides is the address that a URI
leads to, and not the name in it.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

import sip
from mediaserver import config

__all__ = ["Destination", "Dialling", "DiallingError", "ForbiddenNumber", "UnknownTrunk", "UnusableNumber"]

USER = "mediaserver"


class DiallingError(Exception):
    """Base of what keeps a call from being placed; `field` is what is at fault: "to", "from" or "trunk".

    DiallingError
    ├── UnusableNumber   it is no number or URI that can be called, or it leads nowhere
    ├── ForbiddenNumber  the configuration does not allow it
    └── UnknownTrunk     there is none of that name
    """

    def __init__(self, message: str, *, field: str) -> None:
        super().__init__(message)
        self.field = field


class UnusableNumber(DiallingError):
    """It is no number or URI that can be called, or it leads nowhere."""


class ForbiddenNumber(DiallingError):
    """The configuration does not allow it."""


class UnknownTrunk(DiallingError):
    """There is none of that name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """Whom to call, along the first of `flows` that works, and who calls."""

    target: sip.Uri
    flows: tuple[sip.Flow, ...]
    from_: sip.NameAddr


class Dialling:
    """The rules of the configuration, and the way to the networks that they are about."""

    def __init__(self, settings: config.Config, signalling: sip.Transport) -> None:
        self._networks = settings.calls.networks
        self._advertise = settings.sip.advertise
        self._trunks = {trunk.name: trunk for trunk in settings.trunk}
        self._signalling = signalling

    async def reach(self, to: str, *, caller: str | None = None, trunk: str | None = None) -> Destination:
        """Where a call goes.

        to      a SIP URI, or a number if there is a `trunk`
        caller  a SIP URI, with or without a display name, or a number

        Raises DiallingError.
        """
        if trunk is None:
            target = _uri(to, "to")
            flows = self._allowed(target, await self._flows(target))
            host, user = self._advertise or flows[0].local[0], USER
        else:
            settings = self._trunks.get(trunk)
            if settings is None:
                raise UnknownTrunk(f"there is no trunk {trunk!r}", field="trunk")
            host, user = settings.registrar.host, settings.username or USER
            target = sip.Uri(user=_number(to, "to"), host=host, port=None if settings.domain else settings.uris[0].port)
            flows = await self._flows(*settings.uris)
        return Destination(target=target, flows=flows, from_=_caller(caller, user=user, host=host))

    def referred(self, to: str, *, trunk: str | None) -> sip.NameAddr:
        """Whom the peer of a call is to be transferred to: a SIP URI, or a number if the call is of a trunk.

        The peer calls there, and not we, so it may be anywhere. Raises DiallingError.
        """
        if trunk is None or ":" in to:
            return sip.NameAddr(uri=_uri(to, "to"))
        return sip.NameAddr(uri=sip.Uri(user=_number(to, "to"), host=self._trunks[trunk].registrar.host))

    async def _flows(self, *uris: sip.Uri) -> tuple[sip.Flow, ...]:
        """The ways to all of `uris` that there are."""
        found: dict[sip.Flow, None] = {}
        fault: sip.SipError | None = None
        for uri in uris:
            try:
                found |= dict.fromkeys(await self._signalling.flows(uri))
            except sip.SipError as error:
                fault = fault or error
        if not found:
            raise UnusableNumber(f"it leads nowhere: {fault}", field="to") from fault
        return tuple(found)

    def _allowed(self, target: sip.Uri, flows: tuple[sip.Flow, ...]) -> tuple[sip.Flow, ...]:
        allowed = tuple(flow for flow in flows if self._allows(flow.remote[0]))
        if not allowed:
            raise ForbiddenNumber(
                f"{target.host} is in none of the networks that this server may call (calls.networks)", field="to"
            )
        return allowed

    def _allows(self, host: str) -> bool:
        address = ipaddress.ip_address(host.partition("%")[0])
        address = getattr(address, "ipv4_mapped", None) or address
        if address.is_multicast or address.is_unspecified:
            return False
        return any(address in network for network in self._networks)


def _uri(text: str, field: str) -> sip.Uri:
    try:
        uri = sip.Uri.parse(text)
    except sip.RemoteProtocolError as error:
        raise UnusableNumber(f"it is no SIP URI: {error}", field=field) from error
    if uri.scheme not in ("sip", "sips"):
        raise UnusableNumber("it should be a SIP URI; a number takes a trunk to call it by", field=field)
    # RFC 3261 section 19.1.5: what a URI wants in the header is dangerous to honour, and has a field of its own here.
    if uri.headers or uri.password is not None or "method" in uri.parameters:
        raise UnusableNumber("it should have no headers, no password and no method", field=field)
    # maddr would lead elsewhere than the URI says (RFC 3261 section 19.1.1), and nobody needs it any more.
    if "maddr" in uri.parameters or not text.isprintable():
        raise UnusableNumber("it should have no maddr, and printable characters only", field=field)
    return uri


def _number(text: str, field: str) -> str:
    if not all(c.isascii() and (c.isalnum() or c in "+*#-_.") for c in text):
        raise UnusableNumber("it should be a number: digits, letters and + * # - _ .", field=field)
    return text


def _caller(text: str | None, *, user: str, host: str) -> sip.NameAddr:
    if text is None or ":" not in text:
        return sip.NameAddr(uri=sip.Uri(user=user if text is None else _number(text, "from"), host=host))
    try:
        given = sip.NameAddr.parse(text)
    except sip.RemoteProtocolError as error:
        raise UnusableNumber(f"it is no SIP URI: {error}", field="from") from error
    if not given.display_name.isprintable():
        raise UnusableNumber("the name should be printable", field="from")
    # A tag or whatever else belongs to the header field is ours to choose.
    return sip.NameAddr(uri=_uri(str(given.uri), "from"), display_name=given.display_name)
