"""What a stage of a data set reads: samples of the table of loaders, checked before the first step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch.utils.data import Dataset
from tqdm import tqdm

from look_again.data.checks import select_samples
from look_again.data.image_files import image_size
from look_again.data.loaders import load_samples
from look_again.data.sample import BadSample, Sample
from look_again.training.batches import Codec, Item
from look_again.training.sft_config import Stage
from look_again.yaml_config import ConfigError

SHOWN = 5  # samples that an error lists by name


@dataclass
class SampleDataset(Dataset):
    """Samples that were checked; `lengths` are their slots."""

    samples: list[Sample]
    lengths: list[int]
    stage: Stage
    seed: int
    codec: Codec

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Item:
        sample = self.samples[index]
        policy = self.stage.mixture.draw(self.seed, sample.id)
        return self.codec.item(sample, policy, learn_silent=self.stage.sequence.learn_mistakes)

    @property
    def grouped_lengths(self) -> list[int] | None:
        """The lengths by which samples are put together, None where they are not."""
        return self.lengths if self.stage.passes.group_by_length else None


def load_stage_samples(stage: Stage, seed: int, codec: Codec) -> tuple[SampleDataset, dict[str, int]]:
    """The stage's samples and what was counted on the way. SampleError or ConfigError, naming them, before any step."""
    selection, skipped = stage.selection, list[BadSample]()
    stream = (sample for source in selection.data for sample in load_samples(source, on_skip=skipped.append))
    good, report = select_samples(
        stream, on_bad_row=selection.on_bad_row, passed_over=skipped, min_reflections=selection.min_reflections
    )
    lengths = [
        codec.length(sample, [image_size(image) for image in sample.images], stage.mixture.draw(seed, sample.id))
        for sample in tqdm(good, desc="lengths", unit="row", disable=len(good) < 1000)
    ]
    kept = _short_enough(good, lengths, stage)
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


def _short_enough(samples: Sequence[Sample], lengths: Sequence[int], stage: Stage) -> list[int]:
    """The indices of the samples that fit; samples are never cut."""
    most = stage.sequence.max_length
    long = [(sample.id, length) for sample, length in zip(samples, lengths, strict=True) if length > most]
    if long and stage.selection.on_long_row == "refuse":
        named = ", ".join(f"{name} ({length})" for name, length in long[:SHOWN])
        raise ConfigError(
            f"stage {stage.name!r}: {len(long)} of {len(samples)} rows are longer than max_length={most} "
            f"slots: {named}{', ...' if len(long) > SHOWN else ''}; raise it or set on_long_row: drop"
        )
    return [i for i, length in enumerate(lengths) if length <= most]
