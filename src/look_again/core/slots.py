"""A sequence is slots: text tokens and visual tokens, each with its provenance and its position.

This is the one definition of what the model reads. Decoding appends to it, SFT and RL build it from a response, and
losses, rewards and length counts read its provenance. It departs from the paper only in saying what the paper leaves
open: positions, delimiters and which logits chose a token.

Legend: N slots of one sequence, V visual tokens of its images. A visual token is one row of image features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import torch

from look_again.core.families import Family, Grid, VisionTokens


class Provenance(IntEnum):
    """Where a slot comes from: the prompt, the model's own sampling, re-insertion, or the decoding loop's hand.

    FORCED slots are vision delimiters around re-inserted visual tokens, the closing tag that vision-only mode writes,
    and the tags around a CONCLUSION that a bound on the reasoning brings.
    """

    PROMPT = 0
    SAMPLED = 1
    REINSERTED = 2
    FORCED = 3


@dataclass(frozen=True)
class VisualSpan:
    """One image: its visual tokens are `first` .. `first + count - 1` of the sequence's feature table (V, hidden)."""

    first: int
    grid: Grid

    @property
    def count(self) -> int:
        return self.grid[0] * self.grid[1] * self.grid[2]


def build_spans(grids: Sequence[Grid]) -> tuple[VisualSpan, ...]:
    """Spans of images whose features are concatenated in order."""
    spans: list[VisualSpan] = []
    for grid in grids:
        spans.append(VisualSpan(spans[-1].first + spans[-1].count if spans else 0, grid))
    return tuple(spans)


@dataclass(frozen=True)
class Slots:
    """A finished sequence.

    token_ids: (N,) the image token's id at visual tokens. visual_indices: (N,) index into the feature table, -1 at
    text. provenance: (N,) Provenance. positions: (position_dims, N). sampled_from: (N,) the slot whose logits sampled
    this token, -1 where nothing did. For a `<REFLECTION>` that triggered an insertion it is the last slot before it.
    """

    token_ids: torch.Tensor
    visual_indices: torch.Tensor
    provenance: torch.Tensor
    positions: torch.Tensor
    sampled_from: torch.Tensor

    def __len__(self) -> int:
        return self.token_ids.shape[0]

    def __repr__(self) -> str:
        kinds = ((kind.name.lower().replace("_", "-"), self.count(kind)) for kind in Provenance)
        return f"Slots({len(self)}: {', '.join(f'{count} {name}' for name, count in kinds if count)})"

    def count(self, provenance: Provenance) -> int:
        """Number of slots of one provenance."""
        return int((self.provenance == provenance).sum())

    def targets(self, silent: Sequence[bool] = ()) -> torch.Tensor:
        """(N,) the token that the logits of each slot have to predict; -100 where no token was sampled from them.

        `silent`, one flag per sampled token, leaves tokens out that are read but must not be learned.
        """
        sampled = self.token_ids.clone()
        if len(silent):
            sampled[(self.provenance == Provenance.SAMPLED).nonzero()[:, 0][torch.tensor(silent)]] = -100
        targets = torch.full_like(self.token_ids, -100)
        chosen = self.sampled_from >= 0
        targets[self.sampled_from[chosen]] = sampled[chosen]
        return targets


class SlotBuilder:
    """Appends text, images and insertions to one sequence, keeping positions; everything that makes slots uses it."""

    def __init__(self, family: Family, tokens: VisionTokens) -> None:
        self.family = family
        self.tokens = tokens
        self.token_ids: list[int] = []
        self.visual_indices: list[int] = []
        self.provenance: list[int] = []
        self.positions: list[tuple[int, ...]] = []
        self.sampled_from: list[int] = []
        self.next_position = 0
        self._chooser = -1  # the slot whose logits choose the next token

    def __len__(self) -> int:
        return len(self.token_ids)

    def add_token(self, token_id: int, provenance: Provenance, *, chosen: bool = True) -> None:
        """Append one text token. A sampled one is chosen by the last slot that was not an insertion.

        `chosen` False: the logits that sampled it are not in this sequence (pieces of a tag that were fed again).
        """
        sampled_from = self._chooser if provenance is Provenance.SAMPLED and chosen else -1
        self._add(token_id, -1, provenance, (self.next_position,) * self.family.position_dims, sampled_from)
        self.next_position += 1
        self._chooser = len(self.token_ids) - 1

    def add_prompt(self, token_ids: Sequence[int], spans: Sequence[VisualSpan]) -> None:
        """Append the prompt; runs of the image token become the visual tokens of the images, in order.

        ValueError when image tokens and images do not match.
        """
        index, images = 0, iter(spans)
        while index < len(token_ids):
            if token_ids[index] != self.tokens.image:
                self.add_token(token_ids[index], Provenance.PROMPT)
                index += 1
                continue
            span = next(images, None)
            stop = index + (span.count if span else 1)
            if span is None or any(t != self.tokens.image for t in token_ids[index:stop]) or stop > len(token_ids):
                raise ValueError("the prompt's image tokens do not match its images: one token per visual token")
            self._add_visual_tokens(span, range(span.count), Provenance.PROMPT, "grid")
            index = stop
        if next(images, None) is not None:
            raise ValueError("the prompt has fewer image blocks than images")
        self._chooser = len(self.token_ids) - 1

    def insert(
        self,
        parts: Sequence[tuple[VisualSpan, Sequence[int]]],
        *,
        delimiters: bool = True,
        layout: str = "grid",
    ) -> int:
        """Re-insert chosen visual tokens of images (indices within each image, ascending), images in order.

        An image without chosen ones leaves no trace. `layout` "grid": they keep their places in a fresh grid and what
        follows continues after the full grid; "strip": they are contiguous columns of a one-row grid. Returns the
        number of slots appended. The token appended next is still chosen by the slot before the insertion.
        """
        start = len(self)
        for span, chosen in parts:
            if not chosen:
                continue
            if delimiters:
                self._add_forced(self.tokens.start)
            self._add_visual_tokens(span, chosen, Provenance.REINSERTED, layout)
            if delimiters:
                self._add_forced(self.tokens.end)
        return len(self) - start

    def truncate(self, length: int) -> list[int]:
        """Drop the text slots from `length` on and return their ids; the next token is chosen by the last one left."""
        dropped = self.token_ids[length:]
        if any(index >= 0 for index in self.visual_indices[length:]):
            raise ValueError("visual tokens cannot be dropped from a sequence")
        self.next_position -= len(dropped)
        for column in (self.token_ids, self.visual_indices, self.provenance, self.positions, self.sampled_from):
            del column[length:]
        self._chooser = len(self.token_ids) - 1
        return dropped

    def build(self, start: int = 0) -> Slots:
        """The slots from `start` on, as tensors on the CPU."""
        return Slots(
            torch.tensor(self.token_ids[start:], dtype=torch.long),
            torch.tensor(self.visual_indices[start:], dtype=torch.long),
            torch.tensor(self.provenance[start:], dtype=torch.uint8),
            torch.tensor(self.positions[start:], dtype=torch.long).view(-1, self.family.position_dims).T,
            torch.tensor(self.sampled_from[start:], dtype=torch.long),
        )

    def _add_forced(self, token_id: int) -> None:
        self._add(token_id, -1, Provenance.FORCED, (self.next_position,) * self.family.position_dims, -1)
        self.next_position += 1

    def _add_visual_tokens(self, span: VisualSpan, chosen: Sequence[int], provenance: Provenance, layout: str) -> None:
        grid = span.grid if layout == "grid" else (1, 1, len(chosen))
        index = torch.as_tensor(chosen) if layout == "grid" else torch.arange(len(chosen))
        positions = (self.family.grid_positions(grid)[:, index] + self.next_position).T.tolist()
        for place, position in zip(chosen, positions, strict=True):
            self._add(self.tokens.image, span.first + int(place), provenance, tuple(position), -1)
        self.next_position += self.family.grid_extent(grid)

    def _add(
        self, token_id: int, visual_index: int, provenance: int, position: tuple[int, ...], sampled_from: int
    ) -> None:
        self.token_ids.append(token_id)
        self.visual_indices.append(visual_index)
        self.provenance.append(int(provenance))
        self.positions.append(position)
        self.sampled_from.append(sampled_from)
