"""From a prompt and a response to slots and targets: what the trainer sees is what decoding would have produced.

At each `<REFLECTION>` the policy's rows go in, through the same builder that decoding uses. Each sampled
token's target sits on the slot whose logits sampled it; for that `<REFLECTION>` it is the slot before the insertion.
A plain one-step shift would ask the last re-inserted row for the tag, which decoding never does.

Legend: N slots, B batch rows, L longest row, R shown feature rows of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from look_again.core.families import Family, Grid, VisionTokens
from look_again.core.reattention import Reattention, choose_visual_tokens, reinsert, split_by_image
from look_again.core.slots import Provenance, SlotBuilder, Slots, VisualSpan, build_spans


@dataclass
class Example:
    """One training row, tokenised.

    silent: one flag per response token; a silent token is read but carries no loss (planted mistakes).
    grids: one per image. policy: what happens at its reflections. chosen: the rows of each reflection, where a rollout
    remembers them; None lets the policy choose.
    """

    prompt_ids: list[int]
    response_ids: list[int]
    grids: list[Grid]
    policy: Reattention
    silent: list[bool] = field(default_factory=list)
    chosen: list[list[int]] | None = None

    @property
    def needs_scores(self) -> bool:
        """Whether the rows of its reflections have to be ranked."""
        return self.policy.needs_scores and bool(self.grids) and self.chosen is None

    @property
    def spans(self) -> tuple[VisualSpan, ...]:
        return build_spans(self.grids)


def start_sequence(family: Family, tokens: VisionTokens, example: Example) -> SlotBuilder:
    """A builder that holds the example's prompt."""
    builder = SlotBuilder(family, tokens)
    builder.add_prompt(example.prompt_ids, example.spans)
    return builder


def add_until_reflection(builder: SlotBuilder, example: Example, index: int, reflection_id: int) -> int:
    """Append response tokens from `index` up to the next `<REFLECTION>` (not included); returns where that one is."""
    while index < len(example.response_ids) and example.response_ids[index] != reflection_id:
        builder.add_token(example.response_ids[index], Provenance.SAMPLED)
        index += 1
    return index


def add_insertion(builder: SlotBuilder, example: Example, rows: Sequence[int]) -> None:
    """Re-insert chosen rows of the example's images."""
    reinsert(builder, example.policy, split_by_image(rows, example.spans))


def add_response(
    builder: SlotBuilder,
    example: Example,
    reflection_id: int,
    chosen: Sequence[Sequence[int]] | None = None,
) -> None:
    """Append the whole response. `chosen[i]` are the rows of reflection i where a ranking was needed."""
    index, reflection = 0, 0
    visual_tokens = sum(span.count for span in example.spans)
    while (index := add_until_reflection(builder, example, index, reflection_id)) < len(example.response_ids):
        if visual_tokens and example.policy.inserts and reflection < example.policy.max_reinsertions:
            rows = (
                choose_visual_tokens(example.policy, visual_tokens, None, reflection)
                if chosen is None
                else chosen[reflection]
            )
            add_insertion(builder, example, rows)
        builder.add_token(reflection_id, Provenance.SAMPLED)
        index, reflection = index + 1, reflection + 1


@dataclass
class Batch:
    """Right-padded sequences: token_ids (B, L), positions (P, B, L), targets (B, L), feature_rows (R,).

    feature_rows index the concatenated features of all images of the step, in the order in which slots show them.
    rows: which of the step's rows these are.
    """

    token_ids: torch.Tensor
    positions: torch.Tensor
    targets: torch.Tensor
    feature_rows: torch.Tensor
    rows: list[int] = field(default_factory=list)


def pad_batch(
    sequences: Sequence[Slots], targets: Sequence[torch.Tensor], rows_before: Sequence[int], pad_id: int
) -> Batch:
    """Stack sequences; `rows_before[b]` is how many feature rows the images of earlier rows have."""
    longest = max(len(slots) for slots in sequences)
    batch = Batch(
        torch.full((len(sequences), longest), pad_id),
        torch.zeros((sequences[0].positions.shape[0], len(sequences), longest), dtype=torch.long),
        torch.full((len(sequences), longest), -100),
        torch.cat(
            [
                slots.visual_indices[slots.visual_indices >= 0] + n
                for slots, n in zip(sequences, rows_before, strict=True)
            ]
        ),
    )
    for b, slots in enumerate(sequences):
        batch.token_ids[b, : len(slots)] = slots.token_ids
        batch.positions[:, b, : len(slots)] = slots.positions
        batch.targets[b, : len(slots)] = targets[b]
    return batch
