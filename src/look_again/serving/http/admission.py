"""Who is served now, who waits, and who is told to come back later."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext

from look_again.serving.http.errors import too_busy

LONGEST_RETRY_S = 60.0


class Admission:
    """At most `concurrency` requests at once and `queue` waiting, first come first served.

    It decides before a request's body is read, so that what waits costs a connection and little else.
    """

    def __init__(self, concurrency: int, queue: int) -> None:
        self.concurrency, self.queue = concurrency, queue
        self.inside = 0
        self._places = asyncio.Semaphore(concurrency)
        self._mean_s = 1.0  # of a request, a running mean

    @property
    def waiting(self) -> int:
        return max(0, self.inside - self.concurrency)

    @asynccontextmanager
    async def place(
        self, watching: Callable[[], AbstractAsyncContextManager[None]] = nullcontext
    ) -> AsyncIterator[None]:
        """Hold a place. ApiError 429 where even the queue is full. watching: a context that ends a wait for nobody."""
        if self.inside >= self.concurrency + self.queue:
            raise too_busy(f"{self.inside} requests are under way or waiting", self._retry_after_s())
        self.inside += 1
        held = False
        try:
            async with watching():
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
