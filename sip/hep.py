"""SIP messages for a capture server, such as Homer, in the Homer Encapsulation Protocol, version 3 (hep3_rev12)."""

from __future__ import annotations

import ipaddress
import re
import struct

from .transaction import Flow

__all__ = ["capture_packet"]

# Vendor and type of a chunk; the length that follows counts these six octets as well.
CHUNK = struct.Struct(">HHH")
GENERIC = 0
# Of IPv4 and IPv6 as Linux has them, and IANA's protocol numbers.
FAMILIES = {4: 2, 6: 10}
PROTOCOLS = {"UDP": 17, "TCP": 6, "TLS": 6}
SIP = 1
# What a digest proves could be guessed at from its response.
PROOF = re.compile(rb'(?im)^((?:proxy-)?authorization[ \t]*:.*?\bresponse[ \t]*=[ \t]*")[^"\r\n]*')
LARGEST_BYTES = 65_000


def capture_packet(message: bytes, flow: Flow, *, received: bool, at_s: float, node: int) -> bytes:
    """One datagram for the capture server.

    at_s  when, in seconds since 1970
    node  tells this server from others, 0 to 2^32 - 1

    The responses of digests are blotted out. A message that no datagram has room for is cut.
    """
    message = PROOF.sub(rb"\1*", message[:LARGEST_BYTES])
    source, destination = (flow.remote, flow.local) if received else (flow.local, flow.remote)
    source_ip, destination_ip = (ipaddress.ip_address(host.partition("%")[0]) for host, _ in (source, destination))
    first = 5 if source_ip.version == 6 else 3
    seconds, microseconds = divmod(round(at_s * 1e6), 1_000_000)
    chunks = {
        1: struct.pack(">B", FAMILIES[source_ip.version]),
        2: struct.pack(">B", PROTOCOLS[flow.transport]),
        first: source_ip.packed,
        first + 1: destination_ip.packed,
        7: struct.pack(">H", source[1]),
        8: struct.pack(">H", destination[1]),
        9: struct.pack(">I", seconds),
        10: struct.pack(">I", microseconds),
        11: struct.pack(">B", SIP),
        12: struct.pack(">I", node),
        15: message,
    }
    body = b"".join(CHUNK.pack(GENERIC, kind, CHUNK.size + len(value)) + value for kind, value in chunks.items())
    return b"HEP3" + struct.pack(">H", 6 + len(body)) + body
