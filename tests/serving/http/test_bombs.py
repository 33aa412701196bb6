"""Small requests that would cause much work: while one runs the server answers its health check and other requests.

`tests/soak/test_bombs_served.py` sends all of them to a whole server.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from look_again.serving.workers.json_body import MAX_VALUES, count_nested
from tests.serving.http.bombs import BOMBS, CHAT
from tests.serving.http.served import FakeBackend, body, running

SOON_S = 0.5
HERE = [
    "nested lists, 23 MB",
    "nested objects, 23 MB",
    "20 million levels",
    "brackets in a text",
    "brackets and a text of 60 MB",
    "escapes in a text",
    "a JPEG of 700 scans",
]


@pytest.mark.parametrize("name", HERE)
def test_health_and_other_requests_are_answered_meanwhile(name):
    """A body of 23 MB of empty lists stopped the event loop for 28 s, a JPEG of 161 KB all answers for 155 s."""
    bomb = BOMBS[name].build("fake")
    with running(FakeBackend()) as server, ThreadPoolExecutor(8) as pool, httpx.Client(base_url=server.base) as client:
        sent = threading.Thread(
            target=httpx.post,
            args=[f"{server.base}{CHAT}"],
            kwargs={"content": bomb, "headers": {"content-type": "application/json"}, "timeout": 120},
        )
        client.get("/health")
        sent.start()
        others = [pool.submit(server.post, body("Hi")) for _ in range(20)]
        slowest = 0.0
        while sent.is_alive() or not all(other.done() for other in others):
            began = time.perf_counter()
            assert client.get("/health").status_code == 200
            slowest = max(slowest, time.perf_counter() - began)
            time.sleep(0.02)
        assert [other.result().status_code for other in others] == [200] * 20
        print(f"\n{name}: {len(bomb) / 1e6:.1f} MB, slowest health check {slowest:.3f} s")
        assert slowest < SOON_S


@pytest.mark.parametrize(
    ("raw", "count"),
    [
        (b'{"a": [1, {}], "b": "[[[{{{"}', 3),
        (b'"\\"[" , [', 1),
        (b'{"\\\\": [[', 3),
        (b'[["' + b"x" * 10, 2),
        (b"", 0),
    ],
)
def test_brackets_are_counted_outside_of_texts(raw, count):
    assert count_nested(raw) == count


def test_as_many_values_as_ever_are_taken():
    assert count_nested(b"[" * MAX_VALUES) == MAX_VALUES
