"""ROUTE in training: exactly the visual tokens that decoding would pick with these tokens.

The response is fed segment by segment on a growing cache, so every slot passes once, without gradients: the prompt and
the text up to the first reflection for all sequences together, then, for those with more reflections, segment by
segment.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from look_again.core.attention import recorded_attention
from look_again.core.families import attention_layers, find_family
from look_again.core.reattention import choose_visual_tokens, list_features, list_frames
from look_again.core.runner import Runner
from look_again.core.slots import Provenance
from look_again.training.example import Example, add_insertion, add_until_reflection, start_sequence


@torch.no_grad()
def select_visual_tokens(
    model: Any, examples: Sequence[Example], features: Sequence[torch.Tensor], reflection_id: int
) -> list[list[list[int]]]:
    """Per example, per reflection, the visual tokens that ROUTE re-inserts.

    All examples share one policy's rule and layers.
    """
    family = find_family(model.config)
    tokens = family.vision_tokens(model.config)
    policy = examples[0].policy
    layers = policy.ranking_layers(model.config.get_text_config().num_hidden_layers, attention_layers(model.config))
    builders = [start_sequence(family, tokens, example) for example in examples]
    chosen: list[list[list[int]]] = [[] for _ in examples]
    ends = [
        add_until_reflection(builder, example, 0, reflection_id)
        for builder, example in zip(builders, examples, strict=True)
    ]
    with recorded_attention(model):
        runner = Runner(
            model,
            builders,
            features,
            score_layers=layers,
            score_prompt=policy.rule == "relative",
            count_copies=policy.count_copies,
        )
        runner.prefill()
        for i, example in enumerate(examples):
            index = ends[i]
            while index < len(example.response_ids):
                visual_indices = _choose(runner, i, example, chosen[i], sampled_before=index)
                chosen[i].append(visual_indices)
                add_insertion(builders[i], example, visual_indices)
                builders[i].add_token(reflection_id, Provenance.SAMPLED)
                index = add_until_reflection(builders[i], example, index + 1, reflection_id)
                if index < len(example.response_ids):
                    runner.chunk(i)
    return chosen


def count_passes(examples: Sequence[Example], reflection_id: int, *, alone: bool = False) -> int:
    """Forward passes of `select_visual_tokens`: one for all, and one per reflection that another follows.

    alone: each sequence is prefilled by itself.
    """
    later = sum(max(0, example.response_ids.count(reflection_id) - 1) for example in examples)
    return (len(examples) if alone else bool(examples)) + later


@torch.no_grad()
def idle_pass(model: Any) -> None:
    """A pass that shows nothing: where weights are sharded, every process has to take part in every pass."""
    token = torch.zeros((1, 1), dtype=torch.long, device=model.get_input_embeddings().weight.device)
    positions = torch.zeros((find_family(model.config).position_dims, 1, 1), dtype=torch.long, device=token.device)
    positions = find_family(model.config).shape_positions(positions)
    model.base_model(input_ids=token, position_ids=positions, use_cache=False)


def _choose(
    runner: Runner, sequence: int, example: Example, earlier: Sequence[Sequence[int]], sampled_before: int
) -> list[int]:
    """The visual tokens of the reflection that follows those that put back `earlier`."""
    policy = example.policy
    if sum(map(bool, earlier)) >= policy.max_reinsertions or policy.lacks_ranking(sampled_before):
        return []
    visual_tokens, frames = sum(span.count for span in example.spans), list_frames(policy, example.spans)
    features = list_features(policy, runner.features[sequence])
    scores = runner.scores(sequence, policy.rule)
    return choose_visual_tokens(policy, visual_tokens, scores, len(earlier), **frames, **features)
