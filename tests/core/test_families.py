"""Every family: decoding with re-insertion equals one pass of the library that is given the images again.

The library's pass has its own positions and masks and is given pixels, never features. What two exact computations may
differ by is measured: features scaled by 1 + 1e-7 go through the same pass, and the tolerance is a multiple of what
that moves. The bound is far below what any error does; one test shows that by making errors.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version
from transformers import LogitsProcessor, LogitsProcessorList

import look_again.core.generate
from look_again.core.families import FAMILIES, REFUSED, Grid, UnknownFamilyError, attention_layers, find_family
from look_again.core.generate import LookAgainDecoding, LookAgainOutput
from look_again.core.prefill import encode
from look_again.core.reattention import Reattention, choose_visual_tokens, top_indices
from look_again.core.runner import encoder_outputs
from look_again.core.slots import Provenance, Slots
from look_again.core.trigger import Trigger
from look_again.training.example import Example, add_response, start_sequence
from look_again.training.module import Reattending
from tests.tiny_families import CLOSE, IMAGE, OPEN, TINY_FAMILIES, TinyFamily, family_of
from tests.tiny_model import eager

WORDS = [11, 12, 13, 14, 15, 16, 17], [21, 22, 23, 24, 25], [41, 42, 43, 44, 45, 46]
REFLECT_AT = (3, 9), (6,)  # response columns, by sequence
STEPS = 14
FLOOR, FACTOR, CEILING = 1e-5, 20.0, 2e-3

COPY = Reattention(mode="copy")
CHOSEN = [
    Reattention(mode="copy", delimiters=False),
    Reattention(mode="route", keep=40),
    Reattention(mode="route", keep=40, layout="strip", rule="relative"),
    Reattention(mode="route", keep=60, delimiters=False, count_copies=True),
]
SERVED = [name for name in TINY_FAMILIES if FAMILIES[family_of(name)].is_served]
families = pytest.mark.parametrize("name", SERVED)


@dataclass(frozen=True)
class Prompt:
    """Token ids and the numbers of the images that they show."""

    ids: list[int]
    images: list[int]


@lru_cache(maxsize=2)
def load(name: str) -> TinyFamily:
    return TINY_FAMILIES[name]()


def two_prompts(tiny: TinyFamily) -> list[Prompt]:
    """Two images of two sizes with text between them; and one image in a shorter prompt."""
    both = [*WORDS[0], *tiny.block(0), 20, *tiny.block(1), *WORDS[1]]
    return [Prompt(both, [0, 1]), Prompt([*WORDS[0][:3], *tiny.block(2), *WORDS[2]], [2])]


class Script(LogitsProcessor):
    """Reflects at the planned columns of each sequence and nowhere else."""

    def __init__(self, columns: int, plan: tuple[tuple[int, ...], ...]) -> None:
        self.columns, self.plan = columns, plan

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores = scores.clone()
        scores[:, [0, CLOSE, OPEN]] = float("-inf")
        for sequence, columns in enumerate(self.plan):
            if input_ids.shape[1] - self.columns in columns:
                scores[sequence] = float("-inf")
                scores[sequence, OPEN] = 0
        return scores


def inputs_of(tiny: TinyFamily, prompts: list[Prompt]) -> dict[str, torch.Tensor]:
    """Prompts padded on the left, and all their pixels."""
    longest = max(len(prompt.ids) for prompt in prompts)
    ids = torch.tensor([[0] * (longest - len(prompt.ids)) + prompt.ids for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt.ids)) + [1] * len(prompt.ids) for prompt in prompts])
    return {"input_ids": ids, "attention_mask": mask, **tiny.batch_pixels([prompt.images for prompt in prompts])}


def decode(tiny: TinyFamily, prompts: list[Prompt], policy: Reattention, plan: Any = REFLECT_AT) -> LookAgainOutput:
    inputs = inputs_of(tiny, prompts)
    script = Script(inputs["input_ids"].shape[1], plan[: len(prompts)])
    return tiny.model.generate(
        **inputs,
        custom_generate=LookAgainDecoding(Trigger(OPEN, CLOSE), policy),
        max_new_tokens=STEPS,
        do_sample=False,
        logits_processor=LogitsProcessorList([script]),
        return_dict_in_generate=True,
        output_logits=True,
    )


def tolerance(tiny: TinyFamily, ids: list[int], images: list[int]) -> float:
    """What rounding alone may do here."""
    return bound_noise(tiny.library_pass(ids, images, scale=1 + 1e-7) - tiny.library_pass(ids, images))


def gathered_tolerance(tiny: TinyFamily, slots: Slots, table: torch.Tensor) -> float:
    """The same for a pass over chosen features."""
    return bound_noise(gathered_pass(tiny, slots, table * (1 + 1e-7)).logits - gathered_pass(tiny, slots, table).logits)


def bound_noise(moved: torch.Tensor) -> float:
    bound = max(FLOOR, FACTOR * float(moved.abs().max()))
    assert bound < CEILING, f"rounding moves logits by {bound / FACTOR:.1e}: nothing could be told from it"
    return bound


def gap(output: LookAgainOutput, sequence: int, full_NW: torch.Tensor) -> float:
    """Largest difference between a sequence's logits while decoding and those of a whole pass."""
    slots, gaps = output.slots[sequence], []
    for step, slot in enumerate((slots.provenance == Provenance.SAMPLED).nonzero()[:, 0].tolist()):
        if (source := int(slots.sampled_from[slot])) >= 0:
            gaps.append(float((output.logits[step][sequence] - full_NW[source]).abs().max()))
    assert len(gaps) == STEPS
    return max(gaps)


def images_shown(slots: Slots, prompt: Prompt, looks: int) -> list[int]:
    """The images of a sequence in the order in which it shows them."""
    assert int((slots.provenance == Provenance.REINSERTED).sum()) > 0
    return prompt.images * (1 + looks)


def features_of(tiny: TinyFamily, prompt: Prompt) -> torch.Tensor:
    """The prompt's feature table (V, hidden and deeper levels)."""
    with torch.no_grad():
        return torch.cat([features for features, _ in encode(tiny.model, **tiny.pixels(prompt.images))])


def gathered_pass(tiny: TinyFamily, slots: Slots, table: torch.Tensor, **options: Any) -> Any:
    """One pass without cache over a finished sequence, with its chosen features at its own positions."""
    ids, shown = slots.token_ids[None], slots.visual_indices[slots.visual_indices >= 0]
    positions = find_family(tiny.model.config).shape_positions(slots.positions[:, None])
    types = {tiny.token_types: (ids == IMAGE).long()} if tiny.token_types else {}
    given = {"mm_encoder_outputs": encoder_outputs(tiny.model, [table[shown]]), **types, **options}
    with torch.no_grad():
        return tiny.model(
            input_ids=ids, position_ids=positions, attention_mask=torch.ones_like(ids), use_cache=False, **given
        )


# --- decoding equals the library


@families
@pytest.mark.parametrize("sequences", [[0], [1], [0, 1]], ids=["two images", "one image", "a ragged batch"])
def test_copy_equals_the_library_given_the_images_again(name, sequences):
    """Would catch another position, mask, cache slot, feature or delimiter than that of an image shown again."""
    tiny = load(name)
    prompts = [two_prompts(tiny)[i] for i in sequences]
    plan = tuple(REFLECT_AT[i] for i in sequences)
    output = decode(tiny, prompts, COPY, plan)
    for place, (prompt, slots) in enumerate(zip(prompts, output.slots, strict=True)):
        images, ids = images_shown(slots, prompt, len(plan[place])), slots.token_ids.tolist()
        assert ids.count(IMAGE) == sum(tiny.block(image).count(IMAGE) for image in images)
        assert gap(output, place, tiny.library_pass(ids, images)) <= tolerance(tiny, ids, images)


@families
def test_an_error_is_far_larger_than_the_tolerance(name):
    """Would catch tolerances so wide, or models so flat, that another image, order or prompt passes too."""
    tiny = load(name)
    prompt = two_prompts(tiny)[0]
    output = decode(tiny, [prompt], COPY)
    ids, images = output.slots[0].token_ids.tolist(), prompt.images * 3
    bound = tolerance(tiny, ids, images)
    wrong_images = [*prompt.images, prompt.images[0] + 4, *images[3:]]
    assert gap(output, 0, tiny.library_pass(ids, wrong_images)) > 20 * bound
    wrong_words = [ids[1], ids[0], *ids[2:]]
    assert gap(output, 0, tiny.library_pass(wrong_words, images)) > 20 * bound


@families
@pytest.mark.parametrize("policy", CHOSEN, ids=str)
def test_chosen_tokens_equal_one_pass_over_their_features(name, policy):
    """Would catch a routed token at another place, with another's features, or read by other masks."""
    tiny = load(name)
    prompts = two_prompts(tiny)
    output = decode(tiny, prompts, policy)
    for place, (prompt, slots) in enumerate(zip(prompts, output.slots, strict=True)):
        assert all(reflection.reinserted_tokens for reflection in output.reflections[place])
        table = features_of(tiny, prompt)
        full = gathered_pass(tiny, slots, table).logits[0]
        assert gap(output, place, full) <= gathered_tolerance(tiny, slots, table)


@families
@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_scores_equal_eager_attention(name, kernel, monkeypatch):
    """Would catch another scaling, layer, window or key than those that the model's own attention has."""
    tiny, seen = load(name), []

    def choose(policy, visual_tokens, scores, reflection):
        seen.append(scores.clone())
        return choose_visual_tokens(policy, visual_tokens, scores, reflection)

    monkeypatch.setattr(look_again.core.generate, "choose_visual_tokens", choose)
    prompts = two_prompts(tiny)
    policy = Reattention(mode="route", keep=40)
    tiny.model.set_attn_implementation(kernel)
    try:
        output = decode(tiny, prompts, policy)
    finally:
        tiny.model.set_attn_implementation("sdpa")
    order = sorted((at, place, i) for place, own in enumerate(REFLECT_AT) for i, at in enumerate(own))
    assert len(seen) == len(order)
    for scores, (at, place, i) in zip(seen, order, strict=True):
        expected = eager_scores(tiny, output.slots[place], prompts[place], at)
        assert (scores - expected).abs().max() <= 1e-5
        assert expected.max() - expected.min() > 1e-3
        k = policy.number_reinserted(len(scores))
        assert list(output.reflections[place][i].visual_indices) == top_indices(expected, k)


def eager_scores(tiny: TinyFamily, slots: Slots, prompt: Prompt, sampled: int) -> torch.Tensor:
    """Equation (5) over the first `sampled` sampled tokens, from the library's attention maps of one pass."""
    with eager(tiny.model):
        maps = gathered_pass(tiny, slots, features_of(tiny, prompt), output_attentions=True).attentions
    layers = attention_layers(tiny.model.config)
    if len(maps) == len(layers):  # a library that maps its attention layers alone
        layers = list(range(len(maps)))
    queries = (slots.provenance == Provenance.SAMPLED).nonzero()[:sampled, 0]
    visual = ((slots.provenance == Provenance.PROMPT) & (slots.visual_indices >= 0)).nonzero()[:, 0]
    return torch.stack([maps[layer][0][:, queries][:, :, visual].mean((0, 1)) for layer in layers]).mean(0)


@families
def test_without_reflections_it_is_the_librarys_generate(name):
    """Would catch a change of what the model says where nothing is put back."""
    tiny = load(name)
    for prompts in ([two_prompts(tiny)[0]], [two_prompts(tiny)[1]]):
        ours = decode(tiny, prompts, COPY, ((), ()))
        inputs = inputs_of(tiny, prompts)
        types = {tiny.token_types: (inputs["input_ids"] == IMAGE).long()} if tiny.token_types else {}
        never = find_family(tiny.model.config).vision_tokens(tiny.model.config).never_sampled
        theirs = tiny.model.generate(
            **inputs,
            **types,
            max_new_tokens=STEPS,
            do_sample=False,
            suppress_tokens=[0, OPEN, CLOSE, *never],
            return_dict_in_generate=True,
            output_logits=True,
        )
        bound = tolerance(tiny, prompts[0].ids, prompts[0].images)
        assert torch.equal(ours.sequences, theirs.sequences)
        assert max(float((a - b).abs().max()) for a, b in zip(ours.logits, theirs.logits, strict=True)) <= bound


# --- training sees what decoding produced


@families
@pytest.mark.parametrize("policy", [COPY, CHOSEN[1]], ids=str)
def test_the_training_pass_equals_decoding(name, policy):
    """Would catch a sequence, position, mask or choice of tokens in training that decoding never had."""
    tiny = load(name)
    prompts = two_prompts(tiny)
    output = decode(tiny, prompts, policy)
    module = Reattending(tiny.model, {"<REFLECTION>": OPEN, "</REFLECTION>": CLOSE, **other_tags()})
    examples = [example_of(tiny, prompt, output, place, policy) for place, prompt in enumerate(prompts)]
    with torch.no_grad():
        pixels = tiny.batch_pixels([prompt.images for prompt in prompts])
        features, _ = module.features(examples, **pixels)
        for slots, made in zip(output.slots, module.sequences(examples, features), strict=True):
            assert all(torch.equal(getattr(slots, field), getattr(made, field)) for field in vars(slots))
        for batch in module.batches(examples, features):
            logits, _ = module.target_logits(batch, features)
            counts = [int((row != -100).sum()) for row in batch.targets]
            for place, own in zip(batch.examples, logits.split(counts), strict=True):
                bound = gathered_tolerance(tiny, output.slots[place], features_of(tiny, prompts[place]))
                decoded = torch.stack([step[place] for step in output.logits])
                assert (own - decoded).abs().max() <= bound


@families
def test_losses_in_chunks_are_the_whole_ones(name):
    """Would catch a head whose logits a family changes once more, as Gemma 4 caps them."""
    tiny = load(name)
    prompts = two_prompts(tiny)
    output = decode(tiny, prompts, COPY)
    examples = [example_of(tiny, prompt, output, place, COPY) for place, prompt in enumerate(prompts)]
    pixels = tiny.batch_pixels([prompt.images for prompt in prompts])
    losses, log_probs = [], []
    for chunk in (None, 2):
        tags = {"<REFLECTION>": OPEN, "</REFLECTION>": CLOSE, **other_tags()}
        module = Reattending(tiny.model, tags, loss_chunk=chunk)
        with torch.no_grad():
            losses.append(module(examples, **pixels)["loss"])
            log_probs.append(torch.cat(module.log_probs(examples, **pixels, temperature=0.8)))
    assert float((losses[0] - losses[1]).abs()) <= 1e-5
    assert float((log_probs[0] - log_probs[1]).abs().max()) <= 1e-5


def other_tags() -> dict[str, int]:
    names = ("SUMMARY", "CAPTION", "REASONING", "CONCLUSION")
    return {f"<{slash}{tag}>": 92 + 2 * i + bool(slash) for i, tag in enumerate(names) for slash in ("", "/")}


def grids_of(tiny: TinyFamily, prompt: Prompt) -> list[Grid]:
    """The grid of each image of a prompt."""
    counts = [tiny.block(image).count(IMAGE) for image in prompt.images]
    patches = tiny.pixels(prompt.images).get("image_grid_thw")
    return find_family(tiny.model.config).image_grids(tiny.model.config, counts, patches)


def example_of(tiny: TinyFamily, prompt: Prompt, output: LookAgainOutput, place: int, policy: Reattention) -> Example:
    response = output.sequences[place, -STEPS:].tolist()
    grids = grids_of(tiny, prompt)
    return Example(prompt.ids, response, grids, policy, silent=[False] * STEPS)


@families
def test_targets_by_hand(name):
    """prompt .. p | 5 || block | R | 7: R is asked of 5, and 7 of R; nothing is asked of the block.

    Would catch a tag asked of the last token of a family's block.
    """
    tiny = load(name)
    prompt = two_prompts(tiny)[1]
    family, config = find_family(tiny.model.config), tiny.model.config
    grids = grids_of(tiny, prompt)
    example = Example(prompt.ids, [5, OPEN, 7], grids, COPY, silent=[False] * 3)
    builder = start_sequence(family, family.vision_tokens(config), example)
    add_response(builder, example, OPEN)
    block, first = tiny.block(prompt.images[0]), len(prompt.ids)
    expected = [-100] * (first - 1) + [5, OPEN] + [-100] * len(block) + [7, -100]
    assert builder.build().targets().tolist() == expected
    assert builder.token_ids[first + 1 : first + 1 + len(block)] == block


# --- the table


def test_every_row_of_the_table_is_tested():
    """Would catch a family that is offered and proven nowhere."""
    assert set(FAMILIES) <= set(TINY_FAMILIES)
    if Version(transformers.__version__) >= Version("5.24"):
        assert set(SERVED) == set(TINY_FAMILIES)


def test_an_older_transformers_is_named(monkeypatch):
    """Would catch a family that is served wrong by a version that never could."""
    monkeypatch.setattr(transformers, "__version__", "5.20.0")
    with pytest.raises(UnknownFamilyError, match=r"smolvlm.*5\.21 or newer, this is 5\.20\.0"):
        find_family(load("smolvlm").model.config)


@pytest.mark.parametrize("model_type", REFUSED)
def test_refused_families_are_named_with_the_reason(model_type):
    """Would catch a bare "not supported" where the reason is known."""

    class Config:
        pass

    config = Config()
    config.model_type = model_type
    with pytest.raises(UnknownFamilyError, match=model_type) as error:
        find_family(config)
    assert REFUSED[model_type] in str(error.value)


@pytest.mark.parametrize("kind", ["chunked_attention", "indexed_attention", "something_new"])
def test_layers_of_an_unknown_kind_are_refused(kind):
    """Would catch a known family with layers whose masks nobody has proven."""
    config = load("qwen2_vl").model.config
    kinds = config.text_config.layer_types
    config.text_config.layer_types = [kind, *kinds[1:]]
    try:
        with pytest.raises(UnknownFamilyError, match=kind):
            find_family(config)
    finally:
        config.text_config.layer_types = kinds
