"""Quantised weights: made while loading, exported and loaded again, and refused where they cannot be."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

import look_again
from look_again.commands.main import main
from look_again.evaluation.fingerprint import fingerprint
from look_again.extras import MissingExtraError
from look_again.loading import default_checkpoint, load_checkpoint
from look_again.text.chat import encode_text
from look_again.text.tags import tag_ids
from look_again.weights import LoadError
from tests.weights.tiny_adapters import ROWS, ask_about, copy_base, copy_without_tags, make_adapter

SHIPPED = str(default_checkpoint())
LIBRARIES = {"int8": "torchao", "int4": "torchao", "bnb-8bit": "bitsandbytes", "bnb-4bit": "bitsandbytes"}


def needs(package: str) -> pytest.MarkDecorator:
    """Skips where a library that is truly optional is not installed; CI installs torchao with `dev`."""
    from importlib.util import find_spec

    return pytest.mark.skipif(find_spec(package) is None, reason=f"{package} is not installed")


@needs("torchao")
def test_int8_is_asked_looks_again_and_is_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Asked, re-attended with ROUTE, written, loaded as it is stored: the same answer bit for bit."""
    image, question = ask_about()
    image.save(tmp_path / "image.png")
    words = ["ask", str(tmp_path / "image.png"), question, "--reattention", "route", "--json", "--device", "cpu"]
    assert main([*words, "--quantization", "int8"]) == 0
    asked = json.loads(capsys.readouterr().out)
    assert asked["tokens"]["reinserted"] > 0
    assert main(["prepare", "--quantization", "int8", SHIPPED, str(tmp_path / "q")]) == 0
    capsys.readouterr()
    assert main([*words, "--model", str(tmp_path / "q")]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["response"] == asked["response"]
    made, stored = (load_checkpoint(name, quantization=q) for name, q in ((None, "int8"), (tmp_path / "q", None)))
    ids = torch.arange(40)[None]
    with torch.no_grad():
        assert torch.equal(made.model(input_ids=ids).logits, stored.model(input_ids=ids).logits)
    size = (tmp_path / "q" / "model.safetensors").stat().st_size
    assert size < 0.6 * (default_checkpoint() / "model.safetensors").stat().st_size


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=needs("torchao")) for name in ("int8", "int4")]
    + [pytest.param("bnb-8bit", marks=needs("bitsandbytes"))],
)
def test_only_the_language_model_is_quantised(name: str) -> None:
    """Would catch a tower or rows of tags in eight bits."""
    plain, small = load_checkpoint(device="cpu"), load_checkpoint(quantization=name)
    inside = small.model.base_model.language_model.layers[0].mlp.up_proj
    assert type(inside.weight) is not torch.nn.Parameter
    for path in ("visual.blocks.0.attn.qkv", "language_model.embed_tokens"):
        kept, wanted = (c.model.base_model.get_submodule(path).weight for c in (small, plain))
        assert type(kept) is torch.nn.Parameter
        assert torch.equal(kept.float(), wanted)
    first, second = (fingerprint(c.model, c.tokenizer) for c in (small, load_checkpoint(quantization=name)))
    assert first == second != fingerprint(plain.model, plain.tokenizer)


@needs("torchao")
def test_tags_get_rows_on_a_quantised_base(tmp_path: Path) -> None:
    folder = copy_without_tags(tmp_path / "stock")
    plain, small = load_checkpoint(folder), load_checkpoint(folder, quantization="int8")
    rows = [c.model.get_input_embeddings().weight for c in (plain, small)]
    assert torch.equal(*rows)
    for tag, id in tag_ids(small.tokenizer).items():
        torch.testing.assert_close(rows[1][id], rows[1][encode_text(small.tokenizer, tag)].mean(0))
    assert len(rows[1]) > ROWS
    image, question = ask_about()
    assert look_again.LookAgain(small).ask(image, question, max_new_tokens=3).tokens["sampled"] == 3


@needs("torchao")
def test_an_adapter_lies_beside_quantised_weights(tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "lora")
    ids = torch.arange(40)[None]
    with torch.no_grad():
        base, wanted, found = (
            load_checkpoint(**options).model(input_ids=ids).logits  # type: ignore[arg-type]
            for options in ({}, {"adapter": adapter}, {"adapter": adapter, "quantization": "int8"})
        )
    assert (found - wanted).abs().mean() < 0.2 * (base - wanted).abs().mean()
    with pytest.raises(LoadError, match="cannot be folded into quantised weights"):
        load_checkpoint(adapter=adapter, quantization="int8", merge_adapter=True)


@needs("torchao")
def test_what_is_quantised_is_not_quantised_again_nor_put_on_disk(tmp_path: Path) -> None:
    assert main(["prepare", SHIPPED, str(tmp_path / "q"), "--quantization", "int8"]) == 0
    with pytest.raises(LoadError, match=r"is quantised already \(torchao\)"):
        load_checkpoint(tmp_path / "q", quantization="int8")
    with pytest.raises(LoadError, match="quantised weights are not offloaded"):
        load_checkpoint(quantization="int8", device_map={"": "disk"})


@pytest.mark.parametrize(("name", "package"), LIBRARIES.items())
def test_a_missing_library_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, package: str
) -> None:
    hide(monkeypatch, package)
    assert main(["ask", "What?", "--quantization", name]) == 2
    error = capsys.readouterr().err
    assert (
        error == f"look-again: this needs {package}: pip install 'look-again-vlm[quantize]', in a clone '.[quantize]'\n"
    )


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"quant_method": "torchao"}, r"needs torchao: pip install 'look-again-vlm\[quantize\]'"),
        ({"load_in_4bit": True}, r"needs bitsandbytes: pip install 'look-again-vlm\[quantize\]'"),
        ({"quant_method": "awq"}, "is quantised by awq, which needs gptqmodel: pip install gptqmodel"),
        ({"quant_method": "gptq", "bits": 4}, "is quantised by gptq, which needs gptqmodel"),
        ({"quant_method": "quanto"}, "needs optimum.quanto: pip install optimum-quanto"),
    ],
)
def test_a_quantised_checkpoint_names_the_library_that_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: dict[str, object], said: str
) -> None:
    """Would catch the library's paragraph, or a model with weights that nothing reads."""
    folder = copy_base(tmp_path / "quantised")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": entry}))
    hide(monkeypatch, "torchao", "bitsandbytes", "gptqmodel", "optimum")
    with pytest.raises((LoadError, MissingExtraError), match=said):
        load_checkpoint(folder)


def hide(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    """Make packages look as if they were not installed."""
    import importlib.util

    real = importlib.util.find_spec

    def find(name: str, package: str | None = None) -> object:
        return None if name.partition(".")[0] in packages else real(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find)
    for name in list(sys.modules):
        if name.partition(".")[0] in packages:
            monkeypatch.delitem(sys.modules, name)


@pytest.mark.parametrize("name", ["model.gguf", "Qwen/Qwen2.5-VL-7B-Instruct-GGUF", "folder", "configured"])
def test_gguf_is_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    if "/" not in name:
        where = tmp_path / name
        file = where if name.endswith(".gguf") else where / "model.gguf"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"GGUF")
        if name == "configured":
            (where / "config.json").write_text("{}")
        name = str(where)
    assert main(["ask", "What?", "--model", name]) == 2
    error = capsys.readouterr().err
    assert f"{name!r} is GGUF, which is not loaded here" in error
    assert error.count("\n") == 1
