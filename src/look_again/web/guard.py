"""What a page answers: requests that its access lets in, for routes that it needs, with bodies and files of its own.

A page without a password trusts whoever sits at the machine, so it also refuses what other web pages send to it from
their browser. Who may send a request is decided by `web.access`, where to by `web.page_routes`, what it may bring with
it by `web.request_bodies`, and which files belong to whom by `web.page_sessions`.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qs

from look_again.web.access import Access, is_own_origin, read_headers, read_host_name
from look_again.web.login_attempts import DELAY_S, LoginAttempts
from look_again.web.page_routes import PAGE_ROUTES, PageRoute, find_route
from look_again.web.page_sessions import PageSession, PageSessions, build_cookie
from look_again.web.request_bodies import BodyError, check_form, is_form, read_value

HEADERS = {
    # Nothing is fetched from elsewhere, and no other page may frame this one.
    "content-security-policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; "
    "worker-src 'self' blob:; frame-ancestors 'none'; form-action 'self'; base-uri 'self'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
PAGE_SERVER: dict[str, Any] = {
    "log_level": "warning",
    "timeout_graceful_shutdown": 2,
    "proxy_headers": False,  # or whoever reaches this machine's own address would name the address that is locked
}
"""Settings of uvicorn for a page."""
MAX_WAITING = 100  # events of a page that wait in Gradio's queue; each that comes is told to all of them
FILE, UPLOAD, EVENTS = "/gradio_api/file=", "/gradio_api/upload", "/gradio_api/queue/data"
HEARTBEAT, LOGIN, USER = "/gradio_api/heartbeat/", "/login", "/gradio_api/user"
WINDOW, WINDOW_CHARACTERS = "session_hash", 200
EVENT_BYTES = 2**24  # of an event that is looked through for files; none of ours is as long


class RefusalError(Exception):
    """A request that is not answered. status: of HTTP."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.headers = status, dict(headers or {})


def explain_refusal(access: Access, headers: Mapping[str, str]) -> str | None:
    """Why a page does not answer a request, None for one that it answers. headers: by lower-case name."""
    name = read_host_name(headers)
    if name is None:
        return "the host's name cannot be read"
    if not access.answers_to(name):
        return f"this page is local: it does not answer as {name!r}"
    return None if is_own_origin(headers) else "this page answers its own requests only"


class PageGuard:
    """An ASGI application behind all of this, its answers with `HEADERS`. routes: that it answers."""

    def __init__(self, app: Any, access: Access, routes: Sequence[PageRoute] = PAGE_ROUTES) -> None:
        self.app, self.access, self.routes = app, access, routes
        self.sessions, self.attempts = PageSessions(), LoginAttempts()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        else:
            try:
                await self._answer(scope, receive, send)
            except RefusalError as error:
                await _refuse(error.status, str(error), send, error.headers)
            except BodyError as error:
                await _refuse(error.status, str(error), send)

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        headers = read_headers(scope)
        if (reason := explain_refusal(self.access, headers)) is not None:
            raise RefusalError(403, reason)
        route = find_route(self.routes, scope["method"], scope["path"], scope["query_string"])
        session, new = self.sessions.open(headers)
        if route is None or (scope["path"].startswith(FILE) and not session.has(scope["path"][len(FILE) :])):
            raise RefusalError(404, "there is nothing here")
        windows = _read_windows(scope)
        pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
        if route.form_bytes and is_form(pairs):
            check_form(headers, route.form_bytes)
        else:
            value, receive = await read_value(pairs, receive, session)
            windows += [str(value[WINDOW])] if isinstance(value, dict) and WINDOW in value else []
        if self.access.closed and scope["path"].startswith(HEARTBEAT) and not await self._is_logged_in(scope):
            raise RefusalError(401, "log in first")
        for window in windows:  # whichever of them Gradio reads
            if len(window) > WINDOW_CHARACTERS:
                raise RefusalError(400, "a window has a short name")
            if not self.sessions.claim(window, session):
                raise RefusalError(403, "this window is another browser's")
        send = _with_headers(send, [*HEADERS.items(), *([("set-cookie", build_cookie(session))] if new else [])])
        if route.path.rstrip("/") == LOGIN and scope["method"] == "POST":
            await self._log_in(scope, receive, send)
        else:
            await self.app(scope, receive, _watch(scope["path"], session, send))

    async def _is_logged_in(self, scope: Any) -> bool:
        """Whether Gradio knows who sent a request: it does not ask for that everywhere."""
        told = bytearray()

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def collect(message: Any) -> None:
            told.extend(message.get("body", b""))

        asked = {"method": "GET", "path": USER, "raw_path": USER.encode(), "query_string": b""}
        await self.app({**scope, **asked}, receive, collect)
        return isinstance(_parse(bytes(told)), str)

    async def _log_in(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a try of the password: at once where it is right, late where it is wrong, not at all when locked."""
        address = str((scope.get("client") or ("",))[0])
        locked_s = self.attempts.start(address)
        if locked_s > 0:
            wait = {"retry-after": str(math.ceil(locked_s))}
            raise RefusalError(429, f"too many wrong passwords: try again in {math.ceil(locked_s)} s", wait)

        async def watch(message: Any) -> None:
            if message["type"] == "http.response.start":
                if message["status"] < 400:
                    self.attempts.succeed(address)
                else:
                    await asyncio.sleep(DELAY_S)
            await send(message)

        await self.app(scope, receive, watch)


def _read_windows(scope: Any) -> list[str]:
    """The windows that an address names."""
    path, query = scope["path"], parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    return [*([path[len(HEARTBEAT) :]] if path.startswith(HEARTBEAT) else []), *query.get(WINDOW, [])]


def _with_headers(send: Any, headers: Sequence[tuple[str, str]]) -> Any:
    async def with_headers(message: Any) -> None:
        if message["type"] == "http.response.start":
            more = [(name.encode(), value.encode()) for name, value in headers]
            message = {**message, "headers": [*message.get("headers", ()), *more]}
        await send(message)

    return with_headers


def _watch(path: str, session: PageSession, send: Any) -> Any:
    """`send` that stores for the session the files that an answer names."""
    if path == UPLOAD:
        return _collect(send, lambda body: session.store_uploads(_parse(body)))
    if path != EVENTS:
        return send
    buffer = bytearray()

    async def watch(message: Any) -> None:
        buffer.extend(message.get("body", b""))
        *events, rest = bytes(buffer).split(b"\n\n")
        for event in events:
            if b'"path"' in event:
                session.store_all(_parse(event.removeprefix(b"data: ")))
        buffer[:] = rest if len(rest) <= EVENT_BYTES else b""
        await send(message)

    return watch


def _collect(send: Any, use: Callable[[bytes], None]) -> Any:
    """`send` that hands a whole body to `use` before its last part goes out."""
    body = bytearray()

    async def collect(message: Any) -> None:
        if message["type"] == "http.response.body":
            body.extend(message.get("body", b""))
            if not message.get("more_body", False):
                use(bytes(body))
        await send(message)

    return collect


def _parse(data: bytes) -> Any:
    with suppress(ValueError, RecursionError):
        return json.loads(data)
    return None


async def _refuse(status: int, reason: str, send: Any, headers: Mapping[str, str] | None = None) -> None:
    head = {"content-type": "text/plain; charset=utf-8", **(headers or {})}
    raw = [(name.encode(), value.encode()) for name, value in head.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": f"{reason}\n".encode()})
