"""Every bomb against a whole server: while it runs, 20 text requests finish and /health answers within half a second.

python -m pytest -s tests/soak/test_bombs_served.py

The server is a process of its own with the shipped model. LOOK_AGAIN_BOMBS picks bombs whose name holds that text.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from tests.serving.http.bombs import BOMBS, CHAT
from tests.soak.served_command import Served, look_again_server

NAME, SOON_S, REQUESTS = "bombed", 0.5, 20
JSON = {"content-type": "application/json"}
CHOSEN = [name for name in BOMBS if os.environ.get("LOOK_AGAIN_BOMBS", "") in name]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with look_again_server(tmp_path_factory.mktemp("bombs"), "--served-name", NAME) as one:
        yield one


@dataclass
class HealthWatch:
    """Asks /health all the time, from a thread of its own."""

    url: str
    slowest_s: float = 0.0
    checks: int = 0
    ended: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> None:
        with httpx.Client(base_url=self.url, timeout=120) as client:
            while not self.ended.is_set():
                began = time.perf_counter()
                assert client.get("/health").status_code == 200
                self.slowest_s = max(self.slowest_s, time.perf_counter() - began)
                self.checks += 1
                time.sleep(0.02)


def ask_text(url: str) -> tuple[int, float]:
    began = time.perf_counter()
    body = {"model": NAME, "messages": [{"role": "user", "content": "How many cubes?"}], "max_tokens": 8}
    return httpx.post(url + CHAT, json=body, timeout=120).status_code, time.perf_counter() - began


@pytest.mark.parametrize("name", CHOSEN)
def test_others_are_served_meanwhile(server: Served, name: str) -> None:
    bomb = BOMBS[name]
    data, answers, watch = bomb.build(NAME), list[Any](), HealthWatch(server.url)
    before = server.resident_mib
    watching = threading.Thread(target=watch.watch)

    def send() -> None:
        began = time.perf_counter()
        response = httpx.post(server.url + bomb.path, content=data, headers=JSON, timeout=300)
        answers.append((response.status_code, time.perf_counter() - began, response.text[:160]))

    with ThreadPoolExecutor(REQUESTS + 1) as pool:
        sent = pool.submit(send)
        watching.start()
        others = [pool.submit(ask_text, server.url) for _ in range(REQUESTS)]
        statuses, seconds = zip(*(other.result() for other in others), strict=True)
        sent.result()
    watch.ended.set()
    watching.join()
    [(status, took, text)] = answers
    print(
        f"\n{name}: {len(data) / 1e6:.2f} MB, {status} after {took:.2f} s; {REQUESTS} texts in {max(seconds):.2f} s; "
        f"slowest of {watch.checks} health checks {watch.slowest_s:.3f} s; {server.resident_mib - before:+.0f} MiB"
    )
    assert set(statuses) == {200}
    assert status < 500, text
    assert watch.slowest_s < SOON_S
