"""How many speech requests are at work at a time, by all clients and by each, and how many files are on their way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from .access import Client
from .problem import Problem
from .schema import ApiLimits

__all__ = ["Admission", "Uploads"]


class Admission:
    """Counts the requests at work and turns away those beyond the limits; nobody queues."""

    def __init__(self, limits: ApiLimits) -> None:
        self._limits = limits
        self._at_work: Counter[str] = Counter()

    @contextmanager
    def slot(self, client: Client) -> Iterator[None]:
        """A place for one request of `client` while the block runs.

        Raises Problem: 429 when the client has its share already (RFC 6585 section 4), 503 when the server is full.
        """
        limits = self._limits
        share = limits.max_concurrent_per_client if client.max_speech is None else client.max_speech
        if share is not None and self._at_work[client.key] >= share:
            raise Problem.of_overload(
                429, f"This client has {share} requests at work already.", retry_after_s=limits.retry_after_s
            )
        if self._at_work.total() >= limits.max_concurrent:
            raise Problem.of_overload(
                503, "The server has as many requests at work as it takes.", retry_after_s=limits.retry_after_s
            )
        self._at_work[client.key] += 1
        try:
            yield
        finally:
            self._at_work[client.key] -= 1
            if not self._at_work[client.key]:
                del self._at_work[client.key]


class Uploads:
    """Counts the files that are held in memory until they are made use of; nobody queues."""

    def __init__(self, limits: ApiLimits) -> None:
        self._limits = limits
        self._count = 0

    @contextmanager
    def slot(self) -> Iterator[None]:
        """A place for one of them. Raises Problem 503."""
        limits = self._limits
        if self._count >= limits.max_uploads:
            raise Problem.of_overload(
                503, f"{limits.max_uploads} files are being uploaded already.", retry_after_s=limits.retry_after_s
            )
        self._count += 1
        try:
            yield
        finally:
            self._count -= 1
