"""Slots, by hand: what stands where, at which position, and whose logits are asked for it."""

from __future__ import annotations

import pytest
import torch

from look_again.core.families import FAMILIES, VisionTokens
from look_again.core.slots import Provenance, SlotBuilder, build_spans

QWEN = FAMILIES["qwen2_5_vl"]
IMG, VIDEO, START, END = 90, 91, 92, 93
REFLECT, CLOSE = 50, 51
NONE = -100
P, S, R, F = Provenance.PROMPT, Provenance.SAMPLED, Provenance.REINSERTED, Provenance.FORCED


def start(prompt: list[int], grids: list[tuple[int, int, int]]) -> SlotBuilder:
    builder = SlotBuilder(QWEN, VisionTokens(IMG, VIDEO, START, END))
    builder.add_prompt(prompt, build_spans(grids))
    return builder


def small_prompt() -> SlotBuilder:
    """Slots 0-5: 1 START v0 v1 END 2, an image of one row and two columns."""
    return start([1, START, IMG, IMG, END, 2], [(1, 1, 2)])


def sample(builder: SlotBuilder, *token_ids: int) -> None:
    for token_id in token_ids:
        builder.add_token(token_id, Provenance.SAMPLED)


def put_back(builder: SlotBuilder, *chosen: list[int], grids: list[tuple[int, int, int]], **options) -> int:
    return builder.insert(list(zip(build_spans(grids), chosen, strict=True)), **options)


# --- one answer with one reflection, every field


def test_every_field_around_one_insertion():
    """Would catch a delimiter that counts as sampled, a position that restarts, a row that points elsewhere.

    slot      0    1    2    3    4    5 |  6    7 |    8    9   10   11 |  12   13
    token     1 START  v0   v1  END    2 |  5    6 |START   v0   v1  END |   R    7
    position  0    1    2  2,3    4    5 |  6    7 |    8    9 9,10   11 |  12   13   (v1 differs in its column only)
    """
    builder = small_prompt()
    sample(builder, 5, 6)
    assert put_back(builder, [0, 1], grids=[(1, 1, 2)]) == 4
    sample(builder, REFLECT, 7)
    slots = builder.build()
    assert slots.token_ids.tolist() == [1, START, IMG, IMG, END, 2, 5, 6, START, IMG, IMG, END, REFLECT, 7]
    assert slots.visual_indices.tolist() == [-1, -1, 0, 1, -1, -1, -1, -1, -1, 0, 1, -1, -1, -1]
    assert slots.provenance.tolist() == [P, P, P, P, P, P, S, S, F, R, R, F, S, S]
    assert slots.sampled_from.tolist() == [-1] * 6 + [5, 6] + [-1] * 4 + [7, 12]
    places = [0, 1, 2, 2, 4, 5, 6, 7, 8, 9, 9, 11, 12, 13]
    assert slots.positions[:2].tolist() == [places, places]
    assert slots.positions[2].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]
    assert slots.targets().tolist() == [NONE] * 5 + [5, 6, REFLECT] + [NONE] * 4 + [7, NONE]


# --- positions


def test_routed_rows_keep_their_places_in_the_grid():
    """Would catch rows renumbered by rank: row 4 of a 2 x 3 grid stands in its second line, second column.

    The prompt ends at position 1 + 1 + 3 + 1 = 6; START takes 6, the grid starts at 7, END follows at 7 + 3.
    """
    builder = start([1, START, *[IMG] * 6, END], [(1, 2, 3)])
    put_back(builder, [2, 4], grids=[(1, 2, 3)])
    sample(builder, REFLECT)
    slots = builder.build(9)
    assert slots.visual_indices.tolist() == [-1, 2, 4, -1, -1]
    assert slots.positions.T.tolist() == [[6] * 3, [7, 7, 9], [7, 8, 8], [10] * 3, [11] * 3]


def test_a_strip_is_one_row_of_columns():
    """Would catch gaps where rows were left out: two chosen rows take two columns, and the text goes on after them."""
    builder = start([1, START, *[IMG] * 6, END], [(1, 2, 3)])
    put_back(builder, [2, 4], grids=[(1, 2, 3)], layout="strip")
    sample(builder, REFLECT)
    assert builder.build(9).positions.T.tolist() == [[6] * 3, [7, 7, 7], [7, 7, 8], [9] * 3, [10] * 3]


def test_without_delimiters_the_rows_follow_at_once():
    """Would catch a position left free for a delimiter that is not there."""
    builder = small_prompt()
    assert put_back(builder, [0, 1], grids=[(1, 1, 2)], delimiters=False) == 2
    sample(builder, REFLECT)
    slots = builder.build(6)
    assert slots.token_ids.tolist() == [IMG, IMG, REFLECT]
    assert slots.positions.T.tolist() == [[6, 6, 6], [6, 6, 7], [8, 8, 8]]


@pytest.mark.parametrize(
    ("chosen", "rows"), [(([0], [1, 2]), [0, 3, 4]), (([], [1, 2]), [3, 4]), (([1], []), [1]), (([], []), [])]
)
def test_an_image_without_chosen_rows_leaves_no_trace(chosen, rows):
    """Would catch empty delimiters, a position skipped for them, or rows of the second image counted from zero."""
    grids = [(1, 1, 2), (1, 2, 2)]
    builder = start([START, IMG, IMG, END, START, *[IMG] * 4, END, 7], grids)
    first = builder.next_position
    slots_appended = put_back(builder, *chosen, grids=grids)
    slots = builder.build(11)
    assert slots_appended == len(slots) == len(rows) + 2 * sum(bool(part) for part in chosen)
    assert slots.visual_indices[slots.visual_indices >= 0].tolist() == rows
    extents = [2 for part in chosen if part]  # both grids are two wide
    assert builder.next_position == first + sum(extents) + 2 * len(extents)


# --- targets


def test_two_reflections_of_which_one_is_the_first_token():
    """Would catch a tag asked of the last re-inserted row, or of the tag before it.

    0 1 | 1 START | 2-3 v0 v1 | 4 END | 5 2 || 6 START 7 v0 8 v1 9 END | 10 R | 11 4 || 12 v1 (bare) | 13 R | 14 8
    """
    builder = small_prompt()
    put_back(builder, [0, 1], grids=[(1, 1, 2)])
    sample(builder, REFLECT, 4)
    put_back(builder, [1], grids=[(1, 1, 2)], delimiters=False)
    sample(builder, REFLECT, 8)
    expected = [NONE] * 15
    expected[5], expected[10], expected[11], expected[13] = REFLECT, 4, REFLECT, 8
    assert builder.build().targets().tolist() == expected


def test_a_forced_closing_tag_is_not_a_target_but_what_follows_it_is():
    """Would catch vision-only mode training the model on a tag that it never chose.

    0-5 prompt | 6 3 || 7 START 8 v0 9 v1 10 END | 11 R | 12 </R> forced | 13 9
    """
    builder = small_prompt()
    sample(builder, 3)
    put_back(builder, [0, 1], grids=[(1, 1, 2)])
    sample(builder, REFLECT)
    builder.add_token(CLOSE, Provenance.FORCED)
    sample(builder, 9)
    expected = [NONE] * 14
    expected[5], expected[6], expected[12] = 3, REFLECT, 9
    assert builder.build().targets().tolist() == expected


def test_silent_tokens_are_read_but_not_asked_for():
    """Would catch flags counted over slots instead of sampled tokens: the second and fourth token are silent.

    0-5 prompt | 6 5 | 7 6 (silent) || 8-11 image | 12 R | 13 7 (silent) | 14 8
    """
    builder = small_prompt()
    sample(builder, 5, 6)
    put_back(builder, [0, 1], grids=[(1, 1, 2)])
    sample(builder, REFLECT, 7, 8)
    expected = [NONE] * 15
    expected[5], expected[7], expected[13] = 5, REFLECT, 8
    assert builder.build().targets([False, True, False, True, False]).tolist() == expected


def test_pieces_taken_back_leave_one_target_before_the_insertion():
    """Would catch the second piece asked of logits that saw the insertion when it was sampled without it.

    0-5 prompt | 6 5 | (7 60, taken back) || 7-10 image | 11 60 | 12 61 | 13 8
    """
    builder = small_prompt()
    sample(builder, 5, 60)
    assert builder.truncate(7) == [60]
    put_back(builder, [0, 1], grids=[(1, 1, 2)])
    builder.add_token(60, Provenance.SAMPLED)
    builder.add_token(61, Provenance.SAMPLED, chosen=False)
    sample(builder, 8)
    slots = builder.build()
    expected = [NONE] * 14
    expected[5], expected[6], expected[12] = 5, 60, 8
    assert slots.targets().tolist() == expected
    assert slots.positions[0, 7:].tolist() == [7, 8, 8, 10, 11, 12, 13]


def test_visual_rows_cannot_be_taken_back():
    """Would catch positions counted back by the number of rows instead of the grid's extent."""
    builder = small_prompt()
    with pytest.raises(ValueError, match="visual tokens"):
        builder.truncate(3)


# --- prompts that do not fit their images


@pytest.mark.parametrize(
    ("prompt", "grids"),
    [
        ([START, IMG, END], []),
        ([START, IMG, END], [(1, 1, 2)]),
        ([START, IMG, IMG, IMG, END], [(1, 1, 2)]),
        ([START, IMG], [(1, 1, 2)]),
        ([START, IMG, IMG, END], [(1, 1, 2), (1, 1, 2)]),
        ([1, 2], [(1, 1, 2)]),
    ],
    ids=["no image", "too few", "too many", "cut off", "an image too many", "no image tokens"],
)
def test_prompts_must_match_their_images(prompt, grids):
    """Would catch rows shifted into the wrong image."""
    with pytest.raises(ValueError, match="image"):
        start(prompt, grids)


def test_images_without_text_between_them_stay_apart():
    """Would catch two images merged into one run: the second grid starts after the first one's extent of two."""
    slots = start([IMG, IMG, IMG, IMG, 5], [(1, 1, 2), (1, 2, 1)]).build()
    assert slots.visual_indices.tolist() == [0, 1, 2, 3, -1]
    assert slots.positions.T.tolist() == [[0, 0, 0], [0, 0, 1], [2, 2, 2], [2, 3, 2], [4, 4, 4]]


def test_counts_by_provenance():
    """Would catch response lengths that include what was put back."""
    builder = small_prompt()
    sample(builder, 5)
    put_back(builder, [0], grids=[(1, 1, 2)])
    slots = builder.build()
    assert [slots.count(provenance) for provenance in (P, S, R, F)] == [6, 1, 1, 2]
    assert torch.equal(slots.provenance == S, torch.arange(len(slots)) == 6)
