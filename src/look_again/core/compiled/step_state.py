"""What a compiled step reads of its sequences, kept on the device and moved on there by the step itself.

While sequences only grow, nothing is uploaded: the graph adds one to the lengths and positions of those that move. What
the host knows otherwise (a sequence looked again, joined, left or ended) is noticed by comparison and uploaded at once.

Legend: B sequences, P position dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

IDS, LENGTHS, MOVING, POSITIONS = 0, 1, 2, 3
"""Rows of the state: ids to feed, slots that the cache holds, 1 where a sequence moves on, then P rows of positions."""


class StepState:
    """The state of B sequences: `tensor`, (3 + P, B) of int64. `uploads`: how often the host had to write it."""

    def __init__(self, sequences: int, position_dims: int, device: torch.device) -> None:
        self.tensor = torch.zeros((POSITIONS + position_dims, sequences), dtype=torch.long, device=device)
        self.uploads = 0
        self._known: list[list[int]] | None = None

    @property
    def sequences(self) -> int:
        """B."""
        return self.tensor.shape[1]

    def place(
        self,
        ids: Sequence[int],
        lengths: Sequence[int],
        moving: Sequence[int],
        positions: Sequence[Sequence[int]],
        chosen: torch.Tensor | None = None,
    ) -> None:
        """Have the state hold this before a step; fewer entries than B leave the last sequences idle.

        positions: per sequence, P of them. chosen: the ids, where they are on the device already.
        """
        idle = [0] * (self.sequences - len(ids))
        rows = [[*row, *idle] for row in (lengths, moving, *zip(*positions, strict=True))]
        if chosen is None or rows != self._known:
            self.tensor.copy_(torch.tensor([[*ids, *idle], *rows]))
            self.uploads += 1
        if chosen is not None:
            self.tensor[IDS, : len(ids)] = chosen
        self._known = rows

    def move(self) -> None:
        """Account for what the graph added."""
        assert self._known is not None
        lengths, moving, *positions = self._known
        self._known = [_added(lengths, moving), moving, *(_added(row, moving) for row in positions)]


def _added(values: Sequence[int], moving: Sequence[int]) -> list[int]:
    return [value + step for value, step in zip(values, moving, strict=True)]
