"""Heat maps: what the tokens of each section looked at, over the image's grid (figure 5's counterpart).

Attention is a share of all that a token pays, mean over a section's tokens and heads, of one layer or mean over layers.
A place of the image may be in the sequence several times: its row in the prompt, and again in every insertion. The maps
give both apart, and their sum per place. The paper does not say which layers, heads or tokens its figure shows.

Attention sinks are places whose attention says nothing about what is being written. Two kinds are marked:
- prompt sink: the prompt's own text after the image, which has no answer to look for yet, pays the place at least
  SINK_FACTOR times an even share of what it pays to the image;
- constant sink: every section of the answer does.

Legend: P panels, K visual slots, V places of the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from look_again.core.slots import Provenance, Slots

SINK_FACTOR = 5.0
PROMPT_PANEL = "prompt's text"


@dataclass(frozen=True)
class Panel:
    """What a group of tokens looked at: maps (V,) of the prompt's visual tokens and of those re-inserted, by place."""

    name: str
    tokens: int
    original: torch.Tensor
    reinserted: torch.Tensor

    @property
    def both(self) -> torch.Tensor:
        """(V,) attention on a place, wherever in the sequence its row is."""
        return self.original + self.reinserted


def split_panels(
    slots: Slots, on_rows: torch.Tensor, names: Sequence[str], tokens: Sequence[int], places: int
) -> list[Panel]:
    """Panels from `on_rows` (P, K), the mean attention of each on every visual slot; `tokens` is their size."""
    original, reinserted = by_place(slots, on_rows, places)
    return [Panel(*parts) for parts in zip(names, tokens, original, reinserted, strict=True)]


def by_place(slots: Slots, on_rows: torch.Tensor, places: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention (P, K) on visual slots as (P, V) on places: the prompt's rows, and the sum over all insertions."""
    visual = (slots.visual_indices >= 0).nonzero()[:, 0]
    rows, inserted = slots.visual_indices[visual], slots.provenance[visual] == Provenance.REINSERTED
    original, reinserted = (on_rows.new_zeros((on_rows.shape[0], places)) for _ in range(2))
    original.index_add_(1, rows[~inserted], on_rows[:, ~inserted])
    reinserted.index_add_(1, rows[inserted], on_rows[:, inserted])
    return original, reinserted


def outsized(map_V: torch.Tensor, factor: float = SINK_FACTOR) -> torch.Tensor:
    """(V,) whether a place gets at least `factor` times an even share of a map; none does where the map is all zero."""
    total = map_V.sum()
    return (map_V * len(map_V) >= factor * total) & (total > 0)


def prompt_sinks(prompt: Panel, factor: float = SINK_FACTOR) -> list[int]:
    """Places that the prompt's own text pays outsized attention to."""
    return outsized(prompt.both, factor).nonzero()[:, 0].tolist()


def constant_sinks(sections: Sequence[Panel], factor: float = SINK_FACTOR) -> list[int]:
    """Places that every section pays outsized attention to; with a single section there is nothing to compare."""
    if len(sections) < 2:
        return []
    return torch.stack([outsized(panel.both, factor) for panel in sections]).all(0).nonzero()[:, 0].tolist()
