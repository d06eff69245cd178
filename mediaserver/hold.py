"""Putting the peer of a call on hold by a re-INVITE, and taking it off (RFC 3264 section 8.4)."""

from __future__ import annotations

import asyncio

import sip
from mediaserver.media import Media

__all__ = ["Hold"]


class Hold:
    """One call's re-INVITE of that kind, of which there is one at a time."""

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
