"""/v1/webrtc: browsers as telephones."""

from __future__ import annotations

from aiohttp import web

from .control import CallControl, WebRtcOrder
from .idempotency import Idempotency
from .intake import CLIENT, answer, read_model
from .route import Answer, Operation
from .schema import ApiLimits, WebRtcAnswer, WebRtcOffer

__all__ = ["OFFER", "WebRtc"]

EXAMPLE = """v=0\r
o=- 4611731400430051336 2 IN IP4 127.0.0.1\r
s=-\r
t=0 0\r
a=group:BUNDLE 0\r
m=audio 50000 UDP/TLS/RTP/SAVPF 111 0 110 126\r
c=IN IP4 192.168.1.20\r
a=candidate:1 1 udp 2122260223 192.168.1.20 50000 typ host\r
a=ice-ufrag:4ZcD\r
a=ice-pwd:2/1muCWoOi3uLifh0NuRHlgk\r
a=fingerprint:sha-256 {fingerprint}\r
a=setup:actpass\r
a=mid:0\r
a=sendrecv\r
a=rtcp-mux\r
a=rtpmap:111 opus/48000/2\r
a=rtpmap:0 PCMU/8000\r
a=rtpmap:110 telephone-event/48000\r
a=rtpmap:126 telephone-event/8000\r
""".format(fingerprint=":".join(f"{octet:02X}" for octet in range(32)))

OFFER = Operation(
    summary="Call this server from a browser",
    description="The offer of an `RTCPeerConnection` with one track of audio, PCMU or Opus; the answer goes to "
    "`setRemoteDescription`. The call is then like any other: see `/v1/calls`. It speaks as soon as the browser is "
    "connected, ends when that leaves, and is given up if it has not connected within 15 s. Digits are those of "
    "`RTCDTMFSender`. Candidates that come later are not needed; other streams than the one of audio are refused.",
    body=WebRtcOffer,
    examples={"the route console": {"type": "offer", "sdp": EXAMPLE, "to": "console"}},
    answers=(
        Answer(
            status=201,
            description="The call begins.",
            content={"application/json": WebRtcAnswer},
            headers={"Location": "Path of the call."},
        ),
    ),
    problems=(400, 403, 404, 408, 409, 413, 415, 417, 422, 500, 503),
    repeats=True,
)


class WebRtc:
    """The resource that takes offers."""

    def __init__(self, control: CallControl, *, limits: ApiLimits) -> None:
        self._control = control
        self._limits = limits
        self._idempotency = Idempotency()

    async def offer(self, request: web.Request) -> web.Response:
        offer = await read_model(request, WebRtcOffer, self._limits)

        async def act() -> web.Response:
            facts = await self._control.take_offer(WebRtcOrder(sdp=offer.sdp, to=offer.to, caller=request[CLIENT].name))
            told = WebRtcAnswer(type="answer", sdp=facts.sdp, call_id=facts.call_id)
            return answer(201, told, {"Location": f"/v1/calls/{facts.call_id}"})

        return await self._idempotency.once(request, offer, act)
