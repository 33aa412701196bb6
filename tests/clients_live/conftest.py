"""A server as `look-again serve` starts it, with the shipped model, for clients of other people."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # no test reaches for the net

TABLE = Path(__file__).parents[2] / "examples" / "table.png"


@pytest.fixture(scope="session")
def base() -> Iterator[str]:
    """The server's URL, with /v1."""
    command = [sys.executable, "-m", "look_again", "serve", "--port", "0", "--default-tokens", "200"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        line = server.stdout.readline()
        assert "/v1 serves" in line, line
        try:
            yield line.split()[0]
        finally:
            server.terminate()


@pytest.fixture(scope="session")
def image() -> str:
    """The README's image as a data URL."""
    return f"data:image/png;base64,{base64.b64encode(TABLE.read_bytes()).decode()}"
