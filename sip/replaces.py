"""Replaces (RFC 3891): an INVITE that takes the place of a call, as attended transfer and pick-up have it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .call import Call, CallState
from .dialog import Dialog
from .errors import RemoteProtocolError
from .headers import Parameterised

__all__ = ["Replaces", "replaced"]

_WAITING = frozenset({CallState.OFFERED, CallState.ALERTED, CallState.ANSWERING})
_OVER = frozenset({CallState.LEAVING, CallState.GIVING_UP, CallState.CANCELLED, CallState.ENDING, CallState.ENDED})
# RFC 3891 section 6.1: the tag of a peer that sets none (RFC 2543).
_NO_TAG = "0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Replaces:
    """A dialog, named as the one who gets the INVITE knows it: `to_tag` is its own.

    early_only  only as long as the dialog is early
    """

    call_id: str
    to_tag: str
    from_tag: str
    early_only: bool = False

    @classmethod
    def parse(cls, text: str) -> Replaces:
        """Raises RemoteProtocolError (400)."""
        read = Parameterised.parse(text, "Replaces")
        to_tag, from_tag = read.parameters.value("to-tag"), read.parameters.value("from-tag")
        if not (to_tag and from_tag):
            raise RemoteProtocolError("Bad Replaces: both tags must be there")
        return cls(call_id=read.value, to_tag=to_tag, from_tag=from_tag, early_only="early-only" in read.parameters)

    @classmethod
    def at_peer(cls, dialog: Dialog) -> Replaces:
        """`dialog`, as our peer in it has to be told."""
        return cls(call_id=dialog.call_id, to_tag=dialog.remote_tag or _NO_TAG, from_tag=dialog.local_tag)

    def __str__(self) -> str:
        early_only = ";early-only" if self.early_only else ""
        return f"{self.call_id};to-tag={self.to_tag};from-tag={self.from_tag}{early_only}"

    def names(self, dialog: Dialog) -> bool:
        """Whether it is this dialog of ours."""
        return (self.call_id, self.to_tag, self.from_tag) == (
            dialog.call_id,
            dialog.local_tag,
            dialog.remote_tag or _NO_TAG,
        )


def replaced(text: str, calls: Mapping[str, Call]) -> Call:
    """The one of `calls`, by our tag, that an INVITE with this Replaces is to take the place of (RFC 3891 section 3).

    Raises RemoteProtocolError with what the INVITE gets if there is none that it may.
    """
    wanted = Replaces.parse(text)
    call = calls.get(wanted.to_tag)
    # An INVITE of ours that forked has several dialogs.
    dialogs = () if call is None else (call.dialog, *call.early.values())
    if call is None or not any(dialog is not None and wanted.names(dialog) for dialog in dialogs):
        raise RemoteProtocolError("No Dialog to Replace", status=481)
    if call.state in _WAITING:
        # An early dialog that we did not begin is not ours to give away.
        raise RemoteProtocolError("Dialog Not Answered Yet", status=481)
    if call.state in _OVER:
        raise RemoteProtocolError("Dialog Has Ended", status=603)
    if wanted.early_only and call.state is not CallState.RINGING:
        raise RemoteProtocolError("Dialog Not Early", status=486)
    return call
