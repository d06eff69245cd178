"""Message bodies: one, or several in a multipart (RFC 2046 section 5.1, RFC 5621)."""

from __future__ import annotations

import binascii
import hashlib
import quopri
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from .errors import LocalProtocolError, RemoteProtocolError
from .headers import Headers
from .message import CONTENT_DISPOSITION, CONTENT_TYPE, Message

__all__ = ["Part", "compose", "parts_of"]

_PARTS_LIMIT = 32
_DEPTH_LIMIT = 3
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
_FOLD = re.compile(rb"\r\n[ \t]+")
_CHARSETS = {
    "": "utf-8",
    "utf-8": "utf-8",
    "utf8": "utf-8",
    "us-ascii": "ascii",
    "iso-8859-1": "latin-1",
    "iso-8859-15": "iso-8859-15",
    "windows-1252": "cp1252",
    "utf-16": "utf-16",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A body with the header fields that describe it: a part of a multipart, or a message's only body."""

    headers: Headers
    body: bytes

    @classmethod
    def of(cls, content_type: str, body: bytes, *headers: tuple[str, str]) -> Part:
        return cls(headers=Headers([("Content-Type", content_type), *headers]), body=body)

    @property
    def content_type(self) -> str:
        """In lower case and without parameters; text/plain if it does not say (RFC 2046 section 5.2)."""
        media_type = self.headers.read(CONTENT_TYPE)
        return "text/plain" if media_type is None else "".join(media_type.value.lower().split())

    @property
    def disposition(self) -> str:
        """Content-Disposition in lower case: "session", "render" ...; "" if it does not say."""
        disposition = self.headers.read(CONTENT_DISPOSITION)
        return "" if disposition is None else disposition.value.lower()

    @property
    def optional(self) -> bool:
        """Whether one who does not understand it may pass over it (RFC 3261 section 20.11)."""
        disposition = self.headers.read(CONTENT_DISPOSITION)
        return disposition is not None and disposition.parameters.value("handling").lower() == "optional"

    @property
    def text(self) -> str:
        """The body as text in its charset, UTF-8 if it names none.

        Raises RemoteProtocolError: 415 if the charset is not known, 400 if the body is not text in that charset.
        """
        charset = self.parameter("charset")
        codec = _CHARSETS.get(charset.lower())
        if codec is None:
            raise RemoteProtocolError(f"Unsupported charset {charset[:40]!r}", status=415)
        try:
            return self.body.decode(codec)
        except UnicodeDecodeError as error:
            raise RemoteProtocolError(f"Body is not {codec} text") from error

    def parameter(self, name: str) -> str:
        """A parameter of Content-Type; "" if it is not there."""
        media_type = self.headers.read(CONTENT_TYPE)
        return "" if media_type is None else media_type.parameters.value(name)


def parts_of(message: Message, understood: Collection[str]) -> tuple[Part, ...]:
    """The bodies in `message` whose type is among `understood` (lower case), multiparts taken apart.

    Of a multipart/alternative it is the last such part (RFC 2046 section 5.1.4). A part of another type is passed over
    if it is optional (RFC 5621 section 5.3).

    Raises RemoteProtocolError: 415 with Accept or Accept-Encoding if a part that is not optional is not understood, 400
    if a multipart is malformed, 413 if it has more than 32 parts or 3 levels.
    """
    if not message.body:
        return ()
    if not message.content_type:
        # RFC 3261 section 20.15: it must be there if there is a body.
        raise RemoteProtocolError("Missing Content-Type")
    reading = _Reading(understood)
    return tuple(reading.leaves(Part(headers=message.headers, body=message.body), 0))


def compose(parts: Iterable[Part]) -> tuple[str, bytes]:
    """A multipart/mixed of `parts`: the value of its Content-Type, and the body."""
    blocks = []
    for part in parts:
        head = "".join(f"{name}: {value}\r\n" for name, value in part.headers)
        blocks.append(head.encode() + b"\r\n" + part.body)
    if not blocks:
        raise LocalProtocolError("a multipart needs a part")
    # A digest of all that stands between the boundaries does not itself stand there.
    boundary = hashlib.sha256(b"\0".join(blocks)).hexdigest()[:32]
    delimiter = f"\r\n--{boundary}".encode()
    body = b"".join(delimiter + b"\r\n" + block for block in blocks) + delimiter + b"--\r\n"
    return f"multipart/mixed;boundary={boundary}", body.removeprefix(b"\r\n")


class _Reading:
    """One body being taken apart; the number of parts is bounded over all levels."""

    def __init__(self, understood: Collection[str]) -> None:
        self._understood = understood
        self._left = _PARTS_LIMIT

    def leaves(self, part: Part, depth: int) -> list[Part]:
        """What is understood of `part`. Raises RemoteProtocolError (415) if that is not enough."""
        try:
            return self._required_leaves(part, depth)
        except RemoteProtocolError as error:
            if error.status == 415 and part.optional:
                return []
            raise

    def _required_leaves(self, part: Part, depth: int) -> list[Part]:
        encoding = (part.headers.get("Content-Encoding") or "identity").lower()
        if encoding != "identity":
            raise RemoteProtocolError(
                f"Unsupported Content-Encoding {encoding[:40]!r}",
                status=415,
                headers=(("Accept-Encoding", "identity"),),
            )
        kind, _, subtype = part.content_type.partition("/")
        if kind == "multipart":
            parts = self._split(part, depth)
            return self._alternative(parts, depth) if subtype == "alternative" else self._mixed(parts, depth)
        if part.content_type not in self._understood:
            raise self._unsupported()
        return [_transfer_decoded(part)]

    def _mixed(self, parts: Iterable[Part], depth: int) -> list[Part]:
        return [leaf for part in parts for leaf in self.leaves(part, depth + 1)]

    def _alternative(self, parts: Iterable[Part], depth: int) -> list[Part]:
        best: list[Part] = []
        for part in parts:
            try:
                best = self._required_leaves(part, depth + 1) or best
            except RemoteProtocolError as error:
                if error.status != 415:
                    raise
        if not best:
            raise self._unsupported()
        return best

    def _unsupported(self) -> RemoteProtocolError:
        accept = ", ".join((*self._understood, "multipart/mixed"))
        return RemoteProtocolError("Unsupported Media Type", status=415, headers=(("Accept", accept),))

    def _split(self, part: Part, depth: int) -> list[Part]:
        boundary = part.parameter("boundary")
        if not _BOUNDARY.fullmatch(boundary):
            raise RemoteProtocolError("Bad multipart: no boundary")
        if depth >= _DEPTH_LIMIT:
            raise RemoteProtocolError("Too many levels of multipart", status=413)
        # A delimiter is a whole line; its CRLFs may belong to the delimiter before and after it too.
        delimiter = re.compile(rb"\r\n--" + re.escape(boundary.encode()) + rb"(--)?[ \t]*(?=\r\n|\Z)")
        data = b"\r\n" + part.body
        parts: list[Part] = []
        start = -1
        for match in delimiter.finditer(data):
            if start >= 0:
                self._left -= 1
                if self._left < 0:
                    raise RemoteProtocolError("Too many parts in multipart", status=413)
                parts.append(_part(data[start : match.start()]))
            if match[1]:
                if not parts:
                    break
                return parts
            start = match.end() + 2
        raise RemoteProtocolError("Bad multipart: no closing delimiter")


def _part(data: bytes) -> Part:
    head, blank, body = (b"\r\n" + data).partition(b"\r\n\r\n")
    if not blank:
        raise RemoteProtocolError("Bad multipart: part without an empty line")
    lines = _FOLD.sub(b" ", head).decode("utf-8", "replace").split("\r\n")[1:]
    headers, _, fault = Headers.received(lines)
    if fault or any("\r" in line or "\n" in line for line in lines):
        raise RemoteProtocolError(f"Bad multipart: {fault or 'line end other than CRLF'}")
    part = Part(headers=headers, body=body)
    headers.read(CONTENT_TYPE)
    headers.read(CONTENT_DISPOSITION)
    return part


def _transfer_decoded(part: Part) -> Part:
    """RFC 3261 section 7.4.1: bodies are binary; parts from a mail composer may be encoded all the same."""
    encoding = (part.headers.get("Content-Transfer-Encoding") or "binary").lower()
    if encoding in ("binary", "8bit", "7bit"):
        return part
    headers = part.headers.without("Content-Transfer-Encoding")
    if encoding == "quoted-printable":
        return Part(headers=headers, body=quopri.decodestring(part.body))
    if encoding == "base64":
        try:
            return Part(headers=headers, body=binascii.a2b_base64(part.body))
        except binascii.Error as error:
            raise RemoteProtocolError("Bad base64 in a part") from error
    raise RemoteProtocolError(f"Unsupported Content-Transfer-Encoding {encoding[:40]!r}", status=415)
