"""Admission control: what is served now, what waits, and what is told to come back later.

The one place where work is turned away: the server holds a place per request, the page one per answer. Backends take
whatever was admitted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from look_again.serving.backend import BusyError

LONGEST_RETRY_S = 60.0


class Admission:
    """At most `concurrency` at once and `queue` waiting, first come first served. noun: what is counted, for messages.

    ValueError for a concurrency below 1 or a queue below 0. The server checks before a request's body is read
    and takes a place after that.
    """

    def __init__(self, concurrency: int, queue: int, *, noun: str = "requests") -> None:
        if concurrency < 1 or queue < 0:
            raise ValueError(f"concurrency is at least 1 and queue at least 0, not {concurrency} and {queue}")
        self.concurrency, self.queue, self.noun = concurrency, queue, noun
        self.inside = 0
        self._places = asyncio.Semaphore(concurrency)
        self._mean_s = 1.0  # a running mean of the time that a place is held

    @property
    def waiting(self) -> int:
        return max(0, self.inside - self.concurrency)

    @property
    def running(self) -> int:
        return self.inside - self.waiting

    def check(self) -> None:
        """BusyError where even the queue is full."""
        if self.inside >= self.concurrency + self.queue:
            raise BusyError(f"{self.inside} {self.noun} are under way or waiting", self._retry_after_s())

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Hold a place, after the wait for it. BusyError where even the queue is full."""
        self.check()
        self.inside += 1
        held = False
        try:
            held = await self._places.acquire()
            started = time.monotonic()
            yield
            self._mean_s += 0.1 * (time.monotonic() - started - self._mean_s)
        finally:
            self.inside -= 1
            if held:
                self._places.release()

    def _retry_after_s(self) -> float:
        """About when a place in the queue is free."""
        return min(LONGEST_RETRY_S, self._mean_s * (self.waiting + 1) / self.concurrency)
