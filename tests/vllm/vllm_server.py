"""The vLLM server of the tests that need a real one: the shipped tiny model in float32, on a CPU where there is no GPU.

LOOK_AGAIN_VLLM_PYTHON is the python of an environment with vLLM 0.32; LOOK_AGAIN_VLLM_PYTHONPATH is what its PYTHONPATH
has to be, where it needs one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from look_again.bench.vllm_process import VllmProcess, vllm_process
from look_again.loading import default_checkpoint

OPTIONS = ("--dtype", "float32", "--max-model-len", "1024", "--max-num-seqs", "16")


@contextmanager
def vllm_server(
    folder: Path,
    options: Sequence[str] = (),
    settings: Mapping[str, str] | None = None,
    hooks: Sequence[str] = (),
    checkpoint: str | Path | None = None,
) -> Iterator[VllmProcess]:
    """A server until the context ends. Without an environment for it the test fails: there is nothing else to check.

    folder: where its output goes. options: besides OPTIONS. settings: environment variables. hooks: folders before its
    PYTHONPATH. checkpoint: None is the shipped one.
    """
    python = os.environ.get("LOOK_AGAIN_VLLM_PYTHON")
    if not python:
        pytest.fail("set LOOK_AGAIN_VLLM_PYTHON to the python of an environment with vLLM 0.32")
    paths = [*hooks, *filter(None, [os.environ.get("LOOK_AGAIN_VLLM_PYTHONPATH")])]
    with vllm_process(
        python, checkpoint or default_checkpoint(), folder, [*OPTIONS, *options], settings, paths
    ) as server:
        yield server
