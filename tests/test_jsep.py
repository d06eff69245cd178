"""Offers of browsers and our answers: RFC 8829 (JSEP), RFC 8839 (ICE in SDP), RFC 8842 (DTLS), RFC 7587 (Opus)."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from http_api.webrtc import EXAMPLE
from mediaserver.jsep import MOST_CANDIDATES, BrowserOffer, OfferError, Side, answer, read
from sip.sdp import Direction, SessionDescription

FINGERPRINT = ":".join(["AB"] * 32)
HEAD = "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\n"
ICE = "a=ice-ufrag:abcd\r\na=ice-pwd:0123456789abcdef012345\r\n"
TRANSPORT = f"{ICE}a=fingerprint:sha-256 {FINGERPRINT}\r\na=setup:actpass\r\n"
# As Chromium offers it, shortened.
AUDIO = (
    "m=audio 9 UDP/TLS/RTP/SAVPF 111 63 9 0 8 13 110 126\r\nc=IN IP4 0.0.0.0\r\na=mid:0\r\na=sendrecv\r\na=rtcp-mux\r\n"
    "a=rtpmap:111 opus/48000/2\r\na=rtpmap:63 red/48000/2\r\na=rtpmap:9 G722/8000\r\na=rtpmap:0 PCMU/8000\r\n"
    "a=rtpmap:8 PCMA/8000\r\na=rtpmap:13 CN/8000\r\na=rtpmap:110 telephone-event/48000\r\n"
    "a=rtpmap:126 telephone-event/8000\r\n"
)
HOST_CANDIDATE = "1 1 udp 2122194687 192.0.2.7 49042 typ host generation 0 network-id 3"
SIDE = Side(
    ufrag="wxyz",
    password="543210fedcba9876543210",
    fingerprint=":".join(["CD"] * 32),
    candidates=("1 1 udp 2130706431 203.0.113.5 40000 typ host", "2 1 udp 1694498815 198.51.100.9 40000 typ srflx"),
)


def taken(*parts: str, codecs: tuple[str, ...] = ("PCMU", "opus")) -> BrowserOffer:
    return read("".join(parts), codecs=codecs)  # type: ignore[arg-type]


def offer(*, audio: str = AUDIO, transport: str = TRANSPORT, more: str = "") -> str:
    return HEAD + audio + transport + more


def refusal(text: str, **given: tuple[str, ...]) -> str:
    with pytest.raises(OfferError) as caught:
        taken(text, **given)
    return str(caught.value)


def test_an_offer_of_chromium_is_taken() -> None:
    found = taken(offer(more=f"a=candidate:{HOST_CANDIDATE}\r\n"))
    assert (found.codec, found.payload_type, found.telephone_event) == ("PCMU", 0, 126)
    assert (found.ufrag, found.password) == ("abcd", "0123456789abcdef012345")
    assert found.fingerprints == (("sha-256", FINGERPRINT),)
    assert (found.active, found.direction, found.bundled, found.mid) == (True, Direction.SENDRECV, True, "0")
    assert found.candidates == (HOST_CANDIDATE,)


def test_the_first_of_our_codecs_that_the_browser_knows_is_taken() -> None:
    found = taken(offer(), codecs=("opus", "PCMU"))
    assert (found.codec, found.payload_type, found.telephone_event) == ("opus", 111, 110)
    only = AUDIO.replace(" 0 8 ", " 8 ").replace("a=rtpmap:0 PCMU/8000\r\n", "")
    assert taken(offer(audio=only)).codec == "opus"


def test_digits_are_taken_with_the_clock_of_the_codec_alone() -> None:
    """RFC 4733 section 2.1: one clock for all that one source sends."""
    only = AUDIO.replace("a=rtpmap:110 telephone-event/48000\r\n", "").replace(" 110", "")
    assert taken(offer(audio=only), codecs=("opus",)).telephone_event is None
    assert taken(offer(audio=only), codecs=("PCMU",)).telephone_event == 126


def test_a_static_payload_type_needs_no_rtpmap() -> None:
    found = taken(offer(audio=AUDIO.replace("a=rtpmap:0 PCMU/8000\r\n", "")))
    assert (found.codec, found.payload_type) == ("PCMU", 0)


def test_of_several_payload_types_of_a_codec_the_first_is_taken() -> None:
    twice = AUDIO.replace("SAVPF 111", "SAVPF 109 111") + "a=rtpmap:109 opus/48000/2\r\n"
    assert taken(offer(audio=twice), codecs=("opus",)).payload_type == 109


@pytest.mark.parametrize(
    ("setup", "active", "said"),
    [("actpass", True, "active"), ("passive", True, "active"), ("active", False, "passive")],
)
@pytest.mark.conformance(
    "RFC 8842", "5.3", "the answerer is active where it may be, and passive where the offerer is active"
)
def test_the_dtls_role_is_active_unless_the_browser_is(setup: str, active: bool, said: str) -> None:
    found = taken(offer(transport=TRANSPORT.replace("actpass", setup)))
    assert found.active is active
    assert f"\r\na=setup:{said}\r\n" in answer(found, SIDE, session_id=7)


@pytest.mark.parametrize(
    ("offered", "direction"),
    [
        ("sendrecv", Direction.SENDRECV),
        ("sendonly", Direction.RECVONLY),
        ("recvonly", Direction.SENDONLY),
        ("inactive", Direction.INACTIVE),
    ],
)
def test_the_direction_answers_that_of_the_offer(offered: str, direction: Direction) -> None:
    found = taken(offer(audio=AUDIO.replace("sendrecv", offered)))
    assert found.direction is direction
    assert f"\r\na={direction.value}\r\n" in answer(found, SIDE, session_id=7)


def test_the_transport_of_the_session_and_of_the_bundle_is_meant_too() -> None:
    assert taken(HEAD, TRANSPORT, AUDIO).ufrag == "abcd"
    head = HEAD.replace("BUNDLE 0", "BUNDLE v 0")
    video = "m=video 9 UDP/TLS/RTP/SAVPF 96\r\nc=IN IP4 0.0.0.0\r\na=mid:v\r\n" + TRANSPORT
    bundled = AUDIO.replace("m=audio 9", "m=audio 0") + "a=bundle-only\r\n"
    assert taken(head, video, bundled).ufrag == "abcd"
    # One that is not in the bundle has to bring its own.
    assert "a=ice-ufrag" in refusal(HEAD.replace("BUNDLE 0", "BUNDLE v") + video + AUDIO)


@pytest.mark.parametrize(
    "candidate",
    [
        "1 1 udp 1 a2c31a5b-6c8f-41bf.local 49042 typ host",
        "1 1 tcp 1518214911 192.0.2.7 9 typ host tcptype active",
        "1 2 udp 1 192.0.2.7 49042 typ host",
        "1 1 udp 1 224.0.0.1 49042 typ host",
        "1 1 udp 1 0.0.0.0 49042 typ host",
        "1 1 udp 1 192.0.2.7 0 typ host",
        "1 1 udp 1 192.0.2.7 70000 typ host",
        "1 1 udp 1 192.0.2.7 49042 typ nonsense",
        "nonsense",
    ],
)
def test_a_candidate_that_cannot_be_tried_is_left_out(candidate: str) -> None:
    found = taken(offer(more=f"a=candidate:{candidate}\r\na=candidate:{HOST_CANDIDATE}\r\n"))
    assert found.candidates == (HOST_CANDIDATE,)


def test_of_many_candidates_the_first_are_tried() -> None:
    lines = [f"a=candidate:{n} 1 udp 1 192.0.2.{n} 4000 typ host\r\n" for n in range(1, 60)]
    assert len(taken(offer(more="".join(lines))).candidates) == MOST_CANDIDATES


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no session description"),
        ("hello", "no session description"),
        (HEAD, "It has no audio"),
        (offer(audio=AUDIO.replace("UDP/TLS/RTP/SAVPF", "RTP/AVP")), "It has no audio"),
        (offer(audio=AUDIO.replace("m=audio 9", "m=audio 0")), "It has no audio"),
        (offer(audio=AUDIO.replace("a=rtcp-mux\r\n", "")), "It lacks a=rtcp-mux"),
        (offer(transport=TRANSPORT.replace("a=ice-ufrag:abcd\r\n", "")), "a=ice-ufrag"),
        (offer(transport=TRANSPORT.replace("abcd", "a!cd")), "a=ice-ufrag"),
        (offer(transport=TRANSPORT.replace("ice-pwd:0123", "ice-pwd:\u00e9")), "a=ice-pwd"),
        (offer(transport=TRANSPORT.replace("012345\r\n", "\r\n")), "a=ice-pwd"),
        (offer(transport=TRANSPORT.replace(FINGERPRINT, "AB:CD")), "a=fingerprint"),
        (offer(transport=TRANSPORT.replace("sha-256", "md5")), "a=fingerprint"),
        (offer(transport=TRANSPORT.replace("actpass", "holdconn")), "a=setup"),
        (offer(transport=TRANSPORT.replace("a=setup:actpass\r\n", "")), "a=setup"),
        (offer(audio=AUDIO.replace("111", "300")), "payload type above 127"),
        (offer(audio="m=audio 9 UDP/TLS/RTP/SAVPF 8\r\nc=IN IP4 0.0.0.0\r\na=rtcp-mux\r\n"), "none of PCMU, opus"),
    ],
)
def test_an_offer_that_cannot_be_taken_says_what_it_lacks(text: str, reason: str) -> None:
    assert reason in refusal(text)


def test_the_answer_has_what_a_browser_needs() -> None:
    said = answer(taken(offer()), SIDE, session_id=7)
    assert said.splitlines() == [
        "v=0",
        "o=- 7 1 IN IP4 127.0.0.1",
        "s=-",
        "t=0 0",
        "a=group:BUNDLE 0",
        "m=audio 40000 UDP/TLS/RTP/SAVPF 0 126",
        "c=IN IP4 203.0.113.5",
        "a=mid:0",
        "a=ice-ufrag:wxyz",
        "a=ice-pwd:543210fedcba9876543210",
        f"a=fingerprint:sha-256 {SIDE.fingerprint}",
        "a=setup:active",
        "a=sendrecv",
        "a=rtcp-mux",
        "a=rtpmap:0 PCMU/8000",
        "a=rtpmap:126 telephone-event/8000",
        "a=fmtp:126 0-15",
        "a=ptime:20",
        f"a=candidate:{SIDE.candidates[0]}",
        f"a=candidate:{SIDE.candidates[1]}",
        "a=end-of-candidates",
    ]


@pytest.mark.conformance(
    "RFC 7587", "6.1", "Opus is declared with a clock of 48 kHz and two channels, whatever is sent"
)
def test_opus_is_answered_for_a_line_of_8_khz() -> None:
    said = answer(taken(offer(), codecs=("opus",)), SIDE, session_id=7)
    assert "\r\na=rtpmap:111 opus/48000/2\r\n" in said
    (parameters,) = re.findall(r"a=fmtp:111 (\S+)", said)
    assert {"maxplaybackrate=8000", "stereo=0", "useinbandfec=1"} <= set(parameters.split(";"))
    assert "\r\na=rtpmap:110 telephone-event/48000\r\n" in said


@pytest.mark.conformance("RFC 8829", "5.3.1", "what is not taken is refused by port zero, in its place")
def test_video_data_and_a_second_audio_are_refused_in_their_places() -> None:
    head = HEAD.replace("BUNDLE 0", "BUNDLE v 0 1 d")
    video = "m=video 9 UDP/TLS/RTP/SAVPF 96 97\r\nc=IN IP4 0.0.0.0\r\na=mid:v\r\na=rtpmap:96 VP8/90000\r\n" + TRANSPORT
    second = AUDIO.replace("mid:0", "mid:1") + TRANSPORT
    data = "m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\na=mid:d\r\na=sctp-port:5000\r\n"
    said = answer(taken(head, video, AUDIO, TRANSPORT, second, data), SIDE, session_id=7)
    described = SessionDescription.parse(said.encode())
    assert [(media.kind, media.port, [*media.values("mid")]) for media in described.media] == [
        ("video", 0, ["v"]),
        ("audio", 40000, ["0"]),
        ("audio", 0, ["1"]),
        ("application", 0, ["d"]),
    ]
    assert described.attributes == (("group", "BUNDLE 0"),)
    assert described.media[0].formats == ("96", "97")


def test_without_a_bundle_and_a_mid_the_answer_has_none() -> None:
    said = answer(
        taken(offer(audio=AUDIO.replace("a=mid:0\r\n", "")).replace("a=group:BUNDLE 0\r\n", "")), SIDE, session_id=7
    )
    assert "a=group" not in said
    assert "a=mid" not in said


def test_an_ipv6_candidate_is_named_as_such() -> None:
    side = Side(ufrag="wxyz", password="p" * 22, fingerprint="AB", candidates=("1 1 udp 1 2001:db8::5 40000 typ host",))
    assert "\r\nc=IN IP6 2001:db8::5\r\n" in answer(taken(offer()), side, session_id=7)


def test_the_example_of_the_api_is_an_offer() -> None:
    assert taken(EXAMPLE).codec == "PCMU"


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_whatever_is_offered_is_read_or_refused(data: st.DataObject) -> None:
    lines = (offer(more=f"a=candidate:{HOST_CANDIDATE}\r\n")).split("\r\n")
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(lines) - 1))
        change = data.draw(st.sampled_from(("drop", "double", "text")))
        if change == "drop":
            del lines[at]
        elif change == "double":
            lines.insert(at, lines[at])
        else:
            lines[at] = lines[at][:2] + data.draw(st.text(max_size=20))
        lines = lines or [""]
    try:
        found = taken("\r\n".join(lines))
    except OfferError:
        return
    SessionDescription.parse(answer(found, SIDE, session_id=7).encode())
