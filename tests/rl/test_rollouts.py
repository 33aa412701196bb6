"""On-policy: what was sampled has in the loss pass the log-probabilities that it was sampled with."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from look_again.core.families import find_family
from look_again.core.open_runner import OpenRunner
from look_again.core.reattention import Reattention
from look_again.data.sample import Sample
from look_again.rl import refill
from look_again.rl.refill import RefilledSampling, draw_tokens, split_generator
from look_again.rl.rollouts import sample_groups
from look_again.tabletop.loader import build_sample
from look_again.tabletop.samples import make_sample
from look_again.text.grammar import open_tag
from look_again.text.tags import tag_ids
from look_again.training.batches import collate
from look_again.training.example import Example
from look_again.training.module import Reattending
from tests.tiny_model import decode, responses

POLICIES = [Reattention(mode="text"), Reattention(mode="copy"), Reattention(mode="route", keep=40)]


@pytest.fixture(scope="module")
def rows():
    text = Sample(id="text", question="How many?", reference="3", source="s")
    return [build_sample(make_sample("train", 1, 0), "train"), text, build_sample(make_sample("train", 1, 5), "train")]


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.mode)
def test_groups_are_in_order_and_reproducible(model, codec, rows, policy):
    """Would catch answers credited to another question, and a restart that samples other answers."""
    first, again = (
        sample_groups(
            model, codec, rows, policy, group=3, max_new_tokens=12, generator=torch.Generator().manual_seed(4)
        )
        for _ in range(2)
    )
    assert [rollout.sample.id for rollout in first] == [row.id for row in rows for _ in range(3)]
    assert [r.completion_ids for r in first] == [r.completion_ids for r in again]
    assert len({tuple(r.completion_ids) for r in first[:3]}) > 1
    assert all(len(r.completion_ids) == 12 or r.finished for r in first)


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.mode)
@pytest.mark.parametrize("places", [1, 2, 5])
def test_answers_are_the_same_however_many_are_decoded_at_once(model, codec, rows, policy, places, monkeypatch):
    """Would catch an answer that gets another's cache, draws or visual tokens as it takes a place, and more answers at
    once than there are places. Some end early, and some look again.
    """
    widths, open_id = [], codec.tag_ids[open_tag("REFLECTION")]
    monkeypatch.setattr("look_again.rl.refill.list_stop_ids", lambda ids: frozenset(range(40, 70)))
    append = RefilledSampling._append

    def watched(self, answers, logits):
        widths.append(len(self.running))
        logits[:, open_id] += 4  # or hardly any would look again
        append(self, answers, logits)

    monkeypatch.setattr(RefilledSampling, "_append", watched)
    options = {"group": 3, "max_new_tokens": 24}
    together = sample_groups(
        model, codec, rows, policy, **options, generator=torch.Generator().manual_seed(5), places=9
    )
    assert max(widths) > 5
    widths.clear()
    refilled = sample_groups(
        model, codec, rows, policy, **options, generator=torch.Generator().manual_seed(5), places=places
    )
    assert max(widths) == places
    assert [r.example for r in refilled] == [r.example for r in together]
    assert [r.finished for r in refilled] == [r.finished for r in together]
    assert len({len(r.completion_ids) for r in together}) > 2
    assert any(open_id in r.completion_ids[:-1] for r in together)


RELATIVE = Reattention(mode="route", keep=40, rule="relative")


@pytest.mark.parametrize(
    ("policy", "reads"),
    [*((policy, 3) for policy in POLICIES), (RELATIVE, 9)],
    ids=[*(policy.mode for policy in POLICIES), "relative"],
)
def test_a_prompt_is_read_once_for_its_answers(model, codec, rows, policy, reads, monkeypatch):
    """The answers are those of prompts that are read each time; attention within the prompt needs that."""
    options = {"group": 3, "max_new_tokens": 20, "places": 4}
    fed, chunk = [], OpenRunner.chunk

    def watched(self, sequence):
        fed.append(self.cache.lengths[sequence] == 0)
        return chunk(self, sequence)

    monkeypatch.setattr(OpenRunner, "chunk", watched)
    once = sample_groups(model, codec, rows, policy, **options, generator=torch.Generator().manual_seed(6))
    assert sum(fed) == reads
    monkeypatch.setattr(refill._ReadPrompt, "is_of", lambda self, start: False)
    fed.clear()
    each = sample_groups(model, codec, rows, policy, **options, generator=torch.Generator().manual_seed(6))
    assert sum(fed) == 9
    assert [r.example for r in once] == [r.example for r in each]


def test_a_prompt_about_another_picture_is_read(model, codec, rows):
    """The same words and places, other features: what is taken over would show the first picture."""
    other = replace(rows[0], images=rows[2].images)
    options = {"group": 2, "max_new_tokens": 12, "places": 4}
    both = sample_groups(
        model, codec, [rows[0], other], POLICIES[1], **options, generator=torch.Generator().manual_seed(7)
    )
    starts = [rollout.example.prompt_ids for rollout in both]
    assert starts[0] == starts[2]
    read = refill._ReadPrompt(((), (), ()), torch.zeros(2, 3), [], torch.zeros(1, 1))
    builder = SimpleNamespace(token_ids=[], visual_indices=[], positions=[])
    assert read.is_of(SimpleNamespace(builder=builder, features=torch.zeros(2, 3)))
    assert not read.is_of(SimpleNamespace(builder=builder, features=torch.ones(2, 3)))
    assert not read.is_of(SimpleNamespace(builder=builder, features=None))


def test_draws_follow_the_distribution_and_never_what_cannot_be():
    """Would catch an inverted comparison: tokens of probability 0 at the ends, and neighbours of the right ones."""
    logits = torch.tensor([[float("-inf"), 0.0, float("-inf"), math.log(3.0), float("-inf")]]).repeat(4000, 1)
    generators = split_generator(torch.Generator().manual_seed(0), 4000)
    tokens = torch.tensor(draw_tokens(logits, generators))
    assert set(tokens.tolist()) == {1, 3}
    assert float((tokens == 3).double().mean()) == pytest.approx(0.75, abs=0.03)


def test_no_place_is_refused(model, trigger):
    with pytest.raises(ValueError, match="at least 1, not 0"):
        RefilledSampling(model, trigger, Reattention(), places=0, max_new_tokens=4, temperature=1.0)


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.mode)
def test_log_probs_at_rollout_equal_those_of_the_loss_pass(model, tokenizer, trigger, prompts, policy):
    """Sampled with reflections forced in; the normaliser leaves vision tokens out in both passes. <= 1e-4."""
    plan = dict.fromkeys([(0, 4), (0, 11), (1, 7), (3, 0), (3, 9)], trigger.open_id)
    torch.manual_seed(3)
    output = decode(model, tokenizer, prompts, policy, plan, max_new_tokens=18, do_sample=True)
    module, family = Reattending(model, tag_ids(tokenizer)), find_family(model.config)
    banned = torch.tensor(family.vision_tokens(model.config).never_sampled)
    examples = [
        Example(
            prompt.token_ids,
            response,
            [family.merged_grid(grid, model.config) for grid in prompt.image_grid_thw],
            policy,
            chosen=[list(reflection.visual_indices) for reflection in own],
        )
        for prompt, response, own in zip(prompts, responses(output, prompts), output.reflections, strict=True)
    ]
    assert not any(example.needs_scores for example in examples)
    images = {
        name: torch.cat([getattr(prompt, name) for prompt in prompts]) for name in ("pixel_values", "image_grid_thw")
    }
    with torch.no_grad():
        found = module(examples, **images, log_probs=True)
    for row, example in enumerate(examples):
        sampled = [output.logits[step][row].index_fill(-1, banned, float("-inf")).log_softmax(-1) for step in range(18)]
        expected = torch.stack([p[token] for p, token in zip(sampled, example.response_ids, strict=True)])
        assert (found[row] - expected).abs().max() <= 1e-4


def test_rollouts_collate_with_rows_that_have_no_image(model, codec, rows):
    rollouts = sample_groups(model, codec, rows, Reattention(), group=2, max_new_tokens=5)
    batch = collate([rollout.item for rollout in rollouts])
    with torch.no_grad():
        found = Reattending(model, codec.tag_ids)(**{k: v for k, v in batch.items() if k != "labels"}, log_probs=True)
    assert [len(part) for part in found] == [len(rollout.completion_ids) for rollout in rollouts]
