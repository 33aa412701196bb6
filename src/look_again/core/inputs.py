"""What a model takes: images as pixel tensors with their grids of visual tokens, and prompts padded to one width.

A video is an image of several frames: its patches hold as many frames each as the tower joins, in the layout of the
library's video processor, which needs torchvision where this does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from PIL import Image

from look_again.core.families import Family, Grid, find_family
from look_again.images.video import Video

PIXEL_NAMES = (
    "pixel_values",
    "image_grid_thw",
    "grid_seconds",
    "image_sizes",
    "image_position_ids",
    "pixel_attention_mask",
    "batch_num_images",
)
"""What image processors make and vision towers take, over all families; `grid_seconds` is ours, for videos."""

ImageOrVideo = Image.Image | Video

NEARLY_ZERO = 1e-6


@dataclass(frozen=True)
class ImageInputs:
    """The images of one prompt.

    tensors: what the family's vision tower takes, by name, such as pixel_values (patches, values) and image_grid_thw
    (images, 3) in patches, and, where there is a video, grid_seconds (images,) from a frame of its grid to the next, 0
    for an image; empty without images. grids: of visual tokens, one per image or video. texts: what stands for each
    image in a prompt, None where it is its image tokens alone.
    """

    tensors: Mapping[str, torch.Tensor]
    grids: list[Grid]
    texts: list[str] | None = None

    @property
    def shown(self) -> list[int] | list[str]:
        """What a prompt shows for each image: a number of image tokens, or a text."""
        return self.visual_token_counts if self.texts is None else self.texts

    @property
    def visual_token_counts(self) -> list[int]:
        return [prod(grid) for grid in self.grids]


def list_kinds(images: Sequence[ImageOrVideo]) -> list[str]:
    """ "image" or "video" of each, as messages call them."""
    return ["video" if isinstance(image, Video) else "image" for image in images]


def process_images(image_processor: Any, config: Any, images: Sequence[ImageOrVideo]) -> ImageInputs:
    """RGB images as the vision tower takes them, in one pass of the image processor; videos in passes of their own.

    config: of the model. ValueError for a video where the family has none.
    """
    if not images:
        return ImageInputs({}, [])
    if any(isinstance(image, Video) for image in images):
        parts = [
            process_video(image_processor, config, image)
            if isinstance(image, Video)
            else process_images(image_processor, config, [image])
            for image in images
        ]
        token = find_family(config).image_text
        texts = [text for part in parts for text in part.texts or [token * prod(part.grids[0])]]
        return ImageInputs(stack_pixels(parts), [grid for part in parts for grid in part.grids], texts)
    family = find_family(config)
    features = _run_processor(image_processor, family, config, images)
    tensors = {name: features[name] for name in PIXEL_NAMES if name in features}
    if family.layout is None:
        return ImageInputs(tensors, [family.merged_grid(grid, config) for grid in tensors["image_grid_thw"]])
    texts = family.layout.write(config, features)
    counts = [text.count(family.image_text) for text in texts]
    return ImageInputs(tensors, family.image_grids(config, counts, None), texts)


def _run_processor(image_processor: Any, family: Family, config: Any, images: Sequence[Any]) -> Any:
    if family.layout is None:
        return image_processor(images=list(images), return_tensors="pt")
    given = [list(images)] if family.layout.nested else list(images)
    return image_processor(images=given, return_tensors="pt", **family.layout.options(config))


def process_video(image_processor: Any, config: Any, video: Video) -> ImageInputs:
    """A video as the vision tower takes it: frames in groups of the tower's size, the last one repeated to fill up.

    ValueError where the model's family has no videos.
    """
    family = find_family(config)
    if family.video is None:
        raise ValueError(f"models of type {family.model_type!r} are not asked about videos here; show frames as images")
    different = {id(frame): frame for frame in video.frames}  # a frame that stays is processed once
    features = image_processor(images=list(different.values()), return_tensors="pt")
    group = config.vision_config.temporal_patch_size
    grid = features["image_grid_thw"][0]
    values_FNCTP = features["pixel_values"].view(
        len(different), int(grid.prod()), 3, group, config.vision_config.patch_size**2
    )
    places = list(different)
    frames_FNCP = values_FNCTP[[places.index(id(frame)) for frame in video.frames], :, :, 0]
    missing = -len(frames_FNCP) % group
    frames_FNCP = torch.cat([frames_FNCP, *[frames_FNCP[-1:]] * missing])
    grouped = frames_FNCP.unflatten(0, (-1, group)).permute(0, 2, 3, 1, 4)  # (G, N, C, T, P)
    grid_thw = torch.tensor([[len(grouped), int(grid[1]), int(grid[2])]])
    seconds = torch.tensor([group / video.fps], dtype=torch.float32)
    tensors = {
        "pixel_values": grouped.reshape(len(grouped) * int(grid.prod()), -1),
        "image_grid_thw": grid_thw,
        "grid_seconds": seconds,
    }
    times = [*video.times, *[video.times[-1]] * missing]
    joined = [times[start : start + group] for start in range(0, len(times), group)]
    made = family.merged_grid(grid_thw[0], config, float(seconds))
    return ImageInputs(tensors, [made], [family.video.write(prod(made), joined)])


def stack_pixels(images: Sequence[ImageInputs]) -> dict[str, torch.Tensor]:
    """The tensors of several prompts' images, in order; nothing where none has any.

    Families that pad images to one size, or prompts to one number of tiles, pad with zeros; so does this.
    """
    shown = [prompt.tensors for prompt in images if prompt.tensors]
    if any("grid_seconds" in tensors for tensors in shown):
        shown = [{"grid_seconds": torch.zeros(len(tensors["image_grid_thw"])), **tensors} for tensors in shown]
    names = [name for name in PIXEL_NAMES if shown and name in shown[0]]
    return {name: _concatenate([tensors[name] for tensors in shown]) for name in names}


def _concatenate(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    largest = [max(sizes) for sizes in zip(*(part.shape[1:] for part in parts), strict=True)]
    return torch.cat([_zero_padded(part, largest) for part in parts])


def _zero_padded(part: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    """A tensor whose dimensions after the first have grown to `sizes`."""
    missing = [wanted - size for wanted, size in zip(sizes, part.shape[1:], strict=True)]
    if not any(missing):
        return part
    return torch.nn.functional.pad(part, [n for count in reversed(missing) for n in (0, count)])


def blank_pixels(pixel_values: torch.Tensor, position_dims: int) -> torch.Tensor:
    """Pixels of blank images of the same shapes: the mean colour.

    Families with one position dimension may take an image of nothing but zeros for padding, so theirs are all but
    zero where there was an image.
    """
    blank = torch.zeros_like(pixel_values)
    if position_dims > 1:
        return blank
    within = tuple(range(1 if pixel_values.dim() < 5 else 2, pixel_values.dim()))
    return blank + NEARLY_ZERO * pixel_values.ne(0).any(within, keepdim=True) if within else blank


def build_smallest_image(config: Any) -> dict[str, torch.Tensor]:
    """What a model's vision tower takes for the smallest image, blank: a pass that shows nothing."""
    layout, vision = find_family(config).layout, config.vision_config
    if layout is None:
        side, values = vision.spatial_merge_size, vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        return {"pixel_values": torch.zeros(side * side, values), "image_grid_thw": torch.tensor([[1, side, side]])}
    tensors = layout.smallest(config)
    return tensors | {"pixel_values": tensors["pixel_values"] + NEARLY_ZERO}  # towers take zeros for padding


def count_visual_tokens(image_processor: Any, config: Any, sizes: Sequence[tuple[int, int]]) -> list[int]:
    """Visual tokens of one prompt's images from their sizes, (width, height) in pixels, alone."""
    return measure_images(image_processor, config, sizes).visual_token_counts


def measure_images(image_processor: Any, config: Any, sizes: Sequence[tuple[int, int]]) -> ImageInputs:
    """One prompt's images by their sizes, (width, height) in pixels, alone: without tensors.

    The grids have the right number of visual tokens, in one line. Families that lay images out by more than a count
    are asked what they make of blank images.
    """
    family = find_family(config)
    if family.layout is not None:
        measured = process_images(image_processor, config, [Image.new("RGB", size, "gray") for size in sizes])
        return ImageInputs({}, measured.grids, measured.texts)
    merge = config.vision_config.spatial_merge_size**2
    counts = [image_processor.get_number_of_image_patches(height, width, {}) // merge for width, height in sizes]
    return ImageInputs({}, [(1, 1, count) for count in counts])


def left_padded(prompts: Sequence[Sequence[int]], tokenizer: Any, device: Any) -> dict[str, torch.Tensor]:
    """`input_ids` and `attention_mask` (B, longest) of prompts that all end in the last column."""
    pad, longest = tokenizer.pad_token_id or 0, max(map(len, prompts))
    ids = [[pad] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return {"input_ids": torch.tensor(ids, device=device), "attention_mask": torch.tensor(mask, device=device)}
