"""The server behind its access rule: holders of a key, or without keys whoever is on this machine.

Who may talk is decided by `web.access`, as for the pages; here a refusal gets the shape of the server's other errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

from look_again.serving.http.errors import ApiError
from look_again.web.access import Access, read_headers, read_host_name

OPEN_PATHS = ("/health", "/ping")


def build_refusal(access: Access, path: str, headers: Mapping[str, str]) -> ApiError | None:
    """Why a request is not answered, None for one that is. headers: by lower-case name."""
    name = read_host_name(headers) or ""
    if not access.answers_to(name):
        message = f"this server does not answer as {name[:100]!r}; start it with --allow-host or with API keys"
        return ApiError(403, message, code="unknown_host")
    if not access.closed or path in OPEN_PATHS or access.knows(_read_bearer(headers)):
        return None
    message = "no valid API key: send the header 'Authorization: Bearer KEY'"
    return ApiError(401, message, code="invalid_api_key", headers={"www-authenticate": "Bearer"})


def _read_bearer(headers: Mapping[str, str]) -> str:
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


class ApiGuard:
    """An ASGI application behind `build_refusal`: nothing of a refused request's body is read."""

    def __init__(self, app: Any, access: Access) -> None:
        self.app, self.access = app, access

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            error = build_refusal(self.access, scope["path"], read_headers(scope))
            if error is not None:
                await JSONResponse(error.body, error.status, error.headers)(scope, receive, send)
                return
        await self.app(scope, receive, send)
