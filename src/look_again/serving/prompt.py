"""A job as a model reads it: token ids, pixels of one vision pass, grids. One definition for both backends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from look_again.core.families import Grid
from look_again.loading import Checkpoint
from look_again.serving.backend import Job
from look_again.text.chat import encode_chat
from look_again.text.instructions import FORMAT_INSTRUCTIONS


@dataclass(frozen=True)
class Prompt:
    """token_ids: image i's token repeated once per visual row. grids: merged, (frames, rows, columns) per image.

    pixels: what the image processor makes, empty without images.
    """

    token_ids: list[int]
    grids: list[Grid]
    pixels: Mapping[str, Any]

    @property
    def visual_tokens(self) -> int:
        return sum(frames * rows * columns for frames, rows, columns in self.grids)


def prompt_of(checkpoint: Checkpoint, job: Job, config: Any, max_context: int) -> Prompt:
    """The prompt of a job. Raises ValueError for messages that cannot be said and for one that fills the context.

    config: the model's. A model that was not trained on the format gets it as system text, before the caller's own.
    """
    processor = checkpoint.image_processor
    pixels = dict(processor(images=list(job.images), return_tensors="pt")) if job.images else {}
    grids = [checkpoint.family.merged_grid(grid, config) for grid in pixels.get("image_grid_thw", [])]
    messages = list(job.messages)
    if not checkpoint.trained:
        messages.insert(0, {"role": "system", "content": FORMAT_INSTRUCTIONS})
    ids = encode_chat(
        checkpoint.tokenizer,
        messages,
        [frames * rows * columns for frames, rows, columns in grids],
        image_token=checkpoint.family.image_text,
    )
    if len(ids) >= max_context:
        raise ValueError(f"the messages and their images take {len(ids)} tokens; the model's context is {max_context}")
    return Prompt(ids, grids, pixels)
