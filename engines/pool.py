"""The host's side of the process boundary: worker processes, and the engine that they make together.

schedule.py decides what happens; this file owns the processes, the sockets, the clock and the waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import itertools
import json
import os
import socket
import subprocess
import sys
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from engines import enrolment
from engines import pieces as cutting
from engines.engine import EngineBusy, EngineFailure, EngineState, Health, Pcm, Utterance, Voice
from engines.profile import KIND, VoiceProfile
from engines.schedule import Advanced, Limits, Piece, Schedule, Stuck
from engines.voices import Catalogue
from engines.wire import PACKET_SIZE, Chunk, Failed, Hello, Joiner, Load, Message, Speak, WireError, decode, packets

__all__ = ["WorkerPool", "open_pool"]

START_TIMEOUT_S: Final = 30.0
"""A worker that has not said Hello by then is killed."""

SETTLED_S: Final = 5.0
"""A worker that lived so long, or spoke, is replaced at once when it dies; another one after a pause."""

SHORT_LIFE_PAUSE_S: Final = 0.5

FAILED_STARTS: Final = 3
"""So many workers in a row that never said Hello, on every seat, and the engine counts as failed. One is enough that
says why, as long as none has ever started: what is wrong then is there to stay."""

SHORTEST_BACKOFF_S: Final = 0.05
LONGEST_BACKOFF_S: Final = 10.0
WATCH_S: Final = 0.25

PREFETCH_S: Final = 2.0
"""When less of a piece than this is left to deliver, the next one is asked for."""

Enrol = Callable[[bytes, int], Awaitable[bytes]]
"""What makes the embedding of a speaker: see `Engine.enrol`."""

_PACKETS_AT_ONCE: Final = 32


class _Worker:
    """A worker process and our end of its socket."""

    def __init__(self, engine: str, options: Mapping[str, int | str | float]) -> None:
        """Raises OSError when no process can be started."""
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                # Its own session: Ctrl-C in the terminal is for the host alone.
                self._process = subprocess.Popen(
                    _command(engine, options, theirs.fileno()),
                    env=_environment(),
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    start_new_session=True,
                )
            except OSError:
                self._socket.close()
                raise
        self._socket.setblocking(False)
        self.pid = self._process.pid
        self.exit_fd = os.pidfd_open(self.pid)
        self._unsent: deque[bytes] = deque()
        self.joiner = Joiner()
        self.load = Load(memory_bytes=0, streams=0, late=0, broken=0)
        self.chunks = 0
        self.refused = False
        self.hello: asyncio.Future[Hello] = asyncio.get_running_loop().create_future()
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, message: Message) -> None:
        waiting = bool(self._unsent)
        self._unsent.extend(packets(message))
        if not waiting and not self._flush():
            asyncio.get_running_loop().add_writer(self.fileno(), self._on_room)

    def _flush(self) -> bool:
        """Whether all is sent, or nothing can be."""
        try:
            while self._unsent:
                self._socket.send(self._unsent[0])
                self._unsent.popleft()
        except BlockingIOError:
            return False
        except OSError as error:
            self._unsent.clear()
            self.end(f"takes no messages ({error.strerror})")
        return True

    def _on_room(self) -> None:
        if self._flush():
            asyncio.get_running_loop().remove_writer(self.fileno())

    def receive_into(self, buffer: memoryview) -> int | None:
        """The length of the next packet; 0 at the end; None when there is none now."""
        try:
            return self._socket.recv_into(buffer)
        except BlockingIOError:
            return None
        except OSError:
            return 0

    def end(self, reason: str) -> None:
        """Whatever happened first is the reason."""
        if not self.ended.done():
            self.ended.set_result(reason)

    def exit_status(self) -> str:
        status = self._process.wait()
        return f"exited with status {status}" if status >= 0 else f"was killed by signal {-status}"

    async def close(self) -> None:
        """Kill and bury it."""
        asyncio.get_running_loop().remove_writer(self.fileno())
        self._socket.close()
        self._process.kill()
        loop = asyncio.get_running_loop()
        exited = asyncio.Event()
        loop.add_reader(self.exit_fd, exited.set)
        try:
            await exited.wait()
        finally:
            loop.remove_reader(self.exit_fd)
            self._process.wait()
            os.close(self.exit_fd)


class _Use(enum.Enum):
    """What a worker was good for."""

    NONE = "it never said Hello"
    HOPELESS = "it said why it cannot start, and no worker ever did"
    STARTED = "it said Hello and died soon after"
    WORKED = "it spoke, or lived long"


@dataclass(frozen=True, slots=True)
class _Life:
    """How the life of a worker went, and how it ended."""

    use: _Use
    end: str


class _Crew:
    """The workers, kept alive, and the schedule that they work through."""

    def __init__(
        self, engine: str, options: Mapping[str, int | str | float], *, seats: int, limits: Limits, start_s: float
    ) -> None:
        self._engine = engine
        self._options = options
        self._loop = asyncio.get_running_loop()
        self._schedule = Schedule(limits)
        self._start_s = start_s
        self._numbers = itertools.count(1)
        self._workers: dict[int, _Worker] = {}  # those that said Hello
        self._failures = [0] * seats  # workers in a row that never said Hello
        self._detail = ""
        self._notice = ""
        self._waiting: dict[Piece, asyncio.Event] = {}
        self._buffer = memoryview(bytearray(PACKET_SIZE))
        self.hello: asyncio.Future[Hello] = self._loop.create_future()
        self._restarts = 0

    @property
    def pids(self) -> tuple[int, ...]:
        return tuple(worker.pid for worker in self._workers.values())

    def health(self, *, active: int) -> Health:
        absent = EngineState.FAILED if self._failed else EngineState.STARTING
        state = EngineState.READY if self._workers else absent
        return Health(
            state=state,
            detail=self._detail if len(self._workers) < len(self._failures) else self._notice,
            workers=len(self._workers),
            restarts=self._restarts,
            active=active,
            gpu_available=any(worker.load.memory_bytes for worker in self._workers.values()),
            gpu_memory_bytes=sum(worker.load.memory_bytes for worker in self._workers.values()),
            waiting=self._schedule.waiting,
            late=sum(worker.load.late for worker in self._workers.values()),
            broken=sum(worker.load.broken for worker in self._workers.values()),
        )

    @property
    def _failed(self) -> bool:
        return not self._workers and min(self._failures) >= FAILED_STARTS

    @property
    def places(self) -> int:
        """Requests that all workers together take at a time."""
        return sum(worker.hello.result().concurrency for worker in self._workers.values())

    async def keep(self, seat: int) -> None:
        """Keep one worker alive, for ever."""
        while True:
            life = await self._life_of_a_worker()
            self._detail = life.end
            self._restarts += 1
            if life.use not in (_Use.NONE, _Use.HOPELESS):
                self._failures[seat] = 0
                await asyncio.sleep(SHORT_LIFE_PAUSE_S if life.use is _Use.STARTED else 0)
                continue
            self._failures[seat] += FAILED_STARTS if life.use is _Use.HOPELESS else 1
            if self._failed:
                self._schedule.fail_all(f"the engine {self._engine} is down: {self._detail}")
                self._settle()
                if not self.hello.done():
                    self.hello.set_exception(EngineFailure(f"{self._engine} does not start: {self._detail}"))
            await asyncio.sleep(min(SHORTEST_BACKOFF_S * 2 ** min(self._failures[seat], 10), LONGEST_BACKOFF_S))

    async def watch(self) -> None:
        """Look after the workers that say nothing."""
        while True:
            await asyncio.sleep(WATCH_S)
            self._schedule.handle_timer(self._loop.time())
            self._settle()

    async def _life_of_a_worker(self) -> _Life:
        began = self._loop.time()
        try:
            worker = _Worker(self._engine, self._options)
        except OSError as error:
            return _Life(_Use.NONE, f"a worker process cannot be started: {error}")
        number = next(self._numbers)
        self._loop.add_reader(worker.fileno(), self._on_packets, number, worker)
        self._loop.add_reader(worker.exit_fd, self._on_exit, number, worker)
        end = "was no longer needed"
        try:
            async with asyncio.timeout(self._start_s):
                await _first(worker.hello, worker.ended)
            end = await worker.ended
        except TimeoutError:
            end = f"did not start within {self._start_s:g} s"
        finally:
            self._loop.remove_reader(worker.fileno())
            self._loop.remove_reader(worker.exit_fd)
            self._workers.pop(number, None)
            self._schedule.worker_lost(number, end, self._loop.time())
            self._settle()
            await worker.close()
        use = _Use.HOPELESS if worker.refused and not self.hello.done() else _Use.NONE
        if worker.hello.done():
            settled = worker.chunks > 0 or self._loop.time() - began >= SETTLED_S
            use = _Use.WORKED if settled else _Use.STARTED
        return _Life(use, f"worker {worker.pid} {end}")

    def _on_exit(self, number: int, worker: _Worker) -> None:
        self._on_packets(number, worker)  # its last words
        self._loop.remove_reader(worker.exit_fd)
        worker.end(worker.exit_status())

    def _on_packets(self, number: int, worker: _Worker) -> None:
        for _ in range(_PACKETS_AT_ONCE):
            length = worker.receive_into(self._buffer)
            if length is None:
                break
            if length == 0:
                self._loop.remove_reader(worker.fileno())
                self._loop.call_later(WATCH_S, worker.end, "closed its socket")  # unless its exit tells more
                break
            try:
                packet = worker.joiner.feed(bytes(self._buffer[:length]))
                if packet is not None:
                    self._on_message(number, worker, decode(packet))
            except WireError as error:
                worker.end(f"said something that is {error}")
                break
        self._settle()

    def _on_message(self, number: int, worker: _Worker, message: Message) -> None:
        if isinstance(message, Failed) and not message.id:
            worker.refused = True
            worker.end(f"did not start: {message.message}")
        elif isinstance(message, Hello) and not worker.hello.done():
            worker.hello.set_result(message)
            self._notice = message.notice
            self._workers[number] = worker
            self._schedule.worker_ready(number, message, self._loop.time())
            if not self.hello.done():
                self.hello.set_result(message)
        elif isinstance(message, Load):
            worker.load = message
        else:
            worker.chunks += isinstance(message, Chunk)
            self._schedule.receive(number, message, self._loop.time())

    def admit(self) -> None:
        """Raise EngineFailure when there is nobody to speak, EngineBusy when too many wait."""
        if self._failed:
            raise EngineFailure(f"the engine {self._engine} is down: {self._detail}")
        self._schedule.admit()

    def ask(self, request: Speak, *, in_s: float) -> Piece:
        """Have a piece spoken that will be heard in so many seconds."""
        piece = self._schedule.ask(request, self._loop.time(), in_s=in_s)
        self._waiting[piece] = asyncio.Event()
        self._settle()
        return piece

    async def chunk(self, piece: Piece) -> bytes | None:
        """The next chunk of a piece; None after the last. Raises EngineFailure."""
        while True:
            samples = self._schedule.take(piece, self._loop.time())
            self._settle()
            if samples is not None:
                return samples
            if piece.failure:
                raise piece.blame(piece.failure)
            if piece.ended:
                return None
            self._schedule.hurry(piece, self._loop.time())
            self._waiting[piece].clear()
            await self._waiting[piece].wait()

    def drop(self, piece: Piece) -> None:
        """Have the piece spoken no further."""
        del self._waiting[piece]
        self._schedule.drop(piece, self._loop.time())
        self._settle()

    def close(self) -> None:
        self._schedule.fail_all(f"the engine {self._engine} was closed")
        self._settle()
        self.hello.cancel()

    def _settle(self) -> None:
        """Carry out what the schedule decided."""
        for number, message in self._schedule.data_to_send():
            if number in self._workers:
                self._workers[number].send(message)
        while event := self._schedule.next_event():
            match event:
                case Advanced(piece) if piece in self._waiting:
                    self._waiting[piece].set()
                case Stuck(number, detail) if number in self._workers:
                    self._workers[number].end(detail)


class WorkerPool:
    """An `Engine` whose work is done by worker processes. Made by `open_pool`."""

    def __init__(self, name: str, crew: _Crew, hello: Hello, catalogue: Catalogue, enrol: Enrol) -> None:
        self._name = name
        self._enrol = enrol
        self._crew = crew
        self._hello = hello
        self._catalogue = catalogue
        self._active = 0

    @property
    def name(self) -> str:
        return self._name

    @property
    def version(self) -> str:
        return self._hello.version

    @property
    def cloning(self) -> bool:
        return self._hello.cloning

    @property
    def embedding_kind(self) -> str:
        return self._hello.embedding_kind

    @property
    def worker_pids(self) -> tuple[int, ...]:
        """Process ids of the workers that are ready."""
        return self._crew.pids

    def voices(self) -> Sequence[Voice]:
        return self._catalogue.voices

    def health(self) -> Health:
        return self._crew.health(active=self._active)

    def describe(self) -> Mapping[str, object]:
        return self._catalogue.describe(self._name)

    def check(self, utterance: Utterance) -> None:
        cutting.check(utterance, self._hello, self._catalogue)

    async def enrol(self, samples: bytes, rate_hz: int) -> bytes:
        return await self._enrol(samples, rate_hz)

    def figures(self, embedding: bytes) -> Mapping[str, float]:
        return VoiceProfile.parse(embedding).figures() if self._hello.embedding_kind == KIND else {}

    async def synthesize(self, utterance: Utterance) -> AsyncGenerator[Pcm, None]:
        self.check(utterance)
        self._crew.admit()
        if not self._hello.queues and self._active >= self._crew.places:
            raise EngineBusy(f"all {self._active} places are taken", retry_after_s=1.0)
        requests = cutting.pieces(utterance, self._hello, self._catalogue)
        self._active += 1
        current: Piece | None = self._ask(requests, in_s=0.0)
        following: Piece | None = None
        try:
            while current is not None:
                while (samples := await self._crew.chunk(current)) is not None:
                    if following is None and current.ended and current.ahead_s < PREFETCH_S:
                        following = self._ask(requests, in_s=current.ahead_s)
                    yield Pcm(samples, utterance.rate_hz)
                self._crew.drop(current)
                current, following = following or self._ask(requests, in_s=0.0), None
        finally:
            self._active -= 1
            for piece in (current, following):
                if piece is not None:
                    self._crew.drop(piece)

    def _ask(self, requests: Iterator[Speak], *, in_s: float) -> Piece | None:
        request = next(requests, None)
        return None if request is None else self._crew.ask(request, in_s=in_s)


@contextlib.asynccontextmanager
async def open_pool(
    engine: str,
    options: Mapping[str, int | str | float],
    *,
    workers: int,
    default_voice: str = "",
    limits: Limits | None = None,
    start_s: float = START_TIMEOUT_S,
    enrol: Enrol = enrolment.enrol,
) -> AsyncIterator[WorkerPool]:
    """Start `workers` processes for an engine that worker.py knows, and end them at exit.

    Raises EngineFailure when none of them starts, UnknownVoice when there is no such default voice.
    """
    crew = _Crew(engine, options, seats=workers, limits=limits or Limits(), start_s=start_s)
    tasks = [asyncio.create_task(crew.keep(seat)) for seat in range(workers)]
    tasks.append(asyncio.create_task(crew.watch()))
    try:
        hello = await crew.hello
        yield WorkerPool(engine, crew, hello, Catalogue(hello, default=default_voice), enrol)
    finally:
        crew.close()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled():
                task.result()


async def _first(*futures: asyncio.Future[Any]) -> None:
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)


def _command(engine: str, options: Mapping[str, int | str | float], descriptor: int) -> list[str]:
    # -P: the working directory is not searched for modules.
    arguments = [engine, json.dumps(options), str(os.getpid()), str(descriptor)]
    return [sys.executable, "-P", "-m", "engines.worker", *arguments]


def _environment() -> dict[str, str]:
    """The host's, with this package on the path, and without threads for linear algebra: a worker forks."""
    here = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
