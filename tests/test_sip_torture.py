"""Every class of message in RFC 4475, in words of our own: what is valid is taken, what is not gets the right answer.

The tests are named by the section of RFC 4475 that describes the class. What an element does with a valid message
(section 3.3: unknown methods, extensions, body types) is the agent's; here it must reach the agent whole.
"""

from __future__ import annotations

import pytest

from sip.body import parts_of
from sip.connection import Connection, Received, StreamLimits
from sip.errors import RemoteProtocolError
from sip.message import Request, Response
from sip.parser import MalformedMessage, StreamParser, parse_datagram
from sip.transaction import Schedule

FIELDS = {
    "Via": "SIP/2.0/UDP client.example.org:5060;branch=z9hG4bKtorture1",
    "Max-Forwards": "70",
    "From": "<sip:caller@example.org>;tag=torture",
    "To": "<sip:callee@example.com>",
    "Call-ID": "torture.1@client.example.org",
    "CSeq": "8 OPTIONS",
}


NAMES = {"call_id": "Call-ID", "cseq": "CSeq", "max_forwards": "Max-Forwards"}


def text_of(start: str, changes: dict[str, str | None], more: str, body: str) -> bytes:
    fields = {**FIELDS, **changes}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value is not None)
    return f"{start}\r\n{lines}{more}\r\n{body}".encode()


def request_text(
    start: str = "OPTIONS sip:callee@example.com SIP/2.0", more: str = "", body: str = "", **changes: str | None
) -> bytes:
    """A request with some fields changed (call_id="..." is Call-ID), and `more` lines at the end of the header."""
    return text_of(start, {NAMES.get(name, name.capitalize()): value for name, value in changes.items()}, more, body)


def streamed(data: bytes) -> list[Received]:
    """What comes out of a connection along which `data` comes byte by byte, with the Content-Length that it needs."""
    head, _, body = data.partition(b"\r\n\r\n")
    if b"Content-Length" not in head and b"\r\nL:" not in head.replace(b"l:", b"L:"):
        data = head + f"\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    connection = Connection(ours=False, schedule=Schedule(), now=0.0, limits=StreamLimits())
    for at in range(len(data)):
        connection.receive(data[at : at + 1], 0.0)
    return list(iter(connection.next_message, None))


def taken(data: bytes) -> Request:
    request = parse_datagram(data)
    assert isinstance(request, Request)
    assert parse_datagram(request.serialise()) == request
    assert streamed(data)[0] == request
    return request


def refused(data: bytes, *, status: int = 400, answerable: bool = True) -> MalformedMessage:
    with pytest.raises(MalformedMessage) as caught:
        parse_datagram(data)
    error = caught.value
    assert (error.status, error.request is not None) == (status, answerable)
    if error.request is not None:
        assert error.request.response(error.status, error.reason, to_tag="t").serialise().startswith(b"SIP/2.0 ")
    # Of a body that is too short a connection still waits for the rest.
    for same in streamed(data)[:1]:
        assert isinstance(same, MalformedMessage)
        assert (same.status, same.request is not None) == (status, answerable)
    return error


# --- 3.1.1 valid messages


@pytest.mark.conformance("RFC 4475", "3.1.1.1", "a short tortuous INVITE is taken")
def test_3_1_1_1_a_short_tortuous_invite() -> None:
    lines = (
        "INVITE sip:vivekg@example.com;unknownparam SIP/2.0",
        "TO :",
        " sip:vivekg@example.com ;   tag    = 1918181833n",
        'from   : "J Rosenberg \\\\\\""       <sip:jdrosen@example.com>',
        "  ;",
        "  tag = 98asjd8",
        "MaX-fOrWaRdS: 0068",
        "Call-ID: wsinv.ndaksdj@192.0.2.1",
        "Content-Length   : 4",
        "cseq: 0009",
        "  INVITE",
        "Via  : SIP  /   2.0",
        " /UDP",
        "    192.0.2.2;branch=390skdjuw",
        "s :",
        "NewFangledHeader:   newfangled value",
        " continued newfangled value",
        "UnknownHeaderWithUnusualValue: ;;,,;;,;",
        "Content-Type: application/sdp",
        "Route:",
        " <sip:services.example.com;lr;unknownwith=value;unknown-no-value>",
        "v:  SIP  / 2.0  / TCP     spindle.example.com   ;",
        "  branch  =   z9hG4bK9ikj8  ,",
        " SIP  /    2.0   / UDP  192.168.255.111   ; branch=",
        " z9hG4bK30239",
        'm:"Quoted string \\"\\"" <sip:jdrosen@example.com> ; newparam =',
        "      newvalue ;",
        "  secondparam ; q = 0.33",
        "",
        "v=0\r\n",
    )
    request = taken("\r\n".join(lines).encode())
    assert dict(request.uri.parameters) == {"unknownparam": None}
    assert request.to.tag == "1918181833n"
    assert (request.from_.display_name, request.from_.tag) == ('J Rosenberg \\"', "98asjd8")
    assert (request.max_forwards, request.cseq.number, request.cseq.method) == (68, 9, "INVITE")
    assert [via.branch for via in request.vias] == ["390skdjuw", "z9hG4bK9ikj8", "z9hG4bK30239"]
    assert request.headers.get("Subject") == ""
    assert request.headers.get("NewFangledHeader") == "newfangled value continued newfangled value"
    assert request.headers.get("UnknownHeaderWithUnusualValue") == ";;,,;;,;"
    assert dict(request.route[0].uri.parameters) == {"lr": None, "unknownwith": "value", "unknown-no-value": None}
    assert request.contact is not None
    assert request.contact.display_name == 'Quoted string ""'
    assert dict(request.contact.parameters) == {"newparam": "newvalue", "secondparam": None, "q": "0.33"}
    assert request.body == b"v=0\r"


@pytest.mark.conformance("RFC 4475", "3.1.1.2", "a wide range of valid characters is taken")
def test_3_1_1_2_a_wide_range_of_valid_characters() -> None:
    method = "!interesting-Method0123456789_*+`.%indeed'~"
    uri = "sip:1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*:&it+has=1,weird!*pas$wo~d_too.(doesn't-it)@example.com"
    request = taken(
        request_text(
            f"{method} {uri} SIP/2.0",
            via="SIP/2.0/UDP host1.example.com;branch=z9hG4bK-.!%66*_+`'~",
            to='"BEL:\\\x07 NUL:\\\x00 DEL:\\\x7f" <sip:1_unusual.URI~(to-be!sure)@example.com>',
            **{
                "from": "token1~` token2'+_ token3*%!.- <sip:mundane@example.com>;fromParam''~+*_!.-%=\"работающий\""
                ";tag=_token~1'+`*%!-."
            },
            call_id="intmeth.word%ZK-!.*_+'@word`~)(><:\\/\"][?}{",
            cseq=f"139122385 {method}",
            more="extensionHeader-!.%*+_`'~: \ufeff大停電\r\n",
        )
    )
    assert request.method == method
    assert request.uri.user == "1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*"
    assert request.uri.password == "&it+has=1,weird!*pas$wo~d_too.(doesn't-it)"
    assert request.to.display_name == "BEL:\x07 NUL:\x00 DEL:\x7f"
    assert request.from_.parameters["fromparam''~+*_!.-%"] == "работающий"
    assert request.from_.tag == "_token~1'+`*%!-."
    assert request.call_id == "intmeth.word%ZK-!.*_+'@word`~)(><:\\/\"][?}{"
    assert request.headers.get("EXTENSIONHEADER-!.%*+_`'~") == "\ufeff大停電"


@pytest.mark.conformance("RFC 4475", "3.1.1.3", "escapes in URIs are taken")
def test_3_1_1_3_valid_escapes() -> None:
    request = taken(
        request_text(
            "INVITE sip:sips%3Auser%40example.com@example.net SIP/2.0",
            to="sip:%75se%72@example.com",
            cseq="1 INVITE",
            more="Contact:\r\n <sip:cal%6Cer@host5.example.net;%6C%72;n%61me=v%61lue%25%34%31>\r\n",
        )
    )
    assert request.uri.user == "sips:user@example.com"
    assert request.to.uri.user == "user"
    assert request.contact is not None
    assert dict(request.contact.uri.parameters) == {"lr": None, "name": "value%41"}


@pytest.mark.conformance("RFC 4475", "3.1.1.4", "escaped nulls in URIs are taken")
def test_3_1_1_4_escaped_nulls() -> None:
    request = taken(
        request_text(
            to="sip:null-%00-null@example.com",
            more="Contact: <sip:%00@host5.example.com>\r\nContact: <sip:%00%00@host5.example.com>\r\n",
        )
    )
    assert request.to.uri.user == "null-\0-null"
    assert [contact.uri.user for contact in request.contacts] == ["\0", "\0\0"]


@pytest.mark.conformance("RFC 4475", "3.1.1.5", "a percent sign where no URI is is no escape")
def test_3_1_1_5_percent_in_what_is_no_uri_is_no_escape() -> None:
    request = taken(
        request_text(
            "RE%47IST%45R sip:registrar.example.com SIP/2.0",
            to='"%Z%45" <sip:resource@example.com>',
            cseq="29344 RE%47IST%45R",
            more="C%6Fntact: <sip:alias2@host2.example.com>\r\n",
        )
    )
    assert request.method == "RE%47IST%45R"
    assert request.to.display_name == "%Z%45"
    assert request.contacts == ()


@pytest.mark.conformance("RFC 4475", "3.1.1.6", "no white space is needed between display name and bracket")
def test_3_1_1_6_no_white_space_between_name_and_bracket() -> None:
    request = taken(request_text(**{"from": "caller<sip:caller@example.com>;tag=323"}))
    assert (request.from_.display_name, request.from_.tag) == ("caller", "323")


@pytest.mark.conformance("RFC 4475", "3.1.1.7", "long values are taken")
def test_3_1_1_7_long_values() -> None:
    long = "long" + "er" * 500
    request = taken(
        request_text(
            f"INVITE sip:user;{long}=1@example.com;unknown{long}=long{long} SIP/2.0",
            to=f'"I have a user name of {long} proportion" <sip:user@example.com:6000;unknown-{long}>;{long}="{long}"',
            **{"from": f"sip:{long}@example.net;tag={long};unknown{long}-name={long}"},
            call_id=f"{long}@host.example.net",
            cseq="3882340 INVITE",
            more="Unknown-" + long + ": " + long + "\r\n" + f"v: SIP/2.0/TCP sip{long}.example.com\r\n" * 33,
        )
    )
    assert request.from_.tag == long
    assert len(request.vias) == 34


@pytest.mark.conformance("RFC 4475", "3.1.1.8", "what follows the first message of a datagram is ignored")
def test_3_1_1_8_two_requests_in_one_datagram_are_one() -> None:
    second = request_text(call_id="second")
    data = request_text(more="Content-Length: 0\r\n") + second
    assert taken(data).call_id == FIELDS["Call-ID"]
    assert taken(data).body == b""


@pytest.mark.conformance("RFC 4475", "3.1.1.9", "semicolons in the user part are taken")
def test_3_1_1_9_semicolons_in_the_user() -> None:
    request = taken(request_text("OPTIONS sip:user;par=u%40example.net@example.com SIP/2.0"))
    assert (request.uri.user, request.uri.host) == ("user;par=u@example.net", "example.com")


@pytest.mark.conformance("RFC 4475", "3.1.1.10", "any transport in a Via is taken")
def test_3_1_1_10_varied_transports() -> None:
    names = ("UDP", "SCTP", "TLS", "UNKNOWN", "TCP")
    vias = "".join(f"Via: SIP/2.0/{name} t{name}.example.com;branch=z9hG4bK{name}\r\n" for name in names)
    request = taken(request_text(via=None, more=vias))
    assert tuple(via.transport for via in request.vias) == names


@pytest.mark.conformance("RFC 4475", "3.1.1.11", "a multipart body is taken")
def test_3_1_1_11_a_multipart_body() -> None:
    body = (
        "--7a9cbec02ceef655\r\nContent-Type: text/plain\r\nContent-Transfer-Encoding: binary\r\n\r\nHello\r\n"
        "--7a9cbec02ceef655\r\nContent-Type: application/octet-stream\r\n\r\n\x00\x01--7a9\r\n\r\n"
        "--7a9cbec02ceef655--"
    )
    request = taken(request_text(more="Content-Type: multipart/mixed;boundary=7a9cbec02ceef655\r\n", body=body))
    parts = parts_of(request, ("text/plain", "application/octet-stream"))
    assert [part.body for part in parts] == [b"Hello", b"\x00\x01--7a9\r\n"]


@pytest.mark.conformance("RFC 4475", "3.1.1.12", "an unusual reason phrase is taken")
@pytest.mark.conformance("RFC 4475", "3.1.1.13", "an empty reason phrase is taken")
@pytest.mark.parametrize("reason", ["= 2**3 * 5**2 но сто девяносто девять - простое", ""])
def test_3_1_1_12_and_13_an_unusual_reason_and_none(reason: str) -> None:
    response = parse_datagram(text_of(f"SIP/2.0 200 {reason}", {}, "", ""))
    assert isinstance(response, Response)
    assert (response.status, response.reason) == (200, reason)
    assert parse_datagram(response.serialise()) == response


# --- 3.1.2 invalid messages


@pytest.mark.conformance("RFC 4475", "3.1.2.1", "too many separators are refused")
def test_3_1_2_1_separators_too_many() -> None:
    contact = 'Contact: "Joe" <sip:joe@example.org>;;;;\r\n'
    refused(request_text(more=contact))
    refused(request_text(via="SIP/2.0/UDP 192.0.2.15;;,;,,"), answerable=False)


@pytest.mark.conformance("RFC 4475", "3.1.2.2", "a Content-Length beyond the message is refused")
def test_3_1_2_2_a_content_length_beyond_the_message() -> None:
    assert (
        refused(request_text(more="Content-Length: 9999\r\n", body="v=0")).reason == "Body shorter than Content-Length"
    )


@pytest.mark.conformance("RFC 4475", "3.1.2.3", "a negative Content-Length is refused")
def test_3_1_2_3_a_negative_content_length() -> None:
    refused(request_text(more="Content-Length: -999\r\n", body="v=0"))


@pytest.mark.conformance("RFC 4475", "3.1.2.4", "numbers that are too large in a request are refused")
@pytest.mark.parametrize(
    "changes", [{"cseq": "36893488147419103232 OPTIONS"}, {"max_forwards": "300"}, {"max_forwards": "9" * 30}]
)
def test_3_1_2_4_numbers_too_large_in_a_request(changes: dict[str, str]) -> None:
    refused(request_text(**changes))


@pytest.mark.conformance("RFC 4475", "3.1.2.5", "a response with numbers that are too large is dropped")
def test_3_1_2_5_numbers_too_large_in_a_response() -> None:
    data = text_of("SIP/2.0 503 Service Unavailable", {"CSeq": "9292394834772304023312 OPTIONS"}, "", "")
    refused(data, answerable=False)


@pytest.mark.conformance("RFC 4475", "3.1.2.6", "a quoted string without an end is refused")
def test_3_1_2_6_a_quoted_string_without_end() -> None:
    refused(request_text(to='"Mr. J. User <sip:j.user@example.com>'))


@pytest.mark.conformance("RFC 4475", "3.1.2.7", "angle brackets about the Request-URI are refused")
def test_3_1_2_7_angle_brackets_about_the_request_uri() -> None:
    refused(request_text("OPTIONS <sip:user@example.com> SIP/2.0"))


@pytest.mark.conformance("RFC 4475", "3.1.2.8", "white space in the Request-URI is refused")
def test_3_1_2_8_white_space_in_the_request_uri() -> None:
    refused(request_text("OPTIONS sip:user@example.com; lr SIP/2.0"))


@pytest.mark.conformance("RFC 4475", "3.1.2.9", "more than one space in the request line is refused")
def test_3_1_2_9_more_than_one_blank_in_the_request_line() -> None:
    refused(request_text("OPTIONS  sip:user@example.com  SIP/2.0"))


@pytest.mark.conformance("RFC 4475", "3.1.2.10", "spaces after the request line are refused")
def test_3_1_2_10_blanks_after_the_request_line() -> None:
    refused(request_text("OPTIONS sip:user@example.com SIP/2.0  "))


@pytest.mark.conformance("RFC 4475", "3.1.2.11", "escaped headers in the Request-URI are refused")
def test_3_1_2_11_escaped_headers_in_the_request_uri() -> None:
    refused(request_text("OPTIONS sip:user@example.com?Route=%3Csip:example.com%3E SIP/2.0"))


@pytest.mark.conformance("RFC 4475", "3.1.2.12", "an invalid Date does no harm")
def test_3_1_2_12_an_impossible_date_hurts_nobody() -> None:
    assert taken(request_text(more="Date: Fri, 01 Jan 2010 16:00:00 EST\r\n")).headers.get("Date") is not None


@pytest.mark.conformance("RFC 4475", "3.1.2.13", "an address with headers and without brackets is refused")
def test_3_1_2_13_an_address_whose_headers_need_brackets() -> None:
    refused(request_text(more="Contact: sip:user@example.com?Route=%3Csip:sip.example.com%3E\r\n"))


@pytest.mark.conformance("RFC 4475", "3.1.2.14", "spaces within the brackets of an address are taken")
def test_3_1_2_14_blanks_within_angle_brackets_are_let_pass() -> None:
    assert taken(request_text(to='"Watson, Thomas" < sip:t.watson@example.org >')).to.uri.user == "t.watson"


@pytest.mark.conformance("RFC 4475", "3.1.2.15", "a display name that needs quotes and has none is refused")
def test_3_1_2_15_a_comma_in_an_unquoted_display_name() -> None:
    refused(request_text(**{"from": "Bell, Alexander <sip:a.g.bell@example.com>;tag=43"}))


@pytest.mark.conformance("RFC 4475", "3.1.2.16", "an unknown version gets 505")
def test_3_1_2_16_an_unknown_version() -> None:
    refused(request_text("OPTIONS sip:t.watson@example.org SIP/7.0"), status=505)


@pytest.mark.conformance("RFC 4475", "3.1.2.17", "another method in the start-line than in CSeq is refused")
@pytest.mark.conformance("RFC 4475", "3.1.2.18", "an unknown method that is not the one of CSeq is refused")
def test_3_1_2_17_and_18_a_method_other_than_that_of_the_cseq() -> None:
    refused(request_text(cseq="8 INVITE"))
    refused(request_text("NEWMETHOD sip:user@example.com SIP/2.0", cseq="8 INVITE"))


@pytest.mark.conformance("RFC 4475", "3.1.2.19", "a response with a status beyond all bounds is dropped")
def test_3_1_2_19_a_status_beyond_all_bounds() -> None:
    refused(text_of("SIP/2.0 4294967301 better not break the receiver", {}, "", ""), answerable=False)


# --- 3.2 transactions


@pytest.mark.conformance("RFC 4475", "3.2.1", "a branch that is the magic cookie alone is taken")
def test_3_2_1_a_branch_of_the_magic_cookie_alone() -> None:
    assert taken(request_text(via="SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK")).via.branch == "z9hG4bK"


# --- 3.3 the application


@pytest.mark.conformance("RFC 4475", "3.3.1", "a request without a field that it must have is refused")
@pytest.mark.parametrize("missing", ["via", "from", "to", "call_id", "cseq"])
def test_3_3_1_a_request_without_what_it_must_have(missing: str) -> None:
    refused(request_text(**{missing: None}), answerable=False)


@pytest.mark.conformance("RFC 4475", "3.3.2", "a Request-URI of an unknown scheme gets 416")
@pytest.mark.conformance("RFC 4475", "3.3.3", "a Request-URI of a scheme that is known but no SIP gets 416")
def test_3_3_2_and_3_a_request_uri_of_an_unknown_scheme() -> None:
    refused(request_text("OPTIONS nobodyKnowsThisScheme:totallyopaquecontent SIP/2.0"), status=416)
    refused(request_text("OPTIONS soap.beep://192.0.2.103:3002 SIP/2.0"), status=416)


@pytest.mark.conformance("RFC 4475", "3.3.4", "unknown schemes in From and To are taken")
def test_3_3_4_unknown_schemes_in_from_and_to() -> None:
    request = taken(
        request_text(
            to="isbn:2983792873", **{"from": "<http://www.example.com>;tag=1"}, more="Contact: <name:John_Smith>\r\n"
        )
    )
    assert (request.to.uri.scheme, request.from_.uri.scheme, request.from_.tag) == ("isbn", "http", "1")


@pytest.mark.conformance("RFC 4475", "3.3.5", "unknown extensions in Require are read")
def test_3_3_5_unknown_extensions_reach_the_agent() -> None:
    request = taken(request_text(more="Require: nothingSupportsThis, nothingSupportsThisEither\r\n"))
    assert request.require == ("nothingsupportsthis", "nothingsupportsthiseither")


@pytest.mark.conformance("RFC 4475", "3.3.6", "an unknown body type gets 415")
def test_3_3_6_an_unknown_body_type_is_answered_415() -> None:
    request = taken(request_text(more="Content-Type: application/unknownformat\r\n", body="<audio/>"))
    with pytest.raises(RemoteProtocolError) as caught:
        parts_of(request, ("application/sdp",))
    assert caught.value.status == 415
    assert caught.value.headers == (("Accept", "application/sdp, multipart/mixed"),)


@pytest.mark.conformance("RFC 4475", "3.3.7", "an unknown authorization scheme does no harm")
def test_3_3_7_an_unknown_authorization_scheme_reaches_the_agent() -> None:
    text = "NoOneKnowsThisScheme opaque-data=here"
    assert taken(request_text(more=f"Authorization: {text}\r\n")).headers.get_all("Authorization") == (text,)


@pytest.mark.conformance("RFC 4475", "3.3.8", "two values of a field that has one are refused")
@pytest.mark.parametrize(
    "line",
    [
        "CSeq: 59 OPTIONS",
        "Call-ID: other",
        "To: <sip:x@example.com>",
        "From: <sip:y@example.com>;tag=2",
        "Max-Forwards: 5",
    ],
)
def test_3_3_8_two_values_of_what_has_one(line: str) -> None:
    refused(request_text(more=line + "\r\n"))


@pytest.mark.conformance("RFC 4475", "3.3.9", "two Content-Lengths are refused")
def test_3_3_9_two_content_lengths() -> None:
    refused(request_text(more="Content-Length: 1\r\nContent-Length: 3\r\n", body="abc"))


@pytest.mark.conformance("RFC 4475", "3.3.10", "a response with a broadcast address in its Via is read")
def test_3_3_10_a_response_through_a_broadcast_via_is_read() -> None:
    via = "SIP/2.0/UDP 255.255.255.255;branch=z9hG4bK1saber23"
    assert parse_datagram(text_of("SIP/2.0 200 OK", {"Via": via}, "", "")).via.host == "255.255.255.255"


@pytest.mark.conformance("RFC 4475", "3.3.11", "a Max-Forwards of zero is taken")
def test_3_3_11_max_forwards_of_zero_is_a_number() -> None:
    assert taken(request_text(max_forwards="0")).max_forwards == 0


@pytest.mark.conformance("RFC 4475", "3.3.12", "a parameter outside of brackets is one of the field")
@pytest.mark.conformance("RFC 4475", "3.3.13", "a parameter within brackets is one of the URI")
@pytest.mark.parametrize(
    ("contact", "of_field", "of_uri"),
    [
        ("sip:+19725552222@gw1.example.net;unknownparam", ["unknownparam"], []),
        ("<sip:+19725552222@gw1.example.net;unknownparam>", [], ["unknownparam"]),
    ],
)
def test_3_3_12_and_13_parameters_of_the_field_and_of_its_uri(
    contact: str, of_field: list[str], of_uri: list[str]
) -> None:
    read = taken(request_text(more=f"Contact: {contact}\r\n")).contact
    assert read is not None
    assert (list(read.parameters), list(read.uri.parameters)) == (of_field, of_uri)


@pytest.mark.conformance("RFC 4475", "3.3.14", "escaped headers in a Contact are taken")
def test_3_3_14_escaped_headers_in_a_contact() -> None:
    read = taken(request_text(more="Contact: <sip:user@example.com?Route=%3Csip:sip.example.com%3E>\r\n")).contact
    assert read is not None
    assert read.uri.headers == (("Route", "<sip:sip.example.com>"),)


@pytest.mark.conformance("RFC 4475", "3.3.15", "an Accept without SDP is read")
def test_3_3_15_an_accept_without_sdp_reaches_the_agent() -> None:
    assert taken(request_text(more="Accept: text/nobodyKnowsThis\r\n")).headers.get_all("Accept") == (
        "text/nobodyKnowsThis",
    )


# --- 3.4 backward compatibility


@pytest.mark.conformance("RFC 4475", "3.4.1", "an INVITE of RFC 2543 is taken")
def test_3_4_1_an_invite_of_rfc_2543() -> None:
    request = taken(
        request_text(
            "INVITE sip:UserB@example.com SIP/2.0",
            via="SIP/2.0/UDP iftgw.example.com",
            **{"from": "<sip:+13035551111@ift.client.example.net;user=phone>"},
            max_forwards=None,
            cseq="56 INVITE",
            more="Record-Route: <sip:UserB@example.com;maddr=ss1.example.com>\r\n",
        )
    )
    assert (request.via.branch, request.from_.tag, request.max_forwards) == ("", "", None)
    assert request.record_route[0].uri.parameters["maddr"] == "ss1.example.com"


def test_every_valid_class_passes_a_stream_byte_by_byte() -> None:
    data = request_text(more="Content-Length: 3\r\n", body="abc")
    parser = StreamParser()
    for n in range(len(data) - 1):
        parser.feed(data[n : n + 1])
        assert parser.next_message() is None
    parser.feed(data[-1:])
    assert parser.next_message() == parse_datagram(data)
