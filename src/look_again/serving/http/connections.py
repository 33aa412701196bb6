"""One connection of the server: how long it may say nothing, and clients that closed only half of it.

uvicorn times out a connection between two requests alone. A connection that sends no whole head of a request would stay
for ever, and one whose client says that it sends no more (as `nc` and some proxies do) would lose its answer. Both are
settled here, in a subclass of uvicorn's protocol, which its configuration takes.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from collections.abc import Mapping
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_TIMEOUT_S = 20.0  # for the whole head of a request, from the connection or the answer before it
PROBE_S = (0.05, 1.0)  # after the first, and after every further question whether a client still reads
RESERVED_DESCRIPTORS = 128  # for files, images being fetched and vLLM
SILENT_S = 60.0  # between two reports of the same fault of the event loop

log = logging.getLogger(__name__)


class BoundedConnection(H11Protocol):
    """A connection with a time limit for heads, half-closed clients answered, and a bound on their number."""

    max_connections: ClassVar[int] = 1000
    _head_timer: asyncio.TimerHandle | None = None
    _probe_timer: asyncio.TimerHandle | None = None
    _half_closed = False  # the client sends no more
    _probed = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            transport.abort()
            return
        self._await_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._answering:
            self._cancel_timers()
        elif self._head_timer is None:
            self._await_head()

    def on_response_complete(self) -> None:
        self._cancel_timers()
        super().on_response_complete()
        if self._half_closed:
            self.transport.close()

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client sends no more: it may still read its answer, or have gone."""
        if not self._answering:
            return False
        self._half_closed = True
        self._probe()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_timers()
        super().connection_lost(exc)

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._head_missing)

    def _head_missing(self) -> None:
        self._head_timer = None
        if not self._answering:
            self.transport.close()

    def _probe(self) -> None:
        """Write something that every client skips: to one that has gone the second such write fails."""
        self._probe_timer = None
        if not self._answering or self.transport.is_closing():
            return
        if not self.cycle.response_started:
            note = h11.InformationalResponse(status_code=102, headers=[], reason=b"Processing")
            self.transport.write(self.conn.send(event=note) or b"")
            self._probe_timer = self.loop.call_later(PROBE_S[self._probed], self._probe)
            self._probed = 1

    def _cancel_timers(self) -> None:
        for timer in (self._head_timer, self._probe_timer):
            if timer is not None:
                timer.cancel()
        self._head_timer = self._probe_timer = None


def raise_descriptor_limit() -> int:
    """Open files up to the hard limit; the number of connections that leaves what else is needed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard if hard != resource.RLIM_INFINITY else max(soft, 65_536)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (ValueError, OSError):
        wanted = soft
    return max(16, wanted - RESERVED_DESCRIPTORS)


class QuietLoopErrors:
    """An exception handler for event loops that reports a fault once a minute: without descriptors left, asyncio
    reports thousands of them in a second, each with its traceback.
    """

    def __init__(self) -> None:
        self._reported: dict[str, float] = {}

    def __call__(self, loop: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
        message = str(context.get("message"))
        if "out of system resource" not in message:
            loop.default_exception_handler(dict(context))
            return
        if loop.time() - self._reported.get(message, -SILENT_S) < SILENT_S:
            return
        self._reported[message] = loop.time()
        error = context.get("exception")
        log.error("%s: %s: %s", message, type(error).__name__, error)
