"""What the HTTP server itself takes: `GET /v1/models` over one connection that is kept.

An answer in two small parts takes 40 ms longer where the second one waits for the first one's acknowledgement. The
paper serves nothing.
"""

from __future__ import annotations

import asyncio
import time

from look_again.core.reattention import Reattention
from look_again.serving.backend import Backend

REQUESTS = 200


async def time_models_requests(backend: Backend, requests: int = REQUESTS) -> list[float]:
    """Seconds of each request, client and server in this process. backend: not started; closed afterwards."""
    import httpx

    from look_again.serving.http.chat_jobs import Defaults
    from look_again.serving.http.limits import Limits
    from look_again.serving.http.routes import create_app
    from look_again.serving.http.server_process import bind, build_server, format_url
    from look_again.serving.http.service import Service

    await backend.start()
    ready, seconds = asyncio.Event(), list[float]()
    service = Service(backend, Defaults(name="measured", policy=Reattention()))
    server = build_server(create_app(service), Limits(grace_s=1), ready.set)
    with bind("127.0.0.1", 0) as listening:
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        await ready.wait()
        async with httpx.AsyncClient(base_url=format_url(listening), trust_env=False) as client:
            for _ in range(requests):
                began = time.perf_counter()
                (await client.get("/v1/models")).raise_for_status()
                seconds.append(time.perf_counter() - began)
        server.should_exit = True
        await serving
    return seconds
