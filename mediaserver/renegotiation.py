"""Changing the media of a call that is up (RFC 3264 section 8): as the peer wants it, and as we do, to hold it."""

from __future__ import annotations

import asyncio

import structlog

import rtp
import sip
from mediaserver.media import Media
from mediaserver.refusal import declined
from mediaserver.script import offer_in

__all__ = ["Hold", "answer_anew"]


def answer_anew(
    signalling: sip.Transport, call: str, request: sip.Request, media: Media, log: structlog.stdlib.BoundLogger
) -> bool:
    """Answer an INVITE with what it makes of the media; False if it is refused."""
    try:
        offer = offer_in(request)
        answer = media.offer() if offer is None else media.answer(offer)
    except (sip.RemoteProtocolError, rtp.PortsExhausted) as error:
        refused = declined(error)
        signalling.reject(call, status=refused.status, reason=refused.reason, headers=refused.headers)
    except (rtp.LocalProtocolError, OSError) as error:
        log.error("the new media cannot be had", error=str(error))
        signalling.reject(call, status=500)
    else:
        try:
            signalling.answer(call, body=answer)
        except sip.LocalProtocolError:
            # A CANCEL was quicker (RFC 3261 section 14.2): the call goes on as it was.
            media.revert()
            return False
        return True
    return False


class Hold:
    """Our re-INVITE that puts the peer on hold or takes it off (section 8.4); a call has one at a time."""

    def __init__(self) -> None:
        self._media: Media | None = None
        self._told: asyncio.Future[int | None] | None = None

    def propose(self, signalling: sip.Transport, call: str, media: Media, *, held: bool) -> asyncio.Future[int | None]:
        """Offer it; the result is the final status, None if none came.

        Raises sip.LocalProtocolError while something else is being agreed on.
        """
        if self._told is not None:
            raise sip.LocalProtocolError("another change of the call is under way")
        offer = media.hold(held=held)
        try:
            signalling.reoffer(call, body=offer)
        except sip.LocalProtocolError:
            media.unoffer()
            raise
        self._media, self._told = media, asyncio.get_running_loop().create_future()
        return self._told

    def answered(self) -> None:
        """The peer agrees, and its answer has been taken up."""
        self._tell(200)

    def refused(self, status: int) -> None:
        """The peer does not: all is as it was."""
        if self._media is not None:
            self._media.unoffer()
        self._tell(status)

    def over(self) -> None:
        """There will be no answer: the call has ended, or another one has taken its place."""
        self._tell(None)

    def _tell(self, status: int | None) -> None:
        if self._told is not None and not self._told.done():
            self._told.set_result(status)
        self._media = self._told = None
