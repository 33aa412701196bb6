"""Models with recurrent layers or windows in a batch whose sequences come, stand still, go and begin again."""

from __future__ import annotations

import pytest
import torch
from transformers import LogitsProcessorList

from look_again.core.generate import LookAgainDecoding
from look_again.core.open_runner import OpenRunner
from look_again.core.prefill import start_one
from look_again.core.reattention import Reattention, reinsert
from look_again.core.recurrent_cache import RecurrentCache
from look_again.core.slots import Provenance
from look_again.core.trigger import Trigger
from tests.core.test_families import (
    SERVED,
    features_of,
    gathered_pass,
    gathered_tolerance,
    inputs_of,
    load,
    two_prompts,
)
from tests.tiny_families import CLOSE, OPEN
from tests.tiny_model import ForcedTokens

FAMILIES = [name for name in ("qwen3_5", "gemma3", "gemma4", "qwen3_vl", "internvl") if name in SERVED]
PIECES = {60: "<", 61: "REFLECTION", 62: ">"}


@pytest.mark.parametrize("name", FAMILIES)
def test_sequences_that_come_stand_still_and_go(name):
    """Would catch a state or key of another sequence: of a neighbour, of one that left, or of padding.

    Steps, by sequence: a a-b b(c joins) a-c, then b leaves and c takes its number, a-c, c looks again, a-c.
    """
    tiny, policy = load(name), Reattention(mode="copy")
    prompts = [*two_prompts(tiny), two_prompts(tiny)[1]]
    starts = [start_one(tiny.model, policy, prompt.ids, tiny.pixels(prompt.images)) for prompt in prompts]
    a, b, c = (start.builder for start in starts)
    logits: dict[int, dict[int, torch.Tensor]] = {id(builder): {} for builder in (a, b, c)}
    with torch.no_grad():
        runner = OpenRunner(tiny.model)

        def join(place: int) -> None:
            number = runner.add_sequence(starts[place].builder, starts[place].features)
            feed(number)

        def feed(number: int) -> None:
            builder = runner.builders[number]
            logits[id(builder)][len(builder) - 1] = runner.chunk(number)[0].clone()

        def step(*builders: object) -> None:
            numbers = [i for i, builder in enumerate(runner.builders) if any(builder is one for one in builders)]
            for number in numbers:
                runner.builders[number].add_token(20 + len(runner.builders[number]) % 7, Provenance.SAMPLED)
            out = runner.step(numbers)
            for number in numbers:
                logits[id(runner.builders[number])][len(runner.builders[number]) - 1] = out[number].clone()

        join(0)
        step(a)
        join(1)
        step(a, b)
        step(b)
        join(2)
        step(a, c)
        runner.remove_sequence(1)
        step(a, c)
        reinsert(c, policy, [(span, range(span.count)) for span in starts[2].spans])
        c.add_token(OPEN, Provenance.SAMPLED)
        feed(1)
        step(a, c)
        step(c)
        for prompt, start in zip(prompts, starts, strict=True):
            slots, table = start.builder.build(), features_of(tiny, prompt)
            full = gathered_pass(tiny, slots, table).logits[0]
            bound = gathered_tolerance(tiny, slots, table)
            for slot, decoded in logits[id(start.builder)].items():
                assert (decoded - full[slot]).abs().max() <= bound
    assert [len(logits[id(builder)]) for builder in (a, b, c)] == [6, 3, 6]


class Speller:
    """Decodes the pieces of a tag, and nothing else."""

    def decode(self, ids: list[int], **options: object) -> str:
        return PIECES.get(ids[0], "w")


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("mode", ["copy", "route"])
def test_a_spelled_tag_is_taken_back_and_fed_again(name, mode):
    """Would catch a recurrent state that still holds the pieces, and queries that are counted twice by the ranking."""
    tiny = load(name)
    prompt = two_prompts(tiny)[0]
    words, inputs = [20, 21, 60, 61, 62, 22, 23, 60, 61, 62, 24], inputs_of(tiny, [prompt])
    forced = ForcedTokens({(0, at): word for at, word in enumerate(words)}, inputs["input_ids"].shape[1])
    output = tiny.model.generate(
        **inputs,
        custom_generate=LookAgainDecoding(Trigger(OPEN, CLOSE, Speller()), Reattention(mode=mode, keep=40)),
        max_new_tokens=len(words) + 3,
        do_sample=False,
        logits_processor=LogitsProcessorList([forced]),
        return_dict_in_generate=True,
        output_logits=True,
    )
    slots, table = output.slots[0], features_of(tiny, prompt)
    assert len(output.reflections[0]) == 2
    assert all(reflection.reinserted_tokens for reflection in output.reflections[0])
    full = gathered_pass(tiny, slots, table).logits[0]
    last = (slots.provenance == Provenance.SAMPLED).nonzero()[-3:, 0]
    for place, slot in zip((-3, -2, -1), last.tolist(), strict=True):
        gap = (output.logits[place][0] - full[slots.sampled_from[slot]]).abs().max()
        assert gap <= gathered_tolerance(tiny, slots, table)


def test_slots_taken_back_begin_the_sequence_again():
    """Would catch a state taken for one that can go back, and slots that are observed a second time."""
    cache = RecurrentCache(["linear_attention", "full_attention"], 2)
    cache.advance(0, 9)
    cache.advance(1, 4)
    cache.advance(0, -2)
    assert (cache.lengths, cache.first_new(0), cache.first_new(1)) == ([0, 4], 7, 4)
    cache.advance(0, 11)
    assert cache.first_new(0) == 11
    cache.add_sequence()
    cache.remove_sequence(0)
    assert (cache.lengths, cache.rewound) == ([0, 4], [0, 0])
