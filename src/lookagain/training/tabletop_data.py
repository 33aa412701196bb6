"""Tabletop rows as training examples, made on the fly: row i of a run is a function of (seed, i) alone."""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import Dataset

from lookagain.chat import encode_chat
from lookagain.families import Family
from lookagain.grammar import close_tag
from lookagain.reattention import Reattention
from lookagain.tabletop.render import render
from lookagain.tabletop.rows import TabletopRow, make_row
from lookagain.tabletop.world import COLOURS, GRID_SIDE, PLACES, SHAPES
from lookagain.training.config import Stage
from lookagain.training.sequence import Example


@dataclass
class Item:
    """A picture and what is asked of it: a tokenised example, or the contents of each visual token (warm-up)."""

    pixel_values: torch.Tensor
    image_grid_thw: torch.Tensor
    example: Example | None = None
    contents: torch.Tensor | None = None  # (visual tokens, 4) classes, see `contents_of`


class TabletopDataset(Dataset):
    """`stage.steps * stage.batch` rows of the train split."""

    def __init__(self, stage: Stage, seed: int, family: Family, tokenizer: Any, image_processor: Any, config: Any):
        self.stage = stage
        self.seed = seed
        self.family = family
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.config = config

    def __len__(self) -> int:
        return self.stage.steps * self.stage.batch

    def __getitem__(self, index: int) -> Item:
        row = make_row(
            "train",
            self._stream_seed(),
            index,
            error_rate=self.stage.error_rate,
            lengths=self.stage.lengths,
        )
        pictures = self.image_processor(images=[render(row.scene)], return_tensors="pt")
        item = Item(pictures["pixel_values"], pictures["image_grid_thw"])
        if self.stage.task == "vision":
            item.contents = contents_of(row)
        else:
            item.example = self._example(row, index, item.image_grid_thw)
        return item

    def _stream_seed(self) -> int:
        """Stages read different rows."""
        return self.seed * 1_000_003 + zlib.crc32(self.stage.name.encode())

    def _example(self, row: TabletopRow, index: int, grid_thw: torch.Tensor) -> Example:
        grid = self.family.merged_grid(grid_thw[0], self.config)
        messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": row.prompt}]}]
        visual_tokens = grid[0] * grid[1] * grid[2]
        prompt = encode_chat(self.tokenizer, messages, [visual_tokens], image_token=self.family.image_text)
        ids, silent = encode_response(self.tokenizer, row, captions_only=self.stage.task == "captions")
        if self.stage.learn_mistakes:
            silent = [False] * len(ids)
        return Example(prompt, ids, [grid], self._policy(index), silent)

    def _policy(self, index: int) -> Reattention:
        modes, weights = zip(*sorted(self.stage.modes.items()), strict=True)
        mode = random.Random(f"mode/{self.seed}/{index}").choices(modes, weights=weights)[0]
        return Reattention(mode=mode, keep=self.stage.keep)


def encode_response(tokenizer: Any, row: TabletopRow, *, captions_only: bool = False) -> tuple[list[int], list[bool]]:
    """Token ids of the oracle's response with the end-of-turn token, and which of them were planted mistakes."""
    text = row.written.text
    if captions_only:
        text = text[: text.index(close_tag("CAPTION")) + len(close_tag("CAPTION"))]
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    silent = [
        any(start < stop_char and stop > start_char for start_char, stop_char in row.written.planted_spans)
        for start, stop in encoded["offset_mapping"]
    ]
    return [*encoded["input_ids"], tokenizer.eos_token_id], [*silent, False]


def contents_of(row: TabletopRow) -> torch.Tensor:
    """(visual tokens, 4): at every place its row and column, and the colour and shape of what is there (0: nothing)."""
    classes = torch.zeros((len(PLACES), 4), dtype=torch.long)
    places = torch.arange(len(PLACES))
    classes[:, 0], classes[:, 1] = places // GRID_SIDE, places % GRID_SIDE
    for thing in row.scene.things:
        place = PLACES.index(thing.place)
        classes[place, 2] = 1 + COLOURS.index(thing.colour)
        classes[place, 3] = 1 + SHAPES.index(thing.shape)
    return classes
