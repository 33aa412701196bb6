"""Who may reach the review page: the local machine alone unless told otherwise, and elsewhere only with a password.

A page without a password trusts whoever sits at the machine, so it also has to refuse what other web pages send to it
from their browser: requests under a foreign host name or from a foreign origin. The paper does not say how its people
worked; these are our rules.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

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


@dataclass(frozen=True)
class Access:
    """reviewers: who may decide on this page. password: None on the local machine. host: that the page is bound to."""

    reviewers: tuple[str, ...]
    password: str | None = None
    host: str = "127.0.0.1"

    def login(self, name: str, password: str) -> bool:
        """Whether a reviewer may in. The comparison takes as long for a wrong password as for the right one."""
        right = hmac.compare_digest(password.encode(), (self.password or "").encode())
        return right and self.password is not None and name in self.reviewers

    def reviewer(self, login: str | None, asked: str | None) -> str | None:
        """Who sits at the page: whoever logged in; without a password the only reviewer, or the one `asked` for."""
        name = login if self.password is not None else asked if len(self.reviewers) > 1 else self.reviewers[0]
        return name if name in self.reviewers else None


def access_of(
    reviewers: Sequence[str], host: str, password_variable: str | None, environment: Mapping[str, str]
) -> Access:
    """The access that was asked for.

    ValueError for names that cannot be told apart, an address that others can reach without a password, and a variable
    that holds none of at least 8 characters.
    """
    if not reviewers or len(set(reviewers)) != len(reviewers) or any(not n or n != n.strip() for n in reviewers):
        raise ValueError(f"reviewers are {list(reviewers)}: name at least one, each once, without blanks around it")
    if password_variable is None:
        if not is_local(host):
            raise ValueError(
                f"{host} can be reached from other machines: put a password into an environment variable and name it "
                "with --password-env"
            )
        return Access(tuple(reviewers), None, host)
    password = environment.get(password_variable, "")
    if len(password) < LEAST_CHARACTERS:
        raise ValueError(f"${password_variable} holds no password of at least {LEAST_CHARACTERS} characters")
    return Access(tuple(reviewers), password, host)


def is_local(host: str) -> bool:
    """Whether an address can be reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def refusal(access: Access, headers: Mapping[str, str]) -> str | None:
    """Why a request is not answered, None for one that is. headers: by lower-case name."""
    host, origin = headers.get("host", ""), headers.get("origin")
    name = urlsplit(f"//{host}").hostname or ""
    if access.password is None and name not in (*LOCAL_NAMES, access.host):
        return f"this page is local: it does not answer as {name!r}"
    if origin is not None and urlsplit(origin).netloc != host:
        return "this page answers its own requests only"
    return None


class Guard:
    """An ASGI application behind `refusal`, its answers with `HEADERS`."""

    def __init__(self, app: Any, access: Access) -> None:
        self.app, self.access = app, access

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        given = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        reason = refusal(self.access, given)
        if reason is not None or scope["type"] != "http":
            await _refuse(reason or "", scope, send)
            return

        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                more = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", ()), *more]}
            await send(message)

        await self.app(scope, receive, with_headers)


async def _refuse(reason: str, scope: Any, send: Any) -> None:
    if scope["type"] != "http":
        await send({"type": "websocket.close", "code": 1008})
        return
    head = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": 403, "headers": head})
    await send({"type": "http.response.body", "body": f"{reason}\n".encode()})
