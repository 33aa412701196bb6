"""Which rows are put back: how many, which, of which image, and the controls."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from look_again.core.families import FAMILIES, VisionTokens
from look_again.core.generate import LookAgainDecoding, Reinsertion, Token
from look_again.core.reattention import (
    Reattention,
    choose_visual_tokens,
    insertion_size,
    random_place,
    reinsert,
    split_by_image,
    top_indices,
)
from look_again.core.slots import Provenance, SlotBuilder, build_spans
from tests.tiny_model import (
    TOLERANCE,
    Prompt,
    decode,
    feature_table,
    full_pass,
    logit_gap,
    make_images,
    make_prompt,
    responses,
    same_slots,
)

TWO_IMAGES = build_spans([(1, 1, 3), (1, 2, 2)])  # rows 0-2 and 3-6


# --- how many


@pytest.mark.parametrize(
    ("keep", "visual_tokens", "rows"),
    [(50, 7, 4), (50, 8, 4), (30, 10, 3), (29, 100, 29), (7, 100, 7), (1, 6, 1), (99, 6, 6), (33, 3, 1), (34, 3, 2)],
)
def test_k_is_the_ceiling_of_m_percent(keep, visual_tokens, rows):
    """Would catch floating point: 0.07 * 100 is a little more than 7 and would round up to 8."""
    assert Reattention(mode="route", keep=keep).number_reinserted(visual_tokens) == rows


def test_k_for_every_percentage():
    """Would catch a k that is one off anywhere: the smallest number of rows that makes up m%."""
    for keep in range(101):
        for visual_tokens in (1, 6, 7, 144):
            k = Reattention(mode="route", keep=keep).number_reinserted(visual_tokens)
            assert 100 * k >= keep * visual_tokens > 100 * (k - 1)
    assert math.ceil(0.07 * 100) == 8  # why it is counted in integers


@pytest.mark.parametrize(("mode", "rows"), [("copy", 9), ("vision", 9), ("text", 0)])
def test_other_modes_take_all_rows_or_none(mode, rows):
    """Would catch copy mode cut down to m%."""
    policy = Reattention(mode=mode, keep=50)
    assert policy.number_reinserted(9) == rows == len(choose_visual_tokens(policy, 9))


# --- which


def test_ties_go_to_the_lower_index():
    """Would catch an unstable sort, which differs between machines."""
    assert top_indices(torch.tensor([0.1, 0.3, 0.3, 0.2, 0.3]), 2) == [1, 2]
    assert top_indices(torch.zeros(64), 3) == [0, 1, 2]


def test_rows_come_in_grid_order_not_in_order_of_rank():
    """Would catch a scrambled image: the best row is 4, and still 1 stands before it."""
    assert choose_visual_tokens(Reattention(mode="route"), 5, torch.tensor([0.0, 0.2, 0.1, 0.3, 0.4])) == [1, 3, 4]


def test_two_images_are_ranked_together():
    """Would catch m% of each image: the two best rows are both in the second image, so the first leaves no trace."""
    scores = torch.tensor([0.1, 0.0, 0.1, 0.2, 0.5, 0.1, 0.4])
    rows = choose_visual_tokens(Reattention(mode="route", keep=28), 7, scores)
    assert rows == [4, 6]
    parts = split_by_image(rows, TWO_IMAGES)
    assert parts == [(TWO_IMAGES[0], []), (TWO_IMAGES[1], [1, 3])]
    assert insertion_size(Reattention(mode="route"), parts) == 4


def test_rows_are_split_relative_to_the_first_span():
    """Would catch control images, whose rows start further on in the feature table, that are never shown."""
    later = [replace(span, first=span.first + 7) for span in TWO_IMAGES]
    assert split_by_image([1, 3, 6], later) == [(later[0], [1]), (later[1], [0, 3])]


@pytest.mark.parametrize("delimiters", [True, False])
@pytest.mark.parametrize("rows", [[], [1], [4, 5], [0, 2, 3, 6]], ids=str)
def test_the_announced_size_is_the_appended_size(rows, delimiters):
    """Would catch a context check that counts other slots than are appended."""
    policy = Reattention(mode="route", delimiters=delimiters)
    builder = SlotBuilder(FAMILIES["qwen2_5_vl"], VisionTokens(90, 91, 92, 93))
    parts = split_by_image(rows, TWO_IMAGES)
    assert reinsert(builder, policy, parts) == insertion_size(policy, parts) == len(builder)


def test_route_needs_a_ranking():
    """Would catch a silent copy where nothing was measured."""
    with pytest.raises(ValueError, match="scores"):
        choose_visual_tokens(Reattention(mode="route"), 9)
    assert Reattention(mode="route").needs_scores
    assert not any(Reattention(mode="route", keep=keep).needs_scores for keep in (0, 100))
    assert not Reattention(mode="route", control="random-rows").needs_scores


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "look"},
        {"keep": 101},
        {"keep": -1},
        {"keep": 0.5},
        {"keep": True},
        {"layout": "row"},
        {"rule": "last"},
        {"control": "blank"},
        {"within": 0},
        {"max_reinsertions": -1},
    ],
    ids=str,
)
def test_values_out_of_range_are_refused(options):
    """Would catch a share of 0.5 taken for half a percent, and typing errors that fall back on a default."""
    with pytest.raises(ValueError, match=str(next(iter(options.values())))):
        Reattention(**options)


@pytest.mark.parametrize("layers", [(), (2,), (-1,), (0, 0)], ids=str)
def test_layers_that_the_model_lacks_are_refused(layers):
    """Would catch a ranking by nothing, and one layer counted twice, on a model of two layers."""
    with pytest.raises(ValueError, match="layers"):
        Reattention(mode="route", layers=layers).ranking_layers(2)
    assert list(Reattention(mode="route").ranking_layers(2)) == [0, 1]


# --- the ends of the scale, in decoding


@pytest.mark.parametrize(("keep", "mode"), [(100, "copy"), (0, "text")])
def test_route_at_its_ends_is_copy_and_text(model, tokenizer, trigger, prompts, keep, mode):
    """Would catch delimiters around nothing at m = 0, and a dropped or reordered row at m = 100."""
    plan = {(0, 3): trigger.open_id, (0, 8): trigger.open_id, (1, 5): trigger.open_id}
    route = decode(model, tokenizer, prompts[:2], Reattention(mode="route", keep=keep), plan)
    other = decode(model, tokenizer, prompts[:2], Reattention(mode=mode), plan)
    assert torch.equal(route.sequences, other.sequences)
    assert all(map(same_slots, route.slots, other.slots))
    assert all(torch.equal(a, b) for a, b in zip(route.logits, other.logits, strict=True))
    if keep == 0:
        assert all((slots.provenance <= Provenance.SAMPLED).all() for slots in route.slots)


# --- controls


def wrong_image_output(model, tokenizer, trigger, prompt: Prompt, policy: Reattention, **images):
    plan = {(0, 3): trigger.open_id, (0, 8): trigger.open_id}
    return decode(model, tokenizer, [prompt], plan=plan, decoding=LookAgainDecoding(trigger, policy), **images)


@pytest.mark.parametrize("mode", ["copy", "route"])
def test_wrong_image_shows_the_other_images_rows_at_the_same_places(model, tokenizer, trigger, prompts, mode):
    """Would catch a control that shows the right image, or one that differs in more than the image."""
    prompt = prompts[1]
    grids = prompt.image_grid_thw.tolist()
    pixels, grid_thw = make_images([(14 * h, 14 * w) for _, h, w in grids], seed=99)
    right = wrong_image_output(model, tokenizer, trigger, prompt, Reattention(mode=mode))
    control = Reattention(mode=mode, control="wrong-image")
    images = {"control_pixel_values": pixels, "control_grid_thw": grid_thw}
    wrong = wrong_image_output(model, tokenizer, trigger, prompt, control, **images)
    visual_tokens = len(feature_table(model, prompt))
    assert wrong.reflections[0][0].visual_indices == right.reflections[0][0].visual_indices
    until = int((wrong.slots[0].token_ids == trigger.open_id).nonzero()[0]) + 1
    one, other = right.slots[0], wrong.slots[0]
    for name in ("token_ids", "provenance", "sampled_from"):
        assert torch.equal(getattr(one, name)[:until], getattr(other, name)[:until])
    assert torch.equal(one.positions[:, :until], other.positions[:, :until])
    shown = one.provenance[:until] == Provenance.REINSERTED
    assert torch.equal(other.visual_indices[:until][shown], one.visual_indices[:until][shown] + visual_tokens)
    assert torch.equal(other.visual_indices[:until][~shown], one.visual_indices[:until][~shown])
    tables = torch.cat([feature_table(model, prompt), feature_table(model, Prompt([], pixels, grid_thw))])
    assert logit_gap(wrong, 0, full_pass(model, other, tables).logits[0]) <= TOLERANCE


def test_control_images_must_fit_and_be_asked_for(model, tokenizer, trigger, prompts):
    """Would catch a control of another size, a control without its image, and control images in an ordinary run."""
    prompt = prompts[0]
    good = dict(zip(("control_pixel_values", "control_grid_thw"), make_images([(56, 84)], 9), strict=True))
    turned = dict(zip(("control_pixel_values", "control_grid_thw"), make_images([(84, 56)], 9), strict=True))
    wrong_image = Reattention(control="wrong-image")
    for policy, images in ((wrong_image, {}), (wrong_image, turned), (Reattention(), good)):
        with pytest.raises(ValueError, match="control image"):
            wrong_image_output(model, tokenizer, trigger, prompt, policy, **images)


@pytest.mark.parametrize("mode", ["copy", "route"])
def test_random_rows_depend_on_seed_prompt_and_reflection_alone(mode):
    """Would catch a control that changes from run to run, repeats itself, or shows all prompts the same places."""
    policy = Reattention(mode=mode, control="random-rows")

    def draw(scores=None):
        return [
            choose_visual_tokens(replace(policy, seed=seed), 40, scores, reflection, prompt_ids=prompt)
            for seed in (0, 1)
            for prompt in ([5, 6], [5, 7])
            for reflection in (0, 1, 2)
        ]

    drawn = draw()
    assert [len(rows) for rows in drawn] == [20] * 12
    assert all(rows == sorted(set(rows)) for rows in drawn)
    assert len({tuple(rows) for rows in drawn}) == 12
    torch.manual_seed(123)
    assert draw(torch.rand(40)) == drawn


def test_random_rows_are_drawn_for_each_prompt(model, tokenizer, trigger, prompts):
    """Would catch one draw for every prompt of a batch: the decoding loop has to pass each its own."""
    policy, plan = Reattention(mode="route", keep=40, control="random-rows"), {(0, 4): trigger.open_id}
    chosen = []
    for prompt in prompts:
        output = decode(model, tokenizer, [prompt], policy, plan, max_new_tokens=9)
        ids = output.slots[0].token_ids[output.slots[0].provenance == Provenance.PROMPT].tolist()
        (reflection,) = output.reflections[0]
        visual = int((output.slots[0].visual_indices[: len(ids)] >= 0).sum())
        assert list(reflection.visual_indices) == choose_visual_tokens(policy, visual, None, 0, prompt_ids=ids)
        chosen.append(reflection.visual_indices)
    assert len(set(chosen)) > 1


def test_random_rows_leave_the_samplers_random_stream_alone(model, tokenizer, trigger, prompts):
    """Would catch a control whose answers differ from route's because it drew from the global generator."""
    plan, ids, following = {(0, 7): trigger.open_id}, [], []
    for policy in (Reattention(mode="text"), Reattention(mode="route", control="random-rows")):
        torch.manual_seed(5)
        output = decode(model, tokenizer, prompts[:1], policy, plan, do_sample=True, max_new_tokens=9)
        ids.append(output.sequences[:, :-1])  # the last one is sampled after the rows
        following.append(torch.rand(3))
    assert output.slots[0].count(Provenance.REINSERTED) == 3
    assert torch.equal(*ids)
    assert torch.equal(*following)


@pytest.mark.parametrize("mode", ["copy", "route"])
def test_a_blank_image_is_shown_at_the_same_places(model, tokenizer, trigger, prompts, mode):
    """Would catch a control that shows the image after all, a blank of another size, or another choice of rows."""
    prompt = prompts[1]
    right = wrong_image_output(model, tokenizer, trigger, prompt, Reattention(mode=mode))
    blank = wrong_image_output(model, tokenizer, trigger, prompt, Reattention(mode=mode, control="blank-image"))
    assert blank.reflections[0][0].visual_indices == right.reflections[0][0].visual_indices
    tables = [
        feature_table(model, Prompt([], pixels, prompt.image_grid_thw))
        for pixels in (prompt.pixel_values, torch.zeros_like(prompt.pixel_values))
    ]
    visual_tokens, slots = len(tables[0]), blank.slots[0]
    shown = slots.visual_indices[slots.provenance == Provenance.REINSERTED]
    assert (shown >= visual_tokens).all()
    assert len(shown) == sum(len(r.visual_indices) for r in blank.reflections[0]) > 0
    assert logit_gap(blank, 0, full_pass(model, slots, torch.cat(tables)).logits[0]) <= TOLERANCE
    gaps = [float((a - b).abs().max()) for a, b in zip(blank.logits[:5], right.logits[:5], strict=True)]
    assert max(gaps[:4]) <= TOLERANCE < gaps[4]


def test_a_blank_needs_an_image_and_takes_no_other(model, tokenizer, trigger, prompts):
    """Would catch a crash on a question without image, and control images that are silently ignored."""
    policy = Reattention(control="blank-image")
    bare = make_prompt(tokenizer, "How many are two and two?", [])
    output = wrong_image_output(model, tokenizer, trigger, bare, policy)
    assert [r.skipped for r in output.reflections[0]] == ["no image", "no image"]
    images = dict(zip(("control_pixel_values", "control_grid_thw"), make_images([(56, 84)], 9), strict=True))
    with pytest.raises(ValueError, match="control images"):
        wrong_image_output(model, tokenizer, trigger, prompts[0], policy, **images)


# --- a random place


def stray_places(policy: Reattention, prompts: list[Prompt]) -> list[int]:
    return [random_place(policy, prompt.token_ids) for prompt in prompts]


def test_the_random_place_depends_on_seed_and_prompt_alone(prompts):
    """Would catch a place that is the same everywhere, leaves its bounds, or moves with a global generator."""
    policy = Reattention(control="random-place", within=12)
    drawn = [random_place(replace(policy, seed=seed), [5, seed % 7]) for seed in range(600)]
    assert set(drawn) == set(range(1, 13))
    assert all(25 <= drawn.count(place) <= 80 for place in set(drawn))  # 50 expected of each
    assert len({tuple(stray_places(replace(policy, seed=s), prompts)) for s in range(5)}) == 5


@pytest.mark.parametrize("mode", ["copy", "route", "vision"])
@pytest.mark.parametrize("rows", [[0], [0, 1, 2, 3]], ids=str)
def test_an_insertion_at_a_random_place_equals_one_full_pass(model, tokenizer, trigger, prompts, mode, rows):
    """Would catch a cache, position or source of logits that only fits insertions before a tag."""
    policy = Reattention(mode=mode, control="random-place", within=12, seed=1)
    shown = [prompts[row] for row in rows]
    plan = {(place, 15): trigger.open_id for place in range(len(rows))}
    output = decode(model, tokenizer, shown, policy, plan)
    for row, (prompt, slots, place) in enumerate(zip(shown, output.slots, stray_places(policy, shown), strict=True)):
        look, tag = output.reflections[row]
        assert (look.stray, look.skipped, look.at) == (True, None, place)
        assert (tag.stray, tag.skipped, tag.visual_indices) == (False, "random-place", ())
        sampled = (slots.provenance == Provenance.SAMPLED).nonzero()[:, 0].tolist()
        visual = (slots.provenance == Provenance.REINSERTED).nonzero()[:, 0].tolist()
        assert len(visual) == policy.number_reinserted(len(feature_table(model, prompt)))
        assert sampled[place - 1] < visual[0] < visual[-1] < sampled[place]
        assert slots.sampled_from[sampled[place]] == sampled[place - 1]
        full = full_pass(model, slots, feature_table(model, prompt)).logits[0]
        assert logit_gap(output, row, full) <= TOLERANCE


@pytest.mark.parametrize("mode", ["copy", "route"])
def test_random_places_in_a_batch_equal_one_by_one(model, tokenizer, trigger, prompts, mode):
    """Would catch a place drawn by the row's number in the batch, or from a stream that the rows share."""
    policy = Reattention(mode=mode, control="random-place", within=12)
    together = decode(model, tokenizer, prompts, policy)
    assert len({row[0].at for row in together.reflections}) > 1
    for row, prompt in enumerate(prompts):
        alone = decode(model, tokenizer, [prompt], policy)
        assert responses(alone, [prompt])[0] == responses(together, prompts)[row]
        assert alone.reflections[0] == together.reflections[row]
        assert same_slots(alone.slots[0], together.slots[row])


def test_a_random_place_is_never_the_reflection(model, tokenizer, trigger, prompts):
    """Would catch the control showing the image exactly where COPY does: it waits for the next token."""
    policy = Reattention(control="random-place", within=12)
    place = stray_places(policy, prompts[:1])[0]
    events: list = []
    decoding = LookAgainDecoding(trigger, policy, on_event=events.append)
    output = decode(model, tokenizer, prompts[:1], plan={(0, place): trigger.open_id}, decoding=decoding)
    assert [(r.stray, r.skipped, r.at) for r in output.reflections[0]] == [
        (False, "random-place", place),
        (True, None, place + 1),
    ]
    at = next(i for i, event in enumerate(events) if isinstance(event, Reinsertion))
    assert events[at - 1] == Token(0, trigger.open_id)


def test_a_random_place_beyond_the_end_or_the_last_token_shows_nothing(model, tokenizer, trigger, prompts):
    """Would catch rows put back that no token follows, and a text mode that shows rows under the control."""
    policy = Reattention(control="random-place", within=12)
    place = stray_places(policy, prompts[:1])[0]
    for tokens, reflections in ((place, []), (place + 1, ["max_new_tokens"])):
        output = decode(model, tokenizer, prompts[:1], policy, max_new_tokens=tokens)
        assert [r.skipped for r in output.reflections[0]] == reflections
        assert output.slots[0].count(Provenance.REINSERTED) == 0
    text = decode(model, tokenizer, prompts[:1], replace(policy, mode="text"), {(0, 3): trigger.open_id})
    assert [(r.visual_indices, r.skipped, r.stray) for r in text.reflections[0]] == [((), None, False)]
