"""What is frozen stays bit-identical, and what trains is what was asked for."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from look_again.core.families import find_family
from look_again.core.reattention import Reattention
from look_again.tabletop.tiny import build_model
from look_again.text.tags import tag_ids
from look_again.training.base_model import merge_state
from look_again.training.example import Example
from look_again.training.module import Reattending
from look_again.training.run_parts import Lora, TrainedParts
from look_again.training.sft_plan import trainable_parameters
from look_again.training.trainable import choose_trainable
from tests.tiny_model import TINIER, WEIGHT_SCALE, make_prompt

STEPS = 20


def fresh(tokenizer: Any, tied: bool) -> Any:
    model = build_model(tokenizer, TINIER)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(WEIGHT_SCALE)
    if not tied:
        model.config.tie_word_embeddings = model.config.get_text_config().tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone() * 0.5)
    return model


def rows(model: Any, tokenizer: Any) -> tuple[list[Example], dict[str, torch.Tensor]]:
    """A row of each kind: COPY, ROUTE, and one without image."""
    family, ids = find_family(model.config), tag_ids(tokenizer)
    shown = make_prompt(tokenizer, "Where is the box?", [(56, 84)], seed=1)
    grids = [family.merged_grid(grid, model.config) for grid in shown.image_grid_thw]
    text = make_prompt(tokenizer, "How many?", [])
    response = [ids["<SUMMARY>"], 300, ids["</SUMMARY>"], ids["<REFLECTION>"], 301, ids["</REFLECTION>"], 302]
    examples = [
        Example(shown.token_ids, response, grids, Reattention(mode="copy"), [False] * 7),
        Example(shown.token_ids, response, grids, Reattention(mode="route"), [False] * 7),
        Example(text.token_ids, response, [], Reattention(mode="copy"), [False] * 7),
    ]
    images = {
        "pixel_values": torch.cat([shown.pixel_values] * 2),
        "image_grid_thw": torch.cat([shown.image_grid_thw] * 2),
    }
    return examples, images


def trained(tokenizer: Any, parts: TrainedParts, tied: bool) -> tuple[dict, dict, Any]:
    """Weights before and after twenty steps with weight decay, exported, and the module that trained."""
    model = fresh(tokenizer, tied)
    start, before = copy.deepcopy(model), {name: p.detach().clone() for name, p in model.state_dict().items()}
    ids = tag_ids(tokenizer)
    module = Reattending(model, ids, choose_trainable(model, parts, list(ids.values())))
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1)
    examples, images = rows(model, tokenizer)
    losses = []
    for _ in range(STEPS):
        loss = module(examples, **images)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    after = merge_state(module.state_dict(), parts, start, tag_ids(tokenizer)).state_dict()
    return before, after, module


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("trains", ["language_model", "lora"])
def test_frozen_means_bit_identical(tokenizer, trains, tied):
    """Would catch weight decay on untouched rows, an unfrozen tower, and an export that mixes the two up."""
    parts = TrainedParts(trains=trains, lora=Lora(rank=4))
    before, after, _ = trained(tokenizer, parts, tied)
    tags = list(tag_ids(tokenizer).values())
    others = [i for i in range(TINIER_ROWS(before)) if i not in tags]
    assert before.keys() == after.keys()
    for name, old in before.items():
        if ".visual." in name:
            assert torch.equal(old, after[name]), name
        elif name.endswith(("embed_tokens.weight", "lm_head.weight")):
            assert torch.equal(old[others], after[name][others]), name
            assert not torch.equal(old[tags], after[name][tags]), name
        elif ".layers." in name and name.endswith("_proj.weight"):
            assert not torch.equal(old, after[name]), name
    assert (
        (after["lm_head.weight"] is after["model.language_model.embed_tokens.weight"])
        or not tied
        or torch.equal(after["lm_head.weight"], after["model.language_model.embed_tokens.weight"])
    )


def TINIER_ROWS(weights: dict) -> int:  # noqa: N802
    return weights["model.language_model.embed_tokens.weight"].shape[0]


@pytest.mark.parametrize("trains", ["language_model", "lora"])
def test_the_exported_model_computes_what_was_trained(tokenizer, trains):
    """Would catch an adapter or a tag row that is lost, or folded in twice."""
    parts = TrainedParts(trains=trains, lora=Lora(rank=4))
    model = fresh(tokenizer, tied=False)
    start, ids = copy.deepcopy(model), tag_ids(tokenizer)
    module = Reattending(model, ids, choose_trainable(model, parts, list(ids.values())))
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
    examples, images = rows(model, tokenizer)
    with torch.no_grad():
        expected = module.log_probs(examples, **images)
        found = Reattending(merge_state(module.state_dict(), parts, start, tag_ids(tokenizer)), ids).log_probs(
            examples, **images
        )
    assert max(float((a - b).abs().max()) for a, b in zip(expected, found, strict=True)) <= 1e-5


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("trains", ["all", "without_vision", "language_model", "lora"])
def test_the_plan_counts_what_trains(tokenizer, trains, tied):
    """Would catch a dry run that plans for another model than the one that is trained."""
    parts = TrainedParts(trains=trains, lora=Lora(rank=4))
    model = fresh(tokenizer, tied)
    planned = trainable_parameters(copy.deepcopy(model), parts)
    ids = tag_ids(tokenizer)
    module = Reattending(model, ids, choose_trainable(model, parts, list(ids.values())))
    assert sum(p.numel() for p in module.parameters() if p.requires_grad) == planned


def test_frozen_weights_are_exact_although_they_trained_in_bfloat16(tokenizer):
    """Would catch an export that takes the rounded copies of frozen weights for trained ones."""
    parts = TrainedParts(trains="lora", lora=Lora(rank=4))
    start, ids = fresh(tokenizer, tied=True), tag_ids(tokenizer)
    before = {name: p.detach().clone() for name, p in start.state_dict().items()}
    model = fresh(tokenizer, tied=True).to(torch.bfloat16)
    module = Reattending(model, ids, choose_trainable(model, parts, list(ids.values())))
    after = merge_state(module.state_dict(), parts, start, tag_ids(tokenizer)).state_dict()
    for name, old in before.items():
        if not name.endswith(("embed_tokens.weight", "lm_head.weight")):
            assert torch.equal(old, after[name]), name
