"""Rows as items of a step: images for the vision tower and a tokenised example, stacked by `collate`."""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from look_again.core.families import Family, Grid, family_of
from look_again.core.reattention import Reattention
from look_again.data.image_files import open_image
from look_again.data.sample import Sample
from look_again.text.chat import encode_chat, encode_response
from look_again.text.grammar import open_tag
from look_again.text.instructions import messages_for
from look_again.text.tags import tag_ids
from look_again.training.example import Example
from look_again.training.recipe import Stage

IMAGES = ("pixel_values", "image_grid_thw")


@dataclass
class Item:
    """Images (None without any), and what is asked of them: an example, or the contents of each visual token."""

    pixel_values: torch.Tensor | None
    image_grid_thw: torch.Tensor | None
    example: Example | None = None
    contents: torch.Tensor | None = None  # (visual tokens, 4) classes, for the vision warm-up


@dataclass(frozen=True)
class Codec:
    """What turns rows into items: the family's tokens, the tokenizer with its tags, the image processor."""

    family: Family
    tokenizer: Any
    tag_ids: Mapping[str, int]
    image_processor: Any
    config: Any  # of the model

    @classmethod
    def of(cls, config: Any, tokenizer: Any, image_processor: Any) -> Codec:
        """Of a model's configuration and a prepared tokenizer."""
        return cls(family_of(config), tokenizer, tag_ids(tokenizer), image_processor, config)

    def item(self, row: Sample, policy: Reattention, *, learn_silent: bool = False) -> Item:
        """A row's images and example. Raises ImageError for an image that cannot be read."""
        pictures = self.pictures(row)
        grids = [self.family.merged_grid(grid, self.config) for grid in pictures.get("image_grid_thw", ())]
        return Item(
            pictures.get("pixel_values"),
            pictures.get("image_grid_thw"),
            self.example(row, grids, policy, learn_silent=learn_silent),
        )

    def pictures(self, row: Sample) -> dict[str, torch.Tensor]:
        """pixel_values (patches, values) and image_grid_thw (images, 3); nothing for a row without images."""
        if not row.images:
            return {}
        made = self.image_processor(images=[open_image(image) for image in row.images], return_tensors="pt")
        return {name: made[name] for name in IMAGES}

    def example(self, row: Sample, grids: list[Grid], policy: Reattention, *, learn_silent: bool = False) -> Example:
        """The tokenised row, its response with the end-of-turn token."""
        counts = [frames * rows * columns for frames, rows, columns in grids]
        messages = messages_for(row.prompt, len(grids), trained=True)
        prompt = encode_chat(self.tokenizer, messages, counts, image_token=self.family.image_text)
        ids, spans = encode_response(self.tokenizer, row.response or "", self.tag_ids)
        silent = [any(start < b and stop > a for a, b in row.silent) and not learn_silent for start, stop in spans]
        return Example(prompt, [*ids, self.tokenizer.eos_token_id], grids, policy, [*silent, False])

    def length(self, row: Sample, sizes: Sequence[tuple[int, int]], policy: Reattention) -> int:
        """Slots of a row, re-inserted ones with it, from its images' sizes (width, height) alone."""
        merge = self.config.vision_config.spatial_merge_size**2
        patches = [self.image_processor.get_number_of_image_patches(height, width, {}) for width, height in sizes]
        grids: list[Grid] = [(1, 1, n // merge) for n in patches]
        example = self.example(row, grids, policy)
        looks = min(example.response_ids.count(self.tag_ids[open_tag("REFLECTION")]), policy.max_reinsertions)
        visual = sum(columns for _, _, columns in grids)
        look = policy.rows_of(visual) + 2 * policy.delimiters * len(grids) if policy.inserts else 0
        return len(example.prompt_ids) + len(example.response_ids) + looks * look


def bounded(image_processor: Any, max_pixels: int | None) -> Any:
    """A copy of an image processor that scales larger images down to `max_pixels`; None: the processor itself."""
    if max_pixels is None:
        return image_processor
    own = copy.deepcopy(image_processor)
    own.size = {"shortest_edge": min(own.size["shortest_edge"], max_pixels), "longest_edge": max_pixels}
    return own


def policy_of(stage: Stage, seed: int, row_id: str) -> Reattention:
    """What happens at the reflections of a row: a draw from the stage's mixture, the same in every epoch."""
    modes, weights = zip(*sorted(stage.modes.items()), strict=True)
    mode = random.Random(f"mode/{seed}/{row_id}").choices(modes, weights=weights)[0]
    return Reattention(mode=mode, keep=stage.keep)


def collate(items: Sequence[Item]) -> dict[str, Any]:
    """Items of one step. `labels` (B, 1 + T) only lets the trainer count targets; their first column is empty."""
    batch: dict[str, Any] = {}
    if any(item.pixel_values is not None for item in items):
        for name in IMAGES:
            batch[name] = torch.cat([getattr(i, name) for i in items if getattr(i, name) is not None])
    if items[0].contents is not None:
        return batch | {"contents": torch.stack([i.contents for i in items if i.contents is not None])}
    examples = [item.example for item in items if item.example is not None]
    asked = [example.silent.count(False) for example in examples]
    labels = torch.full((len(examples), 1 + max(asked)), -100)
    for row, count in enumerate(asked):
        labels[row, 1 : 1 + count] = 0
    return batch | {"examples": examples, "labels": labels}
