"""What a figure says of the model, before it is shown to others."""

from __future__ import annotations

import pytest

from look_again.analysis.canvas import name_model


@pytest.mark.parametrize(
    ("model", "named"),
    [
        ("Qwen/Qwen2.5-VL-7B-Instruct", "Qwen/Qwen2.5-VL-7B-Instruct"),
        ("tabletop-tiny", "tabletop-tiny"),
        ("/home/someone/runs/copy/final", "copy/final"),
        ("runs/copy/final/", "copy/final"),
    ],
)
def test_a_path_is_named_by_its_end(model: str, named: str) -> None:
    assert name_model(model) == named
