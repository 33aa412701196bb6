"""What a page answers: requests that its access lets in, with bodies that name nothing elsewhere, under strict headers.

A page without a password trusts whoever sits at the machine, so it also refuses what other web pages send to it from
their browser. What a request may bring with it is checked by `web.request_bodies`, who may send one by `web.access`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from look_again.web.access import Access, is_own_origin, read_headers, read_host_name
from look_again.web.request_bodies import checked

HEADERS = {
    # Nothing is fetched from elsewhere, and no other page may frame this one.
    "content-security-policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; "
    "worker-src 'self' blob:; frame-ancestors 'none'; form-action 'self'; base-uri 'self'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def explain_refusal(access: Access, headers: Mapping[str, str]) -> str | None:
    """Why a page does not answer a request, None for one that it answers. headers: by lower-case name."""
    name = read_host_name(headers)
    if name is None:
        return "the host's name cannot be read"
    if not access.answers_to(name):
        return f"this page is local: it does not answer as {name!r}"
    return None if is_own_origin(headers) else "this page answers its own requests only"


class PageGuard:
    """An ASGI application behind `explain_refusal` and `checked`, its answers with `HEADERS`."""

    def __init__(self, app: Any, access: Access) -> None:
        self.app, self.access = app, access

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        reason = explain_refusal(self.access, read_headers(scope))
        if reason is not None or scope["type"] != "http":
            await _refuse(403, reason or "", scope, send)
            return
        try:
            receive = await checked(scope["headers"], receive)
        except ValueError as error:
            await _refuse(400, str(error), scope, send)
            return

        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                more = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", ()), *more]}
            await send(message)

        await self.app(scope, receive, with_headers)


async def _refuse(status: int, reason: str, scope: Any, send: Any) -> None:
    if scope["type"] != "http":
        await send({"type": "websocket.close", "code": 1008})
        return
    head = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": f"{reason}\n".encode()})
