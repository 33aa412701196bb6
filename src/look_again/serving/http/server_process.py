"""A server process: its socket, its first line, and its end."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Any

import uvicorn

from look_again.serving.http.connections import BoundedConnection, QuietLoopErrors, raise_descriptor_limit
from look_again.serving.http.limits import Limits

KEEP_ALIVE_S = 75  # longer than the 60 s for which nginx and the official client keep a connection
BACKLOG = 128  # connections that the system holds until they are accepted


def log_to_stderr(level: str) -> None:
    """Logging of this process at a level, without what libraries say of their input: httpx logs addresses with their
    queries, Pillow the tags of images (where a photo was taken).
    """
    logging.basicConfig(level=level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for name in ("httpx", "httpcore", "PIL"):
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))


def bind(host: str, port: int) -> socket.socket:
    """A socket that nobody can connect to yet. OSError, in words, where the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio sets TCP_NODELAY: else small answers wait 40 ms for the client's acknowledgement.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise OSError(f"cannot listen on {host} port {port}: {error.strerror or error}") from error
    return listening


def format_url(listening: socket.socket) -> str:
    """The address of a bound socket as a URL."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def build_server(app: Any, limits: Limits, on_start: Callable[[], None]) -> AnnouncingServer:
    """What serves until a signal: then no new connections, `grace_s` for what runs, and an error for what still does.

    Use as `await server.serve(sockets=[bind(host, port)])`.
    """
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        http=BoundedConnection,
        ws="none",
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(limits.grace_s)),
    )
    return AnnouncingServer(config, on_start)


class AnnouncingServer(uvicorn.Server):
    """A uvicorn server that calls `on_start` once it can be reached."""

    def __init__(self, config: uvicorn.Config, on_start: Callable[[], None]) -> None:
        super().__init__(config)
        self.on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().set_exception_handler(QuietLoopErrors())
        BoundedConnection.max_connections = raise_descriptor_limit()
        await super().startup(sockets)
        if not self.should_exit:
            self.on_start()
