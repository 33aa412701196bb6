"""Devices: maps that are refused, and weights on disk that answer as those in memory do."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import look_again
from look_again.core.input_device import input_device
from look_again.evaluation.fingerprint import fingerprint
from look_again.loading import load_checkpoint
from look_again.model import LookAgain
from look_again.weights import LoadError
from look_again.weights.devices import check_device_map, split_device_map
from tests.weights.tiny_adapters import ask_about, copy_without_tags

SPLIT = {
    "model.visual": "cpu",
    "model.language_model.embed_tokens": "cpu",
    "model.language_model.layers": "disk",
    "model.language_model.norm": "cpu",
    "model.language_model.rotary_emb": "cpu",
    "lm_head": "cpu",
}
NESTED = {"": "cpu", "model.visual": "disk", "model.language_model.layers.1": "disk"}
INSIDE_DISK = {"": "disk", "model.language_model.layers.2": "cpu"}


@pytest.fixture(scope="module")
def plain() -> LookAgain:
    return look_again.load(device="cpu")


@pytest.mark.parametrize(
    ("device_map", "said"),
    [
        ({"model.language_model": "cpu", "lm_head": "cpu"}, "leaves model.visual off every device"),
        ({"model.visual": "cpu"}, "leaves model.language_model off every device"),
        ({"model.visual.blocks": "cpu", "model.language_model": "cpu", "lm_head": "cpu"}, "leaves model.visual off"),
        ({"": "cpu", "model.vision": "cpu"}, "'model.vision', which this model does not have; its parts: model.visual"),
        ({"": "meta"}, "no meta device is available"),
        ({"": "gpu"}, "unknown device 'gpu'"),
        ({"": 7}, "asks for device 7: 0 CUDA devices are available"),
        ({"": -1}, "asks for device -1: 0 CUDA devices are available"),
        ({"": True}, "names the device True: a device is a name or a number"),
        (
            {"": "cpu", "model.language_model": "disk"},
            r"one matrix \(tied\): the device map puts them on disk and cpu",
        ),
    ],
)
def test_maps_that_cannot_be_are_refused(
    plain: LookAgain, monkeypatch: pytest.MonkeyPatch, device_map: dict[str, Any], said: str
) -> None:
    """Would catch a part that the library puts somewhere in silence, and messages of several lines."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(LoadError, match=said) as caught:
        check_device_map(device_map, plain.checkpoint.model)
    assert "\n" not in str(caught.value)


def test_maps_with_modules_inside_others_are_split(plain: LookAgain) -> None:
    places = split_device_map(NESTED, plain.checkpoint.model)
    assert places["model.visual"] == places["model.language_model.layers.1"] == "disk"
    assert places["model.language_model.layers.0"] == places["lm_head"] == "cpu"
    assert not {"", "model", "model.language_model"} & set(places)
    assert split_device_map(SPLIT, plain.checkpoint.model) == SPLIT
    with pytest.raises(LoadError, match=r"puts model\.visual\.merger\.mlp\.0\.weight on disk apart from the rest"):
        split_device_map({"": "cpu", "model.visual.merger.mlp.0.weight": "disk"}, plain.checkpoint.model)


@pytest.mark.parametrize("device_map", [{"": "disk"}, SPLIT, NESTED, INSIDE_DISK])
def test_weights_on_disk_answer_and_look_again_alike(plain: LookAgain, device_map: dict[str, str]) -> None:
    """Would catch inputs sent to the place where weights are kept, and rankings of another model."""
    image, question = ask_about()
    kept = look_again.load(device_map=device_map)
    assert any(parameter.device.type == "meta" for parameter in kept.checkpoint.model.parameters())
    assert input_device(kept.checkpoint.model) == torch.device("cpu")
    wanted, answer = (looker.ask(image, question, reattention="route", max_new_tokens=60) for looker in (plain, kept))
    assert answer.response == wanted.response
    assert [r.visual_indices for r in answer.reflections] == [r.visual_indices for r in wanted.reflections]
    assert answer.reflections[0].reinserted_tokens
    assert fingerprint(kept.checkpoint.model, kept.checkpoint.tokenizer) == fingerprint(
        plain.checkpoint.model, plain.checkpoint.tokenizer
    )


def test_maps_that_are_inferred_are_tried(plain: LookAgain) -> None:
    image, question = ask_about()
    spread = look_again.load(device_map="auto", max_memory={"cpu": "3MB"})
    assert "disk" in spread.checkpoint.model.hf_device_map.values()
    wanted, answer = (looker.ask(image, question, max_new_tokens=4) for looker in (plain, spread))
    assert answer.response == wanted.response


@pytest.mark.parametrize("device_map", [None, {"": "disk"}, SPLIT])
def test_tags_get_rows_wherever_the_rows_are(tmp_path: Any, device_map: dict[str, str] | None) -> None:
    """Would catch rows that are written to weights that are not there, or to a copy that is thrown away."""
    folder = copy_without_tags(tmp_path / "stock")
    wanted, found = (load_checkpoint(folder, trained=False, device_map=where) for where in (None, device_map))
    assert "no tags" in found.notes[0]
    ids = torch.tensor([sorted(found.tokenizer.added_tokens_decoder)])
    with torch.no_grad():
        logits = [c.model(input_ids=ids).logits for c in (wanted, found)]
    assert logits[0].shape[-1] >= len(found.tokenizer)
    torch.testing.assert_close(logits[1], logits[0])
    image, question = ask_about()
    assert LookAgain(found).ask(image, question, max_new_tokens=3).tokens["sampled"] == 3


@pytest.mark.parametrize(
    ("device", "said"),
    [("meta", "no meta device is available"), ("gpu", "unknown device 'gpu'; use auto, cpu, cuda or mps")],
)
def test_devices_that_are_not_here_are_told(device: str, said: str) -> None:
    with pytest.raises(LoadError, match=said):
        load_checkpoint(device=device)
