"""An independent telephone: baresip in a process of its own, told what to do over its control socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import shutil
import socket
import struct
import wave
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

MODULES = Path("/usr/lib/baresip/modules")
RATE_HZ = 8000
TONE_HZ = 440


def is_installed() -> bool:
    return shutil.which("baresip") is not None and MODULES.is_dir()


class Baresip:
    """A telephone that plays a tone of TONE_HZ into its calls and keeps what it hears. Made by `baresip`."""

    def __init__(self, folder: Path, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.uri = f"sip:phone@127.0.0.1:{port}"
        self._folder = folder
        self._reader = reader
        self._writer = writer
        self._events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def read(self) -> None:
        """Take in what the phone says, as netstrings of JSON, until it goes."""
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                size = await self._reader.readuntil(b":")
                text = await self._reader.readexactly(int(size[:-1]) + 1)
                self._events.put_nowait(json.loads(text[:-1]))

    def order(self, command: str, parameters: str = "") -> None:
        """A long command of baresip's menu: dial, hold, resume, sndcode, transfer, accept, hangup ..."""
        text = json.dumps({"command": command, "params": parameters, "token": command}).encode()
        self._writer.write(b"%d:%s," % (len(text), text))

    async def until(self, kind: str) -> dict[str, Any]:
        """The next event of that kind, such as CALL_ESTABLISHED; those before it are passed over."""
        async with asyncio.timeout(15):
            while (event := await self._events.get()).get("type") != kind:
                pass
            return event

    def heard(self) -> bytes:
        """The samples that came in the latest call that has ended, at RATE_HZ."""
        recording = max(self._folder.glob("dump-*-dec.wav"), key=lambda path: path.stat().st_mtime)
        with wave.open(str(recording)) as file:
            assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (RATE_HZ, 1, 2)
            return file.readframes(file.getnframes())


@asynccontextmanager
async def baresip(folder: Path, *, answers: bool = False) -> AsyncIterator[Baresip]:
    """A telephone whose files are in `folder`; with `answers` it takes every call."""
    port, control = _free_port(), _free_port()
    tone = folder / "tone.wav"
    with wave.open(str(tone), "wb") as file:
        file.setparams((1, 2, RATE_HZ, 0, "NONE", ""))
        samples = (8000 * math.sin(2 * math.pi * TONE_HZ * n / RATE_HZ) for n in range(30 * RATE_HZ))
        file.writeframes(b"".join(struct.pack("<h", round(sample)) for sample in samples))
    modules = "".join(f"module {name}.so\n" for name in ("g711", "aufile", "aubridge", "sndfile"))
    (folder / "config").write_text(
        f"module_path {MODULES}\n{modules}module_tmp account.so\nmodule_app menu.so\nmodule_app ctrl_tcp.so\n"
        f"sip_listen 127.0.0.1:{port}\nctrl_tcp_listen 127.0.0.1:{control}\nsnd_path {folder}\n"
        f"audio_source aufile,{tone}\naudio_player aubridge,ear\naudio_alert aubridge,bell\n"
    )
    mode = "auto" if answers else "manual"
    (folder / "accounts").write_text(f"<sip:phone@127.0.0.1>;regint=0;answermode={mode};audio_codecs=PCMU/8000/1\n")
    (folder / "contacts").touch()
    process = await asyncio.create_subprocess_exec(
        *("baresip", "-f", str(folder)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        reader, writer = await _connected(control)
        with contextlib.closing(writer):
            phone = Baresip(folder, port, reader, writer)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(phone.read())
                yield phone
                phone.order("quit")
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _connected(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    async with asyncio.timeout(15):
        while True:
            try:
                return await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                await asyncio.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
