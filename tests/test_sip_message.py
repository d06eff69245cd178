"""Requests and responses: RFC 3261 sections 7, 8.2.6, 12.1.1 and 18.2.1."""

from __future__ import annotations

import pytest

from sip.errors import LocalProtocolError
from sip.headers import CSeq, Headers
from sip.message import REASONS, Request, Response
from sip.parser import parse_datagram
from sip.uri import Uri

FIELDS = (
    ("Via", "SIP/2.0/UDP proxy.example.com;branch=z9hG4bK2, SIP/2.0/TCP 10.0.0.1:5061;branch=z9hG4bK1;rport"),
    ("Via", "SIP/2.0/UDP first.example.com;branch=z9hG4bK0"),
    ("Max-Forwards", "70"),
    ("Route", "<sip:p1.example.com;lr>, <sip:p2.example.com;lr>"),
    ("Record-Route", "<sip:p3.example.com;lr>"),
    ("Record-Route", '"P, 4" <sip:p4.example.com;lr>'),
    ("From", '"Alice" <sip:alice@example.com>;tag=a1'),
    ("To", "Bob <sip:bob@example.com>"),
    ("Call-ID", "a84b4c76e66710@pc33.example.com"),
    ("CSeq", "314159 INVITE"),
    ("Contact", "<sip:alice@pc33.example.com>"),
    ("Require", "100rel, Timer"),
    ("Supported", "replaces"),
    ("Expires", "120"),
    ("Timestamp", "54"),
    ("Content-Type", "Application/SDP;charset=utf-8"),
)


def invite(*more: tuple[str, str], body: bytes = b"v=0\r\n", without: str = "") -> Request:
    headers = Headers((*(field for field in FIELDS if field[0] != without), *more))
    return Request(method="INVITE", uri=Uri.parse("sip:bob@example.com"), headers=headers, body=body)


def test_accessors_read_typed_values() -> None:
    request = invite()
    assert request.via.host == "proxy.example.com"
    assert [via.branch for via in request.vias] == ["z9hG4bK2", "z9hG4bK1", "z9hG4bK0"]
    assert request.from_.tag == "a1"
    assert request.to.display_name == "Bob"
    assert request.call_id == "a84b4c76e66710@pc33.example.com"
    assert request.cseq == CSeq(314159, "INVITE")
    assert request.contact is not None
    assert str(request.contact.uri) == "sip:alice@pc33.example.com"
    assert [str(hop.uri) for hop in request.route] == ["sip:p1.example.com;lr", "sip:p2.example.com;lr"]
    assert [hop.display_name for hop in request.record_route] == ["", "P, 4"]
    assert (request.max_forwards, request.expires) == (70, 120)
    assert (request.require, request.supported) == (("100rel", "timer"), ("replaces",))
    assert request.content_type == "application/sdp"
    assert request.media_type is not None
    assert request.media_type.parameters["charset"] == "utf-8"


def test_absent_fields_read_as_nothing() -> None:
    request = Request(method="OPTIONS", uri=Uri(host="a"), headers=Headers())
    assert (request.contact, request.contacts, request.route, request.record_route) == (None, (), (), ())
    assert (request.max_forwards, request.expires, request.media_type, request.content_type) == (None, None, None, "")
    assert (request.require, request.supported) == ((), ())


def test_the_star_of_a_register_names_no_address() -> None:
    assert invite(("Contact", "*"), without="Contact").contacts == ()


@pytest.mark.conformance("RFC 3261", "20.19", "Expires is at most 2**32-1")
def test_a_huge_expires_is_the_largest_there_is() -> None:
    """RFC 3261 section 20.19: a number of seconds between 0 and 2**32 - 1."""
    for text in ("4294967296", "9" * 40):
        request = Request(method="REGISTER", uri=Uri(host="a"), headers=Headers([("Expires", text)]))
        assert request.expires == 4294967295


def test_serialised_byte_for_byte() -> None:
    request = Request(
        method="BYE",
        uri=Uri(user="bob", host="192.0.2.4"),
        headers=Headers([("v", "SIP/2.0/UDP 192.0.2.1"), ("Content-Length", "99")]),
        body=b"\x00\xff",
    )
    assert request.serialise() == (
        b"BYE sip:bob@192.0.2.4 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1\r\nContent-Length: 2\r\n\r\n\x00\xff"
    )
    response = Response(status=200, reason="Gut", headers=Headers([("To", "Jörg <sip:j@a>")]))
    assert response.serialise() == "SIP/2.0 200 Gut\r\nTo: Jörg <sip:j@a>\r\nContent-Length: 0\r\n\r\n".encode()


@pytest.mark.parametrize("method", ["", "IN VITE", "INVITE\r\nX: 1", "ÄCK"])
def test_a_method_that_is_no_token_is_our_fault(method: str) -> None:
    with pytest.raises(LocalProtocolError):
        Request(method=method, uri=Uri(host="a"), headers=Headers()).serialise()


@pytest.mark.parametrize(("status", "reason"), [(99, "x"), (700, "x"), (200, "OK\r\nX: 1"), (200, "a\x00")])
def test_a_status_line_that_cannot_be_is_our_fault(status: int, reason: str) -> None:
    with pytest.raises(LocalProtocolError):
        Response(status=status, reason=reason, headers=Headers()).serialise()


@pytest.mark.conformance("RFC 3261", "8.2.6.2", "a response has the From, Call-ID, CSeq, Via and To of its request")
@pytest.mark.conformance(
    "RFC 3261", "12.1.1", "Record-Route is copied into the response that makes a dialog, in its order"
)
def test_a_response_copies_what_it_must() -> None:
    """RFC 3261 sections 8.2.6.2 and 12.1.1."""
    response = invite().response(
        200, to_tag="b2", headers=[("Contact", "<sip:bob@192.0.2.4>")], body=b"v=0", content_type="application/sdp"
    )
    assert (response.status, response.reason, response.body) == (200, "OK", b"v=0")
    assert list(response.headers) == [
        *FIELDS[:2],
        *FIELDS[4:6],
        FIELDS[6],
        ("To", "Bob <sip:bob@example.com>;tag=b2"),
        *FIELDS[8:10],
        ("Contact", "<sip:bob@192.0.2.4>"),
        ("Content-Type", "application/sdp"),
    ]


@pytest.mark.conformance("RFC 3261", "8.2.6.1", "Timestamp is copied into a 100")
def test_a_failure_and_a_100_carry_no_record_route_and_a_100_the_timestamp() -> None:
    """RFC 3261 sections 12.1.1 and 8.2.6.1."""
    assert "Record-Route" not in invite().response(486, to_tag="x").headers
    trying = invite().response(100)
    assert "Record-Route" not in trying.headers
    assert (trying.headers.get("Timestamp"), trying.to.tag) == ("54", "")
    assert "Timestamp" not in invite().response(180).headers


@pytest.mark.parametrize(
    ("to", "tagged"),
    [
        ("<sip:bob@a>", "<sip:bob@a>;tag=b2"),
        ("sip:bob@a", "sip:bob@a;tag=b2"),
        ("<sip:bob@a>;tag=old", "<sip:bob@a>;tag=old"),
        ("<sip:bob@a> ; Tag = old", "<sip:bob@a> ; Tag = old"),
        ("<sip:bob@a;tag=uri>", "<sip:bob@a;tag=uri>;tag=b2"),
        ('";tag=no" <sip:bob@a>', '";tag=no" <sip:bob@a>;tag=b2'),
        ('"unbalanced <sip:bob@a>', '"unbalanced <sip:bob@a>;tag=b2'),
        ("<sip:bob@a>;tag", "<sip:bob@a>;tag"),
        ("<sip:bob@a>;x=y;tag ;z", "<sip:bob@a>;x=y;tag ;z"),
        ("<sip:bob@a>;tagged", "<sip:bob@a>;tagged;tag=b2"),
    ],
)
def test_a_to_tag_is_added_once(to: str, tagged: str) -> None:
    assert invite(("To", to), without="To").response(400, to_tag="b2").headers.get("To") == tagged


def test_the_reason_is_the_usual_one_unless_given() -> None:
    assert invite().response(481).reason == REASONS[481]
    assert invite().response(400, "Missing Call-ID").reason == "Missing Call-ID"
    assert invite().response(599).reason == "Unknown"


@pytest.mark.conformance("RFC 3261", "18.2.1", "received is added where the source differs from the sent-by")
def test_the_source_is_noted_in_the_topmost_via_alone() -> None:
    request = invite()
    noted = request.received_from("198.51.100.1", 40000)
    assert noted.via.received == "198.51.100.1"
    assert noted.headers.get_all("Via") == (
        "SIP/2.0/UDP proxy.example.com;branch=z9hG4bK2;received=198.51.100.1",
        "SIP/2.0/TCP 10.0.0.1:5061;branch=z9hG4bK1;rport",
        "SIP/2.0/UDP first.example.com;branch=z9hG4bK0",
    )
    assert noted.vias == parse_datagram(noted.serialise()).vias
    assert [field for field in noted.headers if field[0] != "Via"] == list(FIELDS[2:])


def test_an_unchanged_via_leaves_the_request_as_it_is() -> None:
    request = invite()
    assert request.received_from("proxy.example.com", 5060) is request
