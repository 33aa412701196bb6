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

from look_again.core.inputs import left_padded, stack_pixels
from look_again.core.prefill import encode_with_control, start_batch
from look_again.core.reattention import Reattention
from look_again.core.sequence import DecodedSequence
from look_again.core.slots import Provenance
from look_again.core.trigger import Trigger
from look_again.data.sample import Sample
from look_again.rl.refill import RefilledSampling, split_generator
from look_again.text.chat import decode_text
from look_again.training.batches import Codec, Item
from look_again.training.example import Example
from look_again.training.module import evaluating


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
) -> list[Rollout]:
    """G answers to each question, those of one question next to each other; (Q * G).

    Sampled from the whole distribution at `temperature`, whatever the checkpoint asks for, so that they are exact.
    places: answers at once, None for all; as one ends the next takes its place. An answer depends on `generator` and
    its number alone, not on what is decoded beside it.
    """
    items = [codec.item(sample, policy) for sample in samples]
    prompts = [item.example.prompt_ids for item in items]
    inputs = left_padded([prompt for prompt in prompts for _ in range(group)], codec.tokenizer, model.device)
    pixels = stack_pixels([item.images for item in items])
    sampling = RefilledSampling(
        model,
        Trigger.of(codec.tokenizer),
        policy,
        places=places or len(samples) * group,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
    )
    with evaluating(model):
        images, others = encode_with_control(model, policy, pixels)
        starts = start_batch(model, inputs["input_ids"], inputs["attention_mask"], images, others, group)
        sequences = sampling.sample(starts, split_generator(generator, len(starts)))
    return [_rollout(codec, samples[i // group], items[i // group], one) for i, one in enumerate(sequences)]


def _rollout(codec: Codec, sample: Sample, item: Item, sequence: DecodedSequence) -> Rollout:
    slots, prompt = sequence.builder.build(), item.example
    ids = slots.token_ids[slots.provenance == Provenance.SAMPLED].tolist()
    chosen = [list(reflection.visual_indices) for reflection in sequence.reflections]
    example = Example(prompt.prompt_ids, ids, prompt.grids, prompt.policy, [False] * len(ids), chosen)
    finished = sequence.finish_reason == "stop"
    return Rollout(
        sample,
        Item(item.images, example),
        decode_text(codec.tokenizer, ids),
        ids,
        finished,
    )
