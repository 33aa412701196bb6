"""What a stage of supervised fine-tuning trains on; tasks are entered by name in `sft_config.TASKS`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import Trainer

from look_again.training.base_model import BaseModel
from look_again.training.batches import Codec, collate
from look_again.training.datasets import load_stage_samples
from look_again.training.sft_config import Stage
from look_again.training.trainer import ReattentionTrainer


class SftTask(ABC):
    """A task: what is read, the module that trains on it, and the model that comes of it."""

    trainer: type[Trainer] = ReattentionTrainer

    @abstractmethod
    def dataset(self, stage: Stage, seed: int, codec: Codec, processes: int) -> tuple[Any, dict[str, int]]:
        """What the stage reads, and what was counted on the way. Raises SampleError or ConfigError, naming samples."""

    def collate(self, items: Sequence[Any]) -> dict[str, Any]:
        """Items of the dataset as one step's batch."""
        return collate(items)

    def module(self, base: BaseModel, model: Any, stage: Stage) -> torch.nn.Module:
        """What the trainer trains: the model with re-attention."""
        module = base.trainable(model)
        if stage.passes.gradient_checkpointing:
            module.recompute_layers()
        return module

    def trained(self, base: BaseModel, state: Mapping[str, torch.Tensor]) -> Any:
        """The model that the module's state makes of the start."""
        return base.merged(state)


class SamplesTask(SftTask):
    """The samples of the stage's data."""

    def dataset(self, stage: Stage, seed: int, codec: Codec, processes: int) -> tuple[Any, dict[str, int]]:
        """Samples that were checked, and their counts."""
        return load_stage_samples(stage, seed, codec)
