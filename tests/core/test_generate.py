"""Decoding: incremental equals one full pass, nothing to look at equals the library, a batch equals one by one."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from transformers import DynamicCache, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from look_again.core.families import find_family
from look_again.core.generate import End, LookAgainDecoding, Reinsertion, Token
from look_again.core.reattention import Reattention
from look_again.core.runner import Runner, cache_keyword
from look_again.core.slots import Provenance, SlotBuilder
from look_again.core.trigger import Trigger
from tests.tiny_model import (
    LARGE,
    SMALL,
    TOLERANCE,
    ForcedTokens,
    batch_inputs,
    decode,
    feature_table,
    full_pass,
    library_inputs,
    logit_gap,
    make_prompt,
    response_slots,
    responses,
    same_slots,
)

# Response columns of each prompt's reflections: three, one, none, and two of which one is the very first token.
REFLECT_AT = ((3, 9, 17), (6,), (), (0, 9))
COPIES = [
    Reattention(mode="copy"),
    Reattention(mode="vision"),
    Reattention(mode="route", keep=100),
]
OTHERS = [
    Reattention(mode="text"),
    Reattention(mode="copy", delimiters=False),
    Reattention(mode="copy", layout="strip"),
    Reattention(mode="vision", delimiters=False),
    Reattention(mode="route"),
    Reattention(mode="route", rule="relative", delimiters=False),
    Reattention(mode="route", keep=30, layout="strip", layers=(1,)),
    Reattention(mode="route", control="random-rows"),
]


def show(policy: Reattention) -> str:
    changed = (name for name in vars(policy) if getattr(policy, name) != getattr(Reattention(), name))
    return "-".join(f"{name}={getattr(policy, name)}" for name in changed) or "copy"


def plan_for(rows: list[int], reflection_id: int) -> dict[tuple[int, int], int]:
    return {(place, at): reflection_id for place, row in enumerate(rows) for at in REFLECT_AT[row]}


# --- incremental decoding equals one full pass


@pytest.mark.parametrize("rows", [[0], [1], [2], [0, 1, 2, 3]], ids=str)
@pytest.mark.parametrize("policy", COPIES, ids=show)
def test_whole_images_put_back_equal_the_librarys_own_pass(model, tokenizer, trigger, prompts, policy, rows):
    """Would catch any difference of positions, cache or masks from a library prompt that shows the images again."""
    shown = [prompts[row] for row in rows]
    output = decode(model, tokenizer, shown, policy, plan_for(rows, trigger.open_id))
    for place, (row, prompt, slots) in enumerate(zip(rows, shown, output.slots, strict=True)):
        inputs = library_inputs(model, prompt, slots)
        assert len(inputs["image_grid_thw"]) == (len(REFLECT_AT[row]) + 1) * len(prompt.image_grid_thw)
        positions, _ = model.model.get_rope_index(**{k: v for k, v in inputs.items() if k != "pixel_values"})
        assert torch.equal(positions[:, 0], slots.positions)
        with torch.no_grad():
            full = model(**inputs, use_cache=False).logits[0]
        assert logit_gap(output, place, full) <= TOLERANCE


@pytest.mark.parametrize("rows", [[0], [1], [2], [0, 1, 2, 3]], ids=str)
@pytest.mark.parametrize("policy", OTHERS, ids=show)
def test_incremental_equals_one_pass_over_gathered_features(model, tokenizer, trigger, prompts, policy, rows):
    """Would catch a cache slot, mask, position or feature row that differs from the sequence the slots describe."""
    shown = [prompts[row] for row in rows]
    output = decode(model, tokenizer, shown, policy, plan_for(rows, trigger.open_id))
    for place, (row, prompt, slots) in enumerate(zip(rows, shown, output.slots, strict=True)):
        assert len(output.reflections[place]) == len(REFLECT_AT[row])
        assert (slots.count(Provenance.REINSERTED) > 0) == (policy.inserts and len(REFLECT_AT[row]) > 0)
        full = full_pass(model, slots, feature_table(model, prompt)).logits[0]
        assert logit_gap(output, place, full) <= TOLERANCE


def test_looking_again_changes_what_follows(model, tokenizer, trigger, prompts):
    """Would catch insertions that the model never attends to: all equalities above would still hold."""
    plan = {(0, 3): trigger.open_id}
    copied = decode(model, tokenizer, prompts[:1], Reattention(mode="copy"), plan)
    text = decode(model, tokenizer, prompts[:1], Reattention(mode="text"), plan)
    gaps = [float((a - b).abs().max()) for a, b in zip(copied.logits, text.logits, strict=True)]
    assert max(gaps[:4]) == 0.0
    assert gaps[4] > 0.1


# --- no reflection equals the library's generate


class ThirdOfAKind(StoppingCriteria):
    """Stops a row when it has written a multiple of three three times."""

    def __init__(self, prompt_columns: int) -> None:
        self.prompt_columns = prompt_columns

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        return (input_ids[:, self.prompt_columns :] % 3 == 0).sum(-1) >= 3


@pytest.mark.parametrize("policy", [Reattention(mode="text"), Reattention(mode="copy"), Reattention(mode="route")])
@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize(
    "options",
    [
        {"eos_token_id": None},
        {"eos_token_id": None, "do_sample": True},
        {"eos_token_id": None, "repetition_penalty": 1.5},
        {"eos_token_id": list(range(100, 130)), "do_sample": True},
        {"eos_token_id": list(range(100, 105)), "do_sample": True, "temperature": 0.7, "top_k": 20, "stop": True},
    ],
    ids=["greedy", "sampled", "penalty", "eos", "criterion"],
)
def test_without_reflection_equals_generate(model, tokenizer, trigger, prompts, policy, batch, options):
    """Would catch any departure from the library: random stream, processors' inputs, padding of finished rows."""
    inputs = batch_inputs(tokenizer, prompts[-batch:])
    columns = inputs["input_ids"].shape[1]
    vision = find_family(model.config).vision_tokens(model.config)
    calm = ForcedTokens({}, columns, [trigger.open_id, *vision.never_sampled])
    options = {"max_new_tokens": 40, "logits_processor": LogitsProcessorList([calm])} | options
    if options.pop("stop", False):
        options["stopping_criteria"] = StoppingCriteriaList([ThirdOfAKind(columns)])
    ids = []
    for extra in (
        {"mm_token_type_ids": (inputs["input_ids"] == vision.image).long()},
        {"custom_generate": LookAgainDecoding(trigger, policy)},
    ):
        torch.manual_seed(7)
        ids.append(model.generate(**inputs, **options, **extra))
    assert torch.equal(ids[0], ids[1])


def test_finished_rows_are_padded_as_the_library_pads(model, tokenizer, trigger, prompts):
    """Would show that the comparison above ends rows at different times at all."""
    torch.manual_seed(7)
    output = decode(model, tokenizer, prompts, eos_token_id=list(range(100, 130)), do_sample=True, max_new_tokens=40)
    lengths = [len(response) for response in responses(output, prompts)]
    assert len(set(lengths)) >= 3
    columns = output.sequences.shape[1] - max(lengths)
    for ids, length in zip(output.sequences, lengths, strict=True):
        assert ids[columns + length - 1] in range(100, 130) or length == 40
        assert (ids[columns + length :] == tokenizer.pad_token_id).all()


# --- a batch equals one by one


@pytest.mark.parametrize("mode", ["copy", "route", "vision"])
def test_a_batch_equals_one_by_one(model, tokenizer, trigger, prompts, mode):
    """Would catch rows that leak into each other, or a finished or reflecting row that moves its neighbours."""
    policy, rows, end = Reattention(mode=mode), [0, 1, 2, 3], tokenizer.eos_token_id
    plan = plan_for(rows, trigger.open_id) | {(0, 22): end, (2, 5): end, (3, 14): end}
    together = decode(model, tokenizer, prompts, policy, plan, eos_token_id=end, max_new_tokens=30)
    ids = responses(together, prompts)
    assert len({len(response) for response in ids}) == 4
    for row, prompt in enumerate(prompts):
        own = {(0, column): token for (owner, column), token in plan.items() if owner == row}
        alone = decode(model, tokenizer, [prompt], policy, own, eos_token_id=end, max_new_tokens=30)
        assert responses(alone, [prompt])[0] == ids[row]
        assert same_slots(alone.slots[0], together.slots[row])
        assert alone.reflections[0] == together.reflections[row]
        assert alone.finish_reasons[0] == together.finish_reasons[row]


def test_num_return_sequences_equals_the_prompt_given_twice(model, tokenizer, trigger, prompts):
    """Would catch images handed to the wrong copy of a prompt."""
    plan = {(0, 4): trigger.open_id, (3, 7): trigger.open_id}
    one, two = prompts[0], prompts[1]
    outputs = []
    for given, options in (([one, two], {"num_return_sequences": 2}), ([one, one, two, two], {})):
        torch.manual_seed(3)
        outputs.append(decode(model, tokenizer, given, Reattention(mode="route"), plan, do_sample=True, **options))
    assert torch.equal(outputs[0].sequences, outputs[1].sequences)
    assert outputs[0].reflections == outputs[1].reflections
    assert all(map(same_slots, outputs[0].slots, outputs[1].slots))
    assert [len(r) for r in outputs[0].reflections] == [1, 0, 0, 1]


# --- limits


def test_forced_tokens_do_not_count_as_new_tokens(model, tokenizer, trigger, prompts):
    """Would catch a vision-only answer cut short by the tags that the decoding loop wrote."""
    plan = {(0, 2): trigger.open_id, (0, 6): trigger.open_id}
    output = decode(model, tokenizer, prompts[:1], Reattention(mode="vision"), plan, max_new_tokens=10)
    response = responses(output, prompts[:1])[0]
    assert output.slots[0].count(Provenance.SAMPLED) == 10
    assert len(response) == 12
    assert [response[at] for at in (2, 3, 6, 7)] == [trigger.open_id, trigger.close_id] * 2
    assert output.finish_reasons == ["length"]


@pytest.mark.parametrize("mode", ["copy", "route", "vision"])
def test_reflections_beyond_the_most_allowed_are_text_only(model, tokenizer, trigger, prompts, mode):
    """Would catch a loop that never stops looking, or one that ends the answer there."""
    plan = {(0, column): trigger.open_id for column in (2, 6, 10)}
    policy = Reattention(mode=mode, max_reinsertions=1)
    output = decode(model, tokenizer, prompts[:1], policy, plan, max_new_tokens=20)
    assert [r.skipped for r in output.reflections[0]] == [None, "max_reinsertions", "max_reinsertions"]
    assert [len(r.visual_indices) > 0 for r in output.reflections[0]] == [True, False, False]
    assert output.slots[0].count(Provenance.SAMPLED) == 20
    assert logit_gap(output, 0, full_pass(model, output.slots[0], feature_table(model, prompts[0])).logits[0]) <= 1e-4


def test_a_full_context_skips_the_insertion_and_then_ends_the_row(model, tokenizer, trigger, prompts):
    """Would catch an insertion past the last position the model was made for, or an answer thrown away for it."""
    prompt = prompts[2]  # an insertion takes 15 rows and 2 delimiters
    room = len(prompt.token_ids) + 4 + 17 + 2
    plan = {(0, 4): trigger.open_id, (0, 5): trigger.open_id}
    for max_context, skipped in ((room, [None, "context"]), (room - 1, ["context", "context"])):
        decoding = LookAgainDecoding(trigger, Reattention(mode="copy"), max_context=max_context)
        output = decode(model, tokenizer, [prompt], plan=plan, decoding=decoding, max_new_tokens=60)
        assert [r.skipped for r in output.reflections[0]] == skipped
        assert output.finish_reasons == ["context"]
        assert len(output.slots[0]) == max_context


def test_a_reflection_as_the_last_token_inserts_nothing(model, tokenizer, trigger, prompts):
    """Would catch rows put back that no token follows."""
    output = decode(model, tokenizer, prompts[:1], Reattention(), {(0, 9): trigger.open_id}, max_new_tokens=10)
    assert [(r.skipped, r.at) for r in output.reflections[0]] == [("max_new_tokens", 9)]
    assert output.slots[0].count(Provenance.REINSERTED) == 0
    assert output.slots[0].token_ids[-1] == trigger.open_id


@pytest.mark.parametrize("mode", ["copy", "route"])
def test_a_row_without_image_reflects_in_text(model, tokenizer, trigger, prompts, mode):
    """Would catch a row that is shown its neighbour's image, or a crash where there is none."""
    given = [make_prompt(tokenizer, "How many are two and two?", []), prompts[0]]
    plan = {(0, 4): trigger.open_id, (1, 4): trigger.open_id}
    output = decode(model, tokenizer, given, Reattention(mode=mode), plan)
    assert [[r.skipped for r in row] for row in output.reflections] == [["no image"], [None]]
    assert logit_gap(output, 0, full_pass(model, output.slots[0], None).logits[0]) <= TOLERANCE
    alone = decode(model, tokenizer, given[:1], Reattention(mode=mode), plan)
    assert responses(alone, given[:1])[0] == responses(output, given)[0]


def test_vision_tokens_are_never_sampled(model, tokenizer, trigger, prompts):
    """Would catch an answer with image tokens of its own, which the next turn could not be encoded with."""
    tokens = torch.tensor(find_family(model.config).vision_tokens(model.config).never_sampled)

    def favour(module: Any, inputs: Any, logits: torch.Tensor) -> torch.Tensor:
        return logits.index_fill(-1, tokens, 1000.0)

    hook = model.get_output_embeddings().register_forward_hook(favour)
    try:
        output = decode(model, tokenizer, prompts, do_sample=True)
    finally:
        hook.remove()
    assert (output.logits[0][:, tokens] == 1000.0).all()
    assert not torch.isin(torch.tensor(responses(output, prompts)), tokens).any()


def test_a_processor_that_forces_a_vision_token_is_refused(model, tokenizer, prompts):
    """Would catch an image token without features."""
    with pytest.raises(ValueError, match="forced the vision token"):
        decode(model, tokenizer, prompts[:1], plan={(0, 1): model.config.image_token_id})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 2}, "beam"),
        ({"prompt_lookup_num_tokens": 2}, "assisted"),
        ({"use_cache": False}, "use_cache"),
        ({"output_attentions": True}, "output_attentions"),
    ],
    ids=["beams", "assisted", "no cache", "attentions"],
)
def test_what_cannot_be_decoded_is_refused(model, tokenizer, prompts, options, message):
    """Would catch an option that is silently ignored."""
    with pytest.raises(ValueError, match=message):
        decode(model, tokenizer, prompts[:1], **options)


@pytest.mark.parametrize("length", [0, 3])
def test_a_filled_cache_of_the_callers_is_refused(model, tokenizer, prompts, length):
    """Would catch a cache that arrives under the library's other name for it and is silently ignored."""
    cache = DynamicCache(config=model.config)
    for layer in range(model.config.get_text_config().num_hidden_layers):
        cache.update(torch.zeros(1, 1, length, 32), torch.zeros(1, 1, length, 32), layer)
    options = {cache_keyword(model): cache, "max_new_tokens": 2}
    if not length:
        assert len(decode(model, tokenizer, prompts[:1], **options).slots) == 1
        return
    with pytest.raises(ValueError, match=f"a filled {cache_keyword(model)} is not supported"):
        decode(model, tokenizer, prompts[:1], **options)


def test_a_model_that_does_not_write_the_cache_is_noticed(model, prompts, monkeypatch):
    """Would catch a cache passed under a name that the library takes no more: no error there, and other logits."""
    builder = SlotBuilder(find_family(model.config), find_family(model.config).vision_tokens(model.config))
    builder.add_prompt([5, 6, 7], [])
    runner = Runner(model, [builder], [None])
    monkeypatch.setattr(runner, "cache_keyword", "a_new_name")
    with pytest.raises(AssertionError, match="the model wrote 0 of 3 slots"):
        runner.prefill()


def test_images_must_match_the_prompts(model, tokenizer, trigger, prompts):
    """Would catch features shifted from one row's image to the next one's."""
    two_sizes, swapped = (make_prompt(tokenizer, "Look.", sizes) for sizes in ([SMALL, LARGE], [LARGE, SMALL]))
    good = batch_inputs(tokenizer, [two_sizes])
    patches = len(make_prompt(tokenizer, "", [SMALL]).pixel_values)
    bad = [
        {k: v for k, v in good.items() if k not in ("pixel_values", "image_grid_thw")},
        good | {"pixel_values": good["pixel_values"][:patches], "image_grid_thw": good["image_grid_thw"][:1]},
        good | {name: getattr(swapped, name) for name in ("pixel_values", "image_grid_thw")},
        good | {name: torch.cat([good[name], good[name]]) for name in ("pixel_values", "image_grid_thw")},
    ]
    for inputs in bad:
        with pytest.raises(ValueError, match=r"match|images"):
            model.generate(**inputs, max_new_tokens=4, custom_generate=LookAgainDecoding(trigger))


# --- what comes out besides tokens


class AlwaysAt(Trigger):
    """Takes whatever token comes at one response column for `<REFLECTION>`."""

    def __init__(self, trigger: Trigger, column: int) -> None:
        super().__init__(trigger.open_id, trigger.close_id)
        self.column = column

    def pieces(self, response: Any, token: int) -> int:
        return int(len(response) == self.column)


@pytest.mark.parametrize("rows", [[0], [0, 1]], ids=str)
def test_scores_are_the_processed_logits_of_their_own_step(model, tokenizer, trigger, prompts, rows):
    """Would catch scores of a step overwritten by the logits that follow an insertion."""
    shown = [prompts[row] for row in rows]
    output = model.generate(
        **batch_inputs(tokenizer, shown),
        custom_generate=LookAgainDecoding(AlwaysAt(trigger, 5)),
        max_new_tokens=10,
        eos_token_id=None,
        return_dict_in_generate=True,
        output_logits=True,
        output_scores=True,
    )
    assert all(len(reflections) == 1 for reflections in output.reflections)
    banned = list(find_family(model.config).vision_tokens(model.config).never_sampled)
    for logits, scores in zip(output.logits, output.scores, strict=True):
        assert torch.equal(scores, logits.index_fill(-1, torch.tensor(banned), float("-inf")))


def test_events_tell_the_answer_in_order(model, tokenizer, trigger, prompts):
    """Would catch a streamed answer that differs from the returned one, or a look reported after its tag."""
    events: list[Any] = []
    decoding = LookAgainDecoding(trigger, Reattention(mode="vision"), on_event=events.append)
    plan = plan_for([0, 1, 2, 3], trigger.open_id)
    output = decode(model, tokenizer, prompts, plan=plan, decoding=decoding)
    for row, response in enumerate(responses(output, prompts)):
        own = [event for event in events if event.sequence == row]
        assert [event.token_id for event in own if isinstance(event, Token)] == response
        assert [event.reflection for event in own if isinstance(event, Reinsertion)] == output.reflections[row]
        assert own[-1] == End(row, "length")
        for event, following in itertools.pairwise(own):
            assert not isinstance(event, Reinsertion) or following == Token(row, trigger.open_id)
        forced = [event.forced for event in own if isinstance(event, Token)]
        slots = output.slots[row]
        assert forced == [slots.provenance[slot] == Provenance.FORCED for slot in response_slots(slots)]
