"""One connection of a stream transport, without a socket: one rule, one test, in virtual time."""

from __future__ import annotations

import pytest

from sip.connection import Closing, Connection, StreamLimits, next_hop, return_flow
from sip.message import Request, Response
from sip.parser import Limits, MalformedMessage, parse_datagram
from sip.transaction import Flow, Schedule

LIMITS = StreamLimits(message_s=16.0, idle_s=300.0, ping_s=100.0, pong_s=10.0)
PING, PONG = b"\r\n\r\n", b"\r\n"


def message(call_id: str = "c1", *, body: bytes = b"", length: int | None = None, route: str = "") -> bytes:
    head = (
        "OPTIONS sip:us@192.0.2.1:5070;transport=tcp SIP/2.0\r\n"
        "Via: SIP/2.0/TCP 192.0.2.2:5071;branch=z9hG4bK1\r\n"
        f"{f'Route: {route}' if route else 'X: y'}\r\n"
        f"From: <sip:a@b>;tag=f\r\nTo: <sip:us>\r\nCall-ID: {call_id}\r\nCSeq: 1 OPTIONS\r\n"
        f"Content-Length: {len(body) if length is None else length}\r\n\r\n"
    )
    return head.encode() + body


class Line:
    """A connection whose peer is the test."""

    def __init__(self, *, ours: bool = False, limits: Limits | None = None) -> None:
        self.schedule = Schedule()
        self.now = 0.0
        self.connection = Connection(
            ours=ours, schedule=self.schedule, now=0.0, limits=LIMITS, message_limits=limits or Limits()
        )

    def say(self, data: bytes) -> list[str]:
        """The peer says `data`; the Call-IDs of the messages that this completes, or what is wrong with them."""
        self.connection.receive(data, self.now)
        found = iter(self.connection.next_message, None)
        return [str(item.status) if isinstance(item, MalformedMessage) else item.call_id for item in found]

    def wait(self, seconds: float, *, needed: bool = False) -> list[tuple[float, bytes]]:
        """Time passes; what is sent meanwhile, and when."""
        sent = []
        end = self.now + seconds
        while (at := self.schedule.wake_at()) is not None and at <= end:
            self.now = at
            for owner in self.schedule.due(at):
                assert owner is self.connection
                self.connection.handle_timer(at, needed=needed)
            if data := self.connection.data_to_send():
                sent.append((at, data))
        self.now = end
        return sent

    @property
    def closing(self) -> Closing | None:
        return self.connection.closing


@pytest.mark.conformance("RFC 3261", "18.3", "on a stream the Content-Length says where a message ends")
def test_messages_come_out_whole_however_they_come_in() -> None:
    line = Line()
    data = message("c1", body=b"hello") + message("c2")
    assert line.say(data) == ["c1", "c2"]
    found = [line.say(data[at : at + 1]) for at in range(len(data))]
    assert [ids for ids in found if ids] == [["c1"], ["c2"]]
    assert line.closing is None


@pytest.mark.conformance("RFC 5626", "3.5.1", "two CRLF are a ping, and one is its answer")
def test_a_ping_is_answered_and_an_empty_line_is_not() -> None:
    """RFC 5626 section 3.5.1."""
    line = Line()
    assert line.say(PONG + message() + PING) == ["c1"]
    assert line.connection.data_to_send() == PONG
    assert line.connection.data_to_send() == b""
    line.say(PING + PING)
    assert line.connection.data_to_send() == PONG + PONG


def test_a_malformed_message_whose_end_is_known_ends_nothing() -> None:
    line = Line()
    assert line.say(message().replace(b"z9hG4bK1", b'"') + message("c2")) == ["400", "c2"]
    assert line.closing is None


@pytest.mark.conformance("RFC 3261", "18.3", "a message without Content-Length over a stream is answered 400")
@pytest.mark.parametrize(
    ("data", "status"),
    [
        (message().replace(b"Content-Length: 0\r\n", b""), "400"),
        (message(length=100_000), "513"),
        (b"GET / HTTP/1.1\r\nHost: us\r\n\r\n", "400"),
        (b"x" * 70_000, "513"),
    ],
)
def test_what_leaves_the_next_boundary_unknown_ends_the_connection(data: bytes, status: str) -> None:
    line = Line()
    assert line.say(data + message("c2")) == [status]
    assert line.closing is Closing.MALFORMED
    assert line.say(message("c3")) == []
    assert line.schedule.wake_at() is None


def test_a_message_has_its_time_from_its_first_byte_on() -> None:
    """One byte now and then does not keep a connection."""
    line = Line()
    for byte in message()[:16]:
        assert line.closing is None
        assert line.say(bytes([byte])) == []
        line.wait(1.0)
    assert line.closing is Closing.SLOW_SENDER


def test_each_message_has_its_own_time() -> None:
    line = Line()
    half, rest = message("c1")[:50], message("c1")[50:]
    for _ in range(5):
        line.say(half)
        line.wait(15.0)
        # The end of one and the beginning of the next in one segment.
        assert line.say(rest + half) == ["c1"]
        line.wait(15.0)
        assert line.say(rest) == ["c1"]
    assert line.closing is None


def test_half_a_keep_alive_is_not_waited_for_for_ever() -> None:
    line = Line()
    line.say(b"\r")
    line.wait(16.0)
    assert line.closing is Closing.SLOW_SENDER


def test_who_connects_and_says_nothing_is_dropped() -> None:
    line = Line()
    line.wait(15.9)
    assert line.closing is None
    line.wait(0.1)
    assert line.closing is Closing.SLOW_SENDER
    ours = Line(ours=True)
    ours.wait(100.0)
    assert ours.closing is None


def test_a_connection_without_traffic_is_closed() -> None:
    line = Line()
    line.say(message())
    line.wait(200.0)
    line.say(message())
    line.wait(200.0)
    line.connection.sent(line.now)
    line.wait(299.0)
    assert line.closing is None
    line.wait(1.0)
    assert line.closing is Closing.IDLE
    assert line.schedule.wake_at() is None


def test_a_connection_that_a_call_needs_is_kept() -> None:
    line = Line()
    line.say(message())
    line.wait(3000.0, needed=True)
    assert line.closing is None
    line.wait(300.0)
    assert line.closing is Closing.IDLE


def test_a_peer_that_sends_keep_alives_keeps_its_connection() -> None:
    line = Line()
    for _ in range(10):
        line.say(PING)
        line.wait(290.0)
    assert line.closing is None


@pytest.mark.conformance("RFC 5626", "4.4.1", "the side that made the connection pings every 95 to 120 s")
def test_we_ping_along_a_connection_of_ours_that_is_needed() -> None:
    """RFC 5626 section 4.4.1: the side that has made the connection, between 95 and 120 seconds."""
    assert Line(ours=True).wait(350.0, needed=True) == [(100.0, PING), (200.0, PING), (300.0, PING)]
    assert Line(ours=True).wait(250.0) == []
    assert Line().wait(350.0, needed=True) == []


def test_pongs_alone_do_not_keep_a_connection() -> None:
    line = Line(ours=True)
    line.wait(100.0, needed=True)
    line.say(PONG)
    line.wait(200.0)
    assert line.closing is Closing.IDLE


def test_a_peer_that_knows_no_pings_is_not_expected_to_answer_them() -> None:
    line = Line(ours=True)
    assert len(line.wait(1000.0, needed=True)) == 10
    assert line.closing is None


@pytest.mark.conformance("RFC 5626", "4.4.1", "a flow whose pong is missing for 10 s has failed")
def test_a_peer_that_has_answered_pings_is_gone_once_it_does_not() -> None:
    line = Line(ours=True)
    for _ in range(3):
        assert [data for _, data in line.wait(100.0, needed=True)] == [PING]
        line.say(PONG)
        # What looks like the second half of a ping is a second pong.
        assert line.connection.data_to_send() == b""
    line.wait(109.0, needed=True)
    assert line.closing is None
    line.wait(1.0, needed=True)
    assert line.closing is Closing.SILENT


def test_whatever_comes_after_a_ping_shows_that_the_peer_is_there() -> None:
    line = Line(ours=True)
    line.wait(100.0, needed=True)
    line.say(PONG)
    line.wait(100.0, needed=True)
    line.say(message())
    line.wait(50.0, needed=True)
    assert line.closing is None


# --- Where messages go once their connection is lost

FLOW = Flow("TCP", ("192.0.2.1", 5060), ("192.0.2.9", 40000), connection=7)


@pytest.mark.conformance(
    "RFC 3261", "18.2.2", "a response whose connection is lost goes to the source address and the port of the sent-by"
)
@pytest.mark.parametrize(
    ("transport", "via", "remote", "name"),
    [
        ("TCP", "192.0.2.2:5071", ("192.0.2.9", 5071), ""),
        ("TCP", "pbx.example", ("192.0.2.9", 5060), ""),
        ("TLS", "pbx.example", ("192.0.2.9", 5061), "pbx.example"),
    ],
)
def test_a_response_goes_to_the_source_on_the_port_of_the_via(
    transport: str, via: str, remote: tuple[str, int], name: str
) -> None:
    """RFC 3261 section 18.2.2."""
    request = parse_datagram(message().replace(b"192.0.2.2:5071", via.encode()))
    assert isinstance(request, Request)
    response = parse_datagram(request.received_from("192.0.2.9", 40000).response(200).serialise())
    assert isinstance(response, Response)
    flow = FLOW._replace(transport=transport)
    assert return_flow(response, flow) == Flow(transport, flow.local, remote, name)


@pytest.mark.parametrize(
    ("route", "hop"),
    [
        ("", "sip:us@192.0.2.1:5070;transport=tcp"),
        ("<sip:192.0.2.7;lr>, <sip:192.0.2.8;lr>", "sip:192.0.2.7;lr"),
        # A strict router is the Request-URI; what follows is for later hops (section 12.2.1.1).
        ("<sip:192.0.2.7>", "sip:us@192.0.2.1:5070;transport=tcp"),
    ],
)
def test_a_request_goes_to_its_next_hop(route: str, hop: str) -> None:
    request = parse_datagram(message(route=route))
    assert isinstance(request, Request)
    assert str(next_hop(request)) == hop
