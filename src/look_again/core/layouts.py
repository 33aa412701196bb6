"""How families show an image in a prompt: the text that stands there, image tokens, headers and breaks with it.

A chat template writes one placeholder for an image, and the family's processor puts this text in its place. The
processors' classes need a video processor, and that needs torchvision; the texts are short, so they are written here,
and the tests compare them with the library's. Everything is read from what the image processor returned.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch


def _no_options(config: Any) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Layout:
    """How one family shows images.

    write: from a model's configuration and the image processor's output, the text of each image. options: what the
    family's processor tells its image processor, from the model's configuration. nested: whether the images of one
    prompt are given as one list in a list. smallest: from a model's configuration, what its vision tower takes for the
    smallest image, all zeros.
    """

    write: Callable[[Any, Mapping[str, Any]], list[str]]
    smallest: Callable[[Any], dict[str, torch.Tensor]]
    options: Callable[[Any], dict[str, Any]] = _no_options
    nested: bool = False


@dataclass(frozen=True)
class VideoLayout:
    """How one family shows videos.

    token: what stands for a visual token. placeholder: what the chat template writes for a video. stamps: where a
    frame's time is written, "before" or "after" the frame, each frame being a block of its own; None where a video is
    one block. frame: the text of such a block, from the `time` of the frame in seconds, `whole` seconds, and `tokens`.
    """

    token: str
    placeholder: str
    stamps: str | None = None
    frame: str = "{tokens}"

    def write(self, visual_tokens: int, times: Sequence[Sequence[float]]) -> str:
        """The text of a video. times: of the frames that each frame of its grid joins, in seconds."""
        if self.stamps is None:
            return self.token * visual_tokens
        tokens = self.token * (visual_tokens // len(times))
        seconds = [(joined[0] + joined[-1]) / 2 if self.stamps == "before" else joined[0] for joined in times]
        return "".join(self.frame.format(time=time, whole=int(time), tokens=tokens) for time in seconds)


def _write_tiles(config: Any, features: Mapping[str, Any]) -> list[str]:
    """InternVL: the tokens of all tiles between the delimiters."""
    per_tile = int(config.image_seq_length)
    return [f"<img>{'<IMG_CONTEXT>' * (per_tile * int(tiles))}</img>" for tiles in features["num_patches"]]


def _write_headed_tiles(config: Any, features: Mapping[str, Any]) -> list[str]:
    """SmolVLM and Idefics 3: each tile behind a header that says its row and column, then the whole image."""
    vision = config.vision_config
    tokens = "<image>" * int((vision.image_size // vision.patch_size) ** 2 / config.scale_factor**2)
    rows, columns = ([count for own in features[name] for count in own] for name in ("rows", "cols"))
    return [_headed_tiles(int(height), int(width), tokens) for height, width in zip(rows, columns, strict=True)]


def _headed_tiles(rows: int, columns: int, tokens: str) -> str:
    fake = "<fake_token_around_image>"
    lines = [
        "".join(f"{fake}<row_{row}_col_{column}>{tokens}" for column in range(1, columns + 1)) + "\n"
        for row in range(1, rows + 1)
    ]
    return "".join(lines) + ("\n" if lines else "") + f"{fake}<global-img>{tokens}{fake}"


def _write_lines(config: Any, features: Mapping[str, Any]) -> list[str]:
    """Mistral 3: lines of tokens with a break after each, and an end after the last.

    ValueError for one visual token in all, which the library's tower does not take.
    """
    side = config.vision_config.patch_size * config.spatial_merge_size
    texts = []
    for height, width in features["image_sizes"]:
        line = "[IMG]" * (int(width) // side)
        texts.append("[IMG_BREAK]".join([line] * (int(height) // side)) + "[IMG_END]")
    if sum(text.count("[IMG]") for text in texts) == 1:
        raise ValueError(f"the image is one visual token of {side} x {side} pixels: mistral3 takes two or more")
    return texts


def _write_newlines(config: Any, features: Mapping[str, Any]) -> list[str]:
    """LLaVA-OneVision: the base view, and, of a prompt's only image, its tiles without padding, a newline each line."""
    vision = config.vision_config
    side = vision.image_size // vision.patch_size
    texts: list[str] = []
    for images in features["batch_num_images"]:
        for _ in range(int(images)):
            height, width = (int(n) for n in features["image_sizes"][len(texts)])
            tiles = _unpadded_tokens(config, height, width, side) if images == 1 else 1
            texts.append("<image>" * (side * side + tiles))
    return texts


def _unpadded_tokens(config: Any, height: int, width: int, side: int) -> int:
    """Visual tokens of an image's tiles: lines without what pads the image to the tiles, each with its newline."""
    best = _best_resolution(height, width, config.image_grid_pinpoints)
    rows, columns = (side * (length // config.vision_config.image_size) for length in best)
    if width / height > columns / rows:
        rows -= (rows - int(round(height * (columns / width), 7))) // 2 * 2
    else:
        columns -= (columns - int(round(width * (rows / height), 7))) // 2 * 2
    most = int(config.vision_aspect_ratio.removeprefix("anyres_max_"))
    ratio = math.sqrt(rows * columns / (most * side**2))
    if ratio > 1.1:
        rows, columns = int(rows // ratio), int(columns // ratio)
    return rows * columns + rows


def _best_resolution(height: int, width: int, candidates: Any) -> tuple[int, int]:
    """The candidate (height, width) that keeps most of the image's pixels, and of those the smallest."""

    def kept(candidate: Any) -> tuple[int, int]:
        scale = min(candidate[1] / width, candidate[0] / height)
        pixels = min(int(width * scale) * int(height * scale), width * height)
        return pixels, pixels - candidate[0] * candidate[1]

    best = max(candidates, key=kept)
    return int(best[0]), int(best[1])


def _write_soft_tokens(config: Any, features: Mapping[str, Any]) -> list[str]:
    """Gemma 3: the image between delimiters, and, where it was cut ("pan and scan"), its crops behind it."""
    whole = f"\n\n<start_of_image>{'<image_soft_token>' * int(config.mm_tokens_per_image)}<end_of_image>\n\n"
    cut = f"Here is the original image {whole} and here are some crops to help you see better "
    return [cut + " ".join([whole] * int(crops)) if crops else whole for crops in features["num_crops"]]


def _write_counted_tokens(config: Any, features: Mapping[str, Any]) -> list[str]:
    """Gemma 4: as many tokens as the image processor says, between delimiters."""
    return [f"<|image>{'<|image|>' * int(count)}<image|>" for count in features["num_soft_tokens_per_image"]]


def _one_tile(config: Any) -> torch.Tensor:
    """Pixels (1, 3, height, width) of the size that the tower takes."""
    size = config.vision_config.image_size
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return torch.zeros(1, 3, height, width)


def _whole_views(config: Any) -> dict[str, torch.Tensor]:
    tile = _one_tile(config)
    height, width = tile.shape[2:]
    rows, columns = _best_resolution(height, width, config.image_grid_pinpoints)
    tiles = 1 + rows // height * (columns // width)
    return {"pixel_values": tile.expand(tiles, -1, -1, -1)[None], "image_sizes": torch.tensor([[height, width]])}


def _two_tokens(config: Any) -> dict[str, torch.Tensor]:
    side = config.vision_config.patch_size * config.spatial_merge_size  # the library cannot take an image of one token
    return {"pixel_values": torch.zeros(1, 3, side, 2 * side), "image_sizes": torch.tensor([[side, 2 * side]])}


def _pooled_patches(config: Any) -> dict[str, torch.Tensor]:
    vision = config.vision_config
    side = vision.pooling_kernel_size
    places = torch.cartesian_prod(torch.arange(side), torch.arange(side)).view(-1, 2)[None]
    return {"pixel_values": torch.zeros(1, side**2, 3 * vision.patch_size**2), "image_position_ids": places}


TILES = Layout(
    _write_tiles, lambda config: {"pixel_values": _one_tile(config)}, lambda config: {"crop_to_patches": True}
)
HEADED_TILES = Layout(
    _write_headed_tiles,
    lambda config: {"pixel_values": _one_tile(config)[None]},
    lambda config: {"return_row_col_info": True},
    nested=True,
)
LINES = Layout(
    _write_lines,
    _two_tokens,
    lambda config: {"patch_size": config.vision_config.patch_size * config.spatial_merge_size},
)
NEWLINES = Layout(_write_newlines, _whole_views, nested=True)
SOFT_TOKENS = Layout(_write_soft_tokens, lambda config: {"pixel_values": _one_tile(config)})
COUNTED_TOKENS = Layout(_write_counted_tokens, _pooled_patches)

ONE_BLOCK = VideoLayout("<|video_pad|>", "<|video_pad|>")
STAMPED_BEFORE = VideoLayout(
    "<|video_pad|>",
    "<|vision_start|><|video_pad|><|vision_end|>",
    "before",
    "<{time:.1f} seconds><|vision_start|>{tokens}<|vision_end|>",
)
STAMPED_AFTER = VideoLayout("<|image|>", "<|video|>", "after", "<|begin_of_image|>{tokens}<|end_of_image|>{whole}")
STAMPED_AFTER_IN_TENTHS = VideoLayout(
    "<|image|>", "<|video|>", "after", "<|begin_of_image|>{tokens}<|end_of_image|>{time:.1f} seconds"
)
