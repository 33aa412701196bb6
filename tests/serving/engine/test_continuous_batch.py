"""Rows that join and leave: each answers as if it were alone, and what it needed goes with it."""

from __future__ import annotations

import gc
import itertools
import weakref
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from look_again.core.compiled import compiled_step
from look_again.core.families import find_family
from look_again.core.generate import LookAgainDecoding, Token
from look_again.core.reattention import Reattention
from look_again.core.sequence import DecodedSequence
from look_again.core.slots import Provenance
from look_again.core.trigger import Trigger
from look_again.model import Sampling
from look_again.serving.backend import BackendEvent, Ended, Started
from look_again.serving.decode_options import DecodeOptions
from look_again.serving.engine.continuous_batch import ContinuousBatch
from look_again.serving.prompt import EncodedPrompt
from tests.tiny_model import Prompt as Shown
from tests.tiny_model import batch_inputs, make_prompt, response_slots

POLICIES = [
    Reattention(mode="route"),
    Reattention(mode="copy"),
    Reattention(mode="route", keep=30, rule="relative", layers=(1,), layout="strip"),
    Reattention(mode="text"),
    Reattention(mode="vision", delimiters=False),
    Reattention(mode="route", keep=70, layers=(1, 0), max_reinsertions=1),
    Reattention(mode="copy", control="random-place", within=8),
    Reattention(mode="copy", control="blank-image"),
]
LENGTHS = [44, 9, 37, 21, 30, 26, 12, 18]


class AtColumns(Trigger):
    """Takes the token at some response columns for `<REFLECTION>`: the first as one token, others as two pieces."""

    def __init__(self, trigger: Trigger, columns: Sequence[int] = (3, 9, 19, 24)) -> None:
        super().__init__(trigger.open_id, trigger.close_id)
        self.columns = columns

    def pieces(self, response: Any, token: int) -> int:
        return 0 if len(response) not in self.columns else 1 if len(response) == self.columns[0] else 2


class Heard:
    """A listener that keeps what it was told."""

    def __init__(self) -> None:
        self.events: list[BackendEvent] = []
        self.error: Exception | None = None

    def send(self, event: BackendEvent) -> None:
        self.events.append(event)

    def fail(self, error: Exception) -> None:
        self.error = error

    @property
    def tokens(self) -> list[int]:
        return [event.token_id for event in self.events if isinstance(event, Token)]

    @property
    def ended(self) -> Ended:
        assert isinstance(self.events[-1], Ended), self.error
        return self.events[-1]


def as_prompt(model: Any, shown: Shown) -> EncodedPrompt:
    if shown.pixel_values is None or shown.image_grid_thw is None:
        return EncodedPrompt(shown.token_ids, [], {})
    grids = [find_family(model.config).merged_grid(grid, model.config) for grid in shown.image_grid_thw]
    return EncodedPrompt(
        shown.token_ids, grids, {"pixel_values": shown.pixel_values, "image_grid_thw": shown.image_grid_thw}
    )


def alone(model: Any, tokenizer: Any, shown: Shown, policy: Reattention, trigger: Trigger, **options: Any) -> Any:
    """(tokens, reflections, reason) of `generate` with this prompt alone."""
    output = model.generate(
        **batch_inputs(tokenizer, [shown]),
        custom_generate=LookAgainDecoding(trigger, policy, generator=options.pop("generator", None)),
        return_dict_in_generate=True,
        **options,
    )
    slots = output.slots[0]
    tokens = slots.token_ids[response_slots(slots)].tolist()
    return tokens, tuple(output.reflections[0]), output.finish_reasons[0]


@pytest.fixture(scope="module")
def expected(model, tokenizer, trigger, prompts) -> list[Any]:
    """What each of POLICIES answers alone."""
    return [
        alone(model, tokenizer, prompts[i % 4], policy, AtColumns(trigger), max_new_tokens=LENGTHS[i])
        for i, policy in enumerate(POLICIES)
    ]


@pytest.fixture
def batch(model, tokenizer, trigger, request, monkeypatch) -> Any:
    """Empty; with the parameter "compiled", its steps are traced into graphs."""
    compiled = getattr(request, "param", "eager") == "compiled"
    monkeypatch.setattr(compiled_step, "BACKEND", "eager")  # graphs are traced, not compiled
    monkeypatch.setattr(compiled_step, "_GRAPHS", weakref.WeakKeyDictionary())
    with torch.no_grad():
        made = ContinuousBatch(model, tokenizer, AtColumns(trigger), compiled=compiled)
        yield made
        made.clear()


def greedy(tokens: int) -> Sampling:
    return Sampling(max_new_tokens=tokens)


def run_out(batch: ContinuousBatch) -> None:
    for _ in range(100):
        if not batch.running:
            return
        batch.step()
    raise AssertionError("rows never end")


# --- a row's answer is its own


@pytest.mark.parametrize(("seed", "batch"), [(0, "eager"), (1, "eager"), (1, "compiled")], indirect=["batch"])
def test_rows_that_join_and_leave_answer_as_alone(model, batch, prompts, expected, seed):
    """Would catch a row given its neighbour's cache, features, waiting queries or counts when places are taken over.

    Eight rows of different policies and lengths join two or three steps apart, with room for five; one leaves half way.
    """
    order = torch.randperm(len(POLICIES), generator=torch.Generator().manual_seed(seed)).tolist()
    heard = {i: Heard() for i in order}
    waiting, left, quitter = list(order), None, order[1]
    image_id = find_family(model.config).vision_tokens(model.config).image
    for step in itertools.count():
        if waiting and step % (2 + seed) == 0 and len(batch.running) < 5:
            i = waiting.pop(0)
            seat = batch.join(as_prompt(model, prompts[i % 4]), POLICIES[i], greedy(LENGTHS[i]), heard[i])
            left = seat if i == quitter else left
        if step == 8 and left in batch.running:
            batch.leave(left)
        batch.step()
        if not waiting and not batch.running:
            break
    for i, (tokens, reflections, reason) in enumerate(expected):
        if heard[i].tokens != tokens:
            assert i == quitter
            assert len(heard[i].tokens) > 2
            assert heard[i].tokens == tokens[: len(heard[i].tokens)]
            continue
        assert heard[i].ended.reflections == reflections
        assert heard[i].ended.reason == reason
        ids = prompts[i % 4].token_ids
        assert heard[i].events[0] == Started(len(ids), ids.count(image_id))
        assert heard[i].ended.sampled == LENGTHS[i] or reason == "stop"
        assert heard[i].ended.sampled + heard[i].ended.forced == len(tokens)
        assert heard[i].ended.reinserted == sum(len(r.visual_indices) for r in reflections)


def test_the_policies_above_do_different_things(expected):
    """Would show that the comparison above compares answers without insertions, or all the same."""
    assert [sum(bool(r.visual_indices) for r in reflections) for _, reflections, _ in expected] == [
        4,
        1,
        4,
        0,
        4,
        1,
        1,
        2,
    ]
    assert len({tuple(tokens[:9]) for tokens, _, _ in expected}) == len(POLICIES)


@pytest.mark.parametrize(
    "options", [{"temperature": 1.0}, {"temperature": 0.7, "top_p": 0.8}, {"temperature": 2.0, "top_p": 1.0}], ids=str
)
def test_sampling_draws_what_generate_draws(model, tokenizer, batch, prompts, options):
    """Would catch warpers in another order, a generator shared between rows, and draws skipped at forced tokens."""
    policy, heard = Reattention(mode="vision"), []
    for seed, shown in enumerate(prompts):
        heard.append(Heard())
        batch.join(as_prompt(model, shown), policy, Sampling(max_new_tokens=16, seed=seed, **options), heard[-1])
        batch.join(as_prompt(model, shown), policy, greedy(5 + seed), Heard())
        batch.step()
    run_out(batch)
    for seed, shown in enumerate(prompts):
        expected, _, _ = alone(
            model,
            tokenizer,
            shown,
            policy,
            batch.trigger,
            generator=torch.Generator().manual_seed(seed),
            **Sampling(max_new_tokens=16, **options).as_generate_kwargs(),
        )
        assert heard[seed].tokens == expected
    assert len({tuple(one.tokens) for one in heard}) == 4


def test_two_draws_without_a_seed_differ(model, batch, prompts):
    """Would catch generators that all start from the library's default seed."""
    heard = [Heard(), Heard()]
    for one in heard:
        batch.join(as_prompt(model, prompts[0]), Reattention(), Sampling(max_new_tokens=12, temperature=2.0), one)
    run_out(batch)
    assert heard[0].tokens != heard[1].tokens


def test_ends_as_generate_ends(model, tokenizer, trigger, prompts, monkeypatch):
    """Would catch a stop token that is not told or does not stop, and a row that outgrows the context."""
    calm = Trigger(trigger.open_id, trigger.close_id)
    tokens, _, _ = alone(model, tokenizer, prompts[0], Reattention(mode="text"), calm, max_new_tokens=12)
    last = next(token for at, token in enumerate(tokens) if at >= 4 and token not in tokens[:at])
    monkeypatch.setattr(model.generation_config, "eos_token_id", [last, 3])
    with torch.no_grad():
        batch, heard = ContinuousBatch(model, tokenizer, calm), Heard()
        batch.join(as_prompt(model, prompts[0]), Reattention(mode="text"), greedy(12), heard)
        run_out(batch)
        assert heard.tokens == tokens[: tokens.index(last) + 1]
        assert heard.ended.reason == "stop"
        endless = Heard()
        options = DecodeOptions(ignore_eos=True)
        batch.join(as_prompt(model, prompts[0]), Reattention(mode="text"), greedy(12), endless, options)
        run_out(batch)
        assert (endless.tokens, endless.ended.reason) == (tokens, "length")
        short = Heard()
        batch.max_context = len(prompts[0].token_ids) + 3
        batch.join(as_prompt(model, prompts[0]), Reattention(mode="text"), greedy(12), short)
        run_out(batch)
    assert (len(short.tokens), short.ended.reason) == (3, "context")


@pytest.mark.parametrize("bound", [0, 7])
def test_reasoning_ends_as_in_generate(model, tokenizer, batch, prompts, bound):
    """Would catch a forced CONCLUSION that the engine samples over, counts as sampled, or gives a neighbour."""
    shown, heard, other = prompts[1], Heard(), Heard()
    sampling = Sampling(max_new_tokens=20, max_reasoning_tokens=bound)
    batch.join(as_prompt(model, prompts[0]), Reattention(), greedy(24), other)
    batch.join(as_prompt(model, shown), Reattention(), sampling, heard)
    run_out(batch)
    output = model.generate(
        **batch_inputs(tokenizer, [shown]),
        custom_generate=LookAgainDecoding(batch.trigger, Reattention(), reasoning=sampling.bound_reasoning(tokenizer)),
        return_dict_in_generate=True,
        max_new_tokens=20,
    )
    slots = output.slots[0]
    assert heard.tokens == slots.token_ids[response_slots(slots)].tolist()
    assert tokenizer.convert_tokens_to_ids("<CONCLUSION>") in heard.tokens
    sampled = slots.count(Provenance.SAMPLED)
    assert (heard.ended.sampled, heard.ended.forced) == (sampled, len(response_slots(slots)) - sampled)
    assert other.tokens == alone(model, tokenizer, prompts[0], Reattention(), batch.trigger, max_new_tokens=24)[0]


def test_a_conversation_without_image_shares_a_batch(model, tokenizer, batch, prompts):
    """Would catch a row without features that is shown its neighbour's, or a ranking over no rows."""
    blind, heard = make_prompt(tokenizer, "How many are two and two?", []), Heard()
    batch.join(as_prompt(model, prompts[1]), Reattention(mode="route"), greedy(20), Heard())
    batch.join(as_prompt(model, blind), Reattention(mode="route"), greedy(14), heard)
    run_out(batch)
    tokens, reflections, _ = alone(model, tokenizer, blind, Reattention(mode="route"), batch.trigger, max_new_tokens=14)
    assert (heard.tokens, heard.ended.reflections) == (tokens, reflections)
    assert [r.skipped for r in reflections] == ["no image", "no image"]


# --- what a row costs, and what is left of it


@contextmanager
def widths(model: Any) -> Any:
    """(rows, slots) of each pass of the language model."""
    seen: list[tuple[int, ...]] = []

    def note(module: Any, args: Any, options: dict[str, Any]) -> None:
        seen.append(tuple(options["inputs_embeds"].shape[:2]))

    hook = model.base_model.language_model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield seen
    finally:
        hook.remove()


def test_passes_are_as_wide_as_the_batch_is(model, tokenizer, trigger, prompts):
    """Would catch steps over places that nobody sits in, a prefill done twice, and a pass for rows that only wait."""
    batch = ContinuousBatch(model, tokenizer, AtColumns(trigger, (2,)))
    first, second = (len(prompts[i].token_ids) for i in (0, 2))
    with torch.no_grad(), widths(model) as seen:
        batch.join(as_prompt(model, prompts[0]), Reattention(), greedy(4), Heard())
        batch.step()
        batch.join(as_prompt(model, prompts[2]), Reattention(), greedy(6), Heard())
        run_out(batch)
    look = [(1, 6 + 2 + 1), (1, 15 + 2 + 1)]
    assert seen == [(1, first), (1, 1), (1, second), (2, 1), look[0], (2, 1), look[1], (1, 1), (1, 1)]


def kernel(model: Any) -> str:
    return str(model.config.get_text_config()._attn_implementation)


def test_only_rankings_are_recorded_and_only_while_they_run(model, batch, prompts):
    """Would catch text and COPY that pay for ROUTE's queries, and a model that is left with the recorder's kernel."""
    seen: dict[str, set[str]] = {"copy": set(), "route": set()}

    class Watching(Heard):
        def send(self, event: BackendEvent) -> None:
            seen[self.name].add(kernel(model))

    def listener(name: str) -> Heard:
        made = Watching()
        made.name = name
        return made

    batch.join(as_prompt(model, prompts[0]), Reattention(), greedy(3), listener("copy"))
    run_out(batch)
    assert seen["copy"] == {"sdpa"}
    batch.join(as_prompt(model, prompts[0]), Reattention(), greedy(20), Heard())
    batch.join(as_prompt(model, prompts[0]), Reattention(mode="route"), greedy(5), listener("route"))
    with batch.model_as_it_was():
        assert kernel(model) == "sdpa"
    run_out(batch)
    assert "look_again_sdpa" in seen["route"]
    assert kernel(model) == "sdpa"


def test_nothing_is_left_of_rows_that_ended(model, batch, prompts):
    """Would catch rows, features or keys kept for answers that were given long ago."""
    sizes = []
    for length in (40, 4, 3, 12, 5):
        for policy in (POLICIES[0], POLICIES[1]):
            batch.join(as_prompt(model, prompts[1]), policy, greedy(length), Heard())
        run_out(batch)
        sizes.append((batch.runner.cache.allocated_slots, len(batch.runner.builders)))
    assert sizes == [(0, 0)] * 5
    gc.collect()
    assert not [thing for thing in gc.get_objects() if type(thing) is DecodedSequence]


def test_a_long_row_gives_its_memory_back_when_it_leaves(model, batch, prompts):
    """Would catch a buffer that stays as long as the longest answer ever while others keep the batch alive."""
    batch.join(as_prompt(model, prompts[1]), Reattention(), greedy(95), Heard())
    batch.join(as_prompt(model, prompts[0]), Reattention(mode="text"), greedy(99), Heard())
    for _ in range(93):
        batch.step()
    long = batch.runner.cache.allocated_sequences * batch.runner.cache.allocated_slots
    run_out_to(batch, lambda: len(batch.running) == 1)
    cache = batch.runner.cache
    assert cache.allocated_sequences * cache.allocated_slots < 0.6 * long
    assert cache.allocated_slots >= cache.lengths[0]


def run_out_to(batch: ContinuousBatch, reached: Callable[[], bool]) -> None:
    while not reached():
        batch.step()


# --- what goes wrong is one row's affair


def test_a_prefill_that_fails_leaves_the_others_alone(model, tokenizer, batch, prompts):
    """Would catch a half-joined row that stays in the batch."""
    heard, broken = Heard(), as_prompt(model, prompts[2])
    batch.join(as_prompt(model, prompts[0]), Reattention(mode="route"), greedy(15), heard)
    batch.step()

    def fail(module: Any, args: Any, options: dict[str, Any]) -> None:
        if options["inputs_embeds"].shape[1] == len(broken.token_ids):
            raise torch.OutOfMemoryError("no room")

    hook = model.base_model.language_model.register_forward_pre_hook(fail, with_kwargs=True)
    try:
        with pytest.raises(torch.OutOfMemoryError):
            batch.join(broken, Reattention(mode="route"), greedy(5), Heard())
    finally:
        hook.remove()
    assert len(batch.running) == len(batch.runner.builders) == batch.runner.cache.num_sequences == 1
    run_out(batch)
    assert (
        heard.tokens
        == alone(model, tokenizer, prompts[0], Reattention(mode="route"), batch.trigger, max_new_tokens=15)[0]
    )


@pytest.mark.parametrize("first", [True, False])
def test_a_draw_that_fails_ends_its_own_row(model, tokenizer, batch, prompts, first, monkeypatch):
    """Would catch a row without an owner that stays in the batch and takes later answers down with it."""
    fine, broken = Heard(), Heard()
    batch.join(as_prompt(model, prompts[0]), Reattention(mode="text"), greedy(15), fine)
    draws = iter([None] * (0 if first else 2))

    def choose(self: Any, scores: torch.Tensor) -> torch.Tensor:
        if next(draws, "broken") == "broken":
            raise RuntimeError("probability tensor contains nan")
        return scores.argmax(-1)

    monkeypatch.setattr("look_again.serving.engine.token_chooser.Sampler.choose", choose)
    batch.join(
        as_prompt(model, prompts[1]), Reattention(mode="text"), Sampling(max_new_tokens=5, temperature=1), broken
    )
    run_out(batch)
    assert isinstance(broken.error, RuntimeError)
    assert len(broken.tokens) == (0 if first else 2)
    assert (
        fine.tokens
        == alone(model, tokenizer, prompts[0], Reattention(mode="text"), batch.trigger, max_new_tokens=15)[0]
    )


def test_a_look_that_fails_ends_its_own_row(model, tokenizer, batch, prompts):
    """Would catch one row's insertion that takes its neighbours down with it."""
    looks, texts = Heard(), Heard()
    batch.join(as_prompt(model, prompts[2]), Reattention(), greedy(15), looks)
    batch.join(as_prompt(model, prompts[0]), Reattention(mode="text"), greedy(15), texts)

    def fail(module: Any, args: Any, options: dict[str, Any]) -> None:
        if options["inputs_embeds"].shape[1] > 1:
            raise torch.OutOfMemoryError("no room")

    hook = model.base_model.language_model.register_forward_pre_hook(fail, with_kwargs=True)
    try:
        run_out(batch)
    finally:
        hook.remove()
    assert isinstance(looks.error, torch.OutOfMemoryError)
    assert len(looks.tokens) == 4
    assert (
        texts.tokens
        == alone(model, tokenizer, prompts[0], Reattention(mode="text"), batch.trigger, max_new_tokens=15)[0]
    )
