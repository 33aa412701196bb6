"""`look-again tabletop serve`: an OpenAI-compatible endpoint that answers from Tabletop's truth, here or over HTTP.

For trying and testing what talks to such endpoints, offline. What is answered is `answering`'s; here is the transport.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from look_again.extras import require
from look_again.tabletop.answering import FAULTS, Conduct, Served, models, respond
from look_again.tabletop.seeing import prepare
from look_again.web.access import Access, build_access, read_headers
from look_again.web.guard import explain_refusal

ATTEMPT_HEADER = "x-attempt"
SCHEME = "tabletop:"
MAX_BODY_BYTES = 2**24
MAX_DIGITS = 9  # of a number of attempts


def read_attempt(headers: Mapping[str, str]) -> int:
    """The number of earlier attempts, as the sender counts them in a header; 0 for senders that do not."""
    text = {name.lower(): value for name, value in headers.items()}.get(ATTEMPT_HEADER, "0")
    return int(text) if text.isdecimal() and len(text) <= MAX_DIGITS else 0


class InProcess:
    """The endpoint as a function, for transports that need no network."""

    def __init__(self, conduct: Conduct) -> None:
        self.conduct = conduct
        prepare()

    async def __call__(self, body: Mapping[str, Any], headers: Mapping[str, str]) -> tuple[int, Mapping[str, str], Any]:
        served = await asyncio.to_thread(respond, body, read_attempt(headers), self.conduct)
        if served.delay_s:
            await asyncio.sleep(served.delay_s)
        return served.status, served.headers, served.body


def parse_conduct(url: str) -> Conduct:
    """The conduct that `tabletop:?error=0.1&stall=5&429=0.05` names. ValueError for unknown names or no numbers."""
    given = {
        name: float(value) for name, value in parse_qsl(url.removeprefix(SCHEME).lstrip("/?"), strict_parsing=False)
    }
    faults = {name: given.pop(name) for name in list(given) if name in FAULTS}
    known = {"error": "error_rate", "stall_s": "stall_s", "retry_after_s": "retry_after_s", "seed": "seed"}
    if unknown := set(given) - set(known):
        raise ValueError(f"{url!r} has {sorted(unknown)}; known: {', '.join((*known, *FAULTS))}")
    named: dict[str, Any] = {known[name]: value for name, value in given.items()}
    if "seed" in named:
        named["seed"] = int(named["seed"])
    return Conduct(faults=faults, **named)


def open_server(url: str) -> InProcess:
    """The endpoint that a base URL of the scheme `tabletop` names. ValueError as `parse_conduct` raises it."""
    return InProcess(parse_conduct(url))


class _Guarded:
    """The endpoint under the names that its access answers to: a web page's own name may point to this machine."""

    def __init__(self, application: Any, access: Access) -> None:
        self.application, self.access = application, access

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        reason = explain_refusal(self.access, read_headers(scope)) if scope["type"] == "http" else None
        if reason is None:
            await self.application(scope, receive, send)
            return
        head = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 403, "headers": head})
        await send({"type": "http.response.body", "body": json.dumps(_refusal(reason)).encode()})


def app(conduct: Conduct, host: str = "127.0.0.1") -> Any:
    """The endpoint as an ASGI application that is bound to `host`. MissingExtraError without fastapi."""
    require("fastapi", extra="serve")
    prepare()
    from fastapi import FastAPI, Response

    application = FastAPI(title="Tabletop", docs_url=None, redoc_url=None)

    @application.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @application.get("/v1/models")
    def known() -> dict[str, Any]:
        return {
            "object": "list",
            "data": [{"id": name, "object": "model", "owned_by": "tabletop"} for name in models()],
        }

    async def chat(request: Any) -> Any:
        raw = bytearray()
        async for part in request.stream():
            raw += part
            if len(raw) > MAX_BODY_BYTES:
                return Response(json.dumps(_refusal(f"a body has at most {MAX_BODY_BYTES} bytes")), 413)
        served = await asyncio.to_thread(_served, bytes(raw), dict(request.headers), conduct)
        if served.delay_s:
            await asyncio.sleep(served.delay_s)
        text = served.body if isinstance(served.body, str) else json.dumps(served.body)
        return Response(text, served.status, dict(served.headers), media_type="application/json")

    application.router.add_route(
        "/v1/chat/completions", chat, methods=["POST"]
    )  # the request as it is: no model to fit it to
    return _Guarded(application, build_access(host))


def _served(raw: bytes, headers: Mapping[str, str], conduct: Conduct) -> Served:
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        return Served(400, _refusal(f"the body is not JSON: {error}"))
    if not isinstance(body, dict) or body.get("stream"):
        return Served(400, _refusal("a JSON object without stream is needed"))
    return respond(body, read_attempt(headers), conduct)


def _refusal(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "tabletop"}}


def serve(conduct: Conduct, host: str, port: int) -> None:
    """Serve until interrupted. MissingExtraError without fastapi and uvicorn."""
    require("uvicorn", extra="serve")
    import uvicorn

    uvicorn.run(app(conduct, host), host=host, port=port, log_level="warning")
