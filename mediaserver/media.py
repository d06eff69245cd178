"""One call's audio: its port pair, its stream, and the SDP that speaks of it (RFC 3264 offer/answer)."""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import NamedTuple

import rtp
import sip
from mediaserver.ear import Ear
from sip import sdp

__all__ = ["DEFAULT_CODECS", "Media", "host_for"]


DEFAULT_CODECS = ("PCMU", "PCMA")


def host_for(flow: sip.Flow, *, advertised: Iterable[str | None]) -> str:
    """The address at which the peer of that flow reaches our media: the first one advertised that is for it.

    None is if the peer is on this machine, behind the same NAT.
    """
    ours, peer = flow.local[0], flow.remote[0]
    suitable = (host for host in advertised if host and (":" in host) == (":" in ours) and ours != peer)
    return next(suitable, ours)


class _Remote(NamedTuple):
    host: str
    port: int
    rtcp_host: str
    rtcp_port: int


class _State(NamedTuple):
    audio: sdp.Audio | None = None
    remote: _Remote | None = None
    described: sdp.SessionDescription | None = None
    offer: bytes | None = None


class Media:
    """Owns an `rtp.Stream` and keeps it as the offers and answers want it.

    host     the address that our SDP names
    deliver  takes the stream's events
    codecs   in the order of our preference, which counts in our own offers only

    Raises rtp.PortsExhausted when no port pair is free.

    ear  hears the peer
    """

    def __init__(
        self,
        endpoint: rtp.Endpoint,
        *,
        host: str,
        deliver: Callable[[rtp.StreamEvent], None] | None = None,
        codecs: tuple[str, ...] = DEFAULT_CODECS,
    ) -> None:
        self.stream = endpoint.open(deliver)
        self.ear = Ear(self.stream)
        self.audio: sdp.Audio | None = None
        self.paused = False
        self._started = False
        self._offer: bytes | None = None  # the peer's, if it was the last word
        self._remote: _Remote | None = None
        self._described: sdp.SessionDescription | None = None
        self._before = _State()
        self._capabilities = sdp.Capabilities(
            host=host, port=self.stream.port, session_id=secrets.randbits(62), codecs=codecs
        )

    def answer(self, offer: bytes) -> bytes:
        """Take up an offer, the first or a later one; gives the answer.

        The same offer once more (a session refresh, RFC 4028) changes nothing; it does not open the latch either.
        Raises sip.RemoteProtocolError (400 or 488), and changes nothing, when the offer cannot be taken up.
        """
        if offer == self._offer and self._described is not None:
            return self._described.serialise()
        answer, audio = sdp.answer(sdp.SessionDescription.parse(offer), self._capabilities, self._described)
        before = self._state()
        self._take_up(audio)
        self._described, self._offer, self._before = answer, offer, before
        return answer.serialise()

    def revert(self) -> None:
        """Go back to before the latest `answer` or `offer`: it was not sent, the peer having withdrawn its INVITE."""
        audio, remote, self._described, self._offer = self._before
        if audio is not None and remote is not None:
            self._connect(audio, remote)
        self.audio, self._remote = audio, remote
        self._flow()

    def offer(self) -> bytes:
        """Our own offer, in an INVITE of ours or in the answer to one that brought none (delayed offer)."""
        self._before = self._state()
        self._described, self._offer = sdp.offer(self._capabilities, self._described), None
        return self._described.serialise()

    @property
    def held(self) -> bool:
        """Whether we have put the peer on hold."""
        return self._capabilities.direction is sdp.Direction.SENDONLY

    def hold(self, *, held: bool) -> bytes:
        """Our offer to put the peer on hold, or to take it off. It is still spoken to meanwhile."""
        self._direct(held)
        return self.offer()

    def unoffer(self) -> None:
        """What `hold` offered was not accepted."""
        self._direct(not self.held)
        self.revert()

    def _direct(self, held: bool) -> None:
        direction = sdp.Direction.SENDONLY if held else sdp.Direction.SENDRECV
        self._capabilities = replace(self._capabilities, direction=direction)

    def accept(self, answer: bytes) -> None:
        """Take up the answer to `offer()`, or to our latest description sent once more; the same again changes nothing.

        Raises sip.RemoteProtocolError when it is not a usable one.
        """
        assert self._described is not None, "an answer follows an offer"
        audio = sdp.settle(self._described, sdp.SessionDescription.parse(answer), self._capabilities)
        # What the peer described meanwhile may come back as an offer.
        self._offer = None
        if audio != self.audio:
            self._take_up(audio)

    def start(self) -> None:
        """Begin to send: from now on a packet goes out every ptime, unless the peer holds."""
        self._started = True
        self._flow()

    def pause(self) -> None:
        """Send silence until `resume`; what is to be said waits."""
        self.paused = True
        self.stream.mute()

    def resume(self) -> None:
        self.paused = False
        self.stream.unmute()

    @property
    def flows(self) -> bool:
        """Whether packets are sent now."""
        return self._started and self.audio is not None and self.audio.sends

    def facts(self) -> dict[str, int | float | str]:
        """What a record of the call says about its audio."""
        seen = self.stream.counters()
        return {
            "codec": self.audio.codec if self.audio else "",
            "packets_sent": seen.packets_sent,
            "speech_frames": seen.speech_frames,
            "silence_frames": seen.silence_frames,
            "underrun_frames": seen.underrun_frames,
            "underruns": seen.underruns,
            "skipped": seen.skipped_frames,
            "unsent": seen.send_blocked + seen.send_failed,
            "refused": seen.send_refused,
            "packets_received": seen.packets_received,
            "lost": seen.lost,
            "reordered": seen.reordered,
            "duplicates": seen.duplicates,
            "invalid": seen.invalid,
            "strangers": seen.strangers,
            "jitter_ms": round(seen.jitter_ms, 1),
            "peer_lost": "" if seen.peer_lost is None else seen.peer_lost,
            "rtt_ms": "" if seen.rtt_ms is None else round(seen.rtt_ms, 1),
            "mos": "" if seen.mos is None else round(seen.mos, 2),
        }

    def close(self) -> None:
        self.ear.close()
        self.stream.close()

    async def wait_closed(self) -> None:
        """Wait, after `close`, until nothing leaves any more and `facts` are final."""
        await self.stream.wait_closed()

    def _state(self) -> _State:
        return _State(self.audio, self._remote, self._described, self._offer)

    def _take_up(self, audio: sdp.Audio) -> None:
        remote: _Remote | None = _Remote(audio.remote_host, audio.remote_port, audio.rtcp_host, audio.rtcp_port)
        if ipaddress.ip_address(audio.remote_host).is_unspecified:
            remote = self._remote  # hold as of RFC 2543: it names no address, so RTCP goes on to the last one
        if remote is not None:
            self._connect(audio, remote)
        self.audio, self._remote = audio, remote
        self._flow()

    def _connect(self, audio: sdp.Audio, remote: _Remote) -> None:
        self.stream.connect(
            host=remote.host,
            port=remote.port,
            codec="PCMA" if audio.codec == "PCMA" else "PCMU",
            payload_type=audio.payload_type,
            ptime_ms=audio.ptime_ms,
            telephone_event=audio.telephone_event,
            telephone_event_received=audio.telephone_event_received,
            comfort_noise=audio.comfort_noise,
            rtcp_host=remote.rtcp_host,
            rtcp_port=remote.rtcp_port,
            rtcp_mux=audio.rtcp_mux,
            media_timeout_s=None if audio.receives else 0.0,  # who only listens sends nothing
        )

    def _flow(self) -> None:
        if not self._started or self.audio is None:
            return
        if self.flows:
            self.stream.resume()
            self.stream.start()
        else:
            self.stream.hold()
