"""The compiled step: the eager loop's answers, one graph for a whole answer, and a reason wherever there is none."""

from __future__ import annotations

import warnings
import weakref
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import LogitsProcessorList

from look_again.core import generate
from look_again.core.cache import round_to_bucket
from look_again.core.compiled import compiled_step
from look_again.core.compiled.compiled_step import (
    CompileError,
    attend_one,
    check_compiler,
    count_graphs,
    find_obstacle,
)
from look_again.core.generate import LookAgainDecoding, LookAgainOutput
from look_again.core.reasoning_budget import ReasoningBudget
from look_again.core.reattention import Reattention
from look_again.core.runner import Runner
from look_again.core.trigger import Trigger
from look_again.model import load
from tests.core.test_families import COPY, REFLECT_AT, STEPS, Script, families, inputs_of, two_prompts
from tests.core.test_families import load as load_tiny
from tests.tiny_families import CLOSE, OPEN
from tests.tiny_model import decode

PLAN = ((3, 9, 17), (6,), (), (0, 9))
POLICIES = [
    Reattention(mode="text"),
    Reattention(mode="copy"),
    Reattention(mode="vision"),
    Reattention(mode="route"),
    Reattention(mode="route", rule="relative", keep=30, layers=(1,), count_copies=True),
]
CARRIED = {"glm46v", "glm4v", "internvl", "llava_onevision", "mistral3", "qwen2_5_vl", "qwen2_vl", "qwen3_vl"}
TIE = 1e-4  # of two logits, between which rounding chooses


def both_ways(model: Any, tokenizer: Any, prompts: Any, policy: Reattention, **options: Any) -> list[LookAgainOutput]:
    """The eager loop's output and the compiled step's."""
    trigger = Trigger.of(tokenizer)
    plan = {(row, at): trigger.open_id for row in range(len(prompts)) for at in PLAN[row]}
    ways = (LookAgainDecoding(trigger, policy, compile=compile) for compile in (False, True))
    return [decode(model, tokenizer, prompts, policy, plan, decoding=way, **options) for way in ways]


def count_differences(eager: LookAgainOutput, compiled: LookAgainOutput) -> int:
    """Answers that differ; each must part at a tie of the eager logits."""
    different = 0
    for row, (one, other) in enumerate(zip(eager.responses, compiled.responses, strict=True)):
        if one == other:
            continue
        place = next(i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
        scores = eager.logits[place][row]
        assert abs(float(scores[one[place]] - scores[other[place]])) < TIE, f"row {row} parts at {place}, at no tie"
        different += 1
    return different


def largest_gap(eager: LookAgainOutput, compiled: LookAgainOutput) -> float:
    """Of the logits that chose a token: those behind a sequence's end are of padding."""
    return max(
        float((eager.logits[step][row] - compiled.logits[step][row]).abs().max())
        for row, response in enumerate(eager.responses)
        for step in range(len(response))
    )


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("late", [False, True], ids=["tokens read first", "tokens read late"])
@pytest.mark.parametrize(("policy", "batch"), [(POLICIES[0], 1), *((policy, 3) for policy in POLICIES[1:])], ids=str)
def test_answers_are_those_of_the_eager_loop(model, tokenizer, prompts, policy, batch, late, monkeypatch):
    """Would catch a slot at another place or position, one that a mask shows or hides wrongly, a query of another
    step in ROUTE's mean, a token that was fed ahead and not taken back."""
    monkeypatch.setattr(generate, "reads_late", lambda device: late)
    eager, compiled = both_ways(model, tokenizer, prompts[:batch], policy)
    assert count_differences(eager, compiled) == 0
    assert compiled.reflections == eager.reflections
    assert any(compiled.reflections)
    assert largest_gap(eager, compiled) < TIE


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("late", [False, True], ids=["tokens read first", "tokens read late"])
def test_sequences_that_end_or_are_forced_leave_the_others_alone(model, tokenizer, prompts, late, monkeypatch):
    """Would catch a finished sequence that goes on, or a forced token whose place the drawn one keeps in the cache."""
    monkeypatch.setattr(generate, "reads_late", lambda device: late)
    trigger = Trigger.of(tokenizer)
    outputs = []
    for compile in (False, True):
        reasoning = ReasoningBudget.within(tokenizer, 9, 24)
        decoding = LookAgainDecoding(trigger, COPY, reasoning=reasoning, compile=compile)
        plan = {(0, 3): trigger.open_id, (1, 5): trigger.open_id, (2, 7): 101}
        outputs.append(decode(model, tokenizer, prompts[:3], plan=plan, decoding=decoding, eos_token_id=[101]))
    eager, compiled = outputs
    assert count_differences(eager, compiled) == 0
    assert compiled.finish_reasons == eager.finish_reasons
    assert torch.equal(compiled.sequences, eager.sequences)


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("late", [False, True], ids=["tokens read first", "tokens read late"])
def test_draws_are_those_of_the_eager_loop(model, tokenizer, prompts, late, monkeypatch):
    monkeypatch.setattr(generate, "reads_late", lambda device: late)
    trigger, outputs = Trigger.of(tokenizer), []
    for compile in (False, True):
        generator = torch.Generator().manual_seed(3)
        decoding = LookAgainDecoding(trigger, COPY, generator=generator, compile=compile)
        outputs.append(decode(model, tokenizer, prompts[:2], decoding=decoding, do_sample=True))
    assert outputs[0].responses == outputs[1].responses


@pytest.mark.usefixtures("traced")
def test_one_graph_serves_a_growing_answer_that_looks_again(model, tokenizer, prompts):
    """A graph per length, bucket or reflection would be compiled while a user waits."""
    trigger = Trigger.of(tokenizer)
    plan = {(0, at): trigger.open_id for at in (20, 90, 200)}
    decoding = LookAgainDecoding(trigger, COPY, compile=True)
    before = count_graphs()
    output = decode(model, tokenizer, prompts[:1], plan=plan, decoding=decoding, max_new_tokens=400)
    assert len(output.reflections[0]) == 3
    assert count_graphs() - before == 1
    assert output.cache_slots == round_to_bucket(len(output.slots[0]) - 1)
    before = count_graphs()
    decode(model, tokenizer, prompts[:1], plan=plan, decoding=decoding, max_new_tokens=150)
    assert count_graphs() == before


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("late", [False, True], ids=["tokens read first", "tokens read late"])
def test_a_steady_step_uploads_nothing(model, tokenizer, prompts, late, monkeypatch):
    """The state is written by the host where a sequence begins, looks again or ends, and at no other step."""
    monkeypatch.setattr(generate, "reads_late", lambda device: late)
    runners = []
    monkeypatch.setattr(generate, "Runner", lambda *args, **kw: runners.append(Runner(*args, **kw)) or runners[-1])
    trigger = Trigger.of(tokenizer)
    plan = {(0, 8): trigger.open_id, (1, 13): trigger.open_id}
    decode(model, tokenizer, prompts[:2], plan=plan, decoding=LookAgainDecoding(trigger, COPY, compile=True))
    # The beginning; the step that one sequence sits out for its chunk, and the step after it, twice.
    assert runners[0].compiled.state.uploads <= 5


@pytest.mark.slow
def test_inductors_graph_gives_the_eager_loops_answers(model, tokenizer, prompts):
    check_compiler(torch.device("cpu"))
    for policy in (Reattention(mode="copy"), Reattention(mode="route")):
        eager, compiled = both_ways(model, tokenizer, prompts[:3], policy)
        assert count_differences(eager, compiled) == 0
        assert largest_gap(eager, compiled) < TIE


@families
@pytest.mark.usefixtures("traced")
def test_a_family_is_carried_or_decodes_eagerly_and_says_why(name):
    """Would catch a family whose attention, positions or cache a graph gets wrong, and a silent way out."""
    tiny = load_tiny(name)
    prompts = two_prompts(tiny)
    inputs = inputs_of(tiny, prompts)
    outputs = []
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for compile in (False, True):
            script = Script(inputs["input_ids"].shape[1], REFLECT_AT)
            decoding = LookAgainDecoding(Trigger(OPEN, CLOSE), Reattention(mode="route", keep=40), compile=compile)
            outputs.append(
                tiny.model.generate(
                    **inputs,
                    custom_generate=decoding,
                    max_new_tokens=STEPS,
                    do_sample=False,
                    logits_processor=LogitsProcessorList([script]),
                    return_dict_in_generate=True,
                    output_logits=True,
                )
            )
    assert count_differences(*outputs) == 0
    notes = [str(warning.message) for warning in told if "not compiled" in str(warning.message)]
    assert (find_obstacle(tiny.model) is None) == (name.removesuffix("_causal") in CARRIED) == (not notes)


def test_a_machine_without_a_compiler_is_told_the_eager_way(model, tokenizer, prompts, monkeypatch):
    monkeypatch.setattr(compiled_step.shutil, "which", lambda name: None)
    decoding = LookAgainDecoding(Trigger.of(tokenizer), compile=True)
    with pytest.raises(CompileError, match=r"needs a C\+\+ compiler .* leave --compile"):
        decode(model, tokenizer, prompts[:1], decoding=decoding)
    with pytest.raises(CompileError, match="compiled for cpu and cuda, not for mps"):
        check_compiler(torch.device("mps"))


def test_a_compiler_that_builds_nothing_is_told_in_one_line(tmp_path, monkeypatch):
    """Would catch a page of inductor's own words in the middle of an answer."""
    broken = tmp_path / "g++"
    broken.write_text("#!/bin/sh\necho 'fatal error: stdio.h: No such file' >&2\necho more >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    with pytest.raises(CompileError, match=r"it builds nothing \(fatal error: stdio.h: No such file\); leave") as told:
        check_compiler(torch.device("cpu"))
    assert "\n" not in str(told.value)


def test_graphs_go_with_their_model(model, tokenizer, prompts, traced):
    """A graph that held its model would keep the weights of every model that was ever loaded."""
    import copy
    import gc

    own = copy.deepcopy(model)
    decode(
        own, tokenizer, prompts[:1], decoding=LookAgainDecoding(Trigger.of(tokenizer), compile=True), max_new_tokens=4
    )
    assert len(compiled_step._GRAPHS) == 1
    gone = weakref.ref(own)
    del own
    gc.collect()
    assert gone() is None
    assert len(compiled_step._GRAPHS) == 0


def test_the_steps_attention_is_the_kernels():
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 6, 1, 8, generator=generator)
    key, value = (torch.randn(2, 3, 10, 8, generator=generator) for _ in range(2))
    mask = (torch.arange(10) <= torch.tensor([[4], [9]]))[:, None, None]
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, mask, scale=0.3, enable_gqa=True)
    assert torch.allclose(attend_one(query, key, value, mask, 0.3), expected.transpose(1, 2), atol=1e-6)


def test_buckets_hold_what_they_are_for_and_waste_little():
    for slots in (*range(1, 3000, 7), 100_000):
        bucket = round_to_bucket(slots)
        assert slots <= bucket <= slots + max(127, slots // 8)
    assert len({round_to_bucket(slots) for slots in range(1, 4097)}) == 24


@pytest.mark.usefixtures("traced")
def test_a_checkpoint_loaded_to_be_compiled_answers_alike(monkeypatch):
    """Would catch an option that is read and never reaches the loop, and a checkpoint that hides that it does not."""
    image = Image.new("RGB", (84, 84), "white")
    compiled, eager = (load(None, device="cpu", compile=compile) for compile in (True, False))
    assert compiled.checkpoint.compiled
    assert not eager.checkpoint.compiled
    before = count_graphs()
    answers = [model.ask(image, "How many red cubes are there?", max_new_tokens=30) for model in (eager, compiled)]
    assert count_graphs() > before
    assert answers[0].slots.token_ids.tolist() == answers[1].slots.token_ids.tolist()
    monkeypatch.setattr(compiled_step, "find_obstacle", lambda model: "it is not to be")
    refused = load(None, device="cpu", compile=True).checkpoint
    assert not refused.compiled
    assert "answers are decoded step by step, not compiled: it is not to be" in refused.notes
