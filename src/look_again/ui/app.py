"""The page on the web: Gradio's page, and beside it images and attention maps.

Behind the guard that all pages of this project have (`web.guard`). Images and answers are found by keys that cannot
be guessed; nothing is fetched from elsewhere, and no text of a question is logged.
"""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path
from typing import Any

from look_again.extras import require
from look_again.serving.backend import BackendError, RefusedError
from look_again.ui.page import make_page
from look_again.ui.question import MAX_BYTES
from look_again.ui.workspace import Workspace
from look_again.web.access import Access, build_page_access, read_password
from look_again.web.guard import PAGE_SERVER, PageGuard
from look_again.web.page_routes import PAGE_ROUTES, PageRoute, upload_routes
from look_again.web.section_cards import sections_css

ROUTES = (
    *PAGE_ROUTES,
    *upload_routes(MAX_BYTES),
    PageRoute("GET", "/images/*", "the image beside an answer"),
    PageRoute("GET", "/attention_maps/*", "the heat over it"),
)
KEPT = {"cache-control": "private, max-age=3600"}


def read_access(host: str, password_file: Path | None) -> Access:
    """The access of the page. password_file: its first line is the password.

    ValueError for an address that others can reach without a password, and for a file without one of at least 8
    characters on its first line; OSError for a file that cannot be read.
    """
    password = None
    if password_file is not None:
        line = (password_file.read_text(encoding="utf-8").splitlines() or [""])[0].strip()
        password = read_password(line, str(password_file))
    return build_page_access(host, password, "write a password into a file and name it with --password-file")


def make_app(workspace: Workspace, access: Access, port: int = 7861) -> Any:
    """The page as an ASGI application. MissingExtraError without gradio."""
    require("gradio", extra="ui")
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    import gradio as gr
    from fastapi import FastAPI

    web = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    _add_routes(web, workspace)
    asset = resources.files("look_again") / "assets" / "ui"
    page = gr.mount_gradio_app(
        web,
        make_page(workspace),
        path="",
        server_name=access.host,
        server_port=port,
        auth=(lambda name, password: access.knows(password)) if access.closed else None,
        auth_message="Any name, and the password of this page.",
        max_file_size=MAX_BYTES,
        footer_links=[],
        run_history=False,
        show_error=False,
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        pwa=False,
        theme=_theme(),
        css=sections_css() + (asset / "page.css").read_text(encoding="utf-8"),
        head=f"<script>{(asset / 'viewer.js').read_text(encoding='utf-8')}</script>",
    )
    return PageGuard(page, access, ROUTES)


async def serve(app: Any, workspace: Workspace, host: str, port: int) -> None:
    """Serve until interrupted; the backend runs meanwhile. BackendError where it cannot start."""
    import uvicorn  # comes with gradio

    backend = workspace.backend
    await backend.start()
    workspace.start_opening()
    try:
        config = uvicorn.Config(app, host=host, port=port, **PAGE_SERVER)
        print(f"http://{host}:{port} shows {backend.checkpoint.name}; Ctrl-C ends it", flush=True)
        await uvicorn.Server(config).serve()
    finally:
        await workspace.opening.close()
        await backend.close()


def _theme() -> Any:
    """System fonts: nothing is loaded from elsewhere."""
    import gradio as gr

    return gr.themes.Default(
        primary_hue="violet",
        neutral_hue="zinc",
        radius_size="md",
        font=gr.themes.Font("system-ui"),
        font_mono=gr.themes.Font("ui-monospace"),
    ).set(
        button_primary_background_fill="*primary_600",  # white on it can be read
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover_dark="*primary_700",
    )


def _add_routes(web: Any, workspace: Workspace) -> None:
    from fastapi import Response
    from fastapi.responses import JSONResponse

    @web.get("/images/{key}")
    async def image(key: str) -> Any:
        kept = workspace.images.get(key)
        return Response(kept[0], media_type="image/png", headers=KEPT) if kept else Response(status_code=404)

    @web.get("/attention_maps/{key}")
    async def attention_maps(key: str, layer: str = "mean") -> Any:
        try:
            chosen = None if layer == "mean" else int(layer[:4])
            drawing = await workspace.attention_maps(key, chosen)
        except (ValueError, RefusedError) as error:
            return JSONResponse({"error": str(error)}, status_code=400)
        except BackendError as error:
            return JSONResponse({"error": str(error)}, status_code=503)
        if drawing is None:
            return JSONResponse({"error": "this answer is not kept any more: ask again"}, status_code=404)
        return JSONResponse(drawing, headers={"cache-control": "no-store"})
