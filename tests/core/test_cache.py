"""The cache of ragged rows, and what a reflection costs on it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from look_again.core.cache import RaggedCache
from look_again.core.families import find_family
from look_again.core.reattention import Reattention, reinsert, split_by_image
from look_again.core.runner import Runner, cache_keyword
from look_again.core.slots import Provenance, SlotBuilder, build_spans
from tests.tiny_model import decode, feature_table

LAYERS, HEADS, DIM = 2, 3, 4


def states(batch: int, slots: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, HEADS, slots, DIM, generator=generator)


def write(cache: RaggedCache, batch: int, slots: int, seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Write random states in every layer; returns what each layer handed to the attention."""
    return [
        cache.update(states(batch, slots, 10 * seed + i), -states(batch, slots, 10 * seed + i), i)
        for i in range(LAYERS)
    ]


# --- the buffer


def test_equal_rows_behave_as_the_librarys_cache():
    """Would catch a prefill or step whose keys differ from what a plain growing cache returns."""
    ours, library = RaggedCache(LAYERS, 2), DynamicCache()
    for seed, slots in enumerate([5, 1, 1, 40, 1]):
        assert ours.select_all(torch.device("cpu")) is None
        assert ours.get_mask_sizes(slots, 0) == (library.get_seq_length() + slots, 0)
        for layer, returned in enumerate(write(ours, 2, slots, seed)):
            new = states(2, slots, 10 * seed + layer)
            expected = library.update(new, -new, layer)
            assert all(map(torch.equal, returned, expected))
        for row in range(2):
            ours.advance(row, slots)
        assert ours.get_seq_length() == library.get_seq_length() - slots  # until a window for the next pass is chosen


def test_ragged_rows_write_at_their_own_length():
    """Would catch a row that writes at its neighbour's length, or one that reads beyond its own.

    Row 0 holds 3 slots and row 1 holds 5; then each gets one more, row 1 alone two, and each one more.
    """
    cache = RaggedCache(LAYERS, 2)
    cache.select_all(torch.device("cpu"))
    write(cache, 2, 5, 0)
    cache.advance(0, 3)
    cache.advance(1, 5)
    mask = cache.select_all(torch.device("cpu"))
    assert mask is not None
    assert mask.tolist() == [[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]]
    write(cache, 2, 1, 1)
    cache.advance(0, 1)
    cache.advance(1, 1)
    cache.select_one(1)
    assert write(cache, 1, 2, 2)[0][0].shape == (1, HEADS, 8, DIM)
    cache.advance(1, 2)
    assert cache.select_all(torch.device("cpu")).tolist() == [[1] * 5 + [0] * 4, [1] * 9]
    write(cache, 2, 1, 3)
    cache.advance(0, 1)
    cache.advance(1, 1)
    assert cache.lengths == [5, 9]
    for layer in range(LAYERS):
        first, step, chunk, last = (
            states(b, n, 10 * s + layer) for s, (b, n) in enumerate([(2, 5), (2, 1), (1, 2), (2, 1)])
        )
        expected_0 = torch.cat([first[0, :, :3], step[0], last[0]], dim=1)
        expected_1 = torch.cat([first[1], step[1], chunk[0], last[1]], dim=1)
        assert torch.equal(cache.read_keys(layer, 0), expected_0)
        assert torch.equal(cache.read_keys(layer, 1), expected_1)
        assert torch.equal(cache.layers[layer].values[1, :, :9], -expected_1)


def test_growing_keeps_contents_and_stays_small():
    """Would catch contents lost on growth, and a buffer that doubles."""
    cache = RaggedCache(LAYERS, 1)
    cache.select_one(0)
    write(cache, 1, 300, 0)
    cache.advance(0, 300)
    grown = set()
    for seed in range(1, 200):
        cache.select_one(0)
        write(cache, 1, 1, seed)
        cache.advance(0, 1)
        grown.add(cache.allocated_slots)
        assert cache.lengths[0] <= cache.allocated_slots <= 1.1 * cache.lengths[0] + 16
    assert len(grown) > 3
    expected = torch.cat([states(1, 300, 0), *[states(1, 1, 10 * seed) for seed in range(1, 200)]], dim=2)
    assert torch.equal(cache.read_keys(0, 0), expected[0])


def test_slots_taken_back_are_written_over():
    """Would catch pieces of a tag that stay in the sequence after they were taken back."""
    cache = RaggedCache(LAYERS, 1)
    for seed, (slots, back) in enumerate([(4, 2), (3, 0)]):
        cache.select_one(0)
        write(cache, 1, slots, seed)
        cache.advance(0, slots - back)
    assert torch.equal(cache.read_keys(1, 0), torch.cat([states(1, 4, 1)[0, :, :2], states(1, 3, 11)[0]], dim=1))


# --- with the model


def test_cached_keys_and_values_equal_the_librarys_cache(model, tokenizer, trigger, prompts):
    """Would catch padding, or a neighbour's slot, left inside a row after rows reflected at different times."""
    family = find_family(model.config)
    tokens = family.vision_tokens(model.config)
    chance, builders = random.Random(0), []
    for prompt in prompts:
        builder = SlotBuilder(family, tokens)
        builder.add_prompt(prompt.token_ids, grids_of(model, prompt))
        builders.append(builder)
    runner = Runner(model, builders, [feature_table(model, prompt) for prompt in prompts])
    with torch.no_grad():
        runner.prefill()
        for step in range(12):
            for builder in builders:
                builder.add_token(chance.randrange(100, 300), Provenance.SAMPLED)
            runner.step([row for row in range(4) if row != step % 5])
            if (row := step % 5) < 4:
                put_back(model, builders[row], prompts[row])
                runner.chunk(row)
        for row, prompt in enumerate(prompts):
            library = DynamicCache()
            feed_whole(model, builders[row], feature_table(model, prompt), library)
            assert runner.cache.lengths[row] == len(builders[row]) == library.get_seq_length()
            for layer in range(2):
                assert torch.allclose(runner.cache.read_keys(layer, row), library.layers[layer].keys[0], atol=1e-4)
                values = runner.cache.layers[layer].values[row, :, : len(builders[row])]
                assert torch.allclose(values, library.layers[layer].values[0], atol=1e-4)


def grids_of(model: Any, prompt: Any) -> Any:
    return build_spans([find_family(model.config).merged_grid(grid, model.config) for grid in prompt.image_grid_thw])


def put_back(model: Any, builder: SlotBuilder, prompt: Any) -> None:
    spans = grids_of(model, prompt)
    reinsert(builder, Reattention(), split_by_image(range(sum(span.count for span in spans)), spans))
    builder.add_token(5, Provenance.SAMPLED)


def feed_whole(model: Any, builder: SlotBuilder, table: torch.Tensor, library: DynamicCache) -> None:
    """One pass over the finished sequence that fills the library's cache."""
    slots = builder.build()
    embeddings = model.get_input_embeddings()(slots.token_ids)
    embeddings[slots.visual_indices >= 0] = table[slots.visual_indices[slots.visual_indices >= 0]]
    model.base_model.language_model(
        inputs_embeds=embeddings[None],
        position_ids=slots.positions[:, None],
        use_cache=True,
        **{cache_keyword(model): library},
    )


# --- what decoding costs


@contextmanager
def passes(model: Any) -> Iterator[tuple[list[int], list[tuple[int, int]]]]:
    """Patches the vision tower was given per call, and (rows, slots) of each pass of the language model."""
    images: list[int] = []
    inputs: list[tuple[int, int]] = []

    def count_patches(module: Any, args: Any, output: Any) -> None:
        images.append(len(args[0]))

    def count_slots(module: Any, args: Any, options: dict[str, Any], output: Any) -> None:
        inputs.append(tuple(options["inputs_embeds"].shape[:2]))

    hooks = [
        model.base_model.visual.register_forward_hook(count_patches),
        model.base_model.language_model.register_forward_hook(count_slots, with_kwargs=True),
    ]
    try:
        yield images, inputs
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize(
    ("policy", "inserted"),
    [
        (Reattention(mode="copy"), 21 + 4),
        (Reattention(mode="copy", delimiters=False), 21),
        (Reattention(mode="route", keep=40, delimiters=False), 9),
        (Reattention(mode="text"), 0),
    ],
    ids=["copy", "bare", "route", "text"],
)
@pytest.mark.parametrize("reflections", [0, 1, 3])
def test_a_reflection_costs_one_pass_over_what_it_puts_back(
    model, tokenizer, trigger, prompts, policy, inserted, reflections
):
    """Would catch a second look through the vision tower and a prefill done again."""
    plan = {(0, 3 + 5 * i): trigger.open_id for i in range(reflections)}
    with passes(model) as (images, inputs):
        decode(model, tokenizer, prompts[1:2], policy, plan, max_new_tokens=20)
    assert images == [len(prompts[1].pixel_values)]
    expected = [(1, len(prompts[1].token_ids)), *[(1, 1)] * 19]
    for _, column in plan:
        expected[column + 1] = (1, inserted + 1)
    assert inputs == expected


def test_reflecting_rows_of_a_batch_are_fed_alone(model, tokenizer, trigger, prompts):
    """Would catch a batch that is padded to the longest insertion, and rows fed one by one for no reason."""
    plan = {(0, 4): trigger.open_id, (2, 4): trigger.open_id, (3, 6): trigger.open_id}
    with passes(model) as (images, inputs):
        decode(model, tokenizer, prompts, Reattention(), plan, max_new_tokens=9)
    assert len(images) == 1
    longest = max(len(prompt.token_ids) for prompt in prompts)
    steps = [(4, 1)] * 8
    after_4 = [(1, 6 + 2 + 1), (1, 15 + 2 + 1)]
    assert inputs == [(4, longest), *steps[:5], *after_4, *steps[5:7], (1, 21 + 4 + 1), *steps[7:]]


def test_allocated_slots_follow_the_longest_row(model, tokenizer, trigger, prompts):
    """Would catch a cache sized for reflections that never come, or for the sum of the rows."""
    plan = {(0, column): trigger.open_id for column in range(3, 60, 9)}
    output = decode(model, tokenizer, prompts, Reattention(), plan, max_new_tokens=64)
    longest = max(len(slots) for slots in output.slots)
    assert longest - 1 <= output.cache_slots <= 1.1 * longest + 16
