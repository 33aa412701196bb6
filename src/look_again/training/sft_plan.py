"""`--dry-run`: what a recipe will take, from shapes alone, before anything is loaded.

Parameters are counted on a model without storage. Memory is an estimate, made of named parts; what depends on the data
(lengths, targets) is bounded by the recipe's `max_length`.

Legend: N parameters, T trainable ones, S slots of one pass, D hidden size, W vocabulary.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText

from look_again.core.families import find_family
from look_again.data.source import Source
from look_again.text.grammar import TAGS
from look_again.training.base_model import NewModel, hint_at_paths
from look_again.training.chunked_loss import count_chunk_targets
from look_again.training.large_shapes import KNOWN
from look_again.training.run_parts import Hardware, TrainedParts
from look_again.training.sft_config import SftConfig, Stage
from look_again.training.trainable import LANGUAGE_LINEARS
from look_again.weights.configuration import read_config
from look_again.yaml_config import ConfigError

GB = 1e9
RUNTIME_GB = 1.5  # the device's context, kernels and fragments
HEADROOM = 0.95


@dataclass(frozen=True)
class StagePlan:
    """One stage. memory_gb: per GPU, by part. steps None: the data are not there to be counted."""

    stage: str
    parameters: int
    trainable: int
    slots_per_step: int
    rows: int | None
    steps: int | None
    memory_gb: dict[str, float]

    @property
    def total_gb(self) -> float:
        return sum(self.memory_gb.values())


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What a plan needs to know of a stage, or of a run of another method.

    batch: sequences per device and pass. accumulation: passes per step. max_length: slots of a sequence. max_targets:
    targets of one. loss_chunk: targets whose logits exist at a time, None for as many as the loss takes by itself.
    """

    name: str
    parts: TrainedParts
    data: tuple[Source, ...]
    batch: int
    accumulation: int
    max_length: int
    max_targets: int
    loss_chunk: int | None
    gradient_checkpointing: bool
    bf16: bool
    hardware: Hardware
    steps: int | None
    epochs: float | None = None


def plan(config: SftConfig) -> list[StagePlan]:
    """Plans of all stages. ConfigError when one cannot fit its hardware, saying what to change."""
    model = empty_model(config.base, config.hardware, config.tiny)
    plans = [plan_workload(stage_workload(config, stage), model) for stage in config.stages]
    for stage_plan in plans:
        check_fits(stage_plan, config.hardware)
    return plans


def stage_workload(config: SftConfig, stage: Stage) -> Workload:
    """What the plan needs to know of a stage."""
    passes = stage.passes
    return Workload(
        name=stage.name,
        parts=stage.parts,
        data=stage.selection.data,
        batch=passes.batch,
        accumulation=passes.accumulation,
        max_length=stage.sequence.max_length,
        max_targets=stage.sequence.max_length,
        loss_chunk=passes.loss_chunk,
        gradient_checkpointing=passes.gradient_checkpointing,
        bf16=config.bf16,
        hardware=config.hardware,
        steps=passes.steps,
        epochs=passes.epochs,
    )


def empty_model(base: str | None, hardware: Hardware, shapes: NewModel | None = None) -> Any:
    """The model without storage. ConfigError when the base's configuration cannot be had."""
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(_configuration(base, hardware, shapes))


def _configuration(base: str | None, hardware: Hardware, shapes: NewModel | None) -> Any:
    if base is None:
        assert shapes is not None
        return shapes.new_configuration()
    if not Path(base).exists():
        known = base if base in KNOWN else hardware.shapes
        if known in KNOWN:
            return KNOWN[known].model_config()
    try:
        return read_config(base)
    except (OSError, ValueError) as error:
        reason = f"{str(error).splitlines()[0]}{hint_at_paths(base)}"
        raise ConfigError(
            f"the configuration of {base} cannot be had ({reason}); known without it: {', '.join(KNOWN)}"
        ) from error


def plan_workload(work: Workload, model: Any) -> StagePlan:
    """One stage, whether or not it fits."""
    total, rows = _size(model), _count_samples(work.data)
    trainable = trainable_parameters(model, work.parts)
    return StagePlan(
        work.name,
        total,
        trainable,
        work.batch * work.accumulation * work.hardware.devices * work.max_length,
        rows,
        _count_steps(work, rows),
        _memory(work, model, total, trainable),
    )


def _count_steps(work: Workload, rows: int | None) -> int | None:
    """Optimizer steps, None where they depend on data that are not there."""
    if work.steps is not None or rows is None or work.epochs is None:
        return work.steps
    passes = math.ceil(math.ceil(rows / work.batch) / work.hardware.devices)  # of an epoch, as the trainer counts
    return math.ceil(work.epochs * math.ceil(passes / work.accumulation))


def trainable_parameters(model: Any, parts: TrainedParts) -> int:
    """T, counted as `choose_trainable` does."""
    family, text = find_family(model.config), model.config.get_text_config()
    if parts.trains == "all":
        return _size(model)
    if parts.trains == "without_vision":
        return _size(model) - sum(parameter.numel() for parameter in family.vision_parameters(model))
    tags = 2 * len(TAGS) * text.hidden_size * (1 if text.tie_word_embeddings else 2)
    language = family.language_model(model)
    layers = language.layers
    if parts.trains == "language_model":
        return _size(layers) + _size(language.norm) + tags
    linears = [
        module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and re.fullmatch(LANGUAGE_LINEARS, name)
    ]
    return tags + parts.lora.rank * sum(module.in_features + module.out_features for module in linears)


def _size(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _count_samples(data: tuple[Source, ...]) -> int | None:
    """Samples of all sources, where files can be counted or limits are given."""
    counts = [_count(source) for source in data]
    if not counts or any(count is None for count in counts):
        return None
    return sum(count for count in counts if count is not None)


def _count(source: Source) -> int | None:
    path = source.local_path
    lines = None
    if source.loader == "jsonl" and path.is_file():
        with path.open("rb") as file:
            lines = sum(1 for line in file if line.strip())
    known = [n for n in (lines, source.limit) if n is not None]
    return min(known) if known else None


def _memory(work: Workload, model: Any, total: int, trainable: int) -> dict[str, float]:
    """Per GPU in GB: master weights in float32 (frozen ones of LoRA in bfloat16), AdamW, activations, logits."""
    hardware = work.hardware
    shards = hardware.devices if hardware.sharded else 1
    frozen_bytes = 2 if work.parts.trains == "lora" and work.bf16 else 4
    compute_bytes = 2 if work.bf16 else 4
    text = model.config.get_text_config()
    slots = work.batch * work.max_length
    per_slot = compute_bytes * (16 * text.hidden_size + 3 * text.intermediate_size)
    layer = _size(model.base_model.language_model.layers[0])
    outside = total - layer * text.num_hidden_layers  # embedding, head, vision: gathered for the whole pass
    whole = trainable * compute_bytes * (compute_bytes == 2)
    gathered = (2 * layer + outside) * compute_bytes if hardware.sharded else whole
    kept = text.num_hidden_layers * slots * compute_bytes * text.hidden_size
    activations = kept + slots * per_slot if work.gradient_checkpointing else text.num_hidden_layers * slots * per_slot
    targets, whole_head = work.batch * work.max_targets, hardware.engine == "zero3"
    logits = targets if whole_head else min(targets, count_chunk_targets(work.loss_chunk, text.vocab_size))
    late = hardware.engine == "fsdp2" and work.accumulation > 1  # gradients are not sharded until the last pass
    gradients = trainable * 4 / shards + trainable * compute_bytes * late
    parts = {
        "weights": (trainable * 4 + (total - trainable) * frozen_bytes) / shards,
        "weights in use": gathered,
        "gradients": gradients,
        "optimizer": trainable * 8 / shards,
        "activations": activations,
        "logits": logits * text.vocab_size * (2 * compute_bytes + 8),
        "runtime": RUNTIME_GB * GB,
    }
    return {name: size / GB for name, size in parts.items()}


def check_fits(stage_plan: StagePlan, hardware: Hardware) -> None:
    """ConfigError when a plan does not fit the memory, with what to change."""
    if stage_plan.total_gb <= HEADROOM * hardware.memory_gb:
        return
    largest = max(stage_plan.memory_gb, key=lambda name: stage_plan.memory_gb[name])
    advice = {
        "activations": "turn gradient_checkpointing on, or lower batch or max_length",
        "logits": "lower batch, max_length or loss_chunk",
        "sampling": "lower questions, group or max_new_tokens",
    }.get(largest, "shard over more GPUs (engine: fsdp2 or zero3) or train adapters (trains: lora)")
    each = " per GPU" if hardware.gpus else ""
    raise ConfigError(
        f"stage {stage_plan.stage!r} needs about {stage_plan.total_gb:.0f} GB{each} and {hardware} is planned for; "
        f"most of it is {largest} ({stage_plan.memory_gb[largest]:.0f} GB): {advice}"
    )


def as_text(config: SftConfig, plans: list[StagePlan]) -> str:
    """The plan as people read it."""
    hardware = config.hardware
    lines = [f"{config.base or 'tiny model from nothing'} on {hardware}, {hardware.engine}"]
    for stage_plan in plans:
        rows = "not counted (made on the fly, or not here)" if stage_plan.rows is None else f"{stage_plan.rows:,}"
        lines += [
            f"stage {stage_plan.stage}",
            f"  parameters        {stage_plan.parameters:,}",
            f"  trainable         {stage_plan.trainable:,} ({stage_plan.trainable / stage_plan.parameters:.2%})",
            f"  slots per step    at most {stage_plan.slots_per_step:,}",
            f"  rows              {rows}",
            f"  optimizer steps   {'unknown' if stage_plan.steps is None else f'{stage_plan.steps:,}'}",
            *memory_lines(stage_plan, hardware),
        ]
    return "\n".join(lines)


def memory_lines(stage_plan: StagePlan, hardware: Hardware) -> list[str]:
    """The memory of a plan as people read it, in all and by part."""
    title = "memory per GPU" if hardware.gpus else "memory"
    parts = [f"    {name:<15} {size:6.1f} GB" for name, size in stage_plan.memory_gb.items()]
    return [f"  {title:<17} about {stage_plan.total_gb:.1f} GB", *parts]
