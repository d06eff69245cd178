"""The server's end of the WebRTC gateway: the process, and what is said to it and by it.

The process is started for the first browser, and again after it has died; then all its browsers are gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import structlog

from mediaserver import gateway_wire as wire

__all__ = ["Gateway", "GatewayError"]

log = structlog.get_logger("webrtc")

START_S = 30.0
"""It loads aiortc, PyAV and OpenSSL, which takes a second."""

OPEN_S = 10.0

Told = Callable[[wire.Connected | wire.Closed], None]


class GatewayError(Exception):
    """The gateway cannot take a browser; the message says why."""


class _Process:
    """The process, and our end of its socket."""

    def __init__(self, taken: Callable[[wire.Message], None], ended: Callable[[_Process], None]) -> None:
        """Raises OSError when no process can be started."""
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self._process = subprocess.Popen(
                    # -P: the working directory is not searched for modules.
                    [sys.executable, "-P", "-m", "mediaserver.gateway", str(theirs.fileno())],
                    env=_environment(),
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    start_new_session=True,  # Ctrl-C in the terminal is for the server alone.
                )
            except OSError:
                self._socket.close()
                raise
        self._socket.setblocking(False)
        self.pid = self._process.pid
        self._taken = taken
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(self._socket, self._readable)

    def send(self, message: wire.Message) -> None:
        # What it can no longer be told does not matter to one that is gone, which `_readable` finds out.
        with contextlib.suppress(OSError):
            self._socket.send(wire.encode(message))

    def _readable(self) -> None:
        try:
            packet = self._socket.recv(wire.PACKET_SIZE)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        if not packet:
            self.close()
            self._ended(self)
            return
        message = wire.decode(packet)
        if isinstance(message, wire.Ready):
            if not self.ready.done():
                self.ready.set_result(None)
        else:
            self._taken(message)

    def close(self) -> None:
        """Kill it: whoever it talks to has been told, or cannot be."""
        self._loop.remove_reader(self._socket)
        self._socket.close()
        self._process.kill()
        self._process.wait()
        if not self.ready.done():
            self.ready.set_exception(GatewayError("the WebRTC gateway does not start: its last words are in the log"))
            self.ready.exception()  # There may be nobody who waits for it.


class Gateway:
    """The browsers that are connected, by ids of ours."""

    def __init__(self) -> None:
        self.starts = 0
        self._process: _Process | None = None
        self._opening: dict[str, asyncio.Future[wire.Opened]] = {}
        self._told: dict[str, Told] = {}
        self._starting = asyncio.Lock()

    @classmethod
    @asynccontextmanager
    async def open(cls) -> AsyncIterator[Gateway]:
        """A gateway without a process yet; at the end all its browsers are gone."""
        gateway = cls()
        try:
            yield gateway
        finally:
            if gateway._process is not None:
                gateway._process.close()

    @property
    def pid(self) -> int | None:
        """Of the process, while there is one."""
        return None if self._process is None else self._process.pid

    async def take(self, order: wire.Open, told: Told) -> wire.Opened:
        """Open our side for a browser; `told` hears what becomes of it, Closed being the last.

        Raises GatewayError, and then nothing is left of it, as when it is cancelled.
        """
        process = await self._running()
        opening: asyncio.Future[wire.Opened] = asyncio.get_running_loop().create_future()
        self._opening[order.id], self._told[order.id] = opening, told
        process.send(order)
        try:
            async with asyncio.timeout(OPEN_S):
                return await opening
        except BaseException as error:
            self._told.pop(order.id, None)
            self.tell(wire.Close(id=order.id))
            if isinstance(error, TimeoutError):
                raise GatewayError("the WebRTC gateway does not answer") from None
            raise
        finally:
            del self._opening[order.id]

    def tell(self, message: wire.Connect | wire.Direct | wire.Close) -> None:
        if self._process is not None:
            self._process.send(message)

    async def _running(self) -> _Process:
        async with self._starting:
            if self._process is None:
                try:
                    self._process = _Process(self._take, self._lost)
                except OSError as error:
                    raise GatewayError(f"the WebRTC gateway does not start: {error.strerror}") from error
                self.starts += 1
                log.info("gateway starts", pid=self._process.pid)
            process = self._process
            try:
                async with asyncio.timeout(START_S):
                    await asyncio.shield(process.ready)
            except TimeoutError:
                process.close()
                self._lost(process)
                raise GatewayError(f"the WebRTC gateway has not started within {START_S:g} s") from None
            return process

    def _take(self, message: wire.Message) -> None:
        match message:
            case wire.Opened(id=id):
                if (opening := self._opening.get(id)) is not None and not opening.done():
                    opening.set_result(message)
            case wire.Failed(id=id, reason=reason):
                self._refuse(id, reason)
            case wire.Closed(id=id):
                # It may have failed where nobody expected it to, before it was open.
                self._refuse(id, message.why)
                if (told := self._told.pop(id, None)) is not None and id not in self._opening:
                    told(message)
            case wire.Connected(id=id):
                if (hears := self._told.get(id)) is not None:
                    hears(message)

    def _refuse(self, id: str, reason: str) -> None:
        if (opening := self._opening.get(id)) is not None and not opening.done():
            opening.set_exception(GatewayError(reason))

    def _lost(self, process: _Process) -> None:
        """It has died, and all its browsers have lost us."""
        if self._process is not process:
            return
        log.error("the gateway has died", browsers=len(self._told))
        self._process = None
        for id in list(self._told):
            self._take(wire.Closed(id=id, why="the WebRTC gateway has died"))


def _environment() -> dict[str, str]:
    """The server's, with this package on the path."""
    here = str(Path(__file__).resolve().parent.parent)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH", "")]))}
