"""What the documentation shows of a running server: the example client, and the request by curl."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator

import pytest

from tests.docs.snippets import ROOT, find_snippets
from tests.soak.served_command import Served, look_again_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with look_again_server(tmp_path_factory.mktemp("server")) as served:
        yield served


def test_the_example_client_streams_an_answer_that_looks_again(server: Served) -> None:
    settings = os.environ | {"LOOK_AGAIN_URL": f"{server.url}/v1"}
    run = subprocess.run(
        [sys.executable, "examples/serve_client.py"], cwd=ROOT, env=settings, capture_output=True, text=True, check=True
    )
    assert re.search(r"looks again: \d+ visual tokens put back", run.stdout)
    assert re.search(r"\n\d+\n\n\d+ tokens sampled", run.stdout)


def test_the_documented_request_is_answered(server: Served) -> None:
    """The shell makes the body as a reader's does; a function in the place of curl hands it over."""
    snippet = next(snippet for snippet in find_snippets("sh") if snippet.text.startswith("curl "))
    shell = "curl() { printf '%s' \"${!#}\"; }\n" + snippet.text
    body = subprocess.run(["bash", "-c", shell], cwd=ROOT, capture_output=True, check=True).stdout
    request = urllib.request.Request(
        f"{server.url}/v1/chat/completions", data=body, headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as response:
        reply = json.load(response)
    assert reply["choices"][0]["message"]["content"].strip().isdigit()
    assert reply["look_again"]["reattention"] == "copy"
    assert reply["look_again"]["reflections"]
