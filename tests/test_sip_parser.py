"""Datagrams and streams into messages: RFC 3261 sections 7, 18.3 and 20.14, RFC 5626 section 3.5.1."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sip.headers import CSeq, Headers, NameAddr, Via
from sip.message import Message, Request, Response
from sip.parser import UNREADABLE, KeepAlive, Limits, MalformedMessage, StreamParser, parse_datagram
from sip.uri import Parameters, Uri

OPTIONS = (
    b"OPTIONS sip:carol@chicago.com SIP/2.0\r\n"
    b"Via: SIP/2.0/UDP pc33.atlanta.com;branch=z9hG4bKhjhs8ass877\r\n"
    b"Max-Forwards: 70\r\n"
    b"To: <sip:carol@chicago.com>\r\n"
    b"From: Alice <sip:alice@atlanta.com>;tag=1928301774\r\n"
    b"Call-ID: a84b4c76e66710\r\n"
    b"CSeq: 63104 OPTIONS\r\n"
    b"Content-Type: text/plain\r\n"
    b"Content-Length: 5\r\n"
    b"\r\n"
    b"hello"
)
RINGING = (
    b"SIP/2.0 180 Ringing\r\n"
    b"Via: SIP/2.0/UDP pc33.atlanta.com;branch=z9hG4bKhjhs8ass877\r\n"
    b"To: <sip:carol@chicago.com>;tag=x\r\n"
    b"From: Alice <sip:alice@atlanta.com>;tag=1928301774\r\n"
    b"Call-ID: a84b4c76e66710\r\n"
    b"CSeq: 63104 INVITE\r\n"
    b"Content-Length: 0\r\n"
    b"\r\n"
)


def changed(old: bytes, new: bytes, message: bytes = OPTIONS) -> bytes:
    assert old in message
    return message.replace(old, new, 1)


def refusal(data: bytes, limits: Limits | None = None) -> MalformedMessage:
    with pytest.raises(MalformedMessage) as caught:
        parse_datagram(data, limits or Limits())
    return caught.value


def test_a_request_in_a_datagram() -> None:
    request = parse_datagram(OPTIONS)
    assert isinstance(request, Request)
    assert (request.method, str(request.uri), request.body) == ("OPTIONS", "sip:carol@chicago.com", b"hello")
    assert [name for name, _ in request.headers] == [
        *("Via", "Max-Forwards", "To", "From", "Call-ID", "CSeq", "Content-Type")
    ]


def test_a_response_in_a_datagram() -> None:
    response = parse_datagram(RINGING)
    assert isinstance(response, Response)
    assert (response.status, response.reason, response.cseq) == (180, "Ringing", CSeq(63104, "INVITE"))


@pytest.mark.conformance("RFC 3261", "18.3", "bytes after the Content-Length of a datagram are ignored")
def test_bytes_after_the_content_length_are_ignored() -> None:
    assert parse_datagram(OPTIONS + b" and more") == parse_datagram(OPTIONS)


@pytest.mark.conformance("RFC 3261", "18.3", "without Content-Length the body is the rest of the datagram")
def test_without_content_length_the_body_is_the_rest_of_the_datagram() -> None:
    assert parse_datagram(changed(b"Content-Length: 5\r\n", b"") + b" and more").body == b"hello and more"


@pytest.mark.conformance("RFC 3261", "18.3", "a datagram that is shorter than its Content-Length says gets 400")
def test_a_body_shorter_than_its_content_length_is_refused() -> None:
    error = refusal(OPTIONS[:-1])
    assert (error.status, error.reason) == (400, "Body shorter than Content-Length")
    assert error.request is not None
    assert error.request.call_id == "a84b4c76e66710"


@pytest.mark.parametrize("text", [b"-5", b"5x", b"", b"0x5", b"+5", b"5.0", "\u0665".encode(), b"9" * 5000])
def test_a_content_length_that_is_no_fitting_number_is_refused(text: bytes) -> None:
    assert refusal(changed(b"Length: 5", b"Length: " + text)).status == 400


def test_two_content_lengths_are_refused_even_if_alike() -> None:
    error = refusal(changed(b"\r\n\r\n", b"\r\nl: 5\r\n\r\n"))
    assert error.reason == "More than one Content-Length"


@pytest.mark.conformance("RFC 3261", "7.5", "empty lines in front of a message are ignored")
def test_empty_lines_in_front_are_ignored() -> None:
    """RFC 3261 section 7.5."""
    assert parse_datagram(b"\r\n\r\n\r\n" + OPTIONS) == parse_datagram(OPTIONS)


@pytest.mark.conformance("RFC 3261", "7.3.1", "a header field may be folded")
def test_a_folded_line_is_one_line() -> None:
    """RFC 3261 section 7.3.1."""
    folded = changed(
        b"From: Alice <sip:alice@atlanta.com>;tag", b"From:\r\n Alice \r\n\t <sip:alice@atlanta.com> ;\r\n tag"
    )
    assert parse_datagram(folded).from_ == NameAddr.parse("Alice <sip:alice@atlanta.com>;tag=1928301774")


@pytest.mark.conformance("RFC 3261", "7.3.1", "white space about the colon is ignored")
def test_white_space_before_the_colon_is_ignored() -> None:
    assert parse_datagram(changed(b"Call-ID:", b"call-id \t :")).call_id == "a84b4c76e66710"


@pytest.mark.conformance("RFC 3261", "7.1", "SIP-Version is compared without case")
def test_the_version_compares_without_case() -> None:
    """RFC 3261 section 7.1."""
    assert parse_datagram(changed(b"com SIP/2.0", b"com sip/2.0")) == parse_datagram(OPTIONS)
    assert parse_datagram(changed(b"SIP/2.0 180", b"sip/2.0 180", RINGING)) == parse_datagram(RINGING)


def test_text_that_is_no_utf8_is_read_as_latin1() -> None:
    assert parse_datagram(changed(b"Alice", b"J\xf6rg")).from_.display_name == "Jörg"
    assert parse_datagram(changed(b"Alice", b"J\xc3\xb6rg")).from_.display_name == "Jörg"


def test_a_lone_line_feed_is_refused_and_cannot_reach_the_answer() -> None:
    error = refusal(changed(b"Call-ID: a", b"Call-ID: \nVia: x\ra"))
    assert error.reason == "Line end other than CRLF"
    assert error.request is not None
    answer = error.request.response(error.status, error.reason).serialise()
    assert b"Call-ID: Via: x a84b4c76e66710\r\n" in answer


@pytest.mark.parametrize("name", [b"Via", b"From", b"To", b"Call-ID", b"CSeq"])
def test_a_request_without_a_mandatory_field_is_refused_and_cannot_be_answered(name: bytes) -> None:
    line = next(line for line in OPTIONS.split(b"\r\n") if line.startswith(name + b":"))
    error = refusal(changed(line + b"\r\n", b""))
    assert (error.status, error.reason, error.request) == (400, f"Missing {name.decode()}", None)


def test_a_missing_max_forwards_is_no_error() -> None:
    """RFC 2543 clients do not send it."""
    assert parse_datagram(changed(b"Max-Forwards: 70\r\n", b"")).max_forwards is None


@pytest.mark.conformance("RFC 3261", "7.3.1", "a field that has one value gets 400 if it is there twice")
@pytest.mark.parametrize("name", ["From", "To", "Call-ID", "CSeq", "Max-Forwards", "Content-Type"])
def test_a_field_that_is_there_once_is_refused_twice(name: str) -> None:
    line = next(line for line in OPTIONS.split(b"\r\n") if line.startswith(name.encode() + b":"))
    error = refusal(changed(line, line + b"\r\n" + line))
    assert (error.status, error.reason) == (400, f"More than one {name}")
    assert error.request is not None


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"Max-Forwards: 70", b"Max-Forwards: 256", "Bad Max-Forwards"),
        (b"Max-Forwards: 70", b"Max-Forwards: -1", "Bad Max-Forwards"),
        (b"Max-Forwards: 70", b"Expires: soon", "Bad Expires"),
        (b"Max-Forwards: 70", b"Contact: <sip:a@b>;;", "Bad Contact"),
        (b"Max-Forwards: 70", b"Contact: <sip:a@b>, *", "Bad URI"),
        (b"Max-Forwards: 70", b"Route: <sip:a@b", "Unbalanced"),
        (b"Max-Forwards: 70", b"Record-Route: sip:a@@b", "Bad URI"),
        (b"Max-Forwards: 70", b'Supported: "x', "Unbalanced"),
        (b"Max-Forwards: 70", b"No colon here", "Malformed header field"),
        (b"Max-Forwards: 70", b"B@d: name", "Malformed header field"),
        (b"Max-Forwards: 70", b": nothing", "Malformed header field"),
        (b"text/plain", b";charset=utf-8", "Bad Content-Type"),
        (b"63104 OPTIONS", b"63104 INVITE", "CSeq method"),
        (b"63104 OPTIONS", b"63104", "Bad CSeq"),
        (b"63104 OPTIONS", b"4294967296 OPTIONS", "Bad CSeq"),
        (b"Alice <", b'"Alice <', "Bad From"),
        (b";tag=1928301774", b";tag=1;tag=2", "Bad From"),
        (b"<sip:carol@chicago.com>\r\n", b"<carol@chicago.com>\r\n", "Bad URI"),
        (b"OPTIONS sip:", b"OPTIONS  sip:", "Malformed request line"),
        (b"com SIP/2.0", b"com SIP/2.0 ", "Malformed request line"),
        (b"sip:carol@chicago.com SIP", b"<sip:carol@chicago.com> SIP", "Bad URI"),
        (b"sip:carol@chicago.com SIP", b"sip:carol@chicago.com?Route=x SIP", "Headers in the Request-URI"),
    ],
)
def test_what_is_malformed_is_refused_and_answered(old: bytes, new: bytes, reason: str) -> None:
    error = refusal(changed(old, new))
    assert error.status == 400
    assert error.reason.startswith(reason)
    assert error.request is not None
    answer = parse_answer(error)
    assert (answer.status, answer.call_id, answer.via.branch) == (400, "a84b4c76e66710", "z9hG4bKhjhs8ass877")


def parse_answer(error: MalformedMessage) -> Response:
    """The answer as the peer reads it, with the fields at fault, which are echoed as they came, made good."""
    assert error.request is not None
    answer = error.request.response(error.status, error.reason, to_tag="t")
    assert parse_datagram(RINGING).via == answer.via
    headers = answer.headers.with_("From", "<sip:a@b>").with_("To", "<sip:c@d>").with_("CSeq", "1 OPTIONS")
    read = parse_datagram(Response(status=answer.status, reason=answer.reason, headers=headers).serialise())
    assert isinstance(read, Response)
    return read


def test_an_unreadable_request_uri_does_not_keep_the_request_from_being_answered() -> None:
    error = refusal(changed(b"sip:carol@chicago.com SIP", b"sip:carol@ SIP"))
    assert error.request is not None
    assert error.request.uri is UNREADABLE
    assert error.request.method == "OPTIONS"


@pytest.mark.conformance("RFC 3261", "21.5.6", "another version of SIP gets 505")
def test_another_version_is_answered_505() -> None:
    error = refusal(changed(b"com SIP/2.0", b"com SIP/7.0"))
    assert (error.status, error.reason) == (505, "Version Not Supported")
    assert error.request is not None


@pytest.mark.conformance("RFC 3261", "8.2.2.1", "a Request-URI of an unknown scheme gets 416")
@pytest.mark.parametrize("uri", [b"nobodyKnowsThisScheme:totallyopaquecontent", b"soap.beep://192.0.2.103:3002"])
def test_another_scheme_is_answered_416(uri: bytes) -> None:
    error = refusal(changed(b"sip:carol@chicago.com SIP", uri + b" SIP"))
    assert error.status == 416
    assert error.request is not None


@pytest.mark.conformance("RFC 3966", "3", "a tel Request-URI is taken")
def test_a_tel_uri_is_taken() -> None:
    request = parse_datagram(changed(b"sip:carol@chicago.com SIP", b"tel:+15551234 SIP"))
    assert isinstance(request, Request)
    assert request.uri.user == "+15551234"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\r\n\r\n",
        b"\x00" * 40,
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\x80\x00\x12\x34",
        bytes(range(256)),
        OPTIONS[:20],
        changed(b"OPTIONS sip:carol@chicago.com SIP/2.0\r\n", b""),
        changed(b"Via: SIP/2.0/UDP", b"Via: SIP/2.0/"),
    ],
)
def test_what_cannot_be_answered_is_dropped(data: bytes) -> None:
    assert refusal(data).request is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"180 Ringing", b"4294967301 better not break the receiver"),
        (b"180 Ringing", b"99 x"),
        (b"180 Ringing", b"700 x"),
        (b"180 Ringing", b"180\x00Ringing"),
        (b"SIP/2.0 180", b"SIP/7.0 180"),
        (b"63104 INVITE", b"9292394834772304023312 INVITE"),
        (b"<sip:carol@chicago.com>;tag=x", b'"<sip:carol@chicago.com>;tag=x'),
        (b"Call-ID: a84b4c76e66710\r\n", b""),
    ],
)
def test_a_malformed_response_is_never_answered(old: bytes, new: bytes) -> None:
    assert refusal(changed(old, new, RINGING)).request is None


@pytest.mark.parametrize("start", [b"SIP/2.0 180 ", b"SIP/2.0 180"])
def test_a_reason_may_be_empty(start: bytes) -> None:
    response = parse_datagram(changed(b"SIP/2.0 180 Ringing", start, RINGING))
    assert isinstance(response, Response)
    assert response.reason == ""


@pytest.mark.conformance("RFC 3261", "21.5.7", "a message beyond the limits gets 513")
def test_a_message_beyond_the_limits_is_answered_513() -> None:
    for limits in (Limits(message_bytes=200), Limits(header_fields=7), Limits(line_bytes=50)):
        error = refusal(OPTIONS, limits)
        assert (error.status, error.request is not None) == (513, True)
    fitting = Limits(message_bytes=len(OPTIONS), header_fields=8, line_bytes=60)
    assert parse_datagram(OPTIONS, fitting) == parse_datagram(OPTIONS)


def test_a_message_without_the_empty_line_is_refused() -> None:
    head = OPTIONS.partition(b"\r\n\r\n")[0]
    assert refusal(head).reason == "No empty line after the header"


# --- streams


def drained(parser: StreamParser) -> list[Message | KeepAlive | MalformedMessage]:
    found: list[Message | KeepAlive | MalformedMessage] = []
    while True:
        try:
            item = parser.next_message()
        except MalformedMessage as error:
            item = None
            found.append(error)
            if parser.broken:
                return found
            continue
        if item is None:
            return found
        found.append(item)


def fed(data: bytes, size: int, parser: StreamParser | None = None) -> list[Message | KeepAlive | MalformedMessage]:
    parser = parser or StreamParser()
    found = []
    for start in range(0, len(data), size):
        parser.feed(data[start : start + size])
        found += drained(parser)
    return found


STREAM = OPTIONS + b"\r\n\r\n" + RINGING + OPTIONS + b"\r\n" + RINGING


@pytest.mark.conformance("RFC 3261", "18.3", "on a stream the Content-Length says where a message ends")
@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 100000])
def test_a_stream_gives_the_same_messages_in_whatever_pieces_it_comes(size: int) -> None:
    request, response = parse_datagram(OPTIONS), parse_datagram(RINGING)
    assert fed(STREAM, size) == [
        *(request, KeepAlive.PONG, KeepAlive.PING, response, request, KeepAlive.PONG, response)
    ]


@pytest.mark.conformance("RFC 5626", "3.5.1", "two CRLF are a ping, and one is its answer")
def test_two_pings_are_two() -> None:
    assert fed(b"\r\n" * 4, 3) == [KeepAlive.PONG, KeepAlive.PING, KeepAlive.PONG, KeepAlive.PING]


def test_a_malformed_message_on_a_stream_costs_only_itself() -> None:
    bad = changed(b"63104 OPTIONS", b"63104 INVITE")
    first, second = fed(bad + OPTIONS, 10)
    assert isinstance(first, MalformedMessage)
    assert first.request is not None
    assert second == parse_datagram(OPTIONS)


@pytest.mark.conformance("RFC 3261", "20.14", "on a stream a message without a Content-Length is refused")
@pytest.mark.parametrize(
    ("old", "new", "status"),
    [
        (b"Content-Length: 5\r\n", b"", 400),
        (b"Content-Length: 5", b"Content-Length: five", 400),
        (b"Content-Length: 5", b"Content-Length: 5\r\nl: 6", 400),
        (b"Content-Length: 5", b"Content-Length: 70000", 513),
    ],
)
def test_a_stream_whose_boundaries_are_lost_is_broken(old: bytes, new: bytes, status: int) -> None:
    parser = StreamParser()
    (error,) = fed(changed(old, new) + OPTIONS, 100000, parser)
    assert isinstance(error, MalformedMessage)
    assert (error.status, error.request is not None, parser.broken) == (status, True, True)
    parser.feed(OPTIONS)
    assert parser.next_message() is None


def test_a_header_that_does_not_end_breaks_the_stream_at_the_limit() -> None:
    parser = StreamParser(Limits(message_bytes=1000))
    (error,) = fed(OPTIONS.partition(b"\r\n\r\n")[0] + b"x" * 1000, 10, parser)
    assert isinstance(error, MalformedMessage)
    assert (error.status, parser.broken) == (513, True)


# --- round trips and fuzz

TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\r\n"), max_size=12)
TOKEN = st.from_regex(r"[A-Za-z0-9!%*_+`'~.-]{1,10}", fullmatch=True)
URI = st.builds(Uri, user=TEXT.filter(bool), host=st.just("example.com"), port=st.none() | st.integers(0, 65535))
ADDRESS = st.builds(
    NameAddr, uri=URI, display_name=TEXT.map(str.strip), parameters=TOKEN.map(lambda tag: Parameters({"tag": tag}))
).map(str)
VIA = st.builds(
    Via,
    transport=st.just("UDP"),
    host=st.just("h"),
    parameters=TOKEN.map(lambda branch: Parameters({"branch": branch})),
).map(str)
EXTENSION = st.tuples(TOKEN.map(lambda name: "X-" + name), TEXT)


@st.composite
def messages(draw: st.DrawFn) -> Request | Response:
    method = draw(st.sampled_from(("INVITE", "ACK", "BYE", "CANCEL", "OPTIONS", "MESSAGE")) | TOKEN)
    headers = Headers(
        [
            *(("Via", via) for via in draw(st.lists(VIA, min_size=1, max_size=3))),
            ("From", draw(ADDRESS)),
            ("To", draw(ADDRESS)),
            ("Call-ID", draw(TOKEN)),
            ("CSeq", str(CSeq(draw(st.integers(0, 2**31 - 1)), method))),
            *(("Contact", contact) for contact in draw(st.lists(ADDRESS, max_size=2))),
            *draw(st.lists(EXTENSION, max_size=3)),
        ]
    )
    body = draw(st.binary(max_size=30))
    if draw(st.booleans()):
        return Request(method=method, uri=draw(URI), headers=headers, body=body)
    reason = draw(st.from_regex(r"[A-Za-z\t äß]{0,12}", fullmatch=True))
    return Response(status=draw(st.integers(100, 699)), reason=reason, headers=headers, body=body)


@settings(deadline=None, max_examples=80)
@given(message=messages())
def test_parse_is_the_inverse_of_serialise(message: Request | Response) -> None:
    assert parse_datagram(message.serialise()) == message
    assert fed(message.serialise(), 1) == [message]


@settings(deadline=None, max_examples=400)
@given(data=st.binary(max_size=300))
def test_no_bytes_raise_anything_but_a_refusal(data: bytes) -> None:
    survive(data)


@settings(deadline=None, max_examples=100)
@given(seed=st.integers(0, 2**32))
def test_no_mutation_of_a_message_raises_anything_but_a_refusal(seed: int) -> None:
    source = random.Random(seed)
    for _ in range(20):
        data = bytearray(source.choice((OPTIONS, RINGING, STREAM)))
        for _ in range(source.randint(1, 6)):
            start = source.randrange(len(data))
            stop = start + source.choice((0, 1, 1, 1, 3, 20))
            data[start:stop] = source.choice((b"", b"\r\n", b":", b";", b'"', b"<", b",", b"\x00", b"\xff", b"=", b"%"))
        survive(bytes(data))


def survive(data: bytes) -> None:
    """Parse `data` both ways; every refusal can be answered or dropped, and what is read reads again."""
    fed(data, 50)
    try:
        message = parse_datagram(data)
    except MalformedMessage as error:
        if error.request is not None:
            error.request.received_from("192.0.2.1", 5060).response(error.status, error.reason, to_tag="t").serialise()
        return
    again = parse_datagram(message.serialise())
    assert again == message
    if isinstance(message, Request):
        message.received_from("192.0.2.1", 5060).response(200, to_tag="t").serialise()
    for name in (
        "contacts",
        "route",
        "record_route",
        "max_forwards",
        "expires",
        "require",
        "supported",
        "content_type",
    ):
        assert getattr(again, name) == getattr(message, name)


HOSTILE = {
    "commas": b"," * 60000,
    "quotes": b'"' * 60000,
    "open brackets": b"<" * 60000,
    "brackets": b"<>" * 30000,
    "escapes": b'"' + b"\\" * 60000,
    "semicolons": b";" * 60000,
    "parameters": b"<sip:a@b>" + b";a" * 29000,
    "many parameters": b"<sip:a@b>" + b"".join(b";p%d=%d" % (n, n) for n in range(4500)),
    "blanks": b" " * 60000 + b"x",
    "blanks between": b"a" + b" " * 59000 + b"b <sip:a@b>",
    "folded blanks": b"x\r\n " + b" " * 60000 + b"x",
    "blanks before a fold": b" " * 60000 + b"x\r\n x",
    "folds": b"\r\n " * 20000 + b"x",
    "addresses": b"<sip:a@b>," * 6000,
    "percents": b"<sip:" + b"%" * 60000 + b"@b>",
    "user parameters": b"<sip:a@b" + b";x" * 29000 + b">",
    "uri headers": b"<sip:a@b?" + b"a=b&" * 14000 + b">",
    "digits": b"9" * 60000,
    "colons": b"sip:" + b":" * 60000,
    "ats": b"sip:" + b"@" * 60000,
    "dots": b"sip:a@" + b"." * 60000,
    "ipv6": b"sip:a@[" + b":" * 60000 + b"]",
    "tokens": b"a " * 30000,
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("name", [b"Via", b"From", b"Contact", b"CSeq", b"Supported", b"Content-Type", b"Max-Forwards"])
def test_no_hostile_field_costs_more_than_linear_time(name: bytes, kind: str) -> None:
    """60 KB take some ms when every step is linear, and minutes or more when one is not."""
    line = next((line for line in OPTIONS.split(b"\r\n") if line.startswith(name + b":")), b"Max-Forwards: 70")
    data = changed(line, name + b": " + HOSTILE[kind])
    limits = Limits(message_bytes=100_000, line_bytes=100_000)
    started = time.process_time()
    try:
        parse_datagram(data, limits)
    except MalformedMessage as error:
        if error.request is not None:
            error.request.received_from("192.0.2.1", 5060).response(400, to_tag="t").serialise()
    assert time.process_time() - started < 1


def test_many_short_fields_cost_linear_time() -> None:
    data = changed(b"Max-Forwards: 70", b"\r\n".join(b"X%d: 1" % n for n in range(7000)))
    started = time.process_time()
    assert len(parse_datagram(data, Limits(message_bytes=100_000, header_fields=10_000)).headers) == 7006
    assert time.process_time() - started < 1


def test_a_slow_stream_costs_linear_time() -> None:
    """The search for the end of the header goes on where it stopped."""
    head = changed(b"Max-Forwards: 70", b"X: " + b"x" * 16000)
    started = time.process_time()
    assert len(fed(head, 1)) == 1
    assert time.process_time() - started < 2
