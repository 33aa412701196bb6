"""Whole responses of the long world as a training task: twins that differ in the length of their work alone."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

from look_again.data.sample import Sample
from look_again.tabletop.loader import build_sample
from look_again.tabletop.long_world.long_work import LONG_KINDS, MAX_PIECES, MIN_PIECES, LongSample, make_long_sample
from look_again.tabletop.sft_tasks import AnswersTask, TabletopDataset
from look_again.tabletop.world import WORLD_SIZES
from look_again.training.run_parts import require_weights
from look_again.yaml_config import check_types


@dataclass(frozen=True, kw_only=True)
class LongOptions:
    """How the long rows of a stage are drawn. ValueError for values out of range."""

    endless: ClassVar[bool] = True
    """Samples are made as the stage goes, so that only steps can end it."""

    shortest: int = MIN_PIECES
    """Least tokens of work before the reflection; every row draws its own number."""
    longest: int = 800
    """Most of them."""
    size: str = "small"
    """Of the table, small or wide."""
    kinds: Mapping[str, float] = field(default_factory=lambda: {"listed": 1.0})
    """Weights of the kinds of rows: listed, unwritten, swap."""
    error_rate: float = 0.3
    """Chance of a planted mistake per object that a caption lists."""

    def __post_init__(self) -> None:
        check_types(self)
        if not MIN_PIECES <= self.shortest <= self.longest <= MAX_PIECES:
            raise ValueError(
                f"shortest and longest are {MIN_PIECES} to {MAX_PIECES} tokens, not {self.shortest} and {self.longest}"
            )
        if self.size not in WORLD_SIZES:
            raise ValueError(f"size is {' or '.join(WORLD_SIZES)}, not {self.size!r}")
        require_weights(self, "kinds", LONG_KINDS)
        if not 0 <= self.error_rate <= 1:
            raise ValueError(f"error_rate is 0..1, not {self.error_rate}")


class LongDataset(TabletopDataset):
    """Rows of the long world, those of one step of similar length."""

    def pieces(self, index: int) -> int:
        """The tokens of work that a row is drawn with."""
        options = self.stage.options
        return random.Random(f"long/{self._stream_seed()}/{index}").randint(options.shortest, options.longest)

    @cached_property
    def grouped_lengths(self) -> list[int] | None:
        """The lengths by which rows are put together, None where they are not."""
        return [self.pieces(index) for index in range(len(self))] if self.stage.passes.group_by_length else None

    def draw_long(self, index: int) -> LongSample:
        """The row behind a sample."""
        options, seed = self.stage.options, self._stream_seed()
        names, weights = zip(*sorted(options.kinds.items()), strict=True)
        kind = random.Random(f"kind/{seed}/{index}").choices(names, weights=weights)[0]
        return make_long_sample(
            "train",
            seed,
            index,
            pieces=self.pieces(index),
            size=options.size,
            kind=kind,
            error_rate=options.error_rate,
        )

    def sample(self, index: int) -> Sample:
        """The row as a sample: planted mistakes are its silent spans."""
        return build_sample(self.draw_long(index), "train", source="tabletop-long")


class LongTask(AnswersTask):
    """Whole responses of the long world."""

    dataset_class = LongDataset
