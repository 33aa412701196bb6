"""The body of a request: its bytes as they arrive, the watch for a client that leaves meanwhile, and strict JSON.

The body is bounded while it arrives, alone and together with all others, and read without what Python adds to JSON. It
is read before a place among the running requests is taken, so that slow clients hold none.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

from starlette.requests import Request
from starlette.types import Receive

from look_again.serving.backend import BusyError
from look_again.serving.http.errors import ApiError, invalid
from look_again.serving.http.limits import Limits
from look_again.serving.workers.json_body import BodyError, parse_body, parse_values

PAUSE_S = 10.0  # longest silence in a body


class ClientLeftError(Exception):
    """Nobody is there to answer."""


@asynccontextmanager
async def connected(receive: Receive) -> AsyncIterator[None]:
    """Once the client is gone, stop what is done within and raise ClientLeftError. The body was read before."""
    scope, loop = asyncio.timeout(None), asyncio.get_running_loop()
    watch = asyncio.create_task(_wait_for_disconnect(receive))

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


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class BodyMemory:
    """Bytes of bodies that are arriving, waiting or being answered, together bounded."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes, self.used = max_bytes, 0

    @contextmanager
    def hold(self) -> Iterator[Callable[[int], None]]:
        """A function that takes more bytes for one body until the context ends. BusyError where there are none left."""
        held = 0

        def take(count: int) -> None:
            nonlocal held
            if self.used + count > self.max_bytes:
                raise BusyError("too many bytes of requests are under way", 5.0)
            self.used += count
            held += count

        try:
            yield take
        finally:
            self.used -= held


SHORT_BYTES = 2**20
"""Bodies up to this are parsed at once, which takes milliseconds; longer ones by a worker."""


async def read_json(
    request: Request,
    limits: Limits,
    take: Callable[[int], None] = lambda count: None,
    parse_long: Callable[[bytes], Awaitable[Any]] | None = None,
) -> Any:
    """The body's value. take: called with the bytes of each part before it is kept. parse_long: does what `parse_body`
    does with a long body.

    Raises ApiError: 413 for more than `limits.body_bytes`, whether or not a Content-Length says so; 408 where it takes
    longer than `limits.body_timeout_s` or stands still; 415 for another media type (which also keeps other sites'
    forms from being read as requests); 400 for what is not JSON. Also what `take` raises, and Starlette's
    ClientDisconnect where the client leaves.
    """
    _check_headers(request, limits)
    try:
        async with asyncio.timeout(limits.body_timeout_s):
            raw = await _read(request, limits.body_bytes, take)
    except TimeoutError:
        raise ApiError(408, f"the body did not arrive within {limits.body_timeout_s:g} s", code="timeout") from None
    try:
        if parse_long is None or len(raw) <= SHORT_BYTES:
            return parse_body(raw, limits.text_characters)
        return await parse_long(raw)
    except BodyError as error:
        raise invalid(str(error), code=error.code) from None


def _check_headers(request: Request, limits: Limits) -> None:
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "application/json":
        raise ApiError(415, f"the body is sent as application/json, not {media[:60]!r}", code="unsupported_media_type")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise ApiError(415, "the body is sent without a content-encoding", code="unsupported_media_type")
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length[:20]) > limits.body_bytes:
        raise _too_large(limits.body_bytes)


async def _read(request: Request, limit: int, take: Callable[[int], None]) -> bytes:
    body = bytearray()
    parts = aiter(request.stream())
    while True:
        async with asyncio.timeout(PAUSE_S):
            part = await anext(parts, None)
        if part is None:
            return bytes(body)
        if len(body) + len(part) > limit:
            raise _too_large(limit)
        take(len(part))
        body += part


def _too_large(limit: int) -> ApiError:
    message = f"the body is larger than {limit} bytes; send fewer or smaller images"
    return ApiError(413, message, code="request_too_large")


def parse_json(raw: bytes) -> Any:
    """As `parse_values`, with an ApiError 400."""
    try:
        return parse_values(raw)
    except BodyError as error:
        raise invalid(str(error), code=error.code) from None
