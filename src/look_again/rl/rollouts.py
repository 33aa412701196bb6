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

from look_again.core.generate import LookAgainDecoding
from look_again.core.inputs import left_padded, stack_pixels
from look_again.core.reattention import Reattention
from look_again.core.slots import Provenance
from look_again.core.trigger import Trigger
from look_again.data.sample import Sample
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
) -> list[Rollout]:
    """G answers to each question, those of one question next to each other; (Q * G).

    Sampled from the whole distribution at `temperature`, whatever the checkpoint asks for, so that they are exact.
    """
    items = [codec.item(sample, policy) for sample in samples]
    prompts = [item.example.prompt_ids for item in items]
    inputs: dict[str, Any] = left_padded(prompts, codec.tokenizer, model.device)
    inputs |= stack_pixels([item.images for item in items])
    decoding = LookAgainDecoding(Trigger.of(codec.tokenizer), policy, generator=generator)
    with evaluating(model):
        output = model.generate(
            **inputs,
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
    return [_rollout(codec, samples[i // group], items[i // group], output, i) for i in range(len(samples) * group)]


def _rollout(codec: Codec, sample: Sample, item: Item, output: Any, index: int) -> Rollout:
    slots, prompt = output.slots[index], item.example
    ids = slots.token_ids[slots.provenance == Provenance.SAMPLED].tolist()
    chosen = [list(reflection.visual_indices) for reflection in output.reflections[index]]
    example = Example(prompt.prompt_ids, ids, prompt.grids, prompt.policy, [False] * len(ids), chosen)
    finished = output.finish_reasons[index] == "stop"
    return Rollout(
        sample,
        Item(item.images, example),
        decode_text(codec.tokenizer, ids),
        ids,
        finished,
    )
