"""Rollouts: groups of sampled answers by the decoding loop, as the examples that the loss pass reads.

The loss pass sees the very sequence that was sampled: the visual tokens of its reflections are remembered, not
selected anew.

Legend: Q questions, G answers per question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from look_again.core.compiled.compiled_step import is_carried
from look_again.core.cpu_threads import decoding_threads
from look_again.core.generate import LookAgainDecoding
from look_again.core.generation_defaults import without_defaults
from look_again.core.inputs import left_padded, stack_pixels
from look_again.core.prefill import encode_with_control, start_batch
from look_again.core.reattention import Reattention
from look_again.core.sequence import Reflection
from look_again.core.slots import Provenance, Slots
from look_again.core.trigger import Trigger
from look_again.data.sample import Sample
from look_again.rl.refill import RefilledSampling, split_generator
from look_again.text.chat import decode_text
from look_again.training.batches import Codec, Item
from look_again.training.example import Example
from look_again.training.module import evaluating

Decoded = tuple[Slots, Sequence[Reflection], str]
"""An answer: the sequence as the model read it, its reflections, and why it ended."""


@dataclass
class Rollout:
    """One sampled answer. item: its images and the example that the loss pass reads. finished: it ended by itself."""

    sample: Sample
    item: Item
    text: str
    completion_ids: list[int]
    finished: bool

    @property
    def example(self) -> Example:
        return self.item.example


@torch.no_grad()
def sample_groups(
    model: Any,
    codec: Codec,
    samples: Sequence[Sample],
    policy: Reattention,
    *,
    group: int,
    max_new_tokens: int,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
    places: int | None = None,
    compile: bool = False,
) -> list[Rollout]:
    """G answers to each question, those of one question next to each other; (Q * G).

    Sampled from the whole distribution at `temperature`, whatever the checkpoint asks for, so that they are exact.
    places: answers at once; as one ends the next takes its place, and an answer depends on `generator` and its number
    alone, not on what is decoded beside it. None decodes all in one batch, whose draws they share. compile: steps run
    as a compiled graph; a model that it does not carry decodes eagerly, with a warning.
    """
    items = [codec.item(sample, policy) for sample in samples]
    with evaluating(model), decoding_threads(model), without_defaults(model):
        if places is None:
            decoding = LookAgainDecoding(Trigger.of(codec.tokenizer), policy, generator=generator, compile=compile)
            decoded = _decode_together(model, codec, items, decoding, group, max_new_tokens, temperature)
        else:
            sampling = RefilledSampling(
                model,
                Trigger.of(codec.tokenizer),
                policy,
                places=places,
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                compile=compile and is_carried(model),
            )
            decoded = _decode_refilled(sampling, codec, items, group, generator)
    return [build_rollout(codec, samples[i // group], items[i // group], *parts) for i, parts in enumerate(decoded)]


def _decode_together(
    model: Any,
    codec: Codec,
    items: Sequence[Item],
    decoding: LookAgainDecoding,
    group: int,
    max_new_tokens: int,
    temperature: float,
) -> list[Decoded]:
    """By `generate`, in one batch that waits for its longest answer."""
    inputs = _inputs(codec, items, model.device)
    output = model.generate(
        **inputs,
        **stack_pixels([item.images for item in items]),
        custom_generate=decoding,
        do_sample=True,
        temperature=temperature,
        top_k=0,
        top_p=1.0,
        repetition_penalty=1.0,  # a checkpoint's own would be missing from the loss
        num_return_sequences=group,
        max_new_tokens=max_new_tokens,
        return_dict_in_generate=True,
    )
    return list(zip(output.slots, output.reflections, output.finish_reasons, strict=True))


def _decode_refilled(
    sampling: RefilledSampling,
    codec: Codec,
    items: Sequence[Item],
    group: int,
    generator: torch.Generator | None,
) -> list[Decoded]:
    """By places that are filled again as answers end."""
    model, repeated = sampling.model, [item for item in items for _ in range(group)]
    inputs = _inputs(codec, repeated, model.device)
    images, others = encode_with_control(model, sampling.policy, stack_pixels([item.images for item in items]))
    starts = start_batch(model, inputs["input_ids"], inputs["attention_mask"], images, others, group)
    sequences = sampling.sample(starts, split_generator(generator, len(starts)))
    return [(one.builder.build(), one.reflections, one.finish_reason or "") for one in sequences]


def _inputs(codec: Codec, items: Sequence[Item], device: torch.device) -> dict[str, Any]:
    return left_padded([item.example.prompt_ids for item in items], codec.tokenizer, device)


def build_rollout(
    codec: Codec, sample: Sample, item: Item, slots: Slots, reflections: Sequence[Reflection], reason: str
) -> Rollout:
    """The rollout of a finished sequence; `item` holds its prompt and policy."""
    prompt = item.example
    ids = slots.token_ids[slots.provenance == Provenance.SAMPLED].tolist()
    chosen = [list(reflection.visual_indices) for reflection in reflections]
    example = Example(prompt.prompt_ids, ids, prompt.grids, prompt.policy, [False] * len(ids), chosen)
    finished = reason == "stop"
    return Rollout(
        sample,
        Item(item.images, example),
        decode_text(codec.tokenizer, ids),
        ids,
        finished,
    )
