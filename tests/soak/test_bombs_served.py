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
from contextlib import contextmanager
from dataclasses import dataclass, field

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


@contextmanager
def watched(url: str) -> Iterator[HealthWatch]:
    """Asks /health within the context."""
    watch = HealthWatch(url)
    watching = threading.Thread(target=watch.watch)
    watching.start()
    try:
        yield watch
    finally:
        watch.ended.set()
        watching.join()


def ask_texts(url: str) -> float:
    """Seconds of the slowest of many texts at once."""
    with ThreadPoolExecutor(REQUESTS) as pool:
        statuses, seconds = zip(*pool.map(ask_text, [url] * REQUESTS), strict=True)
    assert set(statuses) == {200}
    return max(seconds)


@pytest.fixture(scope="module")
def quiet_s(server: Served) -> float:
    """Seconds of the slowest health check while texts are asked and nothing else."""
    ask_texts(server.url)
    with watched(server.url) as watch:
        ask_texts(server.url)
    print(f"\nwithout a bomb: slowest of {watch.checks} health checks {watch.slowest_s:.3f} s")
    return watch.slowest_s


@pytest.mark.parametrize("name", CHOSEN)
def test_others_are_served_meanwhile(server: Served, quiet_s: float, name: str) -> None:
    """On a machine that is busy with other things, four times what the texts alone cost is allowed."""
    bomb = BOMBS[name]
    data, before = bomb.build(NAME), server.resident_mib

    def send() -> tuple[httpx.Response, float]:
        began = time.perf_counter()
        response = httpx.post(server.url + bomb.path, content=data, headers=JSON, timeout=300)
        return response, time.perf_counter() - began

    with ThreadPoolExecutor(1) as pool, watched(server.url) as watch:
        sent = pool.submit(send)
        texts_s = ask_texts(server.url)
        response, took = sent.result()
    print(
        f"\n{name}: {len(data) / 1e6:.2f} MB, {response.status_code} after {took:.2f} s; "
        f"{REQUESTS} texts in {texts_s:.2f} s; slowest of {watch.checks} health checks {watch.slowest_s:.3f} s; "
        f"{server.resident_mib - before:+.0f} MiB"
    )
    assert response.status_code < 500, response.text[:500]
    assert watch.slowest_s < max(SOON_S, 4 * quiet_s)
