"""What WebSockets (RFC 6455) have in common: how many there may be, how they are spoken on, and how they end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from aiohttp import WSCloseCode, WSMsgType, web
from pydantic import BaseModel

from .access import SUBPROTOCOL
from .control import ControlError, SocketEnd, SpeechControl
from .delivery import patiently
from .intake import CLIENT, REQUEST_ID, UPGRADED
from .problem import Problem, of_control
from .schema import ApiLimits, SocketError

__all__ = ["Line", "SlowReader", "Sockets"]

errors = logging.getLogger("http_api.error")

CLOSE_TIMEOUT_S: Final = 2.0

CLOSE_CODES: Mapping[int, WSCloseCode] = {
    413: WSCloseCode.MESSAGE_TOO_BIG,
    415: WSCloseCode.UNSUPPORTED_DATA,
    429: WSCloseCode.TRY_AGAIN_LATER,
    500: WSCloseCode.INTERNAL_ERROR,
    503: WSCloseCode.TRY_AGAIN_LATER,
}
# With which aiohttp closes when what comes is no message (RFC 6455 section 7.4.1).
MALFORMED: Final = (WSCloseCode.PROTOCOL_ERROR, WSCloseCode.INVALID_TEXT, WSCloseCode.MESSAGE_TOO_BIG)
ENDS: Mapping[int, SocketEnd] = {408: "idle", 500: "failed"}


class SlowReader(Exception):
    """The client makes no room for what it asked for."""


class Sockets:
    """All WebSockets that are open, of whatever resource."""

    def __init__(self, control: SpeechControl, *, limits: ApiLimits) -> None:
        self._control = control
        self._limits = limits
        self._open: set[web.WebSocketResponse] = set()

    def check(self, request: web.Request) -> None:
        """Raises Problem if the request is no handshake, or there is no room."""
        limits = self._limits
        if request.headers.get("Upgrade", "").lower() != "websocket":
            raise Problem(426, "This is a WebSocket: ask for an upgrade.", headers={"Upgrade": "websocket"})
        if len(self._open) >= limits.max_sockets:
            raise Problem.of_overload(
                503, f"There are {limits.max_sockets} open WebSockets already.", retry_after_s=limits.retry_after_s
            )

    async def hold(
        self,
        request: web.Request,
        converse: Callable[[Line], Awaitable[SocketEnd]],
        *,
        max_message_bytes: int,
        heartbeat_s: float | None,
    ) -> web.WebSocketResponse:
        """Open one, and converse on it to the end. `converse` says how it ended; its Problem is told to the client.

        heartbeat_s  how often a client from which nothing comes is asked whether it is there, and given up if it
                     does not answer; None: `converse` sees to that, by `Line.watch`

        Raises Problem as `check` does.
        """
        socket = web.WebSocketResponse(
            timeout=CLOSE_TIMEOUT_S,
            heartbeat=heartbeat_s,
            autoping=heartbeat_s is not None,
            max_msg_size=max_message_bytes,
            protocols=(SUBPROTOCOL,),
            compress=False,  # neither speech nor tokens gain by it
        )
        self.check(request)
        await socket.prepare(request)
        request[UPGRADED] = True
        self._open.add(socket)
        self._control.socket_opened()
        line = Line(request, socket, self._limits)
        end: SocketEnd | None = None  # cancelled: it has gone
        try:
            end = await _outcome(line, converse)
        finally:
            self._open.discard(socket)
            self._control.socket_ended(end or line.end)
        return socket

    async def close(self, _app: web.Application) -> None:
        """Tell every client that the server ends."""
        closing = [socket.close(code=WSCloseCode.GOING_AWAY, message=b"the server ends") for socket in self._open]
        await asyncio.gather(*closing, return_exceptions=True)


async def _outcome(line: Line, converse: Callable[[Line], Awaitable[SocketEnd]]) -> SocketEnd:
    try:
        return await converse(line)
    except SlowReader:
        line.cut()
        return "slow"
    except ConnectionError:
        return "left"
    except (Problem, ControlError) as error:
        return await line.complain(error)


class Line:
    """One connection: messages, and how they can fail."""

    def __init__(self, request: web.Request, socket: web.WebSocketResponse, limits: ApiLimits) -> None:
        self._request = request
        self._limits = limits
        self.socket = socket
        self.client = request[CLIENT]
        self.reading = False
        """Whether messages are being taken: while they are not, a silent client is not at fault."""
        self._seen = 0
        self._malformed = False

    @property
    def end(self) -> SocketEnd:
        """Why nothing more comes, when that is so."""
        # The code is ours until the client has sent its own.
        return "refused" if self._malformed or self.socket.close_code in MALFORMED else "left"

    async def receive(self) -> str | bytes | None:
        """The client's next message; None when it has gone."""
        while True:
            self.reading = True
            received = await self.socket.receive()
            self.reading = False
            match received.type:
                case WSMsgType.TEXT | WSMsgType.BINARY:
                    self._seen += 1
                    message: str | bytes = received.data
                    return message
                case WSMsgType.PING:
                    self._seen += 1
                    await self.socket.pong(received.data)
                case WSMsgType.PONG:
                    self._seen += 1
                case WSMsgType.ERROR:
                    self._malformed = True
                    return None
                case _:
                    return None

    async def send(self, message: BaseModel | bytes | str) -> None:
        """Raises SlowReader."""
        if isinstance(message, bytes):
            await self._write(self.socket.send_bytes(message))
        else:
            text = message if isinstance(message, str) else message.model_dump_json()
            await self._write(self.socket.send_str(text))

    async def _write(self, writing: Awaitable[None]) -> None:
        try:
            await patiently(writing, self._limits)
        except Problem:
            raise SlowReader from None

    async def watch(self) -> None:
        """Ask again and again whether the client is there; ends, having cut it off, when it is not.

        Raises SlowReader.
        """
        while True:
            seen = self._seen
            await self._write(self.socket.ping())
            await asyncio.sleep(self._limits.socket_ping_s)
            if self._seen == seen and self.reading:
                self.cut()
                return

    async def close(self) -> None:
        """All was said."""
        await self.socket.close()

    async def complain(self, error: Problem | ControlError) -> SocketEnd:
        """Say what is wrong, and close."""
        identity = self._request[REQUEST_ID]
        problem = of_control(error) if isinstance(error, ControlError) else error
        if problem.status == 500:
            errors.error("speech failed: %s", error, extra={"request_id": identity}, exc_info=error)
        try:
            await self.send(SocketError(type="error", problem=problem.details(identity)))
            await self.socket.close(code=CLOSE_CODES.get(problem.status, WSCloseCode.POLICY_VIOLATION))
        except SlowReader:
            self.cut()
        except ConnectionError:
            pass
        return ENDS.get(problem.status, "refused")

    def cut(self) -> None:
        """End it without a word: the client would not read it."""
        if self._request.transport is not None:
            self._request.transport.abort()
