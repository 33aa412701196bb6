"""An exported folder in the hands of stock transformers."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoTokenizer

from look_again.tabletop.tiny import build_image_processor, build_model
from look_again.text.tags import tag_ids
from look_again.training.export import write_checkpoint
from look_again.training.sft import stage_export
from look_again.training.sft_config import SftConfig, build_stage
from tests.tiny_model import make_prompt


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    from tests.tiny_model import TINIER

    final = tmp_path_factory.mktemp("run") / "final"
    stage = build_stage(name="sft", task="answers", steps=3, modes={"route": 1}, keep=40)
    model = build_model(tokenizer, TINIER, seed=3)
    write_checkpoint(
        final,
        model,
        tokenizer,
        build_image_processor(),
        stage_export(SftConfig(output="runs/x", stages=(stage,)), stage, {"Rows": 5}),
        torch.float32,
    )
    return final


class ForceTag:
    """Writes `<REFLECTION>` once, after a sequence of `at` tokens."""

    def __init__(self, tag: int, at: int) -> None:
        self.tag, self.at = tag, at

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores = scores.clone()
        scores[:, self.tag] = float("inf") if ids.shape[1] == self.at else float("-inf")
        return scores


def test_stock_transformers_re_attends_with_the_folder_alone(folder):
    """Would catch an export that needs more than the folder: ids, mode, code."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True)
    prompt = make_prompt(tokenizer, "Where?", [(168, 168)])
    inputs = {
        "input_ids": torch.tensor([prompt.token_ids]),
        "pixel_values": prompt.pixel_values,
        "image_grid_thw": prompt.image_grid_thw,
        "max_new_tokens": 6,
        "logits_processor": [ForceTag(tag_ids(tokenizer)["<REFLECTION>"], len(prompt.token_ids) + 2)],
        "return_dict_in_generate": True,
    }
    by_default = model.generate(**inputs)
    assert [r.reinserted_tokens for r in by_default.reflections[0]] == [-(-36 * 40 // 100)]
    ids = inputs.pop("input_ids")
    copied = model.generate(ids, **inputs, reattention="copy")
    assert [r.reinserted_tokens for r in copied.reflections[0]] == [36]
    assert model.generate(ids, **{**inputs, "return_dict_in_generate": False}).shape[1] == len(prompt.token_ids) + 6


def test_the_card_says_what_was_trained_on_what(folder):
    card = (folder / "README.md").read_text()
    for fact in ("grown from nothing", "3 steps", "route 100%", "40%", "Rows: 5", 'reattention="route-40"'):
        assert fact in card
