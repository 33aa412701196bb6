"""Videos as the library's processors make them, put among the images in the order in which prompts show them.

The library hands images and videos over apart, each kind in its own order. Here a video is an image of several frames,
so that one list, one feature table and one order serve for both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from look_again.core.families import VisionTokens, find_family

VIDEO_NAMES = ("pixel_values_videos", "video_grid_thw", "second_per_grid_ts")


def interleave_videos(
    config: Any, prompts: Sequence[Sequence[int]], images: Mapping[str, torch.Tensor], videos: Mapping[str, Any]
) -> dict[str, torch.Tensor]:
    """The tensors of `process_images` from those of images and of videos.

    prompts: token ids of the prompts that show them, in order. videos: `VIDEO_NAMES`; without seconds a grid's frame
    takes one. ValueError where the prompts show other images or videos than are given, or the family has no videos.
    """
    family = find_family(config)
    if family.video is None:
        raise ValueError(f"videos are not supported for models of type {family.model_type!r}")
    if videos.get("video_grid_thw") is None:
        raise ValueError("pixel_values_videos come with video_grid_thw")
    grids = {
        "image": images.get("image_grid_thw", torch.zeros((0, 3), dtype=torch.long)),
        "video": videos["video_grid_thw"].cpu(),
    }
    seconds = videos.get("second_per_grid_ts")
    lengths = {
        "image": [0.0] * len(grids["image"]),
        "video": [1.0] * len(grids["video"]) if seconds is None else torch.as_tensor(seconds).tolist(),
    }
    pixels = {"image": images.get("pixel_values"), "video": videos["pixel_values_videos"]}
    patches = {
        kind: [] if values is None else list(values.split(grids[kind].prod(-1).tolist()))
        for kind, values in pixels.items()
    }
    order = list(_order(prompts, family.vision_tokens(config), grids, config.vision_config.spatial_merge_size**2))
    return {
        "pixel_values": torch.cat([patches[kind][place].to(patches["video"][0].device) for kind, place in order]),
        "image_grid_thw": torch.stack([grids[kind][place].cpu() for kind, place in order]),
        "grid_seconds": torch.tensor([lengths[kind][place] for kind, place in order], dtype=torch.float32),
    }


def _order(
    prompts: Sequence[Sequence[int]], tokens: VisionTokens, grids: Mapping[str, torch.Tensor], merged: int
) -> Iterator[tuple[str, int]]:
    """Kind and number of each image and video, in the order of the prompts."""
    counts = {kind: [int(grid.prod()) // merged for grid in own] for kind, own in grids.items()}
    taken = dict.fromkeys(counts, 0)
    for prompt in prompts:
        kinds, at = _kinds(prompt, tokens), 0
        while at < len(kinds):
            kind = kinds[at]
            own = counts[kind][taken[kind] : taken[kind] + 1]
            if not own or kinds[at : at + own[0]] != [kind] * own[0]:
                raise ValueError(f"{kind} tokens and {kind}s do not match: the prompts ask for another number")
            yield kind, taken[kind]
            taken[kind], at = taken[kind] + 1, at + own[0]
    for kind, own in counts.items():
        if taken[kind] != len(own):
            raise ValueError(f"{len(own)} {kind}s were given, the prompts show {taken[kind]}")


def _kinds(prompt: Sequence[int], tokens: VisionTokens) -> list[str]:
    """Of each visual token of a prompt, whether it is of an image or of a video."""
    kinds, inside = [], False
    for token_id in prompt:
        if token_id == tokens.image:
            kinds.append("video" if inside else "image")
        elif token_id == tokens.video:
            kinds.append("video")
        elif tokens.video_start is not None:
            inside = token_id == tokens.video_start or (inside and token_id != tokens.video_end)
    return kinds
