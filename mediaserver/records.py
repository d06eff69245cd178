"""The record of every call that has ended, as a line of JSON in a file (`calls.record_file`)."""

from __future__ import annotations

import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from types import TracebackType

import structlog

from mediaserver.detail import Facts

__all__ = ["Records", "record_of"]

log = structlog.get_logger("records")

# A disk that stands still is not to take all memory.
MOST_WAITING = 10_000


class Records:
    """The file, appended to in a thread, since a disk may make wait. A context manager; at its end all is written.

    It is opened anew for every line, so that it may be moved away at any time.

    Raises OSError when it cannot be written.
    """

    def __init__(self, path: Path, *, with_text: bool) -> None:
        self._path = path
        self._with_text = with_text
        self._waiting = 0
        self._lost = 0
        path.open("a").close()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="records")

    def __enter__(self) -> Records:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.shutdown()

    def append(self, facts: Facts) -> None:
        """Write down a call that has ended."""
        if self._waiting >= MOST_WAITING:
            self._lost += 1
            return
        self._waiting += 1
        self._writer.submit(self._write, facts)

    def _write(self, facts: Facts) -> None:
        line = json.dumps(record_of(facts, with_text=self._with_text), ensure_ascii=False)
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            self._lost += 1
            log.error("the record of a call is lost", path=str(self._path), error=str(error), lost=self._lost)
        finally:
            self._waiting -= 1


def record_of(facts: Facts, *, with_text: bool) -> dict[str, object]:
    """What is left of a call, of builtins that JSON has; `with_text`: with what was said."""
    record = dataclasses.asdict(facts)
    record["from"], record["to"] = record.pop("caller"), record.pop("callee")
    if facts.media is not None:
        record["media"] = {name: None if value == "" else value for name, value in facts.media.items()}
    for said in record["speech"]:
        said["state"] = said["state"].value
        if not with_text:
            del said["text"]
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in record.items()}
