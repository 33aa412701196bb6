"""Two greedy answers are equal, part at a tie, or are different; nothing else."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from look_again.core.families import find_family
from look_again.core.generate import LookAgainDecoding, Reinsertion, Token
from look_again.core.reattention import Reattention
from look_again.loading import Checkpoint
from look_again.serving.backend import BackendEvent, Ended, Started
from look_again.serving.prompt import EncodedPrompt
from tests.serving.ties import Parting, parting, same_but_for_ties
from tests.tiny_model import decode, feature_table, full_pass, response_slots

COPY = Reattention()
AT = 6  # the reflection's place


@pytest.fixture
def checkpoint(model, tokenizer) -> Checkpoint:
    return Checkpoint("random", model, tokenizer, None, find_family(model.config), True)


@pytest.fixture
def told(model, tokenizer, trigger, prompts) -> tuple[EncodedPrompt, list[Any], torch.Tensor]:
    """A prompt, the events of its greedy answer with one insertion, and (tokens, W) the logits it was sampled from."""
    events: list[Any] = []
    decoding = LookAgainDecoding(trigger, COPY, on_event=events.append)
    output = decode(
        model, tokenizer, prompts[:1], plan={(0, AT): trigger.open_id}, decoding=decoding, max_new_tokens=16
    )
    slots = output.slots[0]
    logits = full_pass(model, slots, feature_table(model, prompts[0])).logits[0][
        slots.sampled_from[response_slots(slots)]
    ]
    grids = [find_family(model.config).merged_grid(grid, model.config) for grid in prompts[0].image_grid_thw]
    pixels = {"pixel_values": prompts[0].pixel_values, "image_grid_thw": prompts[0].image_grid_thw}
    return EncodedPrompt(prompts[0].token_ids, grids, pixels), events[:-1], logits


def around(events: list[Any], cached: int) -> list[BackendEvent]:
    return [Started(cached, 1), *events, Ended("length", (), len(events), 0, 0, cached_tokens=cached)]


def changed(events: list[Any], at: int, token: int) -> list[Any]:
    """The events with another token at response place `at`, and nothing after it."""
    places = [i for i, event in enumerate(events) if isinstance(event, Token)]
    return [*events[: places[at]], Token(0, token)]


def test_equal_answers_are_equal_whatever_they_cost(checkpoint, told):
    """Would catch a comparison of what the backends say about themselves."""
    prompt, events, _ = told
    assert parting(checkpoint, prompt, COPY, around(events, 3), around(list(events), 9)) is None


@pytest.mark.parametrize("at", [0, 3, AT + 1, 12])
def test_the_gap_is_that_of_the_place_where_they_part(checkpoint, told, at):
    """Would catch logits of the place before or after, or those of a sequence without its insertion."""
    prompt, events, logits = told
    row = logits[at].clone()
    row[list(find_family(checkpoint.model.config).vision_tokens(checkpoint.model.config).never_sampled)] = -math.inf
    second = int(row.topk(2).indices[1])
    gap = float(row.max() - row[second])
    parted = parting(checkpoint, prompt, COPY, events, changed(events, at, second))
    assert parted is not None
    assert parted.at == at
    assert parted.gap == pytest.approx(gap, abs=1e-4)
    assert gap > 1e-3
    assert not same_but_for_ties(checkpoint, prompt, COPY, events, changed(events, at, second))
    assert same_but_for_ties(checkpoint, prompt, COPY, changed(events, at, second), events, tolerance=gap + 1e-3)
    third = int(row.topk(3).indices[2])
    assert not same_but_for_ties(checkpoint, prompt, COPY, events, changed(events, at, third), tolerance=gap + 1e-4)


def test_a_tag_that_one_of_them_does_not_write_is_judged_by_its_logits(checkpoint, told):
    """Would catch an insertion compared with a token: the tag that caused it is what was sampled."""
    prompt, events, logits = told
    row = logits[AT]
    tag = next(event for i, event in enumerate(events) if isinstance(events[i - 1], Reinsertion))
    other = int(row.argmax())
    without = [event for event in events if not isinstance(event, Reinsertion)]
    parted = parting(checkpoint, prompt, COPY, events, changed(without, AT, other))
    assert parted == Parting(AT, pytest.approx(float(row.max() - row[tag.token_id]), abs=1e-4))


def test_what_is_no_tie_is_none(checkpoint, told):
    """Would catch other rows, a missing end or a missing look excused as rounding."""
    prompt, events, _ = told
    look = next(i for i, event in enumerate(events) if isinstance(event, Reinsertion))
    fewer = Reinsertion(0, type(events[look].reflection)("copy", visual_indices=(0, 1), at=AT))
    for other in ([*events[:look], fewer, *events[look + 1 :]], events[:-1], events[:look] + events[look + 1 :]):
        for a, b in ((events, other), (other, events)):
            assert parting(checkpoint, prompt, COPY, a, b).gap == math.inf
            assert not same_but_for_ties(checkpoint, prompt, COPY, a, b, tolerance=1e9)
