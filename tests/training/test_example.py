"""What the trainer reads is what decoding produced, and it learns from the logits that decoding sampled from."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from look_again.core.families import FAMILIES, VisionTokens, find_family
from look_again.core.generate import LookAgainOutput
from look_again.core.reattention import Reattention
from look_again.core.slots import Slots
from look_again.text.tags import tag_ids
from look_again.training.example import Example, add_response, pad_batch, start_sequence
from look_again.training.module import Reattending
from look_again.training.selection import select_visual_tokens
from tests.tiny_model import (
    TOLERANCE,
    Prompt,
    decode,
    feature_table,
    response_slots,
    responses,
    same_slots,
)
from tests.training.examples import build_example

POLICIES = [
    Reattention(mode="text"),
    Reattention(mode="copy"),
    Reattention(mode="copy", delimiters=False, layout="strip"),
    Reattention(mode="copy", max_reinsertions=1),
    Reattention(mode="route", keep=40),
    Reattention(mode="route", rule="relative", max_reinsertions=1),
    Reattention(mode="route", keep=20, layers=(0,), delimiters=False),
    Reattention(mode="route", control="random-rows", seed=3),
    Reattention(mode="route", keep=0),
    Reattention(mode="route", keep=100),
]


def show(policy: Reattention) -> str:
    changed = (name for name in vars(policy) if getattr(policy, name) != getattr(Reattention(), name))
    return "-".join(f"{name}={getattr(policy, name)}" for name in changed) or "copy"


def rebuilt(model: Any, examples: list[Example], tables: list[torch.Tensor], reflection_id: int) -> list[Slots]:
    """The sequences that the trainer makes of the examples."""
    family = find_family(model.config)
    chosen: list[Any] = [None] * len(examples)
    if examples[0].policy.needs_scores:
        chosen = select_visual_tokens(model, examples, tables, reflection_id)
    sequences = []
    for example, rows in zip(examples, chosen, strict=True):
        builder = start_sequence(family, family.vision_tokens(model.config), example)
        add_response(builder, example, reflection_id, rows)
        sequences.append(builder.build())
    return sequences


def reflecting(
    model: Any, tokenizer: Any, prompts: list[Prompt], policy: Reattention, reflection_id: int
) -> tuple[LookAgainOutput, list[Slots]]:
    """Answers with two, one, no and two reflections (one as the first token), and the trainer's sequences of them."""
    plan = dict.fromkeys([(0, 4), (0, 11), (1, 7), (3, 0), (3, 9)], reflection_id)
    output = decode(model, tokenizer, prompts, policy, plan, max_new_tokens=18)
    examples = [
        build_example(model, prompt, response, policy)
        for prompt, response in zip(prompts, responses(output, prompts), strict=True)
    ]
    tables = [feature_table(model, prompt) for prompt in prompts]
    return output, rebuilt(model, examples, tables, reflection_id)


@pytest.mark.parametrize("policy", POLICIES, ids=show)
def test_sequences_equal_the_slots_of_decoding(model, tokenizer, trigger, prompts, policy):
    """Would catch any difference between training and decoding: rows, positions, delimiters, limits, sources."""
    output, sequences = reflecting(model, tokenizer, prompts, policy, trigger.open_id)
    assert [len(own) for own in output.reflections] == [2, 1, 0, 2]
    assert all(map(same_slots, sequences, output.slots))


@pytest.mark.parametrize("policy", POLICIES, ids=show)
def test_target_logits_equal_the_logits_that_were_sampled_from(model, tokenizer, trigger, prompts, policy):
    """Would catch a target one slot off, a padded row that differs, and features of another image of the batch."""
    output, sequences = reflecting(model, tokenizer, prompts, policy, trigger.open_id)
    tables = [feature_table(model, prompt) for prompt in prompts]
    before = [0, *itertools.accumulate(len(table) for table in tables)][:-1]
    batch = pad_batch(sequences, [slots.targets() for slots in sequences], before, model.config.vision_start_token_id)
    with torch.no_grad():
        logits, targets = Reattending(model, tag_ids(tokenizer)).target_logits(batch, tables)
    sampled = [
        (output.logits[step][row], slots.token_ids[slot])
        for row, slots in enumerate(output.slots)
        for step, slot in enumerate(response_slots(slots))
    ]
    assert len(sampled) == 4 * 18
    assert targets.tolist() == [int(token) for _, token in sampled]
    assert (logits - torch.stack([row for row, _ in sampled])).abs().max() <= TOLERANCE


def test_chosen_rows_go_to_their_own_reflections():
    """Would catch the first ranking used for every reflection.

    0 START | 1-2 v0 v1 | 3 END || 4 v1 (bare) | 5 R | 6 8 || 7 v0 | 8 R
    """
    policy = Reattention(mode="route", delimiters=False)
    example = Example([92, 90, 90, 93], [50, 8, 50], [(1, 1, 2)], policy)
    builder = start_sequence(FAMILIES["qwen2_5_vl"], VisionTokens(90, 91, 92, 93), example)
    add_response(builder, example, 50, [[1], [0]])
    slots = builder.build()
    assert slots.visual_indices.tolist() == [-1, 0, 1, -1, 1, -1, -1, 0, -1]
    assert slots.targets().tolist() == [-100, -100, -100, 50, -100, 8, 50, -100, -100]


def test_route_without_chosen_rows_is_refused():
    """Would catch training on copies where the ranking was forgotten."""
    example = Example([92, 90, 90, 93], [50], [(1, 1, 2)], Reattention(mode="route"))
    builder = start_sequence(FAMILIES["qwen2_5_vl"], VisionTokens(90, 91, 92, 93), example)
    with pytest.raises(ValueError, match="scores"):
        add_response(builder, example, 50)


def test_a_prompt_without_image_has_nothing_to_put_back():
    """Would catch a text question that training inserts delimiters into."""
    example = Example([1, 2], [5, 50, 6], [], Reattention(mode="copy"))
    builder = start_sequence(FAMILIES["qwen2_5_vl"], VisionTokens(90, 91, 92, 93), example)
    add_response(builder, example, 50)
    assert builder.build().token_ids.tolist() == [1, 2, 5, 50, 6]


def test_padding_has_no_targets_and_rows_count_on():
    """Would catch the second row's features looked up in the first row's image."""
    family, tokens = FAMILIES["qwen2_5_vl"], VisionTokens(90, 91, 92, 93)
    sequences = []
    for response in ([5], [50, 6, 7]):
        example = Example([90, 90, 1], response, [(1, 1, 2)], Reattention(mode="copy", delimiters=False))
        builder = start_sequence(family, tokens, example)
        add_response(builder, example, 50)
        sequences.append(builder.build())
    batch = pad_batch(sequences, [slots.targets() for slots in sequences], [0, 2], 92)
    assert batch.token_ids.tolist() == [[90, 90, 1, 5, 92, 92, 92, 92], [90, 90, 1, 90, 90, 50, 6, 7]]
    assert batch.targets.tolist() == [[-100, -100, 5, *[-100] * 5], [-100, -100, 50, -100, -100, 6, 7, -100]]
    assert batch.visual_indices.tolist() == [0, 1, 2, 3, 2, 3]
    assert batch.positions.shape == (3, 2, 8)
