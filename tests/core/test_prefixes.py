"""Responses that begin with a given prefix: reading it at once is what forcing it token by token was."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from look_again.core.generate import End, LookAgainDecoding, Token
from look_again.core.prefix_cache import PrefixCache
from look_again.core.reattention import Reattention
from look_again.core.runner import Runner
from look_again.core.trigger import Trigger
from look_again.text.grammar import open_tag
from tests.tiny_model import LARGE, SMALL, decode, make_prompt

POLICIES = [
    Reattention(mode="text"),
    Reattention(mode="copy"),
    Reattention(mode="vision"),
    Reattention(mode="route", keep=40),
    Reattention(mode="route", keep=40, rule="relative"),
    Reattention(mode="route", keep=40, count_copies=True),
    Reattention(mode="route", keep=40, control="random-rows"),
    Reattention(mode="copy", control="random-place", within=6),
    Reattention(mode="route", control="random-place", within=6),
    Reattention(mode="copy", max_reinsertions=1),
]


def _prefixes(tag: int) -> list[list[int]]:
    """Of different lengths, with two reflections, one at the end, and none."""
    return [[30, 31, 32, tag, 33, 34, 35, 36, tag], [40, 41, tag], [50, 51, 52, 53, 54]]


def _prompts(tokenizer: Any) -> list[Any]:
    return [
        make_prompt(tokenizer, "one", [SMALL], 1),
        make_prompt(tokenizer, "the second of them", [LARGE, SMALL], 2),
        make_prompt(tokenizer, "3", [LARGE], 3),
    ]


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_a_prefix_read_at_once_is_the_prefix_forced_token_by_token(model, tokenizer, policy):
    """Would catch a ranking measured over other tokens, a reflection at another place, a shifted position."""
    prompts, trigger = _prompts(tokenizer), Trigger.of(tokenizer)
    prefixes = _prefixes(trigger.open_id)
    plan = {(row, step): token for row, prefix in enumerate(prefixes) for step, token in enumerate(prefix)}
    stepped = decode(model, tokenizer, prompts, policy, plan)
    events: list[Any] = []
    decoding = LookAgainDecoding(trigger, policy, prefixes=prefixes, on_event=events.append)
    read = decode(model, tokenizer, prompts, decoding=decoding)
    assert read.responses == stepped.responses
    assert read.reflections == stepped.reflections
    assert read.finish_reasons == stepped.finish_reasons
    for ours, theirs in zip(read.slots, stepped.slots, strict=True):
        for name in ("token_ids", "visual_indices", "provenance", "positions", "sampled_from"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
    for row, response in enumerate(read.responses):
        assert [event.token_id for event in events if isinstance(event, Token) and event.sequence == row] == response
        assert sum(isinstance(event, End) and event.sequence == row for event in events) == 1


def test_no_more_passes_than_reflections_read_a_prefix(model, tokenizer, monkeypatch):
    """Forced work is never fed token by token: one pass for a batch, and with a ranking one more per reflection."""
    fed: list[int] = []
    forward = Runner._forward
    monkeypatch.setattr(
        Runner,
        "_forward",
        lambda self, ids, *rest, **more: fed.append(ids.shape[1]) or forward(self, ids, *rest, **more),
    )
    prompts, trigger = _prompts(tokenizer)[:1], Trigger.of(tokenizer)
    prefix = _prefixes(trigger.open_id)[0]
    for policy, passes in ((Reattention(mode="copy"), 1), (Reattention(mode="route"), 3)):
        fed.clear()
        decoding = LookAgainDecoding(trigger, policy, prefixes=[prefix])
        decode(model, tokenizer, prompts, decoding=decoding, max_new_tokens=len(prefix) + 1)
        assert len(fed) == passes


@pytest.mark.parametrize("mode", ["copy", "route"])
def test_tags_that_a_prefix_spells_in_pieces_look_again_at_the_same_place(model, tokenizer, mode):
    """Pieces of a tag are taken back and read again behind the insertion, whether the cache holds them or not."""
    pieces = [token for character in open_tag("REFLECTION") for token in tokenizer(character)["input_ids"]]
    assert len(pieces) == len("<REFLECTION>")
    prompts, policy = _prompts(tokenizer), Reattention(mode=mode, keep=40)
    prefixes = [[30, 31, *pieces, 32], [40, *pieces], [50, 51]]
    trigger = Trigger.of(tokenizer, spelled=True)
    plan = {(row, step): token for row, prefix in enumerate(prefixes) for step, token in enumerate(prefix)}
    options = {"max_new_tokens": 10 + len(pieces)}
    stepped = decode(model, tokenizer, prompts, plan=plan, decoding=LookAgainDecoding(trigger, policy), **options)
    decoding = LookAgainDecoding(trigger, policy, prefixes=prefixes)
    read = decode(model, tokenizer, prompts, decoding=decoding, **options)
    assert read.responses == stepped.responses
    assert read.reflections == stepped.reflections
    assert all(torch.equal(a.positions, b.positions) for a, b in zip(read.slots, stepped.slots, strict=True))


def test_a_prefix_as_long_as_the_answer_may_be_ends_it(model, tokenizer):
    prompts, trigger = _prompts(tokenizer)[:1], Trigger.of(tokenizer)
    decoding = LookAgainDecoding(trigger, Reattention(), prefixes=[[30, 31, 32, 33, 34, 35]])
    output = decode(model, tokenizer, prompts, decoding=decoding, max_new_tokens=4)
    assert output.responses == [[30, 31, 32, 33]]
    assert output.finish_reasons == ["length"]


def test_a_prefix_for_another_number_of_prompts_is_refused(model, tokenizer):
    prompts, trigger = _prompts(tokenizer)[:2], Trigger.of(tokenizer)
    with pytest.raises(ValueError, match="1 prefixes were given for 2 prompts"):
        decode(model, tokenizer, prompts, decoding=LookAgainDecoding(trigger, prefixes=[[30]]))


@pytest.mark.parametrize(
    "policy",
    [
        Reattention(mode="text"),
        Reattention(mode="copy"),
        Reattention(mode="route", keep=40),
        Reattention(mode="route", keep=40, count_copies=True),
        Reattention(mode="route", keep=40, rule="relative"),
    ],
    ids=str,
)
@pytest.mark.parametrize("first", [Reattention(mode="text"), Reattention(mode="route", keep=40)], ids=str)
def test_what_a_prefix_cache_holds_changes_no_answer(model, tokenizer, first, policy):
    """Longer work was read before under another policy: the same answers, slots and logits as from nothing.

    Would catch states of another row, a ranking without the slots that were taken over, and slots behind an insertion.
    """
    prompts, trigger, cache = _prompts(tokenizer), Trigger.of(tokenizer), PrefixCache(rows=3)
    tag = trigger.open_id
    longer = [[30, 31, 32, 33, 34, 35, tag, 36], [40, 41, 42, 43, tag], [50, 51, 52, 53, 54, 55]]
    decode(model, tokenizer, prompts, decoding=LookAgainDecoding(trigger, first, prefixes=longer, prefix_cache=cache))
    assert len(cache) == 3
    shorter = [[30, 31, 32, 44, tag], [40, 41, tag], [50, 51, 60]]
    made = [
        decode(
            model,
            tokenizer,
            prompts,
            decoding=LookAgainDecoding(trigger, policy, prefixes=shorter, prefix_cache=held),
            output_logits=True,
        )
        for held in (cache, None)
    ]
    assert made[0].responses == made[1].responses
    assert made[0].reflections == made[1].reflections
    assert torch.allclose(made[0].logits[0], made[1].logits[0], atol=1e-4)
    for ours, theirs in zip(made[0].slots, made[1].slots, strict=True):
        assert torch.equal(ours.positions, theirs.positions)


def test_a_prefix_cache_knows_rows_by_their_images_and_forgets_the_oldest(model, tokenizer):
    """The same words over another image are another row."""
    trigger, cache = Trigger.of(tokenizer), PrefixCache(rows=1)
    for seed in (1, 2):
        prompts = [make_prompt(tokenizer, "one", [SMALL], seed)]
        decoding = LookAgainDecoding(trigger, Reattention(), prefixes=[[30, 31, 32]], prefix_cache=cache)
        alone = LookAgainDecoding(trigger, Reattention(), prefixes=[[30, 31, 32]])
        first, again = (decode(model, tokenizer, prompts, decoding=one) for one in (decoding, alone))
        assert first.responses == again.responses
        assert len(cache) == 1
    with pytest.raises(ValueError, match="at least 1 row, not 0"):
        PrefixCache(rows=0)
