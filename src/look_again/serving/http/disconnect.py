"""A request's messages as they arrive, and the watch for its client, also while the request only waits.

ASGI says that a client left through the same channel that brings the body. So whoever watches while the body is still
to be read keeps, up to a bound, what comes in between.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from starlette.types import Message, Receive

KEPT_BYTES = 1 << 18  # of a body that comes while its request waits; then the watch ends, and the client has to wait


class ClientLeftError(Exception):
    """Nobody is there to answer."""


class Inbox:
    """The `receive` of a request, in which nothing is lost that a watch has read."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._kept: deque[Message] = deque()
        self._bytes = 0

    async def receive(self) -> Message:
        return self._kept.popleft() if self._kept else await self._receive()

    async def gone(self) -> None:
        """Return once the client has left."""
        while self._bytes <= KEPT_BYTES:
            message = await self._receive()
            self._kept.append(message)
            self._bytes += len(message.get("body", b""))
            if message["type"] == "http.disconnect":
                return
        await asyncio.Event().wait()


@asynccontextmanager
async def connected(inbox: Inbox) -> AsyncIterator[None]:
    """What is done within is stopped, and ClientLeftError raised, once the client is gone."""
    scope, loop = asyncio.timeout(None), asyncio.get_running_loop()
    watch = asyncio.create_task(inbox.gone())

    def left(done: asyncio.Task[None]) -> None:
        if not done.cancelled():
            with suppress(RuntimeError):  # the scope was left in the meantime
                scope.reschedule(loop.time())

    try:
        async with scope:
            watch.add_done_callback(left)
            yield
    except TimeoutError:
        if scope.expired():
            raise ClientLeftError from None
        raise
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
