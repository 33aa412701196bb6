"""From a prompt and a response to slots and targets: what the trainer sees is what decoding would have produced.

At each `<REFLECTION>` the policy's visual tokens go in, through the same builder that decoding uses. Each sampled
token's target sits on the slot whose logits sampled it; for that `<REFLECTION>` it is the slot before the insertion.
A plain one-step shift would ask the last re-inserted visual token for the tag, which decoding never does.

Legend: N slots, B sequences, L longest sequence, V visual tokens that the batch shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from look_again.core.families import Family, Grid, VisionTokens
from look_again.core.reattention import (
    Reattention,
    choose_visual_tokens,
    list_frames,
    list_prompt,
    reinsert,
    split_by_image,
)
from look_again.core.slots import Provenance, SlotBuilder, Slots, VisualSpan, build_spans


@dataclass
class Example:
    """A sample, tokenised.

    silent: one flag per response token; a silent token is read but carries no loss (planted mistakes).
    grids: one per image. policy: what happens at its reflections. chosen: the visual tokens of each reflection, where a
    rollout remembers them; None lets the policy choose.
    """

    prompt_ids: list[int]
    response_ids: list[int]
    grids: list[Grid]
    policy: Reattention
    silent: list[bool] = field(default_factory=list)
    chosen: list[list[int]] | None = None

    @property
    def needs_scores(self) -> bool:
        """Whether the visual tokens of its reflections have to be ranked."""
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
    """Append response tokens from `index` up to the next `<REFLECTION>` (not included); returns its index."""
    while index < len(example.response_ids) and example.response_ids[index] != reflection_id:
        builder.add_token(example.response_ids[index], Provenance.SAMPLED)
        index += 1
    return index


def add_insertion(builder: SlotBuilder, example: Example, visual_indices: Sequence[int]) -> None:
    """Re-insert chosen visual tokens of the example's images."""
    reinsert(builder, example.policy, split_by_image(visual_indices, example.spans))


def add_response(
    builder: SlotBuilder,
    example: Example,
    reflection_id: int,
    chosen: Sequence[Sequence[int]] | None = None,
) -> None:
    """Append the whole response. `chosen[i]` are the visual tokens of reflection i where a ranking was needed."""
    index, reflection, insertions = 0, 0, 0
    visual_tokens = sum(span.count for span in example.spans)
    known = list_frames(example.policy, example.spans) | list_prompt(example.policy, builder)
    while (index := add_until_reflection(builder, example, index, reflection_id)) < len(example.response_ids):
        if visual_tokens and example.policy.inserts and insertions < example.policy.max_reinsertions:
            visual_indices = (
                choose_visual_tokens(example.policy, visual_tokens, None, reflection, **known)
                if chosen is None
                else chosen[reflection]
            )
            add_insertion(builder, example, visual_indices)
            insertions += bool(visual_indices)
        builder.add_token(reflection_id, Provenance.SAMPLED)
        index, reflection = index + 1, reflection + 1


@dataclass
class Batch:
    """Right-padded sequences: token_ids (B, L), positions (P, B, L), targets (B, L), visual_indices (V,).

    visual_indices index the concatenated features of all images of the step, in the order in which slots show them.
    examples: the indices of the step's examples that these are. packed_lengths: of sequences that stand one after the
    other in the only row (B = 1, L the sum of them); None where every sequence has a row.
    """

    token_ids: torch.Tensor
    positions: torch.Tensor
    targets: torch.Tensor
    visual_indices: torch.Tensor
    examples: list[int] = field(default_factory=list)
    packed_lengths: list[int] | None = None

    @property
    def sequence_targets(self) -> tuple[torch.Tensor, ...]:
        """The targets of each sequence, in the order of `examples`; those of a padded one with its padding (-100)."""
        return self.targets.unbind() if self.packed_lengths is None else self.targets[0].split(self.packed_lengths)


def pad_batch(
    sequences: Sequence[Slots], targets: Sequence[torch.Tensor], tokens_before: Sequence[int], pad_id: int
) -> Batch:
    """Stack sequences; `tokens_before[b]` is how many visual tokens the images of earlier examples have."""
    longest = max(len(slots) for slots in sequences)
    batch = Batch(
        torch.full((len(sequences), longest), pad_id),
        torch.zeros((sequences[0].positions.shape[0], len(sequences), longest), dtype=torch.long),
        torch.full((len(sequences), longest), -100),
        _shown(sequences, tokens_before),
    )
    for b, slots in enumerate(sequences):
        batch.token_ids[b, : len(slots)] = slots.token_ids
        batch.positions[:, b, : len(slots)] = slots.positions
        batch.targets[b, : len(slots)] = targets[b]
    return batch


def pack_batch(sequences: Sequence[Slots], targets: Sequence[torch.Tensor], tokens_before: Sequence[int]) -> Batch:
    """The sequences one after the other in one row, without padding; `tokens_before` as in `pad_batch`."""
    return Batch(
        torch.cat([slots.token_ids for slots in sequences])[None],
        torch.cat([slots.positions for slots in sequences], dim=1)[:, None],
        torch.cat(list(targets))[None],
        _shown(sequences, tokens_before),
        packed_lengths=[len(slots) for slots in sequences],
    )


def _shown(sequences: Sequence[Slots], tokens_before: Sequence[int]) -> torch.Tensor:
    """(V,) indices into the features of all images of the step, of the visual tokens that the sequences show."""
    return torch.cat(
        [slots.visual_indices[slots.visual_indices >= 0] + n for slots, n in zip(sequences, tokens_before, strict=True)]
    )
