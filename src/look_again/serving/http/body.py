"""The body of a request: its bytes as they arrive, the watch for a client that leaves meanwhile, and strict JSON.

The body is bounded while it arrives, and read without what Python adds to JSON. ASGI reports that a client left through
the same channel that brings the body, so whoever watches while the body is still to be read keeps, up to a bound, what
comes in between.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import deque
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any, NoReturn

from starlette.requests import Request
from starlette.types import Message, Receive

from look_again.serving.http.errors import ApiError, invalid
from look_again.serving.http.limits import Limits

KEPT_BYTES = 1 << 18  # of a body that comes while its request waits; then the watch ends, and the client has to wait


class ClientLeftError(Exception):
    """Nobody is there to answer."""


class MessageBuffer:
    """The `receive` of a request; messages that a watch has read are kept for the reader of the body."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._kept: deque[Message] = deque()
        self._bytes = 0

    async def receive(self) -> Message:
        return self._kept.popleft() if self._kept else await self._receive()

    async def disconnected(self) -> None:
        """Return once the client has left."""
        while self._bytes <= KEPT_BYTES:
            message = await self._receive()
            self._kept.append(message)
            self._bytes += len(message.get("body", b""))
            if message["type"] == "http.disconnect":
                return
        await asyncio.Event().wait()


@asynccontextmanager
async def connected(messages: MessageBuffer) -> AsyncIterator[None]:
    """What is done within is stopped, and ClientLeftError raised, once the client is gone."""
    scope, loop = asyncio.timeout(None), asyncio.get_running_loop()
    watch = asyncio.create_task(messages.disconnected())

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


MAX_VALUES = 20_000  # of a body, keys aside: a large one of small parts would cost many times its bytes

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")  # the escape of one; pairs of them are characters


async def read_json(request: Request, limits: Limits) -> Any:
    """The body's value.

    Raises ApiError: 413 for more than `limits.body_bytes`, whether or not a Content-Length says so; 408 where it takes
    longer than `limits.body_timeout_s`; 415 for another media type (which also keeps other sites' forms from being
    read as requests); 400 for what is not JSON. Starlette's ClientDisconnect where the client leaves.
    """
    _check_headers(request, limits)
    try:
        async with asyncio.timeout(limits.body_timeout_s):
            raw = await _read(request, limits.body_bytes)
    except TimeoutError:
        raise ApiError(408, f"the body did not arrive within {limits.body_timeout_s:g} s", code="timeout") from None
    if raw.count(b",") > limits.text_characters + MAX_VALUES:  # those that texts do not account for
        raise _too_many_values()
    return parse_json(raw)


def _check_headers(request: Request, limits: Limits) -> None:
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "application/json":
        raise ApiError(415, f"the body is sent as application/json, not {media[:60]!r}", code="unsupported_media_type")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise ApiError(415, "the body is sent without a content-encoding", code="unsupported_media_type")
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length[:20]) > limits.body_bytes:
        raise _too_large(limits.body_bytes)


async def _read(request: Request, limit: int) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise _too_large(limit)
    return bytes(body)


def _too_large(limit: int) -> ApiError:
    message = f"the body is larger than {limit} bytes; send fewer or smaller images"
    return ApiError(413, message, code="request_too_large")


def parse_json(raw: bytes) -> Any:
    """Strict JSON in UTF-8. ApiError 400 otherwise; also for NaN, Infinity, lone surrogates and very deep nesting."""
    try:
        value = json.loads(raw.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise invalid(f"the body is not UTF-8: byte {error.start} is wrong", code="invalid_json") from None
    except RecursionError:
        raise invalid("the body is nested too deeply", code="invalid_json") from None
    except ValueError as error:  # also numbers of more digits than Python converts
        raise invalid(f"the body is not JSON: {error}", code="invalid_json") from None
    if not _fits(value):
        raise _too_many_values()
    if _SURROGATE.search(raw) and not all(map(_is_text, _strings(value))):
        raise invalid("the body holds half a surrogate pair, which is no character", code="invalid_json")
    return value


def _fits(value: Any) -> bool:
    """Whether it holds at most `MAX_VALUES` values."""
    pending, left = [value], MAX_VALUES
    while pending and left >= 0:
        inner = _inside(pending.pop())
        left -= len(inner)
        if left >= 0:
            pending.extend(inner)
    return left >= 0


def _inside(value: Any) -> Collection[Any]:
    """The values that an object or an array holds, without keys."""
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _strings(value: Any) -> Iterator[str]:
    """All strings in a value, keys included."""
    pending = [value]
    while pending:
        current = pending.pop()
        if isinstance(current, str):
            yield current
        elif isinstance(current, dict):
            yield from current
        pending.extend(_inside(current))


def _is_text(string: str) -> bool:
    """Whether it holds no half of a surrogate pair."""
    try:
        string.encode()
    except UnicodeEncodeError:
        return False
    return True


def _too_many_values() -> ApiError:
    return invalid(f"the body holds more than {MAX_VALUES} values", code="request_too_large")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
