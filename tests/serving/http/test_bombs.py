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
from tests.serving.http.bombs import BOMBS, CHAT, TOKENIZE
from tests.serving.http.served import FakeBackend, body, running

SOON_S = 1.0  # half of it on a whole server, which is measured apart (tests/soak); sending is in this process too
HERE = [
    "nested lists, 23 MB",
    "nested objects, 23 MB",
    "20 million levels",
    "brackets in a text",
    "brackets and a text of 60 MB",
    "escapes in a text",
    "a JPEG of 700 scans",
    "a schema of joined patterns",
    "joined patterns of a tool",
    "wrong parts for /v1/responses",
    "unknown fields for /v1/responses",
]


def find_slowest_check(server, sent):
    """Seconds of the slowest health check while `sent` runs in a thread and 20 texts are asked.

    Of this process on a core, or by the clock where that is less: the server runs in a thread of it and its workers do
    not, so that a check waits for no more than that, however busy the machine is with other things.
    """
    with ThreadPoolExecutor(8) as pool, httpx.Client(base_url=server.base) as client:
        client.get("/health")
        sending = threading.Thread(target=sent)
        sending.start()
        others = [pool.submit(server.post, body("Hi")) for _ in range(20)]
        slowest = 0.0
        while sending.is_alive() or not all(other.done() for other in others):
            began, computed = time.perf_counter(), time.process_time()
            assert client.get("/health").status_code == 200
            slowest = max(slowest, min(time.perf_counter() - began, time.process_time() - computed))
            time.sleep(0.02)
        assert [other.result().status_code for other in others] == [200] * 20
    return slowest


@pytest.mark.parametrize("name", HERE)
def test_health_and_other_requests_are_answered_meanwhile(name):
    """A body of 23 MB of empty lists stopped the event loop for 28 s, a JPEG of 161 KB all answers for 155 s."""
    bomb, path = BOMBS[name].build("fake"), BOMBS[name].path
    headers = {"content-type": "application/json"}
    with running(FakeBackend()) as server:
        without = find_slowest_check(server, lambda: None)
        slowest = find_slowest_check(
            server, lambda: httpx.post(f"{server.base}{path}", content=bomb, headers=headers, timeout=120)
        )
    print(f"\n{name}: {len(bomb) / 1e6:.1f} MB, slowest health check {slowest:.3f} s, {without:.3f} s without")
    assert slowest < SOON_S


def test_texts_are_prepared_while_schemas_are_checked():
    """Four requests with joined patterns, 2 KB each, took both threads that prepare texts, without an end."""
    bombs = [BOMBS[name].build("fake") for name in ("a schema of joined patterns", "joined patterns of a tool")] * 2
    headers = {"content-type": "application/json"}
    with running(FakeBackend()) as server, ThreadPoolExecutor(4) as pool:
        url = f"{server.base}{CHAT}"
        sent = [pool.submit(httpx.post, url, content=bomb, headers=headers, timeout=120) for bomb in bombs]
        began = time.perf_counter()
        counted = server.post({"model": "fake", "prompt": "hi"}, TOKENIZE)
        waited = time.perf_counter() - began
        still_checked = not all(one.done() for one in sent)
        answers = [one.result() for one in sent]
    print(f"\n/tokenize after {waited:.2f} s")
    assert counted.status_code == 200
    assert still_checked, "the text was counted once nothing was left to check"
    assert [answer.status_code for answer in answers] == [400] * 4
    assert all("takes too long to check" in answer.text for answer in answers)


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
