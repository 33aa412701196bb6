"""Samples as items of a step: images for the vision tower and a tokenised example, stacked by `collate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from look_again.core.families import Family, find_family
from look_again.core.inputs import ImageInputs, list_kinds, measure_images, process_images, stack_pixels
from look_again.core.reattention import Reattention
from look_again.core.slots import count_block_text
from look_again.data.image_files import open_shown
from look_again.data.sample import Sample
from look_again.text.instructions import question_messages
from look_again.text.renderer import Renderer
from look_again.text.tags import tag_ids
from look_again.training.example import Example


@dataclass
class Item:
    """A tokenised example and its images."""

    images: ImageInputs
    example: Example

    @property
    def pixel_values(self) -> torch.Tensor | None:
        """What the family calls pixels, such as patches (P, values); None without images."""
        return self.images.tensors.get("pixel_values")

    @property
    def image_grid_thw(self) -> torch.Tensor | None:
        """Grids of patches (images, 3), None without images or in a family that has none."""
        return self.images.tensors.get("image_grid_thw")


@dataclass(frozen=True)
class Codec:
    """What turns samples into items: the family's tokens, the tokenizer with its tags, the image processor."""

    family: Family
    tokenizer: Any
    tag_ids: Mapping[str, int]
    image_processor: Any
    config: Any  # of the model

    @classmethod
    def of(cls, config: Any, tokenizer: Any, image_processor: Any) -> Codec:
        """The codec of a model's configuration and a prepared tokenizer."""
        return cls(find_family(config), tokenizer, tag_ids(tokenizer), image_processor, config)

    @property
    def renderer(self) -> Renderer:
        video = None if self.family.video is None else self.family.video.placeholder
        return Renderer(
            self.tokenizer, self.family.image_text, placeholder=self.family.placeholder, video_placeholder=video
        )

    def item(self, sample: Sample, policy: Reattention, *, learn_silent: bool = False) -> Item:
        """A sample's images and example. Raises ImageError for an image that cannot be read."""
        shown = [open_shown(source) for source in sample.images]
        images = process_images(self.image_processor, self.config, shown)
        messages = question_messages(sample.prompt, list_kinds(shown))
        prompt_ids = self.renderer.render_prompt(messages, images.shown)
        response = self.renderer.render_response(sample.response or "", () if learn_silent else sample.silent)
        example = Example(prompt_ids, response.token_ids, images.grids, policy, response.silent)
        return Item(images, example)

    def images(self, sample: Sample) -> ImageInputs:
        """The images of a sample. Raises ImageError for an image that cannot be read."""
        return process_images(self.image_processor, self.config, [open_shown(image) for image in sample.images])

    def length(self, sample: Sample, sizes: Sequence[tuple[int, int]], policy: Reattention) -> int:
        """Slots of a sample, re-inserted ones with it, from its images' sizes (width, height) alone."""
        images = measure_images(self.image_processor, self.config, sizes)
        messages = question_messages(sample.prompt, len(images.grids))
        return self.renderer.count_slots(
            messages,
            images.shown,
            sample.response or "",
            slots_per_insertion=policy.slots_per_insertion(images.visual_token_counts, self._text_tokens(images)),
            max_insertions=policy.max_reinsertions,
        )

    def _text_tokens(self, images: ImageInputs) -> int | None:
        """Tokens of the images' blocks that are no visual tokens, None where they are a pair of delimiters each."""
        if images.texts is None:
            return None
        ids = self.renderer.render_prompt(question_messages("", len(images.grids)), images.shown)
        return count_block_text(self.family, self.family.vision_tokens(self.config), ids, images.grids)


def collate(items: Sequence[Item]) -> dict[str, Any]:
    """Items of one step. `labels` (B, 1 + T) only lets the trainer count targets; their first column is empty."""
    examples = [item.example for item in items]
    targets = [example.silent.count(False) for example in examples]
    labels = torch.full((len(examples), 1 + max(targets)), -100)
    for i, count in enumerate(targets):
        labels[i, 1 : 1 + count] = 0
    return stack_pixels([item.images for item in items]) | {"examples": examples, "labels": labels}
