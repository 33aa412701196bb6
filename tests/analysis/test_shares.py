"""Shares, blocks and the text-only twin of a sequence, worked out by hand and against decoding."""

from __future__ import annotations

import pytest
import torch

from look_again.analysis.shares import (
    bound_share,
    first_look,
    insertion_gains,
    prompt_text_slots,
    rebuild_slots,
    response_slots,
    sampled_slots,
    visual_blocks,
    visual_share,
    without_insertions,
)
from look_again.core.families import FAMILIES, VisionTokens, find_family
from look_again.core.reattention import Reattention
from look_again.core.slots import Provenance, SlotBuilder, Slots, build_spans
from tests.tiny_model import decode, responses, same_slots

FAMILY = FAMILIES["qwen2_5_vl"]
TOKENS = VisionTokens(image=1, video=2, start=3, end=4)
SPANS = build_spans([(1, 1, 2)])


def small(looks: int = 1, delimiters: bool = True) -> Slots:
    """Prompt 5 [1 1] 6 with delimiters around two visual rows, token 10, then looks, each followed by token 11."""
    builder = SlotBuilder(FAMILY, TOKENS)
    builder.add_prompt([5, 3, 1, 1, 4, 6], SPANS)
    builder.add_token(10, Provenance.SAMPLED)
    for _ in range(looks):
        builder.insert([(SPANS[0], [0, 1])], delimiters=delimiters)
        builder.add_token(11, Provenance.SAMPLED)
    return builder.build()


def test_visual_share_counts_every_slot():
    """Slots: 5 3 [1 1] 4 6 | 10 | 3 [1 1] 4 | 11. Would catch delimiters counted as visual or left out of L_total."""
    expected = [0, 0, 1 / 3, 2 / 4, 2 / 5, 2 / 6, 2 / 7, 2 / 8, 3 / 9, 4 / 10, 4 / 11, 4 / 12]
    assert visual_share(small()).tolist() == pytest.approx(expected)


def test_bound_by_formula():
    """L_x = 4, L_c = 2: 2 / 7 for the first token; with k = 2 the second has (2 + 2) / (4 + 2 + 2 + 2)."""
    assert bound_share(small()).tolist() == pytest.approx([2 / 7, 4 / 10])
    assert bound_share(small(looks=0)).tolist() == pytest.approx([2 / 7])


def test_without_delimiters_count_and_formula_agree():
    """Would catch an L_y off by one in either."""
    slots = small(looks=3, delimiters=False)
    assert visual_share(slots)[sampled_slots(slots)].tolist() == pytest.approx(bound_share(slots).tolist())


@pytest.mark.parametrize("delimiters", [True, False])
def test_gains_compare_right_before_with_right_after(delimiters):
    """Before: 2 of 7. After: 4 of 9, or of 10 with the opening delimiter. Would catch a share taken at a delimiter."""
    after = 4 / 10 if delimiters else 4 / 9
    assert insertion_gains(small(delimiters=delimiters)) == [pytest.approx((2 / 7, after))]
    assert insertion_gains(small(looks=0)) == []


def test_blocks_number_the_insertions():
    """Would catch the prompt's rows counted as an insertion, or two insertions taken for one."""
    visual, block = visual_blocks(small(looks=2))
    assert visual.tolist() == [2, 3, 8, 9, 13, 14]
    assert block.tolist() == [0, 0, 1, 1, 2, 2]


def test_places_in_a_sequence():
    """Would catch delimiters among the response, and the prompt's text before the image among what reads the image."""
    slots = small()
    assert response_slots(slots).tolist() == sampled_slots(slots).tolist() == [6, 11]
    assert prompt_text_slots(slots).tolist() == [4, 5]
    assert (first_look(slots), first_look(small(looks=0))) == (1, None)


def test_a_builder_of_slots_builds_them_again():
    assert same_slots(rebuild_slots(FAMILY, TOKENS, small()).build(), small())


def test_without_insertions_is_what_text_mode_decodes(model, tokenizer, trigger, prompts):
    """Would catch positions that still leave room for an insertion, and a tag chosen by the wrong slot."""
    columns = (4, 11)
    output = decode(
        model, tokenizer, prompts[1:2], Reattention(mode="copy"), {(0, c): trigger.open_id for c in columns}
    )
    plan = {(0, i): token for i, token in enumerate(responses(output, prompts[1:2])[0])}
    text = decode(model, tokenizer, prompts[1:2], Reattention(mode="text"), plan).slots[0]
    family = find_family(model.config)
    tokens = family.vision_tokens(model.config)
    spans = build_spans([family.merged_grid(grid, model.config) for grid in prompts[1].image_grid_thw])
    assert same_slots(without_insertions(family, tokens, output.slots[0], spans), text)


def test_closing_tags_that_decoding_wrote_stay(model, tokenizer, trigger, prompts):
    """Would catch vision-only mode's forced closing tags dropped together with the delimiters."""
    output = decode(model, tokenizer, prompts[:1], Reattention(mode="vision"), {(0, 4): trigger.open_id})
    slots, family = output.slots[0], find_family(model.config)
    tokens = family.vision_tokens(model.config)
    spans = build_spans([family.merged_grid(grid, model.config) for grid in prompts[0].image_grid_thw])
    bare = without_insertions(family, tokens, slots, spans)
    assert trigger.close_id in bare.token_ids
    assert torch.equal(bare.token_ids[bare.provenance != Provenance.PROMPT], slots.token_ids[response_slots(slots)])
