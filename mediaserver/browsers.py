"""Browsers as telephones: behind each offer there is a call to this server, by SIP and RTP on this machine.

So the call is one like all others, with its route, verbs, events, digits and record, and none of those knows of WebRTC.
What is particular: the INVITE has no offer, so the server makes it, and our answer goes in the ACK (RFC 3261 section
13.2.1), which waits until the browser is connected. The server speaks from the ACK on, so nothing is said into the
void; and our agent gives the call up when the ACK has waited for 16 s.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import random
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

import http_api
import sip
from mediaserver import config, jsep
from mediaserver import gateway_wire as wire
from mediaserver.switchboard import Switchboard
from mediaserver.webrtc import Gateway, GatewayError
from sip import sdp

__all__ = ["Browsers", "telephone"]

log = structlog.get_logger("webrtc")

# For a route to be found and prepared, which may fetch something.
RING_S = 30.0
RETRY_AFTER_S = 5.0
# Who calls where nobody is known by a token.
NOBODY = "browser"
# A server whose calls come too fast, or that cannot now; everything else is the fault of the request.
BUSY = frozenset({408, 486, 500, 503})


def _here(settings: config.Sip) -> str:
    """The address at which this machine reaches the server, by SIP and by RTP."""
    host = settings.listen[0].host
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


@asynccontextmanager
async def telephone(settings: config.Sip, deliver: Callable[[sip.Event], None]) -> AsyncIterator[sip.Transport]:
    """The SIP socket of all browsers: it calls the server, and is called by nobody."""
    agent = sip.Agent(random=random.SystemRandom(), product="mediaserver-webrtc")
    agent.admit = lambda request, flow, now: sip.Admission(status=None)
    async with sip.Transport.open(agent, [(_here(settings), 0)], deliver=deliver) as transport:
        transport.welcome = lambda host: False
        yield transport


class Browsers:
    """All browsers, from their offers to their ends.

    phone    see `telephone`
    server   where the server listens for SIP on this machine
    """

    def __init__(
        self,
        settings: config.Config,
        *,
        gateway: Gateway,
        phone: sip.Transport,
        server: tuple[str, int],
        switchboard: Switchboard,
    ) -> None:
        self._settings = settings.webrtc
        self._advertise = settings.webrtc.advertise or settings.rtp.advertise or settings.sip.advertise
        self._gateway = gateway
        self._phone = phone
        self._flow = phone.flow_to(_here(settings.sip), server[1])
        self._switchboard = switchboard
        self._opening = 0
        self._browsers: dict[str, _Browser] = {}
        self._ended: Counter[str] = Counter()

    def deliver(self, event: sip.Event) -> None:
        """Take an event of the phone's."""
        if not isinstance(event, sip.FlowFailed) and (browser := self._browsers.get(event.call or "")) is not None:
            browser.step(event)

    async def take_offer(self, order: http_api.WebRtcOrder) -> http_api.WebRtcFacts:
        try:
            offer = jsep.read(order.sdp, codecs=self._settings.codecs)
        except jsep.OfferError as error:
            raise http_api.Refused(str(error), field="sdp") from error
        if not self._settings.max_calls:
            raise http_api.Forbidden("This server takes no browsers: see webrtc.max_calls", field="sdp")
        if self._opening + len(self._browsers) >= self._settings.max_calls:
            raise http_api.Busy("There is no room for another browser now", retry_after_s=RETRY_AFTER_S)
        if wait_s := self._switchboard.wait_s(self._flow.remote[0]):
            raise http_api.Busy("There is no room for another call now", retry_after_s=wait_s)
        self._opening += 1
        try:
            browser = await self._open(offer)
        finally:
            self._opening -= 1
        return await self._call(browser, offer, order)

    async def _open(self, offer: jsep.BrowserOffer) -> _Browser:
        browser = _Browser(offer, self._phone, self._gateway, ended=self._end)
        settings = self._settings
        try:
            browser.side = await self._gateway.take(
                wire.Open(
                    id=browser.id,
                    host=self._flow.local[0],
                    addresses=tuple(str(address) for address in settings.addresses),
                    ports=None if settings.ports is None else (settings.ports.start, settings.ports.stop - 1),
                    advertise=self._advertise,
                    stun_server=settings.stun,
                ),
                browser.step,
            )
        except GatewayError as error:
            log.error("a browser cannot be taken", reason=str(error))
            raise http_api.Busy(f"No browser can be taken now: {error}", retry_after_s=RETRY_AFTER_S) from error
        return browser

    async def _call(
        self, browser: _Browser, offer: jsep.BrowserOffer, order: http_api.WebRtcOrder
    ) -> http_api.WebRtcFacts:
        host, port = self._flow.remote
        key = self._phone.invite(
            sip.Uri(user=order.to, host=host, port=port),
            self._flow,
            from_=sip.NameAddr(uri=sip.Uri(user=order.caller or NOBODY, host=host)),
            ring_timeout_s=RING_S,
        )
        browser.key = key
        self._browsers[key] = browser
        try:
            response = await browser.answered
        except asyncio.CancelledError:
            browser.step(_Left())
            raise
        except _Declined as error:
            raise _problem(error) from error
        call = self._switchboard.find(response.call_id)
        if call is None:
            # It has ended meanwhile.
            raise http_api.Busy("The call has ended", retry_after_s=RETRY_AFTER_S)
        browser.log = browser.log.bind(id=call.detail.id)
        assert browser.side is not None, "it was opened"
        side = jsep.Side(
            ufrag=browser.side.ufrag,
            password=browser.side.password,
            fingerprint=browser.side.fingerprint,
            candidates=browser.side.candidates,
        )
        return http_api.WebRtcFacts(
            call_id=call.detail.id, sdp=jsep.answer(offer, side, session_id=secrets.randbits(62))
        )

    def close(self) -> None:
        """Have nobody wait for browsers that are not connected yet: the server stops."""
        for browser in list(self._browsers.values()):
            browser.step(_Left())

    def _end(self, browser: _Browser, why: str) -> None:
        self._browsers.pop(browser.key, None)
        self._ended[why] += 1

    def families(self) -> list[Metric]:
        """How many browsers there are, and how their calls ended, as metric families."""
        active = GaugeMetricFamily("webrtc_browsers", "Browsers that call, or are connected")
        active.add_metric([], len(self._browsers))
        ended = CounterMetricFamily("webrtc_browsers_ended", "Browsers that have left, by how", labels=["how"])
        for how, count in self._ended.items():
            ended.add_metric([how], count)
        starts = CounterMetricFamily("webrtc_gateway_starts", "How often the gateway's process was started")
        starts.add_metric([], self._gateway.starts)
        return [active, ended, starts]


class _Declined(Exception):
    """The server does not take the call; `status` is that of its response, None if there was none."""

    def __init__(self, status: int | None, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def _problem(declined: _Declined) -> http_api.ControlError:
    reason = str(declined) or "The call was not taken"
    if declined.status is None or declined.status in BUSY:
        return http_api.Busy(reason, retry_after_s=RETRY_AFTER_S)
    if declined.status == 404:
        return http_api.NotFound(reason, field="to")
    return http_api.Refused(f"the call was refused: {declined.status} {reason}", field="to")


class _Left:
    """Whoever made the offer does not wait for the answer any more."""


class _State(enum.Enum):
    CALLING = "calling"  # the server has the INVITE
    CONNECTING = "connecting"  # the browser has our answer, and the server waits for its ACK
    TALKING = "talking"
    ENDED = "ended"


class _Browser:
    """One browser's call, from its INVITE to its end: a table.

    id        that the gateway knows it by
    key       that the phone's agent knows its call by, once there is one
    side      what the gateway has opened for it, once it has
    answered  the server's 200; _Declined if it has none
    ended     gets it and how it ended
    """

    def __init__(
        self,
        offer: jsep.BrowserOffer,
        phone: sip.Transport,
        gateway: Gateway,
        *,
        ended: Callable[[_Browser, str], None],
    ) -> None:
        self.id = secrets.token_hex(8)
        self.key = ""
        self.side: wire.Opened | None = None
        self.answered: asyncio.Future[sip.Response] = asyncio.get_running_loop().create_future()
        self.log = log.bind(browser=self.id)
        self._state = _State.CALLING
        self._offer = offer
        self._phone = phone
        self._gateway = gateway
        self._tell_ended = ended
        self._description: sdp.SessionDescription | None = None
        self._offered = b""

    def step(self, event: object) -> None:
        row = TABLE.get((self._state, type(event)))
        if row is not None:
            self._state, act = row
            # If the call has gone on meanwhile, the event that says so is behind this one.
            with contextlib.suppress(sip.LocalProtocolError):
                act(self, event)

    def _capabilities(self) -> sdp.Capabilities:
        assert self.side is not None, "it was opened"
        return sdp.Capabilities(
            host=self._phone.addresses[0][0],
            port=self.side.port,
            session_id=1,
            codecs=("PCMU",),
            ptimes_ms=(jsep.PTIME_MS,),
            telephone_event=self._offer.telephone_event is not None,
            direction=sdp.Direction.of(sends=self._offer.direction.receives, receives=self._offer.direction.sends),
        )

    def _take_up(self, event: sip.Answered) -> None:
        """The server has answered: the browser may connect."""
        offer = self._offer
        try:
            audio = self._read(event.response.body)
        except sip.RemoteProtocolError as error:
            self._decline(488, str(error))
            self._leave("incompatible")
            return
        self._gateway.tell(
            wire.Connect(
                id=self.id,
                codec=offer.codec,
                payload_type=offer.payload_type,
                telephone_event=offer.telephone_event,
                ufrag=offer.ufrag,
                password=offer.password,
                fingerprints=offer.fingerprints,
                active=offer.active,
                candidates=offer.candidates,
                host=audio.remote_host,
                port=audio.remote_port,
                server_event=audio.telephone_event,
            )
        )
        if not self.answered.done():
            self.answered.set_result(event.response)

    def _read(self, offered: bytes) -> sdp.Audio:
        """Answer an offer of the server's, in `_description`. Raises sip.RemoteProtocolError."""
        described = sdp.SessionDescription.parse(offered)
        self._description, audio = sdp.answer(described, self._capabilities(), self._description)
        self._offered = offered
        return audio

    def _begin(self, event: wire.Connected) -> None:
        assert self._description is not None, "the server has made an offer"
        self.log.info("browser connected", codec=self._offer.codec)
        self._phone.acknowledge(self.key, body=self._description.serialise())

    def _renegotiate(self, event: sip.Reoffered) -> None:
        if not event.request.body:
            assert self._description is not None, "the server has made an offer"
            self._phone.answer(self.key, body=self._description.serialise())
            return
        try:
            audio = self._read(event.request.body)
        except sip.RemoteProtocolError as error:
            self._phone.reject(self.key, status=error.status, reason=error.reason, headers=error.headers)
            return
        self._gateway.tell(wire.Direct(id=self.id, hears=audio.sends))
        assert self._description is not None, "it was made just now"
        self._phone.answer(self.key, body=self._description.serialise())

    def _refused(self, event: sip.Ended) -> None:
        self._decline(event.status, event.reason)
        self._over("refused")

    def _cancel(self, event: _Left) -> None:
        self._over("cancelled")
        self._phone.cancel(self.key)

    def _withdraw(self, event: _Left) -> None:
        """The server has answered, and whoever asked does not know."""
        self._leave("cancelled")

    def _abandon(self, event: wire.Closed) -> None:
        """The gateway has lost the browser before the server has answered."""
        self._decline(None, event.why)
        self._over("failed")
        self._phone.cancel(self.key)

    def _fail(self, event: wire.Closed) -> None:
        """The browser has not connected."""
        self.log.info("browser not connected", why=event.why)
        self._leave("failed", event.why)

    def _hang_up(self, event: wire.Closed) -> None:
        self.log.info("browser gone", why=event.why)
        self._over("left")
        self._phone.bye(self.key, headers=_reason(event.why))

    def _finish(self, event: sip.Ended) -> None:
        self._decline(event.status, event.reason)
        self._over("ended")

    def _leave(self, how: str, why: str = "") -> None:
        """End a call whose ACK is still owing, and which is to hear nothing before its end."""
        self._over(how)
        if self._offered:
            inactive = replace(self._capabilities(), direction=sdp.Direction.INACTIVE)
            silent, _ = sdp.answer(sdp.SessionDescription.parse(self._offered), inactive)
            self._phone.acknowledge(self.key, body=silent.serialise())
        self._phone.bye(self.key, headers=_reason(why))

    def _decline(self, status: int | None, reason: str) -> None:
        if not self.answered.done():
            self.answered.set_exception(_Declined(status, reason))

    def _over(self, how: str) -> None:
        self._state = _State.ENDED
        self._gateway.tell(wire.Close(id=self.id))
        self._tell_ended(self, how)


def _reason(why: str) -> tuple[tuple[str, str], ...]:
    """RFC 3326, without a cause: SIP has no number for what happens to browsers."""
    return (("Reason", f'SIP;text="{why}"'),) if why else ()


TABLE: Mapping[tuple[_State, type], tuple[_State, Callable[[_Browser, Any], None]]] = {
    (_State.CALLING, sip.Answered): (_State.CONNECTING, _Browser._take_up),
    (_State.CALLING, sip.Ended): (_State.ENDED, _Browser._refused),
    (_State.CALLING, wire.Closed): (_State.ENDED, _Browser._abandon),
    (_State.CALLING, _Left): (_State.ENDED, _Browser._cancel),
    (_State.CONNECTING, wire.Connected): (_State.TALKING, _Browser._begin),
    (_State.CONNECTING, wire.Closed): (_State.ENDED, _Browser._fail),
    (_State.CONNECTING, sip.Ended): (_State.ENDED, _Browser._finish),
    (_State.CONNECTING, _Left): (_State.ENDED, _Browser._withdraw),
    (_State.TALKING, sip.Reoffered): (_State.TALKING, _Browser._renegotiate),
    (_State.TALKING, wire.Closed): (_State.ENDED, _Browser._hang_up),
    (_State.TALKING, sip.Ended): (_State.ENDED, _Browser._finish),
}
