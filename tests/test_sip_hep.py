"""Copies of SIP messages for a capture server: octet by octet, read by Wireshark, and out of a running server."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import closing, suppress
from pathlib import Path

import pytest

import sip
from tests import kamailio
from tests.live import heard, serving

MESSAGE = b"OPTIONS sip:a@127.0.0.1 SIP/2.0\r\nCall-ID: 1@x\r\nContent-Length: 0\r\n\r\n"
FLOW = sip.Flow("UDP", ("10.0.0.1", 5060), ("10.0.0.2", 5070))


def chunks(packet: bytes) -> dict[int, bytes]:
    assert packet[:4] == b"HEP3"
    (length,) = struct.unpack(">H", packet[4:6])
    assert length == len(packet)
    found, at = {}, 6
    while at < length:
        vendor, kind, size = struct.unpack(">HHH", packet[at : at + 6])
        assert vendor == 0
        found[kind] = packet[at + 6 : at + size]
        at += size
    assert at == length
    return found


def test_every_chunk_of_a_received_message() -> None:
    packet = sip.capture_packet(MESSAGE, FLOW, received=True, at_s=1_700_000_000.25, node=7)
    assert chunks(packet) == {
        1: b"\x02",
        2: b"\x11",
        3: bytes([10, 0, 0, 2]),
        4: bytes([10, 0, 0, 1]),
        7: (5070).to_bytes(2, "big"),
        8: (5060).to_bytes(2, "big"),
        9: (1_700_000_000).to_bytes(4, "big"),
        10: (250_000).to_bytes(4, "big"),
        11: b"\x01",
        12: b"\x00\x00\x00\x07",
        15: MESSAGE,
    }


def test_what_is_sent_goes_the_other_way_and_tls_is_tcp() -> None:
    flow = sip.Flow("TLS", ("::1", 5061), ("fe80::2%eth0", 1234))
    found = chunks(sip.capture_packet(MESSAGE, flow, received=False, at_s=0, node=1))
    assert (found[1], found[2]) == (b"\x0a", b"\x06")
    assert found[5] == bytes(15) + b"\x01"
    assert found[6] == bytes.fromhex("fe80") + bytes(13) + b"\x02"
    assert (found[7], found[8]) == ((5061).to_bytes(2, "big"), (1234).to_bytes(2, "big"))


@pytest.mark.parametrize("name", [b"Authorization", b"Proxy-Authorization", b"AUTHORIZATION "])
def test_what_a_digest_proves_is_blotted_out(name: bytes) -> None:
    line = name + b': Digest username="u", nonce="n", response="0123456789abcdef", uri="sip:x"\r\n'
    message = chunks(sip.capture_packet(b"X\r\n" + line + b"\r\nresponse=1", FLOW, received=True, at_s=0, node=1))[15]
    assert b"0123456789abcdef" not in message
    assert message == b"X\r\n" + line.replace(b"0123456789abcdef", b"*") + b"\r\nresponse=1"


def test_a_message_that_no_datagram_has_room_for_is_cut() -> None:
    assert len(sip.capture_packet(b"x" * 100_000, FLOW, received=True, at_s=0, node=1)) < 65_507


CAPTURING = """\
#!KAMAILIO
children=1
log_stderror=yes
debug=0
listen=udp:127.0.0.1:{port}
loadmodule "xlog.so"
loadmodule "pv.so"
loadmodule "db_text.so"
loadmodule "sipcapture.so"
modparam("xlog", "force_color", 0)
modparam("sipcapture", "db_url", "text://{folder}")
modparam("sipcapture", "capture_on", 1)
modparam("sipcapture", "hep_capture_on", 1)
request_route {{ xlog("L_ALERT", "saw $rm $ci from $si:$sp\\n"); drop; }}
"""


@pytest.mark.skipif(not kamailio.is_installed(), reason="kamailio is not installed")
async def test_kamailio_reads_it(tmp_path: Path) -> None:
    with closing(socket.socket(type=socket.SOCK_DGRAM)) as sock:
        sock.bind(("127.0.0.1", 0))
        address = sock.getsockname()
    (tmp_path / "version").write_text("table_name(string) table_version(int)\nsip_capture:4\n")
    (tmp_path / "k.cfg").write_text(CAPTURING.format(port=address[1], folder=tmp_path))
    message = MESSAGE.replace(
        b"Content-Length",
        b"Via: SIP/2.0/UDP 10.0.0.2:5070;branch=z9hG4bKx\r\nFrom: <sip:b@x>;tag=1\r\nTo: <sip:a@x>\r\n"
        b"CSeq: 1 OPTIONS\r\nContent-Length",
    )
    packet = sip.capture_packet(message, FLOW, received=True, at_s=1_700_000_000.25, node=7)
    process = await asyncio.create_subprocess_exec(
        *("kamailio", "-f", str(tmp_path / "k.cfg"), "-DD", "-E", "-Y", str(tmp_path), "-m", "32", "-M", "4"),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stderr is not None
    try:
        with closing(socket.socket(type=socket.SOCK_DGRAM)) as sock:
            async with asyncio.timeout(20):
                seen = b""
                while b"saw" not in seen:
                    sock.sendto(packet, address)  # until it listens
                    with suppress(TimeoutError):
                        seen = await asyncio.wait_for(process.stderr.readline(), 0.2)
    finally:
        process.terminate()
        await process.communicate()
    assert b"saw OPTIONS 1@x from 10.0.0.2:5070" in seen


async def test_a_running_server_tells_of_every_message_of_a_call() -> None:
    with closing(socket.socket(type=socket.SOCK_DGRAM)) as collector:
        collector.bind(("127.0.0.1", 0))
        collector.setblocking(False)
        host, port = collector.getsockname()
        async with serving(hep={"collector": f"{host}:{port}", "node": 3}) as running:
            outcome = await heard(running, text="Hi.")
            assert outcome.answered
        seen = []
        while True:
            try:
                async with asyncio.timeout(0.2):
                    packet = await asyncio.get_running_loop().sock_recv(collector, 65535)
            except TimeoutError:
                break
            seen.append(chunks(packet))
    lines = [found[15].split(b"\r\n")[0] for found in seen]
    for wanted in (b"INVITE ", b"SIP/2.0 100 ", b"SIP/2.0 200 OK", b"ACK ", b"BYE "):
        assert any(line.startswith(wanted) for line in lines), (wanted, lines)
    assert {found[12] for found in seen} == {b"\x00\x00\x00\x03"}
    invite = next(found for found in seen if found[15].startswith(b"INVITE"))
    assert int.from_bytes(invite[8], "big") == running.sip_address.port


async def test_nobody_waits_for_a_collector_that_is_not_there() -> None:
    with closing(socket.socket(type=socket.SOCK_DGRAM)) as gone:
        gone.bind(("127.0.0.1", 0))
        host, port = gone.getsockname()
    async with serving(hep={"collector": f"{host}:{port}"}) as running:
        assert (await heard(running, text="Hi.")).answered
        assert (await heard(running, text="Hi.", parameters=";transport=tcp")).answered
