"""The body of a request: its bytes as they arrive, the watch for a client that leaves meanwhile, and strict JSON.

The body is bounded while it arrives, alone and together with all others, and read without what Python adds to JSON. It
is read before a place among the running requests is taken, so that slow clients hold none.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, NoReturn

from starlette.requests import Request
from starlette.types import Receive

from look_again.serving.backend import BusyError
from look_again.serving.http.errors import ApiError, invalid
from look_again.serving.http.limits import Limits

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


MAX_VALUES = 20_000  # of a body, keys aside: a large one of small parts would cost many times its bytes

_STRING_END = re.compile(rb'(?:[^"\\]|\\.)*+"', re.DOTALL)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")  # the escape of one; pairs of them are characters


async def read_json(request: Request, limits: Limits, take: Callable[[int], None] = lambda count: None) -> Any:
    """The body's value. take: called with the bytes of each part before it is kept.

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
    opened = raw.count(b"[") + raw.count(b"{")
    if max(raw.count(b","), opened) > limits.text_characters + MAX_VALUES:  # those that texts do not account for
        raise _too_many_values()
    if opened > MAX_VALUES and await asyncio.to_thread(count_nested, raw) > MAX_VALUES:
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


def count_nested(raw: bytes) -> int:
    """Objects and arrays that a body opens, brackets in its texts aside; told before parsing, where each costs memory.

    Works through small parts, so that other threads run in between.
    """
    count = place = 0
    while (opening := raw.find(b'"', place)) >= 0:
        count += raw.count(b"[", place, opening) + raw.count(b"{", place, opening)
        closing = _STRING_END.search(raw, opening + 1)
        if closing is None or count > MAX_VALUES:
            return count
        place = closing.end()
    return count + raw.count(b"[", place) + raw.count(b"{", place)


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
