"""The WebRTC gateway: `python -m mediaserver.gateway FD`, started by webrtc.py. ICE, DTLS and SRTP end here.

A browser's audio comes by SRTP and goes on as RTP to the server's port for the call, on this machine, and the other way
round; translator.py says how. The server's side of it is a telephone like any other (browsers.py), so what becomes of
the call is not decided here.

It is a process of its own, because PyAV's wheel, which aiortc and Opus need, carries GPL parts that the server must not
load; because what talks to the open network is a good deal of C and Python that should take nobody along; and because
the event loop of the server has other things to do than to encrypt.

Of aiortc the objects of ORTC are used (certificate and DTLS transport), not RTCPeerConnection: that would decode what
comes, keep it for 80 ms, and know no digits.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import random
import resource
import signal
import socket
import sys
from typing import Any, cast

import aioice
import aioice.ice
from aioice.candidate import candidate_foundation, candidate_priority
from aiortc import RTCCertificate, RTCDtlsFingerprint, RTCDtlsParameters, RTCDtlsTransport, RTCIceTransport

from mediaserver import gateway_wire as wire
from mediaserver.opus import Opus
from mediaserver.translator import Translator
from rtp import packet

__all__ = ["main"]

# RFC 7675 section 5.1: consent expires 30 s after the last answer. aioice asks every 5 s, and would wait for 30 s more.
CONSENT_FAILURES = 4
GATHER_S = 2.0
# Below 32*T1, for which the ACK may wait (see sip.Answered).
HANDSHAKE_S = 15.0
# More are on the way only when the path is stuck, and are late then.
MOST_WAITING = 50


class _Ice(aioice.Connection):
    """aioice's connection, at the addresses and ports that are wanted."""

    def __init__(self, order: wire.Open) -> None:
        super().__init__(ice_controlling=False, stun_server=order.stun_server)
        self._order = order

    async def get_component_candidates(
        self,
        component: int,
        addresses: list[str],
        timeout: int = 5,  # noqa: ASYNC109  It is theirs.
    ) -> list[aioice.Candidate]:
        order, candidates, asked = self._order, [], []
        for address in order.addresses or addresses or ["127.0.0.1"]:
            try:
                protocol = await self._bind(address)
            except OSError:
                continue
            host, port = protocol.transport.get_extra_info("sockname")[:2]
            protocol.local_candidate = _candidate(component, "host", host, port)
            candidates.append(protocol.local_candidate)
            self._protocols.append(protocol)
            if order.advertise and ipaddress.ip_address(host).version == ipaddress.ip_address(order.advertise).version:
                candidates.append(_candidate(component, "srflx", order.advertise, port, base=(host, port)))
            elif order.stun_server is not None and ":" not in host:
                asked.append(asyncio.create_task(self._reflexive(protocol, order.stun_server)))
        if asked:
            done, late = await asyncio.wait(asked, timeout=GATHER_S)
            for task in late:
                task.cancel()
            candidates += [found for task in done if (found := task.result()) is not None]
        return candidates

    async def _bind(self, address: str) -> aioice.ice.StunProtocol:
        loop = asyncio.get_running_loop()
        ports = [0]
        if self._order.ports is not None:
            first, last = self._order.ports
            ports = list(range(first, last + 1))
            random.shuffle(ports)
        fault = OSError("no port is free")
        for port in ports:
            try:
                _, protocol = await loop.create_datagram_endpoint(
                    lambda: aioice.ice.StunProtocol(self), local_addr=(address, port)
                )
            except OSError as error:
                fault = error
            else:
                return protocol
        raise fault

    @staticmethod
    async def _reflexive(protocol: aioice.ice.StunProtocol, server: tuple[str, int]) -> aioice.Candidate | None:
        try:
            found, _ = await aioice.ice.server_reflexive_candidate(protocol, server)
        except (OSError, aioice.stun.TransactionError, KeyError):
            return None
        return found


def _candidate(
    component: int, kind: str, host: str, port: int, *, base: tuple[str, int] | None = None
) -> aioice.Candidate:
    return aioice.Candidate(
        foundation=candidate_foundation(kind, "udp", host),
        component=component,
        transport="udp",
        priority=candidate_priority(component, kind),
        host=host,
        port=port,
        type=kind,
        related_address=None if base is None else base[0],
        related_port=None if base is None else base[1],
    )


class _Path:
    """What a DTLS transport needs of an ICE transport."""

    def __init__(self, ice: aioice.Connection) -> None:
        self.role = "controlled"
        self._recv = ice.recv
        self._send = ice.send


class _Dtls(RTCDtlsTransport):
    """aiortc's DTLS and SRTP, whose packets go to `leg` as they are."""

    def __init__(self, leg: _Leg, ice: aioice.Connection, certificate: RTCCertificate) -> None:
        super().__init__(cast(RTCIceTransport, _Path(ice)), [certificate])
        self._leg = leg

    async def _handle_rtp_data(self, data: bytes, arrival_time_ms: int) -> None:
        self._leg.to_server(self._leg.translator.from_browser(data))

    async def _handle_rtcp_data(self, data: bytes) -> None:
        self._leg.to_server(self._leg.translator.reports_from_browser(data))


class _Port(asyncio.DatagramProtocol):
    """The end of a call's RTP and RTCP towards the server."""

    def __init__(self, leg: _Leg) -> None:
        self._leg = leg

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        self._leg.from_server(data, addr[:2])

    def error_received(self, exc: Exception) -> None:
        """The server's port is gone: the call has ended, and the server will say so."""


class _Leg:
    """One browser, from its offer to its end."""

    def __init__(self, order: wire.Open, gateway: _Gateway) -> None:
        self.translator: Translator
        self._order = order
        self._gateway = gateway
        self._ice = _Ice(order)
        self._dtls = _Dtls(self, self._ice, gateway.certificate)
        self._connect: asyncio.Future[wire.Connect] = asyncio.get_running_loop().create_future()
        self._waiting: asyncio.Queue[bytes] = asyncio.Queue(MOST_WAITING)
        self._server: tuple[str, int] | None = None
        self._port: asyncio.DatagramTransport

    async def run(self) -> str:
        """Live until it ends; gives why."""
        loop = asyncio.get_running_loop()
        self._port, _ = await loop.create_datagram_endpoint(lambda: _Port(self), local_addr=(self._order.host, 0))
        try:
            await self._ice.gather_candidates()
            # RFC 8839 section 4.2.1.2: the best one is the default.
            candidates = sorted(self._ice.local_candidates, key=lambda candidate: -candidate.priority)
            if not candidates:
                self._gateway.tell(wire.Failed(id=self._order.id, reason="no address, or no port, to be reached at"))
                return "no candidates"
            digest = next(one for one in self._gateway.certificate.getFingerprints() if one.algorithm == "sha-256")
            self._gateway.tell(
                wire.Opened(
                    id=self._order.id,
                    ufrag=self._ice.local_username,
                    password=self._ice.local_password,
                    fingerprint=digest.value,
                    candidates=tuple(candidate.to_sdp() for candidate in candidates),
                    port=self._port.get_extra_info("sockname")[1],
                )
            )
            return await self._carry(await self._connect)
        finally:
            self._port.close()
            await self._dtls.stop()
            await self._ice.close()

    def connect(self, order: wire.Connect) -> None:
        self.translator = Translator(
            payload_type=order.payload_type,
            telephone_event=order.telephone_event,
            server_event=order.server_event,
            transcoder=Opus() if order.codec == "opus" else None,
        )
        self._connect.set_result(order)

    def to_server(self, data: bytes | None) -> None:
        if data is not None and self._server is not None:
            self._port.sendto(data, self._server)

    def from_server(self, data: bytes, source: tuple[str | Any, int]) -> None:
        if source != self._server:
            return
        translator = self.translator
        out = translator.reports_to_browser(data) if packet.is_rtcp(data) else translator.to_browser(data)
        if out is not None:
            with contextlib.suppress(asyncio.QueueFull):
                self._waiting.put_nowait(out)

    async def _carry(self, order: wire.Connect) -> str:
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                await self._reach(order)
                if self._dtls.state != "connected":
                    return "the DTLS handshake failed"
        except TimeoutError:
            return f"no connection within {HANDSHAKE_S:g} s"
        except ConnectionError:
            return "ICE found no way"
        ended = asyncio.Event()
        self._dtls.on("statechange", ended.set)
        self._server = (order.host, order.port)
        self._gateway.tell(wire.Connected(id=self._order.id))
        with contextlib.suppress(ConnectionError):
            sending = asyncio.create_task(self._send())
            try:
                if self._dtls.state == "connected":
                    await ended.wait()
            finally:
                sending.cancel()
        return "the browser has left"

    async def _reach(self, order: wire.Connect) -> None:
        """ICE (RFC 8445), then DTLS (RFC 5764). Raises ConnectionError when ICE fails."""
        self._ice.remote_username, self._ice.remote_password = order.ufrag, order.password
        for candidate in order.candidates:
            with contextlib.suppress(ValueError):
                await self._ice.add_remote_candidate(aioice.Candidate.from_sdp(candidate))
        # The end of candidates is not told: whoever hides its addresses is found by its checks, and until then aioice
        # is to wait.
        await self._ice.connect()
        self._dtls._set_role("client" if order.active else "server")
        digests = [RTCDtlsFingerprint(algorithm=algorithm, value=value) for algorithm, value in order.fingerprints]
        await self._dtls.start(RTCDtlsParameters(fingerprints=digests))

    async def _send(self) -> None:
        while True:
            data = await self._waiting.get()
            await self._dtls._send_rtp(data)


class _Gateway:
    """All browsers, and the socket to the server."""

    def __init__(self, server: socket.socket) -> None:
        self.certificate = RTCCertificate.generateCertificate()
        self._server = server
        self._legs: dict[str, tuple[_Leg, asyncio.Task[None]]] = {}

    def tell(self, message: wire.Message) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # The server is gone: `run` ends.
            self._server.send(wire.encode(message))

    async def run(self) -> None:
        """Serve until the server is gone."""
        loop = asyncio.get_running_loop()
        self.tell(wire.Ready())
        self._server.setblocking(False)
        while data := await loop.sock_recv(self._server, wire.PACKET_SIZE):
            self._take(wire.decode(data))
        tasks = [task for _, task in self._legs.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _take(self, message: wire.Message) -> None:
        if isinstance(message, wire.Open):
            leg = _Leg(message, self)
            self._legs[message.id] = leg, asyncio.create_task(self._live(message.id, leg))
            return
        assert isinstance(message, wire.Connect | wire.Direct | wire.Close), "the others are ours"
        if message.id not in self._legs:
            return
        leg, task = self._legs[message.id]
        match message:
            case wire.Connect():
                leg.connect(message)
            case wire.Direct(hears=hears):
                leg.translator.hears = hears
            case wire.Close():
                task.cancel()

    async def _live(self, id: str, leg: _Leg) -> None:
        why = "the gateway failed"
        try:
            why = await leg.run()
        except asyncio.CancelledError:
            why = "it was closed"
        except Exception:  # The boundary of a task: the others go on.
            logging.getLogger("gateway").exception("a browser is lost")
        finally:
            del self._legs[id]
            self.tell(wire.Closed(id=id, why=why))


def main(descriptor: int) -> None:
    """Serve whoever holds the other end of the socket, until that is closed."""
    # Ctrl-C and a service manager's SIGTERM go to all of us, but the server may still have calls to end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    aioice.ice.CONSENT_FAILURES = CONSENT_FAILURES
    with socket.socket(fileno=descriptor) as server:
        asyncio.run(_Gateway(server).run())


if __name__ == "__main__":
    os.environ.pop("SSLKEYLOGFILE", None)
    main(int(sys.argv[1]))
