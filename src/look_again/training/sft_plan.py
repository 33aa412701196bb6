"""`--dry-run`: what a recipe will take, from shapes alone, before anything is loaded.

Parameters are counted on a model without storage. Memory is an estimate, made of named parts; what depends on the data
(lengths, targets) is bounded by the recipe's `max_length`.

Legend: N parameters, T trainable ones, S slots of one pass, D hidden size, W vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from look_again.data.source import Source
from look_again.tabletop.tiny import SPECIAL_TOKENS, TinyConfig, model_config_of
from look_again.text.grammar import TAGS
from look_again.training.large_shapes import KNOWN
from look_again.training.recipe import Hardware, SftConfig, Stage
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


def plan(config: SftConfig) -> list[StagePlan]:
    """Plans of all stages. ConfigError when one cannot fit its hardware, saying what to change."""
    model = empty_model(config)
    plans = [plan_stage(config, stage, model) for stage in config.stages]
    for made in plans:
        check_fits(made, config.hardware)
    return plans


def empty_model(config: SftConfig) -> Any:
    """The model without storage. ConfigError when the base's configuration cannot be had."""
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(_configuration(config))


def _configuration(config: SftConfig) -> Any:
    if config.base is None:
        return model_config_of(config.tiny, _tiny_rows(config.tiny), {name: i for i, name in enumerate(SPECIAL_TOKENS)})
    if not Path(config.base).exists():
        shapes = config.base if config.base in KNOWN else config.hardware.shapes
        if shapes in KNOWN:
            return KNOWN[shapes].model_config()
    try:
        return AutoConfig.from_pretrained(config.base)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"the configuration of {config.base} cannot be had ({str(error).splitlines()[0]}); "
            f"known without it: {', '.join(KNOWN)}"
        ) from error


def _tiny_rows(tiny: TinyConfig) -> int:
    return -(-(tiny.vocabulary + len(SPECIAL_TOKENS)) // 32) * 32


def plan_stage(config: SftConfig, stage: Stage, model: Any) -> StagePlan:
    """One stage, whether or not it fits."""
    hardware = config.hardware
    total = sum(p.numel() for p in model.parameters())
    rows = _rows(stage)
    per_step = stage.batch * stage.accumulation * hardware.gpus
    steps = stage.steps
    if steps is None and rows is not None and stage.epochs is not None:
        passes = math.ceil(math.ceil(rows / stage.batch) / hardware.gpus)  # of an epoch, as the trainer counts
        steps = math.ceil(stage.epochs * math.ceil(passes / stage.accumulation))
    trainable = trainable_parameters(model, stage)
    return StagePlan(
        stage.name,
        total,
        trainable,
        per_step * stage.max_length,
        rows,
        steps,
        _memory(config, stage, model, total, trainable),
    )


def trainable_parameters(model: Any, stage: Stage) -> int:
    """T, counted as `choose_trainable` does."""
    base, text = model.base_model, model.config.get_text_config()
    if stage.trains == "all":
        return _size(model)
    if stage.trains == "without_vision":
        return _size(model) - _size(base.visual)
    tags = 2 * len(TAGS) * text.hidden_size * (1 if text.tie_word_embeddings else 2)
    layers = base.language_model.layers
    if stage.trains == "language_model":
        return _size(layers) + _size(base.language_model.norm) + tags
    linears = [module for module in layers.modules() if isinstance(module, torch.nn.Linear)]
    return tags + stage.lora.rank * sum(module.in_features + module.out_features for module in linears)


def _size(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _rows(stage: Stage) -> int | None:
    """Rows of the stage's data, where a file can be counted or a limit is given."""
    counts = [_count(source) for source in stage.data]
    if not counts or any(count is None for count in counts):
        return None
    return sum(count for count in counts if count is not None)


def _count(source: Source) -> int | None:
    path = source.place
    lines = None
    if source.loader == "jsonl" and path.is_file():
        with path.open("rb") as file:
            lines = sum(1 for line in file if line.strip())
    known = [n for n in (lines, source.limit) if n is not None]
    return min(known) if known else None


def _memory(config: SftConfig, stage: Stage, model: Any, total: int, trainable: int) -> dict[str, float]:
    """Per GPU in GB: master weights in float32 (frozen ones of LoRA in bfloat16), AdamW, activations, logits."""
    hardware = config.hardware
    sharded = hardware.engine in ("fsdp2", "zero3")
    shards = hardware.gpus if sharded else 1
    frozen_bytes = 2 if stage.trains == "lora" and config.bf16 else 4
    compute_bytes = 2 if config.bf16 else 4
    text = model.config.get_text_config()
    slots = stage.batch * stage.max_length
    per_slot = compute_bytes * (16 * text.hidden_size + 3 * text.intermediate_size)
    layer = _size(model.base_model.language_model.layers[0])
    outside = total - layer * text.num_hidden_layers  # embedding, head, vision: gathered for the whole pass
    gathered = (2 * layer + outside) * compute_bytes if sharded else trainable * compute_bytes * (compute_bytes == 2)
    kept = text.num_hidden_layers * slots * compute_bytes * text.hidden_size
    activations = kept + slots * per_slot if stage.gradient_checkpointing else text.num_hidden_layers * slots * per_slot
    whole = hardware.engine == "fsdp2" and stage.accumulation > 1  # gradients are not sharded until the last pass
    gradients = trainable * 4 / shards + trainable * compute_bytes * whole
    parts = {
        "weights": (trainable * 4 + (total - trainable) * frozen_bytes) / shards,
        "weights in use": gathered,
        "gradients": gradients,
        "optimizer": trainable * 8 / shards,
        "activations": activations,
        "logits": slots * text.vocab_size * (2 * compute_bytes + 8),
        "runtime": RUNTIME_GB * GB,
    }
    return {name: size / GB for name, size in parts.items()}


def check_fits(made: StagePlan, hardware: Hardware) -> None:
    """ConfigError when a plan does not fit the memory, with what to change."""
    if made.total_gb <= HEADROOM * hardware.memory_gb:
        return
    largest = max(made.memory_gb, key=lambda name: made.memory_gb[name])
    advice = {
        "activations": "turn gradient_checkpointing on, or lower batch or max_length",
        "logits": "lower batch or max_length",
        "rollouts": "lower questions or max_new_tokens",
    }.get(largest, "shard over more GPUs (engine: fsdp2 or zero3) or train adapters (trains: lora)")
    raise ConfigError(
        f"stage {made.stage!r} needs about {made.total_gb:.0f} GB per GPU and {hardware.gpus} x "
        f"{hardware.memory_gb:g} GB are planned for; most of it is {largest} "
        f"({made.memory_gb[largest]:.0f} GB): {advice}"
    )


def as_text(config: SftConfig, plans: list[StagePlan]) -> str:
    """The plan as people read it."""
    hardware = config.hardware
    lines = [
        f"{config.base or 'tiny model from nothing'} on {hardware.gpus} x {hardware.memory_gb:g} GB, {hardware.engine}"
    ]
    for made in plans:
        rows = "not counted (made on the fly, or not here)" if made.rows is None else f"{made.rows:,}"
        lines += [
            f"stage {made.stage}",
            f"  parameters        {made.parameters:,}",
            f"  trainable         {made.trainable:,} ({made.trainable / made.parameters:.2%})",
            f"  slots per step    at most {made.slots_per_step:,}",
            f"  rows              {rows}",
            f"  optimizer steps   {'unknown' if made.steps is None else f'{made.steps:,}'}",
            f"  memory per GPU    about {made.total_gb:.1f} GB",
            *[f"    {name:<15} {size:6.1f} GB" for name, size in made.memory_gb.items()],
        ]
    return "\n".join(lines)
