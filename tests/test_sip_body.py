"""Bodies: RFC 2046 section 5.1, RFC 5621, RFC 3261 sections 20.11 and 21.4.13."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sip.body import Part, compose, parts_of
from sip.errors import LocalProtocolError, RemoteProtocolError
from sip.headers import Headers
from sip.message import Request
from sip.uri import Uri

UNDERSTOOD = ("application/sdp", "text/plain", "application/ssml+xml")
SDP = Part.of("application/sdp", b"v=0\r\n")
TEXT = Part.of("Text/Plain; charset=utf-8", "Grüße".encode())


def message(content_type: str, body: bytes, *headers: tuple[str, str]) -> Request:
    fields = Headers([("Content-Type", content_type), *headers] if content_type else [*headers])
    return Request(method="INVITE", uri=Uri(host="a"), headers=fields, body=body)


def multipart(
    *parts: str, subtype: str = "mixed", closing: str = "\r\n--b--\r\n", headers: tuple[tuple[str, str], ...] = ()
) -> Request:
    body = "".join(f"\r\n--b\r\n{part}" for part in parts) + closing
    return message(f"multipart/{subtype};boundary=b", body.removeprefix("\r\n").encode(), *headers)


def found(request: Request, understood: tuple[str, ...] = UNDERSTOOD) -> list[tuple[str, bytes]]:
    return [(part.content_type, part.body) for part in parts_of(request, understood)]


def refusal(request: Request, understood: tuple[str, ...] = UNDERSTOOD) -> RemoteProtocolError:
    with pytest.raises(RemoteProtocolError) as caught:
        parts_of(request, understood)
    return caught.value


def test_no_body_has_no_parts() -> None:
    assert parts_of(message("application/unknown", b""), UNDERSTOOD) == ()


def test_a_body_of_one_type_is_one_part() -> None:
    assert found(message("Application/SDP", b"v=0")) == [("application/sdp", b"v=0")]


def test_a_body_without_type_is_refused() -> None:
    error = refusal(message("", b"x"))
    assert (error.status, error.reason) == (400, "Missing Content-Type")


@pytest.mark.conformance("RFC 3261", "8.2.3", "a body type that is not understood gets 415 with Accept")
def test_a_type_that_is_not_understood_is_answered_415_with_accept() -> None:
    error = refusal(message("application/isup", b"x"))
    assert error.status == 415
    assert error.headers == (("Accept", "application/sdp, text/plain, application/ssml+xml, multipart/mixed"),)


@pytest.mark.conformance("RFC 3261", "20.11", "a body is required unless its handling says optional")
def test_an_optional_body_that_is_not_understood_is_passed_over() -> None:
    """RFC 3261 section 20.11; required is the default."""
    optional = ("Content-Disposition", "Signal; Handling=Optional")
    assert parts_of(message("application/isup", b"x", optional), UNDERSTOOD) == ()
    assert refusal(message("application/isup", b"x", ("Content-Disposition", "signal;handling=required"))).status == 415
    assert refusal(message("application/isup", b"x", ("Content-Disposition", "signal"))).status == 415


@pytest.mark.conformance("RFC 3261", "8.2.3", "a content encoding that is not understood gets 415 with Accept-Encoding")
def test_an_encoded_body_is_answered_415_with_accept_encoding() -> None:
    error = refusal(message("application/sdp", b"x", ("Content-Encoding", "gzip")))
    assert (error.status, error.headers) == (415, (("Accept-Encoding", "identity"),))


@pytest.mark.conformance("RFC 2046", "5.1.3", "the parts of a multipart/mixed are taken one by one")
def test_a_multipart_is_taken_apart() -> None:
    request = multipart(
        "Content-Type: application/sdp\r\nContent-Disposition: session\r\n\r\nv=0\r\n",
        "content-type: text/plain;charset=iso-8859-1\r\n\r\nhello",
    )
    sdp, text = parts_of(request, UNDERSTOOD)
    assert (sdp.body, sdp.disposition, sdp.optional) == (b"v=0\r\n", "session", False)
    assert (text.body, text.text, text.disposition) == (b"hello", "hello", "")


@pytest.mark.conformance("RFC 2046", "5.1.1", "preamble and epilogue of a multipart are ignored")
def test_preamble_and_epilogue_are_ignored() -> None:
    body = b"preamble --b\r\n--b \t\r\nContent-Type: text/plain\r\n\r\nx\r\n--b--\r\nepilogue\r\n--b\r\n"
    assert found(message("multipart/mixed;boundary=b", body)) == [("text/plain", b"x")]


@pytest.mark.conformance("RFC 2046", "5.1.1", "a delimiter is the whole boundary in a line of its own")
def test_a_line_that_only_begins_like_the_boundary_belongs_to_the_part() -> None:
    assert found(multipart("Content-Type: text/plain\r\n\r\nx\r\n--bc\r\n--b-\r\ny")) == [
        ("text/plain", b"x\r\n--bc\r\n--b-\r\ny")
    ]


@pytest.mark.conformance("RFC 2046", "5.1", "a part without a header is plain text")
def test_a_part_without_header_is_plain_text() -> None:
    assert found(multipart("\r\nhello")) == [("text/plain", b"hello")]


def test_an_empty_part_is_a_part() -> None:
    assert found(multipart("\r\n", "Content-Type: text/plain\r\n\r\n")) == [("text/plain", b""), ("text/plain", b"")]


def test_a_quoted_boundary_with_blanks_and_signs() -> None:
    body = b"--a b+(c)=?\r\n\r\nx\r\n--a b+(c)=?--"
    assert found(message('multipart/mixed; boundary="a b+(c)=?"', body)) == [("text/plain", b"x")]


def test_multiparts_nest_and_their_parts_come_in_order() -> None:
    inner = "Content-Type: multipart/related;boundary=i\r\n\r\n--i\r\n\r\none\r\n--i\r\n\r\ntwo\r\n--i--"
    assert [body for _, body in found(multipart(inner, "\r\nthree"))] == [b"one", b"two", b"three"]


@pytest.mark.conformance("RFC 2046", "5.1.4", "of alternatives the last that is understood is taken")
def test_of_alternatives_the_last_that_is_understood_is_taken() -> None:
    """RFC 2046 section 5.1.4."""
    request = multipart(
        "Content-Type: text/plain\r\n\r\nplain",
        "Content-Type: application/ssml+xml\r\n\r\n<speak/>",
        "Content-Type: audio/wav\r\n\r\nRIFF",
        subtype="alternative",
    )
    assert found(request) == [("application/ssml+xml", b"<speak/>")]
    assert refusal(request, ("application/sdp",)).status == 415


@pytest.mark.conformance(
    "RFC 5621", "5.3", "a part that is not understood is passed over if it is optional, and gets 415 if not"
)
def test_an_optional_part_is_passed_over_and_a_required_one_is_not() -> None:
    """RFC 5621 section 5.3."""
    sdp = "Content-Type: application/sdp\r\n\r\nv=0"
    isup = "Content-Type: application/isup\r\nContent-Disposition: signal"
    assert found(multipart(sdp, f"{isup};handling=optional\r\n\r\nx")) == [("application/sdp", b"v=0")]
    assert refusal(multipart(sdp, f"{isup}\r\n\r\nx")).status == 415


def test_an_optional_multipart_is_passed_over_as_a_whole() -> None:
    isup = "Content-Type: application/isup\r\n\r\nx"
    optional = (("Content-Disposition", "by-reference;handling=optional"),)
    assert found(multipart("\r\nhello", isup, headers=optional)) == []
    malformed = multipart("\r\nhello", closing="", headers=optional)
    assert refusal(malformed).status == 400


@pytest.mark.parametrize(
    ("encoding", "body", "decoded"),
    [
        ("binary", b"a\x00b", b"a\x00b"),
        ("8BIT", b"\xff", b"\xff"),
        ("7bit", b"x", b"x"),
        ("base64", b"dj0wDQo=\r\n", b"v=0\r\n"),
        ("quoted-printable", b"v=3D0=\r\n!", b"v=0!"),
    ],
)
def test_transfer_encodings_of_mail_are_undone(encoding: str, body: bytes, decoded: bytes) -> None:
    request = message("text/plain", body, ("Content-Transfer-Encoding", encoding))
    assert found(request) == [("text/plain", decoded)]


def test_other_transfer_encodings_are_refused() -> None:
    assert refusal(message("text/plain", b"x", ("Content-Transfer-Encoding", "x-uu"))).status == 415
    assert refusal(message("text/plain", b"a", ("Content-Transfer-Encoding", "base64"))).status == 400


@pytest.mark.parametrize(
    ("charset", "body"),
    [
        ("", "ä".encode()),
        (";charset=UTF-8", "ä".encode()),
        (";charset=iso-8859-1", b"\xe4"),
        (";charset=windows-1252", b"\xe4"),
        (';charset="utf-16"', "ä".encode("utf-16")),
    ],
)
def test_text_is_read_in_its_charset(charset: str, body: bytes) -> None:
    assert Part.of(f"text/plain{charset}", body).text == "ä"


@pytest.mark.parametrize(
    ("charset", "body", "status"),
    [("", b"\xff", 400), (";charset=us-ascii", b"\xe4", 400), (";charset=zip", b"x", 415)],
)
def test_text_in_another_charset_is_refused(charset: str, body: bytes, status: int) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        _ = Part.of(f"text/plain{charset}", body).text
    assert caught.value.status == status


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/mixed", b"--b\r\n\r\nx\r\n--b--"),
        ("multipart/mixed;boundary=" + "b" * 71, b"x"),
        ('multipart/mixed;boundary=""', b"----\r\n\r\nx\r\n----"),
        ('multipart/mixed;boundary="b "', b"--b \r\n\r\nx\r\n--b --"),
        ('multipart/mixed;boundary="b*"', b"--b*\r\n\r\nx\r\n--b*--"),
        ("multipart/mixed;boundary=b", b"no delimiter"),
        ("multipart/mixed;boundary=b", b"--b\r\n\r\nx"),
        ("multipart/mixed;boundary=b", b"--b--\r\n"),
        ("multipart/mixed;boundary=b", b"--b\r\nContent-Type: text/plain\r\n--b--"),
        ("multipart/mixed;boundary=b", b"--b\r\nno colon\r\n\r\nx\r\n--b--"),
        ("multipart/mixed;boundary=b", b"--b\r\nContent-Type: ;x\r\n\r\nx\r\n--b--"),
        ("multipart/mixed;boundary=b", b"--b\r\nContent-Disposition: a;;\r\n\r\nx\r\n--b--"),
        ("multipart/mixed;boundary=b", b"--b\r\nX: a\nb\r\n\r\nx\r\n--b--"),
        ("multipart/mixed;boundary=b", b"--b\r\nContent-Type: a/b\r\nContent-Type: a/c\r\n\r\nx\r\n--b--"),
    ],
)
def test_a_malformed_multipart_is_refused(content_type: str, body: bytes) -> None:
    assert refusal(message(content_type, body)).status == 400


def test_parts_and_levels_are_bounded() -> None:
    assert len(found(multipart(*["\r\nx"] * 32))) == 32
    assert refusal(multipart(*["\r\nx"] * 33)).status == 413
    nested = message("multipart/mixed;boundary=b0", nest(3))
    assert found(nested) == [("text/plain", b"core")]
    assert refusal(message("multipart/mixed;boundary=b0", nest(4))).status == 413


def nest(levels: int) -> bytes:
    body = b"core"
    header = b""
    for level in reversed(range(levels)):
        body = b"--b%d\r\n%s\r\n%s\r\n--b%d--" % (level, header, body, level)
        header = b"Content-Type: multipart/mixed;boundary=b%d\r\n" % level
    return body


def test_what_is_composed_is_taken_apart_again() -> None:
    content_type, body = compose([SDP, TEXT])
    assert content_type.startswith("multipart/mixed;boundary=")
    assert parts_of(message(content_type, body), UNDERSTOOD) == (SDP, TEXT)


def test_a_multipart_of_nothing_is_our_fault() -> None:
    with pytest.raises(LocalProtocolError):
        compose([])


PARTS = st.lists(
    st.builds(
        Part.of, st.sampled_from(UNDERSTOOD), st.binary(max_size=40) | st.sampled_from((b"\r\n--", b"--\r\n", b"\r\n"))
    ),
    min_size=1,
    max_size=5,
)


@settings(deadline=None, max_examples=80)
@given(parts=PARTS)
def test_any_parts_survive_composition(parts: list[Part]) -> None:
    content_type, body = compose(parts)
    assert list(parts_of(message(content_type, body), UNDERSTOOD)) == parts


@settings(deadline=None, max_examples=100)
@given(seed=st.integers(0, 2**32))
def test_no_mutation_of_a_multipart_raises_anything_but_a_refusal(seed: int) -> None:
    source = random.Random(seed)
    for _ in range(20):
        data = bytearray(nest(2) + multipart("Content-Type: text/plain\r\n\r\nx", "\r\ny").body)
        for _ in range(source.randint(1, 5)):
            start = source.randrange(len(data))
            stop = start + source.choice((0, 1, 1, 3, 15))
            data[start:stop] = source.choice((b"", b"\r\n", b"--b0", b"--", b";", b":", b"\xff", b"\r", b'"'))
        survive(bytes(data))


@settings(deadline=None, max_examples=200)
@given(data=st.binary(max_size=100))
def test_no_bytes_raise_anything_but_a_refusal(data: bytes) -> None:
    survive(b"--b\r\n" + data + b"\r\n--b--")


def survive(data: bytes) -> None:
    for boundary in ("b", "b0"):
        try:
            for part in parts_of(message(f"multipart/mixed;boundary={boundary}", data), UNDERSTOOD):
                _ = (part.text, part.disposition, part.optional)
        except RemoteProtocolError as error:
            assert error.status in (400, 413, 415)  # noqa: PT017


@pytest.mark.parametrize(
    "hostile",
    [
        b"\r\n--b" * 12000,
        b"\r\n--b\r\n" * 8000,
        b"\r\n--b" + b" " * 60000,
        (b"\r\n--b" + b" " * 100) * 550,
        b"-" * 60000,
    ],
)
def test_no_hostile_multipart_costs_more_than_linear_time(hostile: bytes) -> None:
    started = time.process_time()
    survive(hostile)
    assert time.process_time() - started < 1
