"""Header fields: RFC 3261 sections 7.3, 20 and 25, RFC 3581."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sip.errors import LocalProtocolError, RemoteProtocolError
from sip.headers import (
    CSeq,
    Headers,
    NameAddr,
    Parameterised,
    Via,
    is_token,
    parse_parameters,
    quoted,
    split_list,
    unquoted,
)
from sip.message import FROM
from sip.uri import Parameters, Uri


@pytest.mark.conformance("RFC 3261", "7.3.1", "names of header fields are compared without case")
def test_names_compare_without_case_and_keep_their_usual_spelling() -> None:
    headers = Headers([("CALL-id", "1"), ("x-odd-ONE", "2")])
    assert headers.get("call-ID") == "1"
    assert headers.get("X-Odd-One") == "2"
    assert list(headers) == [("Call-ID", "1"), ("x-odd-ONE", "2")]
    assert "cAlL-iD" in headers
    assert "Via" not in headers


COMPACT = {
    "v": "Via",
    "V": "Via",
    "f": "From",
    "t": "To",
    "m": "Contact",
    "i": "Call-ID",
    "c": "Content-Type",
    "l": "Content-Length",
    "e": "Content-Encoding",
    "k": "Supported",
    "s": "Subject",
    "r": "Refer-To",
    "b": "Referred-By",
    "x": "Session-Expires",
    "o": "Event",
    "u": "Allow-Events",
}


@pytest.mark.conformance("RFC 3261", "7.3.3", "compact forms are taken")
@pytest.mark.parametrize(("compact", "name"), COMPACT.items())
def test_a_compact_form_is_the_name_that_it_stands_for(compact: str, name: str) -> None:
    headers = Headers([(compact, "x")])
    assert list(headers) == [(name, "x")]
    assert headers.get(name) == Headers([(name, "x")]).get(compact) == "x"


@pytest.mark.conformance("RFC 3261", "7.3.1", "values in one line and in several lines are one list")
def test_lists_split_at_commas_outside_quotes_and_brackets() -> None:
    headers = Headers(
        [
            ("Contact", '"Doe, Jane" <sip:jane@a;x=1,2>, <sip:j@b?x=%2C>;q=0.5'),
            ("Contact", "sip:k@c"),
            ("Supported", "100rel, timer"),
            ("Subject", "one, two"),
        ]
    )
    assert headers.get_all("Contact") == (
        '"Doe, Jane" <sip:jane@a;x=1,2>',
        "<sip:j@b?x=%2C>;q=0.5",
        "sip:k@c",
    )
    assert headers.get_all("Supported") == ("100rel", "timer")
    assert headers.get_all("Subject") == ("one, two",)
    assert headers.get_all("Route") == ()


@pytest.mark.conformance("RFC 3261", "7.3.1", "the fields of authentication are no lists")
def test_authentication_fields_are_no_lists_in_spite_of_their_commas() -> None:
    challenge = 'Digest realm="a", nonce="b"'
    assert Headers([("WWW-Authenticate", challenge)]).get_all("WWW-Authenticate") == (challenge,)


def test_an_empty_list_has_no_items_and_an_empty_item_stays() -> None:
    assert split_list("") == split_list("  ") == ()
    assert split_list("a,,b") == ("a", "", "b")
    assert split_list('"x",') == ('"x"', "")


@pytest.mark.parametrize("text", ['"open', "<open", 'a "b" , "', '"back\\'])
def test_an_open_quote_or_bracket_in_a_list_is_refused(text: str) -> None:
    with pytest.raises(RemoteProtocolError):
        split_list(text)


def test_a_change_makes_a_new_value() -> None:
    before = Headers([("Route", "<sip:a>"), ("Via", "v1"), ("Route", "<sip:b>")])
    assert list(before.with_("route", "<sip:c>")) == [("Route", "<sip:c>"), ("Via", "v1")]
    assert list(before.with_("Subject", "s"))[-1] == ("Subject", "s")
    assert list(before.added("v", "v2"))[-1] == ("Via", "v2")
    assert next(iter(before.prepended("v", "v0"))) == ("Via", "v0")
    assert list(before.without("ROUTE")) == [("Via", "v1")]
    assert list(before) == [("Route", "<sip:a>"), ("Via", "v1"), ("Route", "<sip:b>")]


def test_a_typed_value_is_read_once_and_again_after_a_change() -> None:
    headers = Headers([("From", "<sip:a@b>;tag=1")])
    assert headers.read(FROM) is headers.read(FROM)
    assert headers.with_("From", "<sip:a@b>;tag=2").read(FROM).tag == "2"
    assert headers.added("Subject", "s").read(FROM) is headers.read(FROM)


def test_headers_are_equal_by_names_values_and_order() -> None:
    one = Headers([("X-a", "1"), ("To", "2")])
    assert one == Headers([("x-A", "1"), ("t", "2")])
    assert hash(one) == hash(Headers([("x-A", "1"), ("t", "2")]))
    assert one != Headers([("To", "2"), ("X-a", "1")])
    assert one != [("X-a", "1"), ("To", "2")]


@pytest.mark.parametrize(
    ("name", "value"), [("X", "a\r\nInjected: 1"), ("X", "a\n b"), ("X", "a\rb"), ("", "x"), ("A B", "x"), ("A:", "x")]
)
def test_a_field_that_would_break_out_of_its_line_is_our_fault(name: str, value: str) -> None:
    with pytest.raises(LocalProtocolError):
        Headers([(name, value)])
    with pytest.raises(LocalProtocolError):
        Headers().added(name, value)
    with pytest.raises(LocalProtocolError):
        Headers([("X", "y")]).with_(name, value)


def test_a_via_falls_into_its_parts() -> None:
    via = Via.parse("SIP/2.0/udp 192.0.2.1:5061 ;branch=z9hG4bK87a;rport;received=198.51.100.7")
    assert (via.transport, via.host, via.port) == ("UDP", "192.0.2.1", 5061)
    assert (via.branch, via.received, via.rport) == ("z9hG4bK87a", "198.51.100.7", None)
    assert str(via) == "SIP/2.0/UDP 192.0.2.1:5061;branch=z9hG4bK87a;rport;received=198.51.100.7"


def test_a_via_may_have_white_space_about_its_slashes() -> None:
    via = Via.parse("SIP  /    2.0  / TCP     spindle.example.com   ; branch  =   z9hG4bK9ikj8 ")
    assert (via.transport, via.host, via.branch) == ("TCP", "spindle.example.com", "z9hG4bK9ikj8")


def test_a_via_of_an_ipv6_host() -> None:
    via = Via.parse("SIP/2.0/UDP [2001:db8::9:1]:6050;received=2001:db8::9:255;branch=z9hG4bKas3-111")
    assert (via.host, via.port, via.received) == ("2001:db8::9:1", 6050, "2001:db8::9:255")
    assert str(via).startswith("SIP/2.0/UDP [2001:db8::9:1]:6050;received=2001:db8::9:255;")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "SIP/2.0/UDP",
        "SIP/3.0/UDP a",
        "HTTP/2.0/UDP a",
        "SIP/2.0/UDP a:65536",
        "SIP/2.0/UDP a:x",
        "SIP/2.0/UDP a;;",
        "SIP/2.0/UDP a;branch=1;Branch=2",
        "SIP/2.0/UDP a;=1",
        "SIP/2.0/UDP a b",
        "SIP/2.0/UDPa",
    ],
)
def test_a_malformed_via_is_refused(text: str) -> None:
    with pytest.raises(RemoteProtocolError):
        Via.parse(text)


@pytest.mark.conformance("RFC 3261", "18.2.1", "received is added where the source differs from the sent-by")
def test_the_source_is_noted_where_it_differs_from_the_sent_by() -> None:
    """RFC 3261 section 18.2.1."""
    via = Via.parse("SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK1")
    assert str(via.received_from("192.0.2.9", 1024)) == "SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK1;received=192.0.2.9"
    assert via.received_from("10.0.0.1", 1024) is via


@pytest.mark.conformance("RFC 3581", "4", "rport is filled, and received goes with it whatever the sent-by says")
def test_rport_is_filled_and_received_goes_with_it() -> None:
    """RFC 3581 section 4: received is added even where it equals the sent-by."""
    via = Via.parse("SIP/2.0/UDP 10.0.0.1:5060;rport;branch=z9hG4bK1").received_from("10.0.0.1", 1024)
    assert (via.received, via.rport) == ("10.0.0.1", 1024)
    assert str(via) == "SIP/2.0/UDP 10.0.0.1:5060;rport=1024;branch=z9hG4bK1;received=10.0.0.1"


def test_a_source_that_the_client_claims_itself_is_not_believed() -> None:
    via = Via.parse("SIP/2.0/UDP 10.0.0.1;received=203.0.113.1;branch=z9hG4bK1")
    assert str(via.received_from("10.0.0.1", 5060)) == "SIP/2.0/UDP 10.0.0.1;branch=z9hG4bK1"
    assert via.received_from("192.0.2.9", 5060).received == "192.0.2.9"


@pytest.mark.parametrize(
    ("text", "name", "uri", "parameters"),
    [
        ("<sip:a@b>", "", "sip:a@b", {}),
        ("<sip:a@b;lr>;tag=1", "", "sip:a@b;lr", {"tag": "1"}),
        ("sip:a@b;tag=1", "", "sip:a@b", {"tag": "1"}),
        ("Alice B <sip:a@b>", "Alice B", "sip:a@b", {}),
        ("caller<sip:caller@example.com>;tag=323", "caller", "sip:caller@example.com", {"tag": "323"}),
        ('"A \\"quoted\\" name, with <brackets>" <sip:a@b>', 'A "quoted" name, with <brackets>', "sip:a@b", {}),
        ('"" <sip:a@b>', "", "sip:a@b", {}),
        ("Jörg (Büro) <sip:a@b>", "Jörg (Büro)", "sip:a@b", {}),
        ('<sip:a@b> ; q = 0.33 ; +sip.instance="<urn:x>"', "", "sip:a@b", {"q": "0.33", "+sip.instance": "<urn:x>"}),
        ("<sip:a@b>;tag=ab/cd=@1", "", "sip:a@b", {"tag": "ab/cd=@1"}),
        (
            "sip:+19725552222@gw1.example.net;unknownparam",
            "",
            "sip:+19725552222@gw1.example.net",
            {"unknownparam": None},
        ),
    ],
)
def test_an_address_falls_into_name_uri_and_parameters(
    text: str, name: str, uri: str, parameters: dict[str, str | None]
) -> None:
    address = NameAddr.parse(text)
    assert (address.display_name, str(address.uri), dict(address.parameters)) == (name, uri, parameters)
    assert NameAddr.parse(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "Alice",
        '"Alice <sip:a@b>',
        "<sip:a@b",
        "sip:a@b>",
        "<sip:a@b>;;",
        "<sip:a@b>;tag=1;tag=2",
        "<sip:a@b> tag=1",
        "<<sip:a@b>>",
        "sip:a@b?Route=x",
        "Bell, Alexander <sip:a.g.bell@example.com>",
        '<sip:a@b>;x="open',
        "<>",
    ],
)
def test_a_malformed_address_is_refused(text: str) -> None:
    with pytest.raises(RemoteProtocolError) as refusal:
        NameAddr.parse(text, "From")
    assert refusal.value.status == 400


def test_blanks_in_front_of_nothing_cost_linear_time() -> None:
    started = time.process_time()
    with pytest.raises(RemoteProtocolError):
        NameAddr.parse(" " * 60000)
    assert time.process_time() - started < 1


def test_a_tag_is_set_and_replaced() -> None:
    address = NameAddr(uri=Uri(user="a", host="b"), display_name='The "A"')
    assert address.tag == ""
    assert str(address.with_tag("1")) == '"The \\"A\\"" <sip:a@b>;tag=1'
    assert address.with_tag("1").with_tag("2").tag == "2"


@pytest.mark.conformance("RFC 3261", "8.1.1.5", "a CSeq number is below 2**31")
def test_a_sequence_number_stays_below_two_to_the_31() -> None:
    """RFC 3261 section 8.1.1.5."""
    assert CSeq.parse("0009  INVITE") == CSeq(9, "INVITE")
    assert str(CSeq(2147483647, "ACK")) == "2147483647 ACK"
    for text in ("2147483648 ACK", "99999999999999999999999 ACK", "-1 ACK", "1", "1 A B", "one ACK", "1ACK", "٣ ACK"):
        with pytest.raises(RemoteProtocolError):
            CSeq.parse(text)


def test_a_value_with_parameters() -> None:
    value = Parameterised.parse('1800 ;refresher=uac;x="a;b"', "Session-Expires")
    assert (value.value, dict(value.parameters)) == ("1800", {"refresher": "uac", "x": "a;b"})
    assert str(value) == '1800;refresher=uac;x="a;b"'
    for text in ("", ";x", "a;;", "a;x=1;x=2"):
        with pytest.raises(RemoteProtocolError, match="Bad Event"):
            Parameterised.parse(text, "Event")


def test_quoting_is_undone_by_unquoting() -> None:
    assert quoted('a"b\\c') == '"a\\"b\\\\c"'
    assert unquoted('"a\\"b\\\\c\\d"') == 'a"b\\cd'


def test_tokens() -> None:
    assert is_token("!interesting-Method0123456789_*+`.%indeed'~")
    assert not any(map(is_token, ("", "a b", "a/b", "ä", "a\n")))


TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\r\n"), max_size=12)
PARAMETERS = st.dictionaries(
    st.from_regex(r"[a-z0-9!%*_+`'~.-]{1,8}", fullmatch=True), st.none() | TEXT, max_size=4
).map(Parameters)


@settings(deadline=None, max_examples=100)
@given(parameters=PARAMETERS)
def test_parameters_read_back_the_same(parameters: Parameters) -> None:
    text = str(Parameterised("x", parameters))
    assert parse_parameters(text, 1, "X") == parameters


@settings(deadline=None, max_examples=100)
@given(name=TEXT.map(str.strip), parameters=PARAMETERS, user=TEXT.filter(bool))
def test_addresses_read_back_the_same(name: str, parameters: Parameters, user: str) -> None:
    address = NameAddr(uri=Uri(user=user, host="example.com"), display_name=name, parameters=parameters)
    assert NameAddr.parse(str(address)) == address


@settings(deadline=None, max_examples=100)
@given(
    via=st.builds(
        Via,
        transport=st.sampled_from(("UDP", "TCP", "TLS", "SCTP", "WS")),
        host=st.from_regex(r"[a-z0-9][a-z0-9.-]{0,20}", fullmatch=True) | st.ip_addresses(v=6).map(str),
        port=st.none() | st.integers(0, 65535),
        parameters=PARAMETERS,
    )
)
def test_vias_read_back_the_same(via: Via) -> None:
    assert Via.parse(str(via)) == via


ODDS = st.text(st.sampled_from('",;<>=\\ \t@:ab%[]*/ä\x00'), max_size=40)


@settings(deadline=None, max_examples=300)
@given(text=ODDS)
def test_no_text_raises_anything_but_a_refusal(text: str) -> None:
    for parse in (Via.parse, NameAddr.parse, CSeq.parse, Parameterised.parse, split_list):
        try:
            parse(text)
        except RemoteProtocolError:
            continue
