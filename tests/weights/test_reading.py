"""Folders that are not whole: what is missing is named, and nothing is filled with random numbers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from look_again import loading
from look_again.commands.main import main
from look_again.loading import load_checkpoint
from look_again.weights import LoadError
from look_again.weights.reading import read_model
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
        (["config.json"], "holds no checkpoint: it has no config.json"),
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


def name_shard(folder: Path, file: str) -> None:
    """The weights behind an index that names one file, as a pickle where its name is no safetensors."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    if file.endswith(".safetensors"):
        save_file(weights, folder / file, metadata={"format": "pt"})
    else:
        torch.save(weights, folder / file)
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, file)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def name_index(folder: Path) -> None:
    """A configuration that names an index of its own, which names a pickle."""
    name_shard(folder, "pytorch_model.bin")
    (folder / "model.safetensors.index.json").rename(folder / "other.safetensors.index.json")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"transformers_weights": "other.safetensors.index.json"}))


def name_pickle(folder: Path) -> None:
    """A configuration that names a pickle, which the library takes by this one name."""
    name_shard(folder, "adapter_model.bin")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"transformers_weights": "adapter_model.bin"}))


def name_part(folder: Path) -> None:
    """An index one weight of which is in a pickle."""
    name_shard(folder, "a.safetensors")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"]["lm_head.weight"] = "b.bin"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: name_shard(folder, "pytorch_model.bin"), "index.json names the weights 'pytorch_model.bin'"),
        (name_part, "index.json names the weights 'b.bin'"),
        (name_index, "other.safetensors.index.json names the weights 'pytorch_model.bin'"),
        (name_pickle, "names the weights 'adapter_model.bin'"),
        (
            lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
            "holds its weights as pytorch_model.bin alone",
        ),
    ],
)
def test_pickles_are_refused_before_they_are_opened(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path], None],
    said: str,
) -> None:
    """Would catch the library's own reading of whatever an index names."""
    folder = copy_base(tmp_path / "base")
    change(folder)
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: pytest.fail("opened a pickle"))
    assert main(["ask", "What?", "--model", str(folder)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "pickled weights are refused" in error
    assert error.count("\n") == 1


def test_shards_of_safetensors_are_read(tmp_path: Path) -> None:
    folder = copy_base(tmp_path / "base")
    name_shard(folder, "model-00001-of-00001.safetensors")
    assert load_checkpoint(folder).notes == ()


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ("{", "is not JSON"),
        ("[1]", "is a JSON object with an entry or more, not [1]"),
        ('{"metadata": {}}', "is damaged: it has no weight_map"),
        ('{"weight_map": {"a": "a.safetensors"}}', "is damaged: it has no metadata"),
        ('{"metadata": {}, "weight_map": {"a": 5}}', "names files that are no text"),
        ('{"metadata": {}, "weight_map": {"a": "a.safetensors"}}', "names 'a.safetensors', which is not there"),
    ],
)
def test_a_damaged_index_says_what_is_wrong(tmp_path: Path, index: str, said: str) -> None:
    folder = copy_base(tmp_path / "base")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(LoadError, match=re.escape(said)):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"text_config": None}, "values, and 2,771,296 are stored"),
        ({"vision_config": None}, "values, and 2,771,296 are stored"),
        ({"text_config": {"hidden_size": 10**7, "intermediate_size": 10**7}}, "values, and 2,771,296 are stored"),
        ({"text_config": {"num_hidden_layers": 10**7, "layer_types": None}}, "it has 10000000 layers, and there are"),
        ({"vision_config": {"depth": 10**7}}, "it has 10000000 layers, and there are 128 weights"),
    ],
)
def test_a_far_larger_model_is_refused_before_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], said: str
) -> None:
    """Would catch all memory taken by random numbers before the first weight is missed."""
    folder = copy_base(tmp_path / "base")
    config = json.loads((folder / "config.json").read_text())
    for part, fields in change.items():
        config[part] = None if fields is None else config[part] | fields
    (folder / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", lambda *a, **k: pytest.fail("was made"))
    with pytest.raises(LoadError, match="is that of a far larger model than its weights") as refused:
        read_model(str(folder))
    assert said in str(refused.value)


@pytest.mark.parametrize("kept", [0, 100, 1_000_000])
def test_weights_that_are_cut_off_are_named(tmp_path: Path, kept: int) -> None:
    folder = copy_base(tmp_path / "base")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(LoadError, match=r"model\.safetensors is truncated or damaged"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (b"null", "config.json is a JSON object with an entry or more, not None"),
        (b"[1]", "config.json is a JSON object with an entry or more, not [1]"),
        (b"{", "config.json is not JSON"),
        (b"\xff\xfe", "config.json cannot be read: 'utf-8' codec"),
        (b'{"architectures": []}', "does not say what kind of model it is: its model_type is None"),
        (b'{"model_type": 5}', "does not say what kind of model it is: its model_type is 5"),
        (b'{"model_type": "zzz"}', "models of type 'zzz' are not supported; known families: gemma3, "),
        (
            b'{"model_type": "kimi_vl", "auto_map": {"AutoConfig": "configuration_kimi_vl.KimiVLConfig"}}',
            "models of type 'kimi_vl' are not supported: transformers has no code of its own for it",
        ),
        (b'{"model_type": "llavaonevision1_5"}', "transformers has no code of its own for it; code that a checkpoint"),
        (None, "holds no checkpoint: it is empty"),
    ],
)
def test_a_configuration_that_is_none_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], config: bytes | None, said: str
) -> None:
    """Would catch advice to run a checkpoint's own code, or to update, for a family that is known not to work."""
    if config is not None:
        (tmp_path / "config.json").write_bytes(config)
    assert main(["ask", "What?", "--model", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_reason_that_stands_in_the_second_line_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(source: str) -> None:
        raise RuntimeError("Errors while loading:\n  the tensor a is odd\n  the tensor b is odd")

    monkeypatch.setattr(loading, "load_tokenizer", fail)
    with pytest.raises(LoadError, match=r"RuntimeError: Errors while loading: the tensor a is odd$"):
        load_checkpoint()
