"""What packing spares, and what long rows cost beside what operations predict: part of `look-again bench sft`.

Rows show one image and have random text up to a given length. The padded arms are all rows of a step padded to the
longest, as batches are ordinarily made, and this project's groups of similar length.

Legend: T tokens of a row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import torch

from look_again.bench.measure import Call, paired_ratios, timed
from look_again.bench.settings import SftSettings
from look_again.core.reattention import Reattention
from look_again.tabletop.loader import build_sample
from look_again.tabletop.samples import TabletopSample
from look_again.training.batches import Codec, collate
from look_again.training.module import LENGTH_GROUPS, Reattending
from look_again.training.packing import allow_packing

MIXED = tuple(range(100, 1501, 200))  # tokens of the rows of a step
LONG, SHORT = (600,) * 20, (100,) * 120  # as many tokens in both
PAIRS = 3  # at most, as a step takes seconds


class StepBench(Protocol):
    """A model with what makes steps of it."""

    settings: SftSettings
    device: torch.device
    model: Any
    module: Reattending
    tokenizer: Any
    image_processor: Any
    rows: list[TabletopSample]

    def on_device(self, batch: dict[str, Any]) -> dict[str, Any]: ...

    def count_operations(self, batch: dict[str, Any]) -> float: ...

    def run_step(self, loss: Callable[[], torch.Tensor]) -> None: ...


class PackingBench:
    """Steps on rows of given lengths, packed or padded, of one model."""

    def __init__(self, bench: StepBench) -> None:
        self.bench, self.module = bench, bench.module
        allow_packing(bench.model)

    def collated(self, lengths: tuple[int, ...]) -> dict[str, Any]:
        """A batch of rows with so many tokens each. ValueError for one that leaves no room for an answer."""
        model, tokenizer = self.bench.model, self.bench.tokenizer
        codec = Codec.of(model.config, tokenizer, self.bench.image_processor)
        item = codec.item(build_sample(self.bench.rows[0], "train"), Reattention(mode="copy"))
        text_ids, generator = min(tokenizer.added_tokens_decoder), torch.Generator().manual_seed(0)
        items = []
        for length in lengths:
            answer = length - len(item.example.prompt_ids)
            if answer < 1:
                raise ValueError(f"a row of {length} tokens ends within its prompt of {length - answer}")
            ids = torch.randint(text_ids, (answer,), generator=generator).tolist()
            example = replace(item.example, response_ids=ids, silent=[False] * answer)
            items.append(replace(item, example=example))
        return self.bench.on_device(collate(items))

    def step(self, lengths: tuple[int, ...], *, packing: bool = False, groups: int = LENGTH_GROUPS) -> Call:
        """Forward and backward on rows of these lengths."""
        return partial(self._step, self.collated(lengths), packing, groups)

    def seconds_per_operation(self, call: Call, lengths: tuple[int, ...]) -> Call:
        """A measured step as a call that returns its seconds over the operations that its shapes count."""
        operations = self.bench.count_operations(self.collated(lengths))
        return lambda: timed(call, self.bench.device) / operations

    def _step(self, batch: dict[str, Any], packing: bool, groups: int) -> None:
        before = self.module.packing, self.module.length_groups
        self.module.packing, self.module.length_groups = packing, groups
        try:
            self.bench.run_step(lambda: self.module(**batch)["loss"])
        finally:
            self.module.packing, self.module.length_groups = before


def measure_packing(bench: StepBench) -> dict[str, list[float]]:
    """Samples of every ratio."""
    rows, pairs = PackingBench(bench), min(bench.settings.pairs, PAIRS)
    time = partial(timed, device=bench.device)
    packed = rows.step(MIXED, packing=True)
    long, short = (rows.seconds_per_operation(rows.step(lengths), lengths) for lengths in (LONG, SHORT))
    return {
        "packed_over_padded": paired_ratios(packed, rows.step(MIXED, groups=1), pairs, time),
        "packed_over_padded_groups": paired_ratios(packed, rows.step(MIXED), pairs, time),
        "long_step_over_count": paired_ratios(long, short, pairs, lambda call: call()),
    }
