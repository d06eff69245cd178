"""GET /v1/calls/{id}/audio: a WebSocket (RFC 6455) to listen to a call and to speak into it.

    client                                   server
                                             {"type": "start", "call_id": ..., "codec": "PCMU", ...}    the call is up
                                             <binary audio>, 20 ms                                      again and again
    <binary audio> ...                                                      said one after another, as fast as it comes
    {"type": "mark", "name": "a"}            {"type": "mark", "name": "a"}             all before it was sent
    {"type": "clear"}                        {"type": "cleared", "marks": [...], "played_ms": 1240}    silence
                                             {"type": "dtmf", "digit": "5"}
                                             {"type": "stop", "call_id": ...}, and the connection is closed

Three tasks work on a connection: one reads, and waits while there is no room for more; one tells what happens; one
sends what is heard. A fourth asks now and then whether the client is there.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import aclosing
from functools import partial
from typing import Final

from aiohttp import web

from .control import CallControl, CallLine, LineOrder, SocketEnd
from .dialects import DIALECTS, Clear, Dialect, Mark, Play
from .intake import read_query
from .problem import Problem
from .route import Answer, Operation
from .schema import (
    LineCleared,
    LineDigit,
    LineMark,
    LineMessage,
    LineQuery,
    LineStart,
    LineStop,
    SocketError,
    TwilioMessage,
)
from .sockets import Line, Sockets

__all__ = ["CALL_AUDIO", "CallAudio"]

MESSAGE_BYTES: Final = 1024 * 1024
"""Of one message: 20 s at 24 kHz."""

SEND_BUFFER_BYTES: Final = 64 * 1024
"""The kernel's own would hold minutes of audio for a client that does not read."""

CALL_AUDIO = Operation(
    summary="Listen to a call and speak into it: a WebSocket",
    description="""For recognisers and agents. It may be opened as soon as there is the call; `start` comes when it is
up. From then on the peer's audio comes in binary messages of 20 ms, without gaps. Binary messages of the client are
said one after another, behind what the call is saying and has waiting, and may come faster than they are said: a minute
of it is held, then the connection is not read until there is room. The client's other messages are JSON
(`LineMessage`):

* `{"type": "mark", "name": "..."}` comes back as soon as all audio before it has been sent to the peer.
* `{"type": "clear"}`: what was not sent is dropped, and the line is silent within 20 ms; `cleared` tells which marks
  were not reached, and how much audio was sent. It comes also when something else interrupts, such as `/stop`.

`dtmf` tells a digit that the peer keys; `stop` says that the call is over, and the connection is closed with 1000.
While somebody is there who may speak, a call does not end because all is said. When the connection is closed, what it
brought is said to its end, and then the call goes on as it was to: it hangs up, or stays.

With `protocol=twilio` the messages are those of Twilio's Media Streams (`connected`, `start`, `media`, `mark`, `clear`,
`dtmf`, `stop`), and a cleared mark comes back like one that was reached.

What is at fault is told by `error`, with a `ProblemDetails` as `problem`, before the connection is closed with 1003
(not the kind of message), 1007 (not UTF-8), 1008 (a message is at fault), 1009 (a message of more than a megabyte),
1011 (the server failed), 1013 (too much waits, or the server takes nothing new) or 1001 (the server ends). A client
that does not read is cut off. A browser may connect from this server's own pages and from listed ones only, and brings
its token as a subprotocol.""",
    query=LineQuery,
    answers=(Answer(status=101, description="A WebSocket (RFC 6455).", content={}),),
    problems=(400, 403, 404, 409, 422, 426, 500, 503),
    models=(LineStart, LineMark, LineCleared, LineDigit, LineStop, SocketError),
    receives=(LineMessage, TwilioMessage),
)


class CallAudio:
    """The resource."""

    def __init__(self, control: CallControl, *, sockets: Sockets) -> None:
        self._control = control
        self._sockets = sockets

    async def attach(self, request: web.Request) -> web.WebSocketResponse:
        self._sockets.check(request)
        query, id = read_query(request, LineQuery), request.match_info["id"]
        order = LineOrder(
            format=query.coding,
            rate_hz=query.sample_rate,
            listens=query.direction != "speak",
            speaks=query.direction != "listen",
            delay_ms=query.buffer_ms,
        )
        assert request.transport is not None
        request.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        with self._control.attach(id, order) as call:
            dialect = DIALECTS[query.protocol](id, query)
            return await self._sockets.hold(
                request, partial(_converse, call, dialect, order), max_message_bytes=MESSAGE_BYTES, heartbeat_s=None
            )


async def _converse(call: CallLine, dialect: Dialect, order: LineOrder, line: Line) -> SocketEnd:
    reading = asyncio.create_task(_read(call, dialect, order, line))
    telling = asyncio.create_task(_tell(call, dialect, order, line))
    watching = asyncio.create_task(line.watch())
    tasks = (reading, telling, watching)
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                task.result()
        over = telling.done()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if over:
        await line.close()
    return "done" if over else line.end


async def _read(call: CallLine, dialect: Dialect, order: LineOrder, line: Line) -> None:
    """Do what the client wants until it has gone."""
    while (message := await line.receive()) is not None:
        wish = dialect.read(message)
        if not order.speaks:
            raise Problem(422, "This connection was opened to listen, and not to speak.")
        match wish:
            case Play(audio=audio):
                await call.play(audio)
            case Mark(name=name):
                call.mark(name)
            case Clear():
                call.clear()


async def _tell(call: CallLine, dialect: Dialect, order: LineOrder, line: Line) -> None:
    """Tell what happens until the call is over."""
    for message in dialect.greeting():
        await line.send(message)
    facts = await call.opened()
    if facts is not None:
        await line.send(dialect.start(facts))
        hearing = asyncio.create_task(_hear(call, dialect, line)) if order.listens else None
        noticing = asyncio.create_task(_notice(call, dialect, line))
        try:
            if hearing is not None:  # it ends with the call too, if nothing goes wrong
                await asyncio.wait((hearing, noticing), return_when=asyncio.FIRST_EXCEPTION)
                hearing.result()
            await noticing
        finally:
            for task in (hearing, noticing):
                if task is not None:
                    task.cancel()
                    await asyncio.wait((task,))
    await line.send(dialect.stop())


async def _hear(call: CallLine, dialect: Dialect, line: Line) -> None:
    async with aclosing(call.heard()) as frames:
        async for frame in frames:
            await line.send(dialect.audio(frame))


async def _notice(call: CallLine, dialect: Dialect, line: Line) -> None:
    async with aclosing(call.notices()) as notices:
        async for notice in notices:
            for message in dialect.told(notice):
                await line.send(message)
