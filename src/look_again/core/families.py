"""What is special to a family of vision-language models, in one table; the next family is a row.

Everything else in the project speaks of visual tokens, grids and positions and asks this table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

Grid = tuple[int, int, int]
"""Frames, rows and columns of an image's visual tokens, after the vision tower's merging."""


@dataclass(frozen=True)
class VisionTokens:
    """Token ids that stand for vision in a sequence: the pads, and the delimiters around an image."""

    image: int
    video: int
    start: int
    end: int

    @property
    def never_sampled(self) -> tuple[int, ...]:
        return self.image, self.video, self.start, self.end


@dataclass(frozen=True)
class Family:
    """One family. `position_dims` is the number of rotary position dimensions of a slot.

    `start_text`, `image_text`, `end_text` are the strings that the chat template writes for an image.
    """

    model_type: str
    position_dims: int
    start_text: str
    image_text: str
    end_text: str

    def vision_tokens(self, config: Any) -> VisionTokens:
        return VisionTokens(
            config.image_token_id,
            config.video_token_id,
            config.vision_start_token_id,
            config.vision_end_token_id,
        )

    def merged_grid(self, grid_thw: torch.Tensor, config: Any) -> Grid:
        """The grid of visual tokens of one image from its grid of patches, (3,)."""
        merge = config.vision_config.spatial_merge_size
        frames, rows, columns = (int(n) for n in grid_thw)
        return frames, rows // merge, columns // merge

    def grid_positions(self, grid: Grid) -> torch.Tensor:
        """Positions of a grid's visual tokens relative to the first one, (position_dims, frames * rows * columns)."""
        frames, rows, columns = grid
        axes = torch.meshgrid(torch.arange(frames), torch.arange(rows), torch.arange(columns), indexing="ij")
        return torch.stack([axis.flatten() for axis in axes])

    def grid_extent(self, grid: Grid) -> int:
        """How far the position moves over a grid: what follows starts at the grid's first position plus this."""
        return max(grid[1], grid[2])


FAMILIES = {
    "qwen2_5_vl": Family("qwen2_5_vl", 3, "<|vision_start|>", "<|image_pad|>", "<|vision_end|>"),
}


class UnknownFamilyError(ValueError):
    """The model's family is not in the table."""


def find_family(config: Any) -> Family:
    """The family of a model's configuration. Raises UnknownFamilyError, naming the known ones."""
    model_type = getattr(config, "model_type", None)
    if model_type not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise UnknownFamilyError(f"models of type {model_type!r} are not supported; known families: {known}")
    return FAMILIES[model_type]
