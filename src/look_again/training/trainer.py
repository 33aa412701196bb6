"""The trainer: transformers' Trainer around `Reattending`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch.utils.data import DataLoader, Sampler
from transformers import Trainer
from transformers.trainer_pt_utils import get_length_grouped_indices

from look_again.training.module import SECTIONS, Reattending


class ReattentionTrainer(Trainer):
    """Fine-tunes on responses with re-attention in place, and logs the loss of every section."""

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Checkpoints hold what trains, under the module's own names; what is frozen comes from the base again.

        The library would rename this family's weights when it saves and not when it resumes: a resumed run would go on
        from the weights it was started with, with no more than a warning. Sharded weights are left to their engine.
        """
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            super().save_model(output_dir, _internal_call)
        elif self.args.should_save:
            folder = Path(cast(str, output_dir or self.args.output_dir))
            folder.mkdir(parents=True, exist_ok=True)
            module = cast(Reattending, self.accelerator.unwrap_model(self.model))
            trained = {name: parameter.detach().cpu() for name, parameter in module.trained.items()}
            save_file(trained, folder / "model.safetensors", metadata={"format": "pt"})

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds `loss_CAPTION` and so on: the mean over the targets of each section since the last log line."""
        module = self.accelerator.unwrap_model(self.model)
        if "loss" in logs and isinstance(module, Reattending):
            sums = self.accelerator.reduce(module.take_section_losses().float().to(self.args.device), "sum")
            logs |= {
                f"loss_{name}": float(total / count)
                for name, (total, count) in zip(SECTIONS, sums, strict=True)
                if count
            }
        super().log(logs, start_time)

    def get_train_dataloader(self) -> DataLoader:
        """Batches in the same order for any number of processes, and after any number of restarts.

        Workers live as long as the stage: one forked in the midst of training keeps what the trainer held then.
        """
        dataset, size = cast(Any, self.train_dataset), self.args.train_batch_size
        lengths = getattr(dataset, "grouped_lengths", None)
        group = size * self.args.gradient_accumulation_steps * self.args.world_size
        loader = DataLoader(
            dataset,
            batch_size=size,
            sampler=EpochOrder(len(dataset), self.args.seed, lengths, group),
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            persistent_workers=self.args.dataloader_num_workers > 0,
        )
        return self.accelerator.prepare(loader)


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """The generator that orders the samples of an epoch."""
    return torch.Generator().manual_seed(seed * 1_000_003 + epoch)


class EpochOrder(Sampler):
    """A permutation of the samples that depends on the seed and the epoch alone.

    `lengths` puts samples of similar length together, in groups of `group`.
    """

    def __init__(self, samples: int, seed: int, lengths: Sequence[int] | None = None, group: int = 1) -> None:
        self.samples, self.seed, self.lengths, self.group, self.epoch = samples, seed, lengths, group, 0

    def __len__(self) -> int:
        return self.samples

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer as an epoch begins."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = epoch_generator(self.seed, self.epoch)
        if self.lengths is None:
            return iter(torch.randperm(self.samples, generator=generator).tolist())
        return iter(get_length_grouped_indices(list(self.lengths), self.group, generator=generator))
