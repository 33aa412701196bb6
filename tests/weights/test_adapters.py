"""Adapters of peft: found with their base, folded in or not, exported, and refused on another base."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

import look_again
from look_again.commands.main import main
from look_again.core.generate import LookAgainOutput
from look_again.loading import default_checkpoint, load_checkpoint, recorded_reattention
from look_again.model import LookAgain
from look_again.weights import LoadError
from tests.weights.tiny_adapters import ask_about, copy_base, copy_without_tags, make_adapter

pytest.importorskip("peft")


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(tmp_path_factory.mktemp("adapter") / "lora")


def logits(looker: LookAgain) -> torch.Tensor:
    with torch.no_grad():
        return looker.checkpoint.model(input_ids=torch.arange(40)[None]).logits


def test_an_adapter_is_found_with_its_base_and_changes_it(adapter: Path) -> None:
    """Would catch an adapter that is loaded and left aside."""
    alone, named, apart, base = (
        look_again.load(adapter),
        look_again.load(default_checkpoint(), adapter=adapter),
        look_again.load(adapter=adapter, merge_adapter=False),
        look_again.load(),
    )
    assert torch.equal(logits(alone), logits(named))
    assert not torch.allclose(logits(alone), logits(base), atol=0.1)
    torch.testing.assert_close(logits(apart), logits(alone), atol=1e-3, rtol=1e-3)
    assert alone.checkpoint.trained
    assert not alone.checkpoint.notes
    names = [name for name, _ in apart.checkpoint.model.named_parameters() if "lora_A" in name]
    assert len(names) == 12
    assert not [name for name, _ in alone.checkpoint.model.named_parameters() if "lora" in name]


def test_what_it_answers_looks_again_and_is_exported(
    adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Asked, re-attended, written as one folder, which answers alike here and in stock transformers."""
    image, question = ask_about()
    image.save(tmp_path / "image.png")
    words = [str(tmp_path / "image.png"), question, "--adapter", str(adapter), "--reattention", "route", "--json"]
    assert main(["ask", *words, "--device", "cpu", "--max-new-tokens", "150"]) == 0
    asked = json.loads(capsys.readouterr().out)
    assert asked["tokens"]["reinserted"] > 0
    assert main(["prepare", str(adapter), str(tmp_path / "whole")]) == 0
    assert "written" in capsys.readouterr().out
    again = look_again.load(tmp_path / "whole").ask(image, question, reattention="route", max_new_tokens=150)
    assert again.response == asked["response"]
    stock = AutoModelForImageTextToText.from_pretrained(tmp_path / "whole", trust_remote_code=True)
    looker = look_again.load(tmp_path / "whole")
    inputs = looker._batch([looker._encode(look_again.Request([image], question))])
    output = stock.generate(
        **inputs,
        trust_remote_code=True,
        reattention="route",
        max_new_tokens=150,
        return_dict_in_generate=True,
    )
    assert isinstance(output, LookAgainOutput)
    assert [r.visual_indices for r in output.reflections[0]] == [r.visual_indices for r in again.reflections]


def test_its_own_files_come_before_the_bases(adapter: Path, tmp_path: Path) -> None:
    """Would catch the base's record taken for the adapter's."""
    own = shutil.copytree(adapter, tmp_path / "own")
    (own / "look_again.json").write_text('{"trained": true, "mode": "route", "keep": 25, "max_pixels": 20000}')
    assert str(recorded_reattention(own)) == str(recorded_reattention(None, own))
    assert recorded_reattention(own).keep == 25
    checkpoint = load_checkpoint(own)
    assert checkpoint.reattention.mode == "route"
    assert checkpoint.image_processor.size["longest_edge"] == 20000


def test_rows_for_the_tags_come_with_its_tokenizer(tmp_path: Path) -> None:
    """An adapter that was trained on a prepared model names the stock one: its tokenizer has the tags."""
    stock = copy_without_tags(tmp_path / "stock")
    assert main(["prepare", str(stock), str(tmp_path / "prepared")]) == 0
    adapter = make_adapter(tmp_path / "lora", tmp_path / "prepared")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(tmp_path / "prepared" / name, adapter)
    wanted, found = (look_again.load(base, adapter=adapter) for base in (tmp_path / "prepared", stock))
    assert torch.equal(logits(found), logits(wanted))
    assert not found.checkpoint.notes or "no tags" not in found.checkpoint.notes[0]


def test_copies_of_its_base_are_its_base(adapter: Path, tmp_path: Path) -> None:
    """Would catch a path taken for the identity of a model: copies and other types of one model are the same."""

    def halve(weights: dict[str, torch.Tensor]) -> None:
        weights.update({name: weight.bfloat16() for name, weight in weights.items()})

    for change in (None, halve):
        folder = copy_base(tmp_path / f"copy-{change is None}", change)
        assert not load_checkpoint(folder, adapter=adapter).notes


@pytest.mark.filterwarnings("ignore::UserWarning:peft")  # that it saves them
@pytest.mark.parametrize(
    "options",
    [{"target_modules": ["q_proj", "embed_tokens"]}, {"modules_to_save": ["merger"]}, {"bias": "all"}],
)
def test_what_else_peft_saves_is_no_sign_of_another_base(tmp_path: Path, options: dict[str, Any]) -> None:
    """Would catch an adapter of the embedding, with which peft saves the base's own rows, refused on its own base."""
    folder = make_adapter(tmp_path / "odd", **options)
    assert not load_checkpoint(folder).notes


def test_another_base_is_refused(
    adapter: Path, tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Would catch an adapter on weights that it was not trained on, equal in every shape."""

    def train_on(weights: dict[str, torch.Tensor]) -> None:
        weights.update({name: weight * 1.01 for name, weight in weights.items() if "q_proj.weight" in name})

    other = copy_base(tmp_path / "other", train_on)
    for folder in (other, tiny_checkpoint):
        assert main(["ask", "What?", "--model", str(folder), "--adapter", str(adapter)]) == 2
        error = capsys.readouterr().err
        assert "belongs to another base; its configuration names" in error
        assert error.count("\n") == 1


@pytest.mark.parametrize("layer", ["layers.4", "layers.11"])
def test_layers_that_do_not_match_are_refused(adapter: Path, tmp_path: Path, layer: str) -> None:
    """Would catch tensors that peft drops, and layers that stay without any, where the base cannot be compared."""
    odd = shutil.copytree(adapter, tmp_path / "odd")
    config = json.loads((odd / "adapter_config.json").read_text()) | {"base_model_name_or_path": "nobody/there"}
    (odd / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(LoadError, match=r"the base of the adapter .* is not here: .*name it \(--model BASE\)"):
        load_checkpoint(odd)
    notes = load_checkpoint(default_checkpoint(), adapter=odd).notes
    assert "names the base 'nobody/there'; whether" in notes[0]
    weights = load_file(odd / "adapter_model.safetensors")
    changed = {name.replace("layers.5", layer): weight for name, weight in weights.items()}
    save_file(changed, odd / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(LoadError, match="does not fit this base") as caught:
        load_checkpoint(default_checkpoint(), adapter=odd)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"base_model_name_or_path": None}, "names no base: say which it is"),
        ({"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 3}, "learns prompts"),
        ({"base_model_name_or_path": 5}, "base_model_name_or_path is 5, and a name or folder is needed"),
        ({"base_model_name_or_path": ["a"]}, r"base_model_name_or_path is \['a'\], and a name or folder is needed"),
        ({"peft_type": "ZZ"}, "is no configuration of an adapter: KeyError: 'ZZ'"),
        ("[]", "is no configuration of an adapter"),
    ],
)
def test_odd_adapters_are_told(adapter: Path, tmp_path: Path, change: object, said: str) -> None:
    odd = shutil.copytree(adapter, tmp_path / "odd")
    path = odd / "adapter_config.json"
    if isinstance(change, dict):
        kept = {} if "peft_type" in change else json.loads(path.read_text())
        kept = kept or {"base_model_name_or_path": str(default_checkpoint()), "task_type": "CAUSAL_LM"}
        change = json.dumps(kept | change)
    path.write_text(str(change))
    with pytest.raises(LoadError, match=said):
        load_checkpoint(odd)


@pytest.mark.parametrize("data", [None, b"", b"\x55" * 4000])
def test_damaged_weights_are_not_taken_for_another_base(
    adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], data: bytes | None
) -> None:
    """Would catch "belongs to another base" for a download that was cut off, and a traceback beside a copy."""
    cut = shutil.copytree(adapter, tmp_path / "cut")
    file = cut / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:2000] if data is None else data)
    for words in (["--adapter", str(cut)], ["--adapter", str(cut), "--model", str(copy_base(tmp_path / "copy"))]):
        assert main(["ask", "What?", *words]) == 2
        error = capsys.readouterr().err
        assert f"{file} is truncated or damaged" in error
        assert error.count("\n") == 1


@pytest.mark.parametrize("index", [None, "{", "{}"])
def test_a_damaged_base_is_told(adapter: Path, tmp_path: Path, index: str | None) -> None:
    """The base that an adapter names, beside a whole one that is used."""
    broken = copy_base(tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"cut")
    if index is not None:
        (broken / "model.safetensors").unlink()
        (broken / "model.safetensors.index.json").write_text(index)
    odd = shutil.copytree(adapter, tmp_path / "odd")
    config = json.loads((odd / "adapter_config.json").read_text()) | {"base_model_name_or_path": str(broken)}
    (odd / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(LoadError, match=r"broken/model\.safetensors.* is (truncated|not JSON|a JSON object)"):
        load_checkpoint(default_checkpoint(), adapter=odd)


def test_what_an_adapter_cannot_be_put_on_is_told(adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"has no adapter_config\.json"):
        load_checkpoint(adapter=default_checkpoint())
    with pytest.raises(LoadError, match="is an adapter itself: merge it into its base first"):
        load_checkpoint(adapter, adapter=adapter)
    with pytest.raises(LoadError, match="needs its base in memory"):
        load_checkpoint(adapter, device_map={"": "disk"})
    pickled = shutil.copytree(adapter, tmp_path / "pickled")
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    with pytest.raises(LoadError, match="pickled weights are refused"):
        load_checkpoint(pickled)


def test_a_server_of_vllms_needs_it_folded_in(adapter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--backend", "vllm", "--vllm-url", "http://127.0.0.1:9", "--adapter", str(adapter)]
    assert main(["serve", *words]) == 2
    assert f"look-again prepare {adapter} OUT" in capsys.readouterr().err
