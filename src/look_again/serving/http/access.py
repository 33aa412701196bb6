"""Who may talk to the server: holders of a key, or without keys whoever is on this machine.

Keys come from a file or the environment, never from the command line, where every user of the machine could read them.
A server without keys trusts its machine, so it answers to local host names only: a web page that has its own name point
here (DNS rebinding) is refused.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.responses import JSONResponse

from look_again.serving.http.errors import ApiError
from look_again.web.guard import LOCAL_NAMES, host_name, is_local

KEY_VARIABLE = "LOOK_AGAIN_API_KEY"
LEAST_CHARACTERS = 16  # of a key
OPEN_PATHS = ("/health",)


@dataclass(frozen=True)
class Access:
    """keys: SHA-256 of each; none lets everybody in. hosts: names the server answers to; None answers to any."""

    keys: tuple[bytes, ...] = ()
    hosts: tuple[str, ...] | None = None

    def refusal(self, path: str, headers: Mapping[str, str]) -> ApiError | None:
        """Why a request is not answered, None for one that is. headers: by lower-case name."""
        name = _host_name(headers.get("host", ""))
        if self.hosts is not None and name not in self.hosts:
            message = f"this server does not answer as {name[:100]!r}; start it with --allow-host or with API keys"
            return ApiError(403, message, code="unknown_host")
        if not self.keys or path in OPEN_PATHS or self.knows(_bearer(headers)):
            return None
        message = "no valid API key: send the header 'Authorization: Bearer KEY'"
        return ApiError(401, message, code="invalid_api_key", headers={"www-authenticate": "Bearer"})

    def knows(self, key: str) -> bool:
        """Whether it is one of the keys; takes as long for any key, right or wrong."""
        digest = _digest(key)
        matches = [hmac.compare_digest(digest, known) for known in self.keys]
        return any(matches)


def access_of(
    host: str, key_file: Path | None, environment: Mapping[str, str], allowed_hosts: Sequence[str] = ()
) -> Access:
    """The access of a server that is bound to `host`.

    The keys are the file's lines (blank ones and `#` comments aside) and $LOOK_AGAIN_API_KEY. ValueError for a key that
    is short or not plain ASCII, and for a file without any; OSError for one that cannot be read.
    """
    keys = [] if key_file is None else _lines(key_file)
    if environment.get(KEY_VARIABLE, "").strip():
        keys.append(environment[KEY_VARIABLE].strip())
    for key in keys:
        if len(key) < LEAST_CHARACTERS or not key.isascii() or any(letter.isspace() for letter in key):
            raise ValueError(
                f"an API key has at least {LEAST_CHARACTERS} ASCII characters and no blanks; one way to make one: "
                "python -c 'import secrets; print(secrets.token_urlsafe(32))'"
            )
    trusting = not keys and is_local(host)
    hosts = tuple(name.lower() for name in (*LOCAL_NAMES, host, *allowed_hosts))
    return Access(tuple(map(_digest, keys)), hosts if trusting else None)


def _lines(path: Path) -> list[str]:
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise ValueError(f"{path} holds no API key")
    return keys


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def _bearer(headers: Mapping[str, str]) -> str:
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def _host_name(host: str) -> str:
    return (host_name(host) or "").rstrip(".")


class Guard:
    """An ASGI application behind `Access.refusal`: nothing of a refused request's body is read."""

    def __init__(self, app: Any, access: Access) -> None:
        self.app, self.access = app, access

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
            error = self.access.refusal(scope["path"], headers)
            if error is not None:
                await JSONResponse(error.body, error.status, error.headers)(scope, receive, send)
                return
        await self.app(scope, receive, send)
