"""What is special to a family of vision-language models, in one table; the next family is a row.

Everything else in the project speaks of visual tokens, grids and positions and asks this table. An image's block is the
slice of the prompt from `opening` tokens before its first visual token to `closing` tokens after its last one, and
re-insertion copies that slice: delimiters, tile headers and breaks need no description of their own. What a model's
code says itself (names of arguments, output classes, scaling, kinds of layers) is read from the model, not from here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import transformers
from packaging.version import Version

from look_again.core import layouts
from look_again.core.layouts import Layout, VideoLayout

Grid = tuple[int, int, int]
"""Frames, rows and columns of an image's visual tokens, after the vision tower's merging."""


class VideoGrid(tuple[int, int, int]):
    """The grid of a video. interval: positions from one of its frames to the next, a fraction where time is counted."""

    interval: float

    def __new__(cls, grid: Grid, interval: float = 1.0) -> VideoGrid:
        made = super().__new__(cls, grid)
        made.interval = interval
        return made

    def __getnewargs__(self) -> tuple[Grid, float]:
        return tuple(self), self.interval  # type: ignore[return-value]


START_NAMES = ("vision_start_token_id", "image_start_token_id", "boi_token_id", "boi_token_index")
END_NAMES = ("vision_end_token_id", "image_end_token_id", "eoi_token_id", "eoi_token_index")
SUPPORTED_LAYERS = ("full_attention", "sliding_attention", "linear_attention")
RANKED_LAYERS = ("full_attention", "sliding_attention")


@dataclass(frozen=True)
class VisionTokens:
    """Token ids that stand for vision in a sequence: the pads, and the delimiters around an image.

    None where the family has no such token, or its configuration does not name it. video_start, video_end: around a
    video whose frames are images with delimiters of their own.
    """

    image: int
    video: int | None = None
    start: int | None = None
    end: int | None = None
    video_start: int | None = None
    video_end: int | None = None

    @property
    def never_sampled(self) -> tuple[int, ...]:
        known = (self.image, self.video, self.start, self.end, self.video_start, self.video_end)
        return tuple(token for token in known if token is not None)

    @property
    def padding(self) -> int:
        """A token that fills up batches and stands for no visual token."""
        vision = self.never_sampled
        return self.start if self.start is not None else min(i for i in range(len(vision) + 1) if i not in vision)


@dataclass(frozen=True)
class Family:
    """One family.

    position_dims: rotary position dimensions of a slot; with 1, slots are counted. image_text: the token that
    stands for a visual token. opening, closing: tokens of an image's block before its first and after
    its last visual token. images: how the tower's parts make up images: "tower", each part is an image; "run", a run of
    image tokens is one; "closing", a block ends where its closing token is followed by another's. layout: the text of
    an image in a prompt, None where it is its image tokens alone. placeholder: what the chat template writes instead of
    that text, None for `image_text`. image_blocks: kinds of layers in which the visual tokens of an image see each
    other, besides causal attention. since: the first version of transformers that serves. vision: attributes of the
    modules that make visual tokens of pixels. language: attribute of the language model. video: how videos are shown,
    None for a family without them.
    """

    model_type: str
    position_dims: int
    image_text: str
    opening: int = 1
    closing: int = 1
    images: str = "tower"
    layout: Layout | None = None
    placeholder: str | None = None
    image_blocks: tuple[str, ...] = ()
    since: str = "5.19"
    vision: tuple[str, ...] = ("visual",)
    language: str = "language_model"
    video: VideoLayout | None = None

    @property
    def stamps(self) -> str | None:
        """Where a video's frames have their times, as of `VideoLayout`."""
        return None if self.video is None else self.video.stamps

    @property
    def is_served(self) -> bool:
        """Whether the installed version of transformers serves."""
        return Version(transformers.__version__).release >= Version(self.since).release

    def vision_parameters(self, model: Any) -> list[torch.nn.Parameter]:
        """The parameters of a model that make visual tokens of pixels."""
        parts = [getattr(model.base_model, name) for name in self.vision]
        return [
            parameter
            for part in parts
            for parameter in (part.parameters() if isinstance(part, torch.nn.Module) else [part])
        ]

    def find_image_blocks(self, config: Any) -> tuple[str, ...]:
        """`image_blocks` of a model: none where its configuration turns them off."""
        kind = getattr(config.get_text_config(), "use_bidirectional_attention", "vision")
        return () if kind is None else self.image_blocks

    def language_model(self, model: Any) -> Any:
        """The module of a model that holds its decoder layers."""
        return getattr(model.base_model, self.language)

    def vision_tokens(self, config: Any) -> VisionTokens:
        """The ids that a model's configuration names."""
        image: int = config.image_token_id
        delimiters = [_first(config, names) for names in (START_NAMES, END_NAMES)]
        outer = [getattr(config, f"video_{side}_token_id", None) for side in ("start", "end")]
        return VisionTokens(image, getattr(config, "video_token_id", None), *delimiters, *outer)

    def image_grids(
        self, config: Any, counts: list[int], grids_thw: torch.Tensor | None, seconds: torch.Tensor | None = None
    ) -> list[Grid]:
        """The grids of images and videos from their numbers of visual tokens and, where the family has them, their
        grids of patches (images, 3). seconds: (images,) from a frame of a video's grid to the next.
        """
        if self.position_dims == 1 or grids_thw is None:
            return [(1, 1, count) for count in counts]
        spans = [None] * len(grids_thw) if seconds is None else seconds.tolist()
        return [self.merged_grid(grid, config, span) for grid, span in zip(grids_thw, spans, strict=True)]

    def count_by_image(self, token_ids: Sequence[int], image_token: int) -> list[int]:
        """The visual tokens of each image that a prompt shows, by the text of the prompt alone.

        For families of which a part of the tower's output need not be a whole image.
        """
        runs: list[list[int]] = []  # first place, place after the last
        for place, token_id in enumerate(token_ids):
            if token_id == image_token and runs and runs[-1][1] == place:
                runs[-1][1] += 1
            elif token_id == image_token:
                runs.append([place, place + 1])
        if not runs:
            return []
        closing = token_ids[runs[-1][1]] if self.images == "closing" and runs[-1][1] < len(token_ids) else None
        counts = [runs[0][1] - runs[0][0]]
        for (_, before), (start, stop) in pairwise(runs):
            goes_on = closing is not None and list(token_ids[before:start]).count(closing) < 2
            if goes_on:
                counts[-1] += stop - start
            else:
                counts.append(stop - start)
        return counts

    def merged_grid(self, grid_thw: torch.Tensor, config: Any, seconds: float | None = None) -> Grid:
        """The grid of visual tokens of one image or video from its grid of patches, (3,).

        seconds: of a video, from one frame of the grid to the next; 0 or None for an image.
        """
        merge = config.vision_config.spatial_merge_size
        frames, rows, columns = (int(n) for n in grid_thw)
        grid = frames, rows // merge, columns // merge
        if not seconds and frames == 1:
            return grid
        per_second = getattr(config.vision_config, "tokens_per_second", None)
        return VideoGrid(grid, 1.0 if per_second is None or not seconds else per_second * seconds)

    def grid_positions(self, grid: Grid) -> torch.Tensor:
        """Positions of a grid's visual tokens relative to the first one, (position_dims, frames * rows * columns)."""
        frames, rows, columns = grid
        if self.position_dims == 1:
            return torch.arange(frames * rows * columns)[None]
        times = (torch.arange(frames) * getattr(grid, "interval", 1)).long()
        axes = torch.meshgrid(times, torch.arange(rows), torch.arange(columns), indexing="ij")
        return torch.stack([axis.flatten() for axis in axes])

    def grid_extent(self, grid: Grid) -> int:
        """How far the position moves over a grid: what follows starts at the grid's first position plus this.

        Time does not count, so that text behind a long video may stand before the video's last frames.
        """
        return max(grid[1], grid[2])

    def shape_positions(self, positions_PBn: torch.Tensor) -> torch.Tensor:
        """Positions as the family's forward takes them: (P, B, n), or (B, n) with one dimension."""
        return positions_PBn if self.position_dims > 1 else positions_PBn[0]


PROJECTED = ("vision_tower", "multi_modal_projector")
CONNECTED = ("vision_model", "connector")

FAMILIES = {
    family.model_type: family
    for family in (
        Family("qwen2_vl", 3, "<|image_pad|>", video=layouts.ONE_BLOCK),
        Family("qwen2_5_vl", 3, "<|image_pad|>", video=layouts.ONE_BLOCK),
        Family("qwen3_vl", 3, "<|image_pad|>", video=layouts.STAMPED_BEFORE),
        Family("qwen3_vl_moe", 3, "<|image_pad|>", video=layouts.STAMPED_BEFORE),
        Family("glm4v", 3, "<|image|>", video=layouts.STAMPED_AFTER),
        Family("glm46v", 3, "<|image|>", video=layouts.STAMPED_AFTER_IN_TENTHS),
        Family("glm4v_moe", 3, "<|image|>", video=layouts.STAMPED_AFTER),
        Family("qwen3_5", 3, "<|image_pad|>", since="5.21", video=layouts.STAMPED_BEFORE),
        Family("qwen3_5_moe", 3, "<|image_pad|>", since="5.21", video=layouts.STAMPED_BEFORE),
        Family("internvl", 1, "<IMG_CONTEXT>", images="run", layout=layouts.TILES, vision=PROJECTED),
        Family("llava_onevision", 1, "<image>", 0, 0, layout=layouts.NEWLINES, vision=(*PROJECTED, "image_newline")),
        Family("mistral3", 1, "[IMG]", 0, 1, layout=layouts.LINES, vision=PROJECTED),
        Family(
            "smolvlm",
            1,
            "<image>",
            2,
            1,
            since="5.21",
            images="closing",
            layout=layouts.HEADED_TILES,
            vision=CONNECTED,
            language="text_model",
        ),
        Family(
            "idefics3",
            1,
            "<image>",
            2,
            1,
            images="closing",
            layout=layouts.HEADED_TILES,
            vision=CONNECTED,
            language="text_model",
        ),
        Family(
            "gemma3",
            1,
            "<image_soft_token>",
            images="run",
            layout=layouts.SOFT_TOKENS,
            placeholder="<start_of_image>",
            image_blocks=("full_attention", "sliding_attention"),
            vision=PROJECTED,
        ),
        Family(
            "gemma4",
            1,
            "<|image|>",
            layout=layouts.COUNTED_TOKENS,
            since="5.24",  # tried; on 5.19 its processor asks for torchvision
            image_blocks=("sliding_attention",),
            vision=("vision_tower", "embed_vision"),
        ),
    )
}

REFUSED = {
    "molmo2": "its mask joins all images of a prompt, so that a later image changes what was read of earlier ones",
    "mllama": "it reads images by cross-attention: its sequences hold no visual tokens that could be put back",
    "paligemma": "its attention over the prompt is bidirectional, which has not been examined",
    "llama4": "its chunked attention has not been examined",
    "kimi_k25": "its image processor needs torchvision, and its latent attention has not been examined",
    "lfm2_vl": "its image processor needs torchvision, and its short convolutions have not been examined",
    "llava_onevision1_5": "transformers has no code of its own for it; code that a checkpoint brings is never run",
    "llavaonevision1_5": "transformers has no code of its own for it; code that a checkpoint brings is never run",
    "kimi_vl": "transformers has no code of its own for it; code that a checkpoint brings is never run",
}
"""Families that are known not to work, with the reason."""

REFUSED_LAYERS = {
    "chunked_attention": "chunked attention has not been examined",
    "indexed_attention": "sparse attention picks its keys by an index that knows nothing of re-inserted tokens",
    "sparse_attention": "sparse attention picks its keys by an index that knows nothing of re-inserted tokens",
}

UNRANKED = {
    "gpt_oss": "its attention has sinks, which take a share that equation (5) knows nothing of",
}
"""Language models whose attention is not measured, with the reason: COPY alone."""


class UnknownFamilyError(ValueError):
    """The model's family is not in the table."""


def find_family(config: Any) -> Family:
    """The family of a model's configuration.

    Raises UnknownFamilyError, naming the known ones and, where it is known, the reason; also for a model of a known
    family with layers of a kind that is not supported.
    """
    family = find_type(getattr(config, "model_type", None))
    _check_layers(config, family.model_type)
    return family


def find_type(model_type: str | None) -> Family:
    """The family of a type of model, as configurations name it. UnknownFamilyError as of `find_family`."""
    if model_type is None or model_type not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        reason = f": {REFUSED[model_type]}" if model_type in REFUSED else ""
        raise UnknownFamilyError(f"models of type {model_type!r} are not supported{reason}; known families: {known}")
    family = FAMILIES[model_type]
    if not family.is_served:
        have = f"this is {transformers.__version__}"
        raise UnknownFamilyError(f"models of type {model_type!r} need transformers {family.since} or newer, {have}")
    return family


def layer_kinds(config: Any) -> list[str]:
    """The kind of attention of each decoder layer of a model's configuration; where it lists none, all have its window,
    if it has one.
    """
    text = config.get_text_config()
    kind = "full_attention" if getattr(text, "sliding_window", None) is None else "sliding_attention"
    return list(getattr(text, "layer_types", None) or [kind] * text.num_hidden_layers)


def attention_layers(config: Any) -> list[int]:
    """The decoder layers that have attention to rank by."""
    return [layer for layer, kind in enumerate(layer_kinds(config)) if kind in RANKED_LAYERS]


def check_ranking(config: Any) -> None:
    """ValueError for a model whose attention on visual tokens is not measured, by which ROUTE ranks them."""
    text = config.get_text_config()
    kind = next((name for name in UNRANKED if str(getattr(text, "model_type", "")).startswith(name)), None)
    if kind is not None:
        raise ValueError(
            f"visual tokens cannot be ranked in a {config.model_type} with {kind} as language model: {UNRANKED[kind]}; "
            "ask for copy, which puts all of them back, or for text"
        )


def _check_layers(config: Any, model_type: str) -> None:
    kinds = set(layer_kinds(config)) if hasattr(config, "get_text_config") else set()
    for kind in sorted(kinds - set(SUPPORTED_LAYERS)):
        reason = REFUSED_LAYERS.get(kind, "layers of this kind are not supported")
        raise UnknownFamilyError(f"this {model_type} has layers of kind {kind!r}: {reason}")


def _first(config: Any, names: Sequence[str]) -> int | None:
    return next((value for name in names if (value := getattr(config, name, None)) is not None), None)
