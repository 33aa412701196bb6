"""What a page takes from a body: a form where its route has one, else JSON that names this browser's own files.

Where a request names a file by its web address, Gradio fetches it, for whichever field, from any public host and of any
size; where it names a path of this machine, Gradio reads that. Our pages take uploads only, so such a request is
refused before Gradio reads it. The paper has no pages; these are our rules.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from look_again.text.strict_json import parse_json
from look_again.web.page_sessions import PageSession, find_paths

MAX_BYTES = 2**20  # of a body that is no form; forms bring uploads, which have a limit of their own
MAX_NESTED = 20_000  # objects and arrays of a body, by their opening brackets: one costs many times its bytes
DIGITS = 20  # of an integer, its sign included
FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")
Receive = Callable[[], Awaitable[Any]]


class BodyError(ValueError):
    """A body that is not taken. status: of HTTP."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


async def read_value(headers: list[tuple[str, str]], receive: Receive, session: PageSession) -> tuple[Any, Receive]:
    """The JSON of a body (None where there is no body), and `receive` for the application.

    headers: with lower-case names. Raises BodyError for a body that is not JSON, is longer than 1 MiB, or names a file
    that was not stored for this browser.
    """
    if not any(name in ("content-length", "transfer-encoding") for name, _ in headers):  # then HTTP says there is none
        return None, receive
    body = await _read(receive)
    value = parse_body(body) if body else None
    for path in find_paths(value):
        if "://" in path:
            raise BodyError("files are uploaded; this page fetches none")
        if not session.has(path):
            raise BodyError("this page has no such file")
    return value, _replay(body, receive)


def is_form(headers: list[tuple[str, str]]) -> bool:
    """Whether a body is declared to be a form, and nothing else."""
    kinds = [value.split(";")[0].strip().lower() for name, value in headers if name == "content-type"]
    return len(kinds) == 1 and kinds[0] in FORMS


def check_form(headers: Mapping[str, str], max_bytes: int) -> None:
    """Raises BodyError for a form that says no length (411) or one of more than `max_bytes` (413).

    Where a body comes in chunks, a length beside it means nothing.
    """
    length = headers.get("content-length", "")
    if "transfer-encoding" in headers or not length.isdecimal():
        raise BodyError("a form is sent with its length", 411)
    if len(length) > 15 or int(length) > max_bytes:
        raise BodyError(f"this form has at most {max_bytes} bytes", 413)


def parse_body(body: bytes) -> Any:
    """The value. Raises BodyError for what is not strict JSON, for integers that Gradio could not handle, and for more
    than 20,000 objects and arrays.
    """
    if body.count(b"[") + body.count(b"{") > MAX_NESTED:
        raise BodyError(f"a request's body holds at most {MAX_NESTED} objects and arrays")
    try:
        return parse_json(body, digits=DIGITS)
    except ValueError as error:
        raise BodyError(f"a request's body {error}") from None


async def _read(receive: Receive) -> bytes:
    body, more = bytearray(), True
    while more:
        message = await receive()  # a disconnect has neither of both
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > MAX_BYTES:
            raise BodyError(f"a request's body has at most {MAX_BYTES} bytes")
    return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    """The body at once, then whatever comes."""
    first = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Any:
        return first.pop() if first else await receive()

    return replay
