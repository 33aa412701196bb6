"""ROUTE in training picks the rows that decoding picked."""

from __future__ import annotations

import random

import pytest
import torch

from look_again.core.reattention import Reattention
from look_again.training.selection import select_visual_tokens
from tests.tiny_model import decode, feature_table, make_images, make_prompt, responses
from tests.training.examples import build_examples


def random_plan(rows: int, columns: int, reflection_id: int, seed: int) -> dict[tuple[int, int], int]:
    """None to three reflections per row at random columns; not the last one, which would insert nothing."""
    chance = random.Random(seed)
    return {
        (row, column): reflection_id
        for row in range(rows)
        for column in chance.sample(range(columns - 1), chance.randrange(4))
    }


@pytest.mark.parametrize(
    ("seed", "policy"),
    [
        (0, Reattention(mode="route")),
        (1, Reattention(mode="route", keep=20, delimiters=False)),
        (2, Reattention(mode="route", rule="relative")),
        (3, Reattention(mode="route", layers=(1,), layout="strip")),
        (4, Reattention(mode="route", keep=70, max_reinsertions=2)),
        (5, Reattention(mode="route", keep=30, count_copies=True)),
    ],
)
def test_select_rows_equals_decoding(model, tokenizer, trigger, prompts, seed, policy):
    """Would catch a token counted by only one of the two: the tag, the blocks' edges, a chunk's first query.

    Six sampled answers of 45 tokens for each of five policies.
    """
    shown = [*prompts, prompts[1], prompts[3]]
    plan = random_plan(6, 45, trigger.open_id, seed)
    torch.manual_seed(seed)
    output = decode(model, tokenizer, shown, policy, plan, max_new_tokens=45, do_sample=True)
    examples = build_examples(model, shown, responses(output, shown), policy)
    chosen = select_visual_tokens(model, examples, [feature_table(model, prompt) for prompt in shown], trigger.open_id)
    assert chosen == [[list(reflection.visual_indices) for reflection in own] for own in output.reflections]
    assert sum(map(len, chosen)) == len(plan) >= 5
    assert len({tuple(rows) for own in chosen for rows in own}) > 3


def test_a_reflection_with_nothing_to_rank_uses_up_no_insertion(model, tokenizer, trigger, prompts):
    """Would catch a tag as the first token that training ranks, or counts against `max_reinsertions`."""
    policy = Reattention(mode="route", max_reinsertions=1)
    plan = {(0, column): trigger.open_id for column in (0, 4, 9)}
    output = decode(model, tokenizer, prompts[:1], policy, plan)
    examples = build_examples(model, prompts[:1], responses(output, prompts[:1]), policy)
    chosen = select_visual_tokens(model, examples, [feature_table(model, prompts[0])], trigger.open_id)[0]
    assert [len(indices) for indices in chosen] == [0, 3, 0]
    assert chosen == [list(reflection.visual_indices) for reflection in output.reflections[0]]


def test_an_example_alone_equals_the_batch(model, tokenizer, trigger, prompts):
    """Would catch right padding of the first pass that reaches a shorter row's keys."""
    policy = Reattention(mode="route")
    chance = random.Random(8)
    given = [[chance.randrange(100, 300) for _ in range(n)] + [trigger.open_id, 120] for n in (3, 30, 17, 1)]
    examples = build_examples(model, prompts, given, policy)
    tables = [feature_table(model, prompt) for prompt in prompts]
    together = select_visual_tokens(model, examples, tables, trigger.open_id)
    alone = [
        select_visual_tokens(model, [example], [table], trigger.open_id)[0]
        for example, table in zip(examples, tables, strict=True)
    ]
    assert together == alone


def test_the_rows_depend_on_what_was_said(model, tokenizer, trigger):
    """Would catch a ranking of the prompt alone."""
    prompt = make_prompt(tokenizer, "Look.", [(112, 112)], seed=3)
    assert make_images([(112, 112)], 3)[1].tolist() == [[1, 8, 8]]
    chance = random.Random(1)
    given = [[chance.randrange(100, 300) for _ in range(6)] + [trigger.open_id] for _ in range(4)]
    examples = build_examples(model, [prompt] * 4, given, Reattention(mode="route", keep=25))
    chosen = select_visual_tokens(model, examples, [feature_table(model, prompt)] * 4, trigger.open_id)
    assert len({tuple(rows[0]) for rows in chosen}) > 1
    assert all(len(rows[0]) == 4 for rows in chosen)


def test_the_model_is_left_on_its_kernel(model, tokenizer, trigger, prompts):
    """Would catch a training step on the recorder's attention, also after a selection that failed."""
    examples = build_examples(model, prompts[:1], [[100, trigger.open_id, 101]], Reattention(mode="route"))
    table = feature_table(model, prompts[0])
    assert len(select_visual_tokens(model, examples, [table], trigger.open_id)[0][0]) == 3
    with pytest.raises(IndexError):
        select_visual_tokens(model, examples, [table[:2]], trigger.open_id)
    assert model.config.get_text_config()._attn_implementation == "sdpa"
