"""A page under a real server on this machine, and what an attacker who only speaks HTTP can do to it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn

from look_again.web.guard import PAGE_SERVER

FILE_META = {"_type": "gradio.FileData"}


@contextmanager
def serve_page(app: Any) -> Iterator[str]:
    """The page's address while the context lasts."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, **{**PAGE_SERVER, "log_level": "error"}))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while thread.is_alive() and not server.started:
        thread.join(0.05)
    assert server.started
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)


def forge(path: str) -> list[Any]:
    """Values that make Gradio take a file of this machine for an upload."""
    return [
        {"path": path, "meta": FILE_META},
        {"path": path, "url": f"/gradio_api/file={path}", "orig_name": "a.png", "meta": FILE_META},
        {"value": {"path": path, "meta": FILE_META}},
        [{"path": path, "meta": FILE_META}],
    ]


def join_with(client: httpx.Client, path: str, session_hash: str) -> Iterator[tuple[str, httpx.Response]]:
    """Every event of the page with a forged file in every one of its fields: (which, the answer)."""
    config = client.get("/config").json()
    for dependency in config["dependencies"]:
        for field in range(max(1, len(dependency["inputs"]))):
            for kind, value in enumerate(forge(path)):
                data: list[Any] = [None] * len(dependency["inputs"])
                data[field : field + 1] = [value]
                body = {"data": data, "fn_index": dependency["id"], "session_hash": session_hash, "event_data": value}
                name = f"event {dependency['id']}, field {field}, form {kind}"
                yield name, client.post("/gradio_api/queue/join", json=body)
