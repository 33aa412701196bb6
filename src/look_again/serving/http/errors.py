"""What went wrong, in the shape OpenAI's clients read: `{"error": {message, type, param, code}}` and an HTTP status.

Every error of the server passes through here, those of FastAPI included, so that no client meets a second shape.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from look_again.serving.backend import BackendError, BusyError

TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
"""Error types by status; other 4xx are "invalid_request_error", 5xx "server_error"."""

NO_RETRY = {"x-should-retry": "false"}
"""Header that keeps OpenAI's client from repeating what would fail, or cost, the same again."""


class ApiError(Exception):
    """An error answer. param: the field it is about, as `messages[0].content`. code: a word for programs."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        kind = TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        # a message may quote what was sent, and half a surrogate pair cannot be written as UTF-8
        message = self.message.encode("utf-8", "replace").decode("utf-8")
        return {"error": {"message": message, "type": kind, "param": self.param, "code": self.code}}


def invalid(message: str, param: str | None = None, code: str = "invalid_value") -> ApiError:
    """A 400."""
    return ApiError(400, message, param=param, code=code)


def too_busy(message: str, retry_after_s: float) -> ApiError:
    """A 429 that says when to come back, in whole seconds."""
    wait = {"retry-after": str(max(1, math.ceil(retry_after_s)))}
    return ApiError(429, message, code="server_busy", headers=wait)


def translate_backend_error(error: Exception, *, started: bool, upstream: bool) -> ApiError | None:
    """What a backend's exception means to a caller; None for one that is a fault of ours.

    started: whether the answer had begun, after which a ValueError is no longer about the request. upstream: whether
    the engine is another server (502) or in this process (503).
    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, BusyError):
        return too_busy(str(error), error.retry_after_s)
    if isinstance(error, BackendError):
        return ApiError(502 if upstream else 503, f"the engine failed: {error}", code="engine_error")
    if isinstance(error, ValueError) and not started:
        return invalid(str(error))
    return None


def timed_out(seconds: float) -> ApiError:
    """A 504: the request took longer than it may."""
    message = f"the request took longer than {seconds:g} s and was stopped; ask for fewer tokens"
    return ApiError(504, message, code="timeout", headers=NO_RETRY)


def shutting_down() -> ApiError:
    return ApiError(503, "the server is shutting down", code="shutting_down")


def internal() -> ApiError:
    return ApiError(500, "internal error; the server's log says more", code="internal_error")
