"""A job as a model reads it: token ids, pixels of one vision pass, grids. One definition for both backends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from look_again.core.families import Grid
from look_again.core.inputs import process_images
from look_again.loading import Checkpoint
from look_again.serving.backend import Job


@dataclass(frozen=True)
class EncodedPrompt:
    """token_ids: image i's token repeated once per visual token. grids: merged, (frames, rows, columns) per image.

    pixels: the image processor's tensors, empty without images.
    """

    token_ids: list[int]
    grids: list[Grid]
    pixels: Mapping[str, Any]

    @property
    def visual_tokens(self) -> int:
        return sum(frames * rows * columns for frames, rows, columns in self.grids)


def build_prompt(checkpoint: Checkpoint, job: Job, config: Any, max_context: int) -> EncodedPrompt:
    """The prompt of a job. Raises ValueError for messages that make no prompt and for one that fills the context.

    config: the model's. A model that was not trained on the format gets it as system text, before the caller's own.
    """
    images = process_images(checkpoint.image_processor, config, job.images)
    ids = checkpoint.renderer.render_prompt(job.messages, images.visual_token_counts)
    if len(ids) >= max_context:
        raise ValueError(f"the messages and their images take {len(ids)} tokens; the model's context is {max_context}")
    return EncodedPrompt(ids, images.grids, images.tensors)
