"""The shipped checkpoint without its weights, as most tests of the vLLM backend need it, and with them."""

from __future__ import annotations

from typing import Any

import pytest

from look_again.loading import Checkpoint, load_checkpoint
from look_again.serving.vllm.served_model import load_without_model


@pytest.fixture(scope="session")
def light() -> dict[str, Any]:
    """Arguments of `VllmBackend` for a checkpoint without its weights."""
    checkpoint, served = load_without_model()
    return {"checkpoint": checkpoint, "served": served}


@pytest.fixture(scope="module")
def loaded() -> Checkpoint:
    """The shipped checkpoint with its model."""
    return load_checkpoint(None, device="cpu", dtype="float32")
