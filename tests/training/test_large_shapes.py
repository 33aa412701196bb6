"""The shapes of the large checkpoints are those that were published: the parameters add up to the same totals."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForImageTextToText

from look_again.training.large_shapes import KNOWN

PARAMETERS = {"3B": 3_754_622_976, "7B": 8_292_166_656, "32B": 33_452_718_336, "72B": 73_410_777_344}
"""Elements of all tensors in each published checkpoint."""


@pytest.mark.parametrize(("size", "parameters"), PARAMETERS.items())
def test_parameters_add_up(size: str, parameters: int) -> None:
    """Would catch a width that is wrong, and weights that are tied in one place only."""
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(KNOWN[f"Qwen/Qwen2.5-VL-{size}-Instruct"].model_config())
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
