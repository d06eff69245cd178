"""Calls that peers have us place by REFER (RFC 3515): "call this number and say this", and how that goes."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable
from dataclasses import dataclass

import structlog

import sip
from mediaserver.call import Call, Means
from mediaserver.inputs import Departed, Order, Referred, Stranded
from mediaserver.script import referred

__all__ = ["REFERRED_TYPES", "Referrals"]

log = structlog.get_logger("referrals")

# What may accompany a REFER; it is the proof of a Referred-By (RFC 3892), which nobody asks for here.
REFERRED_TYPES = ("message/sipfrag",)
# These are for us, and not for whom we call.
_OBEYED = frozenset({"x-speak", "x-speaker", "x-language", "x-speak-mode"})


@dataclass(slots=True, eq=False)
class _Errand:
    """One referral, the call that it came in, None if it came outside of any, and its outcome."""

    referral: sip.Referral
    call: Call | None
    status: int = 0


class Referrals:
    """The referrals that are being carried out.

    place  begins a call
    room   tells whether there is room for one with an address
    """

    def __init__(self, means: Means, *, place: Callable[[Order], Call], room: Callable[[str], bool]) -> None:
        self._means = means
        self._place = place
        self._room = room
        self._errands: list[_Errand] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    def take(self, requested: sip.Requested, call: Call | None) -> None:
        """A REFER came, within `call` if it is not outside of any."""
        signalling, now = self._means.signalling, self._means.signalling.now()
        if not self._trusts(requested.flow.remote[0]):
            # RFC 3515 section 2.4.2.
            signalling.respond(requested.request, 603)
            return
        if requested.call is not None and call is None:
            signalling.respond(requested.request, 481)
            return
        referral = sip.Referral.open(signalling.agent, requested, now)
        if referral is not None:
            if call is not None and not call.transferable:
                referral.decline(now, status=491)
            elif not self._room(requested.flow.remote[0]):
                referral.decline(now, status=503, headers=(("Retry-After", "5"),))
            else:
                self._accept(_Errand(referral, call), requested, now)
        signalling.flush()

    def deliver(self, event: sip.Event) -> bool:
        """Take an event of the SIP agent; True if it is of a referral alone."""
        if not self._errands:
            return False
        now = self._means.signalling.now()
        # All of them: the end of a call concerns more than one.
        taken = [errand.referral.receive(event, now) for errand in self._errands]
        self._settle()
        return any(taken)

    def close(self) -> None:
        """Carry out no more."""
        for task in self._tasks:
            task.cancel()
        if self._timer is not None:
            self._timer.cancel()

    def _trusts(self, host: str) -> bool:
        settings = self._means.config.sip
        address = ipaddress.ip_address(host.partition("%")[0])
        address = getattr(address, "ipv4_mapped", None) or address
        return settings.refer == "trusted" and any(address in network for network in settings.refer_networks)

    def _accept(self, errand: _Errand, requested: sip.Requested, now: float) -> None:
        errand.referral.accept(now)
        self._errands.append(errand)
        if errand.call is not None:
            errand.call.deliver(Referred())
        task = asyncio.create_task(self._carry_out(errand, requested), name=f"referral {requested.request}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._settle()

    async def _carry_out(self, errand: _Errand, requested: sip.Requested) -> None:
        order, message = errand.referral.order, requested.message
        source = requested.flow.remote[0]
        log.info("call ordered by REFER", callee=order.target.user, source=source, user=requested.user)
        try:
            flows = await self._means.signalling.flows(order.target)
        except sip.SipError as error:
            log.info("the target of a REFER is not reached", error=str(error))
            self._tell(errand, 404, "Target Not Reached")
            return
        if not self._room(flows[0].remote[0]):
            self._tell(errand, 503, "Service Unavailable")
            return
        script = referred(
            order,
            caller=message.to.uri.user,
            source=source,
            config=self._means.config,
            transferred=None if errand.call is None else errand.call.script,
        )
        ours = ((name, value) for name, value in order.headers if name.lower() not in _OBEYED)
        self._place(
            Order(
                target=order.target,
                flows=flows,
                # As whom the peer knows us.
                from_=sip.NameAddr(uri=message.to.uri, display_name=message.to.display_name),
                script=script,
                headers=(*order.fields(), *ours),
                tell=lambda status, reason: self._tell(errand, status, reason),
            )
        )

    def _tell(self, errand: _Errand, status: int, reason: str) -> None:
        """The INVITE of a referral has got a response."""
        now = self._means.signalling.now()
        if errand.status:
            return  # what becomes of the call once it has been answered is no business of the referrer
        if status < 200:
            errand.referral.progress(now, status, reason)
        else:
            errand.status = status
            self._means.metrics.transfers.labels(str(status)).inc()
            errand.referral.finish(now, status, reason)
        self._settle()

    def _settle(self) -> None:
        """Send what the referrals have to say, wake up when they want to, and end those that are over."""
        for errand in self._errands.copy():
            if errand.referral.next_event() is not None:
                self._errands.remove(errand)
                if errand.call is not None:
                    errand.call.deliver(Departed() if errand.status < 300 else Stranded())
        if self._timer is not None:
            self._timer.cancel()
        wakes = [at for errand in self._errands if (at := errand.referral.wake_at()) is not None]
        self._timer = asyncio.get_running_loop().call_at(min(wakes), self._tick) if wakes else None
        self._means.signalling.flush()

    def _tick(self) -> None:
        now = self._means.signalling.now()
        for errand in self._errands:
            errand.referral.handle_timer(now)
        self._settle()
