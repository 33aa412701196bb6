"""The routes of Gradio as it is installed: each is known, and answered or refused on purpose."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from look_again.web.access import Access
from look_again.web.page_routes import PAGE_ROUTES, find_route

pytest.importorskip("gradio")
from look_again.ui.app import ROUTES, make_app
from tests.ui.ui_answers import build_played_workspace

CLOSED = """
/openapi.json /logout /robots.txt/ /pwa_icon /pwa_icon/{size} /monitoring /monitoring/summary /monitoring/{key}
/config/ /gradio_api/deep_link /gradio_api/user /gradio_api/user/ /gradio_api/login_check /gradio_api/login_check/
/gradio_api/token /gradio_api/token/ /gradio_api/app_id /gradio_api/app_id/ /gradio_api/dev/reload /gradio_api/runs
/gradio_api/runs/ /gradio_api/info /gradio_api/info/ /gradio_api/openapi.json
/gradio_api/custom_component/{id}/{environment}/{type}/{file_name} /gradio_api/proxy={url_path:path}
/gradio_api/stream/{event_id} /gradio_api/stream/{event_id}/close
/gradio_api/stream/{session_hash}/{run}/{component_id}/playlist.m3u8
/gradio_api/stream/{session_hash}/{run}/{component_id}/{segment_id}.{ext}
/gradio_api/stream/{session_hash}/{run}/{component_id}/playlist-file /gradio_api/file/{path:path} /gradio_api/reset
/gradio_api/reset/ /gradio_api/run/{api_name} /gradio_api/run/{api_name}/ /gradio_api/api/{api_name}
/gradio_api/api/{api_name}/ /gradio_api/call/{api_name} /gradio_api/call/{api_name}/ /gradio_api/call/v2/{api_name}
/gradio_api/call/v2/{api_name}/ /gradio_api/call/{api_name}/{event_id} /gradio_api/call/v2/{api_name}/{event_id}
/gradio_api/cancel /gradio_api/component_server /gradio_api/component_server/ /gradio_api/queue/status
/gradio_api/upload_progress /gradio_api/startup-events /gradio_api/process_recording /gradio_api/vibe-edit
/gradio_api/vibe-edit/ /gradio_api/undo-vibe-edit /gradio_api/undo-vibe-edit/ /gradio_api/vibe-code
/gradio_api/vibe-code/ /gradio_api/vibe-starter-queries /gradio_api/vibe-starter-queries/
"""
REFUSED = CLOSED.split()


def walk(app: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """(method, path) of every route of an application, those of mounted ones and of included routers too."""
    for route in app.routes:
        if hasattr(route, "original_router"):
            yield from walk(route.original_router, prefix)
        elif hasattr(route, "methods"):
            for method in sorted(set(route.methods) - {"HEAD"}) or ["GET"]:
                yield method, prefix + route.path
        elif hasattr(route, "app"):
            yield from walk(route.app, prefix + route.path)


def test_every_route_is_known():
    """Would catch an entrance that a new version of Gradio opens."""
    found = sorted(set(walk(make_app(build_played_workspace(), Access()).app)))
    assert len(found) > 60, found
    for method, path in found:
        allowed = find_route(ROUTES, method, path, b"") is not None
        print(f"{'allowed' if allowed else 'refused'}  {method:4} {path}")
    unknown = [(m, p) for m, p in found if find_route(ROUTES, m, p, b"") is None and p not in REFUSED]
    assert unknown == []


def test_what_is_allowed_is_there():
    """A table of routes that no longer exist would say nothing."""
    found = set(walk(make_app(build_played_workspace(), Access()).app))
    paths = {(method, path.split("{")[0]) for method, path in found}
    for route in ROUTES:
        if route.path not in ("/gradio_api/theme.css",):
            assert (route.method, route.path.removesuffix("*")) in paths, route


def test_head_is_get_and_dots_lead_nowhere():
    assert find_route(PAGE_ROUTES, "HEAD", "/", b"") is not None
    for path in ("/assets/../config", "/assets/..", "/static/a\\b", "/static/a\0"):
        assert find_route(PAGE_ROUTES, "GET", path, b"") is None
    for query in (b"deep_link=x", b"a=1&deep_link", b"%64eep_link=x"):
        assert find_route(PAGE_ROUTES, "GET", "/", query) is None
