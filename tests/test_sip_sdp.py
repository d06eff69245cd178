"""Session descriptions and offer/answer: RFC 8866, RFC 3264, RFC 3551, RFC 4733, RFC 3605, RFC 5761."""

from __future__ import annotations

import random
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sip.errors import LocalProtocolError, RemoteProtocolError
from sip.sdp import Audio, Capabilities, Direction, Media, Origin, SessionDescription, answer, offer, settle

HERE = Capabilities(host="192.0.2.10", port=20000, session_id=77)
SESSION = "v=0\r\no=alice 2890844526 2890844526 IN IP4 198.51.100.1\r\ns=-\r\nc=IN IP4 198.51.100.1\r\nt=0 0\r\n"
AUDIO = (
    "m=audio 49170 RTP/AVP 8 0 101\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:0 PCMU/8000\r\n"
    "a=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-16\r\n"
)


def described(*media: str, session: str = SESSION) -> SessionDescription:
    return SessionDescription.parse(
        (session + "".join(line + "\r\n" for text in media for line in text.splitlines())).encode()
    )


def agreed(*media: str, session: str = SESSION, capabilities: Capabilities = HERE) -> Audio:
    return answer(described(*media, session=session), capabilities)[1]


def lines_of(description: SessionDescription) -> list[str]:
    return description.serialise().decode().splitlines()


def refusal(*media: str, session: str = SESSION, capabilities: Capabilities = HERE) -> RemoteProtocolError:
    with pytest.raises(RemoteProtocolError) as caught:
        answer(described(*media, session=session), capabilities)
    return caught.value


# --- RFC 8866


@pytest.mark.conformance("RFC 8866", "5", "every type of line of a description is read")
def test_a_description_falls_into_its_parts() -> None:
    description = described(
        "m=audio 49170/2 RTP/AVP 0\ni=speech\nc=IN IP4 203.0.113.9\nb=AS:64\na=sendonly\na=rtpmap:0 PCMU/8000",
        session="v=0\r\no=alice 1 2 IN IP6 2001:db8::1\r\ns=a talk\r\ni=info\r\nu=http://a\r\ne=x@y\r\np=+1\r\n"
        "c=IN IP6 2001:db8::1\r\nb=CT:100\r\nt=0 0\r\nr=7d 1h 0 25h\r\nt=1 2\r\nz=1 -1h\r\nk=prompt\r\na=tool:x\r\n",
    )
    assert description == SessionDescription(
        origin=Origin(username="alice", session_id=1, version=2, host="2001:db8::1"),
        name="a talk",
        host="2001:db8::1",
        attributes=(("tool", "x"),),
        lines=(
            *(("i", "info"), ("u", "http://a"), ("e", "x@y"), ("p", "+1"), ("b", "CT:100")),
            *(("t", "0 0"), ("r", "7d 1h 0 25h"), ("t", "1 2"), ("z", "1 -1h"), ("k", "prompt")),
        ),
        media=(
            Media(
                kind="audio",
                port=49170,
                port_count=2,
                profile="RTP/AVP",
                formats=("0",),
                host="203.0.113.9",
                attributes=(("sendonly", None), ("rtpmap", "0 PCMU/8000")),
                lines=(("i", "speech"), ("b", "AS:64")),
            ),
        ),
    )
    assert SessionDescription.parse(description.serialise()) == description


@pytest.mark.conformance("RFC 8866", "5", "lines may end in a line feed alone")
def test_lines_may_end_in_line_feed_alone() -> None:
    assert SessionDescription.parse((SESSION + AUDIO).replace("\r\n", "\n").encode()) == described(AUDIO)


def test_text_that_is_no_utf8_is_read_as_latin1() -> None:
    assert SessionDescription.parse((SESSION + AUDIO).replace("s=-", "s=Gr\xfc\xdfe").encode("latin-1")).name == "Grüße"


@pytest.mark.parametrize(
    "data",
    [
        "",
        "v=0",
        "v=1\no=- 1 1 IN IP4 1.1.1.1\n",
        "o=- 1 1 IN IP4 1.1.1.1\nv=0\n",
        "v=0\ns=-\n",
        "v=0\no=- x 1 IN IP4 1.1.1.1\n",
        "v=0\no=- 1 1 IN IP4\n",
        "v=0\no=- 1 1 ATM NSAP x\n",
        "v=0\no=- 1 1 IN IP4 1.1.1.1\nx=1\n",
        "v=0\no=- 1 1 IN IP4 1.1.1.1\nc=IN IP5 1.1.1.1\n",
        "v=0\no=- 1 1 IN IP4 1.1.1.1\nc=\n",
        "v=0\no=- 1 1 IN IP4 1.1.1.1\n\ns=-\n",
        "v=0\no=- 1 1 IN IP4 1.1.1.1\nmedia\n",
        "v=0\no=- 1 1 IN IP4 1.1.1.1\nm=audio\n",
        "v=0\no=- 1 1 IN IP4 1.1.1.1\nm=audio 1 RTP/AVP\n",
        "v=0\no=- 1 1 IN IP4 1.1.1.1\nm=audio -1 RTP/AVP 0\n",
        "v=0\no=- 1 1 IN IP4 1.1.1.1\nm=audio 65536 RTP/AVP 0\n",
        "v=0\no=- 1 1 IN IP4 1.1.1.1\nm=audio 1 RTP/AVP 0\ns=late\n",
        "v=0\no=- 1 1 IN IP4 1.1.1.1\na=x\ry\n",
        "v=0\no=- 1 1 IN IP4 1.1.1.1\n" + "m=audio 1 RTP/AVP 0\n" * 33,
        "\x00\x01\x02",
    ],
)
def test_a_malformed_description_is_refused(data: str) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        SessionDescription.parse(data.encode())
    assert caught.value.status == 400


def test_a_value_that_would_break_out_of_its_line_is_our_fault() -> None:
    with pytest.raises(LocalProtocolError):
        replace(described(AUDIO), name="a\r\nm=video 1 RTP/AVP 31").serialise()


# --- the answer: RFC 3264 section 6


def test_the_answer_byte_for_byte() -> None:
    description, audio = answer(described(AUDIO), HERE)
    assert lines_of(description) == [
        "v=0",
        "o=- 77 1 IN IP4 192.0.2.10",
        "s=-",
        "c=IN IP4 192.0.2.10",
        "t=0 0",
        "m=audio 20000 RTP/AVP 8 101",
        "a=rtpmap:8 PCMA/8000",
        "a=rtpmap:101 telephone-event/8000",
        "a=fmtp:101 0-15",
        "a=ptime:20",
        "a=sendrecv",
    ]
    assert audio == Audio(
        remote_host="198.51.100.1",
        remote_port=49170,
        rtcp_host="198.51.100.1",
        rtcp_port=49171,
        rtcp_mux=False,
        codec="PCMA",
        payload_type=8,
        telephone_event=101,
        telephone_event_received=101,
        comfort_noise=None,
        ptime_ms=20,
        direction=Direction.SENDRECV,
    )


@pytest.mark.conformance("RFC 3264", "6", "the answer has as many m= lines as the offer, in its order")
@pytest.mark.conformance("RFC 3264", "6", "a stream that is not taken has port 0 in the answer")
def test_the_answer_has_the_streams_of_the_offer_in_their_order() -> None:
    video = "m=video 51372 RTP/AVP 31 32\na=rtpmap:31 H261/90000"
    other = "m=image 4000 udptl t38"
    description, _ = answer(described(video, AUDIO, other, AUDIO), HERE)
    assert [line for line in lines_of(description) if line.startswith("m=")] == [
        "m=video 0 RTP/AVP 31 32",
        "m=audio 20000 RTP/AVP 8 101",
        "m=image 0 udptl t38",
        "m=audio 0 RTP/AVP 8 0 101",
    ]


@pytest.mark.conformance(
    "RFC 3264", "6.1", "of the codecs that both have, the answer takes the one that the offer prefers"
)
@pytest.mark.conformance("RFC 3551", "6", "a static payload type needs no rtpmap")
@pytest.mark.parametrize(
    ("formats", "payload_type", "codec"),
    [("0 8", 0, "PCMU"), ("8 0", 8, "PCMA"), ("18 9 8 0", 8, "PCMA"), ("3 0", 0, "PCMU")],
)
def test_the_first_codec_of_the_offer_that_we_have_is_taken(formats: str, payload_type: int, codec: str) -> None:
    """Static payload types need no rtpmap (RFC 3551 section 6)."""
    audio = agreed(f"m=audio 4000 RTP/AVP {formats}")
    assert (audio.payload_type, audio.codec) == (payload_type, codec)
    assert audio.telephone_event is None


def test_a_codec_that_is_not_configured_is_passed_over() -> None:
    assert agreed(AUDIO, capabilities=replace(HERE, codecs=("PCMU",))).codec == "PCMU"


@pytest.mark.conformance("RFC 3264", "6.1", "the answer has the payload type numbers of the offer, in its order")
def test_the_payload_types_of_the_offer_are_used_in_its_order() -> None:
    offered = described(
        "m=audio 4000 RTP/AVP 100 111 96 0\na=rtpmap:111 opus/48000/2\na=rtpmap:96 pcmu/8000/1\n"
        "a=rtpmap:100 Telephone-Event/8000\na=rtpmap:101 telephone-event/48000"
    )
    description, audio = answer(offered, HERE)
    assert description.media[0].formats == ("100", "96")
    assert description.media[0].codecs() == {100: "TELEPHONE-EVENT/8000", 96: "PCMU/8000"}
    assert (audio.codec, audio.payload_type, audio.telephone_event) == ("PCMU", 96, 100)


def test_a_static_payload_type_that_is_mapped_anew_is_what_the_map_says() -> None:
    assert agreed("m=audio 4000 RTP/AVP 0 8\na=rtpmap:0 L16/8000").codec == "PCMA"


def test_events_of_another_clock_rate_are_no_events_for_us() -> None:
    assert agreed("m=audio 4000 RTP/AVP 0 101\na=rtpmap:101 telephone-event/16000").telephone_event is None


def test_events_are_left_out_if_we_take_none() -> None:
    description, audio = answer(described(AUDIO), replace(HERE, telephone_event=False))
    assert description.media[0].formats == ("8",)
    assert (audio.telephone_event, audio.telephone_event_received) == (None, None)


@pytest.mark.parametrize("line", ["", "\na=rtpmap:13 CN/8000"])
def test_comfort_noise_is_noted_and_not_asked_for(line: str) -> None:
    description, audio = answer(described("m=audio 4000 RTP/AVP 0 13" + line), HERE)
    assert audio.comfort_noise == 13
    assert description.media[0].formats == ("0",)


@pytest.mark.conformance("RFC 8866", "6.5", "no packet lasts longer than the peer's maxptime")
@pytest.mark.conformance("RFC 8866", "6.4", "packets last as long as the peer's ptime says")
@pytest.mark.conformance("RFC 3551", "4.2", "packets last 20 ms by default")
@pytest.mark.parametrize(
    ("attributes", "ptime_ms"),
    [
        ("", 20),
        ("a=ptime:30", 30),
        ("a=ptime:10\na=maxptime:150", 10),
        ("a=ptime:60\na=maxptime:40", 40),
        ("a=maxptime:10", 10),
        ("a=ptime:50", 40),
        ("a=ptime:5", 10),
        ("a=ptime:200", 60),
        ("a=ptime:20.0", 20),
        ("a=ptime:fast", 20),
        ("a=ptime:0", 20),
        ("a=ptime:" + "9" * 5000, 20),
        ("a=ptime", 20),
    ],
)
def test_packets_last_as_long_as_the_peer_wants_and_no_longer(attributes: str, ptime_ms: int) -> None:
    description, audio = answer(described(f"m=audio 4000 RTP/AVP 0\n{attributes}"), HERE)
    assert audio.ptime_ms == ptime_ms
    assert ("ptime", str(ptime_ms)) in description.media[0].attributes


@pytest.mark.conformance(
    "RFC 3264",
    "6.1",
    "sendonly is answered by recvonly or inactive, recvonly by sendonly or inactive, inactive by inactive",
)
@pytest.mark.parametrize(
    ("offered", "wanted", "answered"),
    [
        ("sendrecv", "sendrecv", "sendrecv"),
        ("sendonly", "sendrecv", "recvonly"),
        ("recvonly", "sendrecv", "sendonly"),
        ("inactive", "sendrecv", "inactive"),
        ("sendrecv", "sendonly", "sendonly"),
        ("sendonly", "sendonly", "inactive"),
        ("recvonly", "sendonly", "sendonly"),
        ("sendrecv", "inactive", "inactive"),
        ("sendrecv", "recvonly", "recvonly"),
    ],
)
def test_the_direction_is_turned_round(offered: str, wanted: str, answered: str) -> None:
    description, audio = answer(described(AUDIO + f"a={offered}\r\n"), replace(HERE, direction=Direction(wanted)))
    assert (answered, None) in description.media[0].attributes
    assert audio.direction is Direction(answered)
    assert (audio.sends, audio.receives) == (answered in ("sendrecv", "sendonly"), answered in ("sendrecv", "recvonly"))


@pytest.mark.conformance("RFC 8866", "6.7", "a direction of the session holds for the streams that have none")
def test_a_direction_of_the_session_holds_for_its_streams_unless_they_say_otherwise() -> None:
    """RFC 3264 section 5.1."""
    held = SESSION + "a=sendonly\r\n"
    assert agreed(AUDIO, session=held).direction is Direction.RECVONLY
    assert agreed(AUDIO + "a=sendrecv\r\n", session=held).direction is Direction.SENDRECV


@pytest.mark.conformance("RFC 3264", "8.4", "nothing is sent to a peer whose c= is 0.0.0.0 or its like in IPv6")
@pytest.mark.parametrize(("kind", "host"), [("IP4", "0.0.0.0"), ("IP6", "::"), ("IP6", "0:0:0:0:0:0:0:0")])
def test_an_unspecified_address_is_a_hold(kind: str, host: str) -> None:
    """RFC 3264 section 8.4, of RFC 2543: nothing may be sent there, whatever the direction is."""
    audio = agreed(AUDIO, session=SESSION.replace("c=IN IP4 198.51.100.1", f"c=IN {kind} {host}"))
    assert (audio.direction, audio.sends, audio.receives) == (Direction.SENDRECV, False, True)


@pytest.mark.conformance("RFC 8866", "5.7", "the c= of a stream outweighs that of the session")
def test_the_address_of_the_stream_comes_before_that_of_the_session() -> None:
    assert agreed(AUDIO + "c=IN IP4 203.0.113.5\r\n").remote_host == "203.0.113.5"


@pytest.mark.conformance("RFC 8866", "5.7", "addresses of IPv6 are taken and given")
def test_ipv6() -> None:
    here = replace(HERE, host="2001:db8::a")
    description, audio = answer(described(AUDIO + "c=IN IP6 2001:DB8:0::7\r\n"), here)
    assert (audio.remote_host, audio.rtcp_host) == ("2001:db8::7", "2001:db8::7")
    assert "c=IN IP6 2001:db8::a" in lines_of(description)


@pytest.mark.conformance("RFC 3605", "2.1", "reports go to the port, and the address, that a=rtcp names")
@pytest.mark.conformance(
    "RFC 5761", "5.1.1", "rtcp-mux is in the answer where it is in the offer, and reports go to the port of RTP"
)
@pytest.mark.parametrize(
    ("attributes", "host", "port", "mux"),
    [
        ("", "198.51.100.1", 49171, False),
        ("a=rtcp:53020\r\n", "198.51.100.1", 53020, False),
        ("a=rtcp:53020 IN IP4 203.0.113.7\r\n", "203.0.113.7", 53020, False),
        ("a=rtcp:53020 IN IP4 example.com\r\n", "198.51.100.1", 53020, False),
        ("a=rtcp:0\r\n", "198.51.100.1", 49171, False),
        ("a=rtcp:99999\r\n", "198.51.100.1", 49171, False),
        ("a=rtcp:53020\r\na=rtcp-mux\r\n", "198.51.100.1", 49170, True),
    ],
)
def test_where_reports_go(attributes: str, host: str, port: int, mux: bool) -> None:
    """RFC 3605, RFC 5761."""
    description, audio = answer(described(AUDIO + attributes), HERE)
    assert (audio.rtcp_host, audio.rtcp_port, audio.rtcp_mux) == (host, port, mux)
    assert (("rtcp-mux", None) in description.media[0].attributes) is mux


@pytest.mark.conformance("RFC 5761", "5.1.1", "who cannot multiplex leaves rtcp-mux out of the answer")
def test_mux_is_not_taken_if_we_cannot() -> None:
    assert not agreed(AUDIO + "a=rtcp-mux\r\n", capabilities=replace(HERE, rtcp_mux=False)).rtcp_mux


# --- refusals: RFC 3261 section 20.43


@pytest.mark.conformance("RFC 3261", "20.43", "a Warning says why an offer was refused: 301, 302, 304, 305 or 330")
@pytest.mark.conformance("RFC 3261", "21.4.26", "an offer that cannot be taken gets 488")
@pytest.mark.parametrize(
    ("media", "code"),
    [
        ((), 304),
        (("m=video 4000 RTP/AVP 31",), 304),
        (("m=audio 0 RTP/AVP 0",), 304),
        (("m=audio 4000 RTP/AVP 9 18 101\na=rtpmap:101 telephone-event/8000",), 305),
        (("m=audio 4000 RTP/AVP 96\na=rtpmap:96 PCMU/16000",), 305),
        (("m=audio 4000 RTP/AVP 96\na=rtpmap:96 PCMU/8000/2",), 305),
        (("m=audio 4000 RTP/AVP 0x0 -8 999 00",), 305),
        (("m=audio 4000 RTP/SAVP 0",), 302),
        (("m=audio 4000 UDP/TLS/RTP/SAVPF 0", "m=video 4000 RTP/AVP 31"), 302),
        (("m=audio 4000 RTP/AVP 0\nc=IN IP4 239.1.2.3/127",), 330),
        (("m=audio 4000 RTP/AVP 0\nc=IN IP4 media.example.com",), 301),
        (("m=audio 4000 RTP/AVP 0\nc=IN IP6 2001:db8::1",), 301),
        (("m=audio 4000 RTP/AVP 0\nc=IN IP6 fe80::1%eth0",), 301),
    ],
)
def test_an_offer_that_we_cannot_take_is_answered_488_with_a_warning(media: tuple[str, ...], code: int) -> None:
    error = refusal(*media)
    assert error.status == 488
    ((name, value),) = error.headers
    assert name == "Warning"
    assert value == f'{code} 192.0.2.10 "{error.reason}"'


def test_a_stream_that_we_can_take_outweighs_those_that_we_cannot() -> None:
    description, audio = answer(described("m=audio 4000 RTP/SAVP 0", "m=audio 4002 RTP/AVP 0"), HERE)
    assert audio.remote_port == 4002
    assert [media.port for media in description.media] == [0, 20000]


def test_a_stream_without_any_address_is_malformed() -> None:
    error = refusal(AUDIO, session=SESSION.replace("c=IN IP4 198.51.100.1\r\n", ""))
    assert error.status == 400


# --- the origin: RFC 3264 section 8


@pytest.mark.conformance(
    "RFC 3264",
    "8",
    "a description that changes has a version higher by one in o=, any other the same, and the same session id",
)
def test_the_version_goes_up_by_one_on_change_alone() -> None:
    first, _ = answer(described(AUDIO), HERE)
    again, _ = answer(described(AUDIO), HERE, first)
    assert again == first
    held, _ = answer(described(AUDIO + "a=sendonly\r\n"), replace(HERE, session_id=999), again)
    assert held.origin == replace(first.origin, version=2)
    resumed, _ = answer(described(AUDIO), HERE, held)
    assert resumed == replace(first, origin=replace(first.origin, version=3))


# --- our offer, and the answer to it


def test_the_offer_byte_for_byte() -> None:
    assert lines_of(offer(HERE)) == [
        "v=0",
        "o=- 77 1 IN IP4 192.0.2.10",
        "s=-",
        "c=IN IP4 192.0.2.10",
        "t=0 0",
        "m=audio 20000 RTP/AVP 0 8 101",
        "a=rtpmap:0 PCMU/8000",
        "a=rtpmap:8 PCMA/8000",
        "a=rtpmap:101 telephone-event/8000",
        "a=fmtp:101 0-15",
        "a=ptime:20",
        "a=sendrecv",
        "a=rtcp-mux",
    ]
    assert offer(replace(HERE, codecs=("PCMA",), telephone_event=False)).media[0].formats == ("8",)


@pytest.mark.conformance("RFC 3264", "8", "a later offer has the m= lines of the session, in their order")
@pytest.mark.conformance("RFC 3264", "8.3.2", "a payload type keeps its meaning throughout the session")
def test_a_later_offer_keeps_streams_payload_types_and_session() -> None:
    """RFC 3264 section 8: m= lines never go away, and a payload type keeps its meaning."""
    before, _ = answer(
        described("m=video 4000 RTP/AVP 31", "m=audio 4002 RTP/AVP 0 96\na=rtpmap:96 telephone-event/8000"), HERE
    )
    after = offer(HERE, before)
    assert [(media.kind, media.port) for media in after.media] == [("video", 0), ("audio", 20000)]
    assert after.media[1].formats == ("0", "8", "96")
    assert after.origin == replace(before.origin, version=2)
    assert offer(HERE, after) == after


def test_two_of_us_agree() -> None:
    there = Capabilities(host="198.51.100.9", port=30000, session_id=5, codecs=("PCMA",))
    offered = offer(HERE)
    answered, theirs = answer(SessionDescription.parse(offered.serialise()), there)
    ours = settle(offered, SessionDescription.parse(answered.serialise()), HERE)
    assert (ours.codec, ours.remote_host, ours.remote_port) == ("PCMA", "198.51.100.9", 30000)
    assert (theirs.codec, theirs.remote_host, theirs.remote_port) == ("PCMA", "192.0.2.10", 20000)
    assert ours.rtcp_mux
    assert theirs.rtcp_mux
    assert ours.telephone_event == theirs.telephone_event == 101


@pytest.mark.conformance(
    "RFC 3264", "7", "who made the offer sends and receives what the direction of the answer allows"
)
@pytest.mark.parametrize(
    ("ours", "theirs", "outcome"),
    [
        ("sendrecv", "sendrecv", "sendrecv"),
        ("sendrecv", "recvonly", "sendonly"),
        ("sendrecv", "sendonly", "recvonly"),
        ("sendrecv", "inactive", "inactive"),
        ("sendonly", "recvonly", "sendonly"),
        ("sendonly", "sendrecv", "sendonly"),
        ("sendonly", "inactive", "inactive"),
    ],
)
def test_the_direction_of_an_answer_counts_within_what_was_offered(ours: str, theirs: str, outcome: str) -> None:
    here = replace(HERE, direction=Direction(ours))
    audio = settle(offer(here), described(AUDIO + f"a={theirs}\r\n"), here)
    assert audio.direction is Direction(outcome)


@pytest.mark.conformance("RFC 3264", "5.1", "each side receives under the payload types of its own description")
def test_an_answer_may_number_events_anew() -> None:
    """RFC 3264 section 5.1: each side receives under the numbers of its own description."""
    audio = settle(offer(HERE), described("m=audio 4000 RTP/AVP 0 96\na=rtpmap:96 telephone-event/8000"), HERE)
    assert (audio.telephone_event, audio.telephone_event_received) == (96, 101)


@pytest.mark.conformance("RFC 3264", "6", "an answer that has other m= lines than the offer is refused")
@pytest.mark.parametrize(
    "media",
    [
        (),
        ("m=audio 0 RTP/AVP 0",),
        ("m=audio 4000 RTP/AVP 9",),
        ("m=audio 4000 RTP/SAVP 0",),
        ("m=video 4000 RTP/AVP 31",),
        ("m=audio 4000 RTP/AVP 0", "m=video 0 RTP/AVP 31"),
    ],
)
def test_an_answer_that_does_not_fit_the_offer_is_refused(media: tuple[str, ...]) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        settle(offer(HERE), described(*media), HERE)
    assert caught.value.status == 488


@pytest.mark.parametrize(
    "changes",
    [
        {"host": "media.example.com"},
        {"codecs": ()},
        {"codecs": ("G729",)},
        {"default_ptime_ms": 25},
        {"host": "::1%lo"},
    ],
)
def test_impossible_capabilities_are_our_fault(changes: dict[str, object]) -> None:
    with pytest.raises(LocalProtocolError):
        replace(HERE, **changes)  # type: ignore[arg-type]


# --- round trips and fuzz

WORD = st.from_regex(r"[A-Za-z0-9/._-]{1,8}", fullmatch=True)
LINE = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\r\n"), max_size=20)
ATTRIBUTES = st.lists(st.tuples(WORD, st.none() | LINE), max_size=3).map(tuple)
HOST = st.just("") | st.ip_addresses().map(str)
MEDIA = st.builds(
    Media,
    kind=st.sampled_from(("audio", "video", "image")),
    port=st.integers(0, 65535),
    port_count=st.integers(1, 9),
    profile=st.sampled_from(("RTP/AVP", "RTP/SAVP", "udptl")),
    formats=st.lists(WORD, min_size=1, max_size=4).map(tuple),
    host=HOST,
    attributes=ATTRIBUTES,
    lines=st.lists(st.tuples(st.sampled_from("ib"), LINE), max_size=2).map(lambda lines: tuple(sorted(lines)[::-1])),
)
DESCRIPTION = st.builds(
    SessionDescription,
    origin=st.builds(
        Origin,
        username=WORD,
        session_id=st.integers(0, 2**64),
        version=st.integers(0, 2**64),
        host=st.ip_addresses().map(str),
    ),
    name=LINE,
    host=HOST,
    attributes=ATTRIBUTES,
    media=st.lists(MEDIA, max_size=3).map(tuple),
)


@settings(deadline=None, max_examples=60)
@given(description=DESCRIPTION)
def test_parse_is_the_inverse_of_serialise(description: SessionDescription) -> None:
    expected = replace(
        description,
        media=tuple(
            replace(media, lines=tuple(sorted(media.lines, key=lambda line: "ib".index(line[0]))))
            for media in description.media
        ),
    )
    assert SessionDescription.parse(description.serialise()) == expected


@settings(deadline=None, max_examples=100)
@given(seed=st.integers(0, 2**32))
def test_no_mutation_of_an_offer_raises_anything_but_a_refusal(seed: int) -> None:
    source = random.Random(seed)
    whole = (SESSION + AUDIO + "a=rtcp:5000 IN IP4 203.0.113.7\r\na=ptime:20\r\nm=video 1 RTP/AVP 31\r\n").encode()
    for _ in range(20):
        data = bytearray(whole)
        for _ in range(source.randint(1, 5)):
            start = source.randrange(len(data))
            stop = start + source.choice((0, 1, 1, 3, 15))
            data[start:stop] = source.choice(
                (b"", b"\n", b"=", b" ", b"/", b"0", b"-", b"%", b"\xff", b":", b"m=", b"9" * 9)
            )
        survive(bytes(data))


@settings(deadline=None, max_examples=200)
@given(data=st.binary(max_size=200))
def test_no_bytes_raise_anything_but_a_refusal(data: bytes) -> None:
    survive(b"v=0\no=- 1 1 IN IP4 1.1.1.1\n" + data)


def survive(data: bytes) -> None:
    try:
        description = SessionDescription.parse(data)
        answered, _ = answer(description, HERE)
    except RemoteProtocolError as error:
        assert error.status in (400, 488)  # noqa: PT017
        return
    assert len(answered.media) == len(description.media)
    assert SessionDescription.parse(answered.serialise()) == answered


@pytest.mark.parametrize(
    "hostile",
    [
        "m=audio 1 RTP/AVP" + " 0" * 25000,
        "m=audio 1 RTP/AVP 0\n" + "a=rtpmap:0 X/1\n" * 4000,
        "m=audio 1 RTP/AVP" + " 99" * 9000 + "\n" + "a=rtpmap:98 PCMU/8000\n" * 1500,
        "m=audio 1 RTP/AVP 0\n" + "a=x\n" * 15000,
        "m=audio 1 RTP/AVP 0\na=rtpmap:0" + " " * 60000,
        "m=audio 1 RTP/AVP 0\nc=IN IP4 " + "1" * 60000,
        "m=audio 1 RTP/AVP 0\na=ptime:" + "9" * 60000,
        "m=audio 1 RTP/AVP 9\na=rtcp:" + "9" * 60000,
        "k=\n" * 20000,
        "m=audio 1 RTP/AVP 9\n" * 32 + "a=rtpmap:0 X/1\n" * 4000,
    ],
)
def test_no_hostile_description_costs_more_than_linear_time(hostile: str) -> None:
    started = time.process_time()
    survive((SESSION + hostile).encode())
    assert time.process_time() - started < 1
