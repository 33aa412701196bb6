"""The HTTP interface: routes, errors in one shape, and the OpenAPI description."""

from __future__ import annotations

import importlib.metadata
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from look_again.serving.http import payloads
from look_again.serving.http.api_guard import ApiGuard
from look_again.serving.http.chat_completion import ChatCompletionResponse, TokenizeResponse
from look_again.serving.http.errors import ApiError, internal
from look_again.serving.http.metrics import MEDIA_TYPE
from look_again.serving.http.responses_api import NOT_STORED, ResponsesResponse
from look_again.serving.http.responses_schema import ResponsesRequest
from look_again.serving.http.schema import ChatRequest, ErrorBody, TokenizeRequest
from look_again.serving.http.service import Service
from look_again.web.access import Access
from look_again.web.openapi_page import build_docs_page

CHAT = "/v1/chat/completions"
_REFERENCE = "#/components/schemas/{model}"
_BODIES: dict[str, type[BaseModel]] = {
    "ChatRequest": ChatRequest,
    "ResponsesRequest": ResponsesRequest,
    "TokenizeRequest": TokenizeRequest,
}


def _describe_body(model: str) -> dict[str, Any]:
    """The description of a body that this server reads by itself."""
    return {"content": {"application/json": {"schema": {"$ref": _REFERENCE.format(model=model)}}}, "required": True}


_BODY, _RESPONSES, _TOKENIZE = map(_describe_body, _BODIES)
_ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorBody, "description": "what is wrong with the request"},
    "5XX": {"model": ErrorBody, "description": "what went wrong here"},
}
_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "a chat completion, or its chunks as server-sent events",
        "content": {"application/json": {"schema": {"type": "object"}}, "text/event-stream": {}},
    }
}


def create_app(service: Service, access: Access | None = None) -> FastAPI:
    """The application of a service whose backend was started; its shutdown closes the service.

    access: None answers everybody who reaches it, under any host name.
    """
    app = FastAPI(title="LookAgain", docs_url=None, redoc_url=None, lifespan=_lifespan(service))
    app.add_middleware(ApiGuard, access=access or Access(hosts=None))
    _add_errors(app)
    _add_chat(app, service)
    _add_status(app, service)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]  # FastAPI's documented way
    return app


def _lifespan(service: Service) -> Any:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await service.close()

    return lifespan


def _add_chat(app: FastAPI, service: Service) -> None:
    @app.post(CHAT, response_class=Response, responses={**_ANSWER, **_ERRORS}, openapi_extra={"requestBody": _BODY})
    async def chat(request: Request) -> Response:
        """Answer a conversation about images, looking again at every reflection."""
        return ChatCompletionResponse(service)

    @app.post(
        "/v1/responses",
        response_class=Response,
        responses={**_ANSWER, **_ERRORS},
        openapi_extra={"requestBody": _RESPONSES},
    )
    async def responses(request: Request) -> Response:
        """The same in the form of the Responses API."""
        return ResponsesResponse(service)

    @app.get("/v1/responses/{id}", include_in_schema=False)
    async def stored_response(id: str) -> Response:
        raise ApiError(404, NOT_STORED, param="id", code="not_found")

    @app.post("/v1/completions", include_in_schema=False)
    async def completions() -> Response:
        message = (
            "there are no completions of plain text here: send the prompt as a user's message to /v1/chat/completions"
        )
        raise ApiError(404, message, code="unsupported_endpoint")

    @app.get("/v1/models", responses=_ERRORS)
    async def models() -> dict[str, Any]:
        """The model, and the model with each re-attention that can be had."""
        return payloads.models(service.names(), service.created, service.max_context)

    @app.get("/v1/models/{name:path}", responses=_ERRORS)
    async def model(name: str) -> dict[str, Any]:
        """One of them."""
        if not service.has(name):
            raise ApiError(404, f"there is no model {name[:200]!r} here", param="model", code="model_not_found")
        return payloads.models([name], service.created, service.max_context)["data"][0]


def _add_status(app: FastAPI, service: Service) -> None:
    @app.get("/health", responses=_ERRORS)
    async def health() -> Response:
        """Whether requests can be answered, and each engine by name."""
        engines = dict(await service.backend.health())
        well = any(engines.values())
        status = "ok" if all(engines.values()) else "degraded" if well else "down"
        return JSONResponse(
            {"status": status, "backend": service.backend.name, "engines": engines}, 200 if well else 503
        )

    @app.get("/ping", responses=_ERRORS)
    async def ping() -> Response:
        """As /health, without a body."""
        return Response(status_code=200 if any(dict(await service.backend.health()).values()) else 503)

    @app.get("/version", responses=_ERRORS)
    async def version() -> dict[str, str]:
        """The package's version."""
        return {"version": importlib.metadata.version("look-again-vlm")}

    @app.post("/tokenize", response_class=Response, responses=_ERRORS, openapi_extra={"requestBody": _TOKENIZE})
    async def tokenize(request: Request) -> Response:
        """The tokens of a text, or of a conversation as the model reads it, images included."""
        return TokenizeResponse(service)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(build_docs_page(app.openapi()))

    @app.get("/metrics", responses=_ERRORS)
    async def metrics() -> Response:
        """Counters for Prometheus."""
        return Response(service.metrics.exposition(), media_type=MEDIA_TYPE)


def _add_errors(app: FastAPI) -> None:
    """Every error in OpenAI's shape, the framework's included."""

    @app.exception_handler(ApiError)
    async def api_error(request: Request, error: ApiError) -> Response:
        return JSONResponse(error.body, error.status, error.headers)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        allowed = (error.headers or {}).get("Allow", "")
        text = {
            404: f"there is nothing at {request.url.path[:200]}",
            405: f"this takes {allowed}, not {request.method}",
        }
        known = ApiError(error.status_code, text.get(error.status_code, str(error.detail)), headers=error.headers)
        return JSONResponse(known.body, known.status, known.headers)

    @app.exception_handler(RequestValidationError)
    async def unreadable(request: Request, error: RequestValidationError) -> Response:
        return JSONResponse(ApiError(400, str(error.errors()[0]["msg"])).body, 400)

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        return JSONResponse(internal().body, 500)


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's description, with the schema of the body that this server reads by itself."""
    if app.openapi_schema is None:
        description = get_openapi(title=app.title, version=app.version, routes=app.routes)
        for name, model in _BODIES.items():
            body = model.model_json_schema(ref_template=_REFERENCE)
            description["components"]["schemas"] |= body.pop("$defs", {}) | {name: body}
        app.openapi_schema = description
    return app.openapi_schema
