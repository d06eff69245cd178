"""The trunks: registrations and probes that are kept going, and whose call it is that comes from an address."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import secrets
from collections.abc import Iterable
from random import Random
from types import TracebackType

import structlog
from prometheus_client.core import GaugeMetricFamily, Metric

import sip
from mediaserver import config

__all__ = ["Trunks"]

# Addresses change; whoever resolves for us remembers them for as long as the DNS allows.
RESOLVE_AGAIN_S = 300.0
RETRY_S = 15.0
# More than a registration takes to say good-bye to a registrar that is silent.
FAREWELL_S = 5.0

STANDING = {
    sip.RegistrationState.REGISTERING: "registering",
    sip.RegistrationState.REGISTERED: "registered",
    sip.RegistrationState.REFRESHING: "registered",
    sip.RegistrationState.WAITING: "failed",
    sip.RegistrationState.LEAVING: "unregistered",
    sip.RegistrationState.UNREGISTERING: "unregistered",
    sip.RegistrationState.UNREGISTERED: "unregistered",
}


class Trunks:
    """All trunks of the configuration. An async context manager, at whose end the registrations are removed."""

    def __init__(self, settings: config.Config, transport: sip.Transport, *, random: Random) -> None:
        self._trunks = tuple(_Trunk(trunk, settings.sip.realm, transport, random) for trunk in settings.trunk)
        self._users = _guard(
            settings.sip.realm, {user.name: user.password.get_secret_value() for user in settings.user}
        )
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Trunks:
        self._tasks += [asyncio.create_task(trunk.run(), name=f"trunk {trunk.settings.name}") for trunk in self._trunks]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=FAREWELL_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def leave(self) -> None:
        """Begin to remove the registrations, so that no more calls are sent here."""
        for trunk, task in zip(self._trunks, self._tasks, strict=True):
            if not trunk.leave():
                task.cancel()

    def deliver(self, event: sip.Event) -> bool:
        """Take an event of the SIP agent; False if it is of no trunk."""
        return isinstance(event, sip.Responded | sip.FlowFailed) and any(trunk.deliver(event) for trunk in self._trunks)

    def trunk_of(self, host: str) -> config.Trunk | None:
        """The trunk whose calls come from the address `host`; the first of several."""
        trunk = self._of(host)
        return None if trunk is None else trunk.settings

    def guard_of(self, request: sip.Request, flow: sip.Flow) -> sip.Guard | None:
        """Whom a request has to prove to be from: for `sip.Agent`."""
        trunk = self._of(flow.remote[0])
        return self._users if trunk is None else trunk.guard

    def login_for(self, request: sip.Request, flow: sip.Flow) -> sip.Login | None:
        """With what we prove who we are where a request of ours is challenged: for `sip.Agent`."""
        host = flow.remote[0]
        trunk = next((trunk for trunk in self._trunks if trunk.leads_to(host)), None) or self._of(host)
        return None if trunk is None else trunk.settings.login

    def families(self) -> list[Metric]:
        """How the trunks are, as metric families."""
        up = GaugeMetricFamily("sip_trunk_up", "1 if calls can be sent to the trunk", labels=["trunk"])
        registration = GaugeMetricFamily(
            "sip_registration_state", "1 for the state that the registration is in", labels=["trunk", "state"]
        )
        rtt = GaugeMetricFamily(
            "sip_trunk_probe_rtt_seconds", "Round trip of the latest OPTIONS", labels=["trunk", "target"]
        )
        for trunk in self._trunks:
            name = trunk.settings.name
            up.add_metric([name], int(trunk.up))
            if trunk.settings.register_:
                for state in dict.fromkeys(STANDING.values()):
                    registration.add_metric([name, state], int(state == trunk.standing))
            for target, seconds in trunk.rtt_s.items():
                rtt.add_metric([name, target], seconds)
        return [up, registration, rtt]

    def _of(self, host: str) -> _Trunk | None:
        address = ipaddress.ip_address(host.partition("%")[0])
        address = getattr(address, "ipv4_mapped", None) or address
        return next((trunk for trunk in self._trunks if trunk.owns(address)), None)


class _Trunk:
    """One trunk, kept going by its task.

    guard  whom its requests have to prove to be from; None: nobody
    rtt_s  the latest round trip to each target that responds
    """

    def __init__(self, settings: config.Trunk, realm: str, transport: sip.Transport, random: Random) -> None:
        self.settings = settings
        self.guard = _guard(
            realm,
            {settings.inbound_username: settings.inbound_password.get_secret_value()}
            if settings.inbound_username
            else {},
        )
        self.rtt_s: dict[str, float] = {}
        self._transport = transport
        self._random = random
        self._registration: sip.Registration | None = None
        self._probes: dict[str, sip.Probe] = {}
        # What names resolve to comes with `_resolve`.
        self._addresses = frozenset(uri.host for uri in settings.uris)
        self._lost: frozenset[str] = frozenset()
        self._stirred = asyncio.Event()
        self._leaving = False
        self._log = structlog.get_logger("trunk").bind(trunk=settings.name)

    @property
    def standing(self) -> str:
        return "registering" if self._registration is None else STANDING[self._registration.state]

    @property
    def up(self) -> bool:
        """A target responds; without probes, the registration stands; without that, nothing speaks against it."""
        if self.settings.probe_s:
            return any(probe.state is sip.ProbeState.UP for probe in self._probes.values())
        return not self.settings.register_ or self.standing == "registered"

    def owns(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
        """Whether what comes from `address` is of this trunk."""
        if self.settings.networks:
            return any(address in network for network in self.settings.networks)
        return self.leads_to(str(address))

    def leads_to(self, host: str) -> bool:
        """Whether `host` is the address of a target."""
        return host in self._addresses

    def deliver(self, event: sip.Responded | sip.FlowFailed) -> bool:
        now = self._transport.now()
        taken = self._registration is not None and self._registration.receive(event, now)
        if isinstance(event, sip.Responded):
            taken = taken or any(probe.receive(event, now) for probe in self._probes.values())
        self._stirred.set()
        return taken

    def leave(self) -> bool:
        """Remove the registration; `run` ends when that is done. False if there is none."""
        self._leaving = True
        self._probes.clear()
        if self._registration is None:
            return False
        self._registration.unregister(self._transport.now())
        self._transport.flush()
        self._stirred.set()
        return True

    async def run(self) -> None:
        try:
            await self._keep_going()
        except Exception:
            self._log.exception("trunk failed")

    async def _keep_going(self) -> None:
        resolve_at = self._transport.now()
        while not (self._leaving and self._gone):
            now = self._transport.now()
            if now >= resolve_at and not self._leaving:
                resolve_at = now + (RESOLVE_AGAIN_S if await self._resolve() else RETRY_S)
                continue
            self._turn(now)
            wakes = [core.wake_at() for core in self._cores()]
            wake_at = min([resolve_at, *(at for at in wakes if at is not None)])
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, wake_at - self._transport.now())):
                    await self._stirred.wait()
            self._stirred.clear()

    @property
    def _gone(self) -> bool:
        return self._registration is None or self._registration.state is sip.RegistrationState.UNREGISTERED

    def _cores(self) -> Iterable[sip.Registration | sip.Probe]:
        return (*(() if self._registration is None else (self._registration,)), *self._probes.values())

    def _turn(self, now: float) -> None:
        """Do what is due, and tell what has happened."""
        for core in self._cores():
            core.handle_timer(now)
        self._transport.flush()
        if self._registration is not None:
            while (event := self._registration.next_event()) is not None:
                self._tell(event)
        for target, probe in self._probes.items():
            while (found := probe.next_event()) is not None:
                if isinstance(found, sip.Reached):
                    self.rtt_s[target] = found.rtt_s
                else:
                    self.rtt_s.pop(target, None)
                if not found.again:
                    up = isinstance(found, sip.Reached)
                    (self._log.info if up else self._log.warning)("trunk is " + ("up" if up else "down"), target=target)

    def _tell(self, event: sip.Registered | sip.RegistrationFailed | sip.Unregistered) -> None:
        if isinstance(event, sip.Registered):
            self._log.info("registered", expires_s=event.expires_s, contact=str(event.contact))
        elif isinstance(event, sip.RegistrationFailed):
            self._log.warning(
                "not registered", status=event.status, reason=event.reason, retry_in_s=round(event.retry_in_s)
            )
        else:
            self._log.info("unregistered", confirmed=event.confirmed)

    async def _resolve(self) -> bool:
        """Find the targets, and have them registered at and probed. False if one leads nowhere."""
        found: dict[str, tuple[sip.Flow, ...]] = {}
        lost = []
        for target, uri in zip(self.settings.targets, self.settings.uris, strict=True):
            try:
                found[target] = await self._transport.flows(uri)
            except sip.SipError as error:
                lost.append(target)
                if target not in self._lost:
                    self._log.warning("target leads nowhere", target=target, reason=str(error))
        self._lost = frozenset(lost)
        if self._leaving or not found:
            return False
        flows = tuple(dict.fromkeys(flow for flows in found.values() for flow in flows))
        self._addresses = frozenset(flow.remote[0] for flow in flows)
        self._register(flows)
        if self.settings.probe_s:
            for target, ways in found.items():
                self._probe(target, ways[0])
        return not lost

    def _register(self, flows: tuple[sip.Flow, ...]) -> None:
        if self._registration is not None:
            self._registration.flows = flows
        elif self.settings.register_:
            registrar = self.settings.registrar
            account = sip.Account(
                registrar=registrar,
                address=sip.NameAddr(uri=sip.Uri(user=self.settings.username, host=registrar.host)),
                login=self.settings.login,
                expires_s=self.settings.expires_s,
            )
            self._registration = sip.Registration(
                self._transport.agent, account, flows, random=self._random, now=self._transport.now()
            )

    def _probe(self, target: str, flow: sip.Flow) -> None:
        if target in self._probes:
            self._probes[target].flow = flow
            return
        user = self.settings.username or "mediaserver"
        self._probes[target] = sip.Probe(
            self._transport.agent,
            sip.Uri.parse(f"sip:{target}"),
            flow,
            from_=sip.NameAddr(uri=sip.Uri(user=user, host=self.settings.registrar.host)),
            random=self._random,
            now=self._transport.now(),
            login=self.settings.login,
            interval_s=self.settings.probe_s,
        )


def _guard(realm: str, passwords: dict[str, str]) -> sip.Guard | None:
    if not passwords:
        return None
    return sip.Guard(realm=sip.Realm(realm, secret=secrets.token_bytes(32)), password_of=passwords.get)
