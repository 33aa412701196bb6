"""A bound on the reasoning: the CONCLUSION is forced, and the sequence with the forced tags is still one full pass."""

from __future__ import annotations

from typing import Any

import pytest

from look_again.core.generate import LookAgainDecoding, Token
from look_again.core.reasoning_budget import ReasoningBudget, list_stop_ids
from look_again.core.reattention import Reattention
from look_again.core.slots import Provenance
from look_again.text.tags import tag_ids
from tests.tiny_model import (
    TOLERANCE,
    decode,
    feature_table,
    full_pass,
    logit_gap,
    response_slots,
    responses,
    same_slots,
)

BUDGET = 11
POLICIES = [
    Reattention(mode="text"),
    Reattention(mode="copy"),
    Reattention(mode="vision"),
    Reattention(mode="route"),
]


@pytest.fixture
def tags(tokenizer) -> dict[str, int]:
    return tag_ids(tokenizer)


def bounded(tokenizer: Any, trigger: Any, policy: Reattention, bound: int | None = BUDGET, **options: Any) -> Any:
    return LookAgainDecoding(trigger, policy, reasoning=ReasoningBudget(tokenizer, bound), **options)


def plans(tags: dict[str, int]) -> list[dict[int, int]]:
    """Per prompt the tags that it writes: an open section, a closed one, none, a reflection at the bound."""
    return [
        {0: tags["<SUMMARY>"], 2: tags["</SUMMARY>"], 3: tags["<REASONING>"]},
        {0: tags["<SUMMARY>"], 3: tags["</SUMMARY>"], 5: tags["<REFLECTION>"], 8: tags["</REFLECTION>"]},
        {},
        {0: tags["<REASONING>"], 4: tags["</REASONING>"], BUDGET - 1: tags["<REFLECTION>"]},
    ]


def plan_for(rows: list[int], tags: dict[str, int]) -> dict[tuple[int, int], int]:
    return {(place, at): token for place, row in enumerate(rows) for at, token in plans(tags)[row].items()}


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.mode)
def test_forced_tags_are_part_of_one_full_pass_and_of_a_batch(model, tokenizer, trigger, prompts, tags, policy):
    """Would catch a forced tag that the cache does not hold, and a row whose end depends on its neighbours."""
    decoding = bounded(tokenizer, trigger, policy)
    together = decode(model, tokenizer, prompts, plan=plan_for([0, 1, 2, 3], tags), decoding=decoding)
    for row, prompt in enumerate(prompts):
        full = full_pass(model, together.slots[row], feature_table(model, prompt)).logits[0]
        assert logit_gap(together, row, full) <= TOLERANCE
        alone = decode(model, tokenizer, [prompt], plan=plan_for([row], tags), decoding=decoding)
        assert same_slots(alone.slots[0], together.slots[row])


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.mode)
def test_the_open_section_is_closed_and_the_conclusion_opened_at_the_bound(
    model, tokenizer, trigger, prompts, tags, policy
):
    """Would catch a CONCLUSION within another section, forced tokens that are counted, and tags that were sampled."""
    output = decode(
        model,
        tokenizer,
        prompts,
        plan=plan_for([0, 1, 2, 3], tags),
        decoding=bounded(tokenizer, trigger, policy),
    )
    begins = tags["<CONCLUSION>"]
    expected = [[tags["</REASONING>"], begins], [begins], [begins], [tags["</REFLECTION>"], begins]]
    for slots, response, forced in zip(output.slots, responses(output, prompts), expected, strict=True):
        at = response.index(begins)
        assert response[at + 1 - len(forced) : at + 1] == forced
        places = response_slots(slots)
        assert [slots.provenance[place] for place in places[at + 1 - len(forced) : at + 1]] == [
            Provenance.FORCED for _ in forced
        ]
        before = [slots.provenance[place] == Provenance.SAMPLED for place in places[:at]]
        assert sum(before) == BUDGET
        assert slots.count(Provenance.SAMPLED) == 24  # the CONCLUSION has what the reasoning left


def test_no_reasoning_at_all(model, tokenizer, trigger, prompts, tags):
    """Would catch a bound of 0 that lets a token through."""
    heard: list[Any] = []
    decoding = bounded(tokenizer, trigger, Reattention(), 0, on_event=heard.append)
    output = decode(model, tokenizer, prompts[:1], decoding=decoding)
    assert responses(output, prompts[:1])[0][0] == tags["<CONCLUSION>"]
    assert heard[0] == Token(0, tags["<CONCLUSION>"], forced=True)
    forced = [event.token_id for event in heard if isinstance(event, Token) and event.forced]
    assert forced == [tags["<CONCLUSION>"], tags["</CONCLUSION>"]]


def test_an_end_without_a_conclusion_becomes_one(model, tokenizer, trigger, prompts, tags):
    """Would catch an answer that ends before its bound without an answer, and an end inside the CONCLUSION undone."""
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    plan = {(0, 0): tags["<REASONING>"], (0, 4): end, (0, 9): end}
    decoding = bounded(tokenizer, trigger, Reattention(), None)
    output = decode(model, tokenizer, prompts[:1], plan=plan, decoding=decoding, eos_token_id=end)
    response = responses(output, prompts[:1])[0]
    assert response[4:6] == [tags["</REASONING>"], tags["<CONCLUSION>"]]
    assert (response[9:], output.finish_reasons[0]) == ([tags["</CONCLUSION>"]], "stop")


def test_a_conclusion_that_came_is_left_alone(model, tokenizer, trigger, prompts, tags):
    """Would catch a second CONCLUSION forced into an answer that has one, and a response that goes on behind it."""
    plan = {(0, 3): tags["<CONCLUSION>"], (0, 7): tags["</CONCLUSION>"]}
    free = decode(model, tokenizer, prompts[:1], Reattention(mode="text"), plan, max_new_tokens=8)
    decoding = bounded(tokenizer, trigger, Reattention(mode="text"))
    same = decode(model, tokenizer, prompts[:1], plan=plan, decoding=decoding)
    assert same_slots(free.slots[0], same.slots[0])
    assert same.finish_reasons == ["stop"]


@pytest.mark.parametrize("tag", ["</SUMMARY>", "<REASONING>", "<REFLECTION>", "<CONCLUSION>"])
def test_another_section_ends_the_conclusion(model, tokenizer, trigger, prompts, tags, tag):
    """Would catch an answer that is lost because the model goes back to reasoning inside its CONCLUSION."""
    plan = {(0, 3): tags["<CONCLUSION>"], (0, 7): tags[tag]}
    output = decode(model, tokenizer, prompts[:1], plan=plan, decoding=bounded(tokenizer, trigger, Reattention()))
    assert responses(output, prompts[:1])[0][7:] == [tags["</CONCLUSION>"]]
    assert output.finish_reasons == ["stop"]
    assert output.reflections == [[]]


def test_a_conclusion_without_tokens_left_is_closed_and_says_so(model, tokenizer, trigger, prompts, tags):
    """Would catch a cut-off answer that nobody can read, or one that passes for a whole one."""
    output = decode(model, tokenizer, prompts[:1], decoding=bounded(tokenizer, trigger, Reattention()))
    response = responses(output, prompts[:1])[0]
    assert (response[-1], len(response), output.finish_reasons) == (tags["</CONCLUSION>"], 26, ["length"])


def test_the_context_keeps_room_for_the_conclusion(model, tokenizer, trigger, prompts, tags):
    """Would catch an answer that fills the context before its CONCLUSION, by tokens or by what is put back."""
    prompt = len(prompts[0].token_ids)
    reasoning = ReasoningBudget(tokenizer, 20, answer_tokens=6)
    decoding = LookAgainDecoding(trigger, Reattention(), reasoning=reasoning, max_context=prompt + 14)
    plan = {(0, 0): tags["<REFLECTION>"], (0, 2): tags["</REFLECTION>"]}
    output = decode(model, tokenizer, prompts[:1], plan=plan, decoding=decoding)
    response = responses(output, prompts[:1])[0]
    assert [reflection.skipped for reflection in output.reflections[0]] == ["context"]
    assert response.index(tags["<CONCLUSION>"]) == 8  # 14 - 6
    assert (response[-1], len(response)) == (tags["</CONCLUSION>"], 14)
    assert output.finish_reasons == ["context"]


def test_tags_spelled_in_pieces_count(tokenizer, tags):
    """Would catch a CONCLUSION forced a second time on a model that spells its tags in ordinary pieces."""
    watch = ReasoningBudget(tokenizer, 100).watch(frozenset())
    for letter in "<CONCLUSION>":
        watch.take(tokenizer.convert_tokens_to_ids(letter))
    assert watch.concluded
    assert watch.room(100) is None


def test_stop_ids_in_every_form_of_a_generation_configuration():
    assert list_stop_ids(None) == frozenset()
    assert list_stop_ids(3) == {3}
    assert list_stop_ids([3, 4]) == {3, 4}
