"""Attention masks for models with sliding windows or images that are read in both directions.

The library places a window by the longest sequence of a batch, and finds images by the slots of one pass; here
sequences have lengths of their own, and a pass is fed a part. So the masks are built from each sequence's slots, and
handed over by kind of layer. Models without windows and such images need none of this: causal attention is all.

Legend: B sequences of a pass, n slots fed, S slots of the longest sequence after the pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from look_again.core.families import find_family, layer_kinds
from look_again.core.input_device import input_device


class MaskBuilder:
    """Masks of one model. `needed`: whether it takes any."""

    def __init__(self, model: Any) -> None:
        text = model.config.get_text_config()
        self.window: int | None = getattr(text, "sliding_window", None)
        self.blocks = find_family(model.config).find_image_blocks(model.config)
        self.needed = "sliding_attention" in layer_kinds(model.config) or bool(self.blocks)
        self.is_single = not getattr(text, "layer_types", None)  # such a model takes one mask for all layers
        self.model = model
        if self.needed and "flash" in str(text._attn_implementation):
            raise ValueError(
                "flash attention takes no masks of windows by sequence or of images that are read in both directions: "
                "load the model with attn_implementation='sdpa'"
            )

    def build(
        self, starts: Sequence[int], count: int, visual: Sequence[Sequence[int]] | None = None
    ) -> dict[str, torch.Tensor] | torch.Tensor | None:
        """By kind of layer (B, 1, n, S), to be added to the scores; one where the model has a single kind; None where
        causal attention is all.

        starts: slots that each sequence's cache holds. count: n. visual: per sequence, for each of its slots with those
        of the pass, its visual index, -1 at text; None where the pass shows no images.
        """
        if not self.needed:
            return None
        slots_S = torch.arange(max(starts) + count)
        queries_Bn1 = (torch.tensor(starts)[:, None] + torch.arange(count)).unsqueeze(-1)
        causal = slots_S <= queries_Bn1
        joined = causal if visual is None else causal | _same_image(queries_Bn1, visual, len(slots_S))
        masks = {kind: joined if kind in self.blocks else causal for kind in ("full_attention", "sliding_attention")}
        if self.window is not None:
            masks["sliding_attention"] = masks["sliding_attention"] & (slots_S > queries_Bn1 - self.window)
        if self.is_single:
            return self._additive(masks["sliding_attention" if self.window is not None else "full_attention"])
        return {kind: self._additive(mask) for kind, mask in masks.items()}

    def _additive(self, seen: torch.Tensor) -> torch.Tensor:
        dtype = self.model.dtype
        mask = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)
        return mask[:, None].to(input_device(self.model))


def _same_image(queries_Bn1: torch.Tensor, visual: Sequence[Sequence[int]], slots: int) -> torch.Tensor:
    """(B, n, S) whether a query and a slot are visual tokens of one image: of one run without text between."""
    images = torch.full((len(visual), slots), -1)
    for sequence, indices in enumerate(visual):
        shows = torch.tensor(indices) >= 0
        begins = shows & ~torch.nn.functional.pad(shows, (1, 0))[:-1]
        images[sequence, : len(indices)] = torch.where(shows, begins.cumsum(0), -1)
    own = images.gather(1, queries_Bn1[:, :, 0].clamp(max=slots - 1)).unsqueeze(-1)
    return (own == images[:, None]) & (own >= 0)
