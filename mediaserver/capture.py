"""A copy of every SIP message for a capture server: by UDP, so that nothing ever waits for it."""

from __future__ import annotations

import socket
import time
from types import TracebackType
from typing import Self

from prometheus_client.core import CounterMetricFamily

import sip
from mediaserver import config

__all__ = ["Capture"]


class Capture:
    """What `sip.Transport.capture` is to be. A context manager. Raises OSError when there is no way to the server."""

    def __init__(self, collector: config.Address, *, node: int) -> None:
        self._node = node
        self._sent = self._lost = 0
        self._socket = socket.socket(socket.AF_INET6 if ":" in collector.host else socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self._socket.setblocking(False)
            self._socket.connect((collector.host, collector.port))
        except OSError:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def __call__(self, message: bytes, flow: sip.Flow, received: bool) -> None:
        packet = sip.capture_packet(message, flow, received=received, at_s=time.time(), node=self._node)
        try:
            self._socket.send(packet)
        except OSError:
            self._lost += 1  # a full buffer, or nobody listens there (ICMP)
        else:
            self._sent += 1

    def families(self) -> list[CounterMetricFamily]:
        """As metric families."""
        messages = CounterMetricFamily("sip_captured", "SIP messages for the capture server", labels=["outcome"])
        messages.add_metric(["sent"], self._sent)
        messages.add_metric(["lost"], self._lost)
        return [messages]
