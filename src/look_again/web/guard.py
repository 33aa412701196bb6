"""Who may talk to a page: the local machine alone unless it has a password, and never another page's scripts.

A page without a password trusts whoever sits at the machine, so it also has to refuse what other web pages send to it
from their browser: requests under a foreign host name or from a foreign origin. What a request may bring with it is
`pages.bodies`'s. The paper has no pages; these are our rules.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any, Protocol
from urllib.parse import urlsplit

from look_again.web.request_bodies import checked

LEAST_CHARACTERS = 8  # of a password
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
HEADERS = {
    # Nothing is fetched from elsewhere, and no other page may frame this one.
    "content-security-policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; "
    "worker-src 'self' blob:; frame-ancestors 'none'; form-action 'self'; base-uri 'self'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class Door(Protocol):
    """host: that the page is bound to. password: None on the local machine."""

    @property
    def host(self) -> str: ...

    @property
    def password(self) -> str | None: ...


def is_local(host: str) -> bool:
    """Whether an address can be reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def refusal(door: Door, headers: Mapping[str, str]) -> str | None:
    """Why a request is not answered, None for one that is. headers: by lower-case name."""
    host, origin = headers.get("host", ""), headers.get("origin")
    name, own = host_name(host), origin is None or _parts(origin)[1] == host
    if name is None:
        return "the host's name cannot be read"
    if door.password is None and name not in (*LOCAL_NAMES, door.host):
        return f"this page is local: it does not answer as {name!r}"
    return None if own else "this page answers its own requests only"


def host_name(host: str) -> str | None:
    """The name in a Host header, "" where there is none; None for what cannot be read."""
    return _parts(f"//{host}")[0]


def _parts(url: str) -> tuple[str | None, str | None]:
    """Host name and host with port; None twice for what is no address, such as one with half a bracket."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return None, None
    return parts.hostname or "", parts.netloc


class Guard:
    """An ASGI application behind `refusal` and `checked`, its answers with `HEADERS`."""

    def __init__(self, app: Any, door: Door) -> None:
        self.app, self.door = app, door

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        given = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        reason = refusal(self.door, given)
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
