"""What a stage reads: Tabletop rows made on the fly, or rows of the table of loaders, checked before the first step."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from look_again.data.checks import select_samples
from look_again.data.image_files import image_size
from look_again.data.loaders import load_samples
from look_again.data.sample import BadSample, Sample
from look_again.tabletop.loader import build_sample
from look_again.tabletop.rows import TabletopRow, make_row
from look_again.tabletop.world import COLOURS, GRID_SIDE, PLACES, SHAPES
from look_again.text.grammar import close_tag
from look_again.training.batches import Codec, Item, policy_of
from look_again.training.recipe import Stage
from look_again.yaml_config import ConfigError

SHOWN = 5  # rows that an error lists by name


class TabletopDataset(Dataset):
    """Enough rows of the train split for all steps: row i of a run is a function of (seed, stage, i) alone."""

    def __init__(self, stage: Stage, seed: int, codec: Codec, processes: int = 1) -> None:
        self.stage, self.seed, self.codec, self.processes = stage, seed, codec, processes

    def __len__(self) -> int:
        return (self.stage.steps or 0) * self.stage.batch * self.stage.accumulation * self.processes

    def __getitem__(self, index: int) -> Item:
        made = make_row(
            "train",
            self._stream_seed(),
            index if self.stage.distinct is None else index % self.stage.distinct,
            reflections=self.stage.reflections,
            error_rate=self.stage.error_rate,
            lengths=self.stage.lengths,
            cursory=self.stage.cursory,
        )
        row = build_sample(made, "train")
        if self.stage.task == "vision":
            images = self.codec.images(row).tensors
            return Item(images["pixel_values"], images["image_grid_thw"], contents=contents_of(made))
        row = _caption_alone(row) if self.stage.task == "captions" else row
        policy = policy_of(self.stage, self.seed, row.id)
        return self.codec.item(row, policy, learn_silent=self.stage.learn_mistakes)

    def _stream_seed(self) -> int:
        """Stages read different rows."""
        return self.seed * 1_000_003 + zlib.crc32(self.stage.name.encode())


def _caption_alone(row: Sample) -> Sample:
    """The row with its response up to CAPTION."""
    assert row.response is not None
    end = close_tag("CAPTION")
    return replace(row, response=row.response[: row.response.index(end) + len(end)])


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


@dataclass
class SampleDataset(Dataset):
    """Rows that were checked; `lengths` are their slots."""

    rows: list[Sample]
    lengths: list[int]
    stage: Stage
    seed: int
    codec: Codec

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Item:
        row = self.rows[index]
        return self.codec.item(row, policy_of(self.stage, self.seed, row.id), learn_silent=self.stage.learn_mistakes)


def load_stage_samples(stage: Stage, seed: int, codec: Codec) -> tuple[SampleDataset, dict[str, int]]:
    """The stage's rows and what was counted on the way. RowError or ConfigError, naming rows, before any step."""
    skipped: list[BadSample] = []
    found = (row for source in stage.data for row in load_samples(source, on_skip=skipped.append))
    good, report = select_samples(
        found, on_bad_row=stage.on_bad_row, passed_over=skipped, min_reflections=stage.min_reflections
    )
    lengths = [
        codec.length(row, [image_size(image) for image in row.images], policy_of(stage, seed, row.id))
        for row in tqdm(good, desc="lengths", unit="row", disable=len(good) < 1000)
    ]
    kept = _within(good, lengths, stage)
    counts = {
        "read": report.rows,
        "bad": len(report.bad),
        "too long": len(good) - len(kept),
        "trained on": len(kept),
        "of these without an image": sum(not good[i].images for i in kept),
    }
    if not kept:
        raise ConfigError(f"stage {stage.name!r}: no row is left to train on: {counts}")
    return SampleDataset([good[i] for i in kept], [lengths[i] for i in kept], stage, seed, codec), counts


def _within(rows: Sequence[Sample], lengths: Sequence[int], stage: Stage) -> list[int]:
    """Which rows fit; rows are never cut."""
    long = [(row.id, length) for row, length in zip(rows, lengths, strict=True) if length > stage.max_length]
    if long and stage.on_long_row == "refuse":
        named = ", ".join(f"{row} ({length})" for row, length in long[:SHOWN])
        raise ConfigError(
            f"stage {stage.name!r}: {len(long)} of {len(rows)} rows are longer than max_length={stage.max_length} "
            f"slots: {named}{', ...' if len(long) > SHOWN else ''}; raise it or set on_long_row: drop"
        )
    return [i for i, length in enumerate(lengths) if length <= stage.max_length]
