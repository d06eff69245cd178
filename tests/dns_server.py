"""A DNS server on the loopback, with a zone of the test's: the resolver's far end is a real wire."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

# By name and type: the records as in a zone file. A name of None has every other question wait for ever.
Zone = Mapping[tuple[str, str], Sequence[str]]


class DnsServer(asyncio.DatagramProtocol):
    """Answers from `zone`; names that are not in it do not exist. `mute` answers nothing; `asked` counts questions."""

    def __init__(self, zone: Zone, ttl_s: int) -> None:
        self.zone = zone
        self.ttl_s = ttl_s
        self.mute = False
        self.asked: Counter[tuple[str, str]] = Counter()
        self.port = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.port = transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, source: tuple[str, int]) -> None:
        query = dns.message.from_wire(data)
        question = query.question[0]
        name, kind = question.name.to_text().rstrip("."), dns.rdatatype.to_text(question.rdtype)
        self.asked[name, kind] += 1
        if self.mute:
            return
        response = dns.message.make_response(query)
        records = self.zone.get((name, kind))
        if records:
            response.answer.append(dns.rrset.from_text(question.name, self.ttl_s, "IN", kind, *records))
        elif not any(known == name for known, _ in self.zone):
            response.set_rcode(dns.rcode.NXDOMAIN)
        if not records:
            soa = ("example.", self.ttl_s, "IN", "SOA", f"ns.example. root.example. 1 1 1 1 {self.ttl_s}")
            response.authority.append(dns.rrset.from_text(*soa))
        self.transport.sendto(response.to_wire(), source)  # type: ignore[attr-defined]


@contextlib.asynccontextmanager
async def dns_server(zone: Zone, ttl_s: int = 60) -> AsyncIterator[DnsServer]:
    transport, server = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: DnsServer(zone, ttl_s), local_addr=("127.0.0.1", 0)
    )
    try:
        yield server
    finally:
        transport.close()
