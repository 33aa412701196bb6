"""What a page takes from a request's body: nothing that lies elsewhere.

Where a request names a file by its web address, Gradio fetches it, for whichever field, from any public host and of any
size. Our pages take uploads only, so such a request is refused before Gradio reads it. The paper has no pages; these
are our rules.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

MAX_BYTES = 2**22  # of a body that is no form; forms bring uploads, which have a limit of their own
FORMS = (b"multipart/form-data", b"application/x-www-form-urlencoded")
Receive = Callable[[], Awaitable[Any]]


async def checked(headers: Iterable[tuple[bytes, bytes]], receive: Receive) -> Receive:
    """`receive` for the application once the body was looked at. headers: with lower-case names, as ASGI has them.

    ValueError for a body that is neither a form nor JSON, is longer than 4 MiB, or names a file by its address.
    """
    pairs = list(headers)
    kinds = [value.split(b";")[0].strip().lower() for name, value in pairs if name == b"content-type"]
    empty = not any(name in (b"content-length", b"transfer-encoding") for name, _ in pairs)  # what HTTP says by itself
    if empty or (len(kinds) == 1 and kinds[0] in FORMS):
        return receive
    body = await _read(receive)
    if body:
        check_json(body)
    return _replayed(body, receive)


def check_json(body: bytes) -> None:
    """ValueError for what is not JSON, and where a file is named by its address."""
    try:
        todo = [json.loads(body)]
    except (ValueError, RecursionError):
        raise ValueError("a request's body is a form or JSON") from None
    while todo:
        item = todo.pop()
        if isinstance(item, dict):
            path = item.get("path")
            if isinstance(path, str) and "://" in path:
                raise ValueError("files are uploaded; this page fetches none")
            todo += item.values()
        elif isinstance(item, list):
            todo += item


async def _read(receive: Receive) -> bytes:
    body, more = bytearray(), True
    while more:
        message = await receive()  # a disconnect has neither of both
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > MAX_BYTES:
            raise ValueError(f"a request's body has at most {MAX_BYTES} bytes")
    return bytes(body)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """The body at once, then whatever comes."""
    first = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Any:
        return first.pop() if first else await receive()

    return replay
