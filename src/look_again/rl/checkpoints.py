"""Checkpoints of a BRPO run: trained weights, optimizer, schedule and step, moved into place whole.

No generator is stored: everything random in a step is drawn from (seed, step). What an engine shards is stored by
accelerate, in its own format.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from safetensors.torch import load_file, save_file

from look_again.training.module import Reattending

STATE = "state.pt"


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether an engine cuts up weights and optimizer."""
    return accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)


def save_checkpoint(
    accelerator: Accelerator, module: Reattending, optimizer: Any, scheduler: Any, output: Path, step: int
) -> None:
    """Write `output/checkpoint-STEP` and drop older ones. Called by all processes."""
    beside = output / "checkpoint.unfinished"
    older = list(output.glob("checkpoint-*"))
    if accelerator.is_main_process:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir()
    accelerator.wait_for_everyone()
    if is_sharded(accelerator):
        accelerator.save_state(str(beside))
    elif accelerator.is_main_process:
        weights = {name: parameter.detach().cpu() for name, parameter in module.trained.items()}
        save_file(weights, beside / "model.safetensors")
        torch.save({"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}, beside / STATE)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        beside.rename(output / f"checkpoint-{step}")
        for folder in older:
            shutil.rmtree(folder)


def load_checkpoint(accelerator: Accelerator, module: Reattending, optimizer: Any, scheduler: Any, output: Path) -> int:
    """Put the last checkpoint of `output` back; returns its step, 0 without any."""
    steps = [int(folder.name.rsplit("-", 1)[1]) for folder in output.glob("checkpoint-*")]
    if not steps:
        return 0
    folder = output / f"checkpoint-{max(steps)}"
    if is_sharded(accelerator):
        accelerator.load_state(str(folder))
        return max(steps)
    module.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    state = torch.load(folder / STATE, map_location=accelerator.device, weights_only=True)
    optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])
    return max(steps)
