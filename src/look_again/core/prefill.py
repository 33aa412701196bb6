"""Where a decoded sequence starts: its prompt as slots, and the features that its slots point into.

Images pass the vision tower once, here; what is put back later are rows of the same table. The control images of the
wrong-image and blank-image controls (ours, not the paper's) lie in the table behind the prompt's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from look_again.core.families import Family, Grid, VisionTokens, find_family
from look_again.core.input_device import input_device
from look_again.core.inputs import PIXEL_NAMES, blank_pixels
from look_again.core.reattention import Reattention
from look_again.core.runner import encode_images
from look_again.core.slots import SlotBuilder, VisualSpan, build_spans

EncodedImage = tuple[torch.Tensor, Grid]
"""Features (visual tokens, hidden) and grid of one image; or of one tile, until its prompt is known."""


@dataclass(frozen=True)
class Start:
    """A sequence that holds its prompt.

    spans: the prompt's images. shown: the images that are put back: `spans`, or the other images of a control.
    features: the table (V, hidden) of both, None without images.
    """

    builder: SlotBuilder
    spans: tuple[VisualSpan, ...]
    shown: tuple[VisualSpan, ...]
    features: torch.Tensor | None


def encode(
    model: Any,
    pixel_values: torch.Tensor | None,
    image_grid_thw: torch.Tensor | None = None,
    grid_seconds: torch.Tensor | None = None,
    **pixels: torch.Tensor,
) -> list[EncodedImage]:
    """The images and videos of one pass of the vision tower, none where there are no pixels.

    grid_seconds: as of `ImageInputs`. pixels: what else the tower takes.
    """
    family, device = find_family(model.config), input_device(model)
    if pixel_values is None or (image_grid_thw is None and family.position_dims > 1):
        return []
    given = {"pixel_values": pixel_values, "image_grid_thw": image_grid_thw, **pixels}
    on_device = {name: value.to(device) for name, value in given.items() if value is not None}
    features = encode_images(model, **on_device)
    grids = family.image_grids(model.config, [len(part) for part in features], image_grid_thw, grid_seconds)
    return list(zip(features, grids, strict=True))


def encode_with_control(
    model: Any,
    policy: Reattention,
    pixels: Mapping[str, torch.Tensor],
    control_pixels: Mapping[str, torch.Tensor] | None = None,
) -> tuple[list[EncodedImage], list[EncodedImage]]:
    """The images, and those that the policy's control shows instead of them at reflections (none without control).

    pixels, control_pixels: what the vision tower takes, by name; empty without images. Raises ValueError for control
    images that the policy does not ask for or that do not match the images.
    """
    images = encode(model, **pixels) if pixels else []
    others = encode(model, **control_pixels) if control_pixels else []
    if policy.control == "blank-image" and not others and images:
        blank = blank_pixels(pixels["pixel_values"], find_family(model.config).position_dims)
        others = encode(model, **{**pixels, "pixel_values": blank})
    elif others and policy.control != "wrong-image":
        raise ValueError("control images were given, but the policy is not the wrong-image control")
    if policy.control == "wrong-image" and [g for _, g in images] != [g for _, g in others]:
        raise ValueError("the wrong-image control needs one control image of the same size per image")
    return images, others


def start_one(model: Any, policy: Reattention, prompt: Sequence[int], pixels: Any) -> Start:
    """The start of one prompt, `pixels` being what the image processor makes (empty without images)."""
    images, others = encode_with_control(model, policy, {name: pixels[name] for name in PIXEL_NAMES if name in pixels})
    family = find_family(model.config)
    return _start(family, family.vision_tokens(model.config), prompt, images, others)


def start_without_features(family: Family, tokens: VisionTokens, prompt: Sequence[int], grids: Sequence[Grid]) -> Start:
    """The start of one prompt whose images, of these grids, are encoded elsewhere: a server computes."""
    builder = SlotBuilder(family, tokens)
    builder.add_prompt(prompt, build_spans(grids))
    own = tuple(builder.spans)  # with their blocks
    return Start(builder, own, own, None)


def start_batch(
    model: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    images: list[EncodedImage],
    others: list[EncodedImage],
    repeats: int,
) -> list[Start]:
    """The starts of a batch as `generate` has it: (B, columns) ids, every prompt repeated `repeats` times in
    succession.

    Raises ValueError for images and videos that do not match the prompts.
    """
    family = find_family(model.config)
    tokens = family.vision_tokens(model.config)
    prompts = list_prompts(input_ids, attention_mask)
    shares = list(_share_images(prompts[::repeats], tokens, images))
    starts = []
    for i, prompt in enumerate(prompts):
        first, last = shares[i // repeats]
        starts.append(_start(family, tokens, prompt, images[first:last], others[first:last]))
    return starts


def list_prompts(input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> list[list[int]]:
    """The prompts of a batch as `generate` has it, without padding."""
    return [
        ids.tolist() if attention_mask is None else ids[attention_mask[i].bool()].tolist()
        for i, ids in enumerate(input_ids)
    ]


def _share_images(
    prompts: Sequence[list[int]], tokens: VisionTokens, images: list[EncodedImage]
) -> Iterator[tuple[int, int]]:
    """Which images, as (first, last + 1), belong to each prompt, by its number of image and video tokens."""
    last, visual = 0, {tokens.image, tokens.video}
    for prompt in prompts:
        first, wanted = last, sum(token_id in visual for token_id in prompt)
        while wanted > 0 and last < len(images):
            wanted -= len(images[last][0])
            last += 1
        if wanted:
            raise ValueError(
                "image tokens and images do not match: the prompts ask for another number of visual tokens"
            )
        yield first, last
    if last != len(images):
        raise ValueError(f"{len(images)} images were given, the prompts show {last}")


def _start(
    family: Family, tokens: VisionTokens, prompt: Sequence[int], images: list[EncodedImage], others: list[EncodedImage]
) -> Start:
    images, others = (_join_tiles(family, tokens, prompt, part) for part in (images, others))
    spans = build_spans([grid for _, grid in [*images, *others]])
    builder = SlotBuilder(family, tokens)
    builder.add_prompt(prompt, spans[: len(images)])
    own = tuple(builder.spans)
    control = tuple(replace(other, block=span.block) for span, other in zip(own, spans[len(images) :], strict=False))
    table = torch.cat([features for features, _ in [*images, *others]]) if images else None
    return Start(builder, own, control or own, table)


def _join_tiles(
    family: Family, tokens: VisionTokens, prompt: Sequence[int], parts: list[EncodedImage]
) -> list[EncodedImage]:
    """A prompt's images of the parts that the tower gave, where a part need not be an image."""
    if family.images == "tower" or not parts:
        return parts
    counts = family.count_by_image(prompt, tokens.image)
    table = torch.cat([features for features, _ in parts])
    if sum(counts) != len(table):
        raise ValueError("image tokens and images do not match: the prompt asks for another number of visual tokens")
    return [(features, (1, 1, len(features))) for features in table.split(counts)]
