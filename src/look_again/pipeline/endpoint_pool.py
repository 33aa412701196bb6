"""An endpoint in use: how many requests are open, how fast they may follow each other, and whether it is down."""

from __future__ import annotations

import asyncio
import time

from look_again.clients.openai import Endpoint, Transport

DOWN_AFTER = 3  # requests in a row that ran out of attempts
DOWN_S = 60.0  # before a server that is down is tried again


class EndpointDownError(ValueError):
    """A server that does not answer; the row can wait."""


class EndpointState:
    """One endpoint in use: its open requests, its pace, and whether it is down."""

    def __init__(self, endpoint: Endpoint, transport: Transport) -> None:
        self.endpoint, self.transport = endpoint, transport
        self.open = asyncio.Semaphore(endpoint.concurrency)
        self.failures = 0
        self.down_until = 0.0
        self._next = 0.0  # when the next request may go out

    async def pace(self) -> None:
        """Waits until the rate, or a server that asked for a pause, allows another request."""
        while (wait := self._next - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        if self.endpoint.rate is not None:
            self._next = time.monotonic() + 1 / self.endpoint.rate

    def pause(self, wait_s: float) -> None:
        self._next = max(self._next, time.monotonic() + min(wait_s, self.endpoint.max_wait_s))

    def check_up(self) -> None:
        if time.monotonic() < self.down_until:
            raise EndpointDownError(f"{self.endpoint.name} is down: it is tried again later")

    def note(self, answered: bool) -> None:
        """Count a request that got its reply in the end, or did not."""
        self.failures = 0 if answered else self.failures + 1
        if self.failures >= DOWN_AFTER:
            self.down_until = time.monotonic() + DOWN_S
