"""Checkpoints that the tests of this folder share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from look_again.tabletop.tiny import build_image_processor


@pytest.fixture
def tiny_checkpoint(model: Any, tokenizer: Any, tmp_path: Path) -> Path:
    """A checkpoint of other shapes than the shipped one."""
    for part in (model, tokenizer, build_image_processor()):
        part.save_pretrained(tmp_path / "tinier")
    return tmp_path / "tinier"
