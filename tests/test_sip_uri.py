"""URIs: RFC 3261 section 19.1, RFC 3966, RFC 5954."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sip.errors import LocalProtocolError, RemoteProtocolError
from sip.uri import Parameters, Uri, bracketed


@pytest.mark.conformance("RFC 3261", "19.1.1", "a SIP URI has user, password, host, port, parameters and headers")
def test_a_uri_falls_into_its_components() -> None:
    uri = Uri.parse("sips:alice:secret@atlanta.com:5062;transport=TCP;lr?subject=project%20x&priority=urgent")
    assert uri == Uri(
        scheme="sips",
        user="alice",
        password="secret",
        host="atlanta.com",
        port=5062,
        parameters=Parameters([("transport", "TCP"), ("lr", None)]),
        headers=(("subject", "project x"), ("priority", "urgent")),
    )
    assert uri.transport == "tcp"


@pytest.mark.conformance("RFC 3261", "19.1.2", "escapes in a URI are resolved")
def test_escapes_in_a_user_are_resolved() -> None:
    assert Uri.parse("sip:sips%3Auser%40example.com@example.net").user == "sips:user@example.com"


def test_escapes_that_are_no_utf8_are_read_as_latin1() -> None:
    assert Uri.parse("sip:J%FCrgen@example.net").user == "Jürgen"
    assert Uri.parse("sip:J%C3%BCrgen@example.net").user == "Jürgen"


@pytest.mark.conformance("RFC 3261", "19.1.2", "escapes in a URI are resolved")
def test_an_escaped_parameter_name_is_resolved() -> None:
    uri = Uri.parse("sip:cal%6Cer@host5.example.net;%6C%72;n%61me=v%61lue%25%34%31")
    assert uri.user == "caller"
    assert dict(uri.parameters) == {"lr": None, "name": "value%41"}


@pytest.mark.conformance("RFC 4240", "3", "the prompt of an announcement is a URI in a parameter")
def test_a_played_uri_comes_out_of_its_parameter_whole() -> None:
    """RFC 4240 section 3: the prompt is a URI, percent-encoded into a parameter."""
    played = "data:text/plain;charset=utf-8,Grüße, and 100%"
    uri = Uri(user="annc", host="ms.example.net", parameters=Parameters([("play", played)]))
    assert ";play=data:text/plain%3Bcharset%3Dutf-8%2CGr%C3%BC%C3%9Fe%2C%20and%20100%25" in str(uri)
    assert Uri.parse(str(uri)).parameters["play"] == played


def test_a_user_may_contain_semicolon_and_question_mark() -> None:
    assert Uri.parse("sip:user;par=u%40example.net@example.com").user == "user;par=u@example.net"
    assert Uri.parse("sip:what?now@example.com").user == "what?now"


def test_an_ipv6_host_loses_its_brackets_and_regains_them() -> None:
    uri = Uri.parse("sip:[2001:db8::10]:5070")
    assert (uri.host, uri.port) == ("2001:db8::10", 5070)
    assert str(Uri(host="2001:db8::10", port=5070)) == "sip:[2001:db8::10]:5070"
    assert bracketed("192.0.2.1") == "192.0.2.1"


@pytest.mark.conformance("RFC 3966", "3", "a tel URI has a number and parameters")
def test_a_tel_uri_has_a_number_and_parameters() -> None:
    uri = Uri.parse("tel:+1-201-555-0123;phone-context=example.com")
    assert (uri.scheme, uri.user, uri.host) == ("tel", "+1-201-555-0123", "")
    assert uri.parameters.value("phone-context") == "example.com"
    assert str(Uri(scheme="tel", user="+49#1")) == "tel:+49#1"


def test_another_scheme_is_kept_whole() -> None:
    uri = Uri.parse("soap.beep://192.0.2.103:3002")
    assert (uri.scheme, uri.user) == ("soap.beep", "//192.0.2.103:3002")
    assert str(Uri(scheme="urn", user="service:sos")) == "urn:service:sos"


def test_what_was_parsed_is_written_with_its_own_escapes() -> None:
    text = "sip:%61lice%2b@EXAMPLE.com;X=%41"
    assert str(Uri.parse(text)) == text


def test_a_scheme_and_parameter_names_are_found_in_any_case() -> None:
    uri = Uri.parse("SIP:a@b;Transport=UDP")
    assert (uri.scheme, uri.transport) == ("sip", "udp")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sip",
        "sip:",
        ":alice@example.com",
        "1sip:alice@example.com",
        "sip:@example.com",
        "sip:alice@",
        "sip:alice@bob@example.com",
        "sip:alice@example.com:65536",
        "sip:alice@example.com:",
        "sip:alice@example.com:port",
        "sip:alice@[2001:db8::1",
        "sip:alice@[2001:db8:::1]",
        "sip:alice@[127.0.0.1]",
        "sip:alice@exa mple.com",
        "sip:alice@example.com; lr",
        "sip:alice@example.com;",
        "sip:alice@example.com;;lr",
        "sip:alice@example.com;=x",
        "sip:alice@example.com;x=",
        "sip:alice@example.com;lr;LR",
        "sip:alice@example.com?",
        "sip:alice@example.com?subject",
        "sip:alice@example.com?=x",
        "sip:al%ice@example.com",
        "sip:al%4@example.com",
        "<sip:alice@example.com>",
        'sip:"alice"@example.com',
        "sip:alice@example.com\r\nX-Injected: 1",
        "sip:al\x00ice@example.com",
        "sip:example.com/path",
        "tel:",
        "tel:;x=1",
    ],
)
def test_a_malformed_uri_is_refused(text: str) -> None:
    with pytest.raises(RemoteProtocolError) as refusal:
        Uri.parse(text)
    assert refusal.value.status == 400


@pytest.mark.parametrize(
    "uri",
    [
        Uri(host=""),
        Uri(host="a b"),
        Uri(host="a\r\nb"),
        Uri(host="1::2::3"),
        Uri(host="a", port=70000),
        Uri(scheme="no good", user="x"),
        Uri(scheme="urn", user="a b"),
    ],
)
def test_a_uri_that_cannot_be_written_is_our_fault(uri: Uri) -> None:
    with pytest.raises(LocalProtocolError):
        str(uri)


@pytest.mark.conformance("RFC 3261", "19.1.4", "URIs are compared by their components")
@pytest.mark.conformance("RFC 5954", "4.2", "addresses of IPv6 are compared by value")
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("sip:%61lice@atlanta.com;transport=TCP", "sip:alice@AtlanTa.CoM;Transport=tcp"),
        ("sip:carol@chicago.com", "sip:carol@chicago.com;newparam=5"),
        ("sip:carol@chicago.com;security=on", "sip:carol@chicago.com;newparam=5"),
        (
            "sip:biloxi.com;transport=tcp;method=REGISTER?to=sip:bob%40biloxi.com",
            "sip:biloxi.com;method=REGISTER;transport=tcp?to=sip:bob%40biloxi.com",
        ),
        (
            "sip:alice@atlanta.com?subject=project%20x&priority=urgent",
            "sip:alice@atlanta.com?priority=urgent&Subject=project%20x",
        ),
        ("sip:a@[2001:db8::9:1]", "sip:a@[2001:0DB8:0:0:0:0:9:01]"),
    ],
)
def test_equivalent_uris(one: str, other: str) -> None:
    """RFC 3261 section 19.1.4, and RFC 5954 section 4.2 for the last."""
    assert Uri.parse(one).equivalent(Uri.parse(other))
    assert Uri.parse(other).equivalent(Uri.parse(one))


@pytest.mark.conformance("RFC 3261", "19.1.4", "URIs are compared by their components")
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("SIP:ALICE@AtLanTa.CoM;Transport=udp", "sip:alice@AtLanTa.CoM;Transport=UDP"),
        ("sip:bob@biloxi.com", "sip:bob@biloxi.com:5060"),
        ("sip:bob@biloxi.com", "sip:bob@biloxi.com;transport=udp"),
        ("sip:bob@biloxi.com", "sip:bob@biloxi.com:6000;transport=tcp"),
        ("sip:carol@chicago.com", "sip:carol@chicago.com?Subject=next%20meeting"),
        ("sip:bob@phone21.boxesbybob.com", "sip:bob@192.0.2.4"),
        ("sip:carol@chicago.com;security=on", "sip:carol@chicago.com;security=off"),
        ("sip:bob@biloxi.com", "sips:bob@biloxi.com"),
        ("sip:bob@biloxi.com", "sip:bob:@biloxi.com"),
        ("sip:bob@biloxi.com", "sip:bob@biloxi.com;maddr=239.255.255.1"),
    ],
)
def test_uris_that_are_not_equivalent(one: str, other: str) -> None:
    """RFC 3261 section 19.1.4."""
    assert not Uri.parse(one).equivalent(Uri.parse(other))
    assert not Uri.parse(other).equivalent(Uri.parse(one))


def test_parameters_are_an_ordered_mapping_that_does_not_change() -> None:
    one = Parameters({"Lr": None, "x": "1"})
    assert list(one.items()) == [("lr", None), ("x", "1")]
    assert "lr" in one
    assert one.value("lr") == one.value("absent") == ""
    assert list(one.with_("LR", "on")) == ["lr", "x"]
    assert one.without("lr") == Parameters({"x": "1"})
    assert one == Parameters([("x", "1"), ("lr", None)])
    assert hash(one) == hash(Parameters([("x", "1"), ("lr", None)]))
    assert one != {"lr": None, "x": "1"}


TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
NAME = TEXT.filter(bool).map(str.lower).filter(lambda name: name == name.lower())
HOSTS = st.one_of(
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9.-]{0,20}", fullmatch=True),
    st.ip_addresses().map(lambda address: str(address)),
)


@settings(deadline=None, max_examples=120)
@given(
    uri=st.builds(
        Uri,
        scheme=st.sampled_from(("sip", "sips")),
        user=TEXT.filter(bool),
        password=st.none() | TEXT,
        host=HOSTS,
        port=st.none() | st.integers(0, 65535),
        parameters=st.dictionaries(NAME, st.none() | TEXT.filter(bool), max_size=4).map(Parameters),
        headers=st.lists(st.tuples(TEXT.filter(bool), TEXT), max_size=3).map(tuple),
    )
)
def test_whatever_is_written_reads_back_the_same(uri: Uri) -> None:
    assert Uri.parse(str(uri)) == uri


@settings(deadline=None, max_examples=120)
@given(text=st.text(max_size=60) | st.from_regex(r"sips?:[a-z%@;?&=:\[\]0-9. ]{0,40}", fullmatch=True))
def test_no_text_raises_anything_but_a_refusal(text: str) -> None:
    try:
        uri = Uri.parse(text)
    except RemoteProtocolError:
        return
    assert str(uri) == text
