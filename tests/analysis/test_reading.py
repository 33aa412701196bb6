"""What a reading says equals the attention that the library's eager kernel returns, to 1e-5, on any sequence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import look_again
from look_again.analysis import reading as reading_module
from look_again.analysis.reading import FinishedSequence, Reading, read, read_pairs
from look_again.analysis.shares import (
    prompt_text_slots,
    sampled_slots,
    visual_blocks,
    without_insertions,
)
from look_again.core.attention import attention_weights
from look_again.core.families import find_family
from look_again.core.generate import LookAgainOutput
from look_again.core.reattention import Reattention
from look_again.core.runner import encode_images
from look_again.core.slots import Slots, build_spans
from look_again.images import load_image
from tests.tiny_model import decode, eager, feature_table, full_pass

CLOSE = 1e-5
TABLE = Path(__file__).parents[2] / "examples" / "table.png"
POLICIES = [
    Reattention(mode="text"),
    Reattention(mode="copy"),
    Reattention(mode="route"),
    Reattention(mode="route", keep=20, delimiters=False, layout="strip"),
    Reattention(mode="vision"),
]
NAMES = ["text", "copy", "route", "route strip", "vision"]


def eager_weights(model: Any, slots: Slots, table: torch.Tensor) -> torch.Tensor:
    """(layers, N, N), mean over heads."""
    with eager(model):
        return torch.stack(
            [layer[0].mean(0) for layer in full_pass(model, slots, table, output_attentions=True).attentions]
        )


def gap(reading: Reading, one: FinishedSequence, weights: torch.Tensor) -> float:
    """Largest difference of a reading from the weights (layers, N, N)."""
    visual, block = visual_blocks(one.slots)
    own = weights[:, one.queries][:, :, visual]
    blocks = torch.stack([own[:, :, block == b].sum(-1) for b in range(int(block.max()) + 1)], dim=-1)
    gaps = [(reading.on_blocks - blocks).abs().max()]
    for panel in range(one.num_panels):
        expected = own[:, one.panels == panel].mean(1)
        gaps.append((reading.on_rows[:, panel] - expected).abs().max())
    return float(max(gaps))


def watched(slots: Slots, table: torch.Tensor) -> FinishedSequence:
    """Three panels: the prompt's text, then odd and even sampled tokens."""
    before, sampled = prompt_text_slots(slots), sampled_slots(slots)
    panels = torch.cat([torch.zeros(len(before), dtype=torch.long), 1 + torch.arange(len(sampled)) % 2])
    return FinishedSequence(slots, table, torch.cat([before, sampled]), panels, 3)


def decoded(model: Any, tokenizer: Any, trigger: Any, prompts: Any, policy: Reattention) -> LookAgainOutput:
    """Rows of different lengths: two reflections, one, none, and one at the very start."""
    plan = dict.fromkeys(((0, 3), (0, 15), (1, 9), (3, 0)), trigger.open_id)
    return decode(model, tokenizer, prompts, policy, plan)


@pytest.mark.parametrize("policy", POLICIES, ids=NAMES)
def test_readings_equal_eager_attention(model, tokenizer, trigger, prompts, policy):
    """Would catch a query or key off by one, padding that is looked at, rows or panels of another answer."""
    output = decoded(model, tokenizer, trigger, prompts, policy)
    finished = [
        watched(slots, feature_table(model, prompt)) for slots, prompt in zip(output.slots, prompts, strict=True)
    ]
    for one, found in zip(finished, read(model, finished), strict=True):
        assert gap(found, one, eager_weights(model, one.slots, one.features)) < CLOSE


@pytest.mark.parametrize("policy", POLICIES[1:], ids=NAMES[1:])
def test_pairs_equal_eager_attention_and_full_entropies(model, tokenizer, trigger, prompts, policy):
    """Would catch a second reading that still sees inserted rows, or joins the shared beginning at the wrong token."""
    output = decoded(model, tokenizer, trigger, prompts, policy)
    family = find_family(model.config)
    tokens = family.vision_tokens(model.config)
    sides: tuple[list[FinishedSequence], list[FinishedSequence]] = ([], [])
    for slots, prompt in zip(output.slots, prompts, strict=True):
        table = feature_table(model, prompt)
        spans = build_spans([family.merged_grid(grid, model.config) for grid in prompt.image_grid_thw])
        for side, own in zip(sides, (slots, without_insertions(family, tokens, slots, spans)), strict=True):
            side.append(FinishedSequence(own, table, sampled_slots(own)))
    for ones, found in zip(zip(*sides, strict=True), read_pairs(model, *sides), strict=True):
        for one, reading in zip(ones, found, strict=True):
            assert gap(reading, one, eager_weights(model, one.slots, one.features)) < CLOSE
            assert entropy_gap(model, one, reading, tokens.never_sampled) < 1e-4


def entropy_gap(model: Any, one: FinishedSequence, reading: Reading, banned: tuple[int, ...]) -> float:
    logits = full_pass(model, one.slots, one.features).logits[0][one.slots.sampled_from[one.queries]].double()
    logits[:, list(banned)] = float("-inf")
    chances = logits.softmax(-1)
    expected = -(chances * chances.clamp(min=1e-300).log()).sum(-1)
    return float((reading.entropy_nats - expected).abs().max())


def test_reading_in_small_blocks_changes_nothing(model, tokenizer, trigger, prompts, monkeypatch):
    """Would catch a block that overwrites another's sums, and memory that grows with queries x slots."""
    output = decoded(model, tokenizer, trigger, prompts, Reattention())
    finished = [watched(slots, feature_table(model, p)) for slots, p in zip(output.slots, prompts, strict=True)]
    whole = read(model, finished)
    longest = max(len(slots) for slots in output.slots)
    floats = 2 * longest * 5  # of two heads: five queries of the longest row at once
    asked = []

    def spy(query: torch.Tensor, key: torch.Tensor, *rest: Any) -> torch.Tensor:
        asked.append(query.shape[0] * query.shape[1] * key.shape[1])
        return attention_weights(query, key, *rest)

    monkeypatch.setattr(reading_module, "attention_weights", spy)
    monkeypatch.setattr(reading_module, "SCORE_FLOATS", floats)
    parts = read(model, finished)
    assert max(asked) <= floats
    for one, other in zip(whole, parts, strict=True):
        assert torch.allclose(one.on_blocks, other.on_blocks, atol=1e-6)
        assert torch.allclose(one.on_rows, other.on_rows, atol=1e-6)


def test_the_kernel_is_left_as_it_was(model, tokenizer, trigger, prompts):
    """Would catch a recorder that stays in the model after a reading."""
    output = decoded(model, tokenizer, trigger, prompts, Reattention())
    read(model, [watched(output.slots[0], feature_table(model, prompts[0]))])
    assert model.config.get_text_config()._attn_implementation == "sdpa"


@pytest.fixture(scope="module")
def shipped():
    return look_again.load(device="cpu"), look_again.load(device="cpu", attn_implementation="eager").checkpoint.model


@pytest.mark.parametrize("mode", ["text", "copy", "route"])
def test_readings_of_the_shipped_model_equal_eager_attention(shipped, mode):
    """The model of every default, on an image, with one reading by each kernel."""
    looker, eager_model = shipped
    answer = looker.ask(str(TABLE), "How many balls are there? Answer briefly.", reattention=Reattention(mode=mode))
    made = looker.checkpoint.image_processor(images=[load_image(TABLE)], return_tensors="pt")
    with torch.no_grad():
        table = encode_images(looker.checkpoint.model, made["pixel_values"], made["image_grid_thw"])[0]
    one = watched(answer.slots, table)
    weights = full_pass(eager_model, one.slots, table, output_attentions=True).attentions
    expected = torch.stack([layer[0].mean(0) for layer in weights])
    for model in (looker.checkpoint.model, eager_model):
        assert gap(read(model, [one])[0], one, expected) < CLOSE
