"""Folders that are not whole: what is missing is named, and nothing is filled with random numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from look_again.commands.main import main
from look_again.loading import load_checkpoint
from tests.weights.tiny_adapters import copy_base

Weights = dict[str, torch.Tensor]
LAST = "layers.5.self_attn.q_proj.weight"


def drop(weights: Weights) -> None:
    """The last layer's weights are gone."""
    for name in [name for name in weights if "layers.5." in name]:
        del weights[name]


def cut(weights: Weights) -> None:
    """One weight is of other shape."""
    name = next(name for name in weights if name.endswith(LAST))
    weights[name] = weights[name][:80].clone()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (drop, "are not whole: model.language_model.layers.5.input_layernorm.weight is missing (12 weights in all)"),
        (cut, f"model.language_model.{LAST} is 80 x 160 there, and 160 x 160 is needed (1 weight in all)"),
    ],
)
def test_weights_that_are_not_those_of_the_configuration_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Callable[[Weights], None], said: str
) -> None:
    """Would catch an answer by a layer of random numbers."""
    folder = copy_base(tmp_path / "base", change)
    assert main(["ask", "What?", "--model", str(folder)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("look-again: ")
    assert said in error


def test_weights_without_a_place_are_told(tmp_path: Path) -> None:
    folder = copy_base(tmp_path / "base", lambda weights: weights.update({"model.extra.weight": torch.zeros(2)}))
    notes = load_checkpoint(folder).notes
    assert len(notes) == 1
    assert "1 weight of" in notes[0]
    assert "without a place in this model" in notes[0]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["tokenizer.json", "tokenizer_config.json"], "has no tokenizer (tokenizer.json): copy it from the checkpoint"),
        (["preprocessor_config.json"], "has no configuration of an image processor (preprocessor_config.json)"),
        (["model.safetensors"], "no file named model.safetensors"),
        (["config.json"], "Should have a `model_type` key in its config.json"),
    ],
)
def test_files_that_are_missing_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], files: list[str], said: str
) -> None:
    """Would catch a tokenizer without a word that the library makes up, and a hint at the hub for a folder."""
    folder = copy_base(tmp_path / "base")
    for name in files:
        (folder / name).unlink()
    assert main(["ask", "What?", "--model", str(folder)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_kernel_that_is_not_there_is_one_short_line(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("flash_attention_2", "abacus"):
        assert main(["ask", "What?", "--attention", name]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert len(error) < 600


@pytest.mark.parametrize(
    ("entry", "said"),
    [(None, "is an adapter: fold it into its base first"), ({"quant_method": "fp8"}, r"is quantised \(fp8\)")],
)
def test_training_starts_from_whole_weights(tmp_path: Path, entry: dict[str, Any] | None, said: str) -> None:
    """Would catch a run that ends at its first step, or in weights that nothing can be folded into."""
    from look_again.training.base_model import load_processors

    folder = copy_base(tmp_path / "base")
    if entry is None:
        (folder / "adapter_config.json").write_text("{}")
    else:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"quantization_config": entry}))
    with pytest.raises(ValueError, match=said):
        load_processors(str(folder))
