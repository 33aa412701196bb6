"""Equation (5) as recorded while decoding equals the mean of the attention that the library's eager kernel returns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

import look_again.core.generate
from look_again.core.attention import attention_mass
from look_again.core.generate import LookAgainDecoding, LookAgainOutput, Reinsertion
from look_again.core.reattention import Reattention, choose_visual_tokens, top_indices
from look_again.core.slots import Provenance, Slots
from tests.tiny_model import TOLERANCE, decode, eager, feature_table, full_pass, logit_gap, responses

CLOSE = 1e-5


def mean_attention(model: Any, slots: Slots, table: torch.Tensor, layers: Sequence[int]) -> torch.Tensor:
    """(queries, keys) weights of one eager pass, mean over layers and heads."""
    with eager(model):
        weights = full_pass(model, slots, table, output_attentions=True).attentions
    return torch.stack([weights[layer][0] for layer in layers]).mean((0, 1))


def expected_scores(
    model: Any, slots: Slots, table: torch.Tensor, policy: Reattention, reflection_id: int
) -> list[torch.Tensor]:
    """The ranking at each reflection: mean over the tokens sampled before the tag.

    Where copies count, the attention on each goes to the visual token of the prompt that it shows.
    """
    weights = mean_attention(model, slots, table, policy.layers or (0, 1))
    prompt = slots.provenance == Provenance.PROMPT
    visual = (prompt & (slots.visual_indices >= 0)).nonzero()[:, 0]
    before = torch.zeros(len(visual))
    if policy.rule == "relative":
        after_image = prompt & (torch.arange(len(slots)) > visual[-1])
        before = weights[after_image][:, visual].mean(0)
    scores = []
    for tag in (slots.token_ids == reflection_id).nonzero()[:, 0].tolist():
        sampled = (slots.provenance[:tag] == Provenance.SAMPLED).nonzero()[:, 0]
        score = weights[sampled][:, visual].mean(0) - before
        if policy.count_copies:
            copies = (slots.provenance[:tag] == Provenance.REINSERTED).nonzero()[:, 0].tolist()
            for copy in copies:
                score[slots.visual_indices[copy]] += weights[sampled, copy].mean()
        scores.append(score)
    return scores


@pytest.fixture
def rankings(monkeypatch) -> list[torch.Tensor]:
    """The scores that decoding ranks by, in the order of its decisions."""
    seen: list[torch.Tensor] = []

    def choose(policy: Reattention, visual_tokens: int, scores: torch.Tensor, reflection: int) -> list[int]:
        seen.append(scores.clone())
        return choose_visual_tokens(policy, visual_tokens, scores, reflection)

    monkeypatch.setattr(look_again.core.generate, "choose_visual_tokens", choose)
    return seen


def in_order(output: LookAgainOutput) -> list[tuple[int, int]]:
    """(row, reflection) in the order in which decoding met them."""
    met = [(r.at, row, i) for row, own in enumerate(output.reflections) for i, r in enumerate(own)]
    return [(row, i) for _, row, i in sorted(met)]


# Columns of the reflections: few tokens, then past one and two blocks of 16 waiting queries; and the blocks' edges.
COLUMNS = [
    {0: (3, 20, 41)},
    {0: (15, 16, 33), 1: (16, 17, 32), 2: (31, 48), 3: (1, 2, 3)},
]


@pytest.mark.parametrize("columns", COLUMNS, ids=["one row", "four rows"])
@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize(
    "policy",
    [
        Reattention(mode="route"),
        Reattention(mode="route", layers=(1,)),
        Reattention(mode="route", layers=(1, 0), keep=20, delimiters=False),
        Reattention(mode="route", rule="relative", layout="strip"),
        Reattention(mode="route", count_copies=True),
        Reattention(mode="route", count_copies=True, keep=70, layers=(1,), rule="relative"),
    ],
    ids=["all layers", "last layer", "both, m=20", "relative", "with copies", "with copies, relative"],
)
def test_scores_equal_eager_attention(model, tokenizer, trigger, prompts, rankings, policy, kernel, columns):
    """Would catch a lost or doubled query (blocks of 16), the tag or the prompt counted in, a key of another row."""
    plan = {(row, column): trigger.open_id for row, own in columns.items() for column in own}
    shown = prompts[: len(columns)] if len(columns) > 1 else prompts[1:2]
    model.set_attn_implementation(kernel)
    try:
        output = decode(model, tokenizer, shown, policy, plan, max_new_tokens=52)
    finally:
        model.set_attn_implementation("sdpa")
    assert len(rankings) == len(plan)
    expected = [
        expected_scores(model, slots, feature_table(model, prompt), policy, trigger.open_id)
        for slots, prompt in zip(output.slots, shown, strict=True)
    ]
    for scores, (row, i) in zip(rankings, in_order(output), strict=True):
        assert (scores - expected[row][i]).abs().max() <= CLOSE
        k = policy.number_reinserted(len(scores))
        assert list(output.reflections[row][i].visual_indices) == top_indices(expected[row][i], k)


def test_the_rankings_are_worth_ranking(model, tokenizer, trigger, prompts, rankings):
    """Would show that the tiny model attends so evenly that any ranking passes, or the same at every reflection."""
    plan = {(0, column): trigger.open_id for column in (5, 20)}
    for policy in (Reattention(mode="route"), Reattention(mode="route", layers=(0,))):
        decode(model, tokenizer, prompts[1:2], policy, plan)
    assert all(scores.max() > 2 * scores.min() for scores in rankings)
    assert all((a - b).abs().max() > 10 * CLOSE for i, a in enumerate(rankings) for b in rankings[:i])


@pytest.mark.parametrize("rule", ["paper", "relative"])
def test_the_first_token_of_an_answer_ranks_nothing(model, tokenizer, trigger, prompts, rankings, rule):
    """Would catch 0 / 0: all visual tokens tie, and the lower half (or the least attended) goes in unranked.

    A skipped reflection uses up no insertion.
    """
    plan = {(0, 0): trigger.open_id, (0, 5): trigger.open_id}
    output = decode(model, tokenizer, prompts[2:3], Reattention(mode="route", rule=rule, max_reinsertions=1), plan)
    first, second = output.reflections[0]
    assert (first.visual_indices, first.skipped, first.at) == ((), "nothing sampled", 0)
    assert (len(second.visual_indices), second.skipped, second.at) == (8, None, 5)
    assert len(rankings) == 1


@pytest.mark.parametrize("policy", [Reattention(), Reattention(mode="route", keep=100)], ids=["copy", "route all"])
def test_what_needs_no_ranking_is_put_back_at_the_first_token(model, tokenizer, trigger, prompts, policy):
    """Would catch a first token that is skipped although nothing has to be ranked."""
    output = decode(model, tokenizer, prompts[2:3], policy, {(0, 0): trigger.open_id})
    assert output.reflections[0][0].visual_indices == tuple(range(15))


@pytest.mark.parametrize("shown", ["own", "wrong-image"])
def test_copies_count_for_the_images_of_the_prompt_alone(model, tokenizer, trigger, prompts, rankings, shown):
    """Would catch another image's tokens that count for the prompt's, and an option that changes nothing."""
    prompt, plan = prompts[1], {(0, column): trigger.open_id for column in (4, 14)}
    control = "wrong-image" if shown == "wrong-image" else None
    options: dict[str, Any] = {}
    if control:
        options = {"control_pixel_values": prompt.pixel_values.flip(0), "control_grid_thw": prompt.image_grid_thw}
    for count_copies in (False, True):
        policy = Reattention(mode="route", keep=60, control=control, count_copies=count_copies)
        output = decode(model, tokenizer, [prompt], policy, plan, **options)
    plain, counted = rankings[:2], rankings[2:]
    assert torch.equal(plain[0], counted[0])
    assert torch.equal(plain[1], counted[1]) is (control is not None)
    raised = (counted[1] - plain[1] > CLOSE).nonzero()[:, 0].tolist()
    assert raised == ([] if control else list(output.reflections[0][0].visual_indices))


# --- the model is left alone


def kernels(model: Any) -> set[str]:
    text = {layer.self_attn.config._attn_implementation for layer in model.base_model.language_model.layers}
    return text | {model.config._attn_implementation, model.config.vision_config._attn_implementation}


@pytest.mark.parametrize(("kernel", "rounding"), [("sdpa", 0.0), ("eager", CLOSE)])
def test_recording_changes_no_logits(model, tokenizer, trigger, prompts, kernel, rounding):
    """Would catch a ranking that answers on another kernel, or that leaves the model on one."""
    model.set_attn_implementation(kernel)
    try:
        plain = decode(model, tokenizer, prompts, Reattention(mode="text"))
        recorded = decode(model, tokenizer, prompts, Reattention(mode="route", rule="relative"))
        assert kernels(model) == {kernel}
    finally:
        model.set_attn_implementation("sdpa")
    assert all((a - b).abs().max() <= rounding for a, b in zip(plain.logits, recorded.logits, strict=True))


def test_both_kernels_give_the_same_answer(model, tokenizer, trigger, prompts):
    """Would catch a mask that the eager kernel does not get under the recorder's name."""
    plan = {(0, 4): trigger.open_id, (3, 11): trigger.open_id, (0, 18): trigger.open_id}
    with eager(model):
        output = decode(model, tokenizer, prompts, Reattention(mode="route"), plan)
    for row, prompt in enumerate(prompts):
        full = full_pass(model, output.slots[row], feature_table(model, prompt)).logits[0]
        assert logit_gap(output, row, full) <= TOLERANCE
    assert responses(decode(model, tokenizer, prompts, Reattention(mode="route"), plan), prompts) == responses(
        output, prompts
    )


def test_the_kernel_is_restored_after_an_exception(model, tokenizer, trigger, prompts):
    """Would catch a cancelled answer that leaves the model with the recorder's attention for good."""

    def cancel(event: Any) -> None:
        if isinstance(event, Reinsertion):
            raise KeyboardInterrupt

    decoding = LookAgainDecoding(trigger, Reattention(mode="route"), on_event=cancel)
    with pytest.raises(KeyboardInterrupt):
        decode(model, tokenizer, prompts[:1], plan={(0, 5): trigger.open_id}, decoding=decoding)
    assert kernels(model) == {"sdpa"}


# --- the sum itself


def test_attention_mass_by_hand():
    """Would catch a mask off by one, a missing scale, and query heads matched with the wrong key head.

    One query at slot 1 of three: keys 0 and 1 are seen, key 2 is not. Head 0 scores 0 and ln 3 (after scaling by 1/2):
    weights 1/4, 3/4; head 1 scores 0 and 0: weights 1/2, 1/2. Mean over the heads: 3/8, 5/8.
    """
    query = torch.tensor([[[2.0]], [[0.0]]])
    key = torch.tensor([[[0.0], [torch.tensor(3.0).log()], [50.0]]])
    mass = attention_mass(query, key, torch.tensor([1]), torch.tensor([0, 1, 2]), 0.5)
    assert torch.allclose(mass, torch.tensor([0.375, 0.625, 0.0]))
    assert torch.allclose(attention_mass(query, key, torch.tensor([1]), torch.tensor([1]), 0.5), mass[1:2])


def test_attention_mass_groups_heads_as_the_model_does():
    """Would catch interleaved groups: with 4 query and 2 key heads, query heads 0 and 1 share key head 0."""
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(4, 3, 8, generator=generator), torch.randn(2, 6, 8, generator=generator)
    scores = query @ key.repeat_interleave(2, 0).transpose(1, 2) * 0.3
    slots = torch.tensor([1, 3, 5])
    scores = scores.masked_fill(torch.arange(6) > slots[:, None], float("-inf"))
    expected = scores.softmax(-1).sum(1).mean(0)
    assert torch.allclose(attention_mass(query, key, slots, torch.arange(6), 0.3), expected, atol=1e-6)


def test_scores_are_float32_also_under_autocast():
    """Would catch scores rounded to bfloat16 in training: ties, and other rows than decoding picks."""
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(4, 9, 32, generator=generator), torch.randn(2, 40, 32, generator=generator)
    slots, visual = torch.arange(31, 40), torch.arange(5, 30)
    expected = attention_mass(query, key, slots, visual, 32**-0.5)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(attention_mass(query, key, slots, visual, 32**-0.5), expected)
