"""3,000 bad requests, images and bombs against a real server: no 5xx, no hang, and afterwards it answers as before.

python -m pytest -s tests/soak/test_fuzz_serving.py

Half of the requests are schemathesis's, drawn from the server's own OpenAPI description, valid and not; half are of
`fuzz_corpus.py`. Both are of chat completions and of the Responses API. LOOK_AGAIN_FUZZ_REQUESTS is another number.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.serving.http.bombs import CHAT, RESPONSES
from tests.soak.fuzz_corpus import corpus, data_url, image, valid_body
from tests.soak.served_command import Served, look_again_server

REQUESTS = int(os.environ.get("LOOK_AGAIN_FUZZ_REQUESTS", "3000"))
BOUND_S = 60.0  # for one request: longer is a hang
NAME = "fuzzed"


@dataclass
class Tally:
    """What came back. slowest_s: of all requests."""

    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    bad: list[str] = field(default_factory=list)
    slowest_s: float = 0.0

    def add(self, kind: str, status: int, seconds: float, what: Any, text: str) -> None:
        self.statuses[kind, status] += 1
        self.slowest_s = max(self.slowest_s, seconds)
        if status >= 500 or (status >= 400 and '"error"' not in text):
            self.bad.append(f"{status} {text[:300]} for {str(what)[:1500]}")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    bounds = ("--max-tokens", "8", "--default-tokens", "4", "--max-choices", "3", "--max-image-pixels", "4000000")
    with look_again_server(tmp_path_factory.mktemp("fuzz"), "--served-name", NAME, *bounds) as one:
        yield one


def answer(server: Served) -> Any:
    """To a valid request; greedy, so it is always the same."""
    picture = data_url(image())
    response = httpx.post(server.url + CHAT, json=valid_body(NAME, picture) | {"max_tokens": 8}, timeout=BOUND_S)
    assert response.status_code == 200, response.text
    return response.json()["choices"], response.json()["usage"]


def openapi(server: Served) -> dict[str, Any]:
    """The server's description with models and images that exist, so that some of what is drawn gets far."""
    made = httpx.get(f"{server.url}/openapi.json").json()
    schemas = made["components"]["schemas"]
    for request in ("ChatRequest", "ResponsesRequest"):
        schemas[request]["properties"]["model"] = {"enum": [NAME, f"{NAME}:route-25", f"{NAME}:text", "other"]}
    images = [data_url(image()), data_url(image("WEBP"), "image/webp"), data_url(b"none")]
    schemas["ImageUrl"]["properties"]["url"] = {"anyOf": [{"enum": images}, {"type": "string"}]}
    return made


def by_schemathesis(server: Served, tally: Tally, path: str, mode: schemathesis.GenerationMode, count: int) -> None:
    operation = schemathesis.openapi.from_dict(openapi(server))[path]["POST"]
    quiet = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]

    @seed(7)
    @settings(max_examples=count, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=quiet)
    @given(case=operation.as_strategy(generation_mode=mode))
    def send(case: Any) -> None:
        started = time.monotonic()
        response = case.call(base_url=server.url, timeout=BOUND_S)
        tally.add(
            f"{path.rsplit('/', 1)[1]}, {mode.value}",
            response.status_code,
            time.monotonic() - started,
            case.body,
            response.text,
        )

    send()


def by_corpus(server: Served, tally: Tally, count: int) -> None:
    with httpx.Client(timeout=BOUND_S) as client:
        for sent in corpus(NAME, seed=11, count=count):
            started = time.monotonic()
            response = client.post(server.url + sent.path, content=sent.content, headers=sent.headers)
            tally.add(sent.kind, response.status_code, time.monotonic() - started, sent.content, response.text)


def test_bad_requests_do_no_harm(server: Served) -> None:
    before, tally = answer(server), Tally()
    for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):
        for path in (CHAT, RESPONSES):
            by_schemathesis(server, tally, path, mode, REQUESTS // 8)
    by_corpus(server, tally, REQUESTS - REQUESTS // 2)
    for (kind, status), number in sorted(tally.statuses.items()):
        print(f"{kind:25} {status} {number:5}")
    print(f"{sum(tally.statuses.values())} requests, the slowest took {tally.slowest_s:.2f} s")
    assert not tally.bad, "\n".join(tally.bad[:10])
    assert sum(tally.statuses.values()) >= REQUESTS
    assert answer(server) == before
    assert httpx.get(f"{server.url}/health").json()["status"] == "ok"
